/*
 * safe.h - a moment at which code can be changed: no thread stands inside what changes, nor returns into it.
 *
 * "Inside" means behind the first byte: who stands at the very start of a range runs what is written there
 * as a whole, before or after. Looked at are the instruction pointer of each thread and every word of its
 * stack, from the stack pointer up to the end of the mapping (that is how a signal's frame is seen, too), and
 * of the stack that the handler of a signal has left for its own. A word that could be such an address counts
 * as one: this can only make us wait for nothing. The stack of a coroutine that nobody runs is not seen, so a
 * range should not contain a call but as its last instruction.
 */
#ifndef LH_SERVICE_CODE_SAFE_H
#define LH_SERVICE_CODE_SAFE_H

#include "service/code/remote.h"

struct lh_safe_range {
	uint64_t start, end; /* who is at an address with start < address < end is in the way */
};

struct lh_safe_obstacle {
	pid_t thread;
	uint64_t address; /* inside a range */
	bool on_stack;    /* it is a word of the thread's stack, else its instruction pointer */
};

struct lh_safe_tally {
	unsigned threads, attempts; /* threads of the last attempt */
	uint64_t stopped_ns;        /* the longest time of an attempt that failed */
};

/* Of stopped threads: 0 nobody is in the way, 1 *obstacle is (it may be NULL), or a negative errno. */
int lh__safe_point(struct lh_remote *remote, const struct lh_safe_range *range, size_t n,
                   struct lh_safe_obstacle *obstacle) LH_MUST_CHECK;
/*
 * Stops all threads at such a moment: lets them go on and tries again while there are obstacles, for
 * wait_ms at most (once at least). tally is added to. -EBUSY: the time is over, the text says who was in the
 * way; -EINTR, unless it is to go on: a signal that is to end us waits, since it is blocked; else as
 * lh__remote_stop.
 */
int lh__safe_stop(pid_t process, const struct lh_safe_range *range, size_t n, unsigned wait_ms, bool go_on,
                  struct lh_remote **out, struct lh_safe_tally *tally, struct lh_error *error) LH_MUST_CHECK;

#endif
