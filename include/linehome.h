/*
 * linehome.h - memory under a home agent in software.
 *
 * Words. A *line* is 64 bytes, aligned. A *page* is 4096 bytes: 64 lines. A *mask* is a set of lines of
 * one page, bit i standing for line i. A *line set* is a page number, a mask and the content of those
 * lines in ascending order; it has one encoding, used in logs, on the wire and in recordings.
 *
 * Errors. A function that can fail returns a negative errno value and is marked so that ignoring it is a
 * warning. Where a struct lh_error is taken it may be NULL; on failure it receives the same code and one
 * line of text fit for a person. No function exits, prints or aborts. A failed call has changed nothing.
 *
 * Threads. Functions on different handles may be called at the same time. What may be called at the same
 * time on one handle is said at each function.
 */
#ifndef LINEHOME_H
#define LINEHOME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LH_VERSION_MAJOR 0
#define LH_VERSION_MINOR 1
#define LH_VERSION_PATCH 0
#define LH_VERSION "0.1.0"

#define LH_LINE_SIZE 64u
#define LH_PAGE_SIZE 4096u
#define LH_PAGE_LINES 64u

#define LH_MUST_CHECK __attribute__((warn_unused_result))
#if defined(LH_BUILD)
#define LH_API __attribute__((visibility("default")))
#else
#define LH_API
#endif

/* A set of lines of one page: bit i is line i. */
typedef uint64_t lh_mask;
#define LH_MASK_NONE ((lh_mask)0)
#define LH_MASK_ALL (~(lh_mask)0)

/* Why a call failed: code is the negative errno value that the call returned, text one line, no newline. */
struct lh_error {
	int code;
	char text[252];
};

/* The version of the library that is loaded, as "MAJOR.MINOR.PATCH". Static; never fails. */
LH_API const char *lh_version(void);

#ifdef __cplusplus
}
#endif
#endif
