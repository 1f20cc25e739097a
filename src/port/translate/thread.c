/*
 * thread.c - the contexts of threads, and how a thread switches over and back (translate.h).
 *
 * Contexts lie in slots of one reserved range, so that gs tells without a look-up whether a thread has one.
 * A new thread inherits gs from the one that made it; the base of fs, which is a living thread's own, tells
 * the two apart. Nobody says when a thread is gone: a slot is taken again when its thread no longer exists.
 */
#include "port/translate/inside.h"

#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#define VECTOR_COMPONENTS 0xe7u /* x87, SSE, AVX, AVX-512: what compiled code may use */

/* What begin does in the end: rax, and in rdx the thread that goes on translated. */
struct outcome {
	long result;
	struct lh_translated_thread *thread;
};
struct outcome lh__translate_on(struct lh_translator *translator, struct lh_error *error);
long lh__translate_again(struct lh_translator *translator, struct lh_error *error);
void lh__translate_off(struct lh_translator *translator);
void lh__translate_forget_now(struct lh_translator *translator, uint64_t start, uint64_t end);

static uint64_t segment_base(const struct lh_translator *translator, long which)
{
	uint64_t base = 0;

	if (!translator->fsgsbase)
		LH_SYS(translator->sys, SYS_arch_prctl, which, &base);
	else if (which == ARCH_GET_FS)
		__asm__ volatile("rdfsbase %0" : "=r"(base));
	else
		__asm__ volatile("rdgsbase %0" : "=r"(base));
	return base;
}

void lh__thread_set_gs(const struct lh_translator *translator, uint64_t base)
{
	if (translator->fsgsbase)
		__asm__ volatile("wrgsbase %0" : : "r"(base) : "memory");
	else
		LH_SYS(translator->sys, SYS_arch_prctl, ARCH_SET_GS, base);
}

uint64_t lh__thread_fs(const struct lh_translator *translator)
{
	return segment_base(translator, ARCH_GET_FS);
}

static struct lh_translated_thread *thread_at(const struct lh_translator *translator, uint32_t slot)
{
	return (struct lh_translated_thread *)(void *)(translator->slots + slot * translator->slot_bytes +
	                                               PAGE + SIGNAL_BYTES + STACK_BYTES);
}

/* The context that gs leads to, be it this thread's or its maker's. */
static struct lh_translated_thread *thread_of(const struct lh_translator *translator, uint64_t gs)
{
	uint64_t offset = gs - (uint64_t)(uintptr_t)translator->slots;

	if (offset >= (uint64_t)translator->slot_count * translator->slot_bytes)
		return NULL;
	return (struct lh_translated_thread *)(uintptr_t)gs; /* nobody else makes it lead there */
}

struct lh_translated_thread *lh__thread_here(const struct lh_translator *translator)
{
	struct lh_translated_thread *thread = thread_of(translator, segment_base(translator, ARCH_GET_GS));

	/* In a process that is translated whole each thread has its own, whatever it does with fs. */
	return thread && (translator->process || thread->fs == segment_base(translator, ARCH_GET_FS)) ? thread
	                                                                                              : NULL;
}

void lh__thread_leave(struct lh_translator *translator)
{
	lh__thread_set_gs(translator, 0);
}

void lh__thread_forget_others(struct lh_translator *translator, struct lh_translated_thread *self)
{
	for (uint32_t i = 0; i < translator->slot_count; i++) {
		struct lh_translated_thread *thread = thread_at(translator, i);

		if (thread == self)
			continue;
		thread->active = 0;
		thread->tid = 0;
		thread->fs = 0;
	}
	if (self)
		self->tid = (int32_t)LH_SYS(translator->sys, SYS_gettid);
}

bool lh__thread_any_in(const struct lh_translator *translator, const struct cache *cache)
{
	for (uint32_t i = 0; i < translator->slot_count; i++) {
		struct lh_translated_thread *thread = thread_at(translator, i);

		if (__atomic_load_n(&thread->active, __ATOMIC_SEQ_CST) && thread->epoch == cache->epoch &&
		    !(!translator->process && thread->tid &&
		      LH_SYS(translator->sys, SYS_tgkill, LH_SYS(translator->sys, SYS_getpid), thread->tid,
		             0) == -ESRCH))
			return true;
	}
	return false;
}

/* A slot whose thread is gone, or one that has never been used; -1: none. */
static int64_t free_slot(const struct lh_translator *translator)
{
	long process = LH_SYS(translator->sys, SYS_getpid);

	for (uint32_t i = 0; i < translator->slot_count; i++) {
		int32_t tid = thread_at(translator, i)->tid;

		if (tid == 0 ||
		    (!translator->process && LH_SYS(translator->sys, SYS_tgkill, process, tid, 0) == -ESRCH))
			return i;
	}
	return translator->slot_count < THREADS ? (int64_t)translator->slot_count : -1;
}

struct lh_translated_thread *lh__thread_take(struct lh_translator *translator)
{
	int64_t slot = free_slot(translator);
	struct lh_translated_thread *thread;

	if (slot < 0)
		return NULL;
	thread = thread_at(translator, (uint32_t)slot);
	if (slot == translator->slot_count) {
		if (LH_SYS(translator->sys, SYS_mprotect, (uintptr_t)thread - STACK_BYTES - SIGNAL_BYTES,
		           translator->slot_bytes - PAGE, PROT_READ | PROT_WRITE) < 0)
			return NULL;
		__atomic_store_n(&translator->slot_count, translator->slot_count + 1, __ATOMIC_RELEASE);
	} else {
		translator->counts.dispatches += thread->dispatches;
		__builtin_memset(thread, 0, LH_T_OWN);
		/* May be large, and hardly used. */
		LH_SYS(translator->sys, SYS_madvise, thread->own, translator->client.thread_bytes,
		       MADV_DONTNEED);
	}
	thread->self = thread;
	thread->stack = thread;
	thread->leave = lh__translate_leave;
	thread->leave_indirect = lh__translate_leave_indirect;
	thread->leave_call = lh__translate_leave_call;
	thread->leave_state = lh__translate_leave_state;
	thread->plain = lh__translate_plain;
	thread->own_at = thread->own;
	thread->translator = translator;
	thread->fs = segment_base(translator, ARCH_GET_FS);
	thread->tid = (int32_t)LH_SYS(translator->sys, SYS_gettid);
	return thread;
}

bool lh__thread_stack_in(const struct lh_translator *translator, uint64_t start, uint64_t end)
{
	for (uint32_t i = 0; i < translator->slot_count; i++) {
		const struct lh_translated_thread *thread = thread_at(translator, i);
		uint64_t stack = __atomic_load_n(&thread->general[RSP], __ATOMIC_RELAXED);

		if (thread->tid && stack >= start && stack < end)
			return true;
	}
	return false;
}

/* A handler of a signal must not meet the lock that its own thread holds. */
uint64_t lh__hold(struct lh_translator *translator)
{
	uint64_t all = ~0ull, before = 0;

	LH_SYS(translator->sys, SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
	lh__lock(translator->sys, &translator->lock);
	return before;
}

void lh__release(struct lh_translator *translator, uint64_t before)
{
	lh__unlock(translator->sys, &translator->lock);
	LH_SYS(translator->sys, SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, 8);
}

/* A context for the calling thread, which has none: 0, or a negative errno. */
long lh__thread_adopt(struct lh_translator *translator, struct lh_translated_thread **out)
{
	uint64_t gs = segment_base(translator, ARCH_GET_GS), mask;
	struct lh_translated_thread *thread = NULL;

	if (gs != 0 && !thread_of(translator, gs))
		return -EBUSY;
	mask = lh__hold(translator);
	thread = lh__thread_take(translator);
	lh__release(translator, mask);
	if (!thread)
		return -ENOMEM;
	lh__thread_set_gs(translator, (uint64_t)(uintptr_t)thread);
	*out = thread;
	return 0;
}

/* In a cache from now on: in the newest. */
int lh__thread_activate(struct lh_translator *translator, struct lh_translated_thread *thread)
{
	uint64_t mask;

	__atomic_store_n(&thread->active, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&translator->epoch, __ATOMIC_SEQ_CST) == thread->epoch)
		return 0;
	mask = lh__hold(translator);
	if (translator->current)
		lh__cache_enter(translator, thread);
	lh__release(translator, mask);
	if (thread->epoch != 0)
		return 0;
	__atomic_store_n(&thread->active, 0, __ATOMIC_SEQ_CST);
	return -ENOMEM;
}

struct outcome lh__translate_on(struct lh_translator *translator, struct lh_error *error)
{
	struct lh_translated_thread *thread;
	long result = 0;

	lh__after_fork(translator);
	thread = lh__thread_here(translator);
	if (!thread)
		result = lh__thread_adopt(translator, &thread);
	if (result == -EBUSY)
		return (struct outcome){ lh__fail(error, -EBUSY, "the gs register is in use"), NULL };
	if (result == 0 && thread->depth > 0) {
		/* A handler of a signal, in a thread that was being translated: it stays as it is. */
		thread->depth++;
		return (struct outcome){ 0, NULL };
	}
	if (result == 0)
		result = lh__thread_activate(translator, thread);
	if (result < 0)
		return (struct outcome){ lh__fail(error, -ENOMEM, "no memory to translate a thread"), NULL };
	thread->depth = 1;
	thread->saves = 0; /* a handler may have jumped out of what had saved them */
	return (struct outcome){ 0, thread };
}

long lh__translate_again(struct lh_translator *translator, struct lh_error *error)
{
	struct lh_translated_thread *thread = lh__thread_here(translator);

	if (!thread || thread->translator != translator)
		return lh__fail(error, -EBUSY, "another translator has this thread");
	thread->depth++;
	return 0;
}

void lh__translate_off(struct lh_translator *translator)
{
	struct lh_translated_thread *thread = lh__thread_here(translator);

	if (thread && thread->depth > 0 && --thread->depth == 0)
		__atomic_store_n(&thread->active, 0, __ATOMIC_SEQ_CST);
}

bool lh__translate_is_on(const struct lh_translator *translator)
{
	const struct lh_translated_thread *thread = lh__thread_here(translator);

	return thread && thread->depth > 0;
}

void *lh__translate_thread_bytes(const struct lh_translator *translator)
{
	struct lh_translated_thread *thread = lh__thread_here(translator);

	return thread ? thread->own : NULL;
}

void lh__translate_forget_now(struct lh_translator *translator, uint64_t start, uint64_t end)
{
	struct lh_translated_thread *thread;
	uint64_t mask;

	lh__after_fork(translator);
	thread = lh__thread_here(translator);
	if (thread && lh__changed_wait(thread, start, end))
		return;
	mask = lh__hold(translator);
	lh__changed_forget(translator, start, end);
	lh__release(translator, mask);
}

int lh__translate_native(struct lh_translator *translator, uint64_t function)
{
	uint64_t mask = lh__hold(translator);
	unsigned count = translator->native_count;
	int result = count < NATIVES ? 0 : -ENOSPC;

	for (unsigned i = 0; i < count; i++)
		if (translator->natives[i] == function)
			goto out;
	if (result == 0) {
		translator->natives[translator->native_count++] = function;
		if (translator->current)
			lh__cache_forget(translator, function, function + 1);
	}
out:
	lh__release(translator, mask);
	return result;
}

uint64_t lh__translate_address(struct lh_translator *translator, uint64_t code)
{
	uint64_t mask = lh__hold(translator), address = lh__cache_address(translator, code);

	lh__release(translator, mask);
	return address;
}

void lh__translate_counts(const struct lh_translator *translator, struct lh_translate_counts *out)
{
	*out = translator->counts;
	for (uint32_t i = 0; i < translator->slot_count; i++)
		out->dispatches += thread_at(translator, i)->dispatches;
}

void lh__vectors_save(struct lh_translated_thread *thread)
{
	if (thread->saves++)
		return;
	if (thread->translator->xsave)
		__asm__ volatile("xsave64 (%0)"
		                 :
		                 : "r"(thread->vector), "a"(VECTOR_COMPONENTS), "d"(0)
		                 : "memory");
	else
		__asm__ volatile("fxsave64 (%0)" : : "r"(thread->vector) : "memory");
}

void lh__vectors_restore(struct lh_translated_thread *thread)
{
	if (--thread->saves)
		return;
	if (thread->translator->xsave)
		__asm__ volatile("xrstor64 (%0)"
		                 :
		                 : "r"(thread->vector), "a"(VECTOR_COMPONENTS), "d"(0)
		                 : "memory");
	else
		__asm__ volatile("fxrstor64 (%0)" : : "r"(thread->vector) : "memory");
}

void lh__vectors_needed(struct lh_translator *translator)
{
	if (!translator->unsaved)
		return;
	lh__vectors_save(translator->unsaved);
	translator->unsaved = NULL;
}

/* ---- the same without xsave, which takes some 100 ns */

#define IN_USE_HALVES 0x44u /* AVX, and the upper halves of the first 16 */

bool lh__vectors_save_few(struct lh_translated_thread *thread)
{
	unsigned low, high;

	if (!thread->translator->few || thread->saves)
		return false;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
	if (low & IN_USE_HALVES)
		return false;
	lh__vectors_put_aside(thread->vector, thread->translator->upper);
	thread->saves++;
	return true;
}

void lh__vectors_restore_few(struct lh_translated_thread *thread)
{
	thread->saves--;
	lh__vectors_take_back(thread->vector, thread->translator->upper);
}
