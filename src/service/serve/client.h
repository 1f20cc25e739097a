/*
 * client.h - a node store that looks after its own connections: what users of the library take.
 */
#ifndef LH_SERVICE_SERVE_CLIENT_H
#define LH_SERVICE_SERVE_CLIENT_H

#include "net/connect.h"
#include "store/store.h"

/*
 * A node store that connects to a new region, and again when the connection breaks. get_now is not for signal
 * handlers, since connecting again is not. timeout_ms: 0 means 30000.
 */
int lh__node_open(const struct lh_sys *sys, const struct lh_node_target *target, unsigned timeout_ms,
                  struct lh_store **out, struct lh_error *error) LH_MUST_CHECK;
/*
 * Why the last attempt to connect again failed; error->code is 0 where none has. For stores of lh__node_open.
 */
void lh__node_last_error(struct lh_store *store, struct lh_error *error);

#endif
