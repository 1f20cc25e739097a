/*
 * written.c - which pages another process writes to. See written.h.
 *
 * PAGEMAP_SCAN finds what has been written to and protects it again, both under the lock of the page table
 * and with its translation flushed before it is reported: a write that comes later faults, and the kernel
 * notes it. Nobody ever waits.
 *
 * What it does not see is that a page of a file is discarded (MADV_REMOVE, fallocate): the protection stays
 * in the page table, as if the content had. But the page table has the page no longer; so a second scan asks
 * which pages are not there. That is all that can be known here: a page was taken out of the page table for
 * other reasons, was never in it, or is only about to lose its content (it leaves page tables first, and who
 * reads the file meanwhile still finds it). So whether content is gone is asked of the file, for all pages
 * that are not there, and as long as somebody has a copy of them.
 *
 * A page that is neither there nor protected has lost the protection with its content or with its page table:
 * it was written to.
 *
 * A page that was discarded and only read before the next scan is there again, zero, and is not noticed: a
 * guest that gives a page away (balloon, free page reporting) may find in it what it had or zeroes.
 */
#include "port/guest/written.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "port/page/uapi.h"

#define REGIONS_AT_ONCE 256u
#define PROTECT_AT_ONCE (UINT64_C(64) << 20)

static long watch_ioctl(const struct lh_written *written, unsigned long request, void *argument)
{
	return LH_SYS(written->sys, SYS_ioctl, written->fd, request, argument);
}

static uint64_t end_of(const struct lh_guest_range *range)
{
	return range->address + range->pages * LH_PAGE_SIZE;
}

static int protect(const struct lh_written *written, uint64_t at, uint64_t end)
{
	long result = 0;

	for (uint64_t size; at < end && result >= 0; at += size) {
		struct uffdio_writeprotect protect = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };

		size = end - at < PROTECT_AT_ONCE ? end - at : PROTECT_AT_ONCE;
		protect.range.start = at;
		protect.range.len = size;
		result = watch_ioctl(written, UFFDIO_WRITEPROTECT, &protect);
	}
	return (int)result;
}

/* ---- scanning ---- */

struct scan {
	const struct lh_written *written;
	const struct lh_guest_range *range;
	struct pm_scan_arg ask; /* what is looked for */
	/* Called for each run of pages that was found, in ascending order, with what is known of them. */
	int (*found)(const struct scan *scan, const struct page_region *region);
	bool again;
	struct lh_pageset *set, *absent;
};

static void add(const struct scan *scan, struct lh_pageset *set, const struct page_region *region)
{
	lh__pageset_add_run(set, scan->range->first + (region->start - scan->range->address) / LH_PAGE_SIZE,
	                    (region->end - region->start) / LH_PAGE_SIZE);
}

static int scan_range(const struct scan *scan)
{
	struct page_region region[REGIONS_AT_ONCE];
	struct pm_scan_arg ask = scan->ask;
	const struct lh_guest_range *range = scan->range;

	ask.size = sizeof ask;
	ask.flags |= PM_SCAN_CHECK_WPASYNC;
	ask.end = end_of(range);
	ask.vec = (uintptr_t)region;
	ask.vec_len = REGIONS_AT_ONCE;
	for (ask.start = range->address; ask.start < ask.end; ask.start = ask.walk_end) {
		long n = LH_SYS(scan->written->sys, SYS_ioctl, scan->written->pagemap, PAGEMAP_SCAN, &ask);

		if (n < 0)
			return (int)n;
		for (long i = 0; i < n; i++) {
			int result = scan->found(scan, &region[i]);

			if (result < 0)
				return result;
		}
		if (ask.walk_end <= ask.start)
			return -EIO;
	}
	return 0;
}

static int found_written(const struct scan *scan, const struct page_region *region)
{
	add(scan, scan->set, region);
	return 0;
}

/* What is not in the page table is "swapped" where its protection is noted. */
static int found_absent(const struct scan *scan, const struct page_region *region)
{
	int result = 0;

	if (region->categories & PAGE_IS_SWAPPED) {
		add(scan, scan->absent, region);
		return 0;
	}
	if (scan->again)
		result = protect(scan->written, region->start, region->end);
	add(scan, scan->set, region);
	return result;
}

static int scan_written(const struct scan *what)
{
	struct scan scan = *what;

	scan.ask = (struct pm_scan_arg){ .flags = scan.again ? PM_SCAN_WP_MATCHING : 0,
		                         .category_mask = PAGE_IS_WRITTEN,
		                         .return_mask = PAGE_IS_WRITTEN };
	scan.found = found_written;
	return scan_range(&scan);
}

static int scan_absent(const struct scan *what)
{
	struct scan scan = *what;

	scan.ask = (struct pm_scan_arg){ .category_inverted = PAGE_IS_PRESENT,
		                         .category_mask = PAGE_IS_PRESENT,
		                         .return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED };
	scan.found = found_absent;
	return scan_range(&scan);
}

int lh__written_scan(struct lh_written *written, bool again, struct lh_pageset *set,
                     struct lh_pageset *absent)
{
	struct scan scan = { .written = written, .again = again, .set = set, .absent = absent };
	int result = 0;

	for (size_t i = 0; i < written->ranges && result == 0; i++) {
		scan.range = &written->range[i];
		result = scan_written(&scan);
		if (result == 0)
			result = scan_absent(&scan);
	}
	return result;
}

/* ---- opening ---- */

static int begin(struct lh_written *written, struct lh_error *error)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		            UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC,
	};
	int result = (int)watch_ioctl(written, UFFDIO_API, &api);

	if (result < 0)
		return lh__fail(error, result,
		                "this kernel's userfaultfd lacks UFFD_FEATURE_WP_ASYNC: Linux 6.7 is needed");
	return 0;
}

/* Whether this kernel can: of one page, and nothing is done with it. */
static int try_scan(const struct lh_written *written, const struct lh_guest_range *range)
{
	struct page_region region;
	struct pm_scan_arg ask = {
		.size = sizeof ask,
		.flags = PM_SCAN_CHECK_WPASYNC,
		.start = range->address,
		.end = range->address + LH_PAGE_SIZE,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};

	return (int)LH_SYS(written->sys, SYS_ioctl, written->pagemap, PAGEMAP_SCAN, &ask);
}

static int watch_range(struct lh_written *written, const struct lh_guest_range *range, struct lh_error *error)
{
	struct uffdio_register request = {
		.range = { .start = range->address, .len = range->pages * LH_PAGE_SIZE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int result = (int)watch_ioctl(written, UFFDIO_REGISTER, &request);

	if (result == -EBUSY)
		return lh__fail(error, result,
		                "the memory at 0x%lx is watched by another userfaultfd already",
		                (unsigned long)range->address);
	if (result < 0)
		return lh__fail(error, result, "the memory at 0x%lx cannot be watched (%s)",
		                (unsigned long)range->address, lh__errno_name(result));
	result = protect(written, range->address, end_of(range));
	if (result < 0)
		return lh__fail(error, result, "the memory at 0x%lx cannot be write-protected (%s)",
		                (unsigned long)range->address, lh__errno_name(result));
	result = try_scan(written, range);
	if (result == -ENOTTY || result == -EINVAL)
		return lh__fail(error, -ENOSYS, "this kernel lacks PAGEMAP_SCAN: Linux 6.7 is needed");
	if (result < 0)
		return lh__fail(error, result, "what is written to the memory at 0x%lx cannot be seen (%s)",
		                (unsigned long)range->address, lh__errno_name(result));
	return 0;
}

static int open_pagemap(struct lh_written *written, pid_t process, struct lh_error *error)
{
	char path[32];

	lh__format(path, sizeof path, "/proc/%d/pagemap", (int)process);
	written->pagemap = (int)LH_SYS(written->sys, SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	if (written->pagemap < 0)
		return lh__fail(error, written->pagemap, "%s cannot be opened (%s)", path,
		                lh__errno_name(written->pagemap));
	return 0;
}

static void let_go(struct lh_written *written)
{
	if (written->pagemap >= 0)
		LH_SYS(written->sys, SYS_close, written->pagemap);
	written->pagemap = -1;
}

static int watch(struct lh_written *written, struct lh_error *error)
{
	int result = begin(written, error);

	for (size_t i = 0; i < written->ranges && result == 0; i++)
		result = watch_range(written, &written->range[i], error);
	/* What was registered before is so no longer: the caller may keep the descriptor. */
	for (size_t i = 0; i < written->ranges && result < 0; i++) {
		struct uffdio_range range = { .start = written->range[i].address,
			                      .len = written->range[i].pages * LH_PAGE_SIZE };

		watch_ioctl(written, UFFDIO_UNREGISTER, &range);
	}
	return result;
}

int lh__written_open(const struct lh_sys *sys, pid_t process, int fd, const struct lh_guest_range *range,
                     size_t ranges, struct lh_written *written, struct lh_error *error)
{
	int result;

	if (ranges > LH_GUEST_RANGES_MAX)
		return lh__fail(error, -EINVAL, "%zu ranges of memory are more than %u", ranges,
		                LH_GUEST_RANGES_MAX);
	*written = (struct lh_written){ .sys = sys, .fd = fd, .pagemap = -1, .ranges = ranges };
	memcpy(written->range, range, ranges * sizeof *range);
	result = open_pagemap(written, process, error);
	if (result == 0)
		result = watch(written, error);
	if (result < 0)
		let_go(written);
	return result;
}

void lh__written_close(struct lh_written *written)
{
	let_go(written);
	if (written->fd >= 0)
		LH_SYS(written->sys, SYS_close, written->fd);
	written->fd = -1;
}
