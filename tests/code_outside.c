/* timeout: 120 */
/* The outside engine: programs that are traced do what they do without, and what ran is known. */
#include "service/code/session.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
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
static int run(char *const *argv, enum lh_session_choice engine, bool libraries, enum lh_granularity granularity,
               struct lh_record **record)
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

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		runs_well(argv[i], false, LH_GRANULARITY_BLOCK);
	return done();
}
