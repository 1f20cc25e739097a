/* translated_inside.h - what translated*.c share: a thread's own part, and what stores call. */
#ifndef LH_POOL_TRANSLATED_INSIDE_H
#define LH_POOL_TRANSLATED_INSIDE_H

#include "port/translate/emit.h"
#include "service/pool/frames.h"
#include "service/pool/inside.h"
#include "service/pool/translated.h"

#define LH_TRANSLATED_POOLS 64u
#define LH_TRANSLATED_LINES 512u
#define LH_TRANSLATED_TAG_SHIFT 41 /* a line's number has so many bits */

/*
 * Of a thread that is, or was, inside. What it has saved is remembered in a table of lines, each in the one
 * place that its number gives it, with the transaction's tag: code between the program's instructions looks
 * there before it calls anybody. A line that was pushed out is found again in the pool's changes.
 */
struct lh_translated_own {
	uint64_t low, high; /* addresses of its pools; low is less by what a store may lie across */
	uint64_t tag;       /* of the transaction: in the bits above a line's number */
	uint64_t lines[LH_TRANSLATED_LINES];
	unsigned pools; /* that it has a transaction in */
	struct lh_pool *pool[LH_TRANSLATED_POOLS];
	/* Of each, known even when another thread has closed it. */
	struct {
		uint64_t base, end; /* addresses that it may ever have */
		unsigned here;      /* its place, from 1 on, in the list of open pools (here.c) */
	} known[LH_TRANSLATED_POOLS];
	struct lh_frames frames;
};

/* ---- translated.c */

/* Of the calling thread; NULL: it has never been inside. */
struct lh_translated_own *lh__translated_own(void);
/* Its transactions end as if they had been aborted, and others may begin theirs. */
void lh__translated_thread_ends(void *own);
/*
 * The ith pool of the calling thread, which nobody closes until it is let go; NULL: another thread has closed
 * it.
 */
struct lh_pool *lh__translated_hold(struct lh_translated_own *own, unsigned i);
void lh__translated_let_go(struct lh_translated_own *own, unsigned i);

/* ---- leaving.c */

/* What of the translator's client has to do with how transactions end. */
void lh__leaving_prepare(struct lh_translate_client *client);

/* ---- translated_emit.c: a client of the translator */

struct lh_translated_seen; /* the accesses that are not plain */
int lh__translated_seen_open(struct lh_translated_seen **out) LH_MUST_CHECK;
void lh__translated_before(void *context, struct lh_emitter *emitter,
                           const struct lh_translated_instruction *instruction);

/* ---- translated_save.c: called before a store, by its thread; none of it touches a vector register */

void lh__translated_save(void *own, uint64_t address, uint64_t size);
/* The same where vector registers are free: all that an access writes. access: a struct lh_access. */
void lh__translated_save_all(void *own, const struct lh_access_state *state, uint64_t access);
/* What is stored is not known: the thread's transactions cannot commit. */
void lh__translated_lost(void *own, const struct lh_access_state *state, uint64_t error);

#endif
