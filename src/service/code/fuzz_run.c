/*
 * fuzz_run.c - runs: one message to the fork server, one back. What the program asks meanwhile (code that it
 * maps, what it executes) the session answers.
 */
#include "service/code/fuzz_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define AGAIN_MS 10u
#define GRACE_MS 10000u /* for the server to end a run whose time is over */

static uint64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000u + (uint64_t)time.tv_nsec / 1000000u;
}

static int fail_ended(const struct lh_cover *cover, struct lh_error *error)
{
	if (WIFSIGNALED(cover->status))
		return lh__fail(error, -ECHILD, "%s: its fork server has ended, by signal %d (%s)",
		                cover->program, WTERMSIG(cover->status), strsignal(WTERMSIG(cover->status)));
	return lh__fail(error, -ECHILD, "%s: its fork server has ended, with status %d", cover->program,
	                WEXITSTATUS(cover->status));
}

/* 1: the status has come; 0: not yet. */
static int receive(const struct lh_cover *cover, struct lh_serve_status *status)
{
	ssize_t got = recv(cover->socket, status, sizeof(*status), MSG_DONTWAIT);

	if (got == (ssize_t)sizeof(*status))
		return 1;
	/* Its end of the socket is closed when it has ended; the session tells that. */
	return got >= 0 || errno == EAGAIN || errno == EINTR || errno == ECONNRESET ? 0 : -errno;
}

/* What the session has to do now. */
static int serve(struct lh_cover *cover, struct lh_error *error)
{
	int result = lh__session_wait(cover->session, 0, &cover->status, error);

	if (result == 1) {
		cover->ended = true;
		return fail_ended(cover, error);
	}
	return result < 0 ? result : 0;
}

int lh__fuzz_await(struct lh_cover *cover, unsigned milliseconds, struct lh_serve_status *status,
                   struct lh_error *error)
{
	uint64_t until = now_ms() + milliseconds;
	struct pollfd look[2] = { { .fd = cover->socket, .events = POLLIN },
		                  { .fd = cover->session->events, .events = POLLIN } };

	for (;;) {
		uint64_t now = now_ms();
		int n, result;

		n = poll(look, 2, now >= until ? 0 : (int)(until - now));
		if (n < 0 && errno != EINTR)
			return lh__fail(error, -errno, "no wait: %s", strerror(errno));
		result = receive(cover, status);
		if (result != 0)
			return result < 0 ? lh__fail(error, result, "%s: its fork server does not answer: %s",
			                             cover->program, strerror(-result))
			                  : 0;
		if (n == 0)
			return lh__fail(error, -ETIMEDOUT, "%s: its fork server does not answer",
			                cover->program);
		if (n > 0 && look[0].revents & (POLLHUP | POLLERR))
			look[0].fd = -1; /* nothing more will come */
		result = serve(cover, error);
		if (result < 0)
			return result;
	}
}

/* ---- a run whose time is over ---- */

/* The first child of the server, which is the run; behind it stands what others have left. Or 0. */
static pid_t child_of(pid_t server)
{
	char path[64];
	int child = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", server, server);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%d", &child) != 1)
		child = 0;
	fclose(file);
	return child;
}

/* What is still its child when we have a handle on it cannot have become another process meanwhile. */
static bool kill_run(const struct lh_cover *cover)
{
	pid_t server = lh__session_process(cover->session), child = child_of(server);
	int handle = child > 0 ? (int)syscall(SYS_pidfd_open, child, 0) : -1;
	bool killed = false;
	siginfo_t info;

	if (handle < 0)
		return false;
	if (child_of(server) == child)
		killed = syscall(SYS_pidfd_send_signal, handle, SIGKILL, NULL, 0) == 0;
	close(handle);
	/* One that was about to execute is traced by us: the server is told of its end once we have it. */
	(void)!waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | __WALL);
	return killed;
}

/* Its end. *killed: because its time was over. */
static int await_end(struct lh_cover *cover, struct lh_serve_status *status, bool *killed,
                     struct lh_error *error)
{
	int result = lh__fuzz_await(cover, cover->timeout_ms, status, error);
	uint64_t until = now_ms() + GRACE_MS;

	*killed = false;
	/* The server may not even have forked when a short time is over. */
	while (result == -ETIMEDOUT && now_ms() < until) {
		*killed |= kill_run(cover);
		result = lh__fuzz_await(cover, AGAIN_MS, status, error);
	}
	if (result == -ETIMEDOUT) /* nobody knows what it would answer later */
		kill(lh__session_process(cover->session), SIGKILL);
	if (result == 0)
		*killed = *killed && WIFSIGNALED(status->status) && WTERMSIG(status->status) == SIGKILL;
	return result;
}

/* ---- a run ---- */

static int begin(struct lh_cover *cover, struct lh_error *error)
{
	const struct lh_serve_command command = { .kind = LH_SERVE_RUN };

	if (cover->each) /* it is no trap that a run begins with */
		__atomic_fetch_or(cover->at_word, cover->at_bit, __ATOMIC_RELAXED);
	if (lseek(cover->standard, 0, SEEK_SET) < 0)
		return lh__fail(error, -errno, "the input cannot be rewound: %s", strerror(errno));
	/* Where it has ended, waiting for it says how. */
	if (send(cover->socket, &command, sizeof(command), MSG_NOSIGNAL) < 0 && errno != EPIPE &&
	    errno != ECONNRESET)
		return lh__fail(error, -errno, "%s: its fork server cannot be told: %s", cover->program,
		                strerror(errno));
	return 0;
}

int lh_cover_run(struct lh_cover *cover, struct lh_cover_result *result, struct lh_error *error)
{
	uint64_t traps = cover->traps;
	struct lh_serve_status status;
	bool killed = false;
	int code;

	*result = (struct lh_cover_result){ 0 };
	cover->count = 0;
	if (cover->ended)
		return fail_ended(cover, error);
	code = begin(cover, error);
	if (code == 0)
		code = await_end(cover, &status, &killed, error);
	if (code < 0)
		return code;
	if (status.error < 0)
		return lh__fail(error, status.error, "%s: no process for a run: %s", cover->program,
		                strerror(-status.error));
	code = lh__fuzz_look(cover);
	if (code < 0 && code != -EPIPE && code != -ECONNRESET)
		return lh__fail(error, code, "the news of a run cannot be kept: %s", strerror(-code));
	result->status = status.status;
	result->timed_out = killed;
	result->news = cover->count;
	result->blocks = cover->blocks;
	result->traps = cover->traps - traps;
	return 0;
}

size_t lh_cover_news(const struct lh_cover *cover, struct lh_cover_place *places, size_t room)
{
	for (size_t i = 0; i < room && i < cover->count; i++)
		places[i] = cover->news[i];
	return cover->count;
}

int lh_cover_input(const struct lh_cover *cover)
{
	return cover->input;
}

int lh_cover_feed(struct lh_cover *cover, const void *bytes, size_t size, struct lh_error *error)
{
	const char *from = bytes;
	size_t done = 0;

	while (done < size) {
		ssize_t wrote = pwrite(cover->input, from + done, size - done, (off_t)done);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return lh__fail(error, wrote < 0 ? -errno : -EIO, "the input cannot be written: %s",
			                strerror(wrote < 0 ? errno : EIO));
		done += (size_t)wrote;
	}
	if (ftruncate(cover->input, (off_t)size) < 0)
		return lh__fail(error, -errno, "the input cannot be cut: %s", strerror(errno));
	return 0;
}
