/*
 * kernelio.c - the kernel reads and writes the program's memory, at places the program has not touched
 * lately.
 *
 * The region is cut into slots of 512 bytes; slot s of generation g holds a known sequence. Each case lets
 * the kernel read slots (and checks what arrives) or write slots (with the next generation, and checks what
 * stands there), many times at random places, with the vectors split at odd bytes, so that buffers begin in
 * one absent page and end in another. Structures that the kernel reads or fills (iovec, msghdr, stat, epoll
 * events, futex words, path names, ...) stand in the region as well. At the end all slots are verified.
 *
 *     kernelio --size 64 --rounds 20 [--case NAME] [--plant]
 *
 * One line a case: "NAME ok", or "NAME unavailable" where the kernel or a sandbox refuses the call itself.
 */
#include "ring.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <signal.h>

#define SLOT 512u
#define LONGEST 64u /* slots in one operation: 32 KiB */
#define PIECES 8

enum { OK, UNAVAILABLE };

static char *region;
static uint8_t *generation; /* of each slot */
static uint64_t slots, state, rounds = 20;
static char hot[LONGEST * SLOT];
static const char *now_case = "start";

static uint64_t pick(uint64_t n)
{
	return next_random(&state) % n;
}

static void content(uint64_t slot, uint8_t of, void *to)
{
	uint64_t *words = to;

	for (unsigned i = 0; i < SLOT / 8; i++)
		words[i] = mix(slot << 16 | (uint64_t)of << 8 | i);
}

static void check(uint64_t slot, const void *got)
{
	char wanted[SLOT];

	content(slot, generation[slot], wanted);
	for (unsigned i = 0; i < SLOT; i++)
		if (((const char *)got)[i] != wanted[i])
			wrong("%s: slot %lu byte %u", now_case, slot, i);
}

struct span {
	uint64_t slot, count;
};

static struct span some_span(uint64_t longest)
{
	uint64_t n = 1 + pick(longest);

	return (struct span){ pick(slots - n), n };
}

static char *start_of(struct span s)
{
	return region + s.slot * SLOT;
}

static size_t bytes_of(struct span s)
{
	return s.count * SLOT;
}

/* What the kernel read out of the span has arrived in hot. */
static void check_arrived(struct span s)
{
	for (uint64_t i = 0; i < s.count; i++)
		check(s.slot + i, hot + i * SLOT);
}

/* What the kernel shall write into the span: the next generation, prepared in hot. */
static void prepare(struct span s)
{
	for (uint64_t i = 0; i < s.count; i++)
		content(s.slot + i, ++generation[s.slot + i], hot + i * SLOT);
}

static void check_written(struct span s)
{
	for (uint64_t i = 0; i < s.count; i++)
		check(s.slot + i, start_of(s) + i * SLOT);
}

/* The span in up to PIECES pieces with odd ends; the vector itself stands in the region's scratch slots. */
static int pieces(struct span s, struct iovec *v)
{
	size_t left = bytes_of(s), at = 0;
	int n = 0;

	for (; n < PIECES - 1 && left > 1; n++) {
		size_t take = 1 + pick(left - 1);

		v[n] = (struct iovec){ start_of(s) + at, take };
		at += take;
		left -= take;
	}
	v[n] = (struct iovec){ start_of(s) + at, left };
	return n + 1;
}

/* Memory for structures: pages that no slot uses, many of them, taken in turn so that they are cold too. */
#define SCRATCH_PAGES 4096u
static char *scratch_base;
static void *scratch(size_t bytes)
{
	static uint64_t turn;
	char *page = scratch_base + (turn++ * 977 % SCRATCH_PAGES) * PAGE;

	return bytes > 256 || turn % 2 ? page : page + PAGE - bytes / 8 * 8 - 8;
}

static void must(bool condition, const char *what)
{
	if (!condition)
		wrong("%s: %s: %s", now_case, what, strerror(errno));
}

static int scratch_file(void)
{
	char path[] = "/tmp/kernelio.XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0)
		cannot("make a file");
	unlink(path);
	return fd;
}

static int case_file(void)
{
	int fd = scratch_file();

	for (uint64_t i = 0; i < rounds; i++) {
		struct span s = some_span(LONGEST);

		must(pwrite(fd, start_of(s), bytes_of(s), 0) == (ssize_t)bytes_of(s), "pwrite");
		must(lseek(fd, 0, SEEK_SET) == 0 && read(fd, hot, bytes_of(s)) == (ssize_t)bytes_of(s),
		     "read");
		check_arrived(s);
		s = some_span(LONGEST);
		prepare(s);
		must(lseek(fd, 0, SEEK_SET) == 0 && write(fd, hot, bytes_of(s)) == (ssize_t)bytes_of(s),
		     "write");
		if (i % 2)
			must(pread(fd, start_of(s), bytes_of(s), 0) == (ssize_t)bytes_of(s), "pread");
		else
			must(lseek(fd, 0, SEEK_SET) == 0 &&
			             read(fd, start_of(s), bytes_of(s)) == (ssize_t)bytes_of(s),
			     "read");
		check_written(s);
	}
	close(fd);
	return OK;
}

static int case_vectors(void)
{
	int fd = scratch_file();

	for (uint64_t i = 0; i < rounds; i++) {
		struct iovec *v = scratch(PIECES * sizeof *v);
		struct span s = some_span(LONGEST);
		int n = pieces(s, v);

		must(pwritev(fd, v, n, 0) == (ssize_t)bytes_of(s), "pwritev");
		must(pread(fd, hot, bytes_of(s), 0) == (ssize_t)bytes_of(s), "pread");
		check_arrived(s);
		s = some_span(LONGEST);
		prepare(s);
		must(pwrite(fd, hot, bytes_of(s), 0) == (ssize_t)bytes_of(s), "pwrite");
		v = scratch(PIECES * sizeof *v);
		n = pieces(s, v);
		lseek(fd, 0, SEEK_SET);
		must((i % 2 ? preadv(fd, v, n, 0) : readv(fd, v, n)) == (ssize_t)bytes_of(s), "readv");
		check_written(s);
	}
	close(fd);
	return OK;
}

/* File system I/O that pins the pages instead of copying. */
static int case_direct(void)
{
	char path[] = "kernelio.direct.XXXXXX";
	int fd = mkostemp(path, O_DIRECT);

	if (fd < 0)
		return UNAVAILABLE;
	unlink(path);
	for (uint64_t i = 0; i < rounds; i++) {
		struct span s = { pick(slots / 8 - 8) * 8, 8 * (1 + pick(8)) };
		struct span t = { pick(slots / 8 - 8) * 8, s.count };

		must(pwrite(fd, start_of(s), bytes_of(s), 0) == (ssize_t)bytes_of(s), "direct write");
		must(pread(fd, start_of(t), bytes_of(t), 0) == (ssize_t)bytes_of(t), "direct read");
		for (uint64_t k = 0; k < s.count; k++)
			check(s.slot + k, start_of(t) + k * SLOT);
		for (uint64_t k = 0; k < t.count; k++)
			content(t.slot + k, generation[t.slot + k], start_of(t) + k * SLOT);
	}
	close(fd);
	return OK;
}

static void read_all(int fd, char *to, size_t bytes)
{
	for (size_t got = 0; got < bytes;) {
		ssize_t n = read(fd, to + got, bytes - got);

		must(n > 0, "read");
		got += (size_t)n;
	}
}

static void write_all(int fd, const char *from, size_t bytes)
{
	for (size_t put = 0; put < bytes;) {
		ssize_t n = write(fd, from + put, bytes - put);

		must(n > 0, "write");
		put += (size_t)n;
	}
}

static int case_pipe(void)
{
	int ends[2];

	must(pipe(ends) == 0, "pipe");
	for (uint64_t i = 0; i < rounds; i++) {
		struct span s = some_span(LONGEST);

		write_all(ends[1], start_of(s), bytes_of(s));
		read_all(ends[0], hot, bytes_of(s));
		check_arrived(s);
		s = some_span(LONGEST);
		prepare(s);
		write_all(ends[1], hot, bytes_of(s));
		read_all(ends[0], start_of(s), bytes_of(s));
		check_written(s);
	}
	close(ends[0]);
	close(ends[1]);
	return OK;
}

/* vmsplice lends the pages themselves to the pipe; tee and splice pass them on. */
static int case_splice(void)
{
	int a[2], b[2];

	must(pipe(a) == 0 && pipe(b) == 0, "pipe");
	for (uint64_t i = 0; i < rounds; i++) {
		struct iovec *v = scratch(sizeof *v);
		struct span s = some_span(16);

		*v = (struct iovec){ start_of(s), bytes_of(s) };
		must(vmsplice(a[1], v, 1, 0) == (ssize_t)bytes_of(s), "vmsplice");
		must(tee(a[0], b[1], bytes_of(s), 0) == (ssize_t)bytes_of(s), "tee");
		read_all(a[0], hot, bytes_of(s));
		check_arrived(s);
		must(splice(b[0], NULL, a[1], NULL, bytes_of(s), 0) == (ssize_t)bytes_of(s), "splice");
		read_all(a[0], hot, bytes_of(s));
		check_arrived(s);
	}
	for (unsigned i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
	return OK;
}

static int case_stream(void)
{
	int ends[2], wide = 1 << 20;

	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
	setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &wide, sizeof wide);
	for (uint64_t i = 0; i < rounds; i++) {
		struct span s = some_span(32), t = some_span(32);

		must(send(ends[0], start_of(s), bytes_of(s), 0) == (ssize_t)bytes_of(s), "send");
		must(recv(ends[1], hot, bytes_of(s), MSG_WAITALL) == (ssize_t)bytes_of(s), "recv");
		check_arrived(s);
		prepare(t);
		must(send(ends[0], hot, bytes_of(t), 0) == (ssize_t)bytes_of(t), "send");
		must(recv(ends[1], start_of(t), SLOT, MSG_PEEK) == SLOT, "recv with PEEK");
		must(recv(ends[1], start_of(t), bytes_of(t), MSG_WAITALL) == (ssize_t)bytes_of(t), "recv");
		check_written(t);
	}
	close(ends[0]);
	close(ends[1]);
	return OK;
}

struct reader {
	int fd;
	struct span to;
};

static void *blocking_reader(void *argument)
{
	struct reader *r = argument;

	read_all(r->fd, start_of(r->to), bytes_of(r->to));
	return NULL;
}

/* A reader that blocks with a buffer whose pages may leave before the data comes. */
static int case_blocking(void)
{
	int ends[2];

	must(pipe(ends) == 0, "pipe");
	for (uint64_t i = 0; i < rounds / 4 + 1; i++) {
		struct reader r = { ends[0], { pick(slots - 32), 32 } };
		pthread_t thread;
		uint64_t sum = 0;

		must(pthread_create(&thread, NULL, blocking_reader, &r) == 0, "thread");
		for (uint64_t s = i % 8; s < slots; s += 8 * 3)
			sum += *(volatile uint64_t *)(region + s * SLOT);
		prepare(r.to);
		write_all(ends[1], hot, bytes_of(r.to));
		must(pthread_join(thread, NULL) == 0 && sum, "join");
		check_written(r.to);
	}
	close(ends[0]);
	close(ends[1]);
	return OK;
}

static int udp_socket(struct sockaddr_in *address)
{
	socklen_t length = sizeof *address;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	*address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	if (fd < 0 || bind(fd, (struct sockaddr *)address, length) ||
	    getsockname(fd, (struct sockaddr *)address, &length))
		cannot("make a datagram socket");
	return fd;
}

static int case_datagrams(void)
{
	struct sockaddr_in *address = scratch(sizeof *address), *from;
	int fd = udp_socket(address);

	for (uint64_t i = 0; i < rounds; i++) {
		struct span s = some_span(LONGEST), t = some_span(LONGEST);
		socklen_t *length = scratch(sizeof *length);

		must(sendto(fd, start_of(s), bytes_of(s), 0, (struct sockaddr *)address, sizeof *address) ==
		             (ssize_t)bytes_of(s),
		     "sendto");
		must(recv(fd, hot, sizeof hot, 0) == (ssize_t)bytes_of(s), "recv");
		check_arrived(s);
		prepare(t);
		must(sendto(fd, hot, bytes_of(t), 0, (struct sockaddr *)address, sizeof *address) ==
		             (ssize_t)bytes_of(t),
		     "sendto");
		from = scratch(sizeof *from);
		*length = sizeof *from;
		must(recvfrom(fd, start_of(t), bytes_of(t), 0, (struct sockaddr *)from, length) ==
		             (ssize_t)bytes_of(t),
		     "recvfrom");
		check_written(t);
		must(from->sin_port == address->sin_port && *length == sizeof *from, "the sender's address");
	}
	close(fd);
	return OK;
}

/*
 * Message header, vector and control buffer all stand in cold pages; a descriptor travels with each message.
 */
static void pass_descriptor(int via, struct span s, int fd)
{
	struct msghdr *m = scratch(sizeof *m);
	struct iovec *v = scratch(PIECES * sizeof *v);
	char *control = scratch(CMSG_SPACE(sizeof(int)));
	struct cmsghdr *c = (struct cmsghdr *)control;

	memset(control, 0, CMSG_SPACE(sizeof(int)));
	*m = (struct msghdr){ .msg_iov = v,
		              .msg_iovlen = (size_t)pieces(s, v),
		              .msg_control = control,
		              .msg_controllen = CMSG_SPACE(sizeof(int)) };
	*c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
		               .cmsg_level = SOL_SOCKET,
		               .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	must(sendmsg(via, m, 0) == (ssize_t)bytes_of(s), "sendmsg");
}

static int take_descriptor(int via, char *to, size_t bytes)
{
	struct msghdr *m = scratch(sizeof *m);
	struct iovec *v = scratch(sizeof *v);
	char *control = scratch(CMSG_SPACE(sizeof(int)));
	int fd = -1;

	*v = (struct iovec){ to, bytes };
	*m = (struct msghdr){ .msg_iov = v,
		              .msg_iovlen = 1,
		              .msg_control = control,
		              .msg_controllen = CMSG_SPACE(sizeof(int)) };
	must(recvmsg(via, m, 0) == (ssize_t)bytes, "recvmsg");
	must(CMSG_FIRSTHDR(m) && CMSG_FIRSTHDR(m)->cmsg_type == SCM_RIGHTS, "the control message");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(m)), sizeof fd);
	return fd;
}

static int case_messages(void)
{
	struct stat *before = scratch(sizeof *before), *after;
	int ends[2], file = scratch_file();

	must(fstat(file, before) == 0, "fstat");
	must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0, "socketpair");
	for (uint64_t i = 0; i < rounds; i++) {
		struct span s = some_span(LONGEST);
		int fd;

		pass_descriptor(ends[0], s, file);
		fd = take_descriptor(ends[1], hot, bytes_of(s));
		check_arrived(s);
		after = scratch(sizeof *after);
		must(fstat(fd, after) == 0 && after->st_ino == before->st_ino,
		     "the descriptor that travelled");
		close(fd);
	}
	close(file);
	close(ends[0]);
	close(ends[1]);
	return OK;
}

static int case_many_messages(void)
{
	struct mmsghdr *m;
	struct iovec *v;
	int ends[2];

	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0, "socketpair");
	for (uint64_t i = 0; i < rounds; i++) {
		struct span s[4];

		m = scratch(4 * sizeof *m);
		v = scratch(4 * sizeof *v);
		for (unsigned k = 0; k < 4; k++) {
			s[k] = some_span(8);
			v[k] = (struct iovec){ start_of(s[k]), bytes_of(s[k]) };
			m[k] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &v[k], .msg_iovlen = 1 } };
		}
		must(sendmmsg(ends[0], m, 4, 0) == 4, "sendmmsg");
		m = scratch(4 * sizeof *m);
		v = scratch(4 * sizeof *v);
		for (unsigned k = 0; k < 4; k++) {
			v[k] = (struct iovec){ hot + k * 8 * SLOT, 8 * SLOT };
			m[k] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &v[k], .msg_iovlen = 1 } };
		}
		must(recvmmsg(ends[1], m, 4, 0, NULL) == 4, "recvmmsg");
		for (unsigned k = 0; k < 4; k++)
			for (uint64_t n = 0; n < s[k].count; n++)
				check(s[k].slot + n, hot + (k * 8 + n) * SLOT);
	}
	close(ends[0]);
	close(ends[1]);
	return OK;
}

static int case_vm(void)
{
	for (uint64_t i = 0; i < rounds; i++) {
		struct iovec *local = scratch(PIECES * sizeof *local),
			     *remote = scratch(PIECES * sizeof *remote);
		struct span s = some_span(LONGEST);
		ssize_t n;

		*local = (struct iovec){ hot, bytes_of(s) };
		n = process_vm_readv(getpid(), local, 1, remote, (unsigned long)pieces(s, remote), 0);
		if (n < 0 && (errno == EPERM || errno == ENOSYS))
			return UNAVAILABLE;
		must(n == (ssize_t)bytes_of(s), "process_vm_readv");
		check_arrived(s);
		s = some_span(LONGEST);
		prepare(s);
		local = scratch(sizeof *local);
		remote = scratch(PIECES * sizeof *remote);
		*local = (struct iovec){ hot, bytes_of(s) };
		n = process_vm_writev(getpid(), local, 1, remote, (unsigned long)pieces(s, remote), 0);
		must(n == (ssize_t)bytes_of(s), "process_vm_writev");
		check_written(s);
	}
	return OK;
}

/*
 * Only when asked for by name: /proc/self/mem (a debugger's way) does not wait for a page that userfaultfd
 * answers, the kernel returns EIO at once, whoever answers and however fast.
 */
static int case_own_mem(void)
{
	int fd = open("/proc/self/mem", O_RDWR);

	if (fd < 0)
		return UNAVAILABLE;
	for (uint64_t i = 0; i < rounds; i++) {
		struct span s = some_span(LONGEST);

		must(pread(fd, hot, bytes_of(s), (off_t)(uintptr_t)start_of(s)) == (ssize_t)bytes_of(s),
		     "read mem");
		check_arrived(s);
		s = some_span(LONGEST);
		prepare(s);
		must(pwrite(fd, hot, bytes_of(s), (off_t)(uintptr_t)start_of(s)) == (ssize_t)bytes_of(s),
		     "write mem");
		check_written(s);
	}
	close(fd);
	return OK;
}

static int case_directory(void)
{
	char *names = scratch(PAGE);
	uint64_t self = 0;
	long n;
	int fd;

	for (uint64_t i = 0; i < rounds; i++) {
		fd = open("/proc/self", O_RDONLY | O_DIRECTORY);
		must(fd >= 0, "open a directory");
		for (self = 0; (n = syscall(SYS_getdents64, fd, names, PAGE / 4)) > 0; names = scratch(PAGE))
			for (char *at = names; at < names + n; at += ((struct dirent64 *)at)->d_reclen)
				self += !strcmp(((struct dirent64 *)at)->d_name, "status");
		must(n == 0 && self == 1, "getdents64");
		close(fd);
	}
	return OK;
}

static void paths_once(void)
{
	char *path = strcpy(scratch(64), "/proc/self/exe"), *target = scratch(PAGE), *cwd = scratch(PAGE);
	struct stat *st = scratch(sizeof *st);
	struct statx *sx = scratch(sizeof *sx);
	ssize_t n = readlink(path, target, PAGE);
	int fd;

	must(n > 0 && n < (ssize_t)PAGE, "readlink");
	target[n] = 0;
	must(stat(target, st) == 0 && st->st_size > 0, "stat");
	must(statx(AT_FDCWD, target, 0, STATX_BASIC_STATS, sx) == 0 && sx->stx_ino == st->st_ino, "statx");
	must(getcwd(cwd, PAGE) != NULL && access(cwd, F_OK) == 0, "getcwd");
	fd = open(path, O_RDONLY);
	must(fd >= 0, "open");
	close(fd);
}

static int case_paths(void)
{
	for (uint64_t i = 0; i < rounds; i++)
		paths_once();
	return OK;
}

static void structs_once(void)
{
	struct utsname *name = scratch(sizeof *name);
	struct rusage *usage = scratch(sizeof *usage);
	struct timespec *t = scratch(sizeof *t), *pause_for = scratch(sizeof *pause_for);
	struct rlimit *limit = scratch(sizeof *limit);
	sigset_t *set = scratch(sizeof *set), *old = scratch(sizeof *old);
	struct sigaction *action = scratch(sizeof *action);
	uint64_t *bytes = scratch(64);

	must(uname(name) == 0 && !strcmp(name->sysname, "Linux"), "uname");
	must(getrusage(RUSAGE_SELF, usage) == 0 && usage->ru_maxrss > 0, "getrusage");
	must(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, t) == 0 && t->tv_sec > 0, "clock_gettime");
	*pause_for = (struct timespec){ 0, 1000 };
	must(nanosleep(pause_for, NULL) == 0, "nanosleep");
	must(prlimit(0, RLIMIT_NOFILE, NULL, limit) == 0 && limit->rlim_cur > 0, "prlimit");
	sigemptyset(set);
	sigaddset(set, SIGUSR1);
	must(sigprocmask(SIG_BLOCK, set, old) == 0 && sigprocmask(SIG_SETMASK, old, set) == 0 &&
	             sigismember(set, SIGUSR1),
	     "sigprocmask");
	must(sigaction(SIGUSR2, NULL, action) == 0 && action->sa_handler == SIG_DFL, "sigaction");
	memset(bytes, 0, 64);
	must(getrandom(bytes, 64, 0) == 64 && (bytes[0] | bytes[3]) && (bytes[6] | bytes[7]), "getrandom");
}

static int case_structs(void)
{
	for (uint64_t i = 0; i < rounds; i++)
		structs_once();
	return OK;
}

struct ping {
	uint32_t *word;
	uint64_t turns;
	uint32_t mine, next;
};

static void futex_wait(uint32_t *word, uint32_t value)
{
	long n = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);

	must(n == 0 || errno == EAGAIN || errno == EINTR, "futex wait");
}

static void *ping(void *argument)
{
	struct ping *p = argument;

	for (uint64_t i = 0; i < p->turns; i++) {
		uint32_t seen;

		while ((seen = __atomic_load_n(p->word, __ATOMIC_ACQUIRE)) != p->mine)
			futex_wait(p->word, seen);
		__atomic_store_n(p->word, p->next, __ATOMIC_RELEASE);
		syscall(SYS_futex, p->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
	return NULL;
}

/* Between wait and wake the rest of the region is walked, so that the word's page may have left meanwhile. */
static int case_futex(void)
{
	for (uint64_t i = 0; i < rounds / 4 + 1; i++) {
		uint32_t *word = scratch(64);
		struct ping one = { word, 50, 1, 2 }, two = { word, 50, 2, 1 };
		pthread_t a, b;
		uint64_t sum = 0;

		*word = 0;
		must(pthread_create(&a, NULL, ping, &one) == 0 && pthread_create(&b, NULL, ping, &two) == 0,
		     "thread");
		for (uint64_t s = 0; s < slots; s += 8 * 7)
			sum += *(volatile uint64_t *)(region + s * SLOT);
		__atomic_store_n(word, 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 2, NULL, NULL, sum & 0);
		pthread_join(a, NULL);
		pthread_join(b, NULL);
		must(*word == 1, "the futex word");
	}
	return OK;
}

static void events_once(int epoll, int event, int timer)
{
	struct epoll_event *events = scratch(16 * sizeof *events);
	struct itimerspec *soon = scratch(sizeof *soon);
	struct pollfd *p = scratch(2 * sizeof *p);
	fd_set *set = scratch(sizeof *set);
	uint64_t *value = scratch(8);

	*value = 5;
	must(write(event, value, 8) == 8, "write an eventfd");
	*soon = (struct itimerspec){ .it_value.tv_nsec = 1000 };
	must(timerfd_settime(timer, 0, soon, NULL) == 0, "timerfd_settime");
	p[0] = (struct pollfd){ timer, POLLIN, 0 };
	must(poll(p, 1, 1000) == 1 && p[0].revents == POLLIN, "poll");
	must(epoll_wait(epoll, events, 16, 1000) == 2, "epoll_wait");
	must(events[0].data.u64 + events[1].data.u64 == 77 + 88, "epoll's data");
	FD_ZERO(set);
	FD_SET(event, set);
	must(select(event + 1, set, NULL, NULL, NULL) == 1 && FD_ISSET(event, set), "select");
	value = scratch(8);
	must(read(event, value, 8) == 8 && *value == 5, "read an eventfd");
	value = scratch(8);
	must(read(timer, value, 8) == 8 && *value == 1, "read a timerfd");
}

static int case_events(void)
{
	int epoll = epoll_create1(0), event = eventfd(0, 0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
	struct epoll_event *e = scratch(sizeof *e);

	*e = (struct epoll_event){ .events = EPOLLIN, .data.u64 = 77 };
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, event, e) == 0, "epoll_ctl");
	e = scratch(sizeof *e);
	*e = (struct epoll_event){ .events = EPOLLIN, .data.u64 = 88 };
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, timer, e) == 0, "epoll_ctl");
	for (uint64_t i = 0; i < rounds; i++)
		events_once(epoll, event, timer);
	close(epoll);
	close(event);
	close(timer);
	return OK;
}

static int case_ioctl(void)
{
	int ends[2];

	must(pipe(ends) == 0, "pipe");
	for (uint64_t i = 0; i < rounds; i++) {
		int *waiting = scratch(sizeof *waiting), *on = scratch(sizeof *on);
		struct span s = some_span(8);

		write_all(ends[1], start_of(s), bytes_of(s));
		must(ioctl(ends[0], FIONREAD, waiting) == 0 && *waiting == (int)bytes_of(s), "FIONREAD");
		*on = (int)(i & 1);
		must(ioctl(ends[1], FIONBIO, on) == 0, "FIONBIO");
		must(!(fcntl(ends[1], F_GETFL) & O_NONBLOCK) == !(i & 1), "the flag that FIONBIO set");
		*on = 0;
		must(ioctl(ends[1], FIONBIO, on) == 0, "FIONBIO");
		read_all(ends[0], hot, bytes_of(s));
		check_arrived(s);
	}
	close(ends[0]);
	close(ends[1]);
	return OK;
}

static int case_sendfile(void)
{
	int from = scratch_file(), to = scratch_file();

	for (uint64_t i = 0; i < rounds; i++) {
		off_t *offset = scratch(sizeof *offset);
		struct span s = some_span(LONGEST);

		must(pwrite(from, start_of(s), bytes_of(s), 4096) == (ssize_t)bytes_of(s), "pwrite");
		*offset = 4096;
		lseek(to, 0, SEEK_SET);
		must(sendfile(to, from, offset, bytes_of(s)) == (ssize_t)bytes_of(s), "sendfile");
		must(*offset == 4096 + (off_t)bytes_of(s), "sendfile's offset");
		must(pread(to, hot, bytes_of(s), 0) == (ssize_t)bytes_of(s), "pread");
		check_arrived(s);
	}
	close(from);
	close(to);
	return OK;
}

/* Mistakes must stay mistakes: EFAULT where there is no memory, and a short count at its edge. */
static int case_mistakes(void)
{
	char *two = anonymous(2 * PAGE);
	int ends[2], fd = scratch_file();

	must(pipe(ends) == 0, "pipe");
	munmap(two + PAGE, PAGE);
	memset(two, 'x', PAGE);
	for (uint64_t i = 0; i < rounds; i++) {
		errno = 0;
		must(write(ends[1], two + PAGE, 1) == -1 && errno == EFAULT, "write from nowhere");
		must(pwrite(fd, hot, PAGE, 0) == PAGE, "pwrite");
		must(pread(fd, two + PAGE, 8, 0) == -1 && errno == EFAULT, "read to nowhere");
		must(pwrite(fd, two + PAGE - 100, 200, 0) == 100, "a write that reaches the edge");
		must(stat(two + PAGE, (struct stat *)hot) == -1 && errno == EFAULT, "a path from nowhere");
	}
	munmap(two, PAGE);
	close(fd);
	close(ends[0]);
	close(ends[1]);
	return OK;
}

/* The old asynchronous interface: control blocks, pointers to them and events in cold pages. */
static int case_aio(void)
{
	aio_context_t context = 0;
	int fd = scratch_file();

	if (syscall(SYS_io_setup, 8, &context))
		return UNAVAILABLE;
	for (uint64_t i = 0; i < rounds; i++) {
		struct iocb **list = scratch(8), *block = scratch(sizeof *block);
		struct io_event *event = scratch(sizeof *event);
		struct span s = some_span(LONGEST);

		*block = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PWRITE,
			                .aio_fildes = (uint32_t)fd,
			                .aio_buf = (uintptr_t)start_of(s),
			                .aio_nbytes = bytes_of(s) };
		list[0] = block;
		must(syscall(SYS_io_submit, context, 1, list) == 1, "io_submit");
		must(syscall(SYS_io_getevents, context, 1, 1, event, NULL) == 1, "io_getevents");
		must(event->res == (int64_t)bytes_of(s), "the event's result");
		must(pread(fd, hot, bytes_of(s), 0) == (ssize_t)bytes_of(s), "pread");
		check_arrived(s);
		s = some_span(LONGEST);
		prepare(s);
		must(pwrite(fd, hot, bytes_of(s), 0) == (ssize_t)bytes_of(s), "pwrite");
		*block = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PREAD,
			                .aio_fildes = (uint32_t)fd,
			                .aio_buf = (uintptr_t)start_of(s),
			                .aio_nbytes = bytes_of(s) };
		must(syscall(SYS_io_submit, context, 1, list) == 1, "io_submit");
		must(syscall(SYS_io_getevents, context, 1, 1, event, NULL) == 1, "io_getevents");
		must(event->res == (int64_t)bytes_of(s), "the event's result");
		check_written(s);
	}
	syscall(SYS_io_destroy, context);
	close(fd);
	return OK;
}

/* io_uring without its library: one ring of eight entries. */
/* One write and one read; flags may ask for a worker thread of the kernel to do it (IOSQE_ASYNC). */
static void ring_once(struct ring *r, int fd, uint8_t flags)
{
	struct iovec *v = scratch(PIECES * sizeof *v);
	struct span s = some_span(LONGEST);
	struct io_uring_sqe e = transfer(IORING_OP_WRITEV, fd, v, (size_t)pieces(s, v), flags);

	must(ring_do(r, &e) == (int)bytes_of(s), "io_uring writev");
	must(pread(fd, hot, bytes_of(s), 0) == (ssize_t)bytes_of(s), "pread");
	check_arrived(s);
	s = some_span(LONGEST);
	prepare(s);
	must(pwrite(fd, hot, bytes_of(s), 0) == (ssize_t)bytes_of(s), "pwrite");
	e = transfer(IORING_OP_READ, fd, start_of(s), bytes_of(s), flags);
	must(ring_do(r, &e) == (int)bytes_of(s), "io_uring read");
	check_written(s);
}

static int case_io_uring(void)
{
	int fd = scratch_file();
	struct ring r;

	if (!ring_open(&r, 0))
		return UNAVAILABLE;
	for (uint64_t i = 0; i < rounds; i++)
		ring_once(&r, fd, i % 2 ? IOSQE_ASYNC : 0);
	ring_close(&r);
	close(fd);
	return OK;
}

/* Registered buffers are pinned for as long as the registration lasts, while the rest of the region moves. */
static int case_io_uring_fixed(void)
{
	struct span s = { slots / 2, 2 * LONGEST };
	struct iovec v = { start_of(s), bytes_of(s) };
	int fd = scratch_file();
	struct ring r;
	uint64_t sum = 0;

	if (!ring_open(&r, 0))
		return UNAVAILABLE;
	if (syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_BUFFERS, &v, 1))
		return UNAVAILABLE;
	for (uint64_t i = 0; i < rounds; i++) {
		struct span part = { s.slot + pick(LONGEST), 1 + pick(LONGEST) };
		struct io_uring_sqe e =
			transfer(IORING_OP_WRITE_FIXED, fd, start_of(part), bytes_of(part), 0);

		must(ring_do(&r, &e) == (int)bytes_of(part), "io_uring fixed write");
		must(pread(fd, hot, bytes_of(part), 0) == (ssize_t)bytes_of(part), "pread");
		check_arrived(part);
		for (uint64_t at = i; at < slots; at += 8 * 5)
			sum += *(volatile uint64_t *)(region + at * SLOT);
		prepare(part);
		must(pwrite(fd, hot, bytes_of(part), 0) == (ssize_t)bytes_of(part), "pwrite");
		e = transfer(IORING_OP_READ_FIXED, fd, start_of(part), bytes_of(part), 0);
		must(ring_do(&r, &e) == (int)bytes_of(part), "io_uring fixed read");
		check_written(part);
	}
	ring_close(&r);
	close(fd);
	return sum == 42 ? UNAVAILABLE : OK;
}

static int case_exec(void)
{
	for (uint64_t i = 0; i < rounds / 8 + 1; i++) {
		char **arguments = scratch(4 * sizeof *arguments);
		int status;
		pid_t pid;

		arguments[0] = strcpy(scratch(64), "/bin/sh");
		arguments[1] = strcpy(scratch(64), "-c");
		arguments[2] = strcpy(scratch(64), "exit 9");
		arguments[3] = NULL;
		pid = fork();
		if (pid == 0) {
			execv(arguments[0], arguments);
			_exit(1);
		}
		must(pid > 0 && waitpid(pid, &status, 0) == pid && status == 9 << 8,
		     "exec with cold arguments");
	}
	return OK;
}

static const struct {
	const char *name;
	int (*run)(void);
} cases[] = {
	{ "file", case_file },
	{ "vectors", case_vectors },
	{ "direct", case_direct },
	{ "pipe", case_pipe },
	{ "splice", case_splice },
	{ "stream", case_stream },
	{ "blocking", case_blocking },
	{ "datagrams", case_datagrams },
	{ "messages", case_messages },
	{ "vm", case_vm },
	{ "many-messages", case_many_messages },
	{ "own-mem", case_own_mem },
	{ "directory", case_directory },
	{ "paths", case_paths },
	{ "structs", case_structs },
	{ "futex", case_futex },
	{ "events", case_events },
	{ "ioctl", case_ioctl },
	{ "sendfile", case_sendfile },
	{ "mistakes", case_mistakes },
	{ "aio", case_aio },
	{ "io_uring", case_io_uring },
	{ "exec", case_exec },
	{ "io_uring-fixed", case_io_uring_fixed },
};

static void fill_all(uint64_t mib)
{
	slots = mib * (1 << 20) / SLOT;
	region = anonymous(slots * SLOT);
	scratch_base = anonymous((size_t)SCRATCH_PAGES * PAGE);
	generation = calloc(slots, 1);
	if (!generation)
		cannot("allocate");
	for (uint64_t s = 0; s < slots; s++)
		content(s, 0, region + s * SLOT);
	for (size_t i = 0; i < SCRATCH_PAGES; i++)
		memset(scratch_base + i * PAGE, (int)i | 1, PAGE);
}

int main(int argc, char **argv)
{
	const char *only = NULL;
	uint64_t mib = 64;
	bool plant = false;

	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--plant"))
			plant = true;
		else if (i + 1 < argc && !strcmp(argv[i], "--size"))
			mib = number(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--rounds"))
			rounds = number(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--case"))
			only = argv[++i];
	fill_all(mib);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		now_case = cases[i].name;
		if (only ? strcmp(only, now_case) : cases[i].run == case_own_mem)
			continue;
		state = mix(i);
		printf("%s %s\n", now_case, cases[i].run() == OK ? "ok" : "unavailable");
		fflush(stdout);
	}
	now_case = "end";
	region[slots / 2 * SLOT + 100] ^= (char)plant;
	for (uint64_t s = 0; s < slots; s++)
		check(s, region + s * SLOT);
	printf("kernelio ok\n");
	return 0;
}
