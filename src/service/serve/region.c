/*
 * region.c - regions: made, attached to again, cloned, opened by name, dropped.
 *
 * Fencing. A client whose link broke comes back with a greater generation. Its old connections may still have
 * requests in their buffers; carried out late, they would overwrite what the new link puts. So attach ends
 * every connection of an earlier generation and waits for its thread before it answers.
 *
 * Names. A region with a name has one client at a time, and waits for the next when that has gone. Whether it
 * has gone is asked of its sockets, not of the threads that serve them: those of a client that was killed may
 * have much left to carry out, or not have run since. What ends a connection is known a moment later than the
 * client knows it where there is a network or a relay in between, so whoever finds the region in use waits
 * that moment. Opening fences like attaching does, and takes a generation that is greater by two: a client
 * that lost its connections, and with them the region, comes back with one that is greater by one.
 */
#include "service/serve/inside.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>

#define MOMENT_MS 100u /* for connections to end that are ending */
#define LOOK_MS 5u     /* how often they are looked at meanwhile */

static struct region *find(struct lh_server *server, uint64_t id, const uint8_t *token)
{
	struct region *region;

	for (region = server->regions; region; region = region->next)
		if (region->id == id)
			return CRYPTO_memcmp(region->token, token, LH_WIRE_TOKEN) == 0 ? region : NULL;
	return NULL;
}

static struct region *find_named(struct lh_server *server, const char *name)
{
	struct region *region;

	for (region = server->regions; region; region = region->next)
		if (strcmp(region->name, name) == 0)
			return region;
	return NULL;
}

static bool random_bytes(void *out, size_t size)
{
	return getrandom(out, size, 0) == (ssize_t)size;
}

static struct region *new_region(struct lh_store *store, const char *name)
{
	struct region *region = calloc(1, sizeof *region);

	if (!region || !random_bytes(&region->id, sizeof region->id) ||
	    !random_bytes(region->token, sizeof region->token)) {
		free(region);
		return NULL;
	}
	region->id |= 1; /* zero is no region */
	region->generation = 1;
	region->users = 1;
	region->store = store;
	strcpy(region->name, name);
	pthread_mutex_init(&region->changes, NULL);
	return region;
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

/* A region with the connection as its user; takes over store. */
static enum lh_wire_status add(struct connection *connection, struct lh_store *store, const char *name)
{
	struct lh_server *server = connection->server;
	struct region *region = new_region(store, name);
	bool taken;

	if (!region) {
		store->ops->close(store);
		return LH_WIRE_FAILED;
	}
	pthread_mutex_lock(&server->lock);
	taken = *name && find_named(server, name);
	if (!taken) {
		connection->generation = region->generation;
		connection->region = region;
		region->next = server->regions;
		server->regions = region;
	}
	pthread_mutex_unlock(&server->lock);
	if (taken) {
		destroy(region);
		return LH_WIRE_NAME_TAKEN;
	}
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

/* What has a name can be opened over another way than it was made over. */
static bool may_be_viewed(const struct connection *connection, const char *name)
{
	const struct lh_server *server = connection->server;
	size_t i;

	if (connection->channel == LH_WIRE_RING)
		return true;
	for (i = 0; *name && i < server->listeners; i++)
		if (!server->listener[i].tcp)
			return true;
	return false;
}

/* A client on this machine reads pages itself. Where there can be no view it asks for them all. */
static void lay_open(struct connection *connection, struct lh_store *store, const char *name)
{
	int result;

	if (!may_be_viewed(connection, name))
		return;
	result = lh__memory_share(store, most_pages(connection->server));
	if (result < 0)
		lh__serve_log(connection, "no view of its pages (%s): it asks for each",
		              lh__errno_name(result));
}

enum lh_wire_status lh__serve_create(struct connection *connection, const struct lh_wire_hello *hello)
{
	struct lh_store *store;

	if (lh__memory_open(connection->server->pool, &store) < 0)
		return LH_WIRE_FAILED;
	lay_open(connection, store, hello->name);
	return add(connection, store, hello->name);
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
	return add(connection, store, "");
}

void lh__serve_fence(struct connection *connection)
{
	__atomic_store_n(&connection->fenced, true, __ATOMIC_SEQ_CST);
	shutdown(connection->fd, SHUT_RDWR);
}

/* Ends the region's connections of other generations than it has now; whether there were any. */
static bool fence_others(struct lh_server *server, const struct region *region)
{
	struct connection *other;
	bool any = false;

	for (other = server->connections; other; other = other->next)
		if (other->region == region && other->generation != region->generation) {
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
		while (fence_others(server, region))
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

/* ---- by name; under server->lock ---- */

static bool has_gone(const struct connection *connection)
{
	struct pollfd poll_fd = { .fd = connection->fd, .events = POLLRDHUP };

	return poll(&poll_fd, 1, 0) == 1;
}

/* Whether anybody but connections that have gone uses the region. */
static bool in_use(const struct lh_server *server, const struct region *region)
{
	const struct connection *other;
	unsigned gone = 0;

	for (other = server->connections; other; other = other->next)
		gone += other->region == region && has_gone(other);
	return region->users != gone;
}

static void wait_for_change(struct lh_server *server)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (long)LOOK_MS * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_cond_timedwait(&server->changed, &server->lock, &until);
}

/*
 * The region of that name, with the caller as a user and nobody else: what others have sent is not carried
 * out any more.
 */
static enum lh_wire_status take_named(struct lh_server *server, const struct lh_wire_hello *hello,
                                      struct region **out)
{
	uint64_t deadline = lh__serve_now_ms() + MOMENT_MS;
	struct region *region;

	while ((region = find_named(server, hello->name)) != NULL && in_use(server, region)) {
		if (lh__serve_now_ms() >= deadline)
			return LH_WIRE_BUSY;
		wait_for_change(server);
	}
	if (!region)
		return LH_WIRE_NO_NAME;
	if (hello->region != 0 && (hello->region != region->id || hello->generation != region->generation))
		return LH_WIRE_OLD;
	region->users++;
	region->generation += 2;
	while (fence_others(server, region))
		pthread_cond_wait(&server->changed, &server->lock);
	*out = region;
	return LH_WIRE_OK;
}

enum lh_wire_status lh__serve_open(struct connection *connection, const struct lh_wire_hello *hello)
{
	struct lh_server *server = connection->server;
	enum lh_wire_status status;
	struct region *region;

	pthread_mutex_lock(&server->lock);
	status = take_named(server, hello, &region);
	if (status == LH_WIRE_OK) {
		connection->region = region;
		connection->generation = region->generation;
	}
	pthread_mutex_unlock(&server->lock);
	return status;
}

enum lh_wire_status lh__serve_drop(struct connection *connection, const struct lh_wire_hello *hello)
{
	struct lh_server *server = connection->server;
	struct region *region = NULL, **at;
	enum lh_wire_status status;

	pthread_mutex_lock(&server->lock);
	status = take_named(server, hello, &region);
	if (status == LH_WIRE_OK) {
		for (at = &server->regions; *at != region; at = &(*at)->next)
			;
		*at = region->next;
		region->next = NULL;
	}
	pthread_mutex_unlock(&server->lock);
	destroy(region);
	return status;
}

void lh__serve_unname(struct connection *connection)
{
	struct region *region = connection->region;

	pthread_mutex_lock(&connection->server->lock);
	if (region->generation == connection->generation)
		region->name[0] = '\0';
	pthread_mutex_unlock(&connection->server->lock);
}

/* ---- the end of regions ---- */

int lh__serve_reap(struct lh_server *server, uint64_t now_ms)
{
	struct region **at = &server->regions, *dead = NULL;
	int wait = -1;

	pthread_mutex_lock(&server->lock);
	while (*at) {
		struct region *region = *at;
		uint64_t age = now_ms > region->empty_since_ms ? now_ms - region->empty_since_ms : 0;
		bool waits = region->users == 0 && region->name[0] == '\0';

		if (waits && age >= server->options.grace_ms) {
			*at = region->next;
			region->next = dead;
			dead = region;
			continue;
		}
		if (waits && (wait < 0 || server->options.grace_ms - age < (unsigned)wait))
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
