/*
 * miss.c - a page was touched and is absent.
 *
 * The page's word is BUSY while its answer is fetched, so that one thread fetches and the others wait for it;
 * no lock is held. What a thread does for its own page comes first; looking ahead is done afterwards, and a
 * fault for a page that is on its way from a prefetch takes in all the prefetched pages that have come, since
 * they are what will be touched next.
 */
#include "home/internal.h"

#define STALL_SLICE_NS 2000000
/* Beside 0 and errors: the page needed nothing after all. Each fault ends as one of the kinds of stats.h. */
#define NEEDLESS 1
#define AGAIN_TRIES 64 /* with a yield between them */

/* ---- frames ---- */

/* No frame is free: helps to reclaim, or waits for who does. */
static void wait_for_frames(struct lh_home *home, uint32_t freed)
{
	if (lh__trylock(&home->reclaiming)) {
		int result = lh__reclaim_round(home);

		lh__unlock(home->sys, &home->reclaiming);
		if (result == LH_ROUND_AWAITS)
			LH_SYS(home->sys, SYS_sched_yield);
		if (result > 0)
			return;
	}
	lh__home_poke(home);
	__atomic_store_n(&home->awaited, 1, __ATOMIC_SEQ_CST);
	lh__futex_wait(home->sys, &home->freed, freed, STALL_SLICE_NS);
}

static int take_frame(struct lh_home *home, uint64_t page, uint32_t *frame)
{
	uint32_t freed = __atomic_load_n(&home->freed, __ATOMIC_ACQUIRE);
	uint64_t start, now;

	*frame = lh__home_frame_take(home, page);
	if (*frame != LH_NO_FRAME)
		return 0;
	start = now = lh__now(home->sys);
	while (*frame == LH_NO_FRAME && now - start < home->options.stall_limit_ns && !home->broken) {
		wait_for_frames(home, freed);
		freed = __atomic_load_n(&home->freed, __ATOMIC_ACQUIRE);
		*frame = lh__home_frame_take(home, page);
		now = lh__now(home->sys);
	}
	lh__count(&home->stats->stalls, 1);
	lh__count(&home->stats->stall_ns, now - start);
	if (*frame != LH_NO_FRAME)
		return 0;
	return home->broken ? home->broken : -ENOMEM;
}

/* ---- putting pages in place ---- */

/*
 * Whether to ask the port once more, which said that the address space is being changed. Not for ever: who
 * changes it may wait for this fault to end. Then the thread that touched looks again (is_moot), as if the
 * page had come and gone.
 */
static bool once_more(struct lh_home *home, long result, unsigned *tries)
{
	if (result != -EAGAIN || ++*tries == AGAIN_TRIES)
		return false;
	LH_SYS(home->sys, SYS_sched_yield);
	return true;
}

/*
 * The page could not be put in place, and need not be: it is there, its mapping is gone, or it is asked for
 * again.
 */
static bool is_moot(struct lh_home *home, uint64_t page, long result)
{
	if (result == -EAGAIN)
		home->port->ops->wake(home->port, lh__page_address(page));
	return result == -EEXIST || result == -ENOENT || result == -EAGAIN;
}

static long install_run(struct lh_home *home, uint64_t page, uint32_t frame, size_t pages)
{
	unsigned tries = 0;
	long result;

	do
		result = home->port->ops->give(home->port, lh__home_frame_memory(home, frame),
		                               lh__page_address(page), pages);
	while (once_more(home, result, &tries));
	return result;
}

int lh__install_backed(struct lh_home *home, uint64_t page, uint32_t frame)
{
	long result = install_run(home, page, frame, 1);

	return result < 0 ? (int)result : 0;
}

static int install_copy(struct lh_home *home, uint64_t page, const void *content)
{
	unsigned tries = 0;
	long result;

	do
		result = home->port->ops->supply(home->port, lh__page_address(page), content, 1);
	while (once_more(home, result, &tries));
	return result < 0 ? (int)result : 0;
}

/*
 * The page turned out to be present although the home did not know it (it became so before it was watched),
 * or its mapping has gone: either way nothing is to be done and the thread looks again.
 */
static int refused(struct lh_home *home, uint64_t page, int result)
{
	return is_moot(home, page, result) ? NEEDLESS : result;
}

/* ---- zeroes ---- */

static int install_zero(struct lh_home *home, uint64_t page, uint32_t frame)
{
	if (home->frame[frame].empty)
		return install_copy(home, page, home->zeroes);
	memset((void *)lh__home_frame_memory(home, frame), 0, LH_PAGE_SIZE);
	return lh__install_backed(home, page, frame);
}

static int fill_zero(struct lh_home *home, uint64_t page, lh_entry *entry)
{
	uint32_t frame;
	int result = take_frame(home, page, &frame);

	if (result == 0) {
		result = install_zero(home, page, frame);
		if (result < 0) {
			lh__home_frame_untake(home, frame);
			result = refused(home, page, result);
		} else {
			lh__home_frame_filled(home, frame, LH_FILL_NEW);
			lh__entry_unlock(home->sys, entry, lh__entry(LH_PAGE_RESIDENT, frame));
			return 0;
		}
	}
	lh__entry_unlock(home->sys, entry, 0);
	return result;
}

/* How many pages after this one to supply as well: doubles while the program walks on through new memory. */
static uint32_t zero_window(struct lh_home *home, uint64_t page)
{
	uint32_t window = __atomic_load_n(&home->zero_window, __ATOMIC_RELAXED);
	uint64_t last = __atomic_load_n(&home->last_zero, __ATOMIC_RELAXED);

	if (page == last + 1)
		window = window < LH_ZERO_AHEAD_MAX / 2 ? window * 2 : LH_ZERO_AHEAD_MAX - 1;
	else
		window = 1;
	return window;
}

/* Supplies the following pages as long as nothing is known of them and frames are plenty; never waits. */
static void zero_ahead(struct lh_home *home, uint64_t page)
{
	uint32_t window = zero_window(home, page), done = 0;
	struct lh_range region;

	if (window > 1 && lh__region_find(home, lh__page_address(page), &region))
		while (done + 1 < window && lh__page_address(page + done + 1) < region.end &&
		       lh__frames_free(home) > LH_BATCH) {
			lh_entry *entry = lh__directory_make(&home->directory, page + done + 1);
			lh_entry seen = 0;

			if (!entry || !__atomic_compare_exchange_n(entry, &seen, LH_ENTRY_BUSY, false,
			                                           __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
				break;
			if (fill_zero(home, page + done + 1, entry) != 0)
				break;
			done++;
		}
	lh__count(&home->stats->pages_zero_ahead, done);
	__atomic_store_n(&home->zero_window, window, __ATOMIC_RELAXED);
	__atomic_store_n(&home->last_zero, page + done, __ATOMIC_RELAXED);
}

static int miss_unknown(struct lh_home *home, uint64_t page, lh_entry *entry)
{
	int result = fill_zero(home, page, entry);

	if (result != 0)
		return result;
	lh__count(&home->stats->faults_zero, 1);
	zero_ahead(home, page);
	return 0;
}

/* ---- staging ---- */

static int miss_staged(struct lh_home *home, uint64_t page, lh_entry *entry, uint32_t frame)
{
	int result = lh__install_backed(home, page, frame);

	if (result < 0) {
		lh__entry_unlock(home->sys, entry, lh__entry(LH_PAGE_STAGED, frame));
		return refused(home, page, result);
	}
	lh__home_frame_returned(home, frame);
	lh__entry_unlock(home->sys, entry, lh__entry(LH_PAGE_RESIDENT, frame));
	lh__count(&home->stats->faults_staging, 1);
	return 0;
}

/* ---- the store ---- */

static void note_latency(struct lh_home *home, uint64_t ns)
{
	lh__count(&home->stats->latency_ns, ns);
	lh__count(&home->stats->latency[lh__latency_bucket(ns)], 1);
}

static void note_fetched(struct lh_home *home, lh_mask held)
{
	lh__count(&home->stats->pages_fetched, 1);
	lh__count(&home->stats->lines_fetched, lh__mask_count(held));
}

/*
 * The content of a fetched page is in memory: its hashes are what the store holds, its frame knows the key.
 */
static void set_base(struct lh_home *home, uint32_t frame, uint64_t key, const void *content)
{
	lh__page_hash(&home->hash_key, content, home->hash[frame]);
	home->frame[frame].key = key;
	home->frame[frame].base = true;
}

static int fetch(struct lh_home *home, uint64_t key, void *content)
{
	uint64_t start = lh__now(home->sys);
	lh_mask held;
	int result = home->store->ops->get_now(home->store, key, LH_MASK_ALL, content, &held);

	if (result < 0)
		return result;
	note_latency(home, lh__now(home->sys) - start);
	note_fetched(home, held);
	return 0;
}

/*
 * Fetches the page into the frame's own memory, or through a buffer if it has none yet, and puts it in place.
 */
static int fetch_and_install(struct lh_home *home, uint64_t page, uint64_t key, uint32_t frame)
{
	unsigned char buffer[LH_PAGE_SIZE] __attribute__((aligned(64)));
	bool empty = home->frame[frame].empty;
	void *content = empty ? (void *)buffer : (void *)lh__home_frame_memory(home, frame);
	int result = fetch(home, key, content);

	if (result < 0)
		return result;
	set_base(home, frame, key, content);
	return empty ? install_copy(home, page, content) : lh__install_backed(home, page, frame);
}

static int miss_stored(struct lh_home *home, uint64_t page, lh_entry *entry, uint64_t key)
{
	uint32_t frame;
	int result = take_frame(home, page, &frame);

	if (result == 0) {
		result = fetch_and_install(home, page, key, frame);
		if (result == 0) {
			lh__home_frame_filled(home, frame, LH_FILL_STORE);
			lh__entry_unlock(home->sys, entry, lh__entry(LH_PAGE_RESIDENT, frame));
			lh__count(&home->stats->faults_store, 1);
			return 0;
		}
		lh__home_frame_untake(home, frame);
		result = refused(home, page, result);
	}
	lh__entry_unlock(home->sys, entry, lh__entry(LH_PAGE_STORED, key));
	return result;
}

/* ---- prefetch ---- */

/* Whoever needs the page asks for it again, and meets the error if it is still there. */
static void prefetch_failed(struct lh_home *home, const struct lh_flight *flight)
{
	lh__home_frame_untake(home, flight->frame);
	lh__entry_unlock(home->sys, flight->entry, lh__entry(LH_PAGE_STORED, flight->request.page));
}

static void prefetch_done(struct lh_home *home, const struct lh_flight *flight)
{
	lh__home_frame_filled(home, flight->frame, LH_FILL_STORE);
	lh__entry_unlock(home->sys, flight->entry, lh__entry(LH_PAGE_RESIDENT, flight->frame));
}

static bool follows(const struct lh_flight *a, const struct lh_flight *b)
{
	return b->page == a->page + 1 && b->frame == a->frame + 1 && b->request.result == 0;
}

/* How many of the flights, from the first on, are neighbours in the program and in staging. */
static size_t run_length(struct lh_flight *const *flights, size_t n)
{
	size_t length = 1;

	while (length < n && follows(flights[length - 1], flights[length]))
		length++;
	return length;
}

/* Installs a run of pages as far as it goes; returns how many flights are dealt with. */
static size_t land(struct lh_home *home, struct lh_flight *const *flights, size_t n)
{
	long done;

	if (flights[0]->request.result < 0) {
		prefetch_failed(home, flights[0]);
		return 1;
	}
	done = install_run(home, flights[0]->page, flights[0]->frame, run_length(flights, n));
	if (done <= 0) {
		prefetch_failed(home, flights[0]);
		return 1;
	}
	for (long i = 0; i < done; i++)
		prefetch_done(home, flights[i]);
	return (size_t)done;
}

void lh__prefetched(struct lh_home *home, struct lh_flight *const *flights, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (flights[i]->request.result == 0) {
			note_fetched(home, flights[i]->request.mask);
			set_base(home, flights[i]->frame, flights[i]->request.page, flights[i]->request.data);
		}
	for (size_t i = 0; i < n;)
		i += land(home, flights + i, n - i);
}

/* Memory for a frame that has none: prefetches arrive in the frame itself. */
static bool back_frame(struct lh_home *home, uint32_t frame)
{
	struct lh_frame *f = &home->frame[frame];

	if (f->empty &&
	    home->port->ops->supply(home->port, lh__home_frame_memory(home, frame), home->zeroes, 1) == 1)
		f->empty = false;
	return !f->empty;
}

/* Prepares the request for one page if it is in the store and nobody works on it. Under io. */
static struct lh_flight *ask(struct lh_home *home, uint64_t page)
{
	lh_entry *entry = lh__directory_find(&home->directory, page);
	struct lh_flight *flight;
	lh_entry seen;
	uint32_t frame;

	if (!entry || lh__entry_state(__atomic_load_n(entry, __ATOMIC_RELAXED)) != LH_PAGE_STORED ||
	    !lh__entry_try(entry, &seen))
		return NULL;
	frame = lh__entry_state(seen) == LH_PAGE_STORED ? lh__home_frame_take(home, page) : LH_NO_FRAME;
	flight = frame != LH_NO_FRAME && back_frame(home, frame) ? lh__flight_take(home) : NULL;
	if (!flight) {
		if (frame != LH_NO_FRAME)
			lh__home_frame_untake(home, frame);
		lh__entry_unlock(home->sys, entry, seen);
		return NULL;
	}
	__atomic_or_fetch(entry, LH_ENTRY_ASKED, __ATOMIC_RELEASE);
	*flight = (struct lh_flight){
		.request = { .op = LH_OP_GET,
		             .page = lh__entry_value(seen),
		             .mask = LH_MASK_ALL,
		             .user = flight,
		             .data = (void *)lh__home_frame_memory(home, frame) },
		.frame = frame,
		.page = page,
		.entry = entry,
	};
	return flight;
}

static void unask(struct lh_home *home, struct lh_flight *flight)
{
	lh__home_frame_untake(home, flight->frame);
	lh__entry_unlock(home->sys, flight->entry, lh__entry(LH_PAGE_STORED, flight->request.page));
	lh__flight_give(home, flight);
}

static void ask_ahead(struct lh_home *home, uint64_t page, uint32_t count)
{
	struct lh_request *requests[LH_AHEAD_MAX];
	size_t n = 0;

	for (uint64_t ahead = page; ahead < page + count && lh__frames_free(home) > count; ahead++) {
		struct lh_flight *flight = ask(home, ahead);

		if (flight)
			requests[n++] = &flight->request;
	}
	if (n == 0)
		return;
	if (home->store->ops->submit(home->store, requests, n) == 0) {
		home->in_flight += (uint32_t)n;
		lh__count(&home->stats->pages_prefetched, n);
		return;
	}
	while (n--)
		unask(home, requests[n]->user);
}

/* The stream that expects this page; or the place of the least promising one, for a new stream. */
static struct lh_stream *stream_for(struct lh_home *home, uint64_t page)
{
	struct lh_stream *worst = &home->stream[0];

	for (size_t i = 0; i < LH_STREAMS; i++) {
		if (page - home->stream[i].next < 2 || page == home->stream[i].next - 1)
			return &home->stream[i];
		if (home->stream[i].window < worst->window)
			worst = &home->stream[i];
	}
	if (worst->window > 0)
		worst->window /= 2; /* age it, so that a dead stream makes room */
	*worst = (struct lh_stream){ .next = page + 1 };
	return NULL;
}

/*
 * A page was fetched by a fault: if faults come one after the other, the following pages are asked for. Never
 * waits.
 */
static void look_ahead(struct lh_home *home, uint64_t page)
{
	struct lh_stream *stream;

	if (home->options.prefetch != LH_PREFETCH_NEXT || !lh__trylock(&home->io))
		return;
	stream = stream_for(home, page);
	if (stream) {
		stream->window = stream->window ? stream->window * 2 : 4;
		if (stream->window > LH_AHEAD_MAX)
			stream->window = LH_AHEAD_MAX;
		ask_ahead(home, page + 1, stream->window);
		stream->next = page + 1 + stream->window;
	}
	lh__unlock(home->sys, &home->io);
}

/* The page is on its way: takes in all that has come until it is there. */
static void await_prefetch(struct lh_home *home, lh_entry *entry)
{
	while (__atomic_load_n(entry, __ATOMIC_ACQUIRE) & LH_ENTRY_ASKED) {
		if (lh__trylock(&home->io)) {
			lh__harvest(home);
			lh__unlock(home->sys, &home->io);
			__builtin_ia32_pause();
		} else {
			lh__entry_wait(home->sys, entry);
		}
	}
}

/* ---- the request ---- */

/*
 * Nothing is to be done for a page that is present. One that the directory calls resident but that is absent
 * has been dropped behind the home's back: then its content is zero, as the kernel has it.
 */
static int miss_resident(struct lh_home *home, uint64_t page)
{
	unsigned tries = 0;
	long result;

	do
		result = home->port->ops->supply_zero(home->port, lh__page_address(page), 1);
	while (once_more(home, result, &tries));
	if (result > 0)
		lh__count(&home->stats->faults_zero, 1);
	return result > 0 ? 0 : refused(home, page, (int)result);
}

/* The word of the page, BUSY by us; *awaited: a prefetch of it was on its way. */
static lh_entry own_page(struct lh_home *home, lh_entry *entry, bool *awaited)
{
	lh_entry seen;

	while (!lh__entry_try(entry, &seen)) {
		if (seen & LH_ENTRY_ASKED) {
			*awaited = true;
			await_prefetch(home, entry);
		} else if (seen & LH_ENTRY_BUSY) {
			lh__entry_wait(home->sys, entry);
		}
	}
	return seen;
}

static int miss_owned(struct lh_home *home, uint64_t page, lh_entry *entry, lh_entry seen)
{
	int result;

	switch (lh__entry_state(seen)) {
	case LH_PAGE_UNKNOWN: return miss_unknown(home, page, entry);
	case LH_PAGE_STAGED: return miss_staged(home, page, entry, (uint32_t)lh__entry_value(seen));
	case LH_PAGE_STORED:
		result = miss_stored(home, page, entry, lh__entry_value(seen));
		if (result == 0)
			look_ahead(home, page);
		return result;
	default:
		result = miss_resident(home, page);
		lh__entry_unlock(home->sys, entry, seen);
		return result;
	}
}

static int miss_page(struct lh_home *home, uint64_t page, lh_entry *entry)
{
	bool awaited = false;
	lh_entry seen = own_page(home, entry, &awaited);
	int result = miss_owned(home, page, entry, seen);

	if (result != NEEDLESS)
		return result;
	lh__count(awaited ? &home->stats->faults_prefetched : &home->stats->faults_present, 1);
	return 0;
}

/* Brings in what the home has of a range. A page that stays elsewhere has lost its mapping. */
static int bring_in(struct lh_home *home, uint64_t first, uint64_t last)
{
	lh_entry *entry = NULL;
	int result = 0;

	for (uint64_t page = first;
	     result == 0 && (page = lh__directory_next(&home->directory, page, last, &entry)) < last; page++)
		for (unsigned tries = 0; result == 0 && lh__entry_away(entry) && tries < AGAIN_TRIES; tries++)
			result = miss_page(home, page, entry);
	return result;
}

int lh__home_unwatch(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	int slot = lh__home_keep(home, start, end), result;

	if (slot < 0)
		return slot;
	result = bring_in(home, start / LH_PAGE_SIZE, end / LH_PAGE_SIZE);
	if (result == 0)
		result = home->port->ops->unwatch(home->port, start, end - start);
	if (result == 0) {
		lh__home_hold(home, start, end);
		lh__home_leave(home, start, end);
		lh__home_forget(home, start, end);
		lh__home_left(home, start, end, true);
	}
	lh__home_unkeep(home, slot);
	return result;
}

static void note_cpu(struct lh_home *home)
{
	unsigned cpu;
	uint64_t bit;

	__builtin_ia32_rdtscp(&cpu);
	bit = UINT64_C(1) << (cpu & 63);
	if (!(__atomic_load_n(&home->fault_cpus, __ATOMIC_RELAXED) & bit))
		__atomic_or_fetch(&home->fault_cpus, bit, __ATOMIC_RELAXED);
}

uint64_t lh__home_fault_cpus(struct lh_home *home)
{
	return __atomic_exchange_n(&home->fault_cpus, 0, __ATOMIC_RELAXED);
}

int lh__home_miss(struct lh_home *home, uintptr_t address)
{
	uint64_t page = address / LH_PAGE_SIZE;
	struct lh_range region;
	lh_entry *entry;
	int result;

	if (!lh__region_find(home, address, &region)) {
		if (__atomic_load_n(&home->leaving, __ATOMIC_ACQUIRE) == 0)
			return LH_MISS_NOT_MINE;
		LH_SYS(home->sys, SYS_sched_yield);
		return 0; /* perhaps a mapping that is being changed: gone, or watched again, in a moment */
	}
	note_cpu(home);
	lh__gate_enter(home->sys, &home->gate);
	entry = lh__directory_make(&home->directory, page);
	result = entry ? miss_page(home, page, entry) : -ENOMEM;
	lh__gate_leave(home->sys, &home->gate);
	return result;
}
