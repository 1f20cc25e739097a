/*
 * pageset.c - sets of pages, a word at a time. See pageset.h.
 *
 * A word of which all 64 pages change is stored, one of which some do is changed by an atomic or, or and; so
 * a run of a gigabyte's pages is 4096 stores. What stands in the last word beyond the set's pages is never
 * looked at, since the memory may be a file that somebody else has written.
 */
#include "line/pageset.h"

#include <errno.h>
#include <string.h>

#define WORD_PAGES 64u
#define RUN_PAGES_MAX UINT32_MAX

static inline uint64_t words(const struct lh_pageset *set)
{
	return (set->pages + WORD_PAGES - 1) / WORD_PAGES;
}

static inline uint64_t word_at(const struct lh_pageset *set, uint64_t index)
{
	return __atomic_load_n(&set->word[index], __ATOMIC_ACQUIRE);
}

/* The pages of a word that the set has. */
static inline uint64_t within(const struct lh_pageset *set, uint64_t index)
{
	uint64_t pages = set->pages - index * WORD_PAGES;

	return pages < WORD_PAGES ? (UINT64_C(1) << pages) - 1 : UINT64_MAX;
}

static void change(uint64_t *word, uint64_t bits, bool add)
{
	if (bits == UINT64_MAX)
		__atomic_store_n(word, add ? UINT64_MAX : 0, __ATOMIC_RELEASE);
	else if (add)
		__atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL);
	else
		__atomic_fetch_and(word, ~bits, __ATOMIC_ACQ_REL);
}

static void change_run(struct lh_pageset *set, uint64_t first, uint64_t count, bool add)
{
	while (count > 0) {
		unsigned shift = (unsigned)(first % WORD_PAGES);
		uint64_t n = WORD_PAGES - shift < count ? WORD_PAGES - shift : count;
		uint64_t bits = n < WORD_PAGES ? (UINT64_C(1) << n) - 1 : UINT64_MAX;

		change(&set->word[first / WORD_PAGES], bits << shift, add);
		first += n;
		count -= n;
	}
}

void lh__pageset_add_run(struct lh_pageset *set, uint64_t first, uint64_t count)
{
	change_run(set, first, count, true);
}

void lh__pageset_remove_run(struct lh_pageset *set, uint64_t first, uint64_t count)
{
	change_run(set, first, count, false);
}

void lh__pageset_clear(struct lh_pageset *set)
{
	for (uint64_t i = 0; i < words(set); i++)
		__atomic_store_n(&set->word[i], 0, __ATOMIC_RELEASE);
}

void lh__pageset_join(struct lh_pageset *set, const struct lh_pageset *of)
{
	for (uint64_t i = 0; i < words(set); i++) {
		uint64_t bits = word_at(of, i) & within(set, i);

		if (bits)
			change(&set->word[i], bits, true);
	}
}

void lh__pageset_subtract(struct lh_pageset *set, const struct lh_pageset *of)
{
	for (uint64_t i = 0; i < words(set); i++) {
		uint64_t bits = word_at(of, i);

		if (bits)
			change(&set->word[i], bits, false);
	}
}

uint64_t lh__pageset_count(const struct lh_pageset *set)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < words(set); i++)
		count += (uint64_t)__builtin_popcountll(word_at(set, i) & within(set, i));
	return count;
}

/* The first page from `from` on that is a member, or (flip all bits) is not; set->pages: there is none. */
static uint64_t seek(const struct lh_pageset *set, uint64_t from, uint64_t flip)
{
	uint64_t i = from / WORD_PAGES, bits;

	if (from >= set->pages)
		return set->pages;
	bits = (word_at(set, i) ^ flip) & UINT64_MAX << from % WORD_PAGES;
	while (!bits && ++i < words(set))
		bits = word_at(set, i) ^ flip;
	if (!bits)
		return set->pages;
	from = i * WORD_PAGES + (uint64_t)__builtin_ctzll(bits);
	return from < set->pages ? from : set->pages;
}

uint64_t lh__pageset_next(const struct lh_pageset *set, uint64_t from)
{
	uint64_t page = seek(set, from, 0);

	return page < set->pages ? page : LH_PAGESET_NONE;
}

uint64_t lh__pageset_next_not(const struct lh_pageset *set, uint64_t from)
{
	return seek(set, from, UINT64_MAX);
}

/* ---- encoding ---- */

/* A page that another thread takes out of the set meanwhile is in or not; a run is never empty. */
size_t lh__pageset_encode(const struct lh_pageset *set, uint64_t *from, void *out, size_t size)
{
	unsigned char *to = out;
	uint64_t first = lh__pageset_next(set, *from), end;

	for (; first != LH_PAGESET_NONE && size >= LH_PAGESET_RUN; size -= LH_PAGESET_RUN) {
		uint32_t count;

		end = lh__pageset_next_not(set, first + 1);
		count = end - first < RUN_PAGES_MAX ? (uint32_t)(end - first) : RUN_PAGES_MAX;
		memcpy(to, &first, 8);
		memcpy(to + 8, &count, 4);
		to += LH_PAGESET_RUN;
		first = lh__pageset_next(set, first + count);
	}
	*from = first;
	return (size_t)(to - (unsigned char *)out);
}

static uint64_t run_read(const unsigned char *in, uint32_t *count)
{
	uint64_t first;

	memcpy(&first, in, 8);
	memcpy(count, in + 8, 4);
	return first;
}

static bool well_formed(const struct lh_pageset *set, const unsigned char *in, size_t size)
{
	uint64_t least = 0; /* where the next run may begin */

	for (size_t at = 0; at < size; at += LH_PAGESET_RUN) {
		uint32_t count;
		uint64_t first = run_read(in + at, &count);

		if (count == 0 || first < least || first >= set->pages || count > set->pages - first)
			return false;
		least = first + count + (count < RUN_PAGES_MAX);
	}
	return true;
}

int lh__pageset_decode(struct lh_pageset *set, const void *in, size_t size)
{
	const unsigned char *from = in;

	if (size % LH_PAGESET_RUN != 0 || !well_formed(set, from, size))
		return -EPROTO;
	for (size_t at = 0; at < size; at += LH_PAGESET_RUN) {
		uint32_t count;
		uint64_t first = run_read(from + at, &count);

		lh__pageset_add_run(set, first, count);
	}
	return 0;
}
