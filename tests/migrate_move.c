/* timeout: 150 */
/*
 * migrate_move.c - sender and receiver, each a process, between two real QEMUs, with a go-between that sees
 * every message: it breaks all connections at one of them, or kills one of the two there. Whatever it does,
 * the guest runs on one side in the end, and it is the side that the message decides.
 *
 * The guest is a boot sector (qemu_machine.h); one that is paused keeps its memory, which is then compared
 * page by page.
 */
#include <sys/mman.h>

#include "qemu_machine.h"
#include "service/migrate/receive.h"
#include "service/migrate/send_inside.h"
#include "tap.h"

enum action { NOTHING, BREAK, KILL_SENDER, KILL_RECEIVER, CANCEL, DISCARD, SHORTEN, LIE };

/* What the go-between does at a message: the nth of its type in that direction. */
struct event {
	bool from_sender;
	enum lh_move_type type;
	unsigned nth;
	bool forward; /* the message still arrives */
	enum action action;
};

struct pair {
	struct qemu_machine source, destination;
	char uffd[128], inner[128], outer[128]; /* sockets: handshake, receiver, go-between */
	struct shared {
		pid_t sender, receiver;
		unsigned happened;
		int cancel[2];
		unsigned used;
		char said[4096]; /* by whoever failed */
	} * shared;
	pid_t between;
	bool postcopy;
};

/* ---- the go-between ---- */

#define CONNECTIONS 16
#define ROOM (LH_MOVE_MESSAGE_MAX + 64)

struct direction {
	int from, to;
	size_t have;
	bool greeted;
	uint8_t *bytes;
};

struct between {
	struct pair *pair;
	const struct event *event;
	unsigned seen;
	struct direction direction[2 * CONNECTIONS]; /* even: from the sender */
};

static int unix_socket(const char *path, bool listens)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (listens)
		unlink(path);
	if (listens ? bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 16)
	            : connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void hang_up(struct direction *direction)
{
	for (unsigned i = 0; i < 2; i++)
		if (direction[i].from >= 0)
			close(direction[i].from);
	for (unsigned i = 0; i < 2; i++) {
		direction[i].from = direction[i].to = -1;
		direction[i].have = 0;
		direction[i].greeted = false;
	}
}

static void take_in(struct between *between, int listener)
{
	int sender = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	int receiver = unix_socket(between->pair->inner, false);

	for (unsigned i = 0; i < 2 * CONNECTIONS && sender >= 0 && receiver >= 0; i += 2) {
		struct direction *one = &between->direction[i];

		if (one->from >= 0)
			continue;
		one[0].from = one[1].to = sender;
		one[1].from = one[0].to = receiver;
		return;
	}
	close(sender);
	close(receiver);
}

/* As a balloon does: half of the memory of a guest that stands still, but for what its devices look at. */
static void discard(const struct pair *pair)
{
	int fd = open(pair->source.memory, O_RDWR | O_CLOEXEC);

	for (off_t at = 2 << 20; at < (off_t)QEMU_MEGABYTES << 20; at += 192 << 10)
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 96 << 10) != 0)
			_exit(3);
	close(fd);
}

/* The source's memory cannot be read: whoever looks beyond the file's end gets nothing. */
static void shorten(const struct pair *pair)
{
	if (truncate(pair->source.memory, (off_t)QEMU_MEGABYTES << 19) != 0)
		_exit(3);
}

/* In place of a message another, which keeps the rules of the wire but no others. */
static void lie(const struct between *between, const struct direction *one)
{
	bool done = between->event->type == LH_MOVE_DONE;
	const char *body = done ? "[1]" : "\x1b[2Jhello\n";
	struct lh_move_message message = { .type = done ? LH_MOVE_DONE : LH_MOVE_FAILED,
		                           .body = (const uint8_t *)body,
		                           .size = strlen(body) };
	uint8_t bytes[LH_MOVE_HEADER + 32];

	memcpy(&message.sequence, one->bytes + 8, sizeof(message.sequence));
	lh__move_header_write(bytes, &message);
	memcpy(bytes + LH_MOVE_HEADER, body, message.size);
	if (send(one->to, bytes, LH_MOVE_HEADER + message.size, MSG_NOSIGNAL) < 0)
		_exit(3);
}

static void act(struct between *between)
{
	struct shared *shared = between->pair->shared;

	shared->happened++;
	switch (between->event->action) {
	case KILL_SENDER: kill(shared->sender, SIGKILL); break;
	case KILL_RECEIVER: kill(shared->receiver, SIGKILL); break;
	case CANCEL:
		if (write(shared->cancel[1], "c", 1) != 1)
			_exit(3);
		break;
	default: break;
	}
	if (between->event->action == BREAK)
		for (unsigned i = 0; i < 2 * CONNECTIONS; i += 2)
			hang_up(&between->direction[i]);
}

static bool is_event(struct between *between, unsigned i, const uint8_t *message)
{
	const struct event *event = between->event;

	return event->action != NOTHING && event->from_sender == (i % 2 == 0) && message[4] == event->type &&
	       ++between->seen == event->nth;
}

static bool forward(const struct direction *one, size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t n = send(one->to, one->bytes + at, size - at, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		at += (size_t)n;
	}
	return true;
}

/* One whole message of those that have come; false: there is none, or the connection has been ended. */
static bool pass(struct between *between, unsigned i)
{
	struct direction *one = &between->direction[i];
	uint32_t size = 0;
	bool event;

	if (one->from < 0 || one->have < 4)
		return false;
	memcpy(&size, one->bytes, sizeof(size));
	size = one->greeted ? size : LH_MOVE_HELLO;
	if (one->have < size || size < LH_MOVE_HEADER || size > ROOM)
		return false;
	event = one->greeted && is_event(between, i, one->bytes);
	if (event && between->event->action == DISCARD)
		discard(between->pair); /* before it arrives */
	if (event && between->event->action == SHORTEN)
		shorten(between->pair);
	if (event && between->event->action == LIE)
		lie(between, one);
	if ((!event || between->event->forward) && !forward(one, size)) {
		hang_up(&between->direction[i & ~1u]);
		return false;
	}
	one->greeted = true;
	one->have -= size;
	memmove(one->bytes, one->bytes + size, one->have);
	if (event)
		act(between);
	return one->from >= 0;
}

static void read_some(struct between *between, unsigned i)
{
	struct direction *one = &between->direction[i];
	ssize_t n = recv(one->from, one->bytes + one->have, ROOM - one->have, MSG_DONTWAIT);

	if (n <= 0) {
		hang_up(&between->direction[i & ~1u]);
		return;
	}
	one->have += (size_t)n;
	while (pass(between, i))
		;
}

static void go_between(struct pair *pair, const struct event *event, int listener)
{
	static struct between between;
	struct pollfd poll_for[2 * CONNECTIONS + 1];

	between.pair = pair;
	between.event = event;
	for (unsigned i = 0; i < 2 * CONNECTIONS; i++) {
		between.direction[i].from = -1;
		between.direction[i].bytes = malloc(ROOM);
	}
	for (;;) {
		for (unsigned i = 0; i < 2 * CONNECTIONS; i++)
			poll_for[i] = (struct pollfd){ .fd = between.direction[i].from, .events = POLLIN };
		poll_for[2 * CONNECTIONS] = (struct pollfd){ .fd = listener, .events = POLLIN };
		if (poll(poll_for, 2 * CONNECTIONS + 1, -1) <= 0)
			continue;
		for (unsigned i = 0; i < 2 * CONNECTIONS; i++)
			if (poll_for[i].revents && between.direction[i].from == poll_for[i].fd)
				read_some(&between, i);
		if (poll_for[2 * CONNECTIONS].revents)
			take_in(&between, listener);
	}
}

/* ---- the two sides, a process each ---- */

static pid_t child(void)
{
	pid_t parent = getpid(), pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(9);
	}
	return pid;
}

static void say(void *context, const char *line)
{
	struct shared *shared = ((struct pair *)context)->shared;
	char text[600];
	unsigned size = (unsigned)snprintf(text, sizeof(text), "# %.500s\n", line);
	unsigned at = __atomic_fetch_add(&shared->used, size, __ATOMIC_RELAXED);

	if (at + size < sizeof(shared->said))
		memcpy(shared->said + at, text, size);
}

static int outcome(struct pair *pair, const char *who, int result, json_t *stats,
                   const struct lh_error *error)
{
	char line[300];

	snprintf(line, sizeof(line), "%s: %d %s", who, result, result < 0 ? error->text : "");
	say(pair, line);
	json_decref(stats);
	return result < 0 ? -result & 127 : 0;
}

static int run_sender(struct pair *pair)
{
	struct lh_channel_target target;
	struct lh_send_options options = { .monitor = pair->source.monitor,
		                           .target = &target,
		                           .postcopy = pair->postcopy,
		                           .parallel = 1,
		                           .downtime_ms = 30,
		                           .cancel = pair->shared->cancel[0],
		                           .say = say,
		                           .context = pair };
	struct lh_error error = { 0, "" };
	json_t *stats = NULL;
	char url[160];
	int result;

	snprintf(url, sizeof(url), "unix:%s", pair->outer);
	result = lh__channel_target(url, NULL, &target, &error);
	if (result == 0)
		result = lh__send(&options, &stats, &error);
	return outcome(pair, "sender", result, stats, &error);
}

static int run_receiver(struct pair *pair)
{
	char url[160];
	struct lh_receive_options options = { .monitor = pair->destination.monitor,
		                              .handover = pair->uffd,
		                              .listen = url,
		                              .policy = LH_ORDER_LINEAR,
		                              .cancel = -1,
		                              .say = say,
		                              .context = pair };
	struct lh_error error = { 0, "" };
	json_t *stats = NULL;
	int result;

	snprintf(url, sizeof(url), "unix:%s", pair->inner);
	result = lh__receive(&options, &stats, &error);
	return outcome(pair, "receiver", result, stats, &error);
}

static void start(struct pair *pair, pid_t *pid, int (*run)(struct pair *pair))
{
	pid_t one = child();

	if (one == 0)
		_exit(run(pair));
	*pid = one; /* in memory that all share: the parent's word alone */
}

static bool exists(const char *path, unsigned tries)
{
	while (access(path, F_OK) != 0 && tries-- > 0)
		qemu_nap(5);
	return access(path, F_OK) == 0;
}

/* As a supervisor does: one that is killed is started again, or is over. How both have ended. */
static void supervise(struct pair *pair, int *sender, int *receiver)
{
	struct shared *shared = pair->shared;
	struct lh_error error;
	int status;

	*sender = *receiver = -1;
	for (unsigned turns = 0; (*sender < 0 || *receiver < 0) && turns < 10000; turns++) {
		if (*sender < 0 && waitpid(shared->sender, &status, WNOHANG) == shared->sender) {
			if (WIFEXITED(status))
				*sender = WEXITSTATUS(status);
			else if (lh__send_recover(pair->source.monitor, &error) == 1)
				start(pair, &shared->sender, run_sender);
			else
				*sender = 200;
		}
		if (*receiver < 0 && waitpid(shared->receiver, &status, WNOHANG) == shared->receiver) {
			if (WIFEXITED(status))
				*receiver = WEXITSTATUS(status);
			else if (*sender < 0 || *sender == 0)
				start(pair, &shared->receiver, run_receiver);
			else
				*receiver = 200;
		}
		/* Started again for nobody. */
		if (*sender > 0 && *receiver < 0 && shared->happened && turns % 1000 == 999)
			kill(shared->receiver, SIGKILL);
		qemu_nap(3);
	}
}

static void end_process(pid_t *pid)
{
	if (*pid <= 0)
		return;
	kill(*pid, SIGKILL);
	waitpid(*pid, NULL, 0);
	*pid = 0;
}

/* ---- machines ---- */

static bool open_destination(struct pair *pair)
{
	const char *build = getenv("LINEHOME_BUILD");
	char linehome[512];
	char *const before[] = { linehome,           (char *)"incoming",       (char *)"--uffd", pair->uffd,
		                 (char *)"--memory", pair->destination.memory, (char *)"--",     NULL };
	char *const extra[] = { (char *)"-incoming", (char *)"defer", NULL };

	snprintf(linehome, sizeof(linehome), "%s/linehome", build ? build : "build");
	qemu_name(&pair->destination, "m_move-b");
	qemu_boots(&pair->destination, qemu_guest_counts, sizeof(qemu_guest_counts));
	snprintf(pair->uffd, sizeof(pair->uffd), "%s.uffd", pair->destination.folder);
	return qemu_start(&pair->destination, before, NULL, extra);
}

static bool open_source(struct pair *pair)
{
	qemu_name(&pair->source, "m_move-a");
	qemu_boots(&pair->source, qemu_guest_counts, sizeof(qemu_guest_counts));
	snprintf(pair->inner, sizeof(pair->inner), "%s.inner", pair->source.folder);
	snprintf(pair->outer, sizeof(pair->outer), "%s.outer", pair->source.folder);
	return qemu_start(&pair->source, NULL, NULL, NULL) && qemu_goes_on(&pair->source);
}

static void remove_file(const char *path, const char *end)
{
	char name[300];

	snprintf(name, sizeof(name), "%s%s", path, end);
	unlink(name);
}

static void close_pair(struct pair *pair)
{
	remove_file(pair->destination.memory, ".linehome");
	remove_file(pair->source.memory, ".linehome-source");
	remove_file(pair->inner, "");
	remove_file(pair->outer, "");
	remove_file(pair->uffd, "");
	qemu_end(&pair->source);
	qemu_end(&pair->destination);
}

static bool left_over(const struct pair *pair)
{
	char note[128], state[128];

	snprintf(note, sizeof(note), "%s.linehome-source", pair->source.memory);
	snprintf(state, sizeof(state), "%s.linehome", pair->destination.memory);
	return access(note, F_OK) == 0 || access(state, F_OK) == 0;
}

static void open_between(struct pair *pair, const struct event *event)
{
	int listener = unix_socket(pair->outer, true);

	memset(pair->shared->said, 0, sizeof(pair->shared->said));
	pair->shared->used = 0;
	pair->shared->happened = 0;
	if (pipe2(pair->shared->cancel, O_CLOEXEC | O_NONBLOCK) != 0)
		pair->shared->cancel[0] = -1;
	unlink(pair->inner);
	start(pair, &pair->shared->receiver, run_receiver);
	exists(pair->inner, 2000);
	pair->between = child();
	if (pair->between == 0)
		go_between(pair, event, listener);
	close(listener);
}

static void close_between(struct pair *pair)
{
	end_process(&pair->between);
	close(pair->shared->cancel[0]);
	close(pair->shared->cancel[1]);
}

/* One move with an event in it. */
static void move(struct pair *pair, const struct event *event, int *sender, int *receiver)
{
	open_between(pair, event);
	start(pair, &pair->shared->sender, run_sender);
	supervise(pair, sender, receiver);
	if (*sender < 0)
		end_process(&pair->shared->sender);
	if (*receiver < 0)
		end_process(&pair->shared->receiver);
	close_between(pair);
}

static bool is_status(const struct qemu_machine *machine, const char *wanted)
{
	struct lh_machine of;
	struct lh_error error = { 0, "" };
	char status[32] = "";

	if (lh__machine_open(machine->monitor, &of, &error) < 0) {
		printf("# %s\n", error.text);
		return false;
	}
	if (lh__machine_status(&of, status, &error) < 0)
		status[0] = '\0';
	lh__machine_close(&of);
	if (strcmp(status, wanted) != 0)
		printf("# status %s, wanted %s %s\n", status, wanted, error.text);
	return strcmp(status, wanted) == 0;
}

/* ---- the cases ---- */

static bool same_memory(const struct pair *pair)
{
	int a = open(pair->source.memory, O_RDONLY | O_CLOEXEC);
	int b = open(pair->destination.memory, O_RDONLY | O_CLOEXEC);
	uint8_t one[LH_PAGE_SIZE], other[LH_PAGE_SIZE];
	off_t at, different = -1;

	for (at = 0; at < (off_t)QEMU_MEGABYTES << 20 && different < 0; at += LH_PAGE_SIZE)
		if (pread(a, one, sizeof(one), at) != sizeof(one) ||
		    pread(b, other, sizeof(other), at) != sizeof(other) ||
		    memcmp(one, other, sizeof(one)) != 0)
			different = at;
	if (different >= 0)
		printf("# page %ld differs\n", (long)(different / LH_PAGE_SIZE));
	close(a);
	close(b);
	return different < 0;
}

/* Bytes that nobody expects, in many places of the memory of a guest that stands still. */
static void scribble(const struct pair *pair)
{
	int fd = open(pair->source.memory, O_WRONLY | O_CLOEXEC);
	uint64_t word = 88172645463325252u;

	for (unsigned i = 0; i < 3000; i++) {
		uint64_t bytes[32];

		for (unsigned k = 0; k < 32; k++) {
			word ^= word << 13;
			word ^= word >> 7;
			word ^= word << 17;
			bytes[k] = word;
		}
		if (pwrite(fd, bytes, sizeof(bytes), (off_t)(word % ((QEMU_MEGABYTES << 20) / 64 - 4)) * 64) <
		    0)
			perror("pwrite");
	}
	close(fd);
}

static bool pause_source(const struct pair *pair)
{
	struct lh_machine machine;
	struct lh_error error;
	bool paused;

	if (lh__machine_open(pair->source.monitor, &machine, &error) < 0)
		return false;
	paused = lh__qmp_command(machine.qmp, "stop", NULL, -1, NULL, &error) == 0;
	lh__machine_close(&machine);
	return paused;
}

static void test_paused(struct pair *pair, bool postcopy)
{
	const struct event nothing = { .action = NOTHING };
	int sender, receiver;

	pair->postcopy = postcopy;
	if (!ok(open_source(pair) && open_destination(pair), "two machines")) {
		close_pair(pair);
		return;
	}
	pause_source(pair);
	scribble(pair);
	move(pair, &nothing, &sender, &receiver);
	ok(sender == 0 && receiver == 0, "a paused machine is moved, %s", postcopy ? "postcopy" : "precopy");
	if (sender || receiver)
		printf("# sender %d, receiver %d\n%s", sender, receiver, pair->shared->said);
	ok(same_memory(pair), "and has all of its memory");
	ok(is_status(&pair->destination, "paused") && is_status(&pair->source, "postmigrate"),
	   "and still is paused");
	ok(!left_over(pair), "nothing is left behind");
	close_pair(pair);
}

/* What the receiver has already is given away at the source: it is zero there and here. */
static void test_discarded(struct pair *pair)
{
	const struct event event = { false, LH_MOVE_ROUND, 1, true, DISCARD };
	int sender, receiver;

	pair->postcopy = false;
	if (!ok(open_source(pair) && open_destination(pair), "two machines")) {
		close_pair(pair);
		return;
	}
	pause_source(pair);
	scribble(pair);
	move(pair, &event, &sender, &receiver);
	ok(sender == 0 && receiver == 0 && pair->shared->happened == 1,
	   "of a paused machine half the memory is given away after it was copied");
	if (sender || receiver)
		printf("%s", pair->shared->said);
	ok(same_memory(pair), "and it arrives as zero");
	close_pair(pair);
}

/* Both sides are told why, in words; the guest is where it was, and runs if it did. */
static void test_unreadable(struct pair *pair)
{
	const struct event before = { false, LH_MOVE_ASK, 100, true, SHORTEN };
	const struct event after = { false, LH_MOVE_GO, 1, true, SHORTEN };
	int sender, receiver;

	for (unsigned i = 0; i < 2; i++) {
		pair->postcopy = i == 1;
		if (!ok(open_source(pair) && open_destination(pair), "two machines"))
			break;
		pause_source(pair);
		scribble(pair);
		move(pair, i ? &after : &before, &sender, &receiver);
		ok(sender == EIO && receiver != 0, "the source's memory cannot be read, %s GO",
		   i ? "after" : "before");
		ok(strstr(pair->shared->said, i ? "the sender fails: page" : "the sender gives up: page") &&
		           strstr(pair->shared->said, i ? "the guest waits" : "the guest is here"),
		   "which both sides say");
		printf("%s", pair->shared->said);
		(void)!truncate(pair->source.memory, (off_t)QEMU_MEGABYTES << 20);
		ok(is_status(&pair->source, i ? "postmigrate" : "paused"), "and the guest is where it was");
		close_pair(pair);
	}
	close_pair(pair);
}

/* Of a peer that is not what it should be, nothing reaches the terminal, and no guest's memory is lost. */
static void test_lies(struct pair *pair)
{
	const struct event refusal = { false, LH_MOVE_PLAN, 1, false, LIE };
	const struct event end = { false, LH_MOVE_DONE, 1, false, LIE };
	int sender, receiver;

	pair->postcopy = false;
	if (!ok(open_source(pair) && open_destination(pair), "two machines"))
		return;
	move(pair, &refusal, &sender, &receiver);
	ok(sender == ECANCELED && !strchr(pair->shared->said, '\x1b') &&
	           strstr(pair->shared->said, "refuses: its reason"),
	   "a reason that is not fit to be printed");
	printf("%s", pair->shared->said);
	move(pair, &end, &sender, &receiver);
	ok(sender == 0 && receiver == 0 && strstr(pair->shared->said, "broke"),
	   "a DONE that is none is not taken for one");
	printf("%s", pair->shared->said);
	close_pair(pair);
}

static const char *action_word(enum action action)
{
	static const char *const word[] = {
		"nothing",   "connections break", "the sender is killed", "the receiver is killed",
		"cancelled", "half is discarded"
	};

	return word[action];
}

static const char *type_word(enum lh_move_type type)
{
	static const char *const word[] = {
		[LH_MOVE_ASK] = "ASK",       [LH_MOVE_GIVE] = "GIVE",     [LH_MOVE_PLAN] = "PLAN",
		[LH_MOVE_PAGES] = "PAGES",   [LH_MOVE_ROUND] = "ROUND",   [LH_MOVE_STOP] = "STOP",
		[LH_MOVE_DEVICE] = "DEVICE", [LH_MOVE_GO] = "GO",         [LH_MOVE_RUNS] = "RUNS",
		[LH_MOVE_DONE] = "DONE",     [LH_MOVE_STATUS] = "STATUS",
	};

	return word[type];
}

/* Whether the guest runs where it should, and only there. */
static bool runs_there(const struct pair *pair, bool moved)
{
	const struct qemu_machine *here = moved ? &pair->destination : &pair->source;

	return qemu_goes_on(here) && is_status(here, "running") &&
	       (!moved || (is_status(&pair->source, "postmigrate") && qemu_stands_still(&pair->source)));
}

static void test_event(struct pair *pair, const struct event *event, bool moves)
{
	int sender, receiver;
	bool right;

	if ((pair->source.pid == 0 && !open_source(pair)) ||
	    (pair->destination.pid == 0 && !open_destination(pair))) {
		ok(false, "two machines");
		return;
	}
	move(pair, event, &sender, &receiver);
	right = runs_there(pair, moves);
	if (!ok(right && pair->shared->happened && (moves ? sender == 0 && receiver == 0 : sender > 0),
	        "%s %s %s%s: the guest runs at its %s", action_word(event->action),
	        event->forward ? "after" : "at", event->from_sender ? "the sender's " : "the receiver's ",
	        type_word(event->type), moves ? "destination" : "source"))
		printf("# sender %d, receiver %d, happened %u\n%s", sender, receiver, pair->shared->happened,
		       pair->shared->said);
	if (moves || !right)
		close_pair(pair);
}

static void test_events(struct pair *pair)
{
	/* What is decided by GO's arrival and its answer. */
	static const struct {
		struct event event;
		bool postcopy, moves;
	} at[] = {
		{ { true, LH_MOVE_PLAN, 1, false, BREAK }, false, false },
		{ { false, LH_MOVE_PLAN, 1, false, KILL_RECEIVER }, false, false },
		{ { true, LH_MOVE_PAGES, 1, true, KILL_SENDER }, false, false },
		{ { false, LH_MOVE_ASK, 100, true, BREAK }, false, false },
		{ { true, LH_MOVE_GIVE, 100, false, KILL_RECEIVER }, false, false },
		{ { true, LH_MOVE_ROUND, 1, true, CANCEL }, false, false },
		{ { false, LH_MOVE_ROUND, 1, false, BREAK }, false, false },
		/* Lost, since GO may be on its way already. */
		{ { true, LH_MOVE_STOP, 1, false, KILL_SENDER }, false, false },
		{ { true, LH_MOVE_STOP, 1, false, CANCEL }, false, false },
		{ { true, LH_MOVE_DEVICE, 1, false, KILL_RECEIVER }, true, false },
		{ { true, LH_MOVE_GO, 1, false, BREAK }, true, false },
		{ { true, LH_MOVE_GO, 1, false, KILL_SENDER }, false, false },
		{ { true, LH_MOVE_GO, 1, false, KILL_RECEIVER }, true, false },
		{ { false, LH_MOVE_GO, 1, false, BREAK }, true, true },
		{ { false, LH_MOVE_GO, 1, false, KILL_SENDER }, false, true },
		{ { false, LH_MOVE_GO, 1, true, KILL_RECEIVER }, true, true },
		{ { true, LH_MOVE_GIVE, 40, false, KILL_RECEIVER }, true, true },
		{ { true, LH_MOVE_GIVE, 40, true, KILL_SENDER }, true, true },
		{ { false, LH_MOVE_RUNS, 1, false, BREAK }, false, true },
		{ { false, LH_MOVE_DONE, 1, false, BREAK }, true, true },
		{ { false, LH_MOVE_DONE, 1, false, KILL_RECEIVER }, true, true },
	};

	for (size_t i = 0; i < sizeof(at) / sizeof(*at); i++) {
		pair->postcopy = at[i].postcopy;
		test_event(pair, &at[i].event, at[i].moves);
	}
	close_pair(pair);
}

/* ---- when rounds are enough ---- */

static void test_enough(void)
{
	const struct lh_send_round slow[] = { { 100000, 1000000000 }, { 20000, 200000000 } };
	const struct lh_send_round stuck[] = { { 100000, 1000000000 },
		                               { 20000, 200000000 },
		                               { 19000, 190000000 } };
	const struct lh_send_round few[] = { { 100000, 1000000000 }, { 10, 5000000 } };
	struct lh_send_round many[LH_SEND_ROUNDS_MAX];

	ok(!lh__send_enough(slow, 0, 1, 30), "no round is not enough");
	ok(lh__send_enough(slow, 1, 10, 30), "a few pages are");
	ok(!lh__send_enough(slow, 2, 10000, 30), "half of what there was last, which takes too long, is not");
	ok(lh__send_enough(slow, 2, 700, 30), "what takes a part of the limit is");
	ok(!lh__send_enough(slow, 2, 2900, 30), "what just fits is not while it gets less");
	ok(lh__send_enough(slow, 2, 20000, 1000), "and is when it does not");
	ok(!lh__send_enough(slow, 2, 18000, 30), "not less once");
	ok(lh__send_enough(stuck, 3, 18000, 30), "not less twice");
	for (unsigned i = 0; i < LH_SEND_ROUNDS_MAX; i++)
		many[i] = (struct lh_send_round){ 1u << (31 - i), UINT64_C(10000000000) };
	ok(lh__send_enough(many, LH_SEND_ROUNDS_MAX, 100000, 1), "there is an end to it");
	is(lh__send_estimate(few, 2, 1000), 10000000, "a round of few pages says nothing of speed");
	ok(lh__send_estimate(NULL, 0, 1) == UINT64_MAX, "and no round nothing at all");
}

int main(void)
{
	static struct pair pair;

	test_enough();
	if (qemu_missing()) {
		skip("moves", "qemu-system-x86_64 is not installed");
		return done();
	}
	pair.shared =
		mmap(NULL, sizeof(*pair.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	test_paused(&pair, false);
	test_paused(&pair, true);
	test_discarded(&pair);
	test_unreadable(&pair);
	test_lies(&pair);
	test_events(&pair);
	return done();
}
