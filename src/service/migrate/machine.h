/*
 * machine.h - a QEMU virtual machine as a migration needs it, over its monitor.
 *
 * What must be so of it: its memory is backends of type memory-backend-file (a named file) with share=on, all
 * of it but for small ROMs, which travel with the device state. QEMU's capability x-ignore-shared leaves such
 * memory out. What is not so is said with the words to start QEMU with.
 */
#ifndef LH_MIGRATE_MACHINE_H
#define LH_MIGRATE_MACHINE_H

#include "service/migrate/qmp.h"
#include "service/migrate/state.h"
#include "service/migrate/tables.h"

#define LH_MACHINE_CPUS_MAX 256u

struct lh_machine {
	struct lh_qmp *qmp;
	pid_t process;
	size_t regions;
	struct lh_state_region region[LH_STATE_REGIONS_MAX]; /* in the order of QEMU's ids */
	size_t cpus;
	pid_t cpu[LH_MACHINE_CPUS_MAX]; /* threads; several vCPUs may share one */
	json_t *capabilities;           /* of migration, as they were before we changed them; or NULL */
	int device;       /* a memory file that the monitor has for lh__machine_load_now; or -1 */
	uint64_t loading; /* when it was told to load; 0: it was not, by us */
};

/* Connects, and finds out all of the above. -EINVAL: its memory is not as it must be. */
int lh__machine_open(const char *monitor, struct lh_machine *machine, struct lh_error *error) LH_MUST_CHECK;
/* "running", "paused", "inmigrate", "postmigrate"... into status. */
int lh__machine_status(struct lh_machine *machine, char status[32], struct lh_error *error) LH_MUST_CHECK;
/*
 * No other process maps the files (vhost-user back ends, scanners): what it writes would not be seen, and
 * where it reads a hole of the file it puts a zero page into it. -EBUSY: one does; its name and pid are in
 * error. Processes that may not be looked at are passed over.
 */
int lh__machine_alone(const struct lh_machine *machine, struct lh_error *error) LH_MUST_CHECK;

/* ---- the source ---- */

struct lh_machine_saved {
	int fd; /* a memory file with the device state; the caller closes it */
	size_t size;
	uint64_t stopped; /* when it said so, CLOCK_MONOTONIC ns of this process */
	bool was_running;
};
/*
 * Stops the guest, if it runs, and saves its device state. Then nothing of QEMU changes its memory any more
 * (state postmigrate). On error it runs, or does not, as before.
 */
int lh__machine_save(struct lh_machine *machine, struct lh_machine_saved *saved,
                     struct lh_error *error) LH_MUST_CHECK;
/* The same in two: what can be done while the guest runs, and the rest; or, in place of that, nothing. */
int lh__machine_save_prepare(struct lh_machine *machine, struct lh_machine_saved *saved,
                             struct lh_error *error) LH_MUST_CHECK;
int lh__machine_save_now(struct lh_machine *machine, struct lh_machine_saved *saved,
                         struct lh_error *error) LH_MUST_CHECK;
void lh__machine_save_not(struct lh_machine *machine, struct lh_machine_saved *saved);
/* How long that took, as QEMU reports it. */
int lh__machine_downtime(struct lh_machine *machine, uint64_t *ms, struct lh_error *error) LH_MUST_CHECK;
/* After a save, or whatever a save that was cut short has left: it goes on here as it did before. */
int lh__machine_resume(struct lh_machine *machine, bool running, struct lh_error *error) LH_MUST_CHECK;
/*
 * Control register 3 of each vCPU while the guest is stopped; how many. 4-level paging alone: others are left
 * out.
 */
int lh__machine_cr3(struct lh_machine *machine, uint64_t *cr3, size_t max, size_t *n,
                    struct lh_error *error) LH_MUST_CHECK;
/* Where the regions stand in the guest's physical memory (info mtree -f). */
int lh__machine_physical(struct lh_machine *machine, struct lh_physical_range *range, size_t max, size_t *n,
                         struct lh_error *error) LH_MUST_CHECK;

/* ---- the destination ---- */

/* It waits (-incoming defer) and its memory is ours to fill. -EINVAL with what is not so. */
int lh__machine_awaits(struct lh_machine *machine, struct lh_error *error) LH_MUST_CHECK;
/*
 * Loads device state from fd, which QEMU gets a copy of. Returns at once; the machine touches its memory from
 * then on, before it answers the monitor.
 */
int lh__machine_load(struct lh_machine *machine, int fd, struct lh_error *error) LH_MUST_CHECK;
/*
 * The same in two: the first, which may be called long before and again, makes machine->device, an empty
 * memory file that QEMU has already; the second loads what has been written to it since.
 */
int lh__machine_load_prepare(struct lh_machine *machine, struct lh_error *error) LH_MUST_CHECK;
int lh__machine_load_now(struct lh_machine *machine, struct lh_error *error) LH_MUST_CHECK;
/*
 * Looks for what became of that, at most timeout_ms: 1: it runs (or stays paused, as the source was; *at is
 * when that was, CLOCK_MONOTONIC ns); 0: not yet; -EREMOTEIO: QEMU refused the state; -ECONNRESET: it
 * has gone.
 */
int lh__machine_loaded(struct lh_machine *machine, int timeout_ms, uint64_t *at,
                       struct lh_error *error) LH_MUST_CHECK;
/* Capabilities of migration that were changed are as before, where QEMU still takes commands. */
void lh__machine_close(struct lh_machine *machine);

#endif
