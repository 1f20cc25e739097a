/* redblack.c - a red-black tree, as textbooks have it, with a sentinel for what is below leaves. */
#include "inside.h"

struct node {
	struct node *parent, *child[2];
	uint64_t key;
	char *value;
	int red;
};

struct redblack {
	struct node *root, *nil;
};

struct redblack *redblack_create(void)
{
	struct redblack *tree = map_alloc(sizeof *tree);
	struct node *nil = tree ? map_alloc(sizeof *nil) : NULL;

	if (!nil) {
		if (tree)
			map_release(tree);
		return NULL;
	}
	nil->parent = nil->child[0] = nil->child[1] = nil;
	nil->key = 0;
	nil->value = NULL;
	nil->red = 0;
	tree->root = tree->nil = nil;
	return tree;
}

/* Puts one node into the place of another below that one's parent. */
static void replace(struct redblack *tree, struct node *node, struct node *with)
{
	if (node->parent == tree->nil)
		tree->root = with;
	else
		node->parent->child[node == node->parent->child[1]] = with;
	with->parent = node->parent;
}

/* To side 0: left. */
static void rotate(struct redblack *tree, struct node *node, int side)
{
	struct node *up = node->child[!side];

	node->child[!side] = up->child[side];
	if (up->child[side] != tree->nil)
		up->child[side]->parent = node;
	replace(tree, node, up);
	up->child[side] = node;
	node->parent = up;
}

static struct node *find(const struct redblack *tree, uint64_t key)
{
	struct node *node = tree->root;

	while (node != tree->nil && node->key != key)
		node = node->child[key > node->key];
	return node;
}

static void settle_insertion(struct redblack *tree, struct node *node)
{
	while (node->parent->red) {
		struct node *grand = node->parent->parent;
		int side = node->parent == grand->child[1];
		struct node *uncle = grand->child[!side];

		if (uncle->red) {
			node->parent->red = uncle->red = 0;
			grand->red = 1;
			node = grand;
			continue;
		}
		if (node == node->parent->child[!side]) {
			node = node->parent;
			rotate(tree, node, side);
		}
		node->parent->red = 0;
		grand->red = 1;
		rotate(tree, grand, !side);
	}
	tree->root->red = 0;
}

int redblack_put(struct redblack *tree, uint64_t key, char *value, char **old)
{
	struct node *parent = tree->nil, *at = tree->root, *node;

	while (at != tree->nil) {
		parent = at;
		if (key == at->key) {
			*old = at->value;
			at->value = value;
			return 0;
		}
		at = at->child[key > at->key];
	}
	node = map_alloc(sizeof *node);
	if (!node)
		return -1;
	node->key = key;
	node->value = value;
	node->red = 1;
	node->parent = parent;
	node->child[0] = node->child[1] = tree->nil;
	if (parent == tree->nil)
		tree->root = node;
	else
		parent->child[key > parent->key] = node;
	settle_insertion(tree, node);
	return 0;
}

static void settle_removal(struct redblack *tree, struct node *node)
{
	while (node != tree->root && !node->red) {
		int side = node == node->parent->child[1];
		struct node *brother = node->parent->child[!side];

		if (brother->red) {
			brother->red = 0;
			node->parent->red = 1;
			rotate(tree, node->parent, side);
			brother = node->parent->child[!side];
		}
		if (!brother->child[0]->red && !brother->child[1]->red) {
			brother->red = 1;
			node = node->parent;
			continue;
		}
		if (!brother->child[!side]->red) {
			brother->child[side]->red = 0;
			brother->red = 1;
			rotate(tree, brother, !side);
			brother = node->parent->child[!side];
		}
		brother->red = node->parent->red;
		node->parent->red = 0;
		brother->child[!side]->red = 0;
		rotate(tree, node->parent, side);
		node = tree->root;
	}
	node->red = 0;
}

char *redblack_take(struct redblack *tree, uint64_t key)
{
	struct node *node = find(tree, key), *next, *moved;
	char *value = node->value;
	int red = node->red;

	if (node == tree->nil)
		return NULL;
	if (node->child[0] == tree->nil || node->child[1] == tree->nil) {
		moved = node->child[node->child[0] == tree->nil];
		replace(tree, node, moved);
	} else {
		for (next = node->child[1]; next->child[0] != tree->nil;)
			next = next->child[0];
		red = next->red;
		moved = next->child[1];
		if (next->parent == node) {
			moved->parent = next;
		} else {
			replace(tree, next, moved);
			next->child[1] = node->child[1];
			next->child[1]->parent = next;
		}
		replace(tree, node, next);
		next->child[0] = node->child[0];
		next->child[0]->parent = next;
		next->red = node->red;
	}
	if (!red)
		settle_removal(tree, moved);
	map_release(node);
	return value;
}

char *redblack_get(const struct redblack *tree, uint64_t key)
{
	return find(tree, key)->value;
}

/* The number of black nodes on each way down; -1: it is broken. */
static int blacks(const struct redblack *tree, const struct node *node, long *count)
{
	int left, right;

	if (node == tree->nil)
		return 1;
	++*count;
	for (int side = 0; side < 2; side++) {
		const struct node *child = node->child[side];

		if (child == tree->nil)
			continue;
		if (child->parent != node || (child->key > node->key) != side || (node->red && child->red))
			return -1;
	}
	left = blacks(tree, node->child[0], count);
	right = blacks(tree, node->child[1], count);
	return left < 0 || left != right ? -1 : left + !node->red;
}

long redblack_check(const struct redblack *tree)
{
	long count = 0;

	return !tree->root->red && blacks(tree, tree->root, &count) >= 0 ? count : -1;
}
