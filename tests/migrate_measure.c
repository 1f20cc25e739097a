/*
 * migrate_measure.c - what a guest feels: series with known answers, and random ones against a model that
 * follows the definitions literally, in steps of 100 us.
 */
#include "line_random.h"
#include "service/migrate/measure.h"
#include "tap.h"

#include <pthread.h>
#include <sys/syscall.h>

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define BASE (UINT64_C(1000) * 1000 * MS) /* when the guest begins to run */

static uint64_t seed;

static struct lh_measure *opened(void)
{
	struct lh_measure *measure;

	if (lh__measure_open(&measure) != 0)
		abort();
	return measure;
}

static struct lh_measured measured(struct lh_measure *measure, uint64_t now)
{
	struct lh_measured out;

	lh__measure_read(measure, now, &out);
	return out;
}

/* A wait from `from` to `to` ms after the guest began to run. */
static void waits(struct lh_measure *measure, pid_t thread, unsigned from, unsigned to)
{
	lh__measure_fault(measure, LH_FAULT_FAR, thread, BASE + from * MS, BASE + to * MS);
}

/* ---- latencies ---- */

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static bool bounds(uint64_t got, const uint64_t *sorted, unsigned n, unsigned percent)
{
	uint64_t exact = sorted[(n * percent + 99) / 100 - 1];

	return got >= exact && got <= exact + exact / 16;
}

static void latencies(void)
{
	unsigned wrong = 0, planted = 0;

	for (unsigned round = 0; round < 200; round++) {
		struct lh_measure *measure = opened();
		uint64_t value[100];
		unsigned n = 1 + (unsigned)(random_next(&seed) % 100);
		struct lh_measured out;

		for (unsigned i = 0; i < n; i++) {
			value[i] = random_next(&seed) >> random_next(&seed) % 62 >> 2;
			lh__measure_fault(measure, LH_FAULT_HERE, 1, 1000, 1000 + value[i]);
		}
		qsort(value, n, sizeof *value, by_value);
		out = measured(measure, BASE);
		wrong += out.faults[LH_FAULT_HERE] != n || out.max[LH_FAULT_HERE] != value[n - 1];
		wrong += !bounds(out.p50[LH_FAULT_HERE], value, n, 50);
		wrong += !bounds(out.p90[LH_FAULT_HERE], value, n, 90);
		wrong += !bounds(out.p99[LH_FAULT_HERE], value, n, 99);
		wrong += out.faults[LH_FAULT_FAR] != 0 || out.p99[LH_FAULT_FAR] != 0;
		planted += !bounds(out.p50[LH_FAULT_HERE] - out.p50[LH_FAULT_HERE] / 16 - 1, value, n, 50);
		lh__measure_close(measure);
	}
	is(wrong, 0, "percentiles are upper bounds within a sixteenth; counts and maximum are exact");
	ok(planted > 100, "... and one that is too small would be noticed");
}

/* ---- known answers ---- */

static struct lh_measure *two_vcpus(void)
{
	static const pid_t vcpu[2] = { 11, 12 };
	struct lh_measure *measure = opened();

	lh__measure_threads(measure, vcpu, 2);
	lh__measure_stopped(measure, BASE - 7 * MS);
	lh__measure_runs(measure, BASE);
	return measure;
}

static void known_silence(void)
{
	struct lh_measure *measure = two_vcpus();

	is(measured(measure, BASE + 3 * MS).silence, UINT64_MAX, "before the first window has ended");
	waits(measure, 11, 0, 30);
	waits(measure, 12, 1, 7);
	waits(measure, 12, 12, 17);
	ok(measured(measure, BASE + 29 * MS).silence == UINT64_MAX,
	   "the vCPU that waits least waits for half of each window");
	waits(measure, 12, 20, 22);
	waits(measure, 12, 23, 25);
	is(measured(measure, BASE + 30 * MS).silence, 27 * MS, "less than half of the third: 7 + 20 ms");
	waits(measure, 99, 30, 500);
	is(measured(measure, BASE + 600 * MS).silence, 27 * MS, "threads that are no vCPUs do not count");
	waits(measure, 12, 22, 23);
	is(measured(measure, BASE + 600 * MS).silence, 37 * MS, "a wait that becomes known later does");
	is(measured(measure, BASE).stop_to_run, 7 * MS, "from stop to run");
	is(measured(measure, BASE).run_to_complete, UINT64_MAX, "not complete");
	is(measured(measure, BASE).stalled, (30 + 6 + 5 + 5 + 470) * MS, "all waits of all threads");
	lh__measure_close(measure);
}

static void known_recovery(void)
{
	struct lh_measure *measure = two_vcpus();

	for (unsigned at = 0; at < 50; at += 10)
		waits(measure, 11, at, at + 8);
	/* A tenth of 400 ms: in [0, 200) there are 40, in [10, 210) 32. */
	is(measured(measure, BASE + 1009 * MS).recovery, UINT64_MAX, "a second has to pass from there");
	is(measured(measure, BASE + 1010 * MS).recovery, (7 + 10) * MS,
	   "less than a tenth of both from 10 ms on");
	waits(measure, 12, 500, 520);
	is(measured(measure, BASE + 1010 * MS).recovery, (7 + 10) * MS, "a short wait later on is nothing");
	waits(measure, 12, 500, 700);
	/* In [500, 1500) there are 200 of 2000, in [660, 860) 40 of 400, in [670, 870) 30. */
	is(measured(measure, BASE + 1500 * MS).recovery, UINT64_MAX, "a long wait within the second is");
	is(measured(measure, BASE + 2300 * MS).recovery, (7 + 670) * MS, "... and most of it has to be over");
	lh__measure_complete(measure, BASE + 701 * MS);
	is(measured(measure, BASE + 701 * MS).recovery, (7 + 670) * MS,
	   "when all is complete nobody has to wait to know");
	is(measured(measure, BASE).run_to_complete, 701 * MS, "from run to complete");
	lh__measure_close(measure);

	measure = opened();
	lh__measure_runs(measure, BASE);
	lh__measure_complete(measure, BASE + 5 * MS);
	ok(measured(measure, BASE + 5 * MS).silence == UINT64_MAX &&
	           measured(measure, BASE + 5 * MS).stop_to_run == UINT64_MAX,
	   "nobody said when it stopped: not known");
	lh__measure_stopped(measure, BASE - 2 * MS);
	ok(measured(measure, BASE + 5 * MS).silence == 2 * MS &&
	           measured(measure, BASE + 5 * MS).recovery == 2 * MS,
	   "a guest that never faults: when it runs");
	lh__measure_close(measure);
}

static void rates(void)
{
	struct lh_measure *measure = opened();

	for (unsigned i = 0; i < 3000; i++)
		lh__measure_fault(measure, LH_FAULT_ZERO, 1, BASE + i * MS - 1, BASE + i * MS);
	is(measured(measure, BASE + 3000 * MS).faults_a_second, 1000, "a thousand faults a second");
	is(measured(measure, BASE + 3500 * MS).faults_a_second, 500, "... half a second later");
	is(measured(measure, BASE + 9000 * MS).faults_a_second, 0, "... and long after");
	lh__measure_close(measure);
}

/* ---- the model ---- */

#define STEP (100 * US)
#define STEPS 40000u /* 4 s */
#define VCPUS 3u

static unsigned char waiting[VCPUS][STEPS];

static unsigned model_waited(unsigned vcpu, unsigned from, unsigned steps)
{
	unsigned n = 0;

	for (unsigned i = from; i < from + steps; i++)
		n += waiting[vcpu][i];
	return n;
}

static uint64_t model_silence(void)
{
	for (unsigned from = 0;; from += 100) {
		unsigned least = UINT32_MAX;

		for (unsigned i = 0; i < VCPUS; i++) {
			unsigned waited = model_waited(i, from, 100);

			least = waited < least ? waited : least;
		}
		if (2 * least < 100)
			return from * STEP;
	}
}

static bool model_slow(unsigned from, unsigned steps)
{
	unsigned waited = 0;

	for (unsigned i = 0; i < VCPUS; i++)
		waited += model_waited(i, from, steps);
	return 10 * waited >= VCPUS * steps;
}

static uint64_t model_recovery(void)
{
	for (unsigned from = (unsigned)(model_silence() / STEP);; from += 100)
		if (!model_slow(from, 2000) && !model_slow(from, 10000))
			return from * STEP;
}

/* Waits get shorter and rarer; some are long, and known late. */
static void model_wait(struct lh_measure *measure, bool known)
{
	unsigned vcpu = (unsigned)(random_next(&seed) % VCPUS);
	unsigned span = 1u << random_next(&seed) % 15, from = (unsigned)(random_next(&seed) % span);
	unsigned size = 1 + (unsigned)(random_next(&seed) % (from < 1000 ? 300 : 1 + 200000 / from));

	lh__measure_fault(measure, LH_FAULT_FAR, known ? (pid_t)vcpu + 1 : 0, BASE + from * STEP,
	                  BASE + (from + size) * STEP);
	memset(&waiting[known ? vcpu : 0][from], 1, size);
}

static void against_a_model(bool known)
{
	static const pid_t vcpu[VCPUS] = { 1, 2, 3 };
	unsigned wrong = 0, different = 0;
	uint64_t before = 0;

	for (unsigned round = 0; round < 60; round++) {
		struct lh_measure *measure = opened();
		unsigned n = (unsigned)(random_next(&seed) % 600);
		struct lh_measured out;
		uint64_t stalled = 0;

		memset(waiting, 0, sizeof waiting);
		lh__measure_stopped(measure, BASE);
		lh__measure_runs(measure, BASE);
		if (known)
			lh__measure_threads(measure, vcpu, VCPUS);
		for (unsigned i = 0; i < n; i++) {
			model_wait(measure, known);
			if (i % 50 == 0)
				(void)measured(measure, BASE + random_next(&seed) % 4000 * MS);
		}
		for (unsigned i = 0; i < VCPUS; i++)
			stalled += model_waited(i, 0, STEPS) * STEP;
		for (unsigned i = 1; i < VCPUS && !known; i++)
			memcpy(waiting[i], waiting[0], sizeof waiting[0]);
		lh__measure_complete(measure, BASE + 4000 * MS);
		out = measured(measure, BASE + 4000 * MS);
		wrong += out.stalled != stalled || out.silence != model_silence() ||
		         out.recovery != model_recovery();
		different += out.recovery != before;
		before = out.recovery;
		lh__measure_close(measure);
	}
	is(wrong, 0, "%s: stalls, silence and recovery are as a literal model has them",
	   known ? "known vCPUs" : "threads that are not told apart");
	ok(different > 5, "... which are not always the same");
}

static void planted(void)
{
	struct lh_measure *measure = two_vcpus();
	unsigned wrong = 0;

	memset(waiting, 0, sizeof waiting);
	waits(measure, 11, 10, 40);
	waits(measure, 12, 10, 40);
	memset(&waiting[0][100], 1, 300);
	memset(&waiting[1][100], 1, 299);
	wrong += measured(measure, BASE + 3000 * MS).stalled !=
	         (model_waited(0, 0, STEPS) + model_waited(1, 0, STEPS)) * STEP;
	ok(wrong == 1, "a wait that is 100 us shorter than it was would be noticed");
	lh__measure_close(measure);
}

/* ---- threads ---- */

static void *adds(void *context)
{
	struct lh_measure *measure = context;
	pid_t self = (pid_t)syscall(SYS_gettid);

	for (unsigned i = 0; i < 5000; i++)
		lh__measure_fault(measure, (enum lh_fault_cause)(i % LH_FAULT_CAUSES), self,
		                  BASE + i * 10 * US, BASE + (i * 10 + 4) * US);
	return NULL;
}

static void threads(void)
{
	struct lh_measure *measure = opened();
	struct lh_measured out;
	pthread_t thread[3];

	for (unsigned i = 0; i < 3; i++)
		if (pthread_create(&thread[i], NULL, adds, measure) != 0)
			abort();
	for (unsigned i = 0; i < 50; i++)
		(void)measured(measure, BASE + i * MS);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	out = measured(measure, BASE + 50 * MS);
	is(out.faults[0] + out.faults[1] + out.faults[2], 15000, "three threads at once: all faults");
	is(out.stalled, 3 * 5000 * 4 * US, "... and all their waits");
	lh__measure_close(measure);
}

int main(void)
{
	seed = random_seed();
	printf("# seed %llu\n", (unsigned long long)seed);
	latencies();
	known_silence();
	known_recovery();
	rates();
	against_a_model(true);
	against_a_model(false);
	planted();
	threads();
	return done();
}
