/*
 * pool_threads.c - a pool that is busy in every way at once: threads that commit without waiting, others that
 * wait for them, one that makes it grow, and a log of the smallest size, which is brought home in the
 * background again and again. What was waited for is there when the pool is opened again, and nothing of what
 * came after a transaction that is not. Meant for ThreadSanitizer as well.
 */
#include <pthread.h>

#include "pool_ways.h"

enum { COMMITTERS = 3, WAITERS = 2, QUEUE = 8, CELLS = 64 };

/* Transaction n, of all threads' one after the other, writes n here and in a cell of its own. */
struct root {
	uint64_t n;
	uint64_t cell[CELLS * 8]; /* a line each */
};

/* A commit that somebody has to wait for. */
struct promise {
	uint64_t token, n;
};

struct busy {
	const struct way *way;
	struct lh_pool *pool;
	volatile struct root *root;
	unsigned rounds;
	pthread_mutex_t lock; /* of the queue */
	pthread_cond_t change;
	struct promise queue[QUEUE];
	unsigned queued, committers;
	uint64_t acknowledged; /* the newest n that was waited for */
	bool over;
};

static void put(struct busy *busy, struct promise promise)
{
	pthread_mutex_lock(&busy->lock);
	while (busy->queued == QUEUE)
		pthread_cond_wait(&busy->change, &busy->lock);
	busy->queue[busy->queued++] = promise;
	pthread_cond_broadcast(&busy->change);
	pthread_mutex_unlock(&busy->lock);
}

/* false when there will be no more. */
static bool take(struct busy *busy, struct promise *promise)
{
	bool there;

	pthread_mutex_lock(&busy->lock);
	while (busy->queued == 0 && busy->committers > 0)
		pthread_cond_wait(&busy->change, &busy->lock);
	there = busy->queued > 0;
	if (there)
		*promise = busy->queue[--busy->queued];
	pthread_cond_broadcast(&busy->change);
	pthread_mutex_unlock(&busy->lock);
	return there;
}

static void acknowledge(struct busy *busy, uint64_t n)
{
	pthread_mutex_lock(&busy->lock);
	busy->acknowledged = n > busy->acknowledged ? n : busy->acknowledged;
	pthread_mutex_unlock(&busy->lock);
}

static void *commit_thread(void *argument)
{
	struct busy *busy = argument;

	for (unsigned i = 0; i < busy->rounds; i++) {
		struct promise promise = { .token = 0 };

		MUST(lh_tx_begin(busy->pool, &why));
		promise.n = busy->root->n + 1;
		way_store(busy->pool, &busy->root->n, promise.n);
		way_store(busy->pool, &busy->root->cell[promise.n % CELLS * 8], promise.n);
		if (i % 7 == 6) {
			MUST(lh_tx_abort(busy->pool, &why));
		} else if (i % 3 == 2) {
			MUST(lh_tx_commit(busy->pool, &why));
			acknowledge(busy, promise.n);
		} else {
			MUST(lh_tx_commit_async(busy->pool, &promise.token, &why));
			put(busy, promise);
		}
	}
	pthread_mutex_lock(&busy->lock);
	busy->committers--;
	pthread_cond_broadcast(&busy->change);
	pthread_mutex_unlock(&busy->lock);
	return NULL;
}

static void *wait_thread(void *argument)
{
	struct busy *busy = argument;
	struct promise promise;

	while (take(busy, &promise)) {
		MUST(lh_tx_wait(busy->pool, promise.token, &why));
		acknowledge(busy, promise.n);
	}
	return NULL;
}

static void *grow_thread(void *argument)
{
	struct busy *busy = argument;
	struct lh_pool_info info = way_info(busy->pool);

	while (!__atomic_load_n(&busy->over, __ATOMIC_ACQUIRE)) {
		if (info.size < WAY_REACH)
			MUST(lh_pool_grow(busy->pool, info.size + 64 * 1024, &why));
		info = way_info(busy->pool);
		usleep(2000);
	}
	return NULL;
}

static void run_busy(struct busy *busy)
{
	pthread_t committer[COMMITTERS], waiter[WAITERS], grower;

	busy->committers = COMMITTERS;
	MUST(-pthread_create(&grower, NULL, grow_thread, busy));
	for (unsigned i = 0; i < WAITERS; i++)
		MUST(-pthread_create(&waiter[i], NULL, wait_thread, busy));
	for (unsigned i = 0; i < COMMITTERS; i++)
		MUST(-pthread_create(&committer[i], NULL, commit_thread, busy));
	for (unsigned i = 0; i < COMMITTERS; i++)
		pthread_join(committer[i], NULL);
	for (unsigned i = 0; i < WAITERS; i++)
		pthread_join(waiter[i], NULL);
	__atomic_store_n(&busy->over, true, __ATOMIC_RELEASE);
	pthread_join(grower, NULL);
}

/* Each cell holds the newest transaction that is its own. */
static unsigned wrong_cells(const volatile struct root *root)
{
	const uint64_t n = root->n;
	unsigned wrong = 0;

	for (unsigned i = 0; i < CELLS; i++) {
		uint64_t newest = n - (n - i) % CELLS;

		wrong += n >= CELLS && root->cell[i * 8] != newest;
	}
	return wrong;
}

static void busy_pool(const struct way *way)
{
	struct busy busy = { .way = way, .rounds = way->disk ? 300 : 1500 };
	struct lh_pool_options options = way_options(way);
	struct lh_pool_info info;
	uint64_t log_size;
	char path[400];

	options.log_size = LH_POOL_LOG_MIN;
	pthread_mutex_init(&busy.lock, NULL);
	pthread_cond_init(&busy.change, NULL);
	MUST(lh_pool_create(way_path(way, path), &options, &busy.pool, &why));
	busy.root = lh_pool_root(busy.pool, sizeof *busy.root, NULL);
	run_busy(&busy);
	info = way_info(busy.pool);
	log_size = info.log_size;
	ok(info.log_bytes > 2 * log_size, "%s: the log has been gone round %lu times", way->name,
	   (unsigned long)(info.log_bytes / log_size));
	ok(info.size > WAY_SIZE, "%s: it has grown meanwhile", way->name);
	is(info.aborts, COMMITTERS * (busy.rounds / 7), "%s: aborts are counted", way->name);
	lh__pool_abandon(busy.pool);
	MUST(lh_pool_open(path, &options, &busy.pool, &why));
	busy.root = lh_pool_root(busy.pool, 0, NULL);
	is(busy.root->n, busy.acknowledged, "%s: all that was waited for is there", way->name);
	is(wrong_cells(busy.root), 0, "%s: ... and all that came before it", way->name);
	way_close(busy.pool);
	unlink(path);
	pthread_cond_destroy(&busy.change);
	pthread_mutex_destroy(&busy.lock);
}

int main(void)
{
	ways_begin("pool_threads");
	ways_each(busy_pool);
	return ways_end();
}
