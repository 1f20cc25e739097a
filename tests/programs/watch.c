/*
 * watch.c - measures from outside how much memory a program holds.
 *
 * Runs a command, finds among its descendants the processes that execute PROGRAM (by /proc/PID/exe; their
 * own children count too, whatever they execute), and samples each of them: every --interval microseconds
 * the resident anonymous pages (/proc/PID/statm: resident - shared), and every 200 ms smaps_rollup, whose
 * "Anonymous" must not tell another story, and the shared memory that is mapped, which a pager's buffers
 * may live in. The first process found is "main", all others (a fork's child) are "other".
 *
 *     watch --program /usr/bin/sort --report FILE -- linehome run --local 64M -- sort big
 *
 * FILE then holds KEY=VALUE lines: main_peak_kib, main_shared_kib, other_peak_kib, samples, processes,
 * longest_gap_us (the longest time without a sample of main). The exit status is the command's.
 */
#include "program.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>

#define WATCHED_MAX 64
#define DISCOVER_NS UINT64_C(5000000)
#define ROLLUP_NS UINT64_C(200000000)

struct watched {
	pid_t pid;
	int statm;
	uint64_t peak_kib, shared_kib, samples, last_ns, gap_ns;
};

static struct watched all[WATCHED_MAX];
static unsigned count;
static char program[PATH_MAX];
static pid_t command;

static struct watched *find(pid_t pid)
{
	for (unsigned i = 0; i < count; i++)
		if (all[i].pid == pid)
			return &all[i];
	return NULL;
}

static bool executes_program(pid_t pid)
{
	char path[64], target[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	n = readlink(path, target, sizeof target - 1);
	if (n < 0)
		return false;
	target[n] = 0;
	return !strcmp(target, program);
}

static void watch(pid_t pid)
{
	char path[64];

	if (count == WATCHED_MAX)
		return;
	snprintf(path, sizeof path, "/proc/%d/statm", pid);
	all[count] = (struct watched){ .pid = pid, .statm = open(path, O_RDONLY | O_CLOEXEC) };
	if (all[count].statm >= 0)
		count++;
}

static void discover(pid_t pid, bool inherited);

static void discover_children(pid_t pid, pid_t thread, bool inherited)
{
	char path[80], line[4096], *at = line, *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, thread);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	n = read(fd, line, sizeof line - 1);
	close(fd);
	line[n > 0 ? n : 0] = 0;
	for (;; at = end) {
		pid_t child = (pid_t)strtol(at, &end, 10);

		if (end == at)
			return;
		discover(child, inherited);
	}
}

/* Looks at pid and all that descends from it; inherited: its parent is watched. */
static void discover(pid_t pid, bool inherited)
{
	char path[64];
	struct dirent *entry;
	DIR *tasks;

	if (!find(pid) && (inherited || executes_program(pid)))
		watch(pid);
	inherited = find(pid) != NULL;
	snprintf(path, sizeof path, "/proc/%d/task", pid);
	tasks = opendir(path);
	if (!tasks)
		return;
	while ((entry = readdir(tasks)))
		if (entry->d_name[0] != '.')
			discover_children(pid, atoi(entry->d_name), inherited);
	closedir(tasks);
}

static void sample(struct watched *w)
{
	unsigned long size, resident, shared;
	char line[128];
	ssize_t n = pread(w->statm, line, sizeof line - 1, 0);
	uint64_t now = now_ns(), anonymous_kib;

	if (n <= 0)
		return;
	line[n] = 0;
	if (sscanf(line, "%lu %lu %lu", &size, &resident, &shared) != 3 || size == 0)
		return;
	anonymous_kib = (resident - shared) * (PAGE / 1024);
	w->peak_kib = anonymous_kib > w->peak_kib ? anonymous_kib : w->peak_kib;
	if (w->samples++ && now - w->last_ns > w->gap_ns)
		w->gap_ns = now - w->last_ns;
	w->last_ns = now;
}

static uint64_t field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static size_t slurp(pid_t pid, const char *name, char *text, size_t room)
{
	char path[64];
	size_t got = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && got < room - 1 && (n = read(fd, text + got, room - 1 - got)) > 0)
		got += (size_t)n;
	if (fd >= 0)
		close(fd);
	text[got] = 0;
	return got;
}

static void sample_rollup(struct watched *w)
{
	char text[8192];
	uint64_t kib;

	if (slurp(w->pid, "smaps_rollup", text, sizeof text)) {
		kib = field(text, "\nAnonymous:");
		w->peak_kib = kib > w->peak_kib ? kib : w->peak_kib;
	}
	if (slurp(w->pid, "status", text, sizeof text)) {
		kib = field(text, "\nRssShmem:");
		w->shared_kib = kib > w->shared_kib ? kib : w->shared_kib;
	}
}

static void report(const char *path)
{
	uint64_t other = 0, samples = 0;
	FILE *f = path ? fopen(path, "w") : stderr;

	if (!f)
		cannot("write %s", path);
	for (unsigned i = 0; i < count; i++) {
		samples += all[i].samples;
		if (i && all[i].peak_kib > other)
			other = all[i].peak_kib;
	}
	fprintf(f, "main_peak_kib=%lu\nmain_shared_kib=%lu\nother_peak_kib=%lu\nsamples=%lu\nprocesses=%u\n",
	        all[0].peak_kib, all[0].shared_kib, other, samples, count);
	fprintf(f, "longest_gap_us=%lu\n", all[0].gap_ns / 1000);
	if (fclose(f))
		cannot("write %s", path ? path : "the report");
}

static int follow(uint64_t interval_us)
{
	uint64_t discovered = 0, rolled = 0;
	int status;

	while (waitpid(command, &status, WNOHANG) == 0) {
		uint64_t now = now_ns();

		if (now - discovered > DISCOVER_NS) {
			discover(command, false);
			discovered = now;
		}
		for (unsigned i = 0; i < count; i++)
			sample(&all[i]);
		if (now - rolled > ROLLUP_NS) {
			for (unsigned i = 0; i < count; i++)
				sample_rollup(&all[i]);
			rolled = now_ns();
		}
		usleep((useconds_t)interval_us);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void pass_on(int number)
{
	kill(command, number);
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = { { "program", 1, NULL, 'p' },
		                                      { "report", 1, NULL, 'r' },
		                                      { "interval", 1, NULL, 'i' },
		                                      { NULL, 0, NULL, 0 } };
	const char *wanted = NULL, *path = NULL;
	uint64_t interval_us = 1000;
	int c, status;

	while ((c = getopt_long(argc, argv, "+", long_options, NULL)) != -1)
		switch (c) {
		case 'p': wanted = optarg; break;
		case 'r': path = optarg; break;
		case 'i': interval_us = number(optarg); break;
		default: return 2;
		}
	if (optind == argc || !wanted)
		return 2;
	if (!realpath(wanted, program))
		cannot("find %s", wanted);
	command = fork();
	if (command == 0) {
		execvp(argv[optind], argv + optind);
		_exit(127);
	}
	signal(SIGTERM, pass_on);
	signal(SIGINT, pass_on);
	status = follow(interval_us);
	report(path);
	return status;
}
