/*
 * seen_count.c - a fixed mixture of system calls between two marks, getpgid(-12345) and getpgid(-12346), with
 * threads, a child, handlers and an instruction that was written at run time. See seen.h.
 */
#include "seen.h"

#include <fcntl.h>
#include <sys/stat.h>

static void handler(int sig)
{
	getuid();
}

static void *thread(void *argument)
{
	for (int i = 0; i < 100; i++)
		getgid();
	syscall(SYS_exit, 0); /* no more, no less: libc's own way out depends on its caches */
	return NULL;
}

static void files(void)
{
	struct stat status;
	char buffer[100];

	for (int i = 0; i < 20; i++) {
		int fd = open("/proc/self/status", O_RDONLY);

		must(fd >= 0 && read(fd, buffer, sizeof buffer) == 100 && fstat(fd, &status) == 0);
		must(lseek(fd, 0, SEEK_SET) == 0 && close(fd) == 0);
	}
}

static void signals(void)
{
	sigset_t set;

	signal(SIGUSR1, handler);
	for (int i = 0; i < 10; i++)
		raise(SIGUSR1);
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	raise(SIGUSR1);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void generated(void)
{
	static const unsigned char code[] = { 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3 };
	unsigned char *page =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long (*call)(void);

	memcpy(page, code, sizeof code);
	memcpy(&call, &page, sizeof call);
	for (int i = 0; i < 7; i++)
		call();
}

static int alive(void *argument)
{
	return 0;
}

static void children(void)
{
	char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid = fork();

	if (pid == 0) {
		getegid();
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	pid = clone(alive, stack + 65536, CLONE_VM | SIGCHLD, NULL);
	waitpid(pid, NULL, 0);
}

static void mixture(void)
{
	pthread_t other;

	must(pthread_create(&other, NULL, thread, NULL) == 0 && pthread_join(other, NULL) == 0);
	getpgid(-12345);
	files();
	signals();
	generated();
	children();
	must(pthread_create(&other, NULL, thread, NULL) == 0);
	must(pthread_join(other, NULL) == 0);
	getpgid(-12346);
	say("done");
}

static const struct seen_case cases[] = { { "mixture", mixture }, { NULL, NULL } };

int main(int argc, char **argv)
{
	return seen_main(argc, argv, cases);
}
