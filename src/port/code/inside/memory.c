/*
 * memory.c - what a compiler expects of a libc, and the small things that all parts of the agent need.
 */
#include "port/code/inside/internal.h"

#include <errno.h>

struct lh_inside lh__inside;

/* The string instructions, so that a compiler cannot make calls of these very functions out of loops. */
void *memcpy(void *to, const void *from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);

void *memcpy(void *to, const void *from, size_t size)
{
	void *result = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
	return result;
}

void *memmove(void *to, const void *from, size_t size)
{
	if ((uintptr_t)to - (uintptr_t)from >= size)
		return memcpy(to, from, size);
	while (size-- > 0) {
		((volatile uint8_t *)to)[size] = ((const uint8_t *)from)[size];
	}
	return to;
}

void *memset(void *to, int byte, size_t size)
{
	void *result = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
	return result;
}

int memcmp(const void *a, const void *b, size_t size)
{
	const uint8_t *x = a, *y = b;
	size_t at = 0;

	/* By words as long as they are equal. */
	for (; at + 8 <= size; at += 8) {
		uint64_t v, w;

		__builtin_memcpy(&v, x + at, 8);
		__builtin_memcpy(&w, y + at, 8);
		if (v != w)
			break;
	}
	for (; at < size; at++)
		if (x[at] != y[at])
			return x[at] < y[at] ? -1 : 1;
	return 0;
}

/* The kernel copies the set before it looks at what is to be done with it, which is nothing it knows. */
bool lh__inside_readable(uint64_t address)
{
	return LH_CALL4(SYS_rt_sigprocmask, -1, address, 0, 8) != -EFAULT;
}

uint64_t lh__inside_block(void)
{
	uint64_t all = ~0ull, before = 0;

	LH_CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
	return before;
}

void lh__inside_unblock(uint64_t mask)
{
	LH_CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, 8);
}

uint64_t lh__inside_lock(void)
{
	uint64_t mask = lh__inside_block();
	uint64_t process = (uint32_t)LH_CALL0(SYS_getpid);
	uint64_t me = process << 32 | (uint32_t)LH_CALL0(SYS_gettid);

	for (;;) {
		uint64_t holder = __atomic_load_n(&lh__inside.lock, __ATOMIC_RELAXED);

		/* A lock that a fork has copied belongs to nobody here. */
		if ((holder == 0 || holder >> 32 != process) &&
		    __atomic_compare_exchange_n(&lh__inside.lock, &holder, me, false, __ATOMIC_ACQUIRE,
		                                __ATOMIC_RELAXED))
			return mask;
		LH_CALL0(SYS_sched_yield);
	}
}

void lh__inside_unlock(uint64_t mask)
{
	__atomic_store_n(&lh__inside.lock, 0, __ATOMIC_RELEASE);
	lh__inside_unblock(mask);
}
