/*
 * engine_put.c - a page comes: it is put in place, shown, and who waited for it is told (engine.c: 1 to 5).
 */
#include <errno.h>
#include <sched.h>

#include "service/migrate/engine_inside.h"

bool lh__engine_can_put(struct lh_engine *engine)
{
	return engine->place->ops->write || (engine->has_guest && !lh__engine_is(&engine->guest_left));
}

int lh__engine_result(struct lh_engine *engine, int result)
{
	if (result == -ESRCH) {
		if (!__atomic_exchange_n(&engine->guest_left, true, __ATOMIC_ACQ_REL))
			lh__engine_changed(engine);
		return -ESRCH;
	}
	/* Memory, or huge pages, that there are none of now may come free: who waits waits for that. */
	if (result == -ENOMEM || result == -ENOSPC)
		return -EAGAIN;
	/* Nobody can see these pages any more, or nobody has to be told of them. */
	return result == -EAGAIN ? -EAGAIN : 0;
}

/* Where content can be written before it is seen. */
static enum lh_engine_put put_written(struct lh_engine *engine, const struct lh_supply_answer *answer)
{
	struct lh_state *state = engine->state;
	int result;

	lh__pageset_remove(&state->based, answer->page);
	result = engine->place->ops->write(engine->place, answer->page, answer->mask, answer->since,
	                                   answer->data);
	if (result) {
		lh__engine_break(engine);
		return LH_ENGINE_FAILED;
	}
	lh__pageset_add(&state->based, answer->page);
	lh__pageset_add(&state->fresh, answer->page);
	return LH_ENGINE_PUT;
}

static enum lh_engine_put put_shown(struct lh_engine *engine, const struct lh_supply_answer *answer)
{
	int result = -ESRCH;

	if (engine->has_guest)
		result = lh__engine_result(engine, engine->place->ops->show(engine->place, answer->page, 1,
		                                                            answer->data));
	if (result == -EAGAIN)
		return LH_ENGINE_AGAIN;
	if (result)
		return LH_ENGINE_DROPPED;
	lh__pageset_add(&engine->state->shown, answer->page);
	lh__pageset_add(&engine->state->fresh, answer->page);
	return LH_ENGINE_PUT;
}

enum lh_engine_put lh__engine_put(struct lh_engine *engine, const struct lh_supply_answer *answer)
{
	struct lh_state *state = engine->state;
	enum lh_engine_put put = LH_ENGINE_DROPPED;

	lh__gate_enter(&lh__sys_default, &engine->gate);
	while (!lh__pageset_add(&state->busy, answer->page))
		sched_yield();
	if (!lh__pageset_has(&state->fresh, answer->page) &&
	    (!answer->since || lh__pageset_has(&state->based, answer->page)))
		put = engine->place->ops->write ? put_written(engine, answer) : put_shown(engine, answer);
	lh__pageset_remove(&state->busy, answer->page);
	lh__gate_leave(&lh__sys_default, &engine->gate);
	return put;
}

/* Pages of which some are not in memory: one by one. */
static int reveal_each(struct lh_engine *engine, uint64_t page, uint64_t count)
{
	int result = 0;

	for (uint64_t i = 0; i < count && !result; i++)
		result = lh__engine_reveal(engine, page + i, 1, NULL);
	return result;
}

int lh__engine_reveal(struct lh_engine *engine, uint64_t page, uint64_t count, enum lh_fault_cause *cause)
{
	struct lh_place *place = engine->place;
	int result = -EFAULT;

	if (cause)
		*cause = LH_FAULT_HERE;
	if (!engine->has_guest || lh__engine_is(&engine->guest_left))
		return 0;
	lh__pageset_add_run(&engine->state->shown, page, count);
	if (place->ops->write)
		result = place->ops->show(place, page, count, NULL);
	if (result == -EFAULT && count > 1)
		return reveal_each(engine, page, count);
	if (result == -EFAULT) {
		if (cause)
			*cause = LH_FAULT_ZERO;
		result = place->ops->zero(place, page, 1);
	}
	return lh__engine_result(engine, result);
}

void lh__engine_resolve(struct lh_engine *engine, uint64_t page)
{
	uint64_t now;
	size_t kept = 0;

	if (!lh__pageset_has(&engine->missed, page))
		return;
	now = lh__clock(NULL);
	pthread_mutex_lock(&engine->miss_lock);
	for (size_t i = 0; i < engine->misses; i++) {
		struct lh_engine_miss miss = engine->miss[i];

		if (miss.page != page)
			engine->miss[kept++] = miss;
		else if (miss.waiting && engine->options.measure)
			lh__measure_fault(engine->options.measure, LH_FAULT_FAR, miss.thread, miss.began,
			                  now);
	}
	engine->misses = kept;
	lh__pageset_remove(&engine->missed, page);
	pthread_mutex_unlock(&engine->miss_lock);
}

static void count_rate(struct lh_engine *engine, uint64_t bytes)
{
	uint64_t slot = lh__clock(NULL) / LH_ENGINE_RATE_NS;
	size_t i = slot % LH_ENGINE_RATES;

	if (engine->rate[i].slot != slot) {
		engine->rate[i].slot = slot;
		engine->rate[i].bytes = 0;
	}
	engine->rate[i].bytes += bytes;
}

void lh__engine_came(struct lh_engine *engine, unsigned lane, const struct lh_supply_answer *answer)
{
	struct lh_engine_counts *counts = &engine->counts;
	unsigned lines = lh__mask_count(answer->mask);

	lh__engine_spend(engine, lane ? engine->options.page_size : 0, answer->bytes);
	pthread_mutex_lock(&engine->count_lock);
	if (lane == 0)
		counts->bytes_faults += answer->bytes;
	else if (engine->mode == LH_ENGINE_ANSWERING)
		counts->bytes_background += answer->bytes;
	else
		counts->bytes_copying += answer->bytes;
	counts->lines += lines;
	if (answer->since) {
		counts->lines_since += lines;
		counts->pages_since++;
	}
	count_rate(engine, answer->bytes);
	pthread_mutex_unlock(&engine->count_lock);
}
