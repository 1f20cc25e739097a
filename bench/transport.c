/*
 * transport.c - what one request to a memory node takes, over everything that carries it: ring, Unix socket,
 * TCP on loopback, TLS; the node on the client's CPU and on another.
 *
 *     build/bench/transport [SECONDS]       roughly how long the whole takes; 20
 *
 * Each figure is the median, then the mean of all samples below 1 ms ("trimmed"), of five repetitions in turn
 * with the others, the median repetition being shown. The last column is what one of 4096 puts of a page
 * takes with as many in flight as the store allows.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "service/client/client.h"
#include "service/serve/server.h"

#define PAGES 4096u
#define REPETITIONS 5u
#define SAMPLES 200000u

enum what { GET_LINE, GET_PAGE, PUT_LINE, PUT_PAGE, BATCH, WHATS };

struct way {
	const char *name;
	const char *url;
	bool key, stream;
};

struct figure {
	double median, trimmed;
};

static char folder[] = "/tmp/linehome-bench-XXXXXX", unix_url[64], key_file[64];
static unsigned budget_ms;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

__attribute__((noreturn)) static void die(const char *what)
{
	fprintf(stderr, "transport: %s\n", what);
	exit(1);
}

static void pin(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set) != 0)
		die("this process cannot be pinned");
}

static void write_key(void)
{
	FILE *file;

	snprintf(key_file, sizeof key_file, "%s/key", folder);
	file = fopen(key_file, "w");
	if (!file || fprintf(file, "%064d\n", 7) < 0 || fclose(file) != 0)
		die("no key file");
	if (chmod(key_file, 0600) != 0)
		die("no key file");
}

/* The node in a process of its own, pinned; its real URL comes through the pipe. */
static pid_t start_node(const struct way *way, unsigned cpu, char *url, size_t size)
{
	struct lh_server_options options = { .listen = &way->url,
		                             .listen_count = 1,
		                             .spin_us = LH_SERVER_SPIN_US,
		                             .key_file = way->key ? key_file : NULL };
	struct lh_server *server;
	struct lh_error error;
	int ends[2];
	pid_t pid;
	ssize_t got;

	if (pipe(ends) != 0 || (pid = fork()) < 0)
		die("no process for the node");
	if (pid == 0) {
		pin(cpu);
		if (lh__server_open(&options, &server, &error) < 0)
			die(error.text);
		if (write(ends[1], lh__server_url(server, 0), strlen(lh__server_url(server, 0))) < 0)
			_exit(1);
		close(ends[1]);
		_exit(lh__server_run(server, &error) < 0);
	}
	close(ends[1]);
	got = read(ends[0], url, size - 1);
	if (got <= 0)
		die("the node did not start");
	url[got] = '\0';
	close(ends[0]);
	return pid;
}

static struct lh_store *open_store(const struct way *way, const char *url)
{
	struct lh_node_target target;
	struct lh_store *store;
	struct lh_error error;

	if (lh__node_target(url, way->key ? key_file : NULL, &target, &error) < 0)
		die(error.text);
	target.no_ring = way->stream;
	if (lh__node_open(&lh__sys_default, &target, 5000, &store, &error) < 0)
		die(error.text);
	return store;
}

static unsigned char page[LH_PAGE_SIZE] __attribute__((aligned(64)));

static void put(struct lh_store *store, uint64_t number, lh_mask mask)
{
	struct lh_request request = { .op = LH_OP_PUT, .page = number, .mask = mask, .data = page };

	if (lh__store_do(store, &request) != 0)
		die("a put failed");
}

static void one(struct lh_store *store, enum what what, uint64_t number)
{
	lh_mask held;

	if (what == GET_LINE || what == GET_PAGE) {
		if (store->ops->get_now(store, number, what == GET_LINE ? 1 : LH_MASK_ALL, page, &held) != 0)
			die("a get failed");
	} else {
		put(store, number, what == PUT_LINE ? 1 : LH_MASK_ALL);
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static struct figure summary(double *sample, size_t n)
{
	struct figure figure = { 0, 0 };
	size_t i, kept = 0;

	qsort(sample, n, sizeof *sample, by_value);
	for (i = 0; i < n && sample[i] < 1000; i++, kept++)
		figure.trimmed += sample[i];
	figure.median = sample[n / 2];
	figure.trimmed /= kept ? (double)kept : 1;
	return figure;
}

static struct figure sample_singles(struct lh_store *store, enum what what)
{
	static double sample[SAMPLES];
	uint64_t until = now_ns() + budget_ms * 1000000u, random = 1, start, end = 0;
	size_t n = 0;

	do {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
		start = now_ns();
		one(store, what, (random >> 33) % PAGES);
		end = now_ns();
		sample[n++] = (double)(end - start) / 1000;
	} while (n < SAMPLES && end < until);
	return summary(sample, n);
}

static struct figure sample_batch(struct lh_store *store)
{
	static struct lh_request request[PAGES];
	struct lh_request *list[PAGES], *done[64];
	double per_page[64];
	uint64_t until = now_ns() + budget_ms * 1000000u;
	size_t i, rounds = 0;

	do {
		uint64_t start = now_ns();
		size_t finished = 0;

		for (i = 0; i < PAGES; i++) {
			request[i] = (struct lh_request){
				.op = LH_OP_PUT, .page = i, .mask = LH_MASK_ALL, .data = page
			};
			list[i] = &request[i];
		}
		for (i = 0; i < PAGES; i += 64)
			if (store->ops->submit(store, list + i, 64) != 0)
				die("a submit failed");
		while (finished < PAGES)
			finished += store->ops->poll(store, done, 64, -1);
		per_page[rounds++] = (double)(now_ns() - start) / 1000 / PAGES;
	} while (rounds < 64 && now_ns() < until);
	return summary(per_page, rounds);
}

static void measure(const struct way *way, unsigned cpu, struct figure *figure)
{
	char url[320];
	pid_t node = start_node(way, cpu, url, sizeof url);
	struct lh_store *store = open_store(way, url);
	unsigned what;
	uint64_t i;

	memset(page, 0x5a, sizeof page);
	for (i = 0; i < PAGES; i++)
		put(store, i, LH_MASK_ALL);
	for (what = 0; what < BATCH; what++)
		figure[what] = sample_singles(store, (enum what)what);
	figure[BATCH] = sample_batch(store);
	store->ops->close(store);
	kill(node, SIGKILL);
	waitpid(node, NULL, 0);
}

static double middle(const struct figure *figure, size_t stride, bool trimmed)
{
	double value[REPETITIONS];
	size_t i;

	for (i = 0; i < REPETITIONS; i++)
		value[i] = trimmed ? figure[i * stride].trimmed : figure[i * stride].median;
	qsort(value, REPETITIONS, sizeof *value, by_value);
	return value[REPETITIONS / 2];
}

#define WAYS 4u

int main(int argc, char **argv)
{
	struct way ways[WAYS] = {
		{ "ring", unix_url, false, false },
		{ "unix socket", unix_url, false, true },
		{ "tcp loopback", "tcp://127.0.0.1:0", false, true },
		{ "tls loopback", "tcp://127.0.0.1:0", true, true },
	};
	static struct figure figure[WAYS][2][REPETITIONS][WHATS];
	unsigned cpus = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1, repetition, way, cpu, what;
	double seconds = argc > 1 ? atof(argv[1]) : 20;

	if (seconds <= 0 || !mkdtemp(folder))
		die("usage: transport [SECONDS]");
	snprintf(unix_url, sizeof unix_url, "unix:%s/node", folder);
	write_key();
	budget_ms = (unsigned)(seconds * 1000 / (WAYS * cpus * REPETITIONS * WHATS)) + 1;
	pin(0);
	(void)setpriority(PRIO_PROCESS, 0, -20); /* less noise, where we may */
	for (repetition = 0; repetition < REPETITIONS; repetition++)
		for (cpu = 0; cpu < cpus; cpu++)
			for (way = 0; way < WAYS; way++)
				measure(&ways[way], cpu, figure[way][cpu][repetition]);
	printf("us: median / trimmed mean   get 64 B        get 4 KiB       put 64 B        put 4 KiB       "
	       "4 KiB put, pipelined\n");
	for (cpu = 0; cpu < cpus; cpu++)
		for (way = 0; way < WAYS; way++) {
			printf("%-14s %-10s", ways[way].name, cpu ? "other CPU" : "same CPU");
			for (what = 0; what < WHATS; what++)
				printf("  %6.2f /%6.2f", middle(&figure[way][cpu][0][what], WHATS, false),
				       middle(&figure[way][cpu][0][what], WHATS, true));
			printf("\n");
		}
	unlink(unix_url + 5);
	unlink(key_file);
	rmdir(folder);
	return 0;
}
