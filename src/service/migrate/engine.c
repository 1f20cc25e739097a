/*
 * engine.c - the home of a guest's memory, and the races of it.
 *
 * A page's life (state.h has the sets):
 *
 *     absent -> (asked) -> busy -> fresh -> shown
 *         \-> zero ----------------^
 *
 * 1. Who has added a page to `busy` writes it, alone, and only if it is not fresh then. Who finds it busy
 *    waits: the other is about to finish, and may have dropped what it had.
 * 2. `fresh` is set after the content is in memory, and before anybody sees it. So after a crash a page that
 *    is not fresh has been seen by nobody, and may be written; one that is fresh may have been changed by the
 *    guest, and is never written. A place that writes and shows in one (UFFDIO_COPY) dies with its guest's
 *    handler; there fresh is set after, with `busy` held.
 * 3. Showing a fresh page is right at any time, by anybody, any number of times: it maps what memory holds.
 *    So a lane that cannot show a page now need not: somebody's touch will have it shown.
 * 4. A fault of a page that is fresh: show it; where memory does not hold it, the guest has discarded it, and
 *    it is zero. What the kernel said when the fault was raised (missing, minor) may be old, and is not used.
 * 5. A fault of a page that is not: it becomes a miss (`missed` is set) and is asked for on lane 0; then it
 *    is looked at again whether it has become fresh meanwhile. A lane sets fresh, shows, and then looks at
 *    `missed`. One of the two sees the other. Whoever was reported before the page was fresh was asleep
 *    before it was shown, so showing has woken him.
 * 6. A page is asked for at most once with `since` (the lines that differ), since an answer is relative to
 *    what was given last, by any lane. A lane marks a page as asked and then looks whether it is missed; a
 *    miss is marked and then looks whether it is asked. So of two that ask for one page the miss knows. It
 *    then takes the page out of `based` before it asks for all of it: an answer of the background to `since`
 *    that comes later finds no base and is dropped, one that came before was given before.
 * 7. Discarded memory (LH_GUEST_GONE) is zero from the moment at which the event is read, since then the
 *    guest's process goes on. Pages that are not fresh become so there and then, without content; what was
 *    written of them is forgotten. Pages are put in place with the gate held open, and it is closed while
 *    events are read and believed: so a page is put before that, or finds itself fresh and is dropped. Of a
 *    page that is fresh nothing needs to be done, and nothing may be: the guest may be writing to it again.
 *    (A process that punches its file first and discards after, as QEMU does, may find a page there that was
 *    put between the two. For a balloon's pages that is as good as zero.)
 * 8. While the guest's memory is changing, the kernel refuses to put or show (-EAGAIN) until the event has
 *    been read, which the thread of faults does. It keeps what it could not answer, and tries again. Lanes
 *    leave a page that is fresh to it (it looks at misses whose pages are fresh each turn); what could not
 *    be put (UFFDIO_COPY) they try again after the next reading.
 * 9. Before switch-over a discard means the opposite: the guest does not run here, the source's content is
 *    right, and the page is asked for again.
 *
 * The supply, the guest and the phase are changed while all threads stand still: they are counted while they
 * work, and look each turn whether they are to stop (lh__engine_turn). One that sleeps stands still already,
 * so nobody has to wait until it has been woken, and been given a processor.
 *
 * A supply that breaks is left alone by all; misses stay, and are asked for again when there is another. What
 * was on its way in the background goes to `again`, which lanes ask for before anything else.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "service/migrate/engine_inside.h"

bool lh__engine_turn(struct lh_engine *engine)
{
	bool quit;

	if (!__atomic_load_n(&engine->hold, __ATOMIC_ACQUIRE))
		return true;
	pthread_mutex_lock(&engine->lock);
	engine->working--;
	pthread_cond_broadcast(&engine->cond);
	while (engine->hold && !engine->quit)
		pthread_cond_wait(&engine->cond, &engine->lock);
	engine->working++;
	quit = engine->quit;
	pthread_mutex_unlock(&engine->lock);
	return !quit;
}

void lh__engine_sleep(struct lh_engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	engine->working--;
	if (engine->hold)
		pthread_cond_broadcast(&engine->cond);
	pthread_mutex_unlock(&engine->lock);
}

void lh__engine_woke(struct lh_engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	while (engine->hold && !engine->quit)
		pthread_cond_wait(&engine->cond, &engine->lock);
	engine->working++;
	pthread_mutex_unlock(&engine->lock);
}

void lh__engine_hold(struct lh_engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	__atomic_add_fetch(&engine->hold, 1, __ATOMIC_ACQ_REL);
	for (unsigned i = 0; i < engine->lanes; i++)
		lh__engine_kick(engine, i);
	while (engine->working)
		pthread_cond_wait(&engine->cond, &engine->lock);
	pthread_mutex_unlock(&engine->lock);
}

void lh__engine_go_on(struct lh_engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	__atomic_sub_fetch(&engine->hold, 1, __ATOMIC_ACQ_REL);
	pthread_cond_broadcast(&engine->cond);
	pthread_mutex_unlock(&engine->lock);
}

void lh__engine_kick(struct lh_engine *engine, unsigned lane)
{
	uint64_t one = 1;

	/* It fails only where the counter is full, and then the thread has been woken already. */
	(void)!write(engine->lane[lane].kick, &one, sizeof(one));
}

void lh__engine_kick_idle(struct lh_engine *engine)
{
	for (unsigned i = 1; i < engine->lanes; i++)
		if (lh__engine_is(&engine->lane[i].idle))
			lh__engine_kick(engine, i);
}

void lh__engine_kick_soon(struct lh_engine *engine)
{
	for (unsigned i = 1; i < engine->lanes; i++)
		if (lh__engine_is(&engine->lane[i].idle) || lh__engine_is(&engine->lane[i].limited))
			lh__engine_kick(engine, i);
}

void lh__engine_changed(struct lh_engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	pthread_cond_broadcast(&engine->cond);
	pthread_mutex_unlock(&engine->lock);
	if (engine->options.changed)
		engine->options.changed(engine->options.context);
}

/* With the lock held. The cursor only goes back where a page stops being fresh. */
static bool all_here(struct lh_engine *engine)
{
	while (engine->cursor < engine->pages) {
		uint64_t word =
			__atomic_load_n(&engine->state->fresh.word[engine->cursor / 64], __ATOMIC_ACQUIRE) |
			__atomic_load_n(&engine->state->zero.word[engine->cursor / 64], __ATOMIC_ACQUIRE);
		uint64_t absent = ~word >> engine->cursor % 64;

		if (absent) {
			engine->cursor += (uint64_t)__builtin_ctzll(absent);
			break;
		}
		engine->cursor += 64 - engine->cursor % 64;
	}
	return engine->cursor >= engine->pages;
}

bool lh__engine_all_here(struct lh_engine *engine)
{
	bool all;

	pthread_mutex_lock(&engine->lock);
	all = all_here(engine);
	pthread_mutex_unlock(&engine->lock);
	return all;
}

struct lh_supply *lh__engine_source(struct lh_engine *engine)
{
	return lh__engine_is(&engine->broken) ? NULL : engine->supply;
}

void lh__engine_break(struct lh_engine *engine)
{
	if (__atomic_exchange_n(&engine->broken, true, __ATOMIC_ACQ_REL))
		return;
	if (engine->supply)
		engine->supply->ops->break_off(engine->supply);
	lh__engine_changed(engine);
}

/* With the lock held. */
static unsigned now_so(struct lh_engine *engine)
{
	bool broken = lh__engine_is(&engine->broken);
	uint32_t flying = 0;
	unsigned so = 0;

	for (unsigned i = 0; i < engine->lanes; i++)
		flying += lh__engine_flying(&engine->lane[i].flying);
	if (engine->mode != LH_ENGINE_IDLE && (!flying || broken) && all_here(engine))
		so |= LH_ENGINE_FETCHED;
	if (broken)
		so |= LH_ENGINE_BROKEN;
	if (lh__engine_is(&engine->guest_left))
		so |= LH_ENGINE_GUEST_LEFT;
	if (lh__engine_is(&engine->complete))
		so |= LH_ENGINE_COMPLETE;
	return so;
}

unsigned lh__engine_wait(struct lh_engine *engine, unsigned what, int timeout_ms)
{
	struct timespec until;
	unsigned so;
	int waited = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&engine->lock);
	while (!(so = now_so(engine) & what) && waited != ETIMEDOUT)
		waited = timeout_ms < 0 ? pthread_cond_wait(&engine->cond, &engine->lock)
		                        : pthread_cond_timedwait(&engine->cond, &engine->lock, &until);
	pthread_mutex_unlock(&engine->lock);
	return so;
}

static int make_set(struct lh_pageset *set, uint64_t pages)
{
	set->pages = pages;
	set->word = calloc(1, lh__pageset_bytes(pages) + 8);
	return set->word ? 0 : -ENOMEM;
}

static int make_locks(struct lh_engine *engine)
{
	pthread_condattr_t attributes;
	int result;

	pthread_mutex_init(&engine->lock, NULL);
	pthread_mutex_init(&engine->order_lock, NULL);
	pthread_mutex_init(&engine->miss_lock, NULL);
	pthread_mutex_init(&engine->bucket_lock, NULL);
	pthread_mutex_init(&engine->count_lock, NULL);
	result = -pthread_condattr_init(&attributes);
	if (result)
		return result;
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	result = -pthread_cond_init(&engine->cond, &attributes);
	pthread_condattr_destroy(&attributes);
	return result;
}

static int start_threads(struct lh_engine *engine)
{
	int result = 0;

	for (unsigned i = 0; i < engine->lanes && !result; i++) {
		struct lh_engine_lane *lane = &engine->lane[i];

		pthread_mutex_lock(&engine->lock);
		result = -pthread_create(&lane->thread, NULL,
		                         i ? lh__engine_lane_main : lh__engine_fault_main, lane);
		if (!result) {
			lane->started = true;
			engine->working++;
		}
		pthread_mutex_unlock(&engine->lock);
	}
	return result;
}

static int open_parts(struct lh_engine *engine)
{
	int result = make_locks(engine);

	for (unsigned i = 0; i < engine->lanes && !result; i++) {
		struct lh_engine_lane *lane = &engine->lane[i];

		lane->engine = engine;
		lane->number = i;
		lh__window_reset(&lane->window);
		lane->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (lane->kick < 0)
			result = -errno;
	}
	if (!result)
		result = make_set(&engine->again, engine->pages);
	if (!result)
		result = make_set(&engine->missed, engine->pages);
	if (!result)
		result = make_set(&engine->hinted, engine->pages);
	return result ? result : start_threads(engine);
}

int lh__engine_open(const struct lh_engine_options *options, struct lh_engine **out, struct lh_error *error)
{
	struct lh_engine *engine;
	int result;

	if (options->lanes < 2 || options->lanes > 256 || !options->page_size || !options->state->pages)
		return lh__fail(error, -EINVAL, "%u lanes for %lu pages: impossible", options->lanes,
		                (unsigned long)options->state->pages);
	engine = calloc(1, sizeof(*engine) + options->lanes * sizeof(engine->lane[0]));
	if (!engine)
		return lh__fail(error, -ENOMEM, "no memory");
	engine->options = *options;
	engine->pages = options->state->pages;
	engine->state = options->state;
	engine->place = options->place;
	engine->lanes = options->lanes;
	engine->bucket.rate = (double)options->bandwidth / 1e9;
	engine->bucket.page = (double)options->page_size;
	lh__pageset_clear(&engine->state->asked);
	lh__pageset_clear(&engine->state->busy);
	for (unsigned i = 0; i < engine->lanes; i++)
		engine->lane[i].kick = -1;
	result = open_parts(engine);
	if (result) {
		lh__engine_close(engine);
		return lh__fail(error, result, "threads of the memory's home: %s", lh__errno_name(result));
	}
	*out = engine;
	return 0;
}

void lh__engine_close(struct lh_engine *engine)
{
	if (!engine)
		return;
	if (engine->supply)
		engine->supply->ops->break_off(engine->supply);
	pthread_mutex_lock(&engine->lock);
	engine->quit = true;
	__atomic_add_fetch(&engine->hold, 1, __ATOMIC_ACQ_REL);
	pthread_cond_broadcast(&engine->cond);
	pthread_mutex_unlock(&engine->lock);
	for (unsigned i = 0; i < engine->lanes; i++) {
		if (engine->lane[i].kick >= 0)
			lh__engine_kick(engine, i);
		if (engine->lane[i].started)
			pthread_join(engine->lane[i].thread, NULL);
	}
	for (unsigned i = 0; i < engine->lanes; i++)
		if (engine->lane[i].kick >= 0)
			close(engine->lane[i].kick);
	if (engine->supply)
		engine->supply->ops->close(engine->supply);
	engine->place->guest = NULL;
	if (engine->has_guest)
		lh__guest_close(&engine->guest);
	pthread_cond_destroy(&engine->cond);
	pthread_mutex_destroy(&engine->lock);
	pthread_mutex_destroy(&engine->order_lock);
	pthread_mutex_destroy(&engine->miss_lock);
	pthread_mutex_destroy(&engine->bucket_lock);
	pthread_mutex_destroy(&engine->count_lock);
	free(engine->again.word);
	free(engine->missed.word);
	free(engine->hinted.word);
	free(engine->record);
	free(engine);
}
