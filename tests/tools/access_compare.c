/*
 * What a plugin of qemu has seen (tests/qemu/accesses.c), compared with lh__accesses: for each execution of
 * an instruction the bytes that were read and written. qemu tells no registers, so what depends on a mask is
 * let be; it tells each element of a repeated string, and only the store of what is locked. Of fused
 * multiplications of one number qemu 7.2 reads 16 bytes; processors do not.
 *
 *     access_compare FILE [LIE]      LIE: every load is said to be a byte longer
 */
#include "code/access.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ZydisDecoder decoder;

struct instruction {
	uint64_t pc;
	char text[32];
	unsigned reads, writes, element; /* bytes; of one element, where it is repeated */
	bool known, locked, maybe;
};

/* By pc; what lies at one may change. */
enum { SLOTS = 1 << 20 };
static struct instruction *table;

static struct instruction *slot(uint64_t pc)
{
	size_t at = (pc * 0x9e3779b97f4a7c15ull) >> 44;

	while (table[at].pc && table[at].pc != pc)
		at = (at + 1) % SLOTS;
	return &table[at];
}

static void describe(struct instruction *instruction, bool lie)
{
	uint8_t code[16] = { 0 };
	ZydisDecodedInstruction is;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	struct lh_accesses accesses;
	unsigned value, length = 0;

	for (; length < 15 && sscanf(instruction->text + 2 * length, "%2x", &value) == 1; length++)
		code[length] = (uint8_t)value;
	instruction->reads = instruction->writes = instruction->element = 0;
	instruction->known = instruction->locked = instruction->maybe = false;
	/* Over the end of a page qemu shows the bytes before it only. */
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, length, &is, operands)) ||
	    lh__accesses(&is, operands, &accesses) < 0)
		return;
	instruction->known = is.meta.category != ZYDIS_CATEGORY_VFMA;
	for (unsigned i = 0; i < accesses.count; i++) {
		const struct lh_access *access = &accesses.at[i];

		if (access->kind & LH_ACCESS_READ)
			instruction->reads += access->size + lie;
		if (access->kind & LH_ACCESS_WRITE)
			instruction->writes += access->size;
		instruction->locked |= (access->kind & LH_ACCESS_ATOMIC) != 0;
		instruction->maybe |= (access->kind & LH_ACCESS_MAYBE) != 0;
		if (access->repeated)
			instruction->element = access->size;
		if (access->mask != ZYDIS_REGISTER_NONE || access->index_size || access->state ||
		    access->size > 64)
			instruction->known = false;
	}
}

struct seen {
	struct instruction *instruction;
	unsigned reads, writes;
	bool odd; /* an element of another size */
};

static bool agrees(const struct seen *seen)
{
	const struct instruction *instruction = seen->instruction;

	if (instruction->element)
		return !seen->odd && (seen->reads == 0) >= (instruction->reads == 0) &&
		       (seen->writes == 0) >= (instruction->writes == 0);
	if (instruction->locked && seen->reads == 0 && seen->writes == instruction->writes)
		return true;
	if (instruction->maybe && seen->writes == 0)
		return seen->reads == instruction->reads;
	return seen->reads == instruction->reads && seen->writes == instruction->writes;
}

static unsigned compared, skipped, wrong, in_memory;

static void finish(const struct seen *seen)
{
	const struct instruction *instruction = seen->instruction;

	if (!instruction)
		return;
	if (!instruction->known) {
		skipped++;
		return;
	}
	compared++;
	in_memory += instruction->reads || instruction->writes;
	if (!agrees(seen) && wrong++ < 20)
		printf("# %lx %s: reads %u, seen %u; writes %u, seen %u\n", (long)instruction->pc,
		       instruction->text, instruction->reads, seen->reads, instruction->writes, seen->writes);
}

int main(int count, char **words)
{
	FILE *in = count > 1 ? fopen(words[1], "r") : NULL;
	struct seen seen = { 0 };
	char line[128], text[32];
	long pc;
	unsigned size;

	table = calloc(SLOTS, sizeof *table);
	if (!in || !table)
		return 1;
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	while (fgets(line, sizeof line, in)) {
		if (sscanf(line, "I %lx %31s", &pc, text) == 2) {
			struct instruction *instruction = slot((uint64_t)pc);

			instruction->pc = (uint64_t)pc;
			strcpy(instruction->text, text);
			describe(instruction, count > 2);
		} else if (sscanf(line, "E %lx", &pc) == 1) {
			finish(&seen);
			seen = (struct seen){ .instruction = slot((uint64_t)pc) };
		} else if (sscanf(line + 1, " %lx %u", &pc, &size) == 2 && seen.instruction &&
		           seen.instruction->pc == (uint64_t)pc) {
			*(line[0] == 'W' ? &seen.writes : &seen.reads) += size;
			seen.odd |= size != seen.instruction->element;
		}
	}
	/* The last one is let be: qemu ends without writing what it still has. */
	printf("# %u executions compared, %u of them with memory; %u let be\n", compared, in_memory, skipped);
	return wrong || in_memory < 1000;
}
