/*
 * migrate_work.c - who does the work of linehome migrate: processes under a supervisor, which starts them
 * again, or brings the guest back, where one is killed.
 *
 * On one machine sender and receiver are two processes, as on two machines, with a Unix socket of their own
 * between them. What they have to know of each other stands in memory that they share.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/migrate.h"
#include "service/migrate/snapshot.h"
#include "service/migrate/supervise.h"

struct shared {
	int listening;     /* the receiver does */
	int no_receiver;   /* and it never will */
	int moved;         /* the sender has ended, and knows that all has arrived */
	char url[320];     /* where; with the port that was chosen */
	unsigned restarts; /* of both */
	struct lh_snapshot_left left;
};

struct work {
	const struct migrate_given *given;
	struct shared *shared; /* between all processes */
	int over;              /* readable: the sender has ended; -1 */
	bool here;             /* both sides are ours */
	pid_t parent;          /* who watches over them */
};

static int cancel_fd = -1; /* for the signal handler */

static void cancel(int signal)
{
	uint64_t one = 1;

	(void)!write(cancel_fd, &one, sizeof(one));
}

/* Readable once we are to end. A terminal's end does not concern whom nohup(1) has started. */
static int catch_signals(int fd)
{
	struct sigaction action = { .sa_handler = cancel, .sa_flags = SA_RESTART }, before;

	cancel_fd = fd >= 0 ? fd : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
		sigaction(SIGHUP, &action, NULL);
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, NULL);
	return cancel_fd;
}

static int status_of(int result)
{
	return result == 0 ? 0 : result == -ECANCELED ? MIGRATE_CANCELLED : CLI_FAILED;
}

/* The end of a side: statistics, and a line where something went wrong. */
static int end_with(const struct work *work, int result, json_t *stats, const struct lh_error *error,
                    bool quiet)
{
	int written = migrate_write_stats(quiet ? NULL : work->given->stats, stats);

	migrate_progress_end();
	if (result < 0 && !(quiet && result == -ECANCELED))
		cli_fail(MIGRATE, CLI_FAILED, "%s", error->text);
	return result < 0 || written == CLI_GO_ON ? status_of(result) : written;
}

static void sleep_ms(unsigned ms)
{
	struct timespec time = { ms / 1000, (long)(ms % 1000) * 1000000 };

	(void)nanosleep(&time, NULL);
}

/* Nobody starts us again, nor, on one machine, the other side. */
static bool alone(void *context)
{
	const struct work *work = context;

	return getppid() != work->parent ||
	       (work->here && __atomic_load_n(&work->shared->no_receiver, __ATOMIC_ACQUIRE));
}

/* ---- the sender ---- */

/* On one machine: until the receiver of our own listens. */
static int await_receiver(const struct work *work, int fd, struct lh_error *error)
{
	uint64_t cancelled;

	while (!__atomic_load_n(&work->shared->listening, __ATOMIC_ACQUIRE)) {
		if (read(fd, &cancelled, sizeof(cancelled)) > 0) {
			*error = (struct lh_error){ -ECANCELED, "cancelled; the guest runs on" };
			return -ECANCELED;
		}
		if (__atomic_load_n(&work->shared->no_receiver, __ATOMIC_ACQUIRE)) {
			*error = (struct lh_error){ -ECANCELED,
				                    "nothing was done, since there is no receiver" };
			return -EPIPE;
		}
		sleep_ms(5);
	}
	return 0;
}

static int send_to(const struct work *work, const char *url, int fd, json_t **stats, struct lh_error *error)
{
	const struct migrate_given *given = work->given;
	struct lh_channel_target target;
	struct lh_send_options options = { .monitor = given->source,
		                           .target = &target,
		                           .postcopy = given->mode == 1,
		                           .parallel = given->parallel,
		                           .bandwidth = given->bandwidth,
		                           .downtime_ms = (unsigned)given->downtime_ms,
		                           .cancel = fd,
		                           .alone = alone,
		                           .progress = migrate_progress,
		                           .say = migrate_say,
		                           .context = (void *)work };
	int result = lh__channel_target(url, given->key_file, &target, error);

	return result < 0 ? result : lh__send(&options, stats, error);
}

/* Of the socket on one machine. */
static void remove_folder(const struct work *work)
{
	char path[sizeof(work->shared->url)];

	snprintf(path, sizeof(path), "%s", work->shared->url + strlen("unix:"));
	(void)!unlink(path);
	*strrchr(path, '/') = '\0';
	(void)!rmdir(path);
}

static int work_send(void *context)
{
	const struct work *work = context;
	int fd = catch_signals(-1), result = 0, status;
	struct lh_error error = { 0, "" };
	json_t *stats = NULL;

	if (work->here)
		result = await_receiver(work, fd, &error);
	if (result == 0)
		result = send_to(work, work->here ? work->shared->url : work->given->to, fd, &stats, &error);
	status = end_with(work, result, stats, &error, false);
	if (result == 0)
		__atomic_store_n(&work->shared->moved, 1, __ATOMIC_RELEASE);
	if (work->here && getppid() != work->parent)
		remove_folder(work); /* whoever else would do it was killed */
	if (work->over >= 0)
		(void)!eventfd_write(work->over, 1);
	return status;
}

/* Slower and slower, should one be killed as soon as it begins. */
static void pause_before_restart(struct shared *shared)
{
	unsigned ms = 20 * shared->restarts++;

	sleep_ms(ms < 2000 ? ms : 2000);
}

static int died_send(void *context, int signal, int *status)
{
	struct work *work = context;
	struct lh_error error;
	int result = lh__send_recover(work->given->source, &error);

	migrate_progress_end();
	if (result > 0) {
		cli_fail(MIGRATE, 0, "the sender was killed by signal %d; another goes on", signal);
		pause_before_restart(work->shared);
		return 1;
	}
	if (result == 0)
		*status =
			cli_fail(MIGRATE, CLI_FAILED,
		                 "the sender was killed by signal %d before the guest was moved; it runs on",
		                 signal);
	else
		*status = cli_fail(
			MIGRATE, CLI_FAILED,
			"the sender was killed by signal %d, and how the guest is cannot be found out: %s",
			signal, error.text);
	if (work->over >= 0)
		(void)!eventfd_write(work->over, 1);
	return 0;
}

/* ---- the receiver ---- */

static void listening(void *context, const char *url)
{
	struct work *work = context;

	snprintf(work->shared->url, sizeof(work->shared->url), "%s", url);
	if (!work->here && !__atomic_load_n(&work->shared->listening, __ATOMIC_ACQUIRE)) {
		char line[400];

		snprintf(line, sizeof(line), "accepting at %s", url);
		migrate_say(NULL, line);
	}
	__atomic_store_n(&work->shared->listening, 1, __ATOMIC_RELEASE);
}

/*
 * From here on whoever watches over us may take us along: what stands in the state file is all that is
 * needed.
 */
static void ours(void *context)
{
	const struct work *work = context;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != work->parent)
		_exit(128 + SIGKILL);
}

static struct lh_receive_options receive_options(const struct work *work)
{
	const struct migrate_given *given = work->given;

	return (struct lh_receive_options){ .monitor = given->destination,
		                            .handover = given->uffd,
		                            .listen = work->shared->url,
		                            .key_file = given->key_file,
		                            .policy = given->policy,
		                            .recorded = given->recorded,
		                            .record = given->record,
		                            .alone = alone,
		                            .ours = ours,
		                            .listening = listening,
		                            .progress = work->here ? NULL : migrate_progress,
		                            .say = migrate_say,
		                            .context = (void *)work };
}

static int work_receive(void *context)
{
	const struct work *work = context;
	struct lh_receive_options options = receive_options(work);
	struct lh_error error = { 0, "" };
	json_t *stats = NULL;
	int result;

	options.cancel = catch_signals(work->over);
	result = lh__receive(&options, &stats, &error);
	__atomic_store_n(&work->shared->no_receiver, 1, __ATOMIC_RELEASE);
	return end_with(work, result, stats, &error, work->here);
}

static int died_receive(void *context, int signal, int *status)
{
	struct work *work = context;

	migrate_progress_end();
	if (__atomic_load_n(&work->shared->moved, __ATOMIC_ACQUIRE)) {
		*status =
			cli_fail(MIGRATE, 0,
		                 "the receiver was killed by signal %d, when all memory had arrived", signal);
		return 0;
	}
	cli_fail(MIGRATE, 0, "the receiver was killed by signal %d; another goes on", signal);
	pause_before_restart(work->shared);
	return 1;
}

/* ---- snapshots ---- */

static int work_restore(void *context)
{
	const struct work *work = context;
	struct lh_receive_options options = receive_options(work);
	struct lh_error error = { 0, "" };
	json_t *stats = NULL;
	int result;

	options.alone = NULL;
	options.ours = NULL;
	options.listening = NULL;
	options.progress = migrate_progress;
	options.cancel = catch_signals(-1);
	result = lh__snapshot_restore(work->given->from_snapshot, &options, &stats, &error);
	return end_with(work, result, stats, &error, false);
}

static int died_restore(void *context, int signal, int *status)
{
	struct work *work = context;

	(void)status;
	migrate_progress_end();
	cli_fail(MIGRATE, 0, "who restores was killed by signal %d; another goes on", signal);
	pause_before_restart(work->shared);
	return 1;
}

static int work_save(void *context)
{
	const struct work *work = context;
	struct lh_error error;
	int result = lh__snapshot_save(work->given->source, work->given->to_snapshot, catch_signals(-1),
	                               &work->shared->left, &error);

	return result < 0 ? cli_fail(MIGRATE, status_of(result), "%s", error.text) : 0;
}

static int died_save(void *context, int signal, int *status)
{
	const struct work *work = context;
	struct lh_error error;
	int result = lh__snapshot_recover(work->given->source, work->given->to_snapshot, &work->shared->left,
	                                  &error);

	if (result < 0)
		*status = cli_fail(MIGRATE, CLI_FAILED,
		                   "who saved was killed by signal %d, and whether the guest runs cannot be "
		                   "found out: %s",
		                   signal, error.text);
	else
		*status = cli_fail(MIGRATE, CLI_FAILED,
		                   "who saved was killed by signal %d; the guest is as it was", signal);
	return 0;
}

/* ---- who watches ---- */

static struct shared *share(void)
{
	struct shared *shared =
		mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return shared == MAP_FAILED ? NULL : shared;
}

static int supervise(const struct lh_worker *worker, size_t n)
{
	struct lh_error error = { 0, "" };
	int status = lh__supervise(worker, n, &error);

	return status < 0 ? cli_fail(MIGRATE, CLI_FAILED, "%s", error.text) : status;
}

static int no_memory(void)
{
	return cli_fail(MIGRATE, CLI_FAILED, "no memory: %s", strerror(errno));
}

int migrate_restore(const struct migrate_given *given)
{
	struct work work = { .given = given, .shared = share(), .over = -1 };
	struct lh_worker worker = { work_restore, died_restore, &work };

	return work.shared ? supervise(&worker, 1) : no_memory();
}

int migrate_save(const struct migrate_given *given)
{
	struct work work = { .given = given, .shared = share(), .over = -1 };
	struct lh_worker worker = { work_save, died_save, &work };

	return work.shared ? supervise(&worker, 1) : no_memory();
}

int migrate_send(const struct migrate_given *given)
{
	struct work work = { .given = given, .shared = share(), .over = -1, .parent = getpid() };
	struct lh_worker worker = { work_send, died_send, &work };

	return work.shared ? supervise(&worker, 1) : no_memory();
}

int migrate_receive(const struct migrate_given *given)
{
	struct work work = { .given = given, .shared = share(), .over = -1, .parent = getpid() };
	struct lh_worker worker = { work_receive, died_receive, &work };

	if (!work.shared)
		return no_memory();
	if (strlen(given->accept) >= sizeof(work.shared->url))
		return cli_fail(MIGRATE, CLI_BAD_USAGE, "--accept: longer than a URL may be");
	strcpy(work.shared->url, given->accept);
	return supervise(&worker, 1);
}

int migrate_here(const struct migrate_given *given)
{
	const char *folder = getenv("TMPDIR");
	struct work work = { .given = given, .shared = share(), .here = true, .parent = getpid() };
	struct lh_worker worker[] = { { work_send, died_send, &work },
		                      { work_receive, died_receive, &work } };
	char at[64];
	int status;

	if (lh__send_is_over(given->source, given->destination)) {
		migrate_say(NULL, "the guest has been moved already, with all of its memory");
		return 0;
	}
	if (!work.shared)
		return no_memory();
	work.over = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (snprintf(at, sizeof(at), "%s/linehome-XXXXXX", folder && folder[0] ? folder : "/tmp") >=
	            (int)sizeof(at) ||
	    !mkdtemp(at))
		return cli_fail(MIGRATE, CLI_FAILED, "%s: no folder for a socket can be made there: %s", at,
		                strerror(errno));
	snprintf(work.shared->url, sizeof(work.shared->url), "unix:%s/move", at);
	status = supervise(worker, 2);
	remove_folder(&work);
	return status;
}
