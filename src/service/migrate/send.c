/* send.c - the whole of sending: who goes on with what an earlier sender has left, and who begins anew. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "service/migrate/send_inside.h"
#include "sys/sys.h"

#define PROGRESS_NS UINT64_C(100000000)

void lh__send_say(struct lh_send *send, const char *format, ...)
{
	va_list arguments;
	char line[512];

	if (!send->options->say)
		return;
	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	send->options->say(send->options->context, line);
}

bool lh__send_cancelled(const struct lh_send *send)
{
	struct pollfd poll_for = { .fd = send->options->cancel, .events = POLLIN };

	return send->options->cancel >= 0 && poll(&poll_for, 1, 0) > 0;
}

void lh__send_progress(struct lh_send *send)
{
	const struct lh_plan_status *status = &send->status;
	struct lh_progress progress = { .phase = send->go ? LH_MOVE_RUNNING : LH_MOVE_COPYING,
		                        .round = send->rounds + 1,
		                        .connected = send->control != NULL,
		                        .pages = send->stale.pages,
		                        .here = status->here,
		                        .stale = status->pages - status->here,
		                        .faults_a_second = status->faults_a_second,
		                        .bytes_a_second = status->bytes_a_second,
		                        .left_ms = UINT64_MAX };
	uint64_t now = lh__clock(NULL);

	if (!send->options->progress || now - send->progressed < PROGRESS_NS)
		return;
	send->progressed = now;
	if (status->bytes_a_second > 0)
		progress.left_ms = progress.stale * LH_PAGE_SIZE * 1000 / status->bytes_a_second;
	send->options->progress(send->options->context, &progress);
}

void lh__send_step(struct lh_send *send, enum lh_progress_step step)
{
	struct lh_progress progress = { .step = step, .phase = LH_MOVE_COPYING, .left_ms = UINT64_MAX };

	if (send->options->progress)
		send->options->progress(send->options->context, &progress);
}

/* A guest that an earlier sender has left standing still, though it was not given away. */
static int wake_left(struct lh_send *send, struct lh_error *error)
{
	char status[32];
	int result = lh__machine_status(&send->machine, status, error);

	if (result < 0 || strcmp(status, "running") == 0)
		return result;
	return lh__machine_resume(&send->machine, send->was_running, error);
}

/* Killed when all was done: 1, unless somebody has let the guest go on here since. */
static int find_complete(struct lh_send *send, struct lh_error *error)
{
	char status[32];
	int result = lh__machine_status(&send->machine, status, error);

	if (result == 0 && strcmp(status, "postmigrate") == 0)
		return 1;
	lh__state_close(send->note, result == 0);
	send->note = NULL;
	return result;
}

/* What an earlier sender has left: 1 and *note, where the guest has been given away; 0: nothing any more. */
static int find_note(struct lh_send *send, struct lh_error *error)
{
	char path[1100];
	int result;

	lh__send_note_path(&send->machine, path);
	result = lh__state_open(path, &send->note, error);
	if (result == -ENOENT)
		return 0;
	if (result < 0)
		return result;
	switch (lh__state_phase(send->note)) {
	case LH_MOVE_GONE:
	case LH_MOVE_RUNNING: return 1;
	case LH_MOVE_COMPLETE: return find_complete(send, error);
	default: break;
	}
	send->was_running = lh__send_note_ran(send->note);
	result = send->was_running ? wake_left(send, error) : 0;
	lh__state_close(send->note, result == 0);
	send->note = NULL;
	return result;
}

static int take_over(struct lh_send *send)
{
	send->resumed = true;
	send->stopped = true;
	send->was_running = lh__send_note_ran(send->note);
	send->maybe_gone = lh__state_phase(send->note) == LH_MOVE_GONE;
	send->go = send->began;
	return 0;
}

static int make_note(struct lh_send *send, struct lh_error *error)
{
	uint8_t id[LH_MOVE_ID];
	char path[1100];

	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return lh__fail(error, -EIO, "no random number for the migration's name");
	lh__send_note_path(&send->machine, path);
	return lh__state_create(path, id, send->machine.region, send->machine.regions, &send->note, error);
}

static int check_status(struct lh_send *send, struct lh_error *error)
{
	char status[32];
	int result = lh__machine_status(&send->machine, status, error);

	if (result == 0 && strcmp(status, "postmigrate") == 0)
		return lh__fail(
			error, -EINVAL,
			"the guest has been migrated already (postmigrate); to let it run here again write "
			"cont to its monitor");
	send->was_running = result == 0 && strcmp(status, "running") == 0;
	return result;
}

static int open_machine(struct lh_send *send, struct lh_error *error)
{
	int result = lh__machine_open(send->options->monitor, &send->machine, error);

	if (result < 0)
		return result;
	send->has_machine = true;
	result = find_note(send, error);
	if (result > 0)
		return take_over(send);
	if (result == 0)
		result = check_status(send, error);
	if (result == 0)
		result = lh__machine_alone(&send->machine, error);
	return result < 0 ? result : make_note(send, error);
}

static int open_memory(struct lh_send *send, struct lh_error *error)
{
	struct lh_pages_options options = { .region = send->machine.region,
		                            .regions = send->machine.regions };
	uint64_t pages = send->note->pages;
	int result = lh__pages_open(&options, &send->pages, error);

	if (result == 0)
		result = lh__send_set_open(&send->stale, pages, error);
	if (result == 0)
		result = lh__send_set_open(&send->zero, pages, error);
	if (result == 0)
		result = lh__send_set_open(&send->absent, pages, error);
	return result;
}

/* Hints are a help alone: where the guest's physical memory cannot be found out there are none. */
static void find_physical(struct lh_send *send)
{
	if (lh__machine_physical(&send->machine, send->physical, LH_STATE_REGIONS_MAX, &send->physical_count,
	                         NULL) < 0)
		send->physical_count = 0;
}

static int move(struct lh_send *send, struct lh_error *error)
{
	struct lh_move_hello answer;
	int result;

	lh__send_step(send, LH_PROGRESS_CONNECTS);
	result = lh__send_connect(send, LH_MOVE_COPYING, &answer, error);
	if (result == 0 && !send->options->postcopy)
		result = lh__send_rounds(send, error);
	if (result == 0)
		result = lh__send_switch(send, error);
	if (result < 0) {
		if (lh__send_cancelled(send)) /* whatever that has broken */
			result = lh__fail(error, -ECANCELED, "cancelled");
		lh__send_return(send, error);
	}
	return result;
}

static int give(struct lh_send *send, struct lh_error *error)
{
	int result;

	if (lh__state_phase(send->note) == LH_MOVE_COMPLETE) {
		lh__send_say(send, "the guest has been moved already, with all of its memory");
		return 0;
	}
	if (send->resumed) {
		lh__send_say(send, "going on with a guest that has been given to the destination");
		lh__send_hint(send);
	}
	result = lh__send_serve(send, error);
	if (result == -EREMOTEIO)
		lh__send_return(send, error);
	return result;
}

static void close_all(struct lh_send *send)
{
	enum lh_move_phase phase;

	lh__send_disconnect(send);
	if (send->prepared)
		lh__machine_save_not(&send->machine, &send->saved);
	if (send->watched)
		lh__written_close(&send->written);
	if (send->pages)
		lh__pages_close(send->pages);
	lh__send_set_close(&send->stale);
	lh__send_set_close(&send->zero);
	lh__send_set_close(&send->absent);
	json_decref(send->theirs);
	if (send->note) {
		phase = lh__state_phase(send->note);
		lh__state_close(send->note, phase == LH_MOVE_COMPLETE || phase == LH_MOVE_RETURNED ||
		                                    (phase == LH_MOVE_COPYING && !send->stopped));
	}
	if (send->has_machine)
		lh__machine_close(&send->machine);
}

int lh__send(const struct lh_send_options *options, json_t **stats, struct lh_error *error)
{
	struct lh_send send = { .options = options, .began = lh__clock(NULL) };
	struct lh_error own = { 0, "" };
	int result = open_machine(&send, &own);

	if (result == 0)
		result = open_memory(&send, &own);
	if (result == 0)
		find_physical(&send);
	if (result == 0 && !send.resumed)
		result = move(&send, &own);
	if (result == 0)
		result = give(&send, &own);
	*stats = lh__send_stats(&send, result, &own);
	close_all(&send);
	if (result < 0 && error)
		*error = own;
	return result;
}

int lh__send_recover(const char *monitor, struct lh_error *error)
{
	const struct lh_send_options options = { .monitor = monitor, .cancel = -1 };
	struct lh_send send = { .options = &options };
	int result = lh__machine_open(monitor, &send.machine, error);

	if (result < 0)
		return result;
	send.has_machine = true;
	result = find_note(&send, error);
	if (result > 0) { /* the next sender's */
		lh__state_close(send.note, false);
		send.note = NULL;
	}
	close_all(&send);
	return result;
}

/* The machine is as a guest leaves it, and there is no note, or one that all was done. */
static bool has_left(struct lh_send *send)
{
	char status[32], path[1100];
	int result = lh__machine_status(&send->machine, status, NULL);

	if (result < 0 || strcmp(status, "postmigrate") != 0)
		return false;
	lh__send_note_path(&send->machine, path);
	result = lh__state_open(path, &send->note, NULL);
	return result == -ENOENT || (result == 0 && lh__state_phase(send->note) == LH_MOVE_COMPLETE);
}

static bool runs(const char *monitor)
{
	struct lh_machine machine;
	char status[32];
	bool so;

	if (lh__machine_open(monitor, &machine, NULL) < 0)
		return false;
	so = lh__machine_status(&machine, status, NULL) == 0 &&
	     (strcmp(status, "running") == 0 || strcmp(status, "paused") == 0);
	lh__machine_close(&machine);
	return so;
}

bool lh__send_is_over(const char *source, const char *destination)
{
	const struct lh_send_options options = { .monitor = source, .cancel = -1 };
	struct lh_send send = { .options = &options };
	bool over;

	if (lh__machine_open(source, &send.machine, NULL) < 0)
		return false;
	send.has_machine = true;
	over = has_left(&send) && runs(destination);
	if (send.note) {
		lh__state_close(send.note, over);
		send.note = NULL;
	}
	close_all(&send);
	return over;
}
