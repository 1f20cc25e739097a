/*
 * pool.h - what the command and the tests use of pools beyond linehome.h.
 */
#ifndef LH_POOL_H
#define LH_POOL_H

#include "service/pool/heap.h"
#include "store/journal.h"
#include "store/store.h"

/* A transaction over several pools that this one decided, and that pool may not have heard of. */
struct lh_outcome {
	uint8_t pool[16];         /* its id */
	uint64_t session, number; /* of the transaction; number 0: there is none */
};
#define LH_POOL_OUTCOMES 16u

/* The pool's own part of the journal's header. Drawn in docs/pool-format.md. */
struct lh_pool_header {
	char magic[8]; /* "LINEPOOL" */
	uint32_t version;
	uint32_t flags;   /* LH_POOL_HAS_HEAP */
	uint8_t id[16];   /* random, for telling pools apart */
	uint64_t address; /* where it is mapped */
	uint64_t size;    /* bytes of its memory */
	uint64_t reach;   /* what it may grow to */
	uint64_t created; /* seconds since 1970, UTC */
	char layout[LH_LAYOUT_SIZE];
	struct lh_outcome outcomes[LH_POOL_OUTCOMES];
	uint8_t rest[LH_JOURNAL_CLIENT_SIZE - 128 - LH_POOL_OUTCOMES * sizeof(struct lh_outcome)];
};
_Static_assert(sizeof(struct lh_pool_header) == LH_JOURNAL_CLIENT_SIZE,
               "the header is the journal's client's");

#define LH_POOL_VERSION 1u
#define LH_POOL_HAS_HEAP 1u /* its heap has been made */

/*
 * Opens a pool on a store, which it takes over on success only; made anew there where create is set. quiet:
 * there is no thread that brings changes home; that happens when the log is full, and at close.
 */
int lh__pool_on_store(struct lh_store *below, const struct lh_pool_options *options, bool create, bool quiet,
                      struct lh_pool **out, struct lh_error *error) LH_MUST_CHECK;

/*
 * What a pool needs beyond its store for transactions with others. Zeroed memory: it has no place that others
 * could find it by, and asks who decides at that one's place.
 */
struct lh_pool_context {
	const char *where;
	/* Instead: the store of the pool of that id, to read, which is closed then. For tests. */
	int (*find)(void *context, const uint8_t id[16], const char *place, struct lh_store **below,
	            struct lh_error *error);
	void *find_context;
	const char *ask; /* where the pool that decides is now */
	/* Nobody is asked, a person has decided. */
	enum lh_pool_decision { LH_POOL_ASK, LH_POOL_COMMIT, LH_POOL_DROP } decision;
	bool forget; /* it keeps no outcomes for others any more */
	const char *key_file;
};
int lh__pool_on_store_as(struct lh_store *below, const struct lh_pool_options *options, bool create,
                         bool quiet, const struct lh_pool_context *context, struct lh_pool **out,
                         struct lh_error *error) LH_MUST_CHECK;
/*
 * Opens it with that decision (or after asking there), and closes it: what a person does where a pool is
 * gone.
 */
int lh__pool_decide(const struct lh_sys *sys, const char *where, const struct lh_pool_context *context,
                    struct lh_journal_report *report, struct lh_error *error) LH_MUST_CHECK;

/*
 * A pool's journal alone, opened and recovered as opening the pool does. For tests of recovery, which have
 * the pool's memory in use.
 */
struct others;
int lh__pool_journal(struct lh_store *below, const struct lh_pool_context *context, struct others **others,
                     struct lh_store **journal, struct lh_error *error) LH_MUST_CHECK;
/* Lets go of it, as lh__journal_release does. */
struct lh_store *lh__pool_journal_release(struct others *others, struct lh_store *journal);

/* What a log's record says of other pools. */
struct lh_pool_note {
	uint8_t decides[16]; /* of a prepared one: the id of the pool that decides, */
	const char *place;   /* where that was, not ended by a zero, */
	uint32_t place_size;
	uint64_t session, number;
	const uint8_t *pools; /* of a commit of several: n times 16 bytes: ids of the others */
	uint32_t n;
};
/* -EBADMSG: it is no such note. */
int lh__pool_note(const struct lh_log_record *record, struct lh_pool_note *note) LH_MUST_CHECK;
/* An id as people write it. */
const char *lh__pool_id_text(const uint8_t id[16], char out[40]);

/*
 * The table of system calls through which lh_pool_create and lh_pool_open work is the default one; these take
 * another.
 */
int lh__pool_create(const struct lh_sys *sys, const char *where, const struct lh_pool_options *options,
                    struct lh_pool **out, struct lh_error *error) LH_MUST_CHECK;
int lh__pool_open(const struct lh_sys *sys, const char *where, const struct lh_pool_options *options,
                  struct lh_pool **out, struct lh_error *error) LH_MUST_CHECK;

/* What opening it found and did. */
const struct lh_journal_report *lh__pool_report(const struct lh_pool *pool);
/* Brings home what is committed, now, in this thread. */
int lh__pool_checkpoint(struct lh_pool *pool) LH_MUST_CHECK;
/* As if the process died here: the handle is gone, and nothing more is written. For tests of recovery. */
void lh__pool_abandon(struct lh_pool *pool);

/* ---- looking at a pool that is not opened; all of these change nothing ---- */

/* Also while another process has it open. */
int lh__pool_peek(const struct lh_sys *sys, const char *where, const char *key_file,
                  struct lh_pool_header *header, struct lh_journal_look *look,
                  struct lh_error *error) LH_MUST_CHECK;
/* The records of its log, from the last checkpoint on, as lh__journal_visit. */
int lh__pool_visit_log(const struct lh_sys *sys, const char *where, const char *key_file,
                       int (*visit)(void *context, const struct lh_log_record *record), void *context,
                       struct lh_error *error) LH_MUST_CHECK;

struct lh_pool_check {
	struct lh_pool_header header;
	bool clean;
	uint64_t records;      /* in the log */
	uint64_t rolled_back;  /* 1: a transaction was under way that would be put back (undo) */
	bool waits;            /* the last transaction is prepared, and this pool knows whether it has been */
	uint8_t waits_for[16]; /* committed; it is looked at as if it had not */
	char waits_place[400];
	unsigned kept; /* outcomes kept for others that have not heard of them */
	struct lh_heap_usage usage;
};
/*
 * Looks at everything: header, log, and the heap as recovery would leave it. Returns 0, or an error that
 * names what is wrong. -EBUSY: it is open elsewhere for writing.
 */
int lh__pool_check(const struct lh_sys *sys, const char *where, const char *key_file,
                   struct lh_pool_check *check, struct lh_error *error) LH_MUST_CHECK;
/* The same for a journal on a store that stays the caller's. */
int lh__pool_check_store(struct lh_store *below, struct lh_pool_check *check,
                         struct lh_error *error) LH_MUST_CHECK;

#endif
