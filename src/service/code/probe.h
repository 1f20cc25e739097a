/*
 * probe.h - counts and times the calls of functions of a running process, without traps.
 *
 * A function's first line is answered by one that jumps to a trampoline near it, which counts, notes the time
 * and goes on; its exits (ret, and jumps that leave it) likewise. No return address is touched, so
 * exceptions, longjmp and debuggers see an ordinary stack. Which entry an exit belongs to is found by the
 * stack pointer, which is the same at both. An exit that no jump can be put over makes the function one that
 * is counted and not timed; it is told. So is a single call that is left by an exception or by longjmp, or
 * for which there is no slot left to note its beginning (some hundred calls of a function that are under way
 * at a time). Calls of a child that the process forks are counted with its own.
 *
 * Counts are in memory that the process shares with us, so they can be read at any time, and outlive it.
 */
#ifndef LH_SERVICE_CODE_PROBE_H
#define LH_SERVICE_CODE_PROBE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "sys/sys.h"

#define LH_PROBE_BUCKETS 40u

struct lh_probe_counts {
	uint64_t calls;   /* entries */
	uint64_t returns; /* of these, exits that were timed */
	uint64_t ticks;   /* of the time stamp counter, in all calls that returned; callees included */
	uint64_t bucket[LH_PROBE_BUCKETS]; /* returns that took [2^n, 2^(n+1)) ticks; the last, longer ones
	                                      too */
};

struct lh_probe_function {
	const char *name;   /* as it was asked for */
	const char *module; /* in which it was found */
	uint64_t address;   /* in the process */
	bool timed;
	char why_not[128]; /* why it is not timed */
};

struct lh_probes;

/*
 * Starts a program (looked for in PATH), with that mask of signals, as a child that stands at its entry,
 * stopped with SIGSTOP: its libraries are mapped, nothing of it has run. SIGCONT lets it go on. -ENOENT,
 * -EACCES, ...: it cannot be executed.
 */
int lh__probes_launch(char *const *argv, const sigset_t *mask, pid_t *process,
                      struct lh_error *error) LH_MUST_CHECK;
/*
 * Puts probes on functions of a process ("NAME" or "MODULE!NAME"; all of that name). On failure the process
 * is as it was; the text names the function. wait_ms as for patches.
 */
int lh__probes_put(pid_t process, const char *const *functions, size_t n, unsigned wait_ms,
                   struct lh_probes **out, struct lh_error *error) LH_MUST_CHECK;
size_t lh__probes_count(const struct lh_probes *probes);
const struct lh_probe_function *lh__probes_function(const struct lh_probes *probes, size_t index);
void lh__probes_read(const struct lh_probes *probes, size_t index, struct lh_probe_counts *counts);
/*
 * Takes them off again; the process may have ended. Ends the handle, whatever it returns: 0; 1 the code is as
 * it was, but a thread is still on its way through a trampoline (it waits in a system call there), so its
 * memory stays; -EBUSY somebody has changed the code since, which is left alone, or no moment was found.
 */
int lh__probes_take(struct lh_probes *probes, unsigned wait_ms, struct lh_error *error) LH_MUST_CHECK;
/* Ticks of the time stamp counter in a second. */
uint64_t lh__probe_ticks_per_second(void);

#endif
