/*
 * changed.c - how many bytes of a page get another value: what was held before against what is given, where a
 * line that is in neither mask is zero on that side.
 *
 * A store that overwrites a page asks this while both are in its hands, so the time matters as that of a copy
 * does. A line that is missing on one side is read from a line of zeroes, which costs less than a branch;
 * lines that are missing on both are not looked at.
 */
#include "line/variant.h"

#include <immintrin.h>

static const char no_line[LH_LINE_SIZE] __attribute__((aligned(64)));

static inline const char *line_of(const void *page, lh_mask mask, unsigned i)
{
	return mask >> i & 1 ? (const char *)page + (size_t)LH_LINE_SIZE * i : no_line;
}

/* ---- portable: eight bytes at a time; of each that is not zero the highest bit is set, then counted ---- */

#define LOW UINT64_C(0x7f7f7f7f7f7f7f7f)
#define ONES UINT64_C(0x0101010101010101)

static inline uint32_t line_portable(const char *was, const char *is)
{
	uint64_t a[8], b[8], sum = 0;
	unsigned j;

	memcpy(a, was, sizeof a);
	memcpy(b, is, sizeof b);
	for (j = 0; j < 8; j++) {
		uint64_t x = a[j] ^ b[j];

		sum += (((x & LOW) + LOW) | x) >> 7 & ONES;
	}
	return (uint32_t)(sum * ONES >> 56);
}

uint32_t lh__changed_portable(const void *before, lh_mask held, const void *after, lh_mask given)
{
	uint32_t bytes = 0;
	unsigned i;

	LH_MASK_EACH(held | given, i)
		bytes += line_portable(line_of(before, held, i), line_of(after, given, i));
	return bytes;
}

/* ---- AVX2: bytes that are equal are counted, in 32 counters of which none exceeds 128 ---- */

#define AVX2 __attribute__((target("avx2")))

AVX2 static inline __m256i equal256(const char *a, const char *b)
{
	return _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(const void *)a),
	                         _mm256_loadu_si256((const __m256i *)(const void *)b));
}

AVX2 static inline uint32_t sum256(__m256i counters)
{
	__m256i four = _mm256_sad_epu8(counters, _mm256_setzero_si256());
	__m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));

	return (uint32_t)(_mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1));
}

AVX2 uint32_t lh__changed_avx2(const void *before, lh_mask held, const void *after, lh_mask given)
{
	__m256i equal = _mm256_setzero_si256();
	unsigned i;

	LH_MASK_EACH(held | given, i) {
		const char *was = line_of(before, held, i), *is = line_of(after, given, i);

		equal = _mm256_sub_epi8(equal, equal256(was, is));
		equal = _mm256_sub_epi8(equal, equal256(was + 32, is + 32));
	}
	return lh__mask_count(held | given) * LH_LINE_SIZE - sum256(equal);
}

/* ---- AVX-512: a line is one comparison; bytes that differ are counted, in 64 counters ---- */

#define AVX512 __attribute__((target("avx512f,avx512bw")))

AVX512 static inline __m512i count512(__m512i counters, const char *a, const char *b)
{
	__mmask64 differ = _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));

	return _mm512_mask_sub_epi8(counters, differ, counters, _mm512_set1_epi8(-1));
}

AVX512 static inline uint32_t sum512(__m512i counters)
{
	return (uint32_t)_mm512_reduce_add_epi64(_mm512_sad_epu8(counters, _mm512_setzero_si512()));
}

AVX512 uint32_t lh__changed_avx512(const void *before, lh_mask held, const void *after, lh_mask given)
{
	const char *was = before, *is = after;
	__m512i counters = _mm512_setzero_si512();
	unsigned i;

	if ((held & given) == LH_MASK_ALL) {
		for (i = 0; i < LH_PAGE_SIZE; i += LH_LINE_SIZE)
			counters = count512(counters, was + i, is + i);
		return sum512(counters);
	}
	LH_MASK_EACH(held | given, i)
		counters = count512(counters, line_of(was, held, i), line_of(is, given, i));
	return sum512(counters);
}
