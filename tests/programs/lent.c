/*
 * lent.c - pages that a pipe, a socket or a ring goes on reading after the call that lent them has returned.
 *
 * The program lends pages, then uses all its other memory until theirs have left and what they took serves
 * others, and only then takes the data out at the other end. It does not touch the pages that it has lent, as
 * it must not. A ring's buffers that are registered, or handed over in a group, are used by the kernel at
 * places that it chooses itself.
 *
 *     lent --size 24 [--case NAME]
 */
#include "ring.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define GROUP 7
#define BUFFERS 16u

static uint64_t *region, pages = 24 * 256;
static const char *now_case = "start";

static uint64_t word_of(uint64_t page, unsigned i)
{
	return mix(page << 16 | i);
}

static void must(bool condition, const char *what)
{
	if (!condition)
		wrong("%s: %s: %s", now_case, what, strerror(errno));
}

static void write_page(uint64_t page)
{
	for (unsigned i = 0; i < WORDS; i++)
		region[page * WORDS + i] = word_of(page, i);
}

static void verify(const uint64_t *words, uint64_t page)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (words[i] != word_of(page, i))
			wrong("%s: page %lu word %u: 0x%016lx", now_case, page, i, words[i]);
}

/* All pages but these are changed and changed back. */
static void use_others(uint64_t first, uint64_t count)
{
	for (unsigned round = 0; round < 2; round++)
		for (uint64_t page = 0; page < pages; page++)
			if (page < first || page >= first + count)
				region[page * WORDS + 9] ^= 0x5555;
}

static void take_out(int from, uint64_t first, uint64_t count)
{
	uint64_t words[WORDS];

	for (uint64_t page = first; page < first + count; page++) {
		for (size_t got = 0; got < PAGE;) {
			ssize_t n = read(from, (char *)words + got, PAGE - got);

			must(n > 0, "read");
			got += (size_t)n;
		}
		verify(words, page);
	}
}

static bool case_vmsplice(void)
{
	struct iovec v = { region + 100 * WORDS, 16 * PAGE };
	int ends[2];

	must(pipe(ends) == 0, "pipe");
	must(vmsplice(ends[1], &v, 1, 0) == 16 * PAGE, "vmsplice");
	use_others(100, 16);
	take_out(ends[0], 100, 16);
	close(ends[0]);
	close(ends[1]);
	return true;
}

/* Two ends of a connection whose receiver takes little at a time, so that the rest stays with the sender. */
static void connect_pair(int ends[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int listener = socket(AF_INET, SOCK_STREAM, 0), little = 4096, much = 1 << 20;
	socklen_t size = sizeof address;

	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
	setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &much, sizeof much);
	must(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0, "listen");
	getsockname(listener, (struct sockaddr *)&address, &size);
	must(connect(ends[0], (struct sockaddr *)&address, size) == 0, "connect");
	ends[1] = accept(listener, NULL, NULL);
	must(ends[1] >= 0, "accept");
	close(listener);
}

static bool case_zerocopy(void)
{
	int ends[2], yes = 1;
	ssize_t sent;

	connect_pair(ends);
	if (setsockopt(ends[0], SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof yes))
		return false;
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	sent = send(ends[0], region + 1000 * WORDS, 64 * PAGE, MSG_ZEROCOPY);
	must(sent >= (ssize_t)(16 * PAGE), "send");
	use_others(1000, 64);
	take_out(ends[1], 1000, (uint64_t)sent / PAGE);
	close(ends[0]);
	close(ends[1]);
	return true;
}

static bool case_ring_zerocopy(void)
{
	struct io_uring_sqe e;
	struct completion done;
	struct ring r;
	int ends[2];

	connect_pair(ends);
	if (!ring_open(&r, 0))
		return false;
	e = transfer(IORING_OP_SEND_ZC, ends[0], region + 2000 * WORDS, 64 * PAGE, 0);
	e.msg_flags = MSG_DONTWAIT;
	ring_submit(&r, &e);
	done = ring_next(&r);
	if (done.res == -EINVAL || done.res == -EOPNOTSUPP)
		return false;
	must(done.res >= (int)(16 * PAGE), "send");
	use_others(2000, 64);
	take_out(ends[1], 2000, (uint64_t)done.res / PAGE);
	ring_close(&r);
	close(ends[0]);
	close(ends[1]);
	return true;
}

/* Buffers that are handed over in a group, filled as messages come: one request, many completions. */
static bool case_ring_group(void)
{
	struct io_uring_sqe e =
		transfer(IORING_OP_PROVIDE_BUFFERS, (int)BUFFERS, region + 3000 * WORDS, PAGE, 0);
	struct ring r;
	int ends[2];

	if (!ring_open(&r, 0))
		return false;
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0, "socketpair");
	e.buf_group = GROUP;
	if (ring_do(&r, &e) < 0)
		return false;
	e = transfer(IORING_OP_RECV, ends[0], NULL, 0, IOSQE_BUFFER_SELECT);
	e.buf_group = GROUP;
	e.ioprio = IORING_RECV_MULTISHOT;
	ring_submit(&r, &e);
	for (uint64_t i = 0; i < 4; i++) { /* what a socket holds of these */
		uint64_t words[WORDS];
		struct completion done;
		uint64_t buffer;

		for (unsigned w = 0; w < WORDS; w++)
			words[w] = word_of(i, w);
		use_others(pages, 0);
		must(write(ends[1], words, PAGE) == PAGE, "write");
		done = ring_next(&r);
		must(done.res == PAGE && done.flags & IORING_CQE_F_BUFFER,
		     "a message in a buffer of the group");
		buffer = done.flags >> IORING_CQE_BUFFER_SHIFT;
		verify(region + (3000 + buffer) * WORDS, i);
		write_page(3000 + buffer);
	}
	ring_close(&r);
	close(ends[0]);
	close(ends[1]);
	return true;
}

/* A thread of the kernel's takes the requests, with no call made for them. */
static bool case_ring_polled(void)
{
	struct ring r;
	int ends[2];

	if (!ring_open(&r, IORING_SETUP_SQPOLL))
		return false;
	must(pipe(ends) == 0, "pipe");
	for (uint64_t page = 5; page < pages; page += pages / 4) {
		struct io_uring_sqe e = transfer(IORING_OP_WRITE, ends[1], region + page * WORDS, PAGE, 0);

		use_others(pages, 0);
		must(ring_do(&r, &e) == PAGE, "write");
		take_out(ends[0], page, 1);
	}
	ring_close(&r);
	close(ends[0]);
	close(ends[1]);
	return true;
}

static const struct {
	const char *name;
	bool (*run)(void);
} cases[] = {
	{ "zerocopy", case_zerocopy },           { "vmsplice", case_vmsplice },
	{ "ring-zerocopy", case_ring_zerocopy }, { "ring-group", case_ring_group },
	{ "ring-polled", case_ring_polled },
};

int main(int argc, char **argv)
{
	const char *only = NULL;

	for (int i = 1; i + 1 < argc; i += 2)
		if (!strcmp(argv[i], "--size"))
			pages = number(argv[i + 1]) * 256;
		else if (!strcmp(argv[i], "--case"))
			only = argv[i + 1];
	region = anonymous(pages * PAGE);
	for (uint64_t page = 0; page < pages; page++)
		write_page(page);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		now_case = cases[i].name;
		if (only && strcmp(only, now_case))
			continue;
		printf("%s %s\n", now_case, cases[i].run() ? "ok" : "unavailable");
		fflush(stdout);
	}
	now_case = "end";
	for (uint64_t page = 0; page < pages; page++)
		verify(region + page * WORDS, page);
	printf("lent ok\n");
	return 0;
}
