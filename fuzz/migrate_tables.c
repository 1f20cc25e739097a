/*
 * migrate_tables.c - fuzzes the reading of a guest's page tables. The input is the guest's memory: which
 * ranges it has, the vCPUs' CR3, and the pages, filled with the input again and again, 16 bits of it for each
 * entry, so that short inputs make tables that lead somewhere. Whatever they hold:
 *   - nothing beyond the guest is read, and no more tables than the bound allows;
 *   - neighbours are pages of the guest, none twice, none the page itself.
 */
#include <stdlib.h>
#include <string.h>

#include "service/migrate/tables.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

#define PAGES 24u
#define HEAD 24u

struct memory {
	const uint8_t *data;
	size_t size;
	uint64_t reads;
};

/*
 * An entry: five bits are a page number, the high byte the flags; some are 8 bytes of the input as they are.
 */
static int read_page(void *context, uint64_t page, void *content)
{
	struct memory *memory = context;
	uint64_t *entry = content, raw;
	size_t i, at;

	MUST(page < PAGES);
	memory->reads++;
	for (i = 0; i < 512; i++) {
		at = (size_t)(page * 512 + i) * 2 % (memory->size - 8);
		memcpy(&raw, memory->data + at, sizeof(raw));
		entry[i] = (raw >> 8 & 0x7f) == 0x7f ? raw : (raw & 0x1f) << 12 | (raw >> 8 & 0xff);
	}
	return memory->data[page % memory->size] == 0xee ? -1 : 0;
}

static void check_neighbours(struct lh_tables *tables, uint64_t page)
{
	bool had[PAGES] = { false };
	uint64_t pages[64];
	size_t n = lh__tables_neighbours(tables, page, pages, page % 65), i;

	MUST(n <= page % 65);
	for (i = 0; i < n; i++) {
		MUST(pages[i] < PAGES && pages[i] != page && !had[pages[i]]);
		had[pages[i]] = true;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct memory memory = { data, size, 0 };
	struct lh_physical_range range[2];
	struct lh_tables_options options = {
		range, 2, PAGES, (const uint64_t[2]){ 0 }, 2, read_page, &memory
	};
	uint64_t cr3[2], read, mapped, page;
	struct lh_tables *tables;

	if (size < HEAD)
		return 0;
	memcpy(cr3, data, sizeof(cr3));
	options.cr3 = cr3;
	range[0] = (struct lh_physical_range){ (uint64_t)data[16] << 12, data[17], data[18] };
	range[1] = (struct lh_physical_range){ (uint64_t)data[19] << 12, data[20], data[21] };
	if (data[22] & 1)
		memcpy(&range[1], data, HEAD); /* anything */
	if (data[22] & 2)
		cr3[0] &= 0xff000;
	MUST(lh__tables_open(&options, &tables, NULL) == 0);
	lh__tables_counts(tables, &read, &mapped);
	MUST(read == memory.reads && read <= 4 * PAGES && mapped <= PAGES);
	for (page = 0; page < 2 * PAGES; page++)
		check_neighbours(tables, page * 7 % (PAGES + 2));
	lh__tables_close(tables);
	return 0;
}
