/*
 * intercept.c - what it costs that a system call is seen: getpid, ns a call, in five ways. Each way is a run
 * of this program by itself, with the tests' agent or without; the ways take turns, and the medians of their
 * repetitions are shown, with the least beside them.
 */
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REPETITIONS 7
#define CALLS 200000

static double now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void handler(int sig)
{
}

/* One measurement, in the process that has or has not the agent. */
static int measure(const char *what)
{
	static const unsigned char code[] = { 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3 };
	int count = strcmp(what, "generated") == 0 || strcmp(what, "signal") == 0 ? CALLS / 10 : CALLS;
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long (*call)(void);
	double start;

	memcpy(page, code, sizeof code);
	memcpy(&call, &page, sizeof call);
	signal(SIGUSR1, handler);
	start = now_ns();
	for (int i = 0; i < count; i++) {
		if (*what == 'g')
			call();
		else if (*what == 's')
			raise(SIGUSR1);
		else
			getpid();
	}
	printf("%.1f\n", (now_ns() - start) / count);
	return 0;
}

static double one(const char *self, const char *agent, const char *words, const char *what)
{
	char line[PATH_MAX * 3], result[64] = "";
	FILE *pipe;

	if (words)
		snprintf(line, sizeof line, "LH_INTERCEPT=%s LD_PRELOAD=%s %s %s", words, agent, self, what);
	else
		snprintf(line, sizeof line, "%s %s", self, what);
	pipe = popen(line, "r");
	if (!pipe || !fgets(result, sizeof result, pipe)) {
		fprintf(stderr, "intercept: %s: no result\n", line);
		exit(1);
	}
	pclose(pipe);
	return atof(result);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name, *words, *what;
	} way[] = {
		{ "raw, without the agent", NULL, "plain" },
		{ "rewritten, nobody wants it", "none", "plain" },
		{ "rewritten, counted only", "none,count", "plain" },
		{ "rewritten, through the hook", "all", "plain" },
		{ "net, nobody wants it", "none", "generated" },
		{ "net, through the hook", "all", "generated" },
		{ "a signal to oneself, without", NULL, "signal" },
		{ "a signal to oneself, nobody wants", "none", "signal" },
		{ "a signal to oneself, through the hook", "all", "signal" },
	};
	enum { WAYS = sizeof way / sizeof *way };
	double got[WAYS][REPETITIONS];
	char self[PATH_MAX], folder[PATH_MAX], agent[PATH_MAX + 64];

	if (argc > 1)
		return measure(argv[1]);
	if (!realpath("/proc/self/exe", self))
		return 1;
	strcpy(folder, self);
	snprintf(agent, sizeof agent, "%s/tests/agents/intercept.so", dirname(dirname(folder)));
	for (int r = 0; r < REPETITIONS; r++)
		for (int i = 0; i < WAYS; i++)
			got[i][r] = one(self, agent, way[i].words, way[i].what);
	printf("%-40s %10s %10s\n", "getpid, ns a call", "median", "least");
	for (int i = 0; i < WAYS; i++) {
		qsort(got[i], REPETITIONS, sizeof(double), compare);
		printf("%-40s %10.1f %10.1f\n", way[i].name, got[i][REPETITIONS / 2], got[i][0]);
	}
	return 0;
}
