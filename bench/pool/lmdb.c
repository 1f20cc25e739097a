/*
 * lmdb.c - LMDB: one table of records, one as the map, keys of eight bytes in the machine's order.
 *
 * As lmdb.h has it: one environment a process, a write transaction a change, which waits for other
 * writers; default flags, so that a commit is durable. The variant has MDB_WRITEMAP, "faster" and with
 * "more exposure to stray writes". A value cannot be changed in part: the old one is read, and a whole
 * one put.
 */
#include <lmdb.h>

#include "bench.h"

struct handle {
	MDB_env *env;
	MDB_dbi records, map;
};

static void check(int rc, const char *what)
{
	if (rc != 0)
		fail("lmdb: %s: %s", what, mdb_strerror(rc));
}

static void put(MDB_txn *txn, MDB_dbi table, uint64_t key, const void *value, unsigned flags)
{
	MDB_val k = { sizeof(key), &key }, v = { RECORD_SIZE, (void *)value };

	check(mdb_put(txn, table, &k, &v, flags), "put");
}

static void *open_environment(const struct system *system, const char *folder, bool create)
{
	struct handle *h = calloc(1, sizeof(*h));
	const unsigned char zeros[RECORD_SIZE] = { 0 };
	MDB_txn *txn;

	check(mdb_env_create(&h->env), "env_create");
	check(mdb_env_set_mapsize(h->env, 4 * POOL_SIZE), "set_mapsize");
	check(mdb_env_set_maxdbs(h->env, 2), "set_maxdbs");
	check(mdb_env_open(h->env, folder, system->variant, 0600), folder);
	check(mdb_txn_begin(h->env, NULL, 0, &txn), "begin");
	check(mdb_dbi_open(txn, "records", MDB_CREATE | MDB_INTEGERKEY, &h->records), "dbi_open");
	check(mdb_dbi_open(txn, "map", MDB_CREATE | MDB_INTEGERKEY, &h->map), "dbi_open");
	for (uint64_t i = 0; create && i < RECORDS; i++)
		put(txn, h->records, i, zeros, MDB_APPEND);
	check(mdb_txn_commit(txn), "commit");
	return h;
}

static void close_environment(void *handle)
{
	struct handle *h = handle;

	mdb_env_close(h->env);
	free(h);
}

static void tx(void *context, const struct change *changes, unsigned n, const unsigned char *payload)
{
	struct handle *h = context;
	MDB_txn *txn;

	check(mdb_txn_begin(h->env, NULL, 0, &txn), "begin");
	for (unsigned i = 0; i < n; i++) {
		uint64_t key = changes[i].record;
		MDB_val k = { sizeof(key), &key }, old;
		unsigned char value[RECORD_SIZE];

		check(mdb_get(txn, h->records, &k, &old), "get");
		memcpy(value, old.mv_data, RECORD_SIZE);
		memcpy(value, payload + changes[i].from, changes[i].length);
		put(txn, h->records, key, value, 0);
	}
	check(mdb_txn_commit(txn), "commit");
}

static void insert(void *context, uint64_t key, const unsigned char *value)
{
	struct handle *h = context;
	MDB_txn *txn;

	check(mdb_txn_begin(h->env, NULL, 0, &txn), "begin");
	put(txn, h->map, key, value, MDB_NOOVERWRITE);
	check(mdb_txn_commit(txn), "commit");
}

static void read_records(void *handle, unsigned char *records)
{
	struct handle *h = handle;
	MDB_cursor *cursor;
	MDB_txn *txn;
	MDB_val k, v;

	check(mdb_txn_begin(h->env, NULL, MDB_RDONLY, &txn), "begin");
	check(mdb_cursor_open(txn, h->records, &cursor), "cursor");
	while (mdb_cursor_get(cursor, &k, &v, MDB_NEXT) == 0)
		memcpy(records + *(uint64_t *)k.mv_data * RECORD_SIZE, v.mv_data, RECORD_SIZE);
	mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
}

static bool find(void *handle, uint64_t key, unsigned char *value)
{
	struct handle *h = handle;
	MDB_val k = { sizeof(key), &key }, v;
	MDB_txn *txn;
	int rc;

	check(mdb_txn_begin(h->env, NULL, MDB_RDONLY, &txn), "begin");
	rc = mdb_get(txn, h->map, &k, &v);
	if (rc == 0)
		memcpy(value, v.mv_data, RECORD_SIZE);
	mdb_txn_abort(txn);
	return rc == 0;
}

/* clang-format off */
#define LMDB(id, text, how, flags) \
	const struct system id = { \
		.name = text, .what = how, .media = ON_SHM | ON_DISK, .variant = flags, \
		.open = open_environment, .close = close_environment, .tx = tx, .insert = insert, \
		.read = read_records, .find = find, \
	}
/* clang-format on */
LMDB(lmdb, "LMDB", "a write transaction, default flags", 0);
LMDB(lmdb_writemap, "LMDB-writemap", "the same with MDB_WRITEMAP", MDB_WRITEMAP);
