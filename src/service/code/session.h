/*
 * session.h - watches the code of a program: launches it or attaches to it, follows its children and what
 * they execute, and lets go of it again.
 *
 * Two engines with one contract (struct lh_session_engine): *inside*, an agent in the process (port/code/
 * inside.h), and *outside*, ptrace from here, which needs nothing in the process. What a session sees stands
 * in a record. A session is used by the one thread that opened it.
 */
#ifndef LH_SERVICE_CODE_SESSION_H
#define LH_SERVICE_CODE_SESSION_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "service/code/record.h"

enum lh_session_choice { LH_ENGINE_AUTO, LH_ENGINE_INSIDE, LH_ENGINE_OUTSIDE };

struct lh_session_options {
	enum lh_session_choice engine;
	bool look_ahead;            /* supply what a lone thread runs next, too (port/code/inside.h) */
	bool libraries;             /* watch code of libraries, too */
	const char *const *exclude; /* NULL, or symbols ("NAME", "MODULE!NAME") and ranges "0xFROM-0xTO", as
	                               the program's file has its addresses, that are never armed: programs
	                               that read their own code; ends with NULL */
	const char *from, *until;   /* NULL, or functions between which hits are recorded: each call of from
	                               begins it, each call of until ends it */
	struct lh_record *record;
	const int *standard; /* NULL, or three descriptors that a launched program gets as its 0, 1 and 2 */
	/*
	 * NULL, or a descriptor that a launched program is sent when it comes to `from`, where it stays as
	 * a fork server (port/code/inside.h). from NULL is then main, or where there is none the program's
	 * entry.
	 */
	const int *server;
	/*
	 * The signals that a wait and a launched program's first instruction have blocked; NULL: those of the
	 * calling thread. Who wants a wait to end on a signal blocks it, and leaves it out here.
	 */
	const sigset_t *mask;
	/* One line for a person, about something that could not be watched; from the session's thread. */
	void (*say)(void *context, const char *text);
	void *context;
	uint64_t *let_go_ns; /* NULL, or out: the longest for which a process was stopped to be let go */
};

struct lh_session;

/*
 * Starts argv[0] (looked for in PATH) under watch. -ENOENT, -EACCES: it cannot be executed. What the options
 * point to must hold until the session ends.
 */
int lh__session_launch(const struct lh_session_options *options, char *const *argv, struct lh_session **out,
                       struct lh_error *error) LH_MUST_CHECK;
/* Attaches to a process with all its threads. Errors as of lh__remote_stop. */
int lh__session_attach(const struct lh_session_options *options, pid_t process, struct lh_session **out,
                       struct lh_error *error) LH_MUST_CHECK;
/*
 * Serves until something is to be told, or milliseconds have passed (-1: no limit): returns 0 at the end of
 * the time or on a signal of the caller's own, 1 when the program that was launched has ended (*status as of
 * waitpid) or the process that was attached to is gone, 2 when the launched program is stopped by job control
 * (who waits should stop as well, and then send it SIGCONT), or a negative errno.
 */
int lh__session_wait(struct lh_session *session, int milliseconds, int *status,
                     struct lh_error *error) LH_MUST_CHECK;
/*
 * Takes away again, in all processes, what has been supplied since the last call, and moves those hits from
 * the record to *seen, a record of the same modules which is emptied first. For windows.
 */
int lh__session_take(struct lh_session *session, struct lh_record *seen,
                     struct lh_error *error) LH_MUST_CHECK;
/*
 * Lets go: every byte of code is brought back in all processes that live. *verified: the texts' checksums are
 * as before the session. Ends the session; an error names the process that could not be left as it was.
 */
int lh__session_end(struct lh_session *session, bool *verified, struct lh_error *error) LH_MUST_CHECK;
/* The launched process, or the one attached to. */
pid_t lh__session_process(const struct lh_session *session);
/* Nanoseconds for which attaching stopped the process. */
uint64_t lh__session_stopped_for(const struct lh_session *session);

#endif
