/*
 * launch.h - what all launchers do: look at a program, load an agent into it, start it, and wait until it and
 * the processes that it leaves behind have ended.
 */
#ifndef LH_SERVICE_LAUNCH_LAUNCH_H
#define LH_SERVICE_LAUNCH_LAUNCH_H

#include <limits.h>
#include <signal.h>
#include <sys/types.h>

#include "linehome.h"
#include "sys/sys.h"

/*
 * Whether a program can be run with an agent: resolves it in PATH, follows #!, and looks at the file
 * (program.c). -ENOENT, -EACCES: it was not found, or cannot be executed; -EINVAL: nothing can be loaded.
 */
int lh__launch_check(const char *name, struct lh_error *error) LH_MUST_CHECK;

/* The agent's path: the one that is given, else file beside this program, else where it is installed. */
int lh__launch_agent(const char *given, const char *file, const char *installed, char path[PATH_MAX],
                     struct lh_error *error) LH_MUST_CHECK;

/* This process's environment, which the program inherits, has the agent loaded first. */
int lh__launch_preload(const char *agent, struct lh_error *error) LH_MUST_CHECK;

/*
 * Makes this process one that can wait: orphans become its children, and the signals that it waits for are
 * blocked, in threads that are started later too. *before is the mask that the program shall have.
 */
void lh__launch_signals(sigset_t *signals, sigset_t *before);

/* -ENOEXEC and the like: the kernel would not execute it. */
int lh__launch_start(char *const *argv, const sigset_t *before, pid_t *child,
                     struct lh_error *error) LH_MUST_CHECK;

/*
 * Waits for all children, calls tick about once a second, and passes on to the program what was sent to this
 * process alone. Returns the program's exit status as a shell has it.
 */
int lh__launch_wait(pid_t child, const sigset_t *signals, void (*tick)(void *context), void *context);

#endif
