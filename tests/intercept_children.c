/* Children, execs, libraries, filters under the interceptor. */
/* timeout: 120 */
#include "intercept.h"

int main(int argc, char **argv)
{
	static const char *const cases[] = {
		"fork",      "fork-with-threads", "vfork",       "spawn",   "libc",      "daemon",
		"exec-mask", "exec-fails",        "exec-thread", "library", "generated", "int80",
		"time",      "filtered",          "strict",      NULL
	};
	static const char *const ways[] = { "hostile", "net", "none", NULL };

	find_folder(argv[0]);
	compare_cases("programs/seen_children", cases, ways);
	return done();
}
