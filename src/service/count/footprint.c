/*
 * footprint.c - how many lines and pages a process has touched: its two tables have a byte for each line of
 * the address space, and are holes but where something was marked (control.h).
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "line/line.h"
#include "service/count/count.h"

#define LINES (LH_PAGE_SIZE / LH_LINE_SIZE)
#define STEP 65536u

static void count_pages(const uint8_t *loaded, const uint8_t *stored, size_t size, struct lh_footprint *out)
{
	for (size_t i = 0; i < size; i += LINES) {
		unsigned l = 0, s = 0, both = 0;

		for (size_t j = i; j < i + LINES; j++) {
			l += loaded[j];
			s += stored[j];
			both += loaded[j] | stored[j];
		}
		out->lines_loaded += l;
		out->lines_stored += s;
		out->lines += both;
		out->pages_loaded += l > 0;
		out->pages_stored += s > 0;
		out->pages += both > 0;
	}
}

/* The first place from `from` on where one of the tables has data, to a step; size: none has. */
static uint64_t next_data(int file, uint64_t table, uint64_t from)
{
	uint64_t next = LH_COUNT_TABLE_BYTES;

	for (unsigned i = 0; i < 2; i++) {
		uint64_t start = table + i * LH_COUNT_TABLE_BYTES;
		off_t data = lseek(file, (off_t)(start + from), SEEK_DATA);

		if (data >= 0 && (uint64_t)data - start < next)
			next = (uint64_t)data - start;
	}
	return next - next % STEP;
}

void lh__count_footprint(int file, uint32_t place, struct lh_footprint *out)
{
	static const struct lh_footprint none;
	uint8_t loaded[STEP], stored[STEP];
	uint64_t table = lh__count_table(place);

	*out = none;
	for (uint64_t at = 0; (at = next_data(file, table, at)) < LH_COUNT_TABLE_BYTES; at += STEP) {
		if (pread(file, loaded, STEP, (off_t)(table + at)) != STEP ||
		    pread(file, stored, STEP, (off_t)(table + LH_COUNT_TABLE_BYTES + at)) != STEP)
			return;
		count_pages(loaded, stored, STEP, out);
	}
	fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)table,
	          (off_t)(2 * LH_COUNT_TABLE_BYTES));
}
