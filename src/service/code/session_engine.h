/*
 * session_engine.h - what a session wants of an engine, and what it does for one. session.h is for who opens
 * sessions; this is for session*.c and the engines.
 *
 * An engine watches processes; which code is watched, where its plan and its hit map are, the session says
 * (lh__session_module). All calls are made by the session's one thread.
 */
#ifndef LH_SERVICE_CODE_SESSION_ENGINE_H
#define LH_SERVICE_CODE_SESSION_ENGINE_H

#include "port/code/inside.h"
#include "service/code/plan_make.h"
#include "service/code/remote.h"
#include "service/code/session.h"

/* ---- what the session does for its engine ---- */

/* What is to be done with one mapping of code. Pointers hold until the session ends. */
struct lh_session_module {
	enum lh_answer_action action;
	const struct lh_plan *plan; /* NULL where it is ignored; else all that follows is set */
	unsigned text;              /* which of the plan's */
	uint64_t start, end;        /* where all of the text runs in the process */
	uint64_t *hits;             /* its bitmap, here */
	uint64_t hits_at;           /* and in the record's file */
};

/*
 * The mapping that address lies in, in a process that is stopped or waits for the answer. What cannot be
 * watched is IGNORE, counted in the record and said once. attached: the code may have been changed by
 * somebody since it was mapped, so it is compared; what was changed is ignored.
 */
void lh__session_module(struct lh_session *session, pid_t process, uint64_t address, bool attached,
                        struct lh_session_module *out);
/*
 * --from and --until: the first instruction of such a function is INT3 without being armed in the plan. So an
 * engine that meets a trap in a text at a place that is not armed asks here first. true: it was one, hits are
 * recorded from now on or are not, and the instruction is there to be executed.
 */
bool lh__session_marker(struct lh_session *session, pid_t process, uint64_t address);
/* Brings these places into the state of the moment in a process that is stopped and has just been armed. */
void lh__session_put_markers(struct lh_session *session, pid_t process);
/*
 * To be called for each process that is let go, while it is still stopped and all its bytes are back:
 * compares the texts of all known modules with their files. What lh__session_end reports.
 */
void lh__session_verify(struct lh_session *session, struct lh_remote *remote);
/* To be called when it goes on: for how long it was stopped to be watched, and to be let go. */
void lh__session_came(struct lh_session *session, uint64_t stopped_ns);
void lh__session_let_go(struct lh_session *session, uint64_t stopped_ns);

enum lh_granularity lh__session_granularity(const struct lh_session *session);
struct lh_record *lh__session_record(const struct lh_session *session);
/* One line for a person. */
void lh__session_say(const struct lh_session *session, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* The engine has taken the end of a process (waitpid): every one that the kernel gives it. */
void lh__session_ended(struct lh_session *session, pid_t process, int status);

/* ---- what an engine is ---- */

struct lh_session_engine {
	const char *name;
	/* Begins; *state is handed to all others. */
	int (*open)(struct lh_session *session, void **state, struct lh_error *error);
	/*
	 * Begins to watch a process that is stopped with all its threads; launched: before its first
	 * instruction, as the only thread. 0: the handle is the engine's and has been ended by it, the
	 * process goes on and is watched. Else nothing has changed, the handle is still the caller's.
	 */
	int (*watch)(void *state, struct lh_remote *remote, bool launched, struct lh_error *error);
	/* Does all that is to be done now, without waiting. Called at each SIGCHLD, and now and then. */
	int (*serve)(void *state, struct lh_error *error);
	/* Calls found for each process that is watched and lives, children too. */
	int (*processes)(void *state, int (*found)(void *context, pid_t process), void *context);
	/*
	 * Lets go of a process: every byte is brought back and it goes on untraced. -ESRCH: it has ended.
	 * NULL error is allowed. Waits for seconds at most.
	 */
	int (*leave)(void *state, pid_t process, struct lh_error *error);
	/* A descriptor that is readable when there is something to serve; NULL: SIGCHLD tells it. */
	int (*descriptor)(void *state);
	/* Whether waitpid for the launched process is the engine's (it traces it) or the session's. */
	bool takes_status;
	/* All processes have been let go, or shall go on alone. */
	void (*close)(void *state);
};

extern const struct lh_session_engine lh__engine_inside;
extern const struct lh_session_engine lh__engine_outside;

#endif
