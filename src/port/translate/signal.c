/*
 * signal.c - the signals of a program that is translated whole (process.h).
 *
 * The kernel knows one handler, on a stack of the context's own, with the program's mask and what else it has
 * asked for. Who comes there finds out where the program is (held.c). If it is at a boundary, or an
 * instruction has raised the signal, the frame is made true and copied to where the program expects it, and
 * the thread goes on, translated, in the program's handler. If not, the same signal is sent again to the same
 * thread, all are blocked, and it goes on until the block's end, where they are unblocked.
 *
 * What kills and writes a core comes here too, even where the program has no handler: so that it dies with
 * its own registers.
 */
#include "port/translate/inside.h"

#include <errno.h>

#define FLAG_RESTORER 0x04000000u
#define FLAG_UNSUPPORTED 0x00000400u
#define RED_ZONE 128u
#define FIRST_QUEUED 32
#define QUEUED 64
#define LEAST_STACK 2048u
#define BIT(signal) ((uint64_t)1 << ((signal)-1))
/* Those that an instruction raises. */
#define RAISED (BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGSYS))
#define WRITES_CORE (RAISED | BIT(SIGQUIT) | BIT(SIGABRT) | BIT(SIGXCPU) | BIT(SIGXFSZ))
#define DIRECTION 0x400u
#define TRAP 0x100u
#define RESUME_FLAG 0x10000u
#define XSTATE_MAGIC 0x46505853u
#define FX_BYTES 512u

/* The kernel's; the C library's has more. */
struct frame {
	uint64_t restorer;
	struct {
		uint64_t flags;
		uint64_t link;
		struct lh_stack stack;
		uint64_t general[23];
		uint64_t fpstate;
		uint64_t reserved[8];
		uint64_t mask;
	} context;
	siginfo_t info;
};

/* At 464 bytes of the legacy area. */
struct state_size {
	uint32_t magic, extended;
};

bool lh__signal_entered(struct lh_translated_thread *thread, int signal, siginfo_t *info,
                        ucontext_t *context);

static bool raised(int signal, const siginfo_t *info)
{
	return BIT(signal) & RAISED && info->si_code > 0 &&
	       !(signal == SIGBUS && info->si_code == BUS_MCEERR_AO);
}

/* ---- what the program asks for */

/* What the kernel is told, where the program has asked for this. */
static struct lh_action as_kernel(int signal, const struct lh_action *action)
{
	struct lh_action out = *action;
	bool none = action->handler == (uint64_t)(uintptr_t)SIG_DFL;

	if (none && !(BIT(signal) & WRITES_CORE))
		return out;
	/* A program's guarded pages fault even where it ignores that. */
	if (action->handler == (uint64_t)(uintptr_t)SIG_IGN && signal != SIGSEGV)
		return out;
	if (none || action->handler == (uint64_t)(uintptr_t)SIG_IGN) {
		out.flags = SA_RESTART;
		out.mask = 0;
	}
	out.handler = LH_ADDRESS(lh__process_entered);
	out.flags &= ~(uint64_t)SA_RESETHAND;
	out.flags |= SA_SIGINFO | SA_ONSTACK | FLAG_RESTORER;
	if (!(action->flags & FLAG_RESTORER))
		out.restorer = LH_ADDRESS(lh__translate_sigreturn);
	return out;
}

static long tell_kernel(const struct lh_sys *sys, int signal, const struct lh_action *action)
{
	struct lh_action told = as_kernel(signal, action);

	return LH_SYS(sys, SYS_rt_sigaction, signal, &told, NULL, 8);
}

bool lh__signal_action(struct lh_translated_thread *thread, struct lh_translate_call *call)
{
	const struct lh_sys *sys = thread->translator->sys;
	struct lh_actions *actions = thread->actions;
	long signal = call->argument[0];
	struct lh_action now, before;

	if (signal < 1 || signal > 64 || signal == SIGKILL || signal == SIGSTOP || call->argument[3] != 8)
		return false;
	call->result = 0;
	if (call->argument[1])
		call->result = lh__peek(sys, (uint64_t)call->argument[1], &now, sizeof(now));
	if (call->result < 0)
		return true;
	lh__process_hold(thread);
	lh__lock(sys, &actions->lock);
	before = actions->of[signal];
	if (call->argument[1]) {
		now.flags &= ~(uint64_t)FLAG_UNSUPPORTED;
		now.mask &= ~(BIT(SIGKILL) | BIT(SIGSTOP));
		call->result = tell_kernel(sys, (int)signal, &now);
		if (call->result == 0)
			actions->of[signal] = now;
	}
	lh__unlock(sys, &actions->lock);
	if (call->result == 0 && call->argument[2])
		call->result = lh__poke(sys, (uint64_t)call->argument[2], &before, sizeof(before));
	return true;
}

/* ---- masks */

/*
 * The kernel never blocks SIGSEGV: pages that are guarded (changed.c) fault at any time. That the program
 * blocks it is kept here.
 */
static void set_mask(struct lh_translated_thread *thread, uint64_t mask)
{
	thread->faults_blocked = mask & BIT(SIGSEGV);
	thread->mask = mask & ~BIT(SIGSEGV);
}

static uint64_t true_mask(const struct lh_translated_thread *thread, uint64_t kernel)
{
	return kernel | (thread->faults_blocked ? BIT(SIGSEGV) : 0);
}

bool lh__signal_mask(struct lh_translated_thread *thread, struct lh_translate_call *call)
{
	const struct lh_sys *sys = thread->translator->sys;
	uint64_t set = 0, before;
	long how = call->argument[0];

	if (call->argument[3] != 8 || how < SIG_BLOCK || how > SIG_SETMASK)
		return false;
	if (call->argument[1] && lh__peek(sys, (uint64_t)call->argument[1], &set, sizeof(set)) < 0)
		return false;
	if (!thread->faults_blocked && !(set & BIT(SIGSEGV)))
		return false;
	lh__process_hold(thread);
	before = true_mask(thread, thread->mask);
	set &= ~(BIT(SIGKILL) | BIT(SIGSTOP));
	if (call->argument[1])
		set_mask(thread, how == SIG_BLOCK ? before | set : how == SIG_UNBLOCK ? before & ~set : set);
	call->result =
		call->argument[2] ? lh__poke(sys, (uint64_t)call->argument[2], &before, sizeof(before)) : 0;
	return true;
}

/* ---- alternate stacks */

static bool within(const struct lh_stack *stack, uint64_t pointer)
{
	return !(stack->flags & (int32_t)LH_STACK_DISARMS) && pointer > stack->start &&
	       pointer - stack->start <= stack->size;
}

static int32_t state_of(const struct lh_stack *stack, uint64_t pointer)
{
	return stack->size == 0 ? LH_STACK_DISABLED : within(stack, pointer) ? SS_ONSTACK : 0;
}

static int set_stack(struct lh_translated_thread *thread, const struct lh_stack *stack, uint64_t pointer,
                     uint64_t least)
{
	int32_t mode = stack->flags & ~(int32_t)LH_STACK_DISARMS;

	if (state_of(&thread->alternate, pointer) == SS_ONSTACK)
		return -EPERM;
	if (mode != LH_STACK_DISABLED && mode != SS_ONSTACK && mode != 0)
		return -EINVAL;
	if (mode == LH_STACK_DISABLED) {
		thread->alternate = (struct lh_stack){ .flags = stack->flags };
		return 0;
	}
	if (stack->size < least)
		return -ENOMEM;
	thread->alternate = *stack;
	return 0;
}

bool lh__signal_stack(struct lh_translated_thread *thread, struct lh_translate_call *call)
{
	const struct lh_sys *sys = thread->translator->sys;
	struct lh_stack now, before = thread->alternate;

	before.flags = state_of(&before, call->stack_pointer) | (before.flags & (int32_t)LH_STACK_DISARMS);
	before.unused = 0;
	call->result = 0;
	if (call->argument[0]) {
		call->result = lh__peek(sys, (uint64_t)call->argument[0], &now, sizeof(now));
		if (call->result == 0)
			call->result = set_stack(thread, &now, call->stack_pointer, LEAST_STACK);
	}
	if (call->result == 0 && call->argument[1])
		call->result = lh__poke(sys, (uint64_t)call->argument[1], &before, sizeof(before));
	return true;
}

static struct lh_stack own_stack(const struct lh_translated_thread *thread)
{
	return (struct lh_stack){ .start = LH_ADDRESS(thread) - STACK_BYTES - SIGNAL_BYTES,
		                  .size = SIGNAL_BYTES };
}

void lh__signal_own_stack(struct lh_translated_thread *thread)
{
	struct lh_stack stack = own_stack(thread);

	LH_SYS(thread->translator->sys, SYS_sigaltstack, &stack, NULL);
}

/* ---- going back */

/*
 * The program's own frame, which is made to lead to the translator, and to leave the kernel's alternate stack
 * as it is. It is the program's memory: where it is not there, the program is killed, as it would be.
 */
uint64_t lh__signal_return(struct lh_translated_thread *thread)
{
	struct frame *frame = (struct frame *)(uintptr_t)(thread->general[RSP] - 8);
	uint64_t *general = frame->context.general;

	lh__process_hold(thread);
	set_stack(thread, &frame->context.stack, general[REG_RSP], 0);
	frame->context.stack = own_stack(thread);
	set_mask(thread, frame->context.mask);
	frame->context.mask &= ~BIT(SIGSEGV);
	thread->target = general[REG_RIP];
	general[REG_RIP] = LH_ADDRESS(lh__translate_enter);
	return LH_ADDRESS(lh__translate_sigreturn);
}

/* ---- coming */

static void send_again(const struct lh_sys *sys, int signal, siginfo_t *info)
{
	LH_SYS(sys, SYS_rt_tgsigqueueinfo, LH_SYS(sys, SYS_getpid), LH_SYS(sys, SYS_gettid), signal, info);
}

/* Of those with a queue the first has to come first again. */
static void send_in_order(const struct lh_sys *sys, int signal, siginfo_t *info)
{
	struct timespec now = { 0, 0 };
	uint64_t set = BIT(signal);
	siginfo_t others[QUEUED];
	int count = 0;

	while (signal >= FIRST_QUEUED && count < QUEUED &&
	       LH_SYS(sys, SYS_rt_sigtimedwait, &set, &others[count], &now, 8) == signal)
		count++;
	send_again(sys, signal, info);
	for (int i = 0; i < count; i++)
		send_again(sys, signal, &others[i]);
}

/* As if there had been no handler: it comes again when the thread is at the program's own address. */
static bool die(struct lh_translated_thread *thread, int signal, siginfo_t *info, ucontext_t *context)
{
	const struct lh_sys *sys = thread->translator->sys;
	struct lh_action none = { 0 };

	LH_SYS(sys, SYS_rt_sigaction, signal, &none, NULL, 8);
	send_again(sys, signal, info);
	*(uint64_t *)(void *)&context->uc_sigmask &= ~BIT(signal);
	return false;
}

/* Takes the program's handler, if it has one. */
static struct lh_action take_action(struct lh_translated_thread *thread, int signal)
{
	const struct lh_sys *sys = thread->translator->sys;
	struct lh_actions *actions = thread->actions;
	struct lh_action action;

	lh__lock(sys, &actions->lock);
	action = actions->of[signal];
	if (action.handler > 1 && action.flags & SA_RESETHAND) {
		actions->of[signal].handler = 0;
		tell_kernel(sys, signal, &actions->of[signal]);
	}
	lh__unlock(sys, &actions->lock);
	return action;
}

static size_t state_bytes(uint64_t fpstate)
{
	const struct state_size *size = (const struct state_size *)(uintptr_t)(fpstate + 464);

	return size->magic == XSTATE_MAGIC ? size->extended : FX_BYTES;
}

/* Where the kernel would put the frame. 0: nowhere. */
static uint64_t place(struct lh_translated_thread *thread, const struct lh_action *action, uint64_t pointer,
                      size_t state, uint64_t *fpstate)
{
	bool on = within(&thread->alternate, pointer), enters = false;
	uint64_t at = pointer - RED_ZONE;

	if (action->flags & SA_ONSTACK && state_of(&thread->alternate, at) == 0) {
		at = thread->alternate.start + thread->alternate.size;
		enters = true;
	}
	*fpstate = (at - state) & ~(uint64_t)63;
	at = ((*fpstate - sizeof(struct frame)) & ~(uint64_t)15) - 8;
	if ((on || enters) && at - thread->alternate.start > thread->alternate.size)
		return 0;
	return at;
}

static bool deliver(struct lh_translated_thread *thread, int signal, siginfo_t *info, ucontext_t *context,
                    uint64_t mask)
{
	const struct frame *from = (const struct frame *)(const void *)((const uint8_t *)context - 8);
	struct lh_action action = take_action(thread, signal);
	uint64_t fpstate, state = state_bytes(from->context.fpstate), at;
	struct frame *frame;

	if (action.handler <= 1 || (raised(signal, info) && from->context.mask & BIT(signal))) {
		if (action.handler == 1 && !raised(signal, info))
			return false;
		return die(thread, signal, info, context);
	}
	at = place(thread, &action, from->context.general[REG_RSP], state, &fpstate);
	if (!at)
		return die(thread, SIGSEGV, info, context);
	frame = (struct frame *)(uintptr_t)at;
	__builtin_memcpy((void *)(uintptr_t)fpstate, (const void *)(uintptr_t)from->context.fpstate, state);
	*frame = *from;
	frame->restorer = action.restorer;
	frame->context.fpstate = fpstate;
	frame->context.stack = thread->alternate;
	if (thread->alternate.flags & (int32_t)LH_STACK_DISARMS)
		thread->alternate = (struct lh_stack){ .flags = LH_STACK_DISABLED };
	for (int i = 0; i < 16; i++)
		thread->general[i] = lh__register(context, i);
	thread->general[RAX] = 0;
	thread->general[RDI] = (uint64_t)signal;
	thread->general[RSI] = LH_ADDRESS(&frame->info);
	thread->general[RDX] = LH_ADDRESS(&frame->context);
	thread->general[RSP] = at;
	((uint64_t *)thread->stack)[-1] =
		from->context.general[REG_EFL] & ~(uint64_t)(DIRECTION | TRAP | RESUME_FLAG);
	thread->target = action.handler;
	thread->after = LH_ADDRESS(lh__translate_enter);
	thread->resume = LH_ADDRESS(lh__translate_unblock);
	thread->boundary = true;
	set_mask(thread, mask);
	thread->held = 1;
	return true;
}

/* It comes again, at the block's end. Those that instructions raise may still come. */
static bool later(struct lh_translated_thread *thread, int signal, siginfo_t *info, ucontext_t *context)
{
	uint64_t *mask = (uint64_t *)(void *)&context->uc_sigmask;

	send_in_order(thread->translator->sys, signal, info);
	thread->mask = *mask;
	thread->held = 1;
	*mask = ~RAISED | BIT(signal);
	return false;
}

/* Another signal's handler has been entered, and has not come so far that it could block this one. */
static bool nested(struct lh_translated_thread *thread, int signal, siginfo_t *info, ucontext_t *context)
{
	uint64_t *mask = (uint64_t *)(void *)&context->uc_sigmask;

	if (raised(signal, info))
		return die(thread, signal, info, context);
	send_in_order(thread->translator->sys, signal, info);
	thread->nested = true;
	thread->nested_mask = *mask;
	*mask = ~(uint64_t)0;
	return false;
}

/* What it says of where it came from; si_call_addr lies there too. */
static void make_true(siginfo_t *info, uint64_t code, uint64_t program)
{
	if (LH_ADDRESS(info->si_addr) == code)
		info->si_addr = (void *)(uintptr_t)program;
}

/* Whether the thread goes on in a handler; else where the frame says. */
bool lh__signal_entered(struct lh_translated_thread *thread, int signal, siginfo_t *info, ucontext_t *context)
{
	struct lh_translator *translator = thread->translator;
	uint64_t all = ~0ull, mask = 0, pointer = (uint64_t)context->uc_mcontext.gregs[REG_RSP];
	uint64_t *before = (uint64_t *)(void *)&context->uc_sigmask;
	bool synchronous = raised(signal, info);
	uint64_t address;

	LH_SYS(translator->sys, SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, 8);
	if (pointer - own_stack(thread).start < SIGNAL_BYTES)
		return nested(thread, signal, info, context);
	if (thread->nested)
		mask = thread->nested_mask;
	thread->nested = false;
	if (synchronous && lh__changed_fault(translator, info, context))
		return false;
	address = (uint64_t)context->uc_mcontext.gregs[REG_RIP];
	if (!lh__held_true(thread, context, synchronous)) {
		if (synchronous)
			return die(thread, signal, info, context);
		return later(thread, signal, info, context);
	}
	if (synchronous)
		make_true(info, address, (uint64_t)context->uc_mcontext.gregs[REG_RIP]);
	if (thread->held) {
		mask = (mask & ~*before) | thread->mask;
		*before = thread->mask;
	}
	*before = true_mask(thread, *before);
	mask = true_mask(thread, mask);
	return deliver(thread, signal, info, context, mask);
}

/* ---- taking over */

void lh__signal_take(struct lh_translator *translator, struct lh_translated_thread *thread)
{
	struct lh_actions *actions = &translator->process->actions;
	const struct lh_sys *sys = translator->sys;

	thread->actions = actions;
	set_mask(thread, thread->mask);
	LH_SYS(sys, SYS_sigaltstack, NULL, &thread->alternate);
	lh__signal_own_stack(thread);
	for (int signal = 1; signal <= 64; signal++)
		if (LH_SYS(sys, SYS_rt_sigaction, signal, NULL, &actions->of[signal], 8) == 0 &&
		    signal != SIGKILL && signal != SIGSTOP)
			tell_kernel(sys, signal, &actions->of[signal]);
}
