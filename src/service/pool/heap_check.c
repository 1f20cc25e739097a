/*
 * heap_check.c - looks at all that a heap keeps, and trusts none of it.
 *
 * What it establishes, in this order:
 *   1. the header's fields are possible, and what is to be zero in it is;
 *   2. areas follow each other without a gap, up to the end of the memory;
 *   3. in each, runs follow each other without a gap, so that no two overlap and no page is lost; no free
 *      run has a free neighbour; every descriptor that is to say nothing is zero;
 *   4. every bitmap's word has the count that it says, and no slot beyond the slab's end;
 *   5. lists agree with themselves in both directions, so they have no cycles; what is in them belongs
 *      there; and they are as long as the runs and slabs are many that belong there, so none is missing;
 *   6. the root is an object.
 *
 * Whatever single bit of these flips, one of them fails. All that is read is found through descriptors,
 * which heap_pages.c gives out for pages inside the memory alone.
 */
#include "service/pool/heap_format.h"

struct check {
	struct heap_edit edit;
	struct lh_heap_usage usage;
	struct lh_error *error;
	uint64_t pages;
	uint64_t free_runs;
	uint64_t listed[HEAP_CLASSES]; /* slabs that say so */
	bool after_free;               /* the run before was free */
};

static int bad(struct check *check, uint64_t offset, const char *format, unsigned long value)
{
	char text[128];

	lh__format(text, sizeof text, format, value);
	return lh__fail(check->error, -EBADMSG, "heap, at offset 0x%lx: %s", (unsigned long)offset, text);
}

/* The first byte of [from, to) that is not zero, or `to`. from is a multiple of 8, as is to. */
static uint64_t nonzero(const struct check *check, uint64_t from, uint64_t to)
{
	while (from < to && *(const uint64_t *)lh__heap_see(&check->edit, from) == 0)
		from += sizeof(uint64_t);
	return from;
}

static int zero(struct check *check, uint64_t from, uint64_t to)
{
	const uint64_t at = nonzero(check, from, to);

	return at < to ? bad(check, at, "something where nothing is to be", 0) : 0;
}

/* ---- the header and the areas ---- */

#define FIELD(name) (__builtin_offsetof(struct heap_header, name))

static int check_header(struct check *check)
{
	const struct heap_edit *edit = &check->edit;
	const uint32_t areas = HEAP_SEE(edit, areas);
	int result;

	if (HEAP_SEE(edit, root_check) != (HEAP_SEE(edit, root) ^ HEAP_SEE(edit, root_size) ^ HEAP_MAGIC))
		return bad(check, FIELD(root_check), "the root's check word does not fit it", 0);
	result = zero(check, FIELD(list[HEAP_CLASSES]), FIELD(bin));
	if (result == 0)
		result = zero(check, FIELD(zero), FIELD(area));
	return result == 0 ? zero(check, FIELD(area[areas]), LH_PAGE_SIZE) : result;
}

static int check_areas(struct check *check)
{
	const struct heap_edit *edit = &check->edit;
	uint64_t end = 0;
	unsigned i;

	for (i = 0; i < HEAP_SEE(edit, areas); i++) {
		const struct heap_area area = HEAP_SEE(edit, area[i]);

		if (area.start != end || end >= check->pages || area.table == 0)
			return bad(check, FIELD(area[i]), "area %lu does not follow the one before it", i);
		end = lh__heap_area(edit, i).end;
	}
	if (end < check->pages || end != HEAP_SEE(edit, covered))
		return bad(check, FIELD(covered), "%lu pages are not what the areas cover", end);
	return 0;
}

/* ---- runs ---- */

/* The word of a bitmap at `at` stands for the slots of mask. */
static int check_word(struct check *check, uint64_t at, uint64_t mask, uint64_t *taken)
{
	const uint64_t word = *(const uint64_t *)lh__heap_see(&check->edit, at);

	if ((word & HEAP_WORD_BITS & ~mask) != 0)
		return bad(check, at, "a slot is taken that the slab does not have", 0);
	if ((uint64_t)__builtin_popcountll(word & HEAP_WORD_BITS) != word >> HEAP_WORD_SLOTS)
		return bad(check, at, "%lu slots are said to be taken, and it is not so many",
		           word >> HEAP_WORD_SLOTS);
	*taken += word >> HEAP_WORD_SLOTS;
	return 0;
}

static int check_slab(struct check *check, uint64_t page, const struct heap_slab *slab)
{
	const struct heap_class *c = &lh__heap_classes[slab->class];
	const uint64_t bits = lh__heap_bits(&check->edit, page, slab->class);
	const uint64_t line = lh__heap_descriptor(&check->edit, page);
	const uint64_t end = bits + c->words * sizeof(uint64_t);
	uint64_t taken = 0;
	unsigned i;
	int result = 0;

	for (i = 0; i < c->words && result == 0; i++)
		result = check_word(check, bits + i * sizeof(uint64_t), lh__heap_word_mask(slab->class, i),
		                    &taken);
	if (result == 0 && c->first)
		result = zero(check, line + __builtin_offsetof(struct heap_slab, bits), line + LH_LINE_SIZE);
	if (result == 0)
		result = zero(check, end, c->first ? page * LH_PAGE_SIZE + c->first : line + LH_LINE_SIZE);
	if (result == 0 && (slab->listed > 1 || (!slab->listed && (slab->prev || slab->next))))
		result = bad(check, line, "a slab is in a list and is not", 0);
	if (result == 0 &&
	    (slab->listed ? taken == c->slots : c->slots - taken >= lh__heap_threshold(slab->class)))
		result = bad(check, line, "a slab with %lu slots taken should be in a list or not", taken);
	check->listed[slab->class] += slab->listed;
	check->usage.objects += taken;
	check->usage.object_bytes += taken * c->size;
	check->usage.free_bytes += (c->slots - taken) * c->size;
	return result;
}

/* The run that begins with page and is described by *run; it ends before `end` at the latest. */
static int check_run(struct check *check, uint64_t page, const struct heap_run *run, uint64_t end)
{
	const uint64_t at = lh__heap_descriptor(&check->edit, page), size = sizeof *run;
	const uint64_t last = page + run->pages - 1;
	const bool is_free = run->kind == HEAP_FIRST || run->kind == HEAP_LAST;

	if ((run->kind != HEAP_LARGE && !is_free) || run->pages == 0 || run->pages > end - page)
		return bad(check, at, "no run begins with page %lu", page);
	if (is_free && (check->after_free || (run->kind == HEAP_LAST) != (run->pages == 1)))
		return bad(check, at, "page %lu is free in two ways", page);
	if (is_free && lh__heap_free_run(&check->edit, last) != run->pages)
		return bad(check, at, "the free run of page %lu has no end", page);
	if (run->kind != HEAP_LAST && (run->prev || run->next))
		return bad(check, at, "page %lu is in a list", page);
	check->free_runs += is_free;
	if (is_free)
		check->usage.free_bytes += (uint64_t)run->pages * LH_PAGE_SIZE;
	else
		check->usage.object_bytes += (uint64_t)run->pages * LH_PAGE_SIZE;
	check->usage.objects += !is_free;
	check->after_free = is_free;
	return run->pages > 1 ? zero(check, at + size, at + (run->pages - is_free) * size) : 0;
}

/* What begins with *page, which goes on to what follows. */
static int check_next(struct check *check, uint64_t *page, uint64_t end)
{
	const uint64_t at = *page;
	const struct heap_slab *slab = lh__heap_slab_at(&check->edit, at);
	const struct heap_run *run = slab ? NULL : lh__heap_run_at(&check->edit, at);

	if (slab) {
		if (at % HEAP_SLAB_PAGES != 0)
			return bad(check, lh__heap_descriptor(&check->edit, at),
			           "a slab begins before its page", 0);
		*page += HEAP_SLAB_PAGES;
		check->after_free = false;
		return check_slab(check, at, slab);
	}
	if (!run)
		return bad(check, at * LH_PAGE_SIZE, "page %lu is not described", at);
	*page += run->pages;
	return check_run(check, at, run, end);
}

static int check_area(struct check *check, unsigned index)
{
	const struct heap_extent area = lh__heap_area(&check->edit, index);
	const uint64_t start = HEAP_SEE(&check->edit, area[index].start), size = sizeof(struct heap_run);
	const uint64_t end = area.end < check->pages ? area.end : check->pages;
	const uint64_t table_end = (area.first < check->pages ? area.first : check->pages) * LH_PAGE_SIZE;
	const uint64_t described = area.table + (end - start) * size;
	uint64_t page = area.first;
	int result;

	/* Of the table itself, and of pages that are not there yet, nothing is said. */
	if (area.first >= end)
		return zero(check, area.table, table_end);
	result = zero(check, area.table, area.table + (area.first - start) * size);
	check->after_free = false;
	while (result == 0 && page < end)
		result = check_next(check, &page, end);
	return result == 0 ? zero(check, described, table_end) : result;
}

/* ---- lists ---- */

static int check_bin(struct check *check, unsigned bin)
{
	const struct heap_edit *edit = &check->edit;
	uint32_t page = HEAP_SEE(edit, bin[bin]), prev = 0, length;

	if ((page != 0) != (HEAP_SEE(edit, bins[bin / 64]) >> bin % 64 & 1))
		return bad(check, FIELD(bin[bin]), "bin %lu is not as the map of bins says", bin);
	while (page) {
		length = lh__heap_free_run(edit, page);
		if (length == 0 || lh__heap_bin(length) != bin || lh__heap_run_at(edit, page)->prev != prev)
			return bad(check, FIELD(bin[bin]), "page %lu is wrong in its bin", page);
		if (check->free_runs-- == 0)
			return bad(check, FIELD(bin[bin]), "bin %lu has too many runs", bin);
		prev = page;
		page = lh__heap_run_at(edit, page)->next;
	}
	return 0;
}

static int check_list(struct check *check, unsigned class)
{
	const struct heap_edit *edit = &check->edit;
	const struct heap_list list = HEAP_SEE(edit, list[class]);
	uint32_t page, prev = 0;

	for (page = list.first; page; prev = page, page = lh__heap_slab_at(edit, page)->next) {
		const struct heap_slab *slab = lh__heap_slab_at(edit, page);

		if (!slab || page % HEAP_SLAB_PAGES != 0 || slab->class != class || slab->prev != prev ||
		    !slab->listed)
			return bad(check, FIELD(list[class]), "page %lu is wrong in its list", page);
		if (prev && lh__heap_taken(edit, page, class) == 0)
			return bad(check, FIELD(list[class]), "the slab of page %lu was left empty", page);
		if (check->listed[class]-- == 0)
			return bad(check, FIELD(list[class]), "the list of class %lu is too long", class);
	}
	if (list.last != prev || check->listed[class] != 0)
		return bad(check, FIELD(list[class]), "the list of class %lu lacks a slab", class);
	return 0;
}

static int check_lists(struct check *check)
{
	unsigned i;
	int result = 0;

	for (i = 0; i < HEAP_BINS && result == 0; i++)
		result = check_bin(check, i);
	if (result == 0 && check->free_runs != 0)
		result = bad(check, FIELD(bin), "%lu free runs are in no bin", check->free_runs);
	for (i = 0; i < HEAP_CLASSES && result == 0; i++)
		result = check_list(check, i);
	return result;
}

/* ---- all ---- */

static int check_root(struct check *check)
{
	const uint64_t root = HEAP_SEE(&check->edit, root), size = HEAP_SEE(&check->edit, root_size);

	if (root == 0 ? size != 0 : size == 0 || size > lh__heap_usable(check->edit.heap, root))
		return bad(check, FIELD(root), "the root is no object of %lu bytes", size);
	return 0;
}

int lh__heap_check(const struct lh_heap *heap, struct lh_heap_usage *usage, struct lh_error *error)
{
	struct check check;
	unsigned i;
	int result = lh__heap_begin(&check.edit, heap);

	if (result < 0)
		return lh__fail(error, result,
		                "heap, at offset 0x0: the header is not a heap's, or not of its size");
	check.error = error;
	check.pages = HEAP_SEE(&check.edit, pages);
	check.free_runs = 0;
	memset(check.listed, 0, sizeof check.listed);
	check.usage = (struct lh_heap_usage){ 0 };
	result = check_header(&check);
	if (result == 0)
		result = check_areas(&check);
	for (i = 0; i < HEAP_SEE(&check.edit, areas) && result == 0; i++)
		result = check_area(&check, i);
	if (result == 0)
		result = check_lists(&check);
	if (result == 0)
		result = check_root(&check);
	if (result == 0)
		*usage = check.usage;
	return result;
}
