/*
 * timeout: 120
 * Probes on functions of a running program: what they count is what the program counts itself, whatever the
 * functions do, and nothing of the program changes.
 */
#include "service/code/probe.h"

#include <errno.h>
#include <sys/mman.h>

#include "code_program.h"

static struct lh_error error;

static struct program start(void)
{
	return program_start((const char *[]){ "probe_target", NULL }, 0);
}

static void say(struct program *program, const char *line)
{
	if (write(program->in, line, strlen(line)) != (ssize_t)strlen(line))
		printf("# the program is gone\n");
}

/* The program's answer: its own counts. */
static const char *answer(struct program *program)
{
	static char line[512];

	if (!fgets(line, sizeof line, program->out))
		line[0] = '\0';
	return line;
}

static const char *ask(struct program *program, const char *line)
{
	say(program, line);
	return answer(program);
}

static uint64_t count_in(const char *counts, const char *name)
{
	char word[64];
	const char *at;

	snprintf(word, sizeof word, "%s=", name);
	at = strstr(counts, word);
	return at ? strtoull(at + strlen(word), NULL, 10) : UINT64_MAX;
}

static int ends_well(struct program *program)
{
	return program_end(program, NULL, 0) == 0;
}

#define PUT(program, probes, ...)                                                                            \
	put(program, probes, (const char *[]){ __VA_ARGS__ },                                                \
	    sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *))

static int put(const struct program *program, struct lh_probes **probes, const char *const *names, size_t n)
{
	int result;

	error.text[0] = '\0';
	result = lh__probes_put(program->id, names, n, 2000, probes, &error);
	if (result < 0)
		printf("# %s\n", error.text);
	return result;
}

static int take(struct lh_probes *probes)
{
	int result = lh__probes_take(probes, 2000, &error);

	if (result)
		printf("# take: %d %s\n", result, error.text);
	return result;
}

static struct lh_probe_counts counts_of(const struct lh_probes *probes, const char *name)
{
	struct lh_probe_counts counts = { .calls = UINT64_MAX };

	for (size_t i = 0; i < lh__probes_count(probes); i++)
		if (strcmp(lh__probes_function(probes, i)->name, name) == 0)
			lh__probes_read(probes, i, &counts);
	return counts;
}

/* All code that the process has mapped from files, to be compared. */
static uint64_t code_sum(pid_t process)
{
	static char line[4096], page[4096];
	uint64_t sum = 14695981039346656037ull, from, to;
	char path[64];
	FILE *maps;
	int memory;

	snprintf(path, sizeof path, "/proc/%d/maps", process);
	maps = fopen(path, "r");
	snprintf(path, sizeof path, "/proc/%d/mem", process);
	memory = open(path, O_RDONLY | O_CLOEXEC);
	while (maps && fgets(line, sizeof line, maps)) {
		if (!strstr(line, " r-xp ") || !strchr(line, '/') || sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		for (; from < to && pread(memory, page, 4096, (off_t)from) == 4096; from += 4096)
			for (int i = 0; i < 4096; i += 8)
				sum = (sum ^ *(uint64_t *)(void *)(page + i)) * 1099511628211ull;
	}
	close(memory);
	if (maps)
		fclose(maps);
	return sum;
}

static int mappings_of_ours(pid_t process)
{
	char path[64], line[4096];
	int n = 0;
	FILE *maps;

	snprintf(path, sizeof path, "/proc/%d/maps", process);
	maps = fopen(path, "r");
	while (maps && fgets(line, sizeof line, maps))
		n += strstr(line, "linehome-probe") != NULL;
	if (maps)
		fclose(maps);
	return n;
}

static const char *const all[] = { "leaf",      "middle", "recurse", "tail",  "switches",
	                           "jumps_out", "many",   "big",     "called" };
#define ALL (sizeof all / sizeof *all)

/* Counts against the program's own; returns against calls, where all calls return. */
static void test_counts(const char *command, const char *what)
{
	struct program program = start();
	struct lh_probes *probes;
	const char *counts;
	uint64_t before = code_sum(program.id);

	if (put(&program, &probes, all, ALL) < 0) {
		ok(0, "%s: probes are put", what);
		program_kill(&program);
		return;
	}
	counts = ask(&program, command);
	for (size_t i = 0; i < ALL; i++) {
		const struct lh_probe_function *function = lh__probes_function(probes, i);
		struct lh_probe_counts seen;
		uint64_t sum = 0;

		lh__probes_read(probes, i, &seen);
		for (unsigned k = 0; k < LH_PROBE_BUCKETS; k++)
			sum += seen.bucket[k];
		ok(seen.calls == count_in(counts, all[i]) && seen.calls > 0 && sum == seen.returns,
		   "%s: %s: as many calls as it counts itself", what, all[i]);
		if (seen.calls != count_in(counts, all[i]))
			printf("# %lu calls, itself %lu\n", seen.calls, count_in(counts, all[i]));
		ok(function->timed, "%s: %s is timed", what, all[i]);
		if (!function->timed)
			printf("# %s\n", function->why_not);
		else if (strcmp(all[i], "jumps_out") == 0)
			ok(seen.returns < seen.calls && seen.returns >= seen.calls / 2,
			   "%s: %s: calls that were left by longjmp are not timed", what, all[i]);
		else
			ok(seen.returns == seen.calls && seen.ticks > 0, "%s: %s: all calls returned", what,
			   all[i]);
		if (seen.returns != seen.calls)
			printf("# %s: %lu calls, %lu returns\n", all[i], seen.calls, seen.returns);
	}
	is(take(probes), 0, "%s: probes are taken", what);
	ok(code_sum(program.id) == before && mappings_of_ours(program.id) == 0,
	   "%s: each byte of code is as it was, and no memory of ours is left", what);
	ok(ends_well(&program), "%s: the program found nothing wrong", what);
}

enum { FORMS = 8 };

static void test_forms(void)
{
	static const char *const forms[] = { "rep_ret",           "bnd_ret",          "pops_ret",
		                             "branches_out",      "red_zone",         "right_behind",
		                             "exit_with_carrier", "exit_with_padding" };
	struct program program = start();
	struct lh_probes *probes;

	if (put(&program, &probes, forms, FORMS) < 0) {
		ok(0, "forms: probes are put");
		program_kill(&program);
		return;
	}
	ask(&program, "work 500 2\n");
	for (size_t i = 0; i < FORMS; i++) {
		struct lh_probe_counts seen = counts_of(probes, forms[i]);

		ok(seen.calls == 1000 && seen.returns == 1000, "%s: counted and timed", forms[i]);
		if (seen.returns != 1000)
			printf("# %lu %lu %s\n", seen.calls, seen.returns,
			       lh__probes_function(probes, i)->why_not);
	}
	is(take(probes), 0, "forms: taken");
	ok(ends_well(&program), "forms: the program found nothing wrong");
}

static void refuses(struct program *program, const char *name, int wanted, const char *words)
{
	struct lh_probes *probes;
	uint64_t before = code_sum(program->id);
	int result = PUT(program, &probes, "leaf", name);

	ok(result == wanted && strstr(error.text, words) && strstr(error.text, name),
	   "%s is refused, and told why", name);
	if (result != wanted)
		printf("# %d\n", result);
	if (result == 0)
		take(probes);
	ok(code_sum(program->id) == before && mappings_of_ours(program->id) == 0, "and nothing is changed");
}

static void test_errors(void)
{
	struct program program = start(), other;
	struct lh_probes *probes, *second;

	refuses(&program, "leef", -ENOENT, "did you mean leaf?");
	refuses(&program, "no_such_function_at_all", -ENOENT, "no such function");
	refuses(&program, "too_short", -EILSEQ, "too short");
	refuses(&program, "entered_inside", -EILSEQ, "a jump leads into its first bytes");
	refuses(&program, "loops_to_start", -EILSEQ, "its own start");
	refuses(&program, "memcpy", -ENOTSUP, "one of its variants");
	is(PUT(&program, &probes, "exit_is_tight"), 0, "a function with an exit that has no room");
	ok(!lh__probes_function(probes, 0)->timed &&
	           strstr(lh__probes_function(probes, 0)->why_not, "no room"),
	   "is not timed, and told why");
	ask(&program, "work 500 2\n");
	is(counts_of(probes, "exit_is_tight").calls, 1000, "and counted");
	is(PUT(&program, &second, "exit_is_tight"), -EBUSY, "a second probe on it is refused");
	ok(strstr(error.text, "has been changed") != NULL, "and told why");
	is(take(probes), 0, "the first is taken");
	ok(ends_well(&program), "the program found nothing wrong");
	other = (struct program){ .id = program.id };
	is(PUT(&other, &probes, "leaf"), -ESRCH, "a process that is gone");
	ok(strstr(error.text, "there is none") != NULL, "is told");
	is(lh__probes_put(getpid(), NULL, 0, 0, &probes, &error), -EINVAL, "no function");
}

static void test_dies(void)
{
	struct program program = start();
	struct lh_probes *probes;
	struct lh_probe_counts seen;

	is(PUT(&program, &probes, "leaf"), 0, "put");
	ask(&program, "work 100 1\n");
	say(&program, "spin 4\n");
	say(&program, "exit\n");
	ok(ends_well(&program), "the program ends in the midst of calls");
	seen = counts_of(probes, "leaf");
	ok(seen.calls >= 700 && seen.returns <= seen.calls, "its counts are there afterwards");
	is(take(probes), 0, "to take probes off what is gone is no error");
}

static void test_fork(void)
{
	struct program program = start();
	struct lh_probes *probes;
	const char *counts;

	is(PUT(&program, &probes, "leaf", "tail"), 0, "put");
	counts = ask(&program, "fork 1000\n");
	ok(count_in(counts, "tail") == 0 && counts_of(probes, "tail").calls == 1000 &&
	           counts_of(probes, "leaf").calls == counts_of(probes, "leaf").returns,
	   "calls of a child that it forks are counted with its own");
	is(take(probes), 0, "taken");
	ok(ends_well(&program), "the program found nothing wrong");
}

static void test_coroutines(void)
{
	struct program program = start();
	struct lh_probes *probes;
	struct lh_probe_counts seen;

	is(PUT(&program, &probes, "yields"), 0, "put");
	ask(&program, "coroutines 500\n");
	seen = counts_of(probes, "yields");
	ok(seen.calls == 1000 && seen.returns == 998,
	   "calls that are left and come back by a switch of stacks");
	is(take(probes), 0, "taken while two calls of it are suspended");
	ask(&program, "coroutines 10\n");
	ok(ends_well(&program), "they come back to what was there");
}

static void test_again_and_again(void)
{
	struct program program = start();
	uint64_t before = code_sum(program.id), calls = 0;
	int wrong = 0, stayed = 0;

	say(&program, "spin 4\n");
	for (int i = 0; i < 100; i++) {
		struct lh_probes *probes;
		struct lh_probe_counts seen;
		int result;

		if (put(&program, &probes, all, ALL) < 0) {
			wrong++;
			break;
		}
		usleep(1000);
		seen = counts_of(probes, "leaf");
		calls += seen.calls;
		wrong += seen.returns > seen.calls;
		result = take(probes);
		wrong += result < 0;
		stayed += result == 1;
	}
	printf("# %lu calls of leaf seen; %d times memory stayed\n", calls, stayed);
	ok(wrong == 0 && calls > 0, "a hundred times put and taken while four threads are in it");
	ok(code_sum(program.id) == before, "each byte of code is as it was");
	ask(&program, "stop\n");
	ok(ends_well(&program), "the program found nothing wrong");
}

/* A thread that waits in a system call that was moved: it cannot be left without its trampoline. */
static void test_blocks(void)
{
	struct program program = start();
	struct lh_probes *probes;
	uint64_t before = code_sum(program.id);

	is(PUT(&program, &probes, "blocks"), 0, "put");
	say(&program, "block\n");
	while (counts_of(probes, "blocks").calls == 0)
		usleep(1000);
	usleep(10000);
	is(lh__probes_take(probes, 50, &error), 1, "the memory of a trampoline that a thread waits in stays");
	ok(code_sum(program.id) == before && mappings_of_ours(program.id) == 1, "the code is as it was");
	ask(&program, "stop\n");
	ok(ends_well(&program), "the thread has come back through it");
	/* And one that waits there when the probe comes: it is in the way. */
	program = start();
	say(&program, "block\n");
	ask(&program, "work 1 1\n");
	usleep(10000);
	is(lh__probes_put(program.id, (const char *[]){ "blocks" }, 1, 50, &probes, &error), -EBUSY,
	   "a thread that waits where a jump would be");
	ok(strstr(error.text, "no moment") != NULL, "is told: %s", error.text);
	ask(&program, "stop\n");
	ok(ends_well(&program), "the program found nothing wrong");
}

/* What somebody else has written over a probe is left, and what it may lead to as well. */
static void test_changed_since(void)
{
	struct program program = start();
	struct lh_probes *probes;
	uint64_t address;
	char path[64], byte = '\xcc', now = 0;
	int memory;

	is(PUT(&program, &probes, "blocks", "leaf"), 0, "put");
	address = lh__probes_function(probes, 0)->address;
	snprintf(path, sizeof path, "/proc/%d/mem", program.id);
	memory = open(path, O_RDWR | O_CLOEXEC);
	ok(pwrite(memory, &byte, 1, (off_t)address) == 1, "somebody writes over a probe");
	is(lh__probes_take(probes, 1000, &error), -EBUSY, "taking it off is refused");
	ok(strstr(error.text, "blocks: its code has been changed since") != NULL, "and told");
	ok(pread(memory, &now, 1, (off_t)address) == 1 && now == byte && mappings_of_ours(program.id) == 1,
	   "what was written is left, and its trampoline; the other is taken off");
	close(memory);
	ask(&program, "work 100 2\n");
	ok(ends_well(&program), "the program found nothing wrong");
}

static void test_ticks(void)
{
	uint64_t a = lh__probe_ticks_per_second(), b = lh__probe_ticks_per_second();

	ok(a > 100000000 && a < 20000000000 && a < b + b / 2 && b < a + a / 2, "ticks in a second: %lu", a);
}

static void test_exceptions(void)
{
	static const char *const names[] = { "throws", "cleans", "catches", "dispatch" };
	struct program program = program_start((const char *[]){ "probe_throws", NULL }, 0);
	uint64_t before = code_sum(program.id), thrown;
	struct lh_probes *probes;
	const char *counts;

	if (put(&program, &probes, names, 4) < 0) {
		ok(0, "exceptions: probes are put");
		program_kill(&program);
		return;
	}
	counts = ask(&program, "go\n");
	thrown = count_in(counts, "thrown");
	for (int i = 0; i < 4; i++) {
		struct lh_probe_counts seen = counts_of(probes, names[i]);
		uint64_t calls = count_in(counts, names[i]), left = i < 2 ? thrown : 0;

		ok(seen.calls == calls && seen.returns == calls - left,
		   "exceptions: %s: %lu calls, %lu timed", names[i], seen.calls, seen.returns);
		if (seen.returns != calls - left)
			printf("# %lu calls, %lu thrown, %s\n", calls, thrown,
			       lh__probes_function(probes, (size_t)i)->why_not);
	}
	is(take(probes), 0, "exceptions: taken");
	ok(code_sum(program.id) == before, "exceptions: each byte of code is as it was");
	ok(ends_well(&program), "exceptions: the program found nothing wrong");
}

/* Exchanges two instructions of a trampoline; 0: not found. */
static int spoil(const struct program *program, const struct lh_probes *probes)
{
	static const uint8_t right[] = { 0x5a, 0x59, 0x58, 0x04, 0x7f }, swapped[] = { 0x59, 0x5a };
	uint64_t address = lh__probes_function(probes, 0)->address;
	uint8_t jump[5], text[512], *at;
	int32_t distance;
	char path[64];
	int memory;

	snprintf(path, sizeof path, "/proc/%d/mem", program->id);
	memory = open(path, O_RDWR | O_CLOEXEC);
	if (pread(memory, jump, 5, (off_t)address) != 5 || jump[0] != 0xe9)
		return 0;
	memcpy(&distance, jump + 1, 4);
	address += 5 + (uint64_t)(int64_t)distance;
	if (pread(memory, text, sizeof text, (off_t)address) != sizeof text)
		return 0;
	at = memmem(text, sizeof text, right, sizeof right);
	if (!at || pwrite(memory, swapped, 2, (off_t)address + (at - text)) != 2)
		return 0;
	close(memory);
	return 1;
}

/* The checks see what is wrong: a register that is lost, a byte that is another. */
static void test_planted(void)
{
	struct program program = start();
	uint64_t before = code_sum(program.id);
	struct lh_probes *probes;

	is(PUT(&program, &probes, "called"), 0, "put");
	ok(code_sum(program.id) != before, "planted: that code is changed is seen");
	ok(spoil(&program, probes), "planted: a trampoline that exchanges two registers");
	ask(&program, "work 1 1\n");
	ok(!ends_well(&program), "planted: is seen by the program");
	is(take(probes), 0, "taken");
}

int main(void)
{
	test_planted();
	test_exceptions();
	test_counts("work 2000 1\n", "one thread");
	test_counts("work 500 8\n", "eight threads");
	test_forms();
	test_errors();
	test_dies();
	test_fork();
	test_coroutines();
	test_again_and_again();
	test_blocks();
	test_changed_since();
	test_ticks();
	return done();
}
