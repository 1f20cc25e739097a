/*
 * store_layers.c - the stores that stand on others for tests: fault and delay.
 * Idle, both are as good as the store below, so both pass the conformance suite; and each does what it says.
 *
 * timeout: 120
 */
#include "inject.h"
#include "store/delay.h"
#include "store/fault.h"
#include "store_over_memory.h"

#define MS 1000000u

static int wrap_fault(struct lh_store *below, struct lh_store **out)
{
	return lh__fault_open(below, out);
}

static int wrap_delay_idle(struct lh_store *below, struct lh_store **out)
{
	return lh__delay_open(below, 0, out);
}

static int wrap_delay(struct lh_store *below, struct lh_store **out)
{
	return lh__delay_open(below, 20000, out);
}

/* A fault store in the middle, so that delays on both sides meet what it completes by itself. */
static int wrap_three(struct lh_store *below, struct lh_store **out)
{
	if (lh__delay_open(below, 5000, &below) != 0 || lh__fault_open(below, &below) != 0)
		return -ENOMEM;
	return lh__delay_open(below, 1000, out);
}

static void conforms(const char *name, int (*wrap)(struct lh_store *, struct lh_store **), unsigned steps)
{
	struct over_memory over = { .wrap = wrap };
	struct store_factory factory = over_memory(&over, name);

	factory.steps = steps;
	store_conformance(&factory);
	is(over.leftovers, 0, "%s: closed stores leave nothing in use", name);
}

static struct lh_store *open_over(struct lh_memory_pool **pool,
                                  int (*wrap)(struct lh_store *, struct lh_store **))
{
	struct lh_store *below, *store;

	if (lh__memory_pool_open(&lh__sys_default, 0, pool) != 0 || lh__memory_open(*pool, &below) != 0 ||
	    wrap(below, &store) != 0)
		abort();
	return store;
}

static void fault_by_count(void)
{
	struct lh_memory_pool *pool;
	struct lh_store *store = open_over(&pool, wrap_fault);
	struct lh_fault_plan plan = { .what = LH_FAULT_PUT, .error = -EIO, .nth = 3 };
	struct suite suite_memory = { .factory = NULL }, *suite = &suite_memory;
	int results[5];
	unsigned i;

	lh__fault_plan(store, &plan);
	for (i = 0; i < 5; i++)
		results[i] = suite_put(store, LH_OP_PUT, i, 0xff, 1);
	ok(!results[0] && !results[1] && results[2] == -EIO && !results[3] && !results[4],
	   "the third put fails");
	ok(!suite_expect(suite, store, 2, LH_MASK_ALL, 0, 1), "the put that failed has changed nothing");
	ok(!suite_expect(suite, store, 3, LH_MASK_ALL, 0xff, 1), "the put after it has worked");
	is(lh__fault_injected(store), 1, "one fault was counted");
	plan.lasting = true;
	lh__fault_plan(store, &plan);
	for (i = 0; i < 5; i++)
		results[i] = suite_put(store, LH_OP_PUT, i, 0xff, 2);
	ok(!results[0] && !results[1] && results[2] && results[3] && results[4],
	   "lasting: the third and all after it");
	ok(!suite_expect(suite, store, 4, LH_MASK_ALL, 0xff, 1), "page 4 is as it was");
	lh__fault_plan(store, NULL);
	is(suite_put(store, LH_OP_PUT, 4, 0xff, 2), 0, "idle again");
	store->ops->close(store);
	lh__memory_pool_close(pool);
}

static void fault_in_a_batch(void)
{
	struct lh_memory_pool *pool;
	struct lh_store *store = open_over(&pool, wrap_fault);
	struct lh_fault_plan plan = {
		.what = LH_FAULT_REQUESTS, .error = -ETIMEDOUT, .per_million = 300000, .seed = 5
	};
	struct lh_request request[200], *pointer[200];
	unsigned char data[LH_PAGE_SIZE];
	struct suite suite_memory = { .factory = NULL }, *suite = &suite_memory;
	unsigned failed = 0, wrong = 0;
	struct lh_store *clone;
	size_t i;

	lh__fault_plan(store, &plan);
	suite_fill(data, 0, LH_MASK_ALL, 1);
	for (i = 0; i < 200; i++) {
		request[i] = (struct lh_request){ .op = LH_OP_PUT, .page = i, .mask = 1, .data = data };
		pointer[i] = &request[i];
	}
	is(store->ops->submit(store, pointer, 200), 0, "a batch is taken");
	is(store->ops->clone(store, &clone, NULL), -EBUSY, "no clone while the failed ones are in flight");
	ok(!suite_collect(suite, store, 200), "each of the batch comes back once");
	lh__fault_plan(store, NULL);
	for (i = 0; i < 200; i++) {
		lh_mask held = 0;
		int result = store->ops->get_now(store, i, 1, data, &held);

		failed += request[i].result == -ETIMEDOUT;
		wrong += result != 0 || held != (request[i].result == 0);
	}
	ok(failed > 20 && failed < 120, "about three in ten failed (%u of 200)", failed);
	is(wrong, 0, "the failed ones changed nothing, the others took effect");
	store->ops->close(store);
	lh__memory_pool_close(pool);
}

static void fault_in_calls(void)
{
	struct lh_memory_pool *pool;
	struct lh_store *store = open_over(&pool, wrap_fault), *clone;
	struct lh_fault_plan plan = { .what = LH_FAULT_SUBMIT | LH_FAULT_GET_NOW | LH_FAULT_SYNC |
		                              LH_FAULT_CLONE,
		                      .error = -EIO,
		                      .nth = 1,
		                      .lasting = true };
	struct lh_error error = { .code = 0 };
	unsigned char data[LH_PAGE_SIZE];
	lh_mask held;

	lh__fault_plan(store, &plan);
	is(suite_put(store, LH_OP_PUT, 1, 1, 1), -EIO, "submit");
	is(store->ops->poll(store, &(struct lh_request *){ NULL }, 1, -1), 0, "... has taken nothing");
	is(store->ops->get_now(store, 1, 1, data, &held), -EIO, "get_now");
	is(store->ops->sync(store), -EIO, "sync");
	is(store->ops->clone(store, &clone, &error), -EIO, "clone");
	ok(error.code == -EIO && strstr(error.text, "EIO"), "clone says why: %s", error.text);
	is(lh__fault_injected(store), 4, "four faults were counted");
	store->ops->close(store);
	lh__memory_pool_close(pool);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void delay_takes_time(void)
{
	struct lh_memory_pool *pool;
	struct lh_store *store = open_over(&pool, wrap_delay_idle);
	unsigned char data[LH_PAGE_SIZE];
	struct lh_request request[50], *pointer[50], *done[50];
	struct suite suite_memory = { .factory = NULL }, *suite = &suite_memory;
	uint64_t start;
	lh_mask held;
	size_t i;

	lh__delay_set(store, 30 * MS);
	start = now_ns();
	is(suite_put(store, LH_OP_PUT, 1, 1, 1), 0, "a put");
	ok(now_ns() - start >= 30 * MS, "... takes 30 ms");
	start = now_ns();
	is(store->ops->get_now(store, 1, 1, data, &held), 0, "a get_now");
	ok(now_ns() - start >= 30 * MS, "... takes 30 ms");
	for (i = 0; i < 50; i++) {
		request[i] = (struct lh_request){ .op = LH_OP_GET, .page = i, .mask = 0, .data = data };
		pointer[i] = &request[i];
	}
	lh__delay_set(store, 1000 * MS);
	start = now_ns();
	is(store->ops->submit(store, pointer, 50), 0, "fifty requests at once");
	ok(now_ns() - start < 500 * MS, "... are taken at once");
	is(store->ops->poll(store, done, 50, 0), 0, "... are not complete at once");
	is(store->ops->poll(store, done, 50, 5), 0, "... nor after 5 ms");
	ok(now_ns() - start < 900 * MS, "... for which poll has waited, and no longer");
	ok(!suite_collect(suite, store, 50), "... complete");
	ok(now_ns() - start >= 1000 * MS && now_ns() - start < 10000 * MS,
	   "... side by side, not one after the other");
	store->ops->close(store);
	lh__memory_pool_close(pool);
}

/* Opening, using and cloning layers, with every allocation failing in turn. */
static void layers_without_memory(enum inject_mode mode)
{
	struct inject in;
	unsigned wrong = 0;

	INJECT_SWEEP(&in, ENOMEM, mode) {
		struct lh_memory_pool *pool;
		struct lh_store *below = NULL, *clone = NULL, *upper;
		int result;

		if (lh__memory_pool_open(&in.sys, 0, &pool) != 0 || lh__memory_open(pool, &below) != 0)
			abort();
		inject_arm(&in);
		if (lh__fault_open(below, &upper) == 0)
			below = upper;
		if (lh__delay_open(below, 1000, &upper) == 0)
			below = upper;
		result = suite_put(below, LH_OP_PUT, 1, 1, 1);
		wrong += result != 0 && result != -ENOMEM;
		result = below->ops->clone(below, &clone, NULL);
		wrong += result != 0 && result != -ENOMEM;
		inject_disarm(&in);
		if (result == 0)
			clone->ops->close(clone);
		below->ops->close(below);
		wrong += lh__memory_pool_used(pool) != 0;
		lh__memory_pool_close(pool);
	}
	ok(inject_swept(&in), "layers: %lu failures injected, nothing leaked", in.rounds);
	is(wrong, 0, "layers: every failure was ENOMEM");
}

int main(void)
{
	conforms("fault, idle", wrap_fault, 5000);
	conforms("delay, idle", wrap_delay_idle, 5000);
	conforms("delay", wrap_delay, 2000);
	conforms("delay on fault on delay", wrap_three, 2000);
	fault_by_count();
	fault_in_a_batch();
	fault_in_calls();
	delay_takes_time();
	layers_without_memory(INJECT_ONCE);
	layers_without_memory(INJECT_LASTING);
	return done();
}
