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

/* What ends a transaction fits into whatever is left of the ring up to its end. */
#define END_STRIDE ((uint64_t)LH_LINE_SIZE)
_Static_assert(LH_LOG_RECORD_HEADER <= LH_LINE_SIZE, "a record without line sets takes up one line");

/* For a record, and `spare` bytes more that it must not take. */
static int make_room(struct journal *journal, uint64_t stride, uint64_t spare)
{
	while (journal->broken == 0) {
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
		.durable = __atomic_load_n(&journal->flushed.place.sequence, __ATOMIC_RELAXED) - 1,
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
	result = make_room(journal, lh__log_stride(size), kind == LH_LOG_RECORD_UNDO ? END_STRIDE : 0);
	if (result < 0)
		return result;
	write_record(journal, kind, transaction, changes, n, size);
	*place = (struct place){ journal->head.position - lh__log_stride(size), journal->head.sequence - 1 };
	lh__publish(&journal->appended, journal->head);
	if (!journal->direct)
		return 0;
	if (!LH_MUTANT(LOG_NOT_FENCED) && !(LH_MUTANT(UNDO_END_NOT_FENCED) && kind == LH_LOG_RECORD_END))
		lh__journal_fence(journal);
	lh__publish(&journal->flushed, journal->head);
	return 0;
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
		journal->header = header;
		__atomic_store_n(&journal->tail, journal->head.position, __ATOMIC_RELEASE);
	}
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
static size_t write_requests(struct journal *journal, struct lane *lane, uint64_t from, uint64_t to,
                             uint64_t *until)
{
	size_t n = 0;

	while (from < to && n < WRITE_PAGES) {
		uint64_t page = from / LH_PAGE_SIZE, end = (page + 1) * LH_PAGE_SIZE;

		if (end > to)
			end = to;
		lane->writes[n++] = (struct lh_request){
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

/* The second lane's store is its own; the first's is below, which others use too. */
static int do_writes(struct journal *journal, struct lane *lane, size_t n)
{
	if (lane->store == journal->below)
		return lh__journal_do(journal, lane->writes, n);
	return lh__journal_do_on(lane->store, lane->writes, n);
}

static int write_ring(struct journal *journal, struct lane *lane, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t begin = offset_of(journal, from), end = begin + (to - from), until;
		size_t n = write_requests(journal, lane, begin,
		                          end < journal->ring_size ? end : journal->ring_size, &until);
		int result = do_writes(journal, lane, n);

		if (result < 0)
			return result;
		from += until - begin;
	}
	if (journal->below->caps.durable_put || LH_MUTANT(LOG_NOT_FLUSHED))
		return 0;
	return lh__journal_sync_below(journal);
}

static bool is_flushed(const struct journal *journal, uint64_t sequence)
{
	return __atomic_load_n(&journal->flushed.place.sequence, __ATOMIC_ACQUIRE) > sequence;
}

/*
 * Everything that has been appended and nobody writes yet is this lane's to write. False: there is nothing.
 */
static bool claim(struct journal *journal, struct lane *lane, struct place *from, struct place *to)
{
	lh__lock(journal->store.sys, &journal->claiming);
	*from = journal->claimed;
	*to = lh__published(&journal->appended);
	lane->active = to->position != from->position;
	lane->from = *from;
	journal->claimed = *to;
	lh__unlock(journal->store.sys, &journal->claiming);
	return lane->active;
}

/* The lane's part is written: all is durable up to what the other lane, if any, still writes. */
static void settle(struct journal *journal, struct lane *lane)
{
	struct lane *other = &journal->lanes[lane == journal->lanes];

	lh__lock(journal->store.sys, &journal->claiming);
	lane->active = false;
	lh__publish(&journal->flushed, other->active ? other->from : journal->claimed);
	lh__unlock(journal->store.sys, &journal->claiming);
	lh__journal_count(&journal->counts.flushes, 1);
}

/* With the lane held. Where it fails nothing is ever told to be durable again. */
static int write_out(struct journal *journal, struct lane *lane)
{
	struct place from, to;
	int result = journal->broken;

	if (result < 0 || !claim(journal, lane, &from, &to))
		return result;
	result = lh__journal_break(journal, write_ring(journal, lane, from.position, to.position));
	if (result == 0)
		settle(journal, lane);
	return result;
}

static struct lane *take_lane(struct journal *journal)
{
	struct lane *lane = &journal->lanes[0];

	if (lh__trylock(&lane->lock))
		return lane;
	if (journal->lanes[1].store) {
		if (lh__trylock(&journal->lanes[1].lock))
			return &journal->lanes[1];
		lane = &journal->lanes[__atomic_fetch_add(&journal->next_lane, 1, __ATOMIC_RELAXED) % LANES];
	}
	lh__lock(journal->store.sys, &lane->lock);
	return lane;
}

/* The other lane has what comes before: until it has written that, there is nothing to be done here. */
static void wait_for_other(struct journal *journal, const struct lane *lane)
{
	struct lane *other = &journal->lanes[lane == journal->lanes];

	lh__lock(journal->store.sys, &other->lock);
	lh__unlock(journal->store.sys, &other->lock);
}

/*
 * A record that is on its way already is waited for by taking the lanes in turn. Threads that wait for a lane
 * find, when they have it, either that their record is durable, or that they write it together with all
 * others that were appended meanwhile: group commit.
 */
int lh__journal_flush(struct lh_store *store, uint64_t sequence)
{
	struct journal *journal = lh__journal_of(store);
	uint64_t last = __atomic_load_n(&journal->appended.place.sequence, __ATOMIC_ACQUIRE) - 1;
	int result = journal->broken;

	if (journal->direct)
		return result;
	if (sequence > last)
		sequence = last;
	while (result == 0 && !is_flushed(journal, sequence)) {
		struct lane *lane = take_lane(journal);

		if (!is_flushed(journal, sequence))
			result = write_out(journal, lane);
		lh__unlock(store->sys, &lane->lock);
		if (result == 0 && !is_flushed(journal, sequence))
			wait_for_other(journal, lane);
	}
	return result;
}
