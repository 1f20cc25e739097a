/*
 * functions.c - reads .eh_frame: common parts (CIE) and, for each function, a description (FDE) that points
 * back to one.
 *
 *     length, 0, version, "zPLR", code and data alignment, return register, data of the letters     a CIE
 *     length, distance back to the CIE, start, size, data of the CIE's letters, instructions        an FDE
 *
 * How addresses are written is told by the CIE's letter R. Only what says where functions are is read. All
 * values come through struct reader, which cannot leave its range.
 */
#include "code/functions.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

/* From <dwarf.h>, which is no part of a core: how pointers are written. */
enum {
	POINTER_FORMAT = 0x0f,
	POINTER_ULEB = 0x01,
	POINTER_SLEB = 0x09,
	POINTER_APPLICATION = 0x70,
	POINTER_RELATIVE = 0x10,
	POINTER_INDIRECT = 0x80,
	POINTER_OMITTED = 0xff
};
#define TABLE_ENCODING 0x3b /* four signed bytes, relative to the table's own section */
#define NOWHERE UINT64_MAX
#define LETTERS 16 /* that a CIE has at most; those in use have up to five */

struct reader {
	const uint8_t *at, *end;
	bool bad;
};

static struct reader read_from(const struct lh_frames *frames, uint64_t at, uint64_t end)
{
	if (at > end || end > frames->size)
		return (struct reader){ frames->file, frames->file, true };
	return (struct reader){ frames->file + at, frames->file + end, false };
}

static uint64_t take(struct reader *reader, unsigned size)
{
	uint64_t value = 0;

	if ((size_t)(reader->end - reader->at) < size) {
		reader->bad = true;
		return 0;
	}
	memcpy(&value, reader->at, size);
	reader->at += size;
	return value;
}

static uint64_t take_uleb(struct reader *reader)
{
	uint64_t value = 0, byte;
	unsigned shift = 0;

	do {
		byte = take(reader, 1);
		if (shift < 64)
			value |= (byte & 0x7f) << shift;
		shift += 7;
		reader->bad |= shift > 70; /* 64 bits need no more; a file of nothing else would cost time */
	} while (byte & 0x80 && !reader->bad);
	return value;
}

/* A value in the format of an encoding, with its sign; whatever it is relative to is not added. */
static uint64_t take_value(struct reader *reader, unsigned encoding)
{
	switch (encoding & POINTER_FORMAT) {
	case 0x00:
	case 0x04:
	case 0x0c: return take(reader, 8);
	case 0x02: return take(reader, 2);
	case 0x03: return take(reader, 4);
	case 0x0a: return (uint64_t)(int64_t)(int16_t)take(reader, 2);
	case 0x0b: return (uint64_t)(int64_t)(int32_t)take(reader, 4);
	case POINTER_ULEB:
	case POINTER_SLEB: return take_uleb(reader);
	default: reader->bad = true; return 0;
	}
}

/* An address that stands at this address. */
static uint64_t take_address(struct reader *reader, unsigned encoding, uint64_t address)
{
	uint64_t value = take_value(reader, encoding);
	unsigned application = encoding & POINTER_APPLICATION;

	if (encoding & POINTER_INDIRECT || (encoding & POINTER_FORMAT) == POINTER_ULEB ||
	    (encoding & POINTER_FORMAT) == POINTER_SLEB ||
	    (application != 0 && application != POINTER_RELATIVE))
		reader->bad = true;
	return application == POINTER_RELATIVE ? address + value : value;
}

/* ---- the file ---- */

static Elf64_Phdr header(const struct lh_frames *frames, unsigned index)
{
	Elf64_Phdr header;

	memcpy(&header, frames->file + frames->headers + index * sizeof header, sizeof header);
	return header;
}

/* The segment of an address whose content is in the file; false: none. */
static bool find_segment(const struct lh_frames *frames, uint64_t address, Elf64_Phdr *found)
{
	for (unsigned i = 0; i < frames->header_count; i++) {
		*found = header(frames, i);
		if (found->p_type == PT_LOAD && address - found->p_vaddr < found->p_filesz &&
		    found->p_offset <= frames->size && found->p_filesz <= frames->size - found->p_offset)
			return true;
	}
	return false;
}

static uint64_t offset_of(const struct lh_frames *frames, uint64_t address)
{
	Elf64_Phdr segment;

	return find_segment(frames, address, &segment) ? address - segment.p_vaddr + segment.p_offset
	                                               : NOWHERE;
}

/* The address of what lies at an offset in executable memory. */
static uint64_t address_of(const struct lh_frames *frames, uint64_t offset)
{
	for (unsigned i = 0; i < frames->header_count; i++) {
		Elf64_Phdr segment = header(frames, i);

		if (segment.p_type == PT_LOAD && segment.p_flags & PF_X &&
		    offset - segment.p_offset < segment.p_filesz)
			return offset - segment.p_offset + segment.p_vaddr;
	}
	return NOWHERE;
}

static bool read_section(const struct lh_frames *frames, const Elf64_Ehdr *elf, unsigned index,
                         Elf64_Shdr *section)
{
	struct reader reader = read_from(frames, elf->e_shoff, frames->size);

	if (reader.bad || elf->e_shentsize != sizeof *section ||
	    (size_t)(reader.end - reader.at) / sizeof *section <= index)
		return false;
	memcpy(section, reader.at + index * sizeof *section, sizeof *section);
	return section->sh_type == SHT_NOBITS ||
	       (section->sh_offset <= frames->size && section->sh_size <= frames->size - section->sh_offset);
}

/* .eh_frame by its section header. */
static void find_by_sections(struct lh_frames *frames, const Elf64_Ehdr *elf)
{
	static const char name[] = ".eh_frame";
	Elf64_Shdr names, section;

	if (!elf->e_shoff || !read_section(frames, elf, elf->e_shstrndx, &names) ||
	    names.sh_type == SHT_NOBITS)
		return;
	for (unsigned i = 0; i < elf->e_shnum; i++)
		if (read_section(frames, elf, i, &section) && section.sh_type != SHT_NOBITS &&
		    section.sh_flags & SHF_ALLOC && section.sh_name <= names.sh_size &&
		    names.sh_size - section.sh_name >= sizeof name &&
		    memcmp(frames->file + names.sh_offset + section.sh_name, name, sizeof name) == 0) {
			frames->at = section.sh_offset;
			frames->end = section.sh_offset + section.sh_size;
			frames->address = section.sh_addr;
			frames->is_bounded = true;
			return;
		}
}

/*
 * .eh_frame_hdr: version, three encodings, where .eh_frame is, the number of entries, and these, ascending.
 */
static void find_by_segment(struct lh_frames *frames, const Elf64_Phdr *segment)
{
	struct reader reader = read_from(frames, segment->p_offset, frames->size);
	unsigned version = (unsigned)take(&reader, 1), where = (unsigned)take(&reader, 1);
	unsigned count = (unsigned)take(&reader, 1), table = (unsigned)take(&reader, 1);
	uint64_t address = take_address(&reader, where, segment->p_vaddr + 4), entries;
	Elf64_Phdr load;

	if (version != 1 || reader.bad)
		return;
	if (!frames->is_bounded && find_segment(frames, address, &load)) {
		frames->at = address - load.p_vaddr + load.p_offset;
		frames->end = load.p_offset + load.p_filesz;
		frames->address = address;
	}
	if (count == POINTER_OMITTED || table != TABLE_ENCODING)
		return;
	entries = take_value(&reader, count);
	if (reader.bad || entries > (size_t)(reader.end - reader.at) / 8)
		return;
	frames->table = (uint64_t)(reader.at - frames->file);
	frames->table_count = entries;
	frames->table_base = segment->p_vaddr;
}

int lh__frames_open(const uint8_t *file, size_t size, struct lh_frames *frames)
{
	Elf64_Ehdr elf;

	*frames = (struct lh_frames){ .file = file, .size = size };
	if (size < sizeof elf)
		return -ENOEXEC;
	memcpy(&elf, file, sizeof elf);
	if (memcmp(elf.e_ident, ELFMAG "\2\1", 6) != 0 || elf.e_machine != EM_X86_64 ||
	    (elf.e_type != ET_EXEC && elf.e_type != ET_DYN) || elf.e_phentsize != sizeof(Elf64_Phdr) ||
	    elf.e_phoff > size || (size - elf.e_phoff) / sizeof(Elf64_Phdr) < elf.e_phnum)
		return -ENOEXEC;
	frames->headers = elf.e_phoff;
	frames->header_count = elf.e_phnum;
	find_by_sections(frames, &elf);
	for (unsigned i = 0; i < frames->header_count; i++) {
		Elf64_Phdr segment = header(frames, i);

		if (segment.p_type == PT_GNU_EH_FRAME) {
			find_by_segment(frames, &segment);
			break;
		}
	}
	return 0;
}

/* ---- common parts and descriptions ---- */

/* What of a CIE is needed: how addresses are written, whether landing pads are given, if a signal frame. */
struct common {
	unsigned address, pads;
	bool is_signal_frame;
};

static bool read_common(struct reader reader, struct common *common)
{
	const char *letters;
	unsigned version;

	*common = (struct common){ .address = 0, .pads = POINTER_OMITTED };
	take(&reader, 4); /* length */
	if (take(&reader, 4) != 0)
		return false;
	version = (unsigned)take(&reader, 1);
	letters = (const char *)reader.at;
	while (take(&reader, 1) && !reader.bad)
		reader.bad = (const char *)reader.at - letters > LETTERS;
	if (version >= 4)
		take(&reader, 2);
	take_uleb(&reader);
	take_uleb(&reader);
	if (version == 1)
		take(&reader, 1);
	else
		take_uleb(&reader);
	if (reader.bad || *letters != 'z')
		return !reader.bad && *letters == '\0';
	take_uleb(&reader);
	for (letters++; *letters && !reader.bad; letters++) {
		if (*letters == 'R')
			common->address = (unsigned)take(&reader, 1);
		else if (*letters == 'L')
			common->pads = (unsigned)take(&reader, 1);
		else if (*letters == 'P')
			take_value(&reader, (unsigned)take(&reader, 1));
		else if (*letters == 'S')
			common->is_signal_frame = true;
	}
	return !reader.bad;
}

/* The function that the FDE at an offset describes; false: that is none, or it is of no use. */
static bool read_function(const struct lh_frames *frames, uint64_t at, uint64_t address,
                          struct lh_function *function)
{
	struct reader reader = read_from(frames, at, frames->size);
	uint64_t length = take(&reader, 4), back = take(&reader, 4);
	struct common common;
	Elf64_Phdr segment;

	if (reader.bad || length < 4 || length == UINT32_MAX || back == 0 || back > at + 4 ||
	    length - 4 > (size_t)(reader.end - reader.at))
		return false;
	reader.end = reader.at + length - 4;
	if (!read_common(read_from(frames, at + 4 - back, frames->size), &common))
		return false;
	function->address = take_address(&reader, common.address, address + 8);
	function->size = take_value(&reader, common.address);
	function->is_signal_frame = common.is_signal_frame;
	function->has_pads = false;
	if (common.pads != POINTER_OMITTED) {
		take_uleb(&reader);
		function->has_pads = take_value(&reader, common.pads) != 0;
	}
	if (reader.bad || function->size == 0 || !find_segment(frames, function->address, &segment) ||
	    !(segment.p_flags & PF_X) ||
	    function->size > segment.p_filesz - (function->address - segment.p_vaddr))
		return false;
	function->offset = function->address - segment.p_vaddr + segment.p_offset;
	return true;
}

/* Word 0 of an entry of the table is the function's start, 1 its description. */
static uint64_t entry(const struct lh_frames *frames, uint64_t index, unsigned word)
{
	int32_t relative;

	memcpy(&relative, frames->file + frames->table + index * 8 + word * 4, 4);
	return frames->table_base + (uint64_t)(int64_t)relative;
}

int lh__function_before(const struct lh_frames *frames, uint64_t offset, struct lh_function *function)
{
	uint64_t low = 0, high = frames->table_count, address = address_of(frames, offset), at;

	if (frames->table_count == 0)
		return -ENODATA;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (entry(frames, middle, 0) <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0 || address == NOWHERE)
		return -ENOENT;
	at = offset_of(frames, entry(frames, low - 1, 1));
	return at != NOWHERE && read_function(frames, at, entry(frames, low - 1, 1), function) ? 0 : -ENOENT;
}

/*
 * Fills in those functions for which there is room, and returns how many there are. A length of 0 ends
 * .eh_frame, or, of several files put one behind the other, a part of it.
 */
static size_t collect(const struct lh_frames *frames, struct lh_function *list, size_t room)
{
	uint64_t at = frames->at, next;
	size_t count = 0;

	for (; at < frames->end; at = next) {
		struct reader reader = read_from(frames, at, frames->end);
		uint64_t length = take(&reader, 4);
		struct lh_function function;

		if (length == UINT32_MAX)
			length = take(&reader, 8);
		if (reader.bad || length > (size_t)(reader.end - reader.at) ||
		    (length == 0 && !frames->is_bounded))
			break;
		next = (uint64_t)(reader.at - frames->file) + length;
		if (!read_function(frames, at, frames->address + (at - frames->at), &function))
			continue;
		if (count < room)
			list[count] = function;
		count++;
	}
	return count;
}

/* ---- all functions, in order ---- */

/* By address; of two at one address the larger comes first, so that it is the smaller that is left out. */
static bool comes_first(const struct lh_function *a, const struct lh_function *b)
{
	return a->address != b->address ? a->address < b->address : a->size > b->size;
}

static void sift(struct lh_function *list, size_t root, size_t count)
{
	struct lh_function moved = list[root];

	for (size_t child; (child = 2 * root + 1) < count; root = child) {
		if (child + 1 < count && comes_first(&list[child], &list[child + 1]))
			child++;
		if (!comes_first(&moved, &list[child]))
			break;
		list[root] = list[child];
	}
	list[root] = moved;
}

/* A heap sort: in place, without recursion, and never slow, whatever the file says. */
static void sort(struct lh_function *list, size_t count)
{
	for (size_t i = count / 2; i-- > 0;)
		sift(list, i, count);
	for (size_t end = count; end-- > 1;) {
		struct lh_function last = list[0];

		list[0] = list[end];
		list[end] = last;
		sift(list, 0, end);
	}
}

static long tell(struct lh_function *list, size_t count,
                 int (*found)(void *context, const struct lh_function *function), void *context)
{
	uint64_t told = 0; /* the end of what has been told */
	long calls = 0;

	for (size_t i = 0; i < count; i++) {
		struct lh_function *function = &list[i];
		int stop;

		if (calls && function->address < told)
			continue;
		told = function->address + function->size;
		calls++;
		stop = found(context, function);
		if (stop)
			return stop;
	}
	return calls;
}

long lh__functions(const struct lh_sys *sys, const uint8_t *file, size_t size,
                   int (*found)(void *context, const struct lh_function *function), void *context)
{
	struct lh_frames frames;
	struct lh_function *list;
	size_t count;
	long result = lh__frames_open(file, size, &frames);

	if (result < 0)
		return result;
	if (frames.at >= frames.end)
		return -ENODATA;
	count = collect(&frames, NULL, 0);
	if (count == 0)
		return 0;
	list = lh__alloc(sys, count * sizeof *list);
	if (!list)
		return -ENOMEM;
	count = collect(&frames, list, count);
	sort(list, count);
	result = tell(list, count, found, context);
	lh__free(sys, list, count * sizeof *list);
	return result;
}
