/*
 * ranges.h - a sorted set of address ranges that never overlap or touch.
 *
 *     add [3,5)  to {[1,3), [7,9)}  gives {[1,5), [7,9)}
 *     remove [2,8) from that        gives {[1,2), [8,9)}
 *
 * The caller gives the array and locks. Nothing here allocates or calls the kernel.
 */
#ifndef LH_RANGES_H
#define LH_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "linehome.h"

struct lh_range {
	uintptr_t start, end; /* end is exclusive */
};

struct lh_ranges {
	struct lh_range *at;
	size_t count, capacity;
};

/* The index of the first range that ends after address; count where there is none. */
size_t lh__ranges_after(const struct lh_ranges *ranges, uintptr_t address);
/* The range that address lies in, or NULL. */
const struct lh_range *lh__ranges_find(const struct lh_ranges *ranges, uintptr_t address);
/* Whether any part of [start, end) is in the set. */
bool lh__ranges_touch(const struct lh_ranges *ranges, uintptr_t start, uintptr_t end);
/* -ENOMEM: the array is full, and the set is as it was. */
int lh__ranges_add(struct lh_ranges *ranges, uintptr_t start, uintptr_t end) LH_MUST_CHECK;
/* A range that [start, end) lies inside of is split; where the array is full it is left whole. */
void lh__ranges_remove(struct lh_ranges *ranges, uintptr_t start, uintptr_t end);
/*
 * The first part of [*start, end) outside the set: moves *start to it and returns its end; 0 where there is
 * none.
 */
uintptr_t lh__ranges_gap(const struct lh_ranges *ranges, uintptr_t *start, uintptr_t end);

#endif
