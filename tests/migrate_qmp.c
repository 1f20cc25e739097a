/*
 * migrate_qmp.c - the monitor's client against a monitor that does what it is told: splits lines, mixes
 * events in, sends garbage, too much, nothing, or closes in the middle.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "service/migrate/qmp.h"
#include "tap.h"

#define GREETING "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7}}, \"capabilities\": [\"oob\"]}}\r\n"
#define READY "{\"return\": {}, \"id\": 1}\r\n"

/* One thing that the fake monitor does. */
struct act {
	enum { SAY, SLOWLY, HEAR, TAKE_FD, CLOSE, FLOOD, DEAF, HOLD, PAD } what;
	const char *text; /* SAY, SLOWLY: what; HEAR: what the command has in it */
};

static char path[96];
static struct lh_error error;

/* ---- the monitor ---- */

struct monitor {
	int listener;
	const struct act *act;
	size_t acts;
	bool as_expected;
	pthread_t thread;
	unsigned
		closes; /* connections that are closed at once, before one is not: an x each in a first act */
	long long before; /* number of the first command, less one: what is said counts from 1 */
};

static int listen_at(const char *at)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", at);
	unlink(at);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 1))
		perror(at);
	return fd;
}

/* Numbers of commands in a text become what they are. */
static void number(char *out, size_t size, const char *text, long long before)
{
	const char *id = strstr(text, "\"id\": ");
	size_t n = 0;

	for (; id; text = id + 6 + strspn(id + 6, "0123456789"), id = strstr(text, "\"id\": "))
		n += (size_t)snprintf(out + n, size - n, "%.*s%lld", (int)(id + 6 - text), text,
		                      before + strtoll(id + 6, NULL, 10));
	snprintf(out + n, size - n, "%s", text);
}

static bool say(int fd, const char *text, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = send(fd, text + done, size - done, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

/* One command, with the descriptor that came with it (-1: none). */
static bool hear(int fd, char *text, size_t size, int *with)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	size_t have = 0;
	int depth = 0;

	*with = -1;
	while (have < size - 1) {
		struct iovec part = { text + have, 1 };
		struct msghdr message = { .msg_iov = &part,
			                  .msg_iovlen = 1,
			                  .msg_control = control.bytes,
			                  .msg_controllen = sizeof(control.bytes) };
		struct cmsghdr *header;

		if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) <= 0)
			return false;
		header = CMSG_FIRSTHDR(&message);
		if (header && header->cmsg_type == SCM_RIGHTS)
			memcpy(with, CMSG_DATA(header), sizeof(*with));
		depth += text[have] == '{' ? 1 : text[have] == '}' ? -1 : 0;
		have++;
		if (depth == 0)
			break;
	}
	text[have] = '\0';
	return true;
}

static bool flood(int fd)
{
	static const char event[] =
		"{\"event\": \"NOISE\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n";

	for (unsigned i = 0; i < 20000; i++)
		if (!say(fd, event, sizeof(event) - 1))
			return false;
	return true;
}

/* An answer of 3 MB. */
static bool pad(int fd, const char *with_id)
{
	static char text[3000000];
	char end[4200];

	memset(text, 'x', sizeof(text));
	snprintf(end, sizeof(end), "\", %s}\n", with_id);
	return say(fd, "{\"return\": \"", 12) && say(fd, text, sizeof(text)) && say(fd, end, strlen(end));
}

/* A command is as it should be, and a descriptor comes with it or not. */
static bool heard(struct monitor *monitor, int fd, const struct act *act)
{
	const char *id;
	char text[4096];
	int with;
	bool right = hear(fd, text, sizeof(text), &with) && strstr(text, act->text);

	if (!right)
		printf("# heard %s\n", text);
	right &= act->what == TAKE_FD ? with >= 0 && write(with, "here", 4) == 4 : with < 0;
	if (with >= 0)
		close(with);
	id = strstr(text, "\"id\":");
	if (!monitor->before && id)
		monitor->before = strtoll(id + 5, NULL, 10) - 1;
	return right;
}

static bool slowly(int fd, const char *text)
{
	const struct timespec nap = { 0, 200000 };

	for (const char *c = text; *c; c++) {
		if (!say(fd, c, 1))
			return false;
		nanosleep(&nap, NULL);
	}
	return true;
}

static bool act_out(struct monitor *monitor, int fd, const struct act *act)
{
	struct pollfd gone = { .fd = fd };
	char text[4096];
	int with;

	if (act->text)
		number(text, sizeof(text), act->text, monitor->before);
	switch (act->what) {
	case SAY: return say(fd, text, strlen(text));
	case SLOWLY: return slowly(fd, text);
	case HEAR:
	case TAKE_FD: return heard(monitor, fd, act);
	case FLOOD: return flood(fd);
	case PAD: return pad(fd, text);
	case DEAF: /* until the other side has gone */
		while (hear(fd, text, sizeof(text), &with))
			;
		return true;
	case HOLD: /* the same, and reads nothing */
		while (!poll(&gone, 1, 100))
			;
		return true;
	default: return true;
	}
}

static void *monitor_thread(void *context)
{
	struct monitor *monitor = context;
	int fd = accept4(monitor->listener, NULL, NULL, SOCK_CLOEXEC);

	for (unsigned i = 0; i < monitor->closes && fd >= 0; i++) {
		close(fd);
		fd = accept4(monitor->listener, NULL, NULL, SOCK_CLOEXEC);
	}
	monitor->as_expected = fd >= 0;
	for (size_t i = 0; i < monitor->acts && monitor->as_expected; i++)
		monitor->as_expected = act_out(monitor, fd, &monitor->act[i]);
	shutdown(monitor->listener, SHUT_RDWR); /* who connects again is refused */
	close(fd);
	return NULL;
}

static void begin(struct monitor *monitor, const struct act *act, size_t acts)
{
	*monitor = (struct monitor){ .listener = listen_at(path), .act = act, .acts = acts };
	monitor->closes = acts && act[0].what == CLOSE ? (unsigned)strlen(act[0].text) : 0;
	pthread_create(&monitor->thread, NULL, monitor_thread, monitor);
}

static bool end(struct monitor *monitor)
{
	pthread_join(monitor->thread, NULL);
	close(monitor->listener);
	return monitor->as_expected;
}

#define BEGIN(monitor, ...)                                                                                  \
	const struct act acts[] = { __VA_ARGS__ };                                                           \
	struct monitor monitor;                                                                              \
	begin(&monitor, acts, sizeof(acts) / sizeof(*acts))

/* ---- opening ---- */

static void refused(const char *what, const struct act *act, size_t acts, int wanted)
{
	struct monitor monitor;
	struct lh_qmp *qmp;

	begin(&monitor, act, acts);
	memset(&error, 0, sizeof(error));
	is(lh__qmp_open(path, 300, &qmp, &error), wanted, "%s", what);
	ok(error.code == wanted && error.text[0] && !strchr(error.text, '\n'), "... %s", error.text);
	end(&monitor);
}

static void opening(void)
{
	const struct act silent[] = { { DEAF, NULL } };
	const struct act closes[] = { { CLOSE, "" } };
	const struct act ssh[] = { { SAY, "SSH-2.0-OpenSSH_9.2\r\n" }, { DEAF, NULL } };
	const struct act other[] = { { SAY, "{\"greeting\": 1}\n" }, { DEAF, NULL } };
	const struct act half[] = { { SAY, "{\"QMP\": {\"ver" } };
	const struct act list[] = { { SAY, "[1]" }, { DEAF, NULL } };
	const struct act broken[] = { { SAY, "{\"QMP\": {,}}" }, { DEAF, NULL } };
	const struct act gone[] = { { SAY, GREETING }, { HEAR, "qmp_capabilities" } };
	const struct act no[] = {
		{ SAY, GREETING },
		{ HEAR, "qmp_capabilities" },
		{ SAY, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\nway\"}, \"id\": 1}" },
		{ DEAF, NULL }
	};
	struct lh_qmp *qmp;
	char longer[200];

	refused("a monitor that does not greet", silent, 1, -EBUSY);
	refused("one that closes", closes, 1, -ECONNREFUSED);
	refused("something else", ssh, 2, -EPROTO);
	refused("another greeting", other, 2, -EPROTO);
	refused("half a greeting", half, 1, -ECONNREFUSED);
	refused("a list", list, 2, -EPROTO);
	refused("a greeting that is no JSON", broken, 2, -EPROTO);
	refused("one that goes while it is spoken to", gone, 2, -ECONNREFUSED);
	refused("one that refuses", no, 4, -EREMOTEIO);
	unlink(path);
	is(lh__qmp_open(path, 300, &qmp, &error), -ENOENT, "no socket");
	close(listen_at(path));
	is(lh__qmp_open(path, 300, &qmp, &error), -ECONNREFUSED, "nobody listens");
	memset(longer, 'x', sizeof(longer));
	longer[199] = '\0';
	is(lh__qmp_open(longer, 300, &qmp, &error), -ENAMETOOLONG, "a path that is too long");
}

/* Its queue of who waits is full, so a connection is not even made. */
static void full(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = listen_at(path), waiting[8];
	struct lh_qmp *qmp;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	for (size_t i = 0; i < 8; i++) {
		waiting[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)!connect(waiting[i], (struct sockaddr *)&address, sizeof(address));
	}
	is(lh__qmp_open(path, 300, &qmp, &error), -EBUSY, "a monitor for which others queue");
	for (size_t i = 0; i < 8; i++)
		close(waiting[i]);
	close(listener);
}

/* ---- commands and events ---- */

static const char *event_of(struct lh_qmp *qmp, int timeout_ms)
{
	static char name[64];
	json_t *event;
	int rc = lh__qmp_event(qmp, timeout_ms, &event, &error);

	if (rc <= 0)
		return rc ? "error" : "none";
	snprintf(name, sizeof(name), "%s", json_string_value(json_object_get(event, "event")));
	json_decref(event);
	return name;
}

static bool is_event(struct lh_qmp *qmp, int timeout_ms, const char *wanted)
{
	const char *name = event_of(qmp, timeout_ms);

	if (strcmp(name, wanted) != 0)
		printf("# event %s\n", name);
	return !strcmp(name, wanted);
}

static void talking(void)
{
	char full_path[112];
	struct lh_qmp *qmp = NULL;
	json_t *result;
	char here[4];
	int fd = open(path, O_RDWR | O_CLOEXEC | O_TMPFILE, 0600);

	if (fd < 0)
		fd = open("/dev/shm", O_RDWR | O_CLOEXEC | O_TMPFILE, 0600);
	BEGIN(monitor, { SAY, GREETING }, { HEAR, "\"qmp_capabilities\"" }, { SAY, READY },
	      { HEAR, "\"query-status\"" },
	      { SAY, "{\"event\": \"STOP\"}\r\n{\"event\": \"A{\\\"}\", \"data\": [{}, \"}\"]}\r\n{\"ret" },
	      { SLOWLY, "urn\": {\"status\": \"pau\\\"}sed\"},\n \"id\": 2}\r\n  {\"event\": \"RES" },
	      { SAY, "UME\"}" }, { TAKE_FD, "\"fdname\":\"x\"" }, { SAY, "{\"id\": 3, \"return\": {}}" },
	      { HEAR, "nonsense" },
	      { SAY, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nonsense has not "
	             "been found\"}, "
	             "\"id\": 4}" },
	      { HEAR, "query-cpus-fast" }, { PAD, "\"id\": 5" }, { HEAR, "last" }, { FLOOD, NULL },
	      { SAY, "{\"return\": [], \"id\": 6}" });

	snprintf(full_path, sizeof(full_path), "unix:%s", path);
	is(lh__qmp_open(full_path, 5000, &qmp, &error), 0, "a monitor is opened");
	is(lh__qmp_process(qmp), getpid(), "... and who listens is known");
	ok(lh__qmp_fd(qmp) > 2 && fcntl(lh__qmp_fd(qmp), F_GETFD) == FD_CLOEXEC, "... and is not inherited");
	ok(is_event(qmp, 0, "none"), "no event yet");
	is(lh__qmp_command(qmp, "query-status", NULL, -1, &result, &error), 0,
	   "a command, its answer in parts");
	ok(!strcmp(json_string_value(json_object_get(result, "status")), "pau\"}sed"),
	   "... is what was sent");
	json_decref(result);
	ok(is_event(qmp, 0, "STOP") && is_event(qmp, 0, "A{\"}"),
	   "events that came before the answer are in order");
	ok(is_event(qmp, 5000, "RESUME"), "... and the one that came behind");
	is(lh__qmp_command(qmp, "getfd", json_pack("{s:s}", "fdname", "x"), fd, NULL, &error), 0,
	   "a descriptor goes along");
	ok(pread(fd, here, 4, 0) == 4 && !memcmp(here, "here", 4), "... the right one");
	is(lh__qmp_command(qmp, "nonsense", NULL, -1, NULL, &error), -EREMOTEIO, "a command that is refused");
	ok(strstr(error.text, "has not been found") != NULL, "... with QEMU's words");
	is(lh__qmp_command(qmp, "query-cpus-fast", NULL, -1, &result, &error), 0, "an answer of megabytes");
	is(json_string_length(result), 3000000, "... is whole");
	json_decref(result);
	is(lh__qmp_command(qmp, "last", NULL, -1, NULL, &error), 0, "a command behind thousands of events");
	ok(is_event(qmp, 0, "NOISE"), "... which are kept, as many as make sense");
	while (is_event(qmp, 0, "NOISE"))
		;
	is(lh__qmp_command(qmp, "one more", NULL, -1, NULL, &error), -ECONNRESET, "it has gone");
	ok(!strcmp(event_of(qmp, 1000), "error") && error.code == -ECONNRESET, "... and stays so");
	ok(end(&monitor), "the monitor has heard what it should");
	lh__qmp_close(qmp);
	close(fd);
}

/*
 * What another client has left unread comes first, whole or not; and what it still is to be told comes later.
 */
static void left_over(const char *what, const char *before)
{
	struct lh_qmp *qmp = NULL;
	json_t *result;

	BEGIN(monitor, { SAY, before }, { SLOWLY, GREETING }, { HEAR, "qmp_capabilities" },
	      { SAY, "{\"return\": {}, \"id\": 4711}" }, { SAY, READY }, { HEAR, "command" },
	      { SAY, "{\"return\": 5, \"id\": 2}" }, { DEAF, NULL });
	is(lh__qmp_open(path, 5000, &qmp, &error), 0, "a monitor that has %s left over", what);
	if (qmp && ok(!lh__qmp_command(qmp, "command", NULL, -1, &result, &error), "... answers")) {
		is(json_integer_value(result), 5, "... us");
		json_decref(result);
	}
	lh__qmp_close(qmp);
	ok(end(&monitor), "... and has heard what it should");
}

static void closing(void)
{
	struct lh_qmp *qmp = NULL;

	BEGIN(monitor, { CLOSE, "xx" }, { SAY, GREETING }, { HEAR, "qmp_capabilities" }, { SAY, READY },
	      { DEAF, NULL });
	is(lh__qmp_open(path, 5000, &qmp, &error), 0, "a monitor that closes twice, and then does not");
	lh__qmp_close(qmp);
	ok(end(&monitor), "... has heard what it should");
}

static void late(void)
{
	struct lh_qmp *qmp = NULL;
	json_t *result;

	BEGIN(monitor, { SAY, GREETING }, { HEAR, "qmp_capabilities" }, { SAY, READY }, { HEAR, "slow" },
	      { HEAR, "quick" }, { SAY, "{\"return\": 1, \"id\": 2}{\"return\": 2, \"id\": 3}" },
	      { DEAF, NULL });
	is(lh__qmp_open(path, 5000, &qmp, &error), 0, "a monitor that is slow");
	lh__qmp_limit(qmp, 50);
	is(lh__qmp_command(qmp, "slow", NULL, -1, NULL, &error), -ETIMEDOUT, "no answer in time");
	lh__qmp_limit(qmp, 0);
	is(lh__qmp_command(qmp, "quick", NULL, -1, &result, &error), 0, "the next command gets");
	is(json_integer_value(result), 2, "... its own answer, and not that one's");
	json_decref(result);
	ok(is_event(qmp, 20, "none"), "no event in time");
	lh__qmp_close(qmp);
	ok(end(&monitor), "the monitor has heard what it should");
}

static void broken(const char *what, const char *text, int wanted)
{
	struct lh_qmp *qmp = NULL;

	BEGIN(monitor, { SAY, GREETING }, { HEAR, "qmp_capabilities" }, { SAY, READY }, { HEAR, "command" },
	      { SAY, text });
	if (lh__qmp_open(path, 5000, &qmp, &error))
		return (void)ok(0, "%s: open", what);
	is(lh__qmp_command(qmp, "command", NULL, -1, NULL, &error), wanted, "%s", what);
	is(lh__qmp_command(qmp, "command", NULL, -1, NULL, &error), wanted,
	   "... and nothing else works any more");
	lh__qmp_close(qmp);
	end(&monitor);
}

/* A command larger than the socket takes, to one that does not read all of it. */
static void too_much(const char *what, int does, int limit_ms, int wanted)
{
	struct lh_qmp *qmp = NULL;
	char *big = malloc(4000001);

	BEGIN(monitor, { SAY, GREETING }, { HEAR, "qmp_capabilities" }, { SAY, READY }, { does, "wait" });
	memset(big, 'x', 4000000);
	big[4000000] = '\0';
	if (!lh__qmp_open(path, 5000, &qmp, &error)) {
		lh__qmp_limit(qmp, limit_ms);
		is(lh__qmp_command(qmp, "wait", json_pack("{s:s}", "x", big), -1, NULL, &error), wanted, "%s",
		   what);
		is(lh__qmp_command(qmp, "wait", NULL, -1, NULL, &error), wanted,
		   "... and nothing else works any more");
	}
	lh__qmp_close(qmp);
	free(big);
	end(&monitor);
}

int main(void)
{
	signal(SIGPIPE, SIG_DFL);
	snprintf(path, sizeof(path), "/dev/shm/lh-qmp-%d", (int)getpid());
	opening();
	full();
	talking();
	closing();
	late();
	left_over("an answer", "{\"return\": {\"a\": 1}, \"id\": 12}\r\n");
	left_over("the end of one", "s\": {\"a\": 1}, \"id\": 12}\r\n");
	left_over("half a text", "{\"QM\", \"QMP {\"}\r\n");
	left_over("the beginning of one", "{\"return\": {");
	broken("garbage", "garbage", -EPROTO);
	broken("no JSON", "{\"return\": ]}", -EPROTO);
	broken("an object that is nothing", "{\"id\": 2}", -EPROTO);
	broken("an answer without a number", "{\"return\": {}}", -EPROTO);
	broken("half an answer", "{\"return\": {", -ECONNRESET);
	broken("nothing", "", -ECONNRESET);
	too_much("one that goes while a command is sent", HEAR, 0, -ECONNRESET);
	too_much("one that does not read", HOLD, 50, -ETIMEDOUT);
	unlink(path);
	return done();
}
