/*
 * home_stats.c - what the home counts, against workloads whose counts are known: a home over the page port
 * and a memory store in this process. Nobody reclaims but this test, by hand, and the store acknowledges when
 * it is told to, so every figure is exact.
 */
/* timeout: 60 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#include "home/internal.h"
#include "port/page/page.h"
#include "tap.h"

#define BLOCK_PAGES 512u
#define BLOCKS 4u
#define PAGES (BLOCKS * BLOCK_PAGES)
#define LIMIT 1024u
#define SMALL 256u

/*
 * ---- a store that counts by itself, answers late if told to, and acknowledges only while it is not shut
 * ----
 */

struct witness {
	struct lh_store store;
	struct lh_store *below;
	bool shut;
	uint64_t answer_ns; /* what get_now takes at least */
	struct lh_request *done[2 * LH_REQUESTS];
	size_t n;
	uint64_t puts, lines, drops, gets;
};

static int witness_submit(struct lh_store *store, struct lh_request *const *requests, size_t n)
{
	struct witness *witness = (struct witness *)store;

	for (size_t i = 0; i < n; i++) {
		enum lh_op op = requests[i]->op;

		witness->gets += op == LH_OP_GET;
		witness->drops += op == LH_OP_DROP;
		witness->puts += op == LH_OP_PUT || op == LH_OP_REPLACE;
		if (op == LH_OP_PUT || op == LH_OP_REPLACE)
			witness->lines += lh__mask_count(requests[i]->mask);
		(void)lh__memory_apply(witness->below, requests[i]);
		witness->done[witness->n++] = requests[i];
	}
	return 0;
}

static size_t witness_poll(struct lh_store *store, struct lh_request **done, size_t max, int timeout_ms)
{
	struct witness *witness = (struct witness *)store;
	size_t n = witness->shut ? 0 : witness->n < max ? witness->n : max;

	(void)timeout_ms;
	memcpy(done, witness->done, n * sizeof *done);
	memmove(witness->done, witness->done + n, (witness->n - n) * sizeof *done);
	witness->n -= n;
	return n;
}

static int witness_get_now(struct lh_store *store, uint64_t page, lh_mask want, void *data, lh_mask *held)
{
	struct witness *witness = (struct witness *)store;
	uint64_t until = lh__now(store->sys) + witness->answer_ns;

	while (witness->answer_ns && lh__now(store->sys) < until)
		__builtin_ia32_pause();
	return witness->below->ops->get_now(witness->below, page, want, data, held);
}

static int witness_sync(struct lh_store *store)
{
	(void)store;
	return 0;
}

static int witness_clone(struct lh_store *store, struct lh_store **out, struct lh_error *error)
{
	(void)store;
	(void)out;
	return lh__fail(error, -ENOTSUP, "the witness is not cloned");
}

static void witness_close(struct lh_store *store)
{
	((struct witness *)store)->below->ops->close(((struct witness *)store)->below);
}

static const struct lh_store_ops witness_ops = {
	.name = "witness",
	.submit = witness_submit,
	.poll = witness_poll,
	.get_now = witness_get_now,
	.sync = witness_sync,
	.clone = witness_clone,
	.reserve = lh__store_reserve_none,
	.close = witness_close,
};

static struct witness witness;

/* ---- a port that says how many pages it took, and refuses one if told to ---- */

static struct lh_port *port;
static struct lh_port_ops counting_ops;
static const struct lh_port_ops *port_ops;
static uintptr_t refused;
static uint64_t taken, refusals;

static long counting_take(struct lh_port *of, uintptr_t address, uintptr_t staging, size_t pages)
{
	long result;

	if (refused >= address && refused < address + pages * LH_PAGE_SIZE) {
		refusals += pages == 1; /* the first of several is asked for again by itself */
		return -EBUSY;
	}
	result = port_ops->take(of, address, staging, pages);
	taken += result > 0 ? (uint64_t)result : 0;
	return result;
}

/* ---- the home ---- */

static struct lh_memory_pool *pool;
static struct lh_home *home;
static struct lh_stats stats;
static unsigned char *region; /* aligned to a block */
static uint64_t misses;

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	if (lh__home_miss(home, (uintptr_t)info->si_addr) != 0)
		_exit(99);
	misses++;
}

static void map_region(void)
{
	size_t size = (size_t)PAGES * LH_PAGE_SIZE, block = (size_t)BLOCK_PAGES * LH_PAGE_SIZE;
	unsigned char *at = mmap(NULL, size + block, PROT_READ | PROT_WRITE,
	                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	region = at + (block - (uintptr_t)at % block) % block;
}

static int open_port(void)
{
	struct lh_page_options options = { .engine = LH_ENGINE_INLINE, .device = -1 };
	struct lh_error error = { 0, "" };
	int result = lh__page_open(&lh__sys_default, &options, &port, &error);

	if (result < 0)
		return printf("# %s\n", error.text), result;
	port_ops = port->ops;
	counting_ops = *port_ops;
	counting_ops.take = counting_take;
	port->ops = &counting_ops;
	taken = refusals = refused = 0;
	return 0;
}

static int open_store(void)
{
	memset(&witness, 0, sizeof witness);
	if (lh__memory_pool_open(&lh__sys_default, 0, &pool) < 0 || lh__memory_open(pool, &witness.below) < 0)
		return -ENOMEM;
	witness.store = (struct lh_store){ .ops = &witness_ops,
		                           .sys = &lh__sys_default,
		                           .caps = witness.below->caps };
	return 0;
}

static int open_all(uint32_t limit, enum lh_prefetch prefetch)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	struct lh_home_options options = { .policy = lh__policy_find("fifo"),
		                           .frames = limit,
		                           .limit = limit,
		                           .prefetch = prefetch,
		                           .stats = &stats,
		                           .stall_limit_ns = 10000000000u };
	int result = open_port();

	sigfillset(&action.sa_mask);
	sigaction(SIGBUS, &action, NULL);
	memset(&stats, 0, sizeof stats);
	misses = 0;
	if (result == 0)
		result = open_store();
	options.port = port;
	options.store = &witness.store;
	if (result == 0)
		result = lh__home_open(&lh__sys_default, &options, &home);
	if (result < 0)
		return result;
	map_region();
	lh__home_change_begin(home);
	result = lh__home_watch(home, (uintptr_t)region, (uintptr_t)region + (size_t)PAGES * LH_PAGE_SIZE);
	lh__home_change_end(home);
	return result;
}

static void close_all(void)
{
	is(lh__home_check(home), 0, "the home's invariants hold");
	munmap(region, (size_t)PAGES * LH_PAGE_SIZE);
	lh__home_close(home);
	port->ops = port_ops;
	port->ops->close(port);
	witness.store.ops->close(&witness.store);
	lh__memory_pool_close(pool);
}

static void balance(void)
{
	uint64_t page;
	unsigned idle = 0;

	/*
	 * Pages that stay since they are refused are tried for ever: a round in which nothing leaves is the
	 * last.
	 */
	while (idle < 3) {
		uint64_t before = stats.pages_reclaimed + stats.pages_written;

		if (lh__home_balance(home, &page) != LH_ROUND_MORE)
			return;
		idle = before == stats.pages_reclaimed + stats.pages_written ? idle + 1 : 0;
	}
}

/* Everything leaves local memory that can. */
static void evict_all(void)
{
	uint32_t limit = lh__home_limit(home);

	lh__home_set_limit(home, 0);
	balance();
	lh__home_set_limit(home, limit);
}

/* A touch may run the handler, which the compiler does not know: what it counts is read afterwards. */
static unsigned char touch(size_t page)
{
	unsigned char value = *(volatile unsigned char *)&region[page * LH_PAGE_SIZE];

	__asm__ volatile("" ::: "memory");
	return value;
}

static void touch_byte(size_t page, size_t byte, unsigned char value)
{
	*(volatile unsigned char *)&region[page * LH_PAGE_SIZE + byte] = value;
	__asm__ volatile("" ::: "memory");
}

static void fill(size_t page, unsigned char value)
{
	touch(page);
	memset(region + page * LH_PAGE_SIZE, value, LH_PAGE_SIZE);
}

/* Writes `each` bytes at the beginning of each of the first `lines` lines of a page. */
static void write_lines(size_t page, unsigned lines, unsigned each, unsigned char value)
{
	for (unsigned line = 0; line < lines; line++)
		for (unsigned i = 0; i < each; i++)
			touch_byte(page, line * 64 + i, value);
}

/* ---- the relations that stats.h promises ---- */

static const char *broken_relation(const struct lh_stats *s)
{
	if (s->faults_zero + s->faults_staging + s->faults_store + s->faults_prefetched + s->faults_present !=
	    misses)
		return "each fault is of one kind";
	if (s->pages_reclaimed !=
	    s->pages_dropped_clean + s->pages_dropped_zero + s->pages_written - s->pages_stayed)
		return "each page that left did so in one way";
	if (s->pages_deactivated != taken)
		return "what was deactivated is what the port took";
	if (s->pages_prefetched != witness.gets || s->busy_retries != refusals)
		return "prefetches are GETs, and refusals the port's";
	if (witness.n == 0 && (s->pages_written != witness.puts || s->lines_written != witness.lines))
		return "what was written is what the store was sent";
	if (s->bytes_changed < s->lines_written || s->bytes_changed > s->lines_written * LH_LINE_SIZE)
		return "a changed line has 1 to 64 changed bytes";
	return NULL;
}

static void relations(const char *where)
{
	const char *broken = broken_relation(&stats);

	ok(!broken, "%s: the relations between the counters hold%s%s", where, broken ? ", but not that " : "",
	   broken ? broken : "");
}

/* ---- cases: faults ---- */

static void new_pages(void)
{
	for (size_t i = 0; i < 100; i++)
		touch(200 - i); /* downwards: nothing is supplied ahead */
	is(stats.faults_zero, 100, "new pages are answered with zeroes");
	is(stats.pages_zero_ahead, 0, "one by one where they are touched downwards");
	for (size_t i = 300; i < 600; i++)
		touch(i);
	/* With each touch 0, 1, 3 and 7 pages are supplied ahead, and from then on 14. */
	is(stats.faults_zero, 100 + 4 + 19, "upwards few need a touch");
	is(stats.faults_zero + stats.pages_zero_ahead, 400, "and each page is counted once");
	touch_byte(700, 0, 1);
	madvise(region + (size_t)700 * LH_PAGE_SIZE, LH_PAGE_SIZE, MADV_DONTNEED);
	is(touch(700), 0, "a page that was dropped behind the home's back is zero");
	is(stats.faults_zero, 123 + 2, "which is answered as such");
	misses += lh__home_miss(home, (uintptr_t)region + 700 * LH_PAGE_SIZE) == 0;
	is(stats.faults_present, 1, "a fault for a page that is there needs nothing");
	relations("new pages");
}

static void prefetches(void)
{
	for (size_t i = 0; i < 98; i++)
		touch_byte(i, 5, 7);
	evict_all();
	for (size_t i = 0; i < 98; i++)
		touch(i);
	/*
	 * 0 and 1 are fetched; then 4, 8, 16, 32 and 32 pages are asked for ahead, and the page after them
	 * fetched.
	 */
	is(stats.faults_store, 6, "a touch in order fetches");
	is(stats.pages_prefetched, 92, "what follows is asked for before it is touched");
	is(stats.faults_prefetched, 5, "the first touch of what is on its way waits for it");
	is(stats.pages_fetched, 98, "every page came once");
	is(stats.lines_fetched, 98, "with the one line that it has");
	is(stats.faults_present, 0, "no fault is counted twice");
	relations("prefetches");
}

static uint64_t now(void)
{
	return lh__now(&lh__sys_default);
}

static void latencies(void)
{
	const uint64_t answer = 2000000;
	uint64_t start, fetches = 0, early = 0;

	for (size_t i = 0; i < 5; i++)
		touch_byte(10 - i, 0, 1);
	evict_all();
	witness.answer_ns = answer;
	start = now();
	for (size_t i = 0; i < 5; i++)
		touch(10 - i);
	ok(stats.latency_ns >= 5 * answer && stats.latency_ns <= now() - start,
	   "five answers of 2 ms take %u us", (unsigned)(stats.latency_ns / 1000));
	for (unsigned i = 0; i < LH_LATENCY_BUCKETS; i++) {
		fetches += stats.latency[i];
		early += lh__latency_floor(i + 1) <= answer ? stats.latency[i] : 0;
	}
	is(fetches, 5, "each is in the histogram");
	is(early, 0, "none in a bucket below");
	relations("latencies");
}

static void stalls(void)
{
	uint64_t expected = 0, spent = 0;

	for (size_t i = 0; i < 1000; i++) {
		bool full = lh__frames_free(home) == 0;
		uint64_t start = now();

		touch_byte(PAGES - 1 - i, 0, 1);
		expected += full;
		spent += full ? now() - start : 0;
	}
	ok(expected > 0, "a program that is faster than reclaim finds no frame %u times", (unsigned)expected);
	is(stats.stalls, expected, "which is counted");
	ok(stats.stall_ns > 0 && stats.stall_ns <= spent, "with its time: %u of %u us",
	   (unsigned)(stats.stall_ns / 1000), (unsigned)(spent / 1000));
	relations("stalls");
}

/* ---- cases: what is written ---- */

static struct lh_stats before;

static void expect_written(uint64_t pages, uint64_t lines, uint64_t bytes, const char *what)
{
	is(stats.pages_written - before.pages_written, pages, "%s: pages", what);
	is(stats.lines_written - before.lines_written, lines, "%s: lines", what);
	is(stats.bytes_changed - before.bytes_changed, bytes, "%s: bytes that changed", what);
	before = stats;
}

static void touch_all(size_t pages)
{
	for (size_t i = pages; i-- > 0;)
		touch(i);
}

static void changed_bytes(void)
{
	before = stats;
	for (size_t i = 64; i-- > 0;)
		write_lines(i, 5, 3, 1);
	evict_all();
	is(stats.pages_reclaimed, 64, "all pages have left");
	expect_written(64, 64 * 5, 64 * 15, "new pages with 3 bytes in each of 5 lines");
	touch_all(64);
	is(stats.faults_store, 64, "they are fetched");
	is(stats.lines_fetched, 64 * 5, "with five lines each");
	evict_all();
	is(stats.pages_dropped_clean, 64, "unchanged they leave without a word");
	expect_written(0, 0, 0, "unchanged pages");
	for (size_t i = 64; i-- > 0;)
		write_lines(i, 2, 7, 2);
	evict_all();
	expect_written(64, 64 * 2, 64 * 14, "7 bytes in each of 2 lines");
	for (size_t i = 64; i-- > 0;)
		write_lines(i, 2, 7, 2);
	evict_all();
	is(stats.pages_dropped_clean, 128, "written with what they hold they are clean");
	for (size_t i = 64; i-- > 0;)
		touch_byte(i, 0, 0);
	evict_all();
	expect_written(64, 64, 64, "one byte that becomes zero");
	relations("changed bytes");
}

static void zero_pages(void)
{
	uint64_t drops = witness.drops;

	before = stats;
	for (size_t i = 100; i-- > 64;)
		touch(i);
	evict_all();
	is(stats.pages_dropped_zero, 36, "pages that were only read are zero, and leave so");
	for (size_t i = 10; i-- > 0;)
		fill(i, 0);
	evict_all();
	balance();
	is(stats.pages_dropped_zero, 46, "so do pages that were written over with zeroes");
	is(witness.drops - drops, 10, "which the store is told to forget");
	expect_written(0, 0, 0, "zero pages");
	relations("zero pages");
}

static void whole_pages(void)
{
	before = stats;
	for (size_t i = 0; i < 8; i++)
		fill(120 - i, 9);
	evict_all();
	expect_written(8, 8 * 64, 8 * 4096, "whole pages");
	touch_byte(120, 4095, 1);
	evict_all();
	expect_written(1, 1, 1, "one byte of a page of 4096");
	relations("whole pages");
}

/* ---- cases: what comes in between ---- */

static void stayed(void)
{
	before = stats;
	for (size_t i = 32; i-- > 0;)
		write_lines(i, 1, 2, 5);
	witness.shut = true;
	evict_all();
	expect_written(0, 0, 0, "nothing counts before it is acknowledged");
	touch_all(16);
	is(stats.faults_staging, 16, "pages are given back while they are on the way to the store");
	for (size_t i = 8; i-- > 0;)
		touch_byte(i, 1, 6);
	witness.shut = false;
	balance();
	is(stats.pages_stayed, 16, "their writing does not make them leave");
	is(stats.pages_reclaimed, 16, "the others leave");
	expect_written(32, 32, 64, "all were written");
	evict_all();
	expect_written(8, 8, 8, "what was changed meanwhile is written too");
	is(stats.pages_dropped_clean, 8, "what was not is clean");
	relations("pages that stayed");
}

/* A page is touched, changed and evicted once more, all while its first put is on the way. */
static void changed_on_the_way(void)
{
	size_t wrong = 0;

	for (size_t i = 32; i-- > 0;)
		touch_byte(i, 100, 1);
	witness.shut = true;
	evict_all();
	for (size_t i = 32; i-- > 0;)
		touch_byte(i, 100, 2);
	evict_all();
	witness.shut = false;
	balance();
	evict_all();
	for (size_t i = 32; i-- > 0;)
		wrong += region[i * LH_PAGE_SIZE + 100] != 2;
	is(wrong, 0, "what was changed while a put was on the way is not lost");
	relations("changed on the way");
}

static void forgotten(void)
{
	uintptr_t start = (uintptr_t)region, end = start + 4 * LH_PAGE_SIZE;

	for (size_t i = 4; i-- > 0;)
		touch_byte(i, 0, 1);
	witness.shut = true;
	evict_all();
	lh__home_change_begin(home);
	lh__home_hold(home, start, end);
	lh__home_forget(home, start, end);
	lh__home_change_end(home);
	witness.shut = false;
	balance();
	is(stats.pages_written, 4, "pages that are unmapped on the way were written");
	is(stats.pages_stayed, 4, "and have not left by it");
	is(stats.pages_reclaimed, 0, "nor been reclaimed");
	relations("forgotten");
}

static void busy(void)
{
	for (size_t i = 8; i-- > 0;)
		touch_byte(i, 0, 1);
	refused = (uintptr_t)region + 3 * LH_PAGE_SIZE;
	evict_all();
	is(stats.pages_reclaimed, 7, "a page that the kernel holds on to stays");
	ok(stats.busy_retries > 0, "which is counted, %u times", (unsigned)stats.busy_retries);
	relations("busy");
	refused = 0;
	evict_all();
	is(stats.pages_reclaimed, 8, "until it is let go");
}

static void residence(void)
{
	uint64_t start = now(), least, most;
	const struct timespec pause = { 0, 20000000 };

	for (size_t i = 10; i-- > 0;)
		touch_byte(i, 0, 1);
	least = now();
	nanosleep(&pause, NULL);
	least = now() - least;
	evict_all();
	most = now() - start;
	ok(stats.residence_ns >= 10 * least && stats.residence_ns <= 10 * most,
	   "ten pages were here for %u us on average, of %u to %u", (unsigned)(stats.residence_ns / 10000),
	   (unsigned)(least / 1000), (unsigned)(most / 1000));
	relations("residence");
}

/* ---- cases: blocks of 2 MiB ---- */

/* The blocks that are counted where n pages are reclaimed, each written, taking turns over so many blocks. */
static uint64_t blocks_of(uint64_t n, uint64_t blocks)
{
	uint64_t rest = n % SMALL;

	return n / SMALL * blocks + (rest < blocks ? rest : blocks);
}

static void blocks(void)
{
	uint64_t counted;

	for (size_t i = 0; i < PAGES; i++)
		touch_byte(i % BLOCKS * BLOCK_PAGES + i / BLOCKS, 0, 1);
	ok(stats.pages_reclaimed >= PAGES - SMALL && stats.pages_stayed == 0,
	   "%u pages of %u blocks have left", (unsigned)stats.pages_reclaimed, BLOCKS);
	is(stats.pages_written, stats.pages_reclaimed, "each was written");
	is(stats.blocks_written, blocks_of(stats.pages_reclaimed, BLOCKS),
	   "a block counts once for as many pages as there are frames");
	relations("blocks");
	counted = stats.blocks_written;
	for (size_t i = 0; i < 3 * SMALL; i++)
		touch(i);
	for (size_t i = 0; i < 3 * SMALL; i++)
		touch(i);
	ok(stats.blocks_written - counted <= BLOCKS * 2, "reading alone adds none but for what was dirty");
	counted = stats.blocks_written;
	for (size_t i = 0; i < 3 * SMALL; i++)
		touch(i);
	is(stats.blocks_written, counted, "and then none at all");
	relations("blocks that are read");
}

static void one_block(void)
{
	for (size_t i = 0; i < BLOCK_PAGES; i++)
		touch_byte(BLOCK_PAGES - 1 - i, 0, 1);
	is(stats.blocks_written, blocks_of(stats.pages_reclaimed, 1),
	   "%u pages of one block: once a turnover", (unsigned)stats.pages_reclaimed);
	relations("one block");
}

/* ---- what the test itself can see ---- */

static void planted(void)
{
	static const struct {
		const char *name;
		size_t at;
	} fields[] = {
#define FIELD(name) { #name, offsetof(struct lh_stats, name) }
		FIELD(faults_zero),        FIELD(faults_staging),    FIELD(faults_store),
		FIELD(faults_present),     FIELD(faults_prefetched), FIELD(pages_prefetched),
		FIELD(pages_deactivated),  FIELD(pages_reclaimed),   FIELD(pages_dropped_clean),
		FIELD(pages_dropped_zero), FIELD(pages_written),     FIELD(pages_stayed),
		FIELD(lines_written),      FIELD(busy_retries),
#undef FIELD
	};
	unsigned seen = 0;

	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		struct lh_stats doctored = stats;

		++*(uint64_t *)((char *)&doctored + fields[i].at);
		seen += broken_relation(&doctored) != NULL;
	}
	is(seen, sizeof fields / sizeof *fields,
	   "the relations see any of these counters that is one too high");
}

static void run(void (*one)(void), uint32_t limit, enum lh_prefetch prefetch)
{
	if (open_all(limit, prefetch) < 0) {
		ok(0, "the home opens");
		return;
	}
	one();
	close_all();
}

static void written(void)
{
	changed_bytes();
	zero_pages();
	whole_pages();
	planted();
}

int main(void)
{
	int result = open_port();

	if (result == -EPERM || result == -ENOSYS || result == -EINVAL) {
		skip("all", "userfaultfd is not available");
		return done();
	}
	port->ops = port_ops;
	port->ops->close(port);
	run(new_pages, LIMIT, LH_PREFETCH_NONE);
	run(prefetches, LIMIT, LH_PREFETCH_NEXT);
	run(latencies, LIMIT, LH_PREFETCH_NONE);
	run(stalls, SMALL, LH_PREFETCH_NONE);
	run(written, LIMIT, LH_PREFETCH_NONE);
	run(stayed, LIMIT, LH_PREFETCH_NONE);
	run(changed_on_the_way, LIMIT, LH_PREFETCH_NONE);
	run(forgotten, LIMIT, LH_PREFETCH_NONE);
	run(busy, LIMIT, LH_PREFETCH_NONE);
	run(residence, LIMIT, LH_PREFETCH_NONE);
	run(blocks, SMALL, LH_PREFETCH_NONE);
	run(one_block, SMALL, LH_PREFETCH_NONE);
	return done();
}
