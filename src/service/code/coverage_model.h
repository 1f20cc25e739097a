/*
 * coverage_model.h - what the files coverage*.c share: the model while it is being made.
 *
 * A model grows by module. What a module's code is and what of it ran is a struct lh_cover_code: for each
 * text the bitmaps of the plan beside one of what ran. Debug information is walked unit by unit: its
 * functions first (coverage_units.c), which leaves the *instances*, ranges of addresses that are a function
 * or an inlined copy of one; then its rows (coverage_lines.c), each belonging to the innermost instance.
 *
 * Memory is an arena that lives as long as the model, and growing arrays. Where there is none left, `failed`
 * is set and stays, and everything goes on doing nothing: one place asks for it, at the end.
 */
#ifndef LH_SERVICE_CODE_COVERAGE_MODEL_H
#define LH_SERVICE_CODE_COVERAGE_MODEL_H

#include <elfutils/libdw.h>
#include <gelf.h>

#include "service/code/coverage.h"
#include "service/code/plan_make.h"

#define LH_COVER_NONE UINT32_MAX
/* Lines behind this one are not believed: debug information is not trusted. */
#define LH_COVER_LINES (1u << 23)

struct lh_cover_text {
	uint64_t address, size; /* as the file has it */
	const uint64_t *starts, *heads;
	const uint8_t *original;
	uint64_t *ran; /* starts that ran */
};

struct lh_cover_code {
	struct lh_plan plan;
	bool planned;
	unsigned texts;
	struct lh_cover_text text[LH_PLAN_TEXTS];
};

/* Executable lines of a file while they are collected: two bits each. */
struct lh_cover_lines {
	uint64_t *known, *ran;
	uint32_t words;
	uint64_t time; /* of the module that named it: newer sources are stale */
};

/* From a string, or from a pointer, to a value. */
struct lh_cover_table {
	struct lh_cover_slot {
		const void *key;
		uint64_t hash;
		uint64_t value; /* an index, or a pointer */
	} * slot;
	uint32_t size, used; /* size: a power of two, or 0 */
};

/* [low, high) is this function's, by itself or inlined. */
struct lh_cover_instance {
	uint64_t low, high;
	uint32_t function; /* LH_COVER_NONE: one that is not wanted */
	uint32_t depth;    /* in the tree of the unit: an inner one is deeper */
	bool inlined;
};

/* A label: at -O0 a line of its own (coverage_lines.c). */
struct lh_cover_label {
	uint64_t address;
	uint32_t file, line;
	uint32_t function;
};

/* A row of the line table: of the instructions in [low, high). */
struct lh_cover_row {
	uint64_t low, high;
	uint32_t file; /* in the unit's table */
	uint32_t line, column;
};

struct lh_cover_arena;

struct lh_cover_model {
	struct lh_coverage coverage; /* first: what is handed out */
	const struct lh_coverage_options *options;
	bool failed;
	struct lh_cover_arena *arena;
	size_t arena_used;

	struct lh_cover_lines *lines; /* beside coverage.file */
	uint32_t room_modules, room_files, room_lines, room_functions, room_blocks;
	struct lh_cover_table paths; /* of files, by content */
	struct lh_cover_table origins, names, scopes;
	uint32_t *same,
		room_same; /* beside coverage.function: the one before with the same hash of its name */

	/* Of the module that is being read. */
	uint32_t module, first_function;
	uint64_t module_time;
	struct lh_cover_code code;
	uint64_t rows; /* that are of instructions */
	const uint8_t *line_section;
	uint64_t line_size;

	/* Of the unit that is being read. */
	const char *folder; /* in which it was compiled; or NULL */
	struct lh_cover_instance *instance;
	uint32_t instances, room_instances;
	struct lh_cover_label *label;
	uint32_t labels, room_labels;
	struct lh_cover_row *row;
	uint32_t row_count, room_rows;
};

/* ---- coverage_memory.c ---- */

void *lh__cover_alloc(struct lh_cover_model *model, size_t size); /* zeroed, or NULL */
const char *lh__cover_text(struct lh_cover_model *model, const char *format, ...)
	__attribute__((format(printf, 2, 3))); /* never NULL */
/* Room for one more of `size` bytes at *array, which holds n; false: there is none. */
bool lh__cover_grow(struct lh_cover_model *model, void *array, uint64_t n, uint32_t *room, size_t size);
void lh__cover_release(struct lh_cover_model *model);

uint64_t lh__cover_hash(const void *bytes, size_t size, uint64_t seed);
/* The value of a key, which is a string if is_text, else the pointer itself; NULL: it is not there. */
const uint64_t *lh__cover_lookup(const struct lh_cover_table *table, const void *key, bool is_text);
void lh__cover_enter(struct lh_cover_model *model, struct lh_cover_table *table, const void *key,
                     bool is_text, uint64_t value);
void lh__cover_empty(struct lh_cover_table *table);

/* ---- coverage_code.c: what ran of a module ---- */

/* Fills in model->code and the module's counts, and appends the blocks that ran. */
int lh__cover_code_open(struct lh_cover_model *model, int file, const struct lh_record_view *view,
                        enum lh_granularity granularity);
void lh__cover_code_close(struct lh_cover_model *model);
/* The text that an address lies in, and its place there; NULL. */
const struct lh_cover_text *lh__cover_at(const struct lh_cover_code *code, uint64_t address, uint64_t *at);
/* Whether an instruction starts, or ran, in [low, high). */
bool lh__cover_starts(const struct lh_cover_code *code, uint64_t low, uint64_t high);
bool lh__cover_ran(const struct lh_cover_code *code, uint64_t low, uint64_t high);
/* Adds [low, high) to a function's blocks; heat too where it is the one with the function's address. */
void lh__cover_function_code(struct lh_cover_model *model, struct lh_cover_function *function, uint64_t low,
                             uint64_t high);

/* ---- coverage_debug.c: where the debug information is ---- */

struct lh_cover_debug {
	Elf *elf, *separate; /* the file itself; where its debug information is, or NULL */
	Dwarf *dwarf;        /* NULL: none */
	int descriptor;      /* of separate, or -1 */
	const char *why_not; /* there is none; a sentence's part */
};
void lh__cover_debug_open(struct lh_cover_model *model, int file, const char *path,
                          struct lh_cover_debug *debug);
void lh__cover_debug_close(struct lh_cover_debug *debug);

/* ---- coverage_units.c, coverage_names.c, coverage_lines.c,
 *      coverage_program.c, coverage_functions.c ---- */

/* false: not all units could be read. */
bool lh__cover_units(struct lh_cover_model *model, Dwarf *dwarf);
/* Remembers what the functions of a unit are in: namespaces, classes. For units that are not C. */
void lh__cover_scopes(struct lh_cover_model *model, Dwarf_Die *unit);
/* The name of a function as a person writes it; die: the one with the name. */
const char *lh__cover_name(struct lh_cover_model *model, Dwarf_Die *die, const char *linkage);
/* A symbol's name without the mangling of C++ or Rust, as far as it is known here; else itself. */
const char *lh__cover_demangle(struct lh_cover_model *model, const char *symbol);
/* Both false: what was read is not all, it is damaged. */
bool lh__cover_rows(struct lh_cover_model *model, Dwarf_Die *unit, bool optimised);
bool lh__cover_program(struct lh_cover_model *model, Dwarf_Die *unit); /* to model->row, by address */
/* Functions by symbols, or by .eh_frame. */
void lh__cover_symbols(struct lh_cover_model *model, const struct lh_cover_debug *debug, int file);
/* The function's index; made if it is not there. LH_COVER_NONE: it is not wanted. */
uint32_t lh__cover_function(struct lh_cover_model *model, const char *name, uint32_t file, uint32_t line);
/* [low, high) is its code; or that of an inlined copy, which says no more than whether it ran. */
void lh__cover_add_code(struct lh_cover_model *model, uint32_t index, uint64_t low, uint64_t high);
void lh__cover_add_copy(struct lh_cover_model *model, uint32_t index, uint64_t low, uint64_t high);

/* ---- coverage_sources.c ---- */

/*
 * The file of a path, made if it is not there; LH_COVER_NONE: no path. One that is not absolute is in the
 * folder of the unit that is being read.
 */
uint32_t lh__cover_file(struct lh_cover_model *model, const char *path);
void lh__cover_line(struct lh_cover_model *model, uint32_t file, uint32_t line, bool hit);
/* Turns the bits into lines, finds the files, puts all in order. */
void lh__cover_finish(struct lh_cover_model *model);

/* ---- coverage_filter.c ---- */

/* function, file: NULL where there is none. */
bool lh__cover_wanted(const struct lh_cover_model *model, const char *function, const char *file);

#endif
