/*
 * ahead.h - looking ahead: what a thread will run for sure, found in its trap's handler.
 *
 * A trap costs as much as some thousand instructions. So the handler walks on from the trap in a copy of the
 * registers, and supplies each block that it enters. Nothing of it is committed: stores go into a queue that
 * later loads consult, and the thread itself goes on from the trap as ever. A value is *known* or not; what
 * is computed from one that is not known is not known either. The walk ends at the first thing that it cannot
 * tell for sure: a conditional jump on flags that are not known, an address that is not known or that may
 * fault, an instruction that is not modelled, system calls, anything atomic, code that is not watched.
 *
 *     ahead.c         the walk, and which pages may be accessed
 *     ahead_decode.c  bytes into operands
 *     ahead_run.c     what an instruction does to registers, flags and memory
 *     ahead_vector.c  the same for vector registers: moves are modelled, arithmetic makes them unknown
 *     ahead_memory.c  loads, and the queue of stores
 *
 * It is exact for a program that is alone with its memory. Two things can make it foresee what does not come,
 * in the microseconds until the thread has come that far: a signal handler that does not return to where it
 * interrupted, or changes what is read there; and another process, or a device, that writes to memory that is
 * shared with it. Where there is a second thread nothing is foreseen.
 */
#ifndef LH_PORT_CODE_INSIDE_AHEAD_H
#define LH_PORT_CODE_INSIDE_AHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LH_AHEAD_STORES 64u
#define LH_AHEAD_LONGEST 15u /* bytes of an instruction */

enum lh_ahead_register {
	LH_RAX,
	LH_RCX,
	LH_RDX,
	LH_RBX,
	LH_RSP,
	LH_RBP,
	LH_RSI,
	LH_RDI,
	LH_NONE = 16, /* of a base or an index */
	LH_RIP = 17
};

enum lh_ahead_flag {
	LH_CF = 0x1,
	LH_PF = 0x4,
	LH_AF = 0x10,
	LH_ZF = 0x40,
	LH_SF = 0x80,
	LH_DF = 0x400,
	LH_OF = 0x800,
	LH_STATUS = LH_CF | LH_PF | LH_AF | LH_ZF | LH_SF | LH_OF
};

struct lh_ahead_value {
	uint64_t bits;
	bool known;
};

struct lh_ahead_store {
	uint64_t address, bits;
	uint8_t size; /* at most 8 */
	bool known;
};

/* A thread as it will be. */
struct lh_ahead {
	uint64_t pc; /* while an instruction is run, what is behind it */
	uint64_t reg[16];
	uint64_t flags;
	uint32_t known;       /* registers: bit n */
	uint32_t flags_known; /* enum lh_ahead_flag */
	uint64_t fs;          /* what fs: begins at; */
	bool has_fs;          /* false: not known */
	uint32_t vectors_known;
	uint64_t vector[16][2];
	uint64_t filter; /* bit n: a store has touched a word of 8 bytes whose number is n modulo 64 */
	uint32_t stores;
	struct lh_ahead_store store[LH_AHEAD_STORES];
	void *context; /* of lh__ahead_may */
};

/* An instruction: as its bytes say, operands not yet looked at. */
struct lh_ahead_instruction {
	uint8_t length;
	uint8_t map; /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
	uint8_t op;
	uint8_t repeat; /* 0xf2, 0xf3 or 0 */
	bool narrow;    /* 66 */
	bool wide;      /* REX.W */
	bool rex;       /* any: then 4..7 are spl..dil, not ah..bh */
	bool fs;
	bool memory; /* the second operand is memory: */
	uint8_t base, index, scale;
	uint8_t reg, rm; /* REX included */
	int32_t displacement;
	int64_t immediate;
};

/* ---- ahead_decode.c ---- */
/* Of at least LH_AHEAD_LONGEST bytes; first stands for the first of them. False: none that is modelled. */
bool lh__ahead_decode(const uint8_t *code, uint8_t first, struct lh_ahead_instruction *out);

/* ---- ahead_run.c, ahead_vector.c: false: it cannot be told, and the walk ends ---- */
bool lh__ahead_run(struct lh_ahead *ahead, const struct lh_ahead_instruction *in);
bool lh__ahead_run_vector(struct lh_ahead *ahead, const struct lh_ahead_instruction *in);
/* A general register by its number; what is not known in part is not known. */
struct lh_ahead_value lh__ahead_get(const struct lh_ahead *ahead, unsigned reg, unsigned size);
/* As the processor does: 4 bytes clear what is above, 1 and 2 leave it. */
void lh__ahead_set(struct lh_ahead *ahead, unsigned reg, unsigned size, struct lh_ahead_value value);
bool lh__ahead_address(const struct lh_ahead *ahead, const struct lh_ahead_instruction *in, uint64_t *out);

/* ---- ahead_memory.c: likewise. size is at most 8 ---- */
bool lh__ahead_load(struct lh_ahead *ahead, uint64_t address, unsigned size, struct lh_ahead_value *out);
bool lh__ahead_store(struct lh_ahead *ahead, uint64_t address, unsigned size, struct lh_ahead_value value);

/* ---- ahead.c: whether the page may be read, or written to, without a fault ---- */
bool lh__ahead_may(struct lh_ahead *ahead, uint64_t address, bool write);

#endif
