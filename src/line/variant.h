/* variant.h - the variants of each function of the line layer, for line/ itself. */
#ifndef LH_LINE_VARIANT_H
#define LH_LINE_VARIANT_H

#include "line/line.h"

lh_mask lh__diff_portable(const void *a, const void *b);
lh_mask lh__diff_avx2(const void *a, const void *b);
lh_mask lh__diff_avx512(const void *a, const void *b);

lh_mask lh__nonzero_portable(const void *page);
lh_mask lh__nonzero_avx2(const void *page);
lh_mask lh__nonzero_avx512(const void *page);

uint32_t lh__changed_portable(const void *before, lh_mask held, const void *after, lh_mask given);
uint32_t lh__changed_avx2(const void *before, lh_mask held, const void *after, lh_mask given);
uint32_t lh__changed_avx512(const void *before, lh_mask held, const void *after, lh_mask given);

void lh__hash_portable(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES]);
void lh__hash_pclmul(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES]);
void lh__hash_vpclmul(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES]);

uint32_t lh__crc32c_portable(uint32_t crc, const void *data, size_t size);
uint32_t lh__crc32c_sse42(uint32_t crc, const void *data, size_t size);

#endif
