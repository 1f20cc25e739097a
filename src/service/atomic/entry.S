/*
 * entry.S - what a bracketed function passes through when it is entered, and when it returns (bracket.h).
 *
 * Both are transparent: every register that may hold an argument or a result is as it was. Of vector
 * registers as much is saved as is in use, which the processor says (xgetbv): upper halves that nobody uses
 * are left alone, since a processor that believes them to be in use is slower.
 */
#define WIDE 1	/* the widths that may be in use: of 32 bytes, */
#define WIDEST 2	/* and of 64 */

	.macro	function name
	.globl	\name
	.hidden	\name
	.type	\name, @function
\name:
	.endm

	/* ecx: which of the widths is in use. Changes rax and rdx. */
	.macro	width
	movzbl	lh__bracket_widths(%rip), %ecx
	test	$4, %ecx			/* the processor can say */
	jz	2f
	mov	$1, %ecx
	xgetbv
	mov	%eax, %ecx
	shr	$2, %ecx
	and	$WIDE, %ecx
	test	$0x40, %eax			/* upper halves of zmm0 to zmm15 */
	jz	2f
	mov	$WIDEST, %ecx
2:
	.endm

	/* Registers 0 to n-1, to or from rsp on, by ecx. */
	.macro	vectors n, save
	test	$WIDEST, %ecx
	jnz	3f
	test	$WIDE, %ecx
	jnz	4f
	each	movups, %xmm, \n, \save
	jmp	5f
3:	each	vmovups, %zmm, \n, \save
	.if	\save
	vzeroupper				/* or what is called pays for each instruction without VEX */
	.endif
	jmp	5f
4:	each	vmovups, %ymm, \n, \save
	.if	\save
	vzeroupper
	.endif
5:
	.endm
	.macro	each operation, register, n, save
	.irp	i, 0, 1, 2, 3, 4, 5, 6, 7
	.if	\i < \n && \save
	\operation \register\i, 64 * \i(%rsp)
	.endif
	.if	\i < \n && !\save
	\operation 64 * \i(%rsp), \register\i
	.endif
	.endr
	.endm

	.text
	.p2align 4

	/*
	 * From a function's stub, which has pushed the bracket: above the way back to the stub lies that, and
	 * then what the function was entered with.
	 */
	function lh__bracket_entry
	.cfi_startproc
	.cfi_def_cfa_offset 24
	push	%rbp
	.cfi_def_cfa_offset 32
	.cfi_offset %rbp, -32
	mov	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	push	%rax
	push	%rcx
	push	%rdx
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	width
	and	$-64, %rsp
	sub	$64 * 9, %rsp
	vectors	8, 1
	mov	%rcx, 64 * 8(%rsp)
	mov	16(%rbp), %rdi
	lea	24(%rbp), %rsi
	call	lh__bracket_enter
	mov	64 * 8(%rsp), %rcx
	vectors	8, 0
	lea	-72(%rbp), %rsp
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%rcx
	pop	%rax
	pop	%rbp
	.cfi_def_cfa %rsp, 24
	ret
	.cfi_endproc
	.size	lh__bracket_entry, . - lh__bracket_entry

	/* In place of a return: the return address is still on the stack, and results are in their registers. */
	function lh__bracket_return
	.cfi_startproc
	push	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	mov	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	push	%rax
	push	%rdx
	width
	and	$-64, %rsp
	sub	$64 * 3, %rsp
	vectors	2, 1
	mov	%rcx, 64 * 2(%rsp)
	call	lh__bracket_leave
	mov	64 * 2(%rsp), %rcx
	mov	%eax, 64 * 2(%rsp)
	vectors	2, 0
	cmpl	$0, 64 * 2(%rsp)
	lea	-16(%rbp), %rsp
	pop	%rdx
	pop	%rax
	pop	%rbp
	.cfi_def_cfa %rsp, 8
	jne	lh__translate_return
	ret
	.cfi_endproc
	.size	lh__bracket_return, . - lh__bracket_return

	.section .note.GNU-stack, "", @progbits
