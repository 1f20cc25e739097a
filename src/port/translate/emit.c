/*
 * emit.c - a client's code between a program's instructions (emit.h).
 *
 * Scratches are registers: dead ones first, then others, whose value goes to the context's slot for that
 * register. Flags that are live go to rax by lahf and seto before the first operation that changes them;
 * rax is not handed out where that may happen. Where a part is skipped, what was spilled in it is loaded
 * again before its end, so that both ways arrive with the same registers.
 */
#include "port/translate/encode.h"

#include <string.h>

int lh__general(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
		return reg - ZYDIS_REGISTER_RAX;
	if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
		return reg - ZYDIS_REGISTER_EAX;
	return -1;
}

void lh__emit_turn(struct lh_emitter *emitter, uint32_t live, const struct lh_accesses *accesses)
{
	emitter->live = live;
	emitter->avoid = 1u << RSP;
	emitter->taken = emitter->spilled = 0;
	emitter->flags_saved = false;
	emitter->labels = 0;
	for (unsigned i = 0; accesses && i < accesses->count; i++) {
		int base = lh__general(accesses->at[i].base), index = lh__general(accesses->at[i].index);

		emitter->avoid |= (base >= 0 ? 1u << base : 0) | (index >= 0 ? 1u << index : 0);
	}
}

static bool flags_live(const struct lh_emitter *emitter)
{
	return emitter->live & LH_LIVE_FLAGS;
}

static void take(struct lh_emitter *emitter, int reg)
{
	uint32_t bit = 1u << reg;

	emitter->taken |= bit;
	if (!(emitter->live & bit))
		return;
	emitter->spilled |= bit;
	lh__put_gs(emitter, OP_STORE, reg, LH_T_SPILL + 8 * (size_t)reg);
}

int lh__emit_scratch(struct lh_emitter *emitter)
{
	uint32_t free = 0xffffu & ~emitter->taken & ~(1u << RSP);
	uint32_t choice;
	int reg;

	if (flags_live(emitter))
		free &= ~(1u << RAX);
	choice = free & ~emitter->avoid & ~emitter->live;
	if (!choice)
		choice = free & ~emitter->avoid;
	if (!choice)
		choice = free;
	if (!choice)
		return -1;
	reg = __builtin_ctz(choice);
	take(emitter, reg);
	return reg;
}

/* Before what changes flags. */
static void spoil_flags(struct lh_emitter *emitter)
{
	if (!flags_live(emitter) || emitter->flags_saved)
		return;
	emitter->flags_saved = true;
	take(emitter, RAX);
	lh__put_bytes(emitter, 0xc0900f9f, 4); /* lahf; seto %al */
}

static void reload(struct lh_emitter *emitter, uint32_t registers)
{
	for (int reg = 0; reg < 16; reg++)
		if (registers & 1u << reg)
			lh__put_gs(emitter, OP_LOAD, reg, LH_T_SPILL + 8 * (size_t)reg);
}

void lh__emit_done(struct lh_emitter *emitter)
{
	if (emitter->flags_saved)
		lh__put_bytes(emitter, 0x9e7f04, 3); /* add $0x7f, %al; sahf */
	reload(emitter, emitter->spilled);
	emitter->taken = emitter->spilled = 0;
	emitter->flags_saved = false;
}

void lh__emit_constant(struct lh_emitter *emitter, int scratch, uint64_t value)
{
	lh__put_constant(emitter, scratch, value);
}

void lh__emit_copy(struct lh_emitter *emitter, int to, int from)
{
	if (to != from)
		lh__put_memory(emitter, OP_LEA, to, from, -1, 1, 0);
}

void lh__emit_add(struct lh_emitter *emitter, int scratch, int64_t value)
{
	int other;

	if (value == (int32_t)value) {
		lh__put_memory(emitter, OP_LEA, scratch, scratch, -1, 1, value);
		return;
	}
	other = lh__emit_scratch(emitter);
	lh__put_constant(emitter, other, (uint64_t)value);
	lh__put_memory(emitter, OP_LEA, scratch, scratch, other, 1, 0);
}

void lh__emit_shift_right(struct lh_emitter *emitter, int to, int from, unsigned bits)
{
	spoil_flags(emitter);
	lh__emit_copy(emitter, to, from);
	lh__put_bytes(emitter, 0x48u | (to >= 8 ? 1u : 0) | 0xc100 | (0xe8u | (unsigned)(to & 7)) << 16, 3);
	lh__put_bytes(emitter, bits, 1);
}

void lh__emit_offset(struct lh_emitter *emitter, int to, int from, int32_t value)
{
	lh__put_memory(emitter, OP_LEA, to, from, -1, 1, value);
}

void lh__emit_mask(struct lh_emitter *emitter, int scratch, uint32_t mask)
{
	spoil_flags(emitter);
	lh__put_bytes(emitter,
	              0x48u | (scratch >= 8 ? 1u : 0) | 0x8100 | (0xe0u | (unsigned)(scratch & 7)) << 16, 3);
	lh__put_word(emitter, mask);
}

void lh__emit_add_own(struct lh_emitter *emitter, int scratch, size_t offset)
{
	spoil_flags(emitter);
	lh__put_gs(emitter, OP_ADD, scratch, LH_T_OWN + offset);
}

void lh__emit_load_own(struct lh_emitter *emitter, int to, size_t offset)
{
	lh__put_gs(emitter, OP_LOAD, to, LH_T_OWN + offset);
}

void lh__emit_store_own(struct lh_emitter *emitter, size_t offset, int from)
{
	lh__put_gs(emitter, OP_STORE, from, LH_T_OWN + offset);
}

void lh__emit_count_own(struct lh_emitter *emitter, size_t offset, uint32_t by)
{
	int scratch;

	if ((!flags_live(emitter) || emitter->flags_saved) && by <= INT32_MAX) {
		lh__put_bytes(emitter, 0x04814865, 4); /* addq $by, %gs:offset */
		lh__put_bytes(emitter, 0x25, 1);
		lh__put_word(emitter, (uint32_t)(LH_T_OWN + offset));
		lh__put_word(emitter, by);
		return;
	}
	scratch = lh__emit_scratch(emitter);
	lh__emit_load_own(emitter, scratch, offset);
	lh__emit_add(emitter, scratch, by);
	lh__emit_store_own(emitter, offset, scratch);
}

void lh__emit_load(struct lh_emitter *emitter, int to, int base, int32_t displacement)
{
	lh__put_memory(emitter, OP_LOAD, to, base, -1, 1, displacement);
}

void lh__emit_store(struct lh_emitter *emitter, int base, int32_t displacement, int from)
{
	lh__put_memory(emitter, OP_STORE, from, base, -1, 1, displacement);
}

/* ---- addresses */

/* A register's value before the client came: itself, or what was spilled, in a scratch. */
static int value_of(struct lh_emitter *emitter, int reg, int scratch)
{
	if (!(emitter->spilled & 1u << reg))
		return reg;
	lh__put_gs(emitter, OP_LOAD, scratch, LH_T_SPILL + 8 * (size_t)reg);
	return scratch;
}

static void add_segment(struct lh_emitter *emitter, int scratch)
{
	int fs = lh__emit_scratch(emitter);

	if (emitter->translator->fsgsbase) /* rdfsbase */
		lh__put_bytes(emitter, 0xf3, 1), lh__put_bytes(emitter, 0x48u | (fs >= 8 ? 1u : 0), 1),
			lh__put_bytes(emitter, 0xae0f | (0xc0u | (unsigned)(fs & 7)) << 16, 3);
	else
		lh__put_gs(emitter, OP_LOAD, fs, LH_T_FS);
	lh__put_memory(emitter, OP_LEA, scratch, scratch, fs, 1, 0);
}

int lh__emit_address(struct lh_emitter *emitter, const struct lh_translated_instruction *instruction,
                     const struct lh_access *access)
{
	int base = lh__general(access->base), index = lh__general(access->index), scratch, other = -1;

	if (access->mask != ZYDIS_REGISTER_NONE || (access->index != ZYDIS_REGISTER_NONE && index < 0))
		return -1;
	scratch = lh__emit_scratch(emitter);
	if (scratch < 0)
		return -1;
	if (access->base == ZYDIS_REGISTER_RIP || access->base == ZYDIS_REGISTER_EIP) {
		lh__put_constant(emitter, scratch,
		                 instruction->address + instruction->length + (uint64_t)access->displacement);
	} else {
		if (base >= 0)
			base = value_of(emitter, base, scratch);
		if (index >= 0 && emitter->spilled & 1u << index)
			other = lh__emit_scratch(emitter);
		if (index >= 0)
			index = value_of(emitter, index, other);
		lh__put_memory(emitter, OP_LEA, scratch, base, index, access->scale, access->displacement);
	}
	if (access->address_size == 4) /* mov: the upper half becomes zero */
		lh__put_bytes(emitter, scratch >= 8 ? 0x45u : 0x40u, 1),
			lh__put_bytes(emitter, 0x89u | (0xc0u | (unsigned)(scratch & 7) * 9) << 8, 2);
	if (access->segment == ZYDIS_REGISTER_FS)
		add_segment(emitter, scratch);
	return scratch;
}

/* ---- conditions */

enum { BELOW = 0x820f, NOT_BELOW = 0x830f, ZERO = 0x840f, NOT_ZERO = 0x850f, NOT_ABOVE = 0x860f };

static void skip_if(struct lh_emitter *emitter, int label, unsigned which, unsigned condition)
{
	lh__put_bytes(emitter, condition, 2);
	emitter->label[label].site[which] = emitter->at;
	lh__put_word(emitter, 0);
}

static int new_label(struct lh_emitter *emitter)
{
	int label = (int)emitter->labels;

	if (emitter->labels == LABELS) {
		emitter->full = true;
		return 0;
	}
	emitter->labels++;
	emitter->label[label].site[0] = emitter->label[label].site[1] = NULL;
	emitter->label[label].taken = emitter->taken;
	emitter->label[label].spilled = emitter->spilled;
	return label;
}

/* cmp: two registers */
static void compare(struct lh_emitter *emitter, int a, int b)
{
	lh__put_bytes(emitter, 0x48u | (a >= 8 ? 4u : 0) | (b >= 8 ? 1u : 0), 1);
	lh__put_bytes(emitter, 0x3bu | (0xc0u | (unsigned)(a & 7) << 3 | (unsigned)(b & 7)) << 8, 2);
}

int lh__emit_unless_within(struct lh_emitter *emitter, int scratch, uint64_t start, uint64_t end)
{
	int offset = lh__emit_scratch(emitter), size = lh__emit_scratch(emitter), label;

	spoil_flags(emitter);
	label = new_label(emitter);
	lh__put_constant(emitter, offset, -start);
	lh__put_memory(emitter, OP_LEA, offset, offset, scratch, 1, 0);
	lh__put_constant(emitter, size, end - start);
	compare(emitter, offset, size);
	skip_if(emitter, label, 0, NOT_BELOW);
	return label;
}

int lh__emit_unless_within_own(struct lh_emitter *emitter, int scratch, size_t offset)
{
	int label;

	spoil_flags(emitter);
	label = new_label(emitter);
	/* Stacks, and what is loaded or allocated, mostly lie above what is looked for. */
	lh__put_gs(emitter, OP_COMPARE, scratch, LH_T_OWN + offset + 8);
	skip_if(emitter, label, 0, NOT_BELOW);
	lh__put_gs(emitter, OP_COMPARE, scratch, LH_T_OWN + offset);
	skip_if(emitter, label, 1, BELOW);
	return label;
}

int lh__emit_unless_equal_own(struct lh_emitter *emitter, int scratch, int index, size_t offset)
{
	int label;

	spoil_flags(emitter);
	label = new_label(emitter);
	lh__put_bytes(emitter, 0x65, 1);
	lh__put_memory(emitter, OP_COMPARE, scratch, -1, index, 8, (int64_t)(LH_T_OWN + offset));
	skip_if(emitter, label, 0, ZERO);
	return label;
}

int lh__emit_unless_zero(struct lh_emitter *emitter, int scratch)
{
	int label;

	spoil_flags(emitter);
	label = new_label(emitter);
	lh__put_bytes(emitter, 0x48u | (scratch >= 8 ? 5u : 0), 1);
	lh__put_bytes(emitter, 0x85u | (0xc0u | (unsigned)(scratch & 7) * 9) << 8, 2);
	skip_if(emitter, label, 0, NOT_ZERO);
	return label;
}

/* An operation on 32 bits of a register and a constant of 8: 4 is and, 7 is cmp. */
static void with_byte(struct lh_emitter *emitter, unsigned operation, int reg, unsigned value)
{
	if (reg >= 8)
		lh__put_bytes(emitter, 0x41, 1);
	lh__put_bytes(emitter, 0x83u | (0xc0u | operation << 3 | (unsigned)(reg & 7)) << 8 | value << 16, 3);
}

int lh__emit_unless_across(struct lh_emitter *emitter, int scratch, unsigned size)
{
	int label;

	spoil_flags(emitter);
	label = new_label(emitter);
	with_byte(emitter, 4, scratch, 63);
	with_byte(emitter, 7, scratch, 64 - size);
	skip_if(emitter, label, 0, NOT_ABOVE);
	return label;
}

/* shl or shr of 64 bits: 4 and 5. */
static void shift(struct lh_emitter *emitter, unsigned operation, int reg, unsigned bits)
{
	lh__put_bytes(emitter, 0x48u | (reg >= 8 ? 1u : 0) | 0xc100, 2);
	lh__put_bytes(emitter, (0xc0u | operation << 3 | (unsigned)(reg & 7)) | bits << 8, 2);
}

void lh__emit_mark_line(struct lh_emitter *emitter, int scratch, uint64_t base)
{
	int line = lh__emit_scratch(emitter), table = lh__emit_scratch(emitter), label;
	unsigned prefix = 0x40u | (line >= 8 ? 2u : 0) | (table >= 8 ? 1u : 0);
	unsigned sib = (unsigned)(line & 7) << 3 | (unsigned)(table & 7);

	spoil_flags(emitter);
	label = new_label(emitter);
	lh__emit_copy(emitter, line, scratch);
	shift(emitter, 4, line, 17);
	shift(emitter, 5, line, 23);
	lh__put_constant(emitter, table, base);
	lh__put_bytes(emitter, prefix | 0x7c8000, 3); /* cmpb $0, 0(table,line) */
	lh__put_bytes(emitter, sib, 3);
	skip_if(emitter, label, 0, NOT_ZERO);
	lh__put_bytes(emitter, prefix | 0x44c600, 3); /* movb $1, 0(table,line) */
	lh__put_bytes(emitter, sib | 0x10000, 3);
	lh__emit_here(emitter, label);
}

void lh__emit_here(struct lh_emitter *emitter, int label)
{
	reload(emitter, emitter->spilled & ~emitter->label[label].spilled);
	emitter->taken = emitter->label[label].taken;
	emitter->spilled = emitter->label[label].spilled;
	for (int i = 0; i < 2; i++)
		if (emitter->label[label].site[i] && !emitter->full)
			lh__put_distance(emitter->label[label].site[i], emitter->at);
}

/* ---- calls */

static void put_values(struct lh_emitter *emitter, int a, int b)
{
	if (a >= 0)
		lh__put_gs(emitter, OP_STORE, a, LH_T_A);
	if (b >= 0)
		lh__put_gs(emitter, OP_STORE, b, LH_T_B);
}

/* Leaves by one of the context's ways, with the address of constants: the function, where it returns to... */
static uint64_t *put_leave(struct lh_emitter *emitter, int scratch, unsigned words, unsigned way)
{
	uint64_t *value;

	lh__put_bytes(emitter, 0x48u | (scratch >= 8 ? 4u : 0) | 0x8d00, 2); /* lea constants(%rip) */
	lh__put_bytes(emitter, 5u | (unsigned)(scratch & 7) << 3, 1);
	value = lh__put_literals(emitter, words);
	lh__put_gs(emitter, OP_STORE, scratch, LH_T_CALL);
	if (way == LH_T_LEAVE_STATE) /* with all registers as they are */
		lh__put_gs(emitter, OP_LOAD, scratch, LH_T_SPILL + 8 * (size_t)scratch);
	lh__put_bytes(emitter, 0x2524ff65, 4); /* jmp *%gs:way */
	lh__put_word(emitter, way);
	if (value)
		value[1] = lh__executes_at(emitter, emitter->at);
	return value;
}

void lh__emit_call(struct lh_emitter *emitter, void (*function)(void *own, uint64_t a, uint64_t b), int a,
                   int b)
{
	uint64_t *value;

	put_values(emitter, a, b);
	value = put_leave(emitter, lh__emit_scratch(emitter), 2, LH_T_LEAVE_CALL);
	if (value)
		value[0] = (uint64_t)(uintptr_t)function;
}

/* A call on the context's stack, so that the processor foresees the return. */
void lh__emit_call_plain(struct lh_emitter *emitter, void (*function)(void *own, uint64_t a, uint64_t b),
                         int a, int b)
{
	spoil_flags(emitter);
	put_values(emitter, a, b);
	lh__put_gs(emitter, OP_STORE, RSP, LH_T_GENERAL + 8 * RSP);
	lh__put_gs(emitter, OP_LOAD, RSP, LH_T_STACK);
	lh__put_bytes(emitter, 0x35ff, 2); /* push function(%rip) */
	lh__put_literal(emitter, (uint64_t)(uintptr_t)function, 0, 1);
	lh__put_bytes(emitter, 0x2514ff65, 4); /* call *%gs:PLAIN */
	lh__put_word(emitter, LH_T_PLAIN);
	lh__put_gs(emitter, OP_LOAD, RSP, LH_T_GENERAL + 8 * RSP);
}

static bool has_rows(const struct lh_accesses *accesses)
{
	for (unsigned i = 0; i < accesses->count; i++)
		if (accesses->at[i].rows != ZYDIS_REGISTER_NONE)
			return true;
	return false;
}

/* Registers and flags become the program's for the call, and scratches again behind it. */
void lh__emit_call_state(struct lh_emitter *emitter,
                         void (*function)(void *own, const struct lh_access_state *state, uint64_t constant),
                         const struct lh_translated_instruction *instruction, uint64_t constant)
{
	uint64_t *value;

	if (emitter->flags_saved)
		lh__put_bytes(emitter, 0x9e7f04, 3);
	reload(emitter, emitter->spilled);
	lh__put_gs(emitter, OP_STORE, RAX, LH_T_SPILL);
	value = put_leave(emitter, RAX, LITERAL_WORDS, LH_T_LEAVE_STATE);
	if (value) {
		value[0] = (uint64_t)(uintptr_t)function;
		value[2] = constant;
		value[3] = instruction->address + instruction->length;
		value[4] = has_rows(instruction->accesses);
	}
	if (emitter->flags_saved)
		lh__put_bytes(emitter, 0xc0900f9f, 4);
}

/*
 * The program's state is made true around it: what was spilled, and the flags. rax alone is borrowed, and
 * given back before the jump.
 */
void lh__emit_ask(struct lh_emitter *emitter, void (*function)(void *own, uint64_t a, uint64_t next), int a,
                  uint64_t next)
{
	uint8_t *literal;

	if (a >= 0)
		lh__put_gs(emitter, OP_STORE, a, LH_T_A);
	if (emitter->flags_saved)
		lh__put_bytes(emitter, 0x9e7f04, 3); /* add $0x7f, %al; sahf */
	reload(emitter, emitter->spilled);
	lh__put_gs(emitter, OP_STORE, RAX, LH_T_SPILL);
	lh__put_constant(emitter, RAX, next);
	lh__put_gs(emitter, OP_STORE, RAX, LH_T_B);
	lh__put_bytes(emitter, 0x058d48, 3); /* lea literal(%rip), %rax */
	literal = emitter->at;
	lh__put_literal(emitter, (uint64_t)(uintptr_t)function, 0, 2);
	lh__put_gs(emitter, OP_STORE, RAX, LH_T_CALL);
	lh__put_gs(emitter, OP_LOAD, RAX, LH_T_SPILL);
	lh__put_bytes(emitter, 0x25ff, 2); /* jmp *literal(%rip) */
	lh__put_literal(emitter, (uint64_t)(uintptr_t)lh__translate_leave_ask, 0, 1);
	if (!emitter->full && emitter->literals >= 2 &&
	    emitter->literal[emitter->literals - 2].site == literal)
		emitter->literal[emitter->literals - 2].value[1] = lh__executes_at(emitter, emitter->at);
	if (emitter->flags_saved)
		lh__put_bytes(emitter, 0xc0900f9f, 4); /* lahf; seto %al */
}
