/*
 * stats.h - what the home counts. Every field is a total since the start, changed with atomic additions, so
 * that several processes can count into one page of shared memory, and read at any time.
 *
 * What holds between them while nothing is going on (tests/home_stats.c):
 *
 *   misses of watched memory = faults_zero + faults_staging + faults_store + faults_prefetched
 *                              + faults_present
 *   pages that were new      = faults_zero + pages_zero_ahead (and those that were present at first)
 *   pages_fetched            = faults_store + prefetches that have come back
 *   pages_reclaimed          = pages_dropped_clean + pages_dropped_zero + pages_written - pages_stayed
 *
 * What is written back. A put counts when the store has acknowledged it, with all that is said of it, so
 * lines, bytes, pages and blocks are always of the same puts. bytes_changed is what the stores say (struct
 * lh_request). By it and the others one sees what a system would write that tells changes at another
 * granularity:
 *
 *   64 B     lines_written   64 for each line of which at least one byte had changed
 *   4 KiB    pages_written   4096 for each put, for it is of one page and has at least one such line
 *   2 MiB    blocks_written  2 MiB for each block (aligned) of the address space and each *turnover* in which
 *                            a page of it was put. A turnover ends when as many pages have been reclaimed as
 *                            there may be frames in use: local memory has been exchanged once. A system with
 *                            the same local memory, in pages of 2 MiB, would write a dirty one each time it
 *                            leaves; one that leaves once in a turnover leaves as often as local memory is
 *                            exchanged. So this is no upper bound: where few pages of 2 MiB fit, they are
 *                            exchanged more often.
 */
#ifndef LH_STATS_H
#define LH_STATS_H

#include <stdint.h>

/* Latencies in a histogram of relative precision 1/8: see lh__latency_bucket. */
#define LH_LATENCY_BUCKETS 320

struct lh_stats {
	/* Faults, each counted once, by how it ended. */
	uint64_t faults_zero;         /* with zeroes: nothing was known of the page, or it had been dropped */
	uint64_t faults_staging;      /* from staging, without the store (refaults) */
	uint64_t faults_store;        /* by a fetch from the store */
	uint64_t faults_prefetched;   /* by a prefetch that was on its way, which the fault waited for */
	uint64_t faults_present;      /* nothing was to be done: another thread had been faster */
	uint64_t pages_fetched;       /* by faults and by prefetch together */
	uint64_t lines_fetched;       /* lines that the store held of them */
	uint64_t pages_prefetched;    /* asked for before they were touched */
	uint64_t pages_zero_ahead;    /* zero pages supplied before they were touched */
	uint64_t pages_deactivated;   /* taken from the program's sight to staging */
	uint64_t pages_reclaimed;     /* evictions: left local memory */
	uint64_t pages_dropped_clean; /* of these: as the store last had it, nothing was sent */
	uint64_t pages_dropped_zero;  /* of these: all zero, nothing was sent but word to forget it */
	uint64_t pages_written;       /* puts of a page's changed lines that were acknowledged */
	uint64_t pages_stayed; /* of these: the page did not leave by it, since somebody had come to use it */
	uint64_t lines_written;  /* that these puts had */
	uint64_t bytes_changed;  /* that they changed in the store */
	uint64_t blocks_written; /* of 2 MiB that they lay in, each counted once a turnover */
	uint64_t residence_ns;   /* sum over these puts of the time since the page had come in */
	uint64_t busy_retries;   /* pages that stayed resident: in use by the kernel or a thread */
	uint64_t stalls;         /* faults that found no free frame */
	uint64_t stall_ns;       /* time that they waited for one */
	uint64_t forks;          /* children that got a snapshot */
	uint64_t latency_ns;     /* sum over fetches by faults of the store's answer time */
	uint64_t latency[LH_LATENCY_BUCKETS]; /* these fetches: their number by answer time */
};

/*
 * The bucket of a latency: the position of the highest bit and the next three, so that bucket b covers
 * [lh__latency_floor(b), lh__latency_floor(b + 1)).
 */
static inline unsigned lh__latency_bucket(uint64_t ns)
{
	unsigned high;

	if (ns < 8)
		return (unsigned)ns;
	high = 63u - (unsigned)__builtin_clzll(ns);
	high = (high - 2) * 8 + (unsigned)(ns >> (high - 3) & 7);
	return high < LH_LATENCY_BUCKETS ? high : LH_LATENCY_BUCKETS - 1;
}

static inline uint64_t lh__latency_floor(unsigned bucket)
{
	return bucket < 8 ? bucket : (uint64_t)(8 + bucket % 8) << (bucket / 8 - 1);
}

static inline void lh__count(uint64_t *counter, uint64_t amount)
{
	__atomic_add_fetch(counter, amount, __ATOMIC_RELAXED);
}

#endif
