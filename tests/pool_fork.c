/*
 * pool_fork.c - a child of fork has no part in a pool: its memory is not there, every call fails, and closing
 * changes nothing of the parent's.
 */
#include "pool_ways.h"

struct family {
	struct lh_pool *pool;
	volatile uint64_t *root;
	const struct way *way;
	const char *path;
};

static int touches(void *context)
{
	struct family *family = context;

	return (int)family->root[0];
}

static int stores(void *context)
{
	struct family *family = context;

	family->root[0] = 1;
	return 0;
}

static int visit(void *context, void *object, size_t usable)
{
	return 0;
}

static int calls(void *context)
{
	struct family *family = context;
	struct lh_pool *pool = family->pool;
	struct lh_error error;
	void *at = (void *)(uintptr_t)family->root;
	uint64_t token;
	int wrong = 0;

	wrong |= (lh_tx_begin(pool, &error) != -ECHILD) << 0;
	wrong |= (lh_tx_commit(pool, &error) != -ECHILD) << 1;
	wrong |= (lh_tx_commit_async(pool, &token, &error) != -ECHILD) << 1;
	wrong |= (lh_tx_wait(pool, 1, &error) != -ECHILD) << 2;
	wrong |= (lh_tx_abort(pool, &error) != -ECHILD) << 2;
	wrong |= (lh_tx_add(pool, at, 8, &error) != -ECHILD) << 3;
	wrong |= (lh_pool_load(pool, at, 8, &error) != -ECHILD) << 3;
	wrong |= (lh_pool_grow(pool, 2 * WAY_SIZE, &error) != -ECHILD) << 4;
	wrong |= (lh_pool_alloc(pool, 8, &error) != NULL || error.code != -ECHILD) << 4;
	wrong |= (lh_pool_realloc(pool, at, 8, &error) != NULL || error.code != -ECHILD) << 5;
	wrong |= (lh_pool_free(pool, at, &error) != -ECHILD) << 5;
	wrong |= (lh_pool_root(pool, 0, &error) != NULL || error.code != -ECHILD) << 6;
	wrong |= (lh_pool_usable_size(pool, at) != 0) << 6;
	wrong |= (lh_pool_objects(pool, visit, NULL) != -ECHILD) << 7;
	wrong |= (strstr(error.text, "child") == NULL) << 7;
	return wrong;
}

static int closes(void *context)
{
	struct family *family = context;

	return lh_pool_close(family->pool, NULL) != 0;
}

/* A pool of its own, at the addresses that the parent's has: those are free here. */
static int closes_and_opens(void *context)
{
	struct family *family = context;
	struct lh_pool_options options = way_options(family->way);
	struct lh_pool *pool;
	struct lh_error error;

	if (lh_pool_close(family->pool, NULL) != 0)
		return 1;
	return lh_pool_open(family->path, &options, &pool, &error) == -EBUSY ? 0 : 2;
}

/* How a child ends that does this while the parent has a transaction open, or has not. */
static void in_each_state(struct family *family)
{
	const char *name = family->way->name;

	for (unsigned open = 0; open < 2; open++) {
		uint64_t value = family->root[1];

		if (open) {
			MUST(lh_tx_begin(family->pool, &why));
			way_store(family->pool, &family->root[1], value + 1);
		}
		ok(ended_by(in_child(touches, family), SIGSEGV), "%s: a child that reads there: SIGSEGV",
		   name);
		ok(ended_by(in_child(stores, family), SIGSEGV), "%s: ... that stores there", name);
		is(in_child(calls, family), 0, "%s: ... every call in it fails with -ECHILD", name);
		is(in_child(closes, family), 0, "%s: ... it may close the handle", name);
		is(in_child(closes_and_opens, family), 0, "%s: ... and the pool stays locked for it", name);
		if (open)
			MUST(lh_tx_commit(family->pool, &why));
		is(family->root[1], value + open, "%s: the parent goes on", name);
		way_set(family->pool, &family->root[100], value);
	}
}

static void children(const struct way *way)
{
	char path[400];
	struct family family = { .way = way, .path = way_path(way, path) };

	family.pool = way_create(way, path);
	family.root = way_root(family.pool);
	in_each_state(&family);
	is(lh_pool_close(family.pool, NULL), 0, "%s: ... and closes", way->name);
	family.pool = way_open(way, path);
	ok(family.root[1] == 1 && lh__pool_report(family.pool)->clean, "%s: ... and all is kept", way->name);
	way_close(family.pool);
	unlink(path);
}

/* The child holds no lock: when the parent has closed the pool, another may have it while the child lives. */
static int lives(void *context)
{
	int *end = context;
	char byte;

	return read(*end, &byte, 1) == 0 ? 0 : 1;
}

static void child_outlives(const struct way *way)
{
	char path[400];
	struct lh_pool *pool = way_create(way, way_path(way, path));
	struct lh_pool_options options = way_options(way);
	int ends[2], status = -1, result;
	pid_t pid;

	MUST(pipe(ends));
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		alarm(30);
		close(ends[1]);
		lh_pool_close(pool, NULL);
		_exit(lives(&ends[0]));
	}
	close(ends[0]);
	/* The child may not have closed it yet, and then shares the lock. */
	way_close(pool);
	options.wait_ms = 20000;
	result = lh_pool_open(path, &options, &pool, NULL);
	is(result, 0, "%s: a child that has closed it keeps nobody out", way->name);
	if (result == 0)
		way_close(pool);
	close(ends[1]);
	waitpid(pid, &status, 0);
	is(status, 0, "%s: ... while it lives", way->name);
	unlink(path);
}

int main(void)
{
	ways_begin("pool_fork");
	ways_each(children);
	ways_each_place(child_outlives);
	return ways_end();
}
