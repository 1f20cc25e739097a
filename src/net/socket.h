/*
 * socket.h - the sockets of nodes and their clients: listening, connecting within a time, who is at the other
 * end.
 *
 * Without a key, TCP goes to and from loopback addresses only: what it carries is in the clear.
 */
#ifndef LH_NET_SOCKET_H
#define LH_NET_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "net/url.h"

/* The monotonic clock, in milliseconds. */
uint64_t lh__net_now_ms(void);

/*
 * Listens; *fd is non-blocking. bound receives the URL with the port that the kernel chose. A Unix socket's
 * path that nobody listens on any more is replaced; the socket is its owner's alone (0600).
 */
int lh__socket_listen(const struct lh_node_url *url, bool has_key, int *fd, char bound[320],
                      struct lh_error *error) LH_MUST_CHECK;
/* Connects by deadline_ms; *fd is blocking. */
int lh__socket_connect(const struct lh_node_url *url, bool has_key, uint64_t deadline_ms, int *fd,
                       struct lh_error *error) LH_MUST_CHECK;
/* Sets how long one blocking call may take; 0: for ever. */
void lh__socket_timeout(int fd, unsigned ms);
/*
 * Whether the other end is on this machine: a Unix socket, a loopback address, or both ends of one address.
 */
bool lh__socket_is_local(int fd);
/* "tcp 192.0.2.1 port 4711" or "unix process 123". */
void lh__socket_peer(int fd, char *out, size_t size);

#endif
