/*
 * remote_call.c - see remote.h. A stopped thread of another process works for us: system calls, calls of
 * functions.
 *
 * A system call is made by an instruction that is there anyway, in the vDSO, between its two stops of
 * PTRACE_SYSCALL. All signals are blocked in the thread meanwhile, so they stay where the kernel keeps them;
 * only SIGSTOP comes through, and is sent again at the end.
 *
 * A function returns to address 0, where nothing can be mapped, and the fault that follows is its end. No
 * INT3 and no blocked SIGSEGV: a forced signal that is blocked or ignored would have the kernel reset what
 * the program has set for it. (Where it ignores SIGSEGV that is set anew.)
 *
 * After a system call the thread stands outside the kernel's signal code, and there the registers of an
 * interrupted call are not restarted. So settle first brings it to a stop inside, then puts them back.
 */
#include "service/code/remote_inside.h"

#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define BIT(signal) (1ull << ((signal)-1))
/* What an instruction may raise by itself. */
#define FAULTS (BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGILL) | BIT(SIGFPE) | BIT(SIGTRAP) | BIT(SIGSYS))
#define STATE_SIZE 16384u             /* of the floating point and vector state: AMX is 11 KiB */
#define EFLAGS_CALL 0x100ul | 0x400ul /* trap and direction flag: clear where a function begins */
#define ERESTART_FIRST 512            /* the kernel's own codes of calls that are to be restarted */
#define ERESTART_LAST 516
#define CODE_SEGMENT 0x33
#define NO_CALL (~0ul) /* orig_rax: there is no system call to restart */

struct lh_remote_kept *lh__remote_worker(struct lh_remote *remote)
{
	for (size_t i = 0; i < remote->count; i++) {
		struct lh_remote_kept *thread = &remote->kept[i];

		/* The kernel's workers of io_uring are threads too, and have no instruction to go on with. */
		if (!thread->gone && thread->registers.cs == CODE_SEGMENT && thread->registers.rip)
			return thread;
	}
	return NULL;
}

/* A wake-up on another processor takes ten times as long: this thread goes where the worker is. */
static void go_beside(struct lh_remote *remote, const struct lh_remote_kept *thread)
{
	char path[64], line[1024];
	const char *at;
	cpu_set_t one;
	FILE *file;

	if (remote->pinned || sched_getaffinity(0, sizeof(remote->processors), &remote->processors))
		return;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", remote->process, thread->id);
	file = fopen(path, "re");
	if (!file)
		return;
	at = fgets(line, sizeof(line), file) ? strrchr(line, ')') : NULL;
	for (unsigned field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	fclose(file);
	if (!at)
		return;
	CPU_ZERO(&one);
	CPU_SET((size_t)atoi(at), &one);
	remote->pinned = !sched_setaffinity(0, sizeof(one), &one);
	if (remote->hurried && remote->pinned && lh__remote_prefer(thread->id, 0, &remote->policy))
		remote->preferred = thread->id;
}

/* ---- where a `syscall` instruction is ---- */

static uint64_t site_in(struct lh_remote *remote, const struct lh_mapping *mapping)
{
	uint8_t bytes[4097]; /* one more: an instruction may lie across */

	for (uint64_t at = mapping->start; at < mapping->end; at += 4096) {
		size_t size =
			at + sizeof(bytes) <= mapping->end ? sizeof(bytes) : (size_t)(mapping->end - at);
		const uint8_t *found;

		if (lh__remote_read(remote, at, bytes, size))
			return 0;
		found = memmem(bytes, size, "\x0f\x05", 2);
		if (found)
			return at + (uint64_t)(found - bytes);
	}
	return 0;
}

static int site_of_vdso(void *context, const struct lh_mapping *mapping)
{
	struct lh_remote *remote = context;

	if (!strcmp(mapping->path, "[vdso]"))
		remote->site = site_in(remote, mapping);
	return remote->site != 0;
}

static int site_anywhere(void *context, const struct lh_mapping *mapping)
{
	struct lh_remote *remote = context;

	if (mapping->rights[2] == 'x' && strcmp(mapping->path, "[vsyscall]"))
		remote->site = site_in(remote, mapping);
	return remote->site != 0;
}

int lh__remote_look_for_site(struct lh_remote *remote)
{
	int rc;

	remote->site = 0;
	rc = lh__mappings(remote->process, site_of_vdso, remote);
	if (!remote->site && rc >= 0)
		rc = lh__mappings(remote->process, site_anywhere, remote);
	return rc < 0 ? rc : 0;
}

static int find_site(struct lh_remote *remote, const struct lh_remote_kept *thread)
{
	struct user_regs_struct registers;
	uint8_t bytes[2];
	int rc = 0;

	if (remote->site_known)
		return 0;
	if (!remote->site || lh__remote_read(remote, remote->site, bytes, sizeof(bytes)) ||
	    memcmp(bytes, "\x0f\x05", sizeof(bytes)) != 0)
		rc = lh__remote_look_for_site(remote);
	remote->site_known = remote->site != 0;
	if (remote->site)
		return 0;
	if (ptrace(PTRACE_GETREGS, thread->id, NULL, &registers))
		return -ECHILD; /* nothing is mapped any more */
	return rc < 0 ? rc : -ENOEXEC;
}

/* ---- resuming ---- */

static int block(struct lh_remote_kept *thread, uint64_t mask)
{
	thread->away = true;
	return ptrace(PTRACE_SETSIGMASK, thread->id, sizeof(mask), &mask) ? -ECHILD : 0;
}

static int put_registers(const struct lh_remote_kept *thread, const struct user_regs_struct *registers)
{
	return ptrace(PTRACE_SETREGS, thread->id, NULL, registers) ? -ECHILD : 0;
}

/* Keeps a signal that came in spite of all for the release. */
static void hold(struct lh_remote_kept *thread, int signal)
{
	if (signal == SIGSTOP)
		thread->stop_due = true;
	else if (!thread->held && !ptrace(PTRACE_GETSIGINFO, thread->id, NULL, &thread->held_info))
		thread->held = signal;
}

/* Whether a signal was raised by the thread's own instruction, and not sent. */
static bool is_fault(const struct lh_remote_kept *thread, int signal)
{
	siginfo_t info;

	return signal > 0 && signal < 64 && (FAULTS & BIT(signal)) &&
	       !ptrace(PTRACE_GETSIGINFO, thread->id, NULL, &info) && info.si_code > 0;
}

enum call_stop { ENTRY = 1, EXIT = 2 }; /* as PTRACE_GETEVENTMSG has them */

/* With or without PTRACE_O_TRACESYSGOOD: that is the caller's business where a thread was adopted. */
static bool at_call_stop(const struct lh_remote_kept *thread, int status, enum call_stop which)
{
	unsigned long message = 0;
	siginfo_t info;

	return (status == SIGTRAP || status == (SIGTRAP | 0x80)) &&
	       !ptrace(PTRACE_GETSIGINFO, thread->id, NULL, &info) &&
	       (info.si_code == SIGTRAP || info.si_code == (SIGTRAP | 0x80)) &&
	       !ptrace(PTRACE_GETEVENTMSG, thread->id, NULL, &message) && message == (unsigned long)which;
}

/* Goes on to the entry to a system call, or its exit. -ENOSYS: a sandbox forbids the call. */
static int go_to(struct lh_remote *remote, struct lh_remote_kept *thread, enum call_stop which)
{
	int status, rc;

	for (;;) {
		if (ptrace(PTRACE_SYSCALL, thread->id, NULL, NULL)) {
			/* It is dying; its end is to be taken note of. */
			rc = lh__remote_wait(remote, thread, 0, &status);
			return rc ? rc : -ECHILD;
		}
		rc = lh__remote_wait(remote, thread, 0, &status);
		if (rc)
			return rc;
		thread->trapped = !at_call_stop(thread, status, which);
		if (!thread->trapped)
			return 0;
		if (status >> 8)
			continue;
		if (is_fault(thread, status))
			return -ENOSYS;
		hold(thread, status);
	}
}

int lh__remote_settle(struct lh_remote *remote, struct lh_remote_kept *thread)
{
	struct user_regs_struct registers;
	int status = 0, rc = 0;

	if (thread->gone)
		return -ECHILD;
	if (!thread->away)
		return 0;
	if (!thread->trapped) {
		registers = thread->registers;
		registers.orig_rax = NO_CALL;
		rc = put_registers(thread, &registers);
	}
	while (!rc && !thread->trapped) {
		if (ptrace(PTRACE_INTERRUPT, thread->id, NULL, NULL) ||
		    ptrace(PTRACE_CONT, thread->id, NULL, NULL))
			return -ECHILD;
		rc = lh__remote_wait(remote, thread, 0, &status);
		thread->trapped = !rc && status >> 8 == PTRACE_EVENT_STOP;
		if (!rc && !thread->trapped)
			hold(thread, status);
	}
	if (!rc)
		rc = put_registers(thread, &thread->registers);
	if (!rc && ptrace(PTRACE_SETSIGMASK, thread->id, sizeof(thread->blocked), &thread->blocked))
		rc = -ECHILD;
	thread->away = rc;
	return rc;
}

/* ---- system calls ---- */

static bool to_restart(long result)
{
	return result <= -ERESTART_FIRST && result >= -ERESTART_LAST;
}

static int make_call(struct lh_remote *remote, struct lh_remote_kept *thread, long nr, const long argument[6],
                     long *result)
{
	struct user_regs_struct registers = thread->registers;
	int rc;

	registers.rip = remote->site;
	registers.rax = (unsigned long)nr;
	registers.orig_rax = NO_CALL;
	registers.rdi = (unsigned long)argument[0];
	registers.rsi = (unsigned long)argument[1];
	registers.rdx = (unsigned long)argument[2];
	registers.r10 = (unsigned long)argument[3];
	registers.r8 = (unsigned long)argument[4];
	registers.r9 = (unsigned long)argument[5];
	rc = put_registers(thread, &registers);
	if (!rc)
		rc = go_to(remote, thread, ENTRY);
	if (!rc)
		rc = go_to(remote, thread, EXIT);
	if (rc)
		return rc;
	if (ptrace(PTRACE_GETREGS, thread->id, NULL, &registers))
		return -ECHILD;
	*result = (long)registers.rax;
	registers.orig_rax = NO_CALL; /* an interrupted call is made again by us, not by the kernel */
	return put_registers(thread, &registers);
}

long lh__remote_syscall(struct lh_remote *remote, long nr, const long argument[6])
{
	struct lh_remote_kept *thread = lh__remote_worker(remote);
	long result = 0;
	int rc;

	if (!thread)
		return -ECHILD;
	rc = find_site(remote, thread);
	if (rc)
		return rc;
	go_beside(remote, thread);
	rc = block(thread, ~BIT(SIGSYS));
	do {
		if (!rc)
			rc = make_call(remote, thread, nr, argument, &result);
	} while (!rc && to_restart(result));
	return rc ? rc : result;
}

/* ---- functions ---- */

struct calling {
	uint64_t deadline;
	int readable;
	void (*serve)(void *context);
	void *context;
};

/* The thread's next stop; serves meanwhile what it asks for. */
static int await_call(struct lh_remote *remote, struct lh_remote_kept *thread, const struct calling *call,
                      int *status)
{
	struct pollfd wait = { .fd = call->readable, .events = POLLIN };
	struct timespec nap = { 0 };
	int rc;

	for (unsigned turn = 0;; turn++) {
		if (call->readable >= 0 && ppoll(&wait, 1, &nap, NULL) > 0 && wait.revents & POLLIN) {
			call->serve(call->context);
			turn = 0;
		}
		rc = lh__remote_look(remote, thread, turn, status);
		if (rc != -EAGAIN)
			return rc;
		if (lh__remote_yield(turn, &nap)) {
			nap = (struct timespec){ 0 };
			continue;
		}
		if (lh__remote_now() > call->deadline)
			return -ETIMEDOUT;
		if (call->readable < 0)
			nanosleep(&nap, NULL);
	}
}

/* Runs until the function has returned to address 0, or cannot go on. */
static int run_call(struct lh_remote *remote, struct lh_remote_kept *thread, const struct calling *call,
                    long *result)
{
	struct user_regs_struct registers;
	int status, rc;

	for (;;) {
		if (ptrace(PTRACE_CONT, thread->id, NULL, NULL))
			return -ECHILD;
		thread->trapped = false;
		rc = await_call(remote, thread, call, &status);
		if (rc)
			return rc;
		thread->trapped = true;
		if (status >> 8)
			continue;
		if (!is_fault(thread, status)) {
			hold(thread, status);
			continue;
		}
		if (ptrace(PTRACE_GETREGS, thread->id, NULL, &registers))
			return -ECHILD;
		if (status != SIGSEGV || registers.rip)
			return -EFAULT;
		*result = (long)registers.rax;
		return 0;
	}
}

/* Brings a thread that is still running to a stop. */
static int interrupt(struct lh_remote *remote, struct lh_remote_kept *thread)
{
	int status, rc;

	do {
		if (ptrace(PTRACE_INTERRUPT, thread->id, NULL, NULL))
			return -ECHILD;
		rc = lh__remote_wait(remote, thread, 0, &status);
		if (!rc && !(status >> 8)) {
			if (!is_fault(thread, status))
				hold(thread, status);
			break;
		}
	} while (!rc && status >> 8 != PTRACE_EVENT_STOP);
	thread->trapped = !rc;
	return rc;
}

static int begin_call(struct lh_remote *remote, struct lh_remote_kept *thread, uint64_t function,
                      const long argument[3], uint64_t stack)
{
	struct user_regs_struct registers = thread->registers;
	const uint64_t return_to = 0;
	int rc = lh__remote_write(remote, stack - sizeof(return_to), &return_to, sizeof(return_to));

	if (!rc)
		rc = block(thread, ~FAULTS);
	registers.rip = function;
	registers.rsp = stack - sizeof(return_to);
	registers.rax = 0;
	registers.orig_rax = NO_CALL;
	registers.rdi = (unsigned long)argument[0];
	registers.rsi = (unsigned long)argument[1];
	registers.rdx = (unsigned long)argument[2];
	registers.eflags &= ~(EFLAGS_CALL);
	return rc ? rc : put_registers(thread, &registers);
}

/* The fault by which a call ends has made the kernel forget that the program ignores it. */
static int ignore_again(struct lh_remote *remote, uint64_t stack)
{
	const uint64_t action[4] = { 1 /* SIG_IGN */, 0, 0, 0 };
	const uint64_t at = stack - sizeof(action);
	int rc = lh__remote_write(remote, at, action, sizeof(action));

	if (rc)
		return rc;
	return (int)lh__remote_syscall(remote, SYS_rt_sigaction,
	                               (const long[6]){ SIGSEGV, (long)at, 0, sizeof(uint64_t) });
}

int lh__remote_call(struct lh_remote *remote, uint64_t function, const long argument[3], uint64_t stack,
                    unsigned milliseconds, int readable, void (*serve)(void *context), void *context,
                    long *result)
{
	const struct calling call = { lh__remote_now() + milliseconds * 1000000ull, readable, serve,
		                      context };
	struct lh_remote_kept *thread = lh__remote_worker(remote);
	struct iovec state = { NULL, STATE_SIZE };
	bool ignores_segv;
	int rc, back;

	if (!thread)
		return -ECHILD;
	state.iov_base = malloc(STATE_SIZE);
	if (!state.iov_base)
		return -ENOMEM;
	go_beside(remote, thread);
	ignores_segv = lh__remote_ignores_segv(remote);
	rc = lh__remote_settle(remote, thread);
	if (!rc && ptrace(PTRACE_GETREGSET, thread->id, NT_X86_XSTATE, &state))
		rc = -ECHILD;
	if (!rc)
		rc = begin_call(remote, thread, function, argument, stack);
	if (!rc) {
		rc = run_call(remote, thread, &call, result);
		back = rc == -ETIMEDOUT ? interrupt(remote, thread) : 0;
		if (!back && rc != -ECHILD && ptrace(PTRACE_SETREGSET, thread->id, NT_X86_XSTATE, &state))
			back = -ECHILD;
		rc = back ? back : rc;
	}
	free(state.iov_base);
	if (rc != -ECHILD && ignores_segv) {
		back = ignore_again(remote, stack);
		rc = back ? back : rc;
	}
	return rc;
}
