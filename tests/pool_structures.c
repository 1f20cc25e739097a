/*
 * pool_structures.c - the hash map and the B+tree of the examples, which know of no pool, kept in one:
 * against a plain array, through commits, aborts, closings and ends without closing, in each way to see
 * changes and with both logs.
 *
 * Where changes have to be declared, all objects are, before each transaction: the structures are not told.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/vfs.h>

#include "../examples/btree.h"
#include "../examples/hashmap.h"
#include "../examples/pool_memory.h"

#include "line_random.h"
#include "service/pool/pool.h"
#include "tap.h"

#define KEYS 400u
#define TMPFS 0x01021994

struct root {
	struct hashmap map;
	struct btree tree;
};

/* What ought to be there: the value of each key, 0 for none. */
struct oracle {
	uint64_t value[KEYS], count;
};

static uint64_t seed;
static struct lh_error error;

static unsigned below(unsigned n)
{
	return (unsigned)(random_next(&seed) % n);
}

/* Words whose order is not that of their numbers. */
static void word_of(unsigned i, char word[BTREE_KEY])
{
	snprintf(word, BTREE_KEY, "%x-%u", (i * 2654435761u) >> 20, i);
}

/* ---- what is there is what ought to be ---- */

/* Counts what is wrong with the subtree; depth of its leaves in *depth; its pairs in *pairs. */
static unsigned bad_nodes(const struct btree_node *node, const char *low, const char *high, bool is_root,
                          unsigned *depth, uint64_t *pairs)
{
	unsigned bad = (!is_root && node->n < BTREE_MIN) + (node->n > BTREE_MAX) + (node->n == 0), other;

	for (unsigned i = 0; i < node->n; i++) {
		bad += i > 0 && memcmp(node->key[i - 1], node->key[i], BTREE_KEY) >= 0;
		bad += low && memcmp(node->key[i], low, BTREE_KEY) < 0;
		bad += high && memcmp(node->key[i], high, BTREE_KEY) >= 0;
	}
	*depth = 0;
	if (node->leaf) {
		*pairs += node->n;
		return bad;
	}
	for (unsigned i = 0; i <= node->n; i++) {
		bad += bad_nodes(node->child[i], i ? node->key[i - 1] : low,
		                 i < node->n ? node->key[i] : high, false, i ? &other : depth, pairs);
		bad += i > 0 && other != *depth;
	}
	++*depth;
	return bad;
}

static unsigned bad_tree(const struct btree *tree, const struct oracle *oracle)
{
	struct btree_cursor all = btree_seek(tree, "");
	char word[BTREE_KEY], before[BTREE_KEY] = "";
	unsigned bad = 0, depth;
	uint64_t pairs = 0, listed = 0;
	const char *key;
	void *value, **found;

	if (tree->root)
		bad += bad_nodes(tree->root, NULL, NULL, true, &depth, &pairs);
	for (; btree_next(&all, &key, &value); listed++) {
		bad += strcmp(before, key) >= 0;
		strcpy(before, key);
	}
	bad += pairs != oracle->count || listed != oracle->count || tree->count != oracle->count;
	for (unsigned i = 0; i < KEYS; i++) {
		word_of(i, word);
		found = btree_find(tree, word);
		bad += (uint64_t)(found ? *found : NULL) != oracle->value[i];
	}
	return bad;
}

static unsigned bad_map(const struct hashmap *map, const struct oracle *oracle)
{
	const struct hashmap_entry *entry = NULL;
	char word[BTREE_KEY];
	unsigned bad = 0;
	uint64_t listed = 0;

	while ((entry = hashmap_next(map, entry)))
		listed++;
	bad += listed != oracle->count || map->count != oracle->count || map->chains < map->count;
	for (unsigned i = 0; i < KEYS; i++) {
		word_of(i, word);
		entry = hashmap_find(map, word);
		bad += (uint64_t)(entry ? entry->value : NULL) != oracle->value[i];
	}
	return bad;
}

/* A range from one word on, up to another, beside the array. */
static unsigned bad_range(const struct btree *tree, const struct oracle *oracle)
{
	char from[BTREE_KEY], to[BTREE_KEY], word[BTREE_KEY];
	struct btree_cursor cursor;
	uint64_t wanted = 0, found = 0, sum = 0;
	const char *key;
	void *value;

	word_of(below(KEYS), from);
	word_of(below(KEYS), to);
	for (unsigned i = 0; i < KEYS; i++) {
		word_of(i, word);
		if (oracle->value[i] && strcmp(word, from) >= 0 && strcmp(word, to) < 0) {
			wanted++;
			sum += oracle->value[i];
		}
	}
	cursor = btree_seek(tree, from);
	while (btree_next(&cursor, &key, &value) && strcmp(key, to) < 0) {
		found++;
		sum -= (uint64_t)value;
	}
	return (wanted != found) + (sum != 0);
}

/* ---- changing both and the array ---- */

static unsigned put(struct root *root, const struct memory *memory, struct oracle *oracle, unsigned i)
{
	uint64_t value = random_next(&seed) | 1;
	struct hashmap_entry *entry;
	char word[BTREE_KEY];
	void **place;

	word_of(i, word);
	entry = hashmap_put(&root->map, memory, word);
	place = btree_put(&root->tree, memory, word);
	if (!entry || !place)
		return 1;
	entry->value = *place = (void *)value;
	oracle->count += oracle->value[i] == 0;
	oracle->value[i] = value;
	return 0;
}

static unsigned take(struct root *root, const struct memory *memory, struct oracle *oracle, unsigned i)
{
	void *of_map = NULL, *of_tree = NULL;
	char word[BTREE_KEY];
	bool had = oracle->value[i] != 0;
	unsigned bad;

	word_of(i, word);
	bad = hashmap_delete(&root->map, memory, word, &of_map) != had;
	bad += btree_delete(&root->tree, memory, word, &of_tree) != had;
	bad += (uint64_t)of_map != oracle->value[i] || (uint64_t)of_tree != oracle->value[i];
	oracle->count -= had;
	oracle->value[i] = 0;
	return bad;
}

/* `puts` of 100 steps put. */
static unsigned change(struct root *root, const struct memory *memory, struct oracle *oracle, unsigned steps,
                       unsigned puts)
{
	unsigned bad = 0;

	while (steps-- > 0)
		bad += below(100) < puts ? put(root, memory, oracle, below(KEYS))
		                         : take(root, memory, oracle, below(KEYS));
	return bad;
}

static unsigned bad_root(const struct root *root, const struct oracle *oracle)
{
	return bad_tree(&root->tree, oracle) + bad_map(&root->map, oracle) + bad_range(&root->tree, oracle);
}

/* ---- without a pool ---- */

struct counted {
	long live, left; /* left: until there is no memory */
};

static void *counted_alloc(void *context, size_t size)
{
	struct counted *counted = context;

	if (counted->left == 0)
		return NULL;
	counted->left--;
	counted->live++;
	return malloc(size);
}

static void counted_release(void *context, void *object)
{
	((struct counted *)context)->live--;
	free(object);
}

static void plain(void)
{
	struct counted counted = { 0, -1 };
	struct memory memory = { counted_alloc, counted_release, &counted };
	struct root root = { .map = { .count = 0 } };
	struct oracle oracle = { .count = 0 };
	unsigned bad = 0;

	for (unsigned round = 0; round < 300; round++) {
		bad += change(&root, &memory, &oracle, 100, round % 100 < 50 ? 80 : 20);
		bad += bad_root(&root, &oracle);
	}
	is(bad, 0, "in plain memory they are what an array is");
	for (unsigned i = 0; i < KEYS; i++)
		bad += take(&root, &memory, &oracle, i);
	ok(bad == 0 && !root.tree.root && root.map.count == 0, "everything can be deleted");
	bad = change(&root, &memory, &oracle, 200, 100);
	hashmap_clear(&root.map, &memory);
	btree_clear(&root.tree, &memory);
	ok(bad == 0 && counted.live == 0, "cleared, they have no memory");
}

/* One put with memory for 0, 1, 2 ... objects, until it is enough: those that fail have put nothing. */
static void no_memory(void)
{
	struct counted counted = { 0, -1 };
	struct memory memory = { counted_alloc, counted_release, &counted };
	struct root root = { .map = { .count = 0 } };
	struct oracle oracle = { .count = 0 };
	unsigned bad = 0, failed = 0;
	char word[BTREE_KEY];
	long n = 0;

	for (unsigned i = 0; i < KEYS; i++, n = 0) {
		word_of(i, word);
		for (counted.left = 0; !btree_put(&root.tree, &memory, word); counted.left = ++n) {
			failed++;
			bad += bad_tree(&root.tree, &oracle) != 0;
		}
		n = 0;
		for (counted.left = 0; !hashmap_put(&root.map, &memory, word); counted.left = ++n) {
			failed++;
			bad += bad_map(&root.map, &oracle) != 0;
		}
		counted.left = -1;
		bad += put(&root, &memory, &oracle, i);
	}
	ok(bad == 0 && failed > KEYS, "a put that finds no memory has put nothing");
	hashmap_clear(&root.map, &memory);
	btree_clear(&root.tree, &memory);
}

/* Each thing that may go wrong is seen. */
static void planted(void)
{
	struct counted counted = { 0, -1 };
	struct memory memory = { counted_alloc, counted_release, &counted };
	struct root root = { .map = { .count = 0 } };
	struct oracle oracle = { .count = 0 }, other;
	struct btree_node *next, *leaf;
	unsigned bad = change(&root, &memory, &oracle, 500, 90) + bad_root(&root, &oracle), seen = 0;

	for (leaf = root.tree.root; !leaf->leaf; leaf = leaf->child[0])
		;
	next = leaf->next;
	leaf->next = next->next;
	seen += bad_tree(&root.tree, &oracle) != 0;
	leaf->next = next;
	leaf->key[0][0] ^= 0x40;
	seen += bad_tree(&root.tree, &oracle) != 0;
	leaf->key[0][0] ^= 0x40;
	root.tree.count++;
	seen += bad_tree(&root.tree, &oracle) != 0;
	root.tree.count--;
	root.map.count--;
	seen += bad_map(&root.map, &oracle) != 0;
	root.map.count++;
	other = oracle;
	for (unsigned i = 0; i < KEYS; i++)
		other.value[i] += other.value[i] != 0 ? 2 : 0;
	seen += bad_tree(&root.tree, &other) != 0;
	seen += bad_map(&root.map, &other) != 0;
	ok(bad == 0 && seen == 6 && bad_root(&root, &oracle) == 0, "what is broken is seen");
	hashmap_clear(&root.map, &memory);
	btree_clear(&root.tree, &memory);
}

/* ---- in a pool ---- */

struct bed {
	const char *path;
	struct lh_pool_options options;
	struct lh_pool *pool;
	struct root *root;
	struct oracle now;
	unsigned bad;
};

static int declare(void *context, void *object, size_t usable)
{
	return lh_tx_add(context, object, usable, &error);
}

static void begin(struct bed *bed)
{
	bed->bad += lh_tx_begin(bed->pool, &error) != 0;
	if (bed->options.see == LH_SEE_DECLARED || bed->options.see == LH_SEE_CHECKED)
		bed->bad += lh_pool_objects(bed->pool, declare, bed->pool) != 0;
}

static void open_again(struct bed *bed)
{
	bed->bad += lh_pool_open(bed->path, &bed->options, &bed->pool, &error) != 0;
	bed->root = bed->bad ? NULL : lh_pool_root(bed->pool, sizeof *bed->root, &error);
	bed->bad += bed->root == NULL;
}

/* A transaction that is committed, or aborted, or in which the process ends. */
static void one_transaction(struct bed *bed, unsigned round)
{
	struct pool_memory in = { .pool = bed->pool };
	struct memory memory = pool_memory(&in);
	struct oracle next = bed->now;

	begin(bed);
	bed->bad += change(bed->root, &memory, &next, 1 + below(40), round % 40 < 20 ? 80 : 20);
	bed->bad += in.error.code != 0;
	switch (below(8)) {
	case 0: bed->bad += lh_tx_abort(bed->pool, &error) != 0; break;
	case 1:
		lh__pool_abandon(bed->pool);
		open_again(bed);
		break;
	default: bed->bad += lh_tx_commit(bed->pool, &error) != 0; bed->now = next;
	}
	if (below(16) == 0) {
		bed->bad += lh_pool_close(bed->pool, &error) != 0;
		open_again(bed);
	}
}

static int count_object(void *context, void *object, size_t usable)
{
	++*(unsigned *)context;
	return 0;
}

/* Deletes all there is: the root object alone is left, so nothing has leaked. */
static void empty(struct bed *bed)
{
	struct pool_memory in = { .pool = bed->pool };
	struct memory memory = pool_memory(&in);
	unsigned objects = 0;

	begin(bed);
	hashmap_clear(&bed->root->map, &memory);
	btree_clear(&bed->root->tree, &memory);
	bed->bad += lh_tx_commit(bed->pool, &error) != 0 || in.error.code != 0;
	bed->bad += lh_pool_objects(bed->pool, count_object, &objects) != 0;
	is(objects, 1, "nothing has leaked");
}

static void in_pool(const char *path, enum lh_see see, enum lh_log log, unsigned rounds, const char *what)
{
	struct bed bed = { .path = path,
		           .options = { .see = see, .log = log, .size = 1 << 20, .log_size = 1 << 18 } };

	unlink(path);
	error.text[0] = 0;
	if (!ok(lh_pool_create(path, &bed.options, &bed.pool, &error) == 0, "%s: created", what)) {
		printf("# %s\n", error.text);
		return;
	}
	bed.root = lh_pool_root(bed.pool, sizeof *bed.root, &error);
	bed.bad = bed.root == NULL;
	for (unsigned round = 0; round < rounds && bed.bad == 0; round++) {
		one_transaction(&bed, round);
		if (bed.bad == 0)
			bed.bad += bad_root(bed.root, &bed.now);
	}
	if (!ok(bed.bad == 0, "%s: after every transaction they are what an array is", what))
		printf("# last error: %s\n", error.text);
	if (bed.bad == 0)
		empty(&bed);
	ok(bed.bad == 0 && lh_pool_close(bed.pool, &error) == 0, "%s: closed", what);
	unlink(path);
}

static const struct {
	enum lh_see see;
	const char *redo, *undo;
	unsigned rounds;
} ways[] = {
	{ LH_SEE_PAGE, "page, redo", "page, undo", 300 },
	{ LH_SEE_DECLARED, "declared, redo", "declared, undo", 300 },
	{ LH_SEE_CHECKED, "checked, redo", "checked, undo", 40 },
	{ LH_SEE_TRANSLATED, "translated, redo", "translated, undo", 300 },
};

int main(void)
{
	char disk[64], shm[64];
	struct statfs about;
	bool tmpfs = statfs("/dev/shm", &about) == 0 && about.f_type == TMPFS;

	seed = random_seed();
	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	snprintf(disk, sizeof disk, "/tmp/pool_structures.%d", (int)getpid());
	snprintf(shm, sizeof shm, "/dev/shm/pool_structures.%d", (int)getpid());
	plain();
	no_memory();
	planted();
	for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
		in_pool(disk, ways[i].see, LH_LOG_REDO, ways[i].rounds / 2, ways[i].redo);
		if (tmpfs)
			in_pool(shm, ways[i].see, LH_LOG_UNDO, ways[i].rounds, ways[i].undo);
		else
			skip(ways[i].undo, "there is no tmpfs at /dev/shm");
	}
	return done();
}
