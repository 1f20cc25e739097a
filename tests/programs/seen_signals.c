/* seen_signals.c - handlers, masks and stacks of signals. See seen.h. */
#include "seen.h"

#include <dlfcn.h>
#include <poll.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static volatile int count, nested, depth, deepest;
static char *alternate;
static size_t alternate_size = 1 << 16;
static sigjmp_buf back;

static int on_alternate(const void *address)
{
	return (const char *)address >= alternate && (const char *)address < alternate + alternate_size;
}

static void set(int sig, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	must(sigaction(sig, &action, NULL) == 0);
}

static void use_alternate(int flags)
{
	stack_t stack = { .ss_size = alternate_size, .ss_flags = flags };

	alternate = stack.ss_sp =
		mmap(NULL, alternate_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(sigaltstack(&stack, NULL) == 0);
}

static void say_mask(const char *what, const sigset_t *mask)
{
	printf("%s:", what);
	for (int sig = 1; sig < 65; sig++)
		if (sigismember(mask, sig) == 1)
			printf(" %d", sig);
	say(" ");
}

static void say_now(const char *what)
{
	sigset_t mask;

	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	say_mask(what, &mask);
}

static void tell(int sig, siginfo_t *info, void *context)
{
	ucontext_t *machine = context;

	say("signal %d code %d value %d, alternate %d, shown flags %d, self %d", sig, info->si_code,
	    info->si_code == SI_QUEUE ? info->si_value.sival_int : 0, on_alternate(&machine),
	    machine->uc_stack.ss_flags, info->si_code > 0 || info->si_pid == getpid());
	say_mask("in context", &machine->uc_sigmask);
	say_now("in handler");
	count++;
}

static void basics(void)
{
	sigset_t mask;
	struct sigaction action;

	set(SIGUSR1, tell, 0);
	raise(SIGUSR1);
	set(SIGUSR1, tell, SA_NODEFER);
	raise(SIGUSR1);
	use_alternate(0);
	set(SIGUSR2, tell, SA_ONSTACK | SA_RESETHAND);
	sigqueue(getpid(), SIGUSR2, (union sigval){ .sival_int = 77 });
	sigaction(SIGUSR2, NULL, &action);
	say("reset %d", action.sa_handler == SIG_DFL);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGSYS);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	raise(SIGUSR1);
	say_now("blocked");
	sigpending(&mask);
	say_mask("pending", &mask);
	sigfillset(&mask);
	sigprocmask(SIG_UNBLOCK, &mask, NULL);
	sigaction(SIGUSR1, NULL, &action);
	say("flags %x", (unsigned)action.sa_flags & ~0x04000000u);
	must(sigaction(SIGKILL, &action, NULL) < 0 && errno == EINVAL);
	must(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4) < 0 && errno == EINVAL);
	must(syscall(SYS_rt_sigaction, SIGUSR1, 8, NULL, 8) < 0 && errno == EFAULT);
	must(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8, NULL, 8) < 0 && errno == EFAULT);
	must(syscall(SYS_rt_sigprocmask, 17, &mask, NULL, 8) < 0 && errno == EINVAL);
	must(syscall(SYS_sigaltstack, 8, NULL) < 0 && errno == EFAULT);
	say("handled %d", count);
}

/* The special three, sent by a person. */
static void special(void)
{
	static const int which[] = { SIGSYS, SIGBUS, SIGSEGV };
	sigset_t mask;

	for (int i = 0; i < 3; i++) {
		set(which[i], tell, 0);
		raise(which[i]);
		sigemptyset(&mask);
		sigaddset(&mask, which[i]);
		sigprocmask(SIG_BLOCK, &mask, NULL);
		raise(which[i]);
		say_now("blocked");
		sigpending(&mask);
		say_mask("pending", &mask);
		sigemptyset(&mask);
		sigprocmask(SIG_SETMASK, &mask, NULL);
		signal(which[i], SIG_IGN);
		raise(which[i]);
		signal(which[i], SIG_DFL);
	}
	say("handled %d", count);
}

static void fault(int sig, siginfo_t *info, void *context)
{
	say("signal %d code %d at %lx, alternate %d", sig, info->si_code, (long)info->si_addr & 4095,
	    on_alternate(&sig));
	siglongjmp(back, 1);
}

static void faults(void)
{
	char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FILE *empty = tmpfile();
	char *beyond = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(empty), 0);

	use_alternate(0);
	set(SIGSEGV, fault, SA_ONSTACK);
	set(SIGBUS, fault, 0);
	for (int i = 0; i < 3; i++) {
		if (sigsetjmp(back, 1) == 0)
			*(volatile char *)(page + 5) = 1;
		if (sigsetjmp(back, 1) == 0)
			*(volatile char *)(beyond + 6) = 1;
		say_now("after");
	}
	if (sigsetjmp(back, 1) == 0)
		__asm__ volatile("hlt");
}

static void overflown(int sig, siginfo_t *info, void *context)
{
	say("signal %d code %d, alternate %d", sig, info->si_code, on_alternate(&sig));
	siglongjmp(back, 1);
}

static int recurse(int level)
{
	volatile char room[4096];

	memset((char *)room, level, sizeof room);
	return level < 0 ? 0 : room[17] + recurse(level + 1) + room[9];
}

static void overflow(void)
{
	use_alternate(0);
	set(SIGSEGV, overflown, SA_ONSTACK);
	for (int i = 0; i < 3; i++)
		if (sigsetjmp(back, 1) == 0)
			recurse(0);
	say("survived");
}

static char *volatile nowhere = (char *)8;

static void killed_by(int sig, int blocked)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		sigset_t mask;

		sigemptyset(&mask);
		sigaddset(&mask, sig);
		if (blocked == 1)
			sigprocmask(SIG_BLOCK, &mask, NULL);
		if (blocked == 2)
			signal(sig, SIG_IGN);
		if (blocked == 3)
			raise(sig);
		*(volatile char *)nowhere = 1;
		_exit(0);
	}
	must(waitpid(pid, &status, 0) == pid);
	say("killed by %d", WTERMSIG(status));
}

static void deaths(void)
{
	killed_by(SIGSEGV, 0);
	killed_by(SIGSEGV, 1);
	killed_by(SIGSEGV, 2);
	killed_by(SIGBUS, 3);
	killed_by(SIGSYS, 3);
	killed_by(SIGTERM, 3);
}

static void inner(int sig, siginfo_t *info, void *context)
{
	nested++;
	depth++;
	if (depth > deepest)
		deepest = depth;
	if (depth < 6)
		raise(sig == SIGUSR1 ? SIGUSR2 : SIGUSR1);
	getpid();
	depth--;
}

static void nesting(void)
{
	for (int flags = 0; flags < 2; flags++) {
		if (flags)
			use_alternate(0);
		set(SIGUSR1, inner, SA_NODEFER | (flags ? SA_ONSTACK : 0));
		set(SIGUSR2, inner, SA_NODEFER | (flags ? SA_ONSTACK : 0));
		for (int i = 0; i < 50; i++)
			raise(SIGUSR1);
		say("%d deep %d", nested, deepest);
	}
}

static void changes_stack(int sig, siginfo_t *info, void *context)
{
	stack_t old, new = { .ss_flags = SS_DISABLE };

	say("alternate %d", on_alternate(&old));
	must(sigaltstack(NULL, &old) == 0);
	say("flags %d, refused %d", old.ss_flags & 3, sigaltstack(&new, NULL) != 0 ? errno : 0);
}

static void stacks(void)
{
	stack_t old, small = { .ss_sp = &old, .ss_size = 100 };

	must(sigaltstack(NULL, &old) == 0);
	say("at first %d", old.ss_flags);
	must(sigaltstack(&small, NULL) < 0 && errno == ENOMEM);
	set(SIGUSR1, changes_stack, SA_ONSTACK);
	raise(SIGUSR1);
	use_alternate(0);
	raise(SIGUSR1);
	use_alternate((int)(1u << 31)); /* disarmed while its handler runs */
	raise(SIGUSR1);
	must(sigaltstack(NULL, &old) == 0);
	say("at last %x", (unsigned)old.ss_flags);
}

static void jump(int sig, siginfo_t *info, void *context)
{
	count++;
	siglongjmp(back, 1);
}

static void alarm_every(long microseconds)
{
	struct itimerval every = { { 0, microseconds }, { 0, microseconds } };

	must(setitimer(ITIMER_REAL, &every, NULL) == 0);
}

/* Handlers that never return, from calls that wait. */
static void jumps(void)
{
	volatile int rounds = 0;
	int ends[2];
	char byte;

	must(pipe(ends) == 0);
	set(SIGALRM, jump, 0);
	while (count < 2000) {
		if (sigsetjmp(back, 1) == 0) {
			if (rounds == 0)
				alarm_every(200);
			rounds++;
			for (;;)
				must(read(ends[0], &byte, 1) < 0);
		}
	}
	alarm_every(0);
	say("out of it");
}

static void tick(int sig, siginfo_t *info, void *context)
{
	int saved = errno;

	count++;
	if (getppid() < 0 || kill(getpid(), 0) != 0)
		_exit(1);
	errno = saved;
}

/* Signals at 10 kHz over calls of every kind: nothing may be lost, no result may change. */
static void storm_of(int flags)
{
	struct timespec start, now;
	char buffer[64];
	int ends[2];
	pid_t self = getpid();
	long calls = 0;
	double value = 1.5;

	must(pipe(ends) == 0);
	count = 0;
	set(SIGALRM, tick, flags);
	alarm_every(100);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		sigset_t empty, old;

		must(write(ends[1], "0123456789", 10) == 10);
		must(read(ends[0], buffer, sizeof buffer) == 10 && memcmp(buffer, "0123456789", 10) == 0);
		must(getpid() == self);
		sigemptyset(&empty);
		must(sigprocmask(SIG_SETMASK, &empty, &old) == 0 && sigisemptyset(&old));
		value = value * 1.25 - value * 0.25;
		must(value == 1.5);
		calls++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - start.tv_sec < 1 ||
	         (now.tv_sec == start.tv_sec + 1 && now.tv_nsec < start.tv_nsec));
	alarm_every(0);
	must(calls > 100 && count > 500);
	close(ends[0]);
	close(ends[1]);
}

static void storm(void)
{
	storm_of(SA_RESTART);
	storm_of(0 | SA_NODEFER);
	use_alternate(0);
	storm_of(SA_ONSTACK | SA_RESTART);
	say("calm");
}

static void *storm_thread(void *argument)
{
	pid_t self = getpid();

	while (*(volatile int *)argument == 0) {
		must(getpid() == self);
		must(getppid() > 0);
	}
	return NULL;
}

static void storm_threads(void)
{
	pthread_t thread[4];
	int stop = 0;

	set(SIGALRM, tick, SA_RESTART);
	for (int i = 0; i < 4; i++)
		must(pthread_create(&thread[i], NULL, storm_thread, &stop) == 0);
	alarm_every(100);
	for (int i = 0; i < 20000; i++)
		pthread_kill(thread[i % 4], SIGALRM);
	for (int i = 0; i < 100; i++)
		usleep(100);
	alarm_every(0);
	stop = 1;
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	must(count > 100);
	say("calm");
}

/* Interrupted and restarted calls. */
static void quiet(int sig, siginfo_t *info, void *context)
{
	count++;
}

/* Whether a thread of this process waits in the kernel. */
static int waits(pid_t tid)
{
	char path[64], text[256] = "";
	FILE *file;

	snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
	file = fopen(path, "r");
	must(file && fgets(text, sizeof text, file));
	fclose(file);
	return strstr(text, ") S ") != NULL;
}

struct waiter {
	pthread_t self;
	pid_t tid;
	int ends[2];
};

/* A signal, then a byte, each once the waiter waits. */
static void *poke(void *argument)
{
	const struct waiter *waiter = argument;

	int before = count;

	for (int seen = 0; seen < 10; usleep(5000))
		seen = waits(waiter->tid) ? seen + 1 : 0;
	pthread_kill(waiter->self, SIGUSR1);
	while (count == before)
		usleep(5000);
	must(write(waiter->ends[1], "x", 1) == 1);
	return NULL;
}

static void interrupted(void)
{
	struct waiter both = { .self = pthread_self(), .tid = (pid_t)syscall(SYS_gettid) };
	pthread_t thread;
	char byte = 0;

	must(pipe(both.ends) == 0);
	for (int i = 0; i < 4; i++) {
		long result;
		struct pollfd poll_ = { both.ends[0], POLLIN, 0 };

		set(SIGUSR1, quiet, i % 2 ? SA_RESTART : 0);
		must(pthread_create(&thread, NULL, poke, &both) == 0);
		errno = 0;
		result = i < 2 ? read(both.ends[0], &byte, 1) : poll(&poll_, 1, 5000);
		say("%ld %d", result, errno);
		pthread_join(thread, NULL);
		if (result < 1 || i >= 2)
			must(read(both.ends[0], &byte, 1) == 1);
	}
	say("signals %d", count);
}

/* Calls with a mask of their own. */
static void masks(void)
{
	struct itimerval once = { { 0, 0 }, { 0, 20000 } };
	struct epoll_event event;
	struct timespec second = { 5, 0 };
	sigset_t mask, none;
	int epoll = epoll_create1(0);
	siginfo_t info;

	set(SIGALRM, tell, 0);
	set(SIGUSR1, tell, 0);
	sigfillset(&mask);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	raise(SIGUSR1);
	sigemptyset(&none);
	sigaddset(&none, SIGUSR2);
	sigaddset(&none, SIGBUS);
	must(sigsuspend(&none) < 0 && errno == EINTR);
	say_now("after sigsuspend");
	must(setitimer(ITIMER_REAL, &once, NULL) == 0 && ppoll(NULL, 0, &second, &none) < 0 &&
	     errno == EINTR);
	must(setitimer(ITIMER_REAL, &once, NULL) == 0 && pselect(0, NULL, NULL, NULL, &second, &none) < 0 &&
	     errno == EINTR);
	must(setitimer(ITIMER_REAL, &once, NULL) == 0 && epoll_pwait(epoll, &event, 1, 5000, &none) < 0 &&
	     errno == EINTR);
	raise(SIGUSR1);
	raise(SIGALRM);
	must(ppoll(NULL, 0, &second, &none) < 0 && errno == EINTR);
	say_now("at the end");
	raise(SIGSYS);
	sigemptyset(&mask);
	sigaddset(&mask, SIGSYS);
	say("waited for %d", sigtimedwait(&mask, &info, &second));
	raise(SIGUSR1);
	sigaddset(&mask, SIGUSR1);
	say("waited for %d", sigtimedwait(&mask, &info, &second));
	say("handled %d", count);
}

/* A stack whose pages are absent until touched: the agent makes them present, or nobody has to. */
static char **absent_page;

static void absent_handler(int sig, siginfo_t *info, void *context)
{
	volatile char room[20000];

	memset((char *)room, 1, sizeof room);
	count += on_alternate((const void *)room);
}

static void absent(void)
{
	size_t *size = dlsym(RTLD_DEFAULT, "lh_test_absent_size");

	absent_page = dlsym(RTLD_DEFAULT, "lh_test_absent");
	use_alternate(0);
	set(SIGUSR1, absent_handler, SA_ONSTACK);
	for (int i = 0; i < 20; i++) {
		if (absent_page) {
			*size = alternate_size;
			*absent_page = alternate;
			must(mprotect(alternate, alternate_size, PROT_NONE) == 0);
		}
		raise(SIGUSR1);
	}
	say("%d", count);
}

static void *vector_thread(void *argument)
{
	return NULL;
}

static void uncaught(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, vector_thread, NULL);
	pthread_join(thread, NULL);
	abort();
}

static ucontext_t one, two;

static void other_context(void)
{
	count++;
	swapcontext(&two, &one);
	count++;
	setcontext(&one);
}

static void switch_away(int sig, siginfo_t *info, void *context)
{
	swapcontext(&one, &two);
	count++;
}

static void contexts(void)
{
	two.uc_stack.ss_sp = malloc(1 << 17);
	two.uc_stack.ss_size = 1 << 17;
	getcontext(&two);
	two.uc_stack.ss_size = 1 << 17;
	two.uc_stack.ss_sp = malloc(1 << 17);
	makecontext(&two, other_context, 0);
	set(SIGUSR1, switch_away, 0);
	raise(SIGUSR1);
	raise(SIGUSR1);
	say("%d", count);
}

static const struct seen_case cases[] = { { "basics", basics },
	                                  { "special", special },
	                                  { "faults", faults },
	                                  { "overflow", overflow },
	                                  { "deaths", deaths },
	                                  { "nesting", nesting },
	                                  { "stacks", stacks },
	                                  { "jumps", jumps },
	                                  { "storm", storm },
	                                  { "storm-threads", storm_threads },
	                                  { "interrupted", interrupted },
	                                  { "masks", masks },
	                                  { "absent", absent },
	                                  { "uncaught", uncaught },
	                                  { "contexts", contexts },
	                                  { NULL, NULL } };

int main(int argc, char **argv)
{
	return seen_main(argc, argv, cases);
}
