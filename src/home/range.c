/* range.c - ranges that are watched, kept, and changed by the program. See home.h. */
#include "home/internal.h"

/* ---- finding what is present ---- */

struct finding {
	struct lh_home *home;
	uint64_t found;
};

/* A present page that the home does not know gets a frame; its memory stands in the program already. */
static bool adopt(struct lh_home *home, uint64_t page)
{
	lh_entry *entry = lh__directory_make(&home->directory, page);
	lh_entry seen;
	uint32_t frame;

	if (!entry || !lh__entry_try(entry, &seen))
		return false;
	frame = lh__entry_state(seen) == LH_PAGE_UNKNOWN ? lh__home_frame_adopt(home, page) : LH_NO_FRAME;
	if (frame == LH_NO_FRAME) {
		lh__entry_unlock(home->sys, entry, seen);
		return false;
	}
	lh__entry_unlock(home->sys, entry, lh__entry(LH_PAGE_RESIDENT, frame));
	return true;
}

static int adopt_range(void *context, uintptr_t start, uintptr_t end)
{
	struct finding *finding = context;

	for (uintptr_t address = start; address < end; address += LH_PAGE_SIZE)
		finding->found += adopt(finding->home, address / LH_PAGE_SIZE);
	return 0;
}

static uint64_t rescan_range(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	struct finding finding = { home, 0 };

	/* A scan that fails finds nothing: those pages then stay as they are, unknown and in memory. */
	if (home->port->ops->present(home->port, start, end, adopt_range, &finding) < 0)
		return finding.found;
	return finding.found;
}

uint64_t lh__home_rescan(struct lh_home *home)
{
	struct lh_range range = { 0, 0 };
	uint64_t found = 0;
	uintptr_t from = 0;
	bool more;

	do {
		lh__lock(home->sys, &home->lock);
		size_t i = lh__ranges_after(&home->regions, from);

		more = i < home->regions.count;
		if (more)
			range = home->regions.at[i];
		lh__unlock(home->sys, &home->lock);
		if (more)
			found += rescan_range(home, range.start, range.end);
		from = range.end;
	} while (more);
	return found;
}

int lh__home_watch_blind(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	int result;

	/* First the table: a touch right after the port's watch must find its region. */
	lh__lock(home->sys, &home->lock);
	result = lh__ranges_add(&home->regions, start, end);
	lh__unlock(home->sys, &home->lock);
	if (result < 0)
		return result;
	result = home->port->ops->watch(home->port, start, end - start);
	if (result < 0) {
		lh__lock(home->sys, &home->lock);
		lh__ranges_remove(&home->regions, start, end);
		lh__unlock(home->sys, &home->lock);
	}
	return result;
}

int lh__home_watch(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	int result = lh__home_watch_blind(home, start, end);

	if (result == 0)
		rescan_range(home, start, end);
	return result;
}

/* ---- keeping ---- */

/* A reclaimer that looked before the slot was there may be taking pages of the range: waits until it has. */
static void let_take(const struct lh_home *home, uintptr_t start, uintptr_t end)
{
	uintptr_t taking;

	while ((taking = __atomic_load_n(&home->taking, __ATOMIC_SEQ_CST)) != 0 && taking < end &&
	       __atomic_load_n(&home->taking_end, __ATOMIC_SEQ_CST) > start)
		LH_SYS(home->sys, SYS_sched_yield);
}

int lh__home_keep(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	for (uint32_t i = 0; i < LH_KEEP_SLOTS; i++) {
		uintptr_t none = 0;

		if (__atomic_load_n(&home->keep[i].end, __ATOMIC_RELAXED) != 0 ||
		    !__atomic_compare_exchange_n(&home->keep[i].end, &none, 1, false, __ATOMIC_ACQ_REL,
		                                 __ATOMIC_RELAXED))
			continue;
		__atomic_store_n(&home->keep[i].start, start, __ATOMIC_RELEASE);
		__atomic_store_n(&home->keep[i].end, end, __ATOMIC_SEQ_CST);
		for (uint32_t high = __atomic_load_n(&home->keep_high, __ATOMIC_SEQ_CST); high <= i;)
			if (__atomic_compare_exchange_n(&home->keep_high, &high, i + 1, false,
			                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
				break;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		let_take(home, start, end);
		return (int)i;
	}
	return -EAGAIN;
}

void lh__home_unkeep(struct lh_home *home, int slot)
{
	__atomic_store_n(&home->keep[slot].start, UINTPTR_MAX, __ATOMIC_RELEASE);
	__atomic_store_n(&home->keep[slot].end, 0, __ATOMIC_RELEASE);
}

/* ---- changes of the program's mappings ---- */

void lh__home_change_begin(struct lh_home *home)
{
	lh__gate_enter(home->sys, &home->gate);
}

void lh__home_change_end(struct lh_home *home)
{
	lh__gate_leave(home->sys, &home->gate);
}

void lh__home_hold(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	uint64_t last = end / LH_PAGE_SIZE;
	lh_entry *entry;

	for (uint64_t page = start / LH_PAGE_SIZE;
	     (page = lh__directory_next(&home->directory, page, last, &entry)) < last; page++) {
		lh_entry seen;

		while (!lh__entry_try(entry, &seen)) {
			if (seen & LH_ENTRY_ASKED && lh__trylock(&home->io)) {
				lh__harvest(home);
				lh__unlock(home->sys, &home->io);
			} else if (seen & LH_ENTRY_BUSY) {
				lh__entry_wait(home->sys, entry);
			}
		}
		if (lh__entry_state(seen) == LH_PAGE_UNKNOWN)
			lh__entry_unlock(home->sys, entry, 0);
		else
			__atomic_or_fetch(entry, LH_ENTRY_HELD, __ATOMIC_RELEASE);
	}
}

/* The next page of the range that is held, with its word; last where there is none. */
static uint64_t next_held(struct lh_home *home, uint64_t page, uint64_t last, lh_entry **entry,
                          lh_entry *word)
{
	while ((page = lh__directory_next(&home->directory, page, last, entry)) < last) {
		*word = __atomic_load_n(*entry, __ATOMIC_ACQUIRE);
		if (*word & LH_ENTRY_HELD)
			break;
		page++;
	}
	*word &= ~(LH_ENTRY_HELD | LH_ENTRY_BUSY | LH_ENTRY_WAITERS);
	return page;
}

void lh__home_release(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	uint64_t last = end / LH_PAGE_SIZE;
	lh_entry *entry = NULL, word = 0;

	for (uint64_t page = start / LH_PAGE_SIZE; (page = next_held(home, page, last, &entry, &word)) < last;
	     page++)
		lh__entry_unlock(home->sys, entry, word);
}

static void forget_page(struct lh_home *home, lh_entry word)
{
	switch (lh__entry_state(word)) {
	case LH_PAGE_RESIDENT:
		lh__home_frame_release(home, (uint32_t)lh__entry_value(word), false, true);
		break;
	case LH_PAGE_STAGED: lh__home_frame_release(home, (uint32_t)lh__entry_value(word), true, true); break;
	case LH_PAGE_STORED: lh__key_drop(home, lh__entry_value(word)); break;
	default: break;
	}
}

/* The first piece of the range that is in the set; false where there is none. */
static bool first_piece(const struct lh_ranges *ranges, uintptr_t start, uintptr_t end,
                        struct lh_range *piece)
{
	size_t i = lh__ranges_after(ranges, start);

	if (start >= end || i >= ranges->count || ranges->at[i].start >= end)
		return false;
	*piece = ranges->at[i];
	piece->start = piece->start > start ? piece->start : start;
	piece->end = piece->end < end ? piece->end : end;
	return true;
}

/* Moves what `from` has of the range over to `to`, which has room: the two have been one. */
static void pass(struct lh_ranges *from, struct lh_ranges *to, uintptr_t start, uintptr_t end)
{
	struct lh_range piece;

	while (first_piece(from, start, end, &piece)) {
		lh__ranges_remove(from, piece.start, piece.end);
		if (lh__ranges_add(to, piece.start, piece.end) < 0)
			return;
		start = piece.end;
	}
}

void lh__home_leave(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	lh__lock(home->sys, &home->lock);
	pass(&home->regions, &home->left, start, end);
	home->leaving++;
	lh__unlock(home->sys, &home->lock);
}

void lh__home_left(struct lh_home *home, uintptr_t start, uintptr_t end, bool gone)
{
	lh__lock(home->sys, &home->lock);
	if (gone)
		lh__ranges_remove(&home->left, start, end);
	else
		pass(&home->left, &home->regions, start, end);
	home->leaving--;
	lh__unlock(home->sys, &home->lock);
}

int lh__home_each_left(struct lh_home *home, uintptr_t start, uintptr_t end, lh_home_visit *visit,
                       void *context)
{
	struct lh_range piece;
	int result = 0;

	while (result == 0) {
		bool more;

		lh__lock(home->sys, &home->lock);
		more = first_piece(&home->left, start, end, &piece);
		lh__unlock(home->sys, &home->lock);
		if (!more)
			break;
		result = visit(context, piece.start, piece.end);
		start = piece.end;
	}
	return result;
}

size_t lh__home_room(struct lh_home *home)
{
	size_t room;

	lh__lock(home->sys, &home->lock);
	room = home->regions.capacity - home->regions.count;
	if (room > home->left.capacity - home->left.count)
		room = home->left.capacity - home->left.count;
	lh__unlock(home->sys, &home->lock);
	return room;
}

void lh__home_forget(struct lh_home *home, uintptr_t start, uintptr_t end)
{
	uint64_t last = end / LH_PAGE_SIZE;
	lh_entry *entry = NULL, word = 0;

	for (uint64_t page = start / LH_PAGE_SIZE; (page = next_held(home, page, last, &entry, &word)) < last;
	     page++) {
		forget_page(home, word);
		lh__entry_unlock(home->sys, entry, 0);
	}
	if (home->dead_keys.count)
		lh__home_poke(home);
}

/* Gives a page its new address. The target's word is made beforehand, so that this cannot fail. */
static void rename_page(struct lh_home *home, uint64_t to, lh_entry word)
{
	lh_entry *target = lh__directory_find(&home->directory, to);

	lh__lock(home->sys, &home->lock);
	if (lh__entry_state(word) != LH_PAGE_STORED)
		home->frame[lh__entry_value(word)].page = to;
	lh__unlock(home->sys, &home->lock);
	__atomic_store_n(target, word, __ATOMIC_RELEASE);
}

int lh__home_rename(struct lh_home *home, uintptr_t start, uintptr_t end, uintptr_t to)
{
	uint64_t first = start / LH_PAGE_SIZE, last = end / LH_PAGE_SIZE, shift = to / LH_PAGE_SIZE - first;
	lh_entry *entry = NULL, word = 0;

	for (uint64_t page = first; (page = next_held(home, page, last, &entry, &word)) < last; page++)
		if (!lh__directory_make(&home->directory, page + shift))
			return -ENOMEM;
	for (uint64_t page = first; (page = next_held(home, page, last, &entry, &word)) < last; page++) {
		rename_page(home, page + shift, word);
		lh__entry_unlock(home->sys, entry, 0);
	}
	return 0;
}
