/*
 * probe_launch.c - starts a program and holds it at its entry, when its libraries are mapped (probe.h).
 *
 * The kernel begins with the dynamic linker, which maps and relocates everything and then jumps to the entry
 * of the program. There a breakpoint waits for it, once. Then the program is let go of with SIGSTOP, so that
 * it stands there as any process does that somebody has stopped.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "service/code/probe.h"

/* The child is nobody's but ours, so it ends without libc's help. */
static void run_child(char *const *argv, const sigset_t *mask, int failed)
{
	int reason;

	sigprocmask(SIG_SETMASK, mask, NULL);
	if (ptrace(PTRACE_TRACEME, 0, 0, 0) == 0)
		execvp(argv[0], argv);
	reason = errno;
	for (;;)
		lh__raw_syscall(SYS_exit_group, write(failed, &reason, sizeof reason) < 0, 0, 0, 0, 0, 0);
}

/* From the auxiliary vector; 0: not known. */
static uint64_t entry_of(pid_t process)
{
	uint64_t entry = 0;
	Elf64_auxv_t one;
	char path[32];
	int fd;

	snprintf(path, sizeof path, "/proc/%d/auxv", process);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && read(fd, &one, sizeof one) == (ssize_t)sizeof one)
		if (one.a_type == AT_ENTRY)
			entry = one.a_un.a_val;
	if (fd >= 0)
		close(fd);
	return entry;
}

/* Until it stops with SIGTRAP; other signals it gets. False: it has ended. */
static bool run_to_trap(pid_t process)
{
	int status, signal = 0;

	for (;;) {
		if (ptrace(PTRACE_CONT, process, 0, signal) < 0 || waitpid(process, &status, 0) != process ||
		    !WIFSTOPPED(status))
			return false;
		signal = WSTOPSIG(status);
		if (signal == SIGTRAP)
			return true;
	}
}

/* Stopped after execve: goes on until the entry, whose first byte is a breakpoint for so long. */
static bool run_to_entry(pid_t process)
{
	uint64_t entry = entry_of(process);
	struct user_regs_struct registers;
	long word;

	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, process, entry, 0);
	if (errno || ptrace(PTRACE_POKETEXT, process, entry, (word & ~0xffl) | 0xcc) < 0)
		return false;
	if (!run_to_trap(process) || ptrace(PTRACE_GETREGS, process, 0, &registers) < 0 ||
	    registers.rip != entry + 1)
		return false;
	registers.rip = entry;
	return ptrace(PTRACE_SETREGS, process, 0, &registers) == 0 &&
	       ptrace(PTRACE_POKETEXT, process, entry, word) == 0;
}

static int hold(pid_t process)
{
	int status;

	if (ptrace(PTRACE_SETOPTIONS, process, 0, PTRACE_O_EXITKILL) < 0 || !run_to_entry(process) ||
	    ptrace(PTRACE_DETACH, process, 0, SIGSTOP) < 0 ||
	    waitpid(process, &status, WUNTRACED) != process || !WIFSTOPPED(status)) {
		kill(process, SIGKILL);
		waitpid(process, &status, 0);
		return -ECHILD;
	}
	return 0;
}

int lh__probes_launch(char *const *argv, const sigset_t *mask, pid_t *process, struct lh_error *error)
{
	int failed[2], reason, status;
	ssize_t got;
	pid_t child;

	if (pipe2(failed, O_CLOEXEC) < 0)
		return lh__fail(error, -errno, "%s: a pipe cannot be made", argv[0]);
	child = fork();
	if (child == 0)
		run_child(argv, mask, failed[1]);
	reason = child < 0 ? errno : 0;
	close(failed[1]);
	got = child < 0 ? 0 : read(failed[0], &reason, sizeof reason);
	close(failed[0]);
	if (child < 0)
		return lh__fail(error, -reason, "%s: no process can be made", argv[0]);
	if (waitpid(child, &status, 0) != child || got > 0 || !WIFSTOPPED(status)) {
		if (got <= 0)
			return lh__fail(error, -ECHILD, "%s: has ended before it began", argv[0]);
		return lh__fail(error, -reason, "%s: %s", argv[0],
		                reason == ENOENT   ? "there is no such program"
		                : reason == EACCES ? "may not be executed"
		                                   : "cannot be executed");
	}
	if (hold(child) < 0)
		return lh__fail(error, -ECHILD, "%s: has ended before its first instruction", argv[0]);
	*process = child;
	return 0;
}
