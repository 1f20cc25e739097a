/*
 * file_mapped.c - a file's own memory.
 *
 * Where the file system maps persistent memory itself (DAX), a store to the mapping reaches the medium when
 * the line is flushed; MAP_SYNC says that the file system's own records of the page are there before the
 * first store to it. The pages of tmpfs are its medium, so there a plain mapping is as good.
 *
 * `reach` pages of address space are kept from the start, and the file is mapped into them as it grows, so
 * the base stays. Only whole pages of the file are mapped.
 *
 * A touch of a hole takes room, also a read on tmpfs, and where there is none the kernel can only send
 * SIGBUS. So requests touch the mapping only where room has been reserved; elsewhere they read by pread,
 * which needs none, and ask for room before they write. Who uses `direct` reserves first. A SIGBUS that comes
 * because somebody else made the file shorter is not handled: it would be the end of any program with a
 * mapping.
 */
#include "store/file_internal.h"

#include <cpuid.h>
#include <errno.h>
#include <immintrin.h>
#include <stddef.h>
#include <sys/mman.h>

/* ---- flushing ---- */

static void flush_clflush(const char *line, const char *end)
{
	for (; line < end; line += LH_LINE_SIZE)
		_mm_clflush(line);
}

__attribute__((target("clflushopt"))) static void flush_clflushopt(const char *line, const char *end)
{
	for (; line < end; line += LH_LINE_SIZE)
		_mm_clflushopt((void *)(uintptr_t)line);
}

/* The only one that leaves the line in the cache. */
__attribute__((target("clwb"))) static void flush_clwb(const char *line, const char *end)
{
	for (; line < end; line += LH_LINE_SIZE)
		_mm_clwb((void *)(uintptr_t)line);
}

static void (*best_flush(void))(const char *, const char *)
{
	unsigned a, b = 0, c, d;

	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return flush_clflush;
	return b & bit_CLWB ? flush_clwb : b & bit_CLFLUSHOPT ? flush_clflushopt : flush_clflush;
}

static struct lh_file *of_direct(const struct lh_direct *direct)
{
	return (struct lh_file *)(uintptr_t)((const char *)direct - offsetof(struct lh_file, map.direct));
}

static void direct_flush(const struct lh_direct *direct, const void *from, size_t size)
{
	const char *line = (const char *)((uintptr_t)from & ~(uintptr_t)(LH_LINE_SIZE - 1));

	of_direct(direct)->map.flush(line, (const char *)from + size);
}

/* Four stores fill a line's write-combining buffer, which then leaves whole; the line is never read. */
static void direct_write(const struct lh_direct *direct, void *to, const void *lines, size_t size)
{
	const __m128i *from = lines;
	__m128i *out = to;

	for (size_t i = 0; i < size / sizeof *out; i++)
		_mm_stream_si128(&out[i], _mm_loadu_si128(&from[i]));
}

static void direct_fence(const struct lh_direct *direct)
{
	_mm_sfence();
}

/* ---- mapping ---- */

static uint64_t whole_pages(const struct lh_file *file)
{
	return file->size / LH_PAGE_SIZE;
}

static long map_at(const struct lh_file *file, uint64_t page, uint64_t pages, void *address, int fixed)
{
	return LH_SYS(file->store.sys, SYS_mmap, address, pages * LH_PAGE_SIZE, file->map.protection,
	              file->map.flags | fixed, file->fd, page * LH_PAGE_SIZE);
}

static int map_again(const struct lh_direct *direct, uint64_t page, size_t pages, void *address, int flags)
{
	const struct lh_file *file = of_direct(direct);
	const uint64_t have = __atomic_load_n(&direct->pages, __ATOMIC_ACQUIRE);
	long result;

	if (page > have || pages > have - page || pages == 0 || (uintptr_t)address % LH_PAGE_SIZE != 0)
		return -EINVAL;
	result = LH_SYS(file->store.sys, SYS_mmap, address, pages * LH_PAGE_SIZE, file->map.protection,
	                flags | MAP_FIXED, file->fd, page * LH_PAGE_SIZE);
	return result < 0 && result >= -4095 ? (int)result : 0;
}

static int direct_map(const struct lh_direct *direct, uint64_t page, size_t pages, void *address)
{
	return map_again(direct, page, pages, address, of_direct(direct)->map.flags);
}

static int direct_map_private(const struct lh_direct *direct, uint64_t page, size_t pages, void *address)
{
	return map_again(direct, page, pages, address, MAP_PRIVATE | MAP_NORESERVE);
}

int lh__file_map_grow(struct lh_file *file)
{
	struct lh_direct *direct = &file->map.direct;
	const uint64_t from = direct->pages, to = whole_pages(file);
	long result;

	if (to <= from)
		return 0;
	if (to > file->map.reach)
		return -ENOSPC;
	result = map_at(file, from, to - from, (char *)direct->base + from * LH_PAGE_SIZE, MAP_FIXED);
	if (result < 0 && result >= -4095)
		return (int)result;
	__atomic_store_n(&direct->pages, to, __ATOMIC_RELEASE);
	return 0;
}

/* Whether the file can be mapped at all; an empty one has to say so too. */
static int probe(const struct lh_file *file, const char *name, struct lh_error *error)
{
	long result = map_at(file, 0, 1, NULL, 0);

	if (result == -EOPNOTSUPP)
		return lh__fail(error, -EOPNOTSUPP,
		                "%s: its file system maps neither persistent memory (DAX) nor memory (tmpfs)",
		                name);
	if (result < 0 && result >= -4095)
		return lh__fail(error, (int)result, "%s: it cannot be mapped (%s)", name,
		                lh__errno_name((int)result));
	LH_SYS(file->store.sys, SYS_munmap, result, LH_PAGE_SIZE);
	return 0;
}

int lh__file_map_open(struct lh_file *file, uint64_t reach, const char *name, struct lh_error *error)
{
	struct lh_file_map *map = &file->map;
	long base, result;

	map->protection = file->read_only ? PROT_READ : PROT_READ | PROT_WRITE;
	map->flush = best_flush();
	map->direct = (struct lh_direct){ .flush = direct_flush,
		                          .write = direct_write,
		                          .fence = direct_fence,
		                          .map = direct_map,
		                          .map_private = direct_map_private };
	result = probe(file, name, error);
	if (result != 0)
		return (int)result;
	file->store.direct = &map->direct;
	reach = reach > whole_pages(file) ? reach : whole_pages(file);
	if (reach == 0)
		return 0;
	base = reach > LH_PAGE_NUMBER_MAX
	               ? -ENOMEM
	               : LH_SYS(file->store.sys, SYS_mmap, NULL, reach * LH_PAGE_SIZE, PROT_NONE,
	                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base < 0 && base >= -4095)
		return lh__fail(error, (int)base, "%s: there is no address space for %lu pages (%s)", name,
		                (unsigned long)reach, lh__errno_name((int)base));
	map->direct.base = (void *)base;
	map->reach = reach;
	result = lh__file_map_grow(file);
	if (result != 0)
		return lh__fail(error, (int)result, "%s: it cannot be mapped (%s)", name,
		                lh__errno_name((int)result));
	return 0;
}

void lh__file_map_close(struct lh_file *file)
{
	if (file->map.direct.base)
		LH_SYS(file->store.sys, SYS_munmap, file->map.direct.base, file->map.reach * LH_PAGE_SIZE);
}

/* ---- requests ---- */

void *lh__file_map_at(struct lh_file *file, uint64_t page)
{
	if (page >= __atomic_load_n(&file->reserved, __ATOMIC_ACQUIRE))
		return NULL;
	return (char *)file->map.direct.base + page * LH_PAGE_SIZE;
}

static int make_room(struct lh_file *file, uint64_t page)
{
	int result;

	if (page < file->reserved)
		return 0;
	if (page >= file->map.reach)
		return -ENOSPC;
	result = lh__file_room(file, page * LH_PAGE_SIZE, LH_PAGE_SIZE);
	return result != 0 ? result : lh__file_map_grow(file);
}

int lh__file_map_write(struct lh_file *file, uint64_t page, lh_mask mask, const void *data, bool replace)
{
	struct lh_gate *gate = &file->gate[page % LH_FILE_GATES];
	char *place = (char *)file->map.direct.base + page * LH_PAGE_SIZE;
	int result = make_room(file, page);
	unsigned first, count;

	if (result != 0)
		return result;
	lh__gate_close(file->store.sys, gate);
	if (replace)
		lh__lines_zero(place, ~mask);
	lh__lines_copy(place, data, mask);
	lh__gate_open(file->store.sys, gate);
	mask = replace ? LH_MASK_ALL : mask;
	while (lh__mask_next_run(&mask, &first, &count))
		file->map.flush(place + first * LH_LINE_SIZE, place + (first + count) * LH_LINE_SIZE);
	file->map.flushed = true;
	return 0;
}
