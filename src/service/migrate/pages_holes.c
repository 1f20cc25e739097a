/* pages_holes.c - see pages.h: which pages have content, and which have it no longer. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/pages_inside.h"

#define SHORT 64u /* pages: rather asked one by one */

/*
 * The bytes [*begin, *end) of the next part of a file that is no hole: false where there is none before
 * `limit`. whole: all of it, for which the kernel looks at each of its pages; else one page.
 */
static bool next_data(int fd, uint64_t from, uint64_t limit, bool whole, uint64_t *begin, uint64_t *end,
                      int *result)
{
	off_t data = lseek(fd, (off_t)from, SEEK_DATA), hole;

	if (data < 0 && errno == EINVAL)
		data = (off_t)from; /* a file system that does not know its holes */
	if (data < 0) {
		*result = errno == ENXIO ? 0 : -errno;
		return false;
	}
	*begin = (uint64_t)data;
	hole = whole ? lseek(fd, data, SEEK_HOLE) : data + (off_t)LH_PAGE_SIZE;
	*end = hole < 0 || (uint64_t)hole > limit ? limit : (uint64_t)hole;
	*result = 0;
	return *begin < limit;
}

static int looked_through(int result, struct lh_error *error)
{
	return result ? lh__fail(error, result, "the guest's memory cannot be looked through: %s",
	                         strerror(-result))
	              : 0;
}

static int add_content(const struct lh_pages_part *part, struct lh_pageset *set)
{
	uint64_t limit = part->offset + part->pages * LH_PAGE_SIZE, at = part->offset, begin, end;
	int result = 0;

	while (at < limit && next_data(part->fd, at, limit, true, &begin, &end, &result)) {
		uint64_t first = (begin - part->offset) / LH_PAGE_SIZE;
		uint64_t last = (end - part->offset + LH_PAGE_SIZE - 1) / LH_PAGE_SIZE;

		lh__pageset_add_run(set, part->first + first, last - first);
		at = end > at ? end : limit;
	}
	return result;
}

/* What lies behind the end of a file that has become shorter is no hole. */
static int check_sizes(const struct lh_pages *pages)
{
	for (size_t i = 0; i < pages->parts; i++) {
		const struct lh_pages_part *part = &pages->part[i];
		struct stat file;

		if (fstat(part->fd, &file) != 0)
			return -errno;
		if ((uint64_t)file.st_size < part->offset + part->pages * LH_PAGE_SIZE)
			return -EIO;
	}
	return 0;
}

int lh__pages_content(struct lh_pages *pages, struct lh_pageset *set, struct lh_error *error)
{
	int result = 0;

	for (size_t i = 0; i < pages->parts && result == 0; i++)
		result = add_content(&pages->part[i], set);
	return looked_through(result ? result : check_sizes(pages), error);
}

/*
 * Which pages of a run are holes. The data that was found last, [data[0], data[1]), is kept for the next run:
 * so no part of a file is looked at twice, however many runs there are.
 */
static int find_holes(struct lh_pages *pages, const struct lh_pages_part *part, uint64_t first,
                      uint64_t count, uint64_t data[2], struct lh_pageset *set)
{
	uint64_t limit = part->offset + part->pages * LH_PAGE_SIZE, size;
	uint64_t at = part->offset + (first - part->first) * LH_PAGE_SIZE, end = at + count * LH_PAGE_SIZE;

	for (; at < end; at += size) {
		int result = 0;

		if (at >= data[1] &&
		    !next_data(part->fd, at, limit, count > SHORT, &data[0], &data[1], &result))
			data[0] = data[1] = limit;
		if (result)
			return result;
		data[0] &= ~(uint64_t)(LH_PAGE_SIZE - 1);
		data[1] = (data[1] + LH_PAGE_SIZE - 1) & ~(uint64_t)(LH_PAGE_SIZE - 1);
		size = (at < data[0] ? data[0] : data[1]) - at;
		size = size < end - at ? size : end - at;
		if (at >= data[0])
			continue;
		first = part->first + (at - part->offset) / LH_PAGE_SIZE;
		lh__pageset_add_run(set, first, size / LH_PAGE_SIZE);
		lh__pageset_remove_run(&pages->held, first, size / LH_PAGE_SIZE);
	}
	return 0;
}

/* The first page from `from` on that both have, or LH_PAGESET_NONE. */
static uint64_t next_of_both(const struct lh_pageset *a, const struct lh_pageset *b, uint64_t from)
{
	while (from != LH_PAGESET_NONE) {
		uint64_t page = lh__pageset_next(a, from);

		from = page == LH_PAGESET_NONE ? page : lh__pageset_next(b, page);
		if (from == page)
			break;
	}
	return from;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

int lh__pages_gone(struct lh_pages *pages, const struct lh_pageset *absent, struct lh_pageset *set,
                   struct lh_error *error)
{
	const struct lh_pages_part *part, *before = NULL;
	uint64_t at = 0, end, data[2];
	int result = 0;

	while (result == 0 && (at = next_of_both(&pages->held, absent, at)) != LH_PAGESET_NONE) {
		part = lh__pages_part(pages, at);
		if (part != before)
			data[0] = data[1] = 0;
		before = part;
		end = least(lh__pageset_next_not(absent, at), lh__pageset_next_not(&pages->held, at));
		end = least(end, part->first + part->pages);
		result = find_holes(pages, part, at, end - at, data, set);
		at = end;
	}
	return looked_through(result ? result : check_sizes(pages), error);
}
