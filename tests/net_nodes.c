/*
 * net_nodes.c - clients and nodes that are none, or bad ones: what connecting says, and that a store never
 * delivers what a node must not have sent, gives up in time, and then fails at once.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "net/data/ring.h"
#include "net/socket.h"
#include "serve_node.h"
#include "store/node.h"

enum manner {
	HTTP,
	VERSION,
	CLOSES,
	SILENT,
	DAMAGED,
	NONSENSE, /* at hello */
	HANGS,
	ENDS,
	GARBAGE,
	SEQUENCE,
	OTHER_PAGE,
	UNWANTED,
	BIT,
	CUT, /* after it */
};

static struct fake {
	int fd;
	enum manner manner;
	bool stop;
	unsigned hellos;
	pthread_t thread;
	char url[128];
} fake;

static void say(int fd, const void *bytes, size_t size)
{
	if (send(fd, bytes, size, MSG_NOSIGNAL) < 0)
		printf("# the client has gone\n");
}

static void say_hello(int fd)
{
	struct lh_wire_hello hello = { .version = fake.manner == VERSION ? 9 : LH_WIRE_VERSION,
		                       .what = LH_WIRE_OK,
		                       .channel = LH_WIRE_STREAM,
		                       .region = 5,
		                       .generation = 1 };
	uint8_t bytes[LH_WIRE_HELLO];

	lh__wire_hello_write(bytes, &hello);
	if (fake.manner == DAMAGED)
		bytes[50] ^= 1;
	if (fake.manner == NONSENSE)
		memset(bytes, 'x', sizeof bytes);
	say(fd, bytes, sizeof bytes);
}

/* To the first message of what came at once: after such a reply the others do not matter. */
static void reply(int fd, const uint8_t *message, size_t size)
{
	static uint8_t bytes[LH_WIRE_MESSAGE_MAX], page[LH_PAGE_SIZE];
	struct lh_wire_request request;
	uint64_t sequence;
	const char *why;
	size_t written;
	long first = lh__wire_size(message, size);

	memcpy(&sequence, message + 8, sizeof sequence);
	if (first <= 0 || (size_t)first > size)
		return;
	size = (size_t)first;
	if (lh__wire_request_read(message, size, sequence, &request, &why) < 0)
		return;
	request.sequence += fake.manner == SEQUENCE;
	request.page += fake.manner == OTHER_PAGE;
	memset(page, 0xdd, sizeof page);
	written = lh__wire_reply_write(bytes, &request, LH_WIRE_OK,
	                               fake.manner == UNWANTED ? LH_MASK_ALL : request.mask, page);
	if (fake.manner == GARBAGE)
		memset(bytes, 0x99, written);
	if (fake.manner == BIT)
		bytes[written - 1] ^= 1;
	say(fd, bytes, fake.manner == CUT ? written / 2 : written);
}

static void receive_all(int fd, uint8_t *bytes, size_t size)
{
	if (recv(fd, bytes, size, MSG_WAITALL) < 0)
		printf("# the client has gone\n");
}

/* One connection, in the manner asked for; ends with the client's end. */
static void *converse(void *argument)
{
	int fd = (int)(intptr_t)argument;
	uint8_t bytes[LH_WIRE_MESSAGE_MAX];
	ssize_t got;

	if (fake.manner != CLOSES)
		receive_all(fd, bytes, LH_WIRE_HELLO);
	__atomic_fetch_add(&fake.hellos, 1, __ATOMIC_RELAXED);
	if (fake.manner == HTTP)
		say(fd, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 66);
	else if (fake.manner != CLOSES && fake.manner != SILENT)
		say_hello(fd);
	while (fake.manner != CLOSES && (got = recv(fd, bytes, sizeof bytes, 0)) > 0) {
		if (fake.manner >= GARBAGE)
			reply(fd, bytes, (size_t)got);
		if (fake.manner == ENDS || fake.manner == CUT)
			break;
	}
	close(fd);
	return NULL;
}

static void *fake_thread(void *argument)
{
	int fd;

	while ((fd = accept(fake.fd, NULL, NULL)) >= 0 && !fake.stop) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, converse, (void *)(intptr_t)fd) == 0)
			pthread_detach(thread);
	}
	if (fd >= 0)
		close(fd);
	return NULL;
}

static void fake_start(enum manner manner)
{
	struct lh_node_url url;
	char bound[320];

	memset(&fake, 0, sizeof fake);
	fake.manner = manner;
	snprintf(fake.url, sizeof fake.url, "unix:%s/fake", test_folder());
	if (lh__node_url_parse(fake.url, true, &url, NULL) < 0 ||
	    lh__socket_listen(&url, false, &fake.fd, bound, NULL) < 0 || fcntl(fake.fd, F_SETFL, 0) < 0 ||
	    pthread_create(&fake.thread, NULL, fake_thread, NULL) != 0)
		abort();
}

static void fake_stop(void)
{
	fake.stop = true;
	shutdown(fake.fd, SHUT_RDWR);
	pthread_join(fake.thread, NULL);
	close(fake.fd);
	unlink(fake.url + 5);
}

static struct lh_node_target fake_target(void)
{
	struct lh_node_target target;

	if (lh__node_target(fake.url, NULL, &target, NULL) < 0)
		abort();
	target.no_ring = true;
	return target;
}

/* What is to time out does so soon; everything else has time, whatever else the machine does. */
static int patience_ms(int code)
{
	return code == -ETIMEDOUT ? 1500 : 20000;
}

static void connecting(enum manner manner, int code, const char *text)
{
	struct lh_node_target target;
	struct lh_node_link link = { .fd = { -7, -7 } };
	struct lh_error error = { 0 };
	uint64_t start = lh__net_now_ms();
	int result;

	fake_start(manner);
	target = fake_target();
	result = lh__node_create(&target, patience_ms(code), &link, &error);
	ok(result == code && error.code == code && strstr(error.text, text), "connecting: %s", error.text);
	ok(link.fd[0] == -7 && lh__net_now_ms() - start < 10000, "and nothing is made, in time");
	fake_stop();
}

/* get_now, then a put, then both again. */
static void serving(enum manner manner, int code, const char *what)
{
	struct lh_node_target target;
	unsigned char page[LH_PAGE_SIZE], before[LH_PAGE_SIZE];
	struct lh_request put = { .op = LH_OP_PUT, .page = 3, .mask = 1, .data = page };
	struct lh_store *store;
	struct lh_error error = { 0 };
	lh_mask held = 77;
	uint64_t start, first, again;
	int result;

	fake_start(manner);
	target = fake_target();
	if (!ok(lh__node_open(&lh__sys_default, &target, patience_ms(code), &store, &error) == 0,
	        "%s: it says hello", what))
		return;
	memset(page, 0x11, sizeof page);
	memcpy(before, page, sizeof page);
	start = lh__net_now_ms();
	result = store->ops->get_now(store, 3, UINT64_C(0xff), page, &held);
	first = lh__net_now_ms() - start;
	is(result, code, "%s: what get_now returns", what);
	ok(memcmp(page, before, sizeof page) == 0 && held == 77, "%s: nothing is delivered", what);
	ok(first < 10000, "%s: after %u ms", what, (unsigned)first);
	start = lh__net_now_ms();
	is(store->ops->get_now(store, 3, UINT64_C(0xff), page, &held), code, "%s: and again", what);
	is(lh__store_do(store, &put), code, "%s: so does a put", what);
	is(store->ops->sync(store), code, "%s: and sync", what);
	again = lh__net_now_ms() - start;
	ok(again < 1000, "%s: at once (%u ms)", what, (unsigned)again);
	store->ops->close(store);
	fake_stop();
}

/* The same for a request that is in flight. */
static void in_flight(enum manner manner, int code, const char *what)
{
	struct lh_node_target target;
	unsigned char page[LH_PAGE_SIZE] = { 9 };
	struct lh_request request[3] = {
		{ .op = LH_OP_PUT, .page = 3, .mask = 1, .data = page },
		{ .op = LH_OP_GET, .page = 4, .mask = 1, .data = page },
		{ .op = LH_OP_DROP, .page = 3 },
	}, *list[3] = { &request[0], &request[1], &request[2] }, *done[3];
	struct lh_store *store;
	size_t n = 0;

	fake_start(manner);
	target = fake_target();
	if (!ok(lh__node_open(&lh__sys_default, &target, patience_ms(code), &store, NULL) == 0,
	        "%s: it says hello", what))
		return;
	is(store->ops->submit(store, list, 3), 0, "%s: three requests are taken", what);
	while (n < 3) {
		size_t more = store->ops->poll(store, done + n, 3 - n, 20000);

		if (more == 0)
			break;
		n += more;
	}
	ok(n == 3 && done[0] == list[0] && request[0].result == code && request[1].result == code &&
	           request[2].result == code && page[0] == 9,
	   "%s: each ends with the error, in order (%d)", what, request[0].result);
	is(store->ops->submit(store, list, 3), code, "%s: none is taken any more", what);
	is(store->ops->poll(store, done, 3, 1000), 0, "%s: nothing is in flight", what);
	store->ops->close(store);
	fake_stop();
}

int main(void)
{
	struct lh_node_link none = { .kind = 5, .fd = { -1, -1 } };
	struct lh_node_options options = { 0 };
	struct lh_node_target target;
	struct lh_store *store;
	struct lh_error error;

	connecting(HTTP, -EPROTO, "not a memory node: it speaks something else");
	connecting(NONSENSE, -EPROTO, "not a memory node: it speaks something else");
	connecting(DAMAGED, -EPROTO, "not a memory node: its answer is damaged");
	connecting(VERSION, -EPROTONOSUPPORT, "speaks version 9 of the protocol, this is version 3");
	connecting(CLOSES, -ECONNRESET, "the node has ended the connection");
	connecting(SILENT, -ETIMEDOUT, "the node does not answer");
	if (lh__node_target(fake.url, NULL, &target, NULL) < 0)
		abort();
	ok(lh__node_create(&target, 400, &none, &error) == -ENOENT &&
	           strstr(error.text, "no memory node listens there"),
	   "connecting: %s", error.text);
	is(lh__node_attach(&lh__sys_default, &none, &options, &store), -EINVAL,
	   "a link of no known kind is refused");
	serving(HANGS, -ETIMEDOUT, "a node that hangs");
	serving(ENDS, -ETIMEDOUT, "a node that always ends the connection");
	serving(CUT, -ETIMEDOUT, "a node that ends it in the middle of a reply");
	serving(GARBAGE, -EIO, "a node that answers garbage");
	serving(SEQUENCE, -EIO, "a node that answers another request");
	serving(OTHER_PAGE, -EIO, "a node that answers with another page");
	serving(UNWANTED, -EIO, "a node that sends lines nobody wanted");
	serving(BIT, -EIO, "a node that damages one bit");
	in_flight(HANGS, -ETIMEDOUT, "in flight, a node that hangs");
	in_flight(GARBAGE, -EIO, "in flight, a node that answers garbage");
	in_flight(SEQUENCE, -EIO, "in flight, a node that answers another request");
	test_folder_remove();
	return done();
}
