/*
 * journal_damage.c - a damaged journal is refused, or recovered rightly, and never silently wrong.
 */
/* timeout: 120 */
#include "crash_damage.h"
#include "tap.h"

int main(void)
{
	struct journal_run *run = malloc(sizeof *run);
	uint64_t seed = random_seed();

	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	for (unsigned kind = 0; kind < DAMAGE_KINDS && run; kind++) {
		uint64_t tried = 0, refused = 0;

		journal_damage(run, (enum damage_at)kind, seed, &tried, &refused);
		if (run->states.failed)
			printf("# %s\n", run->states.reason);
		ok(!run->states.failed && refused > 0, "%s: %llu damages, of which %llu are refused",
		   damage_name[kind], (unsigned long long)tried, (unsigned long long)refused);
	}
	free(run);
	return done();
}
