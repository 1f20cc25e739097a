/* Signals under the interceptor: the program sees what it set, and loses nothing. */
/* timeout: 240 */
#include "intercept.h"

int main(int argc, char **argv)
{
	static const char *const cases[] = { "basics", "special",       "faults",      "overflow",
		                             "deaths", "nesting",       "stacks",      "jumps",
		                             "storm",  "storm-threads", "interrupted", "masks",
		                             "absent", "uncaught",      "contexts",    NULL };
	static const char *const ways[] = { "hostile", "net", "none", NULL };

	find_folder(argv[0]);
	compare_cases("programs/seen_signals", cases, ways);
	return done();
}
