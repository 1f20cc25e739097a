/*
 * windows.c - collects windows of live code, and makes the model of them.
 *
 * What is kept of a window is one entry for each line that was live, sorted once the window has ended: by
 * module, then address. Functions are sorted alike when the model is made, so both are walked once a window.
 */
#include "service/code/windows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/windows_internal.h"

#define LINE 64u
#define PAGE 4096u
#define NOWHERE UINT32_MAX

/* Room for one more of size bytes behind count, which is doubled each time it is a power of two. */
static int grow(void **array, size_t count, size_t size)
{
	void *bigger;

	if (count < 16 ? count != 0 : (count & (count - 1)) != 0)
		return 0;
	bigger = realloc(*array, (count < 16 ? 16 : 2 * count) * size);
	if (!bigger)
		return -ENOMEM;
	*array = bigger;
	return 0;
}

int lh__windows_open(struct lh_windows **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

void lh__windows_close(struct lh_windows *windows)
{
	if (!windows)
		return;
	for (uint32_t i = 0; i < windows->modules; i++)
		if (windows->module[i].has_plan)
			lh__plan_close(&lh__sys_default, &windows->module[i].plan);
	free(windows->module);
	free(windows->line);
	free(windows->window);
	free(windows);
}

int lh__windows_module(struct lh_windows *windows, const uint8_t *id, uint32_t size,
                       struct lh_windows_module **out)
{
	struct lh_windows_module *module;
	int code;

	size = size < LH_PLAN_ID ? size : LH_PLAN_ID;
	for (uint32_t i = 0; i < windows->modules; i++) {
		module = &windows->module[i];
		if (module->id_size == size && memcmp(module->id, id, size) == 0) {
			*out = module;
			return 0;
		}
	}
	code = grow((void **)&windows->module, windows->modules, sizeof(*windows->module));
	if (code < 0)
		return code;
	*out = module = &windows->module[windows->modules++];
	memset(module, 0, sizeof(*module));
	module->id_size = size;
	memcpy(module->id, id, size);
	return 0;
}

int lh__windows_module_line(struct lh_windows *windows, const struct lh_windows_module *module,
                            uint64_t address, uint64_t starts)
{
	int code;

	if (starts == 0)
		return 0;
	code = grow((void **)&windows->line, windows->lines, sizeof(*windows->line));
	if (code < 0)
		return code;
	windows->line[windows->lines++] = (struct lh_windows_line){
		.module = (uint32_t)(module - windows->module), .address = address, .starts = starts
	};
	return 0;
}

int lh__windows_line(struct lh_windows *windows, const uint8_t *id, uint32_t id_size, uint64_t address,
                     uint64_t starts)
{
	struct lh_windows_module *module;
	int code = lh__windows_module(windows, id, id_size, &module);

	return code < 0 ? code : lh__windows_module_line(windows, module, address & -(uint64_t)LINE, starts);
}

static int compare(uint32_t module_a, uint64_t address_a, uint32_t module_b, uint64_t address_b)
{
	if (module_a != module_b)
		return module_a < module_b ? -1 : 1;
	return (address_a > address_b) - (address_a < address_b);
}

static int by_line(const void *one, const void *other)
{
	const struct lh_windows_line *a = one, *b = other;

	return compare(a->module, a->address, b->module, b->address);
}

int lh__windows_next(struct lh_windows *windows, uint64_t ms)
{
	size_t start = windows->windows ? windows->window[windows->windows - 1].end : 0, kept = start;
	struct lh_windows_line *line;
	int code = grow((void **)&windows->window, windows->windows, sizeof(*windows->window));

	if (code < 0)
		return code;
	if (windows->lines > start)
		qsort(windows->line + start, windows->lines - start, sizeof(*line), by_line);
	for (size_t i = start; i < windows->lines; i++) {
		line = &windows->line[i];
		if (kept > start && by_line(&windows->line[kept - 1], line) == 0)
			windows->line[kept - 1].starts |= line->starts;
		else
			windows->line[kept++] = *line;
	}
	windows->lines = kept;
	windows->window[windows->windows++] = (struct lh_windows_end){ .end = kept, .ms = ms };
	return 0;
}

/* ---- the model */

/* A function's code, and where its counts are kept. */
struct range {
	uint32_t module; /* the collector's */
	uint64_t from, to;
	uint32_t function;           /* the coverage's */
	struct lh_trace_cell *cell;  /* of the windows so far */
	uint32_t cells, last_window; /* of the newest cell, plus one */
};

static int by_range(const void *one, const void *other)
{
	const struct range *a = one, *b = other;

	return compare(a->module, a->from, b->module, b->from);
}

static uint32_t module_of(const struct lh_windows *windows, const struct lh_cover_module *module)
{
	uint32_t size = module->id_size < LH_PLAN_ID ? module->id_size : LH_PLAN_ID;

	for (uint32_t i = 0; i < windows->modules; i++)
		if (windows->module[i].id_size == size &&
		    memcmp(windows->module[i].id, module->id, size) == 0)
			return i;
	return NOWHERE;
}

/* The functions that can have been live, by module and address. */
static int make_ranges(const struct lh_windows *windows, const struct lh_coverage *coverage,
                       struct range **out, uint32_t *count)
{
	struct range *range = calloc(coverage->functions + 1, sizeof(*range));

	*out = range;
	*count = 0;
	if (!range)
		return -ENOMEM;
	for (uint32_t i = 0; i < coverage->functions; i++) {
		const struct lh_cover_function *function = &coverage->function[i];
		uint32_t module = module_of(windows, &coverage->module[function->module]);

		if (module == NOWHERE || function->size == 0)
			continue;
		range[(*count)++] = (struct range){ .module = module,
			                            .from = function->address,
			                            .to = function->address + function->size,
			                            .function = i };
	}
	qsort(range, *count, sizeof(*range), by_range);
	return 0;
}

/* The bits of the bytes of a line at address that lie in the range. */
static uint64_t bits_of(const struct range *range, uint64_t address)
{
	uint64_t bits = ~0ull;

	if (range->from > address)
		bits &= range->from - address >= LINE ? 0 : ~0ull << (range->from - address);
	if (range->to < address + LINE)
		bits &= range->to <= address ? 0 : ~0ull >> (address + LINE - range->to);
	return bits;
}

static int count_line(struct range *range, uint32_t window, uint64_t *live)
{
	int code;

	if (range->last_window != window + 1) {
		code = grow((void **)&range->cell, range->cells, sizeof(*range->cell));
		if (code < 0)
			return code;
		range->cell[range->cells++] = (struct lh_trace_cell){ .window = window };
		range->last_window = window + 1;
		++*live;
	}
	range->cell[range->cells - 1].lines++;
	return 0;
}

/* The lines of one window, which are in order, beside the functions, which are too. */
static int count_window(const struct lh_windows *windows, uint32_t index, struct range *range, uint32_t count,
                        struct lh_trace_window *window)
{
	size_t from = index ? windows->window[index - 1].end : 0;
	uint32_t first = 0;
	int code = 0;

	for (size_t i = from; i < windows->window[index].end && code == 0; i++) {
		const struct lh_windows_line *line = &windows->line[i], *before = line - 1;

		window->lines++;
		window->pages += i == from || before->module != line->module ||
		                 before->address / PAGE != line->address / PAGE;
		while (first < count &&
		       (range[first].module < line->module ||
		        (range[first].module == line->module && range[first].to <= line->address)))
			first++;
		for (uint32_t j = first; j < count && code == 0 && range[j].module == line->module &&
		                         range[j].from < line->address + LINE;
		     j++)
			if (line->starts & bits_of(&range[j], line->address))
				code = count_line(&range[j], index, &window->functions);
	}
	return code;
}

static int hotter(const void *one, const void *other)
{
	const struct lh_trace_function *a = one, *b = other;

	if (a->total != b->total)
		return a->total < b->total ? 1 : -1;
	if (a->cells != b->cells)
		return a->cells < b->cells ? 1 : -1;
	return strcmp(a->name, b->name);
}

/* Takes over the cells of what was live. */
static int take_functions(struct lh_trace_model *model, const struct lh_coverage *coverage,
                          struct range *range, uint32_t count)
{
	uint32_t live = 0;

	for (uint32_t i = 0; i < count; i++)
		live += range[i].cells != 0;
	model->function = calloc(live + 1, sizeof(*model->function));
	if (!model->function)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		const struct lh_cover_function *function = &coverage->function[range[i].function];
		struct lh_trace_function *to = &model->function[model->functions];

		if (range[i].cells == 0)
			continue;
		model->functions++;
		*to = (struct lh_trace_function){
			.name = strdup(function->name ? function->name : "?"),
			.module = strdup(coverage->module[function->module].name),
			.address = function->address,
			.lines = (uint32_t)((range[i].to + LINE - 1) / LINE - range[i].from / LINE),
			.cells = range[i].cells,
			.cell = range[i].cell,
		};
		range[i].cell = NULL;
		for (uint32_t j = 0; j < to->cells; j++)
			to->total += to->cell[j].lines;
		if (!to->name || !to->module)
			return -ENOMEM;
	}
	qsort(model->function, model->functions, sizeof(*model->function), hotter);
	return 0;
}

static int fill(const struct lh_windows *windows, const struct lh_coverage *coverage, struct range *range,
                uint32_t count, struct lh_trace_model *model)
{
	int code = 0;

	model->window = calloc(windows->windows + 1, sizeof(*model->window));
	if (!model->window)
		return -ENOMEM;
	for (uint32_t i = 0; i < windows->windows && code == 0; i++) {
		model->window[i].start = model->end;
		model->end = windows->window[i].ms;
		model->windows++;
		code = count_window(windows, i, range, count, &model->window[i]);
	}
	return code < 0 ? code : take_functions(model, coverage, range, count);
}

int lh__windows_model(const struct lh_windows *windows, const struct lh_coverage *coverage,
                      struct lh_trace_model **out)
{
	struct lh_trace_model *model = calloc(1, sizeof(*model));
	struct range *range = NULL;
	uint32_t count = 0;
	int code = model ? make_ranges(windows, coverage, &range, &count) : -ENOMEM;

	if (code == 0)
		code = fill(windows, coverage, range, count, model);
	for (uint32_t i = 0; i < count; i++)
		free(range[i].cell);
	free(range);
	if (code < 0) {
		lh__windows_free(model);
		model = NULL;
	}
	*out = model;
	return code;
}

void lh__windows_free(struct lh_trace_model *model)
{
	if (!model)
		return;
	for (uint32_t i = 0; i < model->functions; i++) {
		free((char *)model->function[i].name);
		free((char *)model->function[i].module);
		free(model->function[i].cell);
	}
	free(model->function);
	free(model->window);
	free(model);
}
