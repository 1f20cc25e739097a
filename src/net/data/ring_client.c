/*
 * ring_client.c - see ring_client.h.
 *
 * How long to poll before sleeping decides the speed. When the node polls on another CPU, its answer takes a
 * microsecond or two: spin. When it shares this CPU, spinning only keeps it from answering: yield at once. A
 * sleep comes last, since waking costs tens of microseconds on some machines.
 */
#include "net/data/ring_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "net/data/clock.h"

#define SPINS 2000u
#define YIELDS 16u
#define SLICE_MS 100u

int lh__ring_client_begin(const struct lh_sys *sys, struct lh_ring_client *client, int fd, int memfd,
                          unsigned limit_ms)
{
	memset(client, 0, sizeof *client);
	client->fd = fd;
	client->limit_ms = limit_ms;
	return lh__ring_map(sys, memfd, &client->ring);
}

void lh__ring_client_end(const struct lh_sys *sys, struct lh_ring_client *client)
{
	lh__ring_unmap(sys, client->ring);
	client->ring = NULL;
}

/* The node sends nothing on the socket: anything but "nothing yet" is its end. */
static bool node_ended(const struct lh_sys *sys, const struct lh_ring_client *client)
{
	char byte;
	long got = LH_SYS(sys, SYS_recvfrom, client->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);

	return got >= 0 || (got != -EAGAIN && got != -EINTR);
}

/* The number of a slot, or -ECONNRESET. */
static int claim(const struct lh_sys *sys, struct lh_ring_client *client)
{
	while (!__atomic_load_n(&client->dead, __ATOMIC_RELAXED)) {
		uint32_t crowd = __atomic_load_n(&client->crowd, __ATOMIC_ACQUIRE);
		uint64_t claimed = __atomic_load_n(&client->claimed, __ATOMIC_RELAXED);

		while (~claimed != 0) {
			unsigned slot = (unsigned)__builtin_ctzll(~claimed);

			if (__atomic_compare_exchange_n(&client->claimed, &claimed,
			                                claimed | UINT64_C(1) << slot, true, __ATOMIC_ACQUIRE,
			                                __ATOMIC_RELAXED))
				return (int)slot;
		}
		lh__futex_wait(sys, &client->crowd, crowd, SLICE_MS * LH_MS);
	}
	return -ECONNRESET;
}

/* The lock-free way out while slots are free; where all were taken, somebody may sleep. */
static void give_back(const struct lh_sys *sys, struct lh_ring_client *client, unsigned slot)
{
	uint64_t before = __atomic_fetch_and(&client->claimed, ~(UINT64_C(1) << slot), __ATOMIC_RELEASE);

	if (~before == 0) {
		__atomic_fetch_add(&client->crowd, 1, __ATOMIC_RELEASE);
		lh__futex_wake(sys, &client->crowd, 1);
	}
}

/* Whether the node polls, or is about to, on a CPU that is not this one. */
static bool worth_spinning(const struct lh_ring *ring)
{
	return __atomic_load_n(&ring->cpu, __ATOMIC_RELAXED) != lh__ring_cpu();
}

static bool answered(const struct lh_ring_slot *slot)
{
	return __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == LH_RING_ANSWERED;
}

/*
 * Lets others run once. False: it took so long that somebody else has work of his own to do here. Who sleeps
 * is then served sooner than who yields, since a thread that wakes need not wait until the other's slice has
 * ended.
 */
static bool yield(const struct lh_sys *sys, struct lh_ring_client *client)
{
	uint64_t before = lh__now(sys), after;

	if (before < __atomic_load_n(&client->busy_until_ns, __ATOMIC_RELAXED))
		return false;
	LH_SYS(sys, SYS_sched_yield);
	after = lh__now(sys);
	if (after - before < LH_RING_LONG_NS)
		return true;
	__atomic_store_n(&client->busy_until_ns, after + LH_RING_BUSY_NS, __ATOMIC_RELAXED);
	return false;
}

static bool poll_slot(const struct lh_sys *sys, struct lh_ring_client *client,
                      const struct lh_ring_slot *slot)
{
	unsigned i;

	if (worth_spinning(client->ring))
		for (i = 0; i < SPINS; i++) {
			if (answered(slot))
				return true;
			lh__ring_pause();
		}
	for (i = 0; i < YIELDS && !answered(slot) && yield(sys, client);)
		i++;
	return answered(slot);
}

static unsigned limit_of(const struct lh_ring_client *client)
{
	return __atomic_load_n(&client->limit_ms, __ATOMIC_RELAXED);
}

/*
 * Before sleeping, and after: the node may have ended without answering. 0, or why there is no use in
 * waiting.
 */
static int check_node(const struct lh_sys *sys, const struct lh_ring_client *client,
                      const struct lh_ring_slot *slot, uint64_t since)
{
	if (__atomic_load_n(&client->dead, __ATOMIC_RELAXED) || node_ended(sys, client))
		return answered(slot) ? 0 : -ECONNRESET;
	return lh__clock_ms(sys) - since < limit_of(client) || answered(slot) ? 0 : -ETIMEDOUT;
}

static int await(const struct lh_sys *sys, struct lh_ring_client *client, struct lh_ring_slot *slot)
{
	unsigned slice = limit_of(client) < SLICE_MS ? limit_of(client) : SLICE_MS;
	uint64_t since;
	int error = 0;

	if (poll_slot(sys, client, slot))
		return 0;
	since = lh__clock_ms(sys);
	while (error == 0) {
		uint32_t state = LH_RING_ASKED;

		__atomic_compare_exchange_n(&slot->state, &state, LH_RING_AWAITED, false, __ATOMIC_ACQ_REL,
		                            __ATOMIC_ACQUIRE);
		if (state == LH_RING_ANSWERED)
			break;
		if (state != LH_RING_ASKED && state != LH_RING_AWAITED)
			return -EPROTO;
		error = check_node(sys, client, slot, since);
		if (error == 0)
			lh__shared_wait(sys, &slot->state, LH_RING_AWAITED, slice);
	}
	return error;
}

/*
 * Reads an answer in place: the size once. A node that changes it meanwhile could as well have written
 * something else at first: content is its word in any case, and lh__wire_reply_read reads lengths once only.
 */
static int read_in_place(const struct lh_ring_slot *slot, uint64_t sequence, uint64_t page, lh_mask want,
                         void *data, lh_mask *held, int *result)
{
	long size = lh__wire_size(slot->message, sizeof slot->message);
	struct lh_wire_answer answer;

	if (size <= 0 || lh__wire_reply_read(slot->message, (size_t)size, LH_WIRE_GET, sequence, page, want,
	                                     data, &answer) < 0)
		return -EPROTO;
	*held = answer.held;
	*result = answer.result;
	return 0;
}

/* On an error the slot stays claimed: the ring is not used again. */
int lh__ring_fetch(const struct lh_sys *sys, struct lh_ring_client *client, uint64_t page, lh_mask want,
                   void *data, lh_mask *held, int *result, const struct lh_meanwhile *meanwhile)
{
	int error, index = claim(sys, client);
	struct lh_ring_slot *slot;
	uint64_t sequence;

	if (index < 0)
		return index;
	slot = &client->ring->slot[index];
	sequence = ++client->sequence[index];
	lh__wire_request_write(slot->message, LH_WIRE_GET, sequence, page, want, NULL);
	__atomic_store_n(&slot->state, LH_RING_ASKED, __ATOMIC_RELEASE);
	__atomic_store_n(&client->ring->client_cpu, lh__ring_cpu(), __ATOMIC_RELAXED);
	__atomic_fetch_or(&client->ring->asked, UINT64_C(1) << index, __ATOMIC_SEQ_CST);
	lh__ring_knock(sys, client->ring);
	lh__meanwhile(meanwhile);
	error = await(sys, client, slot);
	if (error == 0)
		error = read_in_place(slot, sequence, page, want, data, held, result);
	if (error == 0)
		give_back(sys, client, (unsigned)index);
	return error;
}

static struct lh_ring_slot *bulk_slot(const struct lh_ring_client *client, uint64_t number)
{
	return &client->ring->slot[LH_RING_FETCH + number % LH_RING_BULK];
}

bool lh__ring_place(struct lh_ring_client *client, const uint8_t *message, size_t size)
{
	if (client->head - client->tail == LH_RING_BULK)
		return false;
	memcpy(bulk_slot(client, client->head++)->message, message, size);
	return true;
}

void lh__ring_publish(const struct lh_sys *sys, struct lh_ring_client *client)
{
	__atomic_store_n(&client->ring->client_cpu, lh__ring_cpu(), __ATOMIC_RELAXED);
	__atomic_store_n(&client->ring->head, client->head, __ATOMIC_SEQ_CST);
	lh__ring_knock(sys, client->ring);
}

int lh__ring_answer(struct lh_ring_client *client, const uint8_t **message)
{
	uint64_t tail = __atomic_load_n(&client->ring->tail, __ATOMIC_ACQUIRE);

	if (tail - client->tail > client->head - client->tail)
		return -EPROTO;
	*message = bulk_slot(client, client->tail)->message;
	return tail != client->tail;
}

void lh__ring_taken(struct lh_ring_client *client)
{
	client->tail++;
}

static bool bulk_moved(const struct lh_ring_client *client)
{
	return __atomic_load_n(&client->ring->tail, __ATOMIC_SEQ_CST) != client->tail;
}

static bool poll_bulk(const struct lh_sys *sys, struct lh_ring_client *client)
{
	unsigned i;

	if (worth_spinning(client->ring))
		for (i = 0; i < SPINS && !bulk_moved(client); i++)
			lh__ring_pause();
	for (i = 0; i < YIELDS && !bulk_moved(client) && yield(sys, client);)
		i++;
	return bulk_moved(client);
}

/* The futex is the low half of tail: it changes with every answer. */
int lh__ring_wait(const struct lh_sys *sys, struct lh_ring_client *client, unsigned ms)
{
	struct lh_ring *ring = client->ring;

	if (ms == 0 || poll_bulk(sys, client))
		return 0;
	if (node_ended(sys, client))
		return bulk_moved(client) ? 0 : -ECONNRESET;
	__atomic_store_n(&ring->bulk_waits, 1, __ATOMIC_SEQ_CST);
	if (!bulk_moved(client))
		lh__shared_wait(sys, (uint32_t *)&ring->tail, (uint32_t)client->tail,
		                ms < SLICE_MS ? ms : SLICE_MS);
	__atomic_store_n(&ring->bulk_waits, 0, __ATOMIC_SEQ_CST);
	return 0;
}
