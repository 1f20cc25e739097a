/*
 * pages.h - the source's side of the channels of faults and data: gives pages of the guest's memory.
 *
 * A thread for each channel. Content is read with pread (a mapping that reads a hole would fill it). Of pages
 * given, hashes of their lines are kept, 512 bytes each in a table of bounded size, so that of a page that is
 * asked for again only what differs travels; a page whose hashes had to make room travels whole.
 */
#ifndef LH_MIGRATE_PAGES_H
#define LH_MIGRATE_PAGES_H

#include "line/pageset.h"
#include "service/migrate/channel.h"
#include "service/migrate/state.h"
#include "service/migrate/tables.h"

struct lh_pages_options {
	const struct lh_state_region *region; /* on this machine; copied */
	size_t regions;
	uint64_t hashed; /* pages whose hashes are kept at most; 0: 131072 */
};

struct lh_pages;

int lh__pages_open(const struct lh_pages_options *options, struct lh_pages **out,
                   struct lh_error *error) LH_MUST_CHECK;
/* Pages that are not holes of the files are added to the set; those of holes read as zero. */
int lh__pages_content(struct lh_pages *pages, struct lh_pageset *set, struct lh_error *error) LH_MUST_CHECK;
/*
 * Pages of `absent` that were given with content and are holes by now are added to the set: they are zero,
 * and whoever has them is to be told so. Not while pages are asked for.
 */
int lh__pages_gone(struct lh_pages *pages, const struct lh_pageset *absent, struct lh_pageset *set,
                   struct lh_error *error) LH_MUST_CHECK;
/* Serves a channel in a thread of its own until it breaks; takes it over. kind: faults or data. */
int lh__pages_serve(struct lh_pages *pages, struct lh_channel *channel, enum lh_move_channel_kind kind,
                    struct lh_error *error) LH_MUST_CHECK;
/* Ends all threads and closes the channels that were handed over so far; hashes are forgotten. */
void lh__pages_disconnect(struct lh_pages *pages);
/* The guest stands still from here on; misses are answered with hints of `tables` (may be NULL; taken over).
 * Any time, from any thread. */
void lh__pages_tables(struct lh_pages *pages, struct lh_tables *tables);
/* Reads one page, for who walks tables. */
int lh__pages_read(void *pages, uint64_t page, void *content);

/*
 * 0, or -EIO: a page was asked for and could not be read; who asked waits for an answer that does not come.
 */
int lh__pages_failed(struct lh_pages *pages, struct lh_error *error);

struct lh_pages_counts {
	uint64_t given[4]; /* by enum lh_move_channel_kind */
	uint64_t bytes[4];
	uint64_t since, lines_since, hints;
};
void lh__pages_read_counts(struct lh_pages *pages, struct lh_pages_counts *counts);
void lh__pages_close(struct lh_pages *pages);

#endif
