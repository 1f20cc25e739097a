/* directory.c - see directory.h. */
#include "home/directory.h"

#include <errno.h>
#include <limits.h>

#define BITS 12
#define FANOUT (1u << BITS)
#define BLOCK_BITS 9 /* of pages: 2 MiB */
#define WAIT_LIMIT_NS 10000000
#define SPINS 60

struct lh_directory_leaf {
	lh_entry entry[FANOUT];
};

/*
 * With a word for each block: here and not in the leaf, since 4 KiB of them last for 2 GiB of address space.
 */
struct lh_directory_middle {
	struct lh_directory_leaf *leaf[FANOUT];
	uint32_t block[FANOUT << (BITS - BLOCK_BITS)];
};

int lh__directory_open(struct lh_directory *directory, const struct lh_sys *sys)
{
	directory->sys = sys;
	directory->bytes = 0;
	directory->root = lh__alloc(sys, FANOUT * sizeof *directory->root);
	return directory->root ? 0 : -ENOMEM;
}

static void close_middle(const struct lh_sys *sys, struct lh_directory_middle *middle)
{
	if (!middle)
		return;
	for (unsigned i = 0; i < FANOUT; i++)
		lh__free(sys, middle->leaf[i], sizeof *middle->leaf[i]);
	lh__free(sys, middle, sizeof *middle);
}

void lh__directory_close(struct lh_directory *directory)
{
	for (unsigned i = 0; i < FANOUT; i++)
		close_middle(directory->sys, directory->root[i]);
	lh__free(directory->sys, directory->root, FANOUT * sizeof *directory->root);
}

static unsigned index_root(uint64_t page)
{
	return (unsigned)(page >> (2 * BITS)) & (FANOUT - 1);
}
static unsigned index_middle(uint64_t page)
{
	return (unsigned)(page >> BITS) & (FANOUT - 1);
}
static unsigned index_leaf(uint64_t page)
{
	return (unsigned)page & (FANOUT - 1);
}

/* The table that *slot points to, made if it is missing; two threads may make it at once, one's is kept. */
static void *table(struct lh_directory *directory, void **slot, size_t size)
{
	void *found = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
	void *made;

	if (found)
		return found;
	made = lh__alloc(directory->sys, size);
	if (!made)
		return NULL;
	if (!__atomic_compare_exchange_n(slot, &found, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		lh__free(directory->sys, made, size);
		return found;
	}
	__atomic_add_fetch(&directory->bytes, size, __ATOMIC_RELAXED);
	return made;
}

static struct lh_directory_leaf *find_leaf(const struct lh_directory *directory, uint64_t page)
{
	struct lh_directory_middle *middle =
		__atomic_load_n(&directory->root[index_root(page)], __ATOMIC_ACQUIRE);

	return middle ? __atomic_load_n(&middle->leaf[index_middle(page)], __ATOMIC_ACQUIRE) : NULL;
}

lh_entry *lh__directory_find(const struct lh_directory *directory, uint64_t page)
{
	struct lh_directory_leaf *leaf = find_leaf(directory, page);

	return leaf ? &leaf->entry[index_leaf(page)] : NULL;
}

lh_entry *lh__directory_make(struct lh_directory *directory, uint64_t page)
{
	struct lh_directory_middle *middle;
	struct lh_directory_leaf *leaf;

	middle = table(directory, (void **)&directory->root[index_root(page)], sizeof *middle);
	if (!middle)
		return NULL;
	leaf = table(directory, (void **)&middle->leaf[index_middle(page)], sizeof *leaf);
	return leaf ? &leaf->entry[index_leaf(page)] : NULL;
}

uint32_t *lh__directory_block(const struct lh_directory *directory, uint64_t page)
{
	struct lh_directory_middle *middle =
		__atomic_load_n(&directory->root[index_root(page)], __ATOMIC_ACQUIRE);
	size_t blocks = sizeof middle->block / sizeof middle->block[0];

	return middle ? &middle->block[page >> BLOCK_BITS & (blocks - 1)] : NULL;
}

static uint64_t next_multiple(uint64_t page, unsigned bits)
{
	return ((page >> bits) + 1) << bits;
}

uint64_t lh__directory_next(const struct lh_directory *directory, uint64_t page, uint64_t end,
                            lh_entry **entry)
{
	while (page < end) {
		struct lh_directory_leaf *leaf = find_leaf(directory, page);

		if (!directory->root[index_root(page)]) {
			page = next_multiple(page, 2 * BITS);
			continue;
		}
		if (!leaf) {
			page = next_multiple(page, BITS);
			continue;
		}
		*entry = &leaf->entry[index_leaf(page)];
		if (__atomic_load_n(*entry, __ATOMIC_RELAXED) != 0)
			return page;
		page++;
	}
	return end;
}

bool lh__entry_try(lh_entry *entry, lh_entry *seen)
{
	*seen = __atomic_load_n(entry, __ATOMIC_RELAXED);
	return !(*seen & LH_ENTRY_BUSY) &&
	       __atomic_compare_exchange_n(entry, seen, *seen | LH_ENTRY_BUSY, false, __ATOMIC_ACQUIRE,
	                                   __ATOMIC_RELAXED);
}

void lh__entry_wait(const struct lh_sys *sys, lh_entry *entry)
{
	lh_entry word;

	for (int i = 0; i < SPINS; i++) {
		if (!(__atomic_load_n(entry, __ATOMIC_ACQUIRE) & LH_ENTRY_BUSY))
			return;
		__builtin_ia32_pause();
	}
	word = __atomic_load_n(entry, __ATOMIC_ACQUIRE);
	if (!(word & LH_ENTRY_BUSY))
		return;
	if (!(word & LH_ENTRY_WAITERS) &&
	    !__atomic_compare_exchange_n(entry, &word, word | LH_ENTRY_WAITERS, false, __ATOMIC_ACQ_REL,
	                                 __ATOMIC_RELAXED))
		return;
	/* The lower half of the word, where the flags are; the limit covers a wake-up between two holders. */
	lh__futex_wait(sys, (uint32_t *)entry, (uint32_t)(word | LH_ENTRY_WAITERS), WAIT_LIMIT_NS);
}

lh_entry lh__entry_lock(const struct lh_sys *sys, lh_entry *entry)
{
	lh_entry seen;

	while (!lh__entry_try(entry, &seen))
		if (seen & LH_ENTRY_BUSY)
			lh__entry_wait(sys, entry);
	return seen;
}

void lh__entry_unlock(const struct lh_sys *sys, lh_entry *entry, lh_entry word)
{
	if (__atomic_exchange_n(entry, word, __ATOMIC_ACQ_REL) & LH_ENTRY_WAITERS)
		lh__futex_wake(sys, (uint32_t *)entry, INT_MAX);
}
