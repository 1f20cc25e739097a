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
	const char *name;  /* apply: instead of the name that the patch gives itself; or NULL */
	/* apply: "SYMBOL+OFFSET", where the patch's one LH_PATCH_AT goes instead; or NULL */
	const char *at;
	bool keep; /* revert: leave the patch's memory mapped, for who may still point to it */
	/* For tests: asked before each step that reaches the process; what is not 0 is how it fails. */
	int (*fault)(void *context, const char *step);
	void *fault_context;
};

struct lh_patch_outcome {
	char name[64];
	unsigned places;     /* that were changed */
	unsigned threads;    /* that were stopped */
	unsigned attempts;   /* until all were at a safe point */
	uint64_t stopped_ns; /* the longest time that threads were stopped, of all attempts */
	bool kept;           /* revert: all bytes are back, the patch's memory is still mapped */
	char kept_why[160];  /* who names it; "" where it was asked for */
};

/* Applies a shared object made with linehome/patch.h. Errors name the symbol and what is wrong with it. */
int lh__patch_apply(pid_t process, const char *file, const struct lh_patch_options *options,
                    struct lh_patch_outcome *outcome, struct lh_error *error) LH_MUST_CHECK;
/* Replaces bytes: -EILSEQ where those that stand there are not the expected ones. size <= 64. */
int lh__patch_bytes(pid_t process, const char *name, const char *symbol, uint64_t offset,
                    const uint8_t *expected, const uint8_t *bytes, size_t size,
                    const struct lh_patch_options *options, struct lh_patch_outcome *outcome,
                    struct lh_error *error) LH_MUST_CHECK;
/*
 * Takes a patch back. All its bytes are put back at one safe point, or (on error) none. Its memory goes in
 * the same moment, or later within wait_ms, when no thread stands in it and no word of a stack points to it;
 * else it stays (outcome->kept), is listed as reverted, and another revert of that name tries again.
 * -EBUSY: a later patch changed the same bytes (it is named); -ENOENT: there is none of that name; -EILSEQ:
 * what stands there is not what the patch wrote.
 */
int lh__patch_revert(pid_t process, const char *name, const struct lh_patch_options *options,
                     struct lh_patch_outcome *outcome, struct lh_error *error) LH_MUST_CHECK;

struct lh_patch_place {
	char symbol[128];
	uint64_t address, size;
	uint8_t before[64], after[64];
};
enum lh_patch_state {
	LH_PATCH_APPLIED = 1,  /* where its maker was killed meanwhile: in part, and not intact */
	LH_PATCH_REVERTED = 2, /* only its memory is left */
	LH_PATCH_DAMAGED = 3,  /* its head is not what was written; only its name is known */
};
struct lh_patch_listed {
	char name[64], file[256];
	enum lh_patch_state state;
	uint64_t memory, memory_size; /* its mapping */
	uint64_t applied;             /* ns since 1970 */
	unsigned order;               /* 1 for the first that was applied */
	unsigned places;
	const struct lh_patch_place *place;
	bool intact; /* what stands in all its places is what was written there, or by a later patch */
};
/* Calls found for each patch, in the order in which they were applied. */
int lh__patch_list(pid_t process, void (*found)(void *context, const struct lh_patch_listed *patch),
                   void *context, struct lh_error *error) LH_MUST_CHECK;

#endif
