/*
 * linehome/atomic.h - transactions for programs that only mark where they begin and end.
 *
 * Between tx_begin and tx_end the calling thread's code, with all that it calls, is translated, and its
 * stores to all pools that are open with LH_SEE_TRANSLATED are one transaction: after a crash all of them are
 * there, in all of the pools, or none. Everything else that the code does is done as ever, and not undone.
 *
 * Calls nest: the outermost tx_end commits. All return 0, or a negative errno.
 */
#ifndef LINEHOME_ATOMIC_H
#define LINEHOME_ATOMIC_H

#include "linehome.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * -ENODEV: no pool is open so. -EBUSY: the processor's gs register is the program's own. -ENOMEM: no room for
 * translated code. -EDEADLK: this thread has a transaction of one of them open already, and waiting for
 * another one, which another thread has, might never end. -ENOTRECOVERABLE: the log of one is broken; close
 * it. Nothing has begun then.
 */
LH_API int tx_begin(void);
/*
 * 0: the changes are durable. Otherwise memory is as it was before the outermost tx_begin. -ENOSPC: there
 * were more changes than a log has room for. -ECANCELED: an inner transaction was aborted. -EPERM: no
 * transaction had begun. -EUSERS: more than 17 pools were changed, or one of them keeps outcomes for 16 that
 * have not been opened since. -EIO and others as lh_tx_commit: what became of it is known, and the same in
 * all pools, when they are opened again. Where lh_tx_begin had begun one of the pools' transactions before,
 * that one's commit ends all.
 */
LH_API int tx_end(void);
/* Memory is as it was; enclosing transactions will end so too. -EPERM. */
LH_API int tx_abort(void);

/*
 * ---- transactions of functions that know of none ----
 *
 * `linehome atomic` loads a library into a program that calls lh_atomic_start before main; a program may call
 * it itself, before it opens a pool and while it has one thread.
 */

/* What happens when a transaction makes a system call that cannot be undone. */
enum lh_atomic_calls {
	LH_ATOMIC_ALLOW = 0,
	LH_ATOMIC_WARN = 1,  /* a line, once for each place that makes one */
	LH_ATOMIC_ABORT = 2, /* it fails with ECANCELED, and the transaction's end aborts, with -ECANCELED */
};

struct lh_atomic_options {
	/*
	 * Names of functions, NULL at the end or for none: a transaction begins when one of the first is
	 * entered, and ends when one of the second returns. A name may stand in both: then each outermost
	 * call is a transaction. "NAME" is each function of that name in the program and its libraries as
	 * they are loaded now, "MODULE!NAME" that of one of them.
	 */
	const char *const *begin, *const *end;
	enum lh_log log; /* of pools that are opened with LH_LOG_AUTO */
	enum lh_atomic_calls calls;
	const char *pool;              /* that lh_atomic_pool opens; NULL: none */
	void (*say)(const char *line); /* what nobody returns: warnings, transactions undone; NULL: nowhere */
	/*
	 * A function's transaction was undone: -ENOSPC, -ECANCELED, or another error that tx_end returns. In
	 * its thread, after say, before the function's caller goes on. It may end the process, or leave a
	 * note for the caller; it begins no transaction. NULL: the caller goes on.
	 */
	void (*undone)(const char *function, int error);
};
/*
 * -ENOENT: there is no such function. -ENOTSUP: a transaction cannot begin or end there. -EBUSY: there is
 * more than one thread. -EEXIST: the program has this library in it twice.
 */
LH_API int lh_atomic_start(const struct lh_atomic_options *options, struct lh_error *error) LH_MUST_CHECK;
/*
 * The pool that `linehome atomic --pool` names, opened with LH_SEE_TRANSLATED by the first call; who closes
 * it sees to it that nobody asks again. NULL: none was named (-ENODEV), or it cannot be opened.
 */
LH_API struct lh_pool *lh_atomic_pool(struct lh_error *error);

#ifdef __cplusplus
}
#endif

#endif
