/*
 * ahead_run.c - what an instruction does, as far as it is modelled. See ahead.h.
 *
 * An instruction that cannot be told ends the walk, so what it has changed by then does not matter. Flags
 * that the manuals leave undefined are not known.
 */
#include "port/code/inside/ahead.h"

#define HIGH_BYTE 0x20u /* register numbers of ah, ch, dh and bh */
#define STRING_MOST 16u

/* ---- registers ---- */

static uint64_t cut(uint64_t bits, unsigned size)
{
	return size == 8 ? bits : bits & ((1ull << (size * 8)) - 1);
}

static uint64_t top(unsigned size)
{
	return 1ull << (size * 8 - 1);
}

static int64_t extend(uint64_t bits, unsigned size)
{
	unsigned shift = 64 - size * 8;

	return (int64_t)(bits << shift) >> shift;
}

struct lh_ahead_value lh__ahead_get(const struct lh_ahead *ahead, unsigned reg, unsigned size)
{
	if (reg & HIGH_BYTE)
		return (struct lh_ahead_value){ ahead->reg[reg & 3] >> 8 & 0xff,
			                        ahead->known >> (reg & 3) & 1 };
	return (struct lh_ahead_value){ cut(ahead->reg[reg], size), ahead->known >> reg & 1 };
}

void lh__ahead_set(struct lh_ahead *ahead, unsigned reg, unsigned size, struct lh_ahead_value value)
{
	bool high = reg & HIGH_BYTE;
	unsigned at = high ? reg & 3 : reg;
	uint64_t mask = high ? 0xff00 : size >= 4 ? ~0ull : cut(~0ull, size);

	ahead->reg[at] = (ahead->reg[at] & ~mask) | ((high ? value.bits << 8 : cut(value.bits, size)) & mask);
	if (!value.known)
		ahead->known &= ~(1u << at);
	else if (size >= 4)
		ahead->known |= 1u << at;
}

static struct lh_ahead_value known(uint64_t bits)
{
	return (struct lh_ahead_value){ bits, true };
}

/* ---- operands ---- */

struct place {
	bool memory;
	unsigned reg, size;
	uint64_t address;
};

static unsigned size_of(const struct lh_ahead_instruction *in, bool byte)
{
	return byte ? 1 : in->wide ? 8 : in->narrow ? 2 : 4;
}

static unsigned numbered(const struct lh_ahead_instruction *in, unsigned reg, unsigned size)
{
	return size == 1 && !in->rex && reg >= 4 && reg < 8 ? HIGH_BYTE | (reg - 4) : reg;
}

static struct place in_register(const struct lh_ahead_instruction *in, unsigned reg, unsigned size)
{
	return (struct place){ .reg = numbered(in, reg, size), .size = size };
}

bool lh__ahead_address(const struct lh_ahead *ahead, const struct lh_ahead_instruction *in, uint64_t *out)
{
	uint64_t address = (uint64_t)(int64_t)in->displacement;

	if (in->base == LH_RIP) {
		address += ahead->pc;
	} else if (in->base != LH_NONE) {
		if (!(ahead->known >> in->base & 1))
			return false;
		address += ahead->reg[in->base];
	}
	if (in->index != LH_NONE) {
		if (!(ahead->known >> in->index & 1))
			return false;
		address += ahead->reg[in->index] << in->scale;
	}
	if (in->fs) {
		if (!ahead->has_fs)
			return false;
		address += ahead->fs;
	}
	*out = address;
	return true;
}

static bool place(const struct lh_ahead *ahead, const struct lh_ahead_instruction *in, unsigned size,
                  struct place *out)
{
	*out = in_register(in, in->rm, size);
	out->memory = in->memory;
	return !in->memory || lh__ahead_address(ahead, in, &out->address);
}

static bool get(struct lh_ahead *ahead, const struct place *from, struct lh_ahead_value *out)
{
	if (from->memory)
		return lh__ahead_load(ahead, from->address, from->size, out);
	*out = lh__ahead_get(ahead, from->reg, from->size);
	return true;
}

static bool put(struct lh_ahead *ahead, const struct place *to, struct lh_ahead_value value)
{
	if (to->memory)
		return lh__ahead_store(ahead, to->address, to->size, value);
	lh__ahead_set(ahead, to->reg, to->size, value);
	return true;
}

static bool push(struct lh_ahead *ahead, struct lh_ahead_value value)
{
	if (!(ahead->known >> LH_RSP & 1))
		return false;
	ahead->reg[LH_RSP] -= 8;
	return lh__ahead_store(ahead, ahead->reg[LH_RSP], 8, value);
}

static bool pop(struct lh_ahead *ahead, struct lh_ahead_value *value)
{
	if (!(ahead->known >> LH_RSP & 1) || !lh__ahead_load(ahead, ahead->reg[LH_RSP], 8, value))
		return false;
	ahead->reg[LH_RSP] += 8;
	return true;
}

static bool jump(struct lh_ahead *ahead, struct lh_ahead_value to)
{
	ahead->pc = to.bits;
	return to.known;
}

/* ---- flags ---- */

/* Those of `changed` become bits; of these, those of `defined` are known. */
static void set_flags(struct lh_ahead *ahead, uint32_t changed, uint32_t defined, uint64_t bits)
{
	ahead->flags = (ahead->flags & ~(uint64_t)changed) | (bits & changed);
	ahead->flags_known = (ahead->flags_known & ~changed) | (defined & changed);
}

static uint64_t flags_of(uint64_t result, unsigned size)
{
	result = cut(result, size);
	return (result == 0 ? LH_ZF : 0) | (result & top(size) ? LH_SF : 0) |
	       (0x6996u >> ((result ^ result >> 4) & 15) & 1 ? 0 : LH_PF);
}

/* 1 or 0; -1: not known. code is the low four bits of a conditional jump. */
static int condition(const struct lh_ahead *ahead, unsigned code)
{
	static const uint16_t needs[] = { LH_OF, LH_CF, LH_ZF,         LH_CF | LH_ZF,
		                          LH_SF, LH_PF, LH_SF | LH_OF, LH_SF | LH_OF | LH_ZF };
	uint64_t flags = ahead->flags;
	bool less = !(flags & LH_SF) != !(flags & LH_OF), holds;

	if ((ahead->flags_known & needs[code >> 1]) != needs[code >> 1])
		return -1;
	switch (code >> 1) {
	case 6: holds = less; break;
	case 7: holds = less || flags & LH_ZF; break;
	default: holds = flags & needs[code >> 1]; break;
	}
	return holds != (code & 1);
}

/* ---- arithmetic ---- */

enum { ADD, OR, ADC, SBB, AND, SUB, XOR, CMP };

static struct lh_ahead_value arithmetic(struct lh_ahead *ahead, unsigned kind, struct lh_ahead_value a,
                                        struct lh_ahead_value b, unsigned size)
{
	bool carries = kind == ADC || kind == SBB, is_known = a.known && b.known;
	uint64_t carry = carries && ahead->flags & LH_CF, x = cut(a.bits, size), y = cut(b.bits, size);
	uint64_t result, bits = 0;

	if (carries && !(ahead->flags_known & LH_CF))
		is_known = false;
	switch (kind) {
	case ADD:
	case ADC:
		result = cut(x + y + carry, size);
		bits = (result < x || (carry && result == x) ? LH_CF : 0) |
		       ((x ^ result) & (y ^ result) & top(size) ? LH_OF : 0) | ((x ^ y ^ result) & LH_AF);
		break;
	case SBB:
	case SUB:
	case CMP:
		result = cut(x - y - carry, size);
		bits = (x < y || (carry && x == y) ? LH_CF : 0) |
		       ((x ^ y) & (x ^ result) & top(size) ? LH_OF : 0) | ((x ^ y ^ result) & LH_AF);
		break;
	case OR: result = x | y; break;
	case AND: result = x & y; break;
	default: result = x ^ y; break;
	}
	set_flags(ahead, LH_STATUS,
	          !is_known                                  ? 0
	          : kind == OR || kind == AND || kind == XOR ? LH_STATUS & ~LH_AF
	                                                     : LH_STATUS,
	          bits | flags_of(result, size));
	return (struct lh_ahead_value){ result, is_known };
}

/* to = to KIND from; a register with itself is known to give zero. */
static bool operate(struct lh_ahead *ahead, unsigned kind, const struct place *to, const struct place *from,
                    struct lh_ahead_value b)
{
	struct lh_ahead_value a;

	if (!get(ahead, to, &a))
		return false;
	if (from && (kind == XOR || kind == SUB) && !to->memory && !from->memory && to->reg == from->reg)
		a = b = known(0);
	a = arithmetic(ahead, kind, a, b, to->size);
	return kind == CMP || put(ahead, to, a);
}

/* 00..3d: the eight operations, each in six forms. */
static bool run_arithmetic(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned form = in->op & 7, kind = in->op >> 3, size = size_of(in, !(form & 1));
	struct place memory, reg = in_register(in, in->reg, size), *to = &memory, *from = &reg;
	struct lh_ahead_value b;

	if (form >= 4) {
		reg = in_register(in, LH_RAX, size);
		return operate(ahead, kind, &reg, NULL, known((uint64_t)in->immediate));
	}
	if (!place(ahead, in, size, &memory))
		return false;
	if (form >= 2) {
		to = &reg;
		from = &memory;
	}
	return get(ahead, from, &b) && operate(ahead, kind, to, from, b);
}

/* fe, ff: inc and dec leave the carry alone. */
static bool step(struct lh_ahead *ahead, const struct place *at, bool down)
{
	uint64_t carry = ahead->flags & LH_CF;
	uint32_t carry_known = ahead->flags_known & LH_CF;

	if (!operate(ahead, down ? SUB : ADD, at, NULL, known(1)))
		return false;
	set_flags(ahead, LH_CF, carry_known, carry);
	return true;
}

static bool test(struct lh_ahead *ahead, struct lh_ahead_value a, struct lh_ahead_value b, unsigned size)
{
	(void)arithmetic(ahead, AND, a, b, size);
	return true;
}

/* ---- shifts ---- */

static uint64_t rotated(uint64_t bits, unsigned by, unsigned width, bool left)
{
	by %= width;
	if (by == 0)
		return bits;
	if (!left)
		by = width - by;
	return cut(bits << by | bits >> (width - by), width / 8);
}

static struct lh_ahead_value rotate(struct lh_ahead *ahead, struct lh_ahead_value value, unsigned by,
                                    unsigned size, bool left)
{
	uint64_t result = rotated(value.bits, by, size * 8, left);
	bool high = result & top(size), low = result & 1, next = result & top(size) >> 1;
	uint64_t bits = (left ? low : high) ? LH_CF : 0;

	bits |= (left ? high != low : high != next) ? LH_OF : 0;
	set_flags(ahead, LH_CF | LH_OF, !value.known ? 0 : by == 1 ? LH_CF | LH_OF : LH_CF, bits);
	return (struct lh_ahead_value){ result, value.known };
}

enum { ROL, ROR, RCL, RCR, SHL, SHR, SAL, SAR };

static struct lh_ahead_value shifted(struct lh_ahead *ahead, unsigned kind, struct lh_ahead_value value,
                                     unsigned by, unsigned size)
{
	unsigned width = size * 8;
	uint32_t defined = LH_STATUS & ~LH_AF & ~(by == 1 ? 0u : (uint32_t)LH_OF);
	uint64_t bits = value.bits, result, carry;
	bool overflow;

	if (kind == SAR) {
		int64_t wide = extend(bits, size);

		carry = (uint64_t)(wide >> (by - 1)) & 1;
		result = (uint64_t)(wide >> by);
		overflow = false;
	} else if (kind == SHR) {
		carry = bits >> (by - 1) & 1;
		result = bits >> by;
		overflow = bits & top(size);
	} else {
		carry = by <= width ? bits >> (width - by) & 1 : 0;
		result = bits << by;
		overflow = !(result & top(size)) != !carry;
	}
	if (by >= width)
		defined &= ~(uint32_t)LH_CF;
	result = cut(result, size);
	set_flags(ahead, LH_STATUS, value.known ? defined : 0,
	          (carry ? LH_CF : 0) | (overflow ? LH_OF : 0) | flags_of(result, size));
	return (struct lh_ahead_value){ result, value.known };
}

/* c0, c1, d0..d3 */
static bool run_shift(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, !(in->op & 1)), kind = in->reg & 7, by;
	struct lh_ahead_value value, count = known((uint64_t)in->immediate);
	struct place at;

	if (in->op >= 0xd0)
		count = in->op & 2 ? lh__ahead_get(ahead, LH_RCX, 1) : known(1);
	if (kind == RCL || kind == RCR || !place(ahead, in, size, &at) || !get(ahead, &at, &value))
		return false;
	if (!count.known) {
		set_flags(ahead, LH_STATUS, 0, 0);
		value.known = false;
		return put(ahead, &at, value);
	}
	by = (unsigned)count.bits & (size == 8 ? 63 : 31);
	if (by == 0)
		return put(ahead, &at, value);
	if (kind == ROL || kind == ROR)
		value = rotate(ahead, value, by, size, kind == ROL);
	else
		value = shifted(ahead, kind, value, by, size);
	return put(ahead, &at, value);
}

/* 0f a4, a5, ac, ad: a shift that fills up from a second register */
static bool run_double_shift(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, false), width = size * 8, by;
	struct lh_ahead_value count =
		in->op & 1 ? lh__ahead_get(ahead, LH_RCX, 1) : known((uint64_t)in->immediate);
	struct lh_ahead_value fill = lh__ahead_get(ahead, in->reg, size), value;
	bool left = in->op < 0xa8;
	struct place at;
	uint64_t bits;

	if (size == 2 || !count.known || !place(ahead, in, size, &at) || !get(ahead, &at, &value))
		return false;
	by = (unsigned)count.bits & (width - 1);
	if (by == 0)
		return put(ahead, &at, value);
	bits = value.bits;
	value.known &= fill.known;
	value.bits =
		cut(left ? bits << by | fill.bits >> (width - by) : bits >> by | fill.bits << (width - by),
	            size);
	set_flags(ahead, LH_STATUS, value.known ? LH_STATUS & ~LH_AF & ~LH_OF : 0,
	          (bits >> (left ? width - by : by - 1) & 1 ? LH_CF : 0) | flags_of(value.bits, size));
	return put(ahead, &at, value);
}

/* ---- multiplying and dividing ---- */

static struct lh_ahead_value product(struct lh_ahead *ahead, struct lh_ahead_value a, struct lh_ahead_value b,
                                     unsigned size)
{
	__int128 whole = (__int128)extend(a.bits, size) * extend(b.bits, size);
	uint64_t result = cut((uint64_t)whole, size);
	bool is_known = a.known && b.known, over = whole != (__int128)extend(result, size);

	set_flags(ahead, LH_STATUS, is_known ? LH_CF | LH_OF : 0, over ? LH_CF | LH_OF : 0);
	return (struct lh_ahead_value){ result, is_known };
}

/* f7 /4, /5: into rdx and rax */
static bool multiply(struct lh_ahead *ahead, struct lh_ahead_value value, unsigned size, bool is_signed)
{
	struct lh_ahead_value a = lh__ahead_get(ahead, LH_RAX, size), low, high;
	bool is_known = a.known && value.known, over;
	unsigned __int128 whole = (unsigned __int128)a.bits * value.bits;

	if (size == 1)
		return false;
	if (is_signed)
		whole = (unsigned __int128)((__int128)extend(a.bits, size) * extend(value.bits, size));
	low = (struct lh_ahead_value){ cut((uint64_t)whole, size), is_known };
	high = (struct lh_ahead_value){ cut((uint64_t)(whole >> (size * 8)), size), is_known };
	over = is_signed ? extend(high.bits, size) != extend(low.bits, size) >> 63 : high.bits != 0;
	lh__ahead_set(ahead, LH_RAX, size, low);
	lh__ahead_set(ahead, LH_RDX, size, high);
	set_flags(ahead, LH_STATUS, is_known ? LH_CF | LH_OF : 0, over ? LH_CF | LH_OF : 0);
	return true;
}

static bool quotient_unsigned(uint64_t high, uint64_t low, uint64_t by, unsigned size, uint64_t *quotient,
                              uint64_t *rest)
{
	if (by == 0 || high >= by)
		return false;
	if (size == 8) {
		__asm__("divq %4" : "=a"(*quotient), "=d"(*rest) : "0"(low), "1"(high), "rm"(by) : "cc");
		return true;
	}
	low |= high << (size * 8);
	*quotient = low / by;
	*rest = low % by;
	return true;
}

/* What does not fit its quotient is a fault. */
static bool quotient_signed(uint64_t high, uint64_t low, uint64_t by, unsigned size, uint64_t *quotient,
                            uint64_t *rest)
{
	int64_t value = (int64_t)low, divisor = extend(by, size), result;

	if (size < 8)
		value = extend(low | high << (size * 8), size * 2);
	else if ((int64_t)high != value >> 63)
		return false;
	if (divisor == 0 || (divisor == -1 && value == INT64_MIN))
		return false;
	result = value / divisor;
	*quotient = (uint64_t)result;
	*rest = (uint64_t)(value % divisor);
	return extend((uint64_t)result, size) == result;
}

static bool divide(struct lh_ahead *ahead, struct lh_ahead_value by, unsigned size, bool is_signed)
{
	struct lh_ahead_value low = lh__ahead_get(ahead, LH_RAX, size),
			      high = lh__ahead_get(ahead, LH_RDX, size);
	uint64_t quotient, rest;

	if (size == 1 || !by.known || !low.known || !high.known)
		return false;
	if (is_signed ? !quotient_signed(high.bits, low.bits, by.bits, size, &quotient, &rest)
	              : !quotient_unsigned(high.bits, low.bits, by.bits, size, &quotient, &rest))
		return false;
	lh__ahead_set(ahead, LH_RAX, size, known(quotient));
	lh__ahead_set(ahead, LH_RDX, size, known(rest));
	set_flags(ahead, LH_STATUS, 0, 0);
	return true;
}

/* f6, f7 */
static bool run_group3(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, !(in->op & 1));
	struct lh_ahead_value value;
	struct place at;

	if (!place(ahead, in, size, &at) || !get(ahead, &at, &value))
		return false;
	switch (in->reg & 7) {
	case 2: value.bits = ~value.bits; return put(ahead, &at, value);
	case 3: return put(ahead, &at, arithmetic(ahead, SUB, known(0), value, size));
	case 4: return multiply(ahead, value, size, false);
	case 5: return multiply(ahead, value, size, true);
	case 6: return divide(ahead, value, size, false);
	case 7: return divide(ahead, value, size, true);
	default: return test(ahead, value, known((uint64_t)in->immediate), size);
	}
}

/* ff and fe */
static bool run_group5(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned kind = in->reg & 7, size = kind >= 2 ? 8 : size_of(in, !(in->op & 1));
	struct lh_ahead_value value;
	struct place at;

	if ((kind >= 2 && (in->op == 0xfe || in->narrow)) || !place(ahead, in, size, &at))
		return false;
	if (kind < 2)
		return step(ahead, &at, kind == 1);
	if (!get(ahead, &at, &value))
		return false;
	switch (kind) {
	case 2: return push(ahead, known(ahead->pc)) && jump(ahead, value);
	case 4: return jump(ahead, value);
	case 6: return push(ahead, value);
	default: return false;
	}
}

/* ---- bits ---- */

enum { BT = 4, BTS, BTR, BTC };

static bool bit_test(struct lh_ahead *ahead, const struct lh_ahead_instruction *in, unsigned kind,
                     struct lh_ahead_value which)
{
	unsigned size = size_of(in, false), by = (unsigned)which.bits & (size * 8 - 1);
	struct lh_ahead_value value;
	struct place at;

	if (!place(ahead, in, size, &at) || !get(ahead, &at, &value))
		return false;
	value.known &= which.known;
	set_flags(ahead, LH_STATUS & ~LH_ZF, value.known ? LH_CF : 0, value.bits >> by & 1 ? LH_CF : 0);
	switch (kind) {
	case BT: return true;
	case BTS: value.bits |= 1ull << by; break;
	case BTR: value.bits &= ~(1ull << by); break;
	case BTC: value.bits ^= 1ull << by; break;
	default: return false;
	}
	return put(ahead, &at, value);
}

/*
 * bc, bd, and b8 with f3. Of a zero nothing is known. f3 bc is tzcnt or bsf, by the processor: flags differ;
 * f3 bd is lzcnt or bsr, which differ in all.
 */
static bool run_scan(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, false);
	struct lh_ahead_value value, result = { 0, false };
	bool count = in->op == 0xb8, nonzero;
	struct place at;

	if (in->repeat == 0xf2 || (in->repeat && in->op == 0xbd) || (count && !in->repeat) ||
	    !place(ahead, in, size, &at) || !get(ahead, &at, &value))
		return false;
	nonzero = value.known && value.bits != 0;
	if (count) {
		uint64_t bits = value.bits;

		for (result.bits = 0; bits; bits &= bits - 1)
			result.bits++;
		result.known = value.known;
		set_flags(ahead, LH_STATUS, value.known ? LH_STATUS : 0, value.bits ? 0 : LH_ZF);
	} else {
		result.known = nonzero;
		if (nonzero)
			result.bits = in->op == 0xbc ? (uint64_t)__builtin_ctzll(value.bits)
			                             : 63 - (uint64_t)__builtin_clzll(value.bits);
		set_flags(ahead, LH_STATUS, value.known && !in->repeat ? LH_ZF : 0, nonzero ? 0 : LH_ZF);
	}
	lh__ahead_set(ahead, in->reg, size, result);
	if (!result.known) /* of a zero the register may stay as it was */
		ahead->known &= ~(1u << in->reg);
	return true;
}

/* ---- strings ---- */

/* a4, a5, aa, ab: movs and stos, forwards, a few of them */
static bool run_string(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, !(in->op & 1));
	uint64_t times = 1, *to = &ahead->reg[LH_RDI], *from = &ahead->reg[LH_RSI];
	uint32_t needed = 1u << LH_RDI | (in->op < 0xa8 ? 1u << LH_RSI : 0) | (in->repeat ? 1u << LH_RCX : 0);
	struct lh_ahead_value value = lh__ahead_get(ahead, LH_RAX, size);

	if (in->fs || !(ahead->flags_known & LH_DF) || ahead->flags & LH_DF ||
	    (ahead->known & needed) != needed)
		return false;
	if (in->repeat)
		times = ahead->reg[LH_RCX];
	if (times > STRING_MOST)
		return false;
	for (; times > 0; times--) {
		if (in->op < 0xa8 && !lh__ahead_load(ahead, *from, size, &value))
			return false;
		if (!lh__ahead_store(ahead, *to, size, value))
			return false;
		*to += size;
		if (in->op < 0xa8)
			*from += size;
	}
	if (in->repeat)
		ahead->reg[LH_RCX] = 0;
	return true;
}

/* ---- moves ---- */

/* 63, 0f b6, b7, be, bf */
static bool widen(struct lh_ahead *ahead, const struct lh_ahead_instruction *in, unsigned from,
                  bool is_signed)
{
	struct lh_ahead_value value;
	struct place at;

	if (!place(ahead, in, from, &at) || !get(ahead, &at, &value))
		return false;
	if (is_signed)
		value.bits = (uint64_t)extend(value.bits, from);
	lh__ahead_set(ahead, in->reg, size_of(in, false), value);
	return true;
}

/* 88..8b, c6, c7 */
static bool run_move(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, !(in->op & 1));
	struct place at, reg = in_register(in, in->reg, size);
	struct lh_ahead_value value;

	if (!place(ahead, in, size, &at))
		return false;
	if (in->op >= 0xc6)
		return (in->reg & 7) == 0 && put(ahead, &at, known((uint64_t)in->immediate));
	return in->op & 2 ? get(ahead, &at, &value) && put(ahead, &reg, value)
	                  : get(ahead, &reg, &value) && put(ahead, &at, value);
}

static bool exchange(struct lh_ahead *ahead, unsigned a, unsigned b, unsigned size)
{
	struct lh_ahead_value value = lh__ahead_get(ahead, a, size);

	lh__ahead_set(ahead, a, size, lh__ahead_get(ahead, b, size));
	lh__ahead_set(ahead, b, size, value);
	return true;
}

static bool run_lea(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	struct lh_ahead_value value = { 0, false };

	if (!in->memory || in->fs)
		return false;
	value.known = lh__ahead_address(ahead, in, &value.bits);
	lh__ahead_set(ahead, in->reg, size_of(in, false), value);
	return true;
}

/* 98: the lower half of rax into all of it; 99: its sign into rdx */
static bool run_sign(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, false);
	struct lh_ahead_value value = lh__ahead_get(ahead, LH_RAX, in->op == 0x98 ? size / 2 : size);

	value.bits = (uint64_t)extend(value.bits, in->op == 0x98 ? size / 2 : size);
	if (in->op == 0x99)
		value.bits = (uint64_t)((int64_t)value.bits >> 63);
	lh__ahead_set(ahead, in->op == 0x98 ? LH_RAX : LH_RDX, size, value);
	return true;
}

/* ---- the tables of opcodes ---- */

static bool branch(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	int taken = condition(ahead, in->op & 15);

	if (taken == 1)
		ahead->pc += (uint64_t)in->immediate;
	return taken >= 0;
}

static bool run_flow(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	struct lh_ahead_value value;

	if (in->narrow && !in->wide)
		return false;
	switch (in->op) {
	case 0xe8:
		if (!push(ahead, known(ahead->pc)))
			return false;
		ahead->pc += (uint64_t)in->immediate;
		return true;
	case 0xe9:
	case 0xeb: ahead->pc += (uint64_t)in->immediate; return true;
	case 0xc2:
	case 0xc3:
		if (!pop(ahead, &value))
			return false;
		ahead->reg[LH_RSP] += (uint64_t)in->immediate;
		return jump(ahead, value);
	default: return branch(ahead, in);
	}
}

static bool run_stack(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	struct lh_ahead_value value;

	if (in->narrow)
		return false;
	switch (in->op) {
	case 0x68:
	case 0x6a: return push(ahead, known((uint64_t)in->immediate));
	case 0xc9: /* leave */
		value = lh__ahead_get(ahead, LH_RBP, 8);
		lh__ahead_set(ahead, LH_RSP, 8, value);
		if (!pop(ahead, &value))
			return false;
		lh__ahead_set(ahead, LH_RBP, 8, value);
		return true;
	default:
		if (in->op < 0x58)
			return push(ahead, lh__ahead_get(ahead, in->rm, 8));
		if (!pop(ahead, &value))
			return false;
		lh__ahead_set(ahead, in->rm, 8, value);
		return true;
	}
}

static bool run_multiply(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, false);
	struct lh_ahead_value value, other = known((uint64_t)in->immediate);
	struct place at;

	if (!place(ahead, in, size, &at) || !get(ahead, &at, &value))
		return false;
	if (in->map == 1)
		other = lh__ahead_get(ahead, in->reg, size);
	lh__ahead_set(ahead, in->reg, size, product(ahead, value, other, size));
	return true;
}

static bool run_immediate(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	struct place at;

	return place(ahead, in, size_of(in, !(in->op & 1)), &at) &&
	       operate(ahead, in->reg & 7, &at, NULL, known((uint64_t)in->immediate));
}

static bool run_test(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, !(in->op & 1));
	struct lh_ahead_value value;
	struct place at;

	if (in->op >= 0xa8)
		return test(ahead, lh__ahead_get(ahead, LH_RAX, size), known((uint64_t)in->immediate), size);
	return place(ahead, in, size, &at) && get(ahead, &at, &value) &&
	       test(ahead, value, lh__ahead_get(ahead, numbered(in, in->reg, size), size), size);
}

static bool run_move_immediate(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, in->op < 0xb8);

	lh__ahead_set(ahead, numbered(in, in->rm, size), size, known((uint64_t)in->immediate));
	return true;
}

/* 86, 87: with memory it is atomic. 90: nop, and with f3 pause. */
static bool run_exchange(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, in->op == 0x86);

	if (in->op < 0x90)
		return !in->memory &&
		       exchange(ahead, numbered(in, in->reg, size), numbered(in, in->rm, size), size);
	return in->rm == LH_RAX || (in->op == 0x90 && in->repeat == 0xf3) ||
	       exchange(ahead, LH_RAX, in->rm, size);
}

/* What the decoder passes and is not named here are shifts. */
static bool run_one_byte(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	switch (in->op) {
	case 0x00 ... 0x3f: return run_arithmetic(ahead, in);
	case 0x50 ... 0x5f:
	case 0x68:
	case 0x6a:
	case 0xc9: return run_stack(ahead, in);
	case 0x63: return widen(ahead, in, in->wide ? 4 : size_of(in, false), true);
	case 0x69:
	case 0x6b: return run_multiply(ahead, in);
	case 0x70 ... 0x7f:
	case 0xc2:
	case 0xc3:
	case 0xe8:
	case 0xe9:
	case 0xeb: return run_flow(ahead, in);
	case 0x80 ... 0x83: return run_immediate(ahead, in);
	case 0x84:
	case 0x85:
	case 0xa8:
	case 0xa9: return run_test(ahead, in);
	case 0x86:
	case 0x87:
	case 0x90 ... 0x97: return run_exchange(ahead, in);
	case 0x88 ... 0x8b:
	case 0xc6:
	case 0xc7: return run_move(ahead, in);
	case 0x8d: return run_lea(ahead, in);
	case 0x98:
	case 0x99: return run_sign(ahead, in);
	case 0xa4:
	case 0xa5:
	case 0xaa:
	case 0xab: return run_string(ahead, in);
	case 0xb0 ... 0xbf: return run_move_immediate(ahead, in);
	case 0xf5: ahead->flags ^= LH_CF; return true;
	case 0xf8: set_flags(ahead, LH_CF, LH_CF, 0); return true;
	case 0xf9: set_flags(ahead, LH_CF, LH_CF, LH_CF); return true;
	case 0xfc: set_flags(ahead, LH_DF, LH_DF, 0); return true;
	case 0xf6:
	case 0xf7: return run_group3(ahead, in);
	case 0xfe:
	case 0xff: return run_group5(ahead, in);
	default: return run_shift(ahead, in);
	}
}

/* Conditional moves read their memory either way; of 4 bytes the upper half is cleared either way. */
static bool run_conditional(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	int taken = condition(ahead, in->op & 15);
	bool sets = in->op >= 0x90;
	unsigned size = size_of(in, sets);
	struct lh_ahead_value value;
	struct place at;

	if (!place(ahead, in, size, &at))
		return false;
	if (sets)
		return put(ahead, &at, (struct lh_ahead_value){ taken == 1, taken >= 0 });
	if (!get(ahead, &at, &value))
		return false;
	if (taken == 0)
		value = lh__ahead_get(ahead, in->reg, size);
	value.known &= taken >= 0;
	lh__ahead_set(ahead, in->reg, size, value);
	return true;
}

/* 0d, 18, 1e, 1f: hints; but f3 1e may read the shadow stack's pointer. ae: fences alone. */
static bool run_hint(const struct lh_ahead_instruction *in)
{
	if (in->op == 0xae)
		return !in->memory && !in->repeat && !in->narrow && (in->reg & 7) >= 5;
	return in->memory || in->op == 0x1f || (in->op == 0x1e && (!in->repeat || (in->reg & 7) == 7));
}

static bool run_swap(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, false);
	struct lh_ahead_value value = lh__ahead_get(ahead, in->rm, size);

	if (size == 2)
		return false;
	value.bits = size == 8 ? __builtin_bswap64(value.bits) : __builtin_bswap32((uint32_t)value.bits);
	lh__ahead_set(ahead, in->rm, size, value);
	return true;
}

static bool run_two_byte(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	unsigned size = size_of(in, false);
	struct lh_ahead_value value;
	struct place at;

	switch (in->op) {
	case 0x40 ... 0x4f:
	case 0x90 ... 0x9f: return run_conditional(ahead, in);
	case 0x80 ... 0x8f: return run_flow(ahead, in);
	case 0x0d:
	case 0x18:
	case 0x1e:
	case 0x1f:
	case 0xae: return run_hint(in);
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xbb: /* with memory, the register may name any bit there */
		return !in->memory &&
		       bit_test(ahead, in, in->op >> 3 & 7, lh__ahead_get(ahead, in->reg, size));
	case 0xba: return bit_test(ahead, in, in->reg & 7, known((uint64_t)in->immediate));
	case 0xa4:
	case 0xa5:
	case 0xac:
	case 0xad: return run_double_shift(ahead, in);
	case 0xaf: return run_multiply(ahead, in);
	case 0xb6:
	case 0xb7: return widen(ahead, in, in->op & 1 ? 2 : 1, false);
	case 0xbe:
	case 0xbf: return widen(ahead, in, in->op & 1 ? 2 : 1, true);
	case 0xb8:
	case 0xbc:
	case 0xbd: return run_scan(ahead, in);
	case 0xc3:
		value = lh__ahead_get(ahead, in->reg, size);
		return in->memory && place(ahead, in, size, &at) && put(ahead, &at, value);
	case 0xc8 ... 0xcf: return run_swap(ahead, in);
	default: return lh__ahead_run_vector(ahead, in);
	}
}

bool lh__ahead_run(struct lh_ahead *ahead, const struct lh_ahead_instruction *in)
{
	ahead->pc += in->length;
	if (in->map == 0)
		return run_one_byte(ahead, in);
	return in->map == 1 ? run_two_byte(ahead, in) : lh__ahead_run_vector(ahead, in);
}
