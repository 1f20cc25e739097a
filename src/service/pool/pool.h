/*
 * pool.h - what the command and the tests use of pools beyond linehome.h.
 */
#ifndef LH_POOL_H
#define LH_POOL_H

#include "service/pool/heap.h"
#include "store/journal.h"
#include "store/store.h"

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
	uint8_t rest[LH_JOURNAL_CLIENT_SIZE - 128];
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
	uint64_t records;     /* in the log */
	uint64_t rolled_back; /* 1: a transaction was under way that would be put back (undo) */
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
