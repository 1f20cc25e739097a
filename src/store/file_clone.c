/*
 * file_clone.c - a copy of a file: an unnamed one in the same folder, which goes with its handle.
 *
 * Where the file system can let two files share their blocks until one is written (FICLONE: XFS, btrfs), it
 * takes no time and no room; elsewhere the content is copied, and holes stay holes.
 */
#include "store/file_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>

#define COPY_SIZE ((uint64_t)LH_FILE_STAGE * LH_PAGE_SIZE)

/* Reads up to size bytes, which is whole pages, with zeroes from the end of the file on. */
static int read_chunk(const struct lh_file *from, uint64_t offset, char *buffer, size_t size)
{
	size_t at = 0;

	while (at < size) {
		long got =
			LH_SYS(from->store.sys, SYS_pread64, from->fd, buffer + at, size - at, offset + at);

		if (got == -EINTR)
			continue;
		if (got < 0)
			return (int)got;
		at += (size_t)got;
		if (got == 0 || at % LH_LINE_SIZE != 0)
			break;
	}
	memset(buffer + at, 0, size - at);
	return 0;
}

static int write_chunk(const struct lh_file *to, uint64_t offset, const char *buffer, size_t size)
{
	size_t at = 0;

	while (at < size) {
		long wrote = LH_SYS(to->store.sys, SYS_pwrite64, to->fd, buffer + at, size - at, offset + at);

		if (wrote == -EINTR)
			continue;
		if (wrote <= 0)
			return wrote == 0 ? -EIO : (int)wrote;
		at += (size_t)wrote;
	}
	return 0;
}

static int copy_extent(const struct lh_file *from, const struct lh_file *to, uint64_t at, uint64_t end,
                       char *buffer)
{
	int result = 0;

	for (; result == 0 && at < end; at += COPY_SIZE) {
		uint64_t size = end - at < COPY_SIZE ? end - at : COPY_SIZE;

		size = (size + LH_PAGE_SIZE - 1) / LH_PAGE_SIZE * LH_PAGE_SIZE;
		result = read_chunk(from, at, buffer, size);
		if (result == 0)
			result = write_chunk(to, at, buffer, size);
	}
	return result;
}

/* Whole pages, whatever the way, and then the true size. */
static int copy_content(const struct lh_file *from, const struct lh_file *to, char *buffer)
{
	const struct lh_sys *sys = from->store.sys;
	uint64_t at = 0;
	int result;

	for (;;) {
		long data = LH_SYS(sys, SYS_lseek, from->fd, at, SEEK_DATA), hole;

		if (data == -ENXIO)
			return (int)LH_SYS(sys, SYS_ftruncate, to->fd, from->size);
		hole = data < 0 ? data : LH_SYS(sys, SYS_lseek, from->fd, data, SEEK_HOLE);
		if (hole < 0)
			return (int)hole;
		at = (uint64_t)data / LH_PAGE_SIZE * LH_PAGE_SIZE;
		result = copy_extent(from, to, at, (uint64_t)hole, buffer);
		if (result != 0)
			return result;
		at = (uint64_t)hole;
	}
}

static int copy(const struct lh_file *from, const struct lh_file *to)
{
	const struct lh_sys *sys = from->store.sys;
	const size_t size = COPY_SIZE + LH_PAGE_SIZE;
	char *memory, *buffer;
	int result;

	if (LH_SYS(sys, SYS_ioctl, to->fd, FICLONE, from->fd) >= 0)
		return 0;
	memory = lh__alloc(sys, size);
	if (!memory)
		return -ENOMEM;
	buffer = memory + -(uintptr_t)memory % LH_PAGE_SIZE;
	result = copy_content(from, to, buffer);
	lh__free(sys, memory, size);
	return lh__file_result(result);
}

static int open_unnamed(const struct lh_file *from, struct lh_file *clone)
{
	const int flags = O_TMPFILE | O_RDWR | O_CLOEXEC | (from->way == LH_FILE_DIRECT ? O_DIRECT : 0);
	long fd = LH_SYS(from->store.sys, SYS_openat, from->directory, ".", flags, 0600);

	if (fd < 0)
		return (int)fd;
	clone->fd = (int)fd;
	fd = LH_SYS(from->store.sys, SYS_fcntl, from->directory, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	clone->directory = (int)fd;
	return 0;
}

int lh__file_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	struct lh_file *from = lh__file_of(store), *clone;
	int result;

	if (from->done)
		return lh__fail(error, -EBUSY,
		                "file store: a clone was asked for while requests are in flight");
	if (__atomic_load_n(&from->broken, __ATOMIC_ACQUIRE))
		return lh__fail(error, -EIO, "file store: it is broken, so what it holds is not known");
	if (from->device)
		return lh__fail(error, -EOPNOTSUPP, "file store: a device cannot be cloned");
	clone = lh__file_new(store->sys, from->way);
	if (!clone)
		return lh__fail(error, -ENOMEM, "file store: there is no memory for a clone");
	result = open_unnamed(from, clone);
	if (result == 0)
		result = copy(from, clone);
	if (result != 0)
		lh__fail(error, result, "file store: a clone cannot be made (%s)", lh__errno_name(result));
	else
		result = lh__file_take_up(clone, "file store: clone", from->map.reach, error);
	if (result != 0) {
		lh__file_end(clone);
		return result;
	}
	*out = &clone->store;
	return 0;
}
