/*
 * inject.h - has another process make a userfaultfd for its own memory, and takes it away from it.
 */
#ifndef LH_MIGRATE_INJECT_H
#define LH_MIGRATE_INJECT_H

#include <sys/types.h>

#include "linehome.h"

/*
 * One thread of the process is stopped for it, preferably one that waits for nothing in particular; the
 * others run on. *fd becomes the only descriptor there is of it, UFFDIO_API is still to be called.
 * *stopped_ns: for how long that thread stood still. If we are killed at any point the thread goes on where
 * it was by itself. -ESRCH: no such process; -EPERM: it may not be traced; -EBUSY: somebody traces it;
 * -ENOSYS: the kernel or a sandbox does not let it.
 */
int lh__inject_userfaultfd(pid_t process, int *fd, uint64_t *stopped_ns,
                           struct lh_error *error) LH_MUST_CHECK;

#endif
