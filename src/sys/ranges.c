/* ranges.c - see ranges.h. */
#include "sys/ranges.h"

#include <errno.h>
#include <string.h>

size_t lh__ranges_after(const struct lh_ranges *ranges, uintptr_t address)
{
	size_t low = 0, high = ranges->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (ranges->at[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

const struct lh_range *lh__ranges_find(const struct lh_ranges *ranges, uintptr_t address)
{
	size_t i = lh__ranges_after(ranges, address);

	return i < ranges->count && ranges->at[i].start <= address ? &ranges->at[i] : NULL;
}

bool lh__ranges_touch(const struct lh_ranges *ranges, uintptr_t start, uintptr_t end)
{
	size_t i = lh__ranges_after(ranges, start);

	return i < ranges->count && ranges->at[i].start < end;
}

static void erase(struct lh_ranges *ranges, size_t first, size_t count)
{
	memmove(&ranges->at[first], &ranges->at[first + count],
	        (ranges->count - first - count) * sizeof ranges->at[0]);
	ranges->count -= count;
}

static int insert(struct lh_ranges *ranges, size_t i, uintptr_t start, uintptr_t end)
{
	if (ranges->count == ranges->capacity)
		return -ENOMEM;
	memmove(&ranges->at[i + 1], &ranges->at[i], (ranges->count - i) * sizeof ranges->at[0]);
	ranges->at[i] = (struct lh_range){ start, end };
	ranges->count++;
	return 0;
}

int lh__ranges_add(struct lh_ranges *ranges, uintptr_t start, uintptr_t end)
{
	size_t first = lh__ranges_after(ranges, start ? start - 1 : 0), last = first;

	while (last < ranges->count && ranges->at[last].start <= end) {
		start = ranges->at[last].start < start ? ranges->at[last].start : start;
		end = ranges->at[last].end > end ? ranges->at[last].end : end;
		last++;
	}
	if (last == first)
		return insert(ranges, first, start, end);
	ranges->at[first] = (struct lh_range){ start, end };
	erase(ranges, first + 1, last - first - 1);
	return 0;
}

void lh__ranges_remove(struct lh_ranges *ranges, uintptr_t start, uintptr_t end)
{
	size_t i = lh__ranges_after(ranges, start);

	while (i < ranges->count && ranges->at[i].start < end) {
		struct lh_range old = ranges->at[i];

		if (old.start < start && old.end > end) {
			if (insert(ranges, i + 1, end, old.end) == 0)
				ranges->at[i].end = start;
			return;
		}
		if (old.start < start)
			ranges->at[i++].end = start;
		else if (old.end > end)
			ranges->at[i++].start = end;
		else
			erase(ranges, i, 1);
	}
}

uintptr_t lh__ranges_gap(const struct lh_ranges *ranges, uintptr_t *start, uintptr_t end)
{
	size_t i = lh__ranges_after(ranges, *start);

	while (i < ranges->count && ranges->at[i].start <= *start)
		*start = ranges->at[i++].end;
	if (*start >= end)
		return 0;
	return i < ranges->count && ranges->at[i].start < end ? ranges->at[i].start : end;
}
