/*
 * crash.h - a medium for tests that may lose power at any moment, and a store on it.
 *
 * Two images of all pages are kept: what the client sees, and what is *certain*: durable whatever happens.
 * What differs is *in flight*, in units that arrive by themselves: sectors of 512 bytes where pages are
 * reached by requests; lines, of which each aligned word of 8 bytes arrives by itself, where they are
 * reached by memory. At a crash each unit holds what is certain or any content that it was given since
 * then. So nothing is made up by chance here: the store offers the choices at each *point* (after each
 * request that changes something, before a durable one is promised, and before each flush, fence and sync),
 * and the test makes of them as many media as it likes.
 *
 * A flush snapshots the lines and a fence of the same thread makes the snapshots certain; what was stored
 * in between may have arrived too. A line that was never flushed may also have arrived: caches evict. A PUT
 * is made certain by sync, or by itself where it is durable; never by a fence.
 *
 * The medium outlives the store on it, as a disk does.
 */
#ifndef LH_STORE_CRASH_H
#define LH_STORE_CRASH_H

#include "store/store.h"

struct lh_crash;

enum lh_crash_point { LH_CRASH_REQUEST, LH_CRASH_SYNC, LH_CRASH_FLUSH, LH_CRASH_FENCE };

struct lh_crash_options {
	uint64_t pages;
	bool direct;         /* the store has `direct`; else requests are all there is */
	bool no_durable_put; /* LH_REQUEST_DURABLE is not honoured */
	bool calm;           /* nothing is held back, and there are no points */
	/*
	 * Called at each point, by the thread whose call it is, with the medium locked: it may use the
	 * functions below that read the medium, and no store on it. May be NULL.
	 */
	void (*point)(void *context, struct lh_crash *crash, enum lh_crash_point kind);
	void *context;
};

int lh__crash_open(const struct lh_sys *sys, const struct lh_crash_options *options,
                   struct lh_crash **out) LH_MUST_CHECK;
/* No store may be open on it. */
void lh__crash_close(struct lh_crash *crash);
/* The store: one at a time. Its close loses nothing and syncs nothing. */
struct lh_store *lh__crash_store(struct lh_crash *crash);
/* Power is on again, with this content of all pages (NULL: zeroes), and all of it certain. */
void lh__crash_reset(struct lh_crash *crash, const void *image);

/* What the client sees, and what is certain: all pages. */
const void *lh__crash_seen(const struct lh_crash *crash);
const void *lh__crash_certain(const struct lh_crash *crash);

/* One unit in flight. choice[0] is what is certain; the others what it was given since then, oldest first. */
#define LH_CRASH_CHOICES 6u
struct lh_crash_unit {
	uint64_t at; /* the byte of the medium where it begins */
	unsigned choices;
	const void *choice[LH_CRASH_CHOICES];
};
/* Fills in the first `max` units in flight, in ascending order; returns how many that is. */
size_t lh__crash_in_flight(const struct lh_crash *crash, struct lh_crash_unit *units, size_t max);
/* The size of a unit. */
size_t lh__crash_unit_size(const struct lh_crash *crash);

#endif
