/*
 * translated.h - transactions whose stores are seen because their code is translated (LH_SEE_TRANSLATED).
 *
 * One translator serves all pools of a process. While a thread is inside, each of its stores is compared with
 * the ranges of the pools that are open so; one that hits has its lines saved (lh__tx_save's work) before it
 * is executed. Stores through rsp are not looked at: a stack does not lie in a pool.
 */
#ifndef LH_POOL_TRANSLATED_H
#define LH_POOL_TRANSLATED_H

#include "service/pool/pool.h"

/* What happens when a transaction makes a system call that cannot be undone. */
enum lh_call_policy { LH_CALLS_ALLOW, LH_CALLS_WARN, LH_CALLS_ABORT };

/* Of the process; before the first pool is opened. */
struct lh_translated_options {
	enum lh_log log; /* of pools that are opened with LH_LOG_AUTO; LH_LOG_AUTO: as ever */
	enum lh_call_policy calls;
	void (*say)(const char *line); /* warnings; NULL: nowhere */
	void (*returned)(void);        /* where marked returns lead (frames.h); NULL: there are none */
};
void lh__translated_configure(const struct lh_translated_options *options);

const struct lh_translated_options *lh__translated_options(void);

/* The process's translator is there, and knows of the pool until it is closed. */
int lh__translated_open(struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
void lh__translated_close(struct lh_pool *pool);
/*
 * The calling thread, which has begun a transaction in the pool, is translated from the return of enter on,
 * until it has left all pools that it has entered. Its stores to them are seen.
 */
int lh__translated_enter(struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
void lh__translated_leave(struct lh_pool *pool);
/* What the calling thread has stored to is not known to be saved any more. */
void lh__translated_renew(void);
/* All code is translated anew. For tests, which change how that is done. */
void lh__translated_forget(void);
bool lh__translated_is_on(void);
/*
 * Aborts all transactions of the calling thread, which goes on natively; by whoever runs natively: its
 * frames are gone (frames.h), or it ends.
 */
void lh__translated_drop(void);
/*
 * What whoever begins or ends a transaction asks first: 1: the calling thread has one, and is translated; 0:
 * it has none. -EBUSY: it is a handler of a signal that has interrupted one. Where a handler has left one for
 * good that is aborted.
 */
int lh__translated_settle(uint64_t stack_pointer) LH_MUST_CHECK;
/* tx_begin, by whoever has this stack pointer. */
int lh__translated_begin(uint64_t stack_pointer) LH_MUST_CHECK;
/* tx_end, by whoever has settled, or knows what he does. */
int lh__translated_commit(void) LH_MUST_CHECK;
/* Of the calling thread; NULL: it has never been inside. */
struct lh_frames *lh__translated_frames(void);
/* A function that transactions call natively: lh__translate_native of the process's translator. */
int lh__translated_native(uint64_t function) LH_MUST_CHECK;

#endif
