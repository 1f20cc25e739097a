/*
 * process.c - a program that is translated whole: how it is taken over, and its system calls (process.h).
 *
 * Each system call leaves its fragment. Here it is seen and, where need be, answered. What is not is made on
 * the way back, at one place of enter.S, with all registers the program's own: so a signal that interrupts it
 * finds a state that is known. What is made here is made with all signals blocked.
 */
#include "port/translate/inside.h"

#include <asm/prctl.h>
#include <errno.h>
#include <linux/rseq.h>
#include <sys/mman.h>

#define RSEQ_SIGNATURE 0x53053053 /* the C library's */
#define RSEQ_BYTES 32
#define RSEQ_REACH 8192

static const uint8_t argument_register[6] = { RDI, RSI, RDX, 10, 8, 9 };

struct process_outcome {
	long result;
	struct lh_translated_thread *thread;
};
struct process_outcome lh__process_on(const struct lh_process_options *options, struct lh_translator **out,
                                      struct lh_error *error);

void lh__process_hold(struct lh_translated_thread *thread)
{
	uint64_t all = ~0ull, before = 0;

	LH_SYS(thread->translator->sys, SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, 8);
	if (thread->held)
		return;
	thread->mask = before;
	thread->held = 1;
}

/* ---- system calls */

static bool hook(struct lh_translated_thread *thread, struct lh_translate_call *call)
{
	const struct lh_translate_client *client = &thread->translator->client;
	bool answered;

	if (!client->call)
		return false;
	lh__vectors_save(thread);
	answered = client->call(client->context, thread->own, call);
	lh__vectors_restore(thread);
	return answered;
}

static void executes(struct lh_translated_thread *thread, struct lh_translate_call *call)
{
	const struct lh_process_options *options = &thread->translator->process->options;

	if (!options->executes)
		return;
	lh__vectors_save(thread);
	options->executes(options->translate.client.context, thread->own, call);
	lh__vectors_restore(thread);
}

static bool gs_of(struct lh_translated_thread *thread, struct lh_translate_call *call)
{
	const struct lh_sys *sys = thread->translator->sys;

	if (call->argument[0] == ARCH_SET_GS) {
		/* Operands with its prefix are translated as if it were zero. */
		call->result = call->argument[1] == 0 ? 0 : -EPERM;
		return true;
	}
	if (call->argument[0] != ARCH_GET_GS)
		return false;
	call->result = lh__poke(sys, (uint64_t)call->argument[1], &thread->gs, sizeof(thread->gs));
	return true;
}

/* What is answered or changed here. *to: the thread goes on elsewhere. */
static bool answer(struct lh_translated_thread *thread, struct lh_translate_call *call, uint64_t *to)
{
	switch (call->number) {
	case SYS_rt_sigaction: return lh__signal_action(thread, call);
	case SYS_rt_sigprocmask: return lh__signal_mask(thread, call);
	case SYS_sigaltstack: return lh__signal_stack(thread, call);
	case SYS_rt_sigreturn: *to = lh__signal_return(thread); return false;
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
	case SYS_vfork: return lh__clone(thread, call);
	case SYS_execve:
	case SYS_execveat: executes(thread, call); return false;
	case SYS_exit:
		/* A child of vfork: its maker does the rest. */
		if (thread->vforked)
			return false;
		lh__clone_ends(thread, (int)call->argument[0]);
		*to = LH_ADDRESS(lh__translate_exit);
		return false;
	case SYS_exit_group: lh__process_ends(thread, (int)call->argument[0]); return false;
	case SYS_rseq: call->result = -ENOSYS; return true;
	case SYS_arch_prctl: return gs_of(thread, call);
	default: return false;
	}
}

uint64_t lh__process_call(struct lh_translated_thread *thread, const struct jump *jump)
{
	uint64_t after = LH_ADDRESS(thread->cache->execute + jump->plain), to = 0;
	struct lh_translate_call call = {
		.number = (long)thread->general[RAX],
		.address = jump->target - jump->length,
		.stack_pointer = thread->general[RSP],
	};

	for (unsigned i = 0; i < 6; i++)
		call.argument[i] = (long)thread->general[argument_register[i]];
	thread->target = call.address;
	thread->next = jump->target;
	if (__atomic_load_n(&thread->held, __ATOMIC_RELAXED))
		return LH_ADDRESS(lh__translate_enter); /* the signal first; then the call anew */
	if (hook(thread, &call) || answer(thread, &call, &to) || (!to && lh__changed_call(thread, &call))) {
		thread->general[RAX] = (uint64_t)call.result;
		thread->general[RCX] = thread->target = thread->next;
		thread->general[R11] = ((const uint64_t *)thread->stack)[-1];
		/* A child of fork has a cache of its own. */
		return thread->epoch == thread->translator->epoch ? after : LH_ADDRESS(lh__translate_enter);
	}
	if (to)
		return to;
	thread->after = after;
	thread->changed[0] = (uint64_t)call.number;
	for (unsigned i = 0; i < 6; i++)
		thread->changed[1 + i] = (uint64_t)call.argument[i];
	return LH_ADDRESS(lh__translate_make_call);
}

void lh__process_ends(struct lh_translated_thread *thread, int status)
{
	const struct lh_process_options *options = &thread->translator->process->options;

	if (!options->process_ends || thread->vforked)
		return;
	lh__vectors_save(thread);
	options->process_ends(options->translate.client.context, thread->own, status);
	lh__vectors_restore(thread);
}

/* ---- taking over */

/* Nobody says where it was registered, but it is the thread's own, so near fs; a wrong guess is refused. */
static void forget_rseq(const struct lh_sys *sys, uint64_t fs)
{
	for (uint64_t distance = 0; distance < RSEQ_REACH; distance += RSEQ_BYTES)
		if (LH_SYS(sys, SYS_rseq, (fs & ~(uint64_t)(RSEQ_BYTES - 1)) + distance, RSEQ_BYTES,
		           RSEQ_FLAG_UNREGISTER, RSEQ_SIGNATURE) == 0 ||
		    LH_SYS(sys, SYS_rseq, (fs & ~(uint64_t)(RSEQ_BYTES - 1)) - distance, RSEQ_BYTES,
		           RSEQ_FLAG_UNREGISTER, RSEQ_SIGNATURE) == 0)
			return;
}

/* A table in which nothing is known, aligned as the one of a cache. */
static int make_misses(const struct lh_sys *sys, struct lh_process *process)
{
	size_t size = TABLE_ENTRIES * 8;
	uint64_t at = lh__map(sys, 0, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (!at)
		return -ENOMEM;
	process->room = at;
	process->misses = (uint64_t *)(uintptr_t)((at + size - 1) & ~(uint64_t)(size - 1));
	for (size_t i = 0; i < TABLE_ENTRIES; i++)
		process->misses[i] = LH_ADDRESS(lh__translate_leave_indirect);
	return 0;
}

void lh__process_free(struct lh_translator *translator)
{
	struct lh_process *process = translator->process;

	if (!process)
		return;
	if (process->room)
		LH_SYS(translator->sys, SYS_munmap, process->room, 2 * TABLE_ENTRIES * 8);
	lh__free(translator->sys, process, sizeof(*process));
}

static int make(struct lh_translator *translator, const struct lh_process_options *options)
{
	struct lh_process *process = lh__alloc(translator->sys, sizeof(*process));

	if (!process)
		return -ENOMEM;
	process->options = *options;
	process->threads = 1;
	translator->process = process;
	translator->mapped = options->mapped;
	return make_misses(translator->sys, process);
}

static long take_over(struct lh_translator *translator, struct lh_translated_thread **out)
{
	struct lh_translated_thread *thread;
	long result = lh__thread_adopt(translator, &thread);

	if (result < 0)
		return result;
	result = lh__thread_activate(translator, thread);
	if (result < 0)
		return result;
	result = lh__changed_guard(translator);
	if (result < 0)
		return result;
	thread->depth = 1;
	/* Until the program goes on: this is the translator's own code, on the program's stack. */
	lh__process_hold(thread);
	lh__held_miss(thread);
	forget_rseq(translator->sys, thread->fs);
	lh__signal_take(translator, thread);
	lh__clone_tell(thread);
	*out = thread;
	return 0;
}

struct process_outcome lh__process_on(const struct lh_process_options *options, struct lh_translator **out,
                                      struct lh_error *error)
{
	struct process_outcome outcome = { 0, NULL };
	struct lh_translator *translator;

	outcome.result = lh__translate_open(&options->translate, &translator, error);
	if (outcome.result < 0)
		return outcome;
	if (make(translator, options) < 0)
		outcome.result = lh__fail(error, -ENOMEM, "no memory to translate a program");
	else if ((outcome.result = take_over(translator, &outcome.thread)) == -EBUSY)
		outcome.result = lh__fail(error, -EBUSY, "the gs register is in use");
	else if (outcome.result < 0)
		outcome.result = lh__fail(error, (int)outcome.result, "no memory to translate a thread");
	if (outcome.result < 0) {
		outcome.thread = NULL;
		lh__translate_close(translator);
		return outcome;
	}
	*out = translator;
	return outcome;
}
