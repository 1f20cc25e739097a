/*
 * serve_uffd.c - linehome serve-uffd: a machine's memory out of a file, for who hands it over as Firecracker
 * does.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <jansson.h>

#include "cli/cli.h"
#include "service/migrate/record.h"
#include "service/migrate/uffd.h"

#define COMMAND "serve-uffd"

static void log_line(void *context, const char *line)
{
	fprintf(stderr, "linehome " COMMAND ": %s\n", line);
}

static void listening(void *context)
{
	const struct lh_uffd_options *options = context;

	fprintf(stderr, "linehome " COMMAND ": listening on %s\n", options->socket);
}

static int write_statistics(json_t *stats, const char *path)
{
	FILE *file = strcmp(path, "-") == 0 ? stderr : fopen(path, "we");
	int status = CLI_GO_ON;

	if (!file || json_dumpf(stats, file, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) != 0 ||
	    fputc('\n', file) == EOF)
		status = cli_fail(COMMAND, CLI_FAILED, "--stats %s: cannot be written: %s", path,
		                  strerror(errno));
	if (file && file != stderr && fclose(file) != 0 && status == CLI_GO_ON)
		status = cli_fail(COMMAND, CLI_FAILED, "--stats %s: cannot be written: %s", path,
		                  strerror(errno));
	return status;
}

/* What could not be written in the end is found out now. */
static int check_written(const char *record, const char *stats)
{
	struct lh_error error = { 0, "" };
	FILE *file;

	if (record && lh__record_writable(record, &error) < 0)
		return cli_fail(COMMAND, CLI_FAILED, "--record %s", error.text);
	if (!stats || strcmp(stats, "-") == 0)
		return CLI_GO_ON;
	file = fopen(stats, "ae");
	if (!file)
		return cli_fail(COMMAND, CLI_FAILED, "--stats %s: cannot be written: %s", stats,
		                strerror(errno));
	fclose(file);
	return CLI_GO_ON;
}

static int serve(struct lh_uffd_options *options, const char *path)
{
	struct lh_error error = { 0, "" };
	json_t *stats = NULL;
	sigset_t signals;
	int result, status = 0;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	options->cancel = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (options->cancel < 0)
		return cli_fail(COMMAND, CLI_FAILED, "signalfd: %s", strerror(errno));
	options->say = log_line;
	options->listening = listening;
	options->context = options;
	result = lh__uffd_serve(options, &stats, &error);
	if (result < 0)
		status = cli_fail(COMMAND, CLI_FAILED, "%s", error.text);
	if (stats && path && status == 0 && write_statistics(stats, path) != CLI_GO_ON)
		status = CLI_FAILED;
	json_decref(stats);
	close(options->cancel);
	return status;
}

int cli_serve_uffd(int argc, char **argv)
{
	struct lh_uffd_options uffd = { .policy = LH_ORDER_AROUND };
	unsigned policy = LH_ORDER_AROUND;
	const char *stats = NULL;
	struct cli_option options[] = {
		{ "socket", CLI_TEXT, "PATH", "listen there for machines that hand their memory over",
		  &uffd.socket, false },
		{ "memory", CLI_TEXT, "FILE", "the memory that they begin with", &uffd.memory, false },
		{ "policy", CLI_CHOICE, "linear|around|recorded|none",
		  "in which order comes what nobody waits for (around)", &policy, false },
		{ "recorded", CLI_TEXT, "FILE", "of policy recorded: what an earlier machine missed",
		  &uffd.recorded, false },
		{ "record", CLI_TEXT, "FILE", "write what a machine missed to FILE, when it has gone",
		  &uffd.record, false },
		{ "once", CLI_FLAG, NULL, "end when the first machine has gone", &uffd.once, false },
		{ "stats", CLI_TEXT, "FILE", "write what was done as JSON to FILE in the end; - is stderr",
		  &stats, false },
		{ .name = NULL },
	};
	struct cli_usage usage = { COMMAND, NULL,
		                   "Brings the memory of machines that are restored, page by page, out of "
		                   "a file.",
		                   options, CLI_NOTHING };
	static const enum lh_order_policy policies[] = { LH_ORDER_LINEAR, LH_ORDER_AROUND, LH_ORDER_RECORDED,
		                                         LH_ORDER_NONE };
	int status = cli_parse(&usage, &argc, &argv);

	if (status != CLI_GO_ON)
		return status;
	if (!uffd.socket)
		return cli_fail(COMMAND, CLI_BAD_USAGE, "nowhere to listen: give --socket PATH");
	if (!uffd.memory)
		return cli_fail(COMMAND, CLI_BAD_USAGE,
		                "give --memory FILE, the memory file of the machine's snapshot");
	uffd.policy = uffd.recorded && policy == LH_ORDER_AROUND ? LH_ORDER_RECORDED : policies[policy];
	if (uffd.policy == LH_ORDER_RECORDED && !uffd.recorded)
		return cli_fail(COMMAND, CLI_BAD_USAGE,
		                "--policy recorded: give --recorded FILE, which --record has written");
	if (uffd.policy != LH_ORDER_RECORDED && uffd.recorded)
		return cli_fail(COMMAND, CLI_BAD_USAGE, "--recorded: goes with --policy recorded alone");
	status = check_written(uffd.record, stats);
	return status == CLI_GO_ON ? serve(&uffd, stats) : status;
}
