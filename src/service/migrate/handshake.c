/* handshake.c - see handshake.h. What is told is read in handshake_text.c. */
#include "service/migrate/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/socket.h"

#define DESCRIPTORS_MAX 16 /* that are taken, to be closed again; more the kernel closes */

int lh__handshake_listen(const char *path, int *fd, struct lh_error *error)
{
	struct lh_node_url url = { .tcp = false };
	char bound[320];

	if (strlen(path) >= sizeof(url.path) || *path == 0)
		return lh__fail(error, -EINVAL, "%s: a socket's path has at most %zu bytes", path,
		                sizeof(url.path) - 1);
	strcpy(url.path, path);
	strcpy(url.text, path);
	return lh__socket_listen(&url, false, fd, bound, error);
}

/* ---- one message */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Takes the first descriptor, closes the others; how many there were. */
static int take_descriptors(struct msghdr *message, int *fd)
{
	int count = 0, one;

	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			memcpy(&one, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
			if (count++ == 0 && *fd < 0)
				*fd = one;
			else
				close(one);
		}
	}
	return count;
}

struct incoming {
	int socket, fd;
	unsigned descriptors;
	size_t size;
	char text[LH_HANDSHAKE_TEXT_MAX + 1];
};

/* What is there now: bytes read, 0 at the end, or a negative errno. */
static ssize_t receive(struct incoming *in)
{
	union {
		char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = { in->text + in->size, sizeof(in->text) - in->size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control };
	ssize_t n;

	message.msg_controllen = sizeof(control.bytes);
	n = recvmsg(in->socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -ECONNRESET;
	in->descriptors += (unsigned)take_descriptors(&message, &in->fd);
	if (message.msg_flags & MSG_CTRUNC)
		in->descriptors += 2;
	in->size += (size_t)n;
	return n;
}

/* 1: all has come, 0: not yet. */
static int look(struct incoming *in, struct lh_handshake *out, struct lh_error *error)
{
	int result;

	if (in->descriptors > 1)
		return lh__fail(error, -EPROTO, "the handshake comes with more than one descriptor");
	result = lh__handshake_parse(in->text, in->size, out, error);
	if (result == -ENODATA)
		return 0;
	if (result < 0)
		return result;
	return in->descriptors == 1;
}

static int missing(const struct incoming *in, int code, struct lh_error *error)
{
	if (in->size == 0)
		return lh__fail(error, code, "who connected said nothing");
	if (in->descriptors == 0)
		return lh__fail(error, code, "the handshake comes without a descriptor");
	return lh__fail(error, code, "the handshake's end is missing");
}

static int read_message(struct incoming *in, struct lh_handshake *out, struct lh_error *error)
{
	uint64_t deadline = lh__net_now_ms() + LH_HANDSHAKE_MS, now;
	struct pollfd poll_fd = { .fd = in->socket, .events = POLLIN };
	ssize_t n;
	int result;

	for (;;) {
		n = receive(in);
		if (n > 0) {
			result = look(in, out, error);
			if (result)
				return result < 0 ? result : 0;
			continue;
		}
		if (n != -EAGAIN)
			return missing(in, -EPROTO, error);
		now = lh__net_now_ms();
		if (now >= deadline)
			return missing(in, -ETIMEDOUT, error);
		if (poll(&poll_fd, 1, (int)(deadline - now)) < 0 && errno != EINTR)
			return lh__fail(error, -errno, "poll: %s", strerror(errno));
	}
}

/* ---- what it was sent with */

/* Of what has no name in /proc, or where there is none, we shall hear when we use it. */
static int check_descriptor(int fd, struct lh_error *error)
{
	static const char wanted[] = "anon_inode:[userfaultfd]";
	char path[64], target[64];
	ssize_t n;
	int flags;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target));
	if (n >= 0 && ((size_t)n != sizeof(wanted) - 1 || memcmp(target, wanted, (size_t)n) != 0))
		return lh__fail(error, -EPROTO, "the handshake's descriptor is no userfaultfd");
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || ((flags & O_NONBLOCK) == 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0))
		return lh__fail(error, -errno, "the handshake's descriptor: %s", strerror(errno));
	return 0;
}

static pid_t peer(int socket)
{
	struct ucred credentials;
	socklen_t size = sizeof(credentials);

	return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 ? credentials.pid : 0;
}

static int take(int socket, struct lh_handshake *out, struct lh_error *error)
{
	struct incoming *in = malloc(sizeof(*in));
	int result;

	if (!in)
		return lh__fail(error, -ENOMEM, "no memory for a handshake");
	in->socket = socket;
	in->fd = -1;
	in->descriptors = 0;
	in->size = 0;
	result = read_message(in, out, error);
	if (result == 0)
		result = check_descriptor(in->fd, error);
	if (result < 0)
		close_fd(&in->fd);
	out->fd = in->fd;
	free(in);
	return result;
}

int lh__handshake_accept(int listener, struct lh_handshake *out, struct lh_error *error)
{
	int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), result;

	*out = (struct lh_handshake){ .socket = -1, .fd = -1 };
	if (socket < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
		return lh__fail(error, -EAGAIN, "nobody has connected");
	if (socket < 0)
		return lh__fail(error, -errno, "accept: %s", strerror(errno));
	out->process = peer(socket);
	result = take(socket, out, error);
	if (result < 0)
		close(socket);
	else
		out->socket = socket;
	return result;
}

/* ---- what it is about */

int lh__handshake_guest(struct lh_handshake *handshake, uint64_t pages, struct lh_guest *guest,
                        struct lh_error *error)
{
	size_t page_size = handshake->page_size;

	*guest = (struct lh_guest){ .sys = &lh__sys_default, .page_size = page_size };
	for (size_t i = 0; i < handshake->ranges; i++) {
		const struct lh_handshake_range *range = &handshake->range[i];
		uint64_t first = range->offset / page_size, count = range->size / page_size;

		if (first > pages || count > pages - first)
			return lh__fail(error, -EINVAL,
			                "the machine has memory at offset %lu, of %lu bytes, and there are "
			                "but %lu: is it this memory's machine?",
			                range->offset, range->size, pages * page_size);
		guest->range[i] = (struct lh_guest_range){ range->address, count, first };
	}
	guest->ranges = handshake->ranges;
	guest->fd = handshake->fd;
	handshake->fd = -1;
	return 0;
}

static const struct lh_state_region *behind(const struct lh_handshake_range *range,
                                            const struct lh_state_region *region, size_t regions)
{
	struct stat file;

	for (size_t i = 0; i < regions && range->inode; i++) {
		if (stat(region[i].path, &file) == 0 && file.st_dev == range->device &&
		    file.st_ino == range->inode)
			return &region[i];
	}
	return NULL;
}

int lh__handshake_arrange(struct lh_handshake *handshake, const struct lh_state_region *region,
                          size_t regions, struct lh_error *error)
{
	size_t page_size = handshake->page_size, found = 0;
	bool seen[LH_STATE_REGIONS_MAX] = { false };

	for (size_t i = 0; i < handshake->ranges; i++) {
		struct lh_handshake_range *range = &handshake->range[i];
		const struct lh_state_region *at = behind(range, region, regions);

		if (!at || seen[at - region])
			return lh__fail(
				error, -EINVAL,
				"region %zu that the machine hands over is none of the memory that it "
				"has: start it by linehome incoming with that memory's files",
				i);
		if (range->file_offset != at->offset || range->size / page_size != at->pages)
			return lh__fail(error, -EINVAL, "%s: the machine hands over another part of it",
			                at->path);
		seen[at - region] = true;
		range->offset = at->first * page_size;
		found++;
	}
	for (size_t i = 0; i < regions && found < regions; i++) {
		if (!seen[i])
			return lh__fail(error, -EINVAL,
			                "%s: the machine does not hand it over: name it to linehome incoming",
			                region[i].path);
	}
	return 0;
}

void lh__handshake_close(struct lh_handshake *handshake)
{
	close_fd(&handshake->fd);
	close_fd(&handshake->socket);
}
