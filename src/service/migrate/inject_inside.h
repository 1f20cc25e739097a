/*
 * inject_inside.h - what inject.c (a thread is stopped, works, goes on) and inject_frame.c (the way back that
 * is laid out for it) share.
 */
#ifndef LH_MIGRATE_INJECT_INSIDE_H
#define LH_MIGRATE_INJECT_INSIDE_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/user.h>

#include "linehome.h"

struct lh_injection {
	pid_t process, thread;
	int memory; /* /proc/PID/mem */
	int pidfd;
	uint64_t call;     /* where "syscall; ret" stands in it */
	uint64_t restorer; /* where "mov $15, %rax; syscall" stands: rt_sigreturn */
	struct user_regs_struct before;
	uint64_t blocked;             /* signals, as they were */
	struct user_regs_struct safe; /* registers with which it may be let go of at any moment */
};

/* Finds a process's two pieces of code; while it runs. -ENOEXEC: it has none. */
int lh__inject_find_code(struct lh_injection *injection, struct lh_error *error) LH_MUST_CHECK;
/*
 * Lays out the way back on the stopped thread's stack, and sets `safe`. -EFAULT: there is no room;
 * -ESRCH.
 */
int lh__inject_lay_out(struct lh_injection *injection) LH_MUST_CHECK;
/* The thread to take. -ESRCH: there is none; -EBUSY: all are in the kernel's hands. */
int lh__inject_choose(pid_t process, pid_t *thread) LH_MUST_CHECK;

#endif
