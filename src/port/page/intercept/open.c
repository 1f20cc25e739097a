/* open.c - taking over the process, and the way of one seen call. See intercept.h. */
#include "port/page/intercept/internal.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>

struct lh_interception *lh__intercept_state;

#define AT(member, offset) _Static_assert(offsetof(struct lh_thread, member) == (offset), #member)
AT(in_agent, LH_T_IN_AGENT);
AT(deferred, LH_T_DEFERRED);
AT(state, LH_T_STATE);
AT(tid, LH_T_TID);
AT(regs.rax, LH_T_RAX);
AT(regs.rbx, LH_T_RBX);
AT(regs.rcx, LH_T_RCX);
AT(regs.rdx, LH_T_RDX);
AT(regs.rsi, LH_T_RSI);
AT(regs.rdi, LH_T_RDI);
AT(regs.rbp, LH_T_RBP);
AT(regs.rsp, LH_T_RSP);
AT(regs.r8, LH_T_R8);
AT(regs.r12, LH_T_R12);
AT(regs.rip, LH_T_RIP);
AT(regs.flags, LH_T_FLAGS);
AT(sets_gs, LH_T_SETS_GS);
#undef AT
#define AT(member, offset) _Static_assert(offsetof(struct lh_interception, member) == (offset), #member)
AT(arena, LH_S_ARENA);
AT(arena_size, LH_S_ARENA_SIZE);
AT(used, LH_S_USED);
AT(xsave_mask, LH_S_XSAVE_MASK);
AT(xsavec, LH_S_XSAVEC);
AT(straight, LH_S_STRAIGHT);
AT(any, LH_S_ANY);
AT(table, LH_S_TABLE);
#undef AT
_Static_assert(sizeof(struct lh_thread) <= LH_T_XSAVE,
               "the header of a record fits before its register area");
_Static_assert(sizeof(struct lh_ucontext) == 304 && offsetof(struct lh_ucontext, machine) == 40,
               "kernel's ucontext");
_Static_assert(512 + LH_LARGEST_XSTATE <= LH_T_GUARD1 - LH_T_FRAME, "the frame of a sigreturn fits");

/* Calls that the module must see whatever the hook wants. */
static const short own_calls[] = {
	SYS_clone,
	SYS_clone3,
	SYS_fork,
	SYS_vfork,
	SYS_execve,
	SYS_execveat,
	SYS_exit,
	SYS_exit_group,
	SYS_rt_sigreturn,
	SYS_rt_sigaction,
	SYS_rt_sigpending,
	SYS_rt_sigprocmask,
	SYS_rt_sigsuspend,
	SYS_sigaltstack,
	SYS_rt_sigtimedwait,
	SYS_ppoll,
	SYS_pselect6,
	SYS_epoll_pwait,
	441,
	SYS_io_uring_enter,
	SYS_mmap,
	SYS_prctl,
	SYS_seccomp,
};

static int is_own(int nr)
{
	for (size_t i = 0; i < sizeof own_calls / sizeof *own_calls; i++)
		if (own_calls[i] == nr)
			return 1;
	return 0;
}

/*
 * Threads may be on their way through the table: each word changes at once, and those of the module's own
 * calls never.
 */
static void fill_table(struct lh_interception *state, const uint64_t *bitmap)
{
	uint64_t other = (uint64_t)(state->config.count_all ? lh__stub_counted : lh__stub_fast);

	for (int i = 0; i < LH_INTERCEPT_NUMBERS / 64; i++)
		__atomic_store_n(&state->hooked[i], state->config.hook ? bitmap[i] : 0, __ATOMIC_RELEASE);
	for (int nr = 0; nr < LH_INTERCEPT_NUMBERS; nr++)
		__atomic_store_n(&state->table[nr],
		                 state->hooked[nr / 64] >> nr % 64 & 1 || is_own(nr) ? (uint64_t)lh__stub_slow
		                                                                     : other,
		                 __ATOMIC_RELEASE);
}

void lh__intercept_want(const uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64])
{
	fill_table(lh__intercept_state, bitmap);
}

int lh__wanted(long nr)
{
	uint32_t number = (uint32_t)nr;

	return number < LH_INTERCEPT_NUMBERS && lh__intercept_state->table[number] == (uint64_t)lh__stub_slow;
}

static long exit_group(struct lh_thread *thread, struct lh_trap *trap)
{
	const struct lh_intercept_config *config = &lh__intercept_state->config;

	if (config->on_process_exit && thread->start != LH_START_VFORK)
		config->on_process_exit(config->context, (int)trap->argument[0]);
	return lh__program_syscall(thread, trap->nr, trap->argument);
}

static long mmap_(struct lh_thread *thread, struct lh_trap *trap)
{
	const long *argument = trap->argument;
	long result = lh__program_syscall(thread, trap->nr, argument);

	if ((unsigned long)result < -4095ul && argument[2] & PROT_EXEC && !(argument[3] & MAP_ANONYMOUS) &&
	    (argument[3] & MAP_TYPE) == MAP_PRIVATE && !lh__intercept_state->sandboxed)
		lh__rewrite_mapped((uint64_t)result, (uint64_t)argument[1], (int)argument[4],
		                   (uint64_t)argument[5]);
	return result;
}

/* After a filter is set the module makes no calls but those that the program could expect. */
static long filter(struct lh_thread *thread, struct lh_trap *trap)
{
	if (trap->nr == SYS_prctl && trap->argument[0] == 59)
		return -EINVAL; /* Syscall User Dispatch has one user a thread, and that is this module */
	if (trap->nr == SYS_prctl && trap->argument[0] == PR_SET_SECCOMP && trap->argument[1] == 1)
		lh__intercept_state->sandboxed = 2;
	else if (trap->nr == SYS_seccomp || trap->argument[0] == PR_SET_SECCOMP)
		lh__intercept_state->sandboxed = 1;
	return lh__program_syscall(thread, trap->nr, trap->argument);
}

long lh__intercept_proceed(struct lh_trap *trap)
{
	struct lh_thread *thread = trap->thread;
	long result;

	switch (trap->nr) {
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
	case SYS_vfork: return lh__thread_clone(thread, trap);
	case SYS_execve:
	case SYS_execveat: return lh__thread_exec(thread, trap);
	case SYS_exit: return lh__thread_exit(thread, trap);
	case SYS_exit_group: return exit_group(thread, trap);
	case SYS_rt_sigreturn: lh__sigreturn(thread, (struct lh_ucontext *)thread->regs.rsp);
	case SYS_mmap: return mmap_(thread, trap);
	case SYS_prctl:
	case SYS_seccomp: return filter(thread, trap);
	}
	result = lh__signal_call(thread, trap);
	return result != LH_NOT_MINE ? result : lh__program_syscall(thread, trap->nr, trap->argument);
}

void lh__enter(struct lh_thread *thread)
{
	const struct lh_interception *state = lh__intercept_state;
	int nr = (int)thread->regs.rax;
	struct lh_trap *trap = &thread->trap;
	long result;

	thread->calls_site += thread->regs.rcx == LH_WAY_SITE;
	*trap = (struct lh_trap){
		.nr = nr,
		.argument = { (long)thread->regs.rdi, (long)thread->regs.rsi, (long)thread->regs.rdx,
		              (long)thread->regs.r10, (long)thread->regs.r8, (long)thread->regs.r9 },
		.return_address = thread->regs.rip,
		.stack_pointer = thread->regs.rsp,
		.thread = thread,
	};
	if (state->hooked[nr / 64] >> nr % 64 & 1)
		result = state->config.hook(state->config.context, trap);
	else
		result = lh__intercept_proceed(trap);
	if (result == LH_INTERCEPT_RESTART)
		thread->regs.rip -= 2; /* a `syscall` instruction lies before every return address */
	else
		thread->regs.rax = (uint64_t)result;
	lh__signal_pending(thread);
}

static int processor(struct lh_interception *state, struct lh_error *error)
{
	uint32_t a, b, c, d, low, high;

	if (!(getauxval(AT_HWCAP2) & 2))
		return lh__fail(error, -ENOTSUP, "the kernel or processor has no fsgsbase");
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return lh__fail(error, -ENOTSUP, "the processor has no xsave");
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	state->xsave_mask = low & 0xe6; /* SSE, AVX, AVX-512: what C code may use; not x87, AMX, keys */
	state->xsavec = __get_cpuid_count(13, 1, &a, &b, &c, &d) && a & 2;
	state->least_stack = getauxval(AT_MINSIGSTKSZ);
	if (!state->least_stack)
		state->least_stack = 2048;
	return 0;
}

static void *map(const struct lh_intercept_config *config, size_t size, int protection, long flags)
{
	long result = LH_SYS(config->sys, SYS_mmap, NULL, size, protection,
	                     MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (result < 0)
		return NULL;
	if (config->owns)
		config->owns(config->context, (void *)result, size);
	return (void *)result;
}

/* The state with its arena; nothing of the program is touched. */
static int make_state(const struct lh_intercept_config *config, struct lh_interception **made,
                      struct lh_error *error)
{
	struct lh_interception *state = map(config, sizeof *state, PROT_READ | PROT_WRITE, 0);
	uint64_t size = (config->threads ? config->threads : 4096) * (uint64_t)LH_T_SIZE;
	int result;

	if (!state)
		return lh__fail(error, -ENOMEM, "no memory for the interceptor");
	state->config = *config;
	state->any = (uint64_t)lh__stub_any;
	fill_table(state, config->bitmap);
	result = processor(state, error);
	if (result == 0) {
		state->arena = (uint64_t)map(config, size, PROT_NONE, MAP_NORESERVE);
		state->arena_size = size;
		if (!state->arena)
			result = lh__fail(error, -ENOMEM, "no address space for %u threads", config->threads);
	}
	if (result)
		LH_SYS(config->sys, SYS_munmap, state, sizeof *state);
	*made = state;
	return result;
}

/* The calling thread, as it was before anybody watched. */
static void adopt(struct lh_interception *state, struct lh_thread *thread, uint64_t mask)
{
	uint64_t base;

	thread->actions = &state->actions;
	LH_THREAD_CALL(SYS_sigaltstack, NULL, &thread->stack);
	if (thread->stack.ss_size == 0)
		thread->stack.ss_flags =
			0; /* as a frame of the kernel shows it to a program that never set one */
	thread->special_blocked = mask & LH_SPECIAL;
	__asm__ volatile("rdgsbase %0" : "=r"(base));
	if (base == 0)
		__asm__ volatile("wrgsbase %0" : : "r"(thread));
}

int lh__intercept_open(const struct lh_intercept_config *config, struct lh_error *error)
{
	struct lh_interception *state = NULL;
	struct lh_thread *thread;
	uint64_t mask;
	int result;

	if (lh__intercept_state)
		return lh__fail(error, -EBUSY, "system calls are intercepted already");
	result = make_state(config, &state, error);
	if (result)
		return result;
	lh__intercept_state = state;
	thread = lh__thread_new();
	if (!thread) {
		lh__intercept_state = NULL;
		LH_SYS(config->sys, SYS_munmap, state->arena, state->arena_size);
		LH_SYS(config->sys, SYS_munmap, state, sizeof *state);
		return lh__fail(error, -ENOMEM, "no memory for a thread's record");
	}
	mask = lh__mask_set(~LH_SPECIAL);
	adopt(state, thread, mask);
	lh__signal_open();
	if (!config->no_rewrite && lh__rewrite_all() == 0)
		state->capabilities |= LH_INTERCEPT_REWRITE;
	if (lh__thread_arm(thread))
		state->capabilities |= LH_INTERCEPT_NET;
	lh__mask_set(mask & ~LH_SPECIAL);
	return 0;
}

unsigned lh__intercept_capabilities(void)
{
	return lh__intercept_state ? lh__intercept_state->capabilities : 0;
}

void lh__intercept_counters(struct lh_intercept_counters *counters)
{
	const struct lh_interception *state = lh__intercept_state;

	memset(counters, 0, sizeof *counters);
	if (!state)
		return;
	counters->sites_found = state->sites_found;
	counters->sites_rewritten = state->sites_rewritten;
	counters->calls_straight = state->straight;
	counters->calls_rewritten = state->calls_site;
	counters->calls_net = state->calls_net;
	counters->signals = state->signals;
	counters->deferred = state->deferrals;
	for (uint64_t i = 0; i < state->used; i++) {
		const struct lh_thread *thread = (struct lh_thread *)(state->arena + i * LH_T_SIZE);

		counters->calls_rewritten += thread->calls_site;
		counters->calls_net += thread->calls_net;
		counters->signals += thread->signals;
		counters->deferred += thread->deferrals;
	}
}
