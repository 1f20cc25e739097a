/* connect.c - see connect.h. The hello is drawn in net/data/wire.h. */
#include "net/connect.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "net/data/wire.h"
#include "net/socket.h"
#include "net/tls.h"
#include "sys/sys.h"

struct attempt {
	const struct lh_node_target *target;
	struct lh_tls_context *tls; /* NULL: in the clear */
	uint64_t deadline_ms;
	const char *name; /* of the region; empty: it goes by its number */
	struct lh_error *error;
};

/* One connection on its way to becoming a channel. */
struct channel {
	int fd;
	int memfd, view; /* -1: none */
	struct lh_tls *tls;
	struct lh_wire_hello answer;
};

static int fail(const struct attempt *attempt, int code, const char *text)
{
	return lh__fail(attempt->error, code, "%s: %s", attempt->target->url.text, text);
}

static void channel_close(struct channel *channel)
{
	lh__tls_close(channel->tls);
	if (channel->fd >= 0)
		close(channel->fd);
	if (channel->memfd >= 0)
		close(channel->memfd);
	if (channel->view >= 0)
		close(channel->view);
}

static int secure(const struct attempt *attempt, struct channel *channel)
{
	struct lh_error why = { 0 };
	int result = lh__tls_open(attempt->tls, channel->fd, attempt->deadline_ms, &channel->tls, &why);

	if (result == -EPROTO)
		return fail(
			attempt, result,
			"the node does not speak TLS: start it with --key-file, or connect without a key");
	return result ? fail(attempt, result, why.text) : 0;
}

/*
 * A node that refuses does not wait for a hello: where it could not be sent, what the node has said before it
 * ended the connection is there to be read. So it is the answer that tells how this went.
 */
static void send_hello(struct channel *channel, const struct lh_wire_hello *hello)
{
	uint8_t bytes[LH_WIRE_HELLO + LH_WIRE_NAME_MAX];
	size_t size = lh__wire_hello_write(bytes, hello);
	long sent;

	if (channel->tls)
		sent = lh__tls_write(channel->tls, bytes, size);
	else
		sent = send(channel->fd, bytes, size, MSG_NOSIGNAL);
	(void)sent;
}

/* Descriptors come once: of the ring, and perhaps of a view. More, or others, are not kept. */
static void take_descriptors(struct channel *channel, struct msghdr *message)
{
	struct cmsghdr *head = CMSG_FIRSTHDR(message);
	size_t n = 0;
	int fd[2];

	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
		n = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	if (n > 2)
		n = 2; /* there was room for no more */
	if (n)
		memcpy(fd, CMSG_DATA(head), n * sizeof(int));
	for (size_t i = 0; i < n; i++) {
		int *place = i == 0 ? &channel->memfd : &channel->view;

		if (*place >= 0)
			close(*place);
		*place = fd[i];
	}
}

/* One receive, with the descriptors that come along. Bytes, 0 at the end, or a negative errno value. */
static long receive_some(struct channel *channel, uint8_t *to, size_t size)
{
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8)));
	struct iovec vector = { to, size };
	struct msghdr message = {
		.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
	};
	ssize_t got;

	if (channel->tls)
		return lh__tls_read(channel->tls, to, size);
	got = recvmsg(channel->fd, &message, MSG_CMSG_CLOEXEC);
	if (got < 0)
		return -errno;
	take_descriptors(channel, &message);
	return got;
}

static int receive_answer(const struct attempt *attempt, struct channel *channel,
                          uint8_t bytes[LH_WIRE_HELLO])
{
	size_t have = 0;

	while (have < LH_WIRE_HELLO) {
		long got = receive_some(channel, bytes + have, LH_WIRE_HELLO - have);

		if (got > 0)
			have += (size_t)got;
		else if (got != -EAGAIN && got != -EINTR)
			return have ? fail(attempt, -EPROTO, "not a memory node: it speaks something else")
			            : fail(attempt, -ECONNRESET,
			                   "the node has ended the connection; its log says why");
		else if (lh__net_now_ms() >= attempt->deadline_ms)
			return fail(attempt, -ETIMEDOUT,
			            have ? "not a memory node: it speaks something else"
			                 : "the node does not answer");
		if (memcmp(bytes, "LINEHOME", have < 8 ? have : 8) != 0)
			return fail(attempt, -EPROTO, "not a memory node: it speaks something else");
	}
	return 0;
}

static int fail_name(const struct attempt *attempt, int code, const char *text)
{
	return lh__fail(attempt->error, code, "%s/%s: %s", attempt->target->url.text, attempt->name, text);
}

/* Of other statuses none is an answer to a hello without a name. */
static int explain_name(const struct attempt *attempt, unsigned status)
{
	switch (*attempt->name ? status : LH_WIRE_OK) {
	case LH_WIRE_NO_NAME: return fail_name(attempt, -ENOENT, "the node has nothing of that name");
	case LH_WIRE_NAME_TAKEN: return fail_name(attempt, -EEXIST, "the node has that name already");
	case LH_WIRE_BUSY: return fail_name(attempt, -EBUSY, "another client has it open");
	default: return fail(attempt, -EPROTO, "the node has refused the connection");
	}
}

static int explain(const struct attempt *attempt, const struct lh_wire_hello *answer)
{
	switch (answer->what) {
	case LH_WIRE_OK: return 0;
	case LH_WIRE_NO_REGION:
		return lh__fail(
			attempt->error, -ESTALE,
			"%s: the node does not have region %lx: it was started anew, or dropped the region",
			attempt->target->url.text, (unsigned long)answer->region);
	case LH_WIRE_OLD:
		return fail(attempt, -EBUSY, "the region has been connected to by somebody else meanwhile");
	case LH_WIRE_NEEDS_KEY: return fail(attempt, -EACCES, "the node requires a key: give --key-file");
	case LH_WIRE_CROWDED: return fail(attempt, -EBUSY, "the node has as many connections as it takes");
	case LH_WIRE_FAILED:
		return fail(attempt, -EIO, "the node could not make the region: it is out of memory");
	default: return explain_name(attempt, answer->what);
	}
}

static int read_answer(const struct attempt *attempt, struct channel *channel)
{
	uint8_t bytes[LH_WIRE_HELLO];
	int result = receive_answer(attempt, channel, bytes);

	if (result)
		return result;
	result = lh__wire_hello_read(bytes, &channel->answer);
	if (result == -EPROTONOSUPPORT)
		return lh__fail(attempt->error, result,
		                "%s: the node speaks version %u of the protocol, this is version %u: use the "
		                "same release",
		                attempt->target->url.text, channel->answer.version, LH_WIRE_VERSION);
	if (result)
		return fail(attempt, -EPROTO, "not a memory node: its answer is damaged");
	return explain(attempt, &channel->answer);
}

static int talk(const struct attempt *attempt, const struct lh_wire_hello *hello, struct channel *channel)
{
	int result = 0;

	if (attempt->tls)
		result = secure(attempt, channel);
	lh__socket_timeout(channel->fd, 100);
	if (result == 0) {
		send_hello(channel, hello);
		result = read_answer(attempt, channel);
	}
	lh__socket_timeout(channel->fd, 0);
	if (result == 0 && hello->channel == LH_WIRE_RING && channel->memfd < 0)
		result = fail(attempt, -EPROTO, "the node sent no shared memory");
	return result;
}

/* Connects and says hello. On failure nothing is left open. */
static int open_channel(const struct attempt *attempt, const struct lh_wire_hello *hello,
                        struct channel *channel)
{
	int result;

	*channel = (struct channel){ .fd = -1, .memfd = -1, .view = -1 };
	result = lh__socket_connect(&attempt->target->url, attempt->target->has_key, attempt->deadline_ms,
	                            &channel->fd, attempt->error);
	if (result == 0)
		result = talk(attempt, hello, channel);
	if (result)
		channel_close(channel);
	return result;
}

/* The descriptor that the data plane uses; the channel is given up. */
static int finish_channel(const struct attempt *attempt, struct channel *channel, int32_t *out)
{
	int plain = channel->fd, result = 0;

	if (channel->tls)
		result = lh__tls_relay(channel->tls, channel->fd, &plain);
	if (result) {
		channel_close(channel);
		return fail(attempt, result, "no thread to speak TLS");
	}
	*out = plain;
	return 0;
}

/* The second channel of a stream link. */
static int attach_second(const struct attempt *attempt, const struct lh_wire_hello *first,
                         struct lh_node_link *link)
{
	struct lh_wire_hello hello = *first;
	struct channel channel;
	int result;

	hello.version = LH_WIRE_VERSION;
	hello.what = LH_WIRE_ATTACH;
	hello.channel = LH_WIRE_STREAM;
	result = open_channel(attempt, &hello, &channel);
	return result ? result : finish_channel(attempt, &channel, &link->fd[1]);
}

static int make_link(const struct attempt *attempt, struct lh_wire_hello *hello, struct lh_node_link *out)
{
	struct lh_node_link link = { .kind = LH_NODE_STREAM, .fd = { -1, -1, -1 } };
	bool ring = !attempt->target->url.tcp && !attempt->target->no_ring;
	struct channel channel;
	int result;

	hello->version = LH_WIRE_VERSION;
	hello->channel = ring ? LH_WIRE_RING : LH_WIRE_STREAM;
	result = open_channel(attempt, hello, &channel);
	if (result)
		return result;
	link.region = channel.answer.region;
	link.generation = channel.answer.generation;
	memcpy(link.token, channel.answer.token, sizeof link.token);
	if (ring) {
		link.kind = LH_NODE_RING;
		link.fd[0] = channel.fd;
		link.fd[1] = channel.memfd;
		link.fd[2] = attempt->target->no_view ? -1 : channel.view;
		if (attempt->target->no_view && channel.view >= 0)
			close(channel.view);
	} else {
		result = finish_channel(attempt, &channel, &link.fd[0]);
		if (result == 0)
			result = attach_second(attempt, &channel.answer, &link);
		if (result) {
			lh__node_link_close(&link);
			if (hello->what == LH_WIRE_CREATE_NAMED)
				lh__node_drop_named(attempt->target, hello->name, &link, 1000, NULL);
			return result;
		}
	}
	*out = link;
	return 0;
}

/* A question that is answered and no more. */
static int ask_once(const struct attempt *attempt, struct lh_wire_hello *hello)
{
	struct channel channel;
	int result;

	hello->version = LH_WIRE_VERSION;
	hello->channel = LH_WIRE_STREAM;
	result = open_channel(attempt, hello, &channel);
	if (result == 0)
		channel_close(&channel);
	return result;
}

/* link: NULL: none is wanted. */
static int connect_link(const struct lh_node_target *target, int timeout_ms, struct lh_wire_hello *hello,
                        struct lh_node_link *link, struct lh_error *error)
{
	struct attempt attempt = {
		.target = target,
		.deadline_ms = lh__net_now_ms() + (unsigned)(timeout_ms > 0 ? timeout_ms : 30000),
		.name = hello->name,
		.error = error,
	};
	int result = 0;

	if (target->url.tcp && target->has_key)
		result = lh__tls_context_open(false, &target->key, &attempt.tls, error);
	if (result == 0)
		result = link ? make_link(&attempt, hello, link) : ask_once(&attempt, hello);
	lh__tls_context_close(attempt.tls);
	return result;
}

int lh__node_target(const char *url, const char *key_file, struct lh_node_target *target,
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

int lh__node_create(const struct lh_node_target *target, int timeout_ms, struct lh_node_link *link,
                    struct lh_error *error)
{
	struct lh_wire_hello hello = { .what = LH_WIRE_CREATE };

	return connect_link(target, timeout_ms, &hello, link, error);
}

static struct lh_wire_hello hello_of(const struct lh_node_link *link, enum lh_wire_action action)
{
	struct lh_wire_hello hello = { .what = action,
		                       .region = link->region,
		                       .generation = link->generation };

	memcpy(hello.token, link->token, sizeof hello.token);
	return hello;
}

/* Whether asking again may bring another answer. */
static bool may_pass(int error)
{
	switch (error) {
	case -ESTALE:
	case -EBUSY:
	case -EACCES:
	case -EPERM:
	case -EPROTO:
	case -EPROTONOSUPPORT: return false;
	default: return true;
	}
}

int lh__node_again(const struct lh_node_target *target, int timeout_ms, struct lh_node_link *link,
                   struct lh_error *error)
{
	struct timespec pause = { 0, 20000000 };
	uint64_t deadline = lh__net_now_ms() + (unsigned)(timeout_ms > 0 ? timeout_ms : 30000);

	for (;;) {
		struct lh_wire_hello hello = hello_of(link, LH_WIRE_ATTACH);
		uint64_t now = lh__net_now_ms();
		int result;

		hello.generation++;
		result =
			connect_link(target, now < deadline ? (int)(deadline - now) : 1, &hello, link, error);
		if (result == 0 || !may_pass(result) || lh__net_now_ms() >= deadline)
			return result;
		nanosleep(&pause, NULL);
		pause.tv_nsec = pause.tv_nsec < 250000000 ? 2 * pause.tv_nsec : pause.tv_nsec;
	}
}

int lh__node_clone(const struct lh_node_target *target, int timeout_ms, const struct lh_node_link *of,
                   struct lh_node_link *link, struct lh_error *error)
{
	struct lh_wire_hello hello = hello_of(of, LH_WIRE_CLONE);

	return connect_link(target, timeout_ms, &hello, link, error);
}

static int by_name(const struct lh_node_target *target, const char *name, int timeout_ms,
                   struct lh_wire_hello *hello, struct lh_node_link *link, struct lh_error *error)
{
	int result = lh__node_name_check(name, error);

	if (result)
		return result;
	strcpy(hello->name, name);
	return connect_link(target, timeout_ms, hello, link, error);
}

int lh__node_create_named(const struct lh_node_target *target, const char *name, int timeout_ms,
                          struct lh_node_link *link, struct lh_error *error)
{
	struct lh_wire_hello hello = { .what = LH_WIRE_CREATE_NAMED };

	return by_name(target, name, timeout_ms, &hello, link, error);
}

int lh__node_open_named(const struct lh_node_target *target, const char *name, int timeout_ms,
                        struct lh_node_link *link, struct lh_error *error)
{
	struct lh_wire_hello hello = { .what = LH_WIRE_OPEN_NAMED };

	return by_name(target, name, timeout_ms, &hello, link, error);
}

int lh__node_drop_named(const struct lh_node_target *target, const char *name,
                        const struct lh_node_link *made, int timeout_ms, struct lh_error *error)
{
	struct lh_wire_hello hello = { .what = LH_WIRE_DROP_NAMED };

	if (made) {
		hello.region = made->region;
		hello.generation = made->generation;
	}
	return by_name(target, name, timeout_ms, &hello, NULL, error);
}

void lh__node_link_close(struct lh_node_link *link)
{
	unsigned i;

	for (i = 0; i < LH_NODE_LINK_FDS; i++) {
		if (link->fd[i] >= 0)
			close(link->fd[i]);
		link->fd[i] = -1;
	}
}
