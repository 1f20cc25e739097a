/*
 * migrate_order.c - orders: whatever happens meanwhile, every page is proposed once after a reset, and none
 * beyond the guest; what comes first in each policy. That the check sees an order that forgets a page, or
 * invents one, is shown too.
 */
#include <errno.h>
#include <time.h>

#include "line_random.h"
#include "service/migrate/order.h"
#include "tap.h"

static const char *const names[] = { "linear", "around", "recorded", "ptline", "none" };

static struct lh_order *open_order(enum lh_order_policy policy, uint64_t pages, const uint64_t *recorded,
                                   size_t n)
{
	struct lh_order_options options = { policy, pages, recorded, n };
	struct lh_order *order = NULL;

	if (lh__order_open(&options, &order, NULL) < 0)
		exit(1);
	return order;
}

static uint32_t random_below(uint64_t *random, uint32_t bound)
{
	return (uint32_t)((random_next(random) >> 32) * bound >> 32);
}

/* ---- every page once ---- */

struct check {
	uint64_t pages, proposed;
	unsigned char *had;
	unsigned wrong; /* proposals beyond the guest, or of pages that were proposed before */
};

static bool propose(struct lh_order *order, struct check *check)
{
	uint64_t page = UINT64_MAX;

	if (!order->ops->next(order, &page))
		return false;
	if (page >= check->pages || check->had[page])
		check->wrong++;
	else
		check->had[page] = 1;
	check->proposed++;
	return true;
}

static void miss(struct lh_order *order, uint64_t pages, uint64_t *random)
{
	static uint64_t near;
	uint64_t page, hint[70];
	size_t n = random_below(random, 70), i;

	near = random_below(random, 3) ? near + random_below(random, 40) : random_next(random);
	page = near % pages;
	order->ops->missed(order, page);
	for (i = 0; i < n; i++)
		hint[i] = random_below(random, (uint32_t)pages + 3);
	if (n > 0 && random_below(random, 2))
		order->ops->hinted(order, page, hint, n);
}

/* 0: every page was proposed once; else what was wrong. */
static long check_order(struct lh_order *order, uint64_t pages, uint64_t *random)
{
	struct check check = { .pages = pages, .had = calloc(1, pages) };
	unsigned rounds = random_below(random, 200);
	uint64_t i, missing = 0;

	while (rounds--) {
		for (i = random_below(random, 3); i > 0; i--)
			miss(order, pages, random);
		for (i = random_below(random, 90); i > 0; i--)
			propose(order, &check);
	}
	while (check.proposed < 2 * pages && propose(order, &check))
		;
	for (i = 0; i < pages; i++)
		missing += !check.had[i];
	free(check.had);
	return (long)(missing + check.wrong);
}

static void random_urgent(struct lh_pageset *urgent, uint64_t *random)
{
	unsigned i;

	lh__pageset_clear(urgent);
	for (i = random_below(random, 50); i > 0; i--)
		lh__pageset_add(urgent, random_below(random, (uint32_t)urgent->pages));
}

static long check_policy(enum lh_order_policy policy, uint64_t *random)
{
	uint64_t recorded[40], pages = 1 + random_below(random, random_below(random, 4) ? 300 : 9000);
	struct lh_pageset urgent = { pages, calloc(1, lh__pageset_bytes(pages)) };
	struct lh_order *order;
	unsigned i, resets = random_below(random, 3);
	long wrong;

	for (i = 0; i < 40; i++)
		recorded[i] = random_below(random, (uint32_t)pages);
	order = open_order(policy, pages, recorded, 40);
	wrong = check_order(order, pages, random);
	while (resets--) {
		random_urgent(&urgent, random);
		order->ops->reset(order, random_below(random, 2) ? &urgent : NULL);
		wrong += check_order(order, pages, random);
	}
	order->ops->close(order);
	free(urgent.word);
	return wrong;
}

static void test_all(void)
{
	uint64_t random = 4711;
	unsigned policy, i;
	long wrong;

	for (policy = LH_ORDER_LINEAR; policy < LH_ORDER_NONE; policy++) {
		wrong = 0;
		for (i = 0; i < 300; i++)
			wrong += check_policy(policy, &random);
		is(wrong, 0, "%s proposes every page once", names[policy]);
	}
}

/* ---- planted ---- */

struct broken {
	struct lh_order base;
	struct lh_order *under;
	uint64_t page, instead;
};

static void broken_missed(struct lh_order *order, uint64_t page)
{
	struct broken *broken = (struct broken *)order;

	broken->under->ops->missed(broken->under, page);
}

static void broken_hinted(struct lh_order *order, uint64_t page, const uint64_t *pages, size_t n)
{
	struct broken *broken = (struct broken *)order;

	broken->under->ops->hinted(broken->under, page, pages, n);
}

static bool broken_next(struct lh_order *order, uint64_t *page)
{
	struct broken *broken = (struct broken *)order;
	bool more = broken->under->ops->next(broken->under, page);

	if (more && *page == broken->page) {
		if (broken->instead == UINT64_MAX)
			return broken->under->ops->next(broken->under, page);
		*page = broken->instead;
	}
	return more;
}

static void test_planted(void)
{
	static const struct lh_order_ops ops = { .missed = broken_missed,
		                                 .hinted = broken_hinted,
		                                 .next = broken_next };
	struct broken broken = { .base = { &ops }, .page = UINT64_MAX, .instead = UINT64_MAX };
	uint64_t random = 99;

	broken.under = open_order(LH_ORDER_AROUND, 500, NULL, 0);
	is(check_order(&broken.base, 500, &random), 0, "nothing planted, nothing seen");
	broken.under->ops->reset(broken.under, NULL);
	broken.page = 250;
	is(check_order(&broken.base, 500, &random), 1, "planted: an order that forgets a page");
	broken.under->ops->reset(broken.under, NULL);
	broken.instead = 251;
	ok(check_order(&broken.base, 500, &random) > 0, "planted: one that proposes another in its place");
	broken.under->ops->reset(broken.under, NULL);
	broken.instead = 500;
	ok(check_order(&broken.base, 500, &random) > 0, "planted: one that invents a page");
	broken.under->ops->close(broken.under);
}

/* ---- what comes first ---- */

static bool comes(struct lh_order *order, const uint64_t *wanted, size_t n)
{
	uint64_t page;
	size_t i;

	for (i = 0; i < n; i++) {
		if (!order->ops->next(order, &page) || page != wanted[i]) {
			printf("# proposal %zu is %llu\n", i, (unsigned long long)page);
			return false;
		}
	}
	return true;
}
#define COMES(order, ...)                                                                                    \
	comes(order, (const uint64_t[]){ __VA_ARGS__ },                                                      \
	      sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

static void test_linear(void)
{
	struct lh_order *order = open_order(LH_ORDER_LINEAR, 100, NULL, 0);
	struct lh_pageset urgent = { 100, (uint64_t[2]){ 0 } };

	ok(COMES(order, 0, 1, 2), "linear ascends");
	order->ops->missed(order, 50);
	order->ops->hinted(order, 50, (const uint64_t[]){ 60 }, 1);
	ok(COMES(order, 3, 4), "whatever is missed");
	lh__pageset_add(&urgent, 70);
	lh__pageset_add(&urgent, 2);
	order->ops->reset(order, &urgent);
	ok(COMES(order, 2, 70, 0, 1, 3), "but what was written last at the source comes first");
	order->ops->close(order);
}

static void test_around(void)
{
	struct lh_order *order = open_order(LH_ORDER_AROUND, 10000, NULL, 0);
	struct lh_pageset urgent = { 10000, calloc(1, lh__pageset_bytes(10000)) };

	ok(COMES(order, 0, 1), "around ascends where nothing is missed");
	order->ops->missed(order, 5000);
	ok(COMES(order, 5001, 5002, 5003), "what follows a miss comes next");
	order->ops->missed(order, 9000);
	ok(COMES(order, 9001, 9002), "the newest miss first");
	lh__pageset_add(&urgent, 700);
	order->ops->reset(order, &urgent);
	ok(COMES(order, 700, 0, 1), "a reset forgets misses");
	order->ops->missed(order, 9999);
	order->ops->missed(order, 9998);
	ok(COMES(order, 9997, 9996), "misses that descend are followed downward");
	order->ops->missed(order, UINT64_MAX);
	order->ops->missed(order, 10000);
	ok(COMES(order, 9995), "a page that the guest does not have is no miss");
	order->ops->close(order);
	free(urgent.word);
}

/* A guest that is faster than what it is expected to touch comes in: the far end first. */
static void test_chased(void)
{
	struct lh_order *order = open_order(LH_ORDER_PTLINE, 10000, NULL, 0);

	order->ops->missed(order, 5000);
	ok(COMES(order, 5001, 5002), "windows are proposed from the miss on");
	order->ops->missed(order, 5001);
	ok(COMES(order, 5003), "one miss of what is on its way changes nothing");
	order->ops->missed(order, 5002);
	ok(COMES(order, 5016, 5015), "after the second the window comes from its far end");
	order->ops->missed(order, 5003);
	order->ops->hinted(order, 5003, (const uint64_t[]){ 100, 200, 300 }, 3);
	ok(COMES(order, 300, 200, 100, 5014), "and so do hints");
	order->ops->missed(order, 100);
	order->ops->missed(order, 9000);
	order->ops->missed(order, 700);
	ok(COMES(order, 701, 702), "until misses come where nothing was expected");
	order->ops->close(order);
}

static void test_recorded(void)
{
	static const uint64_t recorded[] = { 80, 20, 30 };
	struct lh_pageset urgent = { 100, (uint64_t[2]){ 0 } };
	struct lh_order_options wrong = { LH_ORDER_RECORDED, 30, recorded, 3 };
	struct lh_order *order = open_order(LH_ORDER_RECORDED, 100, recorded, 3);

	lh__pageset_add(&urgent, 50);
	order->ops->reset(order, &urgent);
	order->ops->missed(order, 60);
	ok(COMES(order, 80, 20, 30), "what was recorded comes before all, in its order");
	ok(COMES(order, 50), "then what was written last");
	ok(COMES(order, 61), "then what is near a miss");
	order->ops->close(order);
	is(lh__order_open(&wrong, &order, NULL), -EINVAL, "a recording of pages that the guest has not");
	wrong.policy = 99;
	is(lh__order_open(&wrong, &order, NULL), -EINVAL, "not a policy");
}

static void test_ptline(void)
{
	struct lh_order *order = open_order(LH_ORDER_PTLINE, 10000, NULL, 0);
	struct lh_pageset urgent = { 10000, calloc(1, lh__pageset_bytes(10000)) };

	lh__pageset_add(&urgent, 700);
	order->ops->reset(order, &urgent);
	order->ops->missed(order, 5000);
	order->ops->hinted(order, 5000, (const uint64_t[]){ 17, 9, UINT64_MAX, 10000, 400 }, 5);
	ok(COMES(order, 17, 9), "hints come before all, the likeliest first");
	order->ops->hinted(order, 6000, (const uint64_t[]){ 33 }, 1);
	ok(COMES(order, 33, 400), "those of the newest miss before those that are left");
	ok(COMES(order, 700), "then what was written last");
	order->ops->close(order);
	free(urgent.word);
}

static void test_soon(void)
{
	struct lh_order *order = open_order(LH_ORDER_PTLINE, 10000, NULL, 0);
	uint64_t page;

	order->ops->missed(order, 5000);
	ok(!order->ops->soon(order, &page), "without hints nobody is likely to wait for anything");
	order->ops->hinted(order, 5000, (const uint64_t[]){ 17, 9 }, 2);
	ok(order->ops->soon(order, &page) && page == 17, "hints are likely to be waited for");
	ok(COMES(order, 9, 5001), "and then proposed no more");
	ok(!order->ops->soon(order, &page), "windows are not");
	order->ops->close(order);
	order = open_order(LH_ORDER_LINEAR, 100, NULL, 0);
	order->ops->hinted(order, 50, (const uint64_t[]){ 60 }, 1);
	ok(!order->ops->soon(order, &page), "linear knows nothing of them");
	order->ops->close(order);
}

/* ---- whether predicting pays ---- */

#define LINE_PAGES 65536u

/* Scattered: virtual neighbours lie anywhere. Even lines of eight pages are neighbours in no window. */
static uint64_t physical(uint64_t page)
{
	return page * 40503 % LINE_PAGES;
}

struct toucher {
	struct lh_order *order;
	unsigned char here[LINE_PAGES];
	uint64_t random, misses, ahead, sweep;
};

/* Four pages come after each touch; those that do not come in their turn were predicted. */
static void come(struct toucher *toucher)
{
	uint64_t page;
	unsigned i;

	for (i = 0; i < 4 && toucher->order->ops->next(toucher->order, &page); i++) {
		toucher->ahead += !toucher->here[page] && page > toucher->sweep + 64;
		toucher->sweep = page > toucher->sweep && page < toucher->sweep + 64 ? page : toucher->sweep;
		toucher->here[page] = 1;
	}
}

static void touch(struct toucher *toucher, uint64_t page)
{
	uint64_t hint[8], at = physical(page);
	size_t n = 0, i;

	if (!toucher->here[at]) {
		toucher->misses++;
		toucher->here[at] = 1;
		toucher->order->ops->missed(toucher->order, at);
		for (i = 0; i < 8; i++)
			if (page / 8 * 8 + i != page)
				hint[n++] = physical(page / 8 * 8 + i);
		toucher->order->ops->hinted(toucher->order, at, hint, n);
	}
	come(toucher);
}

static struct toucher *new_toucher(void)
{
	struct toucher *toucher = calloc(1, sizeof(*toucher));

	toucher->order = open_order(LH_ORDER_PTLINE, LINE_PAGES, NULL, 0);
	toucher->random = 4711;
	return toucher;
}

static void end_toucher(struct toucher *toucher)
{
	toucher->order->ops->close(toucher->order);
	free(toucher);
}

/* How many pages came before their turn for a miss, while pages anywhere are touched. */
static double touch_anywhere(struct toucher *toucher, unsigned touches)
{
	toucher->misses = toucher->ahead = 0;
	while (touches--)
		touch(toucher, random_below(&toucher->random, LINE_PAGES));
	return (double)toucher->ahead / (double)(toucher->misses + !toucher->misses);
}

/* The same while all of a hot set of lines is, in any order. */
static double touch_hot(struct toucher *toucher, unsigned touches)
{
	toucher->misses = toucher->ahead = 0;
	while (touches--)
		touch(toucher, LINE_PAGES / 2 + random_below(&toucher->random, LINE_PAGES / 16));
	return (double)toucher->ahead / (double)(toucher->misses + !toucher->misses);
}

static void test_lift(void)
{
	struct toucher *toucher = new_toucher();
	double first = touch_anywhere(toucher, 300), then;

	touch_anywhere(toucher, 4000);
	then = touch_anywhere(toucher, 1000);
	ok(first > 2, "in the beginning a miss brings its line: %.2f pages before their turn", first);
	ok(then < 0.3, "where nothing can be predicted it does no longer: %.2f", then);
	touch_hot(toucher, 500);
	then = touch_hot(toucher, 500);
	ok(then > 1, "when something can it does again: %.2f", then);
	end_toucher(toucher);
	toucher = new_toucher();
	then = touch_hot(toucher, 1500);
	ok(then > 2, "where all that is touched can be predicted it always does: %.2f", then);
	end_toucher(toucher);
}

/* Misses before the sweep: it is what the guest does. */
static void test_sweep(void)
{
	struct lh_order *order = open_order(LH_ORDER_PTLINE, 100000, NULL, 0);
	uint64_t page = 0, at = 0, ahead = 0, hint[7];
	unsigned i, j;

	for (i = 0; i < 1000; i++) {
		order->ops->missed(order, at + 3);
		for (j = 0; j < 7; j++)
			hint[j] = 50000 + 8 * i + j;
		order->ops->hinted(order, at + 3, hint, 7);
		for (j = 0; j < 4; j++) {
			if (!order->ops->next(order, &page))
				break;
			ahead += i >= 100 && page >= 50000;
			at = page < 50000 ? page : at;
		}
	}
	is(ahead, 0, "a guest that does what the sweep does gets nothing else");
	order->ops->close(order);
}

static void test_none(void)
{
	struct lh_order *order = open_order(LH_ORDER_NONE, 100, NULL, 0);
	uint64_t page;

	order->ops->missed(order, 5);
	order->ops->hinted(order, 5, (const uint64_t[]){ 6 }, 1);
	ok(!order->ops->next(order, &page), "none proposes nothing");
	order->ops->reset(order, NULL);
	ok(!order->ops->next(order, &page), "nor after a reset");
	order->ops->close(order);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COST_US 200.
#else
#define COST_US 20.
#endif

/* A miss with as many hints as there may be before every proposal, in a guest of 8 GiB. */
static void test_cost(void)
{
	enum { PAGES = 1 << 21 };
	struct lh_order *order = open_order(LH_ORDER_PTLINE, PAGES, NULL, 0);
	uint64_t random = 5;
	struct timespec from, to;
	uint64_t page, hint[8], n = 0;
	unsigned i;
	double us;

	clock_gettime(CLOCK_MONOTONIC, &from);
	do {
		order->ops->missed(order, random_below(&random, PAGES));
		for (i = 0; i < 8; i++)
			hint[i] = random_below(&random, PAGES);
		order->ops->hinted(order, 0, hint, 8);
		n++;
	} while (order->ops->next(order, &page));
	clock_gettime(CLOCK_MONOTONIC, &to);
	us = ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / 1e3 /
	     (double)n;
	is(n, PAGES + 1, "all pages of a large guest");
	ok(us < COST_US, "at a cost that does not grow with it: %.2f us for a miss, its hints and a proposal",
	   us);
	order->ops->close(order);
}

int main(void)
{
	test_all();
	test_planted();
	test_linear();
	test_around();
	test_chased();
	test_recorded();
	test_ptline();
	test_soon();
	test_lift();
	test_sweep();
	test_none();
	test_cost();
	return done();
}
