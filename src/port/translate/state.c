/*
 * state.c - a client's call that looks at all of the program's registers (lh__emit_call_state).
 *
 * Vector registers are in the context then, as xsave writes them: each in up to three places, by its lowest
 * 16 bytes, the 16 above, and the upper half. Here they are put together.
 */
#include "port/translate/inside.h"

#include <string.h>

#define X87_REGISTERS 32u /* in the area: 16 bytes each */
#define X87_STATUS 2u
#define SSE_REGISTERS 160u

enum { AVX = 2, OPMASK = 5, UPPER_HALVES = 6, UPPER_REGISTERS = 7, TILE_CONFIG = 17, TILES = 18 };

struct registers {
	uint8_t vector[32][64];
	uint64_t mask[8], mmx[8];
	uint8_t tiles[64];
};

/* Components that are as after a reset, if the processor says so. */
static uint64_t unused(const struct lh_translator *translator)
{
	unsigned low, high;

	if (!translator->in_use)
		return 0;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
	return ~((uint64_t)high << 32 | low);
}

static bool has(const struct lh_translator *translator, unsigned component)
{
	return translator->xsave && translator->layout.enabled >> component & 1;
}

static void gather_vectors(const struct lh_translated_thread *thread, struct registers *registers)
{
	const struct lh_translator *translator = thread->translator;
	const uint32_t *offset = translator->layout.offset;

	for (unsigned i = 0; i < 16; i++) {
		memcpy(registers->vector[i], thread->vector + SSE_REGISTERS + 16 * i, 16);
		if (has(translator, AVX))
			memcpy(registers->vector[i] + 16, thread->vector + offset[AVX] + 16 * i, 16);
		if (has(translator, UPPER_HALVES))
			memcpy(registers->vector[i] + 32, thread->vector + offset[UPPER_HALVES] + 32 * i, 32);
		if (has(translator, UPPER_REGISTERS))
			memcpy(registers->vector[16 + i], thread->vector + offset[UPPER_REGISTERS] + 64 * i,
			       64);
	}
	if (has(translator, OPMASK))
		memcpy(registers->mask, thread->vector + offset[OPMASK], sizeof(registers->mask));
}

/* The area has the x87 registers from the top of their stack on. */
static void gather_mmx(const struct lh_translated_thread *thread, struct registers *registers)
{
	unsigned top = thread->vector[X87_STATUS + 1] >> 3 & 7;

	for (unsigned i = 0; i < 8; i++)
		memcpy(&registers->mmx[i], thread->vector + X87_REGISTERS + 16 * ((i - top) & 7), 8);
}

static void gather_tiles(const struct lh_translated_thread *thread, struct registers *registers)
{
	if (!has(thread->translator, TILE_CONFIG) || !has(thread->translator, TILES))
		return;
	/* sttilecfg (%rdi), which assemblers may not know */
	__asm__ volatile(".byte 0xc4, 0xe2, 0x79, 0x49, 0x07" : : "D"(registers->tiles) : "memory");
}

void lh__translate_state_out(struct lh_translated_thread *thread)
{
	uint64_t as_reset = unused(thread->translator);
	void (*function)(void *own, const struct lh_access_state *state, uint64_t constant) =
		(void (*)(void *, const struct lh_access_state *, uint64_t))(uintptr_t)thread->call[0];
	struct registers registers __attribute__((aligned(64)));
	struct lh_access_state state;

	lh__vectors_save(thread);
	memset(&registers, 0, sizeof(registers));
	memset(&state, 0, sizeof(state));
	gather_vectors(thread, &registers);
	gather_mmx(thread, &registers);
	if (thread->call[4])
		gather_tiles(thread, &registers);
	memcpy(state.general, thread->general, sizeof(state.general));
	state.next = thread->call[3];
	state.flags = ((const uint64_t *)thread->stack)[-1];
	state.fs = lh__thread_fs(thread->translator);
	state.vector = registers.vector;
	state.mask = registers.mask;
	state.mmx = registers.mmx;
	state.tiles = registers.tiles;
	state.layout = &thread->translator->layout;
	state.unused = as_reset;
	function(thread->own, &state, thread->call[2]);
	lh__vectors_restore(thread);
	thread->resume = thread->call[1];
	thread->boundary = false;
}
