/*
 * server.h - the memory node: many clients' pages in this process' memory. `linehome serve` is this and a
 * command line; `linehome run` embeds one when it is given no store.
 *
 * Ordinary code with a thread for each connection (and one more for each ring). Each region belongs to one
 * client; it is dropped when its last connection has gone and nobody has come back within grace_ms. A region
 * that was made by name stays as long as the node, or until it is dropped by name, and has one client at a
 * time.
 */
#ifndef LH_SERVICE_SERVE_SERVER_H
#define LH_SERVICE_SERVE_SERVER_H

#include <stdbool.h>

#include "linehome.h"

struct lh_server_options {
	const char *const *listen; /* URLs: unix:PATH, tcp://HOST:PORT */
	size_t listen_count;
	uint64_t size;        /* bytes of pages that it holds at most; 0: no limit */
	const char *key_file; /* TCP speaks TLS with this key; NULL: TCP on loopback only, in the clear */
	unsigned grace_ms;
	unsigned spin_us;     /* how long a ring that has nothing to do polls before it sleeps */
	unsigned connections; /* at most so many at once; 0: 4096 */
	/*
	 * One line of text, no newline, about a connection that was refused or ended; NULL: nowhere. From any
	 * thread.
	 */
	void (*log)(void *context, const char *line);
	void *log_context;
};

#define LH_SERVER_GRACE_MS 10000u
#define LH_SERVER_SPIN_US 50u

struct lh_server_counts {
	uint64_t connections, connections_now; /* channels: a client has one over a ring, two over a stream */
	uint64_t refused;                      /* connections that ended before they had a region */
	uint64_t violations;                   /* connections that were ended for what they sent */
	uint64_t regions, regions_now, clones;
	uint64_t named_now;                   /* of regions_now */
	uint64_t gets, puts, replaces, drops; /* requests carried out, full ones included */
	uint64_t full;                        /* changes refused with ENOSPC */
	uint64_t lines_in, lines_out;
	uint64_t bytes_in, bytes_out; /* messages */
	uint64_t bytes_used, bytes_limit;
};

struct lh_server;

/* Listens. On success *out must be run or closed. */
int lh__server_open(const struct lh_server_options *options, struct lh_server **out,
                    struct lh_error *error) LH_MUST_CHECK;
/* The URL of the listener number index, with the port that the kernel chose; NULL beyond the last. */
const char *lh__server_url(const struct lh_server *server, size_t index);
/*
 * Serves until lh__server_stop. Then requests that have arrived are carried out and answered, and every
 * connection ends. By one thread, once.
 */
int lh__server_run(struct lh_server *server, struct lh_error *error) LH_MUST_CHECK;
/* From any thread, or a signal handler. */
void lh__server_stop(struct lh_server *server);
/* From any thread. */
void lh__server_read_counts(struct lh_server *server, struct lh_server_counts *counts);
/* Not while it runs. */
void lh__server_close(struct lh_server *server);

#endif
