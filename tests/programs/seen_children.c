/* seen_children.c - fork, vfork, posix_spawn, exec and what libc makes of them. See seen.h. */
#include "seen.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>

extern char **environ;

static int wait_for(pid_t pid)
{
	int status = -1;

	must(pid > 0 && waitpid(pid, &status, 0) == pid);
	return status;
}

static void fork_(void)
{
	int value = 1;
	pid_t pid;

	for (int i = 0; i < 50; i++) {
		pid = fork();
		if (pid == 0) {
			value = i + getpid() * 0;
			_exit(fork() == 0 ? 0 : (wait(NULL), value));
		}
		must(wait_for(pid) == i << 8);
	}
	pid = (pid_t)syscall(SYS_fork);
	if (pid == 0)
		_exit(9);
	say("%d, raw %d", value, WEXITSTATUS(wait_for(pid)));
}

static void *busy(void *argument)
{
	volatile int *stop = argument;

	while (!*stop) {
		struct sigaction action;
		free(malloc(100));
		sigaction(SIGUSR1, NULL, &action);
	}
	return NULL;
}

static void fork_with_threads(void)
{
	pthread_t thread[2];
	int stop = 0;

	for (int i = 0; i < 2; i++)
		must(pthread_create(&thread[i], NULL, busy, &stop) == 0);
	for (int i = 0; i < 100; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			struct sigaction action;
			sigaction(SIGUSR2, NULL, &action);
			_exit(4);
		}
		must(wait_for(pid) == 4 << 8);
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	say("all came back");
}

static void vfork_(void)
{
	volatile int touched = 0, i;
	pid_t pid;

	for (i = 0; i < 20; i++) {
		pid = vfork();
		if (pid == 0) {
			touched++;
			signal(SIGUSR1, SIG_IGN); /* the child's alone */
			execl("/bin/sh", "sh", "-c", i % 2 ? "exit 3" : "exit 4", NULL);
			_exit(127);
		}
		must(wait_for(pid) == (i % 2 ? 3 << 8 : 4 << 8));
	}
	pid = vfork();
	if (pid == 0)
		_exit(6);
	say("%d times, exit %d, handler %d", touched, WEXITSTATUS(wait_for(pid)),
	    signal(SIGUSR1, SIG_DFL) == SIG_DFL);
}

static void spawn(void)
{
	char *words[] = { "sh", "-c", "exit 12", NULL };
	posix_spawnattr_t attribute;
	sigset_t set;
	pid_t pid;

	posix_spawnattr_init(&attribute);
	sigfillset(&set);
	posix_spawnattr_setsigdefault(&attribute, &set);
	sigemptyset(&set);
	posix_spawnattr_setsigmask(&attribute, &set);
	posix_spawnattr_setflags(&attribute, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	for (int i = 0; i < 10; i++) {
		must(posix_spawn(&pid, "/bin/sh", NULL, &attribute, words, environ) == 0);
		must(WEXITSTATUS(wait_for(pid)) == 12);
	}
	say("missing: %d", posix_spawn(&pid, "/none", NULL, NULL, words, environ));
}

static void libc(void)
{
	char line[64] = "";
	FILE *pipe_ = popen("echo through a pipe", "r");

	must(pipe_ && fgets(line, sizeof line, pipe_));
	say("%d %s", pclose(pipe_), line);
	say("system: %d %d", WEXITSTATUS(system("exit 5")), WEXITSTATUS(system("kill -9 $$; exit 5")));
}

static void daemon_(void)
{
	int ends[2];
	char text[32] = "";

	must(pipe(ends) == 0);
	if (fork() == 0) {
		must(daemon(0, 1) == 0);
		must(write(ends[1], "from afar", 9) == 9);
		_exit(0);
	}
	must(read(ends[0], text, sizeof text) == 9);
	say("%s", text);
}

static void mask_after_exec(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGSYS);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGBUS, SIG_IGN);
	signal(SIGUSR2, SIG_IGN);
	unsetenv("LD_PRELOAD"); /* what the kernel has, not what an agent there makes of it */
	execl("/bin/grep", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status", NULL);
}

static void exec_fails(void)
{
	say("%d %d", execl("/none", "none", NULL), errno);
	say("%d %d", execl("/etc", "etc", NULL), errno);
	say("and still here");
}

static void exec_in_thread_(void *argument)
{
	execl("/bin/echo", "echo", "from a thread", NULL);
}

static void *exec_in_thread(void *argument)
{
	exec_in_thread_(argument);
	return NULL;
}

static void exec_thread(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, exec_in_thread, NULL);
	pthread_join(thread, NULL);
}

static void library(void)
{
	void *handle = dlopen("libm.so.6", RTLD_NOW), *other = dlopen("libresolv.so.2", RTLD_NOW);
	double (*root)(double);

	must(handle && other);
	memcpy(&root, &(void *){ dlsym(handle, "sqrt") }, sizeof root);
	say("%d", (int)root(1764));
	for (int i = 0; i < 20; i++) {
		must(dlclose(other) == 0);
		other = dlopen("libresolv.so.2", RTLD_NOW);
		must(other);
	}
	say("missing %d", dlopen("libnone.so", RTLD_NOW) == NULL);
}

/* An instruction that nobody can find before it runs. */
static void generated(void)
{
	static const unsigned char code[] = { 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3 };
	unsigned char *page =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long (*call)(void);
	int same = 1;

	must(page != MAP_FAILED);
	memcpy(page, code, sizeof code);
	memcpy(&call, &page, sizeof call);
	for (int i = 0; i < 100; i++)
		same &= call() == getpid();
	say("%d", same);
}

static void int80(void)
{
	long result = 20, guard = 0x1234;

	__asm__ volatile("int $0x80" : "+a"(result), "+b"(guard) : : "memory", "r8", "r9", "r10", "r11");
	say("%d %lx", result == getpid(), guard);
}

static void fast_time(void)
{
	struct timespec a, b;
	struct timeval c;
	long gone;

	must(clock_gettime(CLOCK_MONOTONIC, &a) == 0 && gettimeofday(&c, NULL) == 0);
	must(clock_gettime(CLOCK_MONOTONIC, &b) == 0);
	gone = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
	say("%d", gone >= 0 && gone < 1000000000);
	must(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a) == 0); /* by a call that the vdso makes */
	must(((time_t(*)(time_t *))0xffffffffff600400)(NULL) > 1000000);
	say("vsyscall");
}

static void own_filter(int flags, unsigned action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof code / sizeof *code, code };

	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

static void trapped(int sig, siginfo_t *info, void *context)
{
	ucontext_t *machine = context;

	say("signal %d code %d call %d", sig, info->si_code, info->si_syscall == SYS_getppid);
	machine->uc_mcontext.gregs[REG_RAX] = 4711;
}

static void filtered(void)
{
	struct sigaction action = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO };

	own_filter(0, SECCOMP_RET_ERRNO | EXDEV);
	say("%ld %d", syscall(SYS_getppid), errno == EXDEV);
	sigaction(SIGSYS, &action, NULL);
	own_filter(0, SECCOMP_RET_TRAP);
	say("%ld", syscall(SYS_getppid));
	say("system: %d", WEXITSTATUS(system("exit 5")));
	signal(SIGSYS, SIG_DFL);
	syscall(SYS_getppid);
}

static void strict(void)
{
	must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
	must(write(1, "strict\n", 7) == 7);
	syscall(SYS_exit, 3);
}

static const struct seen_case cases[] = { { "fork", fork_ },
	                                  { "fork-with-threads", fork_with_threads },
	                                  { "vfork", vfork_ },
	                                  { "spawn", spawn },
	                                  { "libc", libc },
	                                  { "daemon", daemon_ },
	                                  { "exec-mask", mask_after_exec },
	                                  { "exec-fails", exec_fails },
	                                  { "exec-thread", exec_thread },
	                                  { "library", library },
	                                  { "generated", generated },
	                                  { "int80", int80 },
	                                  { "time", fast_time },
	                                  { "filtered", filtered },
	                                  { "strict", strict },
	                                  { NULL, NULL } };

int main(int argc, char **argv)
{
	return seen_main(argc, argv, cases);
}
