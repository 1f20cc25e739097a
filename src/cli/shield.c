/*
 * shield.c - what stops another process is done in a second process of ours, which no signal ends in the
 * midst of it.
 *
 * A thread that works for us (service/code/remote.h) has registers, a mask and a stack that are not its own.
 * If we were killed then, the kernel would let it go on with them, and the program would die. So the process
 * that a person knows the number of, and can kill, only waits and passes signals on. Killed, it leaves the
 * other to end in order.
 *
 * The other has a session and a name of its own: who kills a group, or all that is called linehome, does not
 * mean it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"

#define WORKER_NAME "linehome-worker"

static void set_of(const int *signals, sigset_t *set)
{
	sigemptyset(set);
	for (size_t i = 0; signals[i]; i++)
		sigaddset(set, signals[i]);
}

/* The one who works; SIGTERM, which asks it to end when the other is gone, must reach it. */
static int become_worker(pid_t shield, bool lasts, const struct sigaction *child, const sigset_t *before)
{
	sigset_t term;

	prctl(PR_SET_NAME, WORKER_NAME);
	setsid();
	sigaction(SIGCHLD, child, NULL);
	if (!lasts)
		return CLI_GO_ON; /* what was blocked stays so: the work is soon done, and then we end */
	signal(SIGTERM, SIG_DFL);
	sigprocmask(SIG_SETMASK, before, NULL);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_UNBLOCK, &term, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != shield)
		raise(SIGTERM);
	return CLI_GO_ON;
}

/* As the worker has ended, by a signal as well. */
static int end_like(const char *command, int status)
{
	sigset_t one;

	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	prctl(PR_SET_DUMPABLE, 0); /* one core is enough */
	sigemptyset(&one);
	sigaddset(&one, WTERMSIG(status));
	signal(WTERMSIG(status), SIG_DFL);
	sigprocmask(SIG_UNBLOCK, &one, NULL);
	raise(WTERMSIG(status));
	return cli_fail(command, CLI_FAILED, "it was ended by signal %d", WTERMSIG(status));
}

static int wait_for(const char *command, pid_t worker, const sigset_t *taken)
{
	int status, signal;
	pid_t ended;

	for (;;) {
		ended = waitpid(worker, &status, WNOHANG);
		if (ended == worker)
			return end_like(command, status);
		if (ended < 0 && errno != EINTR)
			return cli_fail(command, CLI_FAILED, "it cannot be waited for: %s", strerror(errno));
		if (sigwait(taken, &signal) == 0 && signal != SIGCHLD)
			kill(worker, signal);
	}
}

int cli_shield(const char *command, const int *signals, bool lasts)
{
	struct sigaction child, standard = { .sa_handler = SIG_DFL };
	sigset_t taken, before;
	pid_t shield = getpid(), worker;

	set_of(signals, &taken);
	sigaddset(&taken, SIGCHLD);
	sigaction(SIGCHLD, &standard, &child);
	sigprocmask(SIG_BLOCK, &taken, &before);
	fflush(NULL);
	worker = fork();
	if (worker == 0)
		return become_worker(shield, lasts, &child, &before);
	if (worker < 0)
		return cli_fail(command, CLI_FAILED, "no process: %s", strerror(errno));
	return wait_for(command, worker, &taken);
}
