/*
 * buffers.h - makes a system call behave as if no memory were absent.
 *
 * Why: under the inline engine a touch of an absent page is answered in the thread that touches it, but where
 * the kernel touches one in a system call, the call fails with EFAULT or stops half way. So each call with
 * operands in memory comes through here.
 *
 * How, by what an absent page does to the call (sys/operands.c says which call is which):
 *
 *   late    The call fails with EFAULT and nothing has happened: most calls, all that take names and fill in
 *           structures. They go straight to the kernel, at no cost. On EFAULT the operands are kept and
 *           touched and the call repeated.
 *   early   The call would do a part, or lose what it took (recv, read, wait4, accept): its operands are
 *           kept, so that reclaim leaves them alone, touched, and only then it runs. This is done for memory
 *           that is not watched too: it may be watched while the call sleeps.
 *   once    Early, and never repeated: a datagram or a child that is gone does not come again.
 *   loose   Late, and repeated without being kept: futex and epoll_wait, which sleep long but look at their
 *           operands at one moment.
 *   parts   Early. What is larger than hold_limit is done in parts, as POSIX lets such a call be cut.
 *   pinned  The kernel writes there later, at any time (a thread's tid word, rseq, the robust list): kept for
 *           good.
 *   ring    Memory is used when no call is under way: io_uring. The process changes its engine first
 *           (engine.c); where it cannot, the call is refused as on a kernel that lacks it, and programs have
 *           other ways.
 *   execute Loose, and the robust list is kept, which the kernel goes through before it lets the memory go.
 *
 * A send with MSG_ZEROCOPY goes on reading the pages, not the addresses, after it has returned: the home is
 * told to use no such memory for another page (lh__home_lend). It is never cut into parts, since the program
 * counts the notes of their end.
 *
 * Touching is a read of one byte a page in user mode. An address that is not there is left for the kernel to
 * refuse.
 *
 * What remains: other processes that read this one's memory (a debugger, ps reading arguments) see EFAULT for
 * what is absent; KVM and user-mode drivers that fault pages in for a device are not served; one call that
 * appends more than hold_limit is not atomic.
 */
#ifndef LH_SERVICE_RUN_AGENT_BUFFERS_H
#define LH_SERVICE_RUN_AGENT_BUFFERS_H

#include "home/home.h"
#include "port/page/intercept/intercept.h"

#define LH_PINS_MAX 256

/* Page runs that are kept for good. */
struct lh_pin {
	uintptr_t start, end;
	int slot;
};

/* Counts only; read without a lock. */
struct lh_buffers_counts {
	uint64_t early;    /* calls whose operands were kept beforehand */
	uint64_t repeated; /* calls that met an absent page and were repeated */
	uint64_t parts;    /* parts of calls that were cut */
	uint64_t unkept;   /* times that no slot was free, so that operands were touched but not kept */
};

/* The first eight are the caller's to fill in, the rest begins as zero. */
struct lh_buffers {
	const struct lh_sys *sys;
	struct lh_home *home;
	size_t hold_limit; /* bytes that one call keeps at most; at least 256 KiB, so that a datagram fits */
	long (*proceed)(struct lh_trap *trap);                      /* lh__intercept_proceed */
	int (*copy)(void *to, const void *from, size_t size);       /* lh__intercept_copy */
	int (*swap)(uint32_t *at, uint32_t *seen, uint32_t wanted); /* lh__intercept_swap */
	/* Memory will be used while no call is under way. 0: no call needs its buffers kept any more. */
	int (*later_use)(void *context);
	void *context;
	struct lh_buffers_counts counts;
	uint32_t forks;
	struct lh_lock pin_lock;
	unsigned pins;
	struct lh_pin pin[LH_PINS_MAX];
};

/* Sets the bits of all calls that lh__buffers_call, or _call_of_thread, is to be asked about. */
void lh__buffers_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64], bool in_line);

/* Does the call and returns its result; the hook's rules hold. The home must be open, watching or not. */
long lh__buffers_call(struct lh_buffers *self, struct lh_trap *trap);

/* In a thread that is about to end, or to end its process: what the kernel would do with memory is done. */
void lh__buffers_thread_ends(struct lh_buffers *self);

/*
 * The same for a process with the thread engine, where the kernel waits for absent memory: but not for a
 * thread that has ended, and in vain where the pager has ended, as all threads do before another program
 * takes the process over.
 */
long lh__buffers_call_of_thread(struct lh_buffers *self, struct lh_trap *trap);

/* In a child, after lh__home_fork_child: the home has forgotten what was kept. */
void lh__buffers_fork_child(struct lh_buffers *self);

/*
 * The program has unmapped the range, or mapped something over it: what was pinned there need not be kept any
 * more.
 */
void lh__buffers_forget(struct lh_buffers *self, uintptr_t start, uintptr_t end);

#endif
