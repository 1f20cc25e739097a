/*
 * edges.c - calls about memory that fail, or that mean something only later, with every word known before and
 * after.
 *
 *     edges --size 24 [--scene NAME]
 *
 * fails    munmap, mmap over something and mremap that fail, by wrong arguments, and because the process has
 *          as many mappings as it may: the content is as it was, also beside a file's pages
 * advice   MADV_DONTFORK, MADV_WIPEONFORK, MADV_DONTDUMP
 * hole     MADV_DONTNEED over a hole, and guards
 * vfork    a child of vfork that forks and clones
 * robust   threads that die with robust mutexes in memory that is not here
 * stacks   more separate stacks than Linehome can tell apart; only where it is named
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#define MADV_KEEPONFORK 19
#endif

static uint64_t *region, *other;
static uint64_t pages = 24 * 256;
static const char *now_scene = "start";

static uint64_t word_of(uint64_t page, unsigned i)
{
	return mix(page << 20 | i);
}

static void write_page(uint64_t page)
{
	for (unsigned i = 0; i < WORDS; i++)
		region[page * WORDS + i] = word_of(page, i);
}

static void verify_at(const uint64_t *words, uint64_t page, const char *when)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (words[i] != word_of(page, i))
			wrong("%s, %s: page %lu word %u: 0x%016lx", now_scene, when, page, i, words[i]);
}

static void verify(uint64_t from, uint64_t to, const char *when)
{
	for (uint64_t page = from; page < to; page++)
		verify_at(region + page * WORDS, page, when);
}

static bool is_zero(const uint64_t *words, uint64_t count)
{
	for (uint64_t i = 0; i < count * WORDS; i++)
		if (words[i])
			return false;
	return true;
}

static void must(bool condition, const char *what)
{
	if (!condition)
		wrong("%s: %s: %s", now_scene, what, strerror(errno));
}

/* Everything in the region leaves: other memory of the same size is used. */
static void send_away(void)
{
	for (unsigned round = 0; round < 2; round++)
		for (uint64_t i = 0; i < pages * WORDS; i += 64)
			other[i] = i + round;
}

static void *page_at(uint64_t page)
{
	return region + page * WORDS;
}

static void wait_for(pid_t pid, const char *who)
{
	int status = -1;

	must(pid > 0 && waitpid(pid, &status, 0) == pid, who);
	if (status)
		wrong("%s: %s ended with 0x%x", now_scene, who, (unsigned)status);
}

/* ---- calls that fail ---- */

static void fails(long result, int error, const char *what)
{
	if (result != -1 || errno != error)
		wrong("%s: %s: %ld, %s instead of %s", now_scene, what, result, strerror(errno),
		      strerror(error));
}

static void *over(void *at, size_t size, int fd, off_t offset)
{
	return mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0),
	            fd, offset);
}

static void wrong_arguments(char *file)
{
	int closed = dup(0);

	close(closed);
	fails(munmap((char *)page_at(10) + 100, 20 * PAGE), EINVAL, "munmap of no page");
	fails(munmap(page_at(10), 0), EINVAL, "munmap of nothing");
	fails((long)over(page_at(20), 10 * PAGE, closed, 0), EBADF, "mmap of no file");
	fails((long)mmap(page_at(20), 10 * PAGE, PROT_READ, MAP_FIXED | MAP_ANONYMOUS, -1, 0), EINVAL,
	      "mmap of no kind");
	fails((long)mremap(page_at(30), 10 * PAGE, 20 * PAGE, MREMAP_MAYMOVE | 64), EINVAL,
	      "mremap with a wrong flag");
	fails((long)mremap(page_at(30), 10 * PAGE, 10 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
	                   (char *)page_at(30) + 8),
	      EINVAL, "mremap to no page");
	fails((long)mremap(page_at(30), 10 * PAGE, 0, MREMAP_MAYMOVE), EINVAL, "mremap to nothing");
	/* From the region's end into the file behind it. */
	fails((long)mremap(page_at(pages - 4), 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE), EFAULT,
	      "mremap of two mappings");
	verify(0, pages, "after wrong arguments");
	must(file[3] == 'x', "the file's pages");
}

/* Mappings of single pages, until there may be no more. Returns the last one's number. */
static uint64_t exhaust(char *many, uint64_t count)
{
	for (uint64_t i = 1; i < count; i += 2)
		if (mprotect(many + i * PAGE, PAGE, PROT_READ))
			return i;
	cannot("use up all mappings");
}

static void too_many_mappings(char *file, uint64_t limit)
{
	uint64_t count = limit + 1000;
	char *many = mmap(NULL, count * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	must(many != MAP_FAILED, "map");
	send_away();
	exhaust(many, count);
	fails(munmap(page_at(100), 10 * PAGE), ENOMEM, "munmap in the middle");
	/* The end of the region, the file, and the beginning of a mapping that is larger. */
	fails(munmap(page_at(200), PAGE), ENOMEM, "munmap of one page");
	fails((long)over(page_at(300), 10 * PAGE, -1, 0), ENOMEM, "mmap over the middle");
	fails((long)mremap(page_at(400), 10 * PAGE, 20 * PAGE, MREMAP_MAYMOVE), ENOMEM,
	      "mremap of the middle");
	fails((long)mremap(page_at(500), 10 * PAGE, 10 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page_at(600)),
	      ENOMEM, "mremap onto the middle");
	must(munmap(many, count * PAGE) == 0, "unmap them all");
	verify(0, pages, "after calls that found no room for a mapping");
	send_away();
	verify(0, pages, "and once more");
	must(file[3] == 'x' && file[PAGE + 3] == 'x', "the file's pages");
}

static uint64_t map_limit(void)
{
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	unsigned long limit = 0;

	if (!file || fscanf(file, "%lu", &limit) != 1)
		cannot("read the limit");
	fclose(file);
	return limit;
}

static void scene_fails(void)
{
	char path[] = "/tmp/edges.XXXXXX", *file;
	int fd = mkstemp(path);

	must(fd >= 0 && unlink(path) == 0 && ftruncate(fd, 16 * PAGE) == 0, "make a file");
	/* Behind the region, in its own last pages' place, stands a file. */
	file = mmap(page_at(pages), 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0);
	must(file == page_at(pages), "map the file");
	memset(file, 'x', 16 * PAGE);
	send_away();
	wrong_arguments(file);
	if (map_limit() > 200000)
		return; /* so many cannot be made in reasonable time */
	too_many_mappings(file, map_limit());
}

/* ---- advice about forks ---- */

/*
 * Of pages 1000 on: 300 that no child has, 100 that each child finds empty, 100 that no dump has, 100 as
 * others.
 */
static void look_as_child(void)
{
	must(is_zero(page_at(1300), 100), "what is empty in the child");
	verify(1400, 1600, "in the child");
	verify(0, 1000, "in the child");
	/* New mappings come to stand in the gap, and begin empty. */
	for (unsigned n = 0; n < 30; n++) {
		uint64_t *fresh = anonymous(40 * PAGE);

		must(is_zero(fresh, 40), "what is mapped in the gap");
		memset(fresh, 'f', 40 * PAGE);
	}
	for (uint64_t page = 1300; page < 1400; page++)
		write_page(page);
	send_away();
	verify(0, 1000, "the child's own");
	verify(1300, pages, "the child's own");
}

static void scene_advice(void)
{
	must(madvise(page_at(1000), 300 * PAGE, MADV_DONTFORK) == 0, "MADV_DONTFORK");
	must(madvise(page_at(1300), 100 * PAGE, MADV_WIPEONFORK) == 0, "MADV_WIPEONFORK");
	must(madvise(page_at(1400), 100 * PAGE, MADV_DONTDUMP) == 0, "MADV_DONTDUMP");
	for (unsigned round = 0; round < 2; round++) {
		pid_t pid;

		send_away();
		for (uint64_t page = 1000; page < 1600; page += 3) /* some are here */
			verify(page, page + 1, "before the fork");
		pid = fork();
		if (pid == 0) {
			look_as_child();
			_exit(0);
		}
		wait_for(pid, "the child");
		verify(0, pages, "the parent");
	}
	must(madvise(page_at(1000), 300 * PAGE, MADV_DOFORK) == 0, "MADV_DOFORK");
	must(madvise(page_at(1300), 100 * PAGE, MADV_KEEPONFORK) == 0, "MADV_KEEPONFORK");
	for (unsigned round = 0; round < 2; round++) {
		pid_t pid = fork();

		if (pid == 0) {
			verify(0, pages, "the child that has all");
			_exit(0);
		}
		wait_for(pid, "the child that has all");
	}
}

/* What stood where a guard is put is gone. Before Linux 6.13 there are none. */
static void guard(uint64_t from, uint64_t count)
{
	if (madvise(page_at(from), count * PAGE, MADV_GUARD_INSTALL) && errno == EINVAL)
		return;
	must(madvise(page_at(from), count * PAGE, MADV_GUARD_REMOVE) == 0, "MADV_GUARD_REMOVE");
	must(is_zero(page_at(from), count), "where a guard was");
	for (uint64_t page = from; page < from + count; page++)
		write_page(page);
}

/* The kernel gives back what there is and then says that there was a hole. */
static void scene_hole(void)
{
	must(munmap(page_at(2010), PAGE) == 0, "munmap");
	send_away();
	fails(madvise(page_at(2000), 20 * PAGE, MADV_DONTNEED), ENOMEM, "MADV_DONTNEED over a hole");
	must(is_zero(page_at(2000), 10) && is_zero(page_at(2011), 9), "what was given back");
	must(mmap(page_at(2010), PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
	             page_at(2010),
	     "map in the hole");
	for (uint64_t page = 2000; page < 2020; page++)
		write_page(page);
	guard(2100, 30);
	send_away();
	verify(0, pages, "in the end");
}

/* ---- children of a child of vfork ---- */

static int cloned(void *argument)
{
	verify(0, 200, "a clone in a child of vfork");
	_exit(*(int *)argument);
}

/* What runs while the parent waits, in its memory. */
static void inside_vfork(unsigned kind)
{
	static char stack[65536] __attribute__((aligned(16)));
	static int zero;
	int status = -1;
	pid_t pid;

	if (kind == 0)
		pid = (pid_t)syscall(SYS_fork);
	else if (kind == 1)
		pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	else
		pid = clone(cloned, stack + sizeof stack, SIGCHLD, &zero);
	if (pid == 0) {
		verify(0, pages, "a fork in a child of vfork");
		for (uint64_t i = 0; i < pages; i += 2)
			region[i * WORDS + 3] = 0;
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		_exit(9);
	_exit(0);
}

static void scene_vfork(void)
{
	for (volatile unsigned kind = 0; kind < 3; kind++) {
		volatile pid_t pid;

		send_away();
		pid = vfork();
		if (pid == 0)
			inside_vfork(kind);
		wait_for(pid, "the child of vfork");
		verify(0, pages, "after it");
	}
}

/* ---- robust mutexes ---- */

#define MUTEXES 40u

static pthread_mutex_t *mutex_of(uint64_t n)
{
	return (pthread_mutex_t *)((char *)other + (n * 37 % pages) * PAGE + (n % 50) * 64);
}

static void make_mutexes(void)
{
	pthread_mutexattr_t robust;

	pthread_mutexattr_init(&robust);
	pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
	for (uint64_t n = 0; n < MUTEXES; n++) {
		pthread_mutexattr_setprotocol(&robust, n % 5 == 4 ? PTHREAD_PRIO_INHERIT : PTHREAD_PRIO_NONE);
		pthread_mutex_init(mutex_of(n), &robust);
	}
	pthread_mutexattr_destroy(&robust);
}

static void read_all(void)
{
	for (unsigned round = 0; round < 2; round++)
		for (uint64_t page = 0; page < pages; page++)
			if (region[page * WORDS] != word_of(page, 0))
				wrong("%s: page %lu", now_scene, page);
}

static void *owner(void *waiting)
{
	for (uint64_t n = 0; n < MUTEXES; n++)
		must(pthread_mutex_lock(mutex_of(n)) == 0, "lock");
	__atomic_store_n((int *)waiting, 1, __ATOMIC_RELEASE);
	read_all();
	return NULL;
}

static void *waiter(void *argument)
{
	uint64_t n = (uintptr_t)argument;
	int result = pthread_mutex_lock(mutex_of(n));

	if (result != EOWNERDEAD)
		wrong("%s: mutex %lu gives %s", now_scene, n, strerror(result));
	pthread_mutex_consistent(mutex_of(n));
	pthread_mutex_unlock(mutex_of(n));
	return NULL;
}

/* Where the word cannot be written to, the kernel leaves it. */
static void *owner_of_locked(void *argument)
{
	must(pthread_mutex_lock(argument) == 0, "lock");
	must(mprotect(argument, PAGE, PROT_READ) == 0, "mprotect");
	return NULL;
}

static void die_over_read_only(void)
{
	pthread_mutex_t *mutex = anonymous(PAGE);
	pthread_mutexattr_t robust;
	pthread_t dying;

	pthread_mutexattr_init(&robust);
	pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(mutex, &robust);
	must(pthread_create(&dying, NULL, owner_of_locked, mutex) == 0, "thread");
	pthread_join(dying, NULL);
}

/* One that sleeps for each of the first mutexes, and one that comes later for each of the others. */
static void scene_robust(void)
{
	for (unsigned round = 0; round < 3; round++) {
		pthread_t dying, waiting[4];
		int has_locked = 0;

		make_mutexes();
		must(pthread_create(&dying, NULL, owner, &has_locked) == 0, "thread");
		while (!__atomic_load_n(&has_locked, __ATOMIC_ACQUIRE))
			sched_yield();
		for (uintptr_t n = 0; n < 4; n++)
			must(pthread_create(&waiting[n], NULL, waiter, (void *)n) == 0, "thread");
		pthread_join(dying, NULL);
		for (uintptr_t n = 0; n < 4; n++)
			pthread_join(waiting[n], NULL);
		for (uintptr_t n = 4; n < MUTEXES; n++)
			waiter((void *)n);
		send_away();
	}
	die_over_read_only();
}

/* A process that ends owning a mutex of another process' as well, behind such as are not here. */
static void scene_robust_shared(void)
{
	pthread_mutex_t *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t robust;
	pid_t pid;
	int result;

	must(shared != MAP_FAILED, "map");
	make_mutexes();
	pthread_mutexattr_init(&robust);
	pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&robust, PTHREAD_PROCESS_SHARED);
	for (unsigned how = 0; how < 2; how++) {
		pthread_mutex_init(shared, &robust);
		pid = fork();
		if (pid == 0) {
			pthread_mutex_lock(shared);
			for (uint64_t n = 0; n < MUTEXES; n++)
				pthread_mutex_lock(mutex_of(n));
			read_all();
			if (how == 1)
				execl("/bin/true", "true", NULL);
			_exit(0);
		}
		wait_for(pid, "the owner");
		result = pthread_mutex_trylock(shared);
		if (result != EOWNERDEAD)
			wrong("%s: %u: the shared mutex gives %s", now_scene, how, strerror(result));
		pthread_mutex_consistent(shared);
		pthread_mutex_unlock(shared);
	}
}

/* Each a page, with a gap behind it, so that no two are one mapping. */
static void scene_stacks(void)
{
	for (unsigned i = 0; i < 9000; i++) {
		char *at = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		must(at != MAP_FAILED, "map");
		must(mmap(at, PAGE, PROT_READ | PROT_WRITE,
		          MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_FIXED, -1, 0) == at,
		     "map a stack");
		*at = 's';
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} scenes[] = {
	{ "fails", scene_fails },   { "advice", scene_advice }, { "hole", scene_hole },
	{ "vfork", scene_vfork },   { "robust", scene_robust }, { "robust-shared", scene_robust_shared },
	{ "stacks", scene_stacks },
};

int main(int argc, char **argv)
{
	const char *only = NULL;

	for (int i = 1; i + 1 < argc; i += 2)
		if (!strcmp(argv[i], "--size"))
			pages = number(argv[i + 1]) * 256;
		else if (!strcmp(argv[i], "--scene"))
			only = argv[i + 1];
	region = anonymous((pages + 16) * PAGE);
	other = anonymous(pages * PAGE);
	for (uint64_t page = 0; page < pages; page++)
		write_page(page);
	for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
		now_scene = scenes[i].name;
		if (only ? strcmp(only, now_scene) : scenes[i].run == scene_stacks)
			continue;
		scenes[i].run();
		printf("%s ok\n", now_scene);
		fflush(stdout);
	}
	return 0;
}
