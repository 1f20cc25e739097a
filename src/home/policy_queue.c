/* policy_queue.c - queues of frames and the memory of pages that have left; see policy_queue.h. */
#include "home/policy_queue.h"

#include <errno.h>

/* ---- queues ---- */

static void unlink_frame(struct lh_policy *policy, uint32_t index)
{
	struct frame *f = &policy->frame[index];
	struct queue *queue = &policy->queue[f->queue];

	queue->count--;
	if (f->queue == Q_FREE)
		return;
	if (f->prev == NO_FRAME)
		queue->oldest = f->next;
	else
		policy->frame[f->prev].next = f->next;
	if (f->next == NO_FRAME)
		queue->youngest = f->prev;
	else
		policy->frame[f->next].prev = f->prev;
}

void lh__policy_move(struct lh_policy *policy, uint32_t index, enum queue_name to)
{
	struct frame *f = &policy->frame[index];
	struct queue *queue = &policy->queue[to];

	unlink_frame(policy, index);
	f->queue = (uint8_t)to;
	queue->count++;
	if (to == Q_FREE)
		return;
	f->next = NO_FRAME;
	f->prev = queue->youngest;
	if (queue->youngest == NO_FRAME)
		queue->oldest = index;
	else
		policy->frame[queue->youngest].next = index;
	queue->youngest = index;
}

size_t lh__policy_resident(const struct lh_policy *policy)
{
	return policy->queue[Q_RECENT].count + policy->queue[Q_MAIN].count;
}

size_t lh__policy_staged(const struct lh_policy *policy)
{
	return policy->queue[Q_STAGED].count;
}

/* ---- how much is staged ---- */

/*
 * What is learnt in staging is paid for with returns, what is not learnt with fetches. Reconsidered once in
 * frames / 32 fills: more than one return for four fetches, and looking costs more than it can save: stage
 * less; fewer than one for eight: look at more.
 */
static void reconsider_target(struct lh_policy *policy)
{
	if (++policy->fills <= policy->frames / 32)
		return;
	if (policy->returns * 4 > policy->fetches)
		policy->target -= policy->target / 4;
	else if (policy->returns * 8 < policy->fetches)
		policy->target += policy->target / 8 + 1;
	if (policy->target < policy->target_least)
		policy->target = policy->target_least;
	if (policy->target > policy->target_most)
		policy->target = policy->target_most;
	policy->fills = policy->fetches = policy->returns = 0;
}

size_t lh__policy_target(const struct lh_policy *policy)
{
	return policy->target;
}

/* ---- slots ---- */

void lh__policy_note_fill(struct lh_policy *policy, uint32_t index, uint64_t identity, enum lh_fill source)
{
	struct frame *f = &policy->frame[index];

	policy->clock++;
	policy->fetches += source == LH_FILL_STORE;
	reconsider_target(policy);
	f->identity = identity;
	f->touched = policy->clock;
}

void lh__policy_removed(struct lh_policy *policy, uint32_t index)
{
	policy->frame[index].earned = 0;
	lh__policy_move(policy, index, Q_FREE);
}

void lh__policy_returned(struct lh_policy *policy, uint32_t index)
{
	struct frame *f = &policy->frame[index];

	policy->returns++;
	f->touched = policy->clock;
	f->earned = f->from == Q_MAIN;
	lh__policy_move(policy, index, Q_MAIN);
}

/* Passing over is paid for: each frame that is passed over has returned once for it. */
size_t lh__policy_deactivate(struct lh_policy *policy, uint32_t *out, size_t max)
{
	struct queue *recent = &policy->queue[Q_RECENT], *main = &policy->queue[Q_MAIN];
	size_t n = 0;

	while (n < max && recent->count + main->count) {
		bool from_recent = recent->count > policy->recent_share || !main->count;
		uint32_t index = from_recent ? recent->oldest : main->oldest;
		if (policy->frame[index].earned) {
			policy->frame[index].earned = 0;
			lh__policy_move(policy, index, Q_MAIN);
			continue;
		}
		policy->frame[index].from = policy->frame[index].queue;
		lh__policy_move(policy, index, Q_STAGED);
		out[n++] = index;
	}
	return n;
}

size_t lh__policy_reclaim(struct lh_policy *policy, uint32_t *out, size_t max)
{
	size_t n;

	for (n = 0; n < max && policy->queue[Q_STAGED].count; n++) {
		out[n] = policy->queue[Q_STAGED].oldest;
		lh__ghost_put(policy, policy->frame[out[n]].identity, policy->frame[out[n]].touched);
		lh__policy_move(policy, out[n], Q_FREE);
	}
	return n;
}

/* ---- pages that have left ---- */

static uint32_t tag_of(uint64_t identity)
{
	identity = (identity ^ identity >> 32) * UINT64_C(0xd6e8feb86659fd93);
	identity = (identity ^ identity >> 32) * UINT64_C(0xd6e8feb86659fd93);
	return (uint32_t)(identity >> 32) | 1;
}

/* Into an empty slot of its bucket, or in the place of the page touched longest ago. */
void lh__ghost_put(struct lh_policy *policy, uint64_t identity, uint32_t touched)
{
	uint32_t tag = tag_of(identity);
	struct ghost_bucket *bucket;
	unsigned i, place = 0;

	if (!policy->ghost)
		return;
	bucket = &policy->ghost[lh__ghost_bucket(policy, tag)];
	for (i = 0; i < GHOST_WAYS && bucket->tag[i] && bucket->tag[i] != tag; i++)
		if (policy->clock - bucket->touched[i] > policy->clock - bucket->touched[place])
			place = i;
	if (i < GHOST_WAYS)
		place = i;
	bucket->tag[place] = tag;
	bucket->touched[place] = touched;
}

bool lh__ghost_take(struct lh_policy *policy, uint64_t identity, uint32_t *touched)
{
	uint32_t tag = tag_of(identity);
	struct ghost_bucket *bucket;
	unsigned i, last;

	if (!policy->ghost)
		return false;
	bucket = &policy->ghost[lh__ghost_bucket(policy, tag)];
	for (i = 0; i < GHOST_WAYS && bucket->tag[i] != tag; i++)
		;
	if (i == GHOST_WAYS)
		return false;
	*touched = bucket->touched[i];
	for (last = i; last + 1 < GHOST_WAYS && bucket->tag[last + 1]; last++)
		;
	bucket->tag[i] = bucket->tag[last];
	bucket->touched[i] = bucket->touched[last];
	bucket->tag[last] = 0;
	return true;
}

/* ---- opening ---- */

void lh__policy_close(struct lh_policy *policy)
{
	if (!policy)
		return;
	lh__free(policy->sys, policy->ghost, policy->ghost_buckets * sizeof *policy->ghost);
	lh__free(policy->sys, policy->frame, policy->frames * sizeof *policy->frame);
	lh__free(policy->sys, policy, sizeof *policy);
}

static void start(struct lh_policy *policy, const struct policy_shape *shape, size_t frames)
{
	int i;

	policy->frames = frames;
	for (i = 0; i < Q_COUNT; i++)
		policy->queue[i] = (struct queue){ .oldest = NO_FRAME, .youngest = NO_FRAME };
	policy->queue[Q_FREE].count = frames;
	policy->recent_share = frames * shape->recent_percent / 100;
	policy->target_least = frames * shape->target_least_per_1024 / 1024 + 1;
	policy->target_most = frames * shape->target_most_per_1024 / 1024 + 1;
	policy->target = (policy->target_least + policy->target_most) / 2;
	if (shape->ghost_percent)
		policy->ghost_buckets = frames * shape->ghost_percent / 100 / GHOST_WAYS + 1;
}

int lh__policy_open(const struct lh_policy_ops *ops, const struct policy_shape *shape,
                    const struct lh_sys *sys, size_t frames, struct lh_policy **out)
{
	struct lh_policy *policy;

	if (frames < LH_POLICY_FRAMES_MIN || frames > LH_POLICY_FRAMES_MAX)
		return -EINVAL;
	policy = lh__alloc(sys, sizeof *policy);
	if (!policy)
		return -ENOMEM;
	policy->ops = ops;
	policy->sys = sys;
	start(policy, shape, frames);
	policy->frame = lh__alloc(sys, frames * sizeof *policy->frame);
	if (policy->ghost_buckets)
		policy->ghost = lh__alloc(sys, policy->ghost_buckets * sizeof *policy->ghost);
	if (!policy->frame || (policy->ghost_buckets && !policy->ghost)) {
		lh__policy_close(policy);
		return -ENOMEM;
	}
	*out = policy;
	return 0;
}
