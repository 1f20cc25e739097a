/*
 * store_journal.c - the journal store passes the conformance suite over a memory store and over a file, and
 * does what it promises beyond it. That it loses nothing in a crash is what tests/crash_journal.c shows.
 *
 * timeout: 120
 */
#include "inject.h"
#include "store/journal.h"
#include "store_over_memory.h"

#define LOG_PAGES 256

static int wrap_journal(struct lh_store *below, struct lh_store **out)
{
	struct lh_journal_format format = { .log_pages = LOG_PAGES };
	int result = lh__journal_format(below, &format, NULL);

	return result == 0 ? lh__journal_open(below, false, out, NULL) : result;
}

static void conforms(void)
{
	struct over_memory over = { .wrap = wrap_journal };
	struct store_factory factory = over_memory(&over, "journal over memory");

	factory.open_small = NULL; /* the log takes room too */
	factory.used = NULL;
	factory.steps = 5000;
	store_conformance(&factory);
	is(over.leftovers, 0, "closed journals leave nothing in use");
}

int main(void)
{
	conforms();
	return done();
}
