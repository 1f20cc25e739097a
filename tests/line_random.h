/*
 * line_random.h - random numbers and pages for the tests of the line layer; the seed is printed by who uses
 * it.
 */
#ifndef LINE_RANDOM_H
#define LINE_RANDOM_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "linehome.h"

/* LH_TEST_SEED, or one that changes from run to run. */
__attribute__((unused)) static uint64_t random_seed(void)
{
	const char *given = getenv("LH_TEST_SEED");

	return (given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 2654435761u ^ (uint64_t)getpid()) |
	       1;
}

__attribute__((unused)) static uint64_t random_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

__attribute__((unused)) static void random_bytes(uint64_t *state, void *data, size_t size)
{
	unsigned char *byte = data;

	while (size-- > 0)
		*byte++ = (unsigned char)(random_next(state) >> 56);
}

/* Writable pages with an unreadable one before and behind them: reading beyond crashes the test. */
__attribute__((unused)) static unsigned char *guarded_pages(size_t n)
{
	unsigned char *all =
		mmap(NULL, (n + 2) * LH_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (all == MAP_FAILED || mprotect(all + LH_PAGE_SIZE, n * LH_PAGE_SIZE, PROT_READ | PROT_WRITE) != 0)
		abort();
	return all + LH_PAGE_SIZE;
}

#endif
