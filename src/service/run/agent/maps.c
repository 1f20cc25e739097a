/*
 * maps.c - see maps.h. A line: "start-end prot offset major:minor inode   name"; in smaps lines like
 * "Size:  4 kB" and "VmFlags: rd wr mr" follow it.
 */
#include "service/run/agent/maps.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define BUFFER 8192

static const char *read_hex(const char *at, uintptr_t *value)
{
	for (*value = 0;; at++) {
		if (*at >= '0' && *at <= '9')
			*value = *value * 16 + (uintptr_t)(*at - '0');
		else if (*at >= 'a' && *at <= 'f')
			*value = *value * 16 + (uintptr_t)(*at - 'a' + 10);
		else
			return at;
	}
}

static const char *skip_word(const char *at)
{
	while (*at && *at != ' ')
		at++;
	while (*at == ' ')
		at++;
	return at;
}

static void parse(const char *line, struct lh_mapping *mapping)
{
	const char *at = read_hex(line, &mapping->start);
	size_t length;

	at = read_hex(at + 1, &mapping->end);
	memcpy(mapping->protection, at + 1, 4);
	mapping->protection[4] = 0;
	at = skip_word(skip_word(skip_word(at + 1)));
	for (mapping->inode = 0; *at >= '0' && *at <= '9'; at++)
		mapping->inode = mapping->inode * 10 + (uint64_t)(*at - '0');
	while (*at == ' ')
		at++;
	length = strlen(at);
	if (length >= sizeof mapping->name)
		length = sizeof mapping->name - 1;
	memcpy(mapping->name, at, length);
	mapping->name[length] = 0;
}

/* What is being read: the mapping of the last line that began one, and whom to tell. */
struct reading {
	struct lh_mapping mapping;
	int (*visit)(void *, const struct lh_mapping *);
	void *context;
	bool details; /* lines about each mapping follow, of which VmFlags is the last */
};

static bool has_flag(const char *line, const char *flag)
{
	while (*(line = skip_word(line)))
		if (line[0] == flag[0] && line[1] == flag[1])
			return true;
	return false;
}

static int take_line(struct reading *reading, const char *line)
{
	if (*line < 'A' || *line > 'Z') {
		parse(line, &reading->mapping);
		return reading->details ? 0 : reading->visit(reading->context, &reading->mapping);
	}
	if (strncmp(line, "VmFlags:", 8) != 0)
		return 0;
	reading->mapping.wiped = has_flag(line, "wf");
	return reading->visit(reading->context, &reading->mapping);
}

/* Takes the whole lines at the front of the buffer; returns how many bytes they take. */
static size_t take_lines(struct reading *reading, char *buffer, size_t size, int *result)
{
	size_t used = 0;
	char *end;

	while (*result == 0 && (end = memchr(buffer + used, '\n', size - used))) {
		*end = 0;
		*result = take_line(reading, buffer + used);
		used = (size_t)(end - buffer) + 1;
	}
	return used;
}

static int read_file(const struct lh_sys *sys, const char *path, struct reading *reading)
{
	char buffer[BUFFER];
	size_t size = 0, used;
	int result = 0;
	int file = (int)LH_SYS(sys, SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);

	if (file < 0)
		return file;
	while (result == 0) {
		long n = LH_SYS(sys, SYS_read, file, buffer + size, sizeof buffer - size);

		if (n <= 0) {
			result = (int)n;
			break;
		}
		size += (size_t)n;
		used = take_lines(reading, buffer, size, &result);
		if (used == 0 && size == sizeof buffer)
			result = -EOVERFLOW; /* no line is so long: a path has at most PATH_MAX bytes */
		memmove(buffer, buffer + used, size - used);
		size -= used;
	}
	LH_SYS(sys, SYS_close, file);
	return result;
}

int lh__maps_read(const struct lh_sys *sys, int (*visit)(void *, const struct lh_mapping *), void *context)
{
	struct reading reading = { .visit = visit, .context = context };

	return read_file(sys, "/proc/self/maps", &reading);
}

int lh__smaps_read(const struct lh_sys *sys, int (*visit)(void *, const struct lh_mapping *), void *context)
{
	struct reading reading = { .visit = visit, .context = context, .details = true };

	return read_file(sys, "/proc/self/smaps", &reading);
}
