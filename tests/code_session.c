/* timeout: 60 */
/*
 * Sessions: attaching and letting go again and again, children, windows, a program and a watcher that are
 * killed, and processes that cannot be attached to. LH_TEST_ATTACH: how often (20).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <time.h>

#include "line/line.h"
#include "service/code/remote.h"
#include "service/code/session.h"
#include "tap.h"

static char busy[4096]; /* the program */

static void nap(unsigned milliseconds)
{
	struct timespec time = { milliseconds / 1000, (long)(milliseconds % 1000) * 1000000 };

	nanosleep(&time, NULL);
}

static void say(void *context, const char *text)
{
	(void)context;
	printf("# %s\n", text);
}

static struct lh_record *new_record(void)
{
	char *const command[] = { NULL };
	struct lh_record *record = NULL;
	struct lh_error error = { 0 };

	if (lh__record_create(NULL, LH_GRANULARITY_BLOCK, command, &record, &error) < 0)
		printf("# %s\n", error.text);
	return record;
}

static struct lh_session_options options_for(struct lh_record *record)
{
	return (struct lh_session_options){ .record = record, .libraries = true, .say = say };
}

/* ---- the program ---- */

static pid_t start_busy(bool forks, int *output)
{
	int ends[2];
	pid_t child;

	if (pipe(ends) < 0)
		return -1;
	child = fork();
	if (child == 0) {
		dup2(ends[1], 1);
		close(ends[0]);
		close(ends[1]);
		execl(busy, "busy", forks ? "fork" : NULL, NULL);
		_exit(127);
	}
	close(ends[1]);
	*output = ends[0];
	nap(100);
	return child;
}

static void end_busy(pid_t child, int output, const char *what)
{
	char text[16] = "";
	int status = -1;

	kill(child, SIGTERM);
	waitpid(child, &status, 0);
	if (read(output, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(output);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 7 && strcmp(text, "right\n") == 0,
	   "%s: all it computed is right", what);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
		printf("# wait status 0x%x, said %s\n", (unsigned)status, text);
}

/* ---- its text ---- */

struct sum {
	pid_t process;
	int memory;
	uint32_t crc;
	uint64_t size;
};

static int add_text(void *context, const struct lh_mapping *mapping)
{
	struct sum *sum = context;
	uint8_t page[4096];

	if (mapping->rights[2] != 'x' || mapping->inode == 0)
		return 0;
	for (uint64_t at = mapping->start; at < mapping->end; at += sizeof(page)) {
		if (pread(sum->memory, page, sizeof(page), (off_t)at) != (ssize_t)sizeof(page))
			return 0; /* behind the end of the file */
		sum->crc = lh__crc32c(sum->crc, page, sizeof(page));
		sum->size += sizeof(page);
	}
	return 0;
}

static uint32_t text_sum(pid_t process)
{
	struct sum sum = { .process = process };
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", process);
	sum.memory = open(path, O_RDONLY);
	if (sum.memory < 0 || lh__mappings(process, add_text, &sum) < 0 || sum.size < 4096)
		ok(0, "its text can be read");
	close(sum.memory);
	return sum.crc;
}

static uint64_t count_hits(struct lh_record *record)
{
	struct lh_record_view view;
	uint64_t n = 0;

	for (size_t i = 0; lh__record_module(record, i, &view); i++)
		for (unsigned text = 0; text < view.head->texts; text++)
			for (uint64_t word = 0; word < view.head->text[text].size / 64; word++)
				n += (uint64_t)__builtin_popcountll(view.hits[text][word]);
	return n;
}

/* ---- attaching ---- */

/* Attaches for some milliseconds; false: something was not as it should be. */
static bool attach_once(pid_t process, unsigned milliseconds, uint64_t *hits, uint64_t *stopped)
{
	struct lh_record *record = new_record();
	struct lh_session_options options = options_for(record);
	struct lh_session *session;
	struct lh_error error = { 0 };
	bool verified = false;
	int status = 0, result = lh__session_attach(&options, process, &session, &error);

	if (result == 0) {
		*stopped = lh__session_stopped_for(session);
		result = lh__session_wait(session, (int)milliseconds, &status, &error);
		if (result == 0)
			result = lh__session_end(session, &verified, &error);
	}
	if (result < 0)
		printf("# %s\n", error.text);
	*hits = count_hits(record);
	lh__record_close(record);
	return result == 0 && verified;
}

/* How many mappings of code that are of no file a process has. */
static int count_made_code(void *context, const struct lh_mapping *mapping)
{
	*(unsigned *)context += mapping->rights[2] == 'x' && mapping->path[0] == '\0';
	return 0;
}

/* Whether all its threads are scheduled as they were when they were started. */
static bool scheduled_as_before(pid_t process)
{
	char path[64];
	struct dirent *entry;
	bool same = true;
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/task", process);
	folder = opendir(path);
	while (folder && (entry = readdir(folder))) {
		pid_t thread = atoi(entry->d_name);

		same &= thread <= 0 || sched_getscheduler(thread) == sched_getscheduler(0);
	}
	if (folder)
		closedir(folder);
	return folder && same;
}

/* What is seen of us when we are gone: memory, how threads and we are scheduled. */
static void test_traces(pid_t process, int policy, const cpu_set_t *processors)
{
	unsigned code = 0;
	cpu_set_t now;

	is(lh__mappings(process, count_made_code, &code), 0, "its mappings are read");
	is(code, 0, "nothing of the agent's is left in its memory");
	ok(scheduled_as_before(process), "its threads are scheduled as before");
	ok(sched_getscheduler(0) == policy && sched_getaffinity(0, sizeof(now), &now) == 0 &&
	           CPU_EQUAL(&now, processors),
	   "and so are we");
}

static void test_attach(bool forks)
{
	const char *word = getenv("LH_TEST_ATTACH");
	unsigned n = word ? (unsigned)atoi(word) : 20, good = 0, same = 0, seen = 0;
	int output;
	pid_t child = start_busy(forks, &output);
	uint32_t before = text_sum(child);
	uint64_t hits, stopped, most = 0;
	int policy = sched_getscheduler(0);
	cpu_set_t processors;

	sched_getaffinity(0, sizeof(processors), &processors);
	for (unsigned i = 0; i < n; i++) {
		good += attach_once(child, 20, &hits, &stopped);
		same += text_sum(child) == before;
		seen += hits > 0;
		most = stopped > most ? stopped : most;
	}
	printf("# stopped for at most %lu us\n", (unsigned long)(most / 1000));
	is(good, n, "attached to and let go of %u times%s", n, forks ? ", after a fork" : "");
	is(same, n, "its text is the same each time");
	is(seen, n, "each time something was seen");
	test_traces(child, policy, &processors);
	end_busy(child, output, "a busy program");
}

/* ---- launching ---- */

static int launch(const struct lh_session_options *options, char *const *argv, int *status)
{
	struct lh_session *session;
	struct lh_error error = { 0 };
	bool verified = false;
	int result = lh__session_launch(options, argv, &session, &error);

	if (result == 0) {
		result = lh__session_wait(session, -1, status, &error);
		if (lh__session_end(session, &verified, &error) < 0 || !verified)
			result = -EIO;
	}
	if (result < 0)
		printf("# %s\n", error.text);
	return result;
}

static void test_launch(void)
{
	char *const killed[] = { (char *)"sh", (char *)"-c", (char *)"kill -9 $$", NULL };
	char *const chain[] = { (char *)"sh", (char *)"-c", (char *)"exec sh -c 'exec sh -c \"exit 9\"'",
		                NULL };
	char *const none[] = { (char *)"/nowhere/at/all", NULL }, *const folder[] = { (char *)"/tmp", NULL };
	struct lh_record *record = new_record();
	struct lh_session_options options = options_for(record);
	int status = 0;

	is(launch(&options, killed, &status), 1, "a program that is killed ends");
	ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "by SIGKILL");
	ok(count_hits(record) > 100, "what was seen before is kept");
	is(launch(&options, chain, &status), 1, "programs that execute each other");
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 9, "end as the last of them");
	is(lh__record_control(record)->processes, 4, "each of them was watched");
	is(launch(&options, none, &status), -ENOENT, "a program that is not there");
	is(launch(&options, folder, &status), -EACCES, "one that cannot be executed");
	lh__record_close(record);
}

/* ---- a child that is there when its parent is let go ---- */

static void test_children(void)
{
	char *const argv[] = { busy, (char *)"fork", NULL };
	struct lh_record *record = new_record();
	struct lh_session_options options = options_for(record);
	struct lh_session *session;
	struct lh_error error = { 0 };
	bool verified = false;
	int status = 0;
	pid_t child;

	is(lh__session_launch(&options, argv, &session, &error), 0, "a program that forks is launched");
	child = lh__session_process(session);
	is(lh__session_wait(session, 200, &status, &error), 0, "it runs");
	is(lh__record_control(record)->processes, 2, "both processes are watched");
	is(lh__session_end(session, &verified, &error), 0, "both are let go of");
	ok(verified, "their text is as it was");
	kill(child, SIGTERM);
	waitpid(child, &status, 0);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 7, "and go on by themselves");
	lh__record_close(record);
}

/* ---- windows ---- */

static void test_windows(void)
{
	struct lh_record *record = new_record(), *seen = new_record();
	struct lh_session_options options = options_for(record);
	struct lh_session *session;
	struct lh_error error = { 0 };
	int output, status = 0;
	pid_t child = start_busy(false, &output);
	bool verified = false;
	uint64_t least = UINT64_MAX;

	is(lh__session_attach(&options, child, &session, &error), 0, "attached for windows");
	for (unsigned i = 0; i < 20; i++) {
		int result = lh__session_wait(session, 30, &status, &error);

		if (result == 0)
			result = lh__session_take(session, seen, &error);
		if (result < 0)
			ok(0, "window %u: %s", i, error.text);
		else if (count_hits(seen) < least)
			least = count_hits(seen);
	}
	ok(least > 20, "the loop is seen anew in each of 20 windows");
	printf("# at least %lu spans\n", (unsigned long)least);
	is(lh__session_end(session, &verified, &error), 0, "let go of");
	ok(verified, "its text is as it was");
	end_busy(child, output, "a program in windows");
	lh__record_close(record);
	lh__record_close(seen);
}

/* ---- a watcher that is killed ---- */

static void watch_forever(pid_t process, int ready)
{
	struct lh_record *record = new_record();
	struct lh_session_options options = options_for(record);
	struct lh_session *session;
	struct lh_error error = { 0 };
	int status, result = lh__session_attach(&options, process, &session, &error);

	if (write(ready, &result, sizeof(result)) != sizeof(result))
		_exit(1);
	for (;;)
		if (lh__session_wait(session, -1, &status, &error) != 0)
			_exit(1);
}

static void test_watcher_killed(void)
{
	struct lh_record *record = new_record();
	struct lh_session_options options = options_for(record);
	struct lh_session *session;
	struct lh_error error = { 0 };
	int output, ready[2], result = -1;
	uint64_t hits = 0, stopped;
	pid_t child = start_busy(false, &output), watcher;
	uint32_t before = text_sum(child);

	if (pipe(ready) < 0)
		return;
	fflush(stdout);
	watcher = fork();
	if (watcher == 0)
		watch_forever(child, ready[1]);
	if (read(ready[0], &result, sizeof(result)) != sizeof(result))
		result = -1;
	is(result, 0, "a watcher attaches");
	is(lh__session_attach(&options, child, &session, &error), -EBUSY, "a second one is refused");
	kill(watcher, SIGKILL);
	waitpid(watcher, NULL, 0);
	nap(50);
	is(kill(child, 0), 0, "the watcher is killed, the program goes on");
	ok(attach_once(child, 20, &hits, &stopped) && hits > 0, "it can be attached to again");
	ok(text_sum(child) == before, "and is then as it was before both");
	end_busy(child, output, "a program whose watcher was killed");
	close(ready[0]);
	close(ready[1]);
	lh__record_close(record);
}

/* ---- what cannot be attached to ---- */

static int attach_error(pid_t process, struct lh_error *error)
{
	struct lh_record *record = new_record();
	struct lh_session_options options = options_for(record);
	struct lh_session *session;
	bool verified;
	int result = lh__session_attach(&options, process, &session, error);

	if (result == 0)
		(void)!lh__session_end(session, &verified, error);
	printf("# %s\n", error->text);
	lh__record_close(record);
	return result;
}

/* A program of 32 bits: it pauses. */
static pid_t start_small(char *path)
{
	static const unsigned char file[] = { 0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0,
		                              3, 0, 1, 0, 0, 0, 0x54, 0x80, 4, 8, 0x34, 0, 0, 0, 0, 0, 0, 0,
		                              0, 0, 0, 0, 0x34, 0, 0x20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
		                              0, 0, 0, 0, 0, 0, 0x80, 4, 8, 0, 0x80, 4, 8, 0x5d, 0, 0, 0,
		                              0x5d, 0, 0, 0, 5, 0, 0, 0, 0, 0x10, 0, 0,
		                              /* mov $29, %eax; int $0x80; jmp */
		                              0xb8, 0x1d, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7 };
	int fd = mkstemp(path);
	pid_t child;

	if (fd < 0 || write(fd, file, sizeof(file)) != (ssize_t)sizeof(file))
		return -1;
	fchmod(fd, 0700);
	close(fd);
	child = fork();
	if (child == 0) {
		execl(path, path, NULL);
		_exit(127);
	}
	nap(50);
	return child;
}

static void test_small(void)
{
	char path[] = "/tmp/linehome-small-XXXXXX";
	struct lh_error error = { 0 };
	int status;
	pid_t child = start_small(path);

	if (child < 0 || waitpid(child, &status, WNOHANG) != 0) {
		skip("a 32-bit process", "this kernel runs none");
	} else {
		is(attach_error(child, &error), -ENOEXEC, "a 32-bit process is refused");
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	unlink(path);
}

static void test_refused(void)
{
	struct lh_error error = { 0 };
	int output, status;
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	nap(20);
	is(attach_error(child, &error), -ESRCH, "a zombie is refused");
	waitpid(child, NULL, 0);
	is(attach_error(child, &error), -ESRCH, "a process that is not there");
	child = start_busy(false, &output);
	fflush(stdout);
	if (fork() == 0) {
		/* Traced by somebody else, who lets go by ending. */
		if (ptrace(PTRACE_SEIZE, child, NULL, NULL) < 0)
			_exit(1);
		nap(500);
		_exit(0);
	}
	nap(100);
	is(attach_error(child, &error), -EBUSY, "a process that is traced");
	wait(&status);
	if (geteuid() != 0) {
		skip("a process of somebody else", "only root has others");
	} else {
		fflush(stdout);
		if (fork() == 0) {
			if (setgid(65534) < 0 || setuid(65534) < 0)
				_exit(1);
			status = attach_error(child, &error) == -EPERM ? 0 : 2;
			fflush(stdout);
			_exit(status);
		}
		wait(&status);
		is(status, 0, "a process of somebody else");
	}
	end_busy(child, output, "a program that could not be attached to");
}

int main(int argc, char **argv)
{
	const char *build = getenv("LINEHOME_BUILD");

	/* Programs are not sanitized: their folder is the plain one's. */
	snprintf(busy, sizeof(busy), "%s/tests/programs/busy", build ? build : "build");
	if (access(busy, X_OK) < 0)
		snprintf(busy, sizeof(busy), "%s/../tests/programs/busy", build);
	(void)argc;
	(void)argv;
	test_attach(false);
	test_attach(true);
	test_launch();
	test_children();
	test_windows();
	test_watcher_killed();
	test_small();
	test_refused();
	return done();
}
