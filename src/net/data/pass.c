/* pass.c - see pass.h. */
#include "net/data/pass.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define CONTROL_SIZE CMSG_SPACE(LH_PASS_MAX * sizeof(int))

union control {
	char bytes[CONTROL_SIZE];
	struct cmsghdr header; /* for its alignment */
};

int lh__pass_send(const struct lh_sys *sys, int socket, const void *data, size_t size, const int *descriptors,
                  size_t n)
{
	struct iovec part = { (void *)data, size };
	union control control = { { 0 } };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	long result;

	if (n > LH_PASS_MAX)
		return -EINVAL;
	if (n) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(n * sizeof(int));
		control.header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
			                           .cmsg_type = SCM_RIGHTS,
			                           .cmsg_len = CMSG_LEN(n * sizeof(int)) };
		memcpy(CMSG_DATA(&control.header), descriptors, n * sizeof(int));
	}
	do
		result = LH_SYS(sys, SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
	while (result == -EINTR);
	return result < 0 ? (int)result : 0;
}

/* The descriptors that came with a message; returns their number. */
static size_t unpack(const union control *control, size_t length, int descriptors[LH_PASS_MAX])
{
	size_t n;

	if (length < CMSG_LEN(0) || control->header.cmsg_level != SOL_SOCKET ||
	    control->header.cmsg_type != SCM_RIGHTS)
		return 0;
	n = (control->header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(descriptors, CMSG_DATA(&control->header), n * sizeof(int));
	return n;
}

int lh__pass_receive(const struct lh_sys *sys, int socket, void *data, size_t size, int *descriptors,
                     size_t *n)
{
	struct iovec part = { data, size };
	union control control = { { 0 } };
	struct msghdr message = { .msg_iov = &part,
		                  .msg_iovlen = 1,
		                  .msg_control = control.bytes,
		                  .msg_controllen = CONTROL_SIZE };
	int came[LH_PASS_MAX];
	size_t count;
	long result;

	do
		result = LH_SYS(sys, SYS_recvmsg, socket, &message, MSG_CMSG_CLOEXEC);
	while (result == -EINTR);
	if (result < 0)
		return (int)result;
	count = unpack(&control, message.msg_controllen, came);
	if ((size_t)result == size && count <= *n && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		memcpy(descriptors, came, count * sizeof(int));
		*n = count;
		return 0;
	}
	for (size_t i = 0; i < count; i++)
		LH_SYS(sys, SYS_close, came[i]);
	return result == 0 ? -EPIPE : -EPROTO;
}
