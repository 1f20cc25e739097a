/*
 * pool_ways.h - what the tests of pools share: each way to have a pool, that is, how changes are seen, how
 * the log works, and where the file is; places for files; small helpers.
 *
 *     int main(void)
 *     {
 *             ways_begin("pool_thing");
 *             ways_each(thing_works);          once a way; a way that this system lacks is skipped
 *             return ways_end();
 *     }
 */
#ifndef POOL_WAYS_H
#define POOL_WAYS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "port/page/page.h"
#include "service/pool/pool.h"
#include "tap.h"

#define UNUSED __attribute__((unused))

struct way {
	const char *name;
	enum lh_see see;
	enum lh_log log;
	bool disk; /* a file in the page cache of a disk's file system; else tmpfs, mapped */
};

static const struct way ways[] = {
	{ "page, redo, tmpfs", LH_SEE_PAGE, LH_LOG_REDO, false },
	{ "page, redo, disk", LH_SEE_PAGE, LH_LOG_REDO, true },
	{ "page, undo, tmpfs", LH_SEE_PAGE, LH_LOG_UNDO, false },
	{ "declared, redo, tmpfs", LH_SEE_DECLARED, LH_LOG_REDO, false },
	{ "declared, redo, disk", LH_SEE_DECLARED, LH_LOG_REDO, true },
	{ "declared, undo, tmpfs", LH_SEE_DECLARED, LH_LOG_UNDO, false },
	{ "checked, redo, tmpfs", LH_SEE_CHECKED, LH_LOG_REDO, false },
	{ "checked, redo, disk", LH_SEE_CHECKED, LH_LOG_REDO, true },
	{ "checked, undo, tmpfs", LH_SEE_CHECKED, LH_LOG_UNDO, false },
	{ "translated, redo, tmpfs", LH_SEE_TRANSLATED, LH_LOG_REDO, false },
	{ "translated, redo, disk", LH_SEE_TRANSLATED, LH_LOG_REDO, true },
	{ "translated, undo, tmpfs", LH_SEE_TRANSLATED, LH_LOG_UNDO, false },
};
#define WAYS (sizeof ways / sizeof *ways)

#define WAY_SIZE (1u << 20)
#define WAY_LOG (256u << 10)
#define WAY_REACH (4u << 20)
/* ThreadSanitizer has shadows for a few ranges only, and none for the one from which addresses are chosen. */
#ifdef __SANITIZE_THREAD__
#define WAY_ADDRESS UINT64_C(0x4000000000)
#else
#define WAY_ADDRESS 0
#endif

/* Whether stores are seen that have not been declared. */
static inline bool see_all(enum lh_see see)
{
	return see == LH_SEE_PAGE || see == LH_SEE_TRANSLATED;
}

/* Whether pages are protected, so that what is seen is seen of every thread. */
static inline bool see_by_faults(enum lh_see see)
{
	return see == LH_SEE_PAGE || see == LH_SEE_CHECKED;
}

/* ---- places ---- */

static char ways_folder[2][300]; /* [1]: on the disk; empty where there is none */
static unsigned ways_files;

/* Signals that are to end a process do, whatever else has been linked in. */
UNUSED static void ways_begin(const char *name)
{
	const char *build = getenv("LINEHOME_BUILD");
	struct statfs where;

	signal(SIGBUS, SIG_DFL);
	signal(SIGSEGV, SIG_DFL);
	snprintf(ways_folder[0], sizeof ways_folder[0], "/dev/shm/%s.XXXXXX", name);
	snprintf(ways_folder[1], sizeof ways_folder[1], "%s/%s.XXXXXX", build ? build : "/var/tmp", name);
	for (unsigned i = 0; i < 2; i++)
		if (!mkdtemp(ways_folder[i]) || statfs(ways_folder[i], &where) != 0)
			ways_folder[i][0] = 0;
		else if ((where.f_type != TMPFS_MAGIC) != i && rmdir(ways_folder[i]) == 0)
			ways_folder[i][0] = 0;
}

/* That every file has been removed is a test, too. */
UNUSED static int ways_end(void)
{
	for (unsigned i = 0; i < 2; i++)
		if (ways_folder[i][0])
			ok(rmdir(ways_folder[i]) == 0, "no file is left in %s",
			   i ? "the disk's folder" : "tmpfs");
	return done();
}

/* A name that nothing has yet. */
UNUSED static const char *way_path(const struct way *way, char path[400])
{
	snprintf(path, 400, "%s/%u", ways_folder[way->disk], ways_files++);
	return path;
}

/* Why there is no such pool on this system; NULL where there is. */
UNUSED static const char *way_lacks(const struct way *way)
{
	static struct lh_error error;
	struct lh_page_options options = {
		.engine = LH_ENGINE_INLINE,
		.device = -1,
		.protects = see_by_faults(way->see),
		.shared = see_by_faults(way->see),
		.writes_only = way->log == LH_LOG_UNDO,
	};
	struct lh_port *port;

	if (!ways_folder[way->disk][0])
		return way->disk ? "there is no folder that is not on tmpfs" : "there is no tmpfs";
	if (!see_by_faults(way->see) && way->log == LH_LOG_UNDO)
		return NULL;
	if (lh__page_open(&lh__sys_default, &options, &port, &error) < 0)
		return error.text;
	port->ops->close(port);
	return NULL;
}

UNUSED static void ways_each(void (*test)(const struct way *way))
{
	for (size_t i = 0; i < WAYS; i++)
		if (way_lacks(&ways[i]))
			skip(ways[i].name, way_lacks(&ways[i]));
		else
			test(&ways[i]);
}

/* The places alone, each with the first way that is there. */
UNUSED static void ways_each_place(void (*test)(const struct way *way))
{
	for (size_t i = 0; i < 2; i++)
		if (way_lacks(&ways[i]))
			skip(ways[i].name, way_lacks(&ways[i]));
		else
			test(&ways[i]);
}

/* ---- what has to succeed ---- */

/* For steps that are not the test: the program ends where one fails. */
#define MUST(call)                                                                                           \
	do {                                                                                                 \
		struct lh_error why = { .code = 0 };                                                         \
		if ((call) < 0) {                                                                            \
			printf("Bail out! %s:%d: %s: %s\n", __FILE__, __LINE__, #call, why.text);            \
			fflush(stdout);                                                                      \
			_exit(99);                                                                           \
		}                                                                                            \
	} while (0)

UNUSED static struct lh_pool_options way_options(const struct way *way)
{
	return (struct lh_pool_options){
		.see = way->see,
		.log = way->log,
		.size = WAY_SIZE,
		.log_size = WAY_LOG,
		.reach = WAY_REACH,
		.address = WAY_ADDRESS,
	};
}

UNUSED static struct lh_pool *way_create(const struct way *way, const char *path)
{
	struct lh_pool_options options = way_options(way);
	struct lh_pool *pool;

	MUST(lh_pool_create(path, &options, &pool, &why));
	return pool;
}

UNUSED static struct lh_pool *way_open(const struct way *way, const char *path)
{
	struct lh_pool_options options = way_options(way);
	struct lh_pool *pool;

	MUST(lh_pool_open(path, &options, &pool, &why));
	return pool;
}

UNUSED static void way_close(struct lh_pool *pool)
{
	MUST(lh_pool_close(pool, &why));
}

UNUSED static struct lh_pool_info way_info(const struct lh_pool *pool)
{
	struct lh_pool_info info;

	lh_pool_info(pool, &info);
	return info;
}

/* The root object, and how many words of 8 bytes it has. */
#define ROOT_WORDS 8192u
UNUSED static volatile uint64_t *way_root(struct lh_pool *pool)
{
	volatile uint64_t *root = lh_pool_root(pool, ROOT_WORDS * sizeof *root, NULL);

	MUST(root ? 0 : -EIO);
	return root;
}

/* One store, declared where it has to be. */
UNUSED static void way_store(struct lh_pool *pool, volatile uint64_t *at, uint64_t value)
{
	if (!see_all(way_info(pool).see))
		MUST(lh_tx_add(pool, (const void *)at, sizeof *at, &why));
	*at = value;
}

/* A transaction with one store. */
UNUSED static void way_set(struct lh_pool *pool, volatile uint64_t *at, uint64_t value)
{
	MUST(lh_tx_begin(pool, &why));
	way_store(pool, at, value);
	MUST(lh_tx_commit(pool, &why));
}

/* ---- children ---- */

/* The wait status of a child that runs body and ends with what it returns; one that hangs is ended. */
UNUSED static int in_child(int (*body)(void *context), void *context)
{
	int status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		alarm(30);
		_exit(body(context));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

static inline bool ended_by(int status, int number)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == number;
}

#endif
