/*
 * reclaim.c - pages in staging lose their memory, once the store has what changed of them; and when all this
 * is done.
 *
 * A round never waits for a page that somebody else works on: a thread that reclaims for its own fault holds
 * its own page, and waiting for another's could close a circle. Such pages are noted in `again` and looked at
 * in the next round. The two steps before and after are in deactivate.c and harvest.c.
 */
#include "home/internal.h"

#include <time.h>

#define SUBMIT_BATCH 16
#define STAGE_MAX 512
#define MEANWHILE 1
#define SETTLE_MOMENT_NS 100000

/* ---- pages that were chosen ---- */

/* A page that is all zero, or unchanged since the store last had it, leaves without a word to the store. */
static lh_entry leave_silently(struct lh_home *home, uint32_t frame, bool zero)
{
	lh_entry word = zero ? 0 : lh__entry(LH_PAGE_STORED, home->frame[frame].key);

	lh__home_frame_release(home, frame, true, zero);
	lh__note_reclaimed(home);
	lh__count(zero ? &home->stats->pages_dropped_zero : &home->stats->pages_dropped_clean, 1);
	return word;
}

/* Which lines of the staged frame are to be sent; sets the frame's hashes to its content. */
static lh_mask changed_lines(struct lh_home *home, uint32_t frame)
{
	const void *content = (const void *)lh__home_frame_memory(home, frame);

	if (home->frame[frame].base)
		return lh__page_hash_diff(&home->hash_key, content, home->hash[frame], home->hash[frame]);
	lh__page_hash(&home->hash_key, content, home->hash[frame]);
	return lh__page_nonzero(content);
}

static bool give_key(struct lh_home *home, struct lh_frame *f)
{
	if (f->key == LH_NO_KEY)
		f->key = lh__key_take(home);
	if (f->key == LH_NO_KEY)
		lh__note_broken(home, -ENOSPC, f->page);
	return f->key != LH_NO_KEY;
}

/* A put of the frame's changed lines; or NULL, with the word to publish in *word. */
static struct lh_flight *prepare_put(struct lh_home *home, uint32_t frame, lh_entry *word)
{
	struct lh_frame *f = &home->frame[frame];
	void *content = (void *)lh__home_frame_memory(home, frame);
	bool base = f->base;
	lh_mask mask = changed_lines(home, frame);
	struct lh_flight *flight;

	if (mask == 0 || (base && lh__page_nonzero(content) == 0)) {
		*word = leave_silently(home, frame, !base || mask != 0);
		return NULL;
	}
	f->base = false;
	if (!give_key(home, f) || !(flight = lh__flight_take(home)))
		return NULL;
	f->base = true;
	*flight = (struct lh_flight){
		.request = { .op = base ? LH_OP_PUT : LH_OP_REPLACE,
		             .page = f->key,
		             .mask = mask,
		             .data = content,
		             .user = flight },
		.frame = frame,
		.generation = f->generation,
		.page = f->page,
		.residence_ns = lh__now(home->sys) - f->since,
	};
	return flight;
}

/*
 * Looks at one staged frame; a flight if it has lines to send, whose page stays BUSY until that is submitted.
 */
static struct lh_flight *reclaim_one(struct lh_home *home, const struct lh_pick *pick)
{
	uint64_t page;
	lh_entry *entry = lh__entry_of(home, pick, &page);
	struct lh_frame *f = &home->frame[pick->frame];
	struct lh_flight *flight = NULL;
	lh_entry seen;

	if (!entry)
		return NULL;
	if (!lh__entry_try(entry, &seen)) {
		lh__push_again(home, *pick);
		return NULL;
	}
	if (seen == lh__entry(LH_PAGE_STAGED, pick->frame) && f->generation == pick->generation && f->out) {
		if (!f->putting)
			flight = prepare_put(home, pick->frame, &seen);
		if (!flight && seen == lh__entry(LH_PAGE_STAGED, pick->frame))
			lh__push_again(home, *pick);
	}
	if (!flight) {
		lh__entry_unlock(home->sys, entry, seen);
		return NULL;
	}
	flight->entry = entry;
	flight->seen = seen;
	return flight;
}

static void submit_failed(struct lh_home *home, struct lh_flight *flight, int result)
{
	home->frame[flight->frame].base = false;
	lh__note_broken(home, result, flight->page);
	lh__push_again(home, (struct lh_pick){ flight->frame, flight->generation });
}

static void submit_puts(struct lh_home *home, struct lh_flight *const *flights, size_t n)
{
	struct lh_request *requests[SUBMIT_BATCH];
	int result;

	for (size_t i = 0; i < n; i++) {
		requests[i] = &flights[i]->request;
		home->frame[flights[i]->frame].putting = true;
		home->frame[flights[i]->frame].touched = false;
	}
	result = home->store->ops->submit(home->store, requests, n);
	if (result == 0)
		home->in_flight += (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		if (result < 0) {
			home->frame[flights[i]->frame].putting = false;
			submit_failed(home, flights[i], result);
		}
		lh__entry_unlock(home->sys, flights[i]->entry, flights[i]->seen);
		if (result < 0)
			lh__flight_give(home, flights[i]);
	}
}

/*
 * Pages that leave have not been looked at for long: the next one comes from memory while this one is hashed.
 */
static void bring_near(const struct lh_home *home, uint32_t frame)
{
	const char *content = (const char *)lh__home_frame_memory(home, frame);
	const char *hash = (const char *)home->hash[frame];

	for (size_t i = 0; i < LH_PAGE_SIZE; i += LH_LINE_SIZE)
		__builtin_prefetch(content + i);
	for (size_t i = 0; i < sizeof home->hash[0]; i += LH_LINE_SIZE)
		__builtin_prefetch(hash + i);
}

static void reclaim_picks(struct lh_home *home, const struct lh_pick *picks, size_t n)
{
	struct lh_flight *flights[SUBMIT_BATCH];
	size_t count = 0;

	for (size_t i = 0; i < n; i++) {
		struct lh_flight *flight;

		if (i + 1 < n)
			bring_near(home, picks[i + 1].frame);
		flight = reclaim_one(home, &picks[i]);

		if (flight)
			flights[count++] = flight;
		if (count == SUBMIT_BATCH || (i + 1 == n && count)) {
			submit_puts(home, flights, count);
			count = 0;
		}
	}
}

static size_t pick_staged(struct lh_home *home, struct lh_pick *picks, size_t max)
{
	uint32_t frames[LH_BATCH];
	size_t n;

	lh__lock(home->sys, &home->lock);
	n = home->options.policy->reclaim(home->policy, frames, max);
	for (size_t i = 0; i < n; i++) {
		struct lh_frame *f = &home->frame[frames[i]];

		f->out = true;
		picks[i] = (struct lh_pick){ frames[i], f->generation };
	}
	lh__unlock(home->sys, &home->lock);
	return n;
}

static size_t reclaim_again(struct lh_home *home)
{
	struct lh_pick picks[LH_BATCH];
	size_t n = home->again_count < LH_BATCH ? home->again_count : LH_BATCH;

	home->again_count -= (uint32_t)n;
	memcpy(picks, &home->again[home->again_count], n * sizeof picks[0]);
	reclaim_picks(home, picks, n);
	return n;
}

static size_t reclaim(struct lh_home *home, size_t max)
{
	struct lh_pick picks[LH_BATCH];
	size_t n = pick_staged(home, picks, max);

	reclaim_picks(home, picks, n);
	return n;
}

/* ---- numbers whose pages are gone ---- */

static size_t take_dead_keys(struct lh_home *home, uint64_t *keys, size_t max)
{
	size_t n = 0;

	lh__lock(home->sys, &home->lock);
	while (n < max && home->dead_keys.count)
		keys[n++] = home->dead_keys.stack[--home->dead_keys.count];
	lh__unlock(home->sys, &home->lock);
	return n;
}

static void give_keys(struct lh_home *home, struct lh_numbers *to, const uint64_t *keys, size_t n)
{
	lh__lock(home->sys, &home->lock);
	for (size_t i = 0; i < n; i++)
		to->stack[to->count++] = keys[i];
	lh__unlock(home->sys, &home->lock);
}

/*
 * Tells the store; requests on one page keep their order, so the numbers can be used again at once. Under io.
 */
static size_t drop_dead(struct lh_home *home)
{
	struct lh_request *requests[SUBMIT_BATCH];
	uint64_t keys[SUBMIT_BATCH];
	size_t n, ready = 0;

	if (home->dead_keys.count == 0 || home->in_flight >= home->most_in_flight)
		return 0;
	n = take_dead_keys(home, keys, SUBMIT_BATCH);
	for (struct lh_flight *flight; ready < n && (flight = lh__flight_take(home)); ready++) {
		*flight = (struct lh_flight){
			.request = { .op = LH_OP_DROP, .page = keys[ready], .user = flight }
		};
		requests[ready] = &flight->request;
	}
	if (ready && home->store->ops->submit(home->store, requests, ready) < 0) {
		for (size_t i = 0; i < ready; i++)
			lh__flight_give(home, requests[i]->user);
		ready = 0;
	}
	home->in_flight += (uint32_t)ready;
	give_keys(home, &home->free_keys, keys, ready);
	give_keys(home, &home->dead_keys, keys + ready, n - ready);
	return ready;
}

/* ---- rounds ---- */

/* Free frames to have before the reclaimer rests. */
static uint32_t high_mark(const struct lh_home *home)
{
	uint32_t mark = home->limit / 32;

	return mark < 2 * LH_BATCH ? 2 * LH_BATCH : mark > 1024 ? 1024 : mark;
}

static size_t stage(struct lh_home *home, size_t wanted)
{
	size_t target = home->options.policy->staging_target(home->policy) + wanted, total = 0, n;

	while (total < STAGE_MAX && lh__policy_staged(home->policy) < target) {
		n = lh__deactivate(home, target - lh__policy_staged(home->policy));
		if (n == 0)
			break;
		total += n;
	}
	return total;
}

/*
 * A fault that fetches takes a frame, so a page has to leave for it sooner or later; it can leave the
 * program's sight while the store answers the fault, at no cost in time. The rounds then find it staged.
 */
void lh__reclaim_meanwhile(void *context)
{
	struct lh_home *home = context;

	if (!lh__trylock(&home->reclaiming))
		return;
	if (lh__frames_free(home) < high_mark(home) &&
	    lh__policy_staged(home->policy) < home->options.policy->staging_target(home->policy) + STAGE_MAX)
		lh__deactivate(home, MEANWHILE);
	lh__unlock(home->sys, &home->reclaiming);
}

int lh__reclaim_round(struct lh_home *home)
{
	size_t done = 0, wanted;

	while (lh__frames_shrink(home))
		done++;
	lh__lock(home->sys, &home->io);
	lh__harvest(home);
	done += drop_dead(home);
	lh__unlock(home->sys, &home->io);
	lh__frames_tell(home);
	if (home->broken)
		return home->broken;
	wanted = high_mark(home);
	if (lh__frames_free(home) >= wanted && home->backed <= home->limit)
		return done > 0 ? LH_ROUND_MORE : home->in_flight ? LH_ROUND_AWAITS : LH_ROUND_NOTHING;
	wanted = LH_BATCH;
	done += stage(home, wanted);
	lh__lock(home->sys, &home->io);
	done += reclaim_again(home);
	if (home->again_count < LH_AGAIN / 2 && home->in_flight < home->most_in_flight)
		done += reclaim(home, wanted);
	lh__harvest(home);
	lh__unlock(home->sys, &home->io);
	lh__frames_tell(home);
	return done > 0 ? LH_ROUND_MORE : home->in_flight ? LH_ROUND_AWAITS : LH_ROUND_NOTHING;
}

int lh__home_balance(struct lh_home *home, uint64_t *page)
{
	int result;

	if (!lh__trylock(&home->reclaiming))
		return 0;
	result = lh__reclaim_round(home);
	lh__unlock(home->sys, &home->reclaiming);
	if (result < 0)
		*page = home->broken_page;
	return result;
}

/*
 * The balancing thread takes in what comes: who waits here must not be caught in a connection that breaks. It
 * sleeps, since others have to run for what it waits for.
 */
void lh__home_settle(struct lh_home *home, uint64_t nanoseconds)
{
	const struct timespec moment = { 0, SETTLE_MOMENT_NS };
	uint64_t start = lh__now(home->sys);

	while (__atomic_load_n(&home->gate.word, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&home->in_flight, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&home->reclaiming.word, __ATOMIC_RELAXED)) {
		if (lh__now(home->sys) - start > nanoseconds)
			return;
		LH_SYS(home->sys, SYS_nanosleep, &moment, NULL);
	}
}

void lh__home_wait(struct lh_home *home, int64_t nanoseconds)
{
	uint32_t need = __atomic_load_n(&home->need, __ATOMIC_ACQUIRE);

	if (need == 0)
		lh__futex_wait(home->sys, &home->need, 0, nanoseconds);
	__atomic_store_n(&home->need, 0, __ATOMIC_RELEASE);
}

void lh__home_poke(struct lh_home *home)
{
	if (__atomic_load_n(&home->need, __ATOMIC_RELAXED) == 0 &&
	    __atomic_exchange_n(&home->need, 1, __ATOMIC_ACQ_REL) == 0)
		lh__futex_wake(home->sys, &home->need, 1);
}
