/*
 * journal_inside.h - what the parts of the journal store share.
 *
 *     journal.c          opening, closing, and the journal as a store
 *     journal_header.c   the header that stands twice
 *     journal_log.c      the ring: appending, flushing
 *     journal_home.c     applying, checkpoints
 *     journal_recover.c  reading a log
 *
 * Positions in the log are counted on and on; where one stands in the ring is its remainder by the ring's
 * size.
 *
 * Locks, in the order in which they are taken: homing, flushing, requests. An append takes none: there is one
 * at a time, and what others have to know of it is a published place.
 */
#ifndef LH_STORE_JOURNAL_INSIDE_H
#define LH_STORE_JOURNAL_INSIDE_H

#include "store/journal.h"
#include "sys/lock.h"
#include "sys/mutant.h"

#define JOURNAL_HEADER_SIZE 1024u
#define JOURNAL_MAGIC "LINEJRNL"

enum journal_state { JOURNAL_CLOSED = 0, JOURNAL_OPEN = 1 };

/* The header as it stands below; numbers are little-endian. docs/pool-format.md. */
struct journal_header {
	char magic[8];
	uint32_t version, crc; /* of all, with crc as zero */
	uint64_t generation;   /* page generation % 2; the greater one counts */
	uint64_t salt;         /* of the session's records */
	uint64_t log_page, log_pages;
	uint64_t home_page;
	uint64_t sequence, offset; /* of the first record that is needed, and where it stands in the ring */
	uint64_t durable;          /* the newest sequence that was known to be durable */
	uint32_t state;
	uint8_t zero[44];
	uint8_t client[LH_JOURNAL_CLIENT_SIZE];
};
_Static_assert(sizeof(struct journal_header) == JOURNAL_HEADER_SIZE, "a header has 16 lines");

/* A place in the log: a position, and the sequence of the record that stands or will stand there. */
struct place {
	uint64_t position, sequence;
};

/*
 * A place that one thread at a time writes, and any read, whole: a sequence lock, odd while it is being
 * written (Lameter, "Effective Synchronization on Linux/NUMA Systems", 2005). A lock would cost an append
 * more than its record's checksum.
 */
struct published {
	uint32_t version;
	struct place place;
};

static inline void lh__publish(struct published *published, struct place place)
{
	uint32_t version = __atomic_load_n(&published->version, __ATOMIC_RELAXED);

	__atomic_store_n(&published->version, version + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	__atomic_store_n(&published->place.position, place.position, __ATOMIC_RELAXED);
	__atomic_store_n(&published->place.sequence, place.sequence, __ATOMIC_RELAXED);
	__atomic_store_n(&published->version, version + 2, __ATOMIC_RELEASE);
}

static inline struct place lh__published(const struct published *published)
{
	struct place place;
	uint32_t version;

	do {
		version = __atomic_load_n(&published->version, __ATOMIC_ACQUIRE);
		place.position = __atomic_load_n(&published->place.position, __ATOMIC_RELAXED);
		place.sequence = __atomic_load_n(&published->place.sequence, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} while (version & 1 || version != __atomic_load_n(&published->version, __ATOMIC_RELAXED));
	return place;
}

/* Changes of pages that are on their way home by requests: of each page one buffer. */
#define BATCH_PAGES 32u
struct batch {
	unsigned n;
	uint64_t page[BATCH_PAGES];
	lh_mask mask[BATCH_PAGES];
	bool replace[BATCH_PAGES];
	unsigned char data[BATCH_PAGES][LH_PAGE_SIZE] __attribute__((aligned(64)));
};

#define WRITE_PAGES 256u

struct journal {
	struct lh_store store;
	struct lh_store *below;
	const struct lh_direct *direct;
	struct journal_header header; /* under homing */
	unsigned char *ring;
	uint64_t ring_size;
	bool read_only, finished;
	int broken; /* what every call fails with; set once */

	struct place head;         /* where the next record will stand; the appender's alone */
	struct published appended; /* what stands before is whole, in the ring */
	struct published flushed;  /* what stands before is durable */
	/* Undo: where the open transaction begins; sequence 0: none is open. The appender's. */
	struct place begun;
	/*
	 * A prepared record of new lines that nothing has been decided of: the log is needed from here on.
	 * Sequence 0: there is none.
	 */
	struct published held;
	int in_doubt;  /* recovery: what becomes of the last prepared record; else negative: nothing may */
	bool together; /* the log may have records of version 2 */
	const struct lh_journal_hooks *hooks; /* or NULL */
	uint64_t tail; /* the log is needed from here on; written under homing, read by anyone */

	struct lh_lock flushing; /* never waited for: see lh__journal_flush */
	uint32_t ended;          /* writes that have; a futex */
	uint32_t sleeping;       /* threads that sleep on it */
	uint32_t waiting;        /* threads in lh__journal_flush */
	uint32_t group;          /* of those, how many there were at the end of the last write */
	uint64_t write_ns;       /* what that took */
	struct lh_store *log;    /* what the log is written by, where that is not below; under flushing */
	struct lh_request writes[WRITE_PAGES];

	struct lh_lock homing;
	struct place applied;
	struct batch *batch; /* NULL where pages are reached directly */
	bool beyond;         /* they are, and a request has made room for some that were not there */

	struct lh_lock requests; /* below's submit and poll */
	struct lh_journal_report report;
	struct lh_journal_counts counts;      /* of appending and flushing */
	struct lh_journal_counts home_counts; /* under homing */
	struct lh_request *done, **done_end;  /* the journal as a store: completed and not polled */
};

static inline struct journal *lh__journal_of(struct lh_store *store)
{
	return (struct journal *)store;
}
static inline const struct journal *lh__journal_of_const(const struct lh_store *store)
{
	return (const struct journal *)store;
}

static inline int lh__journal_broken(const struct journal *journal)
{
	return __atomic_load_n(&journal->broken, __ATOMIC_RELAXED);
}

/* Under homing. What cannot change while the journal is open is left alone: others read it without a lock. */
static inline void lh__journal_header_set(struct journal *journal, const struct journal_header *header)
{
	struct journal_header *to = &journal->header;

	to->version = header->version;
	to->crc = header->crc;
	to->generation = header->generation;
	to->sequence = header->sequence;
	to->offset = header->offset;
	to->durable = header->durable;
	to->state = header->state;
	memcpy(to->client, header->client, sizeof to->client);
}

/* Each counter is written by one thread at a time. */
static inline void lh__journal_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* Carries requests out below, one caller after the other. The first error of any. */
int lh__journal_do(struct journal *journal, struct lh_request *requests, size_t n) LH_MUST_CHECK;
/* The same on a store that nobody else uses. */
int lh__journal_do_on(struct lh_store *store, struct lh_request *requests, size_t n) LH_MUST_CHECK;
int lh__journal_sync_below(struct journal *journal) LH_MUST_CHECK;
/* counts: the appender's, or those of whoever holds homing. */
void lh__journal_flush_lines(struct journal *journal, struct lh_journal_counts *counts, const void *from,
                             size_t size);
void lh__journal_fence(struct journal *journal, struct lh_journal_counts *counts);
/* Remembers the first failure after which nothing more can be promised; returns result. */
int lh__journal_break(struct journal *journal, int result);

/*
 * The newer valid header below. -EBADMSG, -EPROTONOSUPPORT, or what reading failed with.
 */
int lh__journal_header_read(struct lh_store *below, struct journal_header *header,
                            struct lh_error *error) LH_MUST_CHECK;
/* Writes header as the next generation, durable when it returns; header->generation is raised. */
int lh__journal_header_write(struct journal *journal, struct journal_header *header) LH_MUST_CHECK;
/*
 * The same in both places. Where the log does not tell that a header is not the newest: the client's part,
 * and the beginning of a session, since the header before it knows nothing of the records that follow.
 */
int lh__journal_header_write_both(struct journal *journal, struct journal_header *header) LH_MUST_CHECK;

/* ---- journal_home.c ---- */
/* Applies the durable records up to a place; what is written there is not durable yet. homing is held. */
int lh__journal_apply(struct journal *journal, struct place to) LH_MUST_CHECK;
/* Writes one line set home, or into the batch; lh__journal_home_end writes out what is in the batch. */
int lh__journal_home_write(struct journal *journal, const struct lh_lineset *set) LH_MUST_CHECK;
int lh__journal_home_end(struct journal *journal) LH_MUST_CHECK;
/* What was written home is durable. */
int lh__journal_home_sync(struct journal *journal) LH_MUST_CHECK;

/* ---- journal_recover.c ---- */
typedef int journal_visit(void *context, const struct lh_log_record *record, uint64_t offset);
/*
 * Reads the log of a header in ring: calls visit (which may be NULL) for each record in order. *end is the
 * place behind the last. -EBADMSG: there is a hole.
 */
int lh__journal_scan(const struct journal_header *header, const unsigned char *ring, journal_visit *visit,
                     void *context, struct place *end, struct lh_error *error) LH_MUST_CHECK;
/* Where a log's ring can be read: below's own memory, or a copy, which lh__journal_ring_free gives back. */
int lh__journal_ring_read(struct lh_store *below, const struct journal_header *header, bool fill,
                          unsigned char **ring, struct lh_error *error) LH_MUST_CHECK;
/* A copy in any case, which lh__free gives back; filled with what is below where fill is set. */
int lh__journal_ring_copy(struct lh_store *below, const struct journal_header *header, bool fill,
                          unsigned char **ring, struct lh_error *error) LH_MUST_CHECK;
/* Gives a copy back. */
void lh__journal_ring_drop(struct lh_store *below, const struct journal_header *header, unsigned char *copy);
void lh__journal_ring_free(struct lh_store *below, const struct journal_header *header, unsigned char *ring);
/* Brings home, or puts back, what the log says, and makes that durable. */
int lh__journal_recover(struct journal *journal, struct lh_error *error) LH_MUST_CHECK;

#endif
