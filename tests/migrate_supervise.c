/*
 * migrate_supervise.c - workers that end, are killed, get signals, and whose parent is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "service/migrate/supervise.h"
#include "tap.h"

static struct {
	volatile int starts[4];
	volatile int deaths, signal;
	volatile pid_t worker[4];
	volatile int terms, others; /* signals that workers have got */
} * shared;

static struct lh_error error;

static void nap(void)
{
	struct timespec few = { 0, 2000000 };

	nanosleep(&few, NULL);
}

static void on_signal(int signal)
{
	if (signal == SIGTERM)
		__atomic_add_fetch(&shared->terms, 1, __ATOMIC_SEQ_CST);
	else
		__atomic_add_fetch(&shared->others, 1, __ATOMIC_SEQ_CST);
}

/* ---- workers ---- */

static int returns(void *context)
{
	return (int)(long)context;
}

static int is_killed_at_first(void *context)
{
	if (shared->starts[0]++ < 2)
		kill(getpid(), SIGKILL);
	return 7;
}

static int crashes(void *context)
{
	signal(SIGSEGV, SIG_DFL); /* a sanitizer has a handler of its own */
	raise(SIGSEGV);
	return 0;
}

/* Until it is told to end. */
static int waits(void *context)
{
	const int i = (int)(long)context;
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t all, before;

	sigemptyset(&all);
	sigaddset(&all, SIGTERM);
	sigaddset(&all, SIGINT);
	sigaddset(&all, SIGHUP);
	sigprocmask(SIG_BLOCK, &all, &before);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (signal(SIGHUP, SIG_IGN) != SIG_IGN)
		sigaction(SIGHUP, &action, NULL);
	shared->worker[i] = getpid();
	shared->starts[i]++;
	while (!shared->terms && !shared->others)
		sigsuspend(&before);
	return 3;
}

static int looks_at_signals(void *context)
{
	sigset_t now;

	sigprocmask(SIG_BLOCK, NULL, &now);
	return sigismember(&now, SIGINT) || sigismember(&now, SIGCHLD) || !sigismember(&now, SIGUSR1);
}

static int again(void *context, int signal, int *status)
{
	shared->deaths++;
	shared->signal = signal;
	return 1;
}

static int never_again(void *context, int signal, int *status)
{
	shared->deaths++;
	shared->signal = signal;
	*status = 42;
	return 0;
}

static int leaves_it(void *context, int signal, int *status)
{
	return 0;
}

/* ---- cases ---- */

static void ends(void)
{
	const struct lh_worker none[] = { { returns, NULL, (void *)0 }, { returns, NULL, (void *)0 } };
	const struct lh_worker some[] = { { returns, NULL, (void *)0 },
		                          { returns, NULL, (void *)5 },
		                          { returns, NULL, (void *)6 } };
	const struct lh_worker killed = { is_killed_at_first, again, NULL };
	const struct lh_worker crash = { crashes, never_again, NULL };
	const struct lh_worker unsaid = { crashes, leaves_it, NULL }, alone = { crashes, NULL, NULL };

	is(lh__supervise(none, 2, &error), 0, "workers that end well");
	is(lh__supervise(some, 3, &error), 5, "the first status that is not 0, in their order");
	is(lh__supervise(&killed, 1, &error), 7, "one that is killed twice ends well the third time");
	ok(shared->starts[0] == 3 && shared->deaths == 2 && shared->signal == SIGKILL,
	   "... and each time it was asked");
	shared->deaths = 0;
	is(lh__supervise(&crash, 1, &error), 42, "one that crashes is not started again");
	ok(shared->deaths == 1 && shared->signal == SIGSEGV, "... as was decided");
	is(lh__supervise(&unsaid, 1, &error), 128 + SIGSEGV,
	   "where no status was decided, it tells the signal");
	is(lh__supervise(&alone, 1, &error), 128 + SIGSEGV, "where nobody is asked, too");
}

/* What the caller had set is what the workers have, and what it has afterwards. */
static void masks(void)
{
	const struct lh_worker looks = { looks_at_signals, NULL, NULL };
	struct sigaction ignored = { .sa_handler = SIG_IGN }, now;
	sigset_t mine, after;

	sigemptyset(&mine);
	sigaddset(&mine, SIGUSR1);
	sigprocmask(SIG_SETMASK, &mine, NULL);
	sigaction(SIGCHLD, &ignored, NULL);
	is(lh__supervise(&looks, 1, &error), 0,
	   "workers have the caller's signals, where ended children are ignored too");
	sigprocmask(SIG_SETMASK, NULL, &after);
	sigaction(SIGCHLD, NULL, &now);
	ok(!sigismember(&after, SIGINT) && sigismember(&after, SIGUSR1) && now.sa_handler == SIG_IGN,
	   "... and so has the caller");
	ignored.sa_handler = SIG_DFL;
	sigaction(SIGCHLD, &ignored, NULL);
	sigemptyset(&mine);
	sigprocmask(SIG_SETMASK, &mine, NULL);
}

/* A supervisor of two that wait, in a process of its own. */
static pid_t start_supervisor(void)
{
	const struct lh_worker two[] = { { waits, again, (void *)0 }, { waits, again, (void *)1 } };
	pid_t child;

	memset(shared, 0, sizeof(*shared));
	fflush(stdout);
	child = fork();
	if (child == 0) {
		_exit(lh__supervise(two, 2, NULL));
	}
	for (unsigned i = 0; i < 5000 && (!shared->starts[0] || !shared->starts[1]); i++)
		nap();
	return child;
}

static void workers_gone(const char *what)
{
	pid_t one = shared->worker[0], two = shared->worker[1];

	for (unsigned i = 0; i < 5000 && (!kill(one, 0) || !kill(two, 0)); i++) {
		(void)!waitpid(one, NULL, WNOHANG);
		(void)!waitpid(two, NULL, WNOHANG);
		nap();
	}
	ok(kill(one, 0) && kill(two, 0), "%s", what);
}

static void told(int signal, const char *what)
{
	pid_t supervisor = start_supervisor();
	int status;

	kill(supervisor, signal);
	waitpid(supervisor, &status, 0);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 3, "%s is passed on, and their status told", what);
	ok((signal == SIGTERM ? shared->terms : shared->others) == 2, "... each got it once");
	workers_gone("... and they have ended");
}

/* By nohup(1). */
static void not_concerned(void)
{
	pid_t supervisor;
	int status;

	signal(SIGHUP, SIG_IGN);
	supervisor = start_supervisor();
	signal(SIGHUP, SIG_DFL);
	kill(supervisor, SIGHUP);
	kill(shared->worker[0], SIGHUP);
	nap();
	ok(waitpid(supervisor, &status, WNOHANG) == 0 && shared->others == 0,
	   "where SIGHUP is ignored it is so by all");
	kill(supervisor, SIGTERM);
	waitpid(supervisor, &status, 0);
	workers_gone("... and SIGTERM is not");
}

/* What a terminal sends reaches the whole group: workers get it from there alone. ends: it goes. */
static void terminal(bool ends)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), status = 0;
	const struct lh_worker two[] = { { waits, again, (void *)0 }, { waits, again, (void *)1 } };
	char name[64];
	pid_t child;

	if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, sizeof(name))) {
		skip("a terminal", "there is none here");
		return;
	}
	memset(shared, 0, sizeof(*shared));
	fflush(stdout);
	child = fork();
	if (child == 0) {
		setsid();
		close(master); /* its end is when nobody has it any more */
		if (open(name, O_RDWR) < 0)
			_exit(99);
		_exit(lh__supervise(two, 2, NULL));
	}
	for (unsigned i = 0; i < 5000 && (!shared->starts[0] || !shared->starts[1]); i++)
		nap();
	if (!ends)
		ok(write(master, "\003", 1) == 1, "Ctrl-C");
	else
		ok(close(master) == 0, "the end of a terminal");
	waitpid(child, &status, 0);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 3 && (ends || shared->others == 2),
	   ends ? "... reaches each worker" : "... reaches each worker once");
	if (!ends)
		close(master);
}

static void parent_killed(void)
{
	pid_t supervisor = start_supervisor();

	kill(supervisor, SIGKILL);
	waitpid(supervisor, NULL, 0);
	workers_gone("a supervisor is killed: its workers are told to end, and do");
	ok(shared->terms == 2, "... by SIGTERM");
}

static void worker_killed(void)
{
	pid_t supervisor = start_supervisor(), first = shared->worker[0];
	int status;

	for (int round = 0; round < 3; round++) {
		pid_t now = shared->worker[0];

		kill(now, SIGKILL);
		for (unsigned i = 0; i < 5000 && shared->worker[0] == now; i++)
			nap();
	}
	ok(shared->worker[0] != first && shared->deaths == 3 && shared->starts[1] == 1,
	   "one of two is killed again and again, and started again; the other is left alone");
	kill(supervisor, SIGTERM);
	waitpid(supervisor, &status, 0);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 3, "... and both end when they are told to");
}

int main(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* who has lost its parent is ours, and reaped below */
	signal(SIGCHLD, SIG_DFL);
	ends();
	masks();
	told(SIGTERM, "SIGTERM");
	told(SIGINT, "SIGINT");
	told(SIGHUP, "SIGHUP");
	not_concerned();
	worker_killed();
	terminal(false);
	terminal(true);
	parent_killed();
	return done();
}
