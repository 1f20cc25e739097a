/*
 * store_node.c - the node store passes the conformance suite over everything that carries it, and over
 * regions that were made by name and opened again; with an argument, over that one alone. (ThreadSanitizer
 * cannot follow the ring, which is mapped twice.)
 */
#include "serve_node.h"
#include "store_conformance.h"

struct way {
	const char *name, *url;
	bool key, stream, no_view;
	unsigned named; /* regions that were made by name, and one: they are */
	unsigned small_named;
	unsigned steps;
	struct test_node node, small;
	bool running, small_running;
	const char *key_file;
};

static const char *name_of(char name[LH_NODE_NAME_SIZE], unsigned number)
{
	snprintf(name, LH_NODE_NAME_SIZE, "region-%u", number);
	return name;
}

/* One that has been left, and is opened again. */
static int open_again(unsigned number, const struct lh_node_target *target, struct lh_store **out,
                      struct lh_error *error)
{
	char name[LH_NODE_NAME_SIZE];
	int result;

	name_of(name, number);
	result = lh__node_store_named(&lh__sys_default, target, name, true, 5000, out, error);
	if (result)
		return result;
	(*out)->ops->close(*out);
	return lh__node_store_named(&lh__sys_default, target, name, false, 5000, out, error);
}

static int target_of(struct way *way, const char *url, struct lh_node_target *target, struct lh_error *error)
{
	int result = lh__node_target(url, way->key_file, target, error);

	target->no_ring = way->stream;
	target->no_view = way->no_view;
	return result;
}

static struct lh_store *open_at(struct way *way, const char *url)
{
	struct lh_node_target target;
	struct lh_store *store;
	struct lh_error error;
	unsigned *named = url == way->node.url ? &way->named : &way->small_named;
	int result = target_of(way, url, &target, &error);

	if (result == 0)
		result = way->named ? open_again((*named)++, &target, &store, &error)
		                    : lh__node_open(&lh__sys_default, &target, 5000, &store, &error);
	return result == 0 ? store : (printf("# %s\n", error.text), NULL);
}

static struct lh_store *open_node(void *context)
{
	struct way *way = context;

	return open_at(way, way->node.url);
}

static struct lh_store *open_small(void *context, unsigned pages)
{
	struct way *way = context;
	struct lh_server_options options = { .size = pages * LH_PAGE_SIZE,
		                             .key_file = way->key_file,
		                             .spin_us = 50 };
	char url[128];

	snprintf(url, sizeof url, strncmp(way->url, "unix", 4) == 0 ? "%s.small" : "%s", way->url);
	if (node_start(&way->small, url, &options, NULL) != 0)
		return NULL;
	way->small_running = true;
	return open_at(way, way->small.url);
}

/* Stores that are closed go a moment later: until the figure rests, and each region has its connections. */
static uint64_t used(void *context)
{
	struct way *way = context;
	unsigned channels = !way->stream && strncmp(way->url, "unix", 4) == 0 ? 1 : 2, same = 0, i;
	struct lh_server_counts counts;
	uint64_t last = UINT64_MAX;

	for (i = 0; same < 10 && i < 500; i++) {
		lh__server_read_counts(way->small_running ? way->small.server : way->node.server, &counts);
		same = counts.bytes_used == last && counts.regions_now * channels == counts.connections_now
		               ? same + 1
		               : 0;
		last = counts.bytes_used;
		usleep(10000);
	}
	return last;
}

/* What was made by name and has been left. */
static void drop_all(struct way *way)
{
	char name[LH_NODE_NAME_SIZE];
	struct lh_node_target target;
	struct lh_error error;

	if (target_of(way, way->node.url, &target, &error) < 0)
		return;
	for (unsigned i = 1; i < way->named; i++) /* none where regions have no names */
		if (lh__node_drop_named(&target, name_of(name, i), NULL, 2000, &error) < 0)
			printf("# %s\n", error.text);
}

static void finish(void *context)
{
	struct way *way = context;

	if (way->small_running)
		node_stop(&way->small);
	drop_all(way);
	way->small_running = false;
	way->named = way->named != 0;
}

/* Nothing, but that a store which was closed with requests in flight may have ended in the middle of one. */
static bool log_is_clean(const char *log)
{
	const char *end;

	for (; *log; log = end + 1) {
		const char *text = strstr(log, "sent a truncated message");

		end = strchr(log, '\n');
		if (!end || !text || text > end)
			return false;
	}
	return true;
}

static void count_meanwhile(void *calls)
{
	++*(unsigned *)calls;
}

/* Who has to wait for a page does something else meanwhile, once; who finds it in view does not wait. */
static void meanwhile(struct way *way)
{
	unsigned char page[LH_PAGE_SIZE] = { 1 };
	struct lh_request put = { .op = LH_OP_PUT, .page = 3, .mask = LH_MASK_ALL, .data = page };
	bool viewed = strncmp(way->name, "ring and view", 13) == 0;
	struct lh_store *store = open_node(way);
	unsigned calls = 0;
	lh_mask held;

	if (!ok(store && lh__store_do(store, &put) == 0, "%s: a page", way->name))
		return;
	store->meanwhile = (struct lh_meanwhile){ count_meanwhile, &calls };
	ok(store->ops->get_now(store, 3, LH_MASK_ALL, page, &held) == 0 && held == 1, "%s: is fetched",
	   way->name);
	is(calls, viewed ? 0 : 1, "%s: what there is to do meanwhile is done %s", way->name,
	   viewed ? "elsewhere" : "once");
	store->ops->close(store);
}

static void try_way(struct way *way)
{
	struct lh_server_options options = { .spin_us = 50 };
	struct store_factory factory = { .name = way->name,
		                         .context = way,
		                         .open = open_node,
		                         .open_small = open_small,
		                         .used = way->named ? NULL : used,
		                         .finish = finish,
		                         .steps = way->steps };
	struct lh_error error;

	way->key_file = way->key ? write_key("key", 0xa5, 0600) : NULL;
	options.key_file = way->key_file;
	if (!ok(node_start(&way->node, way->url, &options, &error) == 0, "%s: the node starts", way->name)) {
		printf("# %s\n", error.text);
		return;
	}
	store_conformance(&factory);
	meanwhile(way);
	if (way->named) {
		struct lh_server_counts counts;

		finish(way);
		lh__server_read_counts(way->node.server, &counts);
		is(counts.named_now, 0, "%s: none is left that was dropped", way->name);
	}
	ok(log_is_clean(way->node.log), "%s: the node has nothing to complain of", way->name);
	if (way->node.lines)
		printf("# %s\n", way->node.log);
	node_stop(&way->node);
}

int main(int argc, char **argv)
{
	char path[128];
	struct way ways[] = {
		{ .name = "ring and view", .url = path, .steps = 20000 },
		{ .name = "ring", .url = path, .no_view = true, .steps = 20000 },
		{ .name = "unix stream", .url = path, .stream = true, .steps = 10000 },
		{ .name = "tcp", .url = "tcp://127.0.0.1:0", .steps = 5000 },
		{ .name = "ring and view, by name", .url = path, .named = 1, .steps = 3000 },
		{ .name = "tcp, by name", .url = "tcp://127.0.0.1:0", .named = 1, .steps = 2000 },
		{ .name = "tls, by name",
		  .url = "tcp://127.0.0.1:0",
		  .key = true,
		  .named = 1,
		  .steps = 2000 },
		{ .name = "tls", .url = "tcp://127.0.0.1:0", .key = true, .steps = 3000 },
	};
	size_t i;

	snprintf(path, sizeof path, "unix:%s/node", test_folder());
	for (i = 0; i < sizeof ways / sizeof ways[0]; i++)
		if (argc < 2 || strcmp(argv[1], ways[i].name) == 0)
			try_way(&ways[i]);
	test_folder_remove();
	return done();
}
