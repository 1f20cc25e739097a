/*
 * written.h - which pages of another process's memory are written to, seen from outside.
 *
 * The memory is registered for asynchronous write protection (UFFD_FEATURE_WP_ASYNC) with a userfaultfd of
 * that process, of which we hold the only descriptor: a first write clears the protection in the kernel,
 * nobody waits, and PAGEMAP_SCAN finds the page and protects it again in one step. When we close the
 * descriptor, or die, the process is as it was before.
 *
 * Pages are numbered densely over the ranges, as in guest.h.
 */
#ifndef LH_PORT_GUEST_WRITTEN_H
#define LH_PORT_GUEST_WRITTEN_H

#include "line/pageset.h"
#include "port/guest/guest.h"

struct lh_written {
	const struct lh_sys *sys;
	int fd;      /* the userfaultfd of the watched process; ours alone */
	int pagemap; /* /proc/PID/pagemap */
	size_t ranges;
	struct lh_guest_range range[LH_GUEST_RANGES_MAX];
};

/*
 * Takes over fd (on success), for which UFFDIO_API is still to be called, registers the ranges and protects
 * all. From then on every write is seen. -EINVAL, -ENOSYS: the kernel lacks a feature, named in error.
 */
int lh__written_open(const struct lh_sys *sys, pid_t process, int fd, const struct lh_guest_range *range,
                     size_t ranges, struct lh_written *written, struct lh_error *error) LH_MUST_CHECK;
/*
 * Adds to `set` all pages written to since they were last protected. again: and protects these once more,
 * each before it is reported; so content that is read afterwards is either what it will stay, or reported by
 * the next scan. Adds to `absent` those that are protected and that the process's page table does not have:
 * most were never touched there, but the memory of some may have been discarded, of which only their file
 * tells. Who has a copy of such a page asks there whether it is a hole by now, at each scan, and then takes
 * it for zero; one that is being discarded just now is a hole at the next.
 *
 * Returns 0 or a negative errno (-ESRCH: the process has ended; -EPERM: something else is mapped there now);
 * then some may have been found and will not be found again.
 *
 * Seen is what the process and the kernel write through the process's mapping, and what KVM writes. Not seen
 * is what is written to the file by others, or by devices to pages that were pinned for them (vfio).
 */
int lh__written_scan(struct lh_written *written, bool again, struct lh_pageset *set,
                     struct lh_pageset *absent) LH_MUST_CHECK;
/* Nothing is protected any more. */
void lh__written_close(struct lh_written *written);

#endif
