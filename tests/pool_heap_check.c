/*
 * pool_heap_check.c - the heap's checker finds what is wrong, and whatever is wrong, nothing goes outside the
 * memory: it lies between pages that cannot be read.
 *
 * Every single bit of what the heap keeps is flipped: the header, the tables, the bitmaps at the beginning
 * of slabs of 16 and 32 bytes. The checker has to see each of them, without exception. What it does not
 * look at is the rest: objects, free slots, free pages. Each byte there is flipped as well, and has to be let
 * through.
 */
/* timeout: 240 */
#include "pool_heap.h"

#define ROOM (UINT64_C(48) * LH_PAGE_SIZE)

static uint64_t seed;
static unsigned char good[2 << 20], kept[(2 << 20) / 64];

static uint64_t below(uint64_t n)
{
	return random_next(&seed) % n;
}

/* The first objects, which chance does not free: a large one, one to be a free run, a slot of some slab. */
enum { LARGE, SPARE, SLOT, CERTAIN };

/* A heap with some of everything, quiet afterwards. */
static struct watched *populated(uint64_t size, uint64_t room)
{
	static const unsigned certain[] = { 9000, 9000, 100 };
	static const unsigned sizes[] = { 16, 20, 32, 48, 100, 4096, 9000, 5000, 20000, 13000, 4096, 30 };
	struct watched *w = watched_open(size, room);
	uint64_t offset;
	unsigned i;

	for (i = 0; i < CERTAIN; i++)
		if (watched_alloc(w, false, certain[i], 0, &offset) != 0)
			wrong(w, "no room for the first objects");
	for (i = 0; i < 60; i++)
		(void)watched_alloc(w, false, sizes[i % 12], 0, &offset);
	w->heap.size = room;
	watch(w);
	if (lh__heap_grow(&w->heap) != 0)
		wrong(w, "it does not grow");
	for (i = 0; i < 40; i++)
		(void)watched_alloc(w, false, sizes[i % 12], 0, &offset);
	for (i = 0; i < 40; i++)
		(void)watched_free(w, false, CERTAIN + (unsigned)below(w->objects - CERTAIN));
	/* Chance may have freed all of a kind. */
	for (i = 0; i < 12; i++)
		(void)watched_alloc(w, false, sizes[i], 0, &offset);
	/* Nor may it have left no free page. */
	if (watched_free(w, false, SPARE) != 0)
		wrong(w, "the spare object cannot be freed");
	watch(w);
	if (lh__heap_set_root(&w->heap, w->object[3].offset, w->object[3].size) != 0)
		wrong(w, "no root");
	watched_check(w);
	w->heap.touch = NULL;
	memcpy(good, w->heap.base, w->heap.size);
	return w;
}

static bool slab_has_bitmap(const struct heap_edit *edit, uint64_t page, uint64_t *size)
{
	const struct heap_slab *slab = lh__heap_slab_at(edit, page);

	*size = slab && page % HEAP_SLAB_PAGES == 0 ? lh__heap_classes[slab->class].first : 0;
	return *size > 0;
}

/* Marks the lines of what the heap keeps; returns how many there are. */
static unsigned find_kept(const struct lh_heap *heap)
{
	struct heap_edit edit;
	uint64_t page, at, size;
	unsigned i, count = 0;

	memset(kept, 0, sizeof kept);
	if (lh__heap_begin(&edit, heap) != 0)
		return 0;
	memset(kept, 1, LH_PAGE_LINES);
	for (i = 0; i < HEAP_SEE(&edit, areas); i++) {
		const struct heap_extent area = lh__heap_area(&edit, i);

		for (page = area.table / LH_PAGE_SIZE; page < area.first && page < heap->size / LH_PAGE_SIZE;
		     page++)
			memset(kept + page * LH_PAGE_LINES, 1, LH_PAGE_LINES);
	}
	for (page = 0; page < heap->size / LH_PAGE_SIZE; page++)
		if (slab_has_bitmap(&edit, page, &size))
			for (at = 0; at < size; at += LH_LINE_SIZE)
				kept[page * LH_PAGE_LINES + at / LH_LINE_SIZE] = 1;
	for (at = 0; at < heap->size / LH_LINE_SIZE; at++)
		count += kept[at];
	return count;
}

static int count_visit(void *context, uint64_t offset, uint64_t usable)
{
	return ++*(unsigned *)context > 100000;
}

/* Whatever the memory is, no call may go outside it. Returns whether one said that it is damaged. */
static bool use(const struct watched *w)
{
	const struct lh_heap *heap = &w->heap;
	uint64_t offset, size;
	unsigned i, visits = 0, bad = 0;

	for (i = 0; i < 6; i++) {
		static const unsigned sizes[] = { 16, 30, 100, 5000, 4096, 30000 };

		bad += lh__heap_alloc(heap, sizes[i], 0, &offset) == -EBADMSG;
		if (w->objects > 0) {
			offset = w->object[below(w->objects)].offset;
			bad += lh__heap_resize(heap, offset, sizes[i]) == -EBADMSG;
			bad += lh__heap_free(heap, offset) == -EBADMSG;
		}
	}
	bad += lh__heap_each(heap, count_visit, &visits) == -EBADMSG;
	offset = lh__heap_root(heap, &size);
	bad += lh__heap_set_root(heap, 0, 0) == -EBADMSG;
	bad += lh__heap_grow(heap) == -EBADMSG;
	return bad > 0;
}

static void restore(const struct watched *w)
{
	memcpy(w->heap.base, good, w->heap.size);
}

static void flip(uint64_t room)
{
	struct watched *w = populated(ROOM / 2, room);
	const unsigned lines = find_kept(&w->heap);
	unsigned long bit, seen = 0, unseen = 0, refused = 0, let = 0;
	struct lh_heap_usage usage;
	struct lh_error error;

	for (bit = 0; bit < w->heap.size * 8; bit++) {
		unsigned char *byte = w->heap.base + bit / 8;
		const bool keeps = kept[bit / 8 / LH_LINE_SIZE];

		if (!keeps && bit % 8 != bit / 8 % 8)
			continue;
		if (!keeps && bit / 8 % 37 != 0)
			continue;
		*byte ^= (unsigned char)(1u << bit % 8);
		error.text[0] = 0;
		if (lh__heap_check(&w->heap, &usage, &error) == 0) {
			if (keeps && unseen++ < 10)
				printf("# bit %lu of offset 0x%lx is not seen\n", bit % 8, bit / 8);
			let += !keeps;
		} else {
			seen += keeps && error.code == -EBADMSG && strstr(error.text, "offset 0x") != NULL;
			refused += !keeps;
		}
		if (keeps && bit % 4 == 0) {
			(void)use(w);
			restore(w);
		} else {
			*byte ^= (unsigned char)(1u << bit % 8);
		}
	}
	ok(lines > 128 && seen == lines * 512UL && unseen == 0,
	   "each of %lu bits of what the heap keeps is seen when it flips", lines * 512UL);
	ok(let > 1000 && refused == 0, "and what it does not keep may hold anything: %lu places", let);
	is(lh__heap_check(&w->heap, &usage, &error), 0, "the heap itself is sound");
	is(watched_close(w), 0, "nothing else was wrong");
}

/* Fields become other likely values, several at once. Nothing crashes and nothing hangs. */
static void nonsense(unsigned times)
{
	struct watched *w = populated(ROOM / 2, ROOM);
	static const uint64_t likely[] = { 0, 1, 2, 4, 47, 48, UINT32_MAX, UINT64_MAX, 0x8000000000000000 };
	uint64_t line;
	struct lh_heap_usage usage;
	unsigned passed = 0, disagree = 0;
	bool sound;

	(void)find_kept(&w->heap);
	while (times-- > 0) {
		unsigned changes = 1 + (unsigned)below(4);

		while (changes-- > 0) {
			do
				line = below(w->heap.size / LH_LINE_SIZE);
			while (!kept[line]);
			/* Half of them where something is said. */
			if (below(2) && line < LH_PAGE_LINES)
				line = below(4) ? below(14) : 16;
			if (below(2)) {
				const uint32_t value =
					below(2) ? (uint32_t)below(64) : (uint32_t)likely[below(9)];

				memcpy(w->heap.base + line * 64 + 4 * below(16), &value, 4);
			} else if (below(3)) {
				memcpy(w->heap.base + line * 64 + 8 * below(8), &likely[below(9)], 8);
			} else {
				memcpy(w->heap.base + line * 64, good + below(w->heap.size / 64) * 64, 64);
			}
		}
		sound = lh__heap_check(&w->heap, &usage, NULL) == 0;
		passed += sound;
		disagree += use(w) && sound;
		restore(w);
	}
	printf("# of heaps with nonsense in their fields %u were found sound\n", passed);
	is(disagree, 0, "where the checker finds nothing no call finds anything");
	is(watched_close(w), 0, "nothing else was wrong");
}

/* ---- faults of several fields, planted one by one ---- */

static struct watched *planted;

static bool found(const char *what)
{
	struct lh_heap_usage usage;
	struct lh_error error = { 0 };
	const bool is_found = lh__heap_check(&planted->heap, &usage, &error) == -EBADMSG;

	ok(is_found, "found: %s", what);
	printf("#   %s\n", error.text);
	restore(planted);
	return is_found;
}

/* The first page from `page` on with which such a thing begins. */
static uint64_t next_of(const struct heap_edit *edit, uint64_t page, uint32_t kind)
{
	for (; page < ROOM / LH_PAGE_SIZE; page++) {
		const uint64_t at = lh__heap_descriptor(edit, page);
		const struct heap_run *run = at ? lh__heap_see(edit, at) : NULL;

		/* Of a slab the second word is the class; from class 3 on the line has room to spare. */
		if (run && run->kind == kind &&
		    (kind == HEAP_SLAB ? page % 4 == 0 && (run->pages & 0xffff) > 2 : run->pages > 1))
			return at;
	}
	return 0;
}

static void plant_in_slab(struct heap_header *header, struct heap_slab *slab)
{
	memset(slab->bits, 0, sizeof slab->bits);
	header->list[slab->class] = (struct heap_list){ 0, 0 };
	(void)found("a slab that its class does not know");
	slab->class = slab->class == 5 ? 6 : 5;
	(void)found("a slab of another class");
	slab->bits[0] |= 1;
	slab->bits[0] &= HEAP_WORD_BITS;
	(void)found("a count of slots that is too small");
	slab->bits[HEAP_LINE_WORDS - 1] |= UINT64_C(1) << 55;
	slab->bits[HEAP_LINE_WORDS - 1] += HEAP_WORD_ONE;
	(void)found("a slot beyond the last");
	memset(slab, 0, sizeof *slab);
	(void)found("pages that nothing describes");
}

static void plant_in_run(struct heap_run *run)
{
	run->pages--;
	(void)found("a lost page");
	run[1] = *run;
	(void)found("an object inside another");
	run->pages += 30;
	(void)found("an object beyond the area");
	run->kind = HEAP_FIRST;
	(void)found("a free run in no bin");
}

static void plant_in_bins(struct heap_header *header)
{
	const unsigned word = header->bins[0] ? 0 : 1;
	const unsigned bin = word * 64 + (unsigned)__builtin_ctzll(header->bins[word]);

	header->bin[bin] = 0;
	header->bins[word] &= header->bins[word] - 1;
	(void)found("a free run that is in no bin");
}

static void plant(void)
{
	struct heap_header *header;
	struct heap_edit edit;
	uint64_t slab, large;

	planted = populated(ROOM / 2, ROOM);
	header = (void *)planted->heap.base;
	if (lh__heap_begin(&edit, &planted->heap) != 0)
		return;
	slab = next_of(&edit, 0, HEAP_SLAB);
	large = next_of(&edit, 0, HEAP_LARGE);
	if (!ok(slab > 0 && large > 0, "there are a slab and a large object"))
		return;
	plant_in_slab(header, (void *)(planted->heap.base + slab));
	plant_in_run((void *)(planted->heap.base + large));
	plant_in_bins(header);
	header->root = planted->object[LARGE].offset + 16;
	header->root_check = header->root ^ header->root_size ^ HEAP_MAGIC;
	(void)found("a root that is no object");
	header->root_size = 1 << 20;
	header->root_check = header->root ^ header->root_size ^ HEAP_MAGIC;
	(void)found("a root that is too large");
	planted->heap.size = LH_PAGE_SIZE;
	(void)found("memory that is cut off");
	planted->heap.size = ROOM;
	is(watched_close(planted), 0, "nothing else was wrong");
}

/* Memory of any size, of any content. */
static void cut_off(void)
{
	struct watched *w = populated(ROOM / 2, ROOM);
	struct lh_heap_usage usage;
	struct lh_heap heap = w->heap;
	unsigned bad = 0, i;

	for (heap.size = 0; heap.size < ROOM; heap.size += LH_PAGE_SIZE) {
		unsigned char *end = guarded_pages(heap.size / LH_PAGE_SIZE);

		heap.base = end;
		memcpy(heap.base, good, heap.size);
		if (heap.size)
			bad += lh__heap_check(&heap, &usage, NULL) != -EBADMSG;
		munmap(end - LH_PAGE_SIZE, heap.size + (uint64_t)2 * LH_PAGE_SIZE);
	}
	is(bad, 0, "less memory than the heap knows is found");
	for (i = 0; i < 50; i++) {
		random_bytes(&seed, w->heap.base, w->heap.size);
		bad += lh__heap_check(&w->heap, &usage, NULL) != -EBADMSG;
	}
	memset(w->heap.base, 0, w->heap.size);
	bad += lh__heap_check(&w->heap, &usage, NULL) != -EBADMSG;
	is(bad, 0, "random bytes and zeroes are no heap");
	is(watched_close(w), 0, "nothing else was wrong");
}

int main(void)
{
	seed = random_seed();
	printf("# LH_TEST_SEED=%llu\n", (unsigned long long)seed);
	flip(ROOM);
	flip(ROOM + 290 * LH_PAGE_SIZE);
	nonsense(20000);
	plant();
	cut_off();
	return done();
}
