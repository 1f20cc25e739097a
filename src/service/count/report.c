/* report.c - rows of a report, from what processes and their threads have counted (count.h). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/count/count.h"
#include "sys/sys.h"

static struct lh_count_row *add_row(struct lh_count_rows *rows)
{
	struct lh_count_row *more;

	if ((rows->n & (rows->n - 1)) == 0) {
		more = realloc(rows->at, (rows->n ? 2 * rows->n : 1) * sizeof *more);
		if (!more)
			return NULL;
		rows->at = more;
	}
	more = &rows->at[rows->n++];
	memset(more, 0, sizeof *more);
	return more;
}

static struct lh_count_row *find_row(struct lh_count_rows *rows, const char *name)
{
	struct lh_count_row *row;

	for (size_t i = 0; i < rows->n; i++)
		if (strcmp(rows->at[i].name, name) == 0)
			return &rows->at[i];
	row = add_row(rows);
	if (row)
		snprintf(row->name, sizeof row->name, "%s", name);
	return row;
}

static bool is_empty(const struct lh_counts *counts)
{
	static const struct lh_counts none;

	return memcmp(counts, &none, sizeof none) == 0;
}

static const char *module_name(const struct lh_count_process *process, unsigned module)
{
	return module == LH_COUNT_OTHERS      ? "[others]"
	       : module == LH_COUNT_GENERATED ? "[generated]"
	                                      : process->module[module].path;
}

static int add_modules(struct lh_count_report *report, const struct lh_count_process *process,
                       const struct lh_count_record *record, struct lh_counts *thread)
{
	for (unsigned i = 0; i < LH_COUNT_MODULES; i++) {
		struct lh_count_row *row;

		if (is_empty(&record->module[i]))
			continue;
		row = find_row(&report->modules, module_name(process, i));
		if (!row)
			return -ENOMEM;
		lh__counts_add(&row->counts, &record->module[i]);
		lh__counts_add(thread, &record->module[i]);
	}
	return 0;
}

static int add_thread(struct lh_count_report *report, const struct lh_count_process *process,
                      const struct lh_count_record *record, struct lh_counts *whole)
{
	struct lh_count_row *row = add_row(&report->threads);

	if (!row)
		return -ENOMEM;
	row->threads = record->threads;
	row->pid = process->pid;
	row->tid = record->threads == 1 ? record->tid : 0;
	snprintf(row->name, sizeof row->name, "%.16s", record->threads == 1 ? record->name : "[others]");
	report->slow += record->slow;
	if (add_modules(report, process, record, &row->counts) < 0)
		return -ENOMEM;
	lh__counts_add(whole, &row->counts);
	return 0;
}

static int add_process(struct lh_count_report *report, const struct lh_count_process *process)
{
	uint32_t records = process->records < LH_COUNT_RECORDS ? process->records : LH_COUNT_RECORDS;
	struct lh_counts whole = { 0 };
	struct lh_count_row *row;

	for (uint32_t i = 0; i < records; i++)
		if (process->record[i].threads &&
		    add_thread(report, process, &process->record[i], &whole) < 0)
			return -ENOMEM;
	row = add_row(&report->processes);
	if (!row)
		return -ENOMEM;
	snprintf(row->name, sizeof row->name, "%s", process->name);
	row->pid = process->pid;
	row->threads = process->records;
	row->counts = whole;
	row->footprint = process->footprint;
	lh__counts_add(&report->total, &whole);
	report->translated += process->translated;
	report->untranslated += process->untranslated;
	report->uncorrected += process->uncorrected;
	return 0;
}

static int add_uncounted(struct lh_count_report *report, const struct lh_count_control *control)
{
	for (uint32_t i = 0; i < LH_COUNT_EXECS; i++) {
		struct lh_count_row *row;

		if (!control->exec[i].pid)
			continue;
		row = add_row(&report->uncounted);
		if (!row)
			return -ENOMEM;
		row->pid = control->exec[i].pid;
		snprintf(row->name, sizeof row->name, "%s", control->exec[i].path);
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct lh_count_row *left = a, *right = b;
	uint64_t l = left->counts.loads + left->counts.stores, r = right->counts.loads + right->counts.stores;

	return l < r ? 1 : l > r ? -1 : left->tid - right->tid;
}

static void sort(struct lh_count_rows *rows)
{
	if (rows->n)
		qsort(rows->at, rows->n, sizeof *rows->at, compare);
}

int lh__count_report(struct lh_count_control *control, struct lh_count_report *report, struct lh_error *error)
{
	uint32_t n = control->processes < LH_COUNT_PROCESSES ? control->processes : LH_COUNT_PROCESSES;
	int result = add_uncounted(report, control);

	for (uint32_t i = 0; i < n && result == 0; i++)
		if (lh__count_process(control, i)->state == LH_COUNT_FOLDED)
			result = add_process(report, lh__count_process(control, i));
	if (result < 0)
		return lh__fail(error, result, "no memory for the report");
	sort(&report->processes);
	sort(&report->threads);
	sort(&report->modules);
	report->lost_threads = control->lost_threads;
	report->lost_processes = control->lost_processes;
	report->lost_footprints = control->lost_footprints;
	report->lost_execs = control->lost_execs;
	snprintf(report->failure, sizeof report->failure, "%s", control->failure);
	return 0;
}
