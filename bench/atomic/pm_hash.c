/* pm_hash.c - the hash table of examples/ordinary/hash.c for libpmemobj. */
#include "structures.h"

struct entry {
	PMEMoid next;
	struct pm_entry in;
};
struct hash {
	PMEMoid table;
	uint64_t chains, count;
};
#define FIRST 8u

void pm_hash_create(PMEMobjpool *pool, PMEMoid *root)
{
	(void)pool;
	*root = pmemobj_tx_zalloc(sizeof(struct hash), 1);
	DIRECT(struct hash, *root)->chains = FIRST;
	DIRECT(struct hash, *root)->table = pmemobj_tx_zalloc(FIRST * sizeof(PMEMoid), 2);
}

static uint64_t chain_of(uint64_t chains, uint64_t key)
{
	return (key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (chains - 1);
}

static PMEMoid *link_of(const struct hash *hash, uint64_t key)
{
	PMEMoid *link = &DIRECT(PMEMoid, hash->table)[chain_of(hash->chains, key)];

	while (!OID_IS_NULL(*link) && DIRECT(struct entry, *link)->in.key != key)
		link = &DIRECT(struct entry, *link)->next;
	return link;
}

static void grow(struct hash *hash)
{
	uint64_t chains = hash->chains;
	PMEMoid old = hash->table, table = pmemobj_tx_zalloc(2 * chains * sizeof(PMEMoid), 2);

	hash->table = table;
	hash->chains = 2 * chains;
	for (uint64_t i = 0; i < chains; i++)
		for (PMEMoid at = DIRECT(PMEMoid, old)[i], next; !OID_IS_NULL(at); at = next) {
			struct entry *entry = DIRECT(struct entry, at);
			PMEMoid *to = &DIRECT(PMEMoid, table)[chain_of(2 * chains, entry->in.key)];

			next = entry->next;
			CHANGES(&entry->next);
			entry->next = *to;
			*to = at;
		}
	pmemobj_tx_free(old);
}

void pm_hash_put(PMEMoid root, uint64_t key, const char *value)
{
	struct hash *hash = DIRECT(struct hash, root);

	TX_BEGIN(pmemobj_pool_by_oid(root))
	{
		PMEMoid copy = pm_copy(value), *link = link_of(hash, key);

		if (!OID_IS_NULL(*link)) {
			PMEMoid *old = &DIRECT(struct entry, *link)->in.value;

			CHANGES(old);
			pmemobj_tx_free(*old);
			*old = copy;
		} else {
			PMEMoid added = pmemobj_tx_alloc(sizeof(struct entry), 3);
			struct entry *entry = DIRECT(struct entry, added);

			entry->next = OID_NULL;
			entry->in.key = key;
			entry->in.value = copy;
			CHANGES(link);
			*link = added;
			CHANGES(hash);
			if (++hash->count > hash->chains)
				grow(hash);
		}
	}
	TX_END
}

void pm_hash_take(PMEMoid root, uint64_t key)
{
	struct hash *hash = DIRECT(struct hash, root);
	PMEMoid *link = link_of(hash, key);

	if (OID_IS_NULL(*link))
		return;
	TX_BEGIN(pmemobj_pool_by_oid(root))
	{
		PMEMoid at = *link;

		CHANGES(link);
		*link = DIRECT(struct entry, at)->next;
		pmemobj_tx_free(DIRECT(struct entry, at)->in.value);
		pmemobj_tx_free(at);
		CHANGES(&hash->count);
		hash->count--;
	}
	TX_END
}
