/*
 * machine_save.c - see machine.h. The source: a machine stops, and its device state is saved.
 *
 * By QEMU's own migration, into a memory file, with the memory left out. That is one command: what comes
 * before it (capabilities, the descriptor) is done while the guest runs, and QEMU stops the guest itself, and
 * lets it run again itself where it fails. What then still can be left over, lh__machine_resume finds out by
 * asking, not from what we remember: the same is right after a sender that was killed.
 *
 *     running ----migrate---> finish-migrate ----> postmigrate
 *        ^                         |                   |
 *        +--- QEMU fails, cancel --+------- cont ------+
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "service/migrate/machine_inside.h"
#include "sys/sys.h"

#define SAVE_NS 30000000000ull   /* for the whole of a save; it takes milliseconds */
#define RESUME_NS 30000000000ull /* for QEMU to end a migration that was cancelled */
#define TURN_MS 500              /* without an event: the state is asked for */
#define NAP_NS 1000000

/* ---- capabilities ---- */

static const struct {
	const char *name;
	bool on;
} needed[] = {
	{ "x-ignore-shared", true },
	{ "events", true },
	/* These change what travels or how, or when it ends. */
	{ "xbzrle", false },
	{ "rdma-pin-all", false },
	{ "auto-converge", false },
	{ "zero-blocks", false },
	{ "compress", false },
	{ "postcopy-ram", false },
	{ "x-colo", false },
	{ "release-ram", false },
	{ "block", false },
	{ "return-path", false },
	{ "pause-before-switchover", false },
	{ "multifd", false },
	{ "background-snapshot", false },
	{ "validate-uuid", false },
	{ "zero-copy-send", false },
	{ "postcopy-preempt", false },
	{ "switchover-ack", false },
	{ "dirty-limit", false },
	{ "mapped-ram", false },
};

/* What has to change, of what is: those that this QEMU does not know are as they must be. */
static json_t *changes(const json_t *now, bool *knows)
{
	json_t *list = json_array(), *one;
	size_t i;

	*knows = false;
	json_array_foreach(now, i, one)
	{
		const char *name = json_string_value(json_object_get(one, "capability"));
		bool on = json_is_true(json_object_get(one, "state"));

		for (size_t k = 0; name && k < sizeof(needed) / sizeof(*needed); k++) {
			if (strcmp(name, needed[k].name) != 0)
				continue;
			*knows |= k == 0;
			if (on != needed[k].on)
				json_array_append_new(list, json_pack("{s:s, s:b}", "capability", name,
				                                      "state", needed[k].on));
		}
	}
	return list;
}

/* The opposite of each. */
static json_t *opposite(const json_t *list)
{
	json_t *back = json_array(), *one;
	size_t i;

	json_array_foreach(list, i, one)
		json_array_append_new(back, json_pack("{s:O, s:b}", "capability",
	                                              json_object_get(one, "capability"), "state",
	                                              !json_is_true(json_object_get(one, "state"))));
	return back;
}

static int set(struct lh_machine *machine, json_t *list, struct lh_error *error)
{
	return lh__qmp_command(machine->qmp, "migrate-set-capabilities",
	                       json_pack("{s:O}", "capabilities", list), -1, NULL, error);
}

int lh__machine_capabilities_set(struct lh_machine *machine, struct lh_error *error)
{
	json_t *now, *list;
	bool knows;
	int rc = lh__qmp_command(machine->qmp, "query-migrate-capabilities", NULL, -1, &now, error);

	if (rc)
		return rc;
	list = changes(now, &knows);
	json_decref(now);
	if (!list)
		return lh__fail(error, -ENOMEM, "no memory");
	if (!knows)
		rc = lh__fail(error, -ENOSYS, "this QEMU cannot leave shared memory out (x-ignore-shared)");
	if (!rc && json_array_size(list))
		rc = set(machine, list, error);
	if (!rc && json_array_size(list) && !machine->capabilities)
		machine->capabilities = opposite(list);
	json_decref(list);
	return rc;
}

void lh__machine_capabilities_back(struct lh_machine *machine)
{
	if (!machine->capabilities)
		return;
	(void)!set(machine, machine->capabilities, NULL);
	json_decref(machine->capabilities);
	machine->capabilities = NULL;
}

/* ---- descriptors ---- */

int lh__machine_give(struct lh_machine *machine, int fd, int flags, struct lh_error *error)
{
	char path[64];
	int rc, own;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, flags | O_CLOEXEC);
	if (own < 0)
		return lh__fail(error, -errno, "the device state's file: %s", lh__errno_name(errno));
	rc = lh__qmp_command(machine->qmp, "getfd", json_pack("{s:s}", "fdname", LH_MACHINE_DESCRIPTOR), own,
	                     NULL, error);
	close(own);
	return rc;
}

void lh__machine_take_back(struct lh_machine *machine)
{
	(void)!lh__qmp_command(machine->qmp, "closefd", json_pack("{s:s}", "fdname", LH_MACHINE_DESCRIPTOR),
	                       -1, NULL, NULL);
}

/* ---- saving ---- */

static bool is_one_of(const char *word, const char *const *words)
{
	for (; *words; words++)
		if (!strcmp(word, *words))
			return true;
	return false;
}

/* A migration that QEMU has not ended yet. */
static bool under_way(const char *migration)
{
	static const char *const words[] = { "setup",
		                             "active",
		                             "device",
		                             "pre-switchover",
		                             "postcopy-active",
		                             "postcopy-paused",
		                             "postcopy-recover",
		                             "postcopy-recover-setup",
		                             "colo",
		                             "wait-unplug",
		                             NULL };

	return is_one_of(migration, words);
}

static int may_be_saved(struct lh_machine *machine, struct lh_machine_saved *saved, struct lh_error *error)
{
	char status[32], migration[32];
	int rc = lh__machine_status(machine, status, error);

	if (!rc)
		rc = lh__machine_migration(machine, migration, NULL, error);
	if (rc)
		return rc;
	if (under_way(migration) || !strcmp(migration, "cancelling"))
		return lh__fail(error, -EBUSY, "QEMU is migrating this machine already (%s)", migration);
	if (!strcmp(status, "postmigrate"))
		return lh__fail(error, -EINVAL,
		                "the guest has been migrated away: if it does not run elsewhere, the "
		                "monitor's \"cont\" lets it go on here");
	saved->was_running = !strcmp(status, "running");
	if (!saved->was_running && strcmp(status, "paused") != 0 && strcmp(status, "prelaunch") != 0)
		return lh__fail(error, -EINVAL,
		                "the machine is in the state \"%s\": it can be moved while it is "
		                "running or paused",
		                status);
	return 0;
}

/* Looks for what has become of it. 1: completed; 0: nothing yet; -EIO: failed. */
static int look(struct lh_machine *machine, struct lh_machine_saved *saved, uint64_t began,
                struct lh_error *error)
{
	const char *name, *status;
	char migration[32];
	json_t *event;
	int rc = lh__qmp_event(machine->qmp, TURN_MS, &event, error);

	if (rc < 0)
		return rc;
	if (rc == 0) {
		rc = lh__machine_migration(machine, migration, NULL, error);
		status = migration;
	} else {
		name = json_string_value(json_object_get(event, "event"));
		status = json_string_value(json_object_get(json_object_get(event, "data"), "status"));
		if (!strcmp(name, "STOP") && !saved->stopped)
			saved->stopped = lh__machine_time_of(event, began);
		if (strcmp(name, "MIGRATION") != 0 || !status)
			status = "";
		snprintf(migration, sizeof(migration), "%s", status);
		status = migration;
		json_decref(event);
		rc = 0;
	}
	if (rc)
		return rc;
	if (!strcmp(status, "failed") || !strcmp(status, "cancelled") || !strcmp(status, "cancelling"))
		return -EIO;
	return !strcmp(status, "completed");
}

/* QEMU's words for why a migration has failed. */
static int failed(struct lh_machine *machine, struct lh_error *error)
{
	char words[200] = "no reason given";
	json_t *result;

	if (!lh__qmp_command(machine->qmp, "query-migrate", NULL, -1, &result, NULL)) {
		const char *told = json_string_value(json_object_get(result, "error-desc"));

		snprintf(words, sizeof(words), "%s", told ? told : words);
		words[strcspn(words, "\r\n")] = '\0';
		json_decref(result);
	}
	return lh__fail(error, -EIO, "QEMU could not save the machine's devices: %s", words);
}

static int await_saved(struct lh_machine *machine, struct lh_machine_saved *saved, uint64_t began,
                       struct lh_error *error)
{
	struct stat status;
	int rc;

	do {
		rc = look(machine, saved, began, error);
		if (rc == 0 && lh__machine_now() - began > SAVE_NS)
			return lh__fail(error, -ETIMEDOUT,
			                "QEMU has not saved the machine's devices in time");
	} while (rc == 0);
	if (rc < 0)
		return rc == -EIO ? failed(machine, error) : rc;
	if (!saved->stopped)
		saved->stopped = began;
	if (fstat(saved->fd, &status) || !status.st_size)
		return lh__fail(error, -EIO, "QEMU has saved nothing of the machine's devices");
	saved->size = (size_t)status.st_size;
	return 0;
}

/* The guest may stop at any moment from here on. */
static int save(struct lh_machine *machine, struct lh_machine_saved *saved, struct lh_error *error)
{
	uint64_t began;
	int rc = lh__machine_forget_events(machine, error);

	if (rc)
		return rc;
	began = lh__machine_now();
	rc = lh__qmp_command(machine->qmp, "migrate", json_pack("{s:s}", "uri", "fd:" LH_MACHINE_DESCRIPTOR),
	                     -1, NULL, error);
	if (rc == -EREMOTEIO)
		lh__machine_take_back(machine); /* it did not begin */
	if (!rc)
		rc = await_saved(machine, saved, began, error);
	return rc;
}

static void close_saved(struct lh_machine_saved *saved)
{
	if (saved->fd >= 0)
		close(saved->fd);
	saved->fd = -1;
}

int lh__machine_save_prepare(struct lh_machine *machine, struct lh_machine_saved *saved,
                             struct lh_error *error)
{
	int rc;

	memset(saved, 0, sizeof(*saved));
	saved->fd = -1;
	rc = may_be_saved(machine, saved, error);
	if (rc)
		return rc;
	saved->fd = memfd_create("linehome-device", MFD_CLOEXEC);
	if (saved->fd < 0)
		return lh__fail(error, -errno, "a memory file: %s", lh__errno_name(errno));
	rc = lh__machine_capabilities_set(machine, error);
	if (!rc)
		rc = lh__machine_give(machine, saved->fd, O_RDWR, error);
	if (rc)
		close_saved(saved);
	return rc;
}

int lh__machine_save_now(struct lh_machine *machine, struct lh_machine_saved *saved, struct lh_error *error)
{
	struct lh_error second;
	int rc = save(machine, saved, error);

	if (rc && rc != -ECONNRESET && lh__machine_resume(machine, saved->was_running, &second))
		lh__fail(error, rc, "%s; and then: %s", error ? error->text : "", second.text);
	if (rc)
		close_saved(saved);
	return rc;
}

void lh__machine_save_not(struct lh_machine *machine, struct lh_machine_saved *saved)
{
	if (saved->fd >= 0)
		lh__machine_take_back(machine);
	close_saved(saved);
}

int lh__machine_save(struct lh_machine *machine, struct lh_machine_saved *saved, struct lh_error *error)
{
	int rc = lh__machine_save_prepare(machine, saved, error);

	return rc ? rc : lh__machine_save_now(machine, saved, error);
}

int lh__machine_downtime(struct lh_machine *machine, uint64_t *ms, struct lh_error *error)
{
	char migration[32];

	return lh__machine_migration(machine, migration, ms, error);
}

/* ---- going back ---- */

static int go_on(struct lh_machine *machine, struct lh_error *error)
{
	return lh__qmp_command(machine->qmp, "cont", NULL, -1, NULL, error);
}

/* One step towards where it was. 1: it is there; 0: look again; an error: it will not be. */
static int step_back(struct lh_machine *machine, bool running, bool *cancelled, struct lh_error *error)
{
	char status[32], migration[32];
	int rc = lh__machine_migration(machine, migration, NULL, error);

	if (!rc)
		rc = lh__machine_status(machine, status, error);
	if (rc)
		return rc;
	if (under_way(migration)) {
		if (!*cancelled)
			rc = lh__qmp_command(machine->qmp, "migrate_cancel", NULL, -1, NULL, error);
		*cancelled = true;
		return rc;
	}
	if (!strcmp(migration, "cancelling") || !strcmp(status, "finish-migrate"))
		return 0;
	if (!running)
		return 1;
	/*
	 * A migration that failed or was cancelled late can leave the disks of a machine that runs given up,
	 * and the next one would end QEMU (block.c, bdrv_inactivate_recurse). "cont" takes them back.
	 */
	if (!strcmp(status, "running"))
		return lh__qmp_command(machine->qmp, "cont", NULL, -1, NULL, error) < 0 ? -EREMOTEIO : 1;
	if (strcmp(status, "postmigrate") != 0 && strcmp(status, "paused") != 0 &&
	    strcmp(status, "prelaunch") != 0)
		return lh__fail(error, -EINVAL, "the machine is in the state \"%s\" and does not go on",
		                status);
	return go_on(machine, error);
}

int lh__machine_resume(struct lh_machine *machine, bool running, struct lh_error *error)
{
	uint64_t deadline = lh__machine_now() + RESUME_NS;
	const struct timespec nap = { 0, NAP_NS };
	bool cancelled = false;
	int rc;

	while ((rc = step_back(machine, running, &cancelled, error)) == 0) {
		if (lh__machine_now() > deadline)
			return lh__fail(error, -ETIMEDOUT, "QEMU has not let the guest go on in time");
		nanosleep(&nap, NULL);
	}
	if (rc < 0)
		return rc;
	lh__machine_capabilities_back(machine);
	return 0;
}
