/*
 * stopped.c - a program that must never see that somebody stops it: threads that wait in each kind of system
 * call and take no EINTR, threads that begin and end all the time, one that computes with all registers, and
 * one that counts signals, of which none may be lost. It says "ready", works until its standard input ends,
 * and ends with "well".
 *
 *     stopped [calls] [children] [threads] [registers] [signals]
 */
#include "program.h"

#include <pthread.h>
#include <poll.h>
#include <signal.h>
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define TICK_MS 3

static volatile bool over;
static volatile unsigned long signals_seen, signals_sum;

static struct timespec tick(void)
{
	return (struct timespec){ 0, TICK_MS * 1000000l };
}

static void must(const char *what, long got, long wanted, int number)
{
	if (got != wanted || (got < 0 && errno != number))
		wrong("%s returned %ld (errno %d), not %ld (%d)", what, got, got < 0 ? errno : 0, wanted,
		      number);
}

/* All but one thread have these blocked, in calls that take a mask too. */
static sigset_t blocked(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigaddset(&set, SIGUSR2);
	return set;
}

/* Each makes a call once that waits for a tick, and checks how it ends. */

static void sleeps(void)
{
	struct timespec time = tick(), before, after;

	clock_gettime(CLOCK_MONOTONIC, &before);
	must("nanosleep", syscall(SYS_nanosleep, &time, NULL), 0, 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	if ((after.tv_sec - before.tv_sec) * 1000000000l + after.tv_nsec - before.tv_nsec < time.tv_nsec)
		wrong("nanosleep came back early");
	after.tv_nsec += time.tv_nsec;
	after.tv_sec += after.tv_nsec / 1000000000l;
	after.tv_nsec %= 1000000000l;
	must("clock_nanosleep", syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &after, NULL), 0,
	     0);
}

static void waits_for_futex(void)
{
	static uint32_t word;
	struct timespec time = tick();

	must("futex", syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, NULL, 0), -1, ETIMEDOUT);
}

static void polls(void)
{
	struct timespec time = tick();
	sigset_t mask = blocked();

	must("poll", syscall(SYS_poll, NULL, 0, TICK_MS), 0, 0);
	must("ppoll", syscall(SYS_ppoll, NULL, 0, &time, &mask, 8), 0, 0);
	time = tick();
	must("pselect", syscall(SYS_pselect6, 0, NULL, NULL, NULL, &time, NULL), 0, 0);
}

static void waits_for_epoll(void)
{
	struct epoll_event event;
	int epoll = epoll_create1(0);
	sigset_t mask = blocked();

	must("epoll_wait", syscall(SYS_epoll_wait, epoll, &event, 1, TICK_MS), 0, 0);
	must("epoll_pwait", syscall(SYS_epoll_pwait, epoll, &event, 1, TICK_MS, &mask, 8), 0, 0);
	close(epoll);
}

static void *writes_late(void *argument)
{
	struct timespec time = tick();

	nanosleep(&time, NULL);
	if (write(*(int *)argument, "x", 1) != 1)
		cannot("write");
	return NULL;
}

static void reads(void)
{
	pthread_t writer;
	int ends[2];
	char byte;

	if (pipe(ends) || pthread_create(&writer, NULL, writes_late, &ends[1]))
		cannot("make a pipe and a thread");
	must("read", syscall(SYS_read, ends[0], &byte, 1), 1, 0);
	pthread_join(writer, NULL);
	close(ends[0]);
	close(ends[1]);
}

static void receives(void)
{
	struct timeval limit = { 0, TICK_MS * 1000 };
	int ends[2];
	char byte;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) ||
	    setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		cannot("make a socket");
	must("recvfrom", syscall(SYS_recvfrom, ends[0], &byte, 1, 0, NULL, NULL), -1, EAGAIN);
	close(ends[0]);
	close(ends[1]);
}

static void waits_for_signal(void)
{
	struct timespec time = tick();
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	must("rt_sigtimedwait", syscall(SYS_rt_sigtimedwait, &set, NULL, &time, 8), -1, EAGAIN);
}

static void waits_for_semaphore(void)
{
	struct sembuf take = { 0, -1, 0 };
	struct timespec time = tick();
	int semaphore = semget(IPC_PRIVATE, 1, 0600);

	if (semaphore < 0)
		cannot("make a semaphore");
	must("semtimedop", syscall(SYS_semtimedop, semaphore, &take, 1, &time), -1, EAGAIN);
	semctl(semaphore, 0, IPC_RMID);
}

static void waits_for_child(void)
{
	struct timespec time = tick();
	pid_t child = fork();

	if (!child) {
		nanosleep(&time, NULL);
		_exit(0);
	}
	if (child < 0)
		cannot("fork");
	must("wait4", syscall(SYS_wait4, child, NULL, 0, NULL), child, 0);
}

static void *again(void *argument)
{
	void (*call)(void);

	memcpy(&call, &argument, sizeof(call));
	while (!over)
		call();
	return NULL;
}

/* ---- threads, registers, signals ---- */

static void *short_lived(void *argument)
{
	return argument;
}

static void starts_threads(void)
{
	pthread_t thread[4];
	void *result;

	for (uintptr_t i = 0; i < 4; i++)
		if (pthread_create(&thread[i], NULL, short_lived, (void *)(i + 1)))
			cannot("start a thread");
	for (uintptr_t i = 0; i < 4; i++)
		if (pthread_join(thread[i], &result) || result != (void *)(i + 1))
			wrong("a thread's result");
}

static void computes(void)
{
	static uint64_t first;
	static double first_real;
	uint64_t state = 7, sum = 0;
	double real = 1;

	for (int i = 0; i < 20000; i++) {
		sum += next_random(&state);
		real = real * 1.0000001 + (double)(i & 7);
	}
	if (!first) {
		first = sum;
		first_real = real;
	}
	if (sum != first || real != first_real)
		wrong("a sum");
}

static void count(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	signals_seen++;
	signals_sum += (unsigned long)info->si_value.sival_int;
}

static void *counts(void *argument)
{
	sigset_t set;

	(void)argument;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	while (!over)
		usleep(TICK_MS * 1000);
	return NULL;
}

static void start(void *(*body)(void *), void (*call)(void))
{
	static pthread_t thread;
	void *argument;

	memcpy(&argument, &call, sizeof(argument));
	if (pthread_create(&thread, NULL, body, argument))
		cannot("start a thread");
}

static void start_all(const char *what)
{
	static void (*const calls[])(
		void) = { sleeps,           waits_for_futex,    polls, reads, waits_for_epoll, receives,
		          waits_for_signal, waits_for_semaphore };

	if (!strcmp(what, "calls"))
		for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
			start(again, calls[i]);
	else if (!strcmp(what, "children"))
		start(again, waits_for_child);
	else if (!strcmp(what, "threads"))
		start(again, starts_threads);
	else if (!strcmp(what, "registers"))
		start(again, computes);
	else if (!strcmp(what, "signals"))
		start(counts, NULL);
	else
		wrong("no such work: %s", what);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = count, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigset_t set = blocked();
	char byte;

	sigaction(SIGRTMIN, &action, NULL);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (int i = 1; i < argc; i++)
		start_all(argv[i]);
	printf("ready\n");
	fflush(stdout);
	must("read of standard input", syscall(SYS_read, 0, &byte, 1), 0, 0);
	over = true;
	usleep(20 * TICK_MS * 1000);
	printf("signals %lu %lu\nwell\n", signals_seen, signals_sum);
	fflush(stdout);
	_exit(0);
}
