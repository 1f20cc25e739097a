/* lines.c - copying lines between page-shaped and packed buffers, in runs of neighbours. */
#include "line/line.h"

void lh__lines_copy(void *to, const void *from, lh_mask mask)
{
	unsigned first, count;

	while (lh__mask_next_run(&mask, &first, &count))
		memcpy((char *)to + (size_t)LH_LINE_SIZE * first,
		       (const char *)from + (size_t)LH_LINE_SIZE * first, (size_t)LH_LINE_SIZE * count);
}

void lh__lines_zero(void *page, lh_mask mask)
{
	unsigned first, count;

	while (lh__mask_next_run(&mask, &first, &count))
		memset((char *)page + (size_t)LH_LINE_SIZE * first, 0, (size_t)LH_LINE_SIZE * count);
}

size_t lh__lines_gather(void *packed, const void *page, lh_mask mask)
{
	char *out = packed;
	unsigned first, count;

	while (lh__mask_next_run(&mask, &first, &count)) {
		memcpy(out, (const char *)page + (size_t)LH_LINE_SIZE * first, (size_t)LH_LINE_SIZE * count);
		out += (size_t)LH_LINE_SIZE * count;
	}
	return (size_t)(out - (char *)packed);
}

size_t lh__lines_scatter(void *page, const void *packed, lh_mask mask)
{
	const char *in = packed;
	unsigned first, count;

	while (lh__mask_next_run(&mask, &first, &count)) {
		memcpy((char *)page + (size_t)LH_LINE_SIZE * first, in, (size_t)LH_LINE_SIZE * count);
		in += (size_t)LH_LINE_SIZE * count;
	}
	return (size_t)(in - (const char *)packed);
}

static bool line_nonzero(const char *line)
{
	uint64_t word[8];

	memcpy(word, line, sizeof word);
	return (word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7]) != 0;
}

lh_mask lh__lines_nonzero(const void *page, lh_mask mask)
{
	lh_mask result = LH_MASK_NONE;
	unsigned i;

	if (mask == LH_MASK_ALL)
		return lh__page_nonzero(page);
	LH_MASK_EACH(mask, i)
		result |= (lh_mask)line_nonzero((const char *)page + (size_t)LH_LINE_SIZE * i) << i;
	return result;
}
