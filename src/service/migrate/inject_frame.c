/*
 * inject_frame.c - see inject_inside.h. The way back of a thread that works for us, for the case that we die.
 *
 * When a tracer dies, the kernel lets its threads go on with the registers that they have just then. So the
 * thread gets registers that are right whenever that happens: it is about to make our system call, and behind
 * it returns into the code by which every signal handler ends, with a signal's frame on its stack that holds
 * what it was doing. One system call, rt_sigreturn, puts all of that back at once: registers, vector state,
 * blocked signals.
 *
 *     rsp -> address of the restorer       "syscall; ret" gets there
 *            ucontext                      rsp, when the restorer makes its system call
 *            vector state                  as XSAVE lays it out, between the two marks of a signal's frame
 *            128 bytes                     the red zone
 *     the stack as it was
 *
 * A system call that we have interrupted is made again: in the frame the instruction pointer stands before
 * it. One with a time limit that is relative begins its time anew then; so does nothing where we live to put
 * the registers back ourselves.
 *
 * An alternate stack for signals is left alone: the frame has a value for it that the kernel refuses, and
 * goes on from there (signal.c, restore_altstack).
 */
#include "service/migrate/inject_inside.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define STATE_MAX 16384u /* of the vector state: with AMX 11 KiB */
#define LEGACY 512u      /* its first part, in whose unused bytes a frame says how long the rest is */
#define HEADER 64u
#define MARKS_AT 464u
#define BITS_AT 512u /* which parts are in it: behind the first part */
#define MARK_1 0x46505853u
#define MARK_2 0x46505845u
#define AMX_DATA 18u
#define RED_ZONE 128u
#define RT_SIGRETURN_RESTORES 7u /* uc_flags: vector state is there, and ss; and ss is to be taken as it is */
#define NO_STACK_MODE 0x55       /* ss_flags: no mode that there is */
#define ERESTART_FIRST 512       /* the kernel's codes of calls that are to be made again */
#define ERESTART_LAST 516
#define SYSCALL_SIZE 2u
#define NO_CALL (~0ull)

/* What the kernel reads of a ucontext: up to and with 8 bytes of blocked signals. */
#define CONTEXT_SIZE (offsetof(ucontext_t, uc_sigmask) + 8)

struct marks {
	uint32_t mark;
	uint32_t size_with_end;
	uint64_t parts;
	uint32_t size;
	uint32_t zero[7];
};

/*
 * Bytes of the parts that there are. AMX's data, of which a program gets none before it asks, is left out
 * where it is in its first state: else the kernel would find the frame too long, and restore but the oldest
 * part.
 */
static uint32_t state_size(uint64_t *parts, uint64_t in_use)
{
	uint32_t size = LEGACY + HEADER;

	if (!(in_use >> AMX_DATA & 1))
		*parts &= ~(1ull << AMX_DATA);
	for (uint32_t part = 2; part < 63; part++) {
		uint32_t bytes, offset, c, d;

		if (!(*parts >> part & 1))
			continue;
		__cpuid_count(0xd, part, bytes, offset, c, d);
		if (offset && offset + bytes > size)
			size = offset + bytes;
	}
	return size;
}

/* The thread's vector state as a frame has it; returns its size, end mark included, 0: it cannot be had. */
static size_t read_state(pid_t thread, uint8_t *state)
{
	struct iovec whole = { state, STATE_MAX - 64 };
	const uint32_t end = MARK_2;
	struct marks marks = { .mark = MARK_1 };
	uint64_t in_use;

	memset(state, 0, STATE_MAX);
	if (ptrace(PTRACE_GETREGSET, thread, NT_X86_XSTATE, &whole) || whole.iov_len < LEGACY + HEADER)
		return 0;
	/* ptrace says in the same place which parts there are. */
	memcpy(&marks.parts, state + MARKS_AT, sizeof(marks.parts));
	memcpy(&in_use, state + BITS_AT, sizeof(in_use));
	marks.size = state_size(&marks.parts, in_use);
	if (marks.size > whole.iov_len)
		return 0;
	marks.size_with_end = marks.size + sizeof(end);
	memcpy(state + MARKS_AT, &marks, sizeof(marks));
	memcpy(state + marks.size, &end, sizeof(end));
	return marks.size_with_end;
}

/* Registers, with which it goes on where it was by itself. */
static void fill_registers(const struct user_regs_struct *from, greg_t *to)
{
	const long result = (long)from->rax;

	to[REG_R8] = (greg_t)from->r8;
	to[REG_R9] = (greg_t)from->r9;
	to[REG_R10] = (greg_t)from->r10;
	to[REG_R11] = (greg_t)from->r11;
	to[REG_R12] = (greg_t)from->r12;
	to[REG_R13] = (greg_t)from->r13;
	to[REG_R14] = (greg_t)from->r14;
	to[REG_R15] = (greg_t)from->r15;
	to[REG_RDI] = (greg_t)from->rdi;
	to[REG_RSI] = (greg_t)from->rsi;
	to[REG_RBP] = (greg_t)from->rbp;
	to[REG_RBX] = (greg_t)from->rbx;
	to[REG_RDX] = (greg_t)from->rdx;
	to[REG_RAX] = (greg_t)from->rax;
	to[REG_RCX] = (greg_t)from->rcx;
	to[REG_RSP] = (greg_t)from->rsp;
	to[REG_RIP] = (greg_t)from->rip;
	to[REG_EFL] = (greg_t)from->eflags;
	to[REG_CSGSFS] = (greg_t)(from->cs | from->ss << 48);
	if ((long)from->orig_rax >= 0 && result <= -ERESTART_FIRST && result >= -ERESTART_LAST) {
		to[REG_RAX] = (greg_t)from->orig_rax;
		to[REG_RIP] -= SYSCALL_SIZE;
	}
}

static bool put(const struct lh_injection *injection, uint64_t at, const void *from, size_t size)
{
	return pwrite(injection->memory, from, size, (off_t)at) == (ssize_t)size;
}

/* Lays all of it out, whose vector state of `size` bytes has been read. */
static int write_frame(struct lh_injection *injection, const uint8_t *state, size_t size)
{
	uint64_t at_state = (injection->before.rsp - RED_ZONE - size) & ~63ull;
	uint64_t at_context = (at_state - CONTEXT_SIZE) & ~15ull;
	uint64_t at_return = at_context - sizeof(uint64_t);
	ucontext_t context;

	memset(&context, 0, sizeof(context));
	context.uc_flags = RT_SIGRETURN_RESTORES;
	context.uc_stack.ss_flags = NO_STACK_MODE;
	fill_registers(&injection->before, context.uc_mcontext.gregs);
	memcpy(&context.uc_mcontext.fpregs, &at_state, sizeof(at_state));
	memcpy(&context.uc_sigmask, &injection->blocked, sizeof(injection->blocked));
	if (!put(injection, at_state, state, size) || !put(injection, at_context, &context, CONTEXT_SIZE) ||
	    !put(injection, at_return, &injection->restorer, sizeof(injection->restorer)))
		return -EFAULT;
	injection->safe = injection->before;
	injection->safe.rsp = at_return;
	injection->safe.rip = injection->call;
	injection->safe.orig_rax = NO_CALL;
	return 0;
}

int lh__inject_lay_out(struct lh_injection *injection)
{
	uint8_t *state = malloc(STATE_MAX);
	size_t size;
	int rc;

	if (!state)
		return -ENOMEM;
	size = read_state(injection->thread, state);
	rc = size ? write_frame(injection, state, size) : -ESRCH;
	free(state);
	return rc;
}
