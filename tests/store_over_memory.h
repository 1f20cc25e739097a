/*
 * store_over_memory.h - the factory for the conformance suite of a store that stands on a memory store.
 * wrap takes over the store below and gives the one to be tested; NULL: the memory store itself.
 */
#ifndef STORE_OVER_MEMORY_H
#define STORE_OVER_MEMORY_H

#include "store_conformance.h"

struct over_memory {
	int (*wrap)(struct lh_store *below, struct lh_store **out);
	struct lh_memory_pool *pool[2]; /* of open, and of open_small */
	unsigned leftovers;             /* cases after which something was still in use */
};

static struct lh_store *over_memory_in(struct over_memory *over, unsigned index, uint64_t limit)
{
	struct lh_store *below, *store;

	if (!over->pool[index] && lh__memory_pool_open(&lh__sys_default, limit, &over->pool[index]) != 0)
		return NULL;
	if (lh__memory_open(over->pool[index], &below) != 0)
		return NULL;
	if (!over->wrap)
		return below;
	return over->wrap(below, &store) == 0 ? store : NULL;
}

static struct lh_store *over_memory_open(void *context)
{
	return over_memory_in(context, 0, 0);
}

static struct lh_store *over_memory_open_small(void *context, unsigned pages)
{
	return over_memory_in(context, 1, (uint64_t)pages * LH_PAGE_SIZE);
}

static uint64_t over_memory_used(void *context)
{
	return lh__memory_pool_used(((struct over_memory *)context)->pool[0]);
}

static void over_memory_finish(void *context)
{
	struct over_memory *over = context;
	unsigned i;

	for (i = 0; i < 2; i++) {
		over->leftovers += over->pool[i] && lh__memory_pool_used(over->pool[i]) != 0;
		lh__memory_pool_close(over->pool[i]);
		over->pool[i] = NULL;
	}
}

static struct store_factory over_memory(struct over_memory *over, const char *name)
{
	return (struct store_factory){
		.name = name,
		.context = over,
		.open = over_memory_open,
		.open_small = over_memory_open_small,
		.used = over_memory_used,
		.finish = over_memory_finish,
	};
}

#endif
