/*
 * outside.h - the outside engine: a *guard*, a process of its own, traces what is watched and answers its
 * traps.
 *
 * Why a process of its own: while code is absent a tracer must live, or the next trap is the program's death.
 * A linehome that is killed takes its tracing with it; the guard sees that its parent is gone, brings every
 * byte back and lets go. It needs nothing in the program, so it watches static programs, sandboxed ones and
 * those that block SIGTRAP; a trap costs several times what it costs inside.
 *
 * The two talk by a pair of sockets, one struct lh_guard_message at a time. What the guard must know of code
 * it asks of the session, which alone makes plans and adds to the record; plans come as descriptors.
 *
 *     outside.c      the engine, in the session's process
 *     guard.c        the guard: its loop, processes and threads, what each stop means
 *     guard_text.c   where watched code is in a process; absent, supplied, brought back
 *     guard_call.c   calls that a thread makes for the guard: those whose `syscall` stays absent
 */
#ifndef LH_SERVICE_CODE_OUTSIDE_H
#define LH_SERVICE_CODE_OUTSIDE_H

#include "port/code/inside.h"
#include "service/code/record.h"

#define LH_GUARD_NAME "linehome-guard"
#define LH_GUARD_LIST 128u

enum lh_guard_kind {
	/* Of the session; answered by DONE. */
	LH_GUARD_EXPECT = 1, /* process: it will be stopped by SIGSTOP, and WATCH follows */
	LH_GUARD_WATCH,      /* process; launched: it is stopped by SIGSTOP, which it shall not know of */
	LH_GUARD_LEAVE,      /* process */
	LH_GUARD_LIST_ALL,   /* DONE has number processes, and more follow if it says so */
	/* Of the guard; answered by DONE, too. */
	LH_GUARD_MODULE, /* process, address, launched: what is to be done with this mapping. -> answer */
	LH_GUARD_ARMED,  /* process: it has been made absent, so markers may be put */
	LH_GUARD_MARKER, /* process, address: a trap that is not of the plan. -> result 1: it is ours */
	LH_GUARD_VERIFY, /* process: its bytes are back */
	LH_GUARD_DONE
};

struct lh_guard_message {
	uint32_t kind;
	int32_t process, result;
	uint32_t launched, more, number;
	uint64_t address;
	struct lh_answer answer;
	int32_t processes[LH_GUARD_LIST];
	struct lh_error error;
};

/* Sends a message, with a descriptor if it is not -1; a negative errno. */
int lh__guard_send(int socket, const struct lh_guard_message *message, int descriptor) LH_MUST_CHECK;
/* Receives one; *descriptor is -1 if none came. -EPIPE: the other is gone; -EAGAIN: nothing there. */
int lh__guard_receive(int socket, int flags, struct lh_guard_message *message, int *descriptor) LH_MUST_CHECK;

/* The guard itself: returns when nobody is left to be watched and its parent is gone. */
void lh__guard_run(int socket, int record, enum lh_granularity granularity);

#endif
