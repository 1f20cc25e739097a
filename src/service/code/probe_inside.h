/*
 * probe_inside.h - the parts of which probes consist.
 *
 *     probe_code.c      a function's instructions: where it leaves, and where anybody jumps to
 *     probe_windows.c   the places where a jump can be put: at the start, and at each exit
 *     probe_text.c      the trampolines that these jumps lead to
 *     probe.c           puts all that into a process, and takes it away
 *
 * A function is one or more parts (the second is what gcc moves away as "NAME.cold"), each an array of steps,
 * its instructions. At a site some steps are moved to a trampoline; where an exit is among them, what it is
 * for stands before it there. An edit is what changes in the function's bytes: a jump of five bytes to the
 * site's trampoline, or one of two bytes to an island nearby, where one of five stands.
 */
#ifndef LH_SERVICE_CODE_PROBE_INSIDE_H
#define LH_SERVICE_CODE_PROBE_INSIDE_H

#include "code/move.h"
#include "service/code/probe.h"
#include "service/code/symbols.h"

#define LH_PROBE_PARTS 4u
#define LH_PROBE_TAIL 16u         /* bytes behind a part that may be padding */
#define LH_PROBE_LARGEST 1048576u /* bytes of a function */

enum lh_probe_kind {
	LH_STEP_PLAIN, /* goes on to the next, and leaves no address on the stack */
	LH_STEP_PAD,   /* plain, and does nothing */
	LH_STEP_FRAME, /* plain, and moves the stack pointer down: nobody jumps to either end of it */
	LH_STEP_CALL,
	LH_STEP_BRANCH,       /* may go elsewhere in the function */
	LH_STEP_JUMP,         /* always does */
	LH_STEP_SWITCH,       /* likewise, by a table or a register */
	LH_STEP_LEAVE_BRANCH, /* may leave the function */
	LH_STEP_LEAVE_JUMP,   /* does: a call in place of a return */
	LH_STEP_LEAVE_RET,
};

struct lh_probe_step {
	uint32_t at;
	uint8_t length, kind;
};

struct lh_probe_part {
	uint64_t address;
	uint32_t size, tail; /* tail: bytes behind it that are padding and nobody's */
	uint8_t *code;       /* LH_PROBE_TAIL more than size */
	uint8_t *label;      /* for each byte of code: somebody jumps there */
	uint8_t *used;       /* likewise: it belongs to a site or an island */
	struct lh_probe_step *step;
	uint32_t steps;
};

struct lh_probe_code {
	struct lh_probe_part part[LH_PROBE_PARTS];
	uint32_t parts;
	bool unknown_jumps; /* a jump whose targets are not known: labels may be missing */
};

/* What is needed to look at a process that runs. */
struct lh_probe_process {
	pid_t id;
	int memory; /* /proc/ID/mem */
	struct lh_symbols *symbols;
};

/* Reads and understands a function; free it whatever the result. -EILSEQ, -ENODATA, -E2BIG, ... */
int lh__probe_code_read(const struct lh_probe_process *process, const struct lh_symbol *symbol,
                        struct lh_probe_code *code, struct lh_error *error) LH_MUST_CHECK;
void lh__probe_code_free(struct lh_probe_code *code);

struct lh_probe_edit {
	uint64_t address;
	uint8_t size;   /* LH_MOVE_JUMP, or 2: a short jump */
	bool is_island; /* who is at its start has come by the short jump, or belongs to what was there */
	uint8_t before[LH_MOVE_JUMP], after[LH_MOVE_JUMP];
};

struct lh_probe_site {
	uint32_t part, first, last; /* steps that move */
	uint32_t edit;              /* the one that jumps to the trampoline */
};

struct lh_probe_sites {
	struct lh_probe_site *site; /* the entry is the first */
	struct lh_probe_edit *edit;
	uint32_t count, edits, room, edit_room;
	bool timed;
};

void lh__probe_sites_free(struct lh_probe_sites *sites);
/* Only the first, the entry, stays. */
void lh__probe_sites_untimed(struct lh_probe_sites *sites);
/*
 * Chooses the sites. An error: not even the entry can have one. timed is false, with a text in why_not, where
 * an exit cannot: then there is the entry alone.
 */
int lh__probe_sites_choose(struct lh_probe_code *code, struct lh_probe_sites *sites, char why_not[128],
                           struct lh_error *error) LH_MUST_CHECK;

/* Where things are in the process. */
struct lh_probe_layout {
	uint64_t text, counts, slots;
};

#define LH_PROBE_SHARDS 8u /* of counts, so that threads seldom share a line */
#define LH_PROBE_SLOT_BITS 10u
#define LH_PROBE_SLOT_TRIES 4u
struct lh_probe_cell {
	uint64_t calls, ticks, bucket[LH_PROBE_BUCKETS], pad[6];
};
struct lh_probe_slot {
	uint64_t stack; /* 0: free */
	uint64_t began;
};
_Static_assert(sizeof(struct lh_probe_cell) == 384, "six lines, which the trampolines know");
#define LH_PROBE_SLOTS ((1u << LH_PROBE_SLOT_BITS) + LH_PROBE_SLOT_TRIES)

/* Bytes that the trampolines of these sites need at most. */
size_t lh__probe_text_bound(const struct lh_probe_sites *sites);
/* Writes them for that layout, and what the sites' jumps are. -ERANGE; -EILSEQ: something cannot be moved. */
int lh__probe_text_write(const struct lh_probe_code *code, struct lh_probe_sites *sites,
                         const struct lh_probe_layout *layout, uint8_t *out, size_t room) LH_MUST_CHECK;

#endif
