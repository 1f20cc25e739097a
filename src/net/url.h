/*
 * url.h - where a memory node is: unix:PATH or tcp://HOST:PORT, with an IPv6 address in brackets; and where
 * on one a pool is: the node's URL, a slash, and the name of a region.
 */
#ifndef LH_NET_URL_H
#define LH_NET_URL_H

#include <stdbool.h>

#include "linehome.h"

struct lh_node_url {
	bool tcp;
	char text[320]; /* as it was written */
	char path[108]; /* unix */
	char host[256]; /* tcp, without brackets */
	char port[6];   /* tcp, decimal; "0" only where a node listens: the kernel chooses */
};

/* -EINVAL with a text that names the word and says what to write; *url is then as it was. */
int lh__node_url_parse(const char *word, bool listen, struct lh_node_url *url,
                       struct lh_error *error) LH_MUST_CHECK;

/* What a region can be named: 1 to 63 bytes of A-Z a-z 0-9 . _ -, not beginning with a dot. */
#define LH_NODE_NAME_SIZE 64u /* with the terminating zero */

/* 0, or -EINVAL with a text that says what a name is. */
int lh__node_name_check(const char *name, struct lh_error *error) LH_MUST_CHECK;
/*
 * unix:PATH/NAME or tcp://HOST:PORT/NAME: what follows the last slash is the name, and what stands before it
 * the URL of a node to connect to. -EINVAL with a text that names the word; nothing is then written.
 */
int lh__node_place_parse(const char *word, struct lh_node_url *url, char name[LH_NODE_NAME_SIZE],
                         struct lh_error *error) LH_MUST_CHECK;

#endif
