/*
 * patch_place.c - one place where a jump is put: whether that can be, and the code beside it.
 *
 * What is judged is the code as the module's file has it; what stands in memory must be the same, or the jump
 * of an earlier patch, which then is what the new one goes on with. Anything else there is somebody else's.
 */
#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "code/move.h"
#include "linehome/patch.h"
#include "service/code/patch_inside.h"

#define FUNCTION_MOST (4u << 20)
#define PADDING_MOST 16u
#define AT_OFFSET 512u /* where in a stub the code begins that calls a handler */

_Static_assert(LH_PATCH_JUMPED == LH_MOVE_JUMP, "what a place is long");

/* The function's code, with what follows it. */
struct body {
	uint8_t *code;
	size_t size, padding;
	bool from_file;
};

static bool decode(const uint8_t *code, size_t size, ZydisDecodedInstruction *out)
{
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code, size, out));
}

/* Bytes behind a function that nobody runs: what fills the room up to the next one. */
static size_t padding_of(const struct lh_patch_view *view, const uint8_t *code, uint64_t address)
{
	ZydisDecodedInstruction instruction;
	struct lh_symbol symbol;
	size_t at = 0;

	while (at < PADDING_MOST && (address + at) % 16 != 0 &&
	       decode(code + at, PADDING_MOST - at, &instruction) &&
	       (instruction.mnemonic == ZYDIS_MNEMONIC_NOP || instruction.mnemonic == ZYDIS_MNEMONIC_INT3) &&
	       !lh__symbols_at(view->symbols, address + at, &symbol))
		at += instruction.length;
	return at;
}

static int read_body(const struct lh_patch_view *view, const struct lh_symbol *symbol, struct body *body,
                     struct lh_error *error)
{
	size_t size = symbol->size + PADDING_MOST;

	*body = (struct body){ .size = symbol->size };
	if (symbol->size == 0 || symbol->size > FUNCTION_MOST)
		return lh__fail(error, -ENOTSUP, "%s: its size is not known, so no jump can be put there",
		                symbol->name);
	body->code = calloc(1, size);
	if (!body->code)
		return lh__fail(error, -ENOMEM, "%s: there is no memory to look at it", symbol->name);
	body->from_file = lh__patch_file_code(view->process, symbol->address, body->code, size);
	if (!body->from_file && lh__patch_read(view->memory, symbol->address, body->code, body->size) < 0)
		return lh__fail(error, -EFAULT, "%s: its code cannot be read", symbol->name);
	if (body->from_file)
		body->padding = padding_of(view, body->code + body->size, symbol->address + body->size);
	return 0;
}

/* Whether an instruction starts at this offset, as one sees by beginning at the function's first. */
static bool starts_at(const struct body *body, uint64_t offset)
{
	ZydisDecodedInstruction instruction;
	uint64_t at = 0;

	while (at < offset && decode(body->code + at, body->size - at, &instruction))
		at += instruction.length;
	return at == offset;
}

/* ---- what stands there ---- */

static int stack_upon(const struct lh_patch_view *view, struct lh_patch_target *target,
                      const struct lh_patch_found *found, const struct lh_patch_place *old,
                      struct lh_error *error)
{
	struct lh_patch_place *place = &target->place;
	int32_t distance;

	if (old->address != place->address || old->size != place->size || old->after[0] != 0xe9)
		return lh__fail(error, -EBUSY, "%s: the patch %s has changed a part of it; revert it first",
		                place->symbol, found->listed.name);
	if (lh__patch_read(view->memory, place->address, place->before, place->size) < 0 ||
	    memcmp(place->before, old->after, place->size) != 0)
		return lh__fail(error, -EILSEQ, "%s: what stands there is not what the patch %s wrote",
		                place->symbol, found->listed.name);
	memcpy(&distance, old->after + 1, sizeof distance);
	target->resume = place->address + LH_PATCH_JUMPED + (uint64_t)(int64_t)distance;
	return 0;
}

/* A return address that lies inside the jump would lead into its middle. */
static bool calls_within(const uint8_t *code, size_t size, const struct lh_moved_code *moved)
{
	ZydisDecodedInstruction instruction;

	for (unsigned i = 0; moved->has_call && i + 1 < moved->count; i++)
		if (decode(code + moved->from[i], size - moved->from[i], &instruction) &&
		    instruction.meta.category == ZYDIS_CATEGORY_CALL)
			return true;
	return false;
}

static int fail_to_move(const char *symbol, int result, struct lh_error *error)
{
	if (result == -ENOSPC)
		return lh__fail(error, -ENOTSUP, "%s: is too short for a jump of %u bytes", symbol,
		                LH_PATCH_JUMPED);
	if (result == -ERANGE)
		return lh__fail(error, -ERANGE, "%s: what it refers to is too far from the patch", symbol);
	return lh__fail(error, -ENOTSUP, "%s: has an instruction there that cannot be moved", symbol);
}

static int check_memory(const struct lh_patch_view *view, struct lh_patch_target *target,
                        const struct lh_moved_code *moved, bool from_file, struct lh_error *error)
{
	struct lh_patch_place *place = &target->place;
	uint8_t now[LH_MOVE_LONGEST];
	bool differs;

	if (lh__patch_read(view->memory, place->address, now, moved->window) < 0)
		return lh__fail(error, -EFAULT, "%s: its code cannot be read", place->symbol);
	differs = from_file && memcmp(now, target->code, moved->window) != 0;
	for (unsigned i = 0; i < moved->count; i++)
		if (now[moved->from[i]] == 0xcc)
			return lh__fail(error, -EILSEQ,
			                "%s: a breakpoint stands there (is the process watched by another "
			                "linehome, or a debugger?)",
			                place->symbol);
	if (differs)
		return lh__fail(error, -EILSEQ,
		                "%s: what stands there is not what its file says; somebody has changed it",
		                place->symbol);
	memcpy(place->before, now, place->size);
	return 0;
}

static int stand_alone(const struct lh_patch_view *view, struct lh_patch_target *target,
                       const struct body *body, struct lh_error *error)
{
	const struct lh_patch_place *place = &target->place;
	uint8_t out[AT_OFFSET];
	struct lh_moved_code moved;
	int result = lh__move(target->code, target->code_size, place->address, place->size, out, sizeof out,
	                      place->address, &moved);

	if (result < 0)
		return fail_to_move(place->symbol, result, error);
	if (calls_within(target->code, target->code_size, &moved))
		return lh__fail(error, -ENOTSUP, "%s: calls return into the %u bytes of the jump",
		                place->symbol, LH_PATCH_JUMPED);
	if (lh__move_entered(body->code, body->size, target->symbol.address, place->address,
	                     place->address + place->size) != 0 &&
	    lh__patch_entered(view, body->code, body->size, target->symbol.address, place->address,
	                      place->address + place->size))
		return lh__fail(error, -ENOTSUP,
		                "%s: a jump of the function leads into the bytes that would change, or its "
		                "jumps cannot all be known",
		                place->symbol);
	return check_memory(view, target, &moved, body->from_file, error);
}

static int check_offset(const struct lh_patch_target *target, const struct body *body, struct lh_error *error)
{
	const struct lh_patch_item *item = &target->item;

	if (item->offset >= body->size)
		return lh__fail(error, -EINVAL, "%s: is behind the end of the function, which has %lu bytes",
		                target->place.symbol, (unsigned long)body->size);
	if (!starts_at(body, item->offset))
		return lh__fail(error, -EINVAL, "%s: no instruction starts there", target->place.symbol);
	return 0;
}

int lh__patch_target(const struct lh_patch_view *view, struct lh_patch_target *target, struct lh_error *error)
{
	const struct lh_patch_item *item = &target->item;
	struct lh_patch_place *place = &target->place;
	const struct lh_patch_place *old;
	const struct lh_patch_found *found;
	struct body body;
	int result;

	*place = (struct lh_patch_place){ .address = target->symbol.address + item->offset,
		                          .size = LH_PATCH_JUMPED };
	lh__format(place->symbol, sizeof place->symbol, item->offset ? "%s+%lu" : "%s", item->symbol,
	           (unsigned long)item->offset);
	result = read_body(view, &target->symbol, &body, error);
	if (result == 0)
		result = check_offset(target, &body, error);
	if (result == 0) {
		size_t left = body.size + body.padding - item->offset;

		target->code_size = left < sizeof target->code ? left : sizeof target->code;
		memcpy(target->code, body.code + item->offset, target->code_size);
		found = lh__patch_over(view->set, place->address, place->size, 0, false, &old);
		result = found ? stack_upon(view, target, found, old, error)
		               : stand_alone(view, target, &body, error);
	}
	free(body.code);
	return result;
}

int lh__patch_stub(struct lh_patch_target *target, uint8_t stub[LH_PATCH_STUB], uint64_t at,
                   uint64_t *original, struct lh_error *error)
{
	struct lh_patch_place *place = &target->place;
	uint64_t to = target->item.code;
	struct lh_moved_code moved;
	int result = 0;

	*original = target->resume;
	if (target->resume == 0) {
		result = lh__move(target->code, target->code_size, place->address, place->size, stub,
		                  AT_OFFSET, at, &moved);
		*original = at;
	}
	if (result < 0)
		return fail_to_move(place->symbol, result, error);
	if (target->item.kind == LH_PATCH_KIND_AT) {
		(void)lh__patch_stub_at(stub + AT_OFFSET, to, *original);
		to = at + AT_OFFSET;
	}
	if (lh__move_jump(place->after, place->address, to) < 0)
		return lh__fail(error, -ERANGE, "%s: what answers it is more than 2 GiB away", place->symbol);
	return 0;
}
