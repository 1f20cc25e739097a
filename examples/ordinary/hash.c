/* hash.c - a hash table with chains, which doubles when there are as many entries as chains. */
#include "inside.h"

struct entry {
	struct entry *next;
	uint64_t key;
	char *value;
};

struct hash {
	struct entry **table;
	uint64_t chains, count;
};

#define FIRST 8u

static struct entry **make_table(uint64_t chains)
{
	struct entry **table = map_alloc(chains * sizeof *table);

	for (uint64_t i = 0; table && i < chains; i++)
		table[i] = NULL;
	return table;
}

struct hash *hash_create(void)
{
	struct hash *hash = map_alloc(sizeof *hash);

	if (!hash)
		return NULL;
	hash->chains = FIRST;
	hash->count = 0;
	hash->table = make_table(FIRST);
	if (hash->table)
		return hash;
	map_release(hash);
	return NULL;
}

static uint64_t chain_of(const struct hash *hash, uint64_t key)
{
	return (key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (hash->chains - 1);
}

static struct entry **link_of(const struct hash *hash, uint64_t key)
{
	struct entry **link = &hash->table[chain_of(hash, key)];

	while (*link && (*link)->key != key)
		link = &(*link)->next;
	return link;
}

static void grow(struct hash *hash)
{
	uint64_t chains = hash->chains;
	struct entry **old = hash->table, **table = make_table(2 * chains), *entry, *next;

	if (!table)
		return; /* chains become longer */
	hash->table = table;
	hash->chains = 2 * chains;
	for (uint64_t i = 0; i < chains; i++)
		for (entry = old[i]; entry; entry = next) {
			struct entry **to = &table[chain_of(hash, entry->key)];

			next = entry->next;
			entry->next = *to;
			*to = entry;
		}
	map_release(old);
}

int hash_put(struct hash *hash, uint64_t key, char *value, char **old)
{
	struct entry **link = link_of(hash, key), *entry = *link;

	if (entry) {
		*old = entry->value;
		entry->value = value;
		return 0;
	}
	entry = map_alloc(sizeof *entry);
	if (!entry)
		return -1;
	entry->key = key;
	entry->value = value;
	entry->next = NULL;
	*link = entry;
	if (++hash->count > hash->chains)
		grow(hash);
	return 0;
}

char *hash_take(struct hash *hash, uint64_t key)
{
	struct entry **link = link_of(hash, key), *entry = *link;
	char *value;

	if (!entry)
		return NULL;
	value = entry->value;
	*link = entry->next;
	map_release(entry);
	hash->count--;
	return value;
}

char *hash_get(const struct hash *hash, uint64_t key)
{
	const struct entry *entry = *link_of(hash, key);

	return entry ? entry->value : NULL;
}

long hash_check(const struct hash *hash)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < hash->chains; i++)
		for (const struct entry *entry = hash->table[i]; entry; entry = entry->next)
			if (chain_of(hash, entry->key) != i || ++count > hash->count)
				return -1;
	return count == hash->count ? (long)count : -1;
}
