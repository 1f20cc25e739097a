/*
 * pool_kill.c - processes that are killed while they change a pool: the next one finds all of the last
 * transaction that was acknowledged, or of the one after it, and a heap that is whole.
 *
 * A page shared with the parent says which transaction was begun last and which was acknowledged. All that
 * the pool holds follows from the number of the last transaction: some cells of an array that it wrote, and
 * an object that it put in the place of an older one. A child looks at all of it when it has opened the
 * pool; it may be killed before that, and so in the middle of a recovery.
 *
 * LH_TEST_KILLS=N kills so often in each way.
 */
/* timeout: 300 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include "line_random.h"
#include "service/pool/pool.h"
#include "tap.h"

enum { KILLS = 60, CELLS = 512, WRITTEN = 7, OBJECTS = 24 };

struct kill_way {
	const char *name, *folder;
	enum lh_see see;
	enum lh_log log;
	unsigned longest_us; /* that a child lives */
	bool early;          /* it acknowledges what it has not committed yet, which has to be noticed */
};

static const struct kill_way planted = { "planted", "/dev/shm", LH_SEE_DECLARED, LH_LOG_REDO, 12000, true };
static const struct kill_way ways[] = {
	{ "a file, redo, pages are seen", "/var/tmp", LH_SEE_PAGE, LH_LOG_REDO, 60000, false },
	{ "a file, redo, declared", "/var/tmp", LH_SEE_DECLARED, LH_LOG_REDO, 60000, false },
	{ "tmpfs, redo, pages are seen", "/dev/shm", LH_SEE_PAGE, LH_LOG_REDO, 12000, false },
	{ "tmpfs, redo, declared", "/dev/shm", LH_SEE_DECLARED, LH_LOG_REDO, 12000, false },
	{ "tmpfs, undo, pages are seen", "/dev/shm", LH_SEE_PAGE, LH_LOG_UNDO, 12000, false },
	{ "tmpfs, undo, declared", "/dev/shm", LH_SEE_DECLARED, LH_LOG_UNDO, 12000, false },
	{ "tmpfs, redo, translated", "/dev/shm", LH_SEE_TRANSLATED, LH_LOG_REDO, 12000, false },
	{ "tmpfs, undo, translated", "/dev/shm", LH_SEE_TRANSLATED, LH_LOG_UNDO, 12000, false },
};

/* What the parent sees of its children. */
struct shared {
	uint64_t begun, acknowledged; /* transactions */
	uint64_t opened, recovered;   /* times; recovered: it had not been closed */
	bool failed;
	char text[300];
};

struct root {
	uint64_t n; /* the last transaction */
	uint64_t cell[CELLS];
	unsigned char *object[OBJECTS];
};

static uint64_t value_of(uint64_t n, uint64_t i)
{
	uint64_t x = n * 0x9e3779b97f4a7c15u + i * 0xbf58476d1ce4e5b9u;

	return (x ^ x >> 31) * 0x94d049bb133111ebu;
}

/* The i-th cell that transaction n writes: stretches of cells, all of them in turn. */
static uint64_t cell_of(uint64_t n, uint64_t i)
{
	return (n * WRITTEN + i) % CELLS;
}

static uint64_t size_of(uint64_t n)
{
	return 16 + value_of(n, 77) % 700;
}

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

static bool object_is(const unsigned char *object, uint64_t n)
{
	for (uint64_t i = 0; object && i < size_of(n); i++)
		if (object[i] != (unsigned char)(n + i))
			return false;
	return object != NULL;
}

/* All that transactions up to n have left. */
static void check_content(struct shared *shared, const struct root *root)
{
	uint64_t n = root->n, m, i;

	for (m = n; m > 0 && m + CELLS / WRITTEN > n; m--)
		for (i = 0; i < WRITTEN; i++)
			if (root->cell[cell_of(m, i)] != value_of(m, i))
				fail(shared, "transaction %lu is there, and a cell of %lu is not", (long)n,
				     (long)m);
	for (m = n; m > 0 && m + OBJECTS > n; m--)
		if (!object_is(root->object[m % OBJECTS], m))
			fail(shared, "transaction %lu is there, and the object of %lu is not", (long)n,
			     (long)m);
}

static void add(struct shared *shared, struct lh_pool *pool, const struct kill_way *way, void *at,
                size_t size)
{
	struct lh_error error;

	if (way->see == LH_SEE_DECLARED && lh_tx_add(pool, at, size, &error) != 0)
		fail(shared, "add: %s", error.text);
}

static void one_transaction(struct shared *shared, struct lh_pool *pool, const struct kill_way *way,
                            struct root *root)
{
	uint64_t n = root->n + 1, i;
	unsigned char **place = &root->object[n % OBJECTS];
	struct lh_error error;

	if (way->early)
		shared->begun = shared->acknowledged = n;
	if (lh_tx_begin(pool, &error) != 0)
		fail(shared, "begin: %s", error.text);
	for (i = 0; i < WRITTEN; i++) {
		add(shared, pool, way, &root->cell[cell_of(n, i)], 8);
		root->cell[cell_of(n, i)] = value_of(n, i);
	}
	add(shared, pool, way, &root->n, 8);
	root->n = n;
	add(shared, pool, way, place, 8);
	if (lh_pool_free(pool, *place, &error) != 0)
		fail(shared, "free: %s", error.text);
	*place = lh_pool_alloc(pool, size_of(n), &error);
	if (!*place)
		fail(shared, "alloc: %s", error.text);
	for (i = 0; i < size_of(n); i++)
		(*place)[i] = (unsigned char)(n + i);
	__atomic_store_n(&shared->begun, n, __ATOMIC_RELEASE);
	if (lh_tx_commit(pool, &error) != 0)
		fail(shared, "commit: %s", error.text);
	__atomic_store_n(&shared->acknowledged, n, __ATOMIC_RELEASE);
}

static int count(void *context, void *object, size_t usable)
{
	++*(uint64_t *)context;
	return 0;
}

static void child(struct shared *shared, const struct kill_way *way, const char *path)
{
	struct lh_pool_options options = { .see = way->see, .log = way->log };
	uint64_t acknowledged = shared->acknowledged, begun = shared->begun, objects = 0;
	struct lh_error error;
	struct lh_pool *pool;
	struct root *root;

	if (lh_pool_open(path, &options, &pool, &error) != 0)
		fail(shared, "open: %s", error.text);
	root = lh_pool_root(pool, sizeof *root, &error);
	if (!root)
		fail(shared, "root: %s", error.text);
	if (root->n != acknowledged && root->n != begun)
		fail(shared, "transaction %lu was found, %lu acknowledged and %lu begun", (long)root->n,
		     (long)acknowledged, (long)begun);
	check_content(shared, root);
	lh_pool_objects(pool, count, &objects);
	if (objects != 1 + (root->n < OBJECTS ? root->n : OBJECTS))
		fail(shared, "%lu objects after transaction %lu", (long)objects, (long)root->n);
	shared->acknowledged = shared->begun = root->n;
	shared->opened++;
	shared->recovered += !lh__pool_report(pool)->clean;
	for (;;)
		one_transaction(shared, pool, way, root);
}

/* ---- in the parent ---- */

/* Kills one child after some time; whether all is well with what it leaves. */
static bool kill_one(struct shared *shared, const struct kill_way *way, const char *path, uint64_t *random)
{
	struct lh_pool_check check;
	struct lh_error error;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0)
		child(shared, way, path);
	if (pid < 0)
		return false;
	usleep((useconds_t)(random_next(random) % way->longest_us));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (shared->failed) {
		printf("# %s\n", shared->text);
		return false;
	}
	if (lh__pool_check(&lh__sys_default, path, NULL, &check, &error) == 0)
		return true;
	printf("# check: %s\n", error.text);
	return false;
}

static bool make_pool(const struct kill_way *way, const char *path, struct lh_error *error)
{
	struct lh_pool_options options = {
		.see = way->see, .log = way->log, .size = 1 << 20, .log_size = LH_POOL_LOG_MIN
	};
	struct lh_pool *pool;

	return lh_pool_create(path, &options, &pool, error) == 0 &&
	       (lh_pool_root(pool, sizeof(struct root), error) != NULL) && lh_pool_close(pool, error) == 0;
}

/* Whether there is a pool to begin with; else that has been reported. */
static bool begin(const struct kill_way *way, struct shared *shared, char *path, size_t size)
{
	struct lh_error error = { .text = "" };

	snprintf(path, size, "%s/linehome-kill-%d", way->folder, (int)getpid());
	unlink(path);
	memset(shared, 0, sizeof *shared);
	if (make_pool(way, path, &error))
		return true;
	if (error.code == -EPERM || error.code == -EOPNOTSUPP || error.code == -ENOSYS)
		skip(way->name, error.text);
	else
		ok(0, "%s: a pool can be made: %s", way->name, error.text);
	return false;
}

static void kill_many(const struct kill_way *way, struct shared *shared, unsigned kills, uint64_t *random)
{
	char path[100];
	unsigned i;

	if (!begin(way, shared, path, sizeof path))
		return;
	/* Goes on until enough have come to an end in the middle of what they did, and something was done. */
	for (i = 0; i < kills || (i < 10 * kills && shared->recovered < kills / 4); i++)
		if (!kill_one(shared, way, path, random))
			break;
	ok(i >= kills && shared->recovered >= kills / 4 && shared->acknowledged > 0,
	   "%s: %u killed, %lu of %lu openings recovered, %lu transactions", way->name, i,
	   (long)shared->recovered, (long)shared->opened, (long)shared->acknowledged);
	unlink(path);
}

/* The checks themselves: a program that promises too early is found out. */
static void notices(struct shared *shared, uint64_t *random)
{
	char path[100];
	unsigned i;

	if (!begin(&planted, shared, path, sizeof path))
		return;
	for (i = 0; i < 200 && kill_one(shared, &planted, path, random); i++)
		;
	ok(shared->failed, "what was acknowledged before it was committed is found out (by kill %u)", i);
	unlink(path);
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
	notices(shared, &random);
	return done();
}
