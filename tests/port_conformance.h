/*
 * port_conformance.h - what every port must do: one suite, instantiated for a port in about 20 lines
 * (tests/port_page.c shows how).
 *
 * Each case is a function that gets a port which watches some memory, and returns NULL or what did not hold.
 * So the same cases serve twice: port_conformance() reports each as a test; port_conformance_catches() runs
 * them over a port with a planted fault and says which case saw it.
 */
#ifndef PORT_CONFORMANCE_H
#define PORT_CONFORMANCE_H

#include "port_cases_answer.h"
#include "port_cases_protect.h"
#include "port_cases_take.h"

static const struct suite_case {
	const char *name;
	const char *(*run)(struct suite *suite);
} suite_cases[] = {
	{ "every slot is filled", case_slots },
	{ "supply: all who wait go on", case_supply_wakes },
	{ "the capabilities are true", case_caps },
	{ "a touch of an absent page is a request", case_watch },
	{ "a write to an absent page is a request", case_write_request },
	{ "what is not watched is no request", case_unwatched },
	{ "what is watched may be watched again", case_watch_again },
	{ "memory that cannot be watched gets EINVAL", case_watch_other },
	{ "memory that somebody else watches gets EBUSY", case_watch_rival },
	{ "unwatch: absent pages read as zero, the rest stays", case_unwatch },
	{ "unwatch: who waits goes on", case_unwatch_wakes },
	{ "close: who waits goes on", case_close },
	{ "a page that the program drops is a request again", case_dropped },
	{ "supply: the content", case_supply },
	{ "supply: runs of pages", case_supply_runs },
	{ "supply: a run ends before a page that is present", case_supply_run_meets },
	{ "supply: a page that is present is left alone", case_supply_present },
	{ "supply: a page that is gone gets ENOENT", case_supply_gone },
	{ "supply_zero: zeroes, which take no memory", case_supply_zero },
	{ "a refusal because the page is present wakes", case_present_wakes },
	{ "a refusal because the page is gone wakes", case_gone_wakes },
	{ "wake: who waits looks again", case_wake },
	{ "present: exact ranges in ascending order", case_present },
	{ "present: zeroes, staging, memory that is gone", case_present_kinds },
	{ "present: what the kernel has swapped out", case_present_swapped },
	{ "take: the content stands at staging, the page is absent", case_take },
	{ "take: runs of pages", case_take_runs },
	{ "take: runs with holes", case_take_holes },
	{ "take: an absent page gets ENOENT", case_take_absent },
	{ "take: pages of zeroes", case_take_zero },
	{ "take: memory that can only be read", case_take_readonly },
	{ "take: memory that cannot even be read", case_take_forbidden },
	{ "take and give move", case_moves },
	{ "take: a page that the kernel holds gets EBUSY", case_take_pinned },
	{ "take: pages that are locked", case_take_locked },
	{ "take: pages that a fork has shared", case_take_shared },
	{ "take: parts of huge pages", case_take_huge },
	{ "give: the content, and who waits goes on", case_give },
	{ "give: a new content", case_give_new },
	{ "give: runs of pages", case_give_runs },
	{ "give: a page that is present is left alone", case_give_present },
	{ "give: a page that is gone gets ENOENT", case_give_gone },
	{ "take: no write is lost or torn", case_take_written },
	{ "take: nor in memory that can only be written", case_take_written_only },
	{ "take: nor in memory that can be executed", case_take_executable },
	{ "take: nor in memory that has a protection key", case_take_keyed },
	{ "protect: a port that sees no writes says so", case_protect_not },
	{ "supply: a write to what was supplied is seen", case_protect_supplied },
	{ "supply_zero: a write to zeroes is seen", case_protect_zero },
	{ "protect and unprotect: runs of pages", case_protect_runs },
	{ "protect: who writes waits, and the content stays", case_protect_waits },
	{ "protect: absent pages stay so", case_protect_absent },
	{ "protect: memory that is not watched gets ENOENT", case_protect_unwatched },
	{ "slots from several threads at once", case_threads },
	{ "slots in a signal handler", case_signal },
	{ "fork: absent pages are requests in the child", case_fork },
};

#define SUITE_CASES (sizeof suite_cases / sizeof *suite_cases)

static const char *suite_open(struct suite *suite)
{
	const struct port_factory *factory = suite->factory;

	suite->pages = suite_map(suite, SUITE_PAGES, PROT_READ | PROT_WRITE);
	suite->staging = suite_map(suite, SUITE_PAGES, PROT_READ | PROT_WRITE);
	EXPECT(suite->pages && suite->staging);
	suite_now = suite;
	EXPECT((suite->port = factory->open(factory->context)) != NULL);
	EXPECT(suite_watch(suite, suite->pages, SUITE_PAGES) == 0);
	EXPECT(suite_watch(suite, suite->staging, SUITE_PAGES) == 0);
	return NULL;
}

/* NULL where the case passed; else what did not hold, static until the next case. */
static const char *suite_run(const struct port_factory *factory, const struct suite_case *one,
                             const char **lacks)
{
	static struct suite suite;
	const char *result;

	suite = (struct suite){ .factory = factory };
	result = suite_open(&suite);
	if (!result)
		result = one->run(&suite);
	if (suite.port)
		factory->close(factory->context, suite.port);
	suite_join(&suite);
	suite_unmap(&suite);
	suite_now = NULL;
	if (lacks)
		*lacks = suite.lacks;
	return result;
}

static bool suite_begins(const struct suite_case *one, const char *const *words)
{
	for (; *words; words++)
		if (strncmp(one->name, *words, strlen(*words)) == 0)
			return true;
	return false;
}

/* Taking and giving; and zeroes that take no memory, which cannot be protected. */
static bool suite_leaves_out(const struct port_factory *factory, const struct suite_case *one)
{
	static const char *const moving[] = {
		"take", "give", "supply_zero: zeroes, which", "present: zeroes", "slots", NULL
	};
	static const char *const dropping[] = { "a page that the program drops", "protect: absent", "fork",
		                                NULL };

	return (factory->stays && suite_begins(one, moving)) ||
	       (factory->shared && suite_begins(one, dropping));
}

/* Reports every case as one test. */
__attribute__((unused)) static void port_conformance(const struct port_factory *factory)
{
	for (size_t i = 0; i < SUITE_CASES; i++) {
		const char *lacks, *wrong;
		char name[160];

		if (suite_leaves_out(factory, &suite_cases[i]))
			continue;
		wrong = suite_run(factory, &suite_cases[i], &lacks);
		snprintf(name, sizeof name, "%s: %s", factory->name, suite_cases[i].name);
		if (wrong)
			printf("# %s\n", wrong);
		if (!wrong && lacks)
			skip(name, lacks);
		else
			ok_at(wrong == NULL, "%s", name);
	}
}

/*
 * The number of the first case that fails over this port, -1 where none does. *running is the one that runs.
 */
__attribute__((unused)) static int port_conformance_catches(const struct port_factory *factory,
                                                            volatile int *running)
{
	for (size_t i = 0; i < SUITE_CASES; i++) {
		*running = (int)i;
		if (!suite_leaves_out(factory, &suite_cases[i]) && suite_run(factory, &suite_cases[i], NULL))
			return (int)i;
	}
	return -1;
}

#endif
