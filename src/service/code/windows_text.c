/*
 * windows_text.c - windows of a trace for a terminal, and as JSON.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "service/code/page.h"
#include "service/code/windows.h"

#define ROWS 20u     /* of functions that are shown, and of windows */
#define NAME 28u     /* columns of a function's name */
#define NARROWEST 8u /* columns of the map of one function */

/* What share of a function's lines was live, from nothing to all. */
static const char *const shade[] = { "\xc2\xb7", "\xe2\x96\x91", "\xe2\x96\x92", "\xe2\x96\x93",
	                             "\xe2\x96\x88" };

/* Whether a terminal would take the character for a command: also U+0080 to U+009F. */
static bool is_control(const char *at)
{
	unsigned char c = (unsigned char)at[0];

	return c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)at[1] < 0xa0);
}

/* A name in exactly so many columns, cut with "~" where it is longer. */
static void put_name(FILE *out, const char *name, unsigned columns)
{
	const char *end = name + strlen(name);
	unsigned used = 0;

	for (; name < end; used++) {
		size_t length = lh__page_character(name, (size_t)(end - name));

		if (used == columns - 1 && name + (length ? length : 1) < end) {
			putc('~', out);
			return;
		}
		if (length == 0 || is_control(name))
			putc('?', out);
		else
			fwrite(name, 1, length, out);
		name += length ? length : 1;
	}
	for (; used < columns; used++)
		putc(' ', out);
}

/* Where there are more windows than columns, one column stands for several: the hottest of them. */
static void put_map(FILE *out, const struct lh_trace_function *function, uint32_t windows, unsigned columns)
{
	uint32_t at = 0;

	for (unsigned i = 0; i < columns; i++) {
		uint32_t until = (uint32_t)((uint64_t)windows * (i + 1) / columns), most = 0;

		for (; at < function->cells && function->cell[at].window < until; at++)
			if (function->cell[at].lines > most)
				most = function->cell[at].lines;
		if (most > function->lines)
			most = function->lines;
		fputs(shade[most ? 1 + (most * 4 - 1) / (function->lines ? function->lines : 1) : 0], out);
	}
}

static void put_windows(FILE *out, const struct lh_trace_model *model)
{
	uint32_t step = (model->windows + ROWS - 1) / ROWS;

	fprintf(out, "%10s %10s %10s %10s\n", "from ms", "lines", "functions", "pages");
	for (uint32_t i = 0; i < model->windows; i += step ? step : 1)
		fprintf(out, "%10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 "\n",
		        model->window[i].start, model->window[i].lines, model->window[i].functions,
		        model->window[i].pages);
	if (step > 1)
		fprintf(out, "(every %" PRIu32 ". window of %" PRIu32 ")\n", step, model->windows);
}

int lh__windows_table(const struct lh_trace_model *model, unsigned width, FILE *out)
{
	unsigned columns = width ? width : 80;
	uint32_t shown = model->functions < ROWS ? model->functions : ROWS;

	columns = columns > NAME + 12 + NARROWEST ? columns - NAME - 12 : NARROWEST;
	if (columns > model->windows)
		columns = model->windows;
	put_windows(out, model);
	if (shown)
		fprintf(out, "\n%-*s %10s  0 to %" PRIu64 " ms\n", (int)NAME, "hottest functions",
		        "lines live", model->end);
	for (uint32_t i = 0; i < shown; i++) {
		put_name(out, model->function[i].name, NAME);
		fprintf(out, " %10" PRIu64 " ", model->function[i].total);
		put_map(out, &model->function[i], model->windows, columns);
		putc('\n', out);
	}
	if (shown < model->functions)
		fprintf(out, "(and %" PRIu32 " more)\n", model->functions - shown);
	return lh__page_written(out);
}

static void put_json_function(FILE *out, const struct lh_trace_function *function)
{
	fputs("{\"name\":", out);
	lh__page_string(out, function->name);
	fputs(",\"module\":", out);
	lh__page_string(out, function->module);
	fprintf(out,
	        ",\"address\":\"0x%" PRIx64 "\",\"lines\":%" PRIu32 ",\"total\":%" PRIu64 ",\"windows\":[",
	        function->address, function->lines, function->total);
	for (uint32_t i = 0; i < function->cells; i++)
		fprintf(out, "%s[%" PRIu32 ",%" PRIu32 "]", i ? "," : "", function->cell[i].window,
		        function->cell[i].lines);
	fputs("]}", out);
}

int lh__windows_json(const struct lh_trace_model *model, FILE *out)
{
	fprintf(out, "{\"version\":1,\"end_ms\":%" PRIu64 ",\"windows\":[", model->end);
	for (uint32_t i = 0; i < model->windows; i++) {
		const struct lh_trace_window *window = &model->window[i];

		fprintf(out,
		        "%s{\"start_ms\":%" PRIu64 ",\"lines\":%" PRIu64 ",\"functions\":%" PRIu64
		        ",\"pages\":%" PRIu64 "}",
		        i ? ",\n" : "\n", window->start, window->lines, window->functions, window->pages);
	}
	fputs("],\"functions\":[", out);
	for (uint32_t i = 0; i < model->functions; i++) {
		fputs(i ? ",\n" : "\n", out);
		put_json_function(out, &model->function[i]);
	}
	fputs("]}\n", out);
	return lh__page_written(out);
}
