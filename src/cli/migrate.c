/* migrate.c - linehome migrate: its options, and which of them go together. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cli/migrate.h"
#include "line/line.h"
#include "service/migrate/record.h"

/* Options by their place in the array; a set of them is a word of bits. */
enum {
	SOURCE,
	DESTINATION,
	UFFD,
	TO,
	ACCEPT,
	FROM_SNAPSHOT,
	TO_SNAPSHOT,
	KEY_FILE,
	MODE,
	BANDWIDTH,
	DOWNTIME_LIMIT,
	PARALLEL,
	POLICY,
	RECORDED,
	RECORD,
	STATS,
	OPTIONS
};
#define BIT(option) (1u << (option))
#define SENDING (BIT(MODE) | BIT(BANDWIDTH) | BIT(DOWNTIME_LIMIT) | BIT(PARALLEL))
#define HOME (BIT(POLICY) | BIT(RECORDED) | BIT(RECORD))

/* What can be asked for: the option that says so, those that it needs, and those that it may have. */
struct way {
	int option; /* -1: none, on one machine */
	unsigned needs, may;
	int (*function)(const struct migrate_given *given);
};

static const struct way ways[] = {
	{ TO, BIT(SOURCE) | BIT(TO), SENDING | BIT(KEY_FILE) | BIT(STATS), migrate_send },
	{ ACCEPT, BIT(DESTINATION) | BIT(UFFD) | BIT(ACCEPT), HOME | BIT(KEY_FILE) | BIT(STATS),
	  migrate_receive },
	{ FROM_SNAPSHOT, BIT(DESTINATION) | BIT(UFFD) | BIT(FROM_SNAPSHOT), HOME | BIT(STATS),
	  migrate_restore },
	{ TO_SNAPSHOT, BIT(SOURCE) | BIT(TO_SNAPSHOT), 0, migrate_save },
	{ -1, BIT(SOURCE) | BIT(DESTINATION) | BIT(UFFD), SENDING | HOME | BIT(STATS), migrate_here },
};

static const struct way *find_way(unsigned given)
{
	const struct way *way = ways;

	while (way->option >= 0 && !(given & BIT(way->option)))
		way++;
	return way;
}

static const char *way_name(const struct way *way, const struct cli_option *options, char name[40])
{
	if (way->option < 0)
		return "a move on one machine";
	strcpy(name, "--");
	strncat(name, options[way->option].name, 37);
	return name;
}

/* CLI_GO_ON, or what is wrong with the options together. */
static int check_together(const struct way *way, const struct cli_option *options, unsigned given)
{
	char name[40];

	if (!(given & (BIT(SOURCE) | BIT(DESTINATION))))
		return cli_fail(
			MIGRATE, CLI_BAD_USAGE,
			"nothing to move: give --source MONITOR, --destination MONITOR or both; see linehome "
			"migrate --help");
	for (int i = 0; i < OPTIONS; i++) {
		if (given & BIT(i) & ~(way->needs | way->may))
			return cli_fail(MIGRATE, CLI_BAD_USAGE, "--%s does not go with %s; leave it out",
			                options[i].name, way_name(way, options, name));
		if (way->needs & ~given & BIT(i))
			return cli_fail(MIGRATE, CLI_BAD_USAGE, "%s needs --%s %s too",
			                way_name(way, options, name), options[i].name, options[i].argument);
	}
	return CLI_GO_ON;
}

static int check_values(struct migrate_given *values, unsigned given)
{
	if (given & BIT(RECORDED) && !(given & BIT(POLICY)))
		values->policy = LH_ORDER_RECORDED;
	else if (given & BIT(FROM_SNAPSHOT) && !(given & BIT(POLICY)))
		values->policy = LH_ORDER_AROUND; /* else the guest waits until its page tables are read */
	if (values->policy == LH_ORDER_RECORDED && !(given & BIT(RECORDED)))
		return cli_fail(MIGRATE, CLI_BAD_USAGE,
		                "--policy recorded needs --recorded FILE, which --record of an earlier run "
		                "has written");
	if (given & BIT(RECORDED) && values->policy != LH_ORDER_RECORDED)
		return cli_fail(MIGRATE, CLI_BAD_USAGE,
		                "--recorded is for --policy recorded alone; leave it out");
	if (values->parallel > 16)
		return cli_fail(MIGRATE, CLI_BAD_USAGE, "--parallel %u: more than 16 connections",
		                values->parallel);
	if (values->downtime_ms > 10000)
		return cli_fail(MIGRATE, CLI_BAD_USAGE, "--downtime-limit: longer than 10 seconds");
	return CLI_GO_ON;
}

static int check_recorded(const char *path, struct lh_error *error)
{
	uint64_t *entries;
	size_t n;
	int result = lh__record_read(path, LH_PAGE_SIZE, 0, &entries, &n, error);

	if (result == 0)
		free(entries);
	return result;
}

/* What would be found out only when a QEMU has come, or a sender, or a guest has gone. */
static int check_home(const struct migrate_given *values)
{
	struct lh_node_url url;
	struct lh_node_key key;
	struct lh_error error = { 0, "" };
	int result = 0;

	if (values->accept)
		result = lh__node_url_parse(values->accept, true, &url, &error);
	if (result == 0 && values->accept && values->key_file) {
		result = lh__node_key_read(values->key_file, &key, &error);
		explicit_bzero(&key, sizeof(key));
	}
	if (result == 0 && values->recorded)
		result = check_recorded(values->recorded, &error);
	if (result == 0 && values->record)
		result = lh__record_writable(values->record, &error);
	return result == 0 ? CLI_GO_ON : cli_fail(MIGRATE, CLI_FAILED, "%s", error.text);
}

static int move(struct migrate_given *values, const struct cli_option *options)
{
	const struct way *way;
	unsigned given = 0;
	int status;

	for (int i = 0; i < OPTIONS; i++)
		given |= options[i].given ? BIT(i) : 0;
	way = find_way(given);
	status = check_together(way, options, given);
	if (status == CLI_GO_ON)
		status = check_values(values, given);
	if (status == CLI_GO_ON)
		status = check_home(values);
	if (status == CLI_GO_ON)
		status = migrate_check_stats(values->stats);
	return status == CLI_GO_ON ? way->function(values) : status;
}

int cli_migrate(int argc, char **argv)
{
	struct migrate_given given = { .policy = LH_ORDER_PTLINE, .parallel = 1, .downtime_ms = 30 };
	struct cli_option options[] = {
		[SOURCE] = { "source", CLI_TEXT, "MONITOR",
		             "the QMP socket of the QEMU that the guest leaves", &given.source, false },
		[DESTINATION] = { "destination", CLI_TEXT, "MONITOR",
		                  "that of the waiting QEMU where it goes on", &given.destination, false },
		[UFFD] = { "uffd", CLI_TEXT, "SOCKET",
		           "where that QEMU hands its memory over (linehome incoming)", &given.uffd, false },
		[TO] = { "to", CLI_TEXT, "URL",
		         "send to the machine that accepts at unix:PATH or tcp://HOST:PORT", &given.to,
		         false },
		[ACCEPT] = { "accept", CLI_TEXT, "URL", "be the receiver, at unix:PATH or tcp://HOST:PORT",
		             &given.accept, false },
		[FROM_SNAPSHOT] = { "from-snapshot", CLI_TEXT, "DIR", "resume from a snapshot, lazily",
		                    &given.from_snapshot, false },
		[TO_SNAPSHOT] = { "to-snapshot", CLI_TEXT, "DIR", "save a snapshot; the guest goes on",
		                  &given.to_snapshot, false },
		[KEY_FILE] = { "key-file", CLI_TEXT, "FILE", "speak TLS over TCP, with the key in FILE",
		               &given.key_file, false },
		[MODE] = { "mode", CLI_CHOICE, "precopy-then-postcopy|postcopy",
		           "what is copied while the guest still runs here (precopy-then-postcopy)",
		           &given.mode, false },
		[BANDWIDTH] = { "bandwidth", CLI_SIZE, "SIZE",
		                "copy at most SIZE a second in the background (no limit)", &given.bandwidth,
		                false },
		[DOWNTIME_LIMIT] = { "downtime-limit", CLI_DURATION, "SECONDS",
		                     "fetch what takes no longer while the guest stands still (0.03)",
		                     &given.downtime_ms, false },
		[PARALLEL] = { "parallel", CLI_NUMBER, "N", "copy over N connections (1)", &given.parallel,
		               false },
		[POLICY] = { "policy", CLI_CHOICE, LH_ORDER_WORDS,
		             "what is copied ahead once the guest runs (ptline)", &given.policy, false },
		[RECORDED] = { "recorded", CLI_TEXT, "FILE",
		               "what an earlier run missed, for --policy recorded", &given.recorded, false },
		[RECORD] = { "record", CLI_TEXT, "FILE", "write what was missed, in its order, to FILE",
		             &given.record, false },
		[STATS] = { "stats", CLI_TEXT, "FILE",
		            "write what was done as JSON to FILE in the end; - is stderr", &given.stats,
		            false },
		[OPTIONS] = { .name = NULL },
	};
	struct cli_usage usage = { MIGRATE, NULL,
		                   "Moves a virtual machine that runs on before its memory has arrived.",
		                   options, CLI_NOTHING };
	int status = cli_parse(&usage, &argc, &argv);

	return status != CLI_GO_ON ? status : move(&given, options);
}
