/*
 * inside.h - what the translator's own files share.
 *
 * How control passes. r is a register that holds the program's target, T the table, both reached through gs:
 *
 *     a direct jump        jmp rel32          to its stub (note the exit's number; jmp the translator), and,
 *                                             once the target is translated, to that
 *     a fall               nothing            its target is the fragment that follows; when that
 *                                             is forgotten, a jump aside takes the place that is left for it
 *     an indirect one      target to rax, 16 bits of it into the low bits of the table's address in rcx,
 *                          jmp *(,%rcx,8)     to an *entry* of a fragment
 *     an entry             lea -target(rax) to rcx; jrcxz: reload rax and rcx and go on with the fragment;
 *                          else to the next entry with the same 16 bits, the last one being the translator
 *
 * So the table is one array of pointers for the whole process, changed by one store, that never misses what
 * it knows; no flag is touched. A direct call pushes its return address in one instruction. A return that
 * a client has marked does not go through the table; a fragment for a function that runs natively
 * (lh__translate_native) holds nothing but a jump out of the cache.
 *
 * A cache is mapped twice, to be written and to be executed. Code fills it from its start; what is executed
 * once or not at all, constants and stubs, from its end: aside.
 *
 * Who may do what: everything in a cache and in the tables of a translator changes under its lock. Executing
 * threads see two kinds of change, each of an aligned word: the distance of a jump, and a table's pointer.
 */
#ifndef LH_PORT_TRANSLATE_INSIDE_H
#define LH_PORT_TRANSLATE_INSIDE_H

/* The thread's context, as code in the cache and enter.S address it: bytes from gs. */
#define LH_T_SELF 0
#define LH_T_EXIT 8
#define LH_T_TARGET 16
#define LH_T_RESUME 24
#define LH_T_TABLE 32
#define LH_T_LEAVE 40
#define LH_T_LEAVE_INDIRECT 48
#define LH_T_LEAVE_CALL 56
#define LH_T_STACK 64
#define LH_T_CALL 72
#define LH_T_A 80
#define LH_T_B 88
#define LH_T_FS 96
#define LH_T_GENERAL 104
#define LH_T_SPILL 232
#define LH_T_DEPTH 360
#define LH_T_ACTIVE 364
#define LH_T_OWN_AT 368
#define LH_T_LEAVE_STATE 376
#define LH_T_PLAIN 384
#define LH_T_AFTER 392
#define LH_T_HELD 400
#define LH_T_MASK 408
#define LH_T_CHANGED 416
#define LH_T_TID 472
#define LH_T_GS 480

#ifndef __ASSEMBLER__

#include <signal.h>
#include <ucontext.h>

#include "port/translate/emit.h"
#include "port/translate/process.h"
#include "port/translate/translate.h"
#include "sys/lock.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R11 = 11 }; /* as they are encoded */

#define PAGE 4096u
#define VECTOR_BYTES 2816u /* x87, SSE, AVX and AVX-512 as xsave writes them */
#define STACK_BYTES 65536u
#define SIGNAL_BYTES 65536u
#define THREADS 16384u            /* slots for contexts: address space only */
#define TABLE_ENTRIES 65536u      /* 16 bits of a target */
#define LH_INSTRUCTION_ROOM 16u   /* bytes that are copied of each, at once */
#define NATIVES 256u              /* functions that are called natively */
#define LH_BLOCK_INSTRUCTIONS 96u /* a block has at most so many */

#define WAITING 8u
#define CACHE_FIRST 64u /* bytes before the first fragment: where all unknown targets lead */
#define LH_STACK_DISABLED 2
#define LH_STACK_DISARMS (1u << 31)
#define LH_ADDRESS(pointer) ((uint64_t)(uintptr_t)(pointer))

struct cache;
struct fragment;

struct range {
	uint64_t start, end;
};

/* As the kernel has them. */
struct lh_action {
	uint64_t handler, flags, restorer, mask;
};
struct lh_actions {
	struct lh_lock lock;
	struct lh_action of[65];
};
struct lh_stack {
	uint64_t start;
	int32_t flags, unused;
	uint64_t size;
};

struct lh_translated_thread {
	struct lh_translated_thread *self;
	uint64_t exit; /* by which the fragment was left: its number, 0 for an indirect one */
	uint64_t target;
	uint64_t resume;
	uint64_t table; /* eighth part of the address of the table */
	const void *leave, *leave_indirect, *leave_call;
	void *stack;
	const uint64_t *call; /* the function that a client calls, and where it returns to */
	uint64_t a, b;
	uint64_t fs; /* base: who this is */
	uint64_t general[16];
	uint64_t spill[16];
	uint32_t depth;  /* begins without their end */
	uint32_t active; /* may be in a cache */
	void *own_at;    /* own, for enter.S */
	const void *leave_state, *plain;
	/* Of a process that is translated whole (process.c, signal.c). */
	uint64_t after;      /* where a way of enter.S leads that makes a system call */
	uint64_t held;       /* all signals are blocked, since one waits or must not come */
	uint64_t mask;       /* then the program's own */
	uint64_t changed[7]; /* number and arguments of the call that is about to be made */
	int32_t tid;         /* 0: the slot is free */
	uint64_t gs;         /* the program's own */
	uint8_t vector[VECTOR_BYTES] __attribute__((aligned(64)));
	uint32_t saves; /* of vector registers, not restored yet: the outermost one has the program's */
	struct lh_translator *translator;
	struct cache *cache;
	uint64_t epoch;      /* of that cache */
	uint64_t next;       /* behind the system call at target */
	bool boundary;       /* what is resumed is a boundary: all is true, the program is at target */
	bool faults_blocked; /* the program blocks SIGSEGV, which the kernel does not */
	bool vforked;        /* a child of vfork, or a thread of one */
	bool nested;         /* a signal has come before another one's handler had blocked it */
	uint64_t nested_mask;
	bool misses;              /* its table is one that knows nobody */
	struct fragment *held_in; /* whose exits lead here since a signal waits for its end */
	struct lh_stack alternate;
	struct lh_actions *actions, own_actions;
	/*
	 * It holds the lock, or is about to, while a handler of a signal may still run: what that would have
	 * forgotten waits here (changed.c).
	 */
	uint32_t holds, waiting;
	struct range wait[WAITING];
	uint64_t dispatches;
	uint64_t own[] __attribute__((aligned(4096)));
};
#define LH_T_OWN sizeof(struct lh_translated_thread)

/* A jump out of a fragment to an address that is known. Its number is its offset in the arena. */
struct jump {
	uint64_t target;
	uint32_t site; /* offset in the cache of the distance that is patched; 0: never linked */
	uint32_t stub; /* where it leads while it is not linked */
	uint32_t plain, thread, fork; /* where a clone goes on, by kind; 0: this is no clone */
	uint32_t fall;   /* 0, or: the target follows directly, as long as there is no jump at this offset, */
	uint32_t taken;  /* where there is a conditional one to elsewhere: its number; 0: nothing */
	uint32_t length; /* of a system call's instruction, which target is behind */
	bool stale;      /* its fragment is not what the program's code is now; rcx is spilled */
	struct fragment *from, *to;
	struct jump *next; /* of those that lead to the same fragment */
};

/* Where an instruction of the program lies in the fragment. */
struct place {
	uint16_t code, program; /* bytes from the start of either */
	uint16_t spilled;       /* registers whose value is in the context */
};

struct fragment {
	uint64_t address;
	uint32_t length;            /* bytes of the program */
	uint32_t code;              /* offset in the cache */
	uint32_t code_size;         /* with what follows it */
	uint32_t entry, entry_next; /* offsets: the entry, 0 for none; the distance in it that leads on */
	uint32_t body;              /* bytes of it before constants and stubs */
	uint32_t tail; /* offset in the code: rax is the target there, it and rcx are spilled; or 0 */
	uint32_t held; /* threads that wait for its end: its exits are not linked */
	uint32_t jump_count;
	struct jump *jumps;
	uint16_t instructions, place_count;
	bool forgotten, checked;
	uint32_t entry_was; /* the entry of one that is forgotten */
	const struct place *places;
	const uint8_t *source; /* what it was made of, if that may come back (lh__cache_revive) */
	struct fragment *next; /* of those with the same hash */
	struct fragment *next_in_page;
	struct fragment *next_entry; /* of those with the same 16 bits that have an entry */
	struct jump *incoming;
};

/* A page of the program that code was read from: it can be read, and the program may execute it. */
struct page {
	uint64_t number;
	bool checked; /* may change unseen: fragments compare what they were made of when they are entered */
	bool made;    /* of no file: what is forgotten may come back */
	struct page *next;
	struct fragment *fragments; /* that begin in it */
};

/* Everything that lives and dies together: code, and what is known of it. */
struct cache {
	struct cache *next; /* of those that are retired */
	uint64_t epoch;
	size_t size, used, top;   /* bytes from its start that are taken, and from where to its end */
	size_t kept;              /* of those between, for falls that may have to become jumps */
	uint8_t *write, *execute; /* the two mappings */
	uint8_t *arena;           /* metadata, bump allocated; starts with the table */
	size_t arena_size, arena_used;
	uint64_t *table;
	struct fragment **hash, **entries, **dormant;
	struct fragment **order; /* all, forgotten ones too, as they lie in the cache */
	size_t order_count, order_size;
	struct page **pages;
	size_t hash_mask, page_mask, entry_mask;
};

#define REGIONS 32u
#define GUARDS 65536u

/* A stretch of memory that the program may execute. */
struct region {
	uint64_t start, end;
	uint8_t kind; /* REGION_ */
};
enum { REGION_READ = 1, REGION_WRITE = 2, REGION_EXECUTE = 4, REGION_SHARED = 8, REGION_FILE = 16 };

struct guard {
	uint64_t number;
	uint8_t state;   /* GUARD_ */
	bool busy;       /* checked, and its code did change of late */
	uint16_t opened; /* times that a store has met it */
};
enum {
	GUARD_NONE,
	GUARD_PROTECTED,
	GUARD_OPEN,    /* nothing is made of it */
	GUARD_CHECKED, /* for a while */
	GUARD_KERNEL,  /* checked for good: a call may be writing to it */
};

struct decoded;    /* build.h */
struct lh_process; /* process.c */

struct lh_translator {
	const struct lh_sys *sys;
	struct lh_translate_client client;
	struct lh_lock lock;
	size_t cache_size;
	uint64_t near;
	struct cache *current, *retired;
	uint64_t epoch;
	uint32_t *alive; /* wiped in a child of fork */
	uint8_t *slots;
	size_t slot_bytes;
	uint32_t slot_count;          /* that have ever been used */
	bool upper, few;              /* there is AVX-512; vector registers can be saved without xsave */
	bool fsgsbase, xsave, in_use; /* xgetbv knows components that are as after a reset */
	struct lh_access_layout layout;
	uint64_t natives[NATIVES]; /* functions that translated code calls natively */
	unsigned native_count;
	struct decoded *decoded; /* room for a block */
	size_t decoded_bytes;
	struct lh_emitter *emitter;
	size_t emitter_bytes;
	struct lh_translated_thread *unsaved; /* for whom a block is made, while its vectors are not saved */
	struct lh_translate_counts counts;
	struct lh_process *process; /* process.c; NULL: threads switch themselves over */
	/* changed.c: of the program's memory */
	bool guards;            /* whoever owns the translator hands SIGSEGV to lh__changed_fault first */
	struct guard *guard;    /* of pages that the program may both write and execute */
	uint32_t guard_count;   /* that are write-protected, so that stores are seen */
	uint32_t checked_count; /* that are checked for a while */
	uint64_t looked;        /* the processor's clock when those were looked at */
	int memory; /* a descriptor, and 1, whose place was set to an address of code: /proc/self/mem */
	struct region region[REGIONS];
	unsigned next_region;
	/* A file's code has come or gone; may be NULL. Called by lh__changed_call, no lock held. */
	void (*mapped)(void *context, uint64_t start, uint64_t end);
};

/* ---- enter.S */

extern const char lh__translate_leave[], lh__translate_leave_indirect[], lh__translate_leave_call[];
extern const char lh__translate_leave_ask[], lh__translate_leave_syscall[];
extern const char lh__translate_leave_state[], lh__translate_plain[];
extern const char lh__translate_native_call[], lh__translate_native_back[];
extern const char lh__translate_begin_inside[], lh__translate_end_inside[], lh__translate_forget_inside[];
extern const char lh__translate_is_on_inside[], lh__translate_is_here_inside[], lh__translate_bytes_inside[];

/* What a thread resumes at: a system call of the program's; to let signals come; its target. */
extern const char lh__translate_make_call[], lh__translate_making[];
extern const char lh__translate_made[], lh__translate_made_end[];
extern const char lh__translate_unblock[], lh__translate_unblock_end[];
extern const char lh__translate_enter[], lh__translate_enter_end[];
extern const char lh__translate_restore[], lh__translate_restored[], lh__translate_restored_end[];
extern const char lh__translate_text[], lh__translate_text_end[];
extern const char lh__translate_sigreturn[], lh__translate_exit[];
void lh__process_entered(int signal, siginfo_t *info, void *context);
long lh__translate_clone(long number, const long argument[6], struct lh_translated_thread *child);

/* ---- vectors.S: the lowest parts of all vector registers; upper: with AVX-512's, and masks */

void lh__vectors_put_aside(uint8_t *area, bool upper);
void lh__vectors_take_back(const uint8_t *area, bool upper);

/* ---- open.c */

void lh__after_fork(struct lh_translator *translator);

/* ---- thread.c */

struct lh_translated_thread *lh__thread_here(const struct lh_translator *translator);
void lh__thread_forget_others(struct lh_translator *translator, struct lh_translated_thread *self);
bool lh__thread_any_in(const struct lh_translator *translator, const struct cache *cache);
uint64_t lh__thread_fs(const struct lh_translator *translator);
/* Whether the stack of a thread lies there, as far as is known. */
bool lh__thread_stack_in(const struct lh_translator *translator, uint64_t start, uint64_t end);
/* With all signals blocked; returns, and takes, the mask that was. */
uint64_t lh__hold(struct lh_translator *translator);
void lh__release(struct lh_translator *translator, uint64_t mask);
struct lh_translated_thread *lh__thread_take(struct lh_translator *translator);
long lh__thread_adopt(struct lh_translator *translator, struct lh_translated_thread **out) LH_MUST_CHECK;
int lh__thread_activate(struct lh_translator *translator, struct lh_translated_thread *thread) LH_MUST_CHECK;
void lh__thread_set_gs(const struct lh_translator *translator, uint64_t base);
/* The calling thread's gs is its own again. */
void lh__thread_leave(struct lh_translator *translator);
void lh__vectors_save(struct lh_translated_thread *thread);
void lh__vectors_restore(struct lh_translated_thread *thread);
/* Before anything that is not compiled without them: Zydis, a client. */
void lh__vectors_needed(struct lh_translator *translator);
/*
 * The same much faster, for a function that leaves x87 and MMX alone, and upper halves as it finds them,
 * where those are not in use. False: they are.
 */
bool lh__vectors_save_few(struct lh_translated_thread *thread);
void lh__vectors_restore_few(struct lh_translated_thread *thread);

/* ---- cache.c: all under the lock, but for lh__cache_make */

struct cache *lh__cache_make(struct lh_translator *translator) LH_MUST_CHECK;
void lh__cache_free(struct lh_translator *translator, struct cache *cache);
/* Forgets everything: a new cache; the old one goes when no thread is in it. */
int lh__cache_flush(struct lh_translator *translator) LH_MUST_CHECK;
void lh__cache_sweep(struct lh_translator *translator);
void lh__cache_enter(struct lh_translator *translator, struct lh_translated_thread *thread);
/* Bytes of the arena, zeroed, aligned to 8; NULL when it is full. */
void *lh__cache_metadata(struct cache *cache, size_t size);
int lh__poke(const struct lh_sys *sys, uint64_t address, const void *from, size_t size) LH_MUST_CHECK;
int lh__peek(const struct lh_sys *sys, uint64_t address, void *out, size_t size) LH_MUST_CHECK;
uint64_t lh__map(const struct lh_sys *sys, uint64_t hint, size_t size, int protection, int flags, int fd);

/* ---- known.c: the fragments of a cache, under the lock */

struct fragment *lh__cache_find(const struct cache *cache, uint64_t address);
/* page: NULL for one that is not to be found, since a thread is on its way into it. -ENOSPC. */
int lh__cache_add(struct cache *cache, struct fragment *fragment, struct page *page) LH_MUST_CHECK;
/* The page of an address if code may be read there; NULL with -EFAULT in *error where not, or -ENOSPC. */
struct page *lh__cache_page(struct lh_translator *translator, uint64_t address, int *error);
struct page *lh__cache_page_known(const struct cache *cache, uint64_t address);
/*
 * In memory that JITs write, code is forgotten more often than it changes: protections flip, and its
 * neighbours are written. The fragment for the address, if there has been one that was made of what is there.
 */
struct fragment *lh__cache_revive(struct lh_translator *translator, uint64_t address);
/* Whether there was anything. */
bool lh__cache_forget(struct lh_translator *translator, uint64_t start, uint64_t end);
uint64_t lh__cache_address(const struct lh_translator *translator, uint64_t code);
/*
 * The fragment that an address in a code cache lies in, be it forgotten, and the last of its instructions
 * that begins at or before it, counted from 0 (-1: none); NULL: it is in none.
 */
struct fragment *lh__cache_fragment(const struct lh_translator *translator, uint64_t code,
                                    struct cache **cache, int *instruction);

/* ---- link.c: the jumps that lead to them, and the table; under the lock */

void lh__cache_link(struct lh_translator *translator, struct jump *jump, struct fragment *to);
/* It leads to the translator again. */
void lh__cache_unlink(struct cache *cache, struct jump *jump);
/* All that lead to the fragment do. */
void lh__cache_unlink_all(struct cache *cache, struct fragment *fragment);
/* A fragment that follows directly becomes one that a jump leads to, or to the translator. */
void lh__cache_sever(struct cache *cache, struct jump *jump);
/* The table leads to the fragment's entry; and no longer. */
void lh__cache_publish(struct cache *cache, struct fragment *fragment);
void lh__cache_withdraw(struct cache *cache, struct fragment *fragment);

static inline uint32_t lh__number(const struct cache *cache, const struct jump *jump)
{
	return (uint32_t)((const uint8_t *)jump - cache->arena);
}
static inline struct jump *lh__jump(const struct cache *cache, uint64_t number)
{
	return (struct jump *)(void *)(cache->arena + number);
}

/* ---- decode.c */

/*
 * False: not known here, Zydis may know it. Sets length, encoding, opcode_map, opcode, attributes (HAS_REX,
 * HAS_MODRM), and of raw: prefix_count, the values of prefixes, rex, modrm, disp (value, offset), and the
 * value of imm[0] where it is a distance. Nothing else.
 */
bool lh__decode_quickly(const uint8_t code[LH_INSTRUCTION_ROOM], ZydisDecodedInstruction *out);

/* ---- emit.c */

/* A client's turn: what is live, and which registers addresses are made of. */
void lh__emit_turn(struct lh_emitter *emitter, uint32_t live, const struct lh_accesses *accesses);
int lh__general(ZydisRegister reg);

/* ---- build.c (build.h), under the lock */

/* -EFAULT: there is nothing at the address; -ENOSPC: the cache is full. entered: by its address. */
int lh__build(struct lh_translator *translator, uint64_t address, bool entered,
              struct fragment **out) LH_MUST_CHECK;
/* One instruction, for a thread that is in the middle of it: nobody else finds the fragment. */
int lh__build_rest(struct lh_translator *translator, uint64_t address, struct fragment **out) LH_MUST_CHECK;
/* A way into a fragment by its address; -ENOSPC. */
int lh__build_entry(struct lh_translator *translator, struct fragment *fragment) LH_MUST_CHECK;
void lh__build_rooms(size_t *decoded, size_t *emitter);

/* ---- changed.c */

/*
 * Under the lock: whether code may be read from a page, and what kind it is of. -EFAULT: it is not there, or
 * not to be executed. From now on stores to it are seen, unless it is to be checked.
 */
int lh__changed_page(struct lh_translator *translator, struct page *page) LH_MUST_CHECK;
/* Under the lock: what is known of [start, end), fragments and all, is forgotten; whether there was code. */
bool lh__changed_forget(struct lh_translator *translator, uint64_t start, uint64_t end);
/* Under the lock: a fragment of the program's code there has found it changed. */
void lh__changed_stale(struct lh_translator *translator, uint64_t address);
/* In a child of fork. */
void lh__changed_forked(struct lh_translator *translator);
/* For a handler of a signal that may have interrupted the dispatcher: true: it will forget it. */
bool lh__changed_wait(struct lh_translated_thread *thread, uint64_t start, uint64_t end);
/*
 * From now on pages are write-protected that the program may write and execute: all of its system calls go
 * through lh__changed_call, and each SIGSEGV through lh__changed_fault.
 */
int lh__changed_guard(struct lh_translator *translator) LH_MUST_CHECK;
/*
 * Before each system call of a thread, with signals held back and no lock held. True: it has been made, its
 * result is in call. False: it may be made; buffers that it writes to can be written.
 */
bool lh__changed_call(struct lh_translated_thread *thread, struct lh_translate_call *call);
/*
 * A SIGSEGV, before anybody else sees it, in the thread that raised it, all signals blocked. True: the thread
 * goes on with the context as it is then.
 */
bool lh__changed_fault(struct lh_translator *translator, const siginfo_t *info, ucontext_t *context);

/* Memory is about to be written to by the kernel; under no lock. */
void lh__changed_written(struct lh_translator *translator, uint64_t start, uint64_t size);
/* The lock, where signals may come: their handlers' wishes wait, and are met by whoever holds it. */
void lh__changed_hold(struct lh_translated_thread *thread);
void lh__changed_release(struct lh_translated_thread *thread);

/* ---- buffers.c */

/* What the call is going to write to can be written. */
void lh__changed_buffers(struct lh_translator *translator, const struct lh_translate_call *call);

/* ---- regions.c */

/* What the program may do at an address: 0, or -EFAULT: nothing is there; -ENOSYS: nobody says. */
int lh__region_at(const struct lh_sys *sys, uint64_t address, struct region *out) LH_MUST_CHECK;

/* ---- dispatch.c */

/* Both say in the context where the thread goes on. */
void lh__translate_dispatch(struct lh_translated_thread *thread);
void lh__translate_call_out(struct lh_translated_thread *thread);
void lh__translate_ask_out(struct lh_translated_thread *thread);
void lh__translate_syscall_out(struct lh_translated_thread *thread);

/* ---- process.c: a program that is translated whole */

struct lh_process {
	struct lh_process_options options;
	uint64_t room;    /* where it lies */
	uint64_t *misses; /* a table of targets that knows none */
	uint32_t threads;
	struct lh_actions actions;
};
/* A system call: where the thread goes on. */
uint64_t lh__process_call(struct lh_translated_thread *thread, const struct jump *jump);
/* Until the thread resumes, no signal comes. */
void lh__process_hold(struct lh_translated_thread *thread);
void lh__process_free(struct lh_translator *translator);
void lh__process_ends(struct lh_translated_thread *thread, int status);

/* ---- clone.c */

bool lh__clone(struct lh_translated_thread *thread, struct lh_translate_call *call);
/* The thread is about to end; the client hears of it. */
void lh__clone_ends(struct lh_translated_thread *thread, int status);
void lh__clone_tell(struct lh_translated_thread *thread);

/* ---- signal.c */

bool lh__signal_action(struct lh_translated_thread *thread, struct lh_translate_call *call);
bool lh__signal_mask(struct lh_translated_thread *thread, struct lh_translate_call *call);
bool lh__signal_stack(struct lh_translated_thread *thread, struct lh_translate_call *call);
uint64_t lh__signal_return(struct lh_translated_thread *thread);
/* All that the kernel has now becomes the program's. */
void lh__signal_take(struct lh_translator *translator, struct lh_translated_thread *thread);
/* The kernel's alternate stack of the calling thread is the context's. */
void lh__signal_own_stack(struct lh_translated_thread *thread);

/* ---- held.c: signals that wait for a block's end */

/* Makes the state the program's, at an address of its own. False: it is not at a boundary; it will be. */
bool lh__held_true(struct lh_translated_thread *thread, ucontext_t *context, bool synchronous);
uint64_t lh__register(const ucontext_t *context, int reg);
/* The next jump through the table leads to the translator. */
void lh__held_miss(struct lh_translated_thread *thread);
/* The thread has come to the translator. */
void lh__held_release(struct lh_translated_thread *thread);
/* Under the lock: when it is at the fragment's end it comes to the translator. */
void lh__held_force(struct lh_translated_thread *thread, struct cache *cache, struct fragment *fragment);

/* ---- state.c */

void lh__translate_state_out(struct lh_translated_thread *thread);

#endif
#endif
