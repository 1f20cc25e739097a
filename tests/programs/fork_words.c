/*
 * fork_words.c - forks of every kind, with the content of every page known on both sides.
 *
 * A page of generation G holds mix(page, G, word) in every word, or zeroes where mix(page, G) says so. The
 * scenes: the parent goes on writing while children read their snapshot; grandchildren; a parent that ends
 * before its child; a long line of descent; threads that write while the process forks; fork then exec,
 * vfork, posix_spawn; many children at once; and last the process executes itself anew.
 *
 *     fork_words --size 64 [--scene NAME]
 */
#include "program.h"

#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static uint64_t pages = 64 * 256;
static uint64_t *region;
static const char *self;

static uint64_t word_of(uint64_t page, uint64_t generation, unsigned i)
{
	uint64_t base = mix(page * 1024 + generation);

	return generation == 0 || base % 9 == 0 ? 0 : base + i * UINT64_C(0x9e3779b97f4a7c15);
}

static void write_page(uint64_t page, uint64_t generation)
{
	for (unsigned i = 0; i < WORDS; i++)
		region[page * WORDS + i] = word_of(page, generation, i);
}

static void verify_page(uint64_t page, uint64_t generation, const char *who)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (region[page * WORDS + i] != word_of(page, generation, i))
			wrong("%s: page %lu word %u generation %lu: 0x%016lx instead of 0x%016lx", who, page,
			      i, generation, region[page * WORDS + i], word_of(page, generation, i));
}

static void write_all(uint64_t generation)
{
	for (uint64_t i = 0; i < pages; i++)
		write_page(generation % 2 ? i : pages - 1 - i, generation);
}

static void verify_all(uint64_t generation, const char *who)
{
	for (uint64_t i = 0; i < pages; i++)
		verify_page(i, generation, who);
}

static void wait_for(pid_t pid, const char *who)
{
	int status;

	if (pid < 0)
		cannot("fork for %s", who);
	if (waitpid(pid, &status, 0) != pid)
		cannot("wait for %s", who);
	if (status != 0)
		wrong("%s ended with wait status 0x%x", who, (unsigned)status);
}

/* The child verifies twice, with its own writes to every third page between. */
static void snapshot_child(uint64_t generation)
{
	verify_all(generation, "snapshot");
	for (uint64_t i = 0; i < pages; i += 3)
		write_page(i, 100 + generation);
	for (uint64_t i = 0; i < pages; i++)
		verify_page(i, i % 3 ? generation : 100 + generation, "snapshot after own writes");
	_exit(0);
}

static void scene_snapshot(void)
{
	for (uint64_t generation = 1; generation <= 4; generation++) {
		pid_t pid;

		write_all(generation);
		pid = fork();
		if (pid == 0)
			snapshot_child(generation);
		write_all(generation + 10);
		verify_all(generation + 10, "parent");
		wait_for(pid, "snapshot child");
		verify_all(generation + 10, "parent after its child");
	}
}

/* Each level changes its own quarter, then forks the next, which must see all changes made above it. */
static void descend(unsigned level, unsigned depth)
{
	pid_t pid;

	for (uint64_t i = level % 4; i < pages; i += 4)
		write_page(i, 20 + level);
	if (level == depth)
		return;
	pid = fork();
	if (pid == 0) {
		for (uint64_t i = 0; i < pages; i++) {
			unsigned last = level >= i % 4 ? level - (level - (unsigned)(i % 4)) % 4 : 0;

			verify_page(i, level >= i % 4 ? 20 + last : 50, "descendant");
		}
		descend(level + 1, depth);
		_exit(0);
	}
	wait_for(pid, "descendant");
	for (uint64_t i = level % 4; i < pages; i += 4)
		verify_page(i, 20 + level, "ancestor");
}

static void scene_descent(void)
{
	write_all(50);
	descend(0, 9);
}

/*
 * The middle process ends at once; the orphan verifies while nobody is left above it, and reports by a pipe.
 */
static void scene_orphan(void)
{
	char answer = 0;
	int ends[2];
	pid_t pid;

	write_all(60);
	if (pipe(ends))
		cannot("make a pipe");
	pid = fork();
	if (pid == 0) {
		write_page(1, 61);
		if (fork() != 0)
			_exit(0);
		usleep(20000);
		verify_page(1, 61, "orphan");
		write_page(1, 60);
		verify_all(60, "orphan");
		_exit(write(ends[1], "y", 1) != 1);
	}
	close(ends[1]);
	wait_for(pid, "middle process");
	write_all(62);
	if (read(ends[0], &answer, 1) != 1 || answer != 'y')
		wrong("the orphan did not finish");
	close(ends[0]);
	verify_all(62, "parent of the orphan's parent");
}

static void scene_many(void)
{
	pid_t children[12];

	write_all(70);
	for (unsigned n = 0; n < 12; n++) {
		children[n] = fork();
		if (children[n] == 0) {
			for (uint64_t i = n; i < pages; i += 5)
				verify_page(i, i % 12 < n ? 71 + i % 12 : 70, "one of many");
			_exit(0);
		}
		for (uint64_t i = n; i < pages; i += 12)
			write_page(i, 71 + n);
	}
	for (unsigned n = 0; n < 12; n++)
		wait_for(children[n], "one of many");
}

static unsigned stop_threads, first_generations;

/* Writes its pages over and over, words in ascending order: at any moment a page is new up to some word. */
static void *writer(void *argument)
{
	uint64_t thread = (uintptr_t)argument;

	for (uint64_t generation = 1; !__atomic_load_n(&stop_threads, __ATOMIC_RELAXED); generation++) {
		for (uint64_t page = thread; page < pages; page += 3)
			for (unsigned i = 0; i < WORDS; i++)
				__atomic_store_n(&region[page * WORDS + i], generation << 32 | page,
				                 __ATOMIC_RELAXED);
		if (generation == 1)
			__atomic_add_fetch(&first_generations, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void verify_frozen_page(uint64_t page)
{
	uint64_t first = region[page * WORDS], last = first;

	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t word = region[page * WORDS + i];

		if ((uint32_t)word != page || word >> 32 == 0)
			wrong("frozen page %lu word %u: 0x%016lx", page, i, word);
		if (word >> 32 != last >> 32 && (word >> 32) + 1 != first >> 32)
			wrong("frozen page %lu word %u is torn: 0x%016lx after 0x%016lx", page, i, word,
			      last);
		last = word;
	}
}

static void scene_threads(void)
{
	pthread_t threads[3];

	memset(region, 0, pages * PAGE);
	for (uint64_t i = 0; i < 3; i++)
		if (pthread_create(&threads[i], NULL, writer, (void *)(uintptr_t)i))
			cannot("start a thread");
	while (__atomic_load_n(&first_generations, __ATOMIC_ACQUIRE) < 3)
		usleep(1000);
	for (unsigned n = 0; n < 4; n++) {
		pid_t pid = fork();

		for (uint64_t i = 0; pid == 0 && i < pages; i++)
			verify_frozen_page(i);
		for (uint64_t i = 0; pid == 0 && i < pages; i++)
			verify_frozen_page(pages - 1 - i);
		if (pid == 0)
			_exit(0);
		wait_for(pid, "child of threads");
	}
	__atomic_store_n(&stop_threads, 1, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
}

/* The arguments stand in pages of the region, so the kernel reads them for exec out of homed memory. */
static char **arguments_in_region(void)
{
	char **arguments = (char **)(region + 9 * WORDS);
	char *text = (char *)(region + (pages / 2) * WORDS) - 9;

	arguments[0] = strcpy((char *)(region + 5000 % pages * WORDS), self);
	arguments[1] = strcpy(text, "--executed-across-pages");
	arguments[2] = NULL;
	for (uint64_t i = 0; i < pages; i++)
		if (*(volatile uint64_t *)(region + i * WORDS) == 1)
			break;
	return arguments;
}

static void scene_exec(void)
{
	char **arguments;
	pid_t pid;

	write_all(80);
	arguments = arguments_in_region();
	pid = vfork();
	if (pid == 0) {
		execv(self, arguments);
		_exit(127);
	}
	wait_for(pid, "vfork and exec");
	if (posix_spawn(&pid, self, NULL, NULL, arguments, environ))
		cannot("spawn");
	wait_for(pid, "posix_spawn");
	pid = fork();
	if (pid == 0) {
		execv(self, arguments);
		_exit(127);
	}
	wait_for(pid, "fork and exec");
	if (system("exit 7") >> 8 != 7)
		wrong("system()");
	for (uint64_t i = 10; i < pages / 2 - 1; i++)
		if (i != 5000 % pages)
			verify_page(i, 80, "after exec in children");
}

static const struct scene {
	const char *name;
	void (*run)(void);
} scenes[] = {
	{ "snapshot", scene_snapshot }, { "descent", scene_descent }, { "orphan", scene_orphan },
	{ "many", scene_many },         { "threads", scene_threads }, { "exec", scene_exec },
};

static int executed(void)
{
	region = anonymous(pages * PAGE / 4);
	pages /= 4;
	write_all(90);
	verify_all(90, "executed program");
	return 0;
}

/* The last scene: this process becomes another image, which must start with a clean slate. */
static void execute_self(void)
{
	char *const arguments[] = { (char *)self, (char *)"--last", NULL };

	fflush(stdout);
	execv(self, arguments);
	cannot("execute %s", self);
}

int main(int argc, char **argv)
{
	const char *only = NULL;

	self = argv[0];
	if (argc == 2 && !strcmp(argv[1], "--executed-across-pages"))
		return executed();
	if (argc == 2 && !strcmp(argv[1], "--last"))
		return printf("last %s\n", executed() ? "wrong" : "ok") < 0;
	for (int i = 1; i + 1 < argc; i += 2)
		if (!strcmp(argv[i], "--size"))
			pages = number(argv[i + 1]) * 256;
		else if (!strcmp(argv[i], "--scene"))
			only = argv[i + 1];
	region = anonymous(pages * PAGE);
	for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
		if (only && strcmp(only, scenes[i].name))
			continue;
		scenes[i].run();
		printf("%s ok\n", scenes[i].name);
		fflush(stdout);
	}
	if (!only || !strcmp(only, "last"))
		execute_self();
	return 0;
}
