/*
 * record.c - recordings are written beside their place and then take their name, so that a reader sees the
 * whole of one or the whole of the one before; and nothing of a damaged one is believed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "line/line.h"
#include "line/pageset.h"
#include "service/migrate/record.h"

#define MAGIC "LHMISSES"
#define VERSION 1u
#define HEAD 40u

/* As it lies in the file; x86-64 is little-endian. */
struct head {
	char magic[8];
	uint32_t version, page_size;
	uint64_t pages, count;
	uint32_t entries_crc, head_crc;
};
_Static_assert(sizeof(struct head) == HEAD, "drawn in record.h");

static uint32_t head_crc(const struct head *head)
{
	struct head copy = *head;

	copy.head_crc = 0;
	return lh__crc32c(0, &copy, sizeof(copy));
}

/* Copies entries to `to`, each page once; -EINVAL: one is no page of the guest. Returns how many. */
static long take_once(uint64_t *to, const uint64_t *entries, size_t n, uint64_t pages)
{
	struct lh_pageset had = { pages, calloc(1, lh__pageset_bytes(pages) + 8) };
	long count = 0;
	size_t i;

	if (!had.word)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		if (entries[i] >= pages) {
			count = -EINVAL;
			break;
		}
		if (lh__pageset_add(&had, entries[i]))
			to[count++] = entries[i];
	}
	free(had.word);
	return count;
}

/* ---- writing ---- */

static int write_all(int fd, const void *bytes, size_t size)
{
	ssize_t put;

	for (; size > 0; bytes = (const char *)bytes + put, size -= (size_t)put) {
		do
			put = write(fd, bytes, size);
		while (put < 0 && errno == EINTR);
		if (put <= 0)
			return put < 0 ? -errno : -EIO;
	}
	return 0;
}

/* Where the file really stands, so that a link to it stays one; -EINVAL: what stands there is no file. */
static int find_place(const char *path, char place[PATH_MAX])
{
	struct stat status;

	if (stat(path, &status) == 0)
		return !S_ISREG(status.st_mode) ? -EINVAL : realpath(path, place) ? 0 : -errno;
	if (errno != ENOENT)
		return -errno;
	return (size_t)snprintf(place, PATH_MAX, "%s", path) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* One with our process id that exists is left from a process that was killed. */
static int open_beside(const char *place, char beside[PATH_MAX])
{
	int fd;

	if ((size_t)snprintf(beside, PATH_MAX, "%s.%d.new", place, (int)getpid()) >= PATH_MAX)
		return -ENAMETOOLONG;
	unlink(beside);
	fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	return fd < 0 ? -errno : fd;
}

static int replace(const char *path, const struct head *head, const uint64_t *entries)
{
	char place[PATH_MAX], beside[PATH_MAX];
	int result = find_place(path, place), fd;

	if (result < 0)
		return result;
	fd = open_beside(place, beside);
	if (fd < 0)
		return fd;
	result = write_all(fd, head, sizeof(*head));
	if (result == 0)
		result = write_all(fd, entries, head->count * sizeof(*entries));
	if (result == 0 && fsync(fd) < 0)
		result = -errno;
	if (close(fd) < 0 && result == 0)
		result = -errno;
	if (result == 0 && rename(beside, place) < 0)
		result = -errno;
	if (result < 0)
		unlink(beside);
	return result;
}

int lh__record_write(const char *path, size_t page_size, uint64_t pages, const uint64_t *entries, size_t n,
                     struct lh_error *error)
{
	struct head head = { .magic = MAGIC, .version = VERSION };
	uint64_t *once = malloc((n + 1) * sizeof(*once));
	long count = once ? take_once(once, entries, n, pages) : -ENOMEM;
	int result = count < 0 ? (int)count : 0;

	if (result == 0) {
		head.page_size = (uint32_t)page_size;
		head.pages = pages;
		head.count = (uint64_t)count;
		head.entries_crc = lh__crc32c(0, once, (size_t)count * sizeof(*once));
		head.head_crc = head_crc(&head);
		result = replace(path, &head, once);
	}
	free(once);
	if (result < 0)
		return lh__fail(error, result, "%s: the recording cannot be written: %s", path,
		                lh__errno_name(result));
	return 0;
}

int lh__record_writable(const char *path, struct lh_error *error)
{
	char place[PATH_MAX], beside[PATH_MAX];
	int result = find_place(path, place);

	if (result == 0)
		result = open_beside(place, beside);
	if (result < 0)
		return lh__fail(error, result, "%s: cannot be written: %s", path, lh__errno_name(result));
	close(result);
	unlink(beside);
	return 0;
}

/* ---- reading ---- */

static int read_all(int fd, void *to, size_t size)
{
	ssize_t got;

	for (; size > 0; to = (char *)to + got, size -= (size_t)got) {
		do
			got = read(fd, to, size);
		while (got < 0 && errno == EINTR);
		if (got <= 0)
			return got < 0 ? -errno : -EBADMSG;
	}
	return 0;
}

static int check_head(const char *path, const struct head *head, size_t page_size, uint64_t pages,
                      struct lh_error *error)
{
	if (memcmp(head->magic, MAGIC, sizeof(head->magic)) != 0)
		return lh__fail(error, -EBADMSG, "%s: not a recording of misses", path);
	if (head->head_crc != head_crc(head))
		return lh__fail(error, -EBADMSG, "%s: the recording is damaged", path);
	if (head->version != VERSION)
		return lh__fail(error, -EBADMSG, "%s: a recording of version %u; this program knows %u", path,
		                head->version, VERSION);
	if (head->page_size != page_size || (pages && head->pages != pages))
		return lh__fail(error, -EINVAL,
		                "%s: recorded with %lu pages of %u bytes, but the guest has %lu of %zu", path,
		                (unsigned long)head->pages, head->page_size, (unsigned long)pages, page_size);
	return 0;
}

/* What follows the head: exactly `count` entries, each right. */
static int read_entries(int fd, const char *path, const struct head *head, uint64_t **entries,
                        struct lh_error *error)
{
	uint64_t size = head->count * sizeof(**entries);
	struct stat status;
	uint64_t *read;
	long once;
	int result;

	if (fstat(fd, &status) < 0)
		return lh__fail(error, -errno, "%s: %s", path, lh__errno_name(errno));
	if (head->count > head->pages || (uint64_t)status.st_size != HEAD + size)
		return lh__fail(error, -EBADMSG, "%s: the recording is damaged", path);
	read = malloc(size + sizeof(*read));
	if (!read)
		return lh__fail(error, -ENOMEM, "%s: no memory for %lu entries", path,
		                (unsigned long)head->count);
	result = read_all(fd, read, size);
	if (result == 0 && head->entries_crc != lh__crc32c(0, read, size))
		result = -EBADMSG;
	once = result == 0 ? take_once(read, read, head->count, head->pages) : result;
	if (once != (long)head->count) {
		free(read);
		result = once == -ENOMEM || (result < 0 && result != -EBADMSG) ? (int)once : -EBADMSG;
		return lh__fail(error, result, "%s: %s", path,
		                result == -EBADMSG ? "the recording is damaged" : lh__errno_name(result));
	}
	*entries = read;
	return 0;
}

int lh__record_read(const char *path, size_t page_size, uint64_t pages, uint64_t **entries, size_t *n,
                    struct lh_error *error)
{
	struct head head;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), result;

	if (fd < 0)
		return lh__fail(error, -errno, "%s: %s", path, lh__errno_name(errno));
	result = read_all(fd, &head, sizeof(head));
	if (result < 0) {
		result = lh__fail(error, result, "%s: %s", path,
		                  result == -EBADMSG ? "not a recording of misses" : lh__errno_name(result));
	} else {
		result = check_head(path, &head, page_size, pages, error);
		if (result == 0)
			result = read_entries(fd, path, &head, entries, error);
	}
	if (result == 0)
		*n = (size_t)head.count;
	close(fd);
	return result;
}
