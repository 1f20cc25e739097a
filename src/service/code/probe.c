/*
 * probe.c - puts probes into a process and takes them away (probe.h).
 *
 * For the functions of a module there is one arena near them: trampolines, then a page of counts for each,
 * then pages of slots for each. Counts are a file in memory that the process and we share; slots are private,
 * so that a child that it forks has its own of the calls that are under way, while its calls are counted with
 * its parent's.
 *
 * All that takes long is done while the process runs: find the functions, understand them, choose sites. Then
 * it is stopped once: memory, trampolines, jumps. What was looked at before is compared again.
 */
#include "service/code/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "service/code/probe_inside.h"
#include "service/code/safe.h"

#define PAGE 4096u
#define SLOTS_SIZE ((LH_PROBE_SLOTS * sizeof(struct lh_probe_slot) + PAGE - 1) / PAGE * PAGE)
_Static_assert(LH_PROBE_SHARDS * sizeof(struct lh_probe_cell) <= PAGE, "counts are one page");

/* One for a module, since a jump must reach it; few, since each costs system calls while all is stopped. */
struct arena {
	const char *module;
	uint64_t start, end; /* of all its functions */
	uint64_t base;       /* 0: not mapped */
	size_t text_size;    /* a multiple of a page */
	size_t first, count; /* of counts in the file */
};

struct probe {
	struct lh_probe_function function;
	struct lh_symbol symbol;
	struct lh_probe_code code;
	struct lh_probe_sites sites;
	struct lh_probe_layout layout;
	uint8_t *text;             /* the trampolines, as they were written */
	size_t text_size, text_at; /* text_at: in the arena */
	size_t arena, index;       /* index: in the arena */
	bool written;              /* its sites have, or may have, jumps in them */
};

struct lh_probes {
	struct lh_probe_process process;
	struct probe *probe;
	size_t count, room;
	struct arena *arena; /* count of them at most */
	size_t arenas;
	struct lh_probe_cell *cells; /* a page for each */
	const char *asked;           /* the name that is being looked for, */
	bool found;                  /* and whether there is such a function */
};

/* What only putting needs. */
static void forget_code(struct lh_probes *probes)
{
	for (size_t i = 0; i < probes->count; i++)
		lh__probe_code_free(&probes->probe[i].code);
	if (probes->process.symbols)
		lh__symbols_close(probes->process.symbols);
	if (probes->process.memory >= 0)
		close(probes->process.memory);
	probes->process.symbols = NULL;
	probes->process.memory = -1;
}

static void free_probes(struct lh_probes *probes)
{
	forget_code(probes);
	for (size_t i = 0; i < probes->count; i++) {
		struct probe *probe = &probes->probe[i];

		free((char *)probe->function.name);
		free((char *)probe->function.module);
		lh__probe_sites_free(&probe->sites);
		free(probe->text);
	}
	if (probes->cells)
		munmap(probes->cells, probes->count * PAGE);
	free(probes->arena);
	free(probes->probe);
	free(probes);
}

/* ---- finding ---- */

static int note_symbol(void *context, const struct lh_symbol *symbol)
{
	struct lh_probes *probes = context;
	struct probe *probe;

	if (!symbol->is_function)
		return 0;
	probes->found = true; /* and if it was asked for by another name, once is enough */
	for (size_t i = 0; i < probes->count; i++)
		if (probes->probe[i].symbol.address == symbol->address)
			return 0;
	if (probes->count == probes->room) {
		size_t room = probes->room ? probes->room * 2 : 4;
		struct probe *more = realloc(probes->probe, room * sizeof *more);

		if (!more)
			return -ENOMEM;
		probes->probe = more;
		probes->room = room;
	}
	probe = &probes->probe[probes->count++];
	*probe = (struct probe){ .symbol = *symbol };
	probe->function.name = strdup(probes->asked);
	probe->function.module = strdup(symbol->module);
	probe->function.address = symbol->address;
	return probe->function.name && probe->function.module ? 0 : -ENOMEM;
}

static int find_function(struct lh_probes *probes, const char *name, struct lh_error *error)
{
	const char *nearest;
	int result;

	probes->asked = name;
	probes->found = false;
	result = lh__symbols_find(probes->process.symbols, name, note_symbol, probes);
	if (result < 0)
		return lh__fail(error, result, "%s: its symbols cannot be read", name);
	if (probes->found)
		return 0;
	nearest = lh__symbols_nearest(probes->process.symbols, name);
	if (nearest)
		return lh__fail(error, -ENOENT, "%s: no such function; did you mean %s?", name, nearest);
	return lh__fail(error, -ENOENT, "%s: no such function in the program or its libraries", name);
}

struct in_file {
	uint64_t address;
	struct lh_mapping mapping;
};

static int find_mapping(void *context, const struct lh_mapping *mapping)
{
	struct in_file *where = context;

	if (where->address < mapping->start || where->address >= mapping->end)
		return 0;
	where->mapping = *mapping;
	return 1;
}

/* Whether memory has other code than the file; where the file cannot be read that is not known. */
static bool differs_from_file(pid_t process, const struct lh_probe_part *part)
{
	struct in_file where = { .address = part->address };
	char path[sizeof where.mapping.path + 32];
	uint8_t *file;
	bool differs = false;
	int fd;

	if (lh__mappings(process, find_mapping, &where) != 1 || where.mapping.path[0] != '/')
		return false;
	snprintf(path, sizeof path, "/proc/%d/root%s", process, where.mapping.path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	file = malloc(part->size);
	if (fd >= 0 && file &&
	    pread(fd, file, part->size,
	          (off_t)(part->address - where.mapping.start + where.mapping.offset)) == (ssize_t)part->size)
		differs = memcmp(file, part->code, part->size) != 0;
	free(file);
	if (fd >= 0)
		close(fd);
	return differs;
}

static int prepare(struct lh_probes *probes, struct probe *probe, struct lh_error *error)
{
	struct lh_error why = { 0 };
	int result;

	if (probe->symbol.is_indirect)
		return lh__fail(error, -ENOTSUP,
		                "%s: which function it is is chosen when the program starts; name one of its "
		                "variants",
		                probe->function.name);
	result = lh__probe_code_read(&probes->process, &probe->symbol, &probe->code, error);
	if (result < 0)
		return result;
	for (uint32_t i = 0; i < probe->code.parts; i++)
		if (differs_from_file(probes->process.id, &probe->code.part[i]))
			return lh__fail(error, -EBUSY,
			                "%s: its code has been changed: a patch, a breakpoint or another "
			                "trace is on it",
			                probe->function.name);
	result = lh__probe_sites_choose(&probe->code, &probe->sites, probe->function.why_not, &why);
	if (result < 0)
		return lh__fail(error, result, "%s: cannot be probed: %s", probe->function.name, why.text);
	return 0;
}

/* ---- putting ---- */

static size_t arena_size(const struct arena *arena)
{
	return arena->text_size + arena->count * (PAGE + SLOTS_SIZE);
}

/* Which arena a function's trampolines go to, and where in it. */
static void assign(struct lh_probes *probes, struct probe *probe)
{
	struct arena *arena;
	size_t i = 0;

	while (i < probes->arenas && strcmp(probes->arena[i].module, probe->function.module) != 0)
		i++;
	arena = &probes->arena[i];
	if (i == probes->arenas) {
		*arena = (struct arena){ .module = probe->function.module, .start = UINT64_MAX };
		probes->arenas++;
	}
	for (uint32_t k = 0; k < probe->code.parts; k++) {
		const struct lh_probe_part *part = &probe->code.part[k];

		arena->start = part->address < arena->start ? part->address : arena->start;
		if (part->address + part->size > arena->end)
			arena->end = part->address + part->size;
	}
	probe->arena = i;
	probe->index = arena->count++;
	probe->text_at = arena->text_size;
	probe->text_size = (lh__probe_text_bound(&probe->sites) + 63) / 64 * 64;
	arena->text_size += probe->text_size;
}

static int make_arenas(struct lh_probes *probes)
{
	size_t first = 0;

	probes->arena = calloc(probes->count, sizeof *probes->arena);
	if (!probes->arena)
		return -ENOMEM;
	for (size_t i = 0; i < probes->count; i++)
		assign(probes, &probes->probe[i]);
	for (size_t i = 0; i < probes->arenas; i++) {
		struct arena *arena = &probes->arena[i];

		arena->text_size = (arena->text_size + PAGE - 1) / PAGE * PAGE;
		arena->first = first;
		first += arena->count;
	}
	return 0;
}

static void place(struct lh_probes *probes)
{
	for (size_t i = 0; i < probes->count; i++) {
		struct probe *probe = &probes->probe[i];
		const struct arena *arena = &probes->arena[probe->arena];

		probe->layout.text = arena->base + probe->text_at;
		probe->layout.counts = arena->base + arena->text_size + probe->index * PAGE;
		probe->layout.slots =
			arena->base + arena->text_size + arena->count * PAGE + probe->index * SLOTS_SIZE;
	}
}

static long remote_map(struct lh_remote *remote, uint64_t address, size_t size, int rights, int flags, int fd,
                       uint64_t offset)
{
	const long argument[6] = { (long)address, (long)size, rights, flags, fd, (long)offset };

	return lh__remote_syscall(remote, SYS_mmap, argument);
}

static long remote_unmap(struct lh_remote *remote, uint64_t address, size_t size)
{
	return lh__remote_syscall(remote, SYS_munmap, (const long[6]){ (long)address, (long)size });
}

/* Trampolines are never writable: they are written as a debugger would. */
static int map_arena(struct lh_remote *remote, struct arena *arena)
{
	uint64_t base =
		lh__mappings_gap(lh__remote_process(remote), arena->start, arena->end, arena_size(arena));
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	long got;

	if (!base)
		return -ENOSPC;
	got = remote_map(remote, base, arena_size(arena), PROT_READ | PROT_EXEC, flags | MAP_FIXED_NOREPLACE,
	                 -1, 0);
	if (got < 0)
		return (int)got;
	arena->base = base;
	got = remote_map(remote, base + arena->text_size + arena->count * PAGE, arena->count * SLOTS_SIZE,
	                 PROT_READ | PROT_WRITE, flags | MAP_FIXED, -1, 0);
	return got < 0 ? (int)got : 0;
}

/* Those whose functions all are as they were. */
static void unmap(struct lh_probes *probes, struct lh_remote *remote)
{
	for (size_t i = 0; i < probes->arenas; i++) {
		bool used = false;

		for (size_t k = 0; k < probes->count; k++)
			used |= probes->probe[k].arena == i && probes->probe[k].written;
		if (!used && probes->arena[i].base)
			(void)remote_unmap(remote, probes->arena[i].base, arena_size(&probes->arena[i]));
	}
}

/* A file in memory, made by the process: so it is found, whatever either of us sees of the file system. */
static int share_counts(struct lh_probes *probes, struct lh_remote *remote)
{
	static const char name[] = "linehome-probe";
	uint64_t scratch = probes->probe[0].layout.slots;
	char path[64];
	long fd, result = lh__remote_write(remote, scratch, name, sizeof name);
	int own = -1;

	if (result < 0)
		return (int)result;
	fd = lh__remote_syscall(remote, SYS_memfd_create, (const long[6]){ (long)scratch, MFD_CLOEXEC });
	if (fd < 0)
		return (int)fd;
	result = lh__remote_syscall(remote, SYS_ftruncate,
	                            (const long[6]){ fd, (long)(probes->count * PAGE) });
	snprintf(path, sizeof path, "/proc/%d/fd/%ld", lh__remote_process(remote), fd);
	if (result == 0) {
		own = open(path, O_RDWR | O_CLOEXEC);
		result = own < 0 ? -errno : 0;
	}
	if (result == 0) {
		void *cells = mmap(NULL, probes->count * PAGE, PROT_READ, MAP_SHARED, own, 0);

		result = cells == MAP_FAILED ? -errno : 0;
		probes->cells = cells == MAP_FAILED ? NULL : cells;
	}
	for (size_t i = 0; result == 0 && i < probes->arenas; i++) {
		const struct arena *arena = &probes->arena[i];
		long got = remote_map(remote, arena->base + arena->text_size, arena->count * PAGE,
		                      PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, (int)fd,
		                      arena->first * PAGE);

		result = got < 0 ? got : 0;
	}
	if (own >= 0)
		close(own);
	if (lh__remote_syscall(remote, SYS_close, (const long[6]){ fd }) < 0 && result == 0)
		result = -EIO;
	if (result == 0)
		result = lh__remote_write(remote, scratch, (const uint8_t[sizeof name]){ 0 }, sizeof name);
	return (int)result;
}

static int write_text(struct lh_remote *remote, struct probe *probe)
{
	int result;

	probe->text = calloc(1, probe->text_size);
	if (!probe->text)
		return -ENOMEM;
	result = lh__probe_text_write(&probe->code, &probe->sites, &probe->layout, probe->text,
	                              probe->text_size);
	if (result == -EILSEQ && probe->sites.timed) {
		lh__probe_sites_untimed(&probe->sites);
		lh__format(probe->function.why_not, sizeof probe->function.why_not,
		           "an instruction before one of its exits cannot be moved");
		result = lh__probe_text_write(&probe->code, &probe->sites, &probe->layout, probe->text,
		                              probe->text_size);
	}
	probe->function.timed = probe->sites.timed;
	return result < 0 ? result
	                  : lh__remote_write(remote, probe->layout.text, probe->text, probe->text_size);
}

/* The code that was understood is what is there. */
static int compare(struct lh_remote *remote, const struct probe *probe)
{
	int result = 0;

	for (uint32_t i = 0; result == 0 && i < probe->code.parts; i++) {
		const struct lh_probe_part *part = &probe->code.part[i];
		uint8_t *now = malloc(part->size);

		result = now ? lh__remote_read(remote, part->address, now, part->size) : -ENOMEM;
		if (result == 0 && memcmp(now, part->code, part->size) != 0)
			result = -EBUSY;
		free(now);
	}
	return result;
}

static int write_sites(struct lh_remote *remote, const struct probe *probe, bool on)
{
	int result = 0;

	for (uint32_t i = 0; i < probe->sites.edits; i++) {
		const struct lh_probe_edit *edit = &probe->sites.edit[i];
		int one =
			lh__remote_write(remote, edit->address, on ? edit->after : edit->before, edit->size);

		if (one < 0) {
			result = one;
			if (on)
				break;
		}
	}
	return result;
}

static void undo(struct lh_probes *probes, struct lh_remote *remote)
{
	for (size_t i = 0; i < probes->count; i++) {
		struct probe *probe = &probes->probe[i];

		if (probe->written && write_sites(remote, probe, false) == 0)
			probe->written = false; /* else its trampolines must stay */
	}
	unmap(probes, remote);
}

static int install(struct lh_probes *probes, struct lh_remote *remote, struct lh_error *error)
{
	const char *name = probes->probe[0].function.name;
	int result = 0;

	for (size_t i = 0; result == 0 && i < probes->count; i++) {
		name = probes->probe[i].function.name;
		result = compare(remote, &probes->probe[i]);
	}
	for (size_t i = 0; result == 0 && i < probes->arenas; i++)
		result = map_arena(remote, &probes->arena[i]);
	place(probes);
	if (result == 0)
		result = share_counts(probes, remote);
	for (size_t i = 0; result == 0 && i < probes->count; i++) {
		name = probes->probe[i].function.name;
		result = write_text(remote, &probes->probe[i]);
	}
	for (size_t i = 0; result == 0 && i < probes->count; i++) {
		name = probes->probe[i].function.name;
		probes->probe[i].written = true;
		result = write_sites(remote, &probes->probe[i], true);
	}
	if (result == 0)
		return 0;
	undo(probes, remote);
	return lh__fail(error, result, "%s: its probe cannot be put (%s); nothing is changed", name,
	                lh__errno_name(result));
}

/* What the sites change; *n of them. NULL: no memory. */
static struct lh_safe_range *site_ranges(const struct lh_probes *probes, size_t *n)
{
	struct lh_safe_range *range;

	*n = 0;
	for (size_t i = 0; i < probes->count; i++)
		*n += probes->probe[i].sites.edits;
	range = calloc(*n, sizeof *range);
	*n = 0;
	for (size_t i = 0; range && i < probes->count; i++)
		for (uint32_t k = 0; k < probes->probe[i].sites.edits; k++) {
			const struct lh_probe_edit *edit = &probes->probe[i].sites.edit[k];

			range[(*n)++] = (struct lh_safe_range){ edit->address - edit->is_island,
				                                edit->address + edit->size };
		}
	return range;
}

static int put(struct lh_probes *probes, const char *const *functions, size_t n, unsigned wait_ms,
               struct lh_error *error)
{
	struct lh_safe_tally tally = { 0 };
	struct lh_safe_range *range;
	struct lh_remote *remote;
	int result;

	result = lh__symbols_open(probes->process.id, &probes->process.symbols, error);
	for (size_t i = 0; result == 0 && i < n; i++)
		result = find_function(probes, functions[i], error);
	for (size_t i = 0; result == 0 && i < probes->count; i++)
		result = prepare(probes, &probes->probe[i], error);
	if (result < 0)
		return result;
	range = site_ranges(probes, &n);
	if (!range || make_arenas(probes) < 0) {
		free(range);
		return lh__fail(error, -ENOMEM, "no memory");
	}
	result = lh__safe_stop(probes->process.id, range, n, wait_ms, false, &remote, &tally, error);
	free(range);
	if (result < 0)
		return result;
	result = install(probes, remote, error);
	lh__remote_release(remote);
	return result;
}

int lh__probes_put(pid_t process, const char *const *functions, size_t n, unsigned wait_ms,
                   struct lh_probes **out, struct lh_error *error)
{
	struct lh_probes *probes = calloc(1, sizeof *probes);
	char path[32];
	int result;

	if (!probes)
		return lh__fail(error, -ENOMEM, "no memory");
	if (n == 0) {
		free(probes);
		return lh__fail(error, -EINVAL, "no function is named");
	}
	probes->process.id = process;
	snprintf(path, sizeof path, "/proc/%d/mem", process);
	probes->process.memory = open(path, O_RDONLY | O_CLOEXEC);
	if (probes->process.memory < 0) {
		result = errno == ENOENT ? -ESRCH : -errno;
		free_probes(probes);
		return lh__fail(error, result,
		                result == -ESRCH ? "process %d: there is none"
		                                 : "process %d: it may not be traced",
		                process);
	}
	result = put(probes, functions, n, wait_ms, error);
	if (result < 0) {
		free_probes(probes);
		return result;
	}
	forget_code(probes);
	*out = probes;
	return 0;
}

/* ---- reading ---- */

size_t lh__probes_count(const struct lh_probes *probes)
{
	return probes->count;
}

const struct lh_probe_function *lh__probes_function(const struct lh_probes *probes, size_t index)
{
	return &probes->probe[index].function;
}

/* Returns before calls, so that there are never more of them. */
void lh__probes_read(const struct lh_probes *probes, size_t index, struct lh_probe_counts *counts)
{
	const struct probe *probe = &probes->probe[index];
	size_t page = probes->arena[probe->arena].first + probe->index;
	const struct lh_probe_cell *cell =
		(const struct lh_probe_cell *)((const char *)probes->cells + page * PAGE);

	*counts = (struct lh_probe_counts){ 0 };
	for (unsigned shard = 0; shard < LH_PROBE_SHARDS; shard++) {
		counts->ticks += __atomic_load_n(&cell[shard].ticks, __ATOMIC_RELAXED);
		for (unsigned i = 0; i < LH_PROBE_BUCKETS; i++) {
			uint64_t n = __atomic_load_n(&cell[shard].bucket[i], __ATOMIC_ACQUIRE);

			counts->bucket[i] += n;
			counts->returns += n;
		}
	}
	for (unsigned shard = 0; shard < LH_PROBE_SHARDS; shard++)
		counts->calls += __atomic_load_n(&cell[shard].calls, __ATOMIC_ACQUIRE);
}

uint64_t lh__probe_ticks_per_second(void)
{
	struct timespec from, to, pause = { .tv_nsec = 20000000 };
	uint64_t ticks, ns;

	clock_gettime(CLOCK_MONOTONIC, &from);
	ticks = __rdtsc();
	nanosleep(&pause, NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	ticks = __rdtsc() - ticks;
	ns = (uint64_t)(to.tv_sec - from.tv_sec) * 1000000000u + (uint64_t)to.tv_nsec -
	     (uint64_t)from.tv_nsec;
	return (uint64_t)((double)ticks * 1e9 / (double)ns);
}

/* ---- taking ---- */

/* Whether these are our trampolines: the process may have executed another program meanwhile. */
static bool is_ours(struct lh_remote *remote, const struct probe *probe)
{
	uint8_t *now = malloc(probe->text_size);
	bool same = now && lh__remote_read(remote, probe->layout.text, now, probe->text_size) == 0 &&
	            memcmp(now, probe->text, probe->text_size) == 0;

	free(now);
	return same;
}

/* Brings a function's bytes back: 0, or -EBUSY where somebody has changed them since. */
static int restore(struct lh_remote *remote, struct probe *probe)
{
	int result = 0;

	for (uint32_t i = 0; i < probe->sites.edits; i++) {
		const struct lh_probe_edit *edit = &probe->sites.edit[i];
		uint8_t now[LH_MOVE_JUMP];
		int one = lh__remote_read(remote, edit->address, now, edit->size);

		if (one == 0 && memcmp(now, edit->before, edit->size) == 0)
			continue;
		if (one == 0 && memcmp(now, edit->after, edit->size) != 0)
			one = -EBUSY;
		if (one == 0)
			one = lh__remote_write(remote, edit->address, edit->before, edit->size);
		result = one < 0 ? one : result;
	}
	return result;
}

/* Trampolines that nobody can come to any more, as ranges in which nobody may be. */
static size_t text_ranges(const struct lh_probes *probes, struct lh_safe_range *range)
{
	size_t n = 0;

	for (size_t i = 0; i < probes->arenas; i++)
		if (probes->arena[i].base)
			range[n++] =
				(struct lh_safe_range){ probes->arena[i].base - 1,
				                        probes->arena[i].base + probes->arena[i].text_size };
	return n;
}

/* What cannot be brought back keeps its trampolines: somebody may still come through. */
static int restore_all(struct lh_probes *probes, struct lh_remote *remote, struct lh_error *error)
{
	int changed = 0;

	for (size_t i = 0; i < probes->count; i++) {
		struct probe *probe = &probes->probe[i];
		int result;

		if (!is_ours(remote, probe)) { /* then nothing of the arena is */
			probes->arena[probe->arena].base = 0;
			continue;
		}
		result = restore(remote, probe);
		if (result == 0)
			probe->written = false;
		else
			changed = lh__fail(error, result,
			                   "%s: its code has been changed since; it is left as it is",
			                   probe->function.name);
	}
	return changed;
}

/* range: room for as many as there are edits. */
static int take(struct lh_probes *probes, struct lh_safe_range *range, size_t n, unsigned wait_ms,
                struct lh_error *error)
{
	struct lh_safe_tally tally = { 0 };
	struct lh_remote *remote;
	int result, changed;

	result = lh__safe_stop(probes->process.id, range, n, wait_ms, true, &remote, &tally, error);
	if (result < 0)
		return result == -ESRCH ? 0 : result;
	changed = restore_all(probes, remote, error);
	n = text_ranges(probes, range);
	result = lh__safe_point(remote, range, n, NULL);
	if (result == 0)
		unmap(probes, remote);
	lh__remote_release(remote);
	if (result == 1) {
		result = lh__safe_stop(probes->process.id, range, n, wait_ms, true, &remote, &tally, NULL);
		if (result == 0) {
			unmap(probes, remote);
			lh__remote_release(remote);
		}
		result = result == -EBUSY ? 1 : result == -ESRCH ? 0 : result;
	}
	return changed ? changed : result;
}

int lh__probes_take(struct lh_probes *probes, unsigned wait_ms, struct lh_error *error)
{
	size_t n;
	struct lh_safe_range *range = site_ranges(probes, &n);
	int result;

	result = range ? take(probes, range, n, wait_ms, error) : lh__fail(error, -ENOMEM, "no memory");
	free(range);
	free_probes(probes);
	return result;
}
