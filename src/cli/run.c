/* run.c - linehome run: a program whose memory lives on a memory node. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "home/home.h"
#include "port/page/page.h"
#include "service/launch/launch.h"
#include "service/run/run.h"

#define MIB (1024.0 * 1024.0)
#define TIMEOUT_MS 30000

/* ---- statistics ---- */

/* The latency below which a share of the fetches was answered: the upper end of its bucket. */
static uint64_t percentile(const struct lh_stats *stats, double share)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < LH_LATENCY_BUCKETS; i++)
		total += stats->latency[i];
	for (unsigned i = 0; i < LH_LATENCY_BUCKETS && total; i++) {
		seen += stats->latency[i];
		if ((double)seen >= share * (double)total)
			return lh__latency_floor(i + 1);
	}
	return 0;
}

static double ratio(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0;
}

static json_t *faults(const struct lh_stats *stats)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I}", "zero", (json_int_t)stats->faults_zero, "staging",
	                 (json_int_t)stats->faults_staging, "store", (json_int_t)stats->faults_store,
	                 "prefetched", (json_int_t)stats->faults_prefetched, "present",
	                 (json_int_t)stats->faults_present);
}

static json_t *latency(const struct lh_stats *stats)
{
	uint64_t fetches = 0;

	for (unsigned i = 0; i < LH_LATENCY_BUCKETS; i++)
		fetches += stats->latency[i];
	return json_pack("{s:I,s:I,s:I,s:I,s:I}", "mean",
	                 (json_int_t)(fetches ? stats->latency_ns / fetches : 0), "p50",
	                 (json_int_t)percentile(stats, 0.5), "p90", (json_int_t)percentile(stats, 0.9), "p99",
	                 (json_int_t)percentile(stats, 0.99), "p999", (json_int_t)percentile(stats, 0.999));
}

static json_t *fetched(const struct lh_stats *stats)
{
	return json_pack("{s:I,s:I,s:I}", "pages", (json_int_t)stats->pages_fetched, "lines",
	                 (json_int_t)stats->lines_fetched, "prefetched_pages",
	                 (json_int_t)stats->pages_prefetched);
}

static json_t *written(const struct lh_stats *stats)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:f}", "pages", (json_int_t)stats->pages_written,
	                 "stayed_pages", (json_int_t)stats->pages_stayed, "lines",
	                 (json_int_t)stats->lines_written, "changed_bytes", (json_int_t)stats->bytes_changed,
	                 "blocks", (json_int_t)stats->blocks_written, "mean_residence_ms",
	                 ratio(stats->residence_ns, stats->pages_written) / 1e6);
}

/* Bytes that would have been written back at a granularity, over the bytes that were changed. */
static json_t *amplification(const struct lh_stats *stats)
{
	uint64_t changed = stats->bytes_changed;

	return json_pack("{s:f,s:f,s:f}", "64", ratio(stats->lines_written * LH_LINE_SIZE, changed), "4096",
	                 ratio(stats->pages_written * LH_PAGE_SIZE, changed), "2097152",
	                 ratio(stats->blocks_written << 21, changed));
}

static json_t *evictions(const struct lh_stats *stats)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "deactivated", (json_int_t)stats->pages_deactivated,
	                 "reclaimed", (json_int_t)stats->pages_reclaimed, "clean",
	                 (json_int_t)stats->pages_dropped_clean, "zero",
	                 (json_int_t)stats->pages_dropped_zero, "refaults", (json_int_t)stats->faults_staging,
	                 "busy", (json_int_t)stats->busy_retries);
}

static json_t *to_json(const struct lh_run_control *control, const struct lh_run_result *result)
{
	const struct lh_stats *stats = &control->stats;

	return json_pack("{s:s,s:s,s:I,s:i,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:"
	                 "I,s:I,s:I}",
	                 "store", control->store, "engine",
	                 control->engine == LH_ENGINE_INLINE ? "inline" : "thread", "local_bytes",
	                 (json_int_t)control->local, "exit_status", result->status, "wall_ms",
	                 (json_int_t)result->milliseconds, "processes", (json_int_t)control->processes,
	                 "processes_paged", (json_int_t)control->processes_paged, "engine_changes",
	                 (json_int_t)control->engine_changes, "forks", (json_int_t)stats->forks, "faults",
	                 faults(stats), "fetch_latency_ns", latency(stats), "fetched", fetched(stats),
	                 "written", written(stats), "amplification", amplification(stats), "evictions",
	                 evictions(stats), "zero_pages_ahead", (json_int_t)stats->pages_zero_ahead,
	                 "bytes_out", (json_int_t)control->bytes_out, "bytes_in",
	                 (json_int_t)control->bytes_in, "reconnects", (json_int_t)control->reconnects,
	                 "stalls", (json_int_t)stats->stalls, "stall_ns", (json_int_t)stats->stall_ns,
	                 "peak_local_bytes", (json_int_t)control->peak_local, "peak_homed_bytes",
	                 (json_int_t)control->peak_homed);
}

static int write_stats(const char *path, const struct lh_run_control *control,
                       const struct lh_run_result *result)
{
	json_t *object = to_json(control, result);
	FILE *file = strcmp(path, "-") == 0 ? stderr : fopen(path, "we");
	int status = CLI_GO_ON;

	if (!file || !object || json_dumpf(object, file, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) < 0 ||
	    fputc('\n', file) == EOF || fflush(file) == EOF)
		status = cli_fail("run", CLI_FAILED, "--stats %s: cannot be written: %s", path,
		                  strerror(errno));
	if (file && file != stderr && fclose(file) == EOF && status == CLI_GO_ON)
		status = cli_fail("run", CLI_FAILED, "--stats %s: cannot be written: %s", path,
		                  strerror(errno));
	json_decref(object);
	return status;
}

/* ---- progress ---- */

static void progress(void *context, const struct lh_run_control *control, uint64_t milliseconds)
{
	static const char format[] = "\rlinehome: %lu s, %.0f MiB homed, %lu fetched, %lu written back (%.1f "
				     "MiB), %lu stalls\033[K";
	const struct lh_stats *stats = &control->stats;

	(void)context;
	fprintf(stderr, format, (unsigned long)(milliseconds / 1000), (double)control->peak_homed / MIB,
	        (unsigned long)stats->pages_fetched, (unsigned long)stats->pages_written,
	        (double)(stats->lines_written * LH_LINE_SIZE) / MIB, (unsigned long)stats->stalls);
	fflush(stderr);
}

/* ---- the command ---- */

static int failed(int code, const char *text)
{
	int status = code == -ENOENT                       ? CLI_NOT_FOUND
	             : code == -EACCES || code == -ENOEXEC ? CLI_NOT_EXECUTABLE
	                                                   : CLI_FAILED;

	return cli_fail("run", status, "%s", text);
}

/* Whether the text is about the program and not about the store: only then 126 and 127 are meant. */
static int run_with(const struct lh_run_options *options, char **argv, const char *stats)
{
	struct lh_run_control control = { 0 };
	struct lh_run_result result = { 0, 0 };
	struct lh_error error = { 0, "" };
	int code = lh__launch_check(argv[0], &error), status;

	if (code < 0)
		return failed(code, error.text);
	code = lh__run(options, argv, &result, &control, &error);
	if (options->progress)
		fprintf(stderr, "\r\033[K");
	if (code == -ENOEXEC)
		return failed(code, error.text);
	if (code < 0)
		return cli_fail("run", CLI_FAILED, "%s", error.text);
	status = stats ? write_stats(stats, &control, &result) : CLI_GO_ON;
	return status == CLI_GO_ON ? result.status : status;
}

int cli_run(int argc, char **argv)
{
	struct cli_urls stores = { 0 };
	uint64_t local = 0, timeout = TIMEOUT_MS;
	unsigned engine = LH_ENGINE_INLINE, prefetch = LH_PREFETCH_NONE;
	const char *stats = NULL, *key_file = NULL, *policy = NULL;
	bool show = false;
	struct cli_option options[] = {
		{ "store", CLI_STORES, "URL",
		  "where memory rests: unix:PATH or tcp://HOST:PORT (a node of its own)", &stores, false },
		{ "local", CLI_SIZE, "SIZE", "keep at most SIZE of the program's memory here (all of it)",
		  &local, false },
		{ "engine", CLI_CHOICE, "thread|inline", "how a touch of absent memory is answered (inline)",
		  &engine, false },
		{ "prefetch", CLI_CHOICE, "none|next", "what is fetched before it is asked for (none)",
		  &prefetch, false },
		{ "policy", CLI_TEXT, "NAME", "the eviction policy, for comparing", &policy, false },
		{ "stats", CLI_TEXT, "FILE", "write what happened as JSON to FILE in the end; - is stderr",
		  &stats, false },
		{ "progress", CLI_FLAG, NULL, "show one line a second on a terminal", &show, false },
		{ "timeout", CLI_DURATION, "SECONDS", "wait SECONDS for a node that does not answer (30)",
		  &timeout, false },
		{ "key-file", CLI_TEXT, "FILE", "the key that the node asks for", &key_file, false },
		{ .name = NULL },
	};
	struct cli_usage usage = { "run", "[--] PROGRAM [ARG...]",
		                   "Runs PROGRAM with its memory on a memory node.", options, CLI_PROGRAM };
	struct lh_run_options run = { 0 };
	int status = cli_parse(&usage, &argc, &argv);

	if (status != CLI_GO_ON)
		return status;
	if (argc == 0)
		return cli_fail("run", CLI_BAD_USAGE,
		                "no program: write for instance linehome run --local 512M -- sort FILE");
	if (stores.n > 1)
		return cli_fail("run", CLI_BAD_USAGE,
		                "--store takes one URL: mirrors over several nodes are not built yet");
	if (policy && !lh__policy_find(policy))
		return cli_fail("run", CLI_BAD_USAGE, "--policy %s: no such policy", policy);
	run.store = stores.n && !stores.at[0].mem ? stores.at[0].text : NULL;
	run.key_file = key_file;
	run.local = local;
	run.engine = engine;
	run.prefetch = prefetch;
	run.policy = policy;
	run.timeout_ms = timeout < INT32_MAX ? (unsigned)timeout : INT32_MAX;
	run.progress = show && isatty(STDERR_FILENO) ? progress : NULL;
	return run_with(&run, argv, stats);
}
