/*
 * probe_windows.c - the places where a jump can be put (probe_inside.h).
 *
 * A jump takes five bytes, a `ret` one. So instructions before it move with it, as long as nobody jumps to
 * them, none of them is a call (whose return would lead into the jump), and they belong to no other site; and
 * padding behind it may be overwritten. Where that gives less than five bytes, but two, these jump to an
 * island within reach of a short jump: padding that nobody needs, or the second half of ten bytes that move
 * for nothing else.
 */
#include "service/code/probe_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHORT_JUMP 2u

struct choosing {
	struct lh_probe_code *code;
	struct lh_probe_sites *sites;
	char *why_not;
};

static bool leaves(const struct lh_probe_step *step)
{
	return step->kind >= LH_STEP_LEAVE_BRANCH;
}

/* What comes behind it is not reached from it. */
static bool ends(const struct lh_probe_step *step)
{
	return step->kind == LH_STEP_JUMP || step->kind == LH_STEP_SWITCH ||
	       step->kind == LH_STEP_LEAVE_JUMP || step->kind == LH_STEP_LEAVE_RET;
}

static uint32_t end_of(const struct lh_probe_step *step)
{
	return step->at + step->length;
}

/* Bytes behind a step that ends which do nothing and which nobody runs. */
static uint32_t padding_behind(const struct lh_probe_part *part, uint32_t step)
{
	uint32_t end = end_of(&part->step[step]), at = end, limit = part->size;

	while (++step < part->steps && part->step[step].kind == LH_STEP_PAD)
		;
	limit = step < part->steps ? part->step[step].at : part->size + part->tail;
	while (at < limit && !part->label[at])
		at++;
	return at - end;
}

/* Somebody jumps behind the first of these bytes. */
static bool entered(const struct lh_probe_part *part, uint32_t from, uint32_t to)
{
	for (uint32_t at = from + 1; at < to; at++)
		if (part->label[at])
			return true;
	return false;
}

static bool is_used(const struct lh_probe_part *part, uint32_t from, uint32_t to)
{
	return from < to && memchr(part->used + from, 1, to - from) != NULL;
}

/* Room for one more of an array that doubles. */
static void *grow(void *array, size_t size, uint32_t count, uint32_t *room)
{
	void *more;

	if (count < *room)
		return array;
	more = realloc(array, size * (*room ? *room * 2 : 8));
	if (more)
		*room = *room ? *room * 2 : 8;
	return more;
}

static int add_edit(struct lh_probe_sites *sites, const struct lh_probe_part *part, uint32_t at,
                    unsigned size)
{
	struct lh_probe_edit *more = grow(sites->edit, sizeof *more, sites->edits, &sites->edit_room);

	if (!more)
		return -ENOMEM;
	sites->edit = more;
	more = &more[sites->edits++];
	*more = (struct lh_probe_edit){ .address = part->address + at, .size = (uint8_t)size };
	memcpy(more->before, part->code + at, size);
	memset(part->used + at, 1, size);
	return 0;
}

/* Steps first to last move, to where the edit that was added last, or will be next, jumps. */
static int add_site(struct lh_probe_sites *sites, struct lh_probe_part *part, uint32_t index, uint32_t first,
                    uint32_t last)
{
	struct lh_probe_site *more = grow(sites->site, sizeof *more, sites->count, &sites->room);

	if (!more)
		return -ENOMEM;
	sites->site = more;
	more[sites->count++] = (struct lh_probe_site){ index, first, last, sites->edits };
	memset(part->used + part->step[first].at, 1, end_of(&part->step[last]) - part->step[first].at);
	return add_edit(sites, part, part->step[first].at, LH_MOVE_JUMP);
}

void lh__probe_sites_free(struct lh_probe_sites *sites)
{
	free(sites->site);
	free(sites->edit);
	*sites = (struct lh_probe_sites){ 0 };
}

void lh__probe_sites_untimed(struct lh_probe_sites *sites)
{
	sites->timed = false;
	sites->count = sites->edits = 1;
}

/* Where not all jumps are known: nobody jumps to where the stack pointer moves down. */
static bool is_guarded(const struct lh_probe_part *part, uint32_t step)
{
	return part->step[step - 1].kind == LH_STEP_FRAME || part->step[step].kind == LH_STEP_FRAME;
}

/* Why the function's start can have no jump, or NULL and which step is the last that moves. */
static const char *choose_entry(const struct lh_probe_code *code, uint32_t *last)
{
	const struct lh_probe_part *part = &code->part[0];
	uint32_t size = 0, i;

	if (part->label[0])
		return "it jumps to its own start, so calls cannot be told from turns of a loop";
	for (i = 0; i < part->steps && size < LH_MOVE_JUMP; i++) {
		const struct lh_probe_step *step = &part->step[i];

		if (i > 0 && ends(step - 1))
			break;
		if (i > 0 && code->unknown_jumps && !is_guarded(part, i))
			return "it is not known whether a jump leads into its first bytes";
		size += step->length;
		if (step->kind == LH_STEP_CALL && size < LH_MOVE_JUMP)
			return "a call stands in its first bytes";
	}
	*last = i - 1;
	if (size < LH_MOVE_JUMP)
		size += ends(&part->step[*last]) ? padding_behind(part, *last) : 0;
	if (size < LH_MOVE_JUMP)
		return "it is too short for a jump";
	if (entered(part, 0, size))
		return "a jump leads into its first bytes";
	return NULL;
}

struct window {
	uint32_t first, last, size; /* size: with padding */
};

static bool may_come_before(const struct lh_probe_step *step)
{
	return step->kind != LH_STEP_CALL && !ends(step);
}

/* The steps that move for the exit at a step: backward as far as is needed, then forward, then padding. */
static struct window choose_window(const struct lh_probe_part *part, uint32_t exit)
{
	const struct lh_probe_step *step = part->step;
	uint32_t first = exit, last = exit, size, padding;

	while (end_of(&step[last]) - step[first].at < LH_MOVE_JUMP && first > 0 &&
	       !part->label[step[first].at] && may_come_before(&step[first - 1]) &&
	       !part->used[step[first - 1].at])
		first--;
	while (end_of(&step[last]) - step[first].at < LH_MOVE_JUMP && may_come_before(&step[last]) &&
	       last + 1 < part->steps && !part->label[step[last + 1].at] && !part->used[step[last + 1].at])
		last++;
	size = end_of(&step[last]) - step[first].at;
	padding = size < LH_MOVE_JUMP && ends(&step[last]) ? padding_behind(part, last) : 0;
	for (; padding && size < LH_MOVE_JUMP && !part->used[step[first].at + size]; padding--)
		size++;
	if (entered(part, step[first].at, step[first].at + size))
		size = 0;
	return (struct window){ first, last, size };
}

static bool reaches(uint32_t from, uint32_t to)
{
	int64_t distance = (int64_t)to - (int64_t)(from + SHORT_JUMP);

	return distance == (int8_t)distance;
}

/* Five bytes of padding within reach of a short jump at a place; false: none. */
static bool find_padding(const struct lh_probe_part *part, uint32_t from, uint32_t *island)
{
	for (uint32_t i = 0; i < part->steps; i++) {
		uint32_t at = end_of(&part->step[i]), end;

		if (!ends(&part->step[i]) || at + 160 < from)
			continue;
		if (at > from + 160)
			return false;
		for (end = at + padding_behind(part, i); at + LH_MOVE_JUMP <= end; at++)
			if (reaches(from, at) && !is_used(part, at, at + LH_MOVE_JUMP)) {
				*island = at;
				return true;
			}
	}
	return false;
}

/* Ten bytes within reach that can move, the last five being the island. */
static bool find_carrier(const struct lh_probe_part *part, uint32_t from, struct window *carrier)
{
	for (uint32_t i = 0; i < part->steps; i++) {
		uint32_t at = part->step[i].at, last = i, end;

		if (!reaches(from, at + LH_MOVE_JUMP))
			continue;
		while (last + 1 < part->steps && may_come_before(&part->step[last]) &&
		       !leaves(&part->step[last]) && end_of(&part->step[last]) - at < 2 * LH_MOVE_JUMP)
			last++;
		end = end_of(&part->step[last]);
		if (end - at < 2 * LH_MOVE_JUMP || !may_come_before(&part->step[last]) ||
		    leaves(&part->step[last]) || is_used(part, at, end) || entered(part, at, end))
			continue;
		*carrier = (struct window){ i, last, end - at };
		return true;
	}
	return false;
}

/* 0, or 1: there is no room for it. */
static int add_short(struct choosing *choosing, uint32_t index, const struct window *window)
{
	struct lh_probe_part *part = &choosing->code->part[index];
	struct lh_probe_sites *sites = choosing->sites;
	uint32_t from = part->step[window->first].at, island;
	uint32_t end = end_of(&part->step[window->last]);
	struct window carrier;
	int result = 0;

	if (window->size < SHORT_JUMP)
		return 1;
	memset(part->used + from, 1, end - from);
	if (!find_padding(part, from, &island)) {
		if (!find_carrier(part, from, &carrier))
			return 1;
		island = part->step[carrier.first].at + LH_MOVE_JUMP;
		result = add_site(sites, part, index, carrier.first, carrier.last);
	}
	if (result == 0)
		result = add_edit(sites, part, from, SHORT_JUMP);
	if (result < 0)
		return result;
	sites->edit[sites->edits - 1].after[0] = 0xeb;
	sites->edit[sites->edits - 1].after[1] = (uint8_t)(island - (from + SHORT_JUMP));
	result = add_site(sites, part, index, window->first, window->last);
	if (result < 0)
		return result;
	sites->edits--; /* the jump is at the island */
	result = add_edit(sites, part, island, LH_MOVE_JUMP);
	if (result == 0)
		sites->edit[sites->edits - 1].is_island = true;
	return result;
}

/* Whether an exit is among the steps of a site that is there. */
static bool has_site(const struct lh_probe_sites *sites, uint32_t part, uint32_t step)
{
	for (uint32_t i = 0; i < sites->count; i++)
		if (sites->site[i].part == part && step >= sites->site[i].first &&
		    step <= sites->site[i].last)
			return true;
	return false;
}

/* Exits that have room for a long jump come first, so that islands take nothing from them. */
static int choose_exits(struct choosing *choosing, bool with_short)
{
	for (uint32_t p = 0; p < choosing->code->parts; p++) {
		struct lh_probe_part *part = &choosing->code->part[p];

		for (uint32_t i = 0; i < part->steps; i++) {
			struct window window;
			int result = 0;

			if (!leaves(&part->step[i]) || has_site(choosing->sites, p, i))
				continue;
			window = choose_window(part, i);
			if (window.size >= LH_MOVE_JUMP)
				result = add_site(choosing->sites, part, p, window.first, window.last);
			else if (with_short)
				result = add_short(choosing, p, &window);
			if (result == 1)
				lh__format(choosing->why_not, 128,
				           "its exit at 0x%lx leaves no room for a jump",
				           (unsigned long)part->address + part->step[i].at);
			if (result)
				return result;
		}
	}
	return 0;
}

int lh__probe_sites_choose(struct lh_probe_code *code, struct lh_probe_sites *sites, char why_not[128],
                           struct lh_error *error)
{
	struct choosing choosing = { code, sites, why_not };
	uint32_t last = 0;
	const char *why = choose_entry(code, &last);
	int result;

	why_not[0] = '\0';
	if (why)
		return lh__fail(error, -EILSEQ, "%s", why);
	result = add_site(sites, &code->part[0], 0, 0, last);
	if (result == 0 && code->unknown_jumps)
		lh__format(why_not, 128, "it is not known where all of its jumps lead");
	else if (result == 0)
		result = choose_exits(&choosing, false);
	if (result == 0 && !code->unknown_jumps)
		result = choose_exits(&choosing, true);
	if (result < 0)
		return lh__fail(error, result, "no memory");
	sites->timed = why_not[0] == '\0';
	if (!sites->timed)
		lh__probe_sites_untimed(sites);
	return 0;
}
