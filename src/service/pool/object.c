/* object.c - objects in a pool: the heap, inside transactions. */
#include "service/pool/inside.h"

#include <errno.h>
#include <string.h>

static void *fail(struct lh_error *error, int code, const char *text)
{
	lh__fail(error, code, "%s", text);
	return NULL;
}

static void *fail_heap(struct lh_error *error, int result)
{
	if (result == -ENOMEM)
		return fail(error, result, "the pool is full; lh_pool_grow makes it larger");
	if (result == -EINVAL)
		return fail(error, result, "no object can have that size and alignment");
	lh__fail(error, result, "the pool's heap: %s", lh__errno_name(result));
	return NULL;
}

static void *alloc(struct lh_pool *pool, size_t alignment, size_t size, struct lh_error *error)
{
	uint64_t offset;
	int result = lh__tx_mine(pool, error);

	if (result < 0)
		return NULL;
	result = lh__heap_alloc(&pool->heap, size, alignment, &offset);
	/* The program is about to write there, so it is declared; a page fault less, too. */
	if (result < 0)
		return fail_heap(error, result);
	result = lh__tx_declare(pool, pool->base + offset, size);
	if (result == 0)
		return pool->base + offset;
	if (lh__heap_free(&pool->heap, offset) < 0)
		return fail(error, -EBADMSG, "the pool's heap is damaged");
	return fail_heap(error, result);
}

void *lh_pool_alloc(struct lh_pool *pool, size_t size, struct lh_error *error)
{
	return alloc(pool, 0, size, error);
}

void *lh_pool_alloc_zero(struct lh_pool *pool, size_t size, struct lh_error *error)
{
	void *object = alloc(pool, 0, size, error);

	if (object)
		memset(object, 0, size);
	return object;
}

void *lh_pool_alloc_aligned(struct lh_pool *pool, size_t alignment, size_t size, struct lh_error *error)
{
	if (alignment == 0 || alignment & (alignment - 1) || alignment > LH_PAGE_SIZE)
		return fail(error, -EINVAL, "an alignment is a power of two, at most a page");
	return alloc(pool, alignment, size, error);
}

size_t lh_pool_usable_size(const struct lh_pool *pool, const void *pointer)
{
	if (!lh__pool_has(pool, pointer, 1) || lh__pool_enter(pool, NULL) < 0)
		return 0;
	return lh__heap_usable(&pool->heap, (uint64_t)((uintptr_t)pointer - (uintptr_t)pool->base));
}

int lh_pool_free(struct lh_pool *pool, void *pointer, struct lh_error *error)
{
	int result = lh__tx_mine(pool, error);

	if (result < 0 || pointer == NULL)
		return result;
	result = lh__pool_has(pool, pointer, 1)
	                 ? lh__heap_free(&pool->heap, (uint64_t)((uintptr_t)pointer - (uintptr_t)pool->base))
	                 : -EINVAL;
	if (result == -EINVAL)
		return lh__fail(error, result, "no object begins at 0x%lx",
		                (unsigned long)(uintptr_t)pointer);
	return result == 0 ? 0 : lh__fail(error, result, "the pool's heap: %s", lh__errno_name(result));
}

/* The root object stays that when it has moved. */
static int keep_root(struct lh_pool *pool, const void *from, const void *to, size_t size)
{
	uint64_t is;

	if (lh__heap_root(&pool->heap, &is) != lh_ptr_off(pool, from))
		return 0;
	return lh__heap_set_root(&pool->heap, lh_ptr_off(pool, to), size);
}

static void *move(struct lh_pool *pool, void *pointer, size_t usable, size_t size, struct lh_error *error)
{
	void *to = alloc(pool, 0, size, error);
	int result;

	if (!to)
		return NULL;
	memcpy(to, pointer, usable < size ? usable : size);
	result = keep_root(pool, pointer, to, size);
	if (result == 0 && lh_pool_free(pool, pointer, error) == 0)
		return to;
	if (result < 0)
		fail_heap(error, result);
	/* The transaction is in a state that only its abort mends; the object itself is as it was. */
	lh_pool_free(pool, to, NULL);
	return NULL;
}

void *lh_pool_realloc(struct lh_pool *pool, void *pointer, size_t size, struct lh_error *error)
{
	uint64_t offset = (uint64_t)((uintptr_t)pointer - (uintptr_t)pool->base);
	size_t usable;
	int result = lh__tx_mine(pool, error);

	if (result < 0)
		return NULL;
	if (!pointer)
		return alloc(pool, 0, size, error);
	usable = lh_pool_usable_size(pool, pointer);
	if (usable == 0 || size == 0)
		return fail(error, -EINVAL, usable ? "size 0; lh_pool_free frees" : "no object begins there");
	result = lh__heap_resize(&pool->heap, offset, size);
	if (result == -ENOSPC)
		return move(pool, pointer, usable, size, error);
	if (result == 0)
		result = lh__tx_declare(pool, pointer, size);
	if (result == 0)
		result = keep_root(pool, pointer, pointer, size);
	return result == 0 ? pointer : fail_heap(error, result);
}

static void *make_root(struct lh_pool *pool, size_t size, struct lh_error *error)
{
	void *root = lh_pool_alloc_zero(pool, size, error);
	int result;

	if (!root)
		return NULL;
	result = lh__heap_set_root(&pool->heap, (uint64_t)((uintptr_t)root - (uintptr_t)pool->base), size);
	return result == 0 ? root : fail_heap(error, result);
}

/* The root that is there already; size 0: whatever it has. NULL with an error: there is another. */
static int find_root(struct lh_pool *pool, size_t size, void **root, struct lh_error *error)
{
	uint64_t is = 0, offset = lh__heap_root(&pool->heap, &is);

	*root = offset ? pool->base + offset : NULL;
	if (offset == 0 || size == 0 || size == is)
		return 0;
	return lh__fail(error, -EINVAL, "the root object has %lu bytes, and %zu were asked for",
	                (unsigned long)is, size);
}

/* In a transaction; where it fails nothing has been made. Another thread may have made one meanwhile. */
static void *make_root_in_tx(struct lh_pool *pool, size_t size, struct lh_error *error)
{
	void *root = NULL;
	int result = lh__tx_begin(pool, error);

	if (result < 0)
		return NULL;
	result = find_root(pool, size, &root, error);
	if (result == 0 && !root)
		root = make_root(pool, size, error);
	if (result == 0 && root)
		return lh__tx_commit_durably(pool, error) == 0 ? root : NULL;
	lh_tx_abort(pool, NULL);
	return NULL;
}

void *lh_pool_root(struct lh_pool *pool, size_t size, struct lh_error *error)
{
	void *root;

	if (lh__pool_enter(pool, error) < 0 || find_root(pool, size, &root, error) < 0)
		return NULL;
	return root || size == 0 ? root : make_root_in_tx(pool, size, error);
}

struct visitor {
	unsigned char *base;
	int (*visit)(void *context, void *object, size_t usable);
	void *context;
};

static int visit_object(void *context, uint64_t offset, uint64_t usable)
{
	struct visitor *visitor = context;

	return visitor->visit(visitor->context, visitor->base + offset, usable);
}

int lh_pool_objects(const struct lh_pool *pool, int (*visit)(void *context, void *object, size_t usable),
                    void *context)
{
	struct visitor visitor = { pool->base, visit, context };
	int result = lh__pool_enter(pool, NULL);

	return result < 0 ? result : lh__heap_each(&pool->heap, visit_object, &visitor);
}
