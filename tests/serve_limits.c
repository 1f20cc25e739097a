/*
 * serve_limits.c - a full node, its statistics, clones over the wire, and a node that is told to end while
 * puts are in flight.
 */
#include <errno.h>
#include <signal.h>

#include "net/socket.h"
#include "net/data/wire.h"
#include "serve_node.h"
#include "store/node.h"

static char url[128];

static struct lh_store *open_store(bool stream, unsigned timeout_ms)
{
	struct lh_node_target target;
	struct lh_store *store;
	struct lh_error error;

	if (lh__node_target(url, NULL, &target, &error) < 0)
		return NULL;
	target.no_ring = stream;
	if (lh__node_open(&lh__sys_default, &target, timeout_ms, &store, &error) < 0)
		return printf("# %s\n", error.text), NULL;
	return store;
}

static int put(struct lh_store *store, uint64_t number, lh_mask mask, unsigned char value)
{
	unsigned char page[LH_PAGE_SIZE];
	struct lh_request request = { .op = LH_OP_PUT, .page = number, .mask = mask, .data = page };

	memset(page, value, sizeof page);
	return lh__store_do(store, &request);
}

/* The first byte of the page's first line. */
static int get(struct lh_store *store, uint64_t number)
{
	unsigned char page[LH_PAGE_SIZE];
	lh_mask held;
	int result = store->ops->get_now(store, number, LH_MASK_ALL, page, &held);

	return result < 0 ? result : page[0];
}

static void full(bool stream, const char *name)
{
	struct lh_server_options options = { .size = 8 * LH_PAGE_SIZE, .spin_us = 50 };
	struct lh_server_counts counts;
	struct lh_store *greedy = NULL, *modest = NULL;
	struct test_node node;
	unsigned i, wrong = 0;

	if (!ok(node_start(&node, url, &options, NULL) == 0 && (greedy = open_store(stream, 2000)) != NULL &&
	                (modest = open_store(stream, 2000)) != NULL,
	        "%s: a node with room for eight pages, and two clients", name))
		return;
	is(put(modest, 0, LH_MASK_ALL, 100), 0, "%s: the modest one puts a page", name);
	for (i = 0; i < 7; i++)
		wrong += put(greedy, i, LH_MASK_ALL, (unsigned char)(i + 1)) != 0;
	is(wrong, 0, "%s: the greedy one fills the node", name);
	is(put(greedy, 7, 1, 8), -ENOSPC, "%s: a page more is refused", name);
	is(put(greedy, 3, 1, 33), 0, "%s: pages that it has can change", name);
	is(put(modest, 0, LH_MASK_ALL, 101), 0, "%s: the other is not disturbed", name);
	for (i = 0; i < 7; i++)
		wrong += get(greedy, i) != (i == 3 ? 33 : (int)i + 1);
	ok(wrong == 0 && get(modest, 0) == 101 && get(greedy, 7) == 0, "%s: everything is as it was", name);
	lh__server_read_counts(node.server, &counts);
	ok(counts.full == 1 && counts.bytes_used == 8 * LH_PAGE_SIZE &&
	           counts.bytes_limit == 8 * LH_PAGE_SIZE,
	   "%s: the statistics say so", name);
	greedy->ops->close(greedy);
	for (i = 0; i < 200 && put(modest, 50, LH_MASK_ALL, 1) == -ENOSPC; i++)
		usleep(5000);
	ok(i < 200, "%s: when the greedy one has gone there is room", name);
	modest->ops->close(modest);
	node_stop(&node);
}

/* A load of known size, counted from both ends. */
static void statistics(void)
{
	const uint64_t header = LH_WIRE_HEADER, set = LH_LINESET_HEADER_SIZE;
	struct lh_server_options options = { .spin_us = 50 };
	struct lh_request drop = { .op = LH_OP_DROP, .page = 2 };
	struct lh_server_counts counts;
	struct lh_node_counts client;
	struct lh_store *store, *copy;
	struct test_node node;
	unsigned i, wrong = 0;

	if (!ok(node_start(&node, url, &options, NULL) == 0 && (store = open_store(true, 2000)) != NULL,
	        "a node"))
		return;
	for (i = 0; i < 10; i++)
		wrong += put(store, i, 7, 1) != 0;
	for (i = 0; i < 6; i++)
		wrong += get(store, i) != 1;
	wrong += lh__store_do(store, &drop) != 0 || store->ops->clone(store, &copy, NULL) != 0;
	if (!ok(wrong == 0, "10 puts of 3 lines, 6 gets, a drop and a clone"))
		return;
	lh__server_read_counts(node.server, &counts);
	ok(counts.puts == 10 && counts.gets == 6 && counts.drops == 1 && counts.replaces == 0 &&
	           counts.lines_in == 30 && counts.lines_out == 18 && counts.full == 0,
	   "requests and lines are counted exactly");
	ok(counts.connections == 4 && counts.connections_now == 4 && counts.regions == 2 &&
	           counts.regions_now == 2 && counts.clones == 1 && counts.refused == 0 &&
	           counts.violations == 0,
	   "so are connections and regions");
	is(counts.bytes_used, 9 * LH_PAGE_SIZE, "nine pages are left, and a clone shares them");
	is(counts.bytes_in, 10 * (header + set + 3 * 64) + 7 * header, "bytes in");
	is(counts.bytes_out, 10 * header + 6 * (header + set + 3 * 64) + header, "bytes out");
	lh__node_counts(store, &client);
	ok(client.bytes_out == counts.bytes_in && client.bytes_in == counts.bytes_out &&
	           client.reconnects == 0,
	   "the client counts the same");
	copy->ops->close(copy);
	store->ops->close(store);
	node_stop(&node);
}

static void clones(bool stream, const char *name)
{
	struct lh_server_options options = { .spin_us = 50 };
	struct lh_store *store, *copy = NULL;
	struct test_node node;

	if (!ok(node_start(&node, url, &options, NULL) == 0 && (store = open_store(stream, 2000)) != NULL,
	        "%s: a node", name))
		return;
	ok(put(store, 1, LH_MASK_ALL, 11) == 0 && store->ops->clone(store, &copy, NULL) == 0, "%s: a clone",
	   name);
	ok(put(store, 1, LH_MASK_ALL, 12) == 0 && put(copy, 1, 2, 13) == 0 && put(copy, 2, 1, 14) == 0,
	   "%s: both are changed", name);
	ok(get(store, 1) == 12 && get(copy, 1) == 11 && get(store, 2) == 0 && get(copy, 2) == 14,
	   "%s: and neither sees the other's changes", name);
	store->ops->close(store);
	ok(get(copy, 1) == 11, "%s: the clone outlives its origin", name);
	copy->ops->close(copy);
	node_stop(&node);
}

/* ---- told to end ---- */

static struct lh_server *child_server;

static void on_term(int signal)
{
	lh__server_stop(child_server);
}

static pid_t node_process(void)
{
	const char *word = url;
	struct lh_server_options options = { .listen = &word, .listen_count = 1, .spin_us = 50 };
	struct lh_error error;
	int ends[2];
	char byte;
	pid_t pid;

	fflush(stdout);
	if (pipe(ends) != 0 || (pid = fork()) < 0)
		abort();
	if (pid == 0) {
		if (lh__server_open(&options, &child_server, &error) < 0)
			_exit(1);
		signal(SIGTERM, on_term);
		if (write(ends[1], "+", 1) != 1 || lh__server_run(child_server, &error) < 0)
			_exit(1);
		lh__server_close(child_server);
		_exit(0);
	}
	close(ends[1]);
	if (read(ends[0], &byte, 1) != 1)
		printf("# the node did not start\n");
	close(ends[0]);
	return pid;
}

/* The node is stopped, gets puts and then the signal, and goes on: the puts came first. */
static void told_to_end(bool stream, const char *name)
{
	enum { PUTS = 20 };
	static unsigned char page[LH_PAGE_SIZE];
	struct lh_request request[PUTS], *list[PUTS], *done[PUTS];
	pid_t node = node_process();
	struct lh_store *store = open_store(stream, 1500);
	unsigned i, wrong = 0;
	size_t n = 0, more = 1;
	int status = -1;

	if (!ok(store && put(store, 500, 1, 1) == 0, "%s: a node in a process of its own", name))
		return;
	for (i = 0; i < PUTS; i++) {
		request[i] =
			(struct lh_request){ .op = LH_OP_PUT, .page = i, .mask = LH_MASK_ALL, .data = page };
		list[i] = &request[i];
	}
	kill(node, SIGSTOP);
	waitpid(node, &status, WUNTRACED);
	is(store->ops->submit(store, list, PUTS), 0, "%s: %d puts are on their way", name, PUTS);
	kill(node, SIGTERM);
	kill(node, SIGCONT);
	while (n < PUTS && (more = store->ops->poll(store, done + n, PUTS - n, 5000)) > 0)
		n += more;
	for (i = 0; i < PUTS; i++)
		wrong += request[i].result != 0;
	ok(n == PUTS && wrong == 0, "%s: told to end, the node acknowledges them first", name);
	ok(waitpid(node, &status, 0) == node && WIFEXITED(status) && WEXITSTATUS(status) == 0,
	   "%s: and ends well", name);
	ok(access(url + 5, F_OK) != 0, "%s: and its socket is gone", name);
	ok(put(store, 1, 1, 1) < 0, "%s: then nothing is acknowledged any more", name);
	store->ops->close(store);
}

int main(void)
{
	snprintf(url, sizeof url, "unix:%s/node", test_folder());
	told_to_end(false, "ring");
	told_to_end(true, "stream");
	full(false, "ring");
	full(true, "stream");
	clones(false, "ring");
	clones(true, "stream");
	statistics();
	test_folder_remove();
	return done();
}
