/*
 * engine_pace.c - the bucket is filled as time goes by; what is in it may be asked for. Faults take from it
 * without asking, and predictions may ask for more than there is: both make the rest wait.
 *
 * The window grows while answers come about as quickly as the quickest came, and shrinks where they take much
 * longer: then they queue somewhere, and what the guest waits for may have to pass the same queue.
 */
#include "service/migrate/engine_pace.h"

#define BURST_NS 20000000.  /* the bucket holds what may travel in this time */
#define BORROW_NS 25000000. /* predictions may take so much beforehand */
#define DEBT_NS 250000000.  /* faults too */
#define LEAST 16            /* pages, at the least, that the first two come to */
#define WAIT_NS 1000000     /* it is not worth looking more often */
#define QUEUED_FEW 2000000  /* that an answer may take beyond the quickest: the window grows */
#define QUEUED_MANY 5000000 /* and from here on it shrinks */

static double at_least(double bytes, double least)
{
	return bytes < least ? least : bytes;
}

static void fill(struct lh_bucket *bucket, uint64_t now)
{
	double most = at_least(bucket->rate * BURST_NS, LEAST * bucket->page);

	if (bucket->filled && now > bucket->filled)
		bucket->tokens += bucket->rate * (double)(now - bucket->filled);
	if (bucket->tokens > most)
		bucket->tokens = most;
	bucket->filled = now;
}

/* Takes as many of the wanted pages as leave `least` bytes. */
static size_t take(struct lh_bucket *bucket, size_t wanted, double least)
{
	double left = bucket->tokens - least;
	size_t got = wanted;

	if (left < bucket->page * (double)wanted)
		got = left < bucket->page ? 0 : (size_t)(left / bucket->page);
	bucket->tokens -= bucket->page * (double)got;
	return got;
}

size_t lh__bucket_allow(struct lh_bucket *bucket, uint64_t now, size_t wanted, uint64_t *wait)
{
	size_t allowed;

	*wait = 0;
	if (bucket->rate <= 0 || !wanted)
		return wanted;
	fill(bucket, now);
	allowed = take(bucket, wanted, 0);
	if (allowed < wanted)
		*wait = (uint64_t)at_least((bucket->page - bucket->tokens) / bucket->rate, WAIT_NS);
	return allowed;
}

size_t lh__bucket_borrow(struct lh_bucket *bucket, uint64_t now, size_t wanted)
{
	if (bucket->rate <= 0)
		return wanted;
	fill(bucket, now);
	return take(bucket, wanted, -at_least(bucket->rate * BORROW_NS, LEAST * bucket->page));
}

void lh__bucket_spend(struct lh_bucket *bucket, uint64_t reserved, uint64_t bytes)
{
	bucket->tokens = at_least(bucket->tokens + (double)reserved - (double)bytes, -bucket->rate * DEBT_NS);
}

void lh__window_reset(struct lh_window *window)
{
	*window = (struct lh_window){ .pages = LH_WINDOW_MIN };
}

void lh__window_fit(struct lh_window *window, uint64_t now, uint64_t took)
{
	if (!window->quickest || took < window->quickest)
		window->quickest = took;
	if (took - window->quickest < QUEUED_FEW) {
		if (window->pages < LH_WINDOW_MAX)
			window->pages++;
	} else if (took - window->quickest > QUEUED_MANY && now - window->slowed > took) {
		window->slowed = now;
		window->pages = window->pages * 3 / 4;
		if (window->pages < LH_WINDOW_MIN)
			window->pages = LH_WINDOW_MIN;
	}
}
