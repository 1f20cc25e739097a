/*
 * ahead.c - the walk ahead of a trap, and which pages it may access. See ahead.h.
 *
 * It ends, too, when it has found nothing new for a while: what runs again and again costs nothing natively,
 * and a hundred times as much here.
 *
 * A load must not fault in the handler, so a page is tried before it is first read: by a call that copies
 * from it and does nothing. A page that is stored to is populated, which tells whether the program may write
 * to it; it is about to. What has been found is kept until the program changes its mappings. Pages that go
 * away unseen could only be met where the program itself is about to fault on them. Texts are not read: a
 * program that reads its own code reads what is there at that moment.
 */
#include "port/code/inside/ahead.h"
#include "port/code/inside/internal.h"

#include <errno.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#define PAGE 4096ull
#define POPULATE_WRITE 23 /* MADV_POPULATE_WRITE */
#define MAY_READ 1u
#define MAY_WRITE 2u
#define USER_END (1ull << 47)
#define IDLE 20u    /* instructions without a new block */
#define MOST 16384u /* instructions in all */

/* ---- pages ---- */

static bool try_page(uint64_t page, bool write)
{
	if (page >= USER_END || lh__inside_overlap(page, page + PAGE, NULL))
		return false;
	return write ? LH_CALL3(SYS_madvise, page, PAGE, POPULATE_WRITE) == 0 : lh__inside_readable(page);
}

bool lh__ahead_may(struct lh_ahead *ahead, uint64_t address, bool write)
{
	uint64_t page = address & ~(PAGE - 1), bit = write ? MAY_WRITE : MAY_READ;
	uint64_t *entry = &lh__inside.ahead.page[address / PAGE % LH_AHEAD_PAGES];
	uint64_t found = __atomic_load_n(entry, __ATOMIC_RELAXED);

	if ((found & ~(PAGE - 1)) != page)
		found = page;
	if (found & bit)
		return true;
	if (!try_page(page, write))
		return false;
	__atomic_store_n(entry, found | bit, __ATOMIC_RELAXED);
	return true;
}

static void forget_pages(void)
{
	unsigned i;

	for (i = 0; i < LH_AHEAD_PAGES; i++)
		__atomic_store_n(&lh__inside.ahead.page[i], 0, __ATOMIC_RELAXED);
}

/* A filter on calls may forbid those that pages are tried with. */
static bool sandboxes(int nr, const greg_t *registers)
{
	return nr == SYS_seccomp || (nr == SYS_prctl && registers[REG_RDI] == PR_SET_SECCOMP);
}

static bool makes_thread(int nr, const greg_t *registers)
{
	uint64_t at = (uint64_t)registers[REG_RDI], flags = at;

	if (nr == SYS_clone3)
		flags = lh__inside_readable(at) ? *(const uint64_t *)at : 0;
	return (nr == SYS_clone || nr == SYS_clone3) && flags & CLONE_VM && !(flags & CLONE_VFORK);
}

void lh__inside_ahead_call(int nr, const greg_t *registers)
{
	switch (nr) {
	case SYS_mmap:
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_munmap:
	case SYS_mremap:
	case SYS_brk:
	case SYS_shmdt: forget_pages(); break;
	default:
		if (makes_thread(nr, registers) || sandboxes(nr, registers))
			__atomic_store_n(&lh__inside.ahead.wanted, false, __ATOMIC_RELAXED);
	}
}

/* ---- the thread ---- */

/* Another thread has another fs. That of the first one comes to be while its dynamic linker runs. */
static bool take_fs(struct lh_ahead *ahead)
{
	struct lh_inside_ahead *mine = &lh__inside.ahead;

	ahead->has_fs = mine->fs_known;
	ahead->fs = 0;
	if (!mine->fs_known)
		return true;
	__asm__ volatile("rdfsbase %0" : "=r"(ahead->fs));
	if (mine->fs == 0)
		mine->fs = ahead->fs;
	if (mine->fs != ahead->fs)
		__atomic_store_n(&mine->wanted, false, __ATOMIC_RELAXED);
	return mine->fs == ahead->fs;
}

/* As XSAVE has laid them out: 16 at 160; zero, and not written, where the header at 512 lacks bit 1. */
static void take_vectors(struct lh_ahead *ahead, const uint8_t *state)
{
	__builtin_memcpy(ahead->vector, state + 160, sizeof ahead->vector);
	ahead->vectors_known = state[512] & 2 ? 0xffff : 0;
}

static void take_registers(struct lh_ahead *ahead, const ucontext_t *context)
{
	static const uint8_t order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
		                           REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
		                           REG_R12, REG_R13, REG_R14, REG_R15 };
	const greg_t *registers = context->uc_mcontext.gregs;
	unsigned i;

	for (i = 0; i < 16; i++)
		ahead->reg[i] = (uint64_t)registers[order[i]];
	ahead->known = 0xffff;
	ahead->pc = (uint64_t)registers[REG_RIP];
	ahead->flags = (uint64_t)registers[REG_EFL];
	ahead->flags_known = LH_STATUS | LH_DF;
	ahead->filter = 0;
	ahead->stores = 0;
	take_vectors(ahead, (const uint8_t *)context->uc_mcontext.fpregs);
}

/* ---- the walk ---- */

/* The text that pc is in, if it is watched there and has room for a whole instruction. */
static const struct lh_inside_text *text_at(const struct lh_inside_text *text, uint64_t pc)
{
	if (!text || pc < text->text.start || pc >= text->text.end)
		text = lh__inside_find(pc);
	if (!text || !text->watched || pc + LH_AHEAD_LONGEST > text->text.end)
		return NULL;
	return text;
}

/* 1: this is a new block, 0: it is none; -1: here the walk ends. */
static int enter(const struct lh_inside_text *text, uint32_t at, bool off)
{
	uint8_t there = *(const volatile uint8_t *)(text->text.start + at),
		original = text->text.original[at];

	if (!(text->text.armed[at / 64] >> (at % 64) & 1) || original == LH_INT3)
		return -1;
	if (there == original)
		return 0;
	if (there != LH_INT3)
		return -1;
	lh__inside_bring(text, lh__text_span(&text->text, at, lh__inside.granularity), off);
	return 1;
}

unsigned lh__inside_look_ahead(const ucontext_t *context, bool off)
{
	const struct lh_inside_text *text = NULL;
	struct lh_ahead_instruction in;
	unsigned found = 0, idle = 0, most = MOST;
	struct lh_ahead ahead;

	if (!__atomic_load_n(&lh__inside.ahead.wanted, __ATOMIC_RELAXED) || !take_fs(&ahead))
		return 0;
	take_registers(&ahead, context);
	while (most-- > 0 && idle++ < IDLE && (text = text_at(text, ahead.pc)) != NULL) {
		uint32_t at = (uint32_t)(ahead.pc - text->text.start);
		int entered = enter(text, at, off);

		if (entered < 0)
			break;
		if (entered > 0) {
			found++;
			idle = 0;
		}
		if (!lh__ahead_decode((const uint8_t *)ahead.pc, text->text.original[at], &in) ||
		    !lh__ahead_run(&ahead, &in))
			break;
	}
	return found;
}
