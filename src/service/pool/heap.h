/*
 * heap.h - objects inside a pool's memory: size classes, one bitmap a slab, runs of pages.
 *
 * Everything that the heap knows stands in the pool and is reached by offsets, so it is as safe from a crash
 * as what the program keeps there, and can be checked in a copy of the memory that lies at any address. The
 * heap itself knows neither transactions nor logs: before it changes a byte it calls `touch`, and an abort
 * that puts the bytes back has put the heap back. No state is kept outside the pool.
 *
 * The heap stands at the beginning of the memory. Nothing here enters the kernel, allocates or locks; calls
 * on one heap are made by one thread at a time. A call that fails has changed nothing: all touches of a call
 * come before its first change. Any call may return -EBADMSG: a field that it met cannot be, and it has
 * gone no further; none goes outside the memory, whatever stands there.
 *
 * Objects' bytes are never touched. To allocate or free an object of up to 5440 bytes touches 8 bytes in
 * nearly all cases. docs/pool-format.md draws what the heap keeps.
 */
#ifndef LH_POOL_HEAP_H
#define LH_POOL_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "linehome.h"

struct lh_heap {
	unsigned char *base; /* where the memory is, aligned to a page */
	uint64_t size;       /* bytes of it, whole pages */
	void *context;
	/*
	 * Called before [from, from + size) is changed. Returns 0, or a negative errno, with which the call
	 * then fails. May be NULL: nothing needs to be told.
	 */
	int (*touch)(void *context, const void *from, size_t size);
	/* Where stores go: the same memory, mapped a second time; NULL: base. */
	unsigned char *stores;
};

/*
 * Makes an empty heap in zeroed memory of heap->size bytes. It takes no more than a few lines' writes,
 * however large the memory is. -EINVAL: the size is no multiple of a page, or less than three of them, or
 * more than 2^32 - 1 pages.
 */
int lh__heap_format(const struct lh_heap *heap) LH_MUST_CHECK;
/* Whether there is something that lh__heap_format would overwrite: false where it never was called. */
bool lh__heap_is_formatted(const struct lh_heap *heap);
/*
 * The memory has become larger: heap->size is the new size, and what was added is zero. The same bound on
 * writes. -ENOSPC: it has grown so often that no more areas can be described.
 */
int lh__heap_grow(const struct lh_heap *heap) LH_MUST_CHECK;

/*
 * An object of at least size bytes, aligned to at least alignment (a power of two up to a page, or 0 for 16;
 * and to a line from 64 bytes on): its offset into *offset. -ENOMEM: no room; -EINVAL: size 0 or the
 * alignment. Where the memory is full, finding that out takes time in proportion to it.
 */
int lh__heap_alloc(const struct lh_heap *heap, uint64_t size, uint64_t alignment,
                   uint64_t *offset) LH_MUST_CHECK;
/* -EINVAL: no object begins at offset. The root may be freed: then there is none. */
int lh__heap_free(const struct lh_heap *heap, uint64_t offset) LH_MUST_CHECK;
/* What may be used of the object that begins at offset; 0 where none does. */
uint64_t lh__heap_usable(const struct lh_heap *heap, uint64_t offset);
/*
 * Makes the object larger or smaller where it stands. -ENOSPC: it has to move for that; -EINVAL: no object
 * begins at offset, size 0, or less than the root's size where it is the root.
 */
int lh__heap_resize(const struct lh_heap *heap, uint64_t offset, uint64_t size) LH_MUST_CHECK;

/* The root object: 0, and size 0, where none was set. */
uint64_t lh__heap_root(const struct lh_heap *heap, uint64_t *size);
/* -EINVAL: no object of so many bytes begins at offset. Both 0: no root. */
int lh__heap_set_root(const struct lh_heap *heap, uint64_t offset, uint64_t size) LH_MUST_CHECK;

/*
 * Every object in ascending order, until visit returns non-zero, which is then returned. visit may not
 * allocate or free.
 */
int lh__heap_each(const struct lh_heap *heap, int (*visit)(void *context, uint64_t offset, uint64_t usable),
                  void *context);

struct lh_heap_usage {
	uint64_t objects;      /* live */
	uint64_t object_bytes; /* what may be used of them */
	uint64_t free_bytes;   /* in free pages and free slots */
};
/*
 * Looks at everything that the heap keeps, trusting none of it: 0, and *usage filled in; or -EBADMSG and the
 * first thing that is wrong, with its offset. Changes nothing and reads nothing outside the memory.
 */
int lh__heap_check(const struct lh_heap *heap, struct lh_heap_usage *usage,
                   struct lh_error *error) LH_MUST_CHECK;

#endif
