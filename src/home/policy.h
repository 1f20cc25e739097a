/*
 * policy.h - the eviction policy: which frames lose their pages when local memory is full.
 *
 * Words. A *frame* is one of the N pages of local memory that a pager may use, numbered 0 .. N-1. A frame is
 * *free* (the policy does not know it), *resident* (the program reaches its page without a fault) or
 * *staged* (its page has been moved out of the program's sight, but is still local).
 *
 *              filled                deactivate               reclaim
 *     free ------------> resident ----------------> staged -------------> free
 *                            ^                         |
 *                            +-------- returned -------+        removed: resident or staged -> free
 *
 * What a policy can know. The pager sees no accessed bits. It learns of a touch only through a fault: a fill,
 * or the return of a staged page. So staging is where a policy looks: moving a page there costs about 1.6 us,
 * its return about 6 us, and fetching a page that was reclaimed too early 10 to 15 us and the node's time.
 *
 * How a pager drives it (bench/policy.c does the same). Nothing is deactivated while frames are free: a
 * program that fits is never looked at. When free frames run low:
 *
 *     while (staged < staging_target(policy)) deactivate(policy, ...);
 *     reclaim(policy, ...);
 *
 * where reclaim takes a batch of at most about 1 % of the frames. (Where the target is below that batch, what
 * is staged leaves at once: the policy has found that looking does not pay, and will try again.)
 * Deactivating is driven by fills alone, never by returns or by time, so what looking costs stays in
 * proportion to the fetches that it saves.
 *
 * Corner cases. A page that cannot be moved to staging: call returned at once, the frame counts as touched.
 * A page that is touched after reclaim chose it, while it is still being written: call filled with
 * LH_FILL_STORE, as if it had been away.
 *
 * Threads: none of this locks; all calls on one policy are made under one lock of the caller's.
 * Cost: O(1) for each frame that moves (for deactivate: amortised). Memory is taken once, in open: 24 bytes a
 * frame, and 8 for each page that has left and is remembered (reuse: three for four frames).
 */
#ifndef LH_HOME_POLICY_H
#define LH_HOME_POLICY_H

#include "sys/sys.h"

enum lh_fill {
	LH_FILL_NEW,   /* a page that was never here: zero-filled or first homed */
	LH_FILL_STORE, /* a page that came back from the store */
};

struct lh_policy; /* policy_queue.h, for policies and their tests */

/* Frames, at least 4 and at most LH_POLICY_FRAMES_MAX: 4 TiB of local memory. */
#define LH_POLICY_FRAMES_MIN 4u
#define LH_POLICY_FRAMES_MAX (1u << 30)

/* Every slot is required. Frames passed in must be in the state that the picture above shows. */
struct lh_policy_ops {
	const char *name;
	const char *summary; /* one line for --help and the documentation */
	/* -EINVAL: frames out of range; -ENOMEM. */
	int (*open)(const struct lh_sys *sys, size_t frames, struct lh_policy **out) LH_MUST_CHECK;
	/* policy may be NULL. */
	void (*close)(struct lh_policy *policy);
	/*
	 * The free frame now holds the page that identity names: a 64-bit name that the page keeps for life.
	 */
	void (*filled)(struct lh_policy *policy, uint32_t frame, uint64_t identity, enum lh_fill source);
	/* The staged frame is resident again: its page was touched. */
	void (*returned)(struct lh_policy *policy, uint32_t frame);
	/* The page is gone for good (unmapped, discarded): the frame is free, nothing is remembered. */
	void (*removed)(struct lh_policy *policy, uint32_t frame);
	/*
	 * Chooses up to max resident frames, in order; they are staged from now on. Returns their number;
	 * fewer than max only where no more are resident.
	 */
	size_t (*deactivate)(struct lh_policy *policy, uint32_t *out, size_t max);
	/* Chooses up to max staged frames; they are free from now on. Fewer only where no more are staged. */
	size_t (*reclaim)(struct lh_policy *policy, uint32_t *out, size_t max);
	/* How many frames should be staged while pages are being reclaimed; 1 .. frames / 2. */
	size_t (*staging_target)(const struct lh_policy *policy);
};

/* All policies, ended by NULL. The first is the default (docs/eviction.md says why). */
extern const struct lh_policy_ops *const lh__policies[];
/* By name; NULL where there is none. A NULL name: the default. */
const struct lh_policy_ops *lh__policy_find(const char *name);

/* Frames that are resident, and staged. */
size_t lh__policy_resident(const struct lh_policy *policy);
size_t lh__policy_staged(const struct lh_policy *policy);
/*
 * Checks the invariants at the head of policy_check.c, in O(frames). 0, or -EUCLEAN and which one is broken.
 */
int lh__policy_check(const struct lh_policy *policy, struct lh_error *error) LH_MUST_CHECK;

#endif
