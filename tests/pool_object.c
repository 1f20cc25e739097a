/*
 * pool_object.c - objects by the library's interface: made, moved, freed, found again, aborted; the root; a
 * pool that is full. tests/pool_heap.c has the heap itself.
 */
#include <pthread.h>

#include "pool_ways.h"

static struct lh_pool *pool_of(const struct way *way, char path[400])
{
	return way_create(way, way_path(way, path));
}

static void done_with(struct lh_pool *pool, const char *path)
{
	struct lh_pool_check check;

	way_close(pool);
	MUST(lh__pool_check(&lh__sys_default, path, NULL, &check, &why));
	unlink(path);
}

static bool all(const unsigned char *at, unsigned char value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (at[i] != value)
			return false;
	return true;
}

struct list {
	size_t n, bytes;
	uintptr_t last;
	bool ascending;
	size_t stop_at; /* 0: never */
};

static int visit(void *context, void *object, size_t usable)
{
	struct list *list = context;

	list->ascending &= (uintptr_t)object > list->last;
	list->last = (uintptr_t)object + usable - 1;
	list->bytes += usable;
	return ++list->n == list->stop_at ? 77 : 0;
}

static struct list objects(struct lh_pool *pool)
{
	struct list list = { .ascending = true };

	MUST(lh_pool_objects(pool, visit, &list) == 0 ? 0 : -EIO);
	return list;
}

/* ---- */

#define SIZES 14u
static const size_t sizes[SIZES] = { 1, 15, 16, 17, 48, 63, 64, 65, 500, 2048, 4095, 4096, 5000, 60000 };

static void makes(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned aligned = 0, usable = 0, written = 0, kept = 0;
	unsigned char *object[SIZES];
	struct list list;

	MUST(lh_tx_begin(pool, &why));
	for (unsigned i = 0; i < SIZES; i++) {
		size_t alignment = sizes[i] < 64 ? 16 : 64;

		object[i] = lh_pool_alloc(pool, sizes[i], NULL);
		MUST(object[i] ? 0 : -ENOMEM);
		memset(object[i], (int)i + 1, sizes[i]); /* nothing has to be declared */
		aligned += (uintptr_t)object[i] % alignment == 0;
		usable += lh_pool_usable_size(pool, object[i]) >= sizes[i];
	}
	MUST(lh_tx_commit(pool, &why));
	is(aligned, SIZES, "%s: objects are aligned to 16 bytes, from 64 on to a line", way->name);
	is(usable, SIZES, "%s: ... their usable size is at least what was asked for", way->name);
	for (unsigned i = 0; i < SIZES; i++)
		written += all(object[i], (unsigned char)(i + 1), sizes[i]);
	is(written, SIZES, "%s: ... they do not overlap", way->name);
	way_close(pool);
	pool = way_open(way, path);
	for (unsigned i = 0; i < SIZES; i++)
		kept += all(object[i], (unsigned char)(i + 1), sizes[i]);
	is(kept, SIZES, "%s: ... and are kept", way->name);
	list = objects(pool);
	ok(list.n == SIZES && list.ascending, "%s: each is visited once, in ascending order", way->name);
	list = (struct list){ .stop_at = 5 };
	is(lh_pool_objects(pool, visit, &list), 77, "%s: ... until the visitor wants no more", way->name);
	is(list.n, 5, "%s: ... and no further", way->name);
	done_with(pool, path);
}

static void zeroed(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *object;
	unsigned right = 0;

	for (unsigned i = 0; i < SIZES; i++)
		for (unsigned again = 0; again < 2; again++) {
			MUST(lh_tx_begin(pool, &why));
			object = lh_pool_alloc_zero(pool, sizes[i], NULL);
			MUST(object ? 0 : -ENOMEM);
			right += all(object, 0, sizes[i]);
			memset(object, 0xff, sizes[i]);
			MUST(lh_tx_commit(pool, &why));
			MUST(lh_tx_begin(pool, &why));
			MUST(lh_pool_free(pool, object, &why));
			MUST(lh_tx_commit(pool, &why));
		}
	is(right, 2 * SIZES, "%s: zeroed objects are zero, also where others have been", way->name);
	is(objects(pool).n, 0, "%s: ... and none is left", way->name);
	done_with(pool, path);
}

static void aligned(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	struct lh_error error = { .code = 0 };
	unsigned right = 0, n = 0;

	MUST(lh_tx_begin(pool, &why));
	for (size_t alignment = 1; alignment <= 4096; alignment *= 2)
		for (unsigned i = 0; i < 3; i++, n++) {
			unsigned char *object = lh_pool_alloc_aligned(pool, alignment, 24 + 100 * i, NULL);

			right += object && (uintptr_t)object % alignment == 0 &&
			         memset(object, 1, 24 + 100 * i);
		}
	is(right, n, "%s: objects are aligned as asked for", way->name);
	ok(!lh_pool_alloc_aligned(pool, 8192, 8, &error) && error.code == -EINVAL, "%s: not above a page",
	   way->name);
	ok(!lh_pool_alloc_aligned(pool, 24, 8, &error) && error.code == -EINVAL,
	   "%s: not to what is no power of two", way->name);
	ok(!lh_pool_alloc_aligned(pool, 0, 8, &error) && error.code == -EINVAL, "%s: nor to nothing",
	   way->name);
	MUST(lh_tx_commit(pool, &why));
	is(objects(pool).n, n, "%s: ... and nothing was made for those", way->name);
	done_with(pool, path);
}

static void grows_objects(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	struct lh_error error = { .code = 0 };
	unsigned char *object = NULL;
	unsigned right = 0;
	size_t had = 0;

	MUST(lh_tx_begin(pool, &why));
	for (unsigned i = 0; i < 2 * SIZES; i++) {
		size_t size = sizes[i < SIZES ? i : 2 * SIZES - 1 - i], both = had < size ? had : size;

		object = lh_pool_realloc(pool, object, size, NULL);
		MUST(object ? 0 : -ENOMEM);
		right += all(object, (unsigned char)i, both) && lh_pool_usable_size(pool, object) >= size;
		MUST(lh_tx_add(pool, object, size, &why));
		memset(object, (int)i + 1, size);
		had = size;
	}
	is(right, 2 * SIZES, "%s: an object that gets another size keeps what it has", way->name);
	MUST(lh_tx_commit(pool, &why));
	is(objects(pool).n, 1, "%s: ... and is one", way->name);
	MUST(lh_tx_begin(pool, &why));
	ok(!lh_pool_realloc(pool, object, 0, &error) && error.code == -EINVAL, "%s: size 0 is refused",
	   way->name);
	ok(!lh_pool_realloc(pool, object + 16, 10, &error) && error.code == -EINVAL,
	   "%s: so is what is no object", way->name);
	ok(!lh_pool_realloc(pool, &error, 10, &error) && error.code == -EINVAL, "%s: ... or not in the pool",
	   way->name);
	ok(!lh_pool_realloc(pool, object, WAY_SIZE, &error) && error.code == -ENOMEM,
	   "%s: ... or more than there is", way->name);
	MUST(lh_tx_commit(pool, &why));
	ok(all(object, 2 * SIZES, 1) && objects(pool).n == 1, "%s: ... the object is as it was", way->name);
	done_with(pool, path);
}

static void free_refused(struct lh_pool *pool, const struct way *way, void *at, const char *what)
{
	struct lh_error error = { .code = 0 };
	struct list before = objects(pool), after;

	is(lh_pool_free(pool, at, &error), -EINVAL, "%s: %s is not freed", way->name, what);
	after = objects(pool);
	ok(error.text[0] && before.n == after.n && before.bytes == after.bytes, "%s: ... nothing has changed",
	   way->name);
}

static void frees(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *small, *large, here = 0;

	MUST(lh_tx_begin(pool, &why));
	small = lh_pool_alloc(pool, 40, NULL);
	large = lh_pool_alloc(pool, 9000, NULL);
	MUST(small && large ? 0 : -ENOMEM);
	is(lh_pool_free(pool, NULL, NULL), 0, "%s: nothing is freed", way->name);
	free_refused(pool, way, small + 16, "the middle of an object");
	free_refused(pool, way, small + 1, "an odd address");
	free_refused(pool, way, large + 4096, "the middle of a large one");
	free_refused(pool, way, way_info(pool).base, "the heap's own memory");
	free_refused(pool, way, (unsigned char *)way_info(pool).base + WAY_SIZE, "what is behind the pool");
	free_refused(pool, way, &here, "what is not in the pool");
	is(lh_pool_free(pool, small, NULL), 0, "%s: an object is freed", way->name);
	free_refused(pool, way, small, "one that is free already");
	is(lh_pool_free(pool, large, NULL), 0, "%s: a large one is freed", way->name);
	free_refused(pool, way, large, "a large one that is free already");
	MUST(lh_tx_abort(pool, &why));
	ok(objects(pool).n == 0 && lh_pool_usable_size(pool, small) == 0 &&
	           lh_pool_usable_size(pool, &here) == 0,
	   "%s: after an abort they never were", way->name);
	done_with(pool, path);
}

static void aborts(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *first, *second;
	struct list before, after;

	MUST(lh_tx_begin(pool, &why));
	first = lh_pool_alloc_zero(pool, 200, NULL);
	second = lh_pool_alloc_zero(pool, 20000, NULL);
	MUST(first && second ? 0 : -ENOMEM);
	memset(second, 7, 20000);
	MUST(lh_tx_commit(pool, &why));
	before = objects(pool);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_pool_free(pool, first, &why));
	MUST(lh_pool_free(pool, second, &why));
	for (unsigned i = 0; i < 50; i++)
		MUST(lh_pool_alloc_zero(pool, 1 + 20 * i, NULL) ? 0 : -ENOMEM);
	MUST(lh_tx_abort(pool, &why));
	after = objects(pool);
	ok(before.n == after.n && before.bytes == after.bytes && before.last == after.last &&
	           all(second, 7, 20000),
	   "%s: an abort takes objects back, and gives back what was freed", way->name);
	done_with(pool, path);
}

/* ---- the root ---- */

static void root(const struct way *way)
{
	void *moved;
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	struct lh_error error = { .code = 0 };
	unsigned char *at;

	ok(lh_pool_root(pool, 0, &error) == NULL && error.code == 0, "%s: at first there is no root",
	   way->name);
	ok(lh_pool_root(pool, 2 * WAY_SIZE, &error) == NULL && error.code == -ENOMEM,
	   "%s: one that is too large is not made", way->name);
	at = lh_pool_root(pool, 1000, &error);
	ok(at && all(at, 0, 1000) && lh_pool_root(pool, 0, NULL) == at &&
	           lh_pool_root(pool, 1000, NULL) == at,
	   "%s: it is made once", way->name);
	ok(lh_pool_root(pool, 1001, &error) == NULL && error.code == -EINVAL && strstr(error.text, "1000"),
	   "%s: ... %s", way->name, error.text);
	is(objects(pool).n, 1, "%s: ... and is an object", way->name);
	way_close(pool);
	pool = way_open(way, path);
	ok(lh_pool_root(pool, 1000, NULL) == at, "%s: ... that is found again", way->name);
	MUST(lh_tx_begin(pool, &why));
	moved = lh_pool_realloc(pool, at, 100000, NULL);
	ok(moved && moved != at && lh_pool_root(pool, 100000, NULL) == moved && all(moved, 0, 1000),
	   "%s: made larger elsewhere, it is the root there", way->name);
	MUST(lh_tx_abort(pool, &why));
	ok(lh_pool_root(pool, 1000, NULL) == at, "%s: ... until an abort", way->name);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_pool_free(pool, at, &why));
	ok(lh_pool_root(pool, 0, NULL) == NULL, "%s: freed, it is none", way->name);
	at = lh_pool_root(pool, 50, NULL);
	ok(at != NULL, "%s: ... and another may be made", way->name);
	MUST(lh_tx_abort(pool, &why));
	ok(lh_pool_root(pool, 1000, NULL) != NULL, "%s: an abort brings the first back", way->name);
	done_with(pool, path);
}

#define THREADS 4u
struct maker {
	struct lh_pool *pool;
	uint32_t *ready;
	void *root;
};

static void *make_root(void *argument)
{
	struct maker *maker = argument;

	__atomic_fetch_add(maker->ready, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(maker->ready, __ATOMIC_ACQUIRE) < THREADS)
		sched_yield();
	maker->root = lh_pool_root(maker->pool, 500, NULL);
	return NULL;
}

/* They wait for a transaction that is open, so all of them have seen that there is no root. */
static void root_of_threads(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	struct maker maker[THREADS];
	pthread_t thread[THREADS];
	uint32_t ready = 0;
	unsigned same = 0;

	MUST(lh_tx_begin(pool, &why));
	for (unsigned i = 0; i < THREADS; i++) {
		maker[i] = (struct maker){ pool, &ready, NULL };
		MUST(-pthread_create(&thread[i], NULL, make_root, &maker[i]));
	}
	while (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) < THREADS)
		sched_yield();
	usleep(2000); /* not needed for the result; a fault is seen more often */
	MUST(lh_tx_commit(pool, &why));
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	for (unsigned i = 0; i < THREADS; i++)
		same += maker[i].root && maker[i].root == maker[0].root;
	ok(same == THREADS && objects(pool).n == 1, "%s: threads that make the root at once make one",
	   way->name);
	done_with(pool, path);
}

/* ---- full ---- */

static unsigned fill(struct lh_pool *pool, size_t size)
{
	struct lh_error error = { .code = 0 };
	unsigned n = 0;
	void *object;

	for (;; n++) {
		MUST(lh_tx_begin(pool, &why));
		object = lh_pool_alloc(pool, size, &error);
		MUST(lh_tx_commit(pool, &why));
		if (!object)
			break;
	}
	MUST(error.code == -ENOMEM && strstr(error.text, "lh_pool_grow") ? 0 : -EIO);
	return n;
}

static void full(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned first = fill(pool, 8000), second;

	ok(first > WAY_SIZE / 8192 * 8 / 10, "%s: a pool is full after %u objects", way->name, first);
	is(fill(pool, 8000), 0, "%s: ... then there is none", way->name);
	MUST(lh_pool_grow(pool, 2 * WAY_SIZE, &why));
	second = fill(pool, 8000);
	ok(second > WAY_SIZE / 8192 * 8 / 10, "%s: grown, it has room for %u more", way->name, second);
	is(objects(pool).n, first + second, "%s: ... all are there", way->name);
	done_with(pool, path);
}

static void sizes_refused(const struct way *way)
{
	static const size_t table[] = { 0, SIZE_MAX, SIZE_MAX - 4095, (size_t)1 << 62, WAY_SIZE };
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned refused = 0;

	MUST(lh_tx_begin(pool, &why));
	for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
		struct lh_error error = { .code = 0 };

		refused += !lh_pool_alloc(pool, table[i], &error) && error.text[0] &&
		           error.code == (table[i] ? -ENOMEM : -EINVAL);
		refused += !lh_pool_alloc_zero(pool, table[i], &error);
		refused += !lh_pool_alloc_aligned(pool, 64, table[i], &error);
	}
	MUST(lh_tx_commit(pool, &why));
	is(refused, 3 * sizeof table / sizeof *table, "%s: sizes that cannot be", way->name);
	is(objects(pool).n, 0, "%s: ... and nothing was made", way->name);
	done_with(pool, path);
}

int main(void)
{
	ways_begin("pool_object");
	ways_each(makes);
	ways_each(zeroed);
	ways_each(aligned);
	ways_each(grows_objects);
	ways_each(frees);
	ways_each(aborts);
	ways_each(root);
	ways_each(root_of_threads);
	ways_each(full);
	ways_each_place(sizes_refused);
	return ways_end();
}
