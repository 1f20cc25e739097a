/*
 * session_launch.c - starts a program and holds it before its first instruction.
 *
 * The child waits until it is traced, then executes like any other child: its signals, mask and descriptors
 * are those that we were given ourselves. The kernel reports the execve that has succeeded, of a script's
 * interpreter as of a program; one that has failed tells so through a pipe that an execve closes.
 */
#include "service/code/session_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

struct start {
	int go[2];     /* a byte: it is traced */
	int failed[2]; /* an errno: it could not be executed */
};

static void run_child(struct lh_session *session, const struct start *start, char *const *argv)
{
	ssize_t got;
	int code;
	char byte;

	if (session->ignores_child)
		signal(SIGCHLD, SIG_IGN);
	for (int i = 0; session->options.standard && i < 3; i++)
		if (dup2(session->options.standard[i], i) < 0)
			syscall(SYS_exit_group, 127);
	sigprocmask(SIG_SETMASK, &session->mask, NULL);
	close(start->go[1]);
	while ((got = read(start->go[0], &byte, 1)) < 0 && errno == EINTR)
		;
	if (got != 1) /* who started this has been killed */
		syscall(SYS_exit_group, 127);
	execvp(argv[0], argv);
	code = errno;
	(void)!write(start->failed[1], &code, sizeof(code));
	syscall(SYS_exit_group, 127);
}

/* ---- what may not be traced ---- */

/* Where execvp finds it; false: nowhere. */
static bool resolve(const char *name, char path[PATH_MAX])
{
	const char *list = getenv("PATH");

	if (strchr(name, '/'))
		return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
	for (list = list ? list : "/bin:/usr/bin"; list;) {
		int length = (int)strcspn(list, ":");

		if (snprintf(path, PATH_MAX, "%.*s/%s", length, length ? list : ".", name) < PATH_MAX &&
		    access(path, X_OK) == 0)
			return true;
		list = list[length] ? list + length + 1 : NULL;
	}
	return false;
}

/* The kernel takes the rights of a setuid program away if who traces it has not got them. */
static int check_rights(const char *name, struct lh_error *error)
{
	char path[PATH_MAX];
	struct stat status;

	if (geteuid() == 0 || !resolve(name, path) || stat(path, &status) < 0)
		return 0;
	if ((status.st_mode & S_ISUID && status.st_uid != geteuid()) ||
	    (status.st_mode & S_ISGID && status.st_gid != getegid()) ||
	    getxattr(path, "security.capability", NULL, 0) > 0)
		return lh__fail(
			error, -EPERM,
			"%s: runs with more rights than you have (setuid, setgid or capabilities), so it "
			"cannot be watched by you: run linehome from an account that has them",
			path);
	return 0;
}

/* ---- tracing it ---- */

static int fail_exec(const char *name, int code, struct lh_error *error)
{
	return lh__fail(error, code, "%s: %s", name,
	                code == -ENOENT   ? "not found"
	                : code == -EACCES ? "found, but it cannot be executed"
	                                  : strerror(-code));
}

/* Up to the stop that follows a successful execve. */
static int await_exec(pid_t child, const struct start *start, const char *name, struct lh_error *error)
{
	int status, code = 0;

	for (;;) {
		if (waitpid(child, &status, __WALL) < 0) {
			if (errno == EINTR)
				continue;
			return lh__fail(error, -errno, "%s: %s", name, strerror(errno));
		}
		if (WIFEXITED(status) || WIFSIGNALED(status))
			break;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8))
			return 0;
		/* A signal, or a stop, that is the child's. */
		if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP)
			ptrace(PTRACE_LISTEN, child, NULL, NULL);
		else
			ptrace(PTRACE_CONT, child, NULL, status >> 16 ? 0L : (long)WSTOPSIG(status));
	}
	if (read(start->failed[0], &code, sizeof(code)) == sizeof(code))
		return fail_exec(name, -code, error);
	return lh__fail(error, -ECHILD, "%s: it was killed before it began", name);
}

static int trace(pid_t child, struct start *start, const char *name, struct lh_error *error)
{
	int result = 0, status;

	if (ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_TRACEEXEC) < 0)
		result = lh__fail(error, -errno, "%s: it cannot be traced: %s", name, strerror(errno));
	if (result == 0 && write(start->go[1], "", 1) != 1)
		result = lh__fail(error, -EIO, "%s: it cannot be started", name);
	if (result == 0)
		return await_exec(child, start, name, error);
	kill(child, SIGKILL);
	waitpid(child, &status, __WALL);
	return result;
}

static void close_all(struct start *start)
{
	for (unsigned i = 0; i < 2; i++) {
		if (start->go[i] >= 0)
			close(start->go[i]);
		if (start->failed[i] >= 0)
			close(start->failed[i]);
	}
}

int lh__session_start(struct lh_session *session, char *const *argv, pid_t *child, struct lh_error *error)
{
	struct start start = { { -1, -1 }, { -1, -1 } };
	int result = check_rights(argv[0], error);

	if (result < 0)
		return result;
	if (pipe2(start.go, O_CLOEXEC) < 0 || pipe2(start.failed, O_CLOEXEC) < 0) {
		result = lh__fail(error, -errno, "no pipe: %s", strerror(errno));
		close_all(&start);
		return result;
	}
	*child = fork();
	if (*child == 0)
		run_child(session, &start, argv);
	if (*child < 0) {
		result = lh__fail(error, -errno, "no process: %s", strerror(errno));
	} else {
		close(start.failed[1]);
		start.failed[1] = -1;
		result = trace(*child, &start, argv[0], error);
	}
	close_all(&start);
	return result;
}
