/* pm_redblack.c - the red-black tree of examples/ordinary/redblack.c for libpmemobj. */
#include "structures.h"

struct node {
	PMEMoid parent, child[2];
	struct pm_entry in;
	int red;
};
struct tree {
	PMEMoid root, nil;
};
#define N(oid) DIRECT(struct node, oid)
#define SAME(a, b) OID_EQUALS(a, b)

/* A node that is about to change; snapshots of what a transaction has already cost little. */
static struct node *change(PMEMoid oid)
{
	struct node *node = N(oid);

	CHANGES(node);
	return node;
}

void pm_redblack_create(PMEMobjpool *pool, PMEMoid *root)
{
	struct tree *tree;

	(void)pool;
	*root = pmemobj_tx_zalloc(sizeof(struct tree), 4);
	tree = DIRECT(struct tree, *root);
	tree->nil = pmemobj_tx_zalloc(sizeof(struct node), 5);
	N(tree->nil)->parent = N(tree->nil)->child[0] = N(tree->nil)->child[1] = tree->nil;
	tree->root = tree->nil;
}

static void replace(struct tree *tree, PMEMoid node, PMEMoid with)
{
	PMEMoid parent = N(node)->parent;

	if (SAME(parent, tree->nil)) {
		CHANGES(&tree->root);
		tree->root = with;
	} else {
		change(parent)->child[SAME(node, N(parent)->child[1])] = with;
	}
	change(with)->parent = parent;
}

static void rotate(struct tree *tree, PMEMoid node, int side)
{
	PMEMoid up = N(node)->child[!side], inner = N(up)->child[side];

	change(node)->child[!side] = inner;
	if (!SAME(inner, tree->nil))
		change(inner)->parent = node;
	replace(tree, node, up);
	N(up)->child[side] = node;
	N(node)->parent = up;
}

static PMEMoid find(const struct tree *tree, uint64_t key)
{
	PMEMoid at = tree->root;

	while (!SAME(at, tree->nil) && N(at)->in.key != key)
		at = N(at)->child[key > N(at)->in.key];
	return at;
}

static void settle_insertion(struct tree *tree, PMEMoid node)
{
	while (N(N(node)->parent)->red) {
		PMEMoid parent = N(node)->parent, grand = N(parent)->parent;
		int side = SAME(parent, N(grand)->child[1]);
		PMEMoid uncle = N(grand)->child[!side];

		if (N(uncle)->red) {
			change(parent)->red = change(uncle)->red = 0;
			change(grand)->red = 1;
			node = grand;
			continue;
		}
		if (SAME(node, N(parent)->child[!side])) {
			node = parent;
			rotate(tree, node, side);
		}
		change(N(node)->parent)->red = 0;
		change(grand)->red = 1;
		rotate(tree, grand, !side);
	}
	if (N(tree->root)->red)
		change(tree->root)->red = 0;
}

static void add(struct tree *tree, PMEMoid parent, uint64_t key, PMEMoid value)
{
	PMEMoid added = pmemobj_tx_alloc(sizeof(struct node), 5);
	struct node *node = N(added);

	node->in.key = key;
	node->in.value = value;
	node->red = 1;
	node->parent = parent;
	node->child[0] = node->child[1] = tree->nil;
	if (SAME(parent, tree->nil)) {
		CHANGES(&tree->root);
		tree->root = added;
	} else {
		change(parent)->child[key > N(parent)->in.key] = added;
	}
	settle_insertion(tree, added);
}

void pm_redblack_put(PMEMoid root, uint64_t key, const char *value)
{
	struct tree *tree = DIRECT(struct tree, root);
	PMEMoid parent = tree->nil, at = tree->root;

	while (!SAME(at, tree->nil) && N(at)->in.key != key) {
		parent = at;
		at = N(at)->child[key > N(at)->in.key];
	}
	TX_BEGIN(pmemobj_pool_by_oid(root))
	{
		PMEMoid copy = pm_copy(value);

		if (SAME(at, tree->nil)) {
			add(tree, parent, key, copy);
		} else {
			PMEMoid *old = &N(at)->in.value;

			CHANGES(old);
			pmemobj_tx_free(*old);
			*old = copy;
		}
	}
	TX_END
}

static void settle_removal(struct tree *tree, PMEMoid node)
{
	while (!SAME(node, tree->root) && !N(node)->red) {
		PMEMoid parent = N(node)->parent;
		int side = SAME(node, N(parent)->child[1]);
		PMEMoid brother = N(parent)->child[!side];

		if (N(brother)->red) {
			change(brother)->red = 0;
			change(parent)->red = 1;
			rotate(tree, parent, side);
			brother = N(parent)->child[!side];
		}
		if (!N(N(brother)->child[0])->red && !N(N(brother)->child[1])->red) {
			change(brother)->red = 1;
			node = parent;
			continue;
		}
		if (!N(N(brother)->child[!side])->red) {
			change(N(brother)->child[side])->red = 0;
			change(brother)->red = 1;
			rotate(tree, brother, !side);
			brother = N(parent)->child[!side];
		}
		change(brother)->red = N(parent)->red;
		change(parent)->red = 0;
		change(N(brother)->child[!side])->red = 0;
		rotate(tree, parent, side);
		node = tree->root;
	}
	if (N(node)->red)
		change(node)->red = 0;
}

static void take(struct tree *tree, PMEMoid node)
{
	int red = N(node)->red;
	PMEMoid moved, next;

	if (SAME(N(node)->child[0], tree->nil) || SAME(N(node)->child[1], tree->nil)) {
		moved = N(node)->child[SAME(N(node)->child[0], tree->nil)];
		replace(tree, node, moved);
	} else {
		for (next = N(node)->child[1]; !SAME(N(next)->child[0], tree->nil);)
			next = N(next)->child[0];
		red = N(next)->red;
		moved = N(next)->child[1];
		if (SAME(N(next)->parent, node)) {
			change(moved)->parent = next;
		} else {
			replace(tree, next, moved);
			change(next)->child[1] = N(node)->child[1];
			change(N(next)->child[1])->parent = next;
		}
		replace(tree, node, next);
		change(next)->child[0] = N(node)->child[0];
		change(N(next)->child[0])->parent = next;
		N(next)->red = N(node)->red;
	}
	if (!red)
		settle_removal(tree, moved);
	pmemobj_tx_free(N(node)->in.value);
	pmemobj_tx_free(node);
}

void pm_redblack_take(PMEMoid root, uint64_t key)
{
	struct tree *tree = DIRECT(struct tree, root);
	PMEMoid node = find(tree, key);

	if (SAME(node, tree->nil))
		return;
	TX_BEGIN(pmemobj_pool_by_oid(root))
	{
		take(tree, node);
	}
	TX_END
}
