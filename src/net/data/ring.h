/*
 * ring.h - messages through shared memory, between a client and a node on one machine.
 *
 * The node makes a sealed memfd of LH_RING_SIZE bytes and passes it over the Unix socket; that socket then
 * carries nothing, it only ends when one side does. Two lanes share the memory:
 *
 *   fetch  LH_RING_FETCH slots, each on its own: a thread claims a slot (in the client's private memory),
 *          writes a request there, sets state to ASKED and the slot's bit in `asked`; the node takes all bits
 *          at once, answers in place and sets state to ANSWERED. No thread waits for another.
 *   bulk   LH_RING_BULK slots used in turn: the client fills slots and moves `head`, the node answers in
 *          place and moves `tail`. One client thread.
 *
 * The node looks at the fetch lane before every bulk message, so a fetch waits for one bulk message at most.
 *
 * Sleeping. Each side polls for a while and then sleeps on a futex; the other wakes it only if it sleeps:
 *   node    writes ASLEEP to `node`, looks again, sleeps; a client that has published work changes ASLEEP
 *           back to AWAKE and wakes.
 *   client  changes its slot's ASKED to AWAITED (bulk: sets `bulk_waits`, looks again) and sleeps.
 *
 * Neither side trusts the other: the node copies a message before it looks at it, keeps its own counters
 * and checks sequence numbers, and each side treats an impossible value as the end of the connection.
 *
 *   offset    0  magic, version, slot counts, stride, size (written by the node, checked by the client)
 *            64  node's state and CPU          128  asked          192  head
 *           256  tail, bulk_waits              4096 the fetch slots, then the bulk slots
 *   slot      0  state, 64 message
 */
#ifndef LH_NET_DATA_RING_H
#define LH_NET_DATA_RING_H

#include "net/data/wire.h"

#define LH_RING_MAGIC UINT64_C(0x474e4952454e494c) /* "LINERING" */
#define LH_RING_FETCH 64u
#define LH_RING_BULK 128u
#define LH_RING_STRIDE 4352u
#define LH_RING_SIZE (4096u + (LH_RING_FETCH + LH_RING_BULK) * LH_RING_STRIDE)
#define LH_RING_ROOM (LH_RING_STRIDE - 64u)

enum lh_ring_node { LH_RING_AWAKE = 0, LH_RING_ASLEEP = 1 };
enum lh_ring_state { LH_RING_IDLE = 0, LH_RING_ASKED = 1, LH_RING_AWAITED = 2, LH_RING_ANSWERED = 3 };

struct lh_ring_slot {
	uint32_t state __attribute__((aligned(64)));
	uint8_t message[LH_RING_ROOM] __attribute__((aligned(64)));
};

struct lh_ring {
	uint64_t magic;
	uint32_t version, fetch_slots, bulk_slots, stride, size;
	uint32_t node __attribute__((aligned(64))); /* futex */
	uint32_t cpu;                               /* where the node polls; a hint */
	uint64_t asked __attribute__((aligned(64)));
	uint32_t client_cpu; /* where a client asked last; a hint */
	uint64_t head __attribute__((aligned(64)));
	uint64_t tail __attribute__((aligned(64))); /* the low half is a futex */
	uint32_t bulk_waits;
	struct lh_ring_slot slot[LH_RING_FETCH + LH_RING_BULK] __attribute__((aligned(4096)));
};

/*
 * A yield that takes so long gave the CPU to somebody with work of his own; for so long nobody yields after
 * it.
 */
#define LH_RING_LONG_NS 300000u
#define LH_RING_BUSY_NS 100000000u

static inline void lh__ring_pause(void)
{
	__builtin_ia32_pause();
}
/* The CPU this thread runs on, without a system call (RDPID's older sibling reads the same register). */
unsigned lh__ring_cpu(void);

/* Maps a ring that the node has made, having checked its seals, size and head. */
int lh__ring_map(const struct lh_sys *sys, int fd, struct lh_ring **out) LH_MUST_CHECK;
/* Maps without looking: the node's own. */
int lh__ring_map_own(const struct lh_sys *sys, int fd, struct lh_ring **out) LH_MUST_CHECK;
void lh__ring_unmap(const struct lh_sys *sys, struct lh_ring *ring);

/*
 * Wakes the node if it sleeps; call after publishing work, sequentially consistent as all of the sleeping is.
 */
void lh__ring_knock(const struct lh_sys *sys, struct lh_ring *ring);

#endif
