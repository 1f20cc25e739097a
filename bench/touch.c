/*
 * touch.c - what one touch of memory costs when most of the memory is elsewhere.
 *
 * Fills a region (half of each page random, half constant, so that a compressing swap sees about 2:1), then
 * touches one word of one page at a time and times each touch with the time stamp counter. Every word that
 * is read is verified: a fast answer that is wrong is not a result.
 *
 *     touch --size 512 --touches 100000 --pattern random --access read --threads 1
 *
 * prints one line of KEY=VALUE. A touch of --fault-ns (800) or more counts as a fault: a touch of resident
 * memory takes at most a tenth of a microsecond or two here, the cheapest fault over one. mean_ns is of the
 * faults; trimmed_ns leaves those out that took a millisecond or more (a neighbour's time slice, or reclaim
 * in the faulting thread: both figures are needed). all_mean_ns is of all touches; rate is all touches of all
 * threads over wall time. The histogram has 64 steps an octave, so percentiles are right within 1.6 %, and
 * is the only memory besides the region that grows.
 */
#include "../tests/programs/program.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <x86intrin.h>

#define OCTAVE 64u
#define BUCKETS (OCTAVE * 40)
#define TRIM_NS 1000000u

struct tally {
	uint64_t faults, touches, sum_ns, all_ns, trimmed, trimmed_ns, most_ns;
	uint32_t buckets[BUCKETS];
};

struct worker {
	struct tally tally;
	pthread_t thread;
	unsigned number;
};

static struct {
	uint64_t pages, touches, fault_ns, warm;
	unsigned threads;
	int cpu;
	bool sequential, write, mixed;
	uint64_t *region;
	double ns_per_tick;
	pthread_barrier_t barrier;
	uint64_t began, ended;
} g = { .pages = 512 * 256, .touches = 100000, .fault_ns = 800, .threads = 1, .cpu = -1, .warm = 20000 };

static unsigned bucket_of(uint64_t ns)
{
	unsigned octave;

	if (ns < OCTAVE)
		return (unsigned)ns;
	octave = 63 - (unsigned)__builtin_clzll(ns) - 6;
	return OCTAVE * (octave + 1) + (unsigned)((ns >> octave) - OCTAVE);
}

static uint64_t value_of(unsigned bucket)
{
	if (bucket < OCTAVE)
		return bucket;
	return (uint64_t)(OCTAVE + bucket % OCTAVE) << (bucket / OCTAVE - 1);
}

static void record(struct tally *t, uint64_t ns)
{
	t->touches++;
	t->all_ns += ns;
	if (ns < g.fault_ns)
		return;
	t->faults++;
	t->sum_ns += ns;
	t->most_ns = ns > t->most_ns ? ns : t->most_ns;
	if (bucket_of(ns) < BUCKETS)
		t->buckets[bucket_of(ns)]++;
	if (ns < TRIM_NS) {
		t->trimmed++;
		t->trimmed_ns += ns;
	}
}

static void calibrate(void)
{
	uint64_t t0 = now_ns(), c0 = __rdtsc();

	while (now_ns() - t0 < 50000000)
		;
	g.ns_per_tick = (double)(now_ns() - t0) / (double)(__rdtsc() - c0);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (cpu >= 0 && sched_setaffinity(0, sizeof set, &set))
		cannot("pin to CPU %d", cpu);
}

/*
 * Word 0 of a page is its number (touches add 2^32 to it), words 1 to 255 are random, the rest is constant.
 */
static void fill(void)
{
	for (uint64_t p = 0; p < g.pages; p++) {
		uint64_t *words = g.region + p * WORDS;

		words[0] = p;
		for (unsigned i = 1; i < WORDS; i++)
			words[i] = i < WORDS / 2 ? mix(p << 9 | i) : 0x2020202020202020;
	}
}

static void touch(struct tally *t, uint64_t page, bool write)
{
	volatile uint64_t *word = g.region + page * WORDS;
	uint64_t before, after, value;
	unsigned aux;

	before = __rdtscp(&aux);
	_mm_lfence();
	value = *word;
	if (write)
		*word = value + (UINT64_C(1) << 32);
	after = __rdtscp(&aux);
	_mm_lfence();
	if ((uint32_t)value != page)
		wrong("page %lu holds 0x%lx", page, value);
	if (t)
		record(t, (uint64_t)((double)(after - before) * g.ns_per_tick));
}

/* Threads have a slice of the region each, so that none waits for another's fault on the same page. */
static void *work(void *argument)
{
	struct worker *w = argument;
	uint64_t share = g.pages / g.threads, first = share * w->number, state = mix(w->number + 1);
	uint64_t n = g.touches / g.threads, warm = g.warm / g.threads;

	pin(g.cpu >= 0 ? (g.cpu + (int)w->number) % (int)sysconf(_SC_NPROCESSORS_ONLN) : -1);
	for (uint64_t i = 0; i < n + warm; i++) {
		uint64_t r = next_random(&state);

		if (i == warm && pthread_barrier_wait(&g.barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			g.began = now_ns();
		touch(i < warm ? NULL : &w->tally, first + (g.sequential ? i : r >> 1) % share,
		      g.mixed ? r & 1 : g.write);
	}
	if (pthread_barrier_wait(&g.barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
		g.ended = now_ns();
	return NULL;
}

static void add(struct tally *sum, const struct tally *t)
{
	sum->faults += t->faults;
	sum->touches += t->touches;
	sum->sum_ns += t->sum_ns;
	sum->all_ns += t->all_ns;
	sum->trimmed += t->trimmed;
	sum->trimmed_ns += t->trimmed_ns;
	sum->most_ns = t->most_ns > sum->most_ns ? t->most_ns : sum->most_ns;
	for (unsigned i = 0; i < BUCKETS; i++)
		sum->buckets[i] += t->buckets[i];
}

static uint64_t percentile(const struct tally *t, double part)
{
	uint64_t wanted = (uint64_t)((double)t->faults * part), seen = 0;

	for (unsigned i = 0; i < BUCKETS; i++) {
		seen += t->buckets[i];
		if (seen > wanted)
			return value_of(i);
	}
	return 0;
}

static void print(const struct tally *t)
{
	uint64_t faults = t->faults ? t->faults : 1, trimmed = t->trimmed ? t->trimmed : 1;
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	printf("touches=%lu faults=%lu p50_ns=%lu p99_ns=%lu mean_ns=%lu trimmed_ns=%lu most_ns=%lu",
	       t->touches, t->faults, percentile(t, 0.50), percentile(t, 0.99), t->sum_ns / faults,
	       t->trimmed_ns / trimmed, t->most_ns);
	printf(" all_mean_ns=%lu rate=%.0f major=%ld minor=%ld\n", t->all_ns / (t->touches ? t->touches : 1),
	       (double)t->touches * 1e9 / (double)(g.ended - g.began), usage.ru_majflt, usage.ru_minflt);
}

static void choose(char option, const char *value)
{
	switch (option) {
	case 's': g.pages = number(value) * 256; break;
	case 'n': g.touches = number(value); break;
	case 'w': g.warm = number(value); break;
	case 't': g.threads = (unsigned)number(value); break;
	case 'c': g.cpu = (int)number(value); break;
	case 'f': g.fault_ns = number(value); break;
	case 'p': g.sequential = !strcmp(value, "sequential"); break;
	case 'a':
		g.write = !strcmp(value, "write");
		g.mixed = !strcmp(value, "mixed");
		break;
	default: exit(2);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "size", 1, NULL, 's' },    { "touches", 1, NULL, 'n' }, { "warm", 1, NULL, 'w' },
		{ "threads", 1, NULL, 't' }, { "cpu", 1, NULL, 'c' },     { "fault-ns", 1, NULL, 'f' },
		{ "pattern", 1, NULL, 'p' }, { "access", 1, NULL, 'a' },  { NULL, 0, NULL, 0 },
	};
	struct tally sum = { 0 };
	struct worker *workers;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		choose((char)c, optarg);
	workers = calloc(g.threads, sizeof *workers);
	if (!workers || g.threads == 0 || g.pages < g.threads)
		return 2;
	pin(g.cpu);
	calibrate();
	g.region = anonymous(g.pages * PAGE);
	fill();
	pthread_barrier_init(&g.barrier, NULL, g.threads);
	for (unsigned i = 0; i < g.threads; i++) {
		workers[i].number = i;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			cannot("start a thread");
	}
	for (unsigned i = 0; i < g.threads; i++) {
		pthread_join(workers[i].thread, NULL);
		add(&sum, &workers[i].tally);
	}
	print(&sum);
	return 0;
}
