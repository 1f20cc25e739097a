/*
 * firecracker_like.c - hands memory over as Firecracker does, and then uses it as a guest does: for tests of
 * handlers.
 *
 *     firecracker_like SOCKET MEMORY-FILE [huge] [idle] [threads=N] [turns=N] [seed=N]
 *
 * As in Firecracker (src/vmm/src/persist.rs; the builder of the crate userfaultfd; page faults of hugetlbfs):
 * anonymous private memory in several regions, a userfaultfd from /dev/userfaultfd or else the system call,
 * non-blocking, closed on exec, not for user mode alone, with EVENT_REMOVE; each region registered MISSING;
 * one message with all regions and the descriptor; then the socket is left open, and so is the descriptor.
 *
 * Then threads, each with a part of the memory, read, write, let the kernel read (as a device does), and give
 * back (as a balloon does, MADV_DONTNEED). What was neither written nor given back must be as it is in the
 * file, what was given back must be zero. In the end all of it is looked at.
 *
 * Exit status: 0 all was as it must be; 1 not; 2 it could not be tried; 77 there are no huge pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

#define REGIONS 3u
#define THREADS_MAX 16u
#define BALLOON_MAX 64u /* pages given back at once */

enum state { UNTOUCHED, WRITTEN, REMOVED };

struct region {
	char *at;
	size_t size, offset;
};

static struct region region[REGIONS];
static size_t page_size = 4096, pages;
static const char *content; /* of the file */
static unsigned char *state;
static uint64_t *version;
static unsigned threads = 2;
static unsigned long turns = 20000, seed = 1;
static unsigned long bad, removed, written; /* atomic */

static _Noreturn void give_up(const char *what)
{
	fprintf(stderr, "firecracker_like: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* ---- as Firecracker sets it up ---- */

static void make_memory(bool huge)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t each = pages / REGIONS, offset = 0;

	if (huge)
		flags |= MAP_HUGETLB | MAP_HUGE_2MB;
	for (unsigned i = 0; i < REGIONS; i++) {
		size_t size = (i == REGIONS - 1 ? pages - each * i : each) * page_size;

		region[i].at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
		if (region[i].at == MAP_FAILED && huge)
			exit(77);
		if (region[i].at == MAP_FAILED)
			give_up("mmap");
		region[i].size = size;
		region[i].offset = offset;
		offset += size;
		/* Apart from the next, as it is in Firecracker, which has guards around its regions. */
		mmap(NULL, page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	}
}

static int make_userfaultfd(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	if (device >= 0) {
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(device);
	} else {
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	}
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0)
		give_up("userfaultfd");
	for (unsigned i = 0; i < REGIONS; i++) {
		struct uffdio_register range = { .range = { (uintptr_t)region[i].at, region[i].size },
			                         .mode = UFFDIO_REGISTER_MODE_MISSING };

		if (ioctl(fd, UFFDIO_REGISTER, &range) != 0)
			give_up("UFFDIO_REGISTER");
	}
	return fd;
}

static size_t write_message(char *out, size_t size)
{
	size_t used = (size_t)snprintf(out, size, "[");

	for (unsigned i = 0; i < REGIONS; i++)
		used += (size_t)snprintf(out + used, size - used,
		                         "%s{\"base_host_virt_addr\":%lu,\"size\":%zu,\"offset\":%zu,"
		                         "\"page_size\":%zu,\"page_size_kib\":%zu}",
		                         i ? "," : "", (unsigned long)(uintptr_t)region[i].at, region[i].size,
		                         region[i].offset, page_size, page_size);
	return used + (size_t)snprintf(out + used, size - used, "]");
}

static void hand_over(const char *path, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .bytes = { 0 } };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char text[1024];
	struct iovec part = { text, write_message(text, sizeof(text)) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control };
	int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	message.msg_controllen = sizeof(control.bytes);
	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.align), &fd, sizeof(int));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (socket_fd < 0 || connect(socket_fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		give_up(path);
	if (sendmsg(socket_fd, &message, MSG_NOSIGNAL) != (ssize_t)part.iov_len)
		give_up("sendmsg");
	/* Both descriptors stay open until the process ends. */
}

/* ---- as a guest uses it ---- */

static char *address(size_t page)
{
	size_t offset = page * page_size;
	unsigned i = 0;

	while (offset >= region[i].offset + region[i].size)
		i++;
	return region[i].at + (offset - region[i].offset);
}

static uint64_t next(uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return *random;
}

/* What must be at a word of a page. */
static uint64_t wanted(size_t page, size_t word)
{
	uint64_t value;

	if (state[page] == REMOVED)
		return 0;
	if (state[page] == WRITTEN)
		return (version[page] << 32 | page) * UINT64_C(0x9e3779b97f4a7c15) + word;
	memcpy(&value, content + page * page_size + word * 8, sizeof(value));
	return value;
}

static void fail(size_t page, size_t word, uint64_t got)
{
	static const char *const names[] = { "as in the file", "as written", "zero, as given back" };

	if (__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED) < 5)
		fprintf(stderr, "bad: page %zu word %zu is %lx, and must be %s: %lx\n", page, word,
		        (unsigned long)got, names[state[page]], (unsigned long)wanted(page, word));
}

static void check(size_t page, size_t step)
{
	const char *at = address(page);
	uint64_t value;

	for (size_t word = 0; word < page_size / 8; word += step) {
		memcpy(&value, at + word * 8, sizeof(value));
		if (value != wanted(page, word)) {
			fail(page, word, value);
			return;
		}
	}
}

/* The kernel reads it, and so faults. */
static void check_by_kernel(size_t page, int pipe_fd[2])
{
	uint64_t value;

	if (write(pipe_fd[1], address(page), sizeof(value)) != (ssize_t)sizeof(value) ||
	    read(pipe_fd[0], &value, sizeof(value)) != (ssize_t)sizeof(value))
		give_up("pipe");
	if (value != wanted(page, 0))
		fail(page, 0, value);
}

static void change(size_t page)
{
	char *at = address(page);
	uint64_t value;

	check(page, 64);
	version[page]++;
	state[page] = WRITTEN;
	for (size_t word = 0; word < page_size / 8; word++) {
		value = wanted(page, word);
		memcpy(at + word * 8, &value, sizeof(value));
	}
	__atomic_add_fetch(&written, 1, __ATOMIC_RELAXED);
}

/* Gives pages back, within one region. */
static void give_back(size_t page, size_t count)
{
	char *at = address(page);

	while (count > 1 && address(page + count - 1) != at + (count - 1) * page_size)
		count--;
	if (madvise(at, count * page_size, MADV_DONTNEED) != 0)
		give_up("MADV_DONTNEED");
	memset(state + page, REMOVED, count);
	__atomic_add_fetch(&removed, count, __ATOMIC_RELAXED);
}

static void *run(void *context)
{
	size_t number = (size_t)(uintptr_t)context, first = pages * number / threads,
	       end = pages * (number + 1) / threads;
	uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15) + number + 1;
	int pipe_fd[2];

	if (pipe2(pipe_fd, O_CLOEXEC) != 0)
		give_up("pipe");
	for (unsigned long turn = 0; turn < turns && !bad; turn++) {
		size_t page = first + next(&random) % (end - first), count;

		switch (next(&random) % 16) {
		case 0:
			count = 1 + next(&random) % BALLOON_MAX;
			give_back(page, count < end - page ? count : end - page);
			check(page, 8);
			break;
		case 1:
		case 2: check_by_kernel(page, pipe_fd); break;
		case 3:
		case 4:
		case 5: change(page); break;
		default: check(page, 16);
		}
	}
	for (size_t page = first; page < end && !bad; page++)
		check(page, 1);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	return NULL;
}

/* ---- */

static void map_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat file;

	if (fd < 0 || fstat(fd, &file) != 0)
		give_up(path);
	pages = (size_t)file.st_size / page_size;
	content = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	state = calloc(pages, 1);
	version = calloc(pages, sizeof(*version));
	if (content == MAP_FAILED || !state || !version || pages < REGIONS)
		give_up(path);
	close(fd);
}

int main(int argc, char **argv)
{
	pthread_t thread[THREADS_MAX];
	bool huge = false, idle = false;

	if (argc < 3)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* no test leaves one behind */
	for (int i = 3; i < argc; i++) {
		huge |= strcmp(argv[i], "huge") == 0;
		idle |= strcmp(argv[i], "idle") == 0;
		sscanf(argv[i], "threads=%u", &threads);
		sscanf(argv[i], "turns=%lu", &turns);
		sscanf(argv[i], "seed=%lu", &seed);
	}
	if (threads < 1 || threads > THREADS_MAX)
		return 2;
	if (huge)
		page_size = 2u << 20;
	map_file(argv[2]);
	make_memory(huge);
	hand_over(argv[1], make_userfaultfd());
	if (idle)
		pause();
	for (size_t i = 0; i < threads; i++)
		if (pthread_create(&thread[i], NULL, run, (void *)(uintptr_t)i) != 0)
			give_up("pthread_create");
	for (size_t i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	printf("pages %zu written %lu removed %lu bad %lu\n", pages, written, removed, bad);
	return bad != 0;
}
