/*
 * report_lcov.c - a tracefile as lcov(1) reads it: for each file
 *
 *	TN:                     no name of a test
 *	SF:/path/of/file
 *	FN:12,name              functions, by line
 *	FNDA:1,name             1: it ran
 *	FNF:2  FNH:1            of them, found and hit
 *	DA:14,1                 lines
 *	LF:9   LH:7
 *	end_of_record
 *
 * A function's name is its key, and ends at a comma. So a comma is written as a semicolon, and where one file
 * has several functions of a name, the line is added to all but the first: "get:31". Files without a line
 * or a function with a line are left out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/report_parts.h"

static void put_name(const struct lh_coverage *coverage, const struct lh_cover_function *function, bool again,
                     FILE *out)
{
	for (const char *c = function->name; *c; c++)
		putc(*c == ',' ? ';' : *c == '\n' || *c == '\r' ? ' ' : *c, out);
	if (again)
		fprintf(out, ":%u", function->line);
	putc('\n', out);
}

static int by_name(const void *a, const void *b)
{
	const struct lh_cover_function *x = *(const struct lh_cover_function *const *)a;
	const struct lh_cover_function *y = *(const struct lh_cover_function *const *)b;
	int order = strcmp(x->name, y->name);

	return order ? order : (x > y) - (x < y);
}

/* Which of n functions have the name of one before them at another line. */
static void find_again(const struct lh_cover_function *function, uint32_t n,
                       const struct lh_cover_function **sorted, bool *again)
{
	uint32_t first = 0;

	for (uint32_t i = 0; i < n; i++)
		sorted[i] = &function[i];
	qsort(sorted, n, sizeof *sorted, by_name);
	for (uint32_t i = 1; i < n; i++) {
		if (strcmp(sorted[i]->name, sorted[first]->name))
			first = i;
		again[sorted[i] - function] = sorted[i]->line != sorted[first]->line;
	}
}

static void put_functions(const struct lh_coverage *coverage, uint32_t from, uint32_t to, const bool *again,
                          FILE *out)
{
	uint32_t found = 0, hit = 0;

	for (uint32_t i = from; i < to; i++) {
		if (!coverage->function[i].line || lh__report_same_function(coverage, i))
			continue;
		fprintf(out, "FN:%u,", coverage->function[i].line);
		put_name(coverage, &coverage->function[i], again[i - from], out);
	}
	for (uint32_t i = from; i < to; i++) {
		bool ran = lh__report_function_hit(coverage, i);

		if (!coverage->function[i].line || lh__report_same_function(coverage, i))
			continue;
		fprintf(out, "FNDA:%d,", ran);
		put_name(coverage, &coverage->function[i], again[i - from], out);
		found++;
		hit += ran;
	}
	fprintf(out, "FNF:%u\nFNH:%u\n", found, hit);
}

static int put_file(const struct lh_coverage *coverage, uint32_t index, uint32_t from, uint32_t to, FILE *out)
{
	const struct lh_cover_file *file = &coverage->file[index];
	uint32_t n = to - from;
	const struct lh_cover_function **sorted = calloc(n + 1u, sizeof *sorted);
	bool *again = calloc(n + 1u, sizeof *again);

	if (sorted && again) {
		find_again(&coverage->function[from], n, sorted, again);
		fprintf(out, "TN:\nSF:%s\n", lh__report_path(file));
		put_functions(coverage, from, to, again, out);
		for (uint32_t i = 0; i < file->lines; i++)
			fprintf(out, "DA:%u,%d\n", file->line[i].number, file->line[i].hit);
		fprintf(out, "LF:%u\nLH:%u\nend_of_record\n", file->lines, file->hit);
	}
	n = !sorted || !again;
	free(sorted);
	free(again);
	return n ? -ENOMEM : 0;
}

int lh__report_lcov(const struct lh_coverage *coverage, const struct lh_report_options *options, FILE *out)
{
	uint32_t function = 0;
	int status = 0;

	for (uint32_t i = 0; i < coverage->files && !status; i++) {
		uint32_t first;

		while (function < coverage->functions && coverage->function[function].file < i)
			function++;
		first = function;
		while (function < coverage->functions && coverage->function[function].file == i)
			function++;
		if (coverage->file[i].lines)
			status = put_file(coverage, i, first, function, out);
	}
	return status ? status : lh__report_end(out);
}
