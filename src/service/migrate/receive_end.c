/*
 * receive_end.c - the end of a migration, and that the sender hears of it: it keeps the guest's memory, or
 * lets the guest run, by what is said here, so it is said until it has been acknowledged. Who ends before
 * that leaves the state file, from which another can say it again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/receive_inside.h"
#include "sys/sys.h"

#define PATIENCE_NS UINT64_C(30000000000)
#define LESS_NS UINT64_C(3000000000) /* where the sender has most likely given up by itself */

static int say(struct lh_receive *receive, enum lh_move_type type, const char *text)
{
	size_t size = strlen(text);
	int result = lh__channel_send(receive->control, type, 0, 0, text,
	                              size < LH_MOVE_BODY_MAX ? size : LH_MOVE_BODY_MAX);

	return result ? result : lh__channel_flush(receive->control);
}

/* 1: acknowledged. */
static int await_note(struct lh_receive *receive)
{
	struct lh_move_message message;
	int result = lh__channel_wait(receive->control, &message, 50);

	if (result <= 0)
		return result;
	return message.type == LH_MOVE_CANCEL || message.type == LH_MOVE_PLAN ? message.type == LH_MOVE_CANCEL
	                                                                      : -EPROTO;
}

/*
 * Nobody is there to hear it, and nobody is awaited: a sender that has found its guest running begins anew,
 * and one that has not asks whoever receives next, who finds the state file.
 */
static bool is_vain(const struct lh_receive *receive, enum lh_move_type type)
{
	const struct lh_receive_options *options = receive->options;

	if (receive->control)
		return false;
	return (type == LH_MOVE_DONE && lh__receive_cancelled(options)) ||
	       (type == LH_MOVE_FAILED && lh__receive_gate_wanted(receive->gate)) ||
	       (options->alone && options->alone(options->context));
}

static bool say_until(struct lh_receive *receive, enum lh_move_type type, const char *text)
{
	uint64_t until = lh__clock(NULL) + (receive->stopped || receive->taken_over ? PATIENCE_NS : LESS_NS);
	bool said = false;

	while (lh__clock(NULL) < until && !is_vain(receive, type)) {
		struct lh_move_hello hello;
		struct lh_channel *channel =
			lh__receive_gate_control(receive->gate, receive->control ? 0 : 50, &hello);
		int result;

		if (channel) {
			lh__receive_take(receive, channel);
			said = false;
		}
		if (!receive->control)
			continue;
		result = said ? 0 : say(receive, type, text);
		said = true;
		if (result == 0)
			result = await_note(receive);
		if (result > 0)
			return true;
		if (result < 0)
			lh__receive_drop(receive);
	}
	return false;
}

bool lh__receive_done(struct lh_receive *receive, const json_t *stats)
{
	char *text = json_dumps(stats, JSON_COMPACT);
	bool noted = text && say_until(receive, LH_MOVE_DONE, text);

	free(text);
	return noted;
}

bool lh__receive_failed(struct lh_receive *receive, const struct lh_error *error)
{
	lh__receive_gate_phase(receive->gate, LH_MOVE_RETURNED);
	return say_until(receive, LH_MOVE_FAILED, error->text);
}
