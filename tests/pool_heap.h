/*
 * pool_heap.h - a heap whose every call is watched, for the tests of pools' heaps.
 *
 * The memory lies between pages that cannot be read, so that whatever goes outside it crashes. The watch
 * keeps a copy of it from before each call, and knows which bytes belong to live objects:
 *   - a byte that has changed was touched, and was as before when it was touched;
 *   - no byte of a live object was touched;
 *   - a call that failed has changed nothing.
 */
#ifndef POOL_HEAP_H
#define POOL_HEAP_H

#include <errno.h>

#include "line_random.h"
#include "service/pool/heap_format.h"
#include "tap.h"

#define TOUCHES 256u
#define OBJECTS 65536u

struct object {
	uint64_t offset, size, usable;
};

struct watched {
	struct lh_heap heap;
	uint64_t room; /* what the heap may grow to */
	unsigned char *before, *after;
	unsigned char *owned; /* of each 16 bytes: whether they are a live object's */
	struct object *object;
	unsigned objects;
	uint64_t object_bytes;
	uint64_t from[TOUCHES], length[TOUCHES];
	unsigned touches;
	int fail_in; /* fails the touch after so many; -1: none */
	unsigned wrong;
};

/* Prints the first few things that are wrong, and counts all. */
static void wrong(struct watched *w, const char *what)
{
	if (w->wrong++ < 5)
		printf("# wrong: %s\n", what);
}

static int record_touch(void *context, const void *from, size_t size)
{
	struct watched *w = context;
	const uint64_t offset = (uint64_t)((const unsigned char *)from - w->heap.base);

	if (offset + size > w->heap.size || size == 0 || w->touches == TOUCHES) {
		wrong(w, "a touch outside the memory, or too many");
		return -E2BIG;
	}
	if (memcmp(from, w->before + offset, size) != 0)
		wrong(w, "touched after it was changed");
	if (w->fail_in-- == 0)
		return -EDQUOT;
	w->from[w->touches] = offset;
	w->length[w->touches++] = size;
	return 0;
}

__attribute__((unused)) static unsigned watched_close(struct watched *w)
{
	const unsigned count = w->wrong;

	munmap(w->heap.base - LH_PAGE_SIZE, w->room + (uint64_t)2 * LH_PAGE_SIZE);
	free(w->before);
	free(w->after);
	free(w->owned);
	free(w->object);
	free(w);
	return count;
}

/* Begins to watch a call. */
static void watch(struct watched *w)
{
	memcpy(w->before, w->heap.base, w->heap.size);
	w->touches = 0;
}

/* Puts back what was touched, as an abort does. */
static void put_back(struct watched *w)
{
	unsigned i;

	for (i = 0; i < w->touches; i++)
		memcpy(w->heap.base + w->from[i], w->before + w->from[i], w->length[i]);
	if (memcmp(w->heap.base, w->before, w->heap.size) != 0)
		wrong(w, "an abort does not put all back");
}

/* How many lines were touched. */
__attribute__((unused)) static unsigned touched_lines(const struct watched *w)
{
	uint64_t line[TOUCHES];
	unsigned i, j, count = 0;

	for (i = 0; i < w->touches; i++) {
		for (j = 0; j < count && line[j] != w->from[i] / LH_LINE_SIZE; j++)
			;
		if (j == count)
			line[count++] = w->from[i] / LH_LINE_SIZE;
	}
	return count;
}

/* Looks at what a call has done; with `abort` it is taken back. */
static void judge(struct watched *w, int result, bool abort)
{
	unsigned i;
	uint64_t at;

	for (i = 0; i < w->touches; i++)
		for (at = w->from[i] / 16; at <= (w->from[i] + w->length[i] - 1) / 16; at++)
			if (w->owned[at])
				wrong(w, "a live object was touched");
	memcpy(w->after, w->heap.base, w->heap.size);
	if (result < 0 && memcmp(w->after, w->before, w->heap.size) != 0)
		wrong(w, "a call that failed has changed something");
	put_back(w);
	if (!abort)
		memcpy(w->heap.base, w->after, w->heap.size);
}

__attribute__((unused)) static struct watched *watched_open(uint64_t size, uint64_t room)
{
	struct watched *w = calloc(1, sizeof *w);

	w->heap = (struct lh_heap){
		.base = guarded_pages(room / LH_PAGE_SIZE), .size = size, .context = w, .touch = record_touch
	};
	w->room = room;
	w->before = calloc(1, room);
	w->after = calloc(1, room);
	w->owned = calloc(1, room / 16);
	w->object = calloc(OBJECTS, sizeof *w->object);
	w->fail_in = -1;
	watch(w);
	if (lh__heap_format(&w->heap) != 0)
		wrong(w, "format failed");
	judge(w, 0, false);
	return w;
}

/* ---- calls, watched; each first with its first touch failing, then its second and so on ---- */

#define WATCHED(w, sweep, result, call)                                                                      \
	for (int n__ = (sweep) ? 0 : -1, again__ = 1; again__; n__++) {                                      \
		watch(w);                                                                                    \
		(w)->fail_in = n__;                                                                          \
		(result) = (call);                                                                           \
		again__ = (result) == -EDQUOT;                                                               \
		(w)->fail_in = -1;                                                                           \
		judge(w, result, false);                                                                     \
		if (n__ < 0)                                                                                 \
			break;                                                                               \
	}

/* Whether [offset, offset + size) is nobody's, in the memory, and beyond the header; becomes someone's. */
static bool own(struct watched *w, uint64_t offset, uint64_t size, bool owned)
{
	uint64_t at;

	if (offset < LH_PAGE_SIZE || offset % 16 != 0 || size > w->heap.size || offset > w->heap.size - size)
		return false;
	for (at = offset / 16; at < (offset + size) / 16; at++) {
		if (w->owned[at] == owned)
			return false;
		w->owned[at] = owned;
	}
	return true;
}

__attribute__((unused)) static int watched_alloc(struct watched *w, bool sweep, uint64_t size,
                                                 uint64_t alignment, uint64_t *offset)
{
	const uint64_t least = alignment ? alignment : size >= 64 ? 64 : 16;
	struct object *object = &w->object[w->objects];
	int result;

	*offset = 0;
	WATCHED(w, sweep, result, lh__heap_alloc(&w->heap, size, alignment, offset));
	if (result < 0)
		return result;
	*object = (struct object){ *offset, size, lh__heap_usable(&w->heap, *offset) };
	if (object->usable < size || *offset % least != 0 || (size >= 64 && *offset % 64 != 0))
		wrong(w, "an object is too small, or not aligned");
	if (!own(w, *offset, object->usable, true))
		wrong(w, "an object overlaps another, or lies outside");
	w->objects++;
	w->object_bytes += object->usable;
	return 0;
}

__attribute__((unused)) static int watched_free(struct watched *w, bool sweep, unsigned index)
{
	const struct object object = w->object[index];
	int result;

	WATCHED(w, sweep, result, lh__heap_free(&w->heap, object.offset));
	if (result < 0)
		return result;
	if (lh__heap_usable(&w->heap, object.offset) != 0 ||
	    lh__heap_free(&w->heap, object.offset) != -EINVAL)
		wrong(w, "an object can be freed twice");
	(void)own(w, object.offset, object.usable, false);
	w->object_bytes -= object.usable;
	w->object[index] = w->object[--w->objects];
	return 0;
}

__attribute__((unused)) static int watched_resize(struct watched *w, bool sweep, unsigned index,
                                                  uint64_t size)
{
	struct object *object = &w->object[index];
	const uint64_t was = object->usable;
	int result;

	WATCHED(w, sweep, result, lh__heap_resize(&w->heap, object->offset, size));
	object->usable = lh__heap_usable(&w->heap, object->offset);
	if (result < 0 ? object->usable != was : object->usable < size)
		wrong(w, "a resized object has another size");
	if (object->usable > was && !own(w, object->offset + was, object->usable - was, true))
		wrong(w, "a resized object overlaps another");
	if (object->usable < was)
		(void)own(w, object->offset + object->usable, was - object->usable, false);
	w->object_bytes += object->usable - was;
	return result;
}

/* The heap is sound and is what the model says. */
__attribute__((unused)) static void watched_check(struct watched *w)
{
	struct lh_heap_usage usage = { 0 };
	struct lh_error error;

	if (lh__heap_check(&w->heap, &usage, &error) != 0) {
		wrong(w, error.text);
		return;
	}
	if (usage.objects != w->objects || usage.object_bytes != w->object_bytes)
		wrong(w, "the usage is not the model's");
}

#endif
