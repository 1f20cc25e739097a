/*
 * slice.h - how a thread is scheduled: what sched_setattr takes.
 *
 * A thread that has little to do and is waited for asks for a short slice (runtime): then it runs as soon
 * as it wakes, and not when the slice of who runs there has ended. It gets no more time than others (Linux
 * 6.12; before, nothing changes).
 */
#ifndef LH_SYS_SLICE_H
#define LH_SYS_SLICE_H

#include <stdint.h>

#define LH_SLICE_NS 100000 /* the shortest that the kernel grants */

/* struct sched_attr of linux/sched/types.h, which cannot be included beside sched.h. */
struct lh_sched {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

#endif
