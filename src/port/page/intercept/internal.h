/*
 * internal.h - what the files of the interceptor share. See intercept.h for the whole.
 *
 * Invariants, for each thread's record:
 *   1. in_agent is 1 exactly while the program's registers lie in `regs` and the module's code runs on the
 *      record's stack. A signal is then deferred, never delivered.
 *   2. Between two instructions of a stub with in_agent 0, lh__normalise can say what the program's context
 *      is. So a handler always sees an address of the program.
 *   3. deferred != 0 implies that the kernel blocks all signals of the thread but the special ones.
 */
#ifndef LH_PORT_PAGE_INTERCEPT_INTERNAL_H
#define LH_PORT_PAGE_INTERCEPT_INTERNAL_H

#include <stddef.h>
#include <sys/ucontext.h>

#include "port/page/intercept/intercept.h"

/* Offsets that stub.c's assembly uses; open.c checks each with a static assertion. */
#define LH_T_IN_AGENT 0x00
#define LH_T_DEFERRED 0x04
#define LH_T_STATE 0x08
#define LH_T_TID 0x0c
#define LH_T_RAX 0x10
#define LH_T_RBX 0x18
#define LH_T_RCX 0x20
#define LH_T_RDX 0x28
#define LH_T_RSI 0x30
#define LH_T_RDI 0x38
#define LH_T_RBP 0x40
#define LH_T_RSP 0x48
#define LH_T_R8 0x50
#define LH_T_R12 0x70
#define LH_T_RIP 0x90
#define LH_T_FLAGS 0x98
#define LH_T_SETS_GS 0xa0
#define LH_S_ARENA 0x00
#define LH_S_ARENA_SIZE 0x08
#define LH_S_USED 0x10
#define LH_S_XSAVE_MASK 0x18
#define LH_S_XSAVEC 0x1c
#define LH_S_STRAIGHT 0x20
#define LH_S_ANY 0x28
#define LH_S_TABLE 0x30

/* A record is 128 KiB: this header, register areas, the hook's stack, the alternate stack, guards between. */
#define LH_T_SIZE 0x20000
#define LH_T_XSAVE 0x1000  /* 16 KiB */
#define LH_T_FRAME 0x5000  /* 20 KiB: the frame of a sigreturn */
#define LH_T_GUARD1 0xa000 /* 4 KiB */
#define LH_T_HOOK_TOP 0x12000
#define LH_T_GUARD2 0x12000 /* 4 KiB */
#define LH_T_ALT 0x13000
#define LH_T_ALT_SIZE (LH_T_SIZE - LH_T_ALT)

/* Nothing here is seen from outside the agent. */
#pragma GCC visibility push(hidden)

#define LH_STRING_(x) #x
#define LH_STRING(x) LH_STRING_(x)

/* <linux/signal.h> has it, but cannot be included beside <signal.h>. */
#define LH_AUTODISARM ((int)(1u << 31))
#define LH_SIGNALS 64
#define LH_BIT(sig) (1ull << ((sig)-1))
#define LH_SPECIAL (LH_BIT(SIGSYS) | LH_BIT(SIGSEGV) | LH_BIT(SIGBUS))
#define LH_UNBLOCKABLE (LH_BIT(SIGKILL) | LH_BIT(SIGSTOP))
#define LH_LARGEST_XSTATE 12288

/* The kernel's struct sigaction. */
struct lh_action {
	uint64_t handler, flags, restorer, mask;
};

struct lh_actions {
	int lock;
	struct lh_action of[LH_SIGNALS + 1]; /* as the program set them */
};

/* The kernel's ucontext: glibc's is longer. */
struct lh_ucontext {
	uint64_t flags, link;
	stack_t stack;
	mcontext_t machine;
	uint64_t mask;
};

struct lh_frame {
	uint64_t return_address;
	struct lh_ucontext context;
	siginfo_t info;
};

enum { LH_WAY_SITE, LH_WAY_NET };

struct lh_thread {
	uint32_t in_agent, deferred, state;
	int32_t tid;
	struct {
		uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip,
			flags;
	} regs;
	uint32_t sets_gs; /* the child's gs is to be ours, since the parent's was */
	uint32_t fresh_actions;
	struct lh_trap trap;

	/* Signals. Masks are the program's view in full; the kernel's lacks LH_SPECIAL. */
	struct lh_actions *actions; /* shared between threads */
	struct lh_actions own_actions;
	stack_t stack;            /* the alternate stack that the program has registered */
	uint64_t special_blocked; /* part of LH_SPECIAL that the program believes blocked */
	uint64_t special_pending;
	siginfo_t special_info[3];
	siginfo_t deferred_info;
	uint64_t deferred_mask; /* the kernel's mask when the deferred signal came */
	uint64_t deferred_temporary;
	uint32_t deferred_in_temporary, temporary_active;
	uint64_t temporary; /* the mask of a ppoll or the like that is under way */
	uint64_t start_mask;
	enum lh_intercept_start start;
	uint64_t calls_site, calls_net, signals, deferrals;
};

/* Code that has been rewritten, and where its trampolines are. */
struct lh_region {
	uint64_t start, end, tramps, tramps_size;
	uint32_t moved_count;
	/*
	 * Sites whose `syscall` bytes are gone: from = its old address, to = that of the one in the
	 * trampoline.
	 */
	struct lh_moved {
		uint64_t from, to;
	} * moved;
};

#define LH_REGIONS 1024

struct lh_interception {
	uint64_t arena, arena_size, used;
	uint32_t xsave_mask, xsavec;
	uint64_t straight, any;               /* calls_straight; entry for sites with an unknown number */
	uint64_t table[LH_INTERCEPT_NUMBERS]; /* entry by number */
	struct lh_intercept_config config;
	unsigned capabilities, sandboxed; /* 1: a filter, 2: only read, write, exit, sigreturn */
	uint64_t least_stack;
	uint64_t hooked[LH_INTERCEPT_NUMBERS / 64];
	uint32_t arena_lock, rewrite_lock;
	uint64_t sites_found, sites_rewritten, calls_site, calls_net, signals, deferrals;
	struct lh_actions actions;
	struct {
		lh_intercept_claim *handler;
		void *context;
	} claim[3];
	uint32_t region_count;
	struct lh_region region[LH_REGIONS];
};

/* The one global: stubs and signal handlers have no argument to find their state by. Set once. */
extern struct lh_interception *lh__intercept_state;

/* stub.c */
extern char lh__stub_fast[], lh__stub_counted[], lh__stub_slow[], lh__stub_any[], lh__stub_saved[];
extern char lh__stub_net[], lh__stub_int80[], lh__restorer[], lh__kernel_restorer[];
extern char __start_lh_syscall[], __stop_lh_syscall[];
long lh__program_syscall(struct lh_thread *thread, long nr, const long argument[6]);
long lh__clone_raw(long nr, const long argument[6], struct lh_thread *child);
_Noreturn void lh__thread_leave(struct lh_thread *thread, long status);
_Noreturn void lh__sigreturn_final(struct lh_thread *thread);
_Noreturn void lh__slow_exit(struct lh_thread *thread);
/*
 * Whether rip of a deferred signal lies before the kernel was entered by lh__program_syscall or just after.
 */
int lh__before_program_call(uint64_t rip);
int lh__after_program_call(uint64_t rip);
uint64_t lh__program_call_end(void);
int lh__copy_fixup(struct lh_ucontext *context);
int lh__is_bell(uint64_t rip); /* 1: at the end of a call, 2: of a sigreturn */
/* Turns a context inside a stub into the program's own. */
void lh__normalise(struct lh_thread *thread, struct lh_ucontext *context);

/* thread.c */
struct lh_thread *lh__thread_current(void);
struct lh_thread *lh__thread_new(void);
void lh__thread_free(struct lh_thread *thread);
void lh__thread_begin(struct lh_thread *thread);
int lh__thread_arm(struct lh_thread *thread);
long lh__thread_clone(struct lh_thread *thread, struct lh_trap *trap);
long lh__thread_exit(struct lh_thread *thread, struct lh_trap *trap);
long lh__thread_exec(struct lh_thread *thread, struct lh_trap *trap);
uint64_t lh__mask_set(uint64_t mask); /* the kernel's; returns the former */

/* signal.c */
int lh__signal_open(void);
void lh__signal_special(void);
void lh__signal_pending(struct lh_thread *thread);
void lh__actions_lock(struct lh_actions *actions);
void lh__actions_unlock(struct lh_actions *actions);
void lh__signal_real(int sig, const struct lh_action *action);
void lh__stack_reset(struct lh_thread *thread);
_Noreturn void lh__restored(struct lh_thread *thread, struct lh_ucontext *from);
_Noreturn void lh__sigreturn(struct lh_thread *thread, struct lh_ucontext *from);

/* sigcall.c: the calls about signals, as the program sees them; -ENOSYS - 1 for another number */
#define LH_NOT_MINE (-4095L)
long lh__signal_call(struct lh_thread *thread, struct lh_trap *trap);
long lh__stack_change(struct lh_thread *thread, const stack_t *stack, uint64_t rsp);
int lh__on_stack(const struct lh_thread *thread, uint64_t rsp);

/* open.c */
void lh__enter(struct lh_thread *thread);
int lh__wanted(long nr);

/* rewrite.c */
int lh__rewrite_all(void);
void lh__rewrite_mapped(uint64_t start, uint64_t size, int fd, uint64_t offset);
uint64_t lh__moved_to(uint64_t rip);   /* program's address to trampoline's, or rip itself */
uint64_t lh__moved_from(uint64_t rip); /* the other way */

/* scan.c: what can be rewritten in an ELF file that lies in memory. */
struct lh_site {
	uint64_t offset; /* of the window in the file */
	int32_t nr;      /* -1: not known */
	uint8_t size;    /* of the window: the jump and filling */
	uint8_t before;  /* bytes of the window that come before the `syscall`, to be moved */
	uint8_t after;   /* bytes to be moved that come after it */
	uint8_t moved;   /* 1: the `syscall` itself is in the window */
	uint8_t fix[4];  /* offsets in the window of rip-relative displacements, 0xff where none */
};
/* Calls found for each site; returns the number of `syscall` instructions seen, or negative errno. */
long lh__scan(const uint8_t *file, size_t size, uint64_t text_offset, uint64_t text_size,
              void (*found)(void *context, const struct lh_site *site), void *context);

#define LH_THREAD_CALL(...) LH_SYS(lh__intercept_state->config.sys, __VA_ARGS__)

#pragma GCC visibility pop

#endif
