/*
 * journal.h - the journal store: makes a batch of changes atomic on any store: after a crash all are there,
 * or none.
 *
 * Below, the first two pages are the header (written by turns), then comes the log, a ring of records
 * (log.h), and then the pages of the journal's own client, its *home*: page p of the journal is page home + p
 * below. Drawn in docs/pool-format.md.
 *
 * Redo. A change is appended to the log; durable there, it is committed. Home is written later: *applied*.
 * When what was applied is durable too, a header that says so frees the log: a *checkpoint*. Recovery is
 * applying what the log holds, so it may be done twice, and may be interrupted anywhere.
 *
 * Undo. For memory that is changed in place (below->direct): old lines are durable in the log before new ones
 * may reach home. A transaction ends with a record of its own; recovery puts back the old lines of the one
 * that has none.
 *
 * As a store, the changes of one submit are one record: atomic, where no GET stands between them. sync makes
 * them durable. A GET makes them durable and applies them first. What finds no room at home when it is
 * applied breaks the journal, so who puts to a store that may be full reserves first. A client that has the
 * content of its pages itself, as a pool has, appends and flushes by the functions below instead, and never
 * waits for home.
 *
 * Several journals, together. A transaction over some of them is decided by one, the *coordinator*. The
 * others have it *prepared*, durably, each with a note about who decides; then the coordinator's record of
 * its own changes, with a note about who takes part, is the commit; then each of the others has it *decided*,
 * or *dropped*. A journal that is opened and finds the last transaction prepared, and nothing about its end,
 * asks its client, by the hooks. So does the coordinator's client keep in its part of the header what those
 * records have said that a checkpoint frees. What is in the notes is the client's.
 *
 * Threads: lh__journal_append and _undo, _end by one at a time; lh__journal_flush and _checkpoint by any
 * number, beside them. Threads that wait in flush share one write.
 */
#ifndef LH_STORE_JOURNAL_H
#define LH_STORE_JOURNAL_H

#include "store/log.h"
#include "store/store.h"

#define LH_JOURNAL_VERSION 2u
#define LH_JOURNAL_VERSION_ALONE 1u /* of a journal that knows of no other one */
#define LH_JOURNAL_CLIENT_SIZE 896u /* bytes of the header that are the client's */
#define LH_JOURNAL_LOG_MIN 16u      /* pages */

struct lh_journal_format {
	uint64_t log_pages;  /* a record may fill half of them */
	uint64_t home_pages; /* room for so many is reserved; 0: none */
	const void *client;  /* LH_JOURNAL_CLIENT_SIZE bytes; NULL: zeroes */
};

/* What opening found and did. */
struct lh_journal_report {
	bool clean;            /* it had been closed */
	uint64_t records;      /* in the log, from the last checkpoint on */
	uint64_t transactions; /* redone, or finished (undo) */
	uint64_t rolled_back;  /* undo: 1 where the last one was put back */
	uint64_t bytes;        /* of the log that these take up */
	uint64_t next;         /* the sequence that the next record gets */
};

/* Makes an empty journal over a store whose content does not matter. below stays the caller's. */
int lh__journal_format(struct lh_store *below, const struct lh_journal_format *format,
                       struct lh_error *error) LH_MUST_CHECK;
/*
 * Opens and recovers. Takes over below on success only. -EBADMSG: no journal, or a damaged one (a hole in the
 * log is named by its sequence), and nothing has been changed; -EPROTONOSUPPORT: of a newer version; -EROFS:
 * read_only, and it has to be recovered.
 */
int lh__journal_open(struct lh_store *below, bool read_only, struct lh_store **out,
                     struct lh_error *error) LH_MUST_CHECK;
/*
 * From now on the log is written by another handle on what is below, which is taken over: so that a commit
 * never waits for a change that is on its way home. It honours durable puts; its block may be larger than a
 * line. While nobody uses the journal.
 */
void lh__journal_log_by(struct lh_store *store, struct lh_store *log);

/* What the client of a journal that takes part in transactions over several of them is asked. */
struct lh_journal_hooks {
	/*
	 * The last transaction is prepared, with this note: 1: it has been committed, 0: it has not;
	 * negative: that cannot be known now, and opening fails so.
	 */
	int (*decide)(void *context, const void *note, size_t size, struct lh_error *error);
	/* Opening has found such a commit of this journal's own, in the order of the log. -EBADMSG. */
	int (*found)(void *context, const void *note, size_t size);
	/*
	 * A header is about to be written that frees the records before that sequence: puts into the client's
	 * bytes what has to be kept of them. Whether there is any such thing now.
	 */
	bool (*keep)(void *context, void *client, uint64_t sequence);
	void *context;
};
/* lh__journal_open with them; without, a journal with such records is refused (-EPROTONOSUPPORT). */
int lh__journal_open_with(struct lh_store *below, bool read_only, const struct lh_journal_hooks *hooks,
                          struct lh_store **out, struct lh_error *error) LH_MUST_CHECK;
const struct lh_journal_report *lh__journal_report(const struct lh_store *store);
/* The client's bytes of the header, LH_JOURNAL_CLIENT_SIZE of them; set returns when they are durable. */
const void *lh__journal_client(const struct lh_store *store);
int lh__journal_set_client(struct lh_store *store, const void *client) LH_MUST_CHECK;
/* The page below that is page 0 of the journal, and how many pages the log has. */
uint64_t lh__journal_home(const struct lh_store *store);
uint64_t lh__journal_log_pages(const struct lh_store *store);
struct lh_store *lh__journal_below(const struct lh_store *store);

/*
 * Appends one record, which takes effect as a whole. Waits only where the log is full, for room. *sequence is
 * what lh__journal_flush wants. -E2BIG: more than half of the log. -EIO...: the journal is broken: every
 * later call fails so, and what became of records that were not flushed is known after it is opened again.
 */
int lh__journal_append(struct lh_store *store, const struct lh_change *changes, size_t n,
                       uint64_t *sequence) LH_MUST_CHECK;
/* Returns when the record of that sequence, and all before it, are durable. */
int lh__journal_flush(struct lh_store *store, uint64_t sequence) LH_MUST_CHECK;
/* Brings home what is durable in the log, and frees it. */
int lh__journal_checkpoint(struct lh_store *store) LH_MUST_CHECK;
/* The bytes of the log that a checkpoint would free now, and those that it has. */
uint64_t lh__journal_used(const struct lh_store *store);

/*
 * Undo, where below->direct. The changes are the old lines; returns when they are durable. *transaction is 0
 * at a transaction's first call, which sets it. -E2BIG: the transaction's old lines do not fit in the log.
 */
int lh__journal_undo(struct lh_store *store, uint64_t *transaction, const struct lh_change *changes,
                     size_t n) LH_MUST_CHECK;
/* The new lines are durable (or the old ones are back): the transaction is over. */
int lh__journal_end(struct lh_store *store, uint64_t transaction) LH_MUST_CHECK;

/*
 * Of a transaction over several journals, which have been opened with hooks. First, once a session: the
 * header says that there may be such records; a program that does not know them refuses the journal then.
 */
int lh__journal_announce(struct lh_store *store) LH_MUST_CHECK;
/*
 * It is prepared: a redo log's new lines, *transaction being 0 and set; or of an undo log, whose new lines
 * are home, no changes. Durable after lh__journal_flush. Next comes lh__journal_decide, and no other record.
 */
int lh__journal_prepare(struct lh_store *store, uint64_t *transaction, const struct lh_change *changes,
                        size_t n, const void *note, uint32_t size, uint64_t *sequence) LH_MUST_CHECK;
/* What has become of it. Of an undo log: the new lines are durable, or the old ones are back. */
int lh__journal_decide(struct lh_store *store, uint64_t transaction, bool committed,
                       uint64_t *sequence) LH_MUST_CHECK;
/*
 * The coordinator's commit; transaction and changes as of lh__journal_prepare. Durable it is the commit of
 * all.
 */
int lh__journal_together(struct lh_store *store, uint64_t transaction, const struct lh_change *changes,
                         size_t n, const void *note, uint32_t size, uint64_t *sequence) LH_MUST_CHECK;
/* A random number of the session, and the sequence that the next record gets (the appender's). */
uint64_t lh__journal_session(const struct lh_store *store);
uint64_t lh__journal_next(const struct lh_store *store);

/* Flushes, brings home, and says in the header that it is closed; close does the same and tells nobody. */
int lh__journal_finish(struct lh_store *store) LH_MUST_CHECK;
/*
 * Ends the handle without writing anything, as a process ends that is killed; below is the caller's again,
 * and is returned.
 */
struct lh_store *lh__journal_release(struct lh_store *store);

/* Since it was opened. */
struct lh_journal_counts {
	uint64_t log_bytes, changed_bytes, home_bytes; /* see struct lh_pool_info */
	uint64_t flushes, fences;
};
void lh__journal_counts(const struct lh_store *store, struct lh_journal_counts *counts);

/*
 * For those who want to see a log (below may be open elsewhere): calls visit for each record from the last
 * checkpoint on, until it returns non-zero, which is returned. Changes nothing. -EBADMSG as for open; a hole
 * is reported when the records before it have been visited.
 */
int lh__journal_visit(struct lh_store *below, int (*visit)(void *context, const struct lh_log_record *record),
                      void *context, struct lh_error *error) LH_MUST_CHECK;
/* What a journal's header says, without opening it. */
struct lh_journal_look {
	unsigned char client[LH_JOURNAL_CLIENT_SIZE];
	uint64_t home, log_pages;
	bool clean; /* it was closed */
	uint32_t version;
	uint64_t generation; /* of the header: while it is the same, nothing has been freed */
};
int lh__journal_look(struct lh_store *below, struct lh_journal_look *look,
                     struct lh_error *error) LH_MUST_CHECK;

#endif
