/*
 * journal_log.c - what the journal's log promises: what is submitted or appended at once is one record, and
 * all of it is there after a crash, or none; a log that has been gone round many times; what a record, a log
 * and a journal may be.
 */
#include "journal_places.h"
#include "line_random.h"

enum { LOG_PAGES = 256, MANY = 5000 };

/* ---- records as visit shows them ---- */

struct seen {
	uint64_t records, sets, first, last;
	bool broken_order;
};

static int see(void *context, const struct lh_log_record *record)
{
	struct seen *seen = context;
	size_t at = 0;

	seen->broken_order |= seen->records > 0 && record->sequence != seen->last + 1;
	seen->first = seen->records++ == 0 ? record->sequence : seen->first;
	seen->last = record->sequence;
	while (at < record->size - LH_LOG_RECORD_HEADER) {
		struct lh_lineset set;
		long taken =
			lh__log_set_decode(&set, record->sets + at, record->size - LH_LOG_RECORD_HEADER - at);

		if (taken <= 0)
			return -EBADMSG;
		at += (size_t)taken;
		seen->sets++;
	}
	return 0;
}

static struct seen see_all(struct lh_store *below)
{
	struct seen seen = { .records = 0 };

	MUST(lh__journal_visit(below, see, &seen, NULL));
	return seen;
}

/* ---- as a store ---- */

static struct lh_request requests[MANY];

static unsigned collect(struct lh_store *store, size_t n, int result)
{
	struct lh_request *done[64];
	unsigned as_wanted = 0;
	size_t got;

	while (n > 0 && (got = store->ops->poll(store, done, 64, -1)) > 0) {
		for (size_t i = 0; i < got; i++)
			as_wanted += done[i]->result == result;
		n -= got;
	}
	return as_wanted;
}

/* n requests in one submit; how many of them gave that result. */
static unsigned submit(struct lh_store *store, size_t n, int result)
{
	static struct lh_request *list[MANY];

	for (size_t i = 0; i < n; i++)
		list[i] = &requests[i];
	MUST(store->ops->submit(store, list, n));
	return collect(store, n, result);
}

/* A put, a replacement and a page that is dropped. Nothing is counted, since that would make all durable. */
static void three_changes(uint64_t version)
{
	requests[0] = (struct lh_request){ .op = LH_OP_PUT, .mask = 3, .data = page_of(0, version) };
	requests[1] = (struct lh_request){
		.op = LH_OP_REPLACE, .page = 1, .mask = 0xf0, .data = page_of(1, version)
	};
	requests[0].flags = requests[1].flags = LH_REQUEST_UNCOUNTED;
	requests[2] = (struct lh_request){ .op = LH_OP_DROP, .page = 2 };
}

static void one_record(enum place place)
{
	const char *name = place_names[place];
	struct below below;
	struct lh_store *journal;
	struct seen seen;

	if (!below_open(&lh__sys_default, place, &below)) {
		skip(name, "there is no such store");
		return;
	}
	journal = new_journal(below.store, LOG_PAGES, 0);
	requests[0] =
		(struct lh_request){ .op = LH_OP_PUT, .page = 2, .mask = LH_MASK_ALL, .data = page_of(2, 1) };
	is(submit(journal, 1, 0), 1, "%s: a page is put", name);
	MUST(journal->ops->sync(journal));
	MUST(lh__journal_checkpoint(journal));
	three_changes(1);
	is(submit(journal, 3, 0), 3, "%s: three changes in one submit", name);
	MUST(journal->ops->sync(journal));
	seen = see_all(below.store);
	ok(seen.records == 1 && seen.sets == 3, "%s: are one record of three line sets (%lu, %lu)", name,
	   (unsigned long)seen.records, (unsigned long)seen.sets);
	three_changes(2);
	if (place != PLACE_MAPPED) /* there an append is durable at once */
		is(submit(journal, 3, 0), 3, "%s: three more, which nobody makes durable", name);
	journal = reopen(journal);
	ok(lh__journal_report(journal)->transactions == 1 && !lh__journal_report(journal)->clean,
	   "%s: after a crash one record is redone", name);
	ok(holds(journal, 0, 3, 1) && holds(journal, 1, 0xf0, 1) && holds(journal, 2, 0, 0),
	   "%s: all of the first three are there, and none of the others", name);
	journal->ops->close(journal);
	below_end(&below);
}

static void get_divides(void)
{
	unsigned char data[LH_PAGE_SIZE];
	struct below below;
	struct lh_store *journal;

	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	journal = new_journal(below.store, LOG_PAGES, 0);
	for (unsigned i = 0; i < 3; i++)
		requests[i] = (struct lh_request){ .op = i == 1 ? LH_OP_GET : LH_OP_PUT,
			                           .flags = i == 1 ? 0 : LH_REQUEST_UNCOUNTED,
			                           .page = 7,
			                           .mask = LH_MASK_ALL,
			                           .data = i == 1 ? data : page_of(7, i + 1) };
	is(submit(journal, 3, 0), 3, "two changes, and a GET between them");
	is(data[5], value_of(7, 1), "which sees the first");
	MUST(journal->ops->sync(journal));
	is(see_all(below.store).records, 2, "are two records");
	journal->ops->close(journal);
	below_end(&below);
}

static void thousands(void)
{
	struct below below;
	struct lh_store *journal;
	unsigned wrong = 0;
	struct seen seen;

	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	journal = new_journal(below.store, LOG_PAGES, 0);
	for (unsigned i = 0; i < MANY; i++)
		requests[i] = (struct lh_request){
			.op = LH_OP_PUT, .page = i, .mask = lh__mask_line(i % 64), .data = page_of(i % 16, 1)
		};
	is(submit(journal, MANY, 0), MANY, "%d changes in one submit", MANY);
	MUST(journal->ops->sync(journal));
	seen = see_all(below.store);
	ok(seen.records == 1 && seen.sets == MANY, "are one record");
	journal = reopen(journal);
	for (unsigned i = 0; i < MANY; i++) {
		unsigned char data[LH_PAGE_SIZE];
		lh_mask held;

		MUST(journal->ops->get_now(journal, i, LH_MASK_ALL, data, &held));
		wrong += held != lh__mask_line(i % 64) || data[i % 64 * LH_LINE_SIZE] != value_of(i % 16, 1);
	}
	is(wrong, 0, "and all of them are there after a crash");
	journal->ops->close(journal);
	below_end(&below);
}

/* ---- what does not fit ---- */

static int append_pages(struct lh_store *journal, unsigned pages, lh_mask last, uint64_t version,
                        uint64_t *sequence)
{
	struct lh_change changes[8];

	for (unsigned i = 0; i < pages; i++)
		changes[i] = (struct lh_change){ .page = i,
			                         .mask = i + 1 < pages ? LH_MASK_ALL : last,
			                         .data = page_of(i, version) };
	return lh__journal_append(journal, changes, pages, sequence);
}

static void too_big(void)
{
	/* Eight pages are half of the log: seven pages, 40 bytes, 8 for each set, and the rest of lines. */
	const lh_mask fits = lh__mask_range(0, 62), more = lh__mask_range(0, 63);
	uint64_t first, second;
	struct below below;
	struct lh_store *journal;

	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	journal = new_journal(below.store, LH_JOURNAL_LOG_MIN, 0);
	MUST(append_pages(journal, 1, 1, 1, &first));
	MUST(lh__journal_flush(journal, first));
	is(append_pages(journal, 8, more, 2, &second), -E2BIG, "a record of more than half of the log");
	is(see_all(below.store).records, 1, "is not in the log");
	for (unsigned i = 0; i < 8; i++)
		requests[i] = (struct lh_request){
			.op = LH_OP_REPLACE, .page = i, .mask = LH_MASK_ALL, .data = page_of(i, 2)
		};
	is(submit(journal, 8, -E2BIG), 8, "each of the changes that do not fit in it fails");
	ok(holds(journal, 0, 1, 1) && holds(journal, 1, 0, 0), "and has changed nothing");
	is(append_pages(journal, 8, fits, 2, &second), 0, "a record of half of the log");
	is(second, first + 1, "is the next one");
	MUST(lh__journal_flush(journal, second));
	journal = reopen(journal);
	ok(holds(journal, 0, LH_MASK_ALL, 2) && holds(journal, 7, fits, 2), "and is there after a crash");
	journal->ops->close(journal);
	below_end(&below);
}

/* ---- going round ---- */

enum { HOME = 12, ROUNDS = 3000 };

struct model {
	unsigned char page[HOME][LH_PAGE_SIZE];
};

static uint64_t append_random(struct lh_store *journal, struct model *model, uint64_t *random)
{
	static unsigned char data[6][LH_PAGE_SIZE];
	struct lh_change changes[6];
	unsigned n = 1 + (unsigned)(random_next(random) % 6);
	uint64_t sequence;

	for (unsigned i = 0; i < n; i++) {
		struct lh_change *change = &changes[i];

		random_bytes(random, data[i], LH_PAGE_SIZE);
		*change = (struct lh_change){ .page = random_next(random) % HOME, .data = data[i] };
		change->mask = random_next(random) % 4 ? lh__mask_line((unsigned)random_next(random) % 64)
		                                       : random_next(random) | 1;
		change->replace = random_next(random) % 16 == 0;
		if (change->replace)
			memset(model->page[change->page], 0, LH_PAGE_SIZE);
		lh__lines_copy(model->page[change->page], change->data, change->mask);
	}
	MUST(lh__journal_append(journal, changes, n, &sequence));
	return sequence;
}

static unsigned wrong_pages(struct lh_store *store, uint64_t first, const struct model *model)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	unsigned wrong = 0;
	lh_mask held;

	for (unsigned i = 0; i < HOME; i++) {
		MUST(store->ops->get_now(store, first + i, LH_MASK_ALL, data, &held));
		wrong += memcmp(data, model->page[i], LH_PAGE_SIZE) != 0;
	}
	return wrong;
}

static void round_and_round(enum place place)
{
	static struct model model;
	const char *name = place_names[place];
	uint64_t random = 77 + place, last = 0, appended = 0;
	unsigned wrong = 0, out_of_order = 0;
	struct below below;
	struct lh_store *journal;
	uint64_t home;

	if (!below_open(&lh__sys_default, place, &below)) {
		skip(name, "there is no such store");
		return;
	}
	memset(&model, 0, sizeof model);
	journal = new_journal(below.store, LH_JOURNAL_LOG_MIN, HOME);
	for (unsigned i = 0; i < (place == PLACE_DISK ? ROUNDS / 10 : ROUNDS); i++) {
		struct lh_journal_counts counts;
		uint64_t sequence = append_random(journal, &model, &random);

		/* A record that says that the rest of the ring is skipped has one, too. */
		out_of_order += sequence != last + 1 && sequence != last + 2;
		last = sequence;
		if (random_next(&random) % 8 == 0)
			wrong += wrong_pages(journal, 0, &model);
		if (random_next(&random) % 16)
			continue;
		MUST(lh__journal_flush(journal, UINT64_MAX));
		lh__journal_counts(journal, &counts);
		appended += counts.log_bytes;
		if (random_next(&random) % 2)
			MUST(lh__journal_finish(journal));
		journal = reopen(journal);
		out_of_order += lh__journal_report(journal)->next != last + 1;
		wrong += wrong_pages(journal, 0, &model);
	}
	ok(appended > 5 * LH_JOURNAL_LOG_MIN * LH_PAGE_SIZE, "%s: the log has been gone round %lu times",
	   name, (unsigned long)(appended / (LH_JOURNAL_LOG_MIN * LH_PAGE_SIZE)));
	is(wrong, 0, "%s: all pages are as they should be, open and opened again", name);
	is(out_of_order, 0, "%s: the sequence goes on, whether it was closed or not", name);
	MUST(lh__journal_finish(journal));
	home = lh__journal_home(journal);
	below.store = lh__journal_release(journal);
	is(wrong_pages(below.store, home, &model), 0, "%s: when it was closed everything is home", name);
	model.page[HOME - 1][9] ^= 1;
	is(wrong_pages(below.store, home, &model), 1, "%s: one wrong bit is seen", name);
	below_close(&below);
}

/* ---- limits ---- */

static void format_limits(void)
{
	static const struct lh_journal_format bad[] = {
		{ .log_pages = 0 },
		{ .log_pages = LH_JOURNAL_LOG_MIN - 1 },
		{ .log_pages = LH_PAGE_NUMBER_MAX / 2 + 1 },
		{ .log_pages = UINT64_MAX },
		{ .log_pages = LH_JOURNAL_LOG_MIN, .home_pages = LH_PAGE_NUMBER_MAX / 4 + 1 },
		{ .log_pages = LH_JOURNAL_LOG_MIN, .home_pages = UINT64_MAX },
	};
	struct lh_journal_format most = { .log_pages = LH_JOURNAL_LOG_MIN };
	struct lh_journal_look look;
	struct below below;
	struct lh_store *journal;

	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		is(lh__journal_format(below.store, &bad[i], NULL), -EINVAL, "format %zu cannot be", i);
	is(lh__journal_look(below.store, &look, NULL), -EBADMSG, "and nothing has been written");
	is(lh__journal_open(below.store, false, &journal, NULL), -EBADMSG, "there is nothing to be opened");
	below.store->caps.last_page = 2 + LH_JOURNAL_LOG_MIN;
	is(lh__journal_format(below.store, &most, NULL), -EINVAL,
	   "a store that has no room for a page of it");
	is(lh__journal_look(below.store, &look, NULL), -EBADMSG, "is left alone");
	below.store->caps.last_page++;
	MUST(lh__journal_format(below.store, &most, NULL));
	journal = open_journal(below.store);
	is(lh__store_last_page(journal), 1, "one with room for two has two");
	requests[0] = (struct lh_request){ .op = LH_OP_PUT, .page = 1, .mask = 1, .data = page_of(1, 1) };
	is(submit(journal, 1, 0), 1, "the last page is one");
	requests[0].page = 2;
	is(lh__store_do(journal, &requests[0]), -EINVAL, "the one behind it is none");
	below.store = lh__journal_release(journal);
	below.store->caps.last_page--;
	is(lh__journal_open(below.store, false, &journal, NULL), -EBADMSG,
	   "a store that has become too small is refused");
	below.store->caps.last_page = 0;
	below_close(&below);
}

static bool is_client(const void *client, unsigned char byte)
{
	const unsigned char *bytes = client;

	for (unsigned i = 0; i < LH_JOURNAL_CLIENT_SIZE; i++)
		if (bytes[i] != byte)
			return false;
	return true;
}

static void header_tells(void)
{
	unsigned char client[LH_JOURNAL_CLIENT_SIZE];
	struct lh_journal_format format = { .log_pages = 20, .home_pages = 3, .client = client };
	struct lh_journal_look look;
	struct below below;
	struct lh_store *journal;

	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	memset(client, 0x5c, sizeof client);
	MUST(lh__journal_format(below.store, &format, NULL));
	MUST(lh__journal_look(below.store, &look, NULL));
	ok(is_client(look.client, 0x5c) && look.log_pages == 20 && look.home == 22 && look.clean,
	   "a journal's header tells what it is, from the beginning");
	journal = open_journal(below.store);
	ok(lh__journal_report(journal)->clean && lh__journal_report(journal)->records == 0,
	   "a new one is clean");
	MUST(lh__journal_look(below.store, &look, NULL));
	ok(!look.clean, "an open one is not closed");
	memset(client, 0xc5, sizeof client);
	MUST(lh__journal_set_client(journal, client));
	MUST(lh__journal_look(below.store, &look, NULL));
	ok(is_client(look.client, 0xc5) && is_client(lh__journal_client(journal), 0xc5),
	   "the client's part has changed");
	MUST(lh__journal_finish(journal));
	is(lh__journal_finish(journal), 0, "closing twice is no error");
	below.store = lh__journal_release(journal);
	MUST(lh__journal_look(below.store, &look, NULL));
	ok(is_client(look.client, 0xc5) && look.clean, "and it says that it was closed");
	below_close(&below);
}

static void read_only(void)
{
	struct below below;
	struct lh_store *journal;
	uint64_t sequence;

	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	journal = new_journal(below.store, LH_JOURNAL_LOG_MIN, 0);
	MUST(append_pages(journal, 1, 1, 1, &sequence));
	MUST(lh__journal_flush(journal, sequence));
	below.store = lh__journal_release(journal);
	is(lh__journal_open(below.store, true, &journal, NULL), -EROFS,
	   "what has to be recovered is not read");
	is(see_all(below.store).records, 1, "and is left as it is");
	journal = open_journal(below.store);
	MUST(lh__journal_finish(journal));
	below.store = lh__journal_release(journal);
	MUST(lh__journal_open(below.store, true, &journal, NULL));
	ok(holds(journal, 0, 1, 1), "closed, it is");
	is(lh__journal_finish(journal), 0, "there is nothing to be finished");
	journal->ops->close(journal);
	below_end(&below);
}

static void undo_needs_memory(void)
{
	struct lh_change change = { .page = 0, .mask = 1, .data = page_of(0, 1) };
	uint64_t transaction = 0;
	struct below below;
	struct lh_store *journal;

	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	journal = new_journal(below.store, LH_JOURNAL_LOG_MIN, 0);
	ok(lh__journal_undo(journal, &transaction, &change, 1) == -EOPNOTSUPP && transaction == 0,
	   "no undo where pages are not memory");
	is(see_all(below.store).records, 0, "and nothing in the log");
	journal->ops->close(journal);
	below_end(&below);
	if (!below_open(&lh__sys_default, PLACE_MAPPED, &below)) {
		skip("undo where pages are memory", "there is no tmpfs at /dev/shm");
		return;
	}
	journal = new_journal(below.store, LH_JOURNAL_LOG_MIN, 1);
	ok(lh__journal_undo(journal, &transaction, &change, 1) == 0 && transaction != 0,
	   "it is where they are");
	is(lh__journal_finish(journal), -EBUSY, "none is closed inside a transaction");
	MUST(lh__journal_end(journal, transaction));
	is(lh__journal_finish(journal), 0, "but after it");
	journal->ops->close(journal);
	below_end(&below);
}

int main(void)
{
	for (enum place place = PLACE_MEMORY; place < PLACES; place++) {
		one_record(place);
		round_and_round(place);
	}
	get_divides();
	thousands();
	too_big();
	format_limits();
	header_tells();
	read_only();
	undo_needs_memory();
	return done();
}
