/*
 * port_cases_take.h - conformance cases about pages that leave and come back: take, give, and who else is
 * there.
 */
#ifndef PORT_CASES_TAKE_H
#define PORT_CASES_TAKE_H

#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "port_suite.h"

/* ---- take ---- */

static const char *case_take(struct suite *suite)
{
	TRY(suite_place(suite, 3, 3, 1));
	suite_answers(suite, ANSWER_SUPPLY, 2);
	EXPECT(suite_take(suite, page_of(suite, 4), stage_of(suite, 9), 1) == 1);
	EXPECT(suite_holds(stage_of(suite, 9), 4, 1, 1));
	EXPECT(!suite_present(page_of(suite, 4)) && suite_count(suite->staging, SUITE_PAGES) == 1);
	EXPECT(suite_holds(page_of(suite, 3), 3, 1, 1) && suite_holds(page_of(suite, 5), 5, 1, 1));
	EXPECT(suite_requests(suite) == 0);
	EXPECT(suite_holds(page_of(suite, 4), 4, 2, 1) && suite_requests(suite) > 0);
	EXPECT(suite_holds(stage_of(suite, 9), 4, 1, 1));
	return NULL;
}

/*
 * Takes n pages that are present, however many go at once: what it says it took stands at staging, and no
 * more.
 */
static const char *take_run(struct suite *suite, size_t first, size_t n, uint64_t version)
{
	for (size_t at = 0; at < n;) {
		long done = suite_take(suite, page_of(suite, first + at), stage_of(suite, at), n - at);

		EXPECT(done >= 1 && (size_t)done <= n - at);
		at += (size_t)done;
		EXPECT(suite_count(stage_of(suite, 0), n) == at);
		EXPECT(suite_count(page_of(suite, first), n) == n - at);
	}
	EXPECT(suite_holds(stage_of(suite, 0), first, version, n));
	return NULL;
}

static const char *give_run(struct suite *suite, size_t first, size_t n, uint64_t version)
{
	for (size_t at = 0; at < n;) {
		long done = suite_give(suite, stage_of(suite, at), page_of(suite, first + at), n - at);

		EXPECT(done >= 1 && (size_t)done <= n - at);
		at += (size_t)done;
		EXPECT(suite_count(page_of(suite, first), n) == at);
		EXPECT(suite_count(stage_of(suite, 0), n) == n - at);
	}
	EXPECT(suite_holds(page_of(suite, first), first, version, n));
	return NULL;
}

static const char *case_take_runs(struct suite *suite)
{
	TRY(suite_place(suite, 0, 32, 1));
	TRY(take_run(suite, 0, 32, 1));
	TRY(give_run(suite, 0, 32, 1));
	/* Three mappings. */
	EXPECT(mprotect(page_of(suite, 8), bytes(8), PROT_READ) == 0);
	TRY(take_run(suite, 4, 16, 1));
	TRY(give_run(suite, 4, 16, 1));
	TRY(take_run(suite, 9, 3, 1));
	TRY(give_run(suite, 9, 3, 1));
	return NULL;
}

static const char *case_take_holes(struct suite *suite)
{
	TRY(suite_place(suite, 0, 2, 1));
	TRY(suite_place(suite, 3, 1, 1));
	suite_answers(suite, ANSWER_SUPPLY, 2);
	EXPECT(suite_take(suite, page_of(suite, 1), stage_of(suite, 1), 3) == 1);
	EXPECT(suite_take(suite, page_of(suite, 2), stage_of(suite, 2), 2) == -ENOENT);
	EXPECT(suite_count(page_of(suite, 0), 4) == 2 && suite_count(suite->staging, 4) == 1);
	EXPECT(suite_holds(page_of(suite, 3), 3, 1, 1) && suite_requests(suite) == 0);
	return NULL;
}

static const char *take_absent(struct suite *suite, size_t page)
{
	EXPECT(suite_take(suite, page_of(suite, page), stage_of(suite, page), 1) == -ENOENT);
	EXPECT(suite_take(suite, page_of(suite, page), stage_of(suite, page), 2) == -ENOENT);
	EXPECT(suite_count(suite->staging, SUITE_PAGES) == 0 && !suite_present(page_of(suite, page)));
	return NULL;
}

/* An absent page is no request of the port's own, who would wait for itself. */
static const char *case_take_absent(struct suite *suite)
{
	suite_answers(suite, ANSWER_SUPPLY, 1);
	TRY(take_absent(suite, 0));
	EXPECT(mprotect(page_of(suite, 8), bytes(8), PROT_READ) == 0);
	TRY(take_absent(suite, 10));
	EXPECT(mprotect(page_of(suite, 8), bytes(8), PROT_NONE) == 0);
	TRY(take_absent(suite, 10));
	EXPECT(munmap(page_of(suite, 8), bytes(8)) == 0);
	TRY(take_absent(suite, 10));
	EXPECT(suite_requests(suite) == 0);
	return NULL;
}

static const char *case_take_zero(struct suite *suite)
{
	EXPECT(suite_zero(suite, page_of(suite, 2), 2) == 2);
	EXPECT(suite_take(suite, page_of(suite, 2), stage_of(suite, 0), 1) == 1);
	EXPECT(!suite_present(page_of(suite, 2)) && suite_holds(stage_of(suite, 0), 0, 0, 1));
	suite_fill(stage_of(suite, 0), 2, 1, 1);
	EXPECT(suite_give(suite, stage_of(suite, 0), page_of(suite, 2), 1) == 1);
	EXPECT(suite_holds(page_of(suite, 2), 2, 1, 1) && suite_holds(page_of(suite, 3), 3, 0, 1));
	return NULL;
}

/* A port that says that it moves does not copy: it is the same memory afterwards. */
static const char *case_moves(struct suite *suite)
{
	uint64_t frame;

	TRY(suite_place(suite, 4, 1, 1));
	frame = suite_frame(page_of(suite, 4));
	if (!suite->port->caps.moves || frame == 0) {
		suite->lacks =
			frame ? "this port copies" : "the kernel tells this user no physical addresses";
		return NULL;
	}
	EXPECT(suite_take(suite, page_of(suite, 4), stage_of(suite, 4), 1) == 1);
	EXPECT(suite_frame(stage_of(suite, 4)) == frame);
	EXPECT(suite_give(suite, stage_of(suite, 4), page_of(suite, 4), 1) == 1);
	EXPECT(suite_frame(page_of(suite, 4)) == frame);
	return NULL;
}

static const char *take_protected(struct suite *suite, int protection)
{
	TRY(suite_place(suite, 8, 4, 1));
	EXPECT(mprotect(page_of(suite, 8), bytes(4), protection) == 0);
	EXPECT(suite_take(suite, page_of(suite, 9), stage_of(suite, 9), 1) == 1);
	EXPECT(!suite_present(page_of(suite, 9)) && suite_holds(stage_of(suite, 9), 9, 1, 1));
	suite_fill(stage_of(suite, 9), 9, 2, 1);
	EXPECT(suite_give(suite, stage_of(suite, 9), page_of(suite, 9), 1) == 1);
	EXPECT(!suite_present(stage_of(suite, 9)) && suite_present(page_of(suite, 9)));
	EXPECT(suite_take(suite, page_of(suite, 10), stage_of(suite, 10), 1) == 1);
	EXPECT(suite_supply(suite, page_of(suite, 10), 10, 3, 1) == 1);
	EXPECT(mprotect(page_of(suite, 8), bytes(4), PROT_READ | PROT_WRITE) == 0);
	EXPECT(suite_holds(page_of(suite, 8), 8, 1, 1) && suite_holds(page_of(suite, 9), 9, 2, 1));
	EXPECT(suite_holds(page_of(suite, 10), 10, 3, 1) && suite_holds(stage_of(suite, 10), 10, 1, 1));
	return NULL;
}

static const char *case_take_readonly(struct suite *suite)
{
	return take_protected(suite, PROT_READ);
}

static const char *case_take_forbidden(struct suite *suite)
{
	return take_protected(suite, PROT_NONE);
}

/* ---- take, while others write ---- */

#define HAMMER_PAGES 4u
#define HAMMER_WRITERS 2u
#define HAMMER_SHARED 256u /* the word that all of them add to */

/*
 * A writer keeps two words of each page, one near its start and one near its end, and writes a count to the
 * first and then to the second. So each word must be found as it was left, and of a page that was taken at
 * one moment the first word is ahead of the second by one at most, never behind.
 */
struct writer {
	pthread_t thread;
	volatile uint64_t *page;
	unsigned index;
	uint64_t count;
	uint64_t lost;
	const bool *stop;
};

static volatile uint64_t *first_word(volatile uint64_t *page, unsigned writer)
{
	return page + writer * 8;
}

static volatile uint64_t *last_word(volatile uint64_t *page, unsigned writer)
{
	return page + 511 - writer * 8;
}

static void *hammer(void *argument)
{
	struct writer *writer = argument;

	while (!__atomic_load_n(writer->stop, __ATOMIC_RELAXED)) {
		uint64_t count = writer->count++;

		for (unsigned i = 0; i < HAMMER_PAGES; i++) {
			volatile uint64_t *page = writer->page + i * 512,
					  *first = first_word(page, writer->index),
					  *last = last_word(page, writer->index);

			writer->lost += *first != count;
			*first = count + 1;
			writer->lost += *last != count;
			*last = count + 1;
			__atomic_add_fetch(page + HAMMER_SHARED, 1, __ATOMIC_RELAXED);
		}
	}
	return NULL;
}

/* Whether a page was taken at one moment, and is nobody's to write any more. */
static bool is_of_one_moment(volatile uint64_t *page)
{
	uint64_t shared = page[HAMMER_SHARED];
	bool whole = true;

	for (unsigned i = 0; i < HAMMER_WRITERS; i++) {
		uint64_t first = *first_word(page, i), last = *last_word(page, i);

		whole &= first == last || first == last + 1;
	}
	return whole && page[HAMMER_SHARED] == shared;
}

/*
 * Takes pages, looks at them and gives them back. Returns how many, 0 where they are refused, -1 where they
 * are torn.
 */
static long take_and_give(struct suite *suite, unsigned char *pages)
{
	long taken = suite_take(suite, pages, suite->staging, HAMMER_PAGES), given = 0;

	if (taken == -EBUSY)
		return 0;
	for (long i = 0; i < taken; i++)
		if (!is_of_one_moment((uint64_t *)stage_of(suite, (size_t)i)))
			return -1;
	while (given < taken) {
		long done = suite_give(suite, stage_of(suite, (size_t)given), pages + bytes((size_t)given),
		                       (size_t)(taken - given));

		if (done < 1)
			return -1;
		given += done;
	}
	return taken > 0 ? taken : -1;
}

/* Takes and gives until it was done so often, and the writers have got on meanwhile in some of the rounds. */
static const char *take_while_written(struct suite *suite, unsigned char *pages, bool may_refuse)
{
	uint64_t deadline = suite_deadline(suite), before = 0;
	unsigned round, progress = 0;

	for (round = 0; round < suite_rounds(suite) || progress < 10; round++) {
		uint64_t count = ((volatile uint64_t *)pages)[HAMMER_SHARED];
		long result = take_and_give(suite, pages);

		EXPECT(result > 0 || (result == 0 && may_refuse));
		progress += count != before;
		before = count;
		EXPECT(suite_ms() <= deadline || progress >= 10);
		if (suite_ms() > deadline || (result == 0 && round > 1000 && progress >= 10))
			break;
	}
	return NULL;
}

static void hammer_begin(struct writer *writer, unsigned char *pages, const bool *stop)
{
	for (unsigned i = 0; i < HAMMER_WRITERS; i++) {
		writer[i] = (struct writer){ .page = (uint64_t *)pages, .index = i, .stop = stop };
		if (pthread_create(&writer[i].thread, NULL, hammer, &writer[i]) != 0)
			abort();
	}
}

/* Ends the writers; that what they wrote is all there. */
static const char *hammer_end(struct suite *suite, struct writer *writer, unsigned char *pages, bool *stop)
{
	uint64_t sum = 0;

	__atomic_store_n(stop, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < HAMMER_WRITERS; i++)
		pthread_join(writer[i].thread, NULL);
	for (unsigned i = 0; i < HAMMER_WRITERS; i++) {
		EXPECT(writer[i].lost == 0);
		sum += writer[i].count;
	}
	for (unsigned i = 0; i < HAMMER_PAGES; i++)
		EXPECT(((volatile uint64_t *)(pages + bytes(i)))[HAMMER_SHARED] == sum);
	return NULL;
}

/*
 * The writers meet absent pages all the time and are told to look again, until the page has been given back.
 * Who takes need not have the right to write that they have: with a key he has not.
 */
static const char *hammer_and_take(struct suite *suite, unsigned char *pages, bool may_refuse, int key)
{
	struct writer writer[HAMMER_WRITERS];
	unsigned char zero[HAMMER_PAGES * LH_PAGE_SIZE] = { 0 };
	const char *result, *end;
	bool stop = false;

	for (unsigned i = 0; i < HAMMER_PAGES; i++)
		EXPECT(suite_copy(suite, pages + bytes(i), zero, 1) == 1);
	suite_answers(suite, ANSWER_WAKE, 0);
	hammer_begin(writer, pages, &stop);
	if (key >= 0 && pkey_set(key, PKEY_DISABLE_WRITE) != 0)
		abort();
	result = take_while_written(suite, pages, may_refuse);
	/* A case that has failed may have left pages at staging: there is nothing to be learnt then. */
	if (result && suite_unwatch(suite, pages, HAMMER_PAGES) < 0)
		abort();
	end = hammer_end(suite, writer, pages, &stop);
	return result ? result : end;
}

static const char *case_take_written(struct suite *suite)
{
	return hammer_and_take(suite, page_of(suite, 8), false, -1);
}

/* Memory of any protection that can be written to is taken without losing a write, or is refused. */
static const char *take_written_in(struct suite *suite, int protection, int key)
{
	unsigned char *pages = suite_map(suite, HAMMER_PAGES, protection);

	if (!pages)
		return NULL;
	EXPECT(key < 0 || pkey_mprotect(pages, bytes(HAMMER_PAGES), protection, key) == 0);
	EXPECT(suite_watch(suite, pages, HAMMER_PAGES) == 0);
	return hammer_and_take(suite, pages, true, key);
}

static const char *case_take_written_only(struct suite *suite)
{
	return take_written_in(suite, PROT_WRITE, -1);
}

static const char *case_take_executable(struct suite *suite)
{
	return take_written_in(suite, PROT_READ | PROT_WRITE | PROT_EXEC, -1);
}

static const char *case_take_keyed(struct suite *suite)
{
	int key = pkey_alloc(0, 0);
	const char *result;

	if (key < 0) {
		suite->lacks = "this processor has no protection keys";
		return NULL;
	}
	result = take_written_in(suite, PROT_READ | PROT_WRITE, key);
	pkey_free(key);
	return result;
}

/* ---- take, where others hold the page ---- */

static const char *refused(struct suite *suite, size_t page)
{
	EXPECT(suite_take(suite, page_of(suite, page), stage_of(suite, page), 1) == -EBUSY);
	EXPECT(suite_take(suite, page_of(suite, page), stage_of(suite, page), 3) == -EBUSY);
	EXPECT(suite_holds(page_of(suite, page), page, 1, 3));
	EXPECT(suite_count(suite->staging, SUITE_PAGES) == 0);
	return NULL;
}

static const char *take_pinned(struct suite *suite, int ring)
{
	struct iovec held = { page_of(suite, 6), LH_PAGE_SIZE };
	uint64_t deadline = suite_deadline(suite);
	long result;

	EXPECT(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &held, 1) == 0);
	TRY(refused(suite, 6));
	EXPECT(suite_take(suite, page_of(suite, 5), stage_of(suite, 5), 3) == 1);
	EXPECT(suite_give(suite, stage_of(suite, 5), page_of(suite, 5), 1) == 1);
	EXPECT(syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0) == 0);
	/* The kernel lets go in its own time. */
	do
		result = suite_take(suite, page_of(suite, 6), stage_of(suite, 6), 1);
	while (result == -EBUSY && suite_ms() <= deadline);
	EXPECT(result == 1 && suite_holds(stage_of(suite, 6), 6, 1, 1));
	return NULL;
}

static const char *case_take_pinned(struct suite *suite)
{
	struct io_uring_params parameters = { 0 };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &parameters);
	const char *result;

	if (ring < 0) {
		suite->lacks = "there is no io_uring to hold a page with";
		return NULL;
	}
	result = suite_place(suite, 5, 4, 1);
	if (!result)
		result = take_pinned(suite, ring);
	close(ring);
	return result;
}

/* What the program has locked into memory is taken or refused, as the kernel has it, but never lost. */
static const char *take_locked(struct suite *suite, size_t page, int protection)
{
	long result;

	TRY(suite_place(suite, page, 3, 1));
	EXPECT(mprotect(page_of(suite, page), bytes(3), protection) == 0);
	if (mlock(page_of(suite, page), bytes(3)) != 0) {
		suite->lacks = "this user may not lock memory";
		return NULL;
	}
	result = suite_take(suite, page_of(suite, page), stage_of(suite, page), 1);
	if (result == 1) {
		EXPECT(suite_holds(stage_of(suite, page), page, 1, 1));
		EXPECT(suite_give(suite, stage_of(suite, page), page_of(suite, page), 1) == 1);
	} else {
		TRY(refused(suite, page));
	}
	EXPECT(munlock(page_of(suite, page), bytes(3)) == 0);
	EXPECT(suite_take(suite, page_of(suite, page), stage_of(suite, page), 1) == 1);
	return NULL;
}

static const char *case_take_locked(struct suite *suite)
{
	TRY(take_locked(suite, 4, PROT_READ | PROT_WRITE));
	EXPECT(suite_give(suite, stage_of(suite, 4), page_of(suite, 4), 1) == 1);
	TRY(take_locked(suite, 12, PROT_READ));
	return NULL;
}

/* ---- pages that a fork has shared ---- */

struct told {
	int pipe[2];
};

/* Waits until the parent has said so, and finds what it had when it was made. */
static const char *child_keeps(struct suite *suite, void *context)
{
	struct told *told = context;
	char byte;

	close(told->pipe[1]);
	EXPECT(read(told->pipe[0], &byte, 1) == 0);
	EXPECT(suite_holds(page_of(suite, 0), 0, 1, 8));
	EXPECT(suite_holds(stage_of(suite, 20), 20, 1, 1));
	return NULL;
}

static const char *take_shared(struct suite *suite)
{
	EXPECT(suite_take(suite, page_of(suite, 0), stage_of(suite, 0), 1) == 1);
	EXPECT(suite_holds(stage_of(suite, 0), 0, 1, 1) && !suite_present(page_of(suite, 0)));
	suite_fill(stage_of(suite, 0), 0, 2, 1);
	EXPECT(suite_give(suite, stage_of(suite, 0), page_of(suite, 0), 1) == 1);
	EXPECT(suite_holds(page_of(suite, 0), 0, 2, 1));
	EXPECT(suite_take(suite, page_of(suite, 2), stage_of(suite, 2), 3) >= 1);
	EXPECT(suite_holds(stage_of(suite, 2), 2, 1, 1));
	EXPECT(suite_give(suite, stage_of(suite, 20), page_of(suite, 20), 1) == 1);
	EXPECT(suite_holds(page_of(suite, 20), 20, 1, 1));
	return NULL;
}

static const char *case_take_shared(struct suite *suite)
{
	struct told told;
	const char *result;
	pid_t pid;

	TRY(suite_place(suite, 0, 8, 1));
	EXPECT(suite_supply(suite, stage_of(suite, 20), 20, 1, 1) == 1);
	EXPECT(pipe(told.pipe) == 0);
	EXPECT((pid = suite_fork(suite, child_keeps, &told)) > 0);
	close(told.pipe[0]);
	result = take_shared(suite);
	close(told.pipe[1]);
	EXPECT(suite_child_ends(suite, pid));
	if (result)
		return result;
	/* Shared with nobody any more, as far as the kernel can tell. */
	TRY(take_run(suite, 6, 2, 1));
	TRY(give_run(suite, 6, 2, 1));
	return NULL;
}

/* Pages within a huge one leave by themselves, and their neighbours stay. */
static const char *case_take_huge(struct suite *suite)
{
	const size_t huge = 512;
	unsigned char *room = suite_map(suite, 2 * huge, PROT_READ | PROT_WRITE), *base;
	uint64_t deadline = suite_deadline(suite);
	long result;

	EXPECT(room != NULL);
	base = (unsigned char *)(((uintptr_t)room + bytes(huge) - 1) & ~(uintptr_t)(bytes(huge) - 1));
	madvise(base, bytes(huge), MADV_HUGEPAGE);
	suite_fill(base, 1000, 1, huge);
	EXPECT(suite_watch(suite, room, 2 * huge) == 0);
	/* Others may look at the huge page while it is split, for a moment. */
	do
		result = suite_take(suite, base + bytes(100), stage_of(suite, 0), 4);
	while (result == -EBUSY && suite_ms() <= deadline);
	EXPECT(result >= 1 && suite_holds(stage_of(suite, 0), 1100, 1, (size_t)result));
	EXPECT(suite_count(base + bytes(100), 4) == 4 - (size_t)result);
	EXPECT(suite_holds(base, 1000, 1, 100) && suite_holds(base + bytes(104), 1104, 1, huge - 104));
	EXPECT(suite_give(suite, stage_of(suite, 0), base + bytes(100), (size_t)result) >= 1);
	EXPECT(suite_holds(base + bytes(100), 1100, 1, 1));
	return NULL;
}

/* ---- give ---- */

static const char *case_give(struct suite *suite)
{
	struct toucher *waiter;

	TRY(suite_place(suite, 4, 2, 1));
	EXPECT(suite_take(suite, page_of(suite, 4), stage_of(suite, 7), 1) == 1);
	EXPECT((waiter = suite_waiter(suite, page_of(suite, 4))) != NULL);
	EXPECT(suite_give(suite, stage_of(suite, 7), page_of(suite, 4), 1) == 1);
	EXPECT(suite_goes_on(suite, waiter) && waiter->seen == suite_word(4, 1, 0));
	EXPECT(suite_holds(page_of(suite, 4), 4, 1, 1) && suite_count(suite->staging, SUITE_PAGES) == 0);
	EXPECT(suite_take(suite, page_of(suite, 4), stage_of(suite, 7), 1) == 1);
	return NULL;
}

/* What was written at staging, or supplied there, is what the program gets. */
static const char *case_give_new(struct suite *suite)
{
	TRY(suite_place(suite, 4, 1, 1));
	EXPECT(suite_take(suite, page_of(suite, 4), stage_of(suite, 4), 1) == 1);
	suite_fill(stage_of(suite, 4), 4, 2, 1);
	EXPECT(suite_supply(suite, stage_of(suite, 5), 5, 2, 1) == 1);
	EXPECT(suite_zero(suite, stage_of(suite, 6), 1) == 1);
	suite_fill(stage_of(suite, 6), 6, 2, 1);
	EXPECT(suite_give(suite, stage_of(suite, 4), page_of(suite, 4), 1) == 1);
	EXPECT(suite_give(suite, stage_of(suite, 5), page_of(suite, 5), 1) == 1);
	EXPECT(suite_give(suite, stage_of(suite, 6), page_of(suite, 6), 1) == 1);
	EXPECT(suite_holds(page_of(suite, 4), 4, 2, 3));
	return NULL;
}

static const char *case_give_runs(struct suite *suite)
{
	struct toucher *waiter = suite_waiter(suite, page_of(suite, 20));

	EXPECT(waiter != NULL);
	for (size_t i = 0; i < 16; i++)
		EXPECT(suite_supply(suite, stage_of(suite, i), 8 + i, 1, 1) == 1);
	TRY(give_run(suite, 8, 16, 1));
	EXPECT(suite_goes_on(suite, waiter) && waiter->seen == suite_word(20, 1, 0));
	return NULL;
}

static const char *case_give_present(struct suite *suite)
{
	TRY(suite_place(suite, 2, 1, 1));
	for (size_t i = 0; i < 4; i++)
		EXPECT(suite_supply(suite, stage_of(suite, i), i, 2, 1) == 1);
	EXPECT(suite_give(suite, stage_of(suite, 2), page_of(suite, 2), 1) == -EEXIST);
	EXPECT(suite_give(suite, stage_of(suite, 2), page_of(suite, 2), 2) == -EEXIST);
	EXPECT(suite_holds(page_of(suite, 2), 2, 1, 1) && suite_keeps(stage_of(suite, 0), 0, 2, 4));
	EXPECT(suite_give(suite, stage_of(suite, 0), page_of(suite, 0), 4) == 2);
	EXPECT(suite_holds(page_of(suite, 0), 0, 2, 2) && suite_holds(page_of(suite, 2), 2, 1, 1));
	EXPECT(suite_count(stage_of(suite, 0), 2) == 0 && suite_keeps(stage_of(suite, 2), 2, 2, 2));
	return NULL;
}

static const char *case_give_gone(struct suite *suite)
{
	for (size_t i = 2; i < 6; i++)
		EXPECT(suite_supply(suite, stage_of(suite, i), i, 1, 1) == 1);
	EXPECT(munmap(page_of(suite, 4), bytes(2)) == 0);
	EXPECT(suite_give(suite, stage_of(suite, 4), page_of(suite, 4), 1) == -ENOENT);
	EXPECT(suite_give(suite, stage_of(suite, 4), page_of(suite, 4), 2) == -ENOENT);
	EXPECT(suite_keeps(stage_of(suite, 2), 2, 1, 4));
	EXPECT(suite_give(suite, stage_of(suite, 2), page_of(suite, 2), 4) >= 1);
	EXPECT(suite_holds(page_of(suite, 2), 2, 1, 1) && suite_keeps(stage_of(suite, 4), 4, 1, 2));
	return NULL;
}

/* ---- from everywhere at once ---- */

#define THREADS 3u
#define THREAD_PAGES 8u

struct worker {
	pthread_t thread;
	struct suite *suite;
	unsigned index;
	unsigned rounds;
	unsigned wrong;
};

/* The life of a page: supplied, taken, changed, given back, dropped. */
static bool live(struct suite *suite, size_t page, uint64_t version)
{
	unsigned char *at = page_of(suite, page), *staging = stage_of(suite, page);
	bool right = suite_supply(suite, at, page, version, 1) == 1;

	right = right && suite_holds(at, page, version, 1) && suite_take(suite, at, staging, 1) == 1;
	right = right && suite_holds(staging, page, version, 1);
	if (right)
		suite_fill(staging, page, version + 1, 1);
	right = right && suite_give(suite, staging, at, 1) == 1 && suite_holds(at, page, version + 1, 1);
	return right && madvise(at, LH_PAGE_SIZE, MADV_DONTNEED) == 0;
}

static void *work(void *argument)
{
	struct worker *worker = argument;

	for (unsigned round = 0; round < worker->rounds && !worker->wrong; round++) {
		size_t page = worker->index + round % THREAD_PAGES * THREADS;
		struct scan scan;

		worker->wrong += !live(worker->suite, page, round * 2 + 1);
		worker->wrong += round % 16 == 0 &&
		                 scan_now(worker->suite, &scan, worker->suite->pages, 0, SUITE_PAGES, 0) != 0;
	}
	return NULL;
}

static const char *case_threads(struct suite *suite)
{
	struct worker worker[THREADS];
	unsigned wrong = 0;

	suite_answers(suite, ANSWER_NOTHING, 0);
	for (unsigned i = 0; i < THREADS; i++) {
		worker[i] = (struct worker){ .suite = suite, .index = i, .rounds = suite_rounds(suite) / 20 };
		if (pthread_create(&worker[i].thread, NULL, work, &worker[i]) != 0)
			abort();
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(worker[i].thread, NULL);
		wrong += worker[i].wrong;
	}
	EXPECT(wrong == 0);
	return NULL;
}

static unsigned signal_right, signal_wrong;

/* Interrupts a slot on one page, and uses all of them on another. */
static void on_signal(int number)
{
	struct suite *suite = suite_now;
	struct scan scan;
	bool right = live(suite, 40, 11) && suite_zero(suite, page_of(suite, 41), 1) == 1 &&
	             scan_now(suite, &scan, suite->pages, 40, 42, 0) == 0 && scan.found[41] &&
	             madvise(page_of(suite, 41), LH_PAGE_SIZE, MADV_DONTNEED) == 0;

	(void)number;
	suite_wake(suite, page_of(suite, 40));
	__atomic_add_fetch(right ? &signal_right : &signal_wrong, 1, __ATOMIC_RELEASE);
}

struct sender {
	pthread_t to;
	unsigned signals;
	bool done;
};

static void *send_signals(void *argument)
{
	struct sender *sender = argument;

	for (unsigned i = 0; i < sender->signals; i++) {
		pthread_kill(sender->to, SIGUSR1);
		while (__atomic_load_n(&signal_right, __ATOMIC_ACQUIRE) +
		               __atomic_load_n(&signal_wrong, __ATOMIC_ACQUIRE) <=
		       i)
			sched_yield();
	}
	__atomic_store_n(&sender->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static const char *case_signal(struct suite *suite)
{
	struct sender sender = { .to = pthread_self(), .signals = suite_rounds(suite) / 40 };
	struct sigaction action = { .sa_handler = on_signal }, old;
	pthread_t thread;
	unsigned wrong = 0;

	signal_right = signal_wrong = 0;
	suite_answers(suite, ANSWER_NOTHING, 0);
	sigaction(SIGUSR1, &action, &old);
	EXPECT(pthread_create(&thread, NULL, send_signals, &sender) == 0);
	while (!__atomic_load_n(&sender.done, __ATOMIC_ACQUIRE))
		wrong += !live(suite, 8, 5);
	pthread_join(thread, NULL);
	sigaction(SIGUSR1, &old, NULL);
	EXPECT(wrong == 0 && signal_wrong == 0 && signal_right == sender.signals);
	return NULL;
}

/* ---- fork ---- */

static const char *child_renews(struct suite *suite, void *context)
{
	(void)context;
	EXPECT(suite->factory->renew(suite->factory->context, suite->port) == 0);
	EXPECT(suite_watch(suite, page_of(suite, 0), SUITE_PAGES) == 0);
	EXPECT(suite_watch(suite, stage_of(suite, 0), SUITE_PAGES) == 0);
	suite_answers(suite, ANSWER_SUPPLY, 2);
	EXPECT(suite_holds(page_of(suite, 0), 0, 1, 4) && suite_requests(suite) == 0);
	EXPECT(suite_holds(page_of(suite, 4), 4, 2, 4) && suite_requests(suite) >= 4);
	EXPECT(suite_give(suite, stage_of(suite, 8), page_of(suite, 8), 1) == 1);
	EXPECT(suite_holds(page_of(suite, 8), 8, 1, 1));
	EXPECT(suite_take(suite, page_of(suite, 1), stage_of(suite, 1), 1) == 1);
	EXPECT(suite_holds(stage_of(suite, 1), 1, 1, 1) && suite->refused == 0);
	return NULL;
}

static const char *case_fork(struct suite *suite)
{
	pid_t pid;

	TRY(suite_place(suite, 0, 4, 1));
	TRY(suite_place(suite, 8, 1, 1));
	EXPECT(suite_take(suite, page_of(suite, 8), stage_of(suite, 8), 1) == 1);
	EXPECT((pid = suite_fork(suite, child_renews, NULL)) > 0);
	suite_answers(suite, ANSWER_SUPPLY, 3);
	EXPECT(suite_holds(page_of(suite, 4), 4, 3, 2) && suite_requests(suite) >= 2);
	EXPECT(suite_child_ends(suite, pid));
	/* What a child does to its port is nothing to its parent's. */
	EXPECT(suite_holds(page_of(suite, 6), 6, 3, 2) && suite_requests(suite) >= 4);
	EXPECT(suite_holds(page_of(suite, 0), 0, 1, 4) && suite_holds(stage_of(suite, 8), 8, 1, 1));
	EXPECT(suite_give(suite, stage_of(suite, 8), page_of(suite, 8), 1) == 1);
	EXPECT(suite_holds(page_of(suite, 8), 8, 1, 1));
	return NULL;
}

#endif
