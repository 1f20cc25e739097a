/*
 * watched.c - code whose first execution is watched by tests/code_inside.c, as a shared object: functions
 * that nobody calls but the test, each of them to be unseen until then.
 */
#include <stdint.h>

int watched_sign(int value);
double watched_mean(const double *value, int count);
uint64_t watched_flags(void);
int watched_breakpoint(void);
int watched_step(unsigned which, int value);
int watched_sequence(void *area, int *aborts);

__attribute__((noinline, aligned(64))) int watched_sign(int value)
{
	if (value < 0)
		return -1;
	if (value > 0)
		return 1;
	return 0;
}

/* Vector registers are in use over many blocks. */
__attribute__((noinline, aligned(64))) double watched_mean(const double *value, int count)
{
	double sum = 0, product = 1;
	int i;

	for (i = 0; i < count; i++) {
		sum += value[i];
		if (value[i] > 2)
			product *= value[i];
		else
			sum -= 0.5;
	}
	return count ? sum / count + product : 0;
}

/* Unseen blocks begin while flags, the direction flag among them, and the red zone are in use. */
__attribute__((naked, aligned(64))) uint64_t watched_flags(void)
{
	__asm__("movq $0x1234, -8(%rsp)\n\t"
	        "movq $0x5678, -128(%rsp)\n\t"
	        "xor %eax, %eax\n\t"
	        "std\n\t"
	        "stc\n\t"
	        "jmp 1f\n\t"
	        "nop\n"
	        "1:\tjc 2f\n\t"
	        "ud2\n"
	        "2:\tadc $0, %rax\n\t"
	        "pushfq\n\t"
	        "pop %rcx\n\t"
	        "cld\n\t"
	        "jmp 3f\n"
	        "3:\tand $0x400, %ecx\n\t"
	        "add %rcx, %rax\n\t"
	        "add -128(%rsp), %rax\n\t"
	        "ret");
}

__attribute__((noinline)) int watched_breakpoint(void)
{
	__asm__ volatile("int3");
	return 3;
}

/* A restartable sequence, in which a block begins that is unseen; area is the thread's struct rseq. */
__attribute__((naked)) int watched_sequence(void *area, int *aborts)
{
	__asm__(".pushsection .data.rel, \"aw\"\n\t"
	        ".balign 32\n"
	        "9:\t.long 0, 0\n\t"
	        ".quad 1f, 2f - 1f, 4f\n\t"
	        ".popsection\n"
	        "3:\tlea 9b(%rip), %rax\n\t"
	        "mov %rax, 8(%rdi)\n"
	        "1:\ttest %rdi, %rdi\n\t"
	        "jz 2f\n\t"
	        "mov $77, %eax\n"
	        "2:\tmovq $0, 8(%rdi)\n\t"
	        "ret\n\t"
	        ".byte 0x0f, 0xb9, 0x3d\n\t"
	        ".long 0x53053053\n"
	        "4:\tincl (%rsi)\n\t"
	        "cmpl $1000, (%rsi)\n\t"
	        "jb 3b\n\t"
	        "xor %eax, %eax\n\t"
	        "jmp 2b");
}

#define STEP(n)                                                                                              \
	__attribute__((noinline)) static int step_##n(int value)                                             \
	{                                                                                                    \
		if (value % 3 == 0)                                                                          \
			return value * (3 + n) + 1;                                                          \
		if (value % 5 == n % 5)                                                                      \
			return value / (2 + n);                                                              \
		return value ^ (77 + n);                                                                     \
	}
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
EACH(STEP)

int watched_step(unsigned which, int value)
{
	static int (*const steps[])(int) = {
#define NAME(n) step_##n,
		EACH(NAME)
	};

	return steps[which % 16](value);
}

/* Functions of one block each, one to a line, in a row; bench/code_trap.c calls them once. */
__asm__(".text\n"
        ".balign 4096\n"
        ".globl watched_blocks\n"
        ".type watched_blocks, @function\n"
        "watched_blocks:\n"
        ".rept 4096\n"
        ".balign 64\n"
        ".cfi_startproc\n"
        "lea 1(%rdi), %rax\n"
        "xor $3, %rax\n"
        "add %rdi, %rax\n"
        "ret\n"
        ".cfi_endproc\n"
        ".endr\n"
        ".size watched_blocks, . - watched_blocks\n");
