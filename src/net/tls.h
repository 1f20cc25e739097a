/*
 * tls.h - TLS 1.3 with a pre-shared key and nothing else: no certificates, no tickets, no earlier version.
 *
 * Works on blocking sockets whose time limits are set (lh__socket_timeout). One thread at a time on a
 * connection.
 */
#ifndef LH_NET_TLS_H
#define LH_NET_TLS_H

#include <stdbool.h>
#include <stdint.h>

#include "net/key.h"

struct lh_tls_context;
struct lh_tls;

int lh__tls_context_open(bool server, const struct lh_node_key *key, struct lh_tls_context **out,
                         struct lh_error *error) LH_MUST_CHECK;
void lh__tls_context_close(struct lh_tls_context *context);

/*
 * Shakes hands by deadline_ms. -EACCES: another key; -EPROTO: the peer does not speak TLS; -ETIMEDOUT;
 * -ECONNRESET.
 */
int lh__tls_open(struct lh_tls_context *context, int fd, uint64_t deadline_ms, struct lh_tls **out,
                 struct lh_error *error) LH_MUST_CHECK;
/* Says goodbye if that goes without waiting. fd stays open. */
void lh__tls_close(struct lh_tls *tls);

/* Bytes; 0 at the end; -EAGAIN where the socket's time limit is over (or it does not block); -ECONNRESET. */
long lh__tls_read(struct lh_tls *tls, void *buffer, size_t size);
long lh__tls_write(struct lh_tls *tls, const void *buffer, size_t size);
/* Whether lh__tls_read has bytes without looking at the socket. */
bool lh__tls_pending(const struct lh_tls *tls);

/*
 * Takes over tls and its fd, and makes *plain, a blocking stream socket whose bytes a thread carries over tls
 * in both directions until either side ends. On failure tls and fd stay the caller's.
 */
int lh__tls_relay(struct lh_tls *tls, int fd, int *plain) LH_MUST_CHECK;

#endif
