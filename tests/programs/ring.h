/* ring.h - io_uring by raw system calls, for the helper programs. */
#ifndef PROGRAM_RING_H
#define PROGRAM_RING_H

#include <linux/io_uring.h>
#include <sys/syscall.h>

#include "program.h"

struct ring {
	int fd;
	struct io_uring_params params;
	char *sq, *cq;
	struct io_uring_sqe *entries;
};

/* False, with errno: the kernel, a sandbox or Linehome refuses. */
__attribute__((unused)) static bool ring_open(struct ring *r, uint32_t flags)
{
	struct io_uring_params *p = &r->params;
	int shared = MAP_SHARED, both = PROT_READ | PROT_WRITE;

	memset(r, 0, sizeof *r);
	p->flags = flags;
	p->sq_thread_idle = 50;
	r->fd = (int)syscall(SYS_io_uring_setup, 8, p);
	if (r->fd < 0)
		return false;
	r->sq = mmap(NULL, p->sq_off.array + p->sq_entries * 4, both, shared, r->fd, IORING_OFF_SQ_RING);
	r->cq = mmap(NULL, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe), both, shared, r->fd,
	             IORING_OFF_CQ_RING);
	r->entries = mmap(NULL, p->sq_entries * sizeof *r->entries, both, shared, r->fd, IORING_OFF_SQES);
	if (r->sq == MAP_FAILED || r->cq == MAP_FAILED || r->entries == MAP_FAILED)
		cannot("map the ring");
	return true;
}

__attribute__((unused)) static void ring_close(struct ring *r)
{
	munmap(r->sq, r->params.sq_off.array + r->params.sq_entries * 4);
	munmap(r->cq, r->params.cq_off.cqes + r->params.cq_entries * sizeof(struct io_uring_cqe));
	munmap(r->entries, r->params.sq_entries * sizeof *r->entries);
	close(r->fd);
}

__attribute__((unused)) static struct io_uring_sqe transfer(uint8_t op, int fd, void *at, size_t bytes,
                                                            uint8_t flags)
{
	return (struct io_uring_sqe){
		.opcode = op, .fd = fd, .addr = (uintptr_t)at, .len = (uint32_t)bytes, .flags = flags
	};
}

/* Hands one entry in; with a thread of the kernel's that polls, a call is made only if that thread sleeps. */
__attribute__((unused)) static void ring_submit(struct ring *r, const struct io_uring_sqe *entry)
{
	uint32_t *tail = (uint32_t *)(r->sq + r->params.sq_off.tail),
		 slot = *tail & (r->params.sq_entries - 1);
	uint32_t *flags = (uint32_t *)(r->sq + r->params.sq_off.flags);
	bool polled = r->params.flags & IORING_SETUP_SQPOLL;

	r->entries[slot] = *entry;
	((uint32_t *)(r->sq + r->params.sq_off.array))[slot] = slot;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_SEQ_CST);
	if (polled && !(__atomic_load_n(flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP))
		return;
	if (syscall(SYS_io_uring_enter, r->fd, 1, 0, polled ? IORING_ENTER_SQ_WAKEUP : 0, NULL, 0) != 1)
		cannot("enter the ring");
}

struct completion {
	int res;
	uint32_t flags;
};

/* The next completion, waited for. */
__attribute__((unused)) static struct completion ring_next(struct ring *r)
{
	uint32_t *head = (uint32_t *)(r->cq + r->params.cq_off.head);
	uint32_t *tail = (uint32_t *)(r->cq + r->params.cq_off.tail);
	struct io_uring_cqe *entry;
	struct completion done;

	while (__atomic_load_n(tail, __ATOMIC_ACQUIRE) == *head)
		if (syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0 &&
		    errno != EINTR)
			cannot("wait for the ring");
	entry = (struct io_uring_cqe *)(r->cq + r->params.cq_off.cqes) + (*head & (r->params.cq_entries - 1));
	done = (struct completion){ entry->res, entry->flags };
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return done;
}

__attribute__((unused)) static int ring_do(struct ring *r, const struct io_uring_sqe *entry)
{
	ring_submit(r, entry);
	return ring_next(r).res;
}

#endif
