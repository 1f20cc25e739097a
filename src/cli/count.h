/* count.h - what the files of linehome count share. */
#ifndef LH_CLI_COUNT_H
#define LH_CLI_COUNT_H

#include <stdio.h>

#include "service/count/count.h"

enum count_by { COUNT_ALL, COUNT_MODULE, COUNT_THREAD, COUNT_PROCESS };

/* The report for a person. */
void count_print(FILE *out, const struct lh_count_report *report, enum count_by by,
                 const struct lh_count_options *options);
/* As JSON; false: it cannot be written. */
bool count_write_json(FILE *out, const struct lh_count_report *report,
                      const struct lh_count_options *options);

#endif
