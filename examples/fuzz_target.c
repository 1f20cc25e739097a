/*
 * fuzz_target.c - a program that reads settings from its standard input, and knows nothing of Linehome:
 *
 *     CFG1
 *     name=value
 *     [group
 *     name=value
 *     ]
 *
 * It checks what it reads and says how many settings there are. There is a mistake in it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DEPTH 8

struct reader {
	const unsigned char *at, *end;
	int depth, settings;
	int *limits; /* made when the first one is met */
};

static int next(struct reader *reader)
{
	return reader->at < reader->end ? *reader->at++ : -1;
}

static int peek(const struct reader *reader)
{
	return reader->at < reader->end ? *reader->at : -1;
}

static int is_letter(int c)
{
	return c >= 'a' && c <= 'z';
}

/* Takes a word letter by letter; whether it was there. */
static int takes(struct reader *reader, const char *word)
{
	for (; *word; word++)
		if (next(reader) != (unsigned char)*word)
			return 0;
	return 1;
}

static int number(struct reader *reader)
{
	int value = 0, digits = 0;

	while (peek(reader) >= '0' && peek(reader) <= '9' && digits++ < 6)
		value = value * 10 + (next(reader) - '0');
	return digits ? value : -1;
}

/* "lat N:VALUE": the Nth limit. Nobody has made room for it. */
static int limit(struct reader *reader)
{
	int index, value;

	if (next(reader) != 'a')
		return 0;
	if (next(reader) != 't')
		return 0;
	if (next(reader) != ' ')
		return 0;
	index = number(reader);
	if (index < 0)
		return 0;
	if (next(reader) != ':')
		return 0;
	value = number(reader);
	if (value < 0)
		return 0;
	reader->limits[index] = value;
	return 1;
}

static int value(struct reader *reader, int c)
{
	switch (c) {
	case 'y': return takes(reader, "es");
	case 'n': return takes(reader, "o");
	case '"':
		while ((c = next(reader)) != '"')
			if (c < ' ')
				return 0;
		return 1;
	case 'l': return limit(reader);
	default: reader->at--; return c >= '0' && c <= '9' && number(reader) >= 0;
	}
}

static int setting(struct reader *reader)
{
	int c;

	while (is_letter(c = next(reader)))
		;
	if (c != '=')
		return 0;
	c = next(reader);
	if (c < 0 || !value(reader, c))
		return 0;
	reader->settings++;
	return next(reader) == '\n';
}

static int line(struct reader *reader)
{
	int c = peek(reader);

	if (is_letter(c))
		return setting(reader);
	next(reader);
	if (c == ']')
		return reader->depth-- > 0 && next(reader) == '\n';
	if (c != '[' || !is_letter(peek(reader)) || ++reader->depth == DEPTH)
		return 0;
	while (is_letter(c = next(reader)))
		;
	return c == '\n';
}

static int parse(struct reader *reader)
{
	if (next(reader) != 'C')
		return 0;
	if (next(reader) != 'F')
		return 0;
	if (next(reader) != 'G')
		return 0;
	if (next(reader) != '1')
		return 0;
	if (next(reader) != '\n')
		return 0;
	while (peek(reader) >= 0)
		if (!line(reader))
			return 0;
	return reader->depth == 0;
}

int main(void)
{
	static unsigned char text[4096];
	ssize_t size = read(STDIN_FILENO, text, sizeof(text));
	struct reader reader = { .at = text, .end = text + (size > 0 ? size : 0) };

	if (!parse(&reader)) {
		printf("byte %d: not a setting\n", (int)(reader.at - text));
		return 1;
	}
	printf("%d settings\n", reader.settings);
	return 0;
}
