/*
 * record_run.c - runs a program under watch and leaves a record; ends with its status.
 *
 *     record_run RECORD block|line inside|outside PROGRAM [ARGUMENT...]
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "service/code/session.h"

static void say(void *context, const char *text)
{
	fprintf(stderr, "record_run: %s\n", text);
}

static int fail(const struct lh_error *error)
{
	fprintf(stderr, "record_run: %s\n", error->text);
	return 125;
}

int main(int argc, char **argv)
{
	struct lh_session_options options = { .say = say };
	struct lh_session *session;
	struct lh_error error = { 0 };
	struct lh_record *record;
	int status = 0, told;
	bool verified;

	if (argc < 5)
		return 125;
	if (lh__record_create(argv[1], strcmp(argv[2], "line") ? LH_GRANULARITY_BLOCK : LH_GRANULARITY_LINE,
	                      argv + 4, &record, &error) < 0)
		return fail(&error);
	options.record = record;
	options.engine = strcmp(argv[3], "outside") ? LH_ENGINE_INSIDE : LH_ENGINE_OUTSIDE;
	if (lh__session_launch(&options, argv + 4, &session, &error) < 0)
		return fail(&error);
	do
		told = lh__session_wait(session, -1, &status, &error);
	while (!told);
	if (lh__session_end(session, &verified, told < 0 ? NULL : &error) < 0 || told < 0)
		return fail(&error);
	lh__record_close(record);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
