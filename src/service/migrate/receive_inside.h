/*
 * receive_inside.h - what the files of the receiver share, and of the restoring of snapshots. receive.c has
 * the whole in order:
 *
 *     receive_guest.c   QEMU's handshake and monitor
 *     receive_home.c    state, place, order, engine: the home of the guest's memory
 *     receive_gate.c    who connects, and what is answered: threads of its own
 *     receive_plan.c    PLAN and the channels that follow it, the first time and again
 *     receive_copy.c    rounds up to GO
 *     receive_run.c     from GO until all is there
 *     receive_end.c     the end, and that the sender knows of it
 *     receive_stats.c   what was done, as JSON
 */
#ifndef LH_MIGRATE_RECEIVE_INSIDE_H
#define LH_MIGRATE_RECEIVE_INSIDE_H

#include "service/migrate/engine.h"
#include "service/migrate/handshake.h"
#include "service/migrate/machine.h"
#include "service/migrate/plan.h"
#include "service/migrate/receive.h"

#define LH_RECEIVE_LANES_MAX 17u /* one of faults, 16 of data */

/* ---- receive_gate.c: who may connect ---- */

struct lh_receive_gate;

/*
 * Listens. `state`, which may be NULL, is of a migration that is under way or has come to its end here, and
 * is known again; one that never ran is answered LH_MOVE_RETURNED, and gives way to a new one.
 */
int lh__receive_gate_open(const struct lh_receive_options *options, const struct lh_state *state,
                          struct lh_receive_gate **out, struct lh_error *error) LH_MUST_CHECK;
const char *lh__receive_gate_url(const struct lh_receive_gate *gate);
/*
 * The channel of control that has been accepted last, at most once each, with its hello; NULL: none within
 * timeout_ms.
 */
struct lh_channel *lh__receive_gate_control(struct lh_receive_gate *gate, int timeout_ms,
                                            struct lh_move_hello *hello);
/* Whether `lanes` channels of faults and data have come for the last channel of control: then they are handed
 * over, that of faults first. */
bool lh__receive_gate_lanes(struct lh_receive_gate *gate, unsigned lanes, struct lh_channel **channel);
/* The migration's phase here, as who connects is told, changes. */
void lh__receive_gate_phase(struct lh_receive_gate *gate, enum lh_move_phase phase);
/*
 * The same to LH_MOVE_GONE, in the state too, but not where the sender has connected anew meanwhile: then it
 * has been told that the guest is its own. Whether that was done.
 */
bool lh__receive_gate_go(struct lh_receive_gate *gate, struct lh_state *state);
/* The migration is forgotten, another may begin. */
void lh__receive_gate_reset(struct lh_receive_gate *gate);
/* A line about a connection that was refused since the last call; false: none was. */
bool lh__receive_gate_refused(struct lh_receive_gate *gate, char line[252]);
/* The guest never ran here, and another migration has been refused because that is still to be told. */
bool lh__receive_gate_wanted(struct lh_receive_gate *gate);
void lh__receive_gate_close(struct lh_receive_gate *gate);

/* ---- receive_home.c, receive_guest.c: the home of the guest's memory ---- */

struct lh_receive_home {
	const struct lh_receive_options *options;

	int listener; /* of the handshake; -1 */
	struct lh_handshake handshake;
	bool has_guest;
	char path[1024]; /* of the file of the first range */
	struct lh_guest guest;

	struct lh_machine machine;
	bool has_machine;

	struct lh_state *state;
	struct lh_place *place;
	struct lh_order *order;
	struct lh_measure *measure;
	struct lh_engine *engine;
	unsigned lanes;
	uint64_t bandwidth;
	bool recorded; /* the misses have been written */
};

/* Listens for the handshake, and waits for it; -ECANCELED. Sets path. */
int lh__receive_await(struct lh_receive_home *home, struct lh_error *error) LH_MUST_CHECK;
/* Opens the machine, which must be waiting. */
int lh__receive_machine(struct lh_receive_home *home, struct lh_error *error) LH_MUST_CHECK;
/* Whether the machine is younger than a file. */
bool lh__receive_is_younger(const struct lh_receive_home *home, const char *path);
/* Whether the guest's process has gone. */
bool lh__receive_guest_left(const struct lh_receive_home *home);
/* Everything else, for home->state; fresh: nothing of what the memory holds is kept. */
int lh__receive_home_open(struct lh_receive_home *home, bool fresh, unsigned lanes, uint64_t bandwidth,
                          struct lh_error *error) LH_MUST_CHECK;
/* An engine for another number of lanes, which answers, in place of the one that there is. */
int lh__receive_home_lanes(struct lh_receive_home *home, unsigned lanes,
                           struct lh_error *error) LH_MUST_CHECK;
/* Writes the order of misses where that was asked for, once. */
int lh__receive_record(struct lh_receive_home *home, struct lh_error *error) LH_MUST_CHECK;
/* Closes all that lh__receive_home_open has opened. */
void lh__receive_home_forget(struct lh_receive_home *home);
/* Ends it for good, with the state, which the engine's threads have used until then; remove: the file too. */
void lh__receive_home_end(struct lh_receive_home *home, bool remove);
/* And all else but the state, which is the caller's. */
void lh__receive_home_close(struct lh_receive_home *home);
/* Tells progress, if it is time to; *progressed is when it was told last. */
void lh__receive_progress(struct lh_receive_home *home, enum lh_move_phase phase, unsigned round,
                          bool connected, uint64_t *progressed);
void lh__receive_say(const struct lh_receive_options *options, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
bool lh__receive_cancelled(const struct lh_receive_options *options);
/* It is said that the guest is ours. */
void lh__receive_ours(const struct lh_receive_options *options);

/* ---- the receiver ---- */

struct lh_receive {
	const struct lh_receive_options *options;
	struct lh_receive_home home;
	struct lh_receive_gate *gate;
	struct lh_channel *control;
	struct lh_plan plan;
	bool taken_over; /* from a receiver that has died */
	unsigned connections;

	struct lh_pageset stale, zero; /* of the round that is being told */
	unsigned rounds;
	bool stopped; /* at the source, and so GO may be on its way */
	uint8_t *device;
	uint64_t device_size, device_have;

	uint64_t go;   /* CLOCK_MONOTONIC: GO was answered */
	uint64_t runs; /* the guest ran */
	bool ended;    /* the guest has */
	bool late_said, broken_said;
	uint64_t progressed, reported;
};

/* ---- receive_plan.c ---- */

/* Takes a channel of control over in place of the one before. */
void lh__receive_take(struct lh_receive *receive, struct lh_channel *channel);
/* Closes it, and the engine's supply. */
void lh__receive_drop(struct lh_receive *receive);
/*
 * PLAN, the home where there is none yet, the channels, and the answer. -EAGAIN: it is refused, and another
 * sender may come.
 */
int lh__receive_plan(struct lh_receive *receive, const struct lh_move_hello *hello,
                     struct lh_error *error) LH_MUST_CHECK;
/* Where the state of the guest lies whose first file of memory is home->path. */
void lh__receive_state_path(const struct lh_receive_home *home, char path[1100]);
/* Says why a channel of control has broken. */
int lh__receive_broken(struct lh_receive *receive, int code, struct lh_error *error);
/* STATUS, if it is time to. */
int lh__receive_report(struct lh_receive *receive, enum lh_move_phase phase) LH_MUST_CHECK;

/* ---- receive_copy.c ---- */

/* Up to GO, which has been answered on success. */
int lh__receive_copy(struct lh_receive *receive, struct lh_error *error) LH_MUST_CHECK;

/* ---- receive_run.c ---- */

/* Gives the machine its state. */
int lh__receive_load(struct lh_receive *receive, struct lh_error *error) LH_MUST_CHECK;
/* Until all is there (0) or the guest has ended (receive->ended); -EREMOTEIO: it could not go on here. */
int lh__receive_run(struct lh_receive *receive, struct lh_error *error) LH_MUST_CHECK;

/* ---- receive_end.c ---- */

/*
 * Says DONE, with stats, or FAILED, with the text of error, until the sender has taken note, for a while.
 * Whether it has.
 */
bool lh__receive_done(struct lh_receive *receive, const json_t *stats);
bool lh__receive_failed(struct lh_receive *receive, const struct lh_error *error);

/* ---- receive_stats.c ---- */

json_t *lh__receive_stats(const struct lh_receive_home *home, int result, const struct lh_error *error);

#endif
