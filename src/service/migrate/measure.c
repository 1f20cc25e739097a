/*
 * measure.c - what a guest feels. See measure.h.
 *
 * Histograms are counters that any thread adds to. What needs to know which thread waited when is under a
 * lock that is held for some tens of nanoseconds: of each thread its waits, as intervals that ascend and do
 * not touch, each with the sum of those before it. So how long a thread waited between two moments is two
 * searches, and windows need no memory of their own. A thread waits for one page at a time, so a new interval
 * comes last; where threads are not told apart it may fall anywhere, and swallow some.
 *
 * Waits are only ever added. So a window that waits for too long stays so, and what has been looked at up to
 * the first one that does not is not looked at again; but when a thread is new, since it did not wait then.
 */
#include "service/migrate/measure.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 16u /* of a power of two */
#define BUCKETS (61u * STEPS)
#define MS UINT64_C(1000000)
#define WINDOW (10 * MS)
#define LONG_WINDOW 20u   /* windows */
#define LASTING 100u      /* windows for which recovery lasts */
#define THREADS_MAX 1024u /* all beyond are the last one's */
#define SLOT (100 * MS)
#define SLOTS 16u
#define SECOND 10u /* slots */

struct histogram {
	uint64_t count, max;
	uint64_t bucket[BUCKETS];
};

struct interval {
	uint64_t begin, end;
	uint64_t before; /* of all intervals before this one together */
};

struct waiter {
	pid_t thread;
	bool vcpu;
	size_t intervals, room;
	struct interval *interval;
};

struct lh_measure {
	struct histogram latency[LH_FAULT_CAUSES];

	pthread_mutex_t lock; /* all below */
	size_t waiters, last;
	struct waiter *waiter;
	bool knows_vcpus;
	uint64_t stopped, runs, complete; /* UINT64_MAX: not known */
	uint64_t loud;                    /* windows before this one were silent */
	uint64_t well;                    /* with none before this one it recovers */
	struct {
		uint64_t number, faults;
	} slot[SLOTS];
};

/* ---- histograms ---- */

/* Below 16 exact; then the power of two and the four bits behind its first. */
static unsigned bucket_of(uint64_t value)
{
	unsigned power;

	if (value < STEPS)
		return (unsigned)value;
	power = 63u - (unsigned)__builtin_clzll(value);
	return (power - 3) * STEPS + (unsigned)(value >> (power - 4) & (STEPS - 1));
}

/* The greatest value that falls into a bucket. */
static uint64_t bucket_end(unsigned bucket)
{
	unsigned shift;

	if (bucket < STEPS)
		return bucket;
	shift = bucket / STEPS - 1;
	return ((uint64_t)(STEPS + bucket % STEPS) << shift) + ((UINT64_C(1) << shift) - 1);
}

static void count_value(struct histogram *histogram, uint64_t value)
{
	uint64_t max = __atomic_load_n(&histogram->max, __ATOMIC_RELAXED);

	while (value > max && !__atomic_compare_exchange_n(&histogram->max, &max, value, true,
	                                                   __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	__atomic_fetch_add(&histogram->bucket[bucket_of(value)], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&histogram->count, 1, __ATOMIC_RELEASE);
}

static uint64_t percentile(const struct histogram *histogram, unsigned percent)
{
	uint64_t count = __atomic_load_n(&histogram->count, __ATOMIC_ACQUIRE), seen = 0;
	uint64_t wanted = (count * percent + 99) / 100,
		 max = __atomic_load_n(&histogram->max, __ATOMIC_RELAXED);

	for (unsigned i = 0; i < BUCKETS && count > 0; i++) {
		seen += __atomic_load_n(&histogram->bucket[i], __ATOMIC_RELAXED);
		if (seen >= wanted)
			return bucket_end(i) < max ? bucket_end(i) : max;
	}
	return max;
}

/* ---- what a thread waited ---- */

/* Of the intervals the first that ends at `at` or later. */
static size_t first_ending(const struct waiter *waiter, uint64_t at)
{
	size_t low = 0, high = waiter->intervals;

	if (high > 0 && waiter->interval[high - 1].end < at)
		return high;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (waiter->interval[middle].end < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint64_t waited_until(const struct waiter *waiter, uint64_t at)
{
	size_t i = first_ending(waiter, at);
	const struct interval *last = waiter->interval;

	if (waiter->intervals == 0)
		return 0;
	if (i == waiter->intervals) {
		last += i - 1;
		return last->before + last->end - last->begin;
	}
	last += i;
	return last->before + (at > last->begin ? at - last->begin : 0);
}

static uint64_t waited_between(const struct waiter *waiter, uint64_t from, uint64_t to)
{
	return waited_until(waiter, to) - waited_until(waiter, from);
}

static bool has_room(struct waiter *waiter)
{
	size_t room = waiter->room ? 2 * waiter->room : 64;
	struct interval *larger;

	if (waiter->intervals < waiter->room)
		return true;
	larger = realloc(waiter->interval, room * sizeof *larger);
	if (!larger)
		return false;
	waiter->interval = larger;
	waiter->room = room;
	return true;
}

/* Adds [begin, end), which swallows all that it touches. Without memory for it, it is left out. */
static void add_wait(struct waiter *waiter, uint64_t begin, uint64_t end)
{
	size_t first = first_ending(waiter, begin), past = first;
	struct interval *at;

	if (!has_room(waiter))
		return;
	at = waiter->interval + first;
	for (; past < waiter->intervals && waiter->interval[past].begin <= end; past++) {
		begin = begin < waiter->interval[past].begin ? begin : waiter->interval[past].begin;
		end = end > waiter->interval[past].end ? end : waiter->interval[past].end;
	}
	memmove(at + 1, waiter->interval + past, (waiter->intervals - past) * sizeof *at);
	waiter->intervals = waiter->intervals - (past - first) + 1;
	*at = (struct interval){ .begin = begin, .end = end };
	for (size_t i = first; i < waiter->intervals; i++) {
		const struct interval *before = &waiter->interval[i] - 1;

		waiter->interval[i].before = i ? before->before + before->end - before->begin : 0;
	}
}

/* NULL: no memory for it. */
static struct waiter *waiter_of(struct lh_measure *measure, pid_t thread)
{
	struct waiter *larger;

	if (measure->last < measure->waiters && measure->waiter[measure->last].thread == thread)
		return &measure->waiter[measure->last];
	for (measure->last = 0; measure->last < measure->waiters; measure->last++)
		if (measure->waiter[measure->last].thread == thread || measure->last + 1 == THREADS_MAX)
			return &measure->waiter[measure->last];
	larger = realloc(measure->waiter, (measure->waiters + 1) * sizeof *larger);
	if (!larger)
		return NULL;
	measure->waiter = larger;
	measure->waiter[measure->waiters] = (struct waiter){ .thread = thread };
	measure->loud = measure->well = 0;
	return &measure->waiter[measure->waiters++];
}

/* ---- windows ---- */

static bool counts_as_vcpu(const struct lh_measure *measure, const struct waiter *waiter)
{
	return !measure->knows_vcpus || waiter->vcpu;
}

static uint64_t window_at(const struct lh_measure *measure, uint64_t window)
{
	return measure->runs + window * WINDOW;
}

/* Nobody runs for half of it. */
static bool is_silent(const struct lh_measure *measure, uint64_t window)
{
	uint64_t from = window_at(measure, window), least = UINT64_MAX;

	for (size_t i = 0; i < measure->waiters; i++) {
		uint64_t waited = waited_between(&measure->waiter[i], from, from + WINDOW);

		if (counts_as_vcpu(measure, &measure->waiter[i]) && waited < least)
			least = waited;
	}
	return least != UINT64_MAX && 2 * least >= WINDOW;
}

/* In so many windows from this one on a tenth of all time, or more, is waited. */
static bool is_slow(const struct lh_measure *measure, uint64_t window, uint64_t windows)
{
	uint64_t from = window_at(measure, window), waited = 0, vcpus = 0;

	for (size_t i = 0; i < measure->waiters; i++)
		if (counts_as_vcpu(measure, &measure->waiter[i])) {
			waited += waited_between(&measure->waiter[i], from, from + windows * WINDOW);
			vcpus++;
		}
	return vcpus > 0 && 10 * waited >= vcpus * windows * WINDOW;
}

/* Where all is complete nobody will wait any more, and the future is known. */
static uint64_t windows_known(const struct lh_measure *measure, uint64_t now)
{
	if (measure->runs == UINT64_MAX)
		return 0;
	if (measure->complete != UINT64_MAX)
		return UINT64_MAX / 2 / WINDOW;
	return now > measure->runs ? (now - measure->runs) / WINDOW : 0;
}

static uint64_t since_stopped(const struct lh_measure *measure, uint64_t at)
{
	if (measure->stopped == UINT64_MAX)
		return UINT64_MAX;
	return at > measure->stopped ? at - measure->stopped : 0;
}

static uint64_t silence(struct lh_measure *measure, uint64_t now)
{
	uint64_t known = windows_known(measure, now);

	while (measure->loud < known && is_silent(measure, measure->loud))
		measure->loud++;
	return measure->loud < known ? since_stopped(measure, window_at(measure, measure->loud)) : UINT64_MAX;
}

static uint64_t recovery(struct lh_measure *measure, uint64_t now)
{
	uint64_t known = windows_known(measure, now);

	if (measure->well < measure->loud)
		measure->well = measure->loud;
	for (; measure->well + LASTING <= known; measure->well++)
		if (!is_slow(measure, measure->well, LONG_WINDOW) &&
		    !is_slow(measure, measure->well, LASTING))
			return since_stopped(measure, window_at(measure, measure->well));
	return UINT64_MAX;
}

/* ---- the rest ---- */

static void count_fault(struct lh_measure *measure, uint64_t at)
{
	uint64_t number = at / SLOT;
	size_t i = number % SLOTS;

	if (measure->slot[i].number < number) {
		measure->slot[i].number = number;
		measure->slot[i].faults = 0;
	}
	if (measure->slot[i].number == number)
		measure->slot[i].faults++;
}

static uint64_t faults_in_last_second(const struct lh_measure *measure, uint64_t now)
{
	uint64_t faults = 0, number = now / SLOT;

	for (size_t i = 0; i < SLOTS; i++)
		if (measure->slot[i].number < number && measure->slot[i].number + SECOND >= number)
			faults += measure->slot[i].faults;
	return faults;
}

int lh__measure_open(struct lh_measure **out)
{
	struct lh_measure *measure = calloc(1, sizeof *measure);
	int result;

	if (!measure)
		return -ENOMEM;
	result = pthread_mutex_init(&measure->lock, NULL);
	if (result != 0) {
		free(measure);
		return -result;
	}
	measure->stopped = measure->runs = measure->complete = UINT64_MAX;
	*out = measure;
	return 0;
}

void lh__measure_close(struct lh_measure *measure)
{
	if (!measure)
		return;
	for (size_t i = 0; i < measure->waiters; i++)
		free(measure->waiter[i].interval);
	free(measure->waiter);
	pthread_mutex_destroy(&measure->lock);
	free(measure);
}

void lh__measure_threads(struct lh_measure *measure, const pid_t *thread, size_t n)
{
	pthread_mutex_lock(&measure->lock);
	for (size_t i = 0; i < measure->waiters; i++)
		measure->waiter[i].vcpu = false;
	for (size_t i = 0; i < n; i++) {
		struct waiter *waiter = waiter_of(measure, thread[i]);

		if (waiter)
			waiter->vcpu = true;
	}
	measure->knows_vcpus = n > 0;
	pthread_mutex_unlock(&measure->lock);
}

static void set_moment(struct lh_measure *measure, uint64_t *moment, uint64_t at)
{
	pthread_mutex_lock(&measure->lock);
	*moment = at;
	measure->loud = measure->well = 0;
	pthread_mutex_unlock(&measure->lock);
}

void lh__measure_stopped(struct lh_measure *measure, uint64_t at)
{
	set_moment(measure, &measure->stopped, at);
}

void lh__measure_runs(struct lh_measure *measure, uint64_t at)
{
	set_moment(measure, &measure->runs, at);
}

void lh__measure_complete(struct lh_measure *measure, uint64_t at)
{
	set_moment(measure, &measure->complete, at);
}

void lh__measure_fault(struct lh_measure *measure, enum lh_fault_cause cause, pid_t thread, uint64_t began,
                       uint64_t ended)
{
	struct waiter *waiter;

	if (ended < began)
		ended = began;
	count_value(&measure->latency[cause], ended - began);
	pthread_mutex_lock(&measure->lock);
	count_fault(measure, ended);
	waiter = waiter_of(measure, thread);
	if (waiter && ended > began)
		add_wait(waiter, began, ended);
	pthread_mutex_unlock(&measure->lock);
}

static uint64_t between(uint64_t from, uint64_t to)
{
	if (from == UINT64_MAX || to == UINT64_MAX)
		return UINT64_MAX;
	return to > from ? to - from : 0;
}

void lh__measure_read(struct lh_measure *measure, uint64_t now, struct lh_measured *out)
{
	*out = (struct lh_measured){ 0 };
	for (unsigned i = 0; i < LH_FAULT_CAUSES; i++) {
		const struct histogram *histogram = &measure->latency[i];

		out->faults[i] = __atomic_load_n(&histogram->count, __ATOMIC_ACQUIRE);
		out->p50[i] = percentile(histogram, 50);
		out->p90[i] = percentile(histogram, 90);
		out->p99[i] = percentile(histogram, 99);
		out->max[i] = __atomic_load_n(&histogram->max, __ATOMIC_RELAXED);
	}
	pthread_mutex_lock(&measure->lock);
	for (size_t i = 0; i < measure->waiters; i++)
		out->stalled += waited_until(&measure->waiter[i], UINT64_MAX);
	out->silence = silence(measure, now);
	out->recovery = recovery(measure, now);
	out->stop_to_run = between(measure->stopped, measure->runs);
	out->run_to_complete = between(measure->runs, measure->complete);
	out->faults_a_second = faults_in_last_second(measure, now);
	pthread_mutex_unlock(&measure->lock);
}
