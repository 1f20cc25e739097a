/*
 * plan_inside.h - what the two that make plans share: plan_make.c decodes, plan_cache.c keeps plans as files.
 */
#ifndef LH_SERVICE_CODE_PLAN_INSIDE_H
#define LH_SERVICE_CODE_PLAN_INSIDE_H

#include <stddef.h>

#include "port/code/plan.h"

/*
 * Where the parts of a plan will lie: fills in the texts of *head, the place of the sites, and the largest
 * size that the plan can come to; *head is zero before. -ENOEXEC: not ELF for x86-64, or damaged; -ENODATA:
 * no code.
 */
int lh__plan_lay_out(const uint8_t *file, size_t size, struct lh_plan_head *head,
                     struct lh_error *error) LH_MUST_CHECK;
/*
 * Makes the plan in memory that is all zero behind its head, which has been laid out and says what file it is
 * of. On success head->size is what it has come to, and it is sealed.
 */
int lh__plan_fill(const struct lh_sys *sys, const uint8_t *file, size_t size, struct lh_plan_head *head,
                  struct lh_error *error) LH_MUST_CHECK;

#endif
