/*
 * outside.c - see outside.h. The session's half: starts the guard, tells it whom to watch, and answers what
 * it asks. While the session waits for the guard the guard may ask; it never does the other way round.
 */
#include "service/code/outside.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "service/code/remote_inside.h"
#include "service/code/session_engine.h"

#define FIRST 3 /* where the guard has its socket; the record follows */
#define END_TURNS 200
#define END_NAP 5000000 /* ns */

struct outside {
	struct lh_session *session;
	int socket;
	pid_t guard;
};

/* ---- messages ---- */

int lh__guard_send(int socket, const struct lh_guard_message *message, int descriptor)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .space = { 0 } };
	struct iovec part = { (void *)(uintptr_t)message, sizeof(*message) };
	struct msghdr all = { .msg_iov = &part, .msg_iovlen = 1 };

	if (descriptor >= 0) {
		all.msg_control = &control;
		all.msg_controllen = sizeof(control);
		control.header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
			                           .cmsg_type = SCM_RIGHTS,
			                           .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(&control.header), &descriptor, sizeof(descriptor));
	}
	while (sendmsg(socket, &all, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int lh__guard_receive(int socket, int flags, struct lh_guard_message *message, int *descriptor)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .space = { 0 } };
	struct iovec part = { message, sizeof(*message) };
	struct msghdr all = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	ssize_t got;

	*descriptor = -1;
	do {
		got = recvmsg(socket, &all, flags | MSG_CMSG_CLOEXEC);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	if (got != (ssize_t)sizeof(*message))
		return -EPIPE;
	if (all.msg_controllen >= CMSG_LEN(sizeof(int)) && control.header.cmsg_type == SCM_RIGHTS)
		memcpy(descriptor, CMSG_DATA(&control.header), sizeof(*descriptor));
	return 0;
}

/* ---- what the guard asks ---- */

static int answer_module(struct outside *outside, const struct lh_guard_message *ask,
                         struct lh_guard_message *done)
{
	struct lh_session_module module;

	lh__session_module(outside->session, ask->process, ask->address, !ask->launched, &module);
	done->answer.action = module.action;
	if (module.action == LH_ANSWER_IGNORE)
		return -1;
	done->answer.start = module.start;
	done->answer.end = module.end;
	done->answer.text = module.text;
	done->answer.plan_size = module.plan->head->size;
	done->answer.hits = module.hits_at;
	return module.plan->descriptor;
}

static int answer(struct outside *outside, const struct lh_guard_message *ask)
{
	struct lh_guard_message done = { .kind = LH_GUARD_DONE, .process = ask->process };
	struct lh_remote process = { .process = ask->process, .memory = -1 };
	int descriptor = -1;

	switch (ask->kind) {
	case LH_GUARD_MODULE: descriptor = answer_module(outside, ask, &done); break;
	case LH_GUARD_ARMED: lh__session_put_markers(outside->session, ask->process); break;
	case LH_GUARD_MARKER:
		done.result = lh__session_marker(outside->session, ask->process, ask->address);
		break;
	case LH_GUARD_VERIFY: lh__session_verify(outside->session, &process); break;
	default: done.result = -EINVAL; break;
	}
	return lh__guard_send(outside->socket, &done, descriptor);
}

/* Sends a command and serves the guard until it is done. */
static int command(struct outside *outside, struct lh_guard_message *message)
{
	int rc = lh__guard_send(outside->socket, message, -1), descriptor;

	while (!rc) {
		rc = lh__guard_receive(outside->socket, 0, message, &descriptor);
		if (!rc && message->kind == LH_GUARD_DONE)
			return message->result;
		if (!rc)
			rc = answer(outside, message);
	}
	return rc;
}

static int fail(int rc, struct lh_error *error)
{
	return lh__fail(error, rc, "the guard of the watched program has ended: %s", lh__errno_name(rc));
}

/* ---- the engine ---- */

/* A child that is no linehome any more ends at once, and runs nothing of ours. */
static void end_child(long code)
{
	for (;;)
		lh__raw_syscall(SYS_exit_group, code, 0, 0, 0, 0, 0);
}

static void become_guard(int socket, int record, enum lh_granularity granularity)
{
	/* Out of each other's way first: either may have the other's number. */
	int high_socket = fcntl(socket, F_DUPFD, FIRST + 2), high_record = fcntl(record, F_DUPFD, FIRST + 2);
	int nothing = open("/dev/null", O_RDWR);

	if (high_socket < 0 || high_record < 0 || dup2(high_socket, FIRST) < 0 ||
	    dup2(high_record, FIRST + 1) < 0)
		end_child(1);
	/* Nobody who waits for the end of a pipe of ours shall wait for the guard's. */
	for (int i = 0; i < FIRST; i++)
		dup2(nothing, i);
	close_range(FIRST + 2, ~0u, 0);
	setsid();
	lh__guard_run(FIRST, FIRST + 1, granularity);
	end_child(0);
}

static int outside_open(struct lh_session *session, void **state, struct lh_error *error)
{
	struct outside *outside = calloc(1, sizeof(*outside));
	int ends[2];

	if (!outside)
		return lh__fail(error, -ENOMEM, "no memory");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) {
		free(outside);
		return lh__fail(error, -errno, "no sockets: %s", lh__errno_name(errno));
	}
	outside->session = session;
	outside->socket = ends[0];
	outside->guard = fork();
	if (!outside->guard) {
		close(ends[0]);
		become_guard(ends[1], lh__record_descriptor(lh__session_record(session)),
		             lh__session_granularity(session));
	}
	close(ends[1]);
	if (outside->guard < 0) {
		close(ends[0]);
		free(outside);
		return lh__fail(error, -EAGAIN, "no process: %s", lh__errno_name(errno));
	}
	*state = outside;
	return 0;
}

/*
 * Tracing cannot be handed over, so it is given up here and taken up by the guard. What was launched is kept
 * from running in between by a SIGSTOP, which the guard ends if we cannot any more; what is attached to has
 * been running before.
 */
static int outside_watch(void *state, struct lh_remote *remote, bool launched, struct lh_error *error)
{
	struct lh_guard_message message = { .kind = LH_GUARD_WATCH,
		                            .process = lh__remote_process(remote),
		                            .launched = launched };
	struct lh_guard_message expect = { .kind = LH_GUARD_EXPECT, .process = message.process };
	int rc = launched ? command(state, &expect) : 0;

	if (rc)
		return fail(rc, error);
	if (launched && syscall(SYS_tgkill, message.process, message.process, SIGSTOP))
		return lh__fail(error, -ECHILD, "the program has ended");
	lh__remote_let_go(remote);
	rc = command(state, &message);
	if (!rc) {
		lh__remote_release(remote);
		return 0;
	}
	if (error && message.kind == LH_GUARD_DONE)
		*error = message.error;
	else
		(void)!fail(rc, error);
	return rc;
}

static int outside_serve(void *state, struct lh_error *error)
{
	struct outside *outside = state;
	struct lh_guard_message message;
	int descriptor, rc;

	for (;;) {
		rc = lh__guard_receive(outside->socket, MSG_DONTWAIT, &message, &descriptor);
		if (rc == -EAGAIN)
			return 0;
		if (!rc)
			rc = answer(outside, &message);
		if (rc)
			return fail(rc, error);
	}
}

static int outside_processes(void *state, int (*found)(void *context, pid_t process), void *context)
{
	struct lh_guard_message message = { .kind = LH_GUARD_LIST_ALL };
	struct lh_guard_message *list = NULL, *grown;
	size_t lists = 0;
	int rc;

	do {
		message.kind = LH_GUARD_LIST_ALL;
		message.address = lists * LH_GUARD_LIST;
		rc = command(state, &message);
		grown = rc ? NULL : reallocarray(list, lists + 1, sizeof(*list));
		if (!rc && !grown)
			rc = -ENOMEM;
		if (grown) {
			list = grown;
			list[lists++] = message;
		}
	} while (!rc && message.more);
	for (size_t i = 0; !rc && i < lists; i++)
		for (uint32_t j = 0; !rc && j < list[i].number; j++)
			rc = found(context, list[i].processes[j]);
	free(list);
	return rc;
}

static int outside_leave(void *state, pid_t process, struct lh_error *error)
{
	struct lh_guard_message message = { .kind = LH_GUARD_LEAVE, .process = process };
	int rc = command(state, &message);

	if (rc && error && message.kind == LH_GUARD_DONE)
		*error = message.error;
	else if (rc)
		(void)!fail(rc, error);
	return rc;
}

static int outside_descriptor(void *state)
{
	return ((struct outside *)state)->socket;
}

static void outside_close(void *state)
{
	const struct timespec nap = { 0, END_NAP };
	struct outside *outside = state;

	close(outside->socket);
	/* It may have to wait for a thread that cannot be stopped yet; then it ends later, by itself. */
	for (int i = 0; i < END_TURNS && !waitpid(outside->guard, NULL, WNOHANG); i++)
		nanosleep(&nap, NULL);
	free(outside);
}

const struct lh_session_engine lh__engine_outside = {
	.name = "outside",
	.open = outside_open,
	.watch = outside_watch,
	.serve = outside_serve,
	.processes = outside_processes,
	.leave = outside_leave,
	.descriptor = outside_descriptor,
	.close = outside_close,
};
