/*
 * serve_peers.c - a memory node and peers that break the rules: each loses its own connection, the log says
 * so in one line, and a client beside them notices nothing.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "net/data/ring.h"
#include "net/socket.h"
#include "serve_node.h"

static struct test_node node;
static struct lh_node_target target;
static struct lh_store *witness;

static int dial(void)
{
	struct lh_error error;
	int fd;

	if (lh__socket_connect(&target.url, false, lh__net_now_ms() + 20000, &fd, &error) < 0) {
		printf("# %s\n", error.text);
		return -1;
	}
	return fd;
}

/* Whether the node ends the connection within two seconds; what it sends before is thrown away. */
static bool ended(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	char bytes[4096];

	while (poll(&poll_fd, 1, 2000) == 1) {
		ssize_t got = recv(fd, bytes, sizeof bytes, 0);

		if (got <= 0)
			return true;
	}
	return false;
}

static void say(int fd, const void *bytes, size_t size)
{
	if (send(fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
		printf("# the node took less than was sent\n");
}

/*
 * The one new line in the log says text, the peer's connection is over, and the witness still gets its page.
 */
static void expect_end(int fd, unsigned lines_before, const char *text, const char *what)
{
	unsigned char page[LH_PAGE_SIZE];
	lh_mask held = 0;
	bool over = ended(fd);

	close(fd);
	ok(over && node_logged_next(&node, lines_before, text),
	   "%s: the connection ends, and the log says why", what);
	is(node.lines - lines_before, 1, "%s: in one line", what);
	ok(witness->ops->get_now(witness, 7, LH_MASK_ALL, page, &held) == 0 && held == LH_MASK_ALL &&
	           page[9] == 0x42,
	   "%s: another client is served", what);
}

static void before_hello(const void *bytes, size_t size, bool finish, const char *text, const char *what)
{
	unsigned lines = node.lines;
	int fd = dial();

	say(fd, bytes, size);
	if (finish)
		shutdown(fd, SHUT_WR);
	expect_end(fd, lines, text, what);
}

static void hellos(void)
{
	struct lh_wire_hello hello = { .version = LH_WIRE_VERSION,
		                       .what = LH_WIRE_CREATE,
		                       .channel = LH_WIRE_STREAM };
	const char *http = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	uint8_t bytes[LH_WIRE_HELLO];

	before_hello(http, strlen(http), false, "speaks something else", "an HTTP request");
	lh__wire_hello_write(bytes, &hello);
	before_hello(bytes, 30, true, "in the middle of its hello", "half a hello");
	bytes[20] ^= 1;
	before_hello(bytes, sizeof bytes, false, "malformed hello", "a damaged hello");
	hello.what = 9;
	lh__wire_hello_write(bytes, &hello);
	before_hello(bytes, sizeof bytes, false, "malformed hello", "a hello with an unknown action");
	hello.what = LH_WIRE_OPEN_NAMED;
	lh__wire_hello_write(bytes, &hello);
	before_hello(bytes, sizeof bytes, false, "malformed hello", "an action by name without a name");
	hello.what = LH_WIRE_CREATE;
	hello.version = 7;
	lh__wire_hello_write(bytes, &hello);
	before_hello(bytes, sizeof bytes, false, "it speaks version 7, this is version 3",
	             "a hello of another version");
}

static void names(void)
{
	struct lh_wire_hello hello = { .version = LH_WIRE_VERSION,
		                       .what = LH_WIRE_CREATE_NAMED,
		                       .channel = LH_WIRE_STREAM,
		                       .name = "a.name" };
	uint8_t bytes[LH_WIRE_HELLO + LH_WIRE_NAME_MAX];
	size_t size = lh__wire_hello_write(bytes, &hello);

	before_hello(bytes, size - 1, true, "in the middle of its hello", "half a name");
	before_hello(bytes, LH_WIRE_HELLO, true, "in the middle of its hello", "a name that does not come");
	bytes[size - 1] ^= 1;
	before_hello(bytes, size, false, "malformed name", "a damaged name");
	strcpy(hello.name, "../name");
	size = lh__wire_hello_write(bytes, &hello);
	before_hello(bytes, size, false, "malformed name", "a name that is none");
	hello.what = LH_WIRE_ATTACH;
	size = lh__wire_hello_write(bytes, &hello);
	before_hello(bytes, size, false, "malformed hello", "a name with an action that takes none");
	hello.what = LH_WIRE_OPEN_NAMED;
	hello.channel = LH_WIRE_RING;
	strcpy(hello.name, "nobody");
	size = lh__wire_hello_write(bytes, &hello);
	before_hello(bytes, size, false, "no region of that name", "a name that is not there");
}

static void regions(void)
{
	struct lh_node_link link, thief;
	struct lh_error error;
	unsigned lines = node.lines;

	is(lh__node_create(&target, 2000, &link, &error), 0, "a region is made");
	thief = link;
	thief.token[3] ^= 1;
	ok(lh__node_again(&target, 2000, &thief, &error) == -ESTALE &&
	           node_logged(&node, "or the wrong token"),
	   "attaching with a wrong token is refused: %s", error.text);
	thief = link;
	thief.token[15] ^= 1;
	ok(lh__node_clone(&target, 2000, &thief, &thief, &error) == -ESTALE, "so is cloning");
	thief = link;
	thief.region += 2;
	ok(lh__node_again(&target, 2000, &thief, &error) == -ESTALE,
	   "a region that does not exist is refused");
	thief = link;
	thief.generation -= 1;
	is(lh__node_again(&target, 2000, &thief, &error), 0, "the same generation may attach once more");
	lh__node_link_close(&thief);
	thief = link;
	thief.generation -= 2;
	is(lh__node_again(&target, 2000, &thief, &error), -EBUSY, "an earlier one may not");
	is(node_lines_since(&node, lines, 4), 4, "each refusal is one line in the log");
	lh__node_link_close(&link);
}

/* ---- after hello, over a stream ---- */

static struct lh_node_link stream_link(void)
{
	struct lh_node_target plain = target;
	struct lh_node_link link = { .fd = { -1, -1 } };

	plain.no_ring = true;
	if (lh__node_create(&plain, 2000, &link, NULL) < 0)
		printf("# no link\n");
	return link;
}

static void after_hello(const void *bytes, size_t size, bool finish, const char *text, const char *what)
{
	struct lh_node_link link = stream_link();
	unsigned lines = node.lines;

	say(link.fd[0], bytes, size);
	if (finish)
		shutdown(link.fd[0], SHUT_WR);
	expect_end(link.fd[0], lines, text, what);
	close(link.fd[1]);
}

static void messages(void)
{
	static uint8_t bytes[3 * LH_WIRE_MESSAGE_MAX];
	unsigned char page[LH_PAGE_SIZE];
	uint32_t huge = 1u << 30;
	size_t size, again;

	memset(page, 1, sizeof page);
	size = lh__wire_request_write(bytes, LH_WIRE_PUT, 1, 3, LH_MASK_ALL, page);
	after_hello(bytes, size - 1, true, "a truncated message", "a truncated message");
	bytes[200] ^= 4;
	after_hello(bytes, size, false, "a malformed line set", "a line with one wrong bit");
	bytes[200] ^= 4;
	bytes[16] ^= 4;
	after_hello(bytes, size, false, "a message with a wrong checksum", "a header with one wrong bit");
	bytes[16] ^= 4;
	memcpy(bytes + size, bytes, size);
	after_hello(bytes, 2 * size, false, "a replayed message", "a replayed message");
	again = lh__wire_request_write(bytes + size, LH_WIRE_GET, 3, 3, LH_MASK_ALL, NULL);
	after_hello(bytes, size + again, false, "a message out of sequence", "a message out of sequence");
	size = lh__wire_request_write(bytes, (enum lh_wire_op)9, 1, 3, 0, NULL);
	after_hello(bytes, size, false, "a request of unknown type", "a request of unknown type");
	memcpy(bytes, &huge, sizeof huge);
	after_hello(bytes, size, false, "a message of impossible size", "an oversized message");
	memset(bytes, 0, sizeof bytes);
	after_hello(bytes, sizeof bytes, false, "a message of impossible size", "zeroes");
}

/* ---- in the ring ---- */

enum spoil { SPOIL_SIZE, SPOIL_CHECKSUM, SPOIL_REPLAY, SPOIL_HEAD, SPOIL_BULK, SPOIL_SOCKET };

static void spoil_slot(struct lh_ring *ring, uint64_t sequence, bool damage)
{
	struct lh_ring_slot *slot = &ring->slot[5];

	lh__wire_request_write(slot->message, LH_WIRE_GET, sequence, 3, LH_MASK_ALL, NULL);
	slot->message[30] ^= damage;
	__atomic_store_n(&slot->state, LH_RING_ASKED, __ATOMIC_RELEASE);
	__atomic_fetch_or(&ring->asked, UINT64_C(1) << 5, __ATOMIC_SEQ_CST);
	lh__ring_knock(&lh__sys_default, ring);
}

static void spoil_ring(struct lh_ring *ring, int fd, enum spoil how)
{
	switch (how) {
	case SPOIL_SIZE:
		memset(ring->slot[9].message, 0xff, 64);
		__atomic_fetch_or(&ring->asked, UINT64_C(1) << 9, __ATOMIC_SEQ_CST);
		break;
	case SPOIL_CHECKSUM: spoil_slot(ring, 1, true); break;
	case SPOIL_REPLAY:
		spoil_slot(ring, 1, false);
		while (__atomic_load_n(&ring->slot[5].state, __ATOMIC_ACQUIRE) != LH_RING_ANSWERED)
			usleep(100);
		spoil_slot(ring, 1, false);
		break;
	case SPOIL_HEAD: __atomic_store_n(&ring->head, LH_RING_BULK + 1, __ATOMIC_SEQ_CST); break;
	case SPOIL_BULK:
		memset(ring->slot[LH_RING_FETCH].message, 0, 64);
		__atomic_store_n(&ring->head, 1, __ATOMIC_SEQ_CST);
		break;
	case SPOIL_SOCKET: say(fd, "x", 1); break;
	}
	lh__ring_knock(&lh__sys_default, ring);
}

static void ring(enum spoil how, const char *text, const char *what)
{
	struct lh_node_link link;
	struct lh_ring *shared;
	unsigned lines = node.lines;

	if (lh__node_create(&target, 2000, &link, NULL) < 0 ||
	    lh__ring_map(&lh__sys_default, link.fd[1], &shared) < 0) {
		ok(0, "%s: a ring", what);
		return;
	}
	spoil_ring(shared, link.fd[0], how);
	expect_end(link.fd[0], lines, text, what);
	lh__ring_unmap(&lh__sys_default, shared);
	close(link.fd[1]);
}

static void crowd(void)
{
	struct lh_server_options options = { .connections = 2 };
	struct lh_node_target here = target;
	struct lh_node_link first, second;
	struct test_node small;
	struct lh_error error;
	char url[128];

	snprintf(url, sizeof url, "unix:%s/small", test_folder());
	ok(node_start(&small, url, &options, &error) == 0 &&
	           lh__node_url_parse(url, false, &here.url, &error) == 0,
	   "a node that takes two connections");
	here.no_ring = true;
	is(lh__node_create(&here, 2000, &first, &error), 0, "a stream takes both");
	ok(lh__node_create(&here, 2000, &second, &error) == -EBUSY &&
	           node_logged(&small, "too many connections"),
	   "the next client is told: %s", error.text);
	lh__node_link_close(&first);
	node_stop(&small);
}

static void open_witness(void)
{
	unsigned char page[LH_PAGE_SIZE];
	struct lh_request request = { .op = LH_OP_PUT, .page = 7, .mask = LH_MASK_ALL, .data = page };
	struct lh_error error;

	memset(page, 0x42, sizeof page);
	if (!ok(lh__node_open(&lh__sys_default, &target, 2000, &witness, &error) == 0 &&
	                lh__store_do(witness, &request) == 0,
	        "a well-behaved client"))
		exit(done());
}

int main(void)
{
	struct lh_server_options options = { .spin_us = 50 };
	struct lh_server_counts counts;
	struct lh_error error;
	char url[128];

	snprintf(url, sizeof url, "unix:%s/node", test_folder());
	if (!ok(node_start(&node, url, &options, &error) == 0 &&
	                lh__node_target(url, NULL, &target, &error) == 0,
	        "a node starts"))
		return done();
	open_witness();
	hellos();
	names();
	regions();
	messages();
	ring(SPOIL_SIZE, "a message of impossible size", "ring: an impossible size");
	ring(SPOIL_CHECKSUM, "a message with a wrong checksum", "ring: one wrong bit");
	ring(SPOIL_REPLAY, "a replayed message", "ring: a replay");
	ring(SPOIL_HEAD, "an impossible count of messages", "ring: more messages than there are slots");
	ring(SPOIL_BULK, "a message of impossible size", "ring: zeroes in the bulk lane");
	ring(SPOIL_SOCKET, "a message outside the ring", "ring: a byte on the socket");
	lh__server_read_counts(node.server, &counts);
	is(counts.refused, 16, "the count of those refused");
	is(counts.violations, 14, "the count of those ended for what they sent");
	crowd();
	witness->ops->close(witness);
	node_stop(&node);
	test_folder_remove();
	return done();
}
