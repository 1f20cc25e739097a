/*
 * send_inside.h - what the files of the sender share. send.c has the whole in order:
 *
 *     send_connect.c  channels, PLAN
 *     send_rounds.c   rounds while the guest runs, and when they are enough
 *     send_switch.c   from the guest's stop to GO, and back where that fails
 *     send_serve.c    after GO: messages, connecting again
 *     send_sets.c     sets of pages, and how they are sent
 *     send_stats.c    what was done, as JSON
 *
 * One thread makes all calls; those that give pages are pages.c's own.
 */
#ifndef LH_MIGRATE_SEND_INSIDE_H
#define LH_MIGRATE_SEND_INSIDE_H

#include "service/migrate/machine.h"
#include "service/migrate/pages.h"
#include "service/migrate/send.h"
#include "service/migrate/watch.h"

#define LH_SEND_ROUNDS_MAX 30u

struct lh_send_round {
	uint64_t pages;
	uint64_t ns; /* until the receiver had all of them */
};

/* How long the guest stood still for what, in nanoseconds; of those that have not been, 0. */
struct lh_send_stop {
	uint64_t began;  /* CLOCK_MONOTONIC: when QEMU said that it stands still */
	uint64_t save;   /* from there until QEMU had saved its state */
	uint64_t device; /* that state was sent */
	uint64_t scan;   /* what was written last */
	uint64_t sets;   /* said to the receiver, with GO */
	uint64_t answer; /* from GO to its answer */
	uint64_t load;   /* from there until the guest ran, as the receiver says */
};

struct lh_send {
	const struct lh_send_options *options;
	struct lh_error *error;

	struct lh_machine machine;
	bool has_machine;
	struct lh_physical_range physical[LH_STATE_REGIONS_MAX];
	size_t physical_count;

	struct lh_state *note; /* which migration, and its phase, for whoever takes over */
	bool resumed;          /* from another process */
	bool was_running;      /* the guest, before it was stopped */
	bool prepared;         /* saved has a file for the device state, and QEMU has it too */
	struct lh_machine_saved saved;
	bool stopped;
	bool maybe_gone; /* GO has been sent; whether it arrived is not known */

	struct lh_written written;
	bool watched;
	uint64_t watch_stopped; /* ns for which the guest's threads stood still for the watch */
	struct lh_pages *pages;

	struct lh_channel *control;
	uint32_t incarnation;
	unsigned connections;         /* that have been made */
	uint64_t bytes_out, bytes_in; /* of the channels of control that have ended */

	/* The pages of the next round or, after the guest's stop, of the last sets. */
	struct lh_pageset stale, zero;
	struct lh_pageset absent; /* room for a scan */

	struct lh_send_round round[LH_SEND_ROUNDS_MAX + 1];
	unsigned rounds;
	struct lh_send_stop stop;
	uint64_t downtime_ms; /* as QEMU says */
	uint64_t last_pages;  /* that were still to come at GO */
	uint64_t began, go;   /* CLOCK_MONOTONIC */

	struct lh_plan_status status; /* the last that was heard */
	uint64_t progressed;          /* when progress was last shown */
	uint64_t said;                /* when it was last said that the receiver cannot be reached */
	bool late_said;               /* that it is too late to cancel */
	json_t *theirs;               /* the receiver's statistics */
};

/* ---- send_sets.c ---- */

int lh__send_set_open(struct lh_pageset *set, uint64_t pages, struct lh_error *error) LH_MUST_CHECK;
void lh__send_set_close(struct lh_pageset *set);
/* PAGES messages; nothing where the set is empty. */
int lh__send_set(struct lh_channel *channel, enum lh_move_set which,
                 const struct lh_pageset *set) LH_MUST_CHECK;

/* ---- send_connect.c ---- */

/* All channels, PLAN and its answer. -ECANCELED, with the receiver's reason in error: it refuses. */
int lh__send_connect(struct lh_send *send, enum lh_move_phase phase, struct lh_move_hello *answer,
                     struct lh_error *error) LH_MUST_CHECK;
void lh__send_disconnect(struct lh_send *send);
/* Tells the receiver why this side fails, and waits a moment for it to hang up. */
void lh__send_tell(struct lh_send *send, const char *why);
/* Puts what is wrong with the channel of control into error. */
int lh__send_broken(struct lh_send *send, int code, struct lh_error *error);

/* ---- send_rounds.c ---- */

/*
 * Whether no other round is worth while: the pages left, of which `left` were written in the last round,
 * can be fetched in a part of downtime_ms or are few, do not get less, or there have been LH_SEND_ROUNDS_MAX.
 */
bool lh__send_enough(const struct lh_send_round *round, unsigned rounds, uint64_t left, unsigned downtime_ms);
/*
 * How long that many pages will take, by the last round that says anything about it; UINT64_MAX: not known.
 */
uint64_t lh__send_estimate(const struct lh_send_round *round, unsigned rounds, uint64_t pages);
/*
 * Puts up the watch, and all rounds; before the last one the switch is prepared. In the end `stale` has what
 * is known to be written since.
 */
int lh__send_rounds(struct lh_send *send, struct lh_error *error) LH_MUST_CHECK;
/*
 * What the guest has written since the last scan is added to `stale`, what it has discarded of that which the
 * receiver has, to `zero`; again: to be asked once more.
 */
int lh__send_scan(struct lh_send *send, bool again, struct lh_error *error) LH_MUST_CHECK;

/* ---- send_switch.c ---- */

/* What the switch needs and can be done while the guest runs. */
int lh__send_prepare(struct lh_send *send, struct lh_error *error) LH_MUST_CHECK;
/* From the guest's stop to GO. After an error the guest is still ours (note's phase is copying). */
int lh__send_switch(struct lh_send *send, struct lh_error *error) LH_MUST_CHECK;
/*
 * The guest was not given away, or has come back: everything is as it was. Adds to the text of error where
 * the guest is.
 */
void lh__send_return(struct lh_send *send, struct lh_error *error);
/* The guest's page tables, for hints. Where that fails there are none. */
void lh__send_hint(struct lh_send *send);
/* Where the note of a machine's migration lies. */
void lh__send_note_path(const struct lh_machine *machine, char path[1100]);
/* What the note says of the guest before it was stopped. */
bool lh__send_note_ran(const struct lh_state *note);

/* ---- send_serve.c ---- */

/*
 * Gives pages until the receiver has all. -EREMOTEIO: the guest could not go on there; it is ours again.
 */
int lh__send_serve(struct lh_send *send, struct lh_error *error) LH_MUST_CHECK;

/* ---- send.c, send_stats.c ---- */

void lh__send_say(struct lh_send *send, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Shows how far it is, if it is time to; stale: pages of this round that are still to come. */
void lh__send_progress(struct lh_send *send);
/* Shows what it does now. Never while the guest stands still, since a terminal may take its time. */
void lh__send_step(struct lh_send *send, enum lh_progress_step step);
/* Whether it was asked to give up. */
bool lh__send_cancelled(const struct lh_send *send);
json_t *lh__send_stats(struct lh_send *send, int result, const struct lh_error *error);

#endif
