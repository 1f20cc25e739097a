/*
 * translated_save.c - before a store of a translated thread: the lines that it changes are saved.
 *
 * Runs between two of the program's instructions, whose vector registers stay as they are: this file, and
 * what it calls in the usual case (a redo log, a page that is there), is compiled without them. For anything
 * else, they are put aside first.
 *
 * The store itself cannot fail. Where its lines cannot be saved the transaction is doomed (lh__tx_doom).
 */
#include <errno.h>

#include "service/pool/translated_inside.h"

static struct lh_pool *pool_of(const struct lh_translated_own *own, uint64_t line)
{
	uint64_t address = line * LH_LINE_SIZE;

	/* Of a pool that another thread has closed nothing is looked at but where it was. */
	for (unsigned i = 0; i < own->pools; i++)
		if (address >= own->known[i].base && address < own->known[i].end &&
		    lh__pool_has(own->pool[i], (const void *)(uintptr_t)address, LH_LINE_SIZE))
			return own->pool[i];
	return NULL;
}

static uint64_t page_of(const struct lh_pool *pool, uint64_t line)
{
	return (line * LH_LINE_SIZE - (uintptr_t)pool->base) / LH_PAGE_SIZE;
}

static void save_slowly(void *own, uint64_t in, uint64_t line)
{
	struct lh_pool *pool = (struct lh_pool *)(uintptr_t)in;
	struct change *change;
	int result;

	(void)own;
	/* Of a page that cannot be loaded the store itself raises the signal. */
	if (pool->doomed || lh__memory_load(pool, page_of(pool, line), 1) < 0)
		return;
	change = lh__changes_of(pool, page_of(pool, line));
	result = change ? lh__changes_save(pool, change, lh__mask_line(line % LH_PAGE_LINES)) : -ENOMEM;
	if (result < 0)
		lh__tx_doom(pool, result);
}

static bool save_quickly(struct lh_pool *pool, uint64_t line)
{
	uint64_t page = page_of(pool, line);
	lh_mask mask = lh__mask_line(line % LH_PAGE_LINES);
	struct change *change;

	if (pool->doomed || !lh__memory_loaded(pool, page))
		return false;
	change = lh__changes_quick(pool, page);
	if (!change)
		return false;
	if (change->saved & mask)
		return true;
	if (pool->log == LH_LOG_UNDO)
		return false;
	lh__changes_save_line(pool, change, line % LH_PAGE_LINES);
	return true;
}

static void save_line(struct lh_translated_own *own, uint64_t line, bool vectors_are_free)
{
	struct lh_pool *pool = pool_of(own, line);

	if (!pool)
		return;
	if (!save_quickly(pool, line)) {
		if (vectors_are_free)
			save_slowly(own, (uintptr_t)pool, line);
		else
			lh__translate_with_vectors(save_slowly, own, (uintptr_t)pool, line);
	}
	own->lines[line % LH_TRANSLATED_LINES] = line + own->tag;
}

static void save(struct lh_translated_own *own, uint64_t address, uint64_t size, bool vectors_are_free)
{
	for (uint64_t line = address / LH_LINE_SIZE; line <= (address + size - 1) / LH_LINE_SIZE; line++)
		if (own->lines[line % LH_TRANSLATED_LINES] != line + own->tag)
			save_line(own, line, vectors_are_free);
}

void lh__translated_save(void *own, uint64_t address, uint64_t size)
{
	save(own, address, size, false);
}

static int found(void *context, uint64_t address, uint64_t size)
{
	struct lh_translated_own *own = context;
	uint64_t end = address + size;

	if (address < own->low)
		address = own->low;
	if (end > own->high)
		end = own->high;
	if (address < end)
		save(own, address, end - address, true);
	return 0;
}

void lh__translated_lost(void *context, const struct lh_access_state *state, uint64_t error)
{
	struct lh_translated_own *own = context;

	(void)state;
	for (unsigned i = 0; i < own->pools; i++) {
		struct lh_pool *pool = lh__translated_hold(own, i);

		if (!pool)
			continue;
		lh__tx_doom(pool, -(int)error);
		lh__translated_let_go(own, i);
	}
}

void lh__translated_save_all(void *own, const struct lh_access_state *state, uint64_t access)
{
	int result = lh__access_bytes((const struct lh_access *)(uintptr_t)access, state, found, own);

	if (result < 0)
		lh__translated_lost(own, state, (uint64_t)-result);
}
