/*
 * machine_memory.c - see machine.h. Whether a machine's memory is files that can be handed from one QEMU to
 * another, and which; what is not as it must be is said with what to do about it.
 *
 * A path is QEMU's word: relative to where it was started, and in its view of the file system. So what it
 * names is compared with what the process has mapped.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "service/code/remote.h"
#include "service/migrate/machine_inside.h"
#include "sys/sys.h"

#define HOW                                                                                                  \
	"start QEMU with -object memory-backend-file,id=ram0,size=...,mem-path=/dev/shm/NAME,share=on "      \
	"-machine memory-backend=ram0"

static int is_sought(void *context, const struct lh_mapping *mapping)
{
	const struct stat *status = context;

	return status->st_ino && mapping->inode == status->st_ino &&
	       makedev(mapping->device_major, mapping->device_minor) == status->st_dev;
}

/* Whether the process has mapped what stands at path; -EACCES...: it cannot be said. */
static int has_mapped(pid_t process, const char *path, struct stat *status)
{
	if (stat(path, status))
		memset(status, 0, sizeof(*status));
	return lh__mappings(process, is_sought, status);
}

/* The process of a vCPU's thread. */
static pid_t process_of(pid_t thread)
{
	char path[64], line[128];
	pid_t process = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)thread);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Tgid: %d", &process) == 1)
			break;
	if (file)
		fclose(file);
	return process;
}

/* An absolute path as this process sees it, of one that QEMU sees. */
static int as_we_see(pid_t process, const char *word, bool its_root, char *path, size_t size)
{
	char link[64], root[PATH_MAX] = "", folder[PATH_MAX] = "";
	ssize_t n;

	if (its_root)
		snprintf(root, sizeof(root), "/proc/%d/root", (int)process);
	if (*word != '/') {
		snprintf(link, sizeof(link), "/proc/%d/cwd", (int)process);
		n = readlink(link, folder, sizeof(folder) - 1);
		if (n < 0)
			return -errno;
		folder[n] = '\0';
	}
	if ((size_t)snprintf(path, size, "%s%s%s%s", root, folder, *folder ? "/" : "", word) >= size)
		return -ENAMETOOLONG;
	return 0;
}

static int not_there(const struct lh_state_region *region, const char *word, const struct stat *status,
                     struct lh_error *error)
{
	if (S_ISDIR(status->st_mode))
		return lh__fail(error, -EINVAL,
		                "memory backend %s: %s is a folder, and has to be a file: " HOW, region->name,
		                word);
	return lh__fail(
		error, -EINVAL,
		"memory backend %s: %s has been deleted or replaced while QEMU runs: it cannot be reached",
		region->name, word);
}

/* Finds the file in our view, and that QEMU has mapped it. */
static int find_file(struct lh_machine *machine, struct lh_state_region *region, const char *word,
                     struct stat *status, struct lh_error *error)
{
	pid_t process[2] = { machine->process, machine->cpus ? process_of(machine->cpu[0]) : 0 };
	int rc = 0;

	for (size_t i = 0; i < 2; i++) {
		if (process[i] <= 0)
			continue;
		for (int root = 0; root < 2; root++) {
			rc = as_we_see(process[i], word, root, region->path, sizeof(region->path));
			if (!rc)
				rc = has_mapped(process[i], region->path, status);
			if (rc > 0) {
				machine->process = process[i];
				return 0;
			}
		}
	}
	if (rc == -ENAMETOOLONG)
		return lh__fail(error, -EINVAL, "memory backend %s: its path is too long", region->name);
	if (rc < 0)
		return lh__fail(error, rc, "process %d, which is QEMU, may not be looked at by this user: %s",
		                (int)machine->process, lh__errno_name(rc));
	return not_there(region, word, status, error);
}

static int look_at_file(const struct lh_state_region *region, const struct stat *status,
                        struct lh_error *error)
{
	struct statfs system;

	if (statfs(region->path, &system))
		return lh__fail(error, -errno, "%s: %s", region->path, lh__errno_name(errno));
	if (system.f_type == HUGETLBFS_MAGIC)
		return lh__fail(
			error, -EINVAL,
			"memory backend %s: %s lies in hugetlbfs: pages of 4096 bytes (tmpfs) are needed",
			region->name, region->path);
	if (system.f_type != TMPFS_MAGIC)
		return lh__fail(error, -EINVAL,
		                "memory backend %s: %s does not lie in tmpfs; a file in /dev/shm does",
		                region->name, region->path);
	if ((uint64_t)status->st_size < region->pages * LH_PAGE_SIZE)
		return lh__fail(error, -EINVAL, "memory backend %s: %s is shorter than the memory",
		                region->name, region->path);
	return 0;
}

/* ---- what QEMU tells of a backend ---- */

static int property(struct lh_machine *machine, const char *id, const char *name, json_t **value,
                    struct lh_error *error)
{
	char path[128];

	snprintf(path, sizeof(path), "/objects/%s", id);
	return lh__qmp_command(machine->qmp, "qom-get",
	                       json_pack("{s:s, s:s}", "path", path, "property", name), -1, value, error);
}

static int text_property(struct lh_machine *machine, const char *id, const char *name, char *out, size_t size,
                         struct lh_error *error)
{
	json_t *value;
	int rc = property(machine, id, name, &value, error);

	if (rc)
		return rc;
	if (!json_is_string(value) || json_string_length(value) >= size)
		rc = lh__fail(error, -EPROTO, "memory backend %s: QEMU tells no proper %s", id, name);
	else
		memcpy(out, json_string_value(value), json_string_length(value) + 1);
	json_decref(value);
	return rc;
}

/* Offset of the memory in its file, which QEMU knows from version 8.1 on. */
static uint64_t offset_of(struct lh_machine *machine, const char *id)
{
	json_t *value;
	uint64_t offset;

	if (property(machine, id, "offset", &value, NULL))
		return 0;
	offset = (uint64_t)json_integer_value(value);
	json_decref(value);
	return offset;
}

static int look_at_type(struct lh_machine *machine, const char *id, struct lh_error *error)
{
	char type[64];
	int rc = text_property(machine, id, "type", type, sizeof(type), error);

	if (rc || !strcmp(type, "memory-backend-file"))
		return rc;
	if (!strcmp(type, "memory-backend-ram") && strstr(id, ".ram"))
		return lh__fail(error, -EINVAL, "the machine's memory is not a file: " HOW);
	return lh__fail(error, -EINVAL, "memory backend %s is a %s and not a file: " HOW, id, type);
}

static int find_backend(struct lh_machine *machine, const json_t *backend, struct lh_error *error)
{
	struct lh_state_region *region = &machine->region[machine->regions];
	uint64_t size = (uint64_t)json_integer_value(json_object_get(backend, "size"));
	struct stat status;
	char word[1024];
	int rc;

	if (!json_object_get(backend, "id"))
		return lh__fail(error, -EINVAL, "the machine has memory without a name: " HOW);
	rc = lh__machine_word(backend, "id", region->name, sizeof(region->name), error);
	if (!rc)
		rc = look_at_type(machine, region->name, error);
	if (!rc && !json_is_true(json_object_get(backend, "share")))
		rc = lh__fail(error, -EINVAL, "memory backend %s is not shared: " HOW, region->name);
	if (!rc)
		rc = text_property(machine, region->name, "mem-path", word, sizeof(word), error);
	if (rc)
		return rc;
	if (!size || size % LH_PAGE_SIZE)
		return lh__fail(error, -EINVAL, "memory backend %s: %lu bytes are not whole pages",
		                region->name, size);
	region->pages = size / LH_PAGE_SIZE;
	rc = find_file(machine, region, word, &status, error);
	if (rc)
		return rc;
	region->offset = offset_of(machine, region->name);
	rc = look_at_file(region, &status, error);
	machine->regions += !rc;
	return rc;
}

static int by_name(const void *left, const void *right)
{
	const struct lh_state_region *a = left, *b = right;

	return strcmp(a->name, b->name);
}

int lh__machine_find_memory(struct lh_machine *machine, struct lh_error *error)
{
	json_t *result, *backend;
	uint64_t first = 0;
	size_t i;
	int rc = lh__qmp_command(machine->qmp, "query-memdev", NULL, -1, &result, error);

	if (rc)
		return rc;
	machine->regions = 0;
	if (json_array_size(result) > LH_STATE_REGIONS_MAX)
		rc = lh__fail(error, -EINVAL, "the machine has %zu memory backends: more than %u",
		              json_array_size(result), LH_STATE_REGIONS_MAX);
	if (!rc)
		json_array_foreach(result, i, backend)
		{
			rc = find_backend(machine, backend, error);
			if (rc)
				break;
		}
	json_decref(result);
	if (!rc && !machine->regions)
		rc = lh__fail(error, -EINVAL, "the machine has no memory that is a file: " HOW);
	if (rc)
		return rc;
	qsort(machine->region, machine->regions, sizeof(*machine->region), by_name);
	for (i = 0; i < machine->regions; i++) {
		machine->region[i].first = first;
		first += machine->region[i].pages;
	}
	return 0;
}
