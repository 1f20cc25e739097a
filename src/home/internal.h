/* internal.h - the home's own view of itself; for src/home only. Words and invariants: home.h. */
#ifndef LH_HOME_INTERNAL_H
#define LH_HOME_INTERNAL_H

#include <errno.h>

#include "home/home.h"
#include "sys/ranges.h"

#define LH_BATCH 64     /* frames that one round of reclaim looks at */
#define LH_REQUESTS 256 /* requests that can be in flight: puts, drops, prefetches */
#define LH_AHEAD_MAX 32 /* pages that a prefetch runs ahead */
#define LH_ZERO_AHEAD_MAX 16
#define LH_STREAMS 8
#define LH_AGAIN 1024
#define LH_NO_FRAME UINT32_MAX
#define LH_NO_PAGE UINT64_MAX
#define LH_NO_KEY 0
#define LH_NUMBERS_MAX ((size_t)1 << 27) /* that a stack of numbers holds: 512 GiB of pages */

struct lh_frame {
	uint64_t page;       /* address / 4096 of the page it holds; LH_NO_PAGE: free */
	uint64_t key;        /* the store's number of that page; LH_NO_KEY: it has none */
	uint64_t since;      /* when the page came in, ns */
	uint32_t generation; /* counts the pages it has held, so that late completions know theirs is gone */
	bool backed;         /* it has memory */
	bool base;           /* its hashes describe what the store holds */
	bool out;            /* the policy has given it up for reclaim */
	bool putting;        /* lines of it are on the way to the store */
	bool touched;        /* given back since they were sent: they may not be all that has changed */
	bool empty;          /* counted as having memory, which it gets with its first page */
};

/* What a request in flight is about. */
struct lh_flight {
	struct lh_request request;
	uint32_t frame;
	uint32_t generation;
	uint64_t page;
	uint64_t residence_ns;  /* of a put: how long the page had been here */
	lh_entry *entry;        /* of a prefetch */
	lh_entry seen;          /* the entry's word, while the request is being prepared */
	struct lh_flight *next; /* while free */
};

/* A frame that the policy chose; of another generation, it holds another page by now. */
struct lh_pick {
	uint32_t frame;
	uint32_t generation;
};

/* A sequence of touches that was seen: the next fault is expected at `next`. */
struct lh_stream {
	uint64_t next;
	uint32_t window;
};

/*
 * A stack of numbers; the array is address space, touched as far as used. A number that finds it full is not
 * used again.
 */
struct lh_numbers {
	uint64_t *stack;
	size_t count;
};

struct lh_home {
	const struct lh_sys *sys;
	struct lh_home_options options;
	struct lh_port *port;
	struct lh_store *store;
	struct lh_stats *stats;
	struct lh_directory directory;
	struct lh_hash_key hash_key;

	/* Everything down to the blank line is under lock. */
	struct lh_lock lock;
	struct lh_policy *policy;
	struct lh_frame *frame;
	uint32_t *free_ring; /* free frames with memory, first in first out: neighbours stay neighbours */
	uint32_t free_head, free_count;
	uint32_t *cold; /* free frames without memory */
	uint32_t cold_count;
	uint32_t backed, limit;
	bool lends;                  /* lh__home_lend */
	struct lh_ranges regions;    /* what is watched */
	struct lh_ranges left;       /* what changes under way have taken out of it */
	uint32_t leaving;            /* these changes */
	struct lh_numbers free_keys; /* to be used again */
	struct lh_numbers dead_keys; /* to be dropped from the store first */
	uint64_t next_key;

	uint64_t (*hash)[LH_PAGE_LINES]; /* by frame; changed by who holds the page's word */
	uintptr_t staging;
	void *zeroes; /* one page */
	struct lh_stream stream[LH_STREAMS];
	uint64_t last_zero; /* the page that was answered with zeroes last, and how far it went ahead */
	uint32_t zero_window;

	struct lh_gate gate;       /* faults pass; fork closes it */
	struct lh_lock reclaiming; /* one reclaimer at a time */
	struct lh_lock io;         /* submit and poll of the store, and what follows */
	struct lh_flight *flight, *free_flight;
	uint32_t in_flight, most_in_flight;
	struct lh_pick again
		[LH_AGAIN]; /* given up by the policy, but somebody held the page: under reclaiming and io */
	uint32_t again_count;
	uint32_t turnover, turned; /* under io: turnovers begun (stats.h), pages reclaimed in this one */
	int broken;                /* the store's error, once it has failed for good */
	uint64_t broken_page;

	uint64_t fault_cpus; /* bit n: a fault was answered on CPU n % 64 since this was last asked for */
	uint32_t need;       /* futex: bumped when a reclaimer should look */
	uint32_t freed;      /* futex: bumped when frames became free */
	uint32_t awaited;    /* a fault sleeps on it */

	/* Ranges that stay present: lh__home_keep. A slot is free where end is 0. */
	struct lh_range *keep;
	uint32_t keep_high;
	uintptr_t taking, taking_end; /* what the reclaimer takes at this moment; taking 0: nothing */
};

static inline uintptr_t lh__home_frame_memory(const struct lh_home *home, uint32_t frame)
{
	return home->staging + (uintptr_t)frame * LH_PAGE_SIZE;
}

static inline uintptr_t lh__page_address(uint64_t page)
{
	return (uintptr_t)page * LH_PAGE_SIZE;
}

/* frames.c: all but the first take home->lock themselves unless the name says locked. */
uint32_t lh__frames_free(const struct lh_home *home);
/*
 * A free frame for page, preferring one with memory; LH_NO_FRAME where there is none. Pokes the reclaimer
 * when few are left.
 */
uint32_t lh__home_frame_take(struct lh_home *home, uint64_t page);
/* The frame's page is in memory now: tells the policy. */
void lh__home_frame_filled(struct lh_home *home, uint32_t frame, enum lh_fill source);
/* A frame that was taken but not filled goes back. */
void lh__home_frame_untake(struct lh_home *home, uint32_t frame);
/*
 * The page left: the frame is free. kept: its memory is in staging; else it went with the page. The key goes
 * with `key_too`.
 */
void lh__home_frame_release(struct lh_home *home, uint32_t frame, bool kept, bool key_too);
/* A staged frame whose page was touched: resident again. */
void lh__home_frame_returned(struct lh_home *home, uint32_t frame);
/*
 * A frame for a page that is in the program's memory already, beyond the limit if need be; LH_NO_FRAME where
 * there is none.
 */
uint32_t lh__home_frame_adopt(struct lh_home *home, uint64_t page);
/* A number of the store's for a new page; LH_NO_KEY where there is none left. */
uint64_t lh__key_take(struct lh_home *home);
/* A number whose page is gone: it is dropped from the store in time. */
void lh__key_drop(struct lh_home *home, uint64_t key);
/* Gives the memory of free frames back to the kernel while there are more with memory than the limit. */
bool lh__frames_shrink(struct lh_home *home);
/* Frames have become free: wakes the faults that wait for one. */
void lh__frames_tell(struct lh_home *home);
/* The watched range that address lies in. */
bool lh__region_find(struct lh_home *home, uintptr_t address, struct lh_range *out);

/* deactivate.c: under reclaiming. */
/* Takes up to max pages that the policy chooses out of sight; how many it chose. */
size_t lh__deactivate(struct lh_home *home, size_t max);
/* The word of the page that a pick is about; NULL where the frame holds another page by now, or none. */
lh_entry *lh__entry_of(struct lh_home *home, const struct lh_pick *pick, uint64_t *page);
bool lh__kept(const struct lh_home *home, uint64_t page);

/* harvest.c: under io. */
/* Takes what the store has completed. */
void lh__harvest(struct lh_home *home);
/* Somebody holds the page: it is looked at again in the next round. */
void lh__push_again(struct lh_home *home, struct lh_pick pick);
/* The store has failed, with this page. */
void lh__note_broken(struct lh_home *home, int result, uint64_t page);
/* One page has left local memory. */
void lh__note_reclaimed(struct lh_home *home);
struct lh_flight *lh__flight_take(struct lh_home *home);
void lh__flight_give(struct lh_home *home, struct lh_flight *flight);

/* reclaim.c */
/* Under reclaiming; returns an enum lh_round, or the store's error. */
int lh__reclaim_round(struct lh_home *home);
/*
 * One page less for the rounds to take out of sight, if they are about to: what a fault does while the store
 * answers.
 */
void lh__reclaim_meanwhile(void *home);

/* miss.c */
/* Prefetches have come back: installs their pages, neighbours together. Under io. */
void lh__prefetched(struct lh_home *home, struct lh_flight *const *flights, size_t n);

/*
 * Puts the content in the frame's memory in place at page; the entry is BUSY by the caller. 0 or -errno: the
 * frame still has its memory.
 */
int lh__install_backed(struct lh_home *home, uint64_t page, uint32_t frame);

#endif
