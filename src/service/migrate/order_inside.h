/*
 * order_inside.h - what the orders are put together from. Each part proposes pages of its own kind; order.c
 * asks one after the other, and keeps the set of what has been proposed.
 */
#ifndef LH_MIGRATE_ORDER_INSIDE_H
#define LH_MIGRATE_ORDER_INSIDE_H

#include "line/pageset.h"

/* ---- windows around misses (order_around.c) ---- */

/*
 * 64 KiB to 4 MiB, as CRIU's lazy-pages daemon sends at a time; bench/migrate_order.c has what they come to.
 */
#define LH_ORDER_WINDOWS 8u
#define LH_ORDER_WINDOW_MIN 16u
#define LH_ORDER_WINDOW_MAX 1024u

/*
 * A stretch of memory in which misses happen. Still to be proposed: ascending [up, top), and descending
 * [bottom, down). `low` and `high` bound what it has ever had.
 */
struct lh_order_window {
	uint64_t up, top, bottom, down;
	uint64_t low, high, last; /* last: where the newest miss was */
	uint64_t size;
	bool descending; /* the last miss lay below the one before */
};

/* window[0] had the newest miss; `used` of them are in use. */
struct lh_order_windows {
	uint64_t pages;
	unsigned used;
	struct lh_order_window window[LH_ORDER_WINDOWS];
};

void lh__order_windows_reset(struct lh_order_windows *windows, uint64_t pages);
/* late: the page is among those that are proposed or expected; what will be is added to `expected`. */
void lh__order_windows_missed(struct lh_order_windows *windows, uint64_t page, bool late,
                              struct lh_pageset *expected);
/* The next page that is not in `proposed`; false: all windows are done. chased: the farthest ones first. */
bool lh__order_windows_next(struct lh_order_windows *windows, const struct lh_pageset *proposed, bool chased,
                            uint64_t *page);

/* ---- hints (order_hints.c) ---- */

/* So many are kept at most: the oldest give way. */
#define LH_ORDER_HINTS 1024u

/* The newest miss's hints come out first, of them the likeliest. */
struct lh_order_hints {
	uint64_t page[LH_ORDER_HINTS]; /* a ring */
	size_t end, count;             /* the newest stands before `end` */
};

void lh__order_hints_reset(struct lh_order_hints *hints);
/* chased: the likeliest come out last. */
void lh__order_hints_add(struct lh_order_hints *hints, const uint64_t *pages, size_t n, bool chased);
bool lh__order_hints_next(struct lh_order_hints *hints, uint64_t *page);

#endif
