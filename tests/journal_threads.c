/*
 * journal_threads.c - a journal that several threads use: records that are appended while the log is being
 * written share the next write; and threads that append by turns, flush, bring home and read, beside one that
 * looks at the log from outside, lose nothing that was acknowledged. Meant for ThreadSanitizer as well.
 */
#include <pthread.h>

#include "journal_places.h"

enum { WRITERS = 4, GROUP = 5 };

/* ---- a store whose puts wait while it is shut ---- */

struct gated {
	struct lh_store store;
	struct lh_store *below;
	pthread_mutex_t lock;
	pthread_cond_t change;
	bool shut;
	unsigned waiting; /* submits that do, or did */
};

static int gated_submit(struct lh_store *store, struct lh_request *const *list, size_t n)
{
	struct gated *gated = (struct gated *)store;

	pthread_mutex_lock(&gated->lock);
	gated->waiting += gated->shut;
	pthread_cond_broadcast(&gated->change);
	while (gated->shut)
		pthread_cond_wait(&gated->change, &gated->lock);
	pthread_mutex_unlock(&gated->lock);
	return gated->below->ops->submit(gated->below, list, n);
}

static size_t gated_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct lh_store *below = ((struct gated *)store)->below;

	return below->ops->poll(below, done, max, timeout_ms);
}

static int gated_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct lh_store *below = ((struct gated *)store)->below;

	return below->ops->get_now(below, page, want, data, held);
}

static int gated_sync(struct lh_store *store)
{
	return 0;
}

static void gated_close(struct lh_store *store)
{
}

static void gate(struct gated *gated, bool shut)
{
	pthread_mutex_lock(&gated->lock);
	gated->shut = shut;
	pthread_cond_broadcast(&gated->change);
	pthread_mutex_unlock(&gated->lock);
}

static void await_waiting(struct gated *gated)
{
	pthread_mutex_lock(&gated->lock);
	while (gated->waiting == 0)
		pthread_cond_wait(&gated->change, &gated->lock);
	pthread_mutex_unlock(&gated->lock);
}

/* ---- group commit ---- */

struct flusher {
	pthread_t thread;
	struct lh_store *journal;
	uint64_t sequence;
	int result;
};

static void *flush_thread(void *argument)
{
	struct flusher *flusher = argument;

	flusher->result = lh__journal_flush(flusher->journal, flusher->sequence);
	return NULL;
}

static void append_one(struct lh_store *journal, uint64_t page, uint64_t version, uint64_t *sequence)
{
	struct lh_change change = { .page = page, .mask = 1, .data = page_of(page, version) };

	MUST(lh__journal_append(journal, &change, 1, sequence));
}

static uint64_t flushes(const struct lh_store *journal)
{
	struct lh_journal_counts counts;

	lh__journal_counts(journal, &counts);
	return counts.flushes;
}

static void start(struct flusher *flusher)
{
	MUST(pthread_create(&flusher->thread, NULL, flush_thread, flusher));
}

static void share_a_write(void)
{
	static const struct lh_store_ops ops = {
		.name = "gated",
		.submit = gated_submit,
		.poll = gated_poll,
		.get_now = gated_get_now,
		.sync = gated_sync,
		.close = gated_close,
	};
	struct flusher flusher[1 + GROUP];
	unsigned failed = 0;
	struct below below;
	struct gated gated = { .shut = false };
	struct lh_store *journal;

	MUST(!below_open(&lh__sys_default, PLACE_MEMORY, &below));
	MUST(lh__journal_format(below.store, &(struct lh_journal_format){ .log_pages = 16 }, NULL));
	gated.store = (struct lh_store){ .ops = &ops, .sys = below.store->sys, .caps = below.store->caps };
	gated.below = below.store;
	pthread_mutex_init(&gated.lock, NULL);
	pthread_cond_init(&gated.change, NULL);
	journal = open_journal(&gated.store);
	gate(&gated, true);
	for (unsigned i = 0; i <= GROUP; i++) {
		flusher[i] = (struct flusher){ .journal = journal, .result = 1 };
		append_one(journal, i, 1, &flusher[i].sequence);
		start(&flusher[i]);
		if (i == 0)
			await_waiting(
				&gated); /* the first is being written; what follows is not part of it */
	}
	is(flushes(journal), 0, "%d threads flush, and nothing has been written yet", 1 + GROUP);
	gate(&gated, false);
	for (unsigned i = 0; i <= GROUP; i++) {
		pthread_join(flusher[i].thread, NULL);
		failed += flusher[i].result != 0;
	}
	is(failed, 0, "all records are durable");
	is(flushes(journal), 2, "by two writes");
	MUST(lh__journal_flush(journal, UINT64_MAX));
	is(flushes(journal), 2, "what is durable is not written again");
	lh__journal_release(journal);
	pthread_cond_destroy(&gated.change);
	pthread_mutex_destroy(&gated.lock);
	below_close(&below);
}

/* ---- all at once ---- */

struct crowd {
	enum place place;
	struct below below;
	struct lh_store *journal;
	struct lh_store *outside; /* another handle of the same file; NULL: there is no other */
	pthread_mutex_t turn;     /* of who appends */
	unsigned rounds;
	bool over;
	uint64_t acknowledged[WRITERS]; /* each has its page */
	unsigned wrong_read, wrong_log, wrong_count, visits;
};

struct member {
	pthread_t thread;
	struct crowd *crowd;
	unsigned index;
};

/* Each word of a page is its version: so a torn page shows, and an old one. */
static void *fill(uint64_t *words, uint64_t version)
{
	for (unsigned i = 0; i < LH_PAGE_SIZE / 8; i++)
		words[i] = version;
	return words;
}

static bool is_filled(const uint64_t *words)
{
	for (unsigned i = 1; i < LH_PAGE_SIZE / 8; i++)
		if (words[i] != words[0])
			return false;
	return true;
}

static void *write_thread(void *argument)
{
	struct member *member = argument;
	struct crowd *crowd = member->crowd;
	uint64_t data[LH_PAGE_SIZE / 8] __attribute__((aligned(64)));

	for (unsigned i = 1; i <= crowd->rounds; i++) {
		struct lh_change change = { .page = member->index,
			                    .mask = LH_MASK_ALL,
			                    .data = fill(data, i) };
		uint64_t sequence;

		pthread_mutex_lock(&crowd->turn);
		MUST(lh__journal_append(crowd->journal, &change, 1, &sequence));
		pthread_mutex_unlock(&crowd->turn);
		MUST(lh__journal_flush(crowd->journal, sequence));
		__atomic_store_n(&crowd->acknowledged[member->index], i, __ATOMIC_RELEASE);
	}
	return NULL;
}

static bool is_over(struct crowd *crowd)
{
	return __atomic_load_n(&crowd->over, __ATOMIC_ACQUIRE);
}

static void *checkpoint_thread(void *argument)
{
	struct crowd *crowd = argument;
	struct lh_journal_counts counts, last = { .flushes = 0 };

	while (!is_over(crowd)) {
		MUST(lh__journal_checkpoint(crowd->journal));
		lh__journal_counts(crowd->journal, &counts);
		crowd->wrong_count += lh__journal_used(crowd->journal) > 16 * LH_PAGE_SIZE ||
		                      counts.changed_bytes < last.changed_bytes ||
		                      last.home_bytes > counts.changed_bytes;
		last = counts;
		usleep(100);
	}
	return NULL;
}

/* What was acknowledged before the read began is there, or what came later; never what is older. */
static void *read_thread(void *argument)
{
	struct crowd *crowd = argument;
	uint64_t data[LH_PAGE_SIZE / 8] __attribute__((aligned(64)));

	for (unsigned n = 0; !is_over(crowd); n++) {
		const unsigned page = n % WRITERS;
		uint64_t version = __atomic_load_n(&crowd->acknowledged[page], __ATOMIC_ACQUIRE);
		lh_mask held;

		MUST(crowd->journal->ops->get_now(crowd->journal, page, LH_MASK_ALL, data, &held));
		crowd->wrong_read += data[0] < version || data[0] > crowd->rounds || !is_filled(data);
		usleep(200);
	}
	return NULL;
}

static int see(void *context, const struct lh_log_record *record)
{
	uint64_t *last = context;

	if (*last && record->sequence != *last + 1)
		return 1;
	*last = record->sequence;
	return 0;
}

/* It may be too fast to be seen; what is seen is a log. */
static void *visit_thread(void *argument)
{
	struct crowd *crowd = argument;

	while (crowd->outside && !is_over(crowd)) {
		struct lh_journal_look look;
		uint64_t last = 0;
		int result = lh__journal_visit(crowd->outside, see, &last, NULL);

		crowd->visits += result == 0;
		crowd->wrong_log += result != 0 && result != -EAGAIN;
		result = lh__journal_look(crowd->outside, &look, NULL);
		crowd->wrong_log += result != 0 || look.clean || look.log_pages != 16;
		usleep(500);
	}
	return NULL;
}

static void open_outside(struct crowd *crowd)
{
	if (crowd->place != PLACE_MEMORY)
		MUST(open_file_at(&lh__sys_default, crowd->below.path, crowd->place == PLACE_MAPPED,
		                  &crowd->outside));
}

static void run_crowd(struct crowd *crowd)
{
	struct member member[WRITERS];
	void *(*const others[])(void *) = { checkpoint_thread, read_thread, visit_thread };
	pthread_t other[3];

	for (unsigned i = 0; i < 3; i++)
		MUST(pthread_create(&other[i], NULL, others[i], crowd));
	for (unsigned i = 0; i < WRITERS; i++) {
		member[i] = (struct member){ .crowd = crowd, .index = i };
		MUST(pthread_create(&member[i].thread, NULL, write_thread, &member[i]));
	}
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(member[i].thread, NULL);
	__atomic_store_n(&crowd->over, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(other[i], NULL);
}

static void all_at_once(enum place place)
{
	const char *name = place_names[place];
	struct crowd crowd = { .place = place, .rounds = place == PLACE_DISK ? 250 : 1000 };
	uint64_t data[LH_PAGE_SIZE / 8];
	unsigned lost = 0;

	if (!below_open(&lh__sys_default, place, &crowd.below)) {
		skip(name, "there is no such store");
		return;
	}
	pthread_mutex_init(&crowd.turn, NULL);
	crowd.journal = new_journal(crowd.below.store, LH_JOURNAL_LOG_MIN, WRITERS);
	open_outside(&crowd);
	run_crowd(&crowd);
	if (place != PLACE_MAPPED)
		ok(flushes(crowd.journal) <= WRITERS * crowd.rounds,
		   "%s: no write without a record (%lu for %u)", name, (unsigned long)flushes(crowd.journal),
		   WRITERS * crowd.rounds);
	if (crowd.outside)
		crowd.outside->ops->close(crowd.outside);
	crowd.journal = reopen(crowd.journal);
	for (unsigned i = 0; i < WRITERS; i++) {
		lh_mask held;

		MUST(crowd.journal->ops->get_now(crowd.journal, i, LH_MASK_ALL, data, &held));
		lost += crowd.acknowledged[i] != crowd.rounds || data[0] != crowd.rounds || !is_filled(data);
	}
	is(lost, 0, "%s: all that was acknowledged is there when it is opened again", name);
	is(crowd.wrong_read, 0, "%s: every read has given what was acknowledged, or later", name);
	is(crowd.wrong_count, 0, "%s: the counts are never more than there was", name);
	if (place == PLACE_MEMORY)
		ok(lh__journal_report(crowd.journal)->next > WRITERS * crowd.rounds, "%s: each was a record",
		   name);
	else
		ok(crowd.wrong_log == 0, "%s: and from outside it was a log, %u times", name, crowd.visits);
	crowd.journal->ops->close(crowd.journal);
	pthread_mutex_destroy(&crowd.turn);
	below_end(&crowd.below);
}

int main(void)
{
	share_a_write();
	for (enum place place = PLACE_MEMORY; place < PLACES; place++)
		all_at_once(place);
	return done();
}
