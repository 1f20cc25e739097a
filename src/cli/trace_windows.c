/* trace_windows.c - linehome trace: which functions were live in which windows of time. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/trace.h"
#include "service/code/coverage.h"
#include "service/code/session.h"
#include "service/code/windows.h"

/* What a run of the trace has open. */
struct trace {
	const struct trace_given *given;
	struct lh_record *record, *seen, *all; /* all: of every window, for the names */
	struct lh_windows *windows;
	struct lh_session *session;
	uint64_t began;
	int ended, status; /* the program has; its wait status */
	struct lh_error error;
};

static volatile sig_atomic_t interrupted;

static void note_signal(int signal)
{
	interrupted = signal;
}

static void say(void *context, const char *text)
{
	fprintf(stderr, "linehome trace: %s\n", text);
}

/* The window that is open ends now: what it saw is taken away again, and goes to the collector. */
static int end_window(struct trace *trace)
{
	uint64_t ms = trace_now() - trace->began;
	int result = lh__session_take(trace->session, trace->seen, &trace->error);

	if (result == 0)
		result = lh__windows_add(trace->windows, trace->seen, ms, &trace->error);
	if (result == 0)
		result = lh__record_merge(trace->all, trace->seen, &trace->error);
	return result;
}

/* Until until_ms after the beginning, the program's end or a signal. */
static int wait_until(struct trace *trace, uint64_t until_ms)
{
	while (!trace->ended && !interrupted) {
		uint64_t now = trace_now() - trace->began;
		int result;

		if (now >= until_ms)
			return 0;
		result = lh__session_wait(trace->session, (int)(until_ms - now), &trace->status,
		                          &trace->error);
		if (result < 0)
			return result;
		if (result == 2) { /* job control has stopped the program, and now us */
			raise(SIGSTOP);
			kill(lh__session_process(trace->session), SIGCONT);
		}
		trace->ended = result == 1;
	}
	return 0;
}

static int watch(struct trace *trace)
{
	const struct trace_given *given = trace->given;
	uint64_t end = given->duration_ms ? given->duration_ms : UINT64_MAX, until = 0;
	int result = 0;

	trace->began = trace_now();
	for (unsigned n = 0; result == 0 && !trace->ended && !interrupted && until < end; n++) {
		if (given->windows && n == given->windows)
			break;
		until = until + given->interval_ms < end ? until + given->interval_ms : end;
		result = wait_until(trace, until);
		if (result == 0)
			result = end_window(trace);
	}
	return result;
}

static unsigned columns(void)
{
	struct winsize size = { 0 };

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

static int write_report(const struct trace *trace, const struct lh_trace_model *model)
{
	const struct trace_given *given = trace->given;
	FILE *out = trace_open(given);
	char title[64];
	int result;

	if (!out)
		return CLI_FAILED;
	snprintf(title, sizeof title, "process %d", given->process);
	if (given->format == TRACE_JSON)
		result = lh__windows_json(model, out);
	else if (given->format == TRACE_HTML)
		result = lh__windows_html(model, given->process ? title : given->program[0], out);
	else
		result = lh__windows_table(model, given->output ? 0 : columns(), out);
	return trace_close(given, out, 0) || result < 0 ? CLI_FAILED : 0;
}

static int report(struct trace *trace)
{
	const struct lh_coverage_options options = { .libraries = trace->given->libraries };
	struct lh_trace_model *model;
	struct lh_coverage *coverage;
	int result = lh__coverage_make(trace->all, &options, &coverage, &trace->error);

	if (result < 0)
		return cli_fail(TRACE, CLI_FAILED, "%s", trace->error.text);
	result = lh__windows_model(trace->windows, coverage, &model);
	if (result < 0) {
		lh__coverage_free(coverage);
		return cli_fail(TRACE, CLI_FAILED, "the windows cannot be put together: %s",
		                strerror(-result));
	}
	result = write_report(trace, model);
	lh__windows_free(model);
	lh__coverage_free(coverage);
	return result;
}

static int open_trace(struct trace *trace)
{
	char *const *command = trace->given->process ? NULL : trace->given->program;
	struct lh_record **record[] = { &trace->record, &trace->seen, &trace->all };

	for (int i = 0; i < 3; i++) {
		int result = lh__record_create(NULL, LH_GRANULARITY_LINE, command, record[i], &trace->error);

		if (result < 0)
			return result;
	}
	return lh__windows_open(&trace->windows) < 0 ? lh__fail(&trace->error, -ENOMEM, "no memory") : 0;
}

static void close_trace(struct trace *trace)
{
	if (trace->windows)
		lh__windows_close(trace->windows);
	if (trace->record)
		lh__record_close(trace->record);
	if (trace->seen)
		lh__record_close(trace->seen);
	if (trace->all)
		lh__record_close(trace->all);
}

/* Signals end a wait, and only a wait. */
static void catch_signals(sigset_t *before)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action = { .sa_handler = note_signal };
	sigset_t caught;

	sigemptyset(&caught);
	for (int i = 0; i < 3; i++) {
		sigaddset(&caught, signals[i]);
		sigaction(signals[i], &action, NULL);
	}
	sigprocmask(SIG_BLOCK, &caught, before);
}

static int open_session(struct trace *trace, const sigset_t *before)
{
	const struct trace_given *given = trace->given;
	const struct lh_session_options options = {
		.libraries = given->libraries, .record = trace->record, .mask = before, .say = say
	};

	if (given->process)
		return lh__session_attach(&options, given->process, &trace->session, &trace->error);
	return lh__session_launch(&options, given->program, &trace->session, &trace->error);
}

static int trace_session(struct trace *trace)
{
	struct lh_error error = { 0 };
	bool verified = true;
	int result = watch(trace), left;

	/* A program that goes on when the trace is over is left to itself, and waited for. */
	left = lh__session_end(trace->session, &verified, &error);
	if (result < 0)
		return cli_fail(TRACE, CLI_FAILED, "%s", trace->error.text);
	if (left < 0)
		return cli_fail(TRACE, CLI_FAILED, "%s", error.text);
	if (!verified)
		return cli_fail(TRACE, CLI_FAILED, "the code is not as it was before");
	return report(trace);
}

int trace_windows(const struct trace_given *given)
{
	struct trace trace = { .given = given };
	sigset_t before;
	int result, status;
	pid_t process;

	catch_signals(&before);
	result = open_trace(&trace);
	if (result == 0)
		result = open_session(&trace, &before);
	if (result < 0) {
		close_trace(&trace);
		return cli_fail(TRACE,
		                given->process      ? CLI_FAILED
		                : result == -ENOENT ? CLI_NOT_FOUND
		                : result == -EACCES ? CLI_NOT_EXECUTABLE
		                                    : CLI_FAILED,
		                "%s", trace.error.text);
	}
	process = lh__session_process(trace.session);
	status = trace_session(&trace);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (!given->process && !trace.ended && waitpid(process, &trace.status, 0) != process)
		trace.status = 0;
	close_trace(&trace);
	return status == 0 && !given->process ? trace_status(trace.status) : status;
}
