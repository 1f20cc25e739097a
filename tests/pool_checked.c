/*
 * pool_checked.c - LH_SEE_CHECKED: what was not declared is found, with its address and the function that
 * stored; what was declared is not, by whatever instruction it is stored.
 */
#include <immintrin.h>
#include <pthread.h>

#include "pool_ways.h"

#ifdef __clang__
#define ALONE __attribute__((noinline))
#else
#define ALONE __attribute__((noinline, noclone))
#endif

/* ---- stores of all kinds, size bytes from `at` on ---- */

static ALONE void stores_a_byte(unsigned char *at, size_t size)
{
	*(volatile unsigned char *)at = 0xa5;
}

static ALONE void stores_a_word(unsigned char *at, size_t size)
{
	__asm__ volatile("movq %1, (%0)" : : "r"(at), "r"(UINT64_C(0xa5a5a5a5a5a5a5a5)) : "memory");
}

static ALONE void adds_atomically(unsigned char *at, size_t size)
{
	__atomic_fetch_add((uint64_t *)at, 5, __ATOMIC_SEQ_CST);
}

static ALONE void stores_a_vector(unsigned char *at, size_t size)
{
	_mm_storeu_si128((__m128i *)at, _mm_set1_epi8(0x5a));
}

static ALONE void stores_past_the_cache(unsigned char *at, size_t size)
{
	_mm_stream_si128((__m128i *)at, _mm_set1_epi8(0x5b));
}

static ALONE void moves_bytes(unsigned char *at, size_t size)
{
	static const unsigned char from[9000] = { [0 ... 8999] = 0x77 };
	const unsigned char *source = from;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(source), "+c"(size) : : "memory");
}

static ALONE void fills_words(unsigned char *at, size_t size)
{
	size_t count = size / 8;

	__asm__ volatile("rep stosq" : "+D"(at), "+c"(count) : "a"(UINT64_C(0x1111111111111111)) : "memory");
}

static ALONE void copies(unsigned char *at, size_t size)
{
	static const unsigned char from[9000] = { [0 ... 8999] = 0x78 };
	void *(*volatile copy)(void *, const void *, size_t) = memcpy;

	copy(at, from, size);
}

static const struct store {
	const char *name; /* of the function, as the report has it; NULL: it stores by one of libc */
	void (*store)(unsigned char *at, size_t size);
	size_t offset, size; /* in the root object, which begins at a line */
} stores[] = {
	{ "stores_a_byte", stores_a_byte, 77, 1 },
	{ "stores_a_word", stores_a_word, 1000, 8 },
	{ "stores_a_word", stores_a_word, 2044, 8 }, /* over two lines */
	{ "adds_atomically", adds_atomically, 3000, 8 },
	{ "stores_a_vector", stores_a_vector, 4000, 16 },
	{ "stores_past_the_cache", stores_past_the_cache, 4096, 16 },
	{ "moves_bytes", moves_bytes, 5000, 300 },
	{ "moves_bytes", moves_bytes, 8000, 9000 }, /* over three pages */
	{ "fills_words", fills_words, 20000, 4800 },
	{ NULL, copies, 30001, 200 },
	{ NULL, copies, 33000, 8500 },
};
#define STORES (sizeof stores / sizeof *stores)

static unsigned char *bytes_of(struct lh_pool *pool)
{
	return (unsigned char *)(uintptr_t)way_root(pool);
}

static bool names_address(const struct lh_error *error, const void *at)
{
	char text[40];

	snprintf(text, sizeof text, "0x%lx ", (unsigned long)(uintptr_t)at);
	return strstr(error->text, text) != NULL;
}

/* memcpy stores in an order of its own: a place in the range is told, and else its beginning. */
static bool names_place(const struct lh_error *error, const unsigned char *at, const struct store *store)
{
	unsigned long address = 0;
	const char *text = strstr(error->text, ": 0x");

	if (store->name)
		return names_address(error, at);
	return text && sscanf(text, ": %lx", &address) == 1 &&
	       address - ((uintptr_t)at & ~(uintptr_t)63) < store->size;
}

/* Not declared: the commit fails, says where and who, and everything is as before. */
static void finds(const struct way *way, struct lh_pool *pool, const struct store *store, unsigned char *at)
{
	struct lh_error error = { .code = 0 };
	unsigned char *before = malloc(store->size);
	int result;

	memcpy(before, at, store->size);
	MUST(lh_tx_begin(pool, &why));
	store->store(at, store->size);
	result = lh_tx_commit(pool, &error);
	ok(result == -EFAULT && names_place(&error, at, store),
	   "%s: %s, %zu bytes, is found with its address", way->name, store->name ? store->name : "memcpy",
	   store->size);
	ok(!store->name || strstr(error.text, store->name), "%s: ... %s", way->name, error.text);
	ok(memcmp(at, before, store->size) == 0, "%s: ... and undone", way->name);
	free(before);
}

static void passes(const struct way *way, struct lh_pool *pool, const struct store *store, unsigned char *at)
{
	struct lh_error error = { .code = 0 };
	unsigned char *before = malloc(store->size), *after = malloc(store->size);

	memcpy(before, at, store->size);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_tx_add(pool, at, store->size, &why));
	store->store(at, store->size);
	memcpy(after, at, store->size);
	ok(lh_tx_commit(pool, &error) == 0 && memcmp(after, before, store->size) != 0 &&
	           memcmp(at, after, store->size) == 0,
	   "%s: %s, declared, is kept", way->name, store->name ? store->name : "memcpy");
	free(before);
	free(after);
}

static struct lh_pool *pool_of(const struct way *way, char path[400])
{
	struct lh_pool *pool = way_create(way, way_path(way, path));

	way_root(pool);
	return pool;
}

static void done_with(struct lh_pool *pool, const char *path)
{
	way_close(pool);
	unlink(path);
}

static void by_kind(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);

	for (size_t i = 0; i < STORES; i++) {
		finds(way, pool, &stores[i], bytes_of(pool) + stores[i].offset);
		passes(way, pool, &stores[i], bytes_of(pool) + stores[i].offset);
	}
	done_with(pool, path);
}

/* A store over the boundary of two pages, of which either, both or none is declared. */
static void straddles(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *page = bytes_of(pool) + 4096 + (-(uintptr_t)bytes_of(pool) & 4095), *at = page - 4;

	for (unsigned declared = 0; declared < 4; declared++) {
		struct lh_error error = { .code = 0 };
		int result;

		MUST(lh_tx_begin(pool, &why));
		MUST(declared & 1 ? lh_tx_add(pool, at, 4, &why) : 0);
		MUST(declared & 2 ? lh_tx_add(pool, page, 4, &why) : 0);
		stores_a_word(at, 8);
		result = lh_tx_commit(pool, &error);
		is(result, declared == 3 ? 0 : -EFAULT, "%s: a store over two pages, declared: %u", way->name,
		   declared);
		ok(declared == 3 || (names_address(&error, declared & 1 ? page : at) &&
		                     strstr(error.text, "stores_a_word")),
		   "%s: ... %s", way->name, error.text);
		ok(declared == 3 || (*at == 0 && *page == 0), "%s: ... is undone", way->name);
	}
	ok(*at == 0xa5 && *page == 0xa5, "%s: ... or kept", way->name);
	done_with(pool, path);
}

/* What stands beside it in the line that was declared is not told apart; the next line is. */
static void by_line(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *bytes = bytes_of(pool);
	struct lh_error error = { .code = 0 };

	MUST(lh_tx_begin(pool, &why));
	MUST(lh_tx_add(pool, bytes + 64, 1, &why));
	stores_a_byte(bytes + 127, 1);
	is(lh_tx_commit(pool, NULL), 0, "%s: declared is the line", way->name);
	MUST(lh_tx_begin(pool, &why));
	MUST(lh_tx_add(pool, bytes + 64, 64, &why));
	stores_a_byte(bytes + 128, 1);
	is(lh_tx_commit(pool, &error), -EFAULT, "%s: ... and not the next", way->name);
	ok(names_address(&error, bytes + 128), "%s: ... %s", way->name, error.text);
	MUST(lh_tx_begin(pool, &why));
	stores_a_byte(bytes + 128, 1);
	MUST(lh_tx_add(pool, bytes + 128, 1, &why));
	is(lh_tx_commit(pool, &error), 0, "%s: declared after the store: the line is kept as it is then",
	   way->name);
	MUST(lh_tx_begin(pool, &why));
	stores_a_byte(bytes + 127, 1);
	stores_a_byte(bytes + 4000, 1);
	bytes[4000] = 0;
	is(lh_tx_commit(pool, &error), 0, "%s: what is as it was is no change", way->name);
	MUST(lh_tx_begin(pool, &why));
	stores_a_byte(bytes + 6000, 1);
	is(lh_tx_abort(pool, &error), 0, "%s: an abort asks nobody", way->name);
	is(bytes[6000], 0, "%s: ... and undoes it all the same", way->name);
	done_with(pool, path);
}

static void tells_offset(const struct way *way)
{
	char path[400], offset[60], number[60];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *at = bytes_of(pool) + 500;
	struct lh_error error = { .code = 0 };

	snprintf(offset, sizeof offset, "(offset 0x%lx)", (unsigned long)lh_ptr_off(pool, at));
	snprintf(number, sizeof number, "transaction %lu:", (unsigned long)way_info(pool).commits + 1);
	MUST(lh_tx_begin(pool, &why));
	stores_a_byte(at, 1);
	is(lh_tx_commit(pool, &error), -EFAULT, "%s: a report has", way->name);
	ok(strstr(error.text, offset) != NULL, "%s: ... the offset in the pool", way->name);
	ok(strstr(error.text, number) != NULL, "%s: ... the number of the transaction", way->name);
	ok(strstr(error.text, "pool_checked.c:") || strstr(error.text, "(pool_checked)"),
	   "%s: ... and the file, or the object", way->name);
	done_with(pool, path);
}

/* ---- threads: each steps by itself through pages that the others step through as well ---- */

#define THREADS 4u
struct worker {
	unsigned char *bytes;
	unsigned number;
	pthread_t thread;
};

static void *stores_some(void *argument)
{
	struct worker *worker = argument;

	for (unsigned i = 0; i < 300; i++)
		stores_a_word(worker->bytes + (i * THREADS + worker->number) * 8, 8);
	return NULL;
}

static void of_threads(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *bytes = bytes_of(pool);
	struct worker worker[THREADS];
	unsigned right = 0;

	for (unsigned missing = 0; missing < 2; missing++) {
		struct lh_error error = { .code = 0 };
		int result;

		MUST(lh_tx_begin(pool, &why));
		MUST(lh_tx_add(pool, bytes, THREADS * 300 * 8 - (missing ? 64 : 0), &why));
		for (unsigned i = 0; i < THREADS; i++) {
			worker[i] = (struct worker){ .bytes = bytes, .number = i };
			MUST(-pthread_create(&worker[i].thread, NULL, stores_some, &worker[i]));
		}
		for (unsigned i = 0; i < THREADS; i++)
			pthread_join(worker[i].thread, NULL);
		if (missing) /* another value than there is, in the line that is missing */
			bytes[THREADS * 300 * 8 - 1] = 1;
		result = lh_tx_commit(pool, &error);
		is(result, missing ? -EFAULT : 0, "%s: stores of several threads, %s", way->name,
		   missing ? "with a line that was not declared" : "declared");
	}
	for (unsigned i = 0; i < THREADS * 300 * 8; i++)
		right += bytes[i] == 0xa5;
	is(right, THREADS * 300 * 8, "%s: ... are all there", way->name);
	done_with(pool, path);
}

static void *stores_undeclared(void *argument)
{
	struct worker *worker = argument;

	stores_a_word(worker->bytes + 8192 * worker->number, 8);
	return NULL;
}

/* The first of the pages is reported, with the address that its thread has stored to. */
static void undeclared_of_threads(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = pool_of(way, path);
	unsigned char *bytes = bytes_of(pool);
	struct lh_error error = { .code = 0 };
	struct worker worker[THREADS];
	bool named = false;

	MUST(lh_tx_begin(pool, &why));
	for (unsigned i = 0; i < THREADS; i++) {
		worker[i] = (struct worker){ .bytes = bytes, .number = i };
		MUST(-pthread_create(&worker[i].thread, NULL, stores_undeclared, &worker[i]));
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(worker[i].thread, NULL);
	is(lh_tx_commit(pool, &error), -EFAULT, "%s: threads that have declared nothing", way->name);
	for (unsigned i = 0; i < THREADS; i++)
		named |= names_address(&error, bytes + 8192 * i);
	ok(named && strstr(error.text, "stores_a_word"), "%s: ... %s", way->name, error.text);
	for (unsigned i = 0; i < THREADS; i++)
		named &= bytes[8192 * i] == 0;
	ok(named, "%s: ... are undone", way->name);
	done_with(pool, path);
}

/* The trap of who steps is his own: a debugger's breakpoints still arrive. */
static volatile sig_atomic_t traps;

static void on_trap(int number)
{
	traps = traps + 1;
}

static int other_traps(void *context)
{
	const struct way *way = context;
	char path[400];
	struct lh_pool *pool;

	signal(SIGTRAP, on_trap);
	pool = pool_of(way, path);
	way_set(pool, way_root(pool), 1);
	__asm__ volatile("int3");
	__asm__ volatile("int3");
	done_with(pool, path);
	return traps == 2 ? 0 : 1;
}

static void passes_traps_on(const struct way *way)
{
	is(in_child(other_traps, (void *)(uintptr_t)way), 0, "%s: other traps go to who had them", way->name);
}

/* Only the ways that check. */
static void each(void (*test)(const struct way *way))
{
	for (size_t i = 0; i < WAYS; i++)
		if (ways[i].see == LH_SEE_CHECKED && way_lacks(&ways[i]))
			skip(ways[i].name, way_lacks(&ways[i]));
		else if (ways[i].see == LH_SEE_CHECKED)
			test(&ways[i]);
}

int main(void)
{
	ways_begin("pool_checked");
	each(passes_traps_on); /* before this process has a pool of its own */
	each(by_kind);
	each(straddles);
	each(by_line);
	each(tells_offset);
	each(of_threads);
	each(undeclared_of_threads);
	return ways_end();
}
