/*
 * translate.h - the port that sees every load and store, in order: code is rewritten as it is reached.
 *
 * A *fragment* is the translation of one block: the program's own instructions, copied byte for byte, with
 * displacements that are relative to the instruction pointer corrected, and a client's code between them. It
 * lies in the *code cache*, which is mapped twice, once to be written and once to be executed, and never both
 * at once. Control flow is what is rewritten: a direct jump leads to another fragment as soon as there is
 * one, before that to the translator, or *falls* into it where it follows directly; an indirect one, and a
 * return, through a table of all targets that are known (inside.h), without the translator. Calls push the
 * program's own return addresses, so stacks look as they always did, to unwinders and debuggers too.
 *
 * The program's stack is never written below its stack pointer: red zones are its own. What is spilled goes
 * to the thread's *context*, which the gs register leads to; a program that uses gs itself is told apart
 * (-EBUSY). Flags are saved only where they are live, by lahf and seto, never by pushf.
 *
 * Two ways to use it. A thread switches itself over (lh__translate_begin) and back (lh__translate_end), in a
 * process that is otherwise native: for transactions. Its system calls are shown to the client; handlers of
 * signals run natively, and go back into the cache. Or all threads of a program, and its children, from now
 * on (process.h): for `linehome count`. Then system calls and signals are the translator's business too, and
 * handlers are translated.
 *
 * Code that changes is translated anew (changed.c). Where a thread switches itself over, it need not be told
 * of what the program may write (such code is compared when it is entered), but of what goes by a system call
 * (lh__translate_forget).
 *
 * Errors of translation (an instruction that Zydis does not know, memory that is gone) do not stop a program:
 * the fragment ends before, and what cannot be translated runs by the slow path: natively, counted. Such a
 * thread is native from there on.
 */
#ifndef LH_PORT_TRANSLATE_H
#define LH_PORT_TRANSLATE_H

#include <stdbool.h>
#include <stdint.h>

#include "code/access.h"
#include "code/liveness.h"

struct lh_translator;        /* of a process: the code cache and what is known of fragments */
struct lh_translated_thread; /* of a thread */
struct lh_emitter;           /* emit.h */

/* An instruction as a client sees it while its block is being translated. */
struct lh_translated_instruction {
	uint64_t address; /* the program's */
	const uint8_t *bytes;
	uint8_t length;
	const ZydisDecodedInstruction *decoded;
	const ZydisDecodedOperand *operands;
	const struct lh_accesses *accesses;
	uint32_t live_before; /* liveness.h */
};

/* A system call, as the program is about to make it. */
struct lh_translate_call {
	long number;
	long argument[6];
	uint64_t address;       /* of its instruction */
	uint64_t stack_pointer; /* the program's */
	long result;            /* for a hook that answers it */
};

/*
 * A client. All may be NULL. block, before and after are called while a block is translated, by one thread at
 * a time, and emit code; what they emit may use registers and flags as emit.h lets them have.
 * A block may be made twice, where it does not fit. `after` is not called for what transfers control.
 */
struct lh_translate_client {
	void *context;
	/*
	 * Of the client's own in each thread's context, zeroed; emit.h reaches it. It begins a page: while
	 * the thread lives the client may have other memory mapped there.
	 */
	size_t thread_bytes;
	/*
	 * Where a basic block begins: it is entered here only, and left at its end only, but for `cut`. A
	 * fragment may hold several, one after the other.
	 */
	void (*block)(void *context, struct lh_emitter *emitter, uint64_t address, unsigned instructions,
	              const struct lh_translated_instruction *instruction);
	void (*before)(void *context, struct lh_emitter *emitter,
	               const struct lh_translated_instruction *instruction);
	void (*after)(void *context, struct lh_emitter *emitter,
	              const struct lh_translated_instruction *instruction);
	/*
	 * The calling thread leaves the basic block at address, of so many instructions, after the first
	 * `executed` of them: the next one has raised a signal. Whoever counts at a block's entry corrects
	 * it. general: the program's registers at that moment, as they are encoded; NULL where the next one
	 * has not begun: code has changed, and what follows is another block.
	 */
	void (*cut)(void *context, void *own, uint64_t address, unsigned instructions, unsigned executed,
	            const uint64_t *general);
	/*
	 * Before each system call of a translated thread, in that thread, on a stack of the translator's,
	 * with no lock held and signals held back: may change number and arguments, and return false: it is
	 * made as they are then. Or make it itself, or not, and return true: its result is `result`. A call
	 * that may wait must not be made here.
	 */
	bool (*call)(void *context, void *own, struct lh_translate_call *call);
	/*
	 * Where this is not NULL: a return at which the stack pointer is minus the word at this offset of the
	 * client's bytes does not happen. The thread goes here instead, natively, the return address still on
	 * the stack, all registers as they are; and goes on by a return, or, where it is still translated, by
	 * a jump to lh__translate_return.
	 */
	void (*returned)(void);
	size_t returned_offset;
};

struct lh_translate_options {
	const struct lh_sys *sys; /* its call is made between a program's instructions: no vector registers */
	size_t cache;             /* bytes of code cache; 0: 64 MiB. When it is full all of it is forgotten */
	/*
	 * An address of the program's code that is hot: the cache lies within 2 GiB of it where there is
	 * room. 0: of the translator's own code.
	 */
	uint64_t near;
	struct lh_translate_client client;
};

struct lh_translate_counts {
	uint64_t blocks;       /* translated */
	uint64_t instructions; /* in them */
	uint64_t bytes;        /* of code cache that they take */
	uint64_t slow;         /* instructions that run by the slow path */
	uint64_t dispatches;   /* times that the translator was entered */
	uint64_t flushes;      /* times that all was forgotten */
	uint64_t links;        /* direct exits that lead to a fragment */
};

int lh__translate_open(const struct lh_translate_options *options, struct lh_translator **out,
                       struct lh_error *error) LH_MUST_CHECK;
/* No thread may be translated any more. */
void lh__translate_close(struct lh_translator *translator);

/*
 * The calling thread's code is translated from the return of this function on, until it calls end. Nested
 * calls count. -EBUSY: the gs register is used by somebody else, be it another translator. -ENOMEM: no
 * context; the thread stays native.
 */
int lh__translate_begin(struct lh_translator *translator, struct lh_error *error) LH_MUST_CHECK;
void lh__translate_end(struct lh_translator *translator);
/* No function: what a thread that runs natively, and is still translated, jumps to in place of a return. */
extern const char lh__translate_return[];
/* Whether the calling thread is being translated. */
bool lh__translate_is_on(const struct lh_translator *translator);
/* Whether the very call is made by translated code: not so in a handler of a signal, which runs natively. */
bool lh__translate_is_here(void);
/* The client's bytes of the calling thread; NULL where it has never been translated. */
void *lh__translate_thread_bytes(const struct lh_translator *translator);

/*
 * The function at this address, of at most six arguments in registers, is called natively by threads that are
 * translated, which go on translated when it returns, unless it has ended that (lh__translate_end). For what
 * a client is itself made of. -ENOSPC: there are too many.
 */
int lh__translate_native(struct lh_translator *translator, uint64_t function) LH_MUST_CHECK;

/*
 * For a function that a client's code calls plainly (emit.h), and that has to call what uses vector
 * registers: they are saved and restored around it, but for x87 and MMX, which function must not use.
 */
void lh__translate_with_vectors(void (*function)(void *own, uint64_t a, uint64_t b), void *own, uint64_t a,
                                uint64_t b);

/* Code in [start, end) has changed, or is gone: its fragments are forgotten before this returns. */
void lh__translate_forget(struct lh_translator *translator, uint64_t start, uint64_t end);
/*
 * Which of the program's instructions an address in the code cache belongs to: for signals that an
 * instruction has raised. 0: none. Not for code that leads from one fragment to the next.
 */
uint64_t lh__translate_address(struct lh_translator *translator, uint64_t code);
void lh__translate_counts(const struct lh_translator *translator, struct lh_translate_counts *out);

#endif
