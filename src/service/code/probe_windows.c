/*
 * probe_windows.c - the places where a jump can be put (probe_inside.h).
 *
 * A jump takes five bytes, a `ret` one. So instructions before it move with it, as long as nobody jumps to
 * them, none of them is a call (whose return would lead into the jump), and they belong to no other site; and
 * padding behind it may be overwritten.
 */
#include "service/code/probe_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

static bool entered(const struct lh_probe_part *part, uint32_t from, uint32_t to)
{
	for (uint32_t at = from + 1; at < to; at++)
		if (part->label[at])
			return true;
	return false;
}

static int add_site(struct lh_probe_sites *sites, const struct lh_probe_code *code, uint32_t part,
                    uint32_t first, uint32_t last)
{
	const struct lh_probe_part *in = &code->part[part];
	struct lh_probe_site *site;

	if (sites->count == sites->room) {
		uint32_t room = sites->room ? sites->room * 2 : 8;
		struct lh_probe_site *more = realloc(sites->site, room * sizeof *more);

		if (!more)
			return -ENOMEM;
		sites->site = more;
		sites->room = room;
	}
	site = &sites->site[sites->count];
	*site = (struct lh_probe_site){
		in->address + in->step[first].at, part, first, last, false, { 0 }, { 0 }
	};
	site->entry = sites->count++ == 0;
	memcpy(site->before, in->code + in->step[first].at, LH_MOVE_JUMP);
	return 0;
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
	uint32_t first, last;
};

/*
 * The steps that move for the exit at step `exit`, none of them below floor. Backward as far as is needed,
 * then forward, then over padding.
 */
static bool choose_exit(const struct lh_probe_part *part, uint32_t exit, uint32_t floor,
                        struct window *window)
{
	const struct lh_probe_step *step = part->step;
	uint32_t first = exit, last = exit, size;

	while (end_of(&step[last]) - step[first].at < LH_MOVE_JUMP && first > floor &&
	       !part->label[step[first].at] && step[first - 1].kind != LH_STEP_CALL &&
	       !ends(&step[first - 1]))
		first--;
	while (end_of(&step[last]) - step[first].at < LH_MOVE_JUMP && !ends(&step[last]) &&
	       step[last].kind != LH_STEP_CALL && last + 1 < part->steps && !part->label[step[last + 1].at])
		last++;
	size = end_of(&step[last]) - step[first].at;
	if (size < LH_MOVE_JUMP && ends(&step[last]))
		size += padding_behind(part, last);
	*window = (struct window){ first, last };
	return size >= LH_MOVE_JUMP && !entered(part, step[first].at, step[first].at + size);
}

/* 0: all exits have sites; 1: the one at *offset of a part cannot have one. */
static int choose_exits(const struct lh_probe_code *code, struct lh_probe_sites *sites, uint64_t *where)
{
	for (uint32_t p = 0; p < code->parts; p++) {
		const struct lh_probe_part *part = &code->part[p];
		uint32_t floor = p == 0 ? sites->site[0].last + 1 : 0;

		for (uint32_t i = floor; i < part->steps; i++) {
			struct window window;
			int result;

			if (!leaves(&part->step[i]))
				continue;
			if (!choose_exit(part, i, floor, &window)) {
				*where = part->address + part->step[i].at;
				return 1;
			}
			result = add_site(sites, code, p, window.first, window.last);
			if (result < 0)
				return result;
			i = window.last;
			floor = window.last + 1;
		}
	}
	return 0;
}

int lh__probe_sites_choose(const struct lh_probe_process *process, const struct lh_probe_code *code,
                           struct lh_probe_sites *sites, char why_not[128], struct lh_error *error)
{
	uint32_t last = 0;
	uint64_t where = 0;
	const char *why = choose_entry(code, &last);
	int result;

	why_not[0] = '\0';
	if (why)
		return lh__fail(error, -EILSEQ, "%s", why);
	result = add_site(sites, code, 0, 0, last);
	if (result == 0 && code->unknown_jumps) {
		lh__format(why_not, 128, "it is not known where all of its jumps lead");
	} else if (result == 0) {
		result = choose_exits(code, sites, &where);
		if (result == 1)
			lh__format(why_not, 128, "its exit at 0x%lx leaves no room for a jump",
			           (unsigned long)where);
	}
	sites->timed = result == 0 && why_not[0] == '\0';
	if (!sites->timed)
		sites->count = 1;
	return result < 0 ? lh__fail(error, result, "no memory") : 0;
}
