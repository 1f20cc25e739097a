/*
 * policy.c - runs traces of page accesses through the eviction policies and prices what happens.
 *
 *     build/bench/policy [--policy NAME]... [--percent P]... [--quick] [TRACE...]
 *
 * TRACE is a file from bench/traces/make-traces or the name of a synthetic one; without any: all synthetic
 * ones, and all files in build/traces. For each trace, each share of local memory (of the most pages that are
 * mapped at once) and each policy: fetches from the store, returns from staging and deactivations for each
 * thousand records of the trace, and their cost.
 *
 * The prices are measurements of page faults on a kernel 6.x machine, in us: a fetch 12.5 (10 to 15, by the
 * transport), a return 6, deactivating a page 1.6. The first touch of a page costs the same under every
 * policy and is left out.
 *
 * Two bounds: `opt` evicts the page that is needed last (Belady: nobody can fetch less), `lru` knows every
 * access. Both are priced as if knowing cost nothing: a fetch and a deactivation for each page that leaves.
 * The last lines sum up: cost relative to fifo's, as geometric means over all traces and shares, and the
 * worst.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "home/policy.h"

#define FETCH_US 12.5
#define RETURN_US 6.0
#define DEACTIVATE_US 1.6

#define REMOVED (1u << 31)
#define NONE UINT32_MAX

struct trace {
	const char *name;
	const uint32_t *record;
	size_t records, pages, most_mapped;
};

struct figures {
	uint64_t fetches, returns, deactivations;
};

static void die(const char *what)
{
	fprintf(stderr, "policy: %s\n", what);
	exit(1);
}

static void *take(size_t count, size_t size)
{
	void *p = calloc(count ? count : 1, size);

	if (!p)
		die("no memory");
	return p;
}

static double cost(const struct figures *f)
{
	return (double)f->fetches * FETCH_US + (double)f->returns * RETURN_US +
	       (double)f->deactivations * DEACTIVATE_US;
}

/* ---- a pager around a policy ---- */

enum where { AWAY, RESIDENT, STAGED, NEVER };

struct pager {
	const struct lh_policy_ops *ops;
	struct lh_policy *policy;
	size_t frames, batch, free;
	uint32_t *free_frame, *frame_of, *page_in;
	uint8_t *where; /* of each page */
	struct figures figures;
};

static void pager_open(struct pager *p, const struct lh_policy_ops *ops, size_t frames, size_t pages)
{
	*p = (struct pager){ .ops = ops, .frames = frames, .free = frames };
	p->batch = frames / 128 < 64 ? frames / 128 + 1 : 64;
	if (ops->open(&lh__sys_default, frames, &p->policy) != 0)
		die("cannot open the policy");
	p->free_frame = take(frames, sizeof *p->free_frame);
	p->page_in = take(frames, sizeof *p->page_in);
	p->frame_of = take(pages, sizeof *p->frame_of);
	p->where = take(pages, 1);
	memset(p->where, NEVER, pages);
	for (uint32_t i = 0; i < frames; i++)
		p->free_frame[i] = (uint32_t)frames - 1 - i;
}

static void pager_close(struct pager *p)
{
	struct lh_error error;

	if (lh__policy_check(p->policy, &error) != 0)
		die(error.text);
	p->ops->close(p->policy);
	free(p->free_frame);
	free(p->page_in);
	free(p->frame_of);
	free(p->where);
}

static void make_room(struct pager *p)
{
	size_t target = p->ops->staging_target(p->policy), staged = lh__policy_staged(p->policy), n;
	uint32_t chosen[64];

	if (target < p->batch)
		target = p->batch;
	while (staged < target) {
		size_t wanted = target - staged < 64 ? target - staged : 64;
		n = p->ops->deactivate(p->policy, chosen, wanted);
		for (size_t i = 0; i < n; i++)
			p->where[p->page_in[chosen[i]]] = STAGED;
		p->figures.deactivations += n;
		staged += n;
		if (n < wanted)
			break;
	}
	n = p->ops->reclaim(p->policy, chosen, p->batch);
	for (size_t i = 0; i < n; i++) {
		p->where[p->page_in[chosen[i]]] = AWAY;
		p->free_frame[p->free++] = chosen[i];
	}
}

static void pager_touch(struct pager *p, uint32_t page)
{
	enum where where = p->where[page];
	uint32_t frame;

	if (where == RESIDENT)
		return;
	p->where[page] = RESIDENT;
	if (where == STAGED) {
		p->figures.returns++;
		p->ops->returned(p->policy, p->frame_of[page]);
		return;
	}
	if (!p->free)
		make_room(p);
	frame = p->free_frame[--p->free];
	p->frame_of[page] = frame;
	p->page_in[frame] = page;
	p->figures.fetches += where == AWAY;
	p->ops->filled(p->policy, frame, page, where == AWAY ? LH_FILL_STORE : LH_FILL_NEW);
}

static void pager_removed(struct pager *p, uint32_t page)
{
	if (p->where[page] == RESIDENT || p->where[page] == STAGED) {
		p->ops->removed(p->policy, p->frame_of[page]);
		p->free_frame[p->free++] = p->frame_of[page];
	}
	p->where[page] = NEVER;
}

static struct figures run_policy(const struct lh_policy_ops *ops, const struct trace *t, size_t frames)
{
	struct pager p;

	pager_open(&p, ops, frames, t->pages);
	for (size_t i = 0; i < t->records; i++)
		if (t->record[i] & REMOVED)
			pager_removed(&p, t->record[i] & ~REMOVED);
		else
			pager_touch(&p, t->record[i]);
	pager_close(&p);
	return p.figures;
}

/* ---- bounds: a set of times, from which the first or the last can be taken ---- */

/* A bitmap with summaries: level 0 has a bit for each time, level k + 1 one for each word of level k. */
struct times {
	uint64_t *level[6];
	int levels;
};

static void times_open(struct times *s, size_t count)
{
	s->levels = 0;
	do {
		count = (count + 63) / 64;
		s->level[s->levels++] = take(count, sizeof(uint64_t));
	} while (count > 1);
}

static void times_close(struct times *s)
{
	for (int k = 0; k < s->levels; k++)
		free(s->level[k]);
}

static void times_add(struct times *s, size_t t)
{
	for (int k = 0; k < s->levels; k++, t /= 64)
		s->level[k][t / 64] |= UINT64_C(1) << t % 64;
}

static void times_drop(struct times *s, size_t t)
{
	for (int k = 0; k < s->levels; k++, t /= 64) {
		s->level[k][t / 64] &= ~(UINT64_C(1) << t % 64);
		if (s->level[k][t / 64])
			break;
	}
}

/* The last time, or the first, in a set that is not empty. */
static size_t times_end(const struct times *s, bool last)
{
	size_t t = 0;

	for (int k = s->levels - 1; k >= 0; k--) {
		uint64_t word = s->level[k][t];
		t = t * 64 + (size_t)(last ? 63 - __builtin_clzll(word) : __builtin_ctzll(word));
	}
	return t;
}

/*
 * For each record the next one of the same page. Pages that are never needed again get times after the end.
 */
static uint32_t *next_uses(const struct trace *t)
{
	uint32_t *next = take(t->records, sizeof *next), *seen = take(t->pages, sizeof *seen);

	for (size_t page = 0; page < t->pages; page++)
		seen[page] = (uint32_t)(t->records + page);
	for (size_t i = t->records; i-- > 0;) {
		uint32_t page = t->record[i] & ~REMOVED;
		next[i] = seen[page];
		seen[page] = (uint32_t)i;
	}
	free(seen);
	return next;
}

/*
 * Both bounds keep each local page under one time: its next use (opt, evicts the last) or its last use (lru,
 * evicts the first). For opt, a record that unmaps a page counts as a use: the page is not needed before it.
 */
static struct figures run_bound(const struct trace *t, size_t frames, const uint32_t *next)
{
	struct times set;
	uint32_t *key = take(t->pages, sizeof *key), *page_at = take(t->records + t->pages, sizeof *page_at);
	uint8_t *where = take(t->pages, 1);
	struct figures f = { 0 };
	size_t local = 0;

	times_open(&set, t->records + t->pages);
	memset(where, NEVER, t->pages);
	for (size_t i = 0; i < t->records; i++) {
		uint32_t page = t->record[i] & ~REMOVED;
		bool here = where[page] == RESIDENT;
		if (here)
			times_drop(&set, key[page]);
		if (t->record[i] & REMOVED) {
			local -= here;
			where[page] = NEVER;
			continue;
		}
		if (!here && local == frames) {
			size_t end = times_end(&set, next != NULL);
			times_drop(&set, end);
			where[page_at[end]] = AWAY;
			local--;
			f.deactivations++;
		}
		f.fetches += where[page] == AWAY;
		local += !here;
		where[page] = RESIDENT;
		key[page] = next ? next[i] : (uint32_t)i;
		page_at[key[page]] = page;
		times_add(&set, key[page]);
	}
	times_close(&set);
	free(key);
	free(page_at);
	free(where);
	return f;
}

/* ---- traces ---- */

static void measure(struct trace *t)
{
	uint8_t *mapped = take(t->pages, 1);
	size_t now = 0;

	for (size_t i = 0; i < t->records; i++) {
		uint32_t page = t->record[i] & ~REMOVED;
		bool stays = !(t->record[i] & REMOVED);
		if (page >= t->pages)
			die("a record names a page that is not there");
		now += (size_t)stays - mapped[page];
		mapped[page] = stays;
		if (now > t->most_mapped)
			t->most_mapped = now;
	}
	free(mapped);
}

static struct trace load(const char *path)
{
	struct trace t = { 0 };
	struct stat status;
	uint64_t *head;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &status) != 0 || status.st_size < 32)
		die("cannot read a trace");
	head = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (head == MAP_FAILED || memcmp(head, "LHTRACE1", 8) != 0 ||
	    head[1] != ((uint64_t)status.st_size - 32) / 4)
		die("not a trace");
	t.record = (const uint32_t *)(head + 4);
	t.records = head[1];
	t.pages = head[2];
	t.name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	measure(&t);
	return t;
}

/* ---- synthetic traces: the same at every run ---- */

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)((rnd() >> 32) * n >> 32);
}

#define PAGES 20000u

/* Zipf with exponent 0.99, by Gray et al.'s inversion; ranks scattered over the pages. */
static uint32_t zipf(void)
{
	static double zeta, eta, half;
	const double theta = 0.99, alpha = 1 / (1 - theta);

	if (zeta == 0) {
		for (uint32_t i = 1; i <= PAGES; i++)
			zeta += pow(1.0 / i, theta);
		half = 1 + pow(0.5, theta);
		eta = (1 - pow(2.0 / PAGES, 1 - theta)) / (1 - half / zeta);
	}
	double u = (double)(rnd() >> 11) * 0x1p-53, uz = u * zeta;
	double rank = uz < 1 ? 0 : uz < half ? 1 : PAGES * pow(eta * u - eta + 1, alpha);
	return (uint32_t)((uint64_t)rank * 7919 % PAGES);
}

static uint32_t make_uniform(size_t i)
{
	return below(PAGES);
}
static uint32_t make_zipf(size_t i)
{
	return zipf();
}
static uint32_t make_loop(size_t i)
{
	return (uint32_t)(i % PAGES);
}
/* Every other access to a hot 6 % of the pages, the others in a scan over all. */
static uint32_t make_scan_hot(size_t i)
{
	return i & 1 ? (uint32_t)(i / 2 % PAGES) : below(PAGES / 16);
}
/* A scan ten times as fast as the accesses to the hot pages. */
static uint32_t make_scan_fast(size_t i)
{
	return i % 11 ? (uint32_t)(i % PAGES) : below(PAGES / 16);
}
/* A random working set of a fifth of the pages, which moves on every 200,000 accesses. */
static uint32_t make_phases(size_t i)
{
	return (below(PAGES / 5) + (uint32_t)(i / 200000) * (PAGES / 10)) % PAGES;
}
/* First every page once, then only the later fifth: what was first is no use. */
static uint32_t make_stale(size_t i)
{
	return i < PAGES ? (uint32_t)i : PAGES - 1 - zipf() / 5;
}
/* A walk back and forth. */
static uint32_t make_zigzag(size_t i)
{
	uint32_t at = (uint32_t)(i % (2 * PAGES));

	return at < PAGES ? at : 2 * PAGES - 1 - at;
}

static const struct synthetic {
	const char *name;
	uint32_t (*make)(size_t i);
} synthetic[] = {
	{ "uniform", make_uniform },   { "zipf", make_zipf },           { "loop", make_loop },
	{ "scan-hot", make_scan_hot }, { "scan-fast", make_scan_fast }, { "phases", make_phases },
	{ "stale", make_stale },       { "zigzag", make_zigzag },
};
#define SYNTHETIC (sizeof synthetic / sizeof *synthetic)

static struct trace make(const struct synthetic *s, size_t records)
{
	uint32_t *record = take(records, sizeof *record);
	struct trace t = { .name = s->name, .record = record, .records = records, .pages = PAGES };

	seed = UINT64_C(88172645463325252);
	for (size_t i = 0; i < records; i++)
		record[i] = s->make(i);
	measure(&t);
	return t;
}

/* ---- summary: cost relative to fifo's ---- */

#define ROWS 32

/* One for each policy and bound, by name; real traces and synthetic ones apart. */
static struct summary {
	const char *name;
	struct {
		double log_sum, worst;
		unsigned count, worst_percent;
		char worst_trace[24];
	} part[2];
} summaries[ROWS];

static void summarize(const struct trace *t, unsigned percent, const char *name, double relative)
{
	bool real = strstr(t->name, ".trace") != NULL;
	size_t i = 0;

	while (summaries[i].name && strcmp(summaries[i].name, name) != 0)
		i++;
	summaries[i].name = name;
	summaries[i].part[real].log_sum += log(relative);
	summaries[i].part[real].count++;
	if (relative <= summaries[i].part[real].worst)
		return;
	summaries[i].part[real].worst = relative;
	summaries[i].part[real].worst_percent = percent;
	snprintf(summaries[i].part[real].worst_trace, sizeof summaries[i].part[real].worst_trace, "%s",
	         t->name);
}

static void print_summary(void)
{
	static const char *const part[] = { "synthetic", "real" };

	printf("\ncost relative to fifo's    geometric mean    worst\n");
	for (int real = 1; real >= 0; real--)
		for (size_t i = 0; i < ROWS && summaries[i].name; i++)
			if (summaries[i].part[real].count)
				printf("%-10s %-14s %12.3f %10.3f  (%s, %u%%)\n", part[real],
				       summaries[i].name,
				       exp(summaries[i].part[real].log_sum / summaries[i].part[real].count),
				       summaries[i].part[real].worst, summaries[i].part[real].worst_trace,
				       summaries[i].part[real].worst_percent);
}

/* ---- the table ---- */

static struct {
	const struct lh_policy_ops *policy[16];
	size_t policies;
	unsigned percent[8];
	size_t percents;
	size_t records;
} options = { .records = 2000000 };

static void print_row(const struct trace *t, unsigned percent, const char *name, const struct figures *f,
                      const struct figures *opt, double seconds)
{
	double k = 1000.0 / (double)t->records;

	printf("%-17s %3u%%  %-8s %9.3f %9.3f %9.3f %10.3f %7.2f %7.1f\n", t->name, percent, name,
	       (double)f->fetches * k, (double)f->returns * k, (double)f->deactivations * k, cost(f) * k,
	       cost(opt) ? cost(f) / cost(opt) : 1, seconds * 1e9 / (double)t->records);
	fflush(stdout);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One trace at one share of local memory: the bounds, then the policies. */
static void compare_at(const struct trace *t, unsigned percent, const uint32_t *next)
{
	const char *name[ROWS] = { "opt", "lru" };
	struct figures f[ROWS];
	size_t frames = t->most_mapped * percent / 100, fifo = ROWS;

	if (frames < LH_POLICY_FRAMES_MIN)
		die("a trace with too few pages");
	for (size_t i = 0; i < options.policies + 2; i++) {
		double start = now();
		if (i >= 2)
			name[i] = options.policy[i - 2]->name;
		if (i >= 2)
			f[i] = run_policy(options.policy[i - 2], t, frames);
		else
			f[i] = run_bound(t, frames, i ? NULL : next);
		print_row(t, percent, name[i], &f[i], &f[0], now() - start);
		if (!strcmp(name[i], "fifo"))
			fifo = i;
	}
	for (size_t i = 0; fifo < ROWS && cost(&f[fifo]) > 0 && i < options.policies + 2; i++)
		summarize(t, percent, name[i], cost(&f[i]) / cost(&f[fifo]));
}

static void compare(const struct trace *t)
{
	uint32_t *next = next_uses(t);

	for (size_t k = 0; k < options.percents; k++)
		compare_at(t, options.percent[k], next);
	free(next);
}

static void compare_named(const char *name)
{
	struct trace t;

	for (size_t i = 0; i < SYNTHETIC; i++)
		if (!strcmp(name, synthetic[i].name)) {
			t = make(&synthetic[i], options.records);
			compare(&t);
			free((void *)t.record);
			return;
		}
	t = load(name);
	compare(&t);
	munmap((void *)(t.record - 8), 32 + t.records * 4);
}

static void compare_all(void)
{
	struct dirent **entry;
	char path[512];
	int n;

	for (size_t i = 0; i < SYNTHETIC; i++)
		compare_named(synthetic[i].name);
	n = scandir("build/traces", &entry, NULL, alphasort);
	if (n < 0)
		fprintf(stderr, "policy: no build/traces; bench/traces/make-traces makes them\n");
	for (int i = 0; i < n; i++) {
		size_t length = strlen(entry[i]->d_name);
		if (length > 6 && !strcmp(entry[i]->d_name + length - 6, ".trace")) {
			snprintf(path, sizeof path, "build/traces/%s", entry[i]->d_name);
			compare_named(path);
		}
		free(entry[i]);
	}
	if (n >= 0)
		free(entry);
}
static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "policy", 1, NULL, 'p' }, { "percent", 1, NULL, 'l' }, { "quick", 0, NULL, 'q' }, { 0 }
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		if (c == 'p' && options.policies < 16 && lh__policy_find(optarg))
			options.policy[options.policies++] = lh__policy_find(optarg);
		else if (c == 'l' && options.percents < 8 && atoi(optarg) > 0 && atoi(optarg) < 100)
			options.percent[options.percents++] = (unsigned)atoi(optarg);
		else if (c == 'q')
			options.records = 200000;
		else
			die("usage: policy [--policy NAME]... [--percent P]... [--quick] [TRACE...]");
	for (size_t i = 0; !options.policies || (i && lh__policies[i]); i++)
		options.policy[options.policies++] = lh__policies[i];
	if (!options.percents)
		for (unsigned i = 0; i < 4; i++)
			options.percent[options.percents++] = (unsigned[]){ 50, 25, 20, 10 }[i];
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	printf("%-17s %4s  %-8s %9s %9s %9s %10s %7s %7s\n", "trace", "here", "policy", "fetch/k", "return/k",
	       "deact/k", "us/k", "x opt", "ns/rec");
	if (optind == argc)
		compare_all();
	for (int i = optind; i < argc; i++)
		compare_named(argv[i]);
	print_summary();
	return 0;
}
