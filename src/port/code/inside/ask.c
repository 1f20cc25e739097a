/*
 * ask.c - questions to the watcher: one connection each, with all signals blocked, so that nothing that the
 * program does meanwhile can leave one open. Who does not answer within a minute does not answer.
 */
#include "port/code/inside/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

/*
 * Out of the range of numbers in which a program may expect to find its own. Not while no other thread runs,
 * where nobody can see the number: a larger table of descriptors takes the kernel 15 ms in a program with
 * threads, and all of them are stopped meanwhile.
 */
#define HIGH_DESCRIPTOR 1000

static long open_socket(void)
{
	const struct {
		int64_t seconds, microseconds;
	} limit = { 60, 0 };
	long socket = LH_CALL3(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), high;

	if (LH_FAILED(socket))
		return socket;
	high = lh__inside.alone ? -EMFILE : LH_CALL3(SYS_fcntl, socket, F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR);
	if (!LH_FAILED(high)) {
		LH_CALL1(SYS_close, socket);
		socket = high;
	}
	LH_CALL5(SYS_setsockopt, socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	LH_CALL5(SYS_setsockopt, socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	return socket;
}

static long connect_to(long socket)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = 0;
	long result;

	while (lh__inside.name[length]) {
		address.sun_path[length + 1] = lh__inside.name[length];
		length++;
	}
	do
		result = LH_CALL3(SYS_connect, socket, &address,
		                  offsetof(struct sockaddr_un, sun_path) + 1 + length);
	while (result == -EINTR);
	return result;
}

static long receive(long socket, struct lh_answer *answer, int *descriptor)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec part = { answer, sizeof *answer };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
	};
	long got;

	/* A call with a time limit is not made again by the kernel when a stop has interrupted it. */
	do
		got = LH_CALL3(SYS_recvmsg, socket, &message, MSG_CMSG_CLOEXEC);
	while (got == -EINTR);
	if (got >= 0 && message.msg_controllen >= sizeof(struct cmsghdr) + sizeof(int) &&
	    control.header.cmsg_level == SOL_SOCKET && control.header.cmsg_type == SCM_RIGHTS)
		__builtin_memcpy(descriptor, CMSG_DATA(&control.header), sizeof *descriptor);
	if (LH_FAILED(got))
		return got;
	return got == (long)sizeof *answer ? answer->error : -EPROTO;
}

/* *descriptor: what came with the answer, or -1; also with an error. */
long lh__inside_ask(const struct lh_ask *ask, struct lh_answer *answer, int *descriptor)
{
	uint64_t mask = lh__inside_block();
	long socket = open_socket(), result = socket;

	*descriptor = -1;
	if (!LH_FAILED(socket)) {
		result = connect_to(socket);
		if (result == 0)
			result = LH_CALL6(SYS_sendto, socket, ask, sizeof *ask, MSG_NOSIGNAL, 0, 0);
		if (result == (long)sizeof *ask)
			result = receive(socket, answer, descriptor);
		else if (result >= 0)
			result = -EPROTO;
		LH_CALL1(SYS_close, socket);
	}
	lh__inside_unblock(mask);
	return result;
}
