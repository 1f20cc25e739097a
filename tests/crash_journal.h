/*
 * crash_journal.h - scripted runs of a journal over a crash store, and the oracle for them: the content of
 * home, and the client's part of the header, after each change.
 *
 * A script is drawn from a seed: records of few lines and of many, several to a flush, replaced pages, up
 * to several rounds of the ring; checkpoints, the client's part, closing and opening, a process that dies;
 * with an undo log transactions of one record and of many, that end, are rolled back, or outgrow the log.
 */
#ifndef CRASH_JOURNAL_H
#define CRASH_JOURNAL_H

#include <errno.h>

#include "crash_states.h"
#include "store/journal.h"

enum { JOURNAL_HOME = 8, JOURNAL_STATES = 400, JOURNAL_CHANGES = 12 };

struct journal_way {
	const char *name;
	bool direct, undo, no_durable_put;
	uint64_t log_pages;
	unsigned steps;
};

static const struct journal_way journal_ways[] = {
	{ "redo by requests", false, false, false, LH_JOURNAL_LOG_MIN, 60 },
	{ "redo by requests and sync", false, false, true, LH_JOURNAL_LOG_MIN, 40 },
	{ "redo in memory", true, false, false, LH_JOURNAL_LOG_MIN, 60 },
	{ "undo in memory", true, true, false, LH_JOURNAL_LOG_MIN, 60 },
	{ "undo in memory, a log that is rewound", true, true, false, 72, 24 },
};
enum { JOURNAL_WAYS = sizeof journal_ways / sizeof *journal_ways };

/* One record's changes, with their content. */
struct journal_record {
	size_t n;
	struct lh_change change[JOURNAL_CHANGES];
	unsigned char data[JOURNAL_CHANGES][LH_PAGE_SIZE] __attribute__((aligned(64)));
};

/* What is there after some change. */
struct journal_content {
	unsigned char home[JOURNAL_HOME][LH_PAGE_SIZE];
	unsigned char client;      /* each byte of it */
	uint64_t sequence;         /* of the record that made it; 0: not known */
	struct journal_record *by; /* NULL: not by a record */
	bool redo;                 /* it may not be home yet */
};

struct journal_run {
	struct crash_states states;
	const struct journal_way *way;
	struct lh_sys sys;
	struct lh_store *journal;
	uint64_t random, salts;
	long n; /* the newest content */
	struct journal_content *content[JOURNAL_STATES];
};

/* ---- content ---- */

static void apply_change(unsigned char home[][LH_PAGE_SIZE], const struct lh_change *change)
{
	unsigned char *page = home[change->page];

	if (change->replace)
		memset(page, 0, LH_PAGE_SIZE);
	lh__lines_copy(page, change->data, change->mask);
}

static struct journal_content *newest(struct journal_run *run)
{
	return run->content[run->n];
}

/* A copy of the newest content, to be changed; it may be found from now on. */
static struct journal_content *next_content(struct journal_run *run)
{
	struct journal_content *content = malloc(sizeof *content);

	if (!content || run->n + 1 == JOURNAL_STATES)
		abort();
	*content = *newest(run);
	content->by = NULL;
	content->sequence = 0;
	run->content[++run->n] = content;
	run->states.hi = run->n;
	return content;
}

static void drop_content(struct journal_run *run)
{
	free(newest(run)->by);
	free(newest(run));
	run->n--;
	run->states.hi = run->n;
}

static lh_mask random_lines(uint64_t *random)
{
	uint64_t bits = random_next(random);

	switch (random_next(random) % 4) {
	case 0:
	case 1: return lh__mask_line((unsigned)bits % LH_PAGE_LINES);
	case 2: return lh__mask_range((unsigned)bits % LH_PAGE_LINES, (unsigned)(bits >> 8) % 8 + 1);
	default:
		return (bits & bits >> 13 & random_next(random)) |
		       lh__mask_line((unsigned)bits % LH_PAGE_LINES);
	}
}

/* A few lines; or, where it is to be big, nearly as much as a record may have. */
static struct journal_record *random_record(uint64_t *random, bool big)
{
	struct journal_record *record = malloc(sizeof *record);

	if (!record)
		abort();
	record->n = big ? JOURNAL_HOME - 1 : random_next(random) % 4 == 0 ? 1 + random_next(random) % 6 : 1;
	for (size_t i = 0; i < record->n; i++) {
		bool replace = !big && random_next(random) % 16 == 0;
		lh_mask mask = big ? LH_MASK_ALL : random_lines(random);

		random_bytes(random, record->data[i], LH_PAGE_SIZE);
		record->change[i] = (struct lh_change){
			.page = random_next(random) % JOURNAL_HOME,
			.mask = replace && random_next(random) % 4 == 0 ? LH_MASK_NONE : mask,
			.replace = replace,
			.data = record->data[i],
		};
	}
	return record;
}

/* ---- judging ---- */

static bool is_client(const struct lh_store *journal, unsigned char client)
{
	const unsigned char *bytes = lh__journal_client(journal);

	for (size_t i = 0; i < LH_JOURNAL_CLIENT_SIZE; i++)
		if (bytes[i] != client)
			return false;
	return true;
}

/* The content that is there; lo and hi are looked at first, then all, to say how far off it is. */
static long find_content(const struct journal_run *run, const struct lh_store *journal,
                         const unsigned char *home)
{
	for (long i = run->states.hi; i >= 0; i--)
		if (memcmp(home, run->content[i]->home, sizeof run->content[i]->home) == 0 &&
		    is_client(journal, run->content[i]->client))
			return i;
	return -1;
}

static const unsigned char *home_on(struct lh_crash *medium, const struct lh_store *journal)
{
	return (const unsigned char *)lh__crash_seen(medium) + lh__journal_home(journal) * LH_PAGE_SIZE;
}

static void let_go(struct lh_store *journal)
{
	struct lh_store *below = lh__journal_release(journal);

	below->ops->close(below);
}

/*
 * A change of the shape of the record that may have been lost, with a content of its own: where remains of
 * the old log are taken for what comes after it, here they would be.
 */
static struct lh_change change_to_go_on(const struct journal_run *run, long found, const void *data)
{
	const struct journal_record *lost = found < run->n ? run->content[found + 1]->by : NULL;
	struct lh_change change = { .page = 1, .mask = 1, .data = data };

	if (lost && lost->n == 1) {
		change = lost->change[0];
		change.data = data;
	}
	return change;
}

/* Appends to what has been recovered, and recovers that. */
static long go_on(struct journal_run *run, struct lh_crash *medium, struct lh_store *journal, long found,
                  char *reason)
{
	unsigned char home[JOURNAL_HOME][LH_PAGE_SIZE], data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_change change;
	struct lh_error error;
	uint64_t sequence;
	bool kept;
	int result;

	memcpy(home, run->content[found]->home, sizeof home);
	memset(data, 0xa5, sizeof data);
	change = change_to_go_on(run, found, data);
	apply_change(home, &change);
	result = lh__journal_append(journal, &change, 1, &sequence);
	if (result == 0)
		result = lh__journal_flush(journal, sequence);
	let_go(journal);
	if (result != 0)
		return crash_says(reason, "after recovery an append fails: %s", lh__errno_name(result));
	result = lh__journal_open(lh__crash_store(medium), false, &journal, &error);
	if (result != 0)
		return crash_says(reason, "after recovery and an append it does not open: %s", error.text);
	kept = memcmp(home_on(medium, journal), home, sizeof home) == 0;
	let_go(journal);
	return kept ? found
	            : crash_says(reason, "what was appended after recovery is not what is found then");
}

static long judge(const struct journal_run *run, struct lh_crash *medium, const struct lh_store *journal,
                  char *reason)
{
	long found = find_content(run, journal, home_on(medium, journal));
	uint64_t next = lh__journal_report(journal)->next;

	if (found < 0)
		return crash_says(reason, "what is found was never there (%ld to %ld would be right)",
		                  run->states.lo, run->states.hi);
	if (next <= run->content[run->states.lo]->sequence)
		return crash_says(reason, "sequence %llu is given again", (unsigned long long)next);
	return found;
}

static long journal_recover(void *context, struct lh_crash *medium, unsigned how, char reason[CRASH_REASON])
{
	struct journal_run *run = context;
	struct lh_store *journal;
	struct lh_error error;
	long found;
	int result = lh__journal_open(lh__crash_store(medium), false, &journal, &error);

	if (result != 0)
		return crash_says(reason, "it does not open: %s", error.text);
	found = judge(run, medium, journal, reason);
	if (found >= 0 && how & CRASH_GO_ON)
		return go_on(run, medium, journal, found, reason);
	let_go(journal);
	return found;
}

/* ---- steps ---- */

static bool chance(struct journal_run *run, unsigned percent)
{
	return random_next(&run->random) % 100 < percent;
}

/* Whether a call did what it should; else the run has failed. */
static bool must(struct journal_run *run, int result, const char *what)
{
	if (result < 0)
		crash_fail(&run->states, what, lh__errno_name(result));
	return result >= 0;
}

static void flush_newest(struct journal_run *run)
{
	uint64_t sequence = newest(run)->sequence;

	if (run->states.lo == run->n)
		return;
	if (must(run, lh__journal_flush(run->journal, sequence), "flush"))
		crash_acknowledged(&run->states, run->n);
}

static void apply_record(struct journal_content *content, struct journal_record *record)
{
	for (size_t i = 0; i < record->n; i++)
		apply_change(content->home, &record->change[i]);
	content->by = record;
	content->redo = true;
}

static void step_append(struct journal_run *run, bool big)
{
	struct journal_record *record = random_record(&run->random, big);
	struct journal_content *content = next_content(run);

	apply_record(content, record);
	if (must(run, lh__journal_append(run->journal, record->change, record->n, &content->sequence),
	         "append") &&
	    (chance(run, 55) || run->n - run->states.lo >= 4))
		flush_newest(run);
}

static void step_client(struct journal_run *run)
{
	unsigned char client[LH_JOURNAL_CLIENT_SIZE];
	struct journal_content *content;

	flush_newest(run);
	content = next_content(run);
	content->sequence = run->content[run->n - 1]->sequence;
	content->client++;
	memset(client, content->client, sizeof client);
	if (must(run, lh__journal_set_client(run->journal, client), "set_client"))
		crash_acknowledged(&run->states, run->n);
}

static void check_get(struct journal_run *run, uint64_t page)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_request request = { .op = LH_OP_GET, .page = page, .mask = LH_MASK_ALL, .data = data };

	if (must(run, lh__store_do(run->journal, &request), "get") &&
	    memcmp(data, newest(run)->home[page], LH_PAGE_SIZE) != 0)
		crash_fail(&run->states, "get", "a page is not as it was put");
}

/* The journal as a store: what is submitted together is one record. */
static void step_store(struct journal_run *run)
{
	struct journal_record *record = random_record(&run->random, false);
	struct lh_request request[JOURNAL_CHANGES], *list[JOURNAL_CHANGES], *done[JOURNAL_CHANGES];
	struct journal_content *content;

	flush_newest(run);
	content = next_content(run);
	apply_record(content, record);
	for (size_t i = 0; i < record->n; i++) {
		const struct lh_change *change = &record->change[i];

		request[i] = (struct lh_request){
			.op = !change->replace ? LH_OP_PUT
			      : change->mask   ? LH_OP_REPLACE
			                       : LH_OP_DROP,
			.flags = chance(run, 50) ? LH_REQUEST_UNCOUNTED : 0,
			.page = change->page,
			.mask = change->mask,
			.data = record->data[i],
		};
		list[i] = &request[i];
	}
	if (!must(run, run->journal->ops->submit(run->journal, list, record->n), "submit"))
		return;
	if (run->journal->ops->poll(run->journal, done, JOURNAL_CHANGES, -1) != record->n)
		crash_fail(&run->states, "poll", "not all requests came back");
	content->sequence = run->content[run->n - 1]->sequence + 1;
	if (must(run, run->journal->ops->sync(run->journal), "sync"))
		crash_acknowledged(&run->states, run->n);
	check_get(run, record->change[0].page);
}

/* ---- steps of undo ---- */

enum { UNDO_RECORDS = 400 };

struct undo_step {
	uint64_t transaction;
	size_t n, max;
	struct journal_record *old[UNDO_RECORDS]; /* what each record put into the log */
};

static unsigned char *memory_of(const struct journal_run *run, uint64_t page)
{
	const struct lh_direct *direct = lh__journal_below(run->journal)->direct;

	return (unsigned char *)direct->base + (lh__journal_home(run->journal) + page) * LH_PAGE_SIZE;
}

static void flush_changes(const struct journal_run *run, const struct journal_record *record)
{
	const struct lh_direct *direct = lh__journal_below(run->journal)->direct;
	unsigned first, count;

	for (size_t i = 0; i < record->n; i++) {
		lh_mask mask = record->change[i].mask;

		while (lh__mask_next_run(&mask, &first, &count))
			direct->flush(direct, memory_of(run, record->change[i].page) + LH_LINE_SIZE * first,
			              (size_t)LH_LINE_SIZE * count);
	}
}

static void fence(const struct journal_run *run)
{
	const struct lh_direct *direct = lh__journal_below(run->journal)->direct;

	direct->fence(direct);
}

/* What is in memory now where the record changes something. */
static struct journal_record *old_lines(const struct journal_run *run, const struct journal_record *record)
{
	struct journal_record *old = malloc(sizeof *old);

	if (!old)
		abort();
	old->n = record->n;
	for (size_t i = 0; i < record->n; i++) {
		const struct lh_change *change = &record->change[i];

		memcpy(old->data[i], memory_of(run, change->page), LH_PAGE_SIZE);
		old->change[i] = (struct lh_change){
			.page = change->page,
			.mask = change->replace ? LH_MASK_ALL : change->mask,
			.data = old->data[i],
		};
	}
	return old;
}

/* Logs the old lines, and stores the new ones. false: the log has no room for them. */
static bool undo_once(struct journal_run *run, struct undo_step *step, struct journal_content *content,
                      bool big)
{
	struct journal_record *record = random_record(&run->random, big), *old = old_lines(run, record);
	int result = lh__journal_undo(run->journal, &step->transaction, old->change, old->n);

	if (result == 0) {
		for (size_t i = 0; i < record->n; i++) {
			lh_mask mask = record->change[i].mask;
			unsigned char *page = memory_of(run, record->change[i].page);

			apply_change(content->home, &record->change[i]);
			if (record->change[i].replace)
				memset(page, 0, LH_PAGE_SIZE);
			lh__lines_copy(page, record->data[i], mask);
		}
		step->old[step->n++] = old;
		if (chance(run, 30))
			flush_changes(run, old);
	} else {
		free(old);
		if (result != -E2BIG)
			must(run, result, "undo");
	}
	free(record);
	return result == 0;
}

static void roll_back(struct journal_run *run, struct undo_step *step)
{
	for (size_t i = step->n; i-- > 0;) {
		for (size_t j = step->old[i]->n; j-- > 0;)
			lh__lines_copy(memory_of(run, step->old[i]->change[j].page), step->old[i]->data[j],
			               step->old[i]->change[j].mask);
		flush_changes(run, step->old[i]);
	}
	fence(run);
	drop_content(run);
	if (step->transaction &&
	    must(run, lh__journal_end(run->journal, step->transaction), "end of a rollback"))
		crash_acknowledged(&run->states, run->n);
}

static void end_undo(struct journal_run *run, struct undo_step *step, struct journal_content *content)
{
	for (size_t i = 0; i < step->n; i++)
		flush_changes(run, step->old[i]);
	fence(run);
	run->states.hi = run->n;
	content->sequence = step->transaction;
	if (must(run, lh__journal_end(run->journal, step->transaction), "end"))
		crash_acknowledged(&run->states, run->n);
}

/* Until not even one line more has room; what ends the transaction must have some still. Returns false. */
static bool fill_log(struct journal_run *run, struct undo_step *step, struct journal_content *content)
{
	while (step->n < UNDO_RECORDS && undo_once(run, step, content, true) && !crash_enough(&run->states))
		;
	for (unsigned refused = 0; refused < 20 && step->n < UNDO_RECORDS && !crash_enough(&run->states);)
		refused += !undo_once(run, step, content, false);
	return false;
}

/* Returns whether the process dies in the middle of it. */
static bool step_undo(struct journal_run *run)
{
	struct undo_step step = { .max = 1 + random_next(&run->random) % 4 };
	struct journal_content *content;
	bool room = true, dies = chance(run, 5), big = chance(run, run->way->log_pages > 16 ? 50 : 8);

	flush_newest(run);
	/* What was appended to be redone is in memory only when it has come home. */
	if (run->content[run->n]->redo && must(run, lh__journal_checkpoint(run->journal), "checkpoint"))
		newest(run)->redo = false;
	content = next_content(run);
	run->states.hi = run->states.lo; /* what is not ended never happened */
	while (room && step.n < step.max && !crash_enough(&run->states))
		room = undo_once(run, &step, content, big);
	if (chance(run, 4))
		room = fill_log(run, &step, content);
	if (dies)
		drop_content(run);
	else if (!room || step.n == 0 || chance(run, 25))
		roll_back(run, &step);
	else
		end_undo(run, &step, content);
	for (size_t i = 0; i < step.n; i++)
		free(step.old[i]);
	return dies;
}

/* ---- a run ---- */

/* Opens what the medium shows, and takes what is found for the newest. */
static bool open_again(struct journal_run *run)
{
	struct lh_error error;
	long found;

	if (lh__journal_open(lh__crash_store(run->states.medium), false, &run->journal, &error) != 0) {
		crash_fail(&run->states, "open", error.text);
		run->journal = NULL;
		return false;
	}
	found = find_content(run, run->journal, home_on(run->states.medium, run->journal));
	if (found < run->states.lo || found > run->states.hi) {
		crash_fail(&run->states, "open", "not the content that was there");
		return false;
	}
	while (run->n > found)
		drop_content(run);
	crash_acknowledged(&run->states, found);
	return !crash_enough(&run->states);
}

static bool step_close(struct journal_run *run, bool dies)
{
	if (!dies && chance(run, 50))
		must(run, lh__journal_finish(run->journal), "finish");
	if (dies)
		let_go(run->journal);
	else
		run->journal->ops->close(run->journal);
	return open_again(run);
}

static void step(struct journal_run *run, bool undo)
{
	unsigned dice = (unsigned)(random_next(&run->random) % 100);

	if (dice < 6)
		step_close(run, false);
	else if (dice < 9)
		step_close(run, true);
	else if (dice < 14)
		must(run, lh__journal_checkpoint(run->journal), "checkpoint");
	else if (dice < 17)
		step_client(run);
	else if (undo && step_undo(run))
		step_close(run, true);
	else if (undo)
		return;
	else if (dice < 25)
		step_store(run);
	else
		step_append(run, dice < 31);
}

/* Salts from the seed, so that a seed shows everything again. */
static long journal_sys_call(void *context, long nr, const long argument[6])
{
	struct journal_run *run = context;

	if (nr != SYS_getrandom)
		return lh__sys_default.call(lh__sys_default.context, nr, argument);
	random_bytes(&run->salts, (void *)argument[0], (size_t)argument[1]);
	return argument[1];
}

static void format_journal(struct journal_run *run)
{
	struct lh_journal_format format = { .log_pages = run->way->log_pages, .home_pages = JOURNAL_HOME };
	struct lh_error error;

	run->states.resting = true;
	if (lh__journal_format(lh__crash_store(run->states.medium), &format, &error) != 0)
		crash_fail(&run->states, "format", error.text);
	run->content[0] = calloc(1, sizeof **run->content);
	if (!run->content[0])
		abort();
	run->n = 0;
	run->states.lo = run->states.hi = 0;
	run->states.resting = false;
}

static void close_run(struct journal_run *run)
{
	if (run->journal)
		let_go(run->journal);
	while (run->n > 0)
		drop_content(run);
	free(run->content[0]);
	crash_states_close(&run->states);
}

/* An empty journal, which close_run ends. */
static void journal_begin(struct journal_run *run, const struct journal_way *way, uint64_t seed,
                          uint64_t limit)
{
	struct lh_crash_options options = { .pages = 2 + way->log_pages + JOURNAL_HOME,
		                            .direct = way->direct,
		                            .no_durable_put = way->no_durable_put };

	*run = (struct journal_run){ .way = way, .random = seed, .salts = seed ^ 0x5a17 };
	run->sys = lh__sys_default;
	run->sys.context = run;
	run->sys.call = journal_sys_call;
	run->states.recover = journal_recover;
	run->states.context = run;
	run->states.random = seed ^ 0xfeed;
	run->states.limit = limit;
	crash_states_open(&run->states, &run->sys, &options);
	format_journal(run);
}

/* One script of this seed; its counts stay in run->states. limit: media at which it is enough. */
__attribute__((unused)) static void journal_script(struct journal_run *run, const struct journal_way *way,
                                                   uint64_t seed, uint64_t limit)
{
	journal_begin(run, way, seed, limit);
	if (open_again(run))
		for (unsigned i = 0; i < way->steps && !crash_enough(&run->states); i++)
			step(run, way->undo && !(way->log_pages == LH_JOURNAL_LOG_MIN && i % 16 > 12));
	close_run(run);
}

#endif
