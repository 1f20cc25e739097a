/*
 * calls.c - system calls at sites that stay absent.
 *
 * A call that needs nothing of the agent is not made in the handler: the thread goes on in the site's stub
 * (arm.c), outside of any frame of the agent, so that it may be a fork, the end of a thread, a return from a
 * signal, may block and may be interrupted like any other. What the handler makes itself returns as the
 * instruction does: rax, and rcx and r11 as the kernel leaves them.
 */
#include "port/code/inside/internal.h"

#include <errno.h>

#define CLEAR_HANDLERS 0x100000000ull /* CLONE_CLEAR_SIGHAND */

static long make(int nr, const greg_t *registers)
{
	return LH_CALL6(nr, registers[REG_RDI], registers[REG_RSI], registers[REG_RDX], registers[REG_R10],
	                registers[REG_R8], registers[REG_R9]);
}

/* The mask that is given to a call for as long as it waits; whether it makes a difference for SIGTRAP. */
static bool waits_with_trap(int nr, const greg_t *registers, uint64_t *mask)
{
	uint64_t at = 0, size = 8;

	switch (nr) {
	case SYS_rt_sigsuspend:
		at = (uint64_t)registers[REG_RDI];
		size = (uint64_t)registers[REG_RSI];
		break;
	case SYS_ppoll:
		at = (uint64_t)registers[REG_R10];
		size = (uint64_t)registers[REG_R8];
		break;
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
		at = (uint64_t)registers[REG_R8];
		size = (uint64_t)registers[REG_R9];
		break;
	case SYS_pselect6:
		at = (uint64_t)registers[REG_R9];
		if (!at || !lh__inside_readable(at) || !lh__inside_readable(at + 8))
			return false;
		size = ((const uint64_t *)at)[1];
		at = *(const uint64_t *)at;
		break;
	}
	if (!at || size != 8 || !lh__inside_readable(at))
		return false;
	*mask = *(const uint64_t *)at;
	return *mask & LH_TRAP_BIT || lh__inside_blocks_trap();
}

/* With a copy of the mask on this stack. A handler may leave it for good: nothing is held. */
static long wait_without_trap(int nr, const greg_t *registers, uint64_t mask)
{
	bool before = lh__inside_blocks_trap();
	uint64_t real = mask & ~LH_TRAP_BIT;
	struct {
		const uint64_t *mask;
		uint64_t size;
	} pair = { &real, sizeof real };
	greg_t changed[NGREG];
	long result;

	__builtin_memcpy(changed, registers, sizeof changed);
	if (nr == SYS_rt_sigsuspend)
		changed[REG_RDI] = (greg_t)&real;
	else if (nr == SYS_ppoll)
		changed[REG_R10] = (greg_t)&real;
	else if (nr == SYS_pselect6)
		changed[REG_R9] = (greg_t)&pair;
	else
		changed[REG_R8] = (greg_t)&real;
	lh__inside_set_blocks_trap(mask & LH_TRAP_BIT);
	result = make(nr, changed);
	lh__inside_set_blocks_trap(before);
	return result;
}

static long execute(int nr, const greg_t *registers)
{
	struct lh_ask ask = { .kind = LH_ASK_EXECUTE,
		              .process = (int32_t)LH_CALL0(SYS_getpid),
		              .thread = (int32_t)LH_CALL0(SYS_gettid) };
	struct lh_answer answer;
	int descriptor;
	long result;

	(void)lh__inside_ask(&ask, &answer, &descriptor); /* who does not answer does not follow */
	if (descriptor >= 0)
		LH_CALL1(SYS_close, descriptor);
	lh__inside_before_execute();
	result = make(nr, registers);
	lh__inside_after_execute();
	return result;
}

/*
 * A child with all handlers cleared would die of its first miss. The child executes, which clears them too;
 * what is ignored stays so either way.
 */
static void keep_handlers(const greg_t *registers)
{
	uint64_t *flags = (uint64_t *)registers[REG_RDI];

	if (flags && lh__inside_readable((uint64_t)flags) && *flags & CLEAR_HANDLERS)
		*flags &= ~CLEAR_HANDLERS;
}

/* Whether the call is made here, with what result. */
static bool made(int nr, ucontext_t *context, long *result)
{
	const greg_t *registers = context->uc_mcontext.gregs;
	uint64_t mask;

	switch (nr) {
	case SYS_rt_sigaction: *result = lh__inside_sigaction(registers); return true;
	case SYS_rt_sigprocmask: *result = lh__inside_sigprocmask(context); return true;
	case SYS_rt_sigsuspend:
	case SYS_ppoll:
	case SYS_pselect6:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
		if (!waits_with_trap(nr, registers, &mask))
			return false;
		*result = wait_without_trap(nr, registers, mask);
		return true;
	case SYS_mmap:
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_munmap:
	case SYS_mremap:
		if (lh__inside_map_plain(nr, registers))
			return false;
		*result = lh__inside_map_call(nr, registers);
		return true;
	case SYS_execve:
	case SYS_execveat: *result = execute(nr, registers); return true;
	case SYS_clone3: keep_handlers(registers); return false;
	default: return false;
	}
}

bool lh__inside_site(const struct lh_inside_text *text, uint32_t index, ucontext_t *context)
{
	greg_t *registers = context->uc_mcontext.gregs;
	int nr = (int)registers[REG_RAX];
	uintptr_t behind = text->text.start + text->sites[index].at + 2;
	long result;

	lh__inside_ahead_call(nr, registers);
	if (!made(nr, context, &result)) {
		if (text->stubs) {
			registers[REG_RIP] = (greg_t)(text->stubs + (size_t)index * LH_STUB_SIZE);
			return true;
		}
		result = make(nr, registers);
	}
	registers[REG_RAX] = result;
	registers[REG_RCX] = registers[REG_RIP] = (greg_t)behind;
	registers[REG_R11] = registers[REG_EFL];
	return false;
}
