/*
 * plan_make.c - finds the instructions of an ELF file and how they hang together.
 *
 * Each function that .eh_frame describes is decoded from its start to its end, or to where decoding fails:
 * from there on it is not known where instructions start, and a guess that is wrong would change what the
 * program computes.
 *
 * endbr64 is armed as any other: where nothing enforces it, an INT3 may stand in its place.
 *
 * Code may be entered in the middle of an instruction. Old C libraries did so to skip a prefix:
 *
 *     74 01       je 1f       with one thread only
 *     f0          lock        1: is the second byte of this instruction
 *     0f b1 ..    cmpxchg
 *
 * An instruction that hides another, and all those that begin inside the hidden one, are starts as any but
 * are never armed. That is seen of jumps in functions; code that no description covers is taken at its word.
 */
#include "service/code/plan_make.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "code/eax.h"
#include "code/functions.h"
#include "service/code/plan_inside.h"

#define PAGE 4096u
#define LONGEST 15u /* bytes of an instruction */
#define BEHIND 256u
#define REACH 512u /* bytes before a `syscall` in which its number is looked for */

struct making_text {
	uint64_t address, size;
	uint64_t *starts, *armed, *ends, *heads; /* of the plan */
	uint8_t *original, *image;               /* likewise */
	uint64_t *targets; /* what direct jumps and calls lead to, be it an instruction or not */
	uint64_t *hidden;  /* where instructions begin that lie inside others */
};

struct making_function {
	uint32_t text, at, size;
	uint32_t decoded; /* bytes from its start; less than size: what follows is no code */
	bool is_signal_frame;
};

struct making {
	const struct lh_sys *sys;
	const uint8_t *file;
	size_t size;
	struct lh_plan_head *head;
	struct lh_plan_site *sites;
	struct making_text text[LH_PLAN_TEXTS];
	struct making_function *function; /* ascending */
	size_t functions, room;
	ZydisDecoder decoder;
};

/* ---- bitmaps ---- */

static bool bit(const uint64_t *bitmap, uint64_t at)
{
	return bitmap[at / 64] >> at % 64 & 1;
}

static void set_bit(uint64_t *bitmap, uint64_t at)
{
	bitmap[at / 64] |= UINT64_C(1) << at % 64;
}

static void clear_bit(uint64_t *bitmap, uint64_t at)
{
	bitmap[at / 64] &= ~(UINT64_C(1) << at % 64);
}

/* The first bit that is set in [from, end); end: none is. */
static uint64_t next_bit(const uint64_t *bitmap, uint64_t from, uint64_t end)
{
	uint64_t word, bits;

	if (from >= end)
		return end;
	word = from / 64;
	bits = bitmap[word] & ~UINT64_C(0) << from % 64;
	while (!bits) {
		if (++word >= (end + 63) / 64)
			return end;
		bits = bitmap[word];
	}
	from = word * 64 + (uint64_t)__builtin_ctzll(bits);
	return from < end ? from : end;
}

/* ---- where the parts lie ---- */

static uint64_t round_up(uint64_t size)
{
	return (size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

/* An executable segment that can be covered by images; false: it is left alone. */
static bool can_be_text(const Elf64_Phdr *segment, uint64_t last_end)
{
	return segment->p_type == PT_LOAD && segment->p_flags & PF_X && !(segment->p_flags & PF_W) &&
	       segment->p_filesz > 0 && segment->p_filesz < (UINT64_C(1) << 31) - 2 * PAGE &&
	       (segment->p_vaddr - segment->p_offset) % PAGE == 0 &&
	       segment->p_vaddr < UINT64_MAX - (UINT64_C(1) << 32) &&
	       segment->p_vaddr / PAGE * PAGE >= last_end;
}

static void place_text(struct lh_plan_text *text, const Elf64_Phdr *segment, uint64_t *at)
{
	uint64_t bitmap;

	text->address = segment->p_vaddr / PAGE * PAGE;
	text->offset = segment->p_offset / PAGE * PAGE;
	text->size = round_up(segment->p_vaddr + segment->p_filesz) - text->address;
	bitmap = text->size / 8;
	text->starts = *at;
	text->armed = text->starts + bitmap;
	text->ends = text->armed + bitmap;
	text->heads = text->ends + bitmap;
	text->original = round_up(text->heads + bitmap);
	text->image = text->original + text->size;
	*at = text->image + text->size;
}

/* How often the bytes of `syscall` stand in a text: so many sites it may have. */
static uint64_t count_syscalls(const uint8_t *file, size_t size, const struct lh_plan_text *text)
{
	const uint8_t *at = file + text->offset, *end = file + size;
	uint64_t count = 0;

	if (text->size < size - text->offset)
		end = at + text->size;
	for (; end - at >= 2 && (at = memchr(at, 0x0f, (size_t)(end - at) - 1)) != NULL; at++)
		count += at[1] == 0x05;
	return count;
}

int lh__plan_lay_out(const uint8_t *file, size_t size, struct lh_plan_head *head, struct lh_error *error)
{
	struct lh_frames frames;
	uint64_t at = PAGE, end = 0, sites = 0;

	if (lh__frames_open(file, size, &frames) < 0)
		return lh__fail(error, -ENOEXEC, "it is no ELF file for x86-64, or it is damaged");
	head->texts = 0;
	for (unsigned i = 0; i < frames.header_count && head->texts < LH_PLAN_TEXTS; i++) {
		struct lh_plan_text *text = &head->text[head->texts];
		Elf64_Phdr segment;

		memcpy(&segment, file + frames.headers + i * sizeof segment, sizeof segment);
		if (!can_be_text(&segment, end))
			continue;
		if (segment.p_offset > size || segment.p_filesz > size - segment.p_offset)
			return lh__fail(error, -ENOEXEC, "it is cut off: its code does not lie in it");
		place_text(text, &segment, &at);
		end = text->address + text->size;
		sites += count_syscalls(file, size, text);
		head->outside += segment.p_filesz;
		head->texts++;
	}
	if (head->texts == 0)
		return lh__fail(error, -ENODATA, "it has no code, or only such as it may write to");
	head->sites_at = at;
	head->size = at + sites * sizeof(struct lh_plan_site);
	return 0;
}

/* ---- decoding ---- */

enum {
	ENDS = 1,   /* a block */
	DIRECT = 2, /* goes on at a place that it names */
	STOPS = 4,  /* and never goes on to the next instruction */
	SYSCALL = 8 /* a site */
};

static unsigned classify(const ZydisDecodedInstruction *decoded)
{
	unsigned direct = decoded->attributes & ZYDIS_ATTRIB_IS_RELATIVE ? DIRECT : 0;

	switch (decoded->meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_COND_BR: return ENDS | direct;
	case ZYDIS_CATEGORY_UNCOND_BR: return ENDS | STOPS | direct;
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SYSRET: return ENDS | STOPS;
	default: break;
	}
	switch (decoded->mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL: return SYSCALL;
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ: return ENDS;
	default: return 0;
	}
}

static bool decode(const struct making *making, const struct making_text *text, uint64_t at, uint64_t end,
                   ZydisDecodedInstruction *decoded)
{
	return at < end &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&making->decoder, NULL, text->original + at,
	                                                  end - at, decoded));
}

/* What a direct jump or call leads to; in whatever text it lies. */
static void note_target(struct making *making, const struct making_text *from, uint64_t at,
                        const ZydisDecodedInstruction *decoded)
{
	uint64_t address = from->address + at + decoded->length + (uint64_t)decoded->raw.imm[0].value.s;

	for (unsigned i = 0; i < making->head->texts; i++)
		if (address - making->text[i].address < making->text[i].size)
			set_bit(making->text[i].targets, address - making->text[i].address);
}

static void note_site(struct making *making, const struct making_function *function, uint64_t at)
{
	making->sites[making->head->sites++] =
		(struct lh_plan_site){ .at = (uint32_t)at, .text = (uint16_t)function->text, .nr = -1 };
}

static void decode_function(struct making *making, struct making_function *function)
{
	struct making_text *text = &making->text[function->text];
	uint64_t at = function->at, end = at + function->size;
	bool is_head = true;
	ZydisDecodedInstruction decoded;

	while (decode(making, text, at, end, &decoded)) {
		unsigned class = classify(&decoded);

		set_bit(text->starts, at);
		making->head->instructions++;
		if (is_head)
			set_bit(text->heads, at);
		is_head = class & ENDS;
		if (class & ENDS)
			set_bit(text->ends, at);
		if (class & DIRECT)
			note_target(making, text, at, &decoded);
		if (class & SYSCALL)
			note_site(making, function, at);
		at += decoded.length;
	}
	function->decoded = (uint32_t)(at - function->at);
	making->head->undecoded += end - at;
	making->head->outside -=
		function->size < making->head->outside ? function->size : making->head->outside;
}

/* ---- what is armed ---- */

static void arm_function(const struct making *making, const struct making_function *function)
{
	const struct making_text *text = &making->text[function->text];
	uint64_t end = function->at + function->decoded;

	if (function->is_signal_frame)
		return;
	for (uint64_t at = function->at; (at = next_bit(text->starts, at, end)) < end; at++)
		if (text->original[at] != 0xcc)
			set_bit(text->armed, at);
}

/* The instruction that an offset lies inside of is not armed. */
static void disarm_around(const struct making *making, const struct making_text *text, uint64_t at)
{
	ZydisDecodedInstruction decoded;

	for (uint64_t back = 1; back < LONGEST && back <= at; back++) {
		if (!bit(text->starts, at - back))
			continue;
		if (decode(making, text, at - back, text->size, &decoded) && decoded.length > back)
			clear_bit(text->armed, at - back);
		return;
	}
}

static struct making_function *function_at(const struct making *making, uint32_t text, uint64_t at)
{
	size_t low = 0, high = making->functions;
	struct making_function *function;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		function = &making->function[middle];
		if (function->text < text || (function->text == text && function->at <= at))
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0)
		return NULL;
	function = &making->function[low - 1];
	return function->text == text && at - function->at < function->size ? function : NULL;
}

/* Places that jumps of hidden code lead back to, still to be followed; those that lie ahead are come to. */
struct behind {
	uint32_t at[BEHIND];
	unsigned count;
	bool is_full; /* and one more was found */
};

static void note_behind(struct behind *behind, uint64_t at)
{
	behind->is_full |= behind->count == BEHIND;
	if (!behind->is_full)
		behind->at[behind->count++] = (uint32_t)at;
}

/* Follows instructions that begin where no start is until they are in step with those that are known. */
static void follow_hidden(struct making *making, struct making_text *text, uint64_t at, struct behind *behind)
{
	ZydisDecodedInstruction decoded;

	while (at < text->size && !bit(text->starts, at) && !bit(text->hidden, at)) {
		unsigned class;

		set_bit(text->hidden, at);
		disarm_around(making, text, at);
		if (!decode(making, text, at, text->size, &decoded))
			break;
		class = classify(&decoded);
		for (unsigned i = 1; i < decoded.length; i++)
			clear_bit(text->armed, at + i);
		if (class & DIRECT) {
			uint64_t target = at + decoded.length + (uint64_t)decoded.raw.imm[0].value.s;

			note_target(making, text, at, &decoded);
			if (target < at)
				note_behind(behind, target);
		}
		if (class & STOPS)
			break;
		at += decoded.length;
	}
}

static void see_target(struct making *making, uint32_t index, uint64_t at, struct behind *behind)
{
	struct making_text *text = &making->text[index];
	const struct making_function *function;

	if (bit(text->starts, at) || bit(text->hidden, at))
		return;
	function = function_at(making, index, at);
	if (function && at - function->at < function->decoded)
		follow_hidden(making, text, at, behind);
}

static void disarm_hidden(struct making *making, uint32_t index)
{
	struct making_text *text = &making->text[index];
	struct behind behind = { .count = 0 };

	for (uint64_t at = 0; (at = next_bit(text->targets, at, text->size)) < text->size; at++) {
		see_target(making, index, at, &behind);
		while (behind.count > 0)
			see_target(making, index, behind.at[--behind.count], &behind);
	}
	/* No compiler makes such code; whoever did may well have meant to mislead. */
	if (behind.is_full)
		memset(text->armed, 0, text->size / 8);
}

static void find_heads(struct making *making)
{
	for (unsigned i = 0; i < making->head->texts; i++) {
		struct making_text *text = &making->text[i];

		for (uint64_t word = 0; word < text->size / 64; word++) {
			text->heads[word] |= text->targets[word] & text->starts[word];
			making->head->blocks += (uint64_t)__builtin_popcountll(text->heads[word]);
		}
	}
}

/* ---- system calls ---- */

/* What the block before a `syscall` makes of eax. */
static void find_number(const struct making *making, struct lh_plan_site *site)
{
	const struct making_text *text = &making->text[site->text];
	int32_t number = -1, value = 0;
	uint64_t at = site->at, farthest = at > REACH ? at - REACH : 0;

	while (at > farthest && !bit(text->heads, at))
		at--;
	at = next_bit(text->starts, at, site->at);
	while (at < site->at) {
		uint64_t next = next_bit(text->starts, at + 1, site->at);
		enum lh_eax effect =
			lh__effect_on_eax(&making->decoder, text->original + at, next - at, &value);

		number = effect == LH_EAX_SET ? value : effect == LH_EAX_UNKNOWN ? -1 : number;
		at = next;
	}
	site->nr = (int16_t)(number >= 0 && number <= INT16_MAX ? number : -1);
}

/* ---- all of it ---- */

static int collect(void *context, const struct lh_function *found)
{
	struct making *making = context;
	struct making_function *function;
	uint32_t i = 0;

	while (i < making->head->texts &&
	       (found->address - making->text[i].address >= making->text[i].size ||
	        found->size > making->text[i].size - (found->address - making->text[i].address)))
		i++;
	if (i == making->head->texts)
		return 0;
	if (making->functions == making->room) {
		size_t room = making->room ? making->room * 2 : 1024;

		function = lh__alloc(making->sys, room * sizeof *function);
		if (!function)
			return -ENOMEM;
		if (making->functions)
			memcpy(function, making->function, making->functions * sizeof *function);
		lh__free(making->sys, making->function, making->room * sizeof *function);
		making->function = function;
		making->room = room;
	}
	making->function[making->functions++] =
		(struct making_function){ .text = i,
		                          .at = (uint32_t)(found->address - making->text[i].address),
		                          .size = (uint32_t)found->size,
		                          .is_signal_frame = found->is_signal_frame };
	return 0;
}

static int begin_text(struct making *making, unsigned index)
{
	const struct lh_plan_text *place = &making->head->text[index];
	struct making_text *text = &making->text[index];
	uint8_t *plan = (uint8_t *)making->head;
	uint64_t words = place->size / 64, in_file = making->size - place->offset;

	*text = (struct making_text){ .address = place->address,
		                      .size = place->size,
		                      .starts = (uint64_t *)(plan + place->starts),
		                      .armed = (uint64_t *)(plan + place->armed),
		                      .ends = (uint64_t *)(plan + place->ends),
		                      .heads = (uint64_t *)(plan + place->heads),
		                      .original = plan + place->original,
		                      .image = plan + place->image };
	text->targets = lh__alloc(making->sys, 2 * words * sizeof *text->targets);
	if (!text->targets)
		return -ENOMEM;
	text->hidden = text->targets + words;
	memcpy(text->original, making->file + place->offset, in_file < place->size ? in_file : place->size);
	return 0;
}

static void finish_text(struct making_text *text)
{
	memcpy(text->image, text->original, text->size);
	for (uint64_t at = 0; (at = next_bit(text->armed, at, text->size)) < text->size; at++)
		text->image[at] = 0xcc;
}

static long make(struct making *making)
{
	struct lh_plan_head *head = making->head;
	long result = 0;

	for (unsigned i = 0; i < head->texts && result == 0; i++)
		result = begin_text(making, i);
	if (result == 0)
		result = lh__functions(making->sys, making->file, making->size, collect, making);
	if (result < 0)
		return result;
	for (size_t i = 0; i < making->functions; i++)
		decode_function(making, &making->function[i]);
	for (size_t i = 0; i < making->functions; i++)
		arm_function(making, &making->function[i]);
	for (unsigned i = 0; i < head->texts; i++)
		disarm_hidden(making, i);
	find_heads(making);
	for (uint32_t i = 0; i < head->sites; i++)
		find_number(making, &making->sites[i]);
	head->functions = making->functions;
	for (unsigned i = 0; i < head->texts; i++)
		finish_text(&making->text[i]);
	return result;
}

int lh__plan_fill(const struct lh_sys *sys, const uint8_t *file, size_t size, struct lh_plan_head *head,
                  struct lh_error *error)
{
	struct making making = { .sys = sys, .file = file, .size = size, .head = head };
	long result;

	ZydisDecoderInit(&making.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	making.sites = (struct lh_plan_site *)((uint8_t *)head + head->sites_at);
	result = make(&making);
	for (unsigned i = 0; i < head->texts; i++)
		lh__free(sys, making.text[i].targets, making.text[i].size / 8 * 2);
	lh__free(sys, making.function, making.room * sizeof *making.function);
	if (result == -ENODATA)
		return lh__fail(error, -ENODATA, "nothing in it tells where its functions are");
	if (result < 0)
		return lh__fail(error, (int)result, "no memory to make a plan of its code");
	memcpy(head->magic, LH_PLAN_MAGIC, sizeof head->magic);
	head->version = LH_PLAN_VERSION;
	head->size = head->sites_at + head->sites * sizeof(struct lh_plan_site);
	lh__plan_seal(head);
	return 0;
}
