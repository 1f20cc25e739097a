/*
 * store_conformance.h - what every store must do: one suite, instantiated for a store in about 20 lines
 * (tests/store_memory.c shows how).
 *
 * Each case is a function that gets an empty store and returns NULL, or what did not hold. So the same cases
 * serve twice: store_conformance() reports each as a test; store_conformance_catches() runs them
 * over a store with a planted fault and says which case saw it.
 *
 * The randomised case prints its seed where it fails; LH_TEST_SEED=N runs it again, LH_TEST_STEPS=N changes
 * its length.
 */
#ifndef STORE_CONFORMANCE_H
#define STORE_CONFORMANCE_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#include "expect.h"
#include "store/store.h"
#include "tap.h"

struct store_factory {
	const char *name;
	void *context;
	/* A fresh, empty store; NULL fails the case. */
	struct lh_store *(*open)(void *context);
	/* The same, with room for this many pages and no more; NULL: cases about a full store are skipped. */
	struct lh_store *(*open_small)(void *context, unsigned pages);
	/* Bytes in use for pages by all stores that are open; NULL: what is stored is not looked at. */
	uint64_t (*used)(void *context);
	/* After a case: its stores are closed; whatever else open made can go now. May be NULL. */
	void (*finish)(void *context);
	unsigned steps;    /* of the randomised case; 0: 20000 */
	uint64_t pages;    /* the page numbers that it takes are below; 0: LH_PAGE_NUMBER_MAX + 1 */
	bool clone_copies; /* a clone takes its room at once: cases about a clone's room are skipped */
	bool reserves;     /* reserve makes room, and is not only polite */
};

/* ---- what the cases are written in ---- */

#define SUITE_STORES 8
#define SUITE_POLL_MS 10000

struct suite {
	const struct store_factory *factory;
	struct lh_store *open[SUITE_STORES];
	char text[200];
};

static struct lh_store *suite_keep(struct suite *suite, struct lh_store *store)
{
	unsigned i;

	for (i = 0; store && i < SUITE_STORES; i++)
		if (!suite->open[i])
			return suite->open[i] = store;
	return store;
}

static struct lh_store *suite_open(struct suite *suite)
{
	return suite_keep(suite, suite->factory->open(suite->factory->context));
}

static struct lh_store *suite_clone(struct suite *suite, struct lh_store *store)
{
	struct lh_store *clone = NULL;
	struct lh_error error = { .code = 0 };
	int result = store->ops->clone(store, &clone, &error);

	if (result != 0)
		printf("# clone: %d %s\n", result, error.text);
	return result == 0 ? suite_keep(suite, clone) : NULL;
}

static void suite_close(struct suite *suite, struct lh_store *store)
{
	unsigned i;

	for (i = 0; i < SUITE_STORES; i++)
		if (suite->open[i] == store)
			suite->open[i] = NULL;
	store->ops->close(store);
}

static uint64_t suite_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

/* Content that tells page, line and version apart; never zero. */
static uint64_t suite_word(uint64_t page, unsigned line, uint64_t version)
{
	return ((page * 64 + line + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ version << 1) | 1;
}

static void suite_fill(void *data, uint64_t page, lh_mask mask, uint64_t version)
{
	uint64_t *word = data;
	unsigned line, i;

	LH_MASK_EACH(mask, line)
		for (i = 0; i < 8; i++)
			word[line * 8 + i] = suite_word(page, line, version) + i;
}

/* The greatest page number that the store takes, or what stands below it. */
static uint64_t suite_last(const struct suite *suite, const struct lh_store *store)
{
	uint64_t last = lh__store_last_page(store);

	return suite->factory && suite->factory->pages && suite->factory->pages - 1 < last
	               ? suite->factory->pages - 1
	               : last;
}

#define POISON 0xa5

static int suite_do(struct lh_store *store, enum lh_op op, uint64_t page, lh_mask mask, void *data)
{
	struct lh_request request = { .op = op, .page = page, .mask = mask, .data = data, .result = 1 };

	return lh__store_do(store, &request);
}

/* Puts (or replaces) lines with the content of a version. */
static int suite_put(struct lh_store *store, enum lh_op op, uint64_t page, lh_mask mask, uint64_t version)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));

	memset(data, POISON, sizeof data);
	suite_fill(data, page, mask, version);
	return suite_do(store, op, page, mask, data);
}

/* The same with LH_REQUEST_ flags. */
static int suite_put_flags(struct lh_store *store, enum lh_op op, uint64_t page, lh_mask mask,
                           uint64_t version, unsigned flags)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_request request = {
		.op = op, .flags = flags, .page = page, .mask = mask, .data = data, .result = 1
	};

	memset(data, POISON, sizeof data);
	suite_fill(data, page, mask, version);
	return lh__store_do(store, &request);
}

/*
 * That a buffer, all POISON before, is what a GET of want must leave when the store holds held of the
 * content expected: held lines as expected, other wanted lines zero, all other lines untouched.
 */
static const char *suite_check(struct suite *suite, const unsigned char *data, lh_mask want, lh_mask held,
                               const unsigned char *expected)
{
	unsigned line, i;

	for (line = 0; line < LH_PAGE_LINES; line++)
		for (i = 0; i < LH_LINE_SIZE; i++) {
			unsigned at = line * LH_LINE_SIZE + i;

			if (!(want >> line & 1))
				EXPECT(data[at] == POISON);
			else if (!(held >> line & 1))
				EXPECT(data[at] == 0);
			else
				EXPECT(data[at] == expected[at]);
		}
	return NULL;
}

/* That get_now of all lines gives those of version where in held, and zero elsewhere. */
__attribute__((unused)) static const char *suite_expect_now(struct suite *suite, struct lh_store *store,
                                                            uint64_t page, lh_mask held, uint64_t version)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64))), expected[LH_PAGE_SIZE];
	lh_mask now = ~LH_MASK_NONE;

	suite_fill(expected, page, LH_MASK_ALL, version);
	memset(data, POISON, sizeof data);
	EXPECT(store->ops->get_now(store, page, LH_MASK_ALL, data, &now) == 0);
	EXPECT(now == held);
	TRY(suite_check(suite, data, LH_MASK_ALL, held, expected));
	return NULL;
}

/* Both ways to read: that the lines of want are those of version where in held, and not held elsewhere. */
static const char *suite_expect(struct suite *suite, struct lh_store *store, uint64_t page, lh_mask want,
                                lh_mask held, uint64_t version)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64))), expected[LH_PAGE_SIZE];
	struct lh_request get = { .op = LH_OP_GET, .page = page, .mask = want, .data = data, .result = 1 };
	lh_mask now = ~LH_MASK_NONE;

	suite_fill(expected, page, LH_MASK_ALL, version);
	memset(data, POISON, sizeof data);
	EXPECT(lh__store_do(store, &get) == 0);
	EXPECT(get.mask == (want & held));
	TRY(suite_check(suite, data, want, held, expected));
	memset(data, POISON, sizeof data);
	EXPECT(store->ops->get_now(store, page, want, data, &now) == 0);
	EXPECT(now == (want & held));
	TRY(suite_check(suite, data, want, held, expected));
	return NULL;
}

/* Takes n completions of any of these requests; each must come once. user must be NULL before. */
static const char *suite_collect(struct suite *suite, struct lh_store *store, size_t n)
{
	struct lh_request *done[64];
	size_t got = 0;

	while (got < n) {
		size_t i, some = store->ops->poll(store, done, 64, SUITE_POLL_MS);

		EXPECT(some > 0);
		EXPECT(some <= 64 && some <= n - got);
		for (i = 0; i < some; i++) {
			EXPECT(done[i]->user == NULL);
			done[i]->user = store;
		}
		got += some;
	}
	EXPECT(store->ops->poll(store, done, 64, 0) == 0);
	return NULL;
}

static uint64_t suite_used(struct suite *suite)
{
	return suite->factory->used ? suite->factory->used(suite->factory->context) : 0;
}

/* ---- cases: one request at a time ---- */

static const char *case_slots(struct suite *suite, struct lh_store *store)
{
	EXPECT(lh__store_check(store) == 0);
	EXPECT(store->ops->name[0] != 0);
	EXPECT(store->caps.depth > 0);
	return NULL;
}

static const char *case_empty(struct suite *suite, struct lh_store *store)
{
	TRY(suite_expect(suite, store, 0, LH_MASK_ALL, 0, 1));
	TRY(suite_expect(suite, store, 12345678, 0x8000000000000001, 0, 1));
	TRY(suite_expect(suite, store, suite_last(suite, store), 0xf0, 0, 1));
	TRY(suite_expect(suite, store, 7, LH_MASK_NONE, 0, 1));
	return NULL;
}

static const char *case_partial_masks(struct suite *suite, struct lh_store *store)
{
	static const lh_mask masks[] = { 1,
		                         UINT64_C(1) << 63,
		                         0x8000000000000001,
		                         0xff00ff00ff00ff00,
		                         0x5555555555555555,
		                         0xaaaaaaaaaaaaaaaa,
		                         LH_MASK_ALL,
		                         LH_MASK_NONE,
		                         0x00000000ffffffff,
		                         0x7ffffffffffffffe };
	const unsigned n = sizeof masks / sizeof *masks;
	unsigned i, j;

	for (i = 0; i < n; i++)
		EXPECT(suite_put(store, LH_OP_PUT, i, masks[i], 1) == 0);
	for (i = 0; i < n; i++)
		for (j = 0; j < n; j++)
			TRY(suite_expect(suite, store, i, masks[j], masks[i], 1));
	return NULL;
}

static const char *case_every_line_alone(struct suite *suite, struct lh_store *store)
{
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i++) {
		EXPECT(suite_put(store, LH_OP_PUT, 3, lh__mask_line(i), 1) == 0);
		TRY(suite_expect(suite, store, 3, LH_MASK_ALL, lh__mask_range(0, i + 1), 1));
	}
	return NULL;
}

static const char *case_overlapping_masks(struct suite *suite, struct lh_store *store)
{
	const lh_mask first = 0x0000ffffffff0000, second = 0x00000000ffffffff;

	EXPECT(suite_put(store, LH_OP_PUT, 9, first, 1) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 9, second, 2) == 0);
	TRY(suite_expect(suite, store, 9, second, second, 2));
	TRY(suite_expect(suite, store, 9, ~second, first & ~second, 1));
	EXPECT(suite_put(store, LH_OP_PUT, 9, lh__mask_line(20), 3) == 0);
	TRY(suite_expect(suite, store, 9, lh__mask_line(20), lh__mask_line(20), 3));
	TRY(suite_expect(suite, store, 9, second & ~lh__mask_line(20), second, 2));
	return NULL;
}

static const char *case_replace(struct suite *suite, struct lh_store *store)
{
	EXPECT(suite_put(store, LH_OP_PUT, 4, LH_MASK_ALL, 1) == 0);
	EXPECT(suite_put(store, LH_OP_REPLACE, 4, 0xf0f0, 2) == 0);
	TRY(suite_expect(suite, store, 4, LH_MASK_ALL, 0xf0f0, 2));
	EXPECT(suite_put(store, LH_OP_PUT, 4, 0x0f, 2) == 0);
	TRY(suite_expect(suite, store, 4, LH_MASK_ALL, 0xf0ff, 2));
	EXPECT(suite_put(store, LH_OP_REPLACE, 4, LH_MASK_NONE, 3) == 0);
	TRY(suite_expect(suite, store, 4, LH_MASK_ALL, LH_MASK_NONE, 3));
	EXPECT(suite_put(store, LH_OP_REPLACE, 5, LH_MASK_ALL, 3) == 0);
	TRY(suite_expect(suite, store, 5, LH_MASK_ALL, LH_MASK_ALL, 3));
	return NULL;
}

static const char *case_drop(struct suite *suite, struct lh_store *store)
{
	const uint64_t used = suite_used(suite);

	EXPECT(suite_do(store, LH_OP_DROP, 11, 0, NULL) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 11, LH_MASK_ALL, 1) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 12, LH_MASK_ALL, 1) == 0);
	EXPECT(suite_do(store, LH_OP_DROP, 11, 0, NULL) == 0);
	TRY(suite_expect(suite, store, 11, LH_MASK_ALL, LH_MASK_NONE, 1));
	TRY(suite_expect(suite, store, 12, LH_MASK_ALL, LH_MASK_ALL, 1));
	EXPECT(suite_put(store, LH_OP_PUT, 11, 2, 2) == 0);
	TRY(suite_expect(suite, store, 11, LH_MASK_ALL, 2, 2));
	EXPECT(suite_do(store, LH_OP_DROP, 11, 0, NULL) == 0);
	EXPECT(suite_do(store, LH_OP_DROP, 12, 0, NULL) == 0);
	EXPECT(suite_used(suite) == used);
	return NULL;
}

/* Reads as suite_expect does, but lets the store say "held" or not of lines that were put as zero. */
static const char *suite_expect_zero(struct suite *suite, struct lh_store *store, uint64_t page)
{
	unsigned char data[LH_PAGE_SIZE];
	lh_mask held;

	memset(data, POISON, sizeof data);
	EXPECT(store->ops->get_now(store, page, LH_MASK_ALL, data, &held) == 0);
	TRY(suite_check(suite, data, LH_MASK_ALL, LH_MASK_NONE, data));
	return NULL;
}

static const char *case_zero_pages(struct suite *suite, struct lh_store *store)
{
	unsigned char zero[LH_PAGE_SIZE] = { 0 }, data[LH_PAGE_SIZE];
	const uint64_t used = suite_used(suite);
	lh_mask held;
	uint64_t i;

	for (i = 0; i < 100; i++) {
		EXPECT(suite_do(store, i & 1 ? LH_OP_PUT : LH_OP_REPLACE, i, LH_MASK_ALL, zero) == 0);
		TRY(suite_expect_zero(suite, store, i));
	}
	EXPECT(suite_used(suite) == used);
	EXPECT(suite_put(store, LH_OP_PUT, 50, LH_MASK_ALL, 1) == 0);
	EXPECT(suite_do(store, LH_OP_PUT, 50, 0xff, zero) == 0);
	EXPECT(store->ops->get_now(store, 50, LH_MASK_ALL, data, &held) == 0);
	EXPECT((held | 0xff) == LH_MASK_ALL && memcmp(data, zero, 512) == 0 && data[512] != 0);
	EXPECT(suite_do(store, LH_OP_PUT, 50, ~(lh_mask)0xff, zero) == 0);
	TRY(suite_expect_zero(suite, store, 50));
	EXPECT(suite_used(suite) == used);
	return NULL;
}

/* Bytes of one page that a request changed, in *changed; -1 where it failed. */
static long suite_changed(struct lh_store *store, enum lh_op op, uint64_t page, lh_mask mask, void *data)
{
	struct lh_request request = {
		.op = op, .page = page, .mask = mask, .data = data, .result = 1, .changed = 77777
	};

	return lh__store_do(store, &request) == 0 ? (long)request.changed : -1;
}

static const char *case_changed(struct suite *suite, struct lh_store *store)
{
	unsigned char data[LH_PAGE_SIZE], zero[LH_PAGE_SIZE] = { 0 };
	struct lh_store *clone;

	memset(data, 1, sizeof data);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, 0, data) == 0);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, LH_MASK_ALL, zero) == 0);
	EXPECT(suite_changed(store, LH_OP_REPLACE, 1, LH_MASK_ALL, zero) == 0);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, 3, data) == 128);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, LH_MASK_ALL, data) == 62 * 64);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, LH_MASK_ALL, data) == 0);
	data[0] = 2;
	data[63] = 0;
	data[4095] = 9;
	EXPECT(suite_changed(store, LH_OP_PUT, 1, 1, data) == 2);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, LH_MASK_ALL, data) == 1);
	EXPECT((clone = suite_clone(suite, store)) != NULL);
	/* Lines that are not given become zero; one byte of the first is that already. */
	EXPECT(suite_changed(clone, LH_OP_REPLACE, 1, 0xf0, data) == 59 * 64 + 63);
	EXPECT(suite_changed(clone, LH_OP_REPLACE, 1, LH_MASK_ALL, data) == 59 * 64 + 63);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, 7, zero) == 3 * 64 - 1);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, LH_MASK_ALL, zero) == 61 * 64);
	EXPECT(suite_changed(store, LH_OP_PUT, 1, LH_MASK_ALL, data) == 4095);
	EXPECT(suite_do(store, LH_OP_DROP, 1, 0, NULL) == 0);
	EXPECT(suite_changed(store, LH_OP_REPLACE, 1, 6, data) == 128);
	EXPECT(suite_changed(store, LH_OP_REPLACE, 1, 0, data) == 128);
	EXPECT(suite_changed(clone, LH_OP_PUT, 1, LH_MASK_ALL, data) == 0);
	return NULL;
}

static const char *case_page_numbers(struct suite *suite, struct lh_store *store)
{
	const uint64_t last = suite_last(suite, store);
	const uint64_t all[] = { 0,
		                 1,
		                 63,
		                 64,
		                 511,
		                 512,
		                 32767,
		                 32768,
		                 32769,
		                 (UINT64_C(1) << 24) - 1,
		                 UINT64_C(1) << 24,
		                 UINT64_C(1) << 33 };
	uint64_t pages[16];
	unsigned i, j, n = 0;

	for (i = 0; i < sizeof all / sizeof *all; i++)
		if (all[i] < last - 1)
			pages[n++] = all[i];
	pages[n++] = last - 1;
	pages[n++] = last;
	for (i = 0; i < n; i++) {
		EXPECT(suite_put(store, LH_OP_PUT, pages[n - 1 - i], lh__mask_line(i), 1) == 0);
		for (j = 0; j < n; j++)
			TRY(suite_expect(suite, store, pages[n - 1 - j], LH_MASK_ALL,
			                 j <= i ? lh__mask_line(j) : LH_MASK_NONE, 1));
	}
	return NULL;
}

static const char *case_bad_requests(struct suite *suite, struct lh_store *store)
{
	static const enum lh_op ops[] = { LH_OP_GET, LH_OP_PUT, LH_OP_REPLACE, LH_OP_DROP };
	unsigned char data[LH_PAGE_SIZE];
	lh_mask held = 77;
	unsigned i;

	memset(data, POISON, sizeof data);
	EXPECT(suite_put(store, LH_OP_PUT, 0, LH_MASK_ALL, 1) == 0);
	for (i = 0; i < 4; i++) {
		EXPECT(suite_do(store, ops[i], lh__store_last_page(store) + 1, LH_MASK_ALL, data) == -EINVAL);
		EXPECT(suite_do(store, ops[i], UINT64_MAX, 1, data) == -EINVAL);
	}
	EXPECT(suite_do(store, (enum lh_op)0, 0, LH_MASK_ALL, data) == -EINVAL);
	EXPECT(suite_do(store, (enum lh_op)99, 0, LH_MASK_ALL, data) == -EINVAL);
	EXPECT(store->ops->get_now(store, lh__store_last_page(store) + 1, LH_MASK_ALL, data, &held) ==
	       -EINVAL);
	EXPECT(held == 77);
	TRY(suite_check(suite, data, LH_MASK_NONE, LH_MASK_NONE, data));
	TRY(suite_expect(suite, store, 0, LH_MASK_ALL, LH_MASK_ALL, 1));
	return NULL;
}

/* Whether anybody asks for what a put has changed is nothing that its content depends on. */
static const char *case_uncounted(struct suite *suite, struct lh_store *store)
{
	const unsigned flags = LH_REQUEST_UNCOUNTED;

	EXPECT(suite_put_flags(store, LH_OP_PUT, 1, 0x0ff0, 1, flags) == 0);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, 0x0ff0, 1));
	EXPECT(suite_put_flags(store, LH_OP_PUT, 1, 0xf00000000000000f, 1, flags) == 0);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, 0xf000000000000fff, 1));
	EXPECT(suite_put_flags(store, LH_OP_PUT, 1, 0x00f0, 2, flags) == 0);
	TRY(suite_expect(suite, store, 1, 0x00f0, 0x00f0, 2));
	TRY(suite_expect(suite, store, 1, 0xf000000000000f0f, LH_MASK_ALL, 1));
	EXPECT(suite_put_flags(store, LH_OP_PUT, 1, LH_MASK_NONE, 3, flags) == 0);
	EXPECT(suite_put_flags(store, LH_OP_REPLACE, 1, 0x8000000000000100, 3, flags) == 0);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, 0x8000000000000100, 3));
	EXPECT(suite_put_flags(store, LH_OP_REPLACE, 1, LH_MASK_NONE, 3, flags) == 0);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, LH_MASK_NONE, 3));
	EXPECT(suite_put_flags(store, LH_OP_REPLACE, 1, LH_MASK_ALL, 4, flags) == 0);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, LH_MASK_ALL, 4));
	return NULL;
}

/* What a log does: lines one after the other, over the borders of pages, in one submit; and some others. */
static const char *log_lines(struct suite *suite, struct lh_store *store, unsigned flags)
{
	enum { PAGES = 5, N = PAGES + 2 };
	static unsigned char data[N][LH_PAGE_SIZE];
	struct lh_request request[N], *pointer[N];
	unsigned i;

	for (i = 0; i < N; i++) {
		request[i] =
			(struct lh_request){ .op = LH_OP_PUT, .flags = flags, .data = data[i], .result = 1 };
		request[i].page = i < PAGES ? 20 + i : 20;
		request[i].mask = LH_MASK_ALL;
		pointer[i] = &request[i];
		suite_fill(data[i], request[i].page, LH_MASK_ALL, 1);
	}
	request[0].mask = LH_MASK_ALL << 40;
	request[PAGES - 1].mask = 0x7f;
	/* A later one overwrites, and a GET stands before it. */
	request[PAGES].op = LH_OP_GET;
	request[PAGES].flags = 0;
	memset(data[PAGES], POISON, LH_PAGE_SIZE);
	request[PAGES + 1].mask = lh__mask_line(40);
	suite_fill(data[PAGES + 1], 20, LH_MASK_ALL, 2);
	EXPECT(store->ops->submit(store, pointer, N) == 0);
	TRY(suite_collect(suite, store, N));
	for (i = 0; i < N; i++)
		EXPECT(request[i].result == 0);
	EXPECT(request[PAGES].mask == LH_MASK_ALL << 40);
	TRY(suite_check(suite, data[PAGES], LH_MASK_ALL, LH_MASK_ALL << 40, data[0]));
	TRY(suite_expect(suite, store, 20, LH_MASK_ALL << 41, LH_MASK_ALL, 1));
	TRY(suite_expect(suite, store, 20, ~(LH_MASK_ALL << 41), lh__mask_line(40), 2));
	for (i = 1; i < PAGES - 1; i++)
		TRY(suite_expect(suite, store, 20 + i, LH_MASK_ALL, LH_MASK_ALL, 1));
	TRY(suite_expect(suite, store, 20 + i, LH_MASK_ALL, 0x7f, 1));
	return NULL;
}

/* Every store takes the flag, whether or not it can do anything for it. */
static const char *case_durable(struct suite *suite, struct lh_store *store)
{
	uint64_t i;

	EXPECT(suite_put_flags(store, LH_OP_PUT, 1, 0xf0f0, 1, LH_REQUEST_DURABLE) == 0);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, 0xf0f0, 1));
	EXPECT(suite_put_flags(store, LH_OP_PUT, 1, 0xf0f0, 1, LH_REQUEST_DURABLE) == 0);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, 0xf0f0, 1));
	for (i = 20; i < 25; i++)
		EXPECT(suite_do(store, LH_OP_DROP, i, 0, NULL) == 0);
	TRY(log_lines(suite, store, LH_REQUEST_DURABLE));
	for (i = 20; i < 25; i++)
		EXPECT(suite_do(store, LH_OP_DROP, i, 0, NULL) == 0);
	TRY(log_lines(suite, store, LH_REQUEST_DURABLE | LH_REQUEST_UNCOUNTED));
	return NULL;
}

/* To make room changes no content, also where the pages are written, dropped and written again. */
static const char *case_reserve(struct suite *suite, struct lh_store *store)
{
	const lh_mask mask = 0x00ff0000000000ff;
	uint64_t i;

	EXPECT(store->ops->reserve(store, 0) == 0);
	for (i = 0; i < 40; i += 3)
		EXPECT(suite_put(store, LH_OP_PUT, i, mask, 1) == 0);
	EXPECT(store->ops->reserve(store, 20) == 0);
	EXPECT(store->ops->reserve(store, 10) == 0);
	for (i = 0; i < 45; i++)
		TRY(suite_expect(suite, store, i, LH_MASK_ALL, i < 40 && i % 3 == 0 ? mask : 0, 1));
	for (i = 0; i < 40; i += 6)
		EXPECT(suite_do(store, LH_OP_DROP, i, 0, NULL) == 0);
	EXPECT(suite_put(store, LH_OP_REPLACE, 9, LH_MASK_NONE, 1) == 0);
	EXPECT(suite_put(store, LH_OP_REPLACE, 15, 0xf, 2) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 19, 0xf, 2) == 0);
	EXPECT(store->ops->reserve(store, 60) == 0);
	for (i = 0; i < 60; i += 6)
		TRY(suite_expect(suite, store, i, LH_MASK_ALL, LH_MASK_NONE, 1));
	TRY(suite_expect(suite, store, 3, LH_MASK_ALL, mask, 1));
	TRY(suite_expect(suite, store, 9, LH_MASK_ALL, LH_MASK_NONE, 1));
	TRY(suite_expect(suite, store, 15, LH_MASK_ALL, 0xf, 2));
	TRY(suite_expect(suite, store, 19, LH_MASK_ALL, 0xf, 2));
	EXPECT(suite_put(store, LH_OP_PUT, 0, 1, 3) == 0);
	TRY(suite_expect(suite, store, 0, LH_MASK_ALL, 1, 3));
	return NULL;
}

/* ---- cases: pages that stand in memory ---- */

static const char *direct_agrees(struct suite *suite, struct lh_store *store, unsigned char *second)
{
	const struct lh_direct *direct = store->direct;
	unsigned char *base = direct->base, expected[LH_PAGE_SIZE];

	/* What a request puts stands in the memory; what is written there is what a request reads. */
	suite_fill(expected, 2, LH_MASK_ALL, 1);
	EXPECT(suite_put(store, LH_OP_PUT, 2, 0xff, 1) == 0);
	EXPECT(memcmp(base + 2 * LH_PAGE_SIZE, expected, 512) == 0);
	EXPECT(memcmp(second, expected, 512) == 0);
	suite_fill(base + 2 * LH_PAGE_SIZE, 2, 0xf00, 1);
	direct->flush(direct, base + 2 * LH_PAGE_SIZE + 512, 256);
	suite_fill(second, 2, 0xf000, 1);
	direct->flush(direct, second + 768 + 1, 255);
	direct->fence(direct);
	TRY(suite_expect(suite, store, 2, LH_MASK_ALL, 0xffff, 1));
	EXPECT(memcmp(base + 2 * LH_PAGE_SIZE, second, LH_PAGE_SIZE) == 0);
	EXPECT(suite_put(store, LH_OP_REPLACE, 2, 0x1, 2) == 0);
	suite_fill(expected, 2, LH_MASK_ALL, 2);
	lh__lines_zero(expected, ~(lh_mask)1);
	EXPECT(memcmp(second, expected, LH_PAGE_SIZE) == 0);
	EXPECT(suite_do(store, LH_OP_DROP, 2, 0, NULL) == 0);
	memset(expected, 0, sizeof expected);
	EXPECT(memcmp(second, expected, LH_PAGE_SIZE) == 0);
	return NULL;
}

static const char *case_direct(struct suite *suite, struct lh_store *store)
{
	const struct lh_direct *direct = store->direct;
	const size_t size = 4 * LH_PAGE_SIZE;
	const char *result;
	void *base, *second;

	if (!direct)
		return NULL;
	EXPECT(store->ops->reserve(store, 8) == 0);
	EXPECT(direct->pages >= 8 && direct->base && direct->flush && direct->fence && direct->map);
	base = direct->base;
	second = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	EXPECT(second != MAP_FAILED);
	EXPECT(direct->map(direct, direct->pages - 1, 2, second) == -EINVAL);
	EXPECT(direct->map(direct, 2, 4, second) == 0);
	result = direct_agrees(suite, store, second);
	munmap(second, size);
	if (result)
		return result;
	EXPECT(store->ops->reserve(store, 64) == 0);
	EXPECT(direct->pages >= 64 && direct->base == base && store->direct == direct);
	suite_fill((char *)base + 63 * LH_PAGE_SIZE, 63, LH_MASK_ALL, 1);
	TRY(suite_expect(suite, store, 63, LH_MASK_ALL, LH_MASK_ALL, 1));
	return NULL;
}

static const char *case_sync(struct suite *suite, struct lh_store *store)
{
	EXPECT(store->ops->sync(store) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 1, 3, 1) == 0);
	EXPECT(store->ops->sync(store) == 0);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, 3, 1));
	return NULL;
}

/* ---- cases: several requests ---- */

static const char *case_put_has_read(struct suite *suite, struct lh_store *store)
{
	unsigned char data[2][LH_PAGE_SIZE];
	struct lh_request put[2] = { { .op = LH_OP_PUT, .page = 5, .mask = LH_MASK_ALL, .data = data[0] },
		                     { .op = LH_OP_REPLACE, .page = 6, .mask = 0xff, .data = data[1] } };
	struct lh_request *const both[2] = { &put[0], &put[1] };

	suite_fill(data[0], 5, LH_MASK_ALL, 1);
	suite_fill(data[1], 6, LH_MASK_ALL, 1);
	EXPECT(store->ops->submit(store, both, 2) == 0);
	memset(data, POISON, sizeof data);
	TRY(suite_collect(suite, store, 2));
	EXPECT(put[0].result == 0 && put[1].result == 0);
	TRY(suite_expect(suite, store, 5, LH_MASK_ALL, LH_MASK_ALL, 1));
	TRY(suite_expect(suite, store, 6, LH_MASK_ALL, 0xff, 1));
	return NULL;
}

/* One page: what each GET sees is decided by the requests submitted before it, in one batch or in several. */
static const char *order(struct suite *suite, struct lh_store *store, uint64_t page, size_t batch)
{
	enum { N = 60 };
	static unsigned char data[N][LH_PAGE_SIZE], expected[LH_PAGE_SIZE];
	struct lh_request request[N], *pointer[N];
	lh_mask held[N], now = 0;
	uint64_t version[N], latest = 0;
	size_t i;

	for (i = 0; i < N; i++) {
		static const enum lh_op ops[] = { LH_OP_PUT, LH_OP_GET,  LH_OP_REPLACE,
			                          LH_OP_GET, LH_OP_DROP, LH_OP_GET };

		request[i] =
			(struct lh_request){ .op = ops[i % 6], .page = page, .data = data[i], .result = 1 };
		request[i].mask = request[i].op == LH_OP_GET ? LH_MASK_ALL : lh__mask_range(i % 50, 9);
		pointer[i] = &request[i];
		memset(data[i], POISON, LH_PAGE_SIZE);
		if (request[i].op == LH_OP_PUT || request[i].op == LH_OP_REPLACE)
			suite_fill(data[i], page, LH_MASK_ALL, latest = i);
		/* A PUT follows a DROP or nothing, so that one version is all that is held. */
		if (request[i].op != LH_OP_GET)
			now = request[i].op == LH_OP_DROP ? LH_MASK_NONE : request[i].mask;
		held[i] = now;
		version[i] = latest;
	}
	for (i = 0; i < N; i += batch)
		EXPECT(store->ops->submit(store, pointer + i, batch) == 0);
	TRY(suite_collect(suite, store, N));
	for (i = 0; i < N; i++) {
		EXPECT(request[i].result == 0);
		if (request[i].op != LH_OP_GET)
			continue;
		EXPECT(request[i].mask == held[i]);
		suite_fill(expected, page, LH_MASK_ALL, version[i]);
		TRY(suite_check(suite, data[i], LH_MASK_ALL, held[i], expected));
	}
	return NULL;
}

static const char *case_order_on_one_page(struct suite *suite, struct lh_store *store)
{
	TRY(order(suite, store, 1, 60));
	TRY(order(suite, store, 2, 1));
	TRY(order(suite, store, 3, 4));
	return NULL;
}

#define FLIGHT 4096

static const char *flight(struct suite *suite, struct lh_store *store, struct lh_request *request,
                          unsigned char *data)
{
	struct lh_request *pointer[64];
	size_t i, j;

	for (i = 0; i < FLIGHT; i += 64) {
		for (j = 0; j < 64; j++) {
			uint64_t page = (i + j) * 7 % FLIGHT;

			request[i + j] =
				(struct lh_request){ .op = LH_OP_PUT, .page = page, .mask = LH_MASK_ALL };
			request[i + j].data = data + (i + j) * LH_PAGE_SIZE;
			suite_fill(request[i + j].data, page, LH_MASK_ALL, 1);
			pointer[j] = &request[i + j];
		}
		EXPECT(store->ops->submit(store, pointer, 64) == 0);
	}
	TRY(suite_collect(suite, store, FLIGHT));
	memset(data, POISON, (size_t)FLIGHT * LH_PAGE_SIZE);
	for (i = 0; i < FLIGHT; i += 64) {
		for (j = 0; j < 64; j++) {
			EXPECT(request[i + j].result == 0);
			request[i + j].op = LH_OP_GET;
			request[i + j].mask = 0xffffffff;
			request[i + j].user = NULL;
			pointer[j] = &request[i + j];
		}
		EXPECT(store->ops->submit(store, pointer, 64) == 0);
	}
	TRY(suite_collect(suite, store, FLIGHT));
	for (i = 0; i < FLIGHT; i++) {
		unsigned char expected[LH_PAGE_SIZE];

		suite_fill(expected, request[i].page, LH_MASK_ALL, 1);
		EXPECT(request[i].result == 0 && request[i].mask == 0xffffffff);
		TRY(suite_check(suite, request[i].data, 0xffffffff, LH_MASK_ALL, expected));
	}
	return NULL;
}

static const char *case_thousands_in_flight(struct suite *suite, struct lh_store *store)
{
	/* Static, since on failure requests may still be in flight. */
	static struct lh_request request[FLIGHT];
	static unsigned char data[FLIGHT * LH_PAGE_SIZE];

	return flight(suite, store, request, data);
}

static const char *case_many_at_once(struct suite *suite, struct lh_store *store)
{
	enum { N = 2000 };
	static unsigned char data[LH_PAGE_SIZE];
	static struct lh_request request[N], *pointer[N];
	size_t i;

	suite_fill(data, 1, LH_MASK_ALL, 1);
	for (i = 0; i < N; i++) {
		request[i] = (struct lh_request){ .op = LH_OP_PUT, .page = i % 3, .mask = 1, .data = data };
		pointer[i] = &request[i];
	}
	EXPECT(store->ops->submit(store, pointer, N) == 0);
	TRY(suite_collect(suite, store, N));
	EXPECT(store->ops->submit(store, pointer, 0) == 0);
	EXPECT(store->ops->poll(store, pointer, 1, 0) == 0);
	return NULL;
}

static uint64_t suite_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static const char *case_poll(struct suite *suite, struct lh_store *store)
{
	unsigned char data[3][LH_PAGE_SIZE];
	struct lh_request request[3], *pointer[3] = { &request[0], &request[1], &request[2] }, *done[3];
	uint64_t start = suite_now_ms();
	size_t i;

	/* With nothing in flight there is nothing to wait for. */
	EXPECT(store->ops->poll(store, done, 3, 0) == 0);
	EXPECT(store->ops->poll(store, done, 3, 10000) == 0);
	EXPECT(store->ops->poll(store, done, 3, -1) == 0);
	EXPECT(suite_now_ms() - start < 9000);
	for (i = 0; i < 3; i++) {
		suite_fill(data[i], i, LH_MASK_ALL, 1);
		request[i] = (struct lh_request){ .op = LH_OP_PUT, .page = i, .mask = 1, .data = data[i] };
	}
	EXPECT(store->ops->submit(store, pointer, 3) == 0);
	EXPECT(store->ops->poll(store, done, 0, 0) == 0);
	EXPECT(store->ops->poll(store, done, 1, -1) == 1);
	EXPECT(store->ops->poll(store, done + 1, 1, SUITE_POLL_MS) == 1);
	EXPECT(store->ops->poll(store, done + 2, 1, SUITE_POLL_MS) == 1);
	EXPECT(done[0] != done[1] && done[1] != done[2] && done[0] != done[2]);
	EXPECT(store->ops->poll(store, done, 3, -1) == 0);
	return NULL;
}

/* Closing abandons what is in flight: nothing is written to a buffer any more once close has returned. */
static const char *case_close_in_flight(struct suite *suite, struct lh_store *store)
{
	static unsigned char data[100][LH_PAGE_SIZE];
	struct lh_request request[100], *pointer[100];
	struct lh_store *other = suite_open(suite);
	size_t i;

	EXPECT(other);
	for (i = 0; i < 100; i++) {
		request[i] = (struct lh_request){ .op = i & 1 ? LH_OP_GET : LH_OP_PUT,
			                          .page = i / 2,
			                          .data = data[i] };
		request[i].mask = LH_MASK_ALL;
		suite_fill(data[i], i, LH_MASK_ALL, 1);
		pointer[i] = &request[i];
	}
	EXPECT(other->ops->submit(other, pointer, 100) == 0);
	suite_close(suite, other);
	memset(data, POISON, sizeof data);
	TRY(suite_expect(suite, store, 1, LH_MASK_ALL, LH_MASK_NONE, 1));
	for (i = 0; i < 100; i++)
		TRY(suite_check(suite, data[i], LH_MASK_NONE, LH_MASK_NONE, data[i]));
	return NULL;
}

/* ---- cases: clones ---- */

static const char *case_clone_isolation(struct suite *suite, struct lh_store *store)
{
	struct lh_store *clone;
	uint64_t i;

	for (i = 0; i < 200; i++)
		EXPECT(suite_put(store, LH_OP_PUT, i, LH_MASK_ALL, 1) == 0);
	EXPECT((clone = suite_clone(suite, store)) != NULL);
	EXPECT(lh__store_check(clone) == 0);
	for (i = 0; i < 200; i++)
		TRY(suite_expect(suite, clone, i, LH_MASK_ALL, LH_MASK_ALL, 1));
	/* Every kind of change, in both directions, on pages of their own and on the same page. */
	EXPECT(suite_put(store, LH_OP_PUT, 1, 0xff, 2) == 0);
	EXPECT(suite_put(store, LH_OP_REPLACE, 2, 0xff, 2) == 0);
	EXPECT(suite_do(store, LH_OP_DROP, 3, 0, NULL) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 300, 0xff, 2) == 0);
	EXPECT(suite_put(clone, LH_OP_PUT, 11, 0xff, 3) == 0);
	EXPECT(suite_put(clone, LH_OP_REPLACE, 12, 0xff, 3) == 0);
	EXPECT(suite_do(clone, LH_OP_DROP, 13, 0, NULL) == 0);
	EXPECT(suite_put(clone, LH_OP_PUT, 301, 0xff, 3) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 20, 0x0f, 4) == 0);
	EXPECT(suite_put(clone, LH_OP_PUT, 20, 0xf0, 5) == 0);
	for (i = 1; i <= 3; i++)
		TRY(suite_expect(suite, clone, i, LH_MASK_ALL, LH_MASK_ALL, 1));
	TRY(suite_expect(suite, clone, 300, LH_MASK_ALL, LH_MASK_NONE, 1));
	for (i = 11; i <= 13; i++)
		TRY(suite_expect(suite, store, i, LH_MASK_ALL, LH_MASK_ALL, 1));
	TRY(suite_expect(suite, store, 301, LH_MASK_ALL, LH_MASK_NONE, 1));
	TRY(suite_expect(suite, store, 1, 0xff, 0xff, 2));
	TRY(suite_expect(suite, store, 2, LH_MASK_ALL, 0xff, 2));
	TRY(suite_expect(suite, store, 3, LH_MASK_ALL, LH_MASK_NONE, 2));
	TRY(suite_expect(suite, clone, 12, LH_MASK_ALL, 0xff, 3));
	TRY(suite_expect(suite, store, 20, 0x0f, 0x0f, 4));
	TRY(suite_expect(suite, store, 20, ~(lh_mask)0x0f, LH_MASK_ALL, 1));
	TRY(suite_expect(suite, clone, 20, 0xf0, 0xf0, 5));
	TRY(suite_expect(suite, clone, 20, ~(lh_mask)0xf0, LH_MASK_ALL, 1));
	return NULL;
}

static const char *case_clones_of_clones(struct suite *suite, struct lh_store *store)
{
	const uint64_t used = suite_used(suite);
	struct lh_store *chain[4] = { store };
	uint64_t i, j;

	EXPECT(suite_put(store, LH_OP_PUT, 7, LH_MASK_ALL, 10) == 0);
	for (i = 1; i < 4; i++) {
		EXPECT((chain[i] = suite_clone(suite, chain[i - 1])) != NULL);
		EXPECT(suite_put(chain[i], LH_OP_PUT, 7, LH_MASK_ALL, 10 + i) == 0);
		EXPECT(suite_put(chain[i], LH_OP_PUT, 100 + i, 1, 10 + i) == 0);
	}
	for (i = 0; i < 4; i++)
		for (j = 1; j < 4; j++)
			TRY(suite_expect(suite, chain[i], 100 + j, LH_MASK_ALL, j <= i, 10 + j));
	/* The ones in the middle go first; those at the ends do not notice. */
	suite_close(suite, chain[1]);
	suite_close(suite, chain[2]);
	EXPECT(suite_put(store, LH_OP_PUT, 7, 1, 20) == 0);
	TRY(suite_expect(suite, chain[3], 7, LH_MASK_ALL, LH_MASK_ALL, 13));
	TRY(suite_expect(suite, store, 7, ~(lh_mask)1, LH_MASK_ALL, 10));
	suite_close(suite, chain[3]);
	EXPECT(suite_do(store, LH_OP_DROP, 7, 0, NULL) == 0);
	EXPECT(suite_used(suite) == used);
	return NULL;
}

static const char *case_clone_outlives(struct suite *suite, struct lh_store *store)
{
	struct lh_store *first = suite_open(suite), *clone;
	uint64_t i;

	EXPECT(first);
	for (i = 0; i < 100; i++)
		EXPECT(suite_put(first, LH_OP_PUT, i * 1000, 0x10, 1) == 0);
	EXPECT((clone = suite_clone(suite, first)) != NULL);
	EXPECT(suite_put(first, LH_OP_PUT, 0, 0x10, 2) == 0);
	suite_close(suite, first);
	for (i = 0; i < 100; i++)
		TRY(suite_expect(suite, clone, i * 1000, LH_MASK_ALL, 0x10, 1));
	EXPECT(suite_put(clone, LH_OP_PUT, 5000, 0x20, 1) == 0);
	TRY(suite_expect(suite, clone, 5000, LH_MASK_ALL, 0x30, 1));
	TRY(suite_expect(suite, store, 5000, LH_MASK_ALL, 0, 1));
	return NULL;
}

static const char *case_clone_shares(struct suite *suite, struct lh_store *store)
{
	struct lh_store *clone;
	uint64_t i, used;

	for (i = 0; i < 300; i++)
		EXPECT(suite_put(store, LH_OP_PUT, i, LH_MASK_ALL, 1) == 0);
	used = suite_used(suite);
	EXPECT((clone = suite_clone(suite, store)) != NULL);
	EXPECT(suite_used(suite) == used);
	EXPECT(suite_put(clone, LH_OP_PUT, 17, 1, 2) == 0);
	if (suite->factory->used)
		EXPECT(suite_used(suite) == used + LH_PAGE_SIZE);
	suite_close(suite, clone);
	EXPECT(suite_used(suite) == used);
	return NULL;
}

static const char *case_clone_busy(struct suite *suite, struct lh_store *store)
{
	unsigned char data[LH_PAGE_SIZE];
	struct lh_request put = { .op = LH_OP_PUT, .page = 1, .mask = 1, .data = data }, *one = &put;
	struct lh_store *clone = (struct lh_store *)data;
	struct lh_error error = { .code = 0 };
	int result;

	suite_fill(data, 1, LH_MASK_ALL, 1);
	EXPECT(store->ops->submit(store, &one, 1) == 0);
	result = store->ops->clone(store, &clone, &error);
	if (result == 0)
		(void)suite_keep(suite, clone);
	EXPECT(result == -EBUSY);
	EXPECT(clone == (struct lh_store *)data);
	EXPECT(error.code == -EBUSY && error.text[0] != 0);
	EXPECT(store->ops->clone(store, &clone, NULL) == -EBUSY);
	TRY(suite_collect(suite, store, 1));
	EXPECT(suite_clone(suite, store) != NULL);
	return NULL;
}

/* ---- cases: a full store ---- */

static const char *case_full(struct suite *suite, struct lh_store *unused)
{
	struct lh_store *store = suite_keep(suite, suite->factory->open_small(suite->factory->context, 10));
	unsigned char zero[LH_PAGE_SIZE] = { 0 };
	uint64_t i;

	EXPECT(store);
	for (i = 0; i < 10; i++)
		EXPECT(suite_put(store, LH_OP_PUT, i * 100, 0xff, 1) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 5, 1, 2) == -ENOSPC);
	EXPECT(suite_put(store, LH_OP_REPLACE, 5000, 1, 2) == -ENOSPC);
	TRY(suite_expect(suite, store, 5, LH_MASK_ALL, LH_MASK_NONE, 1));
	TRY(suite_expect(suite, store, 5000, LH_MASK_ALL, LH_MASK_NONE, 1));
	/* What is held may change, zero pages need no room, and room that is given back can be used. */
	EXPECT(suite_do(store, LH_OP_PUT, 5, LH_MASK_ALL, zero) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 0, 0xff00, 1) == 0);
	EXPECT(suite_put(store, LH_OP_REPLACE, 100, 0x0f, 3) == 0);
	TRY(suite_expect(suite, store, 0, LH_MASK_ALL, 0xffff, 1));
	TRY(suite_expect(suite, store, 100, LH_MASK_ALL, 0x0f, 3));
	EXPECT(suite_do(store, LH_OP_DROP, 200, 0, NULL) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 5, 1, 2) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 6, 1, 2) == -ENOSPC);
	TRY(suite_expect(suite, store, 5, LH_MASK_ALL, 1, 2));
	for (i = 3; i < 10; i++)
		TRY(suite_expect(suite, store, i * 100, LH_MASK_ALL, 0xff, 1));
	return NULL;
}

static const char *case_full_clone(struct suite *suite, struct lh_store *unused)
{
	struct lh_store *store = suite_keep(suite, suite->factory->open_small(suite->factory->context, 4));
	struct lh_store *clone;
	uint64_t i;

	EXPECT(store);
	for (i = 0; i < 4; i++)
		EXPECT(suite_put(store, LH_OP_PUT, i, 0xff, 1) == 0);
	EXPECT((clone = suite_clone(suite, store)) != NULL);
	/* A clone takes no room; changing what it shares does. */
	EXPECT(suite_put(clone, LH_OP_PUT, 2, 0x0f, 2) == -ENOSPC);
	EXPECT(suite_put(store, LH_OP_REPLACE, 2, 0x0f, 2) == -ENOSPC);
	for (i = 0; i < 4; i++) {
		TRY(suite_expect(suite, clone, i, LH_MASK_ALL, 0xff, 1));
		TRY(suite_expect(suite, store, i, LH_MASK_ALL, 0xff, 1));
	}
	EXPECT(suite_do(clone, LH_OP_DROP, 0, 0, NULL) == 0);
	EXPECT(suite_do(store, LH_OP_DROP, 0, 0, NULL) == 0);
	EXPECT(suite_put(clone, LH_OP_PUT, 2, 0x0f, 2) == 0);
	TRY(suite_expect(suite, clone, 2, 0x0f, 0x0f, 2));
	TRY(suite_expect(suite, store, 2, LH_MASK_ALL, 0xff, 1));
	return NULL;
}

/* Room that was made cannot be taken by others, and who drops a page there keeps it. */
static const char *case_full_reserve(struct suite *suite, struct lh_store *unused)
{
	struct lh_store *store = suite_keep(suite, suite->factory->open_small(suite->factory->context, 10));
	uint64_t i, others;

	EXPECT(store);
	if (!suite->factory->reserves)
		return NULL;
	EXPECT(suite_put(store, LH_OP_PUT, 3, 0xf, 1) == 0);
	EXPECT(store->ops->reserve(store, 6) == 0);
	EXPECT(store->ops->reserve(store, 1000) == -ENOSPC);
	for (others = 0; others < 20; others++)
		if (suite_put(store, LH_OP_PUT, 100 + others, 1, 1) != 0)
			break;
	EXPECT(others == 4);
	EXPECT(suite_do(store, LH_OP_DROP, 2, 0, NULL) == 0);
	EXPECT(suite_put(store, LH_OP_REPLACE, 3, LH_MASK_NONE, 1) == 0);
	EXPECT(suite_put(store, LH_OP_PUT, 50, 1, 1) == -ENOSPC);
	for (i = 0; i < 6; i++)
		EXPECT(suite_put(store, LH_OP_PUT, i, LH_MASK_ALL, 2) == 0);
	for (i = 0; i < 6; i++)
		TRY(suite_expect(suite, store, i, LH_MASK_ALL, LH_MASK_ALL, 2));
	for (i = 0; i < others; i++)
		TRY(suite_expect(suite, store, 100 + i, LH_MASK_ALL, 1, 1));
	return NULL;
}

/* ---- cases: several threads ---- */

#define READERS 3
#define SHARED_PAGES 8

struct readers {
	struct lh_store *store;
	uint64_t acknowledged[SHARED_PAGES];
	bool stop;
	unsigned long reads;
	const char *wrong;
};

/* A page whose put of version v is atomic holds nothing but words of v, and v never goes back. */
static void *read_all_the_time(void *argument)
{
	struct readers *readers = argument;
	uint64_t data[LH_PAGE_SIZE / 8];
	uint64_t page = 0;

	while (!__atomic_load_n(&readers->stop, __ATOMIC_ACQUIRE)) {
		uint64_t least;
		lh_mask held;
		size_t i;

		page = (page + 1) % SHARED_PAGES;
		least = __atomic_load_n(&readers->acknowledged[page], __ATOMIC_ACQUIRE);
		if (readers->store->ops->get_now(readers->store, page, LH_MASK_ALL, data, &held) != 0)
			__atomic_store_n(&readers->wrong, "get_now failed", __ATOMIC_RELAXED);
		if (data[0] < least)
			__atomic_store_n(&readers->wrong, "get_now gave older than acknowledged content",
			                 __ATOMIC_RELAXED);
		for (i = 1; i < LH_PAGE_SIZE / 8; i++)
			if (data[i] != data[0])
				__atomic_store_n(&readers->wrong, "get_now gave parts of two puts",
				                 __ATOMIC_RELAXED);
		__atomic_fetch_add(&readers->reads, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static const char *put_versions(struct suite *suite, struct readers *readers)
{
	const uint64_t end = suite_now_ms() + 400;
	uint64_t data[LH_PAGE_SIZE / 8];
	struct lh_store *clone = NULL;
	uint64_t version, page;
	size_t i;

	for (version = 1; version < 2000 || suite_now_ms() < end; version++) {
		for (i = 0; i < LH_PAGE_SIZE / 8; i++)
			data[i] = version;
		page = version % SHARED_PAGES;
		EXPECT(suite_do(readers->store, version & 8 ? LH_OP_PUT : LH_OP_REPLACE, page, LH_MASK_ALL,
		                data) == 0);
		__atomic_store_n(&readers->acknowledged[page], version, __ATOMIC_RELEASE);
		if (version % 512 == 0)
			EXPECT((clone = suite_clone(suite, readers->store)) != NULL);
		if (version % 512 == 100 && clone) {
			suite_close(suite, clone);
			clone = NULL;
		}
	}
	return NULL;
}

static const char *case_get_now_from_threads(struct suite *suite, struct lh_store *store)
{
	struct readers readers = { .store = store };
	pthread_t thread[READERS];
	const char *result;
	unsigned i;

	for (i = 0; i < READERS; i++)
		EXPECT(pthread_create(&thread[i], NULL, read_all_the_time, &readers) == 0);
	result = put_versions(suite, &readers);
	__atomic_store_n(&readers.stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < READERS; i++)
		EXPECT(pthread_join(thread[i], NULL) == 0);
	if (result)
		return result;
	EXPECT(readers.reads > 0);
	return readers.wrong;
}

/* ---- the randomised case: a store against a model of it ---- */

#define MODEL_PAGES 150
#define MODEL_STORES 3
#define MODEL_FLIGHT 16

struct model_page {
	lh_mask put;     /* lines put since the page was last replaced or dropped */
	lh_mask nonzero; /* those of them that are not zero: these must be held */
	unsigned char data[LH_PAGE_SIZE];
};

struct model {
	struct lh_store *store;
	struct model_page page[MODEL_PAGES];
};

struct model_flight {
	struct lh_request request;
	struct model_page expected; /* for a GET */
	uint32_t changed;           /* for a PUT or REPLACE */
	lh_mask want;
	unsigned char data[LH_PAGE_SIZE];
};

/* Numbers on both sides of the borders of likely tables. */
static uint64_t model_number(const struct suite *suite, const struct model *model, unsigned index)
{
	const uint64_t base[3] = { 40, 32768 - 25, suite_last(suite, model->store) - 49 };

	return base[index / 50] + index % 50;
}

static void model_apply(struct model_page *page, enum lh_op op, lh_mask mask, const void *data)
{
	lh_mask nonzero = lh__lines_nonzero(data, mask);

	if (op == LH_OP_GET)
		return;
	if (op != LH_OP_PUT) {
		memset(page->data, 0, LH_PAGE_SIZE);
		page->put = page->nonzero = LH_MASK_NONE;
	}
	if (op == LH_OP_DROP)
		return;
	lh__lines_copy(page->data, data, mask);
	page->put |= mask;
	page->nonzero = (page->nonzero & ~mask) | nonzero;
}

static uint32_t model_changed(const struct model_page *page, enum lh_op op, lh_mask mask,
                              const unsigned char *data)
{
	uint32_t bytes = 0;
	unsigned i;

	for (i = 0; i < LH_PAGE_SIZE; i++) {
		bool given = mask >> i / LH_LINE_SIZE & 1;

		bytes += page->data[i] != (given ? data[i] : op == LH_OP_REPLACE ? 0 : page->data[i]);
	}
	return bytes;
}

static const char *model_check(struct suite *suite, const struct model_page *page, lh_mask want, lh_mask held,
                               const unsigned char *data)
{
	EXPECT((held & ~(want & page->put)) == 0);
	EXPECT((want & page->nonzero & ~held) == 0);
	TRY(suite_check(suite, data, want, LH_MASK_ALL, page->data));
	return NULL;
}

static lh_mask model_mask(uint64_t *seed)
{
	switch (suite_random(seed) >> 61) {
	case 0: return LH_MASK_ALL;
	case 1: return suite_random(seed);
	case 2: return suite_random(seed) & suite_random(seed) & suite_random(seed);
	case 3: return LH_MASK_NONE;
	case 4: return lh__mask_line(suite_random(seed) >> 58);
	default: return lh__mask_range(suite_random(seed) >> 58, suite_random(seed) >> 58);
	}
}

static void model_content(uint64_t *seed, unsigned char *data)
{
	lh_mask zero = suite_random(seed) >> 62 ? suite_random(seed) & suite_random(seed) : LH_MASK_ALL;
	uint64_t word, i;

	for (i = 0; i < LH_PAGE_SIZE; i += 8) {
		word = suite_random(seed);
		memcpy(data + i, &word, 8);
	}
	lh__lines_zero(data, zero);
}

static unsigned model_flags(uint64_t *seed)
{
	unsigned flags = suite_random(seed) >> 62 ? 0 : LH_REQUEST_UNCOUNTED;

	return suite_random(seed) >> 58 ? flags : flags | LH_REQUEST_DURABLE;
}

static void model_request(struct suite *suite, struct model *model, struct model_flight *flight,
                          uint64_t *seed)
{
	static const enum lh_op ops[8] = { LH_OP_GET, LH_OP_GET, LH_OP_GET,     LH_OP_PUT,
		                           LH_OP_PUT, LH_OP_PUT, LH_OP_REPLACE, LH_OP_DROP };
	unsigned index = (unsigned)(suite_random(seed) >> 32) % MODEL_PAGES;

	flight->request =
		(struct lh_request){ .op = ops[suite_random(seed) >> 61], .data = flight->data, .result = 1 };
	flight->request.page = model_number(suite, model, index);
	flight->request.flags = model_flags(seed);
	flight->want = flight->request.mask = model_mask(seed);
	if (flight->request.op == LH_OP_GET)
		memset(flight->data, POISON, LH_PAGE_SIZE);
	else
		model_content(seed, flight->data);
	flight->expected = model->page[index];
	flight->changed = model_changed(&model->page[index], flight->request.op, flight->want, flight->data);
	model_apply(&model->page[index], flight->request.op, flight->want, flight->data);
}

/* Several requests in flight, submitted in one call or one by one. */
static const char *model_batch(struct suite *suite, struct model *model, uint64_t *seed)
{
	static struct model_flight flight[MODEL_FLIGHT];
	struct lh_request *pointer[MODEL_FLIGHT];
	size_t i, n = 1 + (suite_random(seed) >> 60), step = suite_random(seed) >> 63 ? n : 1;

	for (i = 0; i < n; i++) {
		model_request(suite, model, &flight[i], seed);
		pointer[i] = &flight[i].request;
	}
	for (i = 0; i < n; i += step)
		EXPECT(model->store->ops->submit(model->store, pointer + i, step) == 0);
	for (i = 0; i < n; i++) /* a put has read its data by now */
		if (flight[i].request.op != LH_OP_GET)
			memset(flight[i].data, POISON, LH_PAGE_SIZE);
	TRY(suite_collect(suite, model->store, n));
	for (i = 0; i < n; i++) {
		EXPECT(flight[i].request.result == 0);
		if (flight[i].request.op == LH_OP_GET)
			TRY(model_check(suite, &flight[i].expected, flight[i].want, flight[i].request.mask,
			                flight[i].data));
		if ((flight[i].request.op == LH_OP_PUT || flight[i].request.op == LH_OP_REPLACE) &&
		    !(flight[i].request.flags & LH_REQUEST_UNCOUNTED))
			EXPECT(flight[i].request.changed == flight[i].changed);
	}
	return NULL;
}

static const char *model_get_now(struct suite *suite, struct model *model, unsigned index, lh_mask want)
{
	unsigned char data[LH_PAGE_SIZE];
	lh_mask held;

	memset(data, POISON, sizeof data);
	EXPECT(model->store->ops->get_now(model->store, model_number(suite, model, index), want, data,
	                                  &held) == 0);
	TRY(model_check(suite, &model->page[index], want, held, data));
	return NULL;
}

/* A clone of one store takes the place of another. */
static const char *model_clone(struct suite *suite, struct model *models, uint64_t *seed)
{
	struct model *from = &models[(suite_random(seed) >> 32) % MODEL_STORES];
	struct model *to = &models[(suite_random(seed) >> 32) % MODEL_STORES];
	struct lh_store *clone;

	EXPECT((clone = suite_clone(suite, from->store)) != NULL);
	suite_close(suite, to->store);
	if (from != to)
		*to = *from;
	to->store = clone;
	return NULL;
}

static const char *model_run(struct suite *suite, struct model *models, uint64_t *seed, unsigned steps)
{
	unsigned i, j;

	for (i = 0; i < steps; i++) {
		struct model *model = &models[(suite_random(seed) >> 32) % MODEL_STORES];

		if (suite_random(seed) >> 55 == 0)
			TRY(model_clone(suite, models, seed));
		else if (suite_random(seed) >> 63)
			TRY(model_batch(suite, model, seed));
		else
			TRY(model_get_now(suite, model, (unsigned)(suite_random(seed) >> 32) % MODEL_PAGES,
			                  model_mask(seed)));
	}
	for (i = 0; i < MODEL_STORES; i++)
		for (j = 0; j < MODEL_PAGES; j++)
			TRY(model_get_now(suite, &models[i], j, LH_MASK_ALL));
	return NULL;
}

static uint64_t suite_seed(void)
{
	const char *given = getenv("LH_TEST_SEED");

	return given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 2654435761u ^ (uint64_t)getpid();
}

static const char *case_random_against_model(struct suite *suite, struct lh_store *store)
{
	static struct model models[MODEL_STORES];
	const char *steps = getenv("LH_TEST_STEPS");
	uint64_t seed = suite_seed() | 1, first = seed;
	const char *result;
	unsigned i;

	memset(models, 0, sizeof models);
	for (i = 0; i < MODEL_STORES; i++)
		EXPECT((models[i].store = i ? suite_open(suite) : store) != NULL);
	result = model_run(suite, models, &seed,
	                   steps                   ? (unsigned)strtoul(steps, NULL, 0)
	                   : suite->factory->steps ? suite->factory->steps
	                                           : 20000);
	if (result)
		printf("# LH_TEST_SEED=%llu shows it again\n", (unsigned long long)first);
	return result;
}

/* ---- running them ---- */

static const struct suite_case {
	const char *name;
	const char *(*run)(struct suite *suite, struct lh_store *store);
	bool small;  /* needs open_small */
	bool shares; /* needs clones that take no room */
} suite_cases[] = {
	{ "every slot is filled", case_slots, false, false },
	{ "a page that was never put reads as zero and is not held", case_empty, false, false },
	{ "partial masks", case_partial_masks, false, false },
	{ "every line alone", case_every_line_alone, false, false },
	{ "overlapping masks", case_overlapping_masks, false, false },
	{ "REPLACE makes the lines the whole content", case_replace, false, false },
	{ "DROP forgets the page", case_drop, false, false },
	{ "a page of zeroes is not stored", case_zero_pages, false, false },
	{ "what a change changes is counted to the byte", case_changed, false, false },
	{ "page numbers up to the largest", case_page_numbers, false, false },
	{ "a bad request gets EINVAL and changes nothing", case_bad_requests, false, false },
	{ "a put whose changes are not counted", case_uncounted, false, false },
	{ "a durable put", case_durable, false, false },
	{ "reserve changes no content", case_reserve, false, false },
	{ "pages in memory and requests agree", case_direct, false, false },
	{ "sync", case_sync, false, false },
	{ "a put has read its data when submit returns", case_put_has_read, false, false },
	{ "requests on one page take effect in order", case_order_on_one_page, false, false },
	{ "thousands of requests in flight", case_thousands_in_flight, false, false },
	{ "thousands of requests in one submit", case_many_at_once, false, false },
	{ "poll waits only where there is something to wait for", case_poll, false, false },
	{ "close abandons what is in flight", case_close_in_flight, false, false },
	{ "a clone and its original do not see each other's changes", case_clone_isolation, false, false },
	{ "clones of clones", case_clones_of_clones, false, false },
	{ "a clone outlives its original", case_clone_outlives, false, false },
	{ "a clone shares until written", case_clone_shares, false, false },
	{ "no clone while requests are in flight", case_clone_busy, false, false },
	{ "a full store changes nothing", case_full, true, false },
	{ "a full store and its clone", case_full_clone, true, true },
	{ "room that was reserved is there when the store is full", case_full_reserve, true, false },
	{ "get_now from several threads while puts go on", case_get_now_from_threads, false, false },
	{ "random requests against a model", case_random_against_model, false, false },
};

/* NULL where the case passed; else what did not hold, static until the next case. */
static const char *suite_run(const struct store_factory *factory, const struct suite_case *one)
{
	static struct suite suite;
	struct lh_store *store;
	const char *result = "the store could not be opened";
	unsigned i;

	suite = (struct suite){ .factory = factory };
	store = suite_open(&suite);
	if (store)
		result = one->run(&suite, store);
	for (i = SUITE_STORES; i-- > 0;)
		if (suite.open[i])
			suite_close(&suite, suite.open[i]);
	if (factory->finish)
		factory->finish(factory->context);
	return result;
}

/* Why a case is not for this store; NULL where it is. */
static const char *suite_skips(const struct store_factory *factory, const struct suite_case *one)
{
	if (one->small && !factory->open_small)
		return "this store has no limit of its own";
	return one->shares && factory->clone_copies ? "a clone of this store takes room of its own" : NULL;
}

/* Reports every case as one test. */
__attribute__((unused)) static void store_conformance(const struct store_factory *factory)
{
	size_t i;

	for (i = 0; i < sizeof suite_cases / sizeof *suite_cases; i++) {
		const char *wrong;
		char name[160];

		snprintf(name, sizeof name, "%s: %s", factory->name, suite_cases[i].name);
		if (suite_skips(factory, &suite_cases[i])) {
			skip(name, suite_skips(factory, &suite_cases[i]));
			continue;
		}
		wrong = suite_run(factory, &suite_cases[i]);
		if (wrong)
			printf("# %s\n", wrong);
		ok_at(wrong == NULL, "%s", name);
	}
}

/* The name of the first case that fails over this store, NULL where none does. */
__attribute__((unused)) static const char *store_conformance_catches(const struct store_factory *factory)
{
	size_t i;

	for (i = 0; i < sizeof suite_cases / sizeof *suite_cases; i++) {
		if (suite_skips(factory, &suite_cases[i]))
			continue;
		if (suite_run(factory, &suite_cases[i]))
			return suite_cases[i].name;
	}
	return NULL;
}

#endif
