/*
 * plain.c - instructions that are copied (build.h).
 *
 * Two things are not as they were. A distance from the instruction pointer counts from another place; where
 * it is too far, a register has the address: the one that the instruction is about to write, or any that it
 * does not use, whose value is in the context meanwhile. The place says so (struct place), for a signal may
 * come just then. And gs, whose base the program has left at 0, leads to the translator's context: its prefix
 * is dropped.
 */
#include "port/translate/build.h"

#include <string.h>

/* spilled: registers whose value is in the context when the instruction is executed. */
void lh__put_place(struct lh_emitter *emitter, struct block *block, const struct decoded *decoded,
                   uint32_t spilled)
{
	block->place[block->places].spilled = (uint16_t)spilled;
	block->place[block->places].code = (uint16_t)(emitter->at - block->start);
	block->place[block->places].program = (uint16_t)(decoded->address - block->address);
	block->places++;
}

/* gs is the translator's, and was 0 the program's own: the prefix becomes one that does nothing. */
static void drop_gs(const ZydisDecodedInstruction *instruction, uint8_t *bytes)
{
	unsigned last = 0;

	for (unsigned i = 0; i < instruction->raw.prefix_count; i++)
		if (bytes[i] == 0x64 || bytes[i] == 0x65)
			last = bytes[i];
	for (unsigned i = 0; last == 0x65 && i < instruction->raw.prefix_count; i++)
		if (bytes[i] == 0x64 || bytes[i] == 0x65)
			bytes[i] = 0x3e;
}

/* Registers that an instruction names or implies, as bits. */
static uint32_t registers_of(const struct decoded *decoded)
{
	uint32_t used = 1u << RSP;

	for (unsigned i = 0; i < decoded->instruction.operand_count; i++) {
		const ZydisDecodedOperand *operand = &decoded->operands[i];
		ZydisRegister whole;

		if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			int base = lh__general(operand->mem.base), index = lh__general(operand->mem.index);

			used |= (base >= 0 ? 1u << base : 0) | (index >= 0 ? 1u << index : 0);
		}
		if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operand->reg.value);
		if (lh__general(whole) >= 0)
			used |= 1u << lh__general(whole);
	}
	return used;
}

/* The same instruction with a register for its base, whose value is the address. */
static void rebase(const ZydisDecodedInstruction *instruction, uint8_t *bytes, int base)
{
	uint8_t *modrm = bytes + instruction->raw.modrm.offset;

	*modrm = (uint8_t)(0x80 | (*modrm & 0x38) | base);
	memset(bytes + instruction->raw.disp.offset, 0, 4);
	switch (instruction->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
	case ZYDIS_INSTRUCTION_ENCODING_3DNOW:
		if (instruction->attributes & ZYDIS_ATTRIB_HAS_REX)
			bytes[instruction->raw.rex.offset] &= 0xfe;
		break;
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		if (bytes[instruction->raw.vex.offset] == 0xc4)
			bytes[instruction->raw.vex.offset + 1] |= 0x20;
		break;
	case ZYDIS_INSTRUCTION_ENCODING_XOP: bytes[instruction->raw.xop.offset + 1] |= 0x20; break;
	default: bytes[instruction->raw.evex.offset + 1] |= 0x60; break;
	}
}

/* lea and mov to a whole register need no other one. -1: not such a one. */
static int relative_result(const struct decoded *decoded)
{
	const ZydisDecodedInstruction *instruction = &decoded->instruction;
	int reg = instruction->raw.modrm.reg | (instruction->raw.rex.R ? 8 : 0);

	if (instruction->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	    instruction->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || lh__has_prefix(decoded, 0x66) ||
	    lh__has_prefix(decoded, 0x64) || lh__has_prefix(decoded, 0x65))
		return -1;
	return instruction->opcode == OP_LEA || instruction->opcode == OP_LOAD ? reg : -1;
}

/* An operand that counts from the instruction pointer, and cannot be reached from here. */
static void put_far_relative(struct lh_emitter *emitter, struct block *block, struct decoded *decoded,
                             uint8_t *bytes)
{
	const ZydisDecodedInstruction *instruction = &decoded->instruction;
	uint64_t target = lh__relative_target(decoded);
	int base = relative_result(decoded);
	uint32_t used;

	if (base >= 0 && instruction->opcode == OP_LEA) {
		lh__put_place(emitter, block, decoded, 0);
		lh__put_constant(emitter, base, instruction->raw.rex.W ? target : (uint32_t)target);
		return;
	}
	if (base >= 0 && base < 8 && base != RSP) {
		lh__put_constant(emitter, base, target);
		lh__put_place(emitter, block, decoded, 0);
		rebase(instruction, bytes, base);
		lh__put_instruction(emitter, bytes, instruction->length);
		return;
	}
	if (!lh__has_client(block->translator))
		lh__block_decode_full(block, decoded, instruction->length);
	used = registers_of(decoded);
	for (base = RDI; used & 1u << base; base--)
		;
	lh__put_gs(emitter, OP_STORE, base, LH_T_SPILL + 8 * (size_t)base);
	lh__put_constant(emitter, base, target);
	lh__put_place(emitter, block, decoded, 1u << base);
	rebase(instruction, bytes, base);
	lh__put_instruction(emitter, bytes, instruction->length);
	lh__put_gs(emitter, OP_LOAD, base, LH_T_SPILL + 8 * (size_t)base);
}

void lh__put_plain(struct lh_emitter *emitter, struct block *block, struct decoded *decoded)
{
	const ZydisDecodedInstruction *instruction = &decoded->instruction;
	uint8_t bytes[LH_INSTRUCTION_ROOM];
	int64_t distance;

	memcpy(bytes, decoded->bytes, sizeof(bytes));
	drop_gs(instruction, bytes);
	if (lh__is_relative(instruction)) {
		distance = (int64_t)(lh__relative_target(decoded) - lh__executes_at(emitter, emitter->at) -
		                     instruction->length);
		if (distance != (int32_t)distance || lh__has_prefix(decoded, 0x67)) {
			put_far_relative(emitter, block, decoded, bytes);
			return;
		}
		memcpy(bytes + instruction->raw.disp.offset, &(int32_t){ (int32_t)distance }, 4);
	}
	lh__put_place(emitter, block, decoded, 0);
	lh__put_instruction(emitter, bytes, instruction->length);
}
