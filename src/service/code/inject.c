/*
 * inject.c - loads the agent. See inject.h.
 *
 *     base                 the agent's segments, as the ELF file lays them out
 *     base + span          struct lh_inside_start, filled up to whole pages
 *     ... + STACK_SIZE     the stack of start and stop
 *
 * Segments are relocated here and written as a whole; what is zero needs not be written. The memory is first
 * writable and then gets the rights of its segments: where a policy forbids that, the agent cannot live there
 * and the error says so.
 */
#include "service/code/inject.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/code/blob.h"
#include "service/code/inject_inside.h"

#define PAGE 4096u
#define CALL_MS 120000u

/* ---- the agent's file ---- */

static const Elf64_Ehdr *header(void)
{
	return (const Elf64_Ehdr *)(const void *)lh__inside_blob;
}

static const Elf64_Phdr *segment(unsigned i)
{
	return (const Elf64_Phdr *)(const void *)(lh__inside_blob + header()->e_phoff) + i;
}

static uint64_t whole_pages(uint64_t size)
{
	return (size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

/* What the dynamic section says of a tag; 0: nothing. All addresses of segments are offsets from the base. */
static uint64_t dynamic(const uint8_t *image, uint64_t at, int64_t tag)
{
	for (const Elf64_Dyn *entry = (const Elf64_Dyn *)(const void *)(image + at); entry->d_tag != DT_NULL;
	     entry++)
		if (entry->d_tag == tag)
			return entry->d_un.d_val;
	return 0;
}

static uint64_t symbol(const uint8_t *image, uint64_t at, const char *name)
{
	const Elf64_Sym *symbols = (const void *)(image + dynamic(image, at, DT_SYMTAB));
	const char *names = (const char *)image + dynamic(image, at, DT_STRTAB);
	const uint32_t *hash = (const void *)(image + dynamic(image, at, DT_HASH));

	for (uint32_t i = 0; i < hash[1]; i++)
		if (strcmp(names + symbols[i].st_name, name) == 0)
			return symbols[i].st_value;
	return 0;
}

/* The segments in memory, not relocated yet; to be freed. */
static uint8_t *lay_out(struct lh_agent *agent)
{
	uint64_t dynamic_at = 0;
	uint8_t *image;

	memset(agent, 0, sizeof(*agent));
	for (unsigned i = 0; i < header()->e_phnum; i++) {
		const Elf64_Phdr *part = segment(i);

		if (part->p_type == PT_DYNAMIC)
			dynamic_at = part->p_vaddr;
		if (part->p_type != PT_LOAD)
			continue;
		agent->span = whole_pages(part->p_vaddr + part->p_memsz);
		agent->filled = part->p_vaddr + part->p_filesz;
		if (part->p_flags & PF_X) {
			agent->text = part->p_vaddr & ~(uint64_t)(PAGE - 1);
			agent->text_bytes = part->p_vaddr + part->p_filesz - agent->text;
			agent->text_file = part->p_offset - (part->p_vaddr - agent->text);
		}
	}
	agent->size = agent->span + whole_pages(sizeof(struct lh_inside_start)) + LH_AGENT_STACK;
	image = calloc(1, whole_pages(agent->filled));
	if (!image)
		return NULL;
	for (unsigned i = 0; i < header()->e_phnum; i++)
		if (segment(i)->p_type == PT_LOAD)
			memcpy(image + segment(i)->p_vaddr, lh__inside_blob + segment(i)->p_offset,
			       segment(i)->p_filesz);
	agent->relocations = dynamic(image, dynamic_at, DT_RELA);
	agent->relocations_size = dynamic(image, dynamic_at, DT_RELASZ);
	agent->start = symbol(image, dynamic_at, "lh_inside_start");
	agent->stop = symbol(image, dynamic_at, "lh_inside_stop");
	return image;
}

int lh__agent_layout(struct lh_agent *agent)
{
	uint8_t *image = lay_out(agent);

	if (!image)
		return -ENOMEM;
	free(image);
	return 0;
}

static int relocate(const struct lh_agent *agent, uint8_t *image, uint64_t base)
{
	const Elf64_Rela *entry = (const void *)(image + agent->relocations);

	for (uint64_t i = 0; i < agent->relocations_size / sizeof(*entry); i++) {
		uint64_t value = base + (uint64_t)entry[i].r_addend;

		if (ELF64_R_TYPE(entry[i].r_info) != R_X86_64_RELATIVE ||
		    entry[i].r_offset > agent->filled - sizeof(value))
			return -ENOEXEC;
		memcpy(image + entry[i].r_offset, &value, sizeof(value));
	}
	return 0;
}

/* ---- into the process ---- */

static long remote_call3(struct lh_remote *remote, long nr, uint64_t a, uint64_t b, uint64_t c)
{
	return lh__remote_syscall(remote, nr, (const long[6]){ (long)a, (long)b, (long)c });
}

static long give_rights(struct lh_remote *remote, uint64_t base)
{
	long result = 0;

	for (unsigned i = 0; result == 0 && i < header()->e_phnum; i++) {
		const Elf64_Phdr *part = segment(i);
		uint64_t start = part->p_vaddr & ~(uint64_t)(PAGE - 1);
		int rights = (part->p_flags & PF_R ? PROT_READ : 0) |
		             (part->p_flags & PF_W ? PROT_WRITE : 0) | (part->p_flags & PF_X ? PROT_EXEC : 0);

		if (part->p_type == PT_LOAD && rights != (PROT_READ | PROT_WRITE))
			result = remote_call3(remote, SYS_mprotect, base + start,
			                      whole_pages(part->p_vaddr + part->p_memsz) - start,
			                      (uint64_t)rights);
	}
	return result;
}

/* Writes what is not zero, page by page: what is never touched stays no memory at all. */
static int write_image(struct lh_remote *remote, uint64_t base, const uint8_t *image, uint64_t size)
{
	static const uint8_t zeroes[PAGE];
	int result = 0;

	for (uint64_t at = 0; result == 0 && at < size; at += PAGE)
		if (memcmp(image + at, zeroes, PAGE) != 0)
			result = lh__remote_write(remote, base + at, image + at, PAGE);
	return result;
}

static int load(struct lh_remote *remote, const struct lh_agent *agent, uint8_t *image, uint64_t *base,
                struct lh_error *error)
{
	long at = lh__remote_syscall(remote, SYS_mmap,
	                             (const long[6]){ 0, (long)agent->size, PROT_READ | PROT_WRITE,
	                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0 });
	long result;

	if (at < 0)
		return lh__fail(error, (int)at, "process %d: no memory for the agent: %s",
		                lh__remote_process(remote), strerror((int)-at));
	*base = (uint64_t)at;
	result = relocate(agent, image, *base);
	if (result == 0)
		result = write_image(remote, *base, image, whole_pages(agent->filled));
	if (result == 0)
		result = give_rights(remote, *base);
	if (result < 0) {
		(void)remote_call3(remote, SYS_munmap, *base, agent->size, 0);
		return lh__fail(error, (int)result, "process %d: the agent cannot be loaded into it: %s",
		                lh__remote_process(remote), strerror((int)-result));
	}
	return 0;
}

/* ---- SIGTRAP ---- */

#define TRAP_BIT (UINT64_C(1) << (SIGTRAP - 1))

static bool ignores_trap(pid_t process)
{
	char path[64], line[256];
	uint64_t ignored = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", process);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (fgets(line, sizeof(line), file))
		if (strncmp(line, "SigIgn:", 7) == 0)
			ignored = strtoull(line + 7, NULL, 16);
	fclose(file);
	return ignored & TRAP_BIT;
}

/* Whether the thread in which the agent starts blocks SIGTRAP; no thread does any more. */
static int unblock_trap(struct lh_remote *remote, bool *blocked)
{
	struct lh_remote_thread *threads;
	size_t n = lh__remote_threads(remote, &threads);
	int result = 0;

	*blocked = n > 0 && threads[0].blocked & TRAP_BIT;
	for (size_t i = 0; i < n && result == 0; i++) {
		if (!(threads[i].blocked & TRAP_BIT))
			continue;
		threads[i].blocked &= ~TRAP_BIT;
		result = lh__remote_set(remote, &threads[i]);
		if (result == -ECHILD) /* it has ended meanwhile */
			result = 0;
	}
	return result;
}

/* ---- starting ---- */

static int start_agent(struct lh_remote *remote, const struct lh_agent *agent, uint64_t base,
                       struct lh_inside_start *start, const struct lh_inject_broker *broker,
                       struct lh_error *error)
{
	uint64_t at = base + agent->span;
	long returned = 0;
	int result = lh__remote_write(remote, at, start, sizeof(*start));

	if (result == 0)
		result = lh__remote_call(remote, base + agent->start, (const long[3]){ (long)at },
		                         start->stack, CALL_MS, broker->readable, broker->serve,
		                         broker->context, &returned);
	if (result < 0)
		return lh__fail(error, result, "process %d: the agent did not start: %s",
		                lh__remote_process(remote), strerror(-result));
	if (returned == 0)
		return 0;
	if (lh__remote_read(remote, at, start, sizeof(*start)) < 0)
		memset(&start->error, 0, sizeof(start->error));
	start->error.text[sizeof(start->error.text) - 1] = '\0';
	return lh__fail(error, (int)returned, "process %d: the agent did not start: %s",
	                lh__remote_process(remote), start->error.text);
}

int lh__inject(struct lh_remote *remote, const struct lh_inside_start *given,
               const struct lh_inject_broker *broker, struct lh_error *error)
{
	struct lh_inside_start start = *given;
	struct lh_agent agent;
	uint8_t *image = lay_out(&agent);
	bool blocked = false;
	uint64_t base = 0;
	int result;

	if (!image)
		return lh__fail(error, -ENOMEM, "no memory for the agent");
	result = load(remote, &agent, image, &base, error);
	free(image);
	if (result < 0)
		return result;
	result = unblock_trap(remote, &blocked);
	start.trap_blocked = blocked;
	start.trap_ignored = ignores_trap(lh__remote_process(remote));
	start.self = base;
	start.self_size = agent.size;
	start.stack = base + agent.size;
	if (result == 0)
		result = start_agent(remote, &agent, base, &start, broker, error);
	if (result < 0)
		(void)remote_call3(remote, SYS_munmap, base, agent.size, 0);
	return result;
}
