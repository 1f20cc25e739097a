/* Threads whose every system call is seen behave as they do alone. */
/* timeout: 120 */
#include "intercept.h"

int main(int argc, char **argv)
{
	static const char *const cases[] = { "join",   "many",      "detached", "main-exits",
		                             "cancel", "raw-clone", NULL };
	static const char *const ways[] = { "hostile", "net", "none", NULL };

	find_folder(argv[0]);
	compare_cases("programs/seen_threads", cases, ways);
	return done();
}
