/* stream.c - see stream.h. */
#include "net/data/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "net/data/clock.h"

/* A waiter's state. */
enum { WAITING, SLEEPING, LEADING, DONE };

const uint8_t *lh__inbox_next(struct lh_inbox *inbox, size_t *size, int *error)
{
	const uint8_t *message = inbox->bytes + inbox->begin;
	size_t have = inbox->end - inbox->begin;
	long needed = lh__wire_size(message, have);

	*error = needed < 0 ? (int)needed : 0;
	if (needed <= 0 || (size_t)needed > have)
		return NULL;
	*size = (size_t)needed;
	inbox->begin += *size;
	return message;
}

size_t lh__inbox_room(struct lh_inbox *inbox, uint8_t **at)
{
	if (inbox->begin == inbox->end) {
		inbox->begin = inbox->end = 0;
	} else if (sizeof inbox->bytes - inbox->begin < LH_WIRE_MESSAGE_MAX) {
		memmove(inbox->bytes, inbox->bytes + inbox->begin, inbox->end - inbox->begin);
		inbox->end -= inbox->begin;
		inbox->begin = 0;
	}
	*at = inbox->bytes + inbox->end;
	return sizeof inbox->bytes - inbox->end;
}

long lh__inbox_receive(const struct lh_sys *sys, int fd, struct lh_inbox *inbox, int flags)
{
	uint8_t *at;
	size_t room = lh__inbox_room(inbox, &at);
	long got = LH_SYS(sys, SYS_recvfrom, fd, at, room, flags, 0, 0);

	if (got == 0)
		return -ECONNRESET;
	if (got > 0)
		inbox->end += (size_t)got;
	return got;
}

int lh__stream_slice(const struct lh_sys *sys, int fd, unsigned ms)
{
	struct timeval slice = { ms / 1000, (long)(ms % 1000) * 1000 };
	long result = LH_SYS(sys, SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof slice);

	if (result == 0)
		result = LH_SYS(sys, SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof slice);
	return (int)result;
}

void lh__fetch_begin(struct lh_fetch_channel *channel, int fd, unsigned limit_ms)
{
	channel->fd = fd;
	channel->limit_ms = limit_ms;
	channel->lock.word = 0;
	channel->led = false;
	channel->broken = 0;
	channel->sequence = 0;
	channel->first = NULL;
	channel->last = &channel->first;
	channel->inbox.begin = channel->inbox.end = 0;
}

/* 0: repeat the call that failed. The clock is read only where a slice of time has passed. */
static int give_up(const struct lh_sys *sys, long error, unsigned limit_ms, uint64_t *since)
{
	uint64_t now;

	if (error == -EINTR)
		return 0;
	if (error != -EAGAIN)
		return -ECONNRESET;
	now = lh__clock_ms(sys);
	if (*since == 0)
		*since = now - lh__stream_slice_ms(limit_ms);
	return now - *since < limit_ms ? 0 : -ETIMEDOUT;
}

static unsigned limit_of(const struct lh_fetch_channel *channel)
{
	return __atomic_load_n(&channel->limit_ms, __ATOMIC_RELAXED);
}

static int send_whole(const struct lh_sys *sys, struct lh_fetch_channel *channel, const uint8_t *bytes,
                      size_t size)
{
	uint64_t since = 0;
	int error = 0;

	while (size != 0 && error == 0) {
		long sent = LH_SYS(sys, SYS_sendto, channel->fd, bytes, size, MSG_NOSIGNAL, 0, 0);

		if (sent > 0) {
			bytes += sent;
			size -= (size_t)sent;
		} else {
			error = give_up(sys, sent, limit_of(channel), &since);
		}
	}
	return error;
}

/* The waiter may be gone as soon as its state is set: nothing of it is touched afterwards but the address. */
static void tell(const struct lh_sys *sys, struct lh_waiter *waiter, uint32_t state)
{
	if (__atomic_exchange_n(&waiter->state, state, __ATOMIC_ACQ_REL) == SLEEPING)
		lh__futex_wake(sys, &waiter->state, 1);
}

static void fail_all(const struct lh_sys *sys, struct lh_fetch_channel *channel)
{
	struct lh_waiter *waiter = channel->first, *next;

	channel->first = NULL;
	channel->last = &channel->first;
	for (; waiter; waiter = next) {
		next = waiter->next;
		waiter->broken = channel->broken;
		tell(sys, waiter, DONE);
	}
}

static struct lh_waiter *take_first(struct lh_fetch_channel *channel)
{
	struct lh_waiter *waiter = channel->first;

	if (waiter) {
		channel->first = waiter->next;
		if (!channel->first)
			channel->last = &channel->first;
	}
	return waiter;
}

/*
 * One reply is for the first in line, or the channel is broken. Nobody else takes from the line, and it is
 * not empty while there is a leader, so `first` may be read without the lock.
 */
static int deliver(const struct lh_sys *sys, struct lh_fetch_channel *channel, const uint8_t *message,
                   size_t size)
{
	struct lh_waiter *first = channel->first;
	struct lh_wire_answer answer;

	if (!first || lh__wire_reply_read(message, size, LH_WIRE_GET, first->sequence, first->page,
	                                  first->want, first->data, &answer) < 0)
		return -EPROTO;
	lh__lock(sys, &channel->lock);
	take_first(channel);
	lh__unlock(sys, &channel->lock);
	first->held = answer.held;
	first->result = answer.result;
	tell(sys, first, DONE);
	return 0;
}

/* Reads until the leader's own reply is there. Only the leader takes waiters out of the line. */
static int lead(const struct lh_sys *sys, struct lh_fetch_channel *channel, struct lh_waiter *self)
{
	uint64_t since = 0;
	int error = 0;

	while (error == 0 && __atomic_load_n(&self->state, __ATOMIC_ACQUIRE) != DONE) {
		size_t size;
		const uint8_t *message = lh__inbox_next(&channel->inbox, &size, &error);
		long got;

		if (message)
			error = deliver(sys, channel, message, size);
		if (message || error)
			continue;
		got = lh__inbox_receive(sys, channel->fd, &channel->inbox, 0);
		if (got > 0)
			since = 0;
		else
			error = give_up(sys, got, limit_of(channel), &since);
		if (got <= 0 && error == 0)
			error = __atomic_load_n(&channel->broken, __ATOMIC_RELAXED);
	}
	return error;
}

static void mark_broken(const struct lh_sys *sys, struct lh_fetch_channel *channel, int error)
{
	if (!channel->broken)
		__atomic_store_n(&channel->broken, error, __ATOMIC_RELAXED);
	LH_SYS(sys, SYS_shutdown, channel->fd, SHUT_RDWR);
}

/* The leader's reply has come, or the channel has broken: then nobody waits any longer. */
static void hand_over(const struct lh_sys *sys, struct lh_fetch_channel *channel, int error)
{
	lh__lock(sys, &channel->lock);
	if (error)
		mark_broken(sys, channel, error);
	if (channel->broken)
		fail_all(sys, channel);
	channel->led = channel->first != NULL;
	if (channel->first)
		tell(sys, channel->first, LEADING);
	lh__unlock(sys, &channel->lock);
}

void lh__fetch_break(const struct lh_sys *sys, struct lh_fetch_channel *channel)
{
	lh__lock(sys, &channel->lock);
	mark_broken(sys, channel, -ECONNRESET);
	lh__unlock(sys, &channel->lock);
}

/* Stands in line and sends, under one lock: the order of the line is the order on the wire. */
static int ask(const struct lh_sys *sys, struct lh_fetch_channel *channel, struct lh_waiter *self)
{
	uint8_t message[LH_WIRE_HEADER];
	int error;

	lh__lock(sys, &channel->lock);
	error = channel->broken;
	if (error == 0) {
		self->sequence = ++channel->sequence;
		lh__wire_request_write(message, LH_WIRE_GET, self->sequence, self->page, self->want, NULL);
		error = send_whole(sys, channel, message, sizeof message);
		if (error)
			mark_broken(sys, channel,
			            error); /* the leader, if any, sees the end of the connection */
	}
	if (error == 0) {
		*channel->last = self;
		channel->last = &self->next;
		self->state = channel->led ? WAITING : LEADING;
		channel->led = true;
	}
	lh__unlock(sys, &channel->lock);
	return error;
}

/* Until the reply is there or the lead is passed to this thread. */
static uint32_t sleep_in_line(const struct lh_sys *sys, struct lh_waiter *self)
{
	uint32_t state = WAITING;

	__atomic_compare_exchange_n(&self->state, &state, SLEEPING, false, __ATOMIC_ACQ_REL,
	                            __ATOMIC_ACQUIRE);
	while (state == WAITING || state == SLEEPING) {
		lh__futex_wait(sys, &self->state, SLEEPING, 1000 * LH_MS);
		state = __atomic_load_n(&self->state, __ATOMIC_ACQUIRE);
	}
	return state;
}

int lh__fetch(const struct lh_sys *sys, struct lh_fetch_channel *channel, uint64_t page, lh_mask want,
              void *data, lh_mask *held, int *result, const struct lh_meanwhile *meanwhile)
{
	struct lh_waiter self = { .page = page, .want = want, .data = data };
	int error = ask(sys, channel, &self);

	if (error)
		return error;
	lh__meanwhile(meanwhile);
	if (__atomic_load_n(&self.state, __ATOMIC_ACQUIRE) == LEADING || sleep_in_line(sys, &self) == LEADING)
		hand_over(sys, channel, lead(sys, channel, &self));
	if (self.broken)
		return self.broken;
	*held = self.held;
	*result = self.result;
	return 0;
}
