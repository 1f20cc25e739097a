/*
 * signals.c - what the program believes about SIGTRAP, and what is.
 *
 * An INT3 in a thread that blocks SIGTRAP, or in a process that ignores it, is death. So SIGTRAP is never
 * blocked, never ignored, and in no handler's mask; what the program sets is kept here and told to it when it
 * asks.
 *
 * The action is one a process. A vfork's child shares this memory and has actions of its own: what it changes
 * stands beside, by its number, until it executes (a *guest*). Which of the two a process is that is not the
 * one the agent started in, tells a page that the kernel wipes in a fork's child.
 *
 * That a thread believes to block SIGTRAP stands in a table of threads. Threads that have ended are cleared
 * out when room is needed. In a fork's child the thread has another number; libc sets the mask anew there.
 */
#include "port/code/inside/internal.h"

#include <errno.h>
#include <sys/mman.h>

#define KNOWN_FLAGS 0xdc000807u /* what the kernel keeps of sa_flags */
#define RESTORER_FLAG 0x04000000u
#define UNBLOCKABLE (1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1))
#define WINDOW 16u

/* ---- actions ---- */

static int32_t process_id(void)
{
	return (int32_t)LH_CALL0(SYS_getpid);
}

static struct lh_inside_belief *guest_of(int32_t process)
{
	unsigned i;

	for (i = 0; i < LH_GUESTS; i++)
		if (__atomic_load_n(&lh__inside.guest[i].process, __ATOMIC_RELAXED) == process)
			return &lh__inside.guest[i];
	return NULL;
}

/* The belief of this process; for changing it one of its own. Under the lock. */
static struct lh_inside_belief *belief(bool change)
{
	int32_t me = process_id(), born = (int32_t)*lh__inside.born;
	struct lh_inside_belief *guest;

	if (born == 0) {
		*lh__inside.born = (uint32_t)me;
		lh__inside.own.process = born = me;
		__atomic_fetch_add(&lh__inside.control->processes, 1, __ATOMIC_RELAXED);
	}
	if (born == me)
		return &lh__inside.own;
	guest = guest_of(me);
	if (guest || !change)
		return guest ? guest : &lh__inside.own;
	guest = &lh__inside.guest[lh__inside.next_guest++ % LH_GUESTS];
	*guest = lh__inside.own;
	__atomic_store_n(&guest->process, me, __ATOMIC_RELEASE);
	return guest;
}

struct lh_action lh__inside_trap_action(void)
{
	uint64_t mask = lh__inside_lock();
	struct lh_action action = belief(false)->trap;

	lh__inside_unlock(mask);
	return action;
}

void lh__inside_reset_trap_action(void)
{
	uint64_t mask = lh__inside_lock();

	belief(true)->trap.handler = (uint64_t)SIG_DFL;
	lh__inside_unlock(mask);
}

static long real_action(long sig, const struct lh_action *action, uint64_t old)
{
	return LH_CALL4(SYS_rt_sigaction, sig, action, old, 8);
}

/* Nothing of it reaches the kernel, but whether `old` can be written to. */
static long trap_action(const struct lh_action *action, uint64_t old)
{
	long result = old ? real_action(SIGTRAP, NULL, old) : 0;
	uint64_t mask;

	if (result != 0)
		return result;
	mask = lh__inside_lock();
	if (old)
		*(struct lh_action *)old = belief(false)->trap;
	if (action) {
		struct lh_inside_belief *mine = belief(true);

		mine->trap = *action;
		mine->trap.flags &= KNOWN_FLAGS;
		mine->trap.mask &= ~UNBLOCKABLE;
	}
	lh__inside_unlock(mask);
	return 0;
}

static long other_action(long sig, struct lh_action *action, uint64_t old)
{
	uint64_t bit = 1ull << (sig - 1), mask;
	bool wanted = action && action->mask & LH_TRAP_BIT, before;
	long result;

	if (action)
		action->mask &= ~LH_TRAP_BIT;
	result = real_action(sig, action, old);
	if (result != 0)
		return result;
	mask = lh__inside_lock();
	before = belief(false)->masked & bit;
	if (action && wanted != before)
		belief(true)->masked ^= bit;
	if (old && before)
		((struct lh_action *)old)->mask |= LH_TRAP_BIT;
	lh__inside_unlock(mask);
	return 0;
}

long lh__inside_sigaction(const greg_t *registers)
{
	long sig = (int)registers[REG_RDI];
	uint64_t new = (uint64_t)registers[REG_RSI], old = (uint64_t)registers[REG_RDX];
	struct lh_action action, *given = new ? &action : NULL;

	if (registers[REG_R10] != 8 || sig < 1 || sig > 64)
		return LH_CALL4(SYS_rt_sigaction, sig, new, old, registers[REG_R10]);
	if (new) {
		if (!lh__inside_readable(new) || !lh__inside_readable(new + sizeof action - 8))
			return -EFAULT;
		__builtin_memcpy(&action, (const void *)new, sizeof action);
	}
	return sig == SIGTRAP ? trap_action(given, old) : other_action(sig, given, old);
}

/* ---- masks ---- */

static struct lh_inside_blocker *window(int32_t thread, unsigned i)
{
	return &lh__inside.blocker[((uint32_t)thread + i) % LH_BLOCKERS];
}

static struct lh_inside_blocker *blocker_of(int32_t thread)
{
	unsigned i;

	for (i = 0; i < WINDOW; i++)
		if (__atomic_load_n(&window(thread, i)->thread, __ATOMIC_ACQUIRE) == thread)
			return window(thread, i);
	return NULL;
}

static struct lh_inside_blocker *this_blocker(void)
{
	return blocker_of((int32_t)LH_CALL0(SYS_gettid));
}

bool lh__inside_blocks_trap(void)
{
	return this_blocker() != NULL;
}

static bool claim(struct lh_inside_blocker *blocker, int32_t from, int32_t thread)
{
	return __atomic_compare_exchange_n(&blocker->thread, &from, thread, false, __ATOMIC_ACQ_REL,
	                                   __ATOMIC_RELAXED);
}

static void add_blocker(int32_t thread)
{
	int32_t process = process_id();
	unsigned i;

	for (i = 0; i < WINDOW; i++) {
		struct lh_inside_blocker *blocker = window(thread, i);

		if (claim(blocker, 0, thread)) {
			blocker->holds = 0;
			return;
		}
	}
	for (i = 0; i < WINDOW; i++) {
		struct lh_inside_blocker *blocker = window(thread, i);
		int32_t old = __atomic_load_n(&blocker->thread, __ATOMIC_RELAXED);

		if (old != 0 && LH_CALL3(SYS_tgkill, process, old, 0) == -ESRCH &&
		    claim(blocker, old, thread)) {
			blocker->holds = 0;
			return;
		}
	}
}

void lh__inside_send(siginfo_t *info)
{
	long process = LH_CALL0(SYS_getpid), thread = LH_CALL0(SYS_gettid);

	if (LH_FAILED(LH_CALL4(SYS_rt_tgsigqueueinfo, process, thread, SIGTRAP, info)))
		LH_CALL3(SYS_tgkill, process, thread, SIGTRAP);
}

/* What was held comes now: all signals are blocked until the frame is left, or a call brings a mask. */
static void release(struct lh_inside_blocker *blocker)
{
	siginfo_t info = blocker->info;
	bool holds = blocker->holds;

	__atomic_store_n(&blocker->thread, 0, __ATOMIC_RELEASE);
	if (holds) {
		lh__inside_block();
		lh__inside_send(&info);
	}
}

void lh__inside_set_blocks_trap(bool blocks)
{
	int32_t thread = (int32_t)LH_CALL0(SYS_gettid);
	struct lh_inside_blocker *blocker = blocker_of(thread);

	if (blocks && !blocker)
		add_blocker(thread);
	else if (!blocks && blocker)
		release(blocker);
}

void lh__inside_hold(const siginfo_t *info)
{
	struct lh_inside_blocker *blocker = this_blocker();

	if (!blocker || blocker->holds) /* one waits already: as with any signal of the classic ones */
		return;
	blocker->info = *info;
	blocker->holds = 1;
}

/* The kernel's order: what is to be read, what is to be done, the change, then what is to be written. */
long lh__inside_sigprocmask(ucontext_t *context)
{
	const greg_t *registers = context->uc_mcontext.gregs;
	uint64_t set = (uint64_t)registers[REG_RSI], old = (uint64_t)registers[REG_RDX];
	uint64_t *real = lh__inside_mask(context), before, after, change;

	if (registers[REG_R10] != 8)
		return -EINVAL;
	before = after = *real | (lh__inside_blocks_trap() ? LH_TRAP_BIT : 0);
	if (set) {
		if (!lh__inside_readable(set))
			return -EFAULT;
		change = *(const uint64_t *)set & ~UNBLOCKABLE;
		switch ((int)registers[REG_RDI]) {
		case SIG_BLOCK: after |= change; break;
		case SIG_UNBLOCK: after &= ~change; break;
		case SIG_SETMASK: after = change; break;
		default: return -EINVAL;
		}
	}
	*real = after & ~LH_TRAP_BIT;
	if (after != before)
		lh__inside_set_blocks_trap(after & LH_TRAP_BIT);
	if (!old)
		return 0;
	if (LH_CALL4(SYS_rt_sigprocmask, SIG_BLOCK, 0, old, 8) != 0)
		return -EFAULT;
	*(uint64_t *)old = before;
	return 0;
}

/* ---- execve ---- */

void lh__inside_before_execute(void)
{
	const struct lh_action ignore = { (uint64_t)SIG_IGN, 0, 0, 0 };
	uint64_t trap = LH_TRAP_BIT;

	if (lh__inside_trap_action().handler == (uint64_t)SIG_IGN)
		real_action(SIGTRAP, &ignore, 0);
	if (lh__inside_blocks_trap())
		LH_CALL4(SYS_rt_sigprocmask, SIG_BLOCK, &trap, 0, 8);
}

static void take_over(void)
{
	const struct lh_action action = {
		.handler = (uint64_t)lh__inside_enter,
		.flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART | RESTORER_FLAG,
		.restorer = (uint64_t)lh__inside_restorer,
	};

	real_action(SIGTRAP, &action, 0);
}

void lh__inside_after_execute(void)
{
	uint64_t trap = LH_TRAP_BIT;

	take_over();
	LH_CALL4(SYS_rt_sigprocmask, SIG_UNBLOCK, &trap, 0, 8);
}

/* ---- start and stop ---- */

/* SIGTRAP out of the masks of all other handlers, or back into those that had it. */
static void mend_masks(bool out)
{
	struct lh_action action;
	int sig;

	for (sig = 1; sig <= 64; sig++) {
		uint64_t bit = 1ull << (sig - 1);

		if (sig == SIGTRAP || sig == SIGKILL || sig == SIGSTOP ||
		    real_action(sig, NULL, (uint64_t)&action) != 0)
			continue;
		if (out ? !(action.mask & LH_TRAP_BIT) : !(lh__inside.own.masked & bit))
			continue;
		action.mask ^= LH_TRAP_BIT;
		lh__inside.own.masked ^= bit;
		real_action(sig, &action, 0);
	}
}

void lh__inside_install(const struct lh_inside_start *start)
{
	real_action(SIGTRAP, NULL, (uint64_t)&lh__inside.own.trap);
	if (start->trap_ignored)
		lh__inside.own.trap = (struct lh_action){ .handler = (uint64_t)SIG_IGN };
	if (start->trap_blocked)
		lh__inside_set_blocks_trap(true);
	mend_masks(true);
	take_over();
}

void lh__inside_uninstall(void)
{
	struct lh_action action = lh__inside_trap_action();

	real_action(SIGTRAP, &action, 0);
	mend_masks(false);
}
