/*
 * line_lineset.c - the encoding of line sets: round trips, and that nothing but what was encoded is accepted.
 */
#include "line/line.h"
#include "line_random.h"
#include "tap.h"

#include <errno.h>

static uint64_t seed;
static unsigned char page[LH_PAGE_SIZE], encoded[LH_LINESET_SIZE_MAX];

static void documented_example(void)
{
	static const unsigned char wanted[LH_LINESET_HEADER_SIZE] = { 5, 0, 0, 0, 0,    0,    0,    0,
		                                                      2, 0, 0, 0, 0,    0,    0,    0,
		                                                      1, 0, 0, 0, 0x9f, 0xdd, 0x92, 0x75 };

	memset(page, 0xff, sizeof page);
	is(lh__lineset_encode(encoded, 5, 2, LH_LINESET_REPLACE, page), 88,
	   "the example in lineset.c is 88 bytes");
	ok(memcmp(encoded, wanted, sizeof wanted) == 0 && memcmp(encoded + 24, page, 64) == 0, "... these");
}

static lh_mask some_mask(unsigned i)
{
	static const lh_mask special[] = { 0, LH_MASK_ALL, 1, UINT64_C(1) << 63, 0x5555555555555555 };

	if (i < sizeof special / sizeof *special)
		return special[i];
	return i & 1 ? random_next(&seed) : random_next(&seed) & random_next(&seed) & random_next(&seed);
}

static void round_trips(void)
{
	static unsigned char at_edge[2 * LH_PAGE_SIZE + 64], got[LH_PAGE_SIZE], wanted[LH_PAGE_SIZE];
	unsigned char *room = guarded_pages(2);
	unsigned i, wrong = 0;

	for (i = 0; i < 2000; i++) {
		const uint64_t number = i & 4 ? LH_PAGE_NUMBER_MAX - i : random_next(&seed) >> 24;
		const lh_mask mask = some_mask(i);
		const uint32_t flags = i & 1 ? LH_LINESET_REPLACE : 0;
		size_t size = lh__lineset_size(mask);
		struct lh_lineset set;
		unsigned char *in = room + (size_t)2 * LH_PAGE_SIZE - size;

		random_bytes(&seed, page, sizeof page);
		memset(at_edge, 0x77, sizeof at_edge);
		wrong += lh__lineset_encode(at_edge, number, mask, flags, page) != size ||
		         at_edge[size] != 0x77;
		memcpy(in, at_edge, size); /* ends where what may be read ends */
		wrong += lh__lineset_decode(&set, in, size) != (long)size;
		wrong += set.page != number || set.mask != mask || set.flags != flags || set.lines != in + 24;
		memset(got, 0x44, sizeof got);
		memset(wanted, flags ? 0 : 0x44, sizeof wanted);
		lh__lines_copy(wanted, page, mask);
		lh__lineset_scatter(&set, got);
		wrong += memcmp(got, wanted, sizeof got) != 0;
		wrong += lh__lineset_decode_trusted(&set, in, size) != (long)size;
	}
	is(wrong, 0, "what was encoded is what is decoded");
}

static void one_after_another(void)
{
	static unsigned char log[3 * LH_LINESET_SIZE_MAX];
	struct lh_lineset set;
	size_t size = 0, at = 0;
	unsigned i, wrong = 0;

	for (i = 0; i < 3; i++)
		size += lh__lineset_encode(log + size, i, lh__mask_range(i, 10), 0, page);
	for (i = 0; i < 3; i++) {
		long n = lh__lineset_decode(&set, log + at, size - at);

		wrong += n <= 0 || set.page != i;
		at += n > 0 ? (size_t)n : 0;
	}
	ok(wrong == 0 && at == size, "line sets are read one after another");
}

/* Counts what is accepted or changes *set although it is refused. */
static unsigned accepted(const unsigned char *in, size_t size, long *result)
{
	struct lh_lineset set = { .page = 42, .mask = 43, .flags = 44, .lines = page };

	*result = lh__lineset_decode(&set, in, size);
	return *result >= 0 || set.page != 42 || set.mask != 43 || set.flags != 44 || set.lines != page;
}

static void truncations(void)
{
	const size_t size = lh__lineset_encode(encoded, 77, 0xf00f0000000000ff, 0, page);
	unsigned char *room = guarded_pages(2);
	unsigned wrong = 0;
	size_t i;
	long result;

	for (i = 0; i < size; i++) {
		unsigned char *in = room + (size_t)2 * LH_PAGE_SIZE - i;

		memcpy(in, encoded, i);
		wrong += accepted(in, i, &result) || result != -ENODATA;
	}
	is(wrong, 0, "every truncation is refused as such");
}

static void bit_flips(void)
{
	const size_t size = lh__lineset_encode(encoded, 77, 0xf00f0000000000ff, LH_LINESET_REPLACE, page);
	static unsigned char copy[LH_LINESET_SIZE_MAX];
	unsigned wrong = 0;
	size_t bit;
	long result;

	for (bit = 0; bit < size * 8; bit++) {
		memcpy(copy, encoded, sizeof copy);
		copy[bit / 8] ^= (unsigned char)(1u << bit % 8);
		wrong += accepted(copy, sizeof copy, &result) || result != -EBADMSG;
	}
	is(wrong, 0, "every single bit that flips is refused");
}

static void reseal(unsigned char *set, size_t size)
{
	uint32_t crc = lh__crc32c(lh__crc32c(0, set, 20), set + 24, size - 24);

	memcpy(set + 20, &crc, 4);
}

static void well_sealed_nonsense(void)
{
	size_t size = lh__lineset_encode(encoded, LH_PAGE_NUMBER_MAX, 1, 0, page);
	struct lh_lineset set;
	unsigned bit, wrong = 0;
	uint32_t flags;
	long result;

	is(lh__lineset_decode(&set, encoded, size), (long)size, "the largest page number");
	(void)lh__lineset_encode(encoded, LH_PAGE_NUMBER_MAX + 1, 1, 0, page);
	ok(!accepted(encoded, size, &result) && result == -EBADMSG, "a page number beyond the largest");
	is(lh__lineset_decode_trusted(&set, encoded, size), -EBADMSG,
	   "... also without a look at the checksum");
	(void)lh__lineset_encode(encoded, UINT64_MAX, 1, 0, page);
	ok(!accepted(encoded, size, &result) && result == -EBADMSG, "the largest 64-bit number");
	for (bit = 1; bit < 32; bit++) {
		(void)lh__lineset_encode(encoded, 1, 1, 0, page);
		flags = 1u << bit;
		memcpy(encoded + 16, &flags, 4);
		reseal(encoded, size);
		wrong += accepted(encoded, size, &result) || result != -EBADMSG;
	}
	is(wrong, 0, "every unknown flag");
	(void)lh__lineset_encode(encoded, 1, 1, 0, page);
	encoded[24] ^= 1;
	ok(!accepted(encoded, size, &result), "a wrong checksum");
	is(lh__lineset_decode_trusted(&set, encoded, size), (long)size,
	   "... which the trusting decoder does not look at");
	reseal(encoded, size);
	is(lh__lineset_decode(&set, encoded, size), (long)size,
	   "the seal that these tests put on is the right one");
}

int main(void)
{
	seed = random_seed();
	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	documented_example();
	random_bytes(&seed, page, sizeof page);
	round_trips();
	one_after_another();
	truncations();
	bit_flips();
	well_sealed_nonsense();
	return done();
}
