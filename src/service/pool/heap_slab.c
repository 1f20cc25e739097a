/*
 * heap_slab.c - slabs: four pages of slots of one size.
 *
 * A class's slabs that have free slots hang in a list, oldest first. Allocation takes from the first until
 * it is full. A slab that was full comes back to the list's end when an eighth of its slots is free, and
 * has the longest time to gather more until it is the first again. So nearly all allocations and frees
 * change one word of a bitmap and nothing else, also where a program keeps as much as it has and replaces
 * it: were a slab put into the list for each single slot, each call would change three lines there.
 *
 * The free slots of slabs that are in no list are not lost: where there is no room for a new slab, the tables
 * are searched for them (lh__heap_rescue). That takes time in proportion to the memory, and happens only when
 * that is full.
 *
 * The only slab of a list stays when it becomes empty: a program that allocates and frees one object
 * changes one line each time. There is no more than one such slab for each class, it is the first of its
 * list, and lh__heap_reclaim takes it where pages are wanted and there are no others.
 */
#include "service/pool/heap_format.h"

#define RESCUED 16u /* slabs at a time, so that it need not be done for each object */
#define ONES(n) ((UINT64_C(1) << (n)) - 1)

/*
 * As many slots to a slab as there can be of a size, so sizes are 16384 / n in whole lines: from 192 on no
 * two neighbours are further apart than a third.
 */
const struct heap_class lh__heap_classes[HEAP_CLASSES] = {
	{ 16, 192, 1012, 19 }, { 32, 128, 508, 10 }, { 48, 0, 336, 6 },  { 64, 0, 256, 5 },
	{ 128, 0, 128, 3 },    { 192, 0, 85, 2 },    { 256, 0, 64, 2 },  { 320, 0, 51, 1 },
	{ 384, 0, 42, 1 },     { 448, 0, 36, 1 },    { 512, 0, 32, 1 },  { 576, 0, 28, 1 },
	{ 640, 0, 25, 1 },     { 768, 0, 21, 1 },    { 896, 0, 18, 1 },  { 1024, 0, 16, 1 },
	{ 1152, 0, 14, 1 },    { 1344, 0, 12, 1 },   { 1600, 0, 10, 1 }, { 1792, 0, 9, 1 },
	{ 2048, 0, 8, 1 },     { 2304, 0, 7, 1 },    { 2688, 0, 6, 1 },  { 3264, 0, 5, 1 },
	{ 4096, 0, 4, 1 },     { 5440, 0, 3, 1 },
};

/* The smallest class that has so many lines. */
static const unsigned char class_of_lines[HEAP_SMALL_MAX / LH_LINE_SIZE + 1] = {
	0,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 13, 14, 14, 15, 15, 16, 16, 17, 17, 17,
	18, 18, 18, 18, 19, 19, 19, 20, 20, 20, 20, 21, 21, 21, 21, 22, 22, 22, 22, 22, 22, 23,
	23, 23, 23, 23, 23, 23, 23, 23, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 25,
	25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25, 25,
};

unsigned lh__heap_class(uint64_t size, uint64_t alignment)
{
	unsigned class;

	if (size > HEAP_SMALL_MAX)
		return HEAP_CLASSES;
	class = size <= 48 ? (unsigned)(size - 1) / 16 : class_of_lines[(size + 63) / 64];
	while (class < HEAP_CLASSES && lh__heap_classes[class].size % alignment != 0)
		class ++;
	return class;
}

uint64_t lh__heap_bits(const struct heap_edit *edit, uint64_t page, unsigned class)
{
	return lh__heap_classes[class].first
	               ? page * LH_PAGE_SIZE
	               : lh__heap_descriptor(edit, page) + __builtin_offsetof(struct heap_slab, bits);
}

uint64_t lh__heap_word_mask(unsigned class, unsigned word)
{
	const unsigned left = lh__heap_classes[class].slots - word * HEAP_WORD_SLOTS;

	return left >= HEAP_WORD_SLOTS ? HEAP_WORD_BITS : ONES(left);
}

static uint64_t word_at(const struct heap_edit *edit, uint64_t bits, unsigned word)
{
	return *(const uint64_t *)lh__heap_see(edit, bits + word * sizeof(uint64_t)) & HEAP_WORD_BITS;
}

unsigned lh__heap_taken(const struct heap_edit *edit, uint64_t page, unsigned class)
{
	const uint64_t bits = lh__heap_bits(edit, page, class);
	unsigned i, taken = 0;

	for (i = 0; i < lh__heap_classes[class].words; i++)
		taken += (unsigned)(*(const uint64_t *)lh__heap_see(edit, bits + i * sizeof(uint64_t)) >>
		                    HEAP_WORD_SLOTS);
	return taken;
}

unsigned lh__heap_threshold(unsigned class)
{
	return lh__heap_classes[class].slots < 16 ? 1 : lh__heap_classes[class].slots / 8;
}

uint64_t lh__heap_slot(const struct heap_edit *edit, uint64_t offset, unsigned class, uint64_t *bit)
{
	const struct heap_class *c = &lh__heap_classes[class];
	const uint64_t page = offset / HEAP_SLAB_SIZE * HEAP_SLAB_PAGES;
	const unsigned within = offset % HEAP_SLAB_SIZE, slot = (within - c->first) / c->size;

	if (within < c->first || within != c->first + slot * c->size || slot >= c->slots)
		return 0;
	*bit = UINT64_C(1) << slot % HEAP_WORD_SLOTS;
	return lh__heap_bits(edit, page, class) + slot / HEAP_WORD_SLOTS * sizeof(uint64_t);
}

/* ---- the list of a class ---- */

/* A slab that is to be in the list of class, to be changed. */
static struct heap_slab *slab_of(struct heap_edit *edit, uint32_t page, unsigned class)
{
	const struct heap_slab *slab = lh__heap_slab_at(edit, page);

	if (!slab || slab->class != class || page % HEAP_SLAB_PAGES != 0)
		lh__heap_broken(edit);
	return lh__heap_change(edit, edit->error ? HEAP_NOWHERE : lh__heap_descriptor(edit, page));
}

static void list_append(struct heap_edit *edit, uint32_t page, unsigned class)
{
	struct heap_list *list = &HEAP_CHANGE(edit, list[class]);
	struct heap_slab *slab = slab_of(edit, page, class);

	slab->listed = 1;
	slab->prev = list->last;
	slab->next = 0;
	if (list->last)
		slab_of(edit, list->last, class)->next = page;
	else
		list->first = page;
	list->last = page;
}

static void list_remove(struct heap_edit *edit, uint32_t page, unsigned class)
{
	struct heap_list *list = &HEAP_CHANGE(edit, list[class]);
	struct heap_slab *slab = slab_of(edit, page, class);
	uint32_t *from = slab->prev ? &slab_of(edit, slab->prev, class)->next : &list->first;
	uint32_t *back = slab->next ? &slab_of(edit, slab->next, class)->prev : &list->last;

	if (*from != page || *back != page)
		lh__heap_broken(edit);
	*from = slab->next;
	*back = slab->prev;
	slab->listed = 0;
	slab->prev = 0;
	slab->next = 0;
}

/* ---- slabs come and go ---- */

bool lh__heap_slab_new(struct heap_edit *edit, unsigned class)
{
	const uint32_t page = lh__heap_take(edit, HEAP_SLAB_PAGES, HEAP_SLAB_PAGES);
	struct heap_slab *slab;
	unsigned i;

	if (!page)
		return false;
	slab = lh__heap_change(edit, lh__heap_descriptor(edit, page));
	*slab = (struct heap_slab){ .kind = HEAP_SLAB, .class = class };
	for (i = 0; i < lh__heap_classes[class].first; i += LH_LINE_SIZE)
		memset(lh__heap_change(edit, (uint64_t)page * LH_PAGE_SIZE + i), 0, LH_LINE_SIZE);
	list_append(edit, page, class);
	return edit->error == 0;
}

static void slab_end(struct heap_edit *edit, uint32_t page, unsigned class)
{
	list_remove(edit, page, class);
	memset(slab_of(edit, page, class), 0, LH_LINE_SIZE);
	if (edit->error == 0)
		lh__heap_give(edit, page, HEAP_SLAB_PAGES);
}

void lh__heap_reclaim(struct heap_edit *edit)
{
	unsigned class;
	uint32_t page;

	for (class = 0; class < HEAP_CLASSES && edit->error == 0; class ++) {
		page = HEAP_SEE(edit, list[class].first);
		if (page == 0)
			continue;
		(void)slab_of(edit, page, class);
		if (edit->error == 0 && lh__heap_taken(edit, page, class) == 0)
			slab_end(edit, page, class);
	}
}

/* ---- slots ---- */

/* Writes one word of a bitmap and commits; where that is all that changes, without a copy. */
static int put_word(struct heap_edit *edit, uint64_t at, uint64_t word)
{
	const struct lh_heap *heap = edit->heap;
	int result;

	if (edit->count || edit->error) {
		*(uint64_t *)lh__heap_change(edit, at) = word;
		return lh__heap_commit(edit);
	}
	result = heap->touch ? heap->touch(heap->context, heap->base + at, sizeof word) : 0;
	if (result < 0)
		return result;
	*(uint64_t *)lh__heap_store_at(heap, at) = word;
	return 0;
}

int lh__heap_slab_alloc(struct heap_edit *edit, unsigned class, uint64_t *offset)
{
	const struct heap_class *c = &lh__heap_classes[class];
	const uint32_t page = HEAP_SEE(edit, list[class].first);
	const struct heap_slab *slab = page ? lh__heap_slab_at(edit, page) : NULL;
	uint64_t bits, word, left = 0;
	unsigned i, slot, other;
	int result;

	if (!page)
		return -ENOMEM;
	if (!slab || slab->class != class || page % HEAP_SLAB_PAGES != 0)
		return -EBADMSG;
	bits = lh__heap_bits(edit, page, class);
	for (i = 0; i < c->words && left == 0; i++)
		left = ~word_at(edit, bits, i) & lh__heap_word_mask(class, i);
	if (left == 0)
		return -EBADMSG;
	i--;
	slot = (unsigned)__builtin_ctzll(left);
	word = *(const uint64_t *)lh__heap_see(edit, bits + i * sizeof word);
	left &= left - 1;
	for (other = i + 1; other < c->words && left == 0; other++)
		left = ~word_at(edit, bits, other) & lh__heap_word_mask(class, other);
	if (left == 0)
		list_remove(edit, page, class);
	result = put_word(edit, bits + i * sizeof word, (word | UINT64_C(1) << slot) + HEAP_WORD_ONE);
	if (result == 0)
		*offset = (uint64_t)page * LH_PAGE_SIZE + c->first + (i * HEAP_WORD_SLOTS + slot) * c->size;
	return result;
}

int lh__heap_slab_free(struct heap_edit *edit, uint64_t offset)
{
	const uint32_t page = (uint32_t)(offset / HEAP_SLAB_SIZE * HEAP_SLAB_PAGES);
	const struct heap_slab *slab = lh__heap_slab_at(edit, page);
	const unsigned class = slab->class, slots = lh__heap_classes[class].slots;
	const struct heap_list list = HEAP_SEE(edit, list[class]);
	uint64_t bit, word, at = lh__heap_slot(edit, offset, class, &bit);

	word = at ? *(const uint64_t *)lh__heap_see(edit, at) : 0;
	if ((word & bit) == 0)
		return -EINVAL;
	if (word < HEAP_WORD_ONE)
		return -EBADMSG;
	if (!slab->listed) {
		if (slots + 1 - lh__heap_taken(edit, page, class) >= lh__heap_threshold(class))
			list_append(edit, page, class);
	} else if ((word & HEAP_WORD_BITS) == bit && !(list.first == page && list.last == page) &&
	           lh__heap_taken(edit, page, class) == 1) {
		slab_end(edit, page, class);
		return lh__heap_commit(edit);
	}
	return put_word(edit, at, (word & ~bit) - HEAP_WORD_ONE);
}

/* ---- slots of slabs that are in no list ---- */

/* Puts the slab at page into its list, if it is one of those that are wanted. */
static bool rescue(struct heap_edit *edit, uint64_t page, unsigned low, unsigned high, uint64_t alignment)
{
	const struct heap_slab *slab = lh__heap_slab_at(edit, page);

	if (!slab || slab->listed || slab->class < low || slab->class >= high ||
	    lh__heap_classes[slab->class].size % alignment != 0 ||
	    lh__heap_taken(edit, page, slab->class) >= lh__heap_classes[slab->class].slots)
		return false;
	list_append(edit, (uint32_t)page, slab->class);
	return edit->error == 0;
}

bool lh__heap_rescue(struct heap_edit *edit, unsigned low, unsigned high, uint64_t alignment)
{
	const uint32_t areas = HEAP_SEE(edit, areas);
	const uint64_t pages = HEAP_SEE(edit, pages);
	unsigned i, left = RESCUED;

	for (i = 0; i < areas; i++) {
		const struct heap_extent area = lh__heap_area(edit, i);
		const uint64_t end = area.end < pages ? area.end : pages;
		uint64_t page = (area.first + HEAP_SLAB_PAGES - 1) / HEAP_SLAB_PAGES * HEAP_SLAB_PAGES;

		for (; page < end && left > 0 && !edit->error; page += HEAP_SLAB_PAGES)
			left -= rescue(edit, page, low, high, alignment);
	}
	return left < RESCUED && !edit->error;
}
