/*
 * heap_pages.c - runs of free pages: cut, joined, and found again.
 *
 * Free runs of about one length hang in one of 124 bins, four for each doubling, and a map of two words says
 * which bins hold any: the good fit of TLSF (Masmano et al., 2004), in constant time and with little
 * fragmentation. Runs are joined with their neighbours at once, through descriptors at both ends.
 *
 * A run's place in its bin is kept by its *last* page. Slabs are cut from a run's front, so while a large
 * run gets smaller and stays in its bin only its two ends change: a new slab changes four lines, its own
 * and the class's list among them. Large objects are cut from the back, which keeps them apart from slabs.
 *
 * Why not a bitmap with summaries, as Go's page allocator has: cutting a slab off the one large free run,
 * which is the usual case, changes its summaries up to the root. Why not buddies: a size that is no power of
 * two wastes a quarter on average.
 */
#include "service/pool/heap_format.h"

/* Entries of a bin that are looked at before a bin in which all fit is taken. */
#define LOOK 8u

struct heap_extent lh__heap_area(const struct heap_edit *edit, unsigned index)
{
	const struct heap_area area = HEAP_SEE(edit, area[index]);
	/* The header is the first page of all. */
	const uint64_t table = (uint64_t)area.start + (area.start == 0);

	return (struct heap_extent){ .table = table * LH_PAGE_SIZE,
		                     .first = table + area.table,
		                     .end = area.start + (uint64_t)area.table * HEAP_TABLE_PAGES };
}

/*
 * A page that lies behind the table, is covered and exists has its descriptor in a part of the table that
 * exists, whatever the directory says: sixteen bytes a page are less than the page.
 */
uint64_t lh__heap_descriptor(const struct heap_edit *edit, uint64_t page)
{
	unsigned low = 0, high = HEAP_SEE(edit, areas), middle;
	struct heap_extent area;

	if (page >= HEAP_SEE(edit, pages))
		return 0;
	while (high - low > 1) {
		middle = (low + high) / 2;
		if (HEAP_SEE(edit, area[middle].start) <= page)
			low = middle;
		else
			high = middle;
	}
	area = lh__heap_area(edit, low);
	if (page < area.first || page >= area.end)
		return 0;
	return area.table + (page - HEAP_SEE(edit, area[low].start)) * sizeof(struct heap_run);
}

const struct heap_slab *lh__heap_slab_at(const struct heap_edit *edit, uint64_t page)
{
	const uint64_t first = page & ~(uint64_t)(HEAP_SLAB_PAGES - 1);
	const uint64_t at = lh__heap_descriptor(edit, first);
	const struct heap_slab *slab;

	if (at == 0 || at % LH_LINE_SIZE != 0 || first + HEAP_SLAB_PAGES > HEAP_SEE(edit, pages))
		return NULL;
	slab = lh__heap_see(edit, at);
	return slab->kind == HEAP_SLAB && slab->class < HEAP_CLASSES ? slab : NULL;
}

const struct heap_run *lh__heap_run_at(const struct heap_edit *edit, uint64_t page)
{
	const uint64_t at = lh__heap_descriptor(edit, page);

	if (at == 0 || lh__heap_slab_at(edit, page))
		return NULL;
	return lh__heap_see(edit, at);
}

bool lh__heap_together(const struct heap_edit *edit, uint64_t page, uint64_t count)
{
	const uint64_t at = lh__heap_descriptor(edit, page);

	return at && count > 0 && count <= UINT32_MAX &&
	       lh__heap_descriptor(edit, page + count - 1) == at + (count - 1) * sizeof(struct heap_run);
}

uint32_t lh__heap_free_run(const struct heap_edit *edit, uint64_t page)
{
	const struct heap_run *last = lh__heap_run_at(edit, page), *first;

	if (!last || last->kind != HEAP_LAST || last->pages == 0 || last->pages > page)
		return 0;
	if (last->pages == 1)
		return 1;
	first = lh__heap_run_at(edit, page + 1 - last->pages);
	if (!first || first->kind != HEAP_FIRST || first->pages != last->pages)
		return 0;
	return lh__heap_together(edit, page + 1 - last->pages, last->pages) ? last->pages : 0;
}

/* One bin for each length up to 8, then four a doubling: 9, 10 to 11, 12 to 13, 14 to 15, 16 to 19, ... */
unsigned lh__heap_bin(uint32_t pages)
{
	const unsigned log = 31 - (unsigned)__builtin_clz(pages);

	return pages <= 8 ? pages - 1 : 8 + (log - 3) * 4 + (pages >> (log - 2) & 3);
}

void lh__heap_describe(struct heap_edit *edit, uint64_t page, uint32_t kind, uint32_t pages)
{
	const uint64_t at = lh__heap_descriptor(edit, page);
	struct heap_run *run;

	if (at == 0) {
		lh__heap_broken(edit);
		return;
	}
	run = lh__heap_change(edit, at);
	*run = (struct heap_run){ .kind = kind, .pages = pages };
}

/* The node of the free run that ends with page. */
static struct heap_run *node(struct heap_edit *edit, uint32_t page)
{
	const uint64_t at = lh__heap_free_run(edit, page) ? lh__heap_descriptor(edit, page) : 0;

	if (at == 0)
		lh__heap_broken(edit);
	return lh__heap_change(edit, edit->error ? HEAP_NOWHERE : at);
}

static void unlink_run(struct heap_edit *edit, uint32_t page)
{
	const struct heap_run run = *node(edit, page);
	unsigned bin;

	if (edit->error)
		return;
	bin = lh__heap_bin(run.pages);
	if ((run.prev ? node(edit, run.prev)->next : HEAP_SEE(edit, bin[bin])) != page ||
	    (run.next && node(edit, run.next)->prev != page)) {
		lh__heap_broken(edit);
		return;
	}
	if (run.prev)
		node(edit, run.prev)->next = run.next;
	else
		HEAP_CHANGE(edit, bin[bin]) = run.next;
	if (run.next)
		node(edit, run.next)->prev = run.prev;
	if (!run.prev && !run.next)
		HEAP_CHANGE(edit, bins[bin / 64]) &= ~(UINT64_C(1) << bin % 64);
}

/* Describes a free run whose place in a bin stays, or is not known yet. */
static void describe_free(struct heap_edit *edit, uint32_t first, uint32_t count, uint32_t prev,
                          uint32_t next)
{
	if (count > 1)
		lh__heap_describe(edit, first, HEAP_FIRST, count);
	lh__heap_describe(edit, (uint64_t)first + count - 1, HEAP_LAST, count);
	if (edit->error == 0) {
		struct heap_run *last = node(edit, first + count - 1);

		last->prev = prev;
		last->next = next;
	}
}

static void insert_run(struct heap_edit *edit, uint32_t first, uint32_t count)
{
	const unsigned bin = lh__heap_bin(count);
	const uint32_t next = HEAP_SEE(edit, bin[bin]), last = first + count - 1;

	describe_free(edit, first, count, 0, next);
	if (next)
		node(edit, next)->prev = last;
	else
		HEAP_CHANGE(edit, bins[bin / 64]) |= UINT64_C(1) << bin % 64;
	HEAP_CHANGE(edit, bin[bin]) = last;
}

/* Takes [page, page + count) out of the free run that ends with last. */
static void cut(struct heap_edit *edit, uint32_t last, uint32_t page, uint32_t count)
{
	const struct heap_run run = *node(edit, last);
	const uint32_t first = last + 1 - run.pages, before = page - first, after = last + 1 - page - count;

	if (edit->error)
		return;
	if (after && lh__heap_bin(after) == lh__heap_bin(run.pages)) {
		lh__heap_describe(edit, first, 0, 0);
		describe_free(edit, page + count, after, run.prev, run.next);
	} else {
		unlink_run(edit, last);
		lh__heap_describe(edit, first, 0, 0);
		lh__heap_describe(edit, last, 0, 0);
		if (after)
			insert_run(edit, page + count, after);
	}
	if (before)
		insert_run(edit, first, before);
}

/* Where in the free run that ends with last so many pages would lie; 0: they do not fit. */
static uint32_t place(uint32_t last, uint32_t length, uint32_t count, uint32_t align)
{
	const uint64_t first = (uint64_t)last + 1 - length;
	const uint64_t page = align > 1 ? (first + align - 1) / align * align : (uint64_t)last + 1 - count;

	return length >= count && page + count <= (uint64_t)last + 1 ? (uint32_t)page : 0;
}

/* Looks at no more than so many runs of one bin: the first page, and the run's last, or 0. */
static uint32_t search_bin(struct heap_edit *edit, unsigned bin, uint64_t look, uint32_t count,
                           uint32_t align, uint32_t *last)
{
	uint32_t at = HEAP_SEE(edit, bin[bin]), length, page;

	for (; at && look > 0; look--) {
		length = lh__heap_free_run(edit, at);
		if (length == 0 || lh__heap_bin(length) != bin) {
			lh__heap_broken(edit);
			return 0;
		}
		page = place(at, length, count, align);
		if (page) {
			*last = at;
			return page;
		}
		at = lh__heap_run_at(edit, at)->next;
	}
	return 0;
}

static uint32_t search(struct heap_edit *edit, uint64_t look, uint32_t count, uint32_t align, uint32_t *last)
{
	unsigned bin;
	uint32_t page = 0;

	for (bin = lh__heap_bin(count); bin < HEAP_BINS && !page && !edit->error; bin++) {
		const uint64_t above = HEAP_SEE(edit, bins[bin / 64]) >> bin % 64;

		if (above == 0)
			bin |= 63;
		else {
			bin += (unsigned)__builtin_ctzll(above);
			page = search_bin(edit, bin, look, count, align, last);
		}
	}
	return page;
}

uint32_t lh__heap_take(struct heap_edit *edit, uint32_t count, uint32_t align)
{
	uint32_t last = 0, page = search(edit, LOOK, count, align, &last);

	/* In a bin of runs of which some are too short the one that fits may come late. */
	if (!page)
		page = search(edit, HEAP_SEE(edit, pages), count, align, &last);
	if (page)
		cut(edit, last, page, count);
	return edit->error ? 0 : page;
}

/* The last page of the free run that begins with page; 0 where none does. */
static uint32_t run_from(const struct heap_edit *edit, uint64_t page)
{
	const struct heap_run *run = lh__heap_run_at(edit, page);
	uint64_t last;

	if (!run || (run->kind != HEAP_FIRST && (run->kind != HEAP_LAST || run->pages != 1)))
		return 0;
	last = page + run->pages - 1;
	return lh__heap_free_run(edit, last) == run->pages ? (uint32_t)last : 0;
}

bool lh__heap_take_at(struct heap_edit *edit, uint32_t page, uint32_t count)
{
	const uint32_t last = lh__heap_together(edit, page - 1, 2) ? run_from(edit, page) : 0;

	if (last == 0 || last - page < count - 1)
		return false;
	cut(edit, last, page, count);
	return edit->error == 0;
}

void lh__heap_give(struct heap_edit *edit, uint32_t page, uint32_t count)
{
	uint32_t first = page, end = page + count, before, last, prev = 0, next = 0;
	bool stays = false;

	before = lh__heap_together(edit, (uint64_t)page - 1, 2) ? lh__heap_free_run(edit, page - 1) : 0;
	if (before) {
		unlink_run(edit, page - 1);
		first = page - before;
		lh__heap_describe(edit, page - 1, 0, 0);
		lh__heap_describe(edit, first, 0, 0);
	}
	if (edit->error)
		return;
	last = lh__heap_together(edit, (uint64_t)end - 1, 2) ? run_from(edit, end) : 0;
	if (last) {
		const struct heap_run run = *node(edit, last);

		if (edit->error)
			return;
		/* Where the joined run belongs into the same bin it takes the other's place there. */
		stays = lh__heap_bin(last + 1 - first) == lh__heap_bin(run.pages);
		prev = run.prev;
		next = run.next;
		if (!stays)
			unlink_run(edit, last);
		lh__heap_describe(edit, end, 0, 0);
		end = last + 1;
	}
	if (edit->error)
		return;
	if (stays)
		describe_free(edit, first, end - first, prev, next);
	else
		insert_run(edit, first, end - first);
}
