/*
 * text.h - a range of code and what a home can do to its lines: the arithmetic of the code port, the same for
 * both engines.
 *
 * An *absent* instruction is INT3 in its first byte. Only first bytes are ever written, each by a store of
 * one byte, so a processor that executes the code meanwhile sees the one instruction or the other and never a
 * mixture; the tail of an instruction is never changed. That is why a line of code is a set of *starts*, and
 * an instruction that straddles two lines belongs to the one in which it starts.
 *
 * A trap at an armed start is the miss. What is supplied then is the *granularity*: the line (all armed
 * starts in 64 bytes), or the block: from the trap to the next instruction that ends a block. Of a block that
 * ends in a direct jump or call, the target is sure to be executed next, so it is supplied and recorded by
 * the same trap; and so on, until a block that was hit before, or LH_SPANS of them.
 *
 * The *hit map* has a bit for each byte of the text: set for the first instruction of each span that was
 * supplied. What ran is the union of the spans that begin there; with block granularity that is exact.
 * A hit is recorded before the bytes are supplied and again after: recorded twice, no one who takes a hit
 * away to see it again can miss what another supplies at the same moment.
 */
#ifndef LH_PORT_CODE_TEXT_H
#define LH_PORT_CODE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "port/code/plan.h"

#define LH_SPANS 8u
#define LH_INT3 0xccu
#define LH_LINE_SIZE_CODE 64u

enum lh_granularity { LH_GRANULARITY_BLOCK, LH_GRANULARITY_LINE };

/* All pointers are into a plan and a record that outlive it. May be used by any number of threads at once. */
struct lh_text {
	uintptr_t start, end;  /* where it runs, in the process that is watched */
	const uint64_t *armed; /* bitmaps, see plan.h */
	const uint64_t *ends;
	const uint8_t *original;
	uint64_t *hits; /* the bitmap of the record (record.h) */
};

/* The armed starts in [from, to], offsets in the text. to is the start of the last instruction. */
struct lh_span {
	uint32_t from, to;
};

/*
 * What a trap at `at` (an offset in the text) is to be answered with. 0: nothing is armed there, the trap is
 * not the home's. spans[0] holds `at` itself.
 */
unsigned lh__text_miss(const struct lh_text *text, uint32_t at, enum lh_granularity granularity,
                       struct lh_span spans[LH_SPANS]);
/* The span that a hit at `at` stands for; what reports use. */
struct lh_span lh__text_span(const struct lh_text *text, uint32_t at, enum lh_granularity granularity);
/* Sets the bit; returns whether it was not set. Atomic. */
bool lh__text_record(const struct lh_text *text, uint32_t at);
/* Supplies a span: writes the original first bytes to code, where the text can be written to. */
void lh__text_supply(const struct lh_text *text, uint8_t *code, struct lh_span span);
/* The snoop: takes a span away again. What is not armed by the plan stays. */
void lh__text_take(const struct lh_text *text, uint8_t *code, struct lh_span span);

#endif
