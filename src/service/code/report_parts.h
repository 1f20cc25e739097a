/*
 * report_parts.h - what the files report*.c share: the writers, and sums that more than one of them tells.
 */
#ifndef LH_SERVICE_CODE_REPORT_PARTS_H
#define LH_SERVICE_CODE_REPORT_PARTS_H

#include "service/code/report.h"

typedef int lh_report_writer(const struct lh_coverage *coverage, const struct lh_report_options *options,
                             FILE *out);

lh_report_writer lh__report_summary, lh__report_lcov, lh__report_cobertura, lh__report_drcov, lh__report_json,
	lh__report_html;

/* Functions are those of the source: what is in several modules is one. */
struct lh_report_totals {
	uint64_t lines, lines_hit, functions, functions_hit, blocks, blocks_hit;
	uint64_t code, undecoded, outside; /* bytes */
};
void lh__report_totals(const struct lh_coverage *coverage, struct lh_report_totals *totals);

/* Whether a function is the same of the source as the one before it: what is in two modules. */
bool lh__report_same_function(const struct lh_coverage *coverage, uint32_t index);
/* Whether it ran in any of the modules; index is the first of the same. */
bool lh__report_function_hit(const struct lh_coverage *coverage, uint32_t index);

/* The file as it is found here, or as the debug information has it. */
const char *lh__report_path(const struct lh_cover_file *file);

/* The length of the UTF-8 sequence at text, which ends with 0; 0: it is none. */
unsigned lh__report_utf8(const char *text);
/* Flushes; 0, or a negative errno: not all could be written. */
int lh__report_end(FILE *out);

#endif
