/*
 * order_hints.c - hints that came with misses. The guest is where its newest miss was, so that one's hints
 * are worth most; those of older misses wait below them.
 */
#include "service/migrate/order_inside.h"

void lh__order_hints_reset(struct lh_order_hints *hints)
{
	hints->end = hints->count = 0;
}

void lh__order_hints_add(struct lh_order_hints *hints, const uint64_t *pages, size_t n, bool chased)
{
	size_t i;

	if (n > LH_ORDER_HINTS)
		n = LH_ORDER_HINTS;
	for (i = 0; i < n; i++) {
		hints->page[hints->end] = pages[chased ? i : n - 1 - i];
		hints->end = (hints->end + 1) % LH_ORDER_HINTS;
		if (hints->count < LH_ORDER_HINTS)
			hints->count++;
	}
}

bool lh__order_hints_next(struct lh_order_hints *hints, uint64_t *page)
{
	if (hints->count == 0)
		return false;
	hints->end = (hints->end + LH_ORDER_HINTS - 1) % LH_ORDER_HINTS;
	hints->count--;
	*page = hints->page[hints->end];
	return true;
}
