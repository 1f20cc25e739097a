/*
 * count_known.c - counts of loops that are known by construction (programs/counted.h): what n rounds more
 * make of the program's own module must be n times a round, exactly.
 */
/* timeout: 180 */
#include "service/count/count.h"

#include <limits.h>
#include <sys/mman.h>
#include <time.h>

#include "programs/counted.h"
#include "tap.h"

#define ROUNDS 1000

struct known {
	const char *name, *needs;
	int64_t value[7]; /* instructions, loads, stores, bytes of either, lines beyond one of either */
};

static const char *const word[7] = { "instructions", "loads",       "stores",     "bytes loaded",
	                             "bytes stored", "more loaded", "more stored" };

#define KNOWN(name, needs, code, ...) { #name, needs, { __VA_ARGS__ } },
static const struct known known[] = { COUNTED_CASES(KNOWN) };

static bool has(const char *needs)
{
	return !*needs || (strcmp(needs, "avx2") == 0 && __builtin_cpu_supports("avx2")) ||
	       (strcmp(needs, "avx512f") == 0 && __builtin_cpu_supports("avx512f"));
}

static const char *build(void)
{
	const char *path = getenv("LINEHOME_BUILD");

	return path ? path : "build";
}

/* The result, which a child fills: a launcher changes its process's environment and signals. */
struct result {
	int code;
	int status;
	struct lh_counts total, own, threads, modules, processes;
	uint64_t uncorrected;
	char text[256];
};

static void add_rows(struct lh_counts *sum, const struct lh_count_rows *rows)
{
	for (size_t i = 0; i < rows->n; i++)
		lh__counts_add(sum, &rows->at[i].counts);
}

static void count_here(struct result *result, char *const *argv)
{
	struct lh_count_options options = { .lines = true };
	struct lh_count_report report;
	struct lh_error error = { 0, "" };
	char agent[PATH_MAX];

	snprintf(agent, sizeof agent, "%s/liblinehome-count.so", build());
	options.agent = agent;
	result->code = lh__count(&options, argv, &report, &error);
	snprintf(result->text, sizeof result->text, "%s", error.text);
	if (result->code < 0)
		return;
	result->status = report.status;
	result->total = report.total;
	result->uncorrected = report.uncorrected;
	add_rows(&result->threads, &report.threads);
	add_rows(&result->modules, &report.modules);
	add_rows(&result->processes, &report.processes);
	for (size_t i = 0; i < report.modules.n; i++)
		if (strstr(report.modules.at[i].name, "/counted"))
			result->own = report.modules.at[i].counts;
	lh__count_free(&report);
}

static struct result count(const char *name, unsigned rounds)
{
	struct result *shared =
		mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct result result = { .code = -1 };
	char program[PATH_MAX], number[16];
	char *argv[] = { program, (char *)name, number, NULL };
	int status = -1;
	pid_t child;

	if (shared == MAP_FAILED)
		return result;
	/* Programs are never sanitized: they stand with the plain build. */
	snprintf(program, sizeof program, "%s/tests/programs/counted", build());
	if (access(program, X_OK) != 0)
		snprintf(program, sizeof program, "%s/../tests/programs/counted", build());
	snprintf(number, sizeof number, "%u", rounds);
	child = fork();
	if (child == 0) {
		count_here(shared, argv);
		_exit(0);
	}
	if (child > 0 && waitpid(child, &status, 0) == child && status == 0)
		result = *shared;
	munmap(shared, sizeof *shared);
	return result;
}

static bool equal(const struct lh_counts *a, const struct lh_counts *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

static void values(const struct lh_counts *counts, int64_t value[7])
{
	const uint64_t from[7] = { counts->instructions, counts->loads,        counts->stores,
		                   counts->bytes_loaded, counts->bytes_stored, counts->more_loaded,
		                   counts->more_stored };

	for (int i = 0; i < 7; i++)
		value[i] = (int64_t)from[i];
}

/* Says what differs; how many of the seven. */
static int compare(const struct known *one, const struct result *less, const struct result *more)
{
	int64_t a[7], b[7];
	int wrong = 0;

	values(&less->own, a);
	values(&more->own, b);
	for (int i = 0; i < 7; i++) {
		int64_t wanted = (one->value[i] + (i == 0 ? 2 : 0)) * ROUNDS, got = b[i] - a[i];

		if (got == wanted)
			continue;
		printf("# %s: %s: got %ld, wanted %ld\n", one->name, word[i], (long)got, (long)wanted);
		wrong++;
	}
	return wrong;
}

static void test_case(const struct known *one)
{
	struct result less, more;

	if (!has(one->needs)) {
		skip(one->name, "this processor lacks it");
		return;
	}
	less = count(one->name, ROUNDS);
	more = count(one->name, 2 * ROUNDS);
	if (less.code < 0 || less.status != 0 || more.status != 0)
		printf("# %s: %d, status %d and %d: %s\n", one->name, less.code, less.status, more.status,
		       less.text);
	ok(less.code == 0 && less.status == 0 && more.code == 0 && more.status == 0 &&
	           more.uncorrected == 0 && compare(one, &less, &more) == 0 &&
	           equal(&more.total, &more.threads) && equal(&more.total, &more.modules) &&
	           equal(&more.total, &more.processes),
	   "%s", one->name);
}

/* The comparison itself: a report that lacks one kind of access is not taken for right. */
static void test_planted(void)
{
	struct result less = count("read_modify_write", ROUNDS),
		      more = count("read_modify_write", 2 * ROUNDS);
	const struct known *one = known;

	while (strcmp(one->name, "read_modify_write") != 0)
		one++;
	more.own.stores -= ROUNDS;
	ok(compare(one, &less, &more) == 1, "stores that are left out are noticed");
}

int main(void)
{
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		test_case(&known[i]);
	test_planted();
	return done();
}
