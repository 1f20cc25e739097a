/*
 * map.h - an ordinary library: maps from numbers to strings, of three kinds. It knows nothing of Linehome,
 * and is compiled without any header of it.
 *
 * As many libraries it takes the functions that it allocates with from whoever uses it; malloc and free
 * otherwise.
 */
#ifndef MAP_H
#define MAP_H

#include <stddef.h>
#include <stdint.h>

enum map_kind { MAP_HASH, MAP_REDBLACK, MAP_BTREE };
struct map;

void map_set_memory(void *(*alloc)(size_t size), void (*release)(void *object));

struct map *map_create(enum map_kind kind); /* NULL: no memory */
/* Puts a copy of value there, in place of what was there. -1: no memory, and nothing has changed. */
int map_insert(struct map *map, uint64_t key, const char *value);
/* 1: it was there; 0: it was not; -1: no memory. */
int map_remove(struct map *map, uint64_t key);
const char *map_find(const struct map *map, uint64_t key);
size_t map_count(const struct map *map);
/* 1 if everything is as this kind of structure has to be. */
int map_check(const struct map *map);

#endif
