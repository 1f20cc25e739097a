/*
 * order_around.c - windows around misses. A miss near others makes the window that they lie in grow, twofold
 * each time; one that is far from all begins a new window and halves the others. A window is proposed upward
 * from the miss, or downward where misses descend.
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

void lh__order_windows_missed(struct lh_order_windows *windows, uint64_t page)
{
	struct lh_order_window *window;
	unsigned i = find(windows, page);
	uint64_t ahead, behind;

	if (i == windows->used) {
		window = begin(windows, page);
	} else {
		window = bring_forward(windows, i);
		window->descending = page < window->last;
		if (window->size < LH_ORDER_WINDOW_MAX)
			window->size *= 2;
	}
	window->last = page;
	ahead = window->descending ? window->size / 4 : window->size;
	behind = window->descending ? window->size : window->size / 4;
	window->up = page < windows->pages - 1 ? page + 1 : page;
	window->top = above(windows, page, ahead);
	window->down = page;
	window->bottom = below(page, behind);
	if (window->bottom < window->low)
		window->low = window->bottom;
	if (window->top > window->high)
		window->high = window->top;
}

static bool ascend(struct lh_order_window *window, const struct lh_pageset *proposed, uint64_t *page)
{
	if (window->up >= window->top)
		return false;
	window->up = lh__pageset_next_not(proposed, window->up);
	if (window->up >= window->top) {
		window->up = window->top;
		return false;
	}
	*page = window->up++;
	return true;
}

static bool descend(struct lh_order_window *window, const struct lh_pageset *proposed, uint64_t *page)
{
	while (window->down > window->bottom) {
		window->down--;
		if (!lh__pageset_has(proposed, window->down)) {
			*page = window->down;
			return true;
		}
	}
	return false;
}

bool lh__order_windows_next(struct lh_order_windows *windows, const struct lh_pageset *proposed,
                            uint64_t *page)
{
	struct lh_order_window *window;
	unsigned i;

	for (i = 0; i < windows->used; i++) {
		window = &windows->window[i];
		if (window->descending) {
			if (descend(window, proposed, page) || ascend(window, proposed, page))
				return true;
		} else if (ascend(window, proposed, page) || descend(window, proposed, page)) {
			return true;
		}
	}
	return false;
}
