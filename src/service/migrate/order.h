/*
 * order.h - in which order absent pages are copied in the background: the contract of prediction.
 *
 * An order proposes; whoever asks takes from a proposal what is still absent and not asked for already. So an
 * order may propose a page twice, and must in the end have proposed every page once after its last reset.
 * Calls are made under one lock, from several threads; none blocks.
 *
 *     linear    what was written last at the source first (urgent), then ascending
 *     around    and windows around misses: they grow while misses come near them and shrink when not
 *     recorded  and before all: the pages that an earlier run missed
 *     ptline    and after a miss: the pages whose page-table entries share the missed one's line; lines
 *               that were missed more often come first
 *
 * What around and ptline foretell is watched, and left out where it is missed no more often than other pages.
 */
#ifndef LH_MIGRATE_ORDER_H
#define LH_MIGRATE_ORDER_H

#include "line/pageset.h"

enum lh_order_policy { LH_ORDER_LINEAR, LH_ORDER_AROUND, LH_ORDER_RECORDED, LH_ORDER_PTLINE, LH_ORDER_NONE };
#define LH_ORDER_WORDS "linear|around|recorded|ptline|none" /* none: only what is missed */

struct lh_order;

struct lh_order_ops {
	/* A page was missed: somebody waits for it, and it has been asked for. */
	void (*missed)(struct lh_order *order, uint64_t page);
	/* The supply's hints that came with a missed page. */
	void (*hinted)(struct lh_order *order, uint64_t page, const uint64_t *pages, size_t n);
	/* The next page worth asking for; false: nothing until the next miss (policy none) or reset. */
	bool (*next)(struct lh_order *order, uint64_t *page);
	/*
	 * As next, but only what somebody is likely to wait for next: it is worth asking for ahead of a limit
	 * of bandwidth. false: nothing until the next miss.
	 */
	bool (*soon)(struct lh_order *order, uint64_t *page);
	/* Begins anew: all pages will be proposed once more; those of urgent (may be NULL) first. */
	void (*reset)(struct lh_order *order, const struct lh_pageset *urgent);
	void (*close)(struct lh_order *order);
};

struct lh_order {
	const struct lh_order_ops *ops;
};

struct lh_order_options {
	enum lh_order_policy policy;
	uint64_t pages;
	const uint64_t *recorded; /* policy recorded: pages in order; not kept after open */
	size_t recorded_count;
};

/* -EINVAL, -ENOMEM. */
int lh__order_open(const struct lh_order_options *options, struct lh_order **out,
                   struct lh_error *error) LH_MUST_CHECK;

#endif
