/*
 * ring.c - the node's side of the ring (net/data/ring.h).
 *
 * Two threads: the connection's own waits for the socket to end; a second one polls the ring. How long it
 * polls before it sleeps is bounded (spin_us), since on a small machine it takes time from the program that
 * it serves; and where the client asked from the CPU that this thread runs on, it yields at once, for it only
 * stands in the way.
 *
 * The client may write anything at any time: a request is copied before it is looked at, and the counters
 * that decide what is read stand in this process' own memory. Replies are made in the slot: who meddles with
 * one spoils his own.
 */
#include "service/serve/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/data/clock.h"

struct server {
	struct connection *connection;
	struct lh_ring *ring;
	bool ending;                     /* atomic: the socket has ended; carry out what is there and stop */
	uint64_t fetched[LH_RING_FETCH]; /* the last sequence number of each slot */
	uint64_t tail;
	uint64_t busy_until_ns; /* until then others have work to do on this CPU: it does not poll */
	const char *why;
	uint8_t request[LH_WIRE_MESSAGE_MAX];
};

static const struct lh_sys *const sys = &lh__sys_default;

int lh__serve_ring_make(struct lh_ring **out)
{
	int result, fd = memfd_create("linehome-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct lh_ring *ring;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, LH_RING_SIZE) != 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
		result = -errno;
	else
		result = lh__ring_map_own(sys, fd, &ring);
	if (result) {
		close(fd);
		return result;
	}
	ring->magic = LH_RING_MAGIC;
	ring->version = LH_WIRE_VERSION;
	ring->fetch_slots = LH_RING_FETCH;
	ring->bulk_slots = LH_RING_BULK;
	ring->stride = LH_RING_STRIDE;
	ring->size = LH_RING_SIZE;
	*out = ring;
	return fd;
}

/* Carries out the message of a slot, in place as the client sees it. */
static bool serve_slot(struct server *server, struct lh_ring_slot *slot, uint64_t sequence)
{
	long size = lh__wire_size(slot->message, sizeof slot->message);
	size_t written;

	if (size <= 0) {
		server->why = "a message of impossible size";
		return false;
	}
	memcpy(server->request, slot->message, (size_t)size);
	written = lh__serve_message(server->connection, server->request, (size_t)size, sequence,
	                            slot->message, &server->why);
	return written != 0;
}

/* Everything in the fetch lane. 1: something; 0: nothing; -1: the connection must end. */
static int serve_fetches(struct server *server)
{
	struct lh_ring *ring = server->ring;
	uint64_t asked;
	unsigned i;

	if (__atomic_load_n(&ring->asked, __ATOMIC_RELAXED) == 0)
		return 0;
	asked = __atomic_exchange_n(&ring->asked, 0, __ATOMIC_ACQUIRE);
	LH_MASK_EACH(asked, i) {
		struct lh_ring_slot *slot = &ring->slot[i];

		if (!serve_slot(server, slot, ++server->fetched[i]))
			return -1;
		if (__atomic_exchange_n(&slot->state, LH_RING_ANSWERED, __ATOMIC_ACQ_REL) == LH_RING_AWAITED)
			lh__shared_wake(sys, &slot->state);
	}
	return 1;
}

static void wake_bulk(struct lh_ring *ring)
{
	if (__atomic_load_n(&ring->bulk_waits, __ATOMIC_SEQ_CST))
		lh__shared_wake(sys, (uint32_t *)&ring->tail);
}

/* The bulk lane up to where the client has published; fetches go before each message. As serve_fetches. */
static int serve_bulk(struct server *server)
{
	struct lh_ring *ring = server->ring;
	uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);

	if (head == server->tail)
		return 0;
	if (head - server->tail > LH_RING_BULK) {
		server->why = "an impossible count of messages";
		return -1;
	}
	while (server->tail != head) {
		if (__atomic_load_n(&server->connection->fenced, __ATOMIC_SEQ_CST) ||
		    serve_fetches(server) < 0)
			return -1;
		if (!serve_slot(server, &ring->slot[LH_RING_FETCH + server->tail % LH_RING_BULK],
		                server->tail + 1))
			return -1;
		server->tail++;
		__atomic_store_n(&ring->tail, server->tail, __ATOMIC_SEQ_CST);
	}
	wake_bulk(ring);
	return 1;
}

static int serve_once(struct server *server)
{
	int fetches, bulk;

	if (__atomic_load_n(&server->connection->fenced, __ATOMIC_SEQ_CST))
		return -1;
	fetches = serve_fetches(server);
	if (fetches < 0)
		return -1;
	bulk = serve_bulk(server);
	return bulk < 0 ? -1 : fetches | bulk;
}

static bool has_work(const struct server *server)
{
	return __atomic_load_n(&server->ring->asked, __ATOMIC_SEQ_CST) != 0 ||
	       __atomic_load_n(&server->ring->head, __ATOMIC_SEQ_CST) != server->tail;
}

/* Looks for work on another CPU than the client's. */
static bool spin_on_ring(const struct server *server)
{
	unsigned cpu = lh__ring_cpu(), i;

	__atomic_store_n(&server->ring->cpu, cpu, __ATOMIC_RELAXED);
	if (__atomic_load_n(&server->ring->client_cpu, __ATOMIC_RELAXED) == cpu)
		return false;
	for (i = 0; i < 100; i++) {
		if (has_work(server))
			return true;
		lh__ring_pause();
	}
	return false;
}

/*
 * Polls for spin_us; whether there is work. Where a yield shows that others have work of their own here, it
 * sleeps instead: it runs at once when it is woken, and need not wait for their slices.
 */
static bool poll_ring(struct server *server)
{
	uint64_t now = lh__now(sys),
		 until = now + (uint64_t)server->connection->server->options.spin_us * 1000;

	while (now < until && now >= server->busy_until_ns) {
		uint64_t before;

		if (spin_on_ring(server))
			return true;
		before = lh__now(sys);
		sched_yield();
		now = lh__now(sys);
		if (now - before >= LH_RING_LONG_NS)
			server->busy_until_ns = now + LH_RING_BUSY_NS;
		if (has_work(server))
			return true;
	}
	return false;
}

static void sleep_on_ring(const struct server *server)
{
	struct lh_ring *ring = server->ring;

	__atomic_store_n(&ring->node, LH_RING_ASLEEP, __ATOMIC_SEQ_CST);
	if (!has_work(server) && !__atomic_load_n(&server->ending, __ATOMIC_SEQ_CST))
		lh__shared_wait(sys, &ring->node, LH_RING_ASLEEP, 1000);
	__atomic_store_n(&ring->node, LH_RING_AWAKE, __ATOMIC_SEQ_CST);
}

/* The last thing: whoever sleeps on the ring looks at the socket, which has ended. */
static void wake_all(struct lh_ring *ring)
{
	unsigned i;

	for (i = 0; i < LH_RING_FETCH; i++)
		if (__atomic_load_n(&ring->slot[i].state, __ATOMIC_SEQ_CST) == LH_RING_AWAITED)
			lh__shared_wake(sys, &ring->slot[i].state);
	wake_bulk(ring);
}

static void *ring_thread(void *argument)
{
	struct server *server = argument;
	int done;

	lh__serve_promptly();
	while ((done = serve_once(server)) >= 0) {
		if (done > 0)
			continue;
		if (__atomic_load_n(&server->ending, __ATOMIC_SEQ_CST))
			break;
		if (!poll_ring(server))
			sleep_on_ring(server);
	}
	shutdown(server->connection->fd, SHUT_RDWR);
	wake_all(server->ring);
	return NULL;
}

/* Until the socket ends; a byte on it is against the rules. */
static bool wait_for_end(struct connection *connection)
{
	char byte;
	ssize_t got;

	do
		got = recv(connection->fd, &byte, 1, 0);
	while (got < 0 && errno == EINTR);
	return got <= 0;
}

const char *lh__serve_ring(struct connection *connection)
{
	struct server server = { .connection = connection, .ring = connection->ring };
	pthread_t thread;
	bool quiet;

	if (pthread_create(&thread, NULL, ring_thread, &server) != 0)
		return "no thread for a ring";
	quiet = wait_for_end(connection);
	__atomic_store_n(&server.ending, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&connection->ring->node, LH_RING_AWAKE, __ATOMIC_SEQ_CST);
	lh__shared_wake(sys, &connection->ring->node);
	pthread_join(thread, NULL);
	return server.why ? server.why : quiet ? NULL : "a message outside the ring";
}
