/* map.c - one interface to three structures. */
#include <stdlib.h>
#include <string.h>

#include "inside.h"

void *(*map_alloc)(size_t size) = malloc;
void (*map_release)(void *object) = free;

struct map {
	enum map_kind kind;
	void *structure;
	size_t count;
};

void map_set_memory(void *(*alloc)(size_t size), void (*release)(void *object))
{
	map_alloc = alloc;
	map_release = release;
}

struct map *map_create(enum map_kind kind)
{
	struct map *map = map_alloc(sizeof *map);

	if (!map)
		return NULL;
	map->kind = kind;
	map->count = 0;
	map->structure = kind == MAP_HASH       ? (void *)hash_create()
	                 : kind == MAP_REDBLACK ? (void *)redblack_create()
	                                        : (void *)btree_create();
	if (map->structure)
		return map;
	map_release(map);
	return NULL;
}

int map_insert(struct map *map, uint64_t key, const char *value)
{
	char *copy = map_alloc(strlen(value) + 1), *old = NULL;
	int result;

	if (!copy)
		return -1;
	strcpy(copy, value);
	result = map->kind == MAP_HASH       ? hash_put(map->structure, key, copy, &old)
	         : map->kind == MAP_REDBLACK ? redblack_put(map->structure, key, copy, &old)
	                                     : btree_put(map->structure, key, copy, &old);
	if (result < 0)
		map_release(copy);
	else if (old)
		map_release(old);
	else
		map->count++;
	return result;
}

int map_remove(struct map *map, uint64_t key)
{
	char *old = map->kind == MAP_HASH       ? hash_take(map->structure, key)
	            : map->kind == MAP_REDBLACK ? redblack_take(map->structure, key)
	                                        : btree_take(map->structure, key);

	if (!old)
		return 0;
	map_release(old);
	map->count--;
	return 1;
}

const char *map_find(const struct map *map, uint64_t key)
{
	return map->kind == MAP_HASH       ? hash_get(map->structure, key)
	       : map->kind == MAP_REDBLACK ? redblack_get(map->structure, key)
	                                   : btree_get(map->structure, key);
}

size_t map_count(const struct map *map)
{
	return map->count;
}

int map_check(const struct map *map)
{
	long count = map->kind == MAP_HASH       ? hash_check(map->structure)
	             : map->kind == MAP_REDBLACK ? redblack_check(map->structure)
	                                         : btree_check(map->structure);

	return count >= 0 && (size_t)count == map->count;
}
