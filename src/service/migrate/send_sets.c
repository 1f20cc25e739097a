/* send_sets.c - sets of pages of the two sides of a migration, and how they are sent. */
#include <errno.h>
#include <stdlib.h>

#include "service/migrate/send_inside.h"

#define RUNS_MAX (LH_MOVE_BODY_MAX / LH_PAGESET_RUN * LH_PAGESET_RUN)

int lh__send_set_open(struct lh_pageset *set, uint64_t pages, struct lh_error *error)
{
	set->pages = pages;
	set->word = calloc(1, lh__pageset_bytes(pages));
	if (!set->word)
		return lh__fail(error, -ENOMEM, "no memory for a set of %lu pages", (unsigned long)pages);
	return 0;
}

void lh__send_set_close(struct lh_pageset *set)
{
	free(set->word);
	set->word = NULL;
}

int lh__send_set(struct lh_channel *channel, enum lh_move_set which, const struct lh_pageset *set)
{
	uint64_t from = lh__pageset_next(set, 0);
	uint8_t *runs;
	int result = 0;

	if (from == LH_PAGESET_NONE)
		return 0;
	runs = malloc(RUNS_MAX);
	if (!runs)
		return -ENOMEM;
	while (result == 0 && from != LH_PAGESET_NONE) {
		size_t size = lh__pageset_encode(set, &from, runs, RUNS_MAX);

		if (size > 0)
			result = lh__channel_send(channel, LH_MOVE_PAGES, which, 0, runs, size);
	}
	free(runs);
	return result;
}
