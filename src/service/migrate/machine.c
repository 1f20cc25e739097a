/*
 * machine.c - see machine.h. Connecting, and what can be asked of a machine at any time.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "service/code/remote.h"
#include "service/migrate/machine_inside.h"
#include "sys/sys.h"

#define OPEN_MS 5000  /* for a monitor to greet */
#define CLOSE_MS 1000 /* for what we put back when nobody waits for it any more */

uint64_t lh__machine_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t lh__machine_time_of(const json_t *event, uint64_t from)
{
	const json_t *stamp = json_object_get(event, "timestamp");
	json_int_t seconds = json_integer_value(json_object_get(stamp, "seconds"));
	json_int_t micro = json_integer_value(json_object_get(stamp, "microseconds"));
	uint64_t now = lh__machine_now();
	struct timespec wall;
	int64_t ago;

	clock_gettime(CLOCK_REALTIME, &wall);
	ago = ((int64_t)wall.tv_sec - seconds) * 1000000000 + wall.tv_nsec - micro * 1000;
	if (seconds <= 0 || ago < 0)
		return now;
	return now - from < (uint64_t)ago ? from : now - (uint64_t)ago;
}

int lh__machine_word(const json_t *object, const char *name, char *out, size_t size, struct lh_error *error)
{
	const char *word = json_string_value(json_object_get(object, name));

	if (!word || strlen(word) >= size)
		return lh__fail(error, -EPROTO, "QEMU's monitor has answered without a proper \"%s\"", name);
	memcpy(out, word, strlen(word) + 1);
	return 0;
}

int lh__machine_status(struct lh_machine *machine, char status[32], struct lh_error *error)
{
	json_t *result;
	int rc = lh__qmp_command(machine->qmp, "query-status", NULL, -1, &result, error);

	if (rc)
		return rc;
	rc = lh__machine_word(result, "status", status, 32, error);
	json_decref(result);
	return rc;
}

int lh__machine_migration(struct lh_machine *machine, char status[32], uint64_t *downtime_ms,
                          struct lh_error *error)
{
	json_t *result;
	int rc = lh__qmp_command(machine->qmp, "query-migrate", NULL, -1, &result, error);

	if (rc)
		return rc;
	if (downtime_ms)
		*downtime_ms = (uint64_t)json_integer_value(json_object_get(result, "downtime"));
	if (json_object_get(result, "status"))
		rc = lh__machine_word(result, "status", status, 32, error);
	else
		memcpy(status, "none", sizeof("none"));
	json_decref(result);
	return rc;
}

int lh__machine_forget_events(struct lh_machine *machine, struct lh_error *error)
{
	json_t *event;
	int rc;

	while ((rc = lh__qmp_event(machine->qmp, 0, &event, error)) > 0)
		json_decref(event);
	return rc;
}

/* ---- opening ---- */

static int find_cpus(struct lh_machine *machine, struct lh_error *error)
{
	json_t *result, *cpu;
	size_t i;
	int rc = lh__qmp_command(machine->qmp, "query-cpus-fast", NULL, -1, &result, error);

	if (rc)
		return rc;
	if (json_array_size(result) > LH_MACHINE_CPUS_MAX)
		rc = lh__fail(error, -EINVAL, "the machine has %zu vCPUs: more than %u",
		              json_array_size(result), LH_MACHINE_CPUS_MAX);
	machine->cpus = 0;
	if (!rc)
		json_array_foreach(result, i, cpu) machine->cpu[machine->cpus++] =
			(pid_t)json_integer_value(json_object_get(cpu, "thread-id"));
	json_decref(result);
	return rc;
}

int lh__machine_open(const char *monitor, struct lh_machine *machine, struct lh_error *error)
{
	int rc;

	memset(machine, 0, sizeof(*machine));
	machine->device = -1;
	rc = lh__qmp_open(monitor, OPEN_MS, &machine->qmp, error);
	if (rc)
		return rc;
	machine->process = lh__qmp_process(machine->qmp);
	rc = find_cpus(machine, error);
	if (!rc)
		rc = lh__machine_find_memory(machine, error);
	if (rc)
		lh__machine_close(machine);
	return rc;
}

void lh__machine_close(struct lh_machine *machine)
{
	if (machine->qmp) {
		lh__qmp_limit(machine->qmp, CLOSE_MS);
		lh__machine_capabilities_back(machine);
		if (machine->device >= 0 && !machine->loading)
			lh__machine_take_back(machine);
		if (machine->device >= 0)
			close(machine->device);
	}
	machine->device = -1;
	json_decref(machine->capabilities);
	lh__qmp_close(machine->qmp);
	machine->capabilities = NULL;
	machine->qmp = NULL;
}

/* ---- who else has the memory ---- */

struct looking {
	size_t files;
	dev_t device[LH_STATE_REGIONS_MAX];
	ino_t inode[LH_STATE_REGIONS_MAX];
};

static int one_of_them(void *context, const struct lh_mapping *mapping)
{
	const struct looking *looking = context;

	for (size_t i = 0; i < looking->files; i++)
		if (looking->inode[i] == mapping->inode &&
		    looking->device[i] == makedev(mapping->device_major, mapping->device_minor))
			return (int)i + 1;
	return 0;
}

static void name_of(pid_t process, char *out, size_t size)
{
	char path[64];
	FILE *file;

	snprintf(out, size, "?");
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)process);
	file = fopen(path, "re");
	if (!file)
		return;
	if (fgets(out, (int)size, file))
		out[strcspn(out, "\n")] = '\0';
	fclose(file);
}

static int look_at(const struct lh_machine *machine, struct looking *looking, pid_t process,
                   struct lh_error *error)
{
	char name[64];
	int found;

	if (process == machine->process || process == getpid())
		return 0;
	found = lh__mappings(process, one_of_them, looking);
	if (found <= 0)
		return 0; /* also: it has ended, or may not be looked at */
	name_of(process, name, sizeof(name));
	return lh__fail(
		error, -EBUSY,
		"%s (process %d) has the guest's memory mapped too (%s): what it writes would be lost", name,
		(int)process, machine->region[found - 1].path);
}

int lh__machine_alone(const struct lh_machine *machine, struct lh_error *error)
{
	struct looking looking = { .files = machine->regions };
	struct dirent *entry;
	struct stat status;
	int rc = 0;
	DIR *all;

	for (size_t i = 0; i < machine->regions; i++) {
		if (stat(machine->region[i].path, &status))
			return lh__fail(error, -errno, "%s: %s", machine->region[i].path,
			                lh__errno_name(errno));
		looking.device[i] = status.st_dev;
		looking.inode[i] = status.st_ino;
	}
	all = opendir("/proc");
	if (!all)
		return lh__fail(error, -errno, "/proc: %s", lh__errno_name(errno));
	while (!rc && (entry = readdir(all))) {
		pid_t process = (pid_t)strtol(entry->d_name, NULL, 10);

		if (process > 0)
			rc = look_at(machine, &looking, process, error);
	}
	closedir(all);
	return rc;
}
