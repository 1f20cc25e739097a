/*
 * migrate_channel.c - connections between sender and receiver: keys, hellos, messages in halves, silence,
 * ends.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "migrate_channel.h"
#include "net/socket.h"
#include "tap.h"

/* What is waited for comes; this is for a machine that is busy with something else. */
enum { PATIENCE_MS = 20000 };

static const char *key, *other_key;
static char unix_url[320];

/* ---- beginnings ---- */

static void exchange(const char *what, struct pair *pair)
{
	static uint8_t big[LH_MOVE_BODY_MAX];
	struct lh_move_message message = { 0 };
	int result;

	for (size_t i = 0; i < sizeof big; i++)
		big[i] = (uint8_t)(i * 31 >> 3);
	result = lh__channel_send(pair->sender, LH_MOVE_PLAN, 0, 0, big, sizeof big);
	if (result == 0)
		result = lh__channel_send(pair->sender, LH_MOVE_ROUND, 0, 9, NULL, 0);
	if (result == 0)
		result = lh__channel_flush(pair->sender);
	is(result, 0, "%s: sent", what);
	is(lh__channel_wait(pair->receiver, &message, PATIENCE_MS), 1, "%s: the longest message comes", what);
	ok(message.type == LH_MOVE_PLAN && message.size == sizeof big &&
	           memcmp(message.body, big, sizeof big) == 0,
	   "%s: as it was sent", what);
	is(lh__channel_wait(pair->receiver, &message, PATIENCE_MS), 1, "%s: and the next", what);
	ok(message.type == LH_MOVE_ROUND && message.value == 9, "%s: in order", what);
	is(lh__channel_next(pair->receiver, &message), 0, "%s: and no more", what);
	result = lh__channel_send(pair->receiver, LH_MOVE_ROUND, 0, 9, NULL, 0);
	if (result == 0)
		result = lh__channel_flush(pair->receiver);
	ok(result == 0 && lh__channel_wait(pair->sender, &message, PATIENCE_MS) == 1 && message.value == 9,
	   "%s: and back", what);
}

static void beginnings(void)
{
	struct {
		const char *what, *url, *key;
	} way[] = {
		{ "unix", unix_url, NULL },
		{ "unix with a key", unix_url, key },
		{ "tcp", "tcp://127.0.0.1:0", NULL },
		{ "tcp with a key", "tcp://127.0.0.1:0", key },
	};

	for (unsigned i = 0; i < sizeof way / sizeof *way; i++) {
		struct pair pair;

		if (!ok(pair_open(&pair, way[i].url, way[i].key, LH_MOVE_CONTROL), "%s: connected %s %s",
		        way[i].what, pair.sender_error.text, pair.receiver_error.text))
			continue;
		ok(pair.hello.what == LH_MOVE_CONTROL && pair.hello.id[0] == 1 && pair.hello.incarnation == 1,
		   "%s: the sender's hello has come", way[i].what);
		exchange(way[i].what, &pair);
		pair_close(&pair);
	}
}

static void statuses(void)
{
	static const struct {
		enum lh_move_status status;
		int code;
		const char *text;
	} refusal[] = {
		{ LH_MOVE_BUSY, -EBUSY, "another migration" },
		{ LH_MOVE_UNKNOWN, -ESTALE, "does not have this migration" },
		{ LH_MOVE_OLD, -EALREADY, "another sender" },
		{ 77, -EPROTO, "refused" },
	};
	struct lh_channel_listener *listener;
	struct lh_error error;
	char bound[320];

	if (!ok(lh__channel_listen("tcp://127.0.0.1:0", NULL, &listener, bound, &error) == 0, "listening"))
		return;
	for (unsigned i = 0; i < sizeof refusal / sizeof *refusal; i++) {
		struct pair pair = { .status = refusal[i].status };

		pair_connect(&pair, listener, bound, NULL, LH_MOVE_DATA);
		is(pair.sender_result, refusal[i].code, "a receiver that says no");
		ok(strstr(pair.sender_error.text, refusal[i].text), "and what: %s", pair.sender_error.text);
		pair_close(&pair);
	}
	lh__channel_listener_close(listener);
}

static void refused(struct lh_channel_listener *listener, const char *url, const char *key_file, int code,
                    const char *text, int receiver_code, const char *receiver_text)
{
	struct pair pair = { 0 };

	pair_connect(&pair, listener, url, key_file, LH_MOVE_CONTROL);
	is(pair.sender_result, code, "refused: %s", text);
	ok(strstr(pair.sender_error.text, text), "it says: %s", pair.sender_error.text);
	is(pair.receiver_result, receiver_code, "at the receiver too");
	ok(strstr(pair.receiver_error.text, receiver_text), "it says: %s", pair.receiver_error.text);
	pair_close(&pair);
}

static void keys(void)
{
	struct lh_channel_listener *listener;
	struct lh_channel_target target;
	struct lh_move_hello hello = { LH_MOVE_VERSION, LH_MOVE_DATA, { 1 }, LH_MOVE_COPYING, 1 }, answer;
	struct lh_channel *channel;
	struct lh_error error;
	char bound[320];

	if (ok(lh__channel_listen("tcp://127.0.0.1:0", key, &listener, bound, &error) == 0, "with a key")) {
		refused(listener, bound, other_key, -EACCES, "another key", -EACCES, "another key");
		refused(listener, bound, NULL, -EACCES, "requires a key", -EACCES, "it has no key");
		lh__channel_listener_close(listener);
	}
	if (ok(lh__channel_listen("tcp://127.0.0.1:0", NULL, &listener, bound, &error) == 0, "without")) {
		refused(listener, bound, key, -EPROTO, "does not speak TLS", -EPROTO, "it speaks TLS");
		lh__channel_listener_close(listener);
	}
	is(lh__channel_listen("tcp://0.0.0.0:0", NULL, &listener, bound, &error), -EPERM,
	   "not without a key on a network");
	is(lh__channel_target("tcp://192.0.2.1:9", NULL, &target, &error), 0, "nor to one");
	is(lh__channel_connect(&target, &hello, 1000, &channel, &answer, &error), -EPERM, "%s", error.text);
	is(lh__channel_target("unix:/nowhere/at/all", NULL, &target, &error), 0, "where nobody is");
	is(lh__channel_connect(&target, &hello, 1000, &channel, &answer, &error), -ECONNREFUSED, "%s",
	   error.text);
}

/* What a peer that is none sends instead of a hello, to the listener. */
static void accept_bytes(const char *what, const void *bytes, size_t size, bool end, const char *text)
{
	struct lh_channel_listener *listener;
	struct lh_channel *channel = NULL;
	struct lh_move_hello hello;
	struct lh_node_url url;
	struct lh_error error = { 0 };
	char bound[320];
	int fd;

	if (lh__channel_listen("tcp://127.0.0.1:0", NULL, &listener, bound, &error) ||
	    lh__node_url_parse(bound, false, &url, &error) ||
	    lh__socket_connect(&url, false, lh__net_now_ms() + PATIENCE_MS, &fd, &error)) {
		ok(0, "%s", error.text);
		return;
	}
	if (send(fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
		printf("# not sent\n");
	if (end)
		shutdown(fd, SHUT_WR);
	is(lh__channel_accept(listener, &channel, &hello, &error), -EPROTO, "no hello: %s", what);
	ok(strstr(error.text, text), "it says: %s", error.text);
	close(fd);
	lh__channel_listener_close(listener);
}

static void strangers(void)
{
	struct lh_move_hello hello = { LH_MOVE_VERSION, LH_MOVE_DATA, { 1 }, LH_MOVE_COPYING, 1 };
	uint8_t bytes[LH_MOVE_HELLO];

	accept_bytes("HTTP", "GET / HTTP/1.0\r\n\r\n", 18, false, "something else");
	accept_bytes("nothing", "", 0, false, "no hello in time");
	lh__move_hello_write(bytes, &hello);
	accept_bytes("half of one", bytes, 32, false, "no hello in time");
	accept_bytes("half of one, and the end", bytes, 32, true, "before its hello");
	bytes[20] ^= 1;
	accept_bytes("a damaged one", bytes, sizeof bytes, false, "malformed");
	hello.what = 4;
	lh__move_hello_write(bytes, &hello);
	accept_bytes("one of no channel", bytes, sizeof bytes, false, "malformed");
	hello.version = 9;
	lh__move_hello_write(bytes, &hello);
	accept_bytes("one of another version", bytes, sizeof bytes, false, "speaks version 9");
}

/* ---- a relay of the tests' own, which passes on, cuts, swallows ---- */

struct relay {
	int listener, fd[2];
	char url[320];
	struct lh_node_url to;
	size_t passes; /* atomic: bytes of the sender that are still passed on; the rest is swallowed */
	bool ends;     /* instead of swallowing */
	bool stop;     /* atomic */
	pthread_t thread;
};

static bool pass(struct relay *relay, int from, int to, bool limited)
{
	size_t left = limited ? __atomic_load_n(&relay->passes, __ATOMIC_ACQUIRE) : SIZE_MAX;
	char bytes[65536];
	size_t want = sizeof bytes;
	ssize_t got;

	if (left == 0 && relay->ends)
		return false;
	if (left != 0 && left < want)
		want = left;
	got = recv(from, bytes, want, MSG_DONTWAIT);
	if (got <= 0)
		return got < 0 && errno == EAGAIN;
	if (left == 0)
		return true;
	if (limited)
		__atomic_fetch_sub(&relay->passes, (size_t)got, __ATOMIC_ACQ_REL);
	return send(to, bytes, (size_t)got, MSG_NOSIGNAL) == got;
}

static void *relay_thread(void *argument)
{
	struct relay *relay = argument;
	struct pollfd poll_fd[2];
	struct lh_error error;
	bool swallows = false;

	poll_fd[0] = (struct pollfd){ .fd = relay->listener, .events = POLLIN };
	if (poll(poll_fd, 1, 5000) != 1)
		return NULL;
	relay->fd[0] = accept(relay->listener, NULL, NULL);
	if (lh__socket_connect(&relay->to, false, lh__net_now_ms() + PATIENCE_MS, &relay->fd[1], &error))
		return NULL;
	poll_fd[0] = (struct pollfd){ .fd = relay->fd[0], .events = POLLIN };
	poll_fd[1] = (struct pollfd){ .fd = relay->fd[1], .events = POLLIN };
	while (!__atomic_load_n(&relay->stop, __ATOMIC_ACQUIRE)) {
		/* What is swallowed is so in both directions. */
		swallows = __atomic_load_n(&relay->passes, __ATOMIC_ACQUIRE) == 0 && !relay->ends;
		(void)poll(poll_fd, swallows ? 1 : 2, 20);
		if (!pass(relay, relay->fd[0], relay->fd[1], true) ||
		    (!swallows && !pass(relay, relay->fd[1], relay->fd[0], false)))
			break;
	}
	shutdown(relay->fd[0], SHUT_RDWR);
	shutdown(relay->fd[1], SHUT_RDWR);
	return NULL;
}

static int relay_open(struct relay *relay, const char *to, size_t passes, bool ends)
{
	struct lh_node_url url;
	struct lh_error error;

	*relay = (struct relay){ .fd = { -1, -1 }, .passes = passes, .ends = ends };
	return lh__node_url_parse(to, false, &relay->to, &error) == 0 &&
	       lh__node_url_parse("tcp://127.0.0.1:0", true, &url, &error) == 0 &&
	       lh__socket_listen(&url, false, &relay->listener, relay->url, &error) == 0 &&
	       pthread_create(&relay->thread, NULL, relay_thread, relay) == 0;
}

static void relay_close(struct relay *relay)
{
	__atomic_store_n(&relay->stop, true, __ATOMIC_RELEASE);
	pthread_join(relay->thread, NULL);
	close(relay->listener);
	for (int i = 0; i < 2; i++)
		if (relay->fd[i] >= 0)
			close(relay->fd[i]);
}

/* A pair with a relay between, and the receiver's listener. */
static int open_relayed(struct pair *pair, struct relay *relay, size_t passes, bool ends,
                        enum lh_move_channel_kind kind)
{
	struct lh_channel_listener *listener;
	struct lh_error error;
	char bound[320];
	int made;

	memset(pair, 0, sizeof *pair);
	if (lh__channel_listen("tcp://127.0.0.1:0", NULL, &listener, bound, &error) ||
	    !relay_open(relay, bound, passes, ends))
		return 0;
	pair_connect(pair, listener, relay->url, NULL, kind);
	lh__channel_listener_close(listener);
	made = pair->sender_result == 0 && pair->receiver_result == 0;
	if (!made) {
		relay_close(relay);
		pair_close(pair);
	}
	return made;
}

static void half_messages(void)
{
	struct relay relay;
	struct pair pair;
	struct lh_move_message message = { 0 };
	size_t size = LH_MOVE_HEADER + 1000;
	char body[1000] = "x";
	int early = 0, result;

	if (!ok(open_relayed(&pair, &relay, LH_MOVE_HELLO + 2, true, LH_MOVE_CONTROL), "through a relay"))
		return;
	result = lh__channel_send(pair.sender, LH_MOVE_PLAN, 0, 0, body, sizeof body);
	if (result == 0)
		result = lh__channel_flush(pair.sender);
	is(result, 0, "a message goes out");
	early += lh__channel_wait(pair.receiver, &message, 50) != 0 && message.type;
	result = lh__channel_wait(pair.receiver, &message, PATIENCE_MS);
	is(result, -ECONNRESET, "a connection that ends in the middle of it is no message");
	ok(strstr(lh__channel_why(pair.receiver), "middle"), "it says: %s", lh__channel_why(pair.receiver));
	is(lh__channel_next(pair.receiver, &message), -ECONNRESET, "and stays so");
	is(lh__channel_send(pair.receiver, LH_MOVE_GO, 0, 0, NULL, 0), -ECONNRESET, "for sending too");
	is(early, 0, "nor is half of one");
	relay_close(&relay);
	pair_close(&pair);

	if (!ok(open_relayed(&pair, &relay, SIZE_MAX, true, LH_MOVE_CONTROL), "through a relay again"))
		return;
	/* A byte more each time. */
	__atomic_store_n(&relay.passes, 1u << 30, __ATOMIC_RELEASE);
	result = lh__channel_send(pair.sender, LH_MOVE_PLAN, 0, 0, body, sizeof body);
	if (result == 0)
		result = lh__channel_flush(pair.sender);
	is(lh__channel_wait(pair.receiver, &message, PATIENCE_MS), 1, "a whole one is");
	is(message.size + LH_MOVE_HEADER, size, "of its size");
	relay_close(&relay);
	pair_close(&pair);
}

/* Bytes one at a time, straight into the receiver's socket. */
static void crumbs(void)
{
	struct pair pair;
	struct lh_move_message message = {
		LH_MOVE_PAGES, LH_MOVE_STALE, 1, 0, (const void *)"twelve bytes", 12
	};
	uint8_t bytes[LH_MOVE_HEADER + 12];
	int early = 0;

	if (!ok(pair_open(&pair, "tcp://127.0.0.1:0", NULL, LH_MOVE_CONTROL), "a pair"))
		return;
	lh__move_header_write(bytes, &message);
	memcpy(bytes + LH_MOVE_HEADER, message.body, message.size);
	for (unsigned i = 0; i < sizeof bytes; i++) {
		early += lh__channel_next(pair.receiver, &message) != 0;
		if (send(lh__channel_fd(pair.sender), bytes + i, 1, MSG_NOSIGNAL) != 1)
			printf("# not sent\n");
	}
	is(early, 0, "a message in crumbs is none before its last byte");
	ok(lh__channel_wait(pair.receiver, &message, PATIENCE_MS) == 1 && message.size == 12 &&
	           memcmp(message.body, "twelve bytes", 12) == 0,
	   "and then is one");
	pair_close(&pair);
}

static void damage(void)
{
	struct lh_move_message message;
	struct pair pair;
	uint8_t bytes[LH_MOVE_HEADER] = { 32 };

	if (!ok(pair_open(&pair, unix_url, NULL, LH_MOVE_DATA), "a pair"))
		return;
	if (send(lh__channel_fd(pair.sender), bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes)
		printf("# not sent\n");
	is(lh__channel_wait(pair.receiver, &message, PATIENCE_MS), -EPROTO, "what is no message");
	ok(strstr(lh__channel_why(pair.receiver), "damaged"), "it says: %s", lh__channel_why(pair.receiver));
	is(lh__channel_flush(pair.receiver), -EPROTO, "and the channel stays so");
	pair_close(&pair);
}

/* ---- silence ---- */

/* Keeps a channel of control alive in a thread until it fails. */
static void *keep(void *argument)
{
	struct lh_move_message message;
	int result;

	do
		result = lh__channel_wait(argument, &message, -1);
	while (result >= 0);
	return (void *)(intptr_t)result;
}

/* Both ends at once, so that the seconds of waiting are waited once. */
static void silence(void)
{
	struct pair kept = { 0 }, cut = { 0 }, full = { 0 };
	struct relay cut_relay, full_relay;
	uint64_t began, ended, out, in, now;
	struct lh_move_message message;
	pthread_t thread[3];
	void *result;
	int sent = 0;
	char body[65536] = "x";

	if (!ok(pair_open(&kept, unix_url, NULL, LH_MOVE_CONTROL) &&
	                open_relayed(&cut, &cut_relay, SIZE_MAX, false, LH_MOVE_CONTROL) &&
	                open_relayed(&full, &full_relay, SIZE_MAX, false, LH_MOVE_CONTROL),
	        "three pairs"))
		return;
	began = lh__net_now_ms();
	pthread_create(&thread[0], NULL, keep, kept.sender);
	pthread_create(&thread[1], NULL, keep, cut.sender);
	pthread_create(&thread[2], NULL, keep, cut.receiver);
	__atomic_store_n(&cut_relay.passes, 0, __ATOMIC_RELEASE);
	while ((now = lh__net_now_ms()) < began + LH_MOVE_SILENT_MS + LH_MOVE_ALIVE_MS)
		if (lh__channel_wait(kept.receiver, &message, 100) != 0)
			break;
	ok(now >= began + LH_MOVE_SILENT_MS + LH_MOVE_ALIVE_MS, "who says nothing but ALIVE is alive %s",
	   lh__channel_why(kept.receiver));
	lh__channel_bytes(kept.receiver, &out, &in);
	ok(in >= 4 * LH_MOVE_HEADER && in <= 14 * LH_MOVE_HEADER, "it said so %d times",
	   (int)(in / LH_MOVE_HEADER));
	pthread_join(thread[1], &result);
	is((intptr_t)result, -ETIMEDOUT, "a network that is cut without a word: the sender notices");
	pthread_join(thread[2], &result);
	is((intptr_t)result, -ETIMEDOUT, "and the receiver");
	ended = lh__net_now_ms();
	ok(ended - began < 3 * LH_MOVE_SILENT_MS, "in time");

	lh__channel_break(kept.sender);
	pthread_join(thread[0], &result);
	is((intptr_t)result, -ECONNRESET, "a channel that another thread breaks off fails there");
	is(lh__channel_wait(kept.receiver, &message, PATIENCE_MS), -ECONNRESET, "and at the other side");

	/* Nobody reads: what is sent fills the buffers, and then nothing goes. */
	began = lh__net_now_ms();
	while (sent == 0) {
		sent = lh__channel_send(full.sender, LH_MOVE_PLAN, 0, 0, body, sizeof body);
		if (sent == 0)
			sent = lh__channel_flush(full.sender);
	}
	is(sent, -ETIMEDOUT, "who takes nothing for too long is given up");
	ended = lh__net_now_ms();
	ok(ended - began >= LH_MOVE_SILENT_MS && ended - began < 2 * LH_MOVE_SILENT_MS, "after %d ms",
	   (int)(ended - began));
	pair_close(&kept);
	pair_close(&cut);
	pair_close(&full);
	relay_close(&cut_relay);
	relay_close(&full_relay);
}

/* ---- ends ---- */

static void *break_it(void *argument)
{
	usleep(20000);
	lh__channel_break(argument);
	return NULL;
}

/* A thread that waits in recv itself is woken too; so is one behind a relay. */
static void broken_off(void)
{
	const char *with[] = { NULL, key };

	for (int i = 0; i < 2; i++) {
		struct lh_move_message message;
		struct pair pair;
		pthread_t thread;

		if (!ok(pair_open(&pair, "tcp://127.0.0.1:0", with[i], LH_MOVE_DATA), "a pair"))
			return;
		pthread_create(&thread, NULL, break_it, pair.receiver);
		is(lh__channel_wait(pair.receiver, &message, -1), -ECONNRESET, "broken off while it waits");
		pthread_join(thread, NULL);
		is(lh__channel_wait(pair.sender, &message, -1), -ECONNRESET, "which the other side notices");
		pair_close(&pair);
	}
}

static void *close_it(void *argument)
{
	lh__channel_close(argument);
	return NULL;
}

/* What was said last arrives, even if something was not read by who said it. */
static void last_words(void)
{
	const char *with[] = { NULL, key };

	for (int i = 0; i < 2; i++) {
		struct lh_move_message message = { 0 };
		struct pair pair;
		pthread_t thread;
		int result;

		if (!ok(pair_open(&pair, "tcp://127.0.0.1:0", with[i], LH_MOVE_CONTROL), "a pair"))
			return;
		result = lh__channel_send(pair.sender, LH_MOVE_ROUND, 0, 1, NULL, 0);
		if (result == 0)
			result = lh__channel_flush(pair.sender);
		if (result == 0)
			result = lh__channel_send(pair.receiver, LH_MOVE_DONE, 0, 0, "{}", 2);
		if (result == 0)
			result = lh__channel_flush(pair.receiver);
		is(result, 0, "said");
		pthread_create(&thread, NULL, close_it, pair.receiver);
		is(lh__channel_wait(pair.sender, &message, PATIENCE_MS), 1, "the last words arrive");
		ok(message.type == LH_MOVE_DONE, "and are such");
		is(lh__channel_wait(pair.sender, &message, PATIENCE_MS), -ECONNRESET, "then it has ended");
		lh__channel_close(pair.sender);
		pthread_join(thread, NULL);
	}
}

/* Much in both directions at once, by the threads of both ends. */
static void *flood(void *argument)
{
	static const uint8_t page[LH_PAGE_SIZE] = { 1, 2, 3 };
	struct lh_channel *channel = argument;
	int result = 0;

	for (uint64_t i = 0; i < 20000 && result == 0; i++)
		result = lh__channel_give(channel, i, i % 2, i % 3 ? LH_MASK_ALL : 1, page);
	if (result == 0)
		result = lh__channel_flush(channel);
	return (void *)(intptr_t)result;
}

static void many(const char *url, const char *key_file)
{
	struct lh_move_message message;
	struct lh_lineset set;
	struct pair pair;
	uint64_t i, out, in, unused;
	pthread_t thread;
	void *result;

	if (!ok(pair_open(&pair, url, key_file, LH_MOVE_DATA), "a pair"))
		return;
	pthread_create(&thread, NULL, flood, pair.sender);
	for (i = 0; i < 20000; i++)
		if (lh__channel_wait(pair.receiver, &message, i % 2 ? -1 : PATIENCE_MS) != 1 ||
		    message.value != i || message.type != LH_MOVE_GIVE || lh__move_give_read(&message, &set))
			break;
	is(i, 20000, "many pages come, each right %s", lh__channel_why(pair.receiver));
	pthread_join(thread, &result);
	is((intptr_t)result, 0, "all were sent");
	lh__channel_bytes(pair.sender, &out, &unused);
	lh__channel_bytes(pair.receiver, &unused, &in);
	is(in, out, "as many bytes came as went");
	pair_close(&pair);
}

int main(void)
{
	snprintf(unix_url, sizeof unix_url, "unix:%s/socket", test_folder());
	key = write_key("key", 0xaa, 0600);
	other_key = write_key("other", 0xbb, 0600);
	beginnings();
	statuses();
	keys();
	strangers();
	half_messages();
	crumbs();
	damage();
	broken_off();
	last_words();
	many(unix_url, NULL);
	many("tcp://127.0.0.1:0", NULL);
	many("tcp://127.0.0.1:0", key);
	silence();
	test_folder_remove();
	return done();
}
