/*
 * pool_tx.c - transactions: what a commit keeps and an abort takes back, nesting, threads, waiting,
 * transactions that are too large, stores outside of any, system calls, and what is kept after a long random
 * history.
 */
#include <pthread.h>
#include <sys/mman.h>

#include "line_random.h"
#include "pool_ways.h"

static struct lh_pool *pool_of(const struct way *way, char path[400])
{
	struct lh_pool *pool = way_create(way, way_path(way, path));

	way_root(pool);
	return pool;
}

static void done_with(struct lh_pool *pool, const char *path)
{
	way_close(pool);
	unlink(path);
}

/* All of the pool's memory, as it is now. */
static unsigned char *picture(struct lh_pool *pool)
{
	struct lh_pool_info info = way_info(pool);
	unsigned char *copy = malloc(info.size);

	memcpy(copy, info.base, info.size);
	return copy;
}

static bool is_picture(struct lh_pool *pool, const unsigned char *copy)
{
	struct lh_pool_info info = way_info(pool);

	return memcmp(info.base, copy, info.size) == 0;
}

static void declare(struct lh_pool *pool, volatile void *at, size_t size)
{
	if (!see_all(way_info(pool).see))
		MUST(lh_tx_add(pool, (const void *)at, size, &why));
}

/* ---- commit and abort ---- */

/* Stores of many kinds, and objects made, changed, moved and freed. */
static void change_much(struct lh_pool *pool, void **kept, unsigned seed)
{
	volatile uint64_t *root = way_root(pool);
	unsigned char *bytes = (unsigned char *)(uintptr_t)root;

	for (unsigned i = 0; i < 40; i++)
		way_store(pool, &root[(i * 977 + seed) % ROOT_WORDS], i * seed);
	declare(pool, bytes + 4090, 12);
	memset(bytes + 4090, (int)seed, 12);
	declare(pool, bytes + 20000, 9000);
	memmove(bytes + 20000, bytes + 20100, 8900);
	for (unsigned i = 0; i < 20; i++) {
		void *object = lh_pool_alloc_zero(pool, 16 << i % 9, NULL);

		MUST(object ? 0 : -ENOMEM);
		if (i % 3 == 0)
			MUST(lh_pool_free(pool, object, &why));
	}
	*kept = lh_pool_realloc(pool, *kept, 3000 + seed * 100 % 5000, NULL);
	MUST(*kept ? 0 : -ENOMEM);
}

static void restores(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *before;
	unsigned same = 0, kept_right = 0;
	void *kept = NULL, *copy;

	MUST(lh_tx_begin(pool, &why));
	change_much(pool, &kept, 1);
	MUST(lh_tx_commit(pool, &why));
	for (unsigned round = 0; round < 6; round++) {
		before = picture(pool);
		copy = kept;
		MUST(lh_tx_begin(pool, &why));
		change_much(pool, &copy, round + 2);
		kept_right += !is_picture(pool, before);
		MUST(lh_tx_abort(pool, &why));
		same += is_picture(pool, before);
		free(before);
		MUST(lh_tx_begin(pool, &why));
		change_much(pool, &kept, round + 20);
		MUST(lh_tx_commit(pool, &why));
	}
	is(kept_right, 6, "%s: a transaction changes memory", way->name);
	is(same, 6, "%s: aborted, memory is as before, allocations included", way->name);
	before = picture(pool);
	way_close(pool);
	pool = way_open(way, path);
	ok(is_picture(pool, before), "%s: committed, it is the same when opened again", way->name);
	MUST(lh_tx_begin(pool, &why));
	change_much(pool, &kept, 99);
	lh__pool_abandon(pool);
	pool = way_open(way, path);
	ok(is_picture(pool, before), "%s: a transaction that was under way is gone", way->name);
	free(before);
	done_with(pool, path);
}

static void nests(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	volatile uint64_t *root = way_root(pool);
	struct lh_pool_info before, after;
	struct lh_error error;
	uint64_t token = 9;

	way_set(pool, &root[1], 1);
	before = way_info(pool);
	MUST(lh_tx_begin(pool, &why));
	way_store(pool, &root[1], 2);
	MUST(lh_tx_begin(pool, &why));
	way_store(pool, &root[2], 2);
	is(lh_tx_commit_async(pool, &token, NULL), 0, "%s: an inner commit", way->name);
	is(token, 0, "%s: ... has nothing to wait for", way->name);
	is(lh_tx_wait(pool, token, NULL), 0, "%s: ... and waiting for that is nothing", way->name);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_tx_commit(pool, &why));
	MUST(lh_tx_abort(pool, &why));
	after = way_info(pool);
	ok(root[1] == 1 && root[2] == 0, "%s: the outer abort takes back what inner ones have committed",
	   way->name);
	ok(after.commits == before.commits && after.aborts == before.aborts + 1, "%s: ... and counts once",
	   way->name);
	is(lh_tx_commit(pool, &error), -EPERM, "%s: then there is none open", way->name);
	is(lh_tx_abort(pool, &error), -EPERM, "%s: ... none to abort", way->name);
	is(lh_tx_add(pool, (void *)root, 8, &error), -EPERM, "%s: ... none to declare for", way->name);
	ok(lh_pool_alloc(pool, 8, &error) == NULL && error.code == -EPERM, "%s: ... none to allocate in",
	   way->name);
	done_with(pool, path);
}

/* The outer declares, an inner aborts, and the outer stores on: all of that is undone, too. */
static void inner_aborts(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	volatile uint64_t *root = way_root(pool);
	unsigned char *before;
	struct lh_error error;

	for (unsigned i = 0; i < 5; i++)
		way_set(pool, &root[i * 600], 1);
	before = picture(pool);
	MUST(lh_tx_begin(pool, &why));
	declare(pool, &root[0], 8);
	root[0] = 2;
	declare(pool, &root[600], 8);
	MUST(lh_tx_begin(pool, &why));
	way_store(pool, &root[1200], 2);
	ok(lh_pool_alloc(pool, 100, NULL) != NULL, "%s: an object in an inner transaction", way->name);
	is(lh_tx_abort(pool, NULL), 0, "%s: ... that is aborted", way->name);
	ok(root[0] == 1 && root[1200] == 1, "%s: ... memory is as at the outermost begin", way->name);
	root[0] = 3;
	root[600] = 3;
	way_store(pool, &root[1800], 3);
	MUST(lh_tx_begin(pool, &why));
	way_store(pool, &root[2400], 3);
	is(lh_tx_commit(pool, NULL), 0, "%s: ... another inner one after it commits", way->name);
	is(lh_tx_commit(pool, &error), -ECANCELED, "%s: ... the outermost cannot", way->name);
	ok(is_picture(pool, before), "%s: ... what came after the abort is undone as well", way->name);
	is(lh_tx_commit(pool, &error), -EPERM, "%s: ... and it is over", way->name);
	way_set(pool, &root[0], 7);
	way_close(pool);
	pool = way_open(way, path);
	ok(way_root(pool)[0] == 7 && way_root(pool)[600] == 1, "%s: ... the next one is kept", way->name);
	free(before);
	done_with(pool, path);
}

static void empty_ones(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	volatile uint64_t *root = way_root(pool);
	struct lh_pool_info before = way_info(pool), after;
	unsigned char *all = picture(pool);

	for (unsigned i = 0; i < 3; i++) {
		MUST(lh_tx_begin(pool, &why));
		MUST(lh_tx_commit(pool, &why));
		MUST(lh_tx_begin(pool, &why));
		MUST(lh_tx_abort(pool, &why));
	}
	after = way_info(pool);
	ok(after.log_bytes == before.log_bytes && after.commits == before.commits + 3 &&
	           after.aborts == before.aborts + 3,
	   "%s: a transaction that changes nothing writes nothing", way->name);
	/* The same value: no change, and in checked mode nothing that must be declared. */
	MUST(lh_tx_begin(pool, &why));
	declare(pool, &root[5], 8);
	root[5] = root[5];
	if (way->see != LH_SEE_DECLARED)
		root[4000] = root[4000];
	MUST(lh_tx_commit(pool, &why));
	ok(is_picture(pool, all) && (way->log == LH_LOG_UNDO || way_info(pool).log_bytes == after.log_bytes),
	   "%s: nor does one that stores what is there", way->name);
	free(all);
	done_with(pool, path);
}

/* ---- declaring ---- */

static void declares(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *base = way_info(pool).base, *bytes = (unsigned char *)(uintptr_t)way_root(pool);
	unsigned char *before;
	struct lh_error error;
	char here;

	MUST(lh_tx_begin(pool, &why));
	is(lh_tx_add(pool, &here, 1, &error), -EINVAL, "%s: what is not in the pool cannot be declared",
	   way->name);
	ok(strstr(error.text, "not in the pool"), "%s: ... that is said", way->name);
	is(lh_tx_add(pool, base - 1, 2, &error), -EINVAL, "%s: ... nor what begins before it", way->name);
	is(lh_tx_add(pool, base + WAY_SIZE - 1, 2, &error), -EINVAL, "%s: ... nor what ends behind it",
	   way->name);
	is(lh_tx_add(pool, base, SIZE_MAX, &error), -EINVAL, "%s: ... nor what wraps around", way->name);
	is(lh_tx_add(pool, base + WAY_SIZE, 0, &error), 0, "%s: nothing, at its end", way->name);
	is(lh_tx_add(pool, base + WAY_SIZE - 1, 1, &error), 0, "%s: its last byte", way->name);
	MUST(lh_tx_abort(pool, &why));
	before = picture(pool);
	MUST(lh_tx_begin(pool, &why));
	is(lh_tx_add(pool, bytes + 4000, 10000, &error), 0, "%s: a range over four pages", way->name);
	is(lh_tx_add(pool, bytes + 5000, 10, &error), 0, "%s: ... and a part of it again", way->name);
	memset(bytes + 4000, 0x55, 10000);
	MUST(lh_tx_abort(pool, &why));
	ok(is_picture(pool, before), "%s: ... and all of it comes back", way->name);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_tx_add(pool, bytes + 4000, 10000, &why));
	memset(bytes + 4000, 0x55, 10000);
	is(lh_tx_commit(pool, &error), 0, "%s: ... or is committed", way->name);
	memset(before + (bytes - base) + 4000, 0x55, 10000);
	way_close(pool);
	pool = way_open(way, path);
	ok(is_picture(pool, before), "%s: ... and there when opened again", way->name);
	free(before);
	done_with(pool, path);
}

/* ---- system calls ---- */

static void system_calls(const struct way *way)
{
	char path[400], other[400], got[9001];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *bytes = (unsigned char *)(uintptr_t)way_root(pool);
	int file = open(way_path(way, other), O_CREAT | O_RDWR, 0600);

	memset(got, 'y', sizeof got);
	got[9000] = 0;
	MUST(pwrite(file, got, 9000, 0) == 9000 ? 0 : -EIO);
	MUST(lh_tx_begin(pool, &why));
	/* Where changes are checked, only a page that is declared whole is open to the kernel. */
	MUST(way->see == LH_SEE_CHECKED
	             ? lh_tx_add(pool, bytes - 4096 + (-(uintptr_t)bytes & 4095), 16384, &why)
	             : lh_tx_add(pool, bytes + 3000, 9000, &why));
	is(pread(file, bytes + 3000, 9000, 0), 9000, "%s: a call that writes to what was declared",
	   way->name);
	MUST(lh_tx_commit(pool, &why));
	way_close(pool);
	pool = way_open(way, path);
	MUST(lh_pool_load(pool, bytes, 20000, &why));
	is(pwrite(file, bytes + 3000, 9000, 0), 9000, "%s: a call that reads what was loaded", way->name);
	memset(got, 0, sizeof got);
	ok(pread(file, got, 9000, 0) == 9000 && strspn(got, "y") == 9000 && bytes[2999] == 0 &&
	           bytes[12000] == 0,
	   "%s: ... which was kept, to the byte", way->name);
	close(file);
	unlink(other);
	done_with(pool, path);
}

/* ---- threads ---- */

#define THREADS 4u

struct worker {
	struct lh_pool *pool;
	volatile uint64_t *root;
	unsigned number, rounds;
	int result;
	pthread_t thread;
};

static void *store_part(void *argument)
{
	struct worker *worker = argument;
	struct lh_error error;

	worker->result = lh_tx_commit(worker->pool, &error) == -EPERM &&
	                 lh_tx_abort(worker->pool, &error) == -EPERM &&
	                 lh_tx_add(worker->pool, (void *)worker->root, 8, &error) == -EPERM;
	for (unsigned i = worker->number; i < ROOT_WORDS; i += THREADS)
		worker->root[i] = i + 1;
	return NULL;
}

static void work(struct worker *worker, struct lh_pool *pool, void *(*body)(void *), unsigned rounds)
{
	for (unsigned i = 0; i < THREADS; i++) {
		worker[i] = (struct worker){
			.pool = pool, .root = way_root(pool), .number = i, .rounds = rounds
		};
		MUST(-pthread_create(&worker[i].thread, NULL, body, &worker[i]));
	}
}

static unsigned join(struct worker *worker)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(worker[i].thread, NULL);
		sum += (unsigned)worker[i].result;
	}
	return sum;
}

/* Threads that store to the same pages at once, in one transaction. */
static void stores_of_threads(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	volatile uint64_t *root = way_root(pool);
	struct worker worker[THREADS];
	unsigned char *before = picture(pool);
	unsigned right = 0;

	for (unsigned commits = 0; commits < 2; commits++) {
		MUST(lh_tx_begin(pool, &why));
		/* Where code is translated, only the stores of who began it are seen. */
		if (way->see == LH_SEE_TRANSLATED)
			MUST(lh_tx_add(pool, (const void *)root, ROOT_WORDS * 8, &why));
		declare(pool, root, ROOT_WORDS * 8);
		work(worker, pool, store_part, 1);
		is(join(worker), THREADS, "%s: others than who began it cannot end it, nor declare",
		   way->name);
		MUST(commits ? lh_tx_commit(pool, &why) : lh_tx_abort(pool, &why));
		ok(commits || is_picture(pool, before), "%s: stores of several threads are aborted",
		   way->name);
	}
	way_close(pool);
	pool = way_open(way, path);
	for (unsigned i = 0; i < ROOT_WORDS; i++)
		right += way_root(pool)[i] == i + 1;
	is(right, ROOT_WORDS, "%s: ... or committed", way->name);
	free(before);
	done_with(pool, path);
}

/* Reads, adds one, and writes: lost updates would show if two were inside at once. */
static void *count_up(void *argument)
{
	struct worker *worker = argument;

	for (unsigned i = 0; i < worker->rounds; i++) {
		MUST(lh_tx_begin(worker->pool, &why));
		way_store(worker->pool, worker->root, worker->root[0] + 1);
		way_store(worker->pool, &worker->root[8 * (1 + worker->number)], i + 1);
		if (i % 5 == 4) {
			MUST(lh_tx_abort(worker->pool, &why));
			continue;
		}
		MUST(lh_tx_commit(worker->pool, &why));
	}
	return NULL;
}

static void one_at_a_time(const struct way *way)
{
	enum { ROUNDS = 50 };
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	struct worker worker[THREADS];
	volatile uint64_t *root;
	unsigned last = 0;

	work(worker, pool, count_up, ROUNDS);
	join(worker);
	lh__pool_abandon(pool);
	pool = way_open(way, path);
	root = way_root(pool);
	is(root[0], THREADS * ROUNDS * 4 / 5, "%s: transactions of several threads, one at a time",
	   way->name);
	for (unsigned i = 0; i < THREADS; i++)
		last += root[8 * (1 + i)] == ROUNDS - 1;
	is(last, THREADS, "%s: ... each one's last is kept", way->name);
	done_with(pool, path);
}

struct second {
	struct lh_pool *pool;
	volatile uint64_t *root;
	uint64_t seen;
	uint32_t begun;
};

static void *begin_second(void *argument)
{
	struct second *second = argument;

	__atomic_store_n(&second->begun, 1, __ATOMIC_RELEASE);
	MUST(lh_tx_begin(second->pool, &why));
	second->seen = second->root[0];
	MUST(lh_tx_abort(second->pool, &why));
	return NULL;
}

static void second_waits(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	struct second second = { .pool = pool, .root = way_root(pool) };
	pthread_t thread;

	MUST(lh_tx_begin(pool, &why));
	MUST(-pthread_create(&thread, NULL, begin_second, &second));
	while (!__atomic_load_n(&second.begun, __ATOMIC_ACQUIRE))
		sched_yield();
	/* However long this takes, the second sees nothing that is not committed. */
	for (unsigned i = 1; i <= 200; i++)
		way_store(pool, second.root, i);
	MUST(lh_tx_commit(pool, &why));
	pthread_join(thread, NULL);
	is(second.seen, 200, "%s: begin of a second thread waits for the commit", way->name);
	done_with(pool, path);
}

static void later(const struct way *way)
{
	enum { N = 30 };
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	volatile uint64_t *root = way_root(pool);
	uint64_t token[N], before = way_info(pool).flushes, rising = 0;
	unsigned right = 0;

	for (unsigned i = 0; i < N; i++) {
		MUST(lh_tx_begin(pool, &why));
		way_store(pool, &root[i], i + 1);
		MUST(lh_tx_commit_async(pool, &token[i], &why));
		rising += i == 0 || token[i] > token[i - 1];
	}
	ok(way->log == LH_LOG_UNDO || rising == N, "%s: tokens rise", way->name);
	ok(!way->disk || way_info(pool).flushes == before, "%s: a commit without waiting flushes nothing",
	   way->name);
	is(lh_tx_wait(pool, token[N - 1], NULL), 0, "%s: ... the last is waited for", way->name);
	ok(!way->disk || way_info(pool).flushes == before + 1, "%s: ... with one flush for all", way->name);
	for (unsigned i = 0; i < N; i++)
		MUST(lh_tx_wait(pool, token[i], &why));
	ok(!way->disk || way_info(pool).flushes == before + 1, "%s: ... which those before it share",
	   way->name);
	lh__pool_abandon(pool);
	pool = way_open(way, path);
	for (unsigned i = 0; i < N; i++)
		right += way_root(pool)[i] == i + 1;
	is(right, N, "%s: ... all are there", way->name);
	done_with(pool, path);
}

static void *commit_some(void *argument)
{
	struct worker *worker = argument;

	for (unsigned i = 0; i < worker->rounds; i++) {
		uint64_t token;

		MUST(lh_tx_begin(worker->pool, &why));
		way_store(worker->pool, &worker->root[worker->number * 512 + i], i + 1);
		MUST(lh_tx_commit_async(worker->pool, &token, &why));
		/* Others commit meanwhile; who waits then shares a flush, or finds all done. */
		sched_yield();
		MUST(lh_tx_wait(worker->pool, token, &why));
	}
	return NULL;
}

static void group(const struct way *way)
{
	enum { ROUNDS = 100 };
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	uint64_t before = way_info(pool).flushes, after;
	struct worker worker[THREADS];
	unsigned right = 0;

	work(worker, pool, commit_some, ROUNDS);
	join(worker);
	after = way_info(pool).flushes;
	lh__pool_abandon(pool);
	pool = way_open(way, path);
	for (unsigned i = 0; i < THREADS * ROUNDS; i++)
		right += way_root(pool)[i / ROUNDS * 512 + i % ROUNDS] == i % ROUNDS + 1;
	is(right, THREADS * ROUNDS, "%s: what several threads have committed is there", way->name);
	if (way->disk)
		ok(after - before < THREADS * ROUNDS, "%s: ... with %lu flushes", way->name,
		   (unsigned long)(after - before));
	done_with(pool, path);
}

/* What a child is to do. */
struct child {
	const struct way *way;
	const char *path;
	int how;
};

/* ---- size ---- */

/* More than half of the log: -E2BIG, at the commit or (undo) when it is declared. */
static void too_large(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *before, *object = NULL;
	struct lh_error error = { .code = 0 };
	int result;

	MUST(lh_tx_begin(pool, &why));
	object = lh_pool_alloc(pool, WAY_LOG + WAY_LOG / 8, NULL);
	if (way->log == LH_LOG_REDO) {
		MUST(object ? 0 : -ENOMEM);
		memset(object, 1, WAY_LOG);
		is(lh_tx_commit(pool, &error), -E2BIG, "%s: more than the log has room for", way->name);
		ok(strstr(error.text, "262144"), "%s: ... %s", way->name, error.text);
	} else {
		ok(object == NULL, "%s: no object that the log has no room for", way->name);
		MUST(lh_tx_abort(pool, &why));
	}
	before = picture(pool);
	MUST(lh_tx_begin(pool, &why));
	result = lh_tx_add(pool, way_info(pool).base, WAY_SIZE, &error);
	is(result, way->log == LH_LOG_REDO ? 0 : -E2BIG, "%s: declaring all of it", way->name);
	is(lh_tx_abort(pool, &error), 0, "%s: ... is aborted", way->name);
	ok(is_picture(pool, before), "%s: ... everything is as before", way->name);
	way_set(pool, way_root(pool), 3);
	memcpy(before, way_info(pool).base, WAY_SIZE);
	way_close(pool);
	pool = way_open(way, path);
	ok(is_picture(pool, before) && way_root(pool)[0] == 3, "%s: ... and goes on", way->name);
	free(before);
	done_with(pool, path);
}

/* Line by line until no more is taken: what is logged ends wherever it likes, and there is room to end it. */
static void fills_log(const struct way *way)
{
	unsigned aborted = 0, committed = 0, refused = 0;
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *base = way_info(pool).base;

	if (way->log != LH_LOG_UNDO || way->see == LH_SEE_PAGE) {
		done_with(pool, path);
		return;
	}
	for (unsigned round = 0; round < 8; round++) {
		uint64_t at = WAY_SIZE / 2, step = round % 2 ? LH_LINE_SIZE : 2 * LH_LINE_SIZE;
		int result = 0;

		way_set(pool, &way_root(pool)[3], round);
		MUST(lh_tx_begin(pool, &why));
		for (; result == 0 && at < WAY_SIZE; at += step) {
			result = lh_tx_add(pool, base + at, 1 + round * 8 % LH_LINE_SIZE, NULL);
			if (result == 0)
				base[at] = (unsigned char)(base[at] + 1);
		}
		refused += result == -E2BIG;
		if (round % 4 < 2)
			committed += lh_tx_commit(pool, NULL) == 0;
		else
			aborted += lh_tx_abort(pool, NULL) == 0;
	}
	is(refused, 8, "%s: lines are logged until the log is full", way->name);
	ok(committed == 4 && aborted == 4, "%s: ... and it has room for the end", way->name);
	is(lh_pool_close(pool, NULL), 0, "%s: ... the pool goes on", way->name);
	unlink(path);
}

static int stores_too_much(void *context)
{
	struct child *child = context;
	struct lh_pool *pool = way_open(child->way, child->path);
	unsigned char *bytes = way_info(pool).base;

	MUST(lh_tx_begin(pool, &why));
	/* Twice each line, so that whole pages are saved. */
	for (unsigned i = WAY_SIZE / 4; i < WAY_SIZE; i += 8)
		*(volatile unsigned char *)(bytes + i) ^= 1;
	return 5;
}

/*
 * A store cannot fail: where an undo log has no room for what was there, it is SIGBUS, and recovery puts
 * back.
 */
static void store_without_room(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	struct child child = { way, path, 0 };
	unsigned char *before = picture(pool);
	int status;

	way_close(pool);
	if (way->log == LH_LOG_UNDO && way->see == LH_SEE_PAGE) {
		status = in_child(stores_too_much, &child);
		ok(ended_by(status, SIGBUS), "%s: a store that the log has no room for is SIGBUS (0x%x)",
		   way->name, (unsigned)status);
		pool = way_open(way, path);
		ok(is_picture(pool, before), "%s: ... and everything is as before", way->name);
		way_close(pool);
	}
	free(before);
	unlink(path);
}

static void over_many_pages(const struct way *way)
{
	struct lh_pool_options options = way_options(way);
	enum { PAGES = 3000 };
	char path[400];
	struct lh_pool *pool;
	unsigned char *object, *before;
	unsigned right = 0;

	options.size = 32 << 20;
	options.reach = 64 << 20;
	options.log_size = 32 << 20;
	MUST(lh_pool_create(way_path(way, path), &options, &pool, &why));
	MUST(lh_tx_begin(pool, &why));
	object = lh_pool_alloc_zero(pool, PAGES * 4096, NULL);
	MUST(object ? 0 : -ENOMEM);
	MUST(lh_tx_commit(pool, &why));
	before = picture(pool);
	for (unsigned commits = 0; commits < 2; commits++) {
		MUST(lh_tx_begin(pool, &why));
		for (unsigned i = 0; i < PAGES; i++) {
			declare(pool, object + i * 4096 + i, 1);
			object[i * 4096 + i] = (unsigned char)(i | 1);
		}
		MUST(commits ? lh_tx_commit(pool, &why) : lh_tx_abort(pool, &why));
		ok(commits || is_picture(pool, before), "%s: %u pages are aborted", way->name, PAGES);
	}
	lh__pool_abandon(pool);
	MUST(lh_pool_open(path, &options, &pool, &why));
	for (unsigned i = 0; i < PAGES; i++)
		right += object[i * 4096 + i] == (unsigned char)(i | 1) &&
		         object[i * 4096 + (i + 1) % 4096] == 0;
	is(right, PAGES, "%s: ... or committed", way->name);
	free(before);
	done_with(pool, path);
}

/* ---- outside of any transaction ---- */

/* how 0: none was; 1: committed; 2: aborted; 3: canceled; 4: too large; 5: dropped by an inner abort. */
static void before_store(struct lh_pool *pool, int how)
{
	volatile uint64_t *root = way_root(pool);
	unsigned char *object;

	if (how == 0)
		return;
	MUST(lh_tx_begin(pool, &why));
	way_store(pool, &root[9], 1);
	if (how == 3) {
		MUST(lh_tx_begin(pool, &why));
		MUST(lh_tx_abort(pool, &why));
	}
	if (how == 4) {
		object = lh_pool_alloc(pool, WAY_LOG, NULL);
		MUST(object ? 0 : -ENOMEM);
		memset(object, 1, WAY_LOG);
	}
	if (how == 2)
		MUST(lh_tx_abort(pool, &why));
	else
		MUST((lh_tx_commit(pool, NULL) < 0) == (how >= 3) ? 0 : -EIO);
}

static int store_outside(void *context)
{
	struct child *child = context;
	struct lh_pool *pool = way_open(child->way, child->path);
	volatile uint64_t *root = way_root(pool);

	before_store(pool, child->how);
	root[9] = 1234;
	return 5;
}

static void outside(const struct way *way)
{
	static const char *const after[] = { "none", "a commit", "an abort", "a canceled one",
		                             "one that was too large" };
	char path[400];
	struct child child = { way, path, 0 };

	if (!see_by_faults(way->see))
		return;
	way_close(pool_of(way, path));
	for (; child.how < 5; child.how++) {
		int status;

		if (child.how == 4 && way->log == LH_LOG_UNDO)
			continue;
		status = in_child(store_outside, &child);
		ok(ended_by(status, SIGBUS), "%s: a store after %s is SIGBUS (0x%x)", way->name,
		   after[child.how], (unsigned)status);
	}
	unlink(path);
}

static void *volatile expected_address;

static void on_passed(int number, siginfo_t *info, void *context)
{
	_exit(info->si_addr == expected_address && info->si_code == BUS_ADRERR && number == SIGBUS ? 40 : 41);
}

/* A handler that was there before gets what is none of the pool's. */
static int chained(void *context)
{
	struct sigaction action = { .sa_sigaction = on_passed, .sa_flags = SA_SIGINFO };
	struct child *child = context;
	struct lh_pool *pool;
	volatile uint64_t *root;

	sigaction(SIGBUS, &action, NULL);
	pool = way_create(child->way, child->path);
	root = way_root(pool);
	way_set(pool, &root[700], 1);
	expected_address = (void *)(uintptr_t)&root[700];
	root[700] = 2;
	return 5;
}

/* Of memory that is no pool's: a file's that has been cut. */
static int chained_other(void *context)
{
	struct sigaction action = { .sa_sigaction = on_passed, .sa_flags = SA_SIGINFO };
	struct child *child = context;
	struct lh_pool *pool;
	char other[400];
	volatile char *memory;
	int file;

	sigaction(SIGBUS, &action, NULL);
	pool = way_open(child->way, child->path);
	way_set(pool, way_root(pool), 1);
	file = open(way_path(child->way, other), O_CREAT | O_RDWR, 0600);
	unlink(other);
	memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	expected_address = (void *)(uintptr_t)&memory[99];
	memory[99] = 1;
	return 5;
}

static void passes_on(const struct way *way)
{
	char path[400];
	struct child child = { way, way_path(way, path), 0 };
	int status;

	if (!see_by_faults(way->see))
		return;
	status = in_child(chained, &child);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 40, "%s: the handler from before gets it (0x%x)",
	   way->name, (unsigned)status);
	status = in_child(chained_other, &child);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 40, "%s: ... and what is no pool's (0x%x)", way->name,
	   (unsigned)status);
	unlink(path);
}

/* ---- a long random history ---- */

#define MODEL (100u * 1024) /* one transaction can log all of it */

struct model {
	struct lh_pool *pool;
	unsigned char *object, *now, *committed;
	uint64_t seed;
};

static uint64_t roll(struct model *model, uint64_t below)
{
	return random_next(&model->seed) % below;
}

static void model_store(struct model *model)
{
	size_t size = roll(model, 4) ? 1 + roll(model, 16) : 1 + roll(model, 6000);
	size_t at = roll(model, MODEL - size);
	int value = (int)roll(model, 256);

	declare(model->pool, model->object + at, size);
	memset(model->object + at, value, size);
	memset(model->now + at, value, size);
}

static void model_transaction(struct model *model)
{
	unsigned stores = (unsigned)roll(model, 10);
	bool nested = roll(model, 4) == 0;
	uint64_t token = 0;

	MUST(lh_tx_begin(model->pool, &why));
	for (unsigned i = 0; i < stores; i++) {
		if (nested && i == stores / 2)
			MUST(lh_tx_begin(model->pool, &why));
		model_store(model);
	}
	if (nested && stores)
		MUST(lh_tx_commit(model->pool, &why));
	if (roll(model, 4) == 0) {
		MUST(lh_tx_abort(model->pool, &why));
		memcpy(model->now, model->committed, MODEL);
		return;
	}
	MUST(lh_tx_commit_async(model->pool, &token, &why));
	MUST(roll(model, 2) ? lh_tx_wait(model->pool, token, &why) : 0);
	memcpy(model->committed, model->now, MODEL);
}

static void model_reopen(struct model *model, const struct way *way, const char *path)
{
	if (roll(model, 2)) {
		way_close(model->pool);
	} else {
		/* Nothing that was committed is left unwaited for, and a transaction is under way. */
		way_set(model->pool, way_root(model->pool), model->seed);
		MUST(lh_tx_begin(model->pool, &why));
		model_store(model);
		memcpy(model->now, model->committed, MODEL);
		lh__pool_abandon(model->pool);
	}
	model->pool = way_open(way, path);
}

static void model(const struct way *way)
{
	enum { ROUNDS = 400 };
	char path[400];
	struct model model = { .pool = pool_of(way, path), .seed = 7 + (uint64_t)(way - ways) };
	unsigned right = 0;

	model.now = calloc(2, MODEL);
	model.committed = model.now + MODEL;
	MUST(lh_tx_begin(model.pool, &why));
	model.object = lh_pool_alloc_zero(model.pool, MODEL, NULL);
	MUST(model.object ? 0 : -ENOMEM);
	MUST(lh_tx_commit(model.pool, &why));
	for (unsigned i = 0; i < ROUNDS; i++) {
		model_transaction(&model);
		if (roll(&model, 25) == 0)
			model_reopen(&model, way, path);
		right += memcmp(model.object, model.now, MODEL) == 0;
	}
	is(right, ROUNDS, "%s: %u random transactions, and the pool opened again between them", way->name,
	   ROUNDS);
	free(model.now);
	done_with(model.pool, path);
}

int main(void)
{
	ways_begin("pool_tx");
	ways_each(passes_on); /* before this process has a pool of its own */
	ways_each(restores);
	ways_each(nests);
	ways_each(inner_aborts);
	ways_each(empty_ones);
	ways_each(declares);
	ways_each(system_calls);
	ways_each(stores_of_threads);
	ways_each(one_at_a_time);
	ways_each(second_waits);
	ways_each(later);
	ways_each(group);
	ways_each(too_large);
	ways_each(fills_log);
	ways_each(store_without_room);
	ways_each(over_many_pages);
	ways_each(outside);
	ways_each(model);
	return ways_end();
}
