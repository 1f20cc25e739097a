/*
 * ring.c - the first ring of io_uring, while other threads use memory.
 *
 * The region's pages belong to threads in turn; page p of generation g holds mix(p, g, word). A process makes
 * its first ring after some thousands of touches, in two threads at once, while the others
 *
 *     hammer    verify and rewrite their pages at random, and now and then let the kernel read or write one
 *     sleep     in read, recv, epoll_wait and on a futex, each with its operands in pages of its own, and are
 *               woken when the ring is there
 *
 * Then the ring writes and reads pages, also from the kernel's own threads; a child is forked, which verifies
 * everything and makes a ring of its own. All this in --repeat processes, one after the other, each a fork of
 * the first, which has no ring.
 *
 *     ring --size 16 --repeat 20 [--refused]
 *
 * --refused: the ring must be refused with ENOSYS, and all else be as always.
 */
#include "ring.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define HAMMERS 3u
#define OWNERS (HAMMERS + 1) /* the last is the ring's */
#define SLEEPERS 8u
#define MESSAGE (8 * PAGE)

static uint64_t *region;
static uint32_t *generation; /* of each page */
static uint64_t pages = 16 * 256, touches, begin_after;
static char *sleeping; /* what sleepers' calls use */
static bool refused;
static unsigned stop;

static uint64_t word_of(uint64_t page, uint64_t of, unsigned i)
{
	return mix(page << 32 | of << 10 | i);
}

static void write_page(uint64_t page)
{
	uint64_t of = ++generation[page];

	for (unsigned i = 0; i < WORDS; i++)
		region[page * WORDS + i] = word_of(page, of, i);
}

static void verify(uint64_t page, const uint64_t *words, const char *who)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (words[i] != word_of(page, generation[page], i))
			wrong("%s: page %lu word %u: 0x%016lx instead of 0x%016lx", who, page, i, words[i],
			      word_of(page, generation[page], i));
}

static void verify_all(const char *who)
{
	for (uint64_t page = 0; page < pages; page++)
		verify(page, region + page * WORDS, who);
}

static void must(bool condition, const char *what)
{
	if (!condition)
		wrong("%s: %s", what, strerror(errno));
}

/* ---- hammers ---- */

/* Through a pipe: the kernel reads one page and writes another. */
static void through_kernel(const int ends[2], uint64_t page, uint64_t other)
{
	uint64_t got[WORDS];

	must(write(ends[1], region + page * WORDS, PAGE) == PAGE, "write");
	must(read(ends[0], got, PAGE) == PAGE, "read");
	verify(page, got, "what the kernel read");
	generation[other]++;
	for (unsigned i = 0; i < WORDS; i++)
		got[i] = word_of(other, generation[other], i);
	must(write(ends[1], got, PAGE) == PAGE, "write");
	must(read(ends[0], region + other * WORDS, PAGE) == PAGE, "read");
	verify(other, region + other * WORDS, "what the kernel wrote");
}

static uint64_t own_page(uint64_t *state, uint64_t owner)
{
	return next_random(state) % (pages / OWNERS) * OWNERS + owner;
}

static void *hammer(void *argument)
{
	uint64_t owner = (uintptr_t)argument, state = mix((uint64_t)getpid() << 8 | owner);
	int ends[2];

	must(pipe(ends) == 0, "pipe");
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		uint64_t page = own_page(&state, owner);

		verify(page, region + page * WORDS, "hammer");
		if (next_random(&state) % 8 == 0)
			through_kernel(ends, page, own_page(&state, owner));
		else if (next_random(&state) % 2)
			write_page(page);
		__atomic_add_fetch(&touches, 1, __ATOMIC_RELAXED);
	}
	close(ends[0]);
	close(ends[1]);
	return NULL;
}

/* ---- sleepers ---- */

struct sleeper {
	unsigned kind;
	int in, out;
	pthread_t thread;
};

static char *place(unsigned kind)
{
	return sleeping + (size_t)kind * 2 * MESSAGE + 100;
}

static unsigned char byte_of(unsigned kind, unsigned i)
{
	return (unsigned char)(mix(kind << 20 | i) | 1);
}

static void check_message(unsigned kind)
{
	for (unsigned i = 0; i < MESSAGE; i++)
		if ((unsigned char)place(kind)[i] != byte_of(kind, i))
			wrong("sleeper %u: byte %u", kind, i);
}

static void sleep_on_futex(unsigned kind)
{
	uint32_t *word = (uint32_t *)(sleeping + (size_t)kind * 2 * MESSAGE + PAGE - 4);

	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == 0)
		if (syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0) < 0 && errno != EAGAIN &&
		    errno != EINTR)
			wrong("futex: %s", strerror(errno));
	*word = 0;
}

static void sleep_on_epoll(unsigned kind, int in)
{
	struct epoll_event *events = (struct epoll_event *)(place(kind) + PAGE - 100 - 8);
	int poll = epoll_create1(0), n;

	must(epoll_ctl(poll, EPOLL_CTL_ADD, in,
	               &(struct epoll_event){ .events = EPOLLIN, .data.u64 = mix(kind) }) == 0,
	     "epoll_ctl");
	while ((n = epoll_wait(poll, events, 4, -1)) < 0 && errno == EINTR)
		;
	must(n == 1 && events->data.u64 == mix(kind), "epoll_wait");
	close(poll);
}

static void *sleeper(void *argument)
{
	struct sleeper *s = argument;

	switch (s->kind % 4) {
	case 0: must(read(s->in, place(s->kind), MESSAGE) == MESSAGE, "a read that slept"); break;
	case 1: must(recv(s->in, place(s->kind), MESSAGE, 0) == MESSAGE, "a recv that slept"); break;
	case 2: sleep_on_epoll(s->kind, s->in); return NULL;
	default: sleep_on_futex(s->kind); return NULL;
	}
	check_message(s->kind);
	return NULL;
}

static void put_to_sleep(struct sleeper *s, unsigned kind)
{
	int ends[2];

	s->kind = kind;
	must(kind % 4 == 0 ? pipe(ends) == 0 : socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0, "pipe");
	s->in = ends[0];
	s->out = ends[1];
	must(pthread_create(&s->thread, NULL, sleeper, s) == 0, "thread");
}

static void wake(struct sleeper *s)
{
	uint32_t *word = (uint32_t *)(sleeping + (size_t)s->kind * 2 * MESSAGE + PAGE - 4);
	char message[MESSAGE];

	for (unsigned i = 0; i < MESSAGE; i++)
		message[i] = (char)byte_of(s->kind, i);
	if (s->kind % 4 == 3) {
		__atomic_store_n(word, 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
	} else {
		must(write(s->out, message, MESSAGE) == MESSAGE, "wake a sleeper");
	}
	pthread_join(s->thread, NULL);
	close(s->in);
	close(s->out);
}

/* ---- the ring ---- */

static void ring_page(struct ring *r, int fd, uint64_t page, uint8_t flags)
{
	struct io_uring_sqe e = transfer(IORING_OP_WRITE, fd, region + page * WORDS, PAGE, flags);
	uint64_t got[WORDS];

	must(ring_do(r, &e) == PAGE, "the ring's write");
	must(pread(fd, got, PAGE, 0) == PAGE, "pread");
	verify(page, got, "what the ring read");
	generation[page]++;
	for (unsigned i = 0; i < WORDS; i++)
		got[i] = word_of(page, generation[page], i);
	must(pwrite(fd, got, PAGE, 0) == PAGE, "pwrite");
	e = transfer(IORING_OP_READ, fd, region + page * WORDS, PAGE, flags);
	must(ring_do(r, &e) == PAGE, "the ring's read");
	verify(page, region + page * WORDS, "what the ring wrote");
}

static int scratch_file(void)
{
	char path[] = "/tmp/ring.XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0)
		cannot("make a file");
	unlink(path);
	return fd;
}

/* Pages from..pages in steps of two times OWNERS, so that two threads share the ring's. */
static void use_ring(uint32_t flags, uint64_t from)
{
	int fd = scratch_file();
	struct ring r;

	if (!ring_open(&r, flags)) {
		if (!refused || errno != ENOSYS)
			wrong("io_uring_setup: %s", strerror(errno));
		close(fd);
		return;
	}
	if (refused)
		wrong("a ring was made");
	for (uint64_t page = from, i = 0; page < pages && i < 40; page += 2 * OWNERS, i++)
		ring_page(&r, fd, page, i % 2 ? IOSQE_ASYNC : 0);
	ring_close(&r);
	close(fd);
}

static void *ring_maker(void *argument)
{
	while (__atomic_load_n(&touches, __ATOMIC_RELAXED) < begin_after)
		sched_yield();
	use_ring(0, HAMMERS + (uintptr_t)argument * OWNERS);
	return NULL;
}

/* ---- one process ---- */

static void forked(void)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		verify_all("the child");
		use_ring(IORING_SETUP_SQPOLL, HAMMERS);
		verify_all("the child after its ring");
		_exit(0);
	}
	must(pid > 0 && waitpid(pid, &status, 0) == pid, "wait for the child");
	if (status)
		wrong("the child ended with 0x%x", (unsigned)status);
}

static void one_process(unsigned number)
{
	struct sleeper sleepers[SLEEPERS];
	pthread_t hammers[HAMMERS], makers[2];

	touches = stop = 0;
	begin_after = mix(number) % 2000;
	for (unsigned i = 0; i < SLEEPERS; i++)
		put_to_sleep(&sleepers[i], i);
	for (uintptr_t i = 0; i < HAMMERS; i++)
		must(pthread_create(&hammers[i], NULL, hammer, (void *)i) == 0, "thread");
	for (uintptr_t i = 0; i < 2; i++)
		must(pthread_create(&makers[i], NULL, ring_maker, (void *)i) == 0, "thread");
	for (unsigned i = 0; i < 2; i++)
		pthread_join(makers[i], NULL);
	for (unsigned i = 0; i < SLEEPERS; i++)
		wake(&sleepers[i]);
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < HAMMERS; i++)
		pthread_join(hammers[i], NULL);
	verify_all("in the end");
	if (number % 4 == 0)
		forked();
	verify_all("after the child");
}

static void repeat(unsigned number)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		one_process(number);
		_exit(0);
	}
	must(pid > 0 && waitpid(pid, &status, 0) == pid, "wait for a process");
	if (status)
		wrong("process %u ended with 0x%x", number, (unsigned)status);
}

int main(int argc, char **argv)
{
	unsigned count = 20;

	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--refused"))
			refused = true;
		else if (i + 1 < argc && !strcmp(argv[i], "--size"))
			pages = number(argv[++i]) * 256;
		else if (i + 1 < argc && !strcmp(argv[i], "--repeat"))
			count = (unsigned)number(argv[++i]);
	region = anonymous(pages * PAGE);
	generation = calloc(pages, sizeof *generation);
	sleeping = anonymous(SLEEPERS * 2 * MESSAGE);
	for (uint64_t page = 0; page < pages; page++)
		write_page(page);
	for (unsigned i = 0; i < count; i++)
		repeat(i);
	verify_all("the first process");
	printf("ring ok\n");
	return 0;
}
