/*
 * engine.c - a process changes its engine, from inline to thread, while it runs.
 *
 * Why: a ring of io_uring makes the kernel use the program's memory when no call is under way, in threads of
 * its own that no signal reaches. Only the thread engine serves those. So a process goes on with that one
 * from its first ring on, and its children with it; a program that it executes begins anew.
 *
 * How: the home stands still, so no page comes or goes. Then range by range, what is absent and has a content
 * is hidden, the range is handed over to a userfaultfd without SIGBUS, and what was hidden is shown again
 * (port/page/page.h). Other threads run on meanwhile:
 *
 *     touches what is present           nothing happens, in user mode and in system calls
 *     touches what is absent, watched   SIGBUS, whose handler waits at the home's gate
 *     touches what is hidden            SIGSEGV, which waits at the gate as well: lh__engine_hid
 *     either in a system call           EFAULT, which buffers.c makes good, as ever: its touch waits as above
 *     touches what nothing is known of  as before; or, in the moment without a watch, the kernel gives a page
 *                                       of zeroes, which is right, and which is found by the next scan
 *
 * A fault that was taken in between may be answered after: lh__home_miss finds the page as it is, whatever
 * the engine.
 *
 * A process that could not change (the user may not handle faults of the kernel; a kernel before Linux 6.13)
 * is as it was, and is not tried again.
 */
#include <errno.h>
#include <signal.h>

#include "service/run/agent/agent.h"

/* ---- one range ---- */

static int hide(void *context, uintptr_t start, uintptr_t end)
{
	struct lh_agent *agent = context;

	return lh__page_hide(agent->port, start, end - start);
}

/* Of a run that was not hidden, nothing changes. */
static int show(void *context, uintptr_t start, uintptr_t end)
{
	struct lh_agent *agent = context;

	return lh__page_show(agent->port, start, end - start);
}

/* What stays hidden, or unwatched, would be lost. */
static void must(struct lh_agent *agent, bool done)
{
	if (!done)
		lh__agent_fail(agent, "the engine was changed in part only; the program was stopped");
}

static int hand_over(struct lh_agent *agent, uintptr_t start, uintptr_t end, bool back)
{
	int result = lh__home_each_absent(agent->home, start, end, hide, agent);

	if (result == 0)
		result = lh__page_change_range(agent->port, start, end - start, back);
	must(agent,
	     result != -ENOTRECOVERABLE && lh__home_each_absent(agent->home, start, end, show, agent) == 0);
	return result;
}

/* ---- all of them ---- */

struct passing {
	struct lh_agent *agent;
	uintptr_t failed; /* the start of the range at which it went wrong */
};

static int pass(void *context, uintptr_t start, uintptr_t end)
{
	struct passing *passing = context;

	passing->failed = start;
	return hand_over(passing->agent, start, end, false);
}

static int pass_back(void *context, uintptr_t start, uintptr_t end)
{
	struct passing *passing = context;

	if (start == passing->failed)
		return 1;
	must(passing->agent, hand_over(passing->agent, start, end, true) == 0);
	return 0;
}

static int pass_all(struct lh_agent *agent)
{
	struct passing passing = { agent, 0 };
	int result = lh__home_each_watched(agent->home, pass, &passing);

	if (result < 0)
		must(agent, lh__home_each_watched(agent->home, pass_back, &passing) == 1);
	lh__page_change_end(agent->port, result == 0);
	return result;
}

/* From here on little needs to be done with buffers: fewer calls need to be seen. */
static void go_on_with_thread(struct lh_agent *agent)
{
	uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64] = { 0 };

	lh__home_lend(agent->home);
	__atomic_store_n(&agent->engine, LH_ENGINE_THREAD, __ATOMIC_RELEASE);
	lh__space_want(bitmap);
	lh__descriptors_want(bitmap);
	lh__buffers_want(bitmap, false);
	lh__intercept_want(bitmap);
	lh__count(&agent->control->engine_changes, 1);
}

static int change_standing_still(struct lh_agent *agent)
{
	int result = lh__home_pause(agent->home);

	if (result < 0) {
		lh__page_change_end(agent->port, false);
		return result;
	}
	__atomic_store_n(&agent->changing, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&agent->has_hidden, true, __ATOMIC_SEQ_CST);
	result = pass_all(agent);
	if (result == 0)
		go_on_with_thread(agent);
	__atomic_store_n(&agent->changing, false, __ATOMIC_SEQ_CST);
	lh__home_resume(agent->home);
	return result;
}

static int change(struct lh_agent *agent)
{
	struct lh_error error;
	int result = lh__page_change_begin(agent->port, LH_ENGINE_THREAD, &error);

	if (result < 0)
		return result;
	result = lh__agent_pager(agent, LH_PAGER_WAITS);
	if (result < 0) {
		lh__page_change_end(agent->port, false);
		return result;
	}
	result = change_standing_still(agent);
	lh__agent_pager_told(agent, result == 0 ? LH_PAGER_WORKS : LH_PAGER_ENDS);
	return result;
}

/* A child of vfork, which shares this memory, has other descriptors, and threads that end with it. */
static bool is_guest(struct lh_agent *agent)
{
	return LH_SYS(&agent->sys, SYS_getpid) != agent->process;
}

int lh__engine_thread(struct lh_agent *agent)
{
	int result = -ENOSYS;

	if (__atomic_load_n(&agent->engine, __ATOMIC_ACQUIRE) == LH_ENGINE_THREAD)
		return 0;
	if (is_guest(agent))
		return result;
	lh__lock(&agent->sys, &agent->engine_lock);
	if (agent->engine == LH_ENGINE_THREAD)
		result = 0;
	else if (!agent->stays_inline)
		result = change(agent);
	agent->stays_inline = result < 0;
	lh__unlock(&agent->sys, &agent->engine_lock);
	return result;
}

/* ---- who touched what was hidden ---- */

/*
 * The change may have ended between the touch and this. That can be so once for each thread: what it touches
 * later it touches after the change. A program has no other SIGSEGV of this kind at a watched place, unless
 * it has put a guard there itself; then it gets it at the second try.
 */
static bool first_time(struct lh_agent *agent)
{
	int32_t tid = (int32_t)LH_SYS(&agent->sys, SYS_gettid);
	int32_t *slot = &agent->looked_again[(uint32_t)tid % LH_LOOKED_AGAIN];

	return __atomic_exchange_n(slot, tid, __ATOMIC_RELAXED) != tid;
}

bool lh__engine_hid(struct lh_agent *agent, const siginfo_t *info)
{
	uintptr_t address = (uintptr_t)info->si_addr;

	if (info->si_code != SEGV_MAPERR || !__atomic_load_n(&agent->has_hidden, __ATOMIC_ACQUIRE) ||
	    !lh__home_watches(agent->home, address, address + 1))
		return false;
	if (!__atomic_load_n(&agent->changing, __ATOMIC_SEQ_CST))
		return first_time(agent);
	/* Through the gate, when it opens again. */
	lh__home_change_begin(agent->home);
	lh__home_change_end(agent->home);
	return true;
}
