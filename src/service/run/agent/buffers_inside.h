/* buffers_inside.h - what the files of buffers share. See buffers.h. */
#ifndef LH_SERVICE_RUN_AGENT_BUFFERS_INSIDE_H
#define LH_SERVICE_RUN_AGENT_BUFFERS_INSIDE_H

#include "service/run/agent/buffers.h"
#include "sys/operands.h"

#define LH_PAGES_OF(size) ((size) & ~(uintptr_t)(LH_PAGE_SIZE - 1))
#define LH_RUNS 96               /* separate page runs that one call keeps; more are joined */
#define LH_JOIN_GAP (256u << 10) /* across how much they are */
#define LH_WINDOW (16u << 10)    /* what is made present where nothing is known */
#define LH_LOWEST 65536u         /* no program has memory below: a number, not an address */
#define LH_HIGHEST (UINT64_C(1) << 47)

struct lh_run {
	uintptr_t start, end;
};

/*
 * The operands of one call, while it runs. They are walked twice: first noted as page runs, which are then
 * kept; and when nothing can be taken away any more, touched. On the hook's stack, whose 28 KiB it respects.
 */
struct lh_hold {
	struct lh_buffers *self;
	const struct lh_trap *trap;
	bool touching; /* the second walk */
	bool guess;    /* what is reached now may not be an operand at all */
	bool faulted;  /* an operand is not there */
	bool unkept;   /* not all of it is kept */
	size_t left;   /* bytes that may yet be reached in this walk */
	uint32_t forks;
	unsigned runs, kept;
	struct lh_run run[LH_RUNS];
	int slot[LH_RUNS];
};

/* buffers_walk.c: reaches every operand of the call; guesses: and some memory around each argument. */
void lh__buffers_walk(struct lh_hold *hold, const struct lh_call *call, bool guesses);

/* buffers.c */
/* An operand, or part of one: notes or touches it. */
void lh__buffers_reach(struct lh_hold *hold, uintptr_t start, size_t size);
/* Does a call whole, by its class. */
long lh__buffers_whole(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call);

/* buffers_parts.c */
/* Does a call whole where it is small enough or must not be cut, else in parts. */
long lh__buffers_parts(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call);
/* A pipe would go on to use the pages after vmsplice has returned: the data are copied instead. */
long lh__buffers_vmsplice(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call);

/* buffers_exit.c: reaches this thread's robust mutexes. */
void lh__buffers_reach_robust(struct lh_hold *hold);

/* buffers_pin.c: keeps for good what the kernel will write to on behalf of this call. */
void lh__buffers_pin(struct lh_buffers *self, const struct lh_trap *trap);

#endif
