/*
 * send_serve.c - after GO: pages are given by threads of their own; here the receiver is listened to, and
 * connected to again whenever that breaks, until it says that it has all. Nobody but it can say so, and only
 * it knows whether a GO that was not answered has arrived: so this has no end of its own.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "service/migrate/send_inside.h"
#include "sys/sys.h"

#define BACKOFF_MS 500u
#define HINTS_MIN 4096u /* pages still to come: fewer have come before page tables have been read */
#define SAY_AGAIN_NS UINT64_C(5000000000)

enum { ENDED = 1 };

static void say_late(struct lh_send *send)
{
	if (send->late_said || !lh__send_cancelled(send))
		return;
	send->late_said = true;
	lh__send_say(send,
	             "too late to cancel: the guest has been given to %s, and its memory still is here; "
	             "going on",
	             send->options->target->url.text);
}

/* That it cannot be reached; the first time at once, then now and then. */
static void say_waiting(struct lh_send *send, const char *why)
{
	uint64_t now = lh__clock(NULL);

	if (send->said && now - send->said < SAY_AGAIN_NS)
		return;
	send->said = now;
	lh__send_say(send, "%s; %s, trying again", why,
	             send->maybe_gone ? "whether the guest has been taken over is not known, it stands still"
	                              : "the guest waits for memory that is here");
}

static void gone(struct lh_send *send)
{
	send->maybe_gone = false;
	lh__state_set_phase(send->note, LH_MOVE_RUNNING);
}

static void acknowledge(struct lh_send *send)
{
	if (lh__channel_send(send->control, LH_MOVE_CANCEL, 0, 0, NULL, 0) == 0)
		(void)!lh__channel_flush(send->control);
}

static int finished(struct lh_send *send, const struct lh_move_message *message, struct lh_error *error)
{
	json_t *theirs = json_loadb((const char *)message->body, message->size, 0, NULL);

	if (!json_is_object(theirs)) { /* by mistake it would cost the guest its memory */
		json_decref(theirs);
		return -EPROTO;
	}
	/* Before the receiver hears of it, which then forgets the migration. */
	lh__state_set_phase(send->note, LH_MOVE_COMPLETE);
	acknowledge(send);
	if (send->has_machine && !send->resumed)
		(void)!lh__machine_downtime(&send->machine, &send->downtime_ms, NULL);
	json_decref(send->theirs);
	send->theirs = theirs;
	if (json_is_true(json_object_get(theirs, "ended")))
		return lh__fail(
			error, -ECONNRESET,
			"the QEMU of the destination has ended before it had all memory; the guest stands "
			"still here, as it was when it left");
	return ENDED;
}

static int hear(struct lh_send *send, const struct lh_move_message *message, struct lh_error *error)
{
	char why[LH_PLAN_REASON];

	switch (message->type) {
	case LH_MOVE_GO:
		send->stop.answer = lh__clock(NULL) - send->go;
		gone(send);
		if (send->last_pages > HINTS_MIN)
			lh__send_hint(send);
		return 0;
	case LH_MOVE_RUNS:
		gone(send);
		send->stop.load = message->value;
		return 0;
	case LH_MOVE_STATUS:
		return lh__plan_status_read((const char *)message->body, message->size, &send->status);
	case LH_MOVE_DONE: return finished(send, message, error);
	case LH_MOVE_FAILED:
		return lh__fail(error, -EREMOTEIO, "the guest could not go on at the destination: %s",
		                lh__plan_reason(message->body, message->size, why));
	default: return -EPROTO;
	}
}

/*
 * With nobody to start either side again we end at once: whoever gives the command again goes on from what
 * both have left. But while the answer to GO may still come it is waited for, since until then the guest
 * stands still and may have to go on here.
 */
static int check_alone(const struct lh_send *send, struct lh_error *error)
{
	const struct lh_send_options *options = send->options;

	if (!options->alone || !options->alone(options->context) || (send->maybe_gone && send->control))
		return 0;
	return lh__fail(
		error, -EOWNERDEAD,
		"given up, since another process of this migration was killed or has ended; the guest waits "
		"for memory that is here: the same command goes on with it");
}

/* Memory that cannot be read is not there for whoever tries again at once. */
static int check_memory(struct lh_send *send, struct lh_error *error)
{
	struct lh_error why;

	if (lh__pages_failed(send->pages, &why) == 0)
		return 0;
	lh__send_tell(send, why.text);
	return lh__fail(error, -EIO, "%s; the guest waits for it at the destination", why.text);
}

/*
 * Until the connection breaks (0), it is over (ENDED), the guest has come back (-EREMOTEIO), nobody watches
 * (-EOWNERDEAD) or its memory cannot be read (-EIO).
 */
static int listen_to(struct lh_send *send, struct lh_error *error)
{
	for (;;) {
		struct lh_move_message message;
		int result = lh__channel_wait(send->control, &message, 100);

		if (result > 0)
			result = hear(send, &message, error);
		if (result == ENDED || result == -EREMOTEIO || (result == -ECONNRESET && send->theirs))
			return result;
		if (check_memory(send, error) < 0)
			return -EIO;
		if (result >= 0 && check_alone(send, error) < 0)
			return -EOWNERDEAD;
		if (result < 0) {
			struct lh_error why;

			(void)!lh__send_broken(send, result, &why);
			lh__send_disconnect(send);
			say_waiting(send, why.text);
			return 0;
		}
		say_late(send);
		lh__send_progress(send);
	}
}

/* What the receiver says of this migration: 0: it goes on. */
static int take_answer(struct lh_send *send, const struct lh_move_hello *answer, struct lh_error *error)
{
	if (answer->phase == LH_MOVE_RETURNED)
		return lh__fail(error, -EREMOTEIO, "the guest could not go on at the destination");
	if (answer->phase == LH_MOVE_COPYING)
		return lh__fail(error, -EREMOTEIO,
		                "the guest was not given away before the connection broke");
	gone(send);
	return 0;
}

static int connect_again(struct lh_send *send, struct lh_error *error)
{
	struct lh_error why = { 0, "" };
	struct lh_move_hello answer;
	enum lh_move_phase phase = send->maybe_gone ? LH_MOVE_GONE : LH_MOVE_RUNNING;
	int result = lh__send_connect(send, phase, &answer, &why);

	if (result == -ESTALE)
		(void)!lh__fail(&why, result, "%s: another receiver, which does not know of this guest",
		                send->options->target->url.text);
	if (result < 0) {
		say_waiting(send, why.text);
		return 0;
	}
	if (send->said)
		lh__send_say(send, "connected to %s again", send->options->target->url.text);
	send->said = 0;
	return take_answer(send, &answer, error);
}

static void sleep_ms(unsigned ms)
{
	struct timespec time = { ms / 1000, (long)(ms % 1000) * 1000000 };

	(void)nanosleep(&time, NULL);
}

int lh__send_serve(struct lh_send *send, struct lh_error *error)
{
	unsigned backoff = 10;
	int result = 0;

	while (result == 0) {
		if (!send->control)
			result = check_alone(send, error);
		if (result == 0 && !send->control)
			result = connect_again(send, error);
		if (result == 0 && send->control) {
			backoff = 10;
			result = listen_to(send, error);
			continue;
		}
		if (result != 0)
			break;
		say_late(send);
		lh__send_progress(send);
		sleep_ms(backoff);
		backoff = backoff * 2 < BACKOFF_MS ? backoff * 2 : BACKOFF_MS;
	}
	return result < 0 ? result : 0;
}
