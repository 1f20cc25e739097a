/*
 * code_opcodes.h - instructions of all opcodes: legacy, VEX and EVEX maps with every opcode, mandatory prefix
 * and width, the rest of their bytes drawn. Most do not decode; that is the caller's to find out.
 */
#ifndef CODE_OPCODES_H
#define CODE_OPCODES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static uint64_t opcodes_seed = 88172645463325252ull;

static uint64_t draw(void)
{
	opcodes_seed ^= opcodes_seed << 13;
	opcodes_seed ^= opcodes_seed >> 7;
	opcodes_seed ^= opcodes_seed << 17;
	return opcodes_seed;
}

static uint64_t below(uint64_t n)
{
	return draw() % n;
}

struct opcodes {
	unsigned registers; /* of a hundred operands so many are registers, not memory */
	/* false: no more */
	bool (*found)(void *context, const uint8_t code[16]);
	void *context;
};

static void opcodes_operand(const struct opcodes *opcodes, uint8_t *at)
{
	unsigned mod = below(100) < opcodes->registers ? 3 : (unsigned)below(3);
	unsigned rm = mod < 3 && below(2) ? 4 : (unsigned)below(8), used = 0;
	unsigned sib = (unsigned)below(256), size = 0;

	at[used++] = (uint8_t)(mod << 6 | below(8) << 3 | rm);
	if (mod < 3 && rm == 4)
		at[used++] = (uint8_t)sib;
	if (mod == 1)
		size = 1;
	else if (mod == 2 || (mod == 0 && (rm == 5 || (rm == 4 && (sib & 7) == 5))))
		size = 4;
	if (size == 4)
		memcpy(at + used, &(int32_t){ (int32_t)below(512) - 256 }, 4);
	else if (size == 1)
		at[used] = (uint8_t)draw();
	used += size;
	for (unsigned i = 0; i < 4; i++)
		at[used + i] = (uint8_t)draw(); /* immediates */
}

static unsigned opcodes_prefixes(uint8_t *at)
{
	unsigned used = 0;

	if (below(8) == 0)
		at[used++] = 0x67;
	if (below(12) == 0)
		at[used++] = below(2) ? 0x64 : 0x65;
	return used;
}

static bool opcodes_legacy(const struct opcodes *opcodes, unsigned map, unsigned opcode, unsigned prefix,
                           bool wide)
{
	static const uint8_t prefixes[] = { 0, 0x66, 0xf2, 0xf3 };
	uint8_t code[32] = { 0 };
	unsigned used = opcodes_prefixes(code);

	if (below(24) == 0)
		code[used++] = 0xf0;
	if (prefixes[prefix])
		code[used++] = prefixes[prefix];
	if (wide || below(2))
		code[used++] = (uint8_t)(0x40 | (wide ? 8u : 0) | below(8));
	if (map > 0)
		code[used++] = 0x0f;
	if (map > 1)
		code[used++] = map == 2 ? 0x38 : 0x3a;
	code[used++] = (uint8_t)opcode;
	opcodes_operand(opcodes, code + used);
	return opcodes->found(opcodes->context, code);
}

static bool opcodes_vex(const struct opcodes *opcodes, unsigned map, unsigned opcode, unsigned prefix,
                        unsigned w)
{
	uint8_t code[32] = { 0 };
	unsigned used = opcodes_prefixes(code), vvvv = below(2) ? 15 : (unsigned)below(16);

	code[used++] = 0xc4;
	code[used++] = (uint8_t)(below(8) << 5 | map);
	code[used++] = (uint8_t)(w << 7 | vvvv << 3 | below(2) << 2 | prefix);
	code[used++] = (uint8_t)opcode;
	opcodes_operand(opcodes, code + used);
	return opcodes->found(opcodes->context, code);
}

static bool opcodes_evex(const struct opcodes *opcodes, unsigned map, unsigned opcode, unsigned prefix,
                         unsigned w)
{
	uint8_t code[32] = { 0 };
	unsigned used = opcodes_prefixes(code), vvvv = below(2) ? 15 : (unsigned)below(16);
	unsigned mask = below(4) ? (unsigned)below(7) + 1 : 0, zeroing = mask && below(3) == 0;
	unsigned broadcast = below(3) == 0, high = below(4) != 0;

	code[used++] = 0x62;
	code[used++] = (uint8_t)(below(16) << 4 | map);
	code[used++] = (uint8_t)(w << 7 | vvvv << 3 | 4 | prefix);
	code[used++] = (uint8_t)(zeroing << 7 | below(3) << 5 | broadcast << 4 | high << 3 | mask);
	code[used++] = (uint8_t)opcode;
	opcodes_operand(opcodes, code + used);
	return opcodes->found(opcodes->context, code);
}

static bool opcodes_of(const struct opcodes *opcodes, unsigned opcode, unsigned prefix, unsigned w)
{
	bool more = true;

	for (unsigned map = 0; map < 4 && more; map++)
		more = opcodes_legacy(opcodes, map, opcode, prefix, w) &&
		       opcodes_legacy(opcodes, map, opcode, prefix, w);
	for (unsigned map = 1; map < 4 && more; map++)
		more = opcodes_vex(opcodes, map, opcode, prefix, w);
	for (unsigned map = 1; map < 7 && more; map++)
		more = map == 4 || opcodes_evex(opcodes, map, opcode, prefix, w);
	return more;
}

static void opcodes_all(const struct opcodes *opcodes)
{
	for (unsigned opcode = 0; opcode < 256; opcode++)
		for (unsigned prefix = 0; prefix < 4; prefix++)
			for (unsigned w = 0; w < 2; w++)
				if (!opcodes_of(opcodes, opcode, prefix, w))
					return;
}

#endif
