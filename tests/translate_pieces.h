/*
 * translate_pieces.h - a few instructions each, for random streams: what is rare, what reaches memory in ways
 * that are not plain, and what needs others around it.
 *
 * rbx leads to the data, rdi 1536 bytes further; all other registers hold anything. What is not the same on
 * each run (where an x87 instruction stood, which components are in use) is overwritten.
 */
#ifndef TRANSLATE_PIECES_H
#define TRANSLATE_PIECES_H

#include <stdint.h>

enum { NEEDS_AVX = 1, NEEDS_WIDE = 2, NEEDS_MOVES = 4, NEEDS_NO_STEPS = 8, NEEDS_COMPRESS = 16 };

#define PIECE(needs, code) ".byte " #needs ", 2f - 1f\n1: " code "\n2:\n"

extern const uint8_t stream_pieces[], stream_pieces_end[];

/* Each: what it needs, its length, itself. */
__asm__(".pushsection .rodata\n.globl stream_pieces, stream_pieces_end\nstream_pieces:\n"
        /* strings */
        PIECE(0, "lea 512(%rbx), %rsi; mov $9, %ecx; rep movsw")
                PIECE(0, "lea -3(%rdi), %rsi; mov $33, %ecx; rep movsb")
                        PIECE(0, "lea 5(%rdi), %rsi; mov $21, %ecx; std; rep movsl; cld")
                                PIECE(0, "mov %rdi, %rsi; mov $7, %ecx; cmp %rax, %r8; rep lodsq; setc %dl")
                                        PIECE(0, "mov $9, %ecx; std; rep stosw; cld") PIECE(
						0, "xor %ecx, %ecx; rep stosq; repe cmpsb")
                                                PIECE(0, "mov %rdi, %rsi; mov $5, %ecx; repe cmpsq; seta %al")
                                                        PIECE(0, "mov $40, %ecx; std; repne scasw; cld")
                                                                PIECE(0, "lea 512(%rbx), %rsi; cmp %r8, %r9; "
                                                                         "movsq; stosl; lodsw; setb %al")
        /* the stack */
        PIECE(0, "push %rax; pop 16(%rsp)") PIECE(0, "push (%rsp); pop %rcx; push %rsp; pop %rdx") PIECE(
		0, "pushw %ax; popw (%rdi)") PIECE(0, "push %rcx; push 8(%rdi); pop (%rdi); popq %r9")
                PIECE(0, "mov %rsp, %rbp; enter $16, $3; leave") PIECE(
			0, "enter $24, $1; mov %rax, -8(%rbp); leave")
                        PIECE(8, "pushfq; andl $0x4d5, (%rsp); pushfq; pop %rax; popfq; cld") PIECE(
				0,
				"push %rcx; call 3f; jmp 4f; 3: adc %rax, (%rdi); ret $8; 4: sbb %rcx, %r8")
                                PIECE(0,
                                      "lea 3f(%rip), %rax; push %rax; call *(%rsp); jmp 4f; 3: rcl $1, %r9; "
                                      "ret; 4: pop %rax") PIECE(0, "lea 3f(%rip), %rax; push %rax; cmp %rcx, "
                                                                   "%rdx; ret; ud2; 3: setbe (%rdi)")
                                        PIECE(0, "lea 3f(%rip), %rax; cmp %rcx, %rdx; jmp *%rax; ud2; 3: adc "
                                                 "$0, %r8")
                                                PIECE(0, "lea 3f(%rip), %rax; mov %rax, (%rdi); add %rcx, "
                                                         "%rdx; jmp *(%rdi); ud2; 3: sbb %r9, %r9")
        /* flags that live on elsewhere */
        PIECE(0, "mov $3, %ecx; 3: adc %rax, (%rdi); loop 3b; seto %dl") PIECE(
		0, "mov $4, %ecx; 3: sbb %r8, 8(%rdi); loopne 3b; setc %dl")
                PIECE(0, "mov $4, %ecx; 3: add %r9, 16(%rdi); loope 3b; sets 1(%rdi)") PIECE(
			0, "and $1, %ecx; cmp %rax, %r8; jrcxz 3f; adcq $1, (%rdi); 3: setg %dl")
                        PIECE(0, "shl $32, %rcx; stc; jecxz 3f; ud2; 3: adc %rax, %rax") PIECE(
				0, "cmp %rax, %r8; jmp 3f; 4: jb 5f; incq (%rdi); jmp 5f; 3: jmp 4b; 5: adc "
				   "$0, %r9")
                                PIECE(0,
                                      "bt %ecx, %eax; call 3f; jmp 4f; 3: rcrq $1, (%rdi); ret; 4: setc %dl")
        /* bits of memory, by a register */
        PIECE(0, "movzwl %cx, %eax; and $0x3fff, %eax; bts %rax, 256(%rbx)")
                PIECE(0, "movsbq %cl, %rax; btr %rax, 1024(%rbx); setc %dl")
                        PIECE(0, "movsbl %dl, %eax; lock btc %eax, (%rdi)")
                                PIECE(0, "movsbw %dl, %ax; bt %ax, (%rdi); adc $0, %r8")
        /* two words, and 64 bytes */
        PIECE(0, "cmpxchg16b 64(%rbx); setz %al")
                PIECE(0, "mov 64(%rbx), %rax; mov 72(%rbx), %rdx; lock cmpxchg16b 64(%rbx); setz %cl")
                        PIECE(0, "mov (%rdi), %eax; mov 4(%rdi), %edx; lock cmpxchg8b (%rdi); adc $0, %r8")
                                PIECE(4, "movdir64b 64(%rbx), %rdi; movdiri %rax, 64(%rdi)")
        /* past the caches, and parts of vectors */
        PIECE(0, "movntps %xmm3, (%rdi); movntpd %xmm1, 64(%rdi); movntdqa (%rdi), %xmm7") PIECE(
		0, "movq (%rdi), %mm1; movntq %mm1, 8(%rdi); emms")
                PIECE(0, "movq 32(%rbx), %mm2; movq 8(%rbx), %mm3; maskmovq %mm2, %mm3; emms") PIECE(
			0, "maskmovdqu %xmm5, %xmm6") PIECE(0,
                                                            "movhps %xmm1, 3(%rdi); movlpd %xmm2, 17(%rdi); "
                                                            "movss %xmm3, 31(%rdi); movsd %xmm4, 61(%rdi)")
                        PIECE(0, "pextrb $3, %xmm1, 1(%rdi); pextrw $2, %xmm2, 5(%rdi); pextrq $1, %xmm3, "
                                 "9(%rdi)") PIECE(0, "extractps $2, %xmm4, 63(%rdi); pinsrb $5, 7(%rdi), "
                                                     "%xmm4; movlhps %xmm4, %xmm5")
                                PIECE(1,
                                      "vextractf128 $1, %ymm3, 49(%rdi); vmovntdq %ymm4, 128(%rdi); "
                                      "vbroadcastsd 3(%rdi), %ymm7") PIECE(1, "vmaskmovps %ymm3, %ymm4, "
                                                                              "5(%rdi); vpmaskmovq 64(%rdi), "
                                                                              "%ymm5, %ymm6")
                                        PIECE(1, "vpmaskmovd %xmm6, %xmm7, 33(%rdi); cmp %rax, %r8; "
                                                 "vcvtps2ph $0, %ymm3, 1(%rdi); setb %dl")
                                                PIECE(1, "vpsrld $24, %ymm3, %ymm1; vmovdqa %ymm4, %ymm2; "
                                                         "vpgatherdd %ymm2, (%rbx,%ymm1,4), %ymm0")
                                                        PIECE(1, "vpsrlq $56, %ymm5, %ymm1; vmovdqa %ymm6, "
                                                                 "%ymm2; "
                                                                 "vgatherqpd %ymm2, 9(%rbx,%ymm1,8), %ymm0")
                                                                PIECE(1, "vpsrld $25, %xmm5, %xmm1; vmovdqa "
                                                                         "%ymm7, %ymm2; "
                                                                         "vpgatherdq %ymm2, (%rdi,%xmm1,8), "
                                                                         "%ymm8")
        /* masks */
        PIECE(2, "vpsrld $24, %zmm3, %zmm1; kmovw %ecx, %k1; vpscatterdd %zmm4, (%rbx,%zmm1,4){%k1}") PIECE(
		2, "vpsrlq $56, %zmm3, %zmm1; kmovw %edx, %k2; vscatterqpd %zmm5, 7(%rbx,%zmm1,8){%k2}")
                PIECE(2, "vpsrlq $56, %zmm5, %zmm1; kmovw %eax, %k3; vpscatterqd %ymm4, (%rbx,%zmm1,4){%k3}")
                        PIECE(2, "vpsrld $24, %zmm3, %zmm1; kmovw %ecx, %k1; vpgatherdd (%rbx,%zmm1,4), "
                                 "%zmm9{%k1}") PIECE(2, "kmovq %rax, %k1; vmovdqu8 %zmm3, 5(%rdi){%k1}; "
                                                        "vmovdqu16 64(%rdi), %zmm17{%k1}{z}")
                                PIECE(2, "kmovw %ecx, %k4; vmovupd %zmm4, 3(%rdi){%k4}; vmovaps %zmm5, "
                                         "64(%rdi){%k4}") PIECE(2, "kmovw %edx, %k1; vpcompressd %zmm5, "
                                                                   "9(%rdi){%k1}; vpexpandq "
                                                                   "1(%rdi), %zmm6{%k1}")
                                        PIECE(2, "kmovw %edx, %k1; vcompresspd %ymm5, "
                                                 "9(%rdi){%k1}; vpmovqb %zmm4, "
                                                 "99(%rdi){%k1}") PIECE(2, "kmovd %edx, %k1; vpmovwb %zmm6, "
                                                                           "7(%rdi){%k1}; vpmovsdw %zmm4, "
                                                                           "99(%rdi){%k1}")
                                                PIECE(2, "kmovw %eax, %k5; vextracti64x4 $1, %zmm4, "
                                                         "3(%rdi){%k5}; "
                                                         "vmovss %xmm2, 77(%rdi){%k5}")
                                                        PIECE(2, "kmovw %eax, %k5; vpaddd 4(%rdi){1to16}, "
                                                                 "%zmm3, "
                                                                 "%zmm20{%k5}; vpbroadcastq 8(%rdi), "
                                                                 "%zmm21{%k5}{z}")
                                                                PIECE(2, "kmovq %k5, 3(%rdi); kmovw 9(%rdi), "
                                                                         "%k6; vcvtps2ph "
                                                                         "$0, %zmm3, 11(%rdi){%k6}")
                                                                        PIECE(16, "kmovq %rcx, %k2; "
                                                                                  "vpcompressb %zmm5, "
                                                                                  "9(%rdi){%k2}; vpexpandw "
                                                                                  "64(%rdi), %zmm6{%k2}")
                                                                                PIECE(1, "vzeroupper")
        /* x87 and areas */
        PIECE(0, "fninit; fldl (%rdi); fstpt 11(%rdi); fldt 11(%rdi); fistpll 32(%rdi)") PIECE(
		0, "fld1; fsts 3(%rdi); fists 9(%rdi); fbstp 13(%rdi); fbld 13(%rdi); fstps 29(%rdi)")
                PIECE(0, "fnsave (%rdi); frstor (%rdi); movq $0, 12(%rdi); movq $0, 20(%rdi)")
                        PIECE(0, "fnstenv (%rdi); fldenv (%rdi); movq $0, 12(%rdi); movq $0, 20(%rdi)") PIECE(
				0, "fxsave64 (%rdi); fxrstor64 (%rdi); movq $0, 8(%rdi); movq $0, 16(%rdi)")
                                PIECE(0, "lea 512(%rbx), %rdi; xor %ecx, %ecx; xgetbv; and $0xe7, %eax; "
                                         "xsave64 (%rdi);"
                                         "movq $0, 8(%rdi); movq $0, 16(%rdi); movq $0, 512(%rdi)")
                                        PIECE(0, "lea 512(%rbx), %rdi; mov %rdi, %rsi; add $512, %rdi; xor "
                                                 "%eax, %eax; mov $8, %ecx; rep stosq;"
                                                 "xgetbv; and $0xe7, %eax; xsavec64 (%rsi); xrstor64 (%rsi); "
                                                 "mov %rsi, %rdi; xor %eax, %eax;"
                                                 "mov $344, %ecx; rep stosq")
                                                PIECE(0, "lea 512(%rbx), %rdi; mov %rdi, %rsi; add $512, "
                                                         "%rdi; xor %eax, %eax; mov $8, %ecx; rep stosq;"
                                                         "xgetbv; and $7, %eax; xsaveopt64 (%rsi); mov "
                                                         "%rsi, %rdi; xor %eax, %eax; mov $344, %ecx; rep "
                                                         "stosq") "stream_pieces_end:\n.popsection\n");

#endif
