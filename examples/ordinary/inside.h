/* inside.h - what the three kinds are to map.c. A value belongs to the structure: alloc made it. */
#ifndef INSIDE_H
#define INSIDE_H

#include "map.h"

extern void *(*map_alloc)(size_t size);
extern void (*map_release)(void *object);

struct hash;
struct hash *hash_create(void);
int hash_put(struct hash *hash, uint64_t key, char *value, char **old);
char *hash_take(struct hash *hash, uint64_t key);
char *hash_get(const struct hash *hash, uint64_t key);
long hash_check(const struct hash *hash); /* the number of keys; -1: it is broken */

struct redblack;
struct redblack *redblack_create(void);
int redblack_put(struct redblack *tree, uint64_t key, char *value, char **old);
char *redblack_take(struct redblack *tree, uint64_t key);
char *redblack_get(const struct redblack *tree, uint64_t key);
long redblack_check(const struct redblack *tree);

struct btree;
struct btree *btree_create(void);
int btree_put(struct btree *tree, uint64_t key, char *value, char **old);
char *btree_take(struct btree *tree, uint64_t key);
char *btree_get(const struct btree *tree, uint64_t key);
long btree_check(const struct btree *tree);

#endif
