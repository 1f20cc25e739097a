/*
 * report_drcov.c - the blocks that ran, as DynamoRIO's drcov writes them.
 *
 * Version 3 with module table 5: a row for each segment, addresses of blocks relative to their segment's
 * start. The first row of a module is where it begins; the others say so by containing_id. Its offset is a
 * bare number of 16 digits, as drcov's is.
 *
 *	DRCOV VERSION: 3
 *	DRCOV FLAVOR: drcov-64
 *	Module Table: version 5, count 2
 *	Columns: id, containing_id, start, end, entry, offset, preferred_base, path
 *	  0,   0, 0x0000555555554000, 0x0000555555555000, 0x..., 0000000000000000, 0x0000000000000000, /path
 *	  1,   0, 0x0000555555555000, 0x0000555555557000, 0x..., 0000000000001000, 0x0000000000001000, /path
 *	BB Table: 31 bbs
 *	31 times: u32 start, u16 size, u16 row; little-endian
 *
 * Version 2 with module table 2: a row for each module, addresses relative to where it begins. Only what lies
 * in code is known here, so a module begins where its file would, were it mapped as a whole.
 */
#include <errno.h>
#include <stdlib.h>

#include "service/code/report_parts.h"

#define LARGEST_BLOCK 65535u
#define MOST_ROWS 65535u /* 0xffff means that no module is known */

struct row {
	uint64_t start, end; /* in the file's addresses */
	uint64_t offset;
};

static uint64_t base_of(const struct lh_record_module *head)
{
	return head->texts ? head->text[0].address - head->text[0].offset : 0;
}

/* Whether there is something before the first text, which then is a row of its own. */
static bool has_front(const struct lh_record_module *head)
{
	return head->texts && head->text[0].offset > 0;
}

static uint32_t rows_of(const struct lh_record_module *head)
{
	return head->texts + has_front(head);
}

static void put_row(const struct lh_cover_module *module, uint32_t id, uint32_t containing,
                    const struct row *row, FILE *out)
{
	fprintf(out, "%3u, %3u, 0x%016lx, 0x%016lx, 0x%016lx, %016lx, 0x%016lx,  %s\n", id, containing,
	        module->mapped + row->start, module->mapped + row->end, module->mapped + module->entry,
	        row->offset, row->start, module->path);
}

static void put_segments(const struct lh_cover_module *module, uint32_t first, FILE *out)
{
	const struct lh_record_module *head = module->head;
	uint32_t id = first;

	if (has_front(head))
		put_row(module, id++, first, &(struct row){ base_of(head), head->text[0].address, 0 }, out);
	for (uint32_t i = 0; i < head->texts; i++) {
		const struct lh_record_text *text = &head->text[i];

		put_row(module, id++, first,
		        &(struct row){ text->address, text->address + text->size, text->offset }, out);
	}
}

static void put_module(const struct lh_cover_module *module, uint32_t id, FILE *out)
{
	const struct lh_record_module *head = module->head;
	const struct lh_record_text *last = head->texts ? &head->text[head->texts - 1] : NULL;

	fprintf(out, "%3u, 0x%016lx, 0x%016lx, 0x%016lx, %s\n", id, module->mapped + base_of(head),
	        module->mapped + (last ? last->address + last->size : 0), module->mapped + module->entry,
	        module->path);
}

static void put_number(uint64_t number, unsigned bytes, FILE *out)
{
	for (unsigned i = 0; i < bytes; i++)
		putc((int)(number >> 8 * i & 0xff), out);
}

/* Pieces that sizes of 16 bits can tell. */
static uint64_t pieces(const struct lh_cover_block *block)
{
	return (block->size + LARGEST_BLOCK - 1) / LARGEST_BLOCK;
}

static void put_block(const struct lh_cover_block *block, uint64_t start, uint32_t row, FILE *out)
{
	for (uint32_t at = 0; at < block->size; at += LARGEST_BLOCK) {
		uint32_t left = block->size - at;

		put_number(start + at, 4, out);
		put_number(left < LARGEST_BLOCK ? left : LARGEST_BLOCK, 2, out);
		put_number(row < MOST_ROWS ? row : MOST_ROWS, 2, out);
	}
}

static void put_blocks(const struct lh_coverage *coverage, const uint32_t *first, bool by_module, FILE *out)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < coverage->blocks; i++)
		n += pieces(&coverage->block[i]);
	fprintf(out, "BB Table: %lu bbs\n", n);
	for (uint64_t i = 0; i < coverage->blocks; i++) {
		const struct lh_cover_block *block = &coverage->block[i];
		const struct lh_record_module *head = coverage->module[block->module].head;

		if (by_module)
			put_block(block, block->address - base_of(head), block->module, out);
		else
			put_block(block, block->address - head->text[block->text].address,
			          first[block->module] + has_front(head) + block->text, out);
	}
}

int lh__report_drcov(const struct lh_coverage *coverage, const struct lh_report_options *options, FILE *out)
{
	bool by_module = options->drcov_version == 2;
	uint32_t *first = calloc(coverage->modules + 1u, sizeof *first);

	if (!first)
		return -ENOMEM;
	for (uint32_t i = 0; i < coverage->modules; i++)
		first[i + 1] = first[i] + rows_of(coverage->module[i].head);
	fprintf(out, "DRCOV VERSION: %d\nDRCOV FLAVOR: drcov-64\nModule Table: version %d, count %u\n",
	        by_module ? 2 : 3, by_module ? 2 : 5,
	        by_module ? coverage->modules : first[coverage->modules]);
	fprintf(out, "Columns: id, %s, path\n",
	        by_module ? "base, end, entry" : "containing_id, start, end, entry, offset, preferred_base");
	for (uint32_t i = 0; i < coverage->modules; i++) {
		if (by_module)
			put_module(&coverage->module[i], i, out);
		else
			put_segments(&coverage->module[i], first[i], out);
	}
	put_blocks(coverage, first, by_module, out);
	free(first);
	return lh__report_end(out);
}
