/*
 * modules.c - which file code comes from: /proc/self/maps, read again when something was mapped, or when code
 * lies where nothing was before.
 */
#include <fcntl.h>
#include <string.h>

#include "service/count/agent/agent.h"

#define BUFFER 65536

/* A line of maps: start-end perms offset device inode   path */
struct line {
	uint64_t start, end;
	bool executable;
	const char *path;
	size_t length;
};

static const char *hexadecimal(const char *at, uint64_t *out)
{
	uint64_t value = 0;

	for (;; at++) {
		unsigned digit = (unsigned)(unsigned char)*at;

		if (digit >= '0' && digit <= '9')
			digit -= '0';
		else if (digit >= 'a' && digit <= 'f')
			digit -= 'a' - 10;
		else
			break;
		value = value << 4 | digit;
	}
	*out = value;
	return at;
}

static void read_line(const char *text, size_t length, struct line *line)
{
	const char *end = text + length, *at = hexadecimal(text, &line->start);

	at = hexadecimal(at + 1, &line->end) + 1;
	line->executable = end - at > 4 && at[2] == 'x';
	/* perms, offset, device, inode */
	for (int i = 0; i < 4 && at < end; i++)
		while (at < end && *at++ != ' ')
			;
	while (at < end && *at == ' ')
		at++;
	line->path = at;
	line->length = (size_t)(end - at);
}

static bool begins(const struct line *line, const char *with)
{
	size_t length = strlen(with);

	return line->length >= length && memcmp(line->path, with, length) == 0;
}

static uint32_t module_of(struct lh_count_process *process, const struct line *line)
{
	size_t length = line->length < 255 ? line->length : 255;
	uint32_t i;

	if (begins(line, "[vdso]"))
		length = 6;
	else if (line->length == 0 || line->path[0] != '/' || begins(line, "/memfd:") ||
	         begins(line, "/dev/zero") || begins(line, "/SYSV"))
		return LH_COUNT_GENERATED;
	for (i = LH_COUNT_FIRST_FILE; i < process->modules; i++)
		if (strlen(process->module[i].path) == length &&
		    memcmp(process->module[i].path, line->path, length) == 0)
			return i;
	if (i == LH_COUNT_MODULES)
		return LH_COUNT_OTHERS;
	memcpy(process->module[i].path, line->path, length);
	process->modules = i + 1;
	return i;
}

/* The agent, and the libraries that came with it, for which the program would have no use. */
static bool is_own(const struct line *line)
{
	static const char *const names[] = { "/libZydis.so", "/libZycore.so" };
	uint64_t here = (uint64_t)(uintptr_t)lh__count_module;

	if (here >= line->start && here < line->end)
		return true;
	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		for (size_t at = 0; at + strlen(names[i]) <= line->length; at++)
			if (memcmp(line->path + at, names[i], strlen(names[i])) == 0)
				return true;
	return false;
}

static void take_line(struct lh_count_agent *agent, const char *text, size_t length)
{
	struct line line;

	read_line(text, length, &line);
	if (!line.executable || agent->ranges == LH_COUNT_RANGES)
		return;
	agent->range[agent->ranges++] =
		(struct lh_count_range){ line.start, line.end,
		                         is_own(&line) ? LH_COUNT_NONE : module_of(agent->process, &line) };
}

/* Lines are short of BUFFER; what is left of one stays for the next read. */
static void read_maps(struct lh_count_agent *agent, char *buffer)
{
	const struct lh_sys *sys = &agent->sys;
	long file = LH_SYS(sys, SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0), got;
	size_t have = 0;

	agent->ranges = 0;
	while (file >= 0 && (got = LH_SYS(sys, SYS_read, file, buffer + have, BUFFER - have)) > 0) {
		char *at = buffer, *end = buffer + have + got, *newline;

		while ((newline = memchr(at, '\n', (size_t)(end - at)))) {
			take_line(agent, at, (size_t)(newline - at));
			at = newline + 1;
		}
		have = (size_t)(end - at);
		memmove(buffer, at, have);
	}
	if (file >= 0)
		LH_SYS(sys, SYS_close, file);
}

static uint32_t look_up(const struct lh_count_agent *agent, uint64_t address)
{
	for (uint32_t i = 0; i < agent->ranges; i++)
		if (address >= agent->range[i].start && address < agent->range[i].end)
			return i;
	return LH_COUNT_NONE;
}

uint32_t lh__count_module(struct lh_count_agent *agent, uint64_t address)
{
	uint32_t i = look_up(agent, address);
	char *buffer;

	if (__atomic_exchange_n(&agent->stale, 0, __ATOMIC_ACQ_REL) || i == LH_COUNT_NONE) {
		buffer = lh__alloc(&agent->sys, BUFFER);
		if (buffer)
			read_maps(agent, buffer);
		lh__free(&agent->sys, buffer, BUFFER);
		i = look_up(agent, address);
	}
	return i == LH_COUNT_NONE ? LH_COUNT_OTHERS : agent->range[i].module;
}
