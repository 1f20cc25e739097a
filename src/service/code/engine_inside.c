/*
 * engine_inside.c - the inside engine of a session: agents are put into processes, which then go on untraced.
 *
 * Nothing is remembered of processes: one is watched if an agent of this session is in it, which it tells
 * itself (inject.h), so children by fork need no notice. What is remembered are threads that are about to
 * execute. Such a thread is traced from its question on: up to the call, to see whether what it executes runs
 * with more rights than it has itself, which the kernel would take from a traced program; and through it,
 * to put an agent into the new program before its first instruction, or to let go where the call has failed.
 */
#include "service/code/session_inside.h"

#include <asm/hwcap2.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "service/code/inject.h"

#define LEAVE_NS 2000000000ull /* for which a thread in the agent is waited for */
#define STOP_MS 1000u
#define SEIZE_NS 1000000000ull
#define STOPS_MOST 64u /* of a thread that was to execute, before we believe that it will not */

/* A thread that is about to execute. */
struct executing {
	pid_t process, thread;
	bool in_call;
	unsigned stops;
	struct executing *next;
};

struct inside {
	struct lh_session *session;
	struct lh_inject_broker broker;
	struct executing *executing;
	pid_t entering;
};

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void nap(void)
{
	const struct timespec time = { 0, 1000000 };

	nanosleep(&time, NULL);
}

static int inside_open(struct lh_session *session, void **state, struct lh_error *error)
{
	struct inside *inside = calloc(1, sizeof(*inside));

	if (!inside)
		return lh__fail(error, -ENOMEM, "no memory");
	inside->session = session;
	inside->broker = (struct lh_inject_broker){ session->sockets, lh__session_broker_serve, session };
	*state = inside;
	return 0;
}

/* ---- into a process ---- */

/* Whether somebody answers to the name of a watcher. */
static bool is_alive(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = strlen(name);
	int connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool alive;

	if (connection < 0)
		return true;
	memcpy(address.sun_path + 1, name, length);
	alive = connect(connection, (struct sockaddr *)&address,
	                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) == 0 ||
	        errno != ECONNREFUSED;
	close(connection);
	return alive;
}

/* An agent whose watcher has been killed is taken out first. */
static int take_out_orphan(struct inside *inside, struct lh_remote *remote, const char *name,
                           struct lh_error *error)
{
	bool left;

	if (is_alive(name))
		return lh__fail(error, -EBUSY, "process %d is watched already, by another linehome",
		                lh__remote_process(remote));
	return lh__inject_leave(remote, true, &inside->broker, &left, error);
}

/* A number in /proc/PID/status; 0: there is none. */
static unsigned long status_number(const char *status, const char *name)
{
	const char *at = strstr(status, name);

	return at ? strtoul(at + strlen(name), NULL, 10) : 0;
}

static bool read_status(const char *process, char *status, size_t size)
{
	char path[64];
	ssize_t got;
	int file;

	snprintf(path, sizeof(path), "/proc/%s/status", process);
	file = open(path, O_RDONLY | O_CLOEXEC);
	got = file < 0 ? -1 : read(file, status, size - 1);
	if (file >= 0)
		close(file);
	status[got > 0 ? got : 0] = '\0';
	return got > 0;
}

/* Whether it has one thread, and none but our own filters on its calls (port/code/inside/ahead.c). */
static bool is_alone(pid_t process)
{
	char ours[4096], theirs[4096], name[16];

	snprintf(name, sizeof(name), "%d", process);
	if (!read_status("self", ours, sizeof(ours)) || !read_status(name, theirs, sizeof(theirs)))
		return false;
	return status_number(theirs, "\nThreads:") == 1 &&
	       status_number(theirs, "\nSeccomp:") == status_number(ours, "\nSeccomp:") &&
	       status_number(theirs, "\nSeccomp_filters:") == status_number(ours, "\nSeccomp_filters:");
}

static int inside_watch(void *state, struct lh_remote *remote, bool launched, struct lh_error *error)
{
	struct inside *inside = state;
	pid_t process = lh__remote_process(remote), before = inside->entering;
	struct lh_inside_start start = {
		.granularity = lh__session_granularity(inside->session),
		.launched = launched,
		.look_ahead = inside->session->options.look_ahead && is_alone(process),
		.fs_known = (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) != 0,
		.markers = inside->session->options.from || inside->session->options.until
	};
	char name[104];
	int result;

	if (!launched && lh__inject_find(process, name)) {
		result = take_out_orphan(inside, remote, name, error);
		if (result < 0)
			return result;
	}
	memcpy(start.name, inside->session->name, sizeof(start.name));
	inside->entering = process;
	if (!launched)
		lh__session_hold_mappings(inside->session, process);
	result = lh__inject(remote, &start, &inside->broker, error);
	lh__session_drop_mappings(inside->session);
	inside->entering = before;
	if (result < 0)
		return result;
	lh__session_put_markers(inside->session, process);
	lh__session_came(inside->session, lh__remote_release(remote));
	return 0;
}

bool lh__inside_is_ours(void *state, pid_t process)
{
	const struct inside *inside = state;
	char name[104];

	return lh__inject_find(process, name) && strcmp(name, inside->session->name) == 0;
}

pid_t lh__inside_entering(void *state)
{
	return ((struct inside *)state)->entering;
}

/* ---- execve ---- */

/* A stop of a thread, which is taken off: 1 with *status = signal | event << 8; 0: there is none; -ECHILD. */
static int take_stop(pid_t thread, int *status)
{
	siginfo_t info = { 0 };

	if (waitid(P_PID, (id_t)thread, &info, WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0)
		return -errno;
	/* A child's stop by job control is the session's. */
	if (info.si_pid == 0 || info.si_code != CLD_TRAPPED)
		return 0;
	*status = info.si_status;
	(void)!waitid(P_PID, (id_t)thread, &info, WSTOPPED | WNOHANG | __WALL);
	return 1;
}

static bool is_there(pid_t process, pid_t thread)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d", process, thread);
	return access(path, F_OK) == 0;
}

/*
 * A traced thread has ended; it stays a zombie until it is buried. The kernel reports stops of what is traced
 * to who asks for ends alone, too.
 */
static bool has_ended(pid_t thread)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, (id_t)thread, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 &&
	       info.si_pid != 0 && info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED;
}

static int await_stop(pid_t thread)
{
	uint64_t until = now() + SEIZE_NS;
	int status, result;

	while ((result = take_stop(thread, &status)) == 0 && now() < until && !has_ended(thread))
		nap();
	return result == 1 ? 0 : result < 0 ? result : -ETIMEDOUT;
}

static void forget(struct inside *inside, struct executing *executing)
{
	struct executing **at = &inside->executing;

	while (*at != executing)
		at = &(*at)->next;
	*at = executing->next;
	free(executing);
}

/* Lets go of a thread. One that was killed meanwhile is kept until it is buried. */
static void let_go(struct inside *inside, struct executing *executing)
{
	executing->in_call = false;
	if (ptrace(PTRACE_DETACH, executing->thread, NULL, NULL) == 0)
		forget(inside, executing);
}

int lh__inside_executes(void *state, pid_t process, pid_t thread)
{
	struct inside *inside = state;
	struct executing *executing;
	int result;

	if (thread <= 0 || !is_there(process, thread))
		return -ESRCH;
	executing = calloc(1, sizeof(*executing));
	if (!executing)
		return -ENOMEM;
	if (ptrace(PTRACE_SEIZE, thread, NULL, PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD) < 0) {
		result = -errno;
		free(executing);
		return result;
	}
	/*
	 * It waits for our answer, so it stops at once; a stop can be resumed up to the next system call.
	 * Where that takes too long, as on a machine that is too busy, its stop is one that comes later.
	 */
	ptrace(PTRACE_INTERRUPT, thread, NULL, NULL);
	result = await_stop(thread);
	executing->process = process;
	executing->thread = thread;
	executing->next = inside->executing;
	inside->executing = executing;
	if (result == 0 || result == -ETIMEDOUT)
		return 0;
	let_go(inside, executing);
	return result;
}

void lh__inside_resume(void *state, pid_t thread)
{
	(void)state;
	ptrace(PTRACE_SYSCALL, thread, NULL, NULL);
}

/* The path that an execve in a stopped thread names, as seen from here; false: it cannot be told. */
static bool executed_path(const struct executing *executing, const struct __ptrace_syscall_info *info,
                          char path[PATH_MAX + 64])
{
	bool at = info->entry.nr == SYS_execveat;
	uint64_t from = info->entry.args[at ? 1 : 0];
	char word[PATH_MAX] = "", where[64];
	int memory;

	snprintf(where, sizeof(where), "/proc/%d/mem", executing->process);
	memory = open(where, O_RDONLY | O_CLOEXEC);
	if (memory < 0)
		return false;
	for (size_t n = 0; n < sizeof(word) - 1; n++)
		if (pread(memory, &word[n], 1, (off_t)(from + n)) != 1 || word[n] == '\0')
			break;
	close(memory);
	word[sizeof(word) - 1] = '\0';
	if (word[0] == '/')
		snprintf(path, PATH_MAX + 64, "/proc/%d/root%s", executing->process, word);
	else if (at && (int)info->entry.args[0] != AT_FDCWD)
		snprintf(path, PATH_MAX + 64, "/proc/%d/fd/%d/%s", executing->process,
		         (int)info->entry.args[0], word);
	else
		snprintf(path, PATH_MAX + 64, "/proc/%d/cwd/%s", executing->process, word);
	return true;
}

/* Whether it would get rights that the kernel withholds from what is traced by somebody who has them not. */
static bool has_more_rights(const struct executing *executing, const struct __ptrace_syscall_info *info)
{
	char path[PATH_MAX + 64];
	struct stat status;

	if (geteuid() == 0 || !executed_path(executing, info, path) || stat(path, &status) < 0)
		return false;
	return (status.st_mode & S_ISUID && status.st_uid != geteuid()) ||
	       (status.st_mode & S_ISGID && status.st_gid != getegid()) ||
	       getxattr(path, "security.capability", NULL, 0) > 0;
}

/* The new program, before its first instruction. */
static void enter_executed(struct inside *inside, struct executing *executing)
{
	pid_t process = executing->process;
	struct lh_error error = { 0 };
	struct lh_remote *remote;
	int result = lh__remote_adopt(process, &remote, &error);

	if (result == 0) {
		result = inside_watch(inside, remote, true, &error);
		if (result < 0)
			lh__remote_release(remote);
	}
	executing->thread = process;
	if (result == 0) {
		forget(inside, executing);
		return;
	}
	/* It is of another kind (32-bit), or has been killed. */
	let_go(inside, executing);
	if (result != -ECHILD && result != -ESRCH)
		lh__session_say(inside->session, "process %d: what it has executed is not watched: %s",
		                process, error.text);
}

static bool is_execve(const struct __ptrace_syscall_info *info)
{
	return info->entry.nr == SYS_execve || info->entry.nr == SYS_execveat;
}

/* At the entry to a system call, or its exit: whether the thread is to be let go. */
static bool ends_at_call(struct executing *executing)
{
	struct __ptrace_syscall_info info = { 0 };

	if (ptrace(PTRACE_GET_SYSCALL_INFO, executing->thread, sizeof(info), &info) <= 0)
		return true;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY && is_execve(&info)) {
		executing->in_call = true;
		return has_more_rights(executing, &info);
	}
	/* The exit of an execve that has not been reported as an event: it has failed. */
	return (info.op == PTRACE_SYSCALL_INFO_EXIT && executing->in_call) || ++executing->stops > STOPS_MOST;
}

static void handle_stop(struct inside *inside, struct executing *executing, int status)
{
	pid_t thread = executing->thread;
	int event = status >> 8, signal = status & 0xff;
	bool stopped = signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;

	if (event == PTRACE_EVENT_EXEC) {
		enter_executed(inside, executing);
	} else if (event == PTRACE_EVENT_STOP && stopped) {
		ptrace(PTRACE_LISTEN, thread, NULL, NULL);
	} else if (event != 0) {
		ptrace(PTRACE_SYSCALL, thread, NULL, NULL);
	} else if (signal != (SIGTRAP | 0x80)) {
		ptrace(PTRACE_SYSCALL, thread, NULL, (long)signal);
	} else if (ends_at_call(executing)) {
		let_go(inside, executing);
	} else {
		ptrace(PTRACE_SYSCALL, thread, NULL, NULL);
	}
}

/*
 * A thread that is not our child ends for us as its tracer, and for its parent not before we have taken note
 * of that. Our child's end is the session's.
 */
static void bury(const struct inside *inside, const struct executing *executing)
{
	siginfo_t info;

	if (executing->thread != lh__session_process(inside->session))
		(void)!waitid(P_PID, (id_t)executing->thread, &info, WEXITED | WNOHANG | __WALL);
}

/* Executing from another thread than the first, a thread takes the first one's number. */
static int take_stop_of(struct executing *executing, int *status)
{
	int result = take_stop(executing->thread, status);

	if (result == 1 || executing->thread == executing->process)
		return result;
	if (take_stop(executing->process, status) != 1)
		return result;
	executing->thread = executing->process;
	return 1;
}

/* Whether something was done, after which the list may be another. */
static bool look_after(struct inside *inside, struct executing *executing)
{
	int status, result = take_stop_of(executing, &status);

	if (result == 1) {
		handle_stop(inside, executing, status);
		return true;
	}
	if (!has_ended(executing->thread)) {
		/* Between its own number and the first one's it is nobody's child. */
		bool changes = executing->in_call && is_there(executing->process, executing->process);

		if (result == 0 || changes)
			return false;
	}
	bury(inside, executing);
	forget(inside, executing);
	return true;
}

static int inside_serve(void *state, struct lh_error *error)
{
	struct inside *inside = state;
	struct executing *executing = inside->executing;

	(void)error;
	while (executing)
		executing = look_after(inside, executing) ? inside->executing : executing->next;
	return 0;
}

/* ---- which, and out of them ---- */

/* When a process began, in ticks since the machine did; 0: it is gone. */
static uint64_t born(const char *process)
{
	char path[64], text[1024];
	const char *at;
	ssize_t got;
	int file;

	snprintf(path, sizeof(path), "/proc/%.20s/stat", process);
	file = open(path, O_RDONLY | O_CLOEXEC);
	got = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
	if (file >= 0)
		close(file);
	text[got > 0 ? got : 0] = '\0';
	at = strrchr(text, ')'); /* the 2nd of its fields ends; the 22nd is wanted */
	for (unsigned field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at, NULL, 10) : 0;
}

/*
 * What is watched, but for a process that was attached to, was forked by what is watched, so it is younger
 * than we are: all others need not be looked into.
 */
static int inside_processes(void *state, int (*found)(void *context, pid_t process), void *context)
{
	DIR *folder = opendir("/proc");
	const struct inside *inside = state;
	uint64_t ours = born("self");
	struct dirent *entry;
	int result = 0;

	if (!folder)
		return -errno;
	while (result == 0 && (entry = readdir(folder))) {
		pid_t process = (pid_t)strtol(entry->d_name, NULL, 10);

		if (process > 0 && process != getpid() &&
		    (process == lh__session_process(inside->session) || born(entry->d_name) >= ours) &&
		    lh__inside_is_ours(state, process))
			result = found(context, process);
	}
	closedir(folder);
	return result;
}

static bool is_executing(const struct inside *inside, pid_t process)
{
	for (const struct executing *at = inside->executing; at; at = at->next)
		if (at->process == process)
			return true;
	return false;
}

/* One attempt: -EAGAIN, a thread stands in the agent, or is about to execute. */
static int try_leave(struct inside *inside, pid_t process, bool force, struct lh_error *error)
{
	struct lh_remote *remote;
	bool left = false;
	int result;

	if (is_executing(inside, process))
		return lh__fail(error, -EAGAIN, "process %d is about to execute another program", process);
	result = lh__remote_stop(process, STOP_MS, &remote, error);
	if (result < 0)
		return result;
	result = lh__inject_leave(remote, force, &inside->broker, &left, error);
	if (result == 0)
		lh__session_verify(inside->session, remote);
	lh__session_let_go(inside->session, lh__remote_release(remote));
	if (result == 0 && left)
		lh__session_say(
			inside->session,
			"process %d: a thread sleeps in the agent, which stays in its memory and does "
			"nothing",
			process);
	return result;
}

static int inside_leave(void *state, pid_t process, struct lh_error *error)
{
	struct inside *inside = state;
	uint64_t until = now() + LEAVE_NS;
	int result;

	/* One that waits for a vfork's child cannot be stopped, and the child may be asking us. */
	while ((result = try_leave(inside, process, now() > until, error)) < 0 &&
	       (result == -EAGAIN || result == -ETIMEDOUT) && now() < until + LEAVE_NS) {
		nap();
		lh__session_broker_serve(inside->session);
		(void)inside_serve(inside, NULL);
	}
	return result;
}

static void inside_close(void *state)
{
	struct inside *inside = state;

	while (inside->executing) {
		/* Not stopped, so it cannot be let go of: it stops first. */
		struct executing *executing = inside->executing;

		ptrace(PTRACE_INTERRUPT, executing->thread, NULL, NULL);
		(void)await_stop(executing->thread);
		if (ptrace(PTRACE_DETACH, executing->thread, NULL, NULL) < 0)
			bury(inside, executing);
		forget(inside, executing);
	}
	free(inside);
}

const struct lh_session_engine lh__engine_inside = {
	.name = "inside",
	.open = inside_open,
	.watch = inside_watch,
	.serve = inside_serve,
	.processes = inside_processes,
	.leave = inside_leave,
	.takes_status = false,
	.close = inside_close,
};
