/* sys.c - the default table: the kernel, and libc's allocator. See sys.h. It uses no vector registers. */
#include "sys/sys.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/*
 * In a section of its own: the one range that Syscall User Dispatch lets calls through from
 * (port/page/intercept).
 */
__attribute__((noinline, section("lh_syscall"))) long lh__raw_syscall(long nr, long a, long b, long c, long d,
                                                                      long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
	                 : "rcx", "r11", "memory");
	return result;
}

static long default_call(void *context, long nr, const long argument[6])
{
	(void)context;
	return lh__raw_syscall(nr, argument[0], argument[1], argument[2], argument[3], argument[4],
	                       argument[5]);
}

static void *default_alloc(void *context, size_t size)
{
	void *pointer;

	(void)context;
	if (size > SIZE_MAX - 64 || posix_memalign(&pointer, 64, size ? size : 1) != 0)
		return NULL;
	return memset(pointer, 0, size);
}

static void default_free(void *context, void *pointer, size_t size)
{
	(void)context;
	(void)size;
	free(pointer);
}

uint64_t lh__clock(void *context)
{
	struct timespec now = { 0, 0 };

	(void)context;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

const struct lh_sys lh__sys_default = {
	.call = default_call,
	.alloc = default_alloc,
	.free = default_free,
	.now = lh__clock,
};
