/*
 * seen_registers.c - what a system call leaves alone: all registers but rax, rcx and r11, the flags (the
 * direction flag too), the rounding mode, every vector and mask register, and the red zone. See seen.h.
 */
#include "seen.h"

#include <stddef.h>
#include <sys/time.h>

struct registers {
	uint64_t general[12]; /* rbx rbp rdi rsi rdx r8 r9 r10 r12 r13 r14 r15 */
	uint64_t flags, control;
	uint64_t zone[16];
	uint64_t mask[8], filling[2];
	uint8_t vector[32][64] __attribute__((aligned(64)));
} __attribute__((aligned(64)));

static struct registers before;
struct registers after; /* the assembly stores to it by name */
uint64_t result_of_call;

#define AT_FLAGS "96"
#define AT_CONTROL "104"
#define AT_ZONE 112
#define AT_MASK 240
#define AT_VECTOR 320

_Static_assert(offsetof(struct registers, flags) == 96 && offsetof(struct registers, zone) == AT_ZONE &&
                       offsetof(struct registers, mask) == AT_MASK &&
                       offsetof(struct registers, vector) == AT_VECTOR,
               "as the assembly has it");

/* void probe(const struct registers *before): the call is `how`; wide: 512-bit registers. */
#define PROBE(name, how, wide)                                                                               \
	__asm__(".pushsection .text\n .p2align 4\n .type " #name ", @function\n" #name                       \
	        ":\n .cfi_startproc\n"                                                                       \
	        " push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"                   \
	        " .cfi_adjust_cfa_offset 48\n mov %rdi, %r11\n ldmxcsr " AT_CONTROL "(%r11)\n"               \
	        ".if " #wide "\n .irp n,0,1,2,3,4,5,6,7\n kmovq 240+8*\\n(%r11), %k\\n\n .endr\n"            \
	        " .irp "                                                                                     \
	        "n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"  \
	        " vmovdqa64 320+64*\\n(%r11), %zmm\\n\n .endr\n.else\n"                                      \
	        " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movdqa 320+64*\\n(%r11), %xmm\\n\n "        \
	        ".endr\n.endif\n"                                                                            \
	        " push " AT_FLAGS "(%r11)\n popfq\n"                                                         \
	        " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n mov 112+8*\\n(%r11), %rax\n"                \
	        " mov %rax, -128+8*\\n(%rsp)\n .endr\n"                                                      \
	        " mov (%r11), %rbx\n mov 8(%r11), %rbp\n mov 16(%r11), %rdi\n mov 24(%r11), %rsi\n"          \
	        " mov 32(%r11), %rdx\n mov 40(%r11), %r8\n mov 48(%r11), %r9\n mov 56(%r11), %r10\n"         \
	        " mov 64(%r11), %r12\n mov 72(%r11), %r13\n mov 80(%r11), %r14\n mov 88(%r11), %r15\n" how   \
	        " lea after(%rip), %rcx\n mov %rax, result_of_call(%rip)\n"                                  \
	        " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n mov -128+8*\\n(%rsp), %rax\n"               \
	        " mov %rax, 112+8*\\n(%rcx)\n .endr\n pushfq\n pop " AT_FLAGS "(%rcx)\n cld\n"               \
	        " mov %rbx, (%rcx)\n mov %rbp, 8(%rcx)\n mov %rdi, 16(%rcx)\n mov %rsi, 24(%rcx)\n"          \
	        " mov %rdx, 32(%rcx)\n mov %r8, 40(%rcx)\n mov %r9, 48(%rcx)\n mov %r10, 56(%rcx)\n"         \
	        " mov %r12, 64(%rcx)\n mov %r13, 72(%rcx)\n mov %r14, 80(%rcx)\n mov %r15, 88(%rcx)\n"       \
	        " stmxcsr " AT_CONTROL "(%rcx)\n"                                                            \
	        ".if " #wide "\n .irp n,0,1,2,3,4,5,6,7\n kmovq %k\\n, 240+8*\\n(%rcx)\n .endr\n"            \
	        " .irp "                                                                                     \
	        "n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"  \
	        " vmovdqa64 %zmm\\n, 320+64*\\n(%rcx)\n .endr\n vzeroupper\n.else\n"                         \
	        " .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movdqa %xmm\\n, 320+64*\\n(%rcx)\n "        \
	        ".endr\n.endif\n"                                                                            \
	        " pushq $0x1f80\n ldmxcsr (%rsp)\n lea 8(%rsp), %rsp\n"                                      \
	        " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n .cfi_endproc\n "   \
	        ".popsection\n");                                                                            \
	void name(const struct registers *);

/* The window is the first instruction; the window is one that addresses memory relative to its place. */
#define ALONE " mov $39, %eax\n syscall\n"
#define ADDRESSED " mov $39, %eax\n mov result_of_call(%rip), %r11\n syscall\n"
PROBE(alone_wide, ALONE, 1)
PROBE(alone_narrow, ALONE, 0)
PROBE(addressed_wide, ADDRESSED, 1)
PROBE(addressed_narrow, ADDRESSED, 0)

/*
 * syscall first in its function, and its number in eax already: the window is the syscall and what follows.
 */
long bare(long nr, long a, long b, long c);
__asm__(".pushsection .text\n .p2align 4\n .type bare, @function\nbare:\n .cfi_startproc\n mov %edi, %eax\n"
        " mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n jmp 1f\n .p2align 4\n1: syscall\n cmp $-4096, "
        "%rax\n jbe 2f\n or $-1, %rax\n2: ret\n .cfi_endproc\n .popsection\n");

/* Others jump to the middle of what could be a window: straight, and through a register. */
long jumped_into(long how, const void *text, long size);
__asm__(".pushsection .text\n .p2align 4\n .type jumped_into, @function\njumped_into:\n .cfi_startproc\n"
        " test %edi, %edi\n jne 2f\n xor %eax, %eax\n1: syscall\n cmp $-4096, %rax\n ret\n"
        "2: mov $39, %eax\n jmp 1b\n .cfi_endproc\n"
        " .p2align 4\n .type register_jump, @function\nregister_jump:\n .cfi_startproc\n lea 1f(%rip), %rcx\n"
        " test %edi, %edi\n je 2f\n mov $39, %eax\n jmp *%rcx\n2: xor %eax, %eax\n1: syscall\n cmp $-4096, "
        "%rax\n ret\n"
        " .cfi_endproc\n .popsection\n");
long register_jump(long how, const void *text, long size);

static uint64_t next(void)
{
	static uint64_t state = 88172645463325252ull;

	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static void fill(int wide)
{
	static const uint32_t control[4] = { 0x1f80, 0x3f80, 0x5f80, 0xff80 }; /* roundings, flush to zero */
	uint64_t *word = (uint64_t *)&before;

	memset(&before, 0, sizeof before);
	memset(&after, 0, sizeof after);
	for (size_t i = 0; i < sizeof before / 8; i++)
		word[i] = next();
	memset(before.filling, 0, sizeof before.filling);
	before.flags = 0x202 | (next() & 0xcd5); /* carry, parity, adjust, zero, sign, direction, overflow */
	before.control = control[next() % 4];
	if (wide)
		return;
	memset(before.mask, 0, sizeof before.mask);
	memset(before.vector[16], 0, sizeof before.vector / 2);
	for (int i = 0; i < 16; i++)
		memset(before.vector[i] + 16, 0, 48);
}

static volatile int ticks;

static void tick(int sig)
{
	ticks++;
	getppid();
}

static void probe(void (*function)(const struct registers *), int wide, const char *name)
{
	uint64_t self = (uint64_t)getpid();
	int differ = 0, wrong = 0;

	for (int i = 0; i < 20000; i++) {
		fill(wide);
		function(&before);
		after.control &= 0xffffffff;
		differ += memcmp(&before, &after, sizeof before) != 0;
		wrong += result_of_call != self;
	}
	if (differ)
		for (size_t i = 0, shown = 0; i < sizeof before / 8 && shown < 3; i++)
			if (((uint64_t *)&before)[i] != ((uint64_t *)&after)[i] && ++shown)
				fprintf(stderr, "# %s: word %zu: %lx became %lx\n", name, i,
				        ((uint64_t *)&before)[i], ((uint64_t *)&after)[i]);
	say("%s: %d differ, %d wrong", name, differ, wrong);
}

static void both(void)
{
	if (__builtin_cpu_supports("avx512bw")) {
		probe(alone_wide, 1, "wide");
		probe(addressed_wide, 1, "wide, addressed");
	}
	probe(alone_narrow, 0, "narrow");
	probe(addressed_narrow, 0, "narrow, addressed");
}

static void under_signals(void)
{
	struct itimerval every = { { 0, 100 }, { 0, 100 } };

	signal(SIGALRM, tick);
	must(setitimer(ITIMER_REAL, &every, NULL) == 0);
	both();
	memset(&every, 0, sizeof every);
	must(setitimer(ITIMER_REAL, &every, NULL) == 0);
	say("ticked %d", ticks > 10);
}

static void moved(void)
{
	int ends[2];
	char text[8] = "";

	must(pipe(ends) == 0);
	must(bare(SYS_write, ends[1], (long)"moved", 5) == 5);
	must(bare(SYS_read, ends[0], (long)text, 8) == 5);
	say("%s %ld %ld", text, bare(SYS_close, -1, 0, 0), bare(100000, 0, 0, 0));
	must(bare(SYS_getpid, 0, 0, 0) == getpid());
}

static void jumps(void)
{
	int same = 1;

	for (int i = 0; i < 100; i++)
		same &= jumped_into(0, NULL, 0) == 0 && jumped_into(1, NULL, 0) == getpid() &&
		        register_jump(0, NULL, 0) == 0 && register_jump(1, NULL, 0) == getpid();
	say("%d", same);
}

static const struct seen_case cases[] = { { "jumps", jumps },
	                                  { "registers", both },
	                                  { "under-signals", under_signals },
	                                  { "moved", moved },
	                                  { NULL, NULL } };

int main(int argc, char **argv)
{
	return seen_main(argc, argv, cases);
}
