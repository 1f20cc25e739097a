/*
 * port_cases_answer.h - conformance cases about requests and what answers them: watch, supply, wake, present.
 */
#ifndef PORT_CASES_ANSWER_H
#define PORT_CASES_ANSWER_H

#include "port_suite.h"

/* ---- what the port says of itself ---- */

static const char *case_slots(struct suite *suite)
{
	const struct lh_port_ops *ops = suite->port->ops;

	EXPECT(ops->name && ops->name[0]);
	EXPECT(ops->watch && ops->unwatch && ops->supply && ops->supply_zero && ops->take && ops->give);
	EXPECT(ops->protect && ops->unprotect && ops->wake && ops->present && ops->close);
	EXPECT(suite->port->sys && suite->port->caps.granularity);
	return NULL;
}

static const char *case_caps(struct suite *suite)
{
	uint64_t first;

	suite_answers(suite, ANSWER_SUPPLY, 1);
	first = *(volatile uint64_t *)page_of(suite, 3);
	EXPECT((suite_requests(suite) > 0) == suite->port->caps.sees_reads);
	EXPECT(first == (suite->port->caps.sees_reads ? suite_word(3, 1, 0) : 0));
	suite_answers(suite, ANSWER_SUPPLY, 1);
	*(volatile uint64_t *)page_of(suite, 3) = 5;
	EXPECT((suite_requests(suite) > 0) == suite->port->caps.sees_writes);
	return NULL;
}

/* ---- watch, unwatch ---- */

static const char *case_watch(struct suite *suite)
{
	suite_answers(suite, ANSWER_SUPPLY, 1);
	for (size_t i = 0; i < SUITE_PAGES; i += 3) {
		unsigned before = suite_requests(suite);

		if (i % 2)
			page_of(suite, i)[1] = page_of(suite, i)[1];
		EXPECT(suite_holds(page_of(suite, i), i, 1, 1));
		EXPECT(suite_requests(suite) > before);
		EXPECT(suite->requested == (uintptr_t)page_of(suite, i));
	}
	EXPECT(suite->refused == 0);
	EXPECT(!suite_present(page_of(suite, 1)));
	return NULL;
}

/* A write is a request as a read is, and lands on the content that it gets. */
static const char *case_write_request(struct suite *suite)
{
	volatile uint64_t *word = (uint64_t *)page_of(suite, 2);

	suite_answers(suite, ANSWER_SUPPLY, 1);
	word[7] = 99;
	EXPECT(suite_requests(suite) > 0);
	EXPECT(word[7] == 99 && word[6] == suite_word(2, 1, 6) && word[8] == suite_word(2, 1, 8));
	return NULL;
}

static const char *case_unwatched(struct suite *suite)
{
	unsigned char *other = suite_map(suite, 4, PROT_READ | PROT_WRITE);

	EXPECT(other != NULL);
	suite_answers(suite, ANSWER_SUPPLY, 1);
	EXPECT(suite_holds(other, 0, 0, 1));
	EXPECT(suite_requests(suite) == 0);
	EXPECT(suite_watch(suite, other, 4) == 0);
	EXPECT(suite_holds(other, 0, 0, 1) && suite_requests(suite) == 0);
	EXPECT(*(volatile unsigned char *)(other + bytes(2)) | 1 && suite_requests(suite) > 0);
	return NULL;
}

static const char *case_watch_again(struct suite *suite)
{
	TRY(suite_place(suite, 0, 2, 1));
	EXPECT(suite_watch(suite, page_of(suite, 0), SUITE_PAGES) == 0);
	EXPECT(suite_watch(suite, page_of(suite, 1), 3) == 0);
	suite_answers(suite, ANSWER_SUPPLY, 1);
	EXPECT(suite_holds(page_of(suite, 0), 0, 1, 2) && suite_requests(suite) == 0);
	EXPECT(suite_holds(page_of(suite, 2), 2, 1, 2) && suite_requests(suite) > 0);
	return NULL;
}

/* The second half is of another kind: then the first is not watched either. */
static const char *case_watch_other(struct suite *suite)
{
	unsigned char *mixed = suite_map(suite, 8, PROT_READ | PROT_WRITE);

	EXPECT(mixed != NULL);
	if (!suite->factory->map_other(suite->factory->context, mixed + bytes(4), bytes(4))) {
		suite->lacks = "there is no memory that the port cannot watch";
		return NULL;
	}
	EXPECT(suite_watch(suite, mixed + bytes(4), 4) == -EINVAL);
	EXPECT(suite_watch(suite, mixed, 8) == -EINVAL);
	suite_answers(suite, ANSWER_SUPPLY, 1);
	EXPECT(suite_holds(mixed, 0, 0, 1) && suite_requests(suite) == 0);
	EXPECT(munmap(mixed, bytes(8)) == 0);
	EXPECT(suite_watch(suite, mixed, 8) == -EINVAL);
	return NULL;
}

static const char *watch_beside(struct suite *suite, struct lh_port *rival, unsigned char *theirs)
{
	EXPECT(rival->ops->watch(rival, (uintptr_t)theirs, bytes(4)) == 0);
	EXPECT(suite_watch(suite, theirs, 4) == -EBUSY);
	EXPECT(rival->ops->watch(rival, (uintptr_t)page_of(suite, 0), bytes(4)) == -EBUSY);
	suite_answers(suite, ANSWER_SUPPLY, 1);
	EXPECT(suite_holds(page_of(suite, 0), 0, 1, 1) && suite_requests(suite) > 0);
	return NULL;
}

static const char *case_watch_rival(struct suite *suite)
{
	unsigned char *theirs = suite_map(suite, 4, PROT_READ | PROT_WRITE);
	struct lh_port *rival = suite->factory->rival(suite->factory->context);
	const char *result;

	EXPECT(theirs != NULL && rival != NULL);
	result = watch_beside(suite, rival, theirs);
	rival->ops->close(rival);
	return result;
}

static const char *case_unwatch(struct suite *suite)
{
	TRY(suite_place(suite, 9, 1, 1));
	EXPECT(suite_unwatch(suite, page_of(suite, 8), 8) == 0);
	suite_answers(suite, ANSWER_SUPPLY, 2);
	EXPECT(suite_holds(page_of(suite, 8), 8, 0, 1));
	EXPECT(suite_holds(page_of(suite, 9), 9, 1, 1));
	EXPECT(suite_holds(page_of(suite, 15), 15, 0, 1));
	EXPECT(suite_requests(suite) == 0);
	EXPECT(suite_holds(page_of(suite, 7), 7, 2, 1) && suite_holds(page_of(suite, 16), 16, 2, 1));
	EXPECT(suite_requests(suite) >= 2);
	EXPECT(suite_unwatch(suite, page_of(suite, 8), 8) == 0);
	EXPECT(suite_watch(suite, page_of(suite, 8), 8) == 0);
	EXPECT(suite_holds(page_of(suite, 8), 8, 0, 1) && suite_holds(page_of(suite, 10), 10, 2, 1));
	return NULL;
}

static const char *case_unwatch_wakes(struct suite *suite)
{
	struct toucher *waiter = suite_waiter(suite, page_of(suite, 5));

	EXPECT(waiter != NULL);
	EXPECT(suite_unwatch(suite, page_of(suite, 0), SUITE_PAGES) == 0);
	EXPECT(suite_goes_on(suite, waiter) && waiter->seen == 0);
	return NULL;
}

static const char *case_close(struct suite *suite)
{
	struct toucher *waiter = suite_waiter(suite, page_of(suite, 5));
	struct lh_port *port = suite->port;

	EXPECT(waiter != NULL);
	suite->port = NULL;
	suite->factory->close(suite->factory->context, port);
	EXPECT(suite_goes_on(suite, waiter) && waiter->seen == 0);
	EXPECT(suite_holds(page_of(suite, 6), 6, 0, 1));
	return NULL;
}

/* What the program drops is absent again, and a request. */
static const char *case_dropped(struct suite *suite)
{
	TRY(suite_place(suite, 0, 3, 1));
	EXPECT(madvise(page_of(suite, 1), LH_PAGE_SIZE, MADV_DONTNEED) == 0);
	suite_answers(suite, ANSWER_SUPPLY, 2);
	EXPECT(suite_holds(page_of(suite, 1), 1, 2, 1) && suite_requests(suite) > 0);
	EXPECT(suite_holds(page_of(suite, 0), 0, 1, 1) && suite_holds(page_of(suite, 2), 2, 1, 1));
	return NULL;
}

/* ---- supply ---- */

static const char *case_supply(struct suite *suite)
{
	unsigned char content[LH_PAGE_SIZE];

	suite_answers(suite, ANSWER_SUPPLY, 2);
	suite_fill(content, 4, 1, 1);
	EXPECT(suite_copy(suite, page_of(suite, 4), content, 1) == 1);
	memset(content, 0, sizeof content);
	EXPECT(suite_holds(page_of(suite, 4), 4, 1, 1) && suite_requests(suite) == 0);
	EXPECT(!suite_present(page_of(suite, 3)) && !suite_present(page_of(suite, 5)));
	page_of(suite, 4)[9] = 1;
	EXPECT(page_of(suite, 4)[9] == 1);
	return NULL;
}

static const char *case_supply_wakes(struct suite *suite)
{
	struct toucher *waiter[3];

	for (unsigned i = 0; i < 3; i++)
		EXPECT((waiter[i] = suite_waiter(suite, page_of(suite, 4))) != NULL);
	EXPECT(suite_supply(suite, page_of(suite, 4), 4, 1, 1) == 1);
	for (unsigned i = 0; i < 3; i++)
		EXPECT(suite_goes_on(suite, waiter[i]) && waiter[i]->seen == suite_word(4, 1, 0));
	EXPECT((waiter[0] = suite_waiter(suite, page_of(suite, 6))) != NULL);
	EXPECT(suite_zero(suite, page_of(suite, 6), 1) == 1);
	EXPECT(suite_goes_on(suite, waiter[0]) && waiter[0]->seen == 0);
	return NULL;
}

/* Of a run as many are present afterwards as supply says, and none beyond. */
static const char *supply_run(struct suite *suite, size_t first, size_t n, uint64_t version)
{
	for (size_t at = first; at < first + n;) {
		long done = suite_supply(suite, page_of(suite, at), at, version, first + n - at);

		EXPECT(done >= 1 && (size_t)done <= first + n - at);
		EXPECT(suite_count(page_of(suite, first), n) == at + (size_t)done - first);
		at += (size_t)done;
	}
	EXPECT(suite_holds(page_of(suite, first), first, version, n));
	return NULL;
}

static const char *case_supply_runs(struct suite *suite)
{
	struct toucher *waiter = suite_waiter(suite, page_of(suite, 9));

	EXPECT(waiter != NULL);
	TRY(supply_run(suite, 2, SUITE_BUFFER, 1));
	EXPECT(suite_goes_on(suite, waiter) && waiter->seen == suite_word(9, 1, 0));
	/* Two mappings: their protections differ. */
	EXPECT(mprotect(page_of(suite, 44), bytes(8), PROT_READ) == 0);
	TRY(supply_run(suite, 40, 8, 3));
	TRY(supply_run(suite, 48, 8, 3));
	EXPECT(!suite_present(page_of(suite, 1)) && !suite_present(page_of(suite, 39)));
	return NULL;
}

/* A run that meets a page that is present ends before it. */
static const char *case_supply_run_meets(struct suite *suite)
{
	TRY(suite_place(suite, 3, 1, 1));
	EXPECT(suite_supply(suite, page_of(suite, 0), 0, 2, 6) == 3);
	EXPECT(suite_holds(page_of(suite, 0), 0, 2, 3) && suite_holds(page_of(suite, 3), 3, 1, 1));
	EXPECT(suite_count(page_of(suite, 4), 2) == 0);
	EXPECT(suite_zero(suite, page_of(suite, 4), 1) == 1);
	EXPECT(suite_supply(suite, page_of(suite, 3), 3, 2, 3) == -EEXIST);
	EXPECT(suite_zero(suite, page_of(suite, 5), 3) >= 1);
	EXPECT(suite_zero(suite, page_of(suite, 3), 3) == -EEXIST);
	EXPECT(suite_holds(page_of(suite, 3), 3, 1, 1) && suite_holds(page_of(suite, 4), 4, 0, 2));
	return NULL;
}

static const char *case_supply_present(struct suite *suite)
{
	TRY(suite_place(suite, 4, 1, 1));
	EXPECT(suite_supply(suite, page_of(suite, 4), 4, 2, 1) == -EEXIST);
	EXPECT(suite_holds(page_of(suite, 4), 4, 1, 1));
	EXPECT(suite_zero(suite, page_of(suite, 4), 1) == -EEXIST);
	EXPECT(suite_holds(page_of(suite, 4), 4, 1, 1));
	EXPECT(suite_zero(suite, page_of(suite, 5), 1) == 1);
	EXPECT(suite_supply(suite, page_of(suite, 5), 5, 2, 1) == -EEXIST);
	EXPECT(suite_holds(page_of(suite, 5), 5, 0, 1));
	return NULL;
}

/*
 * Puts another mapping over a page that a thread waits for, as a program may. The thread is not woken by
 * that. With watch it is watched, and present.
 */
static bool replace(struct suite *suite, void *at, bool watch)
{
	return mmap(at, LH_PAGE_SIZE, PROT_READ | PROT_WRITE,
	            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0) == at &&
	       (!watch || suite_watch(suite, at, 1) == 0);
}

typedef long slot_call(struct suite *suite, size_t page);

static long call_supply(struct suite *suite, size_t page)
{
	return suite_supply(suite, page_of(suite, page), page, 1, 1);
}

static long call_zero(struct suite *suite, size_t page)
{
	return suite_zero(suite, page_of(suite, page), 1);
}

static long call_give(struct suite *suite, size_t page)
{
	return suite_give(suite, stage_of(suite, page), page_of(suite, page), 1);
}

static long call_wake(struct suite *suite, size_t page)
{
	suite_wake(suite, page_of(suite, page));
	return 0;
}

/* That the slot says this of a page that was replaced under a waiter, and that the waiter goes on. */
static const char *replaced_wakes(struct suite *suite, slot_call *call, size_t page, bool watch, long wanted)
{
	struct toucher *waiter = suite_waiter(suite, page_of(suite, page));

	EXPECT(waiter != NULL);
	EXPECT(suite_supply(suite, stage_of(suite, page), page, 1, 1) == 1);
	EXPECT(replace(suite, page_of(suite, page), watch));
	EXPECT(call(suite, page) == wanted);
	EXPECT(suite_goes_on(suite, waiter) && waiter->seen == 0);
	EXPECT(suite_holds(page_of(suite, page), page, 0, 1));
	EXPECT(suite_keeps(stage_of(suite, page), page, 1, 1));
	return NULL;
}

static const char *case_present_wakes(struct suite *suite)
{
	TRY(replaced_wakes(suite, call_supply, 4, true, -EEXIST));
	TRY(replaced_wakes(suite, call_zero, 8, true, -EEXIST));
	TRY(replaced_wakes(suite, call_give, 12, true, -EEXIST));
	return NULL;
}

static const char *case_gone_wakes(struct suite *suite)
{
	TRY(replaced_wakes(suite, call_supply, 4, false, -ENOENT));
	TRY(replaced_wakes(suite, call_zero, 8, false, -ENOENT));
	TRY(replaced_wakes(suite, call_give, 12, false, -ENOENT));
	return NULL;
}

static const char *case_supply_gone(struct suite *suite)
{
	EXPECT(munmap(page_of(suite, 4), bytes(2)) == 0);
	EXPECT(suite_supply(suite, page_of(suite, 4), 4, 1, 1) == -ENOENT);
	EXPECT(suite_supply(suite, page_of(suite, 4), 4, 1, 4) == -ENOENT);
	EXPECT(suite_zero(suite, page_of(suite, 5), 1) == -ENOENT);
	EXPECT(suite_supply(suite, page_of(suite, 2), 2, 1, 4) >= 1);
	EXPECT(suite_holds(page_of(suite, 2), 2, 1, 1));
	return NULL;
}

static const char *case_supply_zero(struct suite *suite)
{
	suite_answers(suite, ANSWER_SUPPLY, 1);
	for (size_t at = 0; at < 8;) {
		long done = suite_zero(suite, page_of(suite, at), 8 - at);

		EXPECT(done >= 1 && (size_t)done <= 8 - at);
		at += (size_t)done;
		EXPECT(suite_count(page_of(suite, 0), 9) == at);
	}
	EXPECT(suite_holds(page_of(suite, 0), 0, 0, 8));
	/* All of them are one page until they are written to. */
	EXPECT(suite_frame(page_of(suite, 0)) == suite_frame(page_of(suite, 1)));
	page_of(suite, 1)[5] = 1;
	EXPECT(suite_requests(suite) == 0);
	EXPECT(page_of(suite, 1)[5] == 1 && suite_holds(page_of(suite, 0), 0, 0, 1));
	return NULL;
}

/* ---- wake ---- */

static const char *case_wake(struct suite *suite)
{
	struct toucher *waiter = suite_waiter(suite, page_of(suite, 4));
	unsigned seen;

	EXPECT(waiter != NULL);
	for (unsigned i = 0; i < 10; i++) {
		seen = suite_requests(suite);
		suite_wake(suite, page_of(suite, 4));
		EXPECT(suite_reaches(suite, &suite->requests, seen + 1));
	}
	EXPECT(!suite_present(page_of(suite, 4)));
	EXPECT(!__atomic_load_n(&waiter->done, __ATOMIC_ACQUIRE));
	EXPECT(suite_supply(suite, page_of(suite, 4), 4, 1, 1) == 1);
	EXPECT(suite_goes_on(suite, waiter) && waiter->seen == suite_word(4, 1, 0));
	TRY(replaced_wakes(suite, call_wake, 20, true, 0));
	suite_wake(suite, page_of(suite, 30));
	EXPECT(!suite_present(page_of(suite, 30)));
	return NULL;
}

/* ---- present ---- */

#define SCAN_PAGES 600u

struct scan {
	uintptr_t start, end, last; /* what is asked for; the end of the last report */
	unsigned char found[SCAN_PAGES];
	uintptr_t base;
	unsigned calls, stop_at;
	bool wrong;
};

static int note_scan(void *context, uintptr_t start, uintptr_t end)
{
	struct scan *scan = context;

	scan->wrong |= start >= end || start < scan->last || start < scan->start || end > scan->end ||
	               (start | end) % LH_PAGE_SIZE != 0;
	scan->last = end;
	for (uintptr_t at = start; at < end && !scan->wrong; at += LH_PAGE_SIZE)
		scan->found[(at - scan->base) / LH_PAGE_SIZE] = 1;
	return ++scan->calls == scan->stop_at ? 7 : 0;
}

/* Makes alternating pages present, and a run of them. More ranges than a port may have room for at once. */
static bool is_scanned(size_t i)
{
	return i % 3 == 1 || (i >= 300 && i < 350);
}

static int scan_now(struct suite *suite, struct scan *scan, unsigned char *base, size_t first, size_t last,
                    unsigned stop_at)
{
	uintptr_t start = (uintptr_t)base + bytes(first);

	*scan = (struct scan){ .start = start, .end = (uintptr_t)base + bytes(last) };
	scan->last = start;
	scan->base = (uintptr_t)base;
	scan->stop_at = stop_at;
	return suite->port->ops->present(suite->port, start, scan->end, note_scan, scan);
}

static const char *scan_part(struct suite *suite, unsigned char *base, size_t first, size_t last)
{
	static struct scan scan;

	EXPECT(scan_now(suite, &scan, base, first, last, 0) == 0);
	EXPECT(!scan.wrong);
	for (size_t i = first; i < last; i++)
		EXPECT(scan.found[i] == is_scanned(i));
	return NULL;
}

static const char *case_present(struct suite *suite)
{
	unsigned char *base = suite_map(suite, SCAN_PAGES, PROT_READ | PROT_WRITE);
	static struct scan scan;

	EXPECT(base != NULL && suite_watch(suite, base, SCAN_PAGES) == 0);
	suite_answers(suite, ANSWER_NOTHING, 0);
	EXPECT(scan_now(suite, &scan, base, 0, SCAN_PAGES, 0) == 0 && scan.calls == 0);
	for (size_t i = 0; i < SCAN_PAGES; i++)
		EXPECT(!is_scanned(i) || suite_supply(suite, base + bytes(i), i, 1, 1) == 1);
	EXPECT(mprotect(base + bytes(100), bytes(50), PROT_NONE) == 0);
	EXPECT(mprotect(base + bytes(310), bytes(9), PROT_READ) == 0);
	TRY(scan_part(suite, base, 0, SCAN_PAGES));
	TRY(scan_part(suite, base, 1, 2));
	TRY(scan_part(suite, base, 0, 1));
	TRY(scan_part(suite, base, 305, 320));
	TRY(scan_part(suite, base, 299, 351));
	EXPECT(scan_now(suite, &scan, base, 5, 5, 0) == 0 && scan.calls == 0);
	EXPECT(scan_now(suite, &scan, base, 0, SCAN_PAGES, 3) == 7 && scan.calls == 3 && !scan.wrong);
	EXPECT(scan_now(suite, &scan, base, 0, SCAN_PAGES, 100) == 7 && scan.calls == 100);
	EXPECT(suite_requests(suite) == 0);
	return NULL;
}

static const char *case_present_kinds(struct suite *suite)
{
	static struct scan scan;

	TRY(suite_place(suite, 0, 2, 1));
	EXPECT(suite_zero(suite, page_of(suite, 2), 1) == 1);
	EXPECT(suite_take(suite, page_of(suite, 1), stage_of(suite, 1), 1) == 1);
	EXPECT(munmap(page_of(suite, 8), bytes(8)) == 0);
	TRY(suite_place(suite, 16, 1, 1));
	EXPECT(scan_now(suite, &scan, suite->pages, 0, SUITE_PAGES, 0) == 0 && !scan.wrong);
	for (size_t i = 0; i < SUITE_PAGES; i++)
		EXPECT(scan.found[i] == (i == 0 || i == 2 || i == 16));
	EXPECT(scan_now(suite, &scan, suite->staging, 0, SUITE_PAGES, 0) == 0 && scan.found[1]);
	return NULL;
}

/* What the kernel has put aside comes back without a request: it is present. */
static const char *case_present_swapped(struct suite *suite)
{
	static struct scan scan;

	TRY(suite_place(suite, 0, 1, 1));
	suite_answers(suite, ANSWER_NOTHING, 0);
	if (madvise(page_of(suite, 0), LH_PAGE_SIZE, MADV_PAGEOUT) != 0 ||
	    suite_pagemap(page_of(suite, 0)) >> 62 != 1) {
		suite->lacks = "nothing is swapped out here";
		return NULL;
	}
	EXPECT(scan_now(suite, &scan, suite->pages, 0, SUITE_PAGES, 0) == 0 && scan.found[0]);
	EXPECT(mprotect(page_of(suite, 0), LH_PAGE_SIZE, PROT_READ) == 0);
	EXPECT(suite_take(suite, page_of(suite, 0), stage_of(suite, 0), 1) == 1);
	EXPECT(suite_holds(stage_of(suite, 0), 0, 1, 1) && suite_requests(suite) == 0);
	return NULL;
}

#endif
