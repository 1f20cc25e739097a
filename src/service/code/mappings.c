/*
 * mappings.c - see remote.h. What is mapped in a process, by /proc/PID/maps, and where there is room.
 */
#include "service/code/remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REACH (1ull << 31)        /* of a jump */
#define LOWEST 0x10000ull         /* what mmap_min_addr may forbid */
#define HIGHEST 0x7ffffffff000ull /* the end of what a program may map */
#define STACK_ROOM (256ull << 20) /* a stack grows down into it */
#define HEAP_ROOM (1ull << 30)    /* brk grows up into it */

/* A number, and one character behind it. */
static uint64_t number(char **at, int base)
{
	uint64_t value = strtoull(*at, at, base);

	if (**at)
		++*at;
	return value;
}

/*
 * start-end rights offset major:minor inode   path, by hand: sscanf takes several times as long, and a
 * process is stopped meanwhile.
 */
static bool parse(char *line, struct lh_mapping *out)
{
	char *at = line;
	size_t length;

	line[strcspn(line, "\n")] = '\0';
	out->start = number(&at, 16);
	out->end = number(&at, 16);
	if (strlen(at) < sizeof(out->rights))
		return false;
	memcpy(out->rights, at, sizeof(out->rights) - 1);
	out->rights[sizeof(out->rights) - 1] = '\0';
	at += sizeof(out->rights);
	out->offset = number(&at, 16);
	out->device_major = (unsigned)number(&at, 16);
	out->device_minor = (unsigned)number(&at, 16);
	out->inode = number(&at, 10);
	at += strspn(at, " ");
	length = strnlen(at, sizeof(out->path) - 1);
	memcpy(out->path, at, length);
	out->path[length] = '\0';
	return true;
}

int lh__mappings(pid_t process, int (*found)(void *context, const struct lh_mapping *mapping), void *context)
{
	struct lh_mapping *mapping;
	char name[64], *line = NULL;
	size_t room = 0;
	FILE *file;
	int rc = 0;

	snprintf(name, sizeof(name), "/proc/%d/maps", process);
	file = fopen(name, "re");
	if (!file)
		return errno == ENOENT ? -ESRCH : -errno;
	mapping = malloc(sizeof(*mapping));
	if (!mapping)
		rc = -ENOMEM;
	while (!rc && getline(&line, &room, file) > 0)
		if (parse(line, mapping))
			rc = found(context, mapping);
	free(line);
	free(mapping);
	fclose(file);
	return rc;
}

struct gap {
	uint64_t start, end, size; /* as asked for */
	uint64_t low, high;        /* where the room may lie */
	uint64_t free_from;        /* the end of the mapping before */
	uint64_t heap_room;
	uint64_t best, distance;
};

static void weigh(struct gap *gap, uint64_t from, uint64_t to)
{
	uint64_t at, distance;

	from = from < gap->low ? gap->low : from;
	to = to > gap->high ? gap->high : to;
	if (from >= to || to - from < gap->size)
		return;
	at = to <= gap->start ? to - gap->size : from; /* the nearer end */
	distance = at < gap->start ? gap->start - at : at - gap->start;
	if (gap->best && distance >= gap->distance)
		return;
	gap->best = at;
	gap->distance = distance;
}

static int weigh_before(void *context, const struct lh_mapping *mapping)
{
	struct gap *gap = context;
	bool is_stack = !strcmp(mapping->path, "[stack]");
	uint64_t to = mapping->start;

	if (is_stack)
		to = to > STACK_ROOM ? to - STACK_ROOM : 0;
	if (to > gap->free_from)
		weigh(gap, gap->free_from, to);
	gap->free_from = mapping->end;
	if (!strcmp(mapping->path, "[heap]"))
		gap->free_from += gap->heap_room;
	return 0;
}

uint64_t lh__mappings_gap(pid_t process, uint64_t start, uint64_t end, uint64_t size)
{
	struct gap gap = { .start = start, .end = end, .size = size };

	gap.low = end > REACH ? end - REACH : 0;
	gap.low = gap.low < LOWEST ? LOWEST : (gap.low + 4095) & ~4095ull;
	gap.high = start + REACH < HIGHEST ? (start + REACH) & ~4095ull : HIGHEST;
	/* Rather not where the heap would grow, unless there is no other place. */
	for (int turn = 0; turn < 2 && !gap.best; turn++) {
		gap.heap_room = turn ? 0 : HEAP_ROOM;
		gap.free_from = 0;
		if (lh__mappings(process, weigh_before, &gap))
			return 0;
		if (gap.free_from < HIGHEST)
			weigh(&gap, gap.free_from, HIGHEST);
	}
	return gap.best;
}
