/*
 * order_around.c - windows around misses. A miss just beyond a window makes it grow, twofold each time, and
 * go on there; one that is far from all begins a new window and halves the others; one of a page that is
 * expected anyway changes neither. A window is proposed upward from the miss, or downward where misses
 * descend; where the guest is chased, from its far end. Where a first miss has turned out to tell nothing
 * (order_lift.c), the window begins with the second one that is near.
 */
#include "service/migrate/order_inside.h"

void lh__order_windows_reset(struct lh_order_windows *windows, uint64_t pages)
{
	windows->pages = pages;
	windows->used = 0;
}

static uint64_t below(uint64_t page, uint64_t count)
{
	return page > count ? page - count : 0;
}

static uint64_t above(const struct lh_order_windows *windows, uint64_t page, uint64_t count)
{
	return count < windows->pages - page ? page + count : windows->pages;
}

/* Which window's misses lie near the page; `used` where none. */
static unsigned find(const struct lh_order_windows *windows, uint64_t page)
{
	const struct lh_order_window *window;
	unsigned i;

	for (i = 0; i < windows->used; i++) {
		window = &windows->window[i];
		if (page >= below(window->low, window->size) &&
		    page < above(windows, window->high, window->size))
			return i;
	}
	return i;
}

/* Makes window i the first, the others keep their sequence. */
static struct lh_order_window *bring_forward(struct lh_order_windows *windows, unsigned i)
{
	struct lh_order_window window = windows->window[i];

	for (; i > 0; i--)
		windows->window[i] = windows->window[i - 1];
	windows->window[0] = window;
	return &windows->window[0];
}

static struct lh_order_window *begin(struct lh_order_windows *windows, uint64_t page)
{
	struct lh_order_window *window;
	unsigned i;

	for (i = 0; i < windows->used; i++) {
		window = &windows->window[i];
		if (window->size > LH_ORDER_WINDOW_MIN)
			window->size /= 2;
	}
	if (windows->used < LH_ORDER_WINDOWS)
		windows->used++;
	window = bring_forward(windows, windows->used - 1);
	*window = (struct lh_order_window){
		.low = page, .high = page, .last = page, .size = LH_ORDER_WINDOW_MIN
	};
	return window;
}

/* An expected miss: what is left of the part that it lies in begins behind it, and comes first. */
static void pass(struct lh_order_window *window, uint64_t page)
{
	if (page >= window->up && page < window->top) {
		window->up = page + 1;
		window->descending = false;
	} else if (page >= window->bottom && page < window->down) {
		window->down = page;
		window->descending = true;
	}
	window->last = page;
}

static void open_window(struct lh_order_windows *windows, struct lh_order_window *window, uint64_t page)
{
	uint64_t ahead = window->descending ? window->size / 4 : window->size;
	uint64_t behind = window->descending ? window->size : window->size / 4;

	window->last = page;
	window->up = page + 1;
	window->top = above(windows, page, ahead + 1);
	window->down = page;
	window->bottom = below(page, behind);
	if (window->bottom < window->low)
		window->low = window->bottom;
	if (window->top > window->high)
		window->high = window->top;
}

/* The first miss of a window: whether it is to be proposed. Some of its pages are held back. */
static bool worth_it(struct lh_order_window *window, const struct lh_pageset *proposed,
                     struct lh_order_lift *lift)
{
	uint64_t page;

	for (page = window->bottom; page < window->top; page++)
		if (page != window->last && !lh__pageset_has(proposed, page))
			(void)lh__order_lift_take(lift, LH_ORDER_WINDOW, page);
	if (lift->kind[LH_ORDER_WINDOW].used)
		return true;
	window->up = window->top = window->bottom = window->down = window->last;
	return false;
}

void lh__order_windows_missed(struct lh_order_windows *windows, uint64_t page, bool late,
                              const struct lh_pageset *proposed, struct lh_pageset *expected,
                              struct lh_order_lift *lift)
{
	struct lh_order_window *window;
	bool begins = false;
	unsigned i = find(windows, page);

	if (i < windows->used) {
		window = bring_forward(windows, i);
		if (late) {
			pass(window, page);
			return;
		}
		window->descending = page < window->last;
		if (window->size < LH_ORDER_WINDOW_MAX)
			window->size *= 2;
	} else if (late) {
		return;
	} else {
		window = begin(windows, page);
		begins = true;
	}
	open_window(windows, window, page);
	if (begins && !worth_it(window, proposed, lift))
		return;
	lh__pageset_add_run(expected, window->bottom, window->top - window->bottom);
}

/* The lowest of [from, to) that was not proposed, or the highest; what was looked at is taken off. */
static bool lowest(uint64_t *from, uint64_t to, const struct lh_pageset *proposed, uint64_t *page)
{
	if (*from < to)
		*from = lh__pageset_next_not(proposed, *from);
	*page = *from;
	return *from < to && (*from)++ < to;
}

static bool highest(uint64_t from, uint64_t *to, const struct lh_pageset *proposed, uint64_t *page)
{
	while (*to > from) {
		*page = --*to;
		if (!lh__pageset_has(proposed, *page))
			return true;
	}
	return false;
}

static bool ascend(struct lh_order_window *window, const struct lh_pageset *proposed, bool chased,
                   uint64_t *page)
{
	return chased ? highest(window->up, &window->top, proposed, page)
	              : lowest(&window->up, window->top, proposed, page);
}

static bool descend(struct lh_order_window *window, const struct lh_pageset *proposed, bool chased,
                    uint64_t *page)
{
	return chased ? lowest(&window->bottom, window->down, proposed, page)
	              : highest(window->bottom, &window->down, proposed, page);
}

bool lh__order_windows_next(struct lh_order_windows *windows, const struct lh_pageset *proposed, bool chased,
                            uint64_t *page)
{
	struct lh_order_window *window;
	unsigned i;

	for (i = 0; i < windows->used; i++) {
		window = &windows->window[i];
		if (window->descending) {
			if (descend(window, proposed, chased, page) || ascend(window, proposed, false, page))
				return true;
		} else if (ascend(window, proposed, chased, page) || descend(window, proposed, false, page)) {
			return true;
		}
	}
	return false;
}
