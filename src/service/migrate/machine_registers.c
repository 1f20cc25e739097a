/*
 * machine_registers.c - see machine.h. What QEMU tells in the texts of its human monitor alone: control
 * registers, and where memory stands in the guest's physical address space.
 *
 *     CPU#0
 *     ...
 *     CR0=80050033 CR2=00007f8ab1c3e000 CR3=0000000001f3c000 CR4=000006f0
 *     ...
 *     EFER=0000000000000d01
 *
 *     FlatView #1
 *      AS "memory", root: system
 *      Root memory region: system
 *       0000000000000000-000000000009ffff (prio 0, ram): ram0
 *       00000000000c0000-00000000000cafff (prio 0, rom): ram0 @00000000000c0000
 *
 * The texts are meant for people and may change: what is not understood is left out.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/machine_inside.h"
#include "sys/sys.h"

#define CR0_PAGING (1u << 31)
#define CR4_PAE (1u << 5)
#define CR4_FIVE_LEVELS (1u << 12)
#define EFER_LONG (1u << 10) /* long mode is active */
#define CR3_TABLE 0x000ffffffffff000ull

static int human(struct lh_machine *machine, const char *line, json_t **text, struct lh_error *error)
{
	int rc = lh__qmp_command(machine->qmp, "human-monitor-command",
	                         json_pack("{s:s}", "command-line", line), -1, text, error);

	if (!rc && !json_is_string(*text)) {
		json_decref(*text);
		rc = lh__fail(error, -EPROTO, "QEMU's monitor answers no text");
	}
	return rc;
}

/* ---- registers ---- */

/* The value behind "NAME=" before `end`, where a word begins so. */
static bool value_of(const char *from, const char *end, const char *name, uint64_t *value)
{
	size_t size = strlen(name);

	for (const char *at = from; (at = strstr(at, name)) && at < end; at += size)
		if ((at == from || strchr(" \r\n", at[-1])) && at[size] == '=') {
			*value = strtoull(at + size + 1, NULL, 16);
			return true;
		}
	return false;
}

static bool four_levels(const char *from, const char *end, uint64_t *cr3)
{
	uint64_t cr0, cr4, efer;

	if (!value_of(from, end, "CR0", &cr0) || !value_of(from, end, "CR3", cr3) ||
	    !value_of(from, end, "CR4", &cr4) || !value_of(from, end, "EFER", &efer))
		return false;
	*cr3 &= CR3_TABLE;
	return cr0 & CR0_PAGING && cr4 & CR4_PAE && !(cr4 & CR4_FIVE_LEVELS) && efer & EFER_LONG;
}

size_t lh__machine_read_cr3(const char *text, uint64_t *cr3, size_t max)
{
	const char *cpu = strstr(text, "CPU#"), *end;
	size_t n = 0;

	/* Of an older QEMU's one vCPU there is no heading. */
	if (!cpu)
		cpu = text;
	for (; n < max && *cpu; cpu = end) {
		end = strstr(cpu + 1, "CPU#");
		if (!end)
			end = cpu + strlen(cpu);
		if (four_levels(cpu, end, &cr3[n]))
			n++;
	}
	return n;
}

int lh__machine_cr3(struct lh_machine *machine, uint64_t *cr3, size_t max, size_t *n, struct lh_error *error)
{
	json_t *text;
	int rc = human(machine, "info registers -a", &text, error);

	if (rc)
		return rc;
	*n = lh__machine_read_cr3(json_string_value(text), cr3, max);
	json_decref(text);
	return 0;
}

/* ---- where memory stands ---- */

struct flat {
	uint64_t first, last, offset;
	const char *name;
	size_t name_size;
};

/* A line of a view that is memory: "  FIRST-LAST (prio N, ram): NAME[ @OFFSET]". */
static bool read_line(const char *line, size_t size, struct flat *flat)
{
	const char *end = line + size, *name, *at;
	char kind[16];
	int taken = 0;

	if (sscanf(line, " %lx-%lx (prio %*d, %15[^)]):%n", &flat->first, &flat->last, kind, &taken) < 3 ||
	    !taken || (size_t)taken >= size)
		return false;
	if (strcmp(kind, "ram") != 0 && strcmp(kind, "rom") != 0)
		return false;
	name = line + taken;
	while (name < end && *name == ' ')
		name++;
	flat->name = name;
	flat->offset = 0;
	at = memmem(name, (size_t)(end - name), " @", 2);
	if (at)
		flat->offset = strtoull(at + 2, NULL, 16);
	while (name < end && *name != ' ' && *name != '\r')
		name++;
	flat->name_size = (size_t)(name - flat->name);
	return flat->first < flat->last;
}

static const struct lh_state_region *region_of(const struct flat *flat, const struct lh_state_region *region,
                                               size_t regions)
{
	const char *name = flat->name;
	size_t size = flat->name_size;

	if (size > 9 && !memcmp(name, "/objects/", 9)) {
		name += 9;
		size -= 9;
	}
	for (size_t i = 0; i < regions; i++)
		if (strlen(region[i].name) == size && !memcmp(region[i].name, name, size))
			return &region[i];
	return NULL;
}

static int add(const struct flat *flat, const struct lh_state_region *region, struct lh_physical_range *range,
               size_t max, size_t *n)
{
	const uint64_t mask = LH_PAGE_SIZE - 1;
	struct lh_physical_range new = { flat->first, 0, region->first + flat->offset / LH_PAGE_SIZE };
	struct lh_physical_range *before = *n ? &range[*n - 1] : NULL;

	if (flat->first & mask || flat->offset & mask || (flat->last + 1) & mask)
		return 0; /* what is not whole pages is no memory of a guest's page tables */
	new.pages = (flat->last - flat->first + 1) / LH_PAGE_SIZE;
	if (flat->offset / LH_PAGE_SIZE + new.pages > region->pages)
		return 0;
	if (before && before->address + before->pages * LH_PAGE_SIZE == new.address &&
	    before->first + before->pages == new.first) {
		before->pages += new.pages;
		return 0;
	}
	if (*n == max)
		return -E2BIG;
	range[(*n)++] = new;
	return 0;
}

int lh__machine_read_physical(const char *text, const struct lh_state_region *region, size_t regions,
                              struct lh_physical_range *range, size_t max, size_t *n)
{
	bool wanted = false, seen = false;
	int rc = 0;

	*n = 0;
	for (const char *line = text; !rc && *line;) {
		size_t size = strcspn(line, "\n");
		const struct lh_state_region *found;
		struct flat flat;

		if (!strncmp(line, "FlatView", 8))
			wanted = false;
		if (!seen && !strncmp(line, " AS \"memory\",", 13))
			wanted = seen = true;
		if (wanted && read_line(line, size, &flat)) {
			found = region_of(&flat, region, regions);
			if (found)
				rc = add(&flat, found, range, max, n);
		}
		line += size + (line[size] == '\n');
	}
	return rc;
}

int lh__machine_physical(struct lh_machine *machine, struct lh_physical_range *range, size_t max, size_t *n,
                         struct lh_error *error)
{
	json_t *text;
	int rc = human(machine, "info mtree -f", &text, error);

	if (rc)
		return rc;
	rc = lh__machine_read_physical(json_string_value(text), machine->region, machine->regions, range, max,
	                               n);
	json_decref(text);
	if (rc)
		return lh__fail(error, rc, "the machine's memory stands in more than %zu places", max);
	return 0;
}
