/* pm_btree.c - the B-tree of examples/ordinary/btree.c for libpmemobj. */
#include <string.h>

#include "structures.h"

#define DEGREE 8
#define MOST (2 * DEGREE - 1)

struct node {
	int count, leaf;
	struct pm_entry at[MOST];
	PMEMoid child[MOST + 1];
};
struct tree {
	PMEMoid root;
};
#define N(oid) DIRECT(struct node, oid)

static PMEMoid make_node(int leaf)
{
	PMEMoid made = pmemobj_tx_alloc(sizeof(struct node), 7);

	N(made)->count = 0;
	N(made)->leaf = leaf;
	return made;
}

void pm_btree_create(PMEMobjpool *pool, PMEMoid *root)
{
	(void)pool;
	*root = pmemobj_tx_zalloc(sizeof(struct tree), 6);
	DIRECT(struct tree, *root)->root = make_node(1);
}

static int place_of(const struct node *node, uint64_t key)
{
	int i = 0;

	while (i < node->count && node->at[i].key < key)
		i++;
	return i;
}

static int is_at(const struct node *node, int i, uint64_t key)
{
	return i < node->count && node->at[i].key == key;
}

/* As its namesake in the ordinary one; the node is to be changed already. */
static void shift(struct node *node, int i, int child, int by)
{
	int from = by > 0 ? i : i + 1, child_from = by > 0 ? child : child + 1;

	memmove(&node->at[from + by], &node->at[from], (size_t)(node->count - from) * sizeof node->at[0]);
	if (!node->leaf)
		memmove(&node->child[child_from + by], &node->child[child_from],
		        (size_t)(node->count + 1 - child_from) * sizeof node->child[0]);
	node->count += by;
}

static void copy_entries(struct node *to, int at, const struct node *from, int first, int count)
{
	memcpy(&to->at[at], &from->at[first], (size_t)count * sizeof to->at[0]);
	if (!to->leaf)
		memcpy(&to->child[at], &from->child[first], (size_t)(count + 1) * sizeof to->child[0]);
}

static void split(struct node *node, int i)
{
	struct node *full = N(node->child[i]), *right;
	PMEMoid made = make_node(full->leaf);

	right = N(made);
	copy_entries(right, 0, full, DEGREE, DEGREE - 1);
	right->count = DEGREE - 1;
	CHANGES(&full->count);
	full->count = DEGREE - 1;
	CHANGES(node);
	shift(node, i, i + 1, 1);
	node->at[i] = full->at[DEGREE - 1];
	node->child[i + 1] = made;
}

static void put(struct tree *tree, uint64_t key, PMEMoid value)
{
	struct node *node = N(tree->root);

	if (node->count == MOST) {
		PMEMoid root = make_node(0);

		N(root)->child[0] = tree->root;
		split(N(root), 0);
		CHANGES(tree);
		tree->root = root;
		node = N(root);
	}
	for (;;) {
		int i = place_of(node, key);

		if (is_at(node, i, key)) {
			CHANGES(&node->at[i].value);
			pmemobj_tx_free(node->at[i].value);
			node->at[i].value = value;
			return;
		}
		if (node->leaf) {
			CHANGES(node);
			shift(node, i, i + 1, 1);
			node->at[i] = (struct pm_entry){ key, value };
			return;
		}
		if (N(node->child[i])->count < MOST)
			node = N(node->child[i]);
		else
			split(node, i);
	}
}

void pm_btree_put(PMEMoid root, uint64_t key, const char *value)
{
	TX_BEGIN(pmemobj_pool_by_oid(root))
	{
		put(DIRECT(struct tree, root), key, pm_copy(value));
	}
	TX_END
}

static void merge(struct node *node, int i)
{
	PMEMoid gone = node->child[i + 1];
	struct node *left = N(node->child[i]), *right = N(gone);

	CHANGES(left);
	CHANGES(node);
	left->at[left->count] = node->at[i];
	copy_entries(left, left->count + 1, right, 0, right->count);
	left->count += 1 + right->count;
	shift(node, i, i + 1, -1);
	pmemobj_tx_free(gone);
}

static void borrow_left(struct node *node, int i)
{
	struct node *to = N(node->child[i]), *from = N(node->child[i - 1]);

	CHANGES(to);
	CHANGES(&from->count);
	CHANGES(&node->at[i - 1]);
	shift(to, 0, 0, 1);
	to->at[0] = node->at[i - 1];
	if (!to->leaf)
		to->child[0] = from->child[from->count];
	from->count--;
	node->at[i - 1] = from->at[from->count];
}

static void borrow_right(struct node *node, int i)
{
	struct node *to = N(node->child[i]), *from = N(node->child[i + 1]);

	CHANGES(to);
	CHANGES(from);
	CHANGES(&node->at[i]);
	to->at[to->count] = node->at[i];
	if (!to->leaf)
		to->child[to->count + 1] = from->child[0];
	to->count++;
	node->at[i] = from->at[0];
	shift(from, 0, 0, -1);
}

static struct node *prepare(struct node *node, int i)
{
	if (N(node->child[i])->count >= DEGREE)
		return N(node->child[i]);
	if (i > 0 && N(node->child[i - 1])->count >= DEGREE) {
		borrow_left(node, i);
		return N(node->child[i]);
	}
	if (i < node->count && N(node->child[i + 1])->count >= DEGREE) {
		borrow_right(node, i);
		return N(node->child[i]);
	}
	if (i == node->count)
		i--;
	merge(node, i);
	return N(node->child[i]);
}

static PMEMoid take_from(struct node *node, uint64_t key);

static void take_neighbour(struct node *node, int i, int last)
{
	struct node *below = N(node->child[last ? i : i + 1]);
	const struct node *at = below;
	struct pm_entry entry;

	while (!at->leaf)
		at = N(at->child[last ? at->count : 0]);
	entry = at->at[last ? at->count - 1 : 0];
	CHANGES(&node->at[i]);
	node->at[i] = entry;
	take_from(below, entry.key);
}

static PMEMoid take_from(struct node *node, uint64_t key)
{
	for (;;) {
		int i = place_of(node, key);
		PMEMoid value;

		if (!is_at(node, i, key)) {
			if (node->leaf)
				return OID_NULL;
			node = prepare(node, i);
			continue;
		}
		value = node->at[i].value;
		if (node->leaf) {
			CHANGES(node);
			shift(node, i, i + 1, -1);
		} else if (N(node->child[i])->count >= DEGREE) {
			take_neighbour(node, i, 1);
		} else if (N(node->child[i + 1])->count >= DEGREE) {
			take_neighbour(node, i, 0);
		} else {
			merge(node, i);
			node = N(node->child[i]);
			continue;
		}
		return value;
	}
}

void pm_btree_take(PMEMoid oid, uint64_t key)
{
	struct tree *tree = DIRECT(struct tree, oid);

	TX_BEGIN(pmemobj_pool_by_oid(oid))
	{
		PMEMoid value = take_from(N(tree->root), key), root = tree->root;

		if (N(root)->count == 0 && !N(root)->leaf) {
			CHANGES(tree);
			tree->root = N(root)->child[0];
			pmemobj_tx_free(root);
		}
		pmemobj_tx_free(value);
	}
	TX_END
}
