/*
 * url.h - where a memory node is: unix:PATH or tcp://HOST:PORT, with an IPv6 address in brackets.
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

#endif
