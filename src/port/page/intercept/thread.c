/*
 * thread.c - the record of each thread, and the calls that begin or end a flow of control.
 *
 * A child that shares memory (a thread, a vfork) starts on the stack of its own record, prepares itself
 * (gs, alternate stack, the net), and leaves through the same exit as any seen call, with the parent's
 * registers, rax 0 and the stack that the program has asked for. So nothing of the parent's is touched
 * while a vfork's child runs on the same program stack.
 *
 * A child with a copy of the memory simply returns from the call, on its copy of the record.
 */
#include "port/page/intercept/internal.h"

#include <errno.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/mman.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1
#endif

static void lock(uint32_t *word)
{
	while (__atomic_exchange_n(word, 1, __ATOMIC_ACQUIRE))
		LH_THREAD_CALL(SYS_sched_yield);
}

static void unlock(uint32_t *word)
{
	__atomic_store_n(word, 0, __ATOMIC_RELEASE);
}

static struct lh_thread *record(uint64_t index)
{
	return (struct lh_thread *)(lh__intercept_state->arena + index * LH_T_SIZE);
}

static uint64_t gs_base(void)
{
	uint64_t base;

	__asm__ volatile("rdgsbase %0" : "=r"(base));
	return base;
}

static int in_arena(uint64_t address)
{
	return address - lh__intercept_state->arena < lh__intercept_state->arena_size;
}

struct lh_thread *lh__thread_current(void)
{
	uint64_t base = gs_base();
	int32_t tid;

	if (in_arena(base))
		return (struct lh_thread *)base;
	tid = (int32_t)LH_THREAD_CALL(SYS_gettid);
	for (uint64_t i = 0; i < __atomic_load_n(&lh__intercept_state->used, __ATOMIC_ACQUIRE); i++)
		if (record(i)->tid == tid)
			return record(i);
	return NULL;
}

/* Everything readable and writable but the two guards. */
static int open_up(uint64_t base)
{
	static const struct {
		uint64_t start, end;
	} part[] = { { 0, LH_T_GUARD1 }, { LH_T_GUARD1 + 4096, LH_T_GUARD2 }, { LH_T_ALT, LH_T_SIZE } };

	for (int i = 0; i < 3; i++)
		if (LH_THREAD_CALL(SYS_mprotect, base + part[i].start, part[i].end - part[i].start,
		                   PROT_READ | PROT_WRITE) < 0)
			return 0;
	return 1;
}

static struct lh_thread *claim_record(struct lh_interception *state)
{
	struct lh_thread *thread;

	for (uint64_t i = 0; i < state->used; i++)
		if (__atomic_load_n(&record(i)->state, __ATOMIC_ACQUIRE) == 0)
			return record(i);
	if ((state->used + 1) * LH_T_SIZE > state->arena_size)
		return NULL;
	thread = record(state->used);
	if (!open_up((uint64_t)thread))
		return NULL;
	__atomic_store_n(&state->used, state->used + 1, __ATOMIC_RELEASE);
	return thread;
}

struct lh_thread *lh__thread_new(void)
{
	struct lh_interception *state = lh__intercept_state;
	struct lh_thread *thread;

	lock(&state->arena_lock);
	thread = claim_record(state);
	if (thread) {
		memset(thread, 0, sizeof *thread);
		thread->state = 1;
		lh__stack_reset(thread);
	}
	unlock(&state->arena_lock);
	return thread;
}

/* Adds the thread's counters to the process's; the record's own start at 0 again. */
static void settle(struct lh_thread *thread)
{
	struct lh_interception *state = lh__intercept_state;

	__atomic_add_fetch(&state->calls_site, thread->calls_site, __ATOMIC_RELAXED);
	__atomic_add_fetch(&state->calls_net, thread->calls_net, __ATOMIC_RELAXED);
	__atomic_add_fetch(&state->signals, thread->signals, __ATOMIC_RELAXED);
	__atomic_add_fetch(&state->deferrals, thread->deferrals, __ATOMIC_RELAXED);
	thread->calls_site = thread->calls_net = thread->signals = thread->deferrals = 0;
}

void lh__thread_free(struct lh_thread *thread)
{
	settle(thread);
	thread->tid = 0;
	__atomic_store_n(&thread->state, 0, __ATOMIC_RELEASE);
}

uint64_t lh__mask_set(uint64_t mask)
{
	uint64_t old = 0;

	LH_THREAD_CALL(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &old, 8);
	return old;
}

/* The calling thread's alternate stack and net. Returns whether the net is there. */
int lh__thread_arm(struct lh_thread *thread)
{
	stack_t stack = { .ss_sp = (char *)thread + LH_T_ALT, .ss_size = LH_T_ALT_SIZE };

	thread->tid = (int32_t)LH_THREAD_CALL(SYS_gettid);
	LH_THREAD_CALL(SYS_sigaltstack, &stack, NULL);
	if (lh__intercept_state->config.no_dispatch)
		return 0;
	return LH_THREAD_CALL(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, __start_lh_syscall,
	                      __stop_lh_syscall - __start_lh_syscall, 0) == 0;
}

/* Called by lh__clone_raw in a child that shares memory, on the child's record's stack. */
void lh__thread_begin(struct lh_thread *thread)
{
	const struct lh_intercept_config *config = &lh__intercept_state->config;

	lh__thread_arm(thread);
	if (thread->fresh_actions)
		lh__signal_special();
	if (config->on_start)
		config->on_start(config->context, thread->start);
	lh__mask_set(thread->start_mask);
}

/* The three ways of asking for a child, as one. */
struct request {
	long nr;
	long argument[6];
	uint64_t flags, stack;
	struct clone_args args;
};

static long parse3(struct request *request, const struct lh_trap *trap)
{
	size_t size = (size_t)trap->argument[1];

	if (size < CLONE_ARGS_SIZE_VER0)
		return -EINVAL;
	if (size > sizeof request->args)
		return -E2BIG;
	if (lh__intercept_copy(&request->args, (const void *)trap->argument[0], size))
		return -EFAULT;
	request->flags = request->args.flags;
	request->stack = request->args.stack ? request->args.stack + request->args.stack_size : 0;
	request->argument[0] = (long)&request->args;
	return 0;
}

static long parse(struct request *request, const struct lh_trap *trap)
{
	memset(request, 0, sizeof *request);
	request->nr = trap->nr;
	memcpy(request->argument, trap->argument, sizeof request->argument);
	if (trap->nr == SYS_clone3)
		return parse3(request, trap);
	if (trap->nr != SYS_clone) {
		memset(request->argument, 0, sizeof request->argument);
		request->nr = SYS_clone;
		request->argument[0] = SIGCHLD | (trap->nr == SYS_vfork ? CLONE_VM | CLONE_VFORK : 0);
	}
	request->flags = (uint64_t)(uint32_t)request->argument[0];
	request->stack = (uint64_t)request->argument[1];
	return 0;
}

/* The kernel's stack for the child: 0 keeps the caller's. */
static void set_stack(struct request *request, uint64_t bottom, uint64_t size)
{
	if (request->nr == SYS_clone3) {
		request->args.stack = bottom;
		request->args.stack_size = size;
	} else {
		request->argument[1] = bottom ? (long)(bottom + size) : 0;
	}
}

static void clear_actions(struct lh_actions *actions)
{
	for (int sig = 1; sig <= LH_SIGNALS; sig++)
		if (actions->of[sig].handler != (uint64_t)SIG_IGN)
			actions->of[sig] = (struct lh_action){ 0 };
}

static void forked_child(struct lh_thread *thread, const struct request *request)
{
	const struct lh_intercept_config *config = &lh__intercept_state->config;

	for (uint64_t i = 0; i < lh__intercept_state->used; i++)
		if (record(i) != thread)
			lh__thread_free(record(i));
	thread->special_pending = 0;
	lh__thread_arm(thread);
	if (request->nr == SYS_clone3 && request->flags & CLONE_CLEAR_SIGHAND) {
		clear_actions(thread->actions);
		lh__signal_special();
	}
	if (request->stack)
		thread->regs.rsp = request->stack;
	if (config->on_start)
		config->on_start(config->context, LH_START_FORK);
}

/* No lock may be held by a thread that the child will not have. */
static long fork_(struct lh_thread *thread, struct request *request)
{
	struct lh_interception *state = lh__intercept_state;
	const struct lh_intercept_config *config = &state->config;
	long result;

	if (config->before_fork)
		config->before_fork(config->context);
	set_stack(request, 0, 0);
	lock(&state->rewrite_lock);
	lock(&state->arena_lock);
	lh__actions_lock(thread->actions);
	result = lh__program_syscall(thread, request->nr, request->argument);
	lh__actions_unlock(thread->actions);
	unlock(&state->arena_lock);
	unlock(&state->rewrite_lock);
	if (result == 0)
		forked_child(thread, request);
	else if (config->after_fork)
		config->after_fork(config->context, result);
	return result;
}

static void prepare_actions(struct lh_thread *child, struct lh_thread *thread, const struct request *request)
{
	child->actions = thread->actions;
	if (request->flags & CLONE_SIGHAND)
		return;
	lh__actions_lock(thread->actions);
	memcpy(&child->own_actions, thread->actions, sizeof child->own_actions);
	lh__actions_unlock(thread->actions);
	child->own_actions.lock = 0;
	child->actions = &child->own_actions;
	child->fresh_actions = request->nr == SYS_clone3 && request->flags & CLONE_CLEAR_SIGHAND;
	if (child->fresh_actions)
		clear_actions(child->actions);
}

static void prepare_child(struct lh_thread *child, struct lh_thread *thread, const struct request *request)
{
	child->regs = thread->regs;
	child->regs.rax = 0;
	if (request->stack)
		child->regs.rsp = request->stack;
	child->in_agent = 1;
	child->sets_gs = in_arena(gs_base());
	child->start = request->flags & CLONE_VFORK ? LH_START_VFORK : LH_START_THREAD;
	if (request->flags & CLONE_VFORK)
		child->stack = thread->stack;
	child->special_blocked = thread->special_blocked;
	prepare_actions(child, thread, request);
	memcpy((char *)child + LH_T_XSAVE, (char *)thread + LH_T_XSAVE, 4096);
}

static long shared(struct lh_thread *thread, struct request *request)
{
	struct lh_thread *child = lh__thread_new();
	long result = LH_INTERCEPT_RESTART;
	uint64_t mask;

	if (!child)
		return -EAGAIN;
	prepare_child(child, thread, request);
	set_stack(request, (uint64_t)child + LH_T_GUARD1 + 4096, LH_T_HOOK_TOP - LH_T_GUARD1 - 4096);
	mask = child->start_mask = lh__mask_set(~0ull);
	if (!thread->deferred)
		result = lh__clone_raw(request->nr, request->argument, child);
	if (result < 0 || request->flags & CLONE_VFORK)
		lh__thread_free(child);
	lh__mask_set(mask); /* a child that has ended may have left its record to another */
	return result;
}

long lh__thread_clone(struct lh_thread *thread, struct lh_trap *trap)
{
	struct request request;
	long error = parse(&request, trap);

	if (error)
		return error;
	return request.flags & CLONE_VM ? shared(thread, &request) : fork_(thread, &request);
}

long lh__thread_exit(struct lh_thread *thread, struct lh_trap *trap)
{
	const struct lh_intercept_config *config = &lh__intercept_state->config;
	uint64_t mask;

	if (lh__intercept_state->sandboxed == 2)
		return lh__program_syscall(thread, trap->nr, trap->argument);
	mask = lh__mask_set(~LH_SPECIAL);
	if (thread->deferred) {
		lh__mask_set(mask);
		return LH_INTERCEPT_RESTART;
	}
	if (config->on_thread_exit)
		config->on_thread_exit(config->context);
	settle(thread);
	lh__mask_set(~0ull);
	if (thread->start == LH_START_VFORK) /* the parent frees the record */
		lh__raw_syscall(SYS_exit, trap->argument[0], 0, 0, 0, 0, 0);
	lh__thread_leave(thread, trap->argument[0]);
}

static int alone(void)
{
	int live = 0;

	for (uint64_t i = 0; i < lh__intercept_state->used; i++)
		live += record(i)->state != 0;
	return live == 1;
}

/* What the new program inherits, masks and ignored signals, must be what this one believes to have set. */
long lh__thread_exec(struct lh_thread *thread, struct lh_trap *trap)
{
	static const int special[3] = { SIGBUS, SIGSEGV, SIGSYS };
	const struct lh_action ignore = { .handler = (uint64_t)SIG_IGN };
	int own = thread->actions == &thread->own_actions || alone();
	uint64_t mask = 0, all;
	long result;

	LH_THREAD_CALL(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
	all = mask | thread->special_blocked;
	for (int i = 0; i < 3 && own; i++)
		if (thread->actions->of[special[i]].handler == (uint64_t)SIG_IGN)
			lh__signal_real(special[i], &ignore);
	if (all != mask)
		lh__mask_set(all);
	result = lh__program_syscall(thread, trap->nr, trap->argument);
	if (all != mask)
		LH_THREAD_CALL(SYS_rt_sigprocmask, SIG_UNBLOCK, &(uint64_t){ LH_SPECIAL }, NULL, 8);
	if (own)
		lh__signal_special();
	return result;
}
