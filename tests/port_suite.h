/*
 * port_suite.h - what the cases of the port conformance suite (tests/port_conformance.h) are written in: a
 * port with memory that it watches, requests that are answered as a case wants it, and threads that touch
 * what is absent.
 *
 * How a touch becomes a request is the port's engine, and the factory's business: whatever it is, it calls
 * port_request() with the address. That may be in a signal handler of the thread that touched.
 *
 * Every page of the suite has a content that tells it apart: word i of page `key` in `version` is
 * suite_word(). What is present is asked of the kernel (/proc/self/pagemap), never of the port under test.
 */
#ifndef PORT_SUITE_H
#define PORT_SUITE_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#include "expect.h"
#include "port/port.h"
#include "tap.h"

struct port_factory {
	const char *name;
	void *context;
	/*
	 * A port that watches nothing yet, and what brings its requests to port_request(). NULL fails the
	 * case.
	 */
	struct lh_port *(*open)(void *context);
	/* Closes it. Whoever waits for a page goes on, and finds zeroes. */
	void (*close)(void *context, struct lh_port *port);
	/*
	 * In a child after fork, before anything is touched: the port is one of this process. 0 or a negative
	 * errno.
	 */
	int (*renew)(void *context, struct lh_port *port);
	/* A second port that watches the same kind of memory and answers nothing. */
	struct lh_port *(*rival)(void *context);
	/* Memory that the port can watch, nothing of it present; NULL: not with this protection. */
	void *(*map)(void *context, size_t size, int protection);
	/* Puts memory that it cannot watch at the address; false: there is none. */
	bool (*map_other)(void *context, void *address, size_t size);
	unsigned patience_ms; /* after which a thread that waits is held to be stuck; 0: 20000 */
	/* The port sees writes, and its home never takes pages: the cases about that are left out. */
	bool stays;
	/*
	 * Its memory is shared. What the program drops is there still, and the kernel shows a mark where a
	 * page is absent and protected.
	 */
	bool shared;
	unsigned rounds; /* of cases where threads meet; 0: 20000 */
};

/* What a request gets. */
enum suite_answer {
	ANSWER_SUPPLY,  /* content of `version` */
	ANSWER_WAKE,    /* nothing, and it is asked again */
	ANSWER_NOTHING, /* nothing: it waits until the case has answered */
	ANSWER_OPEN,    /* a write to a protected page: writes are not seen any more */
};

#define SUITE_PAGES 64u
#define SUITE_MAPPINGS 8u
#define SUITE_TOUCHERS 8u
#define SUITE_BUFFER 16u

struct toucher {
	pthread_t thread;
	volatile uint64_t *at;
	uint64_t seen;  /* what was read */
	uint64_t write; /* what is written instead, where it is not 0 */
	bool done;
};

struct suite {
	const struct port_factory *factory;
	struct lh_port *port;
	unsigned char *pages; /* SUITE_PAGES, watched, absent at first */
	unsigned char *staging;
	enum suite_answer answer;
	uint64_t version;
	unsigned requests;
	uintptr_t requested; /* the last one's page */
	long refused;        /* an answer that failed */
	struct toucher toucher[SUITE_TOUCHERS];
	unsigned touchers;
	struct {
		void *at;
		size_t size;
	} mapping[SUITE_MAPPINGS];
	const char *lacks; /* what this system lacks for the case, or for a part of it */
	char text[300];
};

/* The suite that runs; a signal handler has nobody else to ask. */
static struct suite *suite_now;

/* ---- memory ---- */

static unsigned char *page_of(struct suite *suite, size_t i)
{
	return suite->pages + i * LH_PAGE_SIZE;
}

static unsigned char *stage_of(struct suite *suite, size_t i)
{
	return suite->staging + i * LH_PAGE_SIZE;
}

static size_t bytes(size_t pages)
{
	return pages * LH_PAGE_SIZE;
}

/* Memory of the factory's kind, given back when the case is over. */
static unsigned char *suite_map(struct suite *suite, size_t pages, int protection)
{
	unsigned i = 0;

	while (i < SUITE_MAPPINGS && suite->mapping[i].at)
		i++;
	if (i == SUITE_MAPPINGS)
		return NULL;
	suite->mapping[i].at = suite->factory->map(suite->factory->context, bytes(pages), protection);
	suite->mapping[i].size = bytes(pages);
	return suite->mapping[i].at;
}

static void suite_unmap(struct suite *suite)
{
	for (unsigned i = 0; i < SUITE_MAPPINGS; i++)
		if (suite->mapping[i].at)
			munmap(suite->mapping[i].at, suite->mapping[i].size);
}

static bool suite_owns(const struct suite *suite, uintptr_t address)
{
	for (unsigned i = 0; i < SUITE_MAPPINGS; i++)
		if (suite->mapping[i].at &&
		    address - (uintptr_t)suite->mapping[i].at < suite->mapping[i].size)
			return true;
	return false;
}

static uint64_t suite_word(uint64_t key, uint64_t version, size_t i)
{
	return ((key * 512 + i + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ version << 1) | 1;
}

static void suite_fill(void *data, uint64_t key, uint64_t version, size_t pages)
{
	uint64_t *word = data;

	for (size_t p = 0; p < pages; p++)
		for (size_t i = 0; i < 512; i++)
			word[p * 512 + i] = suite_word(key + p, version, i);
}

/* That pages hold the content of key, key + 1, ... in this version; version 0: zeroes. */
static bool suite_holds(const void *memory, uint64_t key, uint64_t version, size_t pages)
{
	const volatile uint64_t *word = memory;

	for (size_t p = 0; p < pages; p++)
		for (size_t i = 0; i < 512; i++)
			if (word[p * 512 + i] != (version ? suite_word(key + p, version, i) : 0))
				return false;
	return true;
}

#define PAGEMAP_PRESENT (UINT64_C(3) << 62) /* in memory, or where the kernel put it aside */
#define PAGEMAP_FRAME ((UINT64_C(1) << 55) - 1)

static uint64_t suite_pagemap(const void *memory)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (pagemap < 0 || pread(pagemap, &entry, sizeof entry,
	                         (off_t)((uintptr_t)memory / LH_PAGE_SIZE * 8)) != sizeof entry)
		entry = 0;
	if (pagemap >= 0)
		close(pagemap);
	return entry;
}

static bool suite_present(const void *memory)
{
	return (suite_pagemap(memory) & PAGEMAP_PRESENT) != 0;
}

/* How many of the pages are present. */
static size_t suite_count(const void *memory, size_t pages)
{
	size_t n = 0;

	for (size_t i = 0; i < pages; i++)
		n += suite_present((const char *)memory + bytes(i));
	return n;
}

/* The same as suite_holds, of pages that must be present: they are not touched before that is known. */
static bool suite_keeps(const void *memory, uint64_t key, uint64_t version, size_t pages)
{
	return suite_count(memory, pages) == pages && suite_holds(memory, key, version, pages);
}

/* The number of the physical page; 0: absent, or not told to this user. */
static uint64_t suite_frame(const void *memory)
{
	return suite_pagemap(memory) & PAGEMAP_FRAME;
}

/* ---- time ---- */

static uint64_t suite_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t suite_deadline(const struct suite *suite)
{
	return suite_ms() + (suite->factory->patience_ms ? suite->factory->patience_ms : 20000);
}

static unsigned suite_rounds(const struct suite *suite)
{
	return suite->factory->rounds ? suite->factory->rounds : 20000;
}

/* Waits until a count that others add to is at least so large. */
static bool suite_reaches(const struct suite *suite, const unsigned *count, unsigned least)
{
	uint64_t deadline = suite_deadline(suite);

	while (__atomic_load_n(count, __ATOMIC_ACQUIRE) < least) {
		if (suite_ms() > deadline)
			return false;
		sched_yield();
	}
	return true;
}

/* ---- the slots, asked again where they say so ---- */

#define SUITE_AGAIN(suite, call)                                                                             \
	({                                                                                                   \
		uint64_t suite__deadline = suite_deadline(suite);                                            \
		long suite__result;                                                                          \
		do                                                                                           \
			suite__result = (call);                                                              \
		while (suite__result == -EAGAIN && suite_ms() <= suite__deadline);                           \
		suite__result;                                                                               \
	})

static long suite_copy(struct suite *suite, const void *at, const void *content, size_t pages)
{
	return SUITE_AGAIN(suite, suite->port->ops->supply(suite->port, (uintptr_t)at, content, pages));
}

static long suite_supply(struct suite *suite, const void *at, uint64_t key, uint64_t version, size_t pages)
{
	unsigned char content[SUITE_BUFFER * LH_PAGE_SIZE];

	if (pages > SUITE_BUFFER)
		return -E2BIG;
	suite_fill(content, key, version, pages);
	return suite_copy(suite, at, content, pages);
}

static long suite_zero(struct suite *suite, const void *at, size_t pages)
{
	return SUITE_AGAIN(suite, suite->port->ops->supply_zero(suite->port, (uintptr_t)at, pages));
}

static long suite_take(struct suite *suite, const void *from, const void *staging, size_t pages)
{
	return SUITE_AGAIN(suite,
	                   suite->port->ops->take(suite->port, (uintptr_t)from, (uintptr_t)staging, pages));
}

static long suite_give(struct suite *suite, const void *staging, const void *to, size_t pages)
{
	return SUITE_AGAIN(suite,
	                   suite->port->ops->give(suite->port, (uintptr_t)staging, (uintptr_t)to, pages));
}

static int suite_watch(struct suite *suite, const void *at, size_t pages)
{
	return suite->port->ops->watch(suite->port, (uintptr_t)at, bytes(pages));
}

static int suite_unwatch(struct suite *suite, const void *at, size_t pages)
{
	return suite->port->ops->unwatch(suite->port, (uintptr_t)at, bytes(pages));
}

static int suite_protect(struct suite *suite, const void *at, size_t pages)
{
	return (int)SUITE_AGAIN(suite, suite->port->ops->protect(suite->port, (uintptr_t)at, pages));
}

static int suite_unprotect(struct suite *suite, const void *at, size_t pages)
{
	return (int)SUITE_AGAIN(suite, suite->port->ops->unprotect(suite->port, (uintptr_t)at, pages));
}

static void suite_wake(struct suite *suite, const void *at)
{
	suite->port->ops->wake(suite->port, (uintptr_t)at);
}

/* Makes pages of the suite present with the content of a version, key being their index. */
static const char *suite_place(struct suite *suite, size_t first, size_t n, uint64_t version)
{
	for (size_t i = first; i < first + n; i++)
		EXPECT(suite_supply(suite, page_of(suite, i), i, version, 1) == 1);
	return NULL;
}

/* ---- requests ---- */

static void answer_open(struct suite *suite, uintptr_t page)
{
	int result;

	do
		result = suite->port->ops->unprotect(suite->port, page, 1);
	while (result == -EAGAIN);
	if (result < 0)
		__atomic_store_n(&suite->refused, result, __ATOMIC_RELAXED);
}

static void answer_supply(struct suite *suite, uintptr_t page)
{
	uint64_t content[512];
	long result;

	suite_fill(content, (page - (uintptr_t)suite->pages) / LH_PAGE_SIZE, suite->version, 1);
	do
		result = suite->port->ops->supply(suite->port, page, content, 1);
	while (result == -EAGAIN);
	/* It is there, so somebody has written to it where that is seen. */
	if (result == -EEXIST && suite->port->caps.sees_writes)
		answer_open(suite, page);
	if (result != 1 && result != -EEXIST)
		__atomic_store_n(&suite->refused, result ? result : -EIO, __ATOMIC_RELAXED);
}

/* What the engine calls: a page was touched and is absent. */
static void port_request(uintptr_t address)
{
	static const char text[] = "# a request for memory that is not the suite's\n";
	struct suite *suite = suite_now;
	uintptr_t page = address & ~(uintptr_t)(LH_PAGE_SIZE - 1);

	if (!suite || !suite_owns(suite, address))
		_exit(write(2, text, sizeof text - 1) < 0 ? 98 : 99);
	__atomic_store_n(&suite->requested, page, __ATOMIC_RELAXED);
	__atomic_add_fetch(&suite->requests, 1, __ATOMIC_RELEASE);
	switch (__atomic_load_n(&suite->answer, __ATOMIC_ACQUIRE)) {
	case ANSWER_SUPPLY: answer_supply(suite, page); break;
	case ANSWER_OPEN: answer_open(suite, page); break;
	case ANSWER_WAKE: suite->port->ops->wake(suite->port, page); /* fall through */
	default: sched_yield(); /* in the thread that touched, who now looks again */
	}
}

/* From now on: what a request gets; none has been seen. */
static void suite_answers(struct suite *suite, enum suite_answer answer, uint64_t version)
{
	suite->version = version;
	__atomic_store_n(&suite->requests, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&suite->answer, answer, __ATOMIC_RELEASE);
}

static unsigned suite_requests(const struct suite *suite)
{
	return __atomic_load_n(&suite->requests, __ATOMIC_ACQUIRE);
}

/* ---- threads that touch ---- */

static void *touch(void *argument)
{
	struct toucher *toucher = argument;

	if (toucher->write)
		*toucher->at = toucher->write;
	else
		toucher->seen = *toucher->at;
	__atomic_store_n(&toucher->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* A thread that reads the first word of a page, or writes it, and waits there if nobody answers. */
static struct toucher *suite_start(struct suite *suite, void *at, uint64_t value)
{
	struct toucher *toucher = &suite->toucher[suite->touchers];

	if (suite->touchers == SUITE_TOUCHERS)
		abort();
	*toucher = (struct toucher){ .at = at, .write = value };
	if (pthread_create(&toucher->thread, NULL, touch, toucher) != 0)
		abort();
	suite->touchers++;
	return toucher;
}

static struct toucher *suite_touch(struct suite *suite, void *at)
{
	return suite_start(suite, at, 0);
}

/* The same, returning when the request has been seen; NULL if that does not come. */
static struct toucher *suite_waiter(struct suite *suite, void *at)
{
	struct toucher *toucher;

	suite_answers(suite, ANSWER_NOTHING, 0);
	toucher = suite_touch(suite, at);
	return suite_reaches(suite, &suite->requests, 1) ? toucher : NULL;
}

static struct toucher *suite_writer(struct suite *suite, void *at, uint64_t value)
{
	struct toucher *toucher;

	suite_answers(suite, ANSWER_NOTHING, 0);
	toucher = suite_start(suite, at, value);
	return suite_reaches(suite, &suite->requests, 1) ? toucher : NULL;
}

static bool suite_goes_on(struct suite *suite, struct toucher *toucher)
{
	uint64_t deadline = suite_deadline(suite);

	while (!__atomic_load_n(&toucher->done, __ATOMIC_ACQUIRE)) {
		if (suite_ms() > deadline)
			return false;
		sched_yield();
	}
	return true;
}

static void suite_join(struct suite *suite)
{
	for (unsigned i = 0; i < suite->touchers; i++)
		pthread_join(suite->toucher[i].thread, NULL);
}

/* ---- children ---- */

/* Runs body in a child and ends it; what did not hold there is printed by the child. */
static pid_t suite_fork(struct suite *suite, const char *(*body)(struct suite *suite, void *context),
                        void *context)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		const char *wrong = body(suite, context);

		if (wrong)
			printf("# in a child: %s\n", wrong);
		fflush(stdout);
		_exit(wrong != NULL);
	}
	return pid;
}

/* That the child ends, and well. One that is stuck is ended. */
static bool suite_child_ends(struct suite *suite, pid_t pid)
{
	uint64_t deadline = suite_deadline(suite);
	int status = -1;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (suite_ms() > deadline) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return false;
		}
		usleep(200);
	}
	return status == 0;
}

#endif
