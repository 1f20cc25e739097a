/*
 * delay.h - a store that takes its time, on top of any store: a far node, on a near one.
 *
 * Each request completes at the earliest this long after its submit; requests in flight wait side by side,
 * as on a wire. get_now takes this long. What a request does is done at once; only the answer waits.
 */
#ifndef LH_STORE_DELAY_H
#define LH_STORE_DELAY_H

#include "store/store.h"

/* Takes over below, and closes it when closed; on failure below stays the caller's. */
int lh__delay_open(struct lh_store *below, uint64_t nanoseconds, struct lh_store **out) LH_MUST_CHECK;
/* From now on. While no other call on the store is going on. */
void lh__delay_set(struct lh_store *store, uint64_t nanoseconds);

#endif
