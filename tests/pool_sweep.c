/*
 * pool_sweep.c - every system call and allocation of a pool fails, once or from there on: what was
 * acknowledged is kept, what failed changed nothing or is known when the pool is opened again, and nothing
 * leaks. And what writing files has of its own: flushes that fail, and writes that are cut short.
 *
 * Pages are declared whole, so that no store faults: what fails in the handler of a fault can be told to
 * nobody, and ends as SIGBUS.
 *
 * Most of its time it waits for the disk.
 * timeout: 240
 */
#include <dirent.h>
#include <sys/uio.h>

#include "inject.h"
#include "pool_ways.h"

#define WORDS 30u /* each on a page of its own; transaction i changes all of page i % 3 to i + 1 */
#define PAGES 3u
#define ALL (~0u)
#ifdef __SANITIZE_ADDRESS__
#define SLACK 100u /* mappings that are the sanitizer's own */
#else
#define SLACK 8u
#endif

static struct lh_pool_options small_options(const struct way *way)
{
	struct lh_pool_options options = way_options(way);

	options.log_size = LH_POOL_LOG_MIN; /* the log is full now and then */
	options.size = 256 << 10;
	return options;
}

/*
 * Flushes fail as anything does, and are not made: nobody takes the power away here, and a disk would take
 * some milliseconds for each of many thousands.
 */
static long quick_call(void *context, long nr, const long argument[6])
{
	struct inject *in = context;
	long plain[6];

	if (nr == SYS_fdatasync)
		return inject_strikes(in) ? -in->error : 0;
	memcpy(plain, argument, sizeof plain);
	if (nr == SYS_pwritev2)
		plain[5] = 0;
	return inject_call(context, nr, plain);
}

static struct inject idle;
#define SWEEP(in, kind)                                                                                      \
	for (inject_init((in), (kind)->error, (kind)->mode), (in)->sys.call = quick_call; inject_round(in);)

static unsigned descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned n = 0;

	while (folder && readdir(folder))
		n++;
	closedir(folder);
	return n;
}

static unsigned mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned n = 0;
	int c;

	while (maps && (c = getc(maps)) != EOF)
		n += c == '\n';
	fclose(maps);
	return n;
}

/* What a sweep may not add to. */
struct held {
	unsigned descriptors, mappings;
};

static struct held held_now(void)
{
	return (struct held){ descriptors(), mappings() };
}

/* The C library keeps some memory, so a few mappings are nobody's leak; one for each round would be. */
static void nothing_leaks(const struct way *way, const struct inject *in, struct held before,
                          const char *what)
{
	struct held after = held_now();

	/* On tmpfs nothing that is asked of the system in a declared commit can fail. */
	ok(inject_swept(in) || (in->rounds == 0 && !see_by_faults(way->see) && !way->disk),
	   "%s: %s: %lu rounds with a failure, allocations are balanced", way->name, what, in->rounds);
	is(after.descriptors, before.descriptors, "%s: ... no descriptor is left", way->name);
	ok(after.mappings <= before.mappings + SLACK, "%s: ... nor mapping (%u, %u before)", way->name,
	   after.mappings, before.mappings);
}

/* ---- the pool's content ---- */

/* The first of three whole pages in the root object. */
static volatile uint64_t *pages_of(struct lh_pool *pool)
{
	uintptr_t root = (uintptr_t)lh_pool_root(pool, 5 * LH_PAGE_SIZE, NULL);

	MUST(root ? 0 : -EIO);
	return (volatile uint64_t *)((root + LH_PAGE_SIZE - 1) & ~(uintptr_t)(LH_PAGE_SIZE - 1));
}

static volatile uint64_t *page_of(struct lh_pool *pool, unsigned i)
{
	return pages_of(pool) + i % PAGES * 512;
}

/* Transaction i: 0 where it is committed, and durable. */
static int transact(struct lh_pool *pool, volatile uint64_t *page, unsigned i)
{
	int result = lh_tx_begin(pool, NULL);

	if (result < 0)
		return result;
	result = lh_tx_add(pool, (void *)(uintptr_t)page, LH_PAGE_SIZE, NULL);
	if (result < 0) {
		lh_tx_abort(pool, NULL);
		return result;
	}
	for (unsigned j = 0; j < 512; j++)
		page[j] = i + 1;
	return lh_tx_commit(pool, NULL);
}

/* How many transactions the pool has had, by its content; ALL where that is none that there was. */
static unsigned committed(struct lh_pool *pool)
{
	unsigned newest = 0;

	for (unsigned p = 0; p < PAGES; p++) {
		volatile uint64_t *page = page_of(pool, p);

		for (unsigned j = 1; j < 512; j++)
			if (page[j] != page[0])
				return ALL;
		if (page[0] > newest)
			newest = (unsigned)page[0];
	}
	for (unsigned back = 0; back < PAGES && back < newest; back++)
		if (page_of(pool, newest - 1 - back)[0] != newest - back)
			return ALL;
	return newest;
}

static struct lh_pool *reopen(const struct way *way, const char *path)
{
	struct lh_pool_options options = small_options(way);
	struct lh_pool *pool;

	MUST(lh__pool_open(&idle.sys, path, &options, &pool, &why));
	return pool;
}

/* A new pool with n transactions; sys is not armed. */
static struct lh_pool *prepare(const struct way *way, const struct lh_sys *sys, const char *path, unsigned n)
{
	struct lh_pool_options options = small_options(way);
	struct lh_pool *pool;

	MUST(lh__pool_create(sys, path, &options, &pool, &why));
	for (unsigned i = 0; i < n; i++)
		MUST(transact(pool, page_of(pool, i), i));
	return pool;
}

/* ---- sweeps ---- */

struct kind {
	int error;
	enum inject_mode mode;
};
static const struct kind kinds[] = {
	{ ENOMEM, INJECT_ONCE }, { EIO, INJECT_ONCE }, { EIO, INJECT_LASTING }, { ENOSPC, INJECT_LASTING }
};

static void creating(const struct way *way, const struct kind *kind)
{
	struct held before = held_now();
	unsigned failed = 0, left = 0, wrong = 0;
	struct inject in;
	char path[400];

	way_path(way, path);
	SWEEP(&in, kind)
	{
		struct lh_pool_options options = small_options(way);
		struct lh_error error = { .code = 0 };
		struct lh_pool *pool = NULL;
		int result;

		inject_arm(&in);
		result = lh__pool_create(&in.sys, path, &options, &pool, &error);
		inject_disarm(&in);
		if (result == 0) {
			wrong += transact(pool, page_of(pool, 0), 0) != 0;
			MUST(lh_pool_close(pool, &why));
		} else {
			failed++;
			wrong += error.code != result || !strstr(error.text, path) || pool != NULL;
			/*
			 * Removing it is a call that may fail as well; as the one may between trying to map a
			 * new file and doing without, and then it is in the way.
			 */
			left += kind->mode == INJECT_ONCE && result != -EEXIST && access(path, F_OK) == 0;
		}
		unlink(path);
	}
	nothing_leaks(way, &in, before, "creating");
	ok(failed > 0 && wrong == 0,
	   "%s: ... it fails with a reason, or the pool works (%u failed, %u wrong)", way->name, failed,
	   wrong);
	is(left, 0, "%s: ... no file is left of a pool that could not be made", way->name);
}

/* A pool with a full log, and an open transaction, is recovered: or it fails, and is the next time. */
static void opening(const struct way *way, const struct kind *kind)
{
	struct held before = held_now();
	unsigned failed = 0, wrong = 0;
	struct inject in;
	char path[400];

	way_path(way, path);
	SWEEP(&in, kind)
	{
		struct lh_pool_options options = small_options(way);
		struct lh_error error = { .code = 0 };
		struct lh_pool *pool = prepare(way, &idle.sys, path, 5);
		volatile uint64_t *page = page_of(pool, 5);
		int result;

		MUST(lh_tx_begin(pool, &why));
		MUST(lh_tx_add(pool, (void *)(uintptr_t)page, LH_PAGE_SIZE, &why));
		page[7] = 99;
		lh__pool_abandon(pool);
		pool = NULL;
		inject_arm(&in);
		result = lh__pool_open(&in.sys, path, &options, &pool, &error);
		inject_disarm(&in);
		failed += result < 0;
		if (result < 0) {
			wrong += error.code != result || !strstr(error.text, path) || pool != NULL;
			pool = reopen(way, path);
		}
		wrong += committed(pool) != 5 || transact(pool, page, 5) != 0 || committed(pool) != 6;
		MUST(lh_pool_close(pool, &why));
		unlink(path);
	}
	nothing_leaks(way, &in, before, "opening");
	ok(failed > 0 && wrong == 0,
	   "%s: ... it fails with a reason, and nothing is lost (%u failed, %u wrong)", way->name, failed,
	   wrong);
}

/*
 * Transactions until one fails. *tried: with that one. Where the pool has broken, that is what every call
 * says from then on; else the one that failed is as if it never was, and the next succeeds.
 */
static unsigned run(struct inject *in, struct lh_pool *pool, unsigned *tried, unsigned *wrong)
{
	volatile uint64_t *page[PAGES];
	unsigned i;
	int result = 0, begin;

	for (i = 0; i < PAGES; i++)
		page[i] = page_of(pool, i);
	inject_arm(in);
	for (i = 0; i < WORDS && result == 0; i++)
		result = transact(pool, page[i % PAGES], i);
	inject_disarm(in);
	*tried = i;
	if (result == 0)
		return i;
	begin = lh_tx_begin(pool, NULL);
	if (begin == 0) {
		MUST(lh_tx_abort(pool, &why));
		if (transact(pool, page[(i - 1) % PAGES], i - 1) == 0)
			return i;
		/* The thread that brings changes home has met the failure, and this commit was told. */
		begin = lh_tx_begin(pool, NULL);
	}
	*wrong += begin != -ENOTRECOVERABLE || lh_tx_wait(pool, 1, NULL) != -ENOTRECOVERABLE ||
	          lh_pool_grow(pool, 512 << 10, NULL) != -ENOTRECOVERABLE ||
	          lh_pool_alloc(pool, 8, NULL) != NULL;
	return i - 1;
}

static void committing(const struct way *way, const struct kind *kind)
{
	struct held before = held_now();
	unsigned broken = 0, wrong = 0, lost = 0;
	struct inject in;
	char path[400];

	way_path(way, path);
	SWEEP(&in, kind)
	{
		struct lh_pool *pool = prepare(way, &in.sys, path, 0);
		unsigned tried, acknowledged = run(&in, pool, &tried, &wrong), found;

		broken += acknowledged < tried;
		if (in.fail_at % 2)
			lh__pool_abandon(pool);
		else
			/* Who brings changes home may have met the failure after the last commit. */
			wrong += lh_pool_close(pool, NULL) < 0 && acknowledged == tried && in.injected == 0;
		pool = reopen(way, path);
		found = committed(pool);
		lost += found < acknowledged || found > tried;
		MUST(lh_pool_close(pool, &why));
		unlink(path);
	}
	nothing_leaks(way, &in, before, "committing");
	ok(broken > 0 || !way->disk, "%s: ... failures break the pool (%u)", way->name, broken);
	is(wrong, 0, "%s: ... which every call says then; else it goes on", way->name);
	is(lost, 0, "%s: ... nothing that was acknowledged is lost, and nothing is there by half", way->name);
}

static void closing(const struct way *way, const struct kind *kind)
{
	struct held before = held_now();
	unsigned failed = 0, wrong = 0;
	struct inject in;
	char path[400];

	way_path(way, path);
	SWEEP(&in, kind)
	{
		struct lh_pool *pool = prepare(way, &in.sys, path, 5);
		int result;

		inject_arm(&in);
		result = lh_pool_close(pool, NULL);
		inject_disarm(&in);
		failed += result < 0;
		pool = reopen(way, path);
		wrong += committed(pool) != 5 || (result == 0 && !lh__pool_report(pool)->clean);
		MUST(lh_pool_close(pool, &why));
		unlink(path);
	}
	ok(in.unbalanced == 0, "%s: closing: %lu rounds with a failure, allocations are balanced", way->name,
	   in.rounds);
	is(descriptors(), before.descriptors, "%s: ... no descriptor is left", way->name);
	ok(wrong == 0 && (failed > 0 || !way->disk), "%s: ... nothing is lost (%u failed, %u wrong)",
	   way->name, failed, wrong);
}

static void sweeps(const struct way *way)
{
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		/* Making the heap stores to parts of pages, each of which is looked at. */
		if (way->see != LH_SEE_CHECKED) {
			creating(way, &kinds[i]);
			opening(way, &kinds[i]);
		}
		committing(way, &kinds[i]);
		closing(way, &kinds[i]);
	}
}

/* ---- writes and flushes ---- */

struct disk {
	struct lh_sys sys;
	bool cut;             /* writes write a part of what they are given */
	unsigned flush_fails; /* the nth flush from now on fails; 0: none */
	unsigned writes, flushes;
};

static long cut_vector(const long argument[6], long nr)
{
	const struct iovec *vector = (const struct iovec *)argument[1];
	struct iovec part = vector[0];

	/* With O_DIRECT the kernel cuts between blocks. */
	bool direct = (fcntl((int)argument[0], F_GETFL) & O_DIRECT) != 0;
	size_t least = direct ? 4096 : LH_LINE_SIZE;

	if (argument[2] == 1 && part.iov_len <= least)
		return lh__sys_default.call(NULL, nr, argument);
	part.iov_len = direct ? (part.iov_len / 2 + 4095) / 4096 * 4096 : (part.iov_len + 1) / 2;
	return lh__sys_default.call(NULL, nr,
	                            (long[6]){ argument[0], (long)&part, 1, argument[3], argument[4],
	                                       argument[5] });
}

static long disk_call(void *context, long nr, const long argument[6])
{
	struct disk *disk = context;
	bool vector = nr == SYS_pwritev || nr == SYS_pwritev2;

	/* A write that is flushed is a write and a flush. */
	if ((nr == SYS_fdatasync || nr == SYS_fsync || (nr == SYS_pwritev2 && argument[5])) &&
	    __atomic_load_n(&disk->flush_fails, __ATOMIC_RELAXED)) {
		if (__atomic_add_fetch(&disk->flushes, 1, __ATOMIC_RELAXED) == disk->flush_fails) {
			if (nr == SYS_pwritev2) /* it is in the page cache, and not on the disk */
				lh__sys_default.call(NULL, SYS_pwritev, argument);
			return -EIO;
		}
	}
	disk->writes += vector || nr == SYS_pwrite64;
	if (disk->cut && vector)
		return cut_vector(argument, nr);
	if (disk->cut && nr == SYS_pwrite64 && argument[2] > 2)
		return lh__sys_default.call(NULL, nr,
		                            (long[6]){ argument[0], argument[1], argument[2] / 2,
		                                       argument[3] });
	return lh__sys_default.call(NULL, nr, argument);
}

static void *disk_alloc(void *context, size_t size)
{
	return lh__sys_default.alloc(NULL, size);
}

static void disk_free(void *context, void *pointer, size_t size)
{
	lh__sys_default.free(NULL, pointer, size);
}

static struct disk new_disk(struct disk *disk)
{
	return (struct disk){
		.sys = { .context = disk, .call = disk_call, .alloc = disk_alloc, .free = disk_free }
	};
}

static void short_writes(const struct way *way)
{
	struct disk disk = new_disk(&disk);
	struct lh_pool *pool;
	char path[400];
	unsigned whole;

	if (!way->disk)
		return;
	pool = prepare(way, &disk.sys, way_path(way, path), WORDS);
	MUST(lh_pool_close(pool, &why));
	unlink(path);
	whole = disk.writes;
	disk = new_disk(&disk);
	disk.cut = true;
	pool = prepare(way, &disk.sys, way_path(way, path), WORDS);
	lh__pool_abandon(pool);
	pool = reopen(way, path);
	is(committed(pool), WORDS, "%s: writes that are cut short are gone on with", way->name);
	ok(disk.writes > 2 * whole, "%s: ... %u writes, and %u where none is cut", way->name, disk.writes,
	   whole);
	MUST(lh_pool_close(pool, &why));
	unlink(path);
}

/* The nth flush fails, for each n until there are no more: of commits, and of what is brought home. */
static void flushes_fail(const struct way *way)
{
	unsigned wrong = 0, failures = 0, told = 0;
	char path[400];

	if (!way->disk)
		return;
	for (unsigned n = 1;; n++) {
		struct disk disk = new_disk(&disk);
		struct lh_pool *pool = prepare(way, &disk.sys, way_path(way, path), 0);
		unsigned acknowledged = 0, found;
		int result = 0, closed, again;

		page_of(pool, 0);
		disk.flush_fails = n;
		while (acknowledged < WORDS && result == 0) {
			result = transact(pool, page_of(pool, acknowledged), acknowledged);
			acknowledged += result == 0;
		}
		again = result < 0 ? transact(pool, (void *)(uintptr_t)way, 0) : 0;
		wrong += result < 0 && again != -ENOTRECOVERABLE;
		closed = lh_pool_close(pool, NULL);
		if (disk.flushes < n) {
			unlink(path);
			break;
		}
		failures++;
		told += result < 0 || closed < 0;
		pool = reopen(way, path);
		found = committed(pool);
		wrong += found != acknowledged && found != acknowledged + 1;
		MUST(lh_pool_close(pool, &why));
		unlink(path);
	}
	ok(failures >= WORDS && told == failures, "%s: each of %u flushes that fail is told of (%u)",
	   way->name, failures, told);
	is(wrong, 0, "%s: ... the pool is broken until it is opened again, and has n or n + 1 transactions",
	   way->name);
}

int main(void)
{
	ways_begin("pool_sweep");
	inject_init(&idle, 0, INJECT_ONCE);
	idle.sys.call = quick_call;
	for (size_t i = 0; i < WAYS; i++) /* what the first use of anything leaves behind is no leak */
		if (!way_lacks(&ways[i])) {
			char path[400];

			MUST(lh_pool_close(prepare(&ways[i], &idle.sys, way_path(&ways[i], path), 1), &why));
			unlink(path);
		}
	ways_each(sweeps);
	ways_each(short_writes);
	ways_each(flushes_fail);
	return ways_end();
}
