/* count_report.c - what linehome count prints. */
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "cli/count.h"

#define ROWS_SHOWN 20u /* of threads or processes, where nobody asked for them alone */

static double ratio(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0;
}

static uint64_t accesses(const struct lh_counts *counts)
{
	return counts->loads + counts->stores;
}

/* With a comma between thousands. */
static const char *number(uint64_t value, char buffer[32])
{
	char *at = buffer + 31;
	unsigned digits = 0;

	*at = 0;
	do {
		if (digits && digits % 3 == 0)
			*--at = ',';
		*--at = (char)('0' + value % 10);
		digits++;
	} while (value /= 10);
	return at;
}

static void print_total(FILE *out, const char *name, uint64_t value, const char *format, double share)
{
	char buffer[32];

	fprintf(out, "  %-14s %22s", name, number(value, buffer));
	if (format)
		fprintf(out, format, share);
	fputc('\n', out);
}

static void print_totals(FILE *out, const struct lh_counts *total, bool lines)
{
	print_total(out, "instructions", total->instructions, NULL, 0);
	print_total(out, "blocks", total->blocks, "   %.2f instructions each",
	            ratio(total->instructions, total->blocks));
	print_total(out, "loads", total->loads, "   %.3f an instruction",
	            ratio(total->loads, total->instructions));
	print_total(out, "stores", total->stores, "   %.3f an instruction",
	            ratio(total->stores, total->instructions));
	print_total(out, "bytes loaded", total->bytes_loaded, "   %.2f a load",
	            ratio(total->bytes_loaded, total->loads));
	print_total(out, "bytes stored", total->bytes_stored, "   %.2f a store",
	            ratio(total->bytes_stored, total->stores));
	if (!lines)
		return;
	print_total(out, "lines loaded", total->loads + total->more_loaded, "   %.4f a load",
	            ratio(total->loads + total->more_loaded, total->loads));
	print_total(out, "lines stored", total->stores + total->more_stored, "   %.4f a store",
	            ratio(total->stores + total->more_stored, total->stores));
}

static const char *last_word(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

static void row_name(const struct lh_count_row *row, enum count_by by, char name[300])
{
	char id[64] = "";

	if (by == COUNT_THREAD && row->tid)
		snprintf(id, sizeof id, " %d/%d", row->pid, row->tid);
	else if (by == COUNT_THREAD)
		snprintf(id, sizeof id, " %d, %" PRIu64 " threads", row->pid, row->threads);
	else if (by == COUNT_PROCESS)
		snprintf(id, sizeof id, " %d, %" PRIu64 " thread%s", row->pid, row->threads,
		         row->threads == 1 ? "" : "s");
	snprintf(name, 300, "%.235s%s", by == COUNT_THREAD ? row->name : last_word(row->name), id);
}

static void print_row(FILE *out, const struct lh_count_row *row, enum count_by by, uint64_t whole)
{
	const struct lh_counts *counts = &row->counts;
	char name[300], buffer[5][32];

	row_name(row, by, name);
	fprintf(out, "  %5.1f %% %18s %17s %17s %19s %19s  %s\n", 100 * ratio(accesses(counts), whole),
	        number(counts->instructions, buffer[0]), number(counts->loads, buffer[1]),
	        number(counts->stores, buffer[2]), number(counts->bytes_loaded, buffer[3]),
	        number(counts->bytes_stored, buffer[4]), name);
}

static void print_rows(FILE *out, const char *title, const struct lh_count_rows *rows, enum count_by by,
                       size_t most, uint64_t whole)
{
	fprintf(out, "\n  %7s %18s %17s %17s %19s %19s  %s\n", "share", "instructions", "loads", "stores",
	        "bytes loaded", "bytes stored", title);
	for (size_t i = 0; i < rows->n && i < most; i++)
		print_row(out, &rows->at[i], by, whole);
	if (rows->n > most)
		fprintf(out, "  and %zu more: --by %s shows them all\n", rows->n - most, title);
}

static void print_tables(FILE *out, const struct lh_count_report *report, enum count_by by)
{
	uint64_t whole = accesses(&report->total);
	size_t most = by == COUNT_ALL ? ROWS_SHOWN : SIZE_MAX;

	if (by == COUNT_ALL || by == COUNT_MODULE)
		print_rows(out, "module", &report->modules, COUNT_MODULE, most, whole);
	if (by == COUNT_THREAD || (by == COUNT_ALL && report->threads.n > report->processes.n))
		print_rows(out, "thread", &report->threads, COUNT_THREAD, most, whole);
	if (by == COUNT_PROCESS || (by == COUNT_ALL && report->processes.n > 1))
		print_rows(out, "process", &report->processes, COUNT_PROCESS, most, whole);
}

static void print_note(FILE *out, uint64_t value, const char *text)
{
	char buffer[32];

	if (value)
		fprintf(out, "linehome count: %s %s\n", number(value, buffer), text);
}

/* What is not in the figures, or not exact in them, is said. */
static void print_notes(FILE *out, const struct lh_count_report *report)
{
	print_note(out, report->untranslated, "pieces of code could not be translated: not counted");
	print_note(out, report->uncorrected, "blocks were left early by a signal: counted as a whole");
	print_note(out, report->lost_threads, "threads found no room for their counters: not counted");
	print_note(out, report->lost_footprints,
	           "processes have no footprint: its tables could not be mapped");
	print_note(out, report->lost_execs, "programs were executed unseen");
	if (report->lost_processes)
		fprintf(out, "linehome count: not counted: %" PRIu64 " process%s (%s)\n",
		        report->lost_processes, report->lost_processes == 1 ? "" : "es",
		        report->failure[0] ? report->failure : "too many processes");
	for (size_t i = 0; i < report->uncounted.n; i++)
		fprintf(out, "linehome count: not counted: %s (process %d): nothing can be loaded into it\n",
		        report->uncounted.at[i].name, report->uncounted.at[i].pid);
}

static void print_footprints(FILE *out, const struct lh_count_rows *processes)
{
	char name[300], buffer[4][32];

	fprintf(out, "\n  %18s %17s %17s %17s  %s\n", "lines loaded", "lines stored", "pages loaded",
	        "pages stored", "footprint of");
	for (size_t i = 0; i < processes->n; i++) {
		const struct lh_footprint *footprint = &processes->at[i].footprint;

		row_name(&processes->at[i], COUNT_PROCESS, name);
		fprintf(out, "  %18s %17s %17s %17s  %s\n", number(footprint->lines_loaded, buffer[0]),
		        number(footprint->lines_stored, buffer[1]),
		        number(footprint->pages_loaded, buffer[2]),
		        number(footprint->pages_stored, buffer[3]), name);
	}
}

void count_print(FILE *out, const struct lh_count_report *report, enum count_by by,
                 const struct lh_count_options *options)
{
	char buffer[32];

	fprintf(out, "\n");
	print_totals(out, &report->total, options->lines);
	print_total(out, "slow path", report->slow, NULL, 0);
	print_tables(out, report, by);
	if (options->footprint)
		print_footprints(out, &report->processes);
	fprintf(out, "\n  %s blocks translated, %" PRIu64 ".%03" PRIu64 " s\n",
	        number(report->translated, buffer), report->milliseconds / 1000, report->milliseconds % 1000);
	print_notes(out, report);
}

/* ---- JSON */

static json_t *counts_json(const struct lh_counts *counts, bool lines)
{
	json_t *object =
		json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "instructions", (json_int_t)counts->instructions,
	                  "blocks", (json_int_t)counts->blocks, "loads", (json_int_t)counts->loads, "stores",
	                  (json_int_t)counts->stores, "bytes_loaded", (json_int_t)counts->bytes_loaded,
	                  "bytes_stored", (json_int_t)counts->bytes_stored);

	if (!object || !lines)
		return object;
	json_object_set_new(object, "lines_loaded",
	                    json_integer((json_int_t)(counts->loads + counts->more_loaded)));
	json_object_set_new(object, "lines_stored",
	                    json_integer((json_int_t)(counts->stores + counts->more_stored)));
	return object;
}

/* A path may have any bytes; those that are no UTF-8 become question marks. */
static json_t *text_json(const char *text)
{
	json_t *string = json_string(text);
	char plain[256];
	size_t i = 0;

	if (string)
		return string;
	for (; text[i] && i < sizeof plain - 1; i++)
		plain[i] = (char)((unsigned char)text[i] < 0x80 ? text[i] : '?');
	plain[i] = 0;
	return json_string(plain);
}

static json_t *rows_json(const struct lh_count_rows *rows, enum count_by by, bool lines)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < rows->n; i++) {
		const struct lh_count_row *row = &rows->at[i];
		json_t *object = counts_json(&row->counts, lines);

		json_object_set_new(object, "name", text_json(row->name));
		if (by != COUNT_MODULE)
			json_object_set_new(object, "pid", json_integer(row->pid));
		if (by == COUNT_THREAD)
			json_object_set_new(object, "tid", json_integer(row->tid));
		if (by != COUNT_MODULE)
			json_object_set_new(object, "threads", json_integer((json_int_t)row->threads));
		json_array_append_new(array, object);
	}
	return array;
}

static void add_footprints(json_t *array, const struct lh_count_rows *processes)
{
	for (size_t i = 0; i < processes->n; i++) {
		const struct lh_footprint *footprint = &processes->at[i].footprint;

		json_object_set_new(json_array_get(array, i), "footprint",
		                    json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "lines_loaded",
		                              (json_int_t)footprint->lines_loaded, "lines_stored",
		                              (json_int_t)footprint->lines_stored, "lines",
		                              (json_int_t)footprint->lines, "pages_loaded",
		                              (json_int_t)footprint->pages_loaded, "pages_stored",
		                              (json_int_t)footprint->pages_stored, "pages",
		                              (json_int_t)footprint->pages));
	}
}

static json_t *uncounted_json(const struct lh_count_rows *rows)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < rows->n; i++)
		json_array_append_new(array, json_pack("{s:o,s:i}", "name", text_json(rows->at[i].name),
		                                       "pid", rows->at[i].pid));
	return array;
}

bool count_write_json(FILE *out, const struct lh_count_report *report, const struct lh_count_options *options)
{
	bool lines = options->lines;
	json_t *object =
		json_pack("{s:i,s:I,s:o,s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "exit_status",
	                  report->status, "wall_ms", (json_int_t)report->milliseconds, "total",
	                  counts_json(&report->total, lines), "modules",
	                  rows_json(&report->modules, COUNT_MODULE, lines), "threads",
	                  rows_json(&report->threads, COUNT_THREAD, lines), "processes",
	                  rows_json(&report->processes, COUNT_PROCESS, lines), "uncounted",
	                  uncounted_json(&report->uncounted), "slow_path", (json_int_t)report->slow,
	                  "blocks_translated", (json_int_t)report->translated, "untranslated",
	                  (json_int_t)report->untranslated, "uncorrected_blocks",
	                  (json_int_t)report->uncorrected, "lost_threads", (json_int_t)report->lost_threads,
	                  "lost_processes", (json_int_t)report->lost_processes, "lost_execs",
	                  (json_int_t)report->lost_execs, "lost_footprints",
	                  (json_int_t)report->lost_footprints);
	bool done;

	if (object && options->footprint)
		add_footprints(json_object_get(object, "processes"), &report->processes);
	done = object && json_dumpf(object, out, JSON_INDENT(2)) == 0 && fputc('\n', out) != EOF;

	json_decref(object);
	return done;
}
