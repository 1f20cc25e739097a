/* migrate_show.c - what linehome migrate shows: a line of progress, lines of what happened, statistics. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/migrate.h"

#define MIB (1024.0 * 1024.0)

void migrate_progress_end(void)
{
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

void migrate_say(void *context, const char *line)
{
	(void)context;
	migrate_progress_end();
	fprintf(stderr, "linehome migrate: %s\n", line);
}

static void left(char text[40], uint64_t ms)
{
	if (ms == UINT64_MAX)
		text[0] = '\0';
	else
		snprintf(text, 40, ", %llu s left", (unsigned long long)(ms + 999) / 1000);
}

void migrate_progress(void *context, const struct lh_progress *progress)
{
	double here = progress->pages ? 100.0 * (double)progress->here / (double)progress->pages : 0;
	double all = (double)progress->pages * 4096.0 / MIB, speed = (double)progress->bytes_a_second / MIB;
	char rest[40];

	(void)context;
	if (!isatty(STDERR_FILENO))
		return;
	left(rest, progress->left_ms);
	if (progress->step == LH_PROGRESS_CONNECTS)
		fputs("\rlinehome: waiting for the receiver\033[K", stderr);
	else if (progress->step == LH_PROGRESS_SWITCHES)
		fputs("\rlinehome: the guest is stopped, and its devices are moved\033[K", stderr);
	else if (progress->phase == LH_MOVE_COPYING)
		fprintf(stderr, "\rlinehome: round %u, %.1f %% of %.0f MiB copied, %.0f MiB/s%s\033[K",
		        progress->round, here, all, speed, rest);
	else
		fprintf(stderr,
		        "\rlinehome: moved%s, %.1f %% of %.0f MiB arrived, %.0f MiB/s, %llu faults/s%s\033[K",
		        progress->connected ? "" : ", no connection", here, all, speed,
		        (unsigned long long)progress->faults_a_second, rest);
	fflush(stderr);
}

static int cannot_write(const char *path)
{
	return cli_fail(MIGRATE, CLI_FAILED, "--stats %s: cannot be written: %s", path, strerror(errno));
}

int migrate_check_stats(const char *path)
{
	FILE *file;

	if (!path || strcmp(path, "-") == 0)
		return CLI_GO_ON;
	file = fopen(path, "ae");
	if (!file)
		return cannot_write(path);
	fclose(file);
	return CLI_GO_ON;
}

int migrate_write_stats(const char *path, json_t *stats)
{
	FILE *file;
	int status = CLI_GO_ON;

	if (!path || !stats) {
		json_decref(stats);
		return status;
	}
	file = strcmp(path, "-") == 0 ? stderr : fopen(path, "we");
	if (!file || json_dumpf(stats, file, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) < 0 ||
	    fputc('\n', file) == EOF || fflush(file) == EOF)
		status = cannot_write(path);
	if (file && file != stderr && fclose(file) == EOF && status == CLI_GO_ON)
		status = cannot_write(path);
	json_decref(stats);
	return status;
}
