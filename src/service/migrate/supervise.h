/*
 * supervise.h - a worker process and who watches over it.
 *
 * A sender that is killed between the guest's stop and GO would leave the guest standing still, and nobody
 * would know. So the work is done in a child, and its parent does what is left to do if the child dies.
 */
#ifndef LH_MIGRATE_SUPERVISE_H
#define LH_MIGRATE_SUPERVISE_H

#include "linehome.h"

struct lh_worker {
	/* In the child; its result is the child's exit status. It gets SIGTERM if its parent dies. */
	int (*work)(void *context);
	/*
	 * In the parent, when the child was killed by a signal: whether to start it again (1), or to end with
	 * this exit status (0: *status is set).
	 */
	int (*died)(void *context, int signal, int *status);
	void *context;
};

/*
 * Runs workers until all have ended, and returns the first exit status that is not 0, in their order. SIGINT,
 * SIGTERM and, where it is not ignored, SIGHUP that this process gets alone are passed on; what a terminal
 * sends reaches the children by itself. Before any thread is started.
 */
int lh__supervise(const struct lh_worker *worker, size_t n, struct lh_error *error) LH_MUST_CHECK;

#endif
