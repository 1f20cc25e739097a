/*
 * main.c - operations a second on the maps of examples/ordinary: in memory, or, run under `linehome atomic
 * --pool`, in a pool; or written by hand for libpmemobj, where that is there to build with.
 *
 *     atomic hash|redblack|btree SECONDS [POOL]     POOL: a new file for libpmemobj
 *     atomic enter SECONDS                          ns of a call that is a transaction and does nothing
 *
 * Half of 100,000 keys are there; then keys are put and taken at random, each with a value of 24 bytes.
 */
#include <linehome/atomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../examples/ordinary/map.h"
#ifdef HAVE_PMEMOBJ
#include "structures.h"
#endif

#define KEYS 100000u
#define POOL_SIZE (UINT64_C(256) << 20)
#define BATCH 1000u

static int fail(const char *what)
{
	fprintf(stderr, "atomic: %s\n", what);
	exit(1);
}

static double now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- the ordinary library */

static struct lh_pool *pool;
static struct map *map;

static void *pool_alloc(size_t size)
{
	struct lh_error error;

	return lh_pool_alloc(pool, size, &error);
}

static void pool_release(void *object)
{
	struct lh_error error;

	if (lh_pool_free(pool, object, &error) < 0)
		fail(error.text);
}

/* Bracketed too: what it allocates must be in a transaction. */
__attribute__((noinline)) void make_map(enum map_kind kind);
__attribute__((noinline)) void make_map(enum map_kind kind)
{
	map = map_create(kind);
}

static void open_ordinary(unsigned kind)
{
	struct lh_error error;

	pool = lh_atomic_pool(&error);
	if (pool)
		map_set_memory(pool_alloc, pool_release);
	make_map((enum map_kind)kind);
	if (!map)
		fail("no map");
}

static void put(uint64_t key, const char *value)
{
	if (map_insert(map, key, value) < 0)
		fail("an insertion failed");
}

static void take(uint64_t key)
{
	map_remove(map, key);
}

/* ---- libpmemobj */

#ifdef HAVE_PMEMOBJ
static PMEMoid root;
static unsigned pm_kind;

static void open_pmemobj(unsigned kind, const char *path)
{
	static void (*const create[])(PMEMobjpool *, PMEMoid *) = { pm_hash_create, pm_redblack_create,
		                                                    pm_btree_create };
	PMEMobjpool *pm = pmemobj_create(path, "bench", POOL_SIZE, 0600);

	if (!pm)
		fail(pmemobj_errormsg());
	pm_kind = kind;
	TX_BEGIN(pm)
	{
		create[kind](pm, &root);
	}
	TX_ONABORT
	{
		fail(pmemobj_errormsg());
	}
	TX_END
}

static void pm_put(uint64_t key, const char *value)
{
	static void (*const puts[])(PMEMoid, uint64_t, const char *) = { pm_hash_put, pm_redblack_put,
		                                                         pm_btree_put };

	puts[pm_kind](root, key, value);
}

static void pm_take(uint64_t key)
{
	static void (*const takes[])(PMEMoid, uint64_t) = { pm_hash_take, pm_redblack_take, pm_btree_take };

	takes[pm_kind](root, key);
}
#else
static void open_pmemobj(unsigned kind, const char *path)
{
	(void)kind;
	(void)path;
	fail("there was no libpmemobj to build with");
}
static void pm_put(uint64_t key, const char *value)
{
	(void)key;
	(void)value;
}
static void pm_take(uint64_t key)
{
	(void)key;
}
#endif

/* ---- measuring */

static void measure(double seconds, void (*puts)(uint64_t, const char *), void (*takes)(uint64_t))
{
	char value[25] = "a value of 24 bytes, yes";
	uint64_t state = 88172645463325252u, operations = 0;
	double began, ends;

	for (uint64_t i = 0; i < KEYS / 2; i++)
		puts(2 * i, value);
	began = now(CLOCK_MONOTONIC);
	do {
		for (unsigned i = 0; i < BATCH; i++) {
			uint64_t word = next(&state);

			value[0] = (char)('a' + (word >> 40) % 26);
			if (word >> 32 & 1)
				puts(word % KEYS, value);
			else
				takes(word % KEYS);
		}
		operations += BATCH;
		ends = now(CLOCK_MONOTONIC);
	} while (ends - began < seconds);
	printf("rate=%.0f\n", (double)operations / (ends - began));
}

__attribute__((noinline)) void nothing(void);
__attribute__((noinline)) void nothing(void)
{
	__asm__ volatile("" ::: "memory");
}

static void enter_and_leave(double seconds)
{
	uint64_t calls = 0;
	struct lh_error error;
	double began, ends;

	pool = lh_atomic_pool(&error);
	for (unsigned i = 0; i < BATCH; i++)
		nothing();
	began = now(CLOCK_THREAD_CPUTIME_ID);
	do {
		for (unsigned i = 0; i < BATCH; i++)
			nothing();
		calls += BATCH;
		ends = now(CLOCK_THREAD_CPUTIME_ID);
	} while (ends - began < seconds);
	printf("ns=%.1f\n", (ends - began) * 1e9 / (double)calls);
}

int main(int argc, char **argv)
{
	static const char *const kinds[] = { "hash", "redblack", "btree" };
	unsigned kind = 0;
	double seconds;

	if (argc < 3)
		fail("write: atomic hash|redblack|btree|enter SECONDS [POOL]");
	seconds = strtod(argv[2], NULL);
	if (strcmp(argv[1], "enter") == 0)
		return enter_and_leave(seconds), 0;
	while (kind < 2 && strcmp(argv[1], kinds[kind]) != 0)
		kind++;
	if (argc > 3) {
		open_pmemobj(kind, argv[3]);
		measure(seconds, pm_put, pm_take);
	} else {
		open_ordinary(kind);
		measure(seconds, put, take);
	}
	return 0;
}
