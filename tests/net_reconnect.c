/*
 * net_reconnect.c - connections that break in the middle, and nodes that hang or die: what was acknowledged
 * is there afterwards, nothing old is carried out late, and a node that was started anew is not taken for the
 * old one.
 */
#include <errno.h>
#include <signal.h>
#include <sys/socket.h>

#include "net/socket.h"
#include "serve_node.h"
#include "store/node.h"

enum { PAGES = 24, IN_FLIGHT = 64 };

/*
 * A link whose sockets a second thread cuts; the descriptors are copies, so that none is cut that is not
 * ours.
 */
static struct line {
	struct lh_node_target target;
	pthread_mutex_t lock;
	int cut[2];
	bool stop;
	unsigned cuts;
	unsigned every_us;
	struct lh_error last;
} line = { .lock = PTHREAD_MUTEX_INITIALIZER, .cut = { -1, -1 } };

static void watch(const struct lh_node_link *link)
{
	unsigned i;

	pthread_mutex_lock(&line.lock);
	for (i = 0; i < 2; i++) {
		if (line.cut[i] >= 0)
			close(line.cut[i]);
		line.cut[i] = i == 0 || link->kind == LH_NODE_STREAM ? dup(link->fd[i]) : -1;
	}
	pthread_mutex_unlock(&line.lock);
}

static void cut(unsigned which)
{
	pthread_mutex_lock(&line.lock);
	if (line.cut[which] >= 0 && shutdown(line.cut[which], SHUT_RDWR) == 0)
		line.cuts++;
	pthread_mutex_unlock(&line.lock);
}

static void *cutter(void *argument)
{
	unsigned which = 0;

	while (!__atomic_load_n(&line.stop, __ATOMIC_RELAXED)) {
		usleep(line.every_us);
		cut(which++ % 2);
	}
	return NULL;
}

static int reconnect(void *context, struct lh_node_link *link, int ms)
{
	int result = lh__node_again(&line.target, ms, link, &line.last);

	if (result == 0)
		watch(link);
	return result;
}

enum way { VIEW, RING, STREAM };

static struct lh_store *open_line(const char *url, enum way way, unsigned timeout_ms)
{
	struct lh_node_options options = { .timeout_ms = timeout_ms, .reconnect = reconnect };
	struct lh_node_link link;
	struct lh_store *store;
	struct lh_error error;

	if (lh__node_target(url, NULL, &line.target, &error) < 0)
		return printf("# %s\n", error.text), NULL;
	line.target.no_ring = way == STREAM;
	line.target.no_view = way == RING;
	if (lh__node_create(&line.target, 20000, &link, &error) < 0)
		return printf("# %s\n", error.text), NULL;
	if (lh__node_attach(&lh__sys_default, &link, &options, &store) < 0)
		return NULL;
	watch(&link);
	return store;
}

/* ---- a random load while connections are cut ---- */

struct load {
	unsigned char content[PAGES][LH_PAGE_SIZE]; /* after everything submitted so far */
	struct lh_request request[IN_FLIGHT];
	unsigned char data[IN_FLIGHT][LH_PAGE_SIZE];
	unsigned char expected[IN_FLIGHT][LH_PAGE_SIZE];
	unsigned changed[IN_FLIGHT];
	uint64_t random;
	unsigned wrong, failed, miscounted;
};

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

/* What the page holds after the request, or what a GET must see. */
static void foresee(struct load *load, unsigned i)
{
	struct lh_request *request = &load->request[i];
	unsigned char *page = load->content[request->page], before[LH_PAGE_SIZE];

	memcpy(before, page, LH_PAGE_SIZE);
	if (request->op == LH_OP_REPLACE || request->op == LH_OP_DROP)
		memset(page, 0, LH_PAGE_SIZE);
	if (request->op == LH_OP_PUT || request->op == LH_OP_REPLACE)
		lh__lines_copy(page, load->data[i], request->mask);
	memcpy(load->expected[i], page, LH_PAGE_SIZE);
	load->changed[i] = 0;
	for (unsigned k = 0; k < LH_PAGE_SIZE; k++)
		load->changed[i] += page[k] != before[k];
}

static void make(struct load *load, unsigned i)
{
	static const enum lh_op ops[] = { LH_OP_PUT,  LH_OP_PUT, LH_OP_PUT, LH_OP_REPLACE,
		                          LH_OP_DROP, LH_OP_GET, LH_OP_GET };
	struct lh_request *request = &load->request[i];

	*request = (struct lh_request){ .op = ops[next(&load->random) % 7],
		                        .page = next(&load->random) % PAGES,
		                        .mask = next(&load->random) & next(&load->random),
		                        .data = load->data[i] };
	for (unsigned k = 0; k < LH_PAGE_SIZE; k += 8)
		memcpy(load->data[i] + k, &(uint64_t){ next(&load->random) }, 8);
	foresee(load, i);
}

static void check(struct load *load, struct lh_request *request)
{
	unsigned i = (unsigned)(request - load->request), k;

	load->failed += request->result != 0;
	if (request->op == LH_OP_PUT || request->op == LH_OP_REPLACE)
		load->miscounted += request->changed != load->changed[i];
	if (request->op == LH_OP_GET && request->result == 0)
		LH_MASK_EACH(request->mask, k)
			load->wrong += memcmp(load->data[i] + 64 * k, load->expected[i] + 64 * k, 64) != 0;
}

static void round_of(struct load *load, struct lh_store *store)
{
	struct lh_request *list[IN_FLIGHT], *done[IN_FLIGHT];
	unsigned char page[LH_PAGE_SIZE];
	size_t n = 0, more;
	lh_mask held;
	unsigned i;

	for (i = 0; i < IN_FLIGHT; i++) {
		make(load, i);
		list[i] = &load->request[i];
	}
	for (i = 0; i < IN_FLIGHT; i += 16)
		load->failed += store->ops->submit(store, list + i, 16) != 0;
	while (n < IN_FLIGHT && (more = store->ops->poll(store, done, IN_FLIGHT, 8000)) > 0)
		for (n += more; more > 0; more--)
			check(load, done[more - 1]);
	load->failed += n != IN_FLIGHT;
	i = next(&load->random) % PAGES;
	load->failed += store->ops->get_now(store, i, LH_MASK_ALL, page, &held) != 0;
	load->wrong += memcmp(page, load->content[i], sizeof page) != 0;
}

struct reader {
	struct lh_store *store;
	bool stop;
	unsigned gets, wrong;
};

/* Reads one page that nobody changes, from a thread beside. */
static void *read_steadily(void *argument)
{
	struct reader *reader = argument;
	unsigned char page[LH_PAGE_SIZE];
	lh_mask held;

	while (!__atomic_load_n(&reader->stop, __ATOMIC_RELAXED)) {
		int result = reader->store->ops->get_now(reader->store, 1000, LH_MASK_ALL, page, &held);

		reader->wrong += result != 0 || page[0] != 0x77 || page[4095] != 0x77;
		reader->gets++;
	}
	return NULL;
}

static void cut_in_the_middle(const char *url, enum way way, const char *name)
{
	static struct load load;
	struct lh_store *store = open_line(url, way, 20000);
	unsigned char page[LH_PAGE_SIZE];
	struct lh_request put = { .op = LH_OP_PUT, .page = 1000, .mask = LH_MASK_ALL, .data = page };
	struct reader readers[2] = { { .store = store }, { .store = store } };
	pthread_t thread, reading[2];
	struct lh_node_counts counts;
	uint64_t until = lh__net_now_ms() + 1500;
	unsigned rounds = 0;

	memset(&load, 0, sizeof load);
	load.random = 88172645463325252u;
	memset(page, 0x77, sizeof page);
	if (!ok(store && lh__store_do(store, &put) == 0, "%s: a store", name))
		return;
	line.cuts = 0;
	line.stop = false;
	line.every_us = 4000;
	pthread_create(&thread, NULL, cutter, NULL);
	pthread_create(&reading[0], NULL, read_steadily, &readers[0]);
	pthread_create(&reading[1], NULL, read_steadily, &readers[1]);
	for (; lh__net_now_ms() < until; rounds++)
		round_of(&load, store);
	__atomic_store_n(&line.stop, true, __ATOMIC_RELAXED);
	__atomic_store_n(&readers[0].stop, true, __ATOMIC_RELAXED);
	__atomic_store_n(&readers[1].stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	pthread_join(reading[0], NULL);
	pthread_join(reading[1], NULL);
	lh__node_counts(store, &counts);
	ok(line.cuts > 20 && counts.reconnects > 20,
	   "%s: cut %u times, connected again %u times, %u rounds of %d requests", name, line.cuts,
	   (unsigned)counts.reconnects, rounds, IN_FLIGHT);
	is(load.failed, 0, "%s: no request fails", name);
	is(load.wrong, 0, "%s: every content is what it must be", name);
	is(load.miscounted, 0, "%s: what each change changed is counted once, also where it was sent again",
	   name);
	ok(readers[0].wrong + readers[1].wrong == 0 && readers[0].gets > 0,
	   "%s: so it is for threads beside (%u gets)", name, readers[0].gets + readers[1].gets);
	store->ops->close(store);
}

/* ---- nodes in a process of their own ---- */

static pid_t node_process(const char *url)
{
	struct lh_server_options options = {
		.listen = &url, .listen_count = 1, .grace_ms = 5000, .spin_us = 50
	};
	struct lh_server *server;
	struct lh_error error;
	int ends[2];
	char byte = 0;
	pid_t pid;

	fflush(stdout);
	if (pipe(ends) != 0 || (pid = fork()) < 0)
		abort();
	if (pid == 0) {
		if (lh__server_open(&options, &server, &error) < 0)
			_exit(1);
		close(ends[0]);
		if (write(ends[1], "+", 1) != 1)
			_exit(1);
		_exit(lh__server_run(server, &error) < 0);
	}
	close(ends[1]);
	if (read(ends[0], &byte, 1) != 1)
		printf("# the node did not start\n");
	close(ends[0]);
	return pid;
}

static void end_process(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int put_one(struct lh_store *store, uint64_t number, unsigned char value)
{
	unsigned char page[LH_PAGE_SIZE];
	struct lh_request put = { .op = LH_OP_PUT, .page = number, .mask = LH_MASK_ALL, .data = page };

	memset(page, value, sizeof page);
	return lh__store_do(store, &put);
}

static int get_one(struct lh_store *store, uint64_t number, unsigned char *value)
{
	unsigned char page[LH_PAGE_SIZE];
	lh_mask held;
	int result = store->ops->get_now(store, number, LH_MASK_ALL, page, &held);

	*value = result == 0 ? page[77] : 0;
	return result;
}

static void killed(const char *url, enum way way, const char *name)
{
	pid_t node = node_process(url);
	struct lh_store *store = open_line(url, way, 20000);
	unsigned char value;
	uint64_t start, spent;

	ok(store && put_one(store, 5, 0x21) == 0, "%s: a node with a page", name);
	end_process(node);
	node = node_process(url);
	start = lh__net_now_ms();
	is(get_one(store, 5, &value), -EIO, "%s: killed and started anew: the page is not made up", name);
	ok(strstr(line.last.text, "does not have region") != NULL, "%s: and the reason is: %s", name,
	   line.last.text);
	ok(lh__net_now_ms() - start < 10000, "%s: known without waiting", name);
	is(put_one(store, 6, 1), -EIO, "%s: later calls fail too", name);
	store->ops->close(store);

	store = open_line(url, way, 1200);
	ok(store && put_one(store, 5, 0x22) == 0, "%s: a new region on the new node", name);
	end_process(node);
	start = lh__net_now_ms();
	ok(get_one(store, 5, &value) < 0, "%s: killed for good: the call fails", name);
	spent = lh__net_now_ms() - start;
	ok(spent >= 1000 && spent < 10000, "%s: after the timeout (%u ms)", name, (unsigned)spent);
	store->ops->close(store);
}

static void stop_process(pid_t pid)
{
	int status;

	kill(pid, SIGSTOP);
	if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status))
		printf("# the node did not stop\n");
}

/*
 * What a node has acknowledged can be looked at as long as somebody has its memory, whatever becomes of the
 * node.
 */
static void viewed(const char *url)
{
	pid_t node = node_process(url);
	struct lh_store *store = open_line(url, VIEW, 700);
	unsigned char value = 0;

	ok(store && put_one(store, 5, 0x21) == 0, "view: a node with a page");
	stop_process(node);
	ok(get_one(store, 5, &value) == 0 && value == 0x21, "view: stopped: the page can be read");
	end_process(node);
	ok(get_one(store, 5, &value) == 0 && value == 0x21, "view: killed: the page can be read");
	ok(put_one(store, 5, 0x22) < 0, "view: but nothing can be put");
	ok(get_one(store, 5, &value) < 0, "view: and once that is known nothing is read either");
	store->ops->close(store);
}

static void stopped(const char *url, enum way way, const char *name)
{
	pid_t node = node_process(url), helper;
	struct lh_store *store = open_line(url, way, 2000);
	unsigned char value = 0;
	uint64_t start, spent;

	ok(store && put_one(store, 5, 0x33) == 0, "%s: a node with a page", name);
	stop_process(node);
	helper = fork();
	if (helper == 0) {
		usleep(500000);
		kill(node, SIGCONT);
		_exit(0);
	}
	start = lh__net_now_ms();
	ok(get_one(store, 5, &value) == 0 && value == 0x33,
	   "%s: stopped for half a second: the page comes after %u ms", name,
	   (unsigned)(lh__net_now_ms() - start));
	ok(lh__net_now_ms() - start >= 300, "%s: not before", name);
	waitpid(helper, NULL, 0);
	stop_process(node);
	start = lh__net_now_ms();
	is(get_one(store, 5, &value), -ETIMEDOUT, "%s: stopped for good", name);
	spent = lh__net_now_ms() - start;
	ok(spent >= 1500 && spent < 10000, "%s: after the timeout (%u ms)", name, (unsigned)spent);
	start = lh__net_now_ms();
	ok(put_one(store, 5, 1) == -ETIMEDOUT && lh__net_now_ms() - start < 1000,
	   "%s: later calls fail at once", name);
	store->ops->close(store);
	end_process(node);
}

static void grace(const char *url)
{
	struct lh_server_options options = { .grace_ms = 1500, .spin_us = 50 };
	struct lh_node_link link, again;
	struct lh_server_counts counts;
	struct test_node node;
	struct lh_error error;

	if (!ok(node_start(&node, url, &options, &error) == 0 &&
	                lh__node_target(url, NULL, &line.target, &error) == 0 &&
	                lh__node_create(&line.target, 20000, &link, &error) == 0,
	        "a node with a grace of 1500 ms"))
		return;
	lh__node_link_close(&link);
	usleep(50000);
	is(lh__node_again(&line.target, 20000, &link, &error), 0,
	   "a client that comes back in time has its region");
	is(link.generation, 2, "in the next generation");
	again = link;
	lh__node_link_close(&link);
	for (unsigned i = 0; i < 2000; i++) {
		lh__server_read_counts(node.server, &counts);
		if (counts.regions_now == 0)
			break;
		usleep(10000);
	}
	is(counts.regions_now, 0, "the region of one that does not is dropped");
	is(lh__node_again(&line.target, 20000, &again, &error), -ESTALE, "and who comes late is told");
	node_stop(&node);
}

int main(void)
{
	struct lh_server_options options = { .grace_ms = 5000, .spin_us = 50 };
	struct test_node node;
	struct lh_error error;
	char url[128];

	snprintf(url, sizeof url, "unix:%s/node", test_folder());
	if (!ok(node_start(&node, url, &options, &error) == 0, "a node starts"))
		return done();
	cut_in_the_middle(url, VIEW, "view");
	cut_in_the_middle(url, RING, "ring");
	cut_in_the_middle(url, STREAM, "stream");
	node_stop(&node);
	if (ok(node_start(&node, "tcp://127.0.0.1:0", &options, &error) == 0, "a node starts")) {
		cut_in_the_middle(node.url, STREAM, "tcp");
		node_stop(&node);
	}
	viewed(url);
	unlink(url + 5);
	killed(url, RING, "ring");
	unlink(url + 5);
	killed(url, STREAM, "stream");
	unlink(url + 5);
	stopped(url, RING, "ring");
	unlink(url + 5);
	stopped(url, STREAM, "stream");
	unlink(url + 5);
	grace(url);
	test_folder_remove();
	return done();
}
