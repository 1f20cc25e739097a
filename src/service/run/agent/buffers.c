/*
 * buffers.c - keeping and touching the operands of a call, and what is done with each class of call. See
 * buffers.h.
 */
#include "service/run/agent/buffers_inside.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEEP_TRIES 64   /* with a yield between them, before a call goes on unkept */
#define REPEAT_TRIES 16 /* of a call that is not kept, while its operands are found to be there */

static void count(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

/* ---- noting ---- */

static struct lh_run *touching_run(struct lh_hold *hold, uintptr_t start, uintptr_t end, uintptr_t gap)
{
	for (unsigned i = 0; i < hold->runs; i++)
		if (start <= hold->run[i].end + gap && end + gap >= hold->run[i].start)
			return &hold->run[i];
	return NULL;
}

static void note(struct lh_hold *hold, uintptr_t start, uintptr_t end)
{
	struct lh_run *run = touching_run(hold, start, end, 0);

	if (!run && hold->runs < LH_RUNS) {
		hold->run[hold->runs++] = (struct lh_run){ start, end };
		return;
	}
	if (!run)
		run = touching_run(hold, start, end, LH_JOIN_GAP);
	if (!run) {
		hold->unkept = true;
		return;
	}
	run->start = start < run->start ? start : run->start;
	run->end = end > run->end ? end : run->end;
}

/* ---- touching ---- */

static void touch(struct lh_hold *hold, uintptr_t start, uintptr_t end)
{
	unsigned char byte;

	for (uintptr_t at = start; at < end; at = LH_PAGES_OF(at) + LH_PAGE_SIZE)
		if (hold->self->copy(&byte, (const void *)at, 1) < 0) {
			hold->faulted |= !hold->guess;
			return;
		}
}

void lh__buffers_reach(struct lh_hold *hold, uintptr_t start, size_t size)
{
	uintptr_t first = LH_PAGES_OF(start), end;

	if (size == 0 || start < LH_LOWEST || start >= LH_HIGHEST)
		return;
	end = size < LH_HIGHEST - start ? start + size : LH_HIGHEST;
	if (end - first > hold->left)
		end = first + LH_PAGES_OF(hold->left);
	if (end <= start)
		return;
	hold->left -= LH_PAGES_OF(end - first);
	if (hold->touching)
		touch(hold, start, end);
	else
		note(hold, first, LH_PAGES_OF(end + LH_PAGE_SIZE - 1));
}

/* ---- keeping ---- */

static void give_up(struct lh_hold *hold)
{
	/* A fork has made this a child, whose home keeps nothing: the slots are others' by now. */
	if (hold->forks == hold->self->forks)
		while (hold->kept > 0)
			lh__home_unkeep(hold->self->home, hold->slot[--hold->kept]);
	hold->kept = 0;
}

/* All or none: who keeps a part and waits for the rest could wait for somebody who does the same. */
static bool keep_once(struct lh_hold *hold)
{
	for (; hold->kept < hold->runs; hold->kept++) {
		const struct lh_run *run = &hold->run[hold->kept];

		hold->slot[hold->kept] = lh__home_keep(hold->self->home, run->start, run->end);
		if (hold->slot[hold->kept] < 0) {
			give_up(hold);
			return false;
		}
	}
	return true;
}

/*
 * Where all slots are taken by calls that sleep, waiting for one could last for ever: the one who would wake
 * them may be this call. Then it is touched only; pages that were just touched are the last to be taken.
 */
static void keep(struct lh_hold *hold)
{
	for (unsigned i = 0; i < KEEP_TRIES; i++) {
		if (keep_once(hold))
			return;
		LH_SYS(hold->self->sys, SYS_sched_yield);
	}
	hold->unkept = true;
	count(&hold->self->counts.unkept);
}

static void begin_walk(struct lh_hold *hold, bool touching)
{
	hold->touching = touching;
	hold->left = LH_PAGES_OF(hold->self->hold_limit);
}

static void begin(struct lh_hold *hold, struct lh_buffers *self, const struct lh_trap *trap)
{
	hold->self = self;
	hold->trap = trap;
	hold->guess = hold->faulted = hold->unkept = false;
	hold->forks = self->forks;
	hold->runs = hold->kept = 0;
}

static void note_all(struct lh_hold *hold, const struct lh_call *call, bool guesses)
{
	begin_walk(hold, false);
	lh__buffers_walk(hold, call, guesses);
}

static void touch_all(struct lh_hold *hold, const struct lh_call *call, bool guesses)
{
	begin_walk(hold, true);
	lh__buffers_walk(hold, call, guesses);
}

static bool watches(const struct lh_hold *hold)
{
	for (unsigned i = 0; i < hold->runs; i++)
		if (lh__home_watches(hold->self->home, hold->run[i].start, hold->run[i].end))
			return true;
	return false;
}

/* ---- the classes ---- */

/*
 * A program that is executed is read while it is seen whether it can be, and the kernel then goes through the
 * list of the thread's robust mutexes, which must be there until the memory is not.
 */
static long execute(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call)
{
	struct lh_hold hold;
	long result;

	begin(&hold, self, trap);
	begin_walk(&hold, false);
	lh__buffers_reach_robust(&hold);
	if (hold.runs) {
		keep(&hold);
		begin_walk(&hold, true);
		lh__buffers_reach_robust(&hold);
	}
	result = lh__buffers_whole(self, trap, call);
	give_up(&hold);
	return result;
}

static long call_kept(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call)
{
	struct lh_hold hold;
	long result;

	begin(&hold, self, trap);
	note_all(&hold, call, false);
	keep(&hold);
	touch_all(&hold, call, false);
	count(&self->counts.early);
	result = self->proceed(trap);
	give_up(&hold);
	return result;
}

/* One repetition of a call that failed with EFAULT. *sure: the answer is the last. */
static long repeat(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call, bool *sure)
{
	bool loose = call->class == LH_CALL_LOOSE || call->class == LH_CALL_EXECUTE;
	struct lh_hold hold;
	long result = -EFAULT;

	begin(&hold, self, trap);
	note_all(&hold, call, true);
	*sure = true;
	if (!watches(&hold))
		return result;
	if (!loose)
		keep(&hold);
	touch_all(&hold, call, true);
	count(&self->counts.repeated);
	*sure = hold.faulted || (!loose && !hold.unkept);
	result = self->proceed(trap);
	give_up(&hold);
	return result;
}

static long repeat_while_absent(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call)
{
	long result = -EFAULT;
	bool sure = false;

	for (unsigned i = 0; result == -EFAULT && !sure && i < REPEAT_TRIES; i++)
		result = repeat(self, trap, call, &sure);
	return result;
}

/*
 * read and write at an absent place of /proc/self/mem, which is where the file stands: as pread and pwrite,
 * whose rows know of that. The kernel takes no notice of the fourth argument. Nothing has been done, so
 * repeating is harmless.
 */
static long repeat_in_place(struct lh_buffers *self, struct lh_trap *trap)
{
	long asked = trap->argument[3],
	     position = LH_SYS(self->sys, SYS_lseek, trap->argument[0], 0, SEEK_CUR);
	long result = -EIO;

	if (position <= 0 || !lh__home_watches(self->home, (uintptr_t)position, (uintptr_t)position + 1))
		return result;
	trap->argument[3] = position;
	result = call_kept(self, trap, lh__operands(SYS_pread64));
	trap->argument[3] = asked;
	return result;
}

long lh__buffers_whole(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call)
{
	bool late =
		call->class == LH_CALL_LATE || call->class == LH_CALL_LOOSE || call->class == LH_CALL_EXECUTE;
	long result = late ? self->proceed(trap) : call_kept(self, trap, call);

	if (result == -EIO && (trap->nr == SYS_read || trap->nr == SYS_write))
		return repeat_in_place(self, trap);
	if (result != -EFAULT || call->class == LH_CALL_ONCE || call->class == LH_CALL_PIN)
		return result;
	return repeat_while_absent(self, trap, call);
}

/* A ring that was inherited or received can be used without having been set up here: hence each call asks. */
static long ring(struct lh_buffers *self, struct lh_trap *trap)
{
	if (!self->later_use || self->later_use(self->context) < 0)
		return -ENOSYS;
	return self->proceed(trap);
}

/* Whether the call lets the kernel go on reading pages when it has returned. */
static bool lends(const struct lh_trap *trap)
{
	switch (trap->nr) {
	case SYS_vmsplice:
	case SYS_io_uring_setup:
	case SYS_io_uring_enter:
	case SYS_io_uring_register: return true;
	case SYS_sendto:
	case SYS_sendmmsg: return trap->argument[3] & MSG_ZEROCOPY;
	case SYS_sendmsg: return trap->argument[2] & MSG_ZEROCOPY;
	default: return false;
	}
}

long lh__buffers_call(struct lh_buffers *self, struct lh_trap *trap)
{
	const struct lh_call *call = lh__operands(trap->nr);

	if (call->class != LH_CALL_VMSPLICE && call->class != LH_CALL_RING && lends(trap))
		lh__home_lend(self->home);
	switch (call->class) {
	case LH_CALL_NONE: return self->proceed(trap);
	case LH_CALL_PARTS: return lh__buffers_parts(self, trap, call);
	case LH_CALL_VMSPLICE: return lh__buffers_vmsplice(self, trap, call);
	case LH_CALL_RING: return ring(self, trap);
	case LH_CALL_PIN: lh__buffers_pin(self, trap); break;
	case LH_CALL_EXECUTE: return execute(self, trap, call);
	default: break;
	}
	return lh__buffers_whole(self, trap, call);
}

long lh__buffers_call_of_thread(struct lh_buffers *self, struct lh_trap *trap)
{
	const struct lh_call *call = lh__operands(trap->nr);

	if (lends(trap))
		lh__home_lend(self->home);
	if (call->class == LH_CALL_EXECUTE)
		return execute(self, trap, call);
	if (call->class == LH_CALL_PIN)
		lh__buffers_pin(self, trap);
	return self->proceed(trap);
}

static const long lenders[] = { SYS_vmsplice, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
	                        SYS_sendto,   SYS_sendmsg,        SYS_sendmmsg };

void lh__buffers_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64], bool in_line)
{
	for (long nr = 0; nr < LH_INTERCEPT_NUMBERS; nr++)
		if (lh__operands(nr)->class == LH_CALL_PIN || lh__operands(nr)->class == LH_CALL_EXECUTE ||
		    (in_line && lh__operands(nr)->class != LH_CALL_NONE))
			bitmap[nr / 64] |= UINT64_C(1) << nr % 64;
	for (size_t i = 0; i < sizeof lenders / sizeof lenders[0]; i++)
		bitmap[lenders[i] / 64] |= UINT64_C(1) << lenders[i] % 64;
}
