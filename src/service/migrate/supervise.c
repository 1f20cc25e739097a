/*
 * supervise.c - see supervise.h.
 *
 * Signals are taken from the kernel's hands one by one, so that nothing is done in a handler. One that a
 * terminal has sent (it says so: SI_KERNEL) has reached the whole process group, children too.
 */
#include "service/migrate/supervise.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/sys.h"

struct place {
	pid_t process; /* 0: it has ended */
	int status;
};

struct supervisor {
	const struct lh_worker *worker;
	struct place *place;
	size_t n;
	/* As the workers have them. */
	sigset_t before;
	struct sigaction child_before, pipe_before;
};

/* ---- signals ---- */

/* Whoever reads what we say may go; and a status that is ignored would not be left. */
static void take(struct supervisor *supervisor, sigset_t *awaited)
{
	struct sigaction action = { .sa_handler = SIG_DFL };

	sigemptyset(awaited);
	sigaddset(awaited, SIGINT);
	sigaddset(awaited, SIGTERM);
	sigaddset(awaited, SIGCHLD);
	if (sigaction(SIGHUP, NULL, &action) == 0 && action.sa_handler != SIG_IGN)
		sigaddset(awaited, SIGHUP);
	sigprocmask(SIG_BLOCK, awaited, &supervisor->before);
	action = (struct sigaction){ .sa_handler = SIG_DFL };
	sigaction(SIGCHLD, &action, &supervisor->child_before);
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, &supervisor->pipe_before);
}

static void take_back(const struct supervisor *supervisor)
{
	sigaction(SIGCHLD, &supervisor->child_before, NULL);
	sigaction(SIGPIPE, &supervisor->pipe_before, NULL);
	sigprocmask(SIG_SETMASK, &supervisor->before, NULL);
}

/* ---- in the child ---- */

static void work(const struct supervisor *supervisor, const struct lh_worker *worker, pid_t parent)
{
	int status;

	if (prctl(PR_SET_PDEATHSIG, SIGTERM) || getppid() != parent)
		_exit(128 + SIGTERM); /* the parent is gone already */
	take_back(supervisor);
	status = worker->work(worker->context);
	fflush(NULL);
	_exit(status);
}

/* ---- in the parent ---- */

static int start(struct supervisor *supervisor, size_t i, struct lh_error *error)
{
	pid_t parent = getpid();
	pid_t child;

	fflush(NULL); /* else it would be written twice */
	child = fork();
	if (child < 0)
		return lh__fail(error, -errno, "a worker process: %s", lh__errno_name(errno));
	if (child == 0)
		work(supervisor, &supervisor->worker[i], parent);
	supervisor->place[i].process = child;
	return 0;
}

static void pass_on(const struct supervisor *supervisor, int signal)
{
	for (size_t i = 0; i < supervisor->n; i++)
		if (supervisor->place[i].process)
			kill(supervisor->place[i].process, signal);
}

static bool any_left(const struct supervisor *supervisor)
{
	for (size_t i = 0; i < supervisor->n; i++)
		if (supervisor->place[i].process)
			return true;
	return false;
}

/* A worker has ended: for good, or it is started again. */
static int ended(struct supervisor *supervisor, size_t i, int status, struct lh_error *error)
{
	const struct lh_worker *worker = &supervisor->worker[i];
	struct place *place = &supervisor->place[i];

	place->process = 0;
	if (WIFEXITED(status)) {
		place->status = WEXITSTATUS(status);
		return 0;
	}
	place->status = 128 + WTERMSIG(status);
	if (worker->died && worker->died(worker->context, WTERMSIG(status), &place->status) == 1)
		return start(supervisor, i, error);
	return 0;
}

/* All that have ended so far. The first thing that fails is told when all are through. */
static int collect(struct supervisor *supervisor, struct lh_error *error)
{
	int status, rc = 0;

	for (size_t i = 0; i < supervisor->n; i++) {
		pid_t process = supervisor->place[i].process;

		if (process && waitpid(process, &status, WNOHANG) == process) {
			int one = ended(supervisor, i, status, rc ? NULL : error);

			rc = rc ? rc : one;
		}
	}
	return rc;
}

static int watch_over(struct supervisor *supervisor, const sigset_t *awaited, struct lh_error *error)
{
	siginfo_t info;
	int rc = 0, one;

	while (any_left(supervisor)) {
		int signal = sigwaitinfo(awaited, &info);

		/* The end of a terminal may concern the first of its session alone. */
		if (signal == SIGHUP || (signal > 0 && signal != SIGCHLD && info.si_code != SI_KERNEL))
			pass_on(supervisor, signal);
		one = collect(supervisor, rc ? NULL : error);
		rc = rc ? rc : one;
	}
	return rc;
}

int lh__supervise(const struct lh_worker *worker, size_t n, struct lh_error *error)
{
	struct supervisor supervisor = { .worker = worker, .n = n };
	sigset_t awaited;
	int rc = 0, one;

	supervisor.place = calloc(n, sizeof(*supervisor.place));
	if (!supervisor.place)
		return lh__fail(error, -ENOMEM, "no memory");
	take(&supervisor, &awaited);
	for (size_t i = 0; i < n && !rc; i++)
		rc = start(&supervisor, i, error);
	if (rc)
		pass_on(&supervisor, SIGTERM);
	one = watch_over(&supervisor, &awaited, rc ? NULL : error);
	rc = rc ? rc : one;
	for (size_t i = 0; i < n && !rc; i++)
		rc = supervisor.place[i].status;
	take_back(&supervisor);
	free(supervisor.place);
	return rc;
}
