/*
 * patch_target.c - a program that tests patch while it runs. It answers each line on its standard input with
 * one that tells what its functions return now; meanwhile as many threads as its argument says call one of
 * them and count what is neither the plain answer nor one of those that patches of the tests give.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Callers take nothing of them for granted but what the ABI says. */
#ifdef __clang__
#define WHOLE __attribute__((noinline))
#else
#define WHOLE __attribute__((noipa))
#endif

int answer(int value), fib(int n), deep(int n);

/* Functions whose layout is what matters. */
int tiny(int value), close_by(int value), entered(int value), holds(int (*call)(void));
long forever(volatile long *count_and_end);
void waits(volatile int *end);
__asm__(".text\n"
        ".p2align 4\n"
        ".globl tiny\n .type tiny,@function\n"
        "tiny: xor %eax,%eax\n ret\n" /* 3 bytes, then padding */
        ".size tiny,.-tiny\n"
        ".p2align 4\n"
        ".globl close_by\n .type close_by,@function\n"
        "close_by: xor %eax,%eax\n ret\n" /* 3 bytes, then another function */
        ".size close_by,.-close_by\n"
        ".globl entered\n .type entered,@function\n"
        "entered: xor %eax,%eax\n"
        "1: inc %eax\n cmp %edi,%eax\n jl 1b\n ret\n" /* the jump leads into the first 5 bytes */
        ".size entered,.-entered\n"
        ".p2align 4\n"
        ".globl holds\n .type holds,@function\n"
        "holds: call *%rdi\n add $1,%eax\n ret\n" /* so does a return */
        ".size holds,.-holds\n"
        ".p2align 4\n"
        ".globl forever\n .type forever,@function\n"
        "forever: push %rbx\n mov %rdi,%rbx\n"
        "1: incq (%rbx)\n" /* +4 */
        "cmpq $0,8(%rbx)\n je 1b\n mov (%rbx),%rax\n pop %rbx\n ret\n"
        ".size forever,.-forever\n"
        ".p2align 4\n"
        ".globl waits\n .type waits,@function\n"
        "waits: nop\n"
        "1: pause\n cmpl $0,(%rdi)\n je 1b\n ret\n"
        ".size waits,.-waits\n");

int limit = 10;
static volatile long counts[2];
static volatile int waited;
static atomic_long wrong, calls;
static atomic_int ready;

WHOLE int answer(int value)
{
	return value > limit ? value * 2 : value + 1;
}

static WHOLE int hidden(int value)
{
	return value + limit;
}

WHOLE int fib(int n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

/* Recursion that comes to a stop inside, deep in its own frames. */
WHOLE int deep(int n)
{
	if (n == 0)
		usleep(1000);
	return n == 0 ? 0 : deep(n - 1) + 1;
}

static int seven(void)
{
	return 7;
}

static void *call_on(void *unused)
{
	atomic_fetch_add(&ready, 1);
	for (;;) {
		for (int i = 0; i < 200; i++) {
			int value = answer(3);

			if (value != 4 && value != 1004 && value != 2004 && value != 3004)
				atomic_fetch_add(&wrong, 1);
		}
		if (deep(20) != 20)
			atomic_fetch_add(&wrong, 1);
		atomic_fetch_add(&calls, 1);
	}
	return unused;
}

static void *loop_on(void *unused)
{
	atomic_fetch_add(&ready, 1);
	forever(counts);
	return unused;
}

static void *wait_on(void *unused)
{
	atomic_fetch_add(&ready, 1);
	waits(&waited);
	return unused;
}

static void start(void *(*function)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, function, NULL) != 0)
		exit(3);
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 0, started = threads;
	char line[64];

	for (int i = 0; i < threads; i++)
		start(call_on);
	if (argc > 2) {
		start(loop_on);
		start(wait_on);
		started += 2;
	}
	while (atomic_load(&ready) < started)
		usleep(1000);
	for (long before = 0; fgets(line, sizeof line, stdin); before = counts[0]) {
		printf("answer %d hidden %d fib %d tiny %d close_by %d entered %d holds %d wrong %ld calls "
		       "%ld "
		       "loops %ld\n",
		       answer(3), hidden(1), fib(10), tiny(1), close_by(1), entered(3), holds(seven),
		       atomic_load(&wrong), atomic_load(&calls), counts[0] - before);
		fflush(stdout);
	}
	return 0;
}
