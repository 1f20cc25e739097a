/*
 * memory.c - the memory store: pages in this process's own memory.
 *
 * The page table is a tree. Its leaves are chunks: 64 neighbouring pages, each an entry of a frame (the
 * content, frame.h) and the mask of lines that are held. Above them stand directories of 512 children, as
 * many levels as the largest page number needs: the tree grows at the root.
 *
 *     root directory -> ... -> directory -> chunk -> entry: frame, mask
 *
 * Clones. A clone copies the directories and shares the chunks (one counter up for each 64 pages); the
 * first change of a shared chunk copies it and shares its frames; the first change of a shared frame copies
 * that. Frames may be looked at for being one's own only in a chunk that is one's own.
 *
 * Threads. A chunk is reached, read and changed only under the lock of its shard. Directories are never
 * taken away before close and children are added with one atomic exchange, so they need no lock. A request
 * allocates and frees nothing under a lock: what a change turns out to need is allocated after letting go of
 * it, and the change is tried again (struct job). A clone holds all locks while it copies the directories.
 *
 * Invariants:
 *  1. an entry has a frame exactly when its mask is not empty;
 *  2. no line that is held is all zero (zero lines are "not held", which reads the same), so a page of
 *     zeroes has no frame;
 *  3. a page that the view shows has a frame of this store's heap, whose content does not change while it is
 *     shown, and whose lines that are not held are zero;
 *  4. a chunk's count is the number of its entries with a frame; a chunk in the tree that is not being
 *     changed has a count above 0.
 */
#include "store/frame.h"

#include <errno.h>

#define CHUNK_PAGES 64u
#define CHUNK_BITS 6u
#define FANOUT 512u
#define FANOUT_BITS 9u
#define SHARDS 64u

struct entry {
	struct lh_frame *frame;
	lh_mask mask;
};

struct chunk {
	uint32_t references;
	uint32_t count;
	struct entry entry[CHUNK_PAGES];
};

/* Level 0: the children are chunks. */
struct directory {
	unsigned level;
	void *child[FANOUT];
};

struct shard {
	_Alignas(64) struct lh_lock lock;
};

struct memory {
	struct lh_store store;
	struct lh_memory_pool *pool;
	struct lh_frame_heap *heap; /* the pool's, or with a view its own */
	struct lh_view *view;       /* NULL: none */
	struct directory *root;
	struct lh_request *completed; /* a stack that any thread pushes on */
	struct lh_request *ready;     /* the poller's: oldest first */
	struct lh_request *ready_last;
	struct shard shard[SHARDS];
};

/* What carrying out one request needs from, and leaves for, the time without a lock. */
struct job {
	struct memory *memory;
	struct lh_request *request;
	struct chunk **slot;
	lh_mask nonzero;
	struct lh_frame *frame; /* to be used, if it turns out to be needed */
	struct chunk *chunk;
	struct lh_frame *dead_frame; /* to be released */
	struct chunk *dead_chunk;
};

enum step { DONE, NEED_CHUNK, NEED_FRAME };

static struct memory *of(struct lh_store *store)
{
	return (struct memory *)store;
}

/* ---- chunks ---- */

static bool chunk_is_mine(const struct chunk *chunk)
{
	return __atomic_load_n(&chunk->references, __ATOMIC_ACQUIRE) == 1;
}

static void chunk_release(struct memory *memory, struct chunk *chunk)
{
	unsigned i;

	if (!chunk || __atomic_sub_fetch(&chunk->references, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	for (i = 0; i < CHUNK_PAGES; i++)
		lh__frame_release(chunk->entry[i].frame);
	lh__free(memory->store.sys, chunk, sizeof *chunk);
}

static void chunk_copy(struct chunk *to, const struct chunk *from)
{
	unsigned i;

	memcpy(to->entry, from->entry, sizeof to->entry);
	to->count = from->count;
	for (i = 0; i < CHUNK_PAGES; i++)
		if (to->entry[i].frame)
			lh__frame_hold(to->entry[i].frame);
}

/* ---- the tree ---- */

static uint64_t chunk_number(uint64_t page)
{
	return page >> CHUNK_BITS;
}

static bool covers(const struct directory *directory, uint64_t chunk)
{
	return directory && chunk >> (FANOUT_BITS * (directory->level + 1)) == 0;
}

static void **child_of(struct directory *directory, uint64_t chunk)
{
	return &directory->child[chunk >> (FANOUT_BITS * directory->level) & (FANOUT - 1)];
}

/* Where the pointer to the page's chunk stands; NULL where there is no such place yet. */
static struct chunk **find_slot(struct memory *memory, uint64_t page)
{
	struct directory *directory = __atomic_load_n(&memory->root, __ATOMIC_ACQUIRE);

	if (!covers(directory, chunk_number(page)))
		return NULL;
	while (directory && directory->level > 0)
		directory = __atomic_load_n(child_of(directory, chunk_number(page)), __ATOMIC_ACQUIRE);
	return directory ? (struct chunk **)child_of(directory, chunk_number(page)) : NULL;
}

/*
 * Puts a new directory at *place, which held expected, with expected as its first child. Where another
 * thread was faster, its directory stands.
 */
static int add_directory(struct memory *memory, void **place, void *expected, unsigned level)
{
	struct directory *directory = lh__alloc(memory->store.sys, sizeof *directory);

	if (!directory)
		return -ENOMEM;
	directory->level = level;
	directory->child[0] = expected;
	if (!__atomic_compare_exchange_n(place, &expected, directory, false, __ATOMIC_ACQ_REL,
	                                 __ATOMIC_ACQUIRE))
		lh__free(memory->store.sys, directory, sizeof *directory);
	return 0;
}

/* As find_slot, adding the directories that are missing. */
static int make_slot(struct memory *memory, uint64_t page, struct chunk ***slot)
{
	uint64_t chunk = chunk_number(page);
	struct directory *directory;
	int result;

	while (!covers(directory = __atomic_load_n(&memory->root, __ATOMIC_ACQUIRE), chunk)) {
		result = add_directory(memory, (void **)&memory->root, directory,
		                       directory ? directory->level + 1 : 0);
		if (result != 0)
			return result;
	}
	while (directory->level > 0) {
		void **place = child_of(directory, chunk);
		void *below = __atomic_load_n(place, __ATOMIC_ACQUIRE);

		if (!below && (result = add_directory(memory, place, NULL, directory->level - 1)) != 0)
			return result;
		directory = __atomic_load_n(place, __ATOMIC_ACQUIRE);
	}
	*slot = (struct chunk **)child_of(directory, chunk);
	return 0;
}

static void free_tree(struct memory *memory, void *node, int level)
{
	struct directory *directory = node;
	unsigned i;

	if (!node)
		return;
	if (level < 0) {
		chunk_release(memory, node);
		return;
	}
	for (i = 0; i < FANOUT; i++)
		free_tree(memory, directory->child[i], level - 1);
	lh__free(memory->store.sys, directory, sizeof *directory);
}

/* On failure *out is what could be copied, for free_tree. */
static int clone_tree(struct memory *memory, void *node, int level, void **out)
{
	struct directory *from = node, *to;
	int result = 0;
	unsigned i;

	if (!node)
		return 0;
	if (level < 0) {
		__atomic_fetch_add(&((struct chunk *)node)->references, 1, __ATOMIC_RELAXED);
		*out = node;
		return 0;
	}
	*out = to = lh__alloc(memory->store.sys, sizeof *to);
	if (!to)
		return -ENOMEM;
	to->level = from->level;
	for (i = 0; i < FANOUT && result == 0; i++)
		result = clone_tree(memory, __atomic_load_n(&from->child[i], __ATOMIC_ACQUIRE), level - 1,
		                    &to->child[i]);
	return result;
}

static int level_of(const struct directory *root)
{
	return root ? (int)root->level : 0;
}

/* ---- one request, under the lock of its shard ---- */

static struct lh_lock *lock_of(struct memory *memory, uint64_t page)
{
	/* Neighbouring chunks have different locks, and so have chunks at the same place of large arrays. */
	uint64_t mixed = chunk_number(page) * UINT64_C(0x9e3779b97f4a7c15);

	return &memory->shard[mixed >> 58].lock;
}

static unsigned index_of(uint64_t page)
{
	return (unsigned)(page & (CHUNK_PAGES - 1));
}

static lh_mask get_locked(struct chunk *const *slot, uint64_t page, lh_mask want, void *data)
{
	const struct entry *entry = slot && *slot ? &(*slot)->entry[index_of(page)] : NULL;
	lh_mask held = entry ? entry->mask & want : LH_MASK_NONE;

	if (held)
		lh__lines_copy(data, entry->frame->data, held);
	lh__lines_zero(data, want & ~held);
	return held;
}

/* Makes the chunk at the slot this store's own, out of job->chunk where one is needed. */
static enum step own_chunk(struct job *job)
{
	struct chunk *old = *job->slot;

	if (old && chunk_is_mine(old))
		return DONE;
	if (!job->chunk)
		return NEED_CHUNK;
	if (old)
		chunk_copy(job->chunk, old);
	job->dead_chunk = old;
	*job->slot = job->chunk;
	job->chunk = NULL;
	return DONE;
}

static enum step drop_locked(struct job *job)
{
	struct chunk *chunk = job->slot ? *job->slot : NULL;
	struct entry *entry;

	if (!chunk || !chunk->entry[index_of(job->request->page)].frame)
		return DONE;
	if (chunk->count == 1) {
		lh__view_hide(job->memory->view, job->request->page);
		*job->slot = NULL;
		job->dead_chunk = chunk;
		return DONE;
	}
	if (own_chunk(job) != DONE)
		return NEED_CHUNK;
	lh__view_hide(job->memory->view, job->request->page);
	entry = &(*job->slot)->entry[index_of(job->request->page)];
	job->dead_frame = entry->frame;
	entry->frame = NULL;
	entry->mask = LH_MASK_NONE;
	(*job->slot)->count--;
	return DONE;
}

/* Gives the entry a frame of its own, with the lines in keep of the frame that it had, and zeroes. */
static void replace_frame(struct job *job, struct chunk *chunk, struct entry *entry, lh_mask keep)
{
	if (entry->frame)
		lh__lines_copy(job->frame->data, entry->frame->data, keep);
	else
		chunk->count++;
	lh__lines_zero(job->frame->data, ~keep);
	job->dead_frame = entry->frame;
	entry->frame = job->frame;
	job->frame = NULL;
}

/* Counts what the request changes of the page; before it does, while the old content is there. */
static void count_changed(struct job *job, const struct entry *entry)
{
	struct lh_request *request = job->request;
	lh_mask held = request->op == LH_OP_REPLACE ? entry->mask : entry->mask & request->mask;

	request->changed = lh__lines_changed(entry->frame ? entry->frame->data : NULL, held, request->data,
	                                     job->nonzero);
}

/* The page gets its new content, in a frame that is this store's alone; readers ask for it meanwhile. */
static void fill(struct job *job, struct chunk *chunk, struct entry *entry, lh_mask keep)
{
	struct memory *memory = job->memory;

	bool mine = entry->frame && lh__frame_is_mine(entry->frame);

	lh__view_hide(memory->view, job->request->page);
	entry->mask = keep | job->nonzero;
	if (!mine && job->nonzero == LH_MASK_NONE)
		return; /* of a frame that others have too it only holds fewer lines from now on */
	if (mine)
		lh__lines_zero(entry->frame->data, ~entry->mask);
	else
		replace_frame(job, chunk, entry, keep);
	lh__lines_copy(entry->frame->data, job->request->data, job->nonzero);
	if (lh__frame_in_view(entry->frame, memory->view))
		lh__view_show(memory->view, job->request->page, entry->frame->data);
}

static enum step put_locked(struct job *job)
{
	struct lh_request *request = job->request;
	const unsigned index = index_of(request->page);
	lh_mask old = job->slot && *job->slot ? (*job->slot)->entry[index].mask : LH_MASK_NONE;
	lh_mask keep = request->op == LH_OP_REPLACE ? LH_MASK_NONE : old & ~request->mask;

	if (keep == old && job->nonzero == LH_MASK_NONE)
		return DONE;
	if ((keep | job->nonzero) == LH_MASK_NONE) {
		count_changed(job, &(*job->slot)->entry[index]);
		return drop_locked(job);
	}
	/* A frame is got before the chunk is touched, so that a lack of it leaves no empty chunk behind. */
	if (job->nonzero && !job->frame &&
	    !(old && chunk_is_mine(*job->slot) && lh__frame_is_mine((*job->slot)->entry[index].frame)))
		return NEED_FRAME;
	if (own_chunk(job) != DONE)
		return NEED_CHUNK;
	count_changed(job, &(*job->slot)->entry[index]);
	fill(job, *job->slot, &(*job->slot)->entry[index], keep);
	return DONE;
}

/* ---- one request, as a whole ---- */

static enum step try_change(struct job *job)
{
	struct lh_lock *lock = lock_of(job->memory, job->request->page);
	enum step step;

	lh__lock(job->memory->store.sys, lock);
	step = job->request->op == LH_OP_DROP ? drop_locked(job) : put_locked(job);
	lh__unlock(job->memory->store.sys, lock);
	return step;
}

static int prepare(struct job *job, enum step need)
{
	if (need == NEED_FRAME)
		return lh__frame_new(job->memory->heap, &job->frame);
	job->chunk = lh__alloc(job->memory->store.sys, sizeof *job->chunk);
	if (!job->chunk)
		return -ENOMEM;
	job->chunk->references = 1;
	return 0;
}

static int change(struct memory *memory, struct lh_request *request)
{
	struct job job = { .memory = memory, .request = request };
	enum step need;
	int result = 0;

	request->changed = 0;
	if (request->op != LH_OP_DROP)
		job.nonzero = lh__lines_nonzero(request->data, request->mask);
	if (job.nonzero)
		result = make_slot(memory, request->page, &job.slot);
	else
		job.slot = find_slot(memory, request->page);
	while (result == 0 && (need = try_change(&job)) != DONE)
		result = prepare(&job, need);
	lh__frame_release(job.frame);
	lh__frame_release(job.dead_frame);
	chunk_release(memory, job.chunk);
	chunk_release(memory, job.dead_chunk);
	return result;
}

static int memory_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct memory *memory = of(store);
	struct lh_lock *lock = lock_of(memory, page);

	if (page > LH_PAGE_NUMBER_MAX)
		return -EINVAL;
	lh__lock(store->sys, lock);
	*held = get_locked(find_slot(memory, page), page, want, data);
	lh__unlock(store->sys, lock);
	return 0;
}

int lh__memory_apply(struct lh_store *store, struct lh_request *request)
{
	if (request->page > LH_PAGE_NUMBER_MAX)
		return request->result = -EINVAL;
	switch (request->op) {
	case LH_OP_GET:
		return request->result = memory_get_now(store, request->page, request->mask, request->data,
		                                        &request->mask);
	case LH_OP_PUT:
	case LH_OP_REPLACE:
	case LH_OP_DROP: return request->result = change(of(store), request);
	}
	return request->result = -EINVAL;
}

/* ---- the ops ---- */

static void push_completed(struct memory *memory, struct lh_request *request)
{
	request->next = __atomic_load_n(&memory->completed, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&memory->completed, &request->next, request, true,
	                                    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
}

static int memory_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		(void)lh__memory_apply(store, requests[i]);
		push_completed(of(store), requests[i]);
	}
	return 0;
}

/* Takes what is on the stack, newest first, and appends it to the ready list, oldest first. */
static void collect_completed(struct memory *memory)
{
	struct lh_request *request = __atomic_exchange_n(&memory->completed, NULL, __ATOMIC_ACQUIRE);
	struct lh_request *oldest = NULL, *newest = request;

	while (request) {
		struct lh_request *older = request->next;

		request->next = oldest;
		oldest = request;
		request = older;
	}
	if (!oldest)
		return;
	if (memory->ready)
		memory->ready_last->next = oldest;
	else
		memory->ready = oldest;
	memory->ready_last = newest;
}

/* Every request is complete when submit returns, so there is never anything to wait for. */
static size_t memory_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct memory *memory = of(store);
	size_t n;

	collect_completed(memory);
	for (n = 0; n < max && memory->ready; n++) {
		done[n] = memory->ready;
		memory->ready = memory->ready->next;
	}
	return n;
}

static int memory_sync(struct lh_store *store)
{
	return 0;
}

static void memory_close(struct lh_store *store)
{
	struct memory *memory = of(store);

	free_tree(memory, memory->root, level_of(memory->root));
	if (memory->view)
		lh__frame_heap_close(memory->heap);
	lh__free(store->sys, memory, sizeof *memory);
}

/* All shards at once, in order, so that the clone is of one moment even where other threads go on. */
static int clone_at_once(struct memory *from, struct memory *to)
{
	struct directory *old_root;
	void *root = NULL;
	unsigned i;
	int result;

	for (i = 0; i < SHARDS; i++)
		lh__lock(from->store.sys, &from->shard[i].lock);
	old_root = __atomic_load_n(&from->root, __ATOMIC_ACQUIRE);
	result = clone_tree(from, old_root, level_of(old_root), &root);
	for (i = 0; i < SHARDS; i++)
		lh__unlock(from->store.sys, &from->shard[i].lock);
	to->root = root;
	return result;
}

/* Where there can be no second view the clone does without. */
static void lay_open_too(struct lh_store *copy, const struct memory *from)
{
	if (lh__memory_share(copy, lh__view_pages(from->view)) < 0)
		return;
}

static int memory_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	struct memory *from = of(store);
	struct lh_store *copy;
	int result;

	collect_completed(from);
	if (from->ready)
		return lh__fail(error, -EBUSY,
		                "memory store: a clone was asked for while requests are in flight");
	result = lh__memory_open(from->pool, &copy);
	if (result == 0 && from->view)
		lay_open_too(copy, from);
	if (result == 0 && (result = clone_at_once(from, of(copy))) != 0)
		memory_close(copy);
	if (result != 0)
		return lh__fail(error, result, "memory store: there is no memory for a clone's page table");
	*out = copy;
	return 0;
}

static const struct lh_store_ops memory_ops = {
	.name = "memory",
	.submit = memory_submit,
	.poll = memory_poll,
	.get_now = memory_get_now,
	.sync = memory_sync,
	.clone = memory_clone,
	.reserve = lh__store_reserve_none,
	.close = memory_close,
};

int lh__memory_open(struct lh_memory_pool *pool, struct lh_store **out)
{
	struct memory *memory = lh__alloc(pool->sys, sizeof *memory);

	if (!memory)
		return -ENOMEM;
	memory->store.ops = &memory_ops;
	memory->store.sys = pool->sys;
	memory->store.caps =
		(struct lh_store_caps){ .get_now_in_signal = true, .durable = false, .depth = 1u << 30 };
	memory->pool = pool;
	memory->heap = &pool->heap;
	*out = &memory->store;
	return 0;
}

int lh__memory_share(struct lh_store *store, uint64_t pages)
{
	struct memory *memory = of(store);
	struct lh_frame_heap *heap;
	int result = lh__frame_heap_open(memory->pool, pages, &heap);

	if (result < 0)
		return result;
	memory->heap = heap;
	memory->view = heap->view;
	return 0;
}

int lh__memory_view(const struct lh_store *store)
{
	const struct memory *memory = (const struct memory *)store;

	return memory->view ? lh__view_fd(memory->view) : -1;
}
