/*
 * probe_calls.c - what it costs a call to be counted and timed: nothing there, a probe of linehome trace, and
 * what the kernel has for that, a uprobe at the entry and a uretprobe, through perf_event_open(2).
 *
 * A child calls an empty function in rounds; before each round the parent changes what is on it. Medians of
 * rounds that take turns, so that what else the machine does meets all alike. The kernel has an easy case and
 * a hard one: a function that begins with a push, which it does by itself, and one that begins with most
 * other instructions, which it lets the program execute elsewhere, one step.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "service/code/probe.h"

#define ROUNDS 21u
enum way { NONE, PROBE, UPROBE, BOTH_UPROBES, WAYS };
enum { EASY, HARD, FUNCTIONS };

struct shared {
	unsigned wanted, done; /* rounds */
	unsigned calls, function;
	double ns;
};

uint64_t easy_function(uint64_t x), hard_function(uint64_t x);
__asm__(".text\n.p2align 4\n.globl easy_function\n.type easy_function, @function\neasy_function:\n"
        "push %rbp\nlea 1(%rdi), %rax\npop %rbp\nret\n.size easy_function, .-easy_function\n"
        ".p2align 4\n.globl hard_function\n.type hard_function, @function\nhard_function:\n"
        "lea 1(%rdi), %rax\nret\n.size hard_function, .-hard_function\n"
        ".p2align 4\n");
static const char *const names[FUNCTIONS] = { "easy_function", "hard_function" };
static uint64_t (*const function[FUNCTIONS])(uint64_t) = { easy_function, hard_function };

static double now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void child(volatile struct shared *shared)
{
	uint64_t x = 0;

	for (unsigned round = 1;; round++) {
		double began;

		while (shared->wanted < round)
			usleep(200);
		began = now_ns();
		for (unsigned i = 0; i < shared->calls; i++)
			x = function[shared->function](x);
		shared->ns = (now_ns() - began) / shared->calls;
		shared->done = round;
	}
}

static int number_in(const char *path)
{
	FILE *file = fopen(path, "re");
	int number = -1;

	if (file && fscanf(file, "%d", &number) != 1)
		number = -1;
	if (file)
		fclose(file);
	return number;
}

/* The function's place in this program's file. */
static uint64_t file_offset(unsigned which)
{
	char line[4096];
	uint64_t start, end, offset, address = (uint64_t)function[which];
	FILE *maps = fopen("/proc/self/maps", "re");

	while (maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) == 3 && address >= start &&
		    address < end)
			address = address - start + offset;
	if (maps)
		fclose(maps);
	return address;
}

static int open_uprobe(pid_t process, unsigned which, int is_return)
{
	struct perf_event_attr attributes = { .size = sizeof attributes };
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
	int type = number_in("/sys/bus/event_source/devices/uprobe/type");

	if (type < 0 || length < 0)
		return -1;
	path[length] = '\0';
	attributes.type = (uint32_t)type;
	attributes.config = (uint64_t)is_return;
	attributes.config1 = (uint64_t)path;
	attributes.config2 = file_offset(which);
	return (int)syscall(SYS_perf_event_open, &attributes, process, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

/* ns a call with this on the function; negative: not possible here. */
static double round_of(volatile struct shared *shared, pid_t process, unsigned which, enum way way)
{
	struct lh_probes *probes = NULL;
	struct lh_error error;
	int entry = -1, exit = -1;

	if (way == PROBE && lh__probes_put(process, &names[which], 1, 1000, &probes, &error) < 0) {
		fprintf(stderr, "%s\n", error.text);
		return -1;
	}
	if (way >= UPROBE)
		entry = open_uprobe(process, which, 0);
	if (way == BOTH_UPROBES)
		exit = open_uprobe(process, which, 1);
	if ((way >= UPROBE && entry < 0) || (way == BOTH_UPROBES && exit < 0))
		return -1;
	shared->calls = way >= UPROBE ? 20000 : 1000000;
	shared->function = which;
	shared->wanted++;
	while (shared->done < shared->wanted)
		usleep(500);
	if (probes) {
		struct lh_probe_counts counts;

		lh__probes_read(probes, 0, &counts);
		if (counts.calls != shared->calls || counts.returns != shared->calls)
			fprintf(stderr, "%lu calls, %lu returns of %u\n", counts.calls, counts.returns,
			        shared->calls);
		if (lh__probes_take(probes, 1000, &error) < 0)
			fprintf(stderr, "%s\n", error.text);
	}
	if (entry >= 0)
		close(entry);
	if (exit >= 0)
		close(exit);
	return shared->ns;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void print_row(const char *name, double *ns, double base)
{
	if (ns[0] < 0)
		printf("  %-32s not possible here\n", name);
	else
		printf("  %-32s %10.1f %10.1f %10.1f %+10.1f\n", name, ns[ROUNDS / 2], ns[ROUNDS / 4],
		       ns[ROUNDS * 3 / 4], ns[ROUNDS / 2] - base);
}

int main(void)
{
	static const char *const ways[WAYS] = { "nothing", "linehome probe: count and time", "uprobe: count",
		                                "uprobe and uretprobe: count" };
	static double ns[FUNCTIONS][WAYS][ROUNDS];
	volatile struct shared *shared =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t process = fork();

	if (process == 0)
		child(shared);
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned which = 0; which < FUNCTIONS; which++)
			for (enum way way = NONE; way < WAYS; way++)
				ns[which][way][round] = round_of(shared, process, which, way);
	kill(process, SIGKILL);
	waitpid(process, NULL, 0);
	printf("ns a call, %u rounds                  median   quartile   quartile       more\n", ROUNDS);
	for (unsigned which = 0; which < FUNCTIONS; which++) {
		printf("a function that begins with %s\n", which == EASY ? "a push" : "another instruction");
		for (enum way way = NONE; way < WAYS; way++) {
			qsort(ns[which][way], ROUNDS, sizeof(double), compare);
			print_row(ways[way], ns[which][way], ns[which][NONE][ROUNDS / 2]);
		}
	}
	return 0;
}
