/*
 * fragment.c - the parts of a fragment are put together, and it becomes known (build.h).
 *
 * Its code begins at the cache's end, with an entry where it is reached by its address. What is executed
 * once, or not at all, its constants and the stubs of its jumps, lies aside, from the cache's other end
 * downwards; so code that is executed lies close together, and a block can fall into the next.
 */
#include "port/translate/build.h"

#include <errno.h>

#define ROOM ((size_t)60 << 10) /* for one block, a client's code included: struct place counts in 16 bits */
/* What one may have at the cache's other end. */
#define ASIDE (LITERALS * LITERAL_WORDS * 8 + JUMPS * (STUB + AROUND) + 16)

struct lh_emitter *lh__fragment_begin(struct lh_translator *translator, bool follows)
{
	struct lh_emitter *emitter = translator->emitter;
	struct cache *cache = translator->current;
	size_t start = follows ? cache->used : (cache->used + 15) & ~(size_t)15;
	size_t needed = start + cache->kept + ASIDE, room = needed < cache->top ? cache->top - needed : 0;

	emitter->translator = translator;
	emitter->cache = cache;
	emitter->start = emitter->at = cache->write + start;
	emitter->end = emitter->start + (room < ROOM ? room : ROOM);
	emitter->full = false;
	emitter->labels = emitter->literals = emitter->jumps = 0;
	emitter->tail = NULL;
	return emitter;
}

/* Only rax, the target, and rcx are lost to who comes here, and both are spilled. */
uint32_t lh__put_entry(struct lh_emitter *emitter, uint64_t address, uint32_t *start)
{
	uint64_t minus = (uint64_t)0 - address;
	uint32_t next;

	lh__put_nops(emitter, minus <= UINT32_MAX ? 12 : minus == (uint64_t)(int32_t)minus ? 14 : 17, 4);
	*start = lh__offset_in(emitter, emitter->at);
	lh__put_constant(emitter, RCX, minus);
	lh__put_bytes(emitter, 0x010c8d48, 4); /* lea (%rcx,%rax), %rcx */
	lh__put_bytes(emitter, 0xe905e3, 3);   /* jrcxz over the jump */
	next = lh__offset_in(emitter, emitter->at);
	lh__put_word(emitter, 0);
	lh__put_gs(emitter, OP_LOAD, RCX, LH_T_SPILL + 8);
	lh__put_gs(emitter, OP_LOAD, RAX, LH_T_SPILL);
	return next;
}

static struct lh_translated_instruction shown(const struct decoded *decoded)
{
	return (struct lh_translated_instruction){
		.address = decoded->address,
		.bytes = decoded->bytes,
		.length = decoded->instruction.length,
		.decoded = &decoded->instruction,
		.operands = decoded->operands,
		.accesses = &decoded->accesses,
		.live_before = decoded->live,
	};
}

static void see(struct lh_emitter *emitter, const struct block *block, unsigned i, bool after)
{
	const struct lh_translate_client *client = &block->translator->client;
	const struct decoded *decoded = &block->decoded[i];
	uint32_t live = !after ? decoded->live : i + 1 < block->count ? decoded[1].live : LH_LIVE_ALL;
	struct lh_translated_instruction instruction = shown(decoded);

	lh__emit_turn(emitter, live, &decoded->accesses);
	if (after)
		client->after(client->context, emitter, &instruction);
	else
		client->before(client->context, emitter, &instruction);
}

static void see_block(struct lh_emitter *emitter, const struct block *block)
{
	const struct lh_translate_client *client = &block->translator->client;
	struct lh_translated_instruction instruction[LH_BLOCK_INSTRUCTIONS];

	for (unsigned i = 0; i < block->count; i++)
		instruction[i] = shown(&block->decoded[i]);
	lh__emit_turn(emitter, block->decoded[0].live, NULL);
	client->block(client->context, emitter, block->address, block->count, instruction);
}

void lh__put_block(struct lh_emitter *emitter, struct block *block)
{
	const struct lh_translate_client *client = &block->translator->client;

	if (client->block)
		see_block(emitter, block);
	for (unsigned i = 0; i < block->count && !emitter->full; i++) {
		struct decoded *decoded = &block->decoded[i];

		if (client->before && decoded->kind != NATIVE)
			see(emitter, block, i, false);
		if (decoded->kind == PLAIN)
			lh__put_plain(emitter, block, decoded);
		else
			lh__put_leave(emitter, block, decoded);
		if (client->after && decoded->kind == PLAIN)
			see(emitter, block, i, true);
	}
	if (block->decoded[block->count - 1].kind == PLAIN ||
	    block->decoded[block->count - 1].kind == READ_GS)
		lh__put_jump_on(emitter, block, block->address + block->length);
}

/* Constants, to which the code refers. */
static void put_literals(struct lh_emitter *emitter)
{
	for (unsigned i = 0; i < emitter->literals; i++) {
		lh__put_distance(emitter->literal[i].site, emitter->at);
		lh__put(emitter, emitter->literal[i].value, 8 * emitter->literal[i].count);
	}
}

/* Where a jump leads that is not linked: its number to the context, and to the translator. */
static int put_stub(struct lh_emitter *emitter, unsigned i, struct jump **out)
{
	struct jump *jump = lh__cache_metadata(emitter->cache, sizeof(*jump));

	if (!jump || emitter->full)
		return -ENOSPC;
	out[i] = jump;
	jump->target = emitter->jump[i].target;
	if (emitter->jump[i].fall) {
		jump->fall = lh__offset_in(emitter, emitter->jump[i].fall);
		jump->taken = i ? lh__number(emitter->cache, out[i - 1]) : 0;
		emitter->cache->kept += AROUND + 7;
		return 0;
	}
	jump->stub = lh__offset_in(emitter, emitter->at);
	jump->plain = lh__offset_in(emitter, emitter->jump[i].plain);
	jump->thread = lh__offset_in(emitter, emitter->jump[i].thread);
	jump->fork = lh__offset_in(emitter, emitter->jump[i].fork);
	jump->length = emitter->jump[i].length;
	jump->stale = emitter->jump[i].stale;
	jump->site = jump->plain || jump->stale ? 0 : lh__offset_in(emitter, emitter->jump[i].site);
	lh__put_distance(emitter->jump[i].site, emitter->at);
	if (emitter->jump[i].child_site)
		lh__put_distance(emitter->jump[i].child_site, emitter->cache->write + out[i - 1]->stub);
	lh__put_stub(emitter->at, lh__number(emitter->cache, jump));
	emitter->at += STUB;
	return 0;
}

/* What is executed once, or not at all, lies apart, from the end of the cache downwards. */
static int put_aside(struct lh_emitter *emitter, struct jump **jumps)
{
	struct cache *cache = emitter->cache;
	size_t size = 0;

	for (unsigned i = 0; i < emitter->jumps; i++)
		size += emitter->jump[i].fall ? 0 : STUB;
	for (unsigned i = 0; i < emitter->literals; i++)
		size += 8 * emitter->literal[i].count;
	cache->used = lh__offset_in(emitter, emitter->at);
	emitter->end = cache->write + cache->top;
	cache->top = (cache->top - size) & ~(size_t)7;
	emitter->at = cache->write + cache->top;
	put_literals(emitter);
	for (unsigned i = 0; i < emitter->jumps; i++)
		if (put_stub(emitter, i, jumps) < 0)
			return -ENOSPC;
	return 0;
}

/* The fragment is written; now it is known, and what it jumps to that is there is linked. */
int lh__fragment_finish(struct lh_emitter *emitter, struct block *block, const uint32_t entry[2],
                        struct fragment **out)
{
	struct cache *cache = emitter->cache;
	struct fragment *fragment = lh__cache_metadata(cache, sizeof(*fragment));
	struct place *places = lh__cache_metadata(cache, block->places * sizeof(*places));
	bool keep = block->page && block->page->made && !block->checked && !block->unknown;
	uint8_t *source = keep ? lh__cache_metadata(cache, block->length) : NULL;
	struct jump *jumps[JUMPS];
	struct fragment *to;
	size_t top = cache->top;

	if (!fragment || !places || (keep && !source))
		return -ENOSPC;
	if (keep)
		lh__block_source(block, source);
	fragment->source = source;
	fragment->checked = block->checked;
	for (unsigned i = 0; i < block->places; i++)
		places[i] = block->place[i];
	fragment->address = block->address;
	fragment->length = block->unknown ? ZYDIS_MAX_INSTRUCTION_LENGTH : block->length;
	fragment->code = lh__offset_in(emitter, block->start);
	fragment->code_size = (uint32_t)(emitter->at - block->start);
	if (put_aside(emitter, jumps) < 0)
		return -ENOSPC;
	fragment->instructions = (uint16_t)block->count;
	fragment->place_count = (uint16_t)block->places;
	fragment->places = places;
	fragment->body = fragment->code_size;
	fragment->tail = emitter->tail ? (uint32_t)(emitter->tail - block->start) : 0;
	fragment->jump_count = emitter->jumps;
	fragment->jumps = jumps[0];
	block->translator->counts.bytes +=
		cache->used - (size_t)(emitter->start - cache->write) + top - cache->top;
	if (lh__cache_add(cache, fragment, block->page) < 0)
		return -ENOSPC;
	fragment->entry = entry[1] ? entry[0] : 0;
	fragment->entry_next = entry[1];
	for (unsigned i = 0; i < emitter->jumps; i++)
		jumps[i]->from = fragment;
	for (unsigned i = 0; i < emitter->jumps; i++)
		if (jumps[i]->fall)
			block->fall = jumps[i];
		else if ((to = lh__cache_find(cache, jumps[i]->target)))
			lh__cache_link(block->translator, jumps[i], to);
	*out = fragment;
	return 0;
}
