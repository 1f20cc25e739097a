/*
 * crash_pool.h - scripted runs of a pool over a crash store: a map whose entries are allocated and freed,
 * changed in transactions that commit, commit later, are aborted, are nested, or are cut off.
 *
 * The oracle is a copy of the pool's memory at each commit. What a crash leaves is recovered by the journal
 * alone, whose home must then be one of those, byte for byte, and pass the heap's check; the pool itself is
 * opened on what the run's own closings and deaths leave.
 */
#ifndef CRASH_POOL_H
#define CRASH_POOL_H

#include <errno.h>

#include "crash_states.h"
#include "service/pool/inside.h"
#include "store_ways.h"

enum {
	POOL_SIZE = 64 * 1024,
	POOL_REACH = 96 * 1024,
	POOL_LOG_PAGES = 16,
	POOL_CONTENTS = 300,
	POOL_BUCKETS = 8,
	POOL_HOME = 2 + POOL_LOG_PAGES
};

struct pool_way {
	const char *name;
	bool direct, no_durable_put;
	enum lh_see see;
	enum lh_log log;
	unsigned steps;
};

static const struct pool_way pool_ways[] = {
	{ "redo by requests, pages are seen", false, false, LH_SEE_PAGE, LH_LOG_REDO, 60 },
	{ "redo by requests and sync, declared", false, true, LH_SEE_DECLARED, LH_LOG_REDO, 60 },
	{ "redo in memory, declared", true, false, LH_SEE_DECLARED, LH_LOG_REDO, 60 },
	{ "undo in memory, declared", true, false, LH_SEE_DECLARED, LH_LOG_UNDO, 60 },
	{ "undo in memory, pages are seen", true, false, LH_SEE_PAGE, LH_LOG_UNDO, 60 },
	{ "redo by requests, translated", false, false, LH_SEE_TRANSLATED, LH_LOG_REDO, 60 },
	{ "undo in memory, translated", true, false, LH_SEE_TRANSLATED, LH_LOG_UNDO, 60 },
};
enum { POOL_WAYS = sizeof pool_ways / sizeof *pool_ways };

/* What the program keeps there. */
struct pool_root {
	struct pool_entry *bucket[POOL_BUCKETS];
	uint64_t entries, sum;
};

struct pool_entry {
	struct pool_entry *next;
	uint64_t key, size;
	unsigned char value[];
};

struct pool_content {
	uint64_t size;
	unsigned char memory[POOL_REACH] __attribute__((aligned(LH_PAGE_SIZE)));
};

struct pool_run {
	struct crash_states states;
	const struct pool_way *way;
	struct lh_sys sys;
	struct lh_pool *pool;
	struct pool_root *root;
	uint64_t random, entropy, token;
	long n;
	struct pool_content *content[POOL_CONTENTS];
};

static bool pool_must(struct pool_run *run, int result, const char *what, const struct lh_error *error)
{
	if (result < 0)
		crash_fail(&run->states, what,
		           error && error->text[0] ? error->text : lh__errno_name(result));
	return result >= 0;
}

static bool pool_chance(struct pool_run *run, unsigned percent)
{
	return random_next(&run->random) % 100 < percent;
}

/* ---- the oracle ---- */

static const unsigned char *pool_memory(const struct pool_run *run, uint64_t *size)
{
	struct lh_pool_info info;

	lh_pool_info(run->pool, &info);
	*size = info.size;
	return info.base;
}

/* The memory as it is now may be found from now on. */
static void pool_next_content(struct pool_run *run)
{
	struct pool_content *content = aligned_alloc(LH_PAGE_SIZE, sizeof *content);
	const unsigned char *memory;

	if (!content || run->n + 1 == POOL_CONTENTS)
		abort();
	memset(content, 0, sizeof *content);
	memory = pool_memory(run, &content->size);
	memcpy(content->memory, memory, content->size);
	run->content[++run->n] = content;
	run->states.hi = run->n;
}

static void pool_drop_content(struct pool_run *run)
{
	free(run->content[run->n--]);
	run->states.hi = run->n;
}

/* Of the pool's size, at least: growing changes that before the memory. */
static bool pool_same(const struct pool_content *content, const void *memory)
{
	return memcmp(content->memory, memory, content->size) == 0;
}

static long pool_find(const struct pool_run *run, const void *memory)
{
	for (long i = run->states.hi; i >= 0; i--)
		if (pool_same(run->content[i], memory))
			return i;
	return -1;
}

static long pool_judge(const struct pool_run *run, struct lh_crash *medium, char *reason)
{
	unsigned char *home = (unsigned char *)lh__crash_seen(medium) + POOL_HOME * LH_PAGE_SIZE;
	long found = pool_find(run, home);
	struct lh_heap heap = { .base = home };
	struct lh_heap_usage usage;
	struct lh_error error;

	if (found < 0)
		return crash_says(reason, "what is found was never there (%ld to %ld would be right)",
		                  run->states.lo, run->states.hi);
	heap.size = run->content[found]->size;
	if (lh__heap_check(&heap, &usage, &error) != 0)
		return crash_says(reason, "the heap: %s", error.text);
	return found;
}

/* how: what looks at a pool without opening it must also find nothing wrong. */
static long pool_recover(void *context, struct lh_crash *medium, unsigned how, char reason[CRASH_REASON])
{
	struct pool_run *run = context;
	struct lh_store *journal, *store = lh__crash_store(medium);
	struct lh_pool_check check;
	struct lh_error error;
	long found;

	if (how & CRASH_GO_ON && lh__pool_check_store(store, &check, &error) != 0)
		return crash_says(reason, "check: %s", error.text);
	if (lh__journal_open(store, false, &journal, &error) != 0)
		return crash_says(reason, "it does not open: %s", error.text);
	found = pool_judge(run, medium, reason);
	store = lh__journal_release(journal);
	store->ops->close(store);
	return found;
}

/* ---- the map ---- */

static bool pool_add(struct pool_run *run, void *pointer, size_t size)
{
	struct lh_error error;

	return run->way->see == LH_SEE_PAGE || run->way->see == LH_SEE_TRANSLATED ||
	       pool_must(run, lh_tx_add(run->pool, pointer, size, &error), "add", &error);
}

static void map_count(struct pool_run *run, int64_t entries, uint64_t sum)
{
	if (!pool_add(run, &run->root->entries, 16))
		return;
	run->root->entries += (uint64_t)entries;
	run->root->sum += sum;
}

static void map_insert(struct pool_run *run)
{
	uint64_t key = random_next(&run->random) % 64, size = random_next(&run->random) % 200;
	struct pool_entry **bucket = &run->root->bucket[key % POOL_BUCKETS], *entry;
	struct lh_error error;

	if (pool_chance(run, 5))
		size += 3000;
	entry = lh_pool_alloc(run->pool, sizeof *entry + size, &error);
	if (!entry) {
		if (error.code != -ENOMEM && error.code != -E2BIG)
			pool_must(run, error.code, "alloc", &error);
		return;
	}
	*entry = (struct pool_entry){ .next = *bucket, .key = key, .size = size };
	random_bytes(&run->random, entry->value, size);
	if (pool_add(run, bucket, sizeof *bucket))
		*bucket = entry;
	map_count(run, 1, key);
}

static void map_delete(struct pool_run *run)
{
	struct pool_entry **at = &run->root->bucket[random_next(&run->random) % POOL_BUCKETS], *entry = *at;
	struct lh_error error;

	if (!entry)
		return;
	if (entry->next && pool_chance(run, 50)) {
		at = &entry->next;
		entry = entry->next;
	}
	if (!pool_add(run, at, sizeof *at))
		return;
	*at = entry->next;
	map_count(run, -1, 0 - entry->key);
	pool_must(run, lh_pool_free(run->pool, entry, &error), "free", &error);
}

/* A place in some entry that has `most` bytes, aligned to 16; NULL: there is none. */
static unsigned char *map_place(struct pool_run *run, uint64_t most)
{
	uint64_t first = random_next(&run->random);

	for (uint64_t i = 0; i < POOL_BUCKETS; i++)
		for (struct pool_entry *entry = run->root->bucket[(first + i) % POOL_BUCKETS]; entry;
		     entry = entry->next) {
			uint64_t start = -(uintptr_t)entry->value % 16;

			if (entry->size >= start + most)
				return entry->value + start +
				       random_next(&run->random) % ((entry->size - start - most) / 16 + 1) *
				               16;
		}
	return NULL;
}

/* Where every store is seen: by each class of instruction. */
static void map_change_by_all(struct pool_run *run)
{
	enum store_way by = (enum store_way)(random_next(&run->random) % STORE_WAYS);
	uint64_t value = random_next(&run->random);
	unsigned char *at = map_place(run, by == STORE_STATE ? STORE_STATE_SIZE : STORE_SIZE);

	if (at)
		store_by(by, at, value);
}

static void map_change(struct pool_run *run)
{
	struct pool_entry *entry = run->root->bucket[random_next(&run->random) % POOL_BUCKETS];

	if (entry && entry->size && pool_add(run, entry->value, entry->size))
		random_bytes(&run->random, entry->value, entry->size);
}

static void map_some(struct pool_run *run)
{
	unsigned n = 1 + (unsigned)(random_next(&run->random) % 3);

	while (n-- > 0 && !run->states.failed) {
		if (run->way->see == LH_SEE_TRANSLATED && pool_chance(run, 60))
			map_change_by_all(run);
		else if (pool_chance(run, 50))
			map_insert(run);
		else if (pool_chance(run, 60))
			map_delete(run);
		else
			map_change(run);
	}
}

/* ---- steps ---- */

static void pool_wait(struct pool_run *run)
{
	struct lh_error error;

	if (run->states.lo == run->n)
		return;
	if (pool_must(run, lh_tx_wait(run->pool, run->token, &error), "wait", &error))
		crash_acknowledged(&run->states, run->n);
}

static void pool_commit(struct pool_run *run)
{
	struct lh_error error;

	pool_next_content(run);
	if (pool_chance(run, 40) && run->states.hi - run->states.lo < 4) {
		pool_must(run, lh_tx_commit_async(run->pool, &run->token, &error), "commit", &error);
		return;
	}
	if (pool_must(run, lh_tx_commit(run->pool, &error), "commit", &error))
		crash_acknowledged(&run->states, run->n);
}

/* Memory is as it was before. */
static void pool_check_memory(struct pool_run *run, const char *when)
{
	uint64_t size;
	const unsigned char *memory = pool_memory(run, &size);

	if (!pool_same(run->content[run->n], memory))
		crash_fail(&run->states, when, "memory is not as it was");
}

/* Returns whether the process dies in the middle of it. */
static bool pool_transaction(struct pool_run *run)
{
	bool nested = pool_chance(run, 10), pending = run->states.lo != run->n;
	struct lh_error error;

	/* An undo log knows one transaction; what another has not been waited for is durable all the same. */
	if (pending && run->way->log == LH_LOG_UNDO)
		pool_wait(run);
	if (!pool_must(run, lh_tx_begin(run->pool, &error), "begin", &error))
		return false;
	map_some(run);
	if (nested && pool_must(run, lh_tx_begin(run->pool, &error), "begin", &error)) {
		map_some(run);
		pool_must(run, lh_tx_commit(run->pool, &error), "inner commit", &error);
	}
	if (run->states.failed || pool_chance(run, 4))
		return true;
	if (pool_chance(run, 15)) {
		pool_must(run, lh_tx_abort(run->pool, &error), "abort", &error);
		pool_check_memory(run, "abort");
		return false;
	}
	pool_commit(run);
	return false;
}

static bool pool_open_again(struct pool_run *run)
{
	struct lh_pool_options options = { .see = run->way->see, .log = run->way->log };
	struct lh_error error;
	uint64_t size;
	long found;
	int result = lh__pool_on_store(lh__crash_store(run->states.medium), &options, false, true, &run->pool,
	                               &error);

	if (!pool_must(run, result, "open", &error)) {
		run->pool = NULL;
		return false;
	}
	found = pool_find(run, pool_memory(run, &size));
	if (found < run->states.lo || found > run->states.hi) {
		crash_fail(&run->states, "open", "not the content that was there");
		return false;
	}
	while (run->n > found)
		pool_drop_content(run);
	run->root = lh_pool_root(run->pool, sizeof *run->root, &error);
	crash_acknowledged(&run->states, found);
	return !crash_enough(&run->states);
}

static bool pool_reopen(struct pool_run *run, bool dies)
{
	struct lh_error error;

	if (dies)
		lh__pool_abandon(run->pool);
	else
		pool_must(run, lh_pool_close(run->pool, &error), "close", &error);
	run->pool = NULL;
	return !run->states.failed && pool_open_again(run);
}

/* What growing makes of the memory is known beforehand: the heap can be asked to do it to a copy. */
static void pool_grow(struct pool_run *run)
{
	struct lh_error error;
	struct pool_content *grown;
	struct lh_heap heap;

	pool_wait(run);
	if (run->content[run->n]->size + 2 * LH_PAGE_SIZE > POOL_REACH || run->states.failed)
		return;
	pool_next_content(run);
	grown = run->content[run->n];
	grown->size += 2 * LH_PAGE_SIZE;
	heap = (struct lh_heap){ .base = grown->memory, .size = grown->size };
	if (pool_must(run, lh__heap_grow(&heap), "growing a copy", NULL) &&
	    pool_must(run, lh_pool_grow(run->pool, grown->size, &error), "grow", &error))
		crash_acknowledged(&run->states, run->n);
	pool_check_memory(run, "grow");
}

/*
 * More than the log has room for: all of the pool; or more than a record may have: a bit of more than half.
 */
static int pool_change_much(struct pool_run *run, struct lh_error *error)
{
	size_t size = (POOL_LOG_PAGES / 2 + 1) * LH_PAGE_SIZE;
	unsigned char *memory;
	uint64_t all;
	int result;

	memory = (unsigned char *)(uintptr_t)pool_memory(run, &all);
	if (run->way->log == LH_LOG_UNDO)
		return lh_tx_add(run->pool, memory, all, error);
	result = lh_tx_add(run->pool, memory + all - size, size, error);
	if (result != 0)
		return result;
	for (size_t i = 0; i < size; i += 32)
		memory[all - size + i] ^= 1;
	return lh_tx_commit(run->pool, error);
}

/* It fails, whenever that turns out, and nothing has changed. */
static void pool_too_large(struct pool_run *run)
{
	struct lh_error error;
	int result;

	pool_wait(run);
	if (!pool_must(run, lh_tx_begin(run->pool, &error), "begin", &error))
		return;
	result = pool_change_much(run, &error);
	if (result != -E2BIG)
		crash_fail(&run->states, "a transaction that is too large", lh__errno_name(result));
	if (run->way->log == LH_LOG_UNDO)
		pool_must(run, lh_tx_abort(run->pool, &error), "abort", &error);
	pool_check_memory(run, "a transaction that is too large");
}

/* Stores to all of the pool; what can be logged of it in large pieces has been, so there are few points. */
static void pool_store_all(struct pool_run *run)
{
	unsigned char *memory;
	uint64_t all, at = 0;

	memory = (unsigned char *)(uintptr_t)pool_memory(run, &all);
	if (run->way->log == LH_LOG_REDO)
		lh__tx_doom(run->pool, -ENOMEM);
	else
		while (at < all && lh_tx_add(run->pool, memory + at, LH_PAGE_SIZE, NULL) == 0)
			at += LH_PAGE_SIZE;
	for (at = 0; at < all; at += 32)
		memory[at] ^= 1;
}

/*
 * Stores that cannot be logged, and are made all the same: nothing of that transaction is there afterwards.
 * Returns whether the process dies with it; what has a redo log has to be opened again anyway.
 */
static bool pool_doomed(struct pool_run *run)
{
	bool undo = run->way->log == LH_LOG_UNDO;
	struct lh_error error;
	int result;

	pool_wait(run);
	if (!pool_must(run, lh_tx_begin(run->pool, &error), "begin", &error))
		return false;
	map_some(run);
	pool_store_all(run);
	if (!run->pool->doomed)
		crash_fail(&run->states, "stores that cannot be logged", "the transaction is not doomed");
	if (run->states.failed || pool_chance(run, 50))
		return true;
	result = lh_tx_commit(run->pool, &error);
	if (result != (undo ? -E2BIG : -ENOMEM))
		crash_fail(&run->states, "a transaction that is doomed", lh__errno_name(result));
	if (undo)
		pool_check_memory(run, "a transaction that is doomed");
	return !undo;
}

/* Returns whether the run can go on. */
static bool pool_step(struct pool_run *run)
{
	unsigned dice = (unsigned)(random_next(&run->random) % 100);

	if (dice < 5)
		return pool_reopen(run, false);
	if (dice < 9)
		return pool_reopen(run, true);
	if (dice < 14)
		pool_must(run, lh__pool_checkpoint(run->pool), "checkpoint", NULL);
	else if (dice < 16)
		pool_grow(run);
	else if (dice < 18)
		pool_too_large(run);
	else if (dice < 26)
		pool_wait(run);
	else if (dice < 30 && run->way->see == LH_SEE_TRANSLATED ? pool_doomed(run) : pool_transaction(run))
		return pool_reopen(run, true);
	return !crash_enough(&run->states);
}

/* ---- a run ---- */

/* Salts and identities from the seed, so that a seed shows everything again. */
static long pool_sys_call(void *context, long nr, const long argument[6])
{
	struct pool_run *run = context;

	if (nr != SYS_getrandom)
		return lh__sys_default.call(lh__sys_default.context, nr, argument);
	random_bytes(&run->entropy, (void *)argument[0], (size_t)argument[1]);
	return argument[1];
}

static bool pool_begin(struct pool_run *run)
{
	struct lh_pool_options options = { .see = run->way->see,
		                           .log = run->way->log,
		                           .size = POOL_SIZE,
		                           .reach = POOL_REACH,
		                           .log_size = POOL_LOG_PAGES * LH_PAGE_SIZE };
	struct lh_error error;
	int result;

	run->states.resting = true;
	result = lh__pool_on_store(lh__crash_store(run->states.medium), &options, true, true, &run->pool,
	                           &error);
	if (!pool_must(run, result, "create", &error))
		return false;
	run->root = lh_pool_root(run->pool, sizeof *run->root, &error);
	if (!run->root)
		return pool_must(run, error.code, "root", &error);
	run->n = -1;
	pool_next_content(run);
	run->states.resting = false;
	crash_acknowledged(&run->states, 0);
	return true;
}

static void pool_end(struct pool_run *run)
{
	if (run->pool)
		lh__pool_abandon(run->pool);
	while (run->n >= 0)
		pool_drop_content(run);
	crash_states_close(&run->states);
}

/* One script of this seed; its counts stay in run->states. limit: media at which it is enough. */
__attribute__((unused)) static void pool_script(struct pool_run *run, const struct pool_way *way,
                                                uint64_t seed, uint64_t limit)
{
	struct lh_crash_options options = { .pages = POOL_HOME + POOL_REACH / LH_PAGE_SIZE,
		                            .direct = way->direct,
		                            .no_durable_put = way->no_durable_put };

	*run = (struct pool_run){ .way = way, .random = seed, .entropy = seed ^ 0x5a17, .n = -1 };
	run->sys = lh__sys_default;
	run->sys.context = run;
	run->sys.call = pool_sys_call;
	run->states.recover = pool_recover;
	run->states.context = run;
	run->states.random = seed ^ 0xfeed;
	run->states.limit = limit;
	crash_states_open(&run->states, &run->sys, &options);
	if (pool_begin(run))
		for (unsigned i = 0; i < way->steps && pool_step(run); i++)
			;
	pool_end(run);
}

#endif
