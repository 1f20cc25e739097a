/*
 * plan_quiet.c - blocks that need no trap, since what follows them tells whether they ran.
 *
 *     D:  test %rax, %rax          Whoever is in D goes on to F or to T. Whoever is in F comes from D, and in
 *         je T                     T likewise, be it by way of F. So D ran if F did or T did, and if D ran
 *     F:  inc %rcx                 one of them did.
 *     T:  ...
 *
 * D is left as it is, unarmed, and is called quiet. F and T may be quiet too, if what follows them tells. What
 * follows a quiet block stands behind it, so nothing goes round in a circle.
 *
 * A block is *tied* to D if all ways into it come from D or from blocks that are tied to D and lie between, and
 * none of these calls anything. So D is always just about to run or has just run when it does: hits of a stretch
 * of time, too, tell of D in that stretch.
 *
 * For that all ways into a block must be known. They are looked for only in functions
 *   - all of which was decoded, that have no landing pads, and no indirect jump but through a fixed slot;
 *   - that a direct call leads to, since what is only jumped to may be a cold part of another function, and the
 *     other's switch may lead anywhere into it;
 *   - whose own cold parts, and what else they jump into without its being called, are likewise.
 * Bytes that were not decoded could be code, so whatever in them looks like a direct jump is taken for one.
 *
 * What is not seen: that D ran, when an instruction of it faults for good or the process is killed in it, and
 * none of those that tell ever runs. A block that makes system calls, which may be the last, is never quiet.
 */
#include "service/code/plan_make.h"

#include <errno.h>
#include <string.h>

#include "port/code/text.h"
#include "service/code/plan_inside.h"

/* What is known of a function as a whole; functions that are parts of one share a group. */
struct whole {
	size_t group; /* an index; the group's own is its first member's */
	bool is_open; /* of the group's first member: somebody may enter it where nobody sees it */
};

struct search {
	struct lh_making *making;
	struct whole *whole; /* one for each function */
};

static size_t group_of(struct whole *whole, size_t index)
{
	while (whole[index].group != index) {
		whole[index].group = whole[whole[index].group].group;
		index = whole[index].group;
	}
	return index;
}

static void join(struct whole *whole, size_t a, size_t b)
{
	a = group_of(whole, a);
	b = group_of(whole, b);
	whole[b].group = a;
	whole[a].is_open |= whole[b].is_open;
}

/* ---- ways in ---- */

/* A stub of the dynamic linker: it goes to another module. */
static bool is_stub(const struct lh_making_text *text, uint64_t at)
{
	const uint8_t *code = text->original + at;

	if (text->size - at < 16)
		return false;
	if (memcmp(code, "\xf3\x0f\x1e\xfa", 4) == 0)
		code += 4;
	code += *code == 0xf2;
	return code[0] == 0xff && code[1] == 0x25;
}

/* A jump of a function to a place that is not in it. */
static void see_jump_out(struct search *search, size_t index, uint64_t target)
{
	const struct lh_making *making = search->making;
	const struct lh_making_text *text = &making->text[making->function[index].text];
	const struct lh_making_function *other;

	if (target < text->size && is_stub(text, target))
		return;
	other = target < text->size ? lh__function_at(making, making->function[index].text, target) : NULL;
	if (!other || other->is_spring)
		search->whole[group_of(search->whole, index)].is_open = true;
	else if (!lh__bit(text->called, target))
		join(search->whole, index, (size_t)(other - making->function));
}

static void see_function(struct search *search, size_t index)
{
	const struct lh_making_function *function = &search->making->function[index];
	const struct lh_making_text *text = &search->making->text[function->text];
	uint64_t at = function->at, end = at + function->decoded;

	if (function->has_pads || function->has_indirect || function->is_signal_frame ||
	    function->decoded < function->size)
		search->whole[group_of(search->whole, index)].is_open = true;
	for (; (at = lh__bit_next(text->ends, at, end)) < end; at++) {
		struct lh_jump jump = lh__jump_at(text->original, end, at);

		if ((jump.kind == LH_JUMP_ALWAYS || jump.kind == LH_JUMP_MAYBE) &&
		    jump.target - function->at >= function->size)
			see_jump_out(search, index, jump.target);
	}
}

/* Bytes that are no known code: what they could jump to. */
static void suspect(struct lh_making *making, const struct lh_making_text *text, uint64_t at, uint64_t end)
{
	for (; at < end; at++) {
		struct lh_jump jump = lh__jump_at(text->original, text->size, at);

		if (jump.kind == LH_JUMP_NONE)
			continue;
		for (unsigned i = 0; i < making->head->texts; i++) {
			uint64_t target = text->address + jump.target - making->text[i].address;

			if (target >= making->text[i].size)
				continue;
			lh__bit_set(making->text[i].targets, target);
			lh__bit_set(making->text[i].foreign, target);
		}
	}
}

static void suspect_rest(struct lh_making *making, uint32_t index)
{
	const struct lh_making_text *text = &making->text[index];
	uint64_t at = 0;

	for (size_t i = 0; i < making->functions; i++) {
		const struct lh_making_function *function = &making->function[i];

		if (function->text != index)
			continue;
		suspect(making, text, at, function->at);
		at = function->at + function->decoded;
	}
	suspect(making, text, at, text->size);
}

/* ---- blocks ---- */

/* The last bit that is set in [from, end); end: none is. */
static uint64_t bit_last(const uint64_t *bitmap, uint64_t from, uint64_t end)
{
	for (uint64_t at = end; at > from;) {
		uint64_t word = (at - 1) / 64, bits = bitmap[word];

		if (at % 64)
			bits &= (UINT64_C(1) << at % 64) - 1;
		if (bits) {
			at = word * 64 + 63 - (uint64_t)__builtin_clzll(bits);
			return at >= from ? at : end;
		}
		at = word * 64;
	}
	return end;
}

/* Whether an instruction that ends a block never goes on to the next: jmp, ret, ud2. */
static bool stops(const uint8_t *code, uint64_t size, uint64_t at)
{
	while (at < size &&
	       (code[at] == 0x3e || code[at] == 0xf2 || code[at] == 0xf3 || (code[at] & 0xf0) == 0x40))
		at++;
	if (at + 1 >= size)
		return false;
	switch (code[at]) {
	case 0xeb:
	case 0xe9:
	case 0xc3:
	case 0xc2: return true;
	case 0x0f: return code[at + 1] == 0x0b;
	case 0xff: return (code[at + 1] & 0x38) == 0x20;
	default: return false;
	}
}

/* Whether instructions of a block may be a system call; by their bytes, wherever these stand. */
static bool may_call_system(const uint8_t *code, uint64_t from, uint64_t to)
{
	for (uint64_t at = from; at + 1 < to; at++)
		if ((code[at] == 0x0f && (code[at + 1] == 0x05 || code[at + 1] == 0x34)) || code[at] == 0xcd)
			return true;
	return false;
}

#define NONE UINT32_MAX
#define FARTHEST 64u /* blocks from a quiet one to those that tell */

struct block {
	uint32_t head, end; /* its last instruction's start, or NONE: it falls through to the next head */
	uint32_t next[2];   /* indices of what follows, or NONE */
	uint32_t ways;      /* in, from blocks of the function */
	uint32_t seen;      /* of these, those that come from who is looked at */
	uint32_t by;        /* who is looked at: a block's index */
	bool is_entered;    /* from elsewhere, too */
	bool is_plain;      /* has no call of a function or of the system in it */
	bool is_open;       /* goes on to what is not in next */
};

static uint32_t block_at(const struct block *block, uint32_t count, uint64_t head)
{
	uint32_t low = 0, high = count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (block[middle].head < head)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && block[low].head == head ? low : NONE;
}

/* What follows a block that has an end. */
static void follow_end(const struct lh_making_text *text, uint64_t limit, struct block *all, uint32_t count,
                       struct block *block)
{
	struct lh_jump jump = lh__jump_at(text->original, limit, block->end);
	bool direct = jump.kind == LH_JUMP_ALWAYS || jump.kind == LH_JUMP_MAYBE;

	if (direct)
		block->next[0] = block_at(all, count, jump.target);
	if (jump.kind != LH_JUMP_ALWAYS && !stops(text->original, limit, block->end) &&
	    block + 1 < all + count)
		block->next[1] = (uint32_t)(block + 1 - all);
	block->is_plain &= direct;
	block->is_open = !direct || block->next[0] == NONE ||
	                 (jump.kind == LH_JUMP_MAYBE &&
	                  (block + 1 == all + count || block[1].head != block->end + jump.size));
}

/* The blocks of a function in their order; their number. */
static uint32_t make_blocks(const struct lh_making_text *text, const struct lh_making_function *function,
                            struct block *block)
{
	uint64_t at = function->at, limit = at + function->decoded;
	uint32_t count = 0;

	for (; (at = lh__bit_next(text->heads, at, limit)) < limit; at++)
		block[count++] =
			(struct block){ .head = (uint32_t)at,
			                .end = NONE,
			                .next = { NONE, NONE },
			                .by = NONE,
			                .is_entered = at == function->at || lh__bit(text->foreign, at) ||
			                              lh__bit(text->called, at) };
	for (uint32_t i = 0; i < count; i++) {
		uint64_t behind = i + 1 < count ? block[i + 1].head : limit;
		uint64_t end = lh__bit_next(text->ends, block[i].head, behind);

		block[i].is_plain = !may_call_system(text->original, block[i].head, behind);
		block[i].is_open = end == behind;
		if (end < behind) {
			block[i].end = (uint32_t)end;
			follow_end(text, limit, block, count, &block[i]);
		} else if (i + 1 < count) {
			block[i].next[0] = i + 1;
		}
		for (unsigned k = 0; k < 2; k++)
			if (block[i].next[k] != NONE)
				block[block[i].next[k]].ways++;
	}
	return count;
}

/* Counts the ways from a block to those that follow it, for who is looked at; returns the last of them. */
static uint32_t lead_on(struct block *block, uint32_t from, uint32_t by)
{
	uint32_t last = 0;

	for (unsigned k = 0; k < 2; k++) {
		uint32_t to = block[from].next[k];

		if (to == NONE)
			continue;
		if (block[to].by != by)
			block[to].seen = 0;
		block[to].by = by;
		block[to].seen++;
		last = to > last ? to : last;
	}
	return last;
}

static bool follows(const struct block *block, uint32_t index)
{
	return block->next[0] == index || block->next[1] == index;
}

/* Whether all that follows a block is tied to it, stands behind it, and tells. */
static bool is_told(const struct lh_making_text *text, struct block *block, uint32_t index)
{
	uint32_t last = lead_on(block, index, index);

	if (block[index].is_open || !block[index].is_plain || last <= index || last - index > FARTHEST)
		return false;
	for (unsigned k = 0; k < 2; k++)
		if (block[index].next[k] <= index)
			return false;
	for (uint32_t i = index + 1; i <= last; i++) {
		struct block *tied = &block[i];
		bool is_tied = tied->by == index && tied->seen == tied->ways && !tied->is_entered;

		if (follows(&block[index], i) &&
		    !(is_tied && (lh__bit(text->armed, tied->head) || lh__bit(text->quiet, tied->head))))
			return false;
		if (is_tied && tied->is_plain)
			lead_on(block, i, index);
	}
	return true;
}

static void quieten(const struct lh_making_text *text, const struct lh_making_function *function,
                    struct block *block)
{
	for (uint32_t i = make_blocks(text, function, block); i-- > 0;) {
		if (!lh__bit(text->armed, block[i].head) || !is_told(text, block, i))
			continue;
		lh__bit_set(text->quiet, block[i].head);
		for (uint64_t at = block[i].head; at <= block[i].end; at++)
			lh__bit_clear(text->armed, at);
	}
}

/* The largest number of blocks in one function. */
static size_t most_blocks(const struct lh_making *making)
{
	size_t most = 0;

	for (size_t i = 0; i < making->functions; i++) {
		const struct lh_making_function *function = &making->function[i];
		const uint64_t *heads = making->text[function->text].heads;
		uint64_t at = function->at, end = at + function->decoded;
		size_t count = 0;

		for (; (at = lh__bit_next(heads, at, end)) < end; at++)
			count++;
		most = count > most ? count : most;
	}
	return most;
}

static void quieten_all(struct search *search, struct block *block)
{
	struct lh_making *making = search->making;

	for (size_t i = 0; i < making->functions; i++)
		search->whole[i].group = i;
	for (size_t i = 0; i < making->functions; i++)
		see_function(search, i);
	for (uint32_t i = 0; i < making->head->texts; i++)
		suspect_rest(making, i);
	for (size_t i = 0; i < making->functions; i++) {
		const struct lh_making_function *function = &making->function[i];
		const struct lh_making_text *text = &making->text[function->text];

		if (lh__bit(text->called, function->at) && !search->whole[group_of(search->whole, i)].is_open)
			quieten(text, function, block);
	}
}

int lh__plan_find_quiet(struct lh_making *making)
{
	struct search search = { .making = making };
	size_t size = making->functions * sizeof *search.whole;
	size_t room = most_blocks(making) * sizeof(struct block);
	struct block *block;

	if (room == 0)
		return 0;
	search.whole = lh__alloc(making->sys, size);
	block = lh__alloc(making->sys, room);
	if (search.whole && block)
		quieten_all(&search, block);
	lh__free(making->sys, search.whole, size);
	lh__free(making->sys, block, room);
	return search.whole && block ? 0 : -ENOMEM;
}

/* ---- what hits say of them ---- */

struct closing {
	const uint64_t *quiet, *ends;
	const uint8_t *original;
	uint64_t size, *hits;
	enum lh_granularity granularity;
};

/* Whether hits say that the block at this offset ran: one of it, or of a block that falls through to it. */
static bool has_run(const struct closing *closing, uint64_t at)
{
	uint64_t line = at / LH_LINE_SIZE_CODE * LH_LINE_SIZE_CODE, last;

	if (at >= closing->size)
		return false;
	if (closing->granularity == LH_GRANULARITY_LINE)
		return lh__bit_next(closing->hits, line, line + LH_LINE_SIZE_CODE) < line + LH_LINE_SIZE_CODE;
	last = bit_last(closing->ends, 0, at);
	return lh__bit_next(closing->hits, last < at ? last + 1 : 0, at + 1) <= at;
}

/* The blocks that follow one; how many: 0 to 2. */
static unsigned followers(const struct closing *closing, uint64_t at, uint64_t follower[2])
{
	uint64_t end = lh__bit_next(closing->ends, at, closing->size);
	struct lh_jump jump = lh__jump_at(closing->original, closing->size, end);

	if (jump.kind == LH_JUMP_NONE)
		return 0;
	follower[0] = jump.target;
	follower[1] = end + jump.size;
	return jump.kind == LH_JUMP_MAYBE ? 2 : 1;
}

void lh__plan_close_hits(const struct lh_plan *plan, unsigned which, enum lh_granularity granularity,
                         uint64_t *hits)
{
	const struct lh_plan_text *text = &plan->head->text[which];
	const uint8_t *base = (const uint8_t *)plan->head;
	struct closing closing = { .quiet = (const uint64_t *)(base + text->quiet),
		                   .ends = (const uint64_t *)(base + text->ends),
		                   .original = base + text->original,
		                   .size = text->size,
		                   .hits = hits,
		                   .granularity = granularity };
	uint64_t at = text->size, last;

	/* Downwards, since what follows a quiet block stands behind it. */
	while ((last = bit_last(closing.quiet, 0, at)) < at) {
		uint64_t follower[2];
		unsigned count = followers(&closing, last, follower);

		for (unsigned i = 0; i < count; i++)
			if (has_run(&closing, follower[i]))
				lh__bit_set(hits, last);
		at = last;
	}
}
