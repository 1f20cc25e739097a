/*
 * fuzz.c - opens and closes what runs a program again and again (include/linehome.h, lh_cover_*).
 *
 * It is a session that records from one function on, whose agent does not go on there: it becomes a fork
 * server (port/code/inside/server.c). The record is shared by all children. What one of them has recorded
 * is supplied in the server, from which all later ones have it.
 */
#include "service/code/fuzz_inside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 1000u
#define OPEN_TIMES 10u /* what it may take to come to `at`, in runs; and at least: */
#define OPEN_MS 10000u

static void note_said(void *context, const char *text)
{
	struct lh_cover *cover = context;

	snprintf(cover->said, sizeof(cover->said), "%s", text);
	if (cover->say)
		cover->say(cover->context, text);
}

static void close_all(struct lh_cover *cover)
{
	const int descriptor[] = { cover->input, cover->standard, cover->nothing, cover->socket,
		                   cover->theirs };

	for (size_t i = 0; i < sizeof(descriptor) / sizeof(*descriptor); i++)
		if (descriptor[i] >= 0)
			close(descriptor[i]);
	if (cover->record)
		lh__record_close(cover->record);
	free(cover);
}

static void end_server(struct lh_cover *cover)
{
	struct lh_error error;
	int result;

	kill(lh__session_process(cover->session), SIGKILL);
	do
		result = lh__session_wait(cover->session, -1, &cover->status, &error);
	while (result == 0 || result == 2);
}

void lh_cover_close(struct lh_cover *cover)
{
	struct lh_error error;
	bool verified;

	if (!cover)
		return;
	cover->say = NULL;
	if (cover->session) {
		if (!cover->ended)
			end_server(cover);
		(void)!lh__session_end(cover->session, &verified, &error);
	}
	lh__fuzz_forget(cover);
	lh__fuzz_forget_names(cover);
	close_all(cover);
}

/* ---- opening ---- */

static int check_options(const struct lh_cover_options *options, struct lh_error *error)
{
	if (!options->argv || !options->argv[0])
		return lh__fail(error, -EINVAL, "no program is given");
	if (options->timeout_ms > LH_COVER_TIMEOUT_MAX)
		return lh__fail(error, -EINVAL, "a run's time is at most %u ms", LH_COVER_TIMEOUT_MAX);
	if (options->at && !options->at[0])
		return lh__fail(error, -EINVAL, "the function at which runs begin has no name");
	return 0;
}

/* The input is opened twice, so that runs move an offset that is not the caller's. */
static int open_files(struct lh_cover *cover)
{
	int pair[2];
	char path[64];

	cover->input = memfd_create("linehome-input", MFD_CLOEXEC);
	cover->nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (cover->input < 0 || cover->nothing < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", cover->input);
	cover->standard = open(path, O_RDONLY | O_CLOEXEC);
	if (cover->standard < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	cover->socket = pair[0];
	cover->theirs = pair[1];
	return 0;
}

static int launch(struct lh_cover *cover, const struct lh_cover_options *options, struct lh_error *error)
{
	const int standard[3] = { cover->standard, options->output ? STDOUT_FILENO : cover->nothing,
		                  options->output ? STDERR_FILENO : cover->nothing };
	const struct lh_session_options session = { .engine = LH_ENGINE_INSIDE,
		                                    .libraries = options->libraries,
		                                    .from = options->at,
		                                    .record = cover->record,
		                                    .standard = standard,
		                                    .server = &cover->theirs,
		                                    .say = note_said,
		                                    .context = cover };

	int result = lh__session_launch(&session, options->argv, &cover->session, error);

	if (result == 0)
		cover->session->options.standard = NULL;
	return result;
}

/* It has ended instead of coming to where runs begin. */
static int fail_ended(const struct lh_cover *cover, const struct lh_cover_options *options,
                      struct lh_error *error)
{
	const char *at = options->at ? options->at : "where it begins", *said = cover->said;
	char how[64];

	if (options->at && !cover->session->found_from)
		return lh__fail(error, -ENOENT, "%s: there is no function %s in what is watched%s%s",
		                cover->program, at, *said ? ": " : "", said);
	if (WIFSIGNALED(cover->status))
		snprintf(how, sizeof(how), "signal %d (%s)", WTERMSIG(cover->status),
		         strsignal(WTERMSIG(cover->status)));
	else
		snprintf(how, sizeof(how), "status %d", WEXITSTATUS(cover->status));
	return lh__fail(error, -ECHILD, "%s: it ended before it came to %s, with %s%s%s", cover->program, at,
	                how, *said ? ": " : "", said);
}

static int await_server(struct lh_cover *cover, const struct lh_cover_options *options,
                        struct lh_error *error)
{
	unsigned milliseconds = cover->timeout_ms * OPEN_TIMES;
	struct lh_serve_status status;
	int result = lh__fuzz_await(cover, milliseconds < OPEN_MS ? OPEN_MS : milliseconds, &status, error);

	if (result == -ECHILD && cover->ended)
		return fail_ended(cover, options, error);
	if (result == -ETIMEDOUT)
		return lh__fail(error, result, "%s: it did not come to %s in time", cover->program,
		                options->at ? options->at : "where it begins");
	return result;
}

/* A fork takes one thread along. */
static int check_threads(const struct lh_cover *cover, const char *at, struct lh_error *error)
{
	unsigned threads = 0;
	struct dirent *entry;
	char path[64];
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/task", lh__session_process(cover->session));
	folder = opendir(path);
	if (!folder)
		return lh__fail(error, -errno, "%s: its threads cannot be counted: %s", cover->program,
		                strerror(errno));
	while ((entry = readdir(folder)))
		threads += entry->d_name[0] != '.';
	closedir(folder);
	if (threads == 1)
		return 0;
	return lh__fail(error, -EBUSY,
	                "%s: it has %u threads when it comes to %s; choose a function that comes before they "
	                "begin",
	                cover->program, threads, at ? at : "where it begins");
}

/* The marker stood on the first instruction; the rest of its block is no block of its own. */
static int begin_block(struct lh_cover *cover)
{
	for (const struct lh_fuzz_file *file = cover->files; file; file = file->next)
		for (unsigned i = 0; i < file->file->plan.head->texts; i++) {
			uint32_t at = file->file->from[i];
			uint64_t *word = at == LH_NO_MARKER ? NULL : &file->file->view.hits[i][at / 64];
			uint64_t bit = UINT64_C(1) << at % 64, address = file->start[i] + at;

			if (!word || !(__atomic_load_n(word, __ATOMIC_RELAXED) & bit))
				continue;
			cover->at_word = word;
			cover->at_bit = bit;
			return lh__fuzz_supply(cover, &address, 1);
		}
	return -ENOENT;
}

static int open_cover(struct lh_cover *cover, const struct lh_cover_options *options, struct lh_error *error)
{
	int result = open_files(cover);

	if (result < 0)
		return lh__fail(error, result, "no files for runs: %s", strerror(-result));
	result = lh__record_create(NULL, LH_GRANULARITY_BLOCK, options->argv, &cover->record, error);
	if (result == 0)
		result = launch(cover, options, error);
	if (result == 0)
		result = await_server(cover, options, error);
	if (result == 0)
		result = check_threads(cover, options->at, error);
	if (result < 0)
		return result;
	close(cover->theirs);
	cover->theirs = -1;
	result = lh__fuzz_places(cover);
	if (result == 0)
		result = begin_block(cover);
	return result < 0 ? lh__fail(error, result, "%s: its code cannot be looked at: %s", cover->program,
	                             strerror(-result))
	                  : 0;
}

int lh_cover_open(const struct lh_cover_options *options, struct lh_cover **out, struct lh_error *error)
{
	struct lh_cover *cover;
	int result = check_options(options, error);

	if (result < 0)
		return result;
	cover = calloc(1, sizeof(*cover));
	if (!cover)
		return lh__fail(error, -ENOMEM, "no memory");
	cover->input = cover->standard = cover->nothing = cover->socket = cover->theirs = -1;
	cover->timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS;
	cover->each = options->each;
	cover->say = options->say;
	cover->context = options->context;
	cover->program = options->argv[0];
	result = open_cover(cover, options, error);
	if (result < 0) {
		lh_cover_close(cover);
		return result;
	}
	*out = cover;
	return 0;
}
