/*
 * stream.h - messages over a connected stream socket: the client's two kinds of channel, and the framing
 * that both sides share.
 *
 * A fetch channel serves any number of threads. Whoever sends while nobody reads becomes the leader: it reads
 * replies, which come in the order of the requests, and hands each to the thread that waits for it, until its
 * own is there; then it passes the lead to the next in line. So one request costs a send and a receive, and
 * no thread of its own stands between.
 *
 * Three errors mean that the channel is of no use any more: -ECONNRESET (it broke), -ETIMEDOUT (no answer for
 * too long) and -EPROTO (the node wrote what it must not).
 */
#ifndef LH_NET_DATA_STREAM_H
#define LH_NET_DATA_STREAM_H

#include "net/data/wire.h"
#include "sys/lock.h"
#include "sys/meanwhile.h"

/* What has been received and not yet looked at. Room for many messages: one recv fetches a whole batch. */
struct lh_inbox {
	size_t begin, end;
	uint8_t bytes[65536];
};

/* The next whole message, or NULL; -EPROTO in *error where it can be none. Valid until the next receive. */
const uint8_t *lh__inbox_next(struct lh_inbox *inbox, size_t *size, int *error);
/*
 * Makes room at the end and says how much; never 0 after lh__inbox_next has returned NULL without an error.
 */
size_t lh__inbox_room(struct lh_inbox *inbox, uint8_t **at);
/*
 * One recv into the inbox. Bytes received; -ECONNRESET at the end of the connection; -EAGAIN, -EINTR, other
 * errors.
 */
long lh__inbox_receive(const struct lh_sys *sys, int fd, struct lh_inbox *inbox, int flags);

/* How long one blocking call may take where limit_ms is the whole patience. */
static inline unsigned lh__stream_slice_ms(unsigned limit_ms)
{
	return limit_ms < 100 ? limit_ms : 100;
}
/* Sets how long one blocking call may take on the socket; the callers look at the clock between them. */
int lh__stream_slice(const struct lh_sys *sys, int fd, unsigned ms) LH_MUST_CHECK;

struct lh_waiter {
	struct lh_waiter *next;
	uint64_t sequence, page;
	lh_mask want, held;
	void *data;
	int result;     /* the node's answer */
	int broken;     /* why there is none, or 0 */
	uint32_t state; /* futex */
};

struct lh_fetch_channel {
	int fd;
	unsigned limit_ms; /* no answer for this long: the node hangs */
	struct lh_lock lock;
	bool led;
	int broken; /* why, or 0 */
	uint64_t sequence;
	struct lh_waiter *first, **last;
	struct lh_inbox inbox;
};

/* Makes every thread leave, and refuses new ones. */
void lh__fetch_break(const struct lh_sys *sys, struct lh_fetch_channel *channel);
void lh__fetch_begin(struct lh_fetch_channel *channel, int fd, unsigned limit_ms);
/*
 * One page; any number of threads at once, each with all signals blocked. 0 and *result is the node's
 * answer, or one of the three errors. What there is to do meanwhile is done while the answer is on its way.
 */
int lh__fetch(const struct lh_sys *sys, struct lh_fetch_channel *channel, uint64_t page, lh_mask want,
              void *data, lh_mask *held, int *result, const struct lh_meanwhile *meanwhile) LH_MUST_CHECK;

#endif
