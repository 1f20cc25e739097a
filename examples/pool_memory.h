/* pool_memory.h - a pool's objects as the memory of a structure. The first error is kept for whoever asks. */
#ifndef EXAMPLES_POOL_MEMORY_H
#define EXAMPLES_POOL_MEMORY_H

#include <linehome.h>

#include "memory.h"

struct pool_memory {
	struct lh_pool *pool;
	struct lh_error error; /* code 0: none */
};

static inline void *pool_memory_alloc(void *context, size_t size)
{
	struct pool_memory *in = context;
	struct lh_error error;
	void *object = lh_pool_alloc(in->pool, size, &error);

	if (!object && in->error.code == 0)
		in->error = error;
	return object;
}

static inline void pool_memory_release(void *context, void *object)
{
	struct pool_memory *in = context;
	struct lh_error error;

	if (lh_pool_free(in->pool, object, &error) < 0 && in->error.code == 0)
		in->error = error;
}

static inline struct memory pool_memory(struct pool_memory *in)
{
	return (struct memory){ pool_memory_alloc, pool_memory_release, in };
}

#endif
