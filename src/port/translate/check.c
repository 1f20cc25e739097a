/*
 * check.c - what is put before a block whose code may change unseen (build.h, changed.c).
 *
 * The program's bytes are compared with those that the fragment was made of; where they are others the thread
 * comes to the translator. Where flags are live that is done by lea and jrcxz.
 */
#include "port/translate/build.h"

/* Where the program's bytes are others: to the translator. All such jumps but the first lead to that. */
static const uint8_t *put_stale(struct lh_emitter *emitter, unsigned condition, uint64_t address)
{
	unsigned stale = lh__put_jump(emitter, condition, address);

	emitter->jump[stale].stale = true;
	return emitter->jump[stale].site - (condition ? 2 : 1);
}

/* cmp $bytes, at(%rcx): 1, 2 or 4 of them; jne */
static void put_compared(struct lh_emitter *emitter, unsigned at, const uint8_t *bytes, unsigned size,
                         const uint8_t **stale, uint64_t address)
{
	if (size == 2)
		lh__put_bytes(emitter, 0x66, 1);
	lh__put_bytes(emitter, (size == 1 ? 0x80u : 0x81u) | 0xb900, 2);
	lh__put_word(emitter, at);
	lh__put(emitter, bytes, size);
	if (!*stale) {
		*stale = put_stale(emitter, 0x85, address);
		return;
	}
	lh__put_bytes(emitter, 0x850f, 2);
	lh__put_word(emitter, 0);
	if (!emitter->full)
		lh__put_distance(emitter->at - 4, *stale);
}

/* The same where flags are live: the difference to ecx, and jrcxz over a jump. */
static void put_subtracted(struct lh_emitter *emitter, unsigned at, const uint8_t *bytes, unsigned size,
                           const uint8_t **stale, uint64_t address)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint32_t)bytes[i] << 8 * i;
	lh__put_constant(emitter, RCX, address + at);
	if (size == 4)
		lh__put_bytes(emitter, 0x098b, 2); /* mov (%rcx), %ecx */
	else
		lh__put_bytes(emitter, size == 2 ? 0x09b70f : 0x09b60f, 3); /* movzwl, movzbl */
	lh__put_bytes(emitter, 0x898d, 2);                                  /* lea -value(%rcx), %ecx */
	lh__put_word(emitter, 0 - value);
	if (!*stale)
		lh__put_nops(emitter, 3, 4); /* what put_jump would put behind jrcxz */
	lh__put_bytes(emitter, 0x05e3, 2);
	if (*stale)
		lh__put_back(emitter, *stale);
	else
		*stale = put_stale(emitter, 0, address);
}

/* The fragment goes on only where the program's code still is what it was made of. */
void lh__put_check(struct lh_emitter *emitter, const struct block *block)
{
	uint8_t code[LH_BLOCK_INSTRUCTIONS * ZYDIS_MAX_INSTRUCTION_LENGTH];
	bool flags = block->decoded[0].live & LH_LIVE_FLAGS;
	const uint8_t *stale = NULL;

	lh__block_source(block, code);
	lh__put_gs(emitter, OP_STORE, RCX, LH_T_SPILL + 8);
	if (!flags)
		lh__put_constant(emitter, RCX, block->address);
	for (unsigned at = 0, size; at < block->length && !emitter->full; at += size) {
		unsigned left = block->length - at;

		size = left >= 4 ? 4 : left >= 2 ? 2 : 1;
		if (flags)
			put_subtracted(emitter, at, code + at, size, &stale, block->address);
		else
			put_compared(emitter, at, code + at, size, &stale, block->address);
	}
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_SPILL + 8);
}
