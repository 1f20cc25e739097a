/*
 * patch.h - changes a running program: a fetch of a function's first line is answered by one that jumps
 * elsewhere.
 *
 * What is needed is in the process's memory alone, and nothing of ours has to live there or here in between:
 * each patch is one mapping of a memory file whose name begins with "linehome-patch:", near the code that it
 * changes. Its first page tells what it is (struct lh_patch_head): what stood where, what stands there now.
 * Thus anyone may list and revert, and what was overwritten is written back exactly.
 *
 * Steps of an apply: bind all symbols, move the instructions that a jump will cover (code/move.h), lay all of
 * it out here; stop all threads; see that no thread stands inside the bytes that change, nor returns to one
 * (registers, and each word of each stack: what could be such an address counts as one); write; let go. Where
 * a thread is in the way all go on, and it is tried again until the wait is over. Nothing was changed until
 * the last step, and that cannot fail in part: what was written is put back.
 */
#ifndef LH_SERVICE_CODE_PATCH_H
#define LH_SERVICE_CODE_PATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "sys/sys.h"

struct lh_patch_options {
	unsigned wait_ms;  /* how long a safe point is waited for */
	const char *audit; /* NULL, or a file to which a line is appended for each apply and revert */
};

struct lh_patch_outcome {
	char name[64];
	unsigned places;     /* that were changed */
	unsigned threads;    /* that were stopped */
	unsigned attempts;   /* until all were at a safe point */
	uint64_t stopped_ns; /* the longest time that threads were stopped, of all attempts */
};

/* Applies a shared object made with linehome/patch.h. Errors name the symbol and what is wrong with it. */
int lh__patch_apply(pid_t process, const char *file, const struct lh_patch_options *options,
                    struct lh_patch_outcome *outcome, struct lh_error *error) LH_MUST_CHECK;
/* Replaces bytes: -EILSEQ where those that stand there are not the expected ones. size <= 64. */
int lh__patch_bytes(pid_t process, const char *name, const char *symbol, uint64_t offset,
                    const uint8_t *expected, const uint8_t *bytes, size_t size,
                    const struct lh_patch_options *options, struct lh_patch_outcome *outcome,
                    struct lh_error *error) LH_MUST_CHECK;
/* Takes a patch back; -EBUSY: a later one changed the same bytes (it is named). */
int lh__patch_revert(pid_t process, const char *name, const struct lh_patch_options *options,
                     struct lh_patch_outcome *outcome, struct lh_error *error) LH_MUST_CHECK;

struct lh_patch_place {
	char symbol[128];
	uint64_t address, size;
	uint8_t before[64], after[64];
};
struct lh_patch_listed {
	char name[64], file[256];
	uint64_t applied; /* ns since 1970 */
	unsigned order;   /* 1 for the first that was applied */
	unsigned places;
	const struct lh_patch_place *place;
	bool intact; /* what stands there is what was written */
};
/* Calls found for each patch, in the order in which they were applied. */
int lh__patch_list(pid_t process, void (*found)(void *context, const struct lh_patch_listed *patch),
                   void *context, struct lh_error *error) LH_MUST_CHECK;

#endif
