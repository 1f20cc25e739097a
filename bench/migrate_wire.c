/*
 * migrate_wire.c - what a migration's connections cost by themselves: a miss's page asked for and given,
 * beside a bare request of 32 bytes and reply of 4096 on a socket of the same kind; and pages a second of a
 * channel of data with a window of 256.
 *
 *     build/bench/migrate_wire [PAGES]      of the memory that is given; 65536
 *
 * Both round trips take turns, in blocks; medians. The page has no line that is zero.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "../tests/migrate_channel.h"
#include "net/socket.h"
#include "service/migrate/pages.h"
#include "service/migrate/supply.h"

#define BLOCKS 60u
#define BLOCK 300u
#define WINDOW 256u

struct way {
	const char *name, *url, *key;
};

struct setup {
	struct lh_pages *pages;
	struct lh_supply *supply;
	uint64_t count;
	char path[64];
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

__attribute__((noreturn)) static void die(const char *what)
{
	fprintf(stderr, "migrate_wire: %s\n", what);
	exit(1);
}

static void make_memory(struct setup *setup, uint64_t count)
{
	struct lh_pages_options options = { .regions = 1 };
	static struct lh_state_region region;
	struct lh_error error;
	uint8_t *map;
	int fd;

	setup->count = count;
	strcpy(setup->path, "/dev/shm/linehome-bench-wire-XXXXXX");
	fd = mkostemp(setup->path, O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)(count * LH_PAGE_SIZE)) != 0)
		die("no room in /dev/shm");
	map = mmap(NULL, count * LH_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("no memory");
	for (uint64_t i = 0; i < count; i++)
		memset(map + i * LH_PAGE_SIZE, (int)(i % 255) + 1, LH_PAGE_SIZE);
	munmap(map, count * LH_PAGE_SIZE);
	close(fd);
	region.pages = count;
	strcpy(region.path, setup->path);
	options.region = &region;
	if (lh__pages_open(&options, &setup->pages, &error))
		die(error.text);
	unlink(setup->path); /* nothing is left, however this ends */
}

static void make_supply(struct setup *setup, const struct way *way)
{
	struct lh_channel *channel[2];
	struct lh_error error;

	for (unsigned i = 0; i < 2; i++) {
		struct pair pair;

		if (!pair_open(&pair, way->url, way->key, LH_MOVE_FAULTS + i))
			die(pair.sender_error.text);
		if (lh__pages_serve(setup->pages, pair.sender, LH_MOVE_FAULTS + i, &error))
			die(error.text);
		channel[i] = pair.receiver;
	}
	if (lh__supply_remote(channel, 2, &setup->supply))
		die("no supply");
}

static void drop_supply(struct setup *setup)
{
	setup->supply->ops->close(setup->supply);
	lh__pages_disconnect(setup->pages);
}

static void take(struct setup *setup, unsigned lane, struct lh_supply_answer *out)
{
	struct pollfd poll_fd = { setup->supply->ops->descriptor(setup->supply, lane), POLLIN, 0 };
	int result;

	do {
		(void)poll(&poll_fd, 1, -1);
		result = setup->supply->ops->next(setup->supply, lane, out);
	} while (result == 0);
	if (result < 0)
		die("the supply broke");
}

/* ---- one page ---- */

static void receive_all(int fd, size_t size)
{
	static __thread char bytes[LH_PAGE_SIZE];
	size_t have = 0;

	while (have < size) {
		ssize_t got = recv(fd, bytes, size - have, 0);

		if (got <= 0)
			pthread_exit(NULL);
		have += (size_t)got;
	}
}

static void *bare_server(void *argument)
{
	static const char page[LH_PAGE_SIZE] = { 1 };
	int fd = *(int *)argument;

	for (;;) {
		receive_all(fd, 32);
		if (send(fd, page, sizeof page, MSG_NOSIGNAL) != sizeof page)
			return NULL;
	}
}

static uint64_t bare_trip(int fd)
{
	char request[32] = { 0 };
	uint64_t began = now_ns();

	if (send(fd, request, sizeof request, MSG_NOSIGNAL) != sizeof request)
		die("the bare socket broke");
	receive_all(fd, LH_PAGE_SIZE);
	return now_ns() - began;
}

static uint64_t our_trip(struct setup *setup, uint64_t page)
{
	struct lh_supply_answer out;
	uint64_t began = now_ns();

	if (setup->supply->ops->ask(setup->supply, 0, page, false) ||
	    setup->supply->ops->flush(setup->supply, 0))
		die("the supply broke");
	take(setup, 0, &out);
	return now_ns() - began;
}

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static double median_us(uint64_t *sample, size_t n)
{
	qsort(sample, n, sizeof *sample, compare);
	return (double)sample[n / 2] / 1000;
}

static void latency(struct setup *setup, const struct way *way)
{
	static uint64_t bare[BLOCKS * BLOCK], ours[BLOCKS * BLOCK];
	struct pair pair;
	pthread_t thread;
	double a, b;
	int fd;

	/* Bytes alone over the sockets of a pair, which has all the options that a channel has. */
	if (!pair_open(&pair, way->url, way->key, LH_MOVE_FAULTS))
		die(pair.sender_error.text);
	fd = lh__channel_fd(pair.sender);
	pthread_create(&thread, NULL, bare_server, &fd);
	for (unsigned i = 0; i < BLOCKS * BLOCK; i += BLOCK) {
		for (unsigned j = 0; j < BLOCK; j++)
			bare[i + j] = bare_trip(lh__channel_fd(pair.receiver));
		for (unsigned j = 0; j < BLOCK; j++)
			ours[i + j] = our_trip(setup, (i + j) * 61 % setup->count);
	}
	a = median_us(bare, BLOCKS * BLOCK);
	b = median_us(ours, BLOCKS * BLOCK);
	printf("%-12s bare %6.1f us   page %6.1f us   %4.2f x\n", way->name, a, b, b / a);
	shutdown(fd, SHUT_RDWR);
	pthread_join(thread, NULL);
	pair_close(&pair);
}

/* ---- many pages ---- */

static void ask_more(struct setup *setup, uint64_t *asked, uint64_t limit, bool since)
{
	for (; *asked < setup->count && *asked < limit; (*asked)++)
		if (setup->supply->ops->ask(setup->supply, 1, *asked, since))
			die("the supply broke");
	if (setup->supply->ops->flush(setup->supply, 1))
		die("the supply broke");
}

static double throughput(struct setup *setup, bool since)
{
	struct lh_supply_answer out;
	uint64_t asked = 0, got = 0, began = now_ns();

	while (got < setup->count) {
		struct pollfd poll_fd = { setup->supply->ops->descriptor(setup->supply, 1), POLLIN, 0 };
		int result;

		if (asked - got <= WINDOW / 2)
			ask_more(setup, &asked, got + WINDOW, since);
		result = setup->supply->ops->next(setup->supply, 1, &out);
		if (result < 0)
			die("the supply broke");
		if (result == 0)
			(void)poll(&poll_fd, 1, -1);
		got += (unsigned)result;
	}
	return (double)setup->count * LH_PAGE_SIZE / (double)(now_ns() - began);
}

int main(int argc, char **argv)
{
	const char *key = write_key("key", 0xaa, 0600);
	char url[320];
	struct way way[] = {
		{ "unix", url, NULL },
		{ "tcp", "tcp://127.0.0.1:0", NULL },
		{ "tcp, TLS", "tcp://127.0.0.1:0", key },
	};
	struct setup setup;

	snprintf(url, sizeof url, "unix:%s/socket", test_folder());
	make_memory(&setup, argc > 1 ? strtoull(argv[1], NULL, 0) : 65536);
	for (unsigned i = 0; i < sizeof way / sizeof *way; i++) {
		double best = 0, again = 0;

		make_supply(&setup, &way[i]);
		latency(&setup, &way[i]);
		for (unsigned j = 0; j < 3; j++) {
			double speed = throughput(&setup, false);

			best = speed > best ? speed : best;
			speed = throughput(&setup, true);
			again = speed > again ? speed : again;
		}
		printf("%-12s %5.2f GB/s of pages, %5.2f where nothing has changed (best of 3)\n",
		       way[i].name, best, again);
		drop_supply(&setup);
	}
	lh__pages_close(setup.pages);
	test_folder_remove();
	return 0;
}
