/* frames.c - frames, the store's page numbers, and the table of watched ranges. See home.h. */
#include "home/internal.h"

#include <limits.h>
#include <sys/mman.h>

/* Free frames below which the reclaimer is woken. */
static uint32_t low_mark(const struct lh_home *home)
{
	uint32_t mark = home->limit / 64;

	return mark < 16 ? 16 : mark > 512 ? 512 : mark;
}

uint32_t lh__frames_free(const struct lh_home *home)
{
	uint32_t room = home->limit > home->backed ? home->limit - home->backed : 0;

	return home->free_count + (room < home->cold_count ? room : home->cold_count);
}

static void push_free(struct lh_home *home, uint32_t frame)
{
	home->free_ring[(home->free_head + home->free_count++) % home->options.frames] = frame;
}

static uint32_t pop_free(struct lh_home *home)
{
	uint32_t frame = home->free_ring[home->free_head];

	home->free_head = (home->free_head + 1) % home->options.frames;
	home->free_count--;
	return frame;
}

static uint32_t pop_any(struct lh_home *home)
{
	if (home->free_count)
		return pop_free(home);
	if (home->cold_count && home->backed < home->limit)
		return home->cold[--home->cold_count];
	return LH_NO_FRAME;
}

uint32_t lh__home_frame_take(struct lh_home *home, uint64_t page)
{
	uint32_t frame;
	bool few;

	lh__lock(home->sys, &home->lock);
	frame = pop_any(home);
	if (frame != LH_NO_FRAME) {
		home->frame[frame].page = page;
		if (!home->frame[frame].backed) {
			home->frame[frame].backed = true;
			home->backed++;
			home->frame[frame].empty = true;
		}
	}
	few = lh__frames_free(home) < low_mark(home);
	lh__unlock(home->sys, &home->lock);
	if (few)
		lh__home_poke(home);
	return frame;
}

void lh__home_frame_filled(struct lh_home *home, uint32_t frame, enum lh_fill source)
{
	struct lh_frame *f = &home->frame[frame];
	uint64_t now = lh__now(home->sys);

	lh__lock(home->sys, &home->lock);
	f->out = f->empty = false;
	f->since = now;
	home->options.policy->filled(home->policy, frame, f->page, source);
	lh__unlock(home->sys, &home->lock);
}

/* The memory of a frame, which stands in staging, goes back to the kernel. */
static void drop_memory(struct lh_home *home, uint32_t frame)
{
	LH_SYS(home->sys, SYS_madvise, lh__home_frame_memory(home, frame), LH_PAGE_SIZE, MADV_DONTNEED);
}

static void make_free(struct lh_home *home, uint32_t frame, bool kept)
{
	struct lh_frame *f = &home->frame[frame];

	f->page = LH_NO_PAGE;
	f->key = LH_NO_KEY;
	f->base = f->out = f->putting = f->empty = false;
	f->generation++;
	if (kept) {
		push_free(home, frame);
	} else {
		f->backed = false;
		home->backed--;
		home->cold[home->cold_count++] = frame;
	}
	__atomic_add_fetch(&home->freed, 1, __ATOMIC_RELEASE);
}

void lh__home_frame_untake(struct lh_home *home, uint32_t frame)
{
	lh__lock(home->sys, &home->lock);
	make_free(home, frame, !home->frame[frame].empty);
	lh__unlock(home->sys, &home->lock);
}

static void push_number(struct lh_numbers *numbers, uint64_t number)
{
	if (numbers->count < LH_NUMBERS_MAX)
		numbers->stack[numbers->count++] = number;
}

void lh__home_frame_release(struct lh_home *home, uint32_t frame, bool kept, bool key_too)
{
	struct lh_frame *f = &home->frame[frame];
	bool lent = kept && __atomic_load_n(&home->lends, __ATOMIC_ACQUIRE);

	if (lent)
		drop_memory(home, frame);
	lh__lock(home->sys, &home->lock);
	if (!f->out)
		home->options.policy->removed(home->policy, frame);
	if (key_too && f->key != LH_NO_KEY)
		push_number(&home->dead_keys, f->key);
	make_free(home, frame, kept && !lent);
	lh__unlock(home->sys, &home->lock);
}

void lh__home_frame_returned(struct lh_home *home, uint32_t frame)
{
	struct lh_frame *f = &home->frame[frame];

	lh__lock(home->sys, &home->lock);
	if (f->out)
		home->options.policy->filled(home->policy, frame, f->page, LH_FILL_STORE);
	else
		home->options.policy->returned(home->policy, frame);
	f->out = false;
	f->touched = true;
	lh__unlock(home->sys, &home->lock);
}

uint32_t lh__home_frame_adopt(struct lh_home *home, uint64_t page)
{
	uint64_t now = lh__now(home->sys);
	uint32_t frame = LH_NO_FRAME;

	lh__lock(home->sys, &home->lock);
	if (home->cold_count) {
		frame = home->cold[--home->cold_count];
		home->backed++;
		home->frame[frame].page = page;
		home->frame[frame].backed = true;
		home->frame[frame].since = now;
		home->options.policy->filled(home->policy, frame, page, LH_FILL_NEW);
	}
	lh__unlock(home->sys, &home->lock);
	return frame;
}

uint64_t lh__key_take(struct lh_home *home)
{
	uint64_t key = LH_NO_KEY;

	lh__lock(home->sys, &home->lock);
	if (home->free_keys.count)
		key = home->free_keys.stack[--home->free_keys.count];
	else if (home->next_key <= LH_PAGE_NUMBER_MAX)
		key = home->next_key++;
	lh__unlock(home->sys, &home->lock);
	return key;
}

void lh__key_drop(struct lh_home *home, uint64_t key)
{
	lh__lock(home->sys, &home->lock);
	push_number(&home->dead_keys, key);
	lh__unlock(home->sys, &home->lock);
}

bool lh__frames_shrink(struct lh_home *home)
{
	uint32_t frame = LH_NO_FRAME;

	lh__lock(home->sys, &home->lock);
	if (home->backed > home->limit && home->free_count) {
		frame = pop_free(home);
		drop_memory(home, frame);
		home->frame[frame].backed = false;
		home->backed--;
		home->cold[home->cold_count++] = frame;
	}
	lh__unlock(home->sys, &home->lock);
	return frame != LH_NO_FRAME;
}

/* Who is about to sleep has seen an older count: the kernel compares it. */
void lh__frames_tell(struct lh_home *home)
{
	if (__atomic_load_n(&home->awaited, __ATOMIC_SEQ_CST) &&
	    __atomic_exchange_n(&home->awaited, 0, __ATOMIC_SEQ_CST))
		lh__futex_wake(home->sys, &home->freed, INT_MAX);
}

/* ---- watched ranges ---- */

bool lh__region_find(struct lh_home *home, uintptr_t address, struct lh_range *out)
{
	const struct lh_range *range;

	lh__lock(home->sys, &home->lock);
	range = lh__ranges_find(&home->regions, address);
	if (range)
		*out = *range;
	lh__unlock(home->sys, &home->lock);
	return range != NULL;
}

bool lh__home_watches(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	bool found;

	lh__lock(home->sys, &home->lock);
	found = lh__ranges_touch(&home->regions, start, end);
	lh__unlock(home->sys, &home->lock);
	return found;
}
