/* trace.c - linehome trace: which code of a program is live when, or how often and how long functions run. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "cli/trace.h"

FILE *trace_open(const struct trace_given *given)
{
	/* Standard output is the program's, where one was started. */
	FILE *out = given->output ? fopen(given->output, "we") : given->process ? stdout : stderr;

	if (!out)
		(void)cli_fail(TRACE, CLI_FAILED, "--output %s: cannot be written: %s", given->output,
		               strerror(errno));
	return out;
}

int trace_close(const struct trace_given *given, FILE *out, int status)
{
	int failed;

	if (!given->output)
		return status; /* main looks at standard output */
	failed = ferror(out);
	if ((fclose(out) != 0 || failed) && status == 0)
		return cli_fail(TRACE, CLI_FAILED, "--output %s: cannot be written; free space there",
		                given->output);
	return status;
}

uint64_t trace_now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

int trace_status(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int dispatch(struct trace_given *given, int argc, char **argv)
{
	static const int passed[] = { SIGINT, SIGTERM, SIGHUP, 0 };
	int status;

	given->program = argv;
	if (given->process && argc > 0)
		return cli_fail(TRACE, CLI_BAD_USAGE, "--pid %d and a program, %s; write one of them",
		                given->process, argv[0]);
	if (!given->process && argc == 0)
		return cli_fail(
			TRACE, CLI_BAD_USAGE,
			"no program; write for instance linehome trace --calls malloc -- PROGRAM, or -p PID");
	if (given->calls && (given->interval_ms || given->windows))
		return cli_fail(TRACE, CLI_BAD_USAGE,
		                "--calls has no windows; write it without --interval and --windows");
	if (given->calls && given->format == TRACE_HTML)
		return cli_fail(TRACE, CLI_BAD_USAGE, "--format html: is for windows; write table or json");
	if (given->process) {
		status = cli_shield(TRACE, passed, true);
		if (status != CLI_GO_ON)
			return status;
	}
	if (given->calls)
		return trace_calls(given);
	if (given->interval_ms == 0)
		given->interval_ms = 1000;
	return trace_windows(given);
}

int cli_trace(int argc, char **argv)
{
	struct trace_given given = { .wait_ms = 5000 };
	struct cli_option options[] = {
		{ "p|pid", CLI_PROCESS, "PID", "a process that runs, instead of a program", &given.process,
		  false },
		{ "calls", CLI_TEXT, "FUNCTION[,FUNCTION...]", "count and time calls of these functions",
		  &given.calls, false },
		{ "interval", CLI_DURATION, "SECONDS", "how long a window of live code is (1)",
		  &given.interval_ms, false },
		{ "windows", CLI_NUMBER, "N", "end after so many windows", &given.windows, false },
		{ "duration", CLI_DURATION, "SECONDS", "end after this time", &given.duration_ms, false },
		{ "include-libraries", CLI_FLAG, NULL, "windows: of the code of libraries, too",
		  &given.libraries, false },
		{ "wait", CLI_DURATION, "SECONDS",
		  "calls: try so long to find a moment at which no thread is in the way (5)", &given.wait_ms,
		  false },
		{ "format", CLI_CHOICE, "table|json|html", "of the report (table)", &given.format, false },
		{ "o|output", CLI_TEXT, "FILE", "write the report there", &given.output, false },
		{ .name = NULL },
	};
	const struct cli_usage usage = {
		.command = TRACE,
		.arguments = "[--] PROGRAM [ARG...]",
		.about = "Tells which code of a program is live when; or counts and times calls.",
		.options = options,
		.rest = CLI_PROGRAM,
	};
	int status = cli_parse(&usage, &argc, &argv);

	return status == CLI_GO_ON ? dispatch(&given, argc, argv) : status;
}
