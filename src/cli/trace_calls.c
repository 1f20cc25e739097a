/* trace_calls.c - linehome trace --calls: counts and times calls of functions until the program ends. */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/trace.h"
#include "service/code/probe.h"

#define NAMES_MAX 256u
#define BAR 40u

/* ---- the report ---- */

struct seen {
	const struct lh_probe_function *function;
	struct lh_probe_counts counts;
	double ns_per_tick;
};

static double bucket_ns(const struct seen *seen, unsigned bucket)
{
	return (double)(1ull << bucket) * seen->ns_per_tick;
}

/* The upper end of the bucket in which this share of the calls had returned. */
static double percentile(const struct seen *seen, double share)
{
	uint64_t below = 0;

	for (unsigned i = 0; i < LH_PROBE_BUCKETS; i++) {
		below += seen->counts.bucket[i];
		if (below && (double)below >= share * (double)seen->counts.returns)
			return bucket_ns(seen, i + 1);
	}
	return 0;
}

static double total_ns(const struct seen *seen)
{
	return (double)seen->counts.ticks * seen->ns_per_tick;
}

static double mean(const struct seen *seen)
{
	return seen->counts.returns ? total_ns(seen) / (double)seen->counts.returns : 0;
}

/* Three digits and a unit. */
static const char *show_time(double ns, char buffer[16])
{
	static const char *const units[] = { "ns", "us", "ms", "s" };
	unsigned unit = 0;

	for (; ns >= 1000 && unit < 3; unit++)
		ns /= 1000;
	snprintf(buffer, 16, ns < 10 ? "%.2f %s" : ns < 100 ? "%.1f %s" : "%.0f %s", ns, units[unit]);
	return buffer;
}

static void print_bars(const struct seen *seen, FILE *out)
{
	static const char full[BAR + 1] = "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@";
	unsigned first = LH_PROBE_BUCKETS, last = 0;
	uint64_t most = 1;

	for (unsigned i = 0; i < LH_PROBE_BUCKETS; i++) {
		if (!seen->counts.bucket[i])
			continue;
		first = i < first ? i : first;
		last = i;
		most = seen->counts.bucket[i] > most ? seen->counts.bucket[i] : most;
	}
	for (unsigned i = first; i <= last; i++) {
		uint64_t n = seen->counts.bucket[i];
		char from[16], to[16];

		fprintf(out, "    %10s .. %-10s %12lu |%-*.*s|\n", show_time(bucket_ns(seen, i), from),
		        show_time(bucket_ns(seen, i + 1), to), n, (int)BAR, (int)(n * BAR / most), full);
	}
}

static void print_table(const struct seen *seen, size_t n, FILE *out)
{
	fprintf(out, "%-32s %12s %10s %10s %10s %10s %10s\n", "FUNCTION", "CALLS", "TOTAL", "MEAN", "P50",
	        "P90", "P99");
	for (size_t i = 0; i < n; i++) {
		char text[5][16];

		if (!seen[i].function->timed) {
			fprintf(out, "%-32s %12lu  not timed: %s\n", seen[i].function->name,
			        seen[i].counts.calls, seen[i].function->why_not);
			continue;
		}
		fprintf(out, "%-32s %12lu %10s %10s %10s %10s %10s\n", seen[i].function->name,
		        seen[i].counts.calls, show_time(total_ns(&seen[i]), text[0]),
		        show_time(mean(&seen[i]), text[1]), show_time(percentile(&seen[i], 0.5), text[2]),
		        show_time(percentile(&seen[i], 0.9), text[3]),
		        show_time(percentile(&seen[i], 0.99), text[4]));
	}
	for (size_t i = 0; i < n; i++) {
		const struct lh_probe_counts *counts = &seen[i].counts;

		if (!seen[i].function->timed || counts->calls == 0)
			continue;
		fprintf(out, "\n%s in %s at 0x%lx:", seen[i].function->name, seen[i].function->module,
		        (unsigned long)seen[i].function->address);
		if (counts->returns != counts->calls)
			fprintf(out, " %lu calls have not returned, or not by the usual way;",
			        counts->calls - counts->returns);
		fprintf(out, " %lu timed\n", counts->returns);
		print_bars(&seen[i], out);
	}
}

static json_t *json_of(const struct seen *seen)
{
	json_t *buckets = json_array();
	json_t *one;

	for (unsigned i = 0; i < LH_PROBE_BUCKETS; i++)
		if (seen->counts.bucket[i])
			json_array_append_new(buckets,
			                      json_pack("{s:f,s:f,s:I}", "from_ns", bucket_ns(seen, i),
			                                "to_ns", bucket_ns(seen, i + 1), "calls",
			                                (json_int_t)seen->counts.bucket[i]));
	one = json_pack("{s:s,s:s,s:o,s:b,s:I}", "name", seen->function->name, "module",
	                seen->function->module, "address",
	                json_sprintf("0x%lx", (unsigned long)seen->function->address), "timed",
	                seen->function->timed, "calls", (json_int_t)seen->counts.calls);
	if (!seen->function->timed) {
		json_object_set_new(one, "why_not", json_string(seen->function->why_not));
		json_decref(buckets);
		return one;
	}
	json_object_update_new(one, json_pack("{s:I,s:f,s:f,s:f,s:f,s:f,s:o}", "returns",
	                                      (json_int_t)seen->counts.returns, "total_ns", total_ns(seen),
	                                      "mean_ns", mean(seen), "p50_ns", percentile(seen, 0.5),
	                                      "p90_ns", percentile(seen, 0.9), "p99_ns",
	                                      percentile(seen, 0.99), "buckets", buckets));
	return one;
}

static void print_json(const struct seen *seen, size_t n, uint64_t ms, FILE *out)
{
	json_t *functions = json_array();
	json_t *all;

	for (size_t i = 0; i < n; i++)
		json_array_append_new(functions, json_of(&seen[i]));
	all = json_pack("{s:i,s:I,s:o}", "version", 1, "duration_ms", (json_int_t)ms, "functions", functions);
	json_dumpf(all, out, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	fputc('\n', out);
	json_decref(all);
}

static int report(const struct trace_given *given, const struct lh_probes *probes, uint64_t ms)
{
	size_t n = lh__probes_count(probes);
	struct seen *seen = calloc(n, sizeof *seen);
	double ns_per_tick = 1e9 / (double)lh__probe_ticks_per_second();
	FILE *out = seen ? trace_open(given) : NULL;

	for (size_t i = 0; out && i < n; i++) {
		seen[i].function = lh__probes_function(probes, i);
		seen[i].ns_per_tick = ns_per_tick;
		lh__probes_read(probes, i, &seen[i].counts);
	}
	if (out && given->format == TRACE_JSON)
		print_json(seen, n, ms, out);
	else if (out)
		print_table(seen, n, out);
	free(seen);
	return out ? trace_close(given, out, 0) : CLI_FAILED;
}

/* ---- the program ---- */

/*
 * Until the process ends, the time is over, or a signal says so. A program that was started gets the
 * terminal's signals itself, and decides; what is sent to us alone is sent on.
 */
static void wait_for_end(const struct trace_given *given, pid_t process, int ended, int signals, bool ours)
{
	uint64_t deadline = given->duration_ms ? trace_now() + given->duration_ms : UINT64_MAX;
	struct pollfd poll_for[] = { { .fd = ended, .events = POLLIN }, { .fd = signals, .events = POLLIN } };

	for (;;) {
		struct signalfd_siginfo info;
		uint64_t now = trace_now();
		uint64_t left = deadline > now ? deadline - now : 0;

		if (left == 0)
			return;
		if (poll(poll_for, 2, left > 1000000 ? 1000000 : (int)left) <= 0)
			continue;
		if (poll_for[0].revents)
			return;
		if (read(signals, &info, sizeof info) != (ssize_t)sizeof info)
			continue;
		if (!ours)
			return;
		if (info.ssi_code <= 0) /* by kill, not by the terminal */
			kill(process, (int)info.ssi_signo);
	}
}

/* How the program that was started ends; it is waited for. */
static int status_of(pid_t process)
{
	int status = 0;

	while (waitpid(process, &status, 0) < 0 && errno == EINTR)
		;
	return trace_status(status);
}

static int take(struct lh_probes *probes, unsigned wait_ms)
{
	struct lh_error error = { 0 };
	int result = lh__probes_take(probes, wait_ms, &error);

	if (result < 0)
		return cli_fail(TRACE, CLI_FAILED, "%s", error.text);
	if (result == 1)
		fprintf(stderr,
		        "linehome trace: the code is as it was; a thread still waits in a trampoline, "
		        "so that stays in its memory\n");
	return 0;
}

static int trace_process(const struct trace_given *given, pid_t process, const char *const *name, size_t n,
                         int signals, const sigset_t *before)
{
	unsigned wait_ms = given->wait_ms > 3600000 ? 3600000 : (unsigned)given->wait_ms;
	bool ours = process != given->process;
	int ended = (int)syscall(SYS_pidfd_open, process, 0), status, taken;
	struct lh_probes *probes;
	struct lh_error error = { 0 };
	uint64_t began;

	/* While threads are stopped nobody should be preferred to us; where that is not allowed, so be it. */
	if (setpriority(PRIO_PROCESS, 0, -20) < 0)
		errno = 0;
	if (lh__probes_put(process, name, n, wait_ms, &probes, &error) < 0) {
		if (ended >= 0)
			close(ended);
		if (ours) {
			kill(process, SIGKILL);
			(void)status_of(process);
		}
		return cli_fail(TRACE, CLI_FAILED, "%s", error.text);
	}
	began = trace_now();
	if (ours)
		kill(process, SIGCONT);
	wait_for_end(given, process, ended, signals, ours);
	began = trace_now() - began;
	status = report(given, probes, began);
	taken = take(probes, wait_ms);
	close(ended);
	if (status == 0)
		status = taken;
	sigprocmask(SIG_SETMASK, before, NULL);
	return ours && status == 0 ? status_of(process) : status;
}

/* Those of a comma separated list; list is cut. */
static size_t split(char *list, const char **name)
{
	size_t n = 0;
	char *rest = list, *one;

	while ((one = strsep(&rest, ",")) != NULL && n < NAMES_MAX)
		if (*one)
			name[n++] = one;
	return n;
}

static int trace_named(const struct trace_given *given, const char *const *name, size_t n)
{
	pid_t process = given->process;
	struct lh_error error = { 0 };
	sigset_t handled, before;
	int signals, status, result;

	sigemptyset(&handled);
	sigaddset(&handled, SIGINT);
	sigaddset(&handled, SIGTERM);
	sigaddset(&handled, SIGHUP);
	sigprocmask(SIG_BLOCK, &handled, &before);
	signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		return cli_fail(TRACE, CLI_FAILED, "signals cannot be watched: %s", strerror(errno));
	if (!process) {
		result = lh__probes_launch(given->program, &before, &process, &error);
		if (result < 0) {
			close(signals);
			return cli_fail(TRACE,
			                result == -ENOENT   ? CLI_NOT_FOUND
			                : result == -ECHILD ? CLI_FAILED
			                                    : CLI_NOT_EXECUTABLE,
			                "%s", error.text);
		}
	}
	status = trace_process(given, process, name, n, signals, &before);
	close(signals);
	return status;
}

int trace_calls(const struct trace_given *given)
{
	const char *name[NAMES_MAX];
	char *list = strdup(given->calls);
	size_t n = list ? split(list, name) : 0;
	int status;

	if (n == 0)
		status = cli_fail(TRACE, CLI_BAD_USAGE, "--calls %s: names no function", given->calls);
	else
		status = trace_named(given, name, n);
	free(list);
	return status;
}
