/*
 * supply.h - where the pages of a guest come from: the contract.
 *
 * A supply has lanes. Lane 0 is for what somebody waits for, lanes 1, 2... are for the background. Each lane
 * is used by one thread at a time, and answers what it was asked in the order in which it was asked.
 *
 *     supply_remote.c  the sender of a migration, a channel for each lane
 *     supply_file.c    files of this machine: a snapshot
 */
#ifndef LH_MIGRATE_SUPPLY_H
#define LH_MIGRATE_SUPPLY_H

#include <stdbool.h>

#include "line/line.h"

struct lh_supply_answer {
	uint64_t page;
	bool since;   /* lines outside mask are as they were given last; else they are zero */
	lh_mask mask; /* lines that differ from that; of pages that are not 4096 bytes: all or none */
	const void
		*data;  /* page-shaped; lines outside mask are zero unless since. Valid until the next call */
	uint64_t bytes; /* that travelled for it */
};

struct lh_supply;

struct lh_supply_ops {
	/*
	 * Asks for a page; since: the asker has it as this supply gave it last. May gather; flush sends. An
	 * error means that the supply is broken, for all lanes, and stays so.
	 */
	int (*ask)(struct lh_supply *supply, unsigned lane, uint64_t page, bool since);
	int (*flush)(struct lh_supply *supply, unsigned lane);
	/* The next answer: 1; 0 where none is there yet; an error. Does not wait. */
	int (*next)(struct lh_supply *supply, unsigned lane, struct lh_supply_answer *answer);
	/* Readable when there may be an answer; -1: where something was asked there is one at once. */
	int (*descriptor)(struct lh_supply *supply, unsigned lane);
	/*
	 * Pages likely to be missed together with the one that lane 0 answered last, the likeliest first, at
	 * most max; returns how many. To be called directly after next has returned 1.
	 */
	size_t (*hints)(struct lh_supply *supply, uint64_t *pages, size_t max);
	/* Another thread's calls fail soon; the supply is broken. */
	void (*break_off)(struct lh_supply *supply);
	void (*close)(struct lh_supply *supply);
};

struct lh_supply {
	const struct lh_supply_ops *ops;
	unsigned lanes; /* at least 2 */
	size_t page_size;
};

struct lh_channel;
/* Takes over the channels on success: channel[0] is that of faults, the others of data. */
int lh__supply_remote(struct lh_channel *const *channel, unsigned channels,
                      struct lh_supply **out) LH_MUST_CHECK;

struct lh_supply_file {
	const char *path;
	uint64_t offset, size; /* the part that is memory; a multiple of the page size */
};
struct lh_tables;
/*
 * Files one after another are pages 0, 1, ...; `tables`, which may be NULL and stays the caller's, gives
 * hints. They are only read, and holes stay holes. -ENOENT...; -EINVAL: a file is too short.
 */
int lh__supply_files(const struct lh_supply_file *file, size_t files, size_t page_size, unsigned lanes,
                     struct lh_tables *tables, struct lh_supply **out, struct lh_error *error) LH_MUST_CHECK;

#endif
