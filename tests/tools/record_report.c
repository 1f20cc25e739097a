/*
 * record_report.c - writes a report of a record to standard output, with all that reports can be asked for.
 *
 *     record_report RECORD FORMAT [libraries] [drcov2] [width=N] [colour] [unicode] [filter=PATTERN]...
 *                   [source=FROM=TO]...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/code/report.h"

int main(int argc, char **argv)
{
	const char *filter[32] = { NULL }, *source[32] = { NULL };
	struct lh_coverage_options options = { .filter = filter, .source = source };
	struct lh_report_options report = { .drcov_version = 3 };
	const struct lh_report_format *format = lh__report_formats;
	struct lh_coverage *coverage;
	struct lh_record *record;
	struct lh_error error = { 0 };
	unsigned filters = 0, sources = 0;
	int status;

	for (int i = 3; i < argc; i++) {
		if (!strcmp(argv[i], "libraries"))
			options.libraries = true;
		else if (!strcmp(argv[i], "drcov2"))
			report.drcov_version = 2;
		else if (!strcmp(argv[i], "colour"))
			report.colour = true;
		else if (!strcmp(argv[i], "unicode"))
			report.unicode = true;
		else if (!strncmp(argv[i], "width=", 6))
			report.width = (unsigned)strtoul(argv[i] + 6, NULL, 10);
		else if (!strncmp(argv[i], "filter=", 7) && filters < 31)
			filter[filters++] = argv[i] + 7;
		else if (!strncmp(argv[i], "source=", 7) && sources < 31)
			source[sources++] = argv[i] + 7;
	}
	while (argc > 2 && format->name && strcmp(format->name, argv[2]))
		format++;
	if (argc < 3 || !format->name)
		return 2;
	if (lh__record_open(argv[1], &record, &error) < 0 ||
	    lh__coverage_make(record, &options, &coverage, &error) < 0) {
		fprintf(stderr, "record_report: %s\n", error.text);
		return 1;
	}
	status = format->write(coverage, &report, stdout);
	lh__coverage_free(coverage);
	lh__record_close(record);
	return status ? 1 : 0;
}
