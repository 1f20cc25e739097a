/*
 * send_rounds.c - rounds while the guest runs: find what was written and protect it again, say it, and wait
 * until the receiver has fetched it. Strictly one after the other, so nothing that is given crosses a later
 * scan.
 */
#include <errno.h>

#include "service/migrate/send_inside.h"
#include "sys/sys.h"

#define FEW 64u /* pages: less than what a message more costs */

uint64_t lh__send_estimate(const struct lh_send_round *round, unsigned rounds, uint64_t pages)
{
	/* A round of few pages is all latency: the last that moved some says how fast it goes. */
	for (unsigned i = rounds; i-- > 0;)
		if (round[i].pages >= FEW)
			return (uint64_t)((double)round[i].ns / (double)round[i].pages * (double)pages);
	return rounds > 0 && pages <= FEW ? round[rounds - 1].ns : UINT64_MAX;
}

/* Whether a round's pages were at least three quarters of the round's before. */
static bool stays(uint64_t pages, uint64_t before)
{
	return pages >= before - before / 4;
}

bool lh__send_enough(const struct lh_send_round *round, unsigned rounds, uint64_t left, unsigned downtime_ms)
{
	uint64_t limit = UINT64_C(1000000) * downtime_ms, ns;

	if (rounds == 0)
		return false;
	if (left <= FEW || rounds >= LH_SEND_ROUNDS_MAX)
		return true;
	/* Another round while the guest runs makes the stop shorter still, as long as they get smaller. */
	ns = lh__send_estimate(round, rounds, left);
	if (ns <= limit / 4 || (ns <= limit && stays(left, round[rounds - 1].pages)))
		return true;
	return rounds >= 2 && stays(left, round[rounds - 1].pages) &&
	       stays(round[rounds - 1].pages, round[rounds - 2].pages);
}

static int hear(struct lh_send *send, const struct lh_move_message *message, uint64_t number,
                struct lh_error *error)
{
	char why[LH_PLAN_REASON];

	switch (message->type) {
	case LH_MOVE_STATUS:
		return lh__plan_status_read((const char *)message->body, message->size, &send->status);
	case LH_MOVE_FAILED:
		return lh__fail(error, -EREMOTEIO, "the receiver gives up: %s",
		                lh__plan_reason(message->body, message->size, why));
	case LH_MOVE_ROUND: return message->value == number ? 1 : -EPROTO;
	default: return -EPROTO;
	}
}

static int await_round(struct lh_send *send, uint64_t number, struct lh_error *error)
{
	for (;;) {
		struct lh_move_message message;
		int result = lh__channel_wait(send->control, &message, 100);

		if (lh__pages_failed(send->pages, error) < 0)
			return -EIO;
		if (result < 0)
			return lh__send_broken(send, result, error);
		if (result > 0)
			result = hear(send, &message, number, error);
		if (result == -EPROTO)
			return lh__fail(error, -EPROTO,
			                "the receiver breaks the rules: message %u in round %lu",
			                message.type, (unsigned long)number);
		if (result != 0)
			return result < 0 ? result : 0;
		if (lh__send_cancelled(send))
			return lh__fail(error, -ECANCELED, "cancelled");
		lh__send_progress(send);
	}
}

static int round_of(struct lh_send *send, struct lh_error *error)
{
	struct lh_send_round *round = &send->round[send->rounds];
	uint64_t began = lh__clock(NULL);
	int result = lh__send_set(send->control, LH_MOVE_ZERO, &send->zero);

	round->pages = lh__pageset_count(&send->stale);
	if (result == 0)
		result = lh__send_set(send->control, LH_MOVE_STALE, &send->stale);
	if (result == 0)
		result = lh__channel_send(send->control, LH_MOVE_ROUND, 0, send->rounds + 1, NULL, 0);
	if (result == 0)
		result = lh__channel_flush(send->control);
	if (result < 0)
		return lh__send_broken(send, result, error);
	result = await_round(send, send->rounds + 1, error);
	if (result < 0)
		return result;
	round->ns = lh__clock(NULL) - began;
	send->rounds++;
	lh__pageset_clear(&send->zero);
	lh__pageset_clear(&send->stale);
	return 0;
}

int lh__send_scan(struct lh_send *send, bool again, struct lh_error *error)
{
	int result;

	lh__pageset_clear(&send->absent);
	result = lh__written_scan(&send->written, again, &send->stale, &send->absent);
	if (result == -ESRCH)
		return lh__fail(error, result, "the QEMU of the source has ended");
	if (result < 0)
		return lh__fail(error, result, "what the guest writes cannot be found out: %s",
		                lh__errno_name(result));
	return lh__pages_gone(send->pages, &send->absent, &send->zero, error);
}

/*
 * When the rounds are enough the switch is prepared, and then there is one more, so that the guest stops for
 * what it has written in the time of that one alone; but not where that would take long, since it gets no
 * less by it.
 */
static int last_round(struct lh_send *send, struct lh_error *error)
{
	int result = lh__send_prepare(send, error);

	if (result == 0)
		result = lh__send_scan(send, true, error);
	if (result < 0 || lh__send_estimate(send->round, send->rounds, lh__pageset_count(&send->stale)) >
	                          UINT64_C(1000000) * send->options->downtime_ms)
		return result;
	return round_of(send, error);
}

int lh__send_rounds(struct lh_send *send, struct lh_error *error)
{
	int result = lh__watch_begin(send->machine.process, send->machine.region, send->machine.regions,
	                             &send->written, &send->watch_stopped, error);

	if (result < 0)
		return result;
	send->watched = true;
	/* What is written from here on is seen by the watch; so holes are zero, or will be reported. */
	result = lh__pages_content(send->pages, &send->stale, error);
	if (result < 0)
		return result;
	lh__pageset_add_run(&send->zero, 0, send->zero.pages);
	lh__pageset_subtract(&send->zero, &send->stale);
	do {
		result = round_of(send, error);
		if (result == 0)
			result = lh__send_scan(send, true, error);
		if (result < 0)
			return result;
	} while (!lh__send_enough(send->round, send->rounds, lh__pageset_count(&send->stale),
	                          send->options->downtime_ms));
	return last_round(send, error);
}
