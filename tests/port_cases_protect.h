/*
 * port_cases_protect.h - conformance cases about writes that are seen: protect, unprotect, and pages that are
 * supplied protected.
 */
#ifndef PORT_CASES_PROTECT_H
#define PORT_CASES_PROTECT_H

#include "port_suite.h"

#define NEEDS_WRITES(suite)                                                                                  \
	do {                                                                                                 \
		if (!(suite)->port->caps.sees_writes) {                                                      \
			(suite)->lacks = "the port does not see writes";                                     \
			return NULL;                                                                         \
		}                                                                                            \
	} while (0)

static volatile uint64_t *words_of(struct suite *suite, size_t i)
{
	return (volatile uint64_t *)page_of(suite, i);
}

/* Without the capability both say so. */
static const char *case_protect_not(struct suite *suite)
{
	TRY(suite_place(suite, 0, 1, 1));
	if (suite->port->caps.sees_writes)
		return NULL;
	EXPECT(suite_protect(suite, page_of(suite, 0), 1) == -EOPNOTSUPP);
	EXPECT(suite_unprotect(suite, page_of(suite, 0), 1) == -EOPNOTSUPP);
	suite_answers(suite, ANSWER_NOTHING, 0);
	words_of(suite, 0)[3] = 5;
	EXPECT(suite_requests(suite) == 0);
	return NULL;
}

/* The first write to a page is a request that names it; reads are none, nor later writes. */
static const char *writes_are_seen(struct suite *suite, size_t first, size_t n, uint64_t version)
{
	for (size_t i = first; i < first + n; i++) {
		suite_answers(suite, ANSWER_OPEN, 0);
		EXPECT(suite_holds(page_of(suite, i), i, version, 1) && suite_requests(suite) == 0);
		words_of(suite, i)[5] = 77;
		EXPECT(suite_requests(suite) == 1 && suite->requested == (uintptr_t)page_of(suite, i));
		words_of(suite, i)[6] = 78;
		EXPECT(suite_requests(suite) == 1 && suite->refused == 0);
		EXPECT(words_of(suite, i)[5] == 77 && words_of(suite, i)[6] == 78);
		words_of(suite, i)[5] = version ? suite_word(i, version, 5) : 0;
		words_of(suite, i)[6] = version ? suite_word(i, version, 6) : 0;
		EXPECT(suite_holds(page_of(suite, i), i, version, 1));
	}
	return NULL;
}

static const char *case_protect_supplied(struct suite *suite)
{
	NEEDS_WRITES(suite);
	TRY(suite_place(suite, 0, 2, 1));
	EXPECT(suite_supply(suite, page_of(suite, 2), 2, 1, 4) == 4);
	return writes_are_seen(suite, 0, 6, 1);
}

static const char *case_protect_zero(struct suite *suite)
{
	NEEDS_WRITES(suite);
	for (size_t i = 0; i < 3; i++)
		EXPECT(suite_zero(suite, page_of(suite, i), 1) == 1);
	return writes_are_seen(suite, 0, 3, 0);
}

/* A run, again and again; its neighbours are not touched. */
static const char *case_protect_runs(struct suite *suite)
{
	NEEDS_WRITES(suite);
	TRY(suite_place(suite, 0, 8, 1));
	EXPECT(suite_unprotect(suite, page_of(suite, 0), 8) == 0);
	for (unsigned round = 0; round < 3; round++) {
		EXPECT(suite_protect(suite, page_of(suite, 2), 4) == 0);
		EXPECT(suite_holds(page_of(suite, 0), 0, 1, 8));
		suite_answers(suite, ANSWER_OPEN, 0);
		words_of(suite, 1)[0] = words_of(suite, 1)[0];
		words_of(suite, 6)[0] = words_of(suite, 6)[0];
		EXPECT(suite_requests(suite) == 0);
		TRY(writes_are_seen(suite, 2, 4, 1));
	}
	EXPECT(suite_protect(suite, page_of(suite, 0), 8) == 0);
	EXPECT(suite_unprotect(suite, page_of(suite, 3), 2) == 0);
	suite_answers(suite, ANSWER_OPEN, 0);
	words_of(suite, 3)[0] = words_of(suite, 3)[0];
	words_of(suite, 4)[0] = words_of(suite, 4)[0];
	EXPECT(suite_requests(suite) == 0);
	TRY(writes_are_seen(suite, 0, 3, 1));
	return writes_are_seen(suite, 5, 3, 1);
}

/* Until it is answered the content is what it was; then the write goes on. */
static const char *case_protect_waits(struct suite *suite)
{
	struct toucher *writer;

	NEEDS_WRITES(suite);
	TRY(suite_place(suite, 0, 2, 1));
	EXPECT((writer = suite_writer(suite, page_of(suite, 1), 1234)) != NULL);
	EXPECT(suite->requested == (uintptr_t)page_of(suite, 1));
	EXPECT(suite_holds(page_of(suite, 1), 1, 1, 1) && !__atomic_load_n(&writer->done, __ATOMIC_ACQUIRE));
	EXPECT(suite_unprotect(suite, page_of(suite, 1), 1) == 0);
	EXPECT(suite_goes_on(suite, writer));
	EXPECT(words_of(suite, 1)[0] == 1234 && words_of(suite, 1)[1] == suite_word(1, 1, 1));
	return NULL;
}

/* Absent pages stay so, and a touch of one is a request; what is then supplied is protected. */
static const char *case_protect_absent(struct suite *suite)
{
	NEEDS_WRITES(suite);
	TRY(suite_place(suite, 1, 1, 1));
	EXPECT(suite_protect(suite, page_of(suite, 0), 4) == 0);
	EXPECT(!suite_present(page_of(suite, 0)) && !suite_present(page_of(suite, 2)));
	suite_answers(suite, ANSWER_SUPPLY, 2);
	EXPECT(suite_holds(page_of(suite, 2), 2, 2, 1) && suite_requests(suite) > 0);
	TRY(writes_are_seen(suite, 2, 1, 2));
	return writes_are_seen(suite, 1, 1, 1);
}

static const char *case_protect_unwatched(struct suite *suite)
{
	unsigned char *other = suite_map(suite, 4, PROT_READ | PROT_WRITE);

	NEEDS_WRITES(suite);
	EXPECT(other != NULL);
	other[0] = 1;
	EXPECT(suite_protect(suite, other, 4) == -ENOENT);
	suite_answers(suite, ANSWER_NOTHING, 0);
	other[0] = 2;
	EXPECT(suite_requests(suite) == 0);
	return NULL;
}

#endif
