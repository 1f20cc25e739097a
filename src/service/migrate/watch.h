/*
 * watch.h - the watch over a running QEMU's memory (port/guest/written.h), put up from outside.
 *
 * QEMU need not have been started for it: one thread of it, stopped for less than a millisecond, makes the
 * userfaultfd, which we take (pidfd_getfd) and it closes. So ours is the only descriptor, and if we die the
 * guest's memory is as it was.
 */
#ifndef LH_MIGRATE_WATCH_H
#define LH_MIGRATE_WATCH_H

#include "port/guest/written.h"
#include "service/migrate/state.h"

/*
 * Finds the regions' mappings in the process by their files' device and inode (all of each region, one
 * mapping each, or neighbouring ones), and begins to watch. -EPERM: it may not be traced; -EBUSY: somebody
 * traces it; -ENOENT: a region is not mapped. stopped_ns (may be NULL): for how long QEMU's threads stood
 * still.
 */
int lh__watch_begin(pid_t process, const struct lh_state_region *region, size_t regions,
                    struct lh_written *written, uint64_t *stopped_ns, struct lh_error *error) LH_MUST_CHECK;

#endif
