/*
 * ring_client.h - the client's side of the ring (ring.h): fetches by any number of threads, and the bulk
 * lane. -ECONNRESET, -ETIMEDOUT and -EPROTO are as in stream.h.
 */
#ifndef LH_NET_DATA_RING_CLIENT_H
#define LH_NET_DATA_RING_CLIENT_H

#include "net/data/ring.h"
#include "sys/meanwhile.h"

struct lh_ring_client {
	struct lh_ring *ring;
	int fd;                 /* the socket that ends when the node ends */
	unsigned limit_ms;      /* no answer for this long: the node hangs */
	bool dead;              /* set to make every thread leave */
	uint64_t busy_until_ns; /* until then this CPU is taken for wanted by others: nobody yields */
	uint64_t claimed;       /* fetch slots in use, one bit each */
	uint32_t crowd;         /* futex: threads that wait for a slot sleep on it */
	uint64_t sequence[LH_RING_FETCH];
	uint64_t head, tail; /* this side's own counters of the bulk lane */
};

/* Maps the ring; fd and memfd stay the caller's. */
int lh__ring_client_begin(const struct lh_sys *sys, struct lh_ring_client *client, int fd, int memfd,
                          unsigned limit_ms) LH_MUST_CHECK;
void lh__ring_client_end(const struct lh_sys *sys, struct lh_ring_client *client);

/* One page; any number of threads at once. As lh__fetch. */
int lh__ring_fetch(const struct lh_sys *sys, struct lh_ring_client *client, uint64_t page, lh_mask want,
                   void *data, lh_mask *held, int *result,
                   const struct lh_meanwhile *meanwhile) LH_MUST_CHECK;

/* The bulk lane, one thread. Places a message; false where the lane is full. */
bool lh__ring_place(struct lh_ring_client *client, const uint8_t *message, size_t size);
/* Makes what was placed visible to the node. */
void lh__ring_publish(const struct lh_sys *sys, struct lh_ring_client *client);
/* The next answer's bytes: 1 and *message; 0 none yet; -EPROTO. lh__ring_taken gives the slot back. */
int lh__ring_answer(struct lh_ring_client *client, const uint8_t **message) LH_MUST_CHECK;
void lh__ring_taken(struct lh_ring_client *client);
/* Waits up to ms for an answer. 0, or -ECONNRESET where the node has ended. */
int lh__ring_wait(const struct lh_sys *sys, struct lh_ring_client *client, unsigned ms) LH_MUST_CHECK;

#endif
