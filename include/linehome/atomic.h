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

#ifdef __cplusplus
}
#endif

#endif
