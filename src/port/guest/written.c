/*
 * written.c - which pages another process writes to. See written.h.
 *
 * PAGEMAP_SCAN finds what has been written to and protects it again, both under the lock of the page table
 * and with its translation flushed before it is reported: a write that comes later faults, and the kernel
 * notes it. Nobody ever waits.
 *
 * What it does not see is that a page of a file is discarded (MADV_REMOVE, fallocate): the protection stays
 * in the page table, as if the content had. But the page table has the page no longer. So after each scan a
 * second one asks which pages are not there, and those that were there the last time are taken for discarded.
 * Some of them are not, the kernel takes pages out of page tables for other reasons; they are reported
 * without need. A page that was discarded and only read before the next scan is not reported: a guest that
 * gives a page away (balloon, free page reporting) may find in it what it had or zeroes.
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

/* ---- scanning ---- */

struct scan {
	const struct lh_written *written;
	const struct lh_guest_range *range;
	struct pm_scan_arg ask; /* what is looked for */
	/* Called for each run of pages that was found, in ascending order. */
	void (*found)(void *context, uint64_t first, uint64_t count);
	void *context;
};

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
		for (long i = 0; i < n; i++)
			scan->found(scan->context,
			            range->first + (region[i].start - range->address) / LH_PAGE_SIZE,
			            (region[i].end - region[i].start) / LH_PAGE_SIZE);
		if (ask.walk_end <= ask.start)
			return -EIO;
	}
	return 0;
}

struct gathered {
	struct lh_pageset *set; /* NULL: they are not wanted */
	uint64_t found;
	struct lh_pageset *absent; /* NULL: stays as it is */
	const struct lh_pageset *absent_before;
	uint64_t next; /* page of the range that has not been looked at yet */
};

static void gather(struct gathered *to, uint64_t first, uint64_t count)
{
	if (to->set)
		lh__pageset_add_run(to->set, first, count);
	to->found += count;
}

static void found_written(void *context, uint64_t first, uint64_t count)
{
	gather(context, first, count);
}

/* Of pages that are not in the page table those that were. */
static void found_absent(void *context, uint64_t first, uint64_t count)
{
	struct gathered *to = context;
	uint64_t end = first + count, from = lh__pageset_next_not(to->absent_before, first);

	while (from < end) {
		uint64_t until = lh__pageset_next(to->absent_before, from);

		until = until < end ? until : end;
		gather(to, from, until - from);
		from = lh__pageset_next_not(to->absent_before, until);
	}
	if (to->absent) {
		lh__pageset_remove_run(to->absent, to->next, first - to->next);
		lh__pageset_add_run(to->absent, first, count);
	}
	to->next = end;
}

static int scan_absent(struct lh_written *written, const struct lh_guest_range *range, struct gathered *to)
{
	struct scan scan = {
		.written = written,
		.range = range,
		.ask = { .category_inverted = PAGE_IS_PRESENT,
		         .category_mask = PAGE_IS_PRESENT,
		         .return_mask = PAGE_IS_PRESENT },
		.found = found_absent,
		.context = to,
	};
	int result;

	to->next = range->first;
	result = scan_range(&scan);
	if (result == 0 && to->absent)
		lh__pageset_remove_run(to->absent, to->next, range->first + range->pages - to->next);
	return result;
}

static int scan_written(struct lh_written *written, const struct lh_guest_range *range, bool again,
                        struct gathered *to)
{
	struct scan scan = {
		.written = written,
		.range = range,
		.ask = { .flags = again ? PM_SCAN_WP_MATCHING : 0,
		         .category_mask = PAGE_IS_WRITTEN,
		         .return_mask = PAGE_IS_WRITTEN },
		.found = found_written,
		.context = to,
	};

	return scan_range(&scan);
}

int lh__written_scan(struct lh_written *written, struct lh_pageset *set, bool again, uint64_t *found)
{
	struct gathered to = {
		.set = set,
		.absent = again ? &written->absent : NULL,
		.absent_before = &written->absent,
	};
	int result = 0;

	for (size_t i = 0; i < written->ranges && result == 0; i++) {
		result = scan_written(written, &written->range[i], again, &to);
		if (result == 0)
			result = scan_absent(written, &written->range[i], &to);
	}
	if (found)
		*found = to.found;
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

static int protect(struct lh_written *written, const struct lh_guest_range *range)
{
	uint64_t end = end_of(range), size;
	long result = 0;

	for (uint64_t at = range->address; at < end && result >= 0; at += size) {
		struct uffdio_writeprotect protect = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };

		size = end - at < PROTECT_AT_ONCE ? end - at : PROTECT_AT_ONCE;
		protect.range.start = at;
		protect.range.len = size;
		result = watch_ioctl(written, UFFDIO_WRITEPROTECT, &protect);
	}
	return (int)result;
}

static int watch_range(struct lh_written *written, const struct lh_guest_range *range, struct lh_error *error)
{
	struct uffdio_register request = {
		.range = { .start = range->address, .len = range->pages * LH_PAGE_SIZE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct gathered to = { .absent = &written->absent, .absent_before = &written->absent };
	int result = (int)watch_ioctl(written, UFFDIO_REGISTER, &request);

	if (result == -EBUSY)
		return lh__fail(error, result,
		                "the memory at 0x%lx is watched by another userfaultfd already",
		                (unsigned long)range->address);
	if (result < 0)
		return lh__fail(error, result, "the memory at 0x%lx cannot be watched (%s)",
		                (unsigned long)range->address, lh__errno_name(result));
	result = protect(written, range);
	if (result < 0)
		return lh__fail(error, result, "the memory at 0x%lx cannot be write-protected (%s)",
		                (unsigned long)range->address, lh__errno_name(result));
	result = scan_absent(written, range, &to);
	if (result == -ENOTTY || result == -EINVAL)
		return lh__fail(error, -ENOSYS, "this kernel lacks PAGEMAP_SCAN: Linux 6.7 is needed");
	if (result < 0)
		return lh__fail(error, result, "what the memory at 0x%lx has cannot be seen (%s)",
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
	lh__free(written->sys, written->absent.word, lh__pageset_bytes(written->absent.pages));
	written->absent.word = NULL;
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
	for (size_t i = 0; i < ranges; i++)
		if (written->absent.pages < range[i].first + range[i].pages)
			written->absent.pages = range[i].first + range[i].pages;
	written->absent.word = lh__alloc(sys, lh__pageset_bytes(written->absent.pages));
	if (!written->absent.word)
		return lh__fail(error, -ENOMEM, "no memory for the watch over %lu pages",
		                (unsigned long)written->absent.pages);
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
