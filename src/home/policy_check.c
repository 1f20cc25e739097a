/*
 * policy_check.c - the invariants of a policy.
 *
 *  1. Every frame names one queue, and is met once when that queue is walked from its oldest end.
 *  2. The links agree in both directions, and the walk ends at the youngest end.
 *  3. Each queue's count is the number of frames that name it; so the counts add up to the frames.
 *  4. A staged frame came from a resident queue.
 *  5. Only a frame in MAIN has earned to be passed over.
 *  6. The staging target lies within its bounds, and these within 1 and half of the frames.
 *  7. Used slots of a ghost bucket come first, and each tag leads to the bucket that it is in, once.
 */
#include "home/policy_queue.h"

#include <errno.h>

static int broken(struct lh_error *error, int invariant, const char *what, size_t where)
{
	return lh__fail(error, -EUCLEAN, "eviction policy: invariant %d: %s (%zu)", invariant, what, where);
}

/* 4, 5, and the number of frames that name each queue. */
static int check_frames(const struct lh_policy *policy, size_t named[Q_COUNT], struct lh_error *error)
{
	size_t i;

	for (i = 0; i < policy->frames; i++) {
		const struct frame *f = &policy->frame[i];
		if (f->queue >= Q_COUNT)
			return broken(error, 1, "a frame in no queue", i);
		if (f->queue == Q_STAGED && f->from != Q_RECENT && f->from != Q_MAIN)
			return broken(error, 4, "staged from nowhere", i);
		if (f->earned && f->queue != Q_MAIN)
			return broken(error, 5, "earned outside the main queue", i);
		named[f->queue]++;
	}
	return 0;
}

/* 1, 2. Links that agree both ways and end at no frame cannot meet a frame twice. */
static int check_walk(const struct lh_policy *policy, enum queue_name name, struct lh_error *error)
{
	uint32_t at = policy->queue[name].oldest, before = NO_FRAME;
	size_t met;

	for (met = 0; at != NO_FRAME && met < policy->queue[name].count; met++) {
		if (at >= policy->frames || policy->frame[at].queue != name)
			return broken(error, 1, "a queue leads to a frame that is not in it", at);
		if (policy->frame[at].prev != before)
			return broken(error, 2, "links disagree", at);
		before = at;
		at = policy->frame[at].next;
	}
	if (at != NO_FRAME || before != policy->queue[name].youngest)
		return broken(error, 2, "a queue does not end at its end", name);
	if (met != policy->queue[name].count)
		return broken(error, 3, "a queue is shorter than its count", name);
	return 0;
}

/* 7, of one bucket. */
static int check_bucket(const struct lh_policy *policy, size_t index, struct lh_error *error)
{
	const struct ghost_bucket *bucket = &policy->ghost[index];
	unsigned i, k;

	for (i = 0; i < GHOST_WAYS; i++) {
		if (!bucket->tag[i])
			continue;
		if (i && !bucket->tag[i - 1])
			return broken(error, 7, "a gap in a ghost bucket", index);
		if (lh__ghost_bucket(policy, bucket->tag[i]) != index)
			return broken(error, 7, "a ghost in the wrong bucket", index);
		for (k = 0; k < i; k++)
			if (bucket->tag[k] == bucket->tag[i])
				return broken(error, 7, "a ghost twice", index);
	}
	return 0;
}

int lh__policy_check(const struct lh_policy *policy, struct lh_error *error)
{
	size_t named[Q_COUNT] = { 0 }, i;
	int name, result = check_frames(policy, named, error);

	for (name = 0; result == 0 && name < Q_COUNT; name++) {
		if (named[name] != policy->queue[name].count)
			return broken(error, 3, "a queue's count is wrong", (size_t)name);
		if (name != Q_FREE)
			result = check_walk(policy, (enum queue_name)name, error);
	}
	if (result == 0 && (policy->target_least < 1 || policy->target < policy->target_least ||
	                    policy->target > policy->target_most || policy->target_most > policy->frames / 2))
		return broken(error, 6, "the staging target is out of bounds", policy->target);
	for (i = 0; result == 0 && policy->ghost && i < policy->ghost_buckets; i++)
		result = check_bucket(policy, i, error);
	return result;
}
