/*
 * remote.c - see remote.h. Stopping all threads of a process, letting go of them, and its memory.
 *
 * Stopping is a loop over /proc/PID/task: seize and interrupt every thread that is not known yet, wait for
 * them, and look again until nothing new was found twice in a row; then nobody is left who could start one.
 *
 * Each thread is brought to a PTRACE_EVENT_STOP. A signal that is being delivered just then is let through:
 * the kernel builds the handler's frame and stops the thread before the handler's first instruction. So no
 * thread is ever held with a signal in hand, and what arrives later waits where it always waits.
 *
 * What the interrupted system call has returned stands in rax. The kernel restarts most calls by itself; a
 * few end with EINTR even where no handler ran (signal(7)): those are turned into ones that are restarted.
 */
#include "service/code/remote_inside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SPINS 64           /* yields before a wait begins to sleep */
#define ROUNDS_QUIET 2     /* rounds in which no thread was found, before we believe that there is none */
#define ERESTARTNOHAND 514 /* the kernel's own: restart, unless a handler runs */
#define CODE_SEGMENT 0x33  /* of 64-bit code */
#define BURY_NS 2000000000ull

uint64_t lh__remote_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- what /proc tells ---- */

/* A line of a status file, behind its "Name:\t"; false: it is not there. */
static bool status_line(const char *path, const char *name, char *out, size_t size)
{
	FILE *file = fopen(path, "re");
	char line[256];
	bool found = false;

	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)) || line[strlen(name)] != ':')
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(out, size, "%s", line + strlen(name) + 1 + strspn(line + strlen(name) + 1, " \t"));
		found = true;
	}
	fclose(file);
	return found;
}

static bool thread_line(pid_t process, pid_t thread, const char *name, char *out, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", process, thread);
	return status_line(path, name, out, size);
}

static bool is_dead(char state)
{
	return state == 'Z' || state == 'X';
}

/* It has ended, or is as good as that. */
static bool thread_dead(pid_t process, pid_t thread)
{
	char state[64];

	return !thread_line(process, thread, "State", state, sizeof(state)) || is_dead(*state);
}

static int traced_already(pid_t process, pid_t tracer, struct lh_error *error)
{
	char path[64], name[64] = "?";

	snprintf(path, sizeof(path), "/proc/%d/status", tracer);
	status_line(path, "Name", name, sizeof(name));
	return lh__fail(error, -EBUSY, "process %d is traced already, by %s (process %d)", process, name,
	                tracer);
}

/* ---- waiting ---- */

static bool is_end(int code)
{
	return code == CLD_EXITED || code == CLD_KILLED || code == CLD_DUMPED;
}

/* A thread has ended: takes note of its status, unless that is for the one who started the process. */
static void reap(struct lh_remote *remote, struct lh_remote_kept *thread)
{
	siginfo_t info;

	thread->gone = true;
	if (!remote->own || thread->id != remote->process)
		(void)!waitid(P_PID, (id_t)thread->id, &info, WEXITED | WNOHANG | __WALL);
}

bool lh__remote_yield(unsigned turn, struct timespec *nap)
{
	*nap = (struct timespec){ 0, turn < SPINS + 20 ? 20000 : 500000 };
	if (turn >= SPINS)
		return false;
	sched_yield();
	return true;
}

static bool rest(unsigned turn, uint64_t deadline)
{
	struct timespec nap;

	if (lh__remote_yield(turn, &nap))
		return true;
	if (deadline && lh__remote_now() > deadline)
		return false;
	nanosleep(&nap, NULL);
	return true;
}

int lh__remote_look(struct lh_remote *remote, struct lh_remote_kept *thread, unsigned turn, int *status)
{
	siginfo_t info = { 0 };

	if (waitid(P_PID, (id_t)thread->id, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL)) {
		if (errno == EINTR)
			return -EAGAIN;
		thread->gone = true;
		return -ECHILD;
	}
	if (info.si_pid && is_end(info.si_code)) {
		reap(remote, thread);
		return -ECHILD;
	}
	if (info.si_pid) {
		*status = info.si_status;
		(void)!waitid(P_PID, (id_t)thread->id, &info, WSTOPPED | WNOHANG | __WALL);
		return 0;
	}
	/* Of the first thread that is told only when all others have been waited for: by bury. */
	if (turn > SPINS && thread->id == remote->process && thread_dead(thread->id, thread->id)) {
		thread->gone = true;
		remote->leader_ended = !remote->own;
		return -ECHILD;
	}
	return -EAGAIN;
}

int lh__remote_wait(struct lh_remote *remote, struct lh_remote_kept *thread, uint64_t deadline, int *status)
{
	for (unsigned turn = 0;; turn++) {
		int rc = lh__remote_look(remote, thread, turn, status);

		if (rc != -EAGAIN)
			return rc;
		if (!rest(turn, deadline))
			return -ETIMEDOUT;
	}
}

/* The end of all threads of a process that is ending: its parent hears of it only when we have. */
static void bury(struct lh_remote *remote)
{
	uint64_t deadline = lh__remote_now() + BURY_NS;
	const int flags = WEXITED | WNOHANG | __WALL;
	siginfo_t end = { 0 };
	bool left = true;

	for (unsigned turn = 0; left && rest(turn, deadline); turn++) {
		left = false;
		for (size_t i = remote->count; i-- > 0;) {
			struct lh_remote_kept *thread = &remote->kept[i];
			siginfo_t info = { 0 };

			if (thread->gone || (remote->own && thread->id == remote->process))
				continue;
			if (waitid(P_PID, (id_t)thread->id, &info, flags) || info.si_pid)
				thread->gone = true;
			left |= !thread->gone;
		}
		if (remote->leader_ended && !waitid(P_PID, (id_t)remote->process, &end, flags) && !end.si_pid)
			left = true;
	}
}

/* ---- stopping ---- */

/* Calls that fail with EINTR when their thread was stopped, though restarting them is always right. */
static bool ends_with_eintr(unsigned long nr)
{
	static const short calls[] = {
		SYS_epoll_wait,
		SYS_epoll_pwait,
		SYS_epoll_pwait2,
		SYS_semop,
		SYS_semtimedop,
		SYS_io_getevents,
		SYS_io_pgetevents,
		SYS_rt_sigtimedwait,
		SYS_io_uring_enter,
		/* on sockets that have a time limit */
		SYS_read,
		SYS_readv,
		SYS_write,
		SYS_writev,
		SYS_recvfrom,
		SYS_recvmsg,
		SYS_recvmmsg,
		SYS_sendto,
		SYS_sendmsg,
		SYS_sendmmsg,
		SYS_accept,
		SYS_accept4,
		SYS_connect,
	};

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if ((unsigned long)calls[i] == nr)
			return true;
	return false;
}

static struct lh_remote_kept *known(struct lh_remote *remote, pid_t id)
{
	for (size_t i = 0; i < remote->count; i++)
		if (remote->kept[i].id == id && !remote->kept[i].gone)
			return &remote->kept[i];
	return NULL;
}

static int add(struct lh_remote *remote, pid_t id, struct lh_remote_kept **out)
{
	if (remote->count == remote->room) {
		size_t room = remote->room ? remote->room * 2 : 8;
		struct lh_remote_kept *kept = realloc(remote->kept, room * sizeof(*kept));

		if (!kept)
			return -ENOMEM;
		remote->kept = kept;
		remote->room = room;
	}
	*out = &remote->kept[remote->count++];
	memset(*out, 0, sizeof(**out));
	(*out)->id = id;
	return 0;
}

/* Why a thread could not be seized: 0 if it has ended, which is no failure, or -EAGAIN: it may still go. */
static int seize_failed(struct lh_remote *remote, size_t seized, pid_t id, int code, struct lh_error *error)
{
	char word[64];
	int tracer = 0;

	if (code == ESRCH || thread_dead(remote->process, id))
		return 0;
	if (thread_line(remote->process, id, "TracerPid", word, sizeof(word)))
		tracer = atoi(word);
	if (tracer)
		return traced_already(remote->process, tracer, error);
	if (seized)
		return -EAGAIN; /* others were ours to take: this one is just changing its state */
	return lh__fail(error, -EPERM, "process %d may not be traced by this user", remote->process);
}

/* In a call of ends_with_eintr. */
static bool at_risk(pid_t process, pid_t thread)
{
	char path[64], line[64];
	bool risky;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", process, thread);
	file = fopen(path, "re");
	if (!file)
		return false;
	risky = fgets(line, sizeof(line), file) && *line >= '0' && *line <= '9' &&
	        ends_with_eintr(strtoul(line, NULL, 10));
	fclose(file);
	return risky;
}

/*
 * Notes a thread that is new. -EAGAIN: it is in an uninterruptible sleep, as in vfork. Once seized it could
 * not be let go of before that is over, so it is left alone until then.
 */
static int note_new(struct lh_remote *remote, pid_t id, struct lh_error *error)
{
	struct lh_remote_kept *thread;
	char state[64];
	int rc;

	if (!thread_line(remote->process, id, "State", state, sizeof(state)) || is_dead(*state))
		return 0;
	if (*state == 'D')
		return -EAGAIN;
	rc = add(remote, id, &thread);
	if (rc)
		return lh__fail(error, rc, "no memory");
	thread->at_risk = at_risk(remote->process, id);
	return 1;
}

/* Lists all threads that are not known. Returns how many, or what has failed. */
static int list_new(struct lh_remote *remote, struct lh_error *error)
{
	char path[64];
	struct dirent *entry;
	int found = 0, rc = 0;
	bool again = false;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", remote->process);
	tasks = opendir(path);
	if (!tasks)
		return errno == ENOENT ? 0 : lh__fail(error, -errno, "%s cannot be read", path);
	while (rc >= 0 && (entry = readdir(tasks))) {
		pid_t id = atoi(entry->d_name);

		if (id <= 0 || known(remote, id))
			continue;
		rc = note_new(remote, id, error);
		found += rc > 0;
		if (rc == -EAGAIN) {
			again = true;
			rc = 0;
		}
	}
	closedir(tasks);
	return rc < 0 ? rc : found + again;
}

/*
 * Who is traced gets signals too that the process ignores, and one of them wakes any other thread: in a call
 * that then ends with EINTR, if that thread is not traced yet. So those that wait in such calls are seized
 * first, and let go of last; the first thread, which most signals are for, the other way round.
 */
static int by_risk(const void *left, const void *right)
{
	const struct lh_remote_kept *a = left, *b = right;

	if (a->at_risk != b->at_risk)
		return a->at_risk ? -1 : 1;
	return a->id < b->id ? 1 : -1;
}

static int by_id(const void *left, const void *right)
{
	const struct lh_remote_kept *a = left, *b = right;

	return a->id < b->id ? -1 : 1;
}

/* Seizes those that are listed and not seized. Returns how many. */
static int seize_listed(struct lh_remote *remote, size_t from, struct lh_error *error)
{
	int seized = 0, rc = 0;
	size_t kept = from;

	if (remote->count > from)
		qsort(remote->kept + from, remote->count - from, sizeof(*remote->kept), by_risk);
	for (size_t i = from; i < remote->count; i++) {
		remote->kept[kept] = remote->kept[i];
		if (rc < 0)
			continue; /* what is behind a failure has not been touched */
		if (!ptrace(PTRACE_SEIZE, remote->kept[kept].id, NULL, NULL)) {
			kept++;
			seized++;
			continue;
		}
		rc = seize_failed(remote, kept, remote->kept[kept].id, errno, error);
		if (rc == -EAGAIN) {
			seized++; /* another round is needed */
			rc = 0;
		}
	}
	remote->count = kept;
	if (from == 0)
		remote->since = lh__remote_now();
	for (size_t i = from; i < kept; i++)
		ptrace(PTRACE_INTERRUPT, remote->kept[i].id, NULL, NULL);
	return rc < 0 ? rc : seized;
}

static int seize_new(struct lh_remote *remote, struct lh_error *error)
{
	size_t from = remote->count;
	int listed = list_new(remote, error), seized;

	if (listed < 0) {
		remote->count = from;
		return listed;
	}
	seized = seize_listed(remote, from, error);
	return seized < 0 ? seized : listed;
}

/*
 * Both of us at one priority and on one processor: who yields hands over to the other, and nobody else comes
 * between. Allowed to root alone; else a stop on a busy machine takes longer.
 */
bool lh__remote_prefer(pid_t thread, int flags, int *before)
{
	const struct sched_param first = { .sched_priority = 1 };

	*before = sched_getscheduler(thread);
	if (*before < 0 || (*before & ~SCHED_RESET_ON_FORK) != SCHED_OTHER)
		return false;
	return sched_setscheduler(thread, SCHED_FIFO | flags | (*before & SCHED_RESET_ON_FORK), &first) == 0;
}

static void as_before(pid_t thread, int before)
{
	const struct sched_param none = { .sched_priority = 0 };

	(void)!sched_setscheduler(thread, before, &none);
}

static void prefer_no_more(struct lh_remote *remote)
{
	if (remote->preferred)
		as_before(remote->preferred, remote->policy);
	remote->preferred = 0;
}

/* Brings a seized thread to its stop; signals that are being delivered go on their way. */
static int await_stop(struct lh_remote *remote, struct lh_remote_kept *thread, uint64_t deadline)
{
	int status, before, rc;
	bool preferred = false;

	rc = lh__remote_wait(remote, thread, 1, &status);
	if (rc == -ETIMEDOUT) {
		/* It waits for a processor, or in the kernel. */
		preferred = remote->hurried && lh__remote_prefer(thread->id, 0, &before);
		rc = lh__remote_wait(remote, thread, deadline, &status);
	}
	while (!rc) {
		if (status >> 8 == PTRACE_EVENT_STOP)
			break;
		/* Any stop ends what an interruption had asked for. */
		ptrace(PTRACE_INTERRUPT, thread->id, NULL, NULL);
		ptrace(PTRACE_CONT, thread->id, NULL, (long)(status >> 8 ? 0 : status));
		rc = lh__remote_wait(remote, thread, deadline, &status);
	}
	if (preferred)
		as_before(thread->id, before);
	if (rc == -ECHILD) {
		thread->gone = true;
		return 0;
	}
	thread->stopped = !rc;
	thread->trapped = !rc;
	return rc;
}

static int await_all(struct lh_remote *remote, uint64_t deadline, struct lh_error *error)
{
	for (size_t i = 0; i < remote->count; i++) {
		struct lh_remote_kept *thread = &remote->kept[i];

		if (thread->stopped || thread->gone || !await_stop(remote, thread, deadline))
			continue;
		return lh__fail(error, -ETIMEDOUT,
		                "thread %d of process %d could not be stopped: it waits in the kernel",
		                thread->id, remote->process);
	}
	return 0;
}

bool lh__remote_restart(struct user_regs_struct *registers)
{
	if ((long)registers->orig_rax < 0 || (long)registers->rax != -EINTR ||
	    !ends_with_eintr(registers->orig_rax))
		return false;
	registers->rax = (unsigned long)-ERESTARTNOHAND;
	return true;
}

static int note_state(struct lh_remote_kept *thread)
{
	if (ptrace(PTRACE_GETREGS, thread->id, NULL, &thread->registers) ||
	    ptrace(PTRACE_GETSIGMASK, thread->id, sizeof(thread->blocked), &thread->blocked))
		return -ECHILD;
	thread->at_risk = lh__remote_restart(&thread->registers);
	if (thread->at_risk && ptrace(PTRACE_SETREGS, thread->id, NULL, &thread->registers))
		return -ECHILD;
	return 0;
}

/* Leaves out threads that have ended, and notes of all others what they were doing. */
static int note_all(struct lh_remote *remote, struct lh_error *error)
{
	size_t n = 0;

	for (size_t i = 0; i < remote->count; i++)
		if (!remote->kept[i].gone)
			remote->kept[n++] = remote->kept[i];
	remote->count = n;
	if (n)
		qsort(remote->kept, n, sizeof(*remote->kept), by_id);
	if (!n)
		return lh__fail(error, -ESRCH, "process %d has ended", remote->process);
	remote->threads = calloc(n, sizeof(*remote->threads));
	if (!remote->threads)
		return lh__fail(error, -ENOMEM, "no memory");
	for (size_t i = 0; i < n; i++) {
		struct lh_remote_kept *thread = &remote->kept[i];

		if (note_state(thread))
			return lh__fail(error, -ESRCH, "process %d has ended", remote->process);
		remote->threads[i].id = thread->id;
		remote->threads[i].registers = thread->registers;
		remote->threads[i].blocked = thread->blocked;
	}
	if (remote->kept[0].registers.cs != CODE_SEGMENT)
		return lh__fail(error, -ENOEXEC, "process %d is a 32-bit program", remote->process);
	return 0;
}

static int open_memory(struct lh_remote *remote, struct lh_error *error)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", remote->process);
	remote->memory = open(path, O_RDWR | O_CLOEXEC);
	if (remote->memory < 0)
		return lh__fail(error, errno == ENOENT ? -ESRCH : -errno, "the memory of process %d: %s",
		                remote->process, lh__errno_name(errno));
	return 0;
}

bool lh__remote_ignores_segv(const struct lh_remote *remote)
{
	char path[64], word[64];

	snprintf(path, sizeof(path), "/proc/%d/status", remote->process);
	return status_line(path, "SigIgn", word, sizeof(word)) &&
	       strtoull(word, NULL, 16) >> (SIGSEGV - 1) & 1;
}

/*
 * What takes time and may be done while the process runs. The memory is opened anew when it is stopped: it
 * may execute something else until then.
 */
static void look_ahead(struct lh_remote *remote)
{
	if (open_memory(remote, NULL))
		return;
	lh__remote_look_for_site(remote);
	close(remote->memory);
	remote->memory = -1;
}

static int stop_all(struct lh_remote *remote, uint64_t deadline, struct lh_error *error)
{
	unsigned quiet = 0;
	int rc;

	while (quiet < ROUNDS_QUIET) {
		size_t before = remote->count;

		rc = seize_new(remote, error);
		if (rc < 0)
			return rc;
		quiet = rc ? 0 : quiet + 1;
		rc = await_all(remote, deadline, error);
		if (rc)
			return rc;
		if (!quiet && lh__remote_now() > deadline)
			return lh__fail(error, -ETIMEDOUT,
			                "threads of process %d could not be stopped in time",
			                remote->process);
		if (!quiet && remote->count == before) /* one that is there could not be seized yet */
			rest(SPINS, 0);
	}
	rc = note_all(remote, error);
	return rc ? rc : open_memory(remote, error);
}

/* What can be said before anything is done to it; -ESRCH as the contract says. */
static int look_first(struct lh_remote *remote, struct lh_error *error)
{
	char path[64], word[64];

	snprintf(path, sizeof(path), "/proc/%d/status", remote->process);
	if (!status_line(path, "Tgid", word, sizeof(word)) || atoi(word) != remote->process)
		return lh__fail(error, -ESRCH, "there is no process %d", remote->process);
	if (status_line(path, "TracerPid", word, sizeof(word)) && atoi(word))
		return traced_already(remote->process, atoi(word), error);
	if (status_line(path, "PPid", word, sizeof(word)))
		remote->own = atoi(word) == getpid();
	return 0;
}

static struct lh_remote *fresh(pid_t process)
{
	struct lh_remote *remote = calloc(1, sizeof(*remote));

	if (!remote)
		return NULL;
	remote->process = process;
	remote->memory = -1;
	remote->since = lh__remote_now();
	return remote;
}

int lh__remote_stop(pid_t process, unsigned milliseconds, struct lh_remote **out, struct lh_error *error)
{
	struct lh_remote *remote = fresh(process);
	int rc;

	if (!remote)
		return lh__fail(error, -ENOMEM, "no memory");
	rc = look_first(remote, error);
	if (!rc)
		look_ahead(remote);
	remote->hurried = !rc && lh__remote_prefer(0, SCHED_RESET_ON_FORK, &remote->before);
	if (!rc)
		rc = stop_all(remote, remote->since + milliseconds * 1000000ull, error);
	if (rc) {
		lh__remote_release(remote);
		return rc;
	}
	*out = remote;
	return 0;
}

/* From wherever it is stopped to where an interrupted thread stops, before its next instruction. */
static int await_adopted(struct lh_remote *remote, struct lh_remote_kept *thread, struct lh_error *error)
{
	char path[64], word[64];

	snprintf(path, sizeof(path), "/proc/%d/status", remote->process);
	if (status_line(path, "PPid", word, sizeof(word)))
		remote->own = atoi(word) == getpid();
	if (ptrace(PTRACE_INTERRUPT, thread->id, NULL, NULL) || ptrace(PTRACE_CONT, thread->id, NULL, NULL))
		return lh__fail(error, -ESRCH, "process %d is not stopped under us", remote->process);
	return await_stop(remote, thread, 0);
}

int lh__remote_adopt(pid_t process, struct lh_remote **out, struct lh_error *error)
{
	struct lh_remote *remote = fresh(process);
	struct lh_remote_kept *thread;
	int rc;

	if (!remote)
		return lh__fail(error, -ENOMEM, "no memory");
	rc = add(remote, process, &thread);
	if (rc)
		rc = lh__fail(error, rc, "no memory");
	else
		rc = await_adopted(remote, thread, error);
	if (!rc)
		rc = note_all(remote, error);
	if (!rc)
		rc = open_memory(remote, error);
	if (rc) {
		lh__remote_abandon(remote);
		return rc;
	}
	*out = remote;
	return 0;
}

/* ---- letting go ---- */

static void end(struct lh_remote *remote)
{
	if (remote->memory >= 0)
		close(remote->memory);
	if (remote->pinned)
		sched_setaffinity(0, sizeof(remote->processors), &remote->processors);
	if (remote->hurried)
		as_before(0, remote->before);
	free(remote->kept);
	free(remote->threads);
	free(remote);
}

/* Signals that were taken out of the kernel's hands while a thread worked are put back into them. */
static void send_held(struct lh_remote *remote, struct lh_remote_kept *thread)
{
	if (thread->held &&
	    syscall(SYS_rt_tgsigqueueinfo, remote->process, thread->id, thread->held, &thread->held_info))
		syscall(SYS_tgkill, remote->process, thread->id, thread->held);
	if (thread->stop_due)
		syscall(SYS_tgkill, remote->process, thread->id, SIGSTOP);
	thread->held = 0;
	thread->stop_due = false;
}

/* Brings a thread to where it goes on from. False: it has ended, or will not stop any more. */
static bool make_ready(struct lh_remote *remote, struct lh_remote_kept *thread)
{
	if (thread->gone)
		return false;
	/* One that could not be stopped stops at last; until then it cannot be let go of. */
	if (!thread->stopped && (await_stop(remote, thread, 0) || thread->gone))
		return false;
	if (lh__remote_settle(remote, thread))
		return false;
	send_held(remote, thread);
	return true;
}

void lh__remote_let_go(struct lh_remote *remote)
{
	bool ending = false;

	for (size_t i = 0; i < remote->count; i++)
		remote->kept[i].stopped = make_ready(remote, &remote->kept[i]);
	prefer_no_more(remote);
	for (int risk = 0; risk < 2; risk++)
		for (size_t i = 0; i < remote->count; i++) {
			struct lh_remote_kept *thread = &remote->kept[i];

			if (thread->at_risk == risk)
				ending |= !thread->stopped || ptrace(PTRACE_DETACH, thread->id, NULL, NULL);
		}
	if (ending)
		bury(remote);
	remote->count = 0;
}

uint64_t lh__remote_release(struct lh_remote *remote)
{
	uint64_t stopped;

	lh__remote_let_go(remote);
	stopped = lh__remote_stopped_for(remote);
	end(remote);
	return stopped;
}

void lh__remote_abandon(struct lh_remote *remote)
{
	for (size_t i = 0; i < remote->count; i++)
		if (!remote->kept[i].gone && !lh__remote_settle(remote, &remote->kept[i]))
			send_held(remote, &remote->kept[i]);
	prefer_no_more(remote);
	end(remote);
}

/* ---- threads and memory ---- */

pid_t lh__remote_process(const struct lh_remote *remote)
{
	return remote->process;
}

size_t lh__remote_threads(struct lh_remote *remote, struct lh_remote_thread **threads)
{
	*threads = remote->threads;
	return remote->count;
}

int lh__remote_set(struct lh_remote *remote, const struct lh_remote_thread *thread)
{
	struct lh_remote_kept *kept = known(remote, thread->id);
	bool changed;

	if (!kept)
		return -ECHILD;
	changed = kept->blocked != thread->blocked;
	kept->registers = thread->registers;
	kept->blocked = thread->blocked;
	if (kept->away)
		return 0; /* it is put there when it comes back */
	if (ptrace(PTRACE_SETREGS, kept->id, NULL, &kept->registers))
		return -ECHILD;
	/* Setting a mask makes the kernel forget that of a call such as ppoll: only where it is another. */
	if (changed && ptrace(PTRACE_SETSIGMASK, kept->id, sizeof(kept->blocked), &kept->blocked))
		return -ECHILD;
	return 0;
}

int lh__remote_read(struct lh_remote *remote, uint64_t address, void *to, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = pread(remote->memory, (char *)to + done, size - done, (off_t)(address + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -EFAULT : -ECHILD;
		done += (size_t)n;
	}
	return 0;
}

int lh__remote_write(struct lh_remote *remote, uint64_t address, const void *from, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = pwrite(remote->memory, (const char *)from + done, size - done,
		                   (off_t)(address + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -EFAULT : -ECHILD;
		done += (size_t)n;
	}
	return 0;
}

uint64_t lh__remote_stopped_for(const struct lh_remote *remote)
{
	return lh__remote_now() - remote->since;
}
