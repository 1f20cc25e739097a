/*
 * What becomes of transactions that functions of a program are made into, and of those by tx_begin: how their
 * functions are entered and left, by a return or otherwise; and all that may go wrong.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "linehome/atomic.h"
#include "tap.h"

#ifdef __clang__
#define NOINLINE __attribute__((noinline, visibility("default")))
#else
#define NOINLINE __attribute__((noinline, noclone, visibility("default")))
#endif

static struct lh_pool *pool;
static long *cells; /* in the pool */
#define AREAS 8
#define AREA_SIZE (32 << 10)
static void *areas[AREAS]; /* too much for its log */
static char path[64], lines[4096];

static void hear(const char *line)
{
	snprintf(lines + strlen(lines), sizeof(lines) - strlen(lines), "%s\n", line);
}

static const char *undone_in;
static int undone_by;

static void hear_undone(const char *function, int error)
{
	undone_in = function;
	undone_by = error;
}

static uint64_t volatile before[2];

static uint64_t commits(void)
{
	struct lh_pool_info info;

	lh_pool_info(pool, &info);
	return info.commits;
}

static uint64_t aborts(void)
{
	struct lh_pool_info info;

	lh_pool_info(pool, &info);
	return info.aborts;
}

/* How many transactions a statement commits and aborts. */
#define COUNTED(statement, committed, aborted, what)                                                         \
	do {                                                                                                 \
		before[0] = commits();                                                                       \
		before[1] = aborts();                                                                        \
		statement;                                                                                   \
		counted(committed, aborted, what);                                                           \
	} while (0)

static void counted(uint64_t committed, uint64_t aborted, const char *what)
{
	uint64_t c = commits() - before[0], a = aborts() - before[1];

	if (!ok(c == committed && a == aborted, "%s", what))
		printf("# %lu commits, %lu aborts\n", (unsigned long)c, (unsigned long)a);
}

/* ---- functions that are bracketed: each call is a transaction */

long edge_put(long *cell, long value);
NOINLINE long edge_put(long *cell, long value)
{
	*cell = value;
	return value + 1;
}

long edge_many(long a, long b, long c, long d, long e, long f, long g, long h, double x, double y);
NOINLINE long edge_many(long a, long b, long c, long d, long e, long f, long g, long h, double x, double y)
{
	cells[0] = a;
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + (long)(x + 2 * y);
}

long edge_sum(int count, ...);
NOINLINE long edge_sum(int count, ...)
{
	va_list list;
	double sum = 0;

	va_start(list, count);
	for (int i = 0; i < count; i++)
		sum += va_arg(list, double);
	va_end(list);
	cells[0] = (long)sum;
	return cells[0];
}

long double edge_long(long double x);
NOINLINE long double edge_long(long double x)
{
	cells[0] = 1;
	return x * 3;
}

struct pair {
	long a;
	double b;
};
struct pair edge_pair(long a, double b);
NOINLINE struct pair edge_pair(long a, double b)
{
	cells[0] = a;
	return (struct pair){ a + 1, b + 1 };
}

__attribute__((target("avx"))) __m256d edge_wide(__m256d x, __m256d y);
NOINLINE __attribute__((target("avx"))) __m256d edge_wide(__m256d x, __m256d y)
{
	cells[0] = 1;
	return _mm256_add_pd(x, y);
}

long edge_deep(long depth);
NOINLINE long edge_deep(long depth)
{
	cells[depth] = depth;
	return depth ? edge_deep(depth - 1) + 1 : 0;
}

long edge_tail(long *cell, long value);
NOINLINE long edge_tail(long *cell, long value)
{
	cells[5] = 5;
	return edge_put(cell, value); /* a jump */
}

void edge_call(void (*function)(void *), void *argument);
NOINLINE void edge_call(void (*function)(void *), void *argument)
{
	function(argument);
	__asm__ volatile("" ::: "memory");
}

/* One begins, one ends. */
void edge_start(void);
NOINLINE void edge_start(void)
{
	__asm__ volatile("" ::: "memory");
}
void edge_stop(void);
NOINLINE void edge_stop(void)
{
	__asm__ volatile("" ::: "memory");
}

static const char *const begins[] = { "edge_put",    "edge_many", "edge_sum",   "edge_long",
	                              "edge_pair",   "edge_wide", "edge_deep",  "edge_tail",
	                              "edge_throws", "edge_call", "edge_start", NULL };
static const char *const ends[] = { "edge_put",    "edge_many", "edge_sum",  "edge_long",
	                            "edge_pair",   "edge_wide", "edge_deep", "edge_tail",
	                            "edge_throws", "edge_call", "edge_stop", NULL };

/* ---- arguments and results */

__attribute__((target("avx"))) static bool wide_works(void)
{
	__m256d x = _mm256_set_pd(1, 2, 3, 4), y = _mm256_set_pd(10, 20, 30, 40);
	double out[4];

	_mm256_storeu_pd(out, edge_wide(x, y));
	return out[0] == 44 && out[1] == 33 && out[2] == 22 && out[3] == 11;
}

static void check_calls(void)
{
	long result = 0;
	struct pair pair;

	COUNTED(result = edge_put(&cells[1], 41), 1, 0, "a call is a transaction");
	ok(result == 42 && cells[1] == 41, "it returns what it returns");
	is(edge_many(1, 2, 3, 4, 5, 6, 7, 8, 0.5, 0.25), 205, "arguments arrive, those on the stack too");
	is(edge_sum(9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0), 45,
	   "so do those that nobody has counted");
	ok(edge_long(1.5L) == 4.5L, "a result of the x87");
	pair = edge_pair(4, 0.5);
	ok(pair.a == 5 && pair.b == 1.5, "a result in two registers");
	if (__builtin_cpu_supports("avx"))
		ok(wide_works(), "arguments and a result of 32 bytes");
	else
		skip("arguments and a result of 32 bytes", "no AVX");
	COUNTED(result = edge_deep(20), 1, 0, "calls within join");
	is(result, 20, "and return what they return");
	COUNTED(result = edge_tail(&cells[2], 6), 1, 0, "a function that goes on as another");
	is(result, 7, "returns what that returns");
}

static void check_pairs(void)
{
	COUNTED(
		{
			edge_start();
			cells[3] = 1;
			edge_start();
			cells[4] = 2;
			edge_stop();
			cells[5] = 3;
			edge_stop();
		},
		1, 0, "one function begins, another ends; they nest");
	COUNTED(edge_stop(), 0, 0, "an end without a beginning");
	COUNTED(
		{
			edge_start();
			edge_put(&cells[6], 1);
			edge_stop();
		},
		1, 0, "whole ones join those");
	COUNTED(
		{
			tx_begin();
			edge_put(&cells[7], 1);
			tx_end();
		},
		1, 0, "and those of tx_begin");
}

/* ---- leaving */

static jmp_buf outside;
static sigjmp_buf outside_signal;

static void jump_out(void *cell)
{
	*(long *)cell = 100;
	longjmp(outside, 1);
}

static void jump_inside(void *cell)
{
	jmp_buf here;

	if (setjmp(here) == 0) {
		*(long *)cell = 101;
		longjmp(here, 1);
	}
	*(long *)cell += 1;
}

static int rounds;

static void check_jumps(void)
{
	cells[10] = 0;
	COUNTED(
		{
			if (setjmp(outside) == 0)
				edge_call(jump_out, &cells[10]);
		},
		0, 1, "longjmp out of a function is its abort");
	is(cells[10], 0, "memory is as it was");
	cells[11] = 5; /* outside, natively: nobody undoes it */
	COUNTED(edge_call(jump_inside, &cells[10]), 1, 0, "longjmp inside is none");
	is(cells[10], 102, "and what it did is there");
	is(cells[11], 5, "a store outside has stayed");
	for (rounds = 0; rounds < 100; rounds++)
		if (setjmp(outside) == 0)
			edge_call(jump_out, &cells[10]);
	COUNTED(edge_put(&cells[10], 1), 1, 0, "after many of them");
}

static void check_explicit_jumps(void)
{
	volatile long seen = 0;
	jmp_buf inside;

	cells[10] = 0;
	COUNTED(
		{
			if (setjmp(outside) == 0) {
				tx_begin();
				jump_out(&cells[10]);
			}
		},
		0, 1, "longjmp out of a transaction of tx_begin is its abort");
	ok(cells[10] == 0 && tx_end() == -EPERM, "it has ended");
	COUNTED(
		{
			tx_begin();
			if (setjmp(inside) == 0) {
				cells[10] = 3;
				longjmp(inside, 1);
			}
			seen = cells[10];
			tx_end();
		},
		1, 0, "to where setjmp was called inside is none");
	is(seen, 3, "and it goes on");
}

static void no_telling(void)
{
}

static void check_exceptions(void)
{
	int (*catches)(long *, long, void (*)(void)) =
		(int (*)(long *, long, void (*)(void)))dlsym(RTLD_DEFAULT, "edge_catches");
	int result = 0;

	if (!catches) {
		ok(0, "the object that throws is there");
		return;
	}
	cells[12] = cells[13] = 0;
	COUNTED(result = catches(&cells[12], 1, no_telling), 1, 0, "an exception that is caught inside");
	ok(result == 7 && cells[12] == 1 && cells[13] == 1, "changes nothing");
	COUNTED(result = catches(&cells[12], -1, no_telling), 0, 1,
	        "one that leaves the function is an abort");
	ok(result == 8 && cells[12] == 1 && cells[13] == 1, "it is caught outside, and memory is as it was");
	COUNTED(edge_put(&cells[12], 2), 1, 0, "and then another");
}

/* ---- signals */

static int in_handler, begun;

static void handler(int number)
{
	in_handler = number;
	begun = tx_begin();
	edge_put(&cells[15], 9); /* as it is: not seen */
}

static void raise_inside(void *cell)
{
	*(long *)cell = 1;
	raise(SIGUSR1);
	*(long *)cell = 2;
}

static void leaping_handler(int number)
{
	siglongjmp(outside_signal, number);
}

static void raise_and_leap(void *cell)
{
	*(long *)cell = 77;
	raise(SIGUSR2);
}

static void check_signals(void)
{
	struct sigaction action = { .sa_handler = handler };

	sigaction(SIGUSR1, &action, NULL);
	action.sa_handler = leaping_handler;
	sigaction(SIGUSR2, &action, NULL);
	COUNTED(edge_call(raise_inside, &cells[14]), 1, 0, "a handler of a signal in a transaction");
	is(in_handler, SIGUSR1, "it was called");
	is(begun, -EBUSY, "it begins no transaction of its own");
	is(cells[14], 2, "the transaction goes on");
	cells[14] = 0;
	if (sigsetjmp(outside_signal, 1) == 0)
		edge_call(raise_and_leap, &cells[14]);
	COUNTED(edge_put(&cells[16], 3), 1, 1,
	        "a handler that leaves for good: it is aborted when the next begins");
	ok(cells[14] == 0 && cells[16] == 3, "memory is as it was, and the next has happened");
	if (sigsetjmp(outside_signal, 1) == 0)
		edge_call(raise_and_leap, &cells[14]);
	COUNTED(
		{
			ok(tx_begin() == 0, "tx_begin does the same");
			cells[17]++;
			tx_end();
		},
		1, 1, "and aborts it");
	is(cells[14], 0, "memory is as it was");
}

/* The same for transactions of one pool, by lh_tx_begin. */
static void check_one_pool(void)
{
	cells[18] = cells[19] = 0;
	COUNTED(
		{
			if (setjmp(outside) == 0 && lh_tx_begin(pool, NULL) == 0)
				jump_out(&cells[18]);
		},
		0, 1, "longjmp out of a transaction of lh_tx_begin is its abort");
	ok(cells[18] == 0 && lh_tx_commit(pool, NULL) == -EPERM, "it has ended");
	if (sigsetjmp(outside_signal, 1) == 0 && lh_tx_begin(pool, NULL) == 0)
		raise_and_leap(&cells[18]);
	COUNTED(
		{
			ok(lh_tx_begin(pool, NULL) == 0, "after a handler that leaves it for good");
			cells[19] = 4;
			ok(lh_tx_commit(pool, NULL) == 0, "the next begins, and commits");
		},
		1, 1, "and the one that was left is aborted");
	ok(cells[18] == 0 && cells[19] == 4, "memory is as it was, and the next has happened");
	if (sigsetjmp(outside_signal, 1) == 0 && lh_tx_begin(pool, NULL) == 0)
		raise_and_leap(&cells[18]);
	COUNTED(is(lh_tx_commit(pool, NULL), -EPERM, "its commit after that"), 0, 1, "aborts it too");
	is(cells[18], 0, "memory is as it was");
	COUNTED(
		{
			ok(lh_tx_begin(pool, NULL) == 0, "a handler inside of one");
			cells[18] = 6;
			raise(SIGUSR1);
			ok(begun == -EBUSY && lh_tx_commit(pool, NULL) == 0, "begins none of its own");
		},
		1, 0, "and it goes on");
	is(cells[18], 6, "what it did is there");
}

/* ---- threads and processes that end */

static void exit_thread(void *cell)
{
	*(long *)cell = 5;
	pthread_exit(NULL);
}

static void exit_raw(void *cell)
{
	*(long *)cell = 6;
	syscall(SYS_exit, 0);
}

static void *ends_inside(void *how)
{
	edge_call(how, &cells[20]);
	return NULL;
}

static void run_thread(void (*how)(void *))
{
	pthread_t thread;

	pthread_create(&thread, NULL, ends_inside, (void *)(uintptr_t)how);
	pthread_join(thread, NULL);
}

static void check_threads(void)
{
	cells[20] = 0;
	COUNTED(run_thread(exit_thread), 0, 1, "a thread that exits inside aborts");
	is(cells[20], 0, "memory is as it was");
#ifdef __SANITIZE_ADDRESS__ /* which remembers a thread by libc's, and finds it again in another */
	(void)exit_raw;
	skip("also one that exits without libc", "AddressSanitizer");
#else
	COUNTED(run_thread(exit_raw), 0, 1, "also one that exits without libc");
#endif
	is(cells[20], 0, "memory is as it was");
	COUNTED(edge_put(&cells[20], 1), 1, 0, "others may begin theirs");
}

static int child_result;

static void fork_inside(void *cell)
{
	pid_t child;
	int status;

	*(long *)cell = 8;
	child = fork();
	if (child == 0)
		_exit(tx_end() == -ECHILD || tx_end() == -EPERM ? 17 : 18);
	waitpid(child, &status, 0);
	child_result = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	*(long *)cell = 9;
}

static void fork_and_return(void *out)
{
	*(pid_t *)out = fork();
}

static void check_forks(void)
{
	pid_t child = -1;
	int status = 0;

	COUNTED(edge_call(fork_inside, &cells[21]), 1, 0, "a fork inside: the parent commits");
	ok(cells[21] == 9 && child_result == 17, "the child has no transaction");
	edge_call(fork_and_return, &child); /* into the stack, in both */
	if (child == 0)
		_exit(19);
	waitpid(child, &status, 0);
	is(WEXITSTATUS(status), 19, "the child goes on natively");
}

static int ends_by(void (*how)(void *))
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		/* A pool of its own: the parent's is not there. */
		struct lh_pool_options options = { .see = LH_SEE_TRANSLATED };
		char own[80];

		snprintf(own, sizeof(own), "%s.child", path);
		if (lh_pool_create(own, &options, &pool, NULL) < 0)
			_exit(99);
		unlink(own);
		cells = lh_pool_root(pool, 8192, NULL);
		edge_call(how, &cells[1]);
		_exit(98);
	}
	waitpid(child, &status, 0);
	return status;
}

static void illegal(void *cell)
{
	*(long *)cell = 1;
	__asm__ volatile("ud2");
}

static void terminate(void *cell)
{
	*(long *)cell = 1;
	raise(SIGTERM);
}

static void leave_process(void *cell)
{
	*(long *)cell = 1;
	exit(3);
}

static void check_ends(void)
{
	int status = ends_by(illegal);

	ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGILL,
	   "an instruction that there is not: SIGILL, as ever");
	status = ends_by(terminate);
	ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "a signal that ends the process");
	status = ends_by(leave_process);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 3, "exit inside");
}

/* ---- system calls */

static int ends_of_pipe[2], written, failed_with, told;

static void write_inside(void *cell)
{
	*(long *)cell = 31;
	written = (int)write(ends_of_pipe[1], cell, sizeof(long));
	failed_with = errno;
	*(long *)cell = 32;
}

static void read_inside(void *cell)
{
	struct iovec two[2] = { { cell, 8 }, { (char *)cell + 8, 8 } };

	written = (int)readv(ends_of_pipe[0], two, 2);
	tx_abort();
}

static void spawn_inside(void *cell)
{
	pid_t child;
	int status = -1;

	*(long *)cell = 33;
	if (posix_spawn(&child, "/bin/true", NULL, NULL, (char *const[]){ (char *)"true", NULL }, NULL) == 0)
		waitpid(child, &status, 0);
	written = status;
}

static void harmless(void *cell)
{
	struct timespec now;

	*(long *)cell = 34;
	written = getppid() > 0 && clock_gettime(CLOCK_REALTIME, &now) == 0 && access("/", F_OK) == 0 &&
	          mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
	raise(SIGUSR1);
}

static void set_calls(enum lh_atomic_calls calls)
{
	struct lh_atomic_options options = { .calls = calls, .say = hear, .undone = hear_undone };
	struct lh_error error;

	if (lh_atomic_start(&options, &error) < 0)
		ok(0, "%s", error.text);
	memset(lines, 0, sizeof(lines));
}

static void check_system_calls(void)
{
	long got[2] = { 0, 0 }, many[3];

	ok(pipe(ends_of_pipe) == 0, "a pipe");
	set_calls(LH_ATOMIC_ALLOW);
	COUNTED(edge_call(write_inside, &cells[30]), 1, 0, "a write is let pass");
	ok(written == 8 && read(ends_of_pipe[0], got, 8) == 8 && got[0] == 31 && !*lines, "and happens");
	set_calls(LH_ATOMIC_WARN);
	for (int i = 0; i < 3; i++)
		edge_call(write_inside, &cells[30]);
	if (!told++)
		ok(strstr(lines, "write to descriptor ") == lines && strchr(lines, '\n')[1] == 0,
		   "or told of, once: %.*s", (int)strcspn(lines, "\n"), lines);
	ok(read(ends_of_pipe[0], many, 24) == 24, "and happens");
	set_calls(LH_ATOMIC_ABORT);
	edge_put(&cells[30], 0);
	COUNTED(edge_call(write_inside, &cells[30]), 0, 1, "or the transaction's abort");
	ok(written == -1 && failed_with == ECANCELED && cells[30] == 0,
	   "it has failed, and memory is as it was");
	ok(strstr(lines, "undone: one inside it was aborted, or made a system call") != NULL, "it is said");
	is(undone_by, -ECANCELED, "and the program is told");
	tx_begin();
	write_inside(&cells[30]);
	is(tx_end(), -ECANCELED, "tx_end says so too");
	COUNTED(edge_call(harmless, &cells[30]), 1, 0, "what changes nothing outside passes");
	ok(written, "and does what it does");
	set_calls(LH_ATOMIC_ALLOW);
	COUNTED(edge_call(spawn_inside, &cells[30]), 1, 0, "a child of vfork that becomes another program");
	ok(written == 0 && cells[30] == 33, "ends well, and ends no transaction");
	got[0] = got[1] = 77;
	ok(write(ends_of_pipe[1], got, 16) == 16, "16 bytes");
	edge_put(&cells[40], 5);
	COUNTED(edge_call(read_inside, &cells[40]), 0, 1, "what the kernel stores is undone too");
	ok(written == 16 && cells[40] == 5 && cells[41] == 0, "by readv");
	close(ends_of_pipe[0]);
	close(ends_of_pipe[1]);
}

/* ---- what goes wrong */

static void fill(void *unused)
{
	(void)unused;
	for (int i = 0; i < AREAS; i++)
		memset(areas[i], 0x55, AREA_SIZE);
	cells[0] = 5;
}

static void check_limits(void)
{
	int result;

	memset(lines, 0, sizeof(lines));
	edge_put(cells, 0);
	COUNTED(edge_call(fill, NULL), 0, 1, "more changes than the log has room for: an abort");
	ok(cells[0] == 0 && *(long *)areas[7] == 0, "memory is as it was");
	ok(strstr(lines, "edge_call: its transaction was undone: there were more changes") != NULL,
	   "it is said");
	ok(undone_in && strcmp(undone_in, "edge_call") == 0 && undone_by == -ENOSPC,
	   "and the program is told");
	tx_begin();
	fill(NULL);
	result = tx_end();
	is(result, -ENOSPC, "tx_end says so too");
	is(cells[0], 0, "memory is as it was");
	COUNTED(edge_put(cells, 1), 1, 0, "the next one is not concerned");
	is(tx_end(), -EPERM, "tx_end without tx_begin");
	is(tx_abort(), -EPERM, "tx_abort without tx_begin");
}

static void check_refused(void)
{
	static const char *const none[] = { "edge_nowhere", NULL };
	struct lh_atomic_options options = { .begin = none, .end = none, .say = hear };
	struct lh_error error;

	is(lh_atomic_start(&options, &error), -ENOENT, "a function that is not there");
	ok(strstr(error.text, "edge_nowhere: ") == error.text, "is named: %s", error.text);
}

static int open_pool(enum lh_log log)
{
	struct lh_pool_options options = {
		.see = LH_SEE_TRANSLATED, .log = log, .size = 4 << 20, .log_size = 96 << 10
	};
	struct lh_error error = { 0, "" };
	int result = lh_pool_create(path, &options, &pool, &error);

	if (result < 0 || !(cells = lh_pool_root(pool, 8192, &error)))
		return printf("# %s\n", error.text), -1;
	for (int i = 0; i < AREAS && result == 0; i++) {
		result = lh_tx_begin(pool, &error);
		areas[i] = result == 0 ? lh_pool_alloc_zero(pool, AREA_SIZE, &error) : NULL;
		result = areas[i] ? lh_tx_commit(pool, &error) : -ENOMEM;
	}
	if (result < 0)
		printf("# %s\n", error.text);
	return result;
}

static void check_all(const char *log)
{
	printf("# %s\n", log);
	check_calls();
	check_pairs();
	check_jumps();
	check_explicit_jumps();
	check_exceptions();
	check_signals();
	check_one_pool();
	check_threads();
	check_forks();
	check_ends();
	check_system_calls();
	check_limits();
}

int main(void)
{
	struct lh_atomic_options options = { .begin = begins, .end = ends, .say = hear };
	char object[4096];
	struct lh_error error = { 0, "" };
	ssize_t n = readlink("/proc/self/exe", object, sizeof(object) - 64);

	object[n > 0 ? n : 0] = 0;
	strcpy(strrchr(object, '/'), "/objects/atomic_throws.so");
	ok(dlopen(object, RTLD_NOW | RTLD_GLOBAL) != NULL, "the object that throws");
	if (!ok(lh_atomic_start(&options, &error) == 0, "functions of the program become transactions"))
		return printf("# %s\n", error.text), done();
	is(edge_put((long[]){ 0 }, 1), 2, "with no pool they run as they are");
	ok(strstr(lines, "edge_put: runs without a transaction: no pool is open") != NULL, "which is said");
	is(tx_begin(), -ENODEV, "tx_begin says so too");
	snprintf(path, sizeof(path), "/dev/shm/atomic_edges.%d", getpid());
	for (int log = LH_LOG_REDO; log <= LH_LOG_UNDO; log++) {
		if (!ok(open_pool(log) == 0, "a pool"))
			break;
		check_all(log == LH_LOG_REDO ? "redo" : "undo");
		ok(lh_pool_close(pool, &error) == 0, "closed");
		unlink(path);
	}
	check_refused();
	return done();
}
