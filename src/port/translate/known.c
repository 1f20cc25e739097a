/*
 * known.c - the fragments that a cache holds, by address and by page (inside.h).
 *
 * What is forgotten is found no more, and nothing leads there. Its code stays, and by the code's place it is
 * still found (lh__cache_fragment): a thread may be in it. One that was made of memory that JITs write rests,
 * and comes back if the same code is there again.
 */
#include "port/translate/inside.h"

#include <errno.h>

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
		lh__cache_withdraw(cache, fragment);
	lh__cache_unlink_all(cache, fragment);
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
