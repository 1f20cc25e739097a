/*
 * guard_call.c - see outside.h. A thread stands at a `syscall` that is absent for good: it makes the call at
 * another one, in the vDSO, and comes back behind its own. All its signals are blocked meanwhile, so no
 * handler ever sees it there. Where there is no vDSO its own is put there for the moment.
 */
#include "service/code/guard_inside.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/code/remote.h"

#define SYSCALL_SIZE 2
#define NO_CALL (~0ul)
#define VDSO_MOST 65536u
#define BELOW 1024u /* the stack pointer: nothing of the program is there */

static int find_gadget(void *context, const struct lh_mapping *mapping)
{
	struct guard_process *process = context;
	size_t size = mapping->end - mapping->start;
	const char *found;
	char *code;

	if (strcmp(mapping->path, "[vdso]") != 0 || size > VDSO_MOST)
		return 0;
	code = malloc(size);
	if (code && pread(lh__guard_memory(process), code, size, (off_t)mapping->start) == (ssize_t)size) {
		found = memmem(code, size, "\x0f\x05", SYSCALL_SIZE);
		if (found)
			process->gadget = mapping->start + (uint64_t)(found - code);
	}
	free(code);
	return 1;
}

/* The next stop at an entry to a system call, or at an exit from one. */
static bool next_call_stop(struct guard *guard, struct guard_thread *thread)
{
	int status;

	do {
		if (ptrace(PTRACE_SYSCALL, thread->id, NULL, NULL))
			return false;
		if (lh__guard_wait(guard, thread, 0, &status))
			return false;
	} while (status != (SIGTRAP | 0x80));
	return true;
}

/* Makes the call for which registers are set, with all signals blocked. Leaves in them what they are then. */
static bool call_at(struct guard *guard, struct guard_thread *thread, struct user_regs_struct *registers,
                    uint64_t at)
{
	const uint64_t all = ~0ull;
	uint64_t blocked;

	registers->rip = at;
	registers->orig_rax = NO_CALL;
	return !ptrace(PTRACE_GETSIGMASK, thread->id, sizeof(blocked), &blocked) &&
	       !ptrace(PTRACE_SETSIGMASK, thread->id, sizeof(all), &all) &&
	       !ptrace(PTRACE_SETREGS, thread->id, NULL, registers) && next_call_stop(guard, thread) &&
	       next_call_stop(guard, thread) && !ptrace(PTRACE_GETREGS, thread->id, NULL, registers) &&
	       !ptrace(PTRACE_SETSIGMASK, thread->id, sizeof(blocked), &blocked);
}

static bool make_call(struct guard *guard, struct guard_thread *thread, struct user_regs_struct *registers,
                      uint64_t at)
{
	struct user_regs_struct there = *registers;

	if (!call_at(guard, thread, &there, at))
		return false;
	/* What a system call changes: its result, and what the instruction itself overwrites. */
	registers->rax = there.rax;
	registers->rcx = registers->rip + SYSCALL_SIZE;
	registers->r11 = there.r11;
	registers->rip += SYSCALL_SIZE;
	registers->orig_rax = NO_CALL;
	return !ptrace(PTRACE_SETREGS, thread->id, NULL, registers);
}

bool lh__guard_action(struct guard *guard, struct guard_thread *thread, bool put)
{
	struct guard_process *process = thread->process;
	int memory = lh__guard_memory(process);
	struct user_regs_struct registers, there;
	uint64_t kept[4], at;
	bool made;

	if (!process->gadget)
		(void)!lh__mappings(process->id, find_gadget, process);
	if (!process->gadget || ptrace(PTRACE_GETREGS, thread->id, NULL, &registers))
		return false;
	at = (registers.rsp - BELOW) & ~15ull;
	if (pread(memory, kept, sizeof(kept), (off_t)at) != sizeof(kept) ||
	    (put && pwrite(memory, thread->action, sizeof(kept), (off_t)at) != sizeof(kept)))
		return false;
	there = registers;
	there.rax = SYS_rt_sigaction;
	there.rdi = SIGTRAP;
	there.rsi = put ? at : 0;
	there.rdx = put ? 0 : at;
	there.r10 = sizeof(uint64_t);
	made = call_at(guard, thread, &there, process->gadget) && !there.rax;
	if (made && !put)
		made = pread(memory, thread->action, sizeof(kept), (off_t)at) == sizeof(kept);
	(void)!pwrite(memory, kept, sizeof(kept), (off_t)at);
	return !ptrace(PTRACE_SETREGS, thread->id, NULL, &registers) && made;
}

static bool maps_code(const struct user_regs_struct *registers)
{
	return registers->rax == SYS_mmap && registers->rdx & PROT_EXEC && !(registers->r10 & MAP_ANONYMOUS);
}

/*
 * The program has said, or asked, what is to be done with SIGTRAP. That it is ignored the kernel forgets at
 * the next trap, so it is kept here.
 */
static void note_action(struct guard_process *process, const struct user_regs_struct *registers)
{
	const uint64_t ignored = (uint64_t)(uintptr_t)SIG_IGN;
	const int memory = lh__guard_memory(process);
	uint64_t handler;
	bool was = process->ignored_trap;

	if (registers->rsi &&
	    pread(memory, &handler, sizeof(handler), (off_t)registers->rsi) == sizeof(handler))
		process->ignored_trap = handler == ignored;
	if (registers->rdx && was)
		(void)!pwrite(memory, &ignored, sizeof(ignored), (off_t)registers->rdx);
}

bool lh__guard_call(struct guard *guard, struct guard_thread *thread, struct user_regs_struct *registers)
{
	struct guard_process *process = thread->process;
	const uint64_t own = registers->rip;
	const uint8_t present = 0x0f, absent = LH_INT3;
	bool code = maps_code(registers), made;
	bool action = registers->rax == SYS_rt_sigaction && registers->rdi == SIGTRAP;

	if (!process->gadget)
		(void)!lh__mappings(process->id, find_gadget, process);
	if (!process->gadget)
		(void)!pwrite(lh__guard_memory(process), &present, 1, (off_t)own);
	made = make_call(guard, thread, registers, process->gadget ? process->gadget : own);
	if (!process->gadget)
		(void)!pwrite(lh__guard_memory(process), &absent, 1, (off_t)own);
	if (!made)
		return false;
	__atomic_fetch_add(&guard->control->system_calls, 1, __ATOMIC_RELAXED);
	if (code && registers->rax < -4096ul && !process->leaving)
		lh__guard_arm(guard, process, registers->rax, true);
	if (action && !registers->rax)
		note_action(process, registers);
	return true;
}
