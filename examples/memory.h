/*
 * memory.h - where a structure gets its memory from: the one thing that hashmap.h and btree.h ask for.
 *
 * They know nothing of pools, files or transactions. Handed malloc they are ordinary structures; handed
 * lh_pool_alloc they are there again after a crash. The functions are passed at each call and never kept in
 * the structure, because a pool outlives the program, and functions are elsewhere the next time it runs.
 */
#ifndef EXAMPLES_MEMORY_H
#define EXAMPLES_MEMORY_H

#include <stddef.h>

struct memory {
	void *(*alloc)(void *context, size_t size); /* NULL: there is none */
	void (*release)(void *context, void *object);
	void *context;
};

static inline void *memory_alloc(const struct memory *memory, size_t size)
{
	return memory->alloc(memory->context, size);
}

static inline void memory_release(const struct memory *memory, void *object)
{
	if (object)
		memory->release(memory->context, object);
}

#endif
