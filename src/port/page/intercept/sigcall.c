/*
 * sigcall.c - the calls about signals. The program gets the answers it would get from the kernel alone;
 * the kernel gets masks without the special signals and handlers that are the module's.
 */
#include "port/page/intercept/internal.h"

#include <errno.h>
#include <string.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* The flags that a kernel of today knows for rt_sigaction; it drops the others. */
#define ACTION_FLAGS                                                                                         \
	(SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER | SA_RESETHAND |    \
	 0x800 | 0x04000000)

static int is_special(int sig)
{
	return (LH_BIT(sig) & LH_SPECIAL) != 0;
}

static long change_action(struct lh_thread *thread, int sig, const struct lh_action *new,
                          struct lh_action *old)
{
	struct lh_action *now = &thread->actions->of[sig];

	lh__actions_lock(thread->actions);
	*old = *now;
	if (new) {
		*now = *new;
		now->flags &= (uint32_t)ACTION_FLAGS;
		now->mask &= ~LH_UNBLOCKABLE;
		if (!is_special(sig))
			lh__signal_real(sig, now);
		else if (now->handler == (uint64_t)SIG_IGN)
			thread->special_pending &= ~LH_BIT(sig);
	}
	lh__actions_unlock(thread->actions);
	return 0;
}

static long sigaction_(struct lh_thread *thread, const long *argument)
{
	struct lh_action new, old;
	int sig = (int)argument[0];

	if (argument[3] != 8)
		return -EINVAL;
	if (argument[1] && lh__intercept_copy(&new, (const void *)argument[1], sizeof new))
		return -EFAULT;
	if (sig < 1 || sig > LH_SIGNALS || (argument[1] && LH_BIT(sig) & LH_UNBLOCKABLE))
		return -EINVAL;
	change_action(thread, sig, argument[1] ? &new : NULL, &old);
	if (argument[2] && lh__intercept_copy((void *)argument[2], &old, sizeof old))
		return -EFAULT;
	return 0;
}

static uint64_t changed(long how, uint64_t old, uint64_t set)
{
	return how == SIG_BLOCK ? old | set : how == SIG_UNBLOCK ? old & ~set : set;
}

static long sigprocmask_(struct lh_thread *thread, const long *argument)
{
	uint64_t set = 0, clean, old = 0, special = thread->special_blocked;
	long result;

	if (argument[3] != 8)
		return -EINVAL;
	if (argument[1] && lh__intercept_copy(&set, (const void *)argument[1], 8))
		return -EFAULT;
	clean = set & ~LH_SPECIAL;
	result = lh__program_syscall(thread, SYS_rt_sigprocmask,
	                             (const long[6]){ argument[0], argument[1] ? (long)&clean : 0, (long)&old,
	                                              8 });
	if (result)
		return result;
	if (argument[1])
		thread->special_blocked = changed(argument[0], special, set) & LH_SPECIAL;
	old |= special;
	if (argument[2] && lh__intercept_copy((void *)argument[2], &old, 8))
		return -EFAULT;
	return 0;
}

/* A call during which another mask holds: 8 bytes at *pointer, which argument contains or leads to. */
static long masked_at(struct lh_thread *thread, long nr, const long *argument, long *pointer)
{
	uint64_t mask, clean, special = thread->special_blocked;
	long result;

	if (!*pointer || lh__intercept_copy(&mask, (const void *)*pointer, 8))
		return lh__program_syscall(thread, nr, argument);
	clean = mask & ~LH_SPECIAL;
	*pointer = (long)&clean;
	thread->temporary = mask & ~LH_UNBLOCKABLE;
	thread->special_blocked = mask & LH_SPECIAL;
	thread->temporary_active = 1;
	result = lh__program_syscall(thread, nr, argument);
	thread->temporary_active = 0;
	thread->special_blocked = special;
	return result;
}

static long masked(struct lh_thread *thread, long nr, const long *argument, int at)
{
	long other[6];

	memcpy(other, argument, sizeof other);
	return masked_at(thread, nr, other, &other[at]);
}

/*
 * The mask of io_uring_enter stands in the argument or, with a flag, in a structure whose first word it is.
 */
static long io_uring_enter_(struct lh_thread *thread, const long *argument)
{
	long extended[3], other[6];

	if (!(argument[3] & 8))
		return argument[5] == 8 ? masked(thread, SYS_io_uring_enter, argument, 4)
		                        : lh__program_syscall(thread, SYS_io_uring_enter, argument);
	if (argument[5] != sizeof extended || !argument[4] ||
	    lh__intercept_copy(extended, (const void *)argument[4], sizeof extended) || !extended[0])
		return lh__program_syscall(thread, SYS_io_uring_enter, argument);
	memcpy(other, argument, sizeof other);
	other[4] = (long)extended;
	return masked_at(thread, SYS_io_uring_enter, other, &extended[0]);
}

/* pselect6 keeps pointer and size in a pair. */
static long pselect6(struct lh_thread *thread, const long *argument)
{
	long pair[2], other[6];

	if (!argument[5] || lh__intercept_copy(pair, (const void *)argument[5], sizeof pair) || pair[1] != 8)
		return lh__program_syscall(thread, SYS_pselect6, argument);
	memcpy(other, argument, sizeof other);
	other[5] = (long)pair;
	return masked_at(thread, SYS_pselect6, other, &pair[0]);
}

static long sigpending_(struct lh_thread *thread, const long *argument)
{
	uint64_t set = 0;
	long result;

	if ((size_t)argument[1] > 8)
		return -EINVAL;
	result = lh__program_syscall(thread, SYS_rt_sigpending, (const long[6]){ (long)&set, 8 });
	set |= thread->special_pending;
	if (result == 0 && lh__intercept_copy((void *)argument[0], &set, (size_t)argument[1]))
		return -EFAULT;
	return result;
}

static long sigtimedwait_(struct lh_thread *thread, const long *argument)
{
	static const int special[3] = { SIGBUS, SIGSEGV, SIGSYS };
	uint64_t set = 0;

	if (argument[3] == 8 && thread->special_pending &&
	    !lh__intercept_copy(&set, (const void *)argument[0], 8))
		for (int i = 0; i < 3; i++) {
			if (!(set & thread->special_pending & LH_BIT(special[i])))
				continue;
			if (argument[1] && lh__intercept_copy((void *)argument[1], &thread->special_info[i],
			                                      sizeof(siginfo_t)))
				return -EFAULT;
			thread->special_pending &= ~LH_BIT(special[i]);
			return special[i];
		}
	return lh__program_syscall(thread, SYS_rt_sigtimedwait, argument);
}

int lh__on_stack(const struct lh_thread *thread, uint64_t rsp)
{
	uint64_t bottom = (uint64_t)thread->stack.ss_sp;

	if (thread->stack.ss_flags & LH_AUTODISARM)
		return 0;
	return rsp > bottom && rsp - bottom <= thread->stack.ss_size;
}

long lh__stack_change(struct lh_thread *thread, const stack_t *stack, uint64_t rsp)
{
	int mode = stack->ss_flags & ~LH_AUTODISARM;
	uint64_t least = lh__intercept_state->least_stack;

	if (lh__on_stack(thread, rsp))
		return -EPERM;
	if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0)
		return -EINVAL;
	if (mode != SS_DISABLE && stack->ss_size < least)
		return -ENOMEM;
	thread->stack = *stack;
	if (mode == SS_DISABLE)
		thread->stack = (stack_t){ .ss_flags = stack->ss_flags };
	return 0;
}

static long sigaltstack_(struct lh_thread *thread, const long *argument)
{
	stack_t new, old = thread->stack;
	long result = 0;

	if (argument[0] && lh__intercept_copy(&new, (const void *)argument[0], sizeof new))
		return -EFAULT;
	old.ss_flags = (old.ss_size == 0                         ? SS_DISABLE
	                : lh__on_stack(thread, thread->regs.rsp) ? SS_ONSTACK
	                                                         : 0) |
	               (old.ss_flags & LH_AUTODISARM);
	if (argument[0])
		result = lh__stack_change(thread, &new, thread->regs.rsp);
	if (result == 0 && argument[1] && lh__intercept_copy((void *)argument[1], &old, sizeof old))
		return -EFAULT;
	return result;
}

long lh__signal_call(struct lh_thread *thread, struct lh_trap *trap)
{
	const long *argument = trap->argument;

	switch (trap->nr) {
	case SYS_rt_sigaction: return sigaction_(thread, argument);
	case SYS_rt_sigprocmask: return sigprocmask_(thread, argument);
	case SYS_rt_sigpending: return sigpending_(thread, argument);
	case SYS_rt_sigtimedwait: return sigtimedwait_(thread, argument);
	case SYS_sigaltstack: return sigaltstack_(thread, argument);
	case SYS_rt_sigsuspend: return argument[1] == 8 ? masked(thread, trap->nr, argument, 0) : -EINVAL;
	case SYS_ppoll: return masked(thread, trap->nr, argument, 3);
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2: return masked(thread, trap->nr, argument, 4);
	case SYS_io_uring_enter: return io_uring_enter_(thread, argument);
	case SYS_pselect6: return pselect6(thread, argument);
	}
	return LH_NOT_MINE;
}
