/*
 * key.h - the secret that a node and its clients share: a file with 64 hexadecimal digits (32 bytes) on one
 * line, readable by its owner alone. `openssl rand -hex 32` makes one.
 */
#ifndef LH_NET_KEY_H
#define LH_NET_KEY_H

#include "linehome.h"

#define LH_NODE_KEY_SIZE 32u

struct lh_node_key {
	unsigned char byte[LH_NODE_KEY_SIZE];
};

/* -EPERM: others can read or write the file; -EINVAL: not a key; other errors as open has them. */
int lh__node_key_read(const char *path, struct lh_node_key *key, struct lh_error *error) LH_MUST_CHECK;

#endif
