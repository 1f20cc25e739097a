/*
 * access_bytes.c - which bytes an access touches, given the values of registers (access.h).
 *
 * Every access is a list of runs. Of a plain one there is one; of the others a run for each element, those
 * joined that touch.
 */
#include "code/access.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "code/general.h"

/* A run that may still grow. */
struct runs {
	int (*found)(void *context, uint64_t address, uint64_t size);
	void *context;
	uint64_t address, size;
};

static int end_run(struct runs *runs)
{
	uint64_t size = runs->size;

	runs->size = 0;
	return size ? runs->found(runs->context, runs->address, size) : 0;
}

static int put(struct runs *runs, uint64_t address, uint64_t size)
{
	int result;

	if (runs->size && runs->address + runs->size == address) {
		runs->size += size;
		return 0;
	}
	result = end_run(runs);
	runs->address = address;
	runs->size = size;
	return result;
}

/* ---- addresses ---- */

static uint64_t value_of(const struct lh_access_state *state, ZydisRegister name)
{
	int general = lh__general(name);

	if (general < 0)
		return name == ZYDIS_REGISTER_RIP || name == ZYDIS_REGISTER_EIP ? state->next : 0;
	if (name < ZYDIS_REGISTER_AX)
		return state->general[general] & 0xff; /* al, of xlat */
	return state->general[general];
}

/* A register of bt, as a signed number of bits, becomes bytes to the word that the bit is in. */
static uint64_t to_word(const struct lh_access *access, const struct lh_access_state *state)
{
	uint64_t value = value_of(state, access->bit);

	switch (access->size) {
	case 2: return (uint64_t)((int64_t)(int16_t)value >> 4) * 2;
	case 4: return (uint64_t)((int64_t)(int32_t)value >> 5) * 4;
	default: return (uint64_t)((int64_t)value >> 6) * 8;
	}
}

static uint64_t cut(const struct lh_access *access, uint64_t address)
{
	return access->address_size == 4 ? (uint32_t)address : address;
}

static uint64_t segment_of(const struct lh_access *access, const struct lh_access_state *state)
{
	switch (access->segment) {
	case ZYDIS_REGISTER_FS: return state->fs;
	case ZYDIS_REGISTER_GS: return state->gs;
	default: return 0;
	}
}

/* Neither cut nor based on the segment; a vector index counts nothing here. */
static uint64_t sum_of(const struct lh_access *access, const struct lh_access_state *state)
{
	uint64_t sum = (uint64_t)access->displacement + value_of(state, access->base);

	sum += value_of(state, access->index) * access->scale;
	return access->bit == ZYDIS_REGISTER_NONE ? sum : sum + to_word(access, state);
}

static uint64_t address_of(const struct lh_access *access, const struct lh_access_state *state)
{
	uint64_t address = cut(access, sum_of(access, state)) + segment_of(access, state);

	return access->line ? address - address % access->size : address;
}

/* ---- rep ---- */

static uint64_t times(const struct lh_access *access, const struct lh_access_state *state)
{
	uint64_t count = cut(access, state->general[LH_RCX]);

	return access->repeated == LH_REPEAT_UNTIL ? cut(access, count - state->left) : count;
}

/* An address of 32 bits goes on at the other end of its 4 GiB. */
static int repeated_in_32_bits(const struct lh_access *access, const struct lh_access_state *state,
                               struct runs *runs)
{
	uint64_t segment = segment_of(access, state), count = times(access, state), size = access->size;
	uint64_t at = cut(access, sum_of(access, state));
	bool down = state->flags & ZYDIS_CPUFLAG_DF;
	int result = 0;

	while (count && result == 0) {
		uint64_t here = down ? at / size + 1 : ((1ull << 32) - at + size - 1) / size;

		here = here < count ? here : count;
		result = put(runs, segment + (down ? at - (here - 1) * size : at), here * size);
		at = cut(access, down ? at - here * size : at + here * size);
		count -= here;
	}
	return result;
}

static int repeated(const struct lh_access *access, const struct lh_access_state *state, struct runs *runs)
{
	uint64_t count = times(access, state), address = address_of(access, state), size;

	if (access->address_size == 4)
		return repeated_in_32_bits(access, state, runs);
	if (count == 0)
		return 0;
	if (__builtin_mul_overflow(count, access->size, &size))
		size = UINT64_MAX - UINT64_MAX % access->size; /* it will meet a hole */
	if (state->flags & ZYDIS_CPUFLAG_DF)
		address -= size - access->size;
	return put(runs, address, size);
}

/* ---- elements ---- */

static bool is_mask_register(ZydisRegister name)
{
	return name >= ZYDIS_REGISTER_K0 && name <= ZYDIS_REGISTER_K7;
}

static const uint8_t *vector_at(const struct lh_access_state *state, ZydisRegister name)
{
	if (name >= ZYDIS_REGISTER_MM0 && name <= ZYDIS_REGISTER_MM7)
		return state->mmx ? (const uint8_t *)&state->mmx[name - ZYDIS_REGISTER_MM0] : NULL;
	if (!state->vector)
		return NULL;
	if (name >= ZYDIS_REGISTER_ZMM0)
		return state->vector[name - ZYDIS_REGISTER_ZMM0];
	if (name >= ZYDIS_REGISTER_YMM0)
		return state->vector[name - ZYDIS_REGISTER_YMM0];
	return state->vector[name - ZYDIS_REGISTER_XMM0];
}

/* Bit n: element n is asked for. */
static int mask_of(const struct lh_access *access, const struct lh_access_state *state, uint64_t *mask)
{
	const uint8_t *vector;
	uint64_t bits = 0, all;

	if (is_mask_register(access->mask)) {
		if (!state->mask)
			return -EINVAL;
		all = state->mask[access->mask - ZYDIS_REGISTER_K0];
		for (unsigned from = 0; from < access->mask_bits; from += access->elements)
			bits |= all >> from;
	} else {
		vector = vector_at(state, access->mask);
		if (!vector)
			return -EINVAL;
		for (unsigned i = 0; i < access->elements; i++)
			bits |= (uint64_t)(vector[(i + 1) * access->mask_element - 1] >> 7) << i;
	}
	*mask = access->elements < 64 ? bits & ((1ull << access->elements) - 1) : bits;
	return 0;
}

static int64_t index_at(const struct lh_access *access, const uint8_t *vector, unsigned element)
{
	int64_t wide;
	int32_t narrow;

	if (access->index_size == 8) {
		memcpy(&wide, vector + 8 * element, 8);
		return wide;
	}
	memcpy(&narrow, vector + 4 * element, 4);
	return narrow;
}

static int elements(const struct lh_access *access, const struct lh_access_state *state, struct runs *runs)
{
	uint64_t address = address_of(access, state), sum = sum_of(access, state), mask;
	const uint8_t *vector = access->index_size ? vector_at(state, access->index) : NULL;
	int result = mask_of(access, state, &mask);

	if (result < 0 || (access->index_size && !vector))
		return -EINVAL;
	if (access->packed) {
		unsigned count = (unsigned)__builtin_popcountll(mask);

		return count ? put(runs, address, (uint64_t)count * access->size) : 0;
	}
	for (unsigned i = 0; mask && result == 0; i++, mask >>= 1) {
		if (!(mask & 1))
			continue;
		if (vector)
			address = cut(access, sum + (uint64_t)index_at(access, vector, i) * access->scale) +
			          segment_of(access, state);
		result = put(runs, vector ? address : address + (uint64_t)i * access->size, access->size);
	}
	return result;
}

/* Bytes 16 to 31 of a tile configuration's 64 have the columns of each tile, in bytes; 48 to 55 the rows. */
static int tile(const struct lh_access *access, const struct lh_access_state *state, struct runs *runs)
{
	unsigned number = access->rows - ZYDIS_REGISTER_TMM0, columns, rows;
	uint64_t stride = value_of(state, access->index) * access->scale;
	uint64_t sum = (uint64_t)access->displacement + value_of(state, access->base);
	int result = 0;

	if (!state->tiles)
		return -EINVAL;
	columns = state->tiles[16 + 2 * number] | (unsigned)state->tiles[17 + 2 * number] << 8;
	rows = state->tiles[48 + number];
	/* Byte 1: the row that an interrupted one goes on from. */
	for (unsigned row = state->tiles[1]; row < rows && columns && result == 0; row++)
		result = put(runs, cut(access, sum + row * stride) + segment_of(access, state), columns);
	return result;
}

/* ---- areas ---- */

enum { X87 = 1, SSE = 2, AVX = 4, PKRU = 9, LEGACY = 512, HEADER = 64 };
#define COMPACTED (1ull << 63)

void lh__access_layout(struct lh_access_layout *out)
{
	unsigned eax, ebx, ecx, edx;

	memset(out, 0, sizeof *out);
	out->enabled = X87 | SSE;
	if (!__get_cpuid_count(1, 0, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
		return;
	__asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	out->enabled = eax | (uint64_t)edx << 32;
	for (unsigned i = 2; i < 63; i++) {
		if (!(out->enabled >> i & 1) || !__get_cpuid_count(0xd, i, &eax, &ebx, &ecx, &edx))
			continue;
		out->size[i] = eax;
		out->offset[i] = ebx;
		out->aligned |= (uint64_t)(ecx >> 1 & 1) << i;
	}
}

/* What fxsave has too: numbers of the x87, mxcsr, the xmm registers. */
static int legacy(uint64_t address, uint64_t components, bool control, struct runs *runs)
{
	int result = 0;

	if (components & X87)
		result = put(runs, address, 24);
	if (result == 0 && control)
		result = put(runs, address + 24, 8);
	if (result == 0 && components & X87)
		result = put(runs, address + 32, 128);
	if (result == 0 && components & SSE)
		result = put(runs, address + 160, 256);
	return result;
}

/* Of the rights of protection keys there are four bytes, in the room of eight. */
static uint64_t size_of(const struct lh_access_layout *layout, unsigned component)
{
	return component == PKRU ? 4 : layout->size[component];
}

/* present: what there is room for in the compacted form. */
static int extended(uint64_t address, uint64_t components, uint64_t present,
                    const struct lh_access_layout *layout, bool compacted, struct runs *runs)
{
	uint64_t at = LEGACY + HEADER;
	int result = 0;

	for (unsigned i = 2; i < 63 && result == 0; i++) {
		if (compacted && present >> i & 1 && layout->aligned >> i & 1)
			at = (at + 63) & ~63ull;
		if (components >> i & 1)
			result =
				put(runs, address + (compacted ? at : layout->offset[i]), size_of(layout, i));
		if (present >> i & 1)
			at += layout->size[i];
	}
	return result;
}

static int restored(const struct lh_access *access, const struct lh_access_state *state, uint64_t address,
                    uint64_t components, const struct lh_access_layout *layout, struct runs *runs)
{
	bool compacted, control;
	uint64_t found;
	int result;

	if (!state->header)
		return put(runs, address, access->size);
	compacted = state->header[1] & COMPACTED;
	found = components & state->header[0];
	control = compacted ? found & SSE : components & (SSE | AVX);
	result = legacy(address, found, control, runs);
	if (result == 0)
		result = put(runs, address + LEGACY, HEADER);
	if (result == 0)
		result = extended(address, found, state->header[1] & ~COMPACTED, layout, compacted, runs);
	return result;
}

static int area(const struct lh_access *access, const struct lh_access_state *state, struct runs *runs)
{
	uint64_t address = address_of(access, state), components, saved;
	struct lh_access_layout found;
	const struct lh_access_layout *layout = state->layout;
	bool compacted = access->area == LH_AREA_XSAVEC, control;
	int result;

	if (!layout) {
		lh__access_layout(&found);
		layout = &found;
	}
	components = ((uint32_t)state->general[LH_RAX] | state->general[LH_RDX] << 32) & layout->enabled;
	if (access->area == LH_AREA_XRSTOR)
		return restored(access, state, address, components, layout, runs);
	saved = access->area == LH_AREA_XSAVE ? components : components & ~state->unused;
	control = compacted ? saved & SSE : components & (SSE | AVX);
	result = legacy(address, saved, control, runs);
	/* Of the header xsave changes the first word, and xsavec sets two. */
	if (result == 0)
		result = put(runs, address + LEGACY, compacted ? 16 : 8);
	if (result == 0)
		result = extended(address, saved, components, layout, compacted, runs);
	return result;
}

int lh__access_bytes(const struct lh_access *access, const struct lh_access_state *state,
                     int (*found)(void *context, uint64_t address, uint64_t size), void *context)
{
	struct runs runs = { .found = found, .context = context };
	int result;

	if (lh__access_is_plain(access))
		return found(context, address_of(access, state), access->size);
	if (access->repeated)
		result = repeated(access, state, &runs);
	else if (access->state)
		result = area(access, state, &runs);
	else if (access->rows != ZYDIS_REGISTER_NONE)
		result = tile(access, state, &runs);
	else if (access->mask != ZYDIS_REGISTER_NONE)
		result = elements(access, state, &runs);
	else
		result = put(&runs, address_of(access, state), access->size);
	return result ? result : end_run(&runs);
}
