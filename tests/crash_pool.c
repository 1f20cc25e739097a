/*
 * crash_pool.c - every crash of scripted runs of a pool: what is recovered is what was committed last, or
 * what was being committed then, byte for byte, and its heap is whole.
 *
 * LH_TEST_STATES=N looks at no fewer media; LH_TEST_SEED=N begins with that seed.
 */
/* timeout: 900 */
#include "crash_pool.h"
#include "tap.h"

enum { STATES = 60000 };

static bool run_way(const struct pool_way *way, uint64_t first, uint64_t limit)
{
	struct pool_run *run = malloc(sizeof *run);
	struct crash_totals totals = { .media = 0 };
	uint64_t seed = first;
	bool whole = run != NULL;

	while (whole && totals.media < limit) {
		pool_script(run, way, seed, crash_states_limit(limit - totals.media));
		whole = crash_total(&totals, &run->states, seed);
		seed += 2;
	}
	crash_totals_print(&totals);
	free(run);
	return whole;
}

int main(void)
{
	uint64_t states = crash_states_wanted(STATES), seed = random_seed();
	unsigned i;

	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	for (i = 0; i < POOL_WAYS; i++)
		ok(run_way(&pool_ways[i], seed, states / POOL_WAYS), "%s: every crash is recovered from",
		   pool_ways[i].name);
	return done();
}
