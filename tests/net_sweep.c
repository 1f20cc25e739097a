/*
 * net_sweep.c - the node store with every system call and allocation failing in turn: attaching, getting and
 * putting, over a stream and over the ring; and a region that is made by name, and opened again. A call that
 * fails says so; what was acknowledged is there; no other content is ever seen; nothing leaks. The sweep is
 * shown to see a store that loses an update.
 */
#include "inject.h"
#include "serve_node.h"
#include "store/node.h"

enum { PAGES = 3 };

static struct lh_node_target target;

static int reconnect(void *context, struct lh_node_link *link, int ms)
{
	return lh__node_again(&target, ms, link, NULL);
}

struct sweep {
	struct inject in;
	struct lh_store *store;
	unsigned char sure[PAGES];  /* the value that the page must have, or */
	unsigned char maybe[PAGES]; /* one that a failed put may have left */
	unsigned succeeded, failed, wrong, odd;
	bool lose; /* the planted fault: acknowledge without doing */
};

static int put(struct sweep *sweep, uint64_t number, unsigned char value)
{
	unsigned char page[LH_PAGE_SIZE];
	struct lh_request request = { .op = LH_OP_PUT, .page = number, .mask = LH_MASK_ALL, .data = page };

	if (sweep->lose)
		return 0;
	memset(page, value, sizeof page);
	return lh__store_do(sweep->store, &request);
}

static void try_put(struct sweep *sweep, unsigned number, unsigned char value)
{
	int result = put(sweep, number, value);

	sweep->succeeded += result == 0;
	sweep->failed += result != 0;
	sweep->odd += result > 0 || (result < 0 && result != -EIO && result != -ETIMEDOUT);
	sweep->maybe[number] = value;
	if (result == 0)
		sweep->sure[number] = value;
}

static void try_get(struct sweep *sweep, unsigned number)
{
	unsigned char page[LH_PAGE_SIZE];
	lh_mask held = 0;
	int result;
	unsigned i;

	memset(page, 0xee, sizeof page);
	result = sweep->store->ops->get_now(sweep->store, number, LH_MASK_ALL, page, &held);
	sweep->succeeded += result == 0;
	sweep->failed += result != 0;
	sweep->odd += result > 0;
	for (i = 1; i < sizeof page; i++)
		sweep->wrong += page[i] != page[0];
	if (result != 0)
		sweep->wrong += page[0] != 0xee;
	else
		sweep->wrong += page[0] != sweep->sure[number] && page[0] != sweep->maybe[number];
}

static void work(struct sweep *sweep)
{
	unsigned i;

	for (i = 0; i < PAGES; i++) {
		try_put(sweep, i, (unsigned char)(10 + i));
		try_get(sweep, i);
	}
	try_put(sweep, 1, 99);
	try_get(sweep, 1);
}

/* One attach with injection, then the work; whoever attached must close. */
static void round_of(struct sweep *sweep, bool again)
{
	struct lh_node_options options = { .timeout_ms = 400, .reconnect = again ? reconnect : NULL };
	struct lh_node_link link;
	int result;

	memset(sweep->sure, 0, sizeof sweep->sure);
	memset(sweep->maybe, 0, sizeof sweep->maybe);
	if (lh__node_create(&target, 1000, &link, NULL) < 0) {
		sweep->odd++;
		return;
	}
	inject_arm(&sweep->in);
	result = lh__node_attach(&sweep->in.sys, &link, &options, &sweep->store);
	if (result == 0)
		work(sweep);
	inject_disarm(&sweep->in);
	if (result == 0)
		sweep->store->ops->close(sweep->store);
	else
		lh__node_link_close(&link);
}

/*
 * The same with a region that is made by name: what is sure is there when it is opened again, with another
 * failure. A store that could not be made has left no region behind.
 */
static void named_round(struct sweep *sweep)
{
	struct lh_error error;
	int result;

	memset(sweep->sure, 0, sizeof sweep->sure);
	memset(sweep->maybe, 0, sizeof sweep->maybe);
	inject_arm(&sweep->in);
	result = lh__node_store_named(&sweep->in.sys, &target, "swept", true, 400, &sweep->store, &error);
	if (result == 0)
		work(sweep);
	inject_disarm(&sweep->in);
	sweep->failed += result != 0;
	if (result == 0)
		sweep->store->ops->close(sweep->store);
	if (result == 0 &&
	    lh__node_store_named(&sweep->in.sys, &target, "swept", false, 400, &sweep->store, &error) == 0) {
		for (unsigned i = 0; i < PAGES; i++)
			try_get(sweep, i);
		sweep->store->ops->close(sweep->store);
	} else {
		sweep->odd += result == 0;
	}
	sweep->odd +=
		lh__node_drop_named(&target, "swept", NULL, 1000, &error) != (result == 0 ? 0 : -ENOENT);
}

static unsigned open_descriptors(void)
{
	unsigned n = 0;
	int fd;

	for (fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* The node closes its own ends a moment later, and those of the region when its grace is over. */
static unsigned settled_descriptors(unsigned wanted)
{
	unsigned i, n = 0;

	for (i = 0; i < 200 && (n = open_descriptors()) != wanted; i++)
		usleep(10000);
	return n;
}

static void sweep_all(bool stream, bool again, int error, enum inject_mode mode, const char *name)
{
	bool named = strstr(name, "by name") != NULL;
	struct sweep sweep = { .lose = false };
	unsigned before = open_descriptors();

	target.no_ring = stream;
	INJECT_SWEEP(&sweep.in, error, mode)
		if (named)
			named_round(&sweep);
		else
			round_of(&sweep, again);
	ok(inject_swept(&sweep.in), "%s: swept in %lu rounds, nothing leaks", name, sweep.in.rounds);
	/* With a link to reconnect to, one injected failure costs one call at most. */
	ok(sweep.wrong == 0 && sweep.odd == 0 && sweep.succeeded > 0 &&
	           (again ? sweep.failed <= sweep.in.rounds : sweep.failed > 0),
	   "%s: %u calls succeed, %u fail with an error, no content is wrong", name, sweep.succeeded,
	   sweep.failed);
	is(settled_descriptors(before), before, "%s: no descriptor is left open", name);
}

static void planted(void)
{
	struct sweep sweep = { .lose = true };

	inject_init(&sweep.in, EIO, INJECT_ONCE);
	round_of(&sweep, false);
	ok(sweep.wrong > 0, "a store that loses updates is seen");
}

int main(void)
{
	struct lh_server_options options = { .grace_ms = 600, .spin_us = 50 };
	struct test_node node;
	struct lh_error error;
	char url[128];

	snprintf(url, sizeof url, "unix:%s/node", test_folder());
	if (!ok(node_start(&node, url, &options, &error) == 0 &&
	                lh__node_target(url, NULL, &target, &error) == 0,
	        "a node"))
		return done();
	sweep_all(true, false, EIO, INJECT_ONCE, "stream, once");
	sweep_all(true, false, EIO, INJECT_LASTING, "stream, lasting");
	sweep_all(true, true, ECONNRESET, INJECT_ONCE, "stream, connecting again");
	sweep_all(true, false, EINTR, INJECT_ONCE, "stream, interrupted once");
	sweep_all(false, false, EIO, INJECT_ONCE, "ring, once");
	sweep_all(false, false, EIO, INJECT_LASTING, "ring, lasting");
	sweep_all(false, true, ECONNRESET, INJECT_ONCE, "ring, connecting again");
	sweep_all(true, true, EIO, INJECT_ONCE, "stream, by name");
	sweep_all(false, true, EIO, INJECT_ONCE, "ring, by name");
	planted();
	node_stop(&node);
	test_folder_remove();
	return done();
}
