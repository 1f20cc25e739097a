/*
 * lineset.c - fuzzes the decoder of line sets. Whatever the bytes are:
 *   - the decoder reads nothing beyond them (AddressSanitizer sees to that) and says how much they took up;
 *   - what it accepts is encoded again to the same bytes;
 *   - what it refuses leaves its result as it was.
 * As hardly any input has the right checksum, each is also tried with it put right.
 */
#include "line/line.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

static void check_accepted(const struct lh_lineset *set, const uint8_t *data, size_t size, long length)
{
	static unsigned char page[LH_PAGE_SIZE], again[LH_LINESET_SIZE_MAX];

	MUST((size_t)length <= size && (size_t)length == lh__lineset_size(set->mask));
	MUST(set->page <= LH_PAGE_NUMBER_MAX && (set->flags & ~LH_LINESET_FLAGS) == 0);
	MUST(set->lines == data + LH_LINESET_HEADER_SIZE);
	memset(page, 0xa5, sizeof page);
	lh__lineset_scatter(set, page);
	MUST(lh__lineset_encode(again, set->page, set->mask, set->flags, page) == (size_t)length);
	MUST(memcmp(again, data, (size_t)length) == 0);
}

static long decode(const uint8_t *data, size_t size)
{
	struct lh_lineset set = { .page = 1, .mask = 2, .flags = 3, .lines = NULL }, trusted;
	long length = lh__lineset_decode(&set, data, size);

	if (length >= 0) {
		check_accepted(&set, data, size, length);
		MUST(lh__lineset_decode_trusted(&trusted, data, size) == length);
	} else {
		MUST(set.page == 1 && set.mask == 2 && set.flags == 3 && set.lines == NULL);
	}
	return length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lh_lineset set;
	uint8_t *sealed;
	long length;
	uint32_t crc;

	(void)decode(data, size);
	length = lh__lineset_decode_trusted(&set, data, size);
	if (length < 0)
		return 0;
	/* In memory of its own size, so that one byte too many is seen. */
	sealed = malloc((size_t)length);
	MUST(sealed);
	memcpy(sealed, data, (size_t)length);
	crc = lh__crc32c(lh__crc32c(0, sealed, 20), sealed + LH_LINESET_HEADER_SIZE,
	                 (size_t)length - LH_LINESET_HEADER_SIZE);
	memcpy(sealed + 20, &crc, sizeof crc);
	MUST(decode(sealed, (size_t)length) == length);
	MUST(decode(sealed, (size_t)length - 1) < 0);
	free(sealed);
	return 0;
}
