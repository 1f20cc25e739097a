/*
 * diff.c - which lines of two pages differ, and which lines of a page are not zero.
 *
 * Each variant turns a line into one bit without branching on its content, so that the time does not
 * depend on what changed. Cold pages are bound by memory whatever the variant; hot ones are not.
 */
#include "line/variant.h"

#include <immintrin.h>

/* ---- portable ---- */

lh_mask lh__diff_portable(const void *a, const void *b)
{
	const char *pa = a, *pb = b;
	lh_mask mask = LH_MASK_NONE;
	unsigned i, j;

	for (i = 0; i < LH_PAGE_LINES; i++, pa += LH_LINE_SIZE, pb += LH_LINE_SIZE) {
		uint64_t wa[8], wb[8], any = 0;

		memcpy(wa, pa, sizeof wa);
		memcpy(wb, pb, sizeof wb);
		for (j = 0; j < 8; j++)
			any |= wa[j] ^ wb[j];
		mask |= (lh_mask)(any != 0) << i;
	}
	return mask;
}

lh_mask lh__nonzero_portable(const void *page)
{
	const char *line = page;
	lh_mask mask = LH_MASK_NONE;
	unsigned i, j;

	for (i = 0; i < LH_PAGE_LINES; i++, line += LH_LINE_SIZE) {
		uint64_t word[8], any = 0;

		memcpy(word, line, sizeof word);
		for (j = 0; j < 8; j++)
			any |= word[j];
		mask |= (lh_mask)(any != 0) << i;
	}
	return mask;
}

/* ---- AVX2: a line is two registers ---- */

#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i load256(const char *p)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

AVX2 lh_mask lh__diff_avx2(const void *a, const void *b)
{
	const char *pa = a, *pb = b;
	lh_mask mask = LH_MASK_NONE;
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i++, pa += LH_LINE_SIZE, pb += LH_LINE_SIZE) {
		__m256i low = _mm256_xor_si256(load256(pa), load256(pb));
		__m256i high = _mm256_xor_si256(load256(pa + 32), load256(pb + 32));
		__m256i any = _mm256_or_si256(low, high);

		mask |= (lh_mask)!_mm256_testz_si256(any, any) << i;
	}
	return mask;
}

AVX2 lh_mask lh__nonzero_avx2(const void *page)
{
	const char *line = page;
	lh_mask mask = LH_MASK_NONE;
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i++, line += LH_LINE_SIZE) {
		__m256i any = _mm256_or_si256(load256(line), load256(line + 32));

		mask |= (lh_mask)!_mm256_testz_si256(any, any) << i;
	}
	return mask;
}

/* ---- AVX-512: a line is one register ---- */

#define AVX512 __attribute__((target("avx512f,avx512bw")))

AVX512 lh_mask lh__diff_avx512(const void *a, const void *b)
{
	const char *pa = a, *pb = b;
	lh_mask mask = LH_MASK_NONE;
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i++, pa += LH_LINE_SIZE, pb += LH_LINE_SIZE) {
		__mmask16 words = _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(pa), _mm512_loadu_si512(pb));

		mask |= (lh_mask)(words != 0) << i;
	}
	return mask;
}

AVX512 lh_mask lh__nonzero_avx512(const void *page)
{
	const char *line = page;
	lh_mask mask = LH_MASK_NONE;
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i++, line += LH_LINE_SIZE) {
		__m512i content = _mm512_loadu_si512(line);

		mask |= (lh_mask)(_mm512_test_epi32_mask(content, content) != 0) << i;
	}
	return mask;
}
