/*
 * pool_together_kill.c - processes that are killed while they change several pools in one transaction: the
 * next one opens them in whatever order and finds the same transaction in all, the last that was
 * acknowledged or the one after it.
 *
 * A child may be killed at any time, so also while it recovers one of the pools and has not looked at the
 * others; some children open only one of them and end.
 *
 * LH_TEST_KILLS=N kills so often in each way.
 */
/* timeout: 240 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include "line_random.h"
#include "service/pool/inside.h"
#include "tap.h"

enum { KILLS = 60, POOLS = 3, CELLS = 512, WRITTEN = 5 };

struct kill_way {
	const char *name;
	unsigned n, longest_us; /* that a child lives */
	const char *folder[POOLS];
	enum lh_log log[POOLS];
	bool apart; /* what is promised is not kept, which has to be noticed: each pool commits by itself */
};

#define DISK "/var/tmp"
#define SHM "/dev/shm"
static const struct kill_way ways[] = {
	{ "redo and redo on a disk", 2, 50000, { DISK, DISK }, { LH_LOG_REDO, LH_LOG_REDO }, false },
	{ "redo and redo on tmpfs", 2, 10000, { SHM, SHM }, { LH_LOG_REDO, LH_LOG_REDO }, false },
	{ "undo and undo on tmpfs", 2, 10000, { SHM, SHM }, { LH_LOG_UNDO, LH_LOG_UNDO }, false },
	{ "undo and redo on tmpfs, and redo on a disk",
	  3,
	  50000,
	  { SHM, SHM, DISK },
	  { LH_LOG_UNDO, LH_LOG_REDO, LH_LOG_REDO },
	  false },
};
static const struct kill_way planted = {
	"planted", 2, 10000, { SHM, SHM }, { LH_LOG_UNDO, LH_LOG_REDO }, true
};

/* What the parent sees of its children. */
struct shared {
	uint64_t begun, acknowledged; /* transactions */
	uint64_t opened, recovered, asked;
	bool failed;
	char text[300];
};

struct root {
	uint64_t n; /* the last transaction */
	uint64_t cell[CELLS];
};

struct child {
	struct shared *shared;
	const struct kill_way *way;
	char (*path)[100];
	struct lh_pool *pool[POOLS], *ordered[POOLS];
	struct root *root[POOLS];
};

/* ---- in a child ---- */

__attribute__((format(printf, 2, 3))) static void fail(struct shared *shared, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(shared->text, sizeof shared->text, format, arguments);
	va_end(arguments);
	__atomic_store_n(&shared->failed, true, __ATOMIC_RELEASE);
	_exit(1);
}

static void open_one(struct child *child, unsigned i)
{
	struct lh_pool_options options = { .see = LH_SEE_DECLARED, .log = child->way->log[i] };
	struct lh_error error;
	struct lh_pool_check check;

	if (lh__pool_check(&lh__sys_default, child->path[i], NULL, &check, &error) == 0)
		child->shared->asked += check.waits;
	if (lh_pool_open(child->path[i], &options, &child->pool[i], &error) != 0)
		fail(child->shared, "open: %s", error.text);
	child->root[i] = lh_pool_root(child->pool[i], sizeof(struct root), &error);
	child->shared->opened++;
	child->shared->recovered += !lh__pool_report(child->pool[i])->clean;
}

static void sort(struct child *child)
{
	for (unsigned i = 0; i < child->way->n; i++) {
		unsigned j = i;

		for (; j > 0 && memcmp(child->pool[i]->header.id, child->ordered[j - 1]->header.id, 16) < 0;
		     j--)
			child->ordered[j] = child->ordered[j - 1];
		child->ordered[j] = child->pool[i];
	}
}

static void check_content(const struct child *child)
{
	struct shared *shared = child->shared;
	uint64_t n = child->root[0]->n;

	for (unsigned i = 0; i < child->way->n; i++) {
		const struct root *root = child->root[i];

		if (root->n != n)
			fail(shared, "transaction %lu is in one pool, %lu in another (%lu acknowledged)",
			     (long)n, (long)root->n, (long)shared->acknowledged);
		for (uint64_t m = n; m > 0 && m + CELLS / WRITTEN > n; m--)
			for (uint64_t j = 0; j < WRITTEN; j++)
				if (root->cell[(m * WRITTEN + j) % CELLS] != m + j + i)
					fail(shared, "transaction %lu is there, and a cell of %lu is not",
					     (long)n, (long)m);
	}
	if (n < shared->acknowledged || n > shared->begun)
		fail(shared, "transaction %lu was found, %lu acknowledged and %lu begun", (long)n,
		     (long)shared->acknowledged, (long)shared->begun);
	shared->acknowledged = shared->begun = n;
}

static void change(struct child *child, unsigned i, uint64_t n)
{
	struct root *root = child->root[i];
	struct lh_error error;

	for (uint64_t j = 0; j < WRITTEN; j++) {
		uint64_t *cell = &root->cell[(n * WRITTEN + j) % CELLS];

		if (lh_tx_add(child->pool[i], cell, 8, &error) != 0)
			fail(child->shared, "add: %s", error.text);
		*cell = n + j + i;
	}
	if (lh_tx_add(child->pool[i], &root->n, 8, &error) != 0)
		fail(child->shared, "add: %s", error.text);
	root->n = n;
}

static void one_transaction(struct child *child)
{
	uint64_t n = child->root[0]->n + 1;
	struct lh_error error;
	int result = 0;

	for (unsigned i = 0; i < child->way->n; i++)
		if (lh_tx_begin(child->ordered[i], &error) != 0)
			fail(child->shared, "begin: %s", error.text);
	for (unsigned i = 0; i < child->way->n; i++)
		change(child, i, n);
	child->shared->begun = n;
	if (!child->way->apart)
		result = lh__together_commit(child->ordered, child->way->n, &error);
	for (unsigned i = 0; i < child->way->n && child->way->apart && result == 0; i++)
		result = lh_tx_commit(child->ordered[i], &error);
	if (result != 0)
		fail(child->shared, "commit: %s", error.text);
	child->shared->acknowledged = n;
}

static void run_child(struct child *child, uint64_t random)
{
	unsigned first = (unsigned)(random_next(&random) % child->way->n);

	if (random_next(&random) % 4 == 0) {
		open_one(child, first);
		if (random_next(&random) % 2)
			lh_pool_close(child->pool[first], NULL);
		_exit(0);
	}
	for (unsigned i = 0; i < child->way->n; i++)
		open_one(child, (first + i) % child->way->n);
	sort(child);
	check_content(child);
	for (;;)
		one_transaction(child);
}

/* ---- in the parent ---- */

/* Kills one child after some time, at most longest_us; whether all is well. */
static bool kill_one(struct child *child, unsigned longest_us, uint64_t *random)
{
	uint64_t seed = random_next(random);
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0)
		run_child(child, seed);
	if (pid < 0)
		return false;
	usleep((useconds_t)(random_next(random) % longest_us));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (child->shared->failed)
		printf("# %s\n", child->shared->text);
	return !child->shared->failed;
}

/* All are open while the last is made, so that none is given an address that another has. */
static bool make_pools(const struct kill_way *way, char path[POOLS][100], struct lh_error *error)
{
	struct lh_pool *pool[POOLS] = { NULL };
	bool made = true;

	for (unsigned i = 0; i < way->n && made; i++) {
		struct lh_pool_options options = { .see = LH_SEE_DECLARED,
			                           .log = way->log[i],
			                           .size = 1 << 20,
			                           .log_size = LH_POOL_LOG_MIN };

		snprintf(path[i], 100, "%s/linehome-together-%d.%u", way->folder[i], (int)getpid(), i);
		unlink(path[i]);
		made = lh_pool_create(path[i], &options, &pool[i], error) == 0 &&
		       lh_pool_root(pool[i], sizeof(struct root), error);
	}
	for (unsigned i = 0; i < way->n; i++)
		if (pool[i] && lh_pool_close(pool[i], made ? error : NULL) != 0)
			made = false;
	return made;
}

static void kill_many(const struct kill_way *way, struct shared *shared, unsigned kills, uint64_t *random)
{
	struct lh_error error = { .text = "" };
	char path[POOLS][100];
	struct child child = { .shared = shared, .way = way, .path = path };
	unsigned i = 0;

	memset(shared, 0, sizeof *shared);
	if (!make_pools(way, path, &error)) {
		skip(way->name, error.text);
		return;
	}
	/* Where the machine is too busy for much to come of such lives they become longer. */
	while ((i < kills || (i < 10 * kills && shared->acknowledged < kills)) &&
	       kill_one(&child, way->longest_us << (i / kills < 5 ? i / kills : 5), random))
		i++;
	if (way->apart)
		ok(shared->failed, "pools that commit one after the other are found out (by kill %u)", i);
	else
		ok(i >= kills && !shared->failed && shared->acknowledged >= kills,
		   "%s: %u killed, %lu of %lu openings recovered, %lu had to ask, %lu transactions",
		   way->name, i, (long)shared->recovered, (long)shared->opened, (long)shared->asked,
		   (long)shared->acknowledged);
	for (unsigned j = 0; j < way->n; j++)
		unlink(path[j]);
}

int main(void)
{
	const char *given = getenv("LH_TEST_KILLS");
	unsigned kills = given ? (unsigned)strtoul(given, NULL, 0) : KILLS;
	uint64_t random = random_seed();
	struct shared *shared =
		mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return 1;
	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)random);
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
		kill_many(&ways[i], shared, kills, &random);
	kill_many(&planted, shared, 400, &random);
	return done();
}
