/*
 * attach.c - for how long a process is stopped when linehome cover comes to it, and when it goes. PROCESS
 * ROUNDS: median and worst of both, in ms, with its program watched, and with its libraries watched, too.
 * attach.sh runs it on a server under load.
 */
#include <stdio.h>
#include <stdlib.h>

#include "service/code/session.h"

#define ROUNDS_MOST 1000
#define BETWEEN_MS 50

static void say(void *context, const char *text)
{
	(void)context;
	printf("# %s\n", text);
}

/* One round: how long the stops took, in ms. */
static int come_and_go(pid_t process, bool libraries, double *come, double *go)
{
	char *const command[] = { NULL };
	uint64_t let_go = 0;
	struct lh_session_options options = {
		.engine = LH_ENGINE_INSIDE, .libraries = libraries, .say = say, .let_go_ns = &let_go
	};
	struct lh_error error = { 0 };
	struct lh_session *session;
	bool verified = false;
	int status, result = lh__record_create(NULL, LH_GRANULARITY_BLOCK, command, &options.record, &error);

	if (result == 0)
		result = lh__session_attach(&options, process, &session, &error);
	if (result == 0) {
		*come = (double)lh__session_stopped_for(session) / 1e6;
		result = lh__session_wait(session, BETWEEN_MS, &status, &error);
		if (lh__session_end(session, &verified, &error) < 0 || !verified)
			result = -1;
		*go = (double)let_go / 1e6;
	}
	if (options.record)
		lh__record_close(options.record);
	if (result != 0)
		printf("process %d: %s\n", process, error.text[0] ? error.text : "its code is not as it was");
	return result;
}

static int compare(const void *a, const void *b)
{
	return *(const double *)a < *(const double *)b ? -1 : 1;
}

static void show(const char *what, const char *of, double *sample, int n)
{
	qsort(sample, (size_t)n, sizeof(*sample), compare);
	printf("%-8s %-24s %4d rounds  median %7.2f ms  worst %7.2f ms\n", what, of, n, sample[n / 2],
	       sample[n - 1]);
}

static int measure(pid_t process, int rounds, bool libraries)
{
	static double come[ROUNDS_MOST], go[ROUNDS_MOST];
	const char *of = libraries ? "program and libraries" : "program";

	for (int i = 0; i < rounds; i++)
		if (come_and_go(process, libraries, &come[i], &go[i]) != 0)
			return 1;
	show("attach", of, come, rounds);
	show("let go", of, go, rounds);
	return 0;
}

int main(int argc, char **argv)
{
	pid_t process = argc > 1 ? atoi(argv[1]) : 0;
	int rounds = argc > 2 ? atoi(argv[2]) : 50;

	if (process <= 0) {
		puts("a process is to be given; bench/attach.sh has one under load");
		return 0;
	}
	rounds = rounds < 1 ? 1 : rounds > ROUNDS_MOST ? ROUNDS_MOST : rounds;
	return measure(process, rounds, false) || measure(process, rounds, true);
}
