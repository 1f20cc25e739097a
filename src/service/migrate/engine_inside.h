/*
 * engine_inside.h - what the files of the engine share. engine.c has the races, and why each ends well.
 *
 *     engine.c         opening, closing, standing still, waiting
 *     engine_control.c what the one who moves the guest asks for
 *     engine_faults.c  the thread of faults
 *     engine_lanes.c   the threads of the background
 *     engine_next.c    which page a lane asks for, and when it may
 *     engine_pace.c    how many: the limit of bandwidth, and a lane's window
 *     engine_put.c     a page comes
 */
#ifndef LH_MIGRATE_ENGINE_INSIDE_H
#define LH_MIGRATE_ENGINE_INSIDE_H

#include <pthread.h>

#include "service/migrate/engine.h"
#include "service/migrate/engine_pace.h"
#include "sys/lock.h"

#define LH_ENGINE_MISSES 1024u   /* at once; what is beyond is woken, and is reported again */
#define LH_ENGINE_FLYING 1024u   /* of one lane; a power of two */
#define LH_ENGINE_NEIGHBOURS 16u /* at most shown, or made zero, with one that was missed */
#define LH_ENGINE_RATES 16u
#define LH_ENGINE_RATE_NS UINT64_C(100000000)

enum lh_engine_mode { LH_ENGINE_IDLE, LH_ENGINE_FETCHING, LH_ENGINE_ANSWERING };

/* What was asked of a supply and has not come, oldest first. Its lane's thread alone changes it. */
struct lh_engine_flying {
	struct {
		uint64_t page, at; /* at: when it was asked, ns */
		bool since;
	} entry[LH_ENGINE_FLYING];
	uint32_t head, tail; /* free-running; others may read how many there are */
};

struct lh_engine_lane {
	struct lh_engine *engine;
	unsigned number;
	pthread_t thread;
	bool started;
	int kick;  /* eventfd */
	bool idle; /* it found nothing to ask for, and sleeps; atomic */
	struct lh_engine_flying flying;
	bool limited; /* it may not ask for more now, and sleeps; atomic */
	struct lh_window window;
};

/*
 * A page that the thread of faults takes care of: asked for on lane 0, or to be asked for. More than one
 * entry may be of the same page, one for each who waits; only one of them is `leads`.
 */
struct lh_engine_miss {
	uint64_t page, began;
	pid_t thread;
	bool leads, waiting, asked;
};

/* A fault of a page that is fresh, which could not be answered yet. */
struct lh_engine_retry {
	uint64_t page, began;
	pid_t thread;
};

struct lh_engine {
	struct lh_engine_options options;
	uint64_t pages;
	struct lh_state *state;
	struct lh_place *place;

	/*
	 * Standing still: threads are counted while they work, not while they sleep. `lock` is for all down
	 * to the next blank line.
	 */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned working;
	unsigned hold; /* atomic to look at */
	bool quit;
	uint64_t cursor; /* no page below it is absent */

	/* Changed while all stand still, or atomic. */
	struct lh_supply *supply;
	bool has_guest, guest_left, broken, complete, halted;
	enum lh_engine_mode mode;
	struct lh_guest guest;
	bool unwatched; /* all of it; the thread of faults' alone */

	/* Held open by who puts a page; closed while the guest's events are read and believed. */
	struct lh_gate gate;
	uint32_t events; /* how often they have been read; futex */

	pthread_mutex_t order_lock;
	struct lh_pageset again; /* asked for and lost: to be asked before what the order says */
	uint64_t again_count;
	uint64_t missing; /* fetching: no page below it is absent and not asked for */

	pthread_mutex_t miss_lock;
	struct lh_pageset missed; /* those that have an entry */
	struct lh_engine_miss miss[LH_ENGINE_MISSES];
	size_t misses;
	uint64_t *record;
	size_t records, record_room;
	struct lh_engine_retry retry[LH_ENGINE_MISSES]; /* of the thread of faults alone */
	size_t retries;

	pthread_mutex_t bucket_lock;
	struct lh_bucket bucket;

	pthread_mutex_t count_lock;
	struct lh_engine_counts counts;
	struct {
		uint64_t slot, bytes;
	} rate[LH_ENGINE_RATES];
	struct lh_pageset hinted;

	unsigned lanes;
	struct lh_engine_lane lane[];
};

static inline uint32_t lh__engine_flying(const struct lh_engine_flying *flying)
{
	return __atomic_load_n(&flying->tail, __ATOMIC_ACQUIRE) -
	       __atomic_load_n(&flying->head, __ATOMIC_ACQUIRE);
}

static inline bool lh__engine_is(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
}

static inline void lh__engine_set(bool *flag, bool value)
{
	__atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

/* ---- engine.c ---- */

/* A thread's call each turn: stands still where that is wanted. false: the engine is being closed. */
bool lh__engine_turn(struct lh_engine *engine);
/* Around a thread's sleep: it is not waited for, and does not go on while all are to stand still. */
void lh__engine_sleep(struct lh_engine *engine);
void lh__engine_woke(struct lh_engine *engine);
/* All threads stand still from the return of hold on; by the thread that changes phases. */
void lh__engine_hold(struct lh_engine *engine);
void lh__engine_go_on(struct lh_engine *engine);
/* Wakes a lane's thread out of its poll. */
void lh__engine_kick(struct lh_engine *engine, unsigned lane);
void lh__engine_kick_idle(struct lh_engine *engine);
/* Those too that wait for bandwidth: what may be borrowed for has been added. */
void lh__engine_kick_soon(struct lh_engine *engine);
/* Something has changed that somebody may wait for. */
void lh__engine_changed(struct lh_engine *engine);
/* All pages are fresh or zero. */
bool lh__engine_all_here(struct lh_engine *engine);
/* The supply in use, or NULL where there is none or it has broken. */
struct lh_supply *lh__engine_source(struct lh_engine *engine);
void lh__engine_break(struct lh_engine *engine);

/* ---- engine_put.c ---- */

/* What became of an answer. */
enum lh_engine_put {
	LH_ENGINE_PUT,     /* it is in place; show it, and resolve */
	LH_ENGINE_DROPPED, /* the page is fresh already, or will come another way */
	LH_ENGINE_AGAIN,   /* the guest's events have to be read first */
	LH_ENGINE_FAILED,  /* it could not be written, and the supply has been broken */
};

/* Whether pages can be put in place now. */
bool lh__engine_can_put(struct lh_engine *engine);
/* Puts a page in place: where the guest cannot see it yet, if the place can do that. */
enum lh_engine_put lh__engine_put(struct lh_engine *engine, const struct lh_supply_answer *answer);
/*
 * Shows pages that are fresh. What cannot be shown now is shown when somebody touches it. -ESRCH, -EAGAIN.
 * *cause, which may be NULL, gets LH_FAULT_HERE or, where the one page is not in memory, LH_FAULT_ZERO.
 */
int lh__engine_reveal(struct lh_engine *engine, uint64_t page, uint64_t count, enum lh_fault_cause *cause);
/* Whoever waits for this page, which is fresh, has been woken. */
void lh__engine_resolve(struct lh_engine *engine, uint64_t page);
/* What a place returned for pages that are fresh, and what it means: 0, -EAGAIN or -ESRCH. */
int lh__engine_result(struct lh_engine *engine, int result);
/* Counts an answer. */
void lh__engine_came(struct lh_engine *engine, unsigned lane, const struct lh_supply_answer *answer);

/* ---- engine_lanes.c ---- */

void *lh__engine_lane_main(void *lane);
/* Asks, and remembers that. An error has broken the supply. */
int lh__engine_ask(struct lh_engine_lane *lane, struct lh_supply *supply, uint64_t page, bool since);
/* The next answer of a lane, if it is to what was asked: 1, 0, or an error, which has broken the supply. */
int lh__engine_answered(struct lh_engine_lane *lane, struct lh_supply *supply,
                        struct lh_supply_answer *answer);
/* The answer has been dealt with: it is not on its way any more. */
void lh__engine_landed(struct lh_engine_lane *lane);

/* ---- engine_next.c ---- */

/* Up to max pages for a lane, marked as asked for; fewer than max: there is nothing more for now. */
size_t lh__engine_next_pages(struct lh_engine *engine, uint64_t *pages, size_t max);
/* The same of those that somebody is likely to wait for next. */
size_t lh__engine_soon_pages(struct lh_engine *engine, uint64_t *pages, size_t max);
/* This page has been asked for and will not come. */
void lh__engine_lost(struct lh_engine *engine, uint64_t page);
/* How many pages of `wanted` may be asked for now; *wait gets the ns until it is worth asking again. */
size_t lh__engine_allow(struct lh_engine *engine, size_t wanted, uint64_t *wait);
/* How many of such pages may be asked for beyond that. */
size_t lh__engine_borrow(struct lh_engine *engine, size_t wanted);
/* Bytes that came: `reserved` of them had been asked leave for. */
void lh__engine_spend(struct lh_engine *engine, uint64_t reserved, uint64_t bytes);

/* ---- engine_faults.c ---- */

void *lh__engine_fault_main(void *lane);

#endif
