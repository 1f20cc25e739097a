/*
 * scan.c - which `syscall` instructions of an ELF file can be replaced by a jump, and how.
 *
 * Data in code must never be taken for an instruction, so decoding starts only where .eh_frame says that a
 * function starts, and only in functions that contain the bytes 0f 05. A jump takes five bytes:
 *
 *     b8 27 00 00 00   mov $39, %eax     e9 .. .. .. ..   jmp trampoline
 *     0f 05            syscall           0f 05            syscall
 *
 * This is by far the commonest case and the best: one instruction of five bytes or more before the syscall
 * moves to the trampoline. The syscall itself stays, so whoever jumps straight to it is caught by the net,
 * and the address behind it, where threads wait and signals point, stays valid.
 *
 * Otherwise several instructions before it move, or the syscall itself and what follows it:
 *
 *     31 c0 0f 05 48 3d 00 f0 ff ff     xor %eax, %eax; syscall; cmp $-4096, %rax
 *
 * Then the window has instruction starts inside it. Such a site is taken only if no direct jump of the whole
 * text, at whatever byte one starts to read, leads to them, if its function has no indirect jump (a switch)
 * and no table of landing pads.
 */
#include "port/page/intercept/internal.h"

#include <Zydis/Zydis.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { MOVABLE = 1, RELATIVE = 2, SYSCALL = 4, INDIRECT = 8 };
#define INSTRUCTIONS 32768
#define SITES 16384
#define INSIDES 4

struct instruction {
	uint32_t at; /* from the function's start */
	uint8_t length, flags, displacement, pad;
};

struct candidate {
	struct lh_site site;
	uint64_t inside[INSIDES]; /* file offsets that nobody may jump to */
	int inside_count, dropped;
};

struct scan {
	const uint8_t *file;
	size_t size;
	uint64_t text, text_size; /* file offsets that are mapped and executable */
	ZydisDecoder decoder;
	long seen;
	int count;
	struct instruction list[INSTRUCTIONS];
	struct candidate found[SITES];
};

struct function {
	uint64_t offset, size;
	int has_pads, is_signal_frame;
};

/* A reader of .eh_frame that cannot leave the file. */
struct reader {
	const uint8_t *at, *end;
	int bad;
};

static uint64_t take(struct reader *reader, int size)
{
	uint64_t value = 0;

	if (reader->end - reader->at < size) {
		reader->bad = 1;
		return 0;
	}
	memcpy(&value, reader->at, (size_t)size);
	reader->at += size;
	return value;
}

static uint64_t uleb(struct reader *reader)
{
	uint64_t value = 0, byte;
	int shift = 0;

	do {
		byte = take(reader, 1);
		if (shift < 64)
			value |= (byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80 && !reader->bad);
	return value;
}

static int pointer_size(unsigned encoding)
{
	switch (encoding & 0x0f) {
	case 0x02:
	case 0x0a: return 2;
	case 0x03:
	case 0x0b: return 4;
	default: return 8;
	}
}

/*
 * What of a CIE is needed: the encoding of addresses, whether landing pads are given, whether a signal frame.
 */
struct common {
	unsigned address, pads;
	int is_signal_frame;
};

static int read_common(struct reader reader, struct common *common)
{
	const char *letters;
	unsigned version;

	*common = (struct common){ .address = 0, .pads = 0xff };
	take(&reader, 8); /* length and 0 */
	version = (unsigned)take(&reader, 1);
	letters = (const char *)reader.at;
	while (take(&reader, 1) && !reader.bad)
		;
	uleb(&reader);
	uleb(&reader);
	if (version == 1)
		take(&reader, 1);
	else
		uleb(&reader);
	if (reader.bad || *letters != 'z')
		return !reader.bad && *letters == '\0';
	uleb(&reader);
	for (letters++; *letters && !reader.bad; letters++) {
		if (*letters == 'R')
			common->address = (unsigned)take(&reader, 1);
		else if (*letters == 'L')
			common->pads = (unsigned)take(&reader, 1);
		else if (*letters == 'P')
			take(&reader, pointer_size((unsigned)take(&reader, 1)));
		else if (*letters == 'S')
			common->is_signal_frame = 1;
	}
	return !reader.bad;
}

static const Elf64_Phdr *headers(const struct scan *scan, int *count)
{
	const Elf64_Ehdr *elf = (const Elf64_Ehdr *)scan->file;

	if (scan->size < sizeof *elf || memcmp(elf->e_ident, ELFMAG "\2", 5) != 0 ||
	    elf->e_machine != EM_X86_64 || elf->e_phentsize != sizeof(Elf64_Phdr) || elf->e_phoff % 8 ||
	    elf->e_phoff > scan->size || (scan->size - elf->e_phoff) / sizeof(Elf64_Phdr) < elf->e_phnum)
		return NULL;
	*count = elf->e_phnum;
	return (const Elf64_Phdr *)(scan->file + elf->e_phoff);
}

/* File offset of a linked address, or all ones. */
static uint64_t offset_of(const struct scan *scan, uint64_t address)
{
	int count = 0;
	const Elf64_Phdr *header = headers(scan, &count);

	for (int i = 0; i < count; i++)
		if (header[i].p_type == PT_LOAD && address - header[i].p_vaddr < header[i].p_filesz)
			return address - header[i].p_vaddr + header[i].p_offset;
	return ~0ull;
}

/* The function that the FDE at this linked address describes. */
static int read_function(const struct scan *scan, uint64_t fde, uint64_t start, struct function *function)
{
	uint64_t offset = offset_of(scan, fde), back;
	struct reader reader = { scan->file + offset, scan->file + scan->size, 0 }, cie;
	struct common common;
	uint64_t length;

	if (offset >= scan->size)
		return 0;
	length = take(&reader, 4);
	back = take(&reader, 4);
	if (reader.bad || length == 0xffffffff || back > offset + 4)
		return 0;
	cie = (struct reader){ scan->file + offset + 4 - back, scan->file + scan->size, 0 };
	if (!read_common(cie, &common))
		return 0;
	take(&reader, pointer_size(common.address));
	function->size = take(&reader, pointer_size(common.address));
	function->offset = offset_of(scan, start);
	function->is_signal_frame = common.is_signal_frame;
	function->has_pads = 0;
	if (common.pads != 0xff) {
		uleb(&reader);
		function->has_pads = take(&reader, pointer_size(common.pads)) != 0;
	}
	return !reader.bad && function->offset >= scan->text &&
	       function->offset - scan->text < scan->text_size &&
	       function->size <= scan->text_size - (function->offset - scan->text);
}

static int is_stop(const ZydisDecodedInstruction *decoded)
{
	switch (decoded->meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_CET: return 1;
	default:
		return decoded->mnemonic == ZYDIS_MNEMONIC_XBEGIN ||
		       decoded->mnemonic == ZYDIS_MNEMONIC_INT3 ||
		       decoded->mnemonic == ZYDIS_MNEMONIC_ENDBR64 || decoded->mnemonic == ZYDIS_MNEMONIC_UD2;
	}
}

static uint8_t classify(const ZydisDecodedInstruction *decoded, uint8_t *displacement)
{
	int relative = (decoded->attributes & ZYDIS_ATTRIB_IS_RELATIVE) != 0;

	*displacement = 0;
	if (decoded->mnemonic == ZYDIS_MNEMONIC_SYSCALL)
		return SYSCALL;
	if (decoded->mnemonic == ZYDIS_MNEMONIC_JMP && !relative)
		return INDIRECT;
	if (decoded->meta.category == ZYDIS_CATEGORY_UNCOND_BR &&
	    decoded->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		return INDIRECT;
	if (is_stop(decoded))
		return 0;
	if (!relative)
		return MOVABLE;
	if (decoded->raw.modrm.mod != 0 || decoded->raw.modrm.rm != 5 || decoded->raw.disp.size != 32)
		return 0;
	*displacement = decoded->raw.disp.offset;
	return MOVABLE | RELATIVE;
}

static int syscall_at(const struct scan *scan, const struct function *function, uint64_t at)
{
	uint64_t from = function->offset + at - scan->text;

	return from + 2 <= scan->text_size && memcmp(scan->file + scan->text + from, "\x0f\x05", 2) == 0;
}

/* All instructions of a function; their number, or 0 where it cannot be decoded to its end. */
static int decode(struct scan *scan, const struct function *function, int *indirect)
{
	ZydisDecodedInstruction decoded;
	uint64_t at = 0;
	int count = 0;

	*indirect = 0;
	while (at < function->size) {
		struct instruction *next = &scan->list[count];

		if (count == INSTRUCTIONS ||
		    !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&scan->decoder, NULL,
		                                                scan->file + function->offset + at,
		                                                function->size - at, &decoded)))
			return 0;
		next->at = (uint32_t)at;
		next->length = decoded.length;
		next->flags = classify(&decoded, &next->displacement);
		if (decoded.mnemonic == ZYDIS_MNEMONIC_JMP &&
		    !(decoded.attributes & ZYDIS_ATTRIB_IS_RELATIVE))
			*indirect = 1;
		at += decoded.length;
		count++;
	}
	/* glibc ends the description of clone just before its syscall, which is reached all the same. */
	if (count && count < INSTRUCTIONS && scan->list[count - 1].flags & MOVABLE &&
	    syscall_at(scan, function, at))
		scan->list[count++] =
			(struct instruction){ .at = (uint32_t)at, .length = 2, .flags = SYSCALL };
	return count;
}

/* 0: leaves eax alone; 1: sets it to *value; 2: to something unknown. */
static int effect_on_eax(const struct scan *scan, const uint8_t *code, size_t length, int32_t *value)
{
	ZydisDecodedInstruction decoded;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];

	if (length == 5 && code[0] == 0xb8) {
		memcpy(value, code + 1, 4);
		return 1;
	}
	if (length == 7 && code[0] == 0x48 && code[1] == 0xc7 && code[2] == 0xc0) {
		memcpy(value, code + 3, 4);
		return 1;
	}
	if (length == 2 && (code[0] == 0x31 || code[0] == 0x33) && code[1] == 0xc0) {
		*value = 0;
		return 1;
	}
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&scan->decoder, code, length, &decoded, operand)))
		return 2;
	for (int i = 0; i < decoded.operand_count; i++)
		if (operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    operand[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operand[i].reg.value) ==
		            ZYDIS_REGISTER_RAX)
			return 2;
	return 0;
}

/* The window of instructions first..last around the syscall at index; 0 where it will not do. */
static int make_window(const struct scan *scan, const struct function *function, int first, int index,
                       int last, struct candidate *made)
{
	const struct instruction *list = scan->list;
	struct lh_site *site = &made->site;
	int fixes = 0;
	int32_t value;

	memset(made, 0, sizeof *made);
	memset(site->fix, 0xff, sizeof site->fix);
	site->offset = function->offset + list[first].at;
	site->nr = -1;
	site->size = (uint8_t)(list[last].at + list[last].length - list[first].at);
	site->before = (uint8_t)(list[index].at - list[first].at);
	site->moved = last >= index;
	site->after = (uint8_t)(last > index ? site->size - site->before - 2 : 0);
	for (int i = first; i <= last; i++) {
		uint8_t in_window = (uint8_t)(list[i].at - list[first].at);

		if (i != first) {
			if (made->inside_count == INSIDES)
				return 0;
			made->inside[made->inside_count++] = function->offset + list[i].at;
		}
		if (i == index)
			continue;
		if (!(list[i].flags & MOVABLE))
			return 0;
		if (list[i].flags & RELATIVE) {
			if (fixes == 4)
				return 0;
			site->fix[fixes++] = (uint8_t)(in_window + list[i].displacement);
		}
	}
	for (int i = first; i < index; i++) {
		int effect = effect_on_eax(scan, scan->file + function->offset + list[i].at, list[i].length,
		                           &value);

		site->nr = effect == 1 ? value : effect == 2 ? -1 : site->nr;
	}
	if (site->nr >= LH_INTERCEPT_NUMBERS)
		site->nr = -1;
	return site->size >= 5 && site->size <= 30 && site->nr != SYS_rt_sigreturn;
}

/* Instructions that all lie before the syscall, as few as give five bytes. */
static int window_before(const struct scan *scan, const struct function *function, int index,
                         struct candidate *made)
{
	for (int first = index - 1; first >= 0 && first >= index - INSIDES; first--)
		if (scan->list[index].at - scan->list[first].at >= 5)
			return make_window(scan, function, first, index, index - 1, made);
	return 0;
}

/* The syscall and what follows, with those before it that tell its number or are needed for five bytes. */
static int window_around(const struct scan *scan, const struct function *function, int index, int count,
                         struct candidate *made)
{
	for (int before = 1; before >= 0; before--)
		for (int last = index + 1; last < count && last <= index + 2; last++) {
			int first = index - before;

			if (first < 0 ||
			    scan->list[last].at + scan->list[last].length - scan->list[first].at < 5)
				continue;
			if (make_window(scan, function, first, index, last, made))
				return 1;
			break;
		}
	return 0;
}

/* Functions are visited in the order of their addresses, so only the last window can be in the way. */
static int overlaps(const struct scan *scan, const struct lh_site *site)
{
	const struct lh_site *last;

	if (scan->count == 0)
		return 0;
	last = &scan->found[scan->count - 1].site;
	return site->offset < last->offset + last->size;
}

static void one_syscall(struct scan *scan, const struct function *function, int index, int count, int closed)
{
	struct candidate made;
	int fits;

	scan->seen++;
	if (scan->count == SITES || function->is_signal_frame)
		return;
	fits = window_before(scan, function, index, &made);
	if ((!fits || made.inside_count) && closed && window_around(scan, function, index, count, &made))
		fits = 1;
	if (fits && (made.inside_count == 0 || closed) && !overlaps(scan, &made.site))
		scan->found[scan->count++] = made;
}

static void one_function(struct scan *scan, const struct function *function)
{
	int count, indirect, closed;

	count = decode(scan, function, &indirect);
	closed = !indirect && !function->has_pads;
	for (int i = 0; i < count; i++)
		if (scan->list[i].flags & SYSCALL)
			one_syscall(scan, function, i, count, closed);
}

static void drop_target(struct scan *scan, uint64_t target)
{
	for (int i = 0; i < scan->count; i++)
		for (int k = 0; k < scan->found[i].inside_count; k++)
			scan->found[i].dropped |= scan->found[i].inside[k] == target;
}

static int is_short_jump(uint8_t code)
{
	return (code & 0xf0) == 0x70 || code == 0xeb || (code & 0xfc) == 0xe0;
}

/* Short jumps reach 128 bytes: only what lies around each place need be looked at. */
static void drop_short_jumps(struct scan *scan, uint64_t target)
{
	uint64_t first = target - scan->text > 130 ? target - 130 : scan->text;
	uint64_t last = scan->text + scan->text_size - 2;

	for (uint64_t i = first; i < target + 130 && i <= last; i++)
		if (is_short_jump(scan->file[i]) &&
		    i + 2 + (uint64_t)(int64_t)(int8_t)scan->file[i + 1] == target)
			drop_target(scan, target);
}

/* Whether anything that could be read as a near jump or call leads inside a window. */
static void drop_near_jumps(struct scan *scan, const uint8_t *inside)
{
	const uint8_t *code = scan->file + scan->text;

	for (uint64_t i = 0; i + 6 <= scan->text_size; i++) {
		uint64_t to;
		int32_t distance;

		if ((code[i] & 0xfe) == 0xe8)
			to = i + 1;
		else if (code[i] == 0x0f && (code[i + 1] & 0xf0) == 0x80)
			to = i + 2;
		else
			continue;
		memcpy(&distance, code + to, 4);
		to += 4 + (uint64_t)(int64_t)distance;
		if (to < scan->text_size && inside[to / 8] >> to % 8 & 1)
			drop_target(scan, scan->text + to);
	}
}

static void check_insides(struct scan *scan)
{
	uint64_t size = scan->text_size / 8 + 1;
	long mapped = LH_THREAD_CALL(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE,
	                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *inside = (uint8_t *)mapped;
	int places = 0;

	for (int i = 0; i < scan->count; i++) {
		struct candidate *candidate = &scan->found[i];

		candidate->dropped |= mapped < 0 && candidate->inside_count;
		for (int k = 0; k < candidate->inside_count && mapped >= 0; k++) {
			uint64_t at = candidate->inside[k] - scan->text;

			inside[at / 8] |= (uint8_t)(1 << at % 8);
			drop_short_jumps(scan, candidate->inside[k]);
			places++;
		}
	}
	if (mapped < 0)
		return;
	if (places)
		drop_near_jumps(scan, inside);
	LH_THREAD_CALL(SYS_munmap, inside, size);
}

/* The table of functions in .eh_frame_hdr: pairs of start and FDE, relative to base, in order of start. */
struct table {
	const uint8_t *entries;
	uint64_t base, count;
};

static int find_table(const struct scan *scan, struct table *table)
{
	int count = 0;
	const Elf64_Phdr *header = headers(scan, &count);
	uint64_t offset = ~0ull;
	uint32_t entries;

	for (int i = 0; i < count; i++)
		if (header[i].p_type == PT_GNU_EH_FRAME) {
			table->base = header[i].p_vaddr;
			offset = header[i].p_offset;
		}
	if (offset >= scan->size || scan->size - offset < 12 ||
	    memcmp(scan->file + offset, "\1\x1b\x03\x3b", 4) != 0)
		return 0;
	memcpy(&entries, scan->file + offset + 8, 4);
	table->entries = scan->file + offset + 12;
	table->count = entries;
	return table->count <= (scan->size - offset - 12) / 8;
}

/* Word 0 of an entry is the start, 1 the FDE. */
static uint64_t entry(const struct table *table, uint64_t index, int word)
{
	int32_t relative;

	memcpy(&relative, table->entries + index * 8 + (uint64_t)word * 4, 4);
	return table->base + (uint64_t)(int64_t)relative;
}

/* The index of the last function that starts at or before address; count where there is none. */
static uint64_t function_before(const struct table *table, uint64_t address)
{
	uint64_t low = 0, high = table->count;

	while (low < high) {
		uint64_t middle = (low + high) / 2;

		if (entry(table, middle, 0) <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? low - 1 : table->count;
}

/* The linked address of a file offset in executable memory, or all ones. */
static uint64_t address_of(const struct scan *scan, uint64_t offset)
{
	int count = 0;
	const Elf64_Phdr *header = headers(scan, &count);

	for (int i = 0; i < count; i++)
		if (header[i].p_type == PT_LOAD && header[i].p_flags & PF_X &&
		    offset - header[i].p_offset < header[i].p_filesz)
			return offset - header[i].p_offset + header[i].p_vaddr;
	return ~0ull;
}

/* Each function that has the bytes of a syscall, or ends where they are, once. */
static long functions(struct scan *scan)
{
	const uint8_t *at = scan->file + scan->text, *end = at + scan->text_size;
	struct table table = { 0 };
	uint64_t last = ~0ull;

	if (!find_table(scan, &table))
		return -ENOENT;
	for (; end - at >= 2 && (at = memchr(at, 0x0f, (size_t)(end - at - 1))) != NULL; at++) {
		uint64_t index;
		struct function function;

		if (at[1] != 0x05)
			continue;
		index = function_before(&table, address_of(scan, (uint64_t)(at - scan->file)));
		if (index == table.count || index == last)
			continue;
		last = index;
		if (read_function(scan, entry(&table, index, 1), entry(&table, index, 0), &function))
			one_function(scan, &function);
	}
	return 0;
}

long lh__scan(const uint8_t *file, size_t size, uint64_t text_offset, uint64_t text_size,
              void (*found)(void *context, const struct lh_site *site), void *context)
{
	long mapped = LH_THREAD_CALL(SYS_mmap, NULL, sizeof(struct scan), PROT_READ | PROT_WRITE,
	                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct scan *scan = (struct scan *)mapped;
	long result;

	if (mapped < 0)
		return mapped;
	scan->file = file;
	scan->size = size;
	scan->text = text_offset;
	scan->text_size = text_offset >= size              ? 0
	                  : text_size < size - text_offset ? text_size
	                                                   : size - text_offset;
	ZydisDecoderInit(&scan->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	result = functions(scan);
	if (result == 0 && scan->count)
		check_insides(scan);
	for (int i = 0; i < scan->count; i++)
		if (!scan->found[i].dropped)
			found(context, &scan->found[i].site);
	if (result == 0)
		result = scan->seen;
	LH_THREAD_CALL(SYS_munmap, scan, sizeof *scan);
	return result;
}
