/*
 * memory.c - a pool's range of addresses, and loading pages into it.
 *
 * The addresses that it may ever grow into are reserved at open, so that growing moves nothing. With a redo
 * log the memory is this process's own, and a page comes in from the store at its first touch: opening takes
 * the same time however large the pool is. With an undo log the memory is the store's own.
 *
 * A child of fork does not get the memory: it would share, or copy, what its parent's log vouches for.
 */
#include "service/pool/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/*
 * Linux gives out addresses from the top (2^47) downwards and for programs from 0x55...; sanitizers use the
 * bottom and the top. Between is nobody: pools get the range from 2^45 to 5 * 2^44, in steps of 64 GiB.
 */
#define ADDRESS_FIRST (UINT64_C(1) << 45)
#define ADDRESS_LAST (UINT64_C(5) << 44)
#define ADDRESS_STEP (UINT64_C(64) << 30)
#define ADDRESS_TRIES 16

static long map(const struct lh_sys *sys, uint64_t address, uint64_t size, int protection, int flags)
{
	return LH_SYS(sys, SYS_mmap, address, size, protection,
	              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

static bool failed(long result)
{
	return result < 0 && result >= -4095;
}

int lh__room_reserve(const struct lh_sys *sys, struct room *room, uint64_t size)
{
	long at = map(sys, 0, size, PROT_NONE, 0);

	if (failed(at))
		return (int)at;
	*room = (struct room){ (unsigned char *)at, size, 0 };
	return 0;
}

/* In steps that double, so that growing a little at a time costs little. */
int lh__room_grow(const struct lh_sys *sys, struct room *room, uint64_t size)
{
	uint64_t usable = room->usable ? room->usable : 16 * LH_PAGE_SIZE;
	int result;

	if (size > room->reserved)
		return -ENOMEM;
	while (usable < size)
		usable *= 2;
	if (usable > room->reserved)
		usable = room->reserved;
	result = (int)LH_SYS(sys, SYS_mprotect, room->base, usable, PROT_READ | PROT_WRITE);
	if (result == 0)
		room->usable = usable;
	return result;
}

void lh__room_free(const struct lh_sys *sys, struct room *room)
{
	if (room->base)
		LH_SYS(sys, SYS_munmap, room->base, room->reserved);
	*room = (struct room){ NULL, 0, 0 };
}

/* ---- the range ---- */

/* The first mapping that touches [from, to), as /proc/self/maps has it; empty where none is found. */
static void who_is_there(uint64_t from, uint64_t to, char *out, size_t size)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];

	out[0] = 0;
	while (maps && fgets(line, sizeof line, maps)) {
		unsigned long first, end;
		int name = 0;

		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &first, &end, &name) < 2 || end <= from ||
		    first >= to)
			continue;
		line[strcspn(line, "\n")] = 0;
		lh__format(out, size, "%s at 0x%lx", name && line[name] ? line + name : "unnamed memory",
		           first);
		break;
	}
	if (maps)
		fclose(maps);
}

/* Exactly there, or -EEXIST. */
static int reserve_at(const struct lh_sys *sys, uint64_t address, uint64_t reach)
{
	long at = map(sys, address, reach, PROT_NONE, MAP_FIXED_NOREPLACE);

	if (failed(at))
		return (int)at;
	if ((uint64_t)at == address)
		return 0;
	LH_SYS(sys, SYS_munmap, at, reach);
	return -EEXIST;
}

static int fail_taken(const struct lh_pool *pool, struct lh_error *error)
{
	char who[300];

	who_is_there(pool->header.address, pool->header.address + pool->header.reach, who, sizeof who);
	return lh__fail(error, -EADDRINUSE, "its addresses from 0x%lx on are taken in this process, by %s",
	                (unsigned long)pool->header.address, who[0] ? who : "something");
}

int lh__memory_choose(const struct lh_sys *sys, uint64_t reach, uint64_t *address)
{
	uint64_t places = (ADDRESS_LAST - ADDRESS_FIRST) / ADDRESS_STEP, seed;
	uint64_t steps = (reach + ADDRESS_STEP - 1) / ADDRESS_STEP;
	int result = -EEXIST;

	if (steps > places)
		return -E2BIG;
	for (unsigned i = 0; i < ADDRESS_TRIES && result == -EEXIST; i++) {
		long got = LH_SYS(sys, SYS_getrandom, &seed, sizeof seed, 0);

		if (got != (long)sizeof seed)
			return got < 0 ? (int)got : -EIO;
		*address = ADDRESS_FIRST + seed % (places - steps + 1) * ADDRESS_STEP;
		result = reserve_at(sys, *address, reach);
	}
	if (result == 0)
		LH_SYS(sys, SYS_munmap, *address, reach);
	return result;
}

/* The whole of what it may grow to, since addresses cost nothing; only pages that are loaded have memory. */
static int open_alias(struct lh_pool *pool)
{
	long at;

	if (!pool->port || !lh__pool_protects(pool))
		return 0;
	if (pool->log == LH_LOG_UNDO) {
		pool->alias = (unsigned char *)pool->direct->base + pool->home * LH_PAGE_SIZE;
		return 0;
	}
	pool->memory = (int)LH_SYS(pool->sys, SYS_memfd_create, "linehome pool", MFD_CLOEXEC);
	if (pool->memory < 0)
		return pool->memory;
	at = LH_SYS(pool->sys, SYS_ftruncate, pool->memory, pool->header.reach);
	if (at == 0)
		at = LH_SYS(pool->sys, SYS_mmap, 0, pool->header.reach, PROT_READ | PROT_WRITE,
		            MAP_SHARED | MAP_NORESERVE, pool->memory, 0);
	if (failed(at))
		return (int)at;
	pool->alias = (unsigned char *)at;
	return (int)LH_SYS(pool->sys, SYS_madvise, at, pool->header.reach, MADV_DONTFORK);
}

int lh__memory_reserve(struct lh_pool *pool, struct lh_error *error)
{
	int result = reserve_at(pool->sys, pool->header.address, pool->header.reach);

	if (result == -EEXIST)
		return fail_taken(pool, error);
	if (result < 0)
		return lh__fail(error, result, "addresses for it cannot be reserved: %s",
		                lh__errno_name(result));
	pool->base = (unsigned char *)pool->header.address;
	pool->mapped = true;
	result = lh__room_reserve(pool->sys, &pool->loaded,
	                          pool->header.reach / LH_PAGE_SIZE / 8 + LH_PAGE_SIZE);
	if (result == 0)
		result = open_alias(pool);
	if (result < 0)
		return lh__fail(error, result, "there is no memory for it: %s", lh__errno_name(result));
	return 0;
}

static int extend_own(struct lh_pool *pool, uint64_t from, uint64_t to)
{
	int protection = pool->read_only ? PROT_READ : PROT_READ | PROT_WRITE;
	long at = pool->memory >= 0
	                  ? LH_SYS(pool->sys, SYS_mmap, pool->base + from, to - from, protection,
	                           MAP_SHARED | MAP_NORESERVE | MAP_FIXED, pool->memory, from)
	                  : map(pool->sys, (uint64_t)pool->base + from, to - from, protection, MAP_FIXED);

	return failed(at) ? (int)at : 0;
}

static int extend_shared(struct lh_pool *pool, uint64_t from, uint64_t to)
{
	return pool->direct->map(pool->direct, pool->home + from / LH_PAGE_SIZE, (to - from) / LH_PAGE_SIZE,
	                         pool->base + from);
}

void lh__memory_part(struct lh_pool *pool)
{
	int (*map_private)(const struct lh_direct *, uint64_t, size_t, void *) = pool->direct->map_private;
	int result = -EOPNOTSUPP;

	if (map_private)
		result = map_private(pool->direct, pool->home, pool->size / LH_PAGE_SIZE, pool->base);
	if (result < 0)
		LH_SYS(pool->sys, SYS_mprotect, pool->base, pool->size, PROT_READ);
	LH_SYS(pool->sys, SYS_madvise, pool->base, pool->size, MADV_DONTFORK);
}

int lh__memory_join(struct lh_pool *pool)
{
	int result = extend_shared(pool, 0, pool->size);

	return result < 0 ? result
	                  : (int)LH_SYS(pool->sys, SYS_madvise, pool->base, pool->size, MADV_DONTFORK);
}

/* Until here nobody may know the addresses, and nobody can have touched them. */
static int watch(struct lh_pool *pool, uint64_t from, uint64_t to)
{
	struct lh_port *port = pool->port;
	uintptr_t start = (uintptr_t)pool->base + from;
	int result;

	if (!port)
		return 0;
	result = port->ops->watch(port, start, to - from);
	if (result == 0 && !pool->lazy)
		result = port->ops->protect(port, start, (to - from) / LH_PAGE_SIZE);
	return result;
}

int lh__memory_extend(struct lh_pool *pool, uint64_t from, uint64_t to, struct lh_error *error)
{
	unsigned char *start = pool->base + from;
	int result = lh__room_need(pool->sys, &pool->loaded, to / LH_PAGE_SIZE / 8 + 8);

	if (result == 0)
		result =
			pool->log == LH_LOG_UNDO ? extend_shared(pool, from, to) : extend_own(pool, from, to);
	if (result == 0)
		result = (int)LH_SYS(pool->sys, SYS_madvise, start, to - from, MADV_DONTFORK);
	if (result == 0)
		result = watch(pool, from, to);
	if (result == 0)
		return 0;
	map(pool->sys, (uint64_t)start, to - from, PROT_NONE, MAP_FIXED);
	return lh__fail(error, result, "its memory cannot be mapped: %s", lh__errno_name(result));
}

void lh__memory_close(struct lh_pool *pool)
{
	if (pool->mapped)
		LH_SYS(pool->sys, SYS_munmap, pool->base, pool->header.reach);
	pool->mapped = false;
	if (pool->memory >= 0) {
		if (pool->alias)
			LH_SYS(pool->sys, SYS_munmap, pool->alias, pool->header.reach);
		LH_SYS(pool->sys, SYS_close, pool->memory);
	}
	lh__room_free(pool->sys, &pool->loaded);
}

/* ---- loading ---- */

static void note_loaded(struct lh_pool *pool, uint64_t page, uint64_t pages)
{
	uint64_t *words = (uint64_t *)pool->loaded.base;

	for (uint64_t i = page; i < page + pages; i++)
		__atomic_fetch_or(&words[i / 64], UINT64_C(1) << i % 64, __ATOMIC_RELEASE);
}

/* How many pages from this one on are loaded together: more and more where they are asked for in order. */
static uint64_t run_length(struct lh_pool *pool, uint64_t page)
{
	uint64_t run = 1, pages = __atomic_load_n(&pool->size, __ATOMIC_RELAXED) / LH_PAGE_SIZE, i;

	if (__atomic_load_n(&pool->next_load, __ATOMIC_RELAXED) == page)
		run = 2 * __atomic_load_n(&pool->load_run, __ATOMIC_RELAXED);
	if (run > LOAD_PAGES || run == 0)
		run = LOAD_PAGES;
	for (i = 1; i < run && page + i < pages && !lh__memory_loaded(pool, page + i); i++)
		;
	__atomic_store_n(&pool->next_load, page + i, __ATOMIC_RELAXED);
	__atomic_store_n(&pool->load_run, i, __ATOMIC_RELAXED);
	return i;
}

static struct loading *take_buffer(struct lh_pool *pool)
{
	for (unsigned i = 0; i < LOAD_BUFFERS; i++)
		if (lh__trylock(&pool->loading[i].lock))
			return &pool->loading[i];
	lh__lock(pool->sys, &pool->loading[0].lock);
	return &pool->loading[0];
}

static int read_pages(struct lh_pool *pool, struct loading *buffer, uint64_t page, uint64_t pages)
{
	int result = 0;

	for (uint64_t i = 0; i < pages && result == 0; i++) {
		lh_mask held;

		result = pool->below->ops->get_now(pool->below, pool->home + page + i, LH_MASK_ALL,
		                                   buffer->data[i], &held);
	}
	return result;
}

/*
 * A page that another thread has loaded meanwhile may have been changed since, and is left alone by the port.
 */
static int supply(struct lh_pool *pool, uint64_t page, uint64_t pages, const void *content)
{
	uintptr_t address = (uintptr_t)lh__pool_page(pool, page);
	long done = pool->port->ops->supply(pool->port, address, content, pages);

	if (done == -EEXIST)
		done = 1;
	if (done == -EAGAIN)
		return 0; /* whoever wants the page looks again */
	if (done < 0)
		return (int)done;
	note_loaded(pool, page, (uint64_t)done);
	return 0;
}

static int load_run(struct lh_pool *pool, uint64_t page)
{
	uint64_t pages = run_length(pool, page);
	struct loading *buffer;
	int result;

	if (pool->direct)
		return supply(pool, page, pages,
		              (unsigned char *)pool->direct->base + (pool->home + page) * LH_PAGE_SIZE);
	buffer = take_buffer(pool);
	result = read_pages(pool, buffer, page, pages);
	if (result == 0)
		result = supply(pool, page, pages, buffer->data);
	lh__unlock(pool->sys, &buffer->lock);
	return result;
}

int lh__memory_load(struct lh_pool *pool, uint64_t page, uint64_t pages)
{
	int result = 0;

	for (uint64_t i = page; i < page + pages && result == 0; i++)
		while (result == 0 && !lh__memory_loaded(pool, i))
			result = load_run(pool, i);
	return result;
}
