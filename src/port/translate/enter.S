/*
 * enter.S - between the code cache and the translator's own C, and how a thread switches over.
 *
 * A fragment leaves with all registers true, but for rsp, which nobody here writes through: everything is
 * saved in the context that gs leads to, and C runs on a stack of the context's own. The way back restores
 * all and jumps to what C said, which is code in the cache, or the program's own.
 *
 * The functions that switch a thread over have two forms. Called natively they are functions. Reached by
 * translated code they are what the fragment for their address leads to, and go on translated.
 */
#include "port/translate/inside.h"

#define GENERAL(n) %gs:(LH_T_GENERAL + 8 * n)
#define SPILL(n) %gs:(LH_T_SPILL + 8 * n)

	/* Flags that C code is not to find set: down, and traps where an access is not aligned. */
#define DIRECTION 0x400
#define ALIGNMENT 0x40000
#define NO_FLAGS 2

	.macro	outside function
	mov	%rax, GENERAL(0)
	mov	%rcx, GENERAL(1)
	mov	%rdx, GENERAL(2)
	mov	%rbx, GENERAL(3)
	mov	%rsp, GENERAL(4)
	mov	%rbp, GENERAL(5)
	mov	%rsi, GENERAL(6)
	mov	%rdi, GENERAL(7)
	mov	%r8, GENERAL(8)
	mov	%r9, GENERAL(9)
	mov	%r10, GENERAL(10)
	mov	%r11, GENERAL(11)
	mov	%r12, GENERAL(12)
	mov	%r13, GENERAL(13)
	mov	%r14, GENERAL(14)
	mov	%r15, GENERAL(15)
	mov	%gs:LH_T_STACK, %rsp
	pushfq
	push	$0				/* aligned; and the end of the frames */
	cld
	testl	$ALIGNMENT, 8(%rsp)
	jz	1f
	push	$NO_FLAGS
	popfq
1:	xor	%ebp, %ebp
	mov	%gs:LH_T_SELF, %rdi
	call	\function
	jmp	lh__translate_restore
	.endm

	/* The program's return address is on the stack: go on there, translated. */
	.macro	return_translated
	mov	%rax, SPILL(0)
	mov	%rcx, SPILL(1)
	pop	%rax
	mov	%gs:LH_T_TABLE, %rcx
	mov	%ax, %cx
	jmp	*(,%rcx,8)
	.endm

	.macro	function name
	.globl	\name
	.hidden	\name
	.type	\name, @function
\name:
	.endm

	.macro	mark name
	.globl	\name
	.hidden	\name
\name:
	.endm

	.text
	.p2align 4
	.globl	lh__translate_text
	.hidden	lh__translate_text
lh__translate_text:

	/*
	 * The way back, all registers being in the context, flags on its stack. A signal that came before this
	 * is seen here; one that comes after finds all that it needs in the context (held.c).
	 */
	function lh__translate_restore
	cmpq	$0, %gs:LH_T_HELD
	jne	3f
	mark	lh__translate_restored
	pop	%rcx
	popfq
	mov	GENERAL(0), %rax
	mov	GENERAL(1), %rcx
	mov	GENERAL(2), %rdx
	mov	GENERAL(3), %rbx
	mov	GENERAL(4), %rsp
	mov	GENERAL(5), %rbp
	mov	GENERAL(6), %rsi
	mov	GENERAL(7), %rdi
	mov	GENERAL(8), %r8
	mov	GENERAL(9), %r9
	mov	GENERAL(10), %r10
	mov	GENERAL(11), %r11
	mov	GENERAL(12), %r12
	mov	GENERAL(13), %r13
	mov	GENERAL(14), %r14
	mov	GENERAL(15), %r15
	jmp	*%gs:LH_T_RESUME
	mark	lh__translate_restored_end
3:	mov	%gs:LH_T_SELF, %rdi
	call	lh__held_resume
	jmp	lh__translate_restored
	.size	lh__translate_restore, . - lh__translate_restore

	/* The program's address is in the context, all else is true. */
	function lh__translate_enter
	movq	$0, %gs:LH_T_EXIT
	jmp	lh__translate_leave
	mark	lh__translate_enter_end
	.size	lh__translate_enter, . - lh__translate_enter

	/*
	 * A system call of the program's, unless a signal has come; the client may have changed it. rcx is
	 * lost in a call anyway.
	 */
	function lh__translate_make_call
	mov	%gs:LH_T_CHANGED, %rax
	mov	%gs:LH_T_CHANGED + 8, %rdi
	mov	%gs:LH_T_CHANGED + 16, %rsi
	mov	%gs:LH_T_CHANGED + 24, %rdx
	mov	%gs:LH_T_CHANGED + 32, %r10
	mov	%gs:LH_T_CHANGED + 40, %r8
	mov	%gs:LH_T_CHANGED + 48, %r9
	mov	%gs:LH_T_HELD, %rcx
	jrcxz	1f
	lea	lh__translate_enter(%rip), %rcx
	mov	%rcx, %gs:LH_T_AFTER
	jmp	lh__translate_unblock
	mark	lh__translate_making
1:	syscall
	mark	lh__translate_made
	mov	GENERAL(7), %rdi
	mov	GENERAL(6), %rsi
	mov	GENERAL(2), %rdx
	mov	GENERAL(10), %r10
	mov	GENERAL(8), %r8
	mov	GENERAL(9), %r9
	jmp	*%gs:LH_T_AFTER
	mark	lh__translate_made_end
	.size	lh__translate_make_call, . - lh__translate_make_call

	/* Signals were held back; they come behind this system call, if not to the program then to nobody. */
	function lh__translate_unblock
	mov	$14, %eax			/* rt_sigprocmask */
	mov	$2, %edi			/* SIG_SETMASK */
	mov	%gs:LH_T_SELF, %rsi
	lea	LH_T_MASK(%rsi), %rsi
	mov	$0, %edx
	mov	$8, %r10d
	movq	$0, %gs:LH_T_HELD
	syscall
	mov	GENERAL(0), %rax
	mov	GENERAL(1), %rcx
	mov	GENERAL(2), %rdx
	mov	GENERAL(6), %rsi
	mov	GENERAL(7), %rdi
	mov	GENERAL(8), %r8
	mov	GENERAL(9), %r9
	mov	GENERAL(10), %r10
	mov	GENERAL(11), %r11
	jmp	*%gs:LH_T_AFTER
	mark	lh__translate_unblock_end
	.size	lh__translate_unblock, . - lh__translate_unblock

	/* Of a frame that has been prepared: it leads to lh__translate_enter. */
	function lh__translate_sigreturn
	movq	$0, %gs:LH_T_HELD
	mov	$15, %eax
	syscall
	hlt
	.size	lh__translate_sigreturn, . - lh__translate_sigreturn

	/* The thread's end: the context may be another's as soon as its tid is zero. */
	function lh__translate_exit
	movl	$0, %gs:LH_T_TID
	syscall
	hlt
	.size	lh__translate_exit, . - lh__translate_exit

	/* long (long number, const long argument[6], struct lh_translated_thread *child) */
	function lh__translate_clone
	mov	%rdx, %r9
	mov	%rdi, %rax
	mov	%rsi, %rcx
	mov	(%rcx), %rdi
	mov	8(%rcx), %rsi
	mov	16(%rcx), %rdx
	mov	24(%rcx), %r10
	mov	32(%rcx), %r8
	syscall
	test	%rax, %rax
	jz	1f
	ret
1:	mov	LH_T_STACK(%r9), %rsp
	sub	$16, %rsp
	xor	%ebp, %ebp
	mov	%r9, %rdi
	call	lh__clone_begins
	jmp	lh__translate_restore
	.size	lh__translate_clone, . - lh__translate_clone

	/* What the kernel knows as the handler of all signals; on the context's stack for signals. */
	function lh__process_entered
	push	$NO_FLAGS
	popfq
	sub	$8, %rsp
	mov	%rdx, %rcx
	mov	%rsi, %rdx
	mov	%edi, %esi
	mov	%gs:LH_T_SELF, %rdi
	call	lh__signal_entered
	test	%al, %al
	jnz	1f
	add	$16, %rsp
	mov	$15, %eax			/* rt_sigreturn: the kernel's own frame */
	syscall
1:	mov	%gs:LH_T_STACK, %rsp
	sub	$16, %rsp
	jmp	lh__translate_restored
	.size	lh__process_entered, . - lh__process_entered

	/* int (const struct lh_process_options *, struct lh_translator **, struct lh_error *) */
	function lh__process_open
	push	%rbx				/* only aligns */
	call	lh__process_on
	pop	%rbx
	test	%rdx, %rdx
	jnz	1f
	ret
1:	return_translated
	.size	lh__process_open, . - lh__process_open

	/* From a stub; the exit's number is in the context. */
	function lh__translate_leave
	outside	lh__translate_dispatch
	.size	lh__translate_leave, . - lh__translate_leave

	/* From the last entry of the table: rax is the target, rax and rcx are spilled. */
	function lh__translate_leave_indirect
	mov	%rax, %gs:LH_T_TARGET
	mov	SPILL(0), %rax
	mov	SPILL(1), %rcx
	movq	$0, %gs:LH_T_EXIT
	jmp	lh__translate_leave
	.size	lh__translate_leave_indirect, . - lh__translate_leave_indirect

	function lh__translate_leave_call
	outside	lh__translate_call_out
	.size	lh__translate_leave_call, . - lh__translate_leave_call

	/* Its literal says who is asked, and where the thread goes on if it stays translated. */
	function lh__translate_leave_ask
	outside	lh__translate_ask_out
	.size	lh__translate_leave_ask, . - lh__translate_leave_ask

	/* Before a system call that a client sees. */
	function lh__translate_leave_syscall
	outside	lh__translate_syscall_out
	.size	lh__translate_leave_syscall, . - lh__translate_leave_syscall

	function lh__translate_return
	return_translated
	.size	lh__translate_return, . - lh__translate_return

	function lh__translate_leave_state
	outside	lh__translate_state_out
	.size	lh__translate_leave_state, . - lh__translate_leave_state

	/*
	 * Called by a fragment, on the context's stack, with a function on it that touches no vector register.
	 * The program's direction and alignment flags are looked at, since the function wants them clear.
	 */
	function lh__translate_plain
	push	%rax
	push	%rcx
	push	%rdx
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	pushfq
	mov	%gs:LH_T_OWN_AT, %rdi
	mov	%gs:LH_T_A, %rsi
	mov	%gs:LH_T_B, %rdx
	testl	$(DIRECTION | ALIGNMENT), (%rsp)
	jnz	2f
	call	*88(%rsp)
1:	add	$8, %rsp
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%rcx
	pop	%rax
	ret
2:	push	$NO_FLAGS
	popfq
	call	*88(%rsp)
	push	(%rsp)
	popfq
	jmp	1b
	.size	lh__translate_plain, . - lh__translate_plain

	/*
	 * A fragment for a function that is called natively (lh__translate_native): in r11, where no argument
	 * is. The program's return address is on the stack.
	 */
	function lh__translate_native_call
	.cfi_startproc
	push	%rbx				/* only aligns */
	.cfi_adjust_cfa_offset 8
	call	*%r11
	mark	lh__translate_native_back
	pop	%rbx
	.cfi_adjust_cfa_offset -8
	cmpl	$0, %gs:LH_T_DEPTH
	je	1f
	return_translated
1:	ret
	.cfi_endproc
	.size	lh__translate_native_call, . - lh__translate_native_call

	function lh__translate_begin
	push	%rbx				/* only aligns */
	call	lh__translate_on
	pop	%rbx
	test	%rdx, %rdx
	jnz	1f
	ret
1:	return_translated
	.size	lh__translate_begin, . - lh__translate_begin

	/* What such a function does natively, for a thread that is translated. */
	.macro	inside name native
	function \name
	push	%rbx
	call	\native
	pop	%rbx
	return_translated
	.size	\name, . - \name
	.endm

	inside	lh__translate_begin_inside lh__translate_again
	inside	lh__translate_forget_inside lh__translate_forget_now
	inside	lh__translate_is_on_inside lh__translate_is_on
	inside	lh__translate_bytes_inside lh__translate_thread_bytes

	function lh__translate_is_here
	xor	%eax, %eax
	ret
	.size	lh__translate_is_here, . - lh__translate_is_here

	function lh__translate_is_here_inside
	mov	$1, %eax
	return_translated
	.size	lh__translate_is_here_inside, . - lh__translate_is_here_inside

	function lh__translate_end
	jmp	lh__translate_off
	.size	lh__translate_end, . - lh__translate_end

	function lh__translate_end_inside
	decl	%gs:LH_T_DEPTH
	jz	1f
	return_translated
1:	movl	$0, %gs:LH_T_ACTIVE
	ret
	.size	lh__translate_end_inside, . - lh__translate_end_inside

	function lh__translate_forget
	jmp	lh__translate_forget_now
	.size	lh__translate_forget, . - lh__translate_forget

	mark	lh__translate_text_end

	.section .note.GNU-stack, "", @progbits
