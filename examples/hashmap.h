/*
 * hashmap.h - a hash map from words to pointers, in ordinary C: plain pointers, plain stores.
 *
 * Chains; the table doubles when there are as many entries as chains. An empty map is zeroes. A function that
 * finds no memory has changed nothing.
 *
 * Kept in a pool it is persistent: whoever calls it begins a transaction before and commits it after.
 */
#ifndef EXAMPLES_HASHMAP_H
#define EXAMPLES_HASHMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "memory.h"

struct hashmap_entry {
	struct hashmap_entry *next;
	uint64_t hash;
	void *value; /* the caller's */
	char key[];
};

struct hashmap {
	struct hashmap_entry **table;
	uint64_t chains; /* a power of two, or 0 where there is no table yet */
	uint64_t count;
};

/* FNV-1a. */
static inline uint64_t hashmap_hash(const char *key)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (; *key; key++)
		hash = (hash ^ (unsigned char)*key) * UINT64_C(0x100000001b3);
	return hash ^ hash >> 32;
}

/* What points to the entry of key, or, where there is none, to the end of its chain. */
static inline struct hashmap_entry **hashmap_link(const struct hashmap *map, const char *key, uint64_t hash)
{
	struct hashmap_entry **link = &map->table[hash & (map->chains - 1)];

	while (*link && ((*link)->hash != hash || strcmp((*link)->key, key) != 0))
		link = &(*link)->next;
	return link;
}

static inline struct hashmap_entry *hashmap_find(const struct hashmap *map, const char *key)
{
	return map->chains ? *hashmap_link(map, key, hashmap_hash(key)) : NULL;
}

static inline bool hashmap_grow(struct hashmap *map, const struct memory *memory)
{
	uint64_t chains = map->chains ? 2 * map->chains : 8;
	struct hashmap_entry **table = memory_alloc(memory, chains * sizeof *table), *entry, *next;

	if (!table)
		return false;
	memset(table, 0, chains * sizeof *table);
	for (uint64_t i = 0; i < map->chains; i++)
		for (entry = map->table[i]; entry; entry = next) {
			next = entry->next;
			entry->next = table[entry->hash & (chains - 1)];
			table[entry->hash & (chains - 1)] = entry;
		}
	memory_release(memory, map->table);
	map->table = table;
	map->chains = chains;
	return true;
}

/* The entry of key, made with the value NULL where there is none. NULL: no memory. */
static inline struct hashmap_entry *hashmap_put(struct hashmap *map, const struct memory *memory,
                                                const char *key)
{
	struct hashmap_entry *entry = hashmap_find(map, key), **link;
	size_t size = strlen(key) + 1;

	if (entry || (map->count == map->chains && !hashmap_grow(map, memory)))
		return entry;
	entry = memory_alloc(memory, sizeof *entry + size);
	if (!entry)
		return NULL;
	entry->next = NULL;
	entry->hash = hashmap_hash(key);
	entry->value = NULL;
	memcpy(entry->key, key, size);
	link = hashmap_link(map, key, entry->hash);
	*link = entry;
	map->count++;
	return entry;
}

/* False where there was none; else *value is what it had, to be released by the caller. */
static inline bool hashmap_delete(struct hashmap *map, const struct memory *memory, const char *key,
                                  void **value)
{
	struct hashmap_entry **link, *entry = hashmap_find(map, key);

	if (!entry)
		return false;
	link = hashmap_link(map, key, entry->hash);
	*link = entry->next;
	*value = entry->value;
	memory_release(memory, entry);
	map->count--;
	return true;
}

/* Each entry once, in no order: start with NULL; NULL is the end. The map may not change meanwhile. */
static inline struct hashmap_entry *hashmap_next(const struct hashmap *map, const struct hashmap_entry *entry)
{
	uint64_t i = 0;

	if (entry && entry->next)
		return entry->next;
	if (entry)
		i = (entry->hash & (map->chains - 1)) + 1;
	while (i < map->chains && !map->table[i])
		i++;
	return i < map->chains ? map->table[i] : NULL;
}

/* All entries, and the table; values are the caller's. */
static inline void hashmap_clear(struct hashmap *map, const struct memory *memory)
{
	for (uint64_t i = 0; i < map->chains; i++)
		while (map->table[i]) {
			struct hashmap_entry *entry = map->table[i];

			map->table[i] = entry->next;
			memory_release(memory, entry);
		}
	memory_release(memory, map->table);
	*map = (struct hashmap){ NULL, 0, 0 };
}

#endif
