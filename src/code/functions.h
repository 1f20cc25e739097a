/*
 * functions.h - where functions start in an ELF file, by its .eh_frame.
 *
 * Code and data stand side by side in .text: jump tables, constants. A linear sweep takes data for
 * instructions and, worse, gets out of step. Whoever wants to know where instructions start decodes inside
 * the ranges that the frame descriptions give, and begins anew at each.
 *
 * Reads a file that lies in memory, trusts nothing in it, and never leaves it.
 */
#ifndef LH_CODE_FUNCTIONS_H
#define LH_CODE_FUNCTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "sys/sys.h"

struct lh_function {
	uint64_t address, size; /* as the file has them, before relocation */
	uint64_t offset;        /* in the file */
	bool has_pads;          /* a table of landing pads: an exception may enter it in the middle */
	bool is_signal_frame;   /* a signal's return trampoline */
};

/*
 * Calls found for each function that lies as a whole in an executable segment, in ascending order of address
 * and without overlaps (what overlaps the one before begins behind it, or is left out), until it returns
 * non-zero. Returns the number of calls, what found returned if that is not zero, or -ENOEXEC: not an ELF
 * file for x86-64, or its headers lead out of it; -ENODATA: it has no .eh_frame (also where section headers
 * are gone: PT_GNU_EH_FRAME is enough).
 */
long lh__functions(const struct lh_sys *sys, const uint8_t *file, size_t size,
                   int (*found)(void *context, const struct lh_function *function),
                   void *context) LH_MUST_CHECK;

#endif
