/*
 * accesses.c - a plugin of qemu-user: instructions, each of their first executions, and what those accessed.
 *
 *     qemu-x86_64 -plugin PATH/accesses.so,out=FILE PROGRAM
 *
 *     I pc bytes      an instruction, once
 *     E pc            it is executed
 *     R pc size       and reads; W: writes
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

int qemu_plugin_version = 1;

/* Of one translation of one instruction; what is translated again counts anew. */
struct instruction {
	uint64_t pc;
	unsigned executed;
};
enum { ENOUGH = 2 };

static FILE *out;

static void executed(unsigned cpu, void *context)
{
	struct instruction *instruction = context;

	if (instruction->executed++ < ENOUGH)
		fprintf(out, "E %lx\n", (long)instruction->pc);
}

static void accessed(unsigned cpu, uint32_t information, uint64_t address, void *context)
{
	const struct instruction *instruction = context;

	if (instruction->executed <= ENOUGH)
		fprintf(out, "%c %lx %u\n", qemu_plugin_mem_is_store(information) ? 'W' : 'R',
		        (long)instruction->pc, 1u << qemu_plugin_mem_size_shift(information));
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
		struct instruction *instruction = calloc(1, sizeof *instruction);
		const uint8_t *bytes = qemu_plugin_insn_data(insn);

		if (!instruction)
			return;
		instruction->pc = qemu_plugin_insn_vaddr(insn);
		fprintf(out, "I %lx ", (long)instruction->pc);
		for (size_t at = 0; at < qemu_plugin_insn_size(insn); at++)
			fprintf(out, "%02x", bytes[at]);
		fprintf(out, "\n");
		qemu_plugin_register_vcpu_insn_exec_cb(insn, executed, NO_REGISTERS, instruction);
		qemu_plugin_register_vcpu_mem_cb(insn, accessed, NO_REGISTERS, READ_AND_WRITE, instruction);
	}
}

int qemu_plugin_install(uint64_t id, const void *info, int count, char **words)
{
	for (int i = 0; i < count; i++)
		if (strncmp(words[i], "out=", 4) == 0)
			out = fopen(words[i] + 4, "w");
	if (!out)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
