/*
 * fuzz.c - executions a second of one program on one input, by what a fuzzer can do about coverage:
 *
 *     execute      fork and exec each time, no coverage
 *     server       a fork server written into the program by hand, no coverage
 *     lh           lh_cover_run, when all that the input reaches has been reached before
 *     lh, each     the same with nothing staying from one run to the next: a trap for each block
 *     afl          built with afl-clang-fast, by its fork server, where that is installed
 *
 * Interleaved: each has its turn in each round. Medians over the rounds. afl's qemu mode, which needs no
 * other build either, is not in Debian's package.
 */
#include <fcntl.h>
#include <limits.h>
#include <linehome.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 21u
#define RUNS 100u
#define WAYS 5u
#define COMMANDS 198
#define ANSWERS 199
#define MAP_SIZE (8u << 20) /* of afl's map, more than it asks for */

static const char input[] =
	"CFG1\nname=\"value\"\n[group\na=yes\nb=no\nc=12345\n[inner\nd=\"x y z\"\n]\n]\nz=0\n";

struct way {
	const char *name;
	char *const *argv;
	int standard, nothing;  /* its descriptors */
	int commands, answers;  /* of a fork server */
	struct lh_cover *cover; /* or this */
	double sample[ROUNDS];
	uint64_t traps;
};

static double now_us(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	exit(1);
}

/* ---- starting ---- */

static void execute(const struct way *way)
{
	dup2(way->standard, STDIN_FILENO);
	dup2(way->nothing, STDOUT_FILENO);
	dup2(way->nothing, STDERR_FILENO);
	execv(way->argv[0], way->argv);
	_exit(127);
}

static void start_server(struct way *way)
{
	int commands[2], answers[2], word;
	pid_t child;

	if (pipe2(commands, O_CLOEXEC) < 0 || pipe2(answers, O_CLOEXEC) < 0)
		fail("no pipes");
	child = fork();
	if (child == 0) {
		dup2(commands[0], COMMANDS);
		dup2(answers[1], ANSWERS);
		execute(way);
	}
	close(commands[0]);
	close(answers[1]);
	way->commands = commands[1];
	way->answers = answers[0];
	if (child < 0 || read(way->answers, &word, 4) != 4)
		fail("a fork server does not answer");
}

static void start_cover(struct way *way, bool each)
{
	struct lh_cover_options options = { .argv = way->argv, .each = each, .timeout_ms = 60000 };
	struct lh_error error;

	if (lh_cover_open(&options, &way->cover, &error) < 0 ||
	    lh_cover_feed(way->cover, input, strlen(input), &error) < 0)
		fail(error.text);
}

/* The program as afl builds it, and the memory that it counts in; false: there is no afl here. */
static bool start_afl(struct way *way, const char *folder)
{
	static char built[PATH_MAX + 16], command[3 * PATH_MAX], *argv[] = { built, "serve", NULL };
	int memory;
	char id[16];

	snprintf(built, sizeof(built), "%s/target", folder);
	snprintf(command, sizeof(command),
	         "AFL_QUIET=1 afl-clang-fast -O2 -g -o %s examples/fuzz_target.c >%s/log 2>&1", built,
	         folder);
	if (system(command) != 0)
		return false;
	memory = shmget(IPC_PRIVATE, MAP_SIZE, IPC_CREAT | 0600);
	if (memory < 0)
		return false;
	snprintf(id, sizeof(id), "%d", memory);
	setenv("__AFL_SHM_ID", id, 1);
	way->argv = argv;
	start_server(way);
	unsetenv("__AFL_SHM_ID");
	shmctl(memory, IPC_RMID, NULL); /* gone when the last that has it ends */
	return true;
}

/* ---- runs ---- */

static int run_server(const struct way *way)
{
	int word = 0, status = -1;

	if (write(way->commands, &word, 4) != 4 || read(way->answers, &word, 4) != 4 ||
	    read(way->answers, &status, 4) != 4)
		fail("a fork server does not answer");
	return status;
}

static int run_program(const struct way *way)
{
	int status = -1;
	pid_t child = vfork();

	if (child == 0)
		execute(way);
	if (child < 0 || waitpid(child, &status, 0) != child)
		fail("no process");
	return status;
}

static int run_cover(struct way *way)
{
	struct lh_cover_result result;
	struct lh_error error;

	if (lh_cover_run(way->cover, &result, &error) < 0)
		fail(error.text);
	way->traps = result.traps;
	return result.status;
}

static void run(struct way *way)
{
	int status;

	if (!way->cover && lseek(way->standard, 0, SEEK_SET) < 0)
		fail("no input");
	status = way->cover ? run_cover(way) : way->commands >= 0 ? run_server(way) : run_program(way);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail("the program does not do what it should");
}

static int compare(const void *a, const void *b)
{
	return *(const double *)a < *(const double *)b ? -1 : 1;
}

static void show(struct way *way)
{
	double median;

	qsort(way->sample, ROUNDS, sizeof(double), compare);
	median = way->sample[ROUNDS / 2];
	printf("%-10s %8.0f us %8.0f a second   (least %.0f us)", way->name, median, 1e6 / median,
	       way->sample[0]);
	if (way->cover)
		printf("   %llu traps a run", (unsigned long long)way->traps);
	printf("\n");
}

static void find_program(char program[PATH_MAX])
{
	ssize_t length = readlink("/proc/self/exe", program, PATH_MAX - 64);

	program[length > 0 ? length : 0] = '\0';
	strcpy(strstr(program, "/bench/fuzz"), "/tests/programs/fuzz_server");
}

int main(void)
{
	static char program[PATH_MAX], *plain[] = { program, NULL }, *serve[] = { program, "serve", NULL };
	static struct way way[WAYS] = { { .name = "execute", .argv = plain },
		                        { .name = "server", .argv = serve },
		                        { .name = "lh", .argv = plain },
		                        { .name = "lh, each", .argv = plain },
		                        { .name = "afl", .argv = serve } };
	char folder[] = "/tmp/bench-fuzz-XXXXXX", remove[64];
	int file = memfd_create("input", MFD_CLOEXEC), nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
	unsigned ways;

	find_program(program);
	setenv("LD_BIND_NOW", "1", 1);
	if (write(file, input, strlen(input)) < 0 || !mkdtemp(folder))
		fail("no input");
	for (unsigned i = 0; i < WAYS; i++) {
		way[i].standard = file;
		way[i].nothing = nothing;
		way[i].commands = -1;
	}
	start_server(&way[1]);
	start_cover(&way[2], false);
	start_cover(&way[3], true);
	ways = start_afl(&way[4], folder) ? WAYS : WAYS - 1;
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned i = 0; i < ways; i++) {
			double start = now_us();

			for (unsigned n = 0; n < RUNS; n++)
				run(&way[i]);
			way[i].sample[round] = (now_us() - start) / RUNS;
		}
	for (unsigned i = 0; i < ways; i++)
		show(&way[i]);
	if (ways < WAYS)
		printf("afl        not installed\n");
	lh_cover_close(way[2].cover);
	lh_cover_close(way[3].cover);
	snprintf(remove, sizeof(remove), "rm -rf %s", folder);
	return system(remove) == 0 ? 0 : 1;
}
