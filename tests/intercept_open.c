/*
 * While the interceptor takes over a program, its first, second, ... call that can fail does. The program
 * must run as it does alone: unseen, seen by the net, or with the libraries that could be rewritten.
 */
/* timeout: 120 */
#include "intercept.h"

int main(int argc, char **argv)
{
	static struct result plain, seen;
	char words[32], path[PATH_MAX + 100];
	char *program[] = { plain_path(path, "programs/seen_signals"), "nesting", NULL };
	int failed = 0, runs = 0;

	find_folder(argv[0]);
	plain_path(path, "programs/seen_signals");
	run(NULL, program, &plain);
	/* Some hundred sites are written one by one: after the first failures every seventh will do. */
	for (int n = 1; n < 700; n += n < 60 ? 1 : 7, runs++) {
		snprintf(words, sizeof words, "fail=%d", n);
		run(words, program, &seen);
		if (same(&plain, &seen))
			continue;
		failed++;
		show(words, &seen);
	}
	ok(plain.status == 0 && plain.size > 0, "the program runs");
	is(failed, 0, "%d failures while opening, and the program noticed none", runs);
	return done();
}
