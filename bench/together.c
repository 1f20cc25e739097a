/*
 * together.c - what a transaction over two pools costs beside one in each of them, and what tx_begin and
 * tx_end cost where nothing is changed.
 *
 *     together [ROUNDS]
 *
 * The alternatives are measured by turns, and the medians of the rounds printed. A transaction changes one
 * line of each pool.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "linehome/atomic.h"
#include "service/pool/inside.h"

#define ROUNDS_MAX 99u

struct place {
	const char *name, *folder;
	enum lh_see see;
	enum lh_log log;
	unsigned transactions; /* a round */
};

static const struct place places[] = {
	{ "tmpfs, undo, declared", "/dev/shm", LH_SEE_DECLARED, LH_LOG_UNDO, 20000 },
	{ "tmpfs, redo, declared", "/dev/shm", LH_SEE_DECLARED, LH_LOG_REDO, 20000 },
	{ "tmpfs, undo, translated", "/dev/shm", LH_SEE_TRANSLATED, LH_LOG_UNDO, 20000 },
	{ "tmpfs, redo, translated", "/dev/shm", LH_SEE_TRANSLATED, LH_LOG_REDO, 20000 },
	{ "disk, redo, declared", "/var/tmp", LH_SEE_DECLARED, LH_LOG_REDO, 200 },
};

struct bed {
	const struct place *place;
	char path[2][100];
	struct lh_pool *pool[2]; /* in the order in which both are begun */
	uint64_t *root[2];
	uint64_t n;
};

static void fail(const char *what, const struct lh_error *error)
{
	fprintf(stderr, "together: %s: %s\n", what, error->text);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void make(struct bed *bed, const struct place *place)
{
	struct lh_pool_options options = { .see = place->see, .log = place->log, .size = 1 << 20 };
	struct lh_error error;

	bed->place = place;
	bed->n = 0;
	for (unsigned i = 0; i < 2; i++) {
		snprintf(bed->path[i], sizeof bed->path[i], "%s/together-%d.%u", place->folder, (int)getpid(),
		         i);
		unlink(bed->path[i]);
		if (lh_pool_create(bed->path[i], &options, &bed->pool[i], &error) < 0)
			fail(bed->path[i], &error);
	}
	if (memcmp(bed->pool[0]->header.id, bed->pool[1]->header.id, 16) > 0) {
		struct lh_pool *first = bed->pool[1];

		bed->pool[1] = bed->pool[0];
		bed->pool[0] = first;
	}
	for (unsigned i = 0; i < 2; i++) {
		bed->root[i] = lh_pool_root(bed->pool[i], 65536, &error);
		if (!bed->root[i])
			fail("root", &error);
	}
}

static void end(struct bed *bed)
{
	for (unsigned i = 0; i < 2; i++) {
		lh_pool_close(bed->pool[i], NULL);
		unlink(bed->path[i]);
	}
}

static void store(struct bed *bed, unsigned i)
{
	uint64_t *at = &bed->root[i][bed->n * 8 % 8192];

	if (bed->place->see == LH_SEE_DECLARED && lh_tx_add(bed->pool[i], at, 8, NULL) < 0)
		exit(1);
	*at = bed->n;
}

/* One transaction in each; or one over both. */
static void each(struct bed *bed)
{
	for (unsigned i = 0; i < 2; i++) {
		if (lh_tx_begin(bed->pool[i], NULL) < 0)
			exit(1);
		store(bed, i);
		if (lh_tx_commit(bed->pool[i], NULL) < 0)
			exit(1);
	}
}

static void both(struct bed *bed)
{
	struct lh_error error;
	int result = 0;

	if (bed->place->see == LH_SEE_TRANSLATED) {
		result = tx_begin();
	} else {
		for (unsigned i = 0; i < 2 && result == 0; i++)
			result = lh_tx_begin(bed->pool[i], NULL);
	}
	if (result < 0)
		exit(1);
	store(bed, 0);
	store(bed, 1);
	result = bed->place->see == LH_SEE_TRANSLATED ? tx_end() : lh__together_commit(bed->pool, 2, &error);
	if (result < 0)
		exit(1);
}

static void nothing(struct bed *bed)
{
	if (tx_begin() < 0 || tx_end() < 0)
		exit(1);
}

static double round_of(struct bed *bed, void (*transaction)(struct bed *bed))
{
	double start = now();

	for (unsigned i = 0; i < bed->place->transactions; i++) {
		bed->n++;
		transaction(bed);
	}
	return (now() - start) / bed->place->transactions * 1e9;
}

static int compare(const void *a, const void *b)
{
	return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double median(double *times, unsigned n)
{
	qsort(times, n, sizeof *times, compare);
	return times[n / 2];
}

static void measure(const struct place *place, unsigned rounds)
{
	double times[3][ROUNDS_MAX];
	struct bed bed;

	make(&bed, place);
	round_of(&bed, each);
	round_of(&bed, both);
	for (unsigned i = 0; i < rounds; i++) {
		times[0][i] = round_of(&bed, each);
		times[1][i] = round_of(&bed, both);
		times[2][i] = place->see == LH_SEE_TRANSLATED ? round_of(&bed, nothing) : 0;
	}
	printf("%-24s  one in each %9.0f ns   over both %9.0f ns", place->name, median(times[0], rounds),
	       median(times[1], rounds));
	if (place->see == LH_SEE_TRANSLATED)
		printf("   nothing changed %6.0f ns", median(times[2], rounds));
	printf("\n");
	end(&bed);
}

/* tx_begin and tx_end where one pool is open. */
static void measure_one(unsigned rounds)
{
	static const struct place place = { "", "/dev/shm", LH_SEE_TRANSLATED, LH_LOG_REDO, 100000 };
	double times[ROUNDS_MAX];
	struct bed bed;

	make(&bed, &place);
	lh_pool_close(bed.pool[1], NULL);
	round_of(&bed, nothing);
	for (unsigned i = 0; i < rounds; i++)
		times[i] = round_of(&bed, nothing);
	printf("one pool, nothing changed: %.0f ns\n", median(times, rounds));
	lh_pool_close(bed.pool[0], NULL);
	unlink(bed.path[0]);
	unlink(bed.path[1]);
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 15;

	if (rounds < 1 || rounds > ROUNDS_MAX)
		return 2;
	for (size_t i = 0; i < sizeof places / sizeof *places; i++)
		measure(&places[i], rounds);
	measure_one(rounds);
	return 0;
}
