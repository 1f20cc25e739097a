/*
 * ahead_decode.c - the bytes of an instruction into its operands, for those that ahead_run.c may know.
 *
 * What is not here (VEX and EVEX, x87, far and privileged ones, addresses of 32 bits, segments but fs, locks)
 * is refused.
 */
#include "port/code/inside/ahead.h"

/* What follows an opcode: whether a ModRM byte, and an immediate. */
enum {
	BAD = 0,
	OK = 1,      /* nothing */
	M = 2,       /* ModRM */
	B = 4,       /* 1 byte */
	Z = 8,       /* 4 bytes; 2 with 66 */
	W = 16,      /* 2 bytes */
	D = 32,      /* 4 bytes, always: distances of jumps */
	V = 64,      /* 4 bytes, 2 with 66, 8 with REX.W */
	GROUP3 = 128 /* ModRM, and an immediate if its register is 0 or 1 */
};

/* clang-format off */
static const uint8_t one_byte[256] = {
	/* 00 */ M, M, M, M, B, Z, 0, 0, M, M, M, M, B, Z, 0, 0,
	/* 10 */ M, M, M, M, B, Z, 0, 0, M, M, M, M, B, Z, 0, 0,
	/* 20 */ M, M, M, M, B, Z, 0, 0, M, M, M, M, B, Z, 0, 0,
	/* 30 */ M, M, M, M, B, Z, 0, 0, M, M, M, M, B, Z, 0, 0,
	/* 40 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	/* 50 */ OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, OK,
	/* 60 */ 0, 0, 0, M, 0, 0, 0, 0, Z, M | Z, B, M | B, 0, 0, 0, 0,
	/* 70 */ B, B, B, B, B, B, B, B, B, B, B, B, B, B, B, B,
	/* 80 */ M | B, M | Z, 0, M | B, M, M, M, M, M, M, M, M, 0, M, 0, 0,
	/* 90 */ OK, OK, OK, OK, OK, OK, OK, OK, OK, OK, 0, 0, 0, 0, 0, 0,
	/* a0 */ 0, 0, 0, 0, OK, OK, 0, 0, B, Z, OK, OK, 0, 0, 0, 0,
	/* b0 */ B, B, B, B, B, B, B, B, V, V, V, V, V, V, V, V,
	/* c0 */ M | B, M | B, W, OK, 0, 0, M | B, M | Z, 0, OK, 0, 0, 0, 0, 0, 0,
	/* d0 */ M, M, M, M, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	/* e0 */ 0, 0, 0, 0, 0, 0, 0, 0, D, D, 0, B, 0, 0, 0, 0,
	/* f0 */ 0, 0, 0, 0, 0, OK, GROUP3, GROUP3, OK, OK, 0, 0, OK, 0, M, M
};

static const uint8_t two_byte[256] = {
	/* 00 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, M, 0, 0,
	/* 10 */ M, M, M, M, M, M, M, M, M, 0, 0, 0, 0, 0, M, M,
	/* 20 */ 0, 0, 0, 0, 0, 0, 0, 0, M, M, M, M, M, M, M, M,
	/* 30 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	/* 40 */ M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	/* 50 */ M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	/* 60 */ M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	/* 70 */ M | B, M | B, M | B, M | B, M, M, M, 0, 0, 0, 0, 0, M, M, M, M,
	/* 80 */ D, D, D, D, D, D, D, D, D, D, D, D, D, D, D, D,
	/* 90 */ M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	/* a0 */ 0, 0, 0, M, M | B, M, 0, 0, 0, 0, 0, M, M | B, M, M, M,
	/* b0 */ 0, 0, 0, M, 0, 0, M, M, M, 0, M | B, M, M, M, M, M,
	/* c0 */ 0, 0, M | B, M, M | B, M | B, M | B, 0, OK, OK, OK, OK, OK, OK, OK, OK,
	/* d0 */ M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	/* e0 */ M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	/* f0 */ M, M, M, M, M, M, M, 0, M, M, M, M, M, M, M, 0
};
/* clang-format on */

struct cursor {
	const uint8_t *code;
	unsigned at;
	uint8_t rex;
};

static uint8_t byte(struct cursor *cursor)
{
	return cursor->code[cursor->at++];
}

static int64_t number(struct cursor *cursor, unsigned size)
{
	const uint8_t *from = cursor->code + cursor->at;
	int64_t value;

	cursor->at += size;
	if (size == 1)
		return (int8_t)*from;
	if (size == 2) {
		int16_t half;

		__builtin_memcpy(&half, from, sizeof half);
		return half;
	}
	if (size == 4) {
		int32_t word;

		__builtin_memcpy(&word, from, sizeof word);
		return word;
	}
	__builtin_memcpy(&value, from, sizeof value);
	return value;
}

static bool prefixes(struct cursor *cursor, uint8_t prefix, struct lh_ahead_instruction *out)
{
	for (;; prefix = byte(cursor)) {
		if (cursor->at > 5)
			return false;
		switch (prefix) {
		case 0x66: out->narrow = true; break;
		case 0x64: out->fs = true; break;
		case 0x2e: /* mean nothing: padding, hints */
		case 0x3e: break;
		case 0xf2:
		case 0xf3: out->repeat = prefix; break;
		default:
			if ((prefix & 0xf0) == 0x40) {
				cursor->rex = prefix;
				out->rex = true;
				out->wide = prefix & 8;
				prefix = byte(cursor);
			}
			out->op = prefix;
			return (prefix & 0xf0) != 0x40;
		}
	}
}

static void memory(struct cursor *cursor, struct lh_ahead_instruction *out, unsigned mod, unsigned rm)
{
	unsigned high = cursor->rex & 1 ? 8 : 0, base = rm;

	out->memory = true;
	out->index = LH_NONE;
	if (rm == 4) {
		uint8_t sib = byte(cursor);
		unsigned index = (sib >> 3 & 7) | (cursor->rex & 2 ? 8 : 0);

		base = sib & 7;
		out->scale = sib >> 6;
		if (index != LH_RSP)
			out->index = (uint8_t)index;
	}
	out->base = (uint8_t)(base | high);
	if (mod == 0 && base == 5) {
		out->base = rm == 4 ? LH_NONE : LH_RIP;
		mod = 2;
	}
	if (mod == 1)
		out->displacement = (int32_t)number(cursor, 1);
	else if (mod == 2)
		out->displacement = (int32_t)number(cursor, 4);
}

static void modrm(struct cursor *cursor, struct lh_ahead_instruction *out)
{
	uint8_t modrm = byte(cursor);

	out->reg = (uint8_t)((modrm >> 3 & 7) | (cursor->rex & 4 ? 8 : 0));
	out->rm = (uint8_t)((modrm & 7) | (cursor->rex & 1 ? 8 : 0));
	if (modrm >> 6 != 3)
		memory(cursor, out, modrm >> 6, modrm & 7);
}

static uint8_t shape_of(struct cursor *cursor, struct lh_ahead_instruction *out)
{
	if (out->op != 0x0f)
		return one_byte[out->op];
	out->map = 1;
	out->op = byte(cursor);
	if (out->op == 0x38 || out->op == 0x3a) {
		out->map = out->op == 0x38 ? 2 : 3;
		out->op = byte(cursor);
		return out->map == 2 ? M : M | B;
	}
	return two_byte[out->op];
}

bool lh__ahead_decode(const uint8_t *code, uint8_t first, struct lh_ahead_instruction *out)
{
	struct cursor cursor = { code, 1, 0 };
	uint8_t shape;

	*out = (struct lh_ahead_instruction){ .base = LH_NONE };
	if (!prefixes(&cursor, first, out))
		return false;
	shape = shape_of(&cursor, out);
	if (shape == BAD)
		return false;
	if (shape & (M | GROUP3))
		modrm(&cursor, out);
	else /* the opcode's last three bits name a register, where they do */
		out->rm = (uint8_t)((out->op & 7) | (cursor.rex & 1 ? 8 : 0));
	if (shape == GROUP3 && (out->reg & 6) == 0)
		shape = out->op & 1 ? Z : B;
	if (shape & B)
		out->immediate = number(&cursor, 1);
	else if (shape & W)
		out->immediate = number(&cursor, 2) & 0xffff;
	else if (shape & D)
		out->immediate = number(&cursor, 4);
	else if (shape & V && out->wide)
		out->immediate = number(&cursor, 8);
	else if (shape & (Z | V))
		out->immediate = number(&cursor, out->narrow && !out->wide ? 2 : 4);
	out->length = (uint8_t)cursor.at;
	return cursor.at <= LH_AHEAD_LONGEST;
}
