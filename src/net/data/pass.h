/*
 * pass.h - one message with descriptors beside it, over a Unix socket of sequenced packets.
 *
 * CORE code: the agent speaks to its launcher with it. Blocking; interrupted calls are repeated.
 */
#ifndef LH_NET_DATA_PASS_H
#define LH_NET_DATA_PASS_H

#include "sys/sys.h"

#define LH_PASS_MAX 8

/* Sends size bytes and n descriptors as one packet. 0 or a negative errno. */
int lh__pass_send(const struct lh_sys *sys, int socket, const void *data, size_t size, const int *descriptors,
                  size_t n) LH_MUST_CHECK;
/*
 * Receives one packet of exactly size bytes; up to *n descriptors (close-on-exec) go to descriptors, their
 * number to *n. -EPIPE: the other end is gone. -EPROTO: a packet of another size, or more descriptors; those
 * that came are closed.
 */
int lh__pass_receive(const struct lh_sys *sys, int socket, void *data, size_t size, int *descriptors,
                     size_t *n) LH_MUST_CHECK;

#endif
