/*
 * liveness.h - which registers and flags nobody will read before they are written again.
 *
 * Whoever puts code between a program's instructions needs registers and changes flags. Those that are dead
 * need not be saved. What follows the last instruction is not known, so all is live there, unless the caller
 * says otherwise.
 */
#ifndef LH_CODE_LIVENESS_H
#define LH_CODE_LIVENESS_H

#include <Zydis/Zydis.h>
#include <stdint.h>

/* Bit n for the general register that is encoded as n; then the six status flags. */
#define LH_LIVE_GENERAL 0xffffu
#define LH_LIVE_CF (1u << 16)
#define LH_LIVE_PF (1u << 17)
#define LH_LIVE_AF (1u << 18)
#define LH_LIVE_ZF (1u << 19)
#define LH_LIVE_SF (1u << 20)
#define LH_LIVE_OF (1u << 21)
#define LH_LIVE_FLAGS (0x3fu << 16)
#define LH_LIVE_ALL (LH_LIVE_GENERAL | LH_LIVE_FLAGS)

struct lh_effect {
	uint32_t reads;   /* what it may read: also a part of a register, also under a condition */
	uint32_t writes;  /* what it surely writes as a whole: 32 and 64 bits of a register, a flag to a
	                     defined value */
	uint32_t changes; /* what it may change in any way, undefined flags too */
};

/*
 * What an instruction does, implicit operands included. One that leads out of the program (system calls,
 * traps, what is privileged, xbegin, which comes back to its registers) reads all; one that faults by
 * accident, for its memory or a division, does not. Of a branch only what it does itself: who puts one
 * elsewhere than last must say what is live where it leads.
 */
struct lh_effect lh__effect(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operands);

/* live[i]: what is live before instruction i of count; after the last, `last`. */
void lh__liveness(const struct lh_effect *effect, unsigned count, uint32_t last, uint32_t *live);

#endif
