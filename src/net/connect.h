/*
 * connect.h - making links to memory nodes: ordinary code, for a launcher or for users of the library.
 *
 * A link over unix: is a ring, over tcp: two stream sockets; with a key the sockets are ends of a relay,
 * whose threads in this process speak TLS.
 */
#ifndef LH_NET_CONNECT_H
#define LH_NET_CONNECT_H

#include "net/data/link.h"
#include "net/key.h"
#include "net/url.h"

struct lh_node_target {
	struct lh_node_url url;
	bool has_key; /* used for TCP only */
	struct lh_node_key key;
	bool no_ring; /* a stream even over unix: */
	bool no_view; /* a ring alone: every page is asked for */
};

/* Reads the URL and, unless key_file is NULL, the key. */
int lh__node_target(const char *url, const char *key_file, struct lh_node_target *target,
                    struct lh_error *error) LH_MUST_CHECK;

/* A link to a new, empty region, within timeout_ms. */
int lh__node_create(const struct lh_node_target *target, int timeout_ms, struct lh_node_link *link,
                    struct lh_error *error) LH_MUST_CHECK;
/*
 * A new link to the same region: *link is replaced, its old descriptors are not looked at. The node has then
 * ended the old link's connections. Tries again and again where that may help: an error comes either at once,
 * since it is final (-ESTALE: the node does not have the region any more), or when the time is over.
 */
int lh__node_again(const struct lh_node_target *target, int timeout_ms, struct lh_node_link *link,
                   struct lh_error *error) LH_MUST_CHECK;
/* A link to a new region that is a copy of what `of` has acknowledged. -ESTALE as above. */
int lh__node_clone(const struct lh_node_target *target, int timeout_ms, const struct lh_node_link *of,
                   struct lh_node_link *link, struct lh_error *error) LH_MUST_CHECK;
/*
 * Regions that live as long as the node does, or until they are dropped; net/url.h says what a name is. One
 * client has such a region at a time. A link to one is used, and made again, as any other; where another
 * client has opened the region meanwhile lh__node_again fails with -EBUSY.
 *
 * create: -EEXIST: there is a region of that name. open: -ENOENT: there is none; -EBUSY: a client has it.
 */
int lh__node_create_named(const struct lh_node_target *target, const char *name, int timeout_ms,
                          struct lh_node_link *link, struct lh_error *error) LH_MUST_CHECK;
int lh__node_open_named(const struct lh_node_target *target, const char *name, int timeout_ms,
                        struct lh_node_link *link, struct lh_error *error) LH_MUST_CHECK;
/*
 * The region is gone, and its memory the node's again. -ENOENT, -EBUSY as above. `made`: only the one that
 * this link, which is closed, was made to, and only if nobody has opened it since (-EBUSY); NULL: whichever
 * it is.
 */
int lh__node_drop_named(const struct lh_node_target *target, const char *name,
                        const struct lh_node_link *made, int timeout_ms, struct lh_error *error);
/* Closes the descriptors. */
void lh__node_link_close(struct lh_node_link *link);

#endif
