/*
 * process.h - a whole program under the translator: all of its threads, from now on, and its children.
 *
 * What the kernel sees of such a program is what it would see otherwise; what the program sees too. So each
 * of its system calls is seen first (translate.h, struct lh_translate_client), and these are answered or
 * changed here, before the client's `call` hears of them or after:
 *
 *     rt_sigaction, rt_sigreturn     the kernel knows handlers of ours; they stand where the program's would:
 *                                    on its stack or its alternate one, with its mask. They make the frame
 *                                    true (the program's address and registers, nothing spilled) and go on,
 *                                    translated, in the program's handler. A signal that comes between two
 *                                    instructions of a block waits for the block's end; one that an
 *                                    instruction raised does not.
 *     clone, clone3, fork, vfork     whoever is made goes on translated, with a context of its own.
 *     execve, execveat               the client is asked first (exec).
 *     exit, exit_group               the client is told.
 *     rseq                           -ENOSYS; what glibc registered before is taken back.
 *     mmap, munmap, mprotect, ...    code that is gone, or may have changed, is forgotten (changed.c)
 *     arch_prctl of gs               the program's gs is a value that is kept for it.
 *
 * A program that is killed by a signal of its own making dies natively, at its own address, with its own
 * registers: core files are the program's. So do those of SIGABRT and its like.
 *
 * A child of vfork (posix_spawn too) is one more thread of its parent, for that time, with zeroed bytes of
 * its own; thread_ends tells of it, in the parent, when it has become another program or has gone.
 *
 * What is not as it would be:
 *     a signal that comes in the middle of a block waits for its end, a long rep movs too
 *     one that had to wait is the thread's then, no longer the process's: no other thread's sigwait takes it
 *     the trap flag, set by the program, traps in translated code; breakpoints of a debugger are not seen
 *     32-bit system calls (int $0x80) are made, but not seen
 *     gs other than 0 is refused (-EPERM); wrgsbase and far jumps leave the translator
 *     an ignored SIGSEGV is handled, so that calls that it interrupts begin anew, or fail with EINTR
 *     a frame that does not fit on the program's stack kills, where a handler for SIGSEGV might have run
 */
#ifndef LH_PORT_TRANSLATE_PROCESS_H
#define LH_PORT_TRANSLATE_PROCESS_H

#include "port/translate/translate.h"

struct lh_process_options {
	struct lh_translate_options translate;
	/* All may be NULL; context is the client's. They run in the thread in question, as `call` does. */
	void (*thread_begins)(void *context, void *own, int tid); /* the first one too */
	void (*thread_ends)(void *context, void *own);
	void (*process_ends)(void *context, void *own,
	                     int status); /* exit_group, or the last thread's exit */
	/* In a child of fork, which has one thread: own is a copy of its parent's. Not of vfork. */
	void (*forked)(void *context, void *own);
	/* Before another program takes the process's place: may change path, argv and environment in call. */
	void (*executes)(void *context, void *own, struct lh_translate_call *call);
	/* Code was loaded or unloaded: a file's executable mapping has come or gone. */
	void (*mapped)(void *context, uint64_t start, uint64_t end);
};

/*
 * Takes over the calling process, which has one thread: that is translated from the return of this function
 * on. There is no way back. -EBUSY: there are more threads, or gs is used.
 */
int lh__process_open(const struct lh_process_options *options, struct lh_translator **out,
                     struct lh_error *error) LH_MUST_CHECK;

#endif
