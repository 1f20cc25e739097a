/*
 * vectors.S - vector registers to memory and back, without xsave: the 16 of SSE, and, where there is AVX-512,
 * the 16 above and the masks. An area as xsave writes it, whose head (bytes 512 to 575) must stay as it is.
 */
	.macro	function name
	.globl	\name
	.hidden	\name
	.type	\name, @function
\name:
	.endm

	.text
	.p2align 4

	/* rdi: the area; sil: whether there is AVX-512 */
	function lh__vectors_put_aside
	.irp	i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	movups	%xmm\i, (16 * \i)(%rdi)
	.endr
	test	%sil, %sil
	jz	1f
	.irp	i, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64 %zmm\i, (640 + 64 * (\i - 16))(%rdi)
	.endr
	.irp	i, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq	%k\i, (1664 + 8 * \i)(%rdi)
	.endr
1:	ret
	.size	lh__vectors_put_aside, . - lh__vectors_put_aside

	function lh__vectors_take_back
	.irp	i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	movups	(16 * \i)(%rdi), %xmm\i
	.endr
	test	%sil, %sil
	jz	1f
	.irp	i, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64 (640 + 64 * (\i - 16))(%rdi), %zmm\i
	.endr
	.irp	i, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq	(1664 + 8 * \i)(%rdi), %k\i
	.endr
1:	ret
	.size	lh__vectors_take_back, . - lh__vectors_take_back

	.section .note.GNU-stack, "", @progbits
