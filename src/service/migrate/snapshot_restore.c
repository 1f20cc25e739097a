/*
 * snapshot_restore.c - the lazy way back from a snapshot: the same home of a guest's memory as that of a
 * migration, with files of this machine as the supply.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "service/migrate/receive_inside.h"
#include "service/migrate/send_inside.h"
#include "service/migrate/snapshot.h"
#include "sys/sys.h"

#define TICK_MS 20
#define LOADING_TICK_MS 2
#define LANES 2u

struct restore {
	const struct lh_receive_options *options;
	const char *dir;
	struct lh_receive_home home;
	json_t *machine; /* machine.json */
	struct lh_state_region region[LH_STATE_REGIONS_MAX];
	size_t regions;
	uint64_t pages;
	struct lh_tables *tables;
	struct lh_pages *memory; /* of the snapshot: its holes, and pages for who walks tables */
	bool runs, ended, late_said;
	uint64_t progressed;
};

/* ---- machine.json ---- */

static int malformed(const struct restore *restore, const char *what, struct lh_error *error)
{
	return lh__fail(error, -EBADMSG, "%s/machine.json: no snapshot of this version: %s", restore->dir, what);
}

static int read_machine(struct restore *restore, struct lh_error *error)
{
	char path[1100];
	json_error_t why;

	if (snprintf(path, sizeof(path), "%s/machine.json", restore->dir) >= (int)sizeof(path))
		return lh__fail(error, -ENAMETOOLONG, "%s: too long", restore->dir);
	if (access(path, R_OK) != 0)
		return lh__fail(error, -errno, "%s: no snapshot is there: %s", restore->dir,
		                lh__errno_name(errno));
	restore->machine = json_load_file(path, 0, &why);
	if (!restore->machine)
		return malformed(restore, why.text, error);
	if (json_integer_value(json_object_get(restore->machine, "version")) != 1)
		return malformed(restore, "its version is not 1", error);
	return 0;
}

static int read_region(struct restore *restore, const json_t *from, struct lh_error *error)
{
	struct lh_state_region *region = &restore->region[restore->regions];
	const char *name = json_string_value(json_object_get(from, "name"));
	const char *file = json_string_value(json_object_get(from, "file"));
	json_int_t pages = json_integer_value(json_object_get(from, "pages"));

	if (!name || !file || strlen(name) >= sizeof(region->name) || strchr(file, '/') || pages <= 0 ||
	    pages > (json_int_t)LH_PAGE_NUMBER_MAX)
		return malformed(restore, "a region without name, file or pages", error);
	if (snprintf(region->path, sizeof(region->path), "%s/%s", restore->dir, file) >=
	    (int)sizeof(region->path))
		return malformed(restore, "a name that is too long", error);
	strcpy(region->name, name);
	region->offset = 0;
	region->pages = (uint64_t)pages;
	region->first = restore->pages;
	restore->pages += region->pages;
	restore->regions++;
	return 0;
}

static int read_regions(struct restore *restore, struct lh_error *error)
{
	const json_t *regions = json_object_get(restore->machine, "regions");
	size_t n = json_array_size(regions);
	int result = 0;

	if (n == 0 || n > LH_STATE_REGIONS_MAX)
		return malformed(restore, "it has no regions, or too many", error);
	for (size_t i = 0; result == 0 && i < n; i++)
		result = read_region(restore, json_array_get(regions, i), error);
	return result;
}

/* ---- the home ---- */

static int check_alike(const struct restore *restore, struct lh_error *error)
{
	const struct lh_machine *machine = &restore->home.machine;

	if (machine->regions != restore->regions)
		return lh__fail(error, -EINVAL, "the snapshot has %zu memory backends and QEMU has %zu",
		                restore->regions, machine->regions);
	for (size_t i = 0; i < restore->regions; i++)
		if (strcmp(machine->region[i].name, restore->region[i].name) != 0 ||
		    machine->region[i].pages != restore->region[i].pages)
			return lh__fail(error, -EINVAL,
			                "memory backend %s of %lu KiB in the snapshot, %s of %lu KiB in QEMU: start it "
			                "with the same",
			                restore->region[i].name, (unsigned long)restore->region[i].pages * 4,
			                machine->region[i].name, (unsigned long)machine->region[i].pages * 4);
	return 0;
}

static int open_home(struct restore *restore, struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;
	uint8_t id[LH_MOVE_ID];
	int result = lh__receive_await(home, error);

	if (result == 0)
		result = lh__receive_machine(home, error);
	if (result == 0)
		result = lh__machine_awaits(&home->machine, error);
	if (result == 0)
		result = lh__machine_alone(&home->machine, error);
	if (result == 0)
		result = check_alike(restore, error);
	if (result == 0 && getrandom(id, sizeof(id), 0) != sizeof(id))
		result = lh__fail(error, -EIO, "no random number");
	if (result == 0)
		result = lh__state_create(NULL, id, home->machine.region, home->machine.regions, &home->state,
		                          error);
	return result < 0 ? result : lh__receive_home_open(home, true, LANES, 0, error);
}

/* The guest's page tables, as the snapshot has them; without them there are no hints. */
static void open_tables(struct restore *restore)
{
	const json_t *cr3 = json_object_get(restore->machine, "cr3");
	const json_t *physical = json_object_get(restore->machine, "physical");
	uint64_t root[LH_MACHINE_CPUS_MAX];
	struct lh_physical_range range[LH_STATE_REGIONS_MAX];
	struct lh_tables_options options = { .physical = range,
		                             .pages = restore->pages,
		                             .cr3 = root,
		                             .read = lh__pages_read,
		                             .context = restore->memory };
	size_t i;

	for (i = 0; i < json_array_size(cr3) && i < LH_MACHINE_CPUS_MAX; i++)
		root[i] = (uint64_t)json_integer_value(json_array_get(cr3, i));
	options.cr3_count = i;
	for (i = 0; i < json_array_size(physical) && i < LH_STATE_REGIONS_MAX; i++) {
		const json_t *from = json_array_get(physical, i);

		range[i].address = (uint64_t)json_integer_value(json_object_get(from, "address"));
		range[i].pages = (uint64_t)json_integer_value(json_object_get(from, "pages"));
		range[i].first = (uint64_t)json_integer_value(json_object_get(from, "first"));
	}
	options.physical_count = i;
	if (options.cr3_count == 0 || options.physical_count == 0 ||
	    lh__tables_open(&options, &restore->tables, NULL) < 0)
		restore->tables = NULL;
}

/* What the snapshot has holes for is zero: nothing needs to be read. */
static int say_zero(struct restore *restore, struct lh_error *error)
{
	struct lh_pageset content, zero;
	int result = lh__send_set_open(&content, restore->pages, error);

	if (result < 0)
		return result;
	result = lh__send_set_open(&zero, restore->pages, error);
	if (result == 0)
		result = lh__pages_content(restore->memory, &content, error);
	if (result == 0) {
		lh__pageset_add_run(&zero, 0, zero.pages);
		lh__pageset_subtract(&zero, &content);
		result = lh__engine_zero(restore->home.engine, &zero, error);
	}
	lh__send_set_close(&content);
	lh__send_set_close(&zero);
	return result;
}

static int open_supply(struct restore *restore, struct lh_error *error)
{
	struct lh_supply_file file[LH_STATE_REGIONS_MAX];
	struct lh_pages_options memory = { .region = restore->region, .regions = restore->regions };
	struct lh_supply *supply;
	int result = lh__pages_open(&memory, &restore->memory, error);

	if (result < 0)
		return result;
	for (size_t i = 0; i < restore->regions; i++)
		file[i] = (struct lh_supply_file){ .path = restore->region[i].path,
			                           .size = restore->region[i].pages * LH_PAGE_SIZE };
	result = say_zero(restore, error);
	if (result < 0)
		return result;
	if (restore->options->policy == LH_ORDER_PTLINE)
		open_tables(restore);
	result = lh__supply_files(file, restore->regions, LH_PAGE_SIZE, LANES, restore->tables, &supply,
	                          error);
	if (result == 0)
		lh__engine_supply(restore->home.engine, supply);
	return result;
}

static int load(struct restore *restore, struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;
	char path[1100];
	int fd, result;

	snprintf(path, sizeof(path), "%s/device", restore->dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return lh__fail(error, -errno, "%s: %s", path, lh__errno_name(errno));
	lh__measure_threads(home->measure, home->machine.cpu, home->machine.cpus);
	lh__measure_stopped(home->measure, lh__clock(NULL));
	result = lh__engine_answer(home->engine, NULL);
	if (result < 0)
		lh__fail(error, result, "faults cannot be answered: %s", lh__errno_name(result));
	else
		result = lh__machine_load(&home->machine, fd, error);
	close(fd);
	return result;
}

/* ---- until it is over ---- */

static int look_at_machine(struct restore *restore, struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;
	uint64_t at;
	int result = lh__machine_loaded(&home->machine, LOADING_TICK_MS, &at, error);

	if (result <= 0)
		return result;
	restore->runs = true;
	lh__measure_runs(home->measure, at);
	lh__machine_close(&home->machine); /* others may want its monitor */
	home->has_machine = false;
	return 0;
}

static void say_late(struct restore *restore)
{
	if (restore->late_said || !lh__receive_cancelled(restore->options))
		return;
	restore->late_said = true;
	lh__receive_say(restore->options, "the guest needs the rest of its memory; going on");
}

static int stay(struct restore *restore, struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;

	for (;;) {
		int result = restore->runs ? 0 : look_at_machine(restore, error);
		unsigned what;

		if (result < 0)
			return result;
		what = lh__engine_wait(home->engine, LH_ENGINE_COMPLETE | LH_ENGINE_BROKEN,
		                       restore->runs ? TICK_MS : 0);
		if (what & LH_ENGINE_COMPLETE && restore->runs)
			return 0;
		if (what & LH_ENGINE_BROKEN)
			return lh__fail(error, -EIO, "%s: the snapshot cannot be read any more; the guest stands still",
			                restore->dir);
		restore->ended = lh__receive_guest_left(home);
		if (restore->ended)
			return restore->runs ? 0
			                     : lh__fail(error, -ECONNRESET, "QEMU ended while it took the state in");
		say_late(restore);
		lh__receive_progress(home, LH_MOVE_RUNNING, 0, true, &restore->progressed);
	}
}

static void close_all(struct restore *restore)
{
	if (restore->home.engine)
		lh__engine_supply(restore->home.engine, NULL);
	lh__receive_home_close(&restore->home);
	if (restore->home.state)
		lh__state_close(restore->home.state, true);
	if (restore->tables)
		lh__tables_close(restore->tables);
	if (restore->memory)
		lh__pages_close(restore->memory);
	json_decref(restore->machine);
}

int lh__snapshot_restore(const char *dir, const struct lh_receive_options *options, json_t **stats,
                         struct lh_error *error)
{
	struct restore restore = { .options = options,
		                   .dir = dir,
		                   .home = { .options = options, .listener = -1 } };
	struct lh_error own = { 0, "" };
	int result = read_machine(&restore, &own);

	if (result == 0)
		result = read_regions(&restore, &own);
	if (result == 0)
		result = open_home(&restore, &own);
	if (result == 0)
		result = open_supply(&restore, &own);
	if (result == 0)
		result = load(&restore, &own);
	if (result == 0)
		result = stay(&restore, &own);
	if (result == 0 && lh__receive_record(&restore.home, &own) < 0)
		lh__receive_say(options, "%s", own.text);
	if (restore.home.measure)
		lh__measure_complete(restore.home.measure, lh__clock(NULL));
	*stats = lh__receive_stats(&restore.home, result, &own);
	if (restore.ended)
		json_object_set_new(*stats, "ended", json_true());
	close_all(&restore);
	if (result < 0 && error)
		*error = own;
	return result;
}
