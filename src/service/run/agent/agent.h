/*
 * agent.h - the agent: what `linehome run` loads into a program to give its memory a home.
 *
 * At first nothing is watched and the program runs as if the agent were not there, but for its system calls
 * that change mappings, which pass through a hook, and a thread that looks how large the program is. When it
 * is given more than its limit, or comes near it, the agent is *activated*: every anonymous private mapping
 * is watched by the home from then on, new ones as they are made.
 *
 * The agent's own memory is never watched, it never uses the program's heap, and its threads are made with
 * raw clone, without libc's knowledge, so that nothing that the program does to libc or to its threads
 * concerns them. All of this process' agent hangs off one struct, reached through one pointer in agent.c,
 * since the dynamic linker and the kernel carry no argument.
 */
#ifndef LH_SERVICE_RUN_AGENT_H
#define LH_SERVICE_RUN_AGENT_H

#include <stdbool.h>

#include "home/home.h"
#include "port/page/intercept/intercept.h"
#include "port/page/page.h"
#include "service/run/protocol.h"
#include "service/run/agent/buffers.h"
#include "store/node.h"
#include "sys/ranges.h"

#define LH_EXCLUDED_MAX 8192
#define LH_LOOKED_AGAIN 64

enum lh_pager { LH_PAGER_WAITS, LH_PAGER_WORKS, LH_PAGER_ENDS };

struct lh_agent {
	struct lh_sys sys;
	char name[100]; /* the launcher's socket */
	struct lh_run_control *control;
	int channel;           /* to the launcher */
	struct lh_lock asking; /* one question at a time on the channel */
	int descriptor_floor;  /* the agent's descriptors have numbers from here on */
	int statm;
	int device; /* /dev/userfaultfd, or -1 */
	struct lh_port *port;
	struct lh_store *store;
	struct lh_home *home;
	struct lh_buffers buffers;
	struct lh_lock counting;    /* guards counted */
	uint32_t engine;            /* enum lh_engine: this process' own, see engine.c */
	long process;               /* whose agent this is: a child of vfork sees it too */
	struct lh_lock engine_lock; /* one change at a time */
	bool changing;              /* the engine is being changed at this moment */
	bool has_hidden;            /* pages have been hidden for a moment, once */
	bool stays_inline;          /* the engine could not be changed */
	uint32_t pager;             /* futex: enum lh_pager */
	/* Threads whose touch of what was hidden has been repeated, by number. */
	int32_t looked_again[LH_LOOKED_AGAIN];
	struct lh_node_counts counted; /* of the store's counts, what is in the control page already */
	bool active;                   /* mappings are watched */
	struct lh_lock activating;
	uint64_t granted;     /* bytes that the program was given since lh__agent_granted was last called */
	uint64_t own_pages;   /* private writable pages that are mapped, but not by the program */
	uint64_t stack_bytes; /* stacks of threads */
	bool fork_advice; /* MADV_DONTFORK or MADV_WIPEONFORK was given: a child has not all of this memory */
	bool cloned;      /* the fork under way has a copy of the region */
	char lost[160];   /* why the store could not be reached again; empty: it could, or nobody tried */
	struct lh_node_link link;  /* the store's: region and token */
	struct lh_node_link clone; /* for the child that is being forked */
	uintptr_t heap_end;        /* the program break */
	struct lh_lock excluded_lock;
	struct lh_ranges excluded; /* anonymous and private, and yet never watched */
	struct lh_range excluded_at[LH_EXCLUDED_MAX];
};

/* ---- memory.c: the agent's own memory ---- */

/* Fills in a table whose memory comes from the kernel alone, and is noted in excluded. */
void lh__agent_memory(struct lh_agent *agent);
/* In a child after fork: the lock may have been another thread's. */
void lh__agent_memory_in_child(void);
int lh__exclude(struct lh_agent *agent, uintptr_t start, uintptr_t end) LH_MUST_CHECK;
/* Returns how many bytes of the range had been excluded. */
size_t lh__include(struct lh_agent *agent, uintptr_t start, uintptr_t end);
/*
 * The first part of [*start, end) that is not excluded: moves *start to it and returns its end; 0 where there
 * is none.
 */
uintptr_t lh__included(struct lh_agent *agent, uintptr_t *start, uintptr_t end);

/* ---- ask.c: the launcher ---- */

/* Connects and reads the control page. */
int lh__agent_hello(struct lh_agent *agent, const char *name, struct lh_error *error) LH_MUST_CHECK;
int lh__agent_ask(struct lh_agent *agent, enum lh_run_kind kind, int milliseconds,
                  const struct lh_node_link *about, struct lh_node_link *link,
                  struct lh_error *error) LH_MUST_CHECK;
/* Attaches the store to a link. */
int lh__agent_attach(struct lh_agent *agent, const struct lh_node_link *link,
                     struct lh_error *error) LH_MUST_CHECK;
/* Tells the launcher why, and ends this process with status 125. */
_Noreturn void lh__agent_fail(struct lh_agent *agent, const char *text);
/* The same for a page whose content cannot be had, or given away. */
_Noreturn void lh__agent_fail_page(struct lh_agent *agent, uintptr_t address, int result);
/* Adds what the store has counted to the control page. */
void lh__agent_count(struct lh_agent *agent);
/* The same before the process ends or executes another program: waits a moment for what is in flight. */
void lh__agent_count_last(struct lh_agent *agent);

/* ---- space.c: the address space ---- */

/*
 * Notes what is never watched: what is there before the program begins that the kernel or the dynamic linker
 * touch.
 */
int lh__space_begin(struct lh_agent *agent, struct lh_error *error) LH_MUST_CHECK;
/* From now on everything is watched. */
void lh__space_activate(struct lh_agent *agent);
void lh__space_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64]);
/* Does a call that space_want asked for. */
long lh__space_call(struct lh_agent *agent, struct lh_trap *trap);
bool lh__space_wanted(long nr);
/* In a child of a fork, before the agent maps anything: what its parent did not hand on is forgotten. */
int lh__space_in_child(struct lh_agent *agent, struct lh_error *error) LH_MUST_CHECK;
/* Looks for memory in watched ranges that the home does not know. */
void lh__space_rescan(struct lh_agent *agent);

/* ---- descriptors.c: the agent's descriptors ---- */

/* Moves a descriptor out of the program's way; returns its new number, or a negative errno. */
int lh__descriptor_raise(struct lh_agent *agent, int descriptor);
void lh__descriptors_want(uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64]);
bool lh__descriptors_wanted(long nr);
long lh__descriptors_call(struct lh_agent *agent, struct lh_trap *trap);

/* ---- threads.c: the agent's threads ---- */

/* Starts the pager thread of the thread engine. WAITS: it does nothing until it is told WORKS or ENDS. */
int lh__agent_pager(struct lh_agent *agent, enum lh_pager first) LH_MUST_CHECK;
void lh__agent_pager_told(struct lh_agent *agent, enum lh_pager next);
/* Starts the threads; each blocks all signals and is unknown to libc. */
int lh__agent_threads(struct lh_agent *agent, struct lh_error *error) LH_MUST_CHECK;

/* Adds the size of now to what has been seen of it: the peaks in the control page. */
void lh__agent_note_size(struct lh_agent *agent);

/* Pages that the program has been given the right to write to: what it can come to use. */
uint64_t lh__agent_granted(struct lh_agent *agent);

/* ---- engine.c ---- */

/*
 * Makes this process go on with the thread engine, if it does not have it. -errno: it cannot, and is as it
 * was.
 */
int lh__engine_thread(struct lh_agent *agent) LH_MUST_CHECK;
/*
 * A SIGSEGV: whether it came of a change of the engine, so that the touch is to be repeated. Waits for the
 * change.
 */
bool lh__engine_hid(struct lh_agent *agent, const siginfo_t *info);

/* ---- fork.c ---- */

void lh__agent_before_fork(struct lh_agent *agent);
/* child: what fork returned; negative where it failed. */
void lh__agent_after_fork(struct lh_agent *agent, long child);
void lh__agent_in_child(struct lh_agent *agent);

#endif
