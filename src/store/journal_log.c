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
#include <limits.h>

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

/* What ends a transaction fits into whatever is left of the ring up to its end. */
#define END_STRIDE ((uint64_t)LH_LINE_SIZE)
_Static_assert(LH_LOG_RECORD_HEADER <= LH_LINE_SIZE, "a record without line sets takes up one line");

/* For a record, and `spare` bytes more that it must not take. */
static int make_room(struct journal *journal, uint64_t stride, uint64_t spare)
{
	while (lh__journal_broken(journal) == 0) {
		uint64_t tail = __atomic_load_n(&journal->tail, __ATOMIC_ACQUIRE);
		int result;

		if (journal->head.position + need(journal, stride) + spare - tail <= journal->ring_size ||
		    LH_MUTANT(LOG_OVERWRITES_TAIL))
			return 0;
		result = lh__journal_flush(&journal->store, UINT64_MAX);
		if (result == 0)
			result = lh__journal_checkpoint(&journal->store);
		if (result < 0)
			return result;
		if (__atomic_load_n(&journal->tail, __ATOMIC_ACQUIRE) == tail)
			return -E2BIG; /* an open transaction's old lines are all there is */
	}
	return lh__journal_broken(journal);
}

/* Seals a record whose sets stand in the ring already, and goes on to the place behind it. */
static void put_record(struct journal *journal, enum lh_log_kind kind, uint64_t transaction, uint64_t size)
{
	unsigned char *at = journal->ring + offset_of(journal, journal->head.position);
	struct lh_log_record record = {
		.kind = kind,
		.sequence = journal->head.sequence,
		.transaction = transaction ? transaction : journal->head.sequence,
		.durable = __atomic_load_n(&journal->flushed.place.sequence, __ATOMIC_RELAXED) - 1,
		.size = (uint32_t)size,
	};
	uint64_t stride = lh__log_stride(size);

	lh__log_seal(at, &record, journal->header.salt);
	if (LH_MUTANT(LOG_LAST_LINE_NOT_FLUSHED) && stride > LH_LINE_SIZE && journal->direct)
		lh__journal_flush_lines(journal, &journal->counts, at, stride - LH_LINE_SIZE);
	else if (journal->direct && !LH_MUTANT(LOG_NOT_FLUSHED) &&
	         !(LH_MUTANT(PREPARED_NOT_FLUSHED) && kind == LH_LOG_RECORD_PREPARED))
		lh__journal_flush_lines(journal, &journal->counts, at, stride);
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

/* What a record is made of. */
struct content {
	enum lh_log_kind kind;
	uint64_t transaction; /* 0: its own sequence */
	const struct lh_change *changes;
	size_t n;
	const void *note;
	uint32_t note_size;
};

static uint64_t size_of(const struct content *content)
{
	uint64_t size = LH_LOG_RECORD_HEADER;

	if (lh__log_has_note(content->kind))
		size += lh__log_note_size(content->note_size);
	for (size_t i = 0; i < content->n; i++)
		size += lh__log_set_size(&content->changes[i]);
	return size;
}

static void write_record(struct journal *journal, const struct content *content, uint64_t size)
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
	if (lh__log_has_note(content->kind))
		at += lh__log_note_encode(at, content->note, content->note_size);
	for (size_t i = 0; i < content->n; i++) {
		at += lh__log_set_encode(at, &content->changes[i]);
		lines += lh__mask_count(content->changes[i].mask);
	}
	put_record(journal, content->kind, content->transaction, size);
	lh__journal_count(&journal->counts.changed_bytes, LH_LINE_SIZE * lines);
	prefetch_next(journal, stride);
}

/* What must not wait for room later: the record that says how it has ended. */
static uint64_t spare(enum lh_log_kind kind)
{
	return kind == LH_LOG_RECORD_UNDO || kind == LH_LOG_RECORD_PREPARED ? END_STRIDE : 0;
}

static bool fenced(enum lh_log_kind kind)
{
	return !LH_MUTANT(LOG_NOT_FENCED) && !(LH_MUTANT(UNDO_END_NOT_FENCED) && kind == LH_LOG_RECORD_END) &&
	       !(LH_MUTANT(PREPARED_NOT_FLUSHED) && kind == LH_LOG_RECORD_PREPARED);
}

static int append(struct journal *journal, const struct content *content, struct place *place)
{
	uint64_t size = size_of(content);
	int result;

	if (size > journal->ring_size / 2)
		return -E2BIG;
	result = make_room(journal, lh__log_stride(size), spare(content->kind));
	if (result < 0)
		return result;
	if (content->kind == LH_LOG_RECORD_PREPARED && content->n > 0)
		lh__publish(&journal->held, journal->head);
	write_record(journal, content, size);
	*place = (struct place){ journal->head.position - lh__log_stride(size), journal->head.sequence - 1 };
	lh__publish(&journal->appended, journal->head);
	if (!journal->direct)
		return 0;
	if (fenced(content->kind))
		lh__journal_fence(journal, &journal->counts);
	lh__publish(&journal->flushed, journal->head);
	return 0;
}

int lh__journal_append(struct lh_store *store, const struct lh_change *changes, size_t n, uint64_t *sequence)
{
	struct journal *journal = lh__journal_of(store);
	struct content content = { .kind = LH_LOG_RECORD_REDO, .changes = changes, .n = n };
	struct place place;
	int result = append(journal, &content, &place);

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
	struct content content = {
		.kind = LH_LOG_RECORD_UNDO, .transaction = *transaction, .changes = changes, .n = n
	};
	struct journal *journal = lh__journal_of(store);
	struct place place;
	int result;

	if (!journal->direct)
		return -EOPNOTSUPP;
	result = append(journal, &content, &place);
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

	/* What the header on the medium still refers to may not be written over. */
	if (offset_of(journal, journal->head.position) < REWIND_SIZE ||
	    journal->head.position + to_ring_end(journal) -
	                    __atomic_load_n(&journal->tail, __ATOMIC_ACQUIRE) >
	            journal->ring_size)
		return 0;
	lh__lock(store->sys, &journal->homing);
	/* For who has to go by the other header: the log goes on at the beginning. */
	put_record(journal, LH_LOG_RECORD_SKIP, 0, LH_LOG_RECORD_HEADER);
	journal->applied = journal->head;
	lh__publish(&journal->appended, journal->head);
	lh__publish(&journal->flushed, journal->head);
	header = journal->header;
	header.sequence = journal->head.sequence;
	header.offset = 0;
	header.durable = journal->head.sequence - 1;
	result = lh__journal_header_write(journal, &header);
	if (result == 0) {
		lh__journal_header_set(journal, &header);
		__atomic_store_n(&journal->tail, journal->head.position, __ATOMIC_RELEASE);
	}
	lh__unlock(store->sys, &journal->homing);
	return lh__journal_break(journal, result);
}

int lh__journal_end(struct lh_store *store, uint64_t transaction)
{
	struct content content = { .kind = LH_LOG_RECORD_END, .transaction = transaction };
	struct journal *journal = lh__journal_of(store);
	struct place place;
	int result = append(journal, &content, &place);

	if (result < 0)
		return result;
	journal->begun = (struct place){ 0, 0 };
	return rewind_log(journal);
}

/* ---- together with other journals ---- */

int lh__journal_prepare(struct lh_store *store, uint64_t *transaction, const struct lh_change *changes,
                        size_t n, const void *note, uint32_t size, uint64_t *sequence)
{
	struct content content = { LH_LOG_RECORD_PREPARED, *transaction, changes, n, note, size };
	struct journal *journal = lh__journal_of(store);
	struct place place;
	int result = append(journal, &content, &place);

	if (result < 0)
		return result;
	*sequence = place.sequence;
	if (!*transaction)
		*transaction = place.sequence;
	if (!LH_MUTANT(PREPARED_GOES_HOME))
		return 0;
	result = lh__journal_flush(store, UINT64_MAX);
	return result < 0 ? result : lh__journal_checkpoint(store);
}

int lh__journal_decide(struct lh_store *store, uint64_t transaction, bool committed, uint64_t *sequence)
{
	struct content content = { .kind = committed ? LH_LOG_RECORD_DECIDED : LH_LOG_RECORD_DROPPED,
		                   .transaction = transaction };
	struct journal *journal = lh__journal_of(store);
	bool undo = journal->begun.sequence != 0;
	struct place place;
	int result = append(journal, &content, &place);

	if (result < 0)
		return result;
	*sequence = place.sequence;
	journal->begun = (struct place){ 0, 0 };
	lh__publish(&journal->held, journal->begun);
	return undo ? rewind_log(journal) : 0;
}

int lh__journal_together(struct lh_store *store, uint64_t transaction, const struct lh_change *changes,
                         size_t n, const void *note, uint32_t size, uint64_t *sequence)
{
	struct content content = { LH_LOG_RECORD_TOGETHER, transaction, changes, n, note, size };
	struct journal *journal = lh__journal_of(store);
	struct place place;
	int result = append(journal, &content, &place);

	if (result < 0)
		return result;
	*sequence = place.sequence;
	journal->begun = (struct place){ 0, 0 };
	return 0;
}

uint64_t lh__journal_session(const struct lh_store *store)
{
	return lh__journal_of_const(store)->header.salt;
}

uint64_t lh__journal_next(const struct lh_store *store)
{
	return lh__journal_of_const(store)->head.sequence;
}

/*
 * The lines [from, to) of the ring, which do not cross its end, as one request a page, as far as there is
 * room. Where the store writes whole blocks, so does this: what stands before them is the same below, and
 * what stands behind them is written again when it is whole, or was of the last round.
 */
static size_t write_requests(struct journal *journal, uint64_t from, uint64_t to, uint64_t *until)
{
	unsigned block = journal->log && journal->log->caps.block ? journal->log->caps.block : LH_LINE_SIZE;
	size_t n = 0;

	while (from < to && n < WRITE_PAGES) {
		uint64_t page = from / LH_PAGE_SIZE, end = (page + 1) * LH_PAGE_SIZE;
		uint64_t first = from / block * block, last;

		if (end > to)
			end = to;
		last = (end + block - 1) / block * block;
		journal->writes[n++] = (struct lh_request){
			.op = LH_OP_PUT,
			.flags = LH_REQUEST_UNCOUNTED | LH_REQUEST_DURABLE,
			.page = journal->header.log_page + page,
			.mask = lh__mask_bytes(first % LH_PAGE_SIZE, last - first),
			.data = journal->ring + page * LH_PAGE_SIZE,
		};
		from = end;
	}
	*until = from;
	return n;
}

static int do_writes(struct journal *journal, size_t n)
{
	return journal->log ? lh__journal_do_on(journal->log, journal->writes, n)
	                    : lh__journal_do(journal, journal->writes, n);
}

static int write_ring(struct journal *journal, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t begin = offset_of(journal, from), end = begin + (to - from), until;
		size_t n = write_requests(journal, begin, end < journal->ring_size ? end : journal->ring_size,
		                          &until);
		int result = do_writes(journal, n);

		if (result < 0)
			return result;
		from += until - begin;
	}
	lh__journal_count(&journal->counts.flushes, 1);
	if (journal->log || journal->below->caps.durable_put || LH_MUTANT(LOG_NOT_FLUSHED))
		return 0;
	return lh__journal_sync_below(journal);
}

static void yield(const struct journal *journal)
{
	LH_SYS(journal->store.sys, SYS_sched_yield);
}

/*
 * Where several threads commit, one write is to serve them all: who is about to write waits for as many
 * records as there were threads last time, though no longer than half of what a write takes. A thread by
 * itself never waits.
 */
static void gather(const struct journal *journal)
{
	uint64_t wanted = journal->flushed.place.sequence + journal->group;
	uint64_t start;

	if (journal->group < 2)
		return;
	start = lh__now(journal->store.sys);
	while (__atomic_load_n(&journal->appended.place.sequence, __ATOMIC_ACQUIRE) < wanted &&
	       lh__now(journal->store.sys) - start < journal->write_ns / 2)
		yield(journal);
}

/* With flushing held: everything that has been appended. */
static int flush_all(struct journal *journal)
{
	struct place from = lh__published(&journal->flushed), to = lh__published(&journal->appended);
	uint64_t start = lh__now(journal->store.sys);
	int result = lh__journal_broken(journal);

	if (result == 0 && to.position != from.position)
		result = lh__journal_break(journal, write_ring(journal, from.position, to.position));
	if (result < 0)
		return result;
	__atomic_store_n(&journal->write_ns, lh__now(journal->store.sys) - start, __ATOMIC_RELAXED);
	/* Before they are told, and go. */
	journal->group = __atomic_load_n(&journal->waiting, __ATOMIC_RELAXED);
	lh__publish(&journal->flushed, to);
	return 0;
}

static bool is_flushed(const struct journal *journal, uint64_t sequence)
{
	return __atomic_load_n(&journal->flushed.place.sequence, __ATOMIC_ACQUIRE) > sequence;
}

/*
 * Whoever finds nobody writing writes, for all who have appended. The others wait for that write to end: it
 * may have been for their records too, and else one of them is next. They look, and let others run, for about
 * as long as a write takes before they sleep: being woken may take as long again, and then no two would ever
 * share a write.
 */
#define LOOK_NS 100000u

static void await_end(struct journal *journal, uint32_t ended)
{
	uint64_t start = lh__now(journal->store.sys);

	while (__atomic_load_n(&journal->ended, __ATOMIC_ACQUIRE) == ended) {
		if (lh__now(journal->store.sys) - start < LOOK_NS) {
			yield(journal);
			continue;
		}
		__atomic_fetch_add(&journal->sleeping, 1, __ATOMIC_SEQ_CST);
		lh__futex_wait(journal->store.sys, &journal->ended, ended, -1);
		__atomic_fetch_sub(&journal->sleeping, 1, __ATOMIC_RELAXED);
	}
}

static void tell_end(struct journal *journal)
{
	lh__unlock(journal->store.sys, &journal->flushing);
	__atomic_fetch_add(&journal->ended, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&journal->sleeping, __ATOMIC_SEQ_CST))
		lh__futex_wake(journal->store.sys, &journal->ended, INT_MAX);
}

/* Until the record is durable, or cannot become so. */
static int flush_one(struct journal *journal, uint64_t sequence)
{
	int result = 0;

	while (result == 0 && !is_flushed(journal, sequence)) {
		uint32_t ended = __atomic_load_n(&journal->ended, __ATOMIC_ACQUIRE);

		if (!lh__trylock(&journal->flushing)) {
			await_end(journal, ended);
			continue;
		}
		if (!is_flushed(journal, sequence)) {
			gather(journal);
			result = flush_all(journal);
		}
		tell_end(journal);
	}
	return result;
}

int lh__journal_flush(struct lh_store *store, uint64_t sequence)
{
	struct journal *journal = lh__journal_of(store);
	uint64_t last = __atomic_load_n(&journal->appended.place.sequence, __ATOMIC_ACQUIRE) - 1;
	int result;

	if (journal->direct)
		return lh__journal_broken(journal);
	if (sequence > last)
		sequence = last;
	if (is_flushed(journal, sequence))
		return 0;
	__atomic_fetch_add(&journal->waiting, 1, __ATOMIC_RELAXED);
	result = flush_one(journal, sequence);
	__atomic_fetch_sub(&journal->waiting, 1, __ATOMIC_RELAXED);
	return result;
}
