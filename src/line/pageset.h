/*
 * pageset.h - a set of pages: one bit each, in words that several threads may change at once.
 *
 * The memory is the caller's (it may be a mapped file), zeroed or as an earlier run left it; a set is made of
 * lh__pageset_bytes(pages). Changes of one page are atomic; those of many are so page by page, not as a
 * whole.
 *
 * Encoded, a set is its runs of neighbouring pages, 12 bytes each, little-endian: first page (8), pages (4,
 * at least 1); runs ascend and do not touch, but for what goes on behind one of 2^32 - 1 pages.
 */
#ifndef LH_LINE_PAGESET_H
#define LH_LINE_PAGESET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "linehome.h"

struct lh_pageset {
	uint64_t pages; /* members are below */
	uint64_t *word;
};

#define LH_PAGESET_NONE UINT64_MAX
#define LH_PAGESET_RUN 12u /* bytes of an encoded run */

static inline size_t lh__pageset_bytes(uint64_t pages)
{
	return (size_t)((pages + 63) / 64 * 8);
}

static inline bool lh__pageset_has(const struct lh_pageset *set, uint64_t page)
{
	return __atomic_load_n(&set->word[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1;
}

/* Adds a page; whether it was not in the set before: of several threads that add it one is told so. */
static inline bool lh__pageset_add(struct lh_pageset *set, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << page % 64;

	return !(__atomic_fetch_or(&set->word[page / 64], bit, __ATOMIC_ACQ_REL) & bit);
}

/* Takes a page out; whether it was in the set. */
static inline bool lh__pageset_remove(struct lh_pageset *set, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << page % 64;

	return __atomic_fetch_and(&set->word[page / 64], ~bit, __ATOMIC_ACQ_REL) & bit;
}

/* first and the count - 1 that follow it; all are below set->pages. */
void lh__pageset_add_run(struct lh_pageset *set, uint64_t first, uint64_t count);
void lh__pageset_remove_run(struct lh_pageset *set, uint64_t first, uint64_t count);
void lh__pageset_clear(struct lh_pageset *set);
/* All members of `of` too; both have as many pages. */
void lh__pageset_join(struct lh_pageset *set, const struct lh_pageset *of);
void lh__pageset_subtract(struct lh_pageset *set, const struct lh_pageset *of);
uint64_t lh__pageset_count(const struct lh_pageset *set);
/* The first member from `from` on, or LH_PAGESET_NONE. */
uint64_t lh__pageset_next(const struct lh_pageset *set, uint64_t from);
/* The first page from `from` on that is not a member, set->pages where all are. */
uint64_t lh__pageset_next_not(const struct lh_pageset *set, uint64_t from);

/*
 * Writes runs of the members from *from on, as many as fit into size bytes, and sets *from to where it
 * stopped (LH_PAGESET_NONE: all is written). Returns the bytes written.
 */
size_t lh__pageset_encode(const struct lh_pageset *set, uint64_t *from, void *out, size_t size);
/* Adds what is encoded in in. -EPROTO: it is malformed or names a page that the set cannot have; then nothing
 * has changed. */
int lh__pageset_decode(struct lh_pageset *set, const void *in, size_t size) LH_MUST_CHECK;

#endif
