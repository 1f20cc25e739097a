/*
 * cover_fuzz.c - coverage for fuzzers: what is news is exactly what ran and had not run before; what has
 * run costs nothing any more; and however a program ends, or what ends it, the caller is told.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linehome.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>

#include "service/code/plan_make.h"
#include "service/code/session.h"
#include "tap.h"

/* So long that only what hangs comes to its end, on a machine that is busy too. */
#define LONG_MS 60000u
#define PLACES 4096u

static char program[PATH_MAX];
static struct lh_error error;

static void find_program(void)
{
	ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 32);
	char *end;

	program[length > 0 ? length : 0] = '\0';
	end = strstr(program, "/address/") ? strstr(program, "/address/") : strstr(program, "/tests/");
	strcpy(end, "/tests/programs/fuzzed");
}

static struct lh_cover *opened(const char *how, const char *at, unsigned timeout_ms, bool each)
{
	char *argv[] = { program, (char *)how, NULL };
	struct lh_cover_options options = { .argv = argv, .at = at, .timeout_ms = timeout_ms, .each = each };
	struct lh_cover *cover = NULL;

	if (!ok(lh_cover_open(&options, &cover, &error) == 0, "%s waits at %s", how ? how : "the program",
	        at ? at : "main"))
		printf("# %s\n", error.text);
	return cover;
}

static struct lh_cover_result run(struct lh_cover *cover, const char *input)
{
	struct lh_cover_result result = { .status = -1 };

	if (lh_cover_feed(cover, input, strlen(input), &error) < 0 ||
	    lh_cover_run(cover, &result, &error) < 0)
		printf("# %s: %s\n", input, error.text);
	return result;
}

static bool exits(struct lh_cover_result result, int code)
{
	return WIFEXITED(result.status) && WEXITSTATUS(result.status) == code && !result.timed_out;
}

static bool dies(struct lh_cover_result result, int signal)
{
	return WIFSIGNALED(result.status) && WTERMSIG(result.status) == signal && !result.timed_out;
}

/* ---- exactness ---- */

static const char *const inputs[] = { "", "z", "w", "wo", "wok", "w!!", "c123", "f", "a", "s", "t", "e" };
#define INPUTS (sizeof(inputs) / sizeof(*inputs))

/* The bytes of the program's file that ran, as far as the first byte of the last instruction of a block. */
struct ran {
	uint64_t base, size;
	uint8_t *byte;
};

static struct ran no_code(const struct lh_plan *plan)
{
	struct ran ran = { plan->head->text[0].address, plan->head->text[0].size, NULL };

	ran.byte = calloc(1, ran.size);
	return ran;
}

static void add(const struct ran *ran, uint64_t from, uint64_t to)
{
	for (uint64_t at = from; at <= to; at++)
		if (at - ran->base < ran->size)
			ran->byte[at - ran->base] = 1;
}

/* Whether each byte of part is in whole. */
static bool contains(const struct ran *whole, const struct ran *part)
{
	for (uint64_t at = 0; at < whole->size; at++)
		if (part->byte[at] && !whole->byte[at])
			return false;
	return true;
}

static bool equal(const struct ran *a, const struct ran *b)
{
	return contains(a, b) && contains(b, a);
}

static void add_news(const struct ran *ran, const struct lh_cover *cover)
{
	static struct lh_cover_place places[PLACES];
	size_t n = lh_cover_news(cover, places, PLACES);

	for (size_t i = 0; i < n; i++)
		add(ran, places[i].address, places[i].last);
}

static void add_record(const struct ran *ran, struct lh_record *record, const struct lh_plan *plan)
{
	struct lh_record_view view;
	struct lh_text text;

	if (!lh__record_module(record, 0, &view))
		return;
	lh__plan_text(plan, 0, 0, NULL, &text);
	for (uint32_t at = 0; at < ran->size; at++)
		if (view.hits[0][at / 64] >> at % 64 & 1) {
			struct lh_span span = lh__text_span(&text, at, LH_GRANULARITY_BLOCK);

			add(ran, ran->base + span.from, ran->base + span.to);
		}
}

/* The same by a session of its own, which records from main on. */
static void run_alone(const char *input, const struct ran *ran, const struct lh_plan *plan)
{
	int nothing = open("/dev/null", O_RDWR | O_CLOEXEC), file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
	const int standard[3] = { file, nothing, nothing };
	struct lh_session_options options = { .from = "main", .standard = standard };
	char *argv[] = { program, NULL };
	struct lh_session *session;
	bool verified;
	int status;

	if (write(file, input, strlen(input)) < 0 || lseek(file, 0, SEEK_SET) < 0 ||
	    lh__record_create(NULL, LH_GRANULARITY_BLOCK, argv, &options.record, &error) < 0 ||
	    lh__session_launch(&options, argv, &session, &error) < 0) {
		ok(0, "a session: %s", error.text);
		return;
	}
	while (lh__session_wait(session, -1, &status, &error) != 1)
		;
	(void)!lh__session_end(session, &verified, &error);
	add_record(ran, options.record, plan);
	lh__record_close(options.record);
	close(nothing);
	close(file);
}

static void compare_one(const char *input, struct lh_cover *each, struct lh_cover *news,
                        const struct ran *before, const struct lh_plan *plan)
{
	struct ran alone = no_code(plan), every = no_code(plan), new = no_code(plan), all = no_code(plan);
	struct lh_cover_result result;

	run_alone(input, &alone, plan);
	result = run(each, input);
	add_news(&every, each);
	if (!ok(equal(&alone, &every), "'%s': all that ran is told, as a session has it", input))
		printf("# %zu blocks, %s\n", result.news,
		       contains(&alone, &every) ? "some are missing" : "some too many");
	run(news, input);
	add_news(&new, news);
	memcpy(all.byte, before->byte, all.size);
	for (uint64_t at = 0; at < all.size; at++)
		all.byte[at] |= new.byte[at];
	ok(contains(&every, &new) && contains(&all, &every), "'%s': news are what is new", input);
	memcpy(before->byte, all.byte, all.size);
	result = run(news, input);
	ok(result.news == 0 && result.traps == 0 && lh_cover_news(news, NULL, 0) == 0,
	   "'%s': again, there is no news and no trap", input);
	free(alone.byte);
	free(every.byte);
	free(new.byte);
	free(all.byte);
}

static void test_exact(void)
{
	struct lh_cover *each = opened(NULL, NULL, LONG_MS, true), *news = opened(NULL, NULL, LONG_MS, false);
	int file = open(program, O_RDONLY | O_CLOEXEC);
	struct ran before, less;
	struct lh_plan plan;

	if (!each || !news || lh__plan_open(&lh__sys_default, file, program, &plan, &error) < 0)
		return;
	before = no_code(&plan);
	for (size_t i = 0; i < INPUTS; i++)
		compare_one(inputs[i], each, news, &before, &plan);
	/* Of two equal sets one loses a byte. */
	less = before;
	less.byte = memcpy(malloc(less.size), before.byte, less.size);
	((uint8_t *)memchr(less.byte, 1, less.size))[0] = 0;
	ok(!equal(&before, &less) && contains(&before, &less), "caught: a byte of a block that is missing");
	free(less.byte);
	free(before.byte);
	lh__plan_close(&lh__sys_default, &plan);
	close(file);
	lh_cover_close(each);
	lh_cover_close(news);
}

static void test_libraries(void)
{
	char *argv[] = { program, NULL };
	struct lh_cover_options options = { .argv = argv, .timeout_ms = LONG_MS, .libraries = true };
	struct lh_cover_result first, second;
	struct lh_cover_place place[PLACES];
	struct lh_cover *cover;
	bool libc = false;
	size_t n;

	if (!ok(lh_cover_open(&options, &cover, &error) == 0, "with libraries"))
		return;
	first = run(cover, "t");
	n = lh_cover_news(cover, place, PLACES);
	for (size_t i = 0; i < n && i < PLACES; i++)
		libc |= strstr(place[i].module, "/libc.so") != NULL;
	ok(exits(first, 3) && libc && n == first.news, "blocks of libc are told");
	run(cover, "t");
	second = run(cover, "t");
	ok(exits(second, 3) && second.traps == 0, "and cost nothing later: %llu traps",
	   (unsigned long long)second.traps);
	ok(exits(run(cover, "f"), 7) && dies(run(cover, "a"), SIGABRT), "a fork, and an abort");
	lh_cover_close(cover);
}

static void test_where(void)
{
	struct lh_cover *cover = opened(NULL, "begin", LONG_MS, false);
	struct lh_cover_place place[64], nowhere = { program, 1, 1 };
	struct lh_cover_where where;
	bool found = false;
	size_t n;

	if (!cover)
		return;
	run(cover, "f");
	n = lh_cover_news(cover, place, 64);
	ok(n > 3 && n < 64, "%zu blocks", n);
	for (size_t i = 0; i < n; i++) {
		lh_cover_locate(cover, &place[i], &where);
		found |= where.function && strcmp(where.function, "in_child") == 0 && where.offset == 0 &&
		         where.file && strstr(where.file, "fuzzed.c") && where.line > 0;
		if (where.function && strcmp(where.function, "main") == 0 && where.offset < 16)
			ok(0, "what comes before the beginning is no news");
	}
	ok(found, "one of them is where in_child begins, in fuzzed.c");
	lh_cover_locate(cover, &nowhere, &where);
	ok(!where.function && where.offset == 0 && !where.file && where.line == 0,
	   "of another address nothing is known");
	nowhere.module = "/nonexistent";
	lh_cover_locate(cover, &nowhere, &where);
	ok(!where.function && !where.file, "nor of a file that is not there");
	lh_cover_close(cover);
}

/* ---- how runs end ---- */

static void test_ends(const char *how)
{
	struct lh_cover *cover = opened(how, NULL, LONG_MS, false);
	struct lh_cover_result result;

	if (!cover)
		return;
	ok(exits(run(cover, ""), 0) && exits(run(cover, "z"), 1), "exit codes");
	ok(dies(run(cover, "a"), SIGABRT), "abort is SIGABRT");
	ok(dies(run(cover, "r"), SIGUSR1), "a signal that it sends to its own thread");
	ok(dies(run(cover, "s"), SIGSEGV), "a crash");
	ok(exits(run(cover, "t"), 3), "a thread is made and joined");
	ok(exits(run(cover, "e"), 41), "another program is executed, and watched");
	ok(exits(run(cover, "c"), 1) && exits(run(cover, "c12345"), 6) && exits(run(cover, "c1"), 2),
	   "each run reads its input from the beginning to the end");
	result = run(cover, "c1");
	ok(ftruncate(lh_cover_input(cover), 4) == 0 && lh_cover_run(cover, &result, &error) == 0 &&
	           exits(result, 4),
	   "the file may be cut or written to by hand");
	ok(exits(run(cover, "w!"), 5) && exits(run(cover, "w!"), 5), "memory is each time as it was");
	lh_cover_close(cover);
}

/* Where ends of children are ignored, waitpid has nothing to give; the run itself is told all the same. */
static void test_ignored_children(void)
{
	struct lh_cover *cover = opened("quiet", "begin", LONG_MS, false);

	if (!cover)
		return;
	ok(exits(run(cover, "z"), 1) && dies(run(cover, "a"), SIGABRT) && exits(run(cover, "f"), 98),
	   "a program that ignores SIGCHLD");
	lh_cover_close(cover);
}

static void test_timeout(void)
{
	struct lh_cover *cover = opened(NULL, NULL, 300, false);
	struct lh_cover_result result;
	int late = 0;

	if (!cover)
		return;
	result = run(cover, "h");
	ok(result.timed_out && WIFSIGNALED(result.status) && WTERMSIG(result.status) == SIGKILL,
	   "a run that hangs is killed when its time is over");
	ok(result.news > 0, "what it reached is told");
	result = run(cover, "z");
	ok(result.timed_out || exits(result, 1), "the next one is as any other");
	lh_cover_close(cover);
	cover = opened(NULL, NULL, 1, false);
	for (int i = 0; cover && i < 50; i++)
		late += run(cover, "h").timed_out;
	is(late, 50, "so are 50 whose time is over almost before they have begun");
	lh_cover_close(cover);
}

static void test_output(void)
{
	char *argv[] = { program, NULL }, text[8] = "";
	struct lh_cover_options options = { .argv = argv, .timeout_ms = LONG_MS, .output = true };
	int pipes[2], before = dup(STDOUT_FILENO), result;
	struct lh_cover *cover;

	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK) < 0)
		return;
	fflush(stdout);
	dup2(pipes[1], STDOUT_FILENO);
	result = lh_cover_open(&options, &cover, &error);
	dup2(before, STDOUT_FILENO);
	close(before);
	if (!ok(result == 0, "with output"))
		return;
	ok(exits(run(cover, "o"), 0) && read(pipes[0], text, 6) == 6 && strcmp(text, "heard\n") == 0,
	   "a run writes where the caller does");
	lh_cover_close(cover);
	close(pipes[0]);
	close(pipes[1]);
	cover = opened(NULL, NULL, LONG_MS, false);
	ok(cover && exits(run(cover, "o"), 0), "else it writes to nowhere");
	lh_cover_close(cover);
}

/* ---- what is left of it ---- */

static pid_t only_child(pid_t process)
{
	char path[64];
	int child = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", process, process);
	file = fopen(path, "re");
	if (file && fscanf(file, "%d", &child) != 1)
		child = 0;
	if (file)
		fclose(file);
	return child;
}

static bool is_gone(pid_t process)
{
	for (int i = 0; i < 5000; i++) {
		if (kill(process, 0) < 0 && errno == ESRCH)
			return true;
		poll(NULL, 0, 2);
	}
	return false;
}

static void test_left_behind(void)
{
	char number[16], *argv[] = { program, "quiet", number, NULL };
	struct lh_cover_options options = { .argv = argv, .timeout_ms = LONG_MS };
	struct lh_cover *cover;
	int pipes[2], child, n = 0, alive = 0;

	if (pipe(pipes) < 0)
		return;
	fcntl(pipes[0], F_SETFD, FD_CLOEXEC);
	snprintf(number, sizeof(number), "%d", pipes[1]);
	if (!ok(lh_cover_open(&options, &cover, &error) == 0, "a program that leaves children behind"))
		return;
	ok(exits(run(cover, "d"), 0), "it ends");
	close(pipes[1]);
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	while (read(pipes[0], &child, sizeof(child)) == sizeof(child)) {
		n++;
		alive += kill(child, 0) == 0;
	}
	ok(n >= 2 && alive == 0, "of the %d that it told, %d are left", n, alive);
	ok(exits(run(cover, "z"), 1), "the next run is as any other");
	lh_cover_close(cover);
	close(pipes[0]);
}

static void test_server_killed(void)
{
	struct lh_cover *cover = opened(NULL, NULL, LONG_MS, false);
	struct lh_cover_result result;
	pid_t server = only_child(getpid());

	if (!cover)
		return;
	run(cover, "z");
	ok(server > 0 && kill(server, SIGKILL) == 0, "the fork server is killed");
	ok(lh_cover_run(cover, &result, &error) == -ECHILD && strstr(error.text, "signal 9"), "told: %s",
	   error.text);
	ok(lh_cover_run(cover, &result, &error) == -ECHILD && lh_cover_news(cover, NULL, 0) == 0,
	   "and stays dead");
	lh_cover_close(cover);
}

/* A caller that is killed in the middle of a run. */
static void test_caller_killed(void)
{
	int pipes[2], in_run = 0, status;
	char number[16], *argv[] = { program, "plain", number, NULL };
	struct lh_cover_options options = { .argv = argv, .timeout_ms = LONG_MS };
	pid_t caller, server;

	if (pipe(pipes) < 0)
		return;
	fcntl(pipes[0], F_SETFD, FD_CLOEXEC);
	snprintf(number, sizeof(number), "%d", pipes[1]);
	fflush(stdout);
	caller = fork();
	if (caller == 0) {
		struct lh_cover_result result;
		struct lh_cover *cover;

		if (lh_cover_open(&options, &cover, &error) == 0 && lh_cover_feed(cover, "p", 1, &error) == 0)
			(void)!lh_cover_run(cover, &result, &error);
		_exit(1);
	}
	close(pipes[1]);
	ok(read(pipes[0], &in_run, sizeof(in_run)) == sizeof(in_run), "a run is under way");
	server = only_child(caller);
	ok(server > 0 && server != in_run && kill(server, 0) == 0 && kill(in_run, 0) == 0,
	   "server and run are there");
	kill(caller, SIGKILL);
	waitpid(caller, &status, 0);
	ok(is_gone(server) && is_gone(in_run), "when the caller is killed, they end");
	close(pipes[0]);
}

/* ---- what cannot be ---- */

static void refused(int code, const char *word, const struct lh_cover_options *options)
{
	struct lh_cover *cover = NULL;
	int result = lh_cover_open(options, &cover, &error);

	if (!ok(result == code && error.code == code && strstr(error.text, word) && !cover, "refused: %s",
	        error.text))
		printf("# %d\n", result);
	lh_cover_close(cover);
}

#define OPTIONS(...) (&(struct lh_cover_options){ __VA_ARGS__ })
#define ARGV(...)                                                                                            \
	(char *[])                                                                                           \
	{                                                                                                    \
		__VA_ARGS__, NULL                                                                            \
	}

static void test_refused(void)
{
	char text[] = "/tmp/cover-fuzz-XXXXXX", *nothing[] = { NULL };
	int file = mkstemp(text);

	refused(-EINVAL, "no program", OPTIONS(.argv = NULL));
	refused(-EINVAL, "no program", OPTIONS(.argv = nothing));
	refused(-EINVAL, "at most", OPTIONS(.argv = ARGV(program), .timeout_ms = LH_COVER_TIMEOUT_MAX + 1));
	refused(-EINVAL, "no name", OPTIONS(.argv = ARGV(program), .at = ""));
	refused(-ENOENT, "not found", OPTIONS(.argv = ARGV("/nonexistent/program")));
	refused(-EACCES, "cannot be executed", OPTIONS(.argv = ARGV(text)));
	refused(-ENOENT, "no function nowhere", OPTIONS(.argv = ARGV(program), .at = "nowhere"));
	refused(-ECHILD, "status 3", OPTIONS(.argv = ARGV(program, "early"), .at = "begin"));
	refused(-EBUSY, "2 threads", OPTIONS(.argv = ARGV(program, "threads"), .at = "begin"));
	refused(-ETIMEDOUT, "begin in time",
	        OPTIONS(.argv = ARGV(program, "late"), .at = "begin", .timeout_ms = 1));
	close(file);
	unlink(text);
	lh_cover_close(NULL);
}

/* Where there are no symbols runs begin at the very first instruction. */
static void test_stripped(void)
{
	struct lh_cover_options options = { .argv = ARGV("true"), .timeout_ms = LONG_MS };
	struct lh_cover *cover;
	struct lh_cover_result result;

	if (!ok(lh_cover_open(&options, &cover, &error) == 0, "a program without symbols, found in PATH"))
		return;
	result = run(cover, "");
	ok(exits(result, 0) && result.news > 0, "runs from its entry: %zu blocks", result.news);
	result = run(cover, "");
	ok(exits(result, 0) && result.news == 0 && result.traps == 0, "and again");
	lh_cover_close(cover);
}

static int descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(folder))
		n++;
	closedir(folder);
	return n;
}

int main(void)
{
	int before = descriptors();

	find_program();
	test_exact();
	test_libraries();
	test_where();
	test_ends(NULL);
	test_ignored_children();
	test_timeout();
	test_output();
	test_left_behind();
	test_server_killed();
	test_caller_killed();
	test_refused();
	test_stripped();
	ok(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "no process is left");
	is(descriptors(), before, "no descriptor is left");
	return done();
}
