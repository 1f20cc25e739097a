/*
 * store_sweep.c - the memory store with every allocation failing in turn: each call fails with ENOMEM or
 * succeeds in full, a call that fails changes nothing, and nothing leaks. And the sweep itself sees a store
 * that loses an update on failure, and one that leaks.
 */
#include "inject.h"
#include "store_conformance.h"

enum { PAGES = 6, SPARSE = 4 };

/* Pages so far apart that each needs directories of its own, and neighbours in one chunk. */
static const uint64_t pages[PAGES] = { 0, 1, 70, 40000, UINT64_C(1) << 30, LH_PAGE_NUMBER_MAX };

struct sweep {
	struct inject in;
	struct lh_memory_pool *pool;
	struct lh_store *store;
	uint64_t version[PAGES]; /* what the store must hold; 0: nothing */
	unsigned succeeded;
	unsigned failed;
	unsigned wrong_result;
	unsigned wrong_content;
	/* How a request is carried out, so that a fault can be planted. */
	int (*carry_out)(struct lh_store *store, struct lh_request *request);
};

static void count_result(struct sweep *sweep, int result)
{
	sweep->succeeded += result == 0;
	sweep->failed += result == -ENOMEM;
	sweep->wrong_result += result != 0 && result != -ENOMEM;
}

/* Reads everything, without injection. */
static void check_content(struct sweep *sweep, struct lh_store *store)
{
	struct suite suite_memory = { .factory = NULL }, *suite = &suite_memory;
	unsigned i;

	inject_disarm(&sweep->in);
	for (i = 0; i < PAGES; i++)
		if (suite_expect(suite, store, pages[i], LH_MASK_ALL, sweep->version[i] ? LH_MASK_ALL : 0,
		                 sweep->version[i]))
			sweep->wrong_content++;
	inject_arm(&sweep->in);
}

static void try_request(struct sweep *sweep, enum lh_op op, unsigned page, uint64_t version)
{
	unsigned char data[LH_PAGE_SIZE];
	struct lh_request request = { .op = op, .page = pages[page], .mask = LH_MASK_ALL, .data = data };
	int result;

	suite_fill(data, pages[page], LH_MASK_ALL, version);
	result = sweep->carry_out(sweep->store, &request);
	count_result(sweep, result);
	if (result == 0 || request.result == 0)
		sweep->version[page] = version;
	check_content(sweep, sweep->store);
}

static void try_clone(struct sweep *sweep)
{
	struct lh_store *clone = NULL, *store = sweep->store;
	uint64_t before[PAGES];
	int result = store->ops->clone(store, &clone, NULL);

	count_result(sweep, result);
	check_content(sweep, store);
	if (result != 0)
		return;
	memcpy(before, sweep->version, sizeof before);
	try_request(sweep, LH_OP_PUT, 0, 7);
	try_request(sweep, LH_OP_REPLACE, 2, 8);
	try_request(sweep, LH_OP_DROP, 1, 0);
	memcpy(sweep->version, before, sizeof before);
	check_content(sweep, clone);
	clone->ops->close(clone);
}

/* One round: everything but opening the pool is under test. */
static void round_of(struct sweep *sweep)
{
	struct lh_store *store = NULL;
	unsigned i;

	memset(sweep->version, 0, sizeof sweep->version);
	if (lh__memory_pool_open(&sweep->in.sys, 0, &sweep->pool) != 0)
		abort();
	inject_arm(&sweep->in);
	count_result(sweep, lh__memory_open(sweep->pool, &store));
	sweep->store = store;
	if (store) {
		for (i = 0; i < PAGES; i++)
			try_request(sweep, i & 1 ? LH_OP_PUT : LH_OP_REPLACE, i, i + 1);
		try_request(sweep, LH_OP_DROP, 3, 0);
		try_clone(sweep);
		inject_disarm(&sweep->in);
		store->ops->close(store);
	}
	sweep->wrong_content += lh__memory_pool_used(sweep->pool) != 0;
	lh__memory_pool_close(sweep->pool);
}

static void run(struct sweep *sweep, enum inject_mode mode,
                int (*carry_out)(struct lh_store *, struct lh_request *))
{
	*sweep = (struct sweep){ .carry_out = carry_out };
	INJECT_SWEEP(&sweep->in, ENOMEM, mode)
		round_of(sweep);
}

/* ---- planted ---- */

/* Acknowledges an update that it could not make. */
static int lose_update(struct lh_store *store, struct lh_request *request)
{
	int result = lh__memory_apply(store, request);

	return result == -ENOMEM ? request->result = 0 : result;
}

/* Forgets the page when an update of it fails. */
static int break_page(struct lh_store *store, struct lh_request *request)
{
	struct lh_request drop = { .op = LH_OP_DROP, .page = 0 };
	int result = lh__memory_apply(store, request);

	if (result != 0)
		(void)lh__memory_apply(store, &drop);
	return result;
}

/* Keeps 64 bytes when an update fails. */
static void *leaked[1000];
static unsigned leaks;

static int leak(struct lh_store *store, struct lh_request *request)
{
	int result = lh__memory_apply(store, request);

	if (result != 0 && leaks < 1000 && (leaked[leaks] = lh__alloc(store->sys, 64)) != NULL)
		leaks++;
	return result;
}

static void free_leaked(void)
{
	while (leaks > 0)
		lh__free(&lh__sys_default, leaked[--leaks], 64);
}

int main(void)
{
	static const char *const mode_name[] = { "once", "lasting" };
	static struct sweep sweep;
	int mode;

	for (mode = INJECT_ONCE; mode <= INJECT_LASTING; mode++) {
		const char *name = mode_name[mode];

		run(&sweep, (enum inject_mode)mode, lh__memory_apply);
		ok(inject_swept(&sweep.in), "%s: %lu rounds with a failure, nothing leaked", name,
		   sweep.in.rounds);
		is(sweep.wrong_result, 0, "%s: each call succeeded or gave ENOMEM", name);
		is(sweep.wrong_content, 0, "%s: a call that failed changed nothing", name);
		ok(sweep.failed >= sweep.in.rounds * 3 / 4, "%s: failures reached the caller (%u of %lu)",
		   name, sweep.failed, sweep.in.rounds);
		run(&sweep, (enum inject_mode)mode, lh__store_do);
		ok(inject_swept(&sweep.in) && !sweep.wrong_result && !sweep.wrong_content,
		   "%s: the same by submit", name);
	}
	run(&sweep, INJECT_ONCE, lose_update);
	ok(sweep.wrong_content > 0, "the sweep sees a store that loses an update when memory is short");
	run(&sweep, INJECT_ONCE, break_page);
	ok(sweep.wrong_content > 0, "the sweep sees a store that breaks a page when an update fails");
	run(&sweep, INJECT_ONCE, leak);
	ok(sweep.in.unbalanced > 0, "the sweep sees a store that leaks when an update fails");
	free_leaked();
	return done();
}
