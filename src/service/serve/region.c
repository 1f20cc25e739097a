/*
 * region.c - regions: made, attached to again, cloned, dropped.
 *
 * Fencing. A client whose link broke comes back with a greater generation. Its old connections may still have
 * requests in their buffers; carried out late, they would overwrite what the new link puts. So attach ends
 * every connection of an earlier generation and waits for its thread before it answers.
 */
#include "service/serve/inside.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/crypto.h>

static struct region *find(struct lh_server *server, uint64_t id, const uint8_t *token)
{
	struct region *region;

	for (region = server->regions; region; region = region->next)
		if (region->id == id)
			return CRYPTO_memcmp(region->token, token, LH_WIRE_TOKEN) == 0 ? region : NULL;
	return NULL;
}

static bool random_bytes(void *out, size_t size)
{
	return getrandom(out, size, 0) == (ssize_t)size;
}

/* A region with the connection as its user; takes over store. */
static enum lh_wire_status add(struct connection *connection, struct lh_store *store)
{
	struct lh_server *server = connection->server;
	struct region *region = calloc(1, sizeof *region);

	if (!region || !random_bytes(&region->id, sizeof region->id) ||
	    !random_bytes(region->token, sizeof region->token)) {
		free(region);
		store->ops->close(store);
		return LH_WIRE_FAILED;
	}
	region->id |= 1; /* zero is no region */
	region->generation = 1;
	region->users = 1;
	region->store = store;
	pthread_mutex_init(&region->changes, NULL);
	connection->generation = region->generation;
	pthread_mutex_lock(&server->lock);
	connection->region = region;
	region->next = server->regions;
	server->regions = region;
	pthread_mutex_unlock(&server->lock);
	lh__serve_count(&server->counts.regions, 1);
	return LH_WIRE_OK;
}

/* How many pages a region can come to hold. */
static uint64_t most_pages(const struct lh_server *server)
{
	uint64_t limit = lh__memory_pool_limit(server->pool);
	uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

	return (limit && limit < all ? limit : all) / LH_PAGE_SIZE + 1;
}

/* A client on this machine reads pages itself. Where there can be no view it asks for them all. */
static void lay_open(struct connection *connection, struct lh_store *store)
{
	int result;

	if (connection->channel != LH_WIRE_RING)
		return;
	result = lh__memory_share(store, most_pages(connection->server));
	if (result < 0)
		lh__serve_log(connection, "no view of its pages (%s): it asks for each",
		              lh__errno_name(result));
}

enum lh_wire_status lh__serve_create(struct connection *connection)
{
	struct lh_store *store;

	if (lh__memory_open(connection->server->pool, &store) < 0)
		return LH_WIRE_FAILED;
	lay_open(connection, store);
	return add(connection, store);
}

static void release(struct lh_server *server, struct region *region)
{
	if (--region->users != 0)
		return;
	region->empty_since_ms = lh__serve_now_ms();
	lh__serve_wake(server);
}

enum lh_wire_status lh__serve_clone(struct connection *connection, const struct lh_wire_hello *hello)
{
	struct lh_server *server = connection->server;
	struct lh_store *store;
	struct region *region;
	int error;

	pthread_mutex_lock(&server->lock);
	region = find(server, hello->region, hello->token);
	if (region)
		region->users++;
	pthread_mutex_unlock(&server->lock);
	if (!region)
		return LH_WIRE_NO_REGION;
	pthread_mutex_lock(&region->changes);
	error = region->store->ops->clone(region->store, &store, NULL);
	pthread_mutex_unlock(&region->changes);
	pthread_mutex_lock(&server->lock);
	release(server, region);
	pthread_mutex_unlock(&server->lock);
	if (error)
		return LH_WIRE_FAILED;
	lh__serve_count(&server->counts.clones, 1);
	return add(connection, store);
}

void lh__serve_fence(struct connection *connection)
{
	__atomic_store_n(&connection->fenced, true, __ATOMIC_SEQ_CST);
	shutdown(connection->fd, SHUT_RDWR);
}

/* Ends the region's connections of earlier generations; whether there were any. */
static bool fence_older(struct lh_server *server, const struct region *region)
{
	struct connection *other;
	bool any = false;

	for (other = server->connections; other; other = other->next)
		if (other->region == region && other->generation < region->generation) {
			lh__serve_fence(other);
			any = true;
		}
	return any;
}

enum lh_wire_status lh__serve_attach(struct connection *connection, const struct lh_wire_hello *hello)
{
	struct lh_server *server = connection->server;
	enum lh_wire_status status = LH_WIRE_OK;
	struct region *region;

	pthread_mutex_lock(&server->lock);
	region = find(server, hello->region, hello->token);
	if (!region)
		status = LH_WIRE_NO_REGION;
	else if (hello->generation < region->generation)
		status = LH_WIRE_OLD;
	if (status == LH_WIRE_OK) {
		region->users++;
		region->generation = hello->generation;
		while (fence_older(server, region))
			pthread_cond_wait(&server->changed, &server->lock);
		if (hello->generation < region->generation) {
			release(server, region);
			status = LH_WIRE_OLD;
		} else {
			connection->region = region;
			connection->generation = hello->generation;
		}
	}
	pthread_mutex_unlock(&server->lock);
	return status;
}

void lh__serve_detach(struct connection *connection)
{
	struct lh_server *server = connection->server;

	pthread_mutex_lock(&server->lock);
	if (connection->region)
		release(server, connection->region);
	connection->region = NULL;
	pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->lock);
}

static void destroy(struct region *list)
{
	while (list) {
		struct region *next = list->next;

		list->store->ops->close(list->store);
		pthread_mutex_destroy(&list->changes);
		free(list);
		list = next;
	}
}

int lh__serve_reap(struct lh_server *server, uint64_t now_ms)
{
	struct region **at = &server->regions, *dead = NULL;
	int wait = -1;

	pthread_mutex_lock(&server->lock);
	while (*at) {
		struct region *region = *at;
		uint64_t age = now_ms > region->empty_since_ms ? now_ms - region->empty_since_ms : 0;

		if (region->users == 0 && age >= server->options.grace_ms) {
			*at = region->next;
			region->next = dead;
			dead = region;
			continue;
		}
		if (region->users == 0 && (wait < 0 || server->options.grace_ms - age < (unsigned)wait))
			wait = (int)(server->options.grace_ms - age);
		at = &region->next;
	}
	pthread_mutex_unlock(&server->lock);
	destroy(dead);
	return wait;
}

void lh__serve_drop_all(struct lh_server *server)
{
	destroy(server->regions);
	server->regions = NULL;
}
