/*
 * frames.h - which stack frames the transaction of a translated thread belongs to.
 *
 * A *mark* is the stack pointer with which a function was entered whose return is the end of a transaction
 * (service/atomic/bracket.h): its return goes through us. Whoever leaves it otherwise, by longjmp or an
 * exception, has left the transaction too, and that is its abort. This is seen where an instruction moves the
 * stack pointer to a place above the mark: not by push, pop, call or return, nor with rbp, but as longjmp,
 * setcontext and the unwinder do it. A transaction that began by tx_begin belongs to no frame: there longjmp
 * leaves it unless setjmp was called inside, which is seen at their entries.
 */
#ifndef LH_POOL_FRAMES_H
#define LH_POOL_FRAMES_H

#include "port/translate/emit.h"

#define LH_MARKS 32u
#define LH_JUMPS 32u

/* Of a thread, in the client's part of its context. */
struct lh_frames {
	uint64_t minus;      /* minus the newest mark, which the translator looks for; 0: none */
	uint64_t start, end; /* stack pointers that are outside of the newest mark's function */
	uint64_t base;       /* the stack pointer of whoever began the outermost transaction */
	long thread;         /* whose it is */
	unsigned marks, jumps;
	struct {
		uint64_t stack_pointer;
		const void *who;
	} mark[LH_MARKS];
	uint64_t jump[LH_JUMPS]; /* addresses of jmp_bufs that were filled in this transaction; the newest */
};

void lh__frames_clear(struct lh_frames *frames);
/* False: there are too many. */
bool lh__frames_mark(struct lh_frames *frames, uint64_t stack_pointer, const void *who);
/* Takes the newest away; NULL: there is none. */
const void *lh__frames_unmark(struct lh_frames *frames);

/*
 * For the translator's client, at each block and after each instruction. offset: of struct lh_frames in the
 * thread's bytes. jumps and moves are asked (lh__emit_ask).
 */
struct lh_frames_places {
	uint64_t set, jump, jump_checked; /* where setjmp and longjmp begin; 0: not known */
	size_t offset;
	void (*jumps)(void *own, uint64_t buffer, uint64_t next); /* longjmp begins, with that jmp_buf */
	void (*moves)(void *own, uint64_t stack_pointer,
	              uint64_t next); /* it is outside of the marked frame */
};
void lh__frames_find(struct lh_frames_places *places);
void lh__frames_block(const struct lh_frames_places *places, struct lh_emitter *emitter, uint64_t address);
void lh__frames_after(const struct lh_frames_places *places, struct lh_emitter *emitter,
                      const struct lh_translated_instruction *instruction);
/* At longjmp with this jmp_buf: whether it leads out. */
bool lh__frames_leads_out(const struct lh_frames *frames, uint64_t buffer);
/*
 * Whether the transaction's frames are gone although the thread was not translated when they went: a handler
 * of a signal has left by siglongjmp. stack_pointer: of whoever asks, natively.
 */
bool lh__frames_stale(const struct lh_frames *frames, uint64_t stack_pointer);

#endif
