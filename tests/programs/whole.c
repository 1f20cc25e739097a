/*
 * whole.c - threads, children and signals of every kind, one by the first argument; what it says is the same
 * wherever it runs (tests/translate_process.c).
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

extern char **environ;

static volatile sig_atomic_t ticks;
static volatile int *volatile nowhere = (volatile int *)8;

static void on(int signal, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	sigaction(signal, &action, NULL);
}

static void every(long microseconds)
{
	struct itimerval interval = { { 0, microseconds }, { 0, microseconds } };

	setitimer(ITIMER_REAL, &interval, NULL);
}

static void tick(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	ticks++;
}

/* ---- where the program's code is, as it was when it began */

static struct {
	uint64_t start, end;
} text[64];
static unsigned texts;
static uint64_t cache;

static void read_texts(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], mode[8];
	unsigned long start, end;

	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s", &start, &end, mode) != 3 || mode[2] != 'x')
			continue;
		if (strstr(line, "linehome-code"))
			cache = start + 4096;
		if (strstr(line, "linehome-code") || strstr(line, "/agents/") || texts == 64)
			continue;
		text[texts].start = start;
		text[texts++].end = end;
	}
	fclose(maps);
}

static bool is_program(uint64_t address)
{
	for (unsigned i = 0; i < texts; i++)
		if (address >= text[i].start && address < text[i].end)
			return true;
	return false;
}

/* ---- threads, a timer, faults, children: all at once */

static atomic_long total;
static sigjmp_buf back;

static void *add(void *argument)
{
	for (int i = 0; i < 300000; i++)
		total++;
	return argument;
}

static void jump(int signal, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	siglongjmp(back, signal);
}

static int status_of(pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static int all(void)
{
	pthread_t thread[4];
	volatile int faults = 0;
	int status;
	pid_t pid;

	on(SIGALRM, tick, SA_RESTART);
	on(SIGSEGV, jump, 0);
	every(1000);
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, add, NULL);
	for (volatile int i = 0; i < 1000; i++) {
		if (sigsetjmp(back, 1) == 0)
			*nowhere = 1;
		faults++;
	}
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	printf("%ld %d\n", (long)total, faults);
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		_exit(7);
	printf("fork %x\n", status_of(pid));
	pid = vfork();
	if (pid == 0)
		_exit(9);
	printf("vfork %x\n", status_of(pid));
	pid = vfork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", "exit 11", NULL);
		_exit(1);
	}
	printf("exec %x\n", status_of(pid));
	status = posix_spawn(&pid, "/bin/sh", NULL, NULL, (char *[]){ "sh", "-c", "exit 4", NULL }, environ);
	printf("spawn %d %x\n", status, status_of(pid));
	fflush(stdout);
	printf("system %x\n", system("echo in a shell; exit 3"));
	while (ticks < 3)
		;
	return 0;
}

/* ---- registers, at whatever place a signal comes */

static volatile sig_atomic_t astray, wrong, checked;
extern const char loops_start[], loops_end[];
uint64_t loops(uint64_t rounds, void *memory);
__asm__(".text\n"
        "loops_start:\n"
        "loops: push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov $0x1111111111111111, %r12\nmov $0x2222222222222222, %r13\nmov $0x3333333333333333, %r14\n"
        "movq %r12, %xmm9\nmovq %r13, %xmm15\nmov %rsi, %rbp\nxor %ebx, %ebx\n"
        "1: mov %rbx, %rax\nlea 9f(%rip), %r15\nstc\n" /* an indirect jump with a live flag */
        "jmp *%r15\nud2\n9: adc $0, %rax\nsub %rbx, %rax\ncmp $1, %rax\njne 8f\n"
        "call 2f\ncmp $5, %eax\njne 8f\n"
        "mov $64, %ecx\nmov %rbp, %rsi\nlea 4096(%rbp), %rdi\nrep movsb\ntest %rcx, %rcx\njne 8f\n"
        "lea 64(%rbp), %rax\ncmp %rax, %rsi\njne 8f\n"
        "mov %rbx, -64(%rsp)\nmov $20, %ecx\n3: mov -64(%rsp), %rax\ncmp %rbx, %rax\njne 8f\nloop 3b\n"
        "lea 4f(%rip), %rax\npush %rax\nmov %rbx, %rdx\nret\nud2\n4: cmp %rbx, %rdx\njne 8f\n"
        "mov $39, %eax\nmov $0x55, %r9d\nstd\nsyscall\npushfq\ncld\npop %rax\ntest $0x400, %eax\nje 8f\n"
        "cmp $0x55, %r9d\njne 8f\n"
        "movq %xmm9, %rax\ncmp %r12, %rax\njne 8f\nmovq %xmm15, %rax\ncmp %r13, %rax\njne 8f\n"
        "inc %rbx\ncmp %rdi, %rdi\njne 8f\n"
        "cmp 8192(%rbp), %rbx\njb 1b\n"
        "mov %rbx, %rax\njmp 7f\n8: mov $-1, %rax\n"
        "7: pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
        "2: lea 5f(%rip), %rax\ncall *%rax\nret\n5: mov $5, %eax\nret\n"
        "loops_end:\n");

static void check_registers(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;
	greg_t *general = at->uc_mcontext.gregs;
	uint64_t address = (uint64_t)general[REG_RIP];
	volatile double vectors = (double)ticks * 1.5;

	(void)signal;
	(void)info;
	ticks++;
	if (!is_program(address))
		astray++;
	/* Behind the start and before the end all of them hold. */
	if (address < (uint64_t)loops_start + 60 || address >= (uint64_t)loops_end - 40)
		return;
	checked++;
	wrong += general[REG_R12] != 0x1111111111111111 || general[REG_R13] != 0x2222222222222222 ||
	         general[REG_R14] != 0x3333333333333333 || vectors < 0;
	wrong += memcmp(at->uc_mcontext.fpregs->_xmm[9].element, &general[REG_R12], 8) != 0;
	__asm__ volatile("pcmpeqd %%xmm9, %%xmm9\n\tmovdqa %%xmm9, %%xmm15\n\tstd\n\tcld"
	                 :
	                 :
	                 : "xmm9", "xmm15");
}

static int registers(long microseconds)
{
	static uint64_t memory[2048];
	uint64_t result = 0;

	memory[1024] = 2000;
	on(SIGALRM, check_registers, SA_RESTART);
	every(microseconds);
	while (result != (uint64_t)-1 && (ticks < 500 || checked < 50))
		result = loops(0, memory);
	every(0);
	printf("%ld astray %d wrong %d checked %d\n", (long)result, astray, wrong, checked >= 50);
	return 0;
}

static int planted(void)
{
	printf("%s\n", cache && is_program(cache) ? "not noticed" : "noticed");
	return 0;
}

/* ---- one kind each */

static volatile sig_atomic_t order[16], orders;

static void inner(int signal, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	order[orders++] = signal;
}

static void outer(int signal, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	order[orders++] = -signal;
	raise(SIGUSR2);
	raise(SIGTERM);
	order[orders++] = signal;
}

static int nested(void)
{
	struct sigaction action = { .sa_sigaction = outer, .sa_flags = SA_SIGINFO }, now;

	sigaddset(&action.sa_mask, SIGTERM);
	sigaction(SIGUSR1, &action, NULL);
	on(SIGUSR2, inner, SA_NODEFER);
	on(SIGTERM, inner, SA_RESETHAND);
	raise(SIGUSR1);
	for (int i = 0; i < orders; i++)
		printf("%d ", order[i]);
	sigaction(SIGTERM, NULL, &now);
	printf("%d ", now.sa_handler == SIG_DFL);
	sigaction(SIGUSR1, NULL, &now);
	printf("%d %x %d\n", now.sa_sigaction == outer, now.sa_flags, sigismember(&now.sa_mask, SIGTERM));
	return 0;
}

static void *write_later(void *argument)
{
	while (ticks < 5)
		usleep(1000);
	return write(*(int *)argument, "x", 1) == 1 ? argument : NULL;
}

static int restart(void)
{
	sigset_t none, block;
	pthread_t thread;
	char byte;
	int pipes[2];
	long got;

	if (pipe(pipes) < 0)
		return 1;
	on(SIGALRM, tick, 0);
	sigemptyset(&block);
	sigaddset(&block, SIGALRM);
	every(2000);
	got = read(pipes[0], &byte, 1);
	printf("read %ld %d\n", got, errno);
	got = nanosleep(&(struct timespec){ 5, 0 }, NULL);
	printf("sleep %ld %d\n", got, errno);
	pthread_sigmask(SIG_BLOCK, &block, NULL);
	ticks = 0;
	sigemptyset(&none);
	got = sigsuspend(&none);
	printf("suspend %ld %d %d\n", got, errno, ticks > 0);
	ticks = 0;
	pthread_create(&thread, NULL, write_later, &pipes[1]);
	on(SIGALRM, tick, SA_RESTART);
	pthread_sigmask(SIG_UNBLOCK, &block, NULL);
	got = read(pipes[0], &byte, 1);
	printf("read %ld %d\n", got, ticks >= 5);
	pthread_join(thread, NULL);
	return 0;
}

__attribute__((noinline)) static int deeper(volatile char *above)
{
	volatile char room[4000];

	room[0] = *above;
	return nowhere ? room[0] + deeper(room) + above[1] : 0;
}

static uint64_t handler_stack;

static void on_stack(int signal, siginfo_t *info, void *context)
{
	stack_t now;

	(void)context;
	handler_stack = (uint64_t)(uintptr_t)&now;
	sigaltstack(NULL, &now);
	order[0] = now.ss_flags;
	siglongjmp(back, info->si_addr ? signal : 1);
}

static int stack(void)
{
	static char room[65536];
	stack_t mine = { .ss_sp = room, .ss_size = sizeof(room) }, before;
	char top[2] = { 0 };

	printf("%d ", sigaltstack(&mine, &before));
	printf("%d\n", before.ss_flags);
	on(SIGSEGV, on_stack, SA_ONSTACK);
	for (volatile int i = 0; i < 3; i++) {
		int signal = sigsetjmp(back, 1);

		if (signal == 0)
			return deeper(top);
		printf("%d %d %d\n", signal, order[0],
		       handler_stack > (uint64_t)(uintptr_t)room &&
		               handler_stack < (uint64_t)(uintptr_t)(room + sizeof(room)));
	}
	mine.ss_size = 10;
	printf("%d %d\n", sigaltstack(&mine, NULL), errno);
	return 0;
}

static void skip(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;
	static const uint8_t length[] = { [SIGSEGV] = 3, [SIGFPE] = 3, [SIGILL] = 2, [SIGTRAP] = 0 };

	printf("%d %d %d %d\n", signal, info->si_code, is_program((uint64_t)at->uc_mcontext.gregs[REG_RIP]),
	       is_program((uint64_t)(uintptr_t)info->si_addr));
	at->uc_mcontext.gregs[REG_RIP] += length[signal];
	at->uc_mcontext.gregs[REG_RBX] += 10;
}

uint64_t traps(uint64_t *memory);
__asm__(".text\ntraps: push %rbx\nmov $1, %ebx\nmov %rdi, %rcx\n"
        "mov $7, %edx\nmov (%rdx), %rax\nadd $1, %rbx\n" /* skipped */
        "ud2\nadd $1, %rbx\nint3\nadd $1, %rbx\nxor %edx, %edx\nxor %eax, %eax\nxor %esi, %esi\n"
        "div %rsi\nadd $1, %rbx\n"
        "movabs $0x1111, %rax\nmov %rbx, (%rcx)\nmov %rbx, %rax\npop %rbx\nret\n");

static int traps_skipped(void)
{
	uint64_t memory = 0;

	on(SIGSEGV, skip, 0);
	on(SIGILL, skip, 0);
	on(SIGTRAP, skip, 0);
	on(SIGFPE, skip, 0);
	printf("%lu", (unsigned long)traps(&memory));
	printf(" %lu\n", (unsigned long)memory);
	return 0;
}

/* Jumps, calls and returns that fault, with registers that they would have changed. */
uint64_t wild(uint64_t kind, uint64_t address);
__asm__(".text\nwild: mov $0x77, %eax\nmov $0x88, %ecx\ncmp $1, %edi\nje 1f\ncmp $2, %edi\nje 2f\n"
        "cmp $3, %edi\nje 3f\njmp *%rsi\n1: call *(%rsi)\n2: mov %rsp, %r8\nmov %rsi, %rsp\n"
        "wild_ret: ret\n3: mov %rsp, %r8\nmov %rsi, %rsp\nlea wild(%rip), %r9\nwild_call: call *%r9\n");

static greg_t seen[REG_RSP + 2];

static void look(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;

	(void)info;
	memcpy(seen, at->uc_mcontext.gregs, sizeof(seen));
	siglongjmp(back, signal);
}

static int wild_jumps(void)
{
	static char room[65536];
	stack_t mine = { .ss_sp = room, .ss_size = sizeof(room) };

	sigaltstack(&mine, NULL);
	on(SIGSEGV, look, SA_ONSTACK);
	for (volatile uint64_t kind = 0; kind < 4; kind++) {
		int signal = sigsetjmp(back, 1);

		if (signal == 0)
			wild(kind, 0x1000);
		printf("%d: %d %llx %llx\n", (int)kind, signal, seen[REG_RAX], seen[REG_RCX]);
	}
	return 0;
}

static void *wait_for_ever(void *argument)
{
	char byte;

	return read(*(int *)argument, &byte, 1) ? argument : NULL;
}

static void *spin_for_ever(void *argument)
{
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;)
		total++;
	return argument;
}

static int cancel(void)
{
	pthread_t thread;
	int pipes[2];
	void *result;

	if (pipe(pipes) < 0)
		return 1;
	pthread_create(&thread, NULL, wait_for_ever, pipes);
	usleep(2000);
	pthread_cancel(thread);
	pthread_join(thread, &result);
	printf("%d ", result == PTHREAD_CANCELED);
	pthread_create(&thread, NULL, spin_for_ever, NULL);
	usleep(2000);
	pthread_cancel(thread);
	pthread_join(thread, &result);
	printf("%d\n", result == PTHREAD_CANCELED);
	return 0;
}

static ucontext_t here, there;
static void coroutine(void)
{
	for (int i = 0; i < 1000; i++) {
		total++;
		swapcontext(&there, &here);
	}
}

static int contexts(void)
{
	static char room[65536];

	on(SIGALRM, tick, SA_RESTART);
	every(200);
	getcontext(&there);
	there.uc_stack.ss_sp = room;
	there.uc_stack.ss_size = sizeof(room);
	there.uc_link = &here;
	makecontext(&there, coroutine, 0);
	for (int i = 0; i < 1000; i++)
		swapcontext(&here, &there);
	printf("%ld\n", (long)total);
	return 0;
}

static int values[8], value_count;

static void value(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	values[value_count++] = info->si_value.sival_int;
}

static int queued(void)
{
	struct signalfd_siginfo read_info;
	sigset_t set;
	siginfo_t info;
	int fd, signal;

	on(SIGRTMIN, value, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < 4; i++)
		sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i });
	signal = sigwaitinfo(&set, &info);
	printf("%d %d ", signal == SIGRTMIN, info.si_value.sival_int);
	fd = signalfd(-1, &set, 0);
	printf("%d ", read(fd, &read_info, sizeof(read_info)) == sizeof(read_info) ? read_info.ssi_int : -1);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	printf("%d %d %d\n", value_count, values[0], values[1]);
	return 0;
}

static void *last(void *argument)
{
	usleep(150000);
	printf("last\n");
	fflush(stdout);
	return argument;
}

static int ends(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, last, NULL);
	pthread_exit(NULL);
}

/* Threads that begin and end while a timer's signals come. */
static int many(void)
{
	long sum = 0;

	on(SIGALRM, tick, SA_RESTART);
	every(300);
	for (int i = 0; i < 100; i++) {
		pthread_t thread[4];
		void *result;

		for (int j = 0; j < 4; j++)
			pthread_create(&thread[j], NULL, add, (void *)(intptr_t)j);
		for (int j = 0; j < 4; j++) {
			pthread_join(thread[j], &result);
			sum += (long)(intptr_t)result;
		}
		if (i % 10 == 0) {
			pid_t pid = fork();

			if (pid == 0)
				_exit(i);
			sum += status_of(pid) >> 8;
		}
	}
	printf("%ld %ld\n", sum, (long)total);
	return 0;
}

static int hooks(void)
{
	long first = syscall(100000), second = syscall(100000);

	printf("%d %d %d\n", first > 0, second > first, syscall(100001, 12345678) == getpgid(0));
	return 0;
}

/* ---- instructions, of which each is counted once, however often signals come between them */

extern const char exact_handler[], exact_skip[], exact_restorer[];
extern uint64_t exact_count;
long exact(uint64_t rounds, uint64_t *memory);
__asm__(".text\n"
        "exact_handler: lock incq exact_count(%rip)\nret\n"
        "exact_skip: addq $3, 168(%rdx)\nret\n" /* the address in the context */
        "exact_restorer: mov $15, %eax\nsyscall\n"
        /* 1 + 1 before; 13 for each round, one of them a load that is skipped where it faults */
        "exact: mov $100002, %eax\nsyscall\nmov %rax, %r8\n"
        "1: mov %rdi, %rax\nadd $5, %rax\nmov (%rsi), %rdx\nimul $3, %rax\ncall 2f\nlea (%rax), %rax\n"
        "cmp %rax, %rdi\nje 1b\ndec %rdi\njnz 1b\n"
        "mov $100002, %eax\nsyscall\nsub %r8, %rax\nret\n"
        "2: push %rax\npop %rax\nret\n"
        ".data\n.globl exact_count\nexact_count: .quad 0\n.text\n");

static void on_exactly(int signal, const void *handler)
{
	struct {
		const void *handler;
		uint64_t flags;
		const void *restorer;
		uint64_t mask;
	} action = { handler, SA_SIGINFO | SA_RESTART | 0x04000000, exact_restorer, 0 };

	syscall(SYS_rt_sigaction, signal, &action, NULL, 8);
}

static int exactly(long microseconds)
{
	uint64_t memory = 0, rounds = microseconds ? 3000000 : 1000;
	long plain, got = 0, wanted = 0;

	on_exactly(SIGALRM, exact_handler);
	on_exactly(SIGSEGV, exact_skip);
	/* What two rounds differ by is a round; what is left belongs to no round. */
	plain = exact(1, &memory);
	plain -= exact(2, &memory) - plain;
	/* A timer's signal adds its handler's 4; a fault its handler's 4, and takes the load away. */
	for (int i = 0; i < 10; i++) { /* a signal may come just outside */
		exact_count = 0;
		every(microseconds);
		got = exact(rounds, microseconds ? &memory : (uint64_t *)8);
		every(0);
		wanted = plain + (long)rounds * (microseconds ? 13 : 16) + 4 * (long)exact_count;
		if (got == wanted)
			break;
	}
	printf("off by %ld, signals %d\n", got - wanted, microseconds ? exact_count > 10 : exact_count == 0);
	return 0;
}

static int die(const char *how)
{
	if (strcmp(how, "segv") == 0)
		*nowhere = 1;
	if (strcmp(how, "abort") == 0)
		abort();
	if (strcmp(how, "ill") == 0)
		__builtin_trap();
	if (strcmp(how, "term") == 0)
		raise(SIGTERM);
	if (strcmp(how, "trap") == 0)
		__asm__ volatile("int3");
	if (strcmp(how, "vsyscall") == 0)
		return ((long (*)(long *))0xffffffffff600400)(NULL)-time(NULL) > 1;
	if (strcmp(how, "blocked") == 0) {
		sigset_t set;

		on(SIGSEGV, tick, 0);
		sigfillset(&set);
		sigprocmask(SIG_BLOCK, &set, NULL);
		*nowhere = 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} kind[] = {
		{ "all", all },         { "planted", planted }, { "nested", nested },
		{ "restart", restart }, { "stack", stack },     { "traps", traps_skipped },
		{ "wild", wild_jumps }, { "cancel", cancel },   { "contexts", contexts },
		{ "queued", queued },   { "ends", ends },       { "many", many },
		{ "hooks", hooks },
	};

	read_texts();
	for (unsigned i = 0; argc > 1 && i < sizeof(kind) / sizeof(*kind); i++)
		if (strcmp(argv[1], kind[i].name) == 0)
			return kind[i].run();
	if (argc > 2 && strcmp(argv[1], "registers") == 0)
		return registers(atol(argv[2]));
	if (argc > 2 && strcmp(argv[1], "exactly") == 0)
		return exactly(atol(argv[2]));
	return argc > 2 ? die(argv[2]) : 2;
}
