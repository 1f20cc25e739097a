/*
 * heap_format.h - how a heap lies in its memory, and what the files of the heap share.
 *
 * docs/pool-format.md draws it byte by byte. In short: page 0 is the header. Pages are described in
 * *areas*: an area begins with a table of descriptors, one of 16 bytes for each page that it covers, itself
 * included; it covers more than there is yet, so that the memory can grow under it. The pages behind the
 * table are cut into *runs*, without a gap: free runs, large objects, and slabs, which are always four
 * pages that begin at a multiple of four. The four descriptors of such pages are one line, and that line is
 * all that a slab has to say: its class, its place in a list, and a bitmap of its slots.
 *
 * Why the bitmap is there and not in the slab: slots of a power of two are then aligned to it, no slot is
 * lost to a header, a program that writes beyond its object hits no bitmap, and the lines that allocation
 * changes lie side by side in few pages. Slots of 16 and of 32 bytes are too many for one line: theirs
 * stand at the beginning of the slab.
 *
 * A bitmap's word holds 56 slots and, above them, how many of those are taken. One store changes both, and
 * a bit that flips is found.
 *
 * Nothing describes a page that never was in use, and a descriptor that says nothing is zero: memory that is
 * zero is a table already.
 */
#ifndef LH_POOL_HEAP_FORMAT_H
#define LH_POOL_HEAP_FORMAT_H

#include <errno.h>
#include <string.h>

#include "service/pool/heap.h"
#include "sys/sys.h"

#define HEAP_MAGIC UINT64_C(0x50414548454d4f48) /* "HOMEHEAP" */
#define HEAP_VERSION 1u
#define HEAP_AREAS 256u
#define HEAP_BINS 128u
#define HEAP_LISTS 32u
#define HEAP_CLASSES 26u
#define HEAP_SLAB_PAGES 4u
#define HEAP_SLAB_SIZE (HEAP_SLAB_PAGES * LH_PAGE_SIZE)
#define HEAP_SMALL_MAX 5440u                 /* the largest slot */
#define HEAP_TABLE_PAGES (LH_PAGE_SIZE / 16) /* described by one page of a table */

struct heap_list { /* of slabs with free slots; page numbers, 0: none */
	uint32_t first, last;
};

struct heap_area {
	uint32_t start; /* the first page that it covers */
	uint32_t table; /* pages of descriptors */
};

struct heap_header {
	uint64_t magic;
	uint32_t version;
	uint32_t areas;
	uint64_t pages;   /* that the heap has been told of */
	uint64_t bins[2]; /* which of bin[] are not 0 */
	uint64_t root, root_size;
	uint64_t root_check; /* root ^ root_size ^ HEAP_MAGIC */
	struct heap_list list[HEAP_LISTS];
	uint32_t bin[HEAP_BINS]; /* free runs of about one length: the last page of the first */
	uint64_t covered;        /* where the last area ends, in pages */
	uint64_t zero[23];
	struct heap_area area[HEAP_AREAS]; /* ascending, each begins where the one before it ends */
};

/* What a descriptor begins with: little-endian "SLAB", "LARG", "FREE", "LAST". */
enum heap_kind {
	HEAP_SLAB = 0x42414c53,
	HEAP_LARGE = 0x4752414c, /* the first page of a large object */
	HEAP_FIRST = 0x45455246, /* the first page of a free run of more than one */
	HEAP_LAST = 0x5453414c,  /* the last page of a free run, or its only one */
};

struct heap_run {
	uint32_t kind;
	uint32_t pages;
	uint32_t prev, next; /* of HEAP_LAST: last pages of the neighbours in the bin, 0: none */
};

#define HEAP_LINE_WORDS 6u
struct heap_slab {
	uint32_t kind;
	uint16_t class;
	uint16_t listed;     /* 1: it is in its class's list */
	uint32_t prev, next; /* first pages of the neighbours in the class's list, 0: none */
	uint64_t bits[HEAP_LINE_WORDS];
};

#define HEAP_WORD_SLOTS 56u
#define HEAP_WORD_BITS ((UINT64_C(1) << HEAP_WORD_SLOTS) - 1)
#define HEAP_WORD_ONE (UINT64_C(1) << HEAP_WORD_SLOTS) /* one more in the count */

struct heap_class {
	uint16_t size;  /* of a slot */
	uint16_t first; /* where the first slot begins in the slab: behind the bitmap, if that is there */
	uint16_t slots;
	uint16_t words; /* of the bitmap */
};
extern const struct heap_class lh__heap_classes[HEAP_CLASSES];

/* ---- changing: heap_edit.c ---- */

static inline unsigned char *lh__heap_store_at(const struct lh_heap *heap, uint64_t offset)
{
	return (heap->stores ? heap->stores : heap->base) + offset;
}

/*
 * A change of several lines. They are changed in copies; the commit touches all of them and then writes
 * them, so that a call which fails half way, because of a touch or of a field that cannot be, has
 * changed nothing. What is read meanwhile is read through `see`, which knows the copies.
 */
#define HEAP_EDIT_LINES 192u /* taking one empty slab from each class changes fewer */
struct heap_edit {
	const struct lh_heap *heap;
	unsigned count;
	int error; /* the first; all that comes after it goes nowhere */
	uint64_t at[HEAP_EDIT_LINES];
	unsigned char line[HEAP_EDIT_LINES + 1][LH_LINE_SIZE] __attribute__((aligned(64)));
};

/* Returns 0 if the header can be worked with, else -EBADMSG. */
int lh__heap_begin(struct heap_edit *edit, const struct lh_heap *heap) LH_MUST_CHECK;
#define HEAP_NOWHERE (~(uint64_t)(LH_LINE_SIZE - 1)) /* a line that is in no memory: an error */
/* What is at offset, to be changed: no further than to the line's end. Never NULL. */
void *lh__heap_change(struct heap_edit *edit, uint64_t offset);
int lh__heap_commit(struct heap_edit *edit) LH_MUST_CHECK;

/* What is at offset, which is inside the memory. */
static inline const void *lh__heap_see(const struct heap_edit *edit, uint64_t offset)
{
	unsigned i;

	for (i = 0; i < edit->count; i++)
		if (edit->at[i] == (offset & ~(uint64_t)(LH_LINE_SIZE - 1)))
			return edit->line[i] + offset % LH_LINE_SIZE;
	return edit->heap->base + offset;
}

static inline int lh__heap_broken(struct heap_edit *edit)
{
	if (edit->error == 0)
		edit->error = -EBADMSG;
	return edit->error;
}

#define HEAP_SEE(edit, field)                                                                                \
	(*(const __typeof__(((struct heap_header *)0)->field) *)                                             \
	         lh__heap_see(edit, __builtin_offsetof(struct heap_header, field)))
#define HEAP_CHANGE(edit, field)                                                                             \
	(*(__typeof__(((struct heap_header *)0)->field) *)                                                   \
	         lh__heap_change(edit, __builtin_offsetof(struct heap_header, field)))

/* ---- pages: heap_pages.c ---- */

struct heap_extent {
	uint64_t table; /* where the area's table begins */
	uint64_t first; /* the first page behind it */
	uint64_t end;   /* the first page that the area does not cover */
};
struct heap_extent lh__heap_area(const struct heap_edit *edit, unsigned index);
/* Where the descriptor of a page is: 0 for a page that has none. */
uint64_t lh__heap_descriptor(const struct heap_edit *edit, uint64_t page);
/* The slab that page is a part of, or NULL. */
const struct heap_slab *lh__heap_slab_at(const struct heap_edit *edit, uint64_t page);
/* The descriptor of a page that is not a slab's, or NULL. */
const struct heap_run *lh__heap_run_at(const struct heap_edit *edit, uint64_t page);
/* Whether [page, page + count) has its descriptors in one table. */
bool lh__heap_together(const struct heap_edit *edit, uint64_t page, uint64_t count);
/* The length of the free run that ends with page; 0 where that is not the end of a sound one. */
uint32_t lh__heap_free_run(const struct heap_edit *edit, uint64_t page);
unsigned lh__heap_bin(uint32_t pages);

/* count pages, the first a multiple of align: the first page, or 0. */
uint32_t lh__heap_take(struct heap_edit *edit, uint32_t count, uint32_t align);
/* The count pages from page on, if they are free. */
bool lh__heap_take_at(struct heap_edit *edit, uint32_t page, uint32_t count);
/* Makes pages free whose descriptors are zero. */
void lh__heap_give(struct heap_edit *edit, uint32_t page, uint32_t count);
/* A descriptor that is not part of a list. kind 0: says nothing any more. */
void lh__heap_describe(struct heap_edit *edit, uint64_t page, uint32_t kind, uint32_t pages);

/* ---- slabs: heap_slab.c ---- */

/* The smallest class for size and alignment; HEAP_CLASSES where a run of pages has to serve. */
unsigned lh__heap_class(uint64_t size, uint64_t alignment);
/* Where the bitmap of the slab at page is. */
uint64_t lh__heap_bits(const struct heap_edit *edit, uint64_t page, unsigned class);
/* The slots of a class that a word of its bitmaps stands for. */
uint64_t lh__heap_word_mask(unsigned class, unsigned word);
/* The slot that begins at offset, in the slab at its page: where its word is and its bit; 0: none. */
uint64_t lh__heap_slot(const struct heap_edit *edit, uint64_t offset, unsigned class, uint64_t *bit);
/* -ENOMEM: no slab of the class has a free slot. Commits. */
int lh__heap_slab_alloc(struct heap_edit *edit, unsigned class, uint64_t *offset) LH_MUST_CHECK;
int lh__heap_slab_free(struct heap_edit *edit, uint64_t offset) LH_MUST_CHECK;
/* A new slab with nothing in it. */
bool lh__heap_slab_new(struct heap_edit *edit, unsigned class);
/* Puts slabs into their lists that have few free slots: some of the classes from low to below high. */
bool lh__heap_rescue(struct heap_edit *edit, unsigned low, unsigned high, uint64_t alignment);
/* How many slots of a slab are taken. */
unsigned lh__heap_taken(const struct heap_edit *edit, uint64_t page, unsigned class);
/* So many free slots bring a slab into its list. */
unsigned lh__heap_threshold(unsigned class);
/* Makes the pages free of those empty slabs that were kept. */
void lh__heap_reclaim(struct heap_edit *edit);

#endif
