/*
 * patch_target.c - a program that tests patch while it runs. It answers each line on its standard input with
 * one that tells what its functions return now; meanwhile as many threads as its argument says call one of
 * them and count what is neither the plain answer nor one of those that patches of the tests give.
 *
 * Lines that say more: "hold": a thread calls held(), and stays in what that calls; "signal": there it gets a
 * signal, whose handler runs on another stack and stays in it, too; "release": both end. "fork": from now on
 * a child answers.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Callers take nothing of them for granted but what the ABI says. */
#ifdef __clang__
#define WHOLE __attribute__((noinline, optnone))
#else
#define WHOLE __attribute__((noipa))
#endif

int answer(int value), fib(int n), deep(int n), held(int value), switched(int n);

/* Functions whose layout is what matters. */
int tabled(int value), tiny(int value), close_by(int value), entered(int value), holds(int (*call)(void));
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
        ".globl tabled\n .type tabled,@function\n"
        "tabled: xor %eax,%eax\n"
        "1: inc %eax\n cmp %edi,%eax\n jge 2f\n" /* the table leads into the first 5 bytes */
        "lea table(%rip),%rdx\n movslq 4(%rdx),%rcx\n add %rdx,%rcx\n jmp *%rcx\n"
        "2: ret\n"
        ".size tabled,.-tabled\n"
        ".pushsection .rodata\n .p2align 2\n table: .long 2b-table, 1b-table\n .popsection\n"
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
static volatile int one = 1; /* not known to who compiles the callee */
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

/* A jump through a table. */
WHOLE int switched(int n)
{
	switch (n) {
	case 1: return answer(n) * 3;
	case 2: return fib(n) + 4;
	case 3: return answer(n) - 7;
	case 4: return fib(n) * n;
	case 5: return answer(n + 1) / 2;
	case 6: return fib(3) ^ n;
	default: return tabled(n);
	}
}

/* Recursion that comes to a stop inside, deep in its own frames. */
WHOLE int deep(int n)
{
	if (n == 0)
		usleep(1000);
	return n == 0 ? 0 : deep(n - 1) + 1;
}

static volatile int held_now, signalled, released;

static WHOLE void stay(void)
{
	held_now = 1;
	while (!released)
		usleep(1000);
}

WHOLE int held(int value)
{
	stay();
	return value + 1;
}

static void handle(int signal)
{
	signalled = signal;
	while (!released)
		usleep(1000);
}

static void *hold_on(void *unused)
{
	static char stack[65536];
	const stack_t other = { .ss_sp = stack, .ss_size = sizeof stack };

	sigaltstack(&other, NULL);
	held(1);
	return unused;
}

/* Returns when it has come to that. */
static void obey(const char *line)
{
	static pthread_t thread;

	if (line[0] == 'h') {
		released = held_now = signalled = 0;
		if (pthread_create(&thread, NULL, hold_on, NULL) != 0)
			exit(3);
		while (!held_now)
			usleep(1000);
	} else if (line[0] == 's') {
		pthread_kill(thread, SIGUSR1);
		while (!signalled)
			usleep(1000);
	} else if (line[0] == 'f') {
		pid_t child = fork();

		if (child != 0) {
			waitpid(child, NULL, 0);
			_exit(0);
		}
	} else if (line[0] == 'r') {
		released = 1;
		pthread_join(thread, NULL);
	}
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
	const struct sigaction action = { .sa_handler = handle, .sa_flags = SA_ONSTACK };
	char line[64];

	sigaction(SIGUSR1, &action, NULL);
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
		obey(line);
		printf("switched %d answer %d hidden %d fib %d tiny %d close_by %d entered %d holds %d wrong "
		       "%ld calls "
		       "%ld "
		       "loops %ld\n",
		       switched(3), answer(3), hidden(one), fib(10), tiny(1), close_by(1), entered(3),
		       holds(seven), atomic_load(&wrong), atomic_load(&calls), counts[0] - before);
		fflush(stdout);
	}
	return 0;
}
