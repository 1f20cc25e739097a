/*
 * linehome.h - memory under a home agent in software.
 *
 * Words. A *line* is 64 bytes, aligned. A *page* is 4096 bytes: 64 lines. A *mask* is a set of lines of
 * one page, bit i standing for line i. A *line set* is a page number, a mask and the content of those
 * lines in ascending order; it has one encoding, used in logs, on the wire and in recordings.
 *
 * Errors. A function that can fail returns a negative errno value and is marked so that ignoring it is a
 * warning. Where a struct lh_error is taken it may be NULL; on failure it receives the same code and one
 * line of text fit for a person. No function exits, prints or aborts. A failed call has changed nothing.
 *
 * Threads. Functions on different handles may be called at the same time. What may be called at the same
 * time on one handle is said at each function.
 */
#ifndef LINEHOME_H
#define LINEHOME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LH_VERSION_MAJOR 0
#define LH_VERSION_MINOR 1
#define LH_VERSION_PATCH 0
#define LH_VERSION "0.1.0"

#define LH_LINE_SIZE 64u
#define LH_PAGE_SIZE 4096u
#define LH_PAGE_LINES 64u

#define LH_MUST_CHECK __attribute__((warn_unused_result))
#if defined(LH_BUILD)
#define LH_API __attribute__((visibility("default")))
#else
#define LH_API
#endif

/* A set of lines of one page: bit i is line i. */
typedef uint64_t lh_mask;
#define LH_MASK_NONE ((lh_mask)0)
#define LH_MASK_ALL (~(lh_mask)0)

/* Why a call failed: code is the negative errno value that the call returned, text one line, no newline. */
struct lh_error {
	int code;
	char text[252];
};

/* The version of the library that is loaded, as "MAJOR.MINOR.PATCH". Static; never fails. */
LH_API const char *lh_version(void);

/* ---- pools: memory that survives a crash, all of a transaction or nothing of it ---- */

/*
 * A *pool* is memory kept in a file (or on a memory node) and mapped at the same address each time it is
 * opened, so that plain pointers inside it stay valid. Within a transaction a program changes it by plain
 * stores. After any crash, of the program, the kernel or the power, it is as it was after the last commit
 * that returned, or, where a commit had not returned yet, after that one: never between two.
 *
 * Where a pool is: a file's PATH or file:PATH; or a name on a memory node, unix:PATH/NAME or
 * tcp://HOST:PORT/NAME, which lives for as long as the node does.
 *
 * One process has a pool open for writing at a time; any number have it open read-only while nobody writes.
 * In a child of fork the pool's memory is not there (a touch is SIGSEGV) and every call on the handle but
 * lh_pool_close fails with -ECHILD.
 */
struct lh_pool;

/* How a pool learns what a transaction has changed. The log and the guarantees are the same. */
enum lh_see {
	/*
	 * A store to a page in a transaction faults, at least the first (SIGBUS, which the library handles
	 * and passes on what is not its own); the commit logs the lines of the page that have changed. A
	 * store outside a transaction ends as a store to memory that may not be written to does: SIGBUS. The
	 * kernel takes part in no such fault: a system call that is to write to the pool needs lh_tx_add
	 * first.
	 */
	LH_SEE_PAGE = 0,
	/*
	 * The program says lh_tx_add before it stores. A store without it is lost, or worse. No faults but
	 * those that load a page.
	 */
	LH_SEE_DECLARED = 1,
	/*
	 * As declared; and the pool watches as well: a changed line that was not declared fails the commit,
	 * with its address and the place in the code that stored. Slow: some microseconds for each store. A
	 * system call may write only to pages that have been declared whole.
	 */
	LH_SEE_CHECKED = 2,
	/*
	 * Nothing is declared and nothing faults but to load a page: from lh_tx_begin to the outermost
	 * commit the calling thread's code, with all that it calls, is translated, so that every store to
	 * the pool is seen before it happens. Stores outside transactions are not seen, and neither are
	 * those of other threads, of the kernel, and of handlers of signals, which run as they are; nor
	 * what is stored through the stack pointer. A thread that ends inside a transaction aborts it.
	 */
	LH_SEE_TRANSLATED = 3,
};

/* How the log works. Both kinds can be opened with either. */
enum lh_log {
	LH_LOG_AUTO = 0, /* redo */
	/*
	 * The program works on a copy in its own memory. A commit logs the new lines; they go to their place
	 * in the file later, in the background. One write and one flush (one fence on persistent memory) a
	 * commit.
	 */
	LH_LOG_REDO = 1,
	/*
	 * The program works in the file's own memory; old lines are logged before they change. No copy of the
	 * pool in memory; three fences a commit. Only where the file is persistent memory (a DAX file
	 * system), or on tmpfs, whose memory is all the medium there is. LH_SEE_PAGE and LH_SEE_CHECKED on
	 * tmpfs only; there a store that the log has no room for is SIGBUS, since a store cannot fail. With
	 * LH_SEE_TRANSLATED it is made where it does not reach the file, and the commit fails.
	 */
	LH_LOG_UNDO = 2,
};

#define LH_LAYOUT_SIZE 64u /* a layout's name, with its terminating zero */

/* Zeroed memory is the default of everything. */
struct lh_pool_options {
	/*
	 * What the program calls the shape of what it keeps there, at most 63 bytes. Kept at creation;
	 * opening fails with -EMEDIUMTYPE where it is not the same. NULL: at creation the empty name, at
	 * opening any.
	 */
	const char *layout;
	enum lh_see see;
	enum lh_log log;
	bool read_only; /* stores fault; a pool that has to be recovered first is refused with -EROFS */
	/*
	 * Where another process has the pool: how long to wait for it, in milliseconds; 0: fail at once with
	 * -EBUSY; -1: for as long as it takes. -ETIMEDOUT when the time is over.
	 */
	int wait_ms;
	const char *key_file; /* of a memory node that has one */
	/* At creation only. Sizes in bytes, rounded up to pages. */
	uint64_t size;  /* of the pool's memory; at least LH_POOL_SIZE_MIN, 0: 64 MiB */
	uint64_t reach; /* what it may grow to; 0: 64 GiB, or 16 times the size where that is more */
	/* It bounds one transaction. At least LH_POOL_LOG_MIN; 0: an eighth of size, 1 MiB to 64 MiB. */
	uint64_t log_size;
	uint64_t address; /* where it is mapped; 0: chosen, where Linux leaves addresses free */
};
#define LH_POOL_SIZE_MIN (64u * 1024)
#define LH_POOL_LOG_MIN (64u * 1024)

/*
 * Makes a pool and opens it. options may be NULL. -EEXIST: there is something of that name, which is left
 * alone. -EINVAL: an option is out of its range. -ENOSPC, -EIO and so on: the file is removed again.
 */
LH_API int lh_pool_create(const char *where, const struct lh_pool_options *options, struct lh_pool **out,
                          struct lh_error *error) LH_MUST_CHECK;
/*
 * Opens a pool, and recovers it if it was not closed. -ENOENT; -EBUSY: it is open elsewhere; -EADDRINUSE:
 * what the process has at its address is named; -EMEDIUMTYPE: another layout; -EBADMSG: not a pool, or a
 * damaged one, and it is left as it is; -EPROTONOSUPPORT: of a newer version; -ENOLINK: its last transaction
 * was one over several pools, and the one that knows whether it was committed, which is named, cannot be
 * read.
 */
LH_API int lh_pool_open(const char *where, const struct lh_pool_options *options, struct lh_pool **out,
                        struct lh_error *error) LH_MUST_CHECK;
/*
 * Brings everything home and ends the handle, whatever it returns. No other call on the pool may be under
 * way. An open transaction is aborted. An error: nothing committed is lost, and the next open recovers it.
 */
LH_API int lh_pool_close(struct lh_pool *pool, struct lh_error *error);
/*
 * Grows the pool's memory to size, without copying and while it is in use by other threads. Not inside a
 * transaction (-EBUSY). A smaller size than it has is no error and does nothing. -E2BIG: beyond its reach.
 */
LH_API int lh_pool_grow(struct lh_pool *pool, uint64_t size, struct lh_error *error) LH_MUST_CHECK;

/* Of an open pool. Never fails; from any thread. */
struct lh_pool_info {
	char layout[LH_LAYOUT_SIZE];
	void *base;
	uint64_t size, reach, log_size;
	enum lh_see see;
	enum lh_log log;
	bool durable; /* commits survive the loss of power, if kernel and disk tell the truth */
	/* Since it was opened. */
	uint64_t commits, aborts;
	uint64_t flushes;       /* of a file: writes waited for; of persistent memory: cache lines flushed */
	uint64_t fences;        /* of persistent memory */
	uint64_t log_bytes;     /* written to the log */
	uint64_t changed_bytes; /* 64 for each line logged */
	uint64_t home_bytes;    /* written to the lines' places, by commits or in the background */
	uint64_t faults;        /* taken to see changes, or to load pages */
};
LH_API void lh_pool_info(const struct lh_pool *pool, struct lh_pool_info *info);

/*
 * Offsets, for those who would rather not keep pointers: of a byte from the pool's base. lh_off_ptr(0) is
 * NULL, and lh_ptr_off(NULL) is 0; no object lies there. Of what is not in the pool: 0 and NULL.
 */
LH_API uint64_t lh_ptr_off(const struct lh_pool *pool, const void *pointer);
LH_API void *lh_off_ptr(const struct lh_pool *pool, uint64_t offset);

/*
 * Makes [pointer, pointer + size) present, so that the kernel may read it in a system call (write, send),
 * which otherwise may fail with EFAULT. What has been loaded stays.
 */
LH_API int lh_pool_load(struct lh_pool *pool, const void *pointer, size_t size,
                        struct lh_error *error) LH_MUST_CHECK;

/*
 * Transactions. One is open in a pool at a time: lh_tx_begin of another thread waits until it has ended.
 * While it is open any thread that the program lets take part may store to the pool; the program sees to it
 * that their stores have happened before the commit. begin, commit and abort are called by the thread that
 * began.
 *
 * lh_tx_begin inside a transaction joins it: it ends with the outermost commit. LH_SEE_TRANSLATED: -EBUSY,
 * the gs register is the program's own; -ENOMEM; nothing has begun then.
 */
LH_API int lh_tx_begin(struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
/*
 * Of the outermost begin: returns when the changes are durable. -ECANCELED: an inner transaction was aborted,
 * and so is this one. -EPERM: this thread has no transaction. -E2BIG: more changes than the log has room for;
 * -EFAULT (LH_SEE_CHECKED): a change was not declared, and error says where and by whom. After these two the
 * transaction has been aborted. -EIO and others: the log could not be written; what became of the transaction
 * is known when the pool is opened again, and until then every call fails with -ENOTRECOVERABLE.
 */
LH_API int lh_tx_commit(struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
/*
 * The same without waiting for it to be durable: *token is for lh_tx_wait. Until that has returned, a crash
 * may lose the transaction, and those after it; never one without those after it. Of an inner begin *token is
 * 0.
 */
LH_API int lh_tx_commit_async(struct lh_pool *pool, uint64_t *token, struct lh_error *error) LH_MUST_CHECK;
/*
 * Returns when the commit of that token, and so all before it, is durable. From any thread. Threads that wait
 * at the same time share one flush.
 */
LH_API int lh_tx_wait(struct lh_pool *pool, uint64_t token, struct lh_error *error) LH_MUST_CHECK;
/*
 * Memory is as it was at the outermost begin, allocations included. Inside a nested transaction the enclosing
 * ones go on, changes after this point are undone too, and the outermost commit fails with -ECANCELED.
 */
LH_API int lh_tx_abort(struct lh_pool *pool, struct lh_error *error);
/*
 * Declares that [pointer, pointer + size) is about to be changed. With LH_SEE_PAGE it need not be called, but
 * may be: a store there will not fault then, which is also what a system call needs that writes to the pool.
 * -EPERM: no transaction; -EINVAL: not in the pool; -ENOMEM, -E2BIG.
 */
LH_API int lh_tx_add(struct lh_pool *pool, const void *pointer, size_t size,
                     struct lh_error *error) LH_MUST_CHECK;

/*
 * Objects. Inside a transaction, all of them: an abort takes them back. Aligned to 16 bytes; from 64 bytes on
 * to a line. What lh_pool_alloc returns holds anything; it counts as declared. NULL, with the reason in
 * error: -ENOMEM where the pool is full (see lh_pool_grow), -EPERM without a transaction, -EINVAL for a size
 * or alignment that cannot be.
 */
LH_API void *lh_pool_alloc(struct lh_pool *pool, size_t size, struct lh_error *error) LH_MUST_CHECK;
/* The same, zeroed. */
LH_API void *lh_pool_alloc_zero(struct lh_pool *pool, size_t size, struct lh_error *error) LH_MUST_CHECK;
/* alignment: a power of two, at most LH_PAGE_SIZE. */
LH_API void *lh_pool_alloc_aligned(struct lh_pool *pool, size_t alignment, size_t size,
                                   struct lh_error *error) LH_MUST_CHECK;
/* As realloc; pointer may be NULL, size not 0. On failure the object is as it was. */
LH_API void *lh_pool_realloc(struct lh_pool *pool, void *pointer, size_t size,
                             struct lh_error *error) LH_MUST_CHECK;
/* NULL is no error. -EINVAL: nothing was allocated there, or it is free already; nothing has changed. */
LH_API int lh_pool_free(struct lh_pool *pool, void *pointer, struct lh_error *error);
/* How many bytes may be used there, at least what was asked for; 0 where no object begins. */
LH_API size_t lh_pool_usable_size(const struct lh_pool *pool, const void *pointer);
/*
 * The one object that is found without a pointer: made by the first call with a size other than 0, zeroed, in
 * a transaction. size 0: NULL where there is none yet. -EINVAL: it has another size.
 */
LH_API void *lh_pool_root(struct lh_pool *pool, size_t size, struct lh_error *error);
/*
 * Calls visit for each object, in ascending order, the root included, until it returns non-zero, which is
 * then returned. visit may not allocate or free. Between the objects that a program can reach and these is
 * what leaks.
 */
LH_API int lh_pool_objects(const struct lh_pool *pool,
                           int (*visit)(void *context, void *object, size_t usable), void *context);

/* ---- coverage for fuzzers: which code of a program an input has reached that none has before ---- */

/*
 * A program, as it is: not recompiled, with or without debug information. It is started once and runs up to a
 * place from which each run then goes on: there it waits as a fork server. All its code is absent; a run that
 * comes to a block for the first time traps once, and the block is told as news and is there in all later
 * runs. So a run without news costs what it costs without any of this.
 *
 * A handle is used by the thread that opened it, in which SIGCHLD stays blocked until it is closed; when that
 * thread ends, so does the program. Nothing that a run starts outlives the run.
 *
 * x86-64; not programs that have several threads at the place where runs begin.
 */
struct lh_cover;

/* Zeroed memory, but for argv, is the default. What it points to must hold until the handle is closed. */
struct lh_cover_options {
	char *const *argv; /* of the program, ending with NULL; argv[0] is looked for in PATH */
	/*
	 * The function, of the program's own or of a watched library, from whose first instruction runs go
	 * on. What is done before it is done once and is no news. NULL: main, or where it has no such
	 * symbol its entry.
	 */
	const char *at;
	unsigned timeout_ms; /* after which a run is killed; 0: 1000. At most LH_COVER_TIMEOUT_MAX */
	bool libraries;      /* watch code of libraries, too */
	/*
	 * Each run's blocks are told, not only new ones: nothing stays there from one run to the next, so
	 * that each costs a trap for each block.
	 */
	bool each;
	bool output; /* runs write to our standard output and error; else to /dev/null */
	/* NULL, or is told, in a line for a person, of something that could not be watched. */
	void (*say)(void *context, const char *text);
	void *context;
};
#define LH_COVER_TIMEOUT_MAX (60u * 60 * 1000)

/*
 * Starts the program and lets it run up to `at`. -EINVAL: an option is out of its range; -ENOENT: there is
 * no such program or function; -EACCES, -ENOEXEC: no program that can be watched; -ECHILD: it ended before
 * it came to `at`; -ETIMEDOUT: it did not come there within ten times timeout_ms, at least ten seconds;
 * -EBUSY: it has several threads there; -ENOMEM, -EMFILE and so on.
 */
LH_API int lh_cover_open(const struct lh_cover_options *options, struct lh_cover **out,
                         struct lh_error *error) LH_MUST_CHECK;
/* Ends the program. NULL is no error. */
LH_API void lh_cover_close(struct lh_cover *cover);

/*
 * A file that is the standard input of every run; empty at first. Write what you like there between runs, and
 * cut it to its size: each run reads it from its beginning. It belongs to the handle.
 */
LH_API int lh_cover_input(const struct lh_cover *cover);
/* The file becomes these bytes. -ENOSPC, -ENOMEM. */
LH_API int lh_cover_feed(struct lh_cover *cover, const void *bytes, size_t size,
                         struct lh_error *error) LH_MUST_CHECK;

struct lh_cover_result {
	int status;     /* how it ended, as of waitpid(2) */
	bool timed_out; /* it was killed when its time was over */
	size_t news;    /* blocks that ran for the first time (`each`: all that ran) */
	size_t blocks;  /* that have run so far, in all runs (`each`: in this one) */
	uint64_t traps; /* that this run has cost */
};

/*
 * One run. How the program ends is no error, whatever it is. -ECHILD: the fork server has ended (somebody
 * killed it), and so will all later runs fail. -EAGAIN, -ENOMEM: there was no room for a process; try
 * again.
 */
LH_API int lh_cover_run(struct lh_cover *cover, struct lh_cover_result *result,
                        struct lh_error *error) LH_MUST_CHECK;

/* A block of code: from the instruction that was come to, to the next one that may lead elsewhere. */
struct lh_cover_place {
	const char *module;     /* the path of its file; holds until the handle is closed */
	uint64_t address, last; /* of its first and last instruction, as the file has them */
};

/* The news of the last run: puts at most room of them to places, and returns how many there are. */
LH_API size_t lh_cover_news(const struct lh_cover *cover, struct lh_cover_place *places, size_t room);

/* Where a block begins, in a person's words. What is not known is NULL or 0. */
struct lh_cover_where {
	const char *function, *file; /* hold until the handle is closed */
	uint64_t offset;             /* from the function's first instruction */
	unsigned line;
};
LH_API void lh_cover_locate(struct lh_cover *cover, const struct lh_cover_place *place,
                            struct lh_cover_where *where);

#ifdef __cplusplus
}
#endif
#endif
