/*
 * line.h - lines, masks, line sets: the words that every layer above speaks.
 *
 * Words: see linehome.h. A *page-shaped* buffer has room for 64 lines, line i at offset 64 * i; a *packed*
 * buffer has the lines of a mask one after the other in ascending order.
 *
 * Nothing here allocates, blocks, fails for want of anything, or calls the kernel (but for
 * lh__hash_key_init), and all of it is async-signal-safe. Buffers need no alignment; pages aligned to 64
 * are read fastest.
 */
#ifndef LH_LINE_H
#define LH_LINE_H

#include <stdbool.h>
#include <string.h>

#include "sys/sys.h"

/* Page numbers, which the client of a store chooses, are dense-ish small integers. */
#define LH_PAGE_NUMBER_MAX ((UINT64_C(1) << 40) - 1)

/* What may be asked of a page's lines: store.h says what each means, the wire carries these numbers. */
enum lh_op { LH_OP_GET = 1, LH_OP_PUT = 2, LH_OP_REPLACE = 3, LH_OP_DROP = 4 };

/* ---- masks ---- */

static inline unsigned lh__mask_count(lh_mask mask)
{
	return (unsigned)__builtin_popcountll(mask);
}

static inline lh_mask lh__mask_line(unsigned line)
{
	return (lh_mask)1 << (line & 63);
}

/* The lines first, first + 1, ... of which there are count; what lies beyond the page is left out. */
static inline lh_mask lh__mask_range(unsigned first, unsigned count)
{
	if (first >= LH_PAGE_LINES || count == 0)
		return LH_MASK_NONE;
	return (count >= LH_PAGE_LINES ? LH_MASK_ALL : ((lh_mask)1 << count) - 1) << first;
}

/* The lines that the bytes [offset, offset + size) of a page touch; what lies beyond it is left out. */
static inline lh_mask lh__mask_bytes(size_t offset, size_t size)
{
	size_t end = size > LH_PAGE_SIZE - offset ? LH_PAGE_SIZE : offset + size;

	if (offset >= LH_PAGE_SIZE || size == 0)
		return LH_MASK_NONE;
	return lh__mask_range((unsigned)(offset / LH_LINE_SIZE),
	                      (unsigned)((end - 1) / LH_LINE_SIZE - offset / LH_LINE_SIZE + 1));
}

/*
 * Takes the next run of neighbouring lines out of *mask: false when there is none left. Runs make one copy
 * of 4096 bytes out of a full page instead of 64 copies of 64.
 *
 *     while (lh__mask_next_run(&mask, &first, &count))
 *             memcpy(to + 64 * first, from + 64 * first, 64 * count);
 */
static inline bool lh__mask_next_run(lh_mask *mask, unsigned *first, unsigned *count)
{
	lh_mask shifted;

	if (*mask == LH_MASK_NONE)
		return false;
	*first = (unsigned)__builtin_ctzll(*mask);
	shifted = ~(*mask >> *first);
	*count = shifted ? (unsigned)__builtin_ctzll(shifted) : LH_PAGE_LINES;
	*mask &= ~lh__mask_range(*first, *count);
	return true;
}

/* Every line of a mask in ascending order: LH_MASK_EACH(mask, i) body; mask is evaluated once. */
#define LH_MASK_EACH(mask, i)                                                                                \
	for (lh_mask lh__rest = (mask); lh__rest && ((i) = (unsigned)__builtin_ctzll(lh__rest), 1);          \
	     lh__rest &= lh__rest - 1)

/* ---- lines of page-shaped and packed buffers ---- */

/* Copies the lines of mask from one page-shaped buffer to another; the other lines are left alone. */
void lh__lines_copy(void *to, const void *from, lh_mask mask);
/* Writes zeroes over the lines of mask. */
void lh__lines_zero(void *page, lh_mask mask);
/* Page-shaped to packed: returns the bytes written, 64 for each line. */
size_t lh__lines_gather(void *packed, const void *page, lh_mask mask);
/* Packed to page-shaped: returns the bytes read. */
size_t lh__lines_scatter(void *page, const void *packed, lh_mask mask);
/* Those lines of mask that are not all zero; lines outside mask are not read. */
lh_mask lh__lines_nonzero(const void *page, lh_mask mask);

/* ---- finding changed lines ---- */

/* The lines in which two pages differ. */
lh_mask lh__page_diff(const void *a, const void *b);
/* The lines that are not all zero. */
lh_mask lh__page_nonzero(const void *page);

/*
 * How many bytes of a page get another value where the lines `held` of one page-shaped buffer were all that
 * was not zero, and the lines `given` of another are all that will not be. Lines outside the masks are not
 * read; a buffer whose mask is empty may be NULL.
 */
uint32_t lh__lines_changed(const void *before, lh_mask held, const void *after, lh_mask given);

/*
 * A per-line keyed hash, for finding changed lines without a copy of the old page: 512 bytes a page
 * instead of 4096. See hash.c for what it is. With the key unknown to whoever chose the content,
 *   - a change within one aligned 8-byte word of a line is always seen;
 *   - any other change of a line goes unseen with probability below 2^-63 over the choice of the key;
 *   - the hash of a line of zeroes is 0.
 * It is no message authentication code: who sees hashes can find the key.
 */
struct lh_hash_key {
	uint64_t word[8] __attribute__((aligned(64)));
	uint64_t product[8][16]; /* of each word with each four-bit polynomial; the portable variant's */
};

/* A fresh random key. Fails only as getrandom does; -EIO where it gives nothing. */
int lh__hash_key_init(const struct lh_sys *sys, struct lh_hash_key *key) LH_MUST_CHECK;
/* A chosen key, for tests; a zero word, which would make its place in the line unseen, becomes 1. */
void lh__hash_key_set(struct lh_hash_key *key, const uint64_t word[8]);
void lh__page_hash(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES]);
/*
 * The lines whose hash is not that in hash. The new hashes go to new_hash unless it is NULL; it may be
 * hash itself.
 */
lh_mask lh__page_hash_diff(const struct lh_hash_key *key, const void *page,
                           const uint64_t hash[LH_PAGE_LINES], uint64_t *new_hash);

/* CRC-32C (Castagnoli), as in RFC 3720: start with crc 0, go on with the last result. */
uint32_t lh__crc32c(uint32_t crc, const void *data, size_t size);

/* ---- variants for this processor ---- */

struct lh_line_ops {
	const char *name;
	lh_mask (*diff)(const void *a, const void *b);
	lh_mask (*nonzero)(const void *page);
	uint32_t (*changed)(const void *before, lh_mask held, const void *after, lh_mask given);
	void (*hash)(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES]);
	uint32_t (*crc32c)(uint32_t crc, const void *data, size_t size);
};

/* The best variant that this processor can run. */
const struct lh_line_ops *lh__line_ops(void);
/* Variant index of those that it can run, 0 being the portable one; NULL beyond the last. */
const struct lh_line_ops *lh__line_ops_at(unsigned index);

/* ---- line sets ---- */

#define LH_LINESET_HEADER_SIZE 24u
#define LH_LINESET_SIZE_MAX (LH_LINESET_HEADER_SIZE + LH_PAGE_SIZE)
/* The lines are the whole content of the page: every other line becomes not held. */
#define LH_LINESET_REPLACE 1u
#define LH_LINESET_FLAGS LH_LINESET_REPLACE

struct lh_lineset {
	uint64_t page;
	lh_mask mask;
	uint32_t flags;
	const unsigned char *lines; /* packed */
};

/* The size of an encoded line set. */
static inline size_t lh__lineset_size(lh_mask mask)
{
	return LH_LINESET_HEADER_SIZE + (size_t)LH_LINE_SIZE * lh__mask_count(mask);
}

/*
 * Encodes the lines of mask of a page-shaped buffer into out, which has room for lh__lineset_size(mask).
 * Returns that size. page and flags must be valid.
 */
size_t lh__lineset_encode(void *out, uint64_t page, lh_mask mask, uint32_t flags, const void *data);
/*
 * Reads one line set from the front of in. Returns the bytes that it takes up, with *set pointing into
 * in; or -ENODATA where in ends before the line set does (more bytes may complete it), -EBADMSG where it
 * is not valid. On error *set is as it was.
 */
long lh__lineset_decode(struct lh_lineset *set, const void *in, size_t size) LH_MUST_CHECK;
/*
 * The same, for a caller whose transport already checks content (TLS, or memory): the CRC is not looked at.
 */
long lh__lineset_decode_trusted(struct lh_lineset *set, const void *in, size_t size) LH_MUST_CHECK;
/* Writes the lines of the set into a page-shaped buffer; with REPLACE, zeroes over all others. */
void lh__lineset_scatter(const struct lh_lineset *set, void *page);

#endif
