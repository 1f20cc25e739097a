/*
 * engine_lanes.c - the threads that copy in the background: each keeps a window of pages on its way.
 *
 * Neighbours that came one after the other are shown by one call.
 */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "service/migrate/engine_inside.h"

#define ASK_MAX 64       /* pages asked for in one go */
#define TAKE_MAX 64      /* answers dealt with in one go */
#define AGAIN_NS 1000000 /* for the guest's events to be read */

struct run {
	uint64_t first, count;
};

int lh__engine_ask(struct lh_engine_lane *lane, struct lh_supply *supply, uint64_t page, bool since)
{
	struct lh_engine_flying *flying = &lane->flying;
	int result = supply->ops->ask(supply, lane->number, page, since);
	uint32_t i = flying->tail % LH_ENGINE_FLYING;

	if (result < 0) {
		lh__engine_break(lane->engine);
		return result;
	}
	flying->entry[i].page = page;
	flying->entry[i].since = since;
	flying->entry[i].at = lh__clock(NULL);
	__atomic_store_n(&flying->tail, flying->tail + 1, __ATOMIC_RELEASE);
	return 0;
}

int lh__engine_answered(struct lh_engine_lane *lane, struct lh_supply *supply,
                        struct lh_supply_answer *answer)
{
	struct lh_engine_flying *flying = &lane->flying;
	int result = supply->ops->next(supply, lane->number, answer);
	uint32_t i = flying->head % LH_ENGINE_FLYING;

	if (result == 1 && (flying->head == flying->tail || answer->page != flying->entry[i].page ||
	                    (answer->since && !flying->entry[i].since)))
		result = -EPROTO;
	if (result < 0)
		lh__engine_break(lane->engine);
	return result;
}

void lh__engine_landed(struct lh_engine_lane *lane)
{
	__atomic_store_n(&lane->flying.head, lane->flying.head + 1, __ATOMIC_RELEASE);
}

/*
 * Which pages to ask for: what the bandwidth allows, and beyond it what somebody is likely to wait for soon.
 * Flags are set before the order is looked at, so that who adds something to it kicks.
 */
static size_t choose(struct lh_engine_lane *lane, uint64_t *pages, size_t wanted, uint64_t *wait)
{
	struct lh_engine *engine = lane->engine;
	size_t allowed, borrowed, got = 0, soon = 0;

	lh__engine_set(&lane->idle, true);
	lh__engine_set(&lane->limited, true);
	allowed = lh__engine_allow(engine, wanted, wait);
	if (allowed)
		got = lh__engine_next_pages(engine, pages, allowed);
	lh__engine_spend(engine, (allowed - got) * engine->options.page_size, 0);
	if (got == allowed) {
		lh__engine_set(&lane->idle, false);
		borrowed = lh__engine_borrow(engine, wanted - allowed);
		soon = lh__engine_soon_pages(engine, pages + got, borrowed);
		lh__engine_spend(engine, (borrowed - soon) * engine->options.page_size, 0);
	} else {
		*wait = 0;
	}
	if (got + soon == wanted)
		lh__engine_set(&lane->limited, false);
	return got + soon;
}

/* Asks for what the window and the bandwidth allow. Whether anything was; *wait as of lh__engine_allow. */
static bool ask_more(struct lh_engine_lane *lane, struct lh_supply *supply, uint64_t *wait)
{
	struct lh_engine *engine = lane->engine;
	uint64_t pages[ASK_MAX];
	uint32_t flying = lh__engine_flying(&lane->flying);
	size_t wanted = flying < lane->window.pages ? lane->window.pages - flying : 0, got, i;
	int result = 0;

	*wait = 0;
	if (!wanted || !lh__engine_can_put(engine) || engine->mode == LH_ENGINE_IDLE ||
	    lh__engine_is(&engine->halted))
		return false;
	got = choose(lane, pages, wanted < ASK_MAX ? wanted : ASK_MAX, wait);
	for (i = 0; i < got && !result; i++)
		result = lh__engine_ask(lane, supply, pages[i],
		                        lh__pageset_has(&engine->state->based, pages[i]));
	for (i -= result != 0; result && i < got; i++)
		lh__engine_lost(engine, pages[i]);
	if (!result && got && supply->ops->flush(supply, lane->number) < 0)
		lh__engine_break(engine);
	return got;
}

static void fit_window(struct lh_engine_lane *lane)
{
	uint64_t now = lh__clock(NULL);

	lh__window_fit(&lane->window, now, now - lane->flying.entry[lane->flying.head % LH_ENGINE_FLYING].at);
}

/* Shows what has gathered, and tells who waited. */
static void show_run(struct lh_engine *engine, struct run *run)
{
	if (!run->count)
		return;
	if (lh__engine_reveal(engine, run->first, run->count, NULL) == -EAGAIN) {
		for (uint64_t i = 0; i < run->count; i++)
			if (lh__pageset_has(&engine->missed, run->first + i))
				lh__engine_kick(engine, 0);
	} else {
		for (uint64_t i = 0; i < run->count; i++)
			lh__engine_resolve(engine, run->first + i);
	}
	run->count = 0;
}

/* Puts an answer in place; where events have to be read first, waits for that, unless all are to stop. */
static enum lh_engine_put put(struct lh_engine *engine, const struct lh_supply_answer *answer)
{
	for (;;) {
		uint32_t events = __atomic_load_n(&engine->events, __ATOMIC_ACQUIRE);
		enum lh_engine_put put = lh__engine_put(engine, answer);

		if (put != LH_ENGINE_AGAIN || __atomic_load_n(&engine->hold, __ATOMIC_ACQUIRE))
			return put;
		lh__engine_kick(engine, 0);
		lh__futex_wait(&lh__sys_default, &engine->events, events, AGAIN_NS);
	}
}

static void count_hinted(struct lh_engine *engine)
{
	pthread_mutex_lock(&engine->count_lock);
	engine->counts.hinted++;
	pthread_mutex_unlock(&engine->count_lock);
}

/* A page that is fresh, to be shown with its neighbours; at once, if somebody waits for it. */
static void gather(struct lh_engine *engine, struct run *run, uint64_t page)
{
	if (run->count && page != run->first + run->count)
		show_run(engine, run);
	if (!run->count)
		run->first = page;
	run->count++;
	if (lh__pageset_has(&engine->missed, page))
		show_run(engine, run);
}

static void take_answer(struct lh_engine_lane *lane, const struct lh_supply_answer *answer, struct run *run)
{
	struct lh_engine *engine = lane->engine;
	enum lh_engine_put what = put(engine, answer);
	uint64_t page = answer->page;

	lh__engine_came(engine, lane->number, answer);
	fit_window(lane);
	lh__pageset_remove(&engine->state->asked, page);
	if (what == LH_ENGINE_PUT) {
		if (lh__pageset_remove(&engine->hinted, page) && !lh__pageset_has(&engine->missed, page))
			count_hinted(engine);
		if (!engine->place->ops->write)
			lh__engine_resolve(engine, page);
		else if (engine->mode == LH_ENGINE_ANSWERING) /* before, all is shown at once, later */
			gather(engine, run, page);
	} else if (!lh__pageset_has(&engine->state->fresh, page)) {
		lh__engine_lost(engine, page);
	}
}

/* Deals with answers that are there. How many. */
static unsigned take_answers(struct lh_engine_lane *lane, struct lh_supply *supply)
{
	struct lh_supply_answer answer;
	struct run run = { 0, 0 };
	unsigned taken = 0;

	while (taken < TAKE_MAX && lh__engine_answered(lane, supply, &answer) == 1) {
		take_answer(lane, &answer, &run);
		taken++;
		lh__engine_landed(lane);
	}
	show_run(lane->engine, &run);
	return taken;
}

/* Nothing is to be asked for and nothing on its way: others may be waiting for just that. */
static void tell_idle(struct lh_engine *engine)
{
	if (lh__engine_all_here(engine)) {
		lh__engine_kick(engine, 0);
		lh__engine_changed(engine);
	}
}

static void sleep_until(struct lh_engine_lane *lane, struct lh_supply *supply, uint64_t wait)
{
	struct pollfd poll_for[2] = { { .fd = lane->kick, .events = POLLIN },
		                      { .fd = -1, .events = POLLIN } };
	struct timespec limit;
	uint64_t count;

	if (supply)
		poll_for[1].fd = supply->ops->descriptor(supply, lane->number);
	if (!wait && poll_for[1].fd < 0 && lh__engine_flying(&lane->flying))
		wait = AGAIN_NS;
	limit.tv_sec = (time_t)(wait / 1000000000);
	limit.tv_nsec = (long)(wait % 1000000000);
	lh__engine_sleep(lane->engine);
	if (ppoll(poll_for, 2, wait ? &limit : NULL, NULL) > 0 && poll_for[0].revents)
		(void)!read(lane->kick, &count, sizeof(count));
	lh__engine_woke(lane->engine);
}

void *lh__engine_lane_main(void *context)
{
	struct lh_engine_lane *lane = context;
	struct lh_engine *engine = lane->engine;
	bool told = false;

	while (lh__engine_turn(engine)) {
		struct lh_supply *supply = lh__engine_source(engine);
		uint64_t wait = 0;
		bool asked = supply && ask_more(lane, supply, &wait);
		unsigned taken = supply ? take_answers(lane, supply) : 0;

		if (taken)
			told = false;
		if (asked || taken)
			continue;
		if (!told && !lh__engine_flying(&lane->flying))
			tell_idle(engine);
		told = true;
		sleep_until(lane, supply, wait);
	}
	return NULL;
}
