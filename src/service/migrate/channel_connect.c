/*
 * channel_connect.c - a channel's beginning at the sender, and what both beginnings share: the options of
 * sockets, hellos.
 */
#include "service/migrate/channel_inside.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/socket.h"

/* ---- what both beginnings share ---- */

static void option(int fd, int level, int name, int value)
{
	(void)setsockopt(fd, level, name, &value, sizeof value);
}

/*
 * A network that is cut without a word is noticed by what is sent and not acknowledged, and where nothing is
 * sent by probes. Buffers of TCP grow by themselves as the connection needs it; those of Unix sockets do not.
 */
void lh__channel_tune(int fd, enum lh_move_channel_kind kind)
{
	option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
	option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
	option(fd, IPPROTO_TCP, TCP_KEEPCNT, LH_MOVE_SILENT_MS / 1000 - 1);
	option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, LH_MOVE_SILENT_MS);
	if (kind == LH_MOVE_FAULTS) {
		option(fd, SOL_SOCKET, SO_SNDBUF, 64 << 10);
	} else {
		struct sockaddr_storage address = { 0 };
		socklen_t size = sizeof address;

		if (getsockname(fd, (struct sockaddr *)&address, &size) == 0 && address.ss_family == AF_UNIX)
			option(fd, SOL_SOCKET, SO_SNDBUF, 4 << 20);
	}
}

int lh__channel_hello_receive(int fd, uint64_t deadline_ms, uint8_t bytes[LH_MOVE_HELLO])
{
	size_t have = 0;

	while (have < LH_MOVE_HELLO) {
		struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
		uint64_t now = lh__net_now_ms();
		ssize_t got;

		if (now >= deadline_ms)
			return -ETIMEDOUT;
		(void)poll(&poll_fd, 1, (int)(deadline_ms - now));
		got = recv(fd, bytes + have, LH_MOVE_HELLO - have, MSG_DONTWAIT);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got <= 0)
			return got < 0 && errno == ETIMEDOUT ? -ETIMEDOUT : -ECONNRESET;
		have += (size_t)got;
		if (memcmp(bytes, "LINEMOVE", have < 8 ? have : 8) != 0)
			return -EPROTO;
	}
	return 0;
}

/* The first bytes of a connection always fit into its buffers. */
int lh__channel_hello_send(int fd, const struct lh_move_hello *hello)
{
	uint8_t bytes[LH_MOVE_HELLO];

	lh__move_hello_write(bytes, hello);
	return send(fd, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof bytes
	               ? 0
	               : -ECONNRESET;
}

/* ---- the sender's ---- */

struct attempt {
	const struct lh_channel_target *target;
	uint64_t deadline_ms;
	struct lh_error *error;
};

static int fail(const struct attempt *attempt, int code, const char *text)
{
	return lh__fail(attempt->error, code, "%s: %s", attempt->target->url.text, text);
}

int lh__channel_target(const char *url, const char *key_file, struct lh_channel_target *target,
                       struct lh_error *error)
{
	int result;

	memset(target, 0, sizeof *target);
	result = lh__node_url_parse(url, false, &target->url, error);
	if (result == 0 && key_file) {
		target->has_key = true;
		result = lh__node_key_read(key_file, &target->key, error);
	}
	return result;
}

static int connect_socket(const struct attempt *attempt, int *fd)
{
	const struct lh_channel_target *target = attempt->target;
	int result =
		lh__socket_connect(&target->url, target->has_key, attempt->deadline_ms, fd, attempt->error);

	if (result == -ECONNREFUSED || result == -ENOENT)
		return lh__fail(attempt->error, -ECONNREFUSED,
		                "%s: nobody waits for a machine there: start linehome migrate --accept %s",
		                target->url.text, target->url.text);
	return result;
}

/* Speaks TLS over *fd, and makes *fd the end of the relay that does so from then on. Closes *fd on error. */
static int secure(const struct attempt *attempt, int *fd)
{
	struct lh_error why = { 0 };
	struct lh_tls_context *context;
	struct lh_tls *tls = NULL;
	int result = lh__tls_context_open(false, &attempt->target->key, &context, attempt->error);

	if (result == 0) {
		result = lh__tls_open(context, *fd, attempt->deadline_ms, &tls, &why);
		if (result == -EPROTO)
			result = fail(attempt, result,
			              "the receiver does not speak TLS: start it with --key-file, or leave "
			              "the key out");
		else if (result)
			result = fail(attempt, result, why.text);
		lh__tls_context_close(context);
	}
	if (result == 0) {
		result = lh__tls_relay(tls, *fd, fd);
		if (result == 0)
			return 0;
		lh__tls_close(tls);
		result = fail(attempt, result, "no thread to speak TLS");
	}
	close(*fd);
	return result;
}

static int explain(const struct attempt *attempt, const struct lh_move_hello *answer)
{
	switch (answer->what) {
	case LH_MOVE_OK: return 0;
	case LH_MOVE_BUSY: return fail(attempt, -EBUSY, "another migration is under way there");
	case LH_MOVE_UNKNOWN:
		return fail(attempt, -ESTALE,
		            "the receiver does not have this migration: it was started "
		            "anew, or is another");
	case LH_MOVE_OLD:
		return fail(attempt, -EALREADY, "another sender has taken over this migration meanwhile");
	case LH_MOVE_NEEDS_KEY: return fail(attempt, -EACCES, "the receiver requires a key: give --key-file");
	default: return fail(attempt, -EPROTO, "the receiver has refused the connection");
	}
}

static int read_answer(const struct attempt *attempt, int fd, struct lh_move_hello *answer)
{
	uint8_t bytes[LH_MOVE_HELLO];
	int result = lh__channel_hello_receive(fd, attempt->deadline_ms, bytes);

	if (result == -ETIMEDOUT)
		return fail(attempt, result, "the receiver does not answer");
	if (result == -ECONNRESET)
		return fail(attempt, result, "the receiver has ended the connection");
	if (result)
		return fail(attempt, -EPROTO, "no receiver: it speaks something else");
	result = lh__move_hello_read(bytes, answer);
	if (result == -EPROTONOSUPPORT)
		return lh__fail(attempt->error, result,
		                "%s: the receiver speaks version %u of the protocol, this is version %u: use "
		                "the same release",
		                attempt->target->url.text, answer->version, LH_MOVE_VERSION);
	if (result)
		return fail(attempt, -EPROTO, "no receiver: its answer is damaged");
	return explain(attempt, answer);
}

int lh__channel_connect(const struct lh_channel_target *target, const struct lh_move_hello *hello,
                        int timeout_ms, struct lh_channel **out, struct lh_move_hello *answer,
                        struct lh_error *error)
{
	struct attempt attempt = { target, lh__net_now_ms() + (unsigned)(timeout_ms > 0 ? timeout_ms : 0),
		                   error };
	enum lh_move_channel_kind kind = hello->what;
	int fd, result = connect_socket(&attempt, &fd);

	if (result)
		return result;
	lh__channel_tune(fd, kind);
	if (target->url.tcp && target->has_key) {
		result = secure(&attempt, &fd);
		if (result)
			return result;
		lh__channel_tune(fd, kind);
	}
	/* Who refuses does not wait for a hello: the answer tells how it went. */
	(void)lh__channel_hello_send(fd, hello);
	result = read_answer(&attempt, fd, answer);
	if (result == 0)
		result = lh__channel_make(fd, kind, true, out, error);
	if (result)
		close(fd);
	return result;
}
