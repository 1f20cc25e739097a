/* ring.c - what both sides of the ring need; see ring.h. */
#include "net/data/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <x86intrin.h>

#include "net/data/clock.h"

_Static_assert(sizeof(struct lh_ring_slot) == LH_RING_STRIDE, "a slot is a stride");
_Static_assert(sizeof(struct lh_ring) == LH_RING_SIZE, "the ring is as drawn");
_Static_assert(LH_RING_ROOM >= LH_WIRE_MESSAGE_MAX, "every message fits a slot");

/* Linux keeps the number of the CPU in the low 12 bits of what RDTSCP returns beside the time. */
unsigned lh__ring_cpu(void)
{
	unsigned cpu;

	__rdtscp(&cpu);
	return cpu & 0xfff;
}

int lh__ring_map_own(const struct lh_sys *sys, int fd, struct lh_ring **out)
{
	long at = LH_SYS(sys, SYS_mmap, 0, LH_RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at < 0 && at > -4096)
		return (int)at;
	*out = (struct lh_ring *)at;
	return 0;
}

/* Sealed: the node cannot shrink the file under this process, which would be a SIGBUS. */
static int check_file(const struct lh_sys *sys, int fd)
{
	struct stat file;
	long seals = LH_SYS(sys, SYS_fcntl, fd, F_GET_SEALS);
	long result = LH_SYS(sys, SYS_fstat, fd, &file);

	if (seals < 0 || result < 0)
		return (int)(seals < 0 ? seals : result);
	return (seals & F_SEAL_SHRINK) && file.st_size == LH_RING_SIZE ? 0 : -EPROTO;
}

int lh__ring_map(const struct lh_sys *sys, int fd, struct lh_ring **out)
{
	struct lh_ring *ring;
	int result = check_file(sys, fd);

	if (result == 0)
		result = lh__ring_map_own(sys, fd, &ring);
	if (result != 0)
		return result;
	if (ring->magic != LH_RING_MAGIC || ring->version != LH_WIRE_VERSION ||
	    ring->fetch_slots != LH_RING_FETCH || ring->bulk_slots != LH_RING_BULK ||
	    ring->stride != LH_RING_STRIDE || ring->size != LH_RING_SIZE) {
		lh__ring_unmap(sys, ring);
		return -EPROTO;
	}
	*out = ring;
	return 0;
}

void lh__ring_unmap(const struct lh_sys *sys, struct lh_ring *ring)
{
	if (ring)
		LH_SYS(sys, SYS_munmap, ring, LH_RING_SIZE);
}

void lh__ring_knock(const struct lh_sys *sys, struct lh_ring *ring)
{
	if (__atomic_load_n(&ring->node, __ATOMIC_SEQ_CST) == LH_RING_ASLEEP &&
	    __atomic_exchange_n(&ring->node, LH_RING_AWAKE, __ATOMIC_SEQ_CST) == LH_RING_ASLEEP)
		lh__shared_wake(sys, &ring->node);
}
