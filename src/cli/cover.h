/* cover.h - what the parts of linehome cover share: the reports that are wanted, and writing them. */
#ifndef LH_CLI_COVER_H
#define LH_CLI_COVER_H

#include "cli/cli.h"
#include "service/code/record.h"

/* Beside those of cli.h: less ran than --fail-under says. */
enum { COVER_TOO_LITTLE = 1 };

struct cover_report {
	const char *command; /* in messages */
	const char *output;  /* NULL: standard output */
	unsigned format;     /* place in cover_formats */
	bool format_given;
	unsigned drcov_version; /* place in "2|3" */
	bool libraries;
	struct cli_list filter, source;
	unsigned fail_under; /* tenths of a percent */
};

/* The names of --format, in the order of lh__report_formats. */
#define COVER_FORMATS "summary|lcov|cobertura|drcov|json|html"

/*
 * Chooses the format by the output's name where none was given, and sees that the output can be written.
 * CLI_GO_ON, or the status to exit with after a message.
 */
int cover_check(struct cover_report *report) LH_MUST_CHECK;
/*
 * Writes the report of a record. CLI_GO_ON; COVER_TOO_LITTLE, which is looked at only where final is set;
 * CLI_FAILED after a message.
 */
int cover_write(const struct cover_report *report, struct lh_record *record, bool final) LH_MUST_CHECK;

int cover_merge(int argc, char **argv);

#endif
