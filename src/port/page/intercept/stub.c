/*
 * stub.c - the code through which every seen call goes, and what a signal finds when it interrupts it.
 *
 * All of it lies in the section lh_syscall, together with lh__raw_syscall: that is the range from which
 * Syscall User Dispatch lets calls through.
 *
 * A trampoline arrives as the kernel would leave: rcx holds the address where the program goes on, r11 is
 * free, all else is the program's, flags included. So nothing may be compared before the flags are saved,
 * and the choice between "straight" and "seen" is a jump through a table, made by the trampoline:
 *
 *     site:  jmp trampoline      trampoline:  mov $nr, %eax
 *            syscall                          lea after(%rip), %rcx
 *     after: ...                              mov $&table[nr], %r11
 *                                             jmp *(%r11)  -> lh__stub_fast or lh__stub_slow
 *
 * A signal may come between any two instructions. While in_agent is 1 it is deferred. Elsewhere the labels
 * below cut the code into stretches, and for each the table in lh__normalise says where the program's
 * rip, rsp and flags are at that moment: either the call has not begun (rip becomes that of a `syscall`
 * instruction, two bytes before the return address) or it has ended (rip is the return address).
 */
#include "port/page/intercept/internal.h"

/* Laid out as an assembler would have it. */
/* clang-format off */
#define O(name) LH_STRING(name)
#define SAVE(reg, offset) "	mov %" #reg ", " offset "(%rcx)\n"
#define LOAD(reg, offset) "	mov " offset "(%r11), %" #reg "\n"
#define GLOBAL(name) "	.globl " #name "\n	.hidden " #name "\n	.type " #name ", @function\n" #name ":\n"
#define LABEL(name) "	.globl lh__at_" #name "\n	.hidden lh__at_" #name "\nlh__at_" #name ":\n"

__asm__("	.pushsection lh_syscall, \"ax\", @progbits\n"
	"	.p2align 6\n"
	/* Nobody wants it, but it is to be counted. */
	GLOBAL(lh__stub_counted)
	"	lea -128(%rsp), %rsp\n"
	LABEL(counted1)
	"	pushfq\n"
	LABEL(counted2)
	"	mov lh__intercept_state(%rip), %r11\n"
	"	lock incq " O(LH_S_STRAIGHT) "(%r11)\n"
	LABEL(counted3)
	"	popfq\n"
	LABEL(counted4)
	"	lea 128(%rsp), %rsp\n"
	/* Nobody wants it. */
	GLOBAL(lh__stub_fast)
	"	lea -128(%rsp), %rsp\n"
	LABEL(fast1)
	"	push %rcx\n"
	LABEL(fast_call)
	"	syscall\n"
	LABEL(fast_after)
	"	pop %rcx\n"
	LABEL(fast2)
	"	lea 128(%rsp), %rsp\n"
	LABEL(fast3)
	"	jmp *%rcx\n"
	LABEL(fast_end)

	/* From the net, straight to the kernel; the handler has put the return address on the stack. */
	"	.p2align 4\n"
	GLOBAL(lh__stub_net)
	"	syscall\n"
	LABEL(net_after)
	"	ret $128\n"
	LABEL(net_end)
	GLOBAL(lh__stub_int80)
	"	int $0x80\n"
	LABEL(int80_after)
	"	ret $128\n"
	LABEL(int80_end)

	/* The number was not known when the site was rewritten. */
	"	.p2align 4\n"
	GLOBAL(lh__stub_any)
	"	lea -128(%rsp), %rsp\n"
	LABEL(any1)
	"	pushfq\n"
	LABEL(any2)
	"	push %rcx\n"
	LABEL(any3)
	"	cmp $512, %eax\n"
	"	jae lh__straight\n"
	"	mov %eax, %ecx\n"
	"	mov lh__intercept_state(%rip), %r11\n"
	"	mov " O(LH_S_TABLE) "(%r11,%rcx,8), %rcx\n"
	"	lea lh__stub_slow(%rip), %r11\n"
	"	cmp %rcx, %r11\n"
	"	je lh__at_slow3\n"
	"	lea lh__stub_counted(%rip), %r11\n"
	"	cmp %rcx, %r11\n"
	"	jne lh__straight\n"
	"	mov lh__intercept_state(%rip), %r11\n"
	"	lock incq " O(LH_S_STRAIGHT) "(%r11)\n"
	"lh__straight:\n"
	"	mov (%rsp), %rcx\n"
	LABEL(straight1)
	"	lea 8(%rsp), %rsp\n"
	LABEL(straight2)
	"	popfq\n"
	LABEL(straight3)
	"	lea 128(%rsp), %rsp\n"
	LABEL(straight4)
	"	jmp lh__stub_fast\n"
	LABEL(straight_end)

	/* Somebody wants it. */
	"	.p2align 6\n"
	GLOBAL(lh__stub_slow)
	"	lea -128(%rsp), %rsp\n"
	LABEL(slow1)
	"	pushfq\n"
	LABEL(slow2)
	"	push %rcx\n"
	LABEL(slow3)
	"	mov lh__intercept_state(%rip), %r11\n"
	"	rdgsbase %rcx\n"
	"	sub " O(LH_S_ARENA) "(%r11), %rcx\n"
	"	cmp " O(LH_S_ARENA_SIZE) "(%r11), %rcx\n"
	"	jae lh__foreign\n"
	"	add " O(LH_S_ARENA) "(%r11), %rcx\n"
	"lh__found:\n"
	"	cmpl $0, " O(LH_T_IN_AGENT) "(%rcx)\n"
	"	jne lh__straight\n" /* the hook itself, through libc */
	SAVE(rax, O(LH_T_RAX)) SAVE(rbx, O(LH_T_RBX)) SAVE(rdx, O(LH_T_RDX)) SAVE(rsi, O(LH_T_RSI))
	SAVE(rdi, O(LH_T_RDI)) SAVE(rbp, O(LH_T_RBP)) SAVE(r8, O(LH_T_R8)) SAVE(r9, O(LH_T_R8 + 8))
	SAVE(r10, O(LH_T_R8 + 16)) SAVE(r12, O(LH_T_R12)) SAVE(r13, O(LH_T_R12 + 8))
	SAVE(r14, O(LH_T_R12 + 16)) SAVE(r15, O(LH_T_R12 + 24))
	"	mov (%rsp), %r11\n"
	SAVE(r11, O(LH_T_RIP))
	"	mov 8(%rsp), %r11\n"
	SAVE(r11, O(LH_T_FLAGS))
	"	lea 144(%rsp), %r11\n"
	SAVE(r11, O(LH_T_RSP))
	"	movq $0, " O(LH_T_RCX) "(%rcx)\n"
	"	movl $1, " O(LH_T_IN_AGENT) "(%rcx)\n"
	/* From here on the registers are safe and signals are deferred; rcx = the thread's record. */
	GLOBAL(lh__stub_saved)
	"	cld\n"
	"	mov %rcx, %rbx\n"
	"	lea " O(LH_T_HOOK_TOP) "(%rbx), %rsp\n"
	"	mov lh__intercept_state(%rip), %rcx\n"
	"	mov " O(LH_S_XSAVE_MASK) "(%rcx), %eax\n"
	"	xor %edx, %edx\n"
	"	cmpl $0, " O(LH_S_XSAVEC) "(%rcx)\n"
	"	je 1f\n"
	"	xsavec " O(LH_T_XSAVE) "(%rbx)\n"
	"	jmp 2f\n"
	"1:	xsave " O(LH_T_XSAVE) "(%rbx)\n"
	"2:	xor %ebp, %ebp\n"
	"	mov %rbx, %rdi\n"
	"	call lh__enter\n"
	"lh__leave:\n"
	"	mov lh__intercept_state(%rip), %rcx\n"
	"	mov " O(LH_S_XSAVE_MASK) "(%rcx), %eax\n"
	"	xor %edx, %edx\n"
	"	xrstor " O(LH_T_XSAVE) "(%rbx)\n"
	LABEL(exit_begin)
	"	movl $0, " O(LH_T_IN_AGENT) "(%rbx)\n"
	LABEL(exit_out)
	"	cmpl $0, " O(LH_T_DEFERRED) "(%rbx)\n"
	"	jne lh__at_exit_bell\n"
	"	mov %rbx, %r11\n"
	LOAD(rax, O(LH_T_RAX)) LOAD(rbx, O(LH_T_RBX)) LOAD(rdx, O(LH_T_RDX)) LOAD(rsi, O(LH_T_RSI))
	LOAD(rdi, O(LH_T_RDI)) LOAD(rbp, O(LH_T_RBP)) LOAD(r8, O(LH_T_R8)) LOAD(r9, O(LH_T_R8 + 8))
	LOAD(r10, O(LH_T_R8 + 16)) LOAD(r12, O(LH_T_R12)) LOAD(r13, O(LH_T_R12 + 8))
	LOAD(r14, O(LH_T_R12 + 16)) LOAD(r15, O(LH_T_R12 + 24)) LOAD(rcx, O(LH_T_RIP))
	"	lea " O(LH_T_FLAGS) "(%r11), %rsp\n"
	"	popfq\n"
	LOAD(rsp, O(LH_T_RSP))
	LOAD(r11, O(LH_T_FLAGS))
	"	jmp *%rcx\n"
	/* A signal waits. hlt raises SIGSEGV whatever the program has forbidden; its handler delivers. */
	LABEL(exit_bell)
	"	hlt\n"
	LABEL(exit_end)

	/*
	 * gs is the program's: find the record by thread number. On the stack: rdx, rax, return address,
	 * flags.
	 */
	"lh__foreign:\n"
	"	push %rax\n"
	LABEL(foreign1)
	"	push %rdx\n"
	LABEL(foreign2)
	"	mov $186, %eax\n"
	"	syscall\n"
	"	mov lh__intercept_state(%rip), %r11\n"
	"	mov " O(LH_S_USED) "(%r11), %rdx\n"
	"	mov " O(LH_S_ARENA) "(%r11), %rcx\n"
	"1:	test %rdx, %rdx\n"
	"	je 3f\n"
	"	cmp %eax, " O(LH_T_TID) "(%rcx)\n"
	"	je 2f\n"
	"	add $" O(LH_T_SIZE) ", %rcx\n"
	"	dec %rdx\n"
	"	jmp 1b\n"
	"2:	mov 8(%rsp), %rax\n"
	"	mov (%rsp), %rdx\n"
	"	lea 16(%rsp), %rsp\n"
	LABEL(foreign3)
	"	jmp lh__found\n"
	LABEL(foreign4)
	"3:	mov 8(%rsp), %rax\n"
	"	mov (%rsp), %rdx\n"
	"	lea 16(%rsp), %rsp\n"
	LABEL(foreign5)
	"	jmp lh__straight\n"
	LABEL(foreign_end)

	GLOBAL(lh__slow_exit)
	"	mov %rdi, %rbx\n"
	"	lea " O(LH_T_HOOK_TOP) "(%rbx), %rsp\n"
	"	jmp lh__leave\n"

	/* long lh__program_syscall(thread, nr, argument): does not start if a signal has been deferred. */
	"	.p2align 4\n"
	GLOBAL(lh__program_syscall)
	"	push %rbx\n"
	"	mov %rdi, %rbx\n"
	"	mov %rsi, %rax\n"
	"	mov %rdx, %r11\n"
	"	mov (%r11), %rdi\n"
	"	mov 8(%r11), %rsi\n"
	"	mov 16(%r11), %rdx\n"
	"	mov 24(%r11), %r10\n"
	"	mov 32(%r11), %r8\n"
	"	mov 40(%r11), %r9\n"
	LABEL(call_begin)
	"	cmpl $0, " O(LH_T_DEFERRED) "(%rbx)\n"
	"	jne 1f\n"
	LABEL(call)
	"	syscall\n"
	LABEL(call_end)
	"	pop %rbx\n"
	"	ret\n"
	"1:	mov $-512, %rax\n"
	"	jmp lh__at_call_end\n"

	/* long lh__clone_raw(nr, argument, child): the child starts on its own record's stack. */
	GLOBAL(lh__clone_raw)
	"	push %rbx\n"
	"	mov %rdx, %rbx\n"
	"	mov %rdi, %rax\n"
	"	mov %rsi, %r11\n"
	"	mov (%r11), %rdi\n"
	"	mov 8(%r11), %rsi\n"
	"	mov 16(%r11), %rdx\n"
	"	mov 24(%r11), %r10\n"
	"	mov 32(%r11), %r8\n"
	"	syscall\n"
	"	test %rax, %rax\n"
	"	je 1f\n"
	"	pop %rbx\n"
	"	ret\n"
	"1:	xor %ebp, %ebp\n"
	"	cmpl $0, " O(LH_T_SETS_GS) "(%rbx)\n"
	"	je 2f\n"
	"	wrgsbase %rbx\n"
	"2:	lea " O(LH_T_HOOK_TOP) "(%rbx), %rsp\n"
	"	mov %rbx, %rdi\n"
	"	call lh__thread_begin\n"
	"	jmp lh__leave\n"

	/* lh__thread_leave(thread, status): the record may be another's as soon as state is 0. */
	GLOBAL(lh__thread_leave)
	"	mov %rdi, %rcx\n"
	"	mov %esi, %edi\n"
	"	mov $60, %eax\n"
	"	movl $0, " O(LH_T_TID) "(%rcx)\n"
	"	movl $0, " O(LH_T_STATE) "(%rcx)\n"
	"	syscall\n"
	"	hlt\n"

	GLOBAL(lh__sigreturn_final)
	"	mov %rdi, %rbx\n"
	LABEL(final_begin)
	"	movl $0, " O(LH_T_IN_AGENT) "(%rbx)\n"
	LABEL(final_out)
	"	cmpl $0, " O(LH_T_DEFERRED) "(%rbx)\n"
	"	jne lh__at_final_bell\n"
	"	lea " O(LH_T_FRAME + 8) "(%rbx), %rsp\n"
	"	mov $15, %eax\n"
	"	syscall\n"
	LABEL(final_bell)
	"	hlt\n"
	LABEL(final_end)

	/* The module's own handlers return by this. */
	GLOBAL(lh__kernel_restorer)
	"	mov $15, %eax\n"
	"	syscall\n"
	"	hlt\n"

	/* The program's handlers return by this. The unwinding rules say: a signal frame lies at rsp. */
	"	.cfi_startproc\n"
	"	.cfi_signal_frame\n"
	"	.macro lh_at register, offset\n" /* DW_CFA_expression register, DW_OP_breg7 offset */
	"	.cfi_escape 0x10, \\register, 3, 0x77, ((\\offset) & 0x7f) | 0x80, (\\offset) >> 7\n"
	"	.endm\n"
	"	.cfi_escape 0x0f, 4, 0x77, 0xa0, 0x01, 0x06\n" /* the frame's rsp: 40 + 15 * 8 = 160 */
	"	lh_at 8, 40\n	lh_at 9, 48\n	lh_at 10, 56\n	lh_at 11, 64\n	lh_at 12, 72\n"
	"	lh_at 13, 80\n	lh_at 14, 88\n	lh_at 15, 96\n	lh_at 5, 104\n	lh_at 4, 112\n"
	"	lh_at 6, 120\n	lh_at 3, 128\n	lh_at 1, 136\n	lh_at 0, 144\n	lh_at 2, 152\n"
	"	lh_at 7, 160\n	lh_at 16, 168\n"
	"	nop\n" /* unwinders look up the address before */
	GLOBAL(lh__restorer)
	"	mov lh__intercept_state(%rip), %rax\n"
	"	rdgsbase %rdi\n"
	"	sub " O(LH_S_ARENA) "(%rax), %rdi\n"
	"	cmp " O(LH_S_ARENA_SIZE) "(%rax), %rdi\n"
	"	jae 2f\n"
	"	add " O(LH_S_ARENA) "(%rax), %rdi\n"
	"1:	mov %rsp, %rsi\n"
	"	movl $1, " O(LH_T_IN_AGENT) "(%rdi)\n"
	"	cld\n"
	"	lea " O(LH_T_HOOK_TOP) "(%rdi), %rsp\n"
	"	call lh__restored\n"
	"	hlt\n"
	"2:	mov %rsp, %rbx\n"
	"	and $-16, %rsp\n"
	"	call lh__thread_current\n"
	"	mov %rax, %rdi\n"
	"	mov %rbx, %rsp\n"
	"	jmp 1b\n"
	"	.cfi_endproc\n"

	/* int copy_raw(to, from, size) */
	GLOBAL(lh__copy_raw)
	"	mov %rdx, %rcx\n"
	LABEL(copy)
	"	rep movsb\n"
	LABEL(copied)
	"	xor %eax, %eax\n"
	"	ret\n"
	LABEL(copy_fault)
	"	mov $-14, %eax\n"
	"	ret\n"

	/* int swap_raw(at, seen, wanted) */
	GLOBAL(lh__swap_raw)
	"	mov (%rsi), %eax\n"
	LABEL(swap)
	"	lock cmpxchg %edx, (%rdi)\n"
	LABEL(swapped)
	"	mov %eax, (%rsi)\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"	.popsection\n");

#define AT(name) extern char lh__at_##name[];
AT(counted1) AT(counted2) AT(counted3) AT(counted4) AT(fast1) AT(fast_call) AT(fast_after) AT(fast2) AT(fast3)
AT(fast_end) AT(net_after) AT(net_end) AT(int80_after) AT(int80_end) AT(any1) AT(any2) AT(any3) AT(straight1)
AT(straight2) AT(straight3) AT(straight4) AT(straight_end) AT(slow1) AT(slow2) AT(slow3) AT(exit_begin)
AT(exit_out) AT(exit_bell) AT(exit_end) AT(foreign1) AT(foreign2) AT(foreign3) AT(foreign4) AT(foreign5)
AT(foreign_end) AT(call_begin) AT(call) AT(call_end)
AT(final_begin) AT(final_out) AT(final_bell) AT(final_end)
AT(copy) AT(copied) AT(copy_fault) AT(swap) AT(swapped)
#undef AT

int lh__copy_raw(void *to, const void *from, size_t size);
int lh__swap_raw(uint32_t *at, uint32_t *seen, uint32_t wanted);
/* clang-format on */

int lh__intercept_copy(void *to, const void *from, size_t size)
{
	return lh__copy_raw(to, from, size);
}

int lh__intercept_swap(uint32_t *at, uint32_t *seen, uint32_t wanted)
{
	return lh__swap_raw(at, seen, wanted);
}

int lh__copy_fixup(struct lh_ucontext *context)
{
	uint64_t rip = (uint64_t)context->machine.gregs[REG_RIP];

	if ((rip < (uint64_t)lh__at_copy || rip >= (uint64_t)lh__at_copied) &&
	    (rip < (uint64_t)lh__at_swap || rip >= (uint64_t)lh__at_swapped))
		return 0;
	context->machine.gregs[REG_RIP] = (greg_t)lh__at_copy_fault;
	return 1;
}

int lh__before_program_call(uint64_t rip)
{
	return rip >= (uint64_t)lh__at_call_begin && rip <= (uint64_t)lh__at_call;
}

int lh__after_program_call(uint64_t rip)
{
	return rip == (uint64_t)lh__at_call_end;
}

uint64_t lh__program_call_end(void)
{
	return (uint64_t)lh__at_call_end;
}

int lh__is_bell(uint64_t rip)
{
	return rip == (uint64_t)lh__at_exit_bell ? 1 : rip == (uint64_t)lh__at_final_bell ? 2 : 0;
}

/* What a stretch of code has done to the program's context. */
enum stretch {
	NOT_BEGUN = 1, /* return address in rcx */
	ENDED,         /* the same, after the call */
	RETURN_PUSHED, /* return address at rsp, call not begun */
	RETURN_ENDED,  /* return address at rsp, call ended */
	FLAGS_PUSHED,  /* flags at rsp, return address in rcx, not begun */
	BOTH_PUSHED,   /* return address and flags at rsp, not begun */
	BOTH_AND_RAX,  /* rax in place, but pushed before these */
	BOTH_AND_RDX,  /* rdx and rax at rsp before these */
	FROM_RECORD,   /* all in the thread's record */
	FROM_FRAME     /* all in the frame for rt_sigreturn */
};

static const struct {
	const char *start, *end;
	enum stretch is;
	int below; /* bytes by which rsp is below the program's */
} stretches[] = {
	{ lh__stub_counted, lh__at_counted1, NOT_BEGUN, 0 },
	{ lh__at_counted1, lh__at_counted2, NOT_BEGUN, 128 },
	{ lh__at_counted2, lh__at_counted4, FLAGS_PUSHED, 136 },
	{ lh__at_counted4, lh__stub_fast, NOT_BEGUN, 128 },
	{ lh__stub_fast, lh__at_fast1, NOT_BEGUN, 0 },
	{ lh__at_fast1, lh__at_fast_call, NOT_BEGUN, 128 },
	{ lh__at_fast_call, lh__at_fast_after, RETURN_PUSHED, 136 },
	{ lh__at_fast_after, lh__at_fast2, RETURN_ENDED, 136 },
	{ lh__at_fast2, lh__at_fast3, ENDED, 128 },
	{ lh__at_fast3, lh__at_fast_end, ENDED, 0 },
	{ lh__stub_net, lh__at_net_after, RETURN_PUSHED, 136 },
	{ lh__at_net_after, lh__at_net_end, RETURN_ENDED, 136 },
	{ lh__stub_int80, lh__at_int80_after, RETURN_PUSHED, 136 },
	{ lh__at_int80_after, lh__at_int80_end, RETURN_ENDED, 136 },
	{ lh__stub_any, lh__at_any1, NOT_BEGUN, 0 },
	{ lh__at_any1, lh__at_any2, NOT_BEGUN, 128 },
	{ lh__at_any2, lh__at_any3, NOT_BEGUN, 136 },
	{ lh__at_any3, lh__at_straight2, BOTH_PUSHED, 144 },
	{ lh__at_straight2, lh__at_straight3, FLAGS_PUSHED, 136 },
	{ lh__at_straight3, lh__at_straight4, NOT_BEGUN, 128 },
	{ lh__at_straight4, lh__at_straight_end, NOT_BEGUN, 0 },
	{ lh__stub_slow, lh__at_slow1, NOT_BEGUN, 0 },
	{ lh__at_slow1, lh__at_slow2, NOT_BEGUN, 128 },
	{ lh__at_slow2, lh__at_slow3, NOT_BEGUN, 136 },
	{ lh__at_slow3, lh__stub_saved, BOTH_PUSHED, 144 },
	{ lh__at_exit_begin, lh__at_exit_end, FROM_RECORD, 0 },
	{ lh__at_exit_end, lh__at_foreign1, BOTH_PUSHED, 144 },
	{ lh__at_foreign1, lh__at_foreign2, BOTH_AND_RAX, 152 },
	{ lh__at_foreign2, lh__at_foreign3, BOTH_AND_RDX, 160 },
	{ lh__at_foreign3, lh__at_foreign4, BOTH_PUSHED, 144 },
	{ lh__at_foreign4, lh__at_foreign5, BOTH_AND_RDX, 160 },
	{ lh__at_foreign5, lh__at_foreign_end, BOTH_PUSHED, 144 },
	{ lh__at_final_begin, lh__at_final_end, FROM_FRAME, 0 },
};

static enum stretch stretch_of(uint64_t rip, int *below)
{
	if (rip < (uint64_t)__start_lh_syscall || rip >= (uint64_t)__stop_lh_syscall)
		return 0;
	for (size_t i = 0; i < sizeof stretches / sizeof *stretches; i++)
		if (rip >= (uint64_t)stretches[i].start && rip < (uint64_t)stretches[i].end)
			return *below = stretches[i].below, stretches[i].is;
	return 0;
}

static void from_record(const struct lh_thread *thread, greg_t *gregs)
{
	gregs[REG_RAX] = (greg_t)thread->regs.rax;
	gregs[REG_RBX] = (greg_t)thread->regs.rbx;
	gregs[REG_RCX] = (greg_t)thread->regs.rip;
	gregs[REG_RDX] = (greg_t)thread->regs.rdx;
	gregs[REG_RSI] = (greg_t)thread->regs.rsi;
	gregs[REG_RDI] = (greg_t)thread->regs.rdi;
	gregs[REG_RBP] = (greg_t)thread->regs.rbp;
	gregs[REG_RSP] = (greg_t)thread->regs.rsp;
	gregs[REG_R8] = (greg_t)thread->regs.r8;
	gregs[REG_R9] = (greg_t)thread->regs.r9;
	gregs[REG_R10] = (greg_t)thread->regs.r10;
	gregs[REG_R11] = (greg_t)thread->regs.flags;
	gregs[REG_R12] = (greg_t)thread->regs.r12;
	gregs[REG_R13] = (greg_t)thread->regs.r13;
	gregs[REG_R14] = (greg_t)thread->regs.r14;
	gregs[REG_R15] = (greg_t)thread->regs.r15;
	gregs[REG_RIP] = (greg_t)thread->regs.rip;
	gregs[REG_EFL] = (greg_t)thread->regs.flags;
}

static void from_frame(struct lh_thread *thread, struct lh_ucontext *context)
{
	struct lh_frame *frame = (struct lh_frame *)((char *)thread + LH_T_FRAME);

	for (int i = 0; i < REG_CSGSFS; i++)
		context->machine.gregs[i] = frame->context.machine.gregs[i];
	context->machine.fpregs = frame->context.machine.fpregs;
	context->flags = frame->context.flags;
	context->mask = frame->context.mask;
}

void lh__normalise(struct lh_thread *thread, struct lh_ucontext *context)
{
	greg_t *gregs = context->machine.gregs;
	int below = 0;
	enum stretch is = stretch_of((uint64_t)gregs[REG_RIP], &below);
	const greg_t *stack = (const greg_t *)gregs[REG_RSP];

	if (is == 0)
		return;
	if (is == FROM_RECORD)
		return from_record(thread, gregs);
	if (is == FROM_FRAME)
		return from_frame(thread, context);
	if (is == BOTH_AND_RDX) {
		gregs[REG_RDX] = stack[0];
		gregs[REG_RAX] = stack[1];
		stack += 2;
	} else if (is == BOTH_AND_RAX) {
		stack += 1;
	}
	if (is == FLAGS_PUSHED)
		gregs[REG_EFL] = stack[0];
	else if (is >= BOTH_PUSHED)
		gregs[REG_EFL] = stack[1];
	if (is == RETURN_PUSHED || is == RETURN_ENDED || is >= BOTH_PUSHED)
		gregs[REG_RCX] = stack[0];
	gregs[REG_RIP] = gregs[REG_RCX] - (is == ENDED || is == RETURN_ENDED ? 0 : 2);
	gregs[REG_RSP] += below;
}
