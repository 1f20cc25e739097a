/*
 * engine_next.c - which page the background asks for next, and when it may: the order, what was lost, and a
 * bucket of bytes that all lanes share.
 */
#include "service/migrate/engine_inside.h"

#define LOOKS_MAX 256      /* proposals in one go: the thread of faults waits for the same lock */
#define BURST_NS 20000000. /* the bucket holds what may travel in this time */
#define DEBT_NS 250000000. /* faults may have taken so much beforehand */

/* Marks a page as asked for, if it is to be (engine.c: 6). */
static bool take(struct lh_engine *engine, uint64_t page)
{
	struct lh_state *state = engine->state;

	if (page >= engine->pages || lh__pageset_has(&state->fresh, page) ||
	    lh__pageset_has(&state->zero, page) || !lh__pageset_add(&state->asked, page))
		return false;
	if (!lh__pageset_has(&engine->missed, page) && !lh__pageset_has(&state->fresh, page))
		return true;
	lh__pageset_remove(&state->asked, page);
	return false;
}

static bool next_again(struct lh_engine *engine, uint64_t *page)
{
	if (!engine->again_count)
		return false;
	*page = lh__pageset_next(&engine->again, 0);
	lh__pageset_remove(&engine->again, *page);
	engine->again_count--;
	return true;
}

/* Fetching has to bring all, even by an order that proposes only what is missed. */
static bool next_missing(struct lh_engine *engine, uint64_t *page)
{
	if (engine->mode != LH_ENGINE_FETCHING || engine->missing >= engine->pages)
		return false;
	*page = engine->missing++;
	return true;
}

size_t lh__engine_next_pages(struct lh_engine *engine, uint64_t *pages, size_t max)
{
	struct lh_order *order = engine->options.order;
	size_t got = 0;
	uint64_t page;
	bool more = true;

	while (got < max && more) {
		pthread_mutex_lock(&engine->order_lock);
		for (unsigned looks = 0; looks < LOOKS_MAX && got < max && more; looks++) {
			more = next_again(engine, &page) || order->ops->next(order, &page) ||
			       next_missing(engine, &page);
			if (more && take(engine, page))
				pages[got++] = page;
		}
		pthread_mutex_unlock(&engine->order_lock);
	}
	return got;
}

void lh__engine_lost(struct lh_engine *engine, uint64_t page)
{
	lh__pageset_remove(&engine->state->asked, page);
	pthread_mutex_lock(&engine->order_lock);
	if (!lh__pageset_has(&engine->state->fresh, page) && lh__pageset_add(&engine->again, page))
		engine->again_count++;
	pthread_mutex_unlock(&engine->order_lock);
}

/* With the bucket's lock held. */
static void fill(struct lh_engine *engine, uint64_t now)
{
	double rate = (double)engine->options.bandwidth / 1e9;
	double most = rate * BURST_NS, page = (double)engine->options.page_size;

	if (most < 16 * page)
		most = 16 * page;
	if (engine->filled && now > engine->filled)
		engine->tokens += rate * (double)(now - engine->filled);
	if (engine->tokens > most)
		engine->tokens = most;
	engine->filled = now;
}

size_t lh__engine_allow(struct lh_engine *engine, size_t wanted, uint64_t *wait)
{
	double page = (double)engine->options.page_size;
	size_t allowed = wanted;

	*wait = 0;
	if (!engine->options.bandwidth || !wanted)
		return wanted;
	pthread_mutex_lock(&engine->bucket_lock);
	fill(engine, lh__clock(NULL));
	if (engine->tokens < page * (double)wanted)
		allowed = engine->tokens < page ? 0 : (size_t)(engine->tokens / page);
	engine->tokens -= page * (double)allowed;
	if (allowed < wanted) {
		*wait = (uint64_t)((page - engine->tokens) / (double)engine->options.bandwidth * 1e9);
		*wait = *wait < 1000000 ? 1000000 : *wait;
	}
	pthread_mutex_unlock(&engine->bucket_lock);
	return allowed;
}

void lh__engine_spend(struct lh_engine *engine, uint64_t reserved, uint64_t bytes)
{
	double least = -(double)engine->options.bandwidth / 1e9 * DEBT_NS;

	if (!engine->options.bandwidth)
		return;
	pthread_mutex_lock(&engine->bucket_lock);
	engine->tokens += (double)reserved - (double)bytes;
	if (engine->tokens < least)
		engine->tokens = least;
	pthread_mutex_unlock(&engine->bucket_lock);
}
