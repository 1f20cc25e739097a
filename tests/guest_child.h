/*
 * guest_child.h - a child process whose memory is served from outside, as a virtual machine's is: it maps a
 * file or anonymous memory, makes a userfaultfd, and then does one thing after another as it is told.
 *
 * Its answer comes when the thing is done, which may need the parent first: child_tell tells, child_asked
 * waits for the answer. What waits for nothing is told and asked by child_do.
 */
#ifndef GUEST_CHILD_H
#define GUEST_CHILD_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "line_random.h"
#include "port/guest/guest.h"
#include "port/page/uapi.h"

enum child_memory { CHILD_FILE, CHILD_ANONYMOUS, CHILD_HUGE };

enum child_op {
	CHILD_READ = 1, /* the first byte of a page */
	CHILD_WRITE,    /* value to it */
	CHILD_SUM,      /* of the first bytes of `value` pages */
	CHILD_FILL,     /* value to all bytes of a page */
	CHILD_ADVISE,   /* madvise with `value` */
	CHILD_PUNCH,    /* a hole into the file; value: pages */
	CHILD_UNMAP,    /* value: pages */
	CHILD_REMAP,    /* value: pages, to elsewhere */
	CHILD_FORK,     /* a child that ends at once */
	CHILD_LET_GO,   /* closes its own userfaultfd */
	CHILD_CHURN,    /* writes to pages, and discards some, until *stop; value: seed */
};

struct child_order {
	uint64_t op, page, value, count;
};

struct child {
	pid_t pid;
	int socket;
	int file; /* shared with the child; -1 */
	int uffd;
	size_t page_size;
	uint64_t pages;
	uint64_t address;      /* in the child */
	unsigned char *mapped; /* there */
	int *stop;             /* shared */
};

/* ---- in the child ---- */

static uint64_t child__fork(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return pid < 0 ? (uint64_t)-errno : waitpid(pid, NULL, 0) == pid ? 0 : 1;
}

static uint64_t child__result(long result)
{
	return result < 0 ? (uint64_t)-errno : 0;
}

/* Each write changes the page's first word and its last. Now and then a page is made a hole, and left so. */
static uint64_t child__churn(const struct child *self, uint64_t seed, uint64_t pages)
{
	uint64_t n = 0;

	while (!__atomic_load_n(self->stop, __ATOMIC_ACQUIRE)) {
		uint64_t page = random_next(&seed) % pages;
		volatile uint64_t *word =
			(volatile uint64_t *)(void *)(self->mapped + page * self->page_size);

		if (++n % 64 == 0) {
			madvise((void *)(uintptr_t)word, self->page_size, MADV_REMOVE);
		} else {
			word[0] = n;
			word[self->page_size / 8 - 1] = n;
		}
	}
	return n;
}

static uint64_t child__carry_out(const struct child *self, const struct child_order *order)
{
	volatile unsigned char *at = self->mapped + order->page * self->page_size;
	size_t bytes = (size_t)order->count * self->page_size;
	uint64_t sum = 0;

	switch ((enum child_op)order->op) {
	case CHILD_READ: return *at;
	case CHILD_WRITE: *at = (unsigned char)order->value; return 0;
	case CHILD_SUM:
		for (uint64_t i = 0; i < order->count; i++)
			sum += at[i * self->page_size];
		return sum;
	case CHILD_FILL: memset((void *)(uintptr_t)at, (int)order->value, bytes); return 0;
	case CHILD_ADVISE: return child__result(madvise((void *)(uintptr_t)at, bytes, (int)order->value));
	case CHILD_PUNCH:
		return child__result(fallocate(self->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		                               (off_t)(order->page * self->page_size), (off_t)bytes));
	case CHILD_UNMAP: return child__result(munmap((void *)(uintptr_t)at, bytes));
	case CHILD_REMAP:
		return mremap((void *)(uintptr_t)at, bytes, 2 * bytes, MREMAP_MAYMOVE) == MAP_FAILED
		               ? (uint64_t)-errno
		               : 0;
	case CHILD_FORK: return child__fork();
	case CHILD_LET_GO: return child__result(close(self->uffd));
	case CHILD_CHURN: return child__churn(self, order->value, order->count);
	}
	return 0;
}

static bool child__mapped(struct child *self, enum child_memory memory)
{
	size_t bytes = self->pages * self->page_size, align = 2u << 20;
	unsigned char *room = mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int flags = memory == CHILD_ANONYMOUS ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	if (room == MAP_FAILED)
		return false;
	room = (unsigned char *)(((uintptr_t)room + align - 1) & ~(uintptr_t)(align - 1));
	self->mapped = mmap(room, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, self->file, 0);
	self->address = (uintptr_t)self->mapped;
	return self->mapped != MAP_FAILED;
}

/* features and mode 0: the descriptor is made, and all else is left to whoever takes it. */
static bool child__watched(struct child *self, uint64_t features, uint64_t mode)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register request = {
		.range = { .start = self->address, .len = self->pages * self->page_size },
		.mode = mode,
	};

	self->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (self->uffd < 0)
		return false;
	return mode == 0 || (ioctl(self->uffd, UFFDIO_API, &api) == 0 &&
	                     ioctl(self->uffd, UFFDIO_REGISTER, &request) == 0);
}

static void child__lives(struct child *self, enum child_memory memory, uint64_t features, uint64_t mode)
{
	struct child_order order;
	uint64_t answer;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!child__mapped(self, memory) || !child__watched(self, features, mode))
		_exit(1);
	if (write(self->socket, self, sizeof *self) != sizeof *self)
		_exit(1);
	while (read(self->socket, &order, sizeof order) == sizeof order) {
		answer = child__carry_out(self, &order);
		if (write(self->socket, &answer, sizeof answer) != sizeof answer)
			break;
	}
	_exit(0);
}

/* ---- in the parent ---- */

__attribute__((unused)) static void child_end(struct child *child)
{
	if (child->pid > 0) {
		kill(child->pid, SIGKILL);
		waitpid(child->pid, NULL, 0);
	}
	close(child->socket);
	munmap(child->stop, LH_PAGE_SIZE);
	if (child->file >= 0)
		close(child->file);
}

/*
 * false: it cannot be made here (no userfaultfd, a feature that the kernel lacks, no huge pages). The
 * descriptor child->uffd is the parent's then, and for the guest to close.
 */
__attribute__((unused)) static bool child_start(struct child *child, enum child_memory memory, uint64_t pages,
                                                uint64_t features, uint64_t mode)
{
	size_t page_size = memory == CHILD_HUGE ? 2u << 20 : LH_PAGE_SIZE;
	struct child said;
	int pair[2], pidfd;

	*child = (struct child){ .file = -1, .pages = pages, .page_size = page_size };
	if (memory != CHILD_ANONYMOUS)
		child->file = memfd_create("guest", MFD_CLOEXEC | (memory == CHILD_HUGE ? MFD_HUGETLB : 0));
	if (memory != CHILD_ANONYMOUS &&
	    (child->file < 0 || ftruncate(child->file, (off_t)(pages * page_size)) != 0))
		return false;
	child->stop = mmap(NULL, LH_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (child->stop == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		return false;
	fflush(stdout);
	child->pid = fork();
	child->socket = pair[child->pid == 0];
	close(pair[child->pid != 0]);
	if (child->pid == 0)
		child__lives(child, memory, features, mode);
	if (read(child->socket, &said, sizeof said) != sizeof said)
		return child_end(child), false;
	child->address = said.address;
	pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
	child->uffd = (int)syscall(SYS_pidfd_getfd, pidfd, said.uffd, 0);
	close(pidfd);
	return child->uffd >= 0 || (child_end(child), false);
}

__attribute__((unused)) static void child_tell(struct child *child, enum child_op op, uint64_t page,
                                               uint64_t count, uint64_t value)
{
	struct child_order order = { .op = op, .page = page, .count = count, .value = value };

	if (write(child->socket, &order, sizeof order) != sizeof order)
		abort();
}

/* Whether it has answered within so long. */
__attribute__((unused)) static bool child_answers(struct child *child, int timeout_ms)
{
	struct pollfd ready = { .fd = child->socket, .events = POLLIN };

	return poll(&ready, 1, timeout_ms) == 1;
}

/* UINT64_MAX - 1: no answer within 10 s, which fails whatever was expected of it. */
__attribute__((unused)) static uint64_t child_asked(struct child *child)
{
	uint64_t answer;

	if (!child_answers(child, 10000) || read(child->socket, &answer, sizeof answer) != sizeof answer)
		return UINT64_MAX - 1;
	return answer;
}

__attribute__((unused)) static uint64_t child_do(struct child *child, enum child_op op, uint64_t page,
                                                 uint64_t count, uint64_t value)
{
	child_tell(child, op, page, count, value);
	return child_asked(child);
}

/* One range with all pages, numbered from 0. */
__attribute__((unused)) static struct lh_guest child_guest(const struct child *child,
                                                           const struct lh_sys *sys)
{
	return (struct lh_guest){
		.sys = sys,
		.fd = child->uffd,
		.page_size = child->page_size,
		.ranges = 1,
		.range = { { .address = child->address, .pages = child->pages } },
	};
}

#endif
