/*
 * crash_together.c - every crash of scripted runs of two and three pools: what is recovered, in whatever
 * order, is in all pools what was committed last, or in all of them what was being committed then.
 *
 * LH_TEST_STATES=N looks at no fewer media; LH_TEST_SEED=N begins with that seed.
 */
/* timeout: 900 */
#include "crash_together.h"
#include "tap.h"

enum { STATES = 50000, MORE = 100 };

static bool run_way(const struct together_way *way, uint64_t first, uint64_t limit)
{
	struct together_run *run = malloc(sizeof *run);
	struct crash_totals totals = { .media = 0 };
	uint64_t seed = first, together = 0, asks = 0, aborts = 0;
	bool whole = run != NULL;

	/* Where by chance no script had a transaction over several pools there are more, until one has. */
	while (whole && (totals.media < limit || (asks == 0 && seed < first + 2 * MORE))) {
		uint64_t left = totals.media < limit ? limit - totals.media : 1000;

		together_script(run, way, seed, crash_states_limit(left));
		whole = crash_total(&totals, &run->states, seed);
		together += run->together;
		asks += run->asks;
		aborts += run->joint_aborts;
		seed += 2;
	}
	crash_totals_print(&totals);
	printf("# %llu commits, %llu too large; %llu times a pool had to ask another\n",
	       (unsigned long long)together, (unsigned long long)aborts, (unsigned long long)asks);
	free(run);
	return whole && asks > 0;
}

int main(void)
{
	uint64_t states = crash_states_wanted(STATES), seed = random_seed();
	unsigned i;

	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	for (i = 0; i < TOGETHER_WAYS; i++)
		ok(run_way(&together_ways[i], seed, states / TOGETHER_WAYS),
		   "%s: every crash is recovered from", together_ways[i].name);
	return done();
}
