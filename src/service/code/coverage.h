/*
 * coverage.h - what a record says in a person's words: which functions and which lines of source ran.
 *
 * A model that all reports (report.h) are written from: modules, the source files that their debug
 * information names, functions with their inlined instances, lines. Debug information is found by elfutils:
 * in the file, in a separate file by build id or .gnu_debuglink, DWARF 4 and 5, any number of units, dwz's
 * too. A module without any has functions by its symbols, or by .eh_frame alone, and no lines.
 *
 * What counts: an *executable line* is one that the line table gives for an instruction start that the plan
 * knows. It ran if an instruction did that the line table gives it (is_stmt or not: a statement's
 * instructions may be anywhere). Of units that gcc has compiled without optimisation, what sets up a frame
 * counts for the line of the function's declaration, what takes it down is no line, and labels with names are
 * lines: then lines are gcov's, but for those that have no instruction (coverage_lines.c). docs/coverage.md
 * says it all.
 */
#ifndef LH_SERVICE_CODE_COVERAGE_H
#define LH_SERVICE_CODE_COVERAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "service/code/record.h"

struct lh_cover_line {
	uint32_t number;
	bool hit;
};

struct lh_cover_function {
	const char *name; /* demangled where it is C++ or Rust */
	uint32_t module;  /* index */
	uint32_t file;    /* index, or UINT32_MAX: not known */
	uint32_t line;    /* where it begins; 0: not known */
	uint32_t last;    /* its last executable line */
	bool hit;
	bool inlined;                /* only inlined instances of it exist */
	uint64_t address, size;      /* as the file has it; 0, 0 for inlined */
	uint32_t blocks, blocks_hit; /* of its own code */
	uint32_t code_lines; /* lines (64 bytes) of code that it touches; a heat strip has one cell each */
	const uint8_t *heat; /* for each: 0 none of its starts ran, else 1 to 255: the share that did */
};

struct lh_cover_file {
	const char *path;           /* as the debug information has it, made absolute */
	const char *found;          /* where it is here, or NULL: it is not */
	bool stale;                 /* it is newer than the program: lines may be others now */
	uint32_t lines, hit;        /* executable ones */
	struct lh_cover_line *line; /* ascending */
	uint32_t functions, functions_hit;
};

struct lh_cover_module {
	const char *path, *name;
	const uint8_t *id;
	uint32_t id_size;
	const struct lh_record_module *head; /* in the record */
	uint64_t entry;                      /* as the file has it; 0: not known */
	bool is_program, has_lines;
	const char *why_not; /* why it has no lines, or not all of them, in a person's words; or NULL */
	uint32_t functions, functions_hit, blocks, blocks_hit;
	uint64_t mapped;                   /* load bias */
	uint64_t code, undecoded, outside; /* bytes: all, and of them not homed */
};

/* A block that ran; what drcov's table lists. In no order. */
struct lh_cover_block {
	uint32_t module, text;
	uint64_t address; /* as the file has it */
	uint32_t size;    /* bytes, the last instruction included */
};

struct lh_coverage {
	uint32_t modules, files, functions;
	uint64_t blocks;
	struct lh_cover_module *module;
	struct lh_cover_file *file;         /* by path */
	struct lh_cover_function *function; /* by file and line */
	struct lh_cover_block *block;
	struct lh_record *record; /* not owned */
};

struct lh_coverage_options {
	bool libraries; /* modules that are no program's own, too */
	const char *const
		*filter; /* NULL, or patterns as of fnmatch(3), ending with NULL: a file, function or
	                    module is kept if one matches; "!pattern" leaves out what it matches */
	const char *const *source; /* NULL, or "FROM=TO": folders that debug information names and that are
	                              elsewhere here; ending with NULL */
};

/*
 * Makes the model. Plans of modules come from the cache or are made; a module whose file is gone or differs
 * (by its id) has no lines and says so. -ENOMEM, or what opening has failed with.
 */
int lh__coverage_make(struct lh_record *record, const struct lh_coverage_options *options,
                      struct lh_coverage **out, struct lh_error *error) LH_MUST_CHECK;
void lh__coverage_free(struct lh_coverage *coverage);

#endif
