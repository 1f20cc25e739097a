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
 * and without overlaps (what overlaps the one before is left out: where would its instructions begin?), until
 * it returns non-zero. Returns the number of calls, what found returned if that is not zero, or -ENOEXEC: not
 * an ELF file for x86-64, or its headers lead out of it; -ENODATA: it has no .eh_frame (also where section
 * headers are gone: PT_GNU_EH_FRAME is enough); -ENOMEM.
 */
long lh__functions(const struct lh_sys *sys, const uint8_t *file, size_t size,
                   int (*found)(void *context, const struct lh_function *function),
                   void *context) LH_MUST_CHECK;

/* ---- one function at a time, without memory, for who runs inside a program ---- */

/* An ELF file that lies in memory, and where things are in it: offsets, and addresses where they say so. */
struct lh_frames {
	const uint8_t *file;
	size_t size;
	uint64_t headers; /* of its segments */
	unsigned header_count;
	uint64_t at, end, address;               /* of .eh_frame; at == end: there is none */
	bool is_bounded;                         /* a section header says where it ends */
	uint64_t table, table_count, table_base; /* of .eh_frame_hdr: pairs of start and description */
};

/* -ENOEXEC as above. That neither frames nor a table are found is no error. */
int lh__frames_open(const uint8_t *file, size_t size, struct lh_frames *frames) LH_MUST_CHECK;
/*
 * The function that begins last before or at what lies at this offset in the file, by the table of
 * .eh_frame_hdr. Whether it reaches that far is for the caller to see. -ENODATA: there is no table; -ENOENT:
 * no such function.
 */
int lh__function_before(const struct lh_frames *frames, uint64_t offset,
                        struct lh_function *function) LH_MUST_CHECK;

#endif
