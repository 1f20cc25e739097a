/*
 * intercept.h - sees every system call of the process it lives in, and keeps its own signals.
 *
 * Why: with userfaultfd in SIGBUS mode a page fault is answered in the faulting thread, but a system call
 * that touches an absent page gets EFAULT. So somebody must stand before every call, make its buffers
 * present and repeat it where it met an absent page. This module is that place; what is done with a call is
 * the hook's business.
 *
 * How a call gets here, cheapest first:
 *   1. A `syscall` instruction of a loaded library has been replaced by a jump to a trampoline near it
 *      (rewrite.c). A call whose number nobody wants goes straight on to the kernel, some 2 ns later.
 *   2. All other `syscall` instructions (found too late, generated at run time, in the vdso) are caught by
 *      Syscall User Dispatch, about 2 us a call: the net.
 * Both enter the same stub (stub.c), which saves the program's registers, vector state included, changes to
 * a stack of the module's own and calls the hook. Nothing of the program's stack but 144 bytes below its red
 * zone is used.
 *
 * No handler of the program ever runs while the hook is active: a signal that arrives then is kept and
 * delivered when the call returns, with the context the program would have seen from the kernel. So the hook
 * is never abandoned by a longjmp and never entered twice by a thread.
 *
 * SIGBUS, SIGSEGV and SIGSYS stay the module's own whatever the program asks; the program sees what it set.
 *
 * The global state is one pointer, lh__intercept_state, which stubs and signal handlers need since they have
 * no argument to carry it. A thread's own record is found through the gs register, which glibc leaves
 * unused; in a program that uses gs itself it is found by the thread's number, at the cost of a gettid.
 *
 *     struct lh_intercept_config config = { .sys = &sys, .hook = my_hook, .bitmap = wanted };
 *     int error = lh__intercept_open(&config, &why);
 */
#ifndef LH_PORT_PAGE_INTERCEPT_H
#define LH_PORT_PAGE_INTERCEPT_H

#include <signal.h>
#include <stdint.h>

#include "sys/sys.h"

/* System call numbers that can be told apart; a higher one goes straight to the kernel. */
#define LH_INTERCEPT_NUMBERS 512

/*
 * What proceed returns, and what a hook must return at once when it gets it: a signal came before the call
 * was started. Nothing has happened; the program will run its handler and then repeat the call. A hook that
 * has already done a part of the call returns that part's result instead.
 */
#define LH_INTERCEPT_RESTART (-512L)

/* One system call on its way. The hook may change nr and argument before it proceeds. */
struct lh_trap {
	long nr;
	long argument[6];
	uint64_t return_address; /* where the program goes on; for a few rewritten sites, in a trampoline */
	uint64_t stack_pointer;  /* the program's, at the call */
	void *thread;            /* the module's record of this thread; not for the hook */
};

/*
 * Called for every call whose number is in the bitmap, in the calling thread, on a stack of 28 KiB of the
 * module's, with that thread's signals deferred. It may use any register and any pure libc function, and
 * lh__raw_syscall; it may touch the program's memory (a fault there is a SIGBUS or SIGSEGV for the function
 * given to lh__intercept_signal; lh__intercept_copy turns it into EFAULT). Returns the call's result, most
 * often that of lh__intercept_proceed. Futex waits of its own may end with EINTR.
 */
typedef long lh_intercept_hook(void *context, struct lh_trap *trap);

/* How a flow of control came to be. */
enum lh_intercept_start {
	LH_START_THREAD, /* shares memory */
	LH_START_VFORK,  /* shares memory until it execs or exits, while its parent waits */
	LH_START_FORK    /* has a copy of the memory, and one thread */
};

struct lh_intercept_config {
	const struct lh_sys *sys; /* system calls of the module itself; must end in lh__raw_syscall */
	void *context;            /* for hook and callbacks */
	lh_intercept_hook *hook;
	/* The hook is called for number n where bit n % 64 of bitmap[n / 64] is set. */
	uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64];
	unsigned threads; /* the most at one time; 0: 4096. Costs address space, 128 KiB each, not memory */
	int no_rewrite;   /* 1: leave all code as it is and rely on the net */
	int no_dispatch;  /* 1: no net; only rewritten code is seen */
	int count_all;    /* 1: count calls that nobody wants too, for about 5 ns each */
	/* All may be NULL. They run in the thread in question, under the rules of the hook. */
	void (*owns)(void *context, void *address,
	             size_t size); /* memory that the module has mapped for itself */
	void (*on_start)(void *context, enum lh_intercept_start how);
	void (*on_thread_exit)(void *context);
	void (*on_process_exit)(void *context, int status); /* exit_group */
	void (*before_fork)(void *context);
	void (*after_fork)(void *context, long child); /* in the parent; child < 0: it failed */
};

enum {
	LH_INTERCEPT_NET = 1,    /* Syscall User Dispatch is there: every call is seen */
	LH_INTERCEPT_REWRITE = 2 /* code could be rewritten */
};

struct lh_intercept_counters {
	uint64_t sites_found;     /* `syscall` instructions inside functions of executable file mappings */
	uint64_t sites_rewritten; /* of these, redirected to a trampoline */
	uint64_t calls_rewritten; /* calls seen by hook or module, from rewritten sites */
	uint64_t calls_net;       /* calls caught by the net, wanted or not */
	uint64_t calls_straight;  /* calls from rewritten sites that nobody wanted; 0 without count_all */
	uint64_t signals;         /* signals delivered to handlers of the program */
	uint64_t deferred;        /* of these, kept until a hook had ended */
};

/*
 * Takes over the calling process. To be called once, while the program has one thread; threads that exist
 * already (the agent's own) are left alone. -ENOTSUP where the processor or kernel lacks fsgsbase or xsave,
 * -EBUSY if already open; a failure changes nothing that the program can see. There is no way back.
 */
int lh__intercept_open(const struct lh_intercept_config *config, struct lh_error *error)
	__attribute__((warn_unused_result));
/* From now on the hook is called for these numbers; calls that are under way go on as they began. */
void lh__intercept_want(const uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64]);
unsigned lh__intercept_capabilities(void);
void lh__intercept_counters(struct lh_intercept_counters *counters);

/* Does what the program asked for (with nr and argument as they are now) and returns the kernel's answer. */
long lh__intercept_proceed(struct lh_trap *trap);

/*
 * First claim on SIGBUS or SIGSEGV: handler returns 1 if the signal was its own and the thread shall go on, 0
 * if it is the program's. It runs on the module's alternate stack, about 50 KiB, with all signals blocked but
 * SIGBUS, SIGSEGV and SIGSYS. handler NULL gives the claim up. -EINVAL for another signal.
 */
typedef int lh_intercept_claim(void *context, int sig, siginfo_t *info, void *ucontext);
int lh__intercept_signal(int sig, lh_intercept_claim *handler, void *context)
	__attribute__((warn_unused_result));

/* Copies between memory that may be the program's; -EFAULT where it is not there, and then in part. */
int lh__intercept_copy(void *to, const void *from, size_t size) __attribute__((warn_unused_result));

/*
 * If *at is *seen, makes it wanted, atomically; *seen is what it was. -EFAULT where it is not there, or not
 * to be written.
 */
int lh__intercept_swap(uint32_t *at, uint32_t *seen, uint32_t wanted) __attribute__((warn_unused_result));

#endif
