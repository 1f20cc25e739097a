/*
 * snapshot_json.c - see snapshot_inside.h. The machine.json of a snapshot, written and read.
 *
 *     {"format": "linehome-snapshot", "version": 1, "page_size": 4096, "running": true,
 *      "regions": [{"name": "ram0", "pages": 131072, "file": "memory-ram0"}, ...],
 *      "device": {"file": "device", "size": 318540},
 *      "cr3": [33546240, ...],
 *      "physical": [{"address": 0, "pages": 160, "first": 0}, ...]}
 *
 * Members that are not known are passed over. What is read may come from anybody: names of files are names
 * within the folder, and no number is taken that does not fit.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/migrate/snapshot_inside.h"
#include "sys/sys.h"

#define PAGES_MAX (1ull << 40)
#define TEXT_MAX (16u << 20)

/* ---- writing ---- */

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static json_t *regions_of(const struct lh_snapshot *snapshot)
{
	json_t *list = json_array();

	for (size_t i = 0; i < snapshot->regions; i++)
		json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name", snapshot->region[i].name,
		                                      "pages", (json_int_t)snapshot->region[i].pages, "file",
		                                      last_part(snapshot->region[i].path)));
	return list;
}

static json_t *cr3_of(const struct lh_snapshot *snapshot)
{
	json_t *list = json_array();

	for (size_t i = 0; i < snapshot->cpus; i++)
		json_array_append_new(list, json_integer((json_int_t)snapshot->cr3[i]));
	return list;
}

static json_t *physical_of(const struct lh_snapshot *snapshot)
{
	json_t *list = json_array();

	for (size_t i = 0; i < snapshot->ranges; i++)
		json_array_append_new(list, json_pack("{s:I, s:I, s:I}", "address",
		                                      (json_int_t)snapshot->physical[i].address, "pages",
		                                      (json_int_t)snapshot->physical[i].pages, "first",
		                                      (json_int_t)snapshot->physical[i].first));
	return list;
}

static char *text_of(const struct lh_snapshot *snapshot)
{
	json_t *all =
		json_pack("{s:s, s:i, s:i, s:b, s:o, s:{s:s, s:I}, s:o, s:o}", "format", LH_SNAPSHOT_FORMAT,
	                  "version", LH_SNAPSHOT_VERSION, "page_size", (int)LH_PAGE_SIZE, "running",
	                  snapshot->running, "regions", regions_of(snapshot), "device", "file",
	                  last_part(snapshot->device), "size", (json_int_t)snapshot->device_size, "cr3",
	                  cr3_of(snapshot), "physical", physical_of(snapshot));
	char *text = all ? json_dumps(all, JSON_INDENT(2)) : NULL;

	json_decref(all);
	return text;
}

static int write_flushed(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t size = strlen(text);
	int rc = fd < 0 ? -errno : 0;

	for (size_t done = 0; !rc && done < size;) {
		ssize_t n = write(fd, text + done, size - done);

		if (n >= 0)
			done += (size_t)n;
		else if (errno != EINTR)
			rc = -errno;
	}
	if (!rc && fsync(fd))
		rc = -errno;
	if (fd >= 0 && close(fd) && !rc)
		rc = -errno;
	return rc;
}

static int flush_folder(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 || fsync(fd) ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc;
}

int lh__snapshot_write(const char *dir, const struct lh_snapshot *snapshot, struct lh_error *error)
{
	char path[1200], beside[1200];
	char *text = text_of(snapshot);
	int rc;

	if (!text)
		return lh__fail(error, -ENOMEM, "no memory");
	snprintf(path, sizeof(path), "%s/machine.json", dir);
	snprintf(beside, sizeof(beside), "%s/machine.json.new", dir);
	rc = write_flushed(beside, text);
	free(text);
	if (!rc && rename(beside, path))
		rc = -errno;
	if (!rc)
		rc = flush_folder(dir);
	if (rc) {
		unlink(beside);
		return lh__fail(error, rc, "%s: %s", path, lh__errno_name(rc));
	}
	return 0;
}

/* ---- reading ---- */

static bool number(const json_t *object, const char *name, uint64_t max, uint64_t *value)
{
	const json_t *member = json_object_get(object, name);

	*value = (uint64_t)json_integer_value(member);
	return json_is_integer(member) && json_integer_value(member) >= 0 && *value <= max;
}

/* The path of a file of the folder that a member names. */
static bool file(const json_t *object, const char *dir, char *out, size_t size)
{
	const char *name = json_string_value(json_object_get(object, "file"));

	return name && *name && *name != '.' && !strchr(name, '/') &&
	       (size_t)snprintf(out, size, "%s/%s", dir, name) < size;
}

static bool read_region(const json_t *from, const char *dir, uint64_t *first, struct lh_state_region *region)
{
	const char *name = json_string_value(json_object_get(from, "name"));

	if (!name || strlen(name) >= sizeof(region->name) ||
	    !number(from, "pages", PAGES_MAX, &region->pages) ||
	    !file(from, dir, region->path, sizeof(region->path)))
		return false;
	memcpy(region->name, name, strlen(name) + 1);
	region->first = *first;
	*first += region->pages;
	return region->pages > 0;
}

static bool read_regions(const json_t *list, const char *dir, struct lh_snapshot *snapshot, uint64_t *pages)
{
	size_t n = json_array_size(list);

	*pages = 0;
	if (n == 0 || n > LH_STATE_REGIONS_MAX)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!read_region(json_array_get(list, i), dir, pages, &snapshot->region[i]))
			return false;
	snapshot->regions = n;
	return true;
}

/* Hints both: of what is not as it should be nothing is kept. */
static void read_hints(const json_t *all, uint64_t pages, struct lh_snapshot *snapshot)
{
	const json_t *list = json_object_get(all, "cr3"), *one;
	size_t i;

	json_array_foreach(list, i, one) if (snapshot->cpus < LH_MACHINE_CPUS_MAX && json_is_integer(one))
		snapshot->cr3[snapshot->cpus++] = (uint64_t)json_integer_value(one);
	list = json_object_get(all, "physical");
	json_array_foreach(list, i, one)
	{
		struct lh_physical_range *range = &snapshot->physical[snapshot->ranges];

		if (snapshot->ranges < LH_SNAPSHOT_PHYSICAL_MAX &&
		    number(one, "address", INT64_MAX, &range->address) &&
		    number(one, "pages", pages, &range->pages) &&
		    number(one, "first", pages, &range->first) && range->address % LH_PAGE_SIZE == 0 &&
		    range->pages && range->first + range->pages <= pages)
			snapshot->ranges++;
	}
}

static int look_at_file(const char *path, uint64_t size, struct lh_error *error)
{
	struct stat status;

	if (stat(path, &status))
		return lh__fail(error, errno == ENOENT ? -EBADMSG : -errno, "%s: %s", path,
		                lh__errno_name(errno));
	if (!S_ISREG(status.st_mode) || (uint64_t)status.st_size != size)
		return lh__fail(error, -EBADMSG, "%s: it is not as long as the snapshot says", path);
	return 0;
}

static int look_at_files(const struct lh_snapshot *snapshot, struct lh_error *error)
{
	int rc = look_at_file(snapshot->device, snapshot->device_size, error);

	for (size_t i = 0; !rc && i < snapshot->regions; i++)
		rc = look_at_file(snapshot->region[i].path, snapshot->region[i].pages * LH_PAGE_SIZE, error);
	return rc;
}

static int take(const json_t *all, const char *dir, const char *path, struct lh_snapshot *snapshot,
                struct lh_error *error)
{
	const char *format = json_string_value(json_object_get(all, "format"));
	const json_t *device = json_object_get(all, "device");
	uint64_t version, page_size, pages;

	if (!format || strcmp(format, LH_SNAPSHOT_FORMAT) != 0)
		return lh__fail(error, -EBADMSG, "%s: this is not a snapshot's", path);
	if (!number(all, "version", UINT32_MAX, &version) || version != LH_SNAPSHOT_VERSION)
		return lh__fail(error, -EBADMSG, "%s: of another version than %d", path, LH_SNAPSHOT_VERSION);
	if (!number(all, "page_size", UINT32_MAX, &page_size) || page_size != LH_PAGE_SIZE)
		return lh__fail(error, -EBADMSG, "%s: of a machine with other pages", path);
	if (!read_regions(json_object_get(all, "regions"), dir, snapshot, &pages) ||
	    !number(device, "size", INT64_MAX, &snapshot->device_size) ||
	    !file(device, dir, snapshot->device, sizeof(snapshot->device)))
		return lh__fail(error, -EBADMSG, "%s: damaged", path);
	snapshot->running = json_is_true(json_object_get(all, "running"));
	read_hints(all, pages, snapshot);
	return look_at_files(snapshot, error);
}

int lh__snapshot_read(const char *dir, struct lh_snapshot *snapshot, struct lh_error *error)
{
	struct stat status;
	json_error_t why;
	char path[1200];
	json_t *all;
	int rc;

	memset(snapshot, 0, sizeof(*snapshot));
	snprintf(path, sizeof(path), "%s/machine.json", dir);
	if (stat(path, &status))
		return lh__fail(error, -errno, "%s: %s", path,
		                errno == ENOENT ? "there is none, so this is no snapshot"
		                                : lh__errno_name(errno));
	if (!S_ISREG(status.st_mode) || status.st_size > TEXT_MAX)
		return lh__fail(error, -EBADMSG, "%s: this is not a snapshot's", path);
	all = json_load_file(path, 0, &why);
	if (!all)
		return lh__fail(error, -EBADMSG, "%s: damaged: line %d", path, why.line);
	rc = take(all, dir, path, snapshot, error);
	json_decref(all);
	return rc;
}
