/*
 * handover.c - the thread that tells handlers where the guest's memory is: connects, sends the handshake, and
 * waits for the connection's end, upon which it begins anew. All signals are blocked in it.
 *
 * When a handler has made everything there, it no longer watches the memory. Then there is little left to
 * hand over, but a handler that died before it could write that down may be followed by one that asks; so the
 * thread stays for a while. What it hands over was watched as a whole once, whether it is now is looked at
 * where a region begins and where it ends.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "service/migrate/agent/agent.h"

#define STACK (128u << 10)
#define REGION_TEXT 320u
#define PAUSE_MIN_MS 5u
#define PAUSE_MAX_MS 500u
#define LASTING_MS 1000u /* a handler that has stayed for so long was one */
#define TRIES_AFTER 120u /* a minute */

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the message */

static size_t write_message(const struct shim *shim, char *out, size_t size)
{
	uint64_t base = 0;
	size_t used = 1;

	out[0] = '[';
	for (size_t i = 0; i < shim->files; i++) {
		const struct shim_file *file = &shim->file[i];
		uint64_t whole = file->offset + file->size;

		used += (size_t)snprintf(
			out + used, size - used,
			"%s{\"base_host_virt_addr\":%lu,\"size\":%lu,\"offset\":%lu,\"page_size\":%zu,"
			"\"page_size_kib\":%zu,\"device\":%lu,\"inode\":%lu,\"file_offset\":%lu}",
			i ? "," : "", file->address, file->size, base + file->offset, file->page_size,
			file->page_size, file->device, file->inode, file->offset);
		base += whole > file->length ? whole : file->length;
		base = (base + file->page_size - 1) & ~(uint64_t)(file->page_size - 1);
	}
	out[used++] = ']';
	return used;
}

/* The descriptor goes with the first byte. */
static bool send_message(int socket, int fd, const char *text, size_t size)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .bytes = { 0 } };
	struct iovec part = { (char *)text, size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control };
	struct cmsghdr *header;
	ssize_t n;

	message.msg_controllen = sizeof(control.bytes);
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	while (size) {
		n = sendmsg(socket, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		size -= (size_t)n;
		part = (struct iovec){ (char *)part.iov_base + n, size };
		message.msg_control = NULL;
		message.msg_controllen = 0;
	}
	return true;
}

/* ---- connections */

/* -1 with errno; what may be mended, and not by waiting, is said once. */
static int connect_to(const char *path, int *said)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	if (errno != ENOENT && errno != ECONNREFUSED && errno != EINTR && errno != *said) {
		*said = errno;
		lh__shim_say("no handler of memory can be reached, and is tried again", path, errno);
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Until the other side has gone; what it may say is of no concern. */
static void await_end(int socket)
{
	struct pollfd poll_fd = { .fd = socket, .events = POLLIN };
	char bytes[64];
	ssize_t n;

	do {
		poll(&poll_fd, 1, -1);
		n = recv(socket, bytes, sizeof(bytes), 0);
	} while (n > 0 || (n < 0 && errno == EINTR));
}

/*
 * Whether the page is watched, without changing anything: the kernel looks at that before it finds that it
 * cannot read what it was told to copy there.
 */
static bool is_watched(int fd, uint64_t page, size_t size, void *unreadable)
{
	struct uffdio_copy copy = { .dst = page, .src = (uintptr_t)unreadable, .len = size };

	return ioctl(fd, UFFDIO_COPY, &copy) == 0 || errno != ENOENT;
}

static bool any_watched(const struct shim *shim, void *unreadable)
{
	for (size_t i = 0; i < shim->files; i++) {
		const struct shim_file *file = &shim->file[i];
		uint64_t last = file->address + file->size - file->page_size;

		if (is_watched(shim->fd, file->address, file->page_size, unreadable) ||
		    is_watched(shim->fd, last, file->page_size, unreadable))
			return true;
	}
	return false;
}

/*
 * Whoever began to discard memory when it was still watched waits until somebody has read that, and the last
 * handler may have gone before it did.
 */
static void read_rest(int fd)
{
	struct uffd_msg message;

	while (read(fd, &message, sizeof(message)) > 0)
		;
}

static void sleep_ms(unsigned ms)
{
	const struct timespec pause = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&pause, NULL);
}

static void *hand_over(void *context)
{
	const struct shim *shim = context;
	char text[LH_GUEST_RANGES_MAX * REGION_TEXT];
	size_t size = write_message(shim, text, sizeof(text));
	void *unreadable = (void *)syscall(SYS_mmap, NULL, shim->file[0].page_size, PROT_NONE,
	                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned pause = PAUSE_MIN_MS, after = 0;
	int said = 0;

	while (after < TRIES_AFTER) {
		uint64_t began = now_ms();
		int socket = connect_to(shim->socket, &said);

		if (socket >= 0 && send_message(socket, shim->fd, text, size))
			await_end(socket);
		if (socket >= 0)
			close(socket);
		if (socket >= 0 && now_ms() - began >= LASTING_MS)
			pause = PAUSE_MIN_MS;
		if (unreadable != MAP_FAILED)
			after = any_watched(shim, unreadable) ? 0 : after + 1;
		if (after)
			read_rest(shim->fd);
		sleep_ms(pause);
		pause = 2 * pause < PAUSE_MAX_MS ? 2 * pause : PAUSE_MAX_MS;
	}
	munmap(unreadable, shim->file[0].page_size);
	return NULL;
}

int lh__shim_hand_over(struct shim *shim)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int error = pthread_attr_init(&attributes);

	if (error == 0) {
		pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attributes, STACK);
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		error = pthread_create(&thread, &attributes, hand_over, shim);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		pthread_attr_destroy(&attributes);
	}
	if (error == 0)
		pthread_setname_np(thread, "linehome-uffd");
	else
		lh__shim_say("the thread that hands the memory over cannot be started", NULL, error);
	return error;
}
