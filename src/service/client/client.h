/*
 * client.h - a node store that looks after its own connections: what services of this process take, while an
 * agent in another's has a launcher for that.
 */
#ifndef LH_SERVICE_CLIENT_CLIENT_H
#define LH_SERVICE_CLIENT_CLIENT_H

#include "net/connect.h"
#include "store/store.h"

/*
 * A node store that connects to a new region, and again when the connection breaks. get_now is not for signal
 * handlers, since connecting again is not. timeout_ms: 0 means 30000.
 */
int lh__node_open(const struct lh_sys *sys, const struct lh_node_target *target, unsigned timeout_ms,
                  struct lh_store **out, struct lh_error *error) LH_MUST_CHECK;
/*
 * The same for a region that the node keeps by name (net/connect.h): made, or opened as it was left. It stays
 * when the store is closed; so does what was acknowledged, for as long as the node lives. -EEXIST where it is
 * there and is to be made, -ENOENT where it is not and is to be opened, -EBUSY where another client has it.
 * Where another client has opened the region while this one had no connection, the store is broken.
 */
int lh__node_store_named(const struct lh_sys *sys, const struct lh_node_target *target, const char *name,
                         bool create, unsigned timeout_ms, struct lh_store **out,
                         struct lh_error *error) LH_MUST_CHECK;
/*
 * Why the last attempt to connect again failed; error->code is 0 where none has. For the stores above.
 */
void lh__node_last_error(struct lh_store *store, struct lh_error *error);

#endif
