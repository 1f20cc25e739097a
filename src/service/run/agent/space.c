/*
 * space.c - follows the program's address space.
 *
 * What is homed: mappings that are anonymous and private and not executable, of whatever protection
 * (allocators reserve with PROT_NONE and open up later). What is not: the first thread's stack; stacks of
 * threads, which the kernel writes to behind everybody's back (signal frames, rseq, the word that wakes a
 * joiner); what the dynamic linker mapped before the program began, where the first thread's thread-local
 * storage is; small uninitialised data of libraries; and the agent's own memory.
 *
 * Calls that change mappings are made between lh__home_change_begin and _end. Where they touch watched memory
 * the pages in question are held meanwhile, so that no other thread sees a page that is gone but not
 * forgotten.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "service/run/agent/agent.h"
#include "service/run/agent/maps.h"

#define PAGE_MASK ((uintptr_t)LH_PAGE_SIZE - 1)
#define SMALL_DATA ((size_t)1 << 20)
#define BATCH 4096
#define HIGHEST ((uintptr_t)1 << 47)

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

static const long wanted[] = { SYS_mmap,       SYS_munmap,  SYS_mremap,   SYS_madvise,
	                       SYS_brk,        SYS_mlock,   SYS_mlock2,   SYS_mlockall,
	                       SYS_munlockall, SYS_munlock, SYS_mprotect, SYS_pkey_mprotect };

void lh__space_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64])
{
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
		bitmap[wanted[i] / 64] |= UINT64_C(1) << wanted[i] % 64;
}

bool lh__space_wanted(long nr)
{
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
		if (nr == wanted[i])
			return true;
	return false;
}

static uintptr_t round_up(uintptr_t address)
{
	return (address + PAGE_MASK) & ~PAGE_MASK;
}

static bool failed(long result)
{
	return result < 0 && result >= -4095;
}

/* ---- what is there before the program begins ---- */

struct begin {
	struct lh_agent *agent;
	uintptr_t thread_pointer;
	int result;
};

static bool is_anonymous(const struct lh_mapping *mapping)
{
	return mapping->inode == 0 && mapping->protection[3] == 'p' &&
	       (mapping->name[0] == 0 || strncmp(mapping->name, "[anon", 5) == 0 ||
	        strcmp(mapping->name, "[heap]") == 0);
}

/* Before main: everything anonymous except the heap, and except large uninitialised data of the program. */
static int exclude_early(void *context, const struct lh_mapping *mapping)
{
	struct begin *begin = context;
	bool small = mapping->end - mapping->start < SMALL_DATA;
	bool local_storage = mapping->start <= begin->thread_pointer && begin->thread_pointer < mapping->end;

	if (is_anonymous(mapping) && strcmp(mapping->name, "[heap]") != 0 && (small || local_storage))
		begin->result = lh__exclude(begin->agent, mapping->start, mapping->end);
	return begin->result;
}

int lh__space_begin(struct lh_agent *agent, struct lh_error *error)
{
	struct begin begin = { agent, 0, 0 };
	int result;

	LH_SYS(&agent->sys, SYS_arch_prctl, ARCH_GET_FS, &begin.thread_pointer);
	result = lh__maps_read(&agent->sys, exclude_early, &begin);

	agent->heap_end = (uintptr_t)LH_SYS(&agent->sys, SYS_brk, 0);
	return result < 0 ? lh__fail(error, result, "/proc/self/maps: %s", lh__errno_name(result)) : 0;
}

/* ---- activation ---- */

struct batch {
	size_t n;
	struct lh_range range[BATCH];
};

struct finding {
	struct lh_agent *agent;
	struct batch *batch;
	uintptr_t from;
};

static int find_homed(void *context, const struct lh_mapping *mapping)
{
	struct finding *finding = context;
	uintptr_t start = mapping->start > finding->from ? mapping->start : finding->from, end;

	if (!is_anonymous(mapping) || mapping->protection[2] == 'x')
		return 0;
	while ((end = lh__included(finding->agent, &start, mapping->end)) != 0) {
		if (finding->batch->n == BATCH)
			return 1;
		finding->batch->range[finding->batch->n++] = (struct lh_range){ start, end };
		start = end;
	}
	return 0;
}

static void watch_batch(struct lh_agent *agent, const struct batch *batch)
{
	for (size_t i = 0; i < batch->n; i++)
		if (lh__home_watch_blind(agent->home, batch->range[i].start, batch->range[i].end) < 0)
			continue; /* somebody else watches it: it stays, and counts as not homed */
}

static void activate(struct lh_agent *agent)
{
	struct batch *batch = lh__alloc(&agent->sys, sizeof *batch);
	struct finding finding = { agent, batch, 0 };
	int more = 1;

	if (!batch || lh__home_pause(agent->home) < 0)
		lh__agent_fail(agent, "the node failed before it was used");
	lh__count(&agent->control->processes_paged, 1);
	__atomic_store_n(&agent->active, true, __ATOMIC_RELEASE);
	while (more > 0) {
		batch->n = 0;
		more = lh__maps_read(&agent->sys, find_homed, &finding);
		watch_batch(agent, batch);
		finding.from = batch->n ? batch->range[batch->n - 1].end : finding.from;
	}
	/* From here on the program waits where it takes new memory into use. */
	lh__home_rescan(agent->home);
	lh__home_resume(agent->home);
	lh__free(&agent->sys, batch, sizeof *batch);
	if (more < 0)
		lh__agent_fail(agent, "/proc/self/maps cannot be read");
}

void lh__space_activate(struct lh_agent *agent)
{
	lh__lock(&agent->sys, &agent->activating);
	if (!agent->active)
		activate(agent);
	lh__unlock(&agent->sys, &agent->activating);
}

/*
 * Like a change of mappings: a fork in its middle would leave pages BUSY in the child, with nobody to end
 * that.
 */
void lh__space_rescan(struct lh_agent *agent)
{
	lh__home_change_begin(agent->home);
	lh__home_rescan(agent->home);
	lh__home_change_end(agent->home);
}

/* ---- calls ---- */

/* Holds what is watched of a range; false where nothing is. */
static bool hold(struct lh_agent *agent, uintptr_t start, uintptr_t end)
{
	if (!agent->active || !lh__home_watches(agent->home, start, end))
		return false;
	lh__home_hold(agent->home, start, end);
	return true;
}

/* The same for a change that will unmap the range. */
static bool hold_leaving(struct lh_agent *agent, uintptr_t start, uintptr_t end)
{
	bool held = hold(agent, start, end);

	if (held && lh__home_room(agent->home) < 2)
		lh__agent_fail(agent,
		               "too many separate ranges of memory are watched; the program was stopped");
	if (held)
		lh__home_leave(agent->home, start, end);
	return held;
}

static void settle(struct lh_agent *agent, bool held, uintptr_t start, uintptr_t end, bool gone,
                   bool unmapped)
{
	if (held && gone)
		lh__home_forget(agent->home, start, end);
	else if (held)
		lh__home_release(agent->home, start, end);
	if (held && unmapped)
		lh__home_left(agent->home, start, end, gone);
}

/* What cannot be watched stays in memory, and counts as not homed. */
static void watch(struct lh_agent *agent, uintptr_t start, uintptr_t end)
{
	if (start < end && lh__home_watch(agent->home, start, end) < 0)
		return;
}

/* What was excluded and has been unmapped need not have been a stack: the count stops at nothing. */
static void uncount_stacks(struct lh_agent *agent, size_t bytes)
{
	uint64_t old = __atomic_load_n(&agent->stack_bytes, __ATOMIC_RELAXED);

	while (bytes && !__atomic_compare_exchange_n(&agent->stack_bytes, &old, old > bytes ? old - bytes : 0,
	                                             false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/*
 * This processor lets memory that may be written to be read as well, whatever the mapping says; but pages of
 * a mapping that says so can leave, which those of one that does not cannot.
 */
static void let_read(struct lh_trap *trap)
{
	if (trap->argument[2] & PROT_WRITE)
		trap->argument[2] |= PROT_READ;
}

static long call_mmap(struct lh_agent *agent, struct lh_trap *trap)
{
	long protection = trap->argument[2], flags = trap->argument[3], result;
	size_t size = round_up((uintptr_t)trap->argument[1]);
	uintptr_t start = (uintptr_t)trap->argument[0];
	bool anonymous = (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE;
	bool stack = anonymous && (flags & (MAP_STACK | MAP_GROWSDOWN));
	bool homed = anonymous && !stack && !(flags & MAP_HUGETLB) && !(protection & PROT_EXEC);
	bool held = (flags & MAP_FIXED) && hold_leaving(agent, start, start + size);

	if (homed)
		let_read(trap);
	/* Pages of a locked mapping could not be moved, once it is watched. */
	if (homed)
		trap->argument[3] = flags & ~(agent->active ? MAP_POPULATE | MAP_LOCKED : MAP_LOCKED);
	result = lh__intercept_proceed(trap);
	settle(agent, held, start, start + size, !failed(result), true);
	if (failed(result))
		return result;
	start = (uintptr_t)result;
	if (flags & MAP_FIXED) {
		uncount_stacks(agent, lh__include(agent, start, start + size));
		lh__buffers_forget(&agent->buffers, start, start + size);
	}
	if (stack && lh__exclude(agent, start, start + size) < 0)
		lh__agent_fail(agent, "too many stacks of threads");
	if (stack)
		__atomic_add_fetch(&agent->stack_bytes, size, __ATOMIC_RELAXED);
	if (homed && agent->active)
		watch(agent, start, start + size);
	return result;
}

static long call_munmap(struct lh_agent *agent, struct lh_trap *trap)
{
	uintptr_t start = (uintptr_t)trap->argument[0], end = round_up(start + (uintptr_t)trap->argument[1]);
	bool held = start < end && hold_leaving(agent, start, end);
	long result = lh__intercept_proceed(trap);

	settle(agent, held, start, end, result == 0, true);
	if (result == 0) {
		uncount_stacks(agent, lh__include(agent, start, end));
		lh__buffers_forget(&agent->buffers, start, end);
	}
	return result;
}

static long call_brk(struct lh_agent *agent, struct lh_trap *trap)
{
	uintptr_t before = round_up(agent->heap_end), asked = (uintptr_t)trap->argument[0], after;
	bool held = asked && round_up(asked) < before && hold_leaving(agent, round_up(asked), before);
	long result = lh__intercept_proceed(trap);

	agent->heap_end = (uintptr_t)result;
	after = round_up(agent->heap_end);
	settle(agent, held, round_up(asked), before, after < before, true);
	if (agent->active && after > before)
		watch(agent, before, after);
	return result;
}

/* ---- what a child does not have of its parent's memory ---- */

struct child {
	struct lh_agent *agent;
	uintptr_t seen; /* up to here all mappings have been looked at */
};

static void lose(struct lh_agent *agent, uintptr_t start, uintptr_t end, bool unmapped)
{
	bool held = start < end && (unmapped ? hold_leaving(agent, start, end) : hold(agent, start, end));

	settle(agent, held, start, end, true, unmapped);
}

/* MADV_DONTFORK leaves a gap, MADV_WIPEONFORK a mapping without content. */
static int look_in_child(void *context, const struct lh_mapping *mapping)
{
	struct child *child = context;

	lose(child->agent, child->seen, mapping->start, true);
	if (mapping->wiped)
		lose(child->agent, mapping->start, mapping->end, false);
	child->seen = mapping->end;
	return 0;
}

/*
 * The kernel is asked, who knows where such mappings have moved since; but only if there ever were any. The
 * home stands still since before the fork, and this is the only thread.
 */
int lh__space_in_child(struct lh_agent *agent, struct lh_error *error)
{
	struct child child = { agent, 0 };
	int result;

	lh__home_fork_begin(agent->home);
	if (!agent->fork_advice || !agent->active)
		return 0;
	result = lh__smaps_read(&agent->sys, look_in_child, &child);
	if (result < 0)
		return lh__fail(error, result, "/proc/self/smaps: %s", lh__errno_name(result));
	lose(agent, child.seen, HIGHEST, true);
	return 0;
}

/* ---- advice ---- */

static bool drops_content(long advice)
{
	return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_DONTNEED_LOCKED ||
	       advice == MADV_GUARD_INSTALL;
}

/* Advice about where memory should be: that is the home's business now. */
static bool is_placement(long advice)
{
	return advice == MADV_HUGEPAGE || advice == MADV_COLD || advice == MADV_PAGEOUT ||
	       advice == MADV_WILLNEED || advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE;
}

static long call_madvise(struct lh_agent *agent, struct lh_trap *trap)
{
	uintptr_t start = (uintptr_t)trap->argument[0], end = round_up(start + (uintptr_t)trap->argument[1]);
	long advice = trap->argument[2], result;
	bool held;

	if (advice == MADV_DONTFORK || advice == MADV_WIPEONFORK)
		agent->fork_advice = true;
	if (!agent->active || !lh__home_watches(agent->home, start, end))
		return lh__intercept_proceed(trap);
	if (is_placement(advice))
		return 0;
	held = drops_content(advice) && start < end && hold(agent, start, end);
	if (held && advice == MADV_FREE)
		trap->argument[2] = MADV_DONTNEED; /* which it allows, and the home then knows what is left */
	result = lh__intercept_proceed(trap);
	/* Over a hole it is done as well, and the hole is told. */
	settle(agent, held, start, end, result == 0 || result == -ENOMEM, false);
	return result;
}

/*
 * A mapping that is made another by mremap. Its pieces that were watched are those that have left (home.h).
 */
struct moving {
	struct lh_agent *agent;
	uintptr_t from, to;
	size_t old_size, new_size;
};

static void watch_moved(struct moving *moving, uintptr_t start, uintptr_t end)
{
	if (start < end && lh__home_watch(moving->agent->home, start, end) < 0)
		lh__agent_fail(moving->agent,
		               "a mapping that moved cannot be watched; the program was stopped");
}

/* A piece that was watched is watched at its place now, as far as it is there still. */
static int follow(void *context, uintptr_t start, uintptr_t end)
{
	struct moving *moving = context;
	uintptr_t last = moving->from + moving->new_size, shift = moving->to - moving->from;

	watch_moved(moving, start + shift, (end < last ? end : last) + shift);
	return 0;
}

static int stay(void *context, uintptr_t start, uintptr_t end)
{
	struct moving *moving = context;

	watch_moved(moving, start, end);
	return 0;
}

static int unwatch_piece(void *context, uintptr_t start, uintptr_t end)
{
	struct moving *moving = context;

	return moving->agent->port->ops->unwatch(moving->agent->port, start, end - start);
}

static int each_piece(struct moving *moving, lh_home_visit *visit)
{
	return lh__home_each_left(moving->agent->home, moving->from, moving->from + moving->old_size, visit,
	                          moving);
}

/* With a visit that has no other result than 0. */
static void all_pieces(struct moving *moving, lh_home_visit *visit)
{
	if (each_piece(moving, visit) != 0)
		return;
}

/* Moved: what was known of the old place is known of the new one. */
static void rename_moved(struct moving *moving, bool keeps_old)
{
	struct lh_home *home = moving->agent->home;
	size_t common = moving->old_size < moving->new_size ? moving->old_size : moving->new_size;

	if (lh__home_rename(home, moving->from, moving->from + common, moving->to) < 0)
		lh__agent_fail(moving->agent, "no memory to follow a mapping that moved");
	lh__home_forget(home, moving->from, moving->from + moving->old_size);
	all_pieces(moving, follow);
	if (keeps_old)
		all_pieces(moving, stay);
}

static void settle_mremap(struct moving *moving, const struct lh_trap *trap)
{
	struct lh_home *home = moving->agent->home;
	uintptr_t from = moving->from, to = moving->to;
	size_t old_size = moving->old_size, new_size = moving->new_size;

	if (to != from) {
		rename_moved(moving, trap->argument[3] & MREMAP_DONTUNMAP);
	} else {
		if (new_size < old_size)
			lh__home_forget(home, from + new_size, from + old_size);
		all_pieces(moving, follow);
		lh__home_release(home, from, from + (new_size < old_size ? new_size : old_size));
	}
	/* What grows is one mapping. */
	if (new_size > old_size)
		watch(moving->agent, to + old_size, to + new_size);
}

/* As before: watched in all its pieces, and nothing happened to the content. */
static void settle_failed_mremap(struct moving *moving)
{
	all_pieces(moving, stay);
	lh__home_release(moving->agent->home, moving->from, moving->from + moving->old_size);
}

/*
 * A mapping that moves may be merged with a neighbour of its new place, and the kernel (6.18) then drops the
 * watch of both, so that the neighbour's absent pages would read as zero. What is not watched is not merged
 * with what is: so the watch of a mapping that may move is dropped before. Nobody else may touch it until the
 * call has returned. -ENOMEM: the process has as many mappings as it may, so that no part of one could move
 * either.
 */
static int unwatch_moving(struct moving *moving, const struct lh_trap *trap)
{
	if ((trap->argument[3] & MREMAP_MAYMOVE) &&
	    (moving->new_size > moving->old_size || (trap->argument[3] & (MREMAP_FIXED | MREMAP_DONTUNMAP))))
		return each_piece(moving, unwatch_piece);
	return 0;
}

/* The kernel refuses it whatever is mapped. Of two ranges that overlap, pages would be held twice. */
static bool is_refused(const struct moving *moving, bool fixed, uintptr_t to)
{
	return (moving->from & PAGE_MASK) || moving->new_size == 0 ||
	       (fixed && ((to & PAGE_MASK) ||
	                  (to < moving->from + moving->old_size && moving->from < to + moving->new_size)));
}

static long call_mremap(struct lh_agent *agent, struct lh_trap *trap)
{
	struct moving moving = { .agent = agent,
		                 .from = (uintptr_t)trap->argument[0],
		                 .old_size = round_up((uintptr_t)trap->argument[1]),
		                 .new_size = round_up((uintptr_t)trap->argument[2]) };
	uintptr_t from = moving.from, from_end = from + moving.old_size;
	uintptr_t to = (uintptr_t)trap->argument[4], to_end = to + moving.new_size;
	bool fixed = trap->argument[3] & MREMAP_FIXED, held, held_target = false;
	long result;

	if (is_refused(&moving, fixed, to))
		return lh__intercept_proceed(trap);
	/* Two ranges are held in the order of their addresses, as everybody does. */
	if (fixed && to < from)
		held_target = hold_leaving(agent, to, to_end);
	held = from < from_end && hold_leaving(agent, from, from_end);
	if (fixed && to > from)
		held_target = hold_leaving(agent, to, to_end);
	result = held ? unwatch_moving(&moving, trap) : 0;
	if (result == 0)
		result = lh__intercept_proceed(trap);
	settle(agent, held_target, to, to_end, !failed(result), true);
	moving.to = (uintptr_t)result;
	if (held && failed(result))
		settle_failed_mremap(&moving);
	else if (held)
		settle_mremap(&moving, trap);
	/* What is left of the range has been watched again. */
	if (held)
		lh__home_left(agent->home, from, from_end, true);
	return result;
}

/* Pages cannot leave memory that may be written to and executed, or that has a key. (Key 0 is none.) */
static bool stays(const struct lh_trap *trap)
{
	long both = PROT_WRITE | PROT_EXEC;

	return (trap->argument[2] & both) == both ||
	       (trap->nr == SYS_pkey_mprotect && (int)trap->argument[3] > 0);
}

/* Held, because a page of a mapping that nobody can write to is taken by copying it. */
static long call_mprotect(struct lh_agent *agent, struct lh_trap *trap)
{
	uintptr_t start = (uintptr_t)trap->argument[0], end = round_up(start + (uintptr_t)trap->argument[1]);
	int failure = 0;
	bool held;
	long result;

	if (agent->active && stays(trap) && lh__home_watches(agent->home, start, end))
		failure = lh__home_unwatch(agent->home, start, end);
	if (failure < 0)
		lh__agent_fail_page(agent, start, failure);
	let_read(trap);
	held = start < end && hold(agent, start, end);
	result = lh__intercept_proceed(trap);
	settle(agent, held, start, end, false, false);
	return result;
}

/* Locking would keep the kernel from moving pages; who limits local memory has said that pages may leave. */
static long call_mlock(struct lh_agent *agent, struct lh_trap *trap)
{
	return agent->control->local ? 0 : lh__intercept_proceed(trap);
}

static long dispatch(struct lh_agent *agent, struct lh_trap *trap)
{
	switch (trap->nr) {
	case SYS_mmap: return call_mmap(agent, trap);
	case SYS_munmap: return call_munmap(agent, trap);
	case SYS_mremap: return call_mremap(agent, trap);
	case SYS_madvise: return call_madvise(agent, trap);
	case SYS_brk: return call_brk(agent, trap);
	case SYS_mprotect:
	case SYS_pkey_mprotect: return call_mprotect(agent, trap);
	default: return call_mlock(agent, trap);
	}
}

/* How many bytes a call gives the program the right to use; 0: it is none of those that do. */
static size_t granted_by(const struct lh_agent *agent, const struct lh_trap *trap)
{
	switch (trap->nr) {
	case SYS_mmap:
		return trap->argument[2] & PROT_WRITE && trap->argument[3] & MAP_PRIVATE &&
		                       !(trap->argument[3] & MAP_STACK)
		               ? (size_t)trap->argument[1]
		               : 0;
	case SYS_mprotect: return trap->argument[2] & PROT_WRITE ? (size_t)trap->argument[1] : 0;
	case SYS_mremap: return (size_t)trap->argument[2];
	case SYS_brk:
		return (uintptr_t)trap->argument[0] > agent->heap_end
		               ? (uintptr_t)trap->argument[0] - agent->heap_end
		               : 0;
	default: return 0;
	}
}

/*
 * A program can only come to use what it is given. While that is within the limit nothing is to be done; once
 * it is not, the address space is watched before the program has it: on a busy machine no thread wakes in
 * time to notice that it is used. The price for a program that asks for much and uses little is that its new
 * pages come from the home.
 */
static void consider_activation(struct lh_agent *agent, const struct lh_trap *trap)
{
	uint64_t asked = granted_by(agent, trap), granted;

	if (asked == 0 ||
	    __atomic_add_fetch(&agent->granted, asked, __ATOMIC_RELAXED) <= agent->control->local)
		return;
	granted = lh__agent_granted(agent) * LH_PAGE_SIZE;
	if (granted + asked > agent->control->local)
		lh__space_activate(agent);
	else
		__atomic_store_n(&agent->granted, granted + asked, __ATOMIC_RELAXED);
}

long lh__space_call(struct lh_agent *agent, struct lh_trap *trap)
{
	long result;

	if (!__atomic_load_n(&agent->active, __ATOMIC_ACQUIRE))
		consider_activation(agent, trap);
	lh__home_change_begin(agent->home);
	result = dispatch(agent, trap);
	lh__home_change_end(agent->home);
	return result;
}
