/*
 * fault.h - a store that fails when told to, on top of any store.
 *
 * It begins idle, and is then as good as the store below. A plan says what fails, how and when. What fails
 * never reaches the store below, so it changes nothing, as the contract asks of errors.
 */
#ifndef LH_STORE_FAULT_H
#define LH_STORE_FAULT_H

#include "store/store.h"

/* What may fail: requests by kind, and the other calls. */
enum {
	LH_FAULT_GET = 1 << 0,
	LH_FAULT_PUT = 1 << 1,
	LH_FAULT_REPLACE = 1 << 2,
	LH_FAULT_DROP = 1 << 3,
	LH_FAULT_REQUESTS = 15,
	LH_FAULT_SUBMIT = 1 << 4, /* the call itself: none of its requests is taken */
	LH_FAULT_GET_NOW = 1 << 5,
	LH_FAULT_SYNC = 1 << 6,
	LH_FAULT_CLONE = 1 << 7,
	LH_FAULT_ALL = 255,
};

struct lh_fault_plan {
	unsigned what;        /* only these are counted, and fail */
	int error;            /* negative errno; 0 makes the plan idle */
	uint64_t nth;         /* the nth from now on fails, counted from 1; 0: none by count */
	bool lasting;         /* and all after it */
	uint32_t per_million; /* each fails with this chance, decided by seed and its number alone */
	uint64_t seed;
};

/* Takes over below, and closes it when closed; on failure below stays the caller's. */
int lh__fault_open(struct lh_store *below, struct lh_store **out) LH_MUST_CHECK;
/* Sets the plan and counts from 1 again; NULL: idle. While no other call on the store is going on. */
void lh__fault_plan(struct lh_store *store, const struct lh_fault_plan *plan);
/* How many faults were injected since the plan was set. */
uint64_t lh__fault_injected(const struct lh_store *store);

#endif
