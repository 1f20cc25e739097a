/*
 * supply_file.c - pages from files of this machine: a snapshot.
 *
 * They are read with pread into a buffer of the lane, not through a mapping: a mapping of a tmpfs file fills
 * the holes that are read, and a file that is cut short meanwhile would be a signal instead of an error. What
 * is asked is answered at once, so a lane is a queue of page numbers.
 *
 * What a snapshot says of a page is always all of it, so `since` is never used.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/supply.h"
#include "service/migrate/tables.h"

#define LANES_MAX 64u
#define PAGE_SIZE_MAX ((size_t)1 << 30)

struct lane {
	uint64_t *asked; /* a ring; size is a power of two, or 0 */
	size_t size, first, count;
	uint64_t last; /* answered; UINT64_MAX: none */
	void *page;
};

struct part {
	int fd;
	uint64_t offset;
	uint64_t first, pages;
};

struct files {
	struct lh_supply base;
	struct lh_tables *tables;
	uint64_t pages;
	size_t parts;
	struct part *part;
	struct lane *lane;
	int broken; /* a negative errno, for all lanes; changed from any thread */
};

static int broken(const struct files *files)
{
	return __atomic_load_n(&files->broken, __ATOMIC_ACQUIRE);
}

/* The first error stays. */
static int break_with(struct files *files, int code)
{
	int none = 0;

	if (!__atomic_compare_exchange_n(&files->broken, &none, code, false, __ATOMIC_ACQ_REL,
	                                 __ATOMIC_ACQUIRE))
		return none;
	return code;
}

static int make_room(struct lane *lane)
{
	size_t size = lane->size ? 2 * lane->size : 64, i;
	uint64_t *asked;

	if (lane->count < lane->size)
		return 0;
	asked = malloc(size * sizeof(*asked));
	if (!asked)
		return -ENOMEM;
	for (i = 0; i < lane->count; i++)
		asked[i] = lane->asked[(lane->first + i) & (lane->size - 1)];
	free(lane->asked);
	lane->asked = asked;
	lane->size = size;
	lane->first = 0;
	return 0;
}

static int files_ask(struct lh_supply *supply, unsigned number, uint64_t page, bool since)
{
	struct files *files = (struct files *)supply;
	struct lane *lane = &files->lane[number];
	int result = broken(files);

	if (result == 0 && page >= files->pages)
		result = -EINVAL;
	if (result == 0)
		result = make_room(lane);
	if (result < 0)
		return break_with(files, result);
	lane->asked[(lane->first + lane->count++) & (lane->size - 1)] = page;
	return 0;
}

static int files_flush(struct lh_supply *supply, unsigned number)
{
	return broken((struct files *)supply);
}

/* -ENODATA: the file has become shorter. */
static int read_all(int fd, void *to, size_t size, uint64_t offset)
{
	size_t done = 0;
	ssize_t got;

	while (done < size) {
		got = pread(fd, (char *)to + done, size - done, (off_t)(offset + done));
		if (got < 0 && errno != EINTR)
			return -errno;
		if (got == 0)
			return -ENODATA;
		if (got > 0)
			done += (size_t)got;
	}
	return 0;
}

static int read_page(const struct files *files, uint64_t page, void *to)
{
	const struct part *part = files->part;
	size_t size = files->base.page_size;

	while (page - part->first >= part->pages)
		part++;
	return read_all(part->fd, to, size, part->offset + (page - part->first) * size);
}

/* Lines of a page that are not zero; of larger pages all or none. */
static lh_mask content(const void *page, size_t size)
{
	size_t at;

	if (size == LH_PAGE_SIZE)
		return lh__page_nonzero(page);
	for (at = 0; at < size; at += LH_PAGE_SIZE)
		if (lh__page_nonzero((const char *)page + at))
			return LH_MASK_ALL;
	return LH_MASK_NONE;
}

static int files_next(struct lh_supply *supply, unsigned number, struct lh_supply_answer *answer)
{
	struct files *files = (struct files *)supply;
	struct lane *lane = &files->lane[number];
	size_t size = supply->page_size;
	int result = broken(files);
	lh_mask mask;

	if (result < 0)
		return result;
	if (lane->count == 0)
		return 0;
	lane->last = lane->asked[lane->first];
	lane->first = (lane->first + 1) & (lane->size - 1);
	lane->count--;
	result = read_page(files, lane->last, lane->page);
	if (result < 0)
		return break_with(files, result);
	mask = content(lane->page, size);
	*answer = (struct lh_supply_answer){
		.page = lane->last,
		.mask = mask,
		.data = lane->page,
		.bytes = size == LH_PAGE_SIZE ? LH_LINE_SIZE * lh__mask_count(mask)
		         : mask               ? size
		                              : 0,
	};
	return 1;
}

static int files_descriptor(struct lh_supply *supply, unsigned number)
{
	return -1;
}

static size_t files_hints(struct lh_supply *supply, uint64_t *pages, size_t max)
{
	struct files *files = (struct files *)supply;

	if (!files->tables || files->lane[0].last == UINT64_MAX)
		return 0;
	return lh__tables_neighbours(files->tables, files->lane[0].last, pages, max);
}

static void files_break_off(struct lh_supply *supply)
{
	(void)break_with((struct files *)supply, -ECONNRESET);
}

static void files_close(struct lh_supply *supply)
{
	struct files *files = (struct files *)supply;
	size_t i;

	for (i = 0; i < files->parts; i++)
		close(files->part[i].fd);
	for (i = 0; files->lane && i < supply->lanes; i++) {
		free(files->lane[i].asked);
		free(files->lane[i].page);
	}
	free(files->lane);
	free(files->part);
	free(files);
}

static const struct lh_supply_ops files_ops = {
	.ask = files_ask,
	.flush = files_flush,
	.next = files_next,
	.descriptor = files_descriptor,
	.hints = files_hints,
	.break_off = files_break_off,
	.close = files_close,
};

static int open_lanes(struct files *files, struct lh_error *error)
{
	unsigned i;

	files->lane = calloc(files->base.lanes, sizeof(*files->lane));
	if (!files->lane)
		return lh__fail(error, -ENOMEM, "no memory for %u lanes", files->base.lanes);
	for (i = 0; i < files->base.lanes; i++) {
		files->lane[i].last = UINT64_MAX;
		files->lane[i].page = aligned_alloc(LH_PAGE_SIZE, files->base.page_size);
		if (!files->lane[i].page)
			return lh__fail(error, -ENOMEM, "no memory for %u lanes", files->base.lanes);
	}
	return 0;
}

static int open_part(struct files *files, const struct lh_supply_file *file, struct lh_error *error)
{
	struct part part = { .offset = file->offset, .first = files->pages };
	struct stat status;
	int result = 0;

	if (file->size == 0 || file->size % files->base.page_size != 0)
		return lh__fail(error, -EINVAL, "%s: %lu bytes are not pages of %zu", file->path,
		                (unsigned long)file->size, files->base.page_size);
	part.pages = file->size / files->base.page_size;
	part.fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (part.fd < 0 || fstat(part.fd, &status) < 0)
		result = lh__fail(error, -errno, "%s: %s", file->path, lh__errno_name(errno));
	else if (!S_ISREG(status.st_mode))
		result = lh__fail(error, -EINVAL, "%s: not a file", file->path);
	else if ((uint64_t)status.st_size < file->offset ||
	         (uint64_t)status.st_size - file->offset < file->size)
		result = lh__fail(error, -EINVAL, "%s: has %lu bytes, too few for %lu from byte %lu on",
		                  file->path, (unsigned long)status.st_size, (unsigned long)file->size,
		                  (unsigned long)file->offset);
	if (result < 0) {
		if (part.fd >= 0)
			close(part.fd);
		return result;
	}
	files->part[files->parts++] = part;
	files->pages += part.pages;
	return 0;
}

static bool page_size_fits(size_t size)
{
	return size >= LH_PAGE_SIZE && size <= PAGE_SIZE_MAX && (size & (size - 1)) == 0;
}

int lh__supply_files(const struct lh_supply_file *file, size_t count, size_t page_size, unsigned lanes,
                     struct lh_tables *tables, struct lh_supply **out, struct lh_error *error)
{
	struct files *files;
	int result = 0;
	size_t i;

	if (count == 0 || !page_size_fits(page_size) || lanes < 2 || lanes > LANES_MAX)
		return lh__fail(error, -EINVAL, "%zu files, pages of %zu bytes, %u lanes: not a supply",
		                count, page_size, lanes);
	files = calloc(1, sizeof(*files));
	if (!files)
		return lh__fail(error, -ENOMEM, "no memory for a supply");
	files->base = (struct lh_supply){ &files_ops, lanes, page_size };
	/* Tables are about pages of 4096 bytes. */
	files->tables = page_size == LH_PAGE_SIZE ? tables : NULL;
	files->part = calloc(count, sizeof(*files->part));
	if (!files->part)
		result = lh__fail(error, -ENOMEM, "no memory for %zu files", count);
	if (result == 0)
		result = open_lanes(files, error);
	for (i = 0; i < count && result == 0; i++)
		result = open_part(files, &file[i], error);
	if (result < 0) {
		files_close(&files->base);
		return result;
	}
	*out = &files->base;
	return 0;
}
