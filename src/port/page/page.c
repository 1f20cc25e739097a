/* page.c - the page port over userfaultfd. See page.h. */
#include "port/page/page.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "port/page/uapi.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define BATCH 64

struct page_port {
	struct lh_port port;
	struct lh_page_options options;
	int uffd;
	int second; /* while the engine is being changed: the one that will be uffd */
	enum lh_engine second_engine;
	int pagemap;
	int memory; /* /proc/self/mem */
	bool keys;  /* the processor has protection keys and the kernel uses them */
};

static struct page_port *page_port_of(struct lh_port *port)
{
	return (struct page_port *)port;
}

static long uffd_ioctl(struct page_port *self, unsigned long request, void *argument)
{
	return LH_SYS(self->port.sys, SYS_ioctl, self->uffd, request, argument);
}

static int page_unwatch(struct lh_port *port, uintptr_t start, size_t size)
{
	struct uffdio_range range = { .start = start, .len = size };

	return (int)uffd_ioctl(page_port_of(port), UFFDIO_UNREGISTER, &range);
}

static __u64 register_mode(const struct lh_page_options *options)
{
	if (options->writes_only)
		return UFFDIO_REGISTER_MODE_WP;
	return UFFDIO_REGISTER_MODE_MISSING | (options->protects ? UFFDIO_REGISTER_MODE_WP : 0);
}

/* The kernel also watches memory of larger pages, for which it then offers less: no moving. */
static int page_watch(struct lh_port *port, uintptr_t start, size_t size)
{
	const struct lh_page_options *options = &page_port_of(port)->options;
	struct uffdio_register request = {
		.range = { .start = start, .len = size },
		.mode = register_mode(options),
	};
	__u64 needed = (__u64)1 << (options->writes_only ? _UFFDIO_WRITEPROTECT
	                            : options->shared    ? _UFFDIO_COPY
	                                                 : _UFFDIO_MOVE);
	int result = (int)uffd_ioctl(page_port_of(port), UFFDIO_REGISTER, &request);

	if (result < 0 || request.ioctls & needed)
		return result;
	result = page_unwatch(port, start, size);
	return result < 0 ? result : -EINVAL;
}

static void page_wake(struct lh_port *port, uintptr_t address)
{
	struct uffdio_range range = { .start = address, .len = LH_PAGE_SIZE };

	if (page_port_of(port)->options.engine == LH_ENGINE_THREAD)
		uffd_ioctl(page_port_of(port), UFFDIO_WAKE, &range);
}

/*
 * A page that is there already, or whose mapping is gone or another one: whoever waits for it only has to
 * look again. Nobody else would wake him, since the kernel wakes for what it has done and not for what it has
 * refused.
 */
static long wake_if_refused(struct lh_port *port, uintptr_t address, long result)
{
	if (result == -EEXIST || result == -ENOENT)
		page_wake(port, address);
	return result;
}

/*
 * The kernel says what it has done of a request that it ended early: bytes, or an error about the first page.
 */
static long pages_done(long result, __s64 done)
{
	return result == 0 || done > 0 ? done / LH_PAGE_SIZE : result;
}

static long copy_once(struct lh_port *port, uintptr_t address, const void *content, size_t pages)
{
	struct uffdio_copy copy = {
		.dst = address,
		.src = (uintptr_t)content,
		.len = pages * LH_PAGE_SIZE,
		.mode = page_port_of(port)->options.protects ? UFFDIO_COPY_MODE_WP : 0,
	};
	long result = uffd_ioctl(page_port_of(port), UFFDIO_COPY, &copy);

	return pages_done(result, copy.copy);
}

static long zero_once(struct lh_port *port, uintptr_t address, size_t pages)
{
	static const unsigned char zeroes[LH_PAGE_SIZE];
	struct uffdio_zeropage zero = { .range = { .start = address, .len = pages * LH_PAGE_SIZE } };
	long result;

	/* The kernel's zero page cannot be put there protected. */
	if (page_port_of(port)->options.protects)
		return copy_once(port, address, zeroes, 1);
	result = uffd_ioctl(page_port_of(port), UFFDIO_ZEROPAGE, &zero);
	return pages_done(result, zero.zeropage);
}

/* Several pages at once must lie in one mapping; where they do not, the first is supplied alone. */
static long page_supply(struct lh_port *port, uintptr_t address, const void *content, size_t pages)
{
	long result = copy_once(port, address, content, pages);

	if (result < 0 && pages > 1)
		result = copy_once(port, address, content, 1);
	return wake_if_refused(port, address, result);
}

static long page_supply_zero(struct lh_port *port, uintptr_t address, size_t pages)
{
	long result = zero_once(port, address, pages);

	if (result < 0 && pages > 1)
		result = zero_once(port, address, 1);
	return wake_if_refused(port, address, result);
}

static long move_once(struct lh_port *port, uintptr_t to, uintptr_t from, size_t pages, bool wake)
{
	struct uffdio_move request = {
		.dst = to,
		.src = from,
		.len = pages * LH_PAGE_SIZE,
		.mode = wake ? 0 : UFFDIO_MOVE_MODE_DONTWAKE,
	};
	long result = uffd_ioctl(page_port_of(port), UFFDIO_MOVE, &request);

	return pages_done(result, request.move);
}

/* What this thread may do with memory that has a protection key. Returns what it might before. */
static uint32_t set_keys(uint32_t rights)
{
	uint32_t before, zero;

	__asm__ volatile("rdpkru" : "=a"(before), "=d"(zero) : "c"(0));
	__asm__ volatile("wrpkru" : : "a"(rights), "c"(0), "d"(0) : "memory");
	return before;
}

/*
 * Makes the page this process's own if it may be written to (by copying it if need be), without writing. Not
 * for a page that is absent: in the thread engine that would be a request. Another thread of the program may
 * have a key that this one has not, and the kernel would say no more than that it is forbidden: so all are
 * held for a moment.
 */
static long make_own(struct lh_port *port, uintptr_t address)
{
	bool keys = page_port_of(port)->keys;
	uint32_t before = keys ? set_keys(0) : 0;
	long result = LH_SYS(port->sys, SYS_madvise, address, LH_PAGE_SIZE, MADV_POPULATE_WRITE);

	if (keys)
		set_keys(before);
	return result;
}

/*
 * Several pages at once must lie in one mapping; where they do not the first is moved alone. The kernel
 * refuses to move a page that a fork has shared, even when the child has gone, until it is this process's own
 * again. What is busy after that is in use by a device.
 */
static long move(struct lh_port *port, uintptr_t to, uintptr_t from, size_t pages, bool wake)
{
	long result = move_once(port, to, from, pages, wake);

	if (result < 0 && pages > 1)
		result = move_once(port, to, from, 1, wake);
	if (result == -EBUSY && make_own(port, from) == 0)
		result = move_once(port, to, from, 1, wake);
	return result;
}

static int note_present(void *context, uintptr_t start, uintptr_t end)
{
	*(bool *)context = start < end;
	return 0;
}

static int is_present(struct lh_port *port, uintptr_t address)
{
	bool present = false;
	int result = port->ops->present(port, address, address + LH_PAGE_SIZE, note_present, &present);

	return result < 0 ? result : present;
}

/* Read through /proc/self/mem, which asks for no right to read. */
static long copy_out(struct lh_port *port, uintptr_t address, uintptr_t staging)
{
	unsigned char content[LH_PAGE_SIZE];
	long result =
		LH_SYS(port->sys, SYS_pread64, page_port_of(port)->memory, content, LH_PAGE_SIZE, address);

	if (result != LH_PAGE_SIZE)
		return result < 0 ? result : -EAGAIN;
	return copy_once(port, staging, content, 1);
}

/*
 * A page of a mapping that nobody can write to cannot be moved, but then nobody writes to it while it is
 * copied. The kernel gives the same answer for memory that can be written to in a way that staging cannot
 * (without being read, with being executed, with a protection key) or that is locked; to copy that would lose
 * what is written meanwhile, so it stays. Which of the two it is shows in whether the page could be made this
 * process's own.
 */
static long take_copy(struct lh_port *port, uintptr_t address, uintptr_t staging)
{
	long result = is_present(port, address);

	if (result <= 0)
		return result < 0 ? result : -ENOENT;
	if (make_own(port, address) != -EINVAL)
		return -EBUSY;
	result = copy_out(port, address, staging);
	if (result < 0)
		return result;
	result = LH_SYS(port->sys, SYS_madvise, address, LH_PAGE_SIZE, MADV_DONTNEED);
	if (result == 0)
		return 1;
	LH_SYS(port->sys, SYS_madvise, staging, LH_PAGE_SIZE, MADV_DONTNEED);
	return result == -EINVAL ? -EBUSY : result; /* locked */
}

static long page_take(struct lh_port *port, uintptr_t address, uintptr_t staging, size_t pages)
{
	long result = move(port, staging, address, pages, false);

	return result == -EINVAL ? take_copy(port, address, staging) : result;
}

static long page_give(struct lh_port *port, uintptr_t staging, uintptr_t address, size_t pages)
{
	long result = move(port, address, staging, pages, true);

	if (result > 0)
		return result;
	if (result != -EINVAL)
		return wake_if_refused(port, address, result);
	/* Not writable at present, or executable: such mappings take copies only. */
	result = page_supply(port, address, (const void *)staging, 1);
	if (result < 0)
		return result;
	LH_SYS(port->sys, SYS_madvise, staging, LH_PAGE_SIZE, MADV_DONTNEED);
	return 1;
}

static int write_protect(struct lh_port *port, uintptr_t address, size_t pages, __u64 mode)
{
	struct uffdio_writeprotect request = {
		.range = { .start = address, .len = pages * LH_PAGE_SIZE },
		.mode = mode,
	};

	if (!page_port_of(port)->options.protects)
		return -EOPNOTSUPP;
	return (int)uffd_ioctl(page_port_of(port), UFFDIO_WRITEPROTECT, &request);
}

static int page_protect(struct lh_port *port, uintptr_t address, size_t pages)
{
	return write_protect(port, address, pages, UFFDIO_WRITEPROTECT_MODE_WP);
}

static int page_unprotect(struct lh_port *port, uintptr_t address, size_t pages)
{
	return write_protect(port, address, pages, 0);
}

static int page_present(struct lh_port *port, uintptr_t start, uintptr_t end, lh_port_present *report,
                        void *context)
{
	struct page_region regions[BATCH];
	struct pm_scan_arg scan = {
		.size = sizeof scan,
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = BATCH,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT,
	};

	while (scan.start < end) {
		long n = LH_SYS(port->sys, SYS_ioctl, page_port_of(port)->pagemap, PAGEMAP_SCAN, &scan);

		if (n < 0)
			return (int)n;
		for (long i = 0; i < n; i++) {
			int stop = report(context, regions[i].start, regions[i].end);

			if (stop)
				return stop;
		}
		scan.start = scan.walk_end;
	}
	return 0;
}

static void close_descriptors(struct page_port *self)
{
	if (self->uffd >= 0)
		LH_SYS(self->port.sys, SYS_close, self->uffd);
	if (self->second >= 0)
		LH_SYS(self->port.sys, SYS_close, self->second);
	if (self->pagemap >= 0)
		LH_SYS(self->port.sys, SYS_close, self->pagemap);
	if (self->memory >= 0)
		LH_SYS(self->port.sys, SYS_close, self->memory);
	self->uffd = self->second = self->pagemap = self->memory = -1;
}

static void page_close(struct lh_port *port)
{
	close_descriptors(page_port_of(port));
	lh__free(port->sys, port, sizeof(struct page_port));
}

/* Renumbers a fresh descriptor to the floor or above, and closes the old number. */
static int raise_descriptor(struct page_port *self, int descriptor)
{
	int raised;

	if (descriptor < 0 || descriptor >= self->options.descriptor_floor)
		return descriptor;
	raised = (int)LH_SYS(self->port.sys, SYS_fcntl, descriptor, F_DUPFD_CLOEXEC,
	                     self->options.descriptor_floor);
	LH_SYS(self->port.sys, SYS_close, descriptor);
	return raised;
}

static int new_uffd(struct page_port *self, enum lh_engine engine)
{
	int flags = O_CLOEXEC | O_NONBLOCK;
	bool user_only = engine == LH_ENGINE_INLINE;
	int descriptor;

	if (self->options.device >= 0)
		return (int)LH_SYS(self->port.sys, SYS_ioctl, self->options.device, USERFAULTFD_IOC_NEW,
		                   flags);
	descriptor = (int)LH_SYS(self->port.sys, SYS_userfaultfd, flags);
	if (descriptor == -EPERM && user_only)
		descriptor = (int)LH_SYS(self->port.sys, SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	return descriptor;
}

static int open_uffd(struct page_port *self, enum lh_engine engine, int *uffd, struct lh_error *error)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MOVE | (engine == LH_ENGINE_INLINE ? UFFD_FEATURE_SIGBUS : 0) |
		            (self->options.protects ? UFFD_FEATURE_PAGEFAULT_FLAG_WP : 0) |
		            (self->options.shared ? UFFD_FEATURE_MISSING_SHMEM : 0) |
		            (self->options.shared && self->options.protects ? UFFD_FEATURE_WP_HUGETLBFS_SHMEM
		                                                            : 0),
	};
	int result;

	*uffd = raise_descriptor(self, new_uffd(self, engine));
	if (*uffd == -EPERM || *uffd == -EACCES)
		return lh__fail(error, -EPERM,
		                "userfaultfd is not allowed for this user: run as root, give access to "
		                "/dev/userfaultfd, or set sysctl vm.unprivileged_userfaultfd=1");
	if (*uffd < 0)
		return lh__fail(error, *uffd, "this kernel has no userfaultfd (%s)", lh__errno_name(*uffd));
	result = (int)LH_SYS(self->port.sys, SYS_ioctl, *uffd, UFFDIO_API, &api);
	if (result < 0)
		return lh__fail(error, result,
		                "this kernel's userfaultfd lacks UFFD_FEATURE_MOVE: Linux 6.8 is needed");
	return 0;
}

static int open_raised(struct page_port *self, const char *path, int *descriptor, struct lh_error *error)
{
	*descriptor = (int)LH_SYS(self->port.sys, SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	*descriptor = raise_descriptor(self, *descriptor);
	return *descriptor < 0 ? lh__fail(error, *descriptor, "%s: %s", path, lh__errno_name(*descriptor))
	                       : 0;
}

static int open_proc(struct page_port *self, struct lh_error *error)
{
	int result = open_raised(self, "/proc/self/pagemap", &self->pagemap, error);

	if (result == 0)
		result = open_raised(self, "/proc/self/mem", &self->memory, error);
	if (result < 0)
		return result;
	result = (int)LH_SYS(self->port.sys, SYS_ioctl, self->pagemap, PAGEMAP_SCAN, NULL);
	if (result == -ENOTTY)
		return lh__fail(error, -ENOSYS, "this kernel has no PAGEMAP_SCAN: Linux 6.7 is needed");
	return 0;
}

static int open_descriptors(struct page_port *self, struct lh_error *error)
{
	int result = open_uffd(self, self->options.engine, &self->uffd, error);

	if (result == 0)
		result = open_proc(self, error);
	if (result < 0)
		close_descriptors(self);
	return result;
}

/* Leaf 7: the kernel has turned protection keys on. Asked once, since a hypervisor may make it slow. */
static bool has_keys(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c & 1u << 4;
}

static const struct lh_port_ops page_ops = {
	.name = "page",
	.watch = page_watch,
	.unwatch = page_unwatch,
	.supply = page_supply,
	.supply_zero = page_supply_zero,
	.take = page_take,
	.give = page_give,
	.protect = page_protect,
	.unprotect = page_unprotect,
	.wake = page_wake,
	.present = page_present,
	.close = page_close,
};

int lh__page_open(const struct lh_sys *sys, const struct lh_page_options *options, struct lh_port **out,
                  struct lh_error *error)
{
	struct page_port *self = lh__alloc(sys, sizeof *self);
	int result;

	if (!self)
		return lh__fail(error, -ENOMEM, "no memory for the page port");
	self->port = (struct lh_port){
		.ops = &page_ops,
		.sys = sys,
		.caps = { .granularity = "page",
		          .sees_reads = true,
		          .sees_writes = options->protects,
		          .moves = true },
	};
	self->options = *options;
	self->keys = has_keys();
	self->uffd = self->second = self->pagemap = self->memory = -1;
	result = open_descriptors(self, error);
	if (result < 0) {
		lh__free(sys, self, sizeof *self);
		return result;
	}
	*out = &self->port;
	return 0;
}

int lh__page_wait(struct lh_port *port, uintptr_t *addresses, size_t max, int timeout_ms)
{
	struct page_port *self = page_port_of(port);
	struct pollfd ready = { .fd = self->uffd, .events = POLLIN };
	struct uffd_msg messages[BATCH];
	int count = 0;
	long n;

	n = LH_SYS(port->sys, SYS_read, self->uffd, messages,
	           (max < BATCH ? max : BATCH) * sizeof messages[0]);
	if (n == -EAGAIN && timeout_ms != 0) {
		n = LH_SYS(port->sys, SYS_poll, &ready, 1, timeout_ms);
		if (n <= 0)
			return n == -EINTR ? 0 : (int)n;
		n = LH_SYS(port->sys, SYS_read, self->uffd, messages,
		           (max < BATCH ? max : BATCH) * sizeof messages[0]);
	}
	if (n < 0)
		return n == -EAGAIN || n == -EINTR ? 0 : (int)n;
	for (long i = 0; i < n / (long)sizeof messages[0]; i++)
		if (messages[i].event == UFFD_EVENT_PAGEFAULT)
			addresses[count++] =
				messages[i].arg.pagefault.address & ~(uintptr_t)(LH_PAGE_SIZE - 1);
	return count;
}

int lh__page_after_fork(struct lh_port *port, struct lh_error *error)
{
	close_descriptors(page_port_of(port));
	return open_descriptors(page_port_of(port), error);
}

/* ---- changing the engine ---- */

enum lh_engine lh__page_engine(const struct lh_port *port)
{
	return ((const struct page_port *)port)->options.engine;
}

int lh__page_change_begin(struct lh_port *port, enum lh_engine engine, struct lh_error *error)
{
	struct page_port *self = page_port_of(port);
	int result = open_uffd(self, engine, &self->second, error);

	self->second_engine = engine;
	if (result < 0)
		lh__page_change_end(port, false);
	return result;
}

int lh__page_change_range(struct lh_port *port, uintptr_t start, size_t size, bool back)
{
	struct page_port *self = page_port_of(port);
	int from = back ? self->second : self->uffd, to = back ? self->uffd : self->second;
	struct uffdio_register request = {
		.range = { .start = start, .len = size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int result = (int)LH_SYS(port->sys, SYS_ioctl, from, UFFDIO_UNREGISTER, &request.range);

	if (result < 0)
		return result;
	result = (int)LH_SYS(port->sys, SYS_ioctl, to, UFFDIO_REGISTER, &request);
	if (result < 0 && LH_SYS(port->sys, SYS_ioctl, from, UFFDIO_REGISTER, &request) < 0)
		return -ENOTRECOVERABLE;
	return result;
}

void lh__page_change_end(struct lh_port *port, bool changed)
{
	struct page_port *self = page_port_of(port);
	int other = changed ? self->uffd : self->second;

	if (changed) {
		self->uffd = self->second;
		self->options.engine = self->second_engine;
	}
	self->second = -1;
	if (other >= 0)
		LH_SYS(port->sys, SYS_close, other);
}

int lh__page_hide(struct lh_port *port, uintptr_t start, size_t size)
{
	return (int)LH_SYS(port->sys, SYS_madvise, start, size, MADV_GUARD_INSTALL);
}

int lh__page_show(struct lh_port *port, uintptr_t start, size_t size)
{
	return (int)LH_SYS(port->sys, SYS_madvise, start, size, MADV_GUARD_REMOVE);
}
