/*
 * inject_find.c - see inject_inside.h. What is looked for in a process before it is touched: two pieces of
 * code, and the thread that is missed least.
 */
#include "service/migrate/inject_inside.h"

#include <dirent.h>
#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/code/remote.h"
#include "sys/sys.h"

/* ---- code ---- */

#define CHUNK (1u << 20)

static const uint8_t call_code[] = { 0x0f, 0x05, 0xc3 };
static const uint8_t restorer_code[] = { 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05 };

struct search {
	struct lh_injection *injection;
	uint8_t *chunk;
};

static void look_for(const uint8_t *code, size_t size, const uint8_t *bytes, size_t have, uint64_t start,
                     uint64_t *found)
{
	const uint8_t *at = *found ? NULL : memmem(bytes, have, code, size);

	if (at)
		*found = start + (uint64_t)(at - bytes);
}

/* Code of files and of the kernel: code that is made at run time comes and goes. */
static bool is_fixed_code(const struct lh_mapping *mapping)
{
	return mapping->rights[2] == 'x' && mapping->rights[1] == '-' &&
	       (mapping->inode || !strcmp(mapping->path, "[vdso]"));
}

static int search(void *context, const struct lh_mapping *mapping)
{
	struct search *search = context;
	struct lh_injection *injection = search->injection;

	if (!is_fixed_code(mapping))
		return 0;
	/* Chunks overlap by more than either piece is long. */
	for (uint64_t at = mapping->start; at < mapping->end; at += CHUNK - 16) {
		size_t want = mapping->end - at < CHUNK ? (size_t)(mapping->end - at) : CHUNK;
		ssize_t n = pread(injection->memory, search->chunk, want, (off_t)at);

		if (n <= 0)
			break;
		look_for(call_code, sizeof(call_code), search->chunk, (size_t)n, at, &injection->call);
		look_for(restorer_code, sizeof(restorer_code), search->chunk, (size_t)n, at,
		         &injection->restorer);
	}
	return injection->call && injection->restorer;
}

int lh__inject_find_code(struct lh_injection *injection, struct lh_error *error)
{
	struct search all = { .injection = injection, .chunk = malloc(CHUNK) };
	int rc;

	if (!all.chunk)
		return lh__fail(error, -ENOMEM, "no memory");
	injection->call = injection->restorer = 0;
	rc = lh__mappings(injection->process, search, &all);
	free(all.chunk);
	if (rc < 0)
		return lh__fail(error, rc, "the mappings of process %d: %s", (int)injection->process,
		                lh__errno_name(rc));
	if (rc == 0)
		return lh__fail(error, -ENOEXEC, "process %d has no code that can make a system call for us",
		                (int)injection->process);
	return 0;
}

/* ---- threads ---- */

/* How little a thread is missed. */
enum rank {
	WAITS_FOR_EVER = 0, /* for another thread to wake it, without a limit in time */
	POLLS,              /* for descriptors: the call is restarted with the time that is left */
	RUNS,               /* at no call */
	CALLS,              /* at another call */
	UNFIT,              /* it cannot be stopped now, or is as good as dead */
};

static bool read_line(pid_t process, pid_t thread, const char *name, char *line, size_t size)
{
	char path[64];
	FILE *file;
	bool read;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", (int)process, (int)thread, name);
	file = fopen(path, "re");
	if (!file)
		return false;
	read = fgets(line, (int)size, file) != NULL;
	fclose(file);
	return read;
}

static char state_of(pid_t process, pid_t thread)
{
	char line[256];
	const char *end;

	if (!read_line(process, thread, "stat", line, sizeof(line)))
		return 'X';
	end = strrchr(line, ')');
	return end && end[1] ? end[2] : 'X';
}

static enum rank rank_of(pid_t process, pid_t thread)
{
	unsigned long argument[4];
	char line[256], state = state_of(process, thread);
	long nr;

	if (strchr("DZXtTIP", state))
		return UNFIT;
	if (!read_line(process, thread, "syscall", line, sizeof(line)))
		return UNFIT;
	if (sscanf(line, "%ld %lx %lx %lx %lx", &nr, &argument[0], &argument[1], &argument[2], &argument[3]) <
	    5)
		return RUNS;
	if (nr == SYS_futex && !argument[3])
		return WAITS_FOR_EVER;
	return nr == SYS_ppoll ? POLLS : CALLS;
}

int lh__inject_choose(pid_t process, pid_t *thread)
{
	enum rank best = UNFIT;
	struct dirent *entry;
	char path[64];
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)process);
	tasks = opendir(path);
	if (!tasks)
		return -ESRCH;
	while ((entry = readdir(tasks))) {
		pid_t id = (pid_t)strtol(entry->d_name, NULL, 10);
		enum rank rank = id > 0 ? rank_of(process, id) : UNFIT;

		if (rank < best) {
			best = rank;
			*thread = id;
		}
	}
	closedir(tasks);
	return best == UNFIT ? -EBUSY : 0;
}
