/*
 * ahead_vector.c - vector registers: what is moved stays known, since compilers copy pointers with them; what
 * is computed is not known. See ahead.h.
 */
#include "port/code/inside/ahead.h"

#define ANY 16u

struct vector {
	uint64_t half[2];
	bool known;
};

static struct vector get(const struct lh_ahead *ahead, unsigned reg)
{
	return (struct vector){ { ahead->vector[reg][0], ahead->vector[reg][1] },
		                ahead->vectors_known >> reg & 1 };
}

static bool set(struct lh_ahead *ahead, unsigned reg, struct vector value)
{
	ahead->vector[reg][0] = value.half[0];
	ahead->vector[reg][1] = value.half[1];
	ahead->vectors_known &= ~(1u << reg);
	ahead->vectors_known |= (uint32_t)value.known << reg;
	return true;
}

static bool forget(struct lh_ahead *ahead, unsigned reg)
{
	ahead->vectors_known &= ~(1u << reg);
	return true;
}

/* size is 4, 8 or 16; what is above becomes zero. */
static bool load(struct lh_ahead *ahead, const struct lh_ahead_instruction *in, unsigned size,
                 struct vector *out)
{
	struct lh_ahead_value low, high = { 0, true };
	uint64_t address;

	if (!lh__ahead_address(ahead, in, &address) ||
	    !lh__ahead_load(ahead, address, size > 8 ? 8 : size, &low) ||
	    (size == 16 && !lh__ahead_load(ahead, address + 8, 8, &high)))
		return false;
	*out = (struct vector){ { low.bits, high.bits }, low.known && high.known };
	return true;
}

static bool store(struct lh_ahead *ahead, const struct lh_ahead_instruction *in, unsigned size,
                  struct vector value)
{
	uint64_t address;

	return lh__ahead_address(ahead, in, &address) &&
	       lh__ahead_store(ahead, address, size > 8 ? 8 : size,
	                       (struct lh_ahead_value){ value.half[0], value.known }) &&
	       (size < 16 || lh__ahead_store(ahead, address + 8, 8,
	                                     (struct lh_ahead_value){ value.half[1], value.known }));
}

/* Reads what there is to be read, so that a fault is not walked over, and forgets the result. */
static bool compute(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	struct lh_ahead_value byte;
	uint64_t address;

	if (in->memory &&
	    (!lh__ahead_address(ahead, in, &address) || !lh__ahead_load(ahead, address, 1, &byte) ||
	     !lh__ahead_load(ahead, address + ANY - 1, 1, &byte)))
		return false;
	return forget(ahead, in->reg);
}

/* 10, 11, 28, 29, 6f, 7f and their like: size bytes between a register and a register or memory */
static bool move(struct lh_ahead *ahead, const struct lh_ahead_instruction *in, unsigned size, bool to_memory)
{
	struct vector value;

	if (in->memory) {
		if (to_memory)
			return store(ahead, in, size, get(ahead, in->reg));
		return load(ahead, in, size, &value) && set(ahead, in->reg, value);
	}
	if (size == 16)
		return set(ahead, to_memory ? in->rm : in->reg, get(ahead, to_memory ? in->reg : in->rm));
	return forget(ahead, to_memory ? in->rm : in->reg);
}

/* 12, 13, 16, 17: one half */
static bool move_half(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	struct vector value = get(ahead, in->reg), from;
	unsigned half = in->op >> 2 & 1;

	if (in->repeat)
		return !(in->op & 1) && compute(ahead, in);
	if (in->op & 1) {
		value.half[0] = value.half[half];
		return in->memory && store(ahead, in, 8, value);
	}
	if (!in->memory) {
		if (in->narrow)
			return false;
		from = get(ahead, in->rm);
		value.half[half] = from.half[!half];
	} else {
		if (!load(ahead, in, 8, &from))
			return false;
		value.half[half] = from.half[0];
	}
	value.known &= from.known;
	return set(ahead, in->reg, value);
}

/* 6e and 7e: between a general register, or as much memory, and a vector */
static bool move_word(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = in->wide ? 8 : 4;
	struct lh_ahead_value word;
	struct vector value = get(ahead, in->reg);

	if (in->op == 0x7e && in->repeat == 0xf3) { /* movq */
		if (in->memory)
			return move(ahead, in, 8, false);
		value = get(ahead, in->rm);
		value.half[1] = 0;
		return set(ahead, in->reg, value);
	}
	if (!in->narrow || in->repeat)
		return false;
	if (in->op == 0x7e) {
		if (in->memory)
			return store(ahead, in, size, value);
		lh__ahead_set(ahead, in->rm, size, (struct lh_ahead_value){ value.half[0], value.known });
		return true;
	}
	if (in->memory)
		return move(ahead, in, size, false);
	word = lh__ahead_get(ahead, in->rm, size);
	return set(ahead, in->reg, (struct vector){ { word.bits, 0 }, word.known });
}

/* A general register is what comes of it: 2c, 2d, 50, c5, d7 */
static bool to_general(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	uint32_t vectors = ahead->vectors_known;
	bool told = compute(ahead, in);

	ahead->vectors_known = vectors;
	ahead->known &= ~(1u << in->reg);
	return told;
}

static bool compare(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	uint32_t vectors = ahead->vectors_known;
	bool told = compute(ahead, in);

	ahead->vectors_known = vectors;
	ahead->flags_known &= ~(uint32_t)LH_STATUS;
	return told;
}

/* ef, 57: with itself, zero; 6c: the lower halves of both */
static bool combine(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	struct vector value = get(ahead, in->reg), from;

	if (in->op != 0x6c) {
		if (in->memory || in->reg != in->rm || (in->op == 0xef && !in->narrow))
			return compute(ahead, in);
		return set(ahead, in->reg, (struct vector){ { 0, 0 }, true });
	}
	if (!in->narrow)
		return false;
	if (!in->memory)
		from = get(ahead, in->rm);
	else if (!load(ahead, in, 16, &from))
		return false;
	value.half[1] = from.half[0];
	value.known &= from.known;
	return set(ahead, in->reg, value);
}

static bool run_two_byte(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	switch (in->op) {
	case 0x10:
	case 0x11: return move(ahead, in, in->repeat == 0xf3 ? 4 : in->repeat ? 8 : 16, in->op == 0x11);
	case 0x12:
	case 0x13:
	case 0x16:
	case 0x17: return move_half(ahead, in);
	case 0x28:
	case 0x29:
	case 0x2b: return !in->repeat && move(ahead, in, 16, in->op != 0x28);
	case 0x6f: /* without a prefix, and so on: mm registers */
	case 0x7f: return (in->narrow || in->repeat == 0xf3) && move(ahead, in, 16, in->op == 0x7f);
	case 0xe7: return in->narrow && in->memory && move(ahead, in, 16, true);
	case 0xd6:
		if (!in->narrow || in->repeat)
			return false;
		return in->memory ? store(ahead, in, 8, get(ahead, in->reg)) : forget(ahead, in->rm);
	case 0x6e:
	case 0x7e: return move_word(ahead, in);
	case 0x2c:
	case 0x2d: return in->repeat && to_general(ahead, in);
	case 0x50:
	case 0xc5:
	case 0xd7: return !in->memory && (in->op == 0x50 || in->narrow) && to_general(ahead, in);
	case 0x2e:
	case 0x2f: return compare(ahead, in);
	case 0x57:
	case 0x6c:
	case 0xef: return combine(ahead, in);
	case 0x71:
	case 0x72:
	case 0x73: /* shifts by an immediate: the register stands in the other place */
		return !in->memory && in->narrow && forget(ahead, in->rm);
	case 0x2a: return in->repeat && compute(ahead, in);
	}
	if ((in->op >= 0x14 && in->op <= 0x15) || (in->op >= 0x51 && in->op <= 0x5f) || in->op == 0xc2 ||
	    in->op == 0xc6)
		return compute(ahead, in);
	if ((in->op >= 0x60 && in->op <= 0x76) || in->op == 0xc4 || in->op >= 0xd0 || in->op == 0x7c ||
	    in->op == 0x7d)
		return (in->narrow || in->repeat) && compute(ahead, in);
	return false;
}

bool lh__ahead_run_vector(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	if (in->map == 1)
		return run_two_byte(ahead, in);
	if (!in->narrow || in->repeat)
		return false;
	if (in->map == 2) {
		if (in->op == 0x17)
			return compare(ahead, in);
		return (in->op < 0x40 || (in->op >= 0xdb && in->op <= 0xdf)) && compute(ahead, in);
	}
	return (in->op >= 0x08 && in->op <= 0x0f) || (in->op >= 0x20 && in->op <= 0x22) ||
	                       (in->op >= 0x40 && in->op <= 0x44) || in->op == 0xdf
	               ? compute(ahead, in)
	               : false;
}
