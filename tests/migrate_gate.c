/*
 * migrate_gate.c - who may connect to a receiver: one who says nothing holds up nobody; one migration at a
 * time, and of that the latest sender alone.
 */
#include <errno.h>
#include <sys/socket.h>

#include "migrate_channel.h"
#include "net/socket.h"
#include "service/migrate/receive_inside.h"
#include "tap.h"

enum { SILENT = 5, PATIENCE_MS = 20000 };

static int silent_peer(const struct lh_channel_target *target)
{
	struct lh_error error;
	int fd = -1;

	return lh__socket_connect(&target->url, target->has_key, lh__net_now_ms() + PATIENCE_MS, &fd,
	                          &error) == 0
	               ? fd
	               : -1;
}

static bool is_open(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* What a sender is told; its channel, where that is LH_MOVE_OK. */
static int told(const struct lh_channel_target *target, uint8_t id, enum lh_move_phase phase,
                uint32_t incarnation, struct lh_channel **channel)
{
	struct lh_move_hello hello = { LH_MOVE_VERSION, LH_MOVE_CONTROL, { id }, phase, incarnation };
	struct lh_move_hello answer = { 0 };
	struct lh_error error;
	int result;

	*channel = NULL;
	result = lh__channel_connect(target, &hello, PATIENCE_MS, channel, &answer, &error);
	if (result < 0)
		lh__channel_close(*channel);
	return result;
}

static void silence(struct lh_receive_gate *gate, const struct lh_channel_target *target)
{
	struct lh_channel *sender, *ours;
	struct lh_move_hello hello;
	int silent[SILENT];
	unsigned waiting = 0;

	for (unsigned i = 0; i < SILENT; i++)
		silent[i] = silent_peer(target);
	is(told(target, 1, LH_MOVE_COPYING, 1, &sender), 0, "behind silent ones a sender is let in");
	for (unsigned i = 0; i < SILENT; i++)
		waiting += silent[i] >= 0 && is_open(silent[i]);
	is(waiting, SILENT, "... while these are still waited for");
	ours = lh__receive_gate_control(gate, PATIENCE_MS, &hello);
	ok(ours && hello.id[0] == 1, "... and is the one that the receiver gets");
	for (unsigned i = 0; i < SILENT; i++)
		close(silent[i]);
	lh__channel_close(sender);
	lh__channel_close(ours);
}

static void one_at_a_time(struct lh_receive_gate *gate, const struct lh_channel_target *target)
{
	struct lh_channel *sender;
	struct lh_move_hello hello;
	char line[252];

	is(told(target, 2, LH_MOVE_COPYING, 1, &sender), -EBUSY, "another migration is refused");
	ok(lh__receive_gate_refused(gate, line) && strstr(line, "another migration is under way"),
	   "... and that is told of: %s", line);
	ok(!lh__receive_gate_refused(gate, line), "... once");
	is(told(target, 1, LH_MOVE_COPYING, 1, &sender), -EALREADY, "a sender is not let in twice");
	is(told(target, 1, LH_MOVE_COPYING, 2, &sender), 0, "the next one of the same migration is");
	lh__channel_close(sender);
	lh__channel_close(lh__receive_gate_control(gate, PATIENCE_MS, &hello));
	is(hello.incarnation, 2, "... and known as that");
	ok(!lh__receive_gate_go(gate, NULL), "the guest cannot come on what went before");
	lh__receive_gate_reset(gate);
	is(told(target, 3, LH_MOVE_GONE, 1, &sender), -ESTALE, "what goes on must be known here");
	is(told(target, 3, LH_MOVE_COPYING, 1, &sender), 0, "after the end of one another may begin");
	lh__channel_close(sender);
}

static void run(const char *url, const char *key)
{
	struct lh_receive_options options = { .listen = url, .key_file = key };
	struct lh_channel_target target;
	struct lh_receive_gate *gate;
	struct lh_error error = { 0 };

	printf("# %s\n", url);
	if (!ok(lh__receive_gate_open(&options, NULL, &gate, &error) == 0, "opened %s", error.text))
		return;
	if (ok(lh__channel_target(lh__receive_gate_url(gate), key, &target, &error) == 0, "its URL %s",
	       error.text)) {
		silence(gate, &target);
		one_at_a_time(gate, &target);
	}
	lh__receive_gate_close(gate);
}

int main(void)
{
	char url[320];

	snprintf(url, sizeof url, "unix:%s/gate", test_folder());
	run(url, NULL);
	run("tcp://127.0.0.1:0", NULL);
	run("tcp://127.0.0.1:0", write_key("key", 0xaa, 0600));
	test_folder_remove();
	return done();
}
