/*
 * record.h - makes and reads records (port/code/record.h draws the format).
 */
#ifndef LH_SERVICE_CODE_RECORD_H
#define LH_SERVICE_CODE_RECORD_H

#include "port/code/record.h"
#include "port/code/text.h"

struct lh_record; /* one process's handle on a record file, mapped */

/*
 * A new record. path NULL: one without a name, in $TMPDIR or /tmp, gone when the last who has it open ends.
 * An existing file is replaced (by rename: who has the old one open keeps it) only if it is a record or
 * empty; -EEXIST: it is something else. All room is allocated before it is mapped, so that a full disk is
 * -ENOSPC here and never a SIGBUS in a program.
 */
int lh__record_create(const char *path, enum lh_granularity granularity, char *const *command,
                      struct lh_record **out, struct lh_error *error) LH_MUST_CHECK;
/*
 * Reads a record, of a run that goes on too: a copy of each module as it was when it was read.
 * -EBADMSG: none, or damaged; -EPROTONOSUPPORT: newer. Nothing may be added to it.
 */
int lh__record_open(const char *path, struct lh_record **out, struct lh_error *error) LH_MUST_CHECK;
void lh__record_close(struct lh_record *record);

int lh__record_descriptor(const struct lh_record *record);
struct lh_record_control *lh__record_control(struct lh_record *record);
const struct lh_record_head *lh__record_head(const struct lh_record *record);

/*
 * The module of this id, made if it is not there; texts as in the plan. Fills in *module, whose pointers hold
 * until the record is closed. Only who made the record may add to it, one thread at a time.
 */
struct lh_record_view {
	const struct lh_record_module *head;
	uint64_t *hits[LH_PLAN_TEXTS]; /* one bitmap a text, in memory */
};
int lh__record_add(struct lh_record *record, const struct lh_plan_head *plan, const char *path,
                   bool is_program, uint64_t bias, struct lh_record_view *module,
                   struct lh_error *error) LH_MUST_CHECK;
/* The same for a module of another record. */
int lh__record_add_like(struct lh_record *record, const struct lh_record_module *like,
                        struct lh_record_view *module, struct lh_error *error) LH_MUST_CHECK;
/* The modules in the order in which they came; false behind the last one. */
bool lh__record_module(struct lh_record *record, size_t index, struct lh_record_view *module);

/* Adds what from has seen to into, by module, and its counters. Granularity must be the same (-EINVAL). */
int lh__record_merge(struct lh_record *into, struct lh_record *from, struct lh_error *error) LH_MUST_CHECK;

#endif
