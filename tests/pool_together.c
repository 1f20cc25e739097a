/*
 * pool_together.c - transactions over several pools: what they keep and take back, nesting, threads, pools
 * that are opened and closed meanwhile, full logs, logs that fail, processes that die at each of their system
 * calls, and a pool whose other one has been moved or is gone.
 *
 * That nothing is lost in a loss of power is what tests/crash_together.c shows.
 */
/* timeout: 120 */
#include <limits.h>
#include <pthread.h>

#include "linehome/atomic.h"
#include "pool_ways.h"
#include "service/pool/inside.h"
#include "service/pool/translated.h"
#include "slice.h"
#include "store/fault.h"

#define POOLS 3u
#define MANY 20u
#define LARGE (300u << 10)

/* Two or three pools, and the way in which each is. */
struct mix {
	const char *name;
	unsigned n;
	struct way way[POOLS];
};

#define REDO_DISK                                                                                            \
	{                                                                                                    \
		"", LH_SEE_DECLARED, LH_LOG_REDO, true                                                       \
	}
#define REDO                                                                                                 \
	{                                                                                                    \
		"", LH_SEE_DECLARED, LH_LOG_REDO, false                                                      \
	}
#define UNDO                                                                                                 \
	{                                                                                                    \
		"", LH_SEE_DECLARED, LH_LOG_UNDO, false                                                      \
	}
static const struct mix mixes[] = {
	{ "redo and redo on a disk", 2, { REDO_DISK, REDO_DISK } },
	{ "redo and redo", 2, { REDO, REDO } },
	{ "undo and undo", 2, { UNDO, UNDO } },
	{ "undo, redo, and redo on a disk", 3, { UNDO, REDO, REDO_DISK } },
};
#define MIXES (sizeof mixes / sizeof *mixes)

struct bed {
	const struct mix *mix;
	char path[POOLS][400];
	struct lh_pool *pool[POOLS];
	volatile uint64_t *root[POOLS];
	const struct lh_sys *sys;
};

static bool mix_lacks(const struct mix *mix)
{
	for (unsigned i = 0; i < mix->n; i++)
		if (way_lacks(&mix->way[i]))
			return true;
	return false;
}

/* As if it were opened with LH_SEE_TRANSLATED, but for the translation: it is declared what is stored to. */
static struct lh_pool *joining(struct lh_pool *pool)
{
	pool->joins = true;
	return pool;
}

static void bed_open_one(struct bed *bed, unsigned i)
{
	struct lh_pool_options options = way_options(&bed->mix->way[i]);

	MUST(lh__pool_open(bed->sys, bed->path[i], &options, &bed->pool[i], &why));
	bed->root[i] = way_root(joining(bed->pool[i]));
}

static void bed_make(struct bed *bed, const struct mix *mix)
{
	*bed = (struct bed){ .mix = mix, .sys = &lh__sys_default };
	for (unsigned i = 0; i < mix->n; i++) {
		bed->pool[i] = way_create(&mix->way[i], way_path(&mix->way[i], bed->path[i]));
		bed->root[i] = way_root(joining(bed->pool[i]));
	}
}

static void bed_close(struct bed *bed)
{
	for (unsigned i = 0; i < bed->mix->n; i++)
		way_close(bed->pool[i]);
}

static void bed_remove(struct bed *bed)
{
	for (unsigned i = 0; i < bed->mix->n; i++)
		unlink(bed->path[i]);
}

static void bed_reopen(struct bed *bed)
{
	bed_close(bed);
	for (unsigned i = 0; i < bed->mix->n; i++)
		bed_open_one(bed, i);
}

/* One word of each pool, in the transaction that is open. */
static void store_all(struct bed *bed, unsigned at, uint64_t value)
{
	for (unsigned i = 0; i < bed->mix->n; i++)
		way_store(bed->pool[i], &bed->root[i][at], value);
}

static bool all_are(const struct bed *bed, unsigned at, uint64_t value)
{
	for (unsigned i = 0; i < bed->mix->n; i++)
		if (bed->root[i][at] != value)
			return false;
	return true;
}

static void set_all(struct bed *bed, unsigned at, uint64_t value)
{
	MUST(lh__atomic_begin(&why));
	store_all(bed, at, value);
	MUST(lh__atomic_end(&why));
}

/* ---- what is kept, and what is taken back ---- */

static void keeps(const struct mix *mix)
{
	struct lh_pool_info before, after;
	struct bed bed;

	bed_make(&bed, mix);
	for (unsigned i = 0; i < 50; i++)
		set_all(&bed, i, i + 7);
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 3, 99);
	MUST(lh__atomic_abort(&why));
	ok(all_are(&bed, 3, 10), "%s: an abort takes it back everywhere", mix->name);
	before = way_info(bed.pool[1]);
	MUST(lh__atomic_begin(&why));
	way_store(bed.pool[0], &bed.root[0][1000], 5);
	MUST(lh__atomic_end(&why));
	after = way_info(bed.pool[1]);
	ok(before.log_bytes == after.log_bytes && after.commits == before.commits + 1,
	   "%s: a pool in which nothing has changed has nothing to log", mix->name);
	MUST(lh__atomic_begin(&why));
	way_store(bed.pool[1], &bed.root[1][7], bed.root[1][7]);
	way_store(bed.pool[0], &bed.root[0][1001], 5);
	MUST(lh__atomic_end(&why));
	MUST(lh__atomic_begin(&why));
	MUST(lh__atomic_end(&why));
	bed_reopen(&bed);
	for (unsigned i = 0; i < 50; i++)
		if (!all_are(&bed, i, i + 7))
			ok(0, "%s: word %u is there again", mix->name, i);
	ok(bed.root[0][1000] == 5 && bed.root[0][1001] == 5, "%s: all is there when they are opened again",
	   mix->name);
	bed_close(&bed);
	bed_remove(&bed);
}

static void nests(const struct mix *mix)
{
	struct lh_error error;
	struct bed bed;

	bed_make(&bed, mix);
	is(lh__atomic_end(&error), -EPERM, "%s: an end without a beginning", mix->name);
	is(lh__atomic_abort(&error), -EPERM, "%s: ... or an abort", mix->name);
	MUST(lh__atomic_begin(&why));
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 1);
	MUST(lh__atomic_end(&why));
	MUST(lh_tx_begin(bed.pool[0], &why));
	way_store(bed.pool[0], &bed.root[0][1], 1);
	MUST(lh_tx_commit(bed.pool[0], &why));
	is(lh_tx_commit(bed.pool[0], &error), -EPERM, "%s: what tx_begin began lh_tx_commit does not end",
	   mix->name);
	is(lh_tx_abort(bed.pool[0], &error), -EPERM, "%s: ... nor does lh_tx_abort", mix->name);
	MUST(lh__atomic_end(&why));
	ok(all_are(&bed, 0, 1) && bed.root[0][1] == 1, "%s: inner ones join", mix->name);
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 2);
	MUST(lh_tx_begin(bed.pool[1], &why));
	MUST(lh_tx_abort(bed.pool[1], &why));
	store_all(&bed, 2, 2);
	is(lh__atomic_end(&error), -ECANCELED, "%s: an inner abort in one pool", mix->name);
	ok(all_are(&bed, 0, 1) && all_are(&bed, 2, 0), "%s: ... is one in all", mix->name);
	MUST(lh__atomic_begin(&why));
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 2);
	is(lh__atomic_abort(&error), 0, "%s: an inner abort", mix->name);
	ok(all_are(&bed, 0, 1), "%s: ... takes effect at once", mix->name);
	is(lh__atomic_end(&error), -ECANCELED, "%s: ... and ends the outer one", mix->name);
	bed_reopen(&bed);
	ok(all_are(&bed, 0, 1), "%s: ... for good", mix->name);
	bed_close(&bed);
	bed_remove(&bed);
}

/* lh_tx_begin comes first: its end is the end of all. */
static void nests_in_one(const struct mix *mix)
{
	struct lh_error error;
	struct bed bed;

	bed_make(&bed, mix);
	MUST(lh_tx_begin(bed.pool[1], &why));
	way_store(bed.pool[1], &bed.root[1][5], 1);
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 1);
	MUST(lh__atomic_end(&why));
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 1, 1);
	MUST(lh__atomic_end(&why));
	ok(bed.pool[0]->owner != 0, "%s: inside lh_tx_begin of one, the others wait for its end", mix->name);
	MUST(lh_tx_commit(bed.pool[1], &why));
	ok(bed.pool[0]->owner == 0 && bed.pool[1]->owner == 0, "%s: ... which ends all", mix->name);
	MUST(lh_tx_begin(bed.pool[1], &why));
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 2);
	MUST(lh__atomic_end(&why));
	is(lh_tx_abort(bed.pool[1], &error), 0, "%s: its abort", mix->name);
	ok(all_are(&bed, 0, 1) && bed.pool[0]->owner == 0, "%s: ... aborts all", mix->name);
	MUST(lh_tx_begin(bed.pool[1], &why));
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 2);
	MUST(lh__atomic_abort(&why));
	is(lh_tx_commit(bed.pool[1], &error), -ECANCELED, "%s: an inner tx_abort aborts it", mix->name);
	ok(all_are(&bed, 0, 1) && bed.pool[0]->owner == 0, "%s: ... and all", mix->name);
	bed_reopen(&bed);
	ok(all_are(&bed, 0, 1) && all_are(&bed, 1, 1) && bed.root[1][5] == 1, "%s: and it is kept so",
	   mix->name);
	bed_close(&bed);
	bed_remove(&bed);
}

static void nothing_open(void)
{
	struct lh_error error;

	is(lh__atomic_begin(&error), -ENODEV, "where no pool is open so, nothing can begin");
	ok(strstr(error.text, "LH_SEE_TRANSLATED") != NULL, "... and that is said");
}

/* ---- logs that are full, or fail ---- */

static void too_large(const struct mix *mix)
{
	unsigned wrong = 0, full = 0;
	struct lh_error error;
	struct bed bed;

	bed_make(&bed, mix);
	set_all(&bed, 0, 1);
	for (unsigned which = 0; which < mix->n; which++) {
		unsigned char *large;

		MUST(lh__atomic_begin(&why));
		store_all(&bed, 0, 2);
		large = lh_pool_alloc(bed.pool[which], LARGE, &error);
		/* With an undo log it is full here, and who sees the stores notes it so. */
		if (large)
			memset(large, 9, LARGE);
		else
			lh__tx_doom(bed.pool[which], error.code);
		full += lh__atomic_end(&error) == -E2BIG;
		wrong += !all_are(&bed, 0, 1);
	}
	is(full, mix->n, "%s: more than a log has room for, in any of them", mix->name);
	is(wrong, 0, "%s: ... and memory is as it was in all", mix->name);
	set_all(&bed, 0, 3);
	bed_reopen(&bed);
	ok(all_are(&bed, 0, 3), "%s: ... and the next one is kept", mix->name);
	bed_close(&bed);
	bed_remove(&bed);
}

/* Pools on stores that fail, in memory of this process. */
struct failing {
	struct lh_memory_pool *memory;
	struct lh_store *fault[2], *rest[2];
	struct lh_pool *pool[2];
	uint8_t id[2][16];
	volatile uint64_t *root[2];
};

/* A handle on a store that stays open when it is closed. */
struct kept {
	struct lh_store store;
	struct lh_store *of;
};

static int kept_find(void *context, const uint8_t id[16], const char *place, struct lh_store **below,
                     struct lh_error *error);

static struct lh_pool *failing_open(struct failing *failing, unsigned i, bool create)
{
	struct lh_pool_options options = { .see = LH_SEE_DECLARED,
		                           .size = LH_POOL_SIZE_MIN,
		                           .reach = LH_POOL_SIZE_MIN,
		                           .log_size = LH_POOL_LOG_MIN,
		                           .address = WAY_ADDRESS ? WAY_ADDRESS + (i << 24) : 0 };
	struct lh_pool_context context = { .find = kept_find, .find_context = failing };
	struct lh_pool *pool;

	MUST(lh__pool_on_store_as(failing->fault[i], &options, create, true, &context, &pool, &why));
	memcpy(failing->id[i], pool->header.id, 16);
	failing->root[i] = lh_pool_root(joining(pool), 4096, NULL);
	MUST(failing->root[i] ? 0 : -EIO);
	return pool;
}

static void kept_close(struct lh_store *store)
{
	free(store);
}

static int kept_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct lh_store *of = ((struct kept *)store)->of;

	return of->ops->get_now(of, page, want, data, held);
}

static int kept_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct lh_store *of = ((struct kept *)store)->of;

	return of->ops->submit(of, requests, n);
}

static size_t kept_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct lh_store *of = ((struct kept *)store)->of;

	return of->ops->poll(of, done, max, timeout_ms);
}

static int kept_sync(struct lh_store *store)
{
	struct lh_store *of = ((struct kept *)store)->of;

	return of->ops->sync(of);
}

static const struct lh_store_ops kept_ops = {
	"kept",    kept_submit, kept_poll, kept_get_now, kept_sync, slice_clone, lh__store_reserve_none,
	kept_close
};

static struct lh_store *keep_open(struct lh_store *of)
{
	struct kept *kept = calloc(1, sizeof *kept);

	kept->store = *of;
	kept->store.ops = &kept_ops;
	kept->of = of;
	return &kept->store;
}

static int kept_find(void *context, const uint8_t id[16], const char *place, struct lh_store **below,
                     struct lh_error *error)
{
	struct failing *failing = context;

	for (unsigned i = 0; i < 2; i++)
		if (memcmp(id, failing->id[i], 16) == 0) {
			*below = keep_open(failing->rest[i]);
			return 0;
		}
	return -ENOENT;
}

static void failing_layers(struct failing *failing)
{
	for (unsigned i = 0; i < 2; i++)
		MUST(lh__fault_open(keep_open(failing->rest[i]), &failing->fault[i]));
}

/*
 * A transaction, the first of theirs or the second, in which the nth write of one of them fails. Whether it
 * did.
 */
static bool fail_once(unsigned which, unsigned last, unsigned nth, unsigned *disagree, unsigned *odd)
{
	struct lh_fault_plan plan = { .what = LH_FAULT_PUT, .error = -EIO, .nth = nth, .lasting = true };
	struct failing failing = { .memory = NULL };
	struct lh_error error;
	bool injected;
	int result;

	MUST(lh__memory_pool_open(&lh__sys_default, 0, &failing.memory));
	for (unsigned i = 0; i < 2; i++)
		MUST(lh__memory_open(failing.memory, &failing.rest[i]));
	failing_layers(&failing);
	for (unsigned i = 0; i < 2; i++)
		failing.pool[i] = failing_open(&failing, i, true);
	for (uint64_t value = 1; value <= last; value++) {
		if (value == last)
			lh__fault_plan(failing.fault[which], &plan);
		MUST(lh__atomic_begin(&why));
		for (unsigned i = 0; i < 2; i++)
			way_store(failing.pool[i], failing.root[i], value);
		result = lh__atomic_end(&error);
	}
	injected = lh__fault_injected(failing.fault[which]) > 0;
	/* What was told, and where it was not broken, is so. */
	*odd += injected ? result != -EIO : result != 0;
	for (unsigned i = 0; i < 2; i++)
		*odd += !failing.pool[i]->broken && result < 0 && failing.root[i][0] != last - 1 &&
		        i != which;
	for (unsigned i = 0; i < 2; i++)
		lh_pool_close(failing.pool[i], NULL);
	failing_layers(&failing);
	for (unsigned i = 0; i < 2; i++)
		failing.pool[(nth + i) % 2] = failing_open(&failing, (nth + i) % 2, false);
	*disagree += failing.root[0][0] != failing.root[1][0];
	*odd += result == 0 && failing.root[0][0] != last;
	for (unsigned i = 0; i < 2; i++) {
		way_close(failing.pool[i]);
		failing.rest[i]->ops->close(failing.rest[i]);
	}
	lh__memory_pool_close(failing.memory);
	return injected;
}

static void logs_that_fail(void)
{
	unsigned disagree = 0, odd = 0, injected = 0;

	for (unsigned i = 0; i < 4; i++)
		for (unsigned nth = 1; fail_once(i % 2, 1 + i / 2, nth, &disagree, &odd) && nth < 100; nth++)
			injected++;
	ok(injected >= 6, "writes of logs fail, %u in turn", injected);
	is(odd, 0, "... which is told, or had no part in it");
	is(disagree, 0, "... and opened again the pools agree");
}

/* ---- the log ---- */

/* Prepared lines do not come home before it is decided, whoever wants room in the log. */
static void held_back(bool committed)
{
	struct lh_journal_format format = { .log_pages = LH_JOURNAL_LOG_MIN, .home_pages = 4 };
	unsigned char page[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_change change = { .page = 1, .mask = 1, .data = page };
	struct lh_memory_pool *memory;
	struct lh_store *below, *journal;
	uint64_t transaction = 0, sequence;
	lh_mask held;

	MUST(lh__memory_pool_open(&lh__sys_default, 0, &memory));
	MUST(lh__memory_open(memory, &below));
	MUST(lh__journal_format(below, &format, &why));
	MUST(lh__journal_open(below, false, &journal, &why));
	memset(page, 0x11, sizeof page);
	MUST(lh__journal_append(journal, &change, 1, &sequence));
	memset(page, 0x22, sizeof page);
	MUST(lh__journal_announce(journal));
	MUST(lh__journal_prepare(journal, &transaction, &change, 1, "note", 4, &sequence));
	MUST(lh__journal_flush(journal, sequence));
	MUST(lh__journal_checkpoint(journal));
	MUST(below->ops->get_now(below, lh__journal_home(journal) + 1, 1, page, &held));
	is(page[0], 0x11, "what is prepared does not come home");
	is(lh__journal_used(journal), 0, "... and all before it has left the log");
	is(lh__journal_finish(journal), -EBUSY, "... and such a log is not closed");
	MUST(lh__journal_decide(journal, transaction, committed, &sequence));
	MUST(lh__journal_flush(journal, sequence));
	MUST(lh__journal_checkpoint(journal));
	MUST(below->ops->get_now(below, lh__journal_home(journal) + 1, 1, page, &held));
	is(page[0], committed ? 0x22 : 0x11, "... decided it %s", committed ? "does" : "never does");
	MUST(lh__journal_finish(journal));
	journal->ops->close(journal);
	lh__memory_pool_close(memory);
}

static unsigned version_at(const char *path, unsigned page)
{
	uint32_t version = 0;
	int file = open(path, O_RDONLY);

	if (pread(file, &version, sizeof version, page * LH_PAGE_SIZE + 8) != sizeof version)
		version = 99;
	close(file);
	return version;
}

/* A program that knows version 1 only would take a prepared record for the end of the log. */
static void versions(const struct mix *mix)
{
	struct bed bed;

	bed_make(&bed, mix);
	way_set(bed.pool[0], &bed.root[0][0], 1);
	ok(version_at(bed.path[0], 0) == 1 && version_at(bed.path[0], 1) == 1,
	   "%s: alone, a pool is one of version 1", mix->name);
	set_all(&bed, 0, 2);
	for (unsigned i = 0; i < mix->n; i++)
		ok(version_at(bed.path[i], 0) == 2 && version_at(bed.path[i], 1) == 2,
		   "%s: together, of version 2", mix->name);
	bed_close(&bed);
	for (unsigned i = 0; i < mix->n; i++)
		ok(version_at(bed.path[i], 0) == 1 && version_at(bed.path[i], 1) == 1,
		   "%s: closed, of version 1 again", mix->name);
	bed_remove(&bed);
}

/* More pools than a coordinator can keep outcomes for. */
static void too_many(void)
{
	static const struct way way = REDO;
	struct lh_pool_options options = { .see = LH_SEE_DECLARED,
		                           .size = LH_POOL_SIZE_MIN,
		                           .reach = LH_POOL_SIZE_MIN,
		                           .log_size = LH_POOL_LOG_MIN };
	struct lh_pool *pool[MANY];
	volatile uint64_t *root[MANY];
	char path[MANY][400];
	struct lh_error error;
	unsigned wrong = 0;

	if (way_lacks(&way) || WAY_ADDRESS) {
		skip("many pools", "they have no place here");
		return;
	}
	for (unsigned i = 0; i < MANY; i++) {
		MUST(lh_pool_create(way_path(&way, path[i]), &options, &pool[i], &why));
		root[i] = lh_pool_root(joining(pool[i]), 64, NULL);
	}
	for (unsigned n = 2; n <= MANY; n += MANY - 3 - n > MANY ? 1 : 5) {
		int result;

		MUST(lh__atomic_begin(&why));
		for (unsigned i = 0; i < n; i++)
			way_store(pool[i], root[i], n);
		result = lh__atomic_end(&error);
		wrong += n <= LH_POOL_OUTCOMES + 1 ? result != 0 : result != -EUSERS;
		for (unsigned i = 0; i < n; i++)
			wrong += n <= LH_POOL_OUTCOMES + 1 ? root[i][0] != n : root[i][0] == n;
	}
	is(wrong, 0, "up to %u pools in a transaction, and with more nothing has happened",
	   LH_POOL_OUTCOMES + 1);
	for (unsigned i = 0; i < MANY; i++) {
		way_close(pool[i]);
		unlink(path[i]);
	}
}

/* ---- threads ---- */

#define ROUNDS 300u

struct worker {
	struct bed *bed;
	unsigned kind;
	uint64_t done;
	pthread_t thread;
};

/* All pools; or one alone; or one opened and closed again and again. */
static void *work(void *argument)
{
	struct worker *worker = argument;
	struct bed *bed = worker->bed;

	for (unsigned i = 0; i < ROUNDS; i++) {
		if (worker->kind < 2) {
			MUST(lh__atomic_begin(&why));
			for (unsigned j = 0; j < 2; j++)
				way_store(bed->pool[j], bed->root[j], bed->root[j][0] + 1);
			MUST(lh__atomic_end(&why));
		} else if (worker->kind < 4) {
			unsigned j = worker->kind - 2;

			MUST(lh_tx_begin(bed->pool[j], &why));
			way_store(bed->pool[j], &bed->root[j][8], bed->root[j][8] + 1);
			MUST(lh_tx_commit(bed->pool[j], &why));
		} else if (i % 8 == 0) {
			bed_open_one(bed, 2);
			way_close(bed->pool[2]);
		}
	}
	return NULL;
}

static void threads(const struct mix *mix)
{
	struct worker workers[5];
	struct bed bed;

	bed_make(&bed, mix);
	way_close(bed.pool[2]);
	for (unsigned i = 0; i < 5; i++) {
		workers[i] = (struct worker){ .bed = &bed, .kind = i };
		MUST(-pthread_create(&workers[i].thread, NULL, work, &workers[i]));
	}
	for (unsigned i = 0; i < 5; i++)
		pthread_join(workers[i].thread, NULL);
	bed_open_one(&bed, 2);
	for (unsigned i = 0; i < 2; i++)
		ok(bed.root[i][0] == 2 * ROUNDS && bed.root[i][8] == ROUNDS,
		   "%s: threads that change all, and one, while a third is opened and closed (%u)", mix->name,
		   i);
	bed_reopen(&bed);
	ok(bed.root[0][0] == 2 * ROUNDS && bed.root[1][0] == 2 * ROUNDS, "%s: ... and it is kept", mix->name);
	bed_close(&bed);
	bed_remove(&bed);
}

struct other {
	struct lh_pool *pool;
	uint32_t has, may_end;
	pthread_t thread;
};

static void *hold_one(void *argument)
{
	struct other *other = argument;

	MUST(lh_tx_begin(other->pool, &why));
	__atomic_store_n(&other->has, 1, __ATOMIC_RELEASE);
	lh__futex_wake(&lh__sys_default, &other->has, 1);
	while (!__atomic_load_n(&other->may_end, __ATOMIC_ACQUIRE))
		lh__futex_wait(&lh__sys_default, &other->may_end, 0, -1);
	MUST(lh_tx_abort(other->pool, &why));
	return NULL;
}

/* A thread has the last pool, another the first: who has a later one does not wait for an earlier one. */
static void no_circle(const struct mix *mix)
{
	unsigned first = 0, last = 1;
	struct other other = { .has = 0 };
	struct lh_error error;
	struct bed bed;

	bed_make(&bed, mix);
	if (memcmp(bed.pool[0]->header.id, bed.pool[1]->header.id, 16) > 0) {
		first = 1;
		last = 0;
	}
	other.pool = bed.pool[first];
	MUST(-pthread_create(&other.thread, NULL, hold_one, &other));
	while (!__atomic_load_n(&other.has, __ATOMIC_ACQUIRE))
		lh__futex_wait(&lh__sys_default, &other.has, 0, -1);
	MUST(lh_tx_begin(bed.pool[last], &why));
	is(lh__atomic_begin(&error), -EDEADLK, "%s: what might be a circle is refused", mix->name);
	ok(bed.pool[last]->depth == 1 && !bed.pool[last]->joined, "%s: ... and nothing has begun", mix->name);
	__atomic_store_n(&other.may_end, 1, __ATOMIC_RELEASE);
	lh__futex_wake(&lh__sys_default, &other.may_end, 1);
	pthread_join(other.thread, NULL);
	is(lh__atomic_begin(&error), 0, "%s: ... until the other has ended", mix->name);
	MUST(lh__atomic_end(&why));
	MUST(lh_tx_commit(bed.pool[last], &why));
	bed_close(&bed);
	bed_remove(&bed);
}

static void *close_one(void *argument)
{
	way_close(argument);
	return NULL;
}

/* A pool that is closed inside, by another thread and by its own. */
static void closed_inside(const struct mix *mix)
{
	struct lh_error error;
	pthread_t thread;
	struct bed bed;

	bed_make(&bed, mix);
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 1);
	MUST(-pthread_create(&thread, NULL, close_one, bed.pool[1]));
	MUST(lh__atomic_end(&why));
	pthread_join(thread, NULL);
	bed_open_one(&bed, 1);
	ok(all_are(&bed, 0, 1), "%s: who closes a pool waits for transactions that it is in", mix->name);
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 2);
	way_close(bed.pool[1]);
	is(lh__atomic_end(&error), -ECANCELED, "%s: who closes one inside has aborted", mix->name);
	bed_open_one(&bed, 1);
	ok(all_are(&bed, 0, 1), "%s: ... in all", mix->name);
	bed_close(&bed);
	MUST(bed.mix->n >= 2 ? 0 : -EINVAL);
	for (unsigned i = 0; i < mix->n; i++)
		bed_open_one(&bed, i);
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 3);
	bed_close(&bed);
	is(lh__atomic_end(&error), -ECANCELED, "%s: ... even all of them", mix->name);
	is(lh__atomic_end(&error), -EPERM, "%s: ... once", mix->name);
	bed_remove(&bed);
}

static int forked(void *context)
{
	struct bed *bed = context;
	struct lh_error error;
	int result = lh__atomic_end(&error) == -ECHILD && lh__atomic_end(&error) == -EPERM &&
	             lh__atomic_begin(&error) == -ENODEV;

	for (unsigned i = 0; i < bed->mix->n; i++)
		lh_pool_close(bed->pool[i], NULL);
	return !result;
}

static void forks(const struct mix *mix)
{
	struct bed bed;

	bed_make(&bed, mix);
	MUST(lh__atomic_begin(&why));
	store_all(&bed, 0, 1);
	is(in_child(forked, &bed), 0, "%s: in a child of fork there is no transaction", mix->name);
	MUST(lh__atomic_end(&why));
	bed_reopen(&bed);
	ok(all_are(&bed, 0, 1), "%s: ... and the parent's goes on", mix->name);
	bed_close(&bed);
	bed_remove(&bed);
}

/* ---- processes that die at one of their system calls ---- */

struct deaths {
	unsigned died, waited, disagree, seen[3];
};

struct dying {
	struct bed *bed;
	struct lh_sys sys;
	long left; /* calls that write */
};

static long call_or_die(void *context, long nr, const long argument[6])
{
	struct dying *dying = context;

	if ((nr == SYS_pwritev2 || nr == SYS_fdatasync || nr == SYS_pwritev || nr == SYS_pwrite64) &&
	    dying->left-- == 0)
		_exit(77);
	return lh__sys_default.call(NULL, nr, argument);
}

static int die(void *context)
{
	struct dying *dying = context;
	struct bed *bed = dying->bed;
	long left = dying->left;

	dying->left = LONG_MAX;
	dying->sys = lh__sys_default;
	dying->sys.call = call_or_die;
	dying->sys.context = dying;
	bed->sys = &dying->sys;
	for (unsigned i = 0; i < bed->mix->n; i++)
		bed_open_one(bed, i);
	set_all(bed, 0, 1);
	/* Of the first one everybody has heard. */
	for (unsigned i = 0; i < bed->mix->n; i++)
		MUST(lh__pool_checkpoint(bed->pool[i]));
	MUST(lh__atomic_begin(&why));
	store_all(bed, 0, 2);
	dying->left = left;
	MUST(lh__atomic_end(&why));
	dying->left = LONG_MAX;
	return 0;
}

/* A pool that does not open, and says which one it needs. Its number; or none. */
static int waiting(const struct bed *bed)
{
	for (unsigned i = 0; i < bed->mix->n; i++) {
		struct lh_pool_check check;

		MUST(lh__pool_check(&lh__sys_default, bed->path[i], NULL, &check, &why));
		if (check.waits)
			return (int)i;
	}
	return -1;
}

static uint64_t word_of(const char *path, const struct way *way)
{
	struct lh_pool *pool = way_open(way, path);
	uint64_t value = way_root(pool)[0];

	way_close(pool);
	return value;
}

/* Whether a command prints that; or there is no such command here. */
static bool says(const char *command, const char *path, const char *text)
{
	const char *build = getenv("LINEHOME_BUILD");
	char line[1000], program[400];
	bool found = false;
	FILE *out;

	snprintf(program, sizeof program, "%s/linehome", build ? build : "build");
	if (access(program, X_OK) != 0)
		return true;
	snprintf(line, sizeof line, "%.300s pool %s %.400s", program, command, path);
	out = popen(line, "r");
	while (out && fgets(line, sizeof line, out))
		found |= strstr(line, text) != NULL;
	return out && pclose(out) == 0 && found;
}

static void shows(const struct bed *bed, unsigned waits)
{
	ok(says("check", bed->path[waits], "Waits for") &&
	           says("check", bed->path[waits], bed->path[1 - waits]) &&
	           !says("check", bed->path[1 - waits], "Waits for"),
	   "check says which pool a pool waits for");
	ok(says("check --json", bed->path[waits], "\"waits_for\": {"), "... also as JSON");
	ok(says("log", bed->path[waits], "prepared") &&
	           says("log", bed->path[waits], "is decided by transaction") &&
	           says("log --json", bed->path[waits], "\"decides\""),
	   "log says so too");
}

/* Its other one is moved away; then it is decided by asking there, or by hand; or both are moved. */
static void needs_the_other(struct bed *bed, unsigned waits, unsigned variant)
{
	struct lh_pool_options options = way_options(&bed->mix->way[waits]);
	struct lh_pool_context context = { .decision = LH_POOL_ASK };
	unsigned other = 1 - waits;
	struct lh_journal_report report;
	char moved[420], folder[420];
	struct lh_error error;
	struct lh_pool *pool;
	uint64_t mine, its;

	shows(bed, waits);
	snprintf(folder, sizeof folder, "%.395s.d", bed->path[other]);
	MUST(mkdir(folder, 0700));
	snprintf(moved, sizeof moved, "%s%s", folder, strrchr(bed->path[other], '/'));
	MUST(rename(bed->path[other], moved));
	is(lh_pool_open(bed->path[waits], &options, &pool, &error), -ENOLINK,
	   "a pool that has to ask one that is gone does not open");
	ok(strstr(error.text, bed->path[other]) != NULL, "... and names it: %s", error.text);
	if (variant == 0) {
		context.ask = moved;
		is(lh__pool_decide(&lh__sys_default, bed->path[waits], &context, &report, &error), 0,
		   "... asked where it is now, it is decided");
	} else if (variant == 1) {
		char here[420];

		snprintf(here, sizeof here, "%s%s", folder, strrchr(bed->path[waits], '/'));
		MUST(rename(bed->path[waits], here));
		MUST(lh_pool_open(here, &options, &pool, &why));
		ok(pool != NULL, "... moved to the same folder, it finds it there");
		way_close(pool);
		MUST(rename(here, bed->path[waits]));
	} else {
		context.decision = variant == 2 ? LH_POOL_COMMIT : LH_POOL_DROP;
		is(lh__pool_decide(&lh__sys_default, bed->path[waits], &context, &report, &error), 0,
		   "... a person decides");
		is(word_of(bed->path[waits], &bed->mix->way[waits]), variant == 2 ? 2 : 1, "... so");
	}
	MUST(rename(moved, bed->path[other]));
	MUST(rmdir(folder));
	mine = word_of(bed->path[waits], &bed->mix->way[waits]);
	its = word_of(bed->path[other], &bed->mix->way[other]);
	ok(variant >= 2 || mine == its, "... and both agree");
}

/* What a child leaves that dies before that write; whether it came to an end. */
static bool die_once(const struct mix *mix, long left, unsigned variant, struct deaths *deaths)
{
	struct dying dying = { .left = left };
	unsigned first = (unsigned)left % 2;
	struct bed bed;
	uint64_t value, other;
	int status, waits;

	bed_make(&bed, mix);
	bed_close(&bed);
	dying.bed = &bed;
	status = in_child(die, &dying);
	bed.sys = &lh__sys_default;
	waits = waiting(&bed);
	if (waits >= 0)
		needs_the_other(&bed, (unsigned)waits, variant);
	if (waits < 0 || variant < 2) {
		value = word_of(bed.path[first], &mix->way[first]);
		other = word_of(bed.path[1 - first], &mix->way[1 - first]);
		deaths->disagree += value != other;
		deaths->seen[value < 3 ? value : 0]++;
	}
	bed_remove(&bed);
	deaths->waited += waits >= 0;
	deaths->died += WIFEXITED(status) && WEXITSTATUS(status) == 77;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Each of the writes of a commit in turn, and what may be done about a pool that has to ask. */
static void dies(const struct mix *mix)
{
	struct deaths deaths = { .died = 0 };

	for (unsigned variant = 0; variant < 4; variant++)
		for (long left = 0; left < 100 && !die_once(mix, left, variant, &deaths); left++)
			;
	ok(deaths.died > 4 && deaths.waited > 4 && deaths.seen[1] > 0 && deaths.seen[2] > 0,
	   "%s: %u processes die in a commit, and leave %u pools that have to ask", mix->name, deaths.died,
	   deaths.waited);
	is(deaths.disagree, 0, "%s: ... and the pools agree", mix->name);
}

/* ---- a program that names no pool, and declares nothing ---- */

static const struct mix translated[] = {
	{ "translated, redo and redo on a disk",
	  2,
	  { { "", LH_SEE_TRANSLATED, LH_LOG_REDO, false }, { "", LH_SEE_TRANSLATED, LH_LOG_REDO, true } } },
	{ "translated, undo and redo",
	  2,
	  { { "", LH_SEE_TRANSLATED, LH_LOG_UNDO, false }, { "", LH_SEE_TRANSLATED, LH_LOG_REDO, false } } },
	{ "translated, undo and undo",
	  2,
	  { { "", LH_SEE_TRANSLATED, LH_LOG_UNDO, false }, { "", LH_SEE_TRANSLATED, LH_LOG_UNDO, false } } },
};

/* As a program would: plain stores, and what libc does. */
static void change_all(struct bed *bed, uint64_t value)
{
	for (unsigned i = 0; i < bed->mix->n; i++) {
		bed->root[i][0] = value;
		memset((void *)&bed->root[i][64], (int)value, 1000);
	}
}

static bool changed_to(const struct bed *bed, uint64_t value)
{
	for (unsigned i = 0; i < bed->mix->n; i++) {
		const unsigned char *bytes = (const unsigned char *)(uintptr_t)&bed->root[i][64];

		if (bed->root[i][0] != value || bytes[0] != value || bytes[999] != value)
			return false;
	}
	return true;
}

static void names_no_pool(const struct mix *mix)
{
	struct bed bed;
	int result;

	is(tx_begin(), -ENODEV, "%s: without a pool there is no transaction", mix->name);
	is(tx_end(), -EPERM, "%s: ... none to end", mix->name);
	is(tx_abort(), -EPERM, "%s: ... nor to abort", mix->name);
	bed_make(&bed, mix);
	result = tx_begin();
	change_all(&bed, 1);
	if (result == 0)
		result = tx_end();
	ok(result == 0 && changed_to(&bed, 1), "%s: a transaction", mix->name);
	result = tx_begin();
	change_all(&bed, 2);
	if (result == 0)
		result = tx_abort();
	ok(result == 0 && changed_to(&bed, 1), "%s: ... one that is aborted", mix->name);
	result = tx_begin();
	change_all(&bed, 2);
	if (result == 0)
		result = tx_begin();
	change_all(&bed, 3);
	if (result == 0)
		result = tx_end();
	if (result == 0)
		result = tx_end();
	ok(result == 0 && changed_to(&bed, 3), "%s: ... one in another", mix->name);
	result = tx_begin();
	change_all(&bed, 4);
	if (result == 0)
		result = lh_pool_alloc(bed.pool[1], LARGE, NULL) ? 0 : -ENOMEM;
	for (unsigned i = 0; i < mix->n; i++)
		memset(way_info(bed.pool[i]).base + WAY_SIZE / 2, 5, LARGE);
	result = tx_end();
	ok(result == -ENOSPC && changed_to(&bed, 3), "%s: ... one that is more than a log has room for",
	   mix->name);
	ok(!lh__translated_is_on(), "%s: ... after which code runs as it is", mix->name);
	bed_reopen(&bed);
	ok(changed_to(&bed, 3), "%s: ... and all is kept", mix->name);
	bed_close(&bed);
	bed_remove(&bed);
}

static void each_mix(void (*test)(const struct mix *mix), unsigned pools)
{
	for (size_t i = 0; i < MIXES; i++) {
		if (mixes[i].n < pools)
			continue;
		if (mix_lacks(&mixes[i]))
			skip(mixes[i].name, "there is no such place");
		else
			test(&mixes[i]);
	}
}

int main(void)
{
	ways_begin("pool_together");
	nothing_open();
	each_mix(keeps, 2);
	each_mix(nests, 2);
	each_mix(nests_in_one, 2);
	each_mix(too_large, 2);
	logs_that_fail();
	held_back(true);
	held_back(false);
	each_mix(versions, 2);
	too_many();
	each_mix(threads, 3);
	each_mix(no_circle, 2);
	each_mix(closed_inside, 2);
	each_mix(forks, 2);
	if (mix_lacks(&mixes[0]))
		skip("processes that die", "there is no folder that is not on tmpfs");
	else
		dies(&mixes[0]);
	for (size_t i = 0; i < sizeof translated / sizeof *translated; i++)
		if (mix_lacks(&translated[i]))
			skip(translated[i].name, "there is no such place");
		else
			names_no_pool(&translated[i]);
	return ways_end();
}
