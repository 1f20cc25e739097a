/*
 * measure.h - what a guest feels: how long its faults take, when it stood still, when it is back to full
 * speed.
 *
 * Figures, all exact for what they say (nanoseconds of CLOCK_MONOTONIC of this machine):
 *   latency   from when a fault was read to when who waits was woken, by cause: one histogram each, with 1/16
 *             relative resolution (powers of two in 16 steps), so percentiles are upper bounds within 6.25 %
 *   stalls    for each thread of the guest that waited: the union of its waits
 *   silence   from stopped (when the source says that the guest stopped, in this machine's clock) to the
 *             begin
 *             of the first window of 10 ms in which the guest ran and the vCPU that waited least waited for
 *             less than half of it
 *   recovery  from stopped to the begin of the first 200 ms in which all vCPUs together waited for less than
 *             a tenth, and did so in the second that begins there; not before silence has ended
 *
 * Windows begin when the guest runs, and every 10 ms from there. A wait is known when it has ended, so before
 * all is complete the last two figures may still become greater.
 *
 * What a guest waits for that is no page is not seen: an emulator that translates its code anew (TCG), a
 * processor that somebody else has. Nor is a fault seen before it has been read.
 */
#ifndef LH_MIGRATE_MEASURE_H
#define LH_MIGRATE_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "linehome.h"

enum lh_fault_cause {
	LH_FAULT_FAR,  /* the page had to come from the source */
	LH_FAULT_HERE, /* it was here, and only had to be shown */
	LH_FAULT_ZERO, /* it is zero */
	LH_FAULT_CAUSES
};

struct lh_measure;

int lh__measure_open(struct lh_measure **out) LH_MUST_CHECK;
/* The guest's vCPU threads; without them every thread that faults counts as one. Before it runs. */
void lh__measure_threads(struct lh_measure *measure, const pid_t *thread, size_t n);
void lh__measure_stopped(struct lh_measure *measure, uint64_t at); /* may be in the past */
void lh__measure_runs(struct lh_measure *measure, uint64_t at);
/* A fault, when it has been answered. Any thread. */
void lh__measure_fault(struct lh_measure *measure, enum lh_fault_cause cause, pid_t thread, uint64_t began,
                       uint64_t ended);
/* Everything is there; at the end. */
void lh__measure_complete(struct lh_measure *measure, uint64_t at);

struct lh_measured {
	uint64_t faults[LH_FAULT_CAUSES];
	uint64_t p50[LH_FAULT_CAUSES], p90[LH_FAULT_CAUSES], p99[LH_FAULT_CAUSES],
		max[LH_FAULT_CAUSES];          /* ns */
	uint64_t stalled;                      /* ns, of all threads together */
	uint64_t silence, recovery;            /* ns; UINT64_MAX: not reached */
	uint64_t stop_to_run, run_to_complete; /* ns; UINT64_MAX where not known */
	uint64_t faults_a_second;              /* in the last full second */
};
void lh__measure_read(struct lh_measure *measure, uint64_t now, struct lh_measured *out);
void lh__measure_close(struct lh_measure *measure);

#endif
