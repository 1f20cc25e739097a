/*
 * sys.h - the one table through which the library reaches the kernel and the allocator.
 *
 * Why a table: tests replace it and fail the nth call until a run injects nothing (tests/inject.h); the
 * agent that lives in a program replaces the allocator, since it must never use the program's heap.
 * Why numbers and not names: the library needs some forty calls, in contexts where libc must not be
 * entered (a signal handler, a thread that libc does not know, a process whose libc has been rewritten).
 * The default goes straight to the kernel, touches no errno and no thread-local storage, and is
 * async-signal-safe.
 *
 * A table must outlive every handle that was opened with it. All functions may be called from any thread.
 */
#ifndef LH_SYS_H
#define LH_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "linehome.h"

struct lh_sys {
	void *context;
	/* System call nr with six arguments; a result >= 0 or a negative errno value. */
	long (*call)(void *context, long nr, const long argument[6]);
	/* size bytes, zeroed, aligned to 64; NULL where there is no memory. */
	void *(*alloc)(void *context, size_t size);
	/* Gives back what alloc returned for the same size; pointer may be NULL. */
	void (*free)(void *context, void *pointer, size_t size);
	/* CLOCK_MONOTONIC in nanoseconds, if there is a quicker way than the system call; may be NULL. */
	uint64_t (*now)(void *context);
};

/* The real kernel and libc's allocator. */
extern const struct lh_sys lh__sys_default;

/* The clock through the vDSO, which libc calls without touching anything of its own. */
uint64_t lh__clock(void *context);

/* The raw instruction: async-signal-safe, no errno, no thread-local storage. */
long lh__raw_syscall(long nr, long a, long b, long c, long d, long e, long f);

#define LH__ARG(x) ((long)(x))
#define LH__SYS6(sys, nr, a, b, c, d, e, f)                                                                  \
	((sys)->call((sys)->context, (nr),                                                                   \
	             (const long[6]){ LH__ARG(a), LH__ARG(b), LH__ARG(c), LH__ARG(d), LH__ARG(e),            \
	                              LH__ARG(f) }))
#define LH__SYS_PICK(_0, _1, _2, _3, _4, _5, _6, n, ...) n
/* LH_SYS(sys, SYS_read, fd, buffer, size): zero to six arguments after the number. */
#define LH_SYS(sys, ...)                                                                                     \
	LH__SYS_PICK(__VA_ARGS__, LH__SYSN6, LH__SYSN5, LH__SYSN4, LH__SYSN3, LH__SYSN2, LH__SYSN1,          \
	             LH__SYSN0)                                                                              \
	(sys, __VA_ARGS__)
#define LH__SYSN0(s, n) LH__SYS6(s, n, 0, 0, 0, 0, 0, 0)
#define LH__SYSN1(s, n, a) LH__SYS6(s, n, a, 0, 0, 0, 0, 0)
#define LH__SYSN2(s, n, a, b) LH__SYS6(s, n, a, b, 0, 0, 0, 0)
#define LH__SYSN3(s, n, a, b, c) LH__SYS6(s, n, a, b, c, 0, 0, 0)
#define LH__SYSN4(s, n, a, b, c, d) LH__SYS6(s, n, a, b, c, d, 0, 0)
#define LH__SYSN5(s, n, a, b, c, d, e) LH__SYS6(s, n, a, b, c, d, e, 0)
#define LH__SYSN6(s, n, a, b, c, d, e, f) LH__SYS6(s, n, a, b, c, d, e, f)

static inline void *lh__alloc(const struct lh_sys *sys, size_t size)
{
	return sys->alloc(sys->context, size);
}
static inline void lh__free(const struct lh_sys *sys, void *pointer, size_t size)
{
	sys->free(sys->context, pointer, size);
}

/*
 * Fills *error (which may be NULL) with code and formatted text, and returns code, so that a function fails
 * in one line: return lh__fail(error, -EINVAL, "%s: not a size", word); Knows %s, %d, %u, %x, %ld, %lu, %lx,
 * %zu, %c and %%; nothing else. Async-signal-safe: it never enters libc's stdio, whose locale data may lie in
 * memory that is not there.
 */
int lh__fail(struct lh_error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same formatting into a buffer; always terminated; returns the length without the terminator. */
size_t lh__format(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The errno's name ("ENOSPC") for -code or code, or "errno N"'s generic word; static. */
const char *lh__errno_name(int code);

#endif
