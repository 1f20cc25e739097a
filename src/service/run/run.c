/* run.c - see run.h. */
#include "service/run/run.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "service/run/broker.h"
#include "service/serve/server.h"
#include "sys/sys.h"

#define PROGRESS_MS 1000

/* A node of this run's own, on a private Unix socket. */
struct embedded {
	struct lh_server *server;
	pthread_t thread;
	char folder[64], path[80], url[96];
};

struct run {
	const struct lh_run_options *options;
	struct embedded embedded;
	struct lh_node_target target;
	int control_fd;
	struct lh_run_control *control;
	struct lh_broker *broker;
	char agent[PATH_MAX];
	sigset_t signals; /* the mask that the program inherits */
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the embedded node ---- */

static void log_line(void *context, const char *line)
{
	(void)context;
	fprintf(stderr, "linehome run: %s\n", line);
}

static void *serve(void *argument)
{
	struct embedded *embedded = argument;
	struct lh_error error;

	if (lh__server_run(embedded->server, &error) < 0)
		log_line(NULL, error.text);
	return NULL;
}

static int open_embedded(struct embedded *embedded, struct lh_error *error)
{
	const char *listen[1] = { embedded->url };
	struct lh_server_options options = { .listen = listen,
		                             .listen_count = 1,
		                             .grace_ms = LH_SERVER_GRACE_MS,
		                             .spin_us = LH_SERVER_SPIN_US,
		                             .log = log_line };
	int result;

	strcpy(embedded->folder, "/tmp/linehome-XXXXXX");
	if (!mkdtemp(embedded->folder))
		return lh__fail(error, -errno, "cannot make a folder in /tmp: %s", lh__errno_name(errno));
	snprintf(embedded->path, sizeof embedded->path, "%s/node", embedded->folder);
	snprintf(embedded->url, sizeof embedded->url, "unix:%s", embedded->path);
	result = lh__server_open(&options, &embedded->server, error);
	if (result == 0 && pthread_create(&embedded->thread, NULL, serve, embedded) != 0) {
		lh__server_close(embedded->server);
		embedded->server = NULL;
		result = lh__fail(error, -EAGAIN, "cannot start a thread");
	}
	if (result < 0)
		rmdir(embedded->folder);
	return result;
}

static void close_embedded(struct embedded *embedded)
{
	if (!embedded->server)
		return;
	lh__server_stop(embedded->server);
	pthread_join(embedded->thread, NULL);
	lh__server_close(embedded->server);
	unlink(embedded->path);
	rmdir(embedded->folder);
}

/* ---- what the agents get ---- */

static int find_agent(struct run *run, struct lh_error *error)
{
	ssize_t n;
	char *slash;

	if (run->options->agent) {
		snprintf(run->agent, sizeof run->agent, "%s", run->options->agent);
	} else {
		n = readlink("/proc/self/exe", run->agent, sizeof run->agent - 32);
		run->agent[n > 0 ? n : 0] = 0;
		slash = strrchr(run->agent, '/');
		if (slash)
			strcpy(slash + 1, "liblinehome-run.so");
		if (access(run->agent, R_OK) != 0)
			snprintf(run->agent, sizeof run->agent, "%s", LH_AGENT_PATH);
	}
	if (access(run->agent, R_OK) != 0)
		return lh__fail(error, -ENOENT, "%s: the agent is missing; build or install it with linehome",
		                run->agent);
	return 0;
}

static int open_control(struct run *run, struct lh_error *error)
{
	const struct lh_run_options *options = run->options;
	struct lh_run_control *control;

	run->control_fd = memfd_create("linehome-control", MFD_CLOEXEC);
	if (run->control_fd < 0 || ftruncate(run->control_fd, sizeof *control) < 0)
		return lh__fail(error, -errno, "cannot make the control page: %s", lh__errno_name(errno));
	control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, run->control_fd, 0);
	if (control == MAP_FAILED)
		return lh__fail(error, -errno, "cannot map the control page: %s", lh__errno_name(errno));
	control->version = LH_RUN_VERSION;
	control->size = sizeof *control;
	control->local = options->local;
	control->engine = options->engine;
	control->prefetch = options->prefetch;
	control->timeout_ms = options->timeout_ms;
	if (options->policy)
		snprintf(control->policy, sizeof control->policy, "%s", options->policy);
	snprintf(control->store, sizeof control->store, "%s",
	         options->store ? options->store : "the embedded node");
	run->control = control;
	return 0;
}

/* Fails early and clearly, before anything runs: the node is asked for a region, which is given back. */
static int try_node(struct run *run, struct lh_error *error)
{
	struct lh_node_link link;
	int result = lh__node_create(&run->target, (int)run->options->timeout_ms, &link, error);

	if (result == 0)
		lh__node_link_close(&link);
	return result;
}

static int prepare(struct run *run, struct lh_error *error)
{
	const char *url = run->options->store;
	int result = find_agent(run, error);

	if (result == 0 && !url) {
		result = open_embedded(&run->embedded, error);
		url = run->embedded.url;
	}
	if (result == 0)
		result = lh__node_target(url, run->options->key_file, &run->target, error);
	if (result == 0)
		result = try_node(run, error);
	if (result == 0)
		result = open_control(run, error);
	if (result == 0)
		result = lh__broker_open(&run->target, run->control_fd, &run->broker, error);
	return result;
}

static void clean_up(struct run *run)
{
	if (run->broker)
		lh__broker_close(run->broker);
	close_embedded(&run->embedded);
	if (run->control)
		munmap(run->control, sizeof *run->control);
	if (run->control_fd >= 0)
		close(run->control_fd);
}

/* ---- the program ---- */

/* The program's environment is this process's own: set before the fork, after which nothing may allocate. */
static int set_environment(const struct run *run, struct lh_error *error)
{
	const char *old = getenv("LD_PRELOAD");
	char preload[2 * PATH_MAX];

	snprintf(preload, sizeof preload, "%s%s%s", run->agent, old && *old ? ":" : "", old ? old : "");
	if (setenv("LD_PRELOAD", preload, 1) < 0 ||
	    setenv(LH_RUN_ENVIRONMENT, lh__broker_name(run->broker), 1) < 0)
		return lh__fail(error, -ENOMEM, "no memory for the program's environment");
	return 0;
}

static _Noreturn void become_program(const struct run *run, char *const *argv, int report)
{
	int error;

	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &run->signals, NULL);
	execvp(argv[0], argv);
	error = errno;
	if (write(report, &error, sizeof error) != (ssize_t)sizeof error)
		_exit(CHAR_MAX);
	_exit(127);
}

static int start(const struct run *run, char *const *argv, pid_t *child, struct lh_error *error)
{
	int report[2], failure = set_environment(run, error);

	*child = -1;
	if (failure < 0)
		return failure;
	if (pipe2(report, O_CLOEXEC) < 0)
		return lh__fail(error, -errno, "cannot make a pipe: %s", lh__errno_name(errno));
	fflush(NULL);
	*child = fork();
	if (*child == 0)
		become_program(run, argv, report[1]);
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

static void show_progress(const struct run *run, uint64_t began)
{
	if (run->options->progress)
		run->options->progress(run->options->progress_context, run->control, now_ms() - began);
}

/*
 * Passes a signal that was sent to the launcher on to the program. Those of the terminal reach the program by
 * themselves.
 */
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

/* Waits for the program, and for the processes that it leaves behind: their memory is here. */
static int wait_for(const struct run *run, pid_t child, const sigset_t *signals, uint64_t began)
{
	struct timespec second = { .tv_sec = PROGRESS_MS / 1000 };
	bool running = true;
	int status = 125;

	while (reap(child, &running, &status)) {
		int number = sigtimedwait(signals, NULL, &second);

		if (number > 0)
			pass_on(number, child, running);
		else
			show_progress(run, began);
	}
	return status;
}

static void take_signals(sigset_t *signals, sigset_t *old)
{
	static const int taken[] = { SIGCHLD, SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 };

	sigemptyset(signals);
	for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
		sigaddset(signals, taken[i]);
	pthread_sigmask(SIG_BLOCK, signals, old);
}

static int run_program(struct run *run, char *const *argv, struct lh_run_result *result,
                       const sigset_t *signals, struct lh_error *error)
{
	uint64_t began = now_ms();
	pid_t child;
	int failure = start(run, argv, &child, error);

	if (failure < 0)
		return failure;
	result->status = wait_for(run, child, signals, began);
	result->milliseconds = now_ms() - began;
	if (lh__broker_failed(run->broker))
		result->status = 125;
	return 0;
}

int lh__run(const struct lh_run_options *options, char *const *argv, struct lh_run_result *result,
            struct lh_run_control *control, struct lh_error *error)
{
	struct run run = { .options = options, .control_fd = -1 };
	int failure = lh__run_check_program(argv[0], error);
	sigset_t signals;

	if (failure < 0)
		return failure;
	/* Before any thread is started, so that all of them have these blocked. */
	take_signals(&signals, &run.signals);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	failure = prepare(&run, error);
	if (failure == 0)
		failure = run_program(&run, argv, result, &signals, error);
	if (failure == 0)
		*control = *run.control;
	clean_up(&run);
	pthread_sigmask(SIG_SETMASK, &run.signals, NULL);
	return failure;
}
