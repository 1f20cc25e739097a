/*
 * pool_heap.c - the heap of a pool: what it gives, what it changes, that nothing gets lost.
 *
 * Every call is watched (pool_heap.h): changed bytes were touched, an abort puts all back, a failed call has
 * changed nothing, objects do not overlap. What the checker finds is in pool_heap_check.c.
 */
/* timeout: 240 */
#include "pool_heap.h"

static uint64_t seed;

static uint64_t below(uint64_t n)
{
	return random_next(&seed) % n;
}

/* The watch sees what it is there for. */
static void watch_sees(void)
{
	struct watched *w = watched_open(1 << 20, 1 << 20);
	struct lh_heap quiet = w->heap;
	uint64_t offset;
	unsigned seen;

	(void)watched_alloc(w, false, 64, 0, &offset);
	is(w->wrong, 0, "a call that tells what it changes is let through");
	watch(w);
	quiet.touch = NULL;
	(void)!lh__heap_alloc(&quiet, 64, 0, &offset);
	judge(w, 0, false);
	is(w->wrong, 1, "the watch sees a change that was not told");
	watch(w);
	judge(w, -ENOMEM, false);
	is(w->wrong, 1, "no change is no fault");
	watch(w);
	w->heap.base[100]++;
	seen = w->wrong;
	judge(w, -ENOMEM, false);
	ok(w->wrong > seen, "a call that failed and changed something");
	w->heap.base[100] = w->before[100];
	watch(w);
	w->heap.base[5000]++;
	seen = w->wrong;
	(void)record_touch(w, w->heap.base + 5000, 1);
	ok(w->wrong == seen + 1, "a change that is told too late");
	w->object[0].size = 64;
	seen = w->wrong;
	w->touches = 0;
	memcpy(w->before, w->heap.base, w->heap.size);
	(void)record_touch(w, w->heap.base + w->object[0].offset, 8);
	judge(w, 0, false);
	ok(w->wrong == seen + 1, "a live object that is touched");
	ok(!own(w, w->object[0].offset, 64, true) && !own(w, 1 << 20, 64, true),
	   "overlaps, and places outside");
	(void)watched_close(w);
}

/* ---- single calls ---- */

static void classes(void)
{
	unsigned bad = 0, class;
	uint64_t size, alignment;

	for (class = 0; class < HEAP_CLASSES; class ++) {
		const struct heap_class *c = &lh__heap_classes[class];

		bad += c->size % 16 != 0 || (c->size >= 64 && (c->size % 64 != 0 || c->first != 0));
		bad += c->first % c->size != 0 || c->slots < 3;
		bad += (unsigned)(c->first + c->slots * c->size) > HEAP_SLAB_SIZE;
		bad += c->words != (c->slots + 55) / 56;
		bad += c->first ? c->words * 8 > c->first : c->words > HEAP_LINE_WORDS;
		bad += class > 0 && c->size <= lh__heap_classes[class - 1].size;
	}
	is(bad, 0, "the slots of each class lie in its slab, behind the bitmap, and have a bit each");
	for (bad = 0, size = 1; size <= HEAP_SMALL_MAX + 1; size++) {
		for (alignment = 16; alignment <= LH_PAGE_SIZE; alignment *= 2) {
			for (class = 0; class < HEAP_CLASSES; class ++)
				if (lh__heap_classes[class].size >= size &&
				    lh__heap_classes[class].size % alignment == 0)
					break;
			bad += lh__heap_class(size, alignment) != class;
		}
	}
	is(bad, 0, "every size and alignment gets the smallest class that can hold it");
	for (bad = 0, size = 1; size < 1000000; size++)
		bad += size > 1 && lh__heap_bin((uint32_t)size) - lh__heap_bin((uint32_t)size - 1) > 1;
	ok(bad == 0 && lh__heap_bin(1) == 0 && lh__heap_bin(UINT32_MAX) < HEAP_BINS,
	   "bins ascend without a gap");
}

static void refusals(void)
{
	struct watched *w = watched_open(1 << 20, 1 << 20);
	static const uint64_t odd[] = { 3, 24, 100, 8192, UINT64_MAX, 0x8000000000000000 };
	uint64_t offset = 7, small, large, size;
	unsigned i, bad = 0;
	int result;

	for (i = 0; i < sizeof odd / sizeof *odd; i++)
		bad += lh__heap_alloc(&w->heap, 100, odd[i], &offset) != -EINVAL;
	is(bad, 0, "alignments that are no power of two up to a page are refused");
	is(lh__heap_alloc(&w->heap, 0, 0, &offset), -EINVAL, "so is size 0");
	is(lh__heap_alloc(&w->heap, UINT64_MAX, 0, &offset), -ENOMEM, "no room for the largest size");
	is(lh__heap_alloc(&w->heap, 1 << 20, 0, &offset), -ENOMEM, "... or for as much as the memory");
	is(offset, 7, "offset is as it was");
	is(watched_alloc(w, false, 40, 0, &small) | watched_alloc(w, false, 20000, 0, &large), 0,
	   "two objects");
	for (bad = 0, offset = 0; offset < w->heap.size + 10000; offset += 8) {
		if (offset == small || offset == large)
			continue;
		WATCHED(w, false, result, lh__heap_free(&w->heap, offset));
		bad += result != -EINVAL || w->touches || lh__heap_usable(&w->heap, offset) != 0;
		if (offset >= 40000)
			offset += 1016;
	}
	is(bad, 0, "what does not begin an object is not freed, and nothing is touched");
	for (bad = 0, offset = UINT64_MAX; offset > 1; offset = offset >> 1)
		bad += lh__heap_free(&w->heap, offset) != -EINVAL ||
		       lh__heap_free(&w->heap, offset ^ UINT64_MAX) != -EINVAL;
	is(bad, 0, "... at far offsets either");
	is(lh__heap_set_root(&w->heap, small + 16, 8), -EINVAL, "a root that is no object");
	is(lh__heap_set_root(&w->heap, small, 49), -EINVAL, "... that is too small");
	is(lh__heap_set_root(&w->heap, small, 0), -EINVAL, "... of no size");
	WATCHED(w, true, result, lh__heap_set_root(&w->heap, large, 20000));
	ok(result == 0 && lh__heap_root(&w->heap, &size) == large && size == 20000, "a root");
	is(lh__heap_resize(&w->heap, large, 19999), -EINVAL, "it does not get smaller than it is");
	is(lh__heap_resize(&w->heap, large + 4096, 1), -EINVAL, "an object's middle is not resized");
	is(lh__heap_resize(&w->heap, small, 0), -EINVAL, "nor to size 0");
	is(lh__heap_resize(&w->heap, small, 49), -ENOSPC, "a slot does not grow");
	is(lh__heap_resize(&w->heap, large, UINT64_MAX), -ENOSPC, "nor a run beyond the memory");
	is(watched_free(w, true, 1), 0, "the root is freed");
	ok(lh__heap_root(&w->heap, &size) == 0 && size == 0, "and there is none");
	watched_check(w);
	is(watched_close(w), 0, "all of it watched");
}

static void alignments(void)
{
	struct watched *w = watched_open(4 << 20, 4 << 20);
	uint64_t size, alignment, offset;
	unsigned bad = 0;

	for (alignment = 1; alignment <= LH_PAGE_SIZE; alignment *= 2)
		for (size = 1; size < 12000; size += 1 + size / 3) {
			bad += watched_alloc(w, false, size, alignment, &offset) != 0;
			if (w->objects > 20)
				bad += watched_free(w, false, (unsigned)below(w->objects)) != 0;
		}
	watched_check(w);
	ok(bad + watched_close(w) == 0, "every alignment with every kind of size");
}

static int in_order(void *context, uint64_t offset, uint64_t usable)
{
	uint64_t *state = context; /* last offset, objects, bytes, when to stop */

	if (offset <= state[0])
		return -1;
	state[0] = offset;
	state[2] += usable;
	return ++state[1] == state[3] ? 77 : 0;
}

static void each(void)
{
	struct watched *w = watched_open(1 << 20, 2 << 20);
	uint64_t state[4] = { 0 }, offset;
	unsigned i;

	is(lh__heap_each(&w->heap, in_order, state), 0, "an empty heap has no objects");
	is(state[1], 0, "... indeed");
	for (i = 0; i < 300; i++)
		(void)watched_alloc(w, false, 1 + below(i % 7 ? 200 : 9000), 0, &offset);
	w->heap.size = 2 << 20;
	is(lh__heap_grow(&w->heap), 0, "grows");
	for (i = 0; i < 100; i++)
		(void)watched_free(w, false, (unsigned)below(w->objects));
	is(lh__heap_each(&w->heap, in_order, state), 0, "every object is visited in ascending order");
	ok(state[1] == w->objects && state[2] == w->object_bytes, "and they are as many and as large");
	memset(state, 0, sizeof state);
	state[3] = 5;
	is(lh__heap_each(&w->heap, in_order, state), 77, "until a visit returns something");
	is(watched_close(w), 0, "all of it watched");
}

/* ---- how few lines ---- */

static void lines_of_usual_calls(void)
{
	struct watched *w = watched_open(1 << 20, 1 << 20);
	static const unsigned sizes[] = { 16, 24, 48, 64, 100, 256, 1000 };
	unsigned i, n, most = 0, many = 0, calls = 0, most_free = 0, many_free = 0;
	uint64_t offset;

	for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		(void)watched_alloc(w, false, sizes[i], 0, &offset);
		(void)watched_alloc(w, false, sizes[i], 0, &offset);
		ok(touched_lines(w) == 1 && w->length[0] == 8, "an object of %u bytes: one word of one line",
		   sizes[i]);
		(void)watched_free(w, false, w->objects - 1);
		ok(touched_lines(w) == 1 && w->length[0] == 8, "... and to free it");
		(void)watched_free(w, false, w->objects - 1);
		ok(touched_lines(w) == 1, "... even the last one");
		(void)watched_alloc(w, false, sizes[i], 0, &offset);
		ok(touched_lines(w) == 1, "... and the first one again");
	}
	for (n = 0; watched_alloc(w, false, 100, 0, &offset) == 0; n++) {
		calls++;
		many += touched_lines(w) > 1;
		most = touched_lines(w) > most ? touched_lines(w) : most;
	}
	printf("# %u times 100 bytes: %u changed more than a line, at most %u\n", calls, many, most);
	ok(most <= 8 && many * 50 < calls, "of allocations in a row one in fifty changes more than one line");
	for (calls = 0; w->objects > 0; calls++) {
		(void)watched_free(w, false, (unsigned)below(w->objects));
		many_free += touched_lines(w) > 1;
		most_free = touched_lines(w) > most_free ? touched_lines(w) : most_free;
	}
	printf("# freed at random: %u of %u changed more than a line, at most %u\n", many_free, calls,
	       most_free);
	ok(most_free <= 16 && many_free * 20 < calls, "of frees one in twenty");
	is(watched_close(w), 0, "all of it watched");
}

static void lines_of_changing_slabs(void)
{
	struct watched *w = watched_open(1 << 20, 1 << 20);
	uint64_t offset;
	unsigned i, full = 0;

	/* Of 4096 bytes there are four in a slab: the fourth makes it full, the fifth needs a new one. */
	for (i = 0; i < 12; i++) {
		(void)watched_alloc(w, false, 4096, 0, &offset);
		if (i > 0 && i % 4 == 0)
			ok(touched_lines(w) <= 4, "a new slab: %u lines", touched_lines(w));
		else if (i % 4 == 3)
			full += touched_lines(w);
	}
	ok(full <= 9, "a slab that becomes full: %u lines for three", full);
	(void)watched_free(w, false, 0);
	ok(touched_lines(w) <= 3, "one that is full no more: %u lines", touched_lines(w));
	(void)watched_free(w, false, 5);
	ok(touched_lines(w) <= 3, "another: %u lines", touched_lines(w));
	watched_check(w);
	is(watched_close(w), 0, "all of it watched");
}

/* A program that keeps as much as it has and replaces it, which is the usual one. */
static void lines_of_replacing(void)
{
	struct watched *w = watched_open(512 << 10, 512 << 10);
	uint64_t offset;
	unsigned i, lines = 0;

	for (i = 0; i < 800; i++)
		(void)watched_alloc(w, false, 512, 0, &offset);
	for (i = 0; i < 4000; i++) {
		(void)watched_alloc(w, false, 512, 0, &offset);
		lines += touched_lines(w);
		(void)watched_free(w, false, (unsigned)below(w->objects));
		lines += touched_lines(w);
	}
	printf("# 4000 objects of 512 bytes replaced: %u lines\n", lines);
	ok(lines < 4000 * 3,
	   "to replace an object in slabs that are nearly full changes less than three lines");
	watched_check(w);
	is(watched_close(w), 0, "all of it watched");
}

/* ---- the random model ---- */

static uint64_t some_size(void)
{
	switch (below(16)) {
	case 0: return 1 + below(60000);
	case 1: return 4096 * (1 + below(12));
	case 2:
	case 3: return 1 + below(6000);
	case 4:
	case 5:
	case 6: return 64 << below(7);
	default: return 1 + below(200);
	}
}

static void one_call(struct watched *w)
{
	const bool sweep = below(8) == 0;
	uint64_t offset;
	unsigned index;
	int result;

	if (w->objects == 0 || below(100) < 48) {
		if (w->objects < OBJECTS)
			(void)watched_alloc(w, sweep, some_size(), below(8) ? 0 : UINT64_C(1) << below(13),
			                    &offset);
		return;
	}
	index = (unsigned)below(w->objects);
	if (below(10) == 0)
		(void)watched_resize(w, sweep, index, some_size());
	else if (below(20) == 0) {
		const uint64_t now = w->object[index].usable;

		WATCHED(w, sweep, result, lh__heap_set_root(&w->heap, w->object[index].offset, now));
		if (result != 0)
			wrong(w, "a root was refused");
	} else if (watched_free(w, sweep, index) != 0) {
		wrong(w, "an object could not be freed");
	}
}

/* Makes a call and takes it back; the model is as it was. */
static void aborted_call(struct watched *w)
{
	uint64_t offset;
	int result;

	watch(w);
	if (w->objects == 0 || below(2))
		result = lh__heap_alloc(&w->heap, some_size(), 0, &offset);
	else if (below(3))
		result = lh__heap_free(&w->heap, w->object[below(w->objects)].offset);
	else
		result = lh__heap_resize(&w->heap, w->object[below(w->objects)].offset, some_size());
	judge(w, result, true);
}

static void random_calls(uint64_t size, uint64_t room, unsigned calls)
{
	struct watched *w = watched_open(size, room);
	unsigned i, most = 0;
	int result;

	for (i = 0; i < calls && w->wrong == 0; i++) {
		/* By turns it fills up and gets empty. */
		if (below(5) == 0)
			aborted_call(w);
		else if (i / 400 % 3 == 2 && w->objects > 0)
			(void)watched_free(w, false, (unsigned)below(w->objects));
		else
			one_call(w);
		most = w->objects > most ? w->objects : most;
		if (below(8) == 0)
			watched_check(w);
		if (w->heap.size < room && below(calls / 8) == 0) {
			w->heap.size += LH_PAGE_SIZE * (1 + below((room - w->heap.size) / LH_PAGE_SIZE));
			WATCHED(w, true, result, lh__heap_grow(&w->heap));
			if (result != 0)
				wrong(w, "it does not grow");
			watched_check(w);
		}
	}
	while (w->objects > 0 && w->wrong == 0)
		if (watched_free(w, false, (unsigned)below(w->objects)) != 0)
			wrong(w, "an object could not be freed");
	watched_check(w);
	is(watched_close(w), 0, "%u random calls in %lu KiB that become %lu, up to %u objects", calls,
	   (unsigned long)size >> 10, (unsigned long)room >> 10, most);
}

/* ---- the end of the memory ---- */

static uint64_t largest(struct lh_heap heap)
{
	uint64_t low = 0, high = heap.size, offset;

	while (high - low > 1) {
		const uint64_t middle = (low + high) / 2;

		if (lh__heap_alloc(&heap, middle, 0, &offset) == 0) {
			if (lh__heap_free(&heap, offset) != 0)
				return 0;
			low = middle;
		} else {
			high = middle;
		}
	}
	return low;
}

static void exhaustion(uint64_t size)
{
	struct watched *w = watched_open(size, size);
	struct lh_heap quiet = w->heap;
	struct lh_heap_usage usage;
	uint64_t offset, most, limit;
	unsigned bad = 0, i;

	quiet.touch = NULL;
	most = largest(quiet);
	for (i = 0; i < 200;) {
		limit = 16 << below(13);
		i += watched_alloc(w, false, 1 + below(limit), 0, &offset) != 0;
	}
	while (watched_alloc(w, false, 1, 0, &offset) == 0)
		;
	bad += lh__heap_check(&quiet, &usage, NULL) != 0;
	printf("# %lu KiB full: %lu objects, %lu bytes of them, %lu free\n", (unsigned long)size >> 10,
	       (unsigned long)usage.objects, (unsigned long)usage.object_bytes,
	       (unsigned long)usage.free_bytes);
	is(usage.free_bytes, 0, "it is full to the last slot");
	for (i = 0; i < 50; i++) {
		/* What is freed is found again: the same size fits once more. */
		const unsigned index = (unsigned)below(w->objects);
		const uint64_t usable = w->object[index].usable;

		bad += watched_free(w, false, index) != 0;
		bad += watched_alloc(w, false, usable, 0, &offset) != 0;
	}
	watched_check(w);
	is(bad, 0, "a freed object's room is found again");
	while (w->objects > 0)
		bad += watched_free(w, false, (unsigned)below(w->objects)) != 0;
	watched_check(w);
	is(watched_alloc(w, true, most, 0, &offset), 0, "when all is freed, the largest object fits again");
	ok(bad + watched_close(w) == 0, "all of it watched, %lu KiB", (unsigned long)size >> 10);
}

/* The only run that is long enough is the last one of its bin. */
static void late_in_its_bin(void)
{
	struct watched *w = watched_open(2 << 20, 2 << 20);
	uint64_t offset;
	unsigned i, bad = 0;

	for (i = 0; i < 20; i++) {
		bad += watched_alloc(w, false, (i == 0 ? 19 : 16) * LH_PAGE_SIZE, 0, &offset) != 0;
		bad += watched_alloc(w, false, 2 * LH_PAGE_SIZE, 0, &offset) != 0;
	}
	while (watched_alloc(w, false, 2 * LH_PAGE_SIZE, 0, &offset) == 0)
		;
	while (watched_alloc(w, false, 1, 0, &offset) == 0)
		;
	bad += watched_free(w, false, 0) != 0;
	for (i = 1; i < 20; i++)
		bad += watched_free(w, false, 2 * i) != 0;
	is(watched_alloc(w, true, 19 * LH_PAGE_SIZE, 0, &offset), 0,
	   "a run is found that comes late in its bin");
	watched_check(w);
	ok(bad + watched_close(w) == 0, "all of it watched");
}

/* Slots of slabs that are in no list are found when there is nothing else. */
static void last_slots(void)
{
	struct watched *w = watched_open(128 << 10, 128 << 10);
	uint64_t offset;
	unsigned i, bad = 0;

	while (watched_alloc(w, false, 64, 0, &offset) == 0)
		;
	for (i = 0; i < 3; i++)
		bad += watched_free(w, false, i * 300) != 0;
	is(watched_alloc(w, true, 65, 0, &offset), -ENOMEM, "three slots of 64 bytes are no place for 65");
	for (i = 0; i < 3; i++)
		bad += watched_alloc(w, true, 10 + 20 * i, 0, &offset) != 0;
	is(bad, 0, "but for less, also of another class");
	is(watched_alloc(w, true, 1, 0, &offset), -ENOMEM, "and then it is full");
	watched_check(w);
	is(watched_close(w), 0, "all of it watched");
}

/* ---- sizes of memory ---- */

static int count_touch(void *context, const void *from, size_t size)
{
	++*(unsigned *)context;
	return 0;
}

static struct lh_heap sparse(uint64_t room, uint64_t size, unsigned *touches)
{
	void *base =
		mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	*touches = 0;
	return (struct lh_heap){ base == MAP_FAILED ? NULL : base, size, touches, count_touch, NULL };
}

static void tiny_sizes(void)
{
	unsigned touches, bad = 0, pages;
	struct lh_heap heap = sparse(1 << 20, 0, &touches);
	struct lh_heap_usage usage;
	uint64_t offset;

	ok(lh__heap_format(&heap) == -EINVAL, "no memory is no heap");
	for (pages = 1; pages < 80; pages++) {
		memset(heap.base, 0, 1 << 20);
		heap.size = pages * LH_PAGE_SIZE;
		if (pages < 3) {
			bad += lh__heap_format(&heap) != -EINVAL;
			continue;
		}
		bad += lh__heap_format(&heap) != 0 || lh__heap_check(&heap, &usage, NULL) != 0;
		bad += usage.free_bytes != (uint64_t)(pages - 2) * LH_PAGE_SIZE;
		bad += lh__heap_alloc(&heap, 10, 0, &offset) != 0 || lh__heap_free(&heap, offset) != 0;
		bad += largest(heap) != (uint64_t)(pages - 2) * LH_PAGE_SIZE;
		bad += lh__heap_check(&heap, &usage, NULL) != 0;
	}
	is(bad, 0, "heaps of 1 to 79 pages");
	heap.size = 4095;
	is(lh__heap_format(&heap), -EINVAL, "not whole pages");
	munmap(heap.base, 1 << 20);
}

/* What is neither the header, nor tables, nor free. */
static uint64_t missing(const struct lh_heap *heap, const struct lh_heap_usage *usage)
{
	const struct heap_header *header = (const void *)heap->base;
	uint64_t sum = LH_PAGE_SIZE + usage->object_bytes + usage->free_bytes;
	unsigned i;

	for (i = 0; i < header->areas; i++) {
		const uint64_t left = heap->size / LH_PAGE_SIZE - header->area[i].start;

		sum += LH_PAGE_SIZE * (left < header->area[i].table ? left : header->area[i].table);
	}
	return heap->size - sum;
}

static void page_by_page(void)
{
	unsigned touches, bad = 0, most = 0;
	struct lh_heap heap = sparse(64 << 20, 64 << 10, &touches);
	struct lh_heap_usage usage;

	bad += lh__heap_format(&heap) != 0;
	while (heap.size < 20 << 20) {
		heap.size += LH_PAGE_SIZE;
		touches = 0;
		bad += lh__heap_grow(&heap) != 0 || lh__heap_check(&heap, &usage, NULL) != 0;
		bad += missing(&heap, &usage) != 0;
		most = touches > most ? touches : most;
	}
	is(bad, 0, "from 64 KiB to 20 MiB, a page at a time: no page is lost");
	ok(most <= 12, "a step changes at most %u lines", most);
	is(lh__heap_grow(&heap), 0, "to grow by nothing is no error");
	heap.size -= LH_PAGE_SIZE;
	ok(lh__heap_grow(&heap) == -EBADMSG, "a heap does not shrink");
	munmap(heap.base, 64 << 20);
}

static void huge(void)
{
	const uint64_t gib = 1 << 30;
	unsigned touches, areas = 0;
	struct lh_heap heap = sparse(64 * gib, 10 * gib, &touches);
	struct lh_heap_usage usage;
	uint64_t first, second, third;

	if (!heap.base) {
		skip("a heap of many GiB", "so much address space cannot be had");
		return;
	}
	is(lh__heap_format(&heap), 0, "10 GiB");
	ok(touches <= 10, "by %u lines", touches);
	ok(lh__heap_alloc(&heap, 700 << 20, 0, &first) == 0 &&
	           lh__heap_alloc(&heap, 8 * gib, 0, &second) == 0,
	   "objects of 700 MiB and of 8 GiB");
	is(lh__heap_alloc(&heap, 2 * gib, 0, &third), -ENOMEM, "then there is no room for 2 GiB");
	heap.size = 30 * gib;
	touches = 0;
	is(lh__heap_grow(&heap), 0, "until it grows to 30 GiB");
	ok(touches <= 10, "by %u lines", touches);
	ok(lh__heap_alloc(&heap, 10 * gib, 4096, &third) == 0, "then there is for 10");
	ok(lh__heap_free(&heap, first) == 0 && lh__heap_free(&heap, second) == 0 &&
	           lh__heap_free(&heap, third) == 0,
	   "all freed");
	ok(lh__heap_check(&heap, &usage, NULL) == 0 && usage.objects == 0 && missing(&heap, &usage) == 0,
	   "and nothing is missing");
	munmap(heap.base, 64 * gib);
	/* The worst steps: each a page more than the last area covers. */
	heap = sparse(64 * gib, 64 << 10, &touches);
	if (lh__heap_format(&heap) != 0)
		return;
	while (heap.size < 60 * gib && lh__heap_grow(&heap) == 0) {
		areas = ((struct heap_header *)heap.base)->areas;
		heap.size = (((struct heap_header *)heap.base)->covered + 1) * LH_PAGE_SIZE;
	}
	ok(heap.size >= 60 * gib && areas < HEAP_AREAS * 3 / 4, "the worst steps to 60 GiB: %u areas", areas);
	munmap(heap.base, 64 * gib);
}

/* ---- another address ---- */

static void another_address(void)
{
	struct watched *w = watched_open(1 << 20, 1 << 20);
	struct lh_heap copy = w->heap, quiet = w->heap;
	struct lh_heap_usage usage;
	uint64_t offset, a, b;
	unsigned i, bad = 0;

	for (i = 0; i < 500; i++)
		one_call(w);
	copy.base = guarded_pages(256);
	copy.touch = quiet.touch = NULL;
	memcpy(copy.base, w->heap.base, copy.size);
	for (i = 0; i < 2000; i++) {
		const uint64_t size = some_size();
		int result;

		if (below(2)) {
			result = lh__heap_alloc(&quiet, size, 0, &a);
			bad += lh__heap_alloc(&copy, size, 0, &b) != result || (result == 0 && a != b);
		} else if (w->objects > 0) {
			offset = w->object[below(w->objects)].offset;
			result = lh__heap_free(&quiet, offset);
			bad += lh__heap_free(&copy, offset) != result;
		}
	}
	bad += memcmp(quiet.base, copy.base, copy.size) != 0 || lh__heap_check(&copy, &usage, NULL) != 0;
	is(bad, 0, "a copy at another address does the same");
	munmap(copy.base - LH_PAGE_SIZE, (uint64_t)258 * LH_PAGE_SIZE);
	is(watched_close(w), 0, "all of it watched");
}

/* ---- resizing ---- */

static void resizing(void)
{
	struct watched *w = watched_open(1 << 20, 1 << 20);
	uint64_t a, b;

	(void)watched_alloc(w, false, 100000, 0, &a);
	(void)watched_alloc(w, false, 100000, 0, &b);
	is(watched_resize(w, true, 0, 200000), -ENOSPC, "what has nothing free behind it does not grow");
	is(watched_resize(w, true, 1, 40000), 0, "it gets smaller");
	is(w->object[1].usable, 40960, "... by whole pages");
	is(watched_resize(w, true, 1, 100000), 0, "... and larger again");
	is(watched_resize(w, true, 1, 102401), -ENOSPC, "... but not into its neighbour");
	is(watched_free(w, true, 0), 0, "the neighbour goes");
	is(watched_resize(w, true, 0, 150000), 0, "then it does");
	is(watched_resize(w, true, 0, 1), 0, "down to one page");
	is(w->object[0].usable, 4096, "... and no less");
	watched_check(w);
	is(watched_close(w), 0, "all of it watched");
}

int main(void)
{
	seed = random_seed();
	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	watch_sees();
	classes();
	refusals();
	alignments();
	each();
	resizing();
	lines_of_usual_calls();
	lines_of_changing_slabs();
	lines_of_replacing();
	random_calls(64 << 10, 64 << 10, 8000);
	random_calls(64 << 10, 3 << 20, 4000);
	random_calls(1 << 20, 1 << 20, 1500);
	random_calls(1 << 20, 4 << 20, 800);
	exhaustion(64 << 10);
	exhaustion(300 << 10);
	exhaustion(600 << 10);
	late_in_its_bin();
	last_slots();
	tiny_sizes();
	page_by_page();
	huge();
	another_address();
	return done();
}
