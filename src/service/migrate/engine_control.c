/*
 * engine_control.c - what the one who moves the guest asks of its memory's home: all by one thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "service/migrate/engine_inside.h"

#define SHOW_TRIES 20000 /* of 100 us: the guest's process has to notice that its event was read */

/* ---- supply and guest come and go ---- */

/* What was asked of a supply that is no more, while all stand still. */
static void forget_flying(struct lh_engine *engine)
{
	for (unsigned i = 0; i < engine->lanes; i++) {
		struct lh_engine_flying *flying = &engine->lane[i].flying;

		for (; i && flying->head != flying->tail; flying->head++)
			lh__engine_lost(engine, flying->entry[flying->head % LH_ENGINE_FLYING].page);
		__atomic_store_n(&flying->head, flying->tail, __ATOMIC_RELEASE);
		lh__window_reset(&engine->lane[i].window);
	}
	for (size_t i = 0; i < engine->misses; i++)
		engine->miss[i].asked = false;
}

/* One that does not fit is taken over as broken, so that no thread ever uses it. */
void lh__engine_supply(struct lh_engine *engine, struct lh_supply *supply)
{
	struct lh_supply *old = engine->supply;
	bool fits =
		!supply || (supply->lanes >= engine->lanes && supply->page_size == engine->options.page_size);

	if (old)
		old->ops->break_off(old);
	lh__engine_hold(engine);
	forget_flying(engine);
	engine->supply = supply;
	lh__engine_set(&engine->broken, !fits);
	lh__engine_go_on(engine);
	if (old)
		old->ops->close(old);
	if (!fits)
		lh__engine_changed(engine);
}

static bool guest_fits(const struct lh_engine *engine, const struct lh_guest *guest)
{
	if (guest->page_size != engine->options.page_size || !guest->ranges)
		return false;
	for (size_t i = 0; i < guest->ranges; i++)
		if (guest->range[i].first >= engine->pages ||
		    guest->range[i].pages > engine->pages - guest->range[i].first)
			return false;
	return true;
}

/* Whoever waits looks again, and is reported again. */
static int wake_all(struct lh_engine *engine)
{
	struct lh_guest *guest = &engine->guest;
	int result = 0;

	for (size_t i = 0; engine->has_guest && i < guest->ranges && !result; i++)
		result = lh__engine_result(engine, lh__guest_wake(guest, guest->range[i].first,
		                                                  guest->range[i].pages));
	return result;
}

int lh__engine_guest(struct lh_engine *engine, const struct lh_guest *guest, struct lh_error *error)
{
	struct lh_guest old;
	bool had;

	if (guest && !guest_fits(engine, guest))
		return lh__fail(error, -EINVAL,
		                "the guest's memory is not what moves: it has %lu pages, not %lu",
		                (unsigned long)lh__guest_pages(guest), (unsigned long)engine->pages);
	lh__engine_hold(engine);
	old = engine->guest;
	had = engine->has_guest;
	engine->has_guest = guest != NULL;
	if (guest)
		engine->guest = *guest;
	engine->place->guest = guest ? &engine->guest : NULL;
	engine->guest_left = false;
	engine->complete = false;
	engine->unwatched = false;
	engine->retries = 0;
	for (size_t i = 0; i < engine->misses; i++)
		engine->miss[i].waiting = false;
	(void)wake_all(engine);
	lh__engine_go_on(engine);
	if (had)
		lh__guest_close(&old);
	return 0;
}

/* ---- copying ---- */

/* Takes pages out of memory in runs; shown_only: only those that the guest may see. */
static int forget(struct lh_engine *engine, const struct lh_pageset *pages, bool shown_only)
{
	struct lh_state *state = engine->state;
	struct lh_place *place = engine->place;
	uint64_t page = 0, count;
	int result;

	while ((page = lh__pageset_next(pages, page)) != LH_PAGESET_NONE) {
		if (shown_only && !lh__pageset_has(&state->shown, page)) {
			page++;
			continue;
		}
		for (count = 1; page + count < engine->pages && lh__pageset_has(pages, page + count); count++)
			if (shown_only && !lh__pageset_has(&state->shown, page + count))
				break;
		result = place->ops->forget ? place->ops->forget(place, page, count) : 0;
		if (result)
			return result;
		lh__pageset_remove_run(&state->shown, page, count);
		lh__pageset_remove_run(&state->based, page, count);
		page += count;
	}
	return 0;
}

static int forgotten(int result, struct lh_error *error)
{
	return result ? lh__fail(error, result, "the guest's memory cannot be emptied: %s",
	                         lh__errno_name(result))
	              : 0;
}

/* While all stand still. */
static void look_again(struct lh_engine *engine)
{
	engine->cursor = 0;
	engine->missing = 0;
	if (engine->again_count)
		lh__pageset_clear(&engine->again);
	engine->again_count = 0;
}

int lh__engine_stale(struct lh_engine *engine, const struct lh_pageset *pages, struct lh_error *error)
{
	int result;

	lh__engine_hold(engine);
	look_again(engine);
	engine->mode = LH_ENGINE_IDLE;
	lh__pageset_subtract(&engine->state->fresh, pages);
	lh__pageset_subtract(&engine->state->zero, pages);
	result = forget(engine, pages, true);
	lh__engine_go_on(engine);
	return forgotten(result, error);
}

int lh__engine_zero(struct lh_engine *engine, const struct lh_pageset *pages, struct lh_error *error)
{
	int result;

	lh__engine_hold(engine);
	look_again(engine);
	engine->mode = LH_ENGINE_IDLE;
	lh__pageset_subtract(&engine->state->fresh, pages);
	result = forget(engine, pages, false);
	if (!result)
		lh__pageset_join(&engine->state->zero, pages);
	lh__engine_go_on(engine);
	return forgotten(result, error);
}

static void begin(struct lh_engine *engine, enum lh_engine_mode mode, const struct lh_pageset *urgent)
{
	struct lh_order *order = engine->options.order;

	lh__engine_hold(engine);
	look_again(engine);
	engine->mode = mode;
	engine->halted = false;
	order->ops->reset(order, urgent);
	if (mode == LH_ENGINE_ANSWERING)
		(void)wake_all(engine); /* those who were early */
	lh__engine_go_on(engine);
}

int lh__engine_fetch(struct lh_engine *engine)
{
	if (engine->mode == LH_ENGINE_ANSWERING)
		return -EINVAL;
	begin(engine, LH_ENGINE_FETCHING, NULL);
	return 0;
}

int lh__engine_answer(struct lh_engine *engine, const struct lh_pageset *urgent)
{
	if (urgent && urgent->pages != engine->pages)
		return -EINVAL;
	begin(engine, LH_ENGINE_ANSWERING, urgent);
	return 0;
}

/* One run of pages, as often as the guest's events make it necessary. */
static int show_run(struct lh_engine *engine, uint64_t page, uint64_t count)
{
	static const struct timespec a_moment = { 0, 100000 };
	int result, tries = 0;

	while ((result = lh__engine_reveal(engine, page, count, NULL)) == -EAGAIN && tries++ < SHOW_TRIES) {
		lh__engine_kick(engine, 0);
		nanosleep(&a_moment, NULL);
	}
	return result;
}

int lh__engine_show(struct lh_engine *engine, const struct lh_pageset *except, struct lh_error *error)
{
	struct lh_pageset set = { engine->pages, NULL };
	uint64_t page = 0, end;
	int result = 0;

	if (!engine->place->ops->write || !engine->has_guest)
		return 0;
	set.word = calloc(1, lh__pageset_bytes(engine->pages) + 8);
	if (!set.word)
		return lh__fail(error, -ENOMEM, "no memory");
	lh__pageset_join(&set, &engine->state->fresh);
	lh__pageset_subtract(&set, &engine->state->shown); /* each costs a call, once more too */
	if (except)
		lh__pageset_subtract(&set, except);
	while (!result && (page = lh__pageset_next(&set, page)) != LH_PAGESET_NONE) {
		end = lh__pageset_next_not(&set, page);
		result = show_run(engine, page, end - page);
		page = end;
	}
	free(set.word);
	return result ? lh__fail(error, result, "the guest's memory cannot be shown to it: %s",
	                         lh__errno_name(result))
	              : 0;
}

void lh__engine_halt(struct lh_engine *engine)
{
	lh__engine_set(&engine->halted, true);
}

/* ---- figures ---- */

void lh__engine_counts(struct lh_engine *engine, struct lh_engine_counts *counts)
{
	const struct lh_state *state = engine->state;
	uint64_t slot = lh__clock(NULL) / LH_ENGINE_RATE_NS;

	pthread_mutex_lock(&engine->count_lock);
	*counts = engine->counts;
	for (unsigned i = 0; i < LH_ENGINE_RATES; i++)
		if (engine->rate[i].slot < slot && engine->rate[i].slot + 10 >= slot)
			counts->bytes_a_second += engine->rate[i].bytes;
	pthread_mutex_unlock(&engine->count_lock);
	counts->pages = engine->pages;
	counts->fresh = lh__pageset_count(&state->fresh);
	for (uint64_t i = 0; i < (engine->pages + 63) / 64; i++)
		counts->zero += (uint64_t)__builtin_popcountll(
			__atomic_load_n(&state->zero.word[i], __ATOMIC_ACQUIRE) &
			~__atomic_load_n(&state->fresh.word[i], __ATOMIC_ACQUIRE));
}

int lh__engine_misses(struct lh_engine *engine, uint64_t **pages, size_t *n)
{
	int result = 0;

	pthread_mutex_lock(&engine->miss_lock);
	*n = engine->records;
	*pages = malloc((*n ? *n : 1) * sizeof(**pages));
	if (!*pages)
		result = -ENOMEM;
	for (size_t i = 0; !result && i < *n; i++)
		(*pages)[i] = engine->record[i];
	pthread_mutex_unlock(&engine->miss_lock);
	return result;
}
