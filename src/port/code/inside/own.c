/*
 * own.c - a SIGTRAP that is not the home's: the program gets it as the kernel would have given it.
 */
#include "port/code/inside/internal.h"

/* Dies of it as soon as the frame is left, so that a core shows the program and not the agent. */
static void die(siginfo_t *info, ucontext_t *context)
{
	const struct lh_action standard = { 0, 0, 0, 0 };

	lh__inside_block();
	LH_CALL4(SYS_rt_sigaction, SIGTRAP, &standard, 0, 8);
	lh__inside_send(info);
	*lh__inside_mask(context) &= ~LH_TRAP_BIT;
}

static void run_handler(const struct lh_action *action, siginfo_t *info, ucontext_t *context)
{
	uint64_t *mask = lh__inside_mask(context), blocked = *mask | action->mask;
	void (*handler)(int, siginfo_t *, void *);

	if (!(action->flags & SA_NODEFER))
		blocked |= LH_TRAP_BIT;
	handler = (__typeof__(handler))action->handler;
	if (action->flags & SA_RESETHAND)
		lh__inside_reset_trap_action();
	lh__inside_set_blocks_trap(blocked & LH_TRAP_BIT);
	lh__inside_unblock(blocked & ~LH_TRAP_BIT);
	handler(SIGTRAP, info, context);
	lh__inside_set_blocks_trap(*mask & LH_TRAP_BIT);
	*mask &= ~LH_TRAP_BIT;
}

void lh__inside_own(siginfo_t *info, ucontext_t *context)
{
	bool blocked = lh__inside_blocks_trap(), forced = info->si_code > 0;
	struct lh_action action = lh__inside_trap_action();

	if (forced && (blocked || action.handler == (uint64_t)SIG_IGN))
		die(info, context);
	else if (blocked)
		lh__inside_hold(info);
	else if (action.handler == (uint64_t)SIG_DFL)
		die(info, context);
	else if (action.handler != (uint64_t)SIG_IGN)
		run_handler(&action, info, context);
}
