/*
 * machine_load.c - see machine.h. The destination: a QEMU that waits gets its device state.
 *
 * It loads it in its main thread, which touches the guest's memory meanwhile and takes no command as long as
 * a page is missing. So after lh__machine_load nothing is asked of it where its events tell the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/migrate/machine_inside.h"
#include "sys/sys.h"

#define ASK_MS_MIN 10 /* a machine that is asked how it is gets so long */

int lh__machine_awaits(struct lh_machine *machine, struct lh_error *error)
{
	char status[32], migration[32];
	int rc = lh__machine_status(machine, status, error);

	if (!rc)
		rc = lh__machine_migration(machine, migration, NULL, error);
	if (rc)
		return rc;
	if (strcmp(status, "inmigrate") != 0)
		return lh__fail(error, -EINVAL,
		                "the destination's QEMU does not wait for a machine (state \"%s\"): "
		                "start it with -incoming defer",
		                status);
	if (strcmp(migration, "none") != 0)
		return lh__fail(error, -EINVAL,
		                "the destination's QEMU waits for a machine from elsewhere (%s): "
		                "start it with -incoming defer",
		                migration);
	return lh__machine_capabilities_set(machine, error);
}

static int load(struct lh_machine *machine, struct lh_error *error)
{
	int rc = lh__machine_forget_events(machine, error);

	if (rc)
		return rc;
	machine->loading = lh__machine_now();
	return lh__qmp_command(machine->qmp, "migrate-incoming",
	                       json_pack("{s:s}", "uri", "fd:" LH_MACHINE_DESCRIPTOR), -1, NULL, error);
}

int lh__machine_load(struct lh_machine *machine, int fd, struct lh_error *error)
{
	int rc = lh__machine_give(machine, fd, O_RDONLY, error);

	return rc ? rc : load(machine, error);
}

int lh__machine_load_prepare(struct lh_machine *machine, struct lh_error *error)
{
	int fd, rc;

	if (machine->device >= 0)
		return 0;
	fd = memfd_create("linehome-device", MFD_CLOEXEC);
	if (fd < 0)
		return lh__fail(error, -errno, "a memory file: %s", lh__errno_name(errno));
	rc = lh__machine_give(machine, fd, O_RDONLY, error);
	if (rc)
		close(fd);
	else
		machine->device = fd;
	return rc;
}

int lh__machine_load_now(struct lh_machine *machine, struct lh_error *error)
{
	return load(machine, error);
}

/* Of a machine of whose load we have not seen the beginning. 1: it has its state, 0: not yet. */
static int ask(struct lh_machine *machine, int timeout_ms, uint64_t *at, struct lh_error *error)
{
	char status[32];
	int rc;

	lh__qmp_limit(machine->qmp, timeout_ms > ASK_MS_MIN ? timeout_ms : ASK_MS_MIN);
	rc = lh__machine_status(machine, status, error);
	lh__qmp_limit(machine->qmp, 0);
	if (rc == -ETIMEDOUT)
		return 0; /* its main thread waits for a page */
	if (rc || !strcmp(status, "inmigrate"))
		return rc;
	*at = lh__machine_now();
	return 1;
}

/* What an event says of the load: 1, 0 or -EREMOTEIO. */
static int says(const json_t *event, struct lh_error *error)
{
	const char *name = json_string_value(json_object_get(event, "event"));
	const char *status = json_string_value(json_object_get(json_object_get(event, "data"), "status"));

	if (!strcmp(name, "RESUME"))
		return 1;
	if (strcmp(name, "MIGRATION") != 0 || !status)
		return 0;
	if (!strcmp(status, "failed"))
		return lh__fail(
			error, -EREMOTEIO,
			"the destination's QEMU refuses the machine's device state (its own messages say "
			"why): both have to be started with the same devices");
	return !strcmp(status, "completed");
}

int lh__machine_loaded(struct lh_machine *machine, int timeout_ms, uint64_t *at, struct lh_error *error)
{
	uint64_t deadline = lh__machine_now() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000;
	json_t *event;
	int rc;

	if (!machine->loading) {
		rc = ask(machine, timeout_ms, at, error);
		if (rc)
			return rc;
	}
	do {
		uint64_t now = lh__machine_now();
		uint64_t left = deadline > now ? (deadline - now + 999999) / 1000000 : 0;

		rc = lh__qmp_event(machine->qmp, timeout_ms < 0 ? -1 : (int)left, &event, error);
		if (rc <= 0)
			return rc;
		rc = says(event, error);
		*at = lh__machine_time_of(event, machine->loading);
		json_decref(event);
	} while (rc == 0);
	return rc;
}
