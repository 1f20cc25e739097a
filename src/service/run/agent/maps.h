/* maps.h - reading /proc/self/maps without libc. */
#ifndef LH_AGENT_MAPS_H
#define LH_AGENT_MAPS_H

#include <stdbool.h>

#include "sys/sys.h"

struct lh_mapping {
	uintptr_t start, end;
	char protection[5]; /* "rw-p" */
	uint64_t inode;
	char name[64]; /* its beginning; empty for plain anonymous memory */
	bool wiped;    /* MADV_WIPEONFORK; only by lh__smaps_read */
};

/*
 * Calls visit for each mapping in ascending order until it returns non-zero. Returns that, 0, or a negative
 * errno.
 */
int lh__maps_read(const struct lh_sys *sys, int (*visit)(void *context, const struct lh_mapping *mapping),
                  void *context) LH_MUST_CHECK;

/* The same, from /proc/self/smaps, for which the kernel looks at every page. */
int lh__smaps_read(const struct lh_sys *sys, int (*visit)(void *context, const struct lh_mapping *mapping),
                   void *context) LH_MUST_CHECK;

#endif
