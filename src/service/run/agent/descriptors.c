/*
 * descriptors.c - keeps the agent's descriptors out of the program's hands.
 *
 * They have the highest numbers that the process may use, and calls of the program that would close or
 * replace one are answered as if there were none. Programs do close what they have not opened: before they
 * become daemons, or between fork and exec.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "service/run/agent/agent.h"

#define ROOM 24

static const long wanted[] = { SYS_close, SYS_close_range, SYS_dup2, SYS_dup3 };

void lh__descriptors_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64])
{
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
		bitmap[wanted[i] / 64] |= UINT64_C(1) << wanted[i] % 64;
}

bool lh__descriptors_wanted(long nr)
{
	return nr == SYS_close || nr == SYS_close_range || nr == SYS_dup2 || nr == SYS_dup3;
}

static void find_floor(struct lh_agent *agent)
{
	struct rlimit limit = { 1024, 1024 };

	LH_SYS(&agent->sys, SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
	if (limit.rlim_cur > 1u << 20)
		limit.rlim_cur = 1u << 20;
	agent->descriptor_floor = limit.rlim_cur > 2 * ROOM ? (int)limit.rlim_cur - ROOM : 3;
}

int lh__descriptor_raise(struct lh_agent *agent, int descriptor)
{
	int raised;

	if (agent->descriptor_floor == 0)
		find_floor(agent);
	if (descriptor < 0 || descriptor >= agent->descriptor_floor)
		return descriptor;
	raised = (int)LH_SYS(&agent->sys, SYS_fcntl, descriptor, F_DUPFD_CLOEXEC, agent->descriptor_floor);
	if (raised < 0)
		return descriptor; /* no number left up there: less well hidden, but of use */
	LH_SYS(&agent->sys, SYS_close, descriptor);
	return raised;
}

static bool is_ours(const struct lh_agent *agent, unsigned descriptor)
{
	return descriptor >= (unsigned)agent->descriptor_floor &&
	       descriptor < (unsigned)agent->descriptor_floor + ROOM;
}

/* Closes what lies below and above the agent's numbers. */
static long close_range_around(struct lh_agent *agent, struct lh_trap *trap)
{
	unsigned first = (unsigned)trap->argument[0], last = (unsigned)trap->argument[1];
	unsigned ours = (unsigned)agent->descriptor_floor, end = ours + ROOM - 1;
	long result = 0;

	if (last < first || first > end || last < ours)
		return lh__intercept_proceed(trap);
	if (first < ours) {
		trap->argument[1] = (long)ours - 1;
		result = lh__intercept_proceed(trap);
	}
	if (result == 0 && last > end) {
		trap->argument[0] = (long)end + 1;
		trap->argument[1] = (long)last;
		result = lh__intercept_proceed(trap);
	}
	return result;
}

long lh__descriptors_call(struct lh_agent *agent, struct lh_trap *trap)
{
	bool replaces = trap->nr == SYS_dup2 || trap->nr == SYS_dup3;

	if (trap->nr == SYS_close_range)
		return close_range_around(agent, trap);
	if (is_ours(agent, (unsigned)trap->argument[replaces ? 1 : 0]))
		return -EBADF;
	return lh__intercept_proceed(trap);
}
