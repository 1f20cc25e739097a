/*
 * inject.h - how the inside agent (port/code/inside.h) gets into a stopped process, and out of it again.
 *
 * The agent, what it is started with and a stack for its start and stop are one mapping. It can be found
 * again in any process by its code, which is the same everywhere, so nobody has to remember where it is: a
 * fork's child has it at the same place.
 */
#ifndef LH_SERVICE_CODE_INJECT_H
#define LH_SERVICE_CODE_INJECT_H

#include "port/code/inside.h"
#include "service/code/remote.h"

/* Answers what the agent asks while it starts or stops. */
struct lh_inject_broker {
	int readable;
	void (*serve)(void *context);
	void *context;
};

/*
 * Loads and starts an agent. start: name, granularity and launched are to be filled in. On failure the
 * process is as it was.
 */
int lh__inject(struct lh_remote *remote, const struct lh_inside_start *start,
               const struct lh_inject_broker *broker, struct lh_error *error) LH_MUST_CHECK;

/* The agent of a process, by the name of its watcher; false: there is none. */
bool lh__inject_find(pid_t process, char name[104]);

/*
 * Has the agent stop and takes it out. -EAGAIN: a thread stands in it now; nothing has changed, let go and
 * try again. With force, what stands in it stays able to go on there: the agent's memory is left, *left is
 * set.
 */
int lh__inject_leave(struct lh_remote *remote, bool force, const struct lh_inject_broker *broker, bool *left,
                     struct lh_error *error) LH_MUST_CHECK;

#endif
