/* store_memory.c - the memory store passes the conformance suite. */
#include "store_conformance.h"

struct context {
	struct lh_memory_pool *pool[2]; /* of open, and of open_small */
	unsigned leftovers;
};

static struct lh_store *open_in(struct lh_memory_pool **pool, uint64_t limit)
{
	struct lh_store *store;

	if (!*pool && lh__memory_pool_open(&lh__sys_default, limit, pool) != 0)
		return NULL;
	return lh__memory_open(*pool, &store) == 0 ? store : NULL;
}

static struct lh_store *open_store(void *context)
{
	return open_in(&((struct context *)context)->pool[0], 0);
}

static struct lh_store *open_small(void *context, unsigned pages)
{
	return open_in(&((struct context *)context)->pool[1], (uint64_t)pages * LH_PAGE_SIZE);
}

static uint64_t used(void *context)
{
	return lh__memory_pool_used(((struct context *)context)->pool[0]);
}

static void finish(void *context)
{
	struct context *c = context;
	unsigned i;

	for (i = 0; i < 2; i++) {
		c->leftovers += c->pool[i] && lh__memory_pool_used(c->pool[i]) != 0;
		lh__memory_pool_close(c->pool[i]);
		c->pool[i] = NULL;
	}
}

int main(void)
{
	struct context context = { .leftovers = 0 };

	store_conformance(&(struct store_factory){
		.name = "memory",
		.context = &context,
		.open = open_store,
		.open_small = open_small,
		.used = used,
		.finish = finish,
	});
	is(context.leftovers, 0, "memory: closed stores leave nothing in use");
	return done();
}
