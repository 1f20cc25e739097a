/*
 * journal_sweep.c - every system call and allocation failing in turn, in formatting, opening (closed, and to
 * be recovered), appending, flushing, bringing home and closing a journal: each call works or fails, a failed
 * one has lost nothing, and all that was taken is given back.
 *
 * Most of its time it waits for the disk.
 * timeout: 240
 */
#include "inject.h"
#include "journal_places.h"

enum { LOG_PAGES = LH_JOURNAL_LOG_MIN, PAGES = 4 };

enum part { FORMAT, OPEN_CLOSED, OPEN_BROKEN_OFF, USE, PARTS };
static const char *const part_names[PARTS] = { "formatting", "opening a closed one",
	                                       "opening one that was not closed", "using one" };

struct sweep {
	struct inject in;
	enum place place;
	enum part part;
	bool leaks, forgets; /* planted */
	struct below below;
	uint64_t appended, acknowledged; /* versions of all pages */
	unsigned failed, wrong_result, lost;
};

static bool took(struct sweep *sweep, int result)
{
	sweep->failed += result != 0;
	sweep->wrong_result += result != 0 && result != -ENOMEM && result != -sweep->in.error;
	return result == 0;
}

static int append(struct sweep *sweep, struct lh_store *journal)
{
	struct lh_change changes[PAGES];
	uint64_t sequence;
	int result;

	for (unsigned i = 0; i < PAGES; i++)
		changes[i] = (struct lh_change){ .page = i,
			                         .mask = LH_MASK_ALL,
			                         .data = page_of(i, sweep->appended + 1) };
	result = lh__journal_append(journal, changes, PAGES, &sequence);
	if (result < 0)
		return result;
	sweep->appended++;
	result = lh__journal_flush(journal, sequence);
	if (result == 0 || sweep->forgets)
		sweep->acknowledged = sweep->appended;
	return result;
}

static void use(struct sweep *sweep, struct lh_store *journal)
{
	unsigned char client[LH_JOURNAL_CLIENT_SIZE] = { 7 }, data[LH_PAGE_SIZE];
	struct lh_request put = { .op = LH_OP_PUT, .mask = LH_MASK_ALL, .data = data };
	bool works = true;

	for (unsigned i = 0; i < 5; i++)
		works = took(sweep, append(sweep, journal)) && works;
	works = took(sweep, lh__journal_checkpoint(journal)) && works;
	works = took(sweep, append(sweep, journal)) && works;
	memcpy(data, page_of(0, sweep->appended), sizeof data);
	took(sweep, lh__store_do(journal, &put)); /* of what is there: it needs memory, and may fail alone */
	works = took(sweep, lh__journal_set_client(journal, client)) && works;
	works = took(sweep, lh__journal_finish(journal)) && works;
	sweep->wrong_result += works && sweep->acknowledged != sweep->appended;
}

/* What there is before: nothing, or a journal that was closed or not. */
static void prepare(struct sweep *sweep)
{
	struct lh_store *journal;

	sweep->appended = sweep->acknowledged = 0;
	MUST(!below_open(&sweep->in.sys, sweep->place, &sweep->below));
	if (sweep->part == FORMAT)
		return;
	journal = new_journal(sweep->below.store, LOG_PAGES, PAGES);
	MUST(append(sweep, journal));
	MUST(lh__journal_checkpoint(journal));
	MUST(append(sweep, journal));
	if (sweep->part != OPEN_BROKEN_OFF)
		MUST(lh__journal_finish(journal));
	lh__journal_release(journal);
}

/* Without injection: all pages are of one version, which is not older than what was acknowledged. */
static void check(struct sweep *sweep)
{
	struct lh_store *journal;
	bool found = false;

	inject_disarm(&sweep->in);
	below_again(&sweep->in.sys, sweep->place, &sweep->below); /* a file is broken after a failed flush */
	journal = open_journal(sweep->below.store);
	for (uint64_t version = sweep->acknowledged; version <= sweep->appended && !found; version++) {
		found = true;
		for (unsigned i = 0; i < PAGES; i++)
			found &= holds(journal, i, version ? LH_MASK_ALL : 0, version);
	}
	sweep->lost += !found;
	MUST(lh__journal_finish(journal));
	lh__journal_release(journal);
}

static void round_of(struct sweep *sweep)
{
	struct lh_journal_format format = { .log_pages = LOG_PAGES, .home_pages = PAGES };
	struct lh_store *journal;
	bool there = sweep->part != FORMAT;

	prepare(sweep);
	inject_arm(&sweep->in);
	if (!there)
		there = took(sweep, lh__journal_format(sweep->below.store, &format, NULL));
	else if (took(sweep, lh__journal_open(sweep->below.store, false, &journal, NULL))) {
		if (sweep->part == USE)
			use(sweep, journal);
		lh__journal_release(journal);
	}
	if (there)
		check(sweep);
	inject_disarm(&sweep->in);
	if (sweep->leaks && sweep->failed)
		sweep->in.live++;
	below_close(&sweep->below);
}

static void run(struct sweep *sweep, int error, enum inject_mode mode)
{
	INJECT_SWEEP(&sweep->in, error, mode)
		round_of(sweep);
}

static void sweeps(enum place place, enum part part, enum inject_mode mode)
{
	struct sweep sweep = { .place = place, .part = part };
	char name[100];

	snprintf(name, sizeof name, "%s, %s, %s", place_names[place], part_names[part],
	         mode == INJECT_ONCE ? "once" : "lasting");
	run(&sweep, EIO, mode);
	ok(inject_swept(&sweep.in), "%s: %lu rounds with a failure, nothing leaked", name, sweep.in.rounds);
	is(sweep.wrong_result, 0, "%s: each call works or fails as planned", name);
	is(sweep.lost, 0, "%s: nothing acknowledged is lost, nothing half done", name);
	ok(sweep.failed >= sweep.in.rounds / 2, "%s: failures reached the caller (%u)", name, sweep.failed);
}

/* What the sweep is there to see. */
static void planted(void)
{
	struct sweep leaks = { .part = OPEN_CLOSED, .leaks = true };
	struct sweep forgets = { .place = PLACE_DISK, .part = USE, .forgets = true };

	run(&leaks, EIO, INJECT_ONCE);
	ok(!inject_swept(&leaks.in), "the sweep sees what is not given back");
	run(&forgets, EIO, INJECT_LASTING);
	ok(forgets.lost > 0, "the sweep sees what is acknowledged and not there");
}

int main(void)
{
	for (enum place place = PLACE_MEMORY; place < PLACES; place++) {
		struct below below;

		if (!below_open(&lh__sys_default, place, &below)) {
			skip(place_names[place], "there is no such store");
			continue;
		}
		below_close(&below);
		for (enum part part = FORMAT; part < PARTS; part++) {
			sweeps(place, part, INJECT_ONCE);
			sweeps(place, part, INJECT_LASTING);
		}
	}
	planted();
	return done();
}
