/*
 * place_file.c - a guest's memory that is files mapped shared: content is written to the file, where the
 * guest cannot see it yet, and shown later. See place.h.
 *
 * Files are written with pwrite and never through a mapping: a hole that a mapping reads would be filled. A
 * page that is taken out of the file is thereby taken out of every page table.
 *
 * A page of which only some lines came is the file's with those lines over it. A few runs of lines are
 * written where they belong; many are put together first, which is a read and a write.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/place.h"

#define RUNS_IN_PLACE 2u

struct place_files {
	struct lh_place place;
	const struct lh_state *state;
	int fd[LH_STATE_REGIONS_MAX];
};

static struct place_files *files_of(struct lh_place *place)
{
	return (struct place_files *)place;
}

/* The file of a page, and where it stands there; count becomes what of the run lies in it. */
static int find(struct place_files *self, uint64_t page, uint64_t *count, off_t *at)
{
	const struct lh_state *state = self->state;

	for (size_t i = 0; i < state->regions; i++) {
		const struct lh_state_region *region = &state->region[i];
		uint64_t in = page - region->first;

		if (in >= region->pages)
			continue;
		*at = (off_t)(region->offset + in * LH_PAGE_SIZE);
		if (*count > region->pages - in)
			*count = region->pages - in;
		return self->fd[i];
	}
	return -ENOENT;
}

/* ---- writing ---- */

static int write_at(int fd, const void *data, size_t size, off_t at)
{
	const unsigned char *from = data;

	while (size > 0) {
		ssize_t done = pwrite(fd, from, size, at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		from += done;
		size -= (size_t)done;
		at += done;
	}
	return 0;
}

static int read_at(int fd, void *data, size_t size, off_t at)
{
	unsigned char *to = data;

	while (size > 0) {
		ssize_t done = pread(fd, to, size, at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		to += done;
		size -= (size_t)done;
		at += done;
	}
	return 0;
}

static unsigned runs_of(lh_mask mask)
{
	return lh__mask_count(mask & ~(mask << 1));
}

static int write_runs(int fd, const unsigned char *data, lh_mask mask, off_t at)
{
	unsigned first, count;
	int result = 0;

	while (result == 0 && lh__mask_next_run(&mask, &first, &count))
		result = write_at(fd, data + (size_t)first * LH_LINE_SIZE, (size_t)count * LH_LINE_SIZE,
		                  at + (off_t)first * LH_LINE_SIZE);
	return result;
}

static int write_over(int fd, const void *data, lh_mask mask, off_t at)
{
	unsigned char page[LH_PAGE_SIZE] __attribute__((aligned(64)));
	int result = read_at(fd, page, sizeof page, at);

	if (result < 0)
		return result;
	lh__lines_copy(page, data, mask);
	return write_at(fd, page, sizeof page, at);
}

static int files_write(struct lh_place *place, uint64_t page, lh_mask mask, bool since, const void *data)
{
	uint64_t count = 1;
	off_t at;
	int fd = find(files_of(place), page, &count, &at);

	if (fd < 0)
		return fd;
	if (!since || mask == LH_MASK_ALL)
		return write_at(fd, data, LH_PAGE_SIZE, at);
	return runs_of(mask) <= RUNS_IN_PLACE ? write_runs(fd, data, mask, at)
	                                      : write_over(fd, data, mask, at);
}

/* ---- the guest's sight ---- */

static int files_show(struct lh_place *place, uint64_t page, uint64_t count, const void *data)
{
	(void)data;
	return place->guest ? lh__guest_show(place->guest, page, count, true) : 0;
}

/* Where nobody looks a hole is zero already. */
static int files_zero(struct lh_place *place, uint64_t page, uint64_t count)
{
	return place->guest ? lh__guest_zero(place->guest, page, count) : 0;
}

static int make_hole(int fd, off_t at, uint64_t bytes)
{
	while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)bytes) != 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int files_forget(struct lh_place *place, uint64_t page, uint64_t count)
{
	while (count > 0) {
		uint64_t n = count;
		off_t at;
		int fd = find(files_of(place), page, &n, &at);
		int result = fd < 0 ? fd : make_hole(fd, at, n * LH_PAGE_SIZE);

		if (result < 0)
			return result;
		page += n;
		count -= n;
	}
	return 0;
}

static void files_close(struct lh_place *place)
{
	struct place_files *self = files_of(place);

	for (size_t i = 0; i < LH_STATE_REGIONS_MAX; i++)
		if (self->fd[i] >= 0)
			close(self->fd[i]);
	free(self);
}

static const struct lh_place_ops files_ops = {
	.write = files_write,
	.show = files_show,
	.zero = files_zero,
	.forget = files_forget,
	.close = files_close,
};

/* ---- opening ---- */

static int open_region(struct place_files *self, size_t i, bool fresh, struct lh_error *error)
{
	const struct lh_state_region *region = &self->state->region[i];
	uint64_t bytes = region->pages * LH_PAGE_SIZE;
	struct stat found;
	int result;

	self->fd[i] = open(region->path, O_RDWR | O_CLOEXEC);
	if (self->fd[i] < 0 || fstat(self->fd[i], &found) != 0)
		return lh__fail(error, -errno, "%s cannot be opened (%s)", region->path,
		                lh__errno_name(errno));
	if (!S_ISREG(found.st_mode) || region->offset % LH_PAGE_SIZE != 0 ||
	    (uint64_t)found.st_size < region->offset || (uint64_t)found.st_size - region->offset < bytes)
		return lh__fail(error, -EINVAL, "%s is not a file with %lu bytes of memory from %lu on",
		                region->path, (unsigned long)bytes, (unsigned long)region->offset);
	result = fresh && bytes ? make_hole(self->fd[i], (off_t)region->offset, bytes) : 0;
	if (result < 0)
		return lh__fail(error, result, "%s cannot be emptied (%s)", region->path,
		                lh__errno_name(result));
	return 0;
}

int lh__place_files(const struct lh_state *state, bool fresh, struct lh_place **out, struct lh_error *error)
{
	struct place_files *self = calloc(1, sizeof *self);
	int result = 0;

	if (!self)
		return lh__fail(error, -ENOMEM, "no memory for the guest's files");
	self->place.ops = &files_ops;
	self->state = state;
	for (size_t i = 0; i < LH_STATE_REGIONS_MAX; i++)
		self->fd[i] = -1;
	for (size_t i = 0; i < state->regions && result == 0; i++)
		result = open_region(self, i, fresh, error);
	if (result < 0)
		files_close(&self->place);
	else
		*out = &self->place;
	return result;
}
