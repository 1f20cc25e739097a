/*
 * report_summary.c - coverage at a glance, for a terminal.
 *
 *	words: 2 files in /home/me/words
 *
 *	  lines       82.3 %  107 of 130   ########################------
 *	  functions   ...
 *	  blocks      ...
 *
 *	   lines             ran / all   file
 *	   91.2 %  #########.    52 / 57    main.c
 *	   ...
 *
 *	2 functions never ran:
 *	  main.c:31   usage
 *
 *	Not watched: 1.2 % of the code cannot be decoded, ...
 *
 * Files stand in the order of their paths, less the folder that all are in. Where they are too many, their
 * folders stand for them, and of these, where they are too many, those in which the most lines did not run. A
 * path that is too long for the terminal loses its beginning.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/report_parts.h"

#define SHOWN 20u /* functions that never ran */
#define ROWS 40u  /* files, or folders */
#define NARROWEST 60u
#define DEFAULT_WIDTH 80u
#define BAR 20u

struct page {
	const struct lh_coverage *coverage;
	const struct lh_report_options *options;
	FILE *out;
	unsigned width;
	size_t folder; /* bytes that all paths have in common */
};

/* Green where most ran, red where little did. */
static const char *colour_of(const struct page *page, unsigned tenths)
{
	if (!page->options->colour)
		return "";
	return tenths >= 900 ? "\033[32m" : tenths >= 500 ? "\033[33m" : "\033[31m";
}

static const char *plain(const struct page *page)
{
	return page->options->colour ? "\033[0m" : "";
}

/* A bar of cells; with blocks of Unicode, in eighths of a cell. Something shows where something ran. */
static void put_bar(const struct page *page, unsigned tenths, unsigned cells)
{
	static const char *const part[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
	unsigned eighths = tenths * cells * 8 / 1000, full;

	eighths += tenths && !eighths;
	full = eighths / 8;
	fputs(colour_of(page, tenths), page->out);
	for (unsigned i = 0; i < full; i++)
		fputs(page->options->unicode ? "█" : "#", page->out);
	if (page->options->unicode && eighths % 8) {
		fputs(part[eighths % 8], page->out);
		full++;
	}
	fputs(plain(page), page->out);
	for (unsigned i = full; i < cells; i++)
		fputs(page->options->unicode ? " " : ".", page->out);
}

static void put_total(const struct page *page, const char *what, uint64_t hit, uint64_t all)
{
	unsigned tenths = lh__report_tenths(hit, all);
	char of[48];

	if (!all)
		return;
	snprintf(of, sizeof of, "%lu of %lu", hit, all);
	fprintf(page->out, "  %-10s %s%3u.%u %%%s  ", what, colour_of(page, tenths), tenths / 10, tenths % 10,
	        plain(page));
	put_bar(page, tenths, BAR);
	fprintf(page->out, "  %s\n", of);
}

/* Columns that text takes, as far as one can say without a table of wide characters. */
static size_t columns(const char *text)
{
	size_t n = 0;

	for (unsigned step; *text; text += step ? step : 1) {
		step = lh__report_utf8(text);
		n++;
	}
	return n;
}

/* At most room columns of text. Bytes that would disturb a terminal are '?'. */
static void put_some(const struct page *page, const char *text, size_t room)
{
	for (size_t step; *text && room; text += step, room--) {
		step = lh__report_utf8(text);
		if (!step || (uint8_t)*text < ' ' || *text == 127)
			putc('?', page->out);
		else
			fwrite(text, 1, step, page->out);
		step = step ? step : 1;
	}
}

/* What does not fit in room columns loses its end, or, of a path, its beginning. */
static void put_cut(const struct page *page, const char *text, size_t room, bool is_path)
{
	const char *dots = page->options->unicode ? "…" : "...";
	size_t n = columns(text), kept = room - columns(dots);

	if (n <= room) {
		put_some(page, text, n);
	} else if (is_path) {
		fputs(dots, page->out);
		for (unsigned step; n > kept; text += step ? step : 1, n--)
			step = lh__report_utf8(text);
		put_some(page, text, kept);
	} else {
		put_some(page, text, kept);
		fputs(dots, page->out);
	}
}

/* ---- files ---- */

static size_t common_folder(const struct lh_coverage *coverage)
{
	const char *first = coverage->files ? coverage->file[0].path : "";
	const char *last = coverage->files ? coverage->file[coverage->files - 1].path : "";
	size_t n = 0, folder = 0;

	/* By path, so what the first and the last have in common all have. */
	for (; first[n] && first[n] == last[n]; n++)
		if (first[n] == '/')
			folder = n + 1;
	if (coverage->files == 1)
		folder = strrchr(first, '/') ? (size_t)(strrchr(first, '/') + 1 - first) : 0;
	return folder > 1 ? folder : 0;
}

/* A file or a folder. */
struct row {
	const char *path;
	size_t size; /* of the path */
	uint64_t lines, hit;
};

static bool same_path(const struct row *one, const struct row *other)
{
	return one->size == other->size && !memcmp(one->path, other->path, one->size);
}

static int by_text(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	int order = memcmp(x->path, y->path, x->size < y->size ? x->size : y->size);

	return order ? order : (x->size > y->size) - (x->size < y->size);
}

static int by_missed(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	uint64_t one = x->lines - x->hit, other = y->lines - y->hit;

	return one != other ? (one > other ? -1 : 1) : by_text(a, b);
}

static uint32_t to_folders(struct row *row, uint32_t n)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < n; i++)
		while (row[i].size && row[i].path[row[i].size - 1] != '/')
			row[i].size--;
	qsort(row, n, sizeof *row, by_text);
	for (uint32_t i = 0; i < n; i++) {
		if (kept && same_path(&row[kept - 1], &row[i])) {
			row[kept - 1].lines += row[i].lines;
			row[kept - 1].hit += row[i].hit;
		} else {
			row[kept++] = row[i];
		}
	}
	return kept;
}

static void put_row(const struct page *page, const struct row *row)
{
	unsigned tenths = lh__report_tenths(row->hit, row->lines);
	size_t folder = row->size > page->folder ? page->folder : 0;
	char path[4096];

	snprintf(path, sizeof path, "%.*s", (int)(row->size - folder), row->path + folder);
	fprintf(page->out, "  %s%3u.%u %%%s  ", colour_of(page, tenths), tenths / 10, tenths % 10,
	        plain(page));
	put_bar(page, tenths, BAR);
	fprintf(page->out, " %8lu   ", row->lines);
	put_cut(page, path, page->width - (BAR + 25), true);
	putc('\n', page->out);
}

static int put_files(const struct page *page)
{
	const struct lh_coverage *coverage = page->coverage;
	struct row *row = calloc(coverage->files + 1u, sizeof *row);
	uint32_t n = 0, all;

	if (!row)
		return -ENOMEM;
	for (uint32_t i = 0; i < coverage->files; i++) {
		const struct lh_cover_file *file = &coverage->file[i];

		if (file->lines)
			row[n++] = (struct row){ file->path, strlen(file->path), file->lines, file->hit };
	}
	all = n = n > ROWS ? to_folders(row, n) : n;
	if (n > ROWS) {
		qsort(row, n, sizeof *row, by_missed);
		n = ROWS;
		qsort(row, n, sizeof *row, by_text);
	}
	if (n)
		fprintf(page->out, "\n    lines  %*s       of   %s\n", (int)BAR, "",
		        all < coverage->files ? "folder" : "file");
	for (uint32_t i = 0; i < n; i++)
		put_row(page, &row[i]);
	if (all > n)
		fprintf(page->out, "  and %u more\n", all - n);
	free(row);
	return 0;
}

/* ---- functions ---- */

/* One that never ran, told once, and by a name. Those without a symbol are only counted. */
static bool is_missed(const struct lh_coverage *coverage, uint32_t index)
{
	return !lh__report_same_function(coverage, index) && !lh__report_function_hit(coverage, index);
}

static bool is_named(const struct lh_cover_function *function)
{
	return strncmp(function->name, "0x", 2) != 0;
}

static void name_place(const struct page *page, const struct lh_cover_function *function, char *place,
                       size_t size)
{
	const struct lh_coverage *coverage = page->coverage;

	if (function->file != UINT32_MAX)
		snprintf(place, size, "%s:%u", coverage->file[function->file].path + page->folder,
		         function->line);
	else
		snprintf(place, size, "%s", coverage->module[function->module].name);
}

/* Up to SHOWN functions that never ran; those of the system's headers last. */
static uint32_t choose_missed(const struct lh_coverage *coverage, uint32_t chosen[SHOWN])
{
	uint32_t n = 0;

	for (unsigned system = 0; system < 2; system++)
		for (uint32_t i = 0; i < coverage->functions && n < SHOWN; i++) {
			uint32_t file = coverage->function[i].file;
			bool of_system =
				file != UINT32_MAX && !strncmp(coverage->file[file].path, "/usr/", 5);

			if (of_system == system && is_missed(coverage, i) && is_named(&coverage->function[i]))
				chosen[n++] = i;
		}
	return n;
}

static void put_missed(const struct page *page)
{
	const struct lh_coverage *coverage = page->coverage;
	uint32_t chosen[SHOWN], shown = choose_missed(coverage, chosen), missed = 0;
	size_t widest = 0, n;
	char place[4096];

	for (uint32_t i = 0; i < coverage->functions; i++)
		missed += is_missed(coverage, i);
	for (uint32_t i = 0; i < shown; i++) {
		name_place(page, &coverage->function[chosen[i]], place, sizeof place);
		n = columns(place);
		widest = n > widest ? n : widest;
	}
	widest = widest < page->width / 2 ? widest : page->width / 2;
	if (missed)
		fprintf(page->out, "\n%u function%s never ran:\n", missed, missed == 1 ? "" : "s");
	for (uint32_t i = 0; i < shown; i++) {
		const struct lh_cover_function *function = &coverage->function[chosen[i]];

		name_place(page, function, place, sizeof place);
		n = columns(place);
		fputs("  ", page->out);
		put_cut(page, place, widest, true);
		fprintf(page->out, "%*s", (int)(n < widest ? widest - n + 2 : 2), "");
		put_cut(page, function->name, page->width - widest - 5, false);
		putc('\n', page->out);
	}
	if (missed > shown)
		fprintf(page->out, "  and %u more\n", missed - shown);
}

/* ---- what is not in the figures ---- */

static void put_share(const struct page *page, uint64_t part, uint64_t all, const char *what)
{
	unsigned tenths = lh__report_tenths(part, all);

	if (!part)
		return;
	if (tenths)
		fprintf(page->out, "  %3u.%u %%  %s\n", tenths / 10, tenths % 10, what);
	else
		fprintf(page->out, "  < 0.1 %%  %s\n", what);
}

static void put_reasons(const struct page *page)
{
	const struct lh_coverage *coverage = page->coverage;
	const char *head = "\nWithout lines of source, or not with all:\n";

	for (uint32_t i = 0; i < coverage->modules; i++) {
		const struct lh_cover_module *module = &coverage->module[i];

		if (!module->why_not)
			continue;
		fprintf(page->out, "%s  ", head);
		put_cut(page, module->name, page->width - 3, false);
		fprintf(page->out, "%s%s\n",
		        columns(module->name) + strlen(module->why_not) + 4 > page->width ? ":\n    " : ": ",
		        module->why_not);
		head = "";
	}
}

static void put_not_watched(const struct page *page, const struct lh_report_totals *totals)
{
	const struct lh_coverage *coverage = page->coverage;
	const struct lh_record_control *control = lh__record_control(coverage->record);

	if (totals->undecoded || totals->outside || control->anonymous || control->refused)
		fputs("\nNot watched:\n", page->out);
	put_share(page, totals->undecoded, totals->code, "of the code: bytes that are no instructions");
	put_share(page, totals->outside, totals->code, "of the code: in no function that .eh_frame knows");
	if (control->anonymous)
		fprintf(page->out, "  %lu KiB of code that is in no file\n",
		        (control->anonymous + 1023) / 1024);
	if (control->refused)
		fprintf(page->out, "  %lu file%s with code that cannot be watched\n", control->refused,
		        control->refused == 1 ? "" : "s");
	put_reasons(page);
}

static void put_head(const struct page *page)
{
	const struct lh_coverage *coverage = page->coverage;

	for (uint32_t i = 0, n = 0; i < coverage->modules; i++)
		if (coverage->module[i].is_program)
			fprintf(page->out, "%s%s", n++ ? ", " : "", coverage->module[i].name);
	if (coverage->files)
		fprintf(page->out, ": %u file%s", coverage->files, coverage->files == 1 ? "" : "s");
	if (page->folder)
		fprintf(page->out, " in %.*s", (int)page->folder - 1, coverage->file[0].path);
	fputs("\n\n", page->out);
}

int lh__report_summary(const struct lh_coverage *coverage, const struct lh_report_options *options, FILE *out)
{
	struct page page = { coverage, options, out, options->width ? options->width : DEFAULT_WIDTH, 0 };
	struct lh_report_totals totals;
	int status;

	if (page.width < NARROWEST)
		page.width = NARROWEST;
	page.folder = common_folder(coverage);
	lh__report_totals(coverage, &totals);
	put_head(&page);
	put_total(&page, "lines", totals.lines_hit, totals.lines);
	put_total(&page, "functions", totals.functions_hit, totals.functions);
	put_total(&page, "blocks", totals.blocks_hit, totals.blocks);
	status = put_files(&page);
	put_missed(&page);
	put_not_watched(&page, &totals);
	return status ? status : lh__report_end(out);
}
