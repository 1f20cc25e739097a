/*
 * frame.h - the frames of memory stores: page contents, counted and shared.
 *
 * A frame is one page's content, referred to by any number of page tables; only a holder of the only
 * reference may write it. Frames come out of a heap, in slabs of 64: a pool has a heap, whose slabs are this
 * process' own memory, and a store with a view has one of its own, whose slabs lie in the view as long as
 * that has room. A heap lives until its last frame has been given back, since a clone's frames may be another
 * store's.
 *
 * All functions: from any thread.
 */
#ifndef LH_STORE_FRAME_H
#define LH_STORE_FRAME_H

#include "store/store.h"
#include "store/view.h"
#include "sys/lock.h"

struct lh_slab;

struct lh_frame {
	unsigned char *data; /* LH_PAGE_SIZE bytes, aligned to 64 */
	struct lh_slab *slab;
	struct lh_frame *next_free;
	uint32_t references;
};

struct lh_frame_heap {
	struct lh_memory_pool *pool;
	struct lh_view *view;    /* the heap's own; NULL: none */
	struct lh_lock lock;     /* guards what follows, and the slabs */
	struct lh_slab *partial; /* slabs with a free frame */
	size_t empty;            /* slabs of those with no frame in use; one is kept in reserve */
	size_t references;       /* slabs, and one for its owner */
	bool closed;             /* by its owner: nothing is kept in reserve */
};

struct lh_memory_pool {
	const struct lh_sys *sys;
	uint64_t limit;
	uint64_t used;
	struct lh_frame_heap heap;
};

/* A heap of its own, with a view of pages pages. */
int lh__frame_heap_open(struct lh_memory_pool *pool, uint64_t pages,
                        struct lh_frame_heap **out) LH_MUST_CHECK;
/* Ends the heap once all its frames have been given back. Not for a pool's own. */
void lh__frame_heap_close(struct lh_frame_heap *heap);

/* A frame with one reference and any content. -ENOSPC beyond the pool's limit, -ENOMEM. */
int lh__frame_new(struct lh_frame_heap *heap, struct lh_frame **out) LH_MUST_CHECK;
/* One reference less; the last gives the frame back. frame may be NULL. */
void lh__frame_release(struct lh_frame *frame);
/* Whether the frame lies in this view. */
bool lh__frame_in_view(const struct lh_frame *frame, const struct lh_view *view);

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
