/*
 * receive_copy.c - while the guest runs at its source: sets of pages, rounds, and at last its device state
 * and GO.
 *
 * At the end of a round what has come, and was not written lately, is shown to the waiting QEMU: later the
 * guest need not fault for it. That is done while the guest still runs at its source, so it costs no silence.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/migrate/receive_inside.h"
#include "service/migrate/send_inside.h"
#include "sys/sys.h"

#define DEVICE_MAX (UINT64_C(1) << 30)
#define SLICE (UINT64_C(1) << 16) /* pages shown between two looks at the channel */
#define REASON_MS 200             /* for the sender to say why it has broken something off */

static int rules(struct lh_error *error, const char *what)
{
	return lh__fail(error, -EPROTO, "the sender breaks the rules: %s", what);
}

static int take_pages(struct lh_receive *receive, const struct lh_move_message *message,
                      struct lh_error *error)
{
	struct lh_pageset *set = message->flags == LH_MOVE_ZERO ? &receive->zero : &receive->stale;

	if (lh__pageset_decode(set, message->body, message->size) < 0)
		return rules(error, "a set of pages is malformed");
	return 0;
}

static int take_device(struct lh_receive *receive, const struct lh_move_message *message,
                       struct lh_error *error)
{
	if (!receive->device && message->value > 0 && message->value <= DEVICE_MAX) {
		receive->device = malloc(message->value);
		receive->device_size = message->value;
		if (!receive->device)
			return lh__fail(error, -ENOMEM, "no memory for the device state");
	}
	if (!receive->device || message->value != receive->device_size ||
	    message->size > receive->device_size - receive->device_have)
		return rules(error, "device state of another size than was said");
	memcpy(receive->device + receive->device_have, message->body, message->size);
	receive->device_have += message->size;
	return 0;
}

static int given_up(const struct lh_move_message *message, struct lh_error *error)
{
	char why[LH_PLAN_REASON];

	if (message->type == LH_MOVE_CANCEL)
		return lh__fail(error, -ECANCELED, "the sender has cancelled the migration");
	return lh__fail(error, -ECANCELED, "the sender gives up: %s",
	                lh__plan_reason(message->body, message->size, why));
}

/* Between messages of a round: nothing is expected but that it is given up. 0: go on. */
static int look(struct lh_receive *receive, int timeout_ms, struct lh_error *error)
{
	struct lh_move_message message;
	int result = lh__channel_wait(receive->control, &message, timeout_ms);

	if (result < 0)
		return lh__receive_broken(receive, result, error);
	if (result > 0 && (message.type == LH_MOVE_CANCEL || message.type == LH_MOVE_FAILED))
		return given_up(&message, error);
	if (result > 0)
		return rules(error, "a message where it waits for a round");
	if (lh__receive_cancelled(receive->options))
		return lh__fail(error, -ECANCELED, "cancelled");
	if (lh__receive_guest_left(&receive->home))
		return lh__fail(error, -ECONNRESET, "the QEMU of the destination has ended");
	result = lh__receive_report(receive, LH_MOVE_COPYING);
	if (result < 0)
		return lh__receive_broken(receive, result, error);
	lh__receive_progress(&receive->home, LH_MOVE_COPYING, receive->rounds + 1, true,
	                     &receive->progressed);
	return 0;
}

/* The sets that were told take effect. */
static int apply_sets(struct lh_receive *receive, struct lh_error *error)
{
	int result = 0;

	if (lh__pageset_next(&receive->zero, 0) != LH_PAGESET_NONE)
		result = lh__engine_zero(receive->home.engine, &receive->zero, error);
	if (result == 0 && lh__pageset_next(&receive->stale, 0) != LH_PAGESET_NONE)
		result = lh__engine_stale(receive->home.engine, &receive->stale, error);
	return result;
}

static int await_fetched(struct lh_receive *receive, struct lh_error *error)
{
	for (;;) {
		unsigned what =
			lh__engine_wait(receive->home.engine,
		                        LH_ENGINE_FETCHED | LH_ENGINE_BROKEN | LH_ENGINE_GUEST_LEFT, 20);
		int result;

		if (what & LH_ENGINE_BROKEN) {
			result = look(receive, REASON_MS, error);
			if (result < 0)
				return result;
			return lh__fail(error, -ECONNRESET, "a connection of data to the sender broke");
		}
		if (what & LH_ENGINE_FETCHED)
			return 0;
		result = look(receive, 0, error);
		if (result < 0)
			return result;
	}
}

/* Shows all that is fresh but for the pages of `except`, part by part. */
static int show(struct lh_receive *receive, const struct lh_pageset *except, struct lh_error *error)
{
	uint64_t pages = except->pages;
	struct lh_pageset others;
	int result = lh__send_set_open(&others, pages, error);

	if (result < 0)
		return result;
	for (uint64_t at = 0; result == 0 && at < pages; at += SLICE) {
		uint64_t count = pages - at < SLICE ? pages - at : SLICE;

		lh__pageset_add_run(&others, 0, pages);
		lh__pageset_remove_run(&others, at, count);
		lh__pageset_join(&others, except);
		result = lh__engine_show(receive->home.engine, &others, error);
		if (result == 0)
			result = look(receive, 0, error);
	}
	lh__send_set_close(&others);
	return result;
}

static int take_round(struct lh_receive *receive, uint64_t number, struct lh_error *error)
{
	int result = apply_sets(receive, error);

	if (result < 0)
		return result;
	result = lh__engine_fetch(receive->home.engine);
	if (result < 0)
		return lh__fail(error, result, "the pages of a round cannot be fetched: %s",
		                lh__errno_name(result));
	result = await_fetched(receive, error);
	receive->rounds++;
	/* What came in the first round, and is written at once, is known with the second. */
	if (result == 0 && receive->rounds > 1)
		result = show(receive, &receive->stale, error);
	if (result < 0)
		return result;
	lh__pageset_clear(&receive->stale);
	lh__pageset_clear(&receive->zero);
	result = lh__channel_send(receive->control, LH_MOVE_ROUND, 0, number, NULL, 0);
	if (result == 0)
		result = lh__channel_flush(receive->control);
	return result < 0 ? lh__receive_broken(receive, result, error) : 0;
}

static void take_stop(struct lh_receive *receive, uint64_t ago)
{
	uint64_t now = lh__clock(NULL);

	receive->stopped = true;
	lh__measure_stopped(receive->home.measure, ago < now ? now - ago : now);
}

/* From where the phase has changed nothing may fail any more. */
static int take_go(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;
	int result;

	if (!receive->stopped || !receive->device || receive->device_have != receive->device_size)
		return rules(error, "GO before all has been said");
	result = apply_sets(receive, error);
	if (result == 0)
		result = lh__state_put_device(home->state, receive->device, receive->device_size, error);
	if (result < 0)
		return result;
	lh__measure_threads(home->measure, home->machine.cpu, home->machine.cpus);
	if (!lh__receive_gate_go(receive->gate, home->state))
		return lh__fail(error, -ECONNRESET, "the sender has connected anew before GO");
	receive->go = lh__clock(NULL);
	if (lh__channel_send(receive->control, LH_MOVE_GO, 0, 0, NULL, 0) < 0 ||
	    lh__channel_flush(receive->control) < 0)
		lh__receive_drop(receive);
	lh__receive_ours(receive->options);
	if (lh__engine_answer(home->engine, &receive->stale) < 0)
		return lh__fail(error, -EREMOTEIO, "faults cannot be answered");
	return 0;
}

enum { GIVEN = 1 };

static int take(struct lh_receive *receive, const struct lh_move_message *message, struct lh_error *error)
{
	int result;

	switch (message->type) {
	case LH_MOVE_PAGES: return take_pages(receive, message, error);
	case LH_MOVE_ROUND: return take_round(receive, message->value, error);
	case LH_MOVE_STOP: take_stop(receive, message->value); return 0;
	case LH_MOVE_DEVICE: return take_device(receive, message, error);
	case LH_MOVE_GO: result = take_go(receive, error); return result < 0 ? result : GIVEN;
	case LH_MOVE_CANCEL:
	case LH_MOVE_FAILED: return given_up(message, error);
	default: return rules(error, "a message that has no place here");
	}
}

int lh__receive_copy(struct lh_receive *receive, struct lh_error *error)
{
	for (;;) {
		struct lh_move_message message;
		int result = lh__channel_wait(receive->control, &message, 50);

		if (result < 0)
			return lh__receive_broken(receive, result, error);
		if (result == 0)
			result = look(receive, 0, error);
		else
			result = take(receive, &message, error);
		if (result != 0)
			return result < 0 ? result : 0;
	}
}
