/* policy_queue.h - what the policies share: frames in queues, and a memory of pages that have left. */
#ifndef LH_HOME_POLICY_QUEUE_H
#define LH_HOME_POLICY_QUEUE_H

#include <stdbool.h>

#include "home/policy.h"

#define NO_FRAME UINT32_MAX

/* Where a frame is. RECENT and MAIN are resident; a policy that needs only one of them uses MAIN. */
enum queue_name { Q_FREE, Q_RECENT, Q_MAIN, Q_STAGED, Q_COUNT };

struct frame {
	uint64_t identity;
	uint32_t next, prev; /* in its queue; next: towards the younger end */
	uint32_t touched;    /* the clock when it was last known to be touched */
	uint8_t queue;       /* enum queue_name */
	uint8_t from;        /* while staged: the queue that it came from */
	uint8_t earned;      /* it will be passed over once when its turn to be staged comes */
	uint8_t unused;
};

/* FREE has a count but no order: its ends stay NO_FRAME. */
struct queue {
	uint32_t oldest, youngest;
	size_t count;
};

/* Eight pages that have left: one cache line. Used slots come first. */
#define GHOST_WAYS 8
struct ghost_bucket {
	uint32_t tag[GHOST_WAYS];     /* a hash of the identity; it leads to this bucket; 0: empty */
	uint32_t touched[GHOST_WAYS]; /* the clock when the page was last known to be touched */
};

struct lh_policy {
	const struct lh_policy_ops *ops;
	const struct lh_sys *sys;
	size_t frames;
	struct frame *frame;
	struct queue queue[Q_COUNT];
	uint32_t clock;             /* counts fills; ages are differences of it, modulo 2^32 */
	size_t recent_share;        /* frames that RECENT keeps while MAIN gives up its own */
	struct ghost_bucket *ghost; /* NULL: pages that have left are forgotten */
	size_t ghost_buckets;
	size_t target;                    /* frames to be staged */
	size_t target_least, target_most; /* its bounds */
	size_t fills, fetches, returns;   /* since it was last reconsidered */
};

/* What makes one policy different from another when it is opened. */
struct policy_shape {
	unsigned recent_percent;        /* of the frames */
	unsigned ghost_percent;         /* pages remembered, of the frames; 0: none */
	unsigned target_least_per_1024; /* of the frames */
	unsigned target_most_per_1024;
};

int lh__policy_open(const struct lh_policy_ops *ops, const struct policy_shape *shape,
                    const struct lh_sys *sys, size_t frames, struct lh_policy **out) LH_MUST_CHECK;
void lh__policy_close(struct lh_policy *policy);

/* Moves a frame to the younger end of a queue. */
void lh__policy_move(struct lh_policy *policy, uint32_t index, enum queue_name to);
/* Notes what is known of a frame that is being filled; the policy then moves it. */
void lh__policy_note_fill(struct lh_policy *policy, uint32_t index, uint64_t identity, enum lh_fill source);

/* Ready-made slots. */
void lh__policy_removed(struct lh_policy *policy, uint32_t index);
/* To the younger end of MAIN; a frame that was in MAIN before has earned to be passed over once. */
void lh__policy_returned(struct lh_policy *policy, uint32_t index);
/* Stages the oldest of RECENT while that has more than its share, else of MAIN what has earned nothing. */
size_t lh__policy_deactivate(struct lh_policy *policy, uint32_t *out, size_t max);
/* The frames staged first; their pages are remembered. */
size_t lh__policy_reclaim(struct lh_policy *policy, uint32_t *out, size_t max);
size_t lh__policy_target(const struct lh_policy *policy);

/* Whether the page is remembered. If so it is forgotten, and *touched is its last known touch. */
bool lh__ghost_take(struct lh_policy *policy, uint64_t identity, uint32_t *touched);
void lh__ghost_put(struct lh_policy *policy, uint64_t identity, uint32_t touched);
/* The bucket that a tag leads to. */
static inline size_t lh__ghost_bucket(const struct lh_policy *policy, uint32_t tag)
{
	return (size_t)((uint64_t)tag * policy->ghost_buckets >> 32);
}

extern const struct lh_policy_ops lh__policy_reuse, lh__policy_s3fifo, lh__policy_second, lh__policy_fifo;

#endif
