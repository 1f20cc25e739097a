/*
 * table.c - which text an address belongs to.
 *
 * Read in handlers, without a lock and without waiting: ranges stand sorted in one of two indexes. A writer
 * fills the other one and publishes it by one store. A reader that was overtaken twice, so that what it reads
 * is being filled again, sees the index's generation change and begins anew.
 */
#include "port/code/inside/internal.h"

static struct lh_inside_text *look(const struct lh_inside_index *index, uintptr_t address)
{
	uint32_t low = 0, high = __atomic_load_n(&index->count, __ATOMIC_RELAXED);

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (index->entry[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (low >= LH_INSIDE_TEXTS || low >= index->count || index->entry[low].start > address)
		return NULL;
	return &lh__inside.text[index->entry[low].slot % LH_INSIDE_TEXTS];
}

struct lh_inside_text *lh__inside_find(uintptr_t address)
{
	for (;;) {
		const struct lh_inside_index *index = __atomic_load_n(&lh__inside.index, __ATOMIC_ACQUIRE);
		uint64_t generation = __atomic_load_n(&index->generation, __ATOMIC_ACQUIRE);
		struct lh_inside_text *found = look(index, address);

		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&index->generation, __ATOMIC_RELAXED) == generation)
			return found;
	}
}

static struct lh_inside_text *first_behind(const struct lh_inside_index *index, uintptr_t start,
                                           uintptr_t end)
{
	uint32_t at, count = __atomic_load_n(&index->count, __ATOMIC_RELAXED);

	for (at = 0; at < count && at < LH_INSIDE_TEXTS; at++)
		if (index->entry[at].end > start)
			return index->entry[at].start < end
			               ? &lh__inside.text[index->entry[at].slot % LH_INSIDE_TEXTS]
			               : NULL;
	return NULL;
}

struct lh_inside_text *lh__inside_overlap(uintptr_t start, uintptr_t end, const struct lh_inside_text *after)
{
	if (after && after->text.end > start)
		start = after->text.end;
	for (;;) {
		const struct lh_inside_index *index = __atomic_load_n(&lh__inside.index, __ATOMIC_ACQUIRE);
		uint64_t generation = __atomic_load_n(&index->generation, __ATOMIC_ACQUIRE);
		struct lh_inside_text *found = first_behind(index, start, end);

		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&index->generation, __ATOMIC_RELAXED) == generation)
			return found;
	}
}

static bool listed(const struct lh_inside_index *index, uint32_t slot)
{
	uint32_t at;

	for (at = 0; at < index->count; at++)
		if (index->entry[at].slot == slot)
			return true;
	return false;
}

/* In turn, so that a place that was given up is used again as late as possible. */
struct lh_inside_text *lh__inside_slot(void)
{
	uint32_t tries;

	if (lh__inside.index->count >= LH_INSIDE_TEXTS)
		return NULL;
	for (tries = 0; tries < LH_INSIDE_TEXTS; tries++) {
		uint32_t slot = lh__inside.next_slot++ % LH_INSIDE_TEXTS;

		if (!listed(lh__inside.index, slot))
			return &lh__inside.text[slot];
	}
	return NULL;
}

/* The other index as the present one without `without` and with `with`. */
static void replace(const struct lh_inside_text *without, const struct lh_inside_text *with)
{
	const struct lh_inside_index *now = lh__inside.index;
	struct lh_inside_index *next = &lh__inside.indexes[now == &lh__inside.indexes[0]];
	uint32_t at, count = 0;

	__atomic_store_n(&next->generation, next->generation + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (at = 0; at <= now->count; at++) {
		if (with && (at == now->count || now->entry[at].start > with->text.start)) {
			next->entry[count].start = with->text.start;
			next->entry[count].end = with->text.end;
			next->entry[count++].slot = (uint32_t)(with - lh__inside.text);
			with = NULL;
		}
		if (at < now->count &&
		    (!without || now->entry[at].slot != (uint32_t)(without - lh__inside.text)))
			next->entry[count++] = now->entry[at];
	}
	__atomic_store_n(&next->count, count, __ATOMIC_RELAXED);
	__atomic_store_n(&lh__inside.index, next, __ATOMIC_RELEASE);
}

bool lh__inside_publish(const struct lh_inside_text *text)
{
	if (lh__inside.index->count >= LH_INSIDE_TEXTS ||
	    lh__inside_overlap(text->text.start, text->text.end, NULL))
		return false;
	replace(NULL, text);
	return true;
}

void lh__inside_withdraw(const struct lh_inside_text *text)
{
	replace(text, NULL);
}
