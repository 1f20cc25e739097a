/* cover.c - linehome cover: which code of a program runs. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cover.h"
#include "service/code/session.h"

#define COMMAND "cover"

struct covering {
	pid_t process; /* 0: a program is launched */
	const char *record, *from, *until;
	unsigned granularity, engine;
	bool no_look_ahead, collect_only;
	struct cli_list exclude;
	struct cover_report report;
};

/* ---- signals ---- */

/* What has come; handlers are given nothing else to put it in. */
static volatile sig_atomic_t wants_report, wants_end, last_signal;

static void on_signal(int number)
{
	if (number == SIGUSR1)
		wants_report = 1;
	else
		wants_end = 1;
	last_signal = number;
}

static void on_nothing(int number)
{
	(void)number;
}

/*
 * Handlers and not SIG_IGN: what is executed has its signals as we were given them. What was ignored stays
 * ignored. All that is handled is blocked except where a wait is.
 */
static bool handle(int number, void (*handler)(int number))
{
	struct sigaction action;

	if (sigaction(number, NULL, &action) < 0 || action.sa_handler == SIG_IGN)
		return false;
	action = (struct sigaction){ .sa_handler = handler };
	sigaction(number, &action, NULL);
	return true;
}

static const int taken[] = { SIGUSR1, SIGINT, SIGQUIT, SIGTERM, SIGHUP, 0 };

static void take_signals(sigset_t *before)
{
	sigset_t blocked;

	sigemptyset(&blocked);
	for (unsigned i = 0; taken[i]; i++)
		if (handle(taken[i], on_signal))
			sigaddset(&blocked, taken[i]);
	(void)handle(SIGXFSZ, on_nothing);
	sigprocmask(SIG_BLOCK, &blocked, before);
}

/* Whether a shell's job control is what stopped the program: then we stop with it. */
static bool has_terminal(void)
{
	int terminal = open("/dev/tty", O_RDONLY | O_CLOEXEC | O_NOCTTY);
	bool ours;

	if (terminal < 0)
		return false;
	ours = tcgetpgrp(terminal) == getpgrp();
	close(terminal);
	return ours;
}

static void stop_with_program(const struct lh_session *session)
{
	if (!has_terminal())
		return;
	raise(SIGSTOP);
	kill(lh__session_process(session), SIGCONT);
}

/* ---- the run ---- */

static void say(void *context, const char *text)
{
	(void)context;
	cli_fail(COMMAND, 0, "%s", text);
}

/*
 * A signal has come. Of a program that was launched: the terminal has sent SIGINT and SIGQUIT to it as well;
 * what was sent to us alone is passed on. True: to be ended.
 */
static bool take_signal(const struct covering *covering, struct lh_session *session, struct lh_record *record)
{
	if (wants_report) {
		wants_report = 0;
		/* What is wrong was said; the program goes on. */
		(void)!cover_write(&covering->report, record, false);
	}
	if (!wants_end)
		return false;
	wants_end = 0;
	if (covering->process)
		return true;
	if (last_signal == SIGTERM || last_signal == SIGHUP)
		kill(lh__session_process(session), last_signal);
	return false;
}

static int exit_status(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Until the program has ended, or we are to let go. */
static int serve(const struct covering *covering, struct lh_session *session, struct lh_record *record,
                 int *status)
{
	struct lh_error error = { 0 };

	for (;;) {
		int result = lh__session_wait(session, -1, status, &error);

		if (result < 0)
			return cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
		if (result == 2)
			stop_with_program(session);
		else if (result == 1) {
			*status = exit_status(*status);
			return CLI_GO_ON;
		}
		if (result == 0 && take_signal(covering, session, record)) {
			*status = 0;
			return CLI_GO_ON;
		}
	}
}

static int begin(const struct covering *covering, const sigset_t *mask, struct lh_record *record, char **argv,
                 struct lh_session **session)
{
	struct lh_session_options options = { .engine = (enum lh_session_choice)covering->engine,
		                              .look_ahead = !covering->no_look_ahead,
		                              .libraries = covering->report.libraries,
		                              .exclude = covering->exclude.n ? covering->exclude.at : NULL,
		                              .from = covering->from,
		                              .until = covering->until,
		                              .record = record,
		                              .mask = mask,
		                              .say = say };
	struct lh_error error = { 0 };
	int result = covering->process ? lh__session_attach(&options, covering->process, session, &error)
	                               : lh__session_launch(&options, argv, session, &error);

	if (result == 0)
		return CLI_GO_ON;
	if (!covering->process && result == -ENOENT)
		return cli_fail(COMMAND, CLI_NOT_FOUND, "%s", error.text);
	if (!covering->process && result == -EACCES)
		return cli_fail(COMMAND, CLI_NOT_EXECUTABLE, "%s", error.text);
	return cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
}

/* The exit status: the program's, unless something of ours has failed, or it was well and too little ran. */
static int cover(const struct covering *covering, const sigset_t *mask, struct lh_record *record, char **argv)
{
	struct lh_session *session;
	struct lh_error error = { 0 };
	bool verified;
	int program = 0, status = begin(covering, mask, record, argv, &session), reported;

	if (status != CLI_GO_ON)
		return status;
	status = serve(covering, session, record, &program);
	if (lh__session_end(session, &verified, &error) < 0)
		status = cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
	else if (!verified)
		status = CLI_FAILED;
	reported = covering->collect_only ? CLI_GO_ON : cover_write(&covering->report, record, true);
	if (status != CLI_GO_ON)
		return status;
	if (reported != CLI_GO_ON && (reported != COVER_TOO_LITTLE || program == 0))
		return reported;
	return program;
}

static int start(struct covering *covering, int argc, char **argv)
{
	struct lh_record *record;
	struct lh_error error = { 0 };
	sigset_t mask;
	char word[32], *attached[] = { word, NULL };
	int status = cover_check(&covering->report);

	if (status != CLI_GO_ON)
		return status;
	if (covering->collect_only && !covering->record)
		return cli_fail(
			COMMAND, CLI_BAD_USAGE,
			"--collect-only writes no report; say where to keep what was seen: --record FILE");
	if (covering->process && argc > 0)
		return cli_fail(COMMAND, CLI_BAD_USAGE,
		                "%s: --pid watches a process that runs already; leave one out", argv[0]);
	if (!covering->process && argc == 0)
		return cli_fail(COMMAND, CLI_BAD_USAGE,
		                "no program; write linehome cover PROGRAM, or linehome cover --pid PID");
	if (covering->process) {
		status = cli_shield(COMMAND, taken, true);
		if (status != CLI_GO_ON)
			return status;
	}
	take_signals(&mask);
	snprintf(word, sizeof(word), "process %d", covering->process);
	if (lh__record_create(covering->record, (enum lh_granularity)covering->granularity,
	                      argc ? argv : attached, &record, &error) < 0)
		return cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
	status = cover(covering, &mask, record, argv);
	lh__record_close(record);
	return status;
}

int cli_cover(int argc, char **argv)
{
	struct covering covering = { .report = { .command = COMMAND, .drcov_version = 1 } };
	struct cover_report *report = &covering.report;
	struct cli_option options[] = {
		{ "p|pid", CLI_PROCESS, "PID", "watch a process that runs, until Ctrl-C", &covering.process,
		  false },
		{ "o|output", CLI_TEXT, "FILE", "write the report there (standard output)", &report->output,
		  false },
		{ "format", CLI_CHOICE, COVER_FORMATS, "of the report (by FILE's name)", &report->format,
		  false },
		{ "granularity", CLI_CHOICE, "block|line", "what a trap brings back (block)",
		  &covering.granularity, false },
		{ "include-libraries", CLI_FLAG, NULL, "watch libraries, too", &report->libraries, false },
		{ "filter", CLI_LIST, "PATTERN,...", "files, functions, modules to report on; !PATTERN: not",
		  &report->filter, false },
		{ "source", CLI_LIST, "FROM=TO,...", "where folders of the debug information are here",
		  &report->source, false },
		{ "from", CLI_TEXT, "FUNCTION", "record when it is called, and not before", &covering.from,
		  false },
		{ "until", CLI_TEXT, "FUNCTION", "and no more when that is called", &covering.until, false },
		{ "exclude", CLI_LIST, "WHAT,...", "functions, or ranges 0xA-0xB, to leave untouched",
		  &covering.exclude, false },
		{ "record", CLI_TEXT, "FILE", "keep what was seen, for linehome cover merge",
		  &covering.record, false },
		{ "fail-under", CLI_PERCENT, "PERCENT", "exit with 1 if less ran", &report->fail_under,
		  false },
		{ "drcov-version", CLI_CHOICE, "2|3", "of --format drcov (3)", &report->drcov_version,
		  false },
		{ "engine", CLI_CHOICE, "auto|inside|outside", "how traps are answered (auto)",
		  &covering.engine, false },
		{ "no-look-ahead", CLI_FLAG, NULL, "bring back nothing before it runs",
		  &covering.no_look_ahead, false },
		{ "collect-only", CLI_FLAG, NULL, "write no report; with --record", &covering.collect_only,
		  false },
		{ .name = NULL },
	};
	struct cli_usage usage = { COMMAND, "[--] PROGRAM [ARG...]",
		                   "Watches which code of an unmodified program runs, and reports on it.\n\n"
		                   "  merge      put records of several runs together",
		                   options, CLI_PROGRAM };
	int status;

	if (argc > 1 && strcmp(argv[1], "merge") == 0)
		return cover_merge(argc - 1, argv + 1);
	status = cli_parse(&usage, &argc, &argv);
	if (status != CLI_GO_ON)
		return status;
	report->format_given = options[2].given;
	return start(&covering, argc, argv);
}
