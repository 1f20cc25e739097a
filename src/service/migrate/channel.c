/*
 * channel.c - messages over a connected socket.
 *
 * The socket blocks, and every call that must not wait says so (MSG_DONTWAIT): so a thread that has nothing
 * but its channel waits in recv itself, and a request costs one system call to receive and one to answer.
 *
 * On control both sides say something each LH_MOVE_ALIVE_MS. What the other has said is looked for before it
 * is judged to be silent, since it may have been we who did not listen.
 */
#include "service/migrate/channel_inside.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/socket.h"

#define LINGER_MS 500u
/* A message of which less than this is there is moved to the front, where the cache has the inbox. */
#define SHORT 8192u
/* So much is received at once: more would leave the cache before it is looked at. */
#define AT_ONCE (256u << 10)

int lh__channel_make(int fd, enum lh_move_channel_kind kind, bool sender, struct lh_channel **out,
                     struct lh_error *error)
{
	struct lh_channel *channel = calloc(1, sizeof *channel);

	if (channel) {
		channel->inbox = malloc(LH_CHANNEL_INBOX);
		channel->outbox = malloc(LH_CHANNEL_OUTBOX);
	}
	if (!channel || !channel->inbox || !channel->outbox) {
		if (channel) {
			free(channel->inbox);
			free(channel->outbox);
		}
		free(channel);
		return lh__fail(error, -ENOMEM, "no memory for a connection");
	}
	channel->fd = fd;
	channel->kind = kind;
	channel->sender = sender;
	channel->why = "";
	channel->heard_ms = channel->said_ms = lh__net_now_ms();
	*out = channel;
	return 0;
}

static int fail(struct lh_channel *channel, int code, const char *why)
{
	if (!channel->failed) {
		channel->failed = code;
		channel->why = why;
	}
	return channel->failed;
}

/* 0: go on. */
static int state(struct lh_channel *channel)
{
	if (__atomic_load_n(&channel->broken, __ATOMIC_ACQUIRE))
		return fail(channel, -ECONNRESET, "the connection was given up");
	return channel->failed;
}

/* What an error of the socket means. */
static int fail_socket(struct lh_channel *channel, int code)
{
	if (code == ETIMEDOUT)
		return fail(channel, -ETIMEDOUT, "the other side does not answer: the network is cut");
	return fail(channel, -ECONNRESET,
	            channel->begin == channel->end ? "the connection has ended"
	                                           : "the connection ended in the middle of a message");
}

/* ---- sending ---- */

/* Sends what it can without waiting. 0 where it could all be sent, -EAGAIN, or an errno value (positive). */
static int push(struct lh_channel *channel)
{
	while (channel->out_begin != channel->out) {
		ssize_t sent = send(channel->fd, channel->outbox + channel->out_begin,
		                    channel->out - channel->out_begin, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EAGAIN ? -EAGAIN : errno;
		channel->out_begin += (size_t)sent;
		__atomic_fetch_add(&channel->bytes_out, (uint64_t)sent, __ATOMIC_RELAXED);
	}
	channel->out_begin = channel->out = 0;
	return 0;
}

static int await_room(struct lh_channel *channel, uint64_t deadline)
{
	struct pollfd poll_fd = { .fd = channel->fd, .events = POLLOUT };
	uint64_t now = lh__net_now_ms();

	if (now >= deadline)
		return fail(channel, -ETIMEDOUT, "the other side takes nothing any more");
	(void)poll(&poll_fd, 1, (int)(deadline - now));
	return state(channel);
}

int lh__channel_flush(struct lh_channel *channel)
{
	uint64_t deadline = 0;
	int result = state(channel);

	if (result || channel->out == 0)
		return result;
	for (;;) {
		size_t before = channel->out_begin;

		result = push(channel);
		if (result == 0)
			break;
		if (result != -EAGAIN)
			return fail_socket(channel, result);
		if (deadline == 0 || channel->out_begin != before)
			deadline = lh__net_now_ms() + LH_MOVE_SILENT_MS;
		result = await_room(channel, deadline);
		if (result)
			return result;
	}
	if (channel->kind == LH_MOVE_CONTROL)
		channel->said_ms = lh__net_now_ms();
	return 0;
}

/* Room for one more message, whatever its size. */
static int make_room(struct lh_channel *channel)
{
	int result = state(channel);

	if (result == 0 && channel->out >= LH_CHANNEL_GATHER)
		result = lh__channel_flush(channel);
	return result;
}

int lh__channel_send(struct lh_channel *channel, enum lh_move_type type, unsigned flags, uint64_t value,
                     const void *body, size_t size)
{
	struct lh_move_message message = {
		.type = type, .flags = flags, .value = value, .body = body, .size = size
	};
	int result;

	if (size > LH_MOVE_BODY_MAX)
		return -EMSGSIZE;
	result = make_room(channel);
	if (result)
		return result;
	message.sequence = ++channel->sent;
	lh__move_header_write(channel->outbox + channel->out, &message);
	if (size)
		memcpy(channel->outbox + channel->out + LH_MOVE_HEADER, body, size);
	channel->out += LH_MOVE_HEADER + size;
	return 0;
}

int lh__channel_give(struct lh_channel *channel, uint64_t page, bool since, lh_mask mask, const void *data)
{
	int result = make_room(channel);

	if (result)
		return result;
	channel->out +=
		lh__move_give_write(channel->outbox + channel->out, ++channel->sent, page, since, mask, data);
	return 0;
}

/* ---- receiving ---- */

/* Room behind what is there for the rest of a message, however long. */
static size_t inbox_room(struct lh_channel *channel)
{
	size_t have = channel->end - channel->begin, room;

	if (have < SHORT || LH_CHANNEL_INBOX - channel->begin < LH_MOVE_MESSAGE_MAX) {
		if (have && channel->begin)
			memmove(channel->inbox, channel->inbox + channel->begin, have);
		channel->begin = 0;
		channel->end = have;
	}
	room = LH_CHANNEL_INBOX - channel->end;
	return room < AT_ONCE ? room : AT_ONCE;
}

/* 1: something came; 0: nothing is there (or the call was interrupted). */
static int receive(struct lh_channel *channel, int flags)
{
	size_t room = inbox_room(channel);
	ssize_t got = recv(channel->fd, channel->inbox + channel->end, room, flags);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0) {
		int result = state(channel);

		return result ? result : fail_socket(channel, got < 0 ? errno : 0);
	}
	channel->end += (size_t)got;
	__atomic_fetch_add(&channel->bytes_in, (uint64_t)got, __ATOMIC_RELAXED);
	if (channel->kind == LH_MOVE_CONTROL)
		channel->heard_ms = lh__net_now_ms();
	return 1;
}

/* The size of the first message where it is whole, 0 where it is not, or -EPROTO. */
static long whole(const struct lh_channel *channel)
{
	size_t have = channel->end - channel->begin;
	long size = lh__move_size(channel->inbox + channel->begin, have);

	return size <= 0 || (size_t)size <= have ? size : 0;
}

bool lh__channel_has(const struct lh_channel *channel)
{
	return whole(channel) != 0;
}

/* The next message that has been received whole: 1, 0, or an error. */
static int take(struct lh_channel *channel, struct lh_move_message *message)
{
	for (;;) {
		long size = whole(channel);
		const char *why = NULL;

		if (size == 0)
			return 0;
		if (size < 0)
			return fail(channel, -EPROTO, "a message of impossible size");
		if (lh__move_read(channel->inbox + channel->begin, (size_t)size, channel->received + 1,
		                  channel->kind, !channel->sender, message, &why))
			return fail(channel, -EPROTO, why);
		channel->received++;
		channel->begin += (size_t)size;
		if (message->type != LH_MOVE_ALIVE)
			return 1;
	}
}

/*
 * Control, with nothing to read: says that we are there, if it is time, and looks whether the other is. An
 * error in sending is left to receiving, which first finds what the other has said before it ended.
 */
static int stay_alive(struct lh_channel *channel)
{
	uint64_t now;
	int result;

	if (channel->kind != LH_MOVE_CONTROL)
		return 0;
	now = lh__net_now_ms();
	if (now - channel->heard_ms >= LH_MOVE_SILENT_MS)
		return fail(channel, -ETIMEDOUT, "nothing was heard from the other side for too long");
	if (now - channel->said_ms < LH_MOVE_ALIVE_MS)
		return 0;
	if (channel->out == 0) {
		result = lh__channel_send(channel, LH_MOVE_ALIVE, 0, 0, NULL, 0);
		if (result)
			return result;
	}
	if (push(channel) == 0)
		channel->said_ms = now;
	return 0;
}

int lh__channel_next(struct lh_channel *channel, struct lh_move_message *message)
{
	int result = state(channel);

	while (result == 0) {
		result = take(channel, message);
		if (result)
			break;
		result = receive(channel, MSG_DONTWAIT);
		if (result == 0)
			return stay_alive(channel);
		if (result > 0)
			result = 0;
	}
	return result;
}

/* When to look at the clock again. */
static int patience(const struct lh_channel *channel, uint64_t now, uint64_t deadline)
{
	uint64_t until = deadline;

	if (channel->kind == LH_MOVE_CONTROL) {
		uint64_t say = channel->said_ms + LH_MOVE_ALIVE_MS;
		uint64_t hear = channel->heard_ms + LH_MOVE_SILENT_MS;

		if (say <= now) /* it could not be sent: the socket is full */
			say = now + LH_MOVE_ALIVE_MS / 10;
		until = until < say ? until : say;
		until = until < hear ? until : hear;
	}
	if (until == UINT64_MAX)
		return -1;
	return until > now ? (int)(until - now) : 0;
}

/* Nothing but the channel to wait for, and no clock: recv waits. */
static int wait_plainly(struct lh_channel *channel, struct lh_move_message *message)
{
	int result = state(channel);

	while (result == 0) {
		result = take(channel, message);
		if (result)
			break;
		result = receive(channel, 0);
		if (result > 0)
			result = 0;
	}
	return result;
}

int lh__channel_wait(struct lh_channel *channel, struct lh_move_message *message, int timeout_ms)
{
	struct pollfd poll_fd = { .fd = channel->fd, .events = POLLIN };
	uint64_t now, deadline = UINT64_MAX;
	int result;

	if (timeout_ms < 0 && channel->kind != LH_MOVE_CONTROL)
		return wait_plainly(channel, message);
	if (timeout_ms >= 0)
		deadline = lh__net_now_ms() + (unsigned)timeout_ms;
	for (;;) {
		result = lh__channel_next(channel, message);
		now = lh__net_now_ms();
		if (result || now >= deadline)
			return result;
		(void)poll(&poll_fd, 1, patience(channel, now, deadline));
	}
}

/* ---- the rest ---- */

int lh__channel_fd(const struct lh_channel *channel)
{
	return channel->fd;
}

void lh__channel_break(struct lh_channel *channel)
{
	__atomic_store_n(&channel->broken, true, __ATOMIC_RELEASE);
	shutdown(channel->fd, SHUT_RDWR);
}

const char *lh__channel_why(const struct lh_channel *channel)
{
	return channel->why;
}

void lh__channel_bytes(const struct lh_channel *channel, uint64_t *out, uint64_t *in)
{
	*out = __atomic_load_n(&channel->bytes_out, __ATOMIC_RELAXED);
	*in = __atomic_load_n(&channel->bytes_in, __ATOMIC_RELAXED);
}

/*
 * A socket that is closed with something unread in it ends the connection at once, and what was sent last may
 * be lost with it. So the other side is told that nothing more comes, and what it still sends is read.
 */
static void linger(struct lh_channel *channel)
{
	uint64_t deadline = lh__net_now_ms() + LINGER_MS, now;
	struct pollfd poll_fd = { .fd = channel->fd, .events = POLLIN };

	shutdown(channel->fd, SHUT_WR);
	while ((now = lh__net_now_ms()) < deadline && poll(&poll_fd, 1, (int)(deadline - now)) != 0) {
		ssize_t got = recv(channel->fd, channel->inbox, LH_CHANNEL_INBOX, MSG_DONTWAIT);

		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			break;
	}
}

void lh__channel_close(struct lh_channel *channel)
{
	if (!channel)
		return;
	if (channel->kind == LH_MOVE_CONTROL && state(channel) == 0)
		linger(channel);
	close(channel->fd);
	free(channel->inbox);
	free(channel->outbox);
	free(channel);
}
