/*
 * order.c - the orders: parts that propose, asked one after the other, and the set of what was proposed, so
 * that each page is proposed once, however many parts know it.
 *
 *     linear                                   urgent  then ascending
 *     around                                   urgent  windows  ascending
 *     recorded          what was recorded      urgent  windows  ascending
 *     ptline     hints                         urgent  windows  ascending
 *     none       nothing
 *
 * A missed page has been asked for already and is proposed all the same, when its turn comes: it may be lost
 * when a supply breaks, and who asks passes over what is there.
 *
 * Windows and hints come from misses, if they are worth it (order_lift.c); whether a miss was of a page that
 * these had already led to says whether they were in time.
 *
 * A proposal costs O(1), amortised: a part that proposes a page that was proposed before has been paid for by
 * the hint, the recorded page, the miss (whose window is bounded) or the word of the set that it looked at.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/order.h"
#include "service/migrate/order_inside.h"
#include "sys/sys.h"

#define LATE 2u
#define LATE_MOST 3u

/* Of a miss's hints, which are the likeliest first: pages of its own line, and of the lines next to it. */
#define HINTS_LINE 7u
#define HINTS_NEXT 23u
#define HINTS_MAX 64u

struct order {
	struct lh_order base;
	enum lh_order_policy policy;
	uint64_t pages;
	struct lh_pageset proposed;
	struct lh_pageset urgent;
	uint64_t urgent_next; /* LH_PAGESET_NONE: no more of them */
	uint64_t ascending;
	uint64_t *recorded;
	size_t recorded_count, recorded_next;
	struct lh_order_windows windows;
	struct lh_order_hints hints;
	struct lh_order_lift lift;
	struct lh_pageset missed;
	uint64_t absent;            /* neither proposed nor missed */
	struct lh_pageset expected; /* pages that a miss has led to, whether they have been proposed or not */
	unsigned late; /* misses of what was proposed or expected count up, others down; 0 to LATE_MOST */
};

#define SETS(order)                                                                                          \
	&(order)->proposed, &(order)->urgent, &(order)->expected, &(order)->missed, &(order)->lift.held,     \
		&(order)->lift.recent

static bool fresh(const struct order *order, uint64_t page)
{
	return !lh__pageset_has(&order->proposed, page);
}

/*
 * Whether the guest is faster than what it is expected to touch comes in, and misses one page after another
 * that is on its way. Then it is answered sooner on the lane of faults, and the background begins with what
 * it will touch last: both meet in the middle. Simulated (bench/migrate_order.c), a guest that reads on
 * faster than the link misses a sixth of the pages, and waits for half as long.
 */
static bool chased(const struct order *order)
{
	return order->late >= LATE;
}

static bool next_hint(struct order *order, uint64_t *page)
{
	while (lh__order_hints_next(&order->hints, page))
		if (fresh(order, *page))
			return true;
	return false;
}

static bool next_recorded(struct order *order, uint64_t *page)
{
	while (order->recorded_next < order->recorded_count) {
		*page = order->recorded[order->recorded_next++];
		if (fresh(order, *page))
			return true;
	}
	return false;
}

static bool next_urgent(struct order *order, uint64_t *page)
{
	while (order->urgent_next < order->pages) {
		*page = lh__pageset_next(&order->urgent, order->urgent_next);
		order->urgent_next = *page == LH_PAGESET_NONE ? LH_PAGESET_NONE : *page + 1;
		if (*page != LH_PAGESET_NONE && fresh(order, *page))
			return true;
	}
	return false;
}

static bool next_ascending(struct order *order, uint64_t *page)
{
	if (order->ascending < order->pages)
		order->ascending = lh__pageset_next_not(&order->proposed, order->ascending);
	*page = order->ascending;
	return order->ascending < order->pages;
}

static void propose(struct order *order, uint64_t page)
{
	(void)lh__pageset_add(&order->proposed, page);
	lh__order_lift_proposed(&order->lift, page);
	if (!lh__pageset_has(&order->missed, page))
		order->absent--;
}

static bool order_soon(struct lh_order *base, uint64_t *page)
{
	struct order *order = (struct order *)base;

	if (!next_hint(order, page))
		return false;
	propose(order, *page);
	return true;
}

static bool order_next(struct lh_order *base, uint64_t *page)
{
	struct order *order = (struct order *)base;
	uint64_t found;

	if (!next_hint(order, &found) && !next_recorded(order, &found) && !next_urgent(order, &found) &&
	    !lh__order_windows_next(&order->windows, &order->proposed, chased(order), &found) &&
	    !next_ascending(order, &found))
		return false;
	propose(order, found);
	*page = found;
	return true;
}

static bool nothing_next(struct lh_order *base, uint64_t *page)
{
	return false;
}

static void order_missed(struct lh_order *base, uint64_t page)
{
	struct order *order = (struct order *)base;
	bool late;

	if (page >= order->pages)
		return;
	late = !fresh(order, page) || lh__pageset_has(&order->expected, page);
	if (late && order->late < LATE_MOST)
		order->late++;
	else if (!late && order->late > 0)
		order->late--;
	lh__order_lift_missed(&order->lift, page, order->absent, order->ascending);
	if (lh__pageset_add(&order->missed, page) && fresh(order, page))
		order->absent--;
	lh__order_windows_missed(&order->windows, page, late, &order->proposed, &order->expected,
	                         &order->lift);
}

/* Which of a miss's hints are worth it; returns how many, and how many of these are of its own line. */
static size_t choose(struct order *order, const uint64_t *pages, size_t n, uint64_t *kept, size_t *line)
{
	unsigned first = lh__order_lift_near(&order->lift, pages, n) ? LH_ORDER_NEAR_LINE : LH_ORDER_LINE;
	size_t i, count = 0;

	*line = 0;
	for (i = 0; i < n && i < HINTS_MAX; i++) {
		if (pages[i] >= order->pages || !fresh(order, pages[i]) ||
		    lh__pageset_has(&order->missed, pages[i]) ||
		    !lh__order_lift_take(&order->lift, first + (i >= HINTS_LINE) + (i >= HINTS_NEXT),
		                         pages[i]))
			continue;
		kept[count++] = pages[i];
		*line += i < HINTS_LINE;
	}
	return count;
}

static void order_hinted(struct lh_order *base, uint64_t page, const uint64_t *pages, size_t n)
{
	struct order *order = (struct order *)base;
	uint64_t kept[HINTS_MAX];
	size_t i, line, count = choose(order, pages, n, kept, &line);

	for (i = 0; i < count; i++)
		(void)lh__pageset_add(&order->expected, kept[i]);
	lh__order_hints_add(&order->hints, kept + line, count - line, chased(order));
	lh__order_hints_add(&order->hints, kept, line, chased(order)); /* these come out first */
}

static void ignore_missed(struct lh_order *base, uint64_t page)
{
}

static void ignore_hinted(struct lh_order *base, uint64_t page, const uint64_t *pages, size_t n)
{
}

static void order_reset(struct lh_order *base, const struct lh_pageset *urgent)
{
	struct order *order = (struct order *)base;
	size_t bytes = lh__pageset_bytes(order->pages);

	memset(order->proposed.word, 0, bytes);
	memset(order->expected.word, 0, bytes);
	memset(order->missed.word, 0, bytes);
	order->absent = order->pages;
	lh__order_lift_reset(&order->lift);
	order->late = 0;
	order->urgent_next = LH_PAGESET_NONE;
	if (urgent && urgent->pages == order->pages) {
		memcpy(order->urgent.word, urgent->word, bytes);
		order->urgent_next = 0;
	}
	order->ascending = 0;
	order->recorded_next = 0;
	lh__order_windows_reset(&order->windows, order->pages);
	lh__order_hints_reset(&order->hints);
}

static void ignore_reset(struct lh_order *base, const struct lh_pageset *urgent)
{
}

static void order_close(struct lh_order *base)
{
	struct order *order = (struct order *)base;

	struct lh_pageset *const sets[] = { SETS(order) };
	size_t i;

	for (i = 0; i < sizeof(sets) / sizeof(*sets); i++)
		free(sets[i]->word);
	free(order->recorded);
	free(order);
}

#define OPS(missed, hinted, next, soon, reset)                                                               \
	{                                                                                                    \
		missed, hinted, next, soon, reset, order_close                                               \
	}
static const struct lh_order_ops linear_ops =
	OPS(ignore_missed, ignore_hinted, order_next, nothing_next, order_reset);
static const struct lh_order_ops around_ops =
	OPS(order_missed, ignore_hinted, order_next, order_soon, order_reset);
static const struct lh_order_ops ptline_ops =
	OPS(order_missed, order_hinted, order_next, order_soon, order_reset);
static const struct lh_order_ops none_ops =
	OPS(ignore_missed, ignore_hinted, nothing_next, nothing_next, ignore_reset);
static const struct lh_order_ops *const ops[] = {
	[LH_ORDER_LINEAR] = &linear_ops, [LH_ORDER_AROUND] = &around_ops, [LH_ORDER_RECORDED] = &around_ops,
	[LH_ORDER_PTLINE] = &ptline_ops, [LH_ORDER_NONE] = &none_ops,
};

static int allocate(struct order *order, const struct lh_order_options *options)
{
	size_t bytes = lh__pageset_bytes(options->pages);

	struct lh_pageset *const sets[] = { SETS(order) };
	size_t i;

	for (i = 0; i < sizeof(sets) / sizeof(*sets); i++) {
		sets[i]->pages = options->pages;
		sets[i]->word = calloc(1, bytes ? bytes : 8);
		if (!sets[i]->word)
			return -ENOMEM;
	}
	if (options->policy != LH_ORDER_RECORDED || options->recorded_count == 0)
		return 0;
	order->recorded = calloc(options->recorded_count, sizeof(*order->recorded));
	if (!order->recorded)
		return -ENOMEM;
	memcpy(order->recorded, options->recorded, options->recorded_count * sizeof(*order->recorded));
	order->recorded_count = options->recorded_count;
	return 0;
}

static int check(const struct lh_order_options *options, struct lh_error *error)
{
	size_t i;

	if ((unsigned)options->policy >= sizeof(ops) / sizeof(*ops))
		return lh__fail(error, -EINVAL, "not an order of pages: %d", (int)options->policy);
	for (i = 0; options->policy == LH_ORDER_RECORDED && i < options->recorded_count; i++)
		if (options->recorded[i] >= options->pages)
			return lh__fail(error, -EINVAL, "the recording names page %lu of a guest of %lu",
			                (unsigned long)options->recorded[i], (unsigned long)options->pages);
	return 0;
}

int lh__order_open(const struct lh_order_options *options, struct lh_order **out, struct lh_error *error)
{
	struct order *order;
	int result = check(options, error);

	if (result < 0)
		return result;
	order = calloc(1, sizeof(*order));
	if (!order || allocate(order, options) < 0) {
		if (order)
			order_close(&order->base);
		return lh__fail(error, -ENOMEM, "no memory for an order of %lu pages",
		                (unsigned long)options->pages);
	}
	order->policy = options->policy;
	order->pages = options->pages;
	order->base.ops = ops[options->policy];
	order->base.ops->reset(&order->base, NULL);
	*out = &order->base;
	return 0;
}
