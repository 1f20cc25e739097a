/*
 * profile.c - an agent that counts, per instruction of a whole program, what it loads and stores: the exact
 * bytes of lh__access_bytes, with the registers of each execution. For tests/translate_qemu.sh.
 *
 * LH_PROFILE=FILE: there, in the end, one line each, of the instruction's address, 1 where every access is at
 * most 8 plain bytes, loads, bytes loaded, stores, bytes stored; before them /proc/self/maps.
 * LH_PROFILE_LESS: a planted fault: accesses by rsp that a push makes are left out.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "port/translate/inside.h"

#define MOST 400000u

struct entry {
	uint64_t address, loads, loaded, stores, stored;
	bool plain, less;
	struct lh_accesses accesses;
};

struct own {
	struct lh_access_state noted;
};

static struct {
	struct entry *entries;
	unsigned used;
	char path[256];
	bool less;
} agent;

static int sum(void *context, uint64_t address, uint64_t size)
{
	(void)address;
	*(uint64_t *)context += size;
	return 0;
}

static void count(struct entry *entry, const struct lh_access_state *state)
{
	for (unsigned i = 0; i < entry->accesses.count; i++) {
		const struct lh_access *access = &entry->accesses.at[i];
		uint64_t bytes = 0;

		if (lh__access_bytes(access, state, sum, &bytes) != 0 || bytes == 0 || entry->less)
			continue;
		if (access->kind & LH_ACCESS_READ)
			entry->loads++, entry->loaded += bytes;
		if (access->kind & LH_ACCESS_WRITE)
			entry->stores++, entry->stored += bytes;
	}
}

static void count_now(void *own, const struct lh_access_state *state, uint64_t constant)
{
	(void)own;
	count((struct entry *)(uintptr_t)constant, state);
}

/* How far one has come that repeats until data says so is known after it. */
static void note(void *own, const struct lh_access_state *state, uint64_t constant)
{
	struct own *mine = own;

	(void)constant;
	mine->noted = *state;
}

static void count_noted(void *own, const struct lh_access_state *state, uint64_t constant)
{
	struct own *mine = own;

	mine->noted.left = state->general[1];
	count((struct entry *)(uintptr_t)constant, &mine->noted);
}

static bool until(const struct lh_accesses *accesses)
{
	for (unsigned i = 0; i < accesses->count; i++)
		if (accesses->at[i].repeated == LH_REPEAT_UNTIL)
			return true;
	return false;
}

static struct entry *entry_for(const struct lh_translated_instruction *instruction)
{
	struct entry *entry = &agent.entries[agent.used];

	if (agent.used == MOST)
		return NULL;
	agent.used++;
	entry->address = instruction->address;
	entry->accesses = *instruction->accesses;
	entry->less = agent.less && instruction->decoded->mnemonic == ZYDIS_MNEMONIC_PUSH;
	entry->plain = true;
	for (unsigned i = 0; i < entry->accesses.count; i++)
		entry->plain = entry->plain && lh__access_is_plain(&entry->accesses.at[i]) &&
		               entry->accesses.at[i].size <= 8;
	return entry;
}

static void before(void *context, struct lh_emitter *emitter,
                   const struct lh_translated_instruction *instruction)
{
	struct entry *entry;

	(void)context;
	if (instruction->accesses->count == 0)
		return;
	entry = entry_for(instruction);
	if (!entry)
		return;
	lh__emit_call_state(emitter, until(instruction->accesses) ? note : count_now, instruction,
	                    (uint64_t)(uintptr_t)entry);
	lh__emit_done(emitter);
}

static void after(void *context, struct lh_emitter *emitter,
                  const struct lh_translated_instruction *instruction)
{
	(void)context;
	if (!until(instruction->accesses) || agent.used == 0)
		return;
	lh__emit_call_state(emitter, count_noted, instruction,
	                    (uint64_t)(uintptr_t)&agent.entries[agent.used - 1]);
	lh__emit_done(emitter);
}

static void put(int file, const char *text, size_t size)
{
	lh__raw_syscall(SYS_write, file, (long)text, (long)size, 0, 0, 0);
}

static void process_ends(void *context, void *own, int status)
{
	int out =
		(int)lh__raw_syscall(SYS_open, (long)agent.path, O_WRONLY | O_CREAT | O_TRUNC, 0644, 0, 0, 0);
	int maps = (int)lh__raw_syscall(SYS_open, (long)"/proc/self/maps", O_RDONLY, 0, 0, 0, 0);
	char text[4096];
	long size;

	(void)context, (void)own, (void)status;
	while ((size = lh__raw_syscall(SYS_read, maps, (long)text, sizeof(text), 0, 0, 0)) > 0)
		put(out, text, (size_t)size);
	for (unsigned i = 0; i < agent.used; i++) {
		const struct entry *entry = &agent.entries[i];

		put(out, text,
		    lh__format(text, sizeof(text), "A %lx %d %lu %lu %lu %lu\n", (long)entry->address,
		               entry->plain, (long)entry->loads, (long)entry->loaded, (long)entry->stores,
		               (long)entry->stored));
	}
}

__attribute__((constructor)) static void enter(int argc, char **argv, char **environment)
{
	static struct lh_process_options options = {
		.translate = { .client = { .thread_bytes = sizeof(struct own),
		                           .before = before,
		                           .after = after } },
		.process_ends = process_ends,
	};
	struct lh_translator *translator;
	struct lh_error error = { 0 };

	(void)argc, (void)argv;
	for (; *environment; environment++) {
		if (strncmp(*environment, "LH_PROFILE=", 11) == 0)
			lh__format(agent.path, sizeof(agent.path), "%s", *environment + 11);
		agent.less = agent.less || strncmp(*environment, "LH_PROFILE_LESS=", 16) == 0;
	}
	agent.entries = mmap(NULL, MOST * sizeof(struct entry), PROT_READ | PROT_WRITE,
	                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	options.translate.sys = &lh__sys_default;
	if (agent.entries == MAP_FAILED || lh__process_open(&options, &translator, &error) < 0)
		put(2, error.text, strlen(error.text));
}
