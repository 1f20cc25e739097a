/*
 * migrate_engine.h - what tests of the home of a guest's memory share: memory of a source that may change, a
 * supply that gives it as slowly, as late or as wrongly as it is told, and a place that can be made to err.
 */
#ifndef MIGRATE_ENGINE_H
#define MIGRATE_ENGINE_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "line_random.h"
#include "service/migrate/engine.h"

#define PAGE LH_PAGE_SIZE

__attribute__((unused)) static uint64_t clock_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- the source ---- */

/* One page's content: every word tells page, version and place. Version 0 has lines that are zero. */
__attribute__((unused)) static void content_of(uint64_t *words, uint64_t page, uint64_t version)
{
	for (uint64_t i = 0; i < PAGE / 8; i++)
		words[i] = version == 0 && (i / 8 + page) % 3 == 0 ? 0 : version << 48 | page << 16 | (i + 1);
}

__attribute__((unused)) static bool page_is_zero(const void *page)
{
	return lh__page_nonzero(page) == 0;
}

__attribute__((unused)) static bool page_is(const void *page, uint64_t number, uint64_t version)
{
	uint64_t words[PAGE / 8];

	content_of(words, number, version);
	return memcmp(page, words, PAGE) == 0;
}

struct source {
	uint64_t pages;
	unsigned char *memory;
};

__attribute__((unused)) static void source_make(struct source *source, uint64_t pages)
{
	source->pages = pages;
	source->memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (uint64_t i = 0; i < pages; i++)
		content_of((uint64_t *)(void *)(source->memory + i * PAGE), i, 0);
}

/* ---- the supply ---- */

#define SUPPLY_LANES 8

struct supply_answer {
	uint64_t page, due;
	bool since, served;
	lh_mask mask;
	unsigned char data[PAGE];
	struct supply_answer *next;
};

/* As the sender does it: answers relative to what was given last, by any lane, in the order of serving. */
struct supply {
	struct lh_supply base;
	const struct source *source;
	pthread_mutex_t lock;
	unsigned char *given;
	bool *known;
	bool broken;
	struct {
		struct supply_answer *first, **last, *taken;
		int timer;
	} lane[SUPPLY_LANES];
	/* What it is told. */
	uint64_t delay[SUPPLY_LANES]; /* ns; and as much again at random */
	bool late_serving;     /* some answers are made when they are due, not when they were asked for */
	bool hold;             /* lanes but 0 answer nothing */
	bool at_once;          /* has no descriptors */
	uint64_t breaks_after; /* answers; 0: never */
	uint64_t wrong_after;  /* another page comes; 0: never */
	uint64_t hint;         /* lane 0 gives this hint; 0: none */
	/* What it saw. */
	uint64_t random, asked[SUPPLY_LANES], asked_since, answers, closed;
};

static void supply_serve(struct supply *supply, struct supply_answer *answer)
{
	const unsigned char *now = supply->source->memory + answer->page * PAGE;
	unsigned char *given = supply->given + answer->page * PAGE;

	if (answer->served)
		return;
	answer->served = true;
	answer->since = answer->since && supply->known[answer->page];
	answer->mask = answer->since ? lh__page_diff(now, given) : lh__page_nonzero(now);
	memset(answer->data, answer->since ? 0xee : 0, PAGE);
	lh__lines_copy(answer->data, now, answer->mask);
	memcpy(given, now, PAGE);
	supply->known[answer->page] = true;
}

/* The lane's descriptor becomes readable when its first answer is due. */
static void supply_arm(struct supply *supply, unsigned lane)
{
	struct supply_answer *first = supply->lane[lane].first;
	struct itimerspec at = { .it_value = { 0, 0 } };

	if (supply->broken)
		at.it_value.tv_nsec = 1;
	else if (first && (lane == 0 || !supply->hold))
		at.it_value = (struct timespec){ (time_t)(first->due / 1000000000),
			                         (long)(first->due % 1000000000) };
	timerfd_settime(supply->lane[lane].timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static int supply_ask(struct lh_supply *base, unsigned lane, uint64_t page, bool since)
{
	struct supply *supply = (struct supply *)base;
	struct supply_answer *answer = calloc(1, sizeof *answer);
	uint64_t wait;

	pthread_mutex_lock(&supply->lock);
	wait = supply->delay[lane] ? supply->delay[lane] + random_next(&supply->random) % supply->delay[lane]
	                           : 0;
	answer->page = page;
	answer->since = since;
	answer->due = clock_now() + wait;
	*supply->lane[lane].last = answer;
	supply->lane[lane].last = &answer->next;
	supply->asked[lane]++;
	supply->asked_since += since;
	if (!supply->late_serving || random_next(&supply->random) % 2)
		for (answer = supply->lane[lane].first; answer; answer = answer->next)
			supply_serve(supply, answer);
	pthread_mutex_unlock(&supply->lock);
	return 0;
}

static int supply_flush(struct lh_supply *base, unsigned lane)
{
	struct supply *supply = (struct supply *)base;
	int result;

	pthread_mutex_lock(&supply->lock);
	supply_arm(supply, lane);
	result = supply->broken ? -ECONNRESET : 0;
	pthread_mutex_unlock(&supply->lock);
	return result;
}

/* With the lock held. */
static int supply_take(struct supply *supply, unsigned lane, struct lh_supply_answer *out)
{
	struct supply_answer *answer = supply->lane[lane].first;

	if (supply->broken)
		return -ECONNRESET;
	if (!answer || (lane && supply->hold) || answer->due > clock_now())
		return 0;
	supply_serve(supply, answer);
	supply->answers++;
	if (supply->breaks_after && supply->answers > supply->breaks_after) {
		supply->broken = true;
		return -ECONNRESET;
	}
	supply->lane[lane].first = answer->next;
	if (!answer->next)
		supply->lane[lane].last = &supply->lane[lane].first;
	free(supply->lane[lane].taken);
	supply->lane[lane].taken = answer;
	*out = (struct lh_supply_answer){
		.page = answer->page,
		.since = answer->since,
		.mask = answer->mask,
		.data = answer->data,
		.bytes = 32 + lh__lineset_size(answer->mask),
	};
	if (supply->wrong_after && supply->answers > supply->wrong_after)
		out->page = (answer->page + 1) % supply->source->pages;
	return 1;
}

static int supply_next(struct lh_supply *base, unsigned lane, struct lh_supply_answer *out)
{
	struct supply *supply = (struct supply *)base;
	int result;

	pthread_mutex_lock(&supply->lock);
	result = supply_take(supply, lane, out);
	supply_arm(supply, lane);
	pthread_mutex_unlock(&supply->lock);
	return result;
}

static int supply_descriptor(struct lh_supply *base, unsigned lane)
{
	struct supply *supply = (struct supply *)base;

	return supply->at_once ? -1 : supply->lane[lane].timer;
}

static size_t supply_hints(struct lh_supply *base, uint64_t *pages, size_t max)
{
	struct supply *supply = (struct supply *)base;

	if (!supply->hint)
		return 0;
	pages[0] = supply->hint;
	return 1;
}

static void supply_break(struct lh_supply *base)
{
	struct supply *supply = (struct supply *)base;

	pthread_mutex_lock(&supply->lock);
	supply->broken = true;
	for (unsigned i = 0; i < base->lanes; i++)
		supply_arm(supply, i);
	pthread_mutex_unlock(&supply->lock);
}

/* What was held goes on its way. */
__attribute__((unused)) static void supply_release(struct supply *supply)
{
	pthread_mutex_lock(&supply->lock);
	supply->hold = false;
	for (unsigned i = 0; i < supply->base.lanes; i++)
		supply_arm(supply, i);
	pthread_mutex_unlock(&supply->lock);
}

static uint64_t supply_count(struct supply *supply, const uint64_t *count)
{
	uint64_t value;

	pthread_mutex_lock(&supply->lock);
	value = *count;
	pthread_mutex_unlock(&supply->lock);
	return value;
}

static void supply_close(struct lh_supply *base)
{
	struct supply *supply = (struct supply *)base;

	for (unsigned i = 0; i < base->lanes; i++) {
		struct supply_answer *answer = supply->lane[i].first, *next;

		for (; answer; answer = next) {
			next = answer->next;
			free(answer);
		}
		free(supply->lane[i].taken);
		close(supply->lane[i].timer);
	}
	free(supply->given);
	free(supply->known);
	pthread_mutex_destroy(&supply->lock);
	free(supply);
}

__attribute__((unused)) static struct supply *supply_make(const struct source *source, unsigned lanes,
                                                          uint64_t seed)
{
	static const struct lh_supply_ops ops = {
		.ask = supply_ask,
		.flush = supply_flush,
		.next = supply_next,
		.descriptor = supply_descriptor,
		.hints = supply_hints,
		.break_off = supply_break,
		.close = supply_close,
	};
	struct supply *supply = calloc(1, sizeof *supply);

	supply->base = (struct lh_supply){ .ops = &ops, .lanes = lanes, .page_size = PAGE };
	supply->source = source;
	supply->random = seed;
	supply->given = malloc(source->pages * PAGE);
	supply->known = calloc(source->pages, sizeof *supply->known);
	pthread_mutex_init(&supply->lock, NULL);
	for (unsigned i = 0; i < lanes; i++) {
		supply->lane[i].last = &supply->lane[i].first;
		supply->lane[i].timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	}
	(void)supply_count(supply, &supply->answers);
	return supply;
}

/* ---- the place ---- */

enum place_fault {
	PLACE_SOUND,
	PLACE_FORGETS_NOT, /* what the guest has discarded stays in memory */
	PLACE_FRESH_LATE,  /* a page is marked as fresh after it was shown */
};

/* Another place, watched: a page that is shown has to be fresh, one that is written must not be. */
struct place {
	struct lh_place base;
	struct lh_place *real;
	struct lh_state *state;
	enum place_fault fault;
	/* PLACE_FRESH_LATE: called between the two. */
	void (*late)(void *context, uint64_t page, uint64_t count);
	void *late_context;
	uint64_t breaches, written, shown, forgotten;
};

static struct lh_place *place_real(struct place *place)
{
	if (__atomic_load_n(&place->real->guest, __ATOMIC_RELAXED) != place->base.guest)
		__atomic_store_n(&place->real->guest, place->base.guest, __ATOMIC_RELAXED);
	return place->real;
}

static void place_breach(struct place *place, bool breach)
{
	if (breach)
		__atomic_add_fetch(&place->breaches, 1, __ATOMIC_RELAXED);
}

static int place_write(struct lh_place *base, uint64_t page, lh_mask mask, bool since, const void *data)
{
	struct place *place = (struct place *)base;

	place_breach(place, lh__pageset_has(&place->state->fresh, page) ||
	                            !lh__pageset_has(&place->state->busy, page));
	__atomic_add_fetch(&place->written, 1, __ATOMIC_RELAXED);
	return place_real(place)->ops->write(place->real, page, mask, since, data);
}

/* As a home would do it that marked pages as fresh after they were shown. */
static int show_late(struct place *place, uint64_t page, uint64_t count)
{
	int result;

	lh__pageset_remove_run(&place->state->fresh, page, count);
	result = place->real->ops->show(place->real, page, count, NULL);
	if (place->late)
		place->late(place->late_context, page, count);
	lh__pageset_add_run(&place->state->fresh, page, count);
	return result;
}

static int place_show(struct lh_place *base, uint64_t page, uint64_t count, const void *data)
{
	struct place *place = (struct place *)base;

	(void)place_real(place);
	__atomic_add_fetch(&place->shown, count, __ATOMIC_RELAXED);
	if (place->fault == PLACE_FRESH_LATE && base->ops->write)
		return show_late(place, page, count);
	for (uint64_t i = page; base->ops->write && i < page + count; i++)
		place_breach(place, !lh__pageset_has(&place->state->fresh, i));
	return place->real->ops->show(place->real, page, count, data);
}

static int place_zero(struct lh_place *base, uint64_t page, uint64_t count)
{
	struct place *place = (struct place *)base;

	for (uint64_t i = page; i < page + count; i++)
		place_breach(place, !lh__pageset_has(&place->state->fresh, i));
	return place_real(place)->ops->zero(place->real, page, count);
}

static int place_forget(struct lh_place *base, uint64_t page, uint64_t count)
{
	struct place *place = (struct place *)base;

	__atomic_add_fetch(&place->forgotten, count, __ATOMIC_RELAXED);
	if (place->fault == PLACE_FORGETS_NOT)
		return 0;
	return place_real(place)->ops->forget(place->real, page, count);
}

static void place_close(struct lh_place *base)
{
	struct place *place = (struct place *)base;

	place->real->ops->close(place->real);
	free(place);
}

__attribute__((unused)) static struct place *place_around(struct lh_place *real, struct lh_state *state,
                                                          enum place_fault fault)
{
	static const struct lh_place_ops file = { .write = place_write,
		                                  .show = place_show,
		                                  .zero = place_zero,
		                                  .forget = place_forget,
		                                  .close = place_close };
	static const struct lh_place_ops copy = { .show = place_show,
		                                  .zero = place_zero,
		                                  .close = place_close };
	struct place *place = calloc(1, sizeof *place);

	place->base.ops = real->ops->write ? &file : &copy;
	place->real = real;
	place->state = state;
	place->fault = fault;
	return place;
}

#endif
