/*
 * plan.h - what sender and receiver tell each other in JSON: the bodies of PLAN, STATUS and DONE;
 * and the text of FAILED.
 *
 * PLAN, sender:   {"regions": [{"name": "ram0", "pages": 131072}, ...], "lanes": 2, "bandwidth": 0,
 *                  "postcopy": false, "resume": false}
 * PLAN, receiver: {"ready": true} or {"error": "one line fit for a person"}
 * STATUS:         struct lh_plan_status, member by member
 * DONE:           the receiver's statistics, which the sender merges into its own
 *
 * Members that are not known are passed over; one that is missing or out of range is -EPROTO.
 */
#ifndef LH_MIGRATE_PLAN_H
#define LH_MIGRATE_PLAN_H

#include "service/migrate/engine.h"

#define LH_PLAN_REASON 200u

struct lh_plan {
	size_t regions;
	struct lh_state_region region[LH_STATE_REGIONS_MAX]; /* name and pages alone */
	unsigned lanes;     /* of the supply: 1 for faults and --parallel for data */
	uint64_t bandwidth; /* bytes a second; 0: no limit */
	bool postcopy;      /* no rounds */
	bool resume;        /* the sender goes on where one before it was */
};

struct lh_plan_status {
	enum lh_move_phase phase;
	uint64_t pages, here; /* here: fresh or known to be zero */
	uint64_t faults, faults_a_second;
	uint64_t bytes, bytes_a_second; /* that travelled */
};

/* The texts are the caller's to free; NULL: no memory. */
char *lh__plan_write(const struct lh_plan *plan);
int lh__plan_read(const char *text, size_t size, struct lh_plan *plan, struct lh_error *error) LH_MUST_CHECK;
char *lh__plan_answer_write(const char *refusal); /* NULL: ready */
/* 0: ready; -ECANCELED: error has the receiver's reason; -EPROTO. */
int lh__plan_answer_read(const char *text, size_t size, struct lh_error *error) LH_MUST_CHECK;
/*
 * The body of FAILED, as a line fit to be printed whoever has sent it: what is not text, or would do
 * something to a terminal, is not shown.
 */
const char *lh__plan_reason(const void *body, size_t size, char line[LH_PLAN_REASON]);
char *lh__plan_status_write(const struct lh_plan_status *status);
int lh__plan_status_read(const char *text, size_t size, struct lh_plan_status *status) LH_MUST_CHECK;

#endif
