/* serve.c - linehome serve: a memory node. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <jansson.h>

#include "cli/cli.h"
#include "service/serve/server.h"

static struct lh_server *running; /* for the signal handler */

static void stop(int signal)
{
	lh__server_stop(running);
}

static void catch_signals(struct lh_server *server)
{
	struct sigaction action = { .sa_handler = stop };

	running = server;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, NULL);
}

static void log_line(void *context, const char *line)
{
	fprintf(stderr, "linehome serve: %s\n", line);
}

/* A client takes two descriptors: as many as this process may have. */
static void raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

static json_t *make_statistics(const struct lh_server_counts counts)
{
	const struct {
		const char *name;
		uint64_t value;
	} * at, table[] = {
		{ "connections", counts.connections },
		{ "connections_refused", counts.refused },
		{ "connections_ended_for_violations", counts.violations },
		{ "regions", counts.regions },
		{ "regions_cloned", counts.clones },
		{ "regions_now", counts.regions_now },
		{ "regions_named_now", counts.named_now },
		{ "bytes_used", counts.bytes_used },
		{ "bytes_limit", counts.bytes_limit },
		{ "gets", counts.gets },
		{ "puts", counts.puts },
		{ "replaces", counts.replaces },
		{ "drops", counts.drops },
		{ "changes_refused_full", counts.full },
		{ "lines_in", counts.lines_in },
		{ "lines_out", counts.lines_out },
		{ "bytes_in", counts.bytes_in },
		{ "bytes_out", counts.bytes_out },
		{ NULL, 0 },
	};
	json_t *object = json_object();

	for (at = table; at->name; at++)
		json_object_set_new(object, at->name, json_integer((json_int_t)at->value));
	return object;
}

static int write_statistics(struct lh_server *server, const char *path)
{
	FILE *file = strcmp(path, "-") == 0 ? stderr : fopen(path, "w");
	struct lh_server_counts counts;
	json_t *object;
	int status = 0;

	lh__server_read_counts(server, &counts);
	object = make_statistics(counts);
	if (!file || json_dumpf(object, file, JSON_INDENT(2)) != 0 || fputc('\n', file) == EOF)
		status = cli_fail("serve", CLI_FAILED, "%s: the statistics cannot be written: %s", path,
		                  strerror(errno));
	if (file && file != stderr && fclose(file) != 0 && status == 0)
		status = cli_fail("serve", CLI_FAILED, "%s: the statistics cannot be written: %s", path,
		                  strerror(errno));
	json_decref(object);
	return status;
}

static int serve(struct lh_server *server, const char *stats)
{
	struct lh_error error;
	const char *url;
	size_t i;
	int status = 0;

	catch_signals(server);
	for (i = 0; (url = lh__server_url(server, i)) != NULL; i++)
		fprintf(stderr, "%s%s", i == 0 ? "linehome serve: listening on " : ", ", url);
	fputc('\n', stderr);
	if (lh__server_run(server, &error) < 0)
		status = cli_fail("serve", CLI_FAILED, "%s", error.text);
	if (stats && status == 0)
		status = write_statistics(server, stats);
	return status;
}

/* Writes nothing, but finds out now that the statistics could not be written later. */
static int check_stats(const char *path)
{
	FILE *file;

	if (!path || strcmp(path, "-") == 0)
		return 0;
	file = fopen(path, "a");
	if (!file)
		return cli_fail("serve", CLI_FAILED, "%s: the statistics cannot be written: %s", path,
		                strerror(errno));
	fclose(file);
	return 0;
}

static int start(const struct cli_urls *urls, struct lh_server_options *options, const char *stats)
{
	const char *words[CLI_URLS_MAX];
	struct lh_server *server;
	struct lh_error error;
	size_t i;
	int status = check_stats(stats);

	if (status)
		return status;
	for (i = 0; i < urls->n; i++)
		words[i] = urls->at[i].text;
	options->listen = words;
	options->listen_count = urls->n;
	options->log = log_line;
	raise_descriptors();
	if (lh__server_open(options, &server, &error) < 0)
		return cli_fail("serve", CLI_FAILED, "%s", error.text);
	status = serve(server, stats);
	lh__server_close(server);
	return status;
}

int cli_serve(int argc, char **argv)
{
	struct cli_urls urls = { 0 };
	uint64_t grace = LH_SERVER_GRACE_MS, size = 0;
	const char *key_file = NULL, *stats = NULL;
	struct cli_option options[] = {
		{ "listen", CLI_LISTEN, "URL", "listen on unix:PATH or tcp://HOST:PORT; may be repeated",
		  &urls, false },
		{ "size", CLI_SIZE, "SIZE", "hold at most SIZE of pages; more is refused", &size, false },
		{ "key-file", CLI_TEXT, "FILE", "speak TLS over TCP, with the key in FILE", &key_file,
		  false },
		{ "grace", CLI_DURATION, "SECONDS", "keep a lost client's memory for SECONDS (10)", &grace,
		  false },
		{ "stats", CLI_TEXT, "FILE", "write what was done as JSON to FILE in the end; - is stderr",
		  &stats, false },
		{ .name = NULL },
	};
	struct cli_usage usage = { "serve", NULL,
		                   "Lends this machine's memory to programs under linehome run.", options,
		                   CLI_NOTHING };
	struct lh_server_options server = { .spin_us = LH_SERVER_SPIN_US };
	int status = cli_parse(&usage, &argc, &argv);

	if (status != CLI_GO_ON)
		return status;
	if (urls.n == 0)
		return cli_fail("serve", CLI_BAD_USAGE,
		                "nowhere to listen: give --listen unix:PATH or --listen tcp://HOST:PORT");
	server.size = size;
	server.key_file = key_file;
	server.grace_ms = (unsigned)(grace < UINT32_MAX / 2 ? grace : UINT32_MAX / 2);
	return start(&urls, &server, stats);
}
