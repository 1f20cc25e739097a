/*
 * inside.h - what the files of the memory node share among themselves.
 *
 * Locks: server->lock guards the lists of regions and connections and what is said so below; region->changes
 * makes changes of one region's pages take turns. Nothing is sent or received under either.
 */
#ifndef LH_SERVICE_SERVE_INSIDE_H
#define LH_SERVICE_SERVE_INSIDE_H

#include <pthread.h>

#include "net/data/ring.h"
#include "net/data/stream.h"
#include "net/key.h"
#include "net/socket.h"
#include "net/tls.h"
#include "service/serve/follow.h"
#include "service/serve/server.h"
#include "store/store.h"

#define LISTENERS_MAX 16u

/* A change of a region, and what it changed when it was carried out first. */
struct change {
	uint64_t number; /* 0: none */
	uint64_t page;
	lh_mask mask;
	enum lh_wire_op op;
	uint32_t changed;
};

struct region {
	struct region *next;
	uint64_t id;
	char name[LH_WIRE_NAME_MAX + 1]; /* empty: it lives as long as it is used, and the grace */
	uint8_t token[LH_WIRE_TOKEN];
	uint64_t generation;     /* of the connections that may use it */
	unsigned users;          /* connections, and those about to be */
	uint64_t empty_since_ms; /* when users became 0 */
	struct lh_store *store;
	pthread_mutex_t changes;
	struct change change[LH_WIRE_CHANGES]; /* by number; under changes */
};

struct connection {
	struct connection *next;
	struct lh_server *server;
	struct region *region;
	uint64_t generation;
	unsigned channel;
	int fd;
	struct lh_tls *tls; /* NULL: in the clear */
	bool secured;       /* the listener wants TLS */
	bool fenced;        /* atomic: carry out nothing more; the connection of a later generation waits */
	struct lh_ring *ring;
	char peer[128];
};

struct listener {
	int fd;
	bool tcp;
	char url[320];
	char path[108]; /* to be removed in the end; empty: none */
};

struct lh_server {
	struct lh_server_options options;
	struct lh_memory_pool *pool;
	struct lh_node_key key;
	bool has_key;
	struct lh_tls_context *tls;
	struct listener listener[LISTENERS_MAX];
	size_t listeners;
	int wake_fd;   /* eventfd: the running thread has something to look at */
	bool stopping; /* atomic */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a connection has ended */
	struct region *regions;
	struct connection *connections;
	unsigned threads;
	struct lh_places places;        /* atomic */
	struct lh_server_counts counts; /* atomic */
};

uint64_t lh__serve_now_ms(void);
static inline void lh__serve_count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}
/* One line to the log: "PEER: text". */
void lh__serve_log(const struct connection *connection, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Regions. The result is a wire status. On OK the connection is a user of connection->region. */
enum lh_wire_status lh__serve_create(struct connection *connection, const struct lh_wire_hello *hello);
enum lh_wire_status lh__serve_open(struct connection *connection, const struct lh_wire_hello *hello);
enum lh_wire_status lh__serve_attach(struct connection *connection, const struct lh_wire_hello *hello);
enum lh_wire_status lh__serve_clone(struct connection *connection, const struct lh_wire_hello *hello);
/* The region of that name goes, at once; the connection is a user of none. */
enum lh_wire_status lh__serve_drop(struct connection *connection, const struct lh_wire_hello *hello);
/*
 * The client does not know that its region was made by name: it goes like one that has none, unless somebody
 * has opened it.
 */
void lh__serve_unname(struct connection *connection);
/* The connection is a user no more. */
void lh__serve_detach(struct connection *connection);
/* Drops regions whose grace is over; returns the milliseconds until there may be more to do, or -1. */
int lh__serve_reap(struct lh_server *server, uint64_t now_ms);
void lh__serve_drop_all(struct lh_server *server);

/*
 * Carries out one message and writes its reply, or says why the connection must end: 0 and *why. message is
 * private to the caller.
 */
size_t lh__serve_message(struct connection *connection, const uint8_t *message, size_t size,
                         uint64_t sequence, uint8_t *reply, const char **why);

/* The whole life of a connection after accept. */
void lh__serve_connection(struct connection *connection);
/* Wakes the thread that runs the server. */
void lh__serve_wake(struct lh_server *server);
/* Under server->lock: nothing more is carried out on the connection. */
void lh__serve_fence(struct connection *connection);
/* Serves connection->ring until the connection ends; NULL, or why it had to. */
const char *lh__serve_ring(struct connection *connection);
/* Makes a sealed ring; the memfd, or a negative errno value. */
int lh__serve_ring_make(struct lh_ring **out);

#endif
