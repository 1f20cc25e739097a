/*
 * delay.c - see delay.h.
 *
 * The store below has the request while it works on it, so the time at which it is due needs another place:
 * each request travels down as a copy of its own (struct delayed), and is told what came of it when
 * it is due.
 */
#include "store/delay.h"

#include <errno.h>
#include <time.h>

#include "sys/lock.h"

#define BATCH 64
/* Sleeping is accurate to some 60 us only, the timer slack and a wake; what is shorter is waited out. */
#define SPIN_NS 100000u

struct delayed {
	struct lh_request copy;
	struct lh_request *original;
	uint64_t due;
	struct delayed *next; /* on the free or the waiting list */
	struct delayed *next_all;
};

struct delay {
	struct lh_store store;
	struct lh_store *below;
	uint64_t nanoseconds;
	struct delayed *all;
	struct delayed *free;
	struct delayed *waiting; /* answered below, by the time at which they are due */
	struct delayed *last;    /* of those, where there is one */
	size_t in_below;
};

static struct delay *of(struct lh_store *store)
{
	return (struct delay *)store;
}

static void sleep_until(const struct lh_sys *sys, uint64_t time)
{
	struct timespec until = { .tv_sec = (time_t)((time - SPIN_NS) / 1000000000u),
		                  .tv_nsec = (long)((time - SPIN_NS) % 1000000000u) };

	if (time > lh__now(sys) + SPIN_NS)
		LH_SYS(sys, SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	while (lh__now(sys) < time)
		__builtin_ia32_pause();
}

/* ---- the copies ---- */

static void give_back(struct delay *delay, struct delayed *delayed)
{
	delayed->next = delay->free;
	delay->free = delayed;
}

/* Makes sure that n copies are free. */
static int reserve(struct delay *delay, size_t n)
{
	struct delayed *delayed;

	for (delayed = delay->free; n > 0 && delayed; delayed = delayed->next)
		n--;
	for (; n > 0; n--) {
		delayed = lh__alloc(delay->store.sys, sizeof *delayed);
		if (!delayed)
			return -ENOMEM;
		delayed->next_all = delay->all;
		delay->all = delayed;
		give_back(delay, delayed);
	}
	return 0;
}

static struct delayed *take(struct delay *delay, struct lh_request *original, uint64_t due)
{
	struct delayed *delayed = delay->free;

	delay->free = delayed->next;
	delayed->copy = *original;
	delayed->copy.user = delayed;
	delayed->original = original;
	delayed->due = due;
	return delayed;
}

/* Among the waiting, behind all that are due no later: nearly always at the end. */
static void wait_with(struct delay *delay, struct delayed *delayed)
{
	struct delayed **place = &delay->waiting;

	if (delay->waiting && delay->last->due <= delayed->due)
		place = &delay->last->next;
	while (*place && (*place)->due <= delayed->due)
		place = &(*place)->next;
	delayed->next = *place;
	*place = delayed;
	if (!delayed->next)
		delay->last = delayed;
}

/* ---- the ops ---- */

/* Some of a submit; once others of it were taken they can no longer be refused. */
static int submit_some(struct delay *delay, struct lh_request *const *requests, size_t n, uint64_t due,
                       bool may_refuse)
{
	struct lh_request *copies[BATCH];
	size_t i;
	int result;

	for (i = 0; i < n; i++)
		copies[i] = &take(delay, requests[i], due)->copy;
	result = delay->below->ops->submit(delay->below, copies, n);
	if (result == 0) {
		delay->in_below += n;
		return 0;
	}
	for (i = 0; i < n; i++) {
		copies[i]->result = result;
		if (may_refuse)
			give_back(delay, copies[i]->user);
		else
			wait_with(delay, copies[i]->user);
	}
	return may_refuse ? result : 0;
}

static int delay_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct delay *delay = of(store);
	uint64_t due = lh__now(store->sys) + delay->nanoseconds;
	int result = reserve(delay, n);
	size_t i;

	for (i = 0; i < n && result == 0; i += BATCH)
		result = submit_some(delay, requests + i, n - i < BATCH ? n - i : BATCH, due, i == 0);
	return result;
}

/* Takes answers from below, waiting for the first up to timeout_ms. */
static void collect(struct delay *delay, int timeout_ms)
{
	struct lh_request *done[BATCH];
	size_t i, n;

	do {
		n = delay->below->ops->poll(delay->below, done, BATCH, timeout_ms);
		for (i = 0; i < n; i++)
			wait_with(delay, done[i]->user);
		delay->in_below -= n;
		timeout_ms = 0;
	} while (n == BATCH);
}

static size_t deliver(struct delay *delay, struct lh_request **done, size_t max, uint64_t now)
{
	size_t n;

	for (n = 0; n < max && delay->waiting && delay->waiting->due <= now; n++) {
		struct delayed *delayed = delay->waiting;

		delay->waiting = delayed->next;
		delayed->original->mask = delayed->copy.mask;
		delayed->original->changed = delayed->copy.changed;
		delayed->original->result = delayed->copy.result;
		done[n] = delayed->original;
		give_back(delay, delayed);
	}
	return n;
}

/* In whole milliseconds, upwards; for ever where there is no limit. */
static int remaining_ms(uint64_t now, uint64_t end)
{
	return end == UINT64_MAX ? -1 : (int)((end - now + 999999) / 1000000);
}

static size_t delay_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct delay *delay = of(store);
	uint64_t now = lh__now(store->sys);
	const uint64_t end = timeout_ms < 0 ? UINT64_MAX : now + (uint64_t)timeout_ms * 1000000u;

	for (;; now = lh__now(store->sys)) {
		size_t n;

		collect(delay, 0);
		n = deliver(delay, done, max, now);
		if (n > 0 || max == 0 || now >= end || (!delay->waiting && delay->in_below == 0))
			return n;
		if (!delay->waiting)
			collect(delay, remaining_ms(now, end));
		else
			sleep_until(store->sys, delay->waiting->due < end ? delay->waiting->due : end);
	}
}

static int delay_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct delay *delay = of(store);
	uint64_t due;
	int result;

	if (delay->nanoseconds == 0)
		return delay->below->ops->get_now(delay->below, page, want, data, held);
	due = lh__now(store->sys) + delay->nanoseconds;
	result = delay->below->ops->get_now(delay->below, page, want, data, held);
	sleep_until(store->sys, due);
	return result;
}

static int delay_sync(struct lh_store *store)
{
	struct delay *delay = of(store);
	int result = delay->below->ops->sync(delay->below);

	sleep_until(store->sys, lh__now(store->sys) + delay->nanoseconds);
	return result;
}

static int delay_reserve(struct lh_store *store, uint64_t pages)
{
	struct lh_store *below = of(store)->below;

	return below->ops->reserve(below, pages);
}

static int delay_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	struct delay *delay = of(store);
	struct lh_store *below;
	int result;

	if (delay->waiting || delay->in_below > 0)
		return lh__fail(error, -EBUSY,
		                "delay store: a clone was asked for while requests are in flight");
	result = delay->below->ops->clone(delay->below, &below, error);
	if (result != 0)
		return result;
	result = lh__delay_open(below, delay->nanoseconds, out);
	if (result == 0)
		return 0;
	below->ops->close(below);
	return lh__fail(error, result, "delay store: there is no memory for a clone");
}

static void delay_close(struct lh_store *store)
{
	struct delay *delay = of(store);

	delay->below->ops->close(delay->below);
	while (delay->all) {
		struct delayed *delayed = delay->all;

		delay->all = delayed->next_all;
		lh__free(store->sys, delayed, sizeof *delayed);
	}
	lh__free(store->sys, delay, sizeof *delay);
}

static const struct lh_store_ops delay_ops = {
	.name = "delay",
	.submit = delay_submit,
	.poll = delay_poll,
	.get_now = delay_get_now,
	.sync = delay_sync,
	.clone = delay_clone,
	.reserve = delay_reserve,
	.close = delay_close,
};

int lh__delay_open(struct lh_store *below, uint64_t nanoseconds, struct lh_store **out)
{
	struct delay *delay = lh__alloc(below->sys, sizeof *delay);

	if (!delay)
		return -ENOMEM;
	delay->store = (struct lh_store){ .ops = &delay_ops, .sys = below->sys, .caps = below->caps };
	delay->below = below;
	delay->nanoseconds = nanoseconds;
	*out = &delay->store;
	return 0;
}

void lh__delay_set(struct lh_store *store, uint64_t nanoseconds)
{
	of(store)->nanoseconds = nanoseconds;
}
