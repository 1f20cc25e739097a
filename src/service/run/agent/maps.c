/* maps.c - see maps.h. A line: "start-end prot offset major:minor inode   name". */
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

/* Visits the whole lines at the front of the buffer; returns how many bytes they take. */
static size_t visit_lines(char *buffer, size_t size, int (*visit)(void *, const struct lh_mapping *),
                          void *context, int *result)
{
	struct lh_mapping mapping;
	size_t used = 0;
	char *end;

	while (*result == 0 && (end = memchr(buffer + used, '\n', size - used))) {
		*end = 0;
		parse(buffer + used, &mapping);
		used = (size_t)(end - buffer) + 1;
		*result = visit(context, &mapping);
	}
	return used;
}

int lh__maps_read(const struct lh_sys *sys, int (*visit)(void *, const struct lh_mapping *), void *context)
{
	char buffer[BUFFER];
	size_t size = 0, used;
	int result = 0;
	int file = (int)LH_SYS(sys, SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (file < 0)
		return file;
	while (result == 0) {
		long n = LH_SYS(sys, SYS_read, file, buffer + size, sizeof buffer - size);

		if (n <= 0) {
			result = (int)n;
			break;
		}
		size += (size_t)n;
		used = visit_lines(buffer, size, visit, context, &result);
		if (used == 0 && size == sizeof buffer)
			result = -EOVERFLOW; /* no line is so long: a path has at most PATH_MAX bytes */
		memmove(buffer, buffer + used, size - used);
		size -= used;
	}
	LH_SYS(sys, SYS_close, file);
	return result;
}
