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
 * Files stand in the order of their paths, less the folder that all are in. A path that is too long for the
 * terminal loses its beginning.
 */
#include <stdlib.h>
#include <string.h>

#include "service/code/report_parts.h"

#define SHOWN 20u /* functions that never ran */
#define NARROWEST 50u
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

/* What does not fit in room columns loses its beginning. Bytes that would disturb a terminal are '?'. */
static void put_end(const struct page *page, const char *text, size_t room)
{
	size_t n = columns(text), dots = 0, step;

	if (n > room && room > 3) {
		dots = page->options->unicode ? 1 : 3;
		fputs(page->options->unicode ? "…" : "...", page->out);
	}
	for (; *text; text += step, n--) {
		step = lh__report_utf8(text);
		if (n + dots <= room || (!dots && n <= room)) {
			if (!step || (uint8_t)*text < ' ' || *text == 127)
				putc('?', page->out);
			else
				fwrite(text, 1, step, page->out);
		}
		step = step ? step : 1;
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
	return folder;
}

static void put_files(const struct page *page)
{
	const struct lh_coverage *coverage = page->coverage;

	if (!coverage->files)
		return;
	fprintf(page->out, "\n   lines  %*s        of   file\n", (int)BAR, "");
	for (uint32_t i = 0; i < coverage->files; i++) {
		const struct lh_cover_file *file = &coverage->file[i];
		unsigned tenths = lh__report_tenths(file->hit, file->lines);

		fprintf(page->out, "  %s%3u.%u %%%s ", colour_of(page, tenths), tenths / 10, tenths % 10,
		        plain(page));
		put_bar(page, tenths, BAR);
		fprintf(page->out, " %9u   ", file->lines);
		put_end(page, file->path + page->folder, page->width - (BAR + 24));
		putc('\n', page->out);
	}
}

/* ---- functions ---- */

static void put_missed(const struct page *page)
{
	const struct lh_coverage *coverage = page->coverage;
	uint32_t missed = 0, shown = 0;

	for (uint32_t i = 0; i < coverage->functions; i++)
		missed += !lh__report_same_function(coverage, i) && !lh__report_function_hit(coverage, i);
	if (!missed)
		return;
	fprintf(page->out, "\n%u function%s never ran:\n", missed, missed == 1 ? "" : "s");
	for (uint32_t i = 0; i < coverage->functions && shown < SHOWN; i++) {
		const struct lh_cover_function *function = &coverage->function[i];
		char place[512];

		if (lh__report_same_function(coverage, i) || lh__report_function_hit(coverage, i))
			continue;
		if (function->file != UINT32_MAX)
			snprintf(place, sizeof place, "%s:%u",
			         coverage->file[function->file].path + page->folder, function->line);
		else
			snprintf(place, sizeof place, "%s", coverage->module[function->module].name);
		fputs("  ", page->out);
		put_end(page, place, page->width / 2);
		fputs("  ", page->out);
		put_end(page, function->name, page->width / 2 - 5);
		putc('\n', page->out);
		shown++;
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
	for (uint32_t i = 0, n = 0; i < coverage->modules; i++)
		if (!coverage->module[i].has_lines)
			fprintf(page->out, "%s  %s: %s\n", n++ ? "" : "\nWithout lines of source:\n",
			        coverage->module[i].name, coverage->module[i].why_not);
}

static void put_head(const struct page *page)
{
	const struct lh_coverage *coverage = page->coverage;

	for (uint32_t i = 0, n = 0; i < coverage->modules; i++)
		if (coverage->module[i].is_program)
			fprintf(page->out, "%s%s", n++ ? ", " : "", coverage->module[i].name);
	if (coverage->files)
		fprintf(page->out, ": %u file%s in %.*s\n\n", coverage->files,
		        coverage->files == 1 ? "" : "s",
		        page->folder > 1 ? (int)page->folder - 1 : (int)page->folder, coverage->file[0].path);
	else
		fputs("\n\n", page->out);
}

int lh__report_summary(const struct lh_coverage *coverage, const struct lh_report_options *options, FILE *out)
{
	struct page page = { coverage, options, out, options->width ? options->width : DEFAULT_WIDTH, 0 };
	struct lh_report_totals totals;

	if (page.width < NARROWEST)
		page.width = NARROWEST;
	page.folder = common_folder(coverage);
	lh__report_totals(coverage, &totals);
	put_head(&page);
	put_total(&page, "lines", totals.lines_hit, totals.lines);
	put_total(&page, "functions", totals.functions_hit, totals.functions);
	put_total(&page, "blocks", totals.blocks_hit, totals.blocks);
	put_files(&page);
	put_missed(&page);
	put_not_watched(&page, &totals);
	return lh__report_end(out);
}
