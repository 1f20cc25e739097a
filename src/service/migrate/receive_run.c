/*
 * receive_run.c - from GO until all of the guest's memory is here. The engine's threads do the work; here the
 * machine is given its state, the sender listened to and let in again, and the end seen.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "service/migrate/receive_inside.h"
#include "service/migrate/send_inside.h"
#include "sys/sys.h"

#define LOADING_TICK_MS 2
#define TICK_MS 20

int lh__receive_load(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_machine *machine = &receive->home.machine;
	int result = lh__machine_load_prepare(machine, error);

	if (result == 0)
		result = lh__state_device_to(receive->home.state, machine->device, error);
	return result < 0 ? result : lh__machine_load_now(machine, error);
}

static int say_runs(struct lh_receive *receive)
{
	int result = lh__channel_send(receive->control, LH_MOVE_RUNS, 0,
	                              receive->runs > receive->go ? receive->runs - receive->go : 0, NULL, 0);

	return result ? result : lh__channel_flush(receive->control);
}

/* It does. */
static void runs(struct lh_receive *receive, uint64_t at)
{
	struct lh_receive_home *home = &receive->home;

	receive->runs = at;
	lh__measure_runs(home->measure, at);
	lh__state_set_phase(home->state, LH_MOVE_RUNNING);
	lh__receive_gate_phase(receive->gate, LH_MOVE_RUNNING);
	lh__machine_close(&home->machine); /* others may want its monitor */
	home->has_machine = false;
	if (receive->control && say_runs(receive) < 0)
		lh__receive_drop(receive);
}

/* A machine that another receiver may have given its state: 0: it has it, or it is being done. */
static int find_machine(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;
	char status[32];
	json_t *answer;
	int result = lh__receive_machine(home, error);
	bool begun;

	if (result == 0)
		result = lh__machine_status(&home->machine, status, error);
	if (result == 0)
		result = lh__qmp_command(home->machine.qmp, "query-migrate", NULL, -1, &answer, error);
	if (result < 0)
		return result;
	begun = json_object_get(answer, "status") != NULL;
	json_decref(answer);
	lh__measure_threads(home->measure, home->machine.cpu, home->machine.cpus);
	if (begun || strcmp(status, "inmigrate") != 0)
		return 0;
	result = lh__machine_awaits(&home->machine, error);
	return result < 0 ? result : lh__receive_load(receive, error);
}

/*
 * Looks whether the machine runs: 0: it does, or not yet; -EREMOTEIO: it never will. One that is not known
 * yet, since its load was begun by another receiver, can be asked only while pages come.
 */
static int look_at_machine(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;
	uint64_t at;
	int result;

	if (!home->has_machine) {
		result = receive->control ? find_machine(receive, error) : 0;
		if (result == -EREMOTEIO)
			return result;
		if (result < 0 && home->has_machine)
			lh__machine_close(&home->machine);
		if (result < 0)
			home->has_machine = false;
		if (!home->has_machine)
			return 0;
	}
	result = lh__machine_loaded(&home->machine, 0, &at, error);
	if (result == -ECONNRESET)
		return lh__fail(error, -EREMOTEIO,
		                "the QEMU of the destination ended while it took the state in");
	if (result > 0)
		runs(receive, at);
	return result < 0 ? result : 0;
}

static void lost(struct lh_receive *receive, const char *why)
{
	lh__receive_drop(receive);
	if (receive->broken_said)
		return;
	receive->broken_said = true;
	lh__receive_say(receive->options, "%s; the guest waits where it needs what has not come yet", why);
}

static void listen_to(struct lh_receive *receive, int timeout_ms)
{
	struct lh_move_message message;
	struct lh_error why;
	int result = lh__channel_wait(receive->control, &message, timeout_ms);

	if (result > 0 && message.type == LH_MOVE_FAILED) {
		char reason[LH_PLAN_REASON];

		(void)!lh__fail(&why, -EIO, "the sender fails: %s",
		                lh__plan_reason(message.body, message.size, reason));
		lost(receive, why.text);
		return;
	}
	if (result > 0)
		result = -EPROTO; /* there is nothing else left to say */
	if (result == 0)
		result = lh__receive_report(receive, receive->runs ? LH_MOVE_RUNNING : LH_MOVE_GONE);
	if (result == 0 && lh__engine_wait(receive->home.engine, LH_ENGINE_BROKEN, 0))
		result = -ECONNRESET;
	if (result == 0)
		return;
	(void)!lh__receive_broken(receive, result, &why);
	lost(receive, why.text);
}

/* A sender that has come again, or another process in its place. */
static void let_in(struct lh_receive *receive, int timeout_ms)
{
	struct lh_move_hello hello;
	struct lh_error why;
	struct lh_channel *channel = lh__receive_gate_control(receive->gate, timeout_ms, &hello);

	if (!channel)
		return;
	lh__receive_take(receive, channel);
	if (lh__receive_plan(receive, &hello, &why) < 0) {
		lost(receive, why.text);
		return;
	}
	if (receive->broken_said)
		lh__receive_say(receive->options, "the sender is back");
	receive->broken_said = false;
	if (receive->runs && say_runs(receive) < 0)
		lh__receive_drop(receive);
}

static void say_late(struct lh_receive *receive)
{
	if (receive->late_said || !lh__receive_cancelled(receive->options))
		return;
	receive->late_said = true;
	lh__receive_say(receive->options, "the guest is here and needs the rest of its memory; going on");
}

static void say_refused(struct lh_receive *receive)
{
	char line[252];

	if (lh__receive_gate_refused(receive->gate, line))
		lh__receive_say(receive->options, "%s", line);
}

int lh__receive_run(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;

	for (;;) {
		int tick = receive->runs ? TICK_MS : LOADING_TICK_MS;
		int result = receive->runs ? 0 : look_at_machine(receive, error);

		if (result < 0)
			return result;
		if (lh__engine_wait(home->engine, LH_ENGINE_COMPLETE, 0) && receive->runs)
			return 0;
		if (lh__receive_guest_left(home)) {
			receive->ended = receive->runs != 0;
			return receive->ended ? 0
			                      : lh__fail(error, -EREMOTEIO,
			                                 "the QEMU of the destination ended while it took "
			                                 "the state in");
		}
		let_in(receive, receive->control ? 0 : tick);
		if (receive->control)
			listen_to(receive, tick);
		say_late(receive);
		say_refused(receive);
		lh__receive_progress(home, receive->runs ? LH_MOVE_RUNNING : LH_MOVE_GONE, receive->rounds,
		                     receive->control != NULL, &receive->progressed);
	}
}
