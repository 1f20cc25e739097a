/*
 * mapping.c - calls that map and unmap code.
 *
 * What goes away leaves the table before the call, so that no trap of what is mapped there next is taken for
 * one of what was there; it is put back where the call fails. What comes is asked about after it. A text that
 * the program makes writable is brought back first: it means to change it.
 */
#include "port/code/inside/internal.h"

#include <sys/mman.h>

#define PAGE 4096ull

struct range {
	uintptr_t start, end;
};

static struct range range(greg_t start, greg_t size)
{
	uintptr_t end = ((uintptr_t)start + (uintptr_t)size + PAGE - 1) & ~(PAGE - 1);

	return (struct range){ (uintptr_t)start, end };
}

static bool touches(struct range range)
{
	return range.end > range.start && lh__inside_overlap(range.start, range.end, NULL);
}

bool lh__inside_map_plain(int nr, const greg_t *registers)
{
	struct range first = range(registers[REG_RDI], registers[REG_RSI]);

	switch (nr) {
	case SYS_mmap:
		return !(registers[REG_RDX] & PROT_EXEC) &&
		       !(registers[REG_R10] & MAP_FIXED && touches(first));
	case SYS_mremap:
		return !touches(first) && !(registers[REG_R10] & MREMAP_FIXED &&
		                            touches(range(registers[REG_R8], registers[REG_RDX])));
	case SYS_munmap: return !touches(first);
	default: return !(registers[REG_RDX] & PROT_EXEC) && !touches(first);
	}
}

/* ---- what goes ---- */

#define MOST 8u

struct gone {
	struct lh_inside_text *text[MOST];
	unsigned count;
};

/*
 * Takes the texts of a range out of the table. What stays of one that goes in part is brought back; all of
 * it, if it is moved and not unmapped.
 */
static void let_go(struct range range, bool moved, struct gone *gone)
{
	uint64_t mask = lh__inside_lock();
	struct lh_inside_text *text = NULL;

	while ((text = lh__inside_overlap(range.start, range.end, text)) != NULL) {
		if (moved) {
			lh__inside_bring_back(text, text->text.start, text->text.end);
		} else {
			lh__inside_bring_back(text, text->text.start, range.start);
			lh__inside_bring_back(text, range.end, text->text.end);
		}
		lh__inside_withdraw(text);
		if (gone->count < MOST)
			gone->text[gone->count++] = text;
	}
	lh__inside_unlock(mask);
}

/* The call has failed: what was taken out is there still. */
static void put_back(const struct gone *gone)
{
	uint64_t mask = lh__inside_lock();
	unsigned i;

	for (i = 0; i < gone->count; i++)
		lh__inside_publish(gone->text[i]);
	lh__inside_unlock(mask);
}

static void forget(const struct gone *gone)
{
	uint64_t mask = lh__inside_lock();
	unsigned i;

	for (i = 0; i < gone->count; i++)
		lh__inside_release_text(gone->text[i]);
	lh__inside_unlock(mask);
}

/* ---- the calls ---- */

static long make(int nr, const greg_t *registers)
{
	return LH_CALL6(nr, registers[REG_RDI], registers[REG_RSI], registers[REG_RDX], registers[REG_R10],
	                registers[REG_R8], registers[REG_R9]);
}

static long unmapping(int nr, const greg_t *registers)
{
	struct gone gone = { .count = 0 };
	long result;

	if (nr == SYS_mremap) {
		let_go(range(registers[REG_RDI], registers[REG_RSI]), true, &gone);
		if (registers[REG_R10] & MREMAP_FIXED)
			let_go(range(registers[REG_R8], registers[REG_RDX]), false, &gone);
	} else {
		let_go(range(registers[REG_RDI], registers[REG_RSI]), false, &gone);
	}
	result = make(nr, registers);
	if (LH_FAILED(result))
		put_back(&gone);
	else
		forget(&gone);
	return result;
}

static void anonymous(uint64_t size)
{
	__atomic_fetch_add(&lh__inside.control->anonymous, size, __ATOMIC_RELAXED);
}

static void link_path(long descriptor, char path[LH_PATH_SIZE])
{
	char name[40];
	long length;

	lh__format(name, sizeof name, "/proc/self/fd/%d", (int)descriptor);
	length = LH_CALL3(SYS_readlink, name, path, LH_PATH_SIZE);
	path[length > 0 && length < LH_PATH_SIZE ? length : 0] = 0;
}

static long mapping(const greg_t *registers)
{
	uint64_t size = (uint64_t)registers[REG_RSI];
	struct gone gone = { .count = 0 };
	char path[LH_PATH_SIZE];
	long result;

	if (registers[REG_R10] & MAP_FIXED)
		let_go(range(registers[REG_RDI], registers[REG_RSI]), false, &gone);
	result = make(SYS_mmap, registers);
	if (LH_FAILED(result)) {
		put_back(&gone);
		return result;
	}
	forget(&gone);
	if (!(registers[REG_RDX] & PROT_EXEC))
		return result;
	if (registers[REG_R10] & MAP_ANONYMOUS) {
		anonymous(size);
		return result;
	}
	link_path(registers[REG_R8], path);
	lh__inside_module((uint64_t)result, (size + PAGE - 1) & ~(PAGE - 1), (uint64_t)registers[REG_R9],
	                  path, true);
	return result;
}

/* A text stays writable beneath what the program asks for, or it is no longer watched. */
static void keep_writable(struct range range)
{
	uint64_t mask = lh__inside_lock();
	struct lh_inside_text *text = NULL;

	while ((text = lh__inside_overlap(range.start, range.end, text)) != NULL) {
		uintptr_t start = text->text.start > range.start ? text->text.start : range.start;
		uintptr_t end = text->text.end < range.end ? text->text.end : range.end;

		if (text->writable &&
		    LH_FAILED(LH_CALL3(SYS_mprotect, start, end - start, PROT_READ | PROT_WRITE | PROT_EXEC)))
			text->writable = false;
	}
	lh__inside_unlock(mask);
}

static void before_protecting(struct range range, greg_t rights)
{
	uint64_t mask = lh__inside_lock();
	struct lh_inside_text *text = NULL;

	if (rights & PROT_WRITE || !(rights & PROT_EXEC))
		while ((text = lh__inside_overlap(range.start, range.end, text)) != NULL)
			lh__inside_bring_back(text, range.start, range.end);
	lh__inside_unlock(mask);
}

static long protecting(int nr, const greg_t *registers)
{
	struct range range = { (uintptr_t)registers[REG_RDI],
		               ((uintptr_t)registers[REG_RDI] + (uintptr_t)registers[REG_RSI] + PAGE - 1) &
		                       ~(PAGE - 1) };
	bool known = touches(range);
	long result;

	if (known)
		before_protecting(range, registers[REG_RDX]);
	result = make(nr, registers);
	if (LH_FAILED(result) || !(registers[REG_RDX] & PROT_EXEC))
		return result;
	if (known)
		keep_writable(range);
	else if (lh__inside_is_anonymous(range.start))
		anonymous(range.end - range.start);
	else
		lh__inside_maps(range.start, range.end, false);
	return result;
}

long lh__inside_map_call(int nr, const greg_t *registers)
{
	switch (nr) {
	case SYS_mmap: return mapping(registers);
	case SYS_mprotect:
	case SYS_pkey_mprotect: return protecting(nr, registers);
	default: return unmapping(nr, registers);
	}
}
