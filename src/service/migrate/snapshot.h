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

/*
 * Saves the machine into dir, which must not exist or be empty. The guest stands still meanwhile, and then
 * goes on, whatever became of the snapshot; what was written of one that failed is removed.
 */
int lh__snapshot_save(const char *monitor, const char *dir, int cancel, struct lh_error *error) LH_MUST_CHECK;
/*
 * Resumes from dir in the waiting QEMU, and stays until all memory is there (policy none: until QEMU has
 * gone). Of options, listen and key_file are not used. The snapshot is only read and can be restored any
 * number of times.
 */
int lh__snapshot_restore(const char *dir, const struct lh_receive_options *options, json_t **stats,
                         struct lh_error *error) LH_MUST_CHECK;

#endif
