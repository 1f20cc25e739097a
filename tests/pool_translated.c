/*
 * pool_translated.c - LH_SEE_TRANSLATED: stores of every class, by the program and by the C library, at any
 * place, are undone by an abort and kept by a commit; and what becomes of a transaction that the log has no
 * room for, of threads that end, children, handlers of signals, and pools that are seen in other ways.
 */
#include <asm/prctl.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "line_random.h"
#include "pool_ways.h"
#include "service/pool/translated.h"
#include "store_ways.h"

static uint64_t seed;

static uint64_t any(uint64_t sides)
{
	return random_next(&seed) % sides;
}

#define BYTES (ROOT_WORDS * 8)

/* ---- every class of store ---- */

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, 8);
}

/* Functions of the C library, of sizes that take all of their ways. */
static void change_by_library(unsigned char *at, size_t size)
{
	static unsigned char other[5000];

	memset(other, (int)any(255) + 1, sizeof other - 1);
	switch (any(6)) {
	case 0: memcpy(at, other, size); break;
	case 1: memset(at, (int)any(256), size); break;
	case 2: memmove(at, at + any(64), size); break;
	case 3:
		other[size - 1] = 0;
		strcpy((char *)at, (char *)other);
		break;
	case 4: qsort(at, size / 8, 8, compare); break;
	default: sprintf((char *)at, "%0*lu", (int)size, (unsigned long)any(1000)); break;
	}
}

static void change(unsigned char *bytes)
{
	enum store_way by = (enum store_way)any(STORE_WAYS + 4);
	size_t size = any(4) ? any(200) + 1 : any(4000) + 1;

	if (by >= STORE_WAYS)
		change_by_library(bytes + any(BYTES - 4200), size);
	else if (by == STORE_STATE)
		store_by(by, bytes + any((BYTES - STORE_STATE_SIZE) / 16) * 16, any(UINT64_MAX));
	else
		store_by(by, bytes + any(BYTES - STORE_SIZE), any(UINT64_MAX));
}

/* Each transaction has a few changes; its end is an abort, a commit, or a crash after either. */
static void every_class(const struct way *way)
{
	unsigned char *was = malloc(BYTES), *now = malloc(BYTES), *bytes;
	unsigned aborted = 0, committed = 0, crashed = 0;
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));

	bytes = (unsigned char *)(uintptr_t)way_root(pool);
	for (unsigned round = 0; round < 200; round++) {
		unsigned end = (unsigned)any(20);

		memcpy(was, bytes, BYTES);
		MUST(lh_tx_begin(pool, &why));
		for (uint64_t n = any(6) + 1; n > 0; n--)
			change(bytes);
		memcpy(now, bytes, BYTES);
		if (end < 8) {
			MUST(lh_tx_abort(pool, &why));
			aborted += memcmp(bytes, was, BYTES) != 0;
		} else {
			MUST(lh_tx_commit(pool, &why));
			committed += memcmp(bytes, now, BYTES) != 0;
		}
		if (any(8))
			continue;
		memcpy(now, bytes, BYTES);
		lh__pool_abandon(pool);
		pool = way_open(way, path);
		MUST(lh_pool_load(pool, bytes, BYTES, &why));
		crashed += memcmp(bytes, now, BYTES) != 0;
	}
	ok(aborted == 0, "%s: stores of every class are undone by an abort (%u wrong)", way->name, aborted);
	ok(committed == 0, "%s: ... stay after a commit (%u wrong)", way->name, committed);
	ok(crashed == 0, "%s: ... and are what is found after a crash (%u wrong)", way->name, crashed);
	way_close(pool);
	unlink(path);
	free(was);
	free(now);
}

/* ---- what the library stores, and calls ---- */

static int touch(void *context, void *object, size_t usable)
{
	*(unsigned char *)object ^= 0x55;
	*(uint64_t *)context += usable;
	return 0;
}

static void library_inside(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	volatile uint64_t *root = way_root(pool);
	uint64_t sum = 0, was = root[0];
	unsigned char *object;
	bool on;

	MUST(lh_tx_begin(pool, &why));
	object = lh_pool_alloc(pool, 1000, NULL);
	memset(object, 7, 1000);
	object = lh_pool_realloc(pool, object, 3000, NULL);
	on = lh__translated_is_on();
	MUST(lh_tx_begin(pool, &why));
	root[1] = way_info(pool).size;
	MUST(lh_tx_commit(pool, &why));
	root[2] = lh_ptr_off(pool, object);
	on = on && lh__translated_is_on();
	MUST(lh_tx_commit(pool, &why));
	ok(on && !lh__translated_is_on() && object[999] == 7, "%s: functions of the pool are called inside",
	   way->name);
	MUST(lh_tx_begin(pool, &why));
	lh_pool_objects(pool, touch, &sum);
	was = root[0] ^ was;
	MUST(lh_tx_abort(pool, &why));
	ok(was == 0x55 && object[0] == 7 && sum > 4000, "%s: what they call is seen", way->name);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_pool_free(pool, object, &why));
	MUST(lh_tx_begin(pool, &why));
	root[1] = 4;
	MUST(lh_tx_abort(pool, &why));
	root[3] = 5;
	is(lh_tx_commit(pool, NULL), -ECANCELED, "%s: an inner abort", way->name);
	ok(root[1] == WAY_SIZE && root[3] == 0 && !lh__translated_is_on() &&
	           lh_pool_usable_size(pool, object) >= 3000,
	   "%s: ... undoes all of it", way->name);
	way_close(pool);
	unlink(path);
}

/* ---- a log that is full ---- */

static void fill(unsigned char *base, unsigned char value)
{
	for (uint64_t i = WAY_SIZE / 4; i < WAY_SIZE; i += 40)
		((volatile unsigned char *)base)[i] ^= value;
}

static int dies_full(void *context)
{
	struct lh_pool *pool = way_open(&ways[11], context);

	MUST(lh_tx_begin(pool, &why));
	fill(way_info(pool).base, 1);
	memset((unsigned char *)way_info(pool).base + WAY_SIZE / 2, 1, WAY_SIZE / 4);
	return 7;
}

static void full_log(const struct way *way)
{
	unsigned char *was = malloc(WAY_SIZE), *base;
	char path[400];
	struct lh_error error;
	struct lh_pool *pool = way_create(way, way_path(way, path));
	volatile uint64_t *root = way_root(pool);
	int result;

	base = way_info(pool).base;
	MUST(lh_pool_load(pool, base, WAY_SIZE, &why));
	memcpy(was, base, WAY_SIZE);
	MUST(lh_tx_begin(pool, &why));
	fill(base, 1);
	result = lh_tx_commit(pool, &error);
	ok(result == -E2BIG && strstr(error.text, "log"), "%s: more than the log has room for: %s", way->name,
	   result ? error.text : "committed");
	ok(memcmp(base, was, WAY_SIZE) == 0 && !lh__translated_is_on(), "%s: ... and memory is as before",
	   way->name);
	MUST(lh_tx_begin(pool, &why));
	fill(base, 2);
	MUST(lh_tx_begin(pool, &why));
	fill(base, 4);
	MUST(lh_tx_abort(pool, &why));
	result = memcmp(base, was, WAY_SIZE);
	root[5] = 1;
	ok(result == 0 && lh_tx_commit(pool, NULL) == -ECANCELED && memcmp(base, was, WAY_SIZE) == 0,
	   "%s: ... also after an inner abort", way->name);
	way_set(pool, &root[6], 6);
	is(root[6], 6, "%s: ... and the pool goes on", way->name);
	memcpy(was, base, WAY_SIZE);
	way_close(pool);
	if (way->log == LH_LOG_UNDO) {
		is(in_child(dies_full, path), 7 << 8, "%s: a process that ends when its log is full",
		   way->name);
		pool = way_open(way, path);
		ok(memcmp(base, was, WAY_SIZE) == 0, "%s: ... leaves what was there", way->name);
		way_close(pool);
	}
	unlink(path);
	free(was);
}

/* ---- threads, children, signals ---- */

static struct lh_pool *shared;
static volatile uint64_t *words;

static void *ends_inside(void *unused)
{
	(void)unused;
	MUST(lh_tx_begin(shared, &why));
	words[10] = 77;
	return NULL;
}

static void thread_ends_inside(const struct way *way)
{
	char path[400];
	pthread_t thread;

	shared = way_create(way, way_path(way, path));
	words = way_root(shared);
	pthread_create(&thread, NULL, ends_inside, NULL);
	pthread_join(thread, NULL);
	is(words[10], 0, "%s: a thread that ends inside has aborted", way->name);
	way_set(shared, &words[10], 5);
	ok(words[10] == 5 && way_info(shared).aborts == 1, "%s: ... and others have their turn", way->name);
	way_close(shared);
	unlink(path);
}

static void fork_inside(const struct way *way)
{
	char path[400];
	int status = 0, on;
	pid_t pid;

	shared = way_create(way, way_path(way, path));
	words = way_root(shared);
	MUST(lh_tx_begin(shared, &why));
	words[1] = 1;
	pid = fork();
	if (pid == 0) {
		on = lh__translated_is_on() || lh_tx_commit(shared, NULL) != -ECHILD;
		_exit(on || lh_pool_close(shared, NULL) != 0 ? 1 : 3);
	}
	waitpid(pid, &status, 0);
	words[2] = 2;
	on = lh__translated_is_on();
	MUST(lh_tx_commit(shared, &why));
	is(status, 3 << 8, "%s: a child of fork is native, and without the pool", way->name);
	ok(on && words[1] == 1 && words[2] == 2, "%s: ... and its parent goes on", way->name);
	way_close(shared);
	unlink(path);
}

static volatile sig_atomic_t handled;

static void on_user(int number)
{
	handled = number;
	words[4000] = 9;
}

static void signal_inside(const struct way *way)
{
	char path[400];

	shared = way_create(way, way_path(way, path));
	words = way_root(shared);
	words[4000] = 0; /* loaded */
	signal(SIGUSR1, on_user);
	MUST(lh_tx_begin(shared, &why));
	words[20] = 1;
	raise(SIGUSR1);
	words[21] = 2;
	MUST(lh_tx_abort(shared, &why));
	ok(handled == SIGUSR1 && words[20] == 0 && words[21] == 0, "%s: a handler runs inside", way->name);
	is(words[4000], 9, "%s: ... and what it stores is not seen", way->name);
	way_close(shared);
	unlink(path);
}

/* ---- several pools ---- */

static void several(const struct way *way)
{
	static const struct way declared = { "declared", LH_SEE_DECLARED, LH_LOG_REDO, false };
	char path_a[400], path_b[400], path_c[400];
	struct lh_pool *a = way_create(way, way_path(way, path_a));
	struct lh_pool *b = way_create(way, way_path(way, path_b));
	struct lh_pool *c = way_create(&declared, way_path(way, path_c));
	volatile uint64_t *in_a = way_root(a), *in_b = way_root(b), *in_c = way_root(c);
	bool on;

	MUST(lh_tx_begin(a, &why));
	in_a[1] = 1;
	way_set(c, &in_c[1], 3); /* declared, in between */
	MUST(lh_tx_begin(b, &why));
	in_b[1] = 2;
	in_a[2] = 1;
	MUST(lh_tx_commit(a, &why));
	on = lh__translated_is_on();
	in_b[2] = 2;
	MUST(lh_tx_abort(b, &why));
	ok(on && !lh__translated_is_on() && in_a[1] == 1 && in_a[2] == 1 && in_c[1] == 3 && in_b[1] == 0 &&
	           in_b[2] == 0,
	   "%s: several pools, each with its transaction", way->name);
	MUST(lh_tx_begin(a, &why));
	in_a[3] = 1;
	way_close(b);
	b = way_open(way, path_b);
	way_set(b, &in_b[3], 4);
	MUST(lh_tx_commit(a, &why));
	ok(in_a[3] == 1 && in_b[3] == 4 && !lh__translated_is_on(), "%s: one is closed and opened inside",
	   way->name);
	MUST(lh_pool_grow(a, 2 * WAY_SIZE, &why));
	MUST(lh_tx_begin(a, &why));
	((volatile unsigned char *)way_info(a).base)[2 * WAY_SIZE - 1] = 8;
	MUST(lh_tx_abort(a, &why));
	is(((volatile unsigned char *)way_info(a).base)[2 * WAY_SIZE - 1], 0, "%s: one that has grown",
	   way->name);
	MUST(lh_tx_begin(a, &why));
	in_a[3] = 9;
	way_close(a);
	ok(!lh__translated_is_on(), "%s: closing aborts, and ends it", way->name);
	a = way_open(way, path_a);
	is(in_a[3], 1, "%s: ... with what was there", way->name);
	way_close(a);
	way_close(b);
	way_close(c);
	unlink(path_a);
	unlink(path_b);
	unlink(path_c);
}

static pthread_barrier_t barrier;
static struct lh_pool *other;

static void *loses_its_pool(void *unused)
{
	volatile uint64_t *root;
	bool was, on;

	MUST(lh_tx_begin(shared, &why));
	words[30] = 1;
	pthread_barrier_wait(&barrier); /* it is closed now */
	pthread_barrier_wait(&barrier);
	was = lh__translated_is_on();
	MUST(lh_tx_begin(other, &why));
	root = way_root(other);
	root[1] = 3;
	MUST(lh_tx_commit(other, &why));
	on = lh__translated_is_on();
	return was && !on && root[1] == 3 ? unused : NULL;
}

static void closed_by_others(const struct way *way)
{
	char path_a[400], path_b[400];
	pthread_t thread;
	void *right;

	shared = way_create(way, way_path(way, path_a));
	other = way_create(way, way_path(way, path_b));
	words = way_root(shared);
	pthread_barrier_init(&barrier, NULL, 2);
	pthread_create(&thread, NULL, loses_its_pool, &barrier);
	pthread_barrier_wait(&barrier);
	way_close(shared);
	pthread_barrier_wait(&barrier);
	pthread_join(thread, &right);
	pthread_barrier_destroy(&barrier);
	ok(right != NULL, "%s: one whose pool was closed goes on in another, and then natively", way->name);
	shared = way_open(way, path_a);
	is(words[30], 0, "%s: ... what it had changed is as before", way->name);
	way_close(shared);
	way_close(other);
	unlink(path_a);
	unlink(path_b);
}

/* ---- gs ---- */

static int busy(void *context)
{
	struct lh_pool *pool = way_open(&ways[9], context);
	struct lh_error error = { 0 };
	int result;

	syscall(SYS_arch_prctl, ARCH_SET_GS, 0x1000);
	result = lh_tx_begin(pool, &error);
	if (result != -EBUSY || !strstr(error.text, "gs") || lh__translated_is_on())
		return 1;
	syscall(SYS_arch_prctl, ARCH_SET_GS, 0);
	return lh_tx_begin(pool, &error) == 0 && lh_tx_commit(pool, &error) == 0 ? 4 : 2;
}

static void gs_is_used(const struct way *way)
{
	char path[400];

	way_close(way_create(way, way_path(way, path)));
	is(in_child(busy, path), 4 << 8, "%s: where gs is used nothing begins", way->name);
	unlink(path);
}

static void each(void (*test)(const struct way *way))
{
	for (size_t i = 0; i < WAYS; i++)
		if (ways[i].see == LH_SEE_TRANSLATED && way_lacks(&ways[i]))
			skip(ways[i].name, way_lacks(&ways[i]));
		else if (ways[i].see == LH_SEE_TRANSLATED)
			test(&ways[i]);
}

int main(void)
{
	seed = random_seed();
	printf("# LH_TEST_SEED=%lu\n", (unsigned long)seed);
	ways_begin("pool_translated");
	each(gs_is_used);
	each(every_class);
	each(library_inside);
	each(full_log);
	each(thread_ends_inside);
	each(fork_inside);
	each(signal_inside);
	each(several);
	each(closed_by_others);
	return ways_end();
}
