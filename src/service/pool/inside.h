/*
 * inside.h - what the parts of the pool service share.
 *
 *     pool.c      creating, opening, closing, growing
 *     place.c     where a pool is: a store
 *     memory.c    the range of addresses, and loading pages into it
 *     signal.c    the process's SIGBUS and SIGTRAP
 *     fault.c     what a touch of the pool's memory means
 *     emulate.c   a store, made on behalf of the instruction that faulted
 *     changes.c   the open transaction's changed pages, with their content from before
 *     tx.c        transactions
 *     here.c      the pools that this process has open
 *     others.c    what a pool knows of transactions with others, and asks them
 *     together.c  transactions over several pools
 *     atomic.c    tx_begin and tx_end, which take no pool
 *     translated.c, translated_*.c    threads whose stores are seen by translating their code
 *     object.c    objects, by the heap
 *     home.c      the thread that brings changes home
 *     check.c     looking at a pool that is not open
 *
 * Locks, in the order in which they are taken: growing, turn (the open transaction's; of several pools, the
 * lower id first), changing, then those of the journal, then that of what is known of others. changing is
 * also taken in the handler of SIGBUS, so whoever holds it may touch only pages that are present and not
 * protected against what he does.
 */
#ifndef LH_POOL_INSIDE_H
#define LH_POOL_INSIDE_H

#include <ucontext.h>

#include "port/port.h"
#include "service/pool/pool.h"
#include "sys/lock.h"

/* Memory that grows where it stands, inside reserved addresses. */
struct room {
	unsigned char *base;
	uint64_t reserved, usable;
};

/* A page that the open transaction has changed, or may have. */
struct change {
	uint64_t page;
	lh_mask saved;    /* these lines stand in its twin as they were */
	lh_mask declared; /* by lh_tx_add */
	uint32_t stores;  /* faults whose stores were made on behalf of the program */
	uint32_t guess;   /* which of the pool's guesses is the first storing code's */
	bool open;        /* stores to it are not seen: it is not protected */
};

/* Change i's twin, page-shaped, is twins.base + 4096 * i. */
struct changes {
	size_t n;
	struct room list, twins, index, log; /* of struct change; pages; uint64_t; struct lh_change */
	size_t slots;                        /* of the index, a power of two */
	uint32_t epoch;                      /* an index word of another epoch is an empty one */
};

/* A store that was seen where nothing was declared. */
struct sighting {
	uintptr_t address, code;
};
#define SIGHTINGS 64u

/*
 * A thread that executes one instruction with pages open that are protected otherwise: at most the 16
 * elements of a scatter, each of which may lie across two.
 */
#define STEP_PAGES 32u
struct step {
	uintptr_t thread; /* 0: free */
	bool flags;       /* the instruction pushes the flags */
	unsigned n;
	uint64_t pages[STEP_PAGES];
};
#define STEPS 64u

#define GUESSES 1024u
#define LH_POOL_TRAP_FLAG 0x100 /* of the processor's flags: trap after the next instruction */

#define LOAD_BUFFERS 4u
#define LOAD_PAGES 16u
struct loading {
	struct lh_lock lock;
	unsigned char data[LOAD_PAGES][LH_PAGE_SIZE] __attribute__((aligned(64)));
};

struct lh_pool {
	const struct lh_sys *sys;
	struct lh_store *journal, *below;
	const struct lh_direct *direct;
	struct lh_port *port; /* NULL: nothing is watched */
	struct lh_pool_header header;
	struct lh_heap heap;
	enum lh_see see;
	enum lh_log log;
	bool read_only, quiet;
	bool remote; /* on a node */
	int broken;
	uint32_t *alive; /* 0 in a child of fork */

	unsigned char *base;
	uint64_t size; /* grows; read by __atomic_load_n where no lock is held */
	uint64_t home; /* the page below that is the pool's first */
	bool mapped;   /* address space is reserved at base */
	/*
	 * Where stores are seen: the same memory a second time, where it is not protected, for the library's
	 * own stores. Only of pages that have been loaded. NULL where they are not seen.
	 */
	unsigned char *alias;
	int memory;         /* redo, where stores are seen: the memfd that the memory is; else -1 */
	bool lazy;          /* pages are loaded at their first touch */
	struct room loaded; /* a bit a page */
	struct loading *loading;
	uint64_t next_load, load_run; /* hints: pages that follow each other are loaded more at a time */

	struct lh_lock growing; /* before turn */
	struct lh_lock turn;
	uintptr_t owner; /* of the open transaction: the thread's pointer */
	unsigned depth;
	bool aborted;
	uint64_t transaction; /* undo: its number in the log, once it has one */
	int doomed;           /* why the open transaction cannot commit: a store was not saved */
	bool translated;      /* its thread's code is (translated.h) */
	uint64_t newest;      /* redo: the sequence of the newest commit's record; under changing */
	uint64_t
		prepared; /* the transaction is, under this number in the log, and nothing has been decided */
	bool joins;       /* it takes part in what tx_begin begins */
	bool joined;      /* and does now, by its owner's */
	unsigned here;    /* its place, and 1 */
	struct others *others;
	char *place; /* by which others find it; may be NULL */
	struct lh_lock changing;
	bool writing; /* a transaction is open; under changing */
	struct changes changes;
	struct sighting sightings[SIGHTINGS];
	unsigned sighted;
	struct step steps[STEPS];
	int8_t guesses[GUESSES]; /* by code: 0 and above: one fault is all that its page will have */
	uint32_t guessed;
	struct emulator *emulator; /* under changing */

	struct {
		uint64_t commits, aborts, faults;
		uint64_t home_bytes, flushes, fences; /* undo: those of the lines themselves */
	} counts;

	struct home_thread *thread;
};

static inline uintptr_t lh__pool_self(void)
{
	uintptr_t self;

	__asm__("mov %%fs:0, %0" : "=r"(self));
	return self;
}

static inline void lh__pool_count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Of what only the thread counts that has the transaction, for which a commit need not wait. */
static inline void lh__pool_count_alone(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline unsigned char *lh__pool_page(const struct lh_pool *pool, uint64_t page)
{
	return pool->base + page * LH_PAGE_SIZE;
}

/* Whether [pointer, pointer + size) is in the pool's memory. */
static inline bool lh__pool_has(const struct lh_pool *pool, const void *pointer, uint64_t size)
{
	uint64_t offset = (uint64_t)((uintptr_t)pointer - (uintptr_t)pool->base);
	uint64_t all = __atomic_load_n(&pool->size, __ATOMIC_RELAXED);

	return offset <= all && size <= all - offset;
}

/* Whether stores are seen by protecting pages. */
static inline bool lh__pool_protects(const struct lh_pool *pool)
{
	return pool->see == LH_SEE_PAGE || pool->see == LH_SEE_CHECKED;
}

/* Why calls may not go on: this is a child of fork, or the pool is broken. */
int lh__pool_refuse(const struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
/* 0 where calls may go on. */
static inline int lh__pool_enter(const struct lh_pool *pool, struct lh_error *error)
{
	if (__atomic_load_n(pool->alive, __ATOMIC_RELAXED) &&
	    !__atomic_load_n(&pool->broken, __ATOMIC_RELAXED))
		return 0;
	return lh__pool_refuse(pool, error);
}

/* ---- pool.c ---- */
/* A header that was read: it is trusted no further than this. options: the layout that is asked for. */
int lh__pool_header_check(const struct lh_pool_header *header, const struct lh_pool_options *options,
                          struct lh_error *error) LH_MUST_CHECK;

/* ---- place.c ---- */
enum lh_place_use { LH_PLACE_CREATE, LH_PLACE_WRITE, LH_PLACE_READ, LH_PLACE_PEEK };
/* The store at a place. LH_PLACE_PEEK: to read, without a lock. */
int lh__place_open(const struct lh_sys *sys, const char *where, enum lh_place_use use,
                   const struct lh_pool_options *options, struct lh_store **out,
                   struct lh_error *error) LH_MUST_CHECK;
/* After a failed creation. */
void lh__place_remove(const struct lh_sys *sys, const char *where, const struct lh_pool_options *options);
/* Says what inner says, and once that it is about the pool at where; returns result. */
int lh__place_fail(struct lh_error *error, int result, const char *where,
                   const struct lh_error *inner) LH_MUST_CHECK;

/* A place as it is found from any folder; or NULL. The caller frees it. */
char *lh__place_whole(const char *where);
/* What a pool's log is written by, on a store that was opened for writing; NULL: the store itself. */
int lh__place_log(const char *where, struct lh_store *store, struct lh_store **log,
                  struct lh_error *error) LH_MUST_CHECK;
bool lh__place_is_node(const char *where);
/* Closes a store in a child of fork, without a word to whoever else has it. */
void lh__place_forget(bool node, struct lh_store *store);

/* ---- memory.c ---- */
int lh__room_reserve(const struct lh_sys *sys, struct room *room, uint64_t size) LH_MUST_CHECK;
int lh__room_grow(const struct lh_sys *sys, struct room *room, uint64_t size) LH_MUST_CHECK;
static inline int lh__room_need(const struct lh_sys *sys, struct room *room, uint64_t size)
{
	return size <= room->usable ? 0 : lh__room_grow(sys, room, size);
}
void lh__room_free(const struct lh_sys *sys, struct room *room);
/* An address for a new pool, where nothing is in this process now. */
int lh__memory_choose(const struct lh_sys *sys, uint64_t reach, uint64_t *address) LH_MUST_CHECK;
/* Reserves the header's addresses. */
int lh__memory_reserve(struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
/* Makes the bytes [from, to) of the pool usable. */
int lh__memory_extend(struct lh_pool *pool, uint64_t from, uint64_t to, struct lh_error *error) LH_MUST_CHECK;
void lh__memory_close(struct lh_pool *pool);
/* Makes pages present, if they are not. Async-signal-safe as far as the store below is. */
int lh__memory_load(struct lh_pool *pool, uint64_t page, uint64_t pages) LH_MUST_CHECK;
static inline bool lh__memory_loaded(const struct lh_pool *pool, uint64_t page)
{
	const uint64_t *words = (const uint64_t *)pool->loaded.base;

	return !pool->lazy || __atomic_load_n(&words[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1;
}
/*
 * Undo: stores do not come home, from part on until join, which also forgets them. Where memory cannot be
 * parted, a store raises SIGSEGV.
 */
void lh__memory_part(struct lh_pool *pool);
int lh__memory_join(struct lh_pool *pool) LH_MUST_CHECK;

/* ---- here.c ---- */
int lh__here_add(struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
/* Nobody finds it any more. */
void lh__here_hide(struct lh_pool *pool);
/* And returns when those have let go of it who had. */
void lh__here_remove(struct lh_pool *pool);
/* Places below this one may have a pool. */
unsigned lh__here_places(void);
/* The pool at a place, which stays until lh__here_let_go; or NULL. */
struct lh_pool *lh__here_hold(unsigned place);
void lh__here_let_go(unsigned place);

/* ---- others.c ---- */
/* client: the header's bytes, or NULL: of a new pool. */
int lh__others_open(const struct lh_sys *sys, const struct lh_pool_context *context,
                    const struct lh_pool_header *client, struct others **out,
                    struct lh_error *error) LH_MUST_CHECK;
void lh__others_close(struct others *others);
const struct lh_journal_hooks *lh__others_hooks(const struct others *others);
/*
 * The pool is open, or has been closed: those here that know an outcome for it need not keep it, and so it.
 */
void lh__others_met(struct lh_pool *pool);
/* It is about to be closed: waits until the others here have what it keeps for them. */
void lh__others_settle(struct lh_pool *pool);
/*
 * A commit over several is about to be logged by this pool: room for n outcomes. -EUSERS: too many pools have
 * not been opened since.
 */
int lh__others_room(struct lh_pool *pool, struct lh_pool *const *with, unsigned n) LH_MUST_CHECK;
uint64_t lh__others_number(struct others *others);
/* That it committed with that pool is kept from sequence on, where the commit will stand; or it never was. */
void lh__others_commit(struct others *others, const struct lh_pool *with, uint64_t session, uint64_t number,
                       uint64_t sequence);
void lh__others_drop(struct others *others, const struct lh_pool *with);
/* It has it in its log, under that sequence; 0: durably. */
void lh__others_told(struct others *others, const struct lh_pool *with, uint64_t sequence);

/* ---- together.c ---- */
#define TOGETHER_MAX 64u
/*
 * Of pools in ascending order of their ids, each of which has this thread's transaction open, and no inner
 * one: it is committed in all or none, and durable, and over. Errors as lh_tx_commit's.
 */
int lh__together_commit(struct lh_pool *const *pools, unsigned n, struct lh_error *error) LH_MUST_CHECK;
/* Memory of all of them is as it was, and the transaction over. */
int lh__together_abort(struct lh_pool *const *pools, unsigned n, struct lh_error *error) LH_MUST_CHECK;

/* ---- atomic.c ---- */
/* tx_begin, tx_end and tx_abort but for the translation. */
int lh__atomic_begin(struct lh_error *error) LH_MUST_CHECK;
int lh__atomic_end(struct lh_error *error) LH_MUST_CHECK;
int lh__atomic_abort(struct lh_error *error) LH_MUST_CHECK;
/*
 * In a pool that tx_begin has joined, the last transaction but that one has ended: where that one has ended
 * already, all of it ends now.
 */
int lh__atomic_last(struct lh_error *error) LH_MUST_CHECK;
/* A pool that is joined is being closed by its owner: the transaction goes on without it, to be aborted. */
void lh__atomic_forget(struct lh_pool *pool);

/* ---- signal.c ---- */
int lh__signal_add(struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
void lh__signal_remove(struct lh_pool *pool);

/* ---- fault.c ---- */
/* Stores to a page are not seen any more; to pages from this one on they are again. */
int lh__fault_unprotect(struct lh_pool *pool, uint64_t page) LH_MUST_CHECK;
int lh__fault_protect(struct lh_pool *pool, uint64_t page, size_t pages) LH_MUST_CHECK;
/*
 * A touch has raised SIGBUS. True: the thread goes on from context; false: it was none of this pool's
 * business.
 */
bool lh__fault_touched(struct lh_pool *pool, uintptr_t address, ucontext_t *context);
/* A transaction is over: steps that never ended, and what its faults have taught. changing is held. */
void lh__fault_end(struct lh_pool *pool);
/* The instruction of this thread has been executed. False: it had none to step. */
bool lh__fault_stepped(struct lh_pool *pool, const ucontext_t *context);

/* ---- emulate.c ---- */
/* A store of those bytes of value that are set in `bytes`, of which there are `size`, to address. */
struct store {
	uintptr_t address;
	unsigned size;
	uint64_t bytes;
	unsigned char value[64];
	unsigned length;   /* of the instruction; 0: it goes on (repeated ones), with */
	uint64_t rdi, rcx; /* these */
};
/* What reading instructions needs, and remembers. NULL: no memory. Used by one thread at a time. */
struct emulator *lh__emulator_open(const struct lh_sys *sys);
void lh__emulator_close(const struct lh_sys *sys, struct emulator *emulator);
/* Whether the instruction at the context's instruction pointer is a plain store, and which. */
bool lh__emulate_read(struct emulator *emulator, const ucontext_t *context, struct store *store);
bool lh__emulate_pushes_flags(struct emulator *emulator, const ucontext_t *context);
/* Makes it, at `to` instead of its address, and goes on to the next instruction. */
void lh__emulate_do(ucontext_t *context, const struct store *store, void *to);

/* ---- changes.c ---- */
int lh__changes_open(struct lh_pool *pool) LH_MUST_CHECK;
void lh__changes_close(struct lh_pool *pool);
/* The open transaction's note of a page, made where there is none. NULL: no memory. changing is held. */
struct change *lh__changes_of(struct lh_pool *pool, uint64_t page);
/*
 * Both without a vector register: the same where nothing has to grow, else NULL; and a line goes to its twin.
 */
struct change *lh__changes_quick(struct lh_pool *pool, uint64_t page);
void lh__changes_save_line(struct lh_pool *pool, struct change *change, unsigned line);
/*
 * Lines about to be changed are saved, in the twin and (undo) in the log. changing is held, the page present.
 */
int lh__changes_save(struct lh_pool *pool, struct change *change, lh_mask mask) LH_MUST_CHECK;
unsigned char *lh__changes_twin(struct lh_pool *pool, const struct change *change);
/* The lines that have changed. */
lh_mask lh__changes_found(struct lh_pool *pool, const struct change *change);
void lh__changes_forget(struct lh_pool *pool);
static inline struct change *lh__changes_at(struct lh_pool *pool, size_t i)
{
	return (struct change *)pool->changes.list.base + i;
}
/* What lh__tx_find has found. */
static inline struct lh_change *lh__changes_list(struct lh_pool *pool)
{
	return (struct lh_change *)pool->changes.log.base;
}

/* ---- tx.c ---- */
/* lh_tx_add by whoever knows that the transaction is this thread's. */
int lh__tx_declare(struct lh_pool *pool, const void *pointer, uint64_t size) LH_MUST_CHECK;
/* The same for stores of the library's own, which go to pool->alias where that is set. */
int lh__tx_save(struct lh_pool *pool, const void *pointer, uint64_t size) LH_MUST_CHECK;
/* Where this thread has no open transaction: -EPERM. */
int lh__tx_mine(const struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
/* lh_tx_begin without its translation. wait: for its turn; else -EDEADLK where another thread has it. */
int lh__tx_enter(struct lh_pool *pool, bool wait, struct lh_error *error) LH_MUST_CHECK;
/* Of the outermost begin, whatever comes of it; *sequence is for lh_tx_wait. */
int lh__tx_commit(struct lh_pool *pool, uint64_t *sequence, struct lh_error *error) LH_MUST_CHECK;
/* The parts of a commit. -EFAULT: a change was not declared. */
int lh__tx_find(struct lh_pool *pool, size_t *n, struct lh_error *error) LH_MUST_CHECK;
void lh__tx_flush(struct lh_pool *pool, const struct lh_change *list, size_t n);
/* Memory is as at the outermost begin; inner: the transaction goes on. */
int lh__tx_abort(struct lh_pool *pool, bool inner) LH_MUST_CHECK;
int lh__tx_break(struct lh_pool *pool, int result, struct lh_error *error);
void lh__tx_end(struct lh_pool *pool);
/*
 * What is about to be stored cannot be saved, and the store cannot fail: the transaction will not commit, and
 * nothing that is stored from now on comes home.
 */
void lh__tx_doom(struct lh_pool *pool, int result);
/* lh_tx_begin and lh_tx_commit_async by a thread that is where it should be; natively. */
int lh__tx_begin_at(struct lh_pool *pool, uint64_t stack_pointer, struct lh_error *error) LH_MUST_CHECK;
int lh__tx_commit_here(struct lh_pool *pool, uint64_t *token, struct lh_error *error) LH_MUST_CHECK;
/* lh_tx_commit, for the library's own. */
int lh__tx_commit_durably(struct lh_pool *pool, struct lh_error *error) LH_MUST_CHECK;
/* lh_tx_begin, for the library's own: no code is translated. */
static inline int lh__tx_begin(struct lh_pool *pool, struct lh_error *error)
{
	return lh__tx_enter(pool, true, error);
}
/* Ends a transaction that the closing of the pool finds open. */
void lh__tx_drop(struct lh_pool *pool);

/* ---- home.c ---- */
int lh__home_thread_start(struct lh_pool *pool) LH_MUST_CHECK;
void lh__home_thread_stop(struct lh_pool *pool);
/* A commit has been logged: the thread is woken where the log is half full. */
void lh__home_thread_nudge(struct lh_pool *pool);

#endif
