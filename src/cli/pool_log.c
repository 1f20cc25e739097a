/*
 * pool_log.c - linehome pool log: the records of a pool's log, as a table or as JSON.
 *
 * Both are written record by record, since a log may be larger than what one would like to keep in memory.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/pool.h"
#include "service/pool/pool.h"

#define COLUMNS 80u
#define ROW_BYTES 16u

struct printing {
	const char *where;
	bool json, content, begun;
	uint64_t damaged; /* the record whose line sets are not valid */
	json_t *sets;     /* of the record that is being written */
};

typedef void print_set(struct printing *printing, const struct lh_lineset *set);

static const char *kind_name(enum lh_log_kind kind)
{
	switch (kind) {
	case LH_LOG_RECORD_REDO: return "redo";
	case LH_LOG_RECORD_UNDO: return "undo";
	case LH_LOG_RECORD_END: return "end";
	case LH_LOG_RECORD_SKIP: return "skip";
	case LH_LOG_RECORD_PREPARED: return "prepared";
	case LH_LOG_RECORD_DECIDED: return "decided";
	case LH_LOG_RECORD_DROPPED: return "dropped";
	case LH_LOG_RECORD_TOGETHER: return "together";
	}
	return "unknown";
}

/* The line sets of the record, until one is not valid. */
static void each_set(struct printing *printing, const struct lh_log_record *record, print_set *print)
{
	size_t at = 0, size = record->sets_size;

	while (at < size && !printing->damaged) {
		struct lh_lineset set;
		long taken = lh__log_set_decode(&set, record->sets + at, size - at);

		if (taken < 0) {
			printing->damaged = record->sequence;
			return;
		}
		print(printing, &set);
		at += (size_t)taken;
	}
}

/* ---- the table ---- */

/* The runs of lines as "0-3, 7", with a new row where one is full. */
static void show_lines(unsigned column, lh_mask mask)
{
	const unsigned indent = column;
	unsigned first, count;

	if (mask == LH_MASK_NONE)
		printf("none");
	while (lh__mask_next_run(&mask, &first, &count)) {
		char word[16];
		int length = count > 1 ? snprintf(word, sizeof word, "%u-%u", first, first + count - 1)
		                       : snprintf(word, sizeof word, "%u", first);

		/* A comma may follow. */
		if (column + 2 + (unsigned)length >= COLUMNS) {
			printf(",\n%*s%s", (int)indent, "", word);
			column = indent + (unsigned)length;
		} else {
			printf("%s%s", column > indent ? ", " : "", word);
			column += (column > indent ? 2 : 0) + (unsigned)length;
		}
	}
}

static void show_row(uint64_t offset, const unsigned char *bytes)
{
	printf("%010llx ", (unsigned long long)offset);
	for (unsigned i = 0; i < ROW_BYTES; i++)
		printf("%s%02x", i % 8 ? " " : i ? "  " : " ", bytes[i]);
	printf("  |");
	for (unsigned i = 0; i < ROW_BYTES; i++)
		putchar(bytes[i] >= 0x20 && bytes[i] < 0x7f ? bytes[i] : '.');
	printf("|\n");
}

static void show_set(struct printing *printing, const struct lh_lineset *set)
{
	const unsigned char *at = set->lines;
	unsigned line;
	int column = printf("    page %-10llu lines ", (unsigned long long)set->page);

	show_lines((unsigned)column, set->mask);
	printf("%s\n", set->flags & LH_LINESET_REPLACE ? "; zero the others" : "");
	if (!printing->content)
		return;
	LH_MASK_EACH(set->mask, line)
		for (unsigned i = 0; i < LH_LINE_SIZE; i += ROW_BYTES, at += ROW_BYTES)
			show_row(set->page * LH_PAGE_SIZE + line * LH_LINE_SIZE + i, at);
}

/* What it says of other pools. */
static void show_note(const struct lh_log_record *record)
{
	struct lh_pool_note note;
	char id[40], place[1200] = "", text[1300];

	if (record->kind == LH_LOG_RECORD_DECIDED)
		printf("    it has been committed, in all of its pools\n");
	if (record->kind == LH_LOG_RECORD_DROPPED)
		printf("    it has not been committed, in any of its pools\n");
	if (lh__pool_note(record, &note) < 0)
		return;
	if (record->kind == LH_LOG_RECORD_TOGETHER) {
		printf("    commits transaction %llu of session %016llx, also of pool\n",
		       (unsigned long long)note.number, (unsigned long long)note.session);
		for (uint32_t i = 0; i < note.n; i++)
			printf("    %s\n", lh__pool_id_text(note.pools + 16 * i, id));
		return;
	}
	if (note.place_size < sizeof place)
		memcpy(place, note.place, note.place_size);
	printf("    is decided by transaction %llu of session %016llx of pool\n    %s",
	       (unsigned long long)note.number, (unsigned long long)note.session,
	       lh__pool_id_text(note.decides, id));
	printf("%s%s\n", place[0] ? ", which was at\n    " : "", pool_text(place, text, sizeof text));
}

static void show_record(struct printing *printing, const struct lh_log_record *record)
{
	if (!printing->begun)
		printf("%10s  %-8s  %11s  %10s\n", "Sequence", "Kind", "Transaction", "Bytes");
	printf("%10llu  %-8s", (unsigned long long)record->sequence, kind_name(record->kind));
	if (record->kind == LH_LOG_RECORD_SKIP)
		printf("  %11s", "-");
	else
		printf("  %11llu", (unsigned long long)record->transaction);
	printf("  %10lu\n", (unsigned long)record->size);
	show_note(record);
	each_set(printing, record, show_set);
}

/* ---- JSON ---- */

static json_t *content(const struct lh_lineset *set)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < lh__mask_count(set->mask); i++) {
		char text[2 * LH_LINE_SIZE + 1];

		for (unsigned j = 0; j < LH_LINE_SIZE; j++)
			sprintf(text + 2 * j, "%02x", set->lines[i * LH_LINE_SIZE + j]);
		json_array_append_new(array, json_string(text));
	}
	return array;
}

static void add_set(struct printing *printing, const struct lh_lineset *set)
{
	json_t *lines = json_array(), *object;
	unsigned line;

	LH_MASK_EACH(set->mask, line)
		json_array_append_new(lines, json_integer((json_int_t)line));
	object = json_pack("{s:I,s:o,s:b}", "page", (json_int_t)set->page, "lines", lines, "replace",
	                   (set->flags & LH_LINESET_REPLACE) != 0);
	if (printing->content)
		json_object_set_new(object, "content", content(set));
	json_array_append_new(printing->sets, object);
}

static void begin_json(struct printing *printing)
{
	json_t *where = pool_json_text(printing->where);

	printf("{\n  \"where\": ");
	json_dumpf(where, stdout, JSON_ENCODE_ANY);
	printf(",\n  \"records\": [");
	json_decref(where);
}

static json_t *note_object(const struct lh_log_record *record)
{
	char place[1200] = "", session[20], id[40];
	struct lh_pool_note note;
	json_t *object, *pools;

	if (lh__pool_note(record, &note) < 0)
		return NULL;
	snprintf(session, sizeof session, "%016llx", (unsigned long long)note.session);
	object = json_pack("{s:s,s:I}", "session", session, "number", (json_int_t)note.number);
	if (record->kind == LH_LOG_RECORD_PREPARED) {
		if (note.place_size < sizeof place)
			memcpy(place, note.place, note.place_size);
		json_object_set_new(object, "decides", json_string(lh__pool_id_text(note.decides, id)));
		json_object_set_new(object, "place", pool_json_text(place));
		return object;
	}
	pools = json_array();
	for (uint32_t i = 0; i < note.n; i++)
		json_array_append_new(pools, json_string(lh__pool_id_text(note.pools + 16 * i, id)));
	json_object_set_new(object, "pools", pools);
	return object;
}

static void write_record(struct printing *printing, const struct lh_log_record *record)
{
	json_t *object, *note = note_object(record);

	if (!printing->begun)
		begin_json(printing);
	printing->sets = json_array();
	each_set(printing, record, add_set);
	object = json_pack("{s:I,s:s,s:I,s:I,s:I,s:o}", "sequence", (json_int_t)record->sequence, "kind",
	                   kind_name(record->kind), "transaction", (json_int_t)record->transaction, "durable",
	                   (json_int_t)record->durable, "bytes", (json_int_t)record->size, "sets",
	                   printing->sets);
	if (note)
		json_object_set_new(object, "together", note);
	printf("%s\n    ", printing->begun ? "," : "");
	json_dumpf(object, stdout, 0);
	json_decref(object);
}

static void end_json(struct printing *printing, const char *problem)
{
	json_t *text = problem ? pool_json_text(problem) : json_null();

	if (!printing->begun)
		begin_json(printing);
	printf("%s],\n  \"problem\": ", printing->begun ? "\n  " : "");
	json_dumpf(text, stdout, JSON_ENCODE_ANY);
	printf("\n}\n");
	json_decref(text);
}

/* ---- the command ---- */

static int visit(void *context, const struct lh_log_record *record)
{
	struct printing *printing = context;

	(printing->json ? write_record : show_record)(printing, record);
	printing->begun = true;
	return printing->damaged != 0;
}

static int print(struct printing *printing, const char *key_file)
{
	struct lh_error error = { 0, "" };
	int code = lh__pool_visit_log(&lh__sys_default, printing->where, key_file, visit, printing, &error);

	if (printing->damaged)
		code = lh__fail(&error, -EBADMSG, "%s: log record %lu holds what is no set of lines",
		                printing->where, (unsigned long)printing->damaged);
	if (printing->json && (printing->begun || code == 0 || code == -EBADMSG))
		end_json(printing, code < 0 ? error.text : NULL);
	else if (code == 0 && !printing->begun)
		printf("There are no records in the log.\n");
	fflush(stdout);
	return code < 0 ? pool_fail("pool log", code, &error) : 0;
}

int pool_log(int argc, char **argv)
{
	struct printing printing = { .json = false };
	const char *key_file = NULL;
	struct cli_option options[] = {
		{ "content", CLI_FLAG, NULL, "and the bytes of the lines", &printing.content, false },
		{ "json", CLI_FLAG, NULL, "write one JSON object", &printing.json, false },
		{ "key-file", CLI_TEXT, "FILE", "the key that the node asks for", &key_file, false },
		{ .name = NULL },
	};
	struct cli_usage usage = { "pool log", "WHERE",
		                   "Prints the records of a pool's log, from the last checkpoint on.",
		                   options, CLI_WORD };
	int status = cli_parse(&usage, &argc, &argv);

	if (status != CLI_GO_ON)
		return status;
	printing.where = argv[0];
	return print(&printing, key_file);
}
