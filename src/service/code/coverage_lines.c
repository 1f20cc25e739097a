/*
 * coverage_lines.c - which lines of source have instructions, and which ran: a unit's rows in one sweep.
 *
 * A row of the line table says of the instructions from its address to the next row's that they are of a
 * line. Of several rows with one address the last counts, the others are of no instruction. coverage.h says
 * which lines that makes executable.
 *
 * Without optimisation three kinds of rows say something else than the statements do, and gcov, which counts
 * statements, differs. For units that gcc has compiled so, they are read like this (rows of one line and
 * column that follow each other being one):
 *
 *   - The first row of a function is what sets up its frame, and names the line of the opening brace. It
 *     counts for the line on which the function is declared.
 *   - The last row before a function's `ret` takes the frame down again, and names the line of the closing
 *     brace. It is no statement, and does not count; unless it begins with a `nop`, which is what gcc writes
 *     for a statement that needs no instruction: the end of a function that returns nothing was reached.
 *   - A label with a name is a line of its own, and ran if the instruction after it did. (The labels of a
 *     switch are not in the debug information: a line with nothing but `case 1:` is not executable here, and
 *     is with gcov. So is a statement without any instruction, as va_end, or a return that is merged with
 *     another.)
 *
 *	1  static void f(int a)     push %rbp ...       row 2 at the entry: counts for 1
 *	2  {
 *	3          if (a)           cmpl ...            row 3
 *	4                  g();     call g              row 4
 *	5  }                        nop; leave; ret     row 5: counts
 *	                            leave; ret          as it is after `return 1;`: does not count
 */
#include <stdlib.h>
#include <string.h>

#include "service/code/coverage_model.h"

#define NOP 0x90u
#define RET 0xc3u

struct sweep {
	struct lh_cover_model *model;
	bool optimised;
	uint32_t next;  /* instance that has not begun yet */
	uint32_t *open; /* those that the address lies in, the innermost last */
	uint32_t opened;
	Dwarf_Files *files; /* of the unit */
	size_t file_count;
	/* Of the row before, and what the filter said of it. */
	uint32_t in_unit, file, function;
	bool wanted;
};

/* By address; of those that begin together, the one that holds the others first. */
static int by_address(const void *a, const void *b)
{
	const struct lh_cover_instance *x = a, *y = b;

	if (x->low != y->low)
		return x->low < y->low ? -1 : 1;
	if (x->high != y->high)
		return x->high > y->high ? -1 : 1;
	return x->depth < y->depth ? -1 : x->depth > y->depth;
}

/* The innermost instance at an address, which grows from call to call. */
static const struct lh_cover_instance *instance_at(struct sweep *sweep, uint64_t address)
{
	const struct lh_cover_model *model = sweep->model;

	for (; sweep->next < model->instances && model->instance[sweep->next].low <= address; sweep->next++) {
		while (sweep->opened && model->instance[sweep->open[sweep->opened - 1]].high <=
		                                model->instance[sweep->next].low)
			sweep->opened--;
		sweep->open[sweep->opened++] = sweep->next;
	}
	while (sweep->opened && model->instance[sweep->open[sweep->opened - 1]].high <= address)
		sweep->opened--;
	return sweep->opened ? &model->instance[sweep->open[sweep->opened - 1]] : NULL;
}

/* Whether a row is what a function returns with, and nothing else. */
static bool is_way_out(const struct lh_cover_model *model, const struct lh_cover_row *row,
                       const struct lh_cover_instance *instance)
{
	uint64_t at, end = instance->high - 1;
	const struct lh_cover_text *text = lh__cover_at(&model->code, end, &at);

	return text && row->high >= instance->high && text->original[at] == RET &&
	       lh__cover_starts(&model->code, end, end + 1) && row->low < end &&
	       text->original[at - (end - row->low)] != NOP;
}

/* The line that a row counts for; 0: none. */
static uint32_t statement_line(const struct sweep *sweep, const struct lh_cover_row *row,
                               const struct lh_cover_instance *instance)
{
	const struct lh_cover_function *function;

	if (sweep->optimised || !instance || instance->inlined)
		return row->line;
	function = &sweep->model->coverage.function[instance->function];
	if (row->low == instance->low && function->file == sweep->file && function->line)
		return function->line;
	return is_way_out(sweep->model, row, instance) ? 0 : row->line;
}

static uint32_t file_of(const struct sweep *sweep, uint32_t in_unit)
{
	return in_unit < sweep->file_count
	               ? lh__cover_file(sweep->model, dwarf_filesrc(sweep->files, in_unit, NULL, NULL))
	               : LH_COVER_NONE;
}

/* Whether the filter keeps the lines of a file in a function. Rows of one come together, so ask once. */
static bool is_wanted(struct sweep *sweep, uint32_t in_unit, uint32_t function)
{
	const struct lh_coverage *coverage = &sweep->model->coverage;

	if (in_unit == sweep->in_unit && function == sweep->function)
		return sweep->wanted;
	if (in_unit != sweep->in_unit)
		sweep->file = file_of(sweep, in_unit);
	sweep->in_unit = in_unit;
	sweep->function = function;
	sweep->wanted = sweep->file != LH_COVER_NONE &&
	                lh__cover_wanted(sweep->model,
	                                 function == LH_COVER_NONE ? NULL : coverage->function[function].name,
	                                 coverage->file[sweep->file].path);
	return sweep->wanted;
}

static void take_row(struct sweep *sweep, const struct lh_cover_row *row)
{
	struct lh_cover_model *model = sweep->model;
	const struct lh_cover_instance *instance;
	uint32_t line, index;

	if (!lh__cover_starts(&model->code, row->low, row->high))
		return;
	model->rows++;
	instance = instance_at(sweep, row->low);
	index = instance ? instance->function : LH_COVER_NONE;
	if (!is_wanted(sweep, row->file, index) || (instance && index == LH_COVER_NONE))
		return;
	line = statement_line(sweep, row, instance);
	if (!line)
		return;
	lh__cover_line(model, sweep->file, line, lh__cover_ran(&model->code, row->low, row->high));
	if (instance && model->coverage.function[index].file == sweep->file &&
	    line > model->coverage.function[index].last)
		model->coverage.function[index].last = line;
}

static void take_labels(struct lh_cover_model *model)
{
	for (uint32_t i = 0; i < model->labels; i++) {
		const struct lh_cover_label *label = &model->label[i];

		if (lh__cover_starts(&model->code, label->address, label->address + 1) &&
		    lh__cover_wanted(model, model->coverage.function[label->function].name,
		                     model->coverage.file[label->file].path))
			lh__cover_line(model, label->file, label->line,
			               lh__cover_ran(&model->code, label->address, label->address + 1));
	}
}

/*
 * Without optimisation, rows of one line and column that follow each other are one: a frame may be set up or
 * taken down in several, where the compiler guards it.
 */
static bool joins(struct sweep *sweep, const struct lh_cover_row *row, const struct lh_cover_row *next)
{
	const struct lh_cover_model *model = sweep->model;

	if (sweep->optimised || row->line != next->line || row->column != next->column ||
	    row->file != next->file || row->high != next->low)
		return false;
	instance_at(sweep, row->low);
	return sweep->next == model->instances || model->instance[sweep->next].low > next->low;
}

bool lh__cover_rows(struct lh_cover_model *model, Dwarf_Die *unit, bool optimised)
{
	struct sweep sweep = {
		.model = model, .optimised = optimised, .in_unit = LH_COVER_NONE, .file = LH_COVER_NONE
	};
	bool whole = lh__cover_program(model, unit);

	if (!model->row_count || dwarf_getsrcfiles(unit, &sweep.files, &sweep.file_count))
		return whole && !model->row_count;
	sweep.open = malloc((model->instances + 1) * sizeof *sweep.open);
	if (!sweep.open) {
		model->failed = true;
		return false;
	}
	qsort(model->instance, model->instances, sizeof *model->instance, by_address);
	for (uint32_t i = 0; i < model->row_count; i++) {
		struct lh_cover_row row = model->row[i];

		while (i + 1 < model->row_count && joins(&sweep, &row, &model->row[i + 1]))
			row.high = model->row[++i].high;
		take_row(&sweep, &row);
	}
	take_labels(model);
	free(sweep.open);
	return whole;
}
