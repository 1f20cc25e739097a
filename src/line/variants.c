/*
 * variants.c - choosing the variants that this processor can run.
 *
 * The choice is made at the first call and kept in one word. It is the only thing of the library that is
 * written outside a handle, and no state: every thread that finds it unset computes the same value and
 * stores it whole. So it needs no constructor (the agent may be asked before constructors ran), no lock
 * (a signal handler may be the first to ask), and no repeated CPUID, which costs tens of microseconds in
 * a virtual machine.
 */
#include "line/variant.h"

#include <cpuid.h>

static const struct lh_line_ops variants[] = {
	{ "portable", lh__diff_portable, lh__nonzero_portable, lh__changed_portable, lh__hash_portable,
	  lh__crc32c_portable },
	{ "avx2", lh__diff_avx2, lh__nonzero_avx2, lh__changed_avx2, lh__hash_pclmul, lh__crc32c_sse42 },
	{ "avx512", lh__diff_avx512, lh__nonzero_avx512, lh__changed_avx512, lh__hash_pclmul,
	  lh__crc32c_sse42 },
	{ "avx512-vpclmul", lh__diff_avx512, lh__nonzero_avx512, lh__changed_avx512, lh__hash_vpclmul,
	  lh__crc32c_sse42 },
};

/* The registers that the kernel saves for a thread: XCR0. Without OSXSAVE it cannot be read. */
static uint64_t saved_registers(unsigned ecx1)
{
	uint32_t low, high;

	if (!(ecx1 & bit_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

/* How many of the variants this processor and this kernel can run; each includes those before it. */
static unsigned count_usable(void)
{
	const unsigned need1 = bit_PCLMUL | bit_SSE4_2 | bit_POPCNT, need512 = bit_AVX512F | bit_AVX512BW;
	const uint64_t ymm = 0x6, zmm = 0xe6; /* of XCR0: SSE, AVX; and opmask, ZMM_Hi256, Hi16_ZMM */
	unsigned a, b, c, d, b7, c7;
	uint64_t saved;

	if (!__get_cpuid(1, &a, &b, &c, &d))
		return 1;
	saved = saved_registers(c);
	if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d))
		return 1;
	if ((c & need1) != need1 || !(b7 & bit_AVX2) || (saved & ymm) != ymm)
		return 1;
	if ((b7 & need512) != need512 || (saved & zmm) != zmm)
		return 2;
	return c7 & bit_VPCLMULQDQ ? 4 : 3;
}

const struct lh_line_ops *lh__line_ops_at(unsigned index)
{
	return index < count_usable() ? &variants[index] : NULL;
}

const struct lh_line_ops *lh__line_ops(void)
{
	static const struct lh_line_ops *chosen;
	const struct lh_line_ops *ops = __atomic_load_n(&chosen, __ATOMIC_RELAXED);

	if (!ops) {
		ops = &variants[count_usable() - 1];
		__atomic_store_n(&chosen, ops, __ATOMIC_RELAXED);
	}
	return ops;
}

lh_mask lh__page_diff(const void *a, const void *b)
{
	return lh__line_ops()->diff(a, b);
}

lh_mask lh__page_nonzero(const void *page)
{
	return lh__line_ops()->nonzero(page);
}

uint32_t lh__lines_changed(const void *before, lh_mask held, const void *after, lh_mask given)
{
	return lh__line_ops()->changed(before, held, after, given);
}

void lh__page_hash(const struct lh_hash_key *key, const void *page, uint64_t hash[LH_PAGE_LINES])
{
	lh__line_ops()->hash(key, page, hash);
}

uint32_t lh__crc32c(uint32_t crc, const void *data, size_t size)
{
	return lh__line_ops()->crc32c(crc, data, size);
}

/* The old hashes, eight lines of them, are fetched while the page is being read. */
lh_mask lh__page_hash_diff(const struct lh_hash_key *key, const void *page,
                           const uint64_t hash[LH_PAGE_LINES], uint64_t *new_hash)
{
	uint64_t now[LH_PAGE_LINES];
	lh_mask mask = LH_MASK_NONE;
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i += 8)
		__builtin_prefetch(hash + i);
	lh__line_ops()->hash(key, page, now);
	for (i = 0; i < LH_PAGE_LINES; i++)
		mask |= (lh_mask)(now[i] != hash[i]) << i;
	if (new_hash)
		memcpy(new_hash, now, sizeof now);
	return mask;
}
