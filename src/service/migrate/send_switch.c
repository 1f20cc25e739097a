/*
 * send_switch.c - the switch-over: the guest stands still here, its device state and the last sets go to the
 * receiver, then GO. And the way back, where it was not given away.
 *
 * Scanning comes after QEMU has saved: from then on nothing of it writes to the guest's memory, so nothing is
 * missed. What is left is fetched while the destination's QEMU takes its state in, and what the guest touches
 * before it has come is asked for at once: that is sooner than if all of it were waited for first.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/migrate/send_inside.h"
#include "sys/sys.h"

void lh__send_note_path(const struct lh_machine *machine, char path[1100])
{
	snprintf(path, 1100, "%s.linehome-source", machine->region[0].path);
}

bool lh__send_note_ran(const struct lh_state *note)
{
	char word = 0;
	int fd = lh__state_device(note, NULL);

	if (fd < 0)
		return false; /* never stopped by us */
	if (read(fd, &word, 1) != 1)
		word = 0;
	close(fd);
	return word == 'r';
}

/* Whoever takes over has to know how the guest was. */
static int note_status(struct lh_send *send, struct lh_error *error)
{
	char status[32];
	int result = lh__machine_status(&send->machine, status, error);

	if (result < 0)
		return result;
	send->was_running = strcmp(status, "running") == 0;
	return lh__state_put_device(send->note, send->was_running ? "r" : "p", 1, error);
}

static int last_scan(struct lh_send *send, struct lh_error *error)
{
	int result;

	if (send->watched)
		return lh__send_scan(send, false, error);
	/* No rounds: all of it. */
	result = lh__pages_content(send->pages, &send->stale, error);
	lh__pageset_add_run(&send->zero, 0, send->zero.pages);
	lh__pageset_subtract(&send->zero, &send->stale);
	return result;
}

static int send_device(struct lh_send *send, const struct lh_machine_saved *saved)
{
	const uint8_t *bytes = mmap(NULL, saved->size, PROT_READ, MAP_SHARED, saved->fd, 0);
	int result = 0;

	if (bytes == MAP_FAILED)
		return -errno;
	for (size_t at = 0; result == 0 && at < saved->size;) {
		size_t size = saved->size - at < LH_MOVE_BODY_MAX ? saved->size - at : LH_MOVE_BODY_MAX;

		result = lh__channel_send(send->control, LH_MOVE_DEVICE, 0, saved->size, bytes + at, size);
		at += size;
	}
	munmap((void *)bytes, saved->size);
	return result;
}

/* STOP and the device state: the receiver deals with them while we scan. */
static int say_stop(struct lh_send *send)
{
	int result =
		lh__channel_send(send->control, LH_MOVE_STOP, 0, lh__clock(NULL) - send->stop.began, NULL, 0);

	if (result == 0)
		result = send_device(send, &send->saved);
	return result ? result : lh__channel_flush(send->control);
}

static int say_sets(struct lh_send *send)
{
	int result = lh__send_set(send->control, LH_MOVE_ZERO, &send->zero);

	return result ? result : lh__send_set(send->control, LH_MOVE_STALE, &send->stale);
}

/* From here on the guest may be the receiver's. */
static int go(struct lh_send *send, struct lh_error *error)
{
	int result;

	if (lh__send_cancelled(send))
		return lh__fail(error, -ECANCELED, "cancelled");
	lh__state_set_phase(send->note, LH_MOVE_GONE);
	send->maybe_gone = true;
	send->go = lh__clock(NULL);
	result = lh__channel_send(send->control, LH_MOVE_GO, 0, 0, NULL, 0);
	/* Where it breaks here the receiver, reached again, says whether it has arrived. */
	if (result < 0 || lh__channel_flush(send->control) < 0)
		lh__send_disconnect(send);
	return 0;
}

/* What has passed since `from`, which is then now. */
static uint64_t lap(uint64_t *from)
{
	uint64_t before = *from;

	*from = lh__clock(NULL);
	return *from - before;
}

static int stop_and_go(struct lh_send *send, struct lh_error *error)
{
	struct lh_send_stop *stop = &send->stop;
	uint64_t at = send->saved.stopped;
	int result;

	stop->began = at;
	stop->save = lap(&at);
	result = say_stop(send);
	if (result < 0)
		return lh__send_broken(send, result, error);
	stop->device = lap(&at);
	result = last_scan(send, error);
	if (result < 0)
		return result;
	stop->scan = lap(&at);
	result = say_sets(send);
	if (result < 0)
		return lh__send_broken(send, result, error);
	send->last_pages = lh__pageset_count(&send->stale);
	stop->sets = lap(&at);
	return go(send, error);
}

int lh__send_prepare(struct lh_send *send, struct lh_error *error)
{
	int result;

	lh__send_step(send, LH_PROGRESS_SWITCHES);
	result = note_status(send, error);
	if (result == 0)
		result = lh__machine_save_prepare(&send->machine, &send->saved, error);
	send->prepared = result == 0;
	return result;
}

int lh__send_switch(struct lh_send *send, struct lh_error *error)
{
	int result = send->prepared ? 0 : lh__send_prepare(send, error);

	if (result < 0)
		return result;
	if (lh__send_cancelled(send))
		return lh__fail(error, -ECANCELED, "cancelled");
	send->prepared = false;
	result = lh__machine_save_now(&send->machine, &send->saved, error);
	if (result < 0)
		return result;
	send->stopped = true;
	result = stop_and_go(send, error);
	close(send->saved.fd);
	return result;
}

/* Tells the receiver, which may have gone, that it is over. */
static void cancel_there(struct lh_send *send)
{
	if (send->control && lh__channel_send(send->control, LH_MOVE_CANCEL, 0, 0, NULL, 0) == 0)
		(void)!lh__channel_flush(send->control);
	lh__send_disconnect(send);
}

static void add_text(struct lh_error *error, const char *text)
{
	size_t used;

	if (!error)
		return;
	used = strlen(error->text);
	snprintf(error->text + used, sizeof(error->text) - used, "; %s", text);
}

void lh__send_return(struct lh_send *send, struct lh_error *error)
{
	struct lh_error why;
	int result = 0;

	if (lh__pages_failed(send->pages, &why) < 0)
		lh__send_tell(send, why.text);
	cancel_there(send);
	if (send->prepared)
		lh__machine_save_not(&send->machine, &send->saved);
	send->prepared = false;
	if (send->watched)
		lh__written_close(&send->written);
	send->watched = false;
	if (send->stopped)
		result = lh__machine_resume(&send->machine, send->was_running, &why);
	if (result < 0) {
		add_text(error, "and the guest stands still here, since its monitor says:");
		add_text(error, why.text);
		return; /* the note stays: it can be tried again */
	}
	send->stopped = false;
	lh__state_set_phase(send->note, LH_MOVE_RETURNED);
	add_text(error, send->was_running ? "the guest runs on here" : "the guest is here");
}

static struct lh_tables *read_tables(struct lh_send *send)
{
	uint64_t cr3[LH_MACHINE_CPUS_MAX], pages = 0;
	struct lh_tables_options options = { .physical = send->physical,
		                             .physical_count = send->physical_count,
		                             .cr3 = cr3,
		                             .read = lh__pages_read,
		                             .context = send->pages };
	struct lh_tables *tables;

	for (size_t i = 0; i < send->machine.regions; i++)
		pages += send->machine.region[i].pages;
	options.pages = pages;
	if (lh__machine_cr3(&send->machine, cr3, LH_MACHINE_CPUS_MAX, &options.cr3_count, NULL) < 0 ||
	    options.cr3_count == 0 || lh__tables_open(&options, &tables, NULL) < 0)
		return NULL;
	return tables;
}

void lh__send_hint(struct lh_send *send)
{
	struct lh_tables *tables;

	if (!send->has_machine || send->physical_count == 0)
		return;
	tables = read_tables(send);
	if (tables)
		lh__pages_tables(send->pages, tables);
}
