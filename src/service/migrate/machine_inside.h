/*
 * machine_inside.h - what the files of machine.h share.
 */
#ifndef LH_MIGRATE_MACHINE_INSIDE_H
#define LH_MIGRATE_MACHINE_INSIDE_H

#include "service/migrate/machine.h"

#define LH_MACHINE_DESCRIPTOR "linehome-device" /* what the monitor calls the descriptor that we hand over */

uint64_t lh__machine_now(void);
/* A member of an answer that has to be a string; -EPROTO. */
int lh__machine_word(const json_t *object, const char *name, char *out, size_t size,
                     struct lh_error *error) LH_MUST_CHECK;
/* Finds the machine's memory: all backends must be as they must be. */
int lh__machine_find_memory(struct lh_machine *machine, struct lh_error *error) LH_MUST_CHECK;
/*
 * Sets the capabilities that our way of migrating needs, and no others; what was is kept until
 * lh__machine_capabilities_back. On error nothing has changed.
 */
int lh__machine_capabilities_set(struct lh_machine *machine, struct lh_error *error) LH_MUST_CHECK;
/* Nothing where none were set. */
void lh__machine_capabilities_back(struct lh_machine *machine);
/* When an event was, in our clock; not before `from`. */
uint64_t lh__machine_time_of(const json_t *event, uint64_t from);
/* The descriptor that was handed over and not used. */
void lh__machine_take_back(struct lh_machine *machine);
/* Status of what query-migrate tells of, "none" where there is nothing. */
int lh__machine_migration(struct lh_machine *machine, char status[32], uint64_t *downtime_ms,
                          struct lh_error *error) LH_MUST_CHECK;
/* Events that have come so far are forgotten. */
int lh__machine_forget_events(struct lh_machine *machine, struct lh_error *error) LH_MUST_CHECK;
/* Hands fd over, under LH_MACHINE_DESCRIPTOR, with an offset of its own that is 0. */
int lh__machine_give(struct lh_machine *machine, int fd, int flags, struct lh_error *error) LH_MUST_CHECK;

/* Texts of the human monitor; pure. */
size_t lh__machine_read_cr3(const char *text, uint64_t *cr3, size_t max);
int lh__machine_read_physical(const char *text, const struct lh_state_region *region, size_t regions,
                              struct lh_physical_range *range, size_t max, size_t *n) LH_MUST_CHECK;

#endif
