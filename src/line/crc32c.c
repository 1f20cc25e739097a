/*
 * crc32c.c - the checksum of line sets: CRC-32C, polynomial 0x1EDC6F41, bits reflected.
 *
 * The processor's instruction takes eight bytes with a latency of three cycles but can start one every
 * cycle, so three parts of the data are summed at once and then put together. The sum of A followed by n
 * bytes is A * x^(8n) modulo the polynomial. As CRC32 itself multiplies by x^32, and a carry-less product
 * of two reflected 32-bit numbers stands one bit low in 64, it is crc32(0, A clmul K) with K = x^(8n - 33);
 * the constants below are that, for n = 64, 128 and 1344, 2688 (3 * 1344 = 4032 = a page less one line).
 */
#include "line/variant.h"

#include <immintrin.h>

/* ---- portable: four bits at a time; slow, but small enough to be seen right ---- */

uint32_t lh__crc32c_portable(uint32_t crc, const void *data, size_t size)
{
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
		0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	const unsigned char *byte = data;

	for (crc = ~crc; size > 0; size--) {
		crc ^= *byte++;
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}

/* ---- SSE 4.2 and PCLMULQDQ ---- */

#define SSE42 __attribute__((target("sse4.2,pclmul")))

struct stride {
	size_t bytes;      /* of each of the three parts */
	uint32_t past_one; /* x^(8 * bytes - 33) */
	uint32_t past_two; /* x^(16 * bytes - 33) */
};

SSE42 static inline uint64_t word_at(const unsigned char *p)
{
	uint64_t word;

	memcpy(&word, p, sizeof word);
	return word;
}

SSE42 static inline uint64_t multiply(uint64_t a, uint32_t b)
{
	__m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a), _mm_cvtsi64_si128(b), 0);

	return (uint64_t)_mm_cvtsi128_si64(product);
}

SSE42 static inline uint64_t three_parts(uint64_t crc, const unsigned char *p, const struct stride *stride)
{
	const size_t n = stride->bytes;
	uint64_t second = 0, third = 0;
	size_t i;

	for (i = 0; i < n; i += 8) {
		crc = _mm_crc32_u64(crc, word_at(p + i));
		second = _mm_crc32_u64(second, word_at(p + n + i));
		third = _mm_crc32_u64(third, word_at(p + 2 * n + i));
	}
	return third ^ _mm_crc32_u64(0, multiply(crc, stride->past_two) ^ multiply(second, stride->past_one));
}

SSE42 uint32_t lh__crc32c_sse42(uint32_t start, const void *data, size_t size)
{
	static const struct stride strides[] = {
		{ 1344, 0xc9c8b782, 0x889774e1 },
		{ 64, 0x9e4addf8, 0x0d3b6092 },
	};
	const unsigned char *p = data;
	uint64_t crc = ~start;
	unsigned i;

	for (i = 0; i < 2; i++)
		for (; size >= 3 * strides[i].bytes; size -= 3 * strides[i].bytes, p += 3 * strides[i].bytes)
			crc = three_parts(crc, p, &strides[i]);
	for (; size >= 8; size -= 8, p += 8)
		crc = _mm_crc32_u64(crc, word_at(p));
	for (; size > 0; size--)
		crc = _mm_crc32_u8((uint32_t)crc, *p++);
	return ~(uint32_t)crc;
}
