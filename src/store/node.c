/*
 * node.c - the node store; see node.h.
 *
 * Fetches (get_now) and everything else (bulk) have a channel each. Bulk requests stand in a queue of slots
 * with three counters, answered <= sent <= queued; slot k is slots[k % DEPTH] and holds the whole message, so
 * that it can be sent again over a new link. Replies come in the order of the queue.
 *
 * Repair. Every call is *inside* while it uses the link. Whoever finds the link broken goes outside and tries
 * to turn UP into REPAIRING; the winner makes everybody else leave, waits until nobody is inside, and has the
 * link to itself; the others wait until it is UP again, or BROKEN. Fetches are then repeated by their own
 * threads; bulk requests are marked as not sent.
 *
 * Why sending again is right: the node has ended the old connections before it serves the new link, so
 * nothing old is carried out late; and the queue is repeated from its oldest unanswered request on, so that
 * the last word on a page is the same. A GET must not see a PUT that was submitted after it, so a change of a
 * page waits while a GET of it is in flight (`reading`, by a hash of the page; a false alarm costs a little
 * time). How many bytes a change changed the node remembers under the change's number, so that one that is
 * carried out twice counts once.
 */
#include "store/node.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "net/data/clock.h"
#include "net/data/ring_client.h"
#include "net/data/stream.h"
#include "store/view.h"

#define DEPTH LH_RING_BULK
#define READING 256u
#define VECTORS 64u
#define SLICE_MS 100u
#define STRIKES 3u

_Static_assert((int)LH_WIRE_GET == LH_OP_GET && (int)LH_WIRE_PUT == LH_OP_PUT &&
                       (int)LH_WIRE_REPLACE == LH_OP_REPLACE && (int)LH_WIRE_DROP == LH_OP_DROP,
               "the wire has the store's numbers");
_Static_assert(DEPTH <= LH_WIRE_CHANGES, "of what may be sent again, every number is another");

enum { UP, REPAIRING, BROKEN };

struct slot {
	struct lh_request *request;
	uint32_t size;
	uint8_t message[LH_WIRE_MESSAGE_MAX];
};

struct node {
	struct lh_store base;
	struct lh_node_options options;
	struct lh_node_link link;
	unsigned limit_ms;    /* no answer for this long: the link is taken for broken */
	unsigned patience_ms; /* the same, or what is left of timeout_ms while in trouble */

	uint32_t state;            /* futex */
	uint32_t inside;           /* futex; threads that use the link */
	uint32_t epoch;            /* links so far */
	int error;                 /* of BROKEN */
	uint64_t trouble_since;    /* ms; 0: the last thing that came was a good reply */
	unsigned repairs, strikes; /* since then: new links, and impossible messages */
	struct lh_node_counts counts;

	struct lh_fetch_channel fetch;
	struct lh_ring_client ring;
	struct lh_view_reader view;

	uint64_t
		first_number; /* of a change, on the wire: those of earlier handles on the region are lower */
	uint64_t queued, sent, answered;
	uint64_t first;   /* the slot that is sequence number 1 on this link */
	size_t sent_part; /* bytes of slots[sent] that are already sent */
	uint64_t stalled_since;
	struct lh_request *done, **done_last;
	uint16_t reading[READING];  /* GETs in flight, by a hash of the page */
	uint16_t changing[READING]; /* changes in flight, likewise */
	struct lh_inbox inbox;
	struct slot slots[DEPTH];
};

static struct node *node_of(struct lh_store *store)
{
	return (struct node *)store;
}

static void count(uint64_t *counter, size_t bytes)
{
	__atomic_fetch_add(counter, bytes, __ATOMIC_RELAXED);
}

static struct slot *slot_at(struct node *node, uint64_t number)
{
	return &node->slots[number % DEPTH];
}

/* ---- the link's life ---- */

static void close_link(struct node *node)
{
	unsigned i;

	lh__ring_client_end(node->base.sys, &node->ring);
	lh__view_close(node->base.sys, &node->view);
	for (i = 0; i < LH_NODE_LINK_FDS; i++) {
		if (node->link.fd[i] >= 0)
			LH_SYS(node->base.sys, SYS_close, node->link.fd[i]);
		node->link.fd[i] = -1;
	}
}

/* Everything in flight is to be sent again; the slots carry the numbers of a link that is no more. */
static void rewind_queue(struct node *node)
{
	uint64_t k;

	node->sent = node->first = node->answered;
	node->sent_part = 0;
	node->stalled_since = 0;
	for (k = node->answered; k != node->queued; k++)
		lh__wire_renumber(slot_at(node, k)->message, k - node->first + 1);
}

/* Starts using a link; takes it over on success only. */
static int adopt(struct node *node, const struct lh_node_link *link)
{
	const struct lh_sys *sys = node->base.sys;
	int error = -EINVAL;

	if (link->kind == LH_NODE_RING) {
		error = lh__ring_client_begin(sys, &node->ring, link->fd[0], link->fd[1], node->patience_ms);
	} else if (link->kind == LH_NODE_STREAM) {
		unsigned slice = lh__stream_slice_ms(node->patience_ms);

		error = lh__stream_slice(sys, link->fd[0], slice);
		if (error == 0)
			error = lh__stream_slice(sys, link->fd[1], slice);
		lh__fetch_begin(&node->fetch, link->fd[0], node->patience_ms);
		node->inbox.begin = node->inbox.end = 0;
	}
	if (error)
		return error;
	node->link = *link;
	if (link->kind != LH_NODE_RING)
		node->link.fd[2] = -1;
	/* One that cannot be used is done without. */
	if (node->link.fd[2] >= 0 && lh__view_open(sys, node->link.fd[2], &node->view) < 0)
		node->view.fd = -1;
	rewind_queue(node);
	return 0;
}

static void leave(struct node *node)
{
	__atomic_fetch_sub(&node->inside, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&node->state, __ATOMIC_SEQ_CST) == REPAIRING)
		lh__futex_wake(node->base.sys, &node->inside, 1);
}

/* 0: inside, on the link number *epoch. Otherwise the store is broken and this is why. */
static int enter(struct node *node, uint32_t *epoch)
{
	for (;;) {
		uint32_t state;

		__atomic_fetch_add(&node->inside, 1, __ATOMIC_SEQ_CST);
		state = __atomic_load_n(&node->state, __ATOMIC_SEQ_CST);
		if (state == UP) {
			*epoch = node->epoch; /* which cannot change while somebody is inside */
			return 0;
		}
		leave(node);
		if (state == BROKEN)
			return node->error;
		lh__futex_wait(node->base.sys, &node->state, REPAIRING, SLICE_MS * LH_MS);
	}
}

static void set_state(struct node *node, uint32_t state)
{
	__atomic_store_n(&node->state, state, __ATOMIC_SEQ_CST);
	lh__futex_wake(node->base.sys, &node->state, 1 << 30);
}

/* Makes every other thread leave, and waits for it. */
static void clear_out(struct node *node)
{
	uint32_t inside;

	__atomic_store_n(&node->ring.dead, true, __ATOMIC_RELAXED);
	LH_SYS(node->base.sys, SYS_shutdown, node->link.fd[0], SHUT_RDWR);
	if (node->link.kind == LH_NODE_STREAM) {
		lh__fetch_break(node->base.sys, &node->fetch);
		LH_SYS(node->base.sys, SYS_shutdown, node->link.fd[1], SHUT_RDWR);
	}
	while ((inside = __atomic_load_n(&node->inside, __ATOMIC_SEQ_CST)) != 0)
		lh__futex_wait(node->base.sys, &node->inside, inside, SLICE_MS * LH_MS);
}

/* A node that takes connections and then breaks them is not asked again at once. */
static void back_off(struct node *node, uint64_t left_ms)
{
	uint64_t ms = node->repairs == 0 ? 0 : 5u << (node->repairs < 7 ? node->repairs : 7);

	if (ms != 0)
		lh__sleep_ms(node->base.sys, (unsigned)(ms < left_ms ? ms : left_ms));
	node->repairs++;
}

/* What is left of timeout_ms since the trouble began. */
static uint64_t time_left(const struct node *node)
{
	uint64_t spent = lh__clock_ms(node->base.sys) - node->trouble_since;

	return spent < node->options.timeout_ms ? node->options.timeout_ms - spent : 0;
}

static void note_trouble(struct node *node, int why)
{
	uint64_t now = lh__clock_ms(node->base.sys);

	if (node->trouble_since == 0)
		node->trouble_since = why == -ETIMEDOUT && now > node->limit_ms ? now - node->limit_ms : now;
	if (node->trouble_since == 0)
		node->trouble_since = 1;
	node->strikes += why == -EPROTO;
}

static int adopt_new(struct node *node, struct lh_node_link *link)
{
	uint64_t left = time_left(node);
	int error;

	node->patience_ms = left == 0 ? 1 : left < node->limit_ms ? (unsigned)left : node->limit_ms;
	node->counts.reconnects++;
	error = adopt(node, link);
	if (error) {
		node->link = *link;
		close_link(node);
	}
	return error;
}

/* With the link to itself: a new link, or the error that ends the store. */
static int find_link(struct node *node, int why)
{
	struct lh_node_link link;
	int error;

	note_trouble(node, why);
	close_link(node);
	link = node->link;
	if (time_left(node) == 0)
		return -ETIMEDOUT;
	if (node->strikes == STRIKES || !node->options.reconnect)
		return -EIO;
	back_off(node, time_left(node));
	error = node->options.reconnect(node->options.context, &link, (int)(time_left(node) | 1));
	if (error == 0)
		error = adopt_new(node, &link);
	return error == 0 || error == -ETIMEDOUT ? error : -EIO;
}

/* Called outside, by whoever found link number epoch broken. */
static void repair(struct node *node, uint32_t epoch, int why)
{
	uint32_t up = UP;

	if (!__atomic_compare_exchange_n(&node->state, &up, REPAIRING, false, __ATOMIC_SEQ_CST,
	                                 __ATOMIC_SEQ_CST))
		return;
	if (node->epoch != epoch) {
		set_state(node, UP);
		return;
	}
	clear_out(node);
	node->error = find_link(node, why);
	node->epoch++;
	set_state(node, node->error ? BROKEN : UP);
}

static void be_patient(struct node *node, unsigned ms)
{
	__atomic_store_n(&node->patience_ms, ms, __ATOMIC_RELAXED);
	__atomic_store_n(&node->fetch.limit_ms, ms, __ATOMIC_RELAXED);
	__atomic_store_n(&node->ring.limit_ms, ms, __ATOMIC_RELAXED);
}

/* A good reply has come: what was wrong is over. Of several threads one says so. */
static void settle(struct node *node)
{
	if (__atomic_load_n(&node->trouble_since, __ATOMIC_RELAXED) == 0 ||
	    __atomic_exchange_n(&node->trouble_since, 0, __ATOMIC_ACQ_REL) == 0)
		return;
	node->repairs = node->strikes = 0;
	be_patient(node, node->limit_ms);
}

/* ---- get_now ---- */

static int fetch_once(struct node *node, uint64_t page, lh_mask want, void *data, lh_mask *held, int *result)
{
	const struct lh_sys *sys = node->base.sys;
	const struct lh_meanwhile *meanwhile = &node->base.meanwhile;

	if (node->link.kind == LH_NODE_RING)
		return lh__ring_fetch(sys, &node->ring, page, want, data, held, result, meanwhile);
	return lh__fetch(sys, &node->fetch, page, want, data, held, result, meanwhile);
}

/* Reads the page where it stands, if it is in view. */
static bool look(struct node *node, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	if (want != LH_MASK_ALL || !lh__view_read(node->base.sys, &node->view, page, data, held))
		return false;
	count(&node->counts.bytes_in, lh__mask_count(*held) * LH_LINE_SIZE);
	return true;
}

static int fetch(struct node *node, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	for (;;) {
		uint32_t epoch;
		int result = 0, error = enter(node, &epoch);

		if (error)
			return error;
		if (look(node, page, want, data, held)) {
			leave(node);
			return 0;
		}
		error = fetch_once(node, page, want, data, held, &result);
		if (error == 0)
			settle(node);
		leave(node);
		if (error == 0) {
			count(&node->counts.bytes_out, LH_WIRE_HEADER);
			count(&node->counts.bytes_in,
			      LH_WIRE_HEADER + (result ? 0 : lh__lineset_size(*held)));
			return result;
		}
		repair(node, epoch, error);
	}
}

static int node_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct node *node = node_of(store);
	uint64_t all = ~UINT64_C(0), before;
	int result;

	if (page > LH_PAGE_NUMBER_MAX)
		return -EINVAL;
	if (node->options.signals_blocked)
		return fetch(node, page, want, data, held);
	result = (int)LH_SYS(store->sys, SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
	if (result < 0)
		return result;
	result = fetch(node, page, want, data, held);
	LH_SYS(store->sys, SYS_rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof all);
	return result;
}

/* ---- the bulk queue ---- */

static unsigned hash_of(uint64_t page)
{
	return (unsigned)((page * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

/* How many requests of this one's kind are in flight for its page, or for one of the same hash. */
static uint16_t *alike(struct node *node, const struct lh_request *request)
{
	return request->op == LH_OP_GET ? &node->reading[hash_of(request->page)]
	                                : &node->changing[hash_of(request->page)];
}

static void complete(struct node *node, struct lh_request *request, int result)
{
	request->result = result;
	request->next = NULL;
	*node->done_last = request;
	node->done_last = &request->next;
}

/* The oldest unanswered request is over. */
static void answer(struct node *node, int result)
{
	struct lh_request *request = slot_at(node, node->answered++)->request;

	--*alike(node, request);
	complete(node, request, result);
}

static void fail_queue(struct node *node, int error)
{
	while (node->answered != node->queued)
		answer(node, error);
	node->sent = node->first = node->answered;
}

/*
 * Written with its number among all of the region's changes, of whichever handle; the sequence is the link's
 * own.
 */
static void enqueue(struct node *node, struct lh_request *request)
{
	struct slot *slot = slot_at(node, node->queued);
	uint64_t number = node->first_number + node->queued, sequence = node->queued - node->first + 1;

	slot->request = request;
	slot->size = (uint32_t)lh__wire_request_write(slot->message, (enum lh_wire_op)request->op, number,
	                                              request->page, request->mask, request->data);
	if (number != sequence)
		lh__wire_renumber(slot->message, sequence);
	++*alike(node, request);
	node->queued++;
}

static bool has_room(struct node *node, const struct lh_request *request)
{
	if (node->queued - node->answered == DEPTH)
		return false;
	return request->op == LH_OP_GET || node->reading[hash_of(request->page)] == 0;
}

static int take_reply(struct node *node, const uint8_t *message, size_t size)
{
	struct lh_request *request = slot_at(node, node->answered)->request;
	struct lh_wire_answer reply;

	if (node->answered == node->sent)
		return -EPROTO;
	if (lh__wire_reply_read(message, size, (enum lh_wire_op)request->op, node->answered - node->first + 1,
	                        request->page, request->mask, request->data, &reply) < 0)
		return -EPROTO;
	if (request->op == LH_OP_GET && reply.result == 0)
		request->mask = reply.held;
	request->changed = reply.changed;
	count(&node->counts.bytes_in, size);
	answer(node, reply.result);
	settle(node);
	return 0;
}

/* ---- bulk over a stream ---- */

static size_t gather_unsent(struct node *node, struct iovec *vector)
{
	size_t n = 0, skip = node->sent_part;
	uint64_t k;

	for (k = node->sent; k != node->queued && n < VECTORS; k++, n++) {
		vector[n].iov_base = slot_at(node, k)->message + skip;
		vector[n].iov_len = slot_at(node, k)->size - skip;
		skip = 0;
	}
	return n;
}

static void mark_sent(struct node *node, size_t bytes)
{
	count(&node->counts.bytes_out, bytes);
	bytes += node->sent_part;
	while (node->sent != node->queued && bytes >= slot_at(node, node->sent)->size)
		bytes -= slot_at(node, node->sent++)->size;
	node->sent_part = bytes;
}

/* Sends as much as goes without waiting. */
static int flush_stream(struct node *node)
{
	struct iovec vector[VECTORS];
	struct msghdr message = { .msg_iov = vector };
	long sent;

	while (node->sent != node->queued) {
		message.msg_iovlen = gather_unsent(node, vector);
		sent = LH_SYS(node->base.sys, SYS_sendmsg, node->link.fd[1], &message,
		              MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent == -EAGAIN)
			return 0;
		if (sent <= 0 && sent != -EINTR)
			return -ECONNRESET;
		if (sent > 0)
			mark_sent(node, (size_t)sent);
	}
	return 0;
}

static int parse_inbox(struct node *node)
{
	const uint8_t *message;
	size_t size;
	int error;

	while ((message = lh__inbox_next(&node->inbox, &size, &error)) != NULL) {
		error = take_reply(node, message, size);
		if (error)
			break;
	}
	return error;
}

/* Waits for something to do, up to ms. */
static void wait_stream(struct node *node, unsigned ms)
{
	struct pollfd poll = { .fd = node->link.fd[1], .events = POLLIN };
	struct timespec time = { ms / 1000, (long)(ms % 1000) * 1000000 };

	if (node->sent != node->queued)
		poll.events |= POLLOUT;
	LH_SYS(node->base.sys, SYS_ppoll, &poll, 1, &time, 0, 0);
}

/* A whole slice is waited for in the receive itself: one system call less. */
static int receive_stream(struct node *node, unsigned ms)
{
	bool block = ms >= SLICE_MS && node->sent == node->queued;
	long got;

	if (ms != 0 && !block)
		wait_stream(node, ms);
	got = lh__inbox_receive(node->base.sys, node->link.fd[1], &node->inbox, block ? 0 : MSG_DONTWAIT);
	if (got > 0)
		return parse_inbox(node);
	return got == -EAGAIN || got == -EINTR ? 0 : -ECONNRESET;
}

/* ---- bulk over the ring ---- */

static void flush_ring(struct node *node)
{
	uint64_t before = node->sent;

	while (node->sent != node->queued) {
		struct slot *slot = slot_at(node, node->sent);

		if (!lh__ring_place(&node->ring, slot->message, slot->size))
			break;
		count(&node->counts.bytes_out, slot->size);
		node->sent++;
	}
	if (node->sent != before)
		lh__ring_publish(node->base.sys, &node->ring);
}

static int receive_ring(struct node *node, unsigned ms)
{
	uint64_t before = node->answered;
	const uint8_t *message;
	int more = 0;

	if (ms != 0) {
		int error = lh__ring_wait(node->base.sys, &node->ring, ms);

		if (error)
			return error;
	}
	while (node->answered - before < DEPTH && (more = lh__ring_answer(&node->ring, &message)) > 0) {
		long size = lh__wire_size(message, LH_RING_ROOM);
		int error = size <= 0 ? -EPROTO : take_reply(node, message, (size_t)size);

		if (error)
			return error;
		lh__ring_taken(&node->ring);
	}
	return more < 0 ? more : 0;
}

/* ---- bulk over either ---- */

static int flush(struct node *node)
{
	if (node->link.kind == LH_NODE_STREAM)
		return flush_stream(node);
	flush_ring(node);
	return 0;
}

/* Whether the node has been silent for too long; looked at only where nothing has come. */
static int check_stall(struct node *node)
{
	uint64_t now = lh__clock_ms(node->base.sys);

	if (node->stalled_since == 0)
		node->stalled_since = now;
	return now - node->stalled_since > __atomic_load_n(&node->patience_ms, __ATOMIC_RELAXED) ? -ETIMEDOUT
	                                                                                         : 0;
}

/* Inside: sends what waits and takes what has come, waiting up to ms for it. */
static int advance(struct node *node, unsigned ms)
{
	uint64_t before = node->answered;
	int error = flush(node);

	if (error)
		return error;
	error = node->link.kind == LH_NODE_STREAM ? receive_stream(node, ms) : receive_ring(node, ms);
	if (error)
		return error;
	if (node->answered != before || node->answered == node->queued)
		node->stalled_since = 0;
	else
		error = check_stall(node);
	return error;
}

/* Inside, and stays inside while it returns 0. */
static int make_room(struct node *node, const struct lh_request *request, uint32_t *epoch)
{
	int error;

	while (!has_room(node, request)) {
		error = advance(node, SLICE_MS);
		if (error == 0)
			error = __atomic_load_n(&node->state, __ATOMIC_SEQ_CST) == UP ? 0 : -ECONNRESET;
		if (error == 0)
			continue;
		leave(node);
		repair(node, *epoch, error);
		error = enter(node, epoch);
		if (error)
			return error;
	}
	return 0;
}

static bool valid(const struct lh_request *request)
{
	return request->op >= LH_OP_GET && request->op <= LH_OP_DROP && request->page <= LH_PAGE_NUMBER_MAX;
}

/* A GET that can be answered by looking, since no change of its page is on the way, is complete at once. */
static bool done_by_looking(struct node *node, struct lh_request *request)
{
	lh_mask held;

	if (request->op != LH_OP_GET || node->changing[hash_of(request->page)] != 0 ||
	    !look(node, request->page, request->mask, request->data, &held))
		return false;
	request->mask = held;
	complete(node, request, 0);
	return true;
}

/* Once the first is taken, every one is: where the store breaks meanwhile, they end with its error. */
static int node_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct node *node = node_of(store);
	uint32_t epoch;
	size_t i;
	int error;

	for (i = 0; i < n; i++)
		if (!valid(requests[i]))
			return -EINVAL;
	error = enter(node, &epoch);
	if (error)
		return error;
	for (i = 0; i < n; i++) {
		if (done_by_looking(node, requests[i]))
			continue;
		error = make_room(node, requests[i], &epoch);
		if (error)
			break;
		enqueue(node, requests[i]);
	}
	if (error) {
		fail_queue(node, error);
		for (; i < n; i++)
			complete(node, requests[i], error);
		return 0;
	}
	error = flush(node);
	leave(node);
	if (error)
		repair(node, epoch, error);
	return 0;
}

static size_t take_done(struct node *node, struct lh_request **done, size_t max)
{
	size_t n = 0;

	while (n < max && node->done) {
		done[n++] = node->done;
		node->done = node->done->next;
	}
	if (!node->done)
		node->done_last = &node->done;
	return n;
}

/* One round of poll: something completes, or ms pass. */
static void poll_once(struct node *node, unsigned ms)
{
	uint32_t epoch;
	int error = enter(node, &epoch);

	if (error) {
		fail_queue(node, error);
		return;
	}
	error = advance(node, ms);
	leave(node);
	if (error)
		repair(node, epoch, error);
}

static size_t node_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct node *node = node_of(store);
	uint64_t start = timeout_ms > 0 ? lh__clock_ms(store->sys) : 0;
	unsigned left = timeout_ms < 0 || timeout_ms > (int)SLICE_MS ? SLICE_MS : (unsigned)timeout_ms;

	while (!node->done && node->queued != node->answered) {
		uint64_t spent;

		poll_once(node, left);
		if (timeout_ms == 0)
			break;
		spent = timeout_ms > 0 ? lh__clock_ms(store->sys) - start : 0;
		if (timeout_ms > 0 && spent >= (uint64_t)timeout_ms)
			break;
		if (timeout_ms > 0 && (uint64_t)timeout_ms - spent < left)
			left = (unsigned)((uint64_t)timeout_ms - spent);
	}
	return take_done(node, done, max);
}

/* ---- the rest of the contract ---- */

/* A node acknowledges what has taken effect, and promises no more than that: there is nothing to wait for. */
static int node_sync(struct lh_store *store)
{
	struct node *node = node_of(store);

	return __atomic_load_n(&node->state, __ATOMIC_SEQ_CST) == BROKEN ? node->error : 0;
}

static void close_fds(const struct lh_sys *sys, const struct lh_node_link *link)
{
	for (unsigned i = 0; i < LH_NODE_LINK_FDS; i++)
		if (link->fd[i] >= 0)
			LH_SYS(sys, SYS_close, link->fd[i]);
}

static int node_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	struct node *node = node_of(store);
	struct lh_node_options options = node->options;
	struct lh_node_link link;
	int result;

	if (node->queued != node->answered || node->done)
		return lh__fail(error, -EBUSY, "requests are in flight");
	if (__atomic_load_n(&node->state, __ATOMIC_SEQ_CST) == BROKEN)
		return lh__fail(error, node->error, "the node cannot be reached any more");
	if (!options.clone)
		return lh__fail(error, -ENOTSUP, "this link to a memory node cannot be cloned");
	result = options.clone(options.context, &node->link, &link, &options.context, error);
	if (result)
		return result;
	result = lh__node_attach(store->sys, &link, &options, out);
	if (result) {
		close_fds(store->sys, &link);
		if (options.closed)
			options.closed(options.context);
		return lh__fail(error, result, "the clone on the memory node cannot be attached: %s",
		                lh__errno_name(result));
	}
	return 0;
}

/* No shutdown: after a fork the sockets may be another process' too. */
static void end(struct node *node)
{
	close_link(node);
	lh__free(node->base.sys, node, sizeof *node);
}

static void node_close(struct lh_store *store)
{
	struct lh_node_options options = node_of(store)->options;

	end(node_of(store));
	if (options.closed)
		options.closed(options.context);
}

void lh__node_forget(struct lh_store *store)
{
	end(node_of(store));
}

static const struct lh_store_ops ops = {
	.name = "node",
	.submit = node_submit,
	.poll = node_poll,
	.get_now = node_get_now,
	.sync = node_sync,
	.clone = node_clone,
	.reserve = lh__store_reserve_none,
	.close = node_close,
};

int lh__node_attach(const struct lh_sys *sys, const struct lh_node_link *link,
                    const struct lh_node_options *options, struct lh_store **out)
{
	struct node *node = lh__alloc(sys, sizeof *node);
	int error;

	if (!node)
		return -ENOMEM;
	node->base.ops = &ops;
	node->base.sys = sys;
	node->base.caps.get_now_in_signal = options->reconnect_in_signal || !options->reconnect;
	node->base.caps.depth = DEPTH;
	node->options = *options;
	if (node->options.timeout_ms == 0)
		node->options.timeout_ms = 30000;
	node->limit_ms = node->patience_ms = (node->options.timeout_ms + 2) / 3;
	node->done_last = &node->done;
	node->first_number = ((link->generation - 1) << 40) + 1;
	node->link.fd[0] = node->link.fd[1] = node->link.fd[2] = node->view.fd = -1;
	error = adopt(node, link);
	if (error) {
		lh__free(sys, node, sizeof *node);
		return error;
	}
	*out = &node->base;
	return 0;
}

void lh__node_counts(const struct lh_store *store, struct lh_node_counts *counts)
{
	const struct node *node = (const struct node *)store;

	counts->bytes_out = __atomic_load_n(&node->counts.bytes_out, __ATOMIC_RELAXED);
	counts->bytes_in = __atomic_load_n(&node->counts.bytes_in, __ATOMIC_RELAXED);
	counts->reconnects = __atomic_load_n(&node->counts.reconnects, __ATOMIC_RELAXED);
}

uint64_t lh__node_region(const struct lh_store *store)
{
	return ((const struct node *)store)->link.region;
}

void *lh__node_context(const struct lh_store *store)
{
	return ((const struct node *)store)->options.context;
}
