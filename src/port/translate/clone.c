/*
 * clone.c - threads and children of a program that is translated whole, and their ends (process.h).
 *
 * Who shares the memory gets a context before it begins; who does not has a copy of its maker's. A child of
 * vfork is one more thread of its parent, for that time. All of it with signals blocked, in the child too,
 * until the child is at the program's address.
 */
#include "port/translate/inside.h"

#include <errno.h>
#include <linux/sched.h>

void lh__clone_begins(struct lh_translated_thread *thread);

void lh__clone_tell(struct lh_translated_thread *thread)
{
	const struct lh_process_options *options = &thread->translator->process->options;

	if (!options->thread_begins)
		return;
	lh__vectors_save(thread);
	options->thread_begins(options->translate.client.context, thread->own, thread->tid);
	lh__vectors_restore(thread);
}

static void ends(struct lh_translated_thread *thread)
{
	const struct lh_process_options *options = &thread->translator->process->options;

	if (!options->thread_ends)
		return;
	lh__vectors_save(thread);
	options->thread_ends(options->translate.client.context, thread->own);
	lh__vectors_restore(thread);
}

void lh__clone_ends(struct lh_translated_thread *thread, int status)
{
	struct lh_process *process = thread->translator->process;

	ends(thread);
	if (__atomic_sub_fetch(&process->threads, 1, __ATOMIC_SEQ_CST) == 0)
		lh__process_ends(thread, status);
	lh__process_hold(thread);
	__atomic_store_n(&thread->active, 0, __ATOMIC_SEQ_CST);
}

static void go_on(struct lh_translated_thread *thread)
{
	thread->boundary = true;
	thread->target = thread->next;
	thread->general[RCX] = thread->next;
	thread->resume = LH_ADDRESS(lh__translate_enter);
}

/* The first that a new thread does, on its context's stack. */
void lh__clone_begins(struct lh_translated_thread *thread)
{
	struct lh_translator *translator = thread->translator;

	lh__thread_set_gs(translator, LH_ADDRESS(thread));
	thread->fs = lh__thread_fs(translator);
	__atomic_store_n(&thread->tid, (int32_t)LH_SYS(translator->sys, SYS_gettid), __ATOMIC_SEQ_CST);
	lh__signal_own_stack(thread);
	lh__clone_tell(thread);
	go_on(thread);
}

/* What clone and clone3 have in common. */
struct making {
	uint64_t flags, stack;
	struct clone_args copy; /* of clone3 */
	size_t size;
};

static int understand(struct lh_translated_thread *thread, const struct lh_translate_call *call,
                      struct making *making)
{
	const struct lh_sys *sys = thread->translator->sys;

	__builtin_memset(making, 0, sizeof(*making));
	switch (call->number) {
	case SYS_fork: return 0;
	case SYS_vfork: making->flags = CLONE_VM | CLONE_VFORK; return 0;
	case SYS_clone:
		making->flags = (uint64_t)call->argument[0];
		making->stack = (uint64_t)call->argument[1];
		return 0;
	default:
		making->size = (size_t)call->argument[1];
		if (making->size < CLONE_ARGS_SIZE_VER0 || making->size > sizeof(making->copy))
			return -EINVAL;
		if (lh__peek(sys, (uint64_t)call->argument[0], &making->copy, making->size) < 0)
			return -EFAULT;
		making->flags = making->copy.flags;
		making->stack = making->copy.stack ? making->copy.stack + making->copy.stack_size : 0;
		return 0;
	}
}

/* With a copy of the memory: made here, on this stack, of which the child has a copy too. */
static long make_process(struct lh_translated_thread *thread, struct lh_translate_call *call,
                         struct making *making)
{
	struct lh_translator *translator = thread->translator;
	const struct lh_process_options *options = &translator->process->options;
	long argument[6], result;

	__builtin_memcpy(argument, call->argument, sizeof(argument));
	if (call->number == SYS_clone)
		argument[1] = 0;
	making->copy.stack = making->copy.stack_size = 0;
	if (call->number == SYS_clone3)
		argument[0] = (long)(uintptr_t)&making->copy;
	lh__changed_hold(thread);
	result = translator->sys->call(translator->sys->context, call->number, argument);
	if (result != 0) {
		lh__changed_release(thread);
		return result;
	}
	lh__after_fork(translator);
	thread->tid = (int32_t)LH_SYS(translator->sys, SYS_gettid);
	thread->fs = lh__thread_fs(translator);
	thread->vforked = false;
	translator->process->threads = 1;
	if (making->stack)
		thread->general[RSP] = making->stack;
	if (!options->forked)
		return 0;
	lh__vectors_save(thread);
	options->forked(options->translate.client.context, thread->own);
	lh__vectors_restore(thread);
	return 0;
}

/* A context as its maker's, but for what is its own. */
static struct lh_translated_thread *prepare(struct lh_translated_thread *thread, const struct making *making)
{
	struct lh_translator *translator = thread->translator;
	struct lh_translated_thread *child;
	bool vforked = making->flags & CLONE_VFORK;

	lh__changed_hold(thread);
	child = lh__thread_take(translator);
	if (child)
		child->tid = -1;
	lh__changed_release(thread);
	if (!child || lh__thread_activate(translator, child) < 0)
		return NULL;
	__builtin_memcpy(child->general, thread->general, sizeof(child->general));
	((uint64_t *)child->stack)[-1] = ((uint64_t *)thread->stack)[-1];
	child->general[RAX] = 0;
	child->general[R11] = ((uint64_t *)thread->stack)[-1];
	if (making->stack)
		child->general[RSP] = making->stack;
	child->depth = 1;
	child->next = thread->next;
	child->held = 1;
	child->mask = thread->mask;
	child->faults_blocked = thread->faults_blocked;
	child->gs = thread->gs;
	child->vforked = vforked || (thread->vforked && !(making->flags & CLONE_THREAD));
	child->alternate = vforked ? thread->alternate : (struct lh_stack){ .flags = LH_STACK_DISABLED };
	child->actions = thread->actions;
	if (!(making->flags & CLONE_SIGHAND)) {
		child->own_actions = *thread->actions;
		child->actions = &child->own_actions;
	}
	return child;
}

static long make_thread(struct lh_translated_thread *thread, struct lh_translate_call *call,
                        const struct making *making)
{
	struct lh_process *process = thread->translator->process;
	struct lh_translated_thread *child = prepare(thread, making);
	bool vforked = making->flags & CLONE_VFORK;
	long result;

	if (!child)
		return -EAGAIN;
	if (!child->vforked)
		__atomic_add_fetch(&process->threads, 1, __ATOMIC_SEQ_CST);
	result = lh__translate_clone(call->number, call->argument, child);
	if (result < 0 && !child->vforked)
		__atomic_sub_fetch(&process->threads, 1, __ATOMIC_SEQ_CST);
	if (result >= 0 && vforked)
		ends(child);
	if (result < 0 || vforked) {
		__atomic_store_n(&child->active, 0, __ATOMIC_SEQ_CST);
		__atomic_store_n(&child->tid, 0, __ATOMIC_SEQ_CST);
	}
	return result;
}

bool lh__clone(struct lh_translated_thread *thread, struct lh_translate_call *call)
{
	struct making making;

	call->result = understand(thread, call, &making);
	if (call->result < 0)
		return true;
	lh__process_hold(thread);
	call->result = making.flags & CLONE_VM ? make_thread(thread, call, &making)
	                                       : make_process(thread, call, &making);
	return true;
}
