/*
 * heap_edit.c - changes of several lines, made all or not at all: see heap_format.h.
 */
#include "service/pool/heap_format.h"

int lh__heap_begin(struct heap_edit *edit, const struct lh_heap *heap)
{
	const struct heap_header *header = (const void *)heap->base;

	edit->heap = heap;
	edit->count = 0;
	edit->error = 0;
	if (heap->size < LH_PAGE_SIZE || header->magic != HEAP_MAGIC || header->version != HEAP_VERSION)
		return -EBADMSG;
	if (header->pages > heap->size / LH_PAGE_SIZE || header->areas == 0 || header->areas > HEAP_AREAS)
		return -EBADMSG;
	return 0;
}

void *lh__heap_change(struct heap_edit *edit, uint64_t offset)
{
	const uint64_t line = offset & ~(uint64_t)(LH_LINE_SIZE - 1);
	unsigned i;

	for (i = 0; i < edit->count && edit->at[i] != line; i++)
		;
	if (i == edit->count) {
		if (edit->error || i == HEAP_EDIT_LINES || line >= edit->heap->size) {
			lh__heap_broken(edit);
			return edit->line[HEAP_EDIT_LINES] + offset % LH_LINE_SIZE;
		}
		edit->at[i] = line;
		memcpy(edit->line[i], edit->heap->base + line, LH_LINE_SIZE);
		edit->count++;
	}
	return edit->line[i] + offset % LH_LINE_SIZE;
}

/* Whether a line has come to be other than it was: one that has not is neither touched nor written. */
static bool changed(const struct heap_edit *edit, unsigned i)
{
	return memcmp(edit->heap->base + edit->at[i], edit->line[i], LH_LINE_SIZE) != 0;
}

int lh__heap_commit(struct heap_edit *edit)
{
	const struct lh_heap *heap = edit->heap;
	unsigned i;
	int result;

	if (edit->error)
		return edit->error;
	for (i = 0; i < edit->count && heap->touch; i++) {
		result = changed(edit, i) ? heap->touch(heap->context, heap->base + edit->at[i], LH_LINE_SIZE)
		                          : 0;
		if (result < 0)
			return result;
	}
	for (i = 0; i < edit->count; i++)
		if (changed(edit, i))
			memcpy(lh__heap_store_at(heap, edit->at[i]), edit->line[i], LH_LINE_SIZE);
	return 0;
}
