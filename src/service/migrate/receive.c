/*
 * receive.c - the whole of receiving: what an earlier receiver has left, the wait for a sender, and how it
 * ends.
 *
 * A state file beside the guest's memory says what became of the last migration into it:
 *
 *     copying, returned   the guest never ran here. Whoever asks for that migration is told so; another may
 *                         take its place
 *     gone                the guest is ours; it may have run already, if its QEMU says so
 *     running             its memory is needed
 *     complete            only the sender has not been heard to know
 *
 * A file that is older than the QEMU that hands its memory over is an earlier one's, and nobody needs it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/receive_inside.h"
#include "service/migrate/send_inside.h"
#include "sys/sys.h"

/* *left: what stands in the state file, if it is of this machine; NULL: nothing. */
static int find_left(const struct lh_receive_home *home, struct lh_state **left, struct lh_error *error)
{
	char path[1100];
	int result;

	*left = NULL;
	lh__receive_state_path(home, path);
	result = lh__state_open(path, left, error);
	if (result < 0)
		return result == -ENOENT ? 0 : result;
	if (lh__receive_is_younger(home, path)) {
		lh__state_close(*left, true);
		*left = NULL;
	}
	return 0;
}

static int open_gate(struct lh_receive *receive, const struct lh_state *state, struct lh_error *error)
{
	int result = lh__receive_gate_open(receive->options, state, &receive->gate, error);

	if (result == 0 && receive->options->listening)
		receive->options->listening(receive->options->context, lh__receive_gate_url(receive->gate));
	return result;
}

/* ---- a guest that is here ---- */

/*
 * Faults are answered first of all: until then the monitor may not be able to answer. Where the machine is
 * the sender has to be heard of for the same reason: lh__receive_run finds out.
 */
static int take_over(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;
	int result = lh__receive_home_open(home, false, 2, 0, error);

	if (result == 0 && lh__engine_answer(home->engine, NULL) < 0)
		result = lh__fail(error, -ENOMEM, "no thread to answer faults");
	if (result < 0)
		return result;
	receive->taken_over = true;
	lh__receive_ours(receive->options);
	receive->go = lh__clock(NULL);
	if (lh__state_phase(home->state) != LH_MOVE_GONE)
		receive->runs = receive->go;
	lh__receive_say(receive->options, "going on with the guest in %s", home->path);
	return open_gate(receive, home->state, error);
}

/* ---- a guest that comes ---- */

static struct lh_channel *await_sender(struct lh_receive *receive, struct lh_move_hello *hello,
                                       struct lh_error *error)
{
	for (;;) {
		struct lh_channel *channel = lh__receive_gate_control(receive->gate, 50, hello);
		char line[252];

		if (channel && hello->phase == LH_MOVE_COPYING)
			return channel;
		if (channel) { /* it has been told that its guest never ran here */
			struct lh_move_message message;

			(void)!lh__channel_wait(channel, &message, 1000);
			lh__channel_close(channel);
		}
		if (lh__receive_gate_refused(receive->gate, line))
			lh__receive_say(receive->options, "%s", line);
		if (lh__receive_cancelled(receive->options))
			lh__fail(error, -ECANCELED, "cancelled");
		else if (lh__receive_guest_left(&receive->home))
			lh__fail(error, -ECONNRESET, "the QEMU of the destination has ended");
		else
			continue;
		return NULL;
	}
}

/* One sender's attempt; -EAGAIN: it was refused, and nothing has happened. */
static int attempt(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_move_hello hello;
	struct lh_channel *channel = await_sender(receive, &hello, error);
	int result;

	if (!channel)
		return error->code;
	lh__receive_take(receive, channel);
	result = lh__receive_plan(receive, &hello, error);
	if (result == -EAGAIN) {
		lh__receive_say(receive->options, "refused a sender: %s", error->text);
		lh__receive_drop(receive);
		lh__receive_gate_reset(receive->gate);
		return result;
	}
	return result < 0 ? result : lh__receive_copy(receive, error);
}

static int receive_anew(struct lh_receive *receive, const struct lh_state *left, struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;
	int result = lh__receive_machine(home, error);

	if (result == 0)
		result = lh__machine_awaits(&home->machine, error);
	if (result == 0)
		result = lh__machine_load_prepare(&home->machine, error);
	if (result == 0)
		result = lh__machine_alone(&home->machine, error);
	if (result == 0)
		result = open_gate(receive, left, error);
	if (result < 0)
		return result;
	do
		result = attempt(receive, error);
	while (result == -EAGAIN);
	return result;
}

/* ---- the end ---- */

/* Pages that are on their way are given up by who has them in the state. */
static void close_state(struct lh_receive *receive, bool remove)
{
	lh__receive_drop(receive);
	lh__receive_home_end(&receive->home, remove);
}

/* It never ran here. The state file stays where the sender has not been heard to know. */
static void give_back(struct lh_receive *receive, int result, const struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;
	bool noted;

	if (!home->state)
		return;
	if (home->engine)
		lh__engine_halt(home->engine);
	lh__state_set_phase(home->state, LH_MOVE_RETURNED);
	noted = result == -ECANCELED && !lh__receive_cancelled(receive->options);
	if (!noted && receive->gate)
		noted = lh__receive_failed(receive, error);
	close_state(receive, noted);
}

static void finish(struct lh_receive *receive, json_t *stats)
{
	struct lh_receive_home *home = &receive->home;
	struct lh_error why;
	bool noted;

	lh__state_set_phase(home->state, LH_MOVE_COMPLETE);
	lh__receive_gate_phase(receive->gate, LH_MOVE_COMPLETE);
	if (lh__receive_record(home, &why) < 0)
		lh__receive_say(receive->options, "%s", why.text);
	noted = lh__receive_done(receive, stats);
	if (!noted)
		lh__receive_say(receive->options, "all is here, but the sender could not be told");
	close_state(receive, noted || receive->ended);
}

static int run(struct lh_receive *receive, json_t **stats, struct lh_error *error)
{
	int result = lh__receive_run(receive, error);

	if (result < 0)
		return result;
	lh__measure_complete(receive->home.measure, lh__clock(NULL));
	*stats = lh__receive_stats(&receive->home, 0, NULL);
	if (receive->ended)
		json_object_set_new(*stats, "ended", json_true());
	finish(receive, *stats);
	if (receive->ended)
		return lh__fail(error, -ECONNRESET,
		                "the QEMU of the destination has ended before all memory was "
		                "here");
	return 0;
}

/* Up to where the guest is ours. */
static int become_home(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;
	struct lh_state *left;
	int result = lh__receive_await(home, error);

	if (result == 0)
		result = find_left(home, &left, error);
	if (result < 0)
		return result;
	if (left && lh__state_phase(left) != LH_MOVE_COPYING && lh__state_phase(left) != LH_MOVE_RETURNED) {
		home->state = left;
		return take_over(receive, error);
	}
	if (left)
		lh__state_set_phase(left, LH_MOVE_RETURNED);
	result = receive_anew(receive, left, error);
	if (left)
		lh__state_close(left, false);
	return result;
}

static void close_all(struct lh_receive *receive)
{
	lh__receive_drop(receive);
	if (receive->gate)
		lh__receive_gate_close(receive->gate);
	lh__receive_home_close(&receive->home);
	if (receive->home.state)
		lh__state_close(receive->home.state, false);
	lh__send_set_close(&receive->stale);
	lh__send_set_close(&receive->zero);
	free(receive->device);
}

int lh__receive(const struct lh_receive_options *options, json_t **stats, struct lh_error *error)
{
	struct lh_receive receive = { .options = options, .home = { .options = options, .listener = -1 } };
	struct lh_error own = { 0, "" };
	int result = become_home(&receive, &own);

	*stats = NULL;
	if (result == 0 && !receive.taken_over)
		result = lh__receive_load(&receive, &own);
	if (result == -ECONNRESET && receive.go && !receive.runs)
		result = lh__fail(&own, -EREMOTEIO, "the QEMU of the destination ended before the guest ran");
	if (result == 0)
		result = run(&receive, stats, &own);
	if (!*stats)
		*stats = lh__receive_stats(&receive.home, result, &own);
	if (result < 0 && receive.home.state && (!receive.go || result == -EREMOTEIO))
		give_back(&receive, result, &own);
	close_all(&receive);
	if (result < 0 && error)
		*error = own;
	return result;
}
