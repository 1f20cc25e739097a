/*
 * deactivate.c - taking pages out of the program's sight, into staging.
 *
 * Neighbours that the policy chose one after the other are taken together. A page that somebody else works
 * on, that is kept, or that the kernel holds on to stays, and counts as touched.
 *
 * All of it under reclaiming.
 */
#include "home/internal.h"

bool lh__kept(const struct lh_home *home, uint64_t page)
{
	uintptr_t address = lh__page_address(page);
	uint32_t high = __atomic_load_n(&home->keep_high, __ATOMIC_SEQ_CST);

	for (uint32_t i = 0; i < high; i++)
		if (__atomic_load_n(&home->keep[i].start, __ATOMIC_ACQUIRE) < address + LH_PAGE_SIZE &&
		    __atomic_load_n(&home->keep[i].end, __ATOMIC_ACQUIRE) > address)
			return true;
	return false;
}

static size_t pick_resident(struct lh_home *home, struct lh_pick *picks, size_t max)
{
	uint32_t frames[LH_BATCH];
	size_t n;

	lh__lock(home->sys, &home->lock);
	n = home->options.policy->deactivate(home->policy, frames, max < LH_BATCH ? max : LH_BATCH);
	for (size_t i = 0; i < n; i++)
		picks[i] = (struct lh_pick){ frames[i], home->frame[frames[i]].generation };
	lh__unlock(home->sys, &home->lock);
	return n;
}

/* The word of the page that a pick is about; NULL where the frame holds another page by now, or none. */
lh_entry *lh__entry_of(struct lh_home *home, const struct lh_pick *pick, uint64_t *page)
{
	*page = __atomic_load_n(&home->frame[pick->frame].page, __ATOMIC_ACQUIRE);
	if (__atomic_load_n(&home->frame[pick->frame].generation, __ATOMIC_ACQUIRE) != pick->generation)
		return NULL;
	return lh__directory_find(&home->directory, *page);
}

/* The page stays after all: the policy counts it as touched, unless it has gone meanwhile. */
static void undo_pick(struct lh_home *home, const struct lh_pick *pick)
{
	bool same;

	lh__lock(home->sys, &home->lock);
	same = home->frame[pick->frame].generation == pick->generation;
	if (same)
		home->options.policy->returned(home->policy, pick->frame);
	lh__unlock(home->sys, &home->lock);
	lh__count(&home->stats->busy_retries, same);
}

/* Pages that are to be taken together: neighbours in the program and in staging, their words BUSY by us. */
struct taking {
	size_t n;
	uint64_t page; /* the first */
	const struct lh_pick *pick;
	lh_entry *entry[LH_BATCH];
};

/*
 * Adds a pick if its page can be had at once and follows the others; false: it starts a new run, or is done
 * with.
 */
static bool join(struct lh_home *home, struct taking *taking, const struct lh_pick *pick, bool *settled)
{
	uint64_t page;
	lh_entry *entry = lh__entry_of(home, pick, &page), seen;

	*settled = !entry;
	if (!entry || (taking->n &&
	               (page != taking->page + taking->n || pick->frame != taking->pick->frame + taking->n)))
		return false;
	*settled = true;
	if (!lh__entry_try(entry, &seen)) {
		undo_pick(home, pick);
		return false;
	}
	if (seen != lh__entry(LH_PAGE_RESIDENT, pick->frame) ||
	    home->frame[pick->frame].generation != pick->generation) {
		lh__entry_unlock(home->sys, entry, seen);
		return false;
	}
	if (taking->n == 0) {
		taking->page = page;
		taking->pick = pick;
	}
	taking->entry[taking->n++] = entry;
	return true;
}

static bool any_kept(const struct lh_home *home, const struct taking *taking, size_t from, size_t n)
{
	for (size_t i = from; i < from + n; i++)
		if (lh__kept(home, taking->page + i))
			return true;
	return false;
}

/* First said, then looked: whoever keeps a page after the look sees that it is being taken. */
static long take_pages(struct lh_home *home, const struct taking *taking, size_t from, size_t n)
{
	uintptr_t address = lh__page_address(taking->page + from);
	long result = -EBUSY;

	__atomic_store_n(&home->taking_end, address + n * LH_PAGE_SIZE, __ATOMIC_SEQ_CST);
	__atomic_store_n(&home->taking, address, __ATOMIC_SEQ_CST);
	if (!any_kept(home, taking, from, n))
		result = home->port->ops->take(home->port, address,
		                               lh__home_frame_memory(home, taking->pick[from].frame), n);
	__atomic_store_n(&home->taking, 0, __ATOMIC_SEQ_CST);
	return result;
}

/* The word for a page that could not be taken. */
static lh_entry not_taken(struct lh_home *home, const struct lh_pick *pick, long result)
{
	if (result == -ENOENT) {
		/* Dropped behind the home's back: its content is zero now. */
		lh__home_frame_release(home, pick->frame, false, true);
		return 0;
	}
	undo_pick(home, pick);
	return lh__entry(LH_PAGE_RESIDENT, pick->frame);
}

/* Takes a run, page by page where it does not go at once. */
static void take_run(struct lh_home *home, const struct taking *taking)
{
	size_t at = 0;

	while (at < taking->n) {
		long taken = take_pages(home, taking, at, taking->n - at);

		if (taken < 0 && at + 1 < taking->n)
			taken = take_pages(home, taking, at, 1);
		for (long i = 0; i < taken; i++, at++)
			lh__entry_unlock(home->sys, taking->entry[at],
			                 lh__entry(LH_PAGE_STAGED, taking->pick[at].frame));
		if (taken > 0) {
			lh__count(&home->stats->pages_deactivated, (uint64_t)taken);
			continue;
		}
		lh__entry_unlock(home->sys, taking->entry[at], not_taken(home, &taking->pick[at], taken));
		at++;
	}
}

size_t lh__deactivate(struct lh_home *home, size_t max)
{
	struct lh_pick picks[LH_BATCH];
	size_t n = pick_resident(home, picks, max), at = 0;

	while (at < n) {
		struct taking taking = { 0 };
		bool settled = false;

		while (at < n && join(home, &taking, &picks[at], &settled))
			at++;
		take_run(home, &taking);
		/* The pick that ended the run: done with, or the first of the next one. */
		if (at < n && settled)
			at++;
	}
	return n;
}
