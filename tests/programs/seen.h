/*
 * seen.h - the frame of the programs whose system calls the tests of the interceptor watch. A program is a
 * table of cases; one run does one case and prints what it found, without addresses, numbers of processes and
 * times. The tests compare a plain run with runs under the agent.
 */
#ifndef SEEN_H
#define SEEN_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct seen_case {
	const char *name;
	void (*run)(void);
};

/* say("signal %d", sig): one line of the result, at once. */
#define say(...) (printf(__VA_ARGS__), printf("\n"), fflush(stdout))
#define must(condition)                                                                                      \
	((condition) ? (void)0                                                                               \
	             : (say("line %d: not so: %s (errno %d)", __LINE__, #condition, errno), _exit(1)))

static int seen_main(int argc, char **argv, const struct seen_case *cases)
{
	for (; argc > 1 && cases->name; cases++)
		if (strcmp(cases->name, argv[1]) == 0) {
			cases->run();
			return 0;
		}
	return 3;
}

#endif
