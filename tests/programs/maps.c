/*
 * maps.c - random operations on mappings, with a model of what every page must hold.
 *
 * The memory is a set of blocks, each a mapping of its own (the last one is the break). The model keeps
 * eight bytes a page: the generation of its content (0: zeroes), how many single words were patched since,
 * the protection, and whether MADV_FREE has made "old or zero" both right. A page's content is computed from
 * these, so the model of 256 MiB is half a MiB and needs no second copy. Whole verification is done every
 * --verify operations and at the end, in a forked child too.
 *
 *     maps --seed 1 --ops 4000 --size 128
 *
 * mremap is not used on a block whose parts once differed in protection: one call may not span two mappings,
 * and whether the kernel has joined them again is not for this program to know.
 */
#include "program.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define BLOCKS 24
#define BLOCK_PAGES 4096u
#define BREAK (BLOCKS - 1)

enum { NONE, READ, WRITE, HOLE };

struct page {
	uint32_t generation;
	uint16_t patches;
	uint8_t access;
	uint8_t maybe_freed;
};

struct block {
	char *at; /* NULL: no such block */
	uint32_t pages;
	bool split; /* parts of it may be mappings of their own */
};

static struct block blocks[BLOCKS];
static struct page model[BLOCKS][BLOCK_PAGES];
static uint64_t state, total_pages, limit_pages = 128 * 256, generations;
static uint64_t moves, resizes;
static bool plant;

static uint64_t pick(uint64_t n)
{
	return next_random(&state) % n;
}

/* Lines that are all zero, and whole pages of which only some lines are set, occur on purpose. */
static uint64_t base_word(uint32_t generation, unsigned i)
{
	uint64_t lines = mix(generation * UINT64_C(3)) | mix(generation * UINT64_C(3) + 1);

	if (generation == 0 || (generation % 4 == 0 && !(lines >> i / 8 & 1)))
		return 0;
	return mix((uint64_t)generation << 16 | i);
}

static void expected(const struct page *p, uint64_t *words)
{
	for (unsigned i = 0; i < WORDS; i++)
		words[i] = base_word(p->generation, i);
	for (unsigned k = 1; k <= p->patches; k++)
		words[mix((uint64_t)p->generation << 20 | k) % WORDS] =
			mix((uint64_t)k << 32 | p->generation);
}

static uint64_t *page_at(unsigned b, uint32_t i)
{
	return (uint64_t *)(blocks[b].at + (size_t)i * PAGE);
}

static bool all_zero(const uint64_t *words)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (words[i])
			return false;
	return true;
}

/* Returns the page's share of the digest, which does not depend on what MADV_FREE happened to drop. */
static uint64_t verify_page(unsigned b, uint32_t i, const char *when)
{
	struct page *p = &model[b][i];
	uint64_t words[WORDS], *got = page_at(b, i);

	if (p->access == NONE || p->access == HOLE)
		return p->access;
	if (p->maybe_freed && all_zero(got))
		return 1;
	expected(p, words);
	for (unsigned w = 0; w < WORDS; w++)
		if (got[w] != words[w])
			wrong("%s: block %u page %u word %u: 0x%016lx instead of 0x%016lx (generation %u, "
			      "patches %u)",
			      when, b, i, w, got[w], words[w], p->generation, p->patches);
	return p->maybe_freed ? 1 : mix(words[0] ^ words[511] ^ p->generation ^ (uint64_t)i << 40);
}

static uint64_t verify_block(unsigned b, const char *when)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; blocks[b].at && i < blocks[b].pages; i++)
		sum += mix(verify_page(b, i, when) + b);
	return sum;
}

static uint64_t verify_everything(const char *when)
{
	uint64_t sum = 0;

	for (unsigned b = 0; b < BLOCKS; b++)
		sum += verify_block(b, when);
	return sum;
}

static void new_pages(unsigned b, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++)
		model[b][i] = (struct page){ .access = WRITE };
}

static void write_page(unsigned b, uint32_t i)
{
	struct page *p = &model[b][i];
	uint64_t *words = page_at(b, i);

	if (p->access != WRITE)
		return;
	*p = (struct page){ .access = WRITE, .generation = (uint32_t)++generations };
	for (unsigned w = 0; w < WORDS; w++)
		words[w] = base_word(p->generation, w);
}

static void patch_page(unsigned b, uint32_t i)
{
	struct page *p = &model[b][i];

	if (p->access != WRITE || p->maybe_freed || p->patches == UINT16_MAX)
		return;
	p->patches++;
	page_at(b, i)[mix((uint64_t)p->generation << 20 | p->patches) % WORDS] =
		mix((uint64_t)p->patches << 32 | p->generation);
}

/* A random block that exists, or one that does not; BLOCKS where there is none. */
static unsigned some_block(bool exists, bool with_break)
{
	unsigned first = (unsigned)pick(BLOCKS);

	for (unsigned n = 0; n < BLOCKS; n++) {
		unsigned b = (first + n) % BLOCKS;

		if ((blocks[b].at != NULL) == exists && (with_break || b != BREAK))
			return b;
	}
	return BLOCKS;
}

struct range {
	unsigned block;
	uint32_t from, to;
};

static bool some_range(struct range *r, uint32_t longest, bool with_break)
{
	uint32_t n;

	r->block = some_block(true, with_break);
	if (r->block == BLOCKS || blocks[r->block].pages == 0)
		return false;
	n = 1 + (uint32_t)pick(blocks[r->block].pages < longest ? blocks[r->block].pages : longest);
	n = n > blocks[r->block].pages ? blocks[r->block].pages : n;
	r->from = (uint32_t)pick(blocks[r->block].pages - n + 1);
	r->to = r->from + n;
	return true;
}

static bool has_hole(const struct range *r)
{
	for (uint32_t i = r->from; i < r->to; i++)
		if (model[r->block][i].access == HOLE)
			return true;
	return false;
}

static void *start_of(const struct range *r)
{
	return blocks[r->block].at + (size_t)r->from * PAGE;
}

static size_t bytes_of(const struct range *r)
{
	return (size_t)(r->to - r->from) * PAGE;
}

static void op_map(void)
{
	unsigned b = some_block(false, false);
	uint32_t n = 1 + (uint32_t)pick(pick(4) ? 600 : BLOCK_PAGES);

	if (b == BLOCKS || total_pages + n > limit_pages)
		return;
	blocks[b] = (struct block){ .at = anonymous((size_t)n * PAGE), .pages = n };
	total_pages += n;
	new_pages(b, 0, n);
}

/* Another block may stand in a hole by now: only what is still the block's own is unmapped. */
static void op_unmap_block(void)
{
	unsigned b = some_block(true, false);

	if (b == BLOCKS)
		return;
	for (uint32_t i = 0, n; i < blocks[b].pages; i += n) {
		for (n = 1; i + n < blocks[b].pages; n++)
			if ((model[b][i + n].access == HOLE) != (model[b][i].access == HOLE))
				break;
		if (model[b][i].access != HOLE && munmap(blocks[b].at + (size_t)i * PAGE, (size_t)n * PAGE))
			cannot("unmap a block");
	}
	total_pages -= blocks[b].pages;
	blocks[b].at = NULL;
}

static void op_write(void)
{
	struct range r;

	if (!some_range(&r, 800, true))
		return;
	for (uint32_t i = r.from; i < r.to; i++)
		write_page(r.block, i);
}

static void op_patch(void)
{
	struct range r;

	for (unsigned n = 0; n < 200; n++)
		if (some_range(&r, 1, true))
			patch_page(r.block, r.from);
}

static void op_unmap_range(void)
{
	struct range r;

	if (!some_range(&r, 200, false) || has_hole(&r))
		return;
	if (munmap(start_of(&r), bytes_of(&r)))
		cannot("unmap a range");
	for (uint32_t i = r.from; i < r.to; i++)
		model[r.block][i] = (struct page){ .access = HOLE };
	blocks[r.block].split = true;
}

static void op_map_over(void)
{
	struct range r;

	if (!some_range(&r, 400, false) || has_hole(&r))
		return;
	if (mmap(start_of(&r), bytes_of(&r), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
	         -1, 0) != start_of(&r))
		cannot("map over a range");
	new_pages(r.block, r.from, r.to);
	blocks[r.block].split = true;
}

static void op_dontneed(void)
{
	struct range r;

	if (!some_range(&r, 300, true) || has_hole(&r))
		return;
	if (madvise(start_of(&r), bytes_of(&r), MADV_DONTNEED))
		cannot("give a range back");
	for (uint32_t i = r.from; i < r.to; i++)
		model[r.block][i] = (struct page){ .access = model[r.block][i].access };
}

static void op_free(void)
{
	struct range r;

	if (!some_range(&r, 300, true) || has_hole(&r))
		return;
	if (madvise(start_of(&r), bytes_of(&r), MADV_FREE))
		cannot("free a range");
	for (uint32_t i = r.from; i < r.to; i++)
		model[r.block][i].maybe_freed = 1;
}

/* What may be written to may be read as well on this processor, whether the mapping says so or not. */
static void op_protect(void)
{
	static const int protections[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	unsigned access = (unsigned)pick(3);
	int protection = access == WRITE && pick(3) == 0 ? PROT_WRITE : protections[access];
	struct range r;

	if (!some_range(&r, 500, true) || has_hole(&r))
		return;
	if (mprotect(start_of(&r), bytes_of(&r), protection))
		cannot("protect a range");
	for (uint32_t i = r.from; i < r.to; i++)
		model[r.block][i].access = (uint8_t)access;
	blocks[r.block].split = true;
}

static void op_unprotect_block(void)
{
	struct range r = { some_block(true, true), 0, 0 };

	if (r.block == BLOCKS)
		return;
	r.to = blocks[r.block].pages;
	if (r.to == 0 || has_hole(&r))
		return;
	if (mprotect(start_of(&r), bytes_of(&r), PROT_READ | PROT_WRITE))
		cannot("unprotect a block");
	for (uint32_t i = 0; i < r.to; i++)
		model[r.block][i].access = WRITE;
}

/* Grows or shrinks, moving where it must. */
static void op_resize(void)
{
	struct range r = { some_block(true, false), 0, 0 };
	uint32_t n = 1 + (uint32_t)pick(BLOCK_PAGES), old;
	char *at;

	if (r.block == BLOCKS || blocks[r.block].split)
		return;
	r.to = old = blocks[r.block].pages;
	if (has_hole(&r) || total_pages + n > limit_pages + old)
		return;
	at = mremap(blocks[r.block].at, (size_t)old * PAGE, (size_t)n * PAGE, MREMAP_MAYMOVE);
	if (at == MAP_FAILED)
		cannot("resize %u pages to %u", old, n);
	resizes++;
	total_pages = total_pages - old + n;
	blocks[r.block] = (struct block){ .at = at, .pages = n };
	for (uint32_t i = old; i < n; i++) /* the new part inherits the protection of the last mapping */
		model[r.block][i] = (struct page){ .access = model[r.block][old - 1].access };
}

/* Moves onto the beginning of another block, which that destroys. */
static void op_move_over(void)
{
	struct range r = { some_block(true, false), 0, 0 };
	unsigned victim = some_block(true, false);
	struct range all_of_victim = { victim, 0, victim < BLOCKS ? blocks[victim].pages : 0 };
	uint32_t n, rest;
	char *at;

	if (r.block == BLOCKS || has_hole(&all_of_victim) || victim == r.block ||
	    blocks[victim].pages < blocks[r.block].pages)
		return;
	r.to = n = blocks[r.block].pages;
	rest = blocks[victim].pages - n;
	if (has_hole(&r) || blocks[r.block].split)
		return;
	at = mremap(blocks[r.block].at, (size_t)n * PAGE, (size_t)n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
	            blocks[victim].at);
	if (at != blocks[victim].at)
		cannot("move over a block");
	if (rest && munmap(at + (size_t)n * PAGE, (size_t)rest * PAGE))
		cannot("unmap the rest");
	total_pages -= blocks[victim].pages;
	blocks[victim].at = NULL;
	blocks[r.block].at = at;
	moves++;
}

/* The content moves to a new place and the old one stays, reading zero. */
static void op_move_and_stay(void)
{
	struct range r = { some_block(true, false), 0, 0 };
	unsigned other = some_block(false, false);
	char *at;

	if (r.block == BLOCKS || other == BLOCKS || blocks[r.block].split)
		return;
	r.to = blocks[r.block].pages;
	if (has_hole(&r) || total_pages + r.to > limit_pages)
		return;
	at = mremap(blocks[r.block].at, bytes_of(&r), bytes_of(&r), MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
	if (at == MAP_FAILED)
		cannot("move %u pages and keep the mapping", r.to);
	moves++;
	blocks[other] = (struct block){ .at = at, .pages = r.to };
	memcpy(model[other], model[r.block], r.to * sizeof(struct page));
	total_pages += r.to;
	for (uint32_t i = 0; i < r.to; i++)
		model[r.block][i] = (struct page){ .access = model[r.block][i].access };
}

static void op_break(void)
{
	struct block *b = &blocks[BREAK];
	uint32_t n = (uint32_t)pick(BLOCK_PAGES / 2), old = b->pages;

	if (n > old && total_pages + n - old > limit_pages)
		return;
	if (brk(b->at + (size_t)n * PAGE))
		cannot("set the break");
	new_pages(BREAK, old < n ? old : n, n);
	total_pages = total_pages - old + n;
	b->pages = n;
}

static void op_advise(void)
{
	static const int advice[] = { MADV_WILLNEED,   MADV_COLD,          MADV_PAGEOUT,       MADV_HUGEPAGE,
		                      MADV_NOHUGEPAGE, MADV_POPULATE_READ, MADV_POPULATE_WRITE };
	struct range r;

	if (!some_range(&r, 64, true) || has_hole(&r))
		return;
	for (uint32_t i = r.from; i < r.to; i++)
		if (model[r.block][i].access != WRITE)
			return;
	blocks[r.block].split = true;
	if (madvise(start_of(&r), bytes_of(&r), advice[pick(7)]) && errno != EINVAL)
		cannot("advise");
}

static void op_lock(void)
{
	struct range r;

	if (!some_range(&r, 8, false))
		return;
	for (uint32_t i = r.from; i < r.to; i++)
		if (model[r.block][i].access != WRITE)
			return;
	blocks[r.block].split = true;
	if (mlock(start_of(&r), bytes_of(&r)) && errno != ENOMEM && errno != EPERM)
		cannot("lock");
	for (uint32_t i = r.from; i < r.to; i++)
		verify_page(r.block, i, "while locked");
	munlock(start_of(&r), bytes_of(&r));
}

static void op_verify_block(void)
{
	unsigned b = some_block(true, true);

	if (b != BLOCKS)
		verify_block(b, "one block");
}

/* The child checks all, and changes what it can, while the parent goes on with the next operations. */
static void op_fork(void)
{
	static pid_t child;
	int status;

	if (child > 0 && (waitpid(child, &status, 0) != child || status))
		wrong("a child's wait status 0x%x", (unsigned)status);
	child = fork();
	if (child < 0)
		cannot("fork");
	if (child > 0)
		return;
	verify_everything("child");
	op_write();
	op_dontneed();
	op_unmap_block();
	op_map();
	op_write();
	verify_everything("child after its own changes");
	_exit(0);
}

static const struct operation {
	void (*run)(void);
	unsigned weight;
} operations[] = {
	{ op_map, 8 },           { op_unmap_block, 6 },
	{ op_write, 20 },        { op_patch, 16 },
	{ op_unmap_range, 4 },   { op_map_over, 4 },
	{ op_dontneed, 6 },      { op_free, 4 },
	{ op_protect, 6 },       { op_unprotect_block, 8 },
	{ op_resize, 16 },       { op_move_over, 12 },
	{ op_move_and_stay, 8 }, { op_break, 3 },
	{ op_advise, 4 },        { op_lock, 2 },
	{ op_verify_block, 6 },  { op_fork, 1 },
};
#define OPERATIONS (sizeof operations / sizeof *operations)

static void one_operation(void)
{
	unsigned sum = 0;
	uint64_t at;

	for (size_t i = 0; i < OPERATIONS; i++)
		sum += operations[i].weight;
	at = pick(sum);
	for (size_t i = 0; i < OPERATIONS; i++) {
		if (at < operations[i].weight) {
			operations[i].run();
			return;
		}
		at -= operations[i].weight;
	}
}

/* Makes the model wrong by one word of memory, which the next verification must find. */
static void plant_a_fault(void)
{
	for (unsigned b = 0; plant && b < BLOCKS; b++)
		for (uint32_t i = 0; blocks[b].at && i < blocks[b].pages; i++)
			if (model[b][i].access == WRITE && !model[b][i].maybe_freed) {
				page_at(b, i)[300] ^= 1;
				plant = false;
				return;
			}
}

int main(int argc, char **argv)
{
	static char buffer[4096];
	uint64_t seed = 1, ops = 2000, verify_every = 400;

	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--plant"))
			plant = true;
		else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
			seed = number(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--ops"))
			ops = number(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--size"))
			limit_pages = number(argv[++i]) * 256;
		else if (i + 1 < argc && !strcmp(argv[i], "--verify"))
			verify_every = number(argv[++i]);
	setvbuf(stdout, buffer, _IOFBF, sizeof buffer); /* no malloc from here on: the break is ours */
	state = mix(seed);
	blocks[BREAK].at = (char *)(((uintptr_t)sbrk(0) + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
	for (uint64_t n = 1; n <= ops; n++) {
		one_operation();
		if (n % verify_every == 0)
			printf("%lu %016lx\n", n, verify_everything("all"));
	}
	plant_a_fault();
	printf("maps %016lx, %lu resized, %lu moved\n", verify_everything("end"), resizes, moves);
	return 0;
}
