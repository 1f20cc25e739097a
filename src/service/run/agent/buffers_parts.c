/*
 * buffers_parts.c - calls whose buffers are larger than what may be kept at a time.
 *
 * What may be cut, and when to go on after a part, is what POSIX and Linux say of the descriptor:
 *
 *     file, block device, /dev/zero   both ways to the end, or to the first short part
 *     pipe, terminal, stream socket   written to the end; read once, of at most one part: more than what is
 *                                     there may not be waited for, unless with MSG_WAITALL
 *     anything else                   not at all: a datagram or an event is one piece
 *
 * A part that fails ends the call: with what was done before, if anything was, as the kernel does itself. So
 * does LH_INTERCEPT_RESTART. Parts are multiples of a page from the start on, as O_DIRECT demands.
 */
#include "service/run/agent/buffers_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define ENTRIES 64 /* of a vector, in one part */
#define VECTOR_MAX 1024u

enum manner { WHOLE, ONE_PART, TO_THE_END };

/* A call being cut: what the program asked for, and what stands in its place. */
struct cut {
	struct lh_buffers *self;
	struct lh_trap *trap;
	long argument[6];    /* as asked */
	struct msghdr asked; /* of sendmsg and recvmsg */
	struct msghdr header;
	struct iovec entry[ENTRIES];
	uint64_t total, done;
	size_t part;
};

/* ---- which call it is ---- */

static bool is_vector(long nr)
{
	return nr == SYS_readv || nr == SYS_writev || nr == SYS_preadv || nr == SYS_pwritev ||
	       nr == SYS_preadv2 || nr == SYS_pwritev2;
}

static bool is_message(long nr)
{
	return nr == SYS_sendmsg || nr == SYS_recvmsg;
}

static bool has_offset(long nr)
{
	return nr == SYS_pread64 || nr == SYS_pwrite64 ||
	       (is_vector(nr) && nr != SYS_readv && nr != SYS_writev);
}

static bool is_output(long nr)
{
	return nr == SYS_write || nr == SYS_pwrite64 || nr == SYS_writev || nr == SYS_pwritev ||
	       nr == SYS_pwritev2 || nr == SYS_sendto || nr == SYS_sendmsg;
}

static long socket_flags(const struct cut *cut)
{
	if (cut->trap->nr == SYS_recvfrom || cut->trap->nr == SYS_sendto)
		return cut->argument[3];
	return is_message(cut->trap->nr) ? cut->argument[2] : 0;
}

/* ---- how large it is ---- */

static uint64_t vector_size(struct lh_buffers *self, uintptr_t address, size_t count)
{
	struct iovec each;
	uint64_t size = 0;

	if (count > VECTOR_MAX)
		return 0;
	for (size_t i = 0; i < count; i++) {
		if (self->copy(&each, (const void *)(address + i * sizeof each), sizeof each) < 0 ||
		    each.iov_len > LONG_MAX)
			return 0;
		size += each.iov_len;
	}
	return size;
}

/* 0 where the kernel would refuse it anyway. */
static uint64_t size_of(struct cut *cut)
{
	const long *argument = cut->argument;
	uint64_t size;

	if (is_vector(cut->trap->nr)) {
		size = vector_size(cut->self, (uintptr_t)argument[1], (size_t)argument[2]);
	} else if (is_message(cut->trap->nr)) {
		if (cut->self->copy(&cut->asked, (const void *)argument[1], sizeof cut->asked) < 0)
			return 0;
		size = vector_size(cut->self, (uintptr_t)cut->asked.msg_iov, cut->asked.msg_iovlen);
	} else {
		size = (uint64_t)argument[cut->trap->nr == SYS_getrandom ? 1 : 2];
	}
	return size > LONG_MAX ? 0 : size > INT_MAX - 4095u ? INT_MAX - 4095u : size;
}

/* ---- what may be cut ---- */

static enum manner manner_of_device(const struct stat *status, bool output)
{
	unsigned number = major(status->st_rdev);

	if (number == 1) /* zero, null, random, mem */
		return TO_THE_END;
	if (number == 4 || number == 5 || (number >= 136 && number <= 143)) /* terminals */
		return output ? TO_THE_END : ONE_PART;
	return WHOLE;
}

static enum manner manner_of_socket(const struct cut *cut, bool output)
{
	long flags = socket_flags(cut);
	bool all = output || ((flags & MSG_WAITALL) && !(flags & MSG_PEEK));
	socklen_t size = sizeof(int);
	int type = 0;

	if (LH_SYS(cut->self->sys, SYS_getsockopt, cut->argument[0], SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
	    type != SOCK_STREAM)
		return WHOLE;
	/* Descriptors that came with a later part would have nowhere to go. */
	if (cut->trap->nr == SYS_recvmsg && cut->asked.msg_controllen)
		all = false;
	/* The program counts one note of the end for each call. */
	if (output && (flags & MSG_ZEROCOPY))
		all = false;
	return all ? TO_THE_END : ONE_PART;
}

static enum manner manner_of(const struct cut *cut)
{
	bool output = is_output(cut->trap->nr);
	struct stat status;

	if (cut->trap->nr == SYS_getrandom)
		return TO_THE_END;
	if (LH_SYS(cut->self->sys, SYS_fstat, cut->argument[0], &status) < 0)
		return WHOLE;
	switch (status.st_mode & S_IFMT) {
	case S_IFREG:
	case S_IFBLK: return TO_THE_END;
	case S_IFIFO: return output ? TO_THE_END : ONE_PART;
	case S_IFSOCK: return manner_of_socket(cut, output);
	case S_IFCHR: return manner_of_device(&status, output);
	default: return WHOLE;
	}
}

/* ---- cutting ---- */

/* Fills entry with the next part of the program's vector; returns their number, and the bytes in *size. */
static size_t slice(struct cut *cut, uintptr_t address, size_t count, uint64_t *size)
{
	uint64_t skip = cut->done, left = cut->part;
	struct iovec each;
	size_t n = 0;

	for (size_t i = 0; i < count && n < ENTRIES && left > 0; i++) {
		if (cut->self->copy(&each, (const void *)(address + i * sizeof each), sizeof each) < 0)
			break;
		if (each.iov_len <= skip) {
			skip -= each.iov_len;
			continue;
		}
		each.iov_base = (char *)each.iov_base + skip;
		each.iov_len -= skip;
		skip = 0;
		each.iov_len = each.iov_len < left ? each.iov_len : left;
		left -= each.iov_len;
		cut->entry[n++] = each;
	}
	*size = cut->part - left;
	return n;
}

static uint64_t cut_vector(struct cut *cut)
{
	uint64_t size;

	cut->trap->argument[2] =
		(long)slice(cut, (uintptr_t)cut->argument[1], (size_t)cut->argument[2], &size);
	cut->trap->argument[1] = (long)cut->entry;
	return size;
}

/* Control data go with the first part. */
static uint64_t cut_message(struct cut *cut)
{
	uint64_t size;

	cut->header = cut->asked;
	cut->header.msg_iov = cut->entry;
	cut->header.msg_iovlen = slice(cut, (uintptr_t)cut->asked.msg_iov, cut->asked.msg_iovlen, &size);
	if (cut->done) {
		cut->header.msg_control = NULL;
		cut->header.msg_controllen = 0;
	}
	cut->trap->argument[1] = (long)&cut->header;
	return size;
}

static uint64_t cut_buffer(struct cut *cut)
{
	unsigned buffer = cut->trap->nr == SYS_getrandom ? 0 : 1;
	uint64_t left = cut->total - cut->done;
	uint64_t size = left < cut->part ? left : cut->part;

	cut->trap->argument[buffer] = cut->argument[buffer] + (long)cut->done;
	cut->trap->argument[buffer + 1] = (long)size;
	return size;
}

/* A peer that goes away after a part makes that part the result, without a signal. */
static void quiet(struct cut *cut)
{
	if (cut->trap->nr == SYS_sendto)
		cut->trap->argument[3] = cut->argument[3] | MSG_NOSIGNAL;
	else if (cut->trap->nr == SYS_sendmsg)
		cut->trap->argument[2] = cut->argument[2] | MSG_NOSIGNAL;
}

/* Puts the next part in the place of the call; returns its size. */
static uint64_t set_part(struct cut *cut)
{
	if (has_offset(cut->trap->nr) && cut->argument[3] != -1)
		cut->trap->argument[3] = cut->argument[3] + (long)cut->done;
	if (cut->done)
		quiet(cut);
	if (is_vector(cut->trap->nr))
		return cut_vector(cut);
	return is_message(cut->trap->nr) ? cut_message(cut) : cut_buffer(cut);
}

/* What recvmsg says in its header belongs in the program's. */
static void pass_header_on(struct cut *cut)
{
	struct msghdr *to = (struct msghdr *)cut->argument[1];

	if (cut->trap->nr != SYS_recvmsg || cut->done ||
	    cut->self->copy(&to->msg_namelen, &cut->header.msg_namelen, sizeof to->msg_namelen) < 0 ||
	    cut->self->copy(&to->msg_controllen, &cut->header.msg_controllen, sizeof to->msg_controllen) <
	            0 ||
	    cut->self->copy(&to->msg_flags, &cut->header.msg_flags, sizeof to->msg_flags) < 0)
		return;
}

static long in_parts(struct cut *cut, const struct lh_call *call, enum manner manner)
{
	uint64_t size;
	long result;

	do {
		size = set_part(cut);
		result = lh__buffers_whole(cut->self, cut->trap, call);
		__atomic_add_fetch(&cut->self->counts.parts, 1, __ATOMIC_RELAXED);
		if (result >= 0)
			pass_header_on(cut);
		if (result <= 0)
			return cut->done ? (long)cut->done : result;
		cut->done += (uint64_t)result;
	} while (manner == TO_THE_END && (uint64_t)result == size && cut->done < cut->total);
	return (long)cut->done;
}

static void restore(struct cut *cut)
{
	for (int i = 0; i < 6; i++)
		cut->trap->argument[i] = cut->argument[i];
}

static void begin(struct cut *cut, struct lh_buffers *self, struct lh_trap *trap)
{
	cut->self = self;
	cut->trap = trap;
	cut->done = 0;
	/* The rest is for the vector, the header and the page that an unaligned buffer adds. */
	cut->part = LH_PAGES_OF(self->hold_limit - self->hold_limit / 8);
	for (int i = 0; i < 6; i++)
		cut->argument[i] = trap->argument[i];
}

static bool is_small(const struct lh_buffers *self, const struct lh_trap *trap)
{
	size_t size = (size_t)trap->argument[trap->nr == SYS_getrandom ? 1 : 2];

	return !is_vector(trap->nr) && !is_message(trap->nr) && size <= self->hold_limit / 2;
}

/* Apart, so that its stack is not used by small calls. */
static __attribute__((noinline)) long large(struct lh_buffers *self, struct lh_trap *trap,
                                            const struct lh_call *call)
{
	enum manner manner = WHOLE;
	struct cut cut;
	long result;

	begin(&cut, self, trap);
	cut.total = size_of(&cut);
	if (cut.total > cut.part && cut.part)
		manner = manner_of(&cut);
	if (manner == WHOLE)
		return lh__buffers_whole(self, trap, call);
	result = in_parts(&cut, call, manner);
	restore(&cut);
	return result;
}

long lh__buffers_parts(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call)
{
	return is_small(self, trap) ? lh__buffers_whole(self, trap, call) : large(self, trap, call);
}

/* ---- vmsplice ---- */

static long proceed_with(struct cut *cut, long nr, const long argument[6])
{
	long asked = cut->trap->nr, result;

	cut->trap->nr = nr;
	for (int i = 0; i < 6; i++)
		cut->trap->argument[i] = argument[i];
	result = lh__buffers_whole(cut->self, cut->trap, lh__operands(nr));
	cut->trap->nr = asked;
	return result;
}

/*
 * 1: there is room for PIPE_BUF bytes; 0: there is none. vmsplice waits for the first room only, unless told
 * not to.
 */
static long find_room(struct cut *cut)
{
	bool wait = cut->done == 0 && !(cut->argument[3] & SPLICE_F_NONBLOCK);
	struct pollfd room = { .fd = (int)cut->argument[0], .events = POLLOUT };
	struct timespec now = { 0, 0 };

	return proceed_with(cut, SYS_ppoll, (const long[6]){ (long)&room, 1, wait ? 0 : (long)&now, 0, 8 });
}

/* RWF_NOWAIT would say it in one call, but a pipe that was ever spliced to refuses it. */
static long write_what_fits(struct cut *cut)
{
	uint64_t size;
	size_t n;
	long result;

	do {
		result = find_room(cut);
		if (result <= 0)
			return result < 0 ? result : -EAGAIN;
		n = slice(cut, (uintptr_t)cut->argument[1], (size_t)cut->argument[2], &size);
		result = proceed_with(cut, SYS_writev,
		                      (const long[6]){ cut->argument[0], (long)cut->entry, (long)n });
		if (result <= 0)
			return result;
		cut->done += (uint64_t)result;
	} while (cut->done < cut->total);
	return result;
}

static bool is_pipe_for_writing(struct lh_buffers *self, long descriptor)
{
	long flags = LH_SYS(self->sys, SYS_fcntl, descriptor, F_GETFL);
	struct stat status;

	return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY &&
	       LH_SYS(self->sys, SYS_fstat, descriptor, &status) == 0 && S_ISFIFO(status.st_mode);
}

long lh__buffers_vmsplice(struct lh_buffers *self, struct lh_trap *trap, const struct lh_call *call)
{
	struct cut cut;
	long result;

	begin(&cut, self, trap);
	cut.part = PIPE_BUF;
	cut.total = vector_size(self, (uintptr_t)trap->argument[1], (size_t)trap->argument[2]);
	/* To be read from, or to be refused: no page of the program stays in the pipe. */
	if (cut.total == 0 || (trap->argument[3] & ~15l) || !is_pipe_for_writing(self, trap->argument[0]))
		return lh__buffers_whole(self, trap, call);
	result = write_what_fits(&cut);
	restore(&cut);
	return cut.done ? (long)cut.done : result;
}
