/*
 * code_inside.c - the inside agent, in a child of the test that loads it into itself.
 */
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <time.h>
#include <ucontext.h>

#include "code_inside.h"
#include "tap.h"

static struct agent agent;
static void *object;
static int (*sign)(int);
static double (*mean)(const double *, int);
static uint64_t (*flags)(void);
static int (*breakpoint)(void);
static int (*step)(unsigned, int);

/* A case ends at the first thing that is not as it should be, with its line as the exit status. */
#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition);                             \
			fflush(stdout);                                                                      \
			return 1;                                                                            \
		}                                                                                            \
	} while (0)

static const char *object_path(void)
{
	static char path[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);

	path[length > 0 ? length : 0] = 0;
	strcpy(strrchr(path, '/'), "/objects/watched.so");
	return path;
}

static bool load_object(void)
{
	object = dlopen(object_path(), RTLD_NOW | RTLD_LOCAL);
	if (!object)
		return false;
	*(void **)&sign = dlsym(object, "watched_sign");
	*(void **)&mean = dlsym(object, "watched_mean");
	*(void **)&flags = dlsym(object, "watched_flags");
	*(void **)&breakpoint = dlsym(object, "watched_breakpoint");
	*(void **)&step = dlsym(object, "watched_step");
	return sign && mean && flags && breakpoint && step;
}

static uint32_t the_object(const char *path)
{
	return strstr(path, "/watched.so") ? LH_ANSWER_WATCH : LH_ANSWER_SITES;
}

static uint32_t everything(const char *path)
{
	return path[0] == '/' ? LH_ANSWER_WATCH : LH_ANSWER_IGNORE;
}

static bool launched;

static int begin(void)
{
	MUST(load_object());
	MUST(agent_load(&agent));
	MUST(agent_start(&agent, launched, granularity) == 0);
	return 0;
}

static int mean_is_right(void)
{
	const double values[] = { 1, 2, 3, 4.5, 0.25 };
	double wanted = (1 - 0.5 + 2 - 0.5 + 3 + 4.5 + 0.25 - 0.5) / 5 + 3 * 4.5;
	double got = mean(values, 5);

	return got > wanted - 1e-12 && got < wanted + 1e-12;
}

/* ---- what is seen, and what remains ---- */

static int hits(void)
{
	MUST(begin() == 0);
	MUST(*(uint8_t *)sign == LH_INT3 && !hit((uint64_t)sign));
	MUST(sign(-5) == -1);
	MUST(*(uint8_t *)sign != LH_INT3 && hit((uint64_t)sign));
	MUST(!hit((uint64_t)mean) && *(uint8_t *)mean == LH_INT3);
	MUST(mean_is_right());
	MUST(hit((uint64_t)mean));
	MUST(flags() == 1 + 0x400 + 0x5678);
	MUST(sign(7) == 1 && sign(0) == 0);
	MUST(control()->traps > 3 && control()->spans >= control()->traps);
	return 0;
}

static int off(void)
{
	uint64_t traps;

	MUST(begin() == 0);
	control()->off = 1;
	traps = control()->traps;
	MUST(sign(-5) == -1 && !hit((uint64_t)sign) && control()->traps > traps);
	control()->off = 0;
	MUST(mean_is_right() && hit((uint64_t)mean));
	return 0;
}

struct picture {
	uint8_t *bytes;
	uint64_t start, size;
	char rights[8], *name;
};

/* Of the code that holds an address. */
static bool take_picture(const void *of, struct picture *picture)
{
	char line[512];
	uint64_t start, end;
	FILE *maps = fopen("/proc/self/maps", "re");

	*picture = (struct picture){ 0 };
	while (maps && !picture->bytes && fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx %7s", &start, &end, picture->rights) == 3 &&
		    start <= (uint64_t)of && end > (uint64_t)of) {
			picture->start = start;
			picture->size = end - start;
			picture->bytes = malloc(end - start);
			memcpy(picture->bytes, (void *)start, end - start);
			picture->name = strdup(strchr(line, '/') ? strchr(line, '/') : "");
		}
	fclose(maps);
	return picture->bytes != NULL;
}

static int stop(void)
{
	const void *places[3];
	struct picture before[3], after[3];
	struct sigaction action, mine = { .sa_handler = SIG_IGN };
	unsigned i;

	sigfillset(&mine.sa_mask);
	MUST(sigaction(SIGUSR1, &mine, NULL) == 0);
	MUST(load_object() && agent_load(&agent));
	places[0] = (void *)sign;
	places[1] = (void *)&sigaction;
	places[2] = (void *)&load_object;
	for (i = 0; i < 3; i++)
		MUST(take_picture(places[i], &before[i]));
	MUST(agent_start(&agent, launched, granularity) == 0);
	MUST(take_picture(places[0], &after[0]) && after[0].rights[1] == 'w');
	MUST(memcmp(before[0].bytes, after[0].bytes, before[0].size) != 0);
	MUST(sign(1) == 1 && mean_is_right());
	MUST(sigaction(SIGUSR2, &mine, NULL) == 0);
	MUST(sigaction(SIGTRAP, &mine, NULL) == 0);
	MUST(agent.stop(0) == 0);
	for (i = 0; i < 3; i++) {
		MUST(take_picture(places[i], &after[i]));
		MUST(before[i].size == after[i].size);
		MUST(memcmp(before[i].bytes, after[i].bytes, before[i].size) == 0);
		MUST(strcmp(after[i].rights, "r-xp") == 0 && strcmp(after[i].name, before[i].name) == 0);
	}
	MUST(sigaction(SIGUSR1, NULL, &action) == 0 && sigismember(&action.sa_mask, SIGTRAP));
	MUST(sigaction(SIGUSR2, NULL, &action) == 0 && sigismember(&action.sa_mask, SIGTRAP));
	MUST(sigaction(SIGTRAP, NULL, &action) == 0 && action.sa_handler == SIG_IGN);
	MUST(sigaction(SIGHUP, NULL, &action) == 0 && !sigismember(&action.sa_mask, SIGTRAP));
	MUST(sign(-1) == -1);
	return 0;
}

/* A second start after a stop, with the record of the first: what was seen is not absent. */
static int again(void)
{
	MUST(begin() == 0);
	MUST(sign(-1) == -1 && agent.stop(0) == 0);
	MUST(agent_load(&agent) && agent_start(&agent, launched, granularity) == 0);
	MUST(*(uint8_t *)sign != LH_INT3 && *(uint8_t *)mean == LH_INT3);
	MUST(sign(-1) == -1 && mean_is_right());
	return 0;
}

/* ---- the program's own signals ---- */

static int blocked_and_ignored(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN, .sa_flags = SA_RESTART }, old;
	sigset_t all, set;

	MUST(begin() == 0);
	sigfillset(&all);
	MUST(sigprocmask(SIG_BLOCK, &all, &set) == 0 && !sigismember(&set, SIGTRAP));
	MUST(sign(3) == 1);
	MUST(sigprocmask(SIG_BLOCK, NULL, &set) == 0 && sigismember(&set, SIGTRAP) &&
	     sigismember(&set, SIGINT));
	MUST(sigprocmask(SIG_SETMASK, &set, NULL) == 0);
	MUST(sigaction(SIGTRAP, &ignore, &old) == 0 && old.sa_handler == SIG_DFL);
	MUST(mean_is_right());
	MUST(sigaction(SIGTRAP, NULL, &old) == 0 && old.sa_handler == SIG_IGN && old.sa_flags & SA_RESTART);
	sigemptyset(&set);
	sigaddset(&set, SIGTRAP);
	MUST(sigprocmask(SIG_UNBLOCK, &set, &all) == 0 && sigismember(&all, SIGTRAP));
	MUST(sigprocmask(SIG_BLOCK, NULL, &set) == 0 && !sigismember(&set, SIGTRAP) &&
	     sigismember(&set, SIGINT));
	MUST(kill(getpid(), SIGTRAP) == 0);
	MUST(step(2, 9) == 46);
	/* What the kernel says to calls that are wrong, the agent says too. */
	MUST(sigprocmask(77, &set, NULL) == -1 && errno == EINVAL);
	MUST(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8, 0, 8) == -1 && errno == EFAULT);
	MUST(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0, 8, 8) == -1 && errno == EFAULT);
	MUST(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, 0, 4) == -1 && errno == EINVAL);
	MUST(syscall(SYS_rt_sigaction, SIGTRAP, 8, 0, 8) == -1 && errno == EFAULT);
	MUST(syscall(SYS_rt_sigaction, SIGUSR1, 8, 0, 8) == -1 && errno == EFAULT);
	MUST(syscall(SYS_rt_sigaction, SIGTRAP, 0, 8, 8) == -1 && errno == EFAULT);
	MUST(syscall(SYS_rt_sigaction, SIGKILL, &old, 0, 8) == -1 && errno == EINVAL);
	return 0;
}

static volatile int trapped, trap_code, other, trap_in_mask, hup_in_mask;
static volatile uintptr_t trap_rip;

static void on_trap(int signal, siginfo_t *info, void *raw)
{
	ucontext_t *context = raw;
	sigset_t now;

	trapped++;
	trap_code = info->si_code;
	trap_rip = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
	sigprocmask(SIG_BLOCK, NULL, &now);
	trap_in_mask = sigismember(&now, SIGTRAP);
	hup_in_mask = sigismember(&now, SIGHUP);
	step((unsigned)trapped, 4);
}

static int own_handler(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO }, old;
	sigset_t set;

	MUST(begin() == 0);
	sigaddset(&action.sa_mask, SIGHUP);
	MUST(sigaction(SIGTRAP, &action, NULL) == 0);
	MUST(sigaction(SIGTRAP, NULL, &old) == 0 && old.sa_sigaction == on_trap &&
	     old.sa_flags & SA_SIGINFO && sigismember(&old.sa_mask, SIGHUP) &&
	     !sigismember(&old.sa_mask, SIGTRAP));
	MUST(kill(getpid(), SIGTRAP) == 0 && trapped == 1 && trap_code == SI_USER && trap_in_mask &&
	     hup_in_mask);
	MUST(raise(SIGTRAP) == 0 && trapped == 2 && trap_code == SI_TKILL);
	sigprocmask(SIG_BLOCK, NULL, &set);
	MUST(!sigismember(&set, SIGTRAP) && !sigismember(&set, SIGHUP));
	MUST(breakpoint() == 3 && trapped == 3 && trap_code == SI_KERNEL);
	MUST(trap_rip > (uintptr_t)breakpoint && trap_rip < (uintptr_t)breakpoint + 16 &&
	     ((uint8_t *)trap_rip)[-1] == LH_INT3);
	__asm__ volatile("int3");
	MUST(trapped == 4);
	__asm__ volatile(".byte 0xcd, 3");
	MUST(trapped == 5);
	/* Held as long as it is blocked. */
	sigemptyset(&set);
	sigaddset(&set, SIGTRAP);
	MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	MUST(kill(getpid(), SIGTRAP) == 0 && kill(getpid(), SIGTRAP) == 0 && trapped == 5);
	MUST(sign(8) == 1);
	MUST(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0 && trapped == 6 && trap_code == SI_USER);
	action.sa_flags = (int)(SA_SIGINFO | SA_RESETHAND | SA_NODEFER);
	MUST(sigaction(SIGTRAP, &action, NULL) == 0 && raise(SIGTRAP) == 0 && trapped == 7 && !trap_in_mask);
	MUST(sigaction(SIGTRAP, NULL, &old) == 0 && old.sa_handler == SIG_DFL);
	MUST(mean_is_right());
	return 0;
}

static int dies_by_trap(void (*how)(void))
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_DUMPABLE, 0);
		how();
		_exit(0);
	}
	MUST(waitpid(child, &status, 0) == child);
	MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGTRAP);
	return 0;
}

static void die_by_kill(void)
{
	kill(getpid(), SIGTRAP);
}

static void die_by_breakpoint(void)
{
	breakpoint();
}

static void die_ignoring(void)
{
	signal(SIGTRAP, SIG_IGN);
	breakpoint();
}

static void die_blocking(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	breakpoint();
}

static int default_action(void)
{
	MUST(begin() == 0);
	MUST(dies_by_trap(die_by_kill) == 0);
	MUST(dies_by_trap(die_by_breakpoint) == 0);
	MUST(dies_by_trap(die_ignoring) == 0);
	MUST(dies_by_trap(die_blocking) == 0);
	MUST(sign(1) == 1);
	return 0;
}

static sigjmp_buf out;
static volatile int jump_out;

static void on_other(int signal)
{
	other += sign(signal);
	step((unsigned)other, 7);
	if (jump_out)
		siglongjmp(out, 1);
}

static void later(timer_t timer)
{
	struct itimerspec when = { .it_value = { 0, 2000000 } };

	timer_settime(timer, 0, &when, NULL);
}

static int waits(void)
{
	struct sigaction action = { .sa_handler = on_other }, old;
	struct timespec second = { 5, 0 };
	sigset_t all, set;
	timer_t timer;
	int poller;

	MUST(begin() == 0);
	sigfillset(&action.sa_mask);
	MUST(sigaction(SIGALRM, &action, NULL) == 0);
	MUST(sigaction(SIGALRM, NULL, &old) == 0 && sigismember(&old.sa_mask, SIGTRAP) &&
	     old.sa_handler == on_other);
	MUST(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &set);
	sigdelset(&all, SIGALRM);
	later(timer);
	MUST(sigsuspend(&all) == -1 && errno == EINTR && other == 1);
	later(timer);
	MUST(ppoll(NULL, 0, &second, &all) == -1 && errno == EINTR && other == 2);
	later(timer);
	MUST(pselect(0, NULL, NULL, NULL, &second, &all) == -1 && errno == EINTR && other == 3);
	poller = epoll_create1(0);
	later(timer);
	MUST(epoll_pwait(poller, &(struct epoll_event){ 0 }, 1, 5000, &all) == -1 && errno == EINTR &&
	     other == 4);
	jump_out = 1;
	later(timer);
	if (sigsetjmp(out, 1) == 0)
		sigsuspend(&all);
	jump_out = 0;
	sigprocmask(SIG_BLOCK, NULL, &all);
	MUST(other == 5 && sigismember(&all, SIGTRAP) && sigismember(&all, SIGALRM));
	sigprocmask(SIG_SETMASK, &set, NULL);
	MUST(mean_is_right());
	return 0;
}

/* A SIGTRAP that waited is what sigsuspend waits for. */
static int waits_for_trap(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	sigset_t set, none;

	MUST(begin() == 0);
	MUST(sigaction(SIGTRAP, &action, NULL) == 0);
	sigemptyset(&none);
	sigemptyset(&set);
	sigaddset(&set, SIGTRAP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	kill(getpid(), SIGTRAP);
	MUST(trapped == 0);
	MUST(sigsuspend(&none) == -1 && errno == EINTR && trapped == 1);
	sigprocmask(SIG_BLOCK, NULL, &set);
	MUST(sigismember(&set, SIGTRAP));
	MUST(sign(-2) == -1);
	return 0;
}

/* Signals come all the time, on a stack of their own, and their handler is unseen code as well. */
static int storm(void)
{
	static char stack[65536];
	struct sigaction action = { .sa_handler = on_other, .sa_flags = SA_ONSTACK | SA_RESTART };
	struct itimerspec when = { { 0, 50000 }, { 0, 50000 } };
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
	timer_t timer;
	unsigned round;

	MUST(begin() == 0);
	MUST(sigaltstack(&alternate, NULL) == 0 && sigaction(SIGALRM, &action, NULL) == 0);
	MUST(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0);
	timer_settime(timer, 0, &when, NULL);
	for (round = 0; round < 400; round++) {
		struct lh_span whole = { 0, 0 };

		MUST(agent.stop && mean_is_right() && flags() == 1 + 0x400 + 0x5678);
		MUST(step(round, 9) == 9 * (3 + (int)(round % 16)) + 1);
		MUST(kill(getpid(), SIGALRM) == 0);
		(void)whole;
	}
	MUST(other > 400);
	return 0;
}

/* A sequence that the kernel aborts whenever a signal comes, which a trap is. */
static int sequences(void)
{
	int (*sequence)(void *, int *), aborts = 0;

	MUST(begin() == 0);
	*(void **)&sequence = dlsym(object, "watched_sequence");
	if (__rseq_size == 0)
		return 0;
	MUST(sequence((char *)__builtin_thread_pointer() + __rseq_offset, &aborts) == 77);
	MUST(aborts < 1000 && (aborts > 0 || granularity == LH_GRANULARITY_LINE));
	MUST(mean_is_right());
	return 0;
}

/* ---- processes and threads ---- */

static void *run_steps(void *argument)
{
	uintptr_t sum = 0;
	unsigned i;

	(void)argument;
	for (i = 0; i < 160; i++)
		sum += (uintptr_t)step(i, (int)i * 7);
	return (void *)sum;
}

static int threads(void)
{
	pthread_t thread[4];
	void *sum[4];
	unsigned i;

	MUST(begin() == 0);
	for (i = 0; i < 4; i++)
		MUST(pthread_create(&thread[i], NULL, run_steps, NULL) == 0);
	for (i = 0; i < 4; i++)
		MUST(pthread_join(thread[i], &sum[i]) == 0 && sum[i] == sum[0]);
	MUST(agent.stop(0) == 0);
	MUST(run_steps(NULL) == sum[0]);
	return 0;
}

static int children(void)
{
	char *const command[] = { "true", NULL };
	int status;
	pid_t child;

	MUST(begin() == 0);
	child = fork();
	if (child == 0)
		_exit(sign(-1) == -1 && hit((uint64_t)sign) ? 5 : 6);
	MUST(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
	MUST(hit((uint64_t)sign) && *(uint8_t *)sign == LH_INT3); /* the record is shared, memory is not */
	MUST(posix_spawnp(&child, "true", NULL, NULL, command, environ) == 0);
	MUST(waitpid(child, &status, 0) == child && status == 0);
	MUST(system("exit 7") == 7 << 8);
	child = vfork();
	if (child == 0) {
		execlp("true", "true", (char *)NULL);
		_exit(9);
	}
	MUST(waitpid(child, &status, 0) == child && status == 0);
	MUST(seen->executes >= 3);
	MUST(sign(-1) == -1 && mean_is_right());
	return 0;
}

/* A child that shares memory sets what is its own only. */
static int guests(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO }, old;
	posix_spawnattr_t attributes;
	char *const command[] = { "sh", "-c", "grep -q '^SigIgn:.*0$' /proc/self/status", NULL };
	sigset_t set;
	int status;
	pid_t child;

	MUST(begin() == 0);
	MUST(sigaction(SIGTRAP, &action, NULL) == 0);
	posix_spawnattr_init(&attributes);
	sigfillset(&set);
	posix_spawnattr_setsigdefault(&attributes, &set);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
	MUST(posix_spawnp(&child, "sh", NULL, &attributes, command, environ) == 0);
	MUST(waitpid(child, &status, 0) == child && status == 0);
	MUST(sigaction(SIGTRAP, NULL, &old) == 0 && old.sa_sigaction == on_trap);
	MUST(raise(SIGTRAP) == 0 && trapped == 1);
	return 0;
}

/* What a program that is executed inherits is what the program set. */
static int inherited(void)
{
	const char *test = "set -- $(grep -E '^Sig(Blk|Ign):' /proc/self/status); "
			   "[ $((0x$2 & 16)) = 16 ] && [ $((0x$4 & 16)) = 16 ]";
	sigset_t set;

	MUST(begin() == 0);
	signal(SIGTRAP, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTRAP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	MUST(execl("/nowhere/at/all", "x", (char *)NULL) == -1 && errno == ENOENT);
	MUST(sign(4) == 1 && mean_is_right());
	sigprocmask(SIG_BLOCK, NULL, &set);
	MUST(sigismember(&set, SIGTRAP));
	execl("/bin/sh", "sh", "-c", test, (char *)NULL);
	return 2;
}

/* Calls whose number is not known where they stand. */
static int unknown_calls(void)
{
	uint64_t calls;
	int status;
	long child;

	MUST(begin() == 0);
	calls = control()->system_calls;
	MUST(syscall(SYS_getpid) == getpid() && control()->system_calls > calls);
	MUST(syscall(SYS_close, -1) == -1 && errno == EBADF);
	child = syscall(SYS_fork);
	if (child == 0)
		syscall(SYS_exit, sign(-3) == -1 ? 4 : 5);
	MUST(waitpid((pid_t)child, &status, 0) == child && WEXITSTATUS(status) == 4);
	child = syscall(SYS_clone3,
	                &(uint64_t[8]){ 0x100000000ull /* CLONE_CLEAR_SIGHAND */, 0, 0, 0, SIGCHLD }, 64ul);
	if (child == 0)
		_exit(sign(-3) == -1 ? 4 : 5);
	MUST(child > 0 && waitpid((pid_t)child, &status, 0) == child && WEXITSTATUS(status) == 4);
	return 0;
}

/* ---- modules that come and go ---- */

static int modules(void)
{
	unsigned round, known;

	MUST(agent_load(&agent) && agent_start(&agent, launched, granularity) == 0);
	for (round = 0; round < 5; round++) {
		known = seen->modules;
		MUST(load_object() && seen->modules == known + 1);
		MUST(*(uint8_t *)mean == (round ? *(uint8_t *)mean : LH_INT3));
		MUST(hit((uint64_t)mean) == (round > 0));
		MUST(mean_is_right() && hit((uint64_t)mean));
		MUST(dlclose(object) == 0);
	}
	MUST(load_object());
	MUST(sign(2) == 1 && agent.stop(0) == 0 && sign(-2) == -1);
	return 0;
}

/* A program that writes to its own code finds its code. */
static int writes_code(void)
{
	uint8_t *page = (uint8_t *)((uintptr_t)sign & ~4095ul);

	MUST(begin() == 0);
	page = (uint8_t *)((uintptr_t)sign & ~4095ul);
	MUST(*(uint8_t *)sign == LH_INT3);
	MUST(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0 && *(uint8_t *)sign != LH_INT3);
	memcpy((void *)sign, "\xb8\x2a\0\0\0\xc3", 6);
	MUST(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
	MUST(sign(1) == 42 && agent.stop(0) == 0 && sign(1) == 42);
	return 0;
}

/* Nobody answers any more. */
static int alone(void)
{
	MUST(begin() == 0);
	memset(watcher_name, 'x', 8);
	MUST(sign(1) == 1);
	return 0;
}

static int no_watcher(void)
{
	struct sigaction action;
	struct lh_error error;

	memset(watcher_name, 'x', 8);
	MUST(load_object() && agent_load(&agent));
	MUST(agent_try(&agent, launched, granularity, &error) == -ECONNREFUSED);
	MUST(strcmp(error.text, "the watcher does not answer") == 0);
	MUST(sigaction(SIGTRAP, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
	return 0;
}

/* Where memory may not be writable and executable at once. */
static int refusing_kernel(void)
{
	MUST(load_object() && agent_load(&agent));
	if (prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0) != 0)
		return 0;
	MUST(agent_start(&agent, launched, granularity) == 0);
	MUST(*(uint8_t *)sign == LH_INT3 && sign(-4) == -1 && hit((uint64_t)sign));
	MUST(mean_is_right());
	return 0;
}

/* ---- all of it ---- */

static const struct {
	const char *what;
	int (*body)(void);
} cases[] = {
	{ "what runs is recorded and nothing else", hits },
	{ "nothing is recorded while it is switched off", off },
	{ "stop brings back bytes, rights and actions", stop },
	{ "what was seen before is not absent again", again },
	{ "all signals blocked, and SIGTRAP ignored", blocked_and_ignored },
	{ "the program's own SIGTRAP", own_handler },
	{ "SIGTRAP's default action is death", default_action },
	{ "waiting with SIGTRAP in the mask, and longjmp out of it", waits },
	{ "waiting for a SIGTRAP that was held", waits_for_trap },
	{ "signals all the time", storm },
	{ "a restartable sequence", sequences },
	{ "threads", threads },
	{ "fork, posix_spawn, system and vfork", children },
	{ "a child that shares memory has actions of its own", guests },
	{ "what an executed program inherits", inherited },
	{ "calls through syscall(), fork and clone3 among them", unknown_calls },
	{ "dlopen and dlclose", modules },
	{ "a program that writes to its code", writes_code },
	{ "a watcher that is gone", alone },
	{ "no watcher", no_watcher },
	{ "memory that cannot be writable and executable", refusing_kernel },
};

static void run_all(const char *how)
{
	unsigned i;

	for (i = 0; i < sizeof cases / sizeof *cases; i++) {
		int status;

		if (!watcher_reset())
			exit(1);
		status = watch_child(cases[i].body);
		if (!ok(status == 0, "%s: %s", how, cases[i].what))
			printf("# wait status 0x%x\n", (unsigned)status);
	}
}

int main(void)
{
	if (!watcher_open())
		return 1;
	choose = the_object;
	run_all("attached, by block");
	launched = true;
	run_all("launched, by block");
	granularity = LH_GRANULARITY_LINE;
	run_all("launched, by line");
	launched = false;
	granularity = LH_GRANULARITY_BLOCK;
	choose = everything;
	run_all("attached, all code");
	return done();
}
