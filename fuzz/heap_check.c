/*
 * heap_check.c - fuzzes the heap of a pool with its memory. The first four bytes give the size and what is
 * done; then come lines of the memory, each behind its number, so that an input stays small; memory that is
 * not given is that of a heap with a few objects. Whatever the memory is:
 *   - the checker ends and reads nothing outside (AddressSanitizer sees to that), and changes nothing;
 *   - all other calls end and neither read nor write outside, and what fails has changed nothing;
 *   - where the checker finds nothing, what is allocated then lies inside, and the heap is still sound.
 */
#include "service/pool/heap_format.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

#define PAGES_MAX 64u
#define OBJECTS 24u

/* A heap with something of each kind. Returns how many objects there are. */
static unsigned populate(const struct lh_heap *heap, uint64_t *object)
{
	static const unsigned sizes[] = { 16, 32, 64, 5000, 12000, 4096 };
	unsigned i, count = 0;

	if (lh__heap_format(heap) != 0)
		return 0;
	for (i = 0; i < OBJECTS; i++)
		count += lh__heap_alloc(heap, sizes[i % 6], 0, &object[count]) == 0;
	for (i = 0; i < count; i += 5)
		MUST(lh__heap_free(heap, object[i]) == 0);
	if (count > 1)
		MUST(lh__heap_set_root(heap, object[1], 16) == 0);
	return count;
}

/* Lines of 64 bytes, each behind the two bytes of its number; what is left goes to the beginning. */
static void overlay(const struct lh_heap *heap, const uint8_t *data, size_t size)
{
	while (size >= 2 + LH_LINE_SIZE) {
		const size_t line = ((size_t)data[0] | (size_t)data[1] << 8) % (heap->size / LH_LINE_SIZE);

		memcpy(heap->base + line * LH_LINE_SIZE, data + 2, LH_LINE_SIZE);
		data += 2 + LH_LINE_SIZE;
		size -= 2 + LH_LINE_SIZE;
	}
	memcpy(heap->base, data, size);
}

static int visited(void *context, uint64_t offset, uint64_t usable)
{
	return offset == 0 || usable == 0;
}

static bool sound(const struct lh_heap *heap)
{
	struct lh_heap_usage usage;
	struct lh_error error;
	const int result = lh__heap_check(heap, &usage, &error);

	MUST(result == 0 || (result == -EBADMSG && error.code == -EBADMSG));
	return result == 0;
}

static void use(const struct lh_heap *heap, const uint64_t *object, unsigned count, unsigned choice)
{
	const bool was_sound = sound(heap);
	unsigned char *before = malloc(heap->size);
	uint64_t offset = 0, size = 16u << (choice & 15);
	unsigned i;
	int result;

	MUST(before);
	for (i = 0; i < 8; i++) {
		memcpy(before, heap->base, heap->size);
		if (i % 2 == 0)
			result = lh__heap_alloc(heap, size >> i, 0, &offset);
		else if (count > 0 && i % 4 == 1)
			result = lh__heap_free(heap, object[(choice + i) % count]);
		else
			result = lh__heap_resize(heap, count ? object[(choice * i) % count] : 4096, size);
		MUST(result >= 0 || memcmp(before, heap->base, heap->size) == 0);
		if (was_sound && i % 2 == 0 && result == 0)
			MUST(offset >= LH_PAGE_SIZE && offset + (size >> i) <= heap->size);
		if (was_sound)
			MUST(sound(heap));
	}
	result = lh__heap_each(heap, visited, NULL);
	MUST(!was_sound || result == 0);
	(void)lh__heap_root(heap, &size);
	result = lh__heap_grow(heap);
	MUST(!was_sound || result == 0);
	free(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t object[OBJECTS] = { 0 };
	struct lh_heap heap = { 0 };
	unsigned count;

	if (size < 4)
		return 0;
	heap.size = (uint64_t)LH_PAGE_SIZE * (1 + data[0] % PAGES_MAX);
	heap.base = aligned_alloc(LH_PAGE_SIZE, heap.size);
	MUST(heap.base);
	memset(heap.base, 0, heap.size);
	count = populate(&heap, object);
	overlay(&heap, data + 4, size - 4);
	use(&heap, object, count, data[1] | (unsigned)data[2] << 8);
	free(heap.base);
	return 0;
}
