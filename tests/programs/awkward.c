/*
 * awkward.c - what a program may do that somebody who watches its code has to survive. Each part checks
 * itself; the output is the same however it is run.
 *
 *     awkward threads|jumps|blocked|ignored|traps|suspend|spawn|load|digest|limited|inherit [PROGRAM]
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 16

extern char **environ;
static volatile sig_atomic_t caught;
static sigjmp_buf back;

static uint64_t mix(uint64_t x)
{
	for (int i = 0; i < 1000; i++)
		x = (x ^ x >> 29) * 0x9e3779b97f4a7c15u;
	return x;
}

/* Code that no other part has run before: it is absent when a part comes here. */
#define FRESH(name)                                                                                          \
	static __attribute__((noinline)) uint64_t name(uint64_t x)                                           \
	{                                                                                                    \
		return x % 3 == 1 ? mix(x + __LINE__) : x % 3 == 2 ? mix(x * 3) : mix(x ^ 0x55);             \
	}
FRESH(fresh_thread)
FRESH(fresh_handler)
FRESH(fresh_blocked)
FRESH(fresh_ignored)
FRESH(fresh_trap)
FRESH(fresh_suspended)
FRESH(fresh_jump)

static void *thread(void *argument)
{
	uint64_t sum = (uint64_t)(uintptr_t)argument;

	for (int i = 0; i < 2000; i++)
		sum += fresh_thread(sum + (uint64_t)i);
	return (void *)(uintptr_t)sum;
}

static void threads(void)
{
	pthread_t id[THREADS];
	uint64_t sum = 0;

	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&id[i], NULL, thread, (void *)i) != 0)
			exit(1);
	for (int i = 0; i < THREADS; i++) {
		void *result;

		pthread_join(id[i], &result);
		sum ^= (uint64_t)(uintptr_t)result;
	}
	printf("threads %016lx\n", (unsigned long)sum);
}

static void on_signal(int sig)
{
	caught++;
	if (fresh_handler((uint64_t)sig) == 0)
		abort();
}

static void jump_out(int sig)
{
	caught++;
	siglongjmp(back, (int)(fresh_jump((uint64_t)sig) & 1) + 1);
}

static void set(int sig, void (*handler)(int), int full)
{
	struct sigaction action = { .sa_handler = handler };

	if (full)
		sigfillset(&action.sa_mask);
	if (sigaction(sig, &action, NULL) != 0)
		exit(1);
}

/* Jumps out of handlers, of one that runs on a stack of its own, and of one that blocks all. */
static void jumps(void)
{
	static char stack[65536];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_handler = jump_out, .sa_flags = SA_ONSTACK };
	volatile int rounds = 0, sum = 0;

	sigaltstack(&alternate, NULL);
	sigfillset(&action.sa_mask);
	sigaction(SIGUSR1, &action, NULL);
	set(SIGUSR2, jump_out, 1);
	while (rounds < 100) {
		int value = sigsetjmp(back, 1);

		sum += value;
		rounds++;
		if (rounds < 100)
			raise(rounds % 2 ? SIGUSR1 : SIGUSR2);
	}
	printf("jumps %d caught %d values %d\n", rounds, (int)caught, sum);
}

/* With every signal blocked, SIGTRAP too. */
static void blocked(void)
{
	sigset_t all, old, now;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	printf("blocked %016lx", (unsigned long)fresh_blocked(7));
	sigprocmask(SIG_BLOCK, NULL, &now);
	printf(" SIGTRAP %d SIGUSR1 %d", sigismember(&now, SIGTRAP), sigismember(&now, SIGUSR1));
	sigprocmask(SIG_SETMASK, &old, &now);
	printf(" was %d, then", sigismember(&now, SIGTRAP));
	sigprocmask(SIG_BLOCK, NULL, &now);
	printf(" %d\n", sigismember(&now, SIGTRAP));
	set(SIGUSR1, on_signal, 1);
	raise(SIGUSR1);
	printf("handler with a full mask: %d\n", (int)caught);
}

static void ignored(void)
{
	struct sigaction old;

	signal(SIGTRAP, SIG_IGN);
	raise(SIGTRAP);
	printf("ignored %016lx", (unsigned long)fresh_ignored(8));
	sigaction(SIGTRAP, NULL, &old);
	printf(" %s\n", old.sa_handler == SIG_IGN ? "still ignored" : "CHANGED");
}

/* Its own handler for SIGTRAP, for signals that are sent and for a breakpoint of its own. */
static void traps(void)
{
	struct sigaction old;

	set(SIGTRAP, on_signal, 0);
	raise(SIGTRAP);
	printf("sent %d\n", (int)caught);
	__asm__ volatile("int3");
	printf("own breakpoint %d %016lx\n", (int)caught, (unsigned long)fresh_trap(9));
	sigaction(SIGTRAP, NULL, &old);
	printf("handler %s\n", old.sa_handler == on_signal ? "kept" : "CHANGED");
	signal(SIGTRAP, SIG_DFL);
	fflush(stdout);
	if (fork() == 0) {
		raise(SIGTRAP);
		_exit(0);
	}
	int status;

	wait(&status);
	printf("child ended by %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static void on_suspended(int sig)
{
	caught += fresh_suspended((uint64_t)sig) != 0;
}

/* Waits with all signals but one blocked: the handler runs with those blocked. */
static void suspend(void)
{
	sigset_t one, all;
	struct timespec limit = { .tv_sec = 10 };
	int result;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	set(SIGUSR1, on_suspended, 1);
	sigdelset(&all, SIGUSR1);
	one = all;
	kill(getpid(), SIGUSR1);
	result = sigsuspend(&one);
	printf("suspend %d %s caught %d\n", result, strerrorname_np(errno), (int)caught);
	kill(getpid(), SIGUSR1);
	result = ppoll(NULL, 0, &limit, &one);
	printf("ppoll %d %s caught %d\n", result, strerrorname_np(errno), (int)caught);
	sigprocmask(SIG_BLOCK, NULL, &all);
	printf("SIGUSR1 %d\n", sigismember(&all, SIGUSR1));
}

static void spawn(const char *program)
{
	char *arguments[] = { (char *)program, NULL };
	int status = -1;
	pid_t child;

	fflush(stdout);
	for (int i = 0; i < 5; i++) {
		if (posix_spawn(&child, program, NULL, NULL, arguments, environ) != 0 ||
		    waitpid(child, &status, 0) != child)
			exit(1);
		printf("spawned %d\n", WEXITSTATUS(status));
	}
	child = vfork();
	if (child == 0) {
		execv("/nonexistent", arguments);
		_exit(errno == ENOENT ? 3 : 4);
	}
	waitpid(child, &status, 0);
	printf("execv of nothing in a child of vfork %d\n", WEXITSTATUS(status));
	printf("execv of nothing %d\n", execv("/nonexistent", arguments));
	status = system("exit 7");
	printf("system %d\n", WEXITSTATUS(status));
}

/* Loads and unloads a library that nothing else uses, again and again. */
static void load(void)
{
	for (int i = 0; i < 20; i++) {
		void *library = dlopen("libz.so.1", RTLD_NOW), *symbol;
		unsigned long (*crc)(unsigned long, const unsigned char *, unsigned);

		if (library == NULL) {
			printf("no libz\n");
			return;
		}
		symbol = dlsym(library, "crc32");
		memcpy(&crc, &symbol, sizeof(crc));
		if (i == 0)
			printf("crc32 %08lx\n", crc(0, (const unsigned char *)"linehome", 8));
		dlclose(library);
	}
	printf("loaded 20 times\n");
}

/* For a second, code of a large library, again and again. */
static void digest(void)
{
	void *library = dlopen("libcrypto.so.3", RTLD_NOW), *symbol;
	unsigned char *(*sha256)(const unsigned char *, size_t, unsigned char *);
	time_t end = time(NULL) + 2;
	unsigned char out[32];

	if (library == NULL) {
		printf("no libcrypto\n");
		return;
	}
	symbol = dlsym(library, "SHA256");
	memcpy(&sha256, &symbol, sizeof(sha256));
	while (time(NULL) < end)
		for (int i = 0; i < 100; i++)
			sha256((const unsigned char *)"linehome", 8, out);
	printf("digest %02x%02x%02x%02x\n", out[0], out[1], out[2], out[3]);
}

/* The same with room for the library itself, but not for more: it cannot be watched. */
static void limited(void)
{
	struct rlimit limit;
	unsigned long pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	if (file == NULL || fscanf(file, "%lu", &pages) != 1)
		exit(1);
	fclose(file);
	limit.rlim_cur = limit.rlim_max = pages * 4096 + (7 << 20);
	if (setrlimit(RLIMIT_AS, &limit) != 0)
		exit(1);
	digest();
}

/* What a program that is executed finds of SIGTRAP. */
static void inherit(const char *self)
{
	struct sigaction old;
	sigset_t mask;

	if (self != NULL) {
		sigemptyset(&mask);
		sigaddset(&mask, SIGTRAP);
		signal(SIGTRAP, SIG_IGN);
		sigprocmask(SIG_BLOCK, &mask, NULL);
		execl(self, self, "inherit", (char *)NULL);
		exit(1);
	}
	sigaction(SIGTRAP, NULL, &old);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	printf("inherited: %s, %s\n", old.sa_handler == SIG_IGN ? "ignored" : "not ignored",
	       sigismember(&mask, SIGTRAP) ? "blocked" : "not blocked");
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*function)(void);
	} parts[] = { { "threads", threads }, { "jumps", jumps },   { "blocked", blocked },
		      { "ignored", ignored }, { "traps", traps },   { "suspend", suspend },
		      { "load", load },       { "digest", digest }, { "limited", limited } };

	for (size_t i = 0; argc > 1 && i < sizeof(parts) / sizeof(*parts); i++)
		if (strcmp(argv[1], parts[i].name) == 0) {
			parts[i].function();
			return 0;
		}
	if (argc > 2 && strcmp(argv[1], "spawn") == 0)
		spawn(argv[2]);
	else if (argc > 1 && strcmp(argv[1], "inherit") == 0)
		inherit(argv[2]);
	else
		return 2;
	return 0;
}
