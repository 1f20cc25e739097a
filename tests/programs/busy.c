/*
 * busy.c - four threads that sort, format and allocate until SIGTERM, once at least, and two that wait in
 * system calls; then it says whether all that they have computed is right and exits with 7. With an argument
 * it forks first, and the child does the same.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4
#define NUMBERS 256

static volatile sig_atomic_t stop;
static unsigned long rounds[THREADS], wrong[THREADS];

static void on_term(int number)
{
	(void)number;
	stop = 1;
}

static int compare(const void *a, const void *b)
{
	return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

static void *work(void *argument)
{
	size_t me = (size_t)argument;
	unsigned seed = (unsigned)me + 1;
	int numbers[NUMBERS];
	char text[64];

	do {
		char *copy;

		for (int i = 0; i < NUMBERS; i++) {
			seed = seed * 1103515245u + 12345u;
			numbers[i] = (int)(seed >> 8);
		}
		qsort(numbers, NUMBERS, sizeof(*numbers), compare);
		for (int i = 1; i < NUMBERS; i++)
			wrong[me] += numbers[i - 1] > numbers[i];
		snprintf(text, sizeof(text), "%d %zu", numbers[3], me);
		copy = strdup(text);
		wrong[me] += !copy || atoi(copy) != numbers[3];
		free(copy);
		rounds[me]++;
		usleep(100);
	} while (!stop);
	return NULL;
}

/* In a call that the kernel is given a mask for, and in one that it is not. */
static void *sleep_on(void *argument)
{
	sigset_t mask;

	sigemptyset(&mask);
	while (!stop) {
		struct timespec time = { 0, 20000000 };

		if (argument)
			ppoll(NULL, 0, &time, &mask);
		else
			nanosleep(&time, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS + 2];
	unsigned long all = 0, bad = 0;
	pid_t child = 1;
	int status = 0;

	(void)argv;
	signal(SIGTERM, on_term);
	if (argc > 1)
		child = fork();
	for (size_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	for (size_t i = 0; i < 2; i++)
		pthread_create(&threads[THREADS + i], NULL, sleep_on, (void *)i);
	for (size_t i = 0; i < THREADS + 2; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < THREADS; i++) {
		all += rounds[i] > 0;
		bad += wrong[i];
	}
	if (child == 0)
		_exit(bad == 0 && all == THREADS ? 7 : 1);
	if (argc > 1) {
		kill(child, SIGTERM);
		waitpid(child, &status, 0);
		bad += !WIFEXITED(status) || WEXITSTATUS(status) != 7;
	}
	printf("%s\n", bad == 0 && all == THREADS ? "right" : "wrong");
	return bad == 0 ? 7 : 1;
}
