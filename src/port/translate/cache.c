/*
 * cache.c - the code cache, and what is known of the fragments in it (inside.h).
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

/* ---- fragments */

static size_t hash_of(uint64_t value)
{
	return (size_t)((value * 0x9e3779b97f4a7c15ull) >> 24);
}

/* What lies near each other in the program is looked up together, and lies near each other here. */
static struct fragment **bucket_of(const struct cache *cache, uint64_t address)
{
	return &cache->hash[((address >> 3) ^ (address >> 24) * 0x9e3779b1u) & cache->hash_mask];
}

struct fragment *lh__cache_find(const struct cache *cache, uint64_t address)
{
	struct fragment *fragment = *bucket_of(cache, address);

	while (fragment && fragment->address != address)
		fragment = fragment->next;
	return fragment;
}

static struct page *find_page(const struct cache *cache, uint64_t number)
{
	struct page *page = cache->pages[hash_of(number) & cache->page_mask];

	while (page && page->number != number)
		page = page->next;
	return page;
}

struct page *lh__cache_page_known(const struct cache *cache, uint64_t address)
{
	return find_page(cache, address / PAGE);
}

struct page *lh__cache_page(struct lh_translator *translator, uint64_t address, int *error)
{
	struct cache *cache = translator->current;
	uint64_t number = address / PAGE;
	struct page *page = find_page(cache, number), **head;

	if (page)
		return page;
	page = lh__cache_metadata(cache, sizeof(*page));
	*error = -ENOSPC;
	if (!page)
		return NULL;
	page->number = number;
	*error = lh__changed_page(translator, page);
	if (*error < 0)
		return NULL;
	head = &cache->pages[hash_of(number) & cache->page_mask];
	page->next = *head;
	*head = page;
	return page;
}

int lh__cache_add(struct cache *cache, struct fragment *fragment, struct page *page)
{
	struct fragment **head = bucket_of(cache, fragment->address);

	if (cache->order_count == cache->order_size)
		return -ENOSPC;
	cache->order[cache->order_count++] = fragment;
	fragment->forgotten = !page;
	if (!page)
		return 0;
	fragment->next = *head;
	*head = fragment;
	fragment->next_in_page = page->fragments;
	page->fragments = fragment;
	return 0;
}

/* A part of one aligned word, which threads may be executing. */
static void replace(struct cache *cache, uint32_t site, const void *bytes, size_t size)
{
	uint64_t *word = (uint64_t *)(void *)(cache->write + (site & ~7u)), now = *word;

	for (size_t i = 0; i < size; i++)
		((uint8_t *)&now)[(site & 7u) + i] = ((const uint8_t *)bytes)[i];
	__atomic_store_n(word, now, __ATOMIC_RELEASE);
}

/* The distance of a jump. */
static void patch(struct cache *cache, uint32_t site, uint32_t to)
{
	int32_t distance = (int32_t)(to - (site + 4));

	replace(cache, site, &distance, 4);
}

void lh__cache_link(struct lh_translator *translator, struct jump *jump, struct fragment *to)
{
	if (jump->to || !(jump->site | jump->fall) || jump->from->held)
		return;
	jump->to = to;
	jump->next = to->incoming;
	to->incoming = jump;
	if (jump->fall)
		return;
	patch(translator->current, jump->site, to->code);
	translator->counts.links++;
}

/*
 * From then on a jump leads aside from where the conditional one is, or nothing, to
 *     the conditional jump, as before; nop; jmp to the stub; 3 bytes; the stub
 * for which room has been kept. The jump's own record becomes that of the second one.
 */
void lh__cache_sever(struct cache *cache, struct jump *jump)
{
	struct jump *taken = jump->taken ? lh__jump(cache, jump->taken) : NULL;
	uint32_t at = (uint32_t)(cache->top - AROUND) & ~7u;
	uint8_t away[6] = { 0xe9, 0, 0, 0, 0, 0x90 }, *write = cache->write + at;
	int32_t distance = (int32_t)((taken ? at : at + 8) - (jump->fall + 5));

	cache->top = at;
	cache->kept -= AROUND + 7;
	if (taken)
		__builtin_memcpy(write, cache->write + jump->fall, 2);
	write[6] = write[7] = 0x90;
	write[8] = 0xe9;
	jump->stub = at + AROUND_STUB;
	lh__put_stub(write + AROUND_STUB, lh__number(cache, jump));
	jump->site = at + 9;
	patch(cache, jump->site, jump->stub);
	if (taken) {
		taken->site = at + 2;
		patch(cache, taken->site, taken->to ? taken->to->code : taken->stub);
	}
	__builtin_memcpy(away + 1, &distance, 4);
	replace(cache, jump->fall, away, taken ? 6 : 5);
	jump->fall = 0;
}

void lh__cache_unlink(struct cache *cache, struct jump *jump)
{
	struct jump **at;

	if (!jump->to)
		return;
	for (at = &jump->to->incoming; *at != jump; at = &(*at)->next)
		;
	*at = jump->next;
	jump->to = NULL;
	jump->next = NULL;
	if (jump->fall)
		lh__cache_sever(cache, jump);
	else
		patch(cache, jump->site, jump->stub);
}

/* Of those with an entry, by their target's 16 bits. */
static struct fragment **entries_of(struct cache *cache, uint64_t address)
{
	return &cache->entries[(address & (TABLE_ENTRIES - 1)) & cache->entry_mask];
}

void lh__cache_publish(struct cache *cache, struct fragment *fragment)
{
	struct fragment **head = entries_of(cache, fragment->address);
	uint64_t *slot = &cache->table[fragment->address & (TABLE_ENTRIES - 1)];

	/* What the table led to is where a miss of the new entry leads. */
	patch(cache, fragment->entry_next, (uint32_t)(*slot - (uint64_t)(uintptr_t)cache->execute));
	fragment->next_entry = *head;
	*head = fragment;
	__atomic_store_n(slot, (uint64_t)(uintptr_t)(cache->execute + fragment->entry), __ATOMIC_RELEASE);
}

static uint32_t leads_to(const struct cache *cache, uint32_t site)
{
	int32_t distance;

	__builtin_memcpy(&distance, cache->write + site, 4);
	return site + 4 + (uint32_t)distance;
}

/* Takes the entry out of the chain of its 16 bits. */
static void withdraw(struct cache *cache, struct fragment *fragment)
{
	struct fragment **at = entries_of(cache, fragment->address), *before = NULL;
	uint32_t next = leads_to(cache, fragment->entry_next);

	for (; *at != fragment; at = &(*at)->next_entry)
		if (((*at)->address ^ fragment->address) % TABLE_ENTRIES == 0)
			before = *at;
	*at = fragment->next_entry;
	if (before)
		patch(cache, before->entry_next, next);
	else
		__atomic_store_n(&cache->table[fragment->address & (TABLE_ENTRIES - 1)],
		                 (uint64_t)(uintptr_t)(cache->execute + next), __ATOMIC_RELEASE);
	fragment->entry_was = fragment->entry;
	fragment->entry = 0;
}

static struct fragment **dormant_of(struct cache *cache, uint64_t address)
{
	struct fragment **at = &cache->dormant[hash_of(address) & cache->page_mask];

	while (*at && (*at)->address != address)
		at = &(*at)->next;
	return at;
}

/* One for each address. */
static void rest(struct cache *cache, struct fragment *fragment)
{
	struct fragment **at = dormant_of(cache, fragment->address);

	fragment->next = *at ? (*at)->next : NULL;
	*at = fragment;
}

static bool same(const uint8_t *a, const uint8_t *b, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

struct fragment *lh__cache_revive(struct lh_translator *translator, uint64_t address)
{
	struct cache *cache = translator->current;
	struct fragment **at = dormant_of(cache, address), *fragment = *at, **head;
	struct page *page, *last;
	int error;

	if (!fragment)
		return NULL;
	*at = fragment->next;
	page = lh__cache_page(translator, address, &error);
	last = page ? lh__cache_page(translator, address + fragment->length - 1, &error) : NULL;
	if (!last || page->checked || last->checked ||
	    !same(fragment->source, (const uint8_t *)(uintptr_t)address, fragment->length))
		return NULL;
	head = bucket_of(cache, address);
	fragment->next = *head;
	*head = fragment;
	fragment->next_in_page = page->fragments;
	page->fragments = fragment;
	fragment->forgotten = false;
	fragment->entry = fragment->entry_was;
	fragment->entry_was = 0;
	if (fragment->entry)
		lh__cache_publish(cache, fragment);
	return fragment;
}

static void forget_fragment(struct cache *cache, struct fragment *fragment)
{
	struct fragment **at = bucket_of(cache, fragment->address);

	while (*at != fragment)
		at = &(*at)->next;
	*at = fragment->next;
	fragment->forgotten = true;
	if (fragment->entry)
		withdraw(cache, fragment);
	for (struct jump *jump = fragment->incoming, *next; jump; jump = next) {
		next = jump->next;
		if (jump->fall)
			lh__cache_sever(cache, jump);
		else
			patch(cache, jump->site, jump->stub);
		jump->to = NULL;
		jump->next = NULL;
	}
	fragment->incoming = NULL;
	if (fragment->source)
		rest(cache, fragment);
}

static void forget_in_page(struct cache *cache, struct page *page, uint64_t start, uint64_t end)
{
	struct fragment **at = &page->fragments;

	while (*at) {
		struct fragment *fragment = *at;

		if (fragment->address < end && fragment->address + fragment->length > start) {
			*at = fragment->next_in_page;
			forget_fragment(cache, fragment);
		} else {
			at = &fragment->next_in_page;
		}
	}
}

/* Pages are forgotten too where nothing is left of them: they may no longer be there to be read. */
static bool forget_bucket(struct cache *cache, size_t bucket, uint64_t start, uint64_t end)
{
	struct page **at = &cache->pages[bucket];
	bool any = false;

	while (*at) {
		struct page *page = *at;
		uint64_t first = page->number * PAGE;

		/* An instruction may begin in one page and end in the next. */
		if (first < end && first + 2 * PAGE > start)
			forget_in_page(cache, page, start, end);
		any |= first < end && first + PAGE > start;
		if (first < end && first + PAGE > start && !page->fragments)
			*at = page->next;
		else
			at = &page->next;
	}
	return any;
}

bool lh__cache_forget(struct lh_translator *translator, uint64_t start, uint64_t end)
{
	struct cache *cache = translator->current;
	uint64_t first = start / PAGE ? start / PAGE - 1 : 0, last = (end - 1) / PAGE;
	bool any = false;

	if (end <= start)
		return false;
	if (last - first >= cache->page_mask) {
		for (size_t i = 0; i <= cache->page_mask; i++)
			any |= forget_bucket(cache, i, start, end);
		return any;
	}
	for (uint64_t number = first; number <= last; number++)
		any |= forget_bucket(cache, hash_of(number) & cache->page_mask, start, end);
	return any;
}

/* The last fragment that begins at or before the offset, if it reaches there. */
static struct fragment *fragment_at(const struct cache *cache, uint32_t offset)
{
	size_t low = 0, high = cache->order_count;
	struct fragment *fragment;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (cache->order[middle]->code <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0)
		return NULL;
	fragment = cache->order[low - 1];
	return offset - fragment->code < fragment->code_size ? fragment : NULL;
}

struct fragment *lh__cache_fragment(const struct lh_translator *translator, uint64_t code, struct cache **out,
                                    int *instruction)
{
	struct cache *next = translator->retired;
	struct fragment *fragment = NULL;
	uint32_t offset = 0;

	for (struct cache *cache = translator->current; cache; cache = next, next = next ? next->next : NULL)
		if (code - (uint64_t)(uintptr_t)cache->execute < cache->size) {
			*out = cache;
			offset = (uint32_t)(code - (uint64_t)(uintptr_t)cache->execute);
			fragment = fragment_at(cache, offset);
			break;
		}
	if (!fragment)
		return NULL;
	*instruction = fragment->place_count - 1;
	while (*instruction >= 0 && fragment->places[*instruction].code > offset - fragment->code)
		--*instruction;
	return fragment;
}

uint64_t lh__cache_address(const struct lh_translator *translator, uint64_t code)
{
	struct cache *cache;
	int place;
	const struct fragment *fragment = lh__cache_fragment(translator, code, &cache, &place);

	return fragment && place >= 0 ? fragment->address + fragment->places[place].program : 0;
}
