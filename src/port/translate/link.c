/*
 * link.c - what leads to a fragment: jumps of others, the one that it follows directly, and the table
 * (inside.h).
 *
 * Threads execute meanwhile. Each change is one of an aligned word, and is true whether they see it or not.
 */
#include "port/translate/encode.h"

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

void lh__cache_unlink_all(struct cache *cache, struct fragment *fragment)
{
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
void lh__cache_withdraw(struct cache *cache, struct fragment *fragment)
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
