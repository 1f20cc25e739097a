/*
 * policy_s3fifo.c - S3-FIFO (Yang et al., SOSP 2023), with staging in the place of access bits.
 *
 * A page that comes in joins RECENT, a tenth of the frames. Untouched while it is staged from there, it
 * leaves, and is remembered for as many evictions as there are frames; if it comes back within that, it joins
 * MAIN, as does a page that returns from staging. So a scan washes through RECENT and leaves MAIN alone.
 */
#include "home/policy_queue.h"

static int s3fifo_open(const struct lh_sys *sys, size_t frames, struct lh_policy **out)
{
	static const struct policy_shape shape = {
		.recent_percent = 10,
		.ghost_percent = 100,
		.target_least_per_1024 = 4,
		.target_most_per_1024 = 32,
	};

	return lh__policy_open(&lh__policy_s3fifo, &shape, sys, frames, out);
}

static void filled(struct lh_policy *policy, uint32_t frame, uint64_t identity, enum lh_fill source)
{
	uint32_t touched;
	bool known;

	lh__policy_note_fill(policy, frame, identity, source);
	known = source == LH_FILL_STORE && lh__ghost_take(policy, identity, &touched);
	lh__policy_move(policy, frame, known ? Q_MAIN : Q_RECENT);
}

const struct lh_policy_ops lh__policy_s3fifo = {
	.name = "s3fifo",
	.summary = "new pages on probation in a tenth of the frames, with a memory of those that left",
	.open = s3fifo_open,
	.close = lh__policy_close,
	.filled = filled,
	.returned = lh__policy_returned,
	.removed = lh__policy_removed,
	.deactivate = lh__policy_deactivate,
	.reclaim = lh__policy_reclaim,
	.staging_target = lh__policy_target,
};
