/*
 * intercept.h - runs a program plainly and under the interceptor's test agent, and compares what it printed
 * and how it ended.
 */
#ifndef INTERCEPT_H
#define INTERCEPT_H

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

#include "tap.h"

struct result {
	int status, size;
	char text[65536];
};

/* Agent and programs are never sanitized, so they stand beside or above this program's folder. */
static char plain_folder[PATH_MAX];

__attribute__((unused)) static void find_folder(const char *self)
{
	char path[PATH_MAX + 100], folder[PATH_MAX];

	for (int up = 0; up < 2; up++) {
		snprintf(folder, sizeof folder, "%.*s%s", (int)(strrchr(self, '/') - self), self,
		         up ? "/../.." : "/..");
		if (!realpath(folder, plain_folder))
			continue;
		snprintf(path, sizeof path, "%s/tests/agents/intercept.so", plain_folder);
		if (access(path, R_OK) == 0)
			return;
	}
	printf("Bail out! the test agent is not built\n");
	exit(1);
}

__attribute__((unused)) static char *plain_path(char path[PATH_MAX + 100], const char *name)
{
	snprintf(path, PATH_MAX + 100, "%s/tests/%s", plain_folder, name);
	return path;
}

static long now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void become(const char *words, char *const argv[], int out)
{
	char agent[PATH_MAX + 100];
	int nothing = open("/dev/null", O_RDONLY);

	dup2(nothing, 0);
	dup2(out, 1);
	if (words) {
		setenv("LH_INTERCEPT", words, 1);
		setenv("LD_PRELOAD", plain_path(agent, "agents/intercept.so"), 1);
	}
	execvp(argv[0], argv);
	_exit(127);
}

/* words NULL: without the agent. A run that lasts over 60 s is killed. */
static void run(const char *words, char *const argv[], struct result *result)
{
	long end = now_ms() + 60000;
	int ends[2], got = 1;
	pid_t pid;

	memset(result, 0, sizeof *result);
	fflush(stdout);
	if (pipe2(ends, O_CLOEXEC) || (pid = fork()) < 0)
		abort();
	if (pid == 0)
		become(words, argv, ends[1]);
	close(ends[1]);
	while (got > 0 && result->size < (int)sizeof result->text - 1) {
		struct pollfd wait = { ends[0], POLLIN, 0 };
		long left = end - now_ms();

		if (left <= 0 || poll(&wait, 1, (int)left) == 0) {
			kill(pid, SIGKILL);
			break;
		}
		got = (int)read(ends[0], result->text + result->size,
		                sizeof result->text - 1 - (size_t)result->size);
		result->size += got > 0 ? got : 0;
	}
	close(ends[0]);
	waitpid(pid, &result->status, 0);
}

static void show(const char *what, const struct result *result)
{
	char text[1500] = "";

	memcpy(text, result->text, sizeof text - 1);
	printf("# %s: status 0x%x\n", what, (unsigned)result->status);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		printf("# | %s\n", line);
}

static int same(const struct result *a, const struct result *b)
{
	return (a->status & ~0x80) == (b->status & ~0x80) && strcmp(a->text, b->text) == 0;
}

/* One test for each way of running; ways ends with NULL. */
__attribute__((unused)) static void compare(const char *what, char *const argv[], const char *const *ways)
{
	static struct result plain, seen;

	run(NULL, argv, &plain);
	for (; *ways; ways++) {
		run(*ways, argv, &seen);
		if (!same(&plain, &seen)) {
			show("plain", &plain);
			show(*ways, &seen);
		}
		ok(same(&plain, &seen), "%s (%s): as without the agent", what,
		   **ways ? *ways : "all calls seen");
	}
}

/* Each case of one of the seen programs, in each way. */
__attribute__((unused)) static void compare_cases(const char *program, const char *const *names,
                                                  const char *const *ways)
{
	char path[PATH_MAX + 100];

	for (; *names; names++)
		compare(*names, (char *[]){ plain_path(path, program), (char *)*names, NULL }, ways);
}

#endif
