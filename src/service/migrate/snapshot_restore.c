/*
 * snapshot_restore.c - the lazy way back from a snapshot: the same home of a guest's memory as that of a
 * migration, with files of this machine as the supply.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/machine_inside.h"
#include "service/migrate/receive_inside.h"
#include "service/migrate/send_inside.h"
#include "service/migrate/snapshot.h"
#include "service/migrate/snapshot_inside.h"
#include "sys/sys.h"

#define TICK_MS 20
#define LOADING_TICK_MS 2
#define LANES 2u

struct restore {
	const struct lh_receive_options *options;
	const char *dir;
	struct lh_receive_home home;
	struct lh_snapshot snapshot;
	struct lh_tables *tables;
	struct lh_pages *memory; /* of the snapshot: its holes, and pages for who walks tables */
	bool taken_over;         /* from a restore that was killed */
	bool runs, ended, late_said;
	uint64_t progressed;
};

/* ---- the home ---- */

static int check_alike(const struct restore *restore, struct lh_error *error)
{
	const struct lh_machine *machine = &restore->home.machine;

	if (machine->regions != restore->snapshot.regions)
		return lh__fail(error, -EINVAL, "the snapshot has %zu memory backends and QEMU has %zu",
		                restore->snapshot.regions, machine->regions);
	for (size_t i = 0; i < restore->snapshot.regions; i++)
		if (strcmp(machine->region[i].name, restore->snapshot.region[i].name) != 0 ||
		    machine->region[i].pages != restore->snapshot.region[i].pages)
			return lh__fail(error, -EINVAL,
			                "memory backend %s of %lu KiB in the snapshot, %s of %lu KiB in "
			                "QEMU: start it "
			                "with the same",
			                restore->snapshot.region[i].name,
			                (unsigned long)restore->snapshot.region[i].pages * 4,
			                machine->region[i].name, (unsigned long)machine->region[i].pages * 4);
	return 0;
}

/* Which snapshot it is, for who goes on after a restore that was killed: that very folder, unchanged. */
static int identify(const struct restore *restore, uint8_t id[LH_MOVE_ID], struct lh_error *error)
{
	struct stat status;
	uint64_t words[2];

	if (stat(restore->snapshot.device, &status))
		return lh__fail(error, -errno, "%s: %s", restore->snapshot.device, lh__errno_name(errno));
	words[0] = (uint64_t)status.st_ino ^ (uint64_t)status.st_dev << 48;
	words[1] = (uint64_t)status.st_mtim.tv_sec * 1000000000 + (uint64_t)status.st_mtim.tv_nsec;
	memset(id, 0, LH_MOVE_ID);
	memcpy(id, words, sizeof(words));
	return 0;
}

/* 1: a guest is here already, and it is this snapshot's; home->state is what is known of its pages. */
static int find_left(struct restore *restore, const uint8_t id[LH_MOVE_ID], struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;
	struct lh_state *left;
	char path[1100];
	int result;

	lh__receive_state_path(home, path);
	result = lh__state_open(path, &left, error);
	if (result < 0)
		return result == -ENOENT ? 0 : result;
	if (lh__state_phase(left) == LH_MOVE_COPYING || lh__state_phase(left) == LH_MOVE_RETURNED ||
	    lh__receive_is_younger(home, path)) {
		lh__state_close(left, true);
		return 0;
	}
	if (memcmp(left->id, id, LH_MOVE_ID) != 0) {
		lh__state_close(left, false);
		return lh__fail(error, -EINVAL,
		                "the guest in %s did not come from %s: go on with it from where it came",
		                home->path, restore->dir);
	}
	home->state = left;
	return 1;
}

static int begin_anew(struct restore *restore, const uint8_t id[LH_MOVE_ID], struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;
	char path[1100];
	int result = lh__receive_machine(home, error);

	if (result == 0)
		result = lh__machine_awaits(&home->machine, error);
	if (result == 0)
		result = lh__machine_alone(&home->machine, error);
	if (result == 0)
		result = check_alike(restore, error);
	lh__receive_state_path(home, path);
	if (result == 0)
		result = lh__state_create(path, id, home->machine.region, home->machine.regions, &home->state,
		                          error);
	return result;
}

static int open_home(struct restore *restore, struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;
	uint8_t id[LH_MOVE_ID];
	int result = identify(restore, id, error);

	if (result == 0)
		result = lh__receive_await(home, error);
	if (result == 0)
		result = find_left(restore, id, error);
	restore->taken_over = result > 0;
	if (result == 0)
		result = begin_anew(restore, id, error);
	return result < 0 ? result : lh__receive_home_open(home, !restore->taken_over, LANES, 0, error);
}

/* The guest's page tables, as the snapshot has them; without them there are no hints. */
static void open_tables(struct restore *restore)
{
	struct lh_tables_options options = { .physical = restore->snapshot.physical,
		                             .physical_count = restore->snapshot.ranges,
		                             .pages = restore->home.state->pages,
		                             .cr3 = restore->snapshot.cr3,
		                             .cr3_count = restore->snapshot.cpus,
		                             .read = lh__pages_read,
		                             .context = restore->memory };

	if (options.cr3_count == 0 || options.physical_count == 0 ||
	    lh__tables_open(&options, &restore->tables, NULL) < 0)
		restore->tables = NULL;
}

/* What the snapshot has holes for is zero: nothing needs to be read. */
static int say_zero(struct restore *restore, struct lh_error *error)
{
	struct lh_pageset content, zero;
	int result = lh__send_set_open(&content, restore->home.state->pages, error);

	if (result < 0)
		return result;
	result = lh__send_set_open(&zero, restore->home.state->pages, error);
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
	struct lh_pages_options memory = { .region = restore->snapshot.region,
		                           .regions = restore->snapshot.regions };
	struct lh_supply *supply;
	int result = lh__pages_open(&memory, &restore->memory, error);

	if (result < 0)
		return result;
	for (size_t i = 0; i < restore->snapshot.regions; i++)
		file[i] = (struct lh_supply_file){ .path = restore->snapshot.region[i].path,
			                           .size = restore->snapshot.region[i].pages * LH_PAGE_SIZE };
	if (!restore->taken_over)
		result = say_zero(restore, error);
	if (result < 0)
		return result;
	if (restore->options->policy == LH_ORDER_PTLINE)
		open_tables(restore);
	result = lh__supply_files(file, restore->snapshot.regions, LH_PAGE_SIZE, LANES, restore->tables,
	                          &supply, error);
	if (result == 0)
		lh__engine_supply(restore->home.engine, supply);
	return result;
}

static int give_device(struct restore *restore, struct lh_error *error)
{
	int fd = open(restore->snapshot.device, O_RDONLY | O_CLOEXEC), result;

	if (fd < 0)
		return lh__fail(error, -errno, "%s: %s", restore->snapshot.device, lh__errno_name(errno));
	result = lh__machine_load(&restore->home.machine, fd, error);
	close(fd);
	return result;
}

/*
 * Faults are answered already, so the monitor answers too, sooner or later. Who was killed may have done so
 * just before it gave QEMU the device state.
 */
static int go_on(struct restore *restore, struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;
	char migration[32];
	int result;

	lh__receive_say(restore->options, "going on with the guest in %s", home->path);
	restore->runs = lh__state_phase(home->state) != LH_MOVE_GONE;
	if (restore->runs)
		return 0;
	result = lh__receive_machine(home, error);
	if (result == 0)
		result = lh__machine_migration(&home->machine, migration, NULL, error);
	if (result < 0 || strcmp(migration, "none") != 0)
		return result;
	result = lh__machine_awaits(&home->machine, error);
	return result < 0 ? result : give_device(restore, error);
}

static int load(struct restore *restore, struct lh_error *error)
{
	struct lh_receive_home *home = &restore->home;
	int result;

	if (!restore->taken_over) {
		lh__measure_threads(home->measure, home->machine.cpu, home->machine.cpus);
		lh__measure_stopped(home->measure, lh__clock(NULL));
		lh__state_set_phase(home->state, LH_MOVE_GONE); /* from here on the guest may see pages */
	}
	result = lh__engine_answer(home->engine, NULL);
	if (result < 0)
		return lh__fail(error, result, "faults cannot be answered: %s", lh__errno_name(result));
	return restore->taken_over ? go_on(restore, error) : give_device(restore, error);
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
	lh__state_set_phase(home->state, LH_MOVE_RUNNING);
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
			return lh__fail(error, -EIO,
			                "%s: the snapshot cannot be read any more; the guest stands still "
			                "until the same command goes on",
			                restore->dir);
		restore->ended = lh__receive_guest_left(home);
		if (restore->ended)
			return restore->runs ? 0
			                     : lh__fail(error, -ECONNRESET,
			                                "QEMU ended while it took the state in");
		say_late(restore);
		lh__receive_progress(home, LH_MOVE_RUNNING, 0, true, &restore->progressed);
	}
}

/* The state file stays where a guest stands still whose memory can still come. */
static void close_all(struct restore *restore, int result)
{
	struct lh_state *state = restore->home.state;
	bool needed = state && result < 0 && !restore->ended && lh__state_phase(state) != LH_MOVE_COPYING;

	if (restore->home.engine)
		lh__engine_supply(restore->home.engine, NULL);
	lh__receive_home_close(&restore->home);
	if (restore->home.state)
		lh__state_close(restore->home.state, !needed);
	if (restore->tables)
		lh__tables_close(restore->tables);
	if (restore->memory)
		lh__pages_close(restore->memory);
}

int lh__snapshot_restore(const char *dir, const struct lh_receive_options *options, json_t **stats,
                         struct lh_error *error)
{
	struct restore restore = { .options = options,
		                   .dir = dir,
		                   .home = { .options = options, .listener = -1 } };
	struct lh_error own = { 0, "" };
	int result = lh__snapshot_read(dir, &restore.snapshot, &own);

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
	close_all(&restore, result);
	if (result < 0 && error)
		*error = own;
	return result;
}
