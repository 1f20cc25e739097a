/* launch.c - see launch.h. */
#include "service/launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TICK_SECONDS 1

int lh__launch_agent(const char *given, const char *file, const char *installed, char path[PATH_MAX],
                     struct lh_error *error)
{
	ssize_t n;
	char *slash;

	if (given) {
		snprintf(path, PATH_MAX, "%s", given);
	} else {
		n = readlink("/proc/self/exe", path, PATH_MAX - 64);
		path[n > 0 ? n : 0] = 0;
		slash = strrchr(path, '/');
		if (slash)
			snprintf(slash + 1, 64, "%s", file);
		if (access(path, R_OK) != 0)
			snprintf(path, PATH_MAX, "%s", installed);
	}
	if (access(path, R_OK) != 0)
		return lh__fail(error, -ENOENT, "%s: the agent is missing; build or install it with linehome",
		                path);
	return 0;
}

/* Before the fork, after which nothing may allocate. */
int lh__launch_preload(const char *agent, struct lh_error *error)
{
	const char *old = getenv("LD_PRELOAD");
	char preload[2 * PATH_MAX];

	snprintf(preload, sizeof preload, "%s%s%s", agent, old && *old ? ":" : "", old ? old : "");
	if (setenv("LD_PRELOAD", preload, 1) < 0)
		return lh__fail(error, -ENOMEM, "no memory for the program's environment");
	return 0;
}

void lh__launch_signals(sigset_t *signals, sigset_t *before)
{
	static const int taken[] = { SIGCHLD, SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 };

	sigemptyset(signals);
	for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
		sigaddset(signals, taken[i]);
	pthread_sigmask(SIG_BLOCK, signals, before);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static _Noreturn void become_program(char *const *argv, const sigset_t *before, int report)
{
	int error;

	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, before, NULL);
	execvp(argv[0], argv);
	error = errno;
	if (write(report, &error, sizeof error) != (ssize_t)sizeof error)
		_exit(CHAR_MAX);
	_exit(127);
}

int lh__launch_start(char *const *argv, const sigset_t *before, pid_t *child, struct lh_error *error)
{
	int report[2], failure = 0;

	*child = -1;
	if (pipe2(report, O_CLOEXEC) < 0)
		return lh__fail(error, -errno, "cannot make a pipe: %s", lh__errno_name(errno));
	fflush(NULL);
	*child = fork();
	if (*child == 0)
		become_program(argv, before, report[1]);
	close(report[1]);
	if (*child < 0)
		failure = errno;
	else if (read(report[0], &failure, sizeof failure) == (ssize_t)sizeof failure)
		waitpid(*child, NULL, 0);
	else
		failure = 0;
	close(report[0]);
	return failure ? lh__fail(error, -failure, "%s: cannot be executed: %s", argv[0],
	                          lh__errno_name(failure))
	               : 0;
}

/* Those of the terminal reach the program by themselves. */
static void pass_on(int number, pid_t child, bool running)
{
	if (running && (number == SIGTERM || number == SIGHUP || number == SIGUSR1 || number == SIGUSR2))
		kill(child, number);
}

/* Reaps what has ended; 1: processes are left. */
static int reap(pid_t child, bool *running, int *status)
{
	int ended;
	pid_t pid;

	while ((pid = waitpid(-1, &ended, WNOHANG)) > 0)
		if (pid == child) {
			*status = WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
			*running = false;
		}
	return pid == 0;
}

int lh__launch_wait(pid_t child, const sigset_t *signals, void (*tick)(void *context), void *context)
{
	struct timespec second = { .tv_sec = TICK_SECONDS };
	bool running = true;
	int status = 125;

	while (reap(child, &running, &status)) {
		int number = sigtimedwait(signals, NULL, &second);

		if (number > 0)
			pass_on(number, child, running);
		else
			tick(context);
	}
	return status;
}
