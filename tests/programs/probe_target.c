/*
 * probe_target.c - functions of many kinds that count their own calls and check what they compute, so that
 * whoever puts probes on them can compare.
 *
 * It says "ready", then does what it reads, one command a line, and answers with one line:
 *
 *     work N T     N rounds of everything in each of T threads; answers the counts: NAME=CALLS ...
 *     spin T       starts T threads that do rounds until "stop", which answers the counts
 *     fork N       N rounds in a child; answers when it has ended
 *     block        waits in a thread inside of blocks(), until "stop"
 *     coroutines N  N turns of two coroutines, each suspended inside of yields()
 *     exit         ends at once, in the midst of rounds if there are any
 */
#include "program.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>

#ifdef __clang__
#define NOINLINE static __attribute__((noinline, used))
#else
#define NOINLINE static __attribute__((noinline, noclone, used))
#endif
#define THREADS 16

enum { LEAF, MIDDLE, RECURSE, TAIL, SWITCHES, JUMPS, MANY, BIG, CALLED, KINDS };
static const char *const name[KINDS] = { "leaf",      "middle", "recurse", "tail",  "switches",
	                                 "jumps_out", "many",   "big",     "called" };
static uint64_t count[KINDS];
static volatile bool stopping;

static void counts(int kind)
{
	__atomic_fetch_add(&count[kind], 1, __ATOMIC_RELAXED);
}

NOINLINE uint64_t leaf(uint64_t x)
{
	counts(LEAF);
	return x * 3 + 1;
}

NOINLINE uint64_t middle(uint64_t x, uint64_t y, uint64_t z)
{
	counts(MIDDLE);
	if (x > y)
		return leaf(x - y) + z;
	if (x == y)
		return z;
	return leaf(y - x) ^ leaf(z);
}

NOINLINE uint64_t recurse(uint64_t n)
{
	uint64_t a[4] = { n, n + 1, n + 2, n + 3 };

	counts(RECURSE);
	if (n == 0)
		return 1;
	__asm__ volatile("" : : "r"(a) : "memory");
	return recurse(n - 1) + a[n % 4];
}

NOINLINE uint64_t tail(uint64_t x)
{
	counts(TAIL);
	return leaf(x + 5);
}

NOINLINE uint64_t switches(uint64_t x)
{
	counts(SWITCHES);
	switch (x % 8) {
	case 0: return leaf(x);
	case 1: return x * 7;
	case 2: return leaf(x) + leaf(x + 1);
	case 3: return 12;
	case 4: return x ^ 99;
	case 5: return mix(x);
	case 6: return leaf(x) * 5;
	default: return x / 3;
	}
}

NOINLINE void jumps_out(jmp_buf back, uint64_t x)
{
	counts(JUMPS);
	if (x % 3 == 0)
		longjmp(back, 1);
}

/* More arguments than there are registers, and a structure that is returned in memory. */
struct large {
	uint64_t word[5];
};

NOINLINE struct large many(int a, double b, uint64_t c, float d, char e, uint64_t f, short g, double h, int i,
                           uint64_t j, uint64_t k, double l)
{
	struct large large = { { (uint64_t)a + c, (uint64_t)(b * 2 + d), (uint64_t)e + f,
		                 (uint64_t)g + (uint64_t)i, j * k + (uint64_t)(h + l) } };

	counts(MANY);
	return large;
}

NOINLINE uint64_t big(uint64_t x)
{
	volatile char buffer[20000];

	counts(BIG);
	buffer[x % sizeof buffer] = (char)x;
	return (uint64_t)(unsigned char)buffer[x % sizeof buffer];
}

/* Registers that a callee saves, and flags, as a caller of the same file may rely on. */
__asm__(".text\n.globl called\n.type called, @function\ncalled:\n"
        "lock incq count_of_called(%rip)\nlea 1(%rdi), %rax\nret\n.size called, .-called\n");
uint64_t count_of_called;
uint64_t called(uint64_t x);

/* All registers that a function of the same file could leave alone. */
static uint64_t keeps_all(uint64_t x)
{
	uint64_t rax, wrong_ones;

	__asm__ volatile("mov $11, %%rcx\nmov $12, %%rdx\nmov $13, %%rsi\nmov $14, %%r8\nmov $15, %%r9\n"
	                 "mov $16, %%r10\nmov $17, %%r11\nmov $18, %%rbx\nmov $19, %%r12\n"
	                 "call called\n"
	                 "xor $11, %%rcx\nxor $12, %%rdx\nxor $13, %%rsi\nxor $14, %%r8\nxor $15, %%r9\n"
	                 "xor $16, %%r10\nxor $17, %%r11\nxor $18, %%rbx\nxor $19, %%r12\n"
	                 "or %%rdx, %%rcx\nor %%rsi, %%rcx\nor %%r8, %%rcx\nor %%r9, %%rcx\nor %%r10, %%rcx\n"
	                 "or %%r11, %%rcx\nor %%rbx, %%rcx\nor %%r12, %%rcx\n"
	                 : "=a"(rax), "=c"(wrong_ones), "+D"(x)
	                 :
	                 : "rdx", "rsi", "r8", "r9", "r10", "r11", "rbx", "r12", "memory", "cc");
	if (wrong_ones)
		wrong("a register is lost");
	return rax;
}

/* Too short for a jump, with another function right behind. */
__asm__(".text\n.p2align 4\n.globl too_short\n.type too_short, @function\ntoo_short:\n"
        "mov %edi, %eax\nret\n.size too_short, .-too_short\n"
        ".globl right_behind\n.type right_behind, @function\nright_behind:\n"
        "mov %edi, %eax\nadd $5, %eax\nret\n.size right_behind, .-right_behind\n");
/* A loop whose head is its second byte, and one whose head is its start. */
__asm__(".text\n.p2align 4\n.globl entered_inside\n.type entered_inside, @function\nentered_inside:\n"
        "xor %eax, %eax\n1: inc %eax\ndec %edi\njnz 1b\nnop\nnop\nnop\nret\n"
        ".size entered_inside, .-entered_inside\n"
        ".globl loops_to_start\n.type loops_to_start, @function\nloops_to_start:\n"
        "dec %rdi\njnz loops_to_start\nmov $7, %eax\nret\n.size loops_to_start, .-loops_to_start\n");
/*
 * Exits of two bytes, between a call and a label: one with ten bytes nearby that can move for it, one with
 * padding behind the function, one with neither.
 */
__asm__(".text\n.p2align 4\n.globl exit_with_carrier\n.type exit_with_carrier, "
        "@function\nexit_with_carrier:\n"
        "push %rbx\nmov %rdi, %rbx\ntest $1, %bl\njnz 2f\nnop\nmov $7, %ecx\nmov %rcx, %rdx\nnop\n"
        "call leaf\n3: pop %rbx\nret\n2: call leaf\nadd $1, %rax\njmp 3b\n"
        ".size exit_with_carrier, .-exit_with_carrier\n"
        ".p2align 4\n.globl exit_with_padding\n.type exit_with_padding, @function\nexit_with_padding:\n"
        "push %rbx\nmov %rdi, %rbx\ntest $1, %bl\njnz 2f\ncall leaf\n3: pop %rbx\nret\n"
        "2: call leaf\ninc %rax\njmp 3b\n.size exit_with_padding, .-exit_with_padding\n"
        ".p2align 4\n.globl exit_is_tight\n.type exit_is_tight, @function\nexit_is_tight:\n"
        "push %rbx\nmov %rdi, %rbx\ntest $1, %bl\njnz 2f\ncall leaf\n3: pop %rbx\nret\n"
        "2: call leaf\ninc %rax\njmp 3b\n.size exit_is_tight, .-exit_is_tight\n"
        "right_behind_it:\n.type right_behind_it, @function\nint3\nint3\n.size right_behind_it, 2\n");
/* Forms of returning. */
__asm__(".text\n.p2align 4\n.globl rep_ret\n.type rep_ret, @function\nrep_ret:\n"
        "lea 9(%rdi), %rax\ntest %rdi, %rdi\nrep ret\n.size rep_ret, .-rep_ret\n"
        ".p2align 4\n.globl bnd_ret\n.type bnd_ret, @function\nbnd_ret:\n"
        "lea 10(%rdi), %rax\n.byte 0xf2, 0xc3\n.size bnd_ret, .-bnd_ret\n"
        ".p2align 4\n.globl pops_ret\n.type pops_ret, @function\npops_ret:\n"
        "mov 8(%rsp), %rax\nadd %rdi, %rax\nret $8\n.size pops_ret, .-pops_ret\n"
        ".p2align 4\n.globl branches_out\n.type branches_out, @function\nbranches_out:\n"
        "test $1, %dil\njne leaf\nmov %rdi, %rax\nret\n.size branches_out, .-branches_out\n"
        ".p2align 4\n.globl red_zone\n.type red_zone, @function\nred_zone:\n"
        "mov %rdi, -8(%rsp)\nmov %rdi, -120(%rsp)\nadd $2, %rdi\nmov -8(%rsp), %rax\nxor -120(%rsp), %rax\n"
        "add -8(%rsp), %rax\nret\n.size red_zone, .-red_zone\n");
uint64_t too_short(uint64_t x), right_behind(uint64_t x), entered_inside(uint64_t x),
	loops_to_start(uint64_t x);
uint64_t exit_with_carrier(uint64_t x), exit_with_padding(uint64_t x), exit_is_tight(uint64_t x);
uint64_t rep_ret(uint64_t x), bnd_ret(uint64_t x), branches_out(uint64_t x);
uint64_t red_zone(uint64_t x), pops_ret(uint64_t x);

static uint64_t call_pops_ret(uint64_t x, uint64_t y)
{
	uint64_t result;

	__asm__ volatile("sub $128, %%rsp\npush %2\ncall pops_ret\nadd $128, %%rsp"
	                 : "=a"(result)
	                 : "D"(x), "r"(y)
	                 : "memory", "cc");
	return result;
}

static void forms(uint64_t x)
{
	if (rep_ret(x) != x + 9 || bnd_ret(x) != x + 10 || red_zone(x) != x ||
	    call_pops_ret(x, 40) != x + 40 || branches_out(x) != (x & 1 ? x * 3 + 1 : x) ||
	    too_short(x) != (uint32_t)x || right_behind(x) != (uint32_t)x + 5 || entered_inside(3) != 3 ||
	    loops_to_start(4) != 7 || exit_is_tight(x) != x * 3 + 1 + (x & 1) ||
	    exit_with_carrier(x) != x * 3 + 1 + (x & 1) || exit_with_padding(x) != x * 3 + 1 + (x & 1))
		wrong("a form of returning");
}

static void one_round(uint64_t x)
{
	static const uint64_t three[] = { 1, 2, 3 };
	jmp_buf back;
	struct large large;

	if (leaf(x) != x * 3 + 1 || middle(x, x, 7) != 7 || middle(x + 2, x, 1) != 2 * 3 + 1 + 1 ||
	    middle(x, x + 1, 1) != ((1 * 3 + 1) ^ (1 * 3 + 1)) || tail(x) != (x + 5) * 3 + 1)
		wrong("leaf, middle or tail at %lu", x);
	if (recurse(three[x % 3]) != (uint64_t[]){ 3, 7, 13 }[x % 3])
		wrong("recurse: %lu", recurse(three[x % 3]));
	switch (x % 8) {
	case 1:
		if (switches(x) != x * 7)
			wrong("switches");
		break;
	case 3:
		if (switches(x) != 12)
			wrong("switches");
		break;
	default: switches(x);
	}
	if (!setjmp(back)) {
		jumps_out(back, x);
		if (x % 3 == 0)
			wrong("no jump");
	}
	large = many(1, 2.5, x, 1.5f, 3, x, 4, 1.25, 6, x, 2, 0.75);
	if (large.word[0] != 1 + x || large.word[1] != 6 || large.word[2] != 3 + x || large.word[3] != 10 ||
	    large.word[4] != 2 * x + 2)
		wrong("many");
	if (big(x) != (x & 255) || keeps_all(x) != x + 1)
		wrong("big or called");
	forms(x);
}

static void *rounds(void *n)
{
	for (uint64_t i = 0; i < (uint64_t)n && !stopping; i++)
		one_round(i);
	return NULL;
}

static void say_counts(void)
{
	count[CALLED] = count_of_called;
	for (int i = 0; i < KINDS; i++)
		printf("%s=%lu ", name[i], count[i]);
	printf("\n");
	fflush(stdout);
}

static pthread_t thread[THREADS];
static unsigned threads;

static void start(unsigned n, void *(*body)(void *), uint64_t argument)
{
	for (threads = 0; threads < n; threads++)
		if (pthread_create(&thread[threads], NULL, body, (void *)argument))
			cannot("start a thread");
}

static void join(void)
{
	while (threads)
		pthread_join(thread[--threads], NULL);
}

/* Suspended in the midst of functions that have probes, on other stacks. */
static ucontext_t main_context, other_context[2];
NOINLINE uint64_t yields(uint64_t x)
{
	swapcontext(&other_context[x & 1], &main_context);
	return x + 1;
}

static void coroutine(int which)
{
	for (uint64_t i = 0;; i++)
		if (yields((uint64_t)which + i * 2) != (uint64_t)which + i * 2 + 1)
			wrong("yields");
}

static void coroutines(unsigned rounds_of_two)
{
	static char stack[2][65536];

	for (int i = 0; i < 2; i++) {
		getcontext(&other_context[i]);
		other_context[i].uc_stack = (stack_t){ .ss_sp = stack[i], .ss_size = sizeof stack[i] };
		makecontext(&other_context[i], (void (*)(void))coroutine, 1, i);
	}
	for (unsigned i = 0; i < rounds_of_two * 2; i++)
		swapcontext(&main_context, &other_context[i & 1]);
}

/* Waits in a system call that is its own instruction, right at its start. */
__asm__(".text\n.p2align 4\n.globl blocks\n.type blocks, @function\nblocks:\n"
        "xor %eax, %eax\nsyscall\nnop\nret\n.size blocks, .-blocks\n");
long blocks(int fd, void *buffer, size_t size);
static int block_pipe[2];

static void *block(void *unused)
{
	char byte;

	if (blocks(block_pipe[0], &byte, 1) != 1)
		wrong("blocks");
	return NULL;
}

static void child(unsigned long n)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		rounds((void *)n);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status != 0)
		wrong("the child ended with %d", status);
}

int main(void)
{
	char line[128];
	unsigned long n;
	unsigned t;

	if (pipe(block_pipe))
		cannot("make a pipe");
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "work %lu %u", &n, &t) == 2 && t <= THREADS) {
			start(t, rounds, n);
			join();
			say_counts();
		} else if (sscanf(line, "spin %u", &t) == 1 && t <= THREADS) {
			start(t, rounds, UINT64_MAX);
		} else if (strcmp(line, "block\n") == 0) {
			start(1, block, 0);
		} else if (strcmp(line, "stop\n") == 0) {
			stopping = true;
			if (write(block_pipe[1], "x", 1) != 1)
				cannot("write");
			join();
			stopping = false;
			say_counts();
		} else if (sscanf(line, "coroutines %u", &t) == 1) {
			coroutines(t);
			say_counts();
		} else if (sscanf(line, "fork %lu", &n) == 1) {
			child(n);
			say_counts();
		} else if (strcmp(line, "exit\n") == 0) {
			_exit(0);
		}
	}
	return 0;
}
