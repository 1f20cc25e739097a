/*
 * dispatch.c - a thread has come to an address that its fragment does not know (inside.h).
 *
 * Entered from enter.S with the program's registers saved, but for vector registers: those are saved only
 * where a block is made that needs Zydis, or has a client, for these may use them.
 */
#include "port/translate/inside.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>

/* Sanitizers call functions of their own, which use vector registers. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WITH_VECTORS true
#elif defined(__has_feature)
#define WITH_VECTORS (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define WITH_VECTORS false
#endif

/* What a clone goes on as: a new thread natively, a child of fork to the translator at once. */
static uint64_t resume_clone(struct lh_translated_thread *thread, const struct jump *jump)
{
	uint64_t number = thread->general[RAX], flags = thread->general[RDI];
	uint32_t to = jump->plain;

	if ((uint32_t)number == SYS_clone3 &&
	    lh__peek(thread->translator->sys, thread->general[RDI], &flags, sizeof(flags)) < 0)
		flags = CLONE_VM | CLONE_VFORK;
	if ((uint32_t)number == SYS_fork || !(flags & CLONE_VM))
		to = jump->fork;
	else if (!(flags & CLONE_VFORK))
		to = jump->thread;
	return (uint64_t)(uintptr_t)(thread->cache->execute + to);
}

/* Makes the block, or a way into it; with a new cache if it does not fit. NULL: it has to run natively. */
static struct fragment *make(struct lh_translated_thread *thread, uint64_t target, struct fragment *known)
{
	struct lh_translator *translator = thread->translator;
	struct fragment *fragment = known;
	bool entered = thread->exit == 0;
	int result;

	translator->unsaved = thread;
	if (WITH_VECTORS || translator->client.block || translator->client.before || translator->client.after)
		lh__vectors_needed(translator);
	result = known ? lh__build_entry(translator, known)
	               : lh__build(translator, target, entered, &fragment);
	if (result == -ENOSPC && lh__cache_flush(translator) == 0) {
		lh__cache_enter(translator, thread);
		result = lh__build(translator, target, entered, &fragment);
	}
	if (!translator->unsaved)
		lh__vectors_restore(thread);
	translator->unsaved = NULL;
	if (result == 0)
		return fragment;
	translator->counts.slow++;
	return NULL;
}

static uint64_t go(struct lh_translated_thread *thread, struct jump *jump, uint64_t target)
{
	struct lh_translator *translator = thread->translator;
	struct fragment *fragment;
	uint64_t epoch;

	if (!translator->current)
		return target;
	if (thread->epoch != translator->current->epoch) {
		lh__cache_enter(translator, thread);
		jump = NULL;
	}
	epoch = thread->epoch;
	fragment = lh__cache_find(translator->current, target);
	if (!fragment)
		fragment = lh__cache_revive(translator, target);
	if (!fragment || (thread->exit == 0 && !fragment->entry))
		fragment = make(thread, target, fragment);
	if (!fragment)
		return target;
	if (epoch != thread->epoch)
		jump = NULL;
	if (jump)
		lh__cache_link(translator, jump, fragment);
	return (uint64_t)(uintptr_t)(thread->cache->execute + fragment->code);
}

#define VSYSCALL 0xffffffffff600000ull

/* The old page of the kernel's, which nobody can read: a call by its address. */
static uint64_t after_vsyscall(struct lh_translated_thread *thread, uint64_t target)
{
	static const uint16_t number[3] = { SYS_gettimeofday, SYS_time, SYS_getcpu };
	uint64_t which = (target - VSYSCALL) / 1024;

	if (target < VSYSCALL || target % 1024 || which > 2)
		return target;
	thread->general[RAX] = (uint64_t)LH_SYS(thread->translator->sys, number[which], thread->general[RDI],
	                                        thread->general[RSI], thread->general[RDX]);
	target = *(const uint64_t *)(uintptr_t)thread->general[RSP];
	thread->general[RSP] += 8;
	return target;
}

static uint64_t where(struct lh_translated_thread *thread)
{
	struct lh_translator *translator = thread->translator;
	struct jump *jump = thread->exit ? lh__jump(thread->cache, thread->exit) : NULL;
	uint64_t target = jump ? jump->target : thread->target, to;
	bool stale = jump && jump->stale;

	thread->dispatches++;
	if (thread->misses)
		lh__held_release(thread);
	if (jump && jump->plain)
		return translator->process ? lh__process_call(thread, jump) : resume_clone(thread, jump);
	if (target >= VSYSCALL && translator->process)
		target = after_vsyscall(thread, target);
	thread->target = target;
	lh__after_fork(translator);
	if (stale)
		thread->general[RCX] = thread->spill[RCX];
	do {
		lh__changed_hold(thread);
		if (stale)
			lh__changed_stale(translator, target);
		to = go(thread, jump, target);
		lh__changed_release(thread);
		jump = NULL;
	} while (__atomic_load_n(&thread->waiting, __ATOMIC_SEQ_CST));
	return to;
}

void lh__translate_dispatch(struct lh_translated_thread *thread)
{
	thread->resume = where(thread);
	thread->boundary = true;
}

void lh__translate_with_vectors(void (*function)(void *own, uint64_t a, uint64_t b), void *own, uint64_t a,
                                uint64_t b)
{
	struct lh_translated_thread *thread =
		(struct lh_translated_thread *)(void *)((uint8_t *)own - LH_T_OWN);

	bool few = lh__vectors_save_few(thread);

	if (!few)
		lh__vectors_save(thread);
	function(own, a, b);
	if (few)
		lh__vectors_restore_few(thread);
	else
		lh__vectors_restore(thread);
}

void lh__translate_call_out(struct lh_translated_thread *thread)
{
	void (*function)(void *own, uint64_t a, uint64_t b) =
		(void (*)(void *, uint64_t, uint64_t))(uintptr_t)thread->call[0];

	lh__vectors_save(thread);
	function(thread->own, thread->a, thread->b);
	lh__vectors_restore(thread);
	thread->resume = thread->call[1];
	thread->boundary = false;
}

void lh__translate_ask_out(struct lh_translated_thread *thread)
{
	const uint64_t *call = thread->call;
	void (*function)(void *own, uint64_t a, uint64_t b) =
		(void (*)(void *, uint64_t, uint64_t))(uintptr_t)call[0];
	uint64_t stay = call[1], next = thread->b;

	lh__vectors_save(thread);
	function(thread->own, thread->a, next);
	lh__vectors_restore(thread);
	thread->resume = thread->depth > 0 ? stay : next;
	thread->boundary = false;
}

/* A client sees a system call; where it answers it, the thread goes on behind it. Its literal: inside.h. */
void lh__translate_syscall_out(struct lh_translated_thread *thread)
{
	const struct lh_translate_client *client = &thread->translator->client;
	const struct lh_sys *sys = thread->translator->sys;
	static const uint8_t registers[6] = { RDI, RSI, RDX, 10, 8, 9 };
	struct lh_translate_call call = {
		.number = (long)thread->general[RAX],
		.address = thread->call[0],
		.stack_pointer = thread->general[RSP],
	};
	uint64_t all = ~0ull, before = 0, resume = thread->call[1];
	bool answered;

	for (unsigned i = 0; i < 6; i++)
		call.argument[i] = (long)thread->general[registers[i]];
	LH_SYS(sys, SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
	lh__vectors_save(thread);
	answered = client->call(client->context, thread->own, &call);
	lh__vectors_restore(thread);
	LH_SYS(sys, SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
	thread->general[RAX] = (uint64_t)(answered ? call.result : call.number);
	for (unsigned i = 0; i < 6; i++)
		thread->general[registers[i]] = (uint64_t)call.argument[i];
	thread->resume = resume;
	if (!answered)
		return;
	thread->exit = 0;
	thread->target = call.address + 2;
	thread->general[RCX] = thread->target;
	lh__translate_dispatch(thread);
}
