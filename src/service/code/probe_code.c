/*
 * probe_code.c - a function's instructions: where it leaves, and where anybody jumps to (probe_inside.h).
 *
 * A jump may be put over instructions only if nobody jumps into their midst. Who might:
 *
 *     the function itself   by direct jumps, all of which are seen; by the address of a label (lea); by the
 *                           table of a switch
 *     others                by a direct jump: whatever in the mapping looks like a long one, at whatever byte
 *                           one starts to read, is taken for one; and short ones of neighbours
 *     an exception          where it lands follows what never goes on, or a call; windows begin there at most
 *     a return              likewise: no window holds a call but as its last instruction
 *
 * Tables of switches are found by the addresses that the function takes of memory that is no code: words
 * there that are distances to, or addresses of, places in the function are labels. To see a label too many
 * does no harm. A jump through a register leaves a function that has no such table, or whose frame has been
 * taken down right before. Where a table must be and none is found, labels may be missing: then only the
 * entry gets a jump, if it is a prologue.
 */
#include "service/code/probe_inside.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/code/remote.h"

#define TABLE_LONGEST 4096u
#define TABLES 256u
#define TEXT_CHUNK (1u << 20)

struct reading {
	const struct lh_probe_process *process;
	const struct lh_symbol *symbol;
	struct lh_probe_code *code;
	struct lh_error *error;
	struct lh_mapping text; /* that the function is in */
	ZydisDecoder decoder;
	uint64_t table[TABLES];    /* addresses that may be those of tables */
	uint32_t tables, switches; /* switches: jumps that are some, if there are tables */
	bool indexed;              /* one of them is one for certain */
};

static bool read_memory(const struct lh_probe_process *process, uint64_t address, void *to, size_t size)
{
	return pread(process->memory, to, size, (off_t)address) == (ssize_t)size;
}

static struct lh_probe_part *part_of(struct lh_probe_code *code, uint64_t address)
{
	for (uint32_t i = 0; i < code->parts; i++)
		if (address - code->part[i].address < code->part[i].size)
			return &code->part[i];
	return NULL;
}

/* The tail counts too: who jumps there makes it no padding. */
static bool mark(struct lh_probe_code *code, uint64_t address)
{
	for (uint32_t i = 0; i < code->parts; i++) {
		struct lh_probe_part *part = &code->part[i];

		if (address - part->address < part->size + LH_PROBE_TAIL) {
			part->label[address - part->address] = 1;
			return true;
		}
	}
	return false;
}

static bool is_relative_memory(const ZydisDecodedInstruction *instruction)
{
	return instruction->attributes & ZYDIS_ATTRIB_HAS_MODRM && instruction->raw.modrm.mod == 0 &&
	       instruction->raw.modrm.rm == 5;
}

static uint64_t relative_address(const ZydisDecodedInstruction *instruction, uint64_t address)
{
	return address + instruction->length + (uint64_t)instruction->raw.disp.value;
}

/* add or sub of a constant and rsp. */
static bool moves_stack(const ZydisDecodedInstruction *instruction, ZydisMnemonic mnemonic)
{
	return instruction->mnemonic == mnemonic && instruction->raw.imm[0].size &&
	       instruction->raw.modrm.mod == 3 && instruction->raw.modrm.rm == 4 && !instruction->raw.rex.B;
}

static enum lh_probe_kind kind_of(const ZydisDecodedInstruction *instruction)
{
	bool direct = instruction->raw.imm[0].is_relative;

	switch (instruction->meta.category) {
	case ZYDIS_CATEGORY_CALL: return LH_STEP_CALL;
	case ZYDIS_CATEGORY_RET: return LH_STEP_LEAVE_RET;
	case ZYDIS_CATEGORY_COND_BR: return LH_STEP_BRANCH;
	case ZYDIS_CATEGORY_UNCOND_BR: return direct ? LH_STEP_JUMP : LH_STEP_LEAVE_JUMP;
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP: return LH_STEP_PAD;
	default:
		if (instruction->mnemonic == ZYDIS_MNEMONIC_INT3)
			return LH_STEP_PAD;
		if (instruction->mnemonic == ZYDIS_MNEMONIC_PUSH ||
		    moves_stack(instruction, ZYDIS_MNEMONIC_SUB))
			return LH_STEP_FRAME;
		return LH_STEP_PLAIN;
	}
}

static bool takes_down(const ZydisDecodedInstruction *instruction)
{
	return instruction->mnemonic == ZYDIS_MNEMONIC_POP || instruction->mnemonic == ZYDIS_MNEMONIC_LEAVE ||
	       moves_stack(instruction, ZYDIS_MNEMONIC_ADD);
}

/* What does nothing, behind a part and before where the next function may begin. */
static uint32_t measure_tail(const struct reading *reading, const struct lh_probe_part *part)
{
	uint64_t end = part->address + part->size, limit = (end + 15) & ~15ull;
	ZydisDecodedInstruction instruction;
	struct lh_symbol symbol;
	uint32_t tail = 0;

	while (end + tail < limit && !lh__symbols_at(reading->process->symbols, end + tail, &symbol) &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&reading->decoder, NULL,
	                                                  part->code + part->size + tail,
	                                                  LH_PROBE_TAIL - tail, &instruction)) &&
	       kind_of(&instruction) == LH_STEP_PAD && end + tail + instruction.length <= limit)
		tail += instruction.length;
	return tail;
}

static int add_part(struct reading *reading, uint64_t address, uint64_t size)
{
	struct lh_probe_part *part = &reading->code->part[reading->code->parts];

	if (size == 0)
		return lh__fail(reading->error, -ENODATA, "%s: its size is not known", reading->symbol->name);
	if (size > LH_PROBE_LARGEST)
		return lh__fail(reading->error, -E2BIG, "%s: too large", reading->symbol->name);
	part->address = address;
	part->size = (uint32_t)size;
	part->code = calloc(1, size + LH_PROBE_TAIL);
	part->label = calloc(1, size + LH_PROBE_TAIL);
	part->used = calloc(1, size + LH_PROBE_TAIL);
	part->step = calloc(size, sizeof *part->step);
	reading->code->parts++;
	if (!part->code || !part->label || !part->used || !part->step)
		return lh__fail(reading->error, -ENOMEM, "%s: no memory", reading->symbol->name);
	if (!read_memory(reading->process, address, part->code, size))
		return lh__fail(reading->error, -EFAULT, "%s: its code cannot be read",
		                reading->symbol->name);
	if (read_memory(reading->process, address + size, part->code + size, LH_PROBE_TAIL))
		part->tail = measure_tail(reading, part);
	return 0;
}

/* gcc's other half of a function is no function by itself: what jumps there has not left. */
static bool is_other_half(const struct reading *reading, const struct lh_symbol *found)
{
	size_t length = strlen(reading->symbol->name);

	return strncmp(found->name, reading->symbol->name, length) == 0 &&
	       strncmp(found->name + length, ".cold", 5) == 0;
}

/* A direct jump out of all known parts: 1 it leaves, 0 there is one more part now, or an error. */
static int look_outside(struct reading *reading, uint64_t target)
{
	struct lh_symbol found;

	if (!lh__symbols_at(reading->process->symbols, target, &found))
		return 1;
	if (is_other_half(reading, &found) && reading->code->parts < LH_PROBE_PARTS)
		return add_part(reading, found.address, found.size);
	if (found.address != target) /* the midst of another function: that one goes on with our frame */
		reading->code->unknown_jumps = true;
	return 1;
}

static bool is_text(const struct reading *reading, uint64_t address)
{
	return address >= reading->text.start && address < reading->text.end;
}

static void note_table(struct reading *reading, uint64_t table)
{
	if (reading->tables < TABLES)
		reading->table[reading->tables++] = table;
	else
		reading->code->unknown_jumps = true;
}

/*
 * Words at a table that lead into code are its entries: distances from it in 4 bytes, or addresses in 8. It
 * ends where one does not, or where another begins. Entries may lead to a part that is not known as one.
 */
static bool read_table(struct reading *reading, uint64_t table, unsigned width)
{
	uint8_t *words = malloc(TABLE_LONGEST * 8);
	uint64_t end = table + TABLE_LONGEST * 8;
	ssize_t got = -1;
	bool used = false;

	for (uint32_t i = 0; i < reading->tables; i++)
		if (reading->table[i] > table && reading->table[i] < end)
			end = reading->table[i];
	if (words)
		got = pread(reading->process->memory, words, end - table, (off_t)table);
	for (ssize_t at = 0; at + (ssize_t)width <= got; at += width) {
		uint64_t target = 0;

		memcpy(&target, words + at, width);
		if (width == 4)
			target = table + (uint64_t)(int64_t)(int32_t)target;
		if (!is_text(reading, target))
			break;
		used |= mark(reading->code, target);
	}
	free(words);
	return used;
}

static int note_step(struct reading *reading, struct lh_probe_part *part, struct lh_probe_step *step,
                     const ZydisDecodedInstruction *instruction, bool down)
{
	uint64_t address = part->address + step->at, target;

	if (step->kind == LH_STEP_LEAVE_JUMP && !is_relative_memory(instruction) && !down) {
		step->kind = LH_STEP_SWITCH;
		reading->switches++;
		reading->indexed |=
			instruction->attributes & ZYDIS_ATTRIB_HAS_SIB && instruction->raw.sib.index != 4;
	}
	if (!instruction->raw.imm[0].is_relative)
		return 0;
	target = address + instruction->length + (uint64_t)instruction->raw.imm[0].value.s;
	if (step->kind == LH_STEP_CALL && target == reading->symbol->address)
		return 0; /* it calls itself */
	if (mark(reading->code, target) && part_of(reading->code, target))
		return 0;
	if (step->kind == LH_STEP_BRANCH || step->kind == LH_STEP_JUMP) {
		int result = look_outside(reading, target);

		if (result == 1)
			step->kind = step->kind == LH_STEP_JUMP ? LH_STEP_LEAVE_JUMP : LH_STEP_LEAVE_BRANCH;
		else if (result == 0)
			mark(reading->code, target);
		return result < 0 ? result : 0;
	}
	return 0;
}

static int decode_part(struct reading *reading, struct lh_probe_part *part)
{
	ZydisDecodedInstruction instruction;
	bool down = false;

	for (uint32_t at = 0; at < part->size; at += instruction.length) {
		struct lh_probe_step *step = &part->step[part->steps++];
		int result;

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&reading->decoder, NULL, part->code + at,
		                                                part->size - at, &instruction)) ||
		    instruction.mnemonic == ZYDIS_MNEMONIC_XBEGIN)
			return lh__fail(reading->error, -EILSEQ,
			                "%s: what stands %u bytes behind its start cannot be understood",
			                reading->symbol->name, at);
		*step = (struct lh_probe_step){ at, instruction.length, (uint8_t)kind_of(&instruction) };
		result = note_step(reading, part, step, &instruction, down);
		if (result < 0)
			return result;
		down = takes_down(&instruction);
	}
	return 0;
}

/* When all parts are known: labels and tables whose addresses the function takes. */
static void note_addresses(struct reading *reading, const struct lh_probe_part *part)
{
	for (uint32_t i = 0; i < part->steps; i++) {
		ZydisDecodedInstruction instruction;
		const struct lh_probe_step *step = &part->step[i];
		uint64_t address;

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&reading->decoder, NULL,
		                                                part->code + step->at, step->length,
		                                                &instruction)))
			return;
		if (instruction.mnemonic == ZYDIS_MNEMONIC_LEA && is_relative_memory(&instruction)) {
			address = relative_address(&instruction, part->address + step->at);
			if (!mark(reading->code, address) && reading->switches)
				note_table(reading, address);
		} else if (instruction.attributes & ZYDIS_ATTRIB_HAS_SIB && instruction.raw.disp.size == 32 &&
		           instruction.raw.modrm.mod == 0 && reading->switches) {
			note_table(reading, (uint64_t)instruction.raw.disp.value); /* table(, %reg, 8) */
		} else if (instruction.raw.imm[0].size >= 32 && !instruction.raw.imm[0].is_relative) {
			mark(reading->code, instruction.raw.imm[0].value.u);
		}
	}
}

/* ---- what others do ---- */

static int find_text(void *context, const struct lh_mapping *mapping)
{
	struct reading *reading = context;

	if (reading->symbol->address < mapping->start || reading->symbol->address >= mapping->end)
		return 0;
	reading->text = *mapping;
	return 1;
}

/* Others may jump to a part's start: that is a call in place of a return. */
static void mark_inside(struct lh_probe_code *code, uint64_t target)
{
	const struct lh_probe_part *part = part_of(code, target);

	if (part && target != part->address)
		mark(code, target);
}

/* What reads as a long jump at this byte, unless it is the function's own, which are known. */
static void note_foreign(struct lh_probe_code *code, const uint8_t *at, uint64_t address)
{
	unsigned opcode = at[0] == 0xe9 ? 1 : 2;
	int32_t distance;

	if ((opcode == 2 && (at[1] & 0xf0) != 0x80) || part_of(code, address))
		return;
	memcpy(&distance, at + opcode, 4);
	mark_inside(code, address + opcode + 4 + (uint64_t)(int64_t)distance);
}

/* Each place at which this byte stands, six bytes being there. */
static void note_opcode(struct lh_probe_code *code, const uint8_t *text, size_t size, uint64_t address,
                        int opcode)
{
	const uint8_t *at = text, *end = text + size - 5;

	for (; at < end && (at = memchr(at, opcode, (size_t)(end - at))) != NULL; at++)
		note_foreign(code, at, address + (uint64_t)(at - text));
}

/* Short jumps come from neighbours only; too much reads as one to look at each byte. */
static void note_neighbour(struct reading *reading, uint64_t address)
{
	ZydisDecodedInstruction instruction;
	struct lh_symbol symbol;
	uint8_t *code = NULL;
	ssize_t got = 0;

	if (!lh__symbols_at(reading->process->symbols, address, &symbol) || part_of(reading->code, address))
		return;
	if (symbol.size <= LH_PROBE_LARGEST)
		code = malloc(symbol.size);
	if (code)
		got = pread(reading->process->memory, code, symbol.size, (off_t)symbol.address);
	for (ssize_t at = 0; at < got; at += instruction.length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&reading->decoder, NULL, code + at,
		                                                (size_t)(got - at), &instruction)))
			break;
		if (instruction.raw.imm[0].is_relative && instruction.meta.category != ZYDIS_CATEGORY_CALL)
			mark_inside(reading->code, symbol.address + (uint64_t)at + instruction.length +
			                                   (uint64_t)instruction.raw.imm[0].value.s);
	}
	free(code);
}

static void note_neighbours(struct reading *reading)
{
	for (uint32_t i = 0; i < reading->code->parts; i++) {
		const struct lh_probe_part *part = &reading->code->part[i];

		for (unsigned gap = 1; gap <= LH_PROBE_TAIL; gap += LH_PROBE_TAIL - 1)
			note_neighbour(reading, part->address - gap);
		note_neighbour(reading, part->address + part->size);
		note_neighbour(reading, part->address + part->size + part->tail);
	}
}

static void note_others(struct reading *reading)
{
	uint8_t *chunk = malloc(TEXT_CHUNK + 5);

	for (uint64_t from = reading->text.start; chunk && from < reading->text.end; from += TEXT_CHUNK) {
		ssize_t got = pread(reading->process->memory, chunk, TEXT_CHUNK + 5, (off_t)from);

		if (got < 6)
			continue;
		note_opcode(reading->code, chunk, (size_t)got, from, 0xe9);
		note_opcode(reading->code, chunk, (size_t)got, from, 0x0f);
	}
	free(chunk);
}

int lh__probe_code_read(const struct lh_probe_process *process, const struct lh_symbol *symbol,
                        struct lh_probe_code *code, struct lh_error *error)
{
	struct reading reading = { .process = process, .symbol = symbol, .code = code, .error = error };
	bool is_switch = false;
	int result;

	*code = (struct lh_probe_code){ 0 };
	ZydisDecoderInit(&reading.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	result = lh__mappings(process->id, find_text, &reading);
	if (result < 0)
		return lh__fail(error, result, "process %d: its mappings cannot be read", process->id);
	result = add_part(&reading, symbol->address, symbol->size);
	for (uint32_t i = 0; result == 0 && i < code->parts; i++)
		result = decode_part(&reading, &code->part[i]);
	if (result < 0)
		return result;
	for (uint32_t i = 0; i < code->parts; i++)
		note_addresses(&reading, &code->part[i]);
	note_others(&reading);
	note_neighbours(&reading);
	for (uint32_t i = 0; i < reading.tables; i++) {
		is_switch |= read_table(&reading, reading.table[i], 4);
		is_switch |= read_table(&reading, reading.table[i], 8);
	}
	code->unknown_jumps |= reading.indexed && !is_switch;
	for (uint32_t i = 0; !is_switch && i < code->parts; i++)
		for (uint32_t k = 0; k < code->part[i].steps; k++)
			if (code->part[i].step[k].kind == LH_STEP_SWITCH)
				code->part[i].step[k].kind = LH_STEP_LEAVE_JUMP;
	return 0;
}

void lh__probe_code_free(struct lh_probe_code *code)
{
	for (uint32_t i = 0; i < code->parts; i++) {
		free(code->part[i].code);
		free(code->part[i].label);
		free(code->part[i].used);
		free(code->part[i].step);
	}
	*code = (struct lh_probe_code){ 0 };
}
