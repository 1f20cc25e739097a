/*
 * calls.c - see calls.h. Runs between two instructions of a program, on a stack of the translator's: no
 * lock of libc is taken here, and what the program points to is copied by the kernel, which survives wrong
 * addresses.
 */
#include "service/pool/calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "sys/operands.h"

#define VECTOR_MOST 1024u
#define STRING_PART 4096u

/* ---- which calls cannot be undone */

enum { NO_FILE = 9 }; /* in place of the argument that is a descriptor */

struct outward {
	uint16_t number;
	uint8_t file; /* the argument that is the descriptor it is about */
	bool reads;   /* the kernel reads its operands and writes none */
	const char *name;
};
#define OUTWARD(name, file, reads)                                                                           \
	{                                                                                                    \
		SYS_##name, file, reads, #name                                                               \
	}
static const struct outward outward[] = {
	OUTWARD(write, 0, true),
	OUTWARD(pwrite64, 0, true),
	OUTWARD(writev, 0, true),
	OUTWARD(pwritev, 0, true),
	OUTWARD(pwritev2, 0, true),
	OUTWARD(sendto, 0, true),
	OUTWARD(sendmsg, 0, true),
	OUTWARD(sendmmsg, 0, false),
	OUTWARD(sendfile, 0, false),
	OUTWARD(splice, 2, false),
	OUTWARD(tee, 1, true),
	OUTWARD(vmsplice, 0, true),
	OUTWARD(copy_file_range, 2, false),
	OUTWARD(connect, 0, true),
	OUTWARD(shutdown, 0, true),
	OUTWARD(ioctl, 0, false),
	OUTWARD(ftruncate, 0, true),
	OUTWARD(fallocate, 0, true),
	OUTWARD(fchmod, 0, true),
	OUTWARD(fchown, 0, true),
	OUTWARD(fsetxattr, 0, true),
	OUTWARD(fremovexattr, 0, true),
	OUTWARD(open, NO_FILE, true),
	OUTWARD(openat, NO_FILE, true),
	OUTWARD(openat2, NO_FILE, true),
	OUTWARD(creat, NO_FILE, true),
	OUTWARD(truncate, NO_FILE, true),
	OUTWARD(rename, NO_FILE, true),
	OUTWARD(renameat, NO_FILE, true),
	OUTWARD(renameat2, NO_FILE, true),
	OUTWARD(link, NO_FILE, true),
	OUTWARD(linkat, NO_FILE, true),
	OUTWARD(symlink, NO_FILE, true),
	OUTWARD(symlinkat, NO_FILE, true),
	OUTWARD(unlink, NO_FILE, true),
	OUTWARD(unlinkat, NO_FILE, true),
	OUTWARD(mkdir, NO_FILE, true),
	OUTWARD(mkdirat, NO_FILE, true),
	OUTWARD(rmdir, NO_FILE, true),
	OUTWARD(mknod, NO_FILE, true),
	OUTWARD(mknodat, NO_FILE, true),
	OUTWARD(chmod, NO_FILE, true),
	OUTWARD(fchmodat, NO_FILE, true),
	OUTWARD(chown, NO_FILE, true),
	OUTWARD(lchown, NO_FILE, true),
	OUTWARD(fchownat, NO_FILE, true),
	OUTWARD(setxattr, NO_FILE, true),
	OUTWARD(lsetxattr, NO_FILE, true),
	OUTWARD(removexattr, NO_FILE, true),
	OUTWARD(lremovexattr, NO_FILE, true),
	OUTWARD(utime, NO_FILE, true),
	OUTWARD(utimes, NO_FILE, true),
	OUTWARD(futimesat, NO_FILE, true),
	OUTWARD(utimensat, NO_FILE, true),
	OUTWARD(kill, NO_FILE, true),
	OUTWARD(tkill, NO_FILE, true),
	OUTWARD(tgkill, NO_FILE, true),
	OUTWARD(rt_sigqueueinfo, NO_FILE, true),
	OUTWARD(rt_tgsigqueueinfo, NO_FILE, true),
	OUTWARD(pidfd_send_signal, NO_FILE, true),
	OUTWARD(msgsnd, NO_FILE, true),
	OUTWARD(semop, NO_FILE, true),
	OUTWARD(semtimedop, NO_FILE, true),
	OUTWARD(mq_timedsend, 0, true),
	OUTWARD(mq_unlink, NO_FILE, true),
	OUTWARD(io_submit, NO_FILE, false),
	OUTWARD(io_uring_enter, 0, false),
	OUTWARD(process_vm_writev, NO_FILE, true),
	OUTWARD(ptrace, NO_FILE, false),
	OUTWARD(mount, NO_FILE, true),
	OUTWARD(umount2, NO_FILE, true),
	OUTWARD(reboot, NO_FILE, true),
	OUTWARD(sethostname, NO_FILE, true),
	OUTWARD(settimeofday, NO_FILE, true),
	OUTWARD(clock_settime, NO_FILE, true),
	OUTWARD(execve, NO_FILE, true),
	OUTWARD(execveat, NO_FILE, true),
};

/* Of calls that can do both, whether this one only asks, or is about this process alone. */
static bool only_asks(const struct lh_translate_call *call)
{
	const long *argument = call->argument;

	switch (call->number) {
	case SYS_open: return !(argument[1] & (O_CREAT | O_TRUNC));
	case SYS_openat: return !(argument[2] & (O_CREAT | O_TRUNC));
	case SYS_ioctl:
		return argument[1] == TCGETS || argument[1] == TIOCGWINSZ || argument[1] == TIOCGPGRP ||
		       argument[1] == FIONREAD || argument[1] == FIONBIO || argument[1] == FIOCLEX ||
		       _IOC_DIR((unsigned long)argument[1]) == _IOC_READ;
	case SYS_kill:
	case SYS_tgkill:
	case SYS_rt_sigqueueinfo:
	case SYS_rt_tgsigqueueinfo: return argument[0] == lh__raw_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
	case SYS_tkill: return argument[0] == lh__raw_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0);
	default: return false;
	}
}

static const struct outward *outward_of(const struct lh_translate_call *call)
{
	for (size_t i = 0; i < sizeof(outward) / sizeof(outward[0]); i++)
		if (outward[i].number == call->number)
			return only_asks(call) ? NULL : &outward[i];
	return NULL;
}

/* ---- what is said */

static bool is_news(struct lh_calls *calls, uint64_t address)
{
	size_t places = sizeof(calls->told) / sizeof(calls->told[0]);

	for (size_t i = 0; i < places; i++) {
		uint64_t *place = &calls->told[(address + i) % places], none = 0;

		if (__atomic_compare_exchange_n(place, &none, address, false, __ATOMIC_RELAXED,
		                                __ATOMIC_RELAXED))
			return true;
		if (none == address)
			return false;
	}
	return false; /* so many that one line more tells nobody anything */
}

/* Without allocating: who makes the call may hold the allocator's lock. */
static void describe(uint64_t address, char *out, size_t size)
{
	Dl_info info;
	const char *slash;

	if (!dladdr((const void *)(uintptr_t)address, &info) || !info.dli_fname)
		return;
	slash = strrchr(info.dli_fname, '/');
	lh__format(out, size, "%s of %s", info.dli_sname ? info.dli_sname : "code",
	           slash ? slash + 1 : info.dli_fname);
}

static void tell(struct lh_calls *calls, const struct outward *row, const struct lh_translate_call *call)
{
	char line[384], code[160] = "code without a name", file[128] = "", path[40];
	long n;

	if (!calls->say || !is_news(calls, call->address))
		return;
	if (row->file != NO_FILE) {
		lh__format(path, sizeof(path), "/proc/self/fd/%d", (int)call->argument[row->file]);
		n = lh__raw_syscall(SYS_readlink, (long)path, (long)file, sizeof(file) - 1, 0, 0, 0);
		file[n > 0 ? n : 0] = 0;
		lh__format(path, sizeof(path), " to descriptor %d", (int)call->argument[row->file]);
	} else {
		path[0] = 0;
	}
	describe(call->address, code, sizeof(code));
	lh__format(line, sizeof(line), "%s%s%s%s%s in a transaction cannot be undone; it is made by %s",
	           row->name, path, file[0] ? " (" : "", file, file[0] ? ")" : "", code);
	calls->say(line);
}

/* ---- what the kernel writes */

struct walk {
	struct lh_calls *calls;
	const struct lh_translate_call *call;
	bool written;
};

/* 0 where the program has given a wrong address, which is the kernel's to say. */
static size_t look(void *to, uint64_t from, size_t size)
{
	struct iovec mine = { to, size }, theirs = { (void *)(uintptr_t)from, size };
	long n = lh__raw_syscall(SYS_process_vm_readv, lh__raw_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0),
	                         (long)&mine, 1, (long)&theirs, 1, 0);

	return n == (long)size ? size : 0;
}

static void reach(const struct walk *walk, uint64_t address, uint64_t size)
{
	if (address && size)
		walk->calls->reach(address, size, walk->written);
}

static void reach_vector(const struct walk *walk, uint64_t address, uint64_t count)
{
	struct iovec each;

	for (uint64_t i = 0;
	     i < count && i < VECTOR_MOST && look(&each, address + i * sizeof(each), sizeof(each)); i++)
		reach(walk, (uint64_t)(uintptr_t)each.iov_base, each.iov_len);
	reach(walk, address, count < VECTOR_MOST ? count * sizeof(each) : 0);
}

static void reach_message(const struct walk *walk, uint64_t address)
{
	struct msghdr header;

	if (!look(&header, address, sizeof(header)))
		return;
	reach(walk, address, sizeof(header));
	reach(walk, (uint64_t)(uintptr_t)header.msg_name, header.msg_namelen);
	reach(walk, (uint64_t)(uintptr_t)header.msg_control, header.msg_controllen);
	reach_vector(walk, (uint64_t)(uintptr_t)header.msg_iov, header.msg_iovlen);
}

static void reach_messages(const struct walk *walk, uint64_t address, uint64_t count)
{
	for (uint64_t i = 0; i < count && i < VECTOR_MOST; i++, address += sizeof(struct mmsghdr)) {
		reach(walk, address, sizeof(struct mmsghdr));
		reach_message(walk, address);
	}
}

static void reach_with_length(const struct walk *walk, uint64_t address, uint64_t length_at)
{
	uint32_t length;

	if (!length_at || !look(&length, length_at, sizeof(length)))
		return;
	reach(walk, length_at, sizeof(length));
	reach(walk, address, length);
}

static void reach_string(const struct walk *walk, uint64_t address)
{
	struct walk reading = *walk;

	reading.written = false;
	reach(&reading, address, STRING_PART);
}

static void reach_operand(const struct walk *walk, const struct lh_operand *operand)
{
	uint64_t address = (uint64_t)walk->call->argument[operand->argument];
	uint64_t other = (uint64_t)walk->call->argument[operand->other];

	switch (operand->kind) {
	case LH_OPERAND_FIXED: reach(walk, address, operand->size); break;
	case LH_OPERAND_SIZED:
		reach(walk, address, other < UINT32_MAX ? other * operand->size : other);
		break;
	case LH_OPERAND_COUNTED: reach(walk, address, (uint64_t)(uint32_t)other * operand->size); break;
	case LH_OPERAND_BITS: reach(walk, address, ((uint64_t)(uint32_t)other + 63) / 64 * 8); break;
	case LH_OPERAND_PAGES: reach(walk, address, (other + LH_PAGE_SIZE - 1) / LH_PAGE_SIZE); break;
	case LH_OPERAND_LENGTH: reach_with_length(walk, address, other); break;
	case LH_OPERAND_STRING: reach_string(walk, address); break;
	case LH_OPERAND_IOVEC: reach_vector(walk, address, other); break;
	case LH_OPERAND_MESSAGE: reach_message(walk, address); break;
	case LH_OPERAND_MESSAGES: reach_messages(walk, address, (uint32_t)other); break;
	case LH_OPERAND_IOCTL: {
		size_t size = _IOC_SIZE((unsigned long)walk->call->argument[1]);

		reach(walk, address, size ? size : LH_LINE_SIZE);
		break;
	}
	case LH_OPERAND_NONE: break;
	default: reach(walk, address, operand->size ? operand->size : LH_LINE_SIZE); break;
	}
}

static void reach_all(struct lh_calls *calls, const struct lh_translate_call *call, bool written)
{
	const struct lh_call *row = lh__operands(call->number);
	struct walk walk = { calls, call, written };

	for (unsigned i = 0; i < LH_OPERANDS_MAX && row->operand[i].kind != LH_OPERAND_NONE; i++)
		reach_operand(&walk, &row->operand[i]);
}

enum lh_call_fate lh__calls_see(struct lh_calls *calls, struct lh_translate_call *call)
{
	const struct outward *row = outward_of(call);

	if (call->number == SYS_exit || call->number == SYS_exit_group)
		return LH_CALL_ENDS_THREAD;
	if (row && calls->policy == LH_CALLS_ABORT) {
		call->result = -ECANCELED;
		return LH_CALL_IS_REFUSED;
	}
	if (row && calls->policy == LH_CALLS_WARN)
		tell(calls, row, call);
	reach_all(calls, call, !row || !row->reads);
	return LH_CALL_PASSES;
}
