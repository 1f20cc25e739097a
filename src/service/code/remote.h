/*
 * remote.h - another process, stopped: read, write, have it make system calls and call functions.
 *
 * By ptrace, with PTRACE_SEIZE, so nothing is sent to the process that it could see. All threads are stopped,
 * new ones that appear meanwhile too. What a thread was doing it goes on doing: registers are put back
 * exactly, orig_rax among them, so an interrupted system call is restarted by the kernel as after any
 * signal that had no handler.
 *
 * A handle is to be used by the one thread that made it: so ptrace wants it.
 */
#ifndef LH_SERVICE_CODE_REMOTE_H
#define LH_SERVICE_CODE_REMOTE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "sys/sys.h"

struct lh_remote;

struct lh_remote_thread {
	pid_t id;
	struct user_regs_struct registers;
	uint64_t blocked; /* signals, bit n - 1 for signal n */
};

/*
 * Seizes and stops all threads of a process. -ESRCH: no such process, or a zombie; -EPERM: not ours;
 * -EBUSY: somebody traces it (named in the text); -ENOEXEC: a 32-bit process; -ETIMEDOUT: a thread could not
 * be stopped within milliseconds (it is in an uninterruptible sleep); all others then go on as they were.
 */
int lh__remote_stop(pid_t process, unsigned milliseconds, struct lh_remote **out,
                    struct lh_error *error) LH_MUST_CHECK;
/*
 * Takes over a thread that the caller traces already and that is stopped as the only one of its process:
 * after an execve.
 */
int lh__remote_adopt(pid_t process, struct lh_remote **out, struct lh_error *error) LH_MUST_CHECK;
/*
 * Lets all threads go on, untraced, with the signals that arrived meanwhile. Ends the handle. Returns for how
 * many nanoseconds the thread that goes on last was stopped.
 */
uint64_t lh__remote_release(struct lh_remote *remote);
/* The same, but threads stay traced and stopped: for who resumes them by itself (adopt's opposite). */
void lh__remote_abandon(struct lh_remote *remote);

pid_t lh__remote_process(const struct lh_remote *remote);
/* The threads; valid until the handle ends. Changes to registers and blocked are written back by set. */
size_t lh__remote_threads(struct lh_remote *remote, struct lh_remote_thread **threads);
int lh__remote_set(struct lh_remote *remote, const struct lh_remote_thread *thread) LH_MUST_CHECK;

/* Memory, also what may not be written to. -EFAULT: not all of it is there; what was written before stays. */
int lh__remote_read(struct lh_remote *remote, uint64_t address, void *to, size_t size) LH_MUST_CHECK;
int lh__remote_write(struct lh_remote *remote, uint64_t address, const void *from, size_t size) LH_MUST_CHECK;

/*
 * A system call in the stopped process, made by its first thread. Returns its result. -ECHILD: the process
 * has ended meanwhile. Signals that arrive are kept for release.
 */
long lh__remote_syscall(struct lh_remote *remote, long nr, const long argument[6]) LH_MUST_CHECK;
/*
 * Calls a function there on the stack whose top is given (aligned to 16) with all other threads stopped, and
 * returns what it returned in *result. A watcher that must serve what the function asks for gives a
 * descriptor set to poll meanwhile: serve is called whenever it is readable (may be -1 and NULL). -EFAULT: it
 * crashed, and what the thread was is put back; -ETIMEDOUT likewise; -ECHILD.
 */
int lh__remote_call(struct lh_remote *remote, uint64_t function, const long argument[3], uint64_t stack,
                    unsigned milliseconds, int readable, void (*serve)(void *context), void *context,
                    long *result) LH_MUST_CHECK;

/* Nanoseconds for which the threads have been stopped: since stop or adopt. */
uint64_t lh__remote_stopped_for(const struct lh_remote *remote);

/* ---- mappings ---- */

struct lh_mapping {
	uint64_t start, end, offset, inode;
	unsigned device_major, device_minor;
	char rights[5]; /* "r-xp" */
	char path[4096];
};
/* Calls found for each mapping of a process, stopped or not, until it returns non-zero, which is returned. */
int lh__mappings(pid_t process, int (*found)(void *context, const struct lh_mapping *mapping),
                 void *context) LH_MUST_CHECK;
/*
 * Room for size bytes (a multiple of 4096) of which each lies within 2 GiB of each byte of [start, end),
 * where nothing is mapped; 0: there is none.
 */
uint64_t lh__mappings_gap(pid_t process, uint64_t start, uint64_t end, uint64_t size);

#endif
