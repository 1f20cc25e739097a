/*
 * connection.c - a connection's life on the node: TLS, hello, then requests until either side ends it.
 *
 * Whatever a peer sends that it must not ends its own connection, with one line in the log.
 */
#include "service/serve/inside.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELLO_MS 10000u /* for TLS and hello together */
#define SEND_MS 30000u  /* a client that takes no replies for so long is given up */
#define OUTBOX (16u * LH_WIRE_MESSAGE_MAX)

void lh__serve_log(const struct connection *connection, const char *format, ...)
{
	const struct lh_server_options *options = &connection->server->options;
	char line[512];
	va_list arguments;
	int length;

	if (!options->log)
		return;
	length = snprintf(line, sizeof line, "%s: ", connection->peer);
	va_start(arguments, format);
	vsnprintf(line + length, sizeof line - (size_t)length, format, arguments);
	va_end(arguments);
	options->log(options->log_context, line);
}

/* ---- bytes, with or without TLS ---- */

static long receive(struct connection *connection, void *buffer, size_t size)
{
	long got;

	if (connection->tls)
		return lh__tls_read(connection->tls, buffer, size);
	got = recv(connection->fd, buffer, size, 0);
	return got < 0 ? -errno : got;
}

static bool send_all(struct connection *connection, const uint8_t *bytes, size_t size)
{
	while (size != 0) {
		long sent;

		if (connection->tls)
			sent = lh__tls_write(connection->tls, bytes, size);
		else
			sent = send(connection->fd, bytes, size, MSG_NOSIGNAL);
		if (sent < 0 && !connection->tls && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		bytes += sent;
		size -= (size_t)sent;
	}
	return true;
}

/* ---- hello ---- */

/* Beside the answer to a client that asked for a ring: the ring, and the region's view if it has one. */
static void attach_descriptors(struct msghdr *message, char *control, size_t room, const int *fd, size_t n)
{
	struct cmsghdr *head;

	if (n == 0)
		return;
	message->msg_control = control;
	message->msg_controllen = room;
	head = CMSG_FIRSTHDR(message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(n * sizeof(int));
	message->msg_controllen = CMSG_SPACE(n * sizeof(int));
	memcpy(CMSG_DATA(head), fd, n * sizeof(int));
}

static bool send_answer(struct connection *connection, enum lh_wire_status status, uint64_t region,
                        const int *fd, size_t n)
{
	struct lh_wire_hello hello = { .version = LH_WIRE_VERSION,
		                       .what = status,
		                       .channel = connection->channel,
		                       .region = region,
		                       .generation = connection->generation };
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
	uint8_t bytes[LH_WIRE_HELLO];
	struct iovec vector = { bytes, sizeof bytes };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };

	if (connection->region)
		memcpy(hello.token, connection->region->token, sizeof hello.token);
	lh__wire_hello_write(bytes, &hello);
	if (n == 0)
		return send_all(connection, bytes, sizeof bytes);
	attach_descriptors(&message, control, sizeof control, fd, n);
	return sendmsg(connection->fd, &message, MSG_NOSIGNAL) == (ssize_t)sizeof bytes;
}

static bool refuse(struct connection *connection, const char *why)
{
	lh__serve_count(&connection->server->counts.refused, 1);
	lh__serve_log(connection, "refused: %s", why);
	return false;
}

/* To a client that begins with TLS, any answer that is none says that there is none here. */
static bool refuse_stranger(struct connection *connection, uint8_t first)
{
	if (first != 22)
		return refuse(connection, "it speaks something else");
	(void)send_answer(connection, LH_WIRE_FAILED, 0, NULL, 0);
	return refuse(connection, "it speaks TLS, and this node was started without a key");
}

/* Receives until there are `size` bytes of the client's first message, of which there are *have. */
static bool receive_upto(struct connection *connection, uint8_t *bytes, size_t *have, size_t size,
                         uint64_t deadline)
{
	while (*have < size) {
		long got = receive(connection, bytes + *have, size - *have);

		if (got == 0 || (got < 0 && got != -EAGAIN && got != -EINTR))
			return *have == 0 ? false : refuse(connection, "it ended in the middle of its hello");
		if (got > 0)
			*have += (size_t)got;
		if (memcmp(bytes, "LINEHOME", *have < 8 ? *have : 8) != 0)
			return refuse_stranger(connection, bytes[0]);
		if (*have < size && lh__net_now_ms() >= deadline)
			return refuse(connection, "it said no hello in time");
	}
	return true;
}

static bool refuse_version(struct connection *connection, unsigned version)
{
	(void)send_answer(connection, LH_WIRE_VERSION_IS, 0, NULL, 0);
	lh__serve_count(&connection->server->counts.refused, 1);
	lh__serve_log(connection, "refused: it speaks version %u, this is version %u", version,
	              LH_WIRE_VERSION);
	return false;
}

static bool makes_sense(const struct lh_wire_hello *hello, int name_size)
{
	return (hello->channel == LH_WIRE_STREAM || hello->channel == LH_WIRE_RING) &&
	       hello->what >= LH_WIRE_CREATE && hello->what <= LH_WIRE_DROP_NAMED &&
	       lh__wire_goes_by_name(hello->what) == (name_size != 0);
}

/* The hello, and the name where one follows. */
static bool receive_hello(struct connection *connection, struct lh_wire_hello *hello)
{
	uint64_t deadline = lh__net_now_ms() + HELLO_MS;
	uint8_t bytes[LH_WIRE_HELLO + LH_WIRE_NAME_MAX];
	size_t have = 0;
	int name;

	if (!receive_upto(connection, bytes, &have, LH_WIRE_HELLO, deadline))
		return false;
	name = lh__wire_hello_read(bytes, hello);
	if (name == -EPROTONOSUPPORT)
		return refuse_version(connection, hello->version);
	if (name < 0 || !makes_sense(hello, name))
		return refuse(connection, "a malformed hello");
	if (name == 0)
		return true;
	if (!receive_upto(connection, bytes, &have, LH_WIRE_HELLO + (size_t)name, deadline))
		return false;
	return lh__wire_hello_read_name(bytes, hello) == 0 || refuse(connection, "a malformed name");
}

static enum lh_wire_status enter_region(struct connection *connection, const struct lh_wire_hello *hello)
{
	if (hello->channel == LH_WIRE_RING && strncmp(connection->peer, "unix", 4) != 0)
		return LH_WIRE_NO_RING;
	switch (hello->what) {
	case LH_WIRE_CREATE:
	case LH_WIRE_CREATE_NAMED: return lh__serve_create(connection, hello);
	case LH_WIRE_ATTACH: return lh__serve_attach(connection, hello);
	case LH_WIRE_CLONE: return lh__serve_clone(connection, hello);
	case LH_WIRE_OPEN_NAMED: return lh__serve_open(connection, hello);
	case LH_WIRE_DROP_NAMED: return lh__serve_drop(connection, hello);
	default: return LH_WIRE_FAILED;
	}
}

static const char *const refusals[] = {
	[LH_WIRE_FAILED] = "the region could not be made",
	[LH_WIRE_NO_REGION] = "no such region, or the wrong token",
	[LH_WIRE_OLD] = "later connections to the region exist",
	[LH_WIRE_NO_RING] = "a ring is for Unix sockets",
	[LH_WIRE_NO_NAME] = "no region of that name",
	[LH_WIRE_NAME_TAKEN] = "a region of that name exists",
	[LH_WIRE_BUSY] = "the region of that name is in use",
};

/* The answer with the region, and the descriptors of the ring and the view where there are such. */
static bool welcome(struct connection *connection)
{
	int fd[2];
	bool sent;

	if (connection->channel != LH_WIRE_RING)
		return send_answer(connection, LH_WIRE_OK, connection->region->id, NULL, 0);
	fd[0] = lh__serve_ring_make(&connection->ring);
	if (fd[0] < 0)
		return refuse(connection, "no memory for a ring");
	fd[1] = lh__memory_view(connection->region->store);
	sent = send_answer(connection, LH_WIRE_OK, connection->region->id, fd, fd[1] < 0 ? 1 : 2);
	close(fd[0]);
	if (fd[1] >= 0)
		close(fd[1]);
	return sent;
}

static bool say_hello(struct connection *connection)
{
	struct lh_wire_hello hello;
	enum lh_wire_status status;

	if (!receive_hello(connection, &hello))
		return false;
	connection->channel = hello.channel;
	status = enter_region(connection, &hello);
	if (status != LH_WIRE_OK) {
		(void)send_answer(connection, status, hello.region, NULL, 0);
		return refuse(connection, refusals[status]);
	}
	if (hello.what == LH_WIRE_DROP_NAMED) {
		(void)send_answer(connection, LH_WIRE_OK, 0, NULL, 0);
		return false;
	}
	if (welcome(connection))
		return true;
	if (hello.what == LH_WIRE_CREATE_NAMED)
		lh__serve_unname(connection);
	return false;
}

/* ---- TLS ---- */

/* A client without a key says hello in the clear: tell it so in its own language. */
static bool speaks_clear(struct connection *connection)
{
	char start[8];

	return recv(connection->fd, start, sizeof start, MSG_PEEK | MSG_WAITALL) == (ssize_t)sizeof start &&
	       memcmp(start, "LINEHOME", sizeof start) == 0;
}

static bool secure(struct connection *connection)
{
	struct lh_error error;

	if (!connection->secured)
		return true;
	if (speaks_clear(connection)) {
		(void)send_answer(connection, LH_WIRE_NEEDS_KEY, 0, NULL, 0);
		return refuse(connection, "it has no key");
	}
	if (lh__tls_open(connection->server->tls, connection->fd, lh__net_now_ms() + HELLO_MS,
	                 &connection->tls, &error) < 0)
		return refuse(connection, error.text);
	return true;
}

/* ---- requests over a stream ---- */

struct stream {
	uint64_t sequence;
	size_t out;
	struct lh_follow follow;
	struct lh_inbox inbox;
	uint8_t outbox[OUTBOX];
};

static bool send_replies(struct connection *connection, struct stream *stream)
{
	size_t size = stream->out;

	stream->out = 0;
	return size == 0 || send_all(connection, stream->outbox, size);
}

static bool fenced(const struct connection *connection)
{
	return __atomic_load_n(&connection->fenced, __ATOMIC_SEQ_CST);
}

/* Carries out what has been received. NULL, or why the connection must end; *gone: it ends without a word. */
static const char *serve_inbox(struct connection *connection, struct stream *stream, bool *gone)
{
	const char *why = NULL;
	const uint8_t *message;
	size_t size, written;
	int error;

	while (!*gone && (message = lh__inbox_next(&stream->inbox, &size, &error)) != NULL) {
		if (fenced(connection)) {
			*gone = true;
			return NULL;
		}
		written = lh__serve_message(connection, message, size, stream->sequence + 1,
		                            stream->outbox + stream->out, &why);
		if (written == 0)
			return why;
		stream->sequence++;
		stream->out += written;
		if (stream->out > sizeof stream->outbox - LH_WIRE_MESSAGE_MAX)
			*gone = !send_replies(connection, stream);
	}
	if (*gone)
		return NULL;
	if (error)
		return "a message of impossible size";
	*gone = !send_replies(connection, stream);
	return NULL;
}

/* Whether all that is there is one request, of the kind whose answer somebody waits for. */
static bool single_get(const struct lh_inbox *inbox)
{
	return inbox->end - inbox->begin == LH_WIRE_HEADER && inbox->bytes[inbox->begin + 4] == LH_WIRE_GET;
}

static const char *serve_stream(struct connection *connection, struct stream *stream)
{
	bool gone = false;

	for (;;) {
		uint8_t *at;
		size_t room = lh__inbox_room(&stream->inbox, &at);
		long got = receive(connection, at, room);
		const char *why;

		if (got == -EINTR || got == -EAGAIN)
			continue;
		if (got <= 0)
			return stream->inbox.begin == stream->inbox.end || fenced(connection)
			               ? NULL
			               : "a truncated message";
		stream->inbox.end += (size_t)got;
		lh__follow_received(&stream->follow, connection->fd, single_get(&stream->inbox));
		why = serve_inbox(connection, stream, &gone);
		if (why || gone)
			return why;
	}
}

/* ---- the whole ---- */

static const char *serve(struct connection *connection)
{
	struct stream *stream;
	const char *why;

	if (connection->channel == LH_WIRE_RING)
		return lh__serve_ring(connection);
	stream = malloc(sizeof *stream);
	if (!stream)
		return "no memory";
	lh__follow_begin(&stream->follow, &connection->server->places, connection->fd);
	stream->sequence = 0;
	stream->out = stream->inbox.begin = stream->inbox.end = 0;
	why = serve_stream(connection, stream);
	free(stream);
	return why;
}

static void send_limit(int fd)
{
	struct timeval time = { SEND_MS / 1000, 0 };

	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

void lh__serve_connection(struct connection *connection)
{
	const char *why;

	lh__socket_timeout(connection->fd, HELLO_MS);
	if (!secure(connection))
		return;
	lh__socket_timeout(connection->fd, HELLO_MS);
	if (!say_hello(connection))
		return;
	lh__socket_timeout(connection->fd, 0);
	send_limit(connection->fd);
	why = serve(connection);
	if (why) {
		lh__serve_count(&connection->server->counts.violations, 1);
		lh__serve_log(connection, "sent %s: connection ended", why);
	}
}
