/*
 * home_inline.c - a home over the page port, answered in the faulting thread: every word written to a region
 * four times as large as local memory is read back, by several threads, through forks, and with pages dropped
 * and moved. The program is its own agent here.
 */
/* timeout: 120 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "home/home.h"
#include "port/page/page.h"
#include "tap.h"

#define REGION_PAGES 8192u
#define LOCAL_PAGES 2048u
#define THREADS 4

static struct lh_home *home;
static struct lh_port *port;
static struct lh_store *store;
static struct lh_memory_pool *pool;
static struct lh_stats stats;
static uint64_t *region;
static volatile int stop_reclaiming;
static pthread_t reclaimer;

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	int result = lh__home_miss(home, (uintptr_t)info->si_addr);

	(void)signal;
	(void)context;
	if (result == 0)
		return;
	static const char text[] = "# a miss failed\n";
	if (write(2, text, sizeof text - 1) < 0 || result)
		_exit(99);
}

static void *reclaim_loop(void *unused)
{
	uint64_t page;

	while (!stop_reclaiming)
		if (lh__home_balance(home, &page) <= 0)
			lh__home_wait(home, 1000000);
	return unused;
}

static void start_reclaimer(void)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	stop_reclaiming = 0;
	pthread_create(&reclaimer, NULL, reclaim_loop, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void stop_reclaimer(void)
{
	stop_reclaiming = 1;
	lh__home_poke(home);
	pthread_join(reclaimer, NULL);
}

static uint64_t expected[REGION_PAGES * 64]; /* the first word of each line, written in plain memory */

static int open_all(enum lh_prefetch prefetch)
{
	struct lh_page_options page_options = { .engine = LH_ENGINE_INLINE, .device = -1 };
	struct lh_home_options options = {
		.policy = lh__policy_find(NULL),
		.frames = LOCAL_PAGES + 64,
		.limit = LOCAL_PAGES,
		.prefetch = prefetch,
		.stats = &stats,
		.stall_limit_ns = 10000000000u,
	};
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	struct lh_error error = { 0 };
	int result;

	sigfillset(&action.sa_mask);
	sigaction(SIGBUS, &action, NULL);
	memset(&stats, 0, sizeof stats);
	memset(expected, 0, sizeof expected);
	result = lh__page_open(&lh__sys_default, &page_options, &port, &error);
	if (result < 0) {
		printf("# %s\n", error.text);
		return result;
	}
	if (lh__memory_pool_open(&lh__sys_default, 0, &pool) < 0 || lh__memory_open(pool, &store) < 0)
		return -ENOMEM;
	options.port = port;
	options.store = store;
	result = lh__home_open(&lh__sys_default, &options, &home);
	if (result < 0)
		return result;
	region = mmap(NULL, REGION_PAGES * 4096ul, PROT_READ | PROT_WRITE,
	              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	lh__home_change_begin(home);
	result = lh__home_watch(home, (uintptr_t)region, (uintptr_t)region + REGION_PAGES * 4096ul);
	lh__home_change_end(home);
	start_reclaimer();
	return result;
}

static void close_all(void)
{
	stop_reclaimer();
	munmap(region, REGION_PAGES * 4096ul);
	lh__home_close(home);
	port->ops->close(port);
	store->ops->close(store);
	lh__memory_pool_close(pool);
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x9e3779b97f4a7c15u;
	x ^= x >> 29;
	return x * 0xbf58476d1ce4e5b9u;
}

static uint64_t word_at(size_t index, uint64_t round)
{
	return mix(index * 31 + round) | 1;
}

static size_t resident_pages(void)
{
	unsigned char present[REGION_PAGES];
	size_t n = 0;

	if (mincore(region, REGION_PAGES * 4096ul, present) < 0)
		return SIZE_MAX;
	for (size_t i = 0; i < REGION_PAGES; i++)
		n += present[i] & 1;
	return n;
}

/* Writes one word in each of some lines of a page, so that later rounds change only some lines. */
static void write_page(size_t page, uint64_t round)
{
	for (size_t line = page % 3; line < 64; line += 3 + round)
		region[page * 512 + line * 8] = word_at(page * 512 + line * 8, round);
}

static void write_all(uint64_t round)
{
	for (size_t i = 0; i < REGION_PAGES; i++) {
		size_t page = mix(i + round) % REGION_PAGES;

		write_page(page, round);
		for (size_t line = page % 3; line < 64; line += 3 + round)
			expected[page * 64 + line] = word_at(page * 512 + line * 8, round);
	}
}

static size_t count_wrong(uint64_t seed)
{
	size_t wrong = 0;

	for (size_t i = 0; i < REGION_PAGES; i++) {
		size_t page = seed ? mix(i + seed) % REGION_PAGES : i;

		for (size_t line = 0; line < 64; line++)
			wrong += region[page * 512 + line * 8] != expected[page * 64 + line];
	}
	return wrong;
}

static void test_words(void)
{
	write_all(1);
	ok(resident_pages() <= LOCAL_PAGES, "no more than local memory is resident: %zu of %u pages",
	   resident_pages(), LOCAL_PAGES);
	is(count_wrong(0), 0, "every word is right, in order");
	is(count_wrong(77), 0, "every word is right, at random");
	write_all(2);
	write_all(3);
	is(count_wrong(0), 0, "every word is right after lines were changed");
	ok(stats.faults_store > REGION_PAGES / 2, "pages came from the store (%lu)",
	   (unsigned long)stats.faults_store);
	ok(stats.lines_written < stats.pages_written * 60,
	   "only changed lines were sent: %lu lines of %lu pages", (unsigned long)stats.lines_written,
	   (unsigned long)stats.pages_written);
}

/* Everything leaves, and all that was sent is acknowledged. */
static void empty_local_memory(void)
{
	stop_reclaimer();
	lh__home_set_limit(home, 0);
	while (lh__home_backed(home) > 0)
		if (lh__home_balance(home, &(uint64_t){ 0 }) < 0)
			break;
	lh__home_set_limit(home, LOCAL_PAGES);
	start_reclaimer();
}

static void test_clean(void)
{
	uint64_t written;

	empty_local_memory();
	written = stats.pages_written;
	count_wrong(0);
	count_wrong(7);
	empty_local_memory();
	is(stats.pages_written - written, 0, "reading alone sends nothing");
	write_page(1, 9);
	empty_local_memory();
	is(stats.pages_written - written, 1, "a page that was changed is sent once");
	write_page(1, 3);
}

static void *thread_body(void *argument)
{
	uintptr_t id = (uintptr_t)argument;
	uintptr_t wrong = 0;

	for (int round = 0; round < 6; round++)
		for (size_t i = 0; i < REGION_PAGES; i++) {
			size_t page = mix(i + id * 1000 + (size_t)round) % REGION_PAGES;
			uint64_t *word = &region[page * 512 + 258 + id * 8];

			wrong += *word != 0 && *word != word_at(page, id);
			*word = word_at(page, id);
		}
	return (void *)wrong;
}

static void test_threads(void)
{
	pthread_t threads[THREADS];
	uintptr_t wrong = 0;

	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, thread_body, (void *)i);
	for (int i = 0; i < THREADS; i++) {
		void *result;

		pthread_join(threads[i], &result);
		wrong += (uintptr_t)result;
	}
	is(wrong, 0, "%d threads see their own words", THREADS);
}

static void in_change(void (*change)(uintptr_t start, uintptr_t end), size_t first, size_t count)
{
	uintptr_t start = (uintptr_t)(region + first * 512), end = start + count * 4096;
	sigset_t all, old;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	lh__home_change_begin(home);
	lh__home_hold(home, start, end);
	change(start, end);
	lh__home_change_end(home);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

static void drop(uintptr_t start, uintptr_t end)
{
	madvise((void *)start, end - start, MADV_DONTNEED);
	lh__home_forget(home, start, end);
}

static void keep_all(uintptr_t start, uintptr_t end)
{
	lh__home_release(home, start, end);
}

static void swap_out(uintptr_t start, uintptr_t end)
{
	uintptr_t middle = start + (end - start) / 2;

	/* The first half goes over the second: of that, nothing must be known. */
	madvise((void *)middle, end - middle, MADV_DONTNEED);
	lh__home_leave(home, start, end);
	lh__home_forget(home, middle, end);
	if (mremap((void *)start, middle - start, middle - start, MREMAP_MAYMOVE | MREMAP_FIXED,
	           (void *)middle) == MAP_FAILED)
		return;
	if (lh__home_rename(home, start, middle, middle) < 0 || lh__home_watch(home, middle, end) < 0)
		return;
	lh__home_forget(home, start, middle);
	lh__home_left(home, start, end, true);
	if (mmap((void *)start, middle - start, PROT_READ | PROT_WRITE,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
	    lh__home_watch(home, start, middle) < 0)
		return;
}

static void test_changes(void)
{
	size_t wrong = 0;

	for (size_t i = 0; i < REGION_PAGES; i++)
		region[i * 512 + 3] = i + 1;
	in_change(drop, 1000, 500);
	for (size_t i = 1000; i < 1500; i++)
		wrong += region[i * 512 + 3] != 0;
	is(wrong, 0, "dropped pages read as zero");
	in_change(keep_all, 2000, 1000);
	for (size_t i = 2000; i < 3000; i++)
		wrong += region[i * 512 + 3] != i + 1;
	is(wrong, 0, "a change that did not happen changes nothing");
	in_change(swap_out, 4000, 2000);
	for (size_t i = 0; i < 1000; i++)
		wrong += region[(5000 + i) * 512 + 3] != 4000 + i + 1 || region[(4000 + i) * 512 + 3] != 0;
	is(wrong, 0, "moved pages have their content at the new place and none at the old one");
}

static int child_body(struct lh_store *clone)
{
	struct lh_error error = { 0 };
	size_t wrong = 0;

	if (lh__page_after_fork(port, &error) < 0 || lh__home_fork_child(home, clone) < 0)
		return 1;
	start_reclaimer();
	for (size_t i = 0; i < REGION_PAGES; i++)
		wrong += region[i * 512 + 5] != i + 7;
	for (size_t i = 0; i < REGION_PAGES; i++)
		region[i * 512 + 5] = i + 9;
	for (size_t i = 0; i < REGION_PAGES; i++)
		wrong += region[i * 512 + 5] != i + 9;
	wrong += resident_pages() > LOCAL_PAGES;
	return wrong != 0;
}

static void test_fork(void)
{
	struct lh_store *clone;
	struct lh_error error;
	int status = -1;
	size_t wrong = 0;
	pid_t pid;

	for (size_t i = 0; i < REGION_PAGES; i++)
		region[i * 512 + 5] = i + 7;
	if (lh__home_pause(home) < 0 || store->ops->clone(store, &clone, &error) < 0) {
		ok(0, "fork begins");
		return;
	}
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		_exit(child_body(clone));
	lh__home_resume(home);
	for (size_t i = 0; i < REGION_PAGES; i++)
		region[i * 512 + 5] = i + 8;
	for (size_t i = 0; i < REGION_PAGES; i++)
		wrong += region[i * 512 + 5] != i + 8;
	waitpid(pid, &status, 0);
	is(status, 0, "the child sees the snapshot, and its own changes");
	is(wrong, 0, "the parent sees its own changes");
	wrong = 0;
	for (size_t i = 0; i < REGION_PAGES; i++)
		wrong += region[i * 512 + 5] != i + 8;
	is(wrong, 0, "after the child has gone as well");
	ok(resident_pages() <= LOCAL_PAGES, "pages that were shared leave again: %zu resident",
	   resident_pages());
	clone->ops->close(clone);
}

static volatile int stop_looking;

static void *look_loop(void *rounds)
{
	while (!stop_looking) {
		lh__home_change_begin(home);
		lh__home_rescan(home);
		lh__home_change_end(home);
		++*(uint64_t *)rounds;
	}
	return NULL;
}

/* A fork copies the home while it is paused: a page that is BUSY then is so for ever in the child. */
static void test_pause_while_looking(void)
{
	uint64_t rounds = 0, broken = 0;
	sigset_t all, old;
	pthread_t looker;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	stop_looking = 0;
	pthread_create(&looker, NULL, look_loop, &rounds);
	for (int i = 0; i < 300 || __atomic_load_n(&rounds, __ATOMIC_RELAXED) < 10; i++) {
		broken += lh__home_pause(home) != 0 || lh__home_check(home) != 0;
		lh__home_resume(home);
	}
	stop_looking = 1;
	pthread_join(looker, NULL);
	sigprocmask(SIG_SETMASK, &old, NULL);
	is(broken, 0, "in a pause nothing is half done, whoever looks for pages meanwhile");
}

static void test_check(void)
{
	stop_reclaimer();
	while (lh__home_balance(home, &(uint64_t){ 0 }) > 0)
		;
	is(lh__home_check(home), 0, "the invariants hold");
	start_reclaimer();
}

static void test_sequential(void)
{
	uint64_t fetched;
	size_t wrong = 0;

	for (size_t i = 0; i < REGION_PAGES; i++)
		region[i * 512 + 1] = i + 3;
	fetched = stats.faults_store;
	for (size_t i = 0; i < REGION_PAGES; i++)
		wrong += region[i * 512 + 1] != i + 3;
	is(wrong, 0, "prefetched pages are right");
	ok(stats.pages_prefetched > REGION_PAGES / 2, "pages were asked for ahead: %lu",
	   (unsigned long)stats.pages_prefetched);
	ok(stats.faults_store - fetched < REGION_PAGES / 2, "fewer had to be waited for: %lu",
	   (unsigned long)(stats.faults_store - fetched));
}

int main(void)
{
	int result = open_all(LH_PREFETCH_NONE);

	if (result == -EPERM || result == -ENOSYS || result == -EINVAL) {
		skip("all", "userfaultfd is not available");
		return done();
	}
	is(result, 0, "opens");
	test_words();
	test_clean();
	test_check();
	test_threads();
	test_changes();
	test_check();
	test_fork();
	test_check();
	test_pause_while_looking();
	close_all();
	is(open_all(LH_PREFETCH_NEXT), 0, "opens with prefetch");
	test_sequential();
	test_words();
	test_check();
	close_all();
	return done();
}
