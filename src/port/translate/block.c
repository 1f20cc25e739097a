/*
 * block.c - a block of the program is decoded (build.h).
 *
 * It ends at any branch and system call, at the end of a page, after so many instructions, and behind what
 * may change the code that follows: cpuid, and, where code may change unseen, any store. Most instructions
 * are looked at by decode.c; Zydis is asked where that does not know one, and for all where their operands
 * are needed: for a client, and for code that may change unseen.
 */
#include "port/translate/build.h"

#include <string.h>

static enum kind kind_of_one(const ZydisDecodedInstruction *instruction)
{
	unsigned opcode = instruction->opcode, reg = instruction->raw.modrm.reg;

	if (opcode >= 0x70 && opcode <= 0x7f)
		return CONDITIONAL;
	switch (opcode) {
	case 0xe0:
	case 0xe1:
	case 0xe2:
	case 0xe3: return LOOP;
	case 0xe8: return CALL;
	case 0xe9:
	case 0xeb: return JUMP;
	case 0xc2:
	case 0xc3: return RETURN;
	case 0xca:
	case 0xcb:
	case 0xcf:
	case 0xea:
	case 0x9a: return NATIVE;
	case 0xcc:
	case 0xcd:
	case 0xf1:
	case 0xf4:
	case 0xfa:
	case 0xfb: return ALONE;
	case 0x6c:
	case 0x6d:
	case 0x6e:
	case 0x6f: return ALONE;
	case 0xe4:
	case 0xe5:
	case 0xe6:
	case 0xe7:
	case 0xec:
	case 0xed:
	case 0xee:
	case 0xef: return ALONE;
	case 0x8e: return reg == 5 ? NATIVE : PLAIN;
	case 0xc7: return reg == 7 && instruction->raw.modrm.mod == 3 ? TRANSACTION : PLAIN;
	case 0xff:
		return reg == 2               ? INDIRECT_CALL
		       : reg == 4             ? INDIRECT_JUMP
		       : reg == 3 || reg == 5 ? NATIVE
		                              : PLAIN;
	default: return PLAIN;
	}
}

static enum kind kind_of_two(const ZydisDecodedInstruction *instruction)
{
	unsigned opcode = instruction->opcode, reg = instruction->raw.modrm.reg;

	if (opcode >= 0x80 && opcode <= 0x8f)
		return CONDITIONAL;
	switch (opcode) {
	case 0x05: return SYSCALL;
	case 0x07:
	case 0x34:
	case 0x35:
	case 0xa9:
	case 0xb5: return NATIVE;
	case 0x06:
	case 0x08:
	case 0x09:
	case 0x0b:
	case 0xb9:
	case 0xff:
	case 0x30:
	case 0x32: return ALONE;
	case 0xae:
		if (instruction->raw.modrm.mod != 3 || !(instruction->attributes & ZYDIS_ATTRIB_HAS_MODRM))
			return PLAIN;
		for (unsigned i = 0; i < instruction->raw.prefix_count; i++)
			if (instruction->raw.prefixes[i].value == 0xf3)
				return reg == 1 ? READ_GS : reg == 3 ? NATIVE : PLAIN;
		return PLAIN;
	default: return PLAIN;
	}
}

static enum kind kind_of(const ZydisDecodedInstruction *instruction)
{
	if (instruction->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return PLAIN;
	if (instruction->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
		return kind_of_one(instruction);
	return instruction->opcode_map == ZYDIS_OPCODE_MAP_0F ? kind_of_two(instruction) : PLAIN;
}

static void decoder_for(ZydisDecoder *decoder, bool minimal)
{
	ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MINIMAL, minimal);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_TRUE);
}

bool lh__block_decode_full(struct block *block, struct decoded *decoded, size_t size)
{
	ZydisDecoder decoder;

	lh__vectors_needed(block->translator);
	decoder_for(&decoder, false);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, decoded->bytes, size, &decoded->instruction,
	                                           decoded->operands));
}

static bool decode_minimal(struct block *block, struct decoded *decoded, size_t size)
{
	ZydisDecoder decoder;

	lh__vectors_needed(block->translator);
	decoder_for(&decoder, true);
	return ZYAN_SUCCESS(
		ZydisDecoderDecodeInstruction(&decoder, NULL, decoded->bytes, size, &decoded->instruction));
}

/*
 * One instruction, of bytes that are read once, since others may be writing them: false where it is none, or
 * goes on in a page that is not there; or in one that may change, unless it comes first.
 */
static bool decode_one(struct block *block, struct decoded *decoded)
{
	size_t left = PAGE - decoded->address % PAGE, most = ZYDIS_MAX_INSTRUCTION_LENGTH;
	const uint8_t *program = (const uint8_t *)(uintptr_t)decoded->address;
	bool full = lh__has_client(block->translator) || block->checked;
	bool (*decode)(struct block *, struct decoded *, size_t) =
		full ? lh__block_decode_full : decode_minimal;
	const struct page *page;
	int error;

	if (!full && left >= LH_INSTRUCTION_ROOM) {
		memcpy(decoded->bytes, program, LH_INSTRUCTION_ROOM);
		if (lh__decode_quickly(decoded->bytes, &decoded->instruction)) {
			decoded->kind = kind_of(&decoded->instruction);
			return true;
		}
	}
	if (left > most)
		left = most;
	for (size_t i = 0; i < left; i++)
		decoded->bytes[i] = program[i];
	if (!decode(block, decoded, left)) {
		page = left < most ? lh__cache_page(block->translator, decoded->address + left, &error)
		                   : NULL;
		if (!page || (page->checked && block->count > 0))
			return false;
		block->checked |= page->checked;
		decode = block->checked ? lh__block_decode_full : decode;
		for (size_t i = left; i < most; i++)
			decoded->bytes[i] = program[i];
		if (!decode(block, decoded, most))
			return false;
	}
	decoded->kind = kind_of(&decoded->instruction);
	return true;
}

/* What may write to memory: where that may be the block's own, the block ends behind it. */
static bool writes(struct decoded *decoded)
{
	struct lh_accesses accesses;

	if (lh__accesses(&decoded->instruction, decoded->operands, &accesses) < 0)
		return true;
	for (unsigned i = 0; i < accesses.count; i++)
		if (accesses.at[i].kind & LH_ACCESS_WRITE)
			return true;
	return false;
}

/* cpuid and serialize: what comes after them is what memory holds then. */
static bool serializes(const ZydisDecodedInstruction *instruction)
{
	return instruction->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       instruction->opcode_map == ZYDIS_OPCODE_MAP_0F &&
	       (instruction->opcode == 0xa2 ||
	        (instruction->opcode == 0x01 && instruction->raw.modrm.mod == 3 &&
	         instruction->raw.modrm.reg == 5));
}

/* At least one instruction; what cannot be decoded is a last one that runs natively. */
void lh__block_decode(struct block *block, unsigned most)
{
	uint64_t address = block->address;

	block->checked = block->page->checked;
	block->unknown = false;
	for (block->count = 0; block->count < most && address / PAGE == block->address / PAGE;) {
		struct decoded *decoded = &block->decoded[block->count];

		decoded->address = address;
		if (!decode_one(block, decoded)) {
			if (block->count > 0)
				break;
			memset(&decoded->instruction, 0, sizeof(decoded->instruction));
			decoded->kind = NATIVE;
			decoded->instruction.length = 1;
			block->unknown = true;
		}
		if ((decoded->kind == ALONE || decoded->kind == NATIVE) && block->count > 0)
			break;
		block->count++;
		address += decoded->instruction.length;
		if (decoded->kind != PLAIN && decoded->kind != READ_GS)
			break;
		if (serializes(&decoded->instruction) || (block->checked && writes(decoded)))
			break;
	}
	block->length = (unsigned)(address - block->address);
}

void lh__block_analyse(struct block *block)
{
	struct lh_effect effect[LH_BLOCK_INSTRUCTIONS];
	uint32_t live[LH_BLOCK_INSTRUCTIONS];

	for (unsigned i = 0; i < block->count; i++)
		block->decoded[i].live = LH_LIVE_ALL;
	if (block->unknown || (!lh__has_client(block->translator) && !block->page->checked))
		return;
	for (unsigned i = 0; i < block->count; i++) {
		struct decoded *decoded = &block->decoded[i];

		effect[i] = lh__effect(&decoded->instruction, decoded->operands);
		if (lh__accesses(&decoded->instruction, decoded->operands, &decoded->accesses) < 0)
			decoded->accesses.count = 0;
	}
	lh__liveness(effect, block->count, LH_LIVE_ALL, live);
	for (unsigned i = 0; i < block->count; i++)
		block->decoded[i].live = live[i];
}

/* What the block is made of. */
void lh__block_source(const struct block *block, uint8_t *out)
{
	for (unsigned i = 0; i < block->count; i++)
		for (unsigned at = 0; at < block->decoded[i].instruction.length; at++)
			out[block->decoded[i].address - block->address + at] = block->decoded[i].bytes[at];
}
