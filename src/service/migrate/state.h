/*
 * state.h - what the receiver knows of each page, in a file beside the guest's memory, so that a receiver
 * that was killed goes on where it was. docs/migrate-format.md has it byte by byte: a header (magic, version,
 * checksum, which migration, phase), the guest's regions, the device state, and the persistent sets below.
 *
 * What makes it right without a journal: a bit of `fresh` is set after the page's content is in the file of
 * the guest's memory and before the guest can see it. So of a page that is not fresh the guest has seen
 * nothing, and it may be written again; one that is fresh is never written again. The phase changes in one
 * store, after all that it says is there.
 *
 * The file dies with the machine, as the guest does: it is mapped, and never synced.
 */
#ifndef LH_MIGRATE_STATE_H
#define LH_MIGRATE_STATE_H

#include "line/pageset.h"
#include "service/migrate/wire.h"

#define LH_STATE_REGIONS_MAX 64u

struct lh_state_region {
	char name[64];   /* QEMU's id of the memory backend */
	char path[1024]; /* of the file on this machine */
	uint64_t offset; /* in the file */
	uint64_t pages;
	uint64_t first;
};

struct lh_state {
	uint8_t id[LH_MOVE_ID];
	uint64_t pages;
	size_t regions;
	struct lh_state_region region[LH_STATE_REGIONS_MAX];

	/* In the file. */
	struct lh_pageset fresh; /* content is right; the guest may have it, and may have changed it */
	struct lh_pageset zero;  /* not fresh, but known to be zero at the source: nothing needs to come */
	/* In memory alone: after a restart they are empty, which is always right. */
	struct lh_pageset
		based; /* the file has the page as the source gave it last, though it may be older */
	struct lh_pageset shown; /* may be in the guest's page table */
	struct lh_pageset asked; /* on its way in the background */
	struct lh_pageset busy;  /* a thread is putting it in place, or discarding it */

	struct lh_state_file *file;
};

/*
 * NULL as path: in memory alone (snapshots, Firecracker), everything else the same. Replaces what is there.
 * Regions follow one another (-EINVAL); there may be none. -EBUSY: another process has it, by a lock that
 * dies with it. A process opens a state once at a time.
 */
int lh__state_create(const char *path, const uint8_t id[LH_MOVE_ID], const struct lh_state_region *region,
                     size_t regions, struct lh_state **out, struct lh_error *error) LH_MUST_CHECK;
/* -ENOENT: there is none; -EBADMSG: damaged, or of another version; -EBUSY as above. */
int lh__state_open(const char *path, struct lh_state **out, struct lh_error *error) LH_MUST_CHECK;
enum lh_move_phase lh__state_phase(const struct lh_state *state);
void lh__state_set_phase(struct lh_state *state, enum lh_move_phase phase);
/* The device state, which QEMU reads from a descriptor of the part of the file that holds it. */
int lh__state_put_device(struct lh_state *state, const void *bytes, size_t size,
                         struct lh_error *error) LH_MUST_CHECK;
/* A new descriptor, at its beginning, of a memory file with a copy; the caller closes it. -ENODATA. */
int lh__state_device(const struct lh_state *state, struct lh_error *error) LH_MUST_CHECK;
/* Written to a descriptor. */
int lh__state_device_to(const struct lh_state *state, int fd, struct lh_error *error) LH_MUST_CHECK;
/* remove: and the file is deleted. */
void lh__state_close(struct lh_state *state, bool remove);

#endif
