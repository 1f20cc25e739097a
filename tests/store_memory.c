/*
 * store_memory.c - the memory store passes the conformance suite, and does what is promised beyond it:
 * requests from several threads on one store, while clones of it come, are written and go.
 *
 * timeout: 120
 */
#include "inject.h"
#include "store_over_memory.h"

#define WRITERS 3
#define PAGES_EACH 400
#define ROUNDS 20000

struct writer {
	struct lh_store *store;
	unsigned index;
	unsigned wrong;
};

struct cloner {
	struct lh_store *store;
	bool stop;
	unsigned clones;
	unsigned wrong;
};

/* Neighbouring pages belong to different threads, so that they meet in every chunk. */
static uint64_t page_of(const struct writer *writer, uint64_t i)
{
	return i * WRITERS + writer->index;
}

static void *write_own_pages(void *argument)
{
	struct writer *writer = argument;
	uint64_t version[PAGES_EACH] = { 0 }, seed = suite_seed() + writer->index * 2;
	struct suite suite = { .factory = NULL };
	unsigned round;

	for (round = 1; round <= ROUNDS; round++) {
		uint64_t i = (suite_random(&seed) >> 32) % PAGES_EACH, page = page_of(writer, i);
		unsigned char data[LH_PAGE_SIZE];
		struct lh_request request = { .page = page, .mask = LH_MASK_ALL, .data = data };

		if (round % 3 == 0) {
			writer->wrong += suite_expect_now(&suite, writer->store, page,
			                                  version[i] ? LH_MASK_ALL : 0, version[i]) != NULL;
			continue;
		}
		request.op = round % 7 == 0 ? LH_OP_DROP : round % 2 ? LH_OP_PUT : LH_OP_REPLACE;
		version[i] = request.op == LH_OP_DROP ? 0 : round;
		suite_fill(data, page, LH_MASK_ALL, round);
		writer->wrong += lh__memory_apply(writer->store, &request) != 0;
	}
	return NULL;
}

/* A clone is of one moment: every page in it is whole, and stays what it is. */
static void *clone_all_the_time(void *argument)
{
	struct cloner *cloner = argument;
	unsigned char first[LH_PAGE_SIZE], second[LH_PAGE_SIZE];
	uint64_t page;
	lh_mask held;

	while (!__atomic_load_n(&cloner->stop, __ATOMIC_ACQUIRE)) {
		struct lh_store *clone, *second_clone;

		if (cloner->store->ops->clone(cloner->store, &clone, NULL) != 0 ||
		    clone->ops->clone(clone, &second_clone, NULL) != 0)
			abort();
		for (page = cloner->clones % 5; page < (uint64_t)PAGES_EACH * WRITERS; page += 5) {
			cloner->wrong += suite_put(clone, LH_OP_PUT, page, 0xff, UINT32_MAX) != 0;
			cloner->wrong += second_clone->ops->get_now(second_clone, page, LH_MASK_ALL, first,
			                                            &held) != 0;
			cloner->wrong += held != 0 && held != LH_MASK_ALL;
			cloner->wrong += second_clone->ops->get_now(second_clone, page, LH_MASK_ALL, second,
			                                            &held) != 0;
			cloner->wrong += memcmp(first, second, LH_PAGE_SIZE) != 0;
		}
		clone->ops->close(clone);
		second_clone->ops->close(second_clone);
		cloner->clones++;
	}
	return NULL;
}

static void several_threads(void)
{
	struct lh_memory_pool *pool;
	struct lh_store *store;
	struct writer writer[WRITERS];
	struct cloner cloner = { .store = NULL };
	pthread_t thread[WRITERS + 1];
	unsigned i, wrong = 0;

	if (lh__memory_pool_open(&lh__sys_default, 0, &pool) != 0 || lh__memory_open(pool, &store) != 0)
		abort();
	cloner.store = store;
	for (i = 0; i < WRITERS; i++) {
		writer[i] = (struct writer){ .store = store, .index = i };
		if (pthread_create(&thread[i], NULL, write_own_pages, &writer[i]) != 0)
			abort();
	}
	if (pthread_create(&thread[WRITERS], NULL, clone_all_the_time, &cloner) != 0)
		abort();
	for (i = 0; i < WRITERS; i++) {
		pthread_join(thread[i], NULL);
		wrong += writer[i].wrong;
	}
	__atomic_store_n(&cloner.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread[WRITERS], NULL);
	is(wrong, 0, "each thread finds on its pages what it put there");
	ok(cloner.clones > 0 && cloner.wrong == 0, "%u clones of clones meanwhile hold still", cloner.clones);
	store->ops->close(store);
	is(lh__memory_pool_used(pool), 0, "nothing is left in use");
	lh__memory_pool_close(pool);
}

static void *submit_all_the_time(void *argument)
{
	struct writer *writer = argument;
	static unsigned char data[LH_PAGE_SIZE] = { 1 };
	static struct lh_request request[WRITERS][100];
	struct lh_request *pointer[100];
	unsigned i;

	for (i = 0; i < 100; i++) {
		request[writer->index][i] = (struct lh_request){
			.op = LH_OP_PUT, .page = page_of(writer, i), .mask = 1, .data = data, .result = 1
		};
		pointer[i] = &request[writer->index][i];
	}
	for (i = 0; i < 100; i += 4)
		writer->wrong += writer->store->ops->submit(writer->store, pointer + i, 4) != 0;
	return NULL;
}

static void submit_from_several(void)
{
	struct over_memory over = { .wrap = NULL };
	struct lh_store *store = over_memory_open(&over);
	struct suite suite = { .factory = NULL };
	struct writer writer[WRITERS];
	pthread_t thread[WRITERS];
	unsigned i, wrong = 0;

	for (i = 0; i < WRITERS; i++) {
		writer[i] = (struct writer){ .store = store, .index = i };
		if (pthread_create(&thread[i], NULL, submit_all_the_time, &writer[i]) != 0)
			abort();
	}
	for (i = 0; i < WRITERS; i++) {
		pthread_join(thread[i], NULL);
		wrong += writer[i].wrong;
	}
	is(wrong, 0, "submit from several threads");
	ok(!suite_collect(&suite, store, 100 * WRITERS), "... and each request comes back once");
	store->ops->close(store);
	over_memory_finish(&over);
}

/* Memory goes back: what remains after a hundred thousand pages came and went is a pool's reserve. */
static void memory_goes_back(void)
{
	struct lh_memory_pool *pool;
	struct lh_store *store;
	struct inject in;
	uint64_t i;
	unsigned wrong = 0;
	long peak, before;

	inject_init(&in, 0, INJECT_ONCE);
	if (lh__memory_pool_open(&in.sys, 0, &pool) != 0 || lh__memory_open(pool, &store) != 0)
		abort();
	before = in.live_bytes;
	for (i = 0; i < 20000; i++)
		wrong += suite_put(store, LH_OP_PUT, i, 1, 1) != 0;
	peak = in.live_bytes - before;
	ok(peak < 20000L * LH_PAGE_SIZE * 104 / 100, "20000 pages cost %ld bytes each, all counted",
	   peak / 20000);
	for (i = 0; i < 20000; i++)
		wrong += suite_do(store, LH_OP_DROP, i * 7 % 20000, 0, NULL) != 0;
	ok(wrong == 0 && in.live_bytes - before < 300 * 1024, "dropped, they leave %ld bytes",
	   in.live_bytes - before);
	store->ops->close(store);
	lh__memory_pool_close(pool);
	is(in.live_bytes, 0, "closed, nothing");
}

int main(void)
{
	struct over_memory over = { .wrap = NULL };
	struct store_factory memory = over_memory(&over, "memory");

	store_conformance(&memory);
	is(over.leftovers, 0, "memory: closed stores leave nothing in use");
	several_threads();
	submit_from_several();
	memory_goes_back();
	return done();
}
