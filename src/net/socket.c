/* socket.c - see socket.h. */
#include "net/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "sys/sys.h"

uint64_t lh__net_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int fail(struct lh_error *error, const struct lh_node_url *url, int code, const char *what)
{
	return lh__fail(error, -code, "%s: %s: %s", url->text, what, strerror(code));
}

static struct sockaddr_un unix_address(const struct lh_node_url *url)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strcpy(address.sun_path, url->path);
	return address;
}

static bool is_loopback(const struct sockaddr *address)
{
	const struct sockaddr_in6 *six = (const void *)address;
	const struct sockaddr_in *four = (const void *)address;

	if (address->sa_family == AF_INET)
		return ntohl(four->sin_addr.s_addr) >> 24 == 127;
	if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
		return six->sin6_addr.s6_addr[12] == 127;
	return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

static int resolve(const struct lh_node_url *url, int flags, struct addrinfo **list, struct lh_error *error)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV };
	int result = getaddrinfo(url->host, url->port, &hints, list);

	if (result == EAI_SYSTEM)
		return fail(error, url, errno, "the host cannot be looked up");
	if (result != 0)
		return lh__fail(error, -EHOSTUNREACH, "%s: the host cannot be looked up: %s", url->text,
		                gai_strerror(result));
	return 0;
}

static int need_key(const struct lh_node_url *url, struct lh_error *error)
{
	return lh__fail(error, -EPERM,
	                "%s: not a loopback address, and memory does not go over a network in the clear: "
	                "give --key-file",
	                url->text);
}

/* ---- listening ---- */

/* 0: the path is free, perhaps since a socket that nobody listens on has been removed. */
static int clear_path(const struct lh_node_url *url, struct lh_error *error)
{
	struct sockaddr_un address = unix_address(url);
	struct stat file;
	int fd, result;

	if (lstat(url->path, &file) != 0)
		return errno == ENOENT ? 0 : fail(error, url, errno, "cannot listen");
	if (!S_ISSOCK(file.st_mode))
		return lh__fail(error, -EEXIST,
		                "%s: the path exists and is no socket: choose another, or remove it",
		                url->text);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(error, url, errno, "cannot listen");
	result = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? 0 : errno;
	close(fd);
	if (result != ECONNREFUSED)
		return lh__fail(error, -EADDRINUSE, "%s: somebody listens there already: choose another path",
		                url->text);
	if (unlink(url->path) != 0)
		return fail(error, url, errno, "the socket of an ended node cannot be removed");
	return 0;
}

static int listen_unix(const struct lh_node_url *url, int *out, struct lh_error *error)
{
	struct sockaddr_un address = unix_address(url);
	int fd, result = clear_path(url, error);

	if (result)
		return result;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(error, url, errno, "cannot listen");
	if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || chmod(url->path, 0600) != 0 ||
	    listen(fd, SOMAXCONN) != 0) {
		result = fail(error, url, errno, "cannot listen");
		close(fd);
		return result;
	}
	*out = fd;
	return 0;
}

static int listen_on(const struct lh_node_url *url, const struct addrinfo *address, int *out,
                     struct lh_error *error)
{
	int one = 1, result, fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return fail(error, url, errno, "cannot listen");
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) {
		*out = fd;
		return 0;
	}
	if (errno == EADDRINUSE)
		result = lh__fail(error, -EADDRINUSE, "%s: the port is in use: choose another, or 0",
		                  url->text);
	else
		result = fail(error, url, errno, "cannot listen");
	close(fd);
	return result;
}

static void name_bound(const struct lh_node_url *url, int fd, char bound[320])
{
	struct sockaddr_in6 address; /* the port stands at the same place in both families */
	socklen_t size = sizeof address;
	bool six = strchr(url->host, ':') != NULL;

	if (getsockname(fd, (struct sockaddr *)&address, &size) != 0)
		address.sin6_port = 0;
	snprintf(bound, 320, six ? "tcp://[%s]:%u" : "tcp://%s:%u", url->host, ntohs(address.sin6_port));
}

static int listen_tcp(const struct lh_node_url *url, bool has_key, int *fd, char bound[320],
                      struct lh_error *error)
{
	struct addrinfo *list;
	int result = resolve(url, AI_PASSIVE, &list, error);

	if (result)
		return result;
	if (!has_key && !is_loopback(list->ai_addr))
		result = need_key(url, error);
	else
		result = listen_on(url, list, fd, error);
	freeaddrinfo(list);
	if (result == 0)
		name_bound(url, *fd, bound);
	return result;
}

int lh__socket_listen(const struct lh_node_url *url, bool has_key, int *fd, char bound[320],
                      struct lh_error *error)
{
	if (url->tcp)
		return listen_tcp(url, has_key, fd, bound, error);
	strcpy(bound, url->text);
	return listen_unix(url, fd, error);
}

/* ---- connecting ---- */

static int await_connection(int fd, uint64_t deadline_ms)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLOUT };
	socklen_t size = sizeof(int);
	int result = 0;

	for (;;) {
		uint64_t now = lh__net_now_ms();
		int ready = now < deadline_ms ? poll(&poll_fd, 1, (int)(deadline_ms - now)) : 0;

		if (ready == 0)
			return ETIMEDOUT;
		if (ready > 0)
			break;
		if (errno != EINTR)
			return errno;
	}
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &size) == 0 ? result : errno;
}

/* A Unix socket whose backlog is full says EAGAIN, and is worth another try. */
static int connect_fd(int fd, const struct sockaddr *address, socklen_t size, uint64_t deadline_ms)
{
	const struct timespec pause = { 0, 5000000 };

	while (connect(fd, address, size) != 0) {
		if (errno == EINPROGRESS || errno == EINTR)
			return await_connection(fd, deadline_ms);
		if (errno != EAGAIN)
			return errno;
		if (lh__net_now_ms() >= deadline_ms)
			return ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* The errno value, or 0 and *out. */
static int connect_to(const struct sockaddr *address, socklen_t size, uint64_t deadline_ms, int *out)
{
	int one = 1, result, fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return errno;
	result = connect_fd(fd, address, size, deadline_ms);
	if (result == 0 && fcntl(fd, F_SETFL, 0) != 0)
		result = errno;
	if (result != 0) {
		close(fd);
		return result;
	}
	if (address->sa_family != AF_UNIX)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	*out = fd;
	return 0;
}

static int say(const struct lh_node_url *url, int code, struct lh_error *error)
{
	if (code == ECONNREFUSED || code == ENOENT)
		return lh__fail(error, -code,
		                "%s: no memory node listens there: start one with linehome serve --listen %s",
		                url->text, url->text);
	return code ? fail(error, url, code, "cannot connect") : 0;
}

static int connect_tcp(const struct lh_node_url *url, bool has_key, uint64_t deadline_ms, int *fd,
                       struct lh_error *error)
{
	struct addrinfo *list, *at;
	int code = 0, result = resolve(url, 0, &list, error);

	if (result)
		return result;
	for (at = list; at; at = at->ai_next) {
		if (!has_key && !is_loopback(at->ai_addr)) {
			result = need_key(url, error);
			break;
		}
		code = connect_to(at->ai_addr, at->ai_addrlen, deadline_ms, fd);
		if (code == 0)
			break;
	}
	freeaddrinfo(list);
	return result ? result : say(url, code, error);
}

int lh__socket_connect(const struct lh_node_url *url, bool has_key, uint64_t deadline_ms, int *fd,
                       struct lh_error *error)
{
	struct sockaddr_un address;

	if (url->tcp)
		return connect_tcp(url, has_key, deadline_ms, fd, error);
	address = unix_address(url);
	return say(url, connect_to((struct sockaddr *)&address, sizeof address, deadline_ms, fd), error);
}

void lh__socket_timeout(int fd, unsigned ms)
{
	struct timeval time = { ms / 1000, (long)(ms % 1000) * 1000 };

	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	const struct sockaddr_in *four_a = (const void *)a, *four_b = (const void *)b;
	const struct sockaddr_in6 *six_a = (const void *)a, *six_b = (const void *)b;

	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET)
		return four_a->sin_addr.s_addr == four_b->sin_addr.s_addr;
	return a->ss_family == AF_INET6 && IN6_ARE_ADDR_EQUAL(&six_a->sin6_addr, &six_b->sin6_addr);
}

/* A machine that connects to itself by any of its addresses uses that address at both ends. */
bool lh__socket_is_local(int fd)
{
	struct sockaddr_storage here = { 0 }, there = { 0 };
	socklen_t size = sizeof here;

	if (getsockname(fd, (struct sockaddr *)&here, &size) != 0)
		return false;
	if (here.ss_family == AF_UNIX)
		return true;
	size = sizeof there;
	if (getpeername(fd, (struct sockaddr *)&there, &size) != 0)
		return false;
	return is_loopback((struct sockaddr *)&there) || same_address(&here, &there);
}

void lh__socket_peer(int fd, char *out, size_t size)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof address;
	struct ucred who = { 0 };
	char host[64], port[8];

	if (getpeername(fd, (struct sockaddr *)&address, &length) != 0) {
		snprintf(out, size, "a peer that has gone");
		return;
	}
	if (address.ss_family == AF_UNIX) {
		length = sizeof who;
		(void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length);
		snprintf(out, size, "unix process %d", (int)who.pid);
		return;
	}
	if (getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port, sizeof port,
	                NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		strcpy(host, "?"), strcpy(port, "?");
	snprintf(out, size, "tcp %s port %s", host, port);
}
