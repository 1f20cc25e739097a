/*
 * snapshot_inside.h - what stands in the machine.json of a snapshot, for who writes and who restores one.
 */
#ifndef LH_MIGRATE_SNAPSHOT_INSIDE_H
#define LH_MIGRATE_SNAPSHOT_INSIDE_H

#include "service/migrate/machine.h"

#define LH_SNAPSHOT_FORMAT "linehome-snapshot"
#define LH_SNAPSHOT_VERSION 1
#define LH_SNAPSHOT_PHYSICAL_MAX 256u

struct lh_snapshot {
	size_t regions;
	/* path: of the region's file in the folder; offset 0; pages are numbered over all regions. */
	struct lh_state_region region[LH_STATE_REGIONS_MAX];
	char device[1024]; /* path of the device state */
	uint64_t device_size;
	bool running; /* the guest ran when it was saved */
	size_t cpus;
	uint64_t cr3[LH_MACHINE_CPUS_MAX]; /* of vCPUs with 4-level paging */
	size_t ranges;
	struct lh_physical_range physical[LH_SNAPSHOT_PHYSICAL_MAX];
};

/*
 * Reads DIR/machine.json, and looks whether the files that it names are there and as long as they must be.
 * -ENOENT: the folder is no snapshot; -EBADMSG: damaged, or of another version. No descriptor is kept.
 */
int lh__snapshot_read(const char *dir, struct lh_snapshot *snapshot, struct lh_error *error) LH_MUST_CHECK;
/*
 * Writes it, flushed: to a file beside it first, which then takes its name. Paths are cut to their last part.
 */
int lh__snapshot_write(const char *dir, const struct lh_snapshot *snapshot,
                       struct lh_error *error) LH_MUST_CHECK;

#endif
