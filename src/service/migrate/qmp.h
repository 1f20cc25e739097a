/*
 * qmp.h - a QEMU monitor: commands and events of the QEMU Machine Protocol over a Unix socket.
 *
 * One thread at a time. Events that arrive while an answer is awaited are kept in order.
 */
#ifndef LH_MIGRATE_QMP_H
#define LH_MIGRATE_QMP_H

#include <stdbool.h>
#include <sys/types.h>

#include <jansson.h>

#include "linehome.h"

struct lh_qmp;

/*
 * Connects and negotiates. path may have "unix:" before it. -EBUSY: it does not greet within timeout_ms
 * (somebody else is connected); -EPROTO: it is no QMP monitor; -ENOENT, -ECONNREFUSED, -EACCES.
 */
int lh__qmp_open(const char *path, int timeout_ms, struct lh_qmp **out, struct lh_error *error) LH_MUST_CHECK;
/* The process that listens on the socket: QEMU. */
pid_t lh__qmp_process(const struct lh_qmp *qmp);
int lh__qmp_fd(const struct lh_qmp *qmp);
/*
 * Carries out a command. arguments (may be NULL) is taken over, fd (-1: none) goes along. *result, which may
 * be NULL, becomes the caller's. -EREMOTEIO: QEMU refused; error has its words; -ECONNRESET: it has gone;
 * -ETIMEDOUT.
 */
int lh__qmp_command(struct lh_qmp *qmp, const char *name, json_t *arguments, int fd, json_t **result,
                    struct lh_error *error) LH_MUST_CHECK;
/*
 * The next event, at most timeout_ms (0: only one that is here already): 1 and *event, which becomes the
 * caller's (members event, data, timestamp, as QEMU sent it); 0: none; -ECONNRESET, -EPROTO.
 */
int lh__qmp_event(struct lh_qmp *qmp, int timeout_ms, json_t **event, struct lh_error *error) LH_MUST_CHECK;
/* How long commands may take from now on, in milliseconds; 0: 30 seconds, as at first. */
void lh__qmp_limit(struct lh_qmp *qmp, int limit_ms);
void lh__qmp_close(struct lh_qmp *qmp);

#endif
