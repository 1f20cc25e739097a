/*
 * sqlite3.c - SQLite: one table of records, one as the map.
 *
 * As its documentation has it: WAL with synchronous=FULL, so that a commit is durable; prepared
 * statements; BEGIN IMMEDIATE for what is going to write; a connection of its own for each thread, with a
 * busy timeout. The page cache is made large enough for all, as the others have all in memory.
 */
#include <sqlite3.h>

#include "bench.h"

enum { BEGIN, COMMIT, GET, SET, PUT, FIND, STATEMENTS };

static const char *const text[STATEMENTS] = {
	[BEGIN] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
	[GET] = "SELECT value FROM records WHERE id = ?1",
	[SET] = "UPDATE records SET value = ?2 WHERE id = ?1",
	[PUT] = "INSERT INTO map VALUES (?1, ?2)",
	[FIND] = "SELECT value FROM map WHERE key = ?1",
};

struct handle {
	char path[256];
	sqlite3 *db;
	sqlite3_stmt *statement[STATEMENTS];
};

static void check(struct handle *h, bool good, const char *what)
{
	if (!good)
		fail("sqlite: %s: %s", what, sqlite3_errmsg(h->db));
}

static void execute(struct handle *h, const char *sql)
{
	check(h, sqlite3_exec(h->db, sql, NULL, NULL, NULL) == SQLITE_OK, sql);
}

static struct handle *connection(const char *path)
{
	struct handle *h = calloc(1, sizeof(*h));

	strcpy(h->path, path);
	check(h,
	      sqlite3_open_v2(path, &h->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
	                      NULL) == SQLITE_OK,
	      path);
	sqlite3_busy_timeout(h->db, 60000);
	execute(h, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -524288");
	return h;
}

static void prepare(struct handle *h)
{
	for (unsigned i = 0; i < STATEMENTS; i++)
		check(h, sqlite3_prepare_v2(h->db, text[i], -1, &h->statement[i], NULL) == SQLITE_OK,
		      text[i]);
}

static void make(struct handle *h)
{
	char fill[256];

	snprintf(fill, sizeof(fill),
	         "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %u) "
	         "INSERT INTO records SELECT i, zeroblob(%u) FROM n",
	         RECORDS, RECORD_SIZE);
	execute(h, "CREATE TABLE records (id INTEGER PRIMARY KEY, value BLOB NOT NULL)");
	execute(h, "CREATE TABLE map (key INTEGER PRIMARY KEY, value BLOB NOT NULL)");
	execute(h, fill);
}

static void *open_database(const struct system *system, const char *folder, bool create)
{
	struct handle *h;
	char path[256];

	join(path, folder, "db");
	h = connection(path);
	if (create)
		make(h);
	prepare(h);
	return h;
}

static void close_database(void *handle)
{
	struct handle *h = handle;

	for (unsigned i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(h->statement[i]);
	check(h, sqlite3_close(h->db) == SQLITE_OK, "close");
	free(h);
}

static void *enter(void *handle, unsigned thread)
{
	struct handle *h = connection(((struct handle *)handle)->path);

	prepare(h);
	/* A page cache of its own, which is to be as warm as the others' memory is. */
	execute(h, "SELECT sum(length(value)) FROM records; SELECT sum(length(value)) FROM map");
	return h;
}

static void step(struct handle *h, unsigned statement)
{
	check(h, sqlite3_step(h->statement[statement]) == SQLITE_DONE, text[statement]);
	sqlite3_reset(h->statement[statement]);
}

static void step_with(struct handle *h, unsigned statement, uint64_t key, const void *value)
{
	sqlite3_bind_int64(h->statement[statement], 1, (sqlite3_int64)key);
	sqlite3_bind_blob(h->statement[statement], 2, value, RECORD_SIZE, SQLITE_STATIC);
	step(h, statement);
}

static bool get(struct handle *h, unsigned statement, uint64_t key, unsigned char *value)
{
	bool found;

	sqlite3_bind_int64(h->statement[statement], 1, (sqlite3_int64)key);
	found = sqlite3_step(h->statement[statement]) == SQLITE_ROW;
	if (found)
		memcpy(value, sqlite3_column_blob(h->statement[statement], 0), RECORD_SIZE);
	sqlite3_reset(h->statement[statement]);
	return found;
}

static void tx(void *context, const struct change *changes, unsigned n, const unsigned char *payload)
{
	struct handle *h = context;

	step(h, BEGIN);
	for (unsigned i = 0; i < n; i++) {
		unsigned char value[RECORD_SIZE];

		check(h, get(h, GET, changes[i].record, value), text[GET]);
		memcpy(value, payload + changes[i].from, changes[i].length);
		step_with(h, SET, changes[i].record, value);
	}
	step(h, COMMIT);
}

static void insert(void *context, uint64_t key, const unsigned char *value)
{
	struct handle *h = context;

	step(h, BEGIN);
	step_with(h, PUT, key, value);
	step(h, COMMIT);
}

static void read_records(void *handle, unsigned char *records)
{
	struct handle *h = handle;
	sqlite3_stmt *all;
	unsigned i = 0;

	check(h,
	      sqlite3_prepare_v2(h->db, "SELECT value FROM records ORDER BY id", -1, &all, NULL) == SQLITE_OK,
	      "SELECT");
	while (i < RECORDS && sqlite3_step(all) == SQLITE_ROW)
		memcpy(records + (size_t)i++ * RECORD_SIZE, sqlite3_column_blob(all, 0), RECORD_SIZE);
	check(h, i == RECORDS, "records are missing");
	sqlite3_finalize(all);
}

static bool find(void *handle, uint64_t key, unsigned char *value)
{
	return get(handle, FIND, key, value);
}

const struct system sqlite = {
	.name = "SQLite",
	.what = "WAL, synchronous=FULL, prepared statements, a connection a thread",
	.media = ON_SHM | ON_DISK,
	.open = open_database,
	.close = close_database,
	.enter = enter,
	.leave = close_database,
	.tx = tx,
	.insert = insert,
	.read = read_records,
	.find = find,
};
