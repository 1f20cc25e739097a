/*
 * btree.h - a B+tree from short words to pointers, in ordinary C: plain pointers, plain stores.
 *
 * Pairs stand in the leaves, which are linked in the order of their keys. Inner nodes hold separators: all
 * keys below child i are less than separator i, which is not greater than any key below child i + 1. Every
 * node but the root is nearly half full at least. Inserting splits full nodes on its way down and deleting
 * fills poor ones, so neither ever has to go back up. An empty tree is zeroes. A function that finds no
 * memory leaves a tree with the same pairs.
 *
 * Kept in a pool it is persistent: whoever calls it begins a transaction before and commits it after.
 */
#ifndef EXAMPLES_BTREE_H
#define EXAMPLES_BTREE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "memory.h"

#define BTREE_KEY 32 /* bytes of a key, with at least one zero at its end */
#define BTREE_MAX 14 /* keys of a node; even */
#define BTREE_MIN (BTREE_MAX / 2 - 1)

struct btree_node {
	unsigned n;
	bool leaf;
	char key[BTREE_MAX][BTREE_KEY];
	struct btree_node *next; /* of a leaf: the one to its right */
	union {
		struct btree_node *child[BTREE_MAX + 1];
		void *value[BTREE_MAX]; /* the caller's */
	};
};

struct btree {
	struct btree_node *root;
	uint64_t count;
};

/* A place between two pairs; that of `i` in `leaf` is the next. */
struct btree_cursor {
	const struct btree_node *leaf;
	unsigned i;
};

/* Keys are padded with zeroes, so that they compare as bytes. False: the word is too long. */
static inline bool btree_key(char key[BTREE_KEY], const char *word)
{
	size_t length = strlen(word);

	memset(key, 0, BTREE_KEY);
	if (length >= BTREE_KEY)
		return false;
	memcpy(key, word, length);
	return true;
}

/* How many keys of the node are less than key. */
static inline unsigned btree_less(const struct btree_node *node, const char *key)
{
	unsigned i = 0;

	while (i < node->n && memcmp(node->key[i], key, BTREE_KEY) < 0)
		i++;
	return i;
}

/* The child below which key is, if it is anywhere: keys that equal a separator are to its right. */
static inline unsigned btree_child(const struct btree_node *node, const char *key)
{
	unsigned i = btree_less(node, key);

	return i < node->n && memcmp(node->key[i], key, BTREE_KEY) == 0 ? i + 1 : i;
}

/* ---- finding ---- */

/* Before the first pair whose key is not less than word. */
static inline struct btree_cursor btree_seek(const struct btree *tree, const char *word)
{
	const struct btree_node *node = tree->root;
	char key[BTREE_KEY];

	memset(key, 0, sizeof key);
	for (unsigned i = 0; i < BTREE_KEY - 1 && word[i]; i++)
		key[i] = word[i];
	while (node && !node->leaf)
		node = node->child[btree_child(node, key)];
	return (struct btree_cursor){ node, node ? btree_less(node, key) : 0 };
}

/* The next pair; false at the end. The tree may not change meanwhile. */
static inline bool btree_next(struct btree_cursor *cursor, const char **key, void **value)
{
	while (cursor->leaf && cursor->i == cursor->leaf->n)
		*cursor = (struct btree_cursor){ cursor->leaf->next, 0 };
	if (!cursor->leaf)
		return false;
	*key = cursor->leaf->key[cursor->i];
	*value = cursor->leaf->value[cursor->i++];
	return true;
}

/* Where the value of word stands, or NULL. */
static inline void **btree_find(const struct btree *tree, const char *word)
{
	struct btree_node *node = tree->root;
	char key[BTREE_KEY];
	unsigned i;

	if (!node || !btree_key(key, word))
		return NULL;
	while (!node->leaf)
		node = node->child[btree_child(node, key)];
	i = btree_less(node, key);
	return i < node->n && memcmp(node->key[i], key, BTREE_KEY) == 0 ? &node->value[i] : NULL;
}

/* ---- moving keys about ---- */

/* Makes room for one key at i, and for one child (or value) at c. */
static inline void btree_open_gap(struct btree_node *node, unsigned i, unsigned c)
{
	unsigned children = node->leaf ? node->n : node->n + 1;

	memmove(node->key[i + 1], node->key[i], (size_t)(node->n - i) * BTREE_KEY);
	memmove(&node->child[c + 1], &node->child[c], (children - c) * sizeof *node->child);
	node->n++;
}

/* The reverse: key i and child (or value) c are gone. */
static inline void btree_close_gap(struct btree_node *node, unsigned i, unsigned c)
{
	unsigned children = node->leaf ? node->n : node->n + 1;

	memmove(node->key[i], node->key[i + 1], (size_t)(node->n - i - 1) * BTREE_KEY);
	memmove(&node->child[c], &node->child[c + 1], (children - c - 1) * sizeof *node->child);
	node->n--;
}

/* Keys from `from` on, with what is to their right, or, in a leaf, their values, to the end of `to`. */
static inline void btree_append(struct btree_node *to, const struct btree_node *node, unsigned from)
{
	memcpy(to->key[to->n], node->key[from], (size_t)(node->n - from) * BTREE_KEY);
	if (node->leaf)
		memcpy(&to->value[to->n], &node->value[from], (node->n - from) * sizeof *node->value);
	else
		memcpy(&to->child[to->n], &node->child[from], (node->n - from + 1) * sizeof *node->child);
	to->n += node->n - from;
}

/* ---- inserting ---- */

static inline struct btree_node *btree_new_node(const struct memory *memory, bool leaf)
{
	struct btree_node *node = memory_alloc(memory, sizeof *node);

	if (!node)
		return NULL;
	memset(node, 0, sizeof *node);
	node->leaf = leaf;
	return node;
}

/* Child i, which is full, becomes two; the parent is not full. */
static inline bool btree_split(struct btree_node *parent, unsigned i, const struct memory *memory)
{
	struct btree_node *left = parent->child[i], *right = btree_new_node(memory, left->leaf);
	unsigned middle = BTREE_MAX / 2;

	if (!right)
		return false;
	btree_open_gap(parent, i, i + 1);
	parent->child[i + 1] = right;
	memcpy(parent->key[i], left->key[middle], BTREE_KEY);
	if (left->leaf) {
		btree_append(right, left, middle);
		right->next = left->next;
		left->next = right;
	} else {
		btree_append(right, left, middle + 1); /* the middle key has gone up */
	}
	left->n = middle;
	return true;
}

/* A root that a pair can be inserted below: there is one, and it is not full. */
static inline bool btree_prepare_root(struct btree *tree, const struct memory *memory)
{
	struct btree_node *root = tree->root;

	if (root && root->n < BTREE_MAX)
		return true;
	root = btree_new_node(memory, root == NULL);
	if (!root)
		return false;
	if (tree->root) {
		root->child[0] = tree->root;
		if (!btree_split(root, 0, memory)) {
			memory_release(memory, root);
			return false;
		}
	}
	tree->root = root;
	return true;
}

/*
 * Where the value of word stands, made with the value NULL where there is none. NULL: no memory, or the word
 * is too long.
 */
static inline void **btree_put(struct btree *tree, const struct memory *memory, const char *word)
{
	void **found = btree_find(tree, word);
	struct btree_node *node;
	char key[BTREE_KEY];
	unsigned i;

	if (found || !btree_key(key, word) || !btree_prepare_root(tree, memory))
		return found;
	for (node = tree->root; !node->leaf; node = node->child[i]) {
		i = btree_child(node, key);
		if (node->child[i]->n < BTREE_MAX)
			continue;
		if (!btree_split(node, i, memory))
			return NULL;
		i = btree_child(node, key);
	}
	i = btree_less(node, key);
	btree_open_gap(node, i, i);
	memcpy(node->key[i], key, BTREE_KEY);
	node->value[i] = NULL;
	tree->count++;
	return &node->value[i];
}

/* ---- deleting ---- */

/* Child i gets the last of its left neighbour. */
static inline void btree_from_left(struct btree_node *parent, unsigned i)
{
	struct btree_node *left = parent->child[i - 1], *node = parent->child[i];

	btree_open_gap(node, 0, 0);
	if (node->leaf) {
		memcpy(node->key[0], left->key[left->n - 1], BTREE_KEY);
		node->value[0] = left->value[left->n - 1];
		memcpy(parent->key[i - 1], node->key[0], BTREE_KEY);
	} else {
		memcpy(node->key[0], parent->key[i - 1], BTREE_KEY);
		node->child[0] = left->child[left->n];
		memcpy(parent->key[i - 1], left->key[left->n - 1], BTREE_KEY);
	}
	left->n--;
}

/* Child i gets the first of its right neighbour. */
static inline void btree_from_right(struct btree_node *parent, unsigned i)
{
	struct btree_node *node = parent->child[i], *right = parent->child[i + 1];

	if (node->leaf) {
		memcpy(node->key[node->n], right->key[0], BTREE_KEY);
		node->value[node->n++] = right->value[0];
		btree_close_gap(right, 0, 0);
		memcpy(parent->key[i], right->key[0], BTREE_KEY);
	} else {
		memcpy(node->key[node->n++], parent->key[i], BTREE_KEY);
		node->child[node->n] = right->child[0];
		memcpy(parent->key[i], right->key[0], BTREE_KEY);
		btree_close_gap(right, 0, 0);
	}
}

/* Children i and i + 1 become one. */
static inline void btree_merge(struct btree_node *parent, unsigned i, const struct memory *memory)
{
	struct btree_node *left = parent->child[i], *right = parent->child[i + 1];

	if (left->leaf)
		left->next = right->next;
	else
		memcpy(left->key[left->n++], parent->key[i], BTREE_KEY);
	btree_append(left, right, 0);
	btree_close_gap(parent, i, i + 1);
	memory_release(memory, right);
}

/* Child i can lose a key. Returns the child that is in its place then. */
static inline struct btree_node *btree_fill(struct btree_node *parent, unsigned i,
                                            const struct memory *memory)
{
	if (parent->child[i]->n > BTREE_MIN)
		return parent->child[i];
	if (i > 0 && parent->child[i - 1]->n > BTREE_MIN) {
		btree_from_left(parent, i);
	} else if (i < parent->n && parent->child[i + 1]->n > BTREE_MIN) {
		btree_from_right(parent, i);
	} else {
		i = i < parent->n ? i : i - 1;
		btree_merge(parent, i, memory);
	}
	return parent->child[i];
}

/* False where there was none; else *value is what it had, to be released by the caller. */
static inline bool btree_delete(struct btree *tree, const struct memory *memory, const char *word,
                                void **value)
{
	struct btree_node *node = tree->root, *root = node;
	char key[BTREE_KEY];
	unsigned i;

	if (!btree_find(tree, word) || !btree_key(key, word))
		return false;
	while (!node->leaf)
		node = btree_fill(node, btree_child(node, key), memory);
	i = btree_less(node, key);
	*value = node->value[i];
	btree_close_gap(node, i, i);
	tree->count--;
	if (root->n == 0) {
		tree->root = root->leaf ? NULL : root->child[0];
		memory_release(memory, root);
	}
	return true;
}

/* All nodes below, and node; values are the caller's. */
static inline void btree_release(struct btree_node *node, const struct memory *memory)
{
	for (unsigned i = 0; !node->leaf && i <= node->n; i++)
		btree_release(node->child[i], memory);
	memory_release(memory, node);
}

static inline void btree_clear(struct btree *tree, const struct memory *memory)
{
	if (tree->root)
		btree_release(tree->root, memory);
	*tree = (struct btree){ NULL, 0 };
}

#endif
