/*
 * frame.h - the frames of the memory store's pools: page contents, counted and shared.
 *
 * A frame is one page's content, referred to by any number of page tables; only a holder of the only
 * reference may write it. Frames come out of slabs of 63 (256 KiB together), since a system allocator asked
 * for 4096 aligned bytes at a time wastes a good part and gives nothing back.
 *
 * All functions: from any thread.
 */
#ifndef LH_STORE_FRAME_H
#define LH_STORE_FRAME_H

#include "store/store.h"
#include "sys/lock.h"

struct lh_slab;

struct lh_frame {
	_Alignas(64) struct lh_slab *slab;
	struct lh_frame *next_free;
	uint32_t references;
	_Alignas(64) unsigned char data[LH_PAGE_SIZE];
};

struct lh_memory_pool {
	const struct lh_sys *sys;
	uint64_t limit;
	uint64_t used;
	struct lh_lock lock;     /* guards what follows, and the slabs */
	struct lh_slab *partial; /* slabs with a free frame */
	size_t empty;            /* slabs of those with no frame in use; one is kept in reserve */
};

/* A frame with one reference and any content. -ENOSPC beyond the limit, -ENOMEM. */
int lh__frame_new(struct lh_memory_pool *pool, struct lh_frame **out) LH_MUST_CHECK;
/* One reference less; the last gives the frame back. frame may be NULL. */
void lh__frame_release(struct lh_memory_pool *pool, struct lh_frame *frame);

static inline void lh__frame_hold(struct lh_frame *frame)
{
	__atomic_fetch_add(&frame->references, 1, __ATOMIC_RELAXED);
}

/* Whether the caller, who holds a reference, holds the only one. Others' reads of it are then over. */
static inline bool lh__frame_is_mine(const struct lh_frame *frame)
{
	return __atomic_load_n(&frame->references, __ATOMIC_ACQUIRE) == 1;
}

#endif
