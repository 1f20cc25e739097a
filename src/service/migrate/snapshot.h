/*
 * snapshot.h - a machine at rest, in a folder, and the lazy way back: it runs before its memory has been
 * read.
 *
 *     DIR/machine.json   format, version, regions (name, pages, file), CR3 of each vCPU, physical ranges
 *     DIR/memory-NAME    each region's memory, sparse: holes are zero
 *     DIR/device         QEMU's device state
 *
 * docs/migrate-format.md has all of it. machine.json is written last: a folder without it is no snapshot.
 */
#ifndef LH_MIGRATE_SNAPSHOT_H
#define LH_MIGRATE_SNAPSHOT_H

#include "service/migrate/receive.h"

/* What one that saves and is killed leaves behind; in memory that outlives it. */
struct lh_snapshot_left {
	bool running; /* the guest ran, and may stand still */
	bool files;   /* those in the folder are ours */
	bool made;    /* and so is the folder */
};
/*
 * Saves the machine into dir, which must not exist or be empty. The guest stands still meanwhile, and then
 * goes on, whatever became of the snapshot; what was written of one that failed is removed.
 */
int lh__snapshot_save(const char *monitor, const char *dir, int cancel, struct lh_snapshot_left *left,
                      struct lh_error *error) LH_MUST_CHECK;
/* After who saved was killed: the guest goes on, and what is no whole snapshot is removed. */
int lh__snapshot_recover(const char *monitor, const char *dir, const struct lh_snapshot_left *left,
                         struct lh_error *error) LH_MUST_CHECK;
/*
 * Resumes from dir in the waiting QEMU, and stays until all memory is there (policy none: until QEMU has
 * gone). Of options, listen and key_file are not used. The snapshot is only read and can be restored any
 * number of times. After one that was killed the guest stands still, and the same call goes on with it.
 */
int lh__snapshot_restore(const char *dir, const struct lh_receive_options *options, json_t **stats,
                         struct lh_error *error) LH_MUST_CHECK;

#endif
