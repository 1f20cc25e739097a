/* seen_threads.c - threads that come and go. See seen.h. */
#include "seen.h"

#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>

static int counter;
static sem_t done;

static void *one(void *argument)
{
	__atomic_add_fetch(&counter, (int)(intptr_t)argument, __ATOMIC_RELAXED);
	getpid();
	return argument;
}

static void join(void)
{
	pthread_t thread[8];
	void *result;

	for (int round = 0; round < 400; round++) {
		for (int i = 0; i < 8; i++)
			must(pthread_create(&thread[i], NULL, one, (void *)(intptr_t)(i + 1)) == 0);
		for (int i = 0; i < 8; i++)
			must(pthread_join(thread[i], &result) == 0 && (intptr_t)result == i + 1);
	}
	say("%d", counter);
}

static void *wait_all(void *argument)
{
	pthread_barrier_wait(argument);
	return one((void *)1);
}

static void many(void)
{
	pthread_barrier_t barrier;
	pthread_t thread[300];
	pthread_attr_t attribute;

	pthread_attr_init(&attribute);
	pthread_attr_setstacksize(&attribute, 16384); /* PTHREAD_STACK_MIN */
	pthread_barrier_init(&barrier, NULL, 300);
	for (int i = 0; i < 300; i++)
		must(pthread_create(&thread[i], &attribute, wait_all, &barrier) == 0);
	for (int i = 0; i < 300; i++)
		must(pthread_join(thread[i], NULL) == 0);
	say("%d", counter);
}

static void *post(void *argument)
{
	one((void *)1);
	sem_post(&done);
	return NULL;
}

static void detached(void)
{
	pthread_attr_t attribute;
	pthread_t thread;

	sem_init(&done, 0, 0);
	pthread_attr_init(&attribute);
	pthread_attr_setdetachstate(&attribute, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < 1000; i++) {
		must(pthread_create(&thread, &attribute, post, NULL) == 0);
		sem_wait(&done);
	}
	say("%d", counter);
}

static void *last(void *argument)
{
	usleep(50000);
	say("the other thread goes on");
	exit(7);
}

static void main_exits(void)
{
	pthread_t thread;

	must(pthread_create(&thread, NULL, last, NULL) == 0);
	pthread_exit(NULL);
}

static void cleaned(void *argument)
{
	say("cleaned up %s", (const char *)argument);
}

static void *reader(void *argument)
{
	char byte;

	pthread_cleanup_push(cleaned, "reader");
	while (read(*(int *)argument, &byte, 1) < 0)
		;
	pthread_cleanup_pop(0);
	return NULL;
}

static void *sleeper(void *argument)
{
	pthread_cleanup_push(cleaned, "sleeper");
	for (;;)
		pause();
	pthread_cleanup_pop(0);
	return NULL;
}

static void cancel(void)
{
	pthread_t thread;
	void *result;
	int ends[2];

	must(pipe(ends) == 0);
	for (int i = 0; i < 6; i++) {
		must(pthread_create(&thread, NULL, i % 2 ? sleeper : reader, ends) == 0);
		usleep(i < 2 ? 20000 : 0);
		must(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
		say("cancelled %d", result == PTHREAD_CANCELED);
	}
}

static int raw_child(void *argument)
{
	*(int *)argument = (int)syscall(SYS_gettid);
	return 5;
}

/* Not libc's threads: a stack and clone. */
static void raw_clone(void)
{
	char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int seen = 0, status, pid;

	pid = clone(raw_child, stack + 65536, CLONE_VM | SIGCHLD, &seen);
	must(pid > 0 && waitpid(pid, &status, 0) == pid);
	say("shared memory: %d, status %d", seen == pid, WEXITSTATUS(status));
	seen = 0;
	pid = clone(raw_child, stack + 65536, SIGCHLD, &seen);
	must(pid > 0 && waitpid(pid, &status, 0) == pid);
	say("own memory: %d, status %d", seen == 0, WEXITSTATUS(status));
	pid = clone(raw_child, stack + 65536, CLONE_VM | CLONE_VFORK | SIGCHLD, &seen);
	must(pid > 0 && waitpid(pid, &status, 0) == pid);
	say("vfork: %d, status %d", seen == pid, WEXITSTATUS(status));
	pid = (int)syscall(SYS_clone, CLONE_VM | CLONE_THREAD, 0, 0, 0, 0);
	say("bad flags: %d", errno);
}

static const struct seen_case cases[] = { { "join", join },
	                                  { "many", many },
	                                  { "detached", detached },
	                                  { "main-exits", main_exits },
	                                  { "cancel", cancel },
	                                  { "raw-clone", raw_clone },
	                                  { NULL, NULL } };

int main(int argc, char **argv)
{
	return seen_main(argc, argv, cases);
}
