/*
 * migrate.h - what the files of linehome migrate share: what was asked for, who does it, what is shown of it.
 */
#ifndef LH_CLI_MIGRATE_H
#define LH_CLI_MIGRATE_H

#include <jansson.h>

#include "cli/cli.h"
#include "service/migrate/receive.h"
#include "service/migrate/send.h"

#define MIGRATE "migrate"
#define MIGRATE_CANCELLED 130 /* as a program has that ends through SIGINT */

struct migrate_given {
	const char *source, *destination, *uffd, *to, *accept, *from_snapshot, *to_snapshot;
	const char *key_file, *recorded, *record, *stats;
	unsigned mode, policy, parallel;
	uint64_t bandwidth, downtime_ms;
};

/* ---- migrate_show.c ---- */

/* A line that something happened; context: unused. */
void migrate_say(void *context, const char *line);
/* One line, again and again, on a terminal; nothing elsewhere. */
void migrate_progress(void *context, const struct lh_progress *progress);
/* Ends that line. */
void migrate_progress_end(void);
/* Finds out now that the statistics could not be written later: CLI_GO_ON, or the status to exit with. */
int migrate_check_stats(const char *path);
/* Writes them, and gives stats, which may be NULL, back. */
int migrate_write_stats(const char *path, json_t *stats);

/* ---- migrate_work.c: each does all of it and returns the exit status ---- */

int migrate_here(const struct migrate_given *given);
int migrate_send(const struct migrate_given *given);
int migrate_receive(const struct migrate_given *given);
int migrate_save(const struct migrate_given *given);
int migrate_restore(const struct migrate_given *given);

#endif
