/* structures.h - the maps of examples/ordinary, by hand for libpmemobj: each operation is a transaction. */
#ifndef BENCH_ATOMIC_STRUCTURES_H
#define BENCH_ATOMIC_STRUCTURES_H

#include <libpmemobj.h>
#include <stdint.h>

/* What all three share: a value is an object of its own, as in the ordinary library. */
struct pm_entry {
	uint64_t key;
	PMEMoid value;
};

#define DIRECT(type, oid) ((type *)pmemobj_direct(oid))
/* Before an object changes. */
#define CHANGES(object) pmemobj_tx_add_range_direct(object, sizeof *(object))

void pm_hash_create(PMEMobjpool *pool, PMEMoid *root);
void pm_hash_put(PMEMoid root, uint64_t key, const char *value);
void pm_hash_take(PMEMoid root, uint64_t key);
void pm_redblack_create(PMEMobjpool *pool, PMEMoid *root);
void pm_redblack_put(PMEMoid root, uint64_t key, const char *value);
void pm_redblack_take(PMEMoid root, uint64_t key);
void pm_btree_create(PMEMobjpool *pool, PMEMoid *root);
void pm_btree_put(PMEMoid root, uint64_t key, const char *value);
void pm_btree_take(PMEMoid root, uint64_t key);

/* Inside a transaction: a copy of a string. */
static inline PMEMoid pm_copy(const char *value)
{
	size_t size = __builtin_strlen(value) + 1;
	PMEMoid copy = pmemobj_tx_alloc(size, 9);

	__builtin_memcpy(pmemobj_direct(copy), value, size);
	return copy;
}

#endif
