/*
 * heap.c - what heap.h promises, put together from slabs (heap_slab.c) and runs of pages (heap_pages.c).
 *
 * Up to 5440 bytes, where three fit into a slab, an object is a slot; beyond, a run of whole pages. What
 * changes is kept to few lines, since a transaction logs lines: of a small object one, the bitmap's.
 */
#include "service/pool/heap_format.h"

static uint64_t pages_for(uint64_t size)
{
	return size / LH_PAGE_SIZE + (size % LH_PAGE_SIZE != 0);
}

/* ---- the memory's size ---- */

/*
 * Adds an area that begins at page `start` and describes the memory, which then has `pages`, and as much
 * again to grow into. Where little is added, the table takes no more than a quarter of it; but each area
 * covers a sixteenth more than those before it, however small the steps are, so that 256 areas last for more
 * than the largest heap. A table may thus reach beyond the memory for a while.
 */
static int add_area(struct heap_edit *edit, uint64_t start, uint64_t pages)
{
	const uint32_t index = HEAP_SEE(edit, areas);
	const uint64_t added = pages - start, least = start / 16 / HEAP_TABLE_PAGES;
	uint64_t table = (2 * pages - start + HEAP_TABLE_PAGES - 1) / HEAP_TABLE_PAGES;
	uint64_t most = added / 4 > least ? added / 4 : least;

	most = most > 0 ? most : 1;
	table = table < most ? table : most;
	if (index >= HEAP_AREAS || start + table > UINT32_MAX)
		return -ENOSPC;
	HEAP_CHANGE(edit, area[index]) =
		(struct heap_area){ .start = (uint32_t)start, .table = (uint32_t)table };
	HEAP_CHANGE(edit, areas) = index + 1;
	HEAP_CHANGE(edit, covered) = start + table * HEAP_TABLE_PAGES;
	return 0;
}

/* Makes the pages from `from` on free, as far as the last area covers them and they exist. */
static void give_new(struct heap_edit *edit, uint64_t from, uint64_t pages)
{
	const struct heap_extent area = lh__heap_area(edit, HEAP_SEE(edit, areas) - 1);
	const uint64_t first = from > area.first ? from : area.first,
		       end = pages < area.end ? pages : area.end;

	if (first < end)
		lh__heap_give(edit, (uint32_t)first, (uint32_t)(end - first));
}

int lh__heap_format(const struct lh_heap *heap)
{
	struct heap_edit edit;
	const uint64_t pages = heap->size / LH_PAGE_SIZE;
	int result;

	if (heap->size % LH_PAGE_SIZE != 0 || pages < 3 || pages > UINT32_MAX)
		return -EINVAL;
	edit.heap = heap;
	edit.count = 0;
	edit.error = 0;
	HEAP_CHANGE(&edit, magic) = HEAP_MAGIC;
	HEAP_CHANGE(&edit, version) = HEAP_VERSION;
	HEAP_CHANGE(&edit, pages) = pages;
	HEAP_CHANGE(&edit, root_check) = HEAP_MAGIC;
	result = add_area(&edit, 0, pages);
	if (result < 0)
		return result;
	give_new(&edit, 0, pages);
	return lh__heap_commit(&edit);
}

int lh__heap_grow(const struct lh_heap *heap)
{
	struct heap_edit edit;
	const uint64_t pages = heap->size / LH_PAGE_SIZE;
	uint64_t from, covered;
	int result = lh__heap_begin(&edit, heap);

	if (result < 0)
		return result;
	from = HEAP_SEE(&edit, pages);
	covered = HEAP_SEE(&edit, covered);
	if (heap->size % LH_PAGE_SIZE != 0 || pages < from || pages > UINT32_MAX)
		return -EINVAL;
	if (covered < from || lh__heap_area(&edit, HEAP_SEE(&edit, areas) - 1).end != covered)
		return -EBADMSG;
	HEAP_CHANGE(&edit, pages) = pages;
	give_new(&edit, from, pages);
	if (pages > covered) {
		result = add_area(&edit, covered, pages);
		if (result < 0)
			return result;
		give_new(&edit, covered, pages);
	}
	return lh__heap_commit(&edit);
}

/* ---- objects ---- */

static int alloc_pages(struct heap_edit *edit, uint64_t pages, uint64_t *offset)
{
	uint32_t page = 0;
	int result;

	if (pages >= HEAP_SEE(edit, pages))
		return -ENOMEM;
	page = lh__heap_take(edit, (uint32_t)pages, 1);
	if (!page) {
		lh__heap_reclaim(edit);
		page = lh__heap_take(edit, (uint32_t)pages, 1);
	}
	if (!page)
		return edit->error ? edit->error : -ENOMEM;
	lh__heap_describe(edit, page, HEAP_LARGE, (uint32_t)pages);
	result = lh__heap_commit(edit);
	if (result == 0)
		*offset = (uint64_t)page * LH_PAGE_SIZE;
	return result;
}

/* A slot of the first class from `class` on that has one and fits. */
static int alloc_from(struct heap_edit *edit, unsigned class, uint64_t alignment, uint64_t *offset)
{
	int result = edit->error ? edit->error : -ENOMEM;

	for (; class < HEAP_CLASSES && result == -ENOMEM; class ++)
		if (lh__heap_classes[class].size % alignment == 0)
			result = lh__heap_slab_alloc(edit, class, offset);
	return result;
}

/*
 * Where there is no room for a slab any more: a slot of a slab that is in no list, or one that is larger
 * than it need be, or pages, or a larger slot of a slab that is in no list.
 */
static int alloc_anywhere(struct heap_edit *edit, uint64_t size, uint64_t alignment, unsigned class,
                          uint64_t *offset)
{
	int result;

	(void)lh__heap_rescue(edit, class, class + 1, alignment);
	result = alloc_from(edit, class, alignment, offset);
	if (result == -ENOMEM)
		result = alloc_pages(edit, pages_for(size), offset);
	if (result != -ENOMEM)
		return result;
	edit->count = 0;
	(void)lh__heap_rescue(edit, class + 1, HEAP_CLASSES, alignment);
	return alloc_from(edit, class + 1, alignment, offset);
}

static int alloc_small(struct heap_edit *edit, uint64_t size, uint64_t alignment, unsigned class,
                       uint64_t *offset)
{
	int result = lh__heap_slab_alloc(edit, class, offset);

	if (result != -ENOMEM)
		return result;
	if (!lh__heap_slab_new(edit, class)) {
		lh__heap_reclaim(edit);
		if (!lh__heap_slab_new(edit, class)) {
			if (edit->error)
				return edit->error;
			edit->count = 0; /* what was reclaimed was not enough and stays as it is */
			return alloc_anywhere(edit, size, alignment, class, offset);
		}
	}
	return lh__heap_slab_alloc(edit, class, offset);
}

int lh__heap_alloc(const struct lh_heap *heap, uint64_t size, uint64_t alignment, uint64_t *offset)
{
	const uint64_t least = size >= LH_LINE_SIZE ? LH_LINE_SIZE : 16;
	struct heap_edit edit;
	unsigned class;
	int result;

	if (size == 0 || alignment > LH_PAGE_SIZE || (alignment & (alignment - 1)) != 0)
		return -EINVAL;
	alignment = alignment > least ? alignment : least;
	result = lh__heap_begin(&edit, heap);
	if (result < 0)
		return result;
	if (size > heap->size)
		return -ENOMEM;
	class = lh__heap_class(size, alignment);
	return class < HEAP_CLASSES ? alloc_small(&edit, size, alignment, class, offset)
	                            : alloc_pages(&edit, pages_for(size), offset);
}

/* The large object that begins at offset, or NULL. */
static const struct heap_run *large_at(const struct heap_edit *edit, uint64_t offset)
{
	const struct heap_run *run =
		offset % LH_PAGE_SIZE == 0 ? lh__heap_run_at(edit, offset / LH_PAGE_SIZE) : NULL;

	return run && run->kind == HEAP_LARGE && run->pages > 0 ? run : NULL;
}

static void set_root(struct heap_edit *edit, uint64_t offset, uint64_t size)
{
	HEAP_CHANGE(edit, root) = offset;
	HEAP_CHANGE(edit, root_size) = size;
	HEAP_CHANGE(edit, root_check) = offset ^ size ^ HEAP_MAGIC;
}

int lh__heap_free(const struct lh_heap *heap, uint64_t offset)
{
	struct heap_edit edit;
	const struct heap_run *large;
	uint64_t page = offset / LH_PAGE_SIZE;
	uint32_t count;
	int result = lh__heap_begin(&edit, heap);

	if (result < 0)
		return result;
	if (offset == 0)
		return -EINVAL;
	if (offset == HEAP_SEE(&edit, root))
		set_root(&edit, 0, 0);
	if (lh__heap_slab_at(&edit, page))
		return lh__heap_slab_free(&edit, offset);
	large = large_at(&edit, offset);
	if (!large)
		return -EINVAL;
	count = large->pages;
	if (!lh__heap_together(&edit, page, count))
		return -EBADMSG;
	lh__heap_describe(&edit, page, 0, 0);
	lh__heap_give(&edit, (uint32_t)page, count);
	return lh__heap_commit(&edit);
}

static uint64_t usable(const struct heap_edit *edit, uint64_t offset)
{
	const struct heap_slab *slab = lh__heap_slab_at(edit, offset / LH_PAGE_SIZE);
	const struct heap_run *large;
	uint64_t at, bit;

	if (slab) {
		at = lh__heap_slot(edit, offset, slab->class, &bit);
		if (at == 0 || (*(const uint64_t *)lh__heap_see(edit, at) & bit) == 0)
			return 0;
		return lh__heap_classes[slab->class].size;
	}
	large = large_at(edit, offset);
	return large ? (uint64_t)large->pages * LH_PAGE_SIZE : 0;
}

uint64_t lh__heap_usable(const struct lh_heap *heap, uint64_t offset)
{
	struct heap_edit edit;

	return lh__heap_begin(&edit, heap) < 0 ? 0 : usable(&edit, offset);
}

/* A large object gives pages of its end back, or takes free ones behind it. */
static int resize_large(struct heap_edit *edit, uint32_t page, uint32_t now, uint32_t wanted)
{
	if (!lh__heap_together(edit, page, now))
		return -EBADMSG;
	if (wanted > now && !lh__heap_take_at(edit, page + now, wanted - now))
		return edit->error ? edit->error : -ENOSPC;
	lh__heap_describe(edit, page, HEAP_LARGE, wanted);
	if (wanted < now)
		lh__heap_give(edit, page + wanted, now - wanted);
	return lh__heap_commit(edit);
}

int lh__heap_resize(const struct lh_heap *heap, uint64_t offset, uint64_t size)
{
	struct heap_edit edit;
	uint64_t now;
	int result = lh__heap_begin(&edit, heap);

	if (result < 0)
		return result;
	now = usable(&edit, offset);
	if (now == 0 || size == 0 || (offset == HEAP_SEE(&edit, root) && size < HEAP_SEE(&edit, root_size)))
		return -EINVAL;
	if (size > heap->size)
		return -ENOSPC;
	if (lh__heap_slab_at(&edit, offset / LH_PAGE_SIZE))
		return size <= now ? 0 : -ENOSPC;
	if (pages_for(size) == now / LH_PAGE_SIZE)
		return 0;
	return resize_large(&edit, (uint32_t)(offset / LH_PAGE_SIZE), (uint32_t)(now / LH_PAGE_SIZE),
	                    (uint32_t)pages_for(size));
}

/* ---- the root, and all objects ---- */

uint64_t lh__heap_root(const struct lh_heap *heap, uint64_t *size)
{
	struct heap_edit edit;

	*size = 0;
	if (lh__heap_begin(&edit, heap) < 0)
		return 0;
	*size = HEAP_SEE(&edit, root_size);
	return HEAP_SEE(&edit, root);
}

int lh__heap_set_root(const struct lh_heap *heap, uint64_t offset, uint64_t size)
{
	struct heap_edit edit;
	int result = lh__heap_begin(&edit, heap);

	if (result < 0)
		return result;
	if (offset == 0 ? size != 0 : size == 0 || size > usable(&edit, offset))
		return -EINVAL;
	set_root(&edit, offset, size);
	return lh__heap_commit(&edit);
}

static int each_slot(const struct heap_edit *edit, uint64_t page, unsigned class,
                     int (*visit)(void *context, uint64_t offset, uint64_t usable), void *context)
{
	const struct heap_class *c = &lh__heap_classes[class];
	const uint64_t bits = lh__heap_bits(edit, page, class);
	unsigned slot;
	int result = 0;

	for (slot = 0; slot < c->slots && result == 0; slot++) {
		const uint64_t word =
			*(const uint64_t *)lh__heap_see(edit, bits + slot / HEAP_WORD_SLOTS * sizeof word);

		if (word >> slot % HEAP_WORD_SLOTS & 1)
			result = visit(context, page * LH_PAGE_SIZE + c->first + slot * c->size, c->size);
	}
	return result;
}

/* The objects of one run; *page goes on to the next. */
static int each_run(const struct heap_edit *edit, uint64_t *page,
                    int (*visit)(void *context, uint64_t offset, uint64_t usable), void *context)
{
	const uint64_t at = *page;
	const struct heap_slab *slab = lh__heap_slab_at(edit, at);
	const struct heap_run *run = slab ? NULL : lh__heap_run_at(edit, at);

	if (slab) {
		*page += HEAP_SLAB_PAGES;
		return each_slot(edit, at, slab->class, visit, context);
	}
	if (!run || run->pages == 0 || run->kind == 0)
		return -EBADMSG;
	*page += run->pages;
	return run->kind == HEAP_LARGE
	               ? visit(context, at * LH_PAGE_SIZE, (uint64_t)run->pages * LH_PAGE_SIZE)
	               : 0;
}

int lh__heap_each(const struct lh_heap *heap, int (*visit)(void *context, uint64_t offset, uint64_t usable),
                  void *context)
{
	struct heap_edit edit;
	unsigned i;
	int result = lh__heap_begin(&edit, heap);

	for (i = 0; result == 0 && i < HEAP_SEE(&edit, areas); i++) {
		const struct heap_extent area = lh__heap_area(&edit, i);
		const uint64_t pages = HEAP_SEE(&edit, pages);
		const uint64_t end = area.end < pages ? area.end : pages;
		uint64_t page = area.first;

		while (result == 0 && page < end)
			result = each_run(&edit, &page, visit, context);
	}
	return result;
}

bool lh__heap_is_formatted(const struct lh_heap *heap)
{
	const struct heap_header *header = (const struct heap_header *)heap->base;

	return header->magic != 0;
}
