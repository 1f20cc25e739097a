/*
 * engine_faults.c - the thread of faults: reads what happens to the guest's memory, asks on lane 0 for what
 * somebody waits for, and answers (engine.c: 4 to 9).
 *
 * Each turn: the guest's events, then what is to be asked, then what has come or can be answered. Asking goes
 * first, since that takes longest.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "service/migrate/engine_inside.h"

#define READ_MAX 64    /* messages at once */
#define ASK_MAX 64     /* pages asked for at once */
#define RETRY_NS 50000 /* until the guest's process has noticed that its event was read */

static void wake(struct lh_engine *engine, uint64_t page)
{
	(void)lh__engine_result(engine, lh__guest_wake(&engine->guest, page, 1));
}

static void measured(struct lh_engine *engine, enum lh_fault_cause cause, pid_t thread, uint64_t began)
{
	if (engine->options.measure)
		lh__measure_fault(engine->options.measure, cause, thread, began, lh__clock(NULL));
}

/* ---- what the guest has discarded ---- */

/* Before switch-over: the source still has it. */
static void fetch_again(struct lh_engine *engine, uint64_t page, uint64_t count)
{
	struct lh_state *state = engine->state;

	for (uint64_t i = page; i < page + count; i++) {
		lh__pageset_remove(&state->based, i);
		lh__pageset_remove(&state->shown, i);
		if (!lh__pageset_remove(&state->fresh, i))
			continue;
		pthread_mutex_lock(&engine->lock);
		if (engine->cursor > i)
			engine->cursor = i;
		pthread_mutex_unlock(&engine->lock);
		lh__engine_lost(engine, i);
	}
	lh__engine_kick_idle(engine);
}

/* Afterwards: what is not fresh is so from now on, and zero. */
static void make_zero(struct lh_engine *engine, uint64_t page, uint64_t count)
{
	struct lh_state *state = engine->state;
	uint64_t end = page + count;

	while ((page = lh__pageset_next_not(&state->fresh, page)) < end) {
		uint64_t next = lh__pageset_next(&state->fresh, page);
		uint64_t run = (next < end ? next : end) - page;

		/* What cannot be forgotten stays absent, and comes with its old content. */
		if (!engine->place->ops->forget || !engine->place->ops->forget(engine->place, page, run)) {
			lh__pageset_remove_run(&state->based, page, run);
			lh__pageset_add_run(&state->fresh, page, run);
			lh__pageset_remove_run(&state->zero, page, run);
		}
		page += run;
	}
}

/* With the gate closed. */
static void believe_gone(struct lh_engine *engine, const struct lh_guest_message *message)
{
	uint64_t page = message->page;
	uint64_t count = message->count;

	if (page >= engine->pages)
		return;
	if (count > engine->pages - page)
		count = engine->pages - page;
	pthread_mutex_lock(&engine->count_lock);
	engine->counts.discarded += count;
	pthread_mutex_unlock(&engine->count_lock);
	/* One of memory that is not watched any more was raised before; its pages may be in use again. */
	if (engine->mode == LH_ENGINE_ANSWERING && !engine->unwatched)
		make_zero(engine, page, count);
	else if (engine->mode != LH_ENGINE_ANSWERING)
		fetch_again(engine, page, count);
}

/* ---- faults ---- */

static void retry_later(struct lh_engine *engine, struct lh_engine_retry retry)
{
	if (engine->retries < LH_ENGINE_MISSES)
		engine->retry[engine->retries++] = retry;
	else
		wake(engine, retry.page);
}

/* A fault of a page that is fresh; neighbours that are too need not fault for themselves. */
static void answer_fresh(struct lh_engine *engine, struct lh_engine_retry retry)
{
	struct lh_state *state = engine->state;
	enum lh_fault_cause cause;
	uint64_t next = retry.page + 1, most = retry.page + LH_ENGINE_NEIGHBOURS;

	if (lh__engine_reveal(engine, retry.page, 1, &cause) == -EAGAIN) {
		retry_later(engine, retry);
		return;
	}
	measured(engine, cause, retry.thread, retry.began);
	while (next < most && next < engine->pages && lh__pageset_has(&state->fresh, next) &&
	       !lh__pageset_has(&state->shown, next))
		next++;
	if (engine->place->ops->write && next > retry.page + 1)
		(void)lh__engine_reveal(engine, retry.page + 1, next - retry.page - 1, NULL);
}

/* Neighbours that are zero become so with it: fresh first, as always. */
static void answer_zero(struct lh_engine *engine, struct lh_engine_retry retry)
{
	struct lh_state *state = engine->state;
	uint64_t count = 0;
	int result;

	while (count < LH_ENGINE_NEIGHBOURS && retry.page + count < engine->pages &&
	       lh__pageset_has(&state->zero, retry.page + count) &&
	       !lh__pageset_has(&state->fresh, retry.page + count))
		count++;
	lh__pageset_add_run(&state->fresh, retry.page, count);
	lh__pageset_remove_run(&state->zero, retry.page, count);
	lh__pageset_add_run(&state->shown, retry.page, count);
	result = lh__engine_result(engine, engine->place->ops->zero(engine->place, retry.page, count));
	if (result == -EAGAIN)
		retry_later(engine, retry);
	else
		measured(engine, LH_FAULT_ZERO, retry.thread, retry.began);
}

static void keep_record(struct lh_engine *engine, uint64_t page)
{
	if (!engine->options.record)
		return;
	if (engine->records == engine->record_room) {
		size_t room = engine->record_room ? 2 * engine->record_room : 1024;
		uint64_t *record = realloc(engine->record, room * sizeof(*record));

		if (!record)
			return;
		engine->record = record;
		engine->record_room = room;
	}
	engine->record[engine->records++] = page;
}

/* An entry for who waits; the first of a page leads, and is asked for. */
static void add_miss(struct lh_engine *engine, const struct lh_guest_message *message, uint64_t now)
{
	struct lh_engine_miss *miss = NULL;
	bool known;

	pthread_mutex_lock(&engine->miss_lock);
	known = lh__pageset_has(&engine->missed, message->page);
	for (size_t i = 0; known && !miss && i < engine->misses; i++)
		if (engine->miss[i].page == message->page && !engine->miss[i].waiting)
			miss = &engine->miss[i];
	if (!miss && engine->misses < LH_ENGINE_MISSES) {
		miss = &engine->miss[engine->misses++];
		miss->page = message->page;
		miss->leads = !known;
		miss->asked = false;
	}
	if (miss) {
		miss->thread = message->thread;
		miss->began = now;
		miss->waiting = true;
	}
	if (miss && !known) {
		lh__pageset_add(&engine->missed, message->page);
		keep_record(engine, message->page);
	}
	pthread_mutex_unlock(&engine->miss_lock);
	if (!miss)
		wake(engine, message->page);
}

static void take_fault(struct lh_engine *engine, const struct lh_guest_message *message, uint64_t now)
{
	struct lh_engine_retry retry = { message->page, now, message->thread };

	if (message->page >= engine->pages)
		return;
	if (engine->mode != LH_ENGINE_ANSWERING) {
		pthread_mutex_lock(&engine->count_lock);
		engine->counts.early++;
		pthread_mutex_unlock(&engine->count_lock);
	} else if (lh__pageset_has(&engine->state->fresh, message->page)) {
		answer_fresh(engine, retry);
	} else if (lh__pageset_has(&engine->state->zero, message->page)) {
		answer_zero(engine, retry);
	} else {
		add_miss(engine, message, now);
	}
}

/* Reads all that has happened to the guest's memory, and believes it. */
static void read_events(struct lh_engine *engine)
{
	struct lh_guest_message messages[READ_MAX];
	long n = READ_MAX;
	uint64_t now;

	while (n == READ_MAX && engine->has_guest && !lh__engine_is(&engine->guest_left)) {
		lh__gate_close(&lh__sys_default, &engine->gate);
		n = lh__guest_read(&engine->guest, messages, READ_MAX);
		for (long i = 0; i < n; i++)
			if (messages[i].kind != LH_GUEST_FAULT)
				believe_gone(engine, &messages[i]);
		__atomic_add_fetch(&engine->events, 1, __ATOMIC_ACQ_REL);
		lh__gate_open(&lh__sys_default, &engine->gate);
		lh__futex_wake(&lh__sys_default, &engine->events, (int)engine->lanes);
		if (n < 0) {
			(void)lh__engine_result(engine, n == -EAGAIN ? 0 : -ESRCH);
			return;
		}
		now = lh__clock(NULL);
		for (long i = 0; i < n; i++)
			if (messages[i].kind == LH_GUEST_FAULT)
				take_fault(engine, &messages[i], now);
	}
}

/* ---- lane 0 ---- */

/* Takes misses that are to be asked for, as many as fit; all of them if need be by several calls. */
static size_t to_ask(struct lh_engine *engine, uint64_t *pages)
{
	uint32_t room = LH_ENGINE_FLYING - lh__engine_flying(&engine->lane[0].flying);
	size_t n = 0;

	pthread_mutex_lock(&engine->miss_lock);
	for (size_t i = 0; i < engine->misses && n < ASK_MAX && n < room; i++) {
		struct lh_engine_miss *miss = &engine->miss[i];

		if (!miss->leads || miss->asked || lh__pageset_has(&engine->state->fresh, miss->page))
			continue;
		miss->asked = true;
		pages[n++] = miss->page;
	}
	pthread_mutex_unlock(&engine->miss_lock);
	return n;
}

static void asked_twice(struct lh_engine *engine, uint64_t page)
{
	lh__pageset_remove(&engine->state->based, page); /* engine.c: 6 */
	pthread_mutex_lock(&engine->count_lock);
	engine->counts.asked_twice++;
	pthread_mutex_unlock(&engine->count_lock);
}

static void ask_misses(struct lh_engine *engine, struct lh_supply *supply)
{
	struct lh_order *order = engine->options.order;
	uint64_t pages[ASK_MAX];
	size_t n, i;

	while (supply && lh__engine_can_put(engine) && (n = to_ask(engine, pages))) {
		for (i = 0; i < n; i++) {
			if (lh__pageset_has(&engine->state->asked, pages[i]))
				asked_twice(engine, pages[i]);
			if (lh__engine_ask(&engine->lane[0], supply, pages[i],
			                   lh__pageset_has(&engine->state->based, pages[i])) < 0)
				return;
		}
		if (supply->ops->flush(supply, 0) < 0)
			lh__engine_break(engine);
		pthread_mutex_lock(&engine->order_lock);
		for (i = 0; i < n; i++) {
			lh__pageset_remove(&engine->hinted, pages[i]);
			order->ops->missed(order, pages[i]);
		}
		pthread_mutex_unlock(&engine->order_lock);
		lh__engine_kick_idle(engine);
		supply = lh__engine_source(engine);
	}
}

static void take_hints(struct lh_engine *engine, uint64_t page, const uint64_t *hints, size_t n)
{
	struct lh_order *order = engine->options.order;

	if (!n)
		return;
	pthread_mutex_lock(&engine->order_lock);
	order->ops->hinted(order, page, hints, n);
	pthread_mutex_unlock(&engine->order_lock);
	for (size_t i = 0; i < n; i++)
		if (hints[i] < engine->pages && !lh__pageset_has(&engine->state->fresh, hints[i]) &&
		    !lh__pageset_has(&engine->state->asked, hints[i]))
			lh__pageset_add(&engine->hinted, hints[i]);
	lh__engine_kick_soon(engine);
}

/* What came could not be used. */
static void ask_again(struct lh_engine *engine, uint64_t page)
{
	pthread_mutex_lock(&engine->miss_lock);
	for (size_t i = 0; i < engine->misses; i++)
		if (engine->miss[i].page == page)
			engine->miss[i].asked = false;
	pthread_mutex_unlock(&engine->miss_lock);
}

/* Puts and shows one that came; what the guest's events prevent is tried again once they have been read. */
static void take_answer(struct lh_engine *engine, const struct lh_supply_answer *answer)
{
	static const struct timespec a_moment = { 0, RETRY_NS };
	enum lh_engine_put put;

	while ((put = lh__engine_put(engine, answer)) == LH_ENGINE_AGAIN &&
	       !__atomic_load_n(&engine->hold, __ATOMIC_ACQUIRE)) {
		nanosleep(&a_moment, NULL);
		read_events(engine);
	}
	if (put == LH_ENGINE_AGAIN)
		ask_again(engine, answer->page);
	if (put != LH_ENGINE_PUT)
		return;
	if (!engine->place->ops->write || lh__engine_reveal(engine, answer->page, 1, NULL) != -EAGAIN)
		lh__engine_resolve(engine, answer->page);
}

static bool take_answers(struct lh_engine *engine, struct lh_supply *supply)
{
	struct lh_engine_lane *lane = &engine->lane[0];
	struct lh_supply_answer answer;
	uint64_t hints[LH_MOVE_HINTS_MAX];
	bool taken = false;

	while (supply && lh__engine_answered(lane, supply, &answer) == 1) {
		size_t n = supply->ops->hints ? supply->ops->hints(supply, hints, LH_MOVE_HINTS_MAX) : 0;

		take_answer(engine, &answer);
		lh__engine_came(engine, 0, &answer);
		take_hints(engine, answer.page, hints, n);
		lh__engine_landed(lane);
		taken = true;
	}
	return taken;
}

/* ---- what could not be answered at once ---- */

/* Misses whose pages have become fresh by another way. Whether some are left to be tried again. */
static bool answer_misses(struct lh_engine *engine)
{
	uint64_t pages[ASK_MAX];
	size_t n = 0;
	bool left = false;

	pthread_mutex_lock(&engine->miss_lock);
	for (size_t i = 0; i < engine->misses && n < ASK_MAX; i++)
		if (engine->miss[i].leads && lh__pageset_has(&engine->state->fresh, engine->miss[i].page))
			pages[n++] = engine->miss[i].page;
	pthread_mutex_unlock(&engine->miss_lock);
	for (size_t i = 0; i < n; i++) {
		if (lh__engine_reveal(engine, pages[i], 1, NULL) == -EAGAIN)
			left = true;
		else
			lh__engine_resolve(engine, pages[i]);
	}
	return left || n == ASK_MAX;
}

static bool answer_retries(struct lh_engine *engine)
{
	size_t n = engine->retries;

	engine->retries = 0; /* those that fail again move to the front, where others have been taken out */
	for (size_t i = 0; i < n; i++)
		answer_fresh(engine, engine->retry[i]);
	return engine->retries > 0;
}

/*
 * Whether somebody still waits for an event of his to be read, or is about to raise one: the kernel says so
 * to whoever asks for something. It would be for ever, for the descriptor may outlive us.
 */
static bool event_pending(struct lh_engine *engine)
{
	return lh__guest_zero(&engine->guest, engine->guest.range[0].first, 1) == -EAGAIN;
}

static int unwatch(struct lh_engine *engine)
{
	struct lh_guest *guest = &engine->guest;
	int result = 0;

	for (size_t i = 0; i < guest->ranges && !result; i++)
		result = lh__engine_result(engine, lh__guest_unwatch(guest, guest->range[i].first,
		                                                     guest->range[i].pages));
	return result;
}

/* All is here: nothing needs to be watched any more. Whether it is to be tried again. */
static bool try_complete(struct lh_engine *engine)
{
	int result;

	if (engine->mode != LH_ENGINE_ANSWERING || !engine->has_guest || engine->complete ||
	    lh__engine_is(&engine->guest_left) || !lh__engine_all_here(engine))
		return false;
	result = engine->unwatched ? 0 : unwatch(engine);
	if (result)
		return result == -EAGAIN;
	engine->unwatched = true;
	if (event_pending(engine))
		return true;
	engine->retries = 0;
	lh__engine_set(&engine->complete, true);
	lh__engine_changed(engine);
	return false;
}

/* Whether the guest's descriptor has something. */
static bool sleep_until(struct lh_engine *engine, struct lh_supply *supply, bool soon)
{
	struct pollfd poll_for[3] = { { .fd = engine->lane[0].kick, .events = POLLIN },
		                      { .fd = -1, .events = POLLIN },
		                      { .fd = -1, .events = POLLIN } };
	struct timespec limit = { 0, RETRY_NS };
	uint64_t count;

	if (engine->has_guest && !lh__engine_is(&engine->guest_left))
		poll_for[1].fd = engine->guest.fd;
	if (supply)
		poll_for[2].fd = supply->ops->descriptor(supply, 0);
	if (poll_for[2].fd < 0 && supply && lh__engine_flying(&engine->lane[0].flying))
		soon = true;
	lh__engine_sleep(engine);
	if (ppoll(poll_for, 3, soon ? &limit : NULL, NULL) > 0 && poll_for[0].revents)
		(void)!read(engine->lane[0].kick, &count, sizeof(count));
	lh__engine_woke(engine);
	return soon || poll_for[1].revents;
}

void *lh__engine_fault_main(void *context)
{
	struct lh_engine_lane *lane = context;
	struct lh_engine *engine = lane->engine;
	bool readable = true;

	while (lh__engine_turn(engine)) {
		struct lh_supply *supply;
		bool soon, taken;

		if (readable)
			read_events(engine);
		ask_misses(engine, lh__engine_source(engine));
		taken = take_answers(engine, lh__engine_source(engine));
		soon = answer_misses(engine);
		soon |= answer_retries(engine);
		soon |= try_complete(engine);
		if (taken && !lh__engine_flying(&lane->flying) && lh__engine_all_here(engine))
			lh__engine_changed(engine);
		supply = lh__engine_source(engine);
		readable = sleep_until(engine, supply, soon);
	}
	return NULL;
}
