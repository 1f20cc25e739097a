/*
 * code_trap.c - what the inside agent costs: a trap at an absent instruction until that instruction has been
 * executed, and system calls whose sites stay absent, beside the same without an agent. Medians, ns; a trap's
 * has the page's copy in it, shared by the 64 traps in the page.
 */
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>

#include "../tests/code_inside.h"

#define BLOCKS 4096u
#define SAMPLES (BLOCKS / 64)
#define CALLS 200u

static bool with_agent;

static double now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	return *(const double *)a < *(const double *)b ? -1 : 1;
}

static void show(const char *what, double *sample)
{
	qsort(sample, SAMPLES, sizeof *sample, compare);
	printf("%-44s %8.0f %8.0f\n", what, sample[SAMPLES / 2], sample[0]);
}

static uint32_t the_object(const char *path)
{
	return strstr(path, "/watched.so") ? LH_ANSWER_WATCH : LH_ANSWER_SITES;
}

static void *load(void)
{
	char path[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);

	path[length > 0 ? length : 0] = 0;
	strcpy(strstr(path, "/bench/code_trap"), "/tests/objects/watched.so");
	return dlopen(path, RTLD_NOW);
}

static void mask_call(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void unknown_call(void)
{
	syscall(SYS_getppid);
}

static void map_call(void)
{
	void *at = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(at, 4096);
}

static void measure_calls(const char *what, void (*call)(void))
{
	double sample[SAMPLES];

	for (unsigned i = 0; i < SAMPLES; i++) {
		double start = now_ns();

		for (unsigned n = 0; n < CALLS; n++)
			call();
		sample[i] = (now_ns() - start) / CALLS;
	}
	show(what, sample);
}

static int measure(void)
{
	void *object = load(), *blocks = object ? dlsym(object, "watched_blocks") : NULL;
	struct agent agent;
	double sample[SAMPLES];

	if (!blocks || !agent_load(&agent) || (with_agent && agent_start(&agent, true, granularity) != 0))
		return 1;
	for (unsigned i = 0; i < SAMPLES; i++) {
		uint8_t *at = (uint8_t *)blocks + (size_t)i * 4096;
		double start = now_ns();

		for (unsigned n = 0; n < 64; n++, at += 64) {
			long (*function)(long);

			memcpy(&function, &at, sizeof at);
			if (function(n) != (long)((n + 1) ^ 3) + n)
				return 1;
		}
		sample[i] = (now_ns() - start) / 64;
	}
	show(with_agent ? "a function of one block, first call" : "the same without the agent", sample);
	measure_calls(with_agent ? "rt_sigprocmask" : "  rt_sigprocmask", mask_call);
	measure_calls(with_agent ? "syscall(getppid)" : "  syscall(getppid)", unknown_call);
	measure_calls(with_agent ? "mmap and munmap" : "  mmap and munmap", map_call);
	fflush(stdout);
	return with_agent && control()->traps < BLOCKS;
}

int main(void)
{
	choose = the_object;
	if (!watcher_open())
		return 1;
	printf("%-44s %8s %8s\n", "ns", "median", "least");
	for (unsigned round = 0; round < 6; round++) {
		with_agent = !(round & 1);
		if (!watcher_reset() || watch_child(measure) != 0)
			return 1;
	}
	return 0;
}
