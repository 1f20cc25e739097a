/*
 * tables_inside.h - what is kept of a guest's page tables, between the walk (tables_walk.c) and the map that
 * is turned round (tables.c).
 *
 * A line is eight entries for neighbouring pages of the virtual space, as far as some are there. Lines are
 * numbered in the sequence of the walk, so that neighbours in number are neighbours in virtual space.
 *
 * Of each page, `where` says which lines map it: none; one, its number + 1; or several, a place in `more`,
 * where their numbers stand one after another up to LH_TABLES_END. That is 4 bytes for each page of the
 * guest, 4 for each entry, and 6 for each line.
 */
#ifndef LH_MIGRATE_TABLES_INSIDE_H
#define LH_MIGRATE_TABLES_INSIDE_H

#include "line/pageset.h"
#include "service/migrate/tables.h"

#define LH_TABLES_LINE 8u         /* entries of a line */
#define LH_TABLES_NONE UINT32_MAX /* an entry that maps nothing */
#define LH_TABLES_END UINT32_MAX  /* of a list */
#define LH_TABLES_SEVERAL (1u << 31)

struct lh_tables {
	uint64_t pages;
	uint64_t read, mapped;
	size_t lines, room;
	uint32_t (*entry)[LH_TABLES_LINE]; /* page numbers */
	uint8_t *follows;                  /* the line is in the same table as the one before it */
	uint32_t *misses;                  /* of each line's pages */
	uint8_t *seen;                     /* the line was missed, or given as a next one */
	uint32_t *where;
	uint32_t *more;
};

/* Reads the tables and fills in lines. -ENOMEM. */
int lh__tables_walk(struct lh_tables *tables, const struct lh_tables_options *options) LH_MUST_CHECK;

#endif
