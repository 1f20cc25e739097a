/*
 * crash_states.h - looks at every crash of a run: at each point of a crash store (crash.h) it makes the
 * media that a loss of power could leave there, recovers each, and has the outcome judged.
 *
 * A medium is one choice for each unit in flight. Where there are at most 1024 such combinations all are
 * tried, else: none arrived, all did, one alone is missing, one alone arrived, and a sample. Of lines in
 * memory some media are torn further, between words of 8 bytes. The same medium is tried once for what may
 * be found.
 *
 * What may be found is a range of *states*, numbers of the caller's: lo is the last one that was
 * acknowledged, hi the newest that was begun. `recover` opens what stands on the store it is given, and
 * says which state it found. Some recoveries are themselves run on a crash store, and crash at each of
 * their points: then the very state must be found that the first recovery found, and so again where
 * recovery had ended.
 */
#ifndef CRASH_STATES_H
#define CRASH_STATES_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "line_random.h"
#include "store/crash.h"

enum { CRASH_UNITS = 4096, CRASH_ALL = 1024, CRASH_SEEN = 1 << 17, CRASH_SAMPLES = 24, CRASH_REASON = 600 };

/* How far recover goes. */
enum { CRASH_GO_ON = 1 }; /* after recovery: change something more, and look whether that is kept as well */

struct crash_states {
	/*
	 * The caller's. recover returns the state found, or a negative number, and then says why in reason.
	 */
	long (*recover)(void *context, struct lh_crash *medium, unsigned how, char reason[CRASH_REASON]);
	void *context;
	uint64_t limit; /* media at which it is enough; 0: none */

	struct lh_crash *medium;  /* the run's; holds back */
	struct lh_crash *scratch; /* for recoveries */
	struct lh_crash *nested;  /* for recoveries that crash */
	size_t size, unit;
	uint64_t random;
	long lo, hi;    /* states that may be found */
	bool resting;   /* no points: what is done is not under test */
	bool in_nested; /* a recovery is running on `nested` */
	long must;      /* and has to find this state */

	uint64_t tried, points, recoveries, exhaustive;
	bool failed;
	char reason[CRASH_REASON + 200];

	struct lh_crash_unit units[CRASH_UNITS], nested_units[CRASH_UNITS];
	uint64_t seen[CRASH_SEEN];
	unsigned char *image, *kept;
};

__attribute__((format(printf, 2, 3), unused)) static long crash_says(char reason[CRASH_REASON],
                                                                     const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, CRASH_REASON, format, arguments);
	va_end(arguments);
	return -1;
}

static uint64_t crash_mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t crash_hash(uint64_t at, const void *data, size_t size)
{
	uint64_t hash = at + 1, word;

	for (size_t i = 0; i < size; i += 8) {
		memcpy(&word, (const char *)data + i, 8);
		hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 29;
	}
	return crash_mix(hash);
}

/* Whether this medium, with what may be found on it, is a new one. */
static bool crash_is_new(struct crash_states *states, uint64_t hash)
{
	uint64_t *slot;

	hash = crash_mix(hash ^ (uint64_t)states->lo << 32 ^ (uint64_t)states->hi << 8 ^
	                 (states->in_nested ? (uint64_t)states->must << 44 ^ 1 : 0)) |
	       1;
	slot = &states->seen[hash % CRASH_SEEN];
	if (*slot == hash)
		return false;
	*slot = hash;
	return true;
}

static const char *crash_point_name(enum lh_crash_point kind)
{
	static const char *const name[] = { "request", "sync", "flush", "fence" };

	return name[kind];
}

static bool crash_enough(const struct crash_states *states)
{
	return states->failed || (states->limit && states->tried >= states->limit);
}

static void crash_fail(struct crash_states *states, const char *when, const char *why)
{
	if (!states->failed)
		snprintf(states->reason, sizeof states->reason, "%s, point %llu, medium %llu: %s", when,
		         (unsigned long long)states->points, (unsigned long long)states->tried, why);
	states->failed = true;
}

static bool crash_chance(struct crash_states *states, unsigned one_in)
{
	return random_next(&states->random) % one_in == 0;
}

/* Recovers states->image and judges it; the state found, or negative. */
static long crash_try(struct crash_states *states, const char *when)
{
	char reason[CRASH_REASON] = "";
	long lo = states->in_nested ? states->must : states->lo,
	     hi = states->in_nested ? states->must : states->hi;
	long found;

	states->tried++;
	lh__crash_reset(states->scratch, states->image);
	found = states->recover(states->context, states->scratch, crash_chance(states, 4) ? CRASH_GO_ON : 0,
	                        reason);
	if (found >= 0 && (found < lo || found > hi)) {
		crash_says(reason, "state %ld was found, which is not one of %ld to %ld", found, lo, hi);
		found = -1;
	}
	if (found < 0)
		crash_fail(states, when, reason);
	return found;
}

/* ---- choosing ---- */

static void crash_take(struct crash_states *states, const struct lh_crash_unit *unit, unsigned choice)
{
	memcpy(states->image + unit->at, unit->choice[choice], states->unit);
}

/* Some words of the line from one choice, some from another. */
static void crash_tear(struct crash_states *states, const struct lh_crash_unit *unit)
{
	uint64_t random = random_next(&states->random);

	for (size_t i = 0; i < states->unit; i += 8)
		memcpy(states->image + unit->at + i,
		       (const char *)unit->choice[(random >> i) % unit->choices] + i, 8);
}

enum { CRASH_WHOLE, CRASH_TORN };

/* Tries the medium that these choices make of what is certain. */
static void crash_try_choices(struct crash_states *states, const struct lh_crash_unit *units, size_t n,
                              const unsigned char *choice, uint64_t base, int way, const char *when)
{
	uint64_t hash = base;

	for (size_t i = 0; i < n; i++) {
		if (way == CRASH_TORN && crash_chance(states, 2))
			crash_tear(states, &units[i]);
		else
			crash_take(states, &units[i], choice[i]);
		hash ^= crash_hash(units[i].at, states->image + units[i].at, states->unit) ^
		        crash_hash(units[i].at, units[i].choice[0], states->unit);
	}
	if (crash_is_new(states, hash))
		crash_try(states, when);
}

static void crash_try_all(struct crash_states *states, const struct lh_crash_unit *units, size_t n,
                          uint64_t base, const char *when)
{
	unsigned char choice[CRASH_UNITS] = { 0 };
	size_t i;

	states->exhaustive++;
	do {
		crash_try_choices(states, units, n, choice, base, CRASH_WHOLE, when);
		for (i = 0; i < n && ++choice[i] == units[i].choices; i++)
			choice[i] = 0;
	} while (i < n && !crash_enough(states));
}

/* All as one choice (0: certain; else the newest), but one unit, which is the other way. */
static void crash_try_one(struct crash_states *states, const struct lh_crash_unit *units, size_t n,
                          size_t one, bool arrived, uint64_t base, const char *when)
{
	unsigned char choice[CRASH_UNITS];

	for (size_t i = 0; i < n; i++)
		choice[i] = arrived != (i == one) ? units[i].choices - 1 : 0;
	crash_try_choices(states, units, n, choice, base, CRASH_WHOLE, when);
}

static void crash_try_sample(struct crash_states *states, const struct lh_crash_unit *units, size_t n,
                             uint64_t base, int way, const char *when)
{
	unsigned char choice[CRASH_UNITS];
	unsigned density = (unsigned)(random_next(&states->random) % 7) + 1;

	for (size_t i = 0; i < n; i++)
		choice[i] = random_next(&states->random) % 8 < density
		                    ? (unsigned char)(random_next(&states->random) % units[i].choices)
		                    : (unsigned char)(units[i].choices - 1);
	crash_try_choices(states, units, n, choice, base, way, when);
}

static void crash_try_some(struct crash_states *states, const struct lh_crash_unit *units, size_t n,
                           uint64_t base, unsigned samples, const char *when)
{
	unsigned i;

	crash_try_one(states, units, n, n, false, base, when);
	crash_try_one(states, units, n, n, true, base, when);
	for (i = 0; i < samples && !crash_enough(states); i++) {
		size_t one = random_next(&states->random) % n;

		crash_try_one(states, units, n, one, false, base, when);
		crash_try_one(states, units, n, one, true, base, when);
		crash_try_sample(states, units, n, base, CRASH_WHOLE, when);
		if (states->unit == LH_LINE_SIZE)
			crash_try_sample(states, units, n, base, CRASH_TORN, when);
	}
}

static bool crash_few(const struct lh_crash_unit *units, size_t n)
{
	uint64_t product = 1;

	for (size_t i = 0; i < n && product <= CRASH_ALL; i++)
		product *= units[i].choices;
	return product <= CRASH_ALL;
}

static uint64_t crash_base(const struct crash_states *states, const unsigned char *certain)
{
	uint64_t hash = 0;

	for (size_t i = 0; i < states->size; i += states->unit)
		hash ^= crash_hash(i, certain + i, states->unit);
	return hash;
}

/* All media that this crash of medium leaves, or a sample of them. */
static void crash_explore(struct crash_states *states, struct lh_crash *medium, struct lh_crash_unit *units,
                          const char *when)
{
	size_t n = lh__crash_in_flight(medium, units, CRASH_UNITS), i;
	uint64_t base = crash_base(states, lh__crash_certain(medium));
	unsigned samples = states->in_nested ? CRASH_SAMPLES / 6 : CRASH_SAMPLES;

	memcpy(states->image, lh__crash_certain(medium), states->size);
	if (crash_few(units, n) && (!states->in_nested || n <= 4))
		crash_try_all(states, units, n, base, when);
	else
		crash_try_some(states, units, n, base, samples, when);
	if (states->unit != LH_LINE_SIZE || n == 0)
		return;
	for (i = 0; i < samples && !crash_enough(states); i++)
		crash_try_sample(states, units, n, base, CRASH_TORN, when);
}

/* ---- crashes of recoveries ---- */

static void crash_nested_point(void *context, struct lh_crash *medium, enum lh_crash_point kind)
{
	struct crash_states *states = context;
	char when[80];

	if (crash_enough(states) || !states->in_nested)
		return;
	snprintf(when, sizeof when, "in a recovery, at a %s", crash_point_name(kind));
	crash_explore(states, medium, states->nested_units, when);
}

/* Recovers states->image, crashing on the way; then the power is lost after all that was promised. */
static void crash_recovery(struct crash_states *states, const char *when)
{
	char reason[CRASH_REASON] = "", nested_when[120];
	long found = crash_try(states, when);

	if (found < 0)
		return;
	states->recoveries++;
	memcpy(states->kept, states->image, states->size);
	lh__crash_reset(states->nested, states->kept);
	states->must = found;
	states->in_nested = true;
	if (states->recover(states->context, states->nested, 0, reason) != found && !states->failed)
		crash_fail(states, "recovered once more", reason);
	snprintf(nested_when, sizeof nested_when, "after a recovery, %s", when);
	if (!states->failed)
		crash_explore(states, states->nested, states->nested_units, nested_when);
	states->in_nested = false;
}

/* ---- the run ---- */

static void crash_point(void *context, struct lh_crash *medium, enum lh_crash_point kind)
{
	struct crash_states *states = context;
	char when[80];
	size_t n;

	if (states->resting || crash_enough(states))
		return;
	states->points++;
	snprintf(when, sizeof when, "at a %s", crash_point_name(kind));
	crash_explore(states, medium, states->units, when);
	if (!crash_chance(states, 16) || crash_enough(states))
		return;
	/* The image is still one of those. */
	n = lh__crash_in_flight(medium, states->units, CRASH_UNITS);
	for (size_t i = 0; i < n; i++)
		crash_take(states, &states->units[i],
		           (unsigned)(random_next(&states->random) % states->units[i].choices));
	crash_recovery(states, when);
}

/* At the end of a call: what was acknowledged is certain, whatever has become of the rest. */
__attribute__((unused)) static void crash_acknowledged(struct crash_states *states, long state)
{
	states->lo = states->hi = state;
	if (states->resting || crash_enough(states))
		return;
	states->points++;
	crash_explore(states, states->medium, states->units, "after it was acknowledged");
}

__attribute__((unused)) static void crash_states_close(struct crash_states *states)
{
	if (states->medium)
		lh__crash_close(states->medium);
	if (states->scratch)
		lh__crash_close(states->scratch);
	if (states->nested)
		lh__crash_close(states->nested);
	free(states->image);
	free(states->kept);
	states->medium = states->scratch = states->nested = NULL;
	states->image = states->kept = NULL;
}

/* Media of the kind that options say; their points are this file's. */
__attribute__((unused)) static void crash_states_open(struct crash_states *states, const struct lh_sys *sys,
                                                      const struct lh_crash_options *given)
{
	struct lh_crash_options options = *given;

	options.context = states;
	options.point = crash_point;
	if (lh__crash_open(sys, &options, &states->medium) != 0)
		abort();
	options.point = crash_nested_point;
	if (lh__crash_open(sys, &options, &states->nested) != 0)
		abort();
	options.calm = true;
	if (lh__crash_open(sys, &options, &states->scratch) != 0)
		abort();
	states->unit = lh__crash_unit_size(states->medium);
	states->size = options.pages * LH_PAGE_SIZE;
	states->image = malloc(states->size);
	states->kept = malloc(states->size);
	if (!states->image || !states->kept)
		abort();
	memset(states->seen, 0, sizeof states->seen);
}

/* ---- many runs ---- */

struct crash_totals {
	uint64_t media, points, recoveries, exhaustive, runs;
};

/* LH_TEST_STATES, or `usual` of them; a run that was begun goes on to its end. */
__attribute__((unused)) static uint64_t crash_states_wanted(uint64_t usual)
{
	const char *given = getenv("LH_TEST_STATES");

	return given ? strtoull(given, NULL, 0) : usual;
}

/* Where a sanitizer makes everything slow, runs end early. 0: they do not. */
__attribute__((unused)) static uint64_t crash_states_limit(uint64_t rest)
{
	const char *sanitizer = getenv("SAN");

	return sanitizer && sanitizer[0] ? rest : 0;
}

/* Adds a run that has ended; false, and how to see it again, where it failed. */
__attribute__((unused)) static bool crash_total(struct crash_totals *totals,
                                                const struct crash_states *states, uint64_t seed)
{
	totals->media += states->tried;
	totals->points += states->points;
	totals->recoveries += states->recoveries;
	totals->exhaustive += states->exhaustive;
	totals->runs++;
	if (states->failed)
		printf("# %s\n# LH_TEST_SEED=%llu shows it again\n", states->reason,
		       (unsigned long long)seed);
	return !states->failed;
}

__attribute__((unused)) static void crash_totals_print(const struct crash_totals *totals)
{
	printf("# %llu media (%llu times all that there could be) at %llu points of %llu runs; %llu crashing "
	       "recoveries\n",
	       (unsigned long long)totals->media, (unsigned long long)totals->exhaustive,
	       (unsigned long long)totals->points, (unsigned long long)totals->runs,
	       (unsigned long long)totals->recoveries);
}

#endif
