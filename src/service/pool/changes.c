/*
 * changes.c - the pages that the open transaction has changed, or may have: which, and how they were.
 *
 * A list in the order of the first change, with a twin (the page as it was, as far as it is known) for each,
 * and an index by page: open addressing, words of an epoch and a place in the list, so that forgetting all of
 * it is one addition. All of it grows in place and is used again by the next transaction, warm.
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "sys/mutant.h"

#define SLOTS_FIRST 64u
#define TWINS_KEPT 256u /* pages of memory that a large transaction's twins leave in use */

int lh__changes_open(struct lh_pool *pool)
{
	uint64_t pages = pool->header.reach / LH_PAGE_SIZE, index = SLOTS_FIRST;
	struct changes *changes = &pool->changes;
	int result;

	while (index < 4 * pages)
		index *= 2;
	result = lh__room_reserve(pool->sys, &changes->list, pages * sizeof(struct change) + LH_PAGE_SIZE);
	if (result == 0)
		result = lh__room_reserve(pool->sys, &changes->twins, pages * LH_PAGE_SIZE);
	if (result == 0)
		result = lh__room_reserve(pool->sys, &changes->index, index * sizeof(uint64_t));
	if (result == 0)
		result = lh__room_reserve(pool->sys, &changes->log,
		                          pages * sizeof(struct lh_change) + LH_PAGE_SIZE);
	if (result == 0)
		result = lh__room_need(pool->sys, &changes->index, SLOTS_FIRST * sizeof(uint64_t));
	changes->slots = SLOTS_FIRST;
	changes->epoch = 1;
	return result;
}

void lh__changes_close(struct lh_pool *pool)
{
	lh__room_free(pool->sys, &pool->changes.list);
	lh__room_free(pool->sys, &pool->changes.twins);
	lh__room_free(pool->sys, &pool->changes.index);
	lh__room_free(pool->sys, &pool->changes.log);
}

static size_t slot_of(const struct changes *changes, uint64_t page)
{
	return (page * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (changes->slots - 1);
}

/* The slot that holds the page's place in the list, or the empty one where it belongs. */
static uint64_t *find(const struct lh_pool *pool, uint64_t page)
{
	const struct changes *changes = &pool->changes;
	const struct change *list = (const struct change *)changes->list.base;
	uint64_t *index = (uint64_t *)changes->index.base;
	size_t slot = slot_of(changes, page);

	while (index[slot] >> 32 == changes->epoch && list[(uint32_t)index[slot]].page != page)
		slot = (slot + 1) & (changes->slots - 1);
	return &index[slot];
}

static void next_epoch(struct changes *changes)
{
	if (++changes->epoch == 0) {
		memset(changes->index.base, 0, changes->slots * sizeof(uint64_t));
		changes->epoch = 1;
	}
}

static int grow_index(struct lh_pool *pool)
{
	struct changes *changes = &pool->changes;
	int result = lh__room_need(pool->sys, &changes->index, 2 * changes->slots * sizeof(uint64_t));

	if (result < 0)
		return result;
	changes->slots *= 2;
	next_epoch(changes);
	for (size_t i = 0; i < changes->n; i++)
		*find(pool, lh__changes_at(pool, i)->page) = (uint64_t)changes->epoch << 32 | i;
	return 0;
}

struct change *lh__changes_of(struct lh_pool *pool, uint64_t page)
{
	struct changes *changes = &pool->changes;
	size_t n = changes->n;
	uint64_t *slot;

	slot = find(pool, page);
	if (*slot >> 32 == changes->epoch)
		return lh__changes_at(pool, (uint32_t)*slot);
	if (2 * (n + 1) > changes->slots) {
		if (grow_index(pool) < 0)
			return NULL;
		slot = find(pool, page);
	}
	if (lh__room_need(pool->sys, &changes->list, (n + 1) * sizeof(struct change)) < 0 ||
	    lh__room_need(pool->sys, &changes->twins, (n + 1) * LH_PAGE_SIZE) < 0 ||
	    lh__room_need(pool->sys, &changes->log, (n + 1) * sizeof(struct lh_change)) < 0)
		return NULL;
	*slot = (uint64_t)changes->epoch << 32 | n;
	*lh__changes_at(pool, n) = (struct change){ .page = page };
	changes->n++;
	return lh__changes_at(pool, n);
}

struct change *lh__changes_quick(struct lh_pool *pool, uint64_t page)
{
	struct changes *changes = &pool->changes;
	size_t n = changes->n;
	uint64_t *slot = find(pool, page);

	if (*slot >> 32 == changes->epoch)
		return lh__changes_at(pool, (uint32_t)*slot);
	if (2 * (n + 1) > changes->slots || (n + 1) * sizeof(struct change) > changes->list.usable ||
	    (n + 1) * LH_PAGE_SIZE > changes->twins.usable ||
	    (n + 1) * sizeof(struct lh_change) > changes->log.usable)
		return NULL;
	*slot = (uint64_t)changes->epoch << 32 | n;
	*lh__changes_at(pool, n) = (struct change){ .page = page };
	changes->n++;
	return lh__changes_at(pool, n);
}

void lh__changes_save_line(struct lh_pool *pool, struct change *change, unsigned line)
{
	const uint64_t *from =
		(const uint64_t *)(void *)(lh__pool_page(pool, change->page) + LH_LINE_SIZE * line);
	uint64_t *to = (uint64_t *)(void *)(lh__changes_twin(pool, change) + LH_LINE_SIZE * line);

	for (unsigned i = 0; i < LH_LINE_SIZE / 8; i++)
		to[i] = from[i];
	change->saved |= lh__mask_line(line);
}

unsigned char *lh__changes_twin(struct lh_pool *pool, const struct change *change)
{
	return pool->changes.twins.base + LH_PAGE_SIZE * (size_t)(change - lh__changes_at(pool, 0));
}

int lh__changes_save(struct lh_pool *pool, struct change *change, lh_mask mask)
{
	unsigned char *twin = lh__changes_twin(pool, change);
	struct lh_change old = { .page = change->page, .mask = mask & ~change->saved, .data = twin };
	int result = 0;

	if (old.mask == LH_MASK_NONE)
		return 0;
	if (pool->doomed)
		return pool->doomed;
	lh__lines_copy(twin, lh__pool_page(pool, change->page), old.mask);
	if (pool->log == LH_LOG_UNDO && !LH_MUTANT(UNDO_AFTER_STORE))
		result = lh__journal_undo(pool->journal, &pool->transaction, &old, 1);
	if (result == 0)
		change->saved |= old.mask;
	return result;
}

lh_mask lh__changes_found(struct lh_pool *pool, const struct change *change)
{
	const unsigned char *twin = lh__changes_twin(pool, change), *now = lh__pool_page(pool, change->page);
	lh_mask found = LH_MASK_NONE;
	unsigned i;

	if (change->saved == LH_MASK_ALL)
		return lh__page_diff(twin, now);
	LH_MASK_EACH(change->saved, i)
		if (memcmp(twin + LH_LINE_SIZE * i, now + LH_LINE_SIZE * i, LH_LINE_SIZE) != 0)
			found |= lh__mask_line(i);
	return found;
}

void lh__changes_forget(struct lh_pool *pool)
{
	struct changes *changes = &pool->changes;

	if (changes->n > TWINS_KEPT)
		LH_SYS(pool->sys, SYS_madvise, changes->twins.base + TWINS_KEPT * LH_PAGE_SIZE,
		       (changes->n - TWINS_KEPT) * LH_PAGE_SIZE, MADV_DONTNEED);
	changes->n = 0;
	next_epoch(changes);
}
