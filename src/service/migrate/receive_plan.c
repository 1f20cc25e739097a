/* receive_plan.c - what a sender wants to move here, and whether that can be: PLAN and what follows it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/receive_inside.h"
#include "service/migrate/send_inside.h"
#include "sys/sys.h"

#define PATIENCE_MS 10000
#define REPORT_NS UINT64_C(100000000)

void lh__receive_drop(struct lh_receive *receive)
{
	if (receive->home.engine)
		lh__engine_supply(receive->home.engine, NULL);
	if (receive->control)
		lh__channel_close(receive->control);
	receive->control = NULL;
}

void lh__receive_take(struct lh_receive *receive, struct lh_channel *channel)
{
	lh__receive_drop(receive);
	receive->control = channel;
	receive->connections++;
}

int lh__receive_broken(struct lh_receive *receive, int code, struct lh_error *error)
{
	const char *why = receive->control ? lh__channel_why(receive->control) : NULL;

	return lh__fail(error, code, "the connection to the sender broke: %s",
	                why && why[0] ? why : lh__errno_name(code));
}

static int read_plan(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_move_message message;
	int result = lh__channel_wait(receive->control, &message, PATIENCE_MS);

	if (result <= 0)
		return lh__receive_broken(receive, result ? result : -ETIMEDOUT, error);
	if (message.type != LH_MOVE_PLAN)
		return lh__fail(error, -EPROTO, "the sender begins with a message of type %u", message.type);
	return lh__plan_read((const char *)message.body, message.size, &receive->plan, error);
}

/* The machines must be alike. */
static int check_regions(const struct lh_plan *plan, const struct lh_state_region *region, size_t regions,
                         struct lh_error *error)
{
	if (plan->regions != regions)
		return lh__fail(error, -EAGAIN,
		                "the source has %zu memory backends and the destination has %zu",
		                plan->regions, regions);
	for (size_t i = 0; i < regions; i++)
		if (strcmp(plan->region[i].name, region[i].name) != 0 ||
		    plan->region[i].pages != region[i].pages)
			return lh__fail(error, -EAGAIN,
			                "memory backend %s of %lu KiB at the source, %s of %lu KiB at the "
			                "destination: start QEMU there with the same",
			                plan->region[i].name, (unsigned long)plan->region[i].pages * 4,
			                region[i].name, (unsigned long)region[i].pages * 4);
	return 0;
}

static int check_plan(struct lh_receive *receive, struct lh_error *error)
{
	const struct lh_plan *plan = &receive->plan;
	const struct lh_receive_home *home = &receive->home;

	if (plan->lanes < 2 || plan->lanes > LH_RECEIVE_LANES_MAX)
		return lh__fail(error, -EAGAIN, "%u channels; at most 16 of data are taken", plan->lanes);
	if (plan->resume != (home->state != NULL))
		return lh__fail(error, -EAGAIN,
		                plan->resume ? "there is nothing here to go on with"
		                             : "this migration has begun already");
	if (home->state)
		return check_regions(plan, home->state->region, home->state->regions, error);
	return check_regions(plan, home->machine.region, home->machine.regions, error);
}

void lh__receive_state_path(const struct lh_receive_home *home, char path[1100])
{
	size_t length = strlen(home->path);

	memcpy(path, home->path, length);
	strcpy(path + length, ".linehome");
}

static int open_home(struct lh_receive *receive, const uint8_t id[LH_MOVE_ID], struct lh_error *error)
{
	struct lh_receive_home *home = &receive->home;
	char path[1100];
	int result;

	lh__receive_state_path(home, path);
	result = lh__state_create(path, id, home->machine.region, home->machine.regions, &home->state, error);
	if (result == 0)
		result = lh__receive_home_open(home, true, receive->plan.lanes, receive->plan.bandwidth,
		                               error);
	if (result == 0)
		result = lh__send_set_open(&receive->stale, home->state->pages, error);
	if (result == 0)
		result = lh__send_set_open(&receive->zero, home->state->pages, error);
	return result;
}

/* Waits for the channels of faults and data, and makes them the engine's supply. */
static int await_lanes(struct lh_receive *receive, struct lh_error *error)
{
	struct lh_channel *channel[LH_RECEIVE_LANES_MAX];
	unsigned lanes = receive->plan.lanes;
	struct lh_supply *supply;
	int result;

	for (unsigned waited = 0; !lh__receive_gate_lanes(receive->gate, lanes, channel); waited += 5) {
		struct lh_move_message message;

		result = lh__channel_wait(receive->control, &message, 5);
		if (result != 0)
			return lh__receive_broken(receive, result < 0 ? result : -EPROTO, error);
		if (waited > PATIENCE_MS)
			return lh__fail(error, -ETIMEDOUT, "the sender's channels of data did not come");
	}
	result = lh__supply_remote(channel, lanes, &supply);
	if (result < 0) {
		for (unsigned i = 0; i < lanes; i++)
			lh__channel_close(channel[i]);
		return lh__fail(error, result, "no memory for channels");
	}
	lh__engine_supply(receive->home.engine, supply);
	return 0;
}

static int answer(struct lh_receive *receive, const char *refusal)
{
	char *text = lh__plan_answer_write(refusal);
	int result = -ENOMEM;

	if (text)
		result = lh__channel_send(receive->control, LH_MOVE_PLAN, 0, 0, text, strlen(text));
	free(text);
	return result ? result : lh__channel_flush(receive->control);
}

static int prepare(struct lh_receive *receive, const struct lh_move_hello *hello, struct lh_error *error)
{
	int result = check_plan(receive, error);

	if (result < 0)
		return result;
	if (!receive->home.state)
		result = open_home(receive, hello->id, error);
	else if (receive->home.lanes != receive->plan.lanes)
		result = lh__receive_home_lanes(&receive->home, receive->plan.lanes, error);
	return result < 0 ? result : await_lanes(receive, error);
}

int lh__receive_plan(struct lh_receive *receive, const struct lh_move_hello *hello, struct lh_error *error)
{
	struct lh_error why = { 0, "" };
	int result = read_plan(receive, &why);

	if (result == 0)
		result = prepare(receive, hello, &why);
	if (receive->control && (result == 0 || why.text[0])) {
		int sent = answer(receive, result == 0 ? NULL : why.text);

		if (result == 0 && sent < 0)
			result = lh__receive_broken(receive, sent, &why);
	}
	if (result < 0 && error)
		*error = why;
	return result;
}

int lh__receive_report(struct lh_receive *receive, enum lh_move_phase phase)
{
	struct lh_receive_home *home = &receive->home;
	uint64_t now = lh__clock(NULL);
	struct lh_engine_counts counts;
	struct lh_measured measured;
	struct lh_plan_status status = { .phase = phase };
	char *text;
	int result;

	if (now - receive->reported < REPORT_NS)
		return 0;
	receive->reported = now;
	lh__engine_counts(home->engine, &counts);
	lh__measure_read(home->measure, now, &measured);
	status.pages = counts.pages;
	status.here = counts.fresh + counts.zero;
	status.faults = measured.faults[LH_FAULT_FAR] + measured.faults[LH_FAULT_HERE] +
	                measured.faults[LH_FAULT_ZERO];
	status.faults_a_second = measured.faults_a_second;
	status.bytes = counts.bytes_faults + counts.bytes_background + counts.bytes_copying;
	status.bytes_a_second = counts.bytes_a_second;
	text = lh__plan_status_write(&status);
	if (!text)
		return -ENOMEM;
	result = lh__channel_send(receive->control, LH_MOVE_STATUS, 0, 0, text, strlen(text));
	free(text);
	return result ? result : lh__channel_flush(receive->control);
}
