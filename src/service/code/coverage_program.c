/*
 * coverage_program.c - runs a unit's line number program (DWARF 2 to 5), and gives its rows in the order of
 * their addresses.
 *
 * Not by libdw, which sorts all rows of a unit into one list: what belongs to a function that the linker
 * threw away begins at address 0 and, when it is long, ends up among the rows of functions that are there.
 * Here a sequence keeps together, and one that begins at 0 is left out. Names of files are libdw's.
 *
 *	u32 size (or ~0 and u64), u16 version, from version 5 u8 size of addresses, u8 of segments,
 *	u32 or u64 size of the rest of the head, u8 smallest instruction, from version 4 u8 operations in
 *	one, u8 is_stmt, i8 line base, u8 line range, u8 first special opcode, and for each before it u8 its
 *	operands; then what is skipped by the size of the head, then the program
 */
#include <dwarf.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/coverage_model.h"

struct bytes {
	const uint8_t *at, *end;
	bool short_; /* it was read beyond the end */
};

struct machine {
	struct bytes program;
	uint8_t smallest, range, first_special;
	int8_t base;
	const uint8_t *operands; /* of the standard opcodes, from 1 */
	/* The state that the program changes. */
	uint64_t address;
	uint32_t file, line, column;
	/* The row before in this sequence; dead: the sequence is of nothing that is there. */
	struct lh_cover_row last;
	bool has_last, dead;
};

static uint64_t number(struct bytes *bytes, unsigned size)
{
	uint64_t value = 0;

	if ((size_t)(bytes->end - bytes->at) < size) {
		bytes->short_ = true;
		bytes->at = bytes->end;
		return 0;
	}
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)bytes->at[i] << 8 * i;
	bytes->at += size;
	return value;
}

/* A LEB128, of which what does not fit in 64 bits is ignored. */
static uint64_t leb(struct bytes *bytes, bool is_signed)
{
	uint64_t value = 0, byte;
	unsigned shift = 0;

	do {
		byte = number(bytes, 1);
		value |= shift < 64 ? (byte & 0x7f) << shift : 0;
		shift += 7;
	} while (byte & 0x80 && !bytes->short_);
	if (is_signed && byte & 0x40 && shift < 64)
		value |= ~UINT64_C(0) << shift;
	return value;
}

static bool read_head(struct machine *machine, struct bytes *section)
{
	unsigned wide = 4, version;
	uint64_t size = number(section, 4);

	if (size == UINT32_MAX) {
		wide = 8;
		size = number(section, 8);
	}
	if (section->short_ || size > (uint64_t)(section->end - section->at))
		return false;
	section->end = section->at + size;
	version = (unsigned)number(section, 2);
	if (version < 2 || version > 5)
		return false;
	if (version == 5)
		number(section, 2);
	size = number(section, wide);
	if (section->short_ || size > (uint64_t)(section->end - section->at))
		return false;
	machine->program = (struct bytes){ section->at + size, section->end, false };
	machine->smallest = (uint8_t)number(section, 1);
	if (version >= 4)
		number(section, 1);
	number(section, 1);
	machine->base = (int8_t)number(section, 1);
	machine->range = (uint8_t)number(section, 1);
	machine->first_special = (uint8_t)number(section, 1);
	machine->operands = section->at;
	return !section->short_ && machine->range && machine->first_special &&
	       (size_t)(section->end - section->at) >= machine->first_special;
}

/* The row before is now known to end here. Of those at one address only the last is of an instruction. */
static void add_row(struct lh_cover_model *model, struct machine *machine)
{
	struct lh_cover_row *last = &machine->last;

	if (!machine->has_last)
		machine->dead = !machine->address;
	if (machine->has_last && !machine->dead && last->line && machine->address > last->low &&
	    lh__cover_grow(model, &model->row, model->row_count, &model->room_rows, sizeof *model->row)) {
		last->high = machine->address;
		model->row[model->row_count++] = *last;
	}
	*last = (struct lh_cover_row){ machine->address, 0, machine->file, machine->line, machine->column };
	machine->has_last = true;
}

static void begin(struct machine *machine)
{
	machine->address = 0;
	machine->file = machine->line = 1;
	machine->column = 0;
	machine->has_last = false;
}

static void extended(struct lh_cover_model *model, struct machine *machine)
{
	struct bytes *program = &machine->program;
	uint64_t size = leb(program, false);
	const uint8_t *after;
	uint8_t opcode;

	if (!size || size > (uint64_t)(program->end - program->at)) {
		program->short_ = true;
		return;
	}
	after = program->at + size;
	opcode = (uint8_t)number(program, 1);
	if (opcode == DW_LNE_set_address && size == 9) {
		machine->address = number(program, 8);
	} else if (opcode == DW_LNE_end_sequence) {
		add_row(model, machine);
		begin(machine);
	}
	program->at = after;
}

static void standard(struct lh_cover_model *model, struct machine *machine, uint8_t opcode)
{
	struct bytes *program = &machine->program;

	switch (opcode) {
	case DW_LNS_copy: add_row(model, machine); break;
	case DW_LNS_advance_pc: machine->address += leb(program, false) * machine->smallest; break;
	case DW_LNS_advance_line: machine->line += (uint32_t)leb(program, true); break;
	case DW_LNS_set_file: machine->file = (uint32_t)leb(program, false); break;
	case DW_LNS_set_column: machine->column = (uint32_t)leb(program, false); break;
	case DW_LNS_const_add_pc:
		machine->address +=
			(uint64_t)((255 - machine->first_special) / machine->range) * machine->smallest;
		break;
	case DW_LNS_fixed_advance_pc: machine->address += number(program, 2); break;
	default:
		for (unsigned i = 0; i < machine->operands[opcode - 1]; i++)
			leb(program, false);
	}
}

static void step(struct lh_cover_model *model, struct machine *machine)
{
	uint8_t opcode = (uint8_t)number(&machine->program, 1);

	if (opcode >= machine->first_special) {
		opcode -= machine->first_special;
		machine->address += (uint64_t)(opcode / machine->range) * machine->smallest;
		machine->line += (uint32_t)(machine->base + opcode % machine->range);
		add_row(model, machine);
	} else if (!opcode) {
		extended(model, machine);
	} else {
		standard(model, machine, opcode);
	}
}

static int by_low(const void *a, const void *b)
{
	const struct lh_cover_row *x = a, *y = b;

	return (x->low > y->low) - (x->low < y->low);
}

bool lh__cover_program(struct lh_cover_model *model, Dwarf_Die *unit)
{
	const uint8_t *data = model->line_section;
	struct machine machine = { .has_last = false };
	Dwarf_Attribute attribute;
	struct bytes section;
	Dwarf_Word at;

	model->row_count = 0;
	if (!dwarf_attr(unit, DW_AT_stmt_list, &attribute) || dwarf_formudata(&attribute, &at))
		return true;
	if (at >= model->line_size)
		return false;
	section = (struct bytes){ data + at, data + model->line_size, false };
	if (!read_head(&machine, &section))
		return false;
	begin(&machine);
	while (machine.program.at < machine.program.end && !machine.program.short_ && !model->failed)
		step(model, &machine);
	qsort(model->row, model->row_count, sizeof *model->row, by_low);
	return !machine.program.short_;
}
