/*
 * maps.c - reads /proc/self/maps, and has the modules armed that it names.
 *
 * By the character and with a small buffer, since it may run in a handler on a small stack. Arming changes
 * mappings while they are read; the kernel goes on behind the address at which it was.
 */
#include "port/code/inside/internal.h"

#include <fcntl.h>

struct reader {
	long file;
	size_t at, size;
	char buffer[512];
};

static int next_char(struct reader *reader)
{
	if (reader->at == reader->size) {
		long got = LH_CALL3(SYS_read, reader->file, reader->buffer, sizeof reader->buffer);

		if (got <= 0)
			return -1;
		reader->at = 0;
		reader->size = (size_t)got;
	}
	return (unsigned char)reader->buffer[reader->at++];
}

/* A number in base 16 or 10, and the one character behind it. */
static uint64_t number(struct reader *reader, unsigned base, int *behind)
{
	uint64_t value = 0;
	int c;

	while ((c = next_char(reader)) >= 0) {
		unsigned digit = c >= '0' && c <= '9'   ? (unsigned)c - '0'
		                 : c >= 'a' && c <= 'f' ? (unsigned)c - 'a' + 10
		                                        : 99;

		if (digit >= base)
			break;
		value = value * base + digit;
	}
	*behind = c;
	return value;
}

struct line {
	uint64_t start, end, offset, inode;
	bool code;
	char path[LH_PATH_SIZE];
};

/* 7f00-7f10 r-xp 00001000 08:01 1234    /usr/lib/x.so */
static bool next_line(struct reader *reader, struct line *line)
{
	size_t length = 0;
	int c = 0, i;

	line->start = number(reader, 16, &c);
	if (c < 0)
		return false;
	line->end = number(reader, 16, &c);
	for (i = 0; i < 5; i++) {
		c = next_char(reader);
		if (i == 2)
			line->code = c == 'x';
	}
	line->offset = number(reader, 16, &c);
	number(reader, 16, &c);
	number(reader, 16, &c);
	line->inode = number(reader, 10, &c);
	while (c == ' ')
		c = next_char(reader);
	for (; c >= 0 && c != '\n'; c = next_char(reader))
		if (length < sizeof line->path)
			line->path[length++] = (char)c;
	if (length == sizeof line->path)
		length = 0;
	line->path[length] = 0;
	return c >= 0;
}

long lh__inside_maps(uintptr_t start, uintptr_t end, bool fresh)
{
	struct reader reader = { .at = 0 };
	struct line line;

	reader.file = LH_CALL3(SYS_open, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0);
	if (LH_FAILED(reader.file))
		return reader.file;
	while (next_line(&reader, &line))
		if (line.code && line.inode != 0 && line.start < end && line.end > start &&
		    (line.end <= lh__inside.self || line.start >= lh__inside.self_end))
			lh__inside_module(line.start, line.end - line.start, line.offset, line.path, fresh);
	LH_CALL1(SYS_close, reader.file);
	return 0;
}
