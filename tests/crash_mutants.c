/*
 * crash_mutants.c - the crash tester is tested: it must notice each of the faults that sys/mutant.h plants
 * in the code that keeps things durable. The Makefile builds that code a second time for this program.
 *
 * LH_TEST_MUTANT=NAME tries that one alone.
 */
/* timeout: 600 */
#include <poll.h>
#include <signal.h>

#include "crash_damage.h"
#include "crash_pool.h"
#include "crash_together.h"
#include "sys/mutant.h"
#include "tap.h"

enum { ROUNDS = 3, MEDIA = 12000, PATIENCE_MS = 100000 };

enum lh_mutant lh__mutant;

static const char *const mutant_name[] = { "none",
#define NAME_OF(name) #name,
	                                   LH_MUTANT_LIST(NAME_OF)
#undef NAME_OF
};

/* Whether the run that has just ended noticed something: then says so into why. */
static bool noticed(const struct crash_states *states, const char *by, char *why, size_t size)
{
	if (states->failed)
		snprintf(why, size, "%s: %.300s", by, states->reason);
	return states->failed;
}

/* A class of stores that is not seen shows where code is translated, and nowhere else. */
static bool is_of_stores(enum lh_mutant mutant)
{
	return mutant >= LH_MUTANT_SEES_NO_PLAIN;
}

/* And what is wrong with several pools where there are several. */
static bool is_of_several(enum lh_mutant mutant)
{
	return mutant >= LH_MUTANT_DECIDED_TOO_EARLY && !is_of_stores(mutant);
}

static bool journal_notices(struct journal_run *run, uint64_t seed, char *why, size_t size)
{
	uint64_t tried = 0, refused = 0;
	unsigned i;

	if (is_of_stores(lh__mutant) || is_of_several(lh__mutant))
		return false;
	for (i = 0; i < JOURNAL_WAYS; i++) {
		journal_script(run, &journal_ways[i], seed, MEDIA);
		if (noticed(&run->states, journal_ways[i].name, why, size))
			return true;
	}
	for (i = 0; i < DAMAGE_KINDS; i++) {
		journal_damage(run, (enum damage_at)i, seed, &tried, &refused);
		if (noticed(&run->states, "damage", why, size))
			return true;
	}
	return false;
}

static bool pool_notices(struct pool_run *run, uint64_t seed, char *why, size_t size)
{
	unsigned i;

	if (is_of_several(lh__mutant))
		return false;
	for (i = 0; i < POOL_WAYS; i++) {
		if (lh__mutant != LH_MUTANT_NONE &&
		    is_of_stores(lh__mutant) != (pool_ways[i].see == LH_SEE_TRANSLATED))
			continue;
		pool_script(run, &pool_ways[i], seed, MEDIA);
		if (noticed(&run->states, pool_ways[i].name, why, size))
			return true;
	}
	return false;
}

static bool together_notices(struct together_run *run, uint64_t seed, char *why, size_t size)
{
	unsigned i;

	if (!is_of_several(lh__mutant) && lh__mutant != LH_MUTANT_NONE)
		return false;
	for (i = 0; i < TOGETHER_WAYS; i++) {
		together_script(run, &together_ways[i], seed,
		                lh__mutant == LH_MUTANT_NONE ? MEDIA / 8 : MEDIA);
		if (noticed(&run->states, together_ways[i].name, why, size))
			return true;
	}
	return false;
}

/* In a child: what is wrong on purpose may also crash. */
static void child(enum lh_mutant mutant, int out)
{
	struct journal_run *journal = malloc(sizeof *journal);
	struct pool_run *pool = malloc(sizeof *pool);
	struct together_run *together = malloc(sizeof *together);
	char why[CRASH_REASON] = "";
	unsigned rounds = mutant == LH_MUTANT_NONE ? 1 : ROUNDS;
	uint64_t seed;

	lh__mutant = mutant;
	for (seed = 1; journal && pool && together && seed < 1 + 2 * rounds; seed += 2)
		if (journal_notices(journal, seed, why, sizeof why) ||
		    pool_notices(pool, seed, why, sizeof why) ||
		    together_notices(together, seed, why, sizeof why))
			break;
	if (write(out, why, strlen(why)) < 0)
		_exit(2);
	_exit(0);
}

/*
 * Reads what the child says; what it dies of says something too. Empty: nothing noticed, nor where it did not
 * end in time: that may be the machine's doing.
 */
static void watch(pid_t pid, int in, char *why, size_t size)
{
	struct pollfd ready = { .fd = in, .events = POLLIN };
	bool stopped = false;
	int status = 0;
	ssize_t got = 0;

	why[0] = 0;
	if (poll(&ready, 1, PATIENCE_MS) == 1) {
		got = read(in, why, size - 1);
		why[got > 0 ? got : 0] = 0;
	} else {
		printf("# it was stopped after %d s\n", PATIENCE_MS / 1000);
		kill(pid, SIGKILL);
		stopped = true;
	}
	if (waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && !why[0] && !stopped)
		snprintf(why, size, "it dies of signal %d", WTERMSIG(status));
}

static void try_mutant(enum lh_mutant mutant, char *why, size_t size)
{
	int ends[2];
	pid_t pid;

	fflush(stdout);
	if (pipe(ends) != 0)
		abort();
	pid = fork();
	if (pid == 0)
		child(mutant, ends[1]);
	close(ends[1]);
	if (pid > 0)
		watch(pid, ends[0], why, size);
	close(ends[0]);
}

int main(void)
{
	const char *one = getenv("LH_TEST_MUTANT"), *sanitizer = getenv("SAN");
	unsigned killed = 0, tried = 0;
	char why[CRASH_REASON];

	if (sanitizer && sanitizer[0]) {
		skip("planted faults are noticed", "with a sanitizer it takes too long and shows no more");
		return done();
	}
	for (int i = 0; i < LH_MUTANT_COUNT; i++) {
		if (one && strcmp(one, mutant_name[i]) != 0)
			continue;
		try_mutant((enum lh_mutant)i, why, sizeof why);
		if (why[0])
			printf("# %s\n", why);
		if (i == LH_MUTANT_NONE) {
			ok(!why[0], "without a fault nothing is noticed");
			continue;
		}
		tried++;
		killed += why[0] != 0;
		ok(why[0] != 0, "noticed: %s", mutant_name[i]);
	}
	printf("# killed %u of %u\n", killed, tried);
	return done();
}
