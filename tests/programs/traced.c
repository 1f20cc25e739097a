/*
 * traced.c - a program whose code is watched while it does what watchers find hard. It checks itself and ends
 * with "well" and status 0.
 *
 *     traced threads     four threads begin, compute and end, a hundred times
 *     traced children    forks; a child that executes this program again
 *     traced blocked     computes with all signals blocked, then with SIGTRAP ignored
 *     traced trap        a SIGTRAP of its own, by INT3 and by raise, gets to its handler
 *     traced loads       loads a library while it runs
 *     traced waits       says "ready", and computes until its standard input ends
 *     traced twice N     calls one function or another, as N says, so that it is known what runs
 */
#include "program.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

int even(int x);
int odd(int x);

__attribute__((noinline)) int even(int x)
{
	__asm__ volatile("");
	return x * 3 + 1;
}

__attribute__((noinline)) int odd(int x)
{
	__asm__ volatile("");
	return x * 5 + 2;
}

static int sum_to(int n)
{
	int sum = 0;

	for (int i = 0; i < n; i++)
		sum += i % 2 ? odd(i) : even(i);
	return sum;
}

static void *computes(void *argument)
{
	int n = (int)(uintptr_t)argument;

	return (void *)(uintptr_t)(unsigned)sum_to(n);
}

static void threads(void)
{
	pthread_t thread[4];
	void *result;

	for (int round = 0; round < 100; round++) {
		for (uintptr_t i = 0; i < 4; i++)
			if (pthread_create(&thread[i], NULL, computes, (void *)(i + 10)))
				cannot("start a thread");
		for (uintptr_t i = 0; i < 4; i++)
			if (pthread_join(thread[i], &result) ||
			    (uintptr_t)result != (unsigned)sum_to((int)i + 10))
				wrong("a thread's sum");
	}
}

static void await(pid_t child)
{
	int status = -1;

	if (child < 0 || waitpid(child, &status, 0) != child || status)
		wrong("a child's end, %#x", (unsigned)status);
}

static void children(const char *self)
{
	pid_t child;

	for (int i = 0; i < 20; i++) {
		child = fork();
		if (!child)
			_exit(sum_to(10) != 200);
		await(child);
	}
	child = vfork();
	if (!child) {
		execl(self, self, "twice", "1", (char *)NULL);
		_exit(9);
	}
	await(child);
}

static void blocked(void)
{
	sigset_t all, now;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	if (sum_to(10) != 200)
		wrong("a sum with signals blocked");
	sigprocmask(SIG_SETMASK, NULL, &now);
	if (!sigismember(&now, SIGTRAP) || !sigismember(&now, SIGUSR1))
		wrong("the mask is another now");
	sigemptyset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGTRAP, SIG_IGN);
	if (odd(3) + even(4) != 30)
		wrong("a sum with SIGTRAP ignored");
}

static volatile int traps;

static void on_trap(int number)
{
	traps += number == SIGTRAP;
}

static void trap(void)
{
	signal(SIGTRAP, on_trap);
	__asm__ volatile("int3");
	if (traps != 1)
		wrong("INT3 was not told");
	raise(SIGTRAP);
	if (traps != 2)
		wrong("SIGTRAP was not told");
}

static void loads(void)
{
	void *library = dlopen("libz.so.1", RTLD_NOW);
	unsigned long (*crc)(unsigned long, const unsigned char *, unsigned);

	if (!library)
		library = dlopen("libm.so.6", RTLD_NOW);
	if (!library)
		wrong("no library");
	*(void **)&crc = dlsym(library, "crc32");
	if (crc && crc(0, (const unsigned char *)"123456789", 9) != 0xcbf43926)
		wrong("a checksum");
	dlclose(library);
}

static void waits(void)
{
	char byte;
	int flags = fcntl(0, F_GETFL);

	fcntl(0, F_SETFL, flags | O_NONBLOCK);
	printf("ready\n");
	fflush(stdout);
	while (read(0, &byte, 1) != 0)
		if (sum_to(10) != 200)
			wrong("a sum");
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "threads"))
		threads();
	else if (!strcmp(what, "children"))
		children(argv[0]);
	else if (!strcmp(what, "blocked"))
		blocked();
	else if (!strcmp(what, "trap"))
		trap();
	else if (!strcmp(what, "loads"))
		loads();
	else if (!strcmp(what, "waits"))
		waits();
	else if (!strcmp(what, "twice") && argc > 2)
		return (*argv[2] == '1' ? odd(1) : even(1)) == 0;
	else
		wrong("no such work: %s", what);
	printf("well\n");
	return 0;
}
