/*
 * report.h - coverage in the formats that people and tools read. Each is one file report_NAME.c.
 *
 *   summary    for a terminal: totals, bars by file, functions that did not run
 *   lcov       the tracefile of lcov(1): TN SF FN FNDA FNF FNH DA LH LF; counts are 1 or 0
 *   cobertura  coverage-04.dtd
 *   drcov      DynamoRIO's; version 3 with module table 5, or version 2 with table 2
 *   json       ours; docs/coverage.md describes it
 *   html       one self-contained file
 */
#ifndef LH_SERVICE_CODE_REPORT_H
#define LH_SERVICE_CODE_REPORT_H

#include <stdio.h>

#include "service/code/coverage.h"

struct lh_report_options {
	unsigned drcov_version; /* 3 or 2 */
	unsigned width;         /* of the terminal, for the summary; 0: none */
	bool colour;            /* likewise */
	bool unicode;           /* likewise: it shows UTF-8, so bars may be finer than of # */
	const char *title;      /* of the html page; NULL: the program's name */
};

struct lh_report_format {
	const char *name;
	int (*write)(const struct lh_coverage *coverage, const struct lh_report_options *options, FILE *out);
};

/* Ends with a name that is NULL. write returns 0, or a negative errno of what could not be written. */
extern const struct lh_report_format lh__report_formats[];

/* Percent with one decimal, in tenths, never rounded up to 1000 where something is missing; 1000 for 0 of 0.
 */
unsigned lh__report_tenths(uint64_t hit, uint64_t all);

#endif
