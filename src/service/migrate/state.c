/*
 * state.c - the file of what a receiver knows of each page. See state.h; docs/migrate-format.md draws it.
 *
 * The file is mapped shared, so what has been stored is in it whatever becomes of the process, and in the
 * order in which it was stored. A new one is made beside the old one and takes its name when it is whole. One
 * process has it at a time: a lock on it that dies with the process.
 *
 * The two sets change at any moment and so have no checksum; everything else has one.
 */
#include "service/migrate/state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "LINESTAT"
#define VERSION 1u
#define BLOCK 4096u

struct region_record {
	char name[64];
	char path[1024];
	uint64_t offset, pages, first;
};

struct header {
	char magic[8];
	uint32_t version;
	uint32_t checksum; /* of all here but phase and device, and of the regions' records */
	uint8_t id[LH_MOVE_ID];
	uint64_t pages;
	uint32_t regions;
	uint32_t zero;
	uint64_t fresh_at, zero_at;
	/* What changes. */
	uint64_t phase; /* and in the upper half its complement */
	uint64_t device_size;
	uint32_t device_checksum;
	/* What does not, again. */
	uint32_t zero_too;
	uint64_t device_at;
	uint8_t zeroes[32];
	struct region_record region[];
};

_Static_assert(sizeof(struct header) == 128 && sizeof(struct region_record) == 1112 &&
                       offsetof(struct header, phase) == 64 && offsetof(struct header, zero_too) == 84,
               "docs/migrate-format.md");

struct lh_state_file {
	int fd;
	char *path;    /* NULL: in memory alone */
	size_t mapped; /* up to device_at */
	struct header *header;
	uint64_t *words; /* of the sets that are in memory alone */
};

/* ---- where things stand ---- */

static uint64_t blocks(uint64_t size)
{
	return (size + BLOCK - 1) / BLOCK * BLOCK;
}

static void lay_out(struct header *header)
{
	uint64_t set = blocks(lh__pageset_bytes(header->pages));

	header->fresh_at = blocks(sizeof *header + header->regions * sizeof *header->region);
	header->zero_at = header->fresh_at + set;
	header->device_at = header->zero_at + set;
}

static uint32_t checksum(const struct header *header)
{
	const unsigned char *bytes = (const unsigned char *)header;
	const size_t changing = offsetof(struct header, phase), after = offsetof(struct header, zero_too);
	const size_t own = offsetof(struct header, checksum);
	static const unsigned char none[4];
	uint32_t crc = lh__crc32c(0, bytes, own);

	crc = lh__crc32c(crc, none, sizeof none);
	crc = lh__crc32c(crc, bytes + own + sizeof none, changing - own - sizeof none);
	return lh__crc32c(crc, bytes + after,
	                  sizeof *header + header->regions * sizeof *header->region - after);
}

/* ---- the handle ---- */

static struct lh_pageset set_at(uint64_t pages, void *words)
{
	return (struct lh_pageset){ .pages = pages, .word = words };
}

static int make_sets(struct lh_state *state, struct lh_error *error)
{
	struct header *header = state->file->header;
	unsigned char *bytes = (unsigned char *)header;
	size_t set = lh__pageset_bytes(header->pages) / sizeof(uint64_t);
	uint64_t *words = calloc(4 * set + 1, sizeof *words);

	if (!words)
		return lh__fail(error, -ENOMEM, "no memory for sets of %lu pages",
		                (unsigned long)header->pages);
	state->file->words = words;
	state->fresh = set_at(header->pages, bytes + header->fresh_at);
	state->zero = set_at(header->pages, bytes + header->zero_at);
	state->based = set_at(header->pages, words);
	state->shown = set_at(header->pages, words + set);
	state->asked = set_at(header->pages, words + 2 * set);
	state->busy = set_at(header->pages, words + 3 * set);
	return 0;
}

static struct lh_state *new_state(const char *path)
{
	struct lh_state *state = calloc(1, sizeof *state);

	if (!state)
		return NULL;
	state->file = calloc(1, sizeof *state->file);
	if (state->file)
		state->file->path = path ? strdup(path) : NULL;
	if (!state->file || (path && !state->file->path)) {
		free(state->file);
		free(state);
		return NULL;
	}
	state->file->fd = -1;
	return state;
}

void lh__state_close(struct lh_state *state, bool remove)
{
	struct lh_state_file *file = state ? state->file : NULL;

	if (!file)
		return;
	if (file->header)
		munmap(file->header, file->mapped);
	if (remove && file->path)
		unlink(file->path);
	if (file->fd >= 0)
		close(file->fd);
	free(file->words);
	free(file->path);
	free(file);
	free(state);
}

static int map(struct lh_state_file *file, size_t size)
{
	void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);

	if (mapped == MAP_FAILED)
		return -errno;
	file->header = mapped;
	file->mapped = size;
	return 0;
}

/* -EBUSY: another process has it. */
static int lock(int fd)
{
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_SETLK, &whole) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

static int busy(struct lh_error *error, const char *path)
{
	return lh__fail(error, -EBUSY, "%s is in use by another process", path);
}

/* ---- making one ---- */

/* Regions follow one another, so that pages are numbered without gaps. */
static int check_regions(const struct lh_state_region *region, size_t regions, uint64_t *pages,
                         struct lh_error *error)
{
	*pages = 0;
	if (regions > LH_STATE_REGIONS_MAX)
		return lh__fail(error, -EINVAL, "%zu regions of memory are more than %u", regions,
		                LH_STATE_REGIONS_MAX);
	for (size_t i = 0; i < regions; i++) {
		if (region[i].first != *pages || region[i].pages > LH_PAGE_NUMBER_MAX - *pages ||
		    !memchr(region[i].name, 0, sizeof region[i].name) ||
		    !memchr(region[i].path, 0, sizeof region[i].path))
			return lh__fail(error, -EINVAL,
			                "region %zu of memory does not follow the one before it", i);
		*pages += region[i].pages;
	}
	return 0;
}

static void fill(struct header *header, const struct header *layout, const struct lh_state_region *region)
{
	*header = *layout;
	for (uint32_t i = 0; i < layout->regions; i++) {
		struct region_record *record = &header->region[i];

		memcpy(record->name, region[i].name, strlen(region[i].name));
		memcpy(record->path, region[i].path, strlen(region[i].path));
		record->offset = region[i].offset;
		record->pages = region[i].pages;
		record->first = region[i].first;
	}
	header->checksum = checksum(header);
}

/* All the memory that will be stored to is set aside, since a store cannot fail. */
static int reserve(int fd, uint64_t size)
{
	if (fallocate(fd, 0, 0, (off_t)size) == 0)
		return 0;
	if (errno != EOPNOTSUPP)
		return -errno;
	return -posix_fallocate(fd, 0, (off_t)size);
}

static int new_file(const char *path, struct lh_error *error)
{
	int fd = path ? (unlink(path), open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600))
	              : memfd_create("linehome-state", MFD_CLOEXEC);

	return fd >= 0 ? fd
	               : lh__fail(error, -errno, "%s cannot be made (%s)", path ? path : "a memory file",
	                          lh__errno_name(errno));
}

/* Whether another process has the file that is to be replaced. */
static int look_at_old(const char *path, struct lh_error *error)
{
	int fd = path ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1, result;

	if (fd < 0)
		return 0;
	result = lock(fd);
	close(fd);
	return result == -EBUSY ? busy(error, path) : 0;
}

static int make(struct lh_state *state, const char *temporary, const struct header *layout,
                const struct lh_state_region *region, struct lh_error *error)
{
	struct lh_state_file *file = state->file;
	const char *name = file->path ? file->path : "a memory file";
	int result = file->fd = new_file(temporary, error);

	if (result < 0)
		return result;
	result = reserve(file->fd, layout->device_at);
	if (result == 0)
		result = map(file, layout->device_at);
	if (result == 0)
		result = lock(file->fd);
	if (result < 0)
		return lh__fail(error, result, "%s: no room for %lu bytes (%s)", name,
		                (unsigned long)layout->device_at, lh__errno_name(result));
	fill(file->header, layout, region);
	if (temporary && rename(temporary, file->path) != 0)
		return lh__fail(error, -errno, "%s cannot take its name (%s)", name, lh__errno_name(errno));
	return make_sets(state, error);
}

int lh__state_create(const char *path, const uint8_t id[LH_MOVE_ID], const struct lh_state_region *region,
                     size_t regions, struct lh_state **out, struct lh_error *error)
{
	struct header layout = { .magic = MAGIC, .version = VERSION, .regions = (uint32_t)regions };
	char temporary[PATH_MAX];
	struct lh_state *state;
	int result = check_regions(region, regions, &layout.pages, error);

	if (result == 0)
		result = look_at_old(path, error);
	if (result < 0)
		return result;
	if (path && (size_t)snprintf(temporary, sizeof temporary, "%s.new", path) >= sizeof temporary)
		return lh__fail(error, -ENAMETOOLONG, "%s: too long a name", path);
	memcpy(layout.id, id, sizeof layout.id);
	layout.phase = LH_MOVE_COPYING | (uint64_t) ~(uint32_t)LH_MOVE_COPYING << 32;
	lay_out(&layout);
	state = new_state(path);
	if (!state)
		return lh__fail(error, -ENOMEM, "no memory for the state of a migration");
	result = make(state, path ? temporary : NULL, &layout, region, error);
	if (result < 0) {
		if (path && state->file->fd >= 0)
			unlink(temporary);
		lh__state_close(state, false);
		return result;
	}
	memcpy(state->id, id, sizeof state->id);
	state->pages = layout.pages;
	state->regions = regions;
	for (size_t i = 0; i < regions; i++)
		state->region[i] = region[i];
	*out = state;
	return 0;
}

/* ---- opening one ---- */

static int damaged(struct lh_error *error, const char *path, const char *what)
{
	return lh__fail(error, -EBADMSG, "%s is damaged: %s", path, what);
}

/* What lies within the first `size` bytes that there are, all of the file. */
static int check_header(const struct header *header, uint64_t size, const char *path, struct lh_error *error)
{
	struct header layout;

	if (size < sizeof *header || memcmp(header->magic, MAGIC, sizeof header->magic) != 0)
		return lh__fail(error, -EBADMSG, "%s is not the state of a migration", path);
	if (header->version != VERSION)
		return lh__fail(error, -EBADMSG, "%s: version %u, and not %u, of the state of a migration",
		                path, header->version, VERSION);
	if (header->regions > LH_STATE_REGIONS_MAX || header->pages > LH_PAGE_NUMBER_MAX ||
	    size < sizeof *header + header->regions * sizeof *header->region)
		return damaged(error, path, "it is too short");
	if (header->checksum != checksum(header))
		return damaged(error, path, "its header's checksum is wrong");
	layout = *header;
	lay_out(&layout);
	if (layout.fresh_at != header->fresh_at || layout.zero_at != header->zero_at ||
	    layout.device_at != header->device_at || size < header->device_at)
		return damaged(error, path, "its parts do not stand where they should");
	return 0;
}

static int take_regions(struct lh_state *state, struct lh_error *error)
{
	const struct header *header = state->file->header;
	uint64_t pages;
	int result;

	for (uint32_t i = 0; i < header->regions; i++) {
		const struct region_record *record = &header->region[i];
		struct lh_state_region *region = &state->region[i];

		memcpy(region->name, record->name, sizeof region->name);
		memcpy(region->path, record->path, sizeof region->path);
		region->offset = record->offset;
		region->pages = record->pages;
		region->first = record->first;
	}
	memcpy(state->id, header->id, sizeof state->id);
	state->pages = header->pages;
	state->regions = header->regions;
	result = check_regions(state->region, state->regions, &pages, error);
	if (result < 0 || pages != state->pages)
		return damaged(error, state->file->path, "its regions do not make up its pages");
	return 0;
}

/* Copies the device state to a descriptor (-1: nowhere) and looks at its checksum. */
static int copy_device(const struct lh_state_file *file, int to)
{
	const struct header *header = file->header;
	uint64_t size = __atomic_load_n(&header->device_size, __ATOMIC_ACQUIRE), at = 0;
	unsigned char part[16384];
	uint32_t crc = 0;

	while (at < size) {
		size_t n = size - at < sizeof part ? (size_t)(size - at) : sizeof part;
		ssize_t got = pread(file->fd, part, n, (off_t)(header->device_at + at));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EBADMSG;
		crc = lh__crc32c(crc, part, (size_t)got);
		for (ssize_t out = 0, done; to >= 0 && out < got; out += done) {
			done = write(to, part + out, (size_t)(got - out));
			if (done < 0 && errno != EINTR)
				return -errno;
			done = done < 0 ? 0 : done;
		}
		at += (uint64_t)got;
	}
	return crc == header->device_checksum ? 0 : -EBADMSG;
}

static int check_rest(struct lh_state *state, struct lh_error *error)
{
	const struct header *header = state->file->header;
	uint32_t phase = (uint32_t)header->phase;
	int result;

	if (phase != ~(uint32_t)(header->phase >> 32) || phase < LH_MOVE_COPYING || phase > LH_MOVE_RETURNED)
		return damaged(error, state->file->path, "it names no phase");
	if (header->device_size == 0)
		return 0;
	result = copy_device(state->file, -1);
	return result < 0 ? damaged(error, state->file->path, "the device state's checksum is wrong") : 0;
}

static int open_and_check(struct lh_state *state, struct lh_error *error)
{
	struct lh_state_file *file = state->file;
	struct stat found;
	int result;

	file->fd = open(file->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (file->fd < 0 || fstat(file->fd, &found) != 0)
		return lh__fail(error, -errno, "%s cannot be opened (%s)", file->path, lh__errno_name(errno));
	if (!S_ISREG(found.st_mode) || found.st_size < (off_t)sizeof *file->header)
		return lh__fail(error, -EBADMSG, "%s is not the state of a migration", file->path);
	result = lock(file->fd);
	if (result == -EBUSY)
		return busy(error, file->path);
	if (result == 0)
		result = map(file, (size_t)found.st_size);
	if (result < 0)
		return lh__fail(error, result, "%s cannot be mapped (%s)", file->path,
		                lh__errno_name(result));
	result = check_header(file->header, (uint64_t)found.st_size, file->path, error);
	if (result == 0)
		result = take_regions(state, error);
	if (result == 0)
		result = check_rest(state, error);
	return result < 0 ? result : make_sets(state, error);
}

int lh__state_open(const char *path, struct lh_state **out, struct lh_error *error)
{
	struct lh_state *state = new_state(path);
	int result;

	if (!state)
		return lh__fail(error, -ENOMEM, "no memory for the state of a migration");
	result = open_and_check(state, error);
	if (result < 0)
		lh__state_close(state, false);
	else
		*out = state;
	return result;
}

/* ---- phase and device state ---- */

enum lh_move_phase lh__state_phase(const struct lh_state *state)
{
	return (enum lh_move_phase)(uint32_t)__atomic_load_n(&state->file->header->phase, __ATOMIC_ACQUIRE);
}

void lh__state_set_phase(struct lh_state *state, enum lh_move_phase phase)
{
	uint64_t word = (uint32_t)phase | (uint64_t) ~(uint32_t)phase << 32;

	__atomic_store_n(&state->file->header->phase, word, __ATOMIC_RELEASE);
}

/* Its size is stored last: until then there is none. */
int lh__state_put_device(struct lh_state *state, const void *bytes, size_t size, struct lh_error *error)
{
	struct header *header = state->file->header;
	const unsigned char *from = bytes;

	if (size == 0)
		return lh__fail(error, -EINVAL, "a device state of no bytes");
	__atomic_store_n(&header->device_size, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&header->device_checksum, 0, __ATOMIC_RELEASE);
	for (size_t at = 0; at < size;) {
		ssize_t done = pwrite(state->file->fd, from + at, size - at, (off_t)(header->device_at + at));

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return lh__fail(error, done < 0 ? -errno : -EIO,
			                "the device state cannot be kept (%s)",
			                lh__errno_name(done < 0 ? errno : EIO));
		at += (size_t)done;
	}
	__atomic_store_n(&header->device_checksum, lh__crc32c(0, bytes, size), __ATOMIC_RELEASE);
	__atomic_store_n(&header->device_size, size, __ATOMIC_RELEASE);
	return 0;
}

int lh__state_device_to(const struct lh_state *state, int fd, struct lh_error *error)
{
	int result;

	if (__atomic_load_n(&state->file->header->device_size, __ATOMIC_ACQUIRE) == 0)
		return lh__fail(error, -ENODATA, "there is no device state");
	result = copy_device(state->file, fd);
	if (result < 0)
		return lh__fail(error, result, "the device state cannot be copied (%s)",
		                lh__errno_name(result));
	return 0;
}

int lh__state_device(const struct lh_state *state, struct lh_error *error)
{
	int fd = memfd_create("linehome-device", MFD_CLOEXEC), result;

	if (fd < 0)
		return lh__fail(error, -errno, "no memory file can be made (%s)", lh__errno_name(errno));
	result = lh__state_device_to(state, fd, error);
	if (result == 0 && lseek(fd, 0, SEEK_SET) != 0)
		result = lh__fail(error, -errno, "the device state cannot be read (%s)",
		                  lh__errno_name(errno));
	if (result == 0)
		return fd;
	close(fd);
	return result;
}
