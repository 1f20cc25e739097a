/*
 * move.h - instructions at another address: what stood in the place of a jump that has been put over them
 * goes on doing the same elsewhere.
 *
 * Displacements relative to the instruction pointer are corrected; jumps and calls get their long form where
 * the short one does not reach; a call leaves the return address that it left before, so that unwinders find
 * the caller (push of the old address, then a jump; the callee's return goes to the old place, which is why
 * a window that must be left whole for returns is the caller's to choose). loop, jrcxz get a jump around.
 */
#ifndef LH_CODE_MOVE_H
#define LH_CODE_MOVE_H

#include <stdint.h>

#include "sys/sys.h"

#define LH_MOVE_JUMP 5u     /* bytes of a jump that reaches 2 GiB */
#define LH_MOVE_GROWTH 16u  /* an instruction becomes at most so many bytes longer */
#define LH_MOVE_LONGEST 64u /* bytes that a window may have */

struct lh_moved_code {
	uint8_t window; /* bytes of whole instructions that were moved: at least what was asked for */
	uint16_t size;  /* bytes written */
	uint8_t count;  /* instructions */
	bool has_call;  /* a return address inside or at the end of the window may lie on a stack */
	bool ends;      /* the last one never goes on to the next: ret, jmp */
	/* For each moved instruction: where it starts in the window, and in what was written. */
	uint8_t from[16];
	uint16_t to[16];
};

/*
 * Moves whole instructions from code (which runs at address; size bytes can be read) until they cover at
 * least `least` bytes, to out, where they will run at out_address, and appends a jump to what follows them,
 * unless the last ends. room: bytes at out. -EILSEQ: cannot be decoded, or an instruction that cannot be
 * moved (it jumps into the window itself; an xbegin). -ENOSPC: `size` or `room` are too few. -ERANGE: a
 * displacement does not reach from out_address. Nothing is written beyond room; on error *moved is not set.
 */
int lh__move(const uint8_t *code, size_t size, uint64_t address, unsigned least, uint8_t *out, size_t room,
             uint64_t out_address, struct lh_moved_code *moved) LH_MUST_CHECK;

/* A jump from address to target in out[5]; -ERANGE. */
int lh__move_jump(uint8_t out[LH_MOVE_JUMP], uint64_t address, uint64_t target) LH_MUST_CHECK;

/*
 * Whether any direct jump of the function (code, size bytes at address) leads to an instruction inside
 * (from, to), exclusive of from itself: then no jump may be put over it. 1: yes, or it cannot be known (an
 * indirect jump that is not a tail call, bytes that cannot be decoded); 0: no.
 */
int lh__move_entered(const uint8_t *code, size_t size, uint64_t address, uint64_t from, uint64_t to);

#endif
