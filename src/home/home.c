/* home.c - opening, closing, forking and checking a home. See home.h. */
#include "home/internal.h"

#include <sys/mman.h>

#define PAGE(n) ((size_t)(n)*LH_PAGE_SIZE)

/*
 * Address space without memory, with an inaccessible page at each end so that the kernel joins it with
 * nothing.
 */
static void *reserve(const struct lh_sys *sys, size_t size)
{
	long base = LH_SYS(sys, SYS_mmap, NULL, size + PAGE(2), PROT_NONE,
	                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	long inner = base + LH_PAGE_SIZE;

	if (base < 0 && base > -4096)
		return NULL;
	if (LH_SYS(sys, SYS_mprotect, inner, size, PROT_READ | PROT_WRITE) < 0) {
		LH_SYS(sys, SYS_munmap, base, size + PAGE(2));
		return NULL;
	}
	/* -EINVAL on kernels without huge pages, where it is not needed. */
	LH_SYS(sys, SYS_madvise, inner, size, MADV_NOHUGEPAGE);
	return (void *)inner;
}

static void unreserve(const struct lh_sys *sys, void *inner, size_t size)
{
	if (inner)
		LH_SYS(sys, SYS_munmap, (uintptr_t)inner - LH_PAGE_SIZE, size + PAGE(2));
}

static size_t hash_size(const struct lh_home *home)
{
	return (size_t)home->options.frames * sizeof home->hash[0];
}

static size_t round_page(size_t size)
{
	return (size + LH_PAGE_SIZE - 1) & ~(size_t)(LH_PAGE_SIZE - 1);
}

static int open_memory(struct lh_home *home)
{
	const struct lh_sys *sys = home->sys;
	size_t frames = home->options.frames;

	home->frame = lh__alloc(sys, frames * sizeof *home->frame);
	home->free_ring = lh__alloc(sys, frames * sizeof *home->free_ring);
	home->cold = lh__alloc(sys, frames * sizeof *home->cold);
	home->regions.at = lh__alloc(sys, LH_REGIONS_MAX * sizeof *home->regions.at);
	home->left.at = lh__alloc(sys, LH_REGIONS_MAX * sizeof *home->left.at);
	home->regions.capacity = home->left.capacity = LH_REGIONS_MAX;
	home->keep = lh__alloc(sys, LH_KEEP_SLOTS * sizeof *home->keep);
	home->flight = lh__alloc(sys, LH_REQUESTS * sizeof *home->flight);
	home->hash = reserve(sys, round_page(hash_size(home)));
	home->staging = (uintptr_t)reserve(sys, PAGE(frames));
	home->zeroes = reserve(sys, PAGE(1));
	home->free_keys.stack = reserve(sys, LH_NUMBERS_MAX * sizeof(uint64_t));
	home->dead_keys.stack = reserve(sys, LH_NUMBERS_MAX * sizeof(uint64_t));
	if (!home->frame || !home->free_ring || !home->cold || !home->regions.at || !home->left.at ||
	    !home->keep || !home->flight || !home->hash || !home->staging || !home->zeroes ||
	    !home->free_keys.stack || !home->dead_keys.stack)
		return -ENOMEM;
	return 0;
}

static void close_memory(struct lh_home *home)
{
	const struct lh_sys *sys = home->sys;
	size_t frames = home->options.frames;

	lh__free(sys, home->frame, frames * sizeof *home->frame);
	lh__free(sys, home->free_ring, frames * sizeof *home->free_ring);
	lh__free(sys, home->cold, frames * sizeof *home->cold);
	lh__free(sys, home->regions.at, LH_REGIONS_MAX * sizeof *home->regions.at);
	lh__free(sys, home->left.at, LH_REGIONS_MAX * sizeof *home->left.at);
	lh__free(sys, home->keep, LH_KEEP_SLOTS * sizeof *home->keep);
	lh__free(sys, home->flight, LH_REQUESTS * sizeof *home->flight);
	unreserve(sys, home->hash, round_page(hash_size(home)));
	unreserve(sys, (void *)home->staging, PAGE(frames));
	unreserve(sys, home->zeroes, PAGE(1));
	unreserve(sys, home->free_keys.stack, LH_NUMBERS_MAX * sizeof(uint64_t));
	unreserve(sys, home->dead_keys.stack, LH_NUMBERS_MAX * sizeof(uint64_t));
}

static void set_up(struct lh_home *home)
{
	uint32_t frames = home->options.frames;

	for (uint32_t i = 0; i < frames; i++) {
		home->frame[i].page = LH_NO_PAGE;
		home->cold[i] = frames - 1 - i; /* the last is taken first: ascending */
	}
	home->cold_count = frames;
	home->limit = home->options.limit;
	home->next_key = 1;
	home->turnover = 1;
	home->last_zero = LH_NO_PAGE - 1;
	home->most_in_flight =
		home->store->caps.depth / 2 < LH_REQUESTS / 2 ? home->store->caps.depth / 2 : LH_REQUESTS / 2;
	for (unsigned i = 0; i < LH_REQUESTS; i++)
		lh__flight_give(home, &home->flight[i]);
	for (unsigned i = 0; i < LH_STREAMS; i++)
		home->stream[i].next = LH_NO_PAGE - 8;
}

static int open_parts(struct lh_home *home)
{
	int result = lh__hash_key_init(home->sys, &home->hash_key);

	if (result == 0)
		result = open_memory(home);
	if (result == 0)
		result = lh__directory_open(&home->directory, home->sys);
	if (result == 0)
		result = home->options.policy->open(home->sys, home->options.frames, &home->policy);
	if (result == 0)
		result = home->port->ops->watch(home->port, home->staging, PAGE(home->options.frames));
	return result;
}

int lh__home_open(const struct lh_sys *sys, const struct lh_home_options *options, struct lh_home **out)
{
	struct lh_home *home = lh__alloc(sys, sizeof *home);
	int result;

	if (!home)
		return -ENOMEM;
	home->sys = sys;
	home->options = *options;
	home->port = options->port;
	home->store = options->store;
	home->stats = options->stats;
	result = open_parts(home);
	if (result < 0) {
		lh__home_close(home);
		return result;
	}
	set_up(home);
	home->store->meanwhile = (struct lh_meanwhile){ lh__reclaim_meanwhile, home };
	*out = home;
	return 0;
}

/* Waits until nothing is in flight: the store owns the requests until then. */
static void drain(struct lh_home *home)
{
	while (home->in_flight) {
		lh__harvest(home);
		if (home->in_flight)
			LH_SYS(home->sys, SYS_sched_yield);
	}
}

void lh__home_close(struct lh_home *home)
{
	drain(home);
	home->store->meanwhile = (struct lh_meanwhile){ NULL, NULL };
	home->options.policy->close(home->policy);
	if (home->directory.root)
		lh__directory_close(&home->directory);
	close_memory(home);
	lh__free(home->sys, home, sizeof *home);
}

/* ---- limits ---- */

void lh__home_set_limit(struct lh_home *home, uint32_t limit)
{
	lh__lock(home->sys, &home->lock);
	home->limit = limit < home->options.frames ? limit : home->options.frames;
	__atomic_add_fetch(&home->freed, 1, __ATOMIC_RELEASE);
	lh__unlock(home->sys, &home->lock);
	lh__frames_tell(home);
	lh__home_poke(home);
}

uint32_t lh__home_backed(const struct lh_home *home)
{
	return __atomic_load_n(&home->backed, __ATOMIC_RELAXED);
}

uint32_t lh__home_limit(const struct lh_home *home)
{
	return __atomic_load_n(&home->limit, __ATOMIC_RELAXED);
}

void lh__home_lend(struct lh_home *home)
{
	__atomic_store_n(&home->lends, true, __ATOMIC_RELEASE);
}

/* ---- fork ---- */

int lh__home_pause(struct lh_home *home)
{
	lh__gate_close(home->sys, &home->gate);
	lh__lock(home->sys, &home->reclaiming);
	lh__lock(home->sys, &home->io);
	drain(home);
	if (!home->broken)
		return 0;
	lh__home_resume(home);
	return home->broken;
}

void lh__home_resume(struct lh_home *home)
{
	lh__unlock(home->sys, &home->io);
	lh__unlock(home->sys, &home->reclaiming);
	lh__gate_open(home->sys, &home->gate);
}

/* Whether anything is mapped at the start of a range that the kernel refused to watch. */
static bool is_mapped(struct lh_home *home, uintptr_t start)
{
	unsigned char present;

	return LH_SYS(home->sys, SYS_mincore, start, LH_PAGE_SIZE, &present) == 0;
}

static int watch_again(struct lh_home *home)
{
	int result = home->port->ops->watch(home->port, home->staging, PAGE(home->options.frames));

	for (size_t i = 0; i < home->regions.count && result == 0; i++) {
		struct lh_range *region = &home->regions.at[i];

		result = home->port->ops->watch(home->port, region->start, region->end - region->start);
		if (result < 0 && !is_mapped(home, region->start))
			result = 0; /* madvise(MADV_DONTFORK): not in the child */
	}
	return result;
}

/* Others can have been reading under the lock. */
void lh__home_fork_begin(struct lh_home *home)
{
	home->lock.word = 0;
	home->leaving = 0;
	home->left.count = 0;
}

int lh__home_fork_child(struct lh_home *home, struct lh_store *store)
{
	int result;

	lh__home_fork_begin(home);
	home->store = store;
	home->turnover++; /* what the parent has counted, this process may count again */
	home->turned = 0;
	home->store->meanwhile = (struct lh_meanwhile){ lh__reclaim_meanwhile, home };
	home->need = 0;
	memset(home->keep, 0, home->keep_high * sizeof *home->keep);
	home->keep_high = 0;
	result = watch_again(home);
	if (result < 0)
		return result;
	home->gate.word = 0;
	home->reclaiming.word = 0;
	home->io.word = 0;
	return 0;
}

/* ---- standing still, to have the watch renewed ---- */

int lh__home_each_watched(struct lh_home *home, lh_home_visit *visit, void *context)
{
	int result = visit(context, home->staging, home->staging + PAGE(home->options.frames));

	for (size_t i = 0; i < home->regions.count && result == 0; i++)
		result = visit(context, home->regions.at[i].start, home->regions.at[i].end);
	return result;
}

/* The first page at or after `page` whose content is elsewhere; last where there is none. */
static uint64_t next_away(struct lh_home *home, uint64_t page, uint64_t last)
{
	lh_entry *entry = NULL;

	while ((page = lh__directory_next(&home->directory, page, last, &entry)) < last &&
	       !lh__entry_away(entry))
		page++;
	return page;
}

int lh__home_each_absent(struct lh_home *home, uintptr_t start, uintptr_t end, lh_home_visit *visit,
                         void *context)
{
	uint64_t page = start / LH_PAGE_SIZE, last = end / LH_PAGE_SIZE, from;
	int result = 0;

	while (result == 0 && (from = page = next_away(home, page, last)) < last) {
		while (page < last && next_away(home, page, page + 1) == page)
			page++;
		result = visit(context, lh__page_address(from), lh__page_address(page));
	}
	return result;
}

/* ---- checks ---- */

struct account {
	uint32_t used, staged, resident;
	uint64_t stored;
};

static int check_word(const struct lh_home *home, uint64_t page, lh_entry word, struct account *account)
{
	uint64_t value = lh__entry_value(word);

	if (word & (LH_ENTRY_BUSY | LH_ENTRY_HELD | LH_ENTRY_ASKED))
		return 5;
	if (lh__entry_state(word) == LH_PAGE_STORED) {
		account->stored++;
		return value == LH_NO_KEY || value >= home->next_key ? 3 : 0;
	}
	if (value >= home->options.frames || home->frame[value].page != page || !home->frame[value].backed)
		return 1;
	account->used++;
	return 0;
}

static int check_words(const struct lh_home *home, struct account *account)
{
	lh_entry *entry = NULL;
	uint64_t last = UINT64_C(1) << 36;

	for (uint64_t page = 0; (page = lh__directory_next(&home->directory, page, last, &entry)) < last;
	     page++) {
		int broken = check_word(home, page, *entry, account);

		if (broken)
			return broken;
	}
	return 0;
}

int lh__home_check(struct lh_home *home)
{
	struct account account = { 0, 0, 0, 0 };
	uint32_t backed = 0, keys = 0;
	int broken = check_words(home, &account);

	if (broken)
		return broken;
	for (uint32_t i = 0; i < home->options.frames; i++) {
		backed += home->frame[i].backed;
		keys += home->frame[i].key != LH_NO_KEY;
	}
	if (account.used + home->free_count + home->cold_count != home->options.frames)
		return 2;
	if (account.stored + keys + home->free_keys.count + home->dead_keys.count != home->next_key - 1)
		return 3;
	return backed == home->backed && backed == account.used + home->free_count ? 0 : 4;
}
