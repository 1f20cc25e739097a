/*
 * move.c - instructions at another address (move.h).
 *
 * Two passes. The first decodes as many whole instructions as the window needs and thereby learns where it
 * ends, which tells jumps that stay inside it from those that leave it. The second writes each anew: most are
 * the same bytes, those that address memory relative to themselves with another displacement, jumps and calls
 * in their long form.
 *
 * A call becomes push and jump: what it leaves on the stack is the address behind its old place. The push
 * takes a sign-extended half of it, the other half is stored behind; neither touches a register or a flag.
 */
#include "code/move.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <string.h>

#define INSTRUCTIONS 16
#define LONGEST (15u + LH_MOVE_GROWTH)

enum { MODRM_REGISTER = 3, RM_SIB = 4, RM_RELATIVE = 5, RSP = 4 };

struct window {
	uint64_t address;
	unsigned size, count;
	uint8_t at[INSTRUCTIONS];
	ZydisDecodedInstruction instruction[INSTRUCTIONS];
};

/* One instruction as it is written anew. */
struct text {
	uint64_t address; /* at which it will run */
	unsigned size;
	uint8_t byte[LONGEST];
};

static void put(struct text *text, const void *bytes, size_t size)
{
	memcpy(text->byte + text->size, bytes, size);
	text->size += (unsigned)size;
}

static void put_byte(struct text *text, unsigned value)
{
	text->byte[text->size++] = (uint8_t)value;
}

static void put_word(struct text *text, uint64_t value)
{
	put(text, &(uint32_t){ (uint32_t)value }, 4);
}

/* The displacement that ends an instruction. */
static int put_distance(struct text *text, uint64_t target)
{
	int64_t distance = (int64_t)(target - (text->address + text->size + 4));

	if (distance != (int32_t)distance)
		return -ERANGE;
	put_word(text, (uint64_t)distance);
	return 0;
}

static bool is_branch(const ZydisDecodedInstruction *instruction)
{
	return instruction->raw.imm[0].is_relative;
}

static uint64_t branch_target(const ZydisDecodedInstruction *instruction, uint64_t address)
{
	return address + instruction->length + (uint64_t)instruction->raw.imm[0].value.s;
}

static bool is_relative_memory(const ZydisDecodedInstruction *instruction)
{
	return instruction->attributes & ZYDIS_ATTRIB_HAS_MODRM && instruction->raw.modrm.mod == 0 &&
	       instruction->raw.modrm.rm == RM_RELATIVE;
}

/* The second half of what a call leaves goes over the sign that the first half was extended with. */
static void put_return_address(struct text *text, uint64_t address)
{
	put_byte(text, 0x68); /* push $low */
	put_word(text, address);
	put(text, "\xc7\x44\x24\x04", 4); /* movl $high, 4(%rsp) */
	put_word(text, address >> 32);
}

/*
 * call through a register or memory. Its bytes become those of a jump, with what is found by rsp 8 further
 * away. What lies where the return address goes is read by a call before it is overwritten, and cannot be
 * read here afterwards.
 */
static int put_indirect_call(struct text *text, const uint8_t *code,
                             const ZydisDecodedInstruction *instruction, uint64_t address)
{
	unsigned modrm_at = instruction->raw.modrm.offset, mod = instruction->raw.modrm.mod;
	unsigned rm = instruction->raw.modrm.rm | (unsigned)(instruction->raw.rex.B << 3);
	int64_t displacement = instruction->raw.disp.value;
	bool by_rsp = mod != MODRM_REGISTER && instruction->raw.modrm.rm == RM_SIB &&
	              instruction->raw.sib.base == RSP && !instruction->raw.rex.B;

	if (instruction->raw.modrm.reg != 2 || instruction->operand_width != 64 ||
	    (mod == MODRM_REGISTER && rm == RSP) || (by_rsp && displacement < 0 && displacement >= -16))
		return -EILSEQ;
	put_return_address(text, address + instruction->length);
	put(text, code, modrm_at); /* prefixes and the opcode */
	if (is_relative_memory(instruction)) {
		put_byte(text, 0x25);
		return put_distance(text, address + instruction->length + (uint64_t)displacement);
	}
	if (!by_rsp) {
		put_byte(text, (unsigned)(mod << 6 | 4u << 3 | instruction->raw.modrm.rm));
		put(text, code + modrm_at + 1, instruction->length - modrm_at - 1);
		return 0;
	}
	displacement += 8;
	if (displacement != (int32_t)displacement)
		return -ERANGE;
	mod = displacement == (int8_t)displacement ? 1 : 2;
	put_byte(text, mod << 6 | 4u << 3 | RM_SIB);
	put_byte(text, code[instruction->raw.sib.offset]);
	if (mod == 1)
		put_byte(text, (uint8_t)displacement);
	else
		put_word(text, (uint64_t)displacement);
	return 0;
}

/* loop and its like have no long form: over a jump, to a jump. */
static int put_short_only(struct text *text, const uint8_t *code, const ZydisDecodedInstruction *instruction,
                          uint64_t target)
{
	if (instruction->address_width == 32)
		put_byte(text, 0x67);
	put_byte(text, code[instruction->raw.imm[0].offset - 1]);
	put(text, "\x02\xeb\x05\xe9", 4);
	return put_distance(text, target);
}

static int put_branch(struct text *text, const uint8_t *code, const ZydisDecodedInstruction *instruction,
                      uint64_t address)
{
	uint64_t target = branch_target(instruction, address);

	/* A prefix that cuts the target to 16 bits on some processors, and does nothing on others. */
	if (instruction->mnemonic == ZYDIS_MNEMONIC_XBEGIN ||
	    (instruction->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE && !instruction->raw.rex.W))
		return -EILSEQ;
	switch (instruction->meta.category) {
	case ZYDIS_CATEGORY_CALL: put_return_address(text, address + instruction->length); break;
	case ZYDIS_CATEGORY_UNCOND_BR: break;
	case ZYDIS_CATEGORY_COND_BR:
		if (instruction->opcode >= 0xe0 && instruction->opcode <= 0xe3 &&
		    instruction->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
			return put_short_only(text, code, instruction, target);
		put_byte(text, 0x0f);
		put_byte(text, 0x80u | (instruction->opcode & 0x0fu));
		return put_distance(text, target);
	default: return -EILSEQ;
	}
	put_byte(text, 0xe9);
	return put_distance(text, target);
}

static int put_relative_memory(struct text *text, const uint8_t *code,
                               const ZydisDecodedInstruction *instruction, uint64_t address)
{
	int64_t displacement = instruction->raw.disp.value + (int64_t)(address - text->address);

	if (instruction->address_width != 64 || instruction->raw.disp.size != 32)
		return -EILSEQ;
	if (displacement != (int32_t)displacement)
		return -ERANGE;
	put(text, code, instruction->length);
	memcpy(text->byte + instruction->raw.disp.offset, &(int32_t){ (int32_t)displacement }, 4);
	return 0;
}

static int put_instruction(struct text *text, const uint8_t *code, const struct window *window, unsigned i)
{
	const ZydisDecodedInstruction *instruction = &window->instruction[i];
	uint64_t address = window->address + window->at[i];

	if (is_branch(instruction)) {
		if (branch_target(instruction, address) - window->address < window->size)
			return -EILSEQ;
		return put_branch(text, code, instruction, address);
	}
	if (instruction->meta.category == ZYDIS_CATEGORY_CALL)
		return put_indirect_call(text, code, instruction, address);
	if (is_relative_memory(instruction))
		return put_relative_memory(text, code, instruction, address);
	put(text, code, instruction->length);
	return 0;
}

static void open_decoder(ZydisDecoder *decoder)
{
	ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

static int decode_window(const uint8_t *code, size_t size, unsigned least, struct window *window)
{
	ZydisDecoder decoder;

	open_decoder(&decoder);
	while (window->size < least) {
		ZydisDecodedInstruction *next = &window->instruction[window->count];
		ZyanStatus status;

		if (window->count == INSTRUCTIONS || window->size >= size)
			return -ENOSPC;
		status = ZydisDecoderDecodeInstruction(&decoder, NULL, code + window->size,
		                                       size - window->size, next);
		if (status == ZYDIS_STATUS_NO_MORE_DATA)
			return -ENOSPC;
		if (!ZYAN_SUCCESS(status))
			return -EILSEQ;
		window->at[window->count++] = (uint8_t)window->size;
		window->size += next->length;
		if (window->size > LH_MOVE_LONGEST)
			return -ENOSPC;
	}
	return 0;
}

static bool ends(const ZydisDecodedInstruction *instruction)
{
	return instruction->meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
	       instruction->meta.category == ZYDIS_CATEGORY_RET;
}

int lh__move(const uint8_t *code, size_t size, uint64_t address, unsigned least, uint8_t *out, size_t room,
             uint64_t out_address, struct lh_moved_code *moved)
{
	struct window window = { .address = address };
	struct lh_moved_code made = { 0 };
	int result = decode_window(code, size, least, &window);

	for (unsigned i = 0; result == 0 && i < window.count; i++) {
		struct text text = { .address = out_address + made.size };

		result = put_instruction(&text, code + window.at[i], &window, i);
		if (result == 0 && text.size > room - made.size)
			result = -ENOSPC;
		if (result < 0)
			return result;
		made.from[i] = window.at[i];
		made.to[i] = made.size;
		made.has_call |= window.instruction[i].meta.category == ZYDIS_CATEGORY_CALL;
		made.ends = ends(&window.instruction[i]);
		memcpy(out + made.size, text.byte, text.size);
		made.size = (uint16_t)(made.size + text.size);
	}
	if (result < 0)
		return result;
	if (!made.ends) {
		if (room - made.size < LH_MOVE_JUMP)
			return -ENOSPC;
		result = lh__move_jump(out + made.size, out_address + made.size, address + window.size);
		if (result < 0)
			return result;
		made.size += LH_MOVE_JUMP;
	}
	made.window = (uint8_t)window.size;
	made.count = (uint8_t)window.count;
	*moved = made;
	return 0;
}

int lh__move_jump(uint8_t out[LH_MOVE_JUMP], uint64_t address, uint64_t target)
{
	struct text text = { .address = address };
	int result;

	put_byte(&text, 0xe9);
	result = put_distance(&text, target);
	if (result == 0)
		memcpy(out, text.byte, LH_MOVE_JUMP);
	return result;
}

/* What takes a frame down: where a jump through a register follows, it leaves the function. */
static bool takes_down(const ZydisDecodedInstruction *instruction)
{
	return instruction->mnemonic == ZYDIS_MNEMONIC_POP || instruction->mnemonic == ZYDIS_MNEMONIC_LEAVE ||
	       (instruction->mnemonic == ZYDIS_MNEMONIC_ADD &&
	        instruction->attributes & ZYDIS_ATTRIB_HAS_MODRM && instruction->raw.imm[0].size &&
	        instruction->raw.modrm.mod == MODRM_REGISTER && instruction->raw.modrm.rm == RSP &&
	        !instruction->raw.rex.B);
}

/*
 * The address that an instruction may make control go to, known from itself; 0: none. A table of a switch
 * cannot be seen here; but the address of code that a lea takes can (what `goto *p` has).
 */
static uint64_t leads_to(const ZydisDecodedInstruction *instruction, uint64_t address)
{
	if (is_branch(instruction))
		return branch_target(instruction, address);
	if (instruction->mnemonic == ZYDIS_MNEMONIC_LEA && is_relative_memory(instruction))
		return address + instruction->length + (uint64_t)instruction->raw.disp.value;
	return 0;
}

int lh__move_entered(const uint8_t *code, size_t size, uint64_t address, uint64_t from, uint64_t to)
{
	ZydisDecodedInstruction instruction;
	ZydisDecoder decoder;
	bool down = false;

	open_decoder(&decoder);
	for (size_t at = 0; at < size; at += instruction.length) {
		uint64_t target;

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code + at, size - at,
		                                                &instruction)))
			return 1;
		target = leads_to(&instruction, address + at);
		if (target > from && target < to)
			return 1;
		if (instruction.meta.category == ZYDIS_CATEGORY_UNCOND_BR && !is_branch(&instruction) &&
		    !is_relative_memory(&instruction) && !down)
			return 1;
		down = takes_down(&instruction);
	}
	return 0;
}
