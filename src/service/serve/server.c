/*
 * server.c - listening, accepting, stopping; see server.h.
 */
#include "service/serve/inside.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <netinet/in.h>
#include <netinet/tcp.h>

#define DRAIN_MS 5000u /* after a stop: how long a connection may take to finish what has arrived */

uint64_t lh__serve_now_ms(void)
{
	return lh__net_now_ms();
}

/* ---- opening and closing ---- */

static int add_listener(struct lh_server *server, const char *word, struct lh_error *error)
{
	struct listener *listener = &server->listener[server->listeners];
	struct lh_node_url url;
	int result = lh__node_url_parse(word, true, &url, error);

	if (result == 0)
		result = lh__socket_listen(&url, server->has_key, &listener->fd, listener->url, error);
	if (result)
		return result;
	listener->tcp = url.tcp;
	strcpy(listener->path, url.path);
	server->listeners++;
	return 0;
}

static int add_listeners(struct lh_server *server, struct lh_error *error)
{
	const struct lh_server_options *options = &server->options;
	size_t i;
	int result = 0;

	if (options->listen_count == 0 || options->listen_count > LISTENERS_MAX)
		return lh__fail(error, -EINVAL, "a memory node listens on one to %u URLs", LISTENERS_MAX);
	for (i = 0; i < options->listen_count && result == 0; i++)
		result = add_listener(server, options->listen[i], error);
	return result;
}

static int use_key(struct lh_server *server, struct lh_error *error)
{
	int result;

	if (!server->options.key_file)
		return 0;
	result = lh__node_key_read(server->options.key_file, &server->key, error);
	if (result)
		return result;
	server->has_key = true;
	return lh__tls_context_open(true, &server->key, &server->tls, error);
}

int lh__server_open(const struct lh_server_options *options, struct lh_server **out, struct lh_error *error)
{
	struct lh_server *server = calloc(1, sizeof *server);
	int result;

	if (!server)
		return lh__fail(error, -ENOMEM, "no memory");
	server->options = *options;
	if (server->options.connections == 0)
		server->options.connections = 4096;
	pthread_mutex_init(&server->lock, NULL);
	pthread_cond_init(&server->changed, NULL);
	server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	result = server->wake_fd < 0 ? lh__fail(error, -errno, "no descriptor: %s", strerror(errno)) : 0;
	if (result == 0)
		result = use_key(server, error);
	if (result == 0) {
		result = lh__memory_pool_open(&lh__sys_default, options->size, &server->pool);
		if (result)
			(void)lh__fail(error, result, "no memory");
	}
	if (result == 0)
		result = add_listeners(server, error);
	if (result) {
		lh__server_close(server);
		return result;
	}
	*out = server;
	return 0;
}

static void close_listeners(struct lh_server *server)
{
	while (server->listeners != 0) {
		struct listener *listener = &server->listener[--server->listeners];

		if (listener->path[0] != '\0')
			unlink(listener->path);
		close(listener->fd);
	}
}

void lh__server_close(struct lh_server *server)
{
	if (!server)
		return;
	close_listeners(server);
	lh__serve_drop_all(server);
	if (server->pool)
		lh__memory_pool_close(server->pool);
	lh__tls_context_close(server->tls);
	if (server->wake_fd >= 0)
		close(server->wake_fd);
	pthread_cond_destroy(&server->changed);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

const char *lh__server_url(const struct lh_server *server, size_t index)
{
	return index < server->listeners ? server->listener[index].url : NULL;
}

/* ---- connections ---- */

static void add_connection(struct connection *connection)
{
	struct lh_server *server = connection->server;

	pthread_mutex_lock(&server->lock);
	connection->next = server->connections;
	server->connections = connection;
	pthread_mutex_unlock(&server->lock);
}

/* The descriptor is closed under the lock: who walks the list may shut it down. */
static void remove_connection(struct connection *connection)
{
	struct lh_server *server = connection->server;
	struct connection **at;

	pthread_mutex_lock(&server->lock);
	for (at = &server->connections; *at != connection; at = &(*at)->next)
		;
	*at = connection->next;
	close(connection->fd);
	__atomic_fetch_sub(&server->counts.connections_now, 1, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->lock);
	free(connection);
}

static void *connection_thread(void *argument)
{
	struct connection *connection = argument;

	lh__serve_connection(connection);
	lh__tls_close(connection->tls);
	lh__ring_unmap(&lh__sys_default, connection->ring);
	lh__serve_detach(connection);
	remove_connection(connection);
	return NULL;
}

static void turn_away(struct connection *connection, const char *why)
{
	struct lh_wire_hello hello = { .version = LH_WIRE_VERSION, .what = LH_WIRE_CROWDED };
	uint8_t bytes[LH_WIRE_HELLO];

	lh__wire_hello_write(bytes, &hello);
	(void)send(connection->fd, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
	lh__serve_count(&connection->server->counts.refused, 1);
	lh__serve_log(connection, "refused: %s", why);
	remove_connection(connection);
}

/* Signals are for the thread that runs the server. */
static int start_thread(struct connection *connection)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int result;

	sigfillset(&all);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, 256 * 1024);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	result = pthread_create(&thread, &attributes, connection_thread, connection);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return result;
}

/* A machine that has gone without a word keeps a region that others wait for no longer than 25 s. */
static void set_tcp(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },   { SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 10 }, { IPPROTO_TCP, TCP_KEEPINTVL, 5 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 3 },   { IPPROTO_TCP, TCP_USER_TIMEOUT, 25000 },
	};
	size_t i;

	for (i = 0; i < sizeof options / sizeof options[0]; i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

static void take(struct lh_server *server, const struct listener *listener, int fd)
{
	struct connection *connection = calloc(1, sizeof *connection);
	uint64_t now;

	if (!connection) {
		close(fd);
		return;
	}
	connection->server = server;
	connection->fd = fd;
	connection->secured = listener->tcp && server->has_key;
	lh__socket_peer(fd, connection->peer, sizeof connection->peer);
	if (listener->tcp)
		set_tcp(fd);
	lh__serve_count(&server->counts.connections, 1);
	now = __atomic_add_fetch(&server->counts.connections_now, 1, __ATOMIC_RELAXED);
	add_connection(connection);
	if (now > server->options.connections)
		turn_away(connection, "too many connections");
	else if (start_thread(connection) != 0)
		turn_away(connection, "no thread for it");
}

/* Out of descriptors or memory: the connection waits in the backlog; so do we, a little. */
static void accept_all(struct lh_server *server, const struct listener *listener)
{
	const struct timespec pause = { 0, 20000000 };
	int fd;

	while ((fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		take(server, listener, fd);
	if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
		nanosleep(&pause, NULL);
}

/* ---- running ---- */

/* Waits until no connection is left, or for DRAIN_MS; whether none is. */
static bool await_connections(struct lh_server *server)
{
	struct timespec until;
	int result = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DRAIN_MS / 1000;
	while (server->connections && result == 0)
		result = pthread_cond_timedwait(&server->changed, &server->lock, &until);
	return !server->connections;
}

/* What has arrived can still be read after SHUT_RD, and the replies go out. */
static void drain(struct lh_server *server)
{
	struct connection *connection;

	close_listeners(server);
	pthread_mutex_lock(&server->lock);
	for (connection = server->connections; connection; connection = connection->next)
		shutdown(connection->fd, SHUT_RD);
	if (!await_connections(server))
		for (connection = server->connections; connection; connection = connection->next)
			lh__serve_fence(connection);
	while (server->connections)
		pthread_cond_wait(&server->changed, &server->lock);
	pthread_mutex_unlock(&server->lock);
}

int lh__server_run(struct lh_server *server, struct lh_error *error)
{
	struct pollfd fds[LISTENERS_MAX + 1] = { { .fd = server->wake_fd, .events = POLLIN } };
	nfds_t i, n = server->listeners;
	uint64_t ticks;
	int result = 0;

	for (i = 0; i < n; i++)
		fds[i + 1] = (struct pollfd){ .fd = server->listener[i].fd, .events = POLLIN };
	while (!__atomic_load_n(&server->stopping, __ATOMIC_SEQ_CST)) {
		int wait = lh__serve_reap(server, lh__serve_now_ms());

		if (poll(fds, n + 1, wait) < 0) {
			if (errno == EINTR)
				continue;
			result = lh__fail(error, -errno, "waiting for connections failed: %s",
			                  strerror(errno));
			break;
		}
		if (fds[0].revents)
			(void)!read(server->wake_fd, &ticks, sizeof ticks);
		for (i = 0; i < n; i++)
			if (fds[i + 1].revents)
				accept_all(server, &server->listener[i]);
	}
	drain(server);
	return result;
}

/* Raw, since a signal handler may call it. */
void lh__serve_wake(struct lh_server *server)
{
	uint64_t one = 1;

	LH_SYS(&lh__sys_default, SYS_write, server->wake_fd, &one, sizeof one);
}

void lh__server_stop(struct lh_server *server)
{
	__atomic_store_n(&server->stopping, true, __ATOMIC_SEQ_CST);
	lh__serve_wake(server);
}

static void count_regions(struct lh_server *server, struct lh_server_counts *counts)
{
	const struct region *region;

	pthread_mutex_lock(&server->lock);
	for (region = server->regions; region; region = region->next) {
		counts->regions_now++;
		counts->named_now += region->name[0] != '\0';
	}
	pthread_mutex_unlock(&server->lock);
}

/* Each counter by itself is exact; together they are of about one time. */
void lh__server_read_counts(struct lh_server *server, struct lh_server_counts *counts)
{
	const uint64_t *from = (const uint64_t *)&server->counts;
	uint64_t *to = (uint64_t *)counts;
	size_t i;

	for (i = 0; i < sizeof *counts / sizeof *to; i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	count_regions(server, counts);
	counts->bytes_used = lh__memory_pool_used(server->pool);
	counts->bytes_limit = lh__memory_pool_limit(server->pool);
}
