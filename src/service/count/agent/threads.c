/*
 * threads.c - places in the shared memory: one for each process, one for each thread while it lives.
 *
 * A thread's place is mapped where the translator has the thread's own bytes, by the same pages: what code
 * counts is in the shared memory at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "service/count/agent/agent.h"

#ifndef MREMAP_MAYMOVE
#define MREMAP_MAYMOVE 1
#define MREMAP_FIXED 2
#endif

int lh__count_process_begins(struct lh_count_agent *agent)
{
	struct lh_count_control *control = agent->control;
	uint32_t place = __atomic_fetch_add(&control->processes, 1, __ATOMIC_ACQ_REL);
	struct lh_count_process *process;

	if (place >= LH_COUNT_PROCESSES)
		return -ENOSPC;
	process = lh__count_process(control, place);
	process->pid = (int32_t)LH_SYS(&agent->sys, SYS_getpid);
	process->parent = (int32_t)LH_SYS(&agent->sys, SYS_getppid);
	process->modules = LH_COUNT_FIRST_FILE;
	LH_SYS(&agent->sys, SYS_readlinkat, AT_FDCWD, "/proc/self/exe", process->name,
	       sizeof(process->name) - 1);
	__atomic_store_n(&process->state, LH_COUNT_RUNS, __ATOMIC_RELEASE);
	agent->process = process;
	agent->place = place;
	return 0;
}

/* -1: all are taken. */
static int64_t take_place(struct lh_count_control *control)
{
	for (uint32_t word = 0; word < LH_COUNT_THREADS / 64; word++) {
		uint64_t taken = __atomic_load_n(&control->taken[word], __ATOMIC_ACQUIRE);

		while (~taken) {
			uint64_t bit = ~taken & (taken + 1);

			if (__atomic_compare_exchange_n(&control->taken[word], &taken, taken | bit, false,
			                                __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
				return (int64_t)word * 64 + __builtin_ctzll(bit);
		}
	}
	return -1;
}

void lh__count_thread_name(struct lh_count_agent *agent, struct lh_count_thread *thread)
{
	LH_SYS(&agent->sys, SYS_prctl, PR_GET_NAME, thread->name);
}

/* Without a place the thread's bytes stay what they are, and are lost with it. */
void lh__count_thread_begins(struct lh_count_agent *agent, void *own, int tid)
{
	int64_t place = take_place(agent->control);
	struct lh_count_thread *thread = own, *live;

	if (place < 0) {
		__atomic_fetch_add(&agent->control->lost_threads, 1, __ATOMIC_RELAXED);
		return;
	}
	live = lh__count_live(agent->control, (uint32_t)place);
	live->process = agent->place;
	live->place = (uint32_t)place;
	live->tid = tid;
	lh__count_thread_name(agent, live);
	__atomic_store_n(&live->state, LH_COUNT_ALIVE, __ATOMIC_RELEASE);
	/* Of a shared mapping an old size of 0 makes a second one. */
	if (LH_SYS(&agent->sys, SYS_mremap, live, 0, sizeof(*live), MREMAP_MAYMOVE | MREMAP_FIXED, thread) <
	    0)
		__atomic_fetch_add(&agent->control->lost_threads, 1, __ATOMIC_RELAXED);
}

void lh__count_thread_ends(struct lh_count_agent *agent, void *own)
{
	struct lh_count_control *control = agent->control;
	struct lh_count_thread *thread = own, *live;
	uint32_t place = thread->place;

	if (thread->state != LH_COUNT_ALIVE)
		return;
	lh__count_thread_name(agent, thread);
	live = lh__count_live(control, place);
	lh__count_fold(agent->process, live);
	live->state = LH_COUNT_NO_THREAD;
	LH_SYS(&agent->sys, SYS_mmap, own, sizeof(*thread), PROT_READ | PROT_WRITE,
	       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
	LH_SYS(&agent->sys, SYS_madvise, live, LH_COUNT_LIVE_BYTES, MADV_REMOVE);
	__atomic_fetch_and(&control->taken[place / 64], ~(1ull << place % 64), __ATOMIC_RELEASE);
}
