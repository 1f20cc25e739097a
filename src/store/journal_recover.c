/*
 * journal_recover.c - reading a log: where it ends, whether it has a hole, and what has to be done about it.
 *
 * The log ends before the first place where the record that has to come does not stand, whole. That is a torn
 * tail where nobody can have been told that the record is durable, and else a hole. Two know: the header, and
 * every later record, each of which says what was durable when it was written. So after the end the whole
 * ring is searched for records of this session that know more.
 *
 * Nothing is written to the log by recovery, and the header that ends it begins a new session with a new
 * salt. So recovery may be interrupted anywhere and begun again; and the remains of records that were dropped
 * can never be taken for the next session's.
 */
#include "store/journal_inside.h"

#include <errno.h>
#include <sys/mman.h>

static uint64_t ring_size(const struct journal_header *header)
{
	return header->log_pages * LH_PAGE_SIZE;
}

static int fail_hole(const struct journal_header *header, const struct place *end, uint64_t known,
                     struct lh_error *error)
{
	return lh__fail(
		error, -EBADMSG,
		"log record %lu, at byte %lu of the log, is damaged: it had been durable, as record %lu was; "
		"those before it are whole",
		(unsigned long)end->sequence, (unsigned long)(end->position % ring_size(header)),
		(unsigned long)known);
}

/* The newest sequence that the header, or any record behind the end, knew to be durable. */
static uint64_t durable_known(const struct journal_header *header, const unsigned char *ring,
                              const struct place *end, uint64_t taken)
{
	uint64_t size = ring_size(header), known = header->durable;
	struct lh_log_record record;

	for (; taken < size; taken += LH_LINE_SIZE) {
		uint64_t offset = (header->offset + taken) % size;
		uint32_t magic;

		memcpy(&magic, ring + offset, sizeof magic);
		if (magic != LH_LOG_MAGIC ||
		    lh__log_read(&record, ring + offset, size - offset, header->salt) < 0)
			continue;
		if (record.sequence > end->sequence &&
		    (record.durable > known || LH_MUTANT(TAIL_TAKEN_FOR_HOLE)))
			known = LH_MUTANT(TAIL_TAKEN_FOR_HOLE) ? record.sequence : record.durable;
	}
	return known;
}

int lh__journal_scan(const struct journal_header *header, const unsigned char *ring, journal_visit *visit,
                     void *context, struct place *end, struct lh_error *error)
{
	uint64_t size = ring_size(header), taken = 0, known;
	struct lh_log_record record;

	*end = (struct place){ header->offset, header->sequence };
	if (header->state == JOURNAL_CLOSED)
		return 0; /* whatever stands there: the log is empty */
	while (taken < size) {
		uint64_t offset = end->position % size, rest = size - offset, stride;
		int stop;

		if (rest > size - taken)
			rest = size - taken;
		if (lh__log_read(&record, ring + offset, rest, header->salt) < 0)
			break;
		if (record.sequence != end->sequence && !LH_MUTANT(SEQUENCE_NOT_CHECKED))
			break;
		stop = visit ? visit(context, &record, offset) : 0;
		if (stop)
			return stop;
		stride = record.kind == LH_LOG_RECORD_SKIP ? rest : lh__log_stride(record.size);
		taken += stride;
		end->position += stride;
		end->sequence++;
	}
	known = durable_known(header, ring, end, taken);
	if (known >= end->sequence && !LH_MUTANT(HOLE_TAKEN_FOR_TAIL))
		return fail_hole(header, end, known, error);
	return 0;
}

/* ---- where the ring is ---- */

static unsigned char *ring_direct(struct lh_store *below, const struct journal_header *header)
{
	return (unsigned char *)below->direct->base + LH_PAGE_SIZE * header->log_page;
}

/* Many pages at a time, each directly to its place. */
#define FILL_PAGES 256u

static int fill_ring(struct lh_store *below, const struct journal_header *header, unsigned char *ring)
{
	struct lh_request *requests = lh__alloc(below->sys, FILL_PAGES * sizeof *requests);
	int result = requests ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < header->log_pages && result == 0; i += FILL_PAGES) {
		uint64_t n = header->log_pages - i < FILL_PAGES ? header->log_pages - i : FILL_PAGES;

		for (uint64_t j = 0; j < n; j++)
			requests[j] = (struct lh_request){
				.op = LH_OP_GET,
				.page = header->log_page + i + j,
				.mask = LH_MASK_ALL,
				.data = ring + (i + j) * LH_PAGE_SIZE,
			};
		result = lh__journal_do_on(below, requests, n);
	}
	if (requests)
		lh__free(below->sys, requests, FILL_PAGES * sizeof *requests);
	return result;
}

static int check_length(const struct lh_store *below, const struct journal_header *header,
                        struct lh_error *error)
{
	if (below->direct && header->log_page + header->log_pages > below->direct->pages)
		return lh__fail(error, -EBADMSG, "it is shorter than its log: truncated");
	return 0;
}

/* From the kernel, so that what is never written takes no memory and no time. */
static unsigned char *new_ring(const struct lh_sys *sys, uint64_t size)
{
	long at = LH_SYS(sys, SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at < 0 && at >= -4095)
		return NULL;
	LH_SYS(sys, SYS_madvise, at, size, MADV_HUGEPAGE); /* or not */
	return (unsigned char *)at;
}

void lh__journal_ring_drop(struct lh_store *below, const struct journal_header *header, unsigned char *copy)
{
	LH_SYS(below->sys, SYS_munmap, copy, ring_size(header));
}

int lh__journal_ring_copy(struct lh_store *below, const struct journal_header *header, bool fill,
                          unsigned char **ring, struct lh_error *error)
{
	int result = check_length(below, header, error);
	unsigned char *copy;

	if (result < 0)
		return result;
	copy = new_ring(below->sys, ring_size(header));
	if (!copy)
		return lh__fail(error, -ENOMEM, "there is no memory for its log of %lu bytes",
		                (unsigned long)ring_size(header));
	result = fill ? fill_ring(below, header, copy) : 0;
	if (result < 0) {
		lh__journal_ring_drop(below, header, copy);
		return lh__fail(error, result, "its log cannot be read: %s", lh__errno_name(result));
	}
	*ring = copy;
	return 0;
}

int lh__journal_ring_read(struct lh_store *below, const struct journal_header *header, bool fill,
                          unsigned char **ring, struct lh_error *error)
{
	int result;

	if (!below->direct)
		return lh__journal_ring_copy(below, header, fill, ring, error);
	result = check_length(below, header, error);
	if (result == 0)
		*ring = ring_direct(below, header);
	return result;
}

void lh__journal_ring_free(struct lh_store *below, const struct journal_header *header, unsigned char *ring)
{
	if (!below->direct)
		lh__journal_ring_drop(below, header, ring);
}

/* ---- recovery ---- */

/* What the log holds. */
struct found {
	uint64_t records, redo, ended, open; /* open: the transaction that has not ended, or 0 */
	uint64_t open_records;
	/* Of transactions over several journals. */
	const struct lh_journal_hooks *hooks;
	struct lh_log_record prepared; /* where it is in doubt */
	bool in_doubt, dropped;
	uint64_t with_others, wrong; /* wrong: a record that cannot stand where it does */
};

/* Behind a prepared record stands what decides it, and nothing else. */
static void look_at_decision(struct found *found, const struct lh_log_record *record)
{
	bool undo = found->open == found->prepared.transaction;

	if (record->kind == LH_LOG_RECORD_SKIP)
		return;
	found->in_doubt = false;
	if ((record->kind != LH_LOG_RECORD_DECIDED && record->kind != LH_LOG_RECORD_DROPPED) ||
	    record->transaction != found->prepared.transaction) {
		found->wrong = record->sequence;
		return;
	}
	if (undo) {
		found->ended++;
		found->open = 0;
	} else if (record->kind == LH_LOG_RECORD_DECIDED) {
		found->redo++;
	}
}

static int look_together(struct found *found, const struct lh_log_record *record)
{
	found->with_others++;
	found->redo++;
	if (found->open && found->open == record->transaction)
		found->open = 0;
	if (found->hooks && found->hooks->found(found->hooks->context, record->note, record->note_size) < 0)
		found->wrong = record->sequence;
	return 0;
}

static void look_prepared(struct found *found, const struct lh_log_record *record)
{
	bool undo = found->open && found->open == record->transaction;

	found->with_others++;
	found->in_doubt = true;
	found->prepared = *record;
	/* The lines of an undo log are home, and are not here, too. */
	if (undo ? record->sets_size > 0 : record->transaction != record->sequence || found->open)
		found->wrong = record->sequence;
}

static int look(void *context, const struct lh_log_record *record, uint64_t offset)
{
	struct found *found = context;

	found->records++;
	if (found->in_doubt) {
		look_at_decision(found, record);
	} else if (record->kind == LH_LOG_RECORD_PREPARED) {
		look_prepared(found, record);
	} else if (record->kind == LH_LOG_RECORD_TOGETHER) {
		look_together(found, record);
	} else if (record->kind == LH_LOG_RECORD_REDO) {
		found->redo++;
	} else if (record->kind == LH_LOG_RECORD_UNDO) {
		if (found->open != record->transaction)
			found->open_records = 0;
		found->open = record->transaction;
		found->open_records++;
	} else if (record->kind == LH_LOG_RECORD_END) {
		found->ended++;
		if (!LH_MUTANT(UNDO_COMMITTED_TOO))
			found->open = 0;
	}
	return found->wrong != 0;
}

struct collect {
	uint64_t transaction, n, max;
	uint64_t *offsets;
};

static int collect(void *context, const struct lh_log_record *record, uint64_t offset)
{
	struct collect *collect = context;

	if (record->kind == LH_LOG_RECORD_UNDO && record->transaction == collect->transaction &&
	    collect->n < collect->max)
		collect->offsets[collect->n++] = offset;
	return 0;
}

static int put_back_record(struct journal *journal, uint64_t offset)
{
	struct lh_log_record record;
	int result = lh__log_read(&record, journal->ring + offset, journal->ring_size - offset,
	                          journal->header.salt);
	size_t at = 0;

	while (result == 0 && at < record.sets_size) {
		struct lh_lineset set;
		long taken = lh__log_set_decode(&set, record.sets + at, record.sets_size - at);

		result = taken < 0 ? (int)taken : lh__journal_home_write(journal, &set);
		at += taken < 0 ? 0 : (size_t)taken;
	}
	return result;
}

/* The old lines of the open transaction, the last first: a line that was logged twice ends as it began. */
static int put_back(struct journal *journal, const struct found *found, struct lh_error *error)
{
	struct collect open = { .transaction = found->open, .max = found->open_records };
	struct place end;
	int result;

	open.offsets = lh__alloc(journal->store.sys, open.max * sizeof *open.offsets);
	if (!open.offsets)
		return -ENOMEM;
	result = lh__journal_scan(&journal->header, journal->ring, collect, &open, &end, error);
	for (uint64_t i = 0; i < open.n && result == 0; i++)
		result = put_back_record(journal, open.offsets[LH_MUTANT(UNDO_FORWARD) ? i : open.n - 1 - i]);
	if (result == 0)
		result = lh__journal_home_end(journal);
	lh__free(journal->store.sys, open.offsets, open.max * sizeof *open.offsets);
	return result;
}

static int sync_log(struct journal *journal, const struct place *end)
{
	uint64_t from = journal->header.offset, size = end->position - from;
	uint64_t first = size < journal->ring_size - from ? size : journal->ring_size - from;

	if (!journal->direct)
		return lh__journal_sync_below(journal);
	if (first)
		lh__journal_flush_lines(journal, &journal->counts, journal->ring + from, first);
	if (size > first)
		lh__journal_flush_lines(journal, &journal->counts, journal->ring, size - first);
	lh__journal_fence(journal, &journal->counts);
	return 0;
}

static int redo(struct journal *journal, const struct place *end)
{
	struct place to = *end;

	journal->applied = (struct place){ journal->header.offset, journal->header.sequence };
	if (LH_MUTANT(RECOVERY_FORGETS_LAST) && to.position >= journal->header.offset + 2 * LH_LINE_SIZE)
		to.position -= 2 * LH_LINE_SIZE; /* what a record of one line takes up */
	return lh__journal_apply(journal, to);
}

/* What becomes of the last transaction, which another journal decides. Nothing has been changed yet. */
static int decide(struct journal *journal, struct found *found, struct lh_error *error)
{
	bool undo = found->open != 0;
	int result;

	if (!found->in_doubt)
		return 0;
	result = journal->hooks->decide(journal->hooks->context, found->prepared.note,
	                                found->prepared.note_size, error);
	if (result < 0)
		return result;
	journal->in_doubt = result;
	if (undo && result) {
		found->ended++;
		found->open = 0;
	} else if (!undo) {
		found->redo += (unsigned)result;
		found->dropped = !result;
	}
	return 0;
}

/* Whether what the log says of other journals can be, and can be understood. */
static int check(const struct journal *journal, const struct found *found, struct lh_error *error)
{
	if (found->wrong)
		return lh__fail(error, -EBADMSG, "log record %lu cannot stand where it does",
		                (unsigned long)found->wrong);
	if (found->with_others && !journal->hooks)
		return lh__fail(error, -EPROTONOSUPPORT, "its log tells of transactions with other pools");
	return 0;
}

static void report(struct journal *journal, const struct found *found, const struct place *end)
{
	journal->report = (struct lh_journal_report){
		.clean = journal->header.state == JOURNAL_CLOSED,
		.records = found->records,
		.transactions = found->redo + found->ended,
		.rolled_back = found->open || found->dropped ? 1 : 0,
		.bytes = end->position - journal->header.offset,
		.next = end->sequence,
	};
}

int lh__journal_recover(struct journal *journal, struct lh_error *error)
{
	struct found found = { .hooks = journal->hooks };
	struct place end = { journal->header.offset, journal->header.sequence };
	int result = 0;

	/* A log that was closed is empty, and is not looked at, however large it is. */
	if (journal->header.state != JOURNAL_CLOSED)
		result = lh__journal_scan(&journal->header, journal->ring, look, &found, &end, error);
	if (result >= 0)
		result = check(journal, &found, error);
	if (result < 0)
		return result;
	report(journal, &found, &end);
	if (journal->read_only)
		return found.redo || found.open || found.in_doubt
		               ? lh__fail(error, -EROFS,
		                          "it was not closed and has to be recovered, which needs to write "
		                          "to it")
		               : 0;
	result = decide(journal, &found, error);
	if (result < 0)
		return result;
	report(journal, &found, &end);
	/* What a process that was killed had written may not be durable, and home is about to rely on it. */
	if (found.records > 0)
		result = sync_log(journal, &end);
	if (result == 0)
		result = redo(journal, &end);
	if (result == 0 && found.open)
		result = put_back(journal, &found, error);
	if (result == 0 && !LH_MUTANT(RECOVERY_NOT_SYNCED))
		result = lh__journal_home_sync(journal);
	journal->in_doubt = -EBADMSG;
	if (result < 0)
		return lh__fail(error, result, "it cannot be recovered: %s", lh__errno_name(result));
	return 0;
}
