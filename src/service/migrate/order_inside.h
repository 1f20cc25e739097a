/*
 * order_inside.h - what the orders are put together from. Each part proposes pages of its own kind; order.c
 * asks one after the other, and keeps the set of what has been proposed.
 */
#ifndef LH_MIGRATE_ORDER_INSIDE_H
#define LH_MIGRATE_ORDER_INSIDE_H

#include "line/pageset.h"

/* ---- whether predicting pays (order_lift.c) ---- */

/*
 * What predicts. Of the hints of a miss: the pages of its own line, those of the two lines next to it, and
 * those beyond; NEAR: if one of all these was missed a short while ago.
 */
enum lh_order_predicts {
	LH_ORDER_WINDOW, /* what lies around the first miss of a window */
	LH_ORDER_LINE,
	LH_ORDER_NEXT,
	LH_ORDER_BEYOND,
	LH_ORDER_NEAR_LINE,
	LH_ORDER_NEAR_NEXT,
	LH_ORDER_NEAR_BEYOND,
	LH_ORDER_KINDS
};
#define LH_ORDER_HELD 1024u
#define LH_ORDER_RECENT 256u

/* In the beginning, when nothing is known, some are used. */
static inline bool lh__order_kind_begins(unsigned kind)
{
	return kind == LH_ORDER_WINDOW || kind == LH_ORDER_LINE || kind == LH_ORDER_NEAR_LINE ||
	       kind == LH_ORDER_NEAR_NEXT;
}

struct lh_order_kind {
	double hits, chance; /* of the pages held back: misses, and misses to be expected by chance */
	bool used;
	unsigned turn;
	size_t end, held;
	uint64_t page[LH_ORDER_HELD];  /* a ring of what is held back; LH_PAGESET_NONE: nothing */
	uint64_t since[LH_ORDER_HELD]; /* how many proposals had been made then */
};

struct lh_order_lift {
	struct lh_pageset held, recent; /* recent: those in `last` */
	uint64_t last[LH_ORDER_RECENT]; /* a ring of misses */
	size_t end;
	uint64_t proposals;
	double sweep_hits, sweep_chance;
	struct lh_order_kind kind[LH_ORDER_KINDS];
};

void lh__order_lift_reset(struct lh_order_lift *lift);
/* Whether an absent page that is predicted is to be proposed; else it may be held back. */
bool lh__order_lift_take(struct lh_order_lift *lift, enum lh_order_predicts kind, uint64_t page);
/* Whether one of these was missed a short while ago. */
bool lh__order_lift_near(const struct lh_order_lift *lift, const uint64_t *pages, size_t n);
void lh__order_lift_proposed(struct lh_order_lift *lift, uint64_t page);
/* A page was missed; so many are absent, and the sweep is at cursor. */
void lh__order_lift_missed(struct lh_order_lift *lift, uint64_t page, uint64_t absent, uint64_t cursor);

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
/*
 * late: the page is among those that are proposed or expected; what will be is added to `expected`. Whether a
 * window's first miss opens it says the lift.
 */
void lh__order_windows_missed(struct lh_order_windows *windows, uint64_t page, bool late,
                              const struct lh_pageset *proposed, struct lh_pageset *expected,
                              struct lh_order_lift *lift);
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
