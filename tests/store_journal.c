/*
 * store_journal.c - the journal store passes the conformance suite over every other store: in memory, through
 * layers, in a file, in a file's own memory, and on a node. With an argument, over that one alone.
 * (ThreadSanitizer cannot follow the node's ring, which is mapped twice.)
 *
 * What it promises beyond the suite is in tests/journal_*.c; that it loses nothing in a crash is what
 * tests/crash_journal.c shows.
 *
 * timeout: 120
 */
#include <sys/uio.h>

#include "serve_node.h"
#include "store/delay.h"
#include "store/fault.h"
#include "store/file.h"
#include "store/journal.h"
#include "store_over_memory.h"

#define LOG_PAGES 256
#define REACH (UINT64_C(1) << 20)      /* of a file that is mapped, in pages */
#define FILE_PAGES (UINT64_C(1) << 28) /* a file of 1 TiB, which every file system takes */

static int wrap_journal(struct lh_store *below, struct lh_store **out)
{
	struct lh_journal_format format = { .log_pages = LOG_PAGES };
	struct lh_error error = { .code = 0 };
	int result = lh__journal_format(below, &format, &error);

	if (result == 0)
		result = lh__journal_open(below, false, out, &error);
	if (result < 0)
		printf("# %s\n", error.text);
	return result;
}

/* ---- over memory, and layers that do nothing ---- */

static int wrap_layers(struct lh_store *below, struct lh_store **out)
{
	if (lh__delay_open(below, 0, &below) != 0 || lh__fault_open(below, &below) != 0)
		return -ENOMEM;
	return wrap_journal(below, out);
}

static void over_memory_wrapped(const char *name, int (*wrap)(struct lh_store *, struct lh_store **),
                                unsigned steps)
{
	struct over_memory over = { .wrap = wrap };
	struct store_factory factory = over_memory(&over, name);

	factory.open_small = NULL; /* the log takes room too */
	factory.used = NULL;
	factory.steps = steps;
	store_conformance(&factory);
	is(over.leftovers, 0, "%s: closed journals leave nothing in use", name);
}

/* ---- over a file ---- */

struct file_place {
	char folder[300];
	enum lh_file_way way;
	struct lh_sys sys;
	unsigned files;
};

/* The suite cannot tell whether a disk has been waited for, and there are thousands of such waits in it. */
static long call_without_waiting(void *context, long nr, const long argument[6])
{
	long now[6];

	memcpy(now, argument, sizeof now);
	if (nr == SYS_fdatasync)
		return 0;
	if (nr == SYS_pwritev2)
		now[5] &= ~(long)RWF_DSYNC;
	return lh__sys_default.call(NULL, nr, now);
}

static struct lh_store *open_file(void *context)
{
	struct file_place *place = context;
	struct lh_file_options options = { .way = place->way, .create = true, .reach = REACH };
	struct lh_store *below, *store;
	char path[400];
	int result;

	snprintf(path, sizeof path, "%s/%u", place->folder, place->files++);
	result = lh__file_open(&place->sys, path, &options, &below, NULL);
	unlink(path);
	if (result != 0)
		return NULL;
	if (wrap_journal(below, &store) == 0)
		return store;
	below->ops->close(below);
	return NULL;
}

static void over_file(const char *name, const char *folder, enum lh_file_way way, unsigned steps)
{
	struct file_place place = { .way = way };
	struct store_factory factory = {
		.name = name,
		.context = &place,
		.open = open_file,
		.steps = steps,
		.pages = (way == LH_FILE_MAPPED ? REACH : FILE_PAGES) - LOG_PAGES - 2,
	};

	place.sys = lh__sys_default;
	place.sys.call = call_without_waiting;
	snprintf(place.folder, sizeof place.folder, "%s/store_journal.XXXXXX", folder);
	if (!mkdtemp(place.folder)) {
		skip(name, "there is no such folder");
		return;
	}
	store_conformance(&factory);
	ok(rmdir(place.folder) == 0, "%s: no file is left", name);
}

/* ---- over a node ---- */

struct node_place {
	struct test_node node;
	bool named;
	unsigned regions;
};

static int open_region(struct node_place *place, const struct lh_node_target *target, struct lh_store **out,
                       struct lh_error *error)
{
	char name[LH_NODE_NAME_SIZE];

	if (!place->named)
		return lh__node_open(&lh__sys_default, target, 5000, out, error);
	snprintf(name, sizeof name, "region-%u", place->regions++);
	return lh__node_store_named(&lh__sys_default, target, name, true, 5000, out, error);
}

static struct lh_store *open_node(void *context)
{
	struct node_place *place = context;
	struct lh_node_target target;
	struct lh_store *below, *store;
	struct lh_error error;
	int result = lh__node_target(place->node.url, NULL, &target, &error);

	if (result == 0)
		result = open_region(place, &target, &below, &error);
	if (result < 0)
		printf("# %s\n", error.text);
	if (result < 0)
		return NULL;
	if (wrap_journal(below, &store) == 0)
		return store;
	below->ops->close(below);
	return NULL;
}

/* What was made by name stays until it is dropped; the same name may then be made again. */
static void drop_regions(void *context)
{
	struct node_place *place = context;
	struct lh_node_target target;
	struct lh_error error;
	char name[LH_NODE_NAME_SIZE];

	if (lh__node_target(place->node.url, NULL, &target, &error) < 0)
		return;
	while (place->regions > 0) {
		snprintf(name, sizeof name, "region-%u", --place->regions);
		if (lh__node_drop_named(&target, name, NULL, 2000, &error) < 0)
			printf("# %s\n", error.text);
	}
}

static void over_node(const char *name, const char *url, bool named, unsigned steps)
{
	struct lh_server_options options = { .spin_us = 50 };
	struct node_place place = { .named = named };
	struct store_factory factory = {
		.name = name, .context = &place, .open = open_node, .finish = drop_regions, .steps = steps
	};
	struct lh_error error;

	if (!ok(node_start(&place.node, url, &options, &error) == 0, "%s: the node starts", name)) {
		printf("# %s\n", error.text);
		return;
	}
	store_conformance(&factory);
	node_stop(&place.node);
}

static bool wanted(const char *chosen, const char *name)
{
	return !chosen || strcmp(chosen, name) == 0;
}

int main(int argc, char **argv)
{
	const char *build = getenv("LINEHOME_BUILD"), *one = argc > 1 ? argv[1] : NULL;
	char unix_url[128];

	snprintf(unix_url, sizeof unix_url, "unix:%s/node", test_folder());
	if (wanted(one, "memory"))
		over_memory_wrapped("memory", wrap_journal, 5000);
	if (wanted(one, "layers"))
		over_memory_wrapped("layers", wrap_layers, 3000);
	if (wanted(one, "disk"))
		over_file("disk", build ? build : "/var/tmp", LH_FILE_BUFFERED, 500);
	if (wanted(one, "mapped"))
		over_file("mapped", "/dev/shm", LH_FILE_MAPPED, 3000);
	if (wanted(one, "ring"))
		over_node("ring", unix_url, false, 2000);
	if (wanted(one, "ring, by name"))
		over_node("ring, by name", unix_url, true, 1000);
	if (wanted(one, "tcp"))
		over_node("tcp", "tcp://127.0.0.1:0", false, 500);
	if (wanted(one, "tcp, by name"))
		over_node("tcp, by name", "tcp://127.0.0.1:0", true, 500);
	test_folder_remove();
	return done();
}
