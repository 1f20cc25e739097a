/*
 * rewrite.c - redirects the sites that scan.c has found to trampolines.
 *
 * Trampolines of a mapping stand in one piece of memory within 2 GiB of it, so that a jump reaches them and
 * instructions that address memory relative to their own place still reach theirs. One looks like this:
 *
 *     moved instructions        with displacements corrected
 *     lea after(%rip), %rcx     what the kernel would leave in rcx
 *     mov $&table[nr], %r11     or &any, where the number is not known
 *     jmp *(%r11)
 *     syscall                   only where the site's own is gone: a call to be repeated is repeated here
 *     moved instructions        (here is `after` then, else behind the site)
 *     jmp back
 *
 * Code is written through /proc/self/mem, which makes a private copy of the page without ever making it
 * writable and executable at once; where that is forbidden, through a short mprotect. Nobody runs the code
 * meanwhile: at the start there is one thread, and later a mapping is rewritten before the mmap that made it
 * returns.
 */
#include "port/page/intercept/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define MAPS_SIZE (4u << 20)
#define LARGEST_TRAMPOLINE 96
#define REACH 0x70000000ull /* less than 2 GiB, for the sizes of mapping and trampolines */
#define SITES 16384

struct piece {
	uint64_t start, end, offset;
	int executable;
	char path[512];
};

/* The text of /proc/self/maps and a place in it. */
struct maps {
	char *text;
	size_t size, at;
};

struct job {
	uint64_t start, size, offset; /* the mapping */
	int memory;                   /* /proc/self/mem, or negative */
	int count;
	uint8_t *next; /* free space for trampolines */
	struct lh_region *region;
	struct lh_site site[SITES];
	uint64_t trampoline[SITES];
};

static long get_memory(size_t size)
{
	return LH_THREAD_CALL(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	                      0);
}

static int open_maps(struct maps *maps)
{
	long memory = get_memory(MAPS_SIZE), fd, got = 1;

	*maps = (struct maps){ 0 };
	if (memory < 0)
		return 0;
	maps->text = (char *)memory;
	fd = LH_THREAD_CALL(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0);
	while (fd >= 0 && got > 0 && maps->size < MAPS_SIZE - 1) {
		got = LH_THREAD_CALL(SYS_read, fd, maps->text + maps->size, MAPS_SIZE - 1 - maps->size);
		if (got > 0)
			maps->size += (size_t)got;
	}
	if (fd >= 0)
		LH_THREAD_CALL(SYS_close, fd);
	return maps->size > 0;
}

static void close_maps(struct maps *maps)
{
	if (maps->text)
		LH_THREAD_CALL(SYS_munmap, maps->text, MAPS_SIZE);
}

static uint64_t hexadecimal(const char **text)
{
	uint64_t value = 0;

	for (;; (*text)++) {
		char c = **text;

		if (c >= '0' && c <= '9')
			value = value * 16 + (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + (uint64_t)(c - 'a' + 10);
		else
			return value;
	}
}

/* "start-end rwxp offset dev inode   path" */
static int next_piece(struct maps *maps, struct piece *piece)
{
	const char *at = maps->text + maps->at, *line = at;
	size_t length = 0;

	if (maps->at >= maps->size)
		return 0;
	piece->start = hexadecimal(&at);
	at++;
	piece->end = hexadecimal(&at);
	piece->executable = at[1] != '\0' && at[2] != '\0' && at[3] == 'x';
	at += 6;
	piece->offset = hexadecimal(&at);
	while (*at && *at != '\n' && *at != '/' && *at != '[')
		at++;
	while (at[length] && at[length] != '\n' && length < sizeof piece->path - 1)
		length++;
	memcpy(piece->path, at, length);
	piece->path[length] = '\0';
	while (*at && *at != '\n')
		at++;
	maps->at += (size_t)(at + 1 - line);
	return 1;
}

/* A free range of size bytes, as close below start as there is, else above end; 0 where none is in reach. */
static uint64_t find_gap(struct maps *maps, uint64_t start, uint64_t end, uint64_t size)
{
	uint64_t last = 0x10000, best = 0;
	struct piece piece;

	maps->at = 0;
	while (next_piece(maps, &piece)) {
		uint64_t top = piece.start;

		if (top > last && top - last >= size + 0x20000) {
			if (top <= start && start - (top - size) < REACH)
				best = top - size;
			else if (top > end && !best && top - start < REACH)
				best = top - size;
		}
		last = piece.end;
	}
	return best;
}

static uint64_t map_near(uint64_t start, uint64_t end, uint64_t size)
{
	const struct lh_intercept_config *config = &lh__intercept_state->config;
	struct maps maps;
	uint64_t gap = 0;
	long result = -1;

	if (open_maps(&maps))
		gap = find_gap(&maps, start, end, size);
	close_maps(&maps);
	if (gap)
		result = LH_THREAD_CALL(SYS_mmap, gap, size, PROT_READ | PROT_WRITE,
		                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (result < 0 || (uint64_t)result != gap)
		return 0;
	if (config->owns)
		config->owns(config->context, (void *)gap, size);
	return gap;
}

/* Writes code that may be running libc itself: no libc function, no moment without execution. */
static int write_code(const struct job *job, uint64_t at, const uint8_t *code, size_t size)
{
	uint64_t page = at & ~4095ull, length = ((at + size + 4095) & ~4095ull) - page;
	volatile uint8_t *to = (volatile uint8_t *)at;

	if (job->memory >= 0 && LH_THREAD_CALL(SYS_pwrite64, job->memory, code, size, at) == (long)size)
		return 1;
	if (LH_THREAD_CALL(SYS_mprotect, page, length, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
		return 0;
	for (size_t i = 0; i < size; i++)
		to[i] = code[i];
	LH_THREAD_CALL(SYS_mprotect, page, length, PROT_READ | PROT_EXEC);
	return 1;
}

static uint8_t *put(uint8_t *to, const void *from, size_t size)
{
	memcpy(to, from, size);
	return to + size;
}

static uint8_t *put_relative(uint8_t *to, const char *opcode, size_t size, uint64_t target)
{
	int32_t distance;

	to = put(to, opcode, size);
	distance = (int32_t)((int64_t)target - (int64_t)(to + 4));
	return put(to, &distance, 4);
}

/* Copies instructions from their window, correcting displacements; NULL where one does not reach. */
static uint8_t *put_moved(uint8_t *to, uint64_t window, const struct lh_site *site, int from, int size)
{
	for (int i = 0; i < size; i++)
		to[i] = ((const uint8_t *)window)[from + i];
	for (int i = 0; i < 4; i++) {
		int at = site->fix[i] - from;
		int32_t old;
		int64_t new;

		if (site->fix[i] == 0xff || at < 0 || at + 4 > size)
			continue;
		memcpy(&old, to + at, 4);
		new = old + (int64_t)(window + (uint64_t)from) - (int64_t)to;
		if (new != (int32_t) new)
			return NULL;
		memcpy(to + at, &(int32_t){ (int32_t) new }, 4);
	}
	return to + size;
}

/* The trampoline at job->next; returns its end. *gone is where its own `syscall` stands, or 0. */
static uint8_t *put_trampoline(const struct job *job, uint64_t window, const struct lh_site *site,
                               uint64_t *gone)
{
	struct lh_interception *state = lh__intercept_state;
	uint64_t entry = site->nr < 0 ? (uint64_t)&state->any : (uint64_t)&state->table[site->nr];
	uint8_t *at = put_moved(job->next, window, site, 0, site->before);

	*gone = 0;
	if (!at)
		return NULL;
	/* lea is 7 bytes, mov 10, jmp 3; then the syscall, 2 */
	at = put_relative(at, "\x48\x8d\x0d", 3, site->moved ? (uint64_t)at + 22 : window + site->before + 2);
	at = put(at, "\x49\xbb", 2);
	at = put(at, &entry, 8);
	at = put(at, "\x41\xff\x23", 3);
	if (!site->moved)
		return at;
	*gone = (uint64_t)at;
	at = put(at, "\x0f\x05", 2);
	at = put_moved(at, window, site, site->before + 2, site->after);
	return at ? put_relative(at, "\xe9", 1, window + site->size) : NULL;
}

/* Makes the trampoline and notes where it is; 0 where it cannot be. */
static void prepare_site(struct job *job, int index)
{
	const struct lh_site *site = &job->site[index];
	uint64_t window = job->start + site->offset - job->offset, gone;
	uint8_t *end = put_trampoline(job, window, site, &gone);

	job->trampoline[index] = end ? (uint64_t)job->next : 0;
	if (!end)
		return;
	if (gone)
		job->region->moved[job->region->moved_count++] =
			(struct lh_moved){ window + site->before, gone };
	job->next = end;
}

static void redirect_site(const struct job *job, int index)
{
	const struct lh_site *site = &job->site[index];
	uint64_t window = job->start + site->offset - job->offset;
	uint8_t code[32];

	if (!job->trampoline[index])
		return;
	memset(code, 0xcc, sizeof code);
	code[0] = 0xe9;
	memcpy(code + 1, &(int32_t){ (int32_t)(job->trampoline[index] - (window + 5)) }, 4);
	if (write_code(job, window, code, site->size))
		lh__intercept_state->sites_rewritten++;
}

static void keep(void *context, const struct lh_site *site)
{
	struct job *job = context;

	if (job->count < SITES)
		job->site[job->count++] = *site;
}

static struct lh_region *new_region(const struct job *job)
{
	struct lh_interception *state = lh__intercept_state;
	struct lh_region *region = &state->region[state->region_count];

	for (uint32_t i = 0; i < state->region_count; i++) /* a mapping that is gone leaves its place */
		if (state->region[i].start < job->start + job->size && job->start < state->region[i].end)
			state->region[i].start = state->region[i].end = 0;
	return state->region_count == LH_REGIONS ? NULL : region;
}

static void rewrite_sites(struct job *job)
{
	struct lh_region *region = new_region(job);
	uint64_t table = (uint64_t)job->count * sizeof(struct lh_moved);
	uint64_t size = (table + (uint64_t)job->count * LARGEST_TRAMPOLINE + 4095) & ~4095ull;
	uint64_t memory = region ? map_near(job->start, job->start + job->size, size) : 0;

	if (!memory)
		return;
	*region = (struct lh_region){ .start = job->start,
		                      .end = job->start + job->size,
		                      .tramps = memory,
		                      .tramps_size = size,
		                      .moved = (struct lh_moved *)memory };
	job->region = region;
	job->next = (uint8_t *)(memory + ((table + 63) & ~63ull));
	for (int i = 0; i < job->count; i++)
		prepare_site(job, i);
	if (LH_THREAD_CALL(SYS_mprotect, memory, size, PROT_READ | PROT_EXEC) < 0)
		return;
	__atomic_store_n(&lh__intercept_state->region_count, lh__intercept_state->region_count + 1,
	                 __ATOMIC_RELEASE);
	for (int i = 0; i < job->count; i++)
		redirect_site(job, i);
}

/* Keeps the sites whose bytes in memory are what they are in the file. */
static void drop_changed(struct job *job, const uint8_t *file)
{
	int kept = 0;

	for (int i = 0; i < job->count; i++) {
		const struct lh_site *site = &job->site[i];
		uint64_t window = job->start + site->offset - job->offset;

		if (site->offset + site->size <= job->offset + job->size &&
		    memcmp((const void *)window, file + site->offset, site->size) == 0)
			job->site[kept++] = *site;
	}
	job->count = kept;
}

static void with_file(struct job *job, const uint8_t *file, size_t size)
{
	long seen = lh__scan(file, size, job->offset, job->size, keep, job);

	if (seen <= 0)
		return;
	lh__intercept_state->sites_found += (uint64_t)seen;
	drop_changed(job, file);
	if (!job->count)
		return;
	job->memory = (int)LH_THREAD_CALL(SYS_openat, AT_FDCWD, "/proc/self/mem", O_RDWR | O_CLOEXEC, 0);
	rewrite_sites(job);
	if (job->memory >= 0)
		LH_THREAD_CALL(SYS_close, job->memory);
}

static void rewrite(uint64_t start, uint64_t size, int fd, uint64_t offset)
{
	struct stat status;
	long memory = get_memory(sizeof(struct job)), file = -1;
	struct job *job = (struct job *)memory;

	if (memory < 0)
		return;
	job->start = start;
	job->size = size;
	job->offset = offset;
	if (LH_THREAD_CALL(SYS_fstat, fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 64)
		file = LH_THREAD_CALL(SYS_mmap, NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (file >= 0) {
		with_file(job, (const uint8_t *)file, (size_t)status.st_size);
		LH_THREAD_CALL(SYS_munmap, file, status.st_size);
	}
	LH_THREAD_CALL(SYS_munmap, memory, sizeof *job);
}

void lh__rewrite_mapped(uint64_t start, uint64_t size, int fd, uint64_t offset)
{
	struct lh_interception *state = lh__intercept_state;

	if (state->config.no_rewrite)
		return;
	while (__atomic_exchange_n(&state->rewrite_lock, 1, __ATOMIC_ACQUIRE))
		LH_THREAD_CALL(SYS_sched_yield);
	rewrite(start, size, fd, offset);
	__atomic_store_n(&state->rewrite_lock, 0, __ATOMIC_RELEASE);
}

/* Every executable file mapping but the module's own. */
int lh__rewrite_all(void)
{
	struct maps maps;
	struct piece piece;

	if (!open_maps(&maps)) {
		close_maps(&maps);
		return -ENOENT;
	}
	while (next_piece(&maps, &piece)) {
		uint64_t self = (uint64_t)__start_lh_syscall;
		long fd;

		if (!piece.executable || piece.path[0] != '/' || (self >= piece.start && self < piece.end))
			continue;
		fd = LH_THREAD_CALL(SYS_openat, AT_FDCWD, piece.path, O_RDONLY | O_CLOEXEC, 0);
		if (fd < 0)
			continue;
		rewrite(piece.start, piece.end - piece.start, (int)fd, piece.offset);
		LH_THREAD_CALL(SYS_close, fd);
	}
	close_maps(&maps);
	return 0;
}

uint64_t lh__moved_from(uint64_t rip)
{
	const struct lh_interception *state = lh__intercept_state;

	for (uint32_t i = 0; i < __atomic_load_n(&state->region_count, __ATOMIC_ACQUIRE); i++) {
		const struct lh_region *region = &state->region[i];

		if (rip - region->tramps >= region->tramps_size)
			continue;
		for (uint32_t k = 0; k < region->moved_count; k++)
			if (rip == region->moved[k].to || rip == region->moved[k].to + 2)
				return region->moved[k].from + (rip - region->moved[k].to);
	}
	return rip;
}

uint64_t lh__moved_to(uint64_t rip)
{
	const struct lh_interception *state = lh__intercept_state;

	for (uint32_t i = 0; i < __atomic_load_n(&state->region_count, __ATOMIC_ACQUIRE); i++) {
		const struct lh_region *region = &state->region[i];

		if (rip < region->start || rip >= region->end)
			continue;
		for (uint32_t k = 0; k < region->moved_count; k++)
			if (rip == region->moved[k].from || rip == region->moved[k].from + 2)
				return region->moved[k].to + (rip - region->moved[k].from);
	}
	return rip;
}
