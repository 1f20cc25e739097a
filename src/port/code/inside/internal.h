/*
 * internal.h - what the parts of the inside agent know of each other. ../inside.h says what it is.
 *
 *     entry.c    start and stop
 *     arm.c      texts: armed when a module is mapped, brought back at the end
 *     maps.c     which mappings of code there are
 *     table.c    which text an address belongs to: a table that is read without a lock
 *     trap.c     the handler: a miss is answered here; what is not the home's goes to own.c
 *     ahead.c    what is supplied by the same trap, since it runs next (ahead.h)
 *     own.c      the program's own SIGTRAP
 *     calls.c    system calls whose instruction stays absent
 *     signals.c  what the program believes about SIGTRAP
 *     mapping.c  calls that map and unmap code
 *     server.c   a thread that waits at a marker and forks again and again
 *     ask.c      questions to the watcher
 *     memory.c   what a compiler expects of a libc
 *     enter.S    where the kernel enters, and the two ways back
 *
 * All of it may run in a handler, on any thread, in the child of a vfork, and may be left for good by a
 * longjmp of the program's handler while a call of the program is carried out: no lock is held and no state
 * is open then. Where a lock is held all signals are blocked.
 */
#ifndef LH_PORT_CODE_INSIDE_INTERNAL_H
#define LH_PORT_CODE_INSIDE_INTERNAL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "port/code/inside.h"

#define LH_EXPORTED __attribute__((visibility("default")))
#define LH_TRAP_BIT (1ull << (SIGTRAP - 1))
#define LH_STUB_SIZE 16u
#define LH_PATH_SIZE 256u
#define LH_BLOCKERS 1024u
#define LH_GUESTS 64u
#define LH_AHEAD_PAGES 256u

/* The kernel's struct sigaction. */
struct lh_action {
	uint64_t handler, flags, restorer, mask;
};

/* A mapped text that the agent knows. */
struct lh_inside_text {
	struct lh_text text;
	const struct lh_plan_head *plan;
	const struct lh_plan_site *sites; /* of this text, by place */
	uint8_t *stubs;                   /* one for each site: LH_STUB_SIZE bytes; NULL: no room */
	uint32_t site_count;
	uint32_t which;          /* text of the plan */
	bool watched;            /* armed; else only the sites are absent */
	bool image;              /* the plan's image is mapped here */
	bool writable;           /* bytes may be stored directly */
	char path[LH_PATH_SIZE]; /* of the file, to map it again; empty: not known */
};

/* Sorted ranges; two of them take turns. */
struct lh_inside_index {
	uint64_t generation;
	uint32_t count;
	struct {
		uintptr_t start, end;
		uint32_t slot;
	} entry[LH_INSIDE_TEXTS];
};

/* A plan, mapped once however often its file is. */
struct lh_inside_plan {
	uint64_t device, inode, size;
	uint8_t *plan;
};

/* What a process believes: the agent's own, and children that share its memory until they execute. */
struct lh_inside_belief {
	int32_t process; /* 0: free */
	struct lh_action trap;
	uint64_t masked; /* signals whose handler was to block SIGTRAP: bit n - 1 */
};

/* A thread that believes that it blocks SIGTRAP. */
struct lh_inside_blocker {
	int32_t thread; /* 0: free */
	int32_t holds;  /* one waits */
	siginfo_t info; /* of the one that waits */
};

/* Whether it is looked ahead, and what is known for it. */
struct lh_inside_ahead {
	bool wanted;   /* and nothing has been seen yet that forbids it */
	bool fs_known; /* rdfsbase works */
	uint64_t fs;   /* of the one thread, once it has one */
	/* Pages that may be accessed: an address, 1: read, 2: written to. By the address. */
	uint64_t page[LH_AHEAD_PAGES];
};

struct lh_inside {
	char name[104];
	enum lh_granularity granularity;
	bool markers; /* see struct lh_inside_start */
	uintptr_t self, self_end;
	struct lh_record_control *control;
	bool alone;     /* the agent starts: no other thread runs */
	int64_t record; /* its descriptor while the agent starts; -1: none, then it is asked for */
	uint64_t lock;  /* process << 32 | thread */
	uint32_t *born; /* the process that the agent knows as its own; a fork's child finds 0 here */
	uint32_t plans; /* how many stand in plan[] */
	uint32_t next_slot;
	struct lh_inside_index *index;
	struct lh_inside_index indexes[2];
	struct lh_inside_plan plan[LH_INSIDE_TEXTS];
	struct lh_inside_belief own;
	struct lh_inside_belief guest[LH_GUESTS];
	uint32_t next_guest;
	struct lh_inside_blocker blocker[LH_BLOCKERS];
	struct lh_inside_ahead ahead;
	struct lh_inside_text text[LH_INSIDE_TEXTS];
};

/* The one variable. A signal handler is handed nothing else. */
extern struct lh_inside lh__inside;

/* ---- enter.S ---- */
void lh__inside_enter(int signal, siginfo_t *info, void *context);
void lh__inside_restorer(void);

/* ---- memory.c ---- */
#define LH_CALL6(nr, a, b, c, d, e, f)                                                                       \
	lh__inside_call(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define LH_CALL5(nr, a, b, c, d, e) LH_CALL6(nr, a, b, c, d, e, 0)
#define LH_CALL4(nr, a, b, c, d) LH_CALL6(nr, a, b, c, d, 0, 0)
#define LH_CALL3(nr, a, b, c) LH_CALL6(nr, a, b, c, 0, 0, 0)
#define LH_CALL2(nr, a, b) LH_CALL6(nr, a, b, 0, 0, 0, 0)
#define LH_CALL1(nr, a) LH_CALL6(nr, a, 0, 0, 0, 0, 0)
#define LH_CALL0(nr) LH_CALL6(nr, 0, 0, 0, 0, 0, 0)
#define LH_FAILED(result) ((unsigned long)(result) > -4096ul)

static inline long lh__inside_call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
	                 : "rcx", "r11", "memory");
	return result;
}
/* Whether 8 bytes can be read there: -EFAULT if not. */
bool lh__inside_readable(uint64_t address);
/* Blocks all signals, for this thread; returns what was blocked. */
uint64_t lh__inside_block(void);
void lh__inside_unblock(uint64_t mask);
/* One writer at a time, with all signals blocked. */
uint64_t lh__inside_lock(void);
void lh__inside_unlock(uint64_t mask);

/* ---- table.c ---- */
struct lh_inside_text *lh__inside_find(uintptr_t address);
/* Texts that overlap [start, end), in ascending order, beginning with the one behind `after` (or NULL). */
struct lh_inside_text *lh__inside_overlap(uintptr_t start, uintptr_t end, const struct lh_inside_text *after);
/* A place for a text that is in no index; NULL: there is none left. Under the lock, as the next two. */
struct lh_inside_text *lh__inside_slot(void);
bool lh__inside_publish(const struct lh_inside_text *text);
void lh__inside_withdraw(const struct lh_inside_text *text);

/* ---- arm.c ---- */
/* Asks what [address, + size) is and arms it. fresh: it has been mapped just now, by this thread. */
void lh__inside_module(uint64_t address, uint64_t size, uint64_t offset, const char *path, bool fresh);
/* Brings back all bytes of a text in [start, end), sites too; nothing is recorded. */
void lh__inside_bring_back(const struct lh_inside_text *text, uintptr_t start, uintptr_t end);
/* The whole text as it was before the agent came; not in the table any more after it. */
void lh__inside_disarm(struct lh_inside_text *text);
/* Gives back what a text needed that is not mapped any more and not in the table. */
void lh__inside_release_text(struct lh_inside_text *text);
/* Whether the page at address is the process's own, and not a file's: code that was made. */
bool lh__inside_is_anonymous(uintptr_t address);
/* One byte of a text: by a store, or where that is not possible through /proc/self/mem. */
void lh__inside_store(const struct lh_inside_text *text, uintptr_t address, uint8_t byte);
void lh__inside_supply(const struct lh_inside_text *text, struct lh_span span);
bool lh__inside_interesting(int nr);

/* ---- maps.c ---- */
/* Asks about each mapping of a file's code in [start, end), and arms it. */
long lh__inside_maps(uintptr_t start, uintptr_t end, bool fresh);

/* ---- ask.c ---- */
long lh__inside_ask(const struct lh_ask *ask, struct lh_answer *answer, int *descriptor);

/* ---- trap.c, own.c ---- */
/* From enter.S. 1: return without the kernel. */
int lh__inside_trap(int signal, siginfo_t *info, ucontext_t *context);
void lh__inside_own(siginfo_t *info, ucontext_t *context);
/* Records and supplies one span. */
void lh__inside_bring(const struct lh_inside_text *text, struct lh_span span, bool off);
static inline uint64_t *lh__inside_mask(ucontext_t *context)
{
	return (uint64_t *)(void *)&context->uc_sigmask;
}

/* ---- ahead.c ---- */
/* From the instruction that the context goes on with. Returns how many spans it has brought. */
unsigned lh__inside_look_ahead(const ucontext_t *context, bool off);
/* A call that is seen may change what may be accessed, or end that the thread is alone. */
void lh__inside_ahead_call(int nr, const greg_t *registers);

/* ---- calls.c, mapping.c ---- */
/* The call at a site, context being the program's at its trap. Whether no mask was changed. */
bool lh__inside_site(const struct lh_inside_text *text, uint32_t index, ucontext_t *context);
/* Whether a call touches no code, so that it needs not be seen. */
bool lh__inside_map_plain(int nr, const greg_t *registers);
long lh__inside_map_call(int nr, const greg_t *registers);

/* ---- server.c ---- */
/* Returns in each child; its caller goes on in the program. */
void lh__inside_serve(int socket);

/* ---- signals.c ---- */
long lh__inside_sigaction(const greg_t *registers);
/* Edits the mask that the context goes on with. */
long lh__inside_sigprocmask(ucontext_t *context);
/* What the program believes that SIGTRAP does in this process. */
struct lh_action lh__inside_trap_action(void);
void lh__inside_reset_trap_action(void);
/* Whether it believes that this thread blocks SIGTRAP. Where more than LH_BLOCKERS do, some are forgotten. */
bool lh__inside_blocks_trap(void);
/* What was held meanwhile is sent, with all signals blocked: it comes when the frame is left. */
void lh__inside_set_blocks_trap(bool blocks);
/* Keeps a SIGTRAP until this thread no longer believes that it blocks it. */
void lh__inside_hold(const siginfo_t *info);
/* Queues it for this thread. */
void lh__inside_send(siginfo_t *info);
/* SIGTRAP's real action and mask as a program that is executed now shall find them; and back again. */
void lh__inside_before_execute(void);
void lh__inside_after_execute(void);
/* Takes SIGTRAP over, out of the masks of all handlers; and gives it back. */
void lh__inside_install(const struct lh_inside_start *start);
void lh__inside_uninstall(void);

#endif
