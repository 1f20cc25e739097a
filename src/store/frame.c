/* frame.c - see frame.h. */
#include "store/frame.h"

#include <errno.h>

#define SLAB_FRAMES 64
#define SLAB_BYTES ((size_t)SLAB_FRAMES * LH_PAGE_SIZE)
_Static_assert(SLAB_BYTES == LH_VIEW_CHUNK, "a slab's memory is a view's piece");

struct lh_slab {
	struct lh_slab *next, *previous;
	struct lh_frame *free;
	struct lh_frame_heap *heap;
	unsigned char *memory;
	unsigned in_use;
	bool viewed; /* the memory lies in the heap's view */
	struct lh_frame frame[SLAB_FRAMES];
};

/* ---- slabs ---- */

static void free_slab(struct lh_frame_heap *heap, struct lh_slab *slab)
{
	const struct lh_sys *sys = heap->pool->sys;

	if (slab->viewed)
		lh__view_give_room(heap->view, slab->memory);
	else
		lh__free(sys, slab->memory, SLAB_BYTES);
	lh__free(sys, slab, sizeof *slab);
}

static struct lh_slab *make_slab(struct lh_frame_heap *heap)
{
	const struct lh_sys *sys = heap->pool->sys;
	struct lh_slab *slab = lh__alloc(sys, sizeof *slab);

	if (!slab)
		return NULL;
	slab->heap = heap;
	slab->memory = heap->view ? lh__view_take_room(heap->view) : NULL;
	slab->viewed = slab->memory != NULL;
	if (!slab->memory)
		slab->memory = lh__alloc(sys, SLAB_BYTES);
	if (!slab->memory) {
		lh__free(sys, slab, sizeof *slab);
		return NULL;
	}
	for (unsigned i = SLAB_FRAMES; i-- > 0;) {
		slab->frame[i] = (struct lh_frame){ .data = slab->memory + (size_t)i * LH_PAGE_SIZE,
			                            .slab = slab,
			                            .next_free = slab->free };
		slab->free = &slab->frame[i];
	}
	return slab;
}

/* Every frame has been given back, so every slab stands in the list. */
static void free_slabs(struct lh_frame_heap *heap)
{
	while (heap->partial) {
		struct lh_slab *slab = heap->partial;

		heap->partial = slab->next;
		free_slab(heap, slab);
	}
}

/* ---- pools and heaps ---- */

int lh__memory_pool_open(const struct lh_sys *sys, uint64_t limit, struct lh_memory_pool **out)
{
	struct lh_memory_pool *pool = lh__alloc(sys, sizeof *pool);

	if (!pool)
		return -ENOMEM;
	pool->sys = sys;
	pool->limit = limit;
	pool->heap.pool = pool;
	pool->heap.references = 1;
	*out = pool;
	return 0;
}

void lh__memory_pool_close(struct lh_memory_pool *pool)
{
	if (!pool)
		return;
	free_slabs(&pool->heap);
	lh__free(pool->sys, pool, sizeof *pool);
}

int lh__frame_heap_open(struct lh_memory_pool *pool, uint64_t pages, struct lh_frame_heap **out)
{
	struct lh_frame_heap *heap = lh__alloc(pool->sys, sizeof *heap);
	int result = heap ? lh__view_make(pool->sys, pages, &heap->view) : -ENOMEM;

	if (result < 0) {
		lh__free(pool->sys, heap, sizeof *heap);
		return result;
	}
	heap->pool = pool;
	heap->references = 1;
	*out = heap;
	return 0;
}

static void end_heap(struct lh_frame_heap *heap)
{
	lh__view_unmake(heap->view);
	lh__free(heap->pool->sys, heap, sizeof *heap);
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

/* ---- frames: under the heap's lock ---- */

static void link_slab(struct lh_frame_heap *heap, struct lh_slab *slab)
{
	slab->previous = NULL;
	slab->next = heap->partial;
	if (slab->next)
		slab->next->previous = slab;
	heap->partial = slab;
}

static void unlink_slab(struct lh_frame_heap *heap, struct lh_slab *slab)
{
	if (slab->next)
		slab->next->previous = slab->previous;
	if (slab->previous)
		slab->previous->next = slab->next;
	else
		heap->partial = slab->next;
}

static struct lh_frame *pop_frame(struct lh_frame_heap *heap)
{
	struct lh_slab *slab = heap->partial;
	struct lh_frame *frame;

	if (!slab)
		return NULL;
	frame = slab->free;
	slab->free = frame->next_free;
	heap->empty -= slab->in_use++ == 0;
	if (!slab->free)
		unlink_slab(heap, slab);
	return frame;
}

/* Returns the frame's slab if it should go back to the system now. */
static struct lh_slab *push_frame(struct lh_frame_heap *heap, struct lh_frame *frame)
{
	struct lh_slab *slab = frame->slab;

	if (!slab->free)
		link_slab(heap, slab);
	frame->next_free = slab->free;
	slab->free = frame;
	if (--slab->in_use > 0)
		return NULL;
	if (heap->empty == 0 && !heap->closed) {
		heap->empty = 1;
		return NULL;
	}
	unlink_slab(heap, slab);
	return slab;
}

/* ---- frames ---- */

static void drop_reference(struct lh_frame_heap *heap)
{
	bool ended;

	lh__lock(heap->pool->sys, &heap->lock);
	ended = --heap->references == 0;
	lh__unlock(heap->pool->sys, &heap->lock);
	if (ended)
		end_heap(heap);
}

/* The slab has left the list. The heap outlives it. */
static void retire(struct lh_frame_heap *heap, struct lh_slab *slab)
{
	free_slab(heap, slab);
	drop_reference(heap);
}

static int add_slab(struct lh_frame_heap *heap)
{
	struct lh_slab *slab = make_slab(heap);

	if (!slab)
		return -ENOMEM;
	lh__lock(heap->pool->sys, &heap->lock);
	link_slab(heap, slab);
	heap->empty++;
	heap->references++;
	lh__unlock(heap->pool->sys, &heap->lock);
	return 0;
}

int lh__frame_new(struct lh_frame_heap *heap, struct lh_frame **out)
{
	struct lh_frame *frame;

	if (!take_quota(heap->pool))
		return -ENOSPC;
	for (;;) {
		lh__lock(heap->pool->sys, &heap->lock);
		frame = pop_frame(heap);
		lh__unlock(heap->pool->sys, &heap->lock);
		if (frame)
			break;
		if (add_slab(heap) != 0) {
			give_quota(heap->pool);
			return -ENOMEM;
		}
	}
	frame->references = 1;
	*out = frame;
	return 0;
}

void lh__frame_release(struct lh_frame *frame)
{
	struct lh_frame_heap *heap;
	struct lh_slab *surplus;

	if (!frame || __atomic_sub_fetch(&frame->references, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	heap = frame->slab->heap;
	lh__lock(heap->pool->sys, &heap->lock);
	surplus = push_frame(heap, frame);
	lh__unlock(heap->pool->sys, &heap->lock);
	give_quota(heap->pool);
	if (surplus)
		retire(heap, surplus);
}

/* Slabs without a frame in use; the others end with their frames. */
static struct lh_slab *take_empty(struct lh_frame_heap *heap)
{
	struct lh_slab *slab, *next, *empty = NULL;

	for (slab = heap->partial; slab; slab = next) {
		next = slab->next;
		if (slab->in_use)
			continue;
		unlink_slab(heap, slab);
		slab->next = empty;
		empty = slab;
	}
	return empty;
}

void lh__frame_heap_close(struct lh_frame_heap *heap)
{
	struct lh_slab *slab, *next;

	lh__lock(heap->pool->sys, &heap->lock);
	heap->closed = true;
	slab = take_empty(heap);
	lh__unlock(heap->pool->sys, &heap->lock);
	for (; slab; slab = next) {
		next = slab->next;
		retire(heap, slab);
	}
	drop_reference(heap);
}

bool lh__frame_in_view(const struct lh_frame *frame, const struct lh_view *view)
{
	return view && frame->slab->viewed && frame->slab->heap->view == view;
}
