/* btree.c - a B-tree of minimal degree 8: nodes have 7 to 15 keys, the root fewer. */
#include <string.h>

#include "inside.h"

#define DEGREE 8
#define MOST (2 * DEGREE - 1)

struct node {
	int count, leaf;
	uint64_t key[MOST];
	char *value[MOST];
	struct node *child[MOST + 1];
};

struct btree {
	struct node *root;
};

static struct node *make_node(int leaf)
{
	struct node *node = map_alloc(sizeof *node);

	if (!node)
		return NULL;
	node->count = 0;
	node->leaf = leaf;
	return node;
}

struct btree *btree_create(void)
{
	struct btree *tree = map_alloc(sizeof *tree);

	if (!tree)
		return NULL;
	tree->root = make_node(1);
	if (tree->root)
		return tree;
	map_release(tree);
	return NULL;
}

/* Where a key is in a node, or which child leads to it. */
static int place_of(const struct node *node, uint64_t key)
{
	int i = 0;

	while (i < node->count && node->key[i] < key)
		i++;
	return i;
}

static int is_at(const struct node *node, int i, uint64_t key)
{
	return i < node->count && node->key[i] == key;
}

/* Makes room for, or takes away, the entry at i with the child behind it (child: i + 1) or before it (i). */
static void shift(struct node *node, int i, int child, int by)
{
	int from = by > 0 ? i : i + 1, child_from = by > 0 ? child : child + 1;

	memmove(&node->key[from + by], &node->key[from], (size_t)(node->count - from) * sizeof node->key[0]);
	memmove(&node->value[from + by], &node->value[from],
	        (size_t)(node->count - from) * sizeof node->value[0]);
	if (!node->leaf)
		memmove(&node->child[child_from + by], &node->child[child_from],
		        (size_t)(node->count + 1 - child_from) * sizeof node->child[0]);
	node->count += by;
}

static void copy_entries(struct node *to, int at, const struct node *from, int first, int count)
{
	memcpy(&to->key[at], &from->key[first], (size_t)count * sizeof to->key[0]);
	memcpy(&to->value[at], &from->value[first], (size_t)count * sizeof to->value[0]);
	if (!to->leaf)
		memcpy(&to->child[at], &from->child[first], (size_t)(count + 1) * sizeof to->child[0]);
}

/* ---- putting */

/* Child i, which is full, becomes two. */
static int split(struct node *node, int i)
{
	struct node *full = node->child[i], *right = make_node(full->leaf);

	if (!right)
		return -1;
	copy_entries(right, 0, full, DEGREE, DEGREE - 1);
	right->count = DEGREE - 1;
	full->count = DEGREE - 1;
	shift(node, i, i + 1, 1);
	node->key[i] = full->key[DEGREE - 1];
	node->value[i] = full->value[DEGREE - 1];
	node->child[i + 1] = right;
	return 0;
}

static int grow(struct btree *tree)
{
	struct node *root = make_node(0);

	if (!root)
		return -1;
	root->child[0] = tree->root;
	if (split(root, 0) < 0) {
		map_release(root);
		return -1;
	}
	tree->root = root;
	return 0;
}

int btree_put(struct btree *tree, uint64_t key, char *value, char **old)
{
	struct node *node;

	if (tree->root->count == MOST && grow(tree) < 0)
		return -1;
	for (node = tree->root;;) {
		int i = place_of(node, key);

		if (is_at(node, i, key)) {
			*old = node->value[i];
			node->value[i] = value;
			return 0;
		}
		if (node->leaf) {
			shift(node, i, i + 1, 1);
			node->key[i] = key;
			node->value[i] = value;
			return 0;
		}
		if (node->child[i]->count < MOST) {
			node = node->child[i];
			continue;
		}
		if (split(node, i) < 0)
			return -1;
	}
}

/* ---- taking */

/* Children i and i + 1 become one, with the entry between them. */
static void merge(struct node *node, int i)
{
	struct node *left = node->child[i], *right = node->child[i + 1];

	left->key[left->count] = node->key[i];
	left->value[left->count] = node->value[i];
	copy_entries(left, left->count + 1, right, 0, right->count);
	left->count += 1 + right->count;
	shift(node, i, i + 1, -1);
	map_release(right);
}

static void borrow_left(struct node *node, int i)
{
	struct node *to = node->child[i], *from = node->child[i - 1];

	shift(to, 0, 0, 1);
	to->key[0] = node->key[i - 1];
	to->value[0] = node->value[i - 1];
	if (!to->leaf)
		to->child[0] = from->child[from->count];
	from->count--;
	node->key[i - 1] = from->key[from->count];
	node->value[i - 1] = from->value[from->count];
}

static void borrow_right(struct node *node, int i)
{
	struct node *to = node->child[i], *from = node->child[i + 1];

	to->key[to->count] = node->key[i];
	to->value[to->count] = node->value[i];
	if (!to->leaf)
		to->child[to->count + 1] = from->child[0];
	to->count++;
	node->key[i] = from->key[0];
	node->value[i] = from->value[0];
	shift(from, 0, 0, -1);
}

/* A child that has an entry to spare, in which to go on looking for what child i leads to. */
static struct node *prepare(struct node *node, int i)
{
	if (node->child[i]->count >= DEGREE)
		return node->child[i];
	if (i > 0 && node->child[i - 1]->count >= DEGREE) {
		borrow_left(node, i);
		return node->child[i];
	}
	if (i < node->count && node->child[i + 1]->count >= DEGREE) {
		borrow_right(node, i);
		return node->child[i];
	}
	if (i == node->count)
		i--;
	merge(node, i);
	return node->child[i];
}

static char *take_from(struct node *node, uint64_t key);

/* The last entry below a node (side 1), or the first one, comes into the place of the entry at i. */
static void take_neighbour(struct node *node, int i, int last)
{
	const struct node *at = node->child[last ? i : i + 1];
	uint64_t key;

	while (!at->leaf)
		at = at->child[last ? at->count : 0];
	key = at->key[last ? at->count - 1 : 0];
	node->value[i] = at->value[last ? at->count - 1 : 0];
	node->key[i] = key;
	take_from(node->child[last ? i : i + 1], key);
}

static char *take_from(struct node *node, uint64_t key)
{
	for (;;) {
		int i = place_of(node, key);
		char *value;

		if (!is_at(node, i, key)) {
			if (node->leaf)
				return NULL;
			node = prepare(node, i);
			continue;
		}
		value = node->value[i];
		if (node->leaf)
			shift(node, i, i + 1, -1);
		else if (node->child[i]->count >= DEGREE)
			take_neighbour(node, i, 1);
		else if (node->child[i + 1]->count >= DEGREE)
			take_neighbour(node, i, 0);
		else {
			merge(node, i);
			node = node->child[i];
			continue;
		}
		return value;
	}
}

char *btree_take(struct btree *tree, uint64_t key)
{
	char *value = take_from(tree->root, key);
	struct node *root = tree->root;

	if (root->count == 0 && !root->leaf) {
		tree->root = root->child[0];
		map_release(root);
	}
	return value;
}

char *btree_get(const struct btree *tree, uint64_t key)
{
	const struct node *node = tree->root;

	for (;;) {
		int i = place_of(node, key);

		if (is_at(node, i, key))
			return node->value[i];
		if (node->leaf)
			return NULL;
		node = node->child[i];
	}
}

/* The depth below a node; -1: it is broken. */
static int depth(const struct node *node, const uint64_t *above, const uint64_t *below, int is_root,
                 long *count)
{
	int all = 0;

	if (node->count > MOST || (!is_root && node->count < DEGREE - 1))
		return -1;
	*count += node->count;
	for (int i = 0; i < node->count; i++)
		if ((i > 0 && node->key[i] <= node->key[i - 1]) || (above && node->key[i] <= *above) ||
		    (below && node->key[i] >= *below))
			return -1;
	for (int i = 0; !node->leaf && i <= node->count; i++) {
		int one = depth(node->child[i], i ? &node->key[i - 1] : above,
		                i < node->count ? &node->key[i] : below, 0, count);

		if (one < 0 || (i > 0 && one != all))
			return -1;
		all = one;
	}
	return all + 1;
}

long btree_check(const struct btree *tree)
{
	long count = 0;

	return depth(tree->root, NULL, NULL, 1, &count) >= 0 ? count : -1;
}
