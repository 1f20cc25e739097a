/* count.c - linehome count: what a program loads and stores. */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/count.h"

#define COMMAND "count"

struct given {
	struct lh_count_options options;
	unsigned by;
	const char *output, *json;
};

static int cannot_write(const char *option, const char *path)
{
	return cli_fail(COMMAND, CLI_FAILED, "--%s %s: cannot be written: %s", option, path, strerror(errno));
}

/* Where a report goes: NULL and "-" are standard error, since standard output is the program's. */
static FILE *open_report(const char *path)
{
	return !path || strcmp(path, "-") == 0 ? stderr : fopen(path, "we");
}

static int close_report(FILE *out, const char *option, const char *path)
{
	bool failed = fflush(out) != 0 || ferror(out);

	if (out != stderr && fclose(out) != 0)
		failed = true;
	return failed ? cannot_write(option, path ? path : "-") : CLI_GO_ON;
}

static int write_json(const struct given *given, const struct lh_count_report *report)
{
	FILE *out = open_report(given->json);

	if (!out)
		return cannot_write("json", given->json);
	if (!count_write_json(out, report, &given->options)) {
		(void)!close_report(out, "json", given->json);
		return cli_fail(COMMAND, CLI_FAILED, "--json %s: no memory for it", given->json);
	}
	return close_report(out, "json", given->json);
}

static int write_table(const struct given *given, const struct lh_count_report *report)
{
	FILE *out = open_report(given->output);

	if (!out)
		return cannot_write("output", given->output);
	count_print(out, report, given->by, &given->options);
	return close_report(out, "output", given->output);
}

/* JSON instead of the table, unless that has a place of its own. */
static int write_reports(const struct given *given, const struct lh_count_report *report)
{
	int status = given->json ? write_json(given, report) : CLI_GO_ON;

	if (status == CLI_GO_ON && (!given->json || given->output))
		status = write_table(given, report);
	return status;
}

static int count_with(const struct given *given, char **argv)
{
	struct lh_count_report report;
	struct lh_error error = { 0, "" };
	int code = lh__count(&given->options, argv, &report, &error), status;

	if (code < 0)
		return cli_fail(COMMAND,
		                code == -ENOENT                       ? CLI_NOT_FOUND
		                : code == -EACCES || code == -ENOEXEC ? CLI_NOT_EXECUTABLE
		                                                      : CLI_FAILED,
		                "%s", error.text);
	status = write_reports(given, &report);
	if (status == CLI_GO_ON)
		status = report.status;
	lh__count_free(&report);
	return status;
}

int cli_count(int argc, char **argv)
{
	struct given given = { .by = COUNT_ALL };
	struct cli_option options[] = {
		{ "by", CLI_CHOICE, "all|module|thread|process", "what the table has beside the totals (all)",
		  &given.by, false },
		{ "lines", CLI_FLAG, NULL, "count lines of 64 bytes that accesses touch, too",
		  &given.options.lines, false },
		{ "footprint", CLI_FLAG, NULL, "count the distinct lines and pages of each process, too",
		  &given.options.footprint, false },
		{ "json", CLI_TEXT, "FILE", "write all of it as JSON to FILE instead of a table; - is stderr",
		  &given.json, false },
		{ "o|output", CLI_TEXT, "FILE", "write the table to FILE (stderr)", &given.output, false },
		{ .name = NULL },
	};
	struct cli_usage usage = { COMMAND, "[--] PROGRAM [ARG...]",
		                   "Counts what PROGRAM loads and stores, by module and thread.", options,
		                   CLI_PROGRAM };
	int status = cli_parse(&usage, &argc, &argv);

	if (status != CLI_GO_ON)
		return status;
	given.options.lines |= given.options.footprint;
	if (argc == 0)
		return cli_fail(COMMAND, CLI_BAD_USAGE,
		                "no program: write for instance linehome count -- sort FILE");
	return count_with(&given, argv);
}
