/*
 * policy_fifo.c - the two policies with one queue.
 *
 * fifo: pages leave in the order in which they came. Staging is as small as a batch, so that next to nothing
 *       is learnt there and next to nothing is spent; a page that does return counts as one that came now.
 * second: staging is large enough to look, and a staged page that returns has earned that it is passed over
 *       once when its turn comes again. So a page in constant use costs one return in two rounds, and a page
 *       that was not touched while it was staged is gone after one. (Segmented FIFO, Turner and Levy 1981,
 *       with the second chance given in advance.)
 */
#include "home/policy_queue.h"

static void filled(struct lh_policy *policy, uint32_t frame, uint64_t identity, enum lh_fill source)
{
	lh__policy_note_fill(policy, frame, identity, source);
	lh__policy_move(policy, frame, Q_MAIN);
}

/* ---- fifo ---- */

static int fifo_open(const struct lh_sys *sys, size_t frames, struct lh_policy **out)
{
	static const struct policy_shape shape = { .target_least_per_1024 = 4, .target_most_per_1024 = 4 };

	return lh__policy_open(&lh__policy_fifo, &shape, sys, frames, out);
}

static void fifo_returned(struct lh_policy *policy, uint32_t frame)
{
	lh__policy_returned(policy, frame);
	policy->frame[frame].earned = 0;
}

const struct lh_policy_ops lh__policy_fifo = {
	.name = "fifo",
	.summary = "pages leave in the order in which they came",
	.open = fifo_open,
	.close = lh__policy_close,
	.filled = filled,
	.returned = fifo_returned,
	.removed = lh__policy_removed,
	.deactivate = lh__policy_deactivate,
	.reclaim = lh__policy_reclaim,
	.staging_target = lh__policy_target,
};

/* ---- second ---- */

static int second_open(const struct lh_sys *sys, size_t frames, struct lh_policy **out)
{
	static const struct policy_shape shape = { .target_least_per_1024 = 4, .target_most_per_1024 = 32 };

	return lh__policy_open(&lh__policy_second, &shape, sys, frames, out);
}

const struct lh_policy_ops lh__policy_second = {
	.name = "second",
	.summary = "as fifo, but a page that returns from staging earns another round",
	.open = second_open,
	.close = lh__policy_close,
	.filled = filled,
	.returned = lh__policy_returned,
	.removed = lh__policy_removed,
	.deactivate = lh__policy_deactivate,
	.reclaim = lh__policy_reclaim,
	.staging_target = lh__policy_target,
};
