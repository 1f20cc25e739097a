/*
 * emit.h - what a client of the translator may put between a program's instructions.
 *
 * A client says what it wants in steps that any processor has in an instruction or two; the emitter finds
 * registers that are dead, spills others to the thread's context, and keeps the flags that are live. What it
 * hands out as a scratch register holds until lh__emit_done.
 *
 *     int address = lh__emit_address(emitter, instruction, access);    scratch = the address
 *     int page = lh__emit_scratch(emitter);
 *     lh__emit_shift_right(emitter, page, address, 12);
 *     ...
 *     lh__emit_done(emitter);
 *
 * A scratch is a small number, or negative where there are none left (three at once are always to be had).
 */
#ifndef LH_PORT_TRANSLATE_EMIT_H
#define LH_PORT_TRANSLATE_EMIT_H

#include "port/translate/translate.h"

int lh__emit_scratch(struct lh_emitter *emitter);
/* The address of an access, as it will be when the instruction is executed; not for vector indices or masks.
 */
int lh__emit_address(struct lh_emitter *emitter, const struct lh_translated_instruction *instruction,
                     const struct lh_access *access);
void lh__emit_constant(struct lh_emitter *emitter, int scratch, uint64_t value);
void lh__emit_copy(struct lh_emitter *emitter, int to, int from);
void lh__emit_add(struct lh_emitter *emitter, int scratch, int64_t value); /* no flags are touched: lea */
void lh__emit_offset(struct lh_emitter *emitter, int to, int from, int32_t value); /* nor here */
void lh__emit_mask(struct lh_emitter *emitter, int scratch, uint32_t mask);        /* and; at most 31 bits */
void lh__emit_shift_right(struct lh_emitter *emitter, int to, int from, unsigned bits);
/* 8 bytes of the client's part of the thread's context. */
void lh__emit_load_own(struct lh_emitter *emitter, int to, size_t offset);
/* Adds 8 bytes of the client's part. */
void lh__emit_add_own(struct lh_emitter *emitter, int scratch, size_t offset);
void lh__emit_store_own(struct lh_emitter *emitter, size_t offset, int from);
void lh__emit_count_own(struct lh_emitter *emitter, size_t offset, uint32_t by); /* adds */
/* Memory at a scratch's value plus displacement: 8 bytes. */
void lh__emit_load(struct lh_emitter *emitter, int to, int base, int32_t displacement);
void lh__emit_store(struct lh_emitter *emitter, int base, int32_t displacement, int from);
/*
 * Skips what is emitted up to lh__emit_here unless start <= scratch < end, compared without a sign; one that
 * is a constant range, and one that stands in the client's own part (two words).
 */
int lh__emit_unless_within(struct lh_emitter *emitter, int scratch, uint64_t start, uint64_t end);
int lh__emit_unless_within_own(struct lh_emitter *emitter, int scratch, size_t offset);
/* The same where scratch is what the client's part has in word `index` of an array at offset. */
int lh__emit_unless_equal_own(struct lh_emitter *emitter, int scratch, int index, size_t offset);
int lh__emit_unless_zero(struct lh_emitter *emitter, int scratch);
/* ... unless so many bytes, of 2 to 64, at scratch's value lie in two lines of 64; the value is lost. */
int lh__emit_unless_across(struct lh_emitter *emitter, int scratch, unsigned size);
/*
 * Sets a byte to 1, unless it is: the one for the line that scratch's value lies in, in a table at base that
 * has one for each line of the lower 2^47 bytes (2^41 of them). The value stays.
 */
void lh__emit_mark_line(struct lh_emitter *emitter, int scratch, uint64_t base);
void lh__emit_here(struct lh_emitter *emitter, int label);
/*
 * Calls a function with the client's part of the thread's context and two values, all registers, vector
 * registers and flags saved and restored around it; it runs on a stack of the translator's own. Slow: some 15
 * ns, 100 more where the function may use vector registers.
 */
void lh__emit_call(struct lh_emitter *emitter, void (*function)(void *own, uint64_t a, uint64_t b), int a,
                   int b);
/*
 * The same for a function that touches no vector register: it and all that it calls is compiled with
 * -mgeneral-regs-only. Some 5 ns. Flags that are live are saved, and those that are dead may change.
 */
void lh__emit_call_plain(struct lh_emitter *emitter, void (*function)(void *own, uint64_t a, uint64_t b),
                         int a, int b);
/*
 * The same for one that looks at the program's registers, all of them as they are before the instruction (for
 * accesses that are not plain: lh__access_bytes); registers that are dead may have been scratches, and what
 * scratches held is lost. state is complete, but for `left` and `header`, which are zero; gs is 0; constant is
 * handed on. Slow.
 */
void lh__emit_call_state(struct lh_emitter *emitter,
                         void (*function)(void *own, const struct lh_access_state *state, uint64_t constant),
                         const struct lh_translated_instruction *instruction, uint64_t constant);
/*
 * Calls a function that may end the thread's being translated, with the client's bytes, a scratch's value (or
 * -1) and an address of the program, at which the thread then goes on natively, with all that the client has
 * changed put right. May stand between a condition and lh__emit_here. As slow as lh__emit_call.
 */
void lh__emit_ask(struct lh_emitter *emitter, void (*function)(void *own, uint64_t a, uint64_t next), int a,
                  uint64_t next);
void lh__emit_done(struct lh_emitter *emitter);

#endif
