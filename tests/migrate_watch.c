/*
 * migrate_watch.c - a userfaultfd is had from processes that do all sorts of things, and who does it dies at
 * every step of it: what they were doing goes on unharmed. Then the same with QEMU, whose guest is watched.
 */
#include <cpuid.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>

#include "qemu_machine.h"
#include "service/migrate/inject.h"
#include "service/migrate/machine.h"
#include "service/migrate/watch.h"
#include "tap.h"

static struct lh_error error;

/* ---- dying at a step ---- */

static long steps, die_at = -1; /* half a step each: before and after a call of ptrace */

static void step(void)
{
	if (steps++ == die_at)
		kill(getpid(), SIGKILL);
}

/*
 * Faults that the victims have to notice: the way back is not where it should be, or a part of it is missing.
 */
static enum { NO_FAULT, LOST_STACK, LOST_VECTORS, LOST_SIGNALS } fault;

static void plant(long request, void *address, void *data)
{
	struct user_regs_struct *registers = data;
	struct iovec *state = data;

	if (fault == LOST_STACK && request == PTRACE_SETREGS && registers->rax == SYS_userfaultfd)
		registers->rsp += 8;
	if (fault == LOST_VECTORS && request == PTRACE_GETREGSET)
		memset((char *)state->iov_base + 160, 0, 256);
	if (fault == LOST_SIGNALS && request == PTRACE_GETSIGMASK)
		memset(data, 0, (size_t)address);
}

/* In place of libc's. */
long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	pid_t pid;
	void *address, *data;
	long rc;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	step();
	if (fault == LOST_STACK)
		plant(request, address, data);
	rc = syscall(SYS_ptrace, request, pid, address, data);
	if (fault != LOST_STACK)
		plant(request, address, data);
	step();
	return rc;
}

/* Who dies at step `at` of it. 1: it did; 0: it got to the end. */
static int inject_and_die(pid_t victim, long at)
{
	int status, fd;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		uint64_t stopped;

		steps = 0;
		die_at = at;
		_exit(lh__inject_userfaultfd(victim, &fd, &stopped, NULL) ? 2 : 0);
	}
	waitpid(child, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status))
		printf("# step %ld: it failed\n", at);
	return WIFSIGNALED(status) ? 1 : 0;
}

/* ---- victims ---- */

struct shared {
	volatile uint64_t count;       /* goes up while the victim is well */
	volatile uint32_t bad;         /* what it has found to be wrong */
	volatile uint32_t word;        /* of the futex */
	volatile uint32_t interrupted; /* a call has ended with EINTR */
};

static struct shared *shared;

/*
 * Long loops with all registers full; *count goes up by n. Zero: at the end they are as they were. The red
 * zone is used too.
 */
uint64_t spin_full(volatile uint64_t *count, uint64_t n, const void *pattern, uint64_t avx);
__asm__(".text\n.globl spin_full\n.hidden spin_full\nspin_full:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov $0x1111111111111111,%rbx\nmov $0x2222222222222222,%rbp\nmov $0x3333333333333333,%r8\n"
        "mov $0x4444444444444444,%r9\nmov $0x5555555555555555,%r10\nmov $0x6666666666666666,%r11\n"
        "mov $0x7777777777777777,%r12\nmov $0x8888888888888888,%r13\nmov $0x9999999999999999,%r14\n"
        "mov $0xaaaaaaaaaaaaaaaa,%r15\nmov %r15,-8(%rsp)\nmov %r14,-120(%rsp)\nmov %r13,-128(%rsp)\n"
        "movdqu (%rdx),%xmm3\nmovdqu (%rdx),%xmm15\n"
        "test %rcx,%rcx\njz 1f\nvmovdqu (%rdx),%ymm3\nvmovdqu (%rdx),%ymm15\n"
        "1: incq (%rdi)\ndec %rsi\njnz 1b\n"
        "xor %eax,%eax\n"
        "mov $0x1111111111111111,%rsi\nxor %rsi,%rbx\nor %rbx,%rax\n"
        "mov $0x2222222222222222,%rsi\nxor %rsi,%rbp\nor %rbp,%rax\n"
        "mov $0x3333333333333333,%rsi\nxor %rsi,%r8\nor %r8,%rax\n"
        "mov $0x4444444444444444,%rsi\nxor %rsi,%r9\nor %r9,%rax\n"
        "mov $0x5555555555555555,%rsi\nxor %rsi,%r10\nor %r10,%rax\n"
        "mov $0x6666666666666666,%rsi\nxor %rsi,%r11\nor %r11,%rax\n"
        "xor -8(%rsp),%r15\nor %r15,%rax\nmov $0xaaaaaaaaaaaaaaaa,%rsi\nxor -8(%rsp),%rsi\nor %rsi,%rax\n"
        "xor -120(%rsp),%r14\nor %r14,%rax\nxor -128(%rsp),%r13\nor %r13,%rax\n"
        "mov $0x7777777777777777,%rsi\nxor %rsi,%r12\nor %r12,%rax\n"
        "movdqu (%rdx),%xmm1\npxor %xmm3,%xmm1\nptest %xmm1,%xmm1\nsetnz %sil\nmovzx %sil,%rsi\nor "
        "%rsi,%rax\n"
        "movdqu (%rdx),%xmm1\npxor %xmm15,%xmm1\nptest %xmm1,%xmm1\nsetnz %sil\nmovzx %sil,%rsi\nor "
        "%rsi,%rax\n"
        "test %rcx,%rcx\njz 2f\n"
        "vextractf128 $1,%ymm3,%xmm1\nvpxor 16(%rdx),%xmm1,%xmm1\nvptest %xmm1,%xmm1\nsetnz %sil\n"
        "movzx %sil,%rsi\nor %rsi,%rax\n"
        "vextractf128 $1,%ymm15,%xmm1\nvpxor 16(%rdx),%xmm1,%xmm1\nvptest %xmm1,%xmm1\nsetnz %sil\n"
        "movzx %sil,%rsi\nor %rsi,%rax\nvzeroupper\n"
        "2: pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");

static void blame(uint32_t what)
{
	shared->bad |= what;
}

static void spins(void)
{
	uint32_t pattern[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	uint64_t avx = __builtin_cpu_supports("avx") ? 1 : 0;
	uint32_t control = 0x5f80; /* rounding, other than it is usually */

	__asm__ volatile("ldmxcsr %0" : : "m"(control));
	for (;;) {
		uint32_t now;

		if (spin_full(&shared->count, 5000, pattern, avx))
			blame(1);
		__asm__ volatile("stmxcsr %0" : "=m"(now));
		if ((now & 0x6000) != 0x4000)
			blame(2);
		pattern[7]++;
	}
}

/* Until the word has changed. */
static void waits(void)
{
	for (uint32_t seen = 0;; seen = shared->word) {
		long rc = syscall(SYS_futex, &shared->word, FUTEX_WAIT, seen, NULL, NULL, 0);

		if (rc && errno != EAGAIN)
			blame(4);
		shared->count++;
	}
}

static void polls(void)
{
	struct timespec limit = { 0, 3000000 };
	sigset_t none;

	sigemptyset(&none);
	for (;;) {
		if (ppoll(NULL, 0, &limit, &none))
			blame(8);
		shared->count++;
	}
}

static void reads(void)
{
	int ends[2];
	char byte;

	if (pipe(ends))
		blame(16);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			qemu_nap(2);
			(void)!write(ends[1], "x", 1);
		}
	}
	for (;;) {
		if (read(ends[0], &byte, 1) != 1 || byte != 'x')
			blame(16);
		shared->count++;
	}
}

static void waits_for_events(void)
{
	int epoll = epoll_create1(0);
	struct epoll_event event;

	for (;;) {
		/* What stops it makes the kernel end this call, and who stops it has to see to it. */
		if (epoll_wait(epoll, &event, 1, 3) && errno != EINTR)
			blame(32);
		else if (errno == EINTR)
			shared->interrupted = 1;
		errno = 0;
		shared->count++;
	}
}

static void sleeps(void)
{
	for (;;) {
		struct timespec nap = { 0, 3000000 };

		if (nanosleep(&nap, NULL))
			blame(64);
		shared->count++;
	}
}

/* Signals all the time, whose handler counts. */
static void on_signal(int signal)
{
	(void)signal;
	shared->count++;
}

static void signalled(void)
{
	struct itimerval often = { { 0, 500 }, { 0, 500 } };
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	uint32_t pattern[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	volatile uint64_t count = 0;
	static char stack[65536];
	stack_t other = { .ss_sp = stack, .ss_size = sizeof(stack) }, now;

	if (sigaltstack(&other, NULL))
		blame(256);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (;;) {
		if (spin_full(&count, 5000, pattern, 0))
			blame(1);
		if (sigaltstack(NULL, &now) || now.ss_sp != stack)
			blame(256);
	}
}

static pid_t start_victim(void (*does)(void))
{
	pid_t parent = getpid(), child;
	sigset_t mask;

	memset(shared, 0, sizeof(*shared));
	fflush(stdout);
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		sigemptyset(&mask);
		sigaddset(&mask, SIGUSR2);
		sigprocmask(SIG_SETMASK, &mask, NULL);
		does();
	}
	return child;
}

/* Signals that it blocks, from outside. */
static uint64_t blocked_by(pid_t victim)
{
	char path[64], line[128];
	unsigned long blocked = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", victim);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "SigBlk: %lx", &blocked) == 1)
			break;
	if (file)
		fclose(file);
	return blocked;
}

/* Whether it goes on: its count goes up. */
static bool goes_on(bool wake)
{
	uint64_t before = shared->count;

	for (unsigned i = 0; i < 5000; i++) {
		if (shared->count > before + 2)
			return true;
		if (wake) {
			__atomic_add_fetch(&shared->word, 1, __ATOMIC_SEQ_CST);
			syscall(SYS_futex, &shared->word, FUTEX_WAKE, 1, NULL, NULL, 0);
		}
		qemu_nap(1);
	}
	return false;
}

static unsigned descriptors(pid_t process, const char *what)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++) {
		char path[64], name[128] = "";
		ssize_t size;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", process, fd);
		size = readlink(path, name, sizeof(name) - 1);
		n += size > 0 && strstr(name, what);
	}
	return n;
}

static bool victim_is_well(pid_t victim, bool wake, uint64_t masked)
{
	bool well = goes_on(wake) && !shared->bad && waitpid(victim, NULL, WNOHANG) == 0;

	for (unsigned i = 0; well && blocked_by(victim) != masked && i < 100; i++)
		qemu_nap(1); /* in a call that blocks others, or in a handler */
	if (!well || blocked_by(victim) != masked)
		printf("# bad %x, blocks %lx\n", shared->bad, blocked_by(victim));
	return well && blocked_by(victim) == masked;
}

static void victim(const char *what, void (*does)(void), bool wake)
{
	uint64_t masked = does == polls ? 0 : 1ull << (SIGUSR2 - 1), stopped = 0, longest = 0;
	pid_t process = start_victim(does);
	bool well = true, died = true;
	long at;
	int fd;

	ok(goes_on(wake), "a process that %s", what);
	masked = does == polls ? blocked_by(process) : masked;
	for (unsigned i = 0; i < 10 && well; i++) {
		well = !lh__inject_userfaultfd(process, &fd, &stopped, &error);
		longest = stopped > longest ? stopped : longest;
		if (well)
			close(fd);
		else
			printf("# %s\n", error.text);
	}
	ok(well && victim_is_well(process, wake, masked) && !shared->interrupted,
	   "... makes a userfaultfd, and goes on");
	printf("# a thread stood still for %lu us at most\n", (unsigned long)longest / 1000);
	is(descriptors(process, "userfaultfd"), 0, "... and has none of them");
	for (at = 0; well && died; at++) {
		died = inject_and_die(process, at);
		well = victim_is_well(process, wake, masked);
	}
	ok(well && at > 20, "... who makes it do so dies at one of %ld points, and it goes on", at);
	kill(process, SIGKILL);
	waitpid(process, NULL, 0);
}

static void planted(const char *what, int which)
{
	pid_t process = start_victim(spins);
	bool well = goes_on(false), died = true;

	fault = which;
	for (long at = 0; well && died && at < 200; at++) {
		died = inject_and_die(process, at);
		well = victim_is_well(process, false, 1ull << (SIGUSR2 - 1));
	}
	fault = NO_FAULT;
	ok(!well, "it would be seen if %s", what);
	kill(process, SIGKILL);
	waitpid(process, NULL, 0);
}

/* ---- refusals ---- */

static void sandboxed(unsigned action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		blame(128);
	spins();
}

static void traps(void)
{
	sandboxed(SECCOMP_RET_TRAP);
}

static void denies(void)
{
	sandboxed(SECCOMP_RET_ERRNO | EPERM);
}

static void refused_by(const char *what, void (*does)(void))
{
	pid_t process = start_victim(does);
	int fd;

	ok(goes_on(false), "a sandbox that %s", what);
	is(lh__inject_userfaultfd(process, &fd, NULL, &error), -ENOSYS, "... is told of");
	ok(victim_is_well(process, false, 1ull << (SIGUSR2 - 1)), "... and who is in it goes on");
	kill(process, SIGKILL);
	waitpid(process, NULL, 0);
}

static void refusals(void)
{
	pid_t process = start_victim(sleeps);
	int fd, status;
	pid_t child;

	if (!ptrace(PTRACE_SEIZE, process, NULL, NULL)) {
		is(lh__inject_userfaultfd(process, &fd, NULL, &error), -EBUSY, "one that is traced already");
		ptrace(PTRACE_INTERRUPT, process, NULL, NULL);
		waitpid(process, &status, __WALL);
		ptrace(PTRACE_DETACH, process, NULL, NULL);
	}
	child = geteuid() ? -1 : fork();
	if (child == 0)
		_exit(setuid(65534) ? 1 : lh__inject_userfaultfd(process, &fd, NULL, NULL) == -EPERM ? 0 : 2);
	if (child > 0) {
		waitpid(child, &status, 0);
		is(status, 0, "another user may not");
	}
	kill(process, SIGKILL);
	waitpid(process, NULL, 0);
	is(lh__inject_userfaultfd(process, &fd, NULL, &error), -ESRCH, "a process that has gone");
	refused_by("traps", traps);
	refused_by("denies", denies);
}

/* ---- QEMU ---- */

static struct lh_pageset new_set(uint64_t pages)
{
	struct lh_pageset set = { pages, calloc(1, lh__pageset_bytes(pages)) };

	return set;
}

static bool has_all(const struct lh_pageset *set, uint64_t from, uint64_t to)
{
	return lh__pageset_next_not(set, from) >= to;
}

static void watched(struct qemu_machine *qemu, struct lh_machine *machine)
{
	struct lh_pageset set = new_set(machine->region[0].pages), absent = new_set(set.pages);
	unsigned before = descriptors(qemu->pid, "userfaultfd");
	uint64_t stopped = 0, found;
	struct lh_written written;
	int rc = lh__watch_begin(machine->process, machine->region, machine->regions, &written, &stopped,
	                         &error);

	if (!ok(rc == 0, "the memory of a QEMU is watched")) {
		printf("# %s\n", error.text);
		free(set.word);
		free(absent.word);
		return;
	}
	printf("# a thread of it stood still for %lu us\n", (unsigned long)stopped / 1000);
	is(descriptors(qemu->pid, "userfaultfd"), before, "... and QEMU has no descriptor of it");
	ok(qemu_goes_on(qemu) && qemu_goes_on(qemu), "its guest runs");
	is(lh__written_scan(&written, true, &set, &absent), 0, "what it has written is found");
	found = lh__pageset_count(&set);
	ok(has_all(&set, 0x10, 0x80), "... all pages that it writes to");
	ok(found < 1024, "... and few others (%lu pages in all)", (unsigned long)found);
	lh__pageset_clear(&set);
	ok(qemu_goes_on(qemu) && qemu_goes_on(qemu), "it runs on");
	ok(!lh__written_scan(&written, true, &set, &absent) && has_all(&set, 0x10, 0x80),
	   "... and is seen again");
	is(lh__pageset_count(&set), 0x70, "... to write to nothing else");
	lh__written_close(&written);
	ok(qemu_goes_on(qemu), "unwatched it goes on");
	free(set.word);
	free(absent.word);
}

static void watch_refused(struct lh_machine *machine)
{
	struct lh_state_region region = machine->region[0];
	struct lh_written written;

	region.pages++;
	is(lh__watch_begin(machine->process, &region, 1, &written, NULL, &error), -ENOENT,
	   "more memory than there is");
	region.pages--;
	is(lh__watch_begin(getpid(), &region, 1, &written, NULL, &error), -ENOENT, "another process");
	snprintf(region.path, sizeof(region.path), "/dev/shm/lh-watch-nothing");
	is(lh__watch_begin(machine->process, &region, 1, &written, NULL, &error), -ENOENT, "another file");
}

static void killed_at_each_step(struct qemu_machine *qemu, struct lh_machine *machine)
{
	bool well = true, died = true;
	char status[32];
	long at;

	for (at = 0; well && died; at++) {
		died = inject_and_die(qemu->pid, at);
		well = qemu_goes_on(qemu) && !lh__machine_status(machine, status, &error) &&
		       !strcmp(status, "running");
	}
	ok(well && at > 20, "who does it dies at one of %ld points, and QEMU and its guest go on", at);
}

static void qemu_with(const char *what, char *const extra[])
{
	struct qemu_machine qemu;
	struct lh_machine machine;

	qemu_name(&qemu, "lh-watch");
	qemu_boots(&qemu, qemu_guest_counts, sizeof(qemu_guest_counts));
	if (ok(qemu_start(&qemu, NULL, NULL, extra), "a machine%s", what) &&
	    ok(!lh__machine_open(qemu.monitor, &machine, &error) && qemu_goes_on(&qemu),
	       "... whose guest runs")) {
		watched(&qemu, &machine);
		watch_refused(&machine);
		killed_at_each_step(&qemu, &machine);
		watched(&qemu, &machine);
		lh__machine_close(&machine);
	}
	qemu_end(&qemu);
}

int main(void)
{
	char *const sandbox[] = {
		(char *)"-sandbox",
		(char *)"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", NULL
	};

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	victim("computes with all registers", spins, false);
	victim("computes and gets signals", signalled, false);
	victim("waits for ever", waits, true);
	victim("polls", polls, false);
	victim("reads", reads, false);
	victim("waits for events", waits_for_events, false);
	victim("sleeps", sleeps, false);
	planted("the way back were lost", LOST_STACK);
	planted("vector registers were", LOST_VECTORS);
	planted("blocked signals were", LOST_SIGNALS);
	refusals();
	if (qemu_missing()) {
		skip("machines", "qemu-system-x86_64 is not installed");
		return done();
	}
	qemu_with("", NULL);
	qemu_with(" in a sandbox", sandbox);
	return done();
}
