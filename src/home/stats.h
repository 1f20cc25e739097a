/*
 * stats.h - what the home counts. Every field is a total since the start, changed with atomic additions, so that
 * several processes can count into one page of shared memory, and read at any time.
 */
#ifndef LH_STATS_H
#define LH_STATS_H

#include <stdint.h>

/* Latencies in a histogram of relative precision 1/8: see lh__latency_bucket. */
#define LH_LATENCY_BUCKETS 320

struct lh_stats {
	uint64_t faults_zero;         /* pages answered with zeroes because nothing was known of them */
	uint64_t faults_staging;      /* answered from staging, without the store (refaults) */
	uint64_t faults_store;        /* answered by a fetch from the store */
	uint64_t faults_present;      /* found present: another thread had been faster */
	uint64_t faults_prefetched;   /* of faults that waited for, or found, a prefetch in flight */
	uint64_t pages_fetched;       /* by faults and by prefetch together */
	uint64_t lines_fetched;       /* lines that the store held of them */
	uint64_t pages_prefetched;    /* asked for before they were touched */
	uint64_t pages_zero_ahead;    /* zero pages supplied before they were touched */
	uint64_t pages_deactivated;   /* taken from the program's sight to staging */
	uint64_t pages_reclaimed;     /* evictions: left local memory */
	uint64_t pages_dropped_clean; /* of these: nothing had changed, nothing was sent */
	uint64_t pages_dropped_zero;  /* of these: all zero, nothing was sent */
	uint64_t pages_written;       /* of these: lines were sent */
	uint64_t lines_written;       /* lines sent to the store */
	uint64_t regions_written; /* 2 MiB regions that had a page written, once for each batch of reclaim */
	uint64_t busy_retries;    /* pages that the kernel would not let go at that moment */
	uint64_t stalls;          /* faults that found no free frame */
	uint64_t stall_ns;        /* time that they waited for one */
	uint64_t residence_ns;    /* sum over written pages of the time since they had come in */
	uint64_t forks;           /* children that got a snapshot */
	uint64_t latency_ns;      /* sum over fetches by faults of the store's answer time */
	uint64_t latency[LH_LATENCY_BUCKETS];
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
