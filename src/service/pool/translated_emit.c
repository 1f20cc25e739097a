/*
 * translated_emit.c - what is put before each store of a translated thread.
 *
 *     is the address in one of the thread's pools?      two compares with words of the thread's own
 *     is its line known to be saved?                    one with its place in the table of lines
 *     else save it                                      a call (translated_save.c)
 *
 * The place is chosen by the line of the store's first byte, and what is looked for there is the line of its
 * last: so a store that lies across two lines never finds it, and goes the third way.
 *
 * Not looked at is what goes through the stack pointer, or through fs: neither the stack nor a thread's own
 * variables lie in a pool.
 */
#include <errno.h>
#include <string.h>

#include "service/pool/translated_inside.h"
#include "sys/mutant.h"

#define SEEN_MOST 16384u

struct lh_translated_seen {
	struct room room; /* of struct lh_access: the generated code has their addresses */
	unsigned count;
};

int lh__translated_seen_open(struct lh_translated_seen **out)
{
	struct lh_translated_seen *seen = lh__alloc(&lh__sys_default, sizeof *seen);
	int result;

	if (!seen)
		return -ENOMEM;
	result = lh__room_reserve(&lh__sys_default, &seen->room, SEEN_MOST * sizeof(struct lh_access));
	if (result < 0) {
		lh__free(&lh__sys_default, seen, sizeof *seen);
		return result;
	}
	*out = seen;
	return 0;
}

/* The access, where it stays. NULL: no room. */
static const struct lh_access *keep(struct lh_translated_seen *seen, const struct lh_access *access)
{
	struct lh_access *all = (struct lh_access *)(void *)seen->room.base;

	for (unsigned i = 0; i < seen->count; i++)
		if (memcmp(&all[i], access, sizeof *access) == 0)
			return &all[i];
	if (seen->count == SEEN_MOST ||
	    lh__room_need(&lh__sys_default, &seen->room, (seen->count + 1) * sizeof *all) < 0)
		return NULL;
	all[seen->count] = *access;
	return &all[seen->count++];
}

#define OWN(field) offsetof(struct lh_translated_own, field)

static void see_plain(struct lh_emitter *emitter, const struct lh_translated_instruction *instruction,
                      const struct lh_access *access)
{
	int address = lh__emit_address(emitter, instruction, access), last, place, outside, known;

	outside = lh__emit_unless_within_own(emitter, address, OWN(low));
	last = lh__emit_scratch(emitter);
	place = lh__emit_scratch(emitter);
	lh__emit_offset(emitter, last, address, (int32_t)access->size - 1);
	lh__emit_shift_right(emitter, last, last, 6);
	lh__emit_add_own(emitter, last, OWN(tag));
	lh__emit_shift_right(emitter, place, address, 6);
	lh__emit_mask(emitter, place, LH_TRANSLATED_LINES - 1);
	known = lh__emit_unless_equal_own(emitter, last, place, OWN(lines));
	lh__emit_constant(emitter, last, access->size);
	lh__emit_call_plain(emitter, lh__translated_save, address, last);
	lh__emit_here(emitter, known);
	lh__emit_here(emitter, outside);
	lh__emit_done(emitter);
}

/* Where the access begins is where its base and index say, whatever a mask or a count makes of it. */
static int unless_near(struct lh_emitter *emitter, const struct lh_translated_instruction *instruction,
                       const struct lh_access *access)
{
	struct lh_access plain = *access;
	int address;

	if (access->state || access->index_size || access->bit != ZYDIS_REGISTER_NONE ||
	    access->rows != ZYDIS_REGISTER_NONE)
		return -1;
	plain.mask = ZYDIS_REGISTER_NONE;
	address = lh__emit_address(emitter, instruction, &plain);
	return address < 0 ? -1 : lh__emit_unless_within_own(emitter, address, OWN(low));
}

static void see_other(struct lh_translated_seen *seen, struct lh_emitter *emitter,
                      const struct lh_translated_instruction *instruction, const struct lh_access *access)
{
	const struct lh_access *kept = keep(seen, access);
	int outside = unless_near(emitter, instruction, access);

	if (kept)
		lh__emit_call_state(emitter, lh__translated_save_all, instruction, (uintptr_t)kept);
	else
		lh__emit_call_state(emitter, lh__translated_lost, instruction, ENOMEM);
	if (outside >= 0)
		lh__emit_here(emitter, outside);
	lh__emit_done(emitter);
}

/* Faults of the tests' own: a class of stores that is left out. */
static bool is_left_out(const struct lh_translated_instruction *instruction, const struct lh_access *access)
{
	const ZydisDecodedInstruction *decoded = instruction->decoded;
	bool vector = access->size >= 16, x87 = decoded->meta.isa_ext == ZYDIS_ISA_EXT_X87;
	bool plain = lh__access_is_plain(access) && !(access->kind & (LH_ACCESS_ATOMIC | LH_ACCESS_STREAM));

	return (LH_MUTANT(SEES_NO_PLAIN) && plain && !vector && !x87) ||
	       (LH_MUTANT(SEES_NO_POP) && decoded->mnemonic == ZYDIS_MNEMONIC_POP) ||
	       (LH_MUTANT(SEES_NO_REPEATED) && access->repeated) ||
	       (LH_MUTANT(SEES_NO_VECTOR) && plain && vector) ||
	       (LH_MUTANT(SEES_NO_MASKED) && access->mask != ZYDIS_REGISTER_NONE && !access->index_size) ||
	       (LH_MUTANT(SEES_NO_ATOMIC) && access->kind & LH_ACCESS_ATOMIC) ||
	       (LH_MUTANT(SEES_NO_STATE) && (access->state || x87 || access->size > 64)) ||
	       (LH_MUTANT(SEES_NO_STREAMED) && access->kind & LH_ACCESS_STREAM) ||
	       (LH_MUTANT(SEES_NO_SCATTERED) && access->index_size);
}

/* Whether it may store, in a way that nobody knows. */
static bool is_unknown(const struct lh_translated_instruction *instruction)
{
	if (instruction->accesses->count > 0)
		return false;
	for (unsigned i = 0; i < instruction->decoded->operand_count; i++)
		if (instruction->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    instruction->operands[i].mem.type == ZYDIS_MEMOP_TYPE_MEM &&
		    instruction->operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			return true;
	return false;
}

void lh__translated_before(void *context, struct lh_emitter *emitter,
                           const struct lh_translated_instruction *instruction)
{
	if (is_unknown(instruction)) {
		lh__emit_call_state(emitter, lh__translated_lost, instruction, ENOTSUP);
		lh__emit_done(emitter);
	}
	for (unsigned i = 0; i < instruction->accesses->count; i++) {
		const struct lh_access *access = &instruction->accesses->at[i];

		if (!(access->kind & LH_ACCESS_WRITE) || access->base == ZYDIS_REGISTER_RSP ||
		    access->segment == ZYDIS_REGISTER_FS || is_left_out(instruction, access))
			continue;
		if (lh__access_is_plain(access))
			see_plain(emitter, instruction, access);
		else
			see_other(context, emitter, instruction, access);
	}
}
