/*
 * cache.c - the code cache (inside.h).
 *
 * A cache is filled from its start, with what is seldom executed from its end, and never tidied: what is
 * forgotten stays as dead code, for a thread may be in it. When it is full there is a new one. A thread says
 * in its context in which cache it may be, by its epoch, and moves to the newest when it comes to the
 * translator; a cache that is no thread's is unmapped.
 */
#include "port/translate/inside.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#define MFD_EXEC 16u
#endif
#define ALIGN_TABLE (TABLE_ENTRIES * 8)
#define REACH ((uint64_t)0x7ff00000)
#define STEP ((uint64_t)16 << 20)
#define LEAST 32u /* bytes that a fragment takes: a jump, its stub, and what aligns them */

uint64_t lh__map(const struct lh_sys *sys, uint64_t hint, size_t size, int protection, int flags, int fd)
{
	long at = LH_SYS(sys, SYS_mmap, hint, size, protection, flags, fd, 0);

	return at < 0 && at > -PAGE ? 0 : (uint64_t)at;
}

/* By the thread's own number: the process's first thread may be gone, and then its memory is nobody's. */
int lh__peek(const struct lh_sys *sys, uint64_t address, void *out, size_t size)
{
	struct iovec to = { out, size }, from = { (void *)(uintptr_t)address, size };
	long got = LH_SYS(sys, SYS_process_vm_readv, LH_SYS(sys, SYS_gettid), &to, 1, &from, 1, 0);

	return got == (long)size ? 0 : -EFAULT;
}

int lh__poke(const struct lh_sys *sys, uint64_t address, const void *from, size_t size)
{
	struct iovec of = { (void *)(uintptr_t)from, size }, to = { (void *)(uintptr_t)address, size };
	long put = LH_SYS(sys, SYS_process_vm_writev, LH_SYS(sys, SYS_gettid), &of, 1, &to, 1, 0);

	return put == (long)size ? 0 : -EFAULT;
}

/* Executable memory from which `near` is reached, below it or above; else anywhere. */
static uint64_t map_near(const struct lh_sys *sys, uint64_t near, size_t size, int fd)
{
	int protection = PROT_READ | PROT_EXEC;
	uint64_t start = near & ~(STEP - 1);

	for (uint64_t step = 0; step + size < REACH; step += STEP) {
		uint64_t below = start - size - step, above = start + STEP + step;

		for (int i = 0; i < 2; i++) {
			uint64_t hint = i ? above : below, at;

			if (hint < 0x10000 || hint >> 47)
				continue;
			at = lh__map(sys, hint, size, protection, MAP_SHARED | MAP_FIXED_NOREPLACE, fd);
			if (at == hint)
				return at;
			if (at)
				LH_SYS(sys, SYS_munmap, at, size);
		}
	}
	return lh__map(sys, 0, size, protection, MAP_SHARED, fd);
}

static int map_code(struct lh_translator *translator, struct cache *cache)
{
	const struct lh_sys *sys = translator->sys;
	long fd = LH_SYS(sys, SYS_memfd_create, "linehome-code", MFD_CLOEXEC | MFD_EXEC);
	uint64_t write = 0, execute = 0;

	if (fd == -EINVAL)
		fd = LH_SYS(sys, SYS_memfd_create, "linehome-code", MFD_CLOEXEC);
	if (fd < 0)
		return (int)fd;
	if (LH_SYS(sys, SYS_ftruncate, fd, cache->size) == 0) {
		write = lh__map(sys, 0, cache->size, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd);
		execute = map_near(sys, translator->near, cache->size, (int)fd);
	}
	LH_SYS(sys, SYS_close, fd);
	cache->write = (uint8_t *)(uintptr_t)write;
	cache->execute = (uint8_t *)(uintptr_t)execute;
	return write && execute ? 0 : -ENOMEM;
}

void lh__cache_free(struct lh_translator *translator, struct cache *cache)
{
	const struct lh_sys *sys = translator->sys;

	if (cache->write)
		LH_SYS(sys, SYS_munmap, cache->write, cache->size);
	if (cache->execute)
		LH_SYS(sys, SYS_munmap, cache->execute, cache->size);
	if (cache->arena)
		LH_SYS(sys, SYS_munmap, cache->arena, cache->arena_size);
	LH_SYS(sys, SYS_munmap, cache, sizeof(*cache));
}

/* Metadata: the table of targets, aligned as its look-up needs it, then tables of fragments and pages. */
static int map_arena(const struct lh_sys *sys, struct cache *cache)
{
	size_t size = cache->size * 4 + cache->size / 4 + ALIGN_TABLE * 2;
	uint64_t at, aligned;

	at = lh__map(sys, 0, size + ALIGN_TABLE, PROT_READ | PROT_WRITE,
	             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	if (!at)
		return -ENOMEM;
	aligned = (at + ALIGN_TABLE - 1) & ~(uint64_t)(ALIGN_TABLE - 1);
	if (aligned > at)
		LH_SYS(sys, SYS_munmap, at, aligned - at);
	if (at + ALIGN_TABLE > aligned)
		LH_SYS(sys, SYS_munmap, aligned + size, at + ALIGN_TABLE - aligned);
	cache->arena = (uint8_t *)(uintptr_t)aligned;
	cache->arena_size = size;
	cache->arena_used = ALIGN_TABLE;
	cache->table = (uint64_t *)(void *)cache->arena;
	return 0;
}

static size_t power_of_two(size_t least)
{
	size_t size = 1024;

	while (size < least)
		size *= 2;
	return size;
}

static int make_tables(struct cache *cache)
{
	size_t hash = power_of_two(cache->size / 128), pages = power_of_two(cache->size / 16384);

	cache->hash = lh__cache_metadata(cache, hash * sizeof(*cache->hash));
	cache->dormant = lh__cache_metadata(cache, pages * sizeof(*cache->dormant));
	cache->pages = lh__cache_metadata(cache, pages * sizeof(*cache->pages));
	cache->entries = lh__cache_metadata(cache, pages * sizeof(*cache->entries));
	cache->order_size = cache->size / LEAST;
	cache->order = lh__cache_metadata(cache, cache->order_size * sizeof(*cache->order));
	cache->hash_mask = hash - 1;
	cache->page_mask = cache->entry_mask = pages - 1;
	if (!cache->hash || !cache->pages || !cache->entries || !cache->order || !cache->dormant)
		return -ENOMEM;
	/* jmp *%gs:LH_T_LEAVE_INDIRECT */
	__builtin_memcpy(cache->write,
	                 (const uint8_t[]){ 0x65, 0xff, 0x24, 0x25, LH_T_LEAVE_INDIRECT, 0, 0, 0 }, 8);
	for (size_t i = 0; i < TABLE_ENTRIES; i++)
		cache->table[i] = (uint64_t)(uintptr_t)cache->execute;
	cache->used = CACHE_FIRST;
	cache->top = cache->size;
	return 0;
}

struct cache *lh__cache_make(struct lh_translator *translator)
{
	const struct lh_sys *sys = translator->sys;
	struct cache *cache =
		(struct cache *)(uintptr_t)lh__map(sys, 0, sizeof(*cache), PROT_READ | PROT_WRITE,
	                                           MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (!cache)
		return NULL;
	cache->size = translator->cache_size;
	if (map_code(translator, cache) < 0 || map_arena(sys, cache) < 0 || make_tables(cache) < 0) {
		lh__cache_free(translator, cache);
		return NULL;
	}
	cache->epoch = translator->epoch + 1;
	__atomic_store_n(&translator->epoch, cache->epoch, __ATOMIC_SEQ_CST);
	return cache;
}

void lh__cache_sweep(struct lh_translator *translator)
{
	struct cache **at = &translator->retired;

	while (*at) {
		struct cache *cache = *at;

		if (lh__thread_any_in(translator, cache)) {
			at = &cache->next;
			continue;
		}
		*at = cache->next;
		lh__cache_free(translator, cache);
	}
}

int lh__cache_flush(struct lh_translator *translator)
{
	struct cache *cache = lh__cache_make(translator);

	if (!cache)
		return -ENOMEM;
	translator->current->next = translator->retired;
	translator->retired = translator->current;
	translator->current = cache;
	translator->counts.flushes++;
	return 0;
}

void lh__cache_enter(struct lh_translator *translator, struct lh_translated_thread *thread)
{
	struct cache *cache = translator->current;

	thread->cache = cache;
	thread->table = (uint64_t)(uintptr_t)cache->table / 8;
	__atomic_store_n(&thread->epoch, cache->epoch, __ATOMIC_SEQ_CST);
	if (translator->retired)
		lh__cache_sweep(translator);
}

void *lh__cache_metadata(struct cache *cache, size_t size)
{
	void *out = cache->arena + cache->arena_used;

	size = (size + 7) & ~(size_t)7;
	if (size > cache->arena_size - cache->arena_used)
		return NULL;
	cache->arena_used += size;
	return out;
}
