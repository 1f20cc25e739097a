/*
 * plan_inside.h - what the files that make plans share. plan_make.c decodes, plan_quiet.c finds what need not
 * be armed, plan_cache.c keeps plans as files.
 */
#ifndef LH_SERVICE_CODE_PLAN_INSIDE_H
#define LH_SERVICE_CODE_PLAN_INSIDE_H

#include <Zydis/Decoder.h>
#include <stdbool.h>
#include <stddef.h>

#include "port/code/plan.h"

/* ---- bitmaps: one bit for each byte of a text ---- */

static inline bool lh__bit(const uint64_t *bitmap, uint64_t at)
{
	return bitmap[at / 64] >> at % 64 & 1;
}

static inline void lh__bit_set(uint64_t *bitmap, uint64_t at)
{
	bitmap[at / 64] |= UINT64_C(1) << at % 64;
}

static inline void lh__bit_clear(uint64_t *bitmap, uint64_t at)
{
	bitmap[at / 64] &= ~(UINT64_C(1) << at % 64);
}

/* The first bit that is set in [from, end); end: none is. */
uint64_t lh__bit_next(const uint64_t *bitmap, uint64_t from, uint64_t end);

/* ---- a plan that is being made ---- */

struct lh_making_text {
	uint64_t address, size;
	uint64_t *starts, *armed, *ends, *heads, *quiet; /* of the plan */
	uint8_t *original, *image;                       /* likewise */
	uint64_t *targets; /* what direct jumps and calls lead to, be it an instruction or not */
	uint64_t *again;   /* of these, what more than one leads to */
	uint64_t *called;  /* what direct calls lead to */
	uint64_t *hidden;  /* where instructions begin that lie inside others */
};

struct lh_making_function {
	uint32_t text, at, size;
	uint32_t decoded; /* bytes from its start; less than size: what follows is no code */
	bool has_pads, is_signal_frame;
	bool has_indirect; /* an indirect jump that may lead back into it */
	bool is_spring;    /* hands control to an address that it is given */
};

struct lh_making {
	const struct lh_sys *sys;
	const uint8_t *file;
	size_t size;
	struct lh_plan_head *head;
	struct lh_plan_site *sites;
	struct lh_making_text text[LH_PLAN_TEXTS];
	struct lh_making_function *function; /* ascending */
	size_t functions, room;
	ZydisDecoder decoder;
};

enum lh_plan_flags {
	LH_PLAN_ALL = 0,  /* every start that can be armed is armed */
	LH_PLAN_QUIET = 1 /* but those of blocks whose successors tell that they ran */
};

/*
 * Where the parts of a plan will lie: fills in the texts of *head, the place of the sites, and the largest size
 * that the plan can come to. -ENOEXEC: not ELF for x86-64, or damaged; -ENODATA: it has no code.
 */
int lh__plan_lay_out(const uint8_t *file, size_t size, struct lh_plan_head *head,
                     struct lh_error *error) LH_MUST_CHECK;
/*
 * Makes the plan in memory that is all zero behind its head, which has been laid out and says what file it is of.
 * On success head->size is what it has come to, and it is sealed.
 */
int lh__plan_fill(const struct lh_sys *sys, const uint8_t *file, size_t size, struct lh_plan_head *head,
                  enum lh_plan_flags flags, struct lh_error *error) LH_MUST_CHECK;

/* A plan that is not looked for in the cache, nor put there. */
struct lh_plan;
int lh__plan_make(const struct lh_sys *sys, int file, const char *path, enum lh_plan_flags flags,
                  struct lh_plan *out, struct lh_error *error) LH_MUST_CHECK;

/* plan_quiet.c: takes arms from blocks that are implied, and marks them. */
int lh__plan_find_quiet(struct lh_making *making) LH_MUST_CHECK;

/* ---- direct jumps, read by hand ---- */

enum lh_jump_kind { LH_JUMP_NONE, LH_JUMP_ALWAYS, LH_JUMP_MAYBE, LH_JUMP_CALL };

struct lh_jump {
	enum lh_jump_kind kind;
	unsigned size;   /* bytes of the instruction */
	uint64_t target; /* an offset in the text; may lie outside of it */
};

/* What the instruction at this offset is, of which at most size - at bytes may be read. */
struct lh_jump lh__jump_at(const uint8_t *code, uint64_t size, uint64_t at);

#endif
