/*
 * signal.c - the module's handlers, and how a handler of the program is run from them.
 *
 * Every handler that the kernel knows is `entered`, on the thread's own alternate stack, so that a frame
 * never lands on absent memory. Of the program's handlers the kernel knows nothing: `deliver` copies the
 * frame that the kernel has built to where the program wants it, touching that memory as any program does
 * (an absent page is a nested SIGBUS, answered by the claim), then turns the kernel's frame into one that
 * "returns" into the program's handler. The mask of the handler and the change of stacks thus come with one
 * rt_sigreturn. The handler returns to lh__restorer, which copies the frame into the thread's record, since
 * the kernel could not read absent memory, and lets the kernel return from there.
 *
 *     program | kernel's frame | entered, deliver | rt_sigreturn | program's handler | lh__restorer | program
 *     stack     alternate        alternate                         program's choice    record's stack
 *
 * Masks: the kernel never blocks SIGBUS, SIGSEGV and SIGSYS. What the program believes about these three is
 * kept in special_blocked; each frame shows it, and each return from a frame sets it.
 */
#include "port/page/intercept/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef SYS_USER_DISPATCH
#define SYS_USER_DISPATCH 2
#endif
#define ARCH_X86_64 0xc000003e
#define SA_RESTORER_FLAG 0x04000000
#define FLAGS_CLEARED (0x400 | 0x10000 | 0x100) /* direction, resume, trap */

static int index_of(int sig)
{
	return sig == SIGBUS ? 0 : sig == SIGSEGV ? 1 : sig == SIGSYS ? 2 : -1;
}

void lh__actions_lock(struct lh_actions *actions)
{
	while (__atomic_exchange_n(&actions->lock, 1, __ATOMIC_ACQUIRE))
		LH_THREAD_CALL(SYS_sched_yield);
}

void lh__actions_unlock(struct lh_actions *actions)
{
	__atomic_store_n(&actions->lock, 0, __ATOMIC_RELEASE);
}

void lh__stack_reset(struct lh_thread *thread)
{
	thread->stack = (stack_t){ .ss_flags = SS_DISABLE };
}

/* Raised by what the thread did, not sent by somebody. */
static int is_fault(int sig, const siginfo_t *info)
{
	return index_of(sig) >= 0 && info->si_code > 0;
}

static void requeue(int sig, siginfo_t *info)
{
	long pid = LH_THREAD_CALL(SYS_getpid), tid = LH_THREAD_CALL(SYS_gettid);

	if (LH_THREAD_CALL(SYS_rt_tgsigqueueinfo, pid, tid, sig, info) < 0)
		LH_THREAD_CALL(SYS_tgkill, pid, tid, sig);
}

/* The default action. A fault happens again when the frame is left; a sent signal is sent again. */
static void die(int sig, siginfo_t *info, struct lh_ucontext *context)
{
	const struct lh_action standard = { 0 };

	lh__signal_real(sig, &standard);
	context->mask &= ~LH_BIT(sig);
	if (sig == SIGSYS || !is_fault(sig, info) || info->si_code == SI_KERNEL)
		requeue(sig, info);
}

static size_t state_size(const void *state)
{
	/* The kernel's note in the legacy area: magic, size with the closing magic, features, size. */
	struct {
		uint32_t magic, extended;
	} note;

	if (!state)
		return 0;
	memcpy(&note, (const char *)state + 464, sizeof note);
	return note.magic == 0x46505853 && note.extended <= LH_LARGEST_XSTATE ? note.extended : 512;
}

/* Where the frame goes: below the red zone, or on top of the program's alternate stack. 0: no room. */
static uint64_t place(const struct lh_thread *thread, const struct lh_action *action, uint64_t rsp,
                      size_t state, uint64_t *state_at)
{
	int nested = lh__on_stack(thread, rsp), entering = 0;
	uint64_t bottom = (uint64_t)thread->stack.ss_sp, at = rsp - 128;

	if (action->flags & SA_ONSTACK && !nested && thread->stack.ss_size != 0) {
		at = bottom + thread->stack.ss_size;
		entering = 1;
	}
	*state_at = state ? (at - state) & ~63ull : at;
	at = ((*state_at - sizeof(struct lh_frame)) & ~15ull) - 8;
	if ((nested || entering) && (at <= bottom || at - bottom > thread->stack.ss_size))
		return 0;
	return at;
}

/* Writes the program's frame; returns its address, or 0 where there is no memory. */
static uint64_t build(struct lh_thread *thread, const struct lh_action *action, const siginfo_t *info,
                      const struct lh_ucontext *context)
{
	size_t size = state_size(context->machine.fpregs);
	uint64_t rsp = (uint64_t)context->machine.gregs[REG_RSP], state_at, at;
	struct lh_frame frame = { .return_address = (uint64_t)lh__restorer,
		                  .context = *context,
		                  .info = *info };

	at = place(thread, action, rsp, size, &state_at);
	if (!at)
		return 0;
	frame.context.machine.gregs[REG_RIP] =
		(greg_t)lh__moved_from((uint64_t)context->machine.gregs[REG_RIP]);
	frame.context.machine.fpregs = size ? (fpregset_t)state_at : NULL;
	frame.context.stack = thread->stack;
	frame.context.mask = context->mask | thread->special_blocked;
	if (lh__intercept_copy((void *)state_at, context->machine.fpregs, size) ||
	    lh__intercept_copy((void *)at, &frame, sizeof frame))
		return 0;
	return at;
}

static void run_handler(struct lh_thread *thread, int sig, const struct lh_action *action, uint64_t frame,
                        const uint64_t *temporary, struct lh_ucontext *context)
{
	uint64_t mask = (temporary ? *temporary : context->mask | thread->special_blocked) | action->mask;
	greg_t *gregs = context->machine.gregs;

	if (!(action->flags & SA_NODEFER))
		mask |= LH_BIT(sig);
	mask &= ~LH_UNBLOCKABLE;
	if (action->flags & SA_ONSTACK && thread->stack.ss_flags & LH_AUTODISARM)
		lh__stack_reset(thread);
	thread->special_blocked = mask & LH_SPECIAL;
	context->mask = mask & ~LH_SPECIAL;
	gregs[REG_RIP] = (greg_t)action->handler;
	gregs[REG_RSP] = (greg_t)frame;
	gregs[REG_RDI] = sig;
	gregs[REG_RSI] = (greg_t)(frame + offsetof(struct lh_frame, info));
	gregs[REG_RDX] = (greg_t)(frame + offsetof(struct lh_frame, context));
	gregs[REG_RAX] = 0;
	gregs[REG_EFL] &= ~FLAGS_CLEARED;
	context->machine.fpregs = NULL; /* a handler starts with fresh vector state */
	thread->signals++;
}

/* The program's action for this signal, at its delivery: once only where it asked so. */
static struct lh_action take_action(struct lh_thread *thread, int sig)
{
	const struct lh_action standard = { 0 };
	struct lh_action action;

	lh__actions_lock(thread->actions);
	action = thread->actions->of[sig];
	if (action.handler > (uint64_t)SIG_IGN && action.flags & SA_RESETHAND) {
		thread->actions->of[sig].handler = (uint64_t)SIG_DFL;
		if (index_of(sig) < 0)
			lh__signal_real(sig, &standard);
	}
	lh__actions_unlock(thread->actions);
	return action;
}

static void keep_special(struct lh_thread *thread, int sig, const siginfo_t *info)
{
	if (!(thread->special_pending & LH_BIT(sig)))
		thread->special_info[index_of(sig)] = *info;
	thread->special_pending |= LH_BIT(sig);
}

/* The context is the program's. Leaves it as the start of the program's handler, or as it is. */
static void deliver(struct lh_thread *thread, int sig, siginfo_t *info, struct lh_ucontext *context,
                    const uint64_t *temporary)
{
	int fault = is_fault(sig, info);
	uint64_t blocked = temporary ? *temporary : thread->special_blocked, frame;
	struct lh_action action;

	if (blocked & LH_BIT(sig) & LH_SPECIAL)
		return fault ? die(sig, info, context) : keep_special(thread, sig, info);
	action = take_action(thread, sig);
	if (action.handler == (uint64_t)SIG_IGN)
		return fault ? die(sig, info, context) : (void)0;
	if (action.handler == (uint64_t)SIG_DFL)
		return index_of(sig) >= 0 ? die(sig, info, context) : requeue(sig, info);
	frame = build(thread, &action, info, context);
	if (frame)
		return run_handler(thread, sig, &action, frame, temporary, context);
	*info = (siginfo_t){ .si_signo = SIGSEGV, .si_code = SI_KERNEL };
	if (sig == SIGSEGV)
		return die(sig, info, context);
	deliver(thread, SIGSEGV, info, context, temporary);
}

/* The bell of a stub: the hook has ended and a signal waits. */
static void ring(struct lh_thread *thread, struct lh_ucontext *context)
{
	int sig = (int)thread->deferred, temporary = (int)thread->deferred_in_temporary;
	int returning = lh__is_bell((uint64_t)context->machine.gregs[REG_RIP]) == 2;
	uint64_t shown = thread->deferred_temporary;
	siginfo_t info = thread->deferred_info;

	lh__normalise(thread, context);
	if (!returning) /* the frame of a sigreturn brings its own */
		context->mask = thread->deferred_mask;
	thread->deferred = thread->deferred_in_temporary = 0;
	deliver(thread, sig, &info, context, temporary ? &shown : NULL);
}

static void defer(struct lh_thread *thread, int sig, const siginfo_t *info, struct lh_ucontext *context)
{
	greg_t *gregs = context->machine.gregs;
	uint64_t rip = (uint64_t)gregs[REG_RIP];

	if (thread->deferred)
		return keep_special(thread, sig, info);
	if (lh__before_program_call(rip)) {
		/*
		 * A wait with a time limit that was to be taken up again, as when a stopped process goes on:
		 * such a wait ends with the handler. All else has not begun.
		 */
		int resumed = gregs[REG_RAX] == SYS_restart_syscall;

		gregs[REG_RIP] = (greg_t)lh__program_call_end();
		gregs[REG_RAX] = resumed ? -EINTR : LH_INTERCEPT_RESTART;
	}
	thread->deferred_in_temporary =
		thread->temporary_active && lh__after_program_call(rip) && gregs[REG_RAX] == -EINTR;
	thread->deferred_temporary = thread->temporary;
	thread->deferred_mask = context->mask;
	thread->deferred_info = *info;
	thread->deferrals++;
	thread->deferred = (uint32_t)sig;
	context->mask = ~LH_SPECIAL;
}

/* A special signal that was kept while the program blocked it, and no longer does. */
void lh__signal_pending(struct lh_thread *thread)
{
	uint64_t ready = thread->special_pending & ~thread->special_blocked, mask;
	int sig;

	if (!ready)
		return;
	mask = lh__mask_set(~LH_SPECIAL);
	if (thread->deferred)
		return;
	sig = __builtin_ctzll(ready) + 1;
	thread->special_pending &= ~LH_BIT(sig);
	thread->deferred_mask = mask;
	thread->deferred_info = thread->special_info[index_of(sig)];
	thread->deferred = (uint32_t)sig;
}

/* A signal in the module's code. */
static void inside(struct lh_thread *thread, int sig, siginfo_t *info, struct lh_ucontext *context)
{
	if (is_fault(sig, info) && sig != SIGSYS)
		return die(sig, info, context);
	if (is_fault(sig, info) && !lh__after_program_call((uint64_t)context->machine.gregs[REG_RIP])) {
		context->machine.gregs[REG_RAX] =
			-EPERM; /* a filter of the program met a call of the module */
		return;
	}
	defer(thread, sig, info, context);
}

/* The net has caught a call: let the stub do it, once this frame is left. */
static void caught(struct lh_thread *thread, const siginfo_t *info, struct lh_ucontext *context)
{
	greg_t *gregs = context->machine.gregs;
	int native = (uint32_t)info->si_arch == ARCH_X86_64;
	uint64_t back = (uint64_t)gregs[REG_RIP];

	if (thread && !thread->in_agent)
		thread->calls_net++;
	if (!thread || thread->in_agent || !native || !lh__wanted(gregs[REG_RAX])) {
		gregs[REG_RSP] -= 136;
		memcpy((void *)gregs[REG_RSP], &back, 8);
		gregs[REG_RIP] = (greg_t)(native ? lh__stub_net : lh__stub_int80);
		return;
	}
	memcpy(&thread->regs,
	       &(__typeof__(thread->regs)){
		       .rax = (uint64_t)gregs[REG_RAX],
		       .rbx = (uint64_t)gregs[REG_RBX],
		       .rcx = LH_WAY_NET,
		       .rdx = (uint64_t)gregs[REG_RDX],
		       .rsi = (uint64_t)gregs[REG_RSI],
		       .rdi = (uint64_t)gregs[REG_RDI],
		       .rbp = (uint64_t)gregs[REG_RBP],
		       .rsp = (uint64_t)gregs[REG_RSP],
		       .r8 = (uint64_t)gregs[REG_R8],
		       .r9 = (uint64_t)gregs[REG_R9],
		       .r10 = (uint64_t)gregs[REG_R10],
		       .r12 = (uint64_t)gregs[REG_R12],
		       .r13 = (uint64_t)gregs[REG_R13],
		       .r14 = (uint64_t)gregs[REG_R14],
		       .r15 = (uint64_t)gregs[REG_R15],
		       .rip = back,
		       .flags = (uint64_t)gregs[REG_EFL],
	       },
	       sizeof thread->regs);
	thread->in_agent = 1;
	gregs[REG_RCX] = (greg_t)thread;
	gregs[REG_RIP] = (greg_t)lh__stub_saved;
}

static int claimed(int sig, siginfo_t *info, struct lh_ucontext *context)
{
	int index = index_of(sig);
	lh_intercept_claim *handler;

	if (index < 0)
		return 0;
	handler = __atomic_load_n(&lh__intercept_state->claim[index].handler, __ATOMIC_ACQUIRE);
	if (handler && handler(lh__intercept_state->claim[index].context, sig, info, context))
		return 1;
	return is_fault(sig, info) && lh__copy_fixup(context);
}

static void entered(int sig, siginfo_t *info, void *raw)
{
	struct lh_ucontext *context = raw;
	struct lh_thread *thread;

	if (sig == SIGSEGV && lh__is_bell((uint64_t)context->machine.gregs[REG_RIP]))
		return ring(lh__thread_current(), context);
	if (claimed(sig, info, context))
		return;
	thread = lh__thread_current();
	if (sig == SIGSYS && info->si_code == SYS_USER_DISPATCH)
		return caught(thread, info, context);
	if (!thread) /* a thread that the program does not know */
		return is_fault(sig, info) ? die(sig, info, context) : (void)0;
	if (thread->in_agent)
		return inside(thread, sig, info, context);
	lh__normalise(thread, context);
	deliver(thread, sig, info, context, NULL);
}

/* The context, then the vector state, of a frame of the program's, into the record. */
static int take_frame(struct lh_thread *thread, const struct lh_ucontext *from)
{
	struct lh_frame *frame = (struct lh_frame *)((char *)thread + LH_T_FRAME);
	char *state = (char *)frame + 512;
	const char *old;
	size_t size = 512;

	if (lh__intercept_copy(&frame->context, from, sizeof frame->context))
		return 0;
	old = (const char *)frame->context.machine.fpregs;
	if (!old)
		return 1;
	if (lh__intercept_copy(state, old, 512))
		return 0;
	size = state_size(state);
	frame->context.machine.fpregs = (fpregset_t)state;
	return size == 512 || !lh__intercept_copy(state + 512, old + 512, size - 512);
}

/* The program's handler has returned, to lh__restorer; on the record's stack, in_agent. */
_Noreturn void lh__restored(struct lh_thread *thread, struct lh_ucontext *from)
{
	const struct lh_interception *state = lh__intercept_state;

	thread->calls_site++;
	thread->regs.rsp = (uint64_t)from;
	thread->trap = (struct lh_trap){ .nr = SYS_rt_sigreturn,
		                         .return_address = (uint64_t)lh__restorer,
		                         .stack_pointer = (uint64_t)from,
		                         .thread = thread };
	if (state->hooked[0] >> SYS_rt_sigreturn & 1)
		state->config.hook(state->config.context, &thread->trap);
	lh__sigreturn(thread, from);
}

/* rt_sigreturn of a frame of the program's. */
void lh__sigreturn(struct lh_thread *thread, struct lh_ucontext *from)
{
	struct lh_ucontext *context = &((struct lh_frame *)((char *)thread + LH_T_FRAME))->context;
	siginfo_t info = { .si_signo = SIGSEGV, .si_code = SI_KERNEL };

	if (!take_frame(thread, from)) {
		lh__signal_real(SIGSEGV, &(struct lh_action){ 0 });
		requeue(SIGSEGV, &info);
	}
	context->machine.gregs[REG_RIP] = (greg_t)lh__moved_to((uint64_t)context->machine.gregs[REG_RIP]);
	(void)lh__stack_change(thread, &context->stack, (uint64_t)from - 8);
	thread->special_blocked = context->mask & LH_SPECIAL;
	context->mask &= ~(LH_SPECIAL | LH_UNBLOCKABLE);
	context->stack = (stack_t){ .ss_sp = (char *)thread + LH_T_ALT, .ss_size = LH_T_ALT_SIZE };
	lh__signal_pending(thread);
	lh__sigreturn_final(thread);
}

/* Tells the kernel. A handler of the program becomes `entered`. */
void lh__signal_real(int sig, const struct lh_action *action)
{
	struct lh_action real = *action;

	if (real.handler > (uint64_t)SIG_IGN) {
		real.handler = (uint64_t)entered;
		real.flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER_FLAG |
		             (real.flags & (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT));
		if (index_of(sig) >= 0) /* delivering one may touch absent memory */
			real.flags |= SA_NODEFER;
		real.restorer = (uint64_t)lh__kernel_restorer;
		real.mask = ~LH_SPECIAL;
	}
	LH_THREAD_CALL(SYS_rt_sigaction, sig, &real, NULL, 8);
}

void lh__signal_special(void)
{
	const struct lh_action any = { .handler = (uint64_t)entered, .flags = SA_RESTART };

	lh__signal_real(SIGBUS, &any);
	lh__signal_real(SIGSEGV, &any);
	lh__signal_real(SIGSYS, &any);
}

/* Takes over what the program has set so far. */
int lh__signal_open(void)
{
	struct lh_actions *actions = &lh__intercept_state->actions;

	for (int sig = 1; sig <= LH_SIGNALS; sig++)
		LH_THREAD_CALL(SYS_rt_sigaction, sig, NULL, &actions->of[sig], 8);
	for (int sig = 1; sig <= LH_SIGNALS; sig++)
		if (actions->of[sig].handler > (uint64_t)SIG_IGN && index_of(sig) < 0)
			lh__signal_real(sig, &actions->of[sig]);
	lh__signal_special();
	return 0;
}

int lh__intercept_signal(int sig, lh_intercept_claim *handler, void *context)
{
	int index = index_of(sig);

	if (index < 0 || sig == SIGSYS || !lh__intercept_state)
		return -EINVAL;
	lh__intercept_state->claim[index].context = context;
	__atomic_store_n(&lh__intercept_state->claim[index].handler, handler, __ATOMIC_RELEASE);
	return 0;
}
