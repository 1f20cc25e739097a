/*
 * decode.c - what block.c must know of an instruction to copy it, for the forms that most code is made of:
 * its length, and where its parts lie. A tenth of the time that Zydis takes; and without vector registers.
 *
 * What is not in these tables is left to Zydis: VEX and EVEX, x87, locked and privileged ones, odd prefixes.
 * What is, Zydis decodes too, and to the same parts; only those that are named in inside.h are set.
 */
#include "port/translate/inside.h"

/* What follows an opcode: 0: not known here. */
enum {
	A = 1,   /* nothing */
	M = 2,   /* ModRM */
	I1 = 4,  /* 1 byte */
	I4 = 8,  /* 4 bytes; 2 with 66 */
	D4 = 16, /* 4 bytes: a distance */
	I8 = 32, /* 4 bytes, 2 with 66, 8 with REX.W */
	G = 64,  /* with M: what the opcode means is in ModRM, see grouped() */
	P = 128, /* of the second map: any of 66, F2 and F3 may be part of the opcode, see simd[] */
	M1 = M | I1,
	M4 = M | I4,
};

/* clang-format off */
static const uint8_t one_byte[256] = {
	/* 00 */ M, M, M, M, I1, I4, 0, 0, M, M, M, M, I1, I4, 0, 0,
	/* 10 */ M, M, M, M, I1, I4, 0, 0, M, M, M, M, I1, I4, 0, 0,
	/* 20 */ M, M, M, M, I1, I4, 0, 0, M, M, M, M, I1, I4, 0, 0,
	/* 30 */ M, M, M, M, I1, I4, 0, 0, M, M, M, M, I1, I4, 0, 0,
	/* 40 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	/* 50 */ A, A, A, A, A, A, A, A, A, A, A, A, A, A, A, A,
	/* 60 */ 0, 0, 0, M, 0, 0, 0, 0, I4, M4, I1, M1, 0, 0, 0, 0,
	/* 70 */ I1, I1, I1, I1, I1, I1, I1, I1, I1, I1, I1, I1, I1, I1, I1, I1,
	/* 80 */ M1, M4, 0, M1, M, M, M, M, M, M, M, M, 0, M | G, 0, 0,
	/* 90 */ A, A, A, A, A, A, A, A, A, A, 0, 0, 0, 0, 0, 0,
	/* a0 */ 0, 0, 0, 0, A, A, A, A, I1, I4, A, A, A, A, A, A,
	/* b0 */ I1, I1, I1, I1, I1, I1, I1, I1, I8, I8, I8, I8, I8, I8, I8, I8,
	/* c0 */ M1, M1, 0, A, 0, 0, M1 | G, M4 | G, 0, A, 0, 0, 0, 0, 0, 0,
	/* d0 */ M, M, M, M, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	/* e0 */ 0, 0, 0, 0, 0, 0, 0, 0, D4, D4, 0, I1, 0, 0, 0, 0,
	/* f0 */ 0, 0, 0, 0, 0, A, M | G, M | G, A, A, 0, 0, A, A, M | G, M | G,
};

static const uint8_t two_byte[256] = {
	/* 00 */ 0, 0, 0, 0, 0, A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	/* 10 */ M | P, M | P, 0, 0, M | P, M | P, 0, 0, 0, 0, 0, 0, 0, 0, M | G, M,
	/* 20 */ 0, 0, 0, 0, 0, 0, 0, 0, M | P, M | P, M | P, 0, M | P, M | P, M | P, M | P,
	/* 30 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	/* 40 */ M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	/* 50 */ 0, M | P, 0, 0, M | P, M | P, M | P, M | P,
	         M | P, M | P, M | P, M | P, M | P, M | P, M | P, M | P,
	/* 60 */ M | P, M | P, M | P, M | P, M | P, M | P, M | P, M | P,
	         M | P, M | P, M | P, M | P, M | P, M | P, M | P, M | P,
	/* 70 */ M1 | P, 0, 0, 0, M | P, M | P, M | P, 0, 0, 0, 0, 0, 0, 0, M | P, M | P,
	/* 80 */ D4, D4, D4, D4, D4, D4, D4, D4, D4, D4, D4, D4, D4, D4, D4, D4,
	/* 90 */ M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	/* a0 */ 0, 0, A, M, M1, M, 0, 0, 0, 0, 0, M, M1, M, 0, M,
	/* b0 */ M, M, 0, M, 0, 0, M, M, 0, 0, M1 | G, M, M, M, M, M,
	/* c0 */ M, M, M1 | P, 0, 0, 0, M1 | P, 0, A, A, A, A, A, A, A, A,
	/* d0 */ 0, 0, 0, 0, M | P, 0, 0, 0, 0, 0, M | P, M | P, 0, 0, M | P, M | P,
	/* e0 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, M | P, M | P, 0, 0, M | P, M | P,
	/* f0 */ 0, 0, 0, 0, 0, 0, 0, 0, M | P, M | P, M | P, M | P, M | P, M | P, M | P, 0,
};
/* clang-format on */

/* With which of nothing (1), 66 (2), F3 (4) and F2 (8) the second map's vector instructions are known. */
static unsigned simd(unsigned opcode)
{
	switch (opcode) {
	case 0x10:
	case 0x11:
	case 0x51:
	case 0x58:
	case 0x59:
	case 0x5a:
	case 0x5c:
	case 0x5d:
	case 0x5e:
	case 0x5f:
	case 0xc2: return 15;
	case 0x14:
	case 0x15:
	case 0x28:
	case 0x29:
	case 0x2e:
	case 0x2f:
	case 0x54:
	case 0x55:
	case 0x56:
	case 0x57:
	case 0xc6: return 3;
	case 0x2a:
	case 0x2c:
	case 0x2d: return 12;
	case 0x6f:
	case 0x7f: return 6;
	case 0x70: return 14;
	case 0x7e: return 6;
	case 0x5b: return 7;
	default: return 2;
	}
}

/* Those whose ModRM says more than operands: whether that is known here, and what follows. */
static bool grouped(unsigned opcode, bool second, unsigned modrm, unsigned *shape)
{
	unsigned reg = modrm >> 3 & 7;

	if (second)
		return opcode == 0xba ? reg >= 4 : modrm == 0xfa; /* bt and its like; endbr64 */
	switch (opcode) {
	case 0x8d: return modrm < 0xc0;
	case 0xc6:
	case 0xc7: return reg == 0;
	case 0xf6:
		if (reg < 2)
			*shape |= I1;
		return true;
	case 0xf7:
		if (reg < 2)
			*shape |= I4;
		return true;
	case 0xfe: return reg < 2;
	default: return reg < 3 || reg == 4 || reg == 6; /* inc, dec, call, jmp, push */
	}
}

struct cursor {
	const uint8_t *at;
	unsigned opcode, repeat;
	bool second, narrow, segment;
};

/* Prefixes and opcode. */
static bool take_opcode(struct cursor *cursor, ZydisDecodedInstruction *out)
{
	unsigned count = 0, rex = 0;

	for (;; count++) {
		unsigned byte = *cursor->at++;

		if (count == 4)
			return false;
		out->raw.prefixes[count].value = (uint8_t)byte;
		if (byte == 0x66 && !cursor->narrow && !cursor->repeat)
			cursor->narrow = true;
		else if ((byte == 0xf2 || byte == 0xf3) && !cursor->repeat && !cursor->narrow)
			cursor->repeat = byte;
		else if ((byte == 0x64 || byte == 0x65) && !cursor->segment)
			cursor->segment = true;
		else if ((byte & 0xf0) == 0x40) {
			rex = byte;
			out->raw.rex.offset = (uint8_t)count++;
			byte = *cursor->at++;
			cursor->opcode = byte;
			break;
		} else {
			cursor->opcode = byte;
			break;
		}
	}
	out->raw.prefix_count = (uint8_t)count;
	out->raw.rex.W = rex >> 3 & 1;
	out->raw.rex.R = rex >> 2 & 1;
	out->raw.rex.X = rex >> 1 & 1;
	out->raw.rex.B = rex & 1;
	out->attributes = rex ? ZYDIS_ATTRIB_HAS_REX : 0;
	out->encoding = ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	out->opcode_map = ZYDIS_OPCODE_MAP_DEFAULT;
	if (cursor->opcode == 0x0f) {
		cursor->second = true;
		cursor->opcode = *cursor->at++;
		out->opcode_map = ZYDIS_OPCODE_MAP_0F;
	}
	out->opcode = (uint8_t)cursor->opcode;
	return true;
}

/* Whether these prefixes are known with this opcode. */
static bool prefixes_fit(const struct cursor *cursor, unsigned shape)
{
	unsigned opcode = cursor->opcode;

	if (shape & P)
		return simd(opcode) & (cursor->narrow           ? 2u
		                       : cursor->repeat == 0xf3 ? 4u
		                       : cursor->repeat         ? 8u
		                                                : 1u);
	if (cursor->second && opcode == 0x1e)
		return cursor->repeat == 0xf3 && !cursor->narrow;
	/* stos and its like, ret, pause */
	if (cursor->repeat &&
	    (cursor->second || !((opcode >= 0xa4 && opcode <= 0xaf && !(shape & (I1 | I4))) ||
	                         (cursor->repeat == 0xf3 && (opcode == 0xc3 || opcode == 0x90)))))
		return false;
	if (!cursor->narrow)
		return true;
	/* What 66 means for branches is another question. */
	return cursor->second ? opcode != 0x05 && !(shape & D4) && opcode != 0xa2 && !(opcode >= 0xc8)
	                      : !(shape & D4) && opcode != 0xc3 && opcode != 0xeb && opcode != 0xff &&
	                                (opcode & 0xf0) != 0x70;
}

static void take_modrm(struct cursor *cursor, ZydisDecodedInstruction *out, const uint8_t *code)
{
	unsigned modrm = *cursor->at, mod = modrm >> 6, rm = modrm & 7, base = rm;

	out->attributes |= ZYDIS_ATTRIB_HAS_MODRM;
	out->raw.modrm.offset = (uint8_t)(cursor->at++ - code);
	out->raw.modrm.mod = (uint8_t)mod;
	out->raw.modrm.reg = modrm >> 3 & 7;
	out->raw.modrm.rm = (uint8_t)rm;
	out->raw.disp.value = 0;
	if (mod == 3)
		return;
	if (rm == 4)
		base = *cursor->at++ & 7;
	if (mod == 1) {
		out->raw.disp.offset = (uint8_t)(cursor->at - code);
		out->raw.disp.value = (int8_t)*cursor->at++;
	} else if (mod == 2 || base == 5) {
		int32_t value;

		out->raw.disp.offset = (uint8_t)(cursor->at - code);
		__builtin_memcpy(&value, cursor->at, 4);
		out->raw.disp.value = value;
		cursor->at += 4;
	}
}

static void take_immediate(struct cursor *cursor, ZydisDecodedInstruction *out, unsigned shape)
{
	int32_t value;

	if (shape & I1) {
		out->raw.imm[0].value.s = (int8_t)*cursor->at++;
	} else if (shape & D4) {
		__builtin_memcpy(&value, cursor->at, 4);
		out->raw.imm[0].value.s = value;
		cursor->at += 4;
	} else if (shape & (I4 | I8)) {
		cursor->at += out->raw.rex.W ? (shape & I8 ? 8 : 4) : cursor->narrow ? 2 : 4;
	}
}

bool lh__decode_quickly(const uint8_t code[16], ZydisDecodedInstruction *out)
{
	struct cursor cursor = { .at = code };
	unsigned shape;

	if (!take_opcode(&cursor, out))
		return false;
	shape = cursor.second ? two_byte[cursor.opcode] : one_byte[cursor.opcode];
	if (!shape || !prefixes_fit(&cursor, shape))
		return false;
	if (shape & G && !grouped(cursor.opcode, cursor.second, *cursor.at, &shape))
		return false;
	if (shape & M)
		take_modrm(&cursor, out, code);
	take_immediate(&cursor, out, shape);
	out->length = (uint8_t)(cursor.at - code);
	return out->length <= ZYDIS_MAX_INSTRUCTION_LENGTH;
}
