/*
 * counted_tree.c - threads, children and programs that are executed, for tests of linehome count:
 *
 *     counted_tree threads N      N threads with names, of which i makes 1000 * (i + 1) rounds of one store
 *     counted_tree fork           a child that makes 5000 rounds; its parent waits
 *     counted_tree exec PROGRAM   PROGRAM takes this one's place, with an empty environment
 *     counted_tree spawn PROGRAM  PROGRAM by vfork and exec, once where there is none and once where it is
 *     counted_tree kill           7000 rounds, a system call, and SIGKILL
 *     counted_tree abort          7000 rounds, and abort
 */
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "program.h"

__attribute__((noinline)) static void work(uint64_t rounds)
{
	uint64_t cell;

	__asm__ volatile("1: movq $1, %1; decq %0; jnz 1b" : "+r"(rounds), "=m"(cell) : : "memory");
}

static void *thread(void *argument)
{
	uintptr_t i = (uintptr_t)argument;
	char name[16];

	snprintf(name, sizeof name, "worker-%d", (int)i);
	prctl(PR_SET_NAME, name);
	work(1000 * (i + 1));
	return NULL;
}

static int threads(unsigned n)
{
	pthread_t at[64];

	for (uintptr_t i = 0; i < n && i < 64; i++)
		if (pthread_create(&at[i], NULL, thread, (void *)i) != 0)
			cannot("no thread");
	for (unsigned i = 0; i < n && i < 64; i++)
		pthread_join(at[i], NULL);
	return 0;
}

static int forks(void)
{
	pid_t child = fork();

	if (child == 0) {
		work(5000);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	return 0;
}

static int spawn(char *program)
{
	static char *none[] = { "/does/not/exist", NULL }, *nothing[] = { NULL };
	char *argv[] = { program, NULL };
	pid_t child = vfork();

	if (child == 0) {
		execve(none[0], none, nothing);
		execve(program, argv, nothing);
		_exit(9);
	}
	waitpid(child, NULL, 0);
	return 0;
}

int main(int argc, char **argv)
{
	static char *nothing[] = { NULL };
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "threads") == 0 && argc == 3)
		return threads((unsigned)strtoul(argv[2], NULL, 10));
	if (strcmp(what, "fork") == 0)
		return forks();
	if (strcmp(what, "exec") == 0 && argc == 3)
		execve(argv[2], argv + 2, nothing);
	if (strcmp(what, "spawn") == 0 && argc == 3)
		return spawn(argv[2]);
	if (strcmp(what, "kill") == 0 || strcmp(what, "abort") == 0)
		work(7000);
	if (strcmp(what, "kill") == 0)
		kill(getpid(), SIGKILL);
	if (strcmp(what, "abort") == 0)
		abort();
	cannot("%s: no such case", what);
}
