/*
 * accepted.c - what a tool that rewrites programs must let through, in one: threads that share atomics,
 * faults that are jumped out of, a timer's signals all the while, fork, posix_spawn and system(), and a
 * function that is written anew a hundred times. Says what it has reached: the same on each run.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 50000, FAULTS = 1000, REWRITES = 100, ALARMS = 20 };

extern char **environ;
static atomic_long total;
static atomic_int alarms;
static long locked;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static sigjmp_buf back;
static volatile uintptr_t faulted;

static void on_alarm(int signal)
{
	(void)signal;
	atomic_fetch_add(&alarms, 1);
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	faulted = (uintptr_t)info->si_addr;
	siglongjmp(back, 1);
}

static void *work(void *argument)
{
	long seen = 0;

	for (int i = 0; i < ROUNDS; i++) {
		atomic_fetch_add(&total, 1);
		if (i % 100 == 0) {
			pthread_mutex_lock(&lock);
			locked += (long)(intptr_t)argument;
			pthread_mutex_unlock(&lock);
		}
		while (!atomic_compare_exchange_weak(&total, &seen, seen + 1))
			;
	}
	return NULL;
}

static int faults(void)
{
	volatile int count = 0;

	for (volatile int i = 0; i < FAULTS; i++) {
		uintptr_t place = 0x1000u + (unsigned)i;

		if (sigsetjmp(back, 1) == 0)
			*(volatile char *)place = 1;
		else
			count += faulted == 0x1000u + (unsigned)i;
	}
	return count;
}

/* mov $i, %eax; ret: in a page that may be written and executed at once, or is protected in between. */
static long rewrites(int protection)
{
	uint8_t *page = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long sum = 0;

	for (int i = 0; i < REWRITES; i++) {
		if (!(protection & PROT_EXEC))
			mprotect(page, 4096, PROT_READ | PROT_WRITE);
		page[0] = 0xb8;
		memcpy(page + 1, &i, 4);
		page[5] = 0xc3;
		if (!(protection & PROT_EXEC))
			mprotect(page, 4096, PROT_READ | PROT_EXEC);
		sum += ((int (*)(void))(uintptr_t)page)();
	}
	munmap(page, 4096);
	return sum;
}

static int child(void)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0)
		_exit(faults() == FAULTS ? 21 : 1);
	while (waitpid(pid, &status, 0) < 0)
		;
	return WEXITSTATUS(status);
}

static int spawned(void)
{
	char *words[] = { "sh", "-c", "exit 22", NULL };
	int status = 0;
	pid_t pid;

	if (posix_spawn(&pid, "/bin/sh", NULL, NULL, words, environ) != 0)
		return -1;
	while (waitpid(pid, &status, 0) < 0)
		;
	return WEXITSTATUS(status);
}

int main(void)
{
	struct sigaction alarm = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	struct itimerval timer = { { 0, 1000 }, { 0, 1000 } };
	pthread_t threads[THREADS];

	sigaction(SIGALRM, &alarm, NULL);
	sigaction(SIGSEGV, &fault, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	for (intptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
			return 1;
	printf("faults %d\n", faults());
	printf("rewrites %ld %ld\n", rewrites(PROT_READ | PROT_WRITE | PROT_EXEC),
	       rewrites(PROT_READ | PROT_WRITE));
	fflush(stdout);
	printf("fork %d\n", child());
	printf("spawn %d\n", spawned());
	fflush(stdout);
	printf("system %d\n", WEXITSTATUS(system("echo within; exit 23")));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	while (atomic_load(&alarms) < ALARMS)
		pause();
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	printf("threads %ld %ld\n", atomic_load(&total), locked);
	return 7;
}
