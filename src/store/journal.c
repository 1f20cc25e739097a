/*
 * journal.c - opening and closing a journal, and the journal as a store. See journal.h and journal_inside.h.
 */
#include "store/journal_inside.h"

#include <errno.h>

/* ---- what the parts share ---- */

int lh__journal_do_on(struct lh_store *store, struct lh_request *requests, size_t n)
{
	struct lh_request *list[WRITE_PAGES] = { NULL }, *done[16];
	size_t i, got;
	int result;

	for (i = 0; i < n; i++)
		list[i] = &requests[i];
	result = store->ops->submit(store, list, n);
	for (i = 0; result == 0 && i < n; i += got) {
		got = store->ops->poll(store, done, 16, -1);
		if (got == 0)
			result = -EIO; /* they were all taken, so this cannot be */
	}
	for (i = 0; result == 0 && i < n; i++)
		result = requests[i].result;
	return result;
}

int lh__journal_do(struct journal *journal, struct lh_request *requests, size_t n)
{
	int result;

	lh__lock(journal->store.sys, &journal->requests);
	result = lh__journal_do_on(journal->below, requests, n);
	lh__unlock(journal->store.sys, &journal->requests);
	return result;
}

int lh__journal_sync_below(struct journal *journal)
{
	struct lh_store *below = journal->below;
	int result;

	if (below->caps.sync_aside)
		return below->ops->sync(below);
	lh__lock(below->sys, &journal->requests);
	result = below->ops->sync(below);
	lh__unlock(below->sys, &journal->requests);
	return result;
}

void lh__journal_flush_lines(struct journal *journal, struct lh_journal_counts *counts, const void *from,
                             size_t size)
{
	uintptr_t first = (uintptr_t)from / LH_LINE_SIZE, last = ((uintptr_t)from + size - 1) / LH_LINE_SIZE;

	journal->direct->flush(journal->direct, from, size);
	lh__journal_count(&counts->flushes, last - first + 1);
}

void lh__journal_fence(struct journal *journal, struct lh_journal_counts *counts)
{
	journal->direct->fence(journal->direct);
	lh__journal_count(&counts->fences, 1);
}

int lh__journal_break(struct journal *journal, int result)
{
	int whole = 0;

	if (result < 0)
		__atomic_compare_exchange_n(&journal->broken, &whole, result, false, __ATOMIC_RELAXED,
		                            __ATOMIC_RELAXED);
	return result;
}

/* ---- opening ---- */

static int new_salt(const struct lh_sys *sys, uint64_t *salt)
{
	long got = LH_SYS(sys, SYS_getrandom, salt, sizeof *salt, 0);

	return got == (long)sizeof *salt ? 0 : got < 0 ? (int)got : -EIO;
}

static void set_header(struct journal_header *header, const struct lh_journal_format *format)
{
	memset(header, 0, sizeof *header);
	memcpy(header->magic, JOURNAL_MAGIC, 8);
	header->version = LH_JOURNAL_VERSION_ALONE;
	header->log_page = 2;
	header->log_pages = format->log_pages;
	header->home_page = 2 + format->log_pages;
	header->sequence = 1;
	if (format->client)
		memcpy(header->client, format->client, LH_JOURNAL_CLIENT_SIZE);
}

/*
 * Zeroes are written over the log and not only reserved: a file system has to note in its own log when a
 * reserved block is first written to, and a flush would wait for that.
 */
static int write_zeroes(struct journal *journal)
{
	uint64_t size = journal->header.log_pages * LH_PAGE_SIZE;
	int result = 0;

	if (journal->direct) {
		memset(journal->ring, 0, size);
		lh__journal_flush_lines(journal, &journal->counts, journal->ring, size);
		lh__journal_fence(journal, &journal->counts);
		return 0;
	}
	for (uint64_t i = 0; i < journal->header.log_pages && result == 0; i += WRITE_PAGES) {
		size_t n = 0;

		for (; n < WRITE_PAGES && i + n < journal->header.log_pages; n++)
			journal->writes[n] = (struct lh_request){
				.op = LH_OP_PUT,
				.flags = LH_REQUEST_UNCOUNTED,
				.page = journal->header.log_page + i + n,
				.mask = LH_MASK_ALL,
				.data = journal->ring + (i + n) * LH_PAGE_SIZE,
			};
		result = lh__journal_do(journal, journal->writes, n);
	}
	return result == 0 ? lh__journal_sync_below(journal) : result;
}

static void free_journal(struct journal *journal)
{
	const struct lh_sys *sys = journal->store.sys;

	if (journal->ring)
		lh__journal_ring_free(journal->below, &journal->header, journal->ring);
	if (journal->batch)
		lh__free(sys, journal->batch, sizeof *journal->batch);
	lh__free(sys, journal, sizeof *journal);
}

static const struct lh_store_ops journal_ops;

/* A handle with a ring, of which nothing has been recovered yet. */
static int new_journal(struct lh_store *below, const struct journal_header *header, bool fill,
                       struct journal **out, struct lh_error *error)
{
	struct journal *journal = lh__alloc(below->sys, sizeof *journal);
	int result;

	if (!journal)
		return lh__fail(error, -ENOMEM, "there is no memory for the journal");
	journal->store = (struct lh_store){
		.ops = &journal_ops,
		.sys = below->sys,
		.caps = { .durable = below->caps.durable,
		          .last_page = lh__store_last_page(below) - header->home_page,
		          .depth = below->caps.depth },
	};
	journal->below = below;
	journal->direct = below->direct;
	journal->header = *header;
	journal->ring_size = header->log_pages * LH_PAGE_SIZE;
	journal->done_end = &journal->done;
	journal->in_doubt = -EBADMSG;
	result = lh__journal_ring_read(below, header, fill, &journal->ring, error);
	if (result == 0 && !journal->direct) {
		journal->batch = lh__alloc(below->sys, sizeof *journal->batch);
		if (!journal->batch)
			result = lh__fail(error, -ENOMEM, "there is no memory for the journal");
	}
	if (result < 0) {
		free_journal(journal);
		return result;
	}
	*out = journal;
	return 0;
}

/* There is room for a page behind the log. */
static bool fits(const struct lh_store *below, const struct journal_header *header)
{
	return header->home_page < lh__store_last_page(below);
}

int lh__journal_format(struct lh_store *below, const struct lh_journal_format *format, struct lh_error *error)
{
	struct journal_header header;
	struct journal *journal;
	int result;

	if (format->log_pages < LH_JOURNAL_LOG_MIN || format->log_pages > LH_PAGE_NUMBER_MAX / 2 ||
	    format->home_pages > LH_PAGE_NUMBER_MAX / 4)
		return lh__fail(error, -EINVAL, "a log of %lu pages cannot be",
		                (unsigned long)format->log_pages);
	set_header(&header, format);
	if (!fits(below, &header))
		return lh__fail(error, -EINVAL, "a log of %lu pages does not fit in it",
		                (unsigned long)format->log_pages);
	result = below->ops->reserve(below, header.home_page + format->home_pages);
	if (result < 0)
		return lh__fail(error, result, "there is no room for it: %s", lh__errno_name(result));
	result = new_journal(below, &header, false, &journal, error);
	if (result < 0)
		return result;
	result = write_zeroes(journal);
	if (result == 0)
		result = lh__journal_header_write_both(journal, &header);
	free_journal(journal);
	return result < 0 ? lh__fail(error, result, "it cannot be written: %s", lh__errno_name(result)) : 0;
}

/* A new session: the log is empty from here on. */
static int begin_session(struct journal *journal, uint64_t next)
{
	struct journal_header header = journal->header;
	uint64_t kept = header.salt;
	int result = new_salt(journal->store.sys, &header.salt);

	if (result < 0)
		return result;
	if (LH_MUTANT(SALT_KEPT) && kept)
		header.salt = kept;
	header.sequence = next;
	header.offset = 0;
	header.durable = next - 1;
	header.state = JOURNAL_OPEN;
	result = lh__journal_header_write_both(journal, &header);
	if (result == 0)
		journal->header = header;
	return result;
}

static int open_session(struct journal *journal, struct lh_error *error)
{
	int result = lh__journal_recover(journal, error);

	if (result < 0)
		return result;
	if (!journal->read_only)
		result = begin_session(journal, journal->report.next);
	if (result < 0)
		return lh__fail(error, result, "its header cannot be written: %s", lh__errno_name(result));
	journal->head = (struct place){ 0, journal->report.next };
	journal->applied = journal->head;
	lh__publish(&journal->appended, journal->head);
	lh__publish(&journal->flushed, journal->head);
	journal->tail = 0;
	return 0;
}

int lh__journal_open(struct lh_store *below, bool read_only, struct lh_store **out, struct lh_error *error)
{
	return lh__journal_open_with(below, read_only, NULL, out, error);
}

int lh__journal_open_with(struct lh_store *below, bool read_only, const struct lh_journal_hooks *hooks,
                          struct lh_store **out, struct lh_error *error)
{
	struct journal_header header;
	struct journal *journal;
	int result = lh__journal_header_read(below, &header, error);

	if (result < 0)
		return result;
	if (!fits(below, &header))
		return lh__fail(error, -EBADMSG, "it is shorter than its log: truncated");
	/* A closed journal's log is empty, and need not be read. */
	result = new_journal(below, &header, header.state != JOURNAL_CLOSED, &journal, error);
	if (result < 0)
		return result;
	journal->read_only = read_only;
	journal->hooks = hooks;
	result = open_session(journal, error);
	if (result < 0) {
		free_journal(journal);
		return result;
	}
	*out = &journal->store;
	return 0;
}

void lh__journal_log_by(struct lh_store *store, struct lh_store *log)
{
	lh__journal_of(store)->log = log;
}

const struct lh_journal_report *lh__journal_report(const struct lh_store *store)
{
	return &lh__journal_of_const(store)->report;
}

const void *lh__journal_client(const struct lh_store *store)
{
	return lh__journal_of_const(store)->header.client;
}

int lh__journal_set_client(struct lh_store *store, const void *client)
{
	struct journal *journal = lh__journal_of(store);
	struct journal_header header;
	int result;

	lh__lock(store->sys, &journal->homing);
	result = lh__journal_broken(journal);
	if (result == 0) {
		header = journal->header;
		memcpy(header.client, client, LH_JOURNAL_CLIENT_SIZE);
		result = lh__journal_break(journal, lh__journal_header_write_both(journal, &header));
	}
	if (result == 0)
		lh__journal_header_set(journal, &header);
	lh__unlock(store->sys, &journal->homing);
	return result;
}

int lh__journal_announce(struct lh_store *store)
{
	struct journal *journal = lh__journal_of(store);
	struct journal_header header;
	int result;

	if (journal->together)
		return lh__journal_broken(journal);
	lh__lock(store->sys, &journal->homing);
	result = lh__journal_broken(journal);
	if (result == 0) {
		journal->together = true;
		header = journal->header;
		result = lh__journal_break(journal, lh__journal_header_write_both(journal, &header));
	}
	if (result == 0)
		lh__journal_header_set(journal, &header);
	lh__unlock(store->sys, &journal->homing);
	return result;
}

uint64_t lh__journal_home(const struct lh_store *store)
{
	return lh__journal_of_const(store)->header.home_page;
}

uint64_t lh__journal_log_pages(const struct lh_store *store)
{
	return lh__journal_of_const(store)->header.log_pages;
}

struct lh_store *lh__journal_below(const struct lh_store *store)
{
	return lh__journal_of_const(store)->below;
}

void lh__journal_counts(const struct lh_store *store, struct lh_journal_counts *counts)
{
	const struct journal *journal = lh__journal_of_const(store);
	const struct lh_journal_counts *home = &journal->home_counts;

	counts->log_bytes = __atomic_load_n(&journal->counts.log_bytes, __ATOMIC_RELAXED);
	counts->changed_bytes = __atomic_load_n(&journal->counts.changed_bytes, __ATOMIC_RELAXED);
	counts->home_bytes = __atomic_load_n(&home->home_bytes, __ATOMIC_RELAXED);
	counts->flushes = __atomic_load_n(&journal->counts.flushes, __ATOMIC_RELAXED) +
	                  __atomic_load_n(&home->flushes, __ATOMIC_RELAXED);
	counts->fences = __atomic_load_n(&journal->counts.fences, __ATOMIC_RELAXED) +
	                 __atomic_load_n(&home->fences, __ATOMIC_RELAXED);
}

/* ---- closing ---- */

int lh__journal_finish(struct lh_store *store)
{
	struct journal *journal = lh__journal_of(store);
	struct journal_header header;
	int result;

	if (journal->read_only || journal->finished)
		return 0;
	if (journal->begun.sequence || journal->held.place.sequence)
		return -EBUSY;
	result = lh__journal_flush(store, UINT64_MAX);
	if (result == 0 && !LH_MUTANT(CLOSE_WITHOUT_CHECKPOINT))
		result = lh__journal_checkpoint(store);
	if (result < 0)
		return result;
	lh__lock(store->sys, &journal->homing);
	header = journal->header;
	header.sequence = journal->head.sequence;
	header.offset = 0;
	header.durable = header.sequence - 1;
	header.state = JOURNAL_CLOSED;
	journal->together = false;
	result = lh__journal_header_write(journal, &header);
	/* Of an older version again: both say so. And what the log cannot make good any more. */
	if (result == 0 && (header.version != journal->header.version ||
	                    memcmp(header.client, journal->header.client, sizeof header.client) != 0))
		result = lh__journal_header_write(journal, &header);
	lh__journal_break(journal, result);
	if (result == 0)
		lh__journal_header_set(journal, &header);
	lh__unlock(store->sys, &journal->homing);
	journal->finished = result == 0;
	return result;
}

struct lh_store *lh__journal_release(struct lh_store *store)
{
	struct lh_store *below = lh__journal_of(store)->below, *log = lh__journal_of(store)->log;

	if (log)
		log->ops->close(log);
	free_journal(lh__journal_of(store));
	return below;
}

static void journal_close(struct lh_store *store)
{
	int ignored = lh__journal_finish(store);
	struct lh_store *below = lh__journal_release(store);

	(void)ignored; /* what is not home is in the log */
	below->ops->close(below);
}

/* ---- looking at a log from outside ---- */

struct outside {
	int (*visit)(void *context, const struct lh_log_record *record);
	void *context;
};

static int visit_outside(void *context, const struct lh_log_record *record, uint64_t offset)
{
	struct outside *outside = context;

	return outside->visit(outside->context, record);
}

/*
 * A log that somebody goes on writing is read bit by bit, and what has been written over meanwhile looks like
 * a hole. One that is a hole stays where it is when all is read again.
 */
#define VISIT_TRIES 16

static int copy_log(struct lh_store *below, struct journal_header *header, unsigned char **ring,
                    struct lh_error *error)
{
	uint64_t hole = 0, generation = 0;

	for (unsigned i = 0; i < VISIT_TRIES; i++) {
		struct place end;
		int result = lh__journal_header_read(below, header, error);

		if (result == 0)
			result = lh__journal_ring_copy(below, header, true, ring, error);
		if (result < 0)
			return result;
		result = lh__journal_scan(header, *ring, NULL, NULL, &end, NULL);
		if (result == 0 || (end.sequence == hole && header->generation == generation))
			return 0;
		hole = end.sequence;
		generation = header->generation;
		lh__journal_ring_drop(below, header, *ring);
	}
	return lh__fail(error, -EAGAIN, "its log is written faster than it can be read; try again");
}

int lh__journal_visit(struct lh_store *below, int (*visit)(void *context, const struct lh_log_record *record),
                      void *context, struct lh_error *error)
{
	struct outside outside = { visit, context };
	struct journal_header header;
	unsigned char *ring;
	struct place end;
	int result = copy_log(below, &header, &ring, error);

	if (result < 0)
		return result;
	result = lh__journal_scan(&header, ring, visit_outside, &outside, &end, error);
	lh__journal_ring_drop(below, &header, ring);
	return result;
}

int lh__journal_look(struct lh_store *below, struct lh_journal_look *look, struct lh_error *error)
{
	struct journal_header header;
	int result = lh__journal_header_read(below, &header, error);

	if (result < 0)
		return result;
	memcpy(look->client, header.client, sizeof look->client);
	look->home = header.home_page;
	look->log_pages = header.log_pages;
	look->clean = header.state == JOURNAL_CLOSED;
	look->version = header.version;
	look->generation = header.generation;
	return 0;
}

/* ---- as a store ---- */

static void complete(struct journal *journal, struct lh_request *request, int result)
{
	request->result = result;
	request->next = NULL;
	*journal->done_end = request;
	journal->done_end = &request->next;
}

/*
 * When all that was appended is durable and home. Under homing: what is applied to memory goes past the store
 * below, which then cannot keep a read from seeing half of it.
 */
static int read_home(struct journal *journal, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	int result = lh__journal_flush(&journal->store, UINT64_MAX);

	if (result < 0)
		return result;
	lh__lock(journal->store.sys, &journal->homing);
	result = lh__journal_apply(journal, lh__published(&journal->flushed));
	if (result == 0)
		result = journal->below->ops->get_now(journal->below, journal->header.home_page + page, want,
		                                      data, held);
	lh__unlock(journal->store.sys, &journal->homing);
	return result;
}

static int journal_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct journal *journal = lh__journal_of(store);

	return page > journal->store.caps.last_page ? -EINVAL : read_home(journal, page, want, data, held);
}

static void do_get(struct journal *journal, struct lh_request *request)
{
	lh_mask held = request->mask;
	int result = journal_get_now(&journal->store, request->page, request->mask, request->data, &held);

	if (result == 0)
		request->mask = held;
	complete(journal, request, result);
}

static void overlay(unsigned char *page, lh_mask *held, const struct lh_request *request)
{
	if (request->op != LH_OP_PUT)
		*held = LH_MASK_NONE;
	if (request->op == LH_OP_DROP)
		return;
	lh__lines_copy(page, request->data, request->mask);
	*held |= request->mask;
}

/* What a change changes of the bytes that are there when those before it in its batch have been made. */
static int count_changed(struct journal *journal, struct lh_request *const *batch, size_t at)
{
	unsigned char before[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_request *request = batch[at];
	lh_mask held;
	int result;

	request->changed = 0;
	if (request->op == LH_OP_DROP || request->flags & LH_REQUEST_UNCOUNTED)
		return 0;
	result = journal_get_now(&journal->store, request->page, LH_MASK_ALL, before, &held);
	if (result < 0)
		return result;
	for (size_t i = 0; i < at; i++)
		if (batch[i]->page == request->page)
			overlay(before, &held, batch[i]);
	if (request->op == LH_OP_PUT)
		held &= request->mask;
	request->changed = lh__lines_changed(before, held, request->data, request->mask);
	return 0;
}

static struct lh_change change_of(const struct lh_request *request)
{
	return (struct lh_change){
		.page = request->page,
		.mask = request->op == LH_OP_DROP ? LH_MASK_NONE : request->mask,
		.replace = request->op != LH_OP_PUT,
		.data = request->data,
	};
}

/* A PUT without lines changes nothing, and has no place in a log. */
static bool changes_nothing(const struct lh_request *request)
{
	return request->op == LH_OP_PUT && request->mask == LH_MASK_NONE;
}

/* n changes as one record. */
static int append_batch(struct journal *journal, struct lh_request *const *batch, size_t n)
{
	struct lh_change *changes = lh__alloc(journal->store.sys, n * sizeof *changes);
	uint64_t sequence;
	size_t count = 0;
	int result = changes ? 0 : -ENOMEM;

	for (size_t i = 0; i < n && result == 0; i++) {
		result = count_changed(journal, batch, i);
		if (result == 0 && !changes_nothing(batch[i]))
			changes[count++] = change_of(batch[i]);
	}
	if (result == 0 && count > 0)
		result = lh__journal_append(&journal->store, changes, count, &sequence);
	if (changes)
		lh__free(journal->store.sys, changes, n * sizeof *changes);
	return result;
}

/* The changes at the front of the list, up to the first GET. Returns how many they are. */
static size_t do_changes(struct journal *journal, struct lh_request *const *requests, size_t n)
{
	size_t taken = 0;
	int result;

	while (taken < n && requests[taken]->op != LH_OP_GET)
		taken++;
	result = append_batch(journal, requests, taken);
	for (size_t i = 0; i < taken; i++)
		complete(journal, requests[i], result);
	return taken;
}

static bool valid(const struct journal *journal, struct lh_request *const *requests, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (requests[i]->op < LH_OP_GET || requests[i]->op > LH_OP_DROP ||
		    requests[i]->page > journal->store.caps.last_page)
			return false;
	return true;
}

static int journal_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct journal *journal = lh__journal_of(store);
	size_t i = 0;

	if (!valid(journal, requests, n))
		return -EINVAL;
	while (i < n) {
		if (requests[i]->op == LH_OP_GET)
			do_get(journal, requests[i++]);
		else
			i += do_changes(journal, requests + i, n - i);
	}
	return 0;
}

static size_t journal_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct journal *journal = lh__journal_of(store);
	size_t n = 0;

	while (n < max && journal->done) {
		done[n] = journal->done;
		journal->done = done[n++]->next;
	}
	if (!journal->done)
		journal->done_end = &journal->done;
	return n;
}

static int journal_sync(struct lh_store *store)
{
	return lh__journal_flush(store, UINT64_MAX);
}

static int journal_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	struct journal *journal = lh__journal_of(store);
	struct lh_store *below;
	int result;

	if (journal->done)
		return lh__fail(error, -EBUSY, "journal: a clone was asked for while requests are in flight");
	result = lh__journal_flush(store, UINT64_MAX);
	if (result == 0)
		result = lh__journal_checkpoint(store);
	if (result < 0)
		return lh__fail(error, result, "journal: it cannot be brought home: %s",
		                lh__errno_name(result));
	result = journal->below->ops->clone(journal->below, &below, error);
	if (result < 0)
		return result;
	result = lh__journal_open(below, false, out, error);
	if (result < 0)
		below->ops->close(below);
	return result;
}

static int journal_reserve(struct lh_store *store, uint64_t pages)
{
	struct journal *journal = lh__journal_of(store);
	int result;

	if (pages > journal->store.caps.last_page)
		return -EINVAL;
	lh__lock(store->sys, &journal->requests);
	result = journal->below->ops->reserve(journal->below, journal->header.home_page + pages);
	lh__unlock(store->sys, &journal->requests);
	return result;
}

static const struct lh_store_ops journal_ops = {
	.name = "journal",
	.submit = journal_submit,
	.poll = journal_poll,
	.get_now = journal_get_now,
	.sync = journal_sync,
	.clone = journal_clone,
	.reserve = journal_reserve,
	.close = journal_close,
};
