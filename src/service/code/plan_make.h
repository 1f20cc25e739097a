/*
 * plan_make.h - makes plans (port/code/plan.h) of ELF files, and keeps them.
 *
 * The cache is $XDG_CACHE_HOME/linehome/code, or ~/.cache/linehome/code, a file for each id. A plan there is
 * used if it is whole, belongs to this user or root, and its ELF file is the same (size, device, inode, time
 * of change) or, where that is not so, has the same code. Else it is made anew and put in its place by
 * rename. A cache that cannot be written to is no error: the plan is then a memory file.
 */
#ifndef LH_SERVICE_CODE_PLAN_MAKE_H
#define LH_SERVICE_CODE_PLAN_MAKE_H

#include "port/code/plan.h"
#include "port/code/text.h"

struct lh_plan {
	const struct lh_plan_head *head; /* the whole plan, mapped read-only: head->size bytes */
	int descriptor;                  /* of the plan, read-only */
	bool cached;                     /* it came from the cache */
};

/*
 * The plan of an ELF file that is open for reading (at its name path, for messages only). Threads: any, also
 * of several processes at once. -ENOEXEC: not ELF for x86-64; -ENODATA: nothing tells where its functions
 * are.
 */
int lh__plan_open(const struct lh_sys *sys, int file, const char *path, struct lh_plan *out,
                  struct lh_error *error) LH_MUST_CHECK;
void lh__plan_close(const struct lh_sys *sys, struct lh_plan *plan);

/* What a text of a plan is in the middle of memory; for reports, with hits NULL or a record's. */
void lh__plan_text(const struct lh_plan *plan, unsigned which, uint64_t bias, uint64_t *hits,
                   struct lh_text *out);

#endif
