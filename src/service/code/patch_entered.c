/*
 * patch_entered.c - whether a function is entered inside the bytes that a jump is put over, where move.h says
 * that it cannot know: it sees the instructions alone, not the tables of a switch.
 *
 * Compilers make two kinds. Of distances, four bytes each, from the table itself, whose address a lea takes:
 *
 *     lea table(%rip),%rdx; movslq (%rdx,%rax,4),%rax; add %rdx,%rax; jmp *%rax
 *
 * and of addresses, eight bytes each: jmp *table(,%rax,8). Where a table ends is not said. What is read
 * beyond it is another table or a constant, and can at worst have a function refused that could be patched;
 * so all is read that could be a place in the module's code. A jump of which no table is seen is not known.
 */
#include <Zydis/Zydis.h>
#include <string.h>

#include "service/code/patch_inside.h"

#define ENTRIES_MOST 4096u
#define CODE_REACH (256ll << 20) /* a target that is further away is none */
#define RELATIVE 5

struct scan {
	const struct lh_patch_view *view;
	uint64_t start, end; /* the function */
	uint64_t from, to;   /* entered is what is entered between these */
	bool has_jump;       /* through a register or table */
	bool has_table, entered;
};

static void look_at(struct scan *scan, uint64_t target)
{
	scan->entered |= target > scan->from && target < scan->to;
}

static void read_table(struct scan *scan, uint64_t table, unsigned size)
{
	for (unsigned i = 0; i < ENTRIES_MOST; i++) {
		int64_t value = 0;
		int32_t distance;
		uint64_t target;

		if (lh__patch_read(scan->view->memory, table + (uint64_t)i * size, &value, size) < 0)
			return;
		memcpy(&distance, &value, sizeof distance);
		target = size == 4 ? table + (uint64_t)(int64_t)distance : (uint64_t)value;
		if ((int64_t)(target - scan->start) > CODE_REACH ||
		    (int64_t)(target - scan->start) < -CODE_REACH)
			return;
		if (i == 0 && (target < scan->start || target >= scan->end))
			return;
		scan->has_table = true;
		look_at(scan, target);
	}
}

/* An address of 32 bits that is indexed by eights. */
static bool has_absolute_table(const ZydisDecodedInstruction *instruction)
{
	return instruction->attributes & ZYDIS_ATTRIB_HAS_SIB && instruction->raw.disp.size == 32 &&
	       instruction->raw.modrm.mod == 0 && instruction->raw.sib.base == RELATIVE &&
	       instruction->raw.sib.scale == 3;
}

static void look_at_instruction(struct scan *scan, const ZydisDecodedInstruction *instruction,
                                uint64_t address)
{
	bool is_relative = instruction->attributes & ZYDIS_ATTRIB_HAS_MODRM &&
	                   instruction->raw.modrm.mod == 0 && instruction->raw.modrm.rm == RELATIVE;
	uint64_t behind = address + instruction->length;

	if (instruction->raw.imm[0].is_relative) {
		look_at(scan, behind + (uint64_t)instruction->raw.imm[0].value.s);
	} else if (instruction->mnemonic == ZYDIS_MNEMONIC_LEA && is_relative) {
		look_at(scan, behind + (uint64_t)instruction->raw.disp.value);
		read_table(scan, behind + (uint64_t)instruction->raw.disp.value, 4);
	} else if (has_absolute_table(instruction)) {
		read_table(scan, (uint64_t)instruction->raw.disp.value, 8);
	}
	if (instruction->meta.category == ZYDIS_CATEGORY_UNCOND_BR && !instruction->raw.imm[0].is_relative &&
	    !is_relative)
		scan->has_jump = true;
}

bool lh__patch_entered(const struct lh_patch_view *view, const uint8_t *code, size_t size, uint64_t address,
                       uint64_t from, uint64_t to)
{
	struct scan scan = { .view = view, .start = address, .end = address + size, .from = from, .to = to };
	ZydisDecodedInstruction instruction;
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (size_t at = 0; at < size && !scan.entered; at += instruction.length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, code + at, size - at,
		                                                &instruction)))
			return true;
		look_at_instruction(&scan, &instruction, address + at);
	}
	return scan.entered || (scan.has_jump && !scan.has_table);
}
