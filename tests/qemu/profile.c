/*
 * profile.c - a plugin of qemu-user: what each instruction of a whole program loads and stores.
 *
 *     qemu-x86_64 -plugin PATH/profile.so,out=FILE PROGRAM
 *
 * FILE has /proc/self/maps, and of each instruction that accesses memory a line: its address as the host has
 * it, 1, loads, bytes loaded, stores, bytes stored. An access of more than 8 bytes is several here, and a
 * repeated instruction as many as its repetitions.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

int qemu_plugin_version = 1;

/* Of one translation of one instruction; what is translated again has more than one. */
struct instruction {
	struct instruction *next;
	uint64_t address, loads, loaded, stores, stored;
};

static const char *path;
static struct instruction *first;

static void accessed(unsigned cpu, uint32_t information, uint64_t address, void *context)
{
	struct instruction *instruction = context;
	unsigned bytes = 1u << qemu_plugin_mem_size_shift(information);

	(void)cpu, (void)address;
	if (qemu_plugin_mem_is_store(information))
		instruction->stores++, instruction->stored += bytes;
	else
		instruction->loads++, instruction->loaded += bytes;
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
		struct instruction *instruction = calloc(1, sizeof *instruction);

		if (!instruction)
			return;
		instruction->address = (uint64_t)(uintptr_t)qemu_plugin_insn_haddr(insn);
		instruction->next = first;
		first = instruction;
		qemu_plugin_register_vcpu_mem_cb(insn, accessed, NO_REGISTERS, READ_AND_WRITE, instruction);
	}
}

static void ended(uint64_t id, void *context)
{
	FILE *out = fopen(path, "w"), *maps = fopen("/proc/self/maps", "r");
	char line[4096];

	(void)id, (void)context;
	if (!out || !maps)
		return;
	while (fgets(line, sizeof line, maps))
		fputs(line, out);
	for (struct instruction *at = first; at; at = at->next)
		if (at->loads + at->stores > 0)
			fprintf(out, "A %lx 1 %lu %lu %lu %lu\n", (long)at->address, (long)at->loads,
			        (long)at->loaded, (long)at->stores, (long)at->stored);
	fclose(out);
	fclose(maps);
}

int qemu_plugin_install(uint64_t id, const void *info, int count, char **words)
{
	(void)info;
	for (int i = 0; i < count; i++)
		if (strncmp(words[i], "out=", 4) == 0)
			path = words[i] + 4;
	if (!path)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
