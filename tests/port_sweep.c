/*
 * port_sweep.c - the page port with every allocation and system call failing in turn: a slot fails and has
 * changed nothing, or has done all; nothing leaks; a port that could not be renewed after a fork can be
 * renewed again. And the sweep itself sees a slot that fails and changes something.
 */
#include <dirent.h>

#include "inject.h"
#include "port_over_page.h"

enum { PAGES = 16, READONLY = 8, OLD = 1, NEW = 2 };

static const enum lh_engine engines[] = { LH_ENGINE_INLINE, LH_ENGINE_THREAD };

struct sweep {
	struct inject in;
	struct suite suite;
	struct lh_port *rival; /* tells what is watched */
	unsigned char *apart;  /* memory that is not watched */
	unsigned succeeded, failed, wrong;
};

/* What can be seen of a page. */
struct seen {
	bool present;
	uint64_t first;
};

static struct seen look(const unsigned char *at)
{
	struct seen seen = { .present = suite_present(at) };

	if (seen.present)
		seen.first = *(const volatile uint64_t *)at;
	return seen;
}

static bool differs(const unsigned char *memory, const struct seen *before)
{
	for (size_t i = 0; i < PAGES; i++) {
		struct seen now = look(memory + bytes(i));

		if (now.present != before[i].present || now.first != before[i].first)
			return true;
	}
	return false;
}

/* ---- the slots ---- */

static bool is_watched(struct sweep *sweep, const unsigned char *at)
{
	int result = sweep->rival->ops->watch(sweep->rival, (uintptr_t)at, LH_PAGE_SIZE);

	if (result == 0 && sweep->rival->ops->unwatch(sweep->rival, (uintptr_t)at, LH_PAGE_SIZE) < 0)
		abort();
	return result == -EBUSY;
}

static int count_pages(void *context, uintptr_t start, uintptr_t end)
{
	*(size_t *)context += (end - start) / LH_PAGE_SIZE;
	return 0;
}

static long try_watch(struct sweep *sweep)
{
	return suite_watch(&sweep->suite, sweep->apart, 1);
}

static bool watched(struct sweep *sweep)
{
	return is_watched(sweep, sweep->apart);
}

static bool unwatched(struct sweep *sweep)
{
	return !is_watched(sweep, sweep->apart);
}

static long try_unwatch(struct sweep *sweep)
{
	return suite_unwatch(&sweep->suite, page_of(&sweep->suite, 2), 1);
}

static bool no_longer_watched(struct sweep *sweep)
{
	return !is_watched(sweep, page_of(&sweep->suite, 2));
}

static bool still_watched(struct sweep *sweep)
{
	return is_watched(sweep, page_of(&sweep->suite, 2));
}

static long try_supply(struct sweep *sweep)
{
	return suite_supply(&sweep->suite, page_of(&sweep->suite, 2), 2, NEW, 1);
}

static bool supplied(struct sweep *sweep)
{
	return suite_keeps(page_of(&sweep->suite, 2), 2, NEW, 1);
}

static long try_zero(struct sweep *sweep)
{
	return suite_zero(&sweep->suite, page_of(&sweep->suite, 2), 1);
}

static bool zeroed(struct sweep *sweep)
{
	return suite_keeps(page_of(&sweep->suite, 2), 2, 0, 1);
}

static long try_take(struct sweep *sweep)
{
	return suite_take(&sweep->suite, page_of(&sweep->suite, 0), stage_of(&sweep->suite, 0), 1);
}

static bool taken(struct sweep *sweep)
{
	return !suite_present(page_of(&sweep->suite, 0)) &&
	       suite_keeps(stage_of(&sweep->suite, 0), 0, OLD, 1);
}

static long try_take_copy(struct sweep *sweep)
{
	return suite_take(&sweep->suite, page_of(&sweep->suite, READONLY), stage_of(&sweep->suite, READONLY),
	                  1);
}

static bool taken_copy(struct sweep *sweep)
{
	return !suite_present(page_of(&sweep->suite, READONLY)) &&
	       suite_keeps(stage_of(&sweep->suite, READONLY), READONLY, OLD, 1);
}

static long try_give(struct sweep *sweep)
{
	return suite_give(&sweep->suite, stage_of(&sweep->suite, 3), page_of(&sweep->suite, 3), 1);
}

static bool given(struct sweep *sweep)
{
	return suite_keeps(page_of(&sweep->suite, 3), 3, NEW, 1);
}

static long try_give_copy(struct sweep *sweep)
{
	return suite_give(&sweep->suite, stage_of(&sweep->suite, READONLY + 1),
	                  page_of(&sweep->suite, READONLY + 1), 1);
}

static bool given_copy(struct sweep *sweep)
{
	return suite_keeps(page_of(&sweep->suite, READONLY + 1), READONLY + 1, NEW, 1);
}

static long try_present(struct sweep *sweep)
{
	size_t count = 0;
	int result = sweep->suite.port->ops->present(sweep->suite.port, (uintptr_t)sweep->suite.pages,
	                                             (uintptr_t)page_of(&sweep->suite, PAGES), count_pages,
	                                             &count);

	return result < 0 ? result : (long)count;
}

static bool as_before(struct sweep *sweep)
{
	return !suite_present(page_of(&sweep->suite, 2));
}

/* What a sweep must see: where it fails, the page has gone. */
static long try_planted(struct sweep *sweep)
{
	long result = try_take(sweep);

	if (result < 0 && madvise(page_of(&sweep->suite, 0), LH_PAGE_SIZE, MADV_DONTNEED) != 0)
		abort();
	return result;
}

static const struct action {
	const char *name;
	long (*call)(struct sweep *sweep);
	bool (*done)(struct sweep *sweep);
	bool (*undone)(struct sweep *sweep); /* beside what is looked at after every failure; NULL: nothing */
} actions[] = {
	{ "watch", try_watch, watched, unwatched },
	{ "unwatch", try_unwatch, no_longer_watched, still_watched },
	{ "supply", try_supply, supplied, NULL },
	{ "supply_zero", try_zero, zeroed, NULL },
	{ "take", try_take, taken, NULL },
	{ "take of memory that can only be read", try_take_copy, taken_copy, NULL },
	{ "give", try_give, given, NULL },
	{ "give to memory that can only be read", try_give_copy, given_copy, NULL },
	{ "present", try_present, as_before, NULL },
};

/* ---- the sweep ---- */

static void prepare(struct sweep *sweep, struct over_page *over, const struct port_factory *factory)
{
	struct suite *suite = &sweep->suite;

	*suite = (struct suite){ .factory = factory };
	over->sys = &sweep->in.sys;
	if (suite_open(suite) || suite_place(suite, 0, 2, OLD) || suite_place(suite, READONLY, 1, OLD) ||
	    suite_supply(suite, stage_of(suite, 3), 3, NEW, 1) != 1 ||
	    suite_supply(suite, stage_of(suite, READONLY + 1), READONLY + 1, NEW, 1) != 1 ||
	    mprotect(page_of(suite, READONLY), bytes(4), PROT_READ) != 0)
		abort();
	sweep->apart = suite_map(suite, 1, PROT_READ | PROT_WRITE);
	sweep->rival = factory->rival(factory->context);
	if (!sweep->apart || !sweep->rival)
		abort();
}

static void clear(struct sweep *sweep, const struct port_factory *factory)
{
	sweep->rival->ops->close(sweep->rival);
	factory->close(factory->context, sweep->suite.port);
	suite_unmap(&sweep->suite);
	suite_now = NULL;
}

/* The undoing of a copy at staging is a system call itself: where all fail it is left to be found there. */
static bool has_changed(struct sweep *sweep, const struct action *action, const struct seen *pages,
                        const struct seen *staging)
{
	return differs(sweep->suite.pages, pages) || (action->undone && !action->undone(sweep)) ||
	       (sweep->in.mode == INJECT_ONCE && differs(sweep->suite.staging, staging));
}

static void try_once(struct sweep *sweep, const struct action *action)
{
	struct seen pages[PAGES], staging[PAGES];
	long result;

	for (size_t i = 0; i < PAGES; i++) {
		pages[i] = look(page_of(&sweep->suite, i));
		staging[i] = look(stage_of(&sweep->suite, i));
	}
	inject_arm(&sweep->in);
	result = action->call(sweep);
	inject_disarm(&sweep->in);
	sweep->succeeded += result >= 0;
	sweep->failed += result < 0;
	if (result >= 0)
		sweep->wrong += !action->done(sweep);
	else
		sweep->wrong +=
			has_changed(sweep, action, pages, staging) || (result != -ENOMEM && result != -EBUSY);
}

static void run(struct sweep *sweep, const struct action *action, enum lh_engine engine,
                enum inject_mode mode)
{
	struct over_page over = { .options = { .engine = engine, .device = -1 } };
	struct port_factory factory = over_page(&over, "sweep");

	sweep->succeeded = sweep->failed = sweep->wrong = 0;
	INJECT_SWEEP(&sweep->in, ENOMEM, mode) {
		prepare(sweep, &over, &factory);
		try_once(sweep, action);
		clear(sweep, &factory);
	}
}

static void sweep_slot(const struct action *action, enum lh_engine engine, enum inject_mode mode)
{
	struct sweep sweep = { .rival = NULL };

	run(&sweep, action, engine, mode);
	ok(inject_swept(&sweep.in) && sweep.wrong == 0 && sweep.failed > 0 && sweep.succeeded > 0,
	   "%s, %s, %s: %u failures change nothing", action->name,
	   engine == LH_ENGINE_INLINE ? "inline" : "thread", mode == INJECT_ONCE ? "once" : "lasting",
	   sweep.failed);
}

static void sees_planted(void)
{
	const struct action planted = { "planted", try_planted, taken, NULL };
	struct sweep sweep = { .rival = NULL };

	run(&sweep, &planted, LH_ENGINE_INLINE, INJECT_ONCE);
	ok(sweep.wrong > 0, "the sweep sees a take that fails and loses the page");
}

/* ---- open, renew ---- */

static unsigned descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned n = 0;

	while (folder && readdir(folder))
		n++;
	if (folder)
		closedir(folder);
	return n;
}

static void sweep_open(const struct lh_page_options *options, enum inject_mode mode)
{
	unsigned before = descriptors(), wrong = 0;
	struct inject in;

	INJECT_SWEEP(&in, ENOMEM, mode) {
		struct lh_port *port = NULL;
		struct lh_error error = { 0 };
		int result;

		inject_arm(&in);
		result = lh__page_open(&in.sys, options, &port, &error);
		inject_disarm(&in);
		wrong += (result == 0) != (port != NULL) ||
		         (result < 0 && (error.code != result || !error.text[0]));
		if (port)
			port->ops->close(port);
		wrong += descriptors() != before;
	}
	ok(inject_swept(&in) && wrong == 0, "open, %s: %lu failures say why, and leave nothing behind",
	   mode == INJECT_ONCE ? "once" : "lasting", in.rounds);
}

/* A renewal that has failed may be tried again, as in a child that waits for memory. */
static void sweep_renew(const struct lh_page_options *options, enum inject_mode mode)
{
	unsigned before = descriptors(), wrong = 0;
	unsigned char *page = over_page_map(NULL, LH_PAGE_SIZE, PROT_READ | PROT_WRITE);
	struct inject in;

	INJECT_SWEEP(&in, ENOMEM, mode) {
		struct lh_port *port;
		struct lh_error error = { 0 };
		int result;

		if (lh__page_open(&in.sys, options, &port, NULL) < 0)
			abort();
		inject_arm(&in);
		result = lh__page_after_fork(port, &error);
		inject_disarm(&in);
		wrong += result < 0 && (error.code != result || lh__page_after_fork(port, &error) != 0);
		wrong += port->ops->watch(port, (uintptr_t)page, LH_PAGE_SIZE) != 0;
		wrong += port->ops->supply_zero(port, (uintptr_t)page, 1) != 1;
		wrong += madvise(page, LH_PAGE_SIZE, MADV_DONTNEED) != 0;
		port->ops->close(port);
		wrong += descriptors() != before;
	}
	ok(inject_swept(&in) && wrong == 0, "renewal, %s: after %lu failures it succeeds",
	   mode == INJECT_ONCE ? "once" : "lasting", in.rounds);
	munmap(page, LH_PAGE_SIZE);
}

static void sweep_all(const struct lh_page_options *options, enum inject_mode mode)
{
	sweep_open(options, mode);
	sweep_renew(options, mode);
	for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
		sweep_slot(&actions[i], options->engine, mode);
}

int main(void)
{
	for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
		struct lh_page_options options = { .engine = engines[i],
			                           .device = -1,
			                           .descriptor_floor = 100 };
		const char *lacks = over_page_lacks(&options);

		if (lacks) {
			skip("an engine", lacks);
			continue;
		}
		sweep_all(&options, INJECT_ONCE);
		sweep_all(&options, INJECT_LASTING);
		if (engines[i] == LH_ENGINE_INLINE)
			sees_planted();
	}
	return done();
}
