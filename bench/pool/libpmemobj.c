/*
 * libpmemobj.c - libpmemobj: records in one object, and a hash map with chained nodes.
 *
 * As libpmemobj(7) and its examples have it: TX_BEGIN, pmemobj_tx_add_range_direct before a change,
 * TX_END. Its transactions do not keep threads apart; here each thread has records and buckets of its
 * own, so no lock is taken, which is in its favour. On tmpfs PMEM_IS_PMEM_FORCE=1 has it flush cache
 * lines instead of calling msync.
 */
#include <libpmemobj.h>

#include "bench.h"

struct node {
	PMEMoid next;
	uint64_t key;
	unsigned char value[RECORD_SIZE];
};

struct root {
	PMEMoid records, buckets;
};

struct handle {
	PMEMobjpool *pool;
	unsigned char *records;
	PMEMoid *buckets;
};

static void make(struct handle *h, struct root *root)
{
	/* One record more than there are, since objects are not aligned to lines. */
	if (pmemobj_zalloc(h->pool, &root->records, (RECORDS + 1) * (size_t)RECORD_SIZE, 1) != 0 ||
	    pmemobj_zalloc(h->pool, &root->buckets, sizeof(PMEMoid) << MAP_BUCKETS_BITS, 2) != 0)
		fail("pmemobj_zalloc: %s", pmemobj_errormsg());
}

static void *open_pool(const struct system *system, const char *folder, bool create)
{
	struct handle *h = calloc(1, sizeof(*h));
	struct root *root;
	const char *force = getenv("PMEM_IS_PMEM_FORCE");
	char path[256];

	if (strncmp(folder, "/dev/shm/", 9) == 0 && (!force || strcmp(force, "1") != 0))
		fail("libpmemobj on /dev/shm is to be run with PMEM_IS_PMEM_FORCE=1");
	join(path, folder, "pool");
	h->pool = create ? pmemobj_create(path, "bench", POOL_SIZE, 0600) : pmemobj_open(path, "bench");
	if (!h->pool)
		fail("pmemobj: %s: %s", path, pmemobj_errormsg());
	root = pmemobj_direct(pmemobj_root(h->pool, sizeof(*root)));
	if (create)
		make(h, root);
	h->records = (unsigned char *)(((uintptr_t)pmemobj_direct(root->records) + 63) & ~(uintptr_t)63);
	h->buckets = pmemobj_direct(root->buckets);
	return h;
}

static void close_pool(void *handle)
{
	struct handle *h = handle;

	pmemobj_close(h->pool);
	free(h);
}

static void tx(void *context, const struct change *changes, unsigned n, const unsigned char *payload)
{
	struct handle *h = context;

	TX_BEGIN(h->pool)
	{
		for (unsigned i = 0; i < n; i++) {
			unsigned char *record = h->records + (size_t)changes[i].record * RECORD_SIZE;

			pmemobj_tx_add_range_direct(record, changes[i].length);
			memcpy(record, payload + changes[i].from, changes[i].length);
		}
	}
	TX_ONABORT
	{
		fail("pmemobj: a transaction was aborted: %s", pmemobj_errormsg());
	}
	TX_END
}

static struct node *find_node(struct handle *h, uint64_t key)
{
	PMEMoid at = h->buckets[bucket_of(key)];

	while (!OID_IS_NULL(at)) {
		struct node *node = pmemobj_direct(at);

		if (node->key == key)
			return node;
		at = node->next;
	}
	return NULL;
}

static void insert(void *context, uint64_t key, const unsigned char *value)
{
	struct handle *h = context;
	PMEMoid *bucket = &h->buckets[bucket_of(key)];

	if (find_node(h, key))
		fail("pmemobj: the key is there already");
	TX_BEGIN(h->pool)
	{
		PMEMoid at = pmemobj_tx_alloc(sizeof(struct node), 3);
		struct node *node = pmemobj_direct(at);

		node->next = *bucket;
		node->key = key;
		memcpy(node->value, value, RECORD_SIZE);
		pmemobj_tx_add_range_direct(bucket, sizeof(*bucket));
		*bucket = at;
	}
	TX_ONABORT
	{
		fail("pmemobj: an insertion was aborted: %s", pmemobj_errormsg());
	}
	TX_END
}

static void read_records(void *handle, unsigned char *records)
{
	struct handle *h = handle;

	memcpy(records, h->records, (size_t)RECORDS * RECORD_SIZE);
}

static bool find(void *handle, uint64_t key, unsigned char *value)
{
	struct node *node = find_node(handle, key);

	if (node)
		memcpy(value, node->value, RECORD_SIZE);
	return node;
}

const struct system pmemobj = {
	.name = "libpmemobj",
	.what = "TX_BEGIN, tx_add_range_direct; on disk it calls msync",
	.media = ON_SHM | ON_DISK,
	.open = open_pool,
	.close = close_pool,
	.tx = tx,
	.insert = insert,
	.read = read_records,
	.find = find,
};
