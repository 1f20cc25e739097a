/*
 * tables.h - a guest's own page tables, read from its memory: which pages are neighbours in its virtual
 * space.
 *
 * Neighbours in virtual space lie anywhere in physical space, so an order over physical pages cannot know
 * them. The eight entries of a page-table line (64 bytes) map eight neighbouring virtual pages; a coherent
 * home of the page tables would see that line being read. Here the tables are walked once (4-level x86-64,
 * Intel SDM volume 3A, 4.5), from the CR3 of each vCPU, and turned round: from a physical page to the lines
 * whose entries map it.
 *
 * Tables change while they are walked or later; so what is found is a hint and never trusted: every number is
 * checked, loops end, no walk reads more than a bounded number of tables.
 */
#ifndef LH_MIGRATE_TABLES_H
#define LH_MIGRATE_TABLES_H

#include <stdbool.h>

#include "line/line.h"

/* Which pages stand where in the guest's physical memory. */
struct lh_physical_range {
	uint64_t address; /* guest physical, of 4096-byte pages */
	uint64_t pages;
	uint64_t first; /* number of the first page */
};

struct lh_tables_options {
	const struct lh_physical_range *physical;
	size_t physical_count;
	uint64_t pages;      /* of the guest in all: page numbers are below */
	const uint64_t *cr3; /* of each vCPU */
	size_t cr3_count;
	/* Reads one whole page by its number; an error ends that branch. */
	int (*read)(void *context, uint64_t page, void *content);
	void *context;
};

struct lh_tables;

int lh__tables_open(const struct lh_tables_options *options, struct lh_tables **out,
                    struct lh_error *error) LH_MUST_CHECK;
/*
 * The pages that share a page-table line with `page`, itself left out: those of the line missed most often
 * first; at most max. Lines that map neighbours in physical space, as a kernel's map of all memory does, tell
 * nothing that a page number does not, and are left out where another line maps the page. Where the lines
 * before or after were missed, or given, so that a sequence can be seen, the pages of the lines that come
 * next in it follow: as many lines as the sequence has, up to 7. Counts a miss of the page's lines. Any
 * thread, one at a time.
 */
size_t lh__tables_neighbours(struct lh_tables *tables, uint64_t page, uint64_t *pages, size_t max);
/* How many tables were read, and how many pages are mapped by some entry for 4096 bytes. */
void lh__tables_counts(const struct lh_tables *tables, uint64_t *read, uint64_t *mapped);
void lh__tables_close(struct lh_tables *tables);

#endif
