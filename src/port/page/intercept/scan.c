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

#include "code/eax.h"
#include "code/functions.h"

#include <Zydis/Zydis.h>
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

/* Whether a function lies as a whole in what is mapped. */
static int is_mapped(const struct scan *scan, const struct lh_function *function)
{
	return function->offset >= scan->text && function->offset - scan->text < scan->text_size &&
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

static int syscall_at(const struct scan *scan, const struct lh_function *function, uint64_t at)
{
	uint64_t from = function->offset + at - scan->text;

	return from + 2 <= scan->text_size && memcmp(scan->file + scan->text + from, "\x0f\x05", 2) == 0;
}

/* All instructions of a function; their number, or 0 where it cannot be decoded to its end. */
static int decode(struct scan *scan, const struct lh_function *function, int *indirect)
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

/* The window of instructions first..last around the syscall at index; 0 where it will not do. */
static int make_window(const struct scan *scan, const struct lh_function *function, int first, int index,
                       int last, struct candidate *made)
{
	const struct instruction *list = scan->list;
	struct lh_site *site = &made->site;
	int fixes = 0;
	int32_t value = 0;

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
		enum lh_eax effect =
			lh__effect_on_eax(&scan->decoder, scan->file + function->offset + list[i].at,
		                          list[i].length, &value);

		site->nr = effect == LH_EAX_SET ? value : effect == LH_EAX_UNKNOWN ? -1 : site->nr;
	}
	if (site->nr >= LH_INTERCEPT_NUMBERS)
		site->nr = -1;
	return site->size >= 5 && site->size <= 30 && site->nr != SYS_rt_sigreturn;
}

/* Instructions that all lie before the syscall, as few as give five bytes. */
static int window_before(const struct scan *scan, const struct lh_function *function, int index,
                         struct candidate *made)
{
	for (int first = index - 1; first >= 0 && first >= index - INSIDES; first--)
		if (scan->list[index].at - scan->list[first].at >= 5)
			return make_window(scan, function, first, index, index - 1, made);
	return 0;
}

/* The syscall and what follows, with those before it that tell its number or are needed for five bytes. */
static int window_around(const struct scan *scan, const struct lh_function *function, int index, int count,
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

static void one_syscall(struct scan *scan, const struct lh_function *function, int index, int count,
                        int closed)
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

static void one_function(struct scan *scan, const struct lh_function *function)
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

/* Each function that has the bytes of a syscall, or ends where they are, once. */
static long functions(struct scan *scan)
{
	const uint8_t *at = scan->file + scan->text, *end = at + scan->text_size;
	struct lh_frames frames;
	uint64_t last = ~0ull;
	long result = lh__frames_open(scan->file, scan->size, &frames);

	for (; result == 0 && end - at >= 2 && (at = memchr(at, 0x0f, (size_t)(end - at - 1))) != NULL;
	     at++) {
		struct lh_function function;

		if (at[1] != 0x05)
			continue;
		result = lh__function_before(&frames, (uint64_t)(at - scan->file), &function);
		if (result == 0 && function.offset != last && is_mapped(scan, &function)) {
			last = function.offset;
			one_function(scan, &function);
		}
		if (result == -ENOENT)
			result = 0;
	}
	return result;
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
