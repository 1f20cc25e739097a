/*
 * pool_grow.c - a pool grows while it is open: nothing moves, others use it meanwhile, and a crash anywhere
 * in it leaves a pool that can be opened.
 */
#include <pthread.h>

#include "inject.h"
#include "pool_ways.h"

static void done_with(struct lh_pool *pool, const char *path)
{
	struct lh_pool_check check;

	way_close(pool);
	MUST(lh__pool_check(&lh__sys_default, path, NULL, &check, &why));
	unlink(path);
}

static void grows(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	volatile uint64_t *root = way_root(pool);
	struct lh_pool_info before = way_info(pool), info;
	struct lh_error error = { .code = 0 };
	unsigned char *object;

	way_set(pool, root, 5);
	is(lh_pool_grow(pool, WAY_SIZE, NULL), 0, "%s: to the size that it has", way->name);
	is(lh_pool_grow(pool, 0, NULL), 0, "%s: to a smaller one", way->name);
	is(way_info(pool).size, WAY_SIZE, "%s: ... nothing is done", way->name);
	is(lh_pool_grow(pool, WAY_SIZE + 1, NULL), 0, "%s: by a byte", way->name);
	is(way_info(pool).size, WAY_SIZE + 4096, "%s: ... is by a page", way->name);
	is(lh_pool_grow(pool, WAY_REACH + 1, &error), -E2BIG, "%s: beyond its reach", way->name);
	ok(strstr(error.text, "4194304"), "%s: ... %s", way->name, error.text);
	is(lh_pool_grow(pool, UINT64_MAX, &error), -E2BIG, "%s: beyond anything", way->name);
	MUST(lh_tx_begin(pool, &why));
	is(lh_pool_grow(pool, 2 * WAY_SIZE, &error), -EBUSY, "%s: not inside a transaction", way->name);
	MUST(lh_tx_commit(pool, &why));
	is(lh_pool_grow(pool, WAY_REACH, NULL), 0, "%s: up to its reach", way->name);
	info = way_info(pool);
	ok(info.size == WAY_REACH && info.base == before.base && *root == 5, "%s: ... nothing has moved",
	   way->name);
	MUST(lh_tx_begin(pool, &why));
	object = lh_pool_alloc_zero(pool, 120000, NULL);
	MUST(object ? 0 : -ENOMEM);
	object[119999] = 9;
	MUST(lh_tx_commit(pool, &why));
	way_close(pool);
	pool = way_open(way, path);
	ok(way_info(pool).size == WAY_REACH && *root == 5 && object[119999] == 9,
	   "%s: ... and it is as large when opened again", way->name);
	done_with(pool, path);
}

/* ---- while others use it ---- */

#define THREADS 3u
struct worker {
	struct lh_pool *pool;
	unsigned number;
	uint32_t *stop;
	unsigned made;
	pthread_t thread;
};

static void *use(void *argument)
{
	struct worker *worker = argument;

	while (!__atomic_load_n(worker->stop, __ATOMIC_ACQUIRE)) {
		unsigned char *object;

		MUST(lh_tx_begin(worker->pool, &why));
		object = lh_pool_alloc(worker->pool, 1000, NULL);
		if (object)
			memset(object, (int)worker->number + 1, 1000);
		MUST(lh_tx_commit(worker->pool, &why));
		worker->made += object != NULL;
	}
	return NULL;
}

struct census {
	unsigned of[THREADS];
	bool whole;
};

static int count(void *context, void *object, size_t usable)
{
	const unsigned char *bytes = object;
	struct census *census = context;

	if (bytes[0] < 1 || bytes[0] > THREADS)
		return 1;
	for (unsigned i = 0; i < 1000; i++)
		census->whole &= bytes[i] == bytes[0];
	census->of[bytes[0] - 1]++;
	return 0;
}

static void under_use(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	struct worker worker[THREADS];
	struct census census = { .whole = true };
	uint32_t stop = 0;
	unsigned same = 0;

	for (unsigned i = 0; i < THREADS; i++) {
		worker[i] = (struct worker){ .pool = pool, .number = i, .stop = &stop };
		MUST(-pthread_create(&worker[i].thread, NULL, use, &worker[i]));
	}
	for (uint64_t size = WAY_SIZE; size <= WAY_REACH; size += WAY_SIZE / 4)
		MUST(lh_pool_grow(pool, size, &why));
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(worker[i].thread, NULL);
	is(way_info(pool).size, WAY_REACH, "%s: it grows while others allocate", way->name);
	lh__pool_abandon(pool);
	pool = way_open(way, path);
	is(lh_pool_objects(pool, count, &census), 0, "%s: ... every object is one of theirs", way->name);
	for (unsigned i = 0; i < THREADS; i++)
		same += census.of[i] == worker[i].made;
	ok(same == THREADS && census.whole, "%s: ... and whole, after it is opened again", way->name);
	done_with(pool, path);
}

/* ---- what fails or ends in it ---- */

/* Every call of the system in it fails, once or from there on: it grows, or fails and can be opened again. */
static void fails(const struct way *way, int code, enum inject_mode mode)
{
	unsigned wrong = 0, failed = 0;
	struct inject in;

	INJECT_SWEEP(&in, code, mode) {
		struct lh_pool_options options = way_options(way);
		struct lh_pool *pool;
		char path[400];
		volatile uint64_t *root;
		int result;

		MUST(lh__pool_create(&in.sys, way_path(way, path), &options, &pool, &why));
		root = way_root(pool);
		way_set(pool, root, 5);
		inject_arm(&in);
		result = lh_pool_grow(pool, 2 * WAY_SIZE, NULL);
		inject_disarm(&in);
		failed += result < 0;
		wrong += *root != 5 || (result == 0 && way_info(pool).size != 2 * WAY_SIZE);
		/* Where nothing has broken, it goes on, and may grow later. */
		if (lh_tx_begin(pool, NULL) == 0) {
			way_store(pool, root, 6);
			MUST(lh_tx_commit(pool, &why));
			wrong += lh_pool_grow(pool, 3 * WAY_SIZE, NULL) != 0 ||
			         lh_pool_root(pool, 0, NULL) != root;
			MUST(lh_tx_begin(pool, &why));
			wrong += lh_pool_alloc(pool, 100000, NULL) == NULL;
			MUST(lh_tx_commit(pool, &why));
		}
		lh__pool_abandon(pool);
		pool = way_open(way, path);
		wrong += way_root(pool)[0] < 5;
		MUST(lh_pool_grow(pool, WAY_REACH, &why));
		done_with(pool, path);
	}
	ok(inject_swept(&in), "%s: growing, %lu rounds with a failure, balanced", way->name, in.rounds);
	ok(failed > 0 && wrong == 0, "%s: ... it goes on or is opened again as before (%u failed, %u wrong)",
	   way->name, failed, wrong);
}

/*
 * Where each store is looked at, what fails in the handler of a fault ends as SIGBUS, and is nothing to go on
 * from.
 */
static void fails_each(const struct way *way)
{
	if (way->see == LH_SEE_CHECKED)
		return;
	fails(way, EIO, INJECT_ONCE);
	fails(way, ENOSPC, INJECT_LASTING);
}

/*
 * What is under way when the process ends, at each call of the system: as if all from there on were not made.
 */
static void ends_between(const struct way *way)
{
	unsigned wrong = 0, grown = 0, rounds = 0;
	struct inject in;

	INJECT_SWEEP(&in, EIO, INJECT_LASTING) {
		struct lh_pool_options options = way_options(way);
		struct lh_pool *pool;
		char path[400];
		uint64_t size;

		MUST(lh__pool_create(&in.sys, way_path(way, path), &options, &pool, &why));
		way_set(pool, way_root(pool), 5);
		inject_arm(&in);
		(void)!lh_pool_grow(pool, 2 * WAY_SIZE, NULL);
		lh__pool_abandon(pool);
		inject_disarm(&in);
		pool = way_open(way, path);
		size = way_info(pool).size;
		wrong += size != WAY_SIZE && size != 2 * WAY_SIZE;
		grown += size == 2 * WAY_SIZE;
		rounds++;
		/* The heap knows of all of it. */
		MUST(lh_tx_begin(pool, &why));
		for (unsigned i = 0; i < size / WAY_SIZE; i++)
			wrong += lh_pool_alloc(pool, 90000, NULL) == NULL;
		MUST(lh_tx_abort(pool, &why));
		done_with(pool, path);
	}
	ok(wrong == 0 && grown > 0 && grown < rounds, "%s: ended anywhere, it is grown or not (%u of %u)",
	   way->name, grown, rounds);
}

int main(void)
{
	ways_begin("pool_grow");
	ways_each(grows);
	ways_each(under_use);
	ways_each(fails_each);
	ways_each_place(ends_between);
	return ways_end();
}
