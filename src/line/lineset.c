/*
 * lineset.c - the one encoding of a line set, used alike on the wire, in a log and in a recording.
 *
 * All numbers are little-endian.
 *
 *     offset  size  what
 *          0     8  page number, at most 2^40 - 1
 *          8     8  mask: bit i set where line i follows
 *         16     4  flags: bit 0 REPLACE (lines outside the mask become not held); the others are zero
 *         20     4  CRC-32C over the bytes 0 to 19 and all lines
 *         24   64n  the n lines of the mask, in ascending order
 *
 * A line set has no magic of its own: what contains it (a connection, a log, a recording) begins with one
 * and with a version. Its length follows from the mask, so that a reader needs 24 bytes to know it.
 *
 * Example, 88 bytes: page 5, line 1 only, a REPLACE, the line's 64 bytes all 0xff:
 *     05 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00  01 00 00 00  9f dd 92 75  ff ff ... ff
 */
#include "line/line.h"

#include <errno.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they stand");

enum { AT_PAGE = 0, AT_MASK = 8, AT_FLAGS = 16, AT_CRC = 20 };

static uint32_t checksum(const unsigned char *set, size_t line_bytes)
{
	return lh__crc32c(lh__crc32c(0, set, AT_CRC), set + LH_LINESET_HEADER_SIZE, line_bytes);
}

size_t lh__lineset_encode(void *out, uint64_t page, lh_mask mask, uint32_t flags, const void *data)
{
	unsigned char *set = out;
	size_t line_bytes;
	uint32_t crc;

	memcpy(set + AT_PAGE, &page, sizeof page);
	memcpy(set + AT_MASK, &mask, sizeof mask);
	memcpy(set + AT_FLAGS, &flags, sizeof flags);
	line_bytes = lh__lines_gather(set + LH_LINESET_HEADER_SIZE, data, mask);
	crc = checksum(set, line_bytes);
	memcpy(set + AT_CRC, &crc, sizeof crc);
	return LH_LINESET_HEADER_SIZE + line_bytes;
}

static long decode(struct lh_lineset *out, const unsigned char *in, size_t size, bool check)
{
	struct lh_lineset set = { .lines = in + LH_LINESET_HEADER_SIZE };
	uint32_t crc;

	if (size < LH_LINESET_HEADER_SIZE)
		return -ENODATA;
	memcpy(&set.page, in + AT_PAGE, sizeof set.page);
	memcpy(&set.mask, in + AT_MASK, sizeof set.mask);
	memcpy(&set.flags, in + AT_FLAGS, sizeof set.flags);
	memcpy(&crc, in + AT_CRC, sizeof crc);
	if (set.page > LH_PAGE_NUMBER_MAX || (set.flags & ~LH_LINESET_FLAGS) != 0)
		return -EBADMSG;
	if (size < lh__lineset_size(set.mask))
		return -ENODATA;
	if (check && crc != checksum(in, lh__lineset_size(set.mask) - LH_LINESET_HEADER_SIZE))
		return -EBADMSG;
	*out = set;
	return (long)lh__lineset_size(set.mask);
}

long lh__lineset_decode(struct lh_lineset *set, const void *in, size_t size)
{
	return decode(set, in, size, true);
}

long lh__lineset_decode_trusted(struct lh_lineset *set, const void *in, size_t size)
{
	return decode(set, in, size, false);
}

void lh__lineset_scatter(const struct lh_lineset *set, void *page)
{
	(void)lh__lines_scatter(page, set->lines, set->mask);
	if (set->flags & LH_LINESET_REPLACE)
		lh__lines_zero(page, ~set->mask);
}
