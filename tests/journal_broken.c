/*
 * journal_broken.c - a journal whose store fails once, at each thing that the journal asks of it: a write of
 * the log, a write home, a sync, the header, a read. It is broken from then on, or nothing has happened. What
 * it answers is right or an error; and what it had acknowledged is there when it is opened again.
 */
#include "inject.h"
#include "journal_places.h"
#include "store/fault.h"

enum { PAGES = 5, STEPS = 14 };

struct trial {
	struct lh_fault_plan plan;
	bool durable_put; /* the log is written so; else it is written and synced */
	bool hasty;       /* planted: what has been appended is taken for acknowledged */
	struct lh_store *fault, *journal;
	uint64_t appended, acknowledged; /* versions: each is one record, of all pages */
	int failed;                      /* what the first call that failed gave */
	bool broken;                     /* that call changes something, so nothing works from then on */
	/* What must not be. */
	unsigned lost, wrong_read, not_broken, wrong_code;
};

static struct lh_change *changes_of(uint64_t version)
{
	static struct lh_change changes[PAGES];

	for (unsigned i = 0; i < PAGES; i++)
		changes[i] =
			(struct lh_change){ .page = i, .mask = LH_MASK_ALL, .data = page_of(i, version) };
	return changes;
}

/* A call that changes something has returned: the first failure breaks the journal, and no other works. */
static void took(struct trial *trial, int result)
{
	trial->wrong_code += result != 0 && result != trial->plan.error;
	trial->not_broken += trial->broken && result == 0;
	if (result == 0)
		return;
	trial->broken = true;
	trial->failed = trial->failed ? trial->failed : result;
}

/* A read may fail, once; it never gives what is not there. */
static void read_all(struct trial *trial)
{
	for (unsigned i = 0; i < PAGES; i++) {
		unsigned char data[LH_PAGE_SIZE];
		lh_mask held;
		int result = trial->journal->ops->get_now(trial->journal, i, LH_MASK_ALL, data, &held);

		if (result == 0)
			trial->wrong_read += data[0] != value_of(i, trial->appended);
		else
			trial->failed = trial->failed ? trial->failed : result;
	}
}

static void append(struct trial *trial)
{
	uint64_t sequence;
	int result = lh__journal_append(trial->journal, changes_of(trial->appended + 1), PAGES, &sequence);

	if (result == 0) {
		trial->appended++;
		result = lh__journal_flush(trial->journal, sequence);
	}
	if (result == 0 || trial->hasty)
		trial->acknowledged = trial->appended;
	took(trial, result);
}

/* The same by a submit and a sync. */
static void submit(struct trial *trial)
{
	struct lh_change *changes = changes_of(trial->appended + 1);
	struct lh_request request[PAGES], *list[PAGES], *done[PAGES];
	int result;

	for (unsigned i = 0; i < PAGES; i++) {
		request[i] = (struct lh_request){ .op = LH_OP_PUT,
			                          .flags = LH_REQUEST_UNCOUNTED,
			                          .page = i,
			                          .mask = LH_MASK_ALL,
			                          .data = (void *)changes[i].data };
		list[i] = &request[i];
	}
	MUST(trial->journal->ops->submit(trial->journal, list, PAGES));
	MUST(trial->journal->ops->poll(trial->journal, done, PAGES, -1) != PAGES);
	result = request[0].result;
	for (unsigned i = 1; i < PAGES; i++)
		trial->wrong_code += request[i].result != result;
	trial->appended += result == 0;
	if (result == 0)
		result = trial->journal->ops->sync(trial->journal);
	if (result == 0)
		trial->acknowledged = trial->appended;
	took(trial, result);
}

/* A read that breaks the journal, for it has something to bring home, shows in the next change. */
static void steps(struct trial *trial)
{
	unsigned char client[LH_JOURNAL_CLIENT_SIZE] = { 1 };

	for (unsigned i = 0; i < STEPS; i++) {
		append(trial);
		if (i % 3 == 0)
			read_all(trial);
		if (i % 4 == 1)
			took(trial, lh__journal_checkpoint(trial->journal));
		if (i % 5 == 2)
			submit(trial);
		if (i == STEPS / 2)
			took(trial, lh__journal_set_client(trial->journal, client));
	}
	took(trial, lh__journal_finish(trial->journal));
}

/* All pages are of one version, which is not older than what was acknowledged. */
static void look_again(struct trial *trial, struct lh_store *below)
{
	struct lh_store *journal = open_journal(below);
	bool found = false;

	for (uint64_t version = trial->acknowledged; version <= trial->appended && !found; version++) {
		found = true;
		for (unsigned i = 0; i < PAGES; i++)
			found &= holds(journal, i, version ? LH_MASK_ALL : 0, version);
	}
	trial->lost += !found;
	MUST(lh__journal_finish(journal));
	lh__journal_release(journal);
}

/* One run, in which the nth thing fails; whether there was an nth. */
static bool run(struct trial *trial, uint64_t nth)
{
	struct below below;
	bool injected;

	trial->appended = trial->acknowledged = 0;
	trial->failed = 0;
	trial->broken = false;
	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	MUST(lh__fault_open(below.store, &trial->fault));
	trial->fault->caps.durable_put = trial->durable_put;
	trial->journal = new_journal(trial->fault, LH_JOURNAL_LOG_MIN, PAGES);
	trial->plan.nth = nth;
	lh__fault_plan(trial->fault, &trial->plan);
	steps(trial);
	injected = lh__fault_injected(trial->fault) > 0;
	trial->wrong_code += injected != (trial->failed != 0);
	lh__fault_plan(trial->fault, NULL);
	MUST(lh__journal_release(trial->journal) != trial->fault);
	look_again(trial, trial->fault);
	trial->fault->ops->close(trial->fault);
	below_end(&below);
	return injected;
}

static void sweep(const char *name, unsigned what, bool lasting, bool durable_put)
{
	struct trial trial = { .plan = { .what = what, .error = -EIO, .lasting = lasting },
		               .durable_put = durable_put };
	uint64_t n = 1;

	while (run(&trial, n))
		n++;
	ok(n > 4, "%s%s: %lu runs in which one failed", name, lasting ? ", and all after it" : "",
	   (unsigned long)n - 1);
	is(trial.wrong_code, 0, "... the error reaches the caller, as it is");
	is(trial.not_broken, 0, "... no change succeeds after one that failed");
	is(trial.wrong_read, 0, "... no read gives what is not there");
	is(trial.lost, 0, "... all that was acknowledged is there when it is opened again");
}

/* That a promise which is not kept would be seen. */
static void planted(void)
{
	struct trial trial = { .plan = { .what = LH_FAULT_PUT, .error = -EIO },
		               .durable_put = true,
		               .hasty = true };
	uint64_t n = 1;

	while (run(&trial, n))
		n++;
	ok(trial.lost > 0, "what was acknowledged too early is found to be lost");
}

int main(void)
{
	for (int lasting = 0; lasting < 2; lasting++) {
		sweep("writes of a log that is synced", LH_FAULT_PUT, lasting, false);
		sweep("writes of a log that is written durably", LH_FAULT_PUT, lasting, true);
		sweep("submits", LH_FAULT_SUBMIT, lasting, true);
		sweep("syncs, of home", LH_FAULT_SYNC, lasting, true);
		sweep("syncs, of log and home", LH_FAULT_SYNC, lasting, false);
		sweep("reads", LH_FAULT_GET_NOW, lasting, true);
	}
	planted();
	return done();
}
