/*
 * report.c - the formats of reports, and what they have in common.
 */
#include "service/code/report.h"

#include <string.h>

#include "service/code/page.h"
#include "service/code/report_parts.h"

const struct lh_report_format lh__report_formats[] = {
	{ "summary", lh__report_summary },     /* */
	{ "lcov", lh__report_lcov },           /* */
	{ "cobertura", lh__report_cobertura }, /* */
	{ "drcov", lh__report_drcov },         /* */
	{ "json", lh__report_json },           /* */
	{ "html", lh__report_html },           /* */
	{ NULL, NULL },
};

unsigned lh__report_tenths(uint64_t hit, uint64_t all)
{
	return all ? (unsigned)((unsigned __int128)hit * 1000 / all) : 1000;
}

static bool same(const struct lh_cover_function *one, const struct lh_cover_function *other)
{
	return one->file == other->file && one->file != UINT32_MAX && one->line == other->line &&
	       !strcmp(one->name, other->name);
}

bool lh__report_same_function(const struct lh_coverage *coverage, uint32_t index)
{
	return index && same(&coverage->function[index - 1], &coverage->function[index]);
}

bool lh__report_function_hit(const struct lh_coverage *coverage, uint32_t index)
{
	bool hit = coverage->function[index].hit;

	while (!hit && ++index < coverage->functions && lh__report_same_function(coverage, index))
		hit = coverage->function[index].hit;
	return hit;
}

void lh__report_totals(const struct lh_coverage *coverage, struct lh_report_totals *totals)
{
	*totals = (struct lh_report_totals){ 0 };
	for (uint32_t i = 0; i < coverage->files; i++) {
		totals->lines += coverage->file[i].lines;
		totals->lines_hit += coverage->file[i].hit;
	}
	for (uint32_t i = 0; i < coverage->functions; i++) {
		if (lh__report_same_function(coverage, i))
			continue;
		totals->functions++;
		totals->functions_hit += lh__report_function_hit(coverage, i);
	}
	for (uint32_t i = 0; i < coverage->modules; i++) {
		const struct lh_cover_module *module = &coverage->module[i];

		totals->blocks += module->blocks;
		totals->blocks_hit += module->blocks_hit;
		totals->code += module->code;
		totals->undecoded += module->undecoded;
		totals->outside += module->outside;
	}
}

const char *lh__report_path(const struct lh_cover_file *file)
{
	return file->found ? file->found : file->path;
}

unsigned lh__report_utf8(const char *text)
{
	return *text ? (unsigned)lh__page_character(text, strnlen(text, 4)) : 0;
}

int lh__report_end(FILE *out)
{
	return lh__page_written(out);
}
