/*
 * session_inside.h - what the parts of a session know of each other. session.h is for everybody,
 * session_engine.h for engines.
 *
 *     session.c         opening, waiting, letting go
 *     session_launch.c  starting a program up to its first instruction
 *     session_module.c  what is to be done with a mapping of code; whether it is as its file has it
 *     session_marks.c   plans in which something is never armed, and where markers are
 *     session_take.c    taking lines away again
 *     session_broker.c  answers what agents ask
 *     engine_inside.c   the inside engine: agents come and go, and follow what is executed
 *     inject.c          how an agent gets into a process; inject_leave.c: out of it
 */
#ifndef LH_SERVICE_CODE_SESSION_INSIDE_H
#define LH_SERVICE_CODE_SESSION_INSIDE_H

#include <sys/stat.h>

#include "service/code/session_engine.h"

#define LH_NO_MARKER UINT32_MAX
#define LH_EXCLUDES 64u

/* A file with code, as it was when it was first met. */
struct lh_session_file {
	uint64_t device, inode, size, mtime;
	bool usable; /* a plan could be made */
	bool watched;
	bool edited; /* plan is a copy of ours, in which something is never armed */
	struct lh_plan plan;
	struct lh_record_view view;                         /* where watched */
	uint32_t from[LH_PLAN_TEXTS], until[LH_PLAN_TEXTS]; /* places of markers, or LH_NO_MARKER */
	struct lh_session_file *next;
};

struct lh_session {
	struct lh_session_options options;
	const struct lh_session_engine *engine;
	void *state; /* the engine's */
	struct lh_session_file *files;
	struct lh_session_refusal *refusals; /* session_take.c */
	pid_t held_of;                       /* whose mappings of code are held; 0: nobody's */
	struct lh_mapping *held;
	size_t held_count, held_room;
	bool marks;     /* exclude, from or until are given */
	bool recording; /* neither before from nor behind until */
	bool unopened;  /* it was said that a file could not be opened */
	/* Of those that are given, the names that were found: a bit for each exclude, then from, until. */
	uint64_t found_excludes;
	bool found_from, found_until;
	bool from_entry; /* where there is no function `from`, it is the program's entry */

	int events;  /* epoll: all that a wait looks at */
	int sockets; /* epoll: the broker's part of it */
	int signals; /* signalfd of SIGCHLD */
	int listener;
	int gone;           /* pidfd of the process that was attached to */
	char name[104];     /* of the broker's socket */
	sigset_t mask;      /* of what is launched */
	sigset_t waiting;   /* in a wait */
	sigset_t before;    /* this thread's */
	bool ignores_child; /* SIGCHLD, before */

	pid_t process;
	bool launched, ended;
	int status;
	uint64_t stopped_for;
	bool differs; /* a text was not as its file has it when it was let go */
	pid_t differs_in;
};

/* ---- session_launch.c ---- */
/* A child that stands before the first instruction of argv[0], traced by this thread. */
int lh__session_start(struct lh_session *session, char *const *argv, pid_t *child,
                      struct lh_error *error) LH_MUST_CHECK;

/* ---- session_marks.c ---- */
/* Whether the options' marks can be kept; says what is wrong with them. */
int lh__session_check_marks(struct lh_session *session, struct lh_error *error) LH_MUST_CHECK;
/* Makes of a file's plan one that heeds the options, as the process that maps it names its functions. */
int lh__session_mark(struct lh_session *session, struct lh_session_file *file, pid_t process, bool is_program,
                     uint64_t bias, struct lh_error *error) LH_MUST_CHECK;
/* Says which of the names were never found. */
void lh__session_say_unfound(const struct lh_session *session);

/* ---- session_module.c ---- */
void lh__session_forget_files(struct lh_session *session);
/*
 * Makes or finds the plans of all code that a process has mapped, while it still runs: nothing of that is
 * left to be done when it is stopped.
 */
void lh__session_prepare(struct lh_session *session, pid_t process);
/*
 * Reads the mappings of code of a stopped process once, for all questions about it until they are let go of.
 * What an agent does meanwhile changes only those that were asked about.
 */
void lh__session_hold_mappings(struct lh_session *session, pid_t process);
void lh__session_drop_mappings(struct lh_session *session);
/* Calls found for each text of known files that a process has mapped. */
struct lh_session_place {
	const struct lh_session_file *file;
	unsigned text;
	uint64_t start, end;
	bool of_plan; /* what is mapped there is the plan's copy, and not the file */
};
int lh__session_places(struct lh_session *session, pid_t process,
                       int (*found)(void *context, const struct lh_session_place *place),
                       void *context) LH_MUST_CHECK;

/* ---- session_take.c ---- */
/* Makes all watched code absent again in all processes, whether it was recorded or not. */
void lh__session_take_all(struct lh_session *session);
/*
 * The agent of a process could not arm the code at an address: what was taken away there is brought back, and
 * nothing is any more.
 */
void lh__session_refused(struct lh_session *session, pid_t process, uint64_t address);
void lh__session_forget_refusals(struct lh_session *session);
/* Calls change for each process that is watched, with a descriptor of its memory. */
void lh__session_each_memory(struct lh_session *session,
                             void (*change)(struct lh_session *session, pid_t process, int memory,
                                            void *context),
                             void *context);

/* ---- session_broker.c ---- */
int lh__session_broker_open(struct lh_session *session, struct lh_error *error) LH_MUST_CHECK;
/* Answers all that has been asked. */
void lh__session_broker_serve(void *session);
void lh__session_broker_close(struct lh_session *session);

/* ---- engine_inside.c ---- */
/* Whether an agent of this session may ask in the name of a process. */
bool lh__inside_is_ours(void *state, pid_t process);
/* The process into which an agent is being put now, or 0. */
pid_t lh__inside_entering(void *state);
/* A thread is about to execute: it is traced when this returns 0, and goes on when resumed. */
int lh__inside_executes(void *state, pid_t process, pid_t thread) LH_MUST_CHECK;
void lh__inside_resume(void *state, pid_t thread);

#endif
