/*
 * code_inside.h - what stands in for the loader and for the watcher of the inside agent: the test's own child
 * maps the agent and starts it in itself, and the test answers what it asks.
 */
#ifndef CODE_INSIDE_H
#define CODE_INSIDE_H

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "port/code/inside.h"
#include "service/code/blob.h"
#include "service/code/plan_make.h"

#define RECORD_SIZE (64u << 20)
#define RECORD_START 8192u

struct module {
	uint64_t start, end, hits;
	uint32_t action;
	char path[256];
};

/* Shared by the test and its children. */
struct seen {
	unsigned modules, hellos, executes;
	uint64_t used;
	struct module module[128];
};

static struct seen *seen;
static uint8_t *record;
static int record_file = -1, listener = -1;
static char watcher_name[64];
/* What the watcher answers for a file: LH_ANSWER_... */
static uint32_t (*choose)(const char *path);

static struct lh_record_control *control(void)
{
	return (struct lh_record_control *)(void *)(record + LH_RECORD_CONTROL);
}

/* ---- the loader ---- */

struct agent {
	uint8_t *base;
	size_t size;
	long (*start)(struct lh_inside_start *);
	long (*stop)(long keep);
};

static bool agent_load(struct agent *agent)
{
	const uint8_t *blob = lh__inside_blob;
	const Elf64_Ehdr *head = (const void *)blob;
	const Elf64_Phdr *part = (const void *)(blob + head->e_phoff);
	const Elf64_Shdr *section = (const void *)(blob + head->e_shoff);
	unsigned i;

	*agent = (struct agent){ .size = 0 };
	for (i = 0; i < head->e_phnum; i++)
		if (part[i].p_type == PT_LOAD && part[i].p_vaddr + part[i].p_memsz > agent->size)
			agent->size = (part[i].p_vaddr + part[i].p_memsz + 4095) & ~4095ul;
	agent->base = mmap(NULL, agent->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (agent->base == MAP_FAILED)
		return false;
	for (i = 0; i < head->e_phnum; i++)
		if (part[i].p_type == PT_LOAD)
			memcpy(agent->base + part[i].p_vaddr, blob + part[i].p_offset, part[i].p_filesz);
	for (i = 0; i < head->e_shnum; i++) {
		const Elf64_Rela *relocation = (const void *)(blob + section[i].sh_offset);
		const Elf64_Sym *symbol = (const void *)(blob + section[i].sh_offset);
		const char *names = (const char *)blob + section[section[i].sh_link].sh_offset;
		size_t n;

		for (n = 0; section[i].sh_type == SHT_RELA && n < section[i].sh_size / sizeof *relocation;
		     n++) {
			uint64_t value = (uint64_t)agent->base + (uint64_t)relocation[n].r_addend;

			if (ELF64_R_TYPE(relocation[n].r_info) != R_X86_64_RELATIVE)
				return false;
			memcpy(agent->base + relocation[n].r_offset, &value, sizeof value);
		}
		for (n = 1; section[i].sh_type == SHT_DYNSYM && n < section[i].sh_size / sizeof *symbol;
		     n++) {
			void *at = agent->base + symbol[n].st_value;

			if (strcmp(names + symbol[n].st_name, "lh_inside_start") == 0)
				memcpy(&agent->start, &at, sizeof at);
			if (strcmp(names + symbol[n].st_name, "lh_inside_stop") == 0)
				memcpy(&agent->stop, &at, sizeof at);
		}
	}
	for (i = 0; i < head->e_phnum; i++)
		if (part[i].p_type == PT_LOAD && part[i].p_flags & PF_X)
			mprotect(agent->base + part[i].p_vaddr, (part[i].p_memsz + 4095) & ~4095ul,
			         PROT_READ | PROT_EXEC);
	return agent->start && agent->stop;
}

static long agent_try(struct agent *agent, bool launched, enum lh_granularity granularity,
                      struct lh_error *error)
{
	struct lh_inside_start start = { .launched = launched, .granularity = granularity };
	long result;

	snprintf(start.name, sizeof start.name, "%s", watcher_name);
	start.self = (uint64_t)agent->base;
	start.self_size = agent->size;
	result = agent->start(&start);
	*error = start.error;
	return result;
}

/* Where nothing is to go wrong. */
static long agent_start(struct agent *agent, bool launched, enum lh_granularity granularity)
{
	struct lh_error error;
	long result = agent_try(agent, launched, granularity, &error);

	if (result != 0)
		fprintf(stderr, "# start: %ld: %s\n", result, error.text);
	return result;
}

/* ---- the watcher ---- */

static void mapped_path(pid_t process, uint64_t address, char path[256])
{
	char name[64], line[512];
	uint64_t start, end;
	int at;
	FILE *maps;

	path[0] = 0;
	snprintf(name, sizeof name, "/proc/%d/maps", (int)process);
	maps = fopen(name, "re");
	while (maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &start, &end, &at) == 2 && start == address) {
			line[strcspn(line, "\n")] = 0;
			snprintf(path, 256, "%s", line + at);
		}
	if (maps)
		fclose(maps);
}

/* The module of an earlier process is the same one: it has its bitmap already. */
static uint64_t hits_for(const char *path, uint64_t offset, uint64_t size)
{
	unsigned i;

	for (i = 0; i < seen->modules; i++)
		if (strcmp(seen->module[i].path, path) == 0 && seen->module[i].hits)
			return seen->module[i].hits;
	(void)offset;
	seen->used += (size / 8 + 4095) & ~4095ul;
	return seen->used - ((size / 8 + 4095) & ~4095ul);
}

static int answer_module(pid_t process, const struct lh_ask *ask, struct lh_answer *answer)
{
	char path[256];
	struct lh_plan plan;
	struct lh_error error;
	int file, descriptor = -1;
	unsigned i;

	mapped_path(process, ask->address, path);
	answer->action = choose(path);
	file = answer->action == LH_ANSWER_IGNORE ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || lh__plan_open(&lh__sys_default, file, path, &plan, &error) != 0) {
		answer->action = LH_ANSWER_IGNORE;
		if (file >= 0)
			close(file);
		return -1;
	}
	close(file);
	for (i = 0; i < plan.head->texts; i++)
		if (plan.head->text[i].offset == ask->offset) {
			uint64_t size =
				plan.head->text[i].size < ask->size ? plan.head->text[i].size : ask->size;
			struct module *module = &seen->module[seen->modules];

			answer->text = i;
			answer->start = ask->address;
			answer->end = ask->address + size;
			answer->plan_size = plan.head->size;
			answer->hits = hits_for(path, ask->offset, plan.head->text[i].size);
			*module = (struct module){ answer->start, answer->end, answer->hits, answer->action,
				                   "" };
			memcpy(module->path, path, sizeof path);
			seen->modules++;
			descriptor = dup(plan.descriptor);
		}
	if (descriptor < 0)
		answer->action = LH_ANSWER_IGNORE;
	lh__plan_close(&lh__sys_default, &plan);
	return descriptor;
}

static void send_answer(int socket, const struct lh_answer *answer, int descriptor)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control_data = { { 0 } };
	struct iovec part = { (void *)(uintptr_t)answer, sizeof *answer };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (descriptor >= 0) {
		message.msg_control = &control_data;
		message.msg_controllen = sizeof control_data;
		control_data.header.cmsg_level = SOL_SOCKET;
		control_data.header.cmsg_type = SCM_RIGHTS;
		control_data.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control_data.header), &descriptor, sizeof descriptor);
	}
	(void)!sendmsg(socket, &message, MSG_NOSIGNAL);
}

static void serve_one(void)
{
	struct lh_answer answer = { .error = 0 };
	struct lh_ask ask;
	struct ucred peer;
	socklen_t size = sizeof peer;
	int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC), descriptor = -1;

	if (socket < 0)
		return;
	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
	    recv(socket, &ask, sizeof ask, 0) == (ssize_t)sizeof ask) {
		seen->hellos += ask.kind == LH_ASK_HELLO;
		seen->executes += ask.kind == LH_ASK_EXECUTE;
		if (ask.kind == LH_ASK_HELLO)
			descriptor = dup(record_file);
		else if (ask.kind == LH_ASK_MODULE)
			descriptor = answer_module(peer.pid, &ask, &answer);
		send_answer(socket, &answer, descriptor);
	}
	if (descriptor >= 0)
		close(descriptor);
	close(socket);
}

static bool watcher_open(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(watcher_name, sizeof watcher_name, "linehome-test-%d", (int)getpid());
	memcpy(address.sun_path + 1, watcher_name, strlen(watcher_name));
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	record_file = memfd_create("record", MFD_CLOEXEC);
	seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return listener >= 0 && record_file >= 0 && seen != MAP_FAILED &&
	       ftruncate(record_file, RECORD_SIZE) == 0 &&
	       bind(listener, (void *)&address,
	            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(watcher_name))) == 0 &&
	       listen(listener, 16) == 0;
}

/* A record without hits, for the next case. */
static bool watcher_reset(void)
{
	*seen = (struct seen){ .used = RECORD_START };
	if (record)
		munmap(record, RECORD_SIZE);
	if (ftruncate(record_file, 0) != 0 || ftruncate(record_file, RECORD_SIZE) != 0)
		return false;
	record = mmap(NULL, RECORD_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, record_file, 0);
	return record != MAP_FAILED;
}

/* Runs body in a child and answers its agent until it has ended; returns its wait status. */
static int watch_child(int (*body)(void))
{
	int status = -1;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0)
		_exit(body());
	while (child > 0 && waitpid(child, &status, WNOHANG) == 0) {
		struct pollfd ready = { .fd = listener, .events = POLLIN };

		if (poll(&ready, 1, 20) > 0)
			serve_one();
	}
	return status;
}

/* ---- what was seen ---- */

static enum lh_granularity granularity = LH_GRANULARITY_BLOCK;

static const struct module *module_at(uint64_t address)
{
	unsigned i;

	for (i = seen->modules; i > 0; i--)
		if (address >= seen->module[i - 1].start && address < seen->module[i - 1].end)
			return &seen->module[i - 1];
	return NULL;
}

__attribute__((unused)) static bool hit(uint64_t address)
{
	const struct module *module = module_at(address);
	uint64_t at;

	if (!module || !module->hits)
		return false;
	at = address - module->start;
	if (granularity == LH_GRANULARITY_LINE)
		return ((uint64_t *)(void *)(record + module->hits))[at / 64] != 0;
	return record[module->hits + at / 8] >> at % 8 & 1;
}

#endif
