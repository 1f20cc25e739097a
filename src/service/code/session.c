/*
 * session.c - see session.h: begins, waits and ends. All that a session waits for is one epoll.
 */
#include "service/code/session_inside.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STOP_MS 5000u
#define LEAVE_ROUNDS 16u /* a process that is let go may have had a child meanwhile */

/* ---- what engines ask ---- */

enum lh_granularity lh__session_granularity(const struct lh_session *session)
{
	return (enum lh_granularity)lh__record_head(session->options.record)->granularity;
}

struct lh_record *lh__session_record(const struct lh_session *session)
{
	return session->options.record;
}

pid_t lh__session_process(const struct lh_session *session)
{
	return session->process;
}

uint64_t lh__session_stopped_for(const struct lh_session *session)
{
	return session->stopped_for;
}

void lh__session_say(const struct lh_session *session, const char *format, ...)
{
	char text[PATH_MAX + 256];
	va_list arguments;

	if (!session->options.say)
		return;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	session->options.say(session->options.context, text);
}

void lh__session_came(struct lh_session *session, uint64_t stopped_ns)
{
	if (session->stopped_for == 0)
		session->stopped_for = stopped_ns;
}

void lh__session_let_go(struct lh_session *session, uint64_t stopped_ns)
{
	uint64_t *longest = session->options.let_go_ns;

	if (longest && stopped_ns > *longest)
		*longest = stopped_ns;
}

void lh__session_ended(struct lh_session *session, pid_t process, int status)
{
	if (process != session->process || !session->launched)
		return;
	session->ended = true;
	session->status = status;
}

/* ---- beginning ---- */

static int look_at(struct lh_session *session, int descriptor)
{
	struct epoll_event event = { .events = EPOLLIN, .data = { .fd = descriptor } };

	return epoll_ctl(session->events, EPOLL_CTL_ADD, descriptor, &event) < 0 ? -errno : 0;
}

/* Where SIGCHLD is ignored, nobody would tell us that a traced thread has stopped, and ends are lost. */
static void take_child_signal(struct lh_session *session)
{
	struct sigaction action;

	if (sigaction(SIGCHLD, NULL, &action) < 0 || action.sa_handler != SIG_IGN)
		return;
	session->ignores_child = true;
	signal(SIGCHLD, SIG_DFL);
}

/* SIGCHLD stays blocked in this thread while the session lasts: it is read from a descriptor. */
static int take_signals(struct lh_session *session)
{
	sigset_t child;

	take_child_signal(session);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	session->signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (session->signals < 0)
		return -errno;
	pthread_sigmask(SIG_BLOCK, &child, &session->before);
	session->mask = session->options.mask ? *session->options.mask : session->before;
	session->waiting = session->mask;
	sigaddset(&session->waiting, SIGCHLD);
	return 0;
}

static void close_session(struct lh_session *session)
{
	if (session->state)
		session->engine->close(session->state);
	lh__session_broker_close(session);
	lh__session_forget_refusals(session);
	lh__session_forget_files(session);
	if (session->signals >= 0) {
		close(session->signals);
		pthread_sigmask(SIG_SETMASK, &session->before, NULL);
	}
	if (session->ignores_child)
		signal(SIGCHLD, SIG_IGN);
	if (session->gone >= 0)
		close(session->gone);
	if (session->events >= 0)
		close(session->events);
	free(session);
}

static int open_parts(struct lh_session *session, struct lh_error *error)
{
	int result;

	session->events = epoll_create1(EPOLL_CLOEXEC);
	result = session->events < 0 ? -errno : take_signals(session);
	if (result == 0)
		result = look_at(session, session->signals);
	if (result < 0)
		return lh__fail(error, result, "no descriptors: %s", strerror(-result));
	result = lh__session_broker_open(session, error);
	if (result == 0 && look_at(session, session->sockets) < 0)
		result = lh__fail(error, -errno, "no descriptors: %s", strerror(errno));
	return result;
}

static int open_session(const struct lh_session_options *options, struct lh_session **out,
                        struct lh_error *error)
{
	struct lh_session *session = calloc(1, sizeof(*session));
	int result;

	if (!session)
		return lh__fail(error, -ENOMEM, "no memory");
	session->options = *options;
	session->events = session->sockets = session->signals = session->listener = session->gone = -1;
	result = lh__session_check_marks(session, error);
	if (result == 0)
		result = open_parts(session, error);
	if (result < 0) {
		close_session(session);
		return result;
	}
	*out = session;
	return 0;
}

/* The best first. */
static const struct lh_session_engine *const engines[] = { &lh__engine_inside, &lh__engine_outside };

/* Whether the choice leaves this engine. */
static bool is_wanted(enum lh_session_choice choice, const struct lh_session_engine *engine)
{
	return choice == LH_ENGINE_AUTO || (choice == LH_ENGINE_INSIDE) == (engine == &lh__engine_inside);
}

/* The engine that is wanted, or the first of those that fit which can watch the process. */
static int watch(struct lh_session *session, struct lh_remote *remote, struct lh_error *error)
{
	int result = lh__fail(error, -EINVAL, "there is no such engine");

	for (size_t i = 0; i < sizeof(engines) / sizeof(*engines); i++) {
		if (!is_wanted(session->options.engine, engines[i]))
			continue;
		/* Who answers traps there is asked for its processes meanwhile, and could not answer. */
		if (engines[i] != &lh__engine_inside && (session->options.from || session->options.until)) {
			if (session->options.engine == LH_ENGINE_OUTSIDE)
				return lh__fail(error, -EINVAL, "--from and --until need the inside engine");
			continue;
		}
		session->engine = engines[i];
		result = session->engine->open(session, &session->state, error);
		if (result < 0)
			continue;
		result = session->engine->watch(session->state, remote, session->launched, error);
		if (result == 0 && session->engine->descriptor)
			result = look_at(session, session->engine->descriptor(session->state));
		if (result == 0 || result == -EBUSY || result == -ECHILD)
			return result;
		session->engine->close(session->state);
		session->state = NULL;
	}
	return result;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void kill_child(pid_t child)
{
	int status;

	kill(child, SIGKILL);
	while (waitpid(child, &status, __WALL) >= 0 && !WIFEXITED(status) && !WIFSIGNALED(status))
		;
}

static int launch(struct lh_session *session, char *const *argv, struct lh_error *error)
{
	struct lh_remote *remote;
	int result;

	session->launched = true;
	result = lh__session_start(session, argv, &session->process, error);
	if (result < 0)
		return result;
	result = lh__remote_adopt(session->process, &remote, error);
	if (result == 0) {
		result = watch(session, remote, error);
		if (result < 0)
			lh__remote_release(remote);
	}
	if (result < 0)
		kill_child(session->process);
	return result;
}

int lh__session_launch(const struct lh_session_options *options, char *const *argv, struct lh_session **out,
                       struct lh_error *error)
{
	struct lh_session *session;
	int result = open_session(options, &session, error);

	if (result < 0)
		return result;
	result = launch(session, argv, error);
	if (result < 0) {
		close_session(session);
		return result;
	}
	*out = session;
	return 0;
}

static int attach(struct lh_session *session, struct lh_error *error)
{
	struct lh_remote *remote;
	uint64_t since;
	int result;

	session->gone = (int)syscall(SYS_pidfd_open, session->process, 0);
	if (session->gone < 0)
		return lh__fail(error, -errno,
		                errno == ESRCH ? "process %d: there is none"
		                               : "process %d: it cannot be opened",
		                session->process);
	result = look_at(session, session->gone);
	if (result < 0)
		return lh__fail(error, result, "no descriptors: %s", strerror(-result));
	lh__session_prepare(session, session->process);
	since = now();
	result = lh__remote_stop(session->process, STOP_MS, &remote, error);
	if (result < 0)
		return result;
	result = watch(session, remote, error);
	if (result < 0)
		lh__remote_release(remote);
	lh__session_came(session, now() - since);
	return result;
}

int lh__session_attach(const struct lh_session_options *options, pid_t process, struct lh_session **out,
                       struct lh_error *error)
{
	struct lh_session *session;
	int result = open_session(options, &session, error);

	if (result < 0)
		return result;
	session->process = process;
	result = attach(session, error);
	if (result < 0) {
		close_session(session);
		return result;
	}
	*out = session;
	return 0;
}

/* ---- waiting ---- */

/* The launched program's end, and its stops by job control: 2. */
static int look_at_child(struct lh_session *session)
{
	siginfo_t info = { 0 };
	int status;

	if (!session->launched || session->ended || session->engine->takes_status)
		return 0;
	if (waitid(P_PID, (id_t)session->process, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) < 0)
		return -errno;
	if (info.si_pid == 0 || info.si_code == CLD_TRAPPED)
		return 0;
	if (waitpid(session->process, &status, WUNTRACED | WNOHANG) != session->process)
		return 0;
	if (WIFSTOPPED(status)) {
		session->status = status;
		return 2;
	}
	lh__session_ended(session, session->process, status);
	return 0;
}

static void drop_signals(struct lh_session *session)
{
	struct signalfd_siginfo info;

	while (read(session->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		;
}

/* Everything that is to be done now: 0: nothing is to be told. */
static int serve(struct lh_session *session, struct lh_error *error)
{
	int result;

	drop_signals(session);
	lh__session_broker_serve(session);
	result = session->engine->serve(session->state, error);
	if (result < 0)
		return result;
	result = look_at_child(session);
	if (result < 0)
		return lh__fail(error, result, "the program cannot be waited for: %s", strerror(-result));
	return session->ended ? 1 : result;
}

static bool is_gone(const struct lh_session *session, const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++)
		if (session->gone >= 0 && events[i].data.fd == session->gone)
			return true;
	return false;
}

static int await_event(struct lh_session *session, uint64_t until)
{
	struct epoll_event events[4];
	uint64_t at = now();
	int wait = -1, n;

	if (until != UINT64_MAX)
		wait = at >= until ? 0 : (int)((until - at) / 1000000u) + 1;
	n = epoll_pwait(session->events, events, 4, wait, &session->waiting);
	if (n < 0)
		return -errno;
	if (is_gone(session, events, n)) {
		session->ended = true;
		session->status = 0;
	}
	return n;
}

int lh__session_wait(struct lh_session *session, int milliseconds, int *status, struct lh_error *error)
{
	uint64_t until = milliseconds < 0 ? UINT64_MAX : now() + (uint64_t)milliseconds * 1000000u;
	int result, n;

	for (;;) {
		result = serve(session, error);
		if (result != 0)
			break;
		n = await_event(session, until);
		if (n == -EINTR)
			return 0;
		if (n < 0)
			return lh__fail(error, n, "the program cannot be waited for: %s", strerror(-n));
		if (n == 0 && now() >= until)
			return 0;
	}
	if (result > 0)
		*status = session->status;
	return result;
}

/* ---- ending ---- */

struct leaving {
	struct lh_session *session;
	struct lh_error *error;
	unsigned processes;
	int result;
};

static int leave_one(void *context, pid_t process)
{
	struct leaving *leaving = context;
	struct lh_session *session = leaving->session;
	int result = session->engine->leave(session->state, process, leaving->error);

	if (result == -ESRCH || result == -ECHILD)
		return 0;
	if (result < 0)
		leaving->result = result;
	else
		leaving->processes++;
	return 0;
}

static int leave_all(struct lh_session *session, struct lh_error *error)
{
	struct leaving leaving = { .session = session, .error = error, .processes = 1 };
	int result = 0;

	for (unsigned i = 0; i < LEAVE_ROUNDS && leaving.processes > 0 && result == 0; i++) {
		leaving.processes = 0;
		leaving.result = 0;
		result = session->engine->processes(session->state, leave_one, &leaving);
	}
	if (result < 0)
		return lh__fail(error, result, "processes cannot be listed: %s", strerror(-result));
	return leaving.result;
}

int lh__session_end(struct lh_session *session, bool *verified, struct lh_error *error)
{
	int result = leave_all(session, error);

	if (result == 0 && session->differs)
		lh__session_say(session, "process %d: its code is not as its files have it",
		                session->differs_in);
	*verified = result == 0 && !session->differs;
	lh__session_say_unfound(session);
	close_session(session);
	return result;
}
