/*
 * inside.h - the inside engine: an agent in the program, with its own handler for SIGTRAP.
 *
 * It is a piece of position independent code that needs no libc and no dynamic linker. Somebody who can trace
 * the process (service/code/inject.h) maps it, fills in struct lh_inside_start, and lets one thread call
 * lh_inside_start; the same when it is to leave (lh_inside_stop). In between nobody traces the process: a
 * trap is answered in the thread that takes it, in some 1.5 us.
 *
 * What it must see of the program are some system calls: those that would block or ignore SIGTRAP, which
 * would turn the next trap into death (they are carried out without SIGTRAP, and the program is told what it
 * set); those that map or unmap code; and execve, before which the watcher is told. Plans know where
 * `syscall` instructions stand (struct lh_plan_site): the sites of those calls stay absent for good in all
 * modules, those that are not watched too, and the handler makes the call.
 *
 * In a process with one thread a trap is answered with what runs next, too, as far as that is sure (inside/
 * ahead.h). A signal handler, or another process that writes to shared memory, can change what is foreseen in
 * the microseconds between; lh_inside_start.look_ahead as 0 rules that out.
 *
 * The program's SIGTRAP remains: one that is not of an armed start goes to the handler that the program set,
 * or does what the kernel would do.
 *
 * The agent keeps no descriptor. It asks by a connection of its own each time to the watcher's abstract Unix
 * socket (SOCK_SEQPACKET), and where nobody answers (the watcher was killed, a sandbox forbids sockets) it
 * goes on with what it has; modules that are mapped later are then left alone.
 *
 * A fork's child has a copy of all of it, and the same record; nothing needs to be done. A program that is
 * executed starts without; the watcher, told by LH_ASK_EXECUTE and answering when it traces the thread,
 * puts an agent into it.
 */
#ifndef LH_PORT_CODE_INSIDE_H
#define LH_PORT_CODE_INSIDE_H

#include <stdint.h>

#include "port/code/plan.h"
#include "port/code/record.h"
#include "port/code/text.h"

#define LH_INSIDE_TEXTS 1024u

/* Filled in by who loads the agent; read by lh_inside_start in the program. */
struct lh_inside_start {
	char name[104]; /* of the watcher's abstract socket, without the leading 0; ends with 0 */
	uint32_t granularity;
	uint32_t launched;     /* 1: before the program's first instruction: map images over texts */
	uint32_t trap_ignored; /* 1: the program was given SIGTRAP ignored, */
	uint32_t trap_blocked; /*    or blocked, and shall find it so */
	uint32_t markers;      /* 1: of an INT3 in a text that is not armed is asked (LH_ASK_MARKER) */
	uint32_t look_ahead;   /* 1: the process has one thread, and what it runs next may be foreseen */
	uint32_t fs_known;     /* 1: the processor's rdfsbase may be used (AT_HWCAP2) */
	uint32_t pad;
	uint64_t self, self_size; /* where the agent itself is mapped */
	uint64_t stack;        /* the top of the stack on which start and stop run; unused by the handler */
	struct lh_error error; /* out: why start has failed */
};

/*
 * The agent's two entries, by the System V calling convention, on a stack that the caller provides, in a
 * thread that is stopped otherwise, while all others are stopped too. Return 0 or a negative errno; a start
 * that fails has changed nothing.
 *
 * stop: brings every byte back, the program's SIGTRAP action and the masks of its handlers, and closes
 * mappings of plans and record. Who calls it has seen to it that no thread stands in the agent, or has it
 * keep the copies of system call instructions, in which such a thread may have to go on. The threads' own
 * masks are the caller's business before and after.
 */
long lh_inside_start(struct lh_inside_start *start);
long lh_inside_stop(long keep);

/* ---- what the agent asks ---- */

enum lh_ask_kind {
	LH_ASK_HELLO = 1, /* -> record's descriptor */
	LH_ASK_MODULE,    /* address: code is mapped here now. -> what to do, with the plan's descriptor */
	LH_ASK_EXECUTE,   /* this thread is about to execute. -> when it is traced (or shall not be) */
	LH_ASK_MARKER,    /* address: of an INT3. -> enum lh_marker_action */
	LH_ASK_REFUSED,   /* address: of code that MODULE was asked about and that the agent could not arm */
};

struct lh_ask {
	uint32_t kind;
	int32_t process, thread; /* as the asker sees itself; the watcher believes SO_PEERCRED */
	uint32_t pad;
	uint64_t address, size, offset; /* MODULE: of the mapping, and in its file */
};

enum lh_answer_action {
	LH_ANSWER_IGNORE = 0, /* no code of a file, or none that can be watched */
	LH_ANSWER_SITES,      /* only the sites of system calls are to be kept absent */
	LH_ANSWER_WATCH       /* all armed starts, and sites */
};

enum lh_marker_action {
	LH_MARKER_OTHER = 0, /* the program's own */
	LH_MARKER_GONE,      /* it was put there, and is gone now */
	LH_MARKER_SERVE      /* the same, and the thread stays there as a fork server */
};

/*
 * Descriptors travel beside it (SCM_RIGHTS): HELLO: the record; MODULE: the plan, unless ignored; MARKER: the
 * server's end of a socket (SOCK_SEQPACKET), where it is to serve.
 */
struct lh_answer {
	int32_t error; /* 0 or a negative errno */
	uint32_t action;
	uint64_t start, end; /* MODULE: where the text runs */
	uint32_t text;       /* which text of the plan */
	uint32_t pad;
	uint64_t plan_size;
	uint64_t hits; /* the text's bitmap in the record */
};

/* ---- the fork server ---- */

/*
 * A thread that came to a marker stays in the handler, with all signals blocked, and is told what to do by
 * struct lh_serve_command, each a message. SUPPLY has no answer. RUN forks: the child goes on from the
 * marker, and when it has ended, and all that it has left behind was ended too, struct lh_serve_status is
 * sent. One is also sent at the beginning. The server ends when the socket does, and with its parent; a
 * child ends with it.
 */
enum lh_serve_kind { LH_SERVE_SUPPLY = 1, LH_SERVE_RUN };

#define LH_SERVE_PLACES 32u

struct lh_serve_command {
	uint32_t kind;
	uint32_t count;                  /* SUPPLY: of places */
	uint64_t place[LH_SERVE_PLACES]; /* where spans begin that were recorded */
};

struct lh_serve_status {
	int32_t error;  /* of the fork: a negative errno, or 0 */
	int32_t status; /* as of waitpid */
};

#endif
