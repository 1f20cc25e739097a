/*
 * guard_inside.h - what the parts of the guard know of each other; outside.h says what it is.
 */
#ifndef LH_SERVICE_CODE_GUARD_INSIDE_H
#define LH_SERVICE_CODE_GUARD_INSIDE_H

#include <signal.h>
#include <sys/types.h>
#include <sys/user.h>

#include "port/code/text.h"
#include "service/code/outside.h"

#define LH_GUARD_THREADS 1024u /* of the table of threads */

struct guard_plan {
	dev_t device;
	ino_t inode;
	const struct lh_plan_head *head;
	struct guard_plan *next;
};

/* Watched code in a process. */
struct guard_place {
	const struct lh_plan_head *plan;
	unsigned which; /* of its texts */
	bool watch;     /* all of it is absent; else only what maps code */
	struct lh_text text;
	uint64_t inode; /* of what is mapped there */
	bool present;   /* it still is */
};

struct guard_process {
	pid_t id;
	int memory; /* /proc/PID/mem, or -1 */
	struct guard_place *place;
	size_t places;
	size_t threads;
	bool leaving;          /* its bytes are back: who stops is let go */
	bool ignored_trap;     /* it ignores SIGTRAP, which the kernel forgets */
	bool swallow_continue; /* the SIGCONT that comes is ours */
	uint64_t gadget;       /* a `syscall` that is never absent */
	struct guard_process *next;
};

struct guard_thread {
	pid_t id;
	struct guard_process *process;
	bool stopped;   /* and not resumed by us */
	bool listening; /* in a stop by job control, of which only its end is to be told */
	int signal;     /* that it shall go on with */
	/* While the program's own handler of SIGTRAP runs: the action, and what its stack is below of. */
	bool in_handler;
	uint64_t handler_below;
	uint64_t action[4];
	/* A SIGTRAP that was passed on comes once more; what it said. */
	bool passed;
	siginfo_t info;
	struct guard_thread *next;
};

struct guard {
	int socket, signals, record;
	bool alone;     /* the session is gone */
	pid_t expected; /* it may be stopped, and nobody but us knows; 0: nobody is */
	enum lh_granularity granularity;
	struct lh_record_control *control;
	struct guard_plan *plans;
	struct guard_process *processes;
	struct guard_thread *threads[LH_GUARD_THREADS];
	/* Commands that came while an answer was waited for. */
	struct lh_guard_message *queue;
	size_t queued;
	/* Children that stopped before their parent's stop has told of them. */
	pid_t *early;
	size_t earlies;
	int processor; /* where we run; -1: anywhere */
};

/* ---- guard.c ---- */
/* Asks the session; the answer replaces the question. False: it is gone. */
bool lh__guard_ask(struct guard *guard, struct lh_guard_message *message, int *descriptor);
/* Waits for the next stop of a thread as of lh__remote_wait; it may not have ended. */
int lh__guard_wait(struct guard *guard, struct guard_thread *thread, uint64_t deadline,
                   int *status) LH_MUST_CHECK;

/* ---- guard_text.c ---- */
/* Its memory, opened when it is needed first. */
int lh__guard_memory(struct guard_process *process);
void lh__guard_forget_places(struct guard_process *process);
/* Of a fork's child: the same code at the same places, as absent as its parent's. */
int lh__guard_copy_places(struct guard_process *to, const struct guard_process *from) LH_MUST_CHECK;
/* Asks what is to be done with all code, or that at an address, and makes it absent. */
void lh__guard_arm_all(struct guard *guard, struct guard_process *process, bool launched);
void lh__guard_arm(struct guard *guard, struct guard_process *process, uint64_t address, bool launched);
void lh__guard_bring_back(struct guard_process *process);
/*
 * A trap at an address. What it was: not ours, one that was supplied, or the `syscall` of a call that is
 * seen and is to be carried out.
 */
enum guard_trap { GUARD_FOREIGN, GUARD_SUPPLIED, GUARD_CALL };
enum guard_trap lh__guard_trap(struct guard *guard, struct guard_process *process, uint64_t address);

/* ---- guard_call.c ---- */
/* Carries out the call of a thread that stands at an absent `syscall`. False: the thread has ended. */
bool lh__guard_call(struct guard *guard, struct guard_thread *thread, struct user_regs_struct *registers);
/*
 * What the program does at SIGTRAP, by a system call of its own: gets it into thread->action, or puts it
 * back. The thread then stands behind a system call, with its registers as they were.
 */
bool lh__guard_action(struct guard *guard, struct guard_thread *thread, bool put);

#endif
