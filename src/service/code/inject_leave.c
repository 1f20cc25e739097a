/*
 * inject_leave.c - finds an agent in a process, and takes it out. See inject.h.
 *
 * A thread may stand in the agent: its instruction pointer says so, or a word of its stack that points into
 * the agent's code, which is a handler's frame or was one. Then it is not the moment.
 *
 * A thread that waits in a system call of the program's may stand in one of the agent's stubs (a copy of the
 * `syscall` instruction, and a jump back behind the original), for as long as the call takes. There is no
 * need to wait for it: the original is the same instruction, so the thread is put there. A signal's frame,
 * in which such a place is the address to return to, is changed alike.
 *
 * Last, a thread that has just met an INT3 and has not been told yet has its SIGTRAP pending.
 */
#include "service/code/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/code/blob.h"
#include "service/code/inject_inside.h"

#define PAGE 4096u
#define CALL_MS 120000u
#define STUB 16u /* syscall; movabs $behind, %rcx; jmp *%rcx */
#define STACK_MOST (8u << 20)
#define RANGES 256u
#define LOOKED_AT (1u << 20) /* of anonymous code: for stubs */

/* What of the agent is in a process. */
struct agency {
	struct lh_agent agent;
	pid_t process;
	int memory;
	uint64_t base; /* 0: not found */
	unsigned stubs;
	struct {
		uint64_t start, end;
	} stub[RANGES];
	bool whole; /* stubs and stacks are wanted, too */
	size_t stacks, room;
	struct {
		uint64_t start, end;
	} * stack; /* what may be one: all that can be written to, ascending */
};

/* ---- finding it ---- */

static bool is_anonymous_code(const struct lh_mapping *mapping)
{
	return mapping->inode == 0 && mapping->path[0] == '\0' && mapping->rights[2] == 'x' &&
	       mapping->rights[1] != 'w';
}

static bool same_code(const struct agency *agency, uint64_t address)
{
	const uint8_t *code = lh__inside_blob + agency->agent.text_file;
	uint8_t chunk[PAGE];

	for (uint64_t at = 0; at < agency->agent.text_bytes; at += PAGE) {
		size_t size = agency->agent.text_bytes - at < PAGE ? agency->agent.text_bytes - at : PAGE;

		if (pread(agency->memory, chunk, size, (off_t)(address + at)) != (ssize_t)size ||
		    memcmp(chunk, code + at, size) != 0)
			return false;
	}
	return true;
}

static bool is_stub(const uint8_t *code)
{
	return memcmp(code, "\x0f\x05\x48\xb9", 4) == 0 && memcmp(code + 12, "\xff\xe1", 2) == 0;
}

static bool read_stub(const struct agency *agency, uint64_t at, uint64_t *behind)
{
	uint8_t stub[STUB];

	if (pread(agency->memory, stub, sizeof(stub), (off_t)at) != (ssize_t)sizeof(stub) || !is_stub(stub))
		return false;
	memcpy(behind, stub + 4, sizeof(*behind));
	return true;
}

static bool has_stub(const struct agency *agency, const struct lh_mapping *mapping)
{
	uint64_t end = mapping->end - mapping->start < LOOKED_AT ? mapping->end : mapping->start + LOOKED_AT;
	uint8_t page[PAGE];

	for (uint64_t from = mapping->start; from < end; from += PAGE) {
		if (pread(agency->memory, page, PAGE, (off_t)from) != (ssize_t)PAGE)
			continue;
		for (unsigned at = 0; at < PAGE; at += STUB)
			if (is_stub(page + at))
				return true;
	}
	return false;
}

static int note_stack(struct agency *agency, const struct lh_mapping *mapping)
{
	if (agency->stacks == agency->room) {
		size_t room = agency->room ? agency->room * 2 : 64;
		void *more = realloc(agency->stack, room * sizeof(*agency->stack));

		if (!more)
			return -ENOMEM;
		agency->stack = more;
		agency->room = room;
	}
	agency->stack[agency->stacks].start = mapping->start;
	agency->stack[agency->stacks++].end = mapping->end;
	return 0;
}

static int look_at(void *context, const struct lh_mapping *mapping)
{
	struct agency *agency = context;

	if (agency->whole && mapping->rights[1] == 'w')
		return note_stack(agency, mapping);
	if (!is_anonymous_code(mapping))
		return 0;
	if (!agency->base && mapping->end - mapping->start >= agency->agent.text_bytes &&
	    same_code(agency, mapping->start)) {
		agency->base = mapping->start - agency->agent.text;
		return 0;
	}
	if (agency->whole && agency->stubs < RANGES && has_stub(agency, mapping)) {
		agency->stub[agency->stubs].start = mapping->start;
		agency->stub[agency->stubs++].end = mapping->end;
	}
	return 0;
}

static int find(struct agency *agency, pid_t process, bool whole)
{
	char path[64];
	int result;

	memset(agency, 0, sizeof(*agency));
	agency->process = process;
	agency->whole = whole;
	snprintf(path, sizeof(path), "/proc/%d/mem", process);
	agency->memory = open(path, O_RDONLY | O_CLOEXEC);
	if (agency->memory < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	result = lh__agent_layout(&agency->agent);
	if (result == 0)
		result = lh__mappings(process, look_at, agency);
	if (result >= 0 && !agency->base)
		result = -ENOENT;
	return result;
}

static void lose(struct agency *agency)
{
	if (agency->memory >= 0)
		close(agency->memory);
	free(agency->stack);
}

bool lh__inject_find(pid_t process, char name[104])
{
	struct agency *agency = malloc(sizeof(*agency));
	bool found = agency && find(agency, process, false) >= 0;

	if (found) {
		off_t at =
			(off_t)(agency->base + agency->agent.span + offsetof(struct lh_inside_start, name));

		found = pread(agency->memory, name, 104, at) == 104 && name[0] != '\0';
		name[103] = '\0';
	}
	if (agency)
		lose(agency);
	free(agency);
	return found;
}

/* ---- threads ---- */

static bool in_agent(const struct agency *agency, uint64_t address)
{
	uint64_t code = agency->base + agency->agent.text;

	return address >= code && address < code + agency->agent.text_bytes;
}

/* The place in the program that one in a stub stands for; 0: it is in none. */
static uint64_t from_stub(const struct agency *agency, uint64_t address)
{
	for (unsigned i = 0; i < agency->stubs; i++) {
		uint64_t behind, at = address % STUB;

		if (address < agency->stub[i].start || address >= agency->stub[i].end)
			continue;
		if ((at != 0 && at != 2 && at != 12) || !read_stub(agency, address - at, &behind))
			return 0;
		return at == 0 ? behind - 2 : behind;
	}
	return 0;
}

static bool trap_pending(pid_t process, pid_t thread)
{
	char path[64], line[256];
	uint64_t pending = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", process, thread);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (fgets(line, sizeof(line), file))
		if (strncmp(line, "SigPnd:", 7) == 0)
			pending = strtoull(line + 7, NULL, 16);
	fclose(file);
	return pending >> (SIGTRAP - 1) & 1;
}

/* The end of the memory that a stack's top lies in; 0: it lies nowhere. */
static uint64_t end_of_stack(const struct agency *agency, uint64_t top)
{
	size_t low = 0, high = agency->stacks;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (agency->stack[middle].end <= top)
			low = middle + 1;
		else
			high = middle;
	}
	return low < agency->stacks && agency->stack[low].start <= top ? agency->stack[low].end : 0;
}

/* Calls word for each word of a thread's stack that is in use, until it returns non-zero. */
static int each_word(struct agency *agency, uint64_t stack,
                     int (*word)(struct agency *agency, uint64_t at, uint64_t value))
{
	uint64_t at = stack & ~UINT64_C(7), end = end_of_stack(agency, at), words[PAGE / 8];
	int result = 0;

	if (end > at && end - at > STACK_MOST)
		end = at + STACK_MOST;
	while (at < end && result == 0) {
		size_t size = end - at < sizeof(words) ? end - at : sizeof(words);

		if (pread(agency->memory, words, size, (off_t)at) != (ssize_t)size)
			break;
		for (size_t i = 0; i < size / 8 && result == 0; i++)
			result = word(agency, at + i * 8, words[i]);
		at += size;
	}
	return result;
}

static int points_into_agent(struct agency *agency, uint64_t at, uint64_t value)
{
	(void)at;
	return in_agent(agency, value);
}

/* 0: it is nowhere in the agent; 1: it is; 2: its trap is on its way. */
static int stands_in_agent(struct agency *agency, const struct lh_remote_thread *thread)
{
	if (trap_pending(agency->process, thread->id))
		return 2;
	if (in_agent(agency, thread->registers.rip))
		return 1;
	return each_word(agency, thread->registers.rsp, points_into_agent) > 0;
}

static int put_word(struct agency *agency, uint64_t at, uint64_t value)
{
	uint64_t place = from_stub(agency, value);
	char path[64];
	int memory;

	if (place == 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/mem", agency->process);
	memory = open(path, O_WRONLY | O_CLOEXEC);
	if (memory < 0)
		return -errno;
	(void)!pwrite(memory, &place, sizeof(place), (off_t)at);
	close(memory);
	return 0;
}

/* Puts a thread that is in a stub, now or when a signal's handler returns, to where it would be without. */
static int put_out_of_stubs(struct agency *agency, struct lh_remote *remote, struct lh_remote_thread *thread)
{
	uint64_t place = from_stub(agency, thread->registers.rip);
	int result = 0;

	if (agency->stubs == 0)
		return 0;
	if (place != 0) {
		if (thread->registers.rip % STUB == 2)
			thread->registers.rcx = place;
		thread->registers.rip = place;
		result = lh__remote_set(remote, thread);
	}
	if (result == 0 || result == -ECHILD)
		result = each_word(agency, thread->registers.rsp, put_word);
	return result;
}

/* ---- leaving ---- */

static int clear_threads(struct agency *agency, struct lh_remote *remote, bool force, bool *left,
                         struct lh_error *error)
{
	struct lh_remote_thread *threads;
	size_t n = lh__remote_threads(remote, &threads);
	int result = 0;

	for (size_t i = 0; i < n; i++) {
		int stands = stands_in_agent(agency, &threads[i]);

		if (stands == 2 || (stands == 1 && !force))
			return lh__fail(error, -EAGAIN, "thread %d of process %d is in the agent",
			                threads[i].id, agency->process);
		*left |= stands == 1;
	}
	for (size_t i = 0; i < n && result == 0; i++)
		result = put_out_of_stubs(agency, remote, &threads[i]);
	return result < 0 ? lh__fail(error, result, "process %d: its stacks cannot be read: %s",
	                             agency->process, strerror(-result))
	                  : 0;
}

static int stop_agent(const struct agency *agency, struct lh_remote *remote, bool keep,
                      const struct lh_inject_broker *broker, struct lh_error *error)
{
	long returned = 0;
	int result = lh__remote_call(remote, agency->base + agency->agent.stop, (const long[3]){ keep },
	                             agency->base + agency->agent.size, CALL_MS, broker->readable,
	                             broker->serve, broker->context, &returned);

	if (result == 0)
		result = (int)returned;
	return result < 0 ? lh__fail(error, result, "process %d: the agent did not stop: %s", agency->process,
	                             strerror(-result))
	                  : 0;
}

/* What is left of an agent is nobody's any more: it is not to be found, and stopped, again. */
static int disown(const struct agency *agency, struct lh_remote *remote)
{
	const char none[1] = "";

	return lh__remote_write(remote,
	                        agency->base + agency->agent.span + offsetof(struct lh_inside_start, name),
	                        none, sizeof(none));
}

int lh__inject_leave(struct lh_remote *remote, bool force, const struct lh_inject_broker *broker, bool *left,
                     struct lh_error *error)
{
	struct agency *agency = malloc(sizeof(*agency));
	int result;

	*left = false;
	if (!agency)
		return lh__fail(error, -ENOMEM, "no memory");
	result = find(agency, lh__remote_process(remote), true);
	if (result < 0)
		result = lh__fail(error, result, "process %d: its agent is not found", agency->process);
	if (result == 0)
		result = clear_threads(agency, remote, force, left, error);
	if (result == 0)
		result = stop_agent(agency, remote, *left, broker, error);
	if (result == 0 && !*left)
		result = (int)lh__remote_syscall(remote, SYS_munmap,
		                                 (const long[6]){ (long)agency->base,
		                                                  (long)agency->agent.size });
	else if (result == 0)
		result = disown(agency, remote);
	lose(agency);
	free(agency);
	return result;
}
