/*
 * build.c - a block of the program becomes a fragment (inside.h, build.h).
 *
 * With it, a few of those are made that are executed next if the last jump is not taken, or for sure: each is
 * a fragment of its own, directly behind the one before, which falls into it. Where one is forgotten, what
 * falls into it is led around by a jump (lh__cache_sever).
 *
 * What is not made of the program's code: functions that are called natively, and the translator's own.
 */
#include "port/translate/build.h"

#include <errno.h>

#define RUN 4u /* blocks that are made at once, at most, and one more */

void lh__build_rooms(size_t *decoded, size_t *emitter)
{
	*decoded = (2 * LH_BLOCK_INSTRUCTIONS * sizeof(struct decoded) + PAGE - 1) & ~(size_t)(PAGE - 1);
	*emitter = (sizeof(struct lh_emitter) + PAGE - 1) & ~(size_t)(PAGE - 1);
}

int lh__build_entry(struct lh_translator *translator, struct fragment *fragment)
{
	struct lh_emitter *emitter = lh__fragment_begin(translator, false);
	uint32_t next;

	next = lh__put_entry(emitter, fragment->address, &fragment->entry);
	lh__put_bytes(emitter, 0xe9, 1);
	lh__put_word(emitter, 0);
	if (emitter->full)
		return -ENOSPC;
	lh__put_distance(emitter->at - 4, emitter->cache->write + fragment->code);
	translator->current->used = lh__offset_in(emitter, emitter->at);
	fragment->entry_next = next;
	lh__cache_publish(translator->current, fragment);
	return 0;
}

/* What the translator itself does natively, for threads that are translated: it uses gs, and its lock. */
static uint64_t own_function(uint64_t address)
{
	const struct {
		uint64_t function;
		const char *inside;
	} own[] = {
		{ (uint64_t)(uintptr_t)lh__translate_begin, lh__translate_begin_inside },
		{ (uint64_t)(uintptr_t)lh__translate_end, lh__translate_end_inside },
		{ (uint64_t)(uintptr_t)lh__translate_forget, lh__translate_forget_inside },
		{ (uint64_t)(uintptr_t)lh__translate_is_on, lh__translate_is_on_inside },
		{ (uint64_t)(uintptr_t)lh__translate_is_here, lh__translate_is_here_inside },
		{ (uint64_t)(uintptr_t)lh__translate_thread_bytes, lh__translate_bytes_inside },
		{ (uint64_t)(uintptr_t)lh__translate_native_back, lh__translate_native_back },
	};

	for (unsigned i = 0; i < sizeof(own) / sizeof(*own); i++)
		if (own[i].function == address)
			return (uint64_t)(uintptr_t)own[i].inside;
	return 0;
}

/* A client's (lh__translate_native), and those of ours that take the lock. */
static bool is_native(const struct lh_translator *translator, uint64_t address)
{
	if (address == (uint64_t)(uintptr_t)lh__translate_native ||
	    address == (uint64_t)(uintptr_t)lh__translate_address)
		return true;
	for (unsigned i = 0; i < translator->native_count; i++)
		if (translator->natives[i] == address)
			return true;
	return false;
}

static int build_block(struct block *block, bool entered, bool follows, struct fragment **out)
{
	struct lh_emitter *emitter = lh__fragment_begin(block->translator, follows);
	uint64_t own = own_function(block->address);
	uint32_t entry[2] = { 0, 0 };

	if (entered)
		entry[1] = lh__put_entry(emitter, block->address, &entry[0]);
	block->places = 0;
	block->start = emitter->at;
	if (block->checked && !own && !is_native(block->translator, block->address))
		lh__put_check(emitter, block);
	if (own) {
		lh__put_native(emitter, own);
	} else if (is_native(block->translator, block->address)) {
		lh__put_constant(emitter, R11, block->address);
		lh__put_native(emitter, (uint64_t)(uintptr_t)lh__translate_native_call);
	} else {
		lh__put_block(emitter, block);
	}
	return emitter->full ? -ENOSPC : lh__fragment_finish(emitter, block, entry, out);
}

static void count(struct block *block)
{
	struct lh_translate_counts *counts = &block->translator->counts;

	counts->blocks++;
	counts->instructions += block->count;
	if (block->decoded[0].kind == ALONE || block->decoded[0].kind == NATIVE)
		counts->slow++;
}

int lh__build_rest(struct lh_translator *translator, uint64_t address, struct fragment **out)
{
	struct block block = { .translator = translator, .decoded = translator->decoded, .address = address };
	int error;

	block.page = lh__cache_page(translator, address, &error);
	if (!block.page)
		return error;
	lh__block_decode(&block, 1);
	lh__block_analyse(&block);
	block.page = NULL;
	return build_block(&block, false, false, out);
}

/* What is executed next, if one can say, and nothing else than the block's last jump: else 0. */
static uint64_t follower_of(const struct block *block)
{
	const struct decoded *last = &block->decoded[block->count - 1];

	switch (last->kind) {
	case PLAIN:
	case READ_GS:
	case CONDITIONAL: return lh__next_of(last);
	case JUMP:
	case CALL: return lh__branch_target(last);
	default: return 0;
	}
}

/*
 * Code of this page may be read before it is executed: it is a file's, or stores to it will be seen. What a
 * JIT has not written yet is not code.
 */
static bool may_follow(const struct lh_translator *translator, const struct page *page)
{
	return page && !page->checked && (!page->made || translator->guards);
}

/* The block that is made next, and follows directly: one that is not known yet, whose page is. */
static bool look_ahead(const struct block *block, struct block *next)
{
	struct lh_translator *translator = block->translator;
	uint64_t address = own_function(block->address) ? 0 : follower_of(block);

	if (!address || address == block->address || block->checked ||
	    is_native(translator, block->address) || own_function(address) || is_native(translator, address))
		return false;
	next->page = lh__cache_page_known(translator->current, address);
	if (!may_follow(translator, next->page) || lh__cache_find(translator->current, address))
		return false;
	next->translator = translator;
	next->address = address;
	lh__block_decode(next, LH_BLOCK_INSTRUCTIONS);
	return next->decoded[0].kind != ALONE && next->decoded[0].kind != NATIVE && !next->checked;
}

/* A decoded block; next is where the one goes that follows it directly, or NULL. */
static int build_one(struct block *block, struct block *next, bool entered, bool follows,
                     struct fragment **out)
{
	int error = -ENOSPC;

	/* A client may put so much into a block that it does not fit: then fewer instructions. */
	for (unsigned most = LH_BLOCK_INSTRUCTIONS; most > 0 && error == -ENOSPC; most /= 4) {
		if (most < LH_BLOCK_INSTRUCTIONS)
			lh__block_decode(block, most);
		lh__block_analyse(block);
		block->falls = next && most == LH_BLOCK_INSTRUCTIONS && look_ahead(block, next);
		error = build_block(block, entered, follows, out);
	}
	if (error == 0)
		count(block);
	return error;
}

int lh__build(struct lh_translator *translator, uint64_t address, bool entered, struct fragment **out)
{
	struct block block[2] = { { .translator = translator, .decoded = translator->decoded },
		                  { .decoded = translator->decoded + LH_BLOCK_INSTRUCTIONS } };
	struct fragment *follower;
	unsigned now = 0;
	int error;

	block[0].address = address;
	block[0].page = lh__cache_page(translator, address, &error);
	if (!block[0].page)
		return error;
	lh__block_decode(&block[0], LH_BLOCK_INSTRUCTIONS);
	error = build_one(&block[0], &block[1], entered, false, out);
	if (error < 0)
		return error;
	for (unsigned i = 2; error == 0 && block[now].falls; i++) {
		struct jump *fall = block[now].fall;

		now ^= 1;
		error = build_one(&block[now], i < RUN ? &block[now ^ 1] : NULL, false, true, &follower);
		if (error < 0)
			lh__cache_sever(translator->current, fall);
		else
			lh__cache_link(translator, fall, follower);
	}
	/* Not before: threads come there at once, without asking, and on into what it falls into. */
	if ((*out)->entry)
		lh__cache_publish(translator->current, *out);
	return 0;
}
