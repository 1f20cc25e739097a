/*
 * coverage_debug.c - where a file's debug information is: in itself, in a separate file by its build id, or
 * in one that .gnu_debuglink names. Nothing is fetched from anywhere.
 *
 * Not by libdwfl, whose search asks the network when the environment says so. A separate file is believed if
 * it has the same build id, or the checksum that .gnu_debuglink says. What dwz took out of it, libdw finds.
 */
#include <elfutils/libdwelf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/code/coverage_model.h"

#define DEBUG_FOLDER "/usr/lib/debug"

/* NULL: there is no unit in it; or there is one that cannot be read. */
static Dwarf *open_dwarf(Elf *elf, bool *damaged)
{
	Dwarf *dwarf = dwarf_begin_elf(elf, DWARF_C_READ, NULL);
	Dwarf_CU *unit;
	int status;

	if (!dwarf)
		return NULL;
	status = dwarf_get_units(dwarf, NULL, &unit, NULL, NULL, NULL, NULL);
	if (!status)
		return dwarf;
	*damaged |= status < 0;
	dwarf_end(dwarf);
	return NULL;
}

static bool same_build(Elf *one, Elf *other)
{
	const void *id, *of_other;
	ssize_t size = dwelf_elf_gnu_build_id(one, &id);

	return size > 0 && dwelf_elf_gnu_build_id(other, &of_other) == size &&
	       !memcmp(id, of_other, (size_t)size);
}

/* The CRC-32 of a whole file, as .gnu_debuglink has it (that of Ethernet and gzip). */
static bool same_checksum(int file, uint32_t wanted)
{
	uint8_t bytes[65536];
	uint32_t crc = ~0u;
	off_t at = 0;
	ssize_t n;

	for (; (n = pread(file, bytes, sizeof bytes, at)) > 0; at += n)
		for (ssize_t i = 0; i < n; i++) {
			crc ^= bytes[i];
			for (int k = 0; k < 8; k++)
				crc = crc >> 1 ^ (0xedb88320 & -(crc & 1));
		}
	return !n && ~crc == wanted;
}

/* crc: NULL, or the checksum that counts where there is no build id. */
static bool try_separate(struct lh_cover_debug *debug, const char *path, const uint32_t *crc, bool *damaged)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	const void *id;

	if (file < 0)
		return false;
	debug->separate = elf_begin(file, ELF_C_READ_MMAP, NULL);
	debug->descriptor = file;
	if (debug->separate && elf_kind(debug->separate) == ELF_K_ELF &&
	    (same_build(debug->elf, debug->separate) ||
	     (crc && dwelf_elf_gnu_build_id(debug->elf, &id) <= 0 && same_checksum(file, *crc)))) {
		debug->dwarf = open_dwarf(debug->separate, damaged);
		return true;
	}
	elf_end(debug->separate);
	close(file);
	debug->separate = NULL;
	debug->descriptor = -1;
	return false;
}

static bool by_build(struct lh_cover_debug *debug, bool *damaged)
{
	char path[256] = DEBUG_FOLDER "/.build-id/";
	size_t used = strlen(path);
	const void *bytes;
	ssize_t size = dwelf_elf_gnu_build_id(debug->elf, &bytes);

	if (size < 2 || size > 64)
		return false;
	for (ssize_t i = 0; i < size; i++)
		used += (size_t)snprintf(path + used, sizeof path - used, i == 1 ? "/%02x" : "%02x",
		                         ((const uint8_t *)bytes)[i]);
	snprintf(path + used, sizeof path - used, ".debug");
	return try_separate(debug, path, NULL, damaged);
}

static bool by_link(struct lh_cover_debug *debug, const char *module, bool *damaged)
{
	static const char *const where[] = { "%.*s/%s", "%.*s/.debug/%s", DEBUG_FOLDER "%.*s/%s" };
	const char *slash = strrchr(module, '/');
	GElf_Word crc;
	const char *name = dwelf_elf_gnu_debuglink(debug->elf, &crc);
	char path[PATH_MAX];
	uint32_t wanted;

	if (!name || !slash || strchr(name, '/'))
		return false;
	wanted = crc;
	for (size_t i = 0; i < sizeof where / sizeof *where; i++) {
		int n = snprintf(path, sizeof path, where[i], (int)(slash - module), module, name);

		if (n > 0 && (size_t)n < sizeof path && strcmp(path, module) &&
		    try_separate(debug, path, &wanted, damaged))
			return true;
	}
	return false;
}

void lh__cover_debug_open(struct lh_cover_model *model, int file, const char *path,
                          struct lh_cover_debug *debug)
{
	bool damaged = false;

	*debug = (struct lh_cover_debug){ .descriptor = -1 };
	elf_version(EV_CURRENT);
	debug->elf = elf_begin(file, ELF_C_READ_MMAP, NULL);
	if (!debug->elf || elf_kind(debug->elf) != ELF_K_ELF) {
		debug->why_not = "it can no longer be read";
		return;
	}
	debug->dwarf = open_dwarf(debug->elf, &damaged);
	if (!debug->dwarf && !by_build(debug, &damaged))
		by_link(debug, path, &damaged);
	if (!debug->dwarf)
		debug->why_not = damaged ? "its debug information is damaged"
		                         : "no debug information in it, and none installed";
}

void lh__cover_debug_close(struct lh_cover_debug *debug)
{
	dwarf_end(debug->dwarf);
	elf_end(debug->separate);
	elf_end(debug->elf);
	if (debug->descriptor >= 0)
		close(debug->descriptor);
}
