/*
 * policy_reuse.c - the default: pages earn their place by the distance at which they were used again.
 *
 * Two queues as in S3-FIFO: a page comes in to RECENT, a twentieth of the frames, and must show that it is
 * worth one of the others, in MAIN. But coming back is not enough, since in a loop over more than fits every
 * page comes back, and each would push out one that is as good. What is asked is whether the page came back
 * *soon*: its distance (fills between its last known touch and now) must be less than half the time for which
 * the oldest page of MAIN has shown no sign of use. As in LIRS and CLOCK-Pro, the newcomer's distance is
 * compared with the incumbent's; half, because the incumbent may have been touched since, unseen.
 *
 * Example: MAIN's oldest page was last known to be touched 1000 fills ago. Page A was touched 300 fills ago,
 * evicted, and is fetched now: 2 * 300 < 1000, A joins MAIN, whose oldest will be staged next (and stays if
 * it proves to be in use). Page B comes back after 900: B joins RECENT, and leaves soon if it is not touched.
 *
 * In a loop over twice the frames distances are equal all round, so few pages are exchanged, and those in
 * MAIN are hit, unseen and at no cost, once a round, where FIFO and LRU hit nothing.
 *
 * What it costs in memory: 8 bytes for each remembered page, three for four frames. More would find longer
 * loops, and judge the rest a little worse; docs/eviction.md has the figures.
 */
#include "home/policy_queue.h"

static int reuse_open(const struct lh_sys *sys, size_t frames, struct lh_policy **out)
{
	static const struct policy_shape shape = {
		.recent_percent = 5,
		.ghost_percent = 75,
		.target_least_per_1024 = 4,
		.target_most_per_1024 = 32,
	};

	return lh__policy_open(&lh__policy_reuse, &shape, sys, frames, out);
}

/* Whether a page last touched at that time has a better claim than the oldest of MAIN. */
static bool came_back_soon(const struct lh_policy *policy, uint32_t touched)
{
	uint32_t oldest = policy->queue[Q_MAIN].oldest;
	uint32_t distance = policy->clock - touched;

	return oldest == NO_FRAME || distance < (policy->clock - policy->frame[oldest].touched) / 2;
}

static void filled(struct lh_policy *policy, uint32_t frame, uint64_t identity, enum lh_fill source)
{
	uint32_t touched;
	bool soon = false;

	lh__policy_note_fill(policy, frame, identity, source);
	if (source == LH_FILL_STORE && lh__ghost_take(policy, identity, &touched))
		soon = came_back_soon(policy, touched);
	lh__policy_move(policy, frame, soon ? Q_MAIN : Q_RECENT);
}

const struct lh_policy_ops lh__policy_reuse = {
	.name = "reuse",
	.summary = "pages that were used again soon stay; the others pass through a twentieth of the frames",
	.open = reuse_open,
	.close = lh__policy_close,
	.filled = filled,
	.returned = lh__policy_returned,
	.removed = lh__policy_removed,
	.deactivate = lh__policy_deactivate,
	.reclaim = lh__policy_reclaim,
	.staging_target = lh__policy_target,
};
