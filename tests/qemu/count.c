/*
 * count.c - a plugin of qemu-user: what the code of one file executes, loads and stores.
 *
 *     qemu-x86_64 -plugin PATH/count.so,out=FILE,module=PART-OF-A-PATH PROGRAM
 *
 * FILE has five numbers in the end: instructions, bytes loaded and stored, loads, stores. An access of more
 * than 8 bytes is several here, and a repeated instruction as many as its repetitions.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

int qemu_plugin_version = 1;

static const char *path, *module;
static uint64_t instructions, loads, stores, bytes_loaded, bytes_stored;

static struct {
	uint64_t start, end;
	bool ours;
} range[512];
static unsigned ranges;

static void read_maps(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[4096];

	ranges = 0;
	while (maps && ranges < 512 && fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx", &range[ranges].start, &range[ranges].end) == 2)
			range[ranges++].ours = strstr(line, module) != NULL;
	if (maps)
		fclose(maps);
}

static int look_up(uint64_t address)
{
	for (unsigned i = 0; i < ranges; i++)
		if (address >= range[i].start && address < range[i].end)
			return range[i].ours;
	return -1;
}

static void executed(unsigned cpu, void *context)
{
	(void)cpu, (void)context;
	instructions++;
}

static void accessed(unsigned cpu, uint32_t information, uint64_t address, void *context)
{
	(void)cpu, (void)address;
	if (!context)
		return;
	if (qemu_plugin_mem_is_store(information)) {
		stores++;
		bytes_stored += 1u << qemu_plugin_mem_size_shift(information);
	} else {
		loads++;
		bytes_loaded += 1u << qemu_plugin_mem_size_shift(information);
	}
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
		struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
		uint64_t address = (uint64_t)(uintptr_t)qemu_plugin_insn_haddr(instruction);
		int ours = look_up(address);

		if (ours < 0) {
			read_maps();
			ours = look_up(address);
		}
		/* Of all, since qemu tells of some by the callback of the instruction before. */
		qemu_plugin_register_vcpu_mem_cb(instruction, accessed, NO_REGISTERS, READ_AND_WRITE,
		                                 ours > 0 ? instruction : NULL);
		if (ours > 0)
			qemu_plugin_register_vcpu_insn_exec_cb(instruction, executed, NO_REGISTERS, NULL);
	}
}

static void ended(uint64_t id, void *context)
{
	FILE *out = fopen(path, "w");

	(void)id, (void)context;
	if (out)
		fprintf(out, "%lu %lu %lu %lu %lu\n", (long)instructions, (long)bytes_loaded,
		        (long)bytes_stored, (long)loads, (long)stores);
	if (out)
		fclose(out);
}

int qemu_plugin_install(uint64_t id, const void *info, int count, char **words)
{
	(void)info;
	for (int i = 0; i < count; i++) {
		if (strncmp(words[i], "out=", 4) == 0)
			path = words[i] + 4;
		if (strncmp(words[i], "module=", 7) == 0)
			module = words[i] + 7;
	}
	if (!path || !module)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
