/*
 * intercept.c - the agent of the interceptor's tests: it sees every call, does it, and counts.
 *
 * LH_INTERCEPT, words: none (the hook wants no call), net (rewrite nothing), rewrite (no net), count (count
 * calls that nobody wants), hostile (the hook destroys all vector registers and flags), report (counters on
 * stderr at the end).
 * Words that plant faults, for the tests of the tests: torn (getpid changes rbx), lose (every tenth
 * call is not counted).
 * fail=N: while the interceptor opens, the Nth call that can fail does; the program then runs unseen, or with
 * what is left.
 * LH_INTERCEPT_OUT: a file to which each process appends "number count" for the calls that it made between
 * getpgid(-12345) and getpgid(-12346).
 */
#include "port/page/intercept/intercept.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define BEGIN (-12345)
#define END (-12346)

static struct {
	long count[LH_INTERCEPT_NUMBERS];
	int marked, hostile, report, torn, lose, seen;
	const char *out;
	long faults;
} agent;

static void put(int fd, const char *text, size_t size)
{
	lh__raw_syscall(SYS_write, fd, (long)text, (long)size, 0, 0, 0);
}

static void write_counts(void)
{
	char text[16384];
	size_t size = 0;
	long fd;

	for (int i = 0; i < LH_INTERCEPT_NUMBERS; i++) {
		long count = __atomic_exchange_n(&agent.count[i], 0, __ATOMIC_RELAXED);

		if (count && size < sizeof text - 64)
			size += lh__format(text + size, sizeof text - size, "%d %ld\n", i, count);
	}
	if (!agent.out || !size)
		return;
	fd = lh__raw_syscall(SYS_openat, AT_FDCWD, (long)agent.out, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC,
	                     0600, 0, 0);
	put((int)fd, text, size);
	lh__raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
}

__attribute__((noinline)) static void destroy(void)
{
	if (__builtin_cpu_supports("avx512f"))
		__asm__ volatile(
			"vpternlogd $0xff, %%zmm0, %%zmm0, %%zmm0\n vmovdqa64 %%zmm0, %%zmm7\n"
			"vmovdqa64 %%zmm0, %%zmm15\n vmovdqa64 %%zmm0, %%zmm31\n kxnorw %%k1, %%k1, %%k1\n"
			"kxnorw %%k7, %%k7, %%k7\n"
			:
			:
			: "xmm0", "xmm7", "xmm15", "cc");
	__asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n movdqa %%xmm0, %%xmm1\n movdqa %%xmm0, %%xmm14\n"
	                 :
	                 :
	                 : "xmm0", "xmm1", "xmm14");
}

static void count(const struct lh_trap *trap)
{
	if (trap->nr == SYS_getpgid && (int)trap->argument[0] == BEGIN)
		agent.marked = 1;
	else if (trap->nr == SYS_getpgid && (int)trap->argument[0] == END)
		agent.marked = 0;
	else if (agent.marked && !(agent.lose && ++agent.seen % 10 == 0))
		__atomic_add_fetch(&agent.count[trap->nr], 1, __ATOMIC_RELAXED);
}

static long hook(void *context, struct lh_trap *trap)
{
	long result;

	(void)context;
	count(trap);
	if (trap->nr == SYS_execve || trap->nr == SYS_execveat)
		write_counts();
	result = lh__intercept_proceed(trap);
	if (result == LH_INTERCEPT_RESTART && agent.marked)
		__atomic_sub_fetch(&agent.count[trap->nr], 1, __ATOMIC_RELAXED);
	if (agent.hostile)
		destroy();
	if (agent.torn && trap->nr == SYS_getpid)
		((uint64_t *)trap->thread)[3] ^= 1; /* where the record keeps rbx */
	return result;
}

static void on_start(void *context, enum lh_intercept_start how)
{
	(void)context;
	if (how == LH_START_FORK)
		memset(agent.count, 0, sizeof agent.count);
}

static void on_process_exit(void *context, int status)
{
	struct lh_intercept_counters c;
	char text[512];

	(void)context;
	(void)status;
	write_counts();
	lh__intercept_counters(&c);
	if (agent.report)
		put(2, text,
		    lh__format(text, sizeof text,
		               "sites %lu rewritten %lu; calls: rewritten %lu net %lu straight %lu; signals "
		               "%lu deferred %lu\n",
		               c.sites_found, c.sites_rewritten, c.calls_rewritten, c.calls_net,
		               c.calls_straight, c.signals, c.deferred));
}

/* What the tests ask by dlsym. */
__attribute__((visibility("default"))) void lh_test_counters(struct lh_intercept_counters *counters);
__attribute__((visibility("default"))) void lh_test_counters(struct lh_intercept_counters *counters)
{
	lh__intercept_counters(counters);
}

__attribute__((visibility("default"))) unsigned lh_test_capabilities(void);
__attribute__((visibility("default"))) unsigned lh_test_capabilities(void)
{
	return lh__intercept_capabilities();
}

/* A page that the tests want "absent": a fault in it is the agent's, which makes it present. */
__attribute__((visibility("default"))) char *lh_test_absent;
__attribute__((visibility("default"))) size_t lh_test_absent_size;
__attribute__((visibility("default"))) long lh_test_faults;

static int claim(void *context, int sig, siginfo_t *info, void *ucontext)
{
	uintptr_t at = (uintptr_t)info->si_addr, start = (uintptr_t)lh_test_absent;

	(void)context;
	(void)sig;
	(void)ucontext;
	if (!start || info->si_code <= 0 || at - start >= lh_test_absent_size)
		return 0;
	lh_test_faults++;
	lh__raw_syscall(SYS_mprotect, (long)(at & ~4095ul), 4096, 3, 0, 0, 0);
	return 1;
}

static struct lh_sys table;
static int countdown;

/* Not the calls about signals and threads: given right arguments they do not fail. */
static long failing(void *context, long nr, const long argument[6])
{
	static const short may_fail[] = { SYS_mmap,     SYS_mprotect, SYS_openat, SYS_read,
		                          SYS_pwrite64, SYS_fstat,    SYS_prctl };

	for (size_t i = 0; i < sizeof may_fail / sizeof *may_fail; i++)
		if (nr == may_fail[i] && countdown > 0 && --countdown == 0)
			return -12; /* ENOMEM */
	return lh__sys_default.call(context, nr, argument);
}

__attribute__((constructor)) static void start(void)
{
	const char *words = getenv("LH_INTERCEPT");
	struct lh_intercept_config config = { .sys = &table, .hook = hook };
	struct lh_error error;

	if (!words)
		words = "";
	table = lh__sys_default;
	agent.out = getenv("LH_INTERCEPT_OUT");
	agent.hostile = strstr(words, "hostile") != NULL;
	agent.torn = strstr(words, "torn") != NULL;
	agent.lose = strstr(words, "lose") != NULL;
	agent.report = strstr(words, "report") != NULL;
	if (!strstr(words, "none"))
		memset(config.bitmap, 0xff, sizeof config.bitmap);
	config.no_rewrite = strstr(words, "net") != NULL;
	config.no_dispatch = strstr(words, "rewrite") != NULL;
	config.count_all = strstr(words, "count") != NULL;
	if (strstr(words, "fail=")) {
		countdown = atoi(strstr(words, "fail=") + 5);
		table.call = failing;
	}
	config.on_start = on_start;
	config.on_process_exit = on_process_exit;
	if (lh__intercept_open(&config, &error)) {
		if (strstr(words, "fail="))
			return;
		put(2, error.text, strlen(error.text));
		put(2, "\n", 1);
		lh__raw_syscall(SYS_exit_group, 125, 0, 0, 0, 0, 0);
	}
	countdown = 0;
	if (lh__intercept_signal(SIGSEGV, claim, NULL))
		lh__raw_syscall(SYS_exit_group, 125, 0, 0, 0, 0, 0);
}
