/* frame.c - see frame.h. */
#include "store/frame.h"

#include <errno.h>

#define SLAB_FRAMES 63

struct lh_slab {
	_Alignas(64) struct lh_slab *next;
	struct lh_slab *previous;
	struct lh_frame *free;
	unsigned in_use;
	struct lh_frame frame[SLAB_FRAMES];
};
_Static_assert(sizeof(struct lh_slab) == 256 * 1024, "a slab is a round size for the allocator");

int lh__memory_pool_open(const struct lh_sys *sys, uint64_t limit, struct lh_memory_pool **out)
{
	struct lh_memory_pool *pool = lh__alloc(sys, sizeof *pool);

	if (!pool)
		return -ENOMEM;
	pool->sys = sys;
	pool->limit = limit;
	*out = pool;
	return 0;
}

void lh__memory_pool_close(struct lh_memory_pool *pool)
{
	if (!pool)
		return;
	/* Every frame has been given back, so every slab stands in this list. */
	while (pool->partial) {
		struct lh_slab *slab = pool->partial;

		pool->partial = slab->next;
		lh__free(pool->sys, slab, sizeof *slab);
	}
	lh__free(pool->sys, pool, sizeof *pool);
}

uint64_t lh__memory_pool_used(const struct lh_memory_pool *pool)
{
	return __atomic_load_n(&pool->used, __ATOMIC_RELAXED);
}

uint64_t lh__memory_pool_limit(const struct lh_memory_pool *pool)
{
	return pool->limit;
}

/* Counts one page more, unless that would pass the limit. */
static bool take_quota(struct lh_memory_pool *pool)
{
	uint64_t used = __atomic_load_n(&pool->used, __ATOMIC_RELAXED);

	do {
		if (pool->limit != 0 && (pool->limit < LH_PAGE_SIZE || used > pool->limit - LH_PAGE_SIZE))
			return false;
	} while (!__atomic_compare_exchange_n(&pool->used, &used, used + LH_PAGE_SIZE, true, __ATOMIC_RELAXED,
	                                      __ATOMIC_RELAXED));
	return true;
}

static void give_quota(struct lh_memory_pool *pool)
{
	__atomic_fetch_sub(&pool->used, LH_PAGE_SIZE, __ATOMIC_RELAXED);
}

static void link_slab(struct lh_memory_pool *pool, struct lh_slab *slab)
{
	slab->previous = NULL;
	slab->next = pool->partial;
	if (slab->next)
		slab->next->previous = slab;
	pool->partial = slab;
}

static void unlink_slab(struct lh_memory_pool *pool, struct lh_slab *slab)
{
	if (slab->next)
		slab->next->previous = slab->previous;
	if (slab->previous)
		slab->previous->next = slab->next;
	else
		pool->partial = slab->next;
}

static struct lh_frame *pop_frame(struct lh_memory_pool *pool)
{
	struct lh_slab *slab = pool->partial;
	struct lh_frame *frame;

	if (!slab)
		return NULL;
	frame = slab->free;
	slab->free = frame->next_free;
	pool->empty -= slab->in_use++ == 0;
	if (!slab->free)
		unlink_slab(pool, slab);
	return frame;
}

/* Returns the frame's slab if it should go back to the system now. */
static struct lh_slab *push_frame(struct lh_memory_pool *pool, struct lh_frame *frame)
{
	struct lh_slab *slab = frame->slab;

	if (!slab->free)
		link_slab(pool, slab);
	frame->next_free = slab->free;
	slab->free = frame;
	if (--slab->in_use > 0)
		return NULL;
	if (pool->empty++ == 0)
		return NULL;
	pool->empty--;
	unlink_slab(pool, slab);
	return slab;
}

static int add_slab(struct lh_memory_pool *pool)
{
	struct lh_slab *slab = lh__alloc(pool->sys, sizeof *slab);
	unsigned i;

	if (!slab)
		return -ENOMEM;
	for (i = SLAB_FRAMES; i-- > 0;) {
		slab->frame[i].slab = slab;
		slab->frame[i].next_free = slab->free;
		slab->free = &slab->frame[i];
	}
	lh__lock(pool->sys, &pool->lock);
	link_slab(pool, slab);
	pool->empty++;
	lh__unlock(pool->sys, &pool->lock);
	return 0;
}

int lh__frame_new(struct lh_memory_pool *pool, struct lh_frame **out)
{
	struct lh_frame *frame;

	if (!take_quota(pool))
		return -ENOSPC;
	for (;;) {
		lh__lock(pool->sys, &pool->lock);
		frame = pop_frame(pool);
		lh__unlock(pool->sys, &pool->lock);
		if (frame)
			break;
		if (add_slab(pool) != 0) {
			give_quota(pool);
			return -ENOMEM;
		}
	}
	frame->references = 1;
	*out = frame;
	return 0;
}

void lh__frame_release(struct lh_memory_pool *pool, struct lh_frame *frame)
{
	struct lh_slab *surplus;

	if (!frame || __atomic_sub_fetch(&frame->references, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	lh__lock(pool->sys, &pool->lock);
	surplus = push_frame(pool, frame);
	lh__unlock(pool->sys, &pool->lock);
	give_quota(pool);
	if (surplus)
		lh__free(pool->sys, surplus, sizeof *surplus);
}
