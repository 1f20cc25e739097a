/* pool.c - creating, opening, closing and growing pools. */
#include "service/pool/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "port/page/page.h"
#include "service/pool/translated.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define SIZE_DEFAULT (UINT64_C(64) << 20)
#define REACH_DEFAULT (UINT64_C(64) << 30)
#define LOG_DEFAULT_MIN (UINT64_C(1) << 20)
#define LOG_DEFAULT_MAX (UINT64_C(64) << 20)
#define ADDRESS_MAX (UINT64_C(1) << 47)

/* ---- the header ---- */

static uint64_t to_pages(uint64_t size)
{
	return (size + LH_PAGE_SIZE - 1) & ~(uint64_t)(LH_PAGE_SIZE - 1);
}

static uint64_t log_size(const struct lh_pool_options *options, uint64_t size)
{
	uint64_t log = size / 8;

	if (options->log_size)
		return to_pages(options->log_size);
	if (log < LOG_DEFAULT_MIN)
		return LOG_DEFAULT_MIN;
	return log < LOG_DEFAULT_MAX ? to_pages(log) : LOG_DEFAULT_MAX;
}

static int check_sizes(const struct lh_pool_options *options, const struct lh_pool_header *header,
                       struct lh_error *error)
{
	if (header->size < LH_POOL_SIZE_MIN)
		return lh__fail(error, -EINVAL, "a pool has at least %u bytes", LH_POOL_SIZE_MIN);
	if (options->log_size && options->log_size < LH_POOL_LOG_MIN)
		return lh__fail(error, -EINVAL, "a log has at least %u bytes", LH_POOL_LOG_MIN);
	if (options->log_size > ADDRESS_MAX || header->reach > ADDRESS_MAX / 4 ||
	    header->size > header->reach)
		return lh__fail(error, -EINVAL,
		                "a pool can be no larger than its reach, and neither larger than 32 TiB");
	if (header->address % LH_PAGE_SIZE || header->address > ADDRESS_MAX - header->reach)
		return lh__fail(error, -EINVAL, "0x%lx cannot be a pool's address",
		                (unsigned long)header->address);
	return 0;
}

static int new_header(const struct lh_sys *sys, const struct lh_pool_options *options,
                      struct lh_pool_header *header, struct lh_error *error)
{
	const char *layout = options->layout ? options->layout : "";
	struct timespec now = { 0, 0 };
	int result;
	long got;

	memset(header, 0, sizeof *header);
	memcpy(header->magic, "LINEPOOL", 8);
	header->version = LH_POOL_VERSION;
	if (strlen(layout) >= LH_LAYOUT_SIZE)
		return lh__fail(error, -EINVAL, "a layout's name has at most %u bytes", LH_LAYOUT_SIZE - 1);
	memcpy(header->layout, layout, strlen(layout));
	header->size = to_pages(options->size ? options->size : SIZE_DEFAULT);
	header->reach = to_pages(options->reach);
	if (!options->reach)
		header->reach = header->size > REACH_DEFAULT / 16 ? 16 * header->size : REACH_DEFAULT;
	header->address = options->address;
	got = LH_SYS(sys, SYS_getrandom, header->id, sizeof header->id, 0);
	if (got != (long)sizeof header->id)
		return lh__fail(error, got < 0 ? (int)got : -EIO, "there are no random numbers");
	if (LH_SYS(sys, SYS_clock_gettime, CLOCK_REALTIME, &now) == 0)
		header->created = (uint64_t)now.tv_sec;
	result = check_sizes(options, header, error);
	if (result < 0 || header->address)
		return result;
	result = lh__memory_choose(sys, header->reach, &header->address);
	return result == 0 ? 0
	                   : lh__fail(error, result, "addresses for it cannot be found: %s",
	                              lh__errno_name(result));
}

int lh__pool_header_check(const struct lh_pool_header *header, const struct lh_pool_options *options,
                          struct lh_error *error)
{
	if (memcmp(header->magic, "LINEPOOL", 8) != 0)
		return lh__fail(error, -EBADMSG, "a journal, but not a pool");
	if (header->version > LH_POOL_VERSION)
		return lh__fail(
			error, -EPROTONOSUPPORT,
			"a pool of version %u, and this program knows version %u; use a newer linehome",
			header->version, LH_POOL_VERSION);
	if (header->version != LH_POOL_VERSION || header->flags & ~LH_POOL_HAS_HEAP ||
	    header->size < LH_POOL_SIZE_MIN || header->size % LH_PAGE_SIZE || header->reach % LH_PAGE_SIZE ||
	    header->size > header->reach || header->reach > ADDRESS_MAX / 4 ||
	    header->address % LH_PAGE_SIZE || !header->address ||
	    header->address > ADDRESS_MAX - header->reach || header->layout[LH_LAYOUT_SIZE - 1])
		return lh__fail(error, -EBADMSG, "its header has values that cannot be");
	if (options->layout && strcmp(options->layout, header->layout) != 0)
		return lh__fail(error, -EMEDIUMTYPE, "its layout is \"%s\", and \"%s\" was asked for",
		                header->layout, options->layout);
	return 0;
}

/* ---- opening ---- */

static enum lh_log log_of(const struct lh_pool_options *options)
{
	enum lh_log log = options->log;

	if (log == LH_LOG_AUTO && options->see == LH_SEE_TRANSLATED)
		log = lh__translated_options()->log;
	return log == LH_LOG_UNDO ? LH_LOG_UNDO : LH_LOG_REDO;
}

static int check_ways(const struct lh_pool_options *options, const struct lh_store *below,
                      struct lh_error *error)
{
	if ((unsigned)options->see > LH_SEE_TRANSLATED || (unsigned)options->log > LH_LOG_UNDO)
		return lh__fail(error, -EINVAL, "no such way to see changes, or no such log");
	if (log_of(options) == LH_LOG_UNDO && !below->direct)
		return lh__fail(error, -EOPNOTSUPP,
		                "an undo log needs persistent memory (a DAX file system) or tmpfs");
	return 0;
}

static int open_port(struct lh_pool *pool, struct lh_error *error)
{
	struct lh_page_options options = {
		.engine = LH_ENGINE_INLINE,
		.device = -1,
		.protects = lh__pool_protects(pool),
		.shared = lh__pool_protects(pool),
		.writes_only = pool->log == LH_LOG_UNDO,
	};

	/* Memory of a file that can only be read is nothing that the kernel would protect. */
	if (!pool->lazy && (!lh__pool_protects(pool) || pool->read_only))
		return 0;
	pool->emulator = lh__emulator_open(pool->sys);
	if (!pool->emulator)
		return lh__fail(error, -ENOMEM, "there is no memory for it");
	return lh__page_open(pool->sys, &options, &pool->port, error);
}

static int open_alive(struct lh_pool *pool, struct lh_error *error)
{
	long at = LH_SYS(pool->sys, SYS_mmap, 0, LH_PAGE_SIZE, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long result = at;

	if (at >= 0 || at < -4095) {
		pool->alive = (uint32_t *)at;
		result = LH_SYS(pool->sys, SYS_madvise, at, LH_PAGE_SIZE, MADV_WIPEONFORK);
		*pool->alive = 1;
	}
	return result < 0 && result >= -4095 ? lh__fail(error, (int)result, "there is no memory for it") : 0;
}

static int open_memory(struct lh_pool *pool, struct lh_error *error)
{
	int result = open_alive(pool, error);

	if (result < 0)
		return result;
	result = lh__changes_open(pool);
	pool->loading = lh__alloc(pool->sys, LOAD_BUFFERS * sizeof *pool->loading);
	if (result < 0 || !pool->loading)
		return lh__fail(error, -ENOMEM, "there is no memory for it");
	result = open_port(pool, error);
	if (result == 0)
		result = lh__memory_reserve(pool, error);
	if (result == 0 && pool->port)
		result = lh__signal_add(pool, error);
	if (result == 0)
		result = lh__memory_extend(pool, 0, pool->header.size, error);
	if (result == 0)
		pool->size = pool->header.size;
	return result;
}

static int touch(void *context, const void *from, size_t size)
{
	return lh__tx_save(context, from, size);
}

/* One transaction with one step; whatever fails, nothing was done. */
static int in_transaction(struct lh_pool *pool, int (*step)(const struct lh_heap *), struct lh_error *error)
{
	int result = lh__tx_begin(pool, error);

	if (result < 0)
		return result;
	result = step(&pool->heap);
	if (result == 0)
		return lh__tx_commit_durably(pool, error);
	lh_tx_abort(pool, NULL);
	return lh__fail(error, result, "its heap: %s", lh__errno_name(result));
}

/*
 * The header says from now on that there is a heap, so that one that is gone is not taken for one that never
 * was.
 */
static int note_heap(struct lh_pool *pool, struct lh_error *error)
{
	struct lh_pool_header header = pool->header;
	int result;

	if (header.flags & LH_POOL_HAS_HEAP)
		return 0;
	header.flags |= LH_POOL_HAS_HEAP;
	result = lh__journal_set_client(pool->journal, &header);
	if (result < 0)
		return lh__fail(error, result, "its header cannot be written: %s", lh__errno_name(result));
	pool->header = header;
	return 0;
}

/* What a crash in the middle of creating or growing has left undone. */
static int complete_heap(struct lh_pool *pool, struct lh_error *error)
{
	/* The heap's header is read here: where it cannot be, that is an error, and not SIGBUS. */
	int result = lh__memory_load(pool, 0, 1);
	bool formatted;

	if (result < 0)
		return lh__fail(error, result, "its memory cannot be read: %s", lh__errno_name(result));
	formatted = lh__heap_is_formatted(&pool->heap);
	if (!formatted && pool->header.flags & LH_POOL_HAS_HEAP)
		return lh__fail(error, -EBADMSG, "the header of its heap is gone");
	if (pool->read_only)
		return formatted ? 0
		                 : lh__fail(error, -EROFS,
		                            "it was not fully made, and completing it needs to write to it");
	result = in_transaction(pool, formatted ? lh__heap_grow : lh__heap_format, error);
	return result == 0 ? note_heap(pool, error) : result;
}

/* Ends everything but the store below, which is returned; the journal only lets go of it. */
static struct lh_store *destroy(struct lh_pool *pool)
{
	const struct lh_sys *sys = pool->sys;
	struct lh_store *below;

	lh__here_remove(pool);
	below = lh__journal_release(pool->journal);
	lh__signal_remove(pool);
	lh__translated_close(pool);
	if (pool->port)
		pool->port->ops->close(pool->port);
	lh__memory_close(pool);
	lh__changes_close(pool);
	lh__emulator_close(sys, pool->emulator);
	if (pool->loading)
		lh__free(sys, pool->loading, LOAD_BUFFERS * sizeof *pool->loading);
	lh__others_close(pool->others);
	free(pool->place);
	if (pool->alive)
		LH_SYS(sys, SYS_munmap, pool->alive, LH_PAGE_SIZE);
	lh__free(sys, pool, sizeof *pool);
	return below;
}

static int start(struct lh_pool *pool, struct lh_error *error)
{
	int result = 0;

	/* A file may have lost, to a copying program, the room that was kept for its holes. */
	if (!pool->read_only)
		result = pool->journal->ops->reserve(pool->journal, pool->header.size / LH_PAGE_SIZE);
	if (result < 0)
		return lh__fail(error, result, "there is no room for it: %s", lh__errno_name(result));
	result = pool->see == LH_SEE_TRANSLATED ? lh__translated_open(pool, error) : 0;
	if (result == 0)
		result = open_memory(pool, error);
	if (result < 0)
		return result;
	pool->heap = (struct lh_heap){ pool->base, pool->size, pool, touch, pool->alias };
	result = complete_heap(pool, error);
	if (result < 0)
		return result;
	lh__others_met(pool);
	result = lh__here_add(pool, error);
	if (result < 0)
		return result;
	result = lh__home_thread_start(pool);
	return result < 0
	               ? lh__fail(error, result, "its thread cannot be started: %s", lh__errno_name(result))
	               : 0;
}

static struct lh_pool *new_pool(struct lh_store *journal, const struct lh_pool_options *options, bool quiet)
{
	struct lh_pool *pool = lh__alloc(journal->sys, sizeof *pool);

	if (!pool)
		return NULL;
	pool->sys = journal->sys;
	pool->journal = journal;
	pool->below = lh__journal_below(journal);
	pool->direct = pool->below->direct;
	pool->home = lh__journal_home(journal);
	pool->see = options->see;
	pool->joins = options->see == LH_SEE_TRANSLATED;
	pool->log = log_of(options);
	pool->lazy = pool->log == LH_LOG_REDO;
	pool->read_only = options->read_only;
	pool->quiet = quiet;
	pool->memory = -1;
	return pool;
}

static int format(struct lh_store *below, const struct lh_pool_options *options, struct lh_error *error)
{
	struct lh_pool_header header;
	struct lh_journal_format journal = { .client = &header };
	int result = new_header(below->sys, options, &header, error);

	if (result < 0)
		return result;
	journal.log_pages = log_size(options, header.size) / LH_PAGE_SIZE;
	journal.home_pages = header.size / LH_PAGE_SIZE;
	return lh__journal_format(below, &journal, error);
}

/* Before the journal is opened, which writes: what is refused is left as it is. */
static int check_header(struct lh_store *below, const struct lh_pool_options *options,
                        struct lh_pool_header *header, struct lh_error *error)
{
	struct lh_journal_look look;
	int result = lh__journal_look(below, &look, error);

	if (result < 0)
		return result;
	memcpy(header, look.client, sizeof *header);
	return lh__pool_header_check(header, options, error);
}

/* A pool whose journal is open and has been recovered. */
static int open_journal(struct lh_store *below, const struct lh_pool_options *options, bool quiet,
                        const struct lh_pool_context *context, struct lh_pool **out, struct lh_error *error)
{
	struct lh_pool_header header;
	struct others *others;
	struct lh_store *journal;
	int result = check_header(below, options, &header, error);

	if (result == 0)
		result = lh__others_open(below->sys, context, &header, &others, error);
	if (result < 0)
		return result;
	result = lh__journal_open_with(below, options->read_only, lh__others_hooks(others), &journal, error);
	if (result < 0) {
		lh__others_close(others);
		return result;
	}
	*out = new_pool(journal, options, quiet);
	if (!*out) {
		lh__journal_release(journal);
		lh__others_close(others);
		return lh__fail(error, -ENOMEM, "there is no memory for it");
	}
	(*out)->others = others;
	(*out)->place = context->where ? lh__place_whole(context->where) : NULL;
	memcpy(&(*out)->header, lh__journal_client(journal), sizeof header);
	return 0;
}

int lh__pool_on_store_as(struct lh_store *below, const struct lh_pool_options *options, bool create,
                         bool quiet, const struct lh_pool_context *context, struct lh_pool **out,
                         struct lh_error *error)
{
	struct lh_pool *pool;
	int result = check_ways(options, below, error);

	if (result == 0 && create)
		result = format(below, options, error);
	if (result == 0)
		result = open_journal(below, options, quiet, context, &pool, error);
	if (result < 0)
		return result;
	result = start(pool, error);
	if (result < 0) {
		destroy(pool);
		return result;
	}
	*out = pool;
	return 0;
}

int lh__pool_on_store(struct lh_store *below, const struct lh_pool_options *options, bool create, bool quiet,
                      struct lh_pool **out, struct lh_error *error)
{
	static const struct lh_pool_context none;

	return lh__pool_on_store_as(below, options, create, quiet, &none, out, error);
}

static int open_at(const struct lh_sys *sys, const struct lh_pool_context *context,
                   const struct lh_pool_options *given, bool create, struct lh_pool **out,
                   struct lh_error *error)
{
	const char *where = context->where;
	static const struct lh_pool_options none;
	const struct lh_pool_options *options = given ? given : &none;
	enum lh_place_use use = create               ? LH_PLACE_CREATE
	                        : options->read_only ? LH_PLACE_READ
	                                             : LH_PLACE_WRITE;
	struct lh_error inner = { .code = 0 };
	struct lh_store *below, *log = NULL;
	int result = lh__place_open(sys, where, use, options, &below, &inner);

	if (result < 0)
		return lh__place_fail(error, result, where, &inner);
	if (!options->read_only)
		result = lh__place_log(where, below, &log, &inner);
	if (result == 0)
		result = lh__pool_on_store_as(below, options, create, false, context, out, &inner);
	if (result == 0) {
		(*out)->remote = lh__place_is_node(where);
		if (log)
			lh__journal_log_by((*out)->journal, log);
		return 0;
	}
	if (log)
		log->ops->close(log);
	below->ops->close(below);
	if (create)
		lh__place_remove(sys, where, options);
	return lh__place_fail(error, result, where, &inner);
}

static const char *key_file_of(const struct lh_pool_options *options)
{
	return options ? options->key_file : NULL;
}

int lh__pool_create(const struct lh_sys *sys, const char *where, const struct lh_pool_options *options,
                    struct lh_pool **out, struct lh_error *error)
{
	if (options && options->read_only)
		return lh__fail(error, -EINVAL, "%s: a pool cannot be created read-only", where);
	return open_at(sys, &(struct lh_pool_context){ .where = where, .key_file = key_file_of(options) },
	               options, true, out, error);
}

int lh__pool_open(const struct lh_sys *sys, const char *where, const struct lh_pool_options *options,
                  struct lh_pool **out, struct lh_error *error)
{
	return open_at(sys, &(struct lh_pool_context){ .where = where, .key_file = key_file_of(options) },
	               options, false, out, error);
}

int lh_pool_create(const char *where, const struct lh_pool_options *options, struct lh_pool **out,
                   struct lh_error *error)
{
	return lh__pool_create(&lh__sys_default, where, options, out, error);
}

int lh_pool_open(const char *where, const struct lh_pool_options *options, struct lh_pool **out,
                 struct lh_error *error)
{
	return lh__pool_open(&lh__sys_default, where, options, out, error);
}

int lh__pool_decide(const struct lh_sys *sys, const char *where, const struct lh_pool_context *context,
                    struct lh_journal_report *report, struct lh_error *error)
{
	struct lh_pool_options options = { .see = LH_SEE_DECLARED, .key_file = context->key_file };
	struct lh_pool_context now = *context;
	struct lh_pool *pool;
	int result;

	now.where = where;
	result = open_at(sys, &now, &options, false, &pool, error);
	if (result < 0)
		return result;
	*report = *lh__pool_report(pool);
	result = lh_pool_close(pool, error);
	return result;
}

/* ---- closing ---- */

/* In a child of fork: its copy of the handle, of the descriptors, and nothing that the parent has. */
static int close_child(struct lh_pool *pool)
{
	bool remote = pool->remote;

	lh__atomic_forget(pool);
	pool->thread = NULL; /* there is no such thread here */
	lh__place_forget(remote, destroy(pool));
	return 0;
}

int lh_pool_close(struct lh_pool *pool, struct lh_error *error)
{
	struct lh_store *below;
	int result;

	if (!pool)
		return 0;
	if (!*pool->alive)
		return close_child(pool);
	lh__atomic_forget(pool);
	lh__here_hide(pool);
	/*
	 * Of other threads those that tx_begin had joined it for are waited for, and may wait for this one.
	 */
	if (pool->owner == lh__pool_self())
		lh__tx_drop(pool);
	lh__here_remove(pool);
	lh__tx_drop(pool);
	lh__home_thread_stop(pool);
	lh__others_settle(pool);
	result = lh__journal_finish(pool->journal);
	if (result == 0)
		lh__others_met(pool);
	else
		lh__fail(error, result,
		         "the pool could not be brought home (%s); opening it again recovers it",
		         lh__errno_name(result));
	below = destroy(pool);
	below->ops->close(below);
	return result;
}

void lh__pool_abandon(struct lh_pool *pool)
{
	struct lh_store *below;

	lh__atomic_forget(pool);
	if (pool->translated && pool->owner == lh__pool_self())
		lh__translated_leave(pool);
	lh__home_thread_stop(pool);
	below = destroy(pool);
	below->ops->close(below);
}

/* ---- growing ---- */

/*
 * The memory, then the header. In a transaction, which keeps others from allocating meanwhile.
 */
static int extend(struct lh_pool *pool, uint64_t size, struct lh_error *error)
{
	struct lh_pool_header header = pool->header;
	int result = lh__memory_extend(pool, pool->size, size, error);

	if (result < 0)
		return result;
	header.size = size;
	result = lh__journal_set_client(pool->journal, &header);
	if (result < 0) {
		__atomic_store_n(&pool->broken, result, __ATOMIC_RELAXED);
		return lh__fail(error, result,
		                "its header could not be written (%s); close it and open it again",
		                lh__errno_name(result));
	}
	pool->header.size = size; /* others read the rest, without a lock */
	__atomic_store_n(&pool->size, size, __ATOMIC_RELEASE);
	pool->heap.size = size;
	return 0;
}

static int reserve(struct lh_pool *pool, uint64_t size, struct lh_error *error)
{
	int result = pool->journal->ops->reserve(pool->journal, size / LH_PAGE_SIZE);

	return result == 0 ? 0
	                   : lh__fail(error, result, "there is no room for %lu bytes: %s",
	                              (unsigned long)size, lh__errno_name(result));
}

/*
 * Room comes first, beside transactions, since it may take long, and the heap last; a crash or a failure in
 * between leaves a file that is too large for its pool, or a pool that is too large for its heap, which the
 * next opening or growing mends.
 */
static int grow(struct lh_pool *pool, uint64_t size, struct lh_error *error)
{
	bool larger = size > pool->size;
	int result = larger ? reserve(pool, size, error) : 0;

	if (result == 0)
		result = lh__tx_begin(pool, error);
	if (result < 0)
		return result;
	if (larger)
		result = extend(pool, size, error);
	if (result == 0)
		result = in_transaction(pool, lh__heap_grow, error);
	if (result == 0)
		return lh__tx_commit_durably(pool, error);
	lh__tx_drop(pool);
	return result;
}

int lh_pool_grow(struct lh_pool *pool, uint64_t size, struct lh_error *error)
{
	int result = lh__pool_enter(pool, error);

	if (result < 0)
		return result;
	if (pool->read_only)
		return lh__fail(error, -EROFS, "the pool is open read-only");
	if (__atomic_load_n(&pool->owner, __ATOMIC_RELAXED) == lh__pool_self())
		return lh__fail(error, -EBUSY, "a pool cannot grow inside a transaction");
	if (size > pool->header.reach)
		return lh__fail(error, -E2BIG, "it was made to grow to %lu bytes at most",
		                (unsigned long)pool->header.reach);
	lh__lock(pool->sys, &pool->growing);
	result = grow(pool, to_pages(size), error);
	lh__unlock(pool->sys, &pool->growing);
	return result;
}

/* ---- telling ---- */

void lh_pool_info(const struct lh_pool *pool, struct lh_pool_info *info)
{
	struct lh_journal_counts counts;
	uint64_t flushes = __atomic_load_n(&pool->counts.flushes, __ATOMIC_RELAXED);
	uint64_t fences = __atomic_load_n(&pool->counts.fences, __ATOMIC_RELAXED);
	uint64_t home_bytes = __atomic_load_n(&pool->counts.home_bytes, __ATOMIC_RELAXED);

	lh__journal_counts(pool->journal, &counts);
	memset(info, 0, sizeof *info);
	memcpy(info->layout, pool->header.layout, sizeof info->layout);
	info->base = pool->base;
	info->size = __atomic_load_n(&pool->size, __ATOMIC_RELAXED);
	info->reach = pool->header.reach;
	info->log_size = lh__journal_log_pages(pool->journal) * LH_PAGE_SIZE;
	info->see = pool->see;
	info->log = pool->log;
	info->durable = pool->below->caps.durable;
	info->commits = __atomic_load_n(&pool->counts.commits, __ATOMIC_RELAXED);
	info->aborts = __atomic_load_n(&pool->counts.aborts, __ATOMIC_RELAXED);
	info->faults = __atomic_load_n(&pool->counts.faults, __ATOMIC_RELAXED);
	info->flushes = counts.flushes + flushes;
	info->fences = counts.fences + fences;
	info->log_bytes = counts.log_bytes;
	info->changed_bytes = counts.changed_bytes;
	info->home_bytes = counts.home_bytes + home_bytes;
}

uint64_t lh_ptr_off(const struct lh_pool *pool, const void *pointer)
{
	return lh__pool_has(pool, pointer, 1) ? (uint64_t)((uintptr_t)pointer - (uintptr_t)pool->base) : 0;
}

void *lh_off_ptr(const struct lh_pool *pool, uint64_t offset)
{
	return offset && offset < __atomic_load_n(&pool->size, __ATOMIC_RELAXED) ? pool->base + offset : NULL;
}

int lh_pool_load(struct lh_pool *pool, const void *pointer, size_t size, struct lh_error *error)
{
	uint64_t offset = (uint64_t)((uintptr_t)pointer - (uintptr_t)pool->base);
	int result = lh__pool_enter(pool, error);

	if (result < 0)
		return result;
	if (!lh__pool_has(pool, pointer, size))
		return lh__fail(error, -EINVAL, "0x%lx and %zu bytes from there are not in the pool",
		                (unsigned long)(uintptr_t)pointer, size);
	if (size == 0)
		return 0;
	result = lh__memory_load(pool, offset / LH_PAGE_SIZE,
	                         (offset + size - 1) / LH_PAGE_SIZE - offset / LH_PAGE_SIZE + 1);
	return result == 0 ? 0 : lh__fail(error, result, "it cannot be read: %s", lh__errno_name(result));
}

const struct lh_journal_report *lh__pool_report(const struct lh_pool *pool)
{
	return lh__journal_report(pool->journal);
}

int lh__pool_checkpoint(struct lh_pool *pool)
{
	int result = lh__journal_flush(pool->journal, UINT64_MAX);

	return result == 0 ? lh__journal_checkpoint(pool->journal) : result;
}
