/*
 * rocksdb.c - RocksDB through its C interface: records and the map are keys with a prefix.
 *
 * As its documentation has it: one write batch a transaction, sync=1, so that it is durable; basic tuning
 * (a block cache, bloom filters, level style, as many threads as processors). Not compressed, which is in
 * its favour. Threads share the handle, and their commits a flush. A value cannot be changed in part: the
 * old one is read, and a whole one put.
 */
#include <rocksdb/c.h>
#include <unistd.h>

#include "bench.h"

struct handle {
	rocksdb_t *db;
	rocksdb_options_t *options;
	rocksdb_writeoptions_t *durable;
	rocksdb_readoptions_t *read;
};

#define KEY_SIZE 9

static void check(char *error)
{
	if (error)
		fail("rocksdb: %s", error);
}

static void make_key(char key[KEY_SIZE], char prefix, uint64_t number)
{
	key[0] = prefix;
	number = __builtin_bswap64(number); /* ascending in memory's order */
	memcpy(key + 1, &number, 8);
}

static void fill(struct handle *h)
{
	rocksdb_writeoptions_t *lazy = rocksdb_writeoptions_create();
	const char zeros[RECORD_SIZE] = { 0 };
	char *error = NULL, key[KEY_SIZE];

	rocksdb_writeoptions_disable_WAL(lazy, 1);
	for (uint64_t i = 0; i < RECORDS;) {
		rocksdb_writebatch_t *batch = rocksdb_writebatch_create();

		for (unsigned j = 0; j < 1000 && i < RECORDS; j++) {
			make_key(key, 'r', i++);
			rocksdb_writebatch_put(batch, key, KEY_SIZE, zeros, RECORD_SIZE);
		}
		rocksdb_write(h->db, lazy, batch, &error);
		check(error);
		rocksdb_writebatch_destroy(batch);
	}
	rocksdb_writeoptions_destroy(lazy);
	rocksdb_compact_range(h->db, NULL, 0, NULL, 0);
}

static rocksdb_options_t *tuned(void)
{
	rocksdb_options_t *options = rocksdb_options_create();
	rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
	rocksdb_cache_t *cache = rocksdb_cache_create_lru(512 << 20);

	rocksdb_block_based_options_set_block_cache(table, cache);
	rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom(10));
	rocksdb_options_set_block_based_table_factory(options, table);
	rocksdb_options_increase_parallelism(options, (int)sysconf(_SC_NPROCESSORS_ONLN));
	rocksdb_options_optimize_level_style_compaction(options, 512 << 20);
	rocksdb_options_set_compression(options, rocksdb_no_compression);
	rocksdb_options_set_compression_per_level(options, NULL, 0);
	rocksdb_block_based_options_destroy(table);
	rocksdb_cache_destroy(cache);
	return options;
}

static void *open_database(const struct system *system, const char *folder, bool create)
{
	struct handle *h = calloc(1, sizeof(*h));
	char *error = NULL, path[256];

	join(path, folder, "db");
	h->options = tuned();
	rocksdb_options_set_create_if_missing(h->options, create);
	h->durable = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(h->durable, 1);
	h->read = rocksdb_readoptions_create();
	h->db = rocksdb_open(h->options, path, &error);
	check(error);
	if (create)
		fill(h);
	return h;
}

static void close_database(void *handle)
{
	struct handle *h = handle;

	rocksdb_close(h->db);
	rocksdb_readoptions_destroy(h->read);
	rocksdb_writeoptions_destroy(h->durable);
	rocksdb_options_destroy(h->options);
	free(h);
}

static bool get(struct handle *h, char prefix, uint64_t number, unsigned char *value)
{
	rocksdb_pinnableslice_t *slice;
	char *error = NULL, key[KEY_SIZE];
	size_t size;

	make_key(key, prefix, number);
	slice = rocksdb_get_pinned(h->db, h->read, key, KEY_SIZE, &error);
	check(error);
	if (!slice)
		return false;
	memcpy(value, rocksdb_pinnableslice_value(slice, &size), RECORD_SIZE);
	rocksdb_pinnableslice_destroy(slice);
	return true;
}

static void commit(struct handle *h, rocksdb_writebatch_t *batch)
{
	char *error = NULL;

	rocksdb_write(h->db, h->durable, batch, &error);
	check(error);
	rocksdb_writebatch_destroy(batch);
}

static void tx(void *context, const struct change *changes, unsigned n, const unsigned char *payload)
{
	rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
	struct handle *h = context;

	for (unsigned i = 0; i < n; i++) {
		unsigned char value[RECORD_SIZE];
		char key[KEY_SIZE];

		if (!get(h, 'r', changes[i].record, value))
			fail("rocksdb: a record is missing");
		memcpy(value, payload + changes[i].from, changes[i].length);
		make_key(key, 'r', changes[i].record);
		rocksdb_writebatch_put(batch, key, KEY_SIZE, (char *)value, RECORD_SIZE);
	}
	commit(h, batch);
}

static void insert(void *context, uint64_t key, const unsigned char *value)
{
	rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
	char name[KEY_SIZE];

	make_key(name, 'm', key);
	rocksdb_writebatch_put(batch, name, KEY_SIZE, (const char *)value, RECORD_SIZE);
	commit(context, batch);
}

static void read_records(void *handle, unsigned char *records)
{
	struct handle *h = handle;
	rocksdb_iterator_t *at = rocksdb_create_iterator(h->db, h->read);
	unsigned i = 0;
	size_t size;

	for (rocksdb_iter_seek(at, "r", 1); i < RECORDS && rocksdb_iter_valid(at); rocksdb_iter_next(at))
		memcpy(records + (size_t)i++ * RECORD_SIZE, rocksdb_iter_value(at, &size), RECORD_SIZE);
	if (i != RECORDS)
		fail("rocksdb: records are missing");
	rocksdb_iter_destroy(at);
}

static bool find(void *handle, uint64_t key, unsigned char *value)
{
	return get(handle, 'm', key, value);
}

const struct system rocksdb = {
	.name = "RocksDB",
	.what = "a write batch, sync=1, basic tuning, no compression",
	.media = ON_SHM | ON_DISK,
	.open = open_database,
	.close = close_database,
	.tx = tx,
	.insert = insert,
	.read = read_records,
	.find = find,
};
