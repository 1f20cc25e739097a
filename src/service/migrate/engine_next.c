/*
 * engine_next.c - which page the background asks for next, and when it may: the order, what was lost, and a
 * bucket of bytes that all lanes share (engine_pace.c).
 */
#include "service/migrate/engine_inside.h"

#define LOOKS_MAX 256 /* proposals in one go: the thread of faults waits for the same lock */

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

size_t lh__engine_soon_pages(struct lh_engine *engine, uint64_t *pages, size_t max)
{
	struct lh_order *order = engine->options.order;
	size_t got = 0;
	uint64_t page;

	pthread_mutex_lock(&engine->order_lock);
	while (got < max && order->ops->soon(order, &page))
		if (take(engine, page))
			pages[got++] = page;
	pthread_mutex_unlock(&engine->order_lock);
	return got;
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

size_t lh__engine_allow(struct lh_engine *engine, size_t wanted, uint64_t *wait)
{
	size_t allowed;

	pthread_mutex_lock(&engine->bucket_lock);
	allowed = lh__bucket_allow(&engine->bucket, lh__clock(NULL), wanted, wait);
	pthread_mutex_unlock(&engine->bucket_lock);
	return allowed;
}

size_t lh__engine_borrow(struct lh_engine *engine, size_t wanted)
{
	size_t borrowed;

	pthread_mutex_lock(&engine->bucket_lock);
	borrowed = lh__bucket_borrow(&engine->bucket, lh__clock(NULL), wanted);
	pthread_mutex_unlock(&engine->bucket_lock);
	return borrowed;
}

void lh__engine_spend(struct lh_engine *engine, uint64_t reserved, uint64_t bytes)
{
	pthread_mutex_lock(&engine->bucket_lock);
	lh__bucket_spend(&engine->bucket, reserved, bytes);
	pthread_mutex_unlock(&engine->bucket_lock);
}
