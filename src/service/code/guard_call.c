/*
 * guard_call.c - see outside.h. A thread stands at a `syscall` that is absent for good: it makes the call at
 * another one, in the vDSO, and comes back behind its own. All its signals are blocked meanwhile, so no handler
 * ever sees it there. Where there is no vDSO its own is put there for the moment.
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

static bool make_call(struct guard *guard, struct guard_thread *thread, struct user_regs_struct *registers,
                      uint64_t at)
{
	struct user_regs_struct there = *registers;

	there.rip = at;
	there.orig_rax = NO_CALL;
	if (ptrace(PTRACE_SETREGS, thread->id, NULL, &there) || !next_call_stop(guard, thread) ||
	    !next_call_stop(guard, thread) || ptrace(PTRACE_GETREGS, thread->id, NULL, &there))
		return false;
	/* What a system call changes: its result, and what the instruction itself overwrites. */
	registers->rax = there.rax;
	registers->rcx = registers->rip + SYSCALL_SIZE;
	registers->r11 = there.r11;
	registers->rip += SYSCALL_SIZE;
	registers->orig_rax = NO_CALL;
	return !ptrace(PTRACE_SETREGS, thread->id, NULL, registers);
}

static bool maps_code(const struct user_regs_struct *registers)
{
	return registers->rax == SYS_mmap && registers->rdx & PROT_EXEC && !(registers->r10 & MAP_ANONYMOUS);
}

bool lh__guard_call(struct guard *guard, struct guard_thread *thread, struct user_regs_struct *registers)
{
	struct guard_process *process = thread->process;
	const uint64_t all = ~0ull, own = registers->rip;
	const uint8_t present = 0x0f, absent = LH_INT3;
	bool code = maps_code(registers), made;
	uint64_t blocked;

	if (!process->gadget)
		(void)!lh__mappings(process->id, find_gadget, process);
	if (ptrace(PTRACE_GETSIGMASK, thread->id, sizeof(blocked), &blocked) ||
	    ptrace(PTRACE_SETSIGMASK, thread->id, sizeof(all), &all))
		return false;
	if (!process->gadget)
		(void)!pwrite(lh__guard_memory(process), &present, 1, (off_t)own);
	made = make_call(guard, thread, registers, process->gadget ? process->gadget : own);
	if (!process->gadget)
		(void)!pwrite(lh__guard_memory(process), &absent, 1, (off_t)own);
	if (!made || ptrace(PTRACE_SETSIGMASK, thread->id, sizeof(blocked), &blocked))
		return false;
	__atomic_fetch_add(&guard->control->system_calls, 1, __ATOMIC_RELAXED);
	if (code && registers->rax < -4096ul)
		lh__guard_arm(guard, process, registers->rax, true);
	return true;
}
