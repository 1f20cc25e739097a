/*
 * crash_together.h - scripted runs of several pools on one medium (slice.h), changed in transactions over
 * some of them.
 *
 * The oracle is a copy of the memory of all pools at each commit. What a crash leaves is recovered pool by
 * pool, in an order that is drawn, some of them more than once before the others are looked at, and must then
 * be one of those copies in all pools, byte for byte.
 */
#ifndef CRASH_TOGETHER_H
#define CRASH_TOGETHER_H

#include <errno.h>

#include "crash_states.h"
#include "linehome/atomic.h"
#include "service/pool/inside.h"
#include "slice.h"

enum {
	TOGETHER_POOLS = 3,
	TOGETHER_SIZE = LH_POOL_SIZE_MIN,
	TOGETHER_LOG_PAGES = 16,
	TOGETHER_HOME = 2 + TOGETHER_LOG_PAGES,
	TOGETHER_PAGES = TOGETHER_HOME + TOGETHER_SIZE / LH_PAGE_SIZE + 1,
	TOGETHER_CONTENTS = 200,
	TOGETHER_ROOT = 40000
};

struct together_way {
	const char *name;
	bool direct, no_durable_put; /* the medium */
	unsigned n, steps;
	enum lh_log log[TOGETHER_POOLS];
	bool by_requests[TOGETHER_POOLS]; /* though the medium is memory */
	bool translated;                  /* and by tx_begin */
};

static const struct together_way together_ways[] = {
	{ "two, redo by requests", false, false, 2, 30, { LH_LOG_REDO, LH_LOG_REDO }, { 0 }, false },
	{ "two, redo by requests and sync", false, true, 2, 30, { LH_LOG_REDO, LH_LOG_REDO }, { 0 }, false },
	{ "two, redo in memory", true, false, 2, 30, { LH_LOG_REDO, LH_LOG_REDO }, { 0 }, false },
	{ "two, undo in memory", true, false, 2, 30, { LH_LOG_UNDO, LH_LOG_UNDO }, { 0 }, false },
	{ "two, undo and redo in memory", true, false, 2, 30, { LH_LOG_UNDO, LH_LOG_REDO }, { 0 }, false },
	{ "two, undo in memory and redo by requests",
	  true,
	  false,
	  2,
	  30,
	  { LH_LOG_UNDO, LH_LOG_REDO },
	  { 0, 1 },
	  false },
	{ "three, undo, redo in memory, redo by requests",
	  true,
	  false,
	  3,
	  30,
	  { LH_LOG_UNDO, LH_LOG_REDO, LH_LOG_REDO },
	  { 0, 0, 1 },
	  false },
	{ "three, redo by requests",
	  false,
	  false,
	  3,
	  30,
	  { LH_LOG_REDO, LH_LOG_REDO, LH_LOG_REDO },
	  { 0 },
	  false },
	{ "two, redo by requests, translated",
	  false,
	  false,
	  2,
	  30,
	  { LH_LOG_REDO, LH_LOG_REDO },
	  { 0 },
	  true },
	{ "three, undo, redo in memory, redo by requests, translated",
	  true,
	  false,
	  3,
	  30,
	  { LH_LOG_UNDO, LH_LOG_REDO, LH_LOG_REDO },
	  { 0, 0, 1 },
	  true },
};
enum { TOGETHER_WAYS = sizeof together_ways / sizeof *together_ways };

struct together_content {
	unsigned char memory[TOGETHER_POOLS][TOGETHER_SIZE] __attribute__((aligned(64)));
};

struct together_run {
	struct crash_states states;
	const struct together_way *way;
	struct lh_sys sys;
	struct slice slice[TOGETHER_POOLS];
	struct lh_pool *pool[TOGETHER_POOLS];
	struct lh_pool *ordered[TOGETHER_POOLS]; /* by id */
	uint8_t id[TOGETHER_POOLS][16];
	unsigned char *root[TOGETHER_POOLS];
	struct lh_crash *medium;
	uint64_t random, entropy, orders;
	uint64_t together, asks, joint_aborts;
	long n;
	struct together_content *content[TOGETHER_CONTENTS];
};

static bool together_must(struct together_run *run, int result, const char *what,
                          const struct lh_error *error)
{
	if (result < 0)
		crash_fail(&run->states, what,
		           error && error->text[0] ? error->text : lh__errno_name(result));
	return result >= 0;
}

static bool together_chance(uint64_t *random, unsigned percent)
{
	return random_next(random) % 100 < percent;
}

/* ---- the pools on a medium ---- */

static bool together_direct(const struct together_run *run, unsigned i)
{
	return run->way->direct && !run->way->by_requests[i];
}

static struct lh_store *together_store(const struct together_run *run, struct slice *slice,
                                       struct lh_crash *medium, unsigned i)
{
	return slice_open(slice, medium, (uint64_t)i * TOGETHER_PAGES, TOGETHER_PAGES,
	                  together_direct(run, i));
}

/* What a pool asks for, by its id; the medium is the one that is being recovered. */
static int together_find(void *context, const uint8_t id[16], const char *place, struct lh_store **below,
                         struct lh_error *error)
{
	struct together_run *run = context;

	run->asks++;
	for (unsigned i = 0; i < run->way->n; i++)
		if (memcmp(id, run->id[i], 16) == 0) {
			struct slice *slice = malloc(sizeof *slice);

			if (!slice)
				return -ENOMEM;
			*below = together_store(run, slice, run->medium, i);
			slice->owned = true;
			return 0;
		}
	return lh__fail(error, -ENOENT, "there is no such pool");
}

/* ---- the oracle ---- */

static bool together_same(const struct together_run *run, const struct together_content *content,
                          const struct lh_crash *medium)
{
	const unsigned char *seen = lh__crash_seen(medium);

	for (unsigned i = 0; i < run->way->n; i++)
		if (memcmp(content->memory[i],
		           seen + ((uint64_t)i * TOGETHER_PAGES + TOGETHER_HOME) * LH_PAGE_SIZE,
		           TOGETHER_SIZE) != 0)
			return false;
	return true;
}

/* Which pools have which content, for a person. */
static long together_differ(const struct together_run *run, const struct lh_crash *medium, char *reason)
{
	const unsigned char *seen = lh__crash_seen(medium);
	char text[200] = "";

	for (unsigned i = 0; i < run->way->n; i++) {
		long found = run->states.hi;

		while (found >= 0 &&
		       memcmp(run->content[found]->memory[i],
		              seen + ((uint64_t)i * TOGETHER_PAGES + TOGETHER_HOME) * LH_PAGE_SIZE,
		              TOGETHER_SIZE) != 0)
			found--;
		snprintf(text + strlen(text), sizeof text - strlen(text), "%s%ld", i ? ", " : "", found);
	}
	return crash_says(reason, "the pools are not of one transaction: %s (%ld to %ld would be right)",
	                  text, run->states.lo, run->states.hi);
}

static long together_find_content(const struct together_run *run, const struct lh_crash *medium, char *reason)
{
	for (long i = run->states.hi; i >= 0; i--)
		if (together_same(run, run->content[i], medium))
			return i;
	return together_differ(run, medium, reason);
}

/* ---- recovering ---- */

static void together_order(struct together_run *run, unsigned order[TOGETHER_POOLS])
{
	for (unsigned i = 0; i < run->way->n; i++)
		order[i] = i;
	for (unsigned i = run->way->n; i > 1; i--) {
		unsigned j = (unsigned)(random_next(&run->orders) % i), other = order[i - 1];

		order[i - 1] = order[j];
		order[j] = other;
	}
}

/* One pool's journal is opened and let go of, or closed. */
static long together_recover_one(struct together_run *run, struct lh_crash *medium, unsigned i, char *reason)
{
	struct lh_pool_context context = { .find = together_find, .find_context = run };
	struct slice slice;
	struct lh_store *below = together_store(run, &slice, medium, i), *journal;
	struct others *others;
	struct lh_error error;

	if (lh__pool_journal(below, &context, &others, &journal, &error) != 0)
		return crash_says(reason, "pool %u does not open: %s", i, error.text);
	if (together_chance(&run->orders, 40) && lh__journal_finish(journal) != 0)
		return crash_says(reason, "pool %u cannot be closed", i);
	lh__pool_journal_release(others, journal);
	return 0;
}

static long together_check(struct together_run *run, struct lh_crash *medium, char *reason)
{
	for (unsigned i = 0; i < run->way->n; i++) {
		struct slice slice;
		struct lh_store *below = together_store(run, &slice, medium, i);
		struct lh_pool_check check;
		struct lh_error error;

		if (lh__pool_check_store(below, &check, &error) != 0)
			return crash_says(reason, "check of pool %u: %s", i, error.text);
	}
	return 0;
}

static long together_recover(void *context, struct lh_crash *medium, unsigned how, char reason[CRASH_REASON])
{
	struct together_run *run = context;
	unsigned order[TOGETHER_POOLS], rounds = 1 + (unsigned)(random_next(&run->orders) % 3);
	struct lh_crash *before = run->medium;
	long result = how & CRASH_GO_ON ? together_check(run, medium, reason) : 0;

	run->medium = medium;
	for (unsigned round = 0; round < rounds && result == 0; round++) {
		together_order(run, order);
		for (unsigned i = 0; i < run->way->n && result == 0; i++)
			if (round + 1 == rounds || together_chance(&run->orders, 50))
				result = together_recover_one(run, medium, order[i], reason);
	}
	run->medium = before;
	return result < 0 ? result : together_find_content(run, medium, reason);
}

/* ---- steps ---- */

static void together_next_content(struct together_run *run)
{
	struct together_content *content = aligned_alloc(64, sizeof *content);
	struct lh_pool_info info;

	if (!content || run->n + 1 == TOGETHER_CONTENTS)
		abort();
	memset(content, 0, sizeof *content);
	for (unsigned i = 0; i < run->way->n; i++) {
		lh_pool_info(run->pool[i], &info);
		memcpy(content->memory[i], info.base, TOGETHER_SIZE);
	}
	run->content[++run->n] = content;
	run->states.hi = run->n;
}

static void together_drop_content(struct together_run *run)
{
	free(run->content[run->n--]);
	run->states.hi = run->n;
}

static void together_check_memory(struct together_run *run, const char *when)
{
	struct lh_pool_info info;

	for (unsigned i = 0; i < run->way->n; i++) {
		lh_pool_info(run->pool[i], &info);
		if (memcmp(run->content[run->n]->memory[i], info.base, TOGETHER_SIZE) != 0)
			crash_fail(&run->states, when, "memory is not as it was");
	}
}

/* Of so many bytes, and up to as many more. */
static int together_store_some(struct together_run *run, unsigned i, uint64_t least, uint64_t more,
                               struct lh_error *error)
{
	uint64_t size = least + random_next(&run->random) % more;
	unsigned char *at = run->root[i] + random_next(&run->random) % (TOGETHER_ROOT - size);
	/* Translated, what is large is declared all the same, so that an undo log has it in few points. */
	int result = run->way->translated && size < 1000 ? 0 : lh_tx_add(run->pool[i], at, size, error);

	if (result == 0)
		random_bytes(&run->random, at, size);
	return result;
}

static int together_change(struct together_run *run, struct lh_error *error)
{
	uint64_t most = together_chance(&run->random, 20) ? 6000 : 300;
	int result = 0;

	for (unsigned i = 0; i < run->way->n && result == 0; i++)
		if (together_chance(&run->random, 75))
			for (unsigned j = random_next(&run->random) % 3; j < 3 && result == 0; j++)
				result = together_store_some(run, i, 8, most, error);
	/* Nearly all of a log, or too much for it. */
	if (result == 0 && together_chance(&run->random, 10))
		result = together_store_some(run, (unsigned)(random_next(&run->random) % run->way->n), 24000,
		                             15000, error);
	return result;
}

static bool together_begin_all(struct together_run *run)
{
	struct lh_error error;

	if (run->way->translated)
		return together_must(run, tx_begin(), "begin", NULL);
	for (unsigned i = 0; i < run->way->n; i++)
		if (!together_must(run, lh_tx_begin(run->ordered[i], &error), "begin", &error))
			return false;
	return true;
}

static int together_commit_all(struct together_run *run, struct lh_error *error)
{
	int result;

	if (!run->way->translated)
		return lh__together_commit(run->ordered, run->way->n, error);
	result = tx_end();
	lh__fail(error, result, "%s", lh__errno_name(result));
	return result == -ENOSPC ? -E2BIG : result;
}

static int together_abort_all(struct together_run *run, struct lh_error *error)
{
	return run->way->translated ? tx_abort() : lh__together_abort(run->ordered, run->way->n, error);
}

static void together_commit(struct together_run *run)
{
	struct lh_error error;
	int result;

	together_next_content(run);
	result = together_commit_all(run, &error);
	if (result == -E2BIG) {
		together_drop_content(run);
		together_check_memory(run, "a transaction that is too large");
		run->joint_aborts++;
		return;
	}
	run->together++;
	if (together_must(run, result, "commit", &error))
		crash_acknowledged(&run->states, run->n);
}

/* Returns whether the process dies in the middle of it. */
static bool together_transaction(struct together_run *run)
{
	struct lh_error error;
	int result;

	if (!together_begin_all(run))
		return false;
	result = together_change(run, &error);
	if (result < 0 && result != -E2BIG)
		together_must(run, result, "change", &error);
	if (run->states.failed || together_chance(&run->random, 4))
		return true;
	if (result == 0 && !together_chance(&run->random, 10)) {
		together_commit(run);
		return false;
	}
	together_must(run, together_abort_all(run, &error), "abort", &error);
	together_check_memory(run, "abort");
	return false;
}

/* One pool alone. */
static void together_single(struct together_run *run)
{
	unsigned i = (unsigned)(random_next(&run->random) % run->way->n);
	struct lh_error error;

	if (!together_must(run, lh_tx_begin(run->pool[i], &error), "begin", &error) ||
	    !together_must(run, together_store_some(run, i, 8, 300, &error), "change", &error))
		return;
	together_next_content(run);
	if (together_must(run, lh_tx_commit(run->pool[i], &error), "commit", &error))
		crash_acknowledged(&run->states, run->n);
}

static void together_sort(struct together_run *run)
{
	for (unsigned i = 0; i < run->way->n; i++) {
		unsigned j = i;

		for (; j > 0 && memcmp(run->pool[i]->header.id, run->ordered[j - 1]->header.id, 16) < 0; j--)
			run->ordered[j] = run->ordered[j - 1];
		run->ordered[j] = run->pool[i];
	}
}

static bool together_open(struct together_run *run, unsigned i, bool create)
{
	struct lh_pool_options options = { .see = run->way->translated ? LH_SEE_TRANSLATED : LH_SEE_DECLARED,
		                           .log = run->way->log[i],
		                           .size = TOGETHER_SIZE,
		                           .reach = TOGETHER_SIZE,
		                           .log_size = TOGETHER_LOG_PAGES * LH_PAGE_SIZE };
	struct lh_pool_context context = { .find = together_find, .find_context = run };
	struct lh_error error;

	return together_must(run,
	                     lh__pool_on_store_as(together_store(run, &run->slice[i], run->states.medium, i),
	                                          &options, create, true, &context, &run->pool[i], &error),
	                     "open", &error);
}

static void together_end_pool(struct together_run *run, unsigned i, bool dies)
{
	struct lh_error error;

	if (!run->pool[i])
		return;
	if (dies)
		lh__pool_abandon(run->pool[i]);
	else
		together_must(run, lh_pool_close(run->pool[i], &error), "close", &error);
	run->pool[i] = NULL;
}

static bool together_reopen(struct together_run *run, bool dies, unsigned which)
{
	unsigned order[TOGETHER_POOLS];
	struct lh_error error;
	char reason[CRASH_REASON];
	long found = run->states.hi;

	together_order(run, order);
	for (unsigned i = 0; i < run->way->n; i++)
		if (which >> i & 1)
			together_end_pool(run, i, dies);
	/* Who dies takes along what his thread had begun. */
	while (dies && tx_end() != -EPERM)
		;
	for (unsigned i = 0; i < run->way->n; i++)
		if (which >> order[i] & 1 && !together_open(run, order[i], false))
			return false;
	together_sort(run);
	for (unsigned i = 0; i < run->way->n; i++)
		run->root[i] = lh_pool_root(run->pool[i], TOGETHER_ROOT, &error);
	if (which + 1 == 1u << run->way->n)
		found = together_find_content(run, run->states.medium, reason);
	if (found < run->states.lo)
		crash_fail(&run->states, "open", found < 0 ? reason : "an older content was found");
	while (run->n > found && found >= 0)
		together_drop_content(run);
	if (!run->states.failed)
		crash_acknowledged(&run->states, run->n);
	return !crash_enough(&run->states);
}

/* Returns whether the run can go on. */
static bool together_step(struct together_run *run)
{
	unsigned dice = (unsigned)(random_next(&run->random) % 100), all = (1u << run->way->n) - 1;
	unsigned some = 1 + (unsigned)(random_next(&run->random) % all);

	if (dice < 6)
		return together_reopen(run, false, some);
	if (dice < 10)
		return together_reopen(run, true, all);
	if (dice < 18)
		together_must(run, lh__pool_checkpoint(run->pool[some % run->way->n]), "checkpoint", NULL);
	else if (dice < 26)
		together_single(run);
	else if (together_transaction(run))
		return together_reopen(run, true, all);
	return !crash_enough(&run->states);
}

/* ---- a run ---- */

static long together_sys_call(void *context, long nr, const long argument[6])
{
	struct together_run *run = context;

	if (nr != SYS_getrandom)
		return lh__sys_default.call(lh__sys_default.context, nr, argument);
	random_bytes(&run->entropy, (void *)argument[0], (size_t)argument[1]);
	return argument[1];
}

static bool together_begin(struct together_run *run)
{
	struct lh_error error;

	run->states.resting = true;
	for (unsigned i = 0; i < run->way->n; i++) {
		if (!together_open(run, i, true))
			return false;
		memcpy(run->id[i], run->pool[i]->header.id, 16);
		run->root[i] = lh_pool_root(run->pool[i], TOGETHER_ROOT, &error);
		if (!run->root[i])
			return together_must(run, error.code, "root", &error);
	}
	together_sort(run);
	together_next_content(run);
	run->states.resting = false;
	crash_acknowledged(&run->states, 0);
	return true;
}

static void together_end(struct together_run *run)
{
	for (unsigned i = 0; i < run->way->n; i++)
		together_end_pool(run, i, true);
	while (run->n >= 0)
		together_drop_content(run);
	crash_states_close(&run->states);
}

/* One script of this seed; its counts stay in run->states. limit: media at which it is enough. */
static void together_script(struct together_run *run, const struct together_way *way, uint64_t seed,
                            uint64_t limit)
{
	struct lh_crash_options options = { .pages = (uint64_t)way->n * TOGETHER_PAGES,
		                            .direct = way->direct,
		                            .no_durable_put = way->no_durable_put };

	memset(run, 0, sizeof *run);
	run->way = way;
	run->random = seed;
	run->entropy = seed ^ 0x5a17;
	run->orders = seed ^ 0x0bde;
	run->n = -1;
	run->sys = lh__sys_default;
	run->sys.context = run;
	run->sys.call = together_sys_call;
	run->states.recover = together_recover;
	run->states.context = run;
	run->states.random = seed ^ 0xfeed;
	run->states.limit = limit;
	crash_states_open(&run->states, &run->sys, &options);
	run->medium = run->states.medium;
	if (together_begin(run))
		for (unsigned i = 0; i < way->steps && together_step(run); i++)
			;
	together_end(run);
}

#endif
