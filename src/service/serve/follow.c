/* follow.c - see follow.h. */
#include "service/serve/follow.h"

#include <string.h>
#include <sys/socket.h>

#include "net/socket.h"
#include "sys/slice.h"
#include "sys/sys.h"

#define SELF_BITS 24
#define SELF_MASK 0xffffffu
#define STRAYS 1u /* looks of a window that may differ from the others */

static unsigned strays_from(const struct lh_follow *follow, unsigned place)
{
	unsigned i, strays = 0;

	for (i = 0; i < LH_FOLLOW_WINDOW; i++)
		strays += follow->seen[i] != place;
	return strays;
}

/* What nearly all looks of the window say is said by one of the first STRAYS + 1. */
static bool agreed(const struct lh_follow *follow, unsigned *place)
{
	unsigned i;

	for (i = 0; i <= STRAYS; i++) {
		*place = follow->seen[i];
		if (strays_from(follow, *place) <= STRAYS)
			return true;
	}
	return false;
}

unsigned lh__follow_look(struct lh_follow *follow, unsigned fits)
{
	follow->seen[follow->looks++] = fits;
	if (follow->looks < LH_FOLLOW_WINDOW)
		return follow->place;
	follow->looks = 0;
	if (agreed(follow, &fits)) {
		follow->place = fits;
		follow->doubts = 0;
	} else if (++follow->doubts == 2) {
		follow->place = LH_ANYWHERE;
		follow->doubts = 0;
	}
	return follow->place;
}

bool lh__follow_claim(struct lh_places *places, unsigned place, uint32_t self, uint64_t now_ms)
{
	unsigned cpu = (place & ~LH_APART) % LH_FOLLOW_CPUS;
	uint64_t *word = place & LH_APART ? &places->apart[cpu] : &places->with[cpu];
	uint64_t claim = now_ms << SELF_BITS | self, seen;

	if (place == LH_ANYWHERE)
		return true;
	seen = __atomic_load_n(word, __ATOMIC_RELAXED);
	if (seen == claim)
		return true;
	if ((seen & SELF_MASK) != self && seen != 0 && now_ms < (seen >> SELF_BITS) + LH_FOLLOW_STALE_MS)
		return false;
	return __atomic_compare_exchange_n(word, &seen, claim, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

void lh__follow_cpus(unsigned place, const cpu_set_t *allowed, cpu_set_t *cpus)
{
	unsigned cpu = place & ~LH_APART;

	*cpus = *allowed;
	if (place == LH_ANYWHERE || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, allowed) || CPU_COUNT(allowed) == 1)
		return;
	if (place & LH_APART) {
		CPU_CLR(cpu, cpus);
		return;
	}
	CPU_ZERO(cpus);
	CPU_SET(cpu, cpus);
}

/* On loopback the CPU that a packet arrives on is the one that it was sent from. */
static unsigned sender(int fd)
{
	int cpu;
	socklen_t size = sizeof cpu;

	if (getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &size) != 0 || cpu < 0)
		return LH_ANYWHERE;
	return (unsigned)cpu;
}

/* Where it cannot go it stays. */
static void go(const struct lh_follow *follow)
{
	cpu_set_t cpus;

	lh__follow_cpus(follow->place, &follow->allowed, &cpus);
	(void)sched_setaffinity(0, sizeof cpus, &cpus);
}

/* Its policy and nice value stay. */
void lh__serve_promptly(void)
{
	const struct lh_sys *sys = &lh__sys_default;
	struct lh_sched schedule = { 0 };

	if (LH_SYS(sys, SYS_sched_getattr, 0, &schedule, sizeof schedule, 0) < 0 ||
	    schedule.policy != SCHED_OTHER)
		return;
	schedule.runtime = LH_SLICE_NS;
	LH_SYS(sys, SYS_sched_setattr, 0, &schedule, 0);
}

void lh__follow_begin(struct lh_follow *follow, struct lh_places *places, int fd)
{
	memset(follow, 0, sizeof *follow);
	follow->place = LH_ANYWHERE;
	if (!lh__socket_is_local(fd) || sender(fd) == LH_ANYWHERE ||
	    sched_getaffinity(0, sizeof follow->allowed, &follow->allowed) != 0)
		return;
	follow->places = places;
	follow->self = __atomic_add_fetch(&places->threads, 1, __ATOMIC_RELAXED) % SELF_MASK + 1;
	lh__serve_promptly();
}

static unsigned fitting(const struct lh_follow *follow, int fd, bool single)
{
	unsigned place = sender(fd);

	if (place != LH_ANYWHERE && !single)
		place |= LH_APART;
	return lh__follow_claim(follow->places, place, follow->self, lh__net_now_ms()) ? place : LH_ANYWHERE;
}

void lh__follow_received(struct lh_follow *follow, int fd, bool single)
{
	unsigned before = follow->place;

	if (!follow->places || ++follow->receives < LH_FOLLOW_EVERY)
		return;
	follow->receives = 0;
	if (lh__follow_look(follow, fitting(follow, fd, single)) != before)
		go(follow);
}
