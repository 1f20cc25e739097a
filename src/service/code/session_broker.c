/*
 * session_broker.c - answers what agents ask: an abstract Unix socket, a connection for each question.
 *
 * Anybody may connect to an abstract socket. So who asks is told by the kernel (SO_PEERCRED) and must be a
 * process with an agent of this session in it, or the one that is being given one just now; what it says of
 * itself is not looked at. Nobody is waited for: a question that has not come yet is one more descriptor of
 * the poll.
 */
#include "service/code/session_inside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 512
#define EVENTS 16

static int watch(struct lh_session *session, int descriptor)
{
	struct epoll_event event = { .events = EPOLLIN, .data = { .fd = descriptor } };

	return epoll_ctl(session->sockets, EPOLL_CTL_ADD, descriptor, &event) < 0 ? -errno : 0;
}

static int bind_name(struct lh_session *session)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	uint64_t number[2];
	size_t length;

	if (getrandom(number, sizeof(number), 0) != sizeof(number))
		return -EIO;
	/* Not to be guessed: nobody else shall be able to take the name in a process's place. */
	snprintf(session->name, sizeof(session->name), "linehome-%d-%016llx%016llx", getpid(),
	         (unsigned long long)number[0], (unsigned long long)number[1]);
	length = strlen(session->name);
	memcpy(address.sun_path + 1, session->name, length);
	return bind(session->listener, (struct sockaddr *)&address,
	            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) < 0
	               ? -errno
	               : 0;
}

int lh__session_broker_open(struct lh_session *session, struct lh_error *error)
{
	int result = 0;

	session->sockets = epoll_create1(EPOLL_CLOEXEC);
	session->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (session->sockets < 0 || session->listener < 0)
		result = -errno;
	if (result == 0)
		result = bind_name(session);
	if (result == 0 && listen(session->listener, BACKLOG) < 0)
		result = -errno;
	if (result == 0)
		result = watch(session, session->listener);
	return result < 0
	               ? lh__fail(error, result, "no socket for the watched program: %s", strerror(-result))
	               : 0;
}

void lh__session_broker_close(struct lh_session *session)
{
	if (session->listener >= 0)
		close(session->listener);
	if (session->sockets >= 0)
		close(session->sockets);
	session->listener = session->sockets = -1;
}

/* ---- answers ---- */

static void send_answer(int connection, const struct lh_answer *answer, int descriptor)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .space = { 0 } };
	struct iovec part = { (void *)answer, sizeof(*answer) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (descriptor >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		control.header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
			                           .cmsg_type = SCM_RIGHTS,
			                           .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(&control.header), &descriptor, sizeof(descriptor));
	}
	/* Who asked may have been killed meanwhile. */
	(void)!sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int answer_module(struct lh_session *session, pid_t process, const struct lh_ask *ask,
                         struct lh_answer *answer)
{
	bool attached = lh__inside_entering(session->state) == process && !session->launched;
	struct lh_session_module module;

	lh__session_module(session, process, ask->address, attached, &module);
	answer->action = module.action;
	if (module.action == LH_ANSWER_IGNORE)
		return -1;
	answer->start = module.start;
	answer->end = module.end;
	answer->text = module.text;
	answer->plan_size = module.plan->head->size;
	answer->hits = module.hits_at;
	return module.plan->descriptor;
}

/* Only the launched program serves, none of its children. */
static int answer_marker(struct lh_session *session, pid_t process, const struct lh_ask *ask,
                         struct lh_answer *answer)
{
	if (!lh__session_marker(session, process, ask->address))
		return -1;
	answer->action = LH_MARKER_GONE;
	if (!session->options.server || process != session->process)
		return -1;
	answer->action = LH_MARKER_SERVE;
	return *session->options.server;
}

static bool may_ask(struct lh_session *session, pid_t process)
{
	return process > 0 && (lh__inside_entering(session->state) == process ||
	                       lh__inside_is_ours(session->state, process));
}

static void answer_ask(struct lh_session *session, int connection, pid_t process, const struct lh_ask *ask)
{
	struct lh_answer answer = { .error = -EPERM };
	int descriptor = -1;

	if (!may_ask(session, process)) {
		send_answer(connection, &answer, -1);
		return;
	}
	answer.error = 0;
	if (ask->kind == LH_ASK_HELLO)
		descriptor = lh__record_descriptor(session->options.record);
	else if (ask->kind == LH_ASK_MODULE)
		descriptor = answer_module(session, process, ask, &answer);
	else if (ask->kind == LH_ASK_REFUSED)
		lh__session_refused(session, process, ask->address);
	else if (ask->kind == LH_ASK_MARKER)
		descriptor = answer_marker(session, process, ask, &answer);
	else if (ask->kind == LH_ASK_EXECUTE)
		answer.error = lh__inside_executes(session->state, process, ask->thread);
	else
		answer.error = -EINVAL;
	send_answer(connection, &answer, descriptor);
	if (ask->kind == LH_ASK_EXECUTE && answer.error == 0)
		lh__inside_resume(session->state, ask->thread);
}

/* ---- questions ---- */

/* Takes the question of a connection, if it has come: false, it has not. */
static bool take_ask(struct lh_session *session, int connection)
{
	struct ucred peer = { 0 };
	socklen_t size = sizeof(peer);
	struct lh_ask ask = { 0 };
	ssize_t got = recv(connection, &ask, sizeof(ask), MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got == sizeof(ask) && getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0)
		answer_ask(session, connection, peer.pid, &ask);
	close(connection);
	return true;
}

static void take_connections(struct lh_session *session)
{
	int connection;

	while ((connection = accept4(session->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		if (!take_ask(session, connection) && watch(session, connection) < 0)
			close(connection);
}

void lh__session_broker_serve(void *context)
{
	struct lh_session *session = context;
	struct epoll_event events[EVENTS];
	int n = epoll_wait(session->sockets, events, EVENTS, 0);

	for (int i = 0; i < n; i++)
		if (events[i].data.fd == session->listener)
			take_connections(session);
		else
			(void)take_ask(session, events[i].data.fd);
}
