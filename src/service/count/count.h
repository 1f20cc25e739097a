/*
 * count.h - `linehome count`: what a program and its children have loaded and stored.
 *
 * A program is launched with an agent that translates it; agents count in shared memory (control.h), of which
 * the report is made when the last process has ended.
 */
#ifndef LH_SERVICE_COUNT_COUNT_H
#define LH_SERVICE_COUNT_COUNT_H

#include <stdbool.h>

#include "linehome.h"
#include "service/count/control.h"

struct lh_count_options {
	bool lines, footprint;
	const char *agent; /* its path; NULL: beside this program, or where it was installed */
};

/* What of a report: a process, a thread, a module. A module is one in all processes that have it. */
struct lh_count_row {
	char name[256];
	int32_t pid, tid; /* 0: none, or several */
	uint64_t threads; /* of a process; those that stand for one row */
	struct lh_counts counts;
	struct lh_footprint footprint; /* of a process */
};

struct lh_count_rows {
	struct lh_count_row *at;
	size_t n;
};

struct lh_count_report {
	int status; /* as a shell has it */
	uint64_t milliseconds;
	struct lh_counts total;
	struct lh_count_rows processes, threads, modules; /* with the most accesses first */
	uint64_t slow;                                    /* instructions that a function counted */
	uint64_t untranslated; /* instructions that the translator let run natively, alone */
	uint64_t translated;   /* blocks */
	uint64_t uncorrected;
	uint64_t lost_footprints;
	uint64_t lost_threads, lost_processes, lost_execs;
	char failure[256];
	struct lh_count_rows uncounted; /* programs that no agent came to life in: name and pid */
};

/*
 * Runs argv[0] with arguments argv. On success *report is filled, to be given to lh__count_free. -ENOENT,
 * -EACCES: the program was not found, or cannot be executed; other errors: nothing was started. By one thread
 * of a process once at a time: it forks, and waits for all children.
 */
int lh__count(const struct lh_count_options *options, char *const *argv, struct lh_count_report *report,
              struct lh_error *error) LH_MUST_CHECK;
void lh__count_free(struct lh_count_report *report);

/* footprint.c: what a process's tables say; they are given back. */
void lh__count_footprint(int file, uint32_t place, struct lh_footprint *out);

/* report.c: the rows; -ENOMEM. */
int lh__count_report(struct lh_count_control *control, struct lh_count_report *report,
                     struct lh_error *error) LH_MUST_CHECK;

#endif
