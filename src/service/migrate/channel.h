/*
 * channel.h - one connection between sender and receiver: hellos, whole messages in and out, heartbeats.
 *
 * Nothing waits but where it says so; with a key the sockets are ends of a relay whose thread speaks TLS
 * (net/tls.h). What is sent is gathered and goes out by lh__channel_flush, or when much of it has gathered.
 * One thread at a time on a channel. A channel that has failed stays so: every call returns the same error.
 *
 * Whoever has a channel of control calls lh__channel_next or lh__channel_wait at least each LH_MOVE_ALIVE_MS:
 * these say that we are there, and find out whether the other side is.
 *
 *   -ECONNRESET  the connection has ended
 *   -ETIMEDOUT   nothing heard for LH_MOVE_SILENT_MS (control), or nothing could be sent for so long
 *   -EPROTO      the other side broke the rules; lh__channel_why says which
 */
#ifndef LH_MIGRATE_CHANNEL_H
#define LH_MIGRATE_CHANNEL_H

#include "net/key.h"
#include "net/tls.h"
#include "net/url.h"
#include "service/migrate/wire.h"

struct lh_channel;

/* ---- the sender's end ---- */

struct lh_channel_target {
	struct lh_node_url url;
	bool has_key;
	struct lh_node_key key;
};

/* Reads URL and key as `linehome run` does: without a key TCP goes to loopback only. */
int lh__channel_target(const char *url, const char *key_file, struct lh_channel_target *target,
                       struct lh_error *error) LH_MUST_CHECK;
/*
 * Connects, says hello and reads the answer within timeout_ms; *answer is the receiver's hello. -EACCES:
 * another key, or none; -EBUSY, -ESTALE (LH_MOVE_UNKNOWN), -EALREADY (LH_MOVE_OLD), -EPROTONOSUPPORT: as its
 * status, *answer is there; -ECONNREFUSED: nobody listens there; -ETIMEDOUT, -ECONNRESET...
 */
int lh__channel_connect(const struct lh_channel_target *target, const struct lh_move_hello *hello,
                        int timeout_ms, struct lh_channel **out, struct lh_move_hello *answer,
                        struct lh_error *error) LH_MUST_CHECK;

/* ---- the receiver's end ---- */

struct lh_channel_listener;

/* bound: the URL with the port that the kernel chose. The key as `linehome serve` has it. */
int lh__channel_listen(const char *url, const char *key_file, struct lh_channel_listener **out,
                       char bound[320], struct lh_error *error) LH_MUST_CHECK;
/* Readable when somebody connects. */
int lh__channel_listener_fd(const struct lh_channel_listener *listener);
/*
 * Takes one connection, shakes hands and reads its hello, all within a few seconds; what was wrong with one
 * that is refused stands in error (for a log line) and -EPROTO or -EACCES is returned. The caller answers it
 * with lh__channel_answer, and closes the channel where it answers no. -EAGAIN: nobody is there.
 */
int lh__channel_accept(struct lh_channel_listener *listener, struct lh_channel **out,
                       struct lh_move_hello *hello, struct lh_error *error) LH_MUST_CHECK;
int lh__channel_answer(struct lh_channel *channel, const struct lh_move_hello *answer) LH_MUST_CHECK;
void lh__channel_listener_close(struct lh_channel_listener *listener);

/* ---- both ---- */

/* For poll: readable when lh__channel_next may have something new. */
int lh__channel_fd(const struct lh_channel *channel);
/* Gathers a message; body is copied. */
int lh__channel_send(struct lh_channel *channel, enum lh_move_type type, unsigned flags, uint64_t value,
                     const void *body, size_t size) LH_MUST_CHECK;
/* Gathers a GIVE without an intermediate copy. */
int lh__channel_give(struct lh_channel *channel, uint64_t page, bool since, lh_mask mask,
                     const void *data) LH_MUST_CHECK;
/* Sends all that was gathered; waits for room in the socket. */
int lh__channel_flush(struct lh_channel *channel) LH_MUST_CHECK;
/*
 * The next message: 1, 0 where none is whole yet, or an error. Its body is valid until the next call. Does
 * not wait; ALIVE is swallowed.
 */
int lh__channel_next(struct lh_channel *channel, struct lh_move_message *message) LH_MUST_CHECK;
/*
 * The same, but waits up to timeout_ms (-1: for ever); on control it sends ALIVE meanwhile, and looks for it.
 */
int lh__channel_wait(struct lh_channel *channel, struct lh_move_message *message,
                     int timeout_ms) LH_MUST_CHECK;
/* Whether there is a message that lh__channel_next returns without looking at the socket. */
bool lh__channel_has(const struct lh_channel *channel);
/*
 * Makes every call in another thread fail soon, with -ECONNRESET: the one call that another thread may make.
 */
void lh__channel_break(struct lh_channel *channel);
const char *lh__channel_why(const struct lh_channel *channel);
/* Bytes sent and received so far, headers included. Any thread. */
void lh__channel_bytes(const struct lh_channel *channel, uint64_t *out, uint64_t *in);
void lh__channel_close(struct lh_channel *channel);

#endif
