/* cover_report.c - linehome cover: which report, and where it goes. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cover.h"
#include "service/code/report.h"

/* ---- which ---- */

/* The format that a file's name asks for; false: none. */
static bool guess_format(const char *path, unsigned *format)
{
	static const struct {
		const char *suffix, *format;
	} known[] = {
		{ ".info", "lcov" },   { ".lcov", "lcov" }, { ".xml", "cobertura" },
		{ ".drcov", "drcov" }, { ".log", "drcov" }, { ".json", "json" },
		{ ".html", "html" },   { ".htm", "html" },  { ".txt", "summary" },
	};
	const char *suffix = strrchr(path, '.');
	struct lh_error error;

	for (size_t i = 0; suffix && i < sizeof(known) / sizeof(*known); i++)
		if (strcasecmp(suffix, known[i].suffix) == 0)
			return cli_read_choice(known[i].format, COVER_FORMATS, format, &error) == 0;
	return false;
}

static bool is_regular_or_none(const char *path)
{
	struct stat status;

	return stat(path, &status) < 0 || S_ISREG(status.st_mode);
}

/* A file beside the one that is wanted, which takes its place when it is whole. */
static int open_beside(const char *path, char beside[PATH_MAX])
{
	static const char suffix[] = ".XXXXXX";
	mode_t mask;
	int file;

	if (snprintf(beside, PATH_MAX, "%s%s", path, suffix) >= PATH_MAX)
		return -ENAMETOOLONG;
	file = mkostemp(beside, O_CLOEXEC);
	if (file < 0)
		return -errno;
	mask = umask(0);
	umask(mask);
	if (fchmod(file, 0666 & ~mask) < 0) {
		int code = -errno;

		close(file);
		unlink(beside);
		return code;
	}
	return file;
}

static int fail_output(const struct cover_report *report, int code)
{
	return cli_fail(report->command, CLI_FAILED, "--output %s: cannot be written: %s", report->output,
	                strerror(-code));
}

/* Found out before the program runs, and not when all is lost. */
static int check_output(const struct cover_report *report)
{
	char beside[PATH_MAX];
	int file;

	if (!is_regular_or_none(report->output)) {
		struct stat status;

		if (stat(report->output, &status) == 0 && S_ISDIR(status.st_mode))
			return fail_output(report, -EISDIR);
		return access(report->output, W_OK) < 0 ? fail_output(report, -errno) : CLI_GO_ON;
	}
	if (access(report->output, F_OK) == 0 && access(report->output, W_OK) < 0)
		return fail_output(report, -errno);
	file = open_beside(report->output, beside);
	if (file < 0)
		return fail_output(report, file);
	close(file);
	unlink(beside);
	return CLI_GO_ON;
}

static const struct lh_report_format *find_format(unsigned format)
{
	const struct lh_report_format *known = lh__report_formats;
	const char *at = COVER_FORMATS;

	for (; format > 0; format--)
		at += strcspn(at, "|") + 1;
	while (known->name && (strlen(known->name) != strcspn(at, "|") ||
	                       strncmp(known->name, at, strlen(known->name)) != 0))
		known++;
	return known->name ? known : NULL;
}

static int check_sources(const struct cover_report *report)
{
	for (size_t i = 0; i < report->source.n; i++)
		if (strchr(report->source.at[i], '=') == NULL)
			return cli_fail(report->command, CLI_BAD_USAGE,
			                "--source %s: not two folders; write FROM=TO", report->source.at[i]);
	return CLI_GO_ON;
}

int cover_check(struct cover_report *report)
{
	int status = check_sources(report);

	if (status != CLI_GO_ON)
		return status;
	if (!report->format_given && report->output && !guess_format(report->output, &report->format))
		return cli_fail(report->command, CLI_BAD_USAGE,
		                "--output %s: its name does not tell the format; add --format %s",
		                report->output, COVER_FORMATS);
	if (!find_format(report->format))
		return cli_fail(report->command, CLI_BAD_USAGE, "--format: this one cannot be written here");
	return report->output ? check_output(report) : CLI_GO_ON;
}

/* ---- writing ---- */

static bool is_utf8(void)
{
	const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };

	for (unsigned i = 0; i < 3; i++) {
		const char *value = getenv(names[i]);

		if (value && *value)
			return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
	}
	return false;
}

/* What the terminal can show, if standard output is one. */
static struct lh_report_options terminal(const struct cover_report *report)
{
	struct lh_report_options options = { .drcov_version = report->drcov_version + 2 };
	struct winsize size;

	if (report->output || !isatty(STDOUT_FILENO))
		return options;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
		options.width = size.ws_col;
	options.colour = getenv("NO_COLOR") == NULL;
	options.unicode = is_utf8();
	return options;
}

static int write_to(const struct cover_report *report, const struct lh_coverage *coverage, FILE *out)
{
	const struct lh_report_options options = terminal(report);
	int result = find_format(report->format)->write(coverage, &options, out);

	if (result == 0 && fflush(out) != 0)
		result = -errno;
	return result;
}

/* What is no file of its own (a pipe, a terminal) is written to as it is. */
static int write_directly(const struct cover_report *report, const struct lh_coverage *coverage)
{
	FILE *out = fopen(report->output, "we");
	int result;

	if (!out)
		return -errno;
	result = write_to(report, coverage, out);
	if (fclose(out) != 0 && result == 0)
		result = -errno;
	return result;
}

static int write_file(const struct cover_report *report, const struct lh_coverage *coverage)
{
	char beside[PATH_MAX];
	int file, result;
	FILE *out;

	if (!is_regular_or_none(report->output))
		return write_directly(report, coverage);
	file = open_beside(report->output, beside);
	if (file < 0)
		return file;
	out = fdopen(file, "w");
	if (!out) {
		result = -errno;
		close(file);
	} else {
		result = write_to(report, coverage, out);
		if (fclose(out) != 0 && result == 0)
			result = -errno;
	}
	if (result == 0 && rename(beside, report->output) < 0)
		result = -errno;
	if (result < 0)
		unlink(beside);
	return result;
}

/* The share that ran, in tenths of a percent: of lines of source, or where none are known of blocks. */
static unsigned share(const struct lh_coverage *coverage, const char **what)
{
	uint64_t hit = 0, all = 0;

	*what = "lines of source";
	for (uint32_t i = 0; i < coverage->files; i++) {
		hit += coverage->file[i].hit;
		all += coverage->file[i].lines;
	}
	if (all == 0) {
		*what = "blocks of code";
		for (uint32_t i = 0; i < coverage->modules; i++) {
			hit += coverage->module[i].blocks_hit;
			all += coverage->module[i].blocks;
		}
	}
	return lh__report_tenths(hit, all);
}

static int judge(const struct cover_report *report, const struct lh_coverage *coverage)
{
	const char *what;
	unsigned tenths = share(coverage, &what);

	if (tenths >= report->fail_under)
		return CLI_GO_ON;
	return cli_fail(report->command, COVER_TOO_LITTLE,
	                "%u.%u %% of the %s ran: less than --fail-under %u.%u", tenths / 10, tenths % 10,
	                what, report->fail_under / 10, report->fail_under % 10);
}

int cover_write(const struct cover_report *report, struct lh_record *record, bool final)
{
	struct lh_coverage_options options = { .libraries = report->libraries,
		                               .filter = report->filter.n ? report->filter.at : NULL,
		                               .source = report->source.n ? report->source.at : NULL };
	struct lh_coverage *coverage;
	struct lh_error error = { 0 };
	int result = lh__coverage_make(record, &options, &coverage, &error), status = CLI_GO_ON;

	if (result < 0)
		return cli_fail(report->command, CLI_FAILED, "no report: %s", error.text);
	result = report->output ? write_file(report, coverage) : write_to(report, coverage, stdout);
	if (result < 0)
		status = report->output
		                 ? fail_output(report, result)
		                 : cli_fail(report->command, CLI_FAILED,
		                            "standard output cannot be written: %s", strerror(-result));
	else if (final)
		status = judge(report, coverage);
	lh__coverage_free(coverage);
	return status;
}
