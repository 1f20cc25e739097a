/* A call that is seen changes no register that a plain one leaves alone, whatever the hook does to them. */
/* timeout: 120 */
#include "intercept.h"

static void planted(void)
{
	static struct result plain, seen;
	char path[PATH_MAX + 100];
	char *words[] = { plain_path(path, "programs/seen_registers"), "registers", NULL };

	run(NULL, words, &plain);
	run("torn", words, &seen);
	ok(!same(&plain, &seen), "one bit of one register that changes is noticed");
}

int main(int argc, char **argv)
{
	static const char *const cases[] = { "registers", "under-signals", "moved", "jumps", NULL };
	static const char *const ways[] = { "",         "hostile",    "net,hostile", "none",
		                            "none,net", "none,count", NULL };

	find_folder(argv[0]);
	compare_cases("programs/seen_registers", cases, ways);
	planted();
	return done();
}
