/*
 * held.c - signals that wait for a boundary: where a thread is, and how it is made to come to the translator.
 *
 * A boundary is a point at which everything is the program's: between two blocks. There a signal is delivered
 * at once, wherever that point is, in the cache or on a way of enter.S. In the middle of a block the
 * fragment's exits are led to the translator, which they are for everybody then, and the table of this thread
 * is one that knows nobody; that holds until the thread has come (lh__held_release). In the translator it is
 * seen on the way back (lh__held_resume). Signals are blocked meanwhile.
 */
#include "port/translate/encode.h"

static const uint8_t frame_register[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
	                                    REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
	                                    REG_R12, REG_R13, REG_R14, REG_R15 };

void lh__held_resume(struct lh_translated_thread *thread);

uint64_t lh__register(const ucontext_t *context, int reg)
{
	return (uint64_t)context->uc_mcontext.gregs[frame_register[reg]];
}

static void set_register(ucontext_t *context, int reg, uint64_t value)
{
	context->uc_mcontext.gregs[frame_register[reg]] = (greg_t)value;
}

static void set_address(ucontext_t *context, uint64_t address)
{
	context->uc_mcontext.gregs[REG_RIP] = (greg_t)address;
}

static bool between(uint64_t address, const char *start, const char *end)
{
	return address - LH_ADDRESS(start) < (uint64_t)(end - start);
}

static bool cached(const struct lh_translator *translator, uint64_t code)
{
	const struct cache *next = translator->retired;

	for (const struct cache *cache = translator->current; cache;
	     cache = next, next = next ? next->next : NULL)
		if (code - LH_ADDRESS(cache->execute) < cache->size)
			return true;
	return false;
}

/* ---- forcing */

static void unlink_exits(struct cache *cache, struct fragment *fragment)
{
	for (uint32_t i = 0; i < fragment->jump_count; i++)
		lh__cache_unlink(cache, &fragment->jumps[i]);
}

void lh__held_miss(struct lh_translated_thread *thread)
{
	thread->table = LH_ADDRESS(thread->translator->process->misses) / 8;
	thread->misses = true;
}

void lh__held_force(struct lh_translated_thread *thread, struct cache *cache, struct fragment *fragment)
{
	if (thread->held_in)
		return;
	fragment->held++;
	thread->held_in = fragment;
	lh__held_miss(thread);
	unlink_exits(cache, fragment);
}

static void force_at(struct lh_translated_thread *thread, uint64_t code)
{
	struct lh_translator *translator = thread->translator;
	struct fragment *fragment;
	struct cache *cache;
	int place;

	lh__changed_hold(thread);
	fragment = lh__cache_fragment(translator, code, &cache, &place);
	if (fragment)
		lh__held_force(thread, cache, fragment);
	lh__changed_release(thread);
}

void lh__held_release(struct lh_translated_thread *thread)
{
	lh__changed_hold(thread);
	if (thread->held_in)
		thread->held_in->held--;
	thread->held_in = NULL;
	thread->misses = false;
	thread->table = LH_ADDRESS(thread->cache->table) / 8;
	lh__changed_release(thread);
}

/* Called on the way back, on the context's stack: a signal waits. */
void lh__held_resume(struct lh_translated_thread *thread)
{
	if (!thread->boundary) {
		force_at(thread, thread->resume);
		return;
	}
	if (thread->resume == LH_ADDRESS(lh__translate_unblock) ||
	    thread->resume == LH_ADDRESS(lh__translate_sigreturn) ||
	    thread->resume == LH_ADDRESS(lh__translate_exit))
		return;
	thread->after = thread->resume == LH_ADDRESS(lh__translate_make_call)
	                        ? LH_ADDRESS(lh__translate_enter)
	                        : thread->resume;
	thread->resume = LH_ADDRESS(lh__translate_unblock);
}

/* ---- making true */

static void from_context(struct lh_translated_thread *thread, ucontext_t *context)
{
	for (int i = 0; i < 16; i++)
		set_register(context, i, thread->general[i]);
	set_address(context, thread->target);
}

/* Before a system call, at it (which it may begin anew, by another number), or behind it. */
static void true_call(struct lh_translated_thread *thread, ucontext_t *context, uint64_t at)
{
	static const uint8_t arguments[6] = { RDI, RSI, RDX, 10, 8, 9 };
	uint64_t rax = lh__register(context, RAX), made = LH_ADDRESS(lh__translate_made);
	bool began = lh__register(context, RCX) == made;

	for (int i = 0; i < 6; i++)
		set_register(context, arguments[i], thread->general[arguments[i]]);
	if (at < made && (!began || rax == thread->changed[0]))
		set_register(context, RAX, thread->general[RAX]);
	set_register(context, RCX, began || at >= made ? thread->next : thread->general[RCX]);
	set_address(context, at < made ? thread->target : thread->next);
}

static void unspill(const struct lh_translated_thread *thread, ucontext_t *context, uint32_t registers)
{
	for (int i = 0; i < 16; i++)
		if (registers >> i & 1)
			set_register(context, i, thread->spill[i]);
}

#define TARGET_SPILLED (1u << RAX | 1u << RCX)

/* An instruction has raised a signal. */
static void true_instruction(struct lh_translated_thread *thread, ucontext_t *context,
                             const struct fragment *fragment, int instruction, uint32_t offset)
{
	const struct lh_translate_client *client = &thread->translator->client;
	const struct place *place = &fragment->places[instruction];
	uint64_t address = fragment->address + place->program, general[16];
	unsigned executed = (unsigned)instruction;

	unspill(thread, context, place->spilled);
	/* A trap comes behind its instruction, which is alone in its fragment. */
	if (fragment->instructions == 1 && offset > place->code && place->spilled == 0) {
		address += fragment->length;
		executed++;
	}
	set_address(context, address);
	for (int i = 0; i < 16; i++)
		general[i] = lh__register(context, i);
	if (client->cut)
		client->cut(client->context, thread->own, fragment->address, fragment->instructions, executed,
		            general);
}

/* Between two fragments: entries, which compare rax, the target, and load it and rcx again. */
static bool true_entry(struct lh_translated_thread *thread, ucontext_t *context, uint64_t at)
{
	const uint8_t *code = (const uint8_t *)(uintptr_t)at;
	struct fragment *fragment;
	struct cache *cache;
	int32_t distance;
	int place;

	if (code[0] == 0xe9 && !(code[-2] == 0xe3 && code[-1] == 5)) { /* behind all that, to the fragment */
		__builtin_memcpy(&distance, code + 1, 4);
		fragment = lh__cache_fragment(thread->translator, at + 5 + (uint64_t)(int64_t)distance,
		                              &cache, &place);
		if (fragment)
			set_address(context, fragment->address);
		return fragment != NULL;
	}
	set_address(context, lh__register(context, RAX));
	unspill(thread, context, TARGET_SPILLED);
	return true;
}

/* Aside: a stub leads to the translator by itself; a jump that has taken a fall's place, to anywhere. */
static void force_aside(struct lh_translated_thread *thread, uint64_t at)
{
	const uint8_t *code = (const uint8_t *)(uintptr_t)at;
	struct jump *jump;
	uint32_t number;

	switch (code[0]) {
	case 0x0f: break;
	case 0x90: code -= code[1] == 0x90 ? 6 : 7; break;
	case 0xe9: code -= 8; break;
	default: return;
	}
	__builtin_memcpy(&number, code + AROUND_STUB + STUB_NUMBER, 4);
	jump = lh__jump(thread->cache, number);
	lh__held_force(thread, thread->cache, jump->from);
}

/* In the cache, under the lock. */
static bool true_in_cache(struct lh_translated_thread *thread, ucontext_t *context, uint64_t at,
                          bool synchronous)
{
	struct cache *cache;
	int instruction;
	struct fragment *fragment = lh__cache_fragment(thread->translator, at, &cache, &instruction);
	uint32_t offset;

	if (!fragment && at - LH_ADDRESS(thread->cache->execute) >= thread->cache->top) {
		force_aside(thread, at);
		return false;
	}
	if (!fragment)
		return at - LH_ADDRESS(thread->cache->execute) >= CACHE_FIRST &&
		       true_entry(thread, context, at);
	offset = (uint32_t)(at - LH_ADDRESS(cache->execute)) - fragment->code;
	if (offset >= fragment->body)
		return false;
	if (synchronous) {
		if (instruction < 0)
			return false;
		true_instruction(thread, context, fragment, instruction, offset);
	} else if (offset == 0) {
		set_address(context, fragment->address);
	} else if (fragment->tail && offset >= fragment->tail) {
		set_address(context, lh__register(context, RAX));
		unspill(thread, context, TARGET_SPILLED);
	} else {
		lh__held_force(thread, cache, fragment);
		return false;
	}
	return true;
}

/* On the context's stack: the translator's C, or what a fragment has called. */
static bool on_stack(struct lh_translated_thread *thread, uint64_t pointer)
{
	return LH_ADDRESS(thread->stack) - pointer <= STACK_BYTES;
}

static bool true_on_way(struct lh_translated_thread *thread, ucontext_t *context, uint64_t at)
{
	if (!between(at, lh__translate_restored, lh__translate_restored_end)) {
		/* Whether a signal waits is looked at once more. */
		if (between(at, lh__translate_restore, lh__translate_restored))
			set_address(context, LH_ADDRESS(lh__translate_restore));
		return false;
	}
	if (!thread->boundary) {
		force_at(thread, thread->resume);
		return false;
	}
	from_context(thread, context);
	context->uc_mcontext.gregs[REG_EFL] = (greg_t)((const uint64_t *)thread->stack)[-1];
	return true;
}

bool lh__held_true(struct lh_translated_thread *thread, ucontext_t *context, bool synchronous)
{
	uint64_t at = (uint64_t)context->uc_mcontext.gregs[REG_RIP];
	bool result;

	if (between(at, lh__translate_make_call, lh__translate_made_end)) {
		true_call(thread, context, at);
		return true;
	}
	if (between(at, lh__translate_unblock, lh__translate_unblock_end)) {
		from_context(thread, context);
		return true;
	}
	if (between(at, lh__translate_enter, lh__translate_enter_end)) {
		set_address(context, thread->target);
		return true;
	}
	if (between(at, lh__translate_restore, lh__translate_restored_end))
		return true_on_way(thread, context, at);
	if (on_stack(thread, lh__register(context, RSP)) && !cached(thread->translator, at)) {
		if (cached(thread->translator, ((const uint64_t *)thread->stack)[-2]))
			force_at(thread, ((const uint64_t *)thread->stack)[-2]);
		return false;
	}
	if (between(at, lh__translate_text, lh__translate_text_end)) {
		lh__held_miss(thread);
		return false;
	}
	if (!cached(thread->translator, at))
		return true;
	lh__changed_hold(thread);
	result = true_in_cache(thread, context, at, synchronous);
	lh__changed_release(thread);
	return result;
}
