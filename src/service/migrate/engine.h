/*
 * engine.h - the home of a guest's memory at its destination: fetches pages, puts them in place, answers
 * faults, predicts.
 *
 * Threads of its own: one for faults (lane 0 of the supply, the guest's descriptor) and one for each other
 * lane. They never wait for each other: a page is claimed by a bit (state.h). What the guest waits for is
 * asked on lane 0 even if it is on its way in the background; what comes first wins, the other is dropped.
 *
 * Phases, in this order; the calls that change them are made by one thread:
 *
 *     copying    while the guest runs at its source: lh__engine_fetch, again and again. Faults are not
 *                answered
 *                (there should be none; `early` counts them).
 *     answering  after lh__engine_answer: faults are answered, the rest comes in the background by the order
 *     complete   all is there; the guest's memory is no longer watched
 *
 * Supply and guest may come, go and come again at any time: without a supply, what is not here waits; without
 * a guest, pages are only written. A guest that has been taken in again is woken as a whole.
 */
#ifndef LH_MIGRATE_ENGINE_H
#define LH_MIGRATE_ENGINE_H

#include "service/migrate/measure.h"
#include "service/migrate/order.h"
#include "service/migrate/place.h"
#include "service/migrate/supply.h"

struct lh_engine_options {
	struct lh_state *state; /* these three are the caller's, and outlive the engine */
	struct lh_place *place;
	struct lh_order *order;
	struct lh_measure *measure;
	size_t page_size;
	unsigned lanes; /* of every supply that will be connected */
	uint64_t
		/* bytes a second for the background; 0: no limit. Faults are not limited, but count */
		bandwidth;
	bool record; /* keep the order of misses */
	/* Something has changed that lh__engine_wait looks at; from any thread of the engine; may be NULL. */
	void (*changed)(void *context);
	void *context;
};

struct lh_engine;

int lh__engine_open(const struct lh_engine_options *options, struct lh_engine **out,
                    struct lh_error *error) LH_MUST_CHECK;
/* Takes over a supply, in place of one that has broken; NULL: there is none for now. Closes the old one. */
void lh__engine_supply(struct lh_engine *engine, struct lh_supply *supply);
/* Takes over the guest's memory (closes the old one, if any); NULL: there is none now. */
int lh__engine_guest(struct lh_engine *engine, const struct lh_guest *guest,
                     struct lh_error *error) LH_MUST_CHECK;

/*
 * Copying. These pages have changed at the source, or are to be fetched for the first time: they are no
 * longer fresh, and will be asked for. Pages that the guest could see are taken out of its sight. While
 * nothing is on its way (lh__engine_wait has said so).
 */
int lh__engine_stale(struct lh_engine *engine, const struct lh_pageset *pages,
                     struct lh_error *error) LH_MUST_CHECK;
/* These are zero at the source: nothing will be asked for, and what was there is forgotten. */
int lh__engine_zero(struct lh_engine *engine, const struct lh_pageset *pages,
                    struct lh_error *error) LH_MUST_CHECK;
/* Fetches everything that is not fresh and not zero, by the order. */
int lh__engine_fetch(struct lh_engine *engine) LH_MUST_CHECK;
/* Shows the guest, which does not run yet, all that is fresh but for the pages of `except`: later it need not
 * fault for them. */
int lh__engine_show(struct lh_engine *engine, const struct lh_pageset *except,
                    struct lh_error *error) LH_MUST_CHECK;

/*
 * Answering: from here on faults are answered, the rest is fetched by the order; urgent (may be NULL) first.
 */
int lh__engine_answer(struct lh_engine *engine, const struct lh_pageset *urgent) LH_MUST_CHECK;

enum lh_engine_what {
	LH_ENGINE_FETCHED = 1,    /* all is fresh or zero, nothing is on its way */
	LH_ENGINE_BROKEN = 2,     /* the supply has broken */
	LH_ENGINE_GUEST_LEFT = 4, /* the guest's process has ended */
	LH_ENGINE_COMPLETE = 8,   /* and its memory is no longer watched */
};
/*
 * Waits until one of `what` is so, at most timeout_ms (-1: for ever). Returns those of `what` that are (0:
 * none).
 */
unsigned lh__engine_wait(struct lh_engine *engine, unsigned what, int timeout_ms);
/* Stops what is being fetched, without waiting for the rest (when migration is given up). */
void lh__engine_halt(struct lh_engine *engine);

struct lh_engine_counts {
	uint64_t pages, fresh, zero; /* now; pages: in all */
	uint64_t early;              /* faults while copying */
	uint64_t asked_twice;        /* missed while on their way in the background */
	uint64_t discarded;          /* pages */
	uint64_t hinted;             /* pages that came by a hint or window before they were missed */
	uint64_t bytes_faults, bytes_background, bytes_copying; /* that travelled, by reason */
	uint64_t lines,
		lines_since; /* lines that travelled; of those, in pages of which only what differed came */
	uint64_t pages_since;
	uint64_t bytes_a_second; /* in the last second */
};
void lh__engine_counts(struct lh_engine *engine, struct lh_engine_counts *counts);
/* Misses that waited for the source, in their order; the caller frees it. */
int lh__engine_misses(struct lh_engine *engine, uint64_t **pages, size_t *n) LH_MUST_CHECK;
void lh__engine_close(struct lh_engine *engine);

#endif
