/*
 * migrate_pace.c - how fast the background asks, by a clock that is only counted: the limit of bandwidth
 * holds whoever borrows, and a lane's window fits the link, also one that becomes slower. That the checks see
 * a bucket that gives too much, or a window that does not shrink, is shown too.
 */
#include <stdbool.h>
#include <stdlib.h>

#include "line_random.h"
#include "service/migrate/engine_pace.h"
#include "tap.h"

#define PAGE 4096u
#define MS UINT64_C(1000000)
#define RATE 0.125 /* bytes a ns */

/* ---- the limit ---- */

#define STEP (MS / 4)
#define STEPS 12000u /* 3 s */
#define OVER 400u    /* 100 ms */

struct load {
	unsigned hints, faults; /* pages that are predicted, and missed, in a step, on average */
	bool free;              /* planted: what is borrowed is not made up for */
};

static unsigned about(uint64_t *random, unsigned average)
{
	return average ? (unsigned)((random_next(random) >> 33) % (2 * average + 1)) : 0;
}

/* Bytes in each step, by a background that takes all it gets. */
static void run_load(const struct load *load, double rate, uint64_t *bytes)
{
	struct lh_bucket bucket = { .rate = rate, .page = PAGE };
	uint64_t random = 4711, now = MS, wait;

	for (unsigned i = 0; i < STEPS; i++, now += STEP) {
		unsigned faults = about(&random, load->faults);
		size_t pages = lh__bucket_allow(&bucket, now, 64, &wait);
		size_t soon = lh__bucket_borrow(&bucket, now, about(&random, load->hints));

		lh__bucket_spend(&bucket, (pages + soon) * PAGE, (pages + soon + faults) * PAGE);
		if (load->free)
			lh__bucket_spend(&bucket, soon * PAGE, 0);
		bytes[i] = (pages + soon + faults) * PAGE;
	}
}

/* By how much the busiest 100 ms, and all of it, surpass the rate. */
static double busiest(const uint64_t *bytes, double rate, double *average)
{
	uint64_t sum = 0, most = 0, all = 0;

	for (unsigned i = 0; i < STEPS; i++) {
		sum += bytes[i] - (i >= OVER ? bytes[i - OVER] : 0);
		most = sum > most ? sum : most;
		all += bytes[i];
	}
	*average = (double)all / (rate * STEPS * (double)STEP);
	return (double)most / (rate * OVER * (double)STEP);
}

static bool holds(const struct load *load, double rate)
{
	static uint64_t bytes[STEPS];
	double average, most;

	run_load(load, rate, bytes);
	most = busiest(bytes, rate, &average);
	printf("# %u predicted and %u missed a step: %.2f of the rate in 100 ms, %.3f in all\n", load->hints,
	       load->faults, most, average);
	return most < 1.46 && average > 0.98 && average < 1.02;
}

static void limit(void)
{
	ok(holds(&(struct load){ 0, 0, false }, RATE), "the limit holds, and all of it is used");
	ok(holds(&(struct load){ 3, 0, false }, RATE), "so it does where some pages are predicted");
	ok(holds(&(struct load){ 200, 0, false }, RATE), "and where more are than the link can take");
	ok(holds(&(struct load){ 20, 2, false }, RATE), "and where pages are missed");
	ok(!holds(&(struct load){ 20, 0, true }, RATE), "planted: what was borrowed is not made up for");
}

static void borrowing(void)
{
	struct lh_bucket bucket = { .rate = RATE, .page = PAGE };
	uint64_t wait;

	is(lh__bucket_allow(&bucket, MS, 64, &wait), 0, "nothing is in a bucket at first");
	ok(wait >= MS && wait < 2 * MS, "and it is worth looking again after a millisecond");
	is(lh__bucket_borrow(&bucket, MS, 64), 64, "what is predicted may be asked for at once");
	is(lh__bucket_borrow(&bucket, MS, 10000), 762 - 64, "up to 25 ms of it");
	is(lh__bucket_borrow(&bucket, MS, 10000), 0, "and no more");
	is(lh__bucket_allow(&bucket, 20 * MS, 64, &wait), 0, "the background waits meanwhile");
	ok(wait > 5 * MS && wait < 7 * MS, "until that has been made up for");
	is(lh__bucket_allow(&bucket, 20 * MS + wait, 64, &wait), 1, "and goes on then");
	lh__bucket_spend(&bucket, 0, 1u << 30);
	is(lh__bucket_borrow(&bucket, 200 * MS, 64), 0, "faults are never held up, but come first");
	is(lh__bucket_allow(&bucket, 300 * MS, 64, &wait), 64, "and are made up for within 250 ms");
	is(lh__bucket_allow(&bucket, 299 * MS, 10000, &wait), 610 - 64,
	   "a clock that goes back gives nothing");
}

static void few(void)
{
	struct lh_bucket slow = { .rate = 1e-5, .page = PAGE }, none = { .page = PAGE };
	uint64_t wait;

	is(lh__bucket_borrow(&slow, MS, 64), 16, "by the slowest link sixteen pages may be borrowed");
	is(lh__bucket_allow(&none, MS, 64, &wait), 64, "without a limit all are allowed");
	is(lh__bucket_borrow(&none, MS, 64), 64, "all the more so to borrow");
	is(wait, 0, "and nothing is waited for");
}

/* ---- the window ---- */

#define FLYING 1024u

struct lane {
	struct lh_window window;
	uint64_t asked[FLYING], comes[FLYING]; /* rings */
	unsigned head, tail;
	uint64_t now, link_free;
};

/* Pages come, each followed by as many questions as the window has room for. */
static void run_lane(struct lane *lane, uint64_t rtt, uint64_t page, unsigned pages, bool fit)
{
	while (pages--) {
		while (lane->tail - lane->head < lane->window.pages) {
			uint64_t reaches = lane->now + rtt;

			lane->link_free = (lane->link_free > reaches ? lane->link_free : reaches) + page;
			lane->asked[lane->tail % FLYING] = lane->now;
			lane->comes[lane->tail++ % FLYING] = lane->link_free;
		}
		lane->now = lane->comes[lane->head % FLYING];
		if (fit)
			lh__window_fit(&lane->window, lane->now,
			               lane->now - lane->asked[lane->head % FLYING]);
		lane->head++;
	}
}

/* How long what is asked for now would queue: ns. */
static uint64_t queue(const struct lane *lane, uint64_t rtt)
{
	return lane->link_free > lane->now + rtt ? lane->link_free - lane->now - rtt : 0;
}

static struct lane new_lane(void)
{
	struct lane lane = { .now = MS };

	lh__window_reset(&lane.window);
	return lane;
}

static void window(void)
{
	struct lane lane = new_lane();

	run_lane(&lane, 10 * MS, 4096, 20000, true);
	is(lane.window.pages, LH_WINDOW_MAX, "over a long and quick link the window grows to its end");
	lane = new_lane();
	run_lane(&lane, MS / 5, 32768, 20000, true);
	ok(queue(&lane, MS / 5) < 7 * MS, "at 125 MB/s what is asked for queues for a short while: %.1f ms",
	   (double)queue(&lane, MS / 5) / 1e6);
	ok(queue(&lane, MS / 5) > 0, "and the link is never idle");
	lane = new_lane();
	run_lane(&lane, MS / 5, 327680, 2000, true);
	is(lane.window.pages, LH_WINDOW_MIN, "over a slow link it stays as it begins");
}

/* A quick link becomes slow: the queue after so many pages. */
static uint64_t slowed(bool fit)
{
	struct lane lane = new_lane();

	run_lane(&lane, MS, 4096, 5000, true);
	run_lane(&lane, MS, 65536, 5000, fit);
	return queue(&lane, MS);
}

static void slower(void)
{
	ok(slowed(true) < 7 * MS, "where a link becomes slower it shrinks: %.1f ms",
	   (double)slowed(true) / 1e6);
	ok(slowed(false) > 20 * MS, "planted: a window that does not: %.1f ms", (double)slowed(false) / 1e6);
}

int main(void)
{
	limit();
	borrowing();
	few();
	window();
	slower();
	return done();
}
