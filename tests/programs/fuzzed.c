/*
 * fuzzed.c - what tests/cover_fuzz.c runs again and again: does what the first byte of its standard input
 * says.
 *
 *     fuzzed [threads|early|late|quiet] [DESCRIPTOR]      where it tells numbers of processes
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __clang__
#define KEPT __attribute__((noinline))
#else
#define KEPT __attribute__((noinline, noclone))
#endif

static int told = -1;
static volatile int sink;
static volatile int *volatile nowhere;

static void *wait_forever(void *nothing)
{
	for (;;)
		pause();
	return nothing;
}

static KEPT void *in_thread(void *number)
{
	sink += *(int *)number;
	return number;
}

static void tell(int number)
{
	if (told >= 0 && write(told, &number, sizeof(number)) != sizeof(number))
		_exit(99);
}

static KEPT int in_child(int n)
{
	return sink ? n : n + 1;
}

/* A child that does something, and is waited for. */
static int with_child(void)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0)
		_exit(in_child(6));
	return child < 0 || waitpid(child, &status, 0) != child ? 98 : WEXITSTATUS(status);
}

/* Two that stay when this one ends. */
static int leave_behind(void)
{
	for (int i = 0; i < 2; i++) {
		pid_t child = fork();

		if (child == 0) {
			setsid();
			if (fork() == 0)
				tell(getpid());
			wait_forever(NULL);
		}
		tell(child);
	}
	return 0;
}

static int with_thread(void)
{
	pthread_t thread;
	int number = 3;

	if (pthread_create(&thread, NULL, in_thread, &number) != 0 || pthread_join(thread, NULL) != 0)
		return 97;
	return sink;
}

static int count(void)
{
	char byte;
	int n = 1;

	while (read(STDIN_FILENO, &byte, 1) == 1)
		n++;
	return n;
}

static int words(void)
{
	char text[64];
	ssize_t size = read(STDIN_FILENO, text, sizeof(text));

	if (size > 0 && text[0] == 'o')
		return size > 1 && text[1] == 'k' ? 1 : 2;
	for (ssize_t i = 0; i < size; i++)
		if (text[i] == '!')
			sink += 5;
	return sink;
}

KEPT int begin(char **argv);
int begin(char **argv)
{
	char command;

	if (read(STDIN_FILENO, &command, 1) != 1)
		return 0;
	switch (command) {
	case 'a': abort();
	case 'c': return count();
	case 'd': return leave_behind();
	case 'e': execv("/proc/self/exe", (char *[]){ argv[0], "executed", NULL }); return 96;
	case 'f': return with_child();
	case 'h': wait_forever(NULL); return 0;
	case 'o': return write(STDOUT_FILENO, "heard\n", 6) == 6 ? 0 : 95;
	case 'p':
		tell(getpid());
		wait_forever(NULL);
		return 0;
	case 'r': raise(SIGUSR1); return 94;
	case 's': *nowhere = 1; return 93;
	case 't': return with_thread();
	case 'w': return words();
	default: return 1;
	}
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	pthread_t thread;

	if (argc > 2)
		told = atoi(argv[2]);
	if (strcmp(how, "executed") == 0)
		return in_child(40);
	if (strcmp(how, "early") == 0)
		return 3;
	if (strcmp(how, "late") == 0)
		wait_forever(NULL);
	if (strcmp(how, "quiet") == 0) /* ends of children are nobody's business */
		signal(SIGCHLD, SIG_IGN);
	if (strcmp(how, "threads") == 0 && pthread_create(&thread, NULL, wait_forever, NULL) != 0)
		return 92;
	return begin(argv);
}
