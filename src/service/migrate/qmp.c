/*
 * qmp.c - see qmp.h.
 *
 * Objects are told apart by counting their braces, not by lines: a monitor may be set to print its answers
 * over several. Commands carry a number that nobody else's do, and an answer with another one, to a command
 * that we have stopped waiting for or that a client before us has sent, is passed over. What breaks the rules
 * breaks the connection for good.
 */
#include "service/migrate/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "sys/sys.h"

#define LIMIT_MS 30000         /* for an answer, where nobody has set another */
#define OBJECT_MAX (64u << 20) /* bytes of one object: registers of many vCPUs are some of them */
#define TRIES 5                /* to connect to who closes at once */
#define AGAIN_NS 20000000
#define READ_MIN 65536u       /* room for one read */
#define STALE_MAX (16u << 20) /* bytes that may come before the greeting */
#define EVENTS_MAX 10000u     /* kept for who never asks; the oldest go */

/* Where in an object the bytes looked at so far end. */
struct scan {
	size_t at;
	unsigned depth;
	bool quoted, escaped;
};

struct lh_qmp {
	int fd;
	pid_t process;
	int limit_ms;
	int broken; /* what every call returns from now on */
	json_int_t number;
	char *bytes;
	size_t have, room;
	struct scan scan;
	json_t *events;
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Of commands of two clients none have the same: this counts faster than they are sent. */
static json_int_t first_number(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (json_int_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- waiting ---- */

/* 1: ready, or at its end; 0: the time is over. timeout: when, or UINT64_MAX. */
static int await(const struct lh_qmp *qmp, short events, uint64_t deadline)
{
	struct pollfd wait = { .fd = qmp->fd, .events = events };

	for (;;) {
		uint64_t now = now_ms();
		uint64_t left = deadline > now ? deadline - now : 0;
		int rc = poll(&wait, 1, deadline == UINT64_MAX ? -1 : left > 3600000 ? 3600000 : (int)left);

		if (rc > 0)
			return 1;
		if (rc < 0 && errno != EINTR)
			return -errno;
		if (deadline != UINT64_MAX && now_ms() >= deadline)
			return 0;
	}
}

static int broken(struct lh_qmp *qmp, int code, struct lh_error *error)
{
	qmp->broken = code;
	if (code == -ECONNRESET)
		return lh__fail(error, code, "QEMU has closed its monitor: it has gone");
	if (code == -EPROTO)
		return lh__fail(error, code, "what answers is not a QEMU monitor (QMP)");
	return lh__fail(error, code, "the QEMU monitor: %s", lh__errno_name(code));
}

/* ---- objects ---- */

/* Looks at what has come. 1: an object ends before scan.at; 0: not yet; -EPROTO. */
static int look(struct lh_qmp *qmp)
{
	struct scan *scan = &qmp->scan;

	while (scan->at < qmp->have) {
		char c = qmp->bytes[scan->at++];

		if (scan->quoted) {
			if (scan->escaped)
				scan->escaped = false;
			else if (c == '\\')
				scan->escaped = true;
			else if (c == '"')
				scan->quoted = false;
		} else if (c == '{') {
			scan->depth++;
		} else if (scan->depth == 0) {
			if (!strchr(" \t\r\n", c) || !c)
				return -EPROTO;
		} else if (c == '"') {
			scan->quoted = true;
		} else if (c == '}' && --scan->depth == 0) {
			return 1;
		}
	}
	return 0;
}

/* The object that ends at scan.at, whose bytes are then done with. */
static int take(struct lh_qmp *qmp, json_t **object)
{
	size_t size = qmp->scan.at;
	json_error_t why;

	*object = json_loadb(qmp->bytes, size, 0, &why);
	qmp->have -= size;
	memmove(qmp->bytes, qmp->bytes + size, qmp->have);
	qmp->scan = (struct scan){ 0 };
	if (*object)
		return 0;
	return json_error_code(&why) == json_error_out_of_memory ? -ENOMEM : -EPROTO;
}

static int make_room(struct lh_qmp *qmp)
{
	size_t room = qmp->room ? qmp->room * 2 : 2 * READ_MIN;
	char *bytes;

	if (qmp->room - qmp->have >= READ_MIN)
		return 0;
	if (room > OBJECT_MAX)
		return -EPROTO;
	bytes = realloc(qmp->bytes, room);
	if (!bytes)
		return -ENOMEM;
	qmp->bytes = bytes;
	qmp->room = room;
	return 0;
}

/* What has come is read; at least one byte, by deadline. 1, or 0: the time is over. */
static int receive(struct lh_qmp *qmp, uint64_t deadline)
{
	int rc = make_room(qmp);

	while (!rc) {
		ssize_t n = recv(qmp->fd, qmp->bytes + qmp->have, qmp->room - qmp->have, MSG_DONTWAIT);

		if (n > 0) {
			qmp->have += (size_t)n;
			return 1;
		}
		if (n == 0 || errno == ECONNRESET)
			return -ECONNRESET;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		rc = await(qmp, POLLIN, deadline);
		if (rc == 0)
			return 0;
		rc = rc < 0 ? rc : 0;
	}
	return rc;
}

/* The next object of any kind: 1, or 0: none until deadline. */
static int next(struct lh_qmp *qmp, uint64_t deadline, json_t **object, struct lh_error *error)
{
	int rc;

	if (qmp->broken)
		return broken(qmp, qmp->broken, error);
	for (;;) {
		rc = look(qmp);
		if (rc > 0) {
			rc = take(qmp, object);
			return rc ? broken(qmp, rc, error) : 1;
		}
		if (!rc)
			rc = receive(qmp, deadline);
		if (rc == 0)
			return 0;
		if (rc < 0)
			return broken(qmp, rc, error);
	}
}

/* An event is kept for who asks for it. Whether it was one. */
static bool keep_event(struct lh_qmp *qmp, json_t *object)
{
	if (!json_is_string(json_object_get(object, "event")))
		return false;
	if (json_array_size(qmp->events) >= EVENTS_MAX)
		json_array_remove(qmp->events, 0);
	json_array_append(qmp->events, object);
	return true;
}

/* ---- commands ---- */

/* Sends all of it, the descriptor with its first byte. */
static int put(struct lh_qmp *qmp, const char *text, int fd, uint64_t deadline)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	size_t size = strlen(text);

	for (size_t done = 0; done < size;) {
		struct iovec part = { (char *)text + done, size - done };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
		ssize_t n;
		int rc;

		if (fd >= 0 && done == 0) {
			message.msg_control = control.bytes;
			message.msg_controllen = sizeof(control.bytes);
			control.align = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
				                          .cmsg_level = SOL_SOCKET,
				                          .cmsg_type = SCM_RIGHTS };
			memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
		}
		n = sendmsg(qmp->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			done += (size_t)n;
			continue;
		}
		if (errno == EPIPE || errno == ECONNRESET)
			return -ECONNRESET;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		rc = await(qmp, POLLOUT, deadline);
		if (rc <= 0)
			return rc ? rc : -ETIMEDOUT;
	}
	return 0;
}

/* Whether an object answers the command that was sent last; -EPROTO: it is no answer. */
static int answers(const struct lh_qmp *qmp, const json_t *object)
{
	const json_t *id = json_object_get(object, "id");

	if (!json_object_get(object, "return") && !json_is_object(json_object_get(object, "error")))
		return -EPROTO;
	/* An error without a number answers what could not be understood. */
	if (!id)
		return json_object_get(object, "error") ? 1 : -EPROTO;
	return json_integer_value(id) == qmp->number;
}

static int too_late(const struct lh_qmp *qmp, const char *name, struct lh_error *error)
{
	return lh__fail(error, -ETIMEDOUT, "QEMU has not answered %s in %d ms", name, qmp->limit_ms);
}

static int answer(struct lh_qmp *qmp, const char *name, uint64_t deadline, json_t **object,
                  struct lh_error *error)
{
	for (;;) {
		int rc = next(qmp, deadline, object, error);

		if (rc < 0)
			return rc;
		if (rc == 0)
			return too_late(qmp, name, error);
		rc = keep_event(qmp, *object) ? 0 : answers(qmp, *object);
		if (rc > 0)
			return 0;
		json_decref(*object);
		if (rc < 0)
			return broken(qmp, rc, error);
		if (now_ms() > deadline)
			return too_late(qmp, name, error);
	}
}

static char *command_text(struct lh_qmp *qmp, const char *name, json_t *arguments)
{
	json_t *command = json_pack("{s:s, s:I}", "execute", name, "id", qmp->number);
	char *text = NULL;

	if (command && (!arguments || !json_object_set(command, "arguments", arguments)))
		text = json_dumps(command, JSON_COMPACT);
	json_decref(command);
	json_decref(arguments);
	return text;
}

/* One line of it. */
static int refused(const json_t *object, const char *name, struct lh_error *error)
{
	const char *words = json_string_value(json_object_get(json_object_get(object, "error"), "desc"));
	char line[200] = "no reason";

	if (words) {
		strncpy(line, words, sizeof(line) - 1);
		line[strcspn(line, "\r\n")] = '\0';
	}
	return lh__fail(error, -EREMOTEIO, "QEMU refuses %s: %s", name, line);
}

int lh__qmp_command(struct lh_qmp *qmp, const char *name, json_t *arguments, int fd, json_t **result,
                    struct lh_error *error)
{
	uint64_t deadline = now_ms() + (uint64_t)qmp->limit_ms;
	json_t *object, *back;
	char *text;
	int rc;

	qmp->number++;
	text = command_text(qmp, name, arguments);
	if (!text)
		return lh__fail(error, -ENOMEM, "no memory");
	rc = qmp->broken ? qmp->broken : put(qmp, text, fd, deadline);
	free(text);
	if (rc)
		return broken(qmp, rc, error);
	rc = answer(qmp, name, deadline, &object, error);
	if (rc)
		return rc;
	back = json_object_get(object, "return");
	if (!back)
		rc = refused(object, name, error);
	else if (result)
		*result = json_incref(back);
	json_decref(object);
	return rc;
}

int lh__qmp_event(struct lh_qmp *qmp, int timeout_ms, json_t **event, struct lh_error *error)
{
	uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : now_ms() + (uint64_t)timeout_ms;
	json_t *object;
	int rc;

	while (json_array_size(qmp->events) == 0) {
		rc = next(qmp, deadline, &object, error);
		if (rc <= 0)
			return rc;
		/* An answer to a command that nobody waits for any more is not missed. */
		rc = keep_event(qmp, object) || answers(qmp, object) >= 0 ? 0 : -EPROTO;
		json_decref(object);
		if (rc)
			return broken(qmp, rc, error);
	}
	*event = json_incref(json_array_get(qmp->events, 0));
	json_array_remove(qmp->events, 0);
	return 1;
}

void lh__qmp_limit(struct lh_qmp *qmp, int limit_ms)
{
	qmp->limit_ms = limit_ms > 0 ? limit_ms : LIMIT_MS;
}

/* ---- connecting ---- */

static int connect_to(struct lh_qmp *qmp, const char *path, struct lh_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (strlen(path) >= sizeof(address.sun_path))
		return lh__fail(error, -ENAMETOOLONG, "%s: longer than the path of a socket may be", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	qmp->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (qmp->fd < 0)
		return lh__fail(error, -errno, "a socket: %s", lh__errno_name(errno));
	while (connect(qmp->fd, (struct sockaddr *)&address, sizeof(address))) {
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN)
			return lh__fail(error, -EBUSY, "%s: another client is connected to this monitor",
			                path);
		if (errno == ENOENT)
			return lh__fail(error, -ENOENT, "%s: there is no such socket", path);
		if (errno == ECONNREFUSED || errno == ENOTSOCK)
			return lh__fail(error, -ECONNREFUSED, "%s: no QEMU listens there", path);
		return lh__fail(error, -errno, "%s: %s", path, lh__errno_name(errno));
	}
	if (!getsockopt(qmp->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		qmp->process = peer.pid;
	return 0;
}

/* Drops what stands before a greeting; whether one has begun. */
static bool at_greeting(struct lh_qmp *qmp)
{
	const char *word = qmp->have ? memmem(qmp->bytes, qmp->have, "\"QMP\"", 5) : NULL;
	const char *at = word;

	while (at && at > qmp->bytes && strchr(" \t\r\n", at[-1]) && at[-1])
		at--;
	if (!at || at == qmp->bytes || at[-1] != '{')
		return false;
	qmp->have -= (size_t)(at - 1 - qmp->bytes);
	memmove(qmp->bytes, at - 1, qmp->have);
	return true;
}

/*
 * The greeting. What another client was still to be told, one that was killed, QEMU sends before it to
 * whoever comes next: also the rest of a line, so nothing but the greeting's own beginning tells where it
 * begins.
 */
static int greeted(struct lh_qmp *qmp, uint64_t deadline, json_t **greeting, struct lh_error *error)
{
	while (!at_greeting(qmp)) {
		int rc = qmp->have > STALE_MAX ? -EPROTO : receive(qmp, deadline);

		if (rc == 0)
			return qmp->have ? broken(qmp, -EPROTO, error) : 0;
		if (rc < 0)
			return broken(qmp, rc, error);
	}
	return next(qmp, deadline, greeting, error);
}

static int negotiate(struct lh_qmp *qmp, const char *path, uint64_t deadline, struct lh_error *error)
{
	json_t *greeting = NULL;
	int rc = greeted(qmp, deadline, &greeting, error);

	json_decref(greeting);
	if (rc == 0)
		return lh__fail(error, -EBUSY,
		                "%s: no greeting: another client is connected to this monitor, or QEMU hangs",
		                path);
	if (rc == -EPROTO)
		return lh__fail(error, rc, "%s: not a QEMU monitor that speaks QMP", path);
	if (rc < 0)
		return lh__fail(error, rc, "%s: QEMU has closed its monitor", path);
	return lh__qmp_command(qmp, "qmp_capabilities", NULL, -1, NULL, error);
}

static int open_once(const char *path, uint64_t deadline, struct lh_qmp **out, struct lh_error *error)
{
	struct lh_qmp *qmp = calloc(1, sizeof(*qmp));
	int rc;

	if (!qmp)
		return lh__fail(error, -ENOMEM, "no memory");
	qmp->fd = -1;
	qmp->limit_ms = LIMIT_MS;
	qmp->number = first_number();
	qmp->events = json_array();
	rc = qmp->events ? connect_to(qmp, path, error) : lh__fail(error, -ENOMEM, "no memory");
	if (!rc)
		rc = negotiate(qmp, path, deadline, error);
	if (rc) {
		lh__qmp_close(qmp);
		return rc;
	}
	*out = qmp;
	return 0;
}

/*
 * QEMU 7.2 that notices late that the client before us was killed closes our connection instead of that
 * one's; so one that ends at once is made again.
 */
int lh__qmp_open(const char *path, int timeout_ms, struct lh_qmp **out, struct lh_error *error)
{
	uint64_t deadline = now_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0);
	const struct timespec nap = { 0, AGAIN_NS };
	unsigned tries = 0;
	int rc;

	if (!strncmp(path, "unix:", 5))
		path += 5;
	while ((rc = open_once(path, deadline, out, error)) == -ECONNRESET && ++tries < TRIES &&
	       now_ms() < deadline)
		nanosleep(&nap, NULL);
	return rc;
}

pid_t lh__qmp_process(const struct lh_qmp *qmp)
{
	return qmp->process;
}

int lh__qmp_fd(const struct lh_qmp *qmp)
{
	return qmp->fd;
}

void lh__qmp_close(struct lh_qmp *qmp)
{
	if (!qmp)
		return;
	if (qmp->fd >= 0)
		close(qmp->fd);
	json_decref(qmp->events);
	free(qmp->bytes);
	free(qmp);
}
