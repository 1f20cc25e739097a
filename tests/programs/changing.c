/*
 * changing.c - a program whose code comes, changes and goes (../translate_changed.h). What it says is the
 * same whoever runs it.
 */
#include <signal.h>
#include <ucontext.h>

#include "../translate_changed.h"

static void on(void)
{
}

static void off(void)
{
}

static long call_of(long number, long a, long b, long c, long d, long e, long f)
{
	long result = syscall(number, a, b, c, d, e, f);

	return result < 0 ? -errno : result;
}

static void gone(uint8_t *memory, size_t size)
{
	munmap(memory, size);
}

static void allow(uint8_t *memory, long protection)
{
	mprotect(memory, PAGE_BYTES, (int)protection);
}

static void closes(void *object, int (*function)(int))
{
	(void)function;
	dlclose(object);
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	const ucontext_t *at = context;

	(void)signal;
	dead_address = (uint64_t)(uintptr_t)info->si_addr;
	dead_code = (uint64_t)at->uc_mcontext.gregs[REG_RIP];
	siglongjmp(dead_end, 1);
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	setvbuf(stdout, NULL, _IONBF, 0);
	sigaction(SIGSEGV, &action, NULL);
	check_all("program");
	return done();
}
