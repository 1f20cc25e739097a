/* channel_listen.c - a channel's beginning at the receiver. */
#include "service/migrate/channel_inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/socket.h"

#define HELLO_MS 2000u /* for TLS and hello together */
#define TLS_FIRST 22u  /* the first byte of a TLS connection */

struct lh_channel_listener {
	int fd;
	struct lh_node_url url;
	struct lh_tls_context *tls; /* NULL: in the clear */
};

/* One connection on its way to becoming a channel. */
struct arrival {
	struct lh_channel_listener *listener;
	int fd;
	uint64_t deadline_ms;
	char peer[128];
	struct lh_error *error;
};

static int open_listener(const char *url, const char *key_file, struct lh_channel_listener *listener,
                         char bound[320], struct lh_error *error)
{
	struct lh_node_key key;
	int result = lh__node_url_parse(url, true, &listener->url, error);

	if (result == 0 && key_file) {
		result = lh__node_key_read(key_file, &key, error);
		if (result == 0 && listener->url.tcp)
			result = lh__tls_context_open(true, &key, &listener->tls, error);
		explicit_bzero(&key, sizeof key);
	}
	if (result == 0)
		result = lh__socket_listen(&listener->url, key_file != NULL, &listener->fd, bound, error);
	return result;
}

int lh__channel_listen(const char *url, const char *key_file, struct lh_channel_listener **out,
                       char bound[320], struct lh_error *error)
{
	struct lh_channel_listener *listener = calloc(1, sizeof *listener);
	int result;

	if (!listener)
		return lh__fail(error, -ENOMEM, "no memory");
	listener->fd = -1;
	result = open_listener(url, key_file, listener, bound, error);
	if (result) {
		lh__tls_context_close(listener->tls);
		free(listener);
		return result;
	}
	*out = listener;
	return 0;
}

int lh__channel_listener_fd(const struct lh_channel_listener *listener)
{
	return listener->fd;
}

void lh__channel_listener_close(struct lh_channel_listener *listener)
{
	if (!listener)
		return;
	if (!listener->url.tcp)
		unlink(listener->url.path);
	close(listener->fd);
	lh__tls_context_close(listener->tls);
	free(listener);
}

/* ---- arrivals ---- */

static int refuse(const struct arrival *arrival, int code, const char *why)
{
	return lh__fail(arrival->error, code, "%s: refused: %s", arrival->peer, why);
}

/* What has come is read: a socket that is closed with something unread in it may take the answer back. */
static void answer_status(const struct arrival *arrival, enum lh_move_status status)
{
	struct lh_move_hello hello = { .version = LH_MOVE_VERSION, .what = status };
	char unread[4096];

	(void)lh__channel_hello_send(arrival->fd, &hello);
	while (recv(arrival->fd, unread, sizeof unread, MSG_DONTWAIT) > 0)
		;
}

/* A sender without a key says hello in the clear: it is told so in its own language. */
static bool speaks_clear(const struct arrival *arrival)
{
	char start[8];

	lh__socket_timeout(arrival->fd, HELLO_MS);
	return recv(arrival->fd, start, sizeof start, MSG_PEEK | MSG_WAITALL) == (ssize_t)sizeof start &&
	       memcmp(start, "LINEMOVE", sizeof start) == 0;
}

static int secure(struct arrival *arrival)
{
	struct lh_error why = { 0 };
	struct lh_tls *tls;
	int result;

	if (speaks_clear(arrival)) {
		answer_status(arrival, LH_MOVE_NEEDS_KEY);
		return refuse(arrival, -EACCES, "it has no key");
	}
	result = lh__tls_open(arrival->listener->tls, arrival->fd, arrival->deadline_ms, &tls, &why);
	if (result)
		return refuse(arrival, result == -EACCES ? -EACCES : -EPROTO, why.text);
	result = lh__tls_relay(tls, arrival->fd, &arrival->fd);
	if (result) {
		lh__tls_close(tls);
		return refuse(arrival, -EPROTO, "no thread to speak TLS");
	}
	return 0;
}

static int refuse_stranger(const struct arrival *arrival, uint8_t first)
{
	if (first != TLS_FIRST)
		return refuse(arrival, -EPROTO, "it speaks something else");
	answer_status(arrival, LH_MOVE_OK); /* whatever it is, it is not TLS */
	return refuse(arrival, -EPROTO, "it speaks TLS, and this receiver was started without a key");
}

static int receive_hello(const struct arrival *arrival, struct lh_move_hello *hello)
{
	uint8_t bytes[LH_MOVE_HELLO] = { 0 };
	int result = lh__channel_hello_receive(arrival->fd, arrival->deadline_ms, bytes);

	if (result == -EPROTO)
		return refuse_stranger(arrival, bytes[0]);
	if (result)
		return refuse(arrival, -EPROTO,
		              result == -ETIMEDOUT ? "it said no hello in time"
		                                   : "it ended before its hello");
	result = lh__move_hello_read(bytes, hello);
	if (result == -EPROTONOSUPPORT) {
		answer_status(arrival, LH_MOVE_VERSION_IS);
		return lh__fail(arrival->error, -EPROTO,
		                "%s: refused: it speaks version %u, this is version %u", arrival->peer,
		                hello->version, LH_MOVE_VERSION);
	}
	if (result || hello->what < LH_MOVE_CONTROL || hello->what > LH_MOVE_DATA ||
	    hello->phase < LH_MOVE_COPYING || hello->phase > LH_MOVE_RETURNED || hello->incarnation == 0)
		return refuse(arrival, -EPROTO, "a malformed hello");
	return 0;
}

static int welcome(struct arrival *arrival, struct lh_channel **out, struct lh_move_hello *hello)
{
	int result = 0;

	lh__channel_tune(arrival->fd, LH_MOVE_CONTROL);
	if (arrival->listener->tls)
		result = secure(arrival);
	if (result == 0) {
		lh__socket_timeout(arrival->fd, 0);
		result = receive_hello(arrival, hello);
	}
	if (result)
		return result;
	lh__channel_tune(arrival->fd, hello->what);
	return lh__channel_make(arrival->fd, hello->what, false, out, arrival->error);
}

int lh__channel_accept(struct lh_channel_listener *listener, struct lh_channel **out,
                       struct lh_move_hello *hello, struct lh_error *error)
{
	struct arrival arrival = { .listener = listener,
		                   .deadline_ms = lh__net_now_ms() + HELLO_MS,
		                   .error = error };
	int result;

	arrival.fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
	if (arrival.fd < 0)
		return lh__fail(error, -errno, "%s: nobody could be let in: %s", listener->url.text,
		                strerror(errno));
	lh__socket_peer(arrival.fd, arrival.peer, sizeof arrival.peer);
	result = welcome(&arrival, out, hello);
	if (result)
		close(arrival.fd);
	return result;
}

int lh__channel_answer(struct lh_channel *channel, const struct lh_move_hello *answer)
{
	return lh__channel_hello_send(channel->fd, answer);
}
