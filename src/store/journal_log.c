/*
 * journal_log.c - the ring of records: appending and flushing.
 *
 * Records are built where they will stand: in the store's own memory where it has such, else in a copy of the
 * ring, from which the lines that are new are put below, from any number of records with one request a page,
 * which a file makes one write of. So a flush is shared by all who have appended before it (group commit),
 * and nothing is copied.
 *
 * A record never crosses the ring's end: where it does not fit, a record that says "skip" stands there.
 */
#include "store/journal_inside.h"

#include <errno.h>

static uint64_t offset_of(const struct journal *journal, uint64_t position)
{
	return position % journal->ring_size;
}

static uint64_t to_ring_end(const struct journal *journal)
{
	return journal->ring_size - offset_of(journal, journal->head.position);
}

/* What an append of stride bytes takes up, a skipped rest of the ring included. */
static uint64_t need(const struct journal *journal, uint64_t stride)
{
	uint64_t rest = to_ring_end(journal);

	return rest < stride ? rest + stride : stride;
}

/*
 * With appending held, which is let go while a checkpoint is made. spare: bytes that have to be left, for the
 * record that ends a transaction of old lines, which frees them.
 */
static int make_room(struct journal *journal, uint64_t stride, uint64_t spare)
{
	while (journal->broken == 0) {
		uint64_t tail = journal->tail;
		int result;

		if (journal->head.position + need(journal, stride) + spare - tail <= journal->ring_size ||
		    LH_MUTANT(LOG_OVERWRITES_TAIL))
			return 0;
		lh__unlock(journal->store.sys, &journal->appending);
		result = lh__journal_flush(&journal->store, UINT64_MAX);
		if (result == 0)
			result = lh__journal_checkpoint(&journal->store);
		lh__lock(journal->store.sys, &journal->appending);
		if (result < 0)
			return result;
		if (journal->tail == tail)
			return -E2BIG; /* an open transaction's old lines are all there is */
	}
	return journal->broken;
}

/* Seals a record whose sets stand in the ring already, and goes on to the place behind it. */
static void put_record(struct journal *journal, enum lh_log_kind kind, uint64_t transaction, uint64_t size)
{
	unsigned char *at = journal->ring + offset_of(journal, journal->head.position);
	struct lh_log_record record = {
		.kind = kind,
		.sequence = journal->head.sequence,
		.transaction = transaction ? transaction : journal->head.sequence,
		.durable = journal->flushed.sequence - 1,
		.size = (uint32_t)size,
	};
	uint64_t stride = lh__log_stride(size);

	lh__log_seal(at, &record, journal->header.salt);
	if (LH_MUTANT(LOG_LAST_LINE_NOT_FLUSHED) && stride > LH_LINE_SIZE && journal->direct)
		lh__journal_flush_lines(journal, at, stride - LH_LINE_SIZE);
	else if (journal->direct && !LH_MUTANT(LOG_NOT_FLUSHED))
		lh__journal_flush_lines(journal, at, stride);
	journal->head.position += kind == LH_LOG_RECORD_SKIP ? to_ring_end(journal) : stride;
	if (!LH_MUTANT(SEQUENCE_REUSED) || kind == LH_LOG_RECORD_SKIP)
		journal->head.sequence++;
	lh__journal_count(&journal->counts.log_bytes, stride);
}

/* The next records' lines are on their way into the cache while this one is made durable. */
static void prefetch_next(const struct journal *journal, uint64_t stride)
{
	const unsigned char *at = journal->ring + offset_of(journal, journal->head.position);

	if (to_ring_end(journal) < 2 * stride)
		return;
	for (uint64_t i = 0; i < stride && i < 4 * LH_LINE_SIZE; i += LH_LINE_SIZE)
		__builtin_prefetch(at + i, 1);
}

static void write_record(struct journal *journal, enum lh_log_kind kind, uint64_t transaction,
                         const struct lh_change *changes, size_t n, uint64_t size)
{
	uint64_t stride = lh__log_stride(size), lines = 0;
	unsigned char *at;

	if (to_ring_end(journal) < stride) {
		if (LH_MUTANT(LOG_WRAP_NOT_MARKED))
			journal->head.position += to_ring_end(journal);
		else
			put_record(journal, LH_LOG_RECORD_SKIP, 0, LH_LOG_RECORD_HEADER);
	}
	at = journal->ring + offset_of(journal, journal->head.position) + LH_LOG_RECORD_HEADER;
	for (size_t i = 0; i < n; i++) {
		at += lh__log_set_encode(at, &changes[i]);
		lines += lh__mask_count(changes[i].mask);
	}
	put_record(journal, kind, transaction, size);
	lh__journal_count(&journal->counts.changed_bytes, LH_LINE_SIZE * lines);
	prefetch_next(journal, stride);
}

static int append(struct journal *journal, enum lh_log_kind kind, uint64_t transaction,
                  const struct lh_change *changes, size_t n, struct place *place)
{
	uint64_t size = LH_LOG_RECORD_HEADER;
	int result;

	for (size_t i = 0; i < n; i++)
		size += lh__log_set_size(&changes[i]);
	if (size > journal->ring_size / 2)
		return -E2BIG;
	lh__lock(journal->store.sys, &journal->appending);
	result = make_room(journal, lh__log_stride(size), kind == LH_LOG_RECORD_UNDO ? LH_LINE_SIZE : 0);
	if (result == 0) {
		write_record(journal, kind, transaction, changes, n, size);
		*place = (struct place){ journal->head.position - lh__log_stride(size),
			                 journal->head.sequence - 1 };
		if (journal->direct) {
			if (!LH_MUTANT(LOG_NOT_FENCED) &&
			    !(LH_MUTANT(UNDO_END_NOT_FENCED) && kind == LH_LOG_RECORD_END))
				lh__journal_fence(journal);
			journal->flushed = journal->head;
		}
	}
	lh__unlock(journal->store.sys, &journal->appending);
	return result;
}

int lh__journal_append(struct lh_store *store, const struct lh_change *changes, size_t n, uint64_t *sequence)
{
	struct journal *journal = lh__journal_of(store);
	struct place place;
	int result = append(journal, LH_LOG_RECORD_REDO, 0, changes, n, &place);

	if (result < 0)
		return result;
	*sequence = place.sequence;
	if (LH_MUTANT(HOME_BEFORE_LOG)) {
		lh__lock(store->sys, &journal->homing);
		result = lh__journal_apply(journal, journal->head);
		lh__unlock(store->sys, &journal->homing);
	}
	return result;
}

int lh__journal_undo(struct lh_store *store, uint64_t *transaction, const struct lh_change *changes, size_t n)
{
	struct journal *journal = lh__journal_of(store);
	struct place place;
	int result;

	if (!journal->direct)
		return -EOPNOTSUPP;
	result = append(journal, LH_LOG_RECORD_UNDO, *transaction, changes, n, &place);
	if (result < 0 || *transaction)
		return result;
	*transaction = place.sequence;
	journal->begun = place;
	return 0;
}

/*
 * Where nothing in the log is needed any more, an undo log begins anew at the ring's beginning, and so stays
 * in the cache, instead of going through the whole ring. The header that says so takes as long as two
 * transactions.
 */
#define REWIND_SIZE (UINT64_C(256) * 1024)

static int rewind_log(struct journal *journal)
{
	struct lh_store *store = &journal->store;
	struct journal_header header;
	int result;

	if (offset_of(journal, journal->head.position) < REWIND_SIZE)
		return 0;
	lh__lock(store->sys, &journal->homing);
	lh__lock(store->sys, &journal->appending);
	journal->head.position += to_ring_end(journal);
	journal->flushed = journal->applied = journal->head;
	header = journal->header;
	header.sequence = journal->head.sequence;
	header.offset = 0;
	header.durable = journal->head.sequence - 1;
	result = lh__journal_header_write(journal, &header);
	if (result == 0) {
		journal->header = header;
		journal->tail = journal->head.position;
	}
	lh__unlock(store->sys, &journal->appending);
	lh__unlock(store->sys, &journal->homing);
	return lh__journal_break(journal, result);
}

int lh__journal_end(struct lh_store *store, uint64_t transaction)
{
	struct journal *journal = lh__journal_of(store);
	struct place place;
	int result = append(journal, LH_LOG_RECORD_END, transaction, NULL, 0, &place);

	if (result < 0)
		return result;
	journal->begun = (struct place){ 0, 0 };
	return rewind_log(journal);
}

/*
 * The lines [from, to) of the ring, which do not cross its end, as one request a page, as far as there is
 * room.
 */
static size_t write_requests(struct journal *journal, uint64_t from, uint64_t to, uint64_t *until)
{
	size_t n = 0;

	while (from < to && n < WRITE_PAGES) {
		uint64_t page = from / LH_PAGE_SIZE, end = (page + 1) * LH_PAGE_SIZE;

		if (end > to)
			end = to;
		journal->writes[n++] = (struct lh_request){
			.op = LH_OP_PUT,
			.flags = LH_REQUEST_UNCOUNTED | LH_REQUEST_DURABLE,
			.page = journal->header.log_page + page,
			.mask = lh__mask_bytes(from % LH_PAGE_SIZE, end - from),
			.data = journal->ring + page * LH_PAGE_SIZE,
		};
		from = end;
	}
	*until = from;
	return n;
}

static int write_ring(struct journal *journal, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t begin = offset_of(journal, from), end = begin + (to - from), until;
		size_t n = write_requests(journal, begin, end < journal->ring_size ? end : journal->ring_size,
		                          &until);
		int result = lh__journal_do(journal, journal->writes, n);

		if (result < 0)
			return result;
		from += until - begin;
	}
	lh__journal_count(&journal->counts.flushes, 1);
	if (journal->below->caps.durable_put || LH_MUTANT(LOG_NOT_FLUSHED))
		return 0;
	return lh__journal_sync_below(journal);
}

static struct place place_now(struct journal *journal, const struct place *which)
{
	struct place place;

	lh__lock(journal->store.sys, &journal->appending);
	place = *which;
	lh__unlock(journal->store.sys, &journal->appending);
	return place;
}

/* With flushing held: everything that has been appended. */
static int flush_all(struct journal *journal)
{
	struct place to = place_now(journal, &journal->head);
	int result = journal->broken;

	if (result == 0 && to.position != journal->flushed.position)
		result = lh__journal_break(journal,
		                           write_ring(journal, journal->flushed.position, to.position));
	if (result < 0)
		return result;
	lh__lock(journal->store.sys, &journal->appending);
	journal->flushed.position = to.position;
	__atomic_store_n(&journal->flushed.sequence, to.sequence, __ATOMIC_RELEASE);
	lh__unlock(journal->store.sys, &journal->appending);
	return 0;
}

int lh__journal_flush(struct lh_store *store, uint64_t sequence)
{
	struct journal *journal = lh__journal_of(store);
	int result = 0;

	if (journal->direct)
		return journal->broken;
	if (__atomic_load_n(&journal->flushed.sequence, __ATOMIC_ACQUIRE) > sequence)
		return 0;
	lh__lock(store->sys, &journal->flushing);
	if (__atomic_load_n(&journal->flushed.sequence, __ATOMIC_ACQUIRE) <= sequence)
		result = flush_all(journal);
	lh__unlock(store->sys, &journal->flushing);
	return result;
}
