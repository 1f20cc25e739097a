/* encode.c - the few instructions that the translator itself writes (inside.h). */
#include "port/translate/encode.h"

#include <string.h>

enum { MOD_WIDE = 0x80, MOD_REGISTERS = 0xc0, RM_SIB = 4, SIB_NO_INDEX = 4, SIB_NO_BASE = 5 };

void lh__put(struct lh_emitter *emitter, const void *bytes, size_t size)
{
	if (size > (size_t)(emitter->end - emitter->at)) {
		emitter->full = true;
		return;
	}
	for (size_t i = 0; i < size; i++)
		emitter->at[i] = ((const uint8_t *)bytes)[i];
	emitter->at += size;
}

void lh__put_instruction(struct lh_emitter *emitter, const uint8_t bytes[LH_INSTRUCTION_ROOM],
                         unsigned length)
{
	if (emitter->end - emitter->at < (ptrdiff_t)LH_INSTRUCTION_ROOM) {
		emitter->full = true;
		return;
	}
	memcpy(emitter->at, bytes, LH_INSTRUCTION_ROOM);
	emitter->at += length;
}

void lh__put_bytes(struct lh_emitter *emitter, uint32_t bytes, unsigned count)
{
	if (emitter->end - emitter->at < 4) {
		emitter->full = true;
		return;
	}
	memcpy(emitter->at, &bytes, 4);
	emitter->at += count;
}

void lh__put_word(struct lh_emitter *emitter, uint32_t value)
{
	lh__put_bytes(emitter, value, 4);
}

void lh__put_nops(struct lh_emitter *emitter, unsigned ahead, unsigned size)
{
	static const uint32_t nop[] = { 0, 0x90, 0x9066, 0x001f0f, 0x00401f0f, 0x00441f0f };
	unsigned at = ((uintptr_t)emitter->at + ahead) & 7, count = at + size > 8 ? 8 - at : 0;

	lh__put_bytes(emitter, nop[count], count < 4 ? count : 4);
	if (count > 4)
		lh__put_bytes(emitter, 0, count - 4);
}

static unsigned rex(int reg, int index, int base)
{
	return 0x48u | (reg >= 8 ? 4u : 0) | (index >= 8 ? 2u : 0) | (base >= 8 ? 1u : 0);
}

void lh__put_memory(struct lh_emitter *emitter, unsigned op, int reg, int base, int index, unsigned scale,
                    int64_t displacement)
{
	unsigned shift = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
	unsigned field = (unsigned)(reg & 7) << 3;

	lh__put_bytes(emitter, rex(reg, index, base) | op << 8, 2);
	if (base >= 0 && index < 0 && (base & 7) != RM_SIB) {
		lh__put_bytes(emitter, MOD_WIDE | field | (unsigned)(base & 7), 1);
	} else {
		unsigned sib = shift << 6 | (index < 0 ? SIB_NO_INDEX : (unsigned)(index & 7)) << 3;

		lh__put_bytes(emitter, (base < 0 ? 0 : MOD_WIDE) | field | RM_SIB, 1);
		lh__put_bytes(emitter, sib | (base < 0 ? SIB_NO_BASE : (unsigned)(base & 7)), 1);
	}
	lh__put_word(emitter, (uint32_t)displacement);
}

void lh__put_gs(struct lh_emitter *emitter, unsigned op, int reg, size_t offset)
{
	lh__put_bytes(emitter, 0x65, 1);
	lh__put_memory(emitter, op, reg, -1, -1, 1, (int64_t)offset);
}

void lh__put_constant(struct lh_emitter *emitter, int reg, uint64_t value)
{
	unsigned low = (unsigned)(reg & 7);

	if (value <= UINT32_MAX) {
		if (reg >= 8)
			lh__put_bytes(emitter, 0x41, 1);
		lh__put_bytes(emitter, 0xb8 | low, 1);
		lh__put_word(emitter, (uint32_t)value);
	} else if (value == (uint64_t)(int32_t)value) {
		lh__put_bytes(emitter, rex(0, 0, reg) | 0xc700 | (MOD_REGISTERS | low) << 16, 3);
		lh__put_word(emitter, (uint32_t)value);
	} else {
		lh__put_bytes(emitter, rex(0, 0, reg) | (0xb8 | low) << 8, 2);
		lh__put(emitter, &value, 8);
	}
}

uint64_t *lh__put_literals(struct lh_emitter *emitter, unsigned count)
{
	uint64_t *value;

	if (emitter->literals == LITERALS) {
		emitter->full = true;
		return NULL;
	}
	value = emitter->literal[emitter->literals].value;
	emitter->literal[emitter->literals].site = emitter->at;
	emitter->literal[emitter->literals].count = count;
	emitter->literals++;
	lh__put_word(emitter, 0);
	return value;
}

void lh__put_literal(struct lh_emitter *emitter, uint64_t first, uint64_t second, unsigned count)
{
	uint64_t *value = lh__put_literals(emitter, count);

	if (!value)
		return;
	value[0] = first;
	value[1] = second;
}

void lh__put_stub(uint8_t *at, uint32_t number)
{
	const uint32_t word[] = { 0x2504c765, LH_T_EXIT, number, 0x2524ff65, LH_T_LEAVE };

	memcpy(at, word, STUB); /* movl $number, %gs:EXIT; jmp *%gs:LEAVE */
}

void lh__put_distance(uint8_t *site, const uint8_t *to)
{
	int32_t distance = (int32_t)(to - (site + 4));

	memcpy(site, &distance, 4);
}
