/* run.c - see run.h. */
#include "service/run/run.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "service/launch/launch.h"
#include "service/run/broker.h"
#include "service/serve/server.h"
#include "sys/sys.h"

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
	int result =
		lh__launch_agent(run->options->agent, "liblinehome-run.so", LH_AGENT_PATH, run->agent, error);

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

static int start(const struct run *run, char *const *argv, pid_t *child, struct lh_error *error)
{
	int result = lh__launch_preload(run->agent, error);

	if (result == 0 && setenv(LH_RUN_ENVIRONMENT, lh__broker_name(run->broker), 1) < 0)
		result = lh__fail(error, -ENOMEM, "no memory for the program's environment");
	return result < 0 ? result : lh__launch_start(argv, &run->signals, child, error);
}

/* What is shown once a second. */
struct progress {
	const struct run *run;
	uint64_t began;
};

static void show_progress(void *context)
{
	const struct progress *progress = context;
	const struct run *run = progress->run;

	if (run->options->progress)
		run->options->progress(run->options->progress_context, run->control,
		                       now_ms() - progress->began);
}

static int run_program(struct run *run, char *const *argv, struct lh_run_result *result,
                       const sigset_t *signals, struct lh_error *error)
{
	uint64_t began = now_ms();
	struct progress progress = { run, began };
	pid_t child;
	int failure = start(run, argv, &child, error);

	if (failure < 0)
		return failure;
	/* And for the processes that it leaves behind: their memory is here. */
	result->status = lh__launch_wait(child, signals, show_progress, &progress);
	result->milliseconds = now_ms() - began;
	if (lh__broker_failed(run->broker))
		result->status = 125;
	return 0;
}

int lh__run(const struct lh_run_options *options, char *const *argv, struct lh_run_result *result,
            struct lh_run_control *control, struct lh_error *error)
{
	struct run run = { .options = options, .control_fd = -1 };
	int failure = lh__launch_check(argv[0], error);
	sigset_t signals;

	if (failure < 0)
		return failure;
	/* Before any thread is started, so that all of them have these blocked. */
	lh__launch_signals(&signals, &run.signals);
	failure = prepare(&run, error);
	if (failure == 0)
		failure = run_program(&run, argv, result, &signals, error);
	if (failure == 0)
		*control = *run.control;
	clean_up(&run);
	pthread_sigmask(SIG_SETMASK, &run.signals, NULL);
	return failure;
}
