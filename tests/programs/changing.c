/*
 * changing.c - a program whose code comes, changes and goes (../translate_changed.h). What it says is the
 * same whoever runs it.
 */
#include <signal.h>
#include <sys/time.h>
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

static volatile unsigned alarms;

static void count_alarm(int signal)
{
	(void)signal;
	alarms++;
}

int main(void)
{
	const struct itimerval often = { .it_interval.tv_usec = 500, .it_value.tv_usec = 500 }, never = { 0 };
	struct sigaction on_alarm = { .sa_handler = count_alarm, .sa_flags = SA_RESTART };
	sigset_t all, before;
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	setvbuf(stdout, NULL, _IONBF, 0);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGALRM, &on_alarm, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	check_all("program");
	setitimer(ITIMER_REAL, &never, NULL);
	ok(alarms > 0, "signals meanwhile");
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	check_rewritten("signals blocked");
	check_itself("signals blocked");
	sigprocmask(SIG_SETMASK, &before, NULL);
	return done();
}
