/*
 * line.c - what the line layer costs: nanoseconds a page, hot, cold and out of the caches, beside memcmp and
 * memcpy of 4 KiB in the same run; and what follows for finding changed lines with twins or with hashes.
 *
 *     build/bench/line [MIB]     MIB: the size of each of the arenas for "cold", 512 unless told
 *
 * hot: the same page again and again. cold: random pages of arenas that exceed every cache (one for the page,
 * one for its twin, one for what is decoded), so that caches and TLBs miss. flushed: 64 pages whose lines
 * were flushed, so that caches miss and the TLB hits. All operations take turns within each repetition,
 * so that what disturbs the machine disturbs all of them; figures are medians over the repetitions, the
 * spread is half of the middle 80 % in per cent of the median, of "cold".
 */
#include <immintrin.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <x86intrin.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "line/line.h"

/* Many short ones: a time slice that another process takes then falls into few of them. */
#define REPETITIONS 51
#define HOT_CALLS 100
#define COLD_CALLS 100
#define FLUSHED_PAGES 64
#define OPERATIONS_MAX 40

enum state { HOT, COLD, FLUSHED, STATES };

static unsigned char *arena_a, *arena_b, *arena_c;
static uint64_t *arena_hash;
static size_t arena_pages;
static struct lh_hash_key key;
static unsigned char secret[192], encoded[3][LH_LINESET_SIZE_MAX];
static volatile uint64_t sink; /* what is computed must be computed */

#define LINES_FEW UINT64_C(0x0000810000018001) /* six lines */

struct operation {
	const char *name;
	const struct lh_line_ops *ops;
	uint64_t (*run)(const struct lh_line_ops *ops, size_t page);
	double sample[STATES][REPETITIONS];
	double median[STATES];
	double spread;
};

static struct operation operations[OPERATIONS_MAX];
static unsigned count;

static unsigned char *page_a(size_t page)
{
	return arena_a + page * LH_PAGE_SIZE;
}

static unsigned char *page_b(size_t page)
{
	return arena_b + page * LH_PAGE_SIZE;
}

/* ---- the operations ---- */

static uint64_t run_memcmp(const struct lh_line_ops *ops, size_t page)
{
	return (uint64_t)memcmp(page_a(page), page_b(page), LH_PAGE_SIZE);
}

static uint64_t run_memcpy(const struct lh_line_ops *ops, size_t page)
{
	memcpy(page_b(page), page_a(page), LH_PAGE_SIZE);
	return page_b(page)[0];
}

static uint64_t run_diff(const struct lh_line_ops *ops, size_t page)
{
	return ops->diff(page_a(page), page_b(page));
}

static uint64_t run_nonzero(const struct lh_line_ops *ops, size_t page)
{
	return ops->nonzero(page_a(page));
}

static uint64_t run_changed(const struct lh_line_ops *ops, size_t page)
{
	return ops->changed(page_a(page), LH_MASK_ALL, page_b(page), LH_MASK_ALL);
}

static uint64_t run_hash(const struct lh_line_ops *ops, size_t page)
{
	ops->hash(&key, page_a(page), arena_hash + page * LH_PAGE_LINES);
	return arena_hash[page * LH_PAGE_LINES];
}

static uint64_t run_hash_diff(const struct lh_line_ops *ops, size_t page)
{
	return lh__page_hash_diff(&key, page_a(page), arena_hash + page * LH_PAGE_LINES, NULL);
}

static uint64_t run_xxh3(const struct lh_line_ops *ops, size_t page)
{
	uint64_t *hash = arena_hash + page * LH_PAGE_LINES;
	unsigned i;

	for (i = 0; i < LH_PAGE_LINES; i++)
		hash[i] = XXH3_64bits_withSecret(page_a(page) + i * LH_LINE_SIZE, LH_LINE_SIZE, secret,
		                                 sizeof secret);
	return hash[0];
}

static uint64_t run_crc32c(const struct lh_line_ops *ops, size_t page)
{
	return ops->crc32c(0, page_a(page), LH_PAGE_SIZE);
}

static uint64_t run_encode_all(const struct lh_line_ops *ops, size_t page)
{
	return lh__lineset_encode(encoded[2], page, LH_MASK_ALL, 0, page_a(page));
}

static uint64_t run_encode_few(const struct lh_line_ops *ops, size_t page)
{
	return lh__lineset_encode(encoded[2], page, LINES_FEW, 0, page_a(page));
}

static uint64_t decode(const unsigned char *in, size_t page,
                       long (*how)(struct lh_lineset *, const void *, size_t))
{
	struct lh_lineset set;

	if (how(&set, in, LH_LINESET_SIZE_MAX) < 0)
		abort();
	lh__lineset_scatter(&set, arena_c + page * LH_PAGE_SIZE);
	return set.mask;
}

static uint64_t run_decode_all(const struct lh_line_ops *ops, size_t page)
{
	return decode(encoded[0], page, lh__lineset_decode);
}

static uint64_t run_decode_all_trusted(const struct lh_line_ops *ops, size_t page)
{
	return decode(encoded[0], page, lh__lineset_decode_trusted);
}

static uint64_t run_decode_few(const struct lh_line_ops *ops, size_t page)
{
	return decode(encoded[1], page, lh__lineset_decode);
}

static struct operation *add(const char *name, const struct lh_line_ops *ops,
                             uint64_t (*run)(const struct lh_line_ops *, size_t))
{
	struct operation *operation = &operations[count++];

	operation->name = name;
	operation->ops = ops;
	operation->run = run;
	return operation;
}

/* Of variants that share a function one is measured. */
static void add_variants(void)
{
	const struct lh_line_ops *ops, *before = NULL;
	unsigned i;

	for (i = 0; (ops = lh__line_ops_at(i)) != NULL; before = ops, i++) {
		if (!before || ops->diff != before->diff)
			add("diff", ops, run_diff);
		if (!before || ops->nonzero != before->nonzero)
			add("nonzero", ops, run_nonzero);
		if (!before || ops->changed != before->changed)
			add("changed", ops, run_changed);
		if (!before || ops->hash != before->hash)
			add("hash", ops, run_hash);
		if (!before || ops->crc32c != before->crc32c)
			add("crc32c", ops, run_crc32c);
	}
}

/* ---- measuring ---- */

static double ns_per_tick;

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void calibrate(void)
{
	uint64_t start = clock_ns(), tick = __rdtsc();

	while (clock_ns() - start < 20000000)
		;
	ns_per_tick = (double)(clock_ns() - start) / (double)(__rdtsc() - tick);
}

static uint64_t random_next(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * UINT64_C(2685821657736338717);
}

static uint64_t ticks(void)
{
	unsigned cpu;

	_mm_lfence();
	return __rdtscp(&cpu);
}

static double time_pages(const struct operation *operation, const size_t *pages, unsigned n)
{
	uint64_t start = ticks(), sum = 0;
	unsigned i;

	for (i = 0; i < n; i++)
		sum += operation->run(operation->ops, pages[i]);
	start = ticks() - start;
	sink += sum;
	return (double)start * ns_per_tick / n;
}

static double time_hot(const struct operation *operation)
{
	static size_t same[HOT_CALLS];

	(void)time_pages(operation, same, 20);
	return time_pages(operation, same, HOT_CALLS);
}

static double time_cold(const struct operation *operation)
{
	size_t pages[COLD_CALLS];
	unsigned i;

	for (i = 0; i < COLD_CALLS; i++)
		pages[i] = random_next() % arena_pages;
	return time_pages(operation, pages, COLD_CALLS);
}

static void flush(const void *data, size_t size)
{
	size_t i;

	for (i = 0; i < size; i += LH_LINE_SIZE)
		_mm_clflush((const char *)data + i);
}

static double time_flushed(const struct operation *operation)
{
	static size_t pages[FLUSHED_PAGES];
	unsigned i;

	for (i = 0; i < FLUSHED_PAGES; i++) {
		pages[i] = i * 37 % FLUSHED_PAGES;
		flush(page_a(i), LH_PAGE_SIZE);
		flush(page_b(i), LH_PAGE_SIZE);
		flush(arena_c + (size_t)i * LH_PAGE_SIZE, LH_PAGE_SIZE);
		flush(arena_hash + (size_t)i * LH_PAGE_LINES, LH_PAGE_LINES * sizeof *arena_hash);
	}
	_mm_mfence();
	return time_pages(operation, pages, FLUSHED_PAGES);
}

static void measure(void)
{
	unsigned repetition, i;

	for (repetition = 0; repetition < REPETITIONS; repetition++)
		for (i = 0; i < count; i++) {
			operations[i].sample[HOT][repetition] = time_hot(&operations[i]);
			operations[i].sample[COLD][repetition] = time_cold(&operations[i]);
			operations[i].sample[FLUSHED][repetition] = time_flushed(&operations[i]);
		}
}

static int compare(const void *a, const void *b)
{
	return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static void evaluate(void)
{
	const unsigned tenth = REPETITIONS / 10;
	unsigned i, state;

	for (i = 0; i < count; i++) {
		for (state = 0; state < STATES; state++) {
			double *sample = operations[i].sample[state];

			qsort(sample, REPETITIONS, sizeof *sample, compare);
			operations[i].median[state] = sample[REPETITIONS / 2];
		}
		operations[i].spread = 50 *
		                       (operations[i].sample[COLD][REPETITIONS - 1 - tenth] -
		                        operations[i].sample[COLD][tenth]) /
		                       operations[i].median[COLD];
	}
}

/* ---- the tables ---- */

static void print_operations(void)
{
	unsigned i;

	printf("nanoseconds a page of 4 KiB, medians of %u interleaved repetitions\n\n", REPETITIONS);
	printf("%-24s %-15s %9s %9s %9s %8s\n", "operation", "variant", "hot", "cold", "flushed", "spread");
	for (i = 0; i < count; i++)
		printf("%-24s %-15s %9.0f %9.0f %9.0f %6.0f %%\n", operations[i].name,
		       operations[i].ops ? operations[i].ops->name : "", operations[i].median[HOT],
		       operations[i].median[COLD], operations[i].median[FLUSHED], operations[i].spread);
}

/* A way to find changed lines: what it takes to remember a page, and to find what changed of it. */
static void print_way(const char *name, unsigned bytes, const struct operation *remember,
                      const struct operation *find)
{
	unsigned state;

	printf("%-24s %10u", name, bytes);
	for (state = 0; state < STATES; state++)
		printf("   %5.0f + %5.0f", remember->median[state], find->median[state]);
	printf("\n");
}

static void print_ways(const struct operation *copy, const struct operation *diff,
                       const struct operation *hash, const struct operation *hash_diff)
{
	printf("\nfinding changed lines: nanoseconds to remember a page + to compare it later\n\n");
	printf("%-24s %10s   %13s   %13s   %13s\n", "way", "bytes/page", "hot", "cold", "flushed");
	print_way("twin (memcpy, diff)", LH_PAGE_SIZE, copy, diff);
	print_way("hashes (hash, hash_diff)", LH_PAGE_LINES * sizeof(uint64_t), hash, hash_diff);
}

/* ---- putting it together ---- */

static void *map(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		fprintf(stderr, "line: there is no memory for %zu MiB; name a smaller size\n", size >> 20);
		exit(1);
	}
	return memory;
}

static void prepare(size_t mib)
{
	size_t size = mib << 20, i;

	arena_pages = size / LH_PAGE_SIZE;
	arena_a = map(size);
	arena_b = map(size);
	arena_c = map(size);
	memset(arena_c, 1, size);
	arena_hash = map(size / 8);
	for (i = 0; i < size / 8; i++)
		((uint64_t *)arena_a)[i] = random_next();
	memcpy(arena_b, arena_a, size);
	if (lh__hash_key_init(&lh__sys_default, &key) != 0)
		exit(1);
	for (i = 0; i < arena_pages; i++)
		lh__page_hash(&key, page_a(i), arena_hash + i * LH_PAGE_LINES);
	for (i = 0; i < sizeof secret; i++)
		secret[i] = (unsigned char)(random_next() >> 56);
	(void)lh__lineset_encode(encoded[0], 1, LH_MASK_ALL, 0, arena_a);
	(void)lh__lineset_encode(encoded[1], 1, LINES_FEW, 0, arena_a);
}

/*
 * So that the caches and the clock are one processor's. Where it is not allowed the figures are what they
 * are.
 */
static void pin(void)
{
	cpu_set_t one;
	int cpu = sched_getcpu();

	CPU_ZERO(&one);
	CPU_SET(cpu < 0 ? 0 : cpu, &one);
	(void)sched_setaffinity(0, sizeof one, &one);
}

int main(int argc, char **argv)
{
	size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 512;
	struct operation *copy, *diff = NULL, *hash = NULL, *hash_diff;
	unsigned i;

	if (mib == 0 || mib > 65536) {
		fprintf(stderr, "usage: line [MIB]\n");
		return 2;
	}
	pin();
	calibrate();
	prepare(mib);
	add("memcmp", NULL, run_memcmp);
	copy = add("memcpy", NULL, run_memcpy);
	add_variants();
	hash_diff = add("hash_diff", lh__line_ops(), run_hash_diff);
	add("XXH3, 64 lines", NULL, run_xxh3);
	add("encode 64 lines", lh__line_ops(), run_encode_all);
	add("encode 6 lines", lh__line_ops(), run_encode_few);
	add("decode 64 lines", lh__line_ops(), run_decode_all);
	add("decode 64, trusted", lh__line_ops(), run_decode_all_trusted);
	add("decode 6 lines", lh__line_ops(), run_decode_few);
	measure();
	evaluate();
	print_operations();
	for (i = 0; i < count; i++) {
		diff = operations[i].run == run_diff ? &operations[i] : diff;
		hash = operations[i].run == run_hash ? &operations[i] : hash;
	}
	print_ways(copy, diff, hash, hash_diff);
	return 0;
}
