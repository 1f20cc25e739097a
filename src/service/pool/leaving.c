/*
 * leaving.c - how a translated transaction ends where nobody ends it, and what else its thread does that is
 * no store: system calls, longjmp, exceptions (frames.h, calls.h).
 *
 * What is asked here runs between two of the program's instructions, natively, on a stack of the
 * translator's.
 */
#include <errno.h>
#include <sys/uio.h>

#include "linehome/atomic.h"
#include "service/pool/calls.h"
#include "service/pool/translated_inside.h"

/* Of the process, as its translator is. */
static struct lh_frames_places places;
static struct lh_calls calls;

static long call3(long number, long a, long b, long c)
{
	return lh__raw_syscall(number, a, b, c, 0, 0, 0);
}

/* ---- longjmp and the like */

#define STACK_PAGES 16384u /* farther than that another stack begins */
#define PROBED 64u         /* pages at a time */

/* Whether all memory between two stack pointers is there: else they are on different stacks. */
static bool is_one_stack(uint64_t low, uint64_t high)
{
	uint64_t page = low / LH_PAGE_SIZE, last = high / LH_PAGE_SIZE;

	if (last - page > STACK_PAGES)
		return false;
	while (page <= last) {
		struct iovec theirs[PROBED], mine;
		char bytes[PROBED];
		long n = 0;

		for (; n < (long)PROBED && page <= last; n++, page++)
			theirs[n] = (struct iovec){ (void *)(uintptr_t)(page * LH_PAGE_SIZE), 1 };
		mine = (struct iovec){ bytes, (size_t)n };
		if (lh__raw_syscall(SYS_process_vm_readv, call3(SYS_getpid, 0, 0, 0), (long)&mine, 1,
		                    (long)theirs, n, 0) != n)
			return false;
	}
	return true;
}

/* The stack pointer is above the mark: unless it is that of another stack, the marked function is left. */
static void moves(void *context, uint64_t stack_pointer, uint64_t next)
{
	struct lh_translated_own *own = context;

	(void)next;
	if (is_one_stack(own->frames.start, stack_pointer))
		lh__translated_drop();
}

static void jumps(void *context, uint64_t buffer, uint64_t next)
{
	struct lh_translated_own *own = context;

	(void)next;
	if (lh__frames_leads_out(&own->frames, buffer))
		lh__translated_drop();
}

static void see_block(void *context, struct lh_emitter *emitter, uint64_t address, unsigned instructions,
                      const struct lh_translated_instruction *instruction)
{
	(void)context;
	(void)instructions;
	(void)instruction;
	lh__frames_block(&places, emitter, address);
}

static void see_after(void *context, struct lh_emitter *emitter,
                      const struct lh_translated_instruction *instruction)
{
	(void)context;
	lh__frames_after(&places, emitter, instruction);
}

/* ---- system calls */

/* What a call reads or writes of one pool. */
static void reach_pool(struct lh_translated_own *own, struct lh_pool *pool, uint64_t address, uint64_t end,
                       bool written)
{
	uint64_t base = (uintptr_t)pool->base;
	uint64_t from = address > base ? address : base;
	uint64_t to = end < base + pool->size ? end : base + pool->size;

	if (from >= to)
		return;
	if (written)
		lh__translated_save(own, from, to - from);
	else
		/* What cannot be loaded the kernel will say. */
		(void)!lh__memory_load(pool, (from - base) / LH_PAGE_SIZE,
		                       (to - 1 - base) / LH_PAGE_SIZE - (from - base) / LH_PAGE_SIZE + 1);
}

/* The call may be about anything, also where another thread is closing a pool that this one is inside of. */
static void reach(uint64_t address, uint64_t size, bool written)
{
	struct lh_translated_own *own = lh__translated_own();
	uint64_t end = address + size < address ? UINT64_MAX : address + size;

	for (unsigned i = 0; i < own->pools; i++) {
		struct lh_pool *pool;

		if (address >= own->known[i].end || end <= own->known[i].base)
			continue;
		pool = lh__translated_hold(own, i);
		if (!pool)
			continue;
		reach_pool(own, pool, address, end, written);
		lh__translated_let_go(own, i);
	}
}

static void abort_all(struct lh_translated_own *own)
{
	for (unsigned i = 0; i < own->pools; i++) {
		struct lh_pool *pool = lh__translated_hold(own, i);

		if (!pool)
			continue;
		pool->aborted = true;
		lh__translated_let_go(own, i);
	}
}

static bool see_call(void *context, void *bytes, struct lh_translate_call *call)
{
	const struct lh_translated_options *options = lh__translated_options();
	struct lh_translated_own *own = bytes;

	(void)context;
	calls.policy = options->calls;
	calls.say = options->say;
	/* A child of vfork has its parent's memory, and no part in its transaction. */
	if (own->frames.thread != call3(SYS_gettid, 0, 0, 0))
		return false;
	switch (lh__calls_see(&calls, call)) {
	case LH_CALL_ENDS_THREAD: lh__translated_drop(); return false;
	case LH_CALL_IS_REFUSED: abort_all(own); return true;
	default: return false;
	}
}

/* ---- for others */

void lh__leaving_prepare(struct lh_translate_client *client)
{
	const struct lh_translated_options *options = lh__translated_options();

	lh__frames_find(&places);
	places.offset = offsetof(struct lh_translated_own, frames);
	places.jumps = jumps;
	places.moves = moves;
	calls.reach = reach;
	client->block = see_block;
	client->call = see_call;
	if (!options->returned)
		return;
	client->after = see_after;
	client->returned = options->returned;
	client->returned_offset = places.offset + offsetof(struct lh_frames, minus);
}

struct lh_frames *lh__translated_frames(void)
{
	struct lh_translated_own *own = lh__translated_own();

	return own ? &own->frames : NULL;
}

int lh__translated_settle(uint64_t stack_pointer)
{
	const struct lh_translated_own *own = lh__translated_own();

	if (!own || own->pools == 0)
		return 0;
	if (lh__translate_is_here())
		return 1;
	if (!lh__frames_stale(&own->frames, stack_pointer))
		return -EBUSY;
	lh__translated_drop();
	return 0;
}

int lh__translated_commit(void)
{
	int result = lh__atomic_end(NULL);

	return result == -E2BIG ? -ENOSPC : result;
}

void lh__translated_drop(void)
{
	struct lh_translated_own *own = lh__translated_own();

	while (lh__atomic_abort(NULL) >= 0)
		;
	lh__translated_thread_ends(own);
	lh__frames_clear(&own->frames);
}
