/*
 * memory.c - the agent's own memory: mapped from the kernel, with an inaccessible page at each end so that it
 * never becomes part of a mapping of the program's, and noted as excluded so that it is never watched.
 *
 * Small pieces are cut from chunks and never given back: they are few, and live as long as the process.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "service/run/agent/agent.h"

#define CHUNK ((size_t)4 << 20)
#define LARGE ((size_t)256 << 10)
#define GUARD ((size_t)LH_PAGE_SIZE)

static struct {
	struct lh_lock lock;
	uintptr_t next, end;
} chunk; /* of the process, as the agent is; see agent.h */

static size_t round_up(size_t size, size_t to)
{
	return (size + to - 1) / to * to;
}

static uintptr_t map_guarded(struct lh_agent *agent, size_t size)
{
	long base = lh__raw_syscall(SYS_mmap, 0, (long)(size + 2 * GUARD), PROT_NONE,
	                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t inner = (uintptr_t)base + GUARD;

	if (base < 0 && base > -4096)
		return 0;
	if (lh__raw_syscall(SYS_mprotect, (long)inner, (long)size, PROT_READ | PROT_WRITE, 0, 0, 0) == 0 &&
	    lh__exclude(agent, (uintptr_t)base, (uintptr_t)base + size + 2 * GUARD) == 0)
		return inner;
	lh__raw_syscall(SYS_munmap, base, (long)(size + 2 * GUARD), 0, 0, 0, 0);
	return 0;
}

static void unmap_guarded(struct lh_agent *agent, uintptr_t inner, size_t size)
{
	lh__include(agent, inner - GUARD, inner + size + GUARD);
	lh__raw_syscall(SYS_munmap, (long)(inner - GUARD), (long)(size + 2 * GUARD), 0, 0, 0, 0);
}

static void *cut(struct lh_agent *agent, size_t size)
{
	void *piece = NULL;

	lh__lock(&agent->sys, &chunk.lock);
	if (chunk.end - chunk.next < size) {
		chunk.next = map_guarded(agent, CHUNK);
		chunk.end = chunk.next ? chunk.next + CHUNK : 0;
	}
	if (chunk.end - chunk.next >= size) {
		piece = (void *)chunk.next;
		chunk.next += size;
	}
	lh__unlock(&agent->sys, &chunk.lock);
	return piece;
}

static void *agent_alloc(void *context, size_t size)
{
	if (size > SIZE_MAX / 2)
		return NULL;
	if (size >= LARGE)
		return (void *)map_guarded(context, round_up(size, LH_PAGE_SIZE));
	return cut(context, round_up(size ? size : 1, 64));
}

static void agent_free(void *context, void *pointer, size_t size)
{
	if (pointer && size >= LARGE)
		unmap_guarded(context, (uintptr_t)pointer, round_up(size, LH_PAGE_SIZE));
}

static long agent_call(void *context, long nr, const long a[6])
{
	long result = lh__raw_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);

	/* The home reserves its staging range and tables itself: they are the agent's too. */
	if (nr == SYS_mmap && a[4] == -1 && (result > 0 || result < -4095) &&
	    lh__exclude(context, (uintptr_t)result,
	                (uintptr_t)result + round_up((size_t)a[1], LH_PAGE_SIZE)) < 0)
		return -ENOMEM;
	if (nr == SYS_munmap && result == 0)
		lh__include(context, (uintptr_t)a[0], (uintptr_t)a[0] + round_up((size_t)a[1], LH_PAGE_SIZE));
	return result;
}

void lh__agent_memory(struct lh_agent *agent)
{
	agent->excluded = (struct lh_ranges){ .at = agent->excluded_at, .capacity = LH_EXCLUDED_MAX };
	agent->sys = (struct lh_sys){ .context = agent,
		                      .call = agent_call,
		                      .alloc = agent_alloc,
		                      .free = agent_free,
		                      .now = lh__clock };
}

void lh__agent_memory_in_child(void)
{
	chunk.lock.word = 0;
}

/* ---- excluded ranges ---- */

/* Not through agent->sys, which comes here itself. */
static void lock_excluded(struct lh_agent *agent)
{
	while (!lh__trylock(&agent->excluded_lock))
		lh__raw_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

static void unlock_excluded(struct lh_agent *agent)
{
	__atomic_store_n(&agent->excluded_lock.word, 0, __ATOMIC_RELEASE);
}

int lh__exclude(struct lh_agent *agent, uintptr_t start, uintptr_t end)
{
	int result;

	lock_excluded(agent);
	result = lh__ranges_add(&agent->excluded, start, end);
	unlock_excluded(agent);
	return result;
}

static size_t total(const struct lh_ranges *ranges)
{
	size_t bytes = 0;

	for (size_t i = 0; i < ranges->count; i++)
		bytes += ranges->at[i].end - ranges->at[i].start;
	return bytes;
}

size_t lh__include(struct lh_agent *agent, uintptr_t start, uintptr_t end)
{
	size_t bytes = 0;

	lock_excluded(agent);
	if (lh__ranges_touch(&agent->excluded, start, end)) {
		bytes = total(&agent->excluded);
		lh__ranges_remove(&agent->excluded, start, end);
		bytes -= total(&agent->excluded);
	}
	unlock_excluded(agent);
	return bytes;
}

uintptr_t lh__included(struct lh_agent *agent, uintptr_t *start, uintptr_t end)
{
	uintptr_t stop;

	lock_excluded(agent);
	stop = lh__ranges_gap(&agent->excluded, start, end);
	unlock_excluded(agent);
	return stop;
}
