/*
 * broker.h - the launcher's side of the protocol: a socket, and a thread for each agent that connects.
 */
#ifndef LH_SERVICE_RUN_BROKER_H
#define LH_SERVICE_RUN_BROKER_H

#include "net/connect.h"
#include "service/run/protocol.h"

struct lh_broker;

/*
 * control is the page that agents map, and control_fd its file; both stay the caller's. *out listens under
 * lh__broker_name.
 */
int lh__broker_open(const struct lh_node_target *target, int control_fd, struct lh_broker **out,
                    struct lh_error *error) LH_MUST_CHECK;
/* The name for LH_RUN_ENVIRONMENT. */
const char *lh__broker_name(const struct lh_broker *broker);
/* Whether an agent has said that it failed. */
bool lh__broker_failed(const struct lh_broker *broker);
/* Ends when the agents have gone; then no thread is left. */
void lh__broker_close(struct lh_broker *broker);

#endif
