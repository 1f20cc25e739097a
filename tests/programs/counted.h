/*
 * counted.h - loops of which it is known what one round loads and stores, for tests of linehome count.
 *
 * What a case may use: r14 is a buffer of three pages, aligned to a page, all of whose bytes are 1 at first;
 * rax, rbx, rcx, rdx, rsi, rdi and the vector registers. Columns: name; what the processor must have; the
 * code; then instructions, loads, stores, bytes loaded, bytes stored, and lines beyond one for each access
 * that were loaded and stored. Two instructions that make the loop are not among them.
 *
 * In the cases fault and fault_in_string an instruction raises SIGSEGV. A handler steps over it, and is
 * counted with it: two instructions, two loads and a store of 8 bytes. Behind the buffer nothing can be
 * touched.
 */
#ifndef COUNTED_H
#define COUNTED_H

/* clang-format off */
#define COUNTED_CASES(X) \
	X(load1, "", \
	  "movb 63(%r14), %al", \
	  1, 1, 0, 1, 0, 0, 0) \
	X(load2, "", \
	  "movzwl 62(%r14), %eax", \
	  1, 1, 0, 2, 0, 0, 0) \
	X(load4, "", \
	  "movl (%r14), %eax", \
	  1, 1, 0, 4, 0, 0, 0) \
	X(load8, "", \
	  "movq 56(%r14), %rax", \
	  1, 1, 0, 8, 0, 0, 0) \
	X(load_across, "", \
	  "movq 57(%r14), %rax", \
	  1, 1, 0, 8, 0, 1, 0) \
	X(load_unaligned, "", \
	  "movq 3(%r14), %rax", \
	  1, 1, 0, 8, 0, 0, 0) \
	X(load_page_across, "", \
	  "movl 4094(%r14), %eax", \
	  1, 1, 0, 4, 0, 1, 0) \
	X(load_fs, "", \
	  "movq %fs:0, %rax", \
	  1, 1, 0, 8, 0, 0, 0) \
	X(store1, "", \
	  "movb $1, 5(%r14)", \
	  1, 0, 1, 0, 1, 0, 0) \
	X(store8, "", \
	  "movq $1, 8(%r14)", \
	  1, 0, 1, 0, 8, 0, 0) \
	X(store_across, "", \
	  "movl %eax, 61(%r14)", \
	  1, 0, 1, 0, 4, 0, 1) \
	X(read_modify_write, "", \
	  "addq $1, 8(%r14)", \
	  1, 1, 1, 8, 8, 0, 0) \
	X(locked, "", \
	  "lock xaddl %eax, 126(%r14)", \
	  1, 1, 1, 4, 4, 1, 1) \
	X(exchange, "", \
	  "xchgq %rax, (%r14)", \
	  1, 1, 1, 8, 8, 0, 0) \
	X(compare, "", \
	  "cmpl $3, (%r14)", \
	  1, 1, 0, 4, 0, 0, 0) \
	X(indexed, "", \
	  "movl $2, %ebx; movl 8(%r14,%rbx,8), %eax", \
	  2, 1, 0, 4, 0, 0, 0) \
	X(push_pop, "", \
	  "pushq %rax; popq %rbx", \
	  2, 1, 1, 8, 8, 0, 0) \
	X(push_memory, "", \
	  "pushq (%r14); popq 8(%r14)", \
	  2, 2, 2, 16, 16, 0, 0) \
	X(push_flags, "", \
	  "pushfq; popfq", \
	  2, 1, 1, 8, 8, 0, 0) \
	X(enter_leave, "", \
	  "movq %rbp, %rbx; enter $16, $0; leave; movq %rbx, %rbp", \
	  4, 1, 1, 8, 8, 0, 0) \
	X(call_return, "", \
	  "call 2f; jmp 3f; 2: ret; 3:", \
	  3, 1, 1, 8, 8, 0, 0) \
	X(call_memory, "", \
	  "leaq 2f(%rip), %rax; movq %rax, (%r14); call *(%r14); jmp 3f; 2: ret; 3:", \
	  5, 2, 2, 16, 16, 0, 0) \
	X(jump_memory, "", \
	  "leaq 2f(%rip), %rax; movq %rax, (%r14); jmp *(%r14); 2:", \
	  3, 1, 1, 8, 8, 0, 0) \
	X(string, "", \
	  "movq %r14, %rsi; leaq 64(%r14), %rdi; movsq; lodsb; stosl; cmpsw; scasb", \
	  7, 5, 2, 14, 12, 0, 0) \
	X(rep_movsb, "", \
	  "leaq 10(%r14), %rsi; leaq 2048(%r14), %rdi; movl $100, %ecx; rep movsb", \
	  4, 1, 1, 100, 100, 1, 1) \
	X(rep_movsq_down, "", \
	  "leaq 56(%r14), %rsi; leaq 2104(%r14), %rdi; movl $8, %ecx; std; rep movsq; cld", \
	  6, 1, 1, 64, 64, 0, 0) \
	X(rep_stosq, "", \
	  "leaq 2108(%r14), %rdi; movl $4, %ecx; rep stosq", \
	  3, 0, 1, 0, 32, 0, 1) \
	X(rep_lodsw, "", \
	  "movq %r14, %rsi; movl $64, %ecx; rep lodsw", \
	  3, 1, 0, 128, 0, 1, 0) \
	X(rep_none, "", \
	  "movq %r14, %rsi; movq %r14, %rdi; xorl %ecx, %ecx; rep movsb", \
	  4, 0, 0, 0, 0, 0, 0) \
	X(rep_compare, "", \
	  "movb $2, 1030(%r14); leaq 1024(%r14), %rsi; leaq 1152(%r14), %rdi; " \
	  "movl $99, %ecx; repe cmpsb; movb $1, 1030(%r14)", \
	  6, 2, 2, 14, 2, 0, 0) \
	X(rep_scan, "", \
	  "movb $3, 1100(%r14); leaq 1080(%r14), %rdi; movb $3, %al; " \
	  "movl $99, %ecx; repne scasb; movb $1, 1100(%r14)", \
	  6, 1, 2, 21, 2, 1, 0) \
	X(rep_scan_none, "", \
	  "movq %r14, %rdi; xorl %ecx, %ecx; repne scasb", \
	  3, 0, 0, 0, 0, 0, 0) \
	X(cmpxchg_stores, "", \
	  "movq $5, 16(%r14); movl $5, %eax; movl $7, %ebx; cmpxchgq %rbx, 16(%r14)", \
	  4, 1, 2, 8, 16, 0, 0) \
	X(cmpxchg_does_not, "", \
	  "movq $5, 16(%r14); movl $6, %eax; movl $7, %ebx; lock cmpxchgq %rbx, 16(%r14)", \
	  4, 1, 2, 8, 16, 0, 0) \
	X(cmpxchg16b, "", \
	  "lock cmpxchg16b 32(%r14)", \
	  1, 1, 1, 16, 16, 0, 0) \
	X(nothing, "", \
	  "leaq 60(%r14), %rax; nopw 62(%r14); prefetcht0 (%r14); clflush 128(%r14); lfence", \
	  5, 0, 0, 0, 0, 0, 0) \
	X(stream, "", \
	  "movnti %rax, 8(%r14); sfence", \
	  2, 0, 1, 0, 8, 0, 0) \
	X(bit, "", \
	  "movl $600, %eax; btsl %eax, (%r14)", \
	  2, 1, 1, 4, 4, 0, 0) \
	X(translate, "", \
	  "movq %r14, %rbx; movb $3, %al; xlatb", \
	  3, 1, 0, 1, 0, 0, 0) \
	X(x87, "", \
	  "fldt (%r14); fstpt 60(%r14)", \
	  2, 1, 1, 10, 10, 0, 1) \
	X(sse, "", \
	  "movaps (%r14), %xmm0; movups %xmm0, 56(%r14)", \
	  2, 1, 1, 16, 16, 0, 1) \
	X(sse_part, "", \
	  "movhps 8(%r14), %xmm0; movd %xmm0, (%r14)", \
	  2, 1, 1, 8, 4, 0, 0) \
	X(avx, "avx2", \
	  "vmovdqu 48(%r14), %ymm0; vmovdqa %ymm0, (%r14)", \
	  2, 1, 1, 32, 32, 1, 0) \
	X(avx_mask, "avx2", \
	  "vpcmpeqd %ymm1, %ymm1, %ymm1; vpslldq $12, %ymm1, %ymm1; " \
	  "vpmaskmovd (%r14), %ymm1, %ymm0; vpmaskmovd %ymm0, %ymm1, 52(%r14)", \
	  4, 1, 1, 8, 8, 0, 0) \
	X(avx_gather, "avx2", \
	  "vpxor %ymm1, %ymm1, %ymm1; " \
	  "vpcmpeqd %ymm2, %ymm2, %ymm2; vpgatherdd %ymm2, (%r14,%ymm1,4), %ymm0", \
	  3, 1, 0, 32, 0, 0, 0) \
	X(avx512, "avx512f", \
	  "vmovdqu64 32(%r14), %zmm0; vmovdqa64 %zmm0, (%r14)", \
	  2, 1, 1, 64, 64, 1, 0) \
	X(avx512_mask, "avx512f", \
	  "movl $5, %eax; kmovw %eax, %k1; " \
	  "vmovdqu32 (%r14), %zmm0{%k1}{z}; vmovdqu32 %zmm0, 64(%r14){%k1}", \
	  4, 1, 1, 8, 8, 0, 0) \
	X(avx512_none, "avx512f", \
	  "kxorw %k1, %k1, %k1; vmovdqu32 (%r14), %zmm0{%k1}{z}; vmovdqu32 %zmm0, 64(%r14){%k1}", \
	  3, 0, 0, 0, 0, 0, 0) \
	X(avx512_compress, "avx512f", \
	  "movl $7, %eax; kmovw %eax, %k1; vpcompressd %zmm0, (%r14){%k1}", \
	  3, 0, 1, 0, 12, 0, 0) \
	X(fault, "", \
	  "movl $1, %ebx; movq (%r14), %rax; xorl %edx, %edx; movq (%rdx), %rax; movq %rax, (%r14)", \
	  6, 3, 2, 24, 16, 0, 0) \
	X(fault_in_string, "", \
	  "leaq 12272(%r14), %rdi; movl $32, %ecx; rep stosb; nop", \
	  4, 2, 2, 16, 24, 0, 0)
/* clang-format on */

#endif
