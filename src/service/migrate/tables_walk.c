/*
 * tables_walk.c - reads page tables of four levels (Intel SDM volume 3A, 4.5), from every CR3, in ascending
 * order of virtual addresses.
 *
 * An entry is 8 bytes: bit 0 says that it is there, bit 7 that it maps memory by itself instead of naming a
 * table (level 3: 1 GiB, level 2: 2 MiB), bits 12 to 51 are the address. A guest can write anything into
 * them: a page is read at most once as a table of each level, and no more than a sixteenth of the guest's
 * pages and LEAST in all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/tables_inside.h"

#define LEVELS 4u
#define ENTRIES 512u
#define PRESENT UINT64_C(1)
#define LARGE UINT64_C(0x80)
#define ADDRESS UINT64_C(0x000ffffffffff000)
#define LEAST 4096u

struct walk {
	struct lh_tables *tables;
	const struct lh_tables_options *options;
	uint64_t budget;
	const struct lh_physical_range *range; /* where the last address was found */
	struct lh_pageset walked[LEVELS];      /* pages read as tables of level 1, 2... */
	uint64_t table[LEVELS][ENTRIES];
};

/* The page at a physical address, LH_PAGESET_NONE: nothing that we know of. */
static uint64_t page_at(struct walk *walk, uint64_t address)
{
	const struct lh_tables_options *options = walk->options;
	uint64_t index, page;
	size_t i;

	index = walk->range ? (address - walk->range->address) / LH_PAGE_SIZE : 0;
	if (!walk->range || address < walk->range->address || index >= walk->range->pages) {
		for (i = 0; i < options->physical_count; i++) {
			walk->range = &options->physical[i];
			index = (address - walk->range->address) / LH_PAGE_SIZE;
			if (address >= walk->range->address && index < walk->range->pages)
				break;
		}
		if (i == options->physical_count) {
			walk->range = NULL;
			return LH_PAGESET_NONE;
		}
	}
	page = walk->range->first + index;
	return page >= index && page < options->pages ? page : LH_PAGESET_NONE;
}

static int grow(struct lh_tables *tables)
{
	size_t room = tables->room ? 2 * tables->room : 1024;
	void *entry = realloc(tables->entry, room * sizeof(*tables->entry));
	void *follows;

	if (!entry)
		return -ENOMEM;
	tables->entry = entry;
	follows = realloc(tables->follows, room);
	if (!follows)
		return -ENOMEM;
	tables->follows = follows;
	tables->room = room;
	return 0;
}

static bool had(const uint32_t *line, unsigned n, uint32_t page)
{
	while (n--)
		if (line[n] == page)
			return true;
	return false;
}

/* One line of a table of level 1: 1 where it maps something. A page that stands in it twice counts once. */
static int take_line(struct walk *walk, const uint64_t *entry, bool follows)
{
	struct lh_tables *tables = walk->tables;
	uint32_t line[LH_TABLES_LINE];
	uint64_t page;
	unsigned i, n = 0;

	for (i = 0; i < LH_TABLES_LINE; i++) {
		page = entry[i] & PRESENT ? page_at(walk, entry[i] & ADDRESS) : LH_PAGESET_NONE;
		line[i] = LH_TABLES_NONE;
		if (page != LH_PAGESET_NONE && !had(line, i, (uint32_t)page)) {
			line[i] = (uint32_t)page;
			n++;
		}
	}
	if (n == 0)
		return 0;
	if (tables->lines == tables->room && grow(tables) < 0)
		return -ENOMEM;
	memcpy(tables->entry[tables->lines], line, sizeof(line));
	tables->follows[tables->lines++] = follows;
	return 1;
}

static int take_lines(struct walk *walk, const uint64_t *table)
{
	bool follows = false;
	unsigned i;
	int taken;

	for (i = 0; i < ENTRIES; i += LH_TABLES_LINE) {
		taken = take_line(walk, &table[i], follows);
		if (taken < 0)
			return taken;
		follows |= taken > 0;
	}
	return 0;
}

static int walk_table(struct walk *walk, uint64_t address, unsigned level)
{
	uint64_t page = page_at(walk, address), *table = walk->table[level - 1];
	unsigned i;
	int result = 0;

	if (page == LH_PAGESET_NONE || walk->tables->read >= walk->budget ||
	    !lh__pageset_add(&walk->walked[level - 1], page))
		return 0;
	walk->tables->read++;
	if (walk->options->read(walk->options->context, page, table) < 0)
		return 0;
	if (level == 1)
		return take_lines(walk, table);
	for (i = 0; i < ENTRIES && result == 0; i++)
		if ((table[i] & PRESENT) && !(table[i] & LARGE))
			result = walk_table(walk, table[i] & ADDRESS, level - 1);
	return result;
}

int lh__tables_walk(struct lh_tables *tables, const struct lh_tables_options *options)
{
	struct walk *walk = calloc(1, sizeof(*walk));
	size_t bytes = lh__pageset_bytes(options->pages), i;
	int result = walk ? 0 : -ENOMEM;

	for (i = 0; i < LEVELS && result == 0; i++) {
		walk->walked[i] = (struct lh_pageset){ options->pages, calloc(1, bytes) };
		if (!walk->walked[i].word)
			result = -ENOMEM;
	}
	if (result == 0) {
		walk->tables = tables;
		walk->options = options;
		walk->budget = options->pages / 16 + LEAST;
	}
	for (i = 0; i < options->cr3_count && result == 0; i++)
		result = walk_table(walk, options->cr3[i] & ADDRESS, LEVELS);
	for (i = 0; walk && i < LEVELS; i++)
		free(walk->walked[i].word);
	free(walk);
	return result;
}
