/*
 * inject.c - see inject.h.
 *
 * The kernel makes a userfaultfd only for who asks, so the process has to ask: by ptrace, one of its threads
 * makes two system calls, the second of which closes its descriptor after we have taken a copy. Nothing of
 * the process is sent a signal, and nothing of it changes but the stack below that thread's red zone.
 *
 * What order the steps have, and why it does not matter between which two we die:
 *
 *     1 stop           the thread is as it was
 *     2 lay out        below its stack
 *     3 registers      "safe" (inject_frame.c): from here on it goes back by itself when nobody holds it
 *     4 block signals  the frame has those that were blocked
 *     5 both calls     as 3; at worst a descriptor is left in the process that is registered for nothing
 *     6 stop           where the kernel looks for what is to be restarted
 *     7 signals back   as 3
 *     8 registers      those that it had: it is as it was
 *     9 let go
 *
 * All of it is done by a thread of ours that lives no longer than this: when it ends, the kernel lets go of
 * whatever it still holds, also of a thread that would not stop.
 */
#include "service/migrate/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "service/code/remote_inside.h"
#include "service/migrate/inject_inside.h"
#include "sys/sys.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define CODE_SEGMENT 0x33 /* of 64-bit code */
#define WAIT_NS 1000000000ull
#define SPINS 200
#define NAP_NS 1000000
#define BIT(signal) (1ull << ((signal)-1))
#define TRIES 5 /* with other threads, where one ends or cannot be stopped just then */

/* ---- stops ---- */

/* The thread's next stop. -ESRCH: it has ended; -ETIMEDOUT. */
static int await(const struct lh_injection *injection, int *status)
{
	const struct timespec nap = { 0, 20000 };
	uint64_t deadline = lh__remote_now() + WAIT_NS;

	for (unsigned turn = 0;; turn++) {
		pid_t got = waitpid(injection->thread, status, WNOHANG | __WALL);

		if (got == injection->thread)
			return WIFSTOPPED(*status) ? 0 : -ESRCH;
		if (got < 0 && errno != EINTR)
			return -ESRCH;
		if (turn < SPINS)
			sched_yield();
		else
			nanosleep(&nap, NULL);
		if (lh__remote_now() > deadline)
			return -ETIMEDOUT;
	}
}

/*
 * Brings a thread, which runs or is at another stop, to one inside the kernel's signal code. Signals that
 * come before are let through.
 */
static int stop(const struct lh_injection *injection, bool runs)
{
	int status, rc;

	if (ptrace(PTRACE_INTERRUPT, injection->thread, NULL, NULL))
		return -ESRCH;
	if (!runs && ptrace(PTRACE_CONT, injection->thread, NULL, NULL))
		return -ESRCH;
	while (!(rc = await(injection, &status)) && status >> 16 != PTRACE_EVENT_STOP) {
		int signal = WSTOPSIG(status);

		if (ptrace(PTRACE_INTERRUPT, injection->thread, NULL, NULL) ||
		    ptrace(PTRACE_CONT, injection->thread, NULL, (long)(signal & 0x80 ? 0 : signal)))
			return -ESRCH;
	}
	return rc;
}

/* On to the next entry to or exit from a system call. -ENOSYS: a sandbox forbids the call. */
static int to_call_stop(const struct lh_injection *injection)
{
	int status = 0, signal = 0, rc;

	do {
		if (ptrace(PTRACE_SYSCALL, injection->thread, NULL, (long)signal))
			return -ESRCH;
		rc = await(injection, &status);
		if (rc)
			return rc;
		signal = status >> 16 ? 0 : WSTOPSIG(status);
		if (signal == SIGSYS)
			return -ENOSYS;
	} while (signal != (SIGTRAP | 0x80));
	return 0;
}

/* ---- work ---- */

static int call(const struct lh_injection *injection, long nr, long argument, bool first, long *result)
{
	const uint64_t all_but_sandbox = ~BIT(SIGSYS);
	struct user_regs_struct registers = injection->safe;
	int rc;

	registers.rax = (unsigned long)nr;
	registers.rdi = (unsigned long)argument;
	if (ptrace(PTRACE_SETREGS, injection->thread, NULL, &registers))
		return -ESRCH;
	if (first && ptrace(PTRACE_SETSIGMASK, injection->thread, sizeof(all_but_sandbox), &all_but_sandbox))
		return -ESRCH;
	rc = to_call_stop(injection);
	if (!rc)
		rc = to_call_stop(injection);
	if (!rc && ptrace(PTRACE_GETREGS, injection->thread, NULL, &registers))
		rc = -ESRCH;
	*result = (long)registers.rax;
	return rc;
}

static int work(const struct lh_injection *injection, int *fd)
{
	long theirs, closed;
	int back, rc = call(injection, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, true,
	                    &theirs);

	if (rc || theirs == -EPERM || theirs == -EACCES)
		return rc ? rc : -ENOSYS; /* a sandbox */
	if (theirs < 0)
		return (int)theirs;
	*fd = (int)syscall(SYS_pidfd_getfd, injection->pidfd, (int)theirs, 0);
	rc = *fd < 0 ? -errno : 0;
	/* Of a call that a sandbox has trapped we get to know now: the result was none. */
	back = call(injection, SYS_close, theirs, false, &closed);
	if (back)
		return back;
	return rc ? rc : (int)closed;
}

static int go_back(const struct lh_injection *injection)
{
	int rc = stop(injection, false);

	if (rc)
		return rc;
	if (ptrace(PTRACE_SETSIGMASK, injection->thread, sizeof(injection->blocked), &injection->blocked) ||
	    ptrace(PTRACE_SETREGS, injection->thread, NULL, &injection->before))
		return -ESRCH;
	return 0;
}

/* What the stopped thread was doing. */
static int note(struct lh_injection *injection)
{
	if (ptrace(PTRACE_GETREGS, injection->thread, NULL, &injection->before) ||
	    ptrace(PTRACE_GETSIGMASK, injection->thread, sizeof(injection->blocked), &injection->blocked))
		return -ESRCH;
	/* One that ends with EINTR although nothing but our stop has interrupted it. */
	(void)lh__remote_restart(&injection->before);
	return injection->before.cs == CODE_SEGMENT && injection->before.rip ? 0 : -ENOEXEC;
}

/* With a thread that has been chosen and seized. */
static int with_thread(struct lh_injection *injection, int *fd, uint64_t *stopped_ns)
{
	uint64_t since = lh__remote_now();
	int rc = stop(injection, true), back;

	if (rc)
		return rc;
	rc = note(injection);
	if (rc != -ESRCH) {
		if (!rc)
			rc = lh__inject_lay_out(injection);
		if (!rc) {
			rc = work(injection, fd);
			back = rc == -ESRCH || rc == -ETIMEDOUT ? 0 : go_back(injection);
			rc = rc ? rc : back;
		} else if (ptrace(PTRACE_SETREGS, injection->thread, NULL, &injection->before)) {
			rc = -ESRCH;
		}
	}
	ptrace(PTRACE_DETACH, injection->thread, NULL, NULL);
	*stopped_ns = lh__remote_now() - since;
	return rc;
}

/* ---- the whole ---- */

struct task {
	struct lh_injection injection;
	int fd;
	uint64_t stopped_ns;
	int rc;
};

static void *in_own_thread(void *context)
{
	const struct timespec nap = { 0, NAP_NS };
	struct task *task = context;
	struct lh_injection *injection = &task->injection;

	for (unsigned i = 0; i < TRIES; i++) {
		task->rc = lh__inject_choose(injection->process, &injection->thread);
		if (!task->rc && ptrace(PTRACE_SEIZE, injection->thread, NULL, PTRACE_O_TRACESYSGOOD))
			task->rc = -errno;
		else if (!task->rc)
			task->rc = with_thread(injection, &task->fd, &task->stopped_ns);
		if (task->rc != -ESRCH && task->rc != -EBUSY && task->rc != -EFAULT)
			break;
		nanosleep(&nap, NULL);
	}
	return NULL;
}

static int tracer_of(pid_t process)
{
	char path[64], line[128];
	int tracer = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)process);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "TracerPid: %d", &tracer) == 1)
			break;
	if (file)
		fclose(file);
	return tracer;
}

static int said(pid_t process, int rc, struct lh_error *error)
{
	switch (rc) {
	case 0: return 0;
	case -ESRCH: return lh__fail(error, rc, "process %d has ended", (int)process);
	case -EPERM:
	case -EACCES:
		if (tracer_of(process))
			return lh__fail(error, -EBUSY, "process %d is traced already, by process %d",
			                (int)process, tracer_of(process));
		return lh__fail(error, -EPERM,
		                "process %d may not be traced by this user (same user or root is needed, and "
		                "kernel.yama.ptrace_scope must let it)",
		                (int)process);
	case -ENOSYS:
		return lh__fail(error, rc,
		                "the kernel, or the sandbox of process %d, has no userfaultfd for it",
		                (int)process);
	default:
		return lh__fail(error, rc, "a userfaultfd of process %d: %s", (int)process,
		                lh__errno_name(rc));
	}
}

static int run(struct task *task)
{
	sigset_t all, before;
	pthread_t thread;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	rc = pthread_create(&thread, NULL, in_own_thread, task);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		return -rc;
	pthread_join(thread, NULL);
	return task->rc;
}

int lh__inject_userfaultfd(pid_t process, int *fd, uint64_t *stopped_ns, struct lh_error *error)
{
	struct task task = { .injection = { .process = process, .memory = -1 }, .fd = -1 };
	char path[64];
	int rc;

	task.injection.pidfd = (int)syscall(SYS_pidfd_open, process, 0);
	if (task.injection.pidfd < 0)
		return said(process, -errno, error);
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)process);
	task.injection.memory = open(path, O_RDWR | O_CLOEXEC);
	if (task.injection.memory < 0)
		rc = said(process, -errno, error);
	else
		rc = lh__inject_find_code(&task.injection, error);
	if (!rc)
		rc = said(process, run(&task), error);
	if (task.injection.memory >= 0)
		close(task.injection.memory);
	close(task.injection.pidfd);
	if (rc) {
		if (task.fd >= 0)
			close(task.fd);
		return rc;
	}
	*fd = task.fd;
	if (stopped_ns)
		*stopped_ns = task.stopped_ns;
	return 0;
}
