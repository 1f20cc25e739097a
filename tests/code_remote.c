/* timeout: 120 */
/* Another process stopped, read, written, made to work, and let go of, and it sees nothing of that. */
#include "service/code/remote.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "code_program.h"

#define WORDS(...) ((const char *const[]){ "stopped", __VA_ARGS__, NULL })

static struct lh_error error;

static void pause_ms(long milliseconds)
{
	nanosleep(&(struct timespec){ milliseconds / 1000, milliseconds % 1000 * 1000000 }, NULL);
}

static struct lh_remote *stop(pid_t process)
{
	struct lh_remote *remote = NULL;
	int rc = lh__remote_stop(process, 2000, &remote, &error);

	if (rc)
		printf("# %d: %s\n", rc, error.text);
	return remote;
}

static long call(struct lh_remote *remote, long nr, long a, long b, long c, long d, long e, long f)
{
	return lh__remote_syscall(remote, nr, (const long[6]){ a, b, c, d, e, f });
}

static char state_of(pid_t process)
{
	char path[64], line[512];
	const char *at = NULL;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", process);
	file = fopen(path, "r");
	if (file && fgets(line, sizeof(line), file))
		at = strrchr(line, ')');
	if (file)
		fclose(file);
	return at ? at[2] : '?';
}

static bool ended_well(struct program *program)
{
	char said[4096];
	int status = program_end(program, said, sizeof(said));

	if (status || !strstr(said, "well"))
		printf("# status 0x%x, said: %s\n", (unsigned)status, said);
	return !status && strstr(said, "well");
}

/* ---- it sees nothing ---- */

static void again_and_again(const char *name, const char *const *words, int rounds, bool work)
{
	struct program program = program_start(words, 0);
	int stopped = 0, worked = 0;

	for (int i = 0; i < rounds; i++) {
		struct lh_remote *remote = stop(program.id);

		if (!remote)
			break;
		stopped++;
		if (work)
			worked += call(remote, SYS_getpid, 0, 0, 0, 0, 0, 0) == program.id;
		lh__remote_release(remote);
		if (i % 16 == 0)
			pause_ms(2);
	}
	is(stopped, rounds, "%s: stopped each time", name);
	if (work)
		is(worked, rounds, "%s: a system call each time", name);
	ok(ended_well(&program), "%s: it saw nothing", name);
}

/* Stops all threads as one would do it first: the program must notice, or it checks nothing. */
static void test_noticed(void)
{
	struct program program = program_start(WORDS("calls"), 0);
	char name[64], said[4096];
	struct dirent *entry;
	int status;
	DIR *tasks;

	snprintf(name, sizeof(name), "/proc/%d/task", program.id);
	for (int i = 0; i < 50; i++) {
		tasks = opendir(name);
		while (tasks && (entry = readdir(tasks))) {
			pid_t thread = atoi(entry->d_name);

			if (thread <= 0 || ptrace(PTRACE_SEIZE, thread, NULL, NULL))
				continue;
			ptrace(PTRACE_INTERRUPT, thread, NULL, NULL);
			waitpid(thread, &status, __WALL);
			/* One that is ending must be waited for, or the program's end is never told. */
			if (ptrace(PTRACE_DETACH, thread, NULL, NULL) && WIFSTOPPED(status) &&
			    thread != program.id)
				waitpid(thread, &status, __WALL);
		}
		if (tasks)
			closedir(tasks);
	}
	ok(program_end(&program, said, sizeof(said)) != 0, "caught: threads stopped without care");
}

static void test_signals(void)
{
	struct program program = program_start(WORDS("signals", "threads"), 0);
	unsigned long sent = 0, sum = 0;
	char said[4096], wanted[64];

	for (int i = 1; i <= 400; i++) {
		struct lh_remote *remote;

		if (!sigqueue(program.id, SIGRTMIN, (union sigval){ .sival_int = i })) {
			sent++;
			sum += (unsigned long)i;
		}
		remote = stop(program.id);
		if (!remote)
			break;
		if (!sigqueue(program.id, SIGRTMIN, (union sigval){ .sival_int = i })) {
			sent++;
			sum += (unsigned long)i;
		}
		if (i % 2)
			(void)!call(remote, SYS_getpid, 0, 0, 0, 0, 0, 0);
		lh__remote_release(remote);
		if (i % 32 == 0)
			pause_ms(5);
	}
	pause_ms(20);
	snprintf(wanted, sizeof(wanted), "signals %lu %lu\n", sent, sum);
	is(program_end(&program, said, sizeof(said)), 0, "signals: ended well");
	ok(strstr(said, wanted), "signals: each came once, with what it carried");
	if (!strstr(said, wanted))
		printf("# wanted %s# said %s", wanted, said);
}

/* ---- memory, calls ---- */

/* Code that is put into the program: what it returns is checked. */
static const uint8_t adds[] = { 0x48, 0x8d, 0x04, 0x37, /* lea (%rdi,%rsi), %rax */
	                        0x48, 0x01, 0xd0,       /* add %rdx, %rax */
	                        0x66, 0x0f, 0xef, 0xc0, /* pxor %xmm0, %xmm0 */
	                        0x66, 0x0f, 0xef, 0xff, /* pxor %xmm7, %xmm7 */
	                        0xc3 };
static const uint8_t loops[] = { 0xf3, 0x90, 0xeb, 0xfc };   /* 1: pause; jmp 1b */
static const uint8_t crashes[] = { 0x48, 0x8b, 0x00, 0xc3 }; /* mov (%rax), %rax */
static const uint8_t traps[] = { 0xcc, 0xc3 };
static const uint8_t asks[] = { 0xb8, 0x00, 0x00, 0x00, 0x00, /* mov $SYS_read, %eax; (fd, buffer, 1) */
	                        0x0f, 0x05, 0xc3 };           /* syscall; ret */

static long code_at(struct lh_remote *remote)
{
	long at = call(remote, SYS_mmap, 0, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at < 0)
		return at;
	if (call(remote, SYS_mprotect, at + 4096, 4096, PROT_READ | PROT_WRITE, 0, 0, 0))
		return -1;
	return at;
}

static int run(struct lh_remote *remote, long at, const uint8_t *code, size_t size, long *result)
{
	if (lh__remote_write(remote, (uint64_t)at, code, size))
		return -1;
	return lh__remote_call(remote, (uint64_t)at, (const long[3]){ 1000, 200, 30 }, (uint64_t)at + 8192,
	                       100, -1, NULL, NULL, result);
}

static void test_calls(void)
{
	struct program program = program_start(WORDS("calls", "threads", "registers"), 0);
	int calls = 0, functions = 0;

	for (int i = 0; i < 250; i++) {
		struct lh_remote *remote = stop(program.id);
		long at, result = 0;

		if (!remote)
			break;
		at = code_at(remote);
		if (at < 0)
			printf("# no room for code: %ld\n", at);
		for (int j = 0; at > 0 && j < 4; j++) {
			functions += !run(remote, at, adds, sizeof(adds), &result) && result == 1230;
			calls += call(remote, SYS_getppid, 0, 0, 0, 0, 0, 0) == getpid();
		}
		if (at > 0 && call(remote, SYS_munmap, at, 8192, 0, 0, 0, 0))
			printf("# munmap\n");
		lh__remote_release(remote);
	}
	is(functions, 1000, "1000 functions called");
	is(calls, 1000, "1000 system calls made");
	ok(ended_well(&program), "it saw none of them");
}

struct serving {
	int from, to;
	int served;
};

static void serve(void *context)
{
	struct serving *serving = context;
	char byte;

	serving->served += read(serving->from, &byte, 1) == 1 && write(serving->to, "A", 1) == 1;
}

static void test_failing_calls(void)
{
	struct program program = program_start(WORDS("calls", "registers"), 0);
	struct lh_remote *remote = stop(program.id);
	long at = remote ? code_at(remote) : -1, result = 0;
	uint8_t byte = 0;

	ok(at > 0, "room for code");
	if (at <= 0)
		return program_kill(&program);
	is(run(remote, at, crashes, sizeof(crashes), &result), -EFAULT, "a function that crashes");
	is(run(remote, at, traps, sizeof(traps), &result), -EFAULT, "a function that traps");
	is(run(remote, at, loops, sizeof(loops), &result), -ETIMEDOUT, "a function that does not end");
	is(run(remote, at, adds, sizeof(adds), &result), 0, "and one that does");
	is(lh__remote_read(remote, 0x10, &byte, 1), -EFAULT, "what is not there cannot be read");
	is(lh__remote_write(remote, 0x10, &byte, 1), -EFAULT, "nor written");
	lh__remote_release(remote);
	ok(ended_well(&program), "it goes on after all of that");
}

/* The function reads from its standard input what is written there only while it is being served. */
static void test_serving(void)
{
	struct program program = program_start(WORDS("registers"), 0);
	struct serving serving = { .to = program.in };
	struct lh_remote *remote = stop(program.id);
	long at = remote ? code_at(remote) : -1, result = 0;
	int ask[2];
	char byte = 0;

	if (at < 0 || pipe(ask) || write(ask[1], "?", 1) != 1) {
		ok(0, "room for code");
		return program_kill(&program);
	}
	serving.from = ask[0];
	is(lh__remote_write(remote, (uint64_t)at, asks, sizeof(asks)), 0, "code written");
	is(lh__remote_call(remote, (uint64_t)at, (const long[3]){ 0, at + 4096, 1 }, (uint64_t)at + 8192,
	                   2000, ask[0], serve, &serving, &result),
	   0, "a function that asks is served");
	is(result, 1, "and gets its answer");
	is(lh__remote_read(remote, (uint64_t)at + 4096, &byte, 1), 0, "which is read");
	is(byte, 'A', "and right");
	lh__remote_release(remote);
	ok(ended_well(&program), "it goes on");
}

/* ---- states in which it may be found ---- */

static int refused(pid_t process)
{
	struct lh_remote *remote = NULL;
	int rc = lh__remote_stop(process, 300, &remote, &error);

	printf("# %s\n", rc ? error.text : "stopped");
	if (!rc)
		lh__remote_release(remote);
	return rc;
}

/* One of another user. */
static void test_foreign(void)
{
	struct program program;
	int status = -1;
	pid_t child;

	if (getuid() != 0) {
		skip("one of another user", "needs root");
		return;
	}
	program = program_start(WORDS("registers"), 0);
	child = fork();
	if (!child)
		_exit(setuid(65534) ? 2 : refused(program.id) != -EPERM);
	waitpid(child, &status, 0);
	is(status, 0, "one of another user");
	ok(ended_well(&program), "it saw nothing");
}

static void test_refusals(void)
{
	struct program program = program_start(WORDS("registers"), 0);
	pid_t zombie = fork(), other;
	int gate[2];
	char byte;

	if (!zombie)
		_exit(0);
	waitid(P_PID, (id_t)zombie, &(siginfo_t){ 0 }, WEXITED | WNOWAIT);
	is(refused(zombie), -ESRCH, "a zombie");
	waitpid(zombie, NULL, 0);
	is(refused(zombie), -ESRCH, "no process");
	if (pipe(gate))
		exit(99);
	other = fork();
	if (!other) {
		byte = ptrace(PTRACE_SEIZE, program.id, NULL, NULL) ? 'n' : 'y';
		(void)!write(gate[1], &byte, 1);
		pause();
		_exit(0);
	}
	(void)!read(gate[0], &byte, 1);
	is(refused(program.id), -EBUSY, "one that is traced");
	ok(strstr(error.text, "code_remote"), "its tracer is named");
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	is(refused(program.id), 0, "and when it is not any more");
	is(refused(getpid()), -EPERM, "ourselves");
	ok(ended_well(&program), "it saw nothing");
	test_foreign();
}

/* The smallest program of 32 bits: a head, one segment, and a jump to itself. */
static const uint32_t small[] = {
	0x464c457f, 0x00010101, 0,          0,          0x00030002, 1,    0x08048054, 52,
	0,          0,          0x00200034, 0x00000001, 0,                                  /* head */
	1,          0,          0x08048000, 0x08048000, 0x56,       0x56, 5,          4096, /* segment */
	0x0000feeb,                                                                         /* code */
};

static void test_32_bit(void)
{
	char file[] = "/tmp/code_remote.XXXXXX";
	int descriptor = mkstemp(file), status;
	pid_t process;

	if (write(descriptor, small, sizeof(small)) != sizeof(small) || fchmod(descriptor, 0700))
		exit(99);
	close(descriptor);
	process = fork();
	if (!process) {
		execl(file, file, NULL);
		_exit(9);
	}
	pause_ms(20);
	if (waitpid(process, &status, WNOHANG)) {
		skip("a 32-bit program", "none can be executed");
	} else {
		is(refused(process), -ENOEXEC, "a 32-bit program");
		kill(process, SIGKILL);
		waitpid(process, NULL, 0);
	}
	unlink(file);
}

/* State T is reached when all threads are. */
static bool becomes_stopped(pid_t process)
{
	for (int i = 0; i < 500 && state_of(process) != 'T'; i++)
		pause_ms(10);
	return state_of(process) == 'T';
}

static void test_group_stop(void)
{
	/* Not calls: SIGCONT ends some of them with EINTR, whoever is there (signal(7)). */
	struct program program = program_start(WORDS("threads", "registers"), 0);
	struct lh_remote *remote;
	int status;

	kill(program.id, SIGSTOP);
	waitpid(program.id, &status, WUNTRACED);
	remote = stop(program.id);
	is(remote ? call(remote, SYS_getpid, 0, 0, 0, 0, 0, 0) : 0, program.id,
	   "a stopped process works for us");
	if (remote)
		lh__remote_release(remote);
	ok(becomes_stopped(program.id), "and stays stopped");
	kill(program.id, SIGCONT);
	remote = stop(program.id);
	if (remote) {
		kill(program.id, SIGSTOP);
		is(call(remote, SYS_getpid, 0, 0, 0, 0, 0, 0), program.id, "SIGSTOP comes while it works");
		lh__remote_release(remote);
	}
	ok(becomes_stopped(program.id), "and stops it when it is let go of");
	kill(program.id, SIGCONT);
	ok(ended_well(&program), "it goes on");
}

/* ---- killed at any moment ---- */

static void *kills(void *argument)
{
	const struct program *program = argument;

	for (volatile unsigned i = 0, n = (unsigned)program->in * 7919u % 200000; i < n; i++)
		;
	kill(program->id, SIGKILL);
	return NULL;
}

static void test_kill(void)
{
	int unexpected = 0, died = 0;

	for (int i = 0; i < 60; i++) {
		struct program program = program_start(WORDS("threads", "calls"), 0);
		struct program aim = { .id = program.id, .in = i };
		struct lh_remote *remote = NULL;
		pthread_t killer;
		int status = 0, rc;

		if (pthread_create(&killer, NULL, kills, &aim))
			exit(99);
		rc = lh__remote_stop(program.id, 1000, &remote, &error);
		if (rc && rc != -ESRCH && rc != -ECHILD)
			printf("# stop: %d, %s\n", rc, error.text);
		while (!rc && (rc = (int)call(remote, SYS_getpid, 0, 0, 0, 0, 0, 0)) == program.id)
			rc = 0;
		if (rc != -ESRCH && rc != -ECHILD) {
			printf("# %d\n", rc);
			unexpected++;
		}
		if (remote)
			lh__remote_release(remote);
		pthread_join(killer, NULL);
		status = program_end(&program, NULL, 0);
		died += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	}
	is(unexpected, 0, "a killed process is told as such");
	is(died, 60, "and its parent finds how it ended");
}

/* ---- how long, mappings ---- */

static void test_time(void)
{
	struct program program = program_start(WORDS("calls"), 0);
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 50; i++) {
		struct lh_remote *remote = stop(program.id);
		uint64_t ns;

		if (!remote)
			break;
		ns = lh__remote_stopped_for(remote);
		best = ns < best ? ns : best;
		lh__remote_release(remote);
	}
	printf("# ten threads stopped in %lu us at best\n", (unsigned long)(best / 1000));
	ok(best < 50000000, "stopping takes less than 50 ms");
	ok(ended_well(&program), "it goes on");
}

static int count(void *context, const struct lh_mapping *mapping)
{
	unsigned *seen = context;

	*seen |= mapping->rights[2] == 'x' && strstr(mapping->path, "code_remote") ? 1 : 0;
	*seen |= !strcmp(mapping->path, "[stack]") ? 2 : 0;
	*seen |= mapping->start >= mapping->end ? 4 : 0;
	return 0;
}

static void test_mappings(void)
{
	uint64_t here = (uint64_t)(uintptr_t)test_mappings & ~4095ull, gap;
	unsigned seen = 0;
	void *room;

	is(lh__mappings(getpid(), count, &seen), 0, "mappings");
	is(seen, 3, "code and stack are among them");
	is(lh__mappings(0x7ffffff, count, &seen), -ESRCH, "of no process");
	gap = lh__mappings_gap(getpid(), here, here + 4096, 65536);
	ok(gap, "room near code");
	room = mmap((void *)(uintptr_t)gap, 65536, PROT_READ,
	            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ok(room == (void *)(uintptr_t)gap, "is free");
	ok(gap + (1ull << 31) > here && gap < here + (1ull << 31), "and near");
	is(lh__mappings_gap(getpid(), here, here + (3ull << 31), 4096), 0, "none where nothing is near all");
}

int main(void)
{
	again_and_again("calls", WORDS("calls", "registers"), 300, false);
	again_and_again("threads", WORDS("threads", "calls", "registers"), 200, true);
	again_and_again("children", WORDS("children", "threads", "registers"), 200, true);
	test_noticed();
	test_signals();
	test_calls();
	test_failing_calls();
	test_serving();
	test_refusals();
	test_32_bit();
	test_group_stop();
	test_kill();
	test_time();
	test_mappings();
	return done();
}
