/*
 * build.c - a block of the program becomes a fragment (inside.h).
 *
 * With it, a few of those are made that are executed next if the last jump is not taken, or for sure: each is
 * a fragment of its own, directly behind the one before. Where one is forgotten, what falls into it is led
 * around by a jump (lh__cache_sever).
 *
 * A block ends at any branch and system call, at the end of a page, and after so many instructions. Its
 * instructions are copied; what is written anew is how control leaves:
 *
 *     jmp, jcc, loop, jrcxz    jumps with distances that are patched, each with a stub behind the code
 *     call                     push of a constant behind the code, jump
 *     ret, indirect ones       the target to rax, then through the table
 *     syscall                  executed in place; rcx becomes what it would have been. A clone leaves first:
 *                              whoever it makes must not go on with this thread's context
 *     far ones, gs             the program's own instruction: the thread is native from there on
 *     int3, hlt and others     alone in a fragment, so that its map says where it traps
 */
#include "port/translate/inside.h"

#include <errno.h>
#include <string.h>

enum kind {
	PLAIN,
	JUMP,
	CONDITIONAL,
	LOOP,
	CALL,
	RETURN,
	INDIRECT_JUMP,
	INDIRECT_CALL,
	SYSCALL,
	TRANSACTION, /* xbegin: fails at once, as it may */
	READ_GS,
	ALONE,
	NATIVE,
};

struct decoded {
	ZydisDecodedInstruction instruction;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	struct lh_accesses accesses;
	uint64_t address;
	uint32_t live;
	enum kind kind;
	uint8_t bytes[LH_INSTRUCTION_ROOM];
};

struct block {
	struct lh_translator *translator;
	struct decoded *decoded;
	struct page *page;
	uint64_t address;
	unsigned count, length;
	bool falls;        /* the next one that is executed follows directly, if nothing else does */
	struct jump *fall; /* and its record */
	bool checked;      /* it may change unseen */
	bool unknown;      /* no instruction: it may become one by what comes behind it */
	unsigned places;
	struct place place[LH_BLOCK_INSTRUCTIONS];
	uint8_t *start;
};

#define ROOM ((size_t)60 << 10) /* for one block, a client's code included: struct place counts in 16 bits */
#define RUN 4u                  /* blocks that are made at once, at most, and one more */
#define ASIDE                                                                                                \
	(LITERALS * LITERAL_WORDS * 8 + JUMPS * (STUB + AROUND) +                                            \
	 16) /* what one may have at the cache's other end */

void lh__build_rooms(size_t *decoded, size_t *emitter)
{
	*decoded = (2 * LH_BLOCK_INSTRUCTIONS * sizeof(struct decoded) + PAGE - 1) & ~(size_t)(PAGE - 1);
	*emitter = (sizeof(struct lh_emitter) + PAGE - 1) & ~(size_t)(PAGE - 1);
}

/* ---- decoding */

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

static bool has_client(const struct lh_translator *translator)
{
	const struct lh_translate_client *client = &translator->client;

	return client->block || client->before || client->after;
}

static bool decode_full(struct block *block, struct decoded *decoded, size_t size)
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
	bool full = has_client(block->translator) || block->checked;
	bool (*decode)(struct block *, struct decoded *, size_t) = full ? decode_full : decode_minimal;
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
		decode = block->checked ? decode_full : decode;
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
static void decode_block(struct block *block, unsigned most)
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

/* ---- plain instructions */

/* spilled: registers whose value is in the context when the instruction is executed. */
static void here(struct lh_emitter *emitter, struct block *block, const struct decoded *decoded,
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

static bool is_relative(const ZydisDecodedInstruction *instruction)
{
	return instruction->attributes & ZYDIS_ATTRIB_HAS_MODRM && instruction->raw.modrm.mod == 0 &&
	       instruction->raw.modrm.rm == 5;
}

static bool has_prefix(const struct decoded *decoded, unsigned prefix)
{
	for (unsigned i = 0; i < decoded->instruction.raw.prefix_count; i++)
		if (decoded->bytes[i] == prefix)
			return true;
	return false;
}

static uint64_t relative_target(const struct decoded *decoded)
{
	uint64_t target = decoded->address + decoded->instruction.length +
	                  (uint64_t)decoded->instruction.raw.disp.value;

	return has_prefix(decoded, 0x67) ? (uint32_t)target : target;
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
	    instruction->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || has_prefix(decoded, 0x66) ||
	    has_prefix(decoded, 0x64) || has_prefix(decoded, 0x65))
		return -1;
	return instruction->opcode == OP_LEA || instruction->opcode == OP_LOAD ? reg : -1;
}

/* An operand that counts from the instruction pointer, and cannot be reached from here. */
static void put_far_relative(struct lh_emitter *emitter, struct block *block, struct decoded *decoded,
                             uint8_t *bytes)
{
	const ZydisDecodedInstruction *instruction = &decoded->instruction;
	uint64_t target = relative_target(decoded);
	int base = relative_result(decoded);
	uint32_t used;

	if (base >= 0 && instruction->opcode == OP_LEA) {
		here(emitter, block, decoded, 0);
		lh__put_constant(emitter, base, instruction->raw.rex.W ? target : (uint32_t)target);
		return;
	}
	if (base >= 0 && base < 8 && base != RSP) {
		lh__put_constant(emitter, base, target);
		here(emitter, block, decoded, 0);
		rebase(instruction, bytes, base);
		lh__put_instruction(emitter, bytes, instruction->length);
		return;
	}
	if (!has_client(block->translator))
		decode_full(block, decoded, instruction->length);
	used = registers_of(decoded);
	for (base = RDI; used & 1u << base; base--)
		;
	lh__put_gs(emitter, OP_STORE, base, LH_T_SPILL + 8 * (size_t)base);
	lh__put_constant(emitter, base, target);
	here(emitter, block, decoded, 1u << base);
	rebase(instruction, bytes, base);
	lh__put_instruction(emitter, bytes, instruction->length);
	lh__put_gs(emitter, OP_LOAD, base, LH_T_SPILL + 8 * (size_t)base);
}

static void put_plain(struct lh_emitter *emitter, struct block *block, struct decoded *decoded)
{
	const ZydisDecodedInstruction *instruction = &decoded->instruction;
	uint8_t bytes[LH_INSTRUCTION_ROOM];
	int64_t distance;

	memcpy(bytes, decoded->bytes, sizeof(bytes));
	drop_gs(instruction, bytes);
	if (is_relative(instruction)) {
		distance = (int64_t)(relative_target(decoded) - lh__executes_at(emitter, emitter->at) -
		                     instruction->length);
		if (distance != (int32_t)distance || has_prefix(decoded, 0x67)) {
			put_far_relative(emitter, block, decoded, bytes);
			return;
		}
		memcpy(bytes + instruction->raw.disp.offset, &(int32_t){ (int32_t)distance }, 4);
	}
	here(emitter, block, decoded, 0);
	lh__put_instruction(emitter, bytes, instruction->length);
}

/* ---- leaving a block */

/* A jump that will be patched; condition: 0x80 to 0x8f, or 0. */
static unsigned new_jump(struct lh_emitter *emitter, uint64_t target)
{
	unsigned number = emitter->jumps++;

	memset(&emitter->jump[number], 0, sizeof(emitter->jump[number]));
	emitter->jump[number].target = target;
	return number;
}

static unsigned put_jump(struct lh_emitter *emitter, unsigned condition, uint64_t target)
{
	unsigned number = new_jump(emitter, target);

	lh__put_nops(emitter, condition ? 2 : 1, 4);
	if (condition)
		lh__put_bytes(emitter, 0x0f | condition << 8, 2);
	else
		lh__put_bytes(emitter, 0xe9, 1);
	emitter->jump[number].site = emitter->at;
	lh__put_word(emitter, 0);
	return number;
}

/* A jump to the block that may follow directly: then there is only room for one. */
static void put_jump_on(struct lh_emitter *emitter, const struct block *block, uint64_t target)
{
	unsigned number;

	if (!block->falls) {
		put_jump(emitter, 0, target);
		return;
	}
	number = new_jump(emitter, target);
	lh__put_nops(emitter, 0, 5);
	emitter->jump[number].fall = emitter->at;
	lh__put_bytes(emitter, 0x00441f0f, 4);
	lh__put_bytes(emitter, 0, 1);
}

static void put_conditional(struct lh_emitter *emitter, const struct block *block, unsigned condition,
                            uint64_t target, uint64_t next)
{
	unsigned number;

	if (block->falls)
		lh__put_nops(emitter, 0, 6);
	put_jump(emitter, condition, target);
	if (!block->falls) {
		put_jump(emitter, 0, next);
		return;
	}
	number = new_jump(emitter, next);
	emitter->jump[number].fall = emitter->at - 6;
}

static uint64_t next_of(const struct decoded *decoded)
{
	return decoded->address + decoded->instruction.length;
}

static uint64_t branch_target(const struct decoded *decoded)
{
	return next_of(decoded) + (uint64_t)decoded->instruction.raw.imm[0].value.s;
}

static void put_push(struct lh_emitter *emitter, uint64_t value)
{
	if (value == (uint64_t)(int32_t)value) {
		lh__put_bytes(emitter, 0x68, 1);
		lh__put_word(emitter, (uint32_t)value);
		return;
	}
	lh__put_bytes(emitter, 0x35ff, 2); /* push literal(%rip) */
	lh__put_literal(emitter, value, 0, 1);
}

static void put_spills(struct lh_emitter *emitter)
{
	lh__put_gs(emitter, OP_STORE, RAX, LH_T_SPILL);
	lh__put_gs(emitter, OP_STORE, RCX, LH_T_SPILL + 8);
}

/* rax is the target. */
static void put_table_jump(struct lh_emitter *emitter)
{
	emitter->tail = emitter->at;
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_TABLE);
	lh__put_bytes(emitter, 0xc18966, 3); /* mov %ax, %cx */
	lh__put_bytes(emitter, 0xcd24ff, 3); /* jmp *(,%rcx,8) */
	lh__put_word(emitter, 0);
}

static void land(struct lh_emitter *emitter, uint8_t *from)
{
	if (!emitter->full)
		from[-1] = (uint8_t)(emitter->at - from);
}

/* The thread goes on natively, at an address of the program's, or at a function of the translator's own. */
static void put_native(struct lh_emitter *emitter, uint64_t address)
{
	lh__put_bytes(emitter, 0x25ff, 2); /* jmp *literal(%rip) */
	lh__put_literal(emitter, address, 0, 1);
}

/* Where a client wants to know of this return: a jump, with rcx spilled, from behind which this returns. */
static uint8_t *put_if_marked(struct lh_emitter *emitter, const struct lh_translate_client *client)
{
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_OWN + client->returned_offset);
	lh__put_bytes(emitter, 0x0c0c8d48, 4); /* lea (%rsp,%rcx), %rcx */
	lh__put_bytes(emitter, 0x00e3, 2);     /* jrcxz */
	return emitter->at;
}

static void put_return(struct lh_emitter *emitter, const struct decoded *decoded)
{
	const struct lh_translate_client *client = &emitter->translator->client;
	uint8_t *marked = NULL;

	put_spills(emitter);
	if (client->returned)
		marked = put_if_marked(emitter, client);
	lh__put_bytes(emitter, 0x58, 1); /* pop %rax */
	if (decoded->instruction.opcode == 0xc2)
		lh__put_memory(emitter, OP_LEA, RSP, RSP, -1, 1,
		               (uint16_t)decoded->instruction.raw.imm[0].value.u);
	put_table_jump(emitter);
	if (!marked)
		return;
	land(emitter, marked);
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_SPILL + 8);
	put_native(emitter, (uint64_t)(uintptr_t)client->returned);
}

/* The operand of an indirect jump or call to rax. */
static void put_target(struct lh_emitter *emitter, const struct decoded *decoded)
{
	const ZydisDecodedInstruction *instruction = &decoded->instruction;
	unsigned modrm = instruction->raw.modrm.offset, rest = instruction->length - modrm - 1u;
	uint64_t target = relative_target(decoded);
	int64_t distance;

	if (is_relative(instruction) && !has_prefix(decoded, 0x64)) {
		distance = (int64_t)(target - lh__executes_at(emitter, emitter->at) - 7);
		if (distance == (int32_t)distance) {
			lh__put_bytes(emitter, 0x058b48, 3); /* mov distance(%rip), %rax */
			lh__put_word(emitter, (uint32_t)distance);
		} else {
			lh__put_bytes(emitter, 0xa148, 2); /* movabs target, %rax */
			lh__put(emitter, &target, 8);
		}
		return;
	}
	if (has_prefix(decoded, 0x64))
		lh__put_bytes(emitter, 0x64, 1);
	if (has_prefix(decoded, 0x67))
		lh__put_bytes(emitter, 0x67, 1);
	lh__put_bytes(emitter,
	              0x48u | (instruction->raw.rex.X ? 2u : 0) | (instruction->raw.rex.B ? 1u : 0) |
	                      OP_LOAD << 8 | (unsigned)(decoded->bytes[modrm] & 0xc7) << 16,
	              3);
	lh__put(emitter, decoded->bytes + modrm + 1, rest);
}

static void put_indirect(struct lh_emitter *emitter, const struct decoded *decoded)
{
	put_spills(emitter);
	put_target(emitter, decoded);
	if (decoded->kind == INDIRECT_CALL)
		put_push(emitter, next_of(decoded));
	put_table_jump(emitter);
}

/* loop and jrcxz have no long form: they jump over a jump. */
static void put_loop(struct lh_emitter *emitter, const struct decoded *decoded)
{
	uint8_t *over;

	for (unsigned i = 0; i < decoded->instruction.raw.prefix_count; i++)
		if (decoded->bytes[i] == 0x67)
			lh__put_bytes(emitter, 0x67, 1);
	lh__put_bytes(emitter, decoded->instruction.opcode, 2);
	over = emitter->at;
	put_jump(emitter, 0, next_of(decoded));
	if (!emitter->full)
		over[-1] = (uint8_t)(emitter->at - over);
	put_jump(emitter, 0, branch_target(decoded));
}

/* jrcxz to a place that is not known yet: rcx is what rax differs by. */
static uint8_t *put_unless_call(struct lh_emitter *emitter, int32_t number)
{
	lh__put_bytes(emitter, 0x888d, 2); /* lea -number(%rax), %ecx */
	lh__put_word(emitter, (uint32_t)-number);
	lh__put_bytes(emitter, 0x00e3, 2);
	return emitter->at;
}

/* A jump within the fragment to the start of a jump that is patched. */
static void put_back(struct lh_emitter *emitter, const uint8_t *to)
{
	lh__put_bytes(emitter, 0xe9, 1);
	lh__put_word(emitter, 0);
	if (!emitter->full)
		lh__put_distance(emitter->at - 4, to);
}

/* syscall; where it returns 0, on behind what is put next but one: the place to land from. */
static uint8_t *put_making_call(struct lh_emitter *emitter, uint64_t next, const uint8_t *parent)
{
	uint8_t *child;

	lh__put_bytes(emitter, 0x8948050f, 4); /* syscall; mov %rax, %rcx; jrcxz */
	lh__put_bytes(emitter, 0x00e3c1, 3);
	child = emitter->at;
	lh__put_constant(emitter, RCX, next);
	put_back(emitter, parent);
	land(emitter, child);
	lh__put_constant(emitter, RCX, next);
	return child;
}

/* The client is asked first: with all registers true, and the address and the way back in a literal. */
static void put_see_call(struct lh_emitter *emitter, const struct decoded *decoded)
{
	uint8_t *literal;

	lh__put_gs(emitter, OP_STORE, RAX, LH_T_SPILL);
	lh__put_bytes(emitter, 0x058d48, 3); /* lea literal(%rip), %rax */
	literal = emitter->at;
	lh__put_literal(emitter, decoded->address, 0, 2);
	lh__put_gs(emitter, OP_STORE, RAX, LH_T_CALL);
	lh__put_gs(emitter, OP_LOAD, RAX, LH_T_SPILL);
	put_native(emitter, (uint64_t)(uintptr_t)lh__translate_leave_syscall);
	if (!emitter->full && emitter->literals >= 2 &&
	    emitter->literal[emitter->literals - 2].site == literal)
		emitter->literal[emitter->literals - 2].value[1] = lh__executes_at(emitter, emitter->at);
}

/*
 * In place, but for what makes a process or thread: fork, clone and clone3 leave, and go on as the
 * translator says. A new thread is native. A child of fork must come to the translator before it executes
 * another fragment, by a stub that its parent knew.
 */
/* All go to the translator first, which makes them on the way back; then on here. */
static void put_process_call(struct lh_emitter *emitter, const struct decoded *decoded)
{
	unsigned call = put_jump(emitter, 0, next_of(decoded));

	emitter->jump[call].length = decoded->instruction.length;
	emitter->jump[call].plain = emitter->at;
	lh__put_constant(emitter, RCX, next_of(decoded));
	put_jump(emitter, 0, next_of(decoded));
}

static void put_syscall(struct lh_emitter *emitter, const struct decoded *decoded)
{
	static const int32_t makers[3] = { SYS_clone, SYS_fork, SYS_clone3 };
	uint64_t next = next_of(decoded);
	uint8_t *leave[3], *plain;
	const uint8_t *parent;
	unsigned on, clone;

	if (emitter->translator->process) {
		put_process_call(emitter, decoded);
		return;
	}
	if (emitter->translator->client.call)
		put_see_call(emitter, decoded);
	for (int i = 0; i < 3; i++)
		leave[i] = put_unless_call(emitter, makers[i]);
	plain = emitter->at;
	lh__put_bytes(emitter, 0x050f, 2);
	lh__put_constant(emitter, RCX, next);
	on = put_jump(emitter, 0, next);
	parent = emitter->jump[on].site - 1;
	for (int i = 0; i < 3; i++)
		land(emitter, leave[i]);
	clone = put_jump(emitter, 0, next);
	emitter->jump[clone].plain = plain;
	emitter->jump[clone].thread = emitter->at;
	put_making_call(emitter, next, parent);
	lh__put_bytes(emitter, 0xe1ff, 2); /* jmp *%rcx */
	emitter->jump[clone].fork = emitter->at;
	put_making_call(emitter, next, parent);
	lh__put_bytes(emitter, 0xe9, 1);
	emitter->jump[clone].child_site = emitter->at;
	lh__put_word(emitter, 0);
}

static void put_read_gs(struct lh_emitter *emitter, const struct decoded *decoded)
{
	int reg = decoded->instruction.raw.modrm.rm | (decoded->instruction.raw.rex.B ? 8 : 0);

	lh__put_gs(emitter, OP_LOAD, reg, LH_T_GS);
	if (decoded->instruction.raw.rex.W)
		return;
	/* mov: the upper half becomes zero */
	lh__put_bytes(emitter, reg >= 8 ? 0x45u : 0x40u, 1);
	lh__put_bytes(emitter, 0x89u | (0xc0u | (unsigned)(reg & 7) * 9) << 8, 2);
}

static unsigned condition_of(const struct decoded *decoded)
{
	return 0x80 | (decoded->instruction.opcode & 0xf);
}

static bool is_indirect(enum kind kind)
{
	return kind == RETURN || kind == INDIRECT_JUMP || kind == INDIRECT_CALL;
}

static void put_instruction(struct lh_emitter *emitter, struct block *block, struct decoded *decoded)
{
	if (decoded->kind == PLAIN) {
		put_plain(emitter, block, decoded);
		return;
	}
	here(emitter, block, decoded, is_indirect(decoded->kind) ? 1u << RAX | 1u << RCX : 0);
	switch (decoded->kind) {
	case JUMP: put_jump_on(emitter, block, branch_target(decoded)); break;
	case CONDITIONAL:
		put_conditional(emitter, block, condition_of(decoded), branch_target(decoded),
		                next_of(decoded));
		break;
	case LOOP: put_loop(emitter, decoded); break;
	case CALL:
		put_push(emitter, next_of(decoded));
		put_jump_on(emitter, block, branch_target(decoded));
		break;
	case RETURN: put_return(emitter, decoded); break;
	case INDIRECT_JUMP:
	case INDIRECT_CALL: put_indirect(emitter, decoded); break;
	case SYSCALL: put_syscall(emitter, decoded); break;
	case TRANSACTION:
		lh__put_constant(emitter, RAX, 0);
		put_jump(emitter, 0, branch_target(decoded));
		break;
	case READ_GS: put_read_gs(emitter, decoded); break;
	case ALONE:
		lh__put_instruction(emitter, decoded->bytes, decoded->instruction.length);
		put_jump(emitter, 0, next_of(decoded));
		break;
	default: put_native(emitter, decoded->address); break;
	}
}

/* ---- blocks */

static struct lh_translated_instruction shown(const struct decoded *decoded)
{
	return (struct lh_translated_instruction){
		.address = decoded->address,
		.bytes = decoded->bytes,
		.length = decoded->instruction.length,
		.decoded = &decoded->instruction,
		.operands = decoded->operands,
		.accesses = &decoded->accesses,
		.live_before = decoded->live,
	};
}

static void see(struct lh_emitter *emitter, const struct block *block, unsigned i, bool after)
{
	const struct lh_translate_client *client = &block->translator->client;
	const struct decoded *decoded = &block->decoded[i];
	uint32_t live = !after ? decoded->live : i + 1 < block->count ? decoded[1].live : LH_LIVE_ALL;
	struct lh_translated_instruction instruction = shown(decoded);

	lh__emit_turn(emitter, live, &decoded->accesses);
	if (after)
		client->after(client->context, emitter, &instruction);
	else
		client->before(client->context, emitter, &instruction);
}

static void see_block(struct lh_emitter *emitter, const struct block *block)
{
	const struct lh_translate_client *client = &block->translator->client;
	struct lh_translated_instruction instruction[LH_BLOCK_INSTRUCTIONS];

	for (unsigned i = 0; i < block->count; i++)
		instruction[i] = shown(&block->decoded[i]);
	lh__emit_turn(emitter, block->decoded[0].live, NULL);
	client->block(client->context, emitter, block->address, block->count, instruction);
}

static void put_block(struct lh_emitter *emitter, struct block *block)
{
	const struct lh_translate_client *client = &block->translator->client;

	if (client->block)
		see_block(emitter, block);
	for (unsigned i = 0; i < block->count && !emitter->full; i++) {
		struct decoded *decoded = &block->decoded[i];

		if (client->before && decoded->kind != NATIVE)
			see(emitter, block, i, false);
		put_instruction(emitter, block, decoded);
		if (client->after && decoded->kind == PLAIN)
			see(emitter, block, i, true);
	}
	if (block->decoded[block->count - 1].kind == PLAIN ||
	    block->decoded[block->count - 1].kind == READ_GS)
		put_jump_on(emitter, block, block->address + block->length);
}

/* Constants, to which the code refers. */
static void put_literals(struct lh_emitter *emitter)
{
	for (unsigned i = 0; i < emitter->literals; i++) {
		lh__put_distance(emitter->literal[i].site, emitter->at);
		lh__put(emitter, emitter->literal[i].value, 8 * emitter->literal[i].count);
	}
}

static uint32_t offset_in(const struct lh_emitter *emitter, const uint8_t *at)
{
	return at ? (uint32_t)(at - emitter->cache->write) : 0;
}

/* Where a jump leads that is not linked: its number to the context, and to the translator. */
static int put_stub(struct lh_emitter *emitter, unsigned i, struct jump **out)
{
	struct jump *jump = lh__cache_metadata(emitter->cache, sizeof(*jump));

	if (!jump || emitter->full)
		return -ENOSPC;
	out[i] = jump;
	jump->target = emitter->jump[i].target;
	if (emitter->jump[i].fall) {
		jump->fall = offset_in(emitter, emitter->jump[i].fall);
		jump->taken = i ? lh__number(emitter->cache, out[i - 1]) : 0;
		emitter->cache->kept += AROUND + 7;
		return 0;
	}
	jump->stub = offset_in(emitter, emitter->at);
	jump->plain = offset_in(emitter, emitter->jump[i].plain);
	jump->thread = offset_in(emitter, emitter->jump[i].thread);
	jump->fork = offset_in(emitter, emitter->jump[i].fork);
	jump->length = emitter->jump[i].length;
	jump->stale = emitter->jump[i].stale;
	jump->site = jump->plain || jump->stale ? 0 : offset_in(emitter, emitter->jump[i].site);
	lh__put_distance(emitter->jump[i].site, emitter->at);
	if (emitter->jump[i].child_site)
		lh__put_distance(emitter->jump[i].child_site, emitter->cache->write + out[i - 1]->stub);
	lh__put_stub(emitter->at, lh__number(emitter->cache, jump));
	emitter->at += STUB;
	return 0;
}

/* Only rax, the target, and rcx are lost to who comes here, and both are spilled. */
static uint32_t put_entry(struct lh_emitter *emitter, uint64_t address, uint32_t *start)
{
	uint64_t minus = (uint64_t)0 - address;
	uint32_t next;

	lh__put_nops(emitter, minus <= UINT32_MAX ? 12 : minus == (uint64_t)(int32_t)minus ? 14 : 17, 4);
	*start = offset_in(emitter, emitter->at);
	lh__put_constant(emitter, RCX, minus);
	lh__put_bytes(emitter, 0x010c8d48, 4); /* lea (%rcx,%rax), %rcx */
	lh__put_bytes(emitter, 0xe905e3, 3);   /* jrcxz over the jump */
	next = offset_in(emitter, emitter->at);
	lh__put_word(emitter, 0);
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_SPILL + 8);
	lh__put_gs(emitter, OP_LOAD, RAX, LH_T_SPILL);
	return next;
}

static struct lh_emitter *emitter_for(struct lh_translator *translator, bool follows)
{
	struct lh_emitter *emitter = translator->emitter;
	struct cache *cache = translator->current;
	size_t start = follows ? cache->used : (cache->used + 15) & ~(size_t)15;
	size_t needed = start + cache->kept + ASIDE, room = needed < cache->top ? cache->top - needed : 0;

	emitter->translator = translator;
	emitter->cache = cache;
	emitter->start = emitter->at = cache->write + start;
	emitter->end = emitter->start + (room < ROOM ? room : ROOM);
	emitter->full = false;
	emitter->labels = emitter->literals = emitter->jumps = 0;
	emitter->tail = NULL;
	return emitter;
}

int lh__build_entry(struct lh_translator *translator, struct fragment *fragment)
{
	struct lh_emitter *emitter = emitter_for(translator, false);
	uint32_t next;

	next = put_entry(emitter, fragment->address, &fragment->entry);
	lh__put_bytes(emitter, 0xe9, 1);
	lh__put_word(emitter, 0);
	if (emitter->full)
		return -ENOSPC;
	lh__put_distance(emitter->at - 4, emitter->cache->write + fragment->code);
	translator->current->used = offset_in(emitter, emitter->at);
	fragment->entry_next = next;
	lh__cache_publish(translator->current, fragment);
	return 0;
}

/* What the translator itself does natively, for threads that are translated: it uses gs, and its lock. */
static uint64_t own_function(uint64_t address)
{
	const struct {
		uint64_t function;
		const char *inside;
	} own[] = {
		{ (uint64_t)(uintptr_t)lh__translate_begin, lh__translate_begin_inside },
		{ (uint64_t)(uintptr_t)lh__translate_end, lh__translate_end_inside },
		{ (uint64_t)(uintptr_t)lh__translate_forget, lh__translate_forget_inside },
		{ (uint64_t)(uintptr_t)lh__translate_is_on, lh__translate_is_on_inside },
		{ (uint64_t)(uintptr_t)lh__translate_is_here, lh__translate_is_here_inside },
		{ (uint64_t)(uintptr_t)lh__translate_thread_bytes, lh__translate_bytes_inside },
		{ (uint64_t)(uintptr_t)lh__translate_native_back, lh__translate_native_back },
	};

	for (unsigned i = 0; i < sizeof(own) / sizeof(*own); i++)
		if (own[i].function == address)
			return (uint64_t)(uintptr_t)own[i].inside;
	return 0;
}

/* A client's (lh__translate_native), and those of ours that take the lock. */
static bool is_native(const struct lh_translator *translator, uint64_t address)
{
	if (address == (uint64_t)(uintptr_t)lh__translate_native ||
	    address == (uint64_t)(uintptr_t)lh__translate_address)
		return true;
	for (unsigned i = 0; i < translator->native_count; i++)
		if (translator->natives[i] == address)
			return true;
	return false;
}

static void analyse(struct block *block)
{
	struct lh_effect effect[LH_BLOCK_INSTRUCTIONS];
	uint32_t live[LH_BLOCK_INSTRUCTIONS];

	for (unsigned i = 0; i < block->count; i++)
		block->decoded[i].live = LH_LIVE_ALL;
	if (block->unknown || (!has_client(block->translator) && !block->page->checked))
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
static void copy_source(const struct block *block, uint8_t *out)
{
	for (unsigned i = 0; i < block->count; i++)
		for (unsigned at = 0; at < block->decoded[i].instruction.length; at++)
			out[block->decoded[i].address - block->address + at] = block->decoded[i].bytes[at];
}

/* What is executed once, or not at all, lies apart, from the end of the cache downwards. */
static int put_aside(struct lh_emitter *emitter, struct jump **jumps)
{
	struct cache *cache = emitter->cache;
	size_t size = 0;

	for (unsigned i = 0; i < emitter->jumps; i++)
		size += emitter->jump[i].fall ? 0 : STUB;
	for (unsigned i = 0; i < emitter->literals; i++)
		size += 8 * emitter->literal[i].count;
	cache->used = offset_in(emitter, emitter->at);
	emitter->end = cache->write + cache->top;
	cache->top = (cache->top - size) & ~(size_t)7;
	emitter->at = cache->write + cache->top;
	put_literals(emitter);
	for (unsigned i = 0; i < emitter->jumps; i++)
		if (put_stub(emitter, i, jumps) < 0)
			return -ENOSPC;
	return 0;
}

/* The fragment is written; now it is known, and what it jumps to that is there is linked. */
static int finish(struct lh_emitter *emitter, struct block *block, const uint32_t entry[2],
                  struct fragment **out)
{
	struct cache *cache = emitter->cache;
	struct fragment *fragment = lh__cache_metadata(cache, sizeof(*fragment));
	struct place *places = lh__cache_metadata(cache, block->places * sizeof(*places));
	bool keep = block->page && block->page->made && !block->checked && !block->unknown;
	uint8_t *source = keep ? lh__cache_metadata(cache, block->length) : NULL;
	struct jump *jumps[JUMPS];
	struct fragment *to;
	size_t top = cache->top;

	if (!fragment || !places || (keep && !source))
		return -ENOSPC;
	if (keep)
		copy_source(block, source);
	fragment->source = source;
	fragment->checked = block->checked;
	for (unsigned i = 0; i < block->places; i++)
		places[i] = block->place[i];
	fragment->address = block->address;
	fragment->length = block->unknown ? ZYDIS_MAX_INSTRUCTION_LENGTH : block->length;
	fragment->code = offset_in(emitter, block->start);
	fragment->code_size = (uint32_t)(emitter->at - block->start);
	if (put_aside(emitter, jumps) < 0)
		return -ENOSPC;
	fragment->instructions = (uint16_t)block->count;
	fragment->place_count = (uint16_t)block->places;
	fragment->places = places;
	fragment->body = fragment->code_size;
	fragment->tail = emitter->tail ? (uint32_t)(emitter->tail - block->start) : 0;
	fragment->jump_count = emitter->jumps;
	fragment->jumps = jumps[0];
	block->translator->counts.bytes +=
		cache->used - (size_t)(emitter->start - cache->write) + top - cache->top;
	if (lh__cache_add(cache, fragment, block->page) < 0)
		return -ENOSPC;
	fragment->entry = entry[1] ? entry[0] : 0;
	fragment->entry_next = entry[1];
	for (unsigned i = 0; i < emitter->jumps; i++)
		jumps[i]->from = fragment;
	for (unsigned i = 0; i < emitter->jumps; i++)
		if (jumps[i]->fall)
			block->fall = jumps[i];
		else if ((to = lh__cache_find(cache, jumps[i]->target)))
			lh__cache_link(block->translator, jumps[i], to);
	*out = fragment;
	return 0;
}

/* Where the program's bytes are others: to the translator. All such jumps but the first lead to that. */
static const uint8_t *put_stale(struct lh_emitter *emitter, unsigned condition, uint64_t address)
{
	unsigned stale = put_jump(emitter, condition, address);

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
		put_back(emitter, *stale);
	else
		*stale = put_stale(emitter, 0, address);
}

/* The fragment goes on only where the program's code still is what it was made of. */
static void put_check(struct lh_emitter *emitter, const struct block *block)
{
	uint8_t code[LH_BLOCK_INSTRUCTIONS * ZYDIS_MAX_INSTRUCTION_LENGTH];
	bool flags = block->decoded[0].live & LH_LIVE_FLAGS;
	const uint8_t *stale = NULL;

	copy_source(block, code);
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

static int build_block(struct block *block, bool entered, bool follows, struct fragment **out)
{
	struct lh_emitter *emitter = emitter_for(block->translator, follows);
	uint64_t own = own_function(block->address);
	uint32_t entry[2] = { 0, 0 };

	if (entered)
		entry[1] = put_entry(emitter, block->address, &entry[0]);
	block->places = 0;
	block->start = emitter->at;
	if (block->checked && !own && !is_native(block->translator, block->address))
		put_check(emitter, block);
	if (own) {
		put_native(emitter, own);
	} else if (is_native(block->translator, block->address)) {
		lh__put_constant(emitter, R11, block->address);
		put_native(emitter, (uint64_t)(uintptr_t)lh__translate_native_call);
	} else {
		put_block(emitter, block);
	}
	return emitter->full ? -ENOSPC : finish(emitter, block, entry, out);
}

static void count(struct block *block)
{
	struct lh_translate_counts *counts = &block->translator->counts;

	counts->blocks++;
	counts->instructions += block->count;
	if (block->decoded[0].kind == ALONE || block->decoded[0].kind == NATIVE)
		counts->slow++;
}

int lh__build_rest(struct lh_translator *translator, uint64_t address, struct fragment **out)
{
	struct block block = { .translator = translator, .decoded = translator->decoded, .address = address };
	int error;

	block.page = lh__cache_page(translator, address, &error);
	if (!block.page)
		return error;
	decode_block(&block, 1);
	analyse(&block);
	block.page = NULL;
	return build_block(&block, false, false, out);
}

/* What is executed next, if one can say, and nothing else than the block's last jump: else 0. */
static uint64_t follower_of(const struct block *block)
{
	const struct decoded *last = &block->decoded[block->count - 1];

	switch (last->kind) {
	case PLAIN:
	case READ_GS:
	case CONDITIONAL: return next_of(last);
	case JUMP:
	case CALL: return branch_target(last);
	default: return 0;
	}
}

/*
 * Code of this page may be read before it is executed: it is a file's, or stores to it will be seen. What a
 * JIT has not written yet is not code.
 */
static bool may_follow(const struct lh_translator *translator, const struct page *page)
{
	return page && !page->checked && (!page->made || translator->guards);
}

/* The block that is made next, and follows directly: one that is not known yet, whose page is. */
static bool look_ahead(const struct block *block, struct block *next)
{
	struct lh_translator *translator = block->translator;
	uint64_t address = own_function(block->address) ? 0 : follower_of(block);

	if (!address || address == block->address || block->checked ||
	    is_native(translator, block->address) || own_function(address) || is_native(translator, address))
		return false;
	next->page = lh__cache_page_known(translator->current, address);
	if (!may_follow(translator, next->page) || lh__cache_find(translator->current, address))
		return false;
	next->translator = translator;
	next->address = address;
	decode_block(next, LH_BLOCK_INSTRUCTIONS);
	return next->decoded[0].kind != ALONE && next->decoded[0].kind != NATIVE && !next->checked;
}

/* A decoded block; next is where the one goes that follows it directly, or NULL. */
static int build_one(struct block *block, struct block *next, bool entered, bool follows,
                     struct fragment **out)
{
	int error = -ENOSPC;

	/* A client may put so much into a block that it does not fit: then fewer instructions. */
	for (unsigned most = LH_BLOCK_INSTRUCTIONS; most > 0 && error == -ENOSPC; most /= 4) {
		if (most < LH_BLOCK_INSTRUCTIONS)
			decode_block(block, most);
		analyse(block);
		block->falls = next && most == LH_BLOCK_INSTRUCTIONS && look_ahead(block, next);
		error = build_block(block, entered, follows, out);
	}
	if (error == 0)
		count(block);
	return error;
}

int lh__build(struct lh_translator *translator, uint64_t address, bool entered, struct fragment **out)
{
	struct block block[2] = { { .translator = translator, .decoded = translator->decoded },
		                  { .decoded = translator->decoded + LH_BLOCK_INSTRUCTIONS } };
	struct fragment *follower;
	unsigned now = 0;
	int error;

	block[0].address = address;
	block[0].page = lh__cache_page(translator, address, &error);
	if (!block[0].page)
		return error;
	decode_block(&block[0], LH_BLOCK_INSTRUCTIONS);
	error = build_one(&block[0], &block[1], entered, false, out);
	if (error < 0)
		return error;
	for (unsigned i = 2; error == 0 && block[now].falls; i++) {
		struct jump *fall = block[now].fall;

		now ^= 1;
		error = build_one(&block[now], i < RUN ? &block[now ^ 1] : NULL, false, true, &follower);
		if (error < 0)
			lh__cache_sever(translator->current, fall);
		else
			lh__cache_link(translator, fall, follower);
	}
	/* Not before: threads come there at once, without asking, and on into what it falls into. */
	if ((*out)->entry)
		lh__cache_publish(translator->current, *out);
	return 0;
}
