/* line_mask.c - masks, and copying lines by mask, against loops over single lines. */
#include "line/line.h"
#include "line_random.h"
#include "tap.h"

static void ranges(void)
{
	unsigned first, count, i, wrong = 0;

	for (first = 0; first < 70; first++)
		for (count = 0; count < 70; count++) {
			lh_mask wanted = 0;

			for (i = first; i < first + count && i < 64; i++)
				wanted |= lh__mask_line(i);
			wrong += lh__mask_range(first, count) != wanted;
			wrong += lh__mask_count(wanted) != (first >= 64          ? 0
			                                    : first + count > 64 ? 64 - first
			                                                         : count);
		}
	is(wrong, 0, "ranges");
	ok(lh__mask_range(0, UINT32_MAX) == LH_MASK_ALL, "a range of everything and more");
}

static void byte_ranges(void)
{
	uint64_t seed = random_seed();
	unsigned i, wrong = 0;
	size_t at;

	for (i = 0; i < 2000; i++) {
		size_t offset = random_next(&seed) % 4300, size = random_next(&seed) % 4300;
		lh_mask wanted = 0;

		for (at = offset; at < offset + size && at < LH_PAGE_SIZE; at++)
			wanted |= lh__mask_line((unsigned)(at / LH_LINE_SIZE));
		wrong += lh__mask_bytes(offset, size) != wanted;
	}
	is(wrong, 0, "lines that bytes touch");
	ok(lh__mask_bytes(0, SIZE_MAX) == LH_MASK_ALL && lh__mask_bytes(4095, SIZE_MAX) == lh__mask_line(63),
	   "a size that would overflow");
	ok(lh__mask_bytes(SIZE_MAX, 1) == 0 && lh__mask_bytes(SIZE_MAX, SIZE_MAX) == 0 &&
	           lh__mask_bytes(4096, 1) == 0,
	   "an offset beyond the page");
}

static lh_mask some_mask(uint64_t *seed, unsigned i)
{
	static const lh_mask special[] = {
		0,
		LH_MASK_ALL,
		1,
		UINT64_C(1) << 63,
		0x5555555555555555,
		0xfffffffffffffffe,
		0x7fffffffffffffff,
	};

	if (i < sizeof special / sizeof *special)
		return special[i];
	return i & 1 ? random_next(seed) : random_next(seed) & random_next(seed) & random_next(seed);
}

static void runs(void)
{
	uint64_t seed = random_seed();
	unsigned i, line, first, count, wrong = 0;

	for (i = 0; i < 2000; i++) {
		const lh_mask mask = some_mask(&seed, i);
		lh_mask rest = mask, seen = 0, each = 0;
		unsigned last_end = 0, last_line = 0;

		while (lh__mask_next_run(&rest, &first, &count)) {
			wrong += count == 0 || first + count > 64 || (seen && first <= last_end);
			seen |= lh__mask_range(first, count);
			last_end = first + count;
		}
		wrong += seen != mask;
		LH_MASK_EACH(mask, line) {
			wrong += each && line <= last_line;
			each |= lh__mask_line(line);
			last_line = line;
		}
		wrong += each != mask;
	}
	is(wrong, 0, "runs and lines cover a mask once, in order, runs as long as they can be");
}

static void copies(void)
{
	static unsigned char from[LH_PAGE_SIZE], to[LH_PAGE_SIZE], packed[LH_PAGE_SIZE + 1],
		back[LH_PAGE_SIZE];
	uint64_t seed = random_seed();
	unsigned i, line, wrong = 0;

	for (i = 0; i < 500; i++) {
		const lh_mask mask = some_mask(&seed, i);
		size_t size = (size_t)LH_LINE_SIZE * lh__mask_count(mask), at = 0;

		random_bytes(&seed, from, sizeof from);
		memset(to, 0x11, sizeof to);
		memset(back, 0x22, sizeof back);
		memset(packed, 0x33, sizeof packed);
		lh__lines_copy(to, from, mask);
		wrong += lh__lines_gather(packed, from, mask) != size || packed[size] != 0x33;
		wrong += lh__lines_scatter(back, packed, mask) != size;
		for (line = 0; line < 64; line++) {
			const unsigned char *f = from + line * 64, *t = to + line * 64, *b = back + line * 64;

			if (mask & lh__mask_line(line)) {
				wrong += memcmp(t, f, 64) != 0 || memcmp(b, f, 64) != 0;
				wrong += memcmp(packed + at, f, 64) != 0;
				at += 64;
			} else {
				wrong += t[0] != 0x11 || t[63] != 0x11 || b[0] != 0x22 || b[63] != 0x22;
			}
		}
		lh__lines_zero(to, mask);
		wrong += lh__lines_nonzero(to, LH_MASK_ALL) != ~mask;
	}
	is(wrong, 0, "copy, gather, scatter and zero touch the lines of the mask and no others");
}

static void nonzero(void)
{
	static unsigned char page[LH_PAGE_SIZE];
	unsigned i, wrong = 0;

	for (i = 0; i < LH_PAGE_SIZE; i++) {
		page[i] = 1;
		wrong += lh__lines_nonzero(page, LH_MASK_ALL) != lh__mask_line(i / 64);
		wrong += lh__lines_nonzero(page, lh__mask_line(i / 64)) != lh__mask_line(i / 64);
		wrong += lh__lines_nonzero(page, ~lh__mask_line(i / 64)) != 0;
		page[i] = 0;
	}
	is(wrong, 0, "one byte anywhere makes its line nonzero, where the line was asked for");
}

int main(void)
{
	ranges();
	byte_ranges();
	runs();
	copies();
	nonzero();
	return done();
}
