/*
 * migrate_order.c - the orders in which absent pages come, compared by simulation: how often a guest misses,
 * and for how long it waits, while it does what it does under `linear` until all its memory is there.
 *
 *     build/bench/migrate_order [--rtt US] [--bandwidth MB] [--depth N] [--pages N] [--guest NAME]
 *
 * A guest touches pages, one after another, with some time between. Its memory comes over a link with a round
 * trip and a bandwidth: what it waits for after a round trip, ahead of what is on its way in the background,
 * of which as much is asked for as fills the link. The link is shared. Hints come from page tables of the
 * guest (service/migrate/tables.c), read as a sender reads them.
 *
 * In the last table the link is quick, and who asks keeps a limit: what the guest waits for, and what is
 * likely to be missed next, passes it, and is made up for by the rest.
 *
 * Guests that are called scattered have their virtual memory anywhere in their physical memory, page by page;
 * the others have it where it is. Policy recorded replays the misses of a run of linear with other random
 * numbers.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/migrate/order.h"
#include "service/migrate/tables.h"

#define ENTRIES 512u
#define HINTS 64u
#define NEVER UINT64_MAX
#define BORROWED 25000 /* us: the limit may be exceeded by so much for what is wanted soon */

static void *take(size_t count, size_t size)
{
	void *p = calloc(count, size);

	if (!p) {
		fprintf(stderr, "migrate_order: no memory\n");
		exit(1);
	}
	return p;
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static uint64_t below(uint64_t *state, uint64_t bound)
{
	return (random_next(state) >> 32) % bound;
}

/* ---- guests: which virtual page is touched next ---- */

struct guest {
	uint64_t pages, random, at, step;
};

static uint64_t sequential(struct guest *g)
{
	return g->at++ % g->pages;
}

/* Begins in the middle, so that nothing comes by itself in the right order. */
static uint64_t sequential_middle(struct guest *g)
{
	return (g->pages / 2 + g->at++) % g->pages;
}

static uint64_t descending(struct guest *g)
{
	return g->pages - 1 - g->at++ % g->pages;
}

static uint64_t anywhere(struct guest *g)
{
	return below(&g->random, g->pages);
}

/* 32 MiB of 512, at three quarters; one touch in 50 is elsewhere. */
static uint64_t hot(struct guest *g)
{
	if (below(&g->random, 50) == 0)
		return anywhere(g);
	return g->pages * 3 / 4 + below(&g->random, g->pages / 16);
}

static uint64_t strided_by(struct guest *g, uint64_t stride)
{
	uint64_t page = g->at;

	g->at += stride;
	if (g->at >= g->pages)
		g->at = g->at % stride + 1;
	return page;
}

static uint64_t strided_16(struct guest *g)
{
	return strided_by(g, 16);
}

static uint64_t strided_200(struct guest *g)
{
	return strided_by(g, 200);
}

/* Reads an area of 4 MiB from end to end four times, then another one anywhere. */
static uint64_t phases(struct guest *g)
{
	uint64_t area = 1024 < g->pages ? 1024 : g->pages;

	if (g->at++ % (4 * area) == 0)
		g->step = below(&g->random, g->pages - area + 1);
	return g->step + (g->at - 1) % area;
}

/* As the tests' guest: a page of a small hot set, one anywhere, and the next of a sweep. */
static uint64_t mixed(struct guest *g)
{
	switch (g->at++ % 3) {
	case 0: return g->pages / 3 + below(&g->random, g->pages / 64);
	case 1: return anywhere(g);
	default: return g->step++ % g->pages;
	}
}

/* Follows pointers through objects of some pages each: any object, then its pages. */
static uint64_t objects(struct guest *g)
{
	if (g->at % 12 == 0)
		g->step = below(&g->random, g->pages / 12) * 12;
	return g->step + g->at++ % 12;
}

/* tests/guest/init.c: of 512 MiB it uses half, 32 MiB of them in seven touches of eight. */
static uint64_t checker(struct guest *g)
{
	uint64_t mine = g->pages / 2, hot_pages = mine / 8, choice = random_next(&g->random) >> 8;

	if (choice % 256 >= 32)
		return mine / 2 - hot_pages / 2 + (choice >> 16) % hot_pages;
	return choice >> 8 & 1 ? g->step++ % mine : (choice >> 16) % mine;
}

static const struct scenario {
	const char *name;
	uint64_t (*touch)(struct guest *guest);
	bool scattered;
	double think; /* us between touches of pages */
} scenarios[] = {
	{ "sequential, slow", sequential, false, 50 },
	{ "sequential", sequential, false, 5 },
	{ "from the middle, slow", sequential_middle, false, 50 },
	{ "from the middle", sequential_middle, false, 5 },
	{ "descending", descending, false, 5 },
	{ "random", anywhere, false, 5 },
	{ "hot set", hot, false, 5 },
	{ "stride 16", strided_16, false, 5 },
	{ "stride 200", strided_200, false, 5 },
	{ "phases", phases, false, 5 },
	{ "mixed", mixed, false, 5 },
	{ "objects", objects, false, 5 },
	{ "scattered sequential", sequential, true, 5 },
	{ "scattered, slow", sequential, true, 50 },
	{ "scattered descending", descending, true, 5 },
	{ "scattered random", anywhere, true, 5 },
	{ "scattered hot set", hot, true, 5 },
	{ "scattered phases", phases, true, 5 },
	{ "scattered mixed", mixed, true, 5 },
	{ "scattered objects", objects, true, 5 },
	{ "checker", checker, false, 10 },
	{ "scattered checker", checker, true, 10 },
	{ "scattered checker, slow", checker, true, 40 },
};
#define SCENARIOS (sizeof(scenarios) / sizeof(*scenarios))

static const char *const policies[] = { "linear", "around", "recorded", "ptline", "none" };

/* ---- the guest's page tables: those of level 1 and 2 lie behind its memory ---- */

struct space {
	uint64_t pages, leaves;
	uint32_t *physical; /* of each virtual page */
};

static int read_table(void *context, uint64_t page, void *content)
{
	const struct space *space = context;
	uint64_t *entry = content, number, i;

	memset(entry, 0, 4096);
	if (page < space->pages)
		return -1;
	page -= space->pages;
	if (page < 2) {
		entry[0] = (space->pages + page + 1) * 4096 | 1;
	} else if (page == 2) {
		for (i = 0; i < space->leaves; i++)
			entry[i] = (space->pages + 3 + i) * 4096 | 1;
	} else {
		for (i = 0; i < ENTRIES; i++) {
			number = (page - 3) * ENTRIES + i;
			if (number < space->pages)
				entry[i] = (uint64_t)space->physical[number] * 4096 | 1;
		}
	}
	return 0;
}

static void make_space(struct space *space, uint64_t pages, bool scattered)
{
	uint64_t random = 88172645463325252u, i, j;
	uint32_t swap;

	*space = (struct space){ pages, (pages + ENTRIES - 1) / ENTRIES, take(pages, sizeof(uint32_t)) };
	for (i = 0; i < pages; i++)
		space->physical[i] = (uint32_t)i;
	for (i = pages - 1; scattered && i > 0; i--) {
		j = below(&random, i + 1);
		swap = space->physical[i];
		space->physical[i] = space->physical[j];
		space->physical[j] = swap;
	}
}

static struct lh_tables *make_tables(struct space *space)
{
	uint64_t all = space->pages + 3 + space->leaves, cr3 = space->pages * 4096;
	struct lh_physical_range range = { 0, all, 0 };
	struct lh_tables_options options = { &range, 1, all, &cr3, 1, read_table, space };
	struct lh_tables *tables;

	if (lh__tables_open(&options, &tables, NULL) < 0)
		exit(1);
	return tables;
}

/* ---- the link ---- */

struct link {
	double rtt, service; /* us; of a page */
	unsigned depth;      /* pages asked for in the background at most */
	double pace;         /* us; of a page, by a limit that who asks keeps; 0: none */
};

struct flight {
	double arrives;
	uint64_t page;
};

struct run {
	const struct link *link;
	struct lh_order *order;
	struct lh_tables *tables;
	uint64_t pages, here;
	unsigned char *present, *asked;
	struct flight *flight; /* a ring: they arrive in order */
	unsigned first, flying;
	double now, busy_until; /* the link */
	double free_at;         /* the limit: when the next page may be asked for */
	bool exhausted;
	uint64_t *misses;
	size_t missed;
	double stalled;
};

/* A page's share of what the limit allows. */
static void spend(struct run *run, double at)
{
	if (run->free_at < at)
		run->free_at = at;
	run->free_at += run->link->pace;
}

static void arrive(struct run *run, uint64_t page)
{
	if (run->present[page])
		return;
	run->present[page] = 1;
	run->here++;
}

/* The next page to be asked for now, if there is one. */
static bool choose(struct run *run, double at, uint64_t *page)
{
	bool (*next)(struct lh_order *, uint64_t *) = run->order->ops->next;
	double debt = run->free_at - at;

	if (run->link->pace > 0 && debt > 0)
		next = run->order->ops->soon;
	if (run->flying == run->link->depth || debt > BORROWED ||
	    (next == run->order->ops->next && run->exhausted))
		return false;
	do {
		if (!next(run->order, page)) {
			run->exhausted |= next == run->order->ops->next;
			return false;
		}
	} while (*page >= run->pages || run->present[*page] || run->asked[*page]);
	return true;
}

static bool ask(struct run *run, double at)
{
	struct flight *flight;
	uint64_t page;

	if (!choose(run, at, &page))
		return false;
	run->asked[page] = 1;
	spend(run, at);
	if (run->busy_until < at + run->link->rtt)
		run->busy_until = at + run->link->rtt;
	run->busy_until += run->link->service;
	flight = &run->flight[(run->first + run->flying++) % run->link->depth];
	*flight = (struct flight){ run->busy_until, page };
	return true;
}

/* When something happens next in the background. */
static double next_event(const struct run *run, double at)
{
	double event = run->flying ? run->flight[run->first].arrives : 1e300;

	if (!run->exhausted && run->flying < run->link->depth && run->free_at > at && run->free_at < event)
		event = run->free_at;
	return event;
}

/* What comes in the background up to a time; each that arrives makes room for another. */
static void background(struct run *run, double until)
{
	double at = run->now;

	for (;;) {
		while (ask(run, at))
			;
		if (next_event(run, at) > until)
			break;
		at = next_event(run, at);
		if (run->flying == 0 || run->flight[run->first].arrives > at)
			continue;
		arrive(run, run->flight[run->first].page);
		run->first = (run->first + 1) % run->link->depth;
		run->flying--;
	}
	run->now = until;
}

/* When the page is there: by itself, or since it was asked for. */
static double when(const struct run *run, uint64_t page, double answered)
{
	unsigned i;

	for (i = 0; i < run->flying; i++)
		if (run->flight[(run->first + i) % run->link->depth].page == page &&
		    run->flight[(run->first + i) % run->link->depth].arrives < answered)
			return run->flight[(run->first + i) % run->link->depth].arrives;
	return answered;
}

static void miss(struct run *run, uint64_t page)
{
	double answered = run->now + run->link->rtt + run->link->service;
	uint64_t hints[HINTS];
	double there = when(run, page, answered), from = run->now;
	size_t n;

	run->misses[run->missed++] = page;
	run->asked[page] = 1;
	run->order->ops->missed(run->order, page);
	run->exhausted = false;
	run->busy_until += run->link->service;
	spend(run, run->now);
	background(run, there);
	arrive(run, page);
	run->stalled += there - from;
	n = lh__tables_neighbours(run->tables, page, hints, HINTS);
	run->order->ops->hinted(run->order, page, hints, n);
}

/* Until everything is there, or so many touches have been made; returns how many were. */
static uint64_t simulate(struct run *run, const struct scenario *scenario, const struct space *space,
                         uint64_t seed, uint64_t most)
{
	struct guest guest = { .pages = space->pages, .random = seed };
	uint64_t page, touches;

	for (touches = 0; run->here < run->pages && touches < most; touches++) {
		page = space->physical[scenario->touch(&guest)];
		if (!run->present[page])
			miss(run, page);
		background(run, run->now + scenario->think);
	}
	return touches;
}

struct result {
	uint64_t misses, touches;
	double stalled;
	uint64_t *record;
};

static struct result play(const struct scenario *scenario, const struct link *link, struct space *space,
                          enum lh_order_policy policy, uint64_t seed, uint64_t most, const uint64_t *recorded,
                          size_t n)
{
	struct lh_order_options options = { policy, space->pages + 3 + space->leaves, recorded, n };
	struct run run = { .link = link, .pages = space->pages };
	struct result result;

	if (lh__order_open(&options, &run.order, NULL) < 0)
		exit(1);
	run.tables = make_tables(space);
	run.present = take(run.pages, 1);
	run.asked = take(run.pages, 1);
	run.flight = take(link->depth, sizeof(*run.flight));
	run.misses = take(run.pages, sizeof(*run.misses));
	result.touches = simulate(&run, scenario, space, seed, most);
	result.misses = run.missed;
	result.stalled = run.stalled / 1e3;
	result.record = run.misses;
	free(run.present);
	free(run.asked);
	free(run.flight);
	lh__tables_close(run.tables);
	run.order->ops->close(run.order);
	return result;
}

static void print_scenario(const struct scenario *scenario, const struct link *link, uint64_t pages)
{
	struct result result, before;
	uint64_t touches = NEVER;
	struct space space;
	unsigned policy;

	make_space(&space, pages, scenario->scattered);
	before = play(scenario, link, &space, LH_ORDER_LINEAR, 4711, NEVER, NULL, 0);
	printf("%-22s", scenario->name);
	for (policy = LH_ORDER_LINEAR; policy < LH_ORDER_NONE; policy++) {
		result = play(scenario, link, &space, (enum lh_order_policy)policy, 42, touches,
		              before.record, before.misses);
		if (policy == LH_ORDER_LINEAR)
			touches = result.touches;
		printf("  %7llu %7.0f", (unsigned long long)result.misses, result.stalled);
		free(result.record);
	}
	printf("\n");
	free(before.record);
	free(space.physical);
}

static void print_link(double rtt, double bandwidth, double limit, unsigned depth, uint64_t pages,
                       const char *only)
{
	struct link link = { rtt, 4096 / bandwidth, 0, limit > 0 ? 4096 / limit : 0 };
	unsigned policy;
	size_t i;

	link.depth = depth ? depth : (unsigned)(rtt / link.service) + 4;
	printf("%.0f MiB over %.0f MB/s, round trip %.0f us: misses, and ms of waiting\n",
	       (double)pages / 256, bandwidth, rtt);
	printf("%-22s", "");
	for (policy = LH_ORDER_LINEAR; policy < LH_ORDER_NONE; policy++)
		printf("  %15s", policies[policy]);
	printf("\n");
	for (i = 0; i < SCENARIOS; i++)
		if (!only || strcmp(only, scenarios[i].name) == 0)
			print_scenario(&scenarios[i], &link, pages);
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "rtt", required_argument, NULL, 'r' },
		                                 { "bandwidth", required_argument, NULL, 'b' },
		                                 { "depth", required_argument, NULL, 'd' },
		                                 { "pages", required_argument, NULL, 'p' },
		                                 { "guest", required_argument, NULL, 'g' },
		                                 { "limit", required_argument, NULL, 'l' },
		                                 { NULL, 0, NULL, 0 } };
	double rtt = 0, bandwidth = 0, limit = 0;
	uint64_t pages = 131072;
	unsigned depth = 0;
	const char *only = NULL;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'r': rtt = atof(optarg); break;
		case 'b': bandwidth = atof(optarg); break;
		case 'd': depth = (unsigned)atoi(optarg); break;
		case 'p': pages = strtoull(optarg, NULL, 0); break;
		case 'g': only = optarg; break;
		case 'l': limit = atof(optarg); break;
		default: return 2;
		}
	}
	if (pages < 1024 || pages > 131072 + 131072) {
		fprintf(stderr, "migrate_order: --pages: 1024 to 262144\n");
		return 2;
	}
	if (rtt > 0 || bandwidth > 0) {
		print_link(rtt > 0 ? rtt : 200, bandwidth > 0 ? bandwidth : 125, limit, depth, pages, only);
		return 0;
	}
	print_link(200, 125, 0, depth, pages, only);
	print_link(50, 1000, 0, depth, pages, only);
	print_link(30, 1000, 125, depth, pages, only);
	return 0;
}
