/*
 * journal_home.c - bringing home what the log holds, and freeing the log.
 *
 * Applying reads records in their order and writes their lines, so it is the same work in the background,
 * when the log is full, and in recovery. Through requests, changes of one page are gathered first, and go out
 * as one.
 */
#include "store/journal_inside.h"

#include <errno.h>

/* All other lines become zero: rare enough to be done simply. */
static void replace_direct(struct journal *journal, const struct lh_lineset *set, unsigned char *to)
{
	lh__lineset_scatter(set, to);
	if (!LH_MUTANT(HOME_NOT_FLUSHED))
		lh__journal_flush_lines(journal, &journal->home_counts, to, LH_PAGE_SIZE);
}

/* A page for which nobody has made room is not memory yet: the store below makes some, if it can. */
static int write_beyond(struct journal *journal, const struct lh_lineset *set)
{
	unsigned char data[LH_PAGE_SIZE] __attribute__((aligned(64)));
	struct lh_request request = {
		.op = set->flags & LH_LINESET_REPLACE ? LH_OP_REPLACE : LH_OP_PUT,
		.flags = LH_REQUEST_UNCOUNTED,
		.page = journal->header.home_page + set->page,
		.mask = set->mask,
		.data = data,
	};

	lh__lines_scatter(data, set->lines, set->mask);
	journal->beyond = true;
	return lh__journal_do(journal, &request, 1);
}

static int write_direct(struct journal *journal, const struct lh_lineset *set)
{
	const struct lh_direct *direct = journal->direct;
	uint64_t page = journal->header.home_page + set->page;
	unsigned char *to = (unsigned char *)direct->base + LH_PAGE_SIZE * page;
	const unsigned char *lines = set->lines;
	lh_mask mask = set->mask;
	unsigned first, count;

	if (page >= __atomic_load_n(&direct->pages, __ATOMIC_ACQUIRE))
		return write_beyond(journal, set);
	if (set->flags & LH_LINESET_REPLACE) {
		replace_direct(journal, set, to);
		return 0;
	}
	while (lh__mask_next_run(&mask, &first, &count)) {
		size_t size = (size_t)LH_LINE_SIZE * count;

		if (LH_MUTANT(HOME_NOT_FLUSHED))
			memcpy(to + (size_t)LH_LINE_SIZE * first, lines, size);
		else
			direct->write(direct, to + (size_t)LH_LINE_SIZE * first, lines, size);
		lines += size;
		lh__journal_count(&journal->home_counts.flushes, count);
	}
	return 0;
}

int lh__journal_home_end(struct journal *journal)
{
	struct batch *batch = journal->batch;
	struct lh_request requests[BATCH_PAGES];
	unsigned n = batch ? batch->n : 0;

	if (n == 0)
		return 0;
	for (unsigned i = 0; i < n; i++)
		requests[i] = (struct lh_request){
			.op = !batch->replace[i] ? LH_OP_PUT
			      : batch->mask[i]   ? LH_OP_REPLACE
			                         : LH_OP_DROP,
			.flags = LH_REQUEST_UNCOUNTED,
			.page = journal->header.home_page + batch->page[i],
			.mask = batch->mask[i],
			.data = batch->data[i],
		};
	batch->n = 0;
	return lh__journal_do(journal, requests, n);
}

/* The place of a page in the batch, which may be a new one. */
static int batch_find(struct journal *journal, uint64_t page)
{
	struct batch *batch = journal->batch;
	unsigned i;
	int result;

	for (i = 0; i < batch->n; i++)
		if (batch->page[i] == page)
			return (int)i;
	if (batch->n == BATCH_PAGES) {
		result = lh__journal_home_end(journal);
		if (result < 0)
			return result;
	}
	i = batch->n++;
	batch->page[i] = page;
	batch->mask[i] = LH_MASK_NONE;
	batch->replace[i] = false;
	return (int)i;
}

int lh__journal_home_write(struct journal *journal, const struct lh_lineset *set)
{
	struct batch *batch = journal->batch;
	int i;

	lh__journal_count(&journal->home_counts.home_bytes,
	                  (uint64_t)LH_LINE_SIZE * lh__mask_count(set->mask));
	if (journal->direct)
		return write_direct(journal, set);
	i = batch_find(journal, set->page);
	if (i < 0)
		return i;
	lh__lines_scatter(batch->data[i], set->lines, set->mask);
	if (set->flags & LH_LINESET_REPLACE) {
		batch->replace[i] = true;
		batch->mask[i] = LH_MASK_NONE;
	}
	batch->mask[i] |= set->mask;
	return 0;
}

static int apply_sets(struct journal *journal, const struct lh_log_record *record)
{
	size_t at = 0, size = record->sets_size;

	while (at < size) {
		struct lh_lineset set;
		long taken = lh__log_set_decode(&set, record->sets + at, size - at);
		int result = taken < 0 ? (int)taken : lh__journal_home_write(journal, &set);

		if (result < 0)
			return result;
		at += (size_t)taken;
	}
	return 0;
}

/*
 * What has become of a prepared record's lines, which the record after it says: 1, 0; or negative, where that
 * is not known.
 */
static int outcome(const struct journal *journal, const struct lh_log_record *prepared)
{
	uint64_t position = journal->applied.position + lh__log_stride(prepared->size);
	uint64_t sequence = prepared->sequence + 1;
	struct lh_log_record record;

	for (;; sequence++) {
		uint64_t offset = position % journal->ring_size, rest = journal->ring_size - offset;

		if (lh__log_read(&record, journal->ring + offset, rest, journal->header.salt) < 0 ||
		    record.sequence != sequence)
			return LH_MUTANT(PREPARED_GOES_HOME) ? 1 : journal->in_doubt;
		if (record.kind == LH_LOG_RECORD_DECIDED || record.kind == LH_LOG_RECORD_DROPPED)
			return record.kind == LH_LOG_RECORD_DECIDED;
		if (record.kind != LH_LOG_RECORD_SKIP)
			return -EBADMSG;
		position += rest;
	}
}

static int apply_record(struct journal *journal, const struct lh_log_record *record)
{
	int result = 0;

	if (record->kind == LH_LOG_RECORD_REDO || record->kind == LH_LOG_RECORD_TOGETHER)
		return apply_sets(journal, record);
	if (record->kind == LH_LOG_RECORD_PREPARED && record->sets_size)
		result = outcome(journal, record);
	return result > 0 ? apply_sets(journal, record) : result;
}

int lh__journal_apply(struct journal *journal, struct place to)
{
	struct lh_log_record record;
	int result = lh__journal_broken(journal);

	if (result < 0)
		return result; /* what has been read may not have been written */
	while (journal->applied.position < to.position) {
		uint64_t offset = journal->applied.position % journal->ring_size;
		uint64_t rest = journal->ring_size - offset;

		result = lh__log_read(&record, journal->ring + offset, rest, journal->header.salt);
		if (result == 0 && record.sequence != journal->applied.sequence)
			result = -EBADMSG; /* somebody has written into the log's memory */
		if (result == 0)
			result = apply_record(journal, &record);
		if (result < 0)
			return lh__journal_break(journal, result);
		journal->applied.sequence++;
		journal->applied.position +=
			record.kind == LH_LOG_RECORD_SKIP ? rest : lh__log_stride(record.size);
	}
	return lh__journal_break(journal, lh__journal_home_end(journal));
}

int lh__journal_home_sync(struct journal *journal)
{
	if (LH_MUTANT(HOME_NOT_FENCED))
		return 0;
	if (!journal->direct)
		return lh__journal_sync_below(journal);
	lh__journal_fence(journal, &journal->home_counts);
	if (!journal->beyond)
		return 0;
	journal->beyond = false;
	return lh__journal_sync_below(journal);
}

/*
 * What a checkpoint may free: all that is durable, less the open transaction's old lines, and less new ones
 * that are prepared. The old ones are the appender's, and so is then the checkpoint. (Where the prepared
 * record has been flushed, what holds it was there before; where nothing holds it any more, the record that
 * decides stands behind it.)
 */
static struct place settled(const struct journal *journal, struct place flushed)
{
	struct place held = lh__published(&journal->held);

	if (journal->begun.sequence)
		return journal->begun;
	return held.sequence && held.position < flushed.position && !LH_MUTANT(PREPARED_GOES_HOME) ? held
	                                                                                           : flushed;
}

static int checkpoint(struct journal *journal)
{
	struct journal_header header = journal->header;
	struct place flushed = lh__published(&journal->flushed), to = settled(journal, flushed);
	int result;

	header.durable = flushed.sequence - 1;
	if (lh__journal_broken(journal) < 0 || to.position == journal->tail)
		return lh__journal_broken(journal);
	header.sequence = to.sequence + LH_MUTANT(CHECKPOINT_TOO_FAR);
	header.offset = to.position % journal->ring_size;
	if (LH_MUTANT(CHECKPOINT_TOO_EARLY)) {
		result = lh__journal_header_write(journal, &header);
		if (result < 0)
			return lh__journal_break(journal, result);
	}
	if (LH_MUTANT(CHECKPOINT_SKIPS_RECORD))
		journal->applied = to;
	result = lh__journal_apply(journal, to);
	if (result == 0)
		result = lh__journal_home_sync(journal);
	if (result == 0)
		result = lh__journal_header_write(journal, &header);
	/* What the log cannot make good any more. */
	if (result == 0 && memcmp(header.client, journal->header.client, sizeof header.client) != 0)
		result = lh__journal_header_write(journal, &header);
	if (result < 0)
		return lh__journal_break(journal, result);
	lh__journal_header_set(journal, &header);
	__atomic_store_n(&journal->tail, to.position, __ATOMIC_RELEASE);
	return 0;
}

int lh__journal_checkpoint(struct lh_store *store)
{
	struct journal *journal = lh__journal_of(store);
	int result;

	lh__lock(store->sys, &journal->homing);
	result = checkpoint(journal);
	lh__unlock(store->sys, &journal->homing);
	return result;
}

uint64_t lh__journal_used(const struct lh_store *store)
{
	const struct journal *journal = lh__journal_of_const(store);

	uint64_t tail = __atomic_load_n(&journal->tail, __ATOMIC_RELAXED);
	struct place held = lh__published(&journal->held);

	return (held.sequence ? held.position
	                      : __atomic_load_n(&journal->flushed.place.position, __ATOMIC_RELAXED)) -
	       tail;
}
