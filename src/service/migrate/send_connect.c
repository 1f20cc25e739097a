/* send_connect.c - the sender's channels: control first, then PLAN, then faults and data. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/send_inside.h"
#include "sys/sys.h"

#define CONNECT_MS 5000
#define ANSWER_MS 20000
#define TELL_NS UINT64_C(1000000000)

static struct lh_move_hello hello_of(const struct lh_send *send, enum lh_move_channel_kind kind,
                                     enum lh_move_phase phase)
{
	struct lh_move_hello hello = {
		.version = LH_MOVE_VERSION, .what = kind, .phase = phase, .incarnation = send->incarnation
	};

	memcpy(hello.id, send->note->id, LH_MOVE_ID);
	return hello;
}

int lh__send_broken(struct lh_send *send, int code, struct lh_error *error)
{
	const char *why = send->control ? lh__channel_why(send->control) : NULL;

	return lh__fail(error, code, "the connection to %s broke: %s", send->options->target->url.text,
	                why && why[0] ? why : lh__errno_name(code));
}

void lh__send_tell(struct lh_send *send, const char *why)
{
	uint64_t until = lh__clock(NULL) + TELL_NS;
	struct lh_move_message message;

	if (!send->control || lh__channel_send(send->control, LH_MOVE_FAILED, 0, 0, why, strlen(why)) < 0 ||
	    lh__channel_flush(send->control) < 0)
		return;
	/* What is closed with something unread in it may take back what was said: the other side is first. */
	while (lh__channel_wait(send->control, &message, 20) >= 0 && lh__clock(NULL) < until)
		;
}

static int send_plan(struct lh_send *send, bool resume)
{
	struct lh_plan plan = { .regions = send->machine.regions,
		                .lanes = send->options->parallel + 1,
		                .bandwidth = send->options->bandwidth,
		                .postcopy = send->options->postcopy,
		                .resume = resume };
	char *text;
	int result;

	memcpy(plan.region, send->machine.region, sizeof(plan.region));
	text = lh__plan_write(&plan);
	if (!text)
		return -ENOMEM;
	result = lh__channel_send(send->control, LH_MOVE_PLAN, 0, 0, text, strlen(text));
	free(text);
	return result ? result : lh__channel_flush(send->control);
}

/* The channels of faults and data, each in the hands of its thread at once. */
static int connect_lanes(struct lh_send *send, enum lh_move_phase phase, struct lh_error *error)
{
	int result = 0;

	for (unsigned lane = 0; result == 0 && lane <= send->options->parallel; lane++) {
		enum lh_move_channel_kind kind = lane == 0 ? LH_MOVE_FAULTS : LH_MOVE_DATA;
		struct lh_move_hello hello = hello_of(send, kind, phase), answer;
		struct lh_channel *channel;

		result = lh__channel_connect(send->options->target, &hello, CONNECT_MS, &channel, &answer,
		                             error);
		if (result < 0)
			return result;
		result = lh__pages_serve(send->pages, channel, kind, error);
		if (result < 0)
			lh__channel_close(channel);
	}
	return result;
}

static int read_answer(struct lh_send *send, struct lh_error *error)
{
	struct lh_move_message message;
	char why[LH_PLAN_REASON];
	int result = 0;

	for (unsigned waited = 0; result == 0 && waited < ANSWER_MS; waited += 100) {
		result = lh__channel_wait(send->control, &message, 100);
		if (result == 0 && lh__send_cancelled(send) && !send->maybe_gone)
			return lh__fail(error, -ECANCELED, "cancelled");
	}
	if (result == 0)
		result = -ETIMEDOUT;
	if (result < 0)
		return lh__send_broken(send, result, error);
	if (message.type == LH_MOVE_FAILED)
		return lh__fail(error, -ECANCELED, "the receiver refuses: %s",
		                lh__plan_reason(message.body, message.size, why));
	if (message.type != LH_MOVE_PLAN)
		return lh__fail(error, -EPROTO, "the receiver answers PLAN with a message of type %u",
		                message.type);
	return lh__plan_answer_read((const char *)message.body, message.size, error);
}

static int connect_control(struct lh_send *send, enum lh_move_phase phase, struct lh_move_hello *answer,
                           struct lh_error *error)
{
	struct lh_move_hello hello;
	int result;

	memset(answer, 0, sizeof(*answer));
	send->incarnation++;
	hello = hello_of(send, LH_MOVE_CONTROL, phase);
	result =
		lh__channel_connect(send->options->target, &hello, CONNECT_MS, &send->control, answer, error);
	if (result == -EALREADY) /* of a process before this one: later than that */
		send->incarnation = answer->incarnation;
	return result;
}

int lh__send_connect(struct lh_send *send, enum lh_move_phase phase, struct lh_move_hello *answer,
                     struct lh_error *error)
{
	int result = connect_control(send, phase, answer, error);

	if (result == -EALREADY)
		result = connect_control(send, phase, answer, error);
	if (result < 0 || answer->phase == LH_MOVE_RETURNED || answer->phase == LH_MOVE_COMPLETE)
		return result;
	result = send_plan(send, phase != LH_MOVE_COPYING);
	if (result < 0)
		result = lh__send_broken(send, result, error);
	if (result == 0)
		result = connect_lanes(send, phase, error);
	if (result == 0)
		result = read_answer(send, error);
	if (result < 0)
		lh__send_disconnect(send);
	else
		send->connections++;
	return result;
}

void lh__send_disconnect(struct lh_send *send)
{
	uint64_t out, in;

	if (send->pages)
		lh__pages_disconnect(send->pages);
	if (!send->control)
		return;
	lh__channel_bytes(send->control, &out, &in);
	send->bytes_out += out;
	send->bytes_in += in;
	lh__channel_close(send->control);
	send->control = NULL;
}
