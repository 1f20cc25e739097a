/*
 * snapshot_save.c - see snapshot.h. A machine is put into a folder.
 *
 * The guest stands still while its memory is copied, and no longer: it goes on before what was written is
 * flushed. machine.json, which makes the folder a snapshot, comes after that.
 */
#include "service/migrate/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/snapshot_inside.h"
#include "sys/sys.h"

#define CHUNK (1u << 20)

struct saving {
	const char *dir;
	struct lh_snapshot_left *left;
	int cancel;
	char *chunk;
	struct lh_machine machine;
	struct lh_snapshot snapshot;
};

/* ---- the folder ---- */

static int is_empty(const char *dir, struct lh_error *error)
{
	DIR *folder = opendir(dir);
	struct dirent *entry;
	int rc = 0;

	if (!folder)
		return lh__fail(error, -errno, "%s: %s", dir, lh__errno_name(errno));
	while (!rc && (entry = readdir(folder)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			rc = lh__fail(error, -ENOTEMPTY, "%s: the folder is not empty", dir);
	closedir(folder);
	return rc;
}

static int make_folder(struct saving *saving, struct lh_error *error)
{
	if (!mkdir(saving->dir, 0700)) {
		saving->left->made = true;
		return 0;
	}
	if (errno != EEXIST)
		return lh__fail(error, -errno, "%s: %s", saving->dir, lh__errno_name(errno));
	return is_empty(saving->dir, error);
}

static void remove_all(const struct saving *saving)
{
	const struct lh_snapshot *snapshot = &saving->snapshot;

	for (size_t i = 0; i < snapshot->regions; i++)
		unlink(snapshot->region[i].path);
	unlink(snapshot->device);
	if (saving->left->made)
		rmdir(saving->dir);
}

/* Names of all files; a region's name is QEMU's and is made one of a file. */
static int name_files(struct saving *saving, struct lh_error *error)
{
	struct lh_snapshot *snapshot = &saving->snapshot;

	snapshot->regions = saving->machine.regions;
	memcpy(snapshot->region, saving->machine.region, sizeof(snapshot->region));
	snprintf(snapshot->device, sizeof(snapshot->device), "%s/device", saving->dir);
	for (size_t i = 0; i < snapshot->regions; i++) {
		struct lh_state_region *region = &snapshot->region[i];
		char name[sizeof(region->name)];
		int n;

		memcpy(name, region->name, sizeof(name));
		n = snprintf(region->path, sizeof(region->path), "%s/memory-%s", saving->dir, name);
		if ((size_t)n >= sizeof(region->path))
			return lh__fail(error, -ENAMETOOLONG, "%s: the path is too long", saving->dir);
		for (char *c = region->path + strlen(saving->dir) + 1; *c; c++)
			if (*c == '/')
				*c = '_';
		region->offset = 0;
	}
	return 0;
}

/* ---- copying ---- */

static bool cancelled(const struct saving *saving)
{
	struct pollfd look = { .fd = saving->cancel, .events = POLLIN };

	return saving->cancel >= 0 && poll(&look, 1, 0) > 0;
}

static int write_at(int fd, const char *from, size_t size, off_t at)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = pwrite(fd, from + done, size - done, at + (off_t)done);

		if (n >= 0)
			done += (size_t)n;
		else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static bool is_zero(const char *page)
{
	return !*page && !memcmp(page, page + 1, LH_PAGE_SIZE - 1);
}

/* Writes runs of pages that are not zero; the rest stays a hole. */
static int write_pages(int fd, const char *from, size_t size, off_t at)
{
	size_t run = 0;
	int rc = 0;

	for (size_t page = 0; !rc && page <= size; page += LH_PAGE_SIZE) {
		if (page < size && !is_zero(from + page))
			continue;
		rc = write_at(fd, from + run, page - run, at + (off_t)run);
		run = page + LH_PAGE_SIZE;
	}
	return rc;
}

/* Copies [from, to) of in to where out has offset `base` less. */
static int copy_part(const struct saving *saving, int in, int out, off_t from, off_t to, off_t base)
{
	while (from < to) {
		size_t want = to - from < (off_t)CHUNK ? (size_t)(to - from) : CHUNK;
		ssize_t n = pread(in, saving->chunk, want, from);
		int rc;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if ((n & ~(ssize_t)(LH_PAGE_SIZE - 1)) == 0)
			return -EIO; /* it has become shorter */
		n &= ~(ssize_t)(LH_PAGE_SIZE - 1);
		rc = write_pages(out, saving->chunk, (size_t)n, from - base);
		if (rc)
			return rc;
		from += n;
		if (cancelled(saving))
			return -ECANCELED;
	}
	return 0;
}

/* Copies what is not holes. */
static int copy_sparse(const struct saving *saving, int in, int out, off_t base, off_t size)
{
	off_t end = base + size;

	for (off_t at = base; at < end;) {
		off_t data = lseek(in, at, SEEK_DATA), hole;
		int rc;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return -errno;
		if (data >= end)
			return 0;
		hole = lseek(in, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		hole = hole < end ? hole : end;
		rc = copy_part(saving, in, out, data & ~(off_t)(LH_PAGE_SIZE - 1),
		               (hole + LH_PAGE_SIZE - 1) & ~(off_t)(LH_PAGE_SIZE - 1), base);
		if (rc)
			return rc;
		at = hole;
	}
	return 0;
}

static int copy_region(const struct saving *saving, const struct lh_state_region *from,
                       const struct lh_state_region *to, struct lh_error *error)
{
	off_t size = (off_t)(from->pages * LH_PAGE_SIZE);
	int in = open(from->path, O_RDONLY | O_CLOEXEC);
	int out, rc;

	if (in < 0)
		return lh__fail(error, -errno, "%s: %s", from->path, lh__errno_name(errno));
	out = open(to->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	rc = out < 0 || ftruncate(out, size) ? -errno
	                                     : copy_sparse(saving, in, out, (off_t)from->offset, size);
	close(in);
	if (out >= 0 && close(out) && !rc)
		rc = -errno;
	if (rc == -ECANCELED)
		return lh__fail(error, rc, "cancelled");
	return rc ? lh__fail(error, rc, "%s: %s", to->path, lh__errno_name(rc)) : 0;
}

static int copy_device(const struct saving *saving, int in, struct lh_error *error)
{
	const char *path = saving->snapshot.device;
	int out = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc = out < 0 ? -errno : 0;
	off_t done = 0;

	while (!rc) {
		ssize_t n = pread(in, saving->chunk, CHUNK, done);

		if (n == 0)
			break;
		if (n < 0)
			rc = errno == EINTR ? 0 : -errno;
		else
			rc = write_at(out, saving->chunk, (size_t)n, done);
		done += n > 0 ? n : 0;
	}
	if (out >= 0 && close(out) && !rc)
		rc = -errno;
	return rc ? lh__fail(error, rc, "%s: %s", path, lh__errno_name(rc)) : 0;
}

/* All that needs a guest that stands still. */
static int copy_all(struct saving *saving, const struct lh_machine_saved *saved, struct lh_error *error)
{
	struct lh_snapshot *snapshot = &saving->snapshot;
	int rc = 0;

	snapshot->device_size = saved->size;
	snapshot->running = saved->was_running;
	/* Hints only: one that cannot be had makes no snapshot worse. */
	if (lh__machine_cr3(&saving->machine, snapshot->cr3, LH_MACHINE_CPUS_MAX, &snapshot->cpus, NULL))
		snapshot->cpus = 0;
	if (lh__machine_physical(&saving->machine, snapshot->physical, LH_SNAPSHOT_PHYSICAL_MAX,
	                         &snapshot->ranges, NULL))
		snapshot->ranges = 0;
	for (size_t i = 0; !rc && i < snapshot->regions; i++)
		rc = copy_region(saving, &saving->machine.region[i], &snapshot->region[i], error);
	return rc ? rc : copy_device(saving, saved->fd, error);
}

/* ---- the whole ---- */

static int flush(const char *path, struct lh_error *error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int rc = fd < 0 || fsync(fd) ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc ? lh__fail(error, rc, "%s: %s", path, lh__errno_name(rc)) : 0;
}

static int flush_all(const struct lh_snapshot *snapshot, struct lh_error *error)
{
	int rc = flush(snapshot->device, error);

	for (size_t i = 0; !rc && i < snapshot->regions; i++)
		rc = flush(snapshot->region[i].path, error);
	return rc;
}

static int save(struct saving *saving, struct lh_error *error)
{
	struct lh_machine_saved saved;
	struct lh_error second;
	char status[32];
	int rc = lh__machine_status(&saving->machine, status, error), back;

	if (rc)
		return rc;
	saving->left->running = !strcmp(status, "running");
	rc = lh__machine_save(&saving->machine, &saved, error);
	if (rc)
		return rc;
	rc = copy_all(saving, &saved, error);
	close(saved.fd);
	back = lh__machine_resume(&saving->machine, saved.was_running, &second);
	if (back)
		return lh__fail(error, back, "the guest stands still: %s", second.text);
	if (!rc)
		rc = flush_all(&saving->snapshot, error);
	if (!rc)
		rc = lh__snapshot_write(saving->dir, &saving->snapshot, error);
	return rc;
}

static int begin(struct saving *saving, const char *monitor, struct lh_error *error)
{
	int rc = lh__machine_open(monitor, &saving->machine, error);

	if (rc)
		return rc;
	rc = make_folder(saving, error);
	if (!rc)
		rc = name_files(saving, error);
	if (!rc) {
		saving->left->files = true;
		rc = save(saving, error);
		if (rc)
			remove_all(saving);
	} else if (saving->left->made) {
		rmdir(saving->dir);
	}
	lh__machine_close(&saving->machine);
	return rc;
}

int lh__snapshot_save(const char *monitor, const char *dir, int cancel, struct lh_snapshot_left *left,
                      struct lh_error *error)
{
	struct saving *saving = calloc(1, sizeof(*saving));
	int rc = -ENOMEM;

	if (saving)
		saving->chunk = malloc(CHUNK);
	if (saving && saving->chunk) {
		saving->dir = dir;
		saving->cancel = cancel;
		saving->left = left;
		*left = (struct lh_snapshot_left){ false };
		rc = begin(saving, monitor, error);
	} else {
		lh__fail(error, rc, "no memory");
	}
	if (saving)
		free(saving->chunk);
	free(saving);
	return rc;
}

static void remove_unfinished(struct saving *saving)
{
	char path[1200];

	snprintf(path, sizeof(path), "%s/machine.json", saving->dir);
	if (access(path, F_OK) == 0 || name_files(saving, NULL))
		return;
	snprintf(path, sizeof(path), "%s/machine.json.new", saving->dir);
	unlink(path);
	remove_all(saving);
}

int lh__snapshot_recover(const char *monitor, const char *dir, const struct lh_snapshot_left *left,
                         struct lh_error *error)
{
	struct saving *saving = calloc(1, sizeof(*saving));
	struct lh_snapshot_left own = *left;
	int rc;

	if (!saving)
		return lh__fail(error, -ENOMEM, "no memory");
	saving->dir = dir;
	saving->left = &own;
	rc = lh__machine_open(monitor, &saving->machine, error);
	if (!rc) {
		rc = left->running ? lh__machine_resume(&saving->machine, true, error) : 0;
		if (left->files)
			remove_unfinished(saving);
		lh__machine_close(&saving->machine);
	}
	free(saving);
	return rc;
}
