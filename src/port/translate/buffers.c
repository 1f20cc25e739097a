/*
 * buffers.c - system calls that write to memory, where pages of code are write-protected (changed.c).
 *
 * The kernel would answer EFAULT, or do half of what it was asked for. So before the call its buffers are
 * looked at, which costs a load where there is no guarded page; a page that the kernel writes to is checked
 * from then on, for a buffer may be filled long after the call was made. What is not in the table may write
 * up to a page behind each of its arguments.
 */
#include "port/translate/inside.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum how {
	NOTHING,  /* it writes to no memory of its caller */
	BYTES,    /* to so many bytes: argument `at`, times `unit` */
	VECTOR,   /* struct iovec, so many */
	MESSAGE,  /* struct msghdr */
	MESSAGES, /* struct mmsghdr, so many */
	SELF,     /* struct iovec of the process that is named by the first argument */
};

struct buffer {
	uint16_t number;
	uint8_t how, at, count, unit;
};

/* Calls may be here more than once. Those that give more than one word back come first. */
static const struct buffer table[] = {
	{ SYS_read, BYTES, 1, 2, 1 },
	{ SYS_pread64, BYTES, 1, 2, 1 },
	{ SYS_recvfrom, BYTES, 1, 2, 1 },
	{ SYS_recvfrom, BYTES, 4, 6, 128 },
	{ SYS_recvfrom, BYTES, 5, 6, 4 },
	{ SYS_readv, VECTOR, 1, 2, 0 },
	{ SYS_preadv, VECTOR, 1, 2, 0 },
	{ SYS_preadv2, VECTOR, 1, 2, 0 },
	{ SYS_vmsplice, VECTOR, 1, 2, 0 },
	{ SYS_process_vm_readv, VECTOR, 1, 2, 0 },
	{ SYS_process_vm_writev, SELF, 3, 4, 0 },
	{ SYS_recvmsg, MESSAGE, 1, 6, 0 },
	{ SYS_recvmmsg, MESSAGES, 1, 2, 0 },
	{ SYS_recvmmsg, BYTES, 4, 6, 16 },
	{ SYS_getdents64, BYTES, 1, 2, 1 },
	{ SYS_getdents, BYTES, 1, 2, 1 },
	{ SYS_readlink, BYTES, 1, 2, 1 },
	{ SYS_readlinkat, BYTES, 2, 3, 1 },
	{ SYS_getcwd, BYTES, 0, 1, 1 },
	{ SYS_getrandom, BYTES, 0, 1, 1 },
	{ SYS_getxattr, BYTES, 2, 3, 1 },
	{ SYS_lgetxattr, BYTES, 2, 3, 1 },
	{ SYS_fgetxattr, BYTES, 2, 3, 1 },
	{ SYS_listxattr, BYTES, 1, 2, 1 },
	{ SYS_flistxattr, BYTES, 1, 2, 1 },
	{ SYS_poll, BYTES, 0, 1, 8 },
	{ SYS_ppoll, BYTES, 0, 1, 8 },
	{ SYS_ppoll, BYTES, 2, 6, 16 },
	{ SYS_epoll_wait, BYTES, 1, 2, sizeof(struct epoll_event) },
	{ SYS_epoll_pwait, BYTES, 1, 2, sizeof(struct epoll_event) },
	{ SYS_getgroups, BYTES, 1, 0, 4 },
	{ SYS_mincore, BYTES, 2, 1, 1 },
	{ SYS_futex, BYTES, 0, 6, 4 },
	{ SYS_futex, BYTES, 4, 6, 4 },
	{ SYS_io_getevents, BYTES, 3, 2, 32 },
	{ SYS_write, NOTHING, 0, 0, 0 },
	{ SYS_pwrite64, NOTHING, 0, 0, 0 },
	{ SYS_writev, NOTHING, 0, 0, 0 },
	{ SYS_pwritev, NOTHING, 0, 0, 0 },
	{ SYS_sendto, NOTHING, 0, 0, 0 },
	{ SYS_sendmsg, NOTHING, 0, 0, 0 },
	{ SYS_mmap, NOTHING, 0, 0, 0 },
	{ SYS_madvise, NOTHING, 0, 0, 0 },
	{ SYS_msync, NOTHING, 0, 0, 0 },
	{ SYS_mlock, NOTHING, 0, 0, 0 },
	{ SYS_brk, NOTHING, 0, 0, 0 },
	{ SYS_open, NOTHING, 0, 0, 0 },
	{ SYS_openat, NOTHING, 0, 0, 0 },
	{ SYS_close, NOTHING, 0, 0, 0 },
	{ SYS_lseek, NOTHING, 0, 0, 0 },
	{ SYS_access, NOTHING, 0, 0, 0 },
	{ SYS_sched_yield, NOTHING, 0, 0, 0 },
	{ SYS_membarrier, NOTHING, 0, 0, 0 },
	{ SYS_prctl, BYTES, 1, 6, 64 },
	{ SYS_prctl, BYTES, 2, 6, 64 },
};

#define AT_ONCE 16u

static void vector(struct lh_translator *translator, uint64_t at, uint64_t count)
{
	struct iovec piece[AT_ONCE];
	uint64_t some;

	for (uint64_t i = 0; i < count && i < UIO_MAXIOV; i += some) {
		some = count - i < AT_ONCE ? count - i : AT_ONCE;
		if (lh__peek(translator->sys, at + i * sizeof(*piece), piece, some * sizeof(*piece)) < 0)
			return;
		for (uint64_t j = 0; j < some; j++)
			lh__changed_written(translator, (uint64_t)(uintptr_t)piece[j].iov_base,
			                    piece[j].iov_len);
	}
}

static void message(struct lh_translator *translator, uint64_t at)
{
	struct msghdr head;

	if (lh__peek(translator->sys, at, &head, sizeof(head)) < 0)
		return;
	lh__changed_written(translator, at, sizeof(head));
	lh__changed_written(translator, (uint64_t)(uintptr_t)head.msg_name, head.msg_namelen);
	lh__changed_written(translator, (uint64_t)(uintptr_t)head.msg_control, head.msg_controllen);
	vector(translator, (uint64_t)(uintptr_t)head.msg_iov, head.msg_iovlen);
}

static void buffer(struct lh_translator *translator, const struct buffer *buffer, const uint64_t *argument)
{
	uint64_t at = argument[buffer->at], count = buffer->count < 6 ? argument[buffer->count] : 1;

	switch (buffer->how) {
	case BYTES:
		if (count < UINT64_MAX / 256)
			lh__changed_written(translator, at, count * buffer->unit);
		break;
	case VECTOR: vector(translator, at, count); break;
	case MESSAGE: message(translator, at); break;
	case MESSAGES:
		for (uint64_t i = 0; i < count && i < UIO_MAXIOV; i++) {
			message(translator, at + i * sizeof(struct mmsghdr));
			lh__changed_written(translator, at, (i + 1) * sizeof(struct mmsghdr));
		}
		break;
	case SELF:
		if (argument[0] == (uint64_t)LH_SYS(translator->sys, SYS_getpid))
			vector(translator, at, count);
		break;
	default: break;
	}
}

void lh__changed_buffers(struct lh_translator *translator, const struct lh_translate_call *call)
{
	uint64_t argument[6];
	bool known = false;

	for (int i = 0; i < 6; i++)
		argument[i] = (uint64_t)call->argument[i];
	for (unsigned i = 0; i < sizeof(table) / sizeof(*table); i++) {
		if (table[i].number != call->number)
			continue;
		known = true;
		buffer(translator, &table[i], argument);
	}
	for (int i = 0; i < 6 && !known; i++)
		lh__changed_written(translator, argument[i], PAGE);
}
