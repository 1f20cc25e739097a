/*
 * tables.c - from a page to the page-table lines that map it, and from these to its neighbours.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/tables_inside.h"

/* A page that more lines map (of zeroes; of a kernel's aliases) has no neighbours worth speaking of. */
#define MANY 16u
#define TOO_MANY (LH_TABLES_SEVERAL - 1)
#define ONCE (LH_TABLES_SEVERAL - 2) /* while the map is made: mapped by one line, not known yet */
#define LINES_MAX (LH_TABLES_SEVERAL - 4)
#define AHEAD 7u

/* Into `where`: how many lines map each page. */
static void count_lines(struct lh_tables *tables)
{
	size_t line;
	unsigned i;

	for (line = 0; line < tables->lines; line++)
		for (i = 0; i < LH_TABLES_LINE; i++)
			if (tables->entry[line][i] != LH_TABLES_NONE)
				tables->where[tables->entry[line][i]]++;
}

/* From counts to places; returns how long `more` gets. */
static size_t place_lists(struct lh_tables *tables)
{
	size_t used = 0;
	uint64_t page;
	uint32_t count;

	for (page = 0; page < tables->pages; page++) {
		count = tables->where[page];
		if (count == 0)
			continue;
		tables->mapped++;
		if (count == 1) {
			tables->where[page] = ONCE;
		} else if (count > MANY || used + count >= LH_TABLES_SEVERAL) {
			tables->where[page] = TOO_MANY;
		} else {
			tables->where[page] = LH_TABLES_SEVERAL | (uint32_t)used;
			used += count + 1;
		}
	}
	return used;
}

static void fill_lists(struct lh_tables *tables)
{
	uint32_t *where, *list;
	size_t line;
	unsigned i;

	for (line = 0; line < tables->lines; line++) {
		for (i = 0; i < LH_TABLES_LINE; i++) {
			if (tables->entry[line][i] == LH_TABLES_NONE)
				continue;
			where = &tables->where[tables->entry[line][i]];
			if (*where == ONCE)
				*where = (uint32_t)line + 1;
			if (!(*where & LH_TABLES_SEVERAL))
				continue;
			for (list = &tables->more[*where & ~LH_TABLES_SEVERAL]; *list != LH_TABLES_END;)
				list++;
			*list = (uint32_t)line;
		}
	}
}

static int turn_round(struct lh_tables *tables)
{
	size_t length;

	tables->where = calloc(tables->pages, sizeof(*tables->where));
	tables->misses = calloc(tables->lines + 1, sizeof(*tables->misses));
	tables->seen = calloc(tables->lines + 1, sizeof(*tables->seen));
	if (!tables->where || !tables->misses || !tables->seen || tables->lines > LINES_MAX)
		return -ENOMEM;
	count_lines(tables);
	length = place_lists(tables);
	tables->more = malloc((length + 1) * sizeof(*tables->more));
	if (!tables->more)
		return -ENOMEM;
	memset(tables->more, 0xff, (length + 1) * sizeof(*tables->more));
	fill_lists(tables);
	return 0;
}

int lh__tables_open(const struct lh_tables_options *options, struct lh_tables **out, struct lh_error *error)
{
	struct lh_tables *tables;

	if (options->pages == 0 || options->pages >= LH_TABLES_NONE)
		return lh__fail(error, -EINVAL, "page tables of a guest of %lu pages cannot be kept",
		                (unsigned long)options->pages);
	tables = calloc(1, sizeof(*tables));
	if (tables)
		tables->pages = options->pages;
	if (!tables || lh__tables_walk(tables, options) < 0 || turn_round(tables) < 0) {
		lh__tables_close(tables);
		return lh__fail(error, -ENOMEM, "no memory for the page tables of a guest of %lu pages",
		                (unsigned long)options->pages);
	}
	*out = tables;
	return 0;
}

void lh__tables_counts(const struct lh_tables *tables, uint64_t *read, uint64_t *mapped)
{
	*read = tables->read;
	*mapped = tables->mapped;
}

void lh__tables_close(struct lh_tables *tables)
{
	if (!tables)
		return;
	free(tables->entry);
	free(tables->follows);
	free(tables->misses);
	free(tables->seen);
	free(tables->where);
	free(tables->more);
	free(tables);
}

/* ---- neighbours ---- */

/* The lines that map the page. */
static unsigned find_lines(const struct lh_tables *tables, uint64_t page, uint32_t line[MANY])
{
	uint32_t where = page < tables->pages ? tables->where[page] : 0;
	const uint32_t *list;
	unsigned n = 0;

	if (where == 0 || where == TOO_MANY)
		return 0;
	if (!(where & LH_TABLES_SEVERAL)) {
		line[0] = where - 1;
		return 1;
	}
	for (list = &tables->more[where & ~LH_TABLES_SEVERAL]; *list != LH_TABLES_END && n < MANY; list++)
		line[n++] = *list;
	return n;
}

/* Whether the line's pages are neighbours in physical space in the same way, so that it says nothing new. */
static bool is_plain(const struct lh_tables *tables, uint32_t line)
{
	const uint32_t *entry = tables->entry[line];
	unsigned i, first = 0, others = 0;

	while (entry[first] == LH_TABLES_NONE)
		first++;
	for (i = first + 1; i < LH_TABLES_LINE; i++) {
		if (entry[i] == LH_TABLES_NONE)
			continue;
		if (entry[i] != entry[first] + (i - first))
			return false;
		others++;
	}
	return others > 0;
}

/* Sorts by misses, the most first; plain lines are left out unless all are. Returns how many remain. */
static unsigned sort_lines(const struct lh_tables *tables, uint32_t line[MANY], unsigned n)
{
	unsigned i, j, kept = 0;
	uint32_t moved;

	for (i = 0; i < n; i++) {
		if (!is_plain(tables, line[i])) {
			moved = line[i];
			line[i] = line[kept];
			line[kept++] = moved;
		}
	}
	n = kept ? kept : n;
	for (i = 1; i < n; i++) {
		moved = line[i];
		for (j = i; j > 0 && tables->misses[line[j - 1]] < tables->misses[moved]; j--)
			line[j] = line[j - 1];
		line[j] = moved;
	}
	return n;
}

struct neighbours {
	uint64_t page;
	uint64_t *pages;
	size_t n, max;
};

static void add(struct neighbours *out, uint32_t page)
{
	size_t i;

	if (page == LH_TABLES_NONE || page == out->page || out->n == out->max)
		return;
	for (i = 0; i < out->n; i++)
		if (out->pages[i] == page)
			return;
	out->pages[out->n++] = page;
}

/* The page's line: what follows it first. */
static void add_own(const struct lh_tables *tables, uint32_t line, struct neighbours *out)
{
	const uint32_t *entry = tables->entry[line];
	unsigned at = 0, i;

	while (at < LH_TABLES_LINE - 1 && entry[at] != out->page)
		at++;
	for (i = at + 1; i < LH_TABLES_LINE; i++)
		add(out, entry[i]);
	for (i = at; i-- > 0;)
		add(out, entry[i]);
}

/* How many lines directly before (step -1) or after (1) this one in its table were seen; at most AHEAD. */
static unsigned sequence(const struct lh_tables *tables, size_t line, int step)
{
	unsigned n = 0;

	while (n < AHEAD) {
		if (step > 0 ? line + 1 >= tables->lines || !tables->follows[line + 1]
		             : !tables->follows[line])
			break;
		line += (size_t)step;
		if (!tables->seen[line])
			break;
		n++;
	}
	return n;
}

/* Lines that come next, as many as came before. */
static void add_next(struct lh_tables *tables, size_t line, struct neighbours *out)
{
	unsigned before = sequence(tables, line, -1), after = sequence(tables, line, 1), i, n;
	int step = before >= after ? 1 : -1;

	for (n = step > 0 ? before : after; n > 0 && out->n < out->max; n--) {
		if (step > 0 ? line + 1 >= tables->lines || !tables->follows[line + 1]
		             : !tables->follows[line])
			break;
		line += (size_t)step;
		tables->seen[line] = 1;
		for (i = 0; i < LH_TABLES_LINE; i++)
			add(out, tables->entry[line][step > 0 ? i : LH_TABLES_LINE - 1 - i]);
	}
}

size_t lh__tables_neighbours(struct lh_tables *tables, uint64_t page, uint64_t *pages, size_t max)
{
	struct neighbours out = { .page = page, .pages = pages, .max = max };
	uint32_t line[MANY];
	unsigned n = find_lines(tables, page, line), i;

	for (i = 0; i < n; i++) {
		tables->misses[line[i]]++;
		tables->seen[line[i]] = 1;
	}
	n = sort_lines(tables, line, n);
	for (i = 0; i < n; i++)
		add_own(tables, line[i], &out);
	for (i = 0; i < n; i++)
		add_next(tables, line[i], &out);
	return out.n;
}
