/* pool.c - linehome pool: making pools, looking at them, recovering them. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/pool.h"
#include "service/pool/pool.h"

#define ROW "%-14s%s\n"

/* ---- words ---- */

/* "640 bytes", "1.5 MiB". */
static const char *amount(uint64_t bytes, char buffer[64])
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes / 1024;
	unsigned unit = 0;

	if (bytes < 1024)
		return pool_count(bytes, "byte", buffer);
	for (; value >= 1024 && unit < 3; unit++)
		value /= 1024;
	snprintf(buffer, 64, "%.1f %s", value, units[unit]);
	return buffer;
}

static void show_where(const char *where)
{
	char text[4096];

	printf(ROW, "Pool", pool_text(where, text, sizeof text));
}

static void show_size(const char *label, uint64_t bytes)
{
	char text[32];

	printf(ROW, label, cli_write_size(bytes, text));
}

static void show_count(const char *label, uint64_t n, const char *what, const char *more)
{
	char text[64];

	printf("%-14s%s%s\n", label, pool_count(n, what, text), more);
}

/* ---- create ---- */

static int create(int argc, char **argv)
{
	struct lh_pool_options pool = { .see = LH_SEE_DECLARED };
	struct cli_option options[] = {
		{ "size", CLI_EXTENT, "SIZE", "of the pool's memory, at least 64K (64M)", &pool.size, false },
		{ "reach", CLI_EXTENT, "SIZE", "what it may grow to (64G, or 16 times its size)", &pool.reach,
		  false },
		{ "log-size", CLI_EXTENT, "SIZE", "bounds one transaction (an eighth, 1M to 64M)",
		  &pool.log_size, false },
		{ "layout", CLI_TEXT, "NAME", "what programs call the shape of its content", &pool.layout,
		  false },
		{ "address", CLI_ADDRESS, "HEX", "where programs have it in memory (chosen)", &pool.address,
		  false },
		{ "key-file", CLI_TEXT, "FILE", "the key that the node asks for", &pool.key_file, false },
		{ .name = NULL },
	};
	struct cli_usage usage = { "pool create", "WHERE",
		                   "Makes a pool. What is there already is left alone.", options, CLI_WORD };
	struct lh_error error = { 0, "" };
	struct lh_pool *made = NULL;
	int status = cli_parse(&usage, &argc, &argv), code;

	if (status != CLI_GO_ON)
		return status;
	code = lh_pool_create(argv[0], &pool, &made, &error);
	if (code == -EINVAL)
		return cli_fail("pool create", CLI_BAD_USAGE, "%s", error.text);
	if (code < 0)
		return cli_fail("pool create", CLI_FAILED, "%s", error.text);
	if (lh_pool_close(made, &error) < 0)
		return cli_fail("pool create", CLI_FAILED, "%s: %s", argv[0], error.text);
	return 0;
}

/* ---- what the others are given ---- */

struct looking {
	const char *where, *key_file;
	bool json;
};

static int parse_looking(struct looking *looking, const char *command, const char *about, int argc,
                         char **argv)
{
	struct cli_option options[] = {
		{ "json", CLI_FLAG, NULL, "write one JSON object", &looking->json, false },
		{ "key-file", CLI_TEXT, "FILE", "the key that the node asks for", &looking->key_file, false },
		{ .name = NULL },
	};
	struct cli_usage usage = { command, "WHERE", about, options, CLI_WORD };
	int status = cli_parse(&usage, &argc, &argv);

	if (status == CLI_GO_ON)
		looking->where = argv[0];
	return status;
}

/* ---- info ---- */

static const char *time_text(uint64_t seconds, const char *format, char out[64])
{
	time_t when = (time_t)seconds;
	struct tm tm;

	if (seconds > INT64_MAX || !gmtime_r(&when, &tm) || strftime(out, 64, format, &tm) == 0)
		snprintf(out, 64, "unknown");
	return out;
}

static void write_info(const char *where, const struct lh_pool_header *header,
                       const struct lh_journal_look *look)
{
	char address[32], id[40], created[64];

	snprintf(address, sizeof address, "0x%llx", (unsigned long long)header->address);
	pool_write(json_pack("{s:o,s:o,s:i,s:s,s:I,s:I,s:I,s:s,s:s,s:b}", "where", pool_json_text(where),
	                     "layout", pool_json_text(header->layout), "version", (int)header->version, "id",
	                     lh__pool_id_text(header->id, id), "size", (json_int_t)header->size, "reach",
	                     (json_int_t)header->reach, "log_size",
	                     (json_int_t)(look->log_pages * LH_PAGE_SIZE), "address", address, "created",
	                     time_text(header->created, "%Y-%m-%dT%H:%M:%SZ", created), "clean",
	                     (int)look->clean));
}

static void show_info(const char *where, const struct lh_pool_header *header,
                      const struct lh_journal_look *look)
{
	char text[5 * LH_LAYOUT_SIZE];

	show_where(where);
	printf(ROW, "Layout", header->layout[0] ? pool_text(header->layout, text, sizeof text) : "none");
	printf("%-14s%u\n", "Version", header->version);
	printf(ROW, "Id", lh__pool_id_text(header->id, text));
	show_size("Size", header->size);
	show_size("Reach", header->reach);
	show_size("Log", look->log_pages * LH_PAGE_SIZE);
	printf("%-14s0x%llx\n", "Address", (unsigned long long)header->address);
	printf(ROW, "Created", time_text(header->created, "%Y-%m-%d %H:%M:%S UTC", text));
	printf(ROW, "Closed", look->clean ? "yes" : "no: it is open now, or opening it recovers it");
}

static int info(int argc, char **argv)
{
	struct looking looking = { 0 };
	struct lh_pool_header header;
	struct lh_journal_look look;
	struct lh_error error = { 0, "" };
	int status = parse_looking(&looking, "pool info", "Prints what a pool's header says.", argc, argv),
	    code;

	if (status != CLI_GO_ON)
		return status;
	code = lh__pool_peek(&lh__sys_default, looking.where, looking.key_file, &header, &look, &error);
	if (code < 0)
		return pool_fail("pool info", code, &error);
	(looking.json ? write_info : show_info)(looking.where, &header, &look);
	return 0;
}

/* ---- check ---- */

static void write_check(const char *where, const struct lh_pool_check *check)
{
	char id[40];
	json_t *waits = json_null();

	if (check->waits)
		waits = json_pack("{s:s,s:o}", "id", lh__pool_id_text(check->waits_for, id), "place",
		                  pool_json_text(check->waits_place));
	pool_write(json_pack("{s:o,s:b,s:n,s:b,s:I,s:I,s:o,s:i,s:I,s:I,s:I}", "where", pool_json_text(where),
	                     "good", 1, "problem", "clean", (int)check->clean, "records",
	                     (json_int_t)check->records, "rolled_back", (json_int_t)check->rolled_back,
	                     "waits_for", waits, "kept", (int)check->kept, "objects",
	                     (json_int_t)check->usage.objects, "object_bytes",
	                     (json_int_t)check->usage.object_bytes, "free_bytes",
	                     (json_int_t)check->usage.free_bytes));
}

/* What other pools have to do with it. */
static void show_others(const struct lh_pool_check *check)
{
	char text[2000], id[40];

	if (check->waits) {
		printf(ROW, "Waits for", lh__pool_id_text(check->waits_for, id));
		printf(ROW, "", pool_text(check->waits_place, text, sizeof text));
		printf(ROW, "", "which knows whether the last transaction was committed");
	}
	if (check->kept)
		show_count("Knows", check->kept, "outcome", " for others that have not been opened since");
}

static void show_check(const char *where, const struct lh_pool_check *check)
{
	char bytes[64];

	show_where(where);
	printf(ROW, "Closed", check->clean ? "yes" : "no: opening it recovers it");
	show_count("Log", check->records, "record", "");
	if (check->rolled_back)
		show_count("Unfinished", check->rolled_back, "transaction", ", to be rolled back");
	show_others(check);
	printf("%-14s%llu, %s\n", "Objects", (unsigned long long)check->usage.objects,
	       amount(check->usage.object_bytes, bytes));
	printf(ROW, "Free", amount(check->usage.free_bytes, bytes));
	printf(ROW, "Damage", "none");
}

static int check(int argc, char **argv)
{
	struct looking looking = { 0 };
	struct lh_pool_check check;
	struct lh_error error = { 0, "" };
	int status =
		parse_looking(&looking, "pool check",
	                      "Looks at the whole of a pool that is not open. Changes nothing.", argc, argv);
	int code;

	if (status != CLI_GO_ON)
		return status;
	code = lh__pool_check(&lh__sys_default, looking.where, looking.key_file, &check, &error);
	if (code == -EBADMSG && looking.json)
		pool_write(json_pack("{s:o,s:b,s:o}", "where", pool_json_text(looking.where), "good", 0,
		                     "problem", pool_json_text(error.text)));
	if (code < 0)
		return pool_fail("pool check", code, &error);
	(looking.json ? write_check : show_check)(looking.where, &check);
	return 0;
}

/* ---- recover ---- */

static void write_recovered(const char *where, const struct lh_journal_report *report)
{
	pool_write(json_pack("{s:o,s:b,s:I,s:I,s:I,s:I}", "where", pool_json_text(where), "clean",
	                     (int)report->clean, "records", (json_int_t)report->records, "log_bytes",
	                     (json_int_t)report->bytes, "transactions", (json_int_t)report->transactions,
	                     "rolled_back", (json_int_t)report->rolled_back));
}

static void show_recovered(const char *where, const struct lh_journal_report *report)
{
	char records[64], bytes[64];

	show_where(where);
	printf(ROW, "Closed",
	       report->clean ? "yes: there was nothing to recover" : "no: it has been recovered");
	if (report->clean)
		return;
	printf("%-14s%s, %s\n", "Log", pool_count(report->records, "record", records),
	       amount(report->bytes, bytes));
	show_count("Kept", report->transactions, "transaction", "");
	show_count("Rolled back", report->rolled_back, "transaction", "");
}

static int recover(int argc, char **argv)
{
	struct looking looking = { 0 };
	struct lh_pool_options options = { .see = LH_SEE_DECLARED };
	struct lh_journal_report report;
	struct lh_error error = { 0, "" };
	struct lh_pool *pool;
	int status = parse_looking(&looking, "pool recover",
	                           "Recovers a pool, as the next program to open it would, and closes it.",
	                           argc, argv);
	int code;

	if (status != CLI_GO_ON)
		return status;
	options.key_file = looking.key_file;
	code = lh_pool_open(looking.where, &options, &pool, &error);
	if (code < 0)
		return pool_fail("pool recover", code, &error);
	report = *lh__pool_report(pool);
	if (lh_pool_close(pool, &error) < 0)
		return cli_fail("pool recover", CLI_FAILED, "%s: %s", looking.where, error.text);
	(looking.json ? write_recovered : show_recovered)(looking.where, &report);
	return 0;
}

/* ---- decide ---- */

static int decide(int argc, char **argv)
{
	struct lh_pool_context context = { .where = NULL };
	struct lh_error error = { 0, "" };
	struct lh_journal_report report;
	bool commit = false, drop = false, json = false;
	struct cli_option options[] = {
		{ "ask", CLI_TEXT, "WHERE", "the pool that decides is there now", &context.ask, false },
		{ "commit", CLI_FLAG, NULL, "its last transaction has been committed", &commit, false },
		{ "drop", CLI_FLAG, NULL, "it has not", &drop, false },
		{ "forget", CLI_FLAG, NULL, "what it knows for other pools is not needed", &context.forget,
		  false },
		{ "json", CLI_FLAG, NULL, "write one JSON object", &json, false },
		{ "key-file", CLI_TEXT, "FILE", "the key that the node asks for", &context.key_file, false },
		{ .name = NULL },
	};
	struct cli_usage usage = { "pool decide", "WHERE",
		                   "Recovers a pool that waits for one that is gone or elsewhere.", options,
		                   CLI_WORD };
	int status = cli_parse(&usage, &argc, &argv), code;

	if (status != CLI_GO_ON)
		return status;
	if ((context.ask != NULL) + commit + drop + context.forget != 1)
		return cli_fail("pool decide", CLI_BAD_USAGE,
		                "one of --ask, --commit, --drop and --forget is needed");
	context.decision = commit ? LH_POOL_COMMIT : drop ? LH_POOL_DROP : LH_POOL_ASK;
	code = lh__pool_decide(&lh__sys_default, argv[0], &context, &report, &error);
	if (code < 0)
		return pool_fail("pool decide", code, &error);
	(json ? write_recovered : show_recovered)(argv[0], &report);
	return 0;
}

int cli_pool(int argc, char **argv)
{
	static const struct cli_command table[] = {
		{ "create", create, "make one" },
		{ "info", info, "print what its header says; also while it is open" },
		{ "check", check, "look at the whole of it, and change nothing" },
		{ "recover", recover, "do what is to be done after a crash" },
		{ "decide", decide, "the same, where it waits for a pool that is gone" },
		{ "log", pool_log, "print the records of its log; also while it is open" },
		{ .name = NULL },
	};
	static const struct cli_commands commands = {
		.command = "pool",
		.arguments = "COMMAND [OPTION...] WHERE",
		.about = "Pools: memory that survives a crash, all of a transaction or nothing of it.\n"
			 "WHERE is a file, or on a memory node unix:PATH/NAME or tcp://HOST:PORT/NAME.",
		.example = "create FILE",
		.at = table,
	};

	/* A file that may not become larger is an error with a message, and not the end of the process. */
	signal(SIGXFSZ, SIG_IGN);
	return cli_dispatch(&commands, argc, argv);
}
