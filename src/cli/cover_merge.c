/* cover_merge.c - linehome cover merge: what several runs have seen, as one. */
#include <stdio.h>
#include <string.h>

#include "cli/cover.h"

#define COMMAND "cover merge"

/* Where the record that comes out has no name, a report of it is all that is wanted. */
struct merging {
	const char *record;
	struct cover_report report;
};

static int add_record(struct lh_record *all, const char *path)
{
	struct lh_record *one;
	struct lh_error error = { 0 };
	int result = lh__record_open(path, &one, &error);

	if (result < 0)
		return cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
	result = lh__record_merge(all, one, &error);
	lh__record_close(one);
	return result < 0 ? cli_fail(COMMAND, CLI_FAILED, "%s", error.text) : CLI_GO_ON;
}

/* The first one tells granularity and command line of what comes out. */
static int create_like(const char *path, const char *out, struct lh_record **all)
{
	char *command[LH_PAGE_SIZE / 2 + 1];
	struct lh_record *first;
	struct lh_error error = { 0 };
	const struct lh_record_head *head;
	size_t n = 0;
	int result = lh__record_open(path, &first, &error);

	if (result < 0)
		return cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
	head = lh__record_head(first);
	for (uint32_t at = 0; at < head->command_size && n < LH_PAGE_SIZE / 2;
	     at += (uint32_t)strnlen(head->command + at, head->command_size - at) + 1)
		command[n++] = (char *)head->command + at;
	command[n] = NULL;
	result = lh__record_create(out, (enum lh_granularity)head->granularity, command, all, &error);
	lh__record_close(first);
	return result < 0 ? cli_fail(COMMAND, CLI_FAILED, "%s", error.text) : CLI_GO_ON;
}

static int merge(struct merging *merging, int count, char **paths)
{
	struct lh_record *all;
	int status = create_like(paths[0], merging->record, &all);

	if (status != CLI_GO_ON)
		return status;
	for (int i = 0; i < count && status == CLI_GO_ON; i++)
		status = add_record(all, paths[i]);
	if (status == CLI_GO_ON && (merging->report.output || merging->report.format_given ||
	                            !merging->record || merging->report.fail_under))
		status = cover_write(&merging->report, all, true);
	lh__record_close(all);
	return status == CLI_GO_ON ? 0 : status;
}

int cover_merge(int argc, char **argv)
{
	struct merging merging = { .report = { .command = COMMAND, .drcov_version = 1 } };
	struct cover_report *report = &merging.report;
	struct cli_option options[] = {
		{ "record", CLI_TEXT, "FILE", "keep the record that comes out", &merging.record, false },
		{ "o|output", CLI_TEXT, "FILE", "write the report there (standard output)", &report->output,
		  false },
		{ "format", CLI_CHOICE, COVER_FORMATS, "of the report (by FILE's name)", &report->format,
		  false },
		{ "include-libraries", CLI_FLAG, NULL, "report on libraries, too", &report->libraries,
		  false },
		{ "filter", CLI_LIST, "PATTERN,...", "files, functions, modules to report on; !PATTERN: not",
		  &report->filter, false },
		{ "source", CLI_LIST, "FROM=TO,...", "where folders of the debug information are here",
		  &report->source, false },
		{ "fail-under", CLI_PERCENT, "PERCENT", "exit with 1 if less ran", &report->fail_under,
		  false },
		{ "drcov-version", CLI_CHOICE, "2|3", "of --format drcov (3)", &report->drcov_version,
		  false },
		{ .name = NULL },
	};
	struct cli_usage usage = { COMMAND, "RECORD...",
		                   "Puts records of several runs together, and reports on what ran in any.",
		                   options, CLI_WORDS };
	int status = cli_parse(&usage, &argc, &argv);

	if (status != CLI_GO_ON)
		return status;
	report->format_given = options[2].given;
	status = cover_check(report);
	return status == CLI_GO_ON ? merge(&merging, argc, argv) : status;
}
