/*
 * patch.h - for the tests of patches: a program that runs, what it answers, patches made of a few lines, and
 * the checksum of all its code.
 */
#ifndef PATCH_TEST_H
#define PATCH_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "line/line.h"
#include "service/code/patch.h"
#include "service/code/remote.h"
#include "tap.h"

struct target {
	pid_t pid;
	FILE *to, *from;
};

struct answers {
	int switched, answer, hidden, fib, tiny, close_by, entered, holds;
	long wrong, calls, loops;
};

static char patch_folder[64];

__attribute__((unused)) static void target_stop(struct target *target)
{
	fclose(target->to);
	kill(target->pid, SIGKILL);
	waitpid(target->pid, NULL, 0);
	fclose(target->from);
}

/* The answers to one line; all zero where the program has ended. */
static struct answers target_say(struct target *target, const char *line)
{
	struct answers a = { 0 };

	fprintf(target->to, "%s\n", line);
	fflush(target->to);
	if (fscanf(target->from,
	           " switched %d answer %d hidden %d fib %d tiny %d close_by %d entered %d holds %d wrong "
	           "%ld calls %ld "
	           "loops %ld",
	           &a.switched, &a.answer, &a.hidden, &a.fib, &a.tiny, &a.close_by, &a.entered, &a.holds,
	           &a.wrong, &a.calls, &a.loops) != 11)
		return (struct answers){ 0 };
	return a;
}

static struct answers target_ask(struct target *target)
{
	return target_say(target, "ask");
}

/* threads call a function again and again; with loops, two more never leave theirs. */
static struct target target_start_at(const char *path, int threads, bool loops)
{
	struct target target = { 0 };
	int in[2], out[2];
	char number[16];

	snprintf(number, sizeof number, "%d", threads);
	if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
		return target;
	target.pid = fork();
	if (target.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl(path, path, number, loops ? "loops" : NULL, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	target.to = fdopen(in[1], "w");
	target.from = fdopen(out[0], "r");
	target_ask(&target);
	return target;
}

static struct target target_start(int threads, bool loops)
{
	const char *build = getenv("LINEHOME_BUILD");
	char path[4096];

	snprintf(path, sizeof path, "%s/tests/programs/patch_target", build ? build : "build");
	if (access(path, X_OK) != 0) /* built with a sanitizer: the program is in the folder above */
		snprintf(path, sizeof path, "%s/../tests/programs/patch_target", build ? build : "build");
	return target_start_at(path, threads, loops);
}

/* Makes a patch of some lines, and returns where it is: "name.so", or what flags make of it. */
static const char *patch_make(const char *name, const char *flags, const char *source)
{
	static char path[8][128];
	static unsigned next;
	char command[1024], *to = path[next++ % 8];
	const char *compiler = getenv("CC");
	FILE *file;

	snprintf(to, 128, "%s/%s.c", patch_folder, name);
	file = fopen(to, "w");
	if (!file)
		return NULL;
	fprintf(file, "#include <linehome/patch.h>\n%s\n", source);
	fclose(file);
	snprintf(command, sizeof command, "%s -shared -fPIC -O2 -Wall -Werror -Iinclude -o %s/%s.so %s %s",
	         compiler ? compiler : "cc", patch_folder, name, to, flags);
	snprintf(to, 128, "%s/%s.so", patch_folder, name);
	return system(command) == 0 ? to : NULL;
}

struct checksum {
	pid_t pid;
	uint32_t crc;
	unsigned mappings;
	int memory;
};

static int add_mapping(void *context, const struct lh_mapping *mapping)
{
	struct checksum *sum = context;
	uint8_t page[4096];

	if (mapping->rights[2] != 'x' || strcmp(mapping->path, "[vsyscall]") == 0)
		return 0;
	sum->mappings++;
	for (uint64_t at = mapping->start; at < mapping->end; at += sizeof page)
		if (pread(sum->memory, page, sizeof page, (off_t)at) == (ssize_t)sizeof page)
			sum->crc = lh__crc32c(sum->crc, page, sizeof page);
	return 0;
}

/* Of all that the process can execute, and how many mappings that is. */
static uint64_t patch_checksum(pid_t pid)
{
	struct checksum sum = { .pid = pid };
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	sum.memory = open(path, O_RDONLY | O_CLOEXEC);
	if (lh__mappings(pid, add_mapping, &sum) != 0 || sum.memory < 0)
		return 0;
	close(sum.memory);
	return (uint64_t)sum.mappings << 32 | sum.crc;
}

static int patch_begin(void)
{
	snprintf(patch_folder, sizeof patch_folder, "/tmp/linehome-patch.XXXXXX");
	signal(SIGPIPE, SIG_IGN);
	return mkdtemp(patch_folder) != NULL;
}

static void patch_end(void)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", patch_folder);
	if (system(command) != 0)
		printf("# %s is left\n", patch_folder);
}

static const struct lh_patch_options patch_plain = { .wait_ms = 5000 };

/* Applies; prints why not. */
static int patch_apply(pid_t pid, const char *file)
{
	struct lh_patch_outcome outcome;
	struct lh_error error;
	int result = lh__patch_apply(pid, file, &patch_plain, &outcome, &error);

	if (result < 0)
		printf("# %s\n", error.text);
	return result;
}

static int patch_revert(pid_t pid, const char *name, struct lh_patch_outcome *outcome)
{
	struct lh_error error;
	int result = lh__patch_revert(pid, name, &patch_plain, outcome, &error);

	if (result < 0)
		printf("# %s\n", error.text);
	return result;
}

#endif
