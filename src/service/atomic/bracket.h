/*
 * bracket.h - functions of a program at which transactions begin and end.
 *
 * A bracketed function's first instructions are replaced by a jump to its *stub*, which tells us and goes on
 * with them. The function's return is seen without a trace on the stack: while a transaction is open its
 * thread is translated, and a return at the stack pointer with which the function was entered, its *mark*,
 * goes through us (translate.h). So unwinders, debuggers and whoever looks at return addresses sees the
 * program's own stack.
 */
#ifndef LH_SERVICE_ATOMIC_BRACKET_H
#define LH_SERVICE_ATOMIC_BRACKET_H

#include "service/pool/translated.h"

struct lh_bracket {
	uint64_t address;
	char name[128];
	bool begins, ends;
	bool placed;
	int complained; /* the last thing that was said of it: an errno */
};

/*
 * Puts a bracket on each function of one of these names ("NAME" or "MODULE!NAME"; lists end with NULL) in the
 * program and its libraries as they are mapped now. By a process with one thread. On failure those already
 * put stay, and do no harm: -ENOENT no such function; -ENOTSUP no jump can be put there; -EBUSY there are
 * more threads.
 */
int lh__brackets_put(const char *const *begin, const char *const *end, struct lh_error *error) LH_MUST_CHECK;
/* Where what brackets have to say goes; NULL: nowhere. */
void lh__brackets_say(void (*say)(const char *line));
/* Who is told that a transaction was undone; NULL: nobody. */
void lh__brackets_tell(void (*undone)(const char *function, int error));
/* No function: where a marked return leads (entry.S). */
void lh__bracket_return(void);

#endif
