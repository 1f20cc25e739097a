/*
 * home.h - the home: it is asked for pages that are absent, and takes pages back before memory runs out.
 *
 * A *frame* is the right to one page of local memory, and that memory itself: it stands in the program (the
 * page is RESIDENT), in the staging range (the page is STAGED; or the frame is free but keeps its memory for
 * the next page), or nowhere yet. Memory is moved between the two by the port, not copied, so a home never
 * uses more memory than it has frames, and in the steady state takes none from the kernel and gives none
 * back.
 *
 * The life of a page:
 *
 *              miss: zeroes                    deactivate            reclaim: changed lines are
 *     UNKNOWN ---------------> RESIDENT ------------------> STAGED --------------------------> STORED
 *        ^                       ^  ^                         |      acknowledged                 |
 *        |  dropped by program   |  '------ miss: moved back -'                                   |
 *        '---- (hold, forget) ---|-------------- miss: fetched from the store -------------------'
 *
 * What changed is found with per-line hashes: while a frame has a *base*, hash[frame] describes the content
 * that the store holds under frame.key, and the lines whose hash is different are those to send. A frame
 * without a base (a new page) sends all its lines that are not zero, as the whole of the page. A page that is
 * all zero is not sent but forgotten.
 *
 * Invariants (lh__home_check asserts them while nobody uses the home):
 *  1. A word RESIDENT or STAGED with value f has frame[f].page equal to its page; each frame belongs to at
 *     most one page.
 *  2. A frame is in exactly one place: the free list, or one page.
 *  3. A store page number belongs to at most one of: a word STORED, a frame's key, the free numbers, the
 *     numbers to be dropped.
 *  4. backed = frames with memory: resident, staged, and free ones that keep it.
 *  5. Nothing is BUSY.
 *
 * Threads: every function from any thread, with all signals blocked (a handler that interrupts the home and
 * misses a page would wait for itself). Locks are held for microseconds, none across an operation of the
 * store, except `reclaiming`, which only reclaimers take and which a fault never waits for.
 */
#ifndef LH_HOME_H
#define LH_HOME_H

#include <stdbool.h>

#include "home/directory.h"
#include "home/policy.h"
#include "home/stats.h"
#include "line/line.h"
#include "port/port.h"
#include "store/store.h"
#include "sys/lock.h"

#define LH_REGIONS_MAX 65536
#define LH_KEEP_SLOTS 1024

enum lh_prefetch { LH_PREFETCH_NONE = 0, LH_PREFETCH_NEXT = 1 };

struct lh_home_options {
	struct lh_port *port;
	struct lh_store *store;
	const struct lh_policy_ops *policy;
	uint32_t frames; /* how many frames there can be; the limit below may move up to here */
	uint32_t limit;  /* how many may have memory */
	enum lh_prefetch prefetch;
	struct lh_stats *stats;
	uint64_t stall_limit_ns; /* a fault that finds no frame for so long fails with -ENOMEM */
};

struct lh_home;

typedef int lh_home_visit(void *context, uintptr_t start, uintptr_t end);

/* Opens a home that watches nothing yet. Does not take over port and store. */
int lh__home_open(const struct lh_sys *sys, const struct lh_home_options *options,
                  struct lh_home **out) LH_MUST_CHECK;
void lh__home_close(struct lh_home *home);

/* ---- faults ---- */

#define LH_MISS_NOT_MINE 1

/*
 * A page was touched and is absent. Returns 0: look again, it is there or will be; LH_MISS_NOT_MINE: the
 * address is not watched; a negative errno: its content cannot be had (the store's error, or -ENOMEM where no
 * frame became free in time). May wait for the store. Async-signal-safe if the store's get_now is.
 */
int lh__home_miss(struct lh_home *home, uintptr_t address) LH_MUST_CHECK;

/* Whether any part of the range is watched. */
bool lh__home_watches(struct lh_home *home, uintptr_t start, uintptr_t end);

/*
 * Keeps what is present of [start, end) present: from the call to lh__home_unkeep with the number that it
 * returned, no page of the range is taken away (it may be absent at the call: touch it after). For buffers
 * that the kernel works on. -EAGAIN: too many are kept; try again later.
 */
int lh__home_keep(struct lh_home *home, uintptr_t start, uintptr_t end) LH_MUST_CHECK;
void lh__home_unkeep(struct lh_home *home, int slot);

/* ---- ranges ---- */

/*
 * A fork must not fall into a change of mappings, nor into a look at what is present: all functions of this
 * section are called between begin and end, which nest with nothing, or while the home is paused.
 */
void lh__home_change_begin(struct lh_home *home);
void lh__home_change_end(struct lh_home *home);

/* Watches [start, end) from now on, and finds what is present in it. */
int lh__home_watch(struct lh_home *home, uintptr_t start, uintptr_t end) LH_MUST_CHECK;

/*
 * Brings all of [start, end) in and watches it no more; its memory is the program's alone from then on. The
 * store's errors, -EAGAIN where too many ranges are kept.
 */
int lh__home_unwatch(struct lh_home *home, uintptr_t start, uintptr_t end) LH_MUST_CHECK;

/* As lh__home_watch, but what is present is not looked for yet: for many ranges, followed by one rescan. */
int lh__home_watch_blind(struct lh_home *home, uintptr_t start, uintptr_t end) LH_MUST_CHECK;

/*
 * Finds pages of watched ranges that are present and that the home does not know. Returns how many it found.
 */
uint64_t lh__home_rescan(struct lh_home *home);

/*
 * Around a change of the program's mappings (munmap, madvise, mremap, mmap over something): hold makes every
 * known page of the range wait; then the change is made; then one of
 *   release: nothing happened;
 *   forget: the content is gone;
 *   rename: the content stands at `to` now, of which nothing was known, and whose range the caller watches
 *     afterwards. -ENOMEM: nothing was renamed, and the range is still held.
 */
void lh__home_hold(struct lh_home *home, uintptr_t start, uintptr_t end);
void lh__home_release(struct lh_home *home, uintptr_t start, uintptr_t end);
void lh__home_forget(struct lh_home *home, uintptr_t start, uintptr_t end);
/*
 * Around a change that unmaps: leave takes the range out of what is watched, before the change, because the
 * kernel may give its addresses to another thread's new mapping before the change has returned; left says how
 * it ended (not gone: what was watched of it is watched as before). Who touches the range in between tries
 * again until then. In between, each_left visits the pieces that were watched, until one gives a result that
 * is not 0, and returns that.
 */
void lh__home_leave(struct lh_home *home, uintptr_t start, uintptr_t end);
void lh__home_left(struct lh_home *home, uintptr_t start, uintptr_t end, bool gone);
int lh__home_each_left(struct lh_home *home, uintptr_t start, uintptr_t end, lh_home_visit *visit,
                       void *context);
/* How many more separate ranges can be watched. Leaving and being unmapped may each make two out of one. */
size_t lh__home_room(struct lh_home *home);
int lh__home_rename(struct lh_home *home, uintptr_t start, uintptr_t end, uintptr_t to) LH_MUST_CHECK;

/* ---- reclaim ---- */

/*
 * One round: if fewer frames are free than should be, deactivates and reclaims a batch, and harvests what the
 * store has acknowledged. Returns an enum lh_round; or a negative errno: the store failed, with the page in
 * question in *page.
 */
enum lh_round {
	LH_ROUND_NOTHING, /* enough frames are free */
	LH_ROUND_MORE,    /* something was done, and more is to be done */
	LH_ROUND_AWAITS,  /* nothing could be done until the store acknowledges what it was sent */
};
int lh__home_balance(struct lh_home *home, uint64_t *page) LH_MUST_CHECK;
/* The CPUs that faults were answered on since the last call: bit n for CPU n modulo 64. */
uint64_t lh__home_fault_cpus(struct lh_home *home);
/* Sleeps until there is something to balance, at most for nanoseconds. */
void lh__home_wait(struct lh_home *home, int64_t nanoseconds);
/* Wakes lh__home_wait. */
void lh__home_poke(struct lh_home *home);

/*
 * Before the process ends: waits until no fault is being answered, reclaim rests and all that was sent is
 * acknowledged, at most for nanoseconds, so that what is counted is what was done.
 */
void lh__home_settle(struct lh_home *home, uint64_t nanoseconds);

/*
 * From now on the memory of a page that leaves is given back to the kernel and serves no other page: a pipe,
 * a socket or a ring may go on reading it long after the call that lent it (vmsplice, MSG_ZEROCOPY). It costs
 * a page from the kernel for each fault.
 */
void lh__home_lend(struct lh_home *home);

/*
 * Moves the limit on frames with memory. Lowering it makes the following rounds of balance give memory back.
 */
void lh__home_set_limit(struct lh_home *home, uint32_t limit);
/* Frames with memory at present. */
uint32_t lh__home_backed(const struct lh_home *home);
uint32_t lh__home_limit(const struct lh_home *home);

/* ---- standing still, and fork ---- */

/*
 * Waits until nothing is in flight, no fault is being answered and no change of mappings is under way, and
 * keeps it so until lh__home_resume: for a fork, and for watching a whole address space at once (the caller
 * may call lh__home_watch meanwhile). The caller must not touch watched memory in between. -errno: the store
 * has failed; the home goes on.
 */
int lh__home_pause(struct lh_home *home) LH_MUST_CHECK;
void lh__home_resume(struct lh_home *home);
/*
 * In the child, first of all: of the parent's other threads nothing is left, whatever they held. What the
 * child does not have of its parent's memory (MADV_DONTFORK, MADV_WIPEONFORK) is held and forgotten now,
 * before anything is mapped there.
 */
void lh__home_fork_begin(struct lh_home *home);
/*
 * Then, before anything of the program runs: the port has been renewed (lh__page_after_fork), store is the
 * clone of the parent's. Watches everything again; opens the gate.
 */
int lh__home_fork_child(struct lh_home *home, struct lh_store *store) LH_MUST_CHECK;

/*
 * Between pause and resume. The first visits each range that the port watches for this home, staging first;
 * the second the runs of pages of one that are absent and have a content, in ascending order. They end with
 * the first result that is not 0, and return it.
 */
int lh__home_each_watched(struct lh_home *home, lh_home_visit *visit, void *context);
int lh__home_each_absent(struct lh_home *home, uintptr_t start, uintptr_t end, lh_home_visit *visit,
                         void *context);

/* ---- checks ---- */

/* Asserts the invariants, with nobody using the home: 0, or the number of the first that is broken. */
int lh__home_check(struct lh_home *home);

#endif
