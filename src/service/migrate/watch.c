/*
 * watch.c - see watch.h. A machine's memory is found in its process, and watched.
 */
#include "service/migrate/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "service/code/remote.h"
#include "service/migrate/inject.h"
#include "sys/sys.h"

#define PIECES_MAX 1024u

/* A mapping of a part of a region's file. */
struct piece {
	uint64_t address, size, offset; /* offset: in the file */
};

struct finding {
	struct stat file;
	size_t count;
	struct piece piece[PIECES_MAX];
};

static int found(void *context, const struct lh_mapping *mapping)
{
	struct finding *finding = context;

	if (mapping->inode != finding->file.st_ino ||
	    makedev(mapping->device_major, mapping->device_minor) != finding->file.st_dev)
		return 0;
	/* What is mapped private or only to be read changes nothing in the file. */
	if (mapping->rights[1] != 'w' || mapping->rights[3] != 's')
		return 0;
	if (finding->count == PIECES_MAX)
		return -E2BIG;
	finding->piece[finding->count++] =
		(struct piece){ mapping->start, mapping->end - mapping->start, mapping->offset };
	return 0;
}

static int by_offset(const void *left, const void *right)
{
	const struct piece *a = left, *b = right;

	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static int add_range(struct lh_guest_range *range, size_t *ranges, const struct lh_guest_range *new)
{
	struct lh_guest_range *before = *ranges ? &range[*ranges - 1] : NULL;

	if (before && before->address + before->pages * LH_PAGE_SIZE == new->address &&
	    before->first + before->pages == new->first) {
		before->pages += new->pages;
		return 0;
	}
	if (*ranges == LH_GUEST_RANGES_MAX)
		return -E2BIG;
	range[(*ranges)++] = *new;
	return 0;
}

/*
 * The pieces that are the region, all of it and none twice. -ENOENT: a part is missing; -EEXIST: is there
 * twice.
 */
static int cover(struct finding *finding, const struct lh_state_region *region, struct lh_guest_range *range,
                 size_t *ranges)
{
	uint64_t at = region->offset, end = region->offset + region->pages * LH_PAGE_SIZE;
	int rc = 0;

	if (finding->count)
		qsort(finding->piece, finding->count, sizeof(*finding->piece), by_offset);
	for (size_t i = 0; !rc && i < finding->count; i++) {
		const struct piece *piece = &finding->piece[i];
		uint64_t from = piece->offset > region->offset ? piece->offset : region->offset;
		uint64_t to = piece->offset + piece->size < end ? piece->offset + piece->size : end;
		struct lh_guest_range new;

		if (from >= to)
			continue;
		if (from != at)
			return from < at ? -EEXIST : -ENOENT;
		new.address = piece->address + (from - piece->offset);
		new.pages = (to - from) / LH_PAGE_SIZE;
		new.first = region->first + (from - region->offset) / LH_PAGE_SIZE;
		rc = add_range(range, ranges, &new);
		at = to;
	}
	return rc ? rc : at == end ? 0 : -ENOENT;
}

static int find_region(pid_t process, const struct lh_state_region *region, struct lh_guest_range *range,
                       size_t *ranges, struct lh_error *error)
{
	struct finding *finding = calloc(1, sizeof(*finding));
	int rc;

	if (!finding)
		return lh__fail(error, -ENOMEM, "no memory");
	if (stat(region->path, &finding->file)) {
		rc = lh__fail(error, -errno, "%s: %s", region->path, lh__errno_name(errno));
		free(finding);
		return rc;
	}
	rc = lh__mappings(process, found, finding);
	if (!rc)
		rc = cover(finding, region, range, ranges);
	free(finding);
	if (rc == -ENOENT)
		return lh__fail(error, rc, "process %d has not all of %s mapped shared", (int)process,
		                region->path);
	if (rc == -EEXIST)
		return lh__fail(error, rc, "process %d has parts of %s mapped twice", (int)process,
		                region->path);
	return rc ? lh__fail(error, rc, "the mappings of process %d: %s", (int)process, lh__errno_name(rc))
	          : 0;
}

int lh__watch_begin(pid_t process, const struct lh_state_region *region, size_t regions,
                    struct lh_written *written, uint64_t *stopped_ns, struct lh_error *error)
{
	struct lh_guest_range range[LH_GUEST_RANGES_MAX];
	size_t ranges = 0;
	int fd, rc = 0;

	for (size_t i = 0; !rc && i < regions; i++)
		rc = find_region(process, &region[i], range, &ranges, error);
	if (!rc)
		rc = lh__inject_userfaultfd(process, &fd, stopped_ns, error);
	if (rc)
		return rc;
	rc = lh__written_open(&lh__sys_default, process, fd, range, ranges, written, error);
	if (rc)
		close(fd);
	return rc;
}
