/*
 * crash_journal.c - every crash of scripted runs of the journal: what is recovered is what was acknowledged last,
 * or what was being written then, and nothing else.
 *
 * LH_TEST_STATES=N looks at about so many media; LH_TEST_SEED=N begins with that seed.
 */
/* timeout: 900 */
#include "crash_journal.h"
#include "tap.h"

enum { STATES = 100000 };

struct totals {
	uint64_t media, points, recoveries, exhaustive, runs;
};

static bool run_way(const struct journal_way *way, uint64_t first, uint64_t limit)
{
	struct journal_run *run = malloc(sizeof *run);
	struct totals totals = { .media = 0 };
	uint64_t seed = first;
	bool failed = false;

	while (run && !failed && totals.media < limit) {
		journal_script(run, way, seed, limit - totals.media);
		totals.media += run->states.tried;
		totals.points += run->states.points;
		totals.recoveries += run->states.recoveries;
		totals.exhaustive += run->states.exhaustive;
		totals.runs++;
		failed = run->states.failed;
		if (failed)
			printf("# %s\n# LH_TEST_SEED=%llu shows it again\n", run->states.reason,
			       (unsigned long long)seed);
		seed += 2;
	}
	printf("# %llu media, at %llu points (all of them at %llu), of %llu runs; %llu crashing recoveries\n",
	       (unsigned long long)totals.media, (unsigned long long)totals.points,
	       (unsigned long long)totals.exhaustive, (unsigned long long)totals.runs,
	       (unsigned long long)totals.recoveries);
	free(run);
	return run && !failed;
}

int main(void)
{
	const char *given = getenv("LH_TEST_STATES");
	uint64_t states = given ? strtoull(given, NULL, 0) : STATES, seed = random_seed();
	unsigned i;

	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	for (i = 0; i < JOURNAL_WAYS; i++)
		ok(run_way(&journal_ways[i], seed, states / JOURNAL_WAYS),
		   "%s: every crash is recovered from", journal_ways[i].name);
	return done();
}
