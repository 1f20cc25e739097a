/*
 * directory.h - what the home knows of each page of the program's address space.
 *
 * One 64-bit word a page, in a table of three levels over the 36-bit page number (address / 4096), whose
 * leaves come into being when something is known of one of their 4096 pages and stay for the home's life. A
 * word is
 *
 *     bits 0-1   state (enum lh_page_state)
 *     bit  2     BUSY: one thread is changing the page; whoever else wants it waits
 *     bit  3     WAITERS: somebody sleeps until BUSY goes
 *     bit  4     HELD: BUSY on behalf of a range that is held (home.h)
 *     bit  5     ASKED: a prefetch of the page is in flight; BUSY is set too
 *     bits 8-47  value: the frame (RESIDENT, STAGED), the store's page number (STORED)
 *
 * A word that is zero says: nothing is known; where such a page is absent its content is zero.
 *
 * Reads and lock-free changes from any thread and from signal handlers. A thread may hold several words only
 * in ascending order of pages, or by trying.
 */
#ifndef LH_DIRECTORY_H
#define LH_DIRECTORY_H

#include <stdbool.h>

#include "sys/lock.h"

enum lh_page_state { LH_PAGE_UNKNOWN = 0, LH_PAGE_RESIDENT = 1, LH_PAGE_STAGED = 2, LH_PAGE_STORED = 3 };

#define LH_ENTRY_STATE 3ul
#define LH_ENTRY_BUSY 4ul
#define LH_ENTRY_WAITERS 8ul
#define LH_ENTRY_HELD 16ul
#define LH_ENTRY_ASKED 32ul
#define LH_ENTRY_VALUE_SHIFT 8

typedef uint64_t lh_entry;

static inline enum lh_page_state lh__entry_state(lh_entry entry)
{
	return (enum lh_page_state)(entry & LH_ENTRY_STATE);
}
static inline uint64_t lh__entry_value(lh_entry entry)
{
	return entry >> LH_ENTRY_VALUE_SHIFT;
}
static inline lh_entry lh__entry(enum lh_page_state state, uint64_t value)
{
	return (lh_entry)state | value << LH_ENTRY_VALUE_SHIFT;
}

/* The page's content is not where the program would find it. */
static inline bool lh__entry_away(const lh_entry *entry)
{
	enum lh_page_state state = lh__entry_state(__atomic_load_n(entry, __ATOMIC_ACQUIRE));

	return state == LH_PAGE_STAGED || state == LH_PAGE_STORED;
}

struct lh_directory {
	const struct lh_sys *sys;
	struct lh_directory_middle **root;
	uint64_t bytes; /* of tables, for the account of local memory */
};

int lh__directory_open(struct lh_directory *directory, const struct lh_sys *sys) LH_MUST_CHECK;
void lh__directory_close(struct lh_directory *directory);

/* The word of a page, or NULL where nothing was ever known of it. */
lh_entry *lh__directory_find(const struct lh_directory *directory, uint64_t page);
/* The same; makes the tables that are missing. NULL: no memory. */
lh_entry *lh__directory_make(struct lh_directory *directory, uint64_t page);

/*
 * A word for each block of 2 MiB, zero at first, which is whose the caller says; NULL where nothing was ever
 * known of a page near it. (The turnover in which it was last written: stats.h.)
 */
uint32_t *lh__directory_block(const struct lh_directory *directory, uint64_t page);

/*
 * The first page at or after `page`, before `end`, whose word is not zero, with its word in *entry; end where
 * there is none. Skips what has no tables, so its cost follows what is known, not the size of the range.
 */
uint64_t lh__directory_next(const struct lh_directory *directory, uint64_t page, uint64_t end,
                            lh_entry **entry);

/*
 * Sets BUSY if it is not set; false if it is. *seen: the word before (without BUSY and WAITERS where true).
 */
bool lh__entry_try(lh_entry *entry, lh_entry *seen);
/* Waits until the word is not BUSY any more, or a moment has passed: look again. */
void lh__entry_wait(const struct lh_sys *sys, lh_entry *entry);
/* Sets BUSY, waiting as long as it takes; returns the word without BUSY and WAITERS. */
lh_entry lh__entry_lock(const struct lh_sys *sys, lh_entry *entry);
/* Publishes a new word, which ends BUSY, and wakes who waits. */
void lh__entry_unlock(const struct lh_sys *sys, lh_entry *entry, lh_entry word);

#endif
