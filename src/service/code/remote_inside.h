/*
 * remote_inside.h - what remote.c (stopping, memory) and remote_call.c (making a thread do something) share.
 */
#ifndef LH_SERVICE_CODE_REMOTE_INSIDE_H
#define LH_SERVICE_CODE_REMOTE_INSIDE_H

#include <sched.h>
#include <signal.h>
#include <time.h>

#include "service/code/remote.h"

/* What we know of a thread beside what the caller sees of it. */
struct lh_remote_kept {
	pid_t id;
	bool stopped;  /* it has reported its stop */
	bool gone;     /* it has ended; its status is not to be waited for any more */
	bool away;     /* its registers and its mask are not those that it shall go on with */
	bool trapped;  /* it stands in the kernel's signal code, where registers of a call are restarted */
	bool at_risk;  /* it waits in a call that ends with EINTR if it is woken for nothing */
	bool stop_due; /* SIGSTOP came while it worked for us */
	int held;      /* another signal that came then, and what it said */
	siginfo_t held_info;
	struct user_regs_struct registers;
	uint64_t blocked;
};

struct lh_remote {
	pid_t process;
	int memory;        /* /proc/PID/mem */
	bool own;          /* it is our child: who waits for it shall find its status */
	bool leader_ended; /* the first thread, which is told of only when all others are */
	bool pinned;       /* this thread runs where the worker runs; processors: where it did before */
	cpu_set_t processors;
	bool hurried;       /* this thread is preferred to others while the process is stopped */
	pid_t preferred;    /* the worker, likewise; 0: none */
	int policy, before; /* of the worker and of this thread, as they were */
	uint64_t since;
	uint64_t site;   /* of a `syscall` instruction; 0: not looked for yet */
	bool site_known; /* it was seen since the process is stopped */
	size_t count, room;
	struct lh_remote_kept *kept;
	struct lh_remote_thread *threads; /* what the caller is shown; by the same index */
};

uint64_t lh__remote_now(void);
/*
 * Waits for a thread's next stop: 0 and *status = signal | event << 8, -ECHILD (it has ended), or -ETIMEDOUT.
 * deadline 0: none. Polls: a thread that leads a group which was killed is not reported before we have seen
 * the end of all others, so a wait that blocks could last forever.
 */
int lh__remote_wait(struct lh_remote *remote, struct lh_remote_kept *thread, uint64_t deadline,
                    int *status) LH_MUST_CHECK;
/* One look for it: -EAGAIN, it has not come yet. turn: how often it was looked for before. */
int lh__remote_look(struct lh_remote *remote, struct lh_remote_kept *thread, unsigned turn,
                    int *status) LH_MUST_CHECK;
/* What is done between two looks: the processor is offered to others at first, later there is a nap. */
bool lh__remote_yield(unsigned turn, struct timespec *nap);
/* Turns an EINTR that nothing but a stop has caused into a restart; whether there was one. */
bool lh__remote_restart(struct user_regs_struct *registers);
/* Release, after which the handle has no threads and is still to be ended by the caller. */
void lh__remote_let_go(struct lh_remote *remote);
/* Prefers a thread to all that have no deadlines; whether it is now, and *before: what it was. */
bool lh__remote_prefer(pid_t thread, int flags, int *before);
/* Looks for a `syscall` instruction, stopped or not. 0, or what reading the mappings has failed with. */
int lh__remote_look_for_site(struct lh_remote *remote);
bool lh__remote_ignores_segv(const struct lh_remote *remote);
/* The thread that works for us, or NULL: none lives. */
struct lh_remote_kept *lh__remote_worker(struct lh_remote *remote);
/* Brings a thread that was away back to where it was. */
int lh__remote_settle(struct lh_remote *remote, struct lh_remote_kept *thread) LH_MUST_CHECK;

#endif
