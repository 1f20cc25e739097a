/*
 * hash.c - the per-line keyed hash.
 *
 * A line is eight 64-bit words w0..w7, each read as a polynomial over the field of two elements (bit i is
 * the coefficient of x^i). The key is eight such words k0..k7, random and not zero. The hash is their inner
 * product in the field GF(2^64), that is, modulo the irreducible polynomial x^64 + x^4 + x^3 + x + 1:
 *
 *     h = w0*k0 + w1*k1 + ... + w7*k7          (+ is exclusive or)
 *
 * Why this and not a general hash such as XXH3: it is linear, so h(old) = h(new) exactly when the
 * inner product of the key with the difference old ^ new is zero. Where the difference lies within one
 * word, that is a product of two non-zero elements of a field, which is never zero: such a change (every
 * store of 1, 2, 4 or 8 bytes that is aligned) cannot go unseen. Where it spans several words, for all
 * choices of the other words exactly one choice of the last makes it zero: one key in 2^64 - 1. XXH3 has
 * no proof of either. And it is faster: one carry-less multiplication treats two words of a line, or with
 * VPCLMULQDQ eight, and one reduction serves a line, or four (bench/line.c compares them).
 *
 * Example: the line whose first byte is 2 and whose other bytes are zero is w0 = x; its hash is k0 * x.
 */
#include "line/variant.h"

#include <errno.h>
#include <immintrin.h>

/* n(x) * x^64 modulo the polynomial, for n below 16: n * (x^4 + x^3 + x + 1), at most eight bits. */
static const uint8_t overflow[16] = {
	0x00, 0x1b, 0x36, 0x2d, 0x6c, 0x77, 0x5a, 0x41, 0xd8, 0xc3, 0xee, 0xf5, 0xb4, 0xaf, 0x82, 0x99,
};

static uint64_t times_x(uint64_t a)
{
	return a << 1 ^ (a >> 63 ? 0x1b : 0);
}

void lh__hash_key_set(struct lh_hash_key *key, const uint64_t word[8])
{
	unsigned i, n;

	for (i = 0; i < 8; i++) {
		uint64_t *product = key->product[i];

		key->word[i] = word[i] ? word[i] : 1;
		product[0] = 0;
		product[1] = key->word[i];
		for (n = 2; n < 16; n++)
			product[n] = times_x(product[n / 2]) ^ (n & 1 ? product[1] : 0);
	}
}

int lh__hash_key_init(const struct lh_sys *sys, struct lh_hash_key *key)
{
	uint64_t word[8];
	size_t have = 0;

	while (have < sizeof word) {
		long n = LH_SYS(sys, SYS_getrandom, (char *)word + have, sizeof word - have, 0);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? (int)n : -EIO;
		have += (size_t)n;
	}
	lh__hash_key_set(key, word);
	return 0;
}

/* ---- portable: Horner's rule over four bits at a time, all eight words at once ---- */

static uint64_t hash_line(const struct lh_hash_key *key, const char *line)
{
	uint64_t word[8], sum = 0;
	int shift;
	unsigned i;

	memcpy(word, line, sizeof word);
	for (shift = 60; shift >= 0; shift -= 4) {
		sum = sum << 4 ^ overflow[sum >> 60];
		for (i = 0; i < 8; i++)
			sum ^= key->product[i][word[i] >> shift & 15];
	}
	return sum;
}

void lh__hash_portable(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES])
{
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i++)
		hash[i] = hash_line(key, (const char *)page + (size_t)LH_LINE_SIZE * i);
}

/*
 * Reduction of a 128-bit product p = high * x^64 + low: x^64 is 0x1b, so add high * 0x1b; that reaches at
 * most four bits beyond 64 (call them c), so add c * 0x1b; the low 64 bits are the result.
 */

/* ---- PCLMULQDQ: two words of one line at a time ---- */

#define PCLMUL __attribute__((target("pclmul,sse4.1")))

PCLMUL static inline __m128i load128(const void *p)
{
	return _mm_loadu_si128((const __m128i *)p);
}

PCLMUL static inline __m128i product128(__m128i words, __m128i key)
{
	return _mm_xor_si128(_mm_clmulepi64_si128(words, key, 0x00), _mm_clmulepi64_si128(words, key, 0x11));
}

PCLMUL void lh__hash_pclmul(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES])
{
	const __m128i fold = _mm_set_epi64x(0, 0x1b);
	const __m128i k0 = load128(key->word), k1 = load128(key->word + 2);
	const __m128i k2 = load128(key->word + 4), k3 = load128(key->word + 6);
	const char *line = page;
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i++, line += LH_LINE_SIZE) {
		__m128i p01 =
			_mm_xor_si128(product128(load128(line), k0), product128(load128(line + 16), k1));
		__m128i p23 =
			_mm_xor_si128(product128(load128(line + 32), k2), product128(load128(line + 48), k3));
		__m128i sum = _mm_xor_si128(p01, p23);
		__m128i high = _mm_clmulepi64_si128(sum, fold, 0x01);
		__m128i carry = _mm_clmulepi64_si128(high, fold, 0x01);

		sum = _mm_xor_si128(_mm_xor_si128(sum, high), carry);
		hash[i] = (uint64_t)_mm_cvtsi128_si64(sum);
	}
}

/* ---- VPCLMULQDQ: all words of a line in two multiplications, four lines in one reduction ---- */

#define VPCLMUL __attribute__((target("avx512f,vpclmulqdq")))

VPCLMUL static inline __m512i product512(const char *line, __m512i key)
{
	__m512i words = _mm512_loadu_si512(line);

	return _mm512_xor_si512(_mm512_clmulepi64_epi128(words, key, 0x00),
	                        _mm512_clmulepi64_epi128(words, key, 0x11));
}

/* Of two lines' four products each: [a0+a2, a1+a3, b0+b2, b1+b3]. */
VPCLMUL static inline __m512i halve(__m512i a, __m512i b)
{
	return _mm512_xor_si512(_mm512_shuffle_i64x2(a, b, 0x44), _mm512_shuffle_i64x2(a, b, 0xee));
}

VPCLMUL void lh__hash_vpclmul(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES])
{
	const __m512i fold = _mm512_set1_epi64(0x1b), k = _mm512_loadu_si512(key->word);
	/* The low halves of four and four products, in order. */
	const __m512i low_halves = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
	const char *line = page;
	unsigned i, j;

	for (i = 0; i < LH_PAGE_LINES; i += 8) {
		__m512i four[2];

		for (j = 0; j < 2; j++, line += 4 * LH_LINE_SIZE) {
			__m512i ab = halve(product512(line, k), product512(line + 64, k));
			__m512i cd = halve(product512(line + 128, k), product512(line + 192, k));
			__m512i sum = _mm512_xor_si512(_mm512_shuffle_i64x2(ab, cd, 0x88),
			                               _mm512_shuffle_i64x2(ab, cd, 0xdd));
			__m512i high = _mm512_clmulepi64_epi128(sum, fold, 0x01);
			__m512i carry = _mm512_clmulepi64_epi128(high, fold, 0x01);

			four[j] = _mm512_xor_si512(_mm512_xor_si512(sum, high), carry);
		}
		_mm512_storeu_si512(hash + i, _mm512_permutex2var_epi64(four[0], low_halves, four[1]));
	}
}
