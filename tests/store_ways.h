/*
 * store_ways.h - a few bytes stored to memory, by each class of instruction that stores: what is there
 * afterwards depends on value. Where the processor lacks a class its place is taken by plain stores.
 */
#ifndef STORE_WAYS_H
#define STORE_WAYS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum store_way {
	STORE_PLAIN,
	STORE_POP,
	STORE_REPEATED,
	STORE_REPEATED_DOWN,
	STORE_VECTOR,
	STORE_MASKED,
	STORE_ATOMIC,
	STORE_X87,
	STORE_STATE,
	STORE_STREAMED,
	STORE_SCATTERED,
	STORE_WAYS
};

#define STORE_WAY_NAMES                                                                                      \
	{                                                                                                    \
		"plain", "pop", "repeated", "repeated, downwards", "vector", "masked", "atomic", "x87",      \
			"state", "streamed", "scattered"                                                     \
	}
#define STORE_SIZE 64u        /* at most so many bytes, but for STORE_STATE */
#define STORE_STATE_SIZE 512u /* aligned to 16 */

static inline bool store_has_avx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

#define STORE_AVX512 __attribute__((target("avx512f,avx512bw"))) static inline

STORE_AVX512 void store_masked_wide(unsigned char *to, uint64_t value)
{
	__asm__ volatile("kmovq %2, %%k1\n\tvpbroadcastq %1, %%zmm1\n\t"
	                 "vmovdqu8 %%zmm1, (%0)%{%%k1%}\n\tvzeroupper"
	                 :
	                 : "r"(to), "r"(value), "r"(UINT64_C(0x00f0000180000003))
	                 : "memory", "xmm1", "k1");
}

STORE_AVX512 void store_scattered_wide(unsigned char *to, uint64_t value)
{
	static const uint64_t index[8] = { 0, 48, 8, 16, 24, 32, 40, 56 };

	__asm__ volatile("kxnorw %%k1, %%k1, %%k1\n\tvpbroadcastq %1, %%zmm1\n\t"
	                 "vmovdqu64 (%2), %%zmm2\n\tvpscatterqq %%zmm1, (%0,%%zmm2,1)%{%%k1%}\n\t"
	                 "vzeroupper"
	                 :
	                 : "r"(to), "r"(value), "r"(index)
	                 : "memory", "xmm1", "xmm2", "k1");
}

static inline void store_masked(unsigned char *to, uint64_t value)
{
	__asm__ volatile("movq %1, %%xmm1\n\tpcmpeqd %%xmm2, %%xmm2\n\tpsrldq $9, %%xmm2\n\t"
	                 "maskmovdqu %%xmm2, %%xmm1"
	                 :
	                 : "D"(to), "r"(value)
	                 : "memory", "xmm1", "xmm2");
}

static inline void store_by(enum store_way way, unsigned char *to, uint64_t value)
{
	unsigned char *end = to + STORE_SIZE - 1;
	uint64_t count = STORE_SIZE;

	switch (way) {
	case STORE_POP: /* below the red zone */
		__asm__ volatile("lea -128(%%rsp), %%rsp\n\tpush %1\n\tpop (%0)\n\tlea 128(%%rsp), %%rsp"
		                 :
		                 : "r"(to), "r"(value)
		                 : "memory");
		break;
	case STORE_REPEATED:
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
		break;
	case STORE_REPEATED_DOWN:
		__asm__ volatile("std\n\trep stosb\n\tcld" : "+D"(end), "+c"(count) : "a"(value) : "memory");
		break;
	case STORE_VECTOR:
		__asm__ volatile("movq %1, %%xmm1\n\tmovdqu %%xmm1, 40(%0)"
		                 :
		                 : "r"(to), "r"(value)
		                 : "memory", "xmm1");
		break;
	case STORE_MASKED:
		if (store_has_avx512())
			store_masked_wide(to, value);
		else
			store_masked(to, value);
		break;
	case STORE_ATOMIC:
		__asm__ volatile("lock xorq %1, (%0)" : : "r"(to), "r"(value | 1) : "memory", "cc");
		break;
	case STORE_X87: __asm__ volatile("fildll %1\n\tfstpt (%0)" : : "r"(to), "m"(value) : "memory"); break;
	case STORE_STATE:
		__asm__ volatile("movq %1, %%xmm1\n\tfxsave64 (%0)"
		                 :
		                 : "r"(to), "r"(value)
		                 : "memory", "xmm1");
		break;
	case STORE_STREAMED: __asm__ volatile("movnti %1, (%0)" : : "r"(to), "r"(value) : "memory"); break;
	case STORE_SCATTERED:
		if (store_has_avx512()) {
			store_scattered_wide(to, value);
			break;
		}
		/* fall through */
	default: __asm__ volatile("mov %1, (%0)\n\tmov %b1, 63(%0)" : : "r"(to), "r"(value) : "memory");
	}
}

#endif
