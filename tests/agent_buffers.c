/*
 * agent_buffers.c - system calls with operands in absent memory give the results that they give without
 * paging.
 *
 * Each case is run twice: plainly, in ordinary memory; and through lh__buffers_call, in watched memory, all
 * of which has been taken away before the call. What it notes of results and contents must be the same. And
 * once the operands have been made present, just before the kernel gets the call, everything that is not kept
 * is taken away again: so a call whose operands were touched but not kept fails every time and not once in a
 * million. The program is its own agent here.
 */
/* timeout: 120 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <termios.h>
#include <time.h>

#include "home/internal.h"
#include "port/page/page.h"
#include "service/run/agent/buffers.h"
#include "sys/operands.h"
#include "tap.h"

#define MIB (1ul << 20)
#define REGION (40 * MIB)
#define LOCAL_PAGES 2560u
#define HOLD_LIMIT MIB
#define LARGE (16 * MIB)

static struct lh_home *home;
static struct lh_port *port;
static struct lh_store *store;
static struct lh_memory_pool *pool;
static struct lh_stats stats;
static struct lh_buffers buffers;
static char *region, *plain_region, *arena;
static bool under;    /* the second run of a case */
static int evictions; /* how often proceed takes everything away first: for loose calls, not always */
static long injected_at, injected; /* the proceed that returns something of the test's */
static size_t most_kept;
static pthread_mutex_t evicting = PTHREAD_MUTEX_INITIALIZER;
static __thread sigjmp_buf *copying;

/* ---- the program's own agent ---- */

static void on_fault(int signal, siginfo_t *info, void *context)
{
	int result = signal == SIGBUS ? lh__home_miss(home, (uintptr_t)info->si_addr) : LH_MISS_NOT_MINE;

	(void)context;
	if (result == 0)
		return;
	if (copying)
		siglongjmp(*copying, 1);
	_exit(98 + (signal == SIGBUS));
}

static int copy(void *to, const void *from, size_t size)
{
	sigjmp_buf out;
	volatile int result = 0;

	if (sigsetjmp(out, 1) == 0) {
		copying = &out;
		/* Not memcpy, which a sanitizer would not let read beyond a string. */
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
	} else {
		result = -EFAULT;
	}
	copying = NULL;
	return result;
}

static size_t kept_bytes(void)
{
	size_t sum = 0;

	for (unsigned i = 0; i < LH_KEEP_SLOTS; i++)
		if (home->keep[i].end)
			sum += home->keep[i].end - home->keep[i].start;
	return sum;
}

static void evict(void)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&evicting);
	lh__home_set_limit(home, 0);
	for (int quiet = 0; quiet < 4 && lh__home_backed(home) > 0;) {
		uint32_t before = lh__home_backed(home);
		uint64_t page;

		quiet = lh__home_balance(home, &page) <= 0 || lh__home_backed(home) == before ? quiet + 1 : 0;
	}
	lh__home_set_limit(home, LOCAL_PAGES);
	pthread_mutex_unlock(&evicting);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static long raw(const struct lh_trap *trap)
{
	const long *a = trap->argument;

	return lh__raw_syscall(trap->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static long proceed(struct lh_trap *trap)
{
	size_t kept = kept_bytes();

	if (kept > most_kept)
		most_kept = kept;
	if (injected_at && --injected_at == 0)
		return injected;
	if (evictions > 0) {
		evictions--;
		evict();
	}
	return raw(trap);
}

static bool open_all(void)
{
	struct lh_page_options page_options = { .engine = LH_ENGINE_INLINE, .device = -1 };
	struct lh_home_options options = { .policy = lh__policy_find(NULL),
		                           .frames = LOCAL_PAGES + 64,
		                           .limit = LOCAL_PAGES,
		                           .stats = &stats,
		                           .stall_limit_ns = 10000000000u };
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	struct lh_error error = { 0 };

	sigfillset(&action.sa_mask);
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	if (lh__page_open(&lh__sys_default, &page_options, &port, &error) < 0) {
		skip("all", error.text);
		return false;
	}
	if (lh__memory_pool_open(&lh__sys_default, 0, &pool) < 0 || lh__memory_open(pool, &store) < 0)
		return ok(0, "opens the store");
	options.port = port;
	options.store = store;
	if (lh__home_open(&lh__sys_default, &options, &home) < 0)
		return ok(0, "opens the home");
	region = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
	              0);
	plain_region = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	                    -1, 0);
	lh__home_change_begin(home);
	if (lh__home_watch(home, (uintptr_t)region, (uintptr_t)region + REGION) < 0)
		return ok(0, "watches");
	lh__home_change_end(home);
	buffers = (struct lh_buffers){ .sys = &lh__sys_default,
		                       .home = home,
		                       .hold_limit = HOLD_LIMIT,
		                       .proceed = proceed,
		                       .copy = copy };
	return true;
}

/* ---- calls and what is noted of them ---- */

static uint64_t noted[2], notes[2];
static long results[2][256];

static void note(long value)
{
	if (notes[under] < 256)
		results[under][notes[under]] = value;
	notes[under]++;
	noted[under] = (noted[under] ^ (uint64_t)value) * 0x9e3779b97f4a7c15u;
	noted[under] ^= noted[under] >> 29;
}

static void note_bytes(const void *bytes, size_t size)
{
	uint64_t sum = 1;

	for (size_t i = 0; i < size; i++)
		sum = (sum ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
	note((long)sum);
}

/* The system call as the program would make it; in the second run, with all watched memory away. */
static long call6(long nr, const long a[6])
{
	struct lh_trap trap = { .nr = nr };
	struct lh_trap asked;
	long result;

	memcpy(trap.argument, a, sizeof trap.argument);
	asked = trap;
	if (!under)
		return raw(&trap);
	evict();
	evictions = lh__operands(nr)->class == LH_CALL_LOOSE || lh__operands(nr)->class == LH_CALL_EXECUTE
	                    ? 3
	                    : 1000;
	result = lh__buffers_call(&buffers, &trap);
	evictions = 0;
	if (memcmp(&trap, &asked, sizeof trap) != 0)
		note(-77777);
	return result;
}
#define A(x) (long)(x)
#define ARGS(nr, a, b, c, d, e, f, ...) call6(nr, (const long[6]){ A(a), A(b), A(c), A(d), A(e), A(f) })
#define CALL(...) ARGS(__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define NOTE(...) note(CALL(__VA_ARGS__))

/*
 * Places in the arena, each in pages of its own, and at their ends: what does not fit goes over into the
 * next.
 */
static void *place(unsigned n)
{
	return arena + n * 4 * 4096ul + 4096 - 8;
}
static char *text(unsigned n, const char *what)
{
	return strcpy(place(n), what);
}
static void fill(void *to, size_t size, unsigned seed)
{
	for (size_t i = 0; i < size; i++)
		((unsigned char *)to)[i] = (unsigned char)((i * 31 + i / 251 + seed) & 255);
}

static char folder[] = "/tmp/agent_buffers.XXXXXX";
static char path_buffer[256];

static const char *path(const char *name)
{
	snprintf(path_buffer, sizeof path_buffer, "%s/%s", folder, name);
	return path_buffer;
}

static int new_file(void)
{
	return open(path("file"), O_RDWR | O_CREAT | O_TRUNC, 0600);
}

/* ---- the cases ---- */

static void case_files(void)
{
	int fd = new_file();
	struct iovec *v = place(9);

	fill(place(0), 9000, 1);
	NOTE(SYS_write, fd, place(0), 9000);
	NOTE(SYS_pread64, fd, place(4), 8000, 100);
	note_bytes(place(4), 8000);
	NOTE(SYS_pwrite64, fd, place(4), 5000, 20000);
	NOTE(SYS_lseek, fd, 0, SEEK_SET);
	NOTE(SYS_read, fd, place(12), 12000);
	note_bytes(place(12), 12000);
	for (int i = 0; i < 3; i++)
		v[i] = (struct iovec){ place(20 + 3 * (unsigned)i), 5000 };
	NOTE(SYS_preadv, fd, v, 3, 17);
	NOTE(SYS_pwritev, fd, v, 2, 30000);
	NOTE(SYS_lseek, fd, 0, SEEK_SET);
	NOTE(SYS_readv, fd, v, 3);
	NOTE(SYS_writev, fd, v, 3);
	NOTE(SYS_preadv2, fd, v, 3, -1, 0, 0);
	NOTE(SYS_pwritev2, fd, v, 3, 7, 0, 0);
	NOTE(SYS_preadv2, fd, v, 3, 3, 0, 0);
	for (int i = 0; i < 3; i++)
		note_bytes(v[i].iov_base, 5000);
	close(fd);
}

static void case_offsets(void)
{
	int a = new_file(), b = open(path("other"), O_RDWR | O_CREAT | O_TRUNC, 0600), p[2];
	loff_t *in = place(0), *out = place(3);

	note(pipe(p));
	fill(place(5), 6000, 3);
	NOTE(SYS_write, a, place(5), 6000);
	*in = 100;
	*out = 7;
	NOTE(SYS_copy_file_range, a, in, b, out, 3000, 0);
	NOTE(SYS_sendfile, b, a, in, 500);
	NOTE(SYS_splice, a, in, p[1], 0, 1000, 0);
	NOTE(SYS_splice, p[0], 0, b, out, 1000, 0);
	note(*in);
	note(*out);
	NOTE(SYS_pread64, b, place(9), 5000, 0);
	note_bytes(place(9), 5000);
	close(a), close(b), close(p[0]), close(p[1]);
}

static void case_pipes(void)
{
	struct iovec *v = place(9);
	int *p = place(0), e, other[2];

	NOTE(SYS_pipe2, p, 0);
	fill(place(2), 5000, 5);
	NOTE(SYS_write, p[1], place(2), 5000);
	NOTE(SYS_read, p[0], place(5), 9000);
	note_bytes(place(5), 5000);
	v[0] = (struct iovec){ place(2), 5000 };
	v[1] = (struct iovec){ place(5), 3000 };
	NOTE(SYS_vmsplice, p[1], v, 2, 0);
	v[0].iov_base = place(12);
	NOTE(SYS_vmsplice, p[0], v, 2, 0);
	note_bytes(place(12), 5000);
	note_bytes(place(5), 3000);
	v[1] = (struct iovec){ arena + MIB, 512 << 10 };
	NOTE(SYS_vmsplice, p[1], v + 1, 1, SPLICE_F_NONBLOCK); /* as much as there is room for */
	NOTE(SYS_vmsplice, p[1], v, 1, SPLICE_F_NONBLOCK);
	NOTE(SYS_vmsplice, p[1], v, 1, 99);
	NOTE(SYS_vmsplice, p[1], v, -1l, 0);
	NOTE(SYS_vmsplice, e = new_file(), v, 1, 0);
	close(e), close(p[0]);
	signal(SIGPIPE, SIG_IGN);
	NOTE(SYS_vmsplice, p[1], v, 1, 0);
	close(p[1]);
	note(pipe(p) | pipe(other));
	NOTE(SYS_vmsplice, p[1], v, 1, 0); /* once more, where splice and tee were before */
	NOTE(SYS_splice, p[0], 0, other[1], 0, 5000, 0);
	NOTE(SYS_vmsplice, other[1], v, 1, 0);
	NOTE(SYS_read, other[0], place(16), 12000);
	note_bytes(place(16), 10000);
	close(p[0]), close(p[1]), close(other[0]), close(other[1]);
	e = (int)syscall(SYS_eventfd2, 0, 0);
	*(uint64_t *)place(0) = 41;
	NOTE(SYS_write, e, place(0), 8);
	NOTE(SYS_read, e, place(3), 8);
	note(*(long *)place(3));
	close(e);
}

static void case_datagrams(void)
{
	struct sockaddr_un *name = place(0), *from = place(3);
	socklen_t *size = place(6);
	int s[2], named = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct mmsghdr *m = place(18);
	struct iovec *v = place(21);
	struct timespec *t = place(24);

	note(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s));
	fill(place(8), 9000, 8);
	name->sun_family = AF_UNIX;
	snprintf(name->sun_path, 100, "%c%s", 0, "agent-buffers");
	snprintf(name->sun_path + 1, 90, "agent-buffers-%d", getpid());
	NOTE(SYS_bind, named, name, 30);
	for (int i = 0; i < 3; i++)
		NOTE(SYS_sendto, s[0], place(8), 6000 + i, 0, name, 30);
	for (int i = 0; i < 4; i++) {
		*size = sizeof *from;
		NOTE(SYS_recvfrom, named, place(12), 9000, 0, from, size);
		note(*size);
	}
	note_bytes(place(12), 6000);
	*t = (struct timespec){ 1, 0 };
	for (int i = 0; i < 4; i++) {
		v[i] = (struct iovec){ place(30 + 3 * (unsigned)i), 5000 };
		fill(v[i].iov_base, 5000, (unsigned)i);
		m[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &v[i], .msg_iovlen = 1 } };
	}
	NOTE(SYS_sendmmsg, s[0], m, 4, 0);
	for (int i = 0; i < 4; i++)
		memset(v[i].iov_base, 0, 5000);
	NOTE(SYS_recvmmsg, s[1], m, 4, 0, t);
	for (int i = 0; i < 4; i++) {
		note(m[i].msg_len);
		note_bytes(v[i].iov_base, 5000);
	}
	NOTE(SYS_recvfrom, s[1], place(12), 9000, 0, 0, 0);
	close(s[0]), close(s[1]), close(named);
}

static void case_messages(void)
{
	struct msghdr *m = place(0);
	struct iovec *v = place(3);
	struct cmsghdr *control = place(6);
	int s[2], fd = new_file(), *passed;

	note(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s));
	fill(place(9), 9000, 9);
	v[0] = (struct iovec){ place(9), 5000 };
	v[1] = (struct iovec){ place(12), 4000 };
	*control = (struct cmsghdr){ CMSG_LEN(4), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(control), &fd, 4);
	*m = (struct msghdr){
		.msg_iov = v, .msg_iovlen = 2, .msg_control = control, .msg_controllen = CMSG_SPACE(4)
	};
	NOTE(SYS_sendmsg, s[0], m, 0);
	memset(control, 0, 64);
	v[0].iov_base = place(20);
	v[1].iov_base = place(24);
	NOTE(SYS_recvmsg, s[1], m, 0);
	note_bytes(place(20), 5000);
	note((long)m->msg_controllen);
	passed = (int *)CMSG_DATA(control);
	note(fcntl(*passed, F_GETFD));
	close(*passed), close(fd), close(s[0]), close(s[1]);
}

static void case_sockets(void)
{
	struct sockaddr_in *name = place(0), *peer = place(3);
	socklen_t *size = place(6);
	int *value = place(9), server = socket(AF_INET, SOCK_STREAM, 0),
	    client = socket(AF_INET, SOCK_STREAM, 0), *pair = place(12);
	long got;

	*name = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	NOTE(SYS_bind, server, name, sizeof *name);
	*size = sizeof *name;
	NOTE(SYS_getsockname, server, name, size);
	note(*size);
	note(listen(server, 3));
	NOTE(SYS_connect, client, name, sizeof *name);
	*size = sizeof *peer;
	got = CALL(SYS_accept4, server, peer, size, 0);
	note(got >= 0);
	note(peer->sin_family);
	NOTE(SYS_getpeername, client, name, size);
	*value = 1;
	NOTE(SYS_setsockopt, client, IPPROTO_TCP, 1, value, 4);
	*value = 0;
	*size = 4;
	NOTE(SYS_getsockopt, client, IPPROTO_TCP, 1, value, size);
	note(*value);
	NOTE(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, pair);
	note(fcntl(pair[0], F_GETFD) | fcntl(pair[1], F_GETFD));
	NOTE(SYS_ioctl, client, FIONREAD, value);
	note(*value);
	close(server), close(client), close((int)got), close(pair[0]), close(pair[1]);
}

static void case_names(void)
{
	struct stat *s = place(3);
	char *a = text(0, path("a")), *b = text(6, path("b"));
	int fd = (int)CALL(SYS_openat, AT_FDCWD, a, O_RDWR | O_CREAT | O_TRUNC, 0640);

	note(fd >= 0);
	NOTE(SYS_stat, a, s);
	note(s->st_mode);
	NOTE(SYS_fstat, fd, s);
	NOTE(SYS_newfstatat, AT_FDCWD, a, s, 0);
	note(s->st_size);
	NOTE(SYS_statx, AT_FDCWD, a, 0, 0x7ff, place(9));
	note(((uint16_t *)place(9))[14]);
	NOTE(SYS_rename, a, b);
	NOTE(SYS_access, a, F_OK);
	NOTE(SYS_symlink, b, a);
	NOTE(SYS_readlink, a, place(12), 200);
	note_bytes(place(12), strlen(b));
	NOTE(SYS_statfs, b, place(15));
	NOTE(SYS_setxattr, b, text(18, "user.x"), text(21, "value"), 5, 0);
	NOTE(SYS_getxattr, b, place(18), place(24), 100);
	NOTE(SYS_chmod, b, 0600);
	NOTE(SYS_truncate, b, 77);
	NOTE(SYS_unlink, a);
	NOTE(SYS_unlink, b);
	NOTE(SYS_mkdir, a, 0700);
	NOTE(SYS_rmdir, a);
	note(CALL(SYS_getcwd, place(27), 4096) > 0);
	NOTE(SYS_unlink, b);
	fd = (close(fd), open("/proc/self/ns", O_RDONLY | O_DIRECTORY));
	note(CALL(SYS_getdents64, fd, place(30), 9000));
	note(CALL(SYS_getdents64, fd, place(30), 9000));
	close(fd);
	fd = (int)CALL(SYS_memfd_create, text(0, "name"), 0);
	note(fd >= 0);
	close(fd);
	NOTE(SYS_mount, text(0, "none"), text(3, "/nonexistent"), text(6, "tmpfs"), 0, text(9, "size=1M"));
}

static void *write_later(void *descriptor)
{
	usleep(30000);
	return (void *)write(*(int *)descriptor, "x", 1);
}

static void case_waiting(void)
{
	struct pollfd *f = place(0);
	fd_set *set = place(3);
	struct timespec *t = place(6);
	long *mask = place(9), *pair = place(12);
	struct epoll_event *event = place(15), *events = place(18);
	int p[2], e = epoll_create1(0);
	pthread_t thread;

	note(pipe(p));
	*f = (struct pollfd){ .fd = p[0], .events = POLLIN };
	*t = (struct timespec){ 0, 1000000 };
	NOTE(SYS_poll, f, 1, 1);
	NOTE(SYS_ppoll, f, 1, t, mask, 8);
	*event = (struct epoll_event){ .events = EPOLLIN, .data.u64 = 99 };
	NOTE(SYS_epoll_ctl, e, EPOLL_CTL_ADD, p[0], event);
	NOTE(SYS_epoll_wait, e, events, 10, 1);
	pthread_create(&thread, NULL, write_later, &p[1]);
	NOTE(SYS_epoll_wait, e, events, 10, 5000);
	note((long)events->data.u64);
	NOTE(SYS_epoll_pwait, e, events, 10, 5000, mask, 8);
	pthread_join(thread, NULL);
	NOTE(SYS_poll, f, 1, 5000);
	note(f->revents);
	*t = (struct timespec){ 5, 0 };
	NOTE(SYS_ppoll, f, 1, t, mask, 8);
	note(t->tv_sec);
	FD_ZERO(set);
	FD_SET(p[0], set);
	FD_SET(e, set);
	pair[0] = (long)mask;
	pair[1] = 8;
	NOTE(SYS_pselect6, 64, set, 0, 0, t, pair);
	note_bytes(set, 8);
	NOTE(SYS_select, 64, set, 0, 0, t);
	note_bytes(set, 8);
	close(p[0]), close(p[1]), close(e);
}

static void *wake_later(void *word)
{
	usleep(30000);
	__atomic_store_n((int *)word, 1, __ATOMIC_SEQ_CST);
	while (lh__raw_syscall(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) == 0)
		usleep(1000);
	return NULL;
}

static void case_futex(void)
{
	int *word = place(0);
	struct timespec *t = place(3);
	struct {
		uint64_t value, address;
		uint32_t flags, reserved;
	} *waits = place(6);
	pthread_t thread;

	*word = 0;
	*t = (struct timespec){ 0, 1000000 };
	NOTE(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, t, 0, 0);
	NOTE(SYS_futex, word, FUTEX_WAIT_PRIVATE, 5, t, 0, 0);
	NOTE(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	NOTE(SYS_futex, word, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 1, 1, place(9),
	     FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 0));
	note(*(int *)place(9));
	waits[0].value = 1, waits[0].address = (uintptr_t)word, waits[0].flags = 0x82, waits[0].reserved = 0;
	NOTE(449 /* futex_waitv */, waits, 1, 0, 0, CLOCK_MONOTONIC);
	pthread_create(&thread, NULL, wake_later, word);
	note(CALL(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0) <= 0);
	pthread_join(thread, NULL);
}

static void case_time(void)
{
	struct timespec *t = place(0), *rest = place(3);
	struct itimerspec *i = place(6), *old = place(9);
	struct itimerval *v = place(12), *was = place(15);
	struct sigevent *event = place(18);
	int *timer = place(21);

	*t = (struct timespec){ 0, 1000 };
	NOTE(SYS_nanosleep, t, rest);
	NOTE(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, t, rest);
	NOTE(SYS_clock_gettime, CLOCK_REALTIME, t);
	note(t->tv_sec > 1000000);
	NOTE(SYS_clock_getres, CLOCK_REALTIME, t);
	note(CALL(SYS_gettimeofday, t, 0));
	note(CALL(SYS_times, place(24)) > 0);
	*v = (struct itimerval){ { 0, 0 }, { 1000, 0 } };
	NOTE(SYS_setitimer, ITIMER_VIRTUAL, v, 0);
	*v = (struct itimerval){ { 0, 0 }, { 0, 0 } };
	NOTE(SYS_setitimer, ITIMER_VIRTUAL, v, was);
	note(was->it_value.tv_sec > 900);
	memset(event, 0, sizeof *event);
	event->sigev_notify = SIGEV_NONE;
	NOTE(SYS_timer_create, CLOCK_MONOTONIC, event, timer);
	*i = (struct itimerspec){ { 0, 0 }, { 5000, 0 } };
	NOTE(SYS_timer_settime, *timer, 0, i, 0);
	NOTE(SYS_timer_settime, *timer, 0, i, old);
	note(old->it_value.tv_sec > 4000);
	NOTE(SYS_timer_gettime, *timer, old);
	NOTE(SYS_timer_delete, *timer);
}

static pid_t child_that_exits(int status)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(status);
	return pid;
}

static void case_children(void)
{
	int *status = place(0);
	siginfo_t *info = place(6);
	struct rusage *usage = place(3);
	pid_t pid = child_that_exits(7);

	note(CALL(SYS_wait4, pid, status, 0, usage) == pid);
	note(WEXITSTATUS(*status));
	pid = child_that_exits(8);
	NOTE(SYS_waitid, P_PID, pid, info, WEXITED, usage);
	note(info->si_status);
	NOTE(SYS_waitid, P_PID, pid, info, WEXITED, usage);
}

/*
 * vfork: the child shares the memory and its home. A plain fork would have to be followed by
 * lh__home_fork_child.
 */
static void case_exec(void)
{
	char **arguments = place(0), **environment = place(3);
	char *shell = text(6, "/bin/sh"), *minus = text(9, "-c");
	char *line = text(12, "test \"$WORD\" = right && exit 43; exit 1"), *word = text(15, "WORD=right");
	volatile long result = 0;
	int status = -1;
	pid_t pid;

	arguments[0] = shell, arguments[1] = minus, arguments[2] = line, arguments[3] = NULL;
	environment[0] = word, environment[1] = NULL;
	pid = vfork();
	if (pid == 0) {
		result = CALL(SYS_execve, shell, arguments, environment);
		_exit(9);
	}
	evictions = 0;
	waitpid(pid, &status, 0);
	note(status);
	note(result);
}

static void case_signals(void)
{
	uint64_t *mask = place(0), *old = place(3);
	siginfo_t *info = place(6);
	struct timespec *t = place(9);
	struct signalfd_siginfo *read_info = place(12);
	sigset_t usr;
	int fd;

	sigemptyset(&usr);
	sigaddset(&usr, SIGUSR1);
	*mask = 1u << (SIGUSR1 - 1);
	*t = (struct timespec){ 1, 0 };
	NOTE(SYS_rt_sigprocmask, SIG_BLOCK, mask, old, 8);
	kill(getpid(), SIGUSR1);
	NOTE(SYS_rt_sigpending, place(15), 8);
	note(*(long *)place(15) & 1l << (SIGUSR1 - 1));
	NOTE(SYS_rt_sigtimedwait, mask, info, t, 8);
	note(info->si_signo);
	fd = (int)CALL(SYS_signalfd4, -1, mask, 8, 0);
	kill(getpid(), SIGUSR1);
	NOTE(SYS_read, fd, read_info, 4096);
	NOTE(SYS_rt_sigprocmask, SIG_SETMASK, old, 0, 8);
	close(fd);
}

static void case_information(void)
{
	struct rlimit *r = place(0), *old = place(3);
	uint64_t *set = place(6);

	NOTE(SYS_getrlimit, RLIMIT_NOFILE, r);
	NOTE(SYS_prlimit64, 0, RLIMIT_NOFILE, r, old);
	note((long)old->rlim_cur);
	NOTE(SYS_sysinfo, place(9));
	note(((struct sysinfo *)place(9))->totalram > 0);
	NOTE(SYS_uname, place(12));
	note_bytes(place(12), sizeof(struct utsname));
	NOTE(SYS_getrusage, 0, place(15));
	note(CALL(SYS_sched_getaffinity, 0, 128, set) > 0);
	note(CALL(SYS_sched_setaffinity, 0, 128, set));
	NOTE(SYS_getcpu, place(18), place(21), 0);
	note(CALL(SYS_getgroups, 1000, place(24)) >= 0);
	NOTE(SYS_getresuid, place(27), place(30), place(33));
	NOTE(SYS_prctl, 15 /* PR_SET_NAME */, text(0, "buffers"), 0, 0, 0);
	NOTE(SYS_prctl, 16, place(3), 0, 0, 0);
	note_bytes(place(3), 8);
	NOTE(SYS_getrandom, place(36), 9000, 0);
	NOTE(SYS_mincore, plain_region, 8 * 4096, place(39));
	NOTE(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, place(39));
	note(*(long *)place(39) != 0);
}

static void case_queues(void)
{
	struct {
		long type;
		char bytes[6000];
	} *m = place(0);
	int queue = msgget(IPC_PRIVATE, 0600), semaphores = semget(IPC_PRIVATE, 2, 0600);
	struct sembuf *operation = place(6);
	struct mq_attr *attributes = place(9);
	char *name = text(12, "agent-buffers");
	int mq;

	m->type = 3;
	fill(m->bytes, 6000, 4);
	NOTE(SYS_msgsnd, queue, m, 6000, 0);
	memset(m, 0, sizeof *m);
	NOTE(SYS_msgrcv, queue, m, 6000, 0, IPC_NOWAIT);
	NOTE(SYS_msgrcv, queue, m, 6000, 0, IPC_NOWAIT);
	note(m->type);
	note_bytes(m->bytes, 6000);
	*operation = (struct sembuf){ 1, 5, 0 };
	NOTE(SYS_semop, semaphores, operation, 1);
	NOTE(SYS_semctl, semaphores, 0, GETALL, place(15));
	note_bytes(place(15), 4);
	NOTE(SYS_msgctl, queue, IPC_STAT, place(18));
	msgctl(queue, IPC_RMID, NULL), semctl(semaphores, 0, IPC_RMID);
	*attributes = (struct mq_attr){ .mq_maxmsg = 2, .mq_msgsize = 5000 };
	mq = (int)CALL(SYS_mq_open, name, O_RDWR | O_CREAT | O_NONBLOCK, 0600, attributes);
	note(mq >= 0);
	NOTE(SYS_mq_timedsend, mq, m->bytes, 5000, 3, 0);
	NOTE(SYS_mq_timedreceive, mq, place(24), 5000, place(30), 0);
	note_bytes(place(24), 5000);
	NOTE(SYS_mq_getsetattr, mq, 0, place(33));
	NOTE(SYS_mq_unlink, name);
	close(mq);
}

static void case_other_memory(void)
{
	struct iovec *local = place(0), *remote = place(3);

	fill(place(6), 6000, 11);
	*local = (struct iovec){ place(12), 6000 };
	*remote = (struct iovec){ place(6), 6000 };
	NOTE(SYS_process_vm_readv, getpid(), local, 1, remote, 1, 0);
	note_bytes(place(12), 6000);
	NOTE(SYS_process_vm_writev, getpid(), remote, 1, local, 1, 0);
}

static void case_own_memory(void)
{
	int fd = open("/proc/self/mem", O_RDWR);

	note(fd >= 0);
	fill(place(0), 9000, 15);
	NOTE(SYS_pread64, fd, place(6), 9000, place(0));
	note_bytes(place(6), 9000);
	fill(place(6), 9000, 16);
	NOTE(SYS_pwrite64, fd, place(6), 9000, place(0));
	note_bytes(place(0), 9000);
	note(lseek(fd, (off_t)place(0), SEEK_SET) == (off_t)place(0));
	NOTE(SYS_read, fd, place(12), 8);
	note_bytes(place(12), 8);
	NOTE(SYS_pread64, fd, place(6), 9000, 8);
	close(fd);
}

static void case_aio(void)
{
	aio_context_t *context = place(0);
	struct iocb *block = place(3), **blocks = place(6);
	struct io_event *events = place(9);
	struct timespec *t = place(12);
	int fd = new_file();

	*context = 0;
	NOTE(SYS_io_setup, 4, context);
	fill(place(15), 6000, 12);
	memset(block, 0, sizeof *block);
	block->aio_lio_opcode = IOCB_CMD_PWRITE;
	block->aio_fildes = (uint32_t)fd;
	block->aio_buf = (uintptr_t)place(15);
	block->aio_nbytes = 6000;
	blocks[0] = block;
	*t = (struct timespec){ 5, 0 };
	NOTE(SYS_io_submit, *context, 1, blocks);
	NOTE(SYS_io_getevents, *context, 1, 4, events, t);
	note(events->res);
	block->aio_lio_opcode = IOCB_CMD_PREAD;
	block->aio_buf = (uintptr_t)place(20);
	NOTE(SYS_io_submit, *context, 1, blocks);
	NOTE(SYS_io_getevents, *context, 1, 4, events, t);
	note_bytes(place(20), 6000);
	NOTE(SYS_io_destroy, *context);
	close(fd);
}

static void case_control(void)
{
	struct winsize *size = place(0);
	struct termios *term = place(3);
	struct flock *lock = place(6);
	struct ifconf *list = place(9);
	int terminal = posix_openpt(O_RDWR | O_NOCTTY), fd = new_file(), s = socket(AF_INET, SOCK_DGRAM, 0);

	*size = (struct winsize){ 33, 44, 0, 0 };
	NOTE(SYS_ioctl, terminal, TIOCSWINSZ, size);
	memset(size, 0, sizeof *size);
	NOTE(SYS_ioctl, terminal, TIOCGWINSZ, size);
	note(size->ws_col);
	NOTE(SYS_ioctl, terminal, TCGETS, term);
	*lock = (struct flock){ .l_type = F_WRLCK };
	NOTE(SYS_fcntl, fd, F_SETLK, lock);
	NOTE(SYS_fcntl, fd, F_GETLK, lock);
	note(lock->l_type);
	*list = (struct ifconf){ .ifc_len = 4000, .ifc_buf = place(12) };
	NOTE(SYS_ioctl, s, SIOCGIFCONF, list);
	note(list->ifc_len);
	note_bytes(place(12), (size_t)list->ifc_len);
	close(terminal), close(fd), close(s);
}

/* Wrong addresses: the kernel's answer, whatever is watched. */
static void case_faults(void)
{
	char *hole = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = new_file(), p[2], s[2];
	struct iovec *v = place(0);

	munmap(hole, 8192);
	note(pipe(p) | socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s));
	fill(place(3), 5000, 1);
	NOTE(SYS_write, fd, hole, 100);
	NOTE(SYS_write, fd, place(3), 5000);
	NOTE(SYS_pread64, fd, hole, 100, 0);
	NOTE(SYS_read, p[0], 8, 0);
	NOTE(SYS_write, p[1], hole, 1);
	NOTE(SYS_sendto, s[0], hole, 10, 0, 0, 0);
	NOTE(SYS_recvfrom, s[1], hole, 10, 0, 0, 0);
	NOTE(SYS_stat, hole, place(6));
	NOTE(SYS_stat, "/", hole);
	NOTE(SYS_stat, 0, 0);
	NOTE(SYS_stat, "/", -1);
	NOTE(SYS_openat, AT_FDCWD, 1ul << 62, 0);
	NOTE(SYS_poll, hole, 3, 0);
	NOTE(SYS_futex, hole, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
	NOTE(SYS_execve, hole, 0, 0);
	NOTE(SYS_clock_gettime, 0, hole);
	NOTE(SYS_uname, hole);
	NOTE(SYS_recvmsg, s[1], hole, 0);
	NOTE(SYS_pipe2, hole, 0);
	NOTE(SYS_getcwd, hole, 4096);
	NOTE(SYS_epoll_ctl, fd, EPOLL_CTL_ADD, fd, hole);
	v[0] = (struct iovec){ place(3), 100 };
	v[1] = (struct iovec){ hole, 100 };
	NOTE(SYS_writev, fd, v, 2);
	NOTE(SYS_writev, fd, v, 5000);
	NOTE(SYS_writev, fd, hole, 2);
	NOTE(SYS_readv, fd, v, -1);
	NOTE(SYS_rt_sigprocmask, SIG_BLOCK, hole, 0, 8);
	NOTE(SYS_wait4, -1, hole, WNOHANG, 0);
	NOTE(SYS_read, fd, place(3), -1l);
	NOTE(SYS_ioctl, p[0], FIONREAD, hole);
	/* Into the last page of a mapping, and past its end. */
	NOTE(SYS_lseek, fd, 0, SEEK_SET);
	NOTE(SYS_pread64, fd, arena + REGION - 100, 100, 0);
	close(fd), close(p[0]), close(p[1]), close(s[0]), close(s[1]);
}

/* ---- large buffers ---- */

static char *large(int n)
{
	return arena + 2 * MIB + 100 + (size_t)n * (LARGE + MIB);
}

static void case_large_file(void)
{
	int fd = new_file();
	struct iovec *v = place(0);
	struct rlimit old, small = { 5 * MIB + 1000, RLIM_INFINITY };

	fill(large(0), LARGE, 21);
	NOTE(SYS_write, fd, large(0), LARGE);
	NOTE(SYS_pread64, fd, large(1), LARGE, 1000); /* 1000 bytes short */
	note_bytes(large(1), LARGE - 1000);
	NOTE(SYS_lseek, fd, 0, SEEK_SET);
	NOTE(SYS_read, fd, large(1), LARGE);
	note_bytes(large(1), LARGE);
	NOTE(SYS_lseek, fd, 0, SEEK_CUR);
	for (unsigned i = 0; i < 300; i++)
		v[i] = (struct iovec){ large(0) + (299 - i) * 50001, i % 7 == 3 ? 0 : 50001 };
	NOTE(SYS_pwritev, fd, v, 300, 77);
	NOTE(SYS_lseek, fd, 0, SEEK_SET);
	for (unsigned i = 0; i < 300; i++)
		v[i].iov_base = large(1) + i * 50001;
	NOTE(SYS_readv, fd, v, 300);
	note_bytes(large(1), 300 * 50001);
	getrlimit(RLIMIT_FSIZE, &old);
	small.rlim_max = old.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	note(ftruncate(fd, 0));
	setrlimit(RLIMIT_FSIZE, &small);
	NOTE(SYS_pwrite64, fd, large(0), LARGE, 0); /* up to the limit */
	NOTE(SYS_pwrite64, fd, large(0), LARGE, small.rlim_cur);
	setrlimit(RLIMIT_FSIZE, &old);
	NOTE(SYS_getrandom, large(1), 3 * MIB, 0);
	close(fd);
	fd = open("/dev/zero", O_RDONLY);
	NOTE(SYS_read, fd, large(1), 3 * MIB);
	note_bytes(large(1), 3 * MIB);
	close(fd);
	fd = open(path("direct"), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
	if (fd >= 0) {
		NOTE(SYS_pwrite64, fd, arena + 4 * MIB, 4 * MIB, 0);
		NOTE(SYS_pread64, fd, arena + 20 * MIB, 4 * MIB, 0);
		note_bytes(arena + 20 * MIB, 4 * MIB);
		close(fd);
	}
}

struct flow {
	int in, out;
	uint64_t sum, size;
};

/* The other end, in plain memory. */
static void *drain(void *argument)
{
	struct flow *flow = argument;
	static char bytes[65536];
	ssize_t n;

	flow->sum = 1;
	while ((n = read(flow->in, bytes, sizeof bytes)) > 0) {
		flow->size += (uint64_t)n;
		for (ssize_t i = 0; i < n; i++)
			flow->sum = (flow->sum ^ (unsigned char)bytes[i]) * 0x100000001b3u;
	}
	return NULL;
}

static void *pour(void *argument)
{
	struct flow *flow = argument;
	static char bytes[LARGE];
	size_t done = 0;

	fill(bytes, LARGE, 33);
	while (done < LARGE) {
		ssize_t n = write(flow->out, bytes + done, LARGE - done);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	close(flow->out);
	return NULL;
}

static void send_large(int in, int out, bool is_socket)
{
	struct flow flow = { in, out, 0, 0 };
	struct iovec *v = place(0);
	struct msghdr *m = place(40);
	pthread_t thread;

	pthread_create(&thread, NULL, drain, &flow);
	NOTE(SYS_write, out, large(0), LARGE);
	for (unsigned i = 0; i < 100; i++)
		v[i] = (struct iovec){ large(0) + i * 50000, 50000 };
	*m = (struct msghdr){ .msg_iov = v, .msg_iovlen = 100 };
	NOTE(SYS_writev, out, v, 100);
	if (is_socket) {
		NOTE(SYS_sendto, out, large(0), LARGE, 0, 0, 0);
		NOTE(SYS_sendmsg, out, m, 0);
	}
	close(out);
	pthread_join(thread, NULL);
	close(in);
	note((long)flow.size);
	note((long)flow.sum);
}

/* May come in pieces of any size. */
static void receive_large(int in, int out, int flags)
{
	struct flow flow = { in, out, 0, 0 };
	pthread_t thread;
	size_t done = 0;
	long n;

	pthread_create(&thread, NULL, pour, &flow);
	if (flags)
		NOTE(SYS_recvfrom, in, large(1), done = LARGE, flags, 0, 0);
	else
		while ((n = CALL(SYS_read, in, large(1) + done, LARGE)) > 0)
			done += (size_t)n;
	pthread_join(thread, NULL);
	note((long)done);
	note_bytes(large(1), LARGE);
	close(in);
}

static void receive_message_large(int in, int out)
{
	struct flow flow = { in, out, 0, 0 };
	struct msghdr *m = place(40);
	struct iovec *v = place(44);
	pthread_t thread;

	*v = (struct iovec){ large(1), LARGE };
	*m = (struct msghdr){ .msg_iov = v, .msg_iovlen = 1, .msg_flags = 77 };
	pthread_create(&thread, NULL, pour, &flow);
	NOTE(SYS_recvmsg, in, m, MSG_WAITALL);
	note(m->msg_flags);
	note_bytes(large(1), LARGE);
	pthread_join(thread, NULL);
	close(in);
}

static void case_large_streams(void)
{
	int p[2];

	fill(large(0), LARGE, 22);
	note(pipe(p));
	send_large(p[0], p[1], false);
	note(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	send_large(p[0], p[1], true);
	note(pipe(p));
	receive_large(p[0], p[1], 0);
	note(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	receive_large(p[0], p[1], MSG_WAITALL);
	note(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	receive_message_large(p[0], p[1]);
}

static void run_once(void (*body)(void), bool is_under)
{
	under = is_under;
	arena = is_under ? region : plain_region;
	noted[under] = notes[under] = 0;
	body();
	under = false;
}

static bool run_both(const char *name, void (*body)(void))
{
	run_once(body, false);
	run_once(body, true);
	for (uint64_t i = 0; i < notes[0] && i < notes[1] && i < 256; i++)
		if (results[0][i] != results[1][i])
			printf("# %s: note %lu: plainly %ld, here %ld\n", name, (unsigned long)i,
			       results[0][i], results[1][i]);
	return noted[0] == noted[1] && notes[0] == notes[1] && notes[0] > 0;
}

static const struct {
	const char *name;
	void (*body)(void);
} cases[] = {
	{ "files", case_files },
	{ "offsets", case_offsets },
	{ "pipes, vmsplice, eventfd", case_pipes },
	{ "datagrams", case_datagrams },
	{ "messages and passed descriptors", case_messages },
	{ "sockets and their addresses", case_sockets },
	{ "names", case_names },
	{ "poll, select, epoll", case_waiting },
	{ "futex", case_futex },
	{ "time", case_time },
	{ "children", case_children },
	{ "exec", case_exec },
	{ "signals", case_signals },
	{ "information", case_information },
	{ "queues", case_queues },
	{ "process_vm_readv", case_other_memory },
	{ "/proc/self/mem", case_own_memory },
	{ "asynchronous I/O", case_aio },
	{ "ioctl and fcntl", case_control },
	{ "wrong addresses", case_faults },
	{ "large buffers and files", case_large_file },
	{ "large buffers and streams", case_large_streams },
};

static void test_cases(void)
{
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		ok(run_both(cases[i].name, cases[i].body), "%s: the same as without paging", cases[i].name);
		if (kept_bytes() != 0)
			ok(0, "%s: everything is given up again", cases[i].name);
	}
	ok(most_kept <= HOLD_LIMIT && most_kept > HOLD_LIMIT / 2, "no call kept more than its limit: %zu KiB",
	   most_kept >> 10);
	ok(buffers.counts.early > 100 && buffers.counts.repeated > 60 && buffers.counts.parts > 60,
	   "in each way: %lu early, %lu repeated, %lu parts", (unsigned long)buffers.counts.early,
	   (unsigned long)buffers.counts.repeated, (unsigned long)buffers.counts.parts);
}

/* ---- that the test can fail ---- */

static long plain_call(struct lh_buffers *self, long nr, long a, long b, long c)
{
	struct lh_trap trap = { .nr = nr, .argument = { a, b, c } };

	return self ? lh__buffers_call(self, &trap) : raw(&trap);
}

static int touches_left_out; /* so many touches do nothing, and say that all is well */

static int touch_carelessly(void *to, const void *from, size_t size)
{
	return size == 1 && touches_left_out-- > 0 ? 0 : copy(to, from, size);
}

static void test_planted(void)
{
	struct lh_buffers without = buffers;
	int fd = new_file();

	is(write(fd, "12345678", 8), 8, "a file is written");
	memset(region, 1, 3 * 4096);
	lseek(fd, 0, SEEK_SET);
	evict();
	is(plain_call(NULL, SYS_read, fd, (long)region, 8), -EFAULT, "planted: without help the call fails");
	is(plain_call(&buffers, SYS_read, fd, (long)region, 8), 8, "and with it not");
	without.copy = touch_carelessly;
	touches_left_out = 1;
	evict();
	is(plain_call(&without, SYS_pread64, fd, (long)region, 8), 8, "a call that may be is repeated");
	touches_left_out = 1;
	evict();
	is(plain_call(&without, SYS_wait4, child_that_exits(3), (long)region, 0), -EFAULT,
	   "planted: a status that was not touched is lost, and wait4 not repeated");
	close(fd);
}

/* ---- single things ---- */

static void test_restart(void)
{
	int fd = new_file();

	injected = LH_INTERCEPT_RESTART;
	injected_at = 1;
	is(plain_call(&buffers, SYS_write, fd, (long)region, 8), LH_INTERCEPT_RESTART,
	   "a signal before the call goes through");
	injected_at = 1;
	is(plain_call(&buffers, SYS_write, fd, (long)region, (long)(4 * MIB)), LH_INTERCEPT_RESTART,
	   "also before the first part");
	injected_at = 3;
	is(plain_call(&buffers, SYS_write, fd, (long)region, (long)(4 * MIB)),
	   2 * ((HOLD_LIMIT - HOLD_LIMIT / 8) & ~4095ul), "after two parts, these are the result");
	injected = -EINTR;
	injected_at = 2;
	ok(plain_call(&buffers, SYS_write, fd, (long)region, (long)(4 * MIB)) > 0,
	   "an error after a part is not told");
	injected_at = 0;
	close(fd);
}

static int asked;

static int later_use(void *context)
{
	asked++;
	return *(int *)context;
}

/* A call that makes a ring asks first; one that lends pages tells the home. */
static void test_later_use(void)
{
	int answer = -EPERM, fd;
	struct msghdr message = { 0 };

	is(plain_call(&buffers, SYS_io_uring_setup, 0, (long)region, 0), -ENOSYS,
	   "without another engine io_uring is refused");
	buffers.later_use = later_use;
	buffers.context = &answer;
	is(plain_call(&buffers, SYS_io_uring_enter, -1, 0, 0), -ENOSYS,
	   "also where the engine cannot be changed");
	answer = 0;
	is(plain_call(&buffers, SYS_io_uring_setup, 0, (long)region, 0),
	   raw(&(struct lh_trap){ .nr = SYS_io_uring_setup, .argument = { 0, (long)plain_region } }),
	   "and else it is the kernel's to answer");
	is(asked, 2, "each such call asks");
	ok(!home->lends, "until something is lent memory is used again");
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	plain_call(&buffers, SYS_sendmsg, fd, (long)&message, 0);
	ok(!home->lends, "an ordinary message lends nothing");
	plain_call(&buffers, SYS_sendmsg, fd, (long)&message, MSG_ZEROCOPY);
	ok(home->lends, "one with MSG_ZEROCOPY does");
	home->lends = false;
	close(fd);
}

static void test_slots(void)
{
	static int slots[LH_KEEP_SLOTS];
	int n = 0, fd = new_file();

	while ((slots[n] = lh__home_keep(home, (uintptr_t)plain_region, (uintptr_t)plain_region + 4096)) >=
	               0 &&
	       n < LH_KEEP_SLOTS - 1)
		n++;
	evict();
	is(plain_call(&buffers, SYS_write, fd, (long)region, 9000), 9000,
	   "a call goes on where no slot is free");
	ok(buffers.counts.unkept > 0, "and says so");
	while (n > 0)
		lh__home_unkeep(home, slots[--n]);
	close(fd);
	memset(home->keep, 0, LH_KEEP_SLOTS * sizeof *home->keep);
}

static void *fault_in(void *unused)
{
	int fd = new_file();

	evict();
	note(plain_call(&buffers, SYS_write, fd, (long)region, 100000));
	close(fd);
	return unused;
}

static void test_pins(void)
{
	unsigned char present[3];
	int *word = (int *)(region + 4092);

	is(plain_call(&buffers, SYS_set_tid_address, (long)word, 0, 0), getpid(), "a tid word is set");
	fault_in(NULL);
	ok(mincore(region, 3 * 4096, present) == 0 && (present[0] & 1), "and stays present");
	is(buffers.pins, 1, "with one pin");
	for (unsigned i = 0; i < 400; i++)
		if (plain_call(&buffers, SYS_set_tid_address, (long)(region + i * 8 * 4096), 0, 0) !=
		    getpid())
			ok(0, "pin %u", i);
	is(buffers.pins, LH_PINS_MAX, "many pins become larger ones");
	evict();
	is(mincore(region + 399 * 8 * 4096, 4096, present) + (present[0] & 1), 1,
	   "and the last one is kept too");
	lh__buffers_forget(&buffers, (uintptr_t)region, (uintptr_t)region + REGION);
	is(buffers.pins, 0, "what is unmapped is not pinned any more");
	is(kept_bytes(), 0, "nor kept");
	plain_call(&buffers, SYS_set_tid_address, (long)word, 0, 0);
	memset(home->keep, 0, LH_KEEP_SLOTS * sizeof *home->keep);
	lh__buffers_fork_child(&buffers);
	is(kept_bytes(), 4096, "a child keeps what its parent had pinned");
	lh__buffers_forget(&buffers, (uintptr_t)region, (uintptr_t)region + REGION);
	plain_call(NULL, SYS_set_tid_address, 0, 0, 0);
}

/* ---- a page that is being taken while somebody begins to keep it ---- */

static const struct lh_port_ops *real_ops;
static sem_t taking;

static long slow_take(struct lh_port *of, uintptr_t address, uintptr_t staging, size_t pages)
{
	if (address <= (uintptr_t)region && (uintptr_t)region < address + pages * 4096) {
		sem_post(&taking);
		usleep(30000);
	}
	return real_ops->take(of, address, staging, pages);
}

static void *keep_while_taken(void *slot)
{
	char byte;

	sem_wait(&taking);
	*(int *)slot = lh__home_keep(home, (uintptr_t)region, (uintptr_t)region + 4096);
	return copy(&byte, region, 1) == 0 ? slot : NULL;
}

static void test_race(void)
{
	struct lh_port_ops slow;
	unsigned char present = 0;
	pthread_t keeper;
	int slot = -1;

	real_ops = port->ops;
	slow = *real_ops;
	slow.take = slow_take;
	sem_init(&taking, 0, 0);
	region[0] = 5;
	pthread_create(&keeper, NULL, keep_while_taken, &slot);
	port->ops = &slow;
	evict();
	sem_post(&taking); /* for the keeper's sake, if the page was never taken */
	pthread_join(keeper, NULL);
	port->ops = real_ops;
	ok(slot >= 0 && mincore(region, 4096, &present) == 0 && (present & 1),
	   "a page that was kept while it was being taken stays");
	lh__home_unkeep(home, slot);
}

/* ---- a storm ---- */

static volatile int storm_over;

static void *storm_evictor(void *unused)
{
	/*
	 * With a moment between, or on few processors nobody would ever have both of two pages that it
	 * compares.
	 */
	while (!storm_over) {
		evict();
		usleep(200);
	}
	return unused;
}

/* Each thread has 2 MiB of its own, a file, a stream and a pair of datagram sockets. */
struct storm {
	unsigned id;
	uint64_t calls, wrong;
	int fd, datagram[2], stream[2];
	char *base;
};

static void storm_round(struct storm *s, unsigned round)
{
	char *from = s->base + round % 64 * 4099, *to = s->base + MIB + round % 61 * 5003;
	size_t size = 1 + round * 7919 % 60000;

	fill(from, size, round);
	memset(to, 0, size);
	s->wrong += plain_call(&buffers, SYS_write, s->fd, (long)from, (long)size) != (long)size;
	s->wrong += lseek(s->fd, 0, SEEK_SET) != 0;
	s->wrong += plain_call(&buffers, SYS_read, s->fd, (long)to, (long)size) != (long)size;
	s->wrong += lseek(s->fd, 0, SEEK_SET) != 0 || memcmp(from, to, size) != 0;
	memset(to, 0, size);
	s->wrong += plain_call(&buffers, SYS_write, s->datagram[0], (long)from, (long)size) != (long)size;
	s->wrong += plain_call(&buffers, SYS_read, s->datagram[1], (long)to, (long)size) != (long)size;
	s->wrong += memcmp(from, to, size) != 0;
	s->wrong += plain_call(&buffers, SYS_write, s->stream[0], (long)from, (long)size) != (long)size;
	s->wrong += plain_call(&buffers, SYS_read, s->stream[1], (long)to, (long)size) != (long)size;
	strcpy(from, "/proc/self/exe");
	s->wrong += plain_call(&buffers, SYS_stat, (long)from, (long)to, 0) != 0;
	s->wrong += plain_call(&buffers, SYS_uname, (long)to, 0, 0) != 0;
	__atomic_add_fetch(&s->calls, 8, __ATOMIC_RELAXED);
}

static void *storm_body(void *argument)
{
	struct storm *s = argument;

	for (unsigned round = 0; !storm_over; round++)
		storm_round(s, round);
	return NULL;
}

/* How many calls the slowest has made. */
static uint64_t storm_least(const struct storm *storms, unsigned n)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < n; i++) {
		uint64_t calls = __atomic_load_n(&storms[i].calls, __ATOMIC_RELAXED);

		least = calls < least ? calls : least;
	}
	return least;
}

static bool storm_open(struct storm *s, unsigned id)
{
	char name[16];

	snprintf(name, sizeof name, "storm%u", id);
	*s = (struct storm){ .id = id, .base = region + id * 2 * MIB + 17 };
	s->fd = open(path(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
	return s->fd >= 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, s->datagram) == 0 &&
	       socketpair(AF_UNIX, SOCK_STREAM, 0, s->stream) == 0;
}

static void test_storm(void)
{
	pthread_t evictor, threads[3];
	struct storm storms[3];
	uint64_t calls = 0, wrong = 0;

	for (unsigned i = 0; i < 3; i++)
		if (!storm_open(&storms[i], i))
			ok(0, "a storm begins");
	pthread_create(&evictor, NULL, storm_evictor, NULL);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, storm_body, &storms[i]);
	/* Four seconds, and on a machine that has little time until each has been through it five times. */
	for (unsigned i = 0; i < 40 || (i < 400 && storm_least(storms, 3) < 40); i++)
		usleep(100000);
	storm_over = 1;
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		calls += storms[i].calls;
		wrong += storms[i].wrong;
	}
	pthread_join(evictor, NULL);
	ok(wrong == 0 && storm_least(storms, 3) >= 40,
	   "%lu calls while everything is taken away all the time, %lu wrong", (unsigned long)calls,
	   (unsigned long)wrong);
	is(kept_bytes(), 0, "nothing is kept afterwards");
}

/* ---- the table ---- */

/* Calls that need nothing, in groups by the reason. */
static const long no_memory[] = {
	/* no argument is an address of memory */
	SYS_close,
	SYS_lseek,
	SYS_rt_sigreturn,
	SYS_sched_yield,
	SYS_msync,
	SYS_shmget,
	SYS_shmat,
	SYS_dup,
	SYS_dup2,
	SYS_pause,
	SYS_alarm,
	SYS_getpid,
	SYS_socket,
	SYS_shutdown,
	SYS_listen,
	SYS_fork,
	SYS_vfork,
	SYS_exit,
	SYS_kill,
	SYS_semget,
	SYS_shmdt,
	SYS_msgget,
	SYS_flock,
	SYS_fsync,
	SYS_fdatasync,
	SYS_ftruncate,
	SYS_fchdir,
	SYS_fchmod,
	SYS_fchown,
	SYS_umask,
	SYS_getuid,
	SYS_getgid,
	SYS_setuid,
	SYS_setgid,
	SYS_geteuid,
	SYS_getegid,
	SYS_setpgid,
	SYS_getppid,
	SYS_getpgrp,
	SYS_setsid,
	SYS_setreuid,
	SYS_setregid,
	SYS_setresuid,
	SYS_setresgid,
	SYS_getpgid,
	SYS_setfsuid,
	SYS_setfsgid,
	SYS_getsid,
	SYS_personality,
	SYS_getpriority,
	SYS_setpriority,
	SYS_sched_getscheduler,
	SYS_sched_get_priority_max,
	SYS_sched_get_priority_min,
	SYS_vhangup,
	SYS_sync,
	SYS_iopl,
	SYS_ioperm,
	SYS_gettid,
	SYS_readahead,
	SYS_tkill,
	SYS_io_destroy,
	SYS_epoll_create,
	SYS_restart_syscall,
	SYS_fadvise64,
	SYS_timer_getoverrun,
	SYS_timer_delete,
	SYS_exit_group,
	SYS_tgkill,
	SYS_ioprio_set,
	SYS_ioprio_get,
	SYS_inotify_init,
	SYS_inotify_rm_watch,
	SYS_unshare,
	SYS_tee,
	SYS_sync_file_range,
	SYS_timerfd_create,
	SYS_eventfd,
	SYS_fallocate,
	SYS_eventfd2,
	SYS_epoll_create1,
	SYS_dup3,
	SYS_inotify_init1,
	SYS_fanotify_init,
	SYS_syncfs,
	SYS_setns,
	SYS_kcmp,
	SYS_userfaultfd,
	SYS_membarrier,
	SYS_pkey_alloc,
	SYS_pkey_free,
	SYS_pidfd_open,
	SYS_close_range,
	SYS_pidfd_getfd,
	SYS_landlock_restrict_self,
	SYS_memfd_secret,
	SYS_process_mrelease,
	SYS_fsmount,
	335 /* uretprobe */,
	336 /* uprobe */,
};
static const long about_mappings[] = {
	/* of the agent that follows the address space */
	SYS_mmap,
	SYS_mprotect,
	SYS_munmap,
	SYS_brk,
	SYS_mremap,
	SYS_madvise,
	SYS_mlock,
	SYS_munlock,
	SYS_mlockall,
	SYS_munlockall,
	SYS_remap_file_pages,
	SYS_mlock2,
	SYS_pkey_mprotect,
	SYS_process_madvise,
	SYS_set_mempolicy_home_node,
	453 /* map_shadow_stack */,
	462 /* mseal */,
};
static const long not_there[] = {
	/* not implemented by any Linux on x86-64 that Linehome runs on */
	SYS_create_module, SYS_get_kernel_syms, SYS_query_module,   SYS_nfsservctl,
	SYS_getpmsg,       SYS_putpmsg,         SYS_afs_syscall,    SYS_tuxcall,
	SYS_security,      SYS_epoll_ctl_old,   SYS_epoll_wait_old, SYS_vserver,
};
#define LAST_NUMBER 469

static bool is_listed(long nr)
{
	const struct {
		const long *numbers;
		size_t count;
	} lists[] = { { no_memory, sizeof no_memory / sizeof(long) },
		      { about_mappings, sizeof about_mappings / sizeof(long) },
		      { not_there, sizeof not_there / sizeof(long) } };

	for (int i = 0; i < 3; i++)
		for (size_t j = 0; j < lists[i].count; j++)
			if (lists[i].numbers[j] == nr)
				return true;
	return false;
}

/* Numbers 337 to 423 have never been given out. */
static unsigned count_breaches(long hidden)
{
	unsigned breaches = 0;

	for (long nr = 0; nr <= LAST_NUMBER; nr++) {
		bool row = nr != hidden && lh__operands(nr)->class != LH_CALL_NONE;

		if (row == is_listed(nr) && !(nr >= 337 && nr <= 423 && !row)) {
			breaches++;
			if (nr != hidden)
				printf("# call %ld: %s\n", nr,
				       row ? "in the table, and listed as needing nothing"
				           : "neither known nor listed");
		}
	}
	return breaches;
}

static bool row_is_sound(const struct lh_call *call)
{
	bool ended = false;

	for (int i = 0; i < LH_OPERANDS_MAX; i++) {
		const struct lh_operand *o = &call->operand[i];

		if (o->kind == LH_OPERAND_NONE)
			ended = true;
		else if (ended || o->argument > 5 || o->other > 5)
			return false;
		if ((o->kind == LH_OPERAND_FIXED || o->kind == LH_OPERAND_SIZED ||
		     o->kind == LH_OPERAND_COUNTED) &&
		    o->size == 0)
			return false;
	}
	return true;
}

static void test_table(void)
{
	uint64_t bitmap[LH_INTERCEPT_NUMBERS / 64] = { 0 };
	struct lh_call wrong = { LH_CALL_LATE, { { LH_OPERAND_FIXED, 6, 0, 8 } } };
	unsigned unsound = 0;

	is(count_breaches(-1), 0, "each call up to %d is in the table or needs nothing", LAST_NUMBER);
	is(count_breaches(SYS_read), 1, "planted: a call that is missing is found");
	for (long nr = 0; nr < LH_INTERCEPT_NUMBERS; nr++)
		unsound += !row_is_sound(lh__operands(nr));
	is(unsound, 0, "each row makes sense");
	ok(!row_is_sound(&wrong), "planted: one that does not is found");
	lh__buffers_want(bitmap, true);
	ok((bitmap[0] >> SYS_read & 1) && !(bitmap[0] >> SYS_close & 1), "read is wanted, close is not");
	is(lh__operands(470)->class, LH_CALL_ONCE, "a call of the future is treated with care");
}

static double nanoseconds(bool helped, bool late)
{
	struct timespec a, b;
	unsigned n = 200000;
	int fd = open("/dev/zero", O_RDONLY);

	region[0] = 1;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	for (unsigned i = 0; i < n; i++)
		plain_call(helped ? &buffers : NULL, late ? SYS_getpeername : SYS_read, fd, (long)region, 8);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	close(fd);
	return ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / n;
}

static int copy_fast(void *to, const void *from, size_t size)
{
	memcpy(to, from, size);
	return 0;
}
static long proceed_fast(struct lh_trap *trap)
{
	return raw(trap);
}

static void show_cost(void)
{
	buffers.copy = copy_fast;
	buffers.proceed = proceed_fast;
	printf("# an early call: %.0f ns, plainly %.0f; ", nanoseconds(true, false),
	       nanoseconds(false, false));
	printf("a late one: %.0f, plainly %.0f\n", nanoseconds(true, true), nanoseconds(false, true));
}

int main(void)
{
	test_table();
	if (!mkdtemp(folder) || !open_all())
		return done();
	test_planted();
	test_cases();
	test_restart();
	test_later_use();
	test_slots();
	test_pins();
	test_race();
	test_storm();
	while (lh__home_balance(home, &(uint64_t){ 0 }) > 0)
		;
	is(lh__home_check(home), 0, "the home's invariants hold");
	show_cost();
	if (chdir(folder) == 0)
		for (const char *const *name = (const char *const[]){ "file", "other", "direct", "storm0",
		                                                      "storm1", "storm2", NULL };
		     *name; name++)
			unlink(*name);
	rmdir(folder);
	return done();
}
