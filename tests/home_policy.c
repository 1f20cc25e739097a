/*
 * home_policy.c - the eviction policies: their contract against a naive model, their invariants and that the
 * check of these can fail, and what each of them is there for.
 */
#include <errno.h>
#include <stdbool.h>

#include "home/policy_queue.h"
#include "tap.h"

/* ---- a naive model of what is free, resident and staged ---- */

enum state { FREE, RESIDENT, STAGED };

#define FRAMES 300u

static uint64_t seed = 88172645463325252u;

static uint32_t below(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed >> 32) * n >> 32);
}

static size_t count(const enum state *state, enum state wanted)
{
	size_t n = 0;

	for (uint32_t i = 0; i < FRAMES; i++)
		n += state[i] == wanted;
	return n;
}

/* Takes n chosen frames from one state to another; whether all were in it (so none twice). */
static bool moved(enum state *state, const uint32_t *chosen, size_t n, enum state from, enum state to)
{
	for (size_t i = 0; i < n; i++) {
		if (chosen[i] >= FRAMES || state[chosen[i]] != from)
			return false;
		state[chosen[i]] = to;
	}
	return true;
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* One random operation on policy and model. False: the policy broke its contract. */
static bool storm_step(const struct lh_policy_ops *ops, struct lh_policy *policy, enum state *state)
{
	uint32_t frame = below(FRAMES), chosen[40];
	size_t max = below(40), had, n;

	if (below(4) == 0) {
		had = count(state, RESIDENT);
		n = ops->deactivate(policy, chosen, max);
		return n == least(max, had) && moved(state, chosen, n, RESIDENT, STAGED);
	}
	if (below(6) == 0) {
		had = count(state, STAGED);
		n = ops->reclaim(policy, chosen, max);
		return n == least(max, had) && moved(state, chosen, n, STAGED, FREE);
	}
	if (state[frame] == FREE) {
		ops->filled(policy, frame, below(4 * FRAMES), below(2) ? LH_FILL_NEW : LH_FILL_STORE);
		state[frame] = RESIDENT;
	} else if (below(8) == 0) {
		ops->removed(policy, frame);
		state[frame] = FREE;
	} else if (state[frame] == STAGED) {
		ops->returned(policy, frame);
		state[frame] = RESIDENT;
	}
	return true;
}

static void storm(const struct lh_policy_ops *ops)
{
	enum state state[FRAMES] = { FREE };
	struct lh_policy *policy;
	struct lh_error error = { 0 };
	bool kept = true, counted = true, sound = true, bounded = true;

	if (!ok(ops->open(&lh__sys_default, FRAMES, &policy) == 0, "%s: opens", ops->name))
		return;
	for (int i = 0; i < 60000 && kept && sound; i++) {
		kept = storm_step(ops, policy, state);
		counted &= lh__policy_resident(policy) == count(state, RESIDENT) &&
		           lh__policy_staged(policy) == count(state, STAGED);
		bounded &= ops->staging_target(policy) >= 1 && ops->staging_target(policy) <= FRAMES / 2;
		if (i % 50 == 0)
			sound = lh__policy_check(policy, &error) == 0;
	}
	ok(kept, "%s: chooses only frames in the right state, none twice, as many as there are", ops->name);
	ok(counted, "%s: counts as the model does", ops->name);
	ok(bounded, "%s: the staging target stays in bounds", ops->name);
	ok(sound, "%s: the invariants hold (%s)", ops->name, error.text);
	ops->close(policy);
}

/* No frame is ever lost: fill all, drain all, many times, in sizes down to the smallest. */
static void none_lost(const struct lh_policy_ops *ops, size_t frames)
{
	struct lh_policy *policy;
	struct lh_error error = { 0 };
	uint32_t chosen[8];
	bool right = true;

	if (!ok(ops->open(&lh__sys_default, frames, &policy) == 0, "%s: opens with %zu frames", ops->name,
	        frames))
		return;
	for (uint64_t round = 0; round < 20; round++) {
		size_t out = 0, n;
		for (uint32_t i = 0; i < frames; i++)
			ops->filled(policy, i, round * 7 + i, round ? LH_FILL_STORE : LH_FILL_NEW);
		while (ops->deactivate(policy, chosen, 8))
			;
		right &= lh__policy_resident(policy) == 0 && lh__policy_staged(policy) == frames;
		while ((n = ops->reclaim(policy, chosen, 8)))
			out += n;
		right &= out == frames && lh__policy_check(policy, &error) == 0;
	}
	ok(right, "%s: %zu frames go in and out, none is lost (%s)", ops->name, frames, error.text);
	ops->close(policy);
}

/* ---- opening fails ---- */

struct failing {
	int left, live;
};

static void *failing_alloc(void *context, size_t size)
{
	struct failing *f = context;

	if (f->left-- <= 0)
		return NULL;
	f->live++;
	return lh__sys_default.alloc(NULL, size);
}

static void failing_free(void *context, void *pointer, size_t size)
{
	((struct failing *)context)->live -= pointer != NULL;
	lh__sys_default.free(NULL, pointer, size);
}

static void open_fails(const struct lh_policy_ops *ops)
{
	struct failing f;
	struct lh_sys sys = { .context = &f, .alloc = failing_alloc, .free = failing_free };
	struct lh_policy *policy = (void *)&f;
	int n, result = -ENOMEM;
	bool right = true;

	for (n = 0; n < 10 && result == -ENOMEM; n++) {
		f = (struct failing){ .left = n };
		result = ops->open(&sys, FRAMES, &policy);
		right &= result == 0 || (result == -ENOMEM && f.live == 0 && policy == (void *)&f);
	}
	ok(right && result == 0 && n > 2,
	   "%s: opening without memory fails %d times, clean and changing nothing", ops->name, n - 1);
	if (result == 0)
		ops->close(policy);
	is(f.live, 0, "%s: close gives everything back", ops->name);
	ops->close(NULL);
	ok(ops->open(&lh__sys_default, LH_POLICY_FRAMES_MIN - 1, &policy) == -EINVAL &&
	           ops->open(&lh__sys_default, (size_t)LH_POLICY_FRAMES_MAX + 1, &policy) == -EINVAL,
	   "%s: refuses too few and too many frames", ops->name);
}

/* ---- the check catches what is planted ---- */

/* A policy with frames in every queue that it uses, and some memory of others. */
static struct lh_policy *busy(const struct lh_policy_ops *ops)
{
	struct lh_policy *policy;
	uint32_t chosen[60];

	if (ops->open(&lh__sys_default, FRAMES, &policy) != 0)
		return NULL;
	for (uint32_t i = 0; i < FRAMES; i++)
		ops->filled(policy, i, i, LH_FILL_NEW);
	ops->deactivate(policy, chosen, 60);
	for (int i = 40; i < 60; i++)
		ops->returned(policy, chosen[i]);
	ops->reclaim(policy, chosen, 20);
	return policy;
}

static void plant_two_queues(struct lh_policy *p)
{
	p->frame[p->queue[Q_STAGED].oldest].queue = Q_MAIN;
}
static void plant_no_queue(struct lh_policy *p)
{
	p->frame[7].queue = Q_COUNT;
}
static void plant_count(struct lh_policy *p)
{
	p->queue[Q_MAIN].count--;
}
static void plant_lost(struct lh_policy *p)
{
	p->queue[Q_FREE].count++;
}
static void plant_link(struct lh_policy *p)
{
	p->frame[p->queue[Q_STAGED].youngest].prev = NO_FRAME;
}
static void plant_circle(struct lh_policy *p)
{
	p->frame[p->queue[Q_STAGED].youngest].next = p->queue[Q_STAGED].oldest;
}
static void plant_end(struct lh_policy *p)
{
	p->queue[Q_MAIN].youngest = p->queue[Q_MAIN].oldest;
}
static void plant_wild(struct lh_policy *p)
{
	p->frame[p->queue[Q_STAGED].oldest].next = FRAMES + 5;
}
static void plant_from(struct lh_policy *p)
{
	p->frame[p->queue[Q_STAGED].oldest].from = Q_FREE;
}
static void plant_earned(struct lh_policy *p)
{
	p->frame[p->queue[Q_STAGED].oldest].earned = 1;
}
static void plant_target(struct lh_policy *p)
{
	p->target = p->target_most + 1;
}
static void plant_no_target(struct lh_policy *p)
{
	p->target = p->target_least = 0;
}
static void plant_ghost(struct lh_policy *p)
{
	p->ghost[0].tag[0] = UINT32_MAX;
}
static void plant_gap(struct lh_policy *p)
{
	p->ghost[0] = (struct ghost_bucket){ .tag = { [1] = 1 } };
}
static void plant_ghost_twice(struct lh_policy *p)
{
	p->ghost[0].tag[0] = p->ghost[0].tag[1] = 1;
}

static const struct {
	const char *what;
	void (*plant)(struct lh_policy *policy);
	int invariant;
	bool needs_ghost;
} planted[] = {
	{ "a frame that names another queue", plant_two_queues, 3, false },
	{ "a frame in no queue", plant_no_queue, 1, false },
	{ "a wrong count", plant_count, 3, false },
	{ "a lost frame", plant_lost, 3, false },
	{ "a link that disagrees", plant_link, 2, false },
	{ "a circle", plant_circle, 2, false },
	{ "a wrong end", plant_end, 2, false },
	{ "a link to nowhere", plant_wild, 1, false },
	{ "a frame staged from nowhere", plant_from, 4, false },
	{ "something earned while staged", plant_earned, 5, false },
	{ "a target out of bounds", plant_target, 6, false },
	{ "a target of nothing", plant_no_target, 6, false },
	{ "a ghost in the wrong bucket", plant_ghost, 7, true },
	{ "a gap in a bucket", plant_gap, 7, true },
	{ "a ghost twice", plant_ghost_twice, 7, true },
};

static void catches(const struct lh_policy_ops *ops)
{
	for (size_t i = 0; i < sizeof planted / sizeof *planted; i++) {
		struct lh_policy *policy = busy(ops);
		struct lh_error error = { 0 };
		char wanted[64];
		if (!policy || (planted[i].needs_ghost && !policy->ghost)) {
			ok(policy != NULL, "%s: has no ghosts to corrupt", ops->name);
			ops->close(policy);
			continue;
		}
		snprintf(wanted, sizeof wanted, "eviction policy: invariant %d:", planted[i].invariant);
		bool sound = lh__policy_check(policy, NULL) == 0;
		planted[i].plant(policy);
		ok(sound && lh__policy_check(policy, &error) == -EUCLEAN && error.code == -EUCLEAN &&
		           !strncmp(error.text, wanted, strlen(wanted)),
		   "%s: %s is caught (%s)", ops->name, planted[i].what, error.text);
		ops->close(policy);
	}
}

/* ---- behaviour: a small pager, and what is local under it ---- */

#define PAGES 8000u

struct pager {
	const struct lh_policy_ops *ops;
	struct lh_policy *policy;
	uint32_t frames, free, free_frame[2000], page_in[2000], frame_of[PAGES];
	enum state state[PAGES];
	bool known[PAGES];
	unsigned long fetches, returns;
};

static struct pager pager;

static bool pager_open(const struct lh_policy_ops *ops, uint32_t frames)
{
	memset(&pager, 0, sizeof pager);
	pager.ops = ops;
	pager.frames = pager.free = frames;
	for (uint32_t i = 0; i < frames; i++)
		pager.free_frame[i] = i;
	return ops->open(&lh__sys_default, frames, &pager.policy) == 0;
}

static void pager_make_room(void)
{
	uint32_t chosen[8];
	size_t n;

	while (lh__policy_staged(pager.policy) < pager.ops->staging_target(pager.policy) &&
	       (n = pager.ops->deactivate(pager.policy, chosen, 1)))
		pager.state[pager.page_in[chosen[0]]] = STAGED;
	n = pager.ops->reclaim(pager.policy, chosen, 1);
	for (size_t i = 0; i < n; i++) {
		pager.state[pager.page_in[chosen[i]]] = FREE;
		pager.free_frame[pager.free++] = chosen[i];
	}
}

static void touch(uint32_t page)
{
	enum state was = pager.state[page];

	if (was == RESIDENT)
		return;
	pager.state[page] = RESIDENT;
	if (was == STAGED) {
		pager.returns++;
		pager.ops->returned(pager.policy, pager.frame_of[page]);
		return;
	}
	if (!pager.free)
		pager_make_room();
	uint32_t frame = pager.free_frame[--pager.free];
	pager.frame_of[page] = frame;
	pager.page_in[frame] = page;
	pager.fetches += pager.known[page];
	pager.ops->filled(pager.policy, frame, page, pager.known[page] ? LH_FILL_STORE : LH_FILL_NEW);
	pager.known[page] = true;
}

/* Local pages among first .. first + n - 1. */
static unsigned local(uint32_t first, uint32_t n)
{
	unsigned found = 0;

	for (uint32_t i = first; i < first + n; i++)
		found += pager.state[i] != FREE;
	return found;
}

/* Fetches in accesses to a hot set of 300 pages, one for each four of a scan over 7,000, in 1,000 frames. */
static unsigned long hot_fetches(const struct lh_policy_ops *ops)
{
	unsigned long hot = 0;

	seed = 1234567;
	if (!pager_open(ops, 1000))
		return 0;
	for (uint32_t i = 0; i < 60000; i++)
		touch(below(300));
	for (uint32_t i = 0; i < 200000; i++) {
		unsigned long before = pager.fetches;
		if (i % 5 == 0)
			touch(below(300));
		hot += i >= 100000 ? pager.fetches - before : 0;
		if (i % 5)
			touch(1000 + i % 7000);
	}
	ops->close(pager.policy);
	return hot;
}

static void survives_scan(void)
{
	unsigned long fifo = hot_fetches(lh__policy_find("fifo")), best = hot_fetches(lh__policy_find(NULL));

	printf("# of 20,000 hot accesses beside a scan: %lu fetches with %s, %lu with fifo\n", best,
	       lh__policy_find(NULL)->name, fifo);
	ok(fifo > 4000, "fifo loses a hot set to a scan (so the test can tell)");
	ok(best * 20 < fifo, "the default keeps it");
}

/* Fetches in the last of many rounds through pages in 1,000 frames. */
static unsigned long loop_fetches(const struct lh_policy_ops *ops, uint32_t pages)
{
	if (!pager_open(ops, 1000))
		return 0;
	for (uint32_t i = 0; i < 40 * pages; i++) {
		if (i == 39 * pages)
			pager.fetches = 0;
		touch(i % pages);
	}
	ops->close(pager.policy);
	return pager.fetches;
}

static void loops(void)
{
	unsigned long fifo = loop_fetches(lh__policy_find("fifo"), 1500);
	unsigned long best = loop_fetches(lh__policy_find(NULL), 1500);

	printf("# a loop over 1.5 times the frames: %lu fetches a round with %s, %lu with fifo, 501 at "
	       "best\n",
	       best, lh__policy_find(NULL)->name, fifo);
	is(fifo, 1500, "fifo hits nothing in a loop over more than fits");
	ok(best < 1200, "the default hits some of it");
	is(loop_fetches(lh__policy_find(NULL), 990), 0, "a loop that fits is not touched");
}

/* Two pages of the same age; one is touched while it is staged. */
static void second_touch(const struct lh_policy_ops *ops)
{
	const uint32_t looked_at = 100, left_alone = 101;

	if (!pager_open(ops, 200))
		return;
	for (uint32_t page = 0; page < 1000; page++) {
		touch(page);
		if (pager.state[looked_at] == STAGED)
			touch(looked_at);
	}
	ok(pager.returns > 0 && pager.state[looked_at] != FREE, "%s: a page that returns from staging stays",
	   ops->name);
	ok(pager.state[left_alone] == FREE, "%s: one of the same age that does not, leaves", ops->name);
	ops->close(pager.policy);
}

/* One return earns a whole round more, of the order of the frames. */
static void residence(const struct lh_policy_ops *ops)
{
	uint32_t page = 0;

	if (!pager_open(ops, 200))
		return;
	while (pager.state[100] != STAGED && page < 1000)
		touch(page++);
	touch(100);
	for (uint32_t end = page + 150; page < end; page++)
		touch(page);
	ok(pager.returns == 1 && pager.state[100] != FREE, "%s: one return earns a round of residence",
	   ops->name);
	ops->close(pager.policy);
}

/* A page that comes back soon after it left is kept through a scan; one that comes back late is not. */
static void came_back(void)
{
	if (!pager_open(lh__policy_find("reuse"), 1000))
		return;
	for (uint32_t page = 0; page < 1000; page++)
		touch(page);
	for (uint32_t page = 1000; page < 1500; page++)
		touch(page);
	for (uint32_t page = 1000; page < 1020; page++)
		touch(page);
	is(local(1000, 500), 500, "reuse: what came last is local");
	for (uint32_t page = 1500; page < 2400; page++)
		touch(page);
	ok(local(1000, 400) < 100, "reuse: what was touched once, leaves");
	for (uint32_t page = 1400; page < 1420; page++)
		touch(page);
	is(local(1400, 20), 20, "reuse: fetched again");
	for (uint32_t page = 3000; page < 4500; page++)
		touch(page);
	/* Not all: a page that left is forgotten early where its bucket is full. */
	ok(local(1400, 20) >= 15,
	   "reuse: and kept through a scan of one and a half times the frames (%u of 20)", local(1400, 20));
	pager.ops->close(pager.policy);
}

/* What staging costs decides how much is staged. */
static void target_adapts(const struct lh_policy_ops *ops)
{
	size_t high, low;

	if (!pager_open(ops, 2000))
		return;
	for (uint32_t i = 0; i < 60000; i++)
		touch(i % PAGES);
	high = ops->staging_target(pager.policy);
	for (uint32_t i = 0; i < 400; i++) {
		uint32_t chosen[40];
		size_t n = ops->deactivate(pager.policy, chosen, 40);
		while (n)
			ops->returned(pager.policy, chosen[--n]);
		touch((60000 + i) % PAGES);
	}
	low = ops->staging_target(pager.policy);
	ok(high > low && high <= 2000 / 32 + 1, "%s: stages %zu where nothing returns, %zu where much does",
	   ops->name, high, low);
	ops->close(pager.policy);
}

static void finding(void)
{
	size_t n = 0;

	for (; lh__policies[n]; n++)
		ok(lh__policy_find(lh__policies[n]->name) == lh__policies[n], "finds %s",
		   lh__policies[n]->name);
	ok(n >= 3, "there are %zu policies", n);
	ok(lh__policy_find(NULL) == lh__policies[0], "the default is the first");
	ok(!lh__policy_find("nonsense") && !lh__policy_find(""), "an unknown name finds nothing");
}

int main(void)
{
	alarm(60);
	finding();
	for (size_t i = 0; lh__policies[i]; i++) {
		storm(lh__policies[i]);
		none_lost(lh__policies[i], LH_POLICY_FRAMES_MIN);
		none_lost(lh__policies[i], 1000);
		open_fails(lh__policies[i]);
		catches(lh__policies[i]);
		if (strcmp(lh__policies[i]->name, "fifo") != 0)
			second_touch(lh__policies[i]);
	}
	residence(lh__policy_find("second"));
	residence(lh__policy_find("reuse"));
	survives_scan();
	loops();
	came_back();
	target_adapts(lh__policy_find("second"));
	target_adapts(lh__policy_find(NULL));
	return done();
}
