/*
 * lh.c - Linehome's pools: the four ways of seeing a change, and the two kinds of log.
 *
 * The map is the one of libpmemobj.c: chained nodes of the same key and value, in objects of the pool;
 * the links are plain pointers. Threads share the handle; lh_tx_begin makes them wait for each other.
 */
#include "linehome.h"

#include "bench.h"

/* Objects of a size that a transaction's log has room for. */
#define CHUNK_BITS 14
#define CHUNKS ((RECORDS >> CHUNK_BITS) + 1)

struct node {
	struct node *next;
	uint64_t key;
	unsigned char value[RECORD_SIZE];
};

struct root {
	unsigned char *chunk[CHUNKS];
	struct node **buckets;
};

struct handle {
	struct lh_pool *pool;
	struct root *root;
	bool declare; /* whether changes are to be declared */
};

static void check(int rc, const struct lh_error *error, const char *what)
{
	if (rc != 0)
		fail("linehome: %s: %s", what, error->text);
}

static void begin(struct handle *h)
{
	struct lh_error error;

	check(lh_tx_begin(h->pool, &error), &error, "begin");
}

static void commit(struct handle *h)
{
	struct lh_error error;

	check(lh_tx_commit(h->pool, &error), &error, "commit");
}

static void add(struct handle *h, void *pointer, size_t size)
{
	struct lh_error error;

	if (h->declare)
		check(lh_tx_add(h->pool, pointer, size, &error), &error, "add");
}

static void make(struct handle *h)
{
	struct lh_error error;
	void *made;

	for (unsigned i = 0; i <= CHUNKS; i++) {
		size_t size = i < CHUNKS ? (size_t)RECORD_SIZE << CHUNK_BITS
		                         : sizeof(struct node *) << MAP_BUCKETS_BITS;

		begin(h);
		made = lh_pool_alloc_zero(h->pool, size, &error);
		check(made ? 0 : -1, &error, "alloc");
		add(h, h->root, sizeof(*h->root));
		if (i < CHUNKS)
			h->root->chunk[i] = made;
		else
			h->root->buckets = made;
		commit(h);
	}
}

static void *open_pool(const struct system *system, const char *folder, bool create)
{
	struct handle *h = calloc(1, sizeof(*h));
	struct lh_pool_options options = { .layout = "bench", .size = POOL_SIZE };
	struct lh_error error;
	char path[256];

	join(path, folder, "pool");
	options.see = system->variant & 3;
	options.log = system->variant >> 2;
	h->declare = options.see == LH_SEE_DECLARED || options.see == LH_SEE_CHECKED;
	check((create ? lh_pool_create : lh_pool_open)(path, &options, &h->pool, &error), &error, path);
	h->root = lh_pool_root(h->pool, sizeof(*h->root), &error);
	check(h->root ? 0 : -1, &error, "root");
	if (create)
		make(h);
	return h;
}

static void close_pool(void *handle)
{
	struct handle *h = handle;
	struct lh_error error;

	check(lh_pool_close(h->pool, &error), &error, "close");
	free(h);
}

static unsigned char *record(struct handle *h, uint32_t number)
{
	return h->root->chunk[number >> CHUNK_BITS] +
	       (size_t)(number & ((1u << CHUNK_BITS) - 1)) * RECORD_SIZE;
}

static void tx(void *context, const struct change *changes, unsigned n, const unsigned char *payload)
{
	struct handle *h = context;

	begin(h);
	for (unsigned i = 0; i < n; i++) {
		unsigned char *at = record(h, changes[i].record);

		add(h, at, changes[i].length);
		memcpy(at, payload + changes[i].from, changes[i].length);
	}
	commit(h);
}

static struct node *find_node(struct handle *h, uint64_t key)
{
	struct node *node = h->root->buckets[bucket_of(key)];

	while (node && node->key != key)
		node = node->next;
	return node;
}

static void insert(void *context, uint64_t key, const unsigned char *value)
{
	struct handle *h = context;
	struct node **bucket = &h->root->buckets[bucket_of(key)], *node;
	struct lh_error error;

	begin(h);
	if (find_node(h, key))
		fail("linehome: the key is there already");
	node = lh_pool_alloc(h->pool, sizeof(*node), &error);
	check(node ? 0 : -1, &error, "alloc");
	node->next = *bucket;
	node->key = key;
	memcpy(node->value, value, RECORD_SIZE);
	add(h, bucket, sizeof(*bucket));
	*bucket = node;
	commit(h);
}

static void read_records(void *handle, unsigned char *records)
{
	struct handle *h = handle;

	for (uint32_t i = 0; i < RECORDS; i++)
		memcpy(records + (size_t)i * RECORD_SIZE, record(h, i), RECORD_SIZE);
}

static bool find(void *handle, uint64_t key, unsigned char *value)
{
	struct node *node = find_node(handle, key);

	if (node)
		memcpy(value, node->value, RECORD_SIZE);
	return node;
}

static void counters(void *handle, struct counters *counters)
{
	struct handle *h = handle;
	struct lh_pool_info info;

	lh_pool_info(h->pool, &info);
	counters->fences = info.fences;
	counters->flushes = info.flushes;
	counters->log_bytes = info.log_bytes;
	counters->changed_bytes = info.changed_bytes;
	counters->home_bytes = info.home_bytes;
	counters->faults = info.faults;
}

/* clang-format off */
#define LINEHOME(id, text, how, where, see, log) \
	const struct system id = { \
		.name = text, .what = how, .media = where, .variant = (see) | (log) << 2, \
		.open = open_pool, .close = close_pool, .tx = tx, .insert = insert, \
		.read = read_records, .find = find, .counters = counters, \
	}
/* clang-format on */
LINEHOME(lh_page, "lh-page", "plain stores, redo log", ON_SHM | ON_DISK, LH_SEE_PAGE, LH_LOG_REDO);
LINEHOME(lh_declared, "lh-declared", "lh_tx_add, redo log", ON_SHM | ON_DISK, LH_SEE_DECLARED, LH_LOG_REDO);
LINEHOME(lh_checked, "lh-checked", "lh_tx_add and watched, redo log", ON_SHM | ON_DISK, LH_SEE_CHECKED,
         LH_LOG_REDO);
LINEHOME(lh_page_undo, "lh-page-undo", "plain stores, undo log", ON_SHM, LH_SEE_PAGE, LH_LOG_UNDO);
LINEHOME(lh_declared_undo, "lh-declared-undo", "lh_tx_add, undo log", ON_SHM, LH_SEE_DECLARED, LH_LOG_UNDO);
LINEHOME(lh_translated, "lh-translated", "plain stores of translated code, redo log", ON_SHM | ON_DISK,
         LH_SEE_TRANSLATED, LH_LOG_REDO);
LINEHOME(lh_translated_undo, "lh-translated-undo", "plain stores of translated code, undo log", ON_SHM,
         LH_SEE_TRANSLATED, LH_LOG_UNDO);
LINEHOME(lh_checked_undo, "lh-checked-undo", "lh_tx_add and watched, undo log", ON_SHM, LH_SEE_CHECKED,
         LH_LOG_UNDO);
