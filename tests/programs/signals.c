/*
 * signals.c - a program with its own ideas about SIGSEGV and SIGBUS, and with signals at any moment, while
 * its memory is bigger than what may stay. Everything here works without Linehome and must work the same with
 * it: guard pages, write barriers, null pointers survived with siglongjmp, a file cut short under its
 * mapping, handlers on alternate stacks that touch cold memory, timers, all signals blocked while memory is
 * touched, default and ignored actions, signals that were sent rather than caused.
 *
 *     signals --size 64
 */
#include "program.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

static uint64_t *region;
static uint64_t pages = 64 * 256;

/* Read at run time, so that the compiler does not see the null pointers. */
static char *volatile nothing;
static volatile sig_atomic_t caught, caught_code, on_alternate;
static void *volatile caught_at;
static sigjmp_buf back;
static char *alternate;
#define ALTERNATE_SIZE ((size_t)64 << 10)

static uint64_t word_of(uint64_t page, unsigned i)
{
	return mix(page << 10 | i);
}

static void fill(void)
{
	for (uint64_t p = 0; p < pages; p++)
		for (unsigned i = 0; i < WORDS; i += 8)
			region[p * WORDS + i] = word_of(p, i);
}

static void verify(const char *when)
{
	for (uint64_t p = 0; p < pages; p++)
		for (unsigned i = 0; i < WORDS; i += 8)
			if (region[p * WORDS + i] != word_of(p, i))
				wrong("%s: page %lu word %u", when, p, i);
}

static void must(bool condition, const char *what)
{
	if (!condition)
		wrong("%s (caught %d, code %d, address %p)", what, caught, caught_code, caught_at);
}

static void set_handler(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	sigemptyset(&action.sa_mask);
	if (sigaction(number, &action, NULL))
		cannot("set a handler");
}

static void record(int number, siginfo_t *info)
{
	char here;

	caught++;
	caught_code = info->si_code;
	caught_at = info->si_addr;
	on_alternate = &here >= alternate && &here < alternate + ALTERNATE_SIZE;
	(void)number;
}

static void jump_back(int number, siginfo_t *info, void *context)
{
	record(number, info);
	siglongjmp(back, 1);
}

static void make_writable(int number, siginfo_t *info, void *context)
{
	record(number, info);
	if (mprotect((void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1)), PAGE,
	             PROT_READ | PROT_WRITE))
		_exit(4);
}

static void count_only(int number, siginfo_t *info, void *context)
{
	record(number, info);
}

/* A collector's write barrier: everything read-only, each first write is a fault that opens its page. */
static void scene_barrier(void)
{
	uint64_t opened = 0;

	set_handler(SIGSEGV, make_writable, SA_ONSTACK);
	must(mprotect(region, pages * PAGE, PROT_READ) == 0, "protect all");
	verify("read-only");
	for (uint64_t p = 0; p < pages; p += 7, opened++) {
		caught = 0;
		region[p * WORDS + 8] = word_of(p, 8);
		must(caught == 1 && caught_code == SEGV_ACCERR && on_alternate,
		     "one fault for the first write");
		must(caught_at == &region[p * WORDS + 8], "the fault's address");
		region[p * WORDS + 16] = word_of(p, 16);
		must(caught == 1, "no fault for the second write");
	}
	must(mprotect(region, pages * PAGE, PROT_READ | PROT_WRITE) == 0, "open all");
	verify("after the barrier");
	printf("barrier %lu ok\n", opened);
}

static void scene_guard(void)
{
	set_handler(SIGSEGV, jump_back, SA_ONSTACK);
	for (uint64_t p = 3; p < pages; p += 997) {
		caught = 0;
		must(mprotect(region + p * WORDS, PAGE, PROT_NONE) == 0, "close a page");
		if (!sigsetjmp(back, 1)) {
			*(volatile uint64_t *)&region[p * WORDS] = 1;
			must(false, "a write to a closed page went through");
		}
		must(caught == 1 && caught_code == SEGV_ACCERR && on_alternate, "the guard page's fault");
		must(mprotect(region + p * WORDS, PAGE, PROT_READ | PROT_WRITE) == 0, "open a page");
	}
	caught = 0;
	if (!sigsetjmp(back, 1))
		*(volatile char *)(nothing + 8) = 1;
	must(caught == 1 && caught_code == SEGV_MAPERR && caught_at == (void *)8, "the null pointer's fault");
	verify("after guard pages");
	printf("guard ok\n");
}

/* A mapped file is cut short: SIGBUS, once survived by a jump and once by putting memory in its place. */
static void put_memory(int number, siginfo_t *info, void *context)
{
	void *page = (void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));

	record(number, info);
	if (mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page)
		_exit(4);
}

static void scene_bus(void)
{
	char path[] = "/tmp/signals.XXXXXX";
	int fd = mkstemp(path);
	volatile char *map;

	unlink(path);
	must(fd >= 0 && ftruncate(fd, 4 * PAGE) == 0, "make a file");
	map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memset((char *)map, 'x', 4 * PAGE);
	must(ftruncate(fd, PAGE) == 0, "cut the file");
	set_handler(SIGBUS, jump_back, SA_ONSTACK);
	caught = 0;
	if (!sigsetjmp(back, 1))
		map[2 * PAGE] = 'y';
	must(caught == 1 && caught_code == BUS_ADRERR && caught_at == map + 2 * PAGE, "the cut file's fault");
	set_handler(SIGBUS, put_memory, 0);
	map[3 * PAGE + 5] = 'z';
	must(caught == 2 && map[3 * PAGE + 5] == 'z' && map[3 * PAGE] == 0 && map[0] == 'x',
	     "memory put in its place");
	verify("with a SIGBUS handler");
	munmap((char *)map, 4 * PAGE);
	close(fd);
	printf("bus ok\n");
}

static volatile uint64_t ticks, tick_sum;

/* Runs on the alternate stack, touches cold memory itself, and verifies it. */
static void tick(int number)
{
	uint64_t p = mix(ticks) % pages;
	int saved = errno;

	if (region[p * WORDS + 64] != word_of(p, 64))
		_exit(5);
	tick_sum += p;
	ticks++;
	errno = saved;
}

static void start_timer(long microseconds)
{
	struct itimerval t = { { 0, microseconds }, { 0, microseconds } };

	setitimer(ITIMER_REAL, &t, NULL);
}

static void scene_timer(void)
{
	struct sigaction action = { .sa_handler = tick, .sa_flags = SA_RESTART | SA_ONSTACK };

	sigaction(SIGALRM, &action, NULL);
	start_timer(700);
	for (unsigned round = 0; round < 200 && (round < 4 || ticks < 200); round++)
		verify("under a timer");
	start_timer(0);
	must(ticks >= 20, "the timer's signals");
	printf("timer ok\n");
}

static volatile sig_atomic_t jumps;

static void jump_out(int number)
{
	jumps++;
	siglongjmp(back, 1);
}

/* Signals that never return: whatever the interrupted fault was doing must not be left half done. */
static void scene_jumps(void)
{
	struct sigaction action = { .sa_handler = jump_out, .sa_flags = SA_ONSTACK };
	volatile uint64_t at = 0;

	sigaction(SIGALRM, &action, NULL);
	start_timer(900);
	if (sigsetjmp(back, 1) && jumps >= 150)
		start_timer(0);
	for (; jumps < 150; at++) {
		uint64_t p = at * 7919 % pages;

		if (region[p * WORDS + 8] != word_of(p, 8))
			wrong("page %lu between jumps", p);
		region[p * WORDS + 24] = word_of(p, 24);
	}
	start_timer(0);
	verify("after jumps");
	printf("jumps ok\n");
}

static void *touch_with_all_blocked(void *argument)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	verify("with all signals blocked");
	pthread_sigmask(SIG_SETMASK, NULL, &all);
	must(sigismember(&all, SIGSEGV) && sigismember(&all, SIGBUS) && sigismember(&all, SIGTERM),
	     "the mask read back");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return NULL;
}

static void scene_blocked(void)
{
	pthread_t threads[2];

	touch_with_all_blocked(NULL);
	for (unsigned i = 0; i < 2; i++)
		must(pthread_create(&threads[i], NULL, touch_with_all_blocked, NULL) == 0, "thread");
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("blocked ok\n");
}

/* A handler with a full mask that walks all of the memory. */
static void walk(int number)
{
	verify("inside a handler");
	caught++;
}

static void scene_walk(void)
{
	struct sigaction action = { .sa_handler = walk, .sa_flags = SA_ONSTACK | SA_NODEFER };

	sigfillset(&action.sa_mask);
	sigaction(SIGUSR1, &action, NULL);
	caught = 0;
	raise(SIGUSR1);
	must(caught == 1, "the walk");
	printf("walk ok\n");
}

/* Sent, not caused: the handler must see who sent it; ignored ones must stay ignored. */
static void scene_sent(void)
{
	union sigval value = { .sival_int = 17 };
	struct sigaction seen;

	set_handler(SIGSEGV, count_only, SA_RESTART);
	set_handler(SIGBUS, count_only, SA_RESETHAND);
	must(sigaction(SIGSEGV, NULL, &seen) == 0 && seen.sa_sigaction == count_only,
	     "the handler read back");
	must((seen.sa_flags & SA_RESTART) && (seen.sa_flags & SA_SIGINFO), "the flags read back");
	caught = 0;
	kill(getpid(), SIGSEGV);
	must(caught == 1 && caught_code == SI_USER, "a SIGSEGV that was sent");
	sigqueue(getpid(), SIGBUS, value);
	must(caught == 2 && caught_code == SI_QUEUE, "a SIGBUS that was queued");
	verify("after SA_RESETHAND");
	must(sigaction(SIGBUS, NULL, &seen) == 0 && seen.sa_handler == SIG_DFL, "the handler that was reset");
	signal(SIGBUS, SIG_IGN);
	kill(getpid(), SIGBUS);
	verify("with SIGBUS ignored");
	must(signal(SIGBUS, SIG_DFL) == SIG_IGN && caught == 2, "a SIGBUS that was ignored");
	printf("sent ok\n");
}

static int ends_by(void (*body)(void))
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
		verify("child");
		body();
		_exit(0);
	}
	must(pid > 0 && waitpid(pid, &status, 0) == pid, "a child");
	return WIFSIGNALED(status) ? WTERMSIG(status) : 1000 + WEXITSTATUS(status);
}

static void null_pointer(void)
{
	*(volatile int *)(nothing + 16) = 1;
}

static void cut_file(void)
{
	char path[] = "/tmp/signals.XXXXXX";
	int fd = mkstemp(path);

	unlink(path);
	*(volatile char *)mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
}

static void send_bus(void)
{
	kill(getpid(), SIGBUS);
}

static void closed_page(void)
{
	mprotect(region + 500 * WORDS, PAGE, PROT_NONE);
	region[500 * WORDS] = 1;
}

static void scene_default(void)
{
	must(ends_by(null_pointer) == SIGSEGV, "a null pointer ends the program by SIGSEGV");
	must(ends_by(closed_page) == SIGSEGV, "a closed page ends the program by SIGSEGV");
	must(ends_by(cut_file) == SIGBUS, "a cut file ends the program by SIGBUS");
	must(ends_by(send_bus) == SIGBUS, "a SIGBUS that was sent ends the program");
	printf("default ok\n");
}

int main(int argc, char **argv)
{
	stack_t stack = { .ss_size = ALTERNATE_SIZE }, seen;

	if (argc == 3 && !strcmp(argv[1], "--size"))
		pages = number(argv[2]) * 256;
	region = anonymous(pages * PAGE);
	alternate = anonymous(ALTERNATE_SIZE);
	stack.ss_sp = alternate;
	if (sigaltstack(&stack, NULL))
		cannot("set an alternate stack");
	setvbuf(stdout, NULL, _IOLBF, 0);
	fill();
	scene_barrier();
	scene_guard();
	scene_bus();
	scene_timer();
	scene_jumps();
	scene_blocked();
	scene_walk();
	scene_sent();
	scene_default();
	must(sigaltstack(NULL, &seen) == 0 && seen.ss_sp == alternate && seen.ss_size == ALTERNATE_SIZE,
	     "the stack");
	verify("end");
	printf("signals ok\n");
	return 0;
}
