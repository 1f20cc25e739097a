/*
 * harvest.c - what the store has acknowledged: puts, whose pages may leave now, drops, and prefetched pages.
 *
 * While the lines of a page are on the way to the store the page may be touched: it goes back to the program
 * at once, and the acknowledgement then only says that its hashes are right. It says no more where the page
 * was changed meanwhile and stands in staging again: that takes a put of its own. A frame has at most one in
 * flight.
 *
 * All of it under io.
 */
#include "home/internal.h"

#define POLL_BATCH 64

/* ---- flights: under io ---- */

struct lh_flight *lh__flight_take(struct lh_home *home)
{
	struct lh_flight *flight = home->free_flight;

	if (flight)
		home->free_flight = flight->next;
	return flight;
}

void lh__flight_give(struct lh_home *home, struct lh_flight *flight)
{
	flight->next = home->free_flight;
	home->free_flight = flight;
}

/* ---- what has been acknowledged: under io ---- */

void lh__push_again(struct lh_home *home, struct lh_pick pick)
{
	if (home->again_count < LH_AGAIN)
		home->again[home->again_count++] = pick;
}

void lh__note_broken(struct lh_home *home, int result, uint64_t page)
{
	if (!home->broken) {
		home->broken_page = page;
		__atomic_store_n(&home->broken, result, __ATOMIC_RELEASE);
	}
}

/* Ends the put of a frame if the frame still holds the page that was put; returns whether it does. */
static bool end_put(struct lh_home *home, const struct lh_flight *flight)
{
	struct lh_frame *f = &home->frame[flight->frame];
	bool same;

	lh__lock(home->sys, &home->lock);
	same = f->generation == flight->generation;
	if (same) {
		f->putting = false;
		if (flight->request.result < 0)
			f->base = false;
	}
	lh__unlock(home->sys, &home->lock);
	return same;
}

/* A block of 2 MiB counts once in each turnover in which a page of it is written: see stats.h. */
static void note_block(struct lh_home *home, uint64_t page)
{
	uint32_t *block = lh__directory_block(&home->directory, page);

	if (!block || *block == home->turnover)
		return;
	*block = home->turnover;
	lh__count(&home->stats->blocks_written, 1);
}

static void note_written(struct lh_home *home, const struct lh_flight *flight)
{
	lh__count(&home->stats->pages_written, 1);
	lh__count(&home->stats->lines_written, lh__mask_count(flight->request.mask));
	lh__count(&home->stats->bytes_changed, flight->request.changed);
	lh__count(&home->stats->residence_ns, flight->residence_ns);
	note_block(home, flight->page);
}

void lh__note_reclaimed(struct lh_home *home)
{
	lh__count(&home->stats->pages_reclaimed, 1);
	if (++home->turned < home->limit)
		return;
	home->turned = 0;
	home->turnover++;
}

/* The store has the lines: the page leaves, if nobody has come to use it. Whether it has left. */
static bool leave_written(struct lh_home *home, const struct lh_flight *flight, lh_entry *entry)
{
	struct lh_frame *f = &home->frame[flight->frame];
	lh_entry seen;
	bool leaves;

	if (!lh__entry_try(entry, &seen)) {
		lh__push_again(home, (struct lh_pick){ flight->frame, flight->generation });
		return false;
	}
	leaves = seen == lh__entry(LH_PAGE_STAGED, flight->frame) && f->generation == flight->generation &&
	         f->out && !f->touched;
	if (leaves) {
		seen = lh__entry(LH_PAGE_STORED, f->key);
		lh__home_frame_release(home, flight->frame, true, false);
		lh__note_reclaimed(home);
	}
	lh__entry_unlock(home->sys, entry, seen);
	return leaves;
}

static void put_failed(struct lh_home *home, const struct lh_flight *flight, bool same)
{
	lh__note_broken(home, flight->request.result, flight->page);
	if (same)
		lh__push_again(home, (struct lh_pick){ flight->frame, flight->generation });
}

static void put_done(struct lh_home *home, struct lh_flight *flight)
{
	struct lh_frame *f = &home->frame[flight->frame];
	bool same = end_put(home, flight);
	lh_entry *entry = lh__directory_find(&home->directory, __atomic_load_n(&f->page, __ATOMIC_ACQUIRE));

	if (flight->request.result < 0) {
		put_failed(home, flight, same && entry);
		return;
	}
	note_written(home, flight);
	if (!same || !entry || !leave_written(home, flight, entry))
		lh__count(&home->stats->pages_stayed, 1);
}

static void complete(struct lh_home *home, struct lh_flight *flight)
{
	if (flight->request.op != LH_OP_DROP)
		put_done(home, flight);
	else if (flight->request.result < 0)
		lh__note_broken(home, flight->request.result, flight->page);
	lh__flight_give(home, flight);
}

static void take_in(struct lh_home *home, struct lh_request *const *done, size_t n)
{
	struct lh_flight *fetched[POLL_BATCH];
	size_t count = 0;

	home->in_flight -= (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		if (done[i]->op == LH_OP_GET)
			fetched[count++] = done[i]->user;
		else
			complete(home, done[i]->user);
	}
	lh__prefetched(home, fetched, count);
	for (size_t i = 0; i < count; i++)
		lh__flight_give(home, fetched[i]);
}

void lh__harvest(struct lh_home *home)
{
	struct lh_request *done[POLL_BATCH];
	size_t n;

	if (home->in_flight == 0)
		return;
	do {
		n = home->store->ops->poll(home->store, done, POLL_BATCH, 0);
		take_in(home, done, n);
	} while (n == POLL_BATCH);
}
