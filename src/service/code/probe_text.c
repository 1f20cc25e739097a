/*
 * probe_text.c - the trampolines of a function's sites, and what the sites become (probe_inside.h).
 *
 *     entry                               exit
 *       save flags, rax, rcx, rdx           the same, and rsi
 *       calls++                             now = rdtsc
 *       find the stack's slot, or take one  find the slot of this stack
 *       slot.began = rdtsc                  ticks += now - began; bucket[log2]++; free the slot
 *       restore                             restore
 *       the moved instructions              ret, or the jump that leaves
 *       jump back
 *
 * Everything is saved, since compilers know which registers a function of the same file leaves alone. What is
 * below the stack pointer is nobody's at a function's start and at its end, also the red zone, so it is saved
 * there. Flags go through lahf and seto, which is much quicker than popf; the others are not touched.
 *
 * Slots are found by the address of the return address, which is the same at entry and exit and which no two
 * calls have at a time. A slot belongs to the thread on that stack, so only taking a free one is atomic. Of
 * LH_PROBE_SLOT_TRIES neighbours the first is taken that is free, or has been left over by a call on the same
 * stack that never came back (longjmp, exception). Where there is none, that call is not timed.
 */
#include "service/code/probe_inside.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#define ENTRY_BOUND 512u
#define EXIT_BOUND 320u
#define SHARD_SHIFT 23 /* stacks of threads are 8 MiB apart, where nobody wants otherwise */

struct text {
	uint8_t *out;
	size_t size, room;
	uint64_t address; /* of out */
	const struct lh_probe_layout *layout;
	bool timed;
	int failed;
};

static void put(struct text *text, const void *bytes, size_t size)
{
	if (text->room - text->size < size) {
		text->failed = -ENOSPC;
		return;
	}
	memcpy(text->out + text->size, bytes, size);
	text->size += size;
}

#define PUT(text, bytes) put(text, bytes, sizeof(bytes) - 1)

static void put_word(struct text *text, uint64_t value)
{
	put(text, &(uint32_t){ (uint32_t)value }, 4);
}

/* An instruction that ends in a distance. */
static void put_to(struct text *text, const char *opcode, size_t size, uint64_t target)
{
	int64_t distance;

	put(text, opcode, size);
	distance = (int64_t)(target - (text->address + text->size + 4));
	if (distance != (int32_t)distance)
		text->failed = -ERANGE;
	put_word(text, (uint64_t)distance);
}

/* A short jump whose target comes later. */
static size_t put_forward(struct text *text, uint8_t opcode)
{
	put(text, (uint8_t[2]){ opcode, 0 }, 2);
	return text->size;
}

static void land(struct text *text, size_t from)
{
	if (text->failed)
		return;
	if (text->size - from > 127)
		text->failed = -ENOSPC;
	text->out[from - 1] = (uint8_t)(text->size - from);
}

enum { JE = 0x74, JNE = 0x75, JNS = 0x79, JBE = 0x76, JMP = 0xeb };

static void put_save(struct text *text)
{
	PUT(text, "\x50"             /* push %rax */
	          "\x9f\x0f\x90\xc0" /* lahf; seto %al */
	          "\x50\x51\x52");   /* push %rax, %rcx, %rdx */
}

static void put_restore(struct text *text)
{
	PUT(text, "\x5a\x59\x58" /* pop %rdx, %rcx, %rax */
	          "\x04\x7f\x9e" /* add $127, %al; sahf */
	          "\x58");       /* pop %rax */
}

/* rdx: the cell of counts that this stack's calls go to; rcx is lost. */
static void put_find_cell(struct text *text)
{
	PUT(text, "\x48\x89\xe1\x48\xc1\xe9"); /* mov %rsp, %rcx; shr $, %rcx */
	put(text, &(uint8_t){ SHARD_SHIFT }, 1);
	PUT(text, "\x83\xe1"); /* and $, %ecx */
	put(text, &(uint8_t){ LH_PROBE_SHARDS - 1 }, 1);
	PUT(text, "\x69\xc9"); /* imul $, %ecx, %ecx */
	put_word(text, sizeof(struct lh_probe_cell));
	put_to(text, "\x48\x8d\x15", 3, text->layout->counts); /* lea counts(%rip), %rdx */
	PUT(text, "\x48\x01\xca");                             /* add %rcx, %rdx */
}

/* rdx: the first slot for the stack pointer in rcx; rax is lost. */
static void put_find_slot(struct text *text)
{
	PUT(text, "\x48\xba\x15\x7c\x4a\x7f\xb9\x79\x37\x9e" /* mov $2^64 / golden ratio, %rdx */
	          "\x48\x0f\xaf\xd1\x48\xc1\xea");           /* imul %rcx, %rdx; shr $, %rdx */
	put(text, &(uint8_t){ 64 - LH_PROBE_SLOT_BITS }, 1);
	PUT(text, "\xc1\xe2\x04");                            /* shl $4, %edx */
	put_to(text, "\x48\x8d\x05", 3, text->layout->slots); /* lea slots(%rip), %rax */
	PUT(text, "\x48\x01\xc2");                            /* add %rax, %rdx */
}

static void put_entry_time(struct text *text)
{
	size_t found[2 * LH_PROBE_SLOT_TRIES], used, full;

	PUT(text, "\x48\x8d\x4c\x24\x20"); /* lea 32(%rsp), %rcx */
	put_find_slot(text);
	for (unsigned i = 0; i < LH_PROBE_SLOT_TRIES; i++) {
		if (i > 0)
			PUT(text, "\x48\x83\xc2\x10"); /* add $16, %rdx */
		PUT(text, "\x48\x8b\x02\x48\x39\xc8"); /* mov (%rdx), %rax; cmp %rcx, %rax */
		found[2 * i] = put_forward(text, JE);
		PUT(text, "\x48\x85\xc0"); /* test %rax, %rax */
		used = put_forward(text, JNE);
		PUT(text, "\xf0\x48\x0f\xb1\x0a"); /* lock cmpxchg %rcx, (%rdx) */
		found[2 * i + 1] = put_forward(text, JE);
		land(text, used);
	}
	full = put_forward(text, JMP);
	for (unsigned i = 0; i < 2 * LH_PROBE_SLOT_TRIES; i++)
		land(text, found[i]);
	PUT(text, "\x48\x89\xd1\x0f\x31"         /* mov %rdx, %rcx; rdtsc */
	          "\x48\xc1\xe2\x20\x48\x09\xd0" /* shl $32, %rdx; or %rdx, %rax */
	          "\x48\x89\x41\x08");           /* mov %rax, 8(%rcx) */
	land(text, full);
}

static void put_entry(struct text *text)
{
	put_save(text);
	put_find_cell(text);
	PUT(text, "\xf0\x48\xff\x02"); /* lock incq (%rdx) */
	if (text->timed)
		put_entry_time(text);
	put_restore(text);
}

static void put_exit(struct text *text)
{
	size_t found[LH_PROBE_SLOT_TRIES], none, forward;

	_Static_assert(offsetof(struct lh_probe_cell, ticks) == 8, "as below");
	_Static_assert(offsetof(struct lh_probe_cell, bucket) == 16, "as below");
	put_save(text);
	PUT(text, "\x56\x0f\x31\x48\xc1\xe2\x20" /* push %rsi; rdtsc; shl $32, %rdx */
	          "\x48\x09\xc2\x48\x89\xd6"     /* or %rax, %rdx; mov %rdx, %rsi */
	          "\x48\x8d\x4c\x24\x28");       /* lea 40(%rsp), %rcx */
	put_find_slot(text);
	for (unsigned i = 0; i < LH_PROBE_SLOT_TRIES; i++) {
		if (i > 0)
			PUT(text, "\x48\x83\xc2\x10"); /* add $16, %rdx */
		PUT(text, "\x48\x39\x0a");             /* cmp %rcx, (%rdx) */
		found[i] = put_forward(text, JE);
	}
	none = put_forward(text, JMP);
	for (unsigned i = 0; i < LH_PROBE_SLOT_TRIES; i++)
		land(text, found[i]);
	PUT(text, "\x48\x2b\x72\x08"       /* sub 8(%rdx), %rsi */
	          "\x48\xc7\x02\0\0\0\0"); /* movq $0, (%rdx) */
	PUT(text, "\x48\x85\xf6");         /* test %rsi, %rsi: processors may differ */
	forward = put_forward(text, JNS);
	PUT(text, "\x31\xf6"); /* xor %esi, %esi */
	land(text, forward);
	put_find_cell(text);
	PUT(text, "\xf0\x48\x01\x72\x08"             /* lock add %rsi, 8(%rdx) */
	          "\x48\x83\xce\x01\x48\x0f\xbd\xce" /* or $1, %rsi; bsr %rsi, %rcx */
	          "\x83\xf9");                       /* cmp $, %ecx */
	put(text, &(uint8_t){ LH_PROBE_BUCKETS - 1 }, 1);
	forward = put_forward(text, JBE);
	PUT(text, "\xb9"); /* mov $, %ecx */
	put_word(text, LH_PROBE_BUCKETS - 1);
	land(text, forward);
	PUT(text, "\xf0\x48\xff\x44\xca\x10"); /* lock incq 16(%rdx, %rcx, 8) */
	land(text, none);
	PUT(text, "\x5e"); /* pop %rsi */
	put_restore(text);
}

/* One instruction, without the jump to what follows it. */
static void put_moved(struct text *text, const struct lh_probe_part *part, const struct lh_probe_step *step)
{
	struct lh_moved_code moved;
	int result;

	if (text->failed)
		return;
	result =
		lh__move(part->code + step->at, step->length, part->address + step->at, step->length,
	                 text->out + text->size, text->room - text->size, text->address + text->size, &moved);
	if (result < 0)
		text->failed = result;
	else
		text->size += moved.ends ? moved.size : moved.size - LH_MOVE_JUMP;
}

/* A branch that may leave: over what an exit does, if it does not. Its moved form is 0f 8x and a distance. */
static void put_leaving_branch(struct text *text, const struct lh_probe_part *part,
                               const struct lh_probe_step *step)
{
	size_t at = text->size;
	int32_t distance;
	uint64_t target;

	put_moved(text, part, step);
	if (text->failed)
		return;
	if (text->size - at != 6 || text->out[at] != 0x0f) {
		text->failed = -EILSEQ;
		return;
	}
	memcpy(&distance, text->out + at + 2, 4);
	target = text->address + text->size + (uint64_t)(int64_t)distance;
	text->out[at + 1] ^= 1;
	put_exit(text);
	put_to(text, "\xe9", 1, target);
	distance = (int32_t)(text->size - (at + 6));
	memcpy(text->out + at + 2, &distance, 4);
}

static void put_site(struct text *text, const struct lh_probe_code *code, struct lh_probe_sites *sites,
                     uint32_t index)
{
	const struct lh_probe_site *site = &sites->site[index];
	struct lh_probe_edit *edit = &sites->edit[site->edit];
	const struct lh_probe_part *part = &code->part[site->part];
	const struct lh_probe_step *last = &part->step[site->last];

	text->failed = lh__move_jump(edit->after, edit->address, text->address + text->size);
	if (index == 0)
		put_entry(text);
	for (uint32_t i = site->first; i <= site->last && !text->failed; i++) {
		const struct lh_probe_step *step = &part->step[i];

		if (text->timed && step->kind == LH_STEP_LEAVE_BRANCH) {
			put_leaving_branch(text, part, step);
			continue;
		}
		if (text->timed && step->kind >= LH_STEP_LEAVE_JUMP)
			put_exit(text);
		put_moved(text, part, step);
	}
	put_to(text, "\xe9", 1, part->address + last->at + last->length);
}

size_t lh__probe_text_bound(const struct lh_probe_sites *sites)
{
	size_t bound = 0;

	for (uint32_t i = 0; i < sites->count; i++)
		bound += ENTRY_BOUND + EXIT_BOUND * (sites->site[i].last - sites->site[i].first + 1);
	return bound;
}

int lh__probe_text_write(const struct lh_probe_code *code, struct lh_probe_sites *sites,
                         const struct lh_probe_layout *layout, uint8_t *out, size_t room)
{
	struct text text = { .out = out, .room = room, .address = layout->text, .layout = layout };

	text.timed = sites->timed;
	for (uint32_t i = 0; i < sites->count && !text.failed; i++)
		put_site(&text, code, sites, i);
	return text.failed;
}
