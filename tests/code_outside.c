/* timeout: 120 */
/* The outside engine: programs that are traced do what they do without, and what ran is known. */
#include "service/code/session.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>

#include "code_program.h"
#include "service/code/outside.h"
#include "service/code/remote.h"
#include "service/code/symbols.h"

static struct lh_error error;
static char path[PATH_MAX + 64];

static void pause_ms(long milliseconds)
{
	nanosleep(&(struct timespec){ milliseconds / 1000, milliseconds % 1000 * 1000000 }, NULL);
}

static void say(void *context, const char *text)
{
	(void)context;
	printf("# %s\n", text);
}

static struct lh_record *record_for(char *const *argv, enum lh_granularity granularity)
{
	struct lh_record *record = NULL;

	if (lh__record_create(NULL, granularity, argv, &record, &error)) {
		printf("# %s\n", error.text);
		exit(99);
	}
	return record;
}

/* Runs a program under watch and returns its status; -1: it could not be watched as it should. */
static int run(char *const *argv, enum lh_session_choice engine, bool libraries,
               enum lh_granularity granularity, struct lh_record **record)
{
	struct lh_session_options options = { .engine = engine, .libraries = libraries, .say = say };
	struct lh_session *session;
	bool verified = false;
	int status = -1, rc;

	options.record = *record = record_for(argv, granularity);
	if (lh__session_launch(&options, argv, &session, &error)) {
		printf("# %s\n", error.text);
		return -1;
	}
	do {
		rc = lh__session_wait(session, 30000, &status, &error);
	} while (rc == 2);
	if (rc != 1) {
		printf("# wait: %d, %s\n", rc, error.text);
		status = -1;
	}
	if (lh__session_end(session, &verified, &error) || !verified) {
		printf("# end: %s\n", error.text);
		status = -1;
	}
	return status;
}

static uint64_t hits_of(struct lh_record *record, bool programs_only)
{
	struct lh_record_view module;
	uint64_t hits = 0;

	for (size_t i = 0; lh__record_module(record, i, &module); i++)
		for (uint32_t j = 0; j < module.head->texts; j++)
			for (uint64_t k = 0; k < module.head->text[j].size / 64; k++)
				if (!programs_only || module.head->is_program)
					hits += (uint64_t)__builtin_popcountll(module.hits[j][k]);
	return hits;
}

static void runs_well(const char *what, bool libraries, enum lh_granularity granularity)
{
	char *argv[] = { path, (char *)(uintptr_t)what, NULL };
	struct lh_record *record;

	program_path(path, "traced");
	is(run(argv, LH_ENGINE_OUTSIDE, libraries, granularity, &record), 0, "%s%s", what,
	   libraries ? ", libraries too" : "");
	ok(hits_of(record, true) > 10, "it was seen");
	lh__record_close(record);
}

/* ---- what was seen ---- */

static bool has_hit(struct lh_record *record, uint64_t address)
{
	struct lh_record_view module;

	for (size_t i = 0; lh__record_module(record, i, &module); i++)
		for (uint32_t j = 0; module.head->is_program && j < module.head->texts; j++) {
			const struct lh_record_text *text = &module.head->text[j];

			if (address >= text->address && address < text->address + text->size)
				return module.hits[j][(address - text->address) / 64] >>
				               ((address - text->address) % 64) &
				       1;
		}
	return false;
}

static int note(void *context, const struct lh_symbol *symbol)
{
	*(uint64_t *)context = symbol->address - symbol->bias;
	return 1;
}

/* Where the program's file has a function. */
static uint64_t place_of(const char *name)
{
	struct program program = program_start((const char *const[]){ "traced", "waits", NULL }, 0);
	struct lh_symbols *symbols;
	uint64_t at = 0;

	if (!lh__symbols_open(program.id, &symbols, &error)) {
		(void)!lh__symbols_find(symbols, name, note, &at);
		lh__symbols_close(symbols);
	}
	program_kill(&program);
	return at;
}

static void test_known(void)
{
	uint64_t even = place_of("even"), odd = place_of("odd");

	program_path(path, "traced");
	for (int i = 1; i <= 2; i++) {
		char *argv[] = { path, "twice", i == 1 ? "1" : "2", NULL };
		struct lh_record *record;

		is(run(argv, LH_ENGINE_OUTSIDE, false, LH_GRANULARITY_BLOCK, &record), 0, "twice %d", i);
		is(has_hit(record, odd), i == 1, "odd %s", i == 1 ? "ran" : "did not run");
		is(has_hit(record, even), i == 2, "even %s", i == 2 ? "ran" : "did not run");
		lh__record_close(record);
	}
}

/* Both engines see the same of a program with one thread. */
static void test_equal(enum lh_granularity granularity)
{
	char *argv[] = { path, "twice", "1", NULL };
	struct lh_record *inside, *outside;
	struct lh_record_view a, b;
	uint64_t differ = 0, bits = 0;

	is(run(argv, LH_ENGINE_INSIDE, false, granularity, &inside), 0, "inside");
	is(run(argv, LH_ENGINE_OUTSIDE, false, granularity, &outside), 0, "outside");
	if (!lh__record_module(inside, 0, &a) || !lh__record_module(outside, 0, &b)) {
		ok(0, "a module in both");
		return;
	}
	for (uint32_t j = 0; j < a.head->texts; j++)
		for (uint64_t k = 0; k < a.head->text[j].size / 64; k++) {
			differ += (uint64_t)__builtin_popcountll(a.hits[j][k] ^ b.hits[j][k]);
			bits += (uint64_t)__builtin_popcountll(a.hits[j][k]);
		}
	printf("# %lu hits\n", (unsigned long)bits);
	is(differ, 0, "both engines see the same");
	lh__record_close(inside);
	lh__record_close(outside);
}

static void is_quiet(int rc)
{
	if (rc)
		ok(0, "wait: %d, %s", rc, error.text);
}

/* ---- coming later, and letting go ---- */

struct bytes {
	uint8_t *now;
	uint64_t start, size;
};

static int find_code(void *context, const struct lh_mapping *mapping)
{
	struct bytes *bytes = context;

	if (mapping->rights[2] != 'x' || !strstr(mapping->path, "/traced"))
		return 0;
	bytes->start = mapping->start;
	bytes->size = mapping->end - mapping->start;
	return 1;
}

static struct bytes code_of(pid_t process)
{
	struct bytes bytes = { 0 };
	char name[64];
	int memory;

	(void)!lh__mappings(process, find_code, &bytes);
	bytes.now = malloc(bytes.size + 1);
	snprintf(name, sizeof(name), "/proc/%d/mem", process);
	memory = open(name, O_RDONLY | O_CLOEXEC);
	if (!bytes.now || memory < 0 ||
	    pread(memory, bytes.now, bytes.size, (off_t)bytes.start) != (ssize_t)bytes.size)
		exit(99);
	close(memory);
	return bytes;
}

static bool same_code(const struct bytes *a, pid_t process)
{
	struct bytes b = code_of(process);
	bool same = a->size == b.size && !memcmp(a->now, b.now, b.size);

	free(b.now);
	return same;
}

static bool tracer_of(pid_t process)
{
	char line[256], name[64];
	int tracer = 0;
	FILE *file;

	snprintf(name, sizeof(name), "/proc/%d/status", process);
	file = fopen(name, "r");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "TracerPid: %d", &tracer) == 1)
			break;
	if (file)
		fclose(file);
	return tracer;
}

static bool ended_well(struct program *program)
{
	char said[256];
	int status = program_end(program, said, sizeof(said));

	if (status)
		printf("# status %#x\n", (unsigned)status);
	return !status && strstr(said, "well");
}

static void test_attach(void)
{
	struct program program = program_start((const char *const[]){ "traced", "waits", NULL }, 0);
	struct lh_session_options options = { .engine = LH_ENGINE_OUTSIDE, .say = say };
	char *argv[] = { path, NULL };
	struct bytes before = code_of(program.id);
	struct lh_session *session;
	bool verified = false;
	int status, rc;

	options.record = record_for(argv, LH_GRANULARITY_BLOCK);
	rc = lh__session_attach(&options, program.id, &session, &error);
	is(rc, 0, "attached");
	if (rc) {
		printf("# %s\n", error.text);
		return program_kill(&program);
	}
	is(lh__session_wait(session, 50, &status, &error), 0, "it goes on");
	ok(!same_code(&before, program.id), "its code is absent in part");
	ok(hits_of(options.record, true) > 3, "and what runs is seen");
	is(lh__session_end(session, &verified, &error), 0, "and let go of");
	ok(verified, "verified");
	ok(same_code(&before, program.id) && !tracer_of(program.id), "as it was before");
	ok(ended_well(&program), "it saw nothing");
	lh__record_close(options.record);
	free(before.now);
}

/* Whoever watches is killed: the guard brings everything back. */
static void test_killed(void)
{
	struct program program = program_start((const char *const[]){ "traced", "waits", NULL }, 0);
	struct bytes before = code_of(program.id);
	pid_t watcher = fork();
	int status, turns = 0;

	if (!watcher) {
		struct lh_session_options options = { .engine = LH_ENGINE_OUTSIDE };
		char *argv[] = { path, NULL };
		struct lh_session *session;

		options.record = record_for(argv, LH_GRANULARITY_BLOCK);
		if (lh__session_attach(&options, program.id, &session, &error))
			_exit(1);
		(void)!lh__session_wait(session, 50, &status, &error);
		kill(getpid(), SIGKILL);
	}
	waitpid(watcher, &status, 0);
	ok(WIFSIGNALED(status), "who watched was killed");
	while (tracer_of(program.id) && turns++ < 500)
		pause_ms(10);
	ok(!tracer_of(program.id), "the program is let go of");
	ok(same_code(&before, program.id), "and its code is back");
	ok(ended_well(&program), "it goes on to its end");
	free(before.now);
}

/* The same of a program that was launched: it had never been without. */
static void test_launcher_killed(void)
{
	int in[2], out[2], told[2], status, turns = 0;
	struct program program = { 0 };
	char line[64];
	pid_t watcher;

	program_path(path, "traced");
	if (pipe(in) || pipe(out) || pipe(told))
		exit(99);
	watcher = fork();
	if (!watcher) {
		struct lh_session_options options = { .engine = LH_ENGINE_OUTSIDE };
		char *argv[] = { path, "waits", NULL };
		struct lh_session *session;

		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[1]);
		close(out[1]);
		options.record = record_for(argv, LH_GRANULARITY_BLOCK);
		if (lh__session_launch(&options, argv, &session, &error))
			_exit(1);
		program.id = lh__session_process(session);
		(void)!lh__session_wait(session, 200, &status, &error);
		(void)!write(told[1], &program.id, sizeof(program.id));
		kill(getpid(), SIGKILL);
	}
	close(in[0]);
	close(out[1]);
	close(told[1]);
	program.in = in[1];
	program.out = fdopen(out[0], "r");
	is(read(told[0], &program.id, sizeof(program.id)), sizeof(program.id), "launched");
	close(told[0]);
	waitpid(watcher, NULL, 0);
	while (tracer_of(program.id) && turns++ < 500)
		pause_ms(10);
	ok(!tracer_of(program.id), "who launched it was killed: it is let go of");
	close(program.in);
	ok(fgets(line, sizeof(line), program.out) && !strcmp(line, "ready\n") &&
	           fgets(line, sizeof(line), program.out) && !strcmp(line, "well\n"),
	   "and goes on to its end");
	fclose(program.out);
}

static char state_of(pid_t process)
{
	char line[512], name[64];
	const char *at = NULL;
	FILE *file;

	snprintf(name, sizeof(name), "/proc/%d/stat", process);
	file = fopen(name, "r");
	if (file && fgets(line, sizeof(line), file))
		at = strrchr(line, ')');
	if (file)
		fclose(file);
	return at ? at[2] : '?';
}

/* Calls that wait, threads that come and go, signals of which none may be lost, and stops by job control. */
static void test_busy(void)
{
	struct program program = program_start((const char *const[]){ "stopped", "calls", "threads",
	                                                              "registers", "signals", NULL },
	                                       0);
	struct lh_session_options options = { .engine = LH_ENGINE_OUTSIDE, .say = say };
	char *argv[] = { path, NULL }, said[4096], wanted[64];
	struct lh_session *session;
	unsigned long sent = 0, sum = 0;
	bool verified = false;
	int status, rc = 0;

	options.record = record_for(argv, LH_GRANULARITY_BLOCK);
	if (lh__session_attach(&options, program.id, &session, &error)) {
		ok(0, "attached: %s", error.text);
		return program_kill(&program);
	}
	for (int i = 1; i <= 200 && !rc; i++) {
		if (!sigqueue(program.id, SIGRTMIN, (union sigval){ .sival_int = i })) {
			sent++;
			sum += (unsigned long)i;
		}
		rc = lh__session_wait(session, 2, &status, &error);
	}
	is(rc, 0, "a busy program goes on");
	kill(program.id, SIGSTOP);
	for (int i = 0; i < 500 && !strchr("Tt", state_of(program.id)); i++)
		is_quiet(lh__session_wait(session, 10, &status, &error));
	/* Stopped as if nobody traced it: 't' is how the kernel tells that of a traced one. */
	ok(strchr("Tt", state_of(program.id)), "SIGSTOP stops it");
	kill(program.id, SIGCONT);
	is_quiet(lh__session_wait(session, 50, &status, &error));
	is(lh__session_end(session, &verified, &error), 0, "a busy program is let go of");
	ok(verified, "verified");
	snprintf(wanted, sizeof(wanted), "signals %lu %lu\n", sent, sum);
	is(program_end(&program, said, sizeof(said)), 0, "and has seen nothing");
	ok(strstr(said, wanted), "each signal came once");
	if (!strstr(said, wanted))
		printf("# wanted %s# said %s", wanted, said);
	lh__record_close(options.record);
}

static void test_static(void)
{
	char folder[] = "/tmp/code_outside.XXXXXX", source[PATH_MAX], command[2 * PATH_MAX];
	char *argv[] = { source, NULL };
	struct lh_record *record;
	FILE *file;

	if (!mkdtemp(folder))
		exit(99);
	snprintf(source, sizeof(source), "%s/static.c", folder);
	file = fopen(source, "w");
	fprintf(file, "int main(int argc, char **argv) { volatile int x = argc; return x * 2 - 2; }\n");
	fclose(file);
	snprintf(command, sizeof(command), "cc -static -o %s/static %s 2>/dev/null", folder, source);
	if (system(command)) {
		skip("a static program", "none can be built");
	} else {
		snprintf(source, sizeof(source), "%s/static", folder);
		is(run(argv, LH_ENGINE_OUTSIDE, false, LH_GRANULARITY_BLOCK, &record), 0, "a static program");
		ok(hits_of(record, true) > 100, "was seen");
		lh__record_close(record);
	}
	snprintf(command, sizeof(command), "rm -r %s", folder);
	(void)!system(command);
}

static double cpu_us(const struct rusage *usage)
{
	return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1e6 +
	       (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec);
}

static void test_cost(void)
{
	char *argv[] = { "/bin/ls", "/", NULL };
	struct lh_record *record;
	struct timespec start, end;
	int null = open("/dev/null", O_WRONLY), out = dup(1);
	const struct lh_record_control *control;
	struct rusage before, after;
	double us, cpu;

	fflush(stdout);
	dup2(null, 1);
	getrusage(RUSAGE_CHILDREN, &before);
	clock_gettime(CLOCK_MONOTONIC, &start);
	run(argv, LH_ENGINE_OUTSIDE, true, LH_GRANULARITY_BLOCK, &record);
	clock_gettime(CLOCK_MONOTONIC, &end);
	fflush(stdout);
	dup2(out, 1);
	close(null);
	close(out);
	control = lh__record_control(record);
	getrusage(RUSAGE_CHILDREN, &after);
	cpu = cpu_us(&after) - cpu_us(&before);
	us = (double)(end.tv_sec - start.tv_sec) * 1e6 + (double)(end.tv_nsec - start.tv_nsec) / 1e3;
	printf("# ls: %.1f ms, %.1f ms of a processor, %lu traps: %.1f us each with all else\n", us / 1e3,
	       cpu / 1e3, (unsigned long)control->traps, cpu / (double)(control->traps + 1));
	ok(control->traps > 100, "traps were counted");
	ok(control->processes == 1, "and processes");
	lh__record_close(record);
}

int main(void)
{
	static const char *const works[] = { "threads", "children", "blocked", "trap", "loads" };

	for (size_t i = 0; i < sizeof(works) / sizeof(*works); i++) {
		runs_well(works[i], false, LH_GRANULARITY_BLOCK);
		runs_well(works[i], true, i % 2 ? LH_GRANULARITY_LINE : LH_GRANULARITY_BLOCK);
	}
	test_known();
	test_equal(LH_GRANULARITY_BLOCK);
	test_equal(LH_GRANULARITY_LINE);
	test_attach();
	test_killed();
	test_launcher_killed();
	test_busy();
	test_static();
	test_cost();
	return done();
}
