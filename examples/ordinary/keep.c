/*
 * keep.c - a program that uses an ordinary library (map.h), and can keep its memory in a pool.
 *
 *     keep KIND JOURNAL COUNT      KIND: hash, redblack or btree
 *
 * It inserts and removes COUNT times, and notes each operation in JOURNAL once it has returned. It calls
 * nothing that has to do with transactions. Run as it is, its map is gone when it ends. Run as
 *
 *     linehome atomic --pool POOL --begin make_map,map_insert,map_remove \
 *         --end make_map,map_insert,map_remove -- keep KIND JOURNAL COUNT
 *
 * the map is there again the next time, also after a kill -9: with all operations that the journal has, and
 * perhaps the one that was under way, as a whole or not at all. That is what it looks at first.
 */
#include <fcntl.h>
#include <linehome/atomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map.h"

#define KEYS 2000u
#define ENTRY 8u /* bytes of the journal */

/* ---- memory for the library: the pool's */

static struct lh_pool *pool;

static void *pool_alloc(size_t size)
{
	struct lh_error error;

	return lh_pool_alloc(pool, size, &error);
}

static void pool_release(void *object)
{
	struct lh_error error;

	if (lh_pool_free(pool, object, &error) < 0)
		fprintf(stderr, "keep: %s\n", error.text);
}

/* ---- what is done, and what has to be there then */

struct operation {
	uint64_t key;
	bool removes;
	char value[64];
};

static struct operation operation_at(uint64_t number)
{
	uint64_t mixed = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
	struct operation operation;

	mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	mixed ^= mixed >> 27;
	operation.key = mixed % KEYS;
	operation.removes = mixed >> 40 & 1;
	snprintf(operation.value, sizeof operation.value, "value %llu of %llu%.*s",
	         (unsigned long long)number, (unsigned long long)operation.key, (int)(mixed >> 44 & 31),
	         "................................");
	return operation;
}

static int perform(struct map *map, uint64_t number)
{
	struct operation operation = operation_at(number);

	if (operation.removes)
		return map_remove(map, operation.key);
	return map_insert(map, operation.key, operation.value);
}

/* Whether the map is what so many operations make of an empty one. */
static bool is_after(const struct map *map, uint64_t operations)
{
	static uint64_t last[KEYS]; /* the number of the last operation on a key, plus one */
	size_t count = 0;

	memset(last, 0, sizeof last);
	for (uint64_t i = 0; i < operations; i++)
		last[operation_at(i).key] = i + 1;
	for (uint64_t key = 0; key < KEYS; key++) {
		const char *found = map_find(map, key);
		struct operation operation =
			last[key] ? operation_at(last[key] - 1) : (struct operation){ .removes = true };

		if (operation.removes ? found != NULL : !found || strcmp(found, operation.value) != 0)
			return false;
		count += !operation.removes;
	}
	return count == map_count(map) && map_check(map);
}

static int fail(const char *what)
{
	fprintf(stderr, "keep: %s\n", what);
	return 1;
}

/* ---- the program */

__attribute__((noinline)) static void make_map(struct map **root, enum map_kind kind)
{
	*root = map_create(kind);
}

static struct map *open_map(enum map_kind kind)
{
	struct map **root;
	struct lh_error error;

	pool = lh_atomic_pool(&error);
	if (!pool)
		return map_create(kind);
	map_set_memory(pool_alloc, pool_release);
	root = lh_pool_root(pool, sizeof *root, &error);
	if (root && !*root)
		make_map(root, kind);
	return root ? *root : NULL;
}

int main(int argc, char **argv)
{
	static const char *const kinds[] = { "hash", "redblack", "btree" };
	enum map_kind kind = MAP_HASH;
	struct map *map;
	struct stat status;
	uint64_t done, count;
	int journal;

	if (argc != 4)
		return fail("write: keep hash|redblack|btree JOURNAL COUNT");
	while (kind < MAP_BTREE && strcmp(argv[1], kinds[kind]) != 0)
		kind++;
	count = strtoull(argv[3], NULL, 10);
	map = open_map(kind);
	if (!map)
		return fail("there is no map");
	journal = open(argv[2], O_RDWR | O_CREAT | O_APPEND | (pool ? 0 : O_TRUNC), 0600);
	if (journal < 0 || fstat(journal, &status) < 0)
		return fail("the journal cannot be opened");
	done = (uint64_t)status.st_size / ENTRY;
	if (is_after(map, done + 1)) { /* the last one had happened, and not been noted */
		if (write(journal, &done, ENTRY) != ENTRY)
			return fail("the journal cannot be written");
		done++;
	} else if (!is_after(map, done)) {
		return fail("the map is not what the journal says");
	}
	printf("found %llu operations, %zu keys\n", (unsigned long long)done, map_count(map));
	fflush(stdout);
	for (uint64_t i = done; i < done + count; i++)
		if (perform(map, i) < 0 || write(journal, &i, ENTRY) != ENTRY)
			return fail("an operation failed");
	if (!is_after(map, done + count))
		return fail("the map is not what was done");
	printf("made %llu, %zu keys\n", (unsigned long long)count, map_count(map));
	return 0;
}
