/*
 * run.h - the launcher: starts a program with an agent in it, and answers the agents' questions until the
 * last process that one of them lives in has ended.
 */
#ifndef LH_SERVICE_RUN_RUN_H
#define LH_SERVICE_RUN_RUN_H

#include <stdbool.h>

#include "linehome.h"
#include "service/run/protocol.h"

struct lh_run_options {
	const char *store; /* a node's URL; NULL: a node of this run's own */
	const char *key_file;
	uint64_t local; /* bytes; 0: no limit */
	unsigned engine, prefetch, timeout_ms;
	const char *policy; /* NULL: the default */
	const char *agent;  /* the agent's path; NULL: beside this program, or where it was installed */
	/* Called about once a second while the program runs; NULL: never. */
	void (*progress)(void *context, const struct lh_run_control *control, uint64_t milliseconds);
	void *progress_context;
};

struct lh_run_result {
	int status; /* as a shell has it: the program's, or 128 plus its signal; 125 where an agent failed */
	uint64_t milliseconds;
};

/*
 * Runs argv[0] with arguments argv. Messages of agents go to standard error. On success *result and *control
 * hold what happened. -ENOENT, -EACCES: the program was not found, or cannot be executed; other errors:
 * nothing was started. By one thread of a process once at a time: it forks, and waits for all children.
 */
int lh__run(const struct lh_run_options *options, char *const *argv, struct lh_run_result *result,
            struct lh_run_control *control, struct lh_error *error) LH_MUST_CHECK;

#endif
