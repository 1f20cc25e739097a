/*
 * serve_named.c - regions with names: they outlive their clients, one client has one at a time, what was
 * acknowledged to a client that was killed is there for the next, and nothing of its is carried out any more.
 * Over everything that carries a link. The nodes are processes of their own, so that clients can be, too.
 */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "net/data/wire.h"
#include "serve_node.h"
#include "store/node.h"

/* Every call is answered; this is for a machine that is busy with something else. */
enum { PATIENCE_MS = 20000 };

/* ---- nodes ---- */

struct peer {
	pid_t pid;
	char url[320];
};

static void be_node(const char *url, const struct lh_server_options *given, int tell)
{
	struct lh_server_options options = *given;
	struct lh_server *server;
	struct lh_error error;
	char bound[320] = "";

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	options.listen = &url;
	options.listen_count = 1;
	if (lh__server_open(&options, &server, &error) < 0)
		_exit(1);
	strcpy(bound, lh__server_url(server, 0));
	if (write(tell, bound, sizeof bound) != (ssize_t)sizeof bound)
		_exit(1);
	_exit(lh__server_run(server, &error) < 0);
}

static struct peer node_process(const char *url, const struct lh_server_options *options)
{
	struct peer node = { 0 };
	int ends[2];

	fflush(stdout);
	if (pipe(ends) != 0 || (node.pid = fork()) < 0)
		abort();
	if (node.pid == 0)
		be_node(url, options, ends[1]);
	close(ends[1]);
	if (read(ends[0], node.url, sizeof node.url) != (ssize_t)sizeof node.url)
		printf("# the node did not start\n");
	close(ends[0]);
	return node;
}

static void end_process(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- stores ---- */

static struct lh_node_target target;

static int store_named(const char *name, bool create, struct lh_store **store, struct lh_error *error)
{
	*error = (struct lh_error){ 0 };
	return lh__node_store_named(&lh__sys_default, &target, name, create, PATIENCE_MS, store, error);
}

static void close_store(struct lh_store *store)
{
	store->ops->close(store);
}

static int put(struct lh_store *store, uint64_t number, unsigned char value)
{
	unsigned char page[LH_PAGE_SIZE];
	struct lh_request request = { .op = LH_OP_PUT, .page = number, .mask = LH_MASK_ALL, .data = page };

	memset(page, value, sizeof page);
	return lh__store_do(store, &request);
}

/* The value that fills the page; negative: an error, or that it is not one value. */
static int get(struct lh_store *store, uint64_t number)
{
	unsigned char page[LH_PAGE_SIZE];
	lh_mask held;
	int i, result = store->ops->get_now(store, number, LH_MASK_ALL, page, &held);

	for (i = 1; result == 0 && i < (int)sizeof page; i++)
		if (page[i] != page[0])
			return -EILSEQ;
	return result ? result : page[0];
}

/* ---- what is said ---- */

static void says(const char *way, int result, int code, const struct lh_error *error, const char *text)
{
	ok(result == code && error->code == code && strstr(error->text, text), "%s: %s (%d)", way,
	   error->text, result);
}

static void lives(const char *way)
{
	struct lh_store *store, *other = NULL;
	struct lh_error error;

	says(way, store_named("cart", false, &other, &error), -ENOENT, &error, "/cart: the node has nothing");
	if (!ok(store_named("cart", true, &store, &error) == 0, "%s: a region is made %s", way, error.text))
		return;
	ok(!store->caps.durable && !store->caps.durable_put, "%s: it does not claim to be durable", way);
	ok(put(store, 3, 0x31) == 0 && put(store, 100, 0x32) == 0, "%s: and has two pages", way);
	says(way, store_named("cart", true, &other, &error), -EEXIST, &error, "has that name already");
	says(way, store_named("cart", false, &other, &error), -EBUSY, &error, "another client has it open");
	says(way, lh__node_drop_named(&target, "cart", NULL, PATIENCE_MS, &error), -EBUSY, &error,
	     "/cart: another");
	is(get(store, 3), 0x31, "%s: whose client notices nothing of that", way);
	close_store(store);
	ok(store_named("cart", false, &store, &error) == 0 && get(store, 3) == 0x31 &&
	           get(store, 100) == 0x32 && get(store, 4) == 0,
	   "%s: opened again it is as it was left %s", way, error.text);
	is(put(store, 3, 0x33), 0, "%s: and goes on", way);
	close_store(store);
	ok(store_named("Cart", true, &other, &error) == 0 && get(other, 3) == 0, "%s: another name", way);
	close_store(other);
	ok(store_named("cart", false, &store, &error) == 0 && get(store, 3) == 0x33, "%s: and the first",
	   way);
	close_store(store);
	is(lh__node_drop_named(&target, "cart", NULL, PATIENCE_MS, &error), 0, "%s: one is dropped", way);
	says(way, lh__node_drop_named(&target, "cart", NULL, PATIENCE_MS, &error), -ENOENT, &error,
	     "nothing of that");
	says(way, store_named("cart", false, &other, &error), -ENOENT, &error, "/cart: the node has nothing");
	ok(store_named("cart", true, &store, &error) == 0 && get(store, 3) == 0,
	   "%s: made once more it is empty", way);
	close_store(store);
	ok(lh__node_drop_named(&target, "cart", NULL, PATIENCE_MS, &error) == 0 &&
	           lh__node_drop_named(&target, "Cart", NULL, PATIENCE_MS, &error) == 0,
	   "%s: all are dropped", way);
}

static void wrong_names(void)
{
	static const char *const names[] = { "", ".", ".hidden", "a/b", "a b", "caf\xc3\xa9", NULL };
	char longest[LH_NODE_NAME_SIZE + 1];
	struct lh_node_link link = { .region = 77 };
	struct lh_store *store;
	struct lh_error error;
	const char *const *at;

	for (at = names; *at; at++)
		says("a name", store_named(*at, true, &store, &error), -EINVAL, &error, "1 to 63 letters");
	memset(longest, 'x', sizeof longest);
	longest[LH_NODE_NAME_SIZE] = '\0';
	says("a name", lh__node_open_named(&target, longest, PATIENCE_MS, &link, &error), -EINVAL, &error,
	     "63");
	says("a name", lh__node_drop_named(&target, longest, NULL, PATIENCE_MS, &error), -EINVAL, &error,
	     "63");
	is(link.region, 77, "and no link is made");
	longest[LH_NODE_NAME_SIZE - 1] = '\0';
	ok(store_named(longest, true, &store, &error) == 0, "63 letters are a name");
	close_store(store);
	is(lh__node_drop_named(&target, longest, NULL, PATIENCE_MS, &error), 0, "which can be dropped");
}

/* ---- a client that is killed ---- */

enum { PAGES = 64 };

/* Fills page after page with the number of the round, and tells each acknowledged one. */
static void be_client(int tell)
{
	struct lh_store *store;
	struct lh_error error;
	unsigned char said[2];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (store_named("killed", false, &store, &error) < 0)
		_exit(1);
	for (said[0] = 1;; said[0] = said[0] % 250 + 1)
		for (said[1] = 0; said[1] < PAGES; said[1]++)
			if (put(store, said[1], said[0]) != 0 || write(tell, said, 2) != 2)
				_exit(1);
}

/*
 * Kills the client after so many of its puts. Fills known with what it was told last, and what was next: the
 * put that was under way may have been carried out or not.
 */
static void run_client(unsigned puts, unsigned char known[PAGES], unsigned *next, unsigned *value)
{
	unsigned char said[2] = { 0, 0 };
	int ends[2];
	pid_t pid;

	fflush(stdout);
	if (pipe(ends) != 0 || (pid = fork()) < 0)
		abort();
	if (pid == 0)
		be_client(ends[1]);
	close(ends[1]);
	while (puts-- != 0 && read(ends[0], said, 2) == 2)
		known[said[1]] = said[0];
	end_process(pid);
	while (read(ends[0], said, 2) == 2)
		known[said[1]] = said[0];
	close(ends[0]);
	*next = (said[1] + 1u) % PAGES;
	*value = *next ? said[0] : said[0] % 250 + 1u;
}

static void killed(const char *way)
{
	unsigned char known[PAGES] = { 0 };
	struct lh_store *store;
	struct lh_error error;
	unsigned round, page, next, value, opened = 0, wrong = 0;

	if (!ok(store_named("killed", true, &store, &error) == 0, "%s: a region for a client", way))
		return;
	close_store(store);
	for (round = 0; round < 8; round++) {
		run_client(40 + 37 * round, known, &next, &value);
		if (store_named("killed", false, &store, &error) < 0) {
			printf("# %s\n", error.text);
			continue;
		}
		opened++;
		for (page = 0; page < PAGES; page++) {
			int got = get(store, page);

			wrong += got != known[page] && (page != next || got != (int)value);
			known[page] = (unsigned char)got;
		}
		close_store(store);
	}
	is(opened, round, "%s: as soon as a client was killed the next has its region", way);
	is(wrong, 0, "%s: with all that was acknowledged, and each page whole", way);
	is(lh__node_drop_named(&target, "killed", NULL, PATIENCE_MS, &error), 0, "%s: which is dropped", way);
}

/* ---- links that break ---- */

static int reconnect(void *context, struct lh_node_link *link, int ms)
{
	return lh__node_again(&target, ms, link, context);
}

/* A store on a link whose sockets can be shut down from outside. */
static struct lh_store *open_cuttable(int cut[2], struct lh_error *last)
{
	struct lh_node_options options = { .timeout_ms = PATIENCE_MS,
		                           .reconnect = reconnect,
		                           .context = last };
	struct lh_node_link link;
	struct lh_store *store;

	if (lh__node_open_named(&target, "broken", PATIENCE_MS, &link, last) < 0 ||
	    lh__node_attach(&lh__sys_default, &link, &options, &store) < 0)
		return printf("# %s\n", last->text), NULL;
	cut[0] = dup(link.fd[0]);
	cut[1] = link.kind == LH_NODE_STREAM ? dup(link.fd[1]) : -1;
	return store;
}

static void cut_both(const int cut[2])
{
	for (int i = 0; i < 2; i++)
		if (cut[i] >= 0) {
			shutdown(cut[i], SHUT_RDWR);
			close(cut[i]);
		}
}

static void broken(const char *way)
{
	struct lh_store *first, *second;
	struct lh_error error, last = { 0 };
	int cut[2];

	if (!ok(store_named("broken", true, &first, &error) == 0, "%s: a region", way))
		return;
	close_store(first);
	first = open_cuttable(cut, &last);
	if (!ok(first && put(first, 1, 0x11) == 0, "%s: and a client", way))
		return;
	cut_both(cut);
	ok(put(first, 1, 0x12) == 0 && get(first, 1) == 0x12, "%s: that connects again and goes on", way);
	close_store(first);
	first = open_cuttable(cut, &last);
	if (!ok(first && get(first, 1) == 0x12, "%s: another, which loses its connections", way))
		return;
	cut_both(cut);
	if (!ok(store_named("broken", false, &second, &error) == 0 && put(second, 1, 0x21) == 0,
	        "%s: and with them the region, to one that opens it %s", way, error.text))
		return;
	is(put(first, 1, 0x13), -EIO, "%s: it comes back, and is refused", way);
	says(way, last.code, -EBUSY, &last, "has been connected to by somebody else meanwhile");
	is(get(second, 1), 0x21, "%s: nothing of its was carried out", way);
	is(put(second, 2, 0x22), 0, "%s: the one that has the region goes on", way);
	close_store(first);
	close_store(second);
	is(lh__node_drop_named(&target, "broken", NULL, PATIENCE_MS, &error), 0, "%s: which is dropped", way);
}

enum { LATE_PAGES = 4, LATE_GETS = 1600 };

/*
 * Requests whose answers nobody reads, more than there is room for on the way, and behind them puts: the node
 * comes to these when somebody reads.
 */
static void leave_puts(const struct lh_node_link *link, unsigned gets)
{
	static uint8_t bytes[LATE_GETS * LH_WIRE_HEADER + LATE_PAGES * LH_WIRE_MESSAGE_MAX];
	unsigned char page[LH_PAGE_SIZE];
	size_t size = 0;
	unsigned i;

	memset(page, 0x0d, sizeof page);
	for (i = 0; i < gets; i++)
		size += lh__wire_request_write(bytes + size, LH_WIRE_GET, i + 1, LATE_PAGES, LH_MASK_ALL,
		                               NULL);
	for (i = 0; i < LATE_PAGES; i++)
		size += lh__wire_request_write(bytes + size, LH_WIRE_PUT, gets + i + 1, i, LH_MASK_ALL, page);
	if (send(link->fd[1], bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
		printf("# the node takes less\n");
	shutdown(link->fd[0], SHUT_WR);
	shutdown(link->fd[1], SHUT_WR);
}

/* Until the node ends it. */
static void read_all(int fd)
{
	static char bytes[65536];

	while (recv(fd, bytes, sizeof bytes, 0) > 0)
		;
}

static void late(const char *way)
{
	unsigned page, wrong = 0;
	struct lh_node_link link;
	struct lh_store *store;
	struct lh_error error;

	if (!ok(store_named("late", true, &store, &error) == 0, "%s: a region", way))
		return;
	for (page = 0; page <= LATE_PAGES; page++)
		wrong += put(store, page, 0x55) != 0;
	close_store(store);
	if (!ok(wrong == 0 && lh__node_open_named(&target, "late", PATIENCE_MS, &link, &error) == 0,
	        "%s: with pages, and a client", way))
		return;
	leave_puts(&link, target.url.tcp ? LATE_GETS : 128);
	target.no_ring = false; /* the next has one channel: to attach a second would end the first's, too */
	if (!ok(store_named("late", false, &store, &error) == 0,
	        "%s: that ends while the node has much of it to carry out: the next has the region %s", way,
	        error.text))
		return;
	read_all(link.fd[1]);
	for (page = 0; page < LATE_PAGES; page++)
		wrong += get(store, page) != 0x55;
	is(wrong, 0, "%s: from then on nothing of it is carried out", way);
	target.no_ring = true;
	lh__node_link_close(&link);
	close_store(store);
	is(lh__node_drop_named(&target, "late", NULL, PATIENCE_MS, &error), 0, "%s: which is dropped", way);
}

static void dropped_as_made(void)
{
	struct lh_node_link made, later;
	struct lh_error error = { 0 };

	is(lh__node_create_named(&target, "made", PATIENCE_MS, &made, &error), 0, "a region is made");
	lh__node_link_close(&made);
	is(lh__node_open_named(&target, "made", PATIENCE_MS, &later, &error), 0,
	   "and opened by another client");
	lh__node_link_close(&later);
	ok(later.region == made.region && later.generation > made.generation + 1,
	   "whose generation the first does not reach by connecting again");
	says("a client that takes back what it made",
	     lh__node_drop_named(&target, "made", &made, PATIENCE_MS, &error), -EBUSY, &error,
	     "somebody else meanwhile");
	is(lh__node_drop_named(&target, "made", &later, PATIENCE_MS, &error), 0, "the other one can");
}

/* ---- several at once ---- */

enum { CROWD = 8 };

struct one {
	pthread_t thread;
	pthread_barrier_t *start, *stop;
	int result;
};

static void *open_at_once(void *argument)
{
	struct one *one = argument;
	struct lh_store *store = NULL;
	struct lh_error error;

	pthread_barrier_wait(one->start);
	one->result = store_named("wanted", false, &store, &error);
	pthread_barrier_wait(one->stop);
	if (one->result == 0)
		close_store(store);
	return NULL;
}

static void crowd(const char *way)
{
	pthread_barrier_t start, stop;
	struct one one[CROWD];
	struct lh_store *store;
	struct lh_error error;
	unsigned i, won = 0, busy = 0;

	if (!ok(store_named("wanted", true, &store, &error) == 0, "%s: a region", way))
		return;
	close_store(store);
	pthread_barrier_init(&start, NULL, CROWD);
	pthread_barrier_init(&stop, NULL, CROWD);
	for (i = 0; i < CROWD; i++) {
		one[i] = (struct one){ .start = &start, .stop = &stop };
		pthread_create(&one[i].thread, NULL, open_at_once, &one[i]);
	}
	for (i = 0; i < CROWD; i++) {
		pthread_join(one[i].thread, NULL);
		won += one[i].result == 0;
		busy += one[i].result == -EBUSY;
	}
	ok(won == 1 && busy == CROWD - 1, "%s: of %u that open it at once one has it, %u are told", way,
	   CROWD, busy);
	pthread_barrier_destroy(&start);
	pthread_barrier_destroy(&stop);
	is(lh__node_drop_named(&target, "wanted", NULL, PATIENCE_MS, &error), 0, "%s: it is dropped", way);
}

/* ---- views, limits, the grace ---- */

static bool has_view(bool create, const char *name)
{
	struct lh_node_link link;
	int result = create ? lh__node_create_named(&target, name, PATIENCE_MS, &link, NULL)
	                    : lh__node_open_named(&target, name, PATIENCE_MS, &link, NULL);
	bool has = result == 0 && link.kind == LH_NODE_RING && link.fd[2] >= 0;

	if (result == 0)
		lh__node_link_close(&link);
	return has;
}

static void views(void)
{
	struct lh_store *store;
	struct lh_error error;

	ok(has_view(true, "seen"), "a region that is made has a ring and a view");
	ok(has_view(false, "seen"), "so it has when it is opened");
	target.no_ring = true;
	ok(store_named("plain", true, &store, &error) == 0 && put(store, 9, 0x99) == 0,
	   "one made over a stream");
	close_store(store);
	target.no_ring = false;
	ok(has_view(false, "plain"), "has them when it is opened on the same machine");
	ok(store_named("plain", false, &store, &error) == 0 && get(store, 9) == 0x99,
	   "and what was put is in it");
	close_store(store);
	ok(lh__node_drop_named(&target, "plain", NULL, PATIENCE_MS, NULL) == 0 &&
	           lh__node_drop_named(&target, "seen", NULL, PATIENCE_MS, NULL) == 0,
	   "both are dropped");
}

/* In this process, where the node's figures can be read. */
static void limits(const char *url)
{
	struct lh_server_options options = { .size = 2 * LH_PAGE_SIZE, .grace_ms = 1, .spin_us = 50 };
	struct lh_store *store, *other;
	struct lh_server_counts counts;
	struct test_node node;
	struct lh_error error;
	unsigned i;

	if (!ok(node_start(&node, url, &options, &error) == 0 &&
	                lh__node_target(url, NULL, &target, &error) == 0,
	        "a node for two pages, with a grace of a millisecond"))
		return;
	ok(store_named("full", true, &store, &error) == 0 && put(store, 0, 1) == 0 && put(store, 1, 2) == 0,
	   "a region with two pages");
	is(lh__node_open(&lh__sys_default, &target, PATIENCE_MS, &other, &error), 0,
	   "and one without a name");
	lh__server_read_counts(node.server, &counts);
	ok(counts.regions_now == 2 && counts.named_now == 1 && counts.bytes_used == 2 * LH_PAGE_SIZE,
	   "are counted");
	is(put(other, 0, 1), -ENOSPC, "pages with a name count against the limit");
	close_store(store);
	close_store(other);
	for (i = 0; i < 500 && counts.regions_now != 1; i++) {
		usleep(10000);
		lh__server_read_counts(node.server, &counts);
	}
	ok(counts.regions_now == 1 && counts.named_now == 1 && counts.bytes_used == 2 * LH_PAGE_SIZE,
	   "when both clients have gone the one with the name stays");
	ok(store_named("full", false, &store, &error) == 0 && get(store, 1) == 2, "and can be opened");
	close_store(store);
	is(lh__node_drop_named(&target, "full", NULL, PATIENCE_MS, &error), 0, "until it is dropped");
	lh__server_read_counts(node.server, &counts);
	ok(counts.named_now == 0 && counts.bytes_used == 0, "then its memory is free when that is answered");
	node_stop(&node);
}

static void two_nodes(const struct peer *first, const struct peer *second)
{
	const struct peer *node[2] = { first, second };
	struct lh_store *store[2];
	struct lh_error error;
	unsigned i, fine = 0;

	for (i = 0; i < 2; i++)
		fine += lh__node_target(node[i]->url, NULL, &target, &error) == 0 &&
		        store_named("twin", true, &store[i], &error) == 0 &&
		        put(store[i], 1, (unsigned char)(0x71 + i)) == 0;
	if (!ok(fine == 2, "the same name on two nodes"))
		return;
	for (i = 0; i < 2; i++)
		close_store(store[i]);
	for (i = 0, fine = 0; i < 2; i++) {
		fine += lh__node_target(node[i]->url, NULL, &target, &error) == 0 &&
		        store_named("twin", false, &store[i], &error) == 0 &&
		        get(store[i], 1) == 0x71 + (int)i;
		close_store(store[i]);
	}
	is(fine, 2, "is two regions");
}

/* The node's memory is the medium. */
static void node_ends(const char *url, struct peer *node)
{
	struct lh_server_options options = { .spin_us = 50 };
	struct lh_store *store;
	struct lh_error error;

	if (!ok(lh__node_target(url, NULL, &target, &error) == 0 &&
	                store_named("gone", true, &store, &error) == 0 && put(store, 1, 1) == 0,
	        "a region on a node"))
		return;
	end_process(node->pid);
	*node = node_process(url, &options);
	ok(put(store, 1, 2) < 0, "that is killed, and another started in its place: the client is told");
	lh__node_last_error(store, &error);
	says("why", error.code, -ESTALE, &error, "it was started anew, or dropped the region");
	close_store(store);
	says("gone", store_named("gone", false, &store, &error), -ENOENT, &error, "nothing of that name");
}

/* ---- the whole ---- */

static void try_way(const char *way, const struct peer *node, const char *key_file, bool no_ring,
                    bool no_view)
{
	struct lh_error error;

	if (!ok(lh__node_target(node->url, key_file, &target, &error) == 0, "%s: %s", way, node->url))
		return;
	target.no_ring = no_ring;
	target.no_view = no_view;
	lives(way);
	killed(way);
	broken(way);
	crowd(way);
	if (no_ring || (target.url.tcp && !key_file))
		late(way);
}

int main(void)
{
	struct lh_server_options options = { .spin_us = 50, .grace_ms = 5000 }, secured = options;
	struct peer node, tcp, tls;
	const char *key;
	char url[128];

	key = secured.key_file = write_key("key", 0x5a, 0600);
	snprintf(url, sizeof url, "unix:%s/node", test_folder());
	node = node_process(url, &options);
	tcp = node_process("tcp://127.0.0.1:0", &options);
	tls = node_process("tcp://127.0.0.1:0", &secured);
	try_way("view", &node, NULL, false, false);
	try_way("ring", &node, NULL, false, true);
	try_way("stream", &node, NULL, true, false);
	try_way("tcp", &tcp, NULL, false, false);
	try_way("tls", &tls, key, false, false);
	two_nodes(&node, &tcp);
	if (lh__node_target(url, NULL, &target, NULL) == 0) {
		wrong_names();
		views();
		dropped_as_made();
	}
	node_ends(url, &node);
	end_process(node.pid);
	end_process(tcp.pid);
	end_process(tls.pid);
	unlink(url + 5);
	limits(url);
	test_folder_remove();
	return done();
}
