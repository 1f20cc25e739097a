/*
 * engine_pace.h - how fast the background may ask: a bucket of bytes that all lanes share, and each lane's
 * window of pages on their way. Without clock and threads of their own; times are ns.
 */
#ifndef LH_MIGRATE_ENGINE_PACE_H
#define LH_MIGRATE_ENGINE_PACE_H

#include <stddef.h>
#include <stdint.h>

/*
 * What comes in T seconds is at most what the rate allows in T + 0.02 s of background, T + 0.045 s with what
 * was borrowed for predictions, and faults, which nothing holds up; for up to 0.25 s they are made up for.
 */
struct lh_bucket {
	double rate, page; /* bytes a ns, 0: no limit; bytes */
	double tokens;     /* bytes that may be asked for now; below 0: were asked for beforehand */
	uint64_t filled;   /* when; 0: never */
};

/* How many pages of `wanted` may be asked for now; *wait gets the ns until it is worth asking again. */
size_t lh__bucket_allow(struct lh_bucket *bucket, uint64_t now, size_t wanted, uint64_t *wait);
/* How many more may be asked for, since somebody is likely to wait for them. */
size_t lh__bucket_borrow(struct lh_bucket *bucket, uint64_t now, size_t wanted);
/* Bytes that came: `reserved` of them had been asked leave for. */
void lh__bucket_spend(struct lh_bucket *bucket, uint64_t reserved, uint64_t bytes);

#define LH_WINDOW_MIN 64u
#define LH_WINDOW_MAX 512u

struct lh_window {
	unsigned pages;
	uint64_t quickest; /* from asking to the answer, seen so far; 0: none seen */
	uint64_t slowed;   /* when it was made smaller */
};

void lh__window_reset(struct lh_window *window);
/* An answer has come that was asked for `took` ago. */
void lh__window_fit(struct lh_window *window, uint64_t now, uint64_t took);

#endif
